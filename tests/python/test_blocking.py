"""Blocking calls on event loops: aiocop's functions, and where it was wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import re
import select
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from agent_kit import DEADLINE_S, LOOPS, run, until

import loopguard
from loopguard import blocking

HERE = __file__.replace("/src/", "\0").rpartition("\0")[2]  # as traces have it
Events = list[blocking.SlowTaskEvent]


@pytest.fixture(params=sorted(LOOPS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def events() -> Iterator[Events]:
    """Everything set up, 20 ms, not yet active; what the callback was told."""
    told: Events = []
    blocking.patch_audit_functions()
    blocking.start_blocking_io_detection()
    blocking.detect_slow_tasks(threshold_ms=20, on_slow_task=told.append)
    yield told
    blocking.reset()
    loopguard.stop()


def line_of(text: str) -> int:
    """Number of the one line of this file that ends in the comment `text`."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines, 1) if line.endswith("# " + text)]
    assert len(found) == 1, (text, found)
    return found[0]


def place(text: str, function: str) -> str:
    return f"{HERE}:{line_of(text)}:{function}"


async def condition(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.002)


def with_call(events: Events, name: str) -> Events:
    return [e for e in events if any(c["event"].startswith(name) for c in e.blocking_events)]


async def open_a_file() -> None:
    with open(os.devnull, "w"):  # opens
        pass
    await asyncio.sleep(0)


def burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:  # burns
        pass


# ---- what is told --------------------------------------------------------------


def test_a_call_under_the_threshold_is_told_after_its_step(kind: str, events: Events) -> None:
    async def main() -> None:
        blocking.activate()
        await asyncio.gather(open_a_file(), open_a_file())

    run(kind, main())
    opened = with_call(events, "open(/dev/null, w, ")
    assert len(opened) == 2
    event = opened[0]
    assert event.reason == "io_blocking"
    assert not event.exceeded_threshold
    assert (event.severity_score, event.severity_level) == (10, "medium")
    assert (event.threshold_ms, event.context, event.cpu_stack_samples) == (20.0, {}, [])
    call = event.blocking_events[0]
    assert call["entry_point"] == place("opens", "open_a_file")
    assert call["trace"].startswith(call["entry_point"] + " <- ")
    assert 0 < call["duration_ms"] <= event.elapsed_ms
    assert sum(event.blocked_ms.values()) == pytest.approx(event.elapsed_ms, rel=0.05)


def test_a_long_step_without_a_call_is_cpu_and_shows_its_stack(kind: str, events: Events) -> None:
    async def compute() -> None:
        burn(0.08)

    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(compute())

    run(kind, main())
    event = max(events, key=lambda e: e.elapsed_ms)
    assert event.reason == "cpu_blocking"
    assert event.exceeded_threshold
    assert (event.severity_score, event.severity_level) == (0, "low")
    assert event.blocking_events == []
    assert 80 <= event.elapsed_ms < 1000
    computed = event.blocked_ms["cpu"] + event.blocked_ms.get("scheduler", 0)
    assert computed > event.elapsed_ms * 0.7
    assert 1 <= sum(sample["count"] for sample in event.cpu_stack_samples) <= 32
    counts = [sample["count"] for sample in event.cpu_stack_samples]
    assert counts == sorted(counts, reverse=True)
    assert any(
        re.match(re.escape(HERE) + r":\d+:burn <- ", sample["trace"] + " <- ")
        for sample in event.cpu_stack_samples
    )


def test_a_call_of_c_that_holds_the_gil_is_sampled(events: Events) -> None:
    async def compute() -> None:
        sum(range(20_000_000))

    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(compute())

    run("asyncio", main())
    event = max(events, key=lambda e: e.elapsed_ms)
    assert event.elapsed_ms > 60
    samples = [s for s in event.cpu_stack_samples if s["entry_point"].endswith(":compute")]
    assert sum(sample["count"] for sample in samples) >= 3


def test_the_first_loop_after_activate_is_seen_from_its_first_step(
    kind: str, events: Events
) -> None:
    async def main() -> None:
        await asyncio.sleep(0.001)
        time.sleep(0.03)

    blocking.activate()
    run(kind, main())
    slept = with_call(events, "time.sleep(0.03)")
    assert len(slept) == 1
    assert slept[0].exceeded_threshold
    assert 30 <= slept[0].elapsed_ms < 500
    assert slept[0].blocking_events[0]["duration_ms"] == pytest.approx(30, abs=25)
    assert blocking.get_severity_level_from_score(slept[0].severity_score) == "high"


