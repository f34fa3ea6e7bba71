"""Plain asyncio, without a web framework: ``with loopguard.watch(): ...``"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from loopguard import _agent, control
from loopguard.config import LoopGuardConfig

if TYPE_CHECKING:
    import asyncio  # three times the import time of all the rest

_lock = threading.Lock()


class _Watches:
    """Those of one life of the agent: `loopguard.stop()` ends all of them."""

    life = 0
    brought_it_in = False  # the agent was started for the first of them
    count = 0


class Watch:
    """A loop being watched; made by `watch`, ended by `stop` or a ``with``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: LoopGuardConfig) -> None:
        self._life = 0  # none: not open
        with _lock:
            was_running = control.is_running()
            if not control.start(config):
                return
            self._life = control.life()
            if _Watches.life != self._life:
                _Watches.life = self._life
                _Watches.brought_it_in = not was_running
                _Watches.count = 0
            _Watches.count += 1
        if _running_loop() is loop:
            _agent.watch_loop()
        else:
            loop.call_soon_threadsafe(_agent.watch_loop)

    def stop(self) -> None:
        """Ends it. The last one to end takes the agent out of the process, if
        it was a watch that brought it in. Safe to call twice.
        """
        with _lock:
            is_open = control.is_running() and self._life == control.life() == _Watches.life
            self._life = 0
            if not is_open:
                return
            _Watches.count -= 1
            if _Watches.count == 0 and _Watches.brought_it_in:
                _Watches.brought_it_in = False
                control.stop()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def watch(
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    config: LoopGuardConfig | None = None,
    **options: Any,
) -> Watch:
    """Watches an event loop: its steps, callbacks and blocks.

    Args:
        loop: a loop of any thread, running or about to run; None is the loop
            that runs in this thread.
        config: the options, if you have them as an object.
        options: fields of `LoopGuardConfig`.
    Returns:
        A `Watch`: a context manager, plain and async, with a `stop()`.
    Raises:
        RuntimeError: no loop was given and none runs in this thread.
        TypeError: both `config` and `options`.
        ValueError, TypeError: as `LoopGuardConfig`.
    """
    if config is not None and options:
        raise TypeError("watch() takes either config or single options, not both")
    if loop is None:
        loop = _running_loop()
        if loop is None:
            raise RuntimeError(
                "no event loop runs in this thread: call watch() in a coroutine or give it a loop"
            )
    return Watch(loop, LoopGuardConfig(**options) if config is None else config)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    module = sys.modules.get("asyncio")
    if module is None:
        return None  # nobody can have made a loop
    try:
        loop: asyncio.AbstractEventLoop = module.get_running_loop()
    except RuntimeError:
        return None
    return loop
