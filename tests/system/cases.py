"""The situations that must be told right, on real workers, as a table.

    python tests/system/cases.py [--loop asyncio|uvloop|both] [--row N ...] [--fast]

Each situation runs on a real uvicorn worker while an innocent endpoint is asked
twenty times a second. What loopguard-top says of it is compared with what the
application measured itself. A line of the table is right when the block was
seen, under the right endpoint, with a stack that leads to the right line, with
the right cause, for the right time, and when nobody innocent was blamed.
Exit status 1 when a line is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from cases_rig import (
    HERE,
    Command,
    SlowServer,
    TooLateError,
    Traffic,
    View,
    Worker,
    free_port,
    program,
    top_json,
    uvicorn,
    wait_for,
)

SOURCE = HERE / "cases_app.py"
CLOCK_MS = 3
GUILTY_KINDS = {"request", "websocket", "background", "task", "lifespan"}
# What the truth leaves out where only the block itself is timed, not the whole
# step: the framework's own work in the same step.
AROUND_MS = 5.0
EXACT_MS = 0.1
EXACT_SHARE = 0.005

CPU = frozenset({"cpu"})
IO = frozenset({"io"})
DISK = frozenset({"disk", "io", "page_fault"})


# ---- findings --------------------------------------------------------------


@dataclass
class Finding:
    """One line of the table. None in a column: not asked in this situation."""

    what: str
    seen: bool | None = None
    endpoint: bool | None = None
    line: bool | None = None
    cause: bool | None = None
    error_ms: float | None = None
    error_right: bool | None = None
    other_ms: float | None = None  # the remainder of the parts
    innocents: int = 0
    note: str = ""
    skipped: str = ""  # why it was not tried
    evidence: list[str] = field(default_factory=list)

    def is_right(self) -> bool:
        """Whether no column says no."""
        columns = (self.seen, self.endpoint, self.line, self.cause, self.error_right)
        return self.innocents == 0 and False not in columns

    def verdict(self) -> str:
        """The last column."""
        if self.skipped:
            return "skipped"
        return "right" if self.is_right() else "WRONG"


@dataclass(frozen=True)
class Situation:
    """A request, and what must be said of the block in it."""

    what: str
    path: str
    marker: str  # "# BLOCKS <marker>" in cases_app.py
    func: str
    causes: frozenset[str]
    method: str | None = "GET"
    route: str | None = None  # None: the path
    endpoint_kind: str = "request"
    kind: str = "step"
    call: str = ""  # a pattern; "": not asked
    truth: str = ""  # "": the whole call of the path
    around_ms: float = 0.0
    times: int = 3
    trigger: Callable[[Worker], None] | None = None
    also_guilty: frozenset[str] = frozenset()  # routes that may block too

    def expected_route(self) -> str:
        """The template, which is the path where nothing else is said."""
        return self.route if self.route is not None else self.path.split("?")[0]


def marked_lines(marker: str) -> set[int]:
    """Numbers of the lines marked "BLOCKS marker"."""
    pattern = re.compile(rf"# BLOCKS {re.escape(marker)}\b")
    text = SOURCE.read_text().splitlines()
    lines = {n for n, line in enumerate(text, 1) if pattern.search(line)}
    assert lines, marker
    return lines


def leads_to(stack: list[View] | None, marker: str, func: str) -> bool:
    """Whether a frame of `stack` is a marked line in function `func`."""
    lines = marked_lines(marker)
    return any(
        Path(frame["file"]).name == SOURCE.name
        and frame["line"] in lines
        and func in frame["func"].split(".")[-1]
        for frame in stack or []
    )


def named(event: View) -> str:
    """An event's endpoint as one text."""
    return f"{event['endpoint_kind']} {event['method'] or ''} {event['route']}"


def told(event: View) -> str:
    """An event in one line, as evidence."""
    stack = event.get("stack") or []
    frames = " < ".join(f"{f['func']} {f['short_file']}:{f['line']}" for f in stack[:3])
    parts = {k: round(v / 1e3, 2) for k, v in (event.get("parts_us") or {}).items() if v}
    duration = event.get("duration_us", event.get("for_us")) or 0
    holder = f" holder {event['holder_route']}" if event.get("holder_route") else ""
    return (
        f"{event['kind']} {named(event)} {duration / 1e3:.2f} ms cause {event['cause']}"
        f" {parts} call {event['call']}{holder}: {frames}"
    )


# ---- watching one situation ------------------------------------------------