def test_the_last_callbacks_of_a_loop_are_told_when_it_ends(kind: str, events: Events) -> None:
    async def main() -> None:
        blocking.activate()
        await asyncio.sleep(0)
        time.sleep(0.001)

    loop = LOOPS[kind]()
    loop.run_until_complete(main())
    told = len(with_call(events, "time.sleep"))
    time.sleep(0.05)  # outside of the loop: nobody's
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert told == 1
    assert len(with_call(events, "time.sleep")) == 1
    assert max(event.elapsed_ms for event in events) < 50


def test_at_most_fifty_calls_of_a_slice_are_kept(events: Events) -> None:
    async def main() -> None:
        blocking.activate()

        async def many() -> None:
            for _ in range(60):
                os.stat(os.devnull)

        await asyncio.create_task(many())

    run("asyncio", main())
    assert [len(e.blocking_events) for e in with_call(events, "os.stat")] == [50]


def test_calls_can_be_forgotten(events: Events) -> None:
    async def forget() -> None:
        os.stat(os.devnull)
        blocking.reset_blocking_events()

    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(forget())

    run("asyncio", main())
    assert with_call(events, "os.stat") == []


# ---- where the original was wrong ----------------------------------------------


class Reader(asyncio.Protocol):
    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes) -> None:
        time.sleep(0.03)  # in a protocol
        self.got += data


def test_a_protocol_that_blocks_is_seen(kind: str, events: Events) -> None:
    async def main() -> None:
        blocking.activate()
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, reader = await loop.create_connection(Reader, sock=ours)
            theirs.send(b"x")
            await condition(lambda: reader.got)
            await condition(lambda: with_call(events, "time.sleep(0.03)"))
            transport.close()

    run(kind, main())
    event = with_call(events, "time.sleep(0.03)")[0]
    assert event.elapsed_ms >= 30
    assert event.reason == "io_blocking"
    assert event.blocking_events[0]["entry_point"] == place("in a protocol", "data_received")


@pytest.mark.parametrize("how", ["reader", "timer", "soon"])
def test_a_callback_that_computes_is_seen(kind: str, how: str, events: Events) -> None:
    async def main() -> None:
        blocking.activate()
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        done: list[bool] = []

        def callback() -> None:
            loop.remove_reader(ours)
            burn(0.1)
            done.append(True)

        with ours, theirs:
            if how == "reader":
                loop.add_reader(ours, callback)
                theirs.send(b"x")
            elif how == "timer":
                loop.call_later(0.001, callback)
            else:
                loop.call_soon(callback)
            await condition(lambda: done and [e for e in events if e.elapsed_ms >= 50])

    run(kind, main())
    event = next(e for e in events if e.elapsed_ms >= 50)
    assert event.reason == "cpu_blocking"
    assert any(":burn" in sample["trace"] for sample in event.cpu_stack_samples)


def test_a_loop_outside_of_the_main_thread_is_no_different(kind: str, events: Events) -> None:
    async def main() -> None:
        await asyncio.sleep(0.001)
        time.sleep(0.03)
        await asyncio.sleep(0.001)

    blocking.activate()
    thread = threading.Thread(target=run, args=(kind, main()))
    thread.start()
    thread.join(DEADLINE_S)
    slept = with_call(events, "time.sleep(0.03)")
    assert [event.severity_level for event in slept] == ["high"]


