"""The agent comes, goes, comes again; loops, threads and processes come and go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_kit import (
    LOOPS,
    Worker,
    agent,
    environment,
    request,
    run,
    script,
    segment,
    segments_of,
    settled,
    spin,
    stalls,
    until,
)
from segment_reader import Segment

import loopguard
from loopguard import _agent, control


@pytest.fixture(autouse=True)
def stopped_afterwards() -> Iterator[None]:
    yield
    loopguard.stop()


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def with_child(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.get_running_loop().create_task(asyncio.sleep(0))
    await ok(scope, receive, send)


def threads_of(pid: int) -> list[str]:
    return [Path(p, "comm").read_text().strip() for p in Path(f"/proc/{pid}/task").iterdir()]


# ---- loops ------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOOPS)
def test_many_loops_one_after_the_other_in_one_thread(kind: str) -> None:
    async def main() -> str:
        await request(control.measured(with_child))
        return type(asyncio.get_running_loop().get_task_factory()).__name__

    with agent():
        names = [run(kind, main()) for _ in range(20)]
        seen = settled()
        assert names == ["TaskFactory"] * 20
        assert seen.endpoint("GET (unknown)").requests == 20
        assert seen.life.count("loop added") == 20
        assert seen.counters["loop_overflow"] == 0
        assert len(seen.loops) == 1
        assert seen.loops[0].kind == kind


@pytest.mark.parametrize("kind", LOOPS)
def test_time_between_two_loops_is_nobodys(kind: str) -> None:
    async def main() -> None:
        await request(control.measured(ok))

    with agent():
        for _ in range(3):
            run(kind, main())
            time.sleep(0.12)  # over the threshold, with no loop running
        seen = settled()
        assert seen.stalls == []
        assert seen.loops[0].busy_ms < 50
        until(lambda: segment().loops[0].awake_since_ns == 0, "a loop shown as busy")


@pytest.mark.parametrize("kind", LOOPS)
def test_time_between_two_runs_of_one_loop_is_nobodys(kind: str) -> None:
    async def main() -> None:
        await request(control.measured(ok))

    loop = LOOPS[kind]()
    try:
        with agent():
            for _ in range(3):
                loop.run_until_complete(main())
                time.sleep(0.12)
            seen = settled()
            assert seen.stalls == []
            assert seen.loops[0].max_lag_ms < 50
            assert seen.life.count("loop added") == 1
    finally:
        loop.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_block_after_a_new_start_of_the_loop_is_told(kind: str) -> None:
    async def main(ms: float) -> None:
        asyncio.get_running_loop().call_soon(spin, ms)
        await request(control.measured(ok))
        await asyncio.sleep(0.001)

    with agent():
        run(kind, main(0))
        time.sleep(0.06)
        run(kind, main(70))
        assert [s.endpoint for s in stalls()] == ["callback spin"]


def test_loops_in_three_threads_at_once() -> None:
    async def blocks(scope: Any, receive: Any, send: Any) -> None:
        await barrier_passed()
        time.sleep(0.08)
        await ok(scope, receive, send)

    async def barrier_passed() -> None:
        await asyncio.get_running_loop().run_in_executor(None, barrier.wait)

    def thread(kind: str) -> None:
        for _ in range(2):
            run(kind, main())

    async def main() -> None:
        await request(control.measured(blocks))

    barrier = threading.Barrier(3)
    with agent():
        threads = [
            threading.Thread(target=thread, args=(kind,), name=f"loop-{i}")
            for i, kind in enumerate((list(LOOPS) * 3)[:3])
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        seen = settled()
        assert seen.endpoint("GET (unknown)").requests == 6
        assert len(seen.loops) == 3
        told = [s for s in seen.stalls if s.kind == "step"]
        assert len(told) == 6
        assert {s.loop for s in told} == {0, 1, 2}
        for stall in told:
            assert stall.call == "sleep"
            assert 79 < stall.duration_ms < 140
            assert sum(stall.parts.values()) == pytest.approx(stall.duration_ms, abs=0.001)


def test_twenty_threads_with_a_loop_each_one_after_the_other() -> None:
    def thread() -> None:
        asyncio.run(request(control.measured(with_child)))

    with agent():
        for _ in range(20):
            t = threading.Thread(target=thread)
            t.start()
            t.join()
        seen = settled()
        assert seen.endpoint("GET (unknown)").requests == 20
        assert seen.counters["loop_overflow"] == 0


def test_more_loops_at_once_than_there_are_places_still_answer() -> None:
    def thread() -> None:
        answers.append(asyncio.run(main()))

    async def main() -> Any:
        await asyncio.get_running_loop().run_in_executor(None, started.wait)
        sent = await request(control.measured(with_child))
        await asyncio.get_running_loop().run_in_executor(None, ended.wait)
        return sent

    answers: list[Any] = []
    started, ended = threading.Barrier(12), threading.Barrier(12)
    with agent():
        threads = [threading.Thread(target=thread) for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(answers) == 12
        assert all(a[0]["status"] == 200 for a in answers)
        assert segment().counters["loop_overflow"] >= 4
        assert segment().endpoint("GET (unknown)").requests == 8


def test_thread_whose_loop_ended_does_not_disturb_the_next_threads_loop() -> None:
    """Its slot must not be given away: the thread goes on writing into it."""

    def first() -> None:
        asyncio.run(request(control.measured(ok)))
        ended.set()
        while not over.is_set():
            time.sleep(0.02)  # a hooked call; it belongs to no loop

    def second() -> None:
        asyncio.run(main())

    async def main() -> None:
        await request(control.measured(ok))
        for _ in range(100):
            await asyncio.sleep(0.001)
        await request(control.measured(ok))

    ended, over = threading.Event(), threading.Event()
    with agent():
        one = threading.Thread(target=first)
        one.start()
        ended.wait()
        for _ in range(9):
            other = threading.Thread(target=second)
            other.start()
            other.join()
        over.set()
        one.join()
        seen = settled()
        assert seen.endpoint("GET (unknown)").requests == 19
        assert seen.stalls == []
        assert max(loop.parts["io"] for loop in seen.loops) < 20


# ---- start and stop ---------------------------------------------------------


def test_started_and_stopped_many_times_leaves_nothing() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    paths = []
    for _ in range(10):
        with agent():
            asyncio.run(request(control.measured(with_child)))
            paths.append(loopguard.status()["segment"])
            until(lambda: "loopguard" in threads_of(os.getpid()), "the watchdog")
        assert "loopguard" not in threads_of(os.getpid())
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert segments_of(os.getpid()) == []
    assert all(isinstance(p, str) and not os.path.exists(p) for p in paths)


@pytest.mark.parametrize("kind", LOOPS)
def test_stop_while_requests_run_and_start_again(kind: str) -> None:
    """Requests of before the stop count in no later segment."""

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_task(middle.wait())  # type: ignore[arg-type]
        await ok(scope, receive, send)

    async def main() -> None:
        nonlocal middle
        middle = asyncio.Event()
        control.start(loopguard.LoopGuardConfig())
        app = control.measured(waits)
        old = [asyncio.ensure_future(request(app)) for _ in range(5)]
        await asyncio.sleep(0.001)
        assert segment().loops[0].open_requests == 5
        loopguard.stop()
        assert asyncio.get_running_loop().get_task_factory() is None
        control.start(loopguard.LoopGuardConfig())
        new = [asyncio.ensure_future(request(app)) for _ in range(3)]
        await asyncio.sleep(0.001)
        middle.set()
        for answer in await asyncio.gather(*old, *new):
            assert answer[0]["status"] == 200
        assert segment().loops[0].open_requests == 0
        assert [e.in_flight for e in segment().endpoints] == [0] * len(segment().endpoints)
        assert segment().endpoint("GET (unknown)").requests == 3

    middle: asyncio.Event
    run(kind, main())


def test_stop_within_a_step_and_within_a_block() -> None:
    async def stops(scope: Any, receive: Any, send: Any) -> None:
        time.sleep(0.06)
        loopguard.stop()
        await ok(scope, receive, send)

    async def main() -> Any:
        control.start(loopguard.LoopGuardConfig())
        return await request(control.measured(stops))

    assert asyncio.run(main())[0]["status"] == 200


@pytest.mark.parametrize("kind", LOOPS)
def test_stop_from_another_thread_while_the_loop_polls_and_works(kind: str) -> None:
    """A hundred times, because it is a race: the loop's thread may be anywhere."""

    async def main() -> None:
        app = control.measured(with_child)
        while not over.is_set():
            await request(app)
            await asyncio.sleep(0)

    over = threading.Event()
    before = shared_kib()
    control.start(loopguard.LoopGuardConfig())
    thread = threading.Thread(target=run, args=(kind, main()))
    thread.start()
    try:
        for _ in range(100):
            until(lambda: segments_of(os.getpid()), "the agent awake")
            loopguard.stop()
            control.start(loopguard.LoopGuardConfig())
        until(lambda: loopguard.status()["segment"], "the agent awake")
        until(lambda: segment().counters["requests"] or segment().counters["loop_overflow"])
    finally:
        over.set()
        thread.join()
        loopguard.stop()
    assert segments_of(os.getpid()) == []
    assert shared_kib() < before + 1024