class Watched:
    """What happened in a worker since it was made."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        before = worker.view()
        self._blocks = {named(e): e["total_blocks"] for e in before["endpoints"]}
        self._known = before["events"]
        worker.truth()

    def events(self, view: View) -> list[View]:
        """New events, oldest first."""
        return [e for e in reversed(view["events"]) if not any(is_same(e, k) for k in self._known)]

    def innocents(self, view: View, guilty: set[str]) -> list[str]:
        """Endpoints outside of `guilty` (their routes) that were blamed."""
        blamed = [named(e) for e in self.events(view) if is_blame(e) and e["route"] not in guilty]
        for endpoint in view["endpoints"]:
            new = endpoint["total_blocks"] - self._blocks.get(named(endpoint), 0)
            if is_blame(endpoint) and endpoint["route"] not in guilty:
                blamed += [named(endpoint)] * new
        return blamed


def is_same(event: View, known: View) -> bool:
    """Start, loop, kind and request: no two events share them. The start is told
    by the wall clock, whose distance to the monotonic one moves a little.
    """
    key = ("loop", "kind", "request_id")
    return (
        all(event[k] == known[k] for k in key)
        and abs(event["time_unix_ms"] - known["time_unix_ms"]) <= CLOCK_MS
    )


def is_blame(item: View) -> bool:
    """Blocks of callbacks and of "(loop)" accuse no code of a request."""
    return item["endpoint_kind"] in GUILTY_KINDS


def try_situation(worker: Worker, s: Situation) -> Finding:
    """The same once more when it came out wrong: machines are busy. Then the
    note says so.
    """
    finding = once(worker, s)
    if finding.is_right():
        return finding
    again = once(worker, s)
    again.note = f"second try; {again.note}"
    again.evidence = [f"first try: {line}" for line in finding.evidence] + again.evidence
    return again


def once(worker: Worker, s: Situation) -> Finding:
    """Causes the block, `s.times` times, and judges what is said of it."""
    watched = Watched(worker)
    finding = Finding(s.what)

    def mine(view: View) -> list[View]:
        return [
            e
            for e in watched.events(view)
            if e["kind"] == s.kind and e["route"] == s.expected_route() and not e["ongoing"]
        ]

    for _ in range(s.times):
        if s.trigger is not None:
            s.trigger(worker)
        else:
            worker.get(s.path, s.method or "GET")
    try:
        view = worker.until("its events", lambda v: len(mine(v)) >= s.times, 5.0)
        finding.seen = True
    except TooLateError:
        view = worker.view()
        finding.seen = False
    measured = worker.truth()
    path = s.path.split("?")[0]
    truth = measured.get(s.truth or path, [])
    events = mine(view)
    is_starved = s.causes <= {"cpu", "gc"} and starved(truth, measured.get("cpu of " + path, []))
    if is_starved and not events and s.kind == "cumulative" and starvation_told(watched, view):
        # what it did itself is under the limit: the processor was with others
        return Finding(s.what, skipped="starved: told as the run queue's, of (loop)")
    if is_starved:
        judge(finding, replace(s, causes=s.causes | {"scheduler"}), events, truth)
        finding.note = "busy machine"
        if s.kind == "cumulative":  # what is stretched beyond the window is not in the sum
            finding.error_right = None
    else:
        judge(finding, s, events, truth)
    guilty = {s.expected_route(), *s.also_guilty}
    blamed = watched.innocents(view, guilty)
    finding.innocents = len(blamed)
    if not finding.is_right():
        finding.evidence += [told(e) for e in watched.events(view)][:8] or ["no event"]
        finding.evidence += [f"blamed: {name}" for name in sorted(set(blamed))]
        finding.evidence.append(f"truth: {[round(t, 2) for t in truth]} ms")
    return finding


def starved(wall: list[float], cpu: list[float]) -> bool:
    """Whether the processor was mostly elsewhere, by the application's own clocks."""
    return any(c < w * 0.6 for c, w in zip(cpu, wall))


def starvation_told(watched: Watched, view: View) -> bool:
    return any(e["route"] == "(loop)" and e["cause"] == "scheduler" for e in watched.events(view))


def busy_machine() -> bool:
    """Whether others want more than there is: then "cpu" may be "scheduler"."""
    return os.getloadavg()[0] > len(os.sched_getaffinity(0))


def judge(finding: Finding, s: Situation, events: list[View], truth: list[float]) -> None:
    """Fills the columns that follow from the events and the truth."""
    if not events:
        return
    finding.endpoint = all(
        (e["endpoint_kind"], e["method"]) == (s.endpoint_kind, s.method) for e in events
    )
    finding.line = all(leads_to(e["stack"], s.marker, s.func) for e in events)
    calls_right = all(re.search(s.call, e["call"] or "") for e in events)
    finding.cause = all(e["cause"] in s.causes for e in events) and calls_right
    finding.note = events[-1]["call"] or ""
    others = [e["parts_us"]["other"] / 1e3 for e in events if e["parts_us"]]
    if others:
        finding.other_ms = statistics.median(others)
    errors = [e["duration_us"] / 1e3 - t for e, t in zip(events, truth)]
    if len(truth) != len(events) or not errors:
        finding.error_right = False
        return
    finding.error_ms = statistics.median(errors)
    limit = max(EXACT_MS, EXACT_SHARE * statistics.median(truth))
    finding.error_right = -limit <= finding.error_ms <= max(limit, s.around_ms)


# ---- rows ------------------------------------------------------------------

ONE_BLOCK = {
    1: [Situation("time.sleep", "/sleep", "sleep", "sleep", IO, call="sleep")],
    2: [Situation("Python on the CPU", "/cpu", "cpu", "add_up", CPU)],
    4: [Situation("C that releases the GIL", "/pbkdf2", "pbkdf2", "pbkdf2", CPU)],
}


def row_of_blocks(number: int, worker: Worker) -> Iterator[Finding]:
    """Situations that are one request each."""
    for situation in ONE_BLOCK[number]:
        yield try_situation(worker, situation)


def row_3(worker: Worker) -> Iterator[Finding]:
    """A C call that holds the GIL: told while it lasts, and afterwards."""
    for path, func, name in (
        ("/regex", "catastrophe", "catastrophic regex"),
        ("/sorted", "sort", "sorted() of a big list"),
    ):
        marker = path[1:]
        seen_live: list[View] = []

        def trigger(
            worker: Worker, path: str = path, seen: list[View] = seen_live, marker: str = marker
        ) -> None:
            with worker.asking(path), contextlib.suppress(TooLateError):
                view = worker.until(
                    "the block while it lasts",
                    lambda v: v["blocked_now"] and v["blocked_now"]["stack"],
                    5.0,
                )
                seen.append(view["blocked_now"])

        s = Situation(name, path, marker, func, CPU, trigger=trigger, times=1)
        finding = try_situation(worker, s)
        live = seen_live[-1] if seen_live else None
        if live is None:
            finding.seen = False
            finding.note = "not seen while it lasted"
        else:
            finding.note = f"live after {live['for_us'] / 1e3:.0f} ms"
            finding.endpoint = bool(finding.endpoint and live["route"] == path)
            finding.line = bool(finding.line and leads_to(live["stack"], marker, func))
            if not finding.is_right():
                finding.evidence.append("live: " + told(live))
        yield finding