def test_loops_of_several_threads_do_not_mix(kind: str, events: Events) -> None:
    async def work(mine: int) -> None:
        for _ in range(10):
            os.stat(f"/proc/self/task/{mine}")
            await asyncio.sleep(0.001)

    def thread() -> None:
        async def main() -> None:
            await asyncio.create_task(work(threading.get_native_id()))

        run(kind, main())

    told_on: list[tuple[int, str]] = []

    def note(event: blocking.SlowTaskEvent) -> None:
        told_on.extend((threading.get_native_id(), call["event"]) for call in event.blocking_events)

    blocking.register_slow_task_callback(note)
    blocking.activate()
    threads = [threading.Thread(target=thread) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(DEADLINE_S)
    seen = [(tid, text) for tid, text in told_on if text.startswith("os.stat(/proc/self/task/")]
    assert len(seen) == 30
    assert all(text == f"os.stat(/proc/self/task/{tid})" for tid, text in seen)


def test_a_wait_without_an_audit_event_is_a_blocking_call_with_its_time(
    kind: str, events: Events
) -> None:
    async def wait() -> None:
        select.select([], [], [], 0.06)  # waits

    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(wait())

    run(kind, main())
    event = max(events, key=lambda e: e.elapsed_ms)
    assert event.reason == "io_blocking"
    call = event.blocking_events[0]
    assert call["event"].startswith(("sleep(", "select("))
    assert 60 <= call["duration_ms"] <= event.elapsed_ms
    assert call["entry_point"] == place("waits", "wait")
    assert event.blocked_ms["io"] >= 60
    assert event.severity_level == "high"


def test_a_blocking_socket_is_told_with_its_time_and_a_non_blocking_one_is_not(
    events: Events,
) -> None:
    async def receive() -> None:
        ours, theirs = socket.socketpair()
        sockets.extend([ours, theirs])
        timer = threading.Timer(0.03, theirs.send, [b"x"])
        timer.start()
        ours.recv(1)
        timer.join()

    async def pass_by() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                ours.recv(2)

    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(pass_by())
        assert with_call(events, "socket.socket.recv") == []
        await asyncio.create_task(receive())

    sockets: list[socket.socket] = []
    run("asyncio", main())
    for each in sockets:
        each.close()
    call = with_call(events, "socket.socket.recv")[0].blocking_events[0]
    assert call["event"].startswith("socket.socket.recv(<socket.socket fd=")
    assert call["duration_ms"] >= 20


def test_a_request_is_named_without_a_provider(events: Events) -> None:
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    from fastapi import FastAPI  # noqa: PLC0415 (not for every Python)

    app = FastAPI()

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> dict[str, int]:
        time.sleep(0.002)
        return {"item": item_id}

    loopguard.install(app)
    blocking.activate()

    async def main() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/items/3")).json() == {"item": 3}

    run("asyncio", main())
    slept = with_call(events, "time.sleep(0.002)")
    assert len(slept) == 1
    about = slept[0].context["loopguard"]
    assert (about["method"], about["route"]) == ("GET", "/items/{item_id}")
    assert re.fullmatch("[0-9a-f]{8}", about["request_id"])


# ---- context and callbacks -----------------------------------------------------

user: ContextVar[str] = ContextVar("user", default="nobody")


def test_providers_and_callbacks_run_in_the_context_of_the_task(kind: str, events: Events) -> None:
    told: list[tuple[str, str]] = []

    def note(event: blocking.SlowTaskEvent) -> None:
        if with_call([event], "open"):
            told.append((event.context["user"], user.get()))

    def provide() -> dict[str, Any]:
        return {"user": user.get()}

    async def of(name: str) -> None:
        user.set(name)
        await asyncio.sleep(0)
        await open_a_file()

    async def main() -> None:
        blocking.activate()
        await asyncio.gather(of("ann"), of("bob"))

    blocking.register_context_provider(provide)
    blocking.register_slow_task_callback(note)
    run(kind, main())
    assert told == [("ann", "ann"), ("bob", "bob")]


def test_callbacks_between_steps_have_their_context_too(kind: str, events: Events) -> None:
    blocking.register_context_provider(lambda: {"user": user.get()})

    async def main() -> None:
        blocking.activate()
        user.set("timer")
        asyncio.get_running_loop().call_later(0.001, os.stat, os.devnull)
        user.set("main")
        await condition(lambda: with_call(events, "os.stat"))

    run(kind, main())
    assert with_call(events, "os.stat")[0].context == {"user": "timer"}


def test_a_callback_that_fails_or_is_slow_is_logged_once_and_harms_nobody(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: blocking.SlowTaskEvent) -> None:
        raise RuntimeError("ours is broken")

    def slow(_: blocking.SlowTaskEvent) -> None:
        time.sleep(0.025)

    def wrong() -> dict[str, Any]:
        raise LookupError("no context")

    async def main() -> None:
        blocking.activate()
        for _ in range(3):
            await asyncio.create_task(open_a_file())

    blocking.clear_slow_task_callbacks()
    for callback in (broken, slow, events.append):
        blocking.register_slow_task_callback(callback)
    blocking.register_context_provider(wrong)
    with caplog.at_level(logging.WARNING, "loopguard"):
        run("asyncio", main())
    assert len(with_call(events, "open")) == 3
    assert with_call(events, "time.sleep") == []  # what callbacks call is not monitored
    troubles = blocking.callback_troubles()
    assert troubles["raised"] >= 6
    assert troubles["slow"] >= 3
    texts = [record.getMessage() for record in caplog.records]
    for name in ("broken", "slow", "wrong"):
        assert sum(f"{name} at" in text for text in texts) == 1, texts


def test_a_callback_may_start_a_task_and_need_not_wait_for_it(kind: str, events: Events) -> None:
    ran: list[bool] = []

    async def alarm() -> None:
        ran.append(True)

    def note(event: blocking.SlowTaskEvent) -> None:
        if with_call([event], "os.stat"):
            tasks.append(asyncio.ensure_future(alarm()))

    tasks: list[asyncio.Future[None]] = []

    async def main() -> None:
        blocking.activate()
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, os.stat, os.devnull)
        began = time.monotonic()
        guard = loop.call_later(DEADLINE_S, loop.stop)
        event = asyncio.Event()
        alarm_at: list[float] = []

        async def watch_for_it() -> None:
            while not ran:
                await asyncio.sleep(0.05)
            alarm_at.append(time.monotonic() - began)
            event.set()

        watcher = asyncio.ensure_future(watch_for_it())
        await event.wait()
        guard.cancel()
        await watcher
        assert alarm_at[0] < 5

    blocking.register_slow_task_callback(note)
    run(kind, main())
    assert ran


