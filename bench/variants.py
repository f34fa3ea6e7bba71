"""What is measured against what: how each tool is switched on.

Runs in the environments of the tools; imports only the one that is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    name: str
    package: str = ""  # on PyPI; "": nothing to install
    version: str = ""  # the one that is compared with
    python: tuple[int, int] = (3, 9)  # the oldest it runs on


NONE = Variant("none")
AGAIN = Variant("none, again")  # what differs from "none" here is the machine
OURS = Variant("loopguard")
NO_TASKS = Variant("loopguard, no tasks")
CALLS = Variant("loopguard.calls")
PEERS = (
    Variant("fastapi-loopguard", "fastapi-loopguard", "0.9.0", (3, 11)),
    Variant("aiocop", "aiocop", "1.2.1", (3, 10)),
    CALLS,
    Variant("asyncio-event-loop-monitor", "asyncio-event-loop-monitor", "0.1.0", (3, 11)),
    Variant("loopmon", "loopmon", "1.0.1", (3, 9)),
    Variant("asyncio debug"),
)
PY_SPY = Variant("py-spy 100 Hz", "py-spy", "0.4.3")
ALL = {v.name: v for v in (NONE, AGAIN, OURS, NO_TASKS, *PEERS, PY_SPY)}


def around(name: str, app: Any) -> Any:
    """`app` as a user of that tool would serve it."""
    if name == OURS.name:
        import loopguard  # noqa: PLC0415

        return loopguard.install(app)
    if name == NO_TASKS.name:
        import loopguard  # noqa: PLC0415

        return loopguard.install(app, task_factory=False)
    if name == "fastapi-loopguard":
        from fastapi_loopguard import LoopGuardMiddleware  # noqa: PLC0415

        return LoopGuardMiddleware(app)
    return app


def in_loop(name: str) -> None:
    """What a user of that tool calls in the running loop."""
    start = _IN_LOOP.get(name)
    if start is not None:
        start()


def _aiocop() -> None:
    import aiocop  # noqa: PLC0415

    aiocop.patch_audit_functions()
    aiocop.start_blocking_io_detection()
    aiocop.detect_slow_tasks(threshold_ms=50, on_slow_task=lambda _: None)
    aiocop.activate()


def _event_loop_monitor() -> None:
    from asyncio_event_loop_monitor import EventLoopMonitor  # noqa: PLC0415

    EventLoopMonitor(threshold_ms=50.0, on_blocking_call=lambda _: None).activate()


def _calls() -> None:
    from loopguard.calls import EventLoopMonitor  # noqa: PLC0415

    EventLoopMonitor(threshold_ms=50.0, on_blocking_call=lambda _: None).activate()


def _loopmon() -> None:
    import loopmon  # noqa: PLC0415

    async def seen(lag: float, tasks: int, data_at: Any) -> None:
        del lag, tasks, data_at

    loopmon.create(interval=0.1, callbacks=[seen])


def _debug() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05


_IN_LOOP: dict[str, Callable[[], None]] = {
    "aiocop": _aiocop,
    CALLS.name: _calls,
    "asyncio-event-loop-monitor": _event_loop_monitor,
    "loopmon": _loopmon,
    "asyncio debug": _debug,
}