def row_5(worker: Worker) -> Iterator[Finding]:
    """Many short blocks: one event with their true sum."""
    for path, count in (("/cuts/20x15", 20), ("/cuts/60x8", 60), ("/cuts/40x5", 40)):
        name = path[1:]
        # the truth is that of the blocks; a step also makes its timer
        around_ms = AROUND_MS + 0.1 * count
        s = Situation(
            f"{name.split('/')[1].replace('x', ' x ')} ms", path, "spin", "spin", CPU,
            kind="cumulative", truth=name, around_ms=around_ms, times=1,
        )  # fmt: skip
        yield try_situation(worker, s)


def row_6(worker: Worker) -> Iterator[Finding]:
    """Files."""
    Path(worker.folder, "fifty.bin").write_bytes(os.urandom(1 << 20) * 50)
    with open(Path(worker.folder, "fifty.bin"), "rb") as written:
        os.fsync(written.fileno())  # only clean pages can be dropped by the endpoint
    yield try_situation(
        worker,
        Situation("read 50 MB", "/read-file", "read-file", "read_file", DISK,
                  call=r"read fd \d+|fifty\.bin"),
    )  # fmt: skip
    yield try_situation(
        worker,
        Situation("write, fsync", "/write-file", "write-file", "write_file", DISK,
                  call=r"(write|fsync) fd \d+|written\.bin"),
    )  # fmt: skip


def row_7(worker: Worker) -> Iterator[Finding]:
    """A slow peer."""
    server = SlowServer(0.2)
    try:
        for path, func in (("/urllib", "ask"), ("/urllib-timeout", "ask_with_timeout")):
            peer = rf"127\.0\.0\.1:{server.port}"
            s = Situation(
                "urllib" if path == "/urllib" else "urllib with a timeout",
                f"{path}?port={server.port}", path[1:], func, IO,
                call=rf"(recv|poll).*{peer}", truth=path,
            )  # fmt: skip
            yield try_situation(worker, s)
    finally:
        server.close()


def row_8(worker: Worker) -> Iterator[Finding]:
    """A child process."""
    s = Situation("subprocess.run", "/subprocess", "subprocess", "child_process", IO, call="wait")
    yield try_situation(worker, s)


def row_9(worker: Worker) -> Iterator[Finding]:
    """Child tasks and BaseHTTPMiddleware: still the request's endpoint."""
    block = partial(Situation, causes=IO, call="sleep", around_ms=AROUND_MS)
    for s in (
        block("child task", "/child", "child", "block_in_child", truth="child"),
        block("under BaseHTTPMiddleware", "/mw/block", "mw", "block_under_middleware", truth="mw"),
        block("child task under it", "/mw/child", "child", "block_in_child", truth="child"),
    ):
        yield try_situation(worker, s)


def row_10(worker: Worker) -> Iterator[Finding]:
    """Dependency, background task, streaming body, WebSocket, lifespan."""
    block = partial(Situation, causes=IO, call="sleep", around_ms=AROUND_MS)
    for s in (
        block("dependency", "/dependency", "dependency", "slow_dependency", around_ms=0.0),
        block("background task", "/background", "background", "block_in_background",
              endpoint_kind="background", truth="background"),
        block("streaming body", "/stream", "stream", "lines", truth="stream"),
        block("WebSocket handler", "/ws", "ws", "chat", method="WS", endpoint_kind="websocket",
              truth="ws", trigger=lambda w: w.chat("/ws")),
    ):  # fmt: skip
        yield try_situation(worker, s)
    yield lifespan(worker)


def lifespan(worker: Worker) -> Finding:
    """Its block came before the first request: a worker of its own."""
    finding = Finding("lifespan")
    with Worker(worker.loop) as fresh:
        truth = fresh.truth()["lifespan"]
        view = fresh.until("an answer", lambda v: v["endpoints"])
        events = [e for e in view["events"] if e["route"] == "(lifespan)"]
        finding.seen = bool(events)
        s = Situation("", "", "lifespan", "lifespan", IO, method=None, call="sleep",
                      endpoint_kind="lifespan", route="(lifespan)", around_ms=60.0)  # fmt: skip
        judge(finding, s, events, truth)
        finding.innocents = sum(is_blame(e) and e not in events for e in view["events"])
        if not finding.is_right():
            finding.evidence = [told(e) for e in view["events"]]
    return finding


def row_11(worker: Worker) -> Iterator[Finding]:
    """Callbacks of the loop: under their own name, no request blamed."""

    def poke_protocol(w: Worker) -> None:
        port = int(w.get("/arm/protocol")[1])
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"x")
            time.sleep(0.3)  # the peer is in its block meanwhile

    block = partial(
        Situation, causes=IO, call="sleep", method=None, endpoint_kind="callback",
        around_ms=AROUND_MS, times=1, path="",
    )  # fmt: skip
    for s in (
        block("call_later", marker="timer", func="block_in_timer", route="block_in_timer",
              truth="timer", trigger=lambda w: w.get("/arm/timer")),
        block("Protocol.data_received", marker="protocol", func="data_received",
              route="BlockingProtocol.data_received", truth="protocol", trigger=poke_protocol),
        block("add_reader", marker="reader", func="block_in_reader", route="block_in_reader",
              truth="reader", trigger=lambda w: w.get("/arm/reader")),
    ):  # fmt: skip
        yield try_situation(worker, short_names(s))


