"""What a long life costs: references, memory, descriptors, system calls.

Each check is a script in a process of its own, so that nothing else is counted.
"""

from __future__ import annotations

import os
import platform
import sys

import pytest
from agent_kit import LOOPS, script

PRELUDE = """
import asyncio, gc, os, sys, time
import loopguard
from agent_kit import request, run, scope, segment, settled, websocket
from loopguard import _agent, control

class Failure(Exception):
    pass

async def receive():
    return {"type": "http.request"}

async def send(message):
    return None

async def child():
    await asyncio.sleep(0)

async def app(scope, receive, send):
    what = scope["path"]
    if what == "/raises":
        raise Failure
    if what == "/child":
        await asyncio.create_task(child())
    if what == "/waits":
        await asyncio.sleep(30)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})

measured = None

async def one(what):
    scope = {"type": "http", "method": "GET", "path": what, "headers": []}
    if what == "/waits":
        task = asyncio.ensure_future(measured(scope, receive, send))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        return
    if what == "/dropped":
        coro = measured(dict(scope, path="/waits"), receive, send)
        coro.send(None)
        coro.close()
        return
    if what == "/never":
        coro = measured(scope, receive, send)
        coro.close()
        return
    try:
        await measured(scope, receive, send)
    except Failure:
        pass

def rss_kib():
    gc.collect()
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0])

def counts():
    coro = measured({"type": "http", "headers": [], "path": "/"}, receive, send)
    types = [type(measured), type(coro), type(app)]
    coro.close()
    del coro
    gc.collect()
    return {
        "None": sys.getrefcount(None),
        "types": [sys.getrefcount(t) for t in types],
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
"""


@pytest.mark.parametrize("kind", LOOPS)
def test_requests_of_all_kinds_leave_nothing_behind(kind: str) -> None:
    script(
        PRELUDE
        + f"""
async def many(n):
    for what in ("/", "/raises", "/child", "/waits", "/dropped", "/never"):
        for _ in range(n if what == "/" else n // 20):
            await one(what)
        await asyncio.sleep(0.001)              # the loop drops cancelled timers
        await asyncio.sleep(0.001)

async def main():
    global measured
    measured = control.measured(app)
    await many(160_000)                         # as much memory as this ever takes
    before, memory = counts(), rss_kib()
    await many(160_000)
    after, grown = counts(), rss_kib() - memory
    for name in ("descriptors",):
        assert after[name] == before[name], (name, before, after)
    for a, b in zip(after["types"], before["types"]):
        assert abs(a - b) < 20, (before, after)
    assert abs(after["objects"] - before["objects"]) < 200, (before, after)
    assert sys.version_info >= (3, 12) or abs(after["None"] - before["None"]) < 500, (before, after)
    assert grown < 1024, f"{{grown}} KiB"
    loop = segment().loops[0]
    assert loop.open_requests == 0
    assert sum(e.in_flight for e in segment().endpoints) == 0
    assert sum(e.requests for e in segment().endpoints) > 360_000

control.start(loopguard.LoopGuardConfig())
run({kind!r}, main())
loopguard.stop()
""",
    )


def test_starts_and_stops_leave_nothing_behind() -> None:
    script(
        PRELUDE
        + """
def cycle():
    global measured
    control.start(loopguard.LoopGuardConfig())
    measured = control.measured(app)
    async def main():
        for what in ("/", "/raises", "/child", "/waits"):
            await one(what)
        time.sleep(0.012)
    run("asyncio", main())
    loopguard.stop()

for _ in range(10):
    cycle()
descriptors, memory = len(os.listdir("/proc/self/fd")), rss_kib()
for _ in range(100):
    cycle()
assert len(os.listdir("/proc/self/fd")) == descriptors
grown = rss_kib() - memory
assert grown < 1024, f"{grown} KiB"
""",
    )


def test_loops_and_their_tasks_are_not_kept_alive() -> None:
    script(
        PRELUDE
        + """
import weakref

class Witness:
    pass

async def main():
    witness = Witness()
    async def holds(scope, receive, send):
        witness
        await asyncio.create_task(child())
    await request(control.measured(holds))
    task = asyncio.current_task()
    return [weakref.ref(o) for o in (witness, task, asyncio.get_running_loop())]

control.start(loopguard.LoopGuardConfig())
references = [r for _ in range(5) for r in asyncio.run(main())]
gc.collect()
alive = [r() for r in references if r() is not None]
assert not alive, alive
loopguard.stop()
""",
    )


def test_routes_and_applications_are_let_go_by_stop() -> None:
    script(
        PRELUDE
        + """
import weakref
from fastapi import FastAPI

def cycle():
    app = FastAPI()
    @app.get("/x/{y}")
    async def handler(y): return y
    loopguard.install(app)
    asyncio.run(request(app, "/x/1"))
    loopguard.stop()
    return weakref.ref(app), weakref.ref(app.routes[-1])

references = [r for _ in range(3) for r in cycle()]
gc.collect()
alive = [r() for r in references if r() is not None]
assert not alive, alive
""",
    )


@pytest.mark.parametrize("kind", LOOPS)
def test_development_mode_of_python_has_nothing_to_say(kind: str) -> None:
    done = script(
        PRELUDE
        + f"""
async def main():
    global measured
    measured = control.measured(app)
    for what in ("/", "/raises", "/child", "/waits", "/dropped") * 20:
        await one(what)
    await websocket(measured, "/", [])
    time.sleep(0.06)

for _ in range(3):
    control.start(loopguard.LoopGuardConfig())
    run({kind!r}, main())
    loopguard.stop()
""",
        options=("-X", "dev", "-W", "error"),
        # uvloop's own C code is not clean in the debug mode of a loop; the block is
        # not the news here
        env={"PYTHONASYNCIODEBUG": "0", "LOOPGUARD_LOG_BLOCKING_EVENTS": "0"},
    )
    assert done.stderr == ""