def test_callbacks_come_and_go(events: Events) -> None:
    more: Events = []
    blocking.register_slow_task_callback(more.append)
    blocking.register_slow_task_callback(more.append)

    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(open_a_file())
        blocking.unregister_slow_task_callback(more.append)
        await asyncio.create_task(open_a_file())
        blocking.clear_slow_task_callbacks()
        await asyncio.create_task(open_a_file())

    run("asyncio", main())
    assert len(with_call(more, "open")) == 1
    assert len(with_call(events, "open")) == 2


# ---- raising -------------------------------------------------------------------


def test_a_violation_is_raised_before_the_call(kind: str, events: Events) -> None:
    async def violate() -> blocking.HighSeverityBlockingIoException:
        began = time.perf_counter()
        with blocking.raise_on_violations():
            assert blocking.is_raise_on_violations_enabled()
            try:
                time.sleep(10)
            except blocking.HighSeverityBlockingIoException as error:
                assert time.perf_counter() - began < 5
                time.sleep(0.001)  # once in a slice
                return error
        raise AssertionError("not raised")

    async def main() -> blocking.HighSeverityBlockingIoException:
        blocking.activate()
        return await asyncio.create_task(violate())

    error = run(kind, main())
    assert not blocking.is_raise_on_violations_enabled()
    assert (error.severity_score, error.severity_level) == (50, "high")
    assert error.threshold_ms == 20.0
    assert error.events[0]["event"] == "time.sleep(10)"
    assert ":violate" in str(error)
    assert len(with_call(events, "time.sleep(10)")) == 1


def test_light_calls_raise_when_they_add_up_and_only_in_their_context(events: Events) -> None:
    async def strict(calls: int) -> str:
        blocking.enable_raise_on_violations()
        await asyncio.sleep(0)
        try:
            for _ in range(calls):
                os.listdir("/proc/self/task")
        except blocking.HighSeverityBlockingIoException as error:
            return str(len(error.events))
        return "fine"

    async def lax() -> str:
        await asyncio.sleep(0)
        time.sleep(0.001)
        return "fine"

    async def main() -> list[str]:
        blocking.activate()
        return list(await asyncio.gather(strict(4), lax(), strict(6)))

    assert run("asyncio", main()) == ["fine", "fine", "5"]