def short_names(s: Situation) -> Situation:
    """Before 3.11 a code object knows its name only, not its class."""
    if sys.version_info >= (3, 11):
        return s
    return replace(s, route=s.expected_route().rsplit(".", maxsplit=1)[-1])


def row_12(worker: Worker) -> Iterator[Finding]:
    """Sync endpoints starve the loop through the GIL."""
    for what, path, count, marker, func in (
        ("12 threads of Python", "/gil/python", 12, "gil-python", "hog_in_python"),
        ("regex in one thread", "/gil/regex", 1, "regex", "catastrophe"),
    ):
        finding = Finding(what)
        watched = Watched(worker)
        with worker.asking(path, count=count):
            pass
        try:
            view = worker.until(
                "a wait for the GIL", partial(any_gil_event, watched, path), deadline_s=5.0
            )
            finding.seen = True
        except TooLateError:
            view = worker.view()
            finding.seen = False
        waits = [e for e in watched.events(view) if e["cause"] == "gil"]
        held = [e for e in waits if e["holder_stack"]]
        if held:
            # an iteration adds up several waits, which may have several holders
            finding.endpoint = all(path in (e["route"], e["holder_route"]) for e in held)
            finding.line = all(leads_to(e["holder_stack"], marker, func) for e in held)
            finding.cause = True
            longest_ms = max(e["duration_us"] for e in waits) / 1e3
            finding.note = (
                f"{len(waits)} stalls, {len(held)} with holder, longest {longest_ms:.0f} ms"
            )
            finding.other_ms = max(e["parts_us"]["other"] for e in held) / 1e3
        blamed = watched.innocents(view, {path})
        finding.innocents = len(blamed)
        if not finding.is_right():
            finding.evidence = [told(e) for e in watched.events(view)][:8] or ["no event"]
            finding.evidence += [f"blamed: {name}" for name in sorted(set(blamed))]
        yield finding


def any_gil_event(watched: Watched, path: str, view: View) -> bool:
    """Has a finished wait for the GIL been told, with its holder?"""
    return any(
        e["cause"] == "gil" and e["holder_route"] == path and not e["ongoing"]
        for e in watched.events(view)
    )


def row_13(worker: Worker) -> Iterator[Finding]:
    """The pool is full: how many wait, how long, for which endpoint."""
    finding = Finding("60 at once, 40 threads")
    watched = Watched(worker)
    with worker.asking("/pool/second", count=60):
        try:
            full = worker.until(
                "the pool is full",
                lambda v: (
                    v["threadpool"]
                    and v["threadpool"]["busy"] == 40
                    and v["threadpool"]["waiting"] == 20
                ),
                10.0,
            )
            finding.seen = bool(full["threadpool"]["full_for_us"] is not None)
        except TooLateError:
            finding.seen = False
    view = worker.view()
    pool = view["threadpool"]
    mine = [e for e in view["endpoints"] if e["route"] == "/pool/second"]
    finding.endpoint = bool(mine) and mine[0]["total_pool_wait_us"] > 0
    if pool and mine:
        waited_ms = mine[0]["total_pool_wait_us"] / 1e3
        finding.note = f"waited {waited_ms / 1e3:.1f} s in all, most waiting "
        finding.note += f"{pool['waiting_high_water']}, high water {pool['high_water']}"
        finding.cause = pool["high_water"] == 40 and pool["waiting_high_water"] == 20
        # twenty requests wait for about one second each, the others for nothing
        finding.error_right = 18e3 <= waited_ms <= 32e3
    finding.innocents = len(watched.innocents(view, set()))
    if not finding.is_right():
        finding.evidence = [f"threadpool: {pool}"] + [told(e) for e in watched.events(view)]
    yield finding


DATABASE = (
    ("connection taken by the dependency", "/database/dependency", "database-dependency",
     "connection"),
    ("connection taken lazily", "/database/lazily", "database-lazily", "one"),
)  # fmt: skip


def row_14(worker: Worker) -> Iterator[Finding]:
    """Sync dependency, exhausted connections: the pool is shown as stuck."""
    if importlib.util.find_spec("sqlalchemy") is None:
        yield Finding("exhausted QueuePool", skipped="SQLAlchemy is not installed")
        return
    for what, path, marker, func in DATABASE:
        finding = Finding(what)
        with Worker(worker.loop) as fresh, Traffic(fresh):
            watched = Watched(fresh)
            with fresh.asking(path, count=60):
                try:
                    view = fresh.until("stuck threads", stuck_with_stacks, 5.0)
                    finding.seen = True
                except TooLateError:
                    view = fresh.view()
                    finding.seen = False
                pool = view["threadpool"]
                stuck = pool["stuck"] if pool else []
                finding.endpoint = bool(stuck) and all(t["route"] == path for t in stuck)
                finding.line = any(leads_to(t["stack"], marker, func) for t in stuck)
                finding.note = f"{len(stuck)} stuck, {pool and pool['waiting']} waiting"
                finding.innocents = len(watched.innocents(view, set()))
                if not finding.is_right():
                    finding.evidence = [f"threadpool: {str(pool)[:600]}"]
        yield finding
    for what, path, _, _ in DATABASE:
        yield with_patch(worker.loop, what, path)


def with_patch(loop: str, what: str, path: str) -> Finding:
    """The same with threadpool.patch(): all are answered."""
    finding = Finding(f"{what}, patched")
    # all 60 need the three connections in turn, for 0.3 s each at most
    with Worker(loop, env={"CASES_THREADPOOL_PATCH": "1", "CASES_POOL_TIMEOUT": "30"}) as fresh:
        begun = time.monotonic()
        answers = fresh.get_all([path] * 60, at_once=60)
        took_s = time.monotonic() - begun
        view = fresh.until("all are done", lambda v: v["threadpool"]["busy"] == 0, 5.0)
        pool = view["threadpool"]
        finding.seen = answers == [200] * 60
        finding.error_right = took_s < 20.0
        finding.cause = pool["waiting"] == 0 and pool["high_water"] <= pool["limit"] == 40
        finding.note = f"60 answers in {took_s:.1f} s, high water {pool['high_water']}"
        if not finding.is_right():
            finding.evidence = [f"answers: {sorted(answers)}", f"threadpool: {str(pool)[:600]}"]
    return finding


