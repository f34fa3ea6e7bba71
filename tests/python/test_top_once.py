"""loopguard-top --once: numbers and verdicts, over segments written byte by byte."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import segwriter as sw
from segwriter import MS, NONE, STEP, S, Segment, pair
from viewing import endpoint, environment, program, top, top_json, validate, worker

NOW = 5_000_000 * MS + 12 * 3600 * S + 250 * MS  # a quarter into a second


def look(seg: Segment, *args: object, **more: Any) -> dict[str, Any]:
    """A live worker as --once --json sees it, at the segment's own moment."""
    with seg.live():
        return worker(os.getpid(), *args, now=seg.now, **more)


def autopsy(seg: Segment, path: Path, *args: object, **more: Any) -> dict[str, Any]:
    return worker("--file", seg.write(path / "worker.lg"), *args, now=seg.now, **more)


@contextlib.contextmanager
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()


# -- identity


def test_identity_of_a_live_worker_is_complete() -> None:
    w = look(sw.shop(now=NOW, app="api", server="uvicorn", worker_slot=3, up=7447 * S))
    assert (w["pid"], w["state"], w["post_mortem"]) == (os.getpid(), "live", False)
    assert (w["app"], w["server"], w["agent"]) == ("api", "uvicorn", "0.1.0")
    assert (w["layout"], w["python"], w["loop"]) == ("1.0", "3.12.7", "asyncio")
    assert (w["slot"], w["up_ms"], w["heartbeat_age_ms"]) == (3, 7_447_000, 0)
    assert w["ended_unix_ms"] is None
    assert w["lost_events"] == 0


def test_a_worker_without_a_loop_has_no_numbers_rather_than_zeros() -> None:
    w = look(Segment())
    assert (w["open"], w["tasks"], w["busy"], w["requests_per_s"]) == (None, None, None, None)
    assert w["lag_us"]["now"] is None
    assert w["windows"]["10s"]["blocks"] is None
    assert w["loops"] == []
    assert w["threadpool"] is None
    assert w["endpoints"] == []


@pytest.mark.parametrize(
    ("kinds", "text"),
    [([0], "asyncio"), ([1], "uvloop"), ([2], "other"), ([7], "other"), ([0, 1], "asyncio/uvloop")],
)
def test_kinds_of_loops_are_named(kinds: list[int], text: str) -> None:
    seg = Segment()
    for kind in kinds:
        seg.loop(kind=kind)
    assert look(seg)["loop"] == text


@pytest.mark.parametrize(
    ("hexed", "text"),
    [(0x030D00F0, "3.13.0"), (0x030E00A2, "3.14.0a2"), (0x030901C1, "3.9.1rc1"), (0, None)],
)
def test_python_version_is_read_from_its_number(hexed: int, text: str | None) -> None:
    assert look(Segment(python_version_hex=hexed))["python"] == text


# -- windows


@pytest.mark.parametrize(
    ("ago_s", "windows"),
    [
        (0, {"10s", "1m", "5m"}),
        (9, {"10s", "1m", "5m"}),
        (10, {"1m", "5m"}),
        (59, {"1m", "5m"}),
        (60, {"5m"}),
        (285, {"5m"}),
        (300, set()),
    ],
)
def test_a_block_counts_in_the_windows_that_reach_back_to_it(ago_s: int, windows: set[str]) -> None:
    seg = Segment(now=NOW)
    e = seg.endpoint("GET", "/x")
    seg.loop()
    seg.cell(
        e, ago_s, requests=3, steps=4, busy_us=90_000, blocked_us=80_000, blocks=1, max_us=80_000
    )
    seg.loop_cell(0, ago_s, busy_us=90_000, blocked_us=80_000, blocks=1, requests=3)
    for window in ("10s", "1m", "5m"):
        w = look(seg, "--window", window)
        row = endpoint(w, "/x")
        expected = 1 if window in windows else 0
        assert row["blocks"] == expected, window
        assert row["requests"] == 3 * expected
        assert row["steps"] == 4 * expected
        assert row["blocked_us"] == 80_000 * expected
        assert row["max_us"] == 80_000 * expected
        assert w["windows"][window]["blocks"] == expected
        assert w["windows"][window]["requests"] == 3 * expected


def test_a_cell_of_another_second_is_stale_and_counts_nothing() -> None:
    seg = Segment(now=NOW)
    e = seg.endpoint("GET", "/x")
    second = NOW // S - 64  # same place as now, one turn ago
    index = e * sw.CELLS + second % 64
    seg.put(11, index, "second_requests", pair(second, 500))
    assert endpoint(look(seg), "/x")["requests"] == 0


