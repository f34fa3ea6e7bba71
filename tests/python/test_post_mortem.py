"""loopguard.post_mortem: what a segment holds, for scripts; the same figures as loopguard-top."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import segwriter as sw
import viewing
from agent_kit import Worker, script, until
from segwriter import MS, S, Segment

from loopguard import _segment, post_mortem

OLD = Path(__file__).resolve().parents[1] / "data" / "segment-1.0.lg"
PROPERTIES = [n for n, v in vars(post_mortem.Segment).items() if isinstance(v, property)]

# Where a name of ours is not that of the JSON with its unit changed.
RENAMED = {
    "blocked": "blocked_share",
    "busy": "busy_share",
    "hist_us": "histogram",
    "func": "function",
    "file": "filename",
    "line": "lineno",
    "short_file": "short_filename",
    "user": "is_user",
    "endpoint": "is_endpoint",
    "loop_index": "loop",
    "lo": "lo_ms",
    "hi": "hi_ms",
}
# Parts of others: told by the test of their own.
ELSEWHERE = {"p50_us", "p90_us", "p99_us", "p999_us", "quantile_window", "response_us"}
ELSEWHERE |= {"time_unix_ms", "wait_us"}


def compare(said: Any, got: Any, at: str) -> int:
    """Every figure of the JSON stands in the object; how many were compared."""
    if isinstance(said, dict) and not isinstance(got, Mapping):
        assert dataclasses.is_dataclass(got), f"{at}: {got!r}"
        done = 0
        for key, value in said.items():
            if key in ELSEWHERE or (key == "loop" and hasattr(got, "index")):
                continue
            name = (
                key
                if hasattr(got, key)
                else RENAMED.get(key, key.replace("_us", "_ms") if key.endswith("_us") else key)
            )
            done += compare(in_ms(key, value), getattr(got, name), f"{at}.{key}")
        return done
    if isinstance(said, dict):
        assert said.keys() == got.keys(), at
        return sum(compare(said[key], got[key], f"{at}[{key}]") for key in said)
    if isinstance(said, list):
        assert len(said) == len(got or ()), at
        return sum(compare(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(said, got or ())))
    assert said == got or (said is not None and got == pytest.approx(said)), f"{at}: {got!r}"
    return 1


def in_ms(key: str, value: Any) -> Any:
    if not (key.endswith("_us") or key in ("lo", "hi")) or value is None:
        return value
    if isinstance(value, dict):
        return {k: None if v is None else v / 1e3 for k, v in value.items()}
    if isinstance(value, list):
        return value if key == "hist_us" else [None if v is None else v / 1e3 for v in value]
    return value / 1e3


def agree(segment: post_mortem.Segment, said: dict[str, Any]) -> int:
    """All that `loopguard-top --json` said of this worker; how much was compared."""
    window = said["window"]
    assert segment.pid == said["pid"]
    assert (segment.ppid, segment.worker, segment.layout) == (
        said["ppid"],
        said["slot"],
        said["layout"],
    )
    for name in ("app", "server", "agent", "python", "open", "tasks", "lost_events", "message"):
        assert getattr(segment, name) == said[name], name
    assert segment.alive is not said["post_mortem"]
    assert segment.up_ms == said["up_ms"]
    assert segment.heartbeat_age_ms == said["heartbeat_age_ms"]
    assert segment.threshold_ms == in_ms("threshold_us", said["threshold_us"])
    assert unix_ms(segment.started_at) == said["started_unix_ms"]
    assert unix_ms(segment.ended_at) == said["ended_unix_ms"]
    assert [(f.name, f.on, f.reason) for f in segment.features.values()] == [
        (f["name"], f["on"], f["why"]) for f in said["features"]
    ]
    lag = segment.lag_in(window)
    told = said["lag_us"]
    assert (lag.now_ms, lag.max_ms, lag.max_ever_ms) == tuple(
        in_ms("_us", told[k]) for k in ("now", "max", "max_ever")
    )
    assert lag.quantiles.source == told["quantile_window"]
    assert list(lag.series_ms) == in_ms("_us", told["series_1s"])
    done = compare(said["windows"], segment.windows, "windows")
    endpoints = segment.endpoints_in(window)
    done += compare(said["endpoints"], endpoints, "endpoints")
    for row, figures in zip(said["endpoints"], endpoints):
        took = figures.steps_took
        assert took.p50_ms == in_ms("_us", row["p50_us"])
        assert took.p999_ms == in_ms("_us", row["p999_us"])
        assert took.source == row["quantile_window"]
        assert figures.responses_took.p99_ms == in_ms("_us", row["response_us"]["p99"])
    done += compare(said["events"], segment.events, "events")
    assert [unix_ms(e.at) for e in segment.events] == [e["time_unix_ms"] for e in said["events"]]
    assert [m.text for m in segment.lifecycle] == [m["text"] for m in said["lifecycle"]]
    done += compare(said["loops"], segment.loops, "loops")
    done += compare(said["threadpool"], segment.pool, "threadpool")
    done += compare(said["died_in"], segment.died_in, "died_in")
    return done + compare(said["blocked_now"], segment.blocked_now, "blocked_now")


def unix_ms(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)


def everything(segment: post_mortem.Segment) -> str:
    """All of it, as a person would look at it."""
    seen = [repr(segment)]
    seen += [f"{name}: {getattr(segment, name)!r}" for name in PROPERTIES]
    seen += [repr(segment.endpoints_in(window)) for window in ("10s", "1m", "5m")]
    seen += [repr(segment.histogram(e.method, e.route or "")) for e in segment.endpoints]
    return "\n".join(seen)


def dead_shop(**fields: object) -> Segment:
    """A worker that had a bit of everything, and was killed in a block."""
    seg = sw.blocked(pid=41207, **fields)
    for name, value in {"limit": 40, "busy": 40, "waiting": 3, "high_water": 40}.items():
        seg.put(14, 0, name, value)
    seg.put(14, 0, "stuck", [sw.pair(4711, 2), seg.now - 7 * S, 1, 0])
    seg.put(4, 0, "requests", 17)
    return seg


# -- the same figures


@pytest.mark.parametrize("window", ["10s", "1m", "5m", "total"])
def test_figures_of_the_dead_are_those_of_loopguard_top(window: str, tmp_path: Path) -> None:
    path = dead_shop().write(tmp_path / "worker.lg")
    said = viewing.worker("--file", path, "--window", window, "--events")
    with post_mortem.open(path) as segment:
        assert agree(segment, said) > 500


def test_figures_of_the_living_are_those_of_loopguard_top(monkeypatch: pytest.MonkeyPatch) -> None:
    seg = sw.blocked()
    monkeypatch.setenv("LOOPGUARD_TEST_NOW", str(seg.now))
    with seg.live():
        said = viewing.worker(os.getpid(), "--window", "total", "--events", now=seg.now)
        with post_mortem.open(os.getpid()) as segment:
            assert agree(segment, said) > 500
            assert segment.blocked_now is not None
            assert segment.state == "running"


def test_a_file_of_an_older_layout_is_read() -> None:
    with post_mortem.open(OLD) as segment:
        assert agree(segment, viewing.worker("--file", OLD, "--window", "total", "--events")) > 50


# -- what became of it


def test_death_in_a_block_is_told_with_request_age_and_stack(tmp_path: Path) -> None:
    with post_mortem.open(dead_shop().write(tmp_path / "w.lg")) as segment:
        died = segment.died_in
        assert segment.state == "killed in mid-block"
        assert died is not None
        assert (died.method, died.route, died.request_id) == ("POST", "/reports/{id}", "008f21c4")
        assert (died.for_ms, died.threshold_ms, died.over_threshold) == (1270.0, 50.0, True)
        assert died.stack is not None
        assert (died.stack[0].function, died.stack[0].lineno) == ("render_pdf", 88)
        assert died.stack[0].short_filename == "app/reports.py"
        assert "POST /reports/{id}, 1270 ms into the step, render_pdf" in repr(died)
        assert "killed in mid-block, died in POST /reports/{id}" in repr(segment)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda seg: seg.put(10, 0, "step_start_ns", seg.now - 3 * MS), "killed in mid-step"),
        (lambda seg: seg.put(10, 0, "state", sw.IDLE), "killed"),
        (lambda seg: seg.header.update(state=sw.EXITED), "exited"),
    ],
    ids=["short step", "idle", "clean"],
)
def test_each_way_to_end_has_its_word(change: Any, state: str, tmp_path: Path) -> None:
    seg = sw.blocked(pid=41207, watched=False)
    seg.put(10, 0, "awake_since_ns", 0)
    change(seg)
    with post_mortem.open(seg.write(tmp_path / "w.lg")) as segment:
        assert segment.state == state
        assert not segment.alive


def test_facts_that_no_screen_shows_are_there_too(tmp_path: Path) -> None:
    seg = dead_shop(stack_depth=32)
    with post_mortem.open(seg.write(tmp_path / "w.lg")) as segment:
        assert segment.config.threshold_ms == 50.0
        assert segment.config.stack_depth == 32
        assert segment.config.keep_segment == "crash"
        assert segment.counters["requests"] == 17
        assert segment.tables["endpoints"] == (6, 256)
        assert segment.process["exe"] == "/usr/bin/python3.12"
        assert segment.damage == ()
        assert segment.path == str(tmp_path / "w.lg")


def test_stacks_history_and_records_are_whole(tmp_path: Path) -> None:
    seg = dead_shop()
    with post_mortem.open(seg.write(tmp_path / "w.lg")) as segment:
        first = segment.stacks[0]
        assert (first.label if hasattr(first, "label") else first.route) == "/reports/{id}"
        assert first.frames[0].function == "render_pdf"
        assert first.frames[0].is_user
        cell = max(segment.history.endpoints, key=lambda c: (c.seconds == 1, c.blocked_ms))
        assert (cell.requests, cell.blocked_ms, cell.blocks, cell.waited) == (30, 1840.0, 1, 9)
        assert abs((cell.at - datetime.now(timezone.utc)).total_seconds()) < 60
        request = segment.requests[0]
        assert (request.method, request.route, request.status) == ("POST", "/reports/{id}", 200)
        assert (request.duration_ms, request.on_loop_ms) == (310.0, 41.0)
        assert [r.kind for r in segment.records] == ["lifecycle"]
        buckets = segment.histogram("POST", "/reports/{id}")
        assert sum(b.count for b in buckets) == 193
        assert segment.histogram("POST", "/nowhere") == ()


def test_all_that_is_given_out_is_frozen(tmp_path: Path) -> None:
    with post_mortem.open(dead_shop().write(tmp_path / "w.lg")) as segment:
        with pytest.raises(dataclasses.FrozenInstanceError):
            segment.endpoints[0].blocks = 0  # type: ignore[misc]
        with pytest.raises(TypeError):
            segment.windows["10s"] = None  # type: ignore[index]
        assert segment.endpoints is segment.endpoints


# -- living


def test_refresh_sees_what_was_counted_since() -> None:
    seg = sw.shop()
    with seg.live() as path, post_mortem.open(os.getpid()) as segment:
        before = {e.route: e.requests for e in segment.endpoints}
        first = segment.taken_at
        with path.open("r+b") as file:
            file.seek(seg.offset(8, 1, "requests"))
            file.write(struct.pack("=Q", before["/reports/{id}"] + 5))
        assert {e.route: e.requests for e in segment.endpoints} == before
        after = {e.route: e.requests for e in segment.refresh().endpoints}
        assert after["/reports/{id}"] == before["/reports/{id}"] + 5
        assert segment.taken_at > first


def test_a_line_that_never_rests_is_never_handed_out_half(tmp_path: Path) -> None:
    seg = sw.shop()
    stop = threading.Event()

    def keep_writing(path: Path) -> None:
        # Two words that belong together, in the order of the agent.
        with path.open("r+b", buffering=0) as file:
            at = seg.offset(10)
            number = 2
            while not stop.is_set():
                os.pwrite(file.fileno(), struct.pack("=Q", number + 1), at)
                os.pwrite(file.fileno(), struct.pack("=QQ", sw.STEP, number), at + 8)
                os.pwrite(file.fileno(), struct.pack("=Q", seg.now), at + 24)
                os.pwrite(file.fileno(), struct.pack("=Q", sw.pair(1, number)), at + 32)
                os.pwrite(file.fileno(), struct.pack("=Q", number + 2), at)
                number += 2

    with seg.live() as path, post_mortem.open(os.getpid()) as segment:
        writer = threading.Thread(target=keep_writing, args=(path,))
        writer.start()
        try:
            seen = 0
            for _ in range(200):
                now = segment.refresh().blocked_now
                if now is not None:
                    seen += 1
                    assert now.task is not None
                    assert (now.method, now.route) == ("POST", "/reports/{id}")
        finally:
            stop.set()
            writer.join()


def test_a_file_that_is_cut_while_looked_at_is_told_and_kills_nobody() -> None:
    seg = sw.shop()
    with seg.live() as path, post_mortem.open(os.getpid()) as segment:
        os.truncate(path, sw.PAGE)
        assert segment.refresh().state == "cut short"
        assert segment.endpoints  # the last whole picture stays


def test_the_gil_is_free_while_a_segment_is_read() -> None:
    seg = sw.blocked()  # the rule of two reads sleeps 2 ms in each refresh
    counted = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            counted += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    with seg.live(), post_mortem.open(os.getpid()) as segment:
        sys.setswitchinterval(10)  # the other thread runs when the GIL is given away, or never
        thread = threading.Thread(target=count)
        try:
            thread.start()
            before = counted
            for _ in range(20):
                segment.refresh()
            during = counted - before
        finally:
            sys.setswitchinterval(interval)
            stop.set()
            thread.join()
    assert during > 0


def test_a_real_worker_is_read_alive_and_after_it_was_killed_in_a_block(tmp_path: Path) -> None:
    app = """
    import time
    from fastapi import FastAPI
    import loopguard

    app = FastAPI()
    app.add_middleware(loopguard.LoopGuardMiddleware)

    @app.get("/quick")
    async def quick():
        return {}

    @app.get("/stuck")
    async def stuck():
        time.sleep(60)
    """
    with Worker(tmp_path, app) as worker:
        assert worker.get("/quick")[0] == 200
        with post_mortem.open(worker.pid) as segment:
            until(
                lambda: [e for e in segment.refresh().endpoints if e.route == "/quick"], "counted"
            )
            assert segment.alive
            assert segment.state == "running"
            assert segment.app == "uvicorn application:app"
            (found,) = [f for f in post_mortem.segments("application:app") if f.pid == worker.pid]
            assert found.alive
            asking = threading.Thread(target=ignore_end, args=(worker, "/stuck"))
            asking.start()
            until(
                lambda: (now := segment.refresh().blocked_now) and now.for_ms > 200 and now.stack,
                "the block",
            )
            assert segment.blocked_now is not None
            assert segment.blocked_now.route == "/stuck"
            assert segment.blocked_now.cause == "io"
            worker.tell(signal.SIGKILL)
            worker.process.wait()
            asking.join()
        with post_mortem.open(worker.pid) as segment:
            assert segment.state == "killed in mid-block"
            assert segment.died_in is not None
            assert segment.died_in.route == "/stuck"
            assert segment.died_in.for_ms > 100
            assert segment.died_in.stack is not None
            assert segment.died_in.stack[0].function == "stuck"


def ignore_end(worker: Worker, path: str) -> None:
    """A request whose worker is killed before it answers."""
    with pytest.raises((ConnectionError, OSError)):
        worker.get(path)


# -- what is in the way


@pytest.mark.parametrize(
    ("named", "error", "words"),
    [
        (2**22 + 1, ProcessLookupError, "no such process"),
        ("/nowhere/worker.lg", FileNotFoundError, "/nowhere/worker.lg"),
        (__file__, ValueError, "not a loopguard segment"),
    ],
    ids=["pid", "path", "other file"],
)
def test_what_is_not_there_is_named(named: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        post_mortem.open(named)


def test_a_process_without_the_agent_is_told_with_the_next_step() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        until(lambda: b"-c" in Path(f"/proc/{child.pid}/cmdline").read_bytes(), "exec")
        with pytest.raises(FileNotFoundError, match=f"{child.pid}: the loopguard agent is not"):
            post_mortem.open(child.pid)
    finally:
        child.communicate()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"magic": b"NOTMINE\n"}, "not a loopguard segment"),
        ({"magic": bytes(8)}, "has not finished starting"),
        ({"abi_major": 9}, "writes layout 9.*Install the loopguard-top"),
        ({"endian_tag": 0x04030201}, "another kind of machine"),
    ],
    ids=["magic", "birth", "version", "endian"],
)
def test_foreign_files_are_refused_in_words(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    seg = sw.shop(pid=41207)
    seg.header.update(change)
    with pytest.raises(ValueError, match=words):
        post_mortem.open(seg.write(tmp_path / "w.lg"))


def test_a_closed_segment_says_so_and_keeps_what_was_looked_at(tmp_path: Path) -> None:
    with post_mortem.open(dead_shop().write(tmp_path / "w.lg")) as segment:
        rows = segment.endpoints
    assert segment.endpoints is rows
    with pytest.raises(ValueError, match="closed"):
        segment.refresh()
    with pytest.raises(ValueError, match="closed"):
        segment.history
    segment.close()


def test_wrong_words_are_named(tmp_path: Path) -> None:
    with post_mortem.open(dead_shop().write(tmp_path / "w.lg")) as segment:
        with pytest.raises(ValueError, match="'10s', '1m', '5m' or 'total', not '2h'"):
            segment.endpoints_in("2h")
        with pytest.raises(ValueError, match="'on_loop' or 'response'"):
            segment.histogram("GET", "/", "cpu")
    with pytest.raises(ValueError, match="no part 'x'"):
        _segment.Reader(0, str(tmp_path / "w.lg")).part("x")


# -- untrusted bytes


def test_any_changed_byte_gives_an_error_or_plausible_figures(tmp_path: Path) -> None:
    seg = Segment(endpoints=8, pid=41207)
    reports = seg.endpoint("POST", "/reports/{id}", steps_us=[900, 1_800_000], responses_us=[9])
    seg.cell(reports, 2, requests=3, blocked_us=1_800_000, blocks=1)
    loop = seg.loop(state=sw.STEP, step=7, step_start_ns=seg.now - S, endpoint=reports)
    seg.loop_cell(loop, 1, iterations=9)
    seg.stall(
        endpoint=reports,
        start_ns=seg.now - 2 * S,
        duration_ns=S,
        stack=seg.stack(("work", "/srv/shop/app/work.py", 9), endpoint=reports),
    )
    seg.request(reports, duration_us=9_000, step_us=900)
    path = seg.write(tmp_path / "worker.lg")
    whole = path.read_bytes()
    used = [(0, sw.PAGE)] + [
        (s["offset"], s["offset"] + min(s["length"], 8 * s["stride"] if kind != 7 else 512))
        for kind, s in seg.sections.items()
    ]
    dice = random.Random(20261121)
    refused = []
    with path.open("r+b", buffering=0) as file:
        for _ in range(500):
            at = dice.randrange(*dice.choice(used))
            os.pwrite(file.fileno(), bytes([whole[at] ^ dice.randrange(1, 256)]), at)
            try:
                segment = post_mortem.open(path)
            except ValueError as error:
                refused.append(str(error))
            else:
                with segment:
                    everything(segment)
            os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert 0 < len(refused) < 250
    assert all(str(path) in words for words in refused)


def test_a_file_cut_anywhere_gives_what_is_whole(tmp_path: Path) -> None:
    whole = dead_shop().bytes()
    path = tmp_path / "worker.lg"
    dice = random.Random(7)
    places = [0, 1, 63, 64, 4095, 4096, len(whole) - 1]
    places += [dice.randrange(sw.PAGE, len(whole)) for _ in range(40)]
    for size in places:
        path.write_bytes(whole[:size])
        if size < sw.PAGE:
            with pytest.raises(ValueError, match=r"cut short|not a loopguard segment|empty"):
                post_mortem.open(path)
            continue
        with post_mortem.open(path) as segment:
            assert "pid" in everything(segment)


def test_a_live_segment_of_damaged_bytes_is_as_harmless() -> None:
    seg = sw.blocked(endpoints=8)
    whole = seg.bytes()
    dice = random.Random(3)
    with seg.live() as path, path.open("r+b", buffering=0) as file:
        for _ in range(60):
            at = dice.randrange(sw.PAGE, sw.PAGE + 200_000)
            os.pwrite(file.fileno(), bytes([dice.randrange(256)] * 8), at)
            with post_mortem.open(os.getpid()) as segment:
                everything(segment)
            os.pwrite(file.fileno(), whole[at : at + 8], at)


def test_no_lock_and_no_signal_handler_is_left_behind() -> None:
    seg = sw.shop()
    looking = """
    import os, sys

    def caught():
        return open("/proc/self/status").read().split("SigCgt:")[1].split()[0]

    before = caught()
    from loopguard import post_mortem
    with post_mortem.open(sys.argv[1]) as segment:
        segment.refresh()
        assert caught() == before
        maps = open("/proc/self/maps").read()
        assert "loopguard.%d." % os.getppid() not in maps, maps
    """
    with seg.live() as path:
        script(looking, str(path))
        with path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the writer's is there


def test_hundreds_of_segments_leave_no_memory_behind(tmp_path: Path) -> None:
    dead_shop(endpoints=8).write(tmp_path / "w.lg")
    (tmp_path / "bad.lg").write_bytes(b"x" * 5000)
    looking = """
    import gc, os, sys
    from loopguard import post_mortem

    def look(times):
        for _ in range(times):
            with post_mortem.open(sys.argv[1] + "/w.lg") as segment:
                segment.endpoints, segment.events, segment.stacks, segment.history
            try:
                post_mortem.open(sys.argv[1] + "/bad.lg")
            except ValueError:
                pass
        gc.collect()
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = look(50)
    after = look(400)
    assert after - before < 1 << 20, (before, after)
    """
    script(looking, str(tmp_path))