def stuck_with_stacks(view: View) -> bool:
    """All tokens are taken by threads that do not move."""
    pool = view["threadpool"]
    return bool(
        pool
        and pool["busy"] == pool["limit"]
        and pool["waiting"]
        and len(pool["stuck"]) >= 8
        and all(t["stack"] for t in pool["stuck"])
    )


def row_15(worker: Worker) -> Iterator[Finding]:
    """The collector, asked for and by itself."""
    guilty = frozenset({"/gc/prepare"})
    size = 400_000
    worker.get(f"/gc/prepare?size={size}")
    yield try_situation(
        worker,
        Situation("gc.collect()", "/gc/collect", "gc-collect", "collect", frozenset({"gc"}),
                  also_guilty=guilty),
    )  # fmt: skip
    # what a full collection has seen is not looked at again before it has
    # grown by a quarter
    worker.get(f"/gc/prepare?size={2 * size}")
    yield try_situation(
        worker,
        Situation("automatic, oldest generation", "/gc/auto", "gc-auto", "allocate",
                  frozenset({"gc"}), also_guilty=guilty, times=1),
    )  # fmt: skip
    worker.get("/gc/end")


def row_16(worker: Worker) -> Iterator[Finding]:
    """Nobody's fault: the processor was elsewhere."""
    core = min(os.sched_getaffinity(0))
    with Worker(worker.loop) as fresh:
        hogs: list[subprocess.Popen[bytes]] = []
        try:
            for tid in os.listdir(f"/proc/{fresh.pid}/task"):
                os.sched_setaffinity(int(tid), {core})
            for _ in range(4):
                hogs.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                os.sched_setaffinity(hogs[-1].pid, {core})
            s = Situation("4 CPU hogs on its core", "/burn", "burn", "burn",
                          frozenset({"scheduler"}), times=2)  # fmt: skip
            yield try_situation(fresh, s)
        except PermissionError as error:
            yield Finding("4 CPU hogs on its core", skipped=str(error))
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
    yield from cgroup_quota(worker.loop)


def cgroup_quota(loop: str) -> Iterator[Finding]:
    """A third of one core, where this machine lets us say so."""
    what = "cgroup quota of 30 %"
    try:
        group = Quota(30_000)
    except OSError as error:
        yield Finding(what, skipped=f"no cgroup of our own: {error.strerror}")
        return
    try:
        with Worker(loop, before=group.command()) as fresh:
            s = Situation(what, "/burn", "burn", "burn", frozenset({"scheduler"}), times=2)
            finding = try_situation(fresh, s)
            events = [e for e in fresh.view()["events"] if e["route"] == "/burn"]
            finding.note = "throttled"
            wait_for(
                "the loop counts throttled periods",
                lambda: any(loop["throttled"] for loop in fresh.view()["loops"]),
            )
            if not all(e["throttled"] for e in events):
                finding.note = "throttling not named"
                finding.cause = False
            yield finding
    finally:
        group.remove()


class Quota:
    """A cgroup with a quota of `quota_us` in 100 ms; version 2 or 1."""

    def __init__(self, quota_us: int) -> None:
        name = f"loopguard-cases-{os.getpid()}"
        if Path("/sys/fs/cgroup/cgroup.controllers").exists():
            self.folder = Path("/sys/fs/cgroup", name)
            settings = {"cpu.max": f"{quota_us} 100000"}
        else:
            self.folder = Path("/sys/fs/cgroup/cpu", name)
            settings = {"cpu.cfs_quota_us": str(quota_us)}
        self.folder.mkdir()
        try:
            for file, text in settings.items():
                (self.folder / file).write_text(text)
        except OSError:
            self.folder.rmdir()
            raise

    def command(self) -> list[str]:
        """Words before a command that has the quota from its start."""
        join = f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"'
        return ["sh", "-c", join, "sh"]

    def remove(self) -> None:
        """When the processes in it have ended."""
        wait_for("the cgroup is empty", lambda: not (self.folder / "cgroup.procs").read_text())
        self.folder.rmdir()


def row_17(worker: Worker) -> Iterator[Finding]:
    """A lock that another thread holds."""
    s = Situation("threading.Lock", "/lock", "lock", "wait_for_lock", frozenset({"lock"}),
                  truth="lock", around_ms=AROUND_MS)  # fmt: skip
    yield try_situation(worker, s)


def row_18(worker: Worker) -> Iterator[Finding]:
    """Fifty that wait with await, while another blocks."""

    def trigger(w: Worker) -> None:
        with w.asking("/patient", count=50):
            wait_for("they wait", lambda: w.view()["open"] >= 50)
            w.get("/sleep")

    s = Situation("50 x await sleep(1)", "/sleep", "sleep", "sleep", IO, call="sleep",
                  trigger=trigger, times=1)  # fmt: skip
    yield try_situation(worker, s)