def test_debug_mode_of_asyncio_works() -> None:
    script(
        PRELUDE
        + """
async def main():
    global measured
    measured = control.measured(app)
    assert asyncio.get_running_loop().get_debug()
    for what in ("/", "/raises", "/child", "/waits", "/dropped") * 20:
        await one(what)
    assert segment().endpoint("GET (unknown)").requests > 50

control.start(loopguard.LoopGuardConfig())
asyncio.run(main())
""",
        env={"PYTHONASYNCIODEBUG": "1"},
    )


# The thread that calls one of these gets SIGSYS: where it was is told, and the
# process ends.
SECCOMP = """
import ctypes, faulthandler, platform, signal, struct, sys

X86 = {
    "open": 2, "stat": 4, "lstat": 6, "access": 21, "getdents": 78, "readlink": 89,
    "creat": 85, "unlink": 87, "openat": 257, "newfstatat": 262, "unlinkat": 263,
    "readlinkat": 267, "faccessat": 269, "statx": 332, "openat2": 437, "faccessat2": 439,
    "getdents64": 217, "memfd_create": 319,
}
ARM = {
    "openat": 56, "newfstatat": 79, "fstat": 80, "readlinkat": 78, "faccessat": 48,
    "unlinkat": 35, "getdents64": 61, "statx": 291, "openat2": 437, "faccessat2": 439,
    "memfd_create": 279,
}

def forbid():
    numbers = list({"x86_64": X86, "aarch64": ARM}[platform.machine()].values())
    def statement(code, jt, jf, k): return struct.pack("<HBBI", code, jt, jf, k)
    program = statement(0x20, 0, 0, 0)
    for i, number in enumerate(numbers):
        program += statement(0x15, len(numbers) - i, 0, number)
    program += statement(0x06, 0, 0, 0x7FFF0000) + statement(0x06, 0, 0, 0x00030000)
    class Filter(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    buffer = ctypes.create_string_buffer(program, len(program))
    made = Filter(len(program) // 8, ctypes.addressof(buffer))
    faulthandler.register(signal.SIGSYS, file=sys.stderr, chain=True)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    return libc.prctl(22, 2, ctypes.byref(made), 0, 0) == 0
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="numbers not known")
@pytest.mark.parametrize("kind", LOOPS)
def test_no_file_is_opened_or_looked_at_within_a_request(kind: str) -> None:
    """A filter kills the loop's thread at the first such system call.

    It stands on that thread alone: the watchdog reads /proc as it likes. Blocks,
    children, exceptions and new endpoints are part of it. Not here: a slow read
    or write of the application's own, whose descriptor is looked at once to tell
    a disk from a socket; and the log, which looks for its caller's file.
    """
    done = script(
        PRELUDE
        + SECCOMP
        + f"""
# not FastAPI, which looks for its handlers' source files by itself
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

async def main():
    global measured
    measured = control.measured(app)
    async def handler(_): return PlainTextResponse("ok")
    routes = [Route(f"/x{{i}}/{{{{y}}}}", handler) for i in range(50)]
    api = loopguard.install(Starlette(routes=[Mount("/m/{{a}}", routes=routes)]))
    kinds = ("/", "/raises", "/child", "/waits", "/dropped")
    for what in kinds:
        await one(what)
    await request(api, "/none")
    if not forbid():
        print("no seccomp")
        return
    for what in kinds * 200:
        await one(what)
    for i in range(50):
        await request(api, f"/m/a/x{{i}}/1")
    async def blocks(scope, receive, send):
        time.sleep(0.06)
        raise Failure
    measured_block = control.measured(blocks)
    for _ in range(3):
        try:
            await measured_block(scope("/"), receive, send)
        except Failure:
            pass
    os._exit(42)

control.start(loopguard.LoopGuardConfig(log_blocking_events=False))
run({kind!r}, main())
""",
        check=False,
    )
    if done.stdout == "no seccomp\n":
        pytest.skip("no right to filter system calls here")
    assert done.returncode == 42, done.stderr


def test_filter_of_the_test_above_does_kill() -> None:
    done = script(SECCOMP + "\nforbid() and open('/dev/null')\nprint('alive')\n", check=False)
    if done.returncode == 0 and os.path.exists("/proc/self/status"):
        pytest.skip("no right to filter system calls here")
    assert done.returncode == -31
    assert done.stdout == ""


@pytest.mark.skipif(sys.platform != "linux", reason="counts of /proc")
def test_short_requests_read_and_write_nothing() -> None:
    """The kernel's own count of read and write calls of the loop's thread."""
    script(
        PRELUDE
        + """
import threading

def calls():
    with open(f"/proc/self/task/{threading.get_native_id()}/io") as io:
        fields = dict(line.split(":") for line in io)
    return int(fields["syscr"]) + int(fields["syscw"])

async def main():
    global measured
    measured = control.measured(app)
    for _ in range(100):
        await one("/")
    idle = -calls() + calls()               # what counting costs
    before = calls()
    for _ in range(20_000):
        await one("/")
    # a step that was preempted for a millisecond reads its run delay
    assert calls() - before - idle < 200, calls() - before - idle

control.start(loopguard.LoopGuardConfig())
asyncio.run(main())
""",
    )
