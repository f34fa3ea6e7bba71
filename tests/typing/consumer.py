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
    events,
    lag,
    post_mortem,
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