def test_a_cell_in_the_wrong_place_or_in_the_future_counts_nothing() -> None:
    seg = Segment(now=NOW)
    e = seg.endpoint("GET", "/x")
    seg.put(11, e * sw.CELLS + (NOW // S + 1) % 64, "second_requests", pair(NOW // S, 500))
    seg.put(11, e * sw.CELLS + (NOW // S + 3) % 64, "second_requests", pair(NOW // S + 3, 500))
    assert endpoint(look(seg), "/x")["requests"] == 0


def test_total_comes_from_the_counters() -> None:
    w = look(sw.shop(now=NOW), "-w", "total")
    row = endpoint(w, "/reports/{id}")
    assert (row["requests"], row["blocks"], row["blocked_us"]) == (192, 7, 4_930_000)
    assert row["total_parts_us"]["cpu"] == 4_000_000
    assert row["cumulative_events"] == 1
    assert row["waited_requests"] == 61
    assert row["status"]["2xx"] == 192


def test_rates_refer_to_the_time_that_the_window_covers() -> None:
    seg = Segment(now=NOW)  # 250 ms into its second
    e = seg.endpoint("GET", "/x")
    seg.cell(e, 3, requests=37, blocked_us=1_850_000, blocks=1)
    row = endpoint(look(seg), "/x")
    assert row["requests_per_s"] == pytest.approx(37 / 9.25, abs=0.001)
    assert row["blocked"] == pytest.approx(1.85 / 9.25, abs=0.0001)


def test_a_young_worker_is_not_spread_over_time_before_its_birth() -> None:
    seg = Segment(now=NOW, up=2 * S)
    e = seg.endpoint("GET", "/x")
    seg.loop()
    seg.cell(e, 1, requests=10)
    seg.loop_cell(0, 1, requests=10)
    w = look(seg, "-w", "5m")
    assert endpoint(w, "/x")["requests_per_s"] == pytest.approx(5.0, abs=0.01)
    assert w["windows"]["5m"]["covered_us"] == 2_000_000
    assert w["lag_us"]["series_1s"][:57] == [None] * 57


def test_sums_of_loops_are_added_and_shares_are_of_the_busiest() -> None:
    seg = Segment(now=NOW)
    for index, busy in enumerate((925_000, 4_625_000)):
        seg.loop(open_requests=2, tasks=5)
        for ago in range(1, 6):
            seg.loop_cell(index, ago, busy_us=busy // 5, requests=1, max_lag_us=busy // 5)
    w = look(seg)
    assert w["windows"]["10s"]["requests"] == 10
    assert w["busy"] == pytest.approx(0.5, abs=0.001)
    assert (w["open"], w["tasks"]) == (4, 10)
    assert w["loops"][0]["windows"]["10s"]["busy"] == pytest.approx(0.1, abs=0.001)


def test_lag_series_has_the_last_sixty_seconds() -> None:
    seg = Segment(now=NOW)
    seg.loop()
    seg.loop_cell(0, 0, max_lag_us=11)
    seg.loop_cell(0, 59, max_lag_us=22)
    seg.loop_cell(0, 60, max_lag_us=33)
    series = look(seg)["lag_us"]["series_1s"]
    assert (series[59], series[0], sum(series)) == (11, 22, 33)


# -- quantiles


def test_quantiles_of_a_window_come_from_records_that_cover_it() -> None:
    seg = Segment(now=NOW)
    e = seg.endpoint("GET", "/x")
    for n in range(100):
        seg.request(e, duration_us=2000, step_us=8 if n < 90 else 1500, ago_ns=n * 20 * MS)
    seg.put(8, e, "step_max_ns", 1500_000)
    seg.cell(e, 1, requests=100, max_us=1500)
    row = endpoint(look(seg), "/x")
    assert row["quantile_window"] == "records"
    assert row["p50_us"] == 9  # upper edge of [8, 9)
    assert row["p99_us"] == 1500  # its bucket ends at 1536, the longest was 1500
    assert row["response_us"]["p50"] == 2048


def test_records_that_do_not_reach_back_give_no_quantiles() -> None:
    seg = Segment(now=NOW)
    e = seg.endpoint("GET", "/x")
    for n in range(4200):  # the ring holds 4096: 9.6 s at 2 ms... 8.2 s
        seg.request(e, duration_us=100, step_us=10, ago_ns=(4200 - n) * 2 * MS)
    row = endpoint(look(seg), "/x")
    assert row["quantile_window"] is None
    assert row["p50_us"] is None
    assert row["hist_us"] is None


def test_a_full_ring_that_reaches_back_far_enough_gives_quantiles() -> None:
    seg = Segment(now=NOW)
    e = seg.endpoint("GET", "/x")
    for n in range(5000):
        seg.request(e, duration_us=100, step_us=10, ago_ns=(5000 - n) * 4 * MS)
    seg.cell(e, 1, max_us=100)
    row = endpoint(look(seg), "/x")
    assert (row["quantile_window"], row["p50_us"]) == ("records", 11)
    assert sum(b["count"] for b in row["hist_us"]) == 2500  # ten seconds of 250 a second


def test_quantiles_of_the_total_come_from_the_histogram_with_true_edges() -> None:
    seg = Segment(now=NOW)
    seg.endpoint("GET", "/x", steps_us=[5] * 6 + [1000] * 3 + [70_000], responses_us=[200_000])
    row = endpoint(look(seg, "-w", "total"), "/x")
    assert row["quantile_window"] == "total"
    assert (row["p50_us"], row["p90_us"], row["p99_us"]) == (6, 1024, 70_000)
    assert row["hist_us"] == [
        {"lo": 5, "hi": 6, "count": 6},
        {"lo": 992, "hi": 1024, "count": 3},
        {"lo": 69_632, "hi": 73_728, "count": 1},
    ]


def test_an_endpoint_without_steps_has_no_quantiles() -> None:
    seg = Segment(now=NOW)
    seg.endpoint("GET", "/x")
    row = endpoint(look(seg, "-w", "total"), "/x")
    assert (row["p50_us"], row["p99_us"], row["hist_us"]) == (None, None, [])


def test_lag_quantiles_are_known_for_the_total_only_at_first_sight() -> None:
    seg = sw.shop(now=NOW)
    assert look(seg)["lag_us"]["quantile_window"] is None
    assert look(seg)["lag_us"]["p99"] is None
    lag = look(seg, "-w", "total")["lag_us"]
    assert (lag["quantile_window"], lag["p50"]) == ("total", 304)


# -- blocked now


def test_blocked_now_names_everything_that_the_watchdog_knows() -> None:
    b = look(sw.blocked(now=NOW))["blocked_now"]
    assert (b["for_us"], b["threshold_us"], b["kind"]) == (1_270_000, 50_000, "step")
    assert (b["method"], b["route"]) == ("POST", "/reports/{id}")
    assert (b["request_id"], b["task"], b["loop"]) == ("008f21c4", "Task-8123", 0)
    assert (b["cause"], b["parts_us"]["cpu"], b["samples"]) == ("cpu", 1_270_000, 12)
    assert [f["func"] for f in b["stack"]][:3] == ["render_pdf", "build_report", "create_report"]
    assert b["stack"][0]["file"] == "/srv/shop/app/reports.py"
    assert b["waiting"]["requests"] == 8
    assert b["waiting"]["longest_us"] is None
    assert [(e["requests"], e["route"]) for e in b["waiting"]["endpoints"]] == [
        (5, "/health"),
        (3, "/search"),
    ]


def test_blocked_now_is_counted_in_the_row_as_far_as_it_got() -> None:
    seg = sw.blocked(now=NOW)
    calm = endpoint(look(sw.shop(now=NOW)), "/reports/{id}")
    row = endpoint(look(seg), "/reports/{id}")
    assert row["ongoing"]
    assert row["blocks"] == calm["blocks"] + 1
    assert row["blocked_us"] == calm["blocked_us"] + 1_270_000
    assert not calm["ongoing"]


def test_blocked_is_seen_without_a_watchdog_but_without_a_stack() -> None:
    b = look(sw.blocked(now=NOW, watched=False))["blocked_now"]
    assert (b["for_us"], b["route"], b["request_id"]) == (1_270_000, "/reports/{id}", "008f21c4")
    assert (b["stack"], b["cause"], b["parts_us"], b["samples"]) == (None, None, None, None)
    assert b["waiting"]["requests"] == 8  # nine open, one is its own


def test_a_stall_of_an_earlier_step_does_not_speak_for_this_one() -> None:
    seg = sw.blocked(now=NOW)
    seg.put(10, 0, "step", 78)
    b = look(seg)["blocked_now"]
    assert b["step"] == 78
    assert b["stack"] is None


@pytest.mark.parametrize(("ms", "blocked"), [(49, False), (50, False), (51, True)])
def test_blocked_begins_beyond_the_threshold_in_force(ms: int, blocked: bool) -> None:
    seg = sw.blocked(now=NOW, for_ns=ms * MS, watched=False)
    seg.put(10, 0, "awake_since_ns", 0)
    assert (look(seg)["blocked_now"] is not None) == blocked


def test_the_endpoints_own_threshold_wins() -> None:
    seg = sw.blocked(now=NOW, for_ns=1_270 * MS, watched=False)
    seg.put(10, 0, "awake_since_ns", 0)
    seg.put(8, 1, "in_flight_threshold_us", pair(1, 2_000_000))
    w = look(seg)
    assert w["blocked_now"] is None
    assert endpoint(w, "/reports/{id}")["threshold_us"] == 2_000_000


def test_a_long_iteration_is_blocked_under_the_name_of_the_loop() -> None:
    seg = sw.shop(now=NOW)
    seg.put(10, 0, "awake_since_ns", NOW - 300 * MS)
    b = look(seg)["blocked_now"]
    assert (b["kind"], b["for_us"], b["endpoint_kind"]) == ("iteration", 300_000, "loop")
    assert (b["method"], b["route"], b["request_id"]) == (None, "(loop)", None)


def test_a_long_iteration_that_the_watchdog_sees_has_its_callback() -> None:
    seg = sw.shop(now=NOW)
    callback = seg.endpoint("", "on_timer", kind="callback")
    seg.put(10, 0, "awake_since_ns", NOW - 300 * MS)
    ticket = seg.stall(
        endpoint=callback,
        start_ns=NOW - 300 * MS,
        duration_ns=290 * MS,
        kind="iteration",
        flags=sw.ONGOING,
        cause=None,
        step=100,
    )
    seg.put(10, 0, "stall_ticket", ticket + 1)
    b = look(seg)["blocked_now"]
    assert (b["kind"], b["endpoint_kind"], b["route"]) == ("iteration", "callback", "on_timer")
    assert b["cause"] is None


def test_a_background_task_after_the_response_is_told_as_such() -> None:
    seg = sw.blocked(now=NOW, watched=False)
    seg.put(10, 0, "state", STEP | 0x100)
    assert look(seg)["blocked_now"]["endpoint_kind"] == "background"


def test_a_loop_that_runs_on_between_two_reads_is_not_blocked() -> None:
    seg = sw.blocked(watched=False)
    seg.put(10, 0, "awake_since_ns", 0)
    stop = threading.Event()

    def run_on(file: mmap.mmap) -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            seq = struct.unpack_from("=Q", file, seg.offset(10))[0]
            struct.pack_into("=Q", file, seg.offset(10), seq + 1)
            struct.pack_into("=Q", file, seg.offset(10, 0, "step"), number)
            struct.pack_into("=Q", file, seg.offset(10), seq + 2)
            time.sleep(0.0002)

    with seg.live() as path, path.open("r+b") as raw, mmap.mmap(raw.fileno(), 0) as file:
        writer = threading.Thread(target=run_on, args=(file,))
        writer.start()
        try:
            # On a busy machine the writer may itself rest for 2 ms: then it is blocked.
            ran_on = any(worker(os.getpid(), now=seg.now)["blocked_now"] is None for _ in range(40))
        finally:
            stop.set()
            writer.join()
        rests = worker(os.getpid(), now=seg.now)["blocked_now"]
    assert ran_on
    assert rests["route"] == "/reports/{id}"


def test_of_two_stuck_loops_the_longer_one_is_told() -> None:
    seg = Segment(now=NOW)
    a, b = seg.endpoint("GET", "/a"), seg.endpoint("GET", "/b")
    for e, ms in ((a, 200), (b, 900)):
        seg.loop(
            state=STEP,
            endpoint=e,
            step=5,
            step_start_ns=NOW - ms * MS,
            awake_since_ns=NOW - ms * MS,
        )
    told = look(seg)["blocked_now"]
    assert (told["route"], told["loop"], told["for_us"]) == ("/b", 1, 900_000)


def test_a_closed_loop_is_not_blocked_and_has_no_lag() -> None:
    seg = Segment(now=NOW)
    seg.loop(state=sw.CLOSED, closed_ns=NOW - S, awake_since_ns=NOW - 5 * S)
    w = look(seg)
    assert w["blocked_now"] is None
    assert w["loops"][0]["closed"]
    assert w["loops"][0]["lag_now_us"] is None


def test_holder_of_the_gil_is_named_with_its_stack_and_endpoint() -> None:
    seg = sw.blocked(now=NOW, watched=False)
    holder = seg.endpoint("GET", "/sync")
    stack = seg.stack(("burn", "/srv/shop/app/burn.py", 3))
    ticket = seg.stall(
        endpoint=1,
        start_ns=NOW - 1270 * MS,
        duration_ns=1270 * MS,
        cause="gil",
        flags=sw.ONGOING,
        step=77,
        holder=holder,
        holder_stack=stack,
    )
    seg.put(10, 0, "stall_ticket", ticket + 1)
    b = look(seg)["blocked_now"]
    assert (b["cause"], b["holder_method"], b["holder_route"]) == ("gil", "GET", "/sync")
    assert b["holder_stack"][0]["func"] == "burn"


def test_a_stopped_process_is_stale_and_not_blocked() -> None:
    with other_process() as child:
        seg = sw.blocked(pid=child.pid, start_ticks=sw.start_ticks_of(child.pid))
        with seg.live():
            os.kill(child.pid, signal.SIGSTOP)
            deadline = time.monotonic() + 10
            while "State:\tT" not in Path(f"/proc/{child.pid}/status").read_text():
                assert time.monotonic() < deadline
            w = worker(child.pid, now=seg.now + 6 * S)
            text = top("-1", child.pid, now=seg.now + 6 * S, ok=True).stdout
            os.kill(child.pid, signal.SIGCONT)
    assert (w["state"], w["process_state"], w["blocked_now"]) == ("stale", "T", None)
    assert w["heartbeat_age_ms"] == 6000
    assert (w["lag_us"]["now"], w["busy"]) == (None, None)
    assert "heartbeat 6.00 s old. The process exists and is stopped (state T)." in text
    assert "STALE 6s" in text


def test_a_silent_agent_in_a_running_process_is_told() -> None:
    seg = sw.shop()
    with seg.live():
        w = worker(os.getpid(), now=seg.now + 6 * S)
    assert w["state"] == "stale"
    assert "runs, but the agent thread is silent" in w["message"]


# -- post-mortem


def test_died_while_in_a_request_is_told_with_its_stack(tmp_path: Path) -> None:
    seg = sw.blocked(now=NOW, for_ns=4 * S, pid=40977)
    w = autopsy(seg, tmp_path)
    d = w["died_in"]
    assert (w["state"], w["post_mortem"], w["blocked_now"]) == ("dead", True, None)
    assert (d["method"], d["route"], d["for_us"]) == ("POST", "/reports/{id}", 4_000_000)
    assert (d["over_threshold"], d["torn"]) == (True, False)
    assert d["stack"][0]["func"] == "render_pdf"
    text = top("-1", "-f", tmp_path / "worker.lg").stdout
    assert "while in POST /reports/{id}, 4.00 s into the step" in text


def test_time_stands_still_at_the_last_heartbeat_of_the_dead(tmp_path: Path) -> None:
    seg = sw.blocked(now=NOW, for_ns=4 * S, pid=40977)
    w = worker("--file", seg.write(tmp_path / "worker.lg"), now=seg.now + 9999 * S)
    assert w["died_in"]["for_us"] == 4_000_000
    assert w["up_ms"] == 600_000
    assert w["heartbeat_age_ms"] is None
    assert w["ended_unix_ms"] == (seg.now + seg.real_offset) // MS
    assert w["window"] == "total"
    assert w["windows"]["1m"]["blocks"] == 4


def test_a_line_that_was_being_written_at_death_is_told_as_torn(tmp_path: Path) -> None:
    seg = sw.blocked(now=NOW, pid=40977)
    seg.put(10, 0, "seq", 7)
    w = autopsy(seg, tmp_path)
    assert w["died_in"]["torn"]
    assert "not known for sure" in top("-1", "-f", tmp_path / "worker.lg").stdout


def test_a_short_step_at_death_is_told_but_is_no_block(tmp_path: Path) -> None:
    seg = sw.blocked(now=NOW, for_ns=3 * MS, watched=False, pid=40977)
    w = autopsy(seg, tmp_path)
    assert (w["died_in"]["for_us"], w["died_in"]["over_threshold"]) == (3000, False)
    assert not endpoint(w, "/reports/{id}")["ongoing"]


def test_an_idle_worker_died_in_nothing(tmp_path: Path) -> None:
    w = autopsy(sw.shop(now=NOW, pid=40977), tmp_path)
    assert (w["state"], w["died_in"]) == ("dead", None)


def test_a_clean_end_is_no_death(tmp_path: Path) -> None:
    seg = sw.blocked(now=NOW, pid=40977)
    seg.header["state"] = sw.EXITED
    w = autopsy(seg, tmp_path)
    assert (w["state"], w["died_in"]) == ("exited", None)


def test_the_event_in_progress_at_death_stays_ongoing(tmp_path: Path) -> None:
    w = autopsy(sw.blocked(now=NOW, pid=40977), tmp_path, "--events")
    assert w["events"][0]["ongoing"]
    assert w["events"][0]["waited"]["requests"] == 8
    assert [e["ongoing"] for e in w["events"][1:]] == [False] * 3


def test_a_note_on_stderr_says_that_the_dead_are_dead(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    path = seg.write(tmp_path / "worker.lg")
    done = top("-1", "-f", path, ok=True)
    when = time.strftime("%H:%M:%S", time.gmtime((seg.now + seg.real_offset) // S))
    assert done.stderr == (
        f"loopguard-top: {path}: this process has ended; showing its last state of {when}\n"
    )


# -- events


def test_events_are_newest_first_with_parts_stack_and_who_waited() -> None:
    w = look(sw.shop(now=NOW), "--events")
    first, second, third = w["events"]
    assert [e["duration_us"] for e in (first, second, third)] == [96_000, 1_840_000, 812_000]
    assert (first["kind"], first["cause"], first["call"]) == (
        "step",
        "io",
        "recv fd 11 <- 127.0.0.1:5432",
    )
    assert sum(first["parts_us"].values()) == first["duration_us"]
    assert second["waited"]["requests"] == 9
    assert second["waited"]["longest_us"] == 1_700_000
    assert [e["route"] for e in second["waited"]["endpoints"]] == ["/health", "/search"]
    assert first["request_id"] == "008f19a7"
    assert first["stack"][0]["short_file"] == "json/decoder.py"
    assert [f["user"] for f in first["stack"]][:2] == [False, True]
    assert w["lifecycle"] == [{"time_unix_ms": w["started_unix_ms"], "text": "worker started"}]


def test_events_below_the_wanted_length_are_left_out() -> None:
    w = look(sw.shop(now=NOW), "--events", "--min", "100")
    assert [e["duration_us"] for e in w["events"]] == [1_840_000, 812_000]


def test_events_are_filtered_by_endpoint_and_task() -> None:
    seg = sw.shop(now=NOW)
    seg.stall(endpoint=2, start_ns=NOW - S, duration_ns=60 * MS, task="nightly")
    assert len(look(seg, "-e", "-F", "SEARCH")["events"]) == 2
    assert len(look(seg, "-e", "-F", "nightly")["events"]) == 1
    assert len(look(seg, "-e", "-F", "nightly|reports")["events"]) == 3


def test_more_stalls_than_places_keep_the_newest() -> None:
    seg = Segment(now=NOW)
    e = seg.endpoint("GET", "/x")
    for n in range(600):
        seg.stall(endpoint=e, start_ns=NOW - (600 - n) * MS, duration_ns=60 * MS)
    w = look(seg, "--events")
    assert len(w["events"]) == 512
    assert "600 seen, newest 512 kept, 0 lost" in autopsy_text(seg)


def autopsy_text(seg: Segment) -> str:
    with seg.live():
        return top("-1", "-e", os.getpid(), now=seg.now, ok=True).stdout


def test_a_stall_that_never_rests_is_marked_torn() -> None:
    seg = sw.shop(now=NOW)
    seg.put(13, 1, "seq", 5)
    with seg.live():
        answer = worker(os.getpid(), "--events", now=seg.now)
        text = top("-1", os.getpid(), now=seg.now, ok=True).stdout
    assert [e["torn"] for e in answer["events"]] == [True, False, False]
    assert "1 row could not be read cleanly this time" in text


@pytest.mark.parametrize("number", range(10))
def test_every_cause_has_its_name(number: int) -> None:
    seg = sw.blocked(now=NOW)
    info = seg.get(13, 3, "info") & ~0xFF00
    seg.put(13, 3, "info", info | (number if number < 9 else 255) << 8)
    expected = [*sw.CAUSES, None][number]
    assert look(seg)["blocked_now"]["cause"] == expected


@pytest.mark.parametrize("kind", sw.STALL_KINDS)
def test_every_kind_of_event_has_its_name(kind: str) -> None:
    seg = sw.shop(now=NOW)
    seg.stall(endpoint=1, start_ns=NOW, duration_ns=MS, kind=kind)
    assert look(seg, "-e")["events"][0]["kind"] == kind


@pytest.mark.parametrize("kind", sw.KINDS)
def test_every_kind_of_endpoint_has_its_name(kind: str) -> None:
    seg = Segment(now=NOW)
    seg.endpoint("", "thing", kind=kind, steps_us=[5])
    row = endpoint(look(seg), "thing")
    assert (row["endpoint_kind"], row["method"]) == (kind, None)


@pytest.mark.parametrize("method", sw.METHODS[1:])
def test_every_method_has_its_name(method: str) -> None:
    seg = Segment(now=NOW)
    seg.endpoint(method, "/x")
    assert endpoint(look(seg), "/x")["method"] == method


# -- stacks of an endpoint


def test_stacks_of_an_endpoint_weigh_the_blocks_of_the_window() -> None:
    row = endpoint(look(sw.shop(now=NOW), "-w", "1m"), "/reports/{id}")
    (stack,) = row["stacks"]
    assert (stack["count"], stack["blocked_us"], stack["max_us"]) == (2, 2_652_000, 1_840_000)
    assert stack["share"] == 1
    assert stack["last_age_ms"] == 12_160
    assert [f["endpoint"] for f in stack["stack"]] == [False, False, True, False, False, False]
    short = endpoint(look(sw.shop(now=NOW), "-w", "10s"), "/reports/{id}")
    assert [s["count"] for s in short["stacks"]] == []


def test_who_waited_behind_an_endpoint_is_summed_over_the_window() -> None:
    waited = endpoint(look(sw.shop(now=NOW), "-w", "1m"), "/reports/{id}")["waited"]
    assert (waited["requests"], waited["longest_us"]) == (9, 1_700_000)


@pytest.mark.parametrize(
    ("file", "short", "user"),
    [
        ("/srv/shop/app/a.py", "app/a.py", True),
        ("/srv/shop/.venv/lib/python3.12/site-packages/orm/q.py", "orm/q.py", False),
        ("/usr/lib/python3/dist-packages/yaml/x.py", "yaml/x.py", False),
        ("/usr/lib/python3.12/json/decoder.py", "json/decoder.py", False),
        ("/opt/py/lib64/python3.9/ssl.py", "ssl.py", False),
        ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>", False),
        ("/home/ann/lib/shared/tool.py", "/home/ann/lib/shared/tool.py", True),
        ("relative.py", "relative.py", True),
        ("", "", False),
    ],
)
def test_files_are_cut_and_told_apart(file: str, short: str, user: bool) -> None:
    seg = sw.blocked(now=NOW, watched=False)
    stack = seg.stack(("f", file, 7))
    ticket = seg.stall(
        endpoint=1, start_ns=NOW - S, duration_ns=S, flags=sw.ONGOING, step=77, stack=stack
    )
    seg.put(10, 0, "stall_ticket", ticket + 1)
    (frame,) = look(seg)["blocked_now"]["stack"]
    assert (frame["short_file"], frame["user"], frame["file"]) == (short, user, file)


def test_a_stack_as_deep_as_the_layout_allows_is_shown_whole() -> None:
    seg = sw.blocked(now=NOW, watched=False)
    stack = seg.stack(*[(f"f{n}", "/srv/shop/a.py", n) for n in range(64)])
    ticket = seg.stall(
        endpoint=1, start_ns=NOW - S, duration_ns=S, flags=sw.ONGOING, step=77, stack=stack
    )
    seg.put(10, 0, "stall_ticket", ticket + 1)
    shown = look(seg)["blocked_now"]["stack"]
    assert [f["line"] for f in shown] == list(range(64))


def test_frames_that_are_linked_in_a_ring_end() -> None:
    seg = sw.blocked(now=NOW)
    inner = seg.get(18, 1, "frame_depth") & 0xFFFFFFFF
    seg.put(19, inner, "next", inner)
    assert len(look(seg)["blocked_now"]["stack"]) == 1


# -- choice and order


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("blocked", "/reports/{id}"),
        ("blocks", "/search"),
        ("max", "/reports/{id}"),
        ("p99", "/reports/{id}"),
        ("p50", "poll_queue"),
        ("rate", "/health"),
        ("open", "/health"),
        ("waited", "/reports/{id}"),
        ("total", "/search"),
        ("name", "(loop)"),
        ("busy", "/reports/{id}"),
        ("p90", "/reports/{id}"),
    ],
)
def test_rows_are_sorted_by_every_key(key: str, first: str) -> None:
    w = look(sw.shop(now=NOW), "-w", "total", "--sort", key)
    assert w["endpoints"][0]["route"] == first


def test_equal_rows_stand_in_the_order_of_their_names() -> None:
    seg = Segment(now=NOW)
    for name in ("/c", "/a", "/b"):
        seg.endpoint("GET", name)
    assert [e["route"] for e in look(seg)["endpoints"]] == ["/a", "/b", "/c"]


def test_filter_and_top_choose_rows() -> None:
    w = look(sw.shop(now=NOW), "--filter", "HEALTH|post")
    assert {e["route"] for e in w["endpoints"]} == {"/health", "/reports/{id}"}
    assert len(look(sw.shop(now=NOW), "--top", "2")["endpoints"]) == 2


def test_the_row_of_other_is_shown_when_something_was_counted_there() -> None:
    seg = Segment(now=NOW)
    seg.put(8, 0, "requests", 5)
    assert endpoint(look(seg, "-w", "total"), "(other)")["requests"] == 5


# -- pool, features, foreign text


def test_the_thread_pool_is_told_with_its_stuck_threads() -> None:
    seg = sw.shop(now=NOW)
    stack = seg.stack(("wait", "/srv/shop/db.py", 9))
    for field, value in (
        ("limit", 40),
        ("busy", 40),
        ("waiting", 20),
        ("high_water", 40),
        ("times_full", 3),
        ("submitted", 900),
        ("finished", 840),
        ("full_since_ns", NOW - 2 * S),
    ):
        seg.put(14, 0, field, value)
    seg.put(14, 0, "stuck", [pair(555, 2), NOW - 9 * S, stack, 0])
    pool = look(seg)["threadpool"]
    assert (pool["limit"], pool["busy"], pool["waiting"], pool["full_count"]) == (40, 40, 20, 3)
    assert pool["full_for_us"] == 2_000_000
    (stuck,) = pool["stuck"]
    assert (stuck["native_id"], stuck["route"], stuck["for_us"]) == (555, "/search", 9_000_000)
    assert stuck["stack"][0]["func"] == "wait"


def test_features_say_what_is_off_and_why() -> None:
    assert look(sw.shop())["features"] == [
        {"name": "hooks", "on": True, "why": None},
        {"name": "audit", "on": False, "why": "refused by the application"},
    ]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"/a\x1b[31mred", "/a?[31mred"),
        (b"/b\x00hidden", "/b"),
        (b"/c\xff\xfe", "/c??"),
        ("/d\u202eevil".encode(), "/d?evil"),
        ("/e/grün/日本".encode(), "/e/grün/日本"),
        (b'/f"quote\\', '/f"quote\\'),
        (b"/g\x7f\xc2\x9b", "/g??"),
    ],
)
def test_foreign_text_is_made_harmless(raw: bytes, shown: str) -> None:
    seg = Segment(now=NOW)
    index = seg.endpoint("GET", "/placeholder-route")
    seg.put(8, index, "key", seg.string(raw) | 1 << 40)
    assert endpoint(look(seg), shown)["method"] == "GET"
    assert "\x1b" not in autopsy_text(seg)


def test_ids_that_are_not_there_print_as_numbers_never_as_memory() -> None:
    seg = sw.blocked(now=NOW)
    seg.put(10, 0, "endpoint_task", pair(250, 60_000))
    b = look(seg)["blocked_now"]
    assert (b["route"], b["task"]) == ("?250", "?60000")


def test_counters_full_of_ones_do_not_wrap_or_crash() -> None:
    seg = sw.shop(now=NOW)
    for kind, count in ((8, 5), (10, 1), (14, 1), (4, 1)):
        for index in range(1 if kind == 8 else 0, count):
            for field in seg.layouts[kind].at:
                if field not in ("key", "seq", "reserved", "reserved_a", "kind_thread_name"):
                    width = seg.layouts[kind].at[field][2]
                    seg.put(kind, index, field, [NONE] * width)
    with seg.live():
        for window in ("10s", "total"):
            worker(os.getpid(), "-w", window, now=seg.now)
        top("-1", os.getpid(), ok=True)


# -- several workers


def test_two_workers_are_merged_in_text_and_kept_apart_in_json(tmp_path: Path) -> None:
    with other_process() as child, contextlib.ExitStack() as stack:
        a = sw.shop(now=NOW)
        b = sw.blocked(
            now=NOW, pid=child.pid, start_ticks=sw.start_ticks_of(child.pid), ppid=os.getppid()
        )
        stack.enter_context(a.live())
        stack.enter_context(b.live())
        text = top("-1", f"{os.getpid()},{child.pid}", now=NOW, ok=True).stdout
        answer = top_json(os.getpid(), child.pid, now=NOW)
    assert {w["pid"] for w in answer["workers"]} == {os.getpid(), child.pid}
    assert f"2 workers of uvicorn app.main:app (parent {os.getppid()})" in text
    (row,) = [line for line in text.splitlines() if "POST  /reports/{id}" in line]
    assert row.split()[0] == "4.95s"  # 1.84 + 1.84 + 1.27
    assert str(child.pid) in row  # the worst


def test_merged_rows_count_each_worker_once(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    one = seg.write(tmp_path / "a.lg")
    answer = top_json("-f", one, "-f", one)
    assert len(answer["workers"]) == 1


# -- options and words


def test_help_fits_eighty_columns_and_ends_with_examples() -> None:
    text = top("--help", ok=True).stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.startswith("Usage: loopguard-top [OPTION]... [PID]...\n")
    assert "Exit status: 0 ok; 1 error while running; 2 wrong usage; 3 nothing to watch;" in text
    assert text.splitlines()[-1].startswith("  loopguard-top -f worker.lg -e -1")
    for option in re.findall(r"--[a-z]+", text):
        assert "unrecognized" not in top(option, "--help").stderr, option


def test_version_is_the_first_line() -> None:
    assert re.match(r"loopguard-top \d+\.\d+\.\d+\n", top("--version", ok=True).stdout)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--delay", "0"], "--delay: '0' is not between 0.1 and 60 seconds"),
        (["-d", "61"], "--delay: '61' is not between 0.1 and 60 seconds"),
        (["-d", "nan"], "--delay: 'nan' is not between 0.1 and 60 seconds"),
        (["--window", "1h"], "--window: '1h' is not 10s, 1m, 5m or total"),
        (["--sort", "luck"], "--sort: no such key: 'luck' ('help' lists the keys)"),
        (["--color", "blue"], "--color: 'blue' is not auto, always or never"),
        (["41x"], "'41x' is not a process number"),
        (["-p", "12,,13"], "--pid: '12,,13' is not a process number"),
        (["-p", "0"], "--pid: '0' is not a process number"),
        (["99999999999"], "'99999999999' is not a process number"),
        (["--nonsense"], "unrecognized option '--nonsense'"),
        (["-x"], "invalid option -- 'x'"),
        (["--pid"], "'--pid': a value is missing"),
        (["--once=3"], "'--once=3': this option takes no value"),
        (["-f", "x", "-a"], "--file goes with no other choice of workers"),
        (["12", "--all"], "PID goes with neither --all nor --name"),
    ],
)
def test_wrong_usage_is_told_with_exit_status_two(args: list[str], text: str) -> None:
    done = top(*args)
    assert done.stderr == (
        f"loopguard-top: {text}\nTry 'loopguard-top --help' for more information.\n"
    )
    assert (done.returncode, done.stdout) == (2, "")


def test_options_for_every_day_come_from_the_variable() -> None:
    seg = sw.shop(now=NOW)
    assert look(seg, env={"LOOPGUARD_TOP": "-w 1m -N 1"})["window"] == "1m"
    assert look(seg, "-w", "5m", env={"LOOPGUARD_TOP": "-w 1m"})["window"] == "5m"
    done = top("--once", env={"LOOPGUARD_TOP": "41207"})
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "loopguard-top: LOOPGUARD_TOP: '41207' is not an option",
    )


def test_sort_help_lists_every_key() -> None:
    keys = [line.split()[0] for line in top("--sort=help", ok=True).stdout.splitlines()]
    assert keys[:3] == ["blocked", "blocks", "max"]
    assert len(keys) == 12


@pytest.mark.parametrize(("args", "colored"), [(["--color=always"], True), ([], False)])
def test_colour_is_only_used_when_it_is_wanted(args: list[str], colored: bool) -> None:
    seg = sw.blocked(now=NOW)
    with seg.live():
        text = top("-1", os.getpid(), *args, now=seg.now, ok=True).stdout
    assert ("\x1b[" in text) == colored


# -- batch


def test_batch_prints_as_often_as_told_one_object_a_line() -> None:
    with sw.shop().live():
        done = top("--batch", "--json", "-d", "0.1", "-c", "3", os.getpid(), ok=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        validate(json.loads(line))


def test_batch_ends_with_its_worker_and_says_so() -> None:
    with other_process() as child:
        seg = sw.shop(pid=child.pid, start_ticks=sw.start_ticks_of(child.pid))
        with seg.live() as path, path.open("r+b") as locked:
            fcntl.flock(locked, fcntl.LOCK_UN)
            viewer = subprocess.Popen(
                [program("loopguard-top"), "-b", "-j", "-d", "0.1", str(child.pid)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
                text=True,
            )
            assert viewer.stdout is not None
            first = json.loads(viewer.stdout.readline())
            child.kill()
            child.wait()
            out, err = viewer.communicate(timeout=20)
    # Without its lock the file says "dead" from the start: what counts is the end.
    assert first["workers"][0]["pid"] == child.pid
    assert viewer.returncode == 0
    assert json.loads(out.splitlines()[-1])["workers"][0]["post_mortem"] if out else True
    assert "exited at" in err or "has ended" in err


def test_batch_into_a_closed_pipe_ends_quietly() -> None:
    with sw.shop().live():
        viewer = subprocess.Popen(
            [program("loopguard-top"), "-b", "-j", "-d", "0.1", str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert viewer.stdout is not None
        viewer.stdout.readline()
        viewer.stdout.close()
        assert viewer.stderr is not None
        said = viewer.stderr.read()
        viewer.stderr.close()
        assert viewer.wait(timeout=20) in (0, -signal.SIGPIPE)
    assert said == b""


def test_new_counts_are_seen_by_a_viewer_that_is_watching() -> None:
    seg = sw.shop()
    with (
        seg.live() as path,
        path.open("r+b") as raw,
        mmap.mmap(raw.fileno(), 0) as file,
        subprocess.Popen(
            [
                program("loopguard-top"),
                "-b",
                "-j",
                "-w",
                "total",
                "-d",
                "0.1",
                "-c",
                "200",
                str(os.getpid()),
            ],
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        ) as viewer,
    ):
        assert viewer.stdout is not None
        before = endpoint(json.loads(viewer.stdout.readline())["workers"][0], "/health")
        bucket = seg.offset(9, 2 * 3 + 1) + 8 * sw.bucket_of(20_000)
        struct.pack_into("=Q", file, bucket, 5000)
        for field, value in (("steps", 6000), ("requests", 6000), ("step_max_ns", 20 * MS)):
            struct.pack_into("=Q", file, seg.offset(8, 3, field), value)
        deadline = time.monotonic() + 20
        while True:
            after = endpoint(json.loads(viewer.stdout.readline())["workers"][0], "/health")
            if after["requests"] == 6000 and after["p50_us"] != before["p50_us"]:
                break
            assert time.monotonic() < deadline
        viewer.kill()
    assert before["requests"] == 1000


def test_a_file_that_is_cut_while_watched_is_told() -> None:
    seg = sw.shop()
    with seg.live() as path:
        viewer = subprocess.Popen(
            [program("loopguard-top"), "-b", "-j", "-d", "0.1", str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert viewer.stdout is not None
        first = json.loads(viewer.stdout.readline())["workers"][0]
        os.truncate(path, 8192)
        out, err = viewer.communicate(timeout=20)
    last = json.loads(out.splitlines()[-1])["workers"][0]
    assert (first["state"], last["state"], viewer.returncode) == ("live", "cut", 0), err
    assert endpoint(last, "/health")["open"] == 5
