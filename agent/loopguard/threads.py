"""The thread pool of sync endpoints: who waits for a thread, who runs in one.

``anyio.to_thread.run_sync`` is what Starlette and FastAPI call for every sync
endpoint, dependency and background task. In its place stands one function for
two users, who come and go in any order. For the agent it hands the callable to
it, which gives back one that measures its wait and its run. For
`loopguard.threadpool` it lets that decide when the call may run. Arguments,
result, exceptions, context variables and cancellation are the original's.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, TypeVar

from loopguard import _agent, patches

MODULE = "anyio.to_thread"

# (the original run_sync, function, its arguments, options of run_sync): calls
# the original when the function may run
Policy = Callable[[Callable[..., Awaitable[Any]], Any, "tuple[Any, ...]", "dict[str, Any]"], Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_UNKNOWN = 0  # a limit that is not known


class _Users:
    """Whom one replacement of run_sync serves. With none it passes on."""

    def __init__(self) -> None:
        self.measured = False
        self.policy: Policy | None = None


_lock = threading.RLock()
_users = _Users()
_made: list[patches.Patch] = []  # the replacement, when there is one


def apply() -> None:
    """Measures ``anyio.to_thread.run_sync``, now or once it is imported."""
    patches.when_imported(MODULE, _measure)


def undo() -> list[str]:
    """Measures no more.

    Returns:
        The attribute's name when others have patched it since: it stays wrapped.
    """
    with _lock:
        _users.measured = False
        return _leave()


def decide(policy: Policy | None, module: ModuleType) -> list[str]:
    """From now on `policy` runs the calls that bring no limiter of their own.

    Args:
        policy: None ends it.
        module: ``anyio.to_thread``.
    Returns:
        As `undo`.
    """
    with _lock:
        _users.policy = policy
        if policy is None:
            return _leave()
        _enter(module)
        return []


def names() -> tuple[str, ...]:
    """The attribute replaced now, if it is."""
    return tuple(patches.name_of(patch) for patch in _made)


def _measure(module: ModuleType) -> None:
    with _lock:
        _users.measured = True
        _enter(module)


def _enter(module: ModuleType) -> None:
    original = getattr(module, "run_sync", None)
    if original is not None and not _made:
        limiters = _Limiters(module.current_default_thread_limiter)
        patches.replace(module, "run_sync", _replacement(original, limiters, _users), _made)


def _leave() -> list[str]:
    global _users
    if _users.measured or _users.policy is not None or not _made:
        return []
    left = patches.put_back(_made)
    # a replacement that stays in others' hands serves nobody any more
    _users = _Users()
    return left


def _replacement(
    original: Callable[..., Awaitable[Any]], limiters: _Limiters, users: _Users
) -> Callable[..., Awaitable[Any]]:
    submit = _agent.pool_submit
    awaited = _agent.pool_awaited
    tokens_of = limiters.tokens

    # Not a coroutine function itself: that would add a frame to every traceback.
    @functools.wraps(original)
    def run_sync(func: Any, *args: Any, limiter: Any = None, **options: Any) -> Any:
        measured = users.measured
        if measured:
            # A limiter of one's own, such as FastAPI's for leaving a dependency,
            # takes no token of the pool.
            func = submit(func, tokens_of() if limiter is None else _UNKNOWN)
        if limiter is None and users.policy is not None:
            result = users.policy(original, func, args, options)
        else:
            result = original(func, *args, limiter=limiter, **options)
        return awaited(func, result) if measured else result

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