def row_19(worker: Worker) -> Iterator[Finding]:
    """No end: told live, with its stack, and it grows."""
    finding = Finding("endless loop, live")
    with Worker(worker.loop) as fresh:
        client = threading.Thread(target=fresh.get, args=("/forever",))
        client.start()
        started = time.monotonic()
        try:
            view = fresh.until(
                "blocked for 2 s",
                lambda v: v["blocked_now"] and v["blocked_now"]["for_us"] >= 2_000_000,
                10.0,
            )
            told_s = view["blocked_now"]["for_us"] / 1e6
            finding.seen = True
            live = view["blocked_now"]
            finding.endpoint = live["route"] == "/forever"
            finding.line = leads_to(live["stack"], "forever", "forever")
            finding.cause = live["cause"] == "cpu" or (
                live["cause"] == "scheduler" and busy_machine()
            )
            finding.note = f"BLOCKED {told_s:.1f} s"
            # the client began a little before the block did
            finding.error_right = -0.5 <= time.monotonic() - started - told_s <= 1.0
            finding.innocents = sum(is_blame(e) for e in view["events"]
                                    if e["route"] not in ("/forever", "(lifespan)"))  # fmt: skip
            if not finding.is_right():
                finding.evidence = [told(live)]
        except TooLateError:
            finding.seen = False
            finding.evidence = [told(e) for e in fresh.view()["events"]]
        finally:
            fresh.process.kill()
            client.join()
    yield finding


def row_20(worker: Worker) -> Iterator[Finding]:
    """Killed in mid-block: what it died in."""
    for what, path, method, marker, func in (
        ("SIGKILL", "/forever", "GET", "forever", "forever"),
        ("SIGSEGV", "/die/{how}", "POST", "spin", "spin"),
        ("os._exit", "/die/{how}", "POST", "spin", "spin"),
    ):
        finding = Finding(what)
        with Worker(worker.loop) as fresh:
            how = "exit" if what == "os._exit" else "segv"
            client = threading.Thread(target=fresh.get, args=(path.replace("{how}", how), method))
            client.start()
            if what == "SIGKILL":
                fresh.until(
                    "blocked for 1 s",
                    lambda v: v["blocked_now"] and v["blocked_now"]["for_us"] >= 1_000_000,
                )
                fresh.process.send_signal(signal.SIGKILL)
            fresh.process.wait(20.0)
            client.join()
            view = fresh.view()
            died = view["died_in"]
            finding.seen = died is not None and view["post_mortem"]
            if died is not None:
                finding.endpoint = (died["method"], died["route"]) == (method, path)
                finding.line = leads_to(died["stack"], marker, func) or (
                    what == "SIGSEGV" and leads_to(died["stack"], "segv", "die")
                )
                finding.note = f"died {died['for_us'] / 1e6:.2f} s into the step"
                least = 0.95 if what == "SIGKILL" else 0.55  # a heartbeat before the end
                finding.error_right = least <= died["for_us"] / 1e6 <= least + 1.5
                if not finding.is_right():
                    finding.evidence = [told(died)]
            else:
                finding.evidence = [f"state {view['state']}"]
            Path(view["file"]).unlink()
        yield finding


def row_21(worker: Worker) -> Iterator[Finding]:
    """Blocks near a threshold of 10 ms."""
    with Worker(worker.loop, env={"LOOPGUARD_FALLBACK_THRESHOLD_MS": "10"}) as fresh:
        for ms in (8, 11, 13, 16):
            path = f"/ms/{ms}"
            finding = Finding(f"30 x {ms} ms, threshold 10")
            watched = Watched(fresh)
            for _ in range(30):
                fresh.get(path)
            truth = sorted(fresh.truth()[path])
            due = [t for t in truth if t > 10.0]  # a busy machine makes 8 longer

            def mine(view: View, watched: Watched = watched, path: str = path) -> list[View]:
                # what the scheduler took off a step is blamed on nobody
                routes = {path, "(loop)"}
                return [e for e in watched.events(view)
                        if e["route"] in routes and e["kind"] == "step" and not e["ongoing"]]  # fmt: skip

            with contextlib.suppress(TooLateError):
                fresh.until("its events", lambda v, due=due: len(mine(v)) >= len(due), 5.0)
            view = fresh.view()
            found = sorted(e["duration_us"] / 1e3 for e in mine(view))
            finding.seen = len(found) == len(due)
            finding.note = f"{len(found)} told of {len(due)}"
            if found and finding.seen:
                errors = [a - b for a, b in zip(found, due)]
                finding.error_ms = max(errors, key=abs)
                finding.error_right = abs(statistics.median(errors)) <= EXACT_MS
                # a millisecond over the threshold is not always looked at in time
                lines = sum(leads_to(e["stack"], "spin", "spin") for e in mine(view))
                finding.note += f", {lines} with the line"
                finding.cause = all(e["cause"] in ("cpu", "scheduler") for e in mine(view))
                finding.endpoint = any(e["route"] == path for e in mine(view))
            finding.innocents = len(watched.innocents(view, {path}))
            if not finding.is_right():
                finding.evidence = [
                    f"told {[round(f, 2) for f in found]}", f"true {[round(d, 2) for d in due]}"
                ]  # fmt: skip
            yield finding


def row_22(worker: Worker) -> Iterator[Finding]:
    """Two applications, two loops, one process."""
    port = free_port()
    env = {"CASES_SECOND_PORT": str(port), "CASES_SECOND_LOOP": worker.loop}
    with Worker(worker.loop, env=env) as fresh:
        wait_for("the second listens", lambda: fresh.get("/second/sleep", port=port)[0] == 200)
        watched = Watched(fresh)
        with fresh.asking("/sleep"):
            fresh.get("/second/sleep", port=port)
        finding = Finding("two loops in one process")

        def both(view: View) -> dict[str, View]:
            return {e["route"]: e for e in watched.events(view) if not e["ongoing"]}

        try:
            view = fresh.until("both events", lambda v: len(both(v)) >= 2, 5.0)
        except TooLateError:
            view = fresh.view()
        events = both(view)
        finding.seen = {"/sleep", "/second/sleep"} <= set(events) and len(view["loops"]) == 2
        if finding.seen:
            first, other = events["/sleep"], events["/second/sleep"]
            finding.endpoint = first["loop"] != other["loop"]
            finding.line = leads_to(first["stack"], "sleep", "sleep") and leads_to(
                other["stack"], "second", "second_sleep"
            )
            finding.cause = first["cause"] == other["cause"] == "io"
            finding.note = f"loops {first['loop']} and {other['loop']} ({other['thread']})"
            truth = fresh.truth()
            finding.error_ms = first["duration_us"] / 1e3 - truth["/sleep"][0]
            finding.error_right = abs(finding.error_ms) <= 0.005 * 200
        finding.innocents = len(watched.innocents(view, {"/sleep", "/second/sleep"}))
        if not finding.is_right():
            finding.evidence = [told(e) for e in watched.events(view)]
        yield finding


