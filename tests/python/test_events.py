"""Blocks as Python objects: who is told of what, on which thread, at what cost.

Blocks sleep 70 ms where the threshold is 50: a sleep is no CPU, so a busy machine
changes little. "Only that one" is asked of events of the test's own making.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from agent_kit import LOOPS, agent, request, run, script, segment, spin, status_of
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

import loopguard
from loopguard import _agent, control, events
from loopguard.events import BlockingEvent, Frame

BLOCK_MS = 70.0
THIS_FILE = __file__


def block() -> None:
    time.sleep(BLOCK_MS / 1e3)


@pytest.fixture(autouse=True)
def stopped_afterwards() -> Iterator[None]:
    yield
    loopguard.stop()
    assert events.status()["subscriptions"] == 0


@pytest.fixture(params=LOOPS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def told(kind: str, main: Callable[[], Any], **options: Any) -> list[BlockingEvent]:
    """The events of `main` on such a loop."""
    seen: list[BlockingEvent] = []
    with agent(log_blocking_events=False, **options), events.subscribe(seen.append):
        run(kind, _watched(main))
    for event in seen:
        assert sum(event.parts.values()) == pytest.approx(event.duration_ms, abs=0.001), event
    return seen


async def _watched(main: Callable[[], Any]) -> Any:
    _agent.watch_loop()
    # as a task of its own: the one that the loop began with was made before us
    return await asyncio.get_running_loop().create_task(main())


def line_of(function: Callable[..., Any], text: str) -> int:
    """The line of that text in the source of `function`."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


