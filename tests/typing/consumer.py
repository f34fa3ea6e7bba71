"""An application that uses loopguard, for type checkers alone: nothing runs it.

``# type: ignore`` and ``# pyright: ignore`` mark what must be refused; both
checkers complain about one that is not needed.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Optional

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from typing_extensions import assert_type

import loopguard
from loopguard import (
    BlockingEvent,
    EnforcementMode,
    Frame,
    LoopGuardConfig,
    LoopGuardMiddleware,
    RequestInfo,
    blocking,
    calls,
    events,
    lag,
    post_mortem,
    prometheus,
    pytest_plugin,
    threadpool,
)
from loopguard import logging as loopguard_logging

# ---- turning it on


def tell(event: BlockingEvent) -> None:
    assert_type(event.kind, str)
    assert_type(event.duration_ms, float)
    assert_type(event.parts["cpu"], float)
    assert_type(event.request_id, Optional[str])
    for frame in event.stack:
        assert_type(frame, Frame)
        assert_type((frame.filename, frame.function, frame.lineno), "tuple[str, str, int]")


mode: EnforcementMode = "strict"
config = LoopGuardConfig(
    fallback_threshold_ms=20.0,
    enforcement_mode=mode,
    exclude_paths={"/health"},
    endpoint_thresholds={"POST /reports/{id}": 250.0},
    on_blocking=tell,
)
assert_type(config.fallback_threshold_ms, float)
LoopGuardConfig(True)  # type: ignore[call-arg]
LoopGuardConfig(no_such_field=1)  # type: ignore[call-arg]
LoopGuardConfig(enforcement_mode="harsh")  # type: ignore[arg-type]

api = FastAPI()
api.add_middleware(LoopGuardMiddleware)
api.add_middleware(LoopGuardMiddleware, config=config)
assert_type(loopguard.install(api), FastAPI)
assert_type(loopguard.install(Starlette(), config), Starlette)
loopguard.install(api, dev_mode=True)


async def bare(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    message: dict[str, Any] = await receive()
    await send(message)


loopguard.install(bare)
assert_type(loopguard.status(), "dict[str, object]")
assert_type(loopguard.stop(), None)
assert_type(loopguard.hint_lines(), "list[str]")


async def watched() -> None:
    with loopguard.watch():
        await asyncio.sleep(0)
    async with loopguard.watch(fallback_threshold_ms=20.0):
        await asyncio.sleep(0)
    other = asyncio.new_event_loop()
    threading.Thread(target=other.run_forever).start()
    loopguard.watch(other).stop()


# ---- asking it


def ask() -> None:
    request = loopguard.current_request()
    assert_type(request, Optional[RequestInfo])
    if request is not None:
        assert_type((request.request_id, request.route), "tuple[str, Optional[str]]")
    assert_type(loopguard.get_active_requests(), "tuple[RequestInfo, ...]")


def listen() -> None:
    with events.subscribe(tell) as subscription:
        assert_type(subscription, events.Subscription)
    events.subscribe(listen)  # type: ignore[arg-type]
    assert_type(events.set_threshold(20.0), float)


loopguard_logging.configure_logging(level=logging.INFO, structured=True)
logging.StreamHandler().setFormatter(loopguard_logging.StructuredFormatter())


def read_dead_worker(pid: int) -> None:
    with post_mortem.open(pid) as segment:
        assert_type(segment.alive, bool)
        for endpoint in segment.endpoints:
            assert_type(endpoint, post_mortem.EndpointFigures)


# ---- what comes from other libraries


async def late(lag: float, tasks: int, data_at: datetime) -> None: ...


class OwnMonitor(lag.SleepEventLoopMonitor):
    pass


async def monitor() -> None:
    assert_type(lag.create(interval=1.0, callbacks=[late]), lag.SleepEventLoopMonitor)
    own = lag.create(None, OwnMonitor, interval=0.5)
    assert_type(own, OwnMonitor)
    assert_type((own.running, own.installed, own.interval), "tuple[bool, bool, float]")


def called(info: calls.BlockingCallInfo) -> None:
    assert_type((info.method_name, info.duration_ms, info.is_c_call), "tuple[str, float, bool]")
    assert_type((info.filename, info.lineno), "tuple[str, int]")


with calls.event_loop_monitor_ctx(enabled=True, threshold_ms=20.0, on_blocking_call=called):
    pass
assert_type(calls.EventLoopMonitor(exclude_paths=["shop"]).is_active, bool)
calls.EventLoopMonitor(on_blocking_call=tell)  # type: ignore[arg-type]


def double(number: int) -> float:
    return number * 2.0


async def in_threads() -> None:
    threadpool.patch()
    threadpool.set_thread_limit(80, 10)
    threadpool.set_thread_limit(default_limit=80, release_limit=10)
    assert_type(await threadpool.run_in_threadpool(double, 21), float)
    assert_type(await threadpool.run_in_release_threadpool(double, number=21), float)
    await threadpool.run_in_threadpool(double, "21")  # type: ignore[arg-type]
    async for letter in threadpool.iterate_in_threadpool(iter("abc")):
        assert_type(letter, str)
    assert_type(threadpool.stats().busy, int)
    assert_type(threadpool.unpatch(), "list[str]")


def slow(event: blocking.SlowTaskEvent) -> None:
    assert_type((event.reason, event.severity_score, event.elapsed_ms), "tuple[str, int, float]")
    for call in event.blocking_events:
        assert_type((call["event"], call["entry_point"]), "tuple[str, str]")
    for sample in event.cpu_stack_samples:
        assert_type(sample["count"], int)


blocking.patch_audit_functions()
blocking.start_blocking_io_detection(trace_depth=20)
blocking.detect_slow_tasks(threshold_ms=30, on_slow_task=slow)
blocking.detect_slow_tasks(on_slow_task=called)  # type: ignore[arg-type]
blocking.register_context_provider(lambda: {"order": 1})
with blocking.raise_on_violations():
    pass
try:
    blocking.activate()
except blocking.HighSeverityBlockingIoException as error:
    assert_type(error.severity_score, int)

collector = prometheus.LoopGuardCollector(registry=None)
assert_type(collector.exposition(), bytes)


@pytest.mark.no_blocking(threshold_ms=20)
async def test_with_the_plugin(loopguard: pytest_plugin.LoopGuard) -> None:
    with pytest_plugin.loopguard_pause(), pytest_plugin.loopguard_only():
        assert_type(loopguard.events, "tuple[BlockingEvent, ...]")
