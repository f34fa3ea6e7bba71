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
_started_for_watches = False
_open_watches = 0


class Watch:
    """A loop being watched; made by `watch`, ended by `stop` or a ``with``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: LoopGuardConfig) -> None:
        global _open_watches, _started_for_watches
        self._open = False
        with _lock:
            was_running = control.is_running()
            if not control.start(config):
                return
            if not was_running:
                _started_for_watches = True
            self._open = True
            _open_watches += 1
        if _running_loop() is loop:
            _agent.watch_loop()
        else:
            loop.call_soon_threadsafe(_agent.watch_loop)

    def stop(self) -> None:
        """Ends it. The last one to end takes the agent out of the process, if
        it was a watch that brought it in. Safe to call twice.
        """
        global _open_watches, _started_for_watches
        with _lock:
            if not self._open:
                return
            self._open = False
            _open_watches -= 1
            if _open_watches == 0 and _started_for_watches:
                _started_for_watches = False
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