def shared_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return int(line.split()[1])
    raise AssertionError("this kernel does not tell RssShmem")


def test_watch_of_a_loop_in_another_thread_ends_while_that_polls() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for _ in range(12):
            watch = loopguard.watch(loop)
            until(lambda: loopguard.status()["segment"], "the agent awake")
            watch.stop()
            done = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), loop)
            done.result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_new_lifespan_in_the_same_process_is_running_again() -> None:
    """Servers may end by a signal once the shutdown is complete; tests go on."""

    async def lives(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})

    async def main() -> list[str]:
        app = control.measured(lives)
        states = []

        async def send(message: Any) -> None:
            states.append(segment().state)

        for _ in range(2):
            await app({"type": "lifespan"}, None, send)
        return states

    with agent():
        assert asyncio.run(main()) == ["running", "exiting"] * 2


@pytest.mark.parametrize(("keep", "stays"), [("never", False), ("crash", False), ("always", True)])
def test_segment_stays_after_a_clean_end_when_asked(keep: str, stays: bool) -> None:
    done = script(
        """
        import asyncio, sys, loopguard
        from agent_kit import request
        from loopguard import control
        async def app(scope, receive, send): ...
        control.start(loopguard.LoopGuardConfig(keep_segment=sys.argv[1]))
        asyncio.run(request(control.measured(app)))
        print(loopguard.status()["segment"])
        """,
        keep,
    )
    path = done.stdout.strip()
    assert os.path.exists(path) == stays
    if stays:
        kept = Segment(path)
        os.unlink(path)
        assert kept.state == "exited"
        assert kept.endpoint("GET (unknown)").requests == 1
        assert kept.life[-2:] == ["clean exit", "loop closed"]