def test_a_wait_only_the_hooks_see_raises_at_the_end_of_the_step(kind: str, events: Events) -> None:
    reached: list[str] = []

    async def violate(await_after: bool) -> None:
        with blocking.raise_on_violations():
            select.select([], [], [], 0.05)
            reached.append("after the call")
            if await_after:
                await asyncio.sleep(5)
        reached.append("after the block")

    async def main() -> None:
        blocking.activate()
        for await_after in (True, False):
            task = asyncio.create_task(violate(await_after))
            with pytest.raises(blocking.HighSeverityBlockingIoException) as caught:
                await asyncio.wait_for(task, DEADLINE_S)
            assert caught.value.elapsed_ms >= 50

    began = time.monotonic()
    run(kind, main())
    assert time.monotonic() - began < 5
    assert reached == ["after the call", "after the call"]


# ---- setup, on and off ---------------------------------------------------------


def test_inactive_nothing_is_told_and_unpatched_nothing_is_ours(kind: str, events: Events) -> None:
    async def main() -> None:
        assert not blocking.is_monitoring_active()
        await asyncio.create_task(open_a_file())
        assert events == []
        blocking.activate()
        assert blocking.is_monitoring_active()
        await asyncio.create_task(open_a_file())
        assert len(with_call(events, "open")) == 1
        blocking.deactivate()
        assert not blocking.is_monitoring_active()
        await asyncio.create_task(open_a_file())

    run(kind, main())
    assert len(with_call(events, "open")) == 1
    assert type(os.stat).__name__ == "Audited"
    assert "run_forever" not in loopguard.status()["patched"]  # type: ignore[operator]
    blocking.unpatch_audit_functions()
    assert blocking.get_patched_functions() == []
    assert type(os.stat).__name__ == "builtin_function_or_method"
    assert "recv" not in vars(socket.socket)
    assert socket.socket.accept.__qualname__ == "socket.accept"
    assert type(socket.socket.accept).__name__ == "function"


def test_what_a_step_did_is_told_when_it_deactivates(events: Events) -> None:
    async def main() -> None:
        blocking.activate()

        async def last() -> None:
            os.stat(os.devnull)
            blocking.deactivate()

        await asyncio.create_task(last())

    run("asyncio", main())
    assert len(with_call(events, "os.stat")) == 1


def test_stop_ends_it_and_activate_begins_anew(events: Events) -> None:
    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(open_a_file())

    blocking.activate()
    loopguard.stop()  # before any loop ran
    assert not blocking.is_monitoring_active()
    run("asyncio", main())
    loopguard.stop()
    assert not blocking.is_monitoring_active()
    assert blocking.get_patched_functions() == []
    run("asyncio", main())
    assert blocking.is_monitoring_active()
    assert len(with_call(events, "open")) == 2


@pytest.mark.parametrize("where", ["step", "callback"])
def test_a_callback_may_take_the_agent_out(kind: str, where: str, events: Events) -> None:
    def take_out(event: blocking.SlowTaskEvent) -> None:
        if with_call([event], "os.stat"):
            loopguard.stop()

    async def look() -> None:
        os.stat(os.devnull)
        await asyncio.sleep(0)

    async def main() -> None:
        blocking.activate()
        if where == "step":
            await asyncio.create_task(look())
        else:
            asyncio.get_running_loop().call_soon(os.stat, os.devnull)
        await condition(lambda: with_call(events, "os.stat"))
        await asyncio.create_task(open_a_file())

    blocking.register_slow_task_callback(take_out)
    run(kind, main())
    assert with_call(events, "open") == []
    assert loopguard.status()["state"] == "stopped"


def test_a_second_setup_is_ignored(events: Events, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "loopguard"):
        blocking.patch_audit_functions()
        blocking.start_blocking_io_detection()
        blocking.detect_slow_tasks(threshold_ms=20)
        assert caplog.records == []
        blocking.start_blocking_io_detection(trace_depth=3)
        blocking.detect_slow_tasks(threshold_ms=99)
        blocking.start_cpu_sampling(interval_ms=1)
    assert len(caplog.records) == 3
    assert blocking.get_slow_task_threshold_ms() == 20.0
    assert blocking.is_cpu_sampling_started()


def test_wrong_settings_are_refused(events: Events) -> None:
    blocking.reset()
    with pytest.raises(ValueError, match="threshold_ms"):
        blocking.detect_slow_tasks(threshold_ms=0)
    with pytest.raises(ValueError, match="trace_depth"):
        blocking.start_blocking_io_detection(trace_depth=0)
    with pytest.raises(ValueError, match="negative"):
        blocking.start_cpu_sampling(arm_after_ms=-1)
    assert not blocking.is_cpu_sampling_started()


