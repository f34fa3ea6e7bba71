"""The thread pool of sync endpoints: who waits for a thread, who runs in one.

``anyio.to_thread.run_sync`` is what Starlette and FastAPI call for every sync
endpoint, dependency and background task. In its place stands a function that
hands the callable to the agent, which gives back one that measures its wait and
its run, and then calls the original. Arguments, result, exceptions, context
variables and cancellation are the original's.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, TypeVar

from loopguard import _agent, patches

MODULE = "anyio.to_thread"

_Function = TypeVar("_Function", bound=Callable[..., Any])
_UNKNOWN = 0  # a limit that is not known


def apply() -> None:
    """Replaces ``anyio.to_thread.run_sync``, now or once it is imported."""
    patches.when_imported(MODULE, _patch)


def _patch(module: ModuleType) -> None:
    original = getattr(module, "run_sync", None)
    if original is not None:
        limiters = _Limiters(module.current_default_thread_limiter)
        patches.replace(module, "run_sync", _measured(original, limiters))


def _measured(
    original: Callable[..., Awaitable[Any]], limiters: _Limiters
) -> Callable[..., Awaitable[Any]]:
    submit = _agent.pool_submit
    tokens_of = limiters.tokens

    # Not a coroutine function itself: that would add a frame to every traceback.
    @functools.wraps(original)
    def run_sync(func: Any, *args: Any, limiter: Any = None, **options: Any) -> Any:
        # A limiter of one's own, such as FastAPI's for leaving a dependency,
        # takes no token of the pool.
        limit = tokens_of() if limiter is None else _UNKNOWN
        return original(submit(func, limit), *args, limiter=limiter, **options)

    return _like_a_coroutine_function(run_sync)


class _Limiters:
    """The running loop's default limiter.

    anyio's own look-up takes microseconds, so the one of the last loop is kept.
    Its number is read anew each time: applications change it.
    """

    def __init__(self, current: Callable[[], Any]) -> None:
        self._current = current
        # loop (weak) and its limiter; one tuple, so that threads see both or none
        self._last: tuple[Callable[[], Any], Any] = (lambda: None, None)

    def tokens(self) -> int:
        """How many calls may run at once; 0 when that is not known."""
        try:
            loop = _running_loop()
            known, limiter = self._last
            if loop is None or known() is not loop:
                limiter = self._current()
                if loop is not None:
                    self._last = (weakref.ref(loop), limiter)
            tokens = limiter.total_tokens
            return tokens if type(tokens) is int and tokens > 0 else _UNKNOWN
        except Exception:  # no loop, another library's: the original says so itself
            return _UNKNOWN


def _running_loop() -> Any:
    asyncio = sys.modules.get("asyncio")
    # as public as get_running_loop(), and does not raise
    return None if asyncio is None else asyncio._get_running_loop()  # noqa: SLF001


def _like_a_coroutine_function(function: _Function) -> _Function:
    """Marks `function` for ``iscoroutinefunction``, as its original is one."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        mark = "_is_coroutine"
        setattr(function, mark, getattr(asyncio.coroutines, mark))
    return function