# ---- fork, spawn, exec ------------------------------------------------------

FORKS = """
import asyncio, json, os, sys, time, loopguard
from agent_kit import request, run, segment, segments_of, settled
from loopguard import control

async def child_task(): time.sleep(0.06)

async def route(scope, receive, send):
    await asyncio.create_task(child_task())
    await send({"type": "http.response.start", "status": 200, "headers": []})

async def forks(scope, receive, send):
    global in_child
    await asyncio.create_task(asyncio.sleep(0))
    asyncio.get_running_loop().call_soon(lambda: None)
    pid = os.fork()
    in_child = pid == 0
    if in_child:
        return
    os.waitpid(pid, 0)
    await send({"type": "http.response.start", "status": 200, "headers": []})

def tell(name, value):
    with open(sys.argv[1], "a") as out:
        out.write(json.dumps([name, value]) + "\\n")
"""


def told(path: Path) -> dict[str, Any]:
    return dict(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("kind", LOOPS)
def test_child_of_a_fork_in_a_running_loop_is_silent(kind: str, tmp_path: Path) -> None:
    if kind == "uvloop":
        pytest.skip("uvloop itself refuses to go on in a forked child")
    script(
        FORKS
        + """
from pathlib import Path
async def main():
    app = control.measured(forks)
    await request(control.measured(route))
    before = segment()
    await request(app)
    if in_child:
        tell("child segments", len(segments_of(os.getpid())))
        tell("child state", loopguard.status()["state"])
        threads = [Path(p, "comm").read_text() for p in Path("/proc/self/task").iterdir()]
        tell("child threads", len(threads))
        descriptors = {int(f) for f in os.listdir("/proc/self/fd") if int(f) < 3}
        tell("standard descriptors", sorted(descriptors))
        os._exit(0)
    after = settled()
    tell("parent requests", sum(e.requests for e in after.endpoints))
    tell("parent in flight", sum(e.in_flight for e in after.endpoints))
    tell("parent state", after.state)

control.start(loopguard.LoopGuardConfig())
run("asyncio", main())
""",
        str(tmp_path / "told"),
    )
    assert told(tmp_path / "told") == {
        "child segments": 0,
        "child state": "armed",
        "child threads": 1,
        "standard descriptors": [0, 1, 2],
        "parent requests": 2,
        "parent in flight": 0,
        "parent state": "running",
    }


@pytest.mark.parametrize("kind", LOOPS)
def test_child_that_runs_a_loop_makes_its_own_segment(kind: str, tmp_path: Path) -> None:
    """Names, routes and task owners of the parent's tables are not used in it."""
    script(
        FORKS
        + f"""
async def padding(scope, receive, send): ...
def other_name():
    async def other(): await asyncio.sleep(0)
    return other()
async def parent():
    for i in range(40):                     # rows that the child has not
        coro = other_name()
        coro.__qualname__ = f"row {{i}}"
        await asyncio.create_task(coro)
    await request(control.measured(route))
async def main():
    await request(control.measured(route))
    await asyncio.sleep(0.001)

control.start(loopguard.LoopGuardConfig())
run({kind!r}, parent())
path = loopguard.status()["segment"]
pid = os.fork()
if pid == 0:
    run({kind!r}, main())
    seen = settled()
    tell("own", segments_of(os.getpid()) == [loopguard.status()["segment"]])
    tell("pid", seen.pid == os.getpid())
    tell("labels", seen.labels())
    tell("stalls", [(s.endpoint, s.call) for s in seen.stalls])
    tell("requests", seen.endpoint("GET (unknown)").requests)
    sys.exit(0)
_, status = os.waitpid(pid, 0)
tell("status", status)
tell("parent's", [os.path.exists(path), segment().endpoint("GET (unknown)").requests])
tell("child's", segments_of(pid))
""",
        str(tmp_path / "told"),
    )
    found = told(tmp_path / "told")
    assert found["status"] == 0
    assert found["own"]
    assert found["pid"]
    assert found["labels"] == ["(other)", "(loop)", "GET (unknown)"]
    assert found["stalls"] == [["GET (unknown)", "sleep"]]
    assert found["requests"] == 1
    assert found["parent's"] == [True, 1]
    assert found["child's"] == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_from_a_handler(method: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import asyncio, loopguard\n"
        "from agent_kit import request\n"
        "from loopguard import control\n"
        "async def app(scope, receive, send): ...\n"
        "def job(queue):\n"
        "    before = loopguard.status()['segment']\n"
        "    control.start(loopguard.LoopGuardConfig())\n"
        "    asyncio.run(request(control.measured(app)))\n"
        "    queue.put((before, loopguard.status()['segment']))\n"
    )
    (tmp_path / "main.py").write_text(
        "import asyncio, multiprocessing, os, sys, loopguard\n"
        "from agent_kit import request\n"
        "from loopguard import control\n"
        "from job import job\n"
        "async def app(scope, receive, send):\n"
        "    context = multiprocessing.get_context(sys.argv[1])\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=job, args=(queue,))\n"
        "    process.start()\n"
        "    before, own = queue.get(timeout=20)\n"
        "    process.join(20)\n"
        "    assert process.exitcode == 0\n"
        "    assert before is None and f'.{process.pid}.' in own, (before, own)\n"
        "    assert not os.path.exists(own)\n"
        "if __name__ == '__main__':\n"
        "    control.start(loopguard.LoopGuardConfig())\n"
        "    asyncio.run(request(control.measured(app)))\n"
        "    assert os.path.exists(loopguard.status()['segment'])\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), method],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_exec_takes_nothing_along() -> None:
    done = script(
        """
        import asyncio, os, sys, loopguard
        from agent_kit import request
        from loopguard import control
        async def app(scope, receive, send):
            print(loopguard.status()["segment"], flush=True)
            code = "import os, sys; print(sorted(os.readlink(f'/proc/self/fd/{f}')" \\
                   " for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')))"
            os.execv(sys.executable, [sys.executable, "-c", code])
        control.start(loopguard.LoopGuardConfig())
        asyncio.run(request(control.measured(app)))
        """
    )
    path, descriptors = done.stdout.splitlines()
    Path(path).unlink()  # nobody told the agent; the next one to start would remove it
    assert "loopguard" not in descriptors


def test_subprocesses_of_a_handler_work() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> Any:
        code = "import os; print(os.listdir('/proc/self/fd'))"
        plain = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return plain.stdout, out.decode()

    async def main() -> Any:
        return await control.measured(app)({"type": "http", "headers": []}, None, None)

    with agent():
        plain, own = asyncio.run(main())
    assert "0" in plain
    assert "0" in own


# ---- ends -------------------------------------------------------------------

ENDS = """
import asyncio, os, signal, sys, threading, time
import loopguard

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/exit":
        sys.exit(3)
    if scope["path"] == "/_exit":
        time.sleep(0.2)
        os._exit(4)
    if scope["path"] == "/stuck":
        threading.Timer(0.15, stop).start()
        time.sleep(60)
    if scope["path"] == "/deaf":
        while True:
            time.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

def stop():
    os.kill(os.getpid(), signal.SIGKILL)

loopguard.install
app = loopguard.install(app)
"""


@pytest.mark.parametrize("kind", LOOPS)
def test_terminated_worker_is_no_crash(kind: str, tmp_path: Path) -> None:
    with Worker(tmp_path, ENDS, loop=kind, env={"LOOPGUARD_KEEP_SEGMENT": "always"}) as worker:
        assert worker.get("/")[1] == b"ok"
        assert worker.segment().state == "running"
        _, errors = worker.end(signal.SIGTERM)
        assert errors == ""
        assert worker.segment().state in ("exiting", "exited")


@pytest.mark.parametrize("kind", LOOPS)
def test_killed_worker_tells_what_ran(kind: str, tmp_path: Path) -> None:
    with Worker(tmp_path, ENDS, loop=kind) as worker:
        worker.get("/")
        with pytest.raises(OSError):  # noqa: PT011  the connection is reset
            worker.get("/stuck")
        worker.process.wait(20)
        seen = worker.segment()
    assert seen.state == "running"
    loop = seen.loops[0]
    assert loop.state == "step"
    assert loop.endpoint in ("(other)", "GET (unknown)")
    assert loop.open_requests == 1
    stall = seen.stalls[-1]
    assert stall.ongoing
    assert stall.call == "sleep"
    assert stall.duration_ms > 90
    assert stall.cause == "io"
    assert stall.request_id == loop.request_id
    assert ("app", "application.py") in [(f[0], Path(f[1]).name) for f in stall.stack]
    assert seen.loops[0].heartbeat_ns > stall.start_ns


def test_os_exit_leaves_the_segment_of_a_running_worker(tmp_path: Path) -> None:
    with Worker(tmp_path, ENDS) as worker:
        with pytest.raises(OSError):  # noqa: PT011
            worker.get("/_exit")
        worker.process.wait(20)
        assert worker.process.returncode == 4
        assert worker.segment().state == "running"
        assert worker.segment().stalls[-1].ongoing


def test_sys_exit_in_a_handler_does_what_it_does_without_us(tmp_path: Path) -> None:
    codes = []
    for env in ({"LOOPGUARD_DISABLE": "1"}, {}):
        folder = tmp_path / str(len(env))
        folder.mkdir()
        with Worker(folder, ENDS, env=env) as worker:
            answer = worker.get("/exit")
            codes.append((answer, worker.get("/"), worker.end()[0]))
    assert codes[0] == codes[1]


def test_exit_of_the_interpreter_while_a_loop_in_a_thread_is_stuck() -> None:
    done = script(
        """
        import asyncio, sys, threading, time, loopguard
        from agent_kit import request, segment, until
        from loopguard import control
        async def app(scope, receive, send):
            while True:
                time.sleep(0.01)
        control.start(loopguard.LoopGuardConfig())
        threading.Thread(
            target=lambda: asyncio.run(request(control.measured(app))), daemon=True
        ).start()
        until(lambda: loopguard.status()["segment"] and segment().stalls)
        print(loopguard.status()["segment"])
        sys.exit(5)
        """,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr == ""
    assert not os.path.exists(done.stdout.strip())


def test_exit_of_the_interpreter_within_a_step() -> None:
    done = script(
        """
        import asyncio, sys, time, loopguard
        from agent_kit import request
        from loopguard import control
        async def app(scope, receive, send):
            await asyncio.create_task(asyncio.sleep(0))
            time.sleep(0.08)
            sys.exit(6)
        control.start(loopguard.LoopGuardConfig())
        asyncio.run(request(control.measured(app)))
        """,
        check=False,
    )
    assert done.returncode == 6, done.stderr


def test_interrupt_from_the_keyboard_within_a_block() -> None:
    """The handler of SIGINT is Python's own, and Ctrl-C reaches the program."""
    done = script(
        """
        import asyncio, os, signal, threading, time, loopguard
        from agent_kit import request
        from loopguard import control
        async def app(scope, receive, send):
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                print("reached the handler")
                raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        control.start(loopguard.LoopGuardConfig())
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(request(control.measured(app)))
        except KeyboardInterrupt:
            print("came out of the loop")
        loop.close()
        """
    )
    assert done.stdout == "reached the handler\ncame out of the loop\n"


# ---- where it cannot be -----------------------------------------------------


def test_second_interpreter_of_the_process_is_refused_politely() -> None:
    done = script(
        """
        import asyncio, sys, loopguard
        from agent_kit import request
        from loopguard import control
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        async def app(scope, receive, send): ...
        control.start(loopguard.LoopGuardConfig())
        code = '''
        try:
            from loopguard import _agent
        except ImportError as error:
            print("refused:", error)
        else:
            print("loaded")
        '''.replace("        ", "")
        kinds = [()] if sys.version_info < (3, 13) else [("legacy",), ("isolated",)]
        for kind in kinds:
            other = interpreters.create(*kind)
            error = interpreters.run_string(other, f"import sys; sys.path[:] = {sys.path}\\n{code}")
            assert error is None, error
            interpreters.destroy(other)
        asyncio.run(request(control.measured(app)))
        assert loopguard.status()["state"] == "running"
        """
    )
    lines = done.stdout.splitlines()
    assert lines
    assert all(line.startswith("refused: ") for line in lines), lines


def test_hooks_can_be_switched_off() -> None:
    async def main() -> None:
        await request(control.measured(with_child))
        await asyncio.sleep(0.1)  # nothing happens: this is no block
        asyncio.get_running_loop().call_soon(spin, 60)
        await asyncio.sleep(0.001)

    with agent(hooks="off"):
        asyncio.run(main())
        seen = settled()
        assert seen.features["hooks"] == (False, "switched off by the option hooks")
        assert seen.features["gil_wait"][0] is False
        assert seen.endpoint("GET (unknown)").requests == 1
        assert [s.endpoint for s in seen.stalls] == ["callback spin"]


@pytest.mark.skipif("uvloop" not in LOOPS, reason="uvloop has no wheel here")
def test_uvloop_without_hooks_has_no_iterations_and_no_false_blocks() -> None:
    async def main() -> None:
        for _ in range(3):
            await request(control.measured(with_child))
            await asyncio.sleep(0.1)  # nothing happens: this is no block

    with agent(hooks="off"):
        run("uvloop", main())
        seen = settled()
        assert seen.features["iterations"] == (False, "needs hooks")
        assert seen.endpoint("GET (unknown)").requests == 3
        assert seen.stalls == []
        assert seen.loops[0].parts["other"] < 50


def test_task_factory_can_be_switched_off() -> None:
    async def main() -> Any:
        await request(control.measured(with_child))
        return asyncio.get_running_loop().get_task_factory()

    with agent(task_factory=False):
        assert asyncio.run(main()) is None
        assert segment().features["task_factory"][0] is False


def test_folder_that_is_no_tmpfs_switches_the_agent_off(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async def main() -> Any:
        return await request(control.measured(with_child))

    folder = Path("/var/tmp") if "tmpfs" in filesystem(tmp_path) else tmp_path
    with agent(segment_dir=str(folder)):
        assert asyncio.run(main())[0]["status"] == 200
        assert asyncio.run(main())[0]["status"] == 200
        status = loopguard.status()
        assert status["state"] == "off"
        assert "memory" in str(status["reason"]) or "tmpfs" in str(status["reason"])
        assert [r.message for r in caplog.records if r.name == "loopguard"] == [
            f"loopguard is off: {status['reason']}"
        ]
        notes = [
            link
            for f in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{f}")
            and "loopguard.off" in (link := os.readlink(f"/proc/self/fd/{f}"))
        ]
        assert len(notes) == 1
    assert asyncio.run(main())[0]["status"] == 200


def filesystem(path: Path) -> str:
    return subprocess.run(
        ["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_memory_switches_the_agent_off_and_the_worker_serves(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount here")
    try:
        env = {"LOOPGUARD_SEGMENT_DIR": str(folder)}
        with Worker(tmp_path, ENDS, env=env) as worker:
            for _ in range(3):
                assert worker.get("/") == (200, b"ok")
            links = [
                os.readlink(link)
                for link in Path(f"/proc/{worker.pid}/fd").iterdir()
                if os.path.lexists(link)
            ]
            assert sum("loopguard.off" in link for link in links) == 1
            assert os.listdir(folder) == []
            _, errors = worker.end()
        lines = [line for line in errors.splitlines() if "loopguard" in line]
        assert len(lines) == 1, errors
        assert "No space left" in lines[0]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_refused_process_vm_readv_leaves_stacks_working() -> None:
    """A container's seccomp filter refuses it; there are two other ways."""
    done = script(
        """
        import asyncio, ctypes, errno, platform, struct, sys, time
        number = {"x86_64": 310, "aarch64": 270}[platform.machine()]
        libc = ctypes.CDLL(None, use_errno=True)
        def statement(code, jt, jf, k): return struct.pack("<HBBI", code, jt, jf, k)
        program = (
            statement(0x20, 0, 0, 0)                        # load the number
            + statement(0x15, 0, 1, number)                 # that one?
            + statement(0x06, 0, 0, 0x00050000 | errno.EPERM)
            + statement(0x06, 0, 0, 0x7FFF0000)
        )
        buffer = ctypes.create_string_buffer(program, len(program))
        class Filter(ctypes.Structure):
            _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
        made = Filter(4, ctypes.addressof(buffer))
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        if libc.prctl(22, 2, ctypes.byref(made), 0, 0) != 0:
            print("no seccomp")
            sys.exit()
        import loopguard
        from agent_kit import request, settled
        from loopguard import control
        async def app(scope, receive, send):
            for _ in range(9_000_000):
                pass
        control.start(loopguard.LoopGuardConfig())
        asyncio.run(request(control.measured(app)))
        seen = settled()
        print(seen.features["stacks"], [s.stack[0][0] for s in seen.stalls])
        """
    )
    if done.stdout == "no seccomp\n":
        pytest.skip("no right to filter system calls here")
    assert done.stdout == "(True, '') ['app']\n"


# ---- trio -------------------------------------------------------------------


def test_trio_is_measured_and_tasks_say_why_not() -> None:
    trio = pytest.importorskip("trio")

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        with trio.move_on_after(0.001) as inner:
            await trio.sleep(30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            nursery.start_soon(control.measured(sub), {"type": "http", "headers": []}, None, None)
        time.sleep(0.07)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        return inner.cancelled_caught

    async def sub(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0)

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0)
        raise ValueError("through trio")

    async def is_cancelled(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(30)

    async def send(message: Any) -> None:
        await trio.sleep(0)

    async def main() -> Any:
        scope = {"type": "http", "method": "GET", "headers": []}
        result = await control.measured(app)(dict(scope, headers=[]), None, send)
        with pytest.raises(ValueError, match="through trio"):
            await control.measured(fails)(dict(scope, headers=[]), None, send)
        with trio.move_on_after(0.001):
            await control.measured(is_cancelled)(dict(scope, headers=[]), None, send)
        return result

    with agent():
        assert trio.run(main) is True
        seen = settled()
        row = seen.endpoint("GET (unknown)")
        assert (row.requests, row.exceptions, row.cancelled) == (3, 1, 1)
        assert seen.endpoint("OTHER (unknown)").requests == 1
        assert seen.features["task_factory"] == (False, "needs an asyncio loop")
        assert seen.loops[0].kind == "other"
        told = [(s.endpoint, s.call) for s in seen.stalls]
        assert told == [("GET (unknown)", "sleep")]


def test_agent_that_is_off_costs_the_application_nothing_but_a_look() -> None:
    _agent.off("for a test")
    try:
        app = control.measured(ok)

        async def main() -> Any:
            return await request(app)

        assert asyncio.run(main())[0]["status"] == 200
        assert loopguard.status()["segment"] is None
    finally:
        _agent.stop()