def test_depth_and_samples_are_as_asked_for() -> None:
    told: Events = []
    blocking.start_blocking_io_detection(trace_depth=2)
    blocking.start_cpu_sampling(
        interval_ms=1, arm_after_ms=1, max_samples_per_slice=2, trace_depth=3
    )
    blocking.detect_slow_tasks(threshold_ms=20, on_slow_task=told.append)

    async def work() -> None:
        await asyncio.sleep(0)
        with open(os.devnull):
            burn(0.06)

    async def main() -> None:
        blocking.activate()
        await asyncio.create_task(work())

    try:
        run("asyncio", main())
    finally:
        blocking.reset()
        loopguard.stop()
    event = max(told, key=lambda e: e.elapsed_ms)
    assert event.blocking_events[0]["trace"].count(" <- ") == 1
    assert 1 <= sum(sample["count"] for sample in event.cpu_stack_samples) <= 2
    assert all(sample["trace"].count(" <- ") <= 2 for sample in event.cpu_stack_samples)


def test_a_wrapped_function_stays_what_it_was(events: Events) -> None:
    assert type(os.stat).__name__ == "Audited"
    assert os.stat in os.supports_fd
    assert os.stat.__name__ == "stat"
    assert os.stat.__doc__ is not None
    assert repr(os.stat) == "<built-in function stat>"
    assert os.stat(os.devnull, follow_symlinks=False).st_mode
    assert pickle.loads(pickle.dumps(os.path.abspath)) is os.path.abspath
    with pytest.raises(FileNotFoundError):
        os.stat("/nowhere")
    with socket.socket() as sock:
        bind = functools.partial(sock.bind, ("127.0.0.1", 0))
        bind()
        assert sock.getsockname()[1] != 0
    assert "os.stat" in blocking.get_patched_functions()


def test_weights_and_words() -> None:
    weights = blocking.get_blocking_events_dict()
    assert weights["time.sleep"] == weights["subprocess.Popen"] == blocking.WEIGHT_HEAVY
    assert weights["open"] == blocking.WEIGHT_MODERATE
    assert weights["os.stat"] == blocking.WEIGHT_LIGHT
    assert weights["os.getcwd"] == blocking.WEIGHT_TRIVIAL
    assert len(weights) == 78
    levels = [blocking.get_severity_level_from_score(score) for score in (0, 9, 10, 49, 50)]
    assert levels == ["low", "low", "medium", "medium", "high"]
    assert blocking.calculate_io_severity_score(None) == 0
    raw: blocking.RawBlockingEvent = {
        "event_name": "os.stat",
        "raw_args": (("/x" * 200,), {}),
        "raw_stack": [
            ("/a/src/app/x.py", 3, "f"),
            ("/v/lib/python3.11/site-packages/pkg/y.py", 4, "g"),
            ("/v/lib/python3.11/json/z.py", 5, "h"),
        ],
        "timestamp": 0.0,
        "severity": None,
    }
    info = blocking.format_blocking_event(raw)
    assert info["event"] == f"os.stat({'/x' * 50})"
    assert info["trace"] == "app/x.py:3:f <- pkg/y.py:4:g <- z.py:5:h"
    assert info["entry_point"] == "app/x.py:3:f"
    assert blocking.calculate_io_severity_score([info, info]) == 20
    stacks = [[("a.py", 1, "f")], [("b.py", 2, "g")], [("b.py", 2, "g")]]
    assert blocking.format_cpu_samples(stacks) == [
        {"trace": "b.py:2:g", "entry_point": "b.py:2:g", "count": 2},
        {"trace": "a.py:1:f", "entry_point": "a.py:1:f", "count": 1},
    ]


def test_an_exception_of_ours_can_be_sent_to_another_process() -> None:
    error = blocking.HighSeverityBlockingIoException(50, "high", 1.0, 30.0, [])
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.severity_score, str(copy)) == (50, str(error))


# ---- processes -----------------------------------------------------------------