def row_23(worker: Worker) -> Iterator[Finding]:
    """One segment for each worker, none for supervisors, and a block told in a worker."""
    for what, (module, command, count) in SERVERS.items():
        if is_there(module):
            yield workers_of(what, worker.loop, command, count)
        else:
            yield Finding(what, skipped=f"{module} is not installed")


def gunicorn(port: int, loop: str, *options: str) -> list[str]:
    """Its own ASGI worker, two of them, unless `options` say otherwise."""
    plain = ["gunicorn", "cases_app:app", "-b", f"127.0.0.1:{port}", "--log-level", "error"]
    return [*plain, "-k", "asgi", "--asgi-loop", loop, "-w", "2", *options]


def gunicorn_uvicorn(port: int, loop: str) -> list[str]:
    """Uvicorn's workers below gunicorn, the application loaded before the fork."""
    module = "uvicorn_worker" if is_there("uvicorn_worker") else "uvicorn.workers"
    # one worker class for each loop; the other one takes uvloop where it is
    name = "UvicornH11Worker" if loop == "asyncio" else "UvicornWorker"
    return gunicorn(port, loop, "-k", f"{module}.{name}", "--preload")


def hypercorn(port: int, loop: str) -> list[str]:
    """Two workers, spawned."""
    return ["hypercorn", "cases_app:app", "-b", f"127.0.0.1:{port}", "-k", loop, "-w", "2"]


def granian(port: int, loop: str) -> list[str]:
    """Two workers of a server written in Rust."""
    plain = ["granian", "cases_app:app", "--interface", "asgi", "--port", str(port)]
    return [*plain, "--loop", loop, "--workers", "2", "--log-level", "error"]


# what must be installed, the command, its workers
SERVERS: dict[str, tuple[str, Command, int]] = {
    "uvicorn --workers 2": ("uvicorn", lambda p, k: uvicorn(p, k, "--workers", "2"), 2),
    "uvicorn --reload": ("uvicorn", lambda p, k: uvicorn(p, k, "--reload"), 1),
    "gunicorn --preload, uvicorn workers": ("gunicorn", gunicorn_uvicorn, 2),
    "gunicorn, its own workers": ("gunicorn.workers.gasgi", gunicorn, 2),
    "hypercorn -w 2": ("hypercorn", hypercorn, 2),
    "granian --workers 2": ("granian", granian, 2),
}


def is_there(module: str) -> bool:
    """Whether it can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def workers_of(what: str, loop: str, command: Command, count: int) -> Finding:
    """Counts the segments of a server's family of processes, and blocks one."""
    finding = Finding(what)
    with Worker(loop, command=command) as fresh:

        def family() -> set[int]:
            fresh.get("/ok")
            children = descendants(fresh.pid)
            listed = top_json("--list")["workers"]
            return {w["pid"] for w in listed if w["pid"] in {fresh.pid, *children}}

        def blocks() -> list[View]:
            views = [top_json("--events", "--pid", str(pid))["workers"] for pid in pids]
            events = [e for workers in views for w in workers for e in w["events"]]
            return [e for e in events if e["route"] == "/sleep" and not e["ongoing"]]

        try:
            pids = wait_for("one segment for each worker", family, lambda p: len(p) == count, 10.0)
            fresh.get("/sleep")
            told_of = wait_for("the block", blocks, bool, 5.0)
            finding.seen = True
            finding.line = leads_to(told_of[0]["stack"], "sleep", "sleep")
        except TooLateError as error:
            pids = family()
            finding.seen = False
            finding.evidence = [str(error)]
        finding.endpoint = fresh.pid not in pids
        finding.note = f"{len(pids)} segments, supervisor {'none' if finding.endpoint else 'too'}"
    return finding