class BlocksBefore:
    """A middleware that blocks before routing, and lets go of the loop."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in ("/late", "/nowhere"):
            block()
            await asyncio.sleep(0)
        await self.app(scope, receive, send)


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/guilty/{n}")
    async def guilty(n: int) -> int:
        block()
        return n

    @app.get("/innocent")
    async def innocent() -> str:
        await asyncio.sleep(0.001)
        return "ok"

    @app.get("/late")
    async def late() -> str:
        return "ok"

    @app.get("/cuts")
    async def cuts() -> str:
        for _ in range(35):
            time.sleep(0.008)
            await asyncio.sleep(0.001)
        return "ok"

    @app.get("/raises")
    async def raises() -> None:
        block()
        raise LookupError("the application's own")

    app.add_middleware(BlocksBefore)
    return app


# ---- what is told -----------------------------------------------------------


def test_the_guilty_request_is_told_and_the_innocent_ones_are_not(kind: str) -> None:
    app = control.measured(make_app())

    async def main() -> None:
        paths = ["/guilty/1"] + ["/innocent"] * 9
        await asyncio.gather(*(request(app, path) for path in paths))

    (event,) = told(kind, main)

    assert (event.kind, event.method, event.route) == ("step", "GET", "/guilty/{n}")
    assert event.duration_ms >= BLOCK_MS > event.threshold_ms == 50.0
    assert (event.path, event.blocking_count, event.elsewhere) == ("/guilty/1", 1, False)
    assert event.request_id is not None
    assert len(event.request_id) == 8
    assert event.cause == "io"
    assert event.call == "sleep"
    assert event.stack[0] == Frame(THIS_FILE, "block", line_of(block, "time.sleep"))
    assert event.frame == event.stack[0]
    assert "asyncio.sleep" in event.hint
    assert event.task_name is not None
    assert event.task_name.startswith("Task-")
    assert event.thread_name == threading.current_thread().name
    assert event.ran == event.blamed == events.Endpoint("request", "GET", "/guilty/{n}")
    assert event.context == {}


def test_a_computation_is_told_with_its_function(kind: str) -> None:
    async def main() -> None:
        spin(80)

    (event,) = told(kind, main)

    assert event.parts["cpu"] == pytest.approx(80, abs=20)
    assert "spin" in {frame.function for frame in event.stack[:2]}
    assert event.blamed == events.Endpoint("task", "", event.route)
    assert event.route.endswith("main")


def test_a_block_before_routing_is_told_with_the_route_once_that_is_known(kind: str) -> None:
    app = control.measured(make_app())

    async def main() -> None:
        await request(app, "/late")
        await request(app, "/nowhere")

    late, nowhere = told(kind, main)

    assert (late.method, late.route) == ("GET", "/late")
    assert late.ran == late.blamed
    assert (nowhere.method, nowhere.route) == ("GET", "(unmatched)")
    assert "BlocksBefore.__call__".endswith(nowhere.stack[1].function)


def test_a_timer_is_told_by_its_function(kind: str) -> None:
    async def main() -> None:
        done = asyncio.Event()

        def timer() -> None:
            block()
            done.set()

        asyncio.get_running_loop().call_later(0.001, timer)
        await done.wait()
        await asyncio.sleep(0.001)

    (event,) = told(kind, main)

    assert event.blamed.kind == "callback"
    assert event.route.endswith("timer")
    assert event.stack[0].function == "block"
    assert (event.request_id, event.path) == (None, None)


def test_the_coroutine_that_asked_to_be_watched_is_told_by_its_name(kind: str) -> None:
    """Its task was made before us, so its steps are callbacks to us."""
    seen: list[BlockingEvent] = []

    async def watches() -> None:
        with loopguard.watch(log_blocking_events=False, on_blocking=seen.append):
            block()
            await asyncio.sleep(0.001)
            block()
            await asyncio.sleep(0.001)

    run(kind, watches())

    names = [event.route.rpartition(".")[2] for event in seen]
    assert names == ["watches", "watches"], seen


def test_data_received_is_told_by_its_function(kind: str) -> None:
    class Reads(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            block()
            done.set()

    done = asyncio.Event()

    async def main() -> None:
        nonlocal done
        done = asyncio.Event()
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(Reads, sock=ours)
        theirs.send(b"x")
        await done.wait()
        await asyncio.sleep(0.001)
        transport.close()
        theirs.close()

    (event,) = told(kind, main)

    assert event.blamed.kind == "callback"
    assert event.route.endswith("data_received")


def test_a_reader_callback_is_told_by_its_function(kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        ours, theirs = socket.socketpair()

        def readable() -> None:
            ours.recv(1)
            block()
            done.set()

        loop.add_reader(ours, readable)
        theirs.send(b"x")
        await done.wait()
        await asyncio.sleep(0.001)
        loop.remove_reader(ours)
        ours.close()
        theirs.close()

    (event,) = told(kind, main)

    assert event.route.endswith("readable")


def test_many_short_steps_of_one_iteration_are_told_together(kind: str) -> None:
    async def short() -> None:
        time.sleep(0.009)

    async def main() -> None:
        await asyncio.gather(*(short() for _ in range(10)))

    (event,) = told(kind, main)

    assert event.kind == "iteration"
    assert event.duration_ms >= 90
    assert event.steps >= 10


def test_a_thousand_cuts_are_told_once_with_their_line(kind: str) -> None:
    app = control.measured(make_app())

    async def main() -> None:
        await request(app, "/cuts")

    # one window; on a busy machine what comes after it may fill another
    event = next(event for event in told(kind, main) if event.kind == "cumulative")

    assert event.route == "/cuts"
    assert event.duration_ms > event.threshold_ms
    assert 10 < event.steps < 35
    assert event.threshold_ms == 200.0
    assert any(frame.function.endswith("cuts") for frame in event.stack), event.stack


def test_cuts_are_the_requests_own_though_others_took_a_little_before(kind: str) -> None:
    """The loop's wider window is over its limit first, by what the others took."""
    app = control.measured(make_app())

    async def main() -> None:
        for _ in range(3):
            time.sleep(0.002)
            await asyncio.sleep(0.001)
        await request(app, "/cuts")

    events_ = told(kind, main, cumulative_window_ms=30_000)

    first = next(event for event in events_ if event.kind == "cumulative")
    assert first.route == "/cuts"
    assert first.request_id is not None