def run_script(text: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 3,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_forked_child_goes_on_monitoring() -> None:
    lines = run_script(
        """
        import asyncio, os, time
        from loopguard import blocking
        blocking.patch_audit_functions()
        blocking.start_blocking_io_detection()
        blocking.detect_slow_tasks(20, lambda e: print(
            os.getpid() == parent, e.reason, e.blocking_events[0]["event"], flush=True))
        blocking.activate()
        parent = os.getpid()

        async def main():
            async def sleeps():
                time.sleep(0.03)
            await asyncio.create_task(sleeps())

        asyncio.run(main())
        child = os.fork()
        if child == 0:
            asyncio.run(main())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert lines == [
        "True io_blocking time.sleep(0.03)",
        "False io_blocking time.sleep(0.03)",
    ]


@pytest.mark.parametrize("installed", [True, False])
def test_requests_of_a_server_are_told_by_the_lifespan_recipe(kind: str, installed: bool) -> None:
    pytest.importorskip("fastapi")
    lines = run_script(
        f"""
        import asyncio, contextlib, http.client, socket, time
        import fastapi, uvicorn
        import loopguard
        from loopguard import blocking

        def tell(event):
            for call in event.blocking_events:
                if call["event"].startswith("time.sleep"):
                    about = event.context.get("loopguard", {{}})
                    print(event.reason, event.severity_level, about.get("method"),
                          about.get("route"), call["entry_point"].rpartition(":")[2], flush=True)

        blocking.patch_audit_functions()
        blocking.start_blocking_io_detection()
        blocking.detect_slow_tasks(threshold_ms=20, on_slow_task=tell)

        @contextlib.asynccontextmanager
        async def lifespan(app):
            blocking.activate()
            yield
            blocking.deactivate()

        app = fastapi.FastAPI(lifespan=lifespan)

        @app.get("/slow/{{n}}")
        async def slow(n: int):
            time.sleep(0.03)
            return n

        if {installed}:
            loopguard.install(app)

        async def main():
            sock = socket.create_server(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
            serving = asyncio.ensure_future(server.serve([sock]))

            def ask():
                client = http.client.HTTPConnection(*sock.getsockname(), timeout=20)
                client.request("GET", "/slow/7")
                return client.getresponse().read()

            assert await asyncio.to_thread(ask) == b"7"
            server.should_exit = True
            await serving

        if {kind!r} == "uvloop":
            import uvloop
            uvloop.run(main())
        else:
            asyncio.run(main())
        """
    )
    about = "GET /slow/{n}" if installed else "None None"
    assert lines == [f"io_blocking high {about} slow"]


def test_an_application_may_come_with_its_configuration_later() -> None:
    lines = run_script(
        """
        import asyncio, time
        import loopguard
        from loopguard import blocking
        blocking.patch_audit_functions()
        blocking.start_blocking_io_detection()
        blocking.detect_slow_tasks(20, lambda e: print(e.reason, flush=True))
        blocking.activate()
        print(loopguard.status()["state"])

        async def app(scope, receive, send):
            pass

        async def main():
            time.sleep(0.04)

        loopguard.install(app, fallback_threshold_ms=25, on_blocking=lambda e: print(e.threshold_ms))
        asyncio.run(main())
        """
    )
    assert lines == ["armed", "25.0", "io_blocking"]


def test_without_hooks_steps_are_still_told() -> None:
    lines = run_script(
        """
        import asyncio, time
        import loopguard
        from loopguard import blocking
        blocking.patch_audit_functions()
        blocking.start_blocking_io_detection()
        blocking.detect_slow_tasks(20, lambda e: print(e.reason, e.elapsed_ms < 900, flush=True))

        async def main():
            async def sleeps():
                time.sleep(0.03)
            with loopguard.watch(hooks="off"):
                blocking.activate()
                await asyncio.create_task(sleeps())
                await asyncio.sleep(1)

        asyncio.run(main())
        """
    )
    assert lines == ["io_blocking True"]


def test_keyboard_interrupt_in_a_callback_ends_the_program() -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(
            textwrap.dedent(
                """
                import asyncio, os, signal
                from loopguard import blocking

                def callback(event):
                    os.kill(os.getpid(), signal.SIGINT)
                    for _ in range(1000):
                        pass

                async def main():
                    blocking.start_blocking_io_detection()
                    blocking.detect_slow_tasks(20, callback)
                    blocking.activate()
                    async def opens():
                        open(os.devnull).close()
                    await asyncio.create_task(opens())
                    await asyncio.sleep(30)

                asyncio.run(main())
                """
            )
        )
        child = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
        until(lambda: child.poll() is not None, "the end of the child")
        assert child.returncode != 0