def descendants(pid: int) -> set[int]:
    """Children, grandchildren ... of a process."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for child in (task / "children").read_text().split():
                found |= {int(child)} | descendants(int(child))
    return found


def row_24(worker: Worker) -> Iterator[Finding]:
    """Names are templates, and few."""
    floods = {
        "1,000 URLs of one route": ([f"/items/{n}" for n in range(1000)], "/items/{item_id}"),
        "400 URLs that are not there": ([f"/no/{n}/where" for n in range(400)], "(unmatched)"),
        "included router with prefix": (
            [f"/api/v1/t{n}/deep/x/{n}" for n in range(20)],
            "/api/v1/{tenant}/deep/x/{z}",
        ),
        "mounted application": ([f"/sub/r{n}/here/{n}" for n in range(20)],
                                "/sub/{region}/here/{n}"),
        "mount within a mount": (["/two/levels/here"] * 3, "/two/levels/here"),
    }  # fmt: skip
    with Worker(worker.loop) as fresh:
        for what, (paths, route) in floods.items():
            before = {named(e) for e in fresh.view()["endpoints"]}
            statuses = fresh.get_all(paths, at_once=2)
            finding = Finding(what)

            def rows(view: View) -> dict[str, int]:
                return {
                    e["route"]: e["total_requests"]
                    for e in view["endpoints"]
                    if e["endpoint_kind"] == "request"
                }

            with contextlib.suppress(TooLateError):
                fresh.until(
                    "all counted", lambda v, r=route, p=paths: rows(v).get(r) == len(p), 5.0
                )
            view = fresh.view()
            finding.seen = rows(view).get(route) == len(paths)
            new = {named(e) for e in view["endpoints"]} - before
            # one that was held up after its response has a second row
            new.discard(f"background GET {route}")
            finding.endpoint = new == {f"request GET {route}"}
            finding.note = f"{len(statuses)} requests, {len(new)} rows"
            if not finding.is_right():
                finding.evidence = [f"new rows: {sorted(new)[:10]}",
                                    f"counted: {rows(view).get(route)}"]  # fmt: skip
            yield finding


Row = Callable[[Worker], Iterator[Finding]]
ROWS: dict[int, tuple[str, Row]] = {
    1: ("time.sleep in async def", partial(row_of_blocks, 1)),
    2: ("pure-Python CPU", partial(row_of_blocks, 2)),
    3: ("C call holding the GIL", row_3),
    4: ("C call releasing the GIL", partial(row_of_blocks, 4)),
    5: ("many short blocks", row_5),
    6: ("files", row_6),
    7: ("slow server", row_7),
    8: ("subprocess", row_8),
    9: ("child task, BaseHTTPMiddleware", row_9),
    10: ("dependency to lifespan", row_10),
    11: ("callbacks", row_11),
    12: ("sync endpoint and the GIL", row_12),
    13: ("thread pool full", row_13),
    14: ("thread pool deadlock", row_14),
    15: ("garbage collector", row_15),
    16: ("scheduler", row_16),
    17: ("lock", row_17),
    18: ("innocent waiters", row_18),
    19: ("endless loop", row_19),
    20: ("death in mid-block", row_20),
    21: ("near the threshold", row_21),
    22: ("two apps, two loops", row_22),
    23: ("servers", row_23),
    24: ("names", row_24),
}
# Rows that one worker shares, and that together take little time.
FAST = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 17, 18, 19, 22)


# ---- the table -------------------------------------------------------------

HEADS = ("row", "loop", "situation", "seen", "endp", "line", "cause", "error", "other", "innoc",
         "verdict", "note")  # fmt: skip
WIDTHS = (3, 7, 36, 4, 4, 4, 5, 9, 8, 5, 7, 0)


def print_line(cells: Sequence[str]) -> None:
    """One line of the table, at once: the rows take their time."""
    print("  ".join(c.ljust(w) for c, w in zip(cells, WIDTHS)).rstrip(), flush=True)


def print_finding(row: int, loop: str, f: Finding) -> None:
    """A line, and the evidence below it when it is wrong."""

    def mark(value: bool | None) -> str:
        return "-" if value is None else "yes" if value else "NO"

    def ms(value: float | None, sign: str) -> str:
        return "-" if value is None else f"{value:{sign}.2f} ms"

    error = ms(f.error_ms, "+")
    if f.error_right is False:
        error += "!"
    cells = [str(row), loop, f.what, mark(f.seen), mark(f.endpoint), mark(f.line), mark(f.cause)]
    cells += [error, ms(f.other_ms, ""), str(f.innocents), f.verdict(), f.skipped or f.note]
    print_line(cells)
    for line in f.evidence if f.verdict() == "WRONG" else ():
        print("        " + line, flush=True)


class Workers:
    """The workers that rows share: one for each kind of loop, under traffic."""

    # what a good disk does in less than the default threshold
    ENV: ClassVar = {"LOOPGUARD_ENDPOINT_THRESHOLDS": "GET /read-file=5,GET /write-file=5"}

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._made: dict[str, Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def of(self, loop: str) -> Worker:
        """The one on that kind of loop, made at first sight."""
        if loop not in self._made:
            worker = self._open.enter_context(Worker(loop, env=self.ENV))
            traffic = self._open.enter_context(Traffic(worker))
            wait_for("innocent traffic", lambda: traffic.answered > 2)
            self._made[loop] = worker
        return self._made[loop]


def run_row(row: int, worker: Worker) -> Iterator[Finding]:
    """The findings of one row, as they come."""
    name, try_row = ROWS[row]
    try:
        yield from try_row(worker)
    except Exception as error:
        broken = Finding(name, seen=False, note="the row broke off")
        broken.evidence = [f"{type(error).__name__}: {error}"]
        if worker.process.poll() is not None:
            broken.evidence.append(f"the worker has ended: {worker.read_log()}")
        yield broken


def loops_of(choice: str) -> list[str]:
    """Kinds of loops to run on; uvloop where it is installed."""
    if choice != "both":
        return [choice]
    return ["asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="the situations that must be told right")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "both"), default="both")
    parser.add_argument("--row", type=int, action="append", choices=sorted(ROWS), metavar="N")
    parser.add_argument("--fast", action="store_true", help="the rows that take little time")
    options = parser.parse_args()
    rows = options.row or (FAST if options.fast else sorted(ROWS))
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {python}, {program('loopguard-top')}")
    print_line(HEADS)
    findings = []
    for loop in loops_of(options.loop):
        with Workers() as workers:
            for row in rows:
                for finding in run_row(row, workers.of(loop)):
                    print_finding(row, loop, finding)
                    findings.append(finding)
    count = {v: sum(f.verdict() == v for f in findings) for v in ("right", "WRONG", "skipped")}
    blamed = sum(f.innocents for f in findings)
    print(", ".join(f"{n} {v}" for v, n in count.items()) + f"; innocents blamed: {blamed}")
    return 1 if count["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