def test_a_block_barely_over_the_threshold_has_its_line_too(kind: str) -> None:
    """It ends before the watchdog's next look: the one before counts."""
    seen: list[BlockingEvent] = []

    def found() -> bool:
        return any(event.duration_ms < 55 and event.stack for event in seen)

    async def main() -> None:
        for _ in range(100):  # on a busy machine one lasts longer, or nobody looks in time
            if found():
                return
            until_s = time.perf_counter() + 0.0505
            while time.perf_counter() < until_s:
                pass
            await asyncio.sleep(0.001)

    with agent(log_blocking_events=False), events.subscribe(seen.append):
        run(kind, _watched(main))

    assert found(), [(event.duration_ms, len(event.stack)) for event in seen]


def test_loops_of_two_threads_are_told_on_their_own_threads(kind: str) -> None:
    seen: list[tuple[BlockingEvent, str]] = []

    async def blocks() -> None:
        block()

    def other() -> None:
        run(kind, _watched(blocks))

    with (
        agent(log_blocking_events=False),
        events.subscribe(lambda e: seen.append((e, threading.current_thread().name))),
    ):
        threads = [threading.Thread(target=other, name=f"loop {n}") for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(name for _, name in seen) == ["loop 0", "loop 1"]
    assert all(event.thread_name == name for event, name in seen)
    assert len({event.loop_id for event, _ in seen}) == 2


def test_who_waits_for_the_gil_is_not_to_blame(kind: str) -> None:
    numbers = [random.random() for _ in range(400_000)]
    app = FastAPI()

    @app.get("/sorts")
    def sorts() -> int:  # a plain function: in the pool, in one call that keeps the GIL
        return len(sorted(numbers * 2))

    @app.get("/ticks")
    async def ticks() -> str:
        until_s = time.monotonic() + 0.3
        while time.monotonic() < until_s:
            await asyncio.sleep(0.001)
        return "ok"

    measured = control.measured(app)

    async def main() -> None:
        await asyncio.gather(request(measured, "/sorts"), request(measured, "/ticks"))

    gil = [event for event in told(kind, main) if event.cause == "gil"]

    assert gil
    assert all(event.elsewhere and event.request_id is None for event in gil)
    assert {event.route for event in gil} <= {"/sorts", "(loop)"}
    for event in gil:
        assert event.route != "/sorts" or "process pool" in event.hint


# ---- the one who listens ------------------------------------------------------


def test_a_callback_that_raises_is_logged_once_and_harms_nobody(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = control.measured(make_app())
    seen: list[BlockingEvent] = []
    answers: list[int] = []
    errors = events.status()["errors"]

    def bad(event: BlockingEvent) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        answers.extend([status_of(await request(app, "/guilty/1")) for _ in range(3)])

    with (
        agent(log_blocking_events=False),
        events.subscribe(bad),
        events.subscribe(seen.append),
    ):
        run(kind, main())
        listeners: Any = loopguard.status()["listeners"]

    assert answers == [200, 200, 200]
    assert len(seen) == 3
    assert listeners["errors"] == errors + 3
    failures = [r for r in caplog.records if "ZeroDivisionError" in r.getMessage()]
    assert len(failures) == 1
    assert "bad" in failures[0].getMessage()


def test_the_time_of_a_callback_is_nobodys_and_is_told_to_nobody(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = control.measured(make_app())
    seen: list[BlockingEvent] = []

    def slow(event: BlockingEvent) -> None:
        seen.append(event)
        time.sleep(0.15)

    async def main() -> None:
        await request(app, "/guilty/1")
        asyncio.get_running_loop().call_soon(block)
        await asyncio.sleep(0.3)
        await request(app, "/innocent")

    with agent(log_blocking_events=False), events.subscribe(slow):
        run(kind, main())
        rows = {e.name: e for e in segment().endpoints}

    assert [event.blamed.kind for event in seen] == ["request", "callback"]
    assert all(event.duration_ms < 140 for event in seen)
    assert rows["/guilty/{n}"].on_loop_ms < 140
    slow_lines = [r for r in caplog.records if "held the event loop" in r.getMessage()]
    assert len(slow_lines) == 1


def test_a_callback_may_take_the_agent_out(kind: str) -> None:
    app = control.measured(make_app())
    seen: list[BlockingEvent] = []

    def stops(event: BlockingEvent) -> None:
        seen.append(event)
        loopguard.stop()

    async def at_a_step() -> int:
        answer = status_of(await request(app, "/guilty/1"))
        await request(app, "/guilty/2")
        return answer

    async def at_the_poll() -> int:
        _agent.watch_loop()
        asyncio.get_running_loop().call_soon(block)
        await asyncio.sleep(0.15)
        block()
        return 200

    for main in (at_a_step, at_the_poll):
        with agent(log_blocking_events=False), events.subscribe(stops):
            assert run(kind, main()) == 200
    assert len(seen) == 2


def test_a_callback_may_close_its_own_subscription(kind: str) -> None:
    app = control.measured(make_app())
    seen: list[BlockingEvent] = []

    def once(event: BlockingEvent) -> None:
        seen.append(event)
        subscription.close()

    async def main() -> None:
        await request(app, "/guilty/1")
        await request(app, "/guilty/2")

    with agent(log_blocking_events=False):
        subscription = events.subscribe(once)
        run(kind, main())
        subscription.close()

    assert [event.path for event in seen] == ["/guilty/1"]


def test_what_a_callback_schedules_as_the_loop_goes_to_sleep_runs_at_once(kind: str) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        ran: asyncio.Future[float] = loop.create_future()

        def schedules(event: BlockingEvent) -> None:
            start = time.monotonic()
            loop.call_soon(lambda: ran.set_result(time.monotonic() - start))

        with events.subscribe(schedules):
            loop.call_soon(block)
            return await asyncio.wait_for(ran, 10)  # nothing else would wake the loop

    with agent(log_blocking_events=False):
        assert run(kind, _watched(main)) < 1.0


def test_exceptions_and_cancellation_of_a_step_that_blocked_are_as_they_were(kind: str) -> None:
    app = control.measured(make_app())

    async def cancelled() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            block()
            raise
        return "not cancelled"

    async def main() -> None:
        with pytest.raises(LookupError, match="the application's own") as caught:
            await request(app, "/raises")
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None
        task = asyncio.get_running_loop().create_task(cancelled())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    seen = told(kind, main)

    # Starlette itself has a traceback made: that is part of the request's step.
    assert [event.blamed.kind for event in seen] == ["request", "task"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_a_step_within_a_step_is_told_and_the_outer_one_pays_for_neither() -> None:
    async def inner() -> None:
        block()

    async def outer() -> None:
        await asyncio.get_running_loop().create_task(inner())

    seen: list[BlockingEvent] = []

    def slow(event: BlockingEvent) -> None:
        seen.append(event)
        time.sleep(0.1)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        _agent.watch_loop()
        await asyncio.get_running_loop().create_task(outer())

    with agent(log_blocking_events=False), events.subscribe(slow):
        run("asyncio", main())

    assert [event.route.rpartition(".")[2] for event in seen] == ["inner"]


def test_a_context_provider_is_asked_in_the_tasks_own_context(kind: str) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    def provider() -> dict[str, object]:
        return {"user": user.get()}

    async def main() -> None:
        user.set("alice")
        block()

    events.add_context_provider(provider)
    try:
        (event,) = told(kind, main)
    finally:
        events.remove_context_provider(provider)

    assert event.context == {"user": "alice"}
    assert events._room.counts()["subscriptions"] == 0


def test_the_threshold_can_be_moved_while_a_loop_runs(kind: str) -> None:
    async def main() -> None:
        block()
        await asyncio.sleep(0)
        assert events.set_threshold(20) == 500.0
        block()
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(lambda: block())
        await asyncio.sleep(0.05)
        assert events.set_threshold(500) == 20.0
        block()

    seen = told(kind, main, fallback_threshold_ms=500)

    assert [event.threshold_ms for event in seen] == [20.0, 20.0]
    assert [event.blamed.kind for event in seen] == ["task", "callback"]


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan"), 1e12])
def test_a_threshold_out_of_range_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="ms must be"):
        events.set_threshold(wrong)


def test_only_plain_callables_may_listen() -> None:
    async def coroutine(event: BlockingEvent) -> None: ...

    class Object:
        async def __call__(self, event: BlockingEvent) -> None: ...

    for wrong in (coroutine, Object()):
        with pytest.raises(TypeError, match="plain function"):
            events.subscribe(wrong)
        with pytest.raises(TypeError, match="on_blocking must be a plain function"):
            loopguard.LoopGuardConfig(on_blocking=wrong)
    with pytest.raises(TypeError, match="must be callable"):
        events.subscribe("print")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callable or None"):
        _agent.set_listener(1)  # type: ignore[arg-type]


def test_on_blocking_is_called_until_the_agent_is_stopped(kind: str) -> None:
    app = make_app()
    seen: list[BlockingEvent] = []
    loopguard.install(app, on_blocking=seen.append, log_blocking_events=False)

    run(kind, request(app, "/guilty/1"))
    loopguard.stop()
    run(kind, request(app, "/guilty/2"))

    assert [event.path for event in seen] == ["/guilty/1"]


def test_an_event_is_frozen_and_its_mappings_too(kind: str) -> None:
    async def main() -> None:
        block()

    (event,) = told(kind, main)

    with pytest.raises(AttributeError):
        event.cause = "cpu"  # type: ignore[misc]
    with pytest.raises(TypeError):
        event.parts["io"] = 0  # type: ignore[index]


def test_what_ends_the_program_goes_on_to_end_it() -> None:
    """A signal handler may raise in a callback of ours, as in any Python code."""
    done = script(
        """
        import asyncio, signal, time, loopguard
        from loopguard import events

        def callback(event):
            signal.raise_signal(signal.SIGINT)

        async def main():
            with loopguard.watch(log_blocking_events=False):
                events.subscribe(callback)
                await asyncio.create_task(blocks())
                await asyncio.sleep(30)

        async def blocks():
            time.sleep(0.07)

        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        except KeyboardInterrupt:
            print("interrupted")
        loopguard.stop()
        """
    )
    assert done.stdout == "interrupted\n"


def test_importing_the_package_loads_no_events_and_starts_nothing() -> None:
    done = script(
        """
        import sys, threading
        import loopguard
        print("loopguard.events" in sys.modules, threading.active_count())
        print(loopguard.BlockingEvent.__module__, loopguard.Frame.__module__)
        """
    )
    assert done.stdout.splitlines() == ["False 1", "loopguard.events loopguard.frames"]


def test_without_a_listener_nothing_is_taken_down(kind: str) -> None:
    app = control.measured(make_app())
    before = events.status()["events"]

    with agent(log_blocking_events=False):
        run(kind, request(app, "/guilty/1"))

    assert events.status()["events"] == before


def test_the_end_of_the_interpreter_waits_for_no_listener() -> None:
    """A loop in a daemon thread blocks while the main thread is already leaving."""
    done = script(
        """
        import asyncio, threading, time, loopguard
        from loopguard import events

        ready = threading.Event()

        async def main():
            loopguard.watch(log_blocking_events=False)
            events.subscribe(lambda event: None)
            ready.set()
            while True:
                asyncio.get_running_loop().call_soon(time.sleep, 0.06)
                await asyncio.sleep(0)

        threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
        ready.wait()
        time.sleep(0.2)
        """,
        timeout=30,
    )
    assert done.returncode == 0
