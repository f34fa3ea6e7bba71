"""The thread pool of sync endpoints without its deadlock.

    from loopguard import threadpool

    threadpool.patch()      # before or after the application is made

The names are fastapi-overflow's, of both its generations.

**The deadlock.** FastAPI runs each sync piece of a request by itself in one of 40
threads: the dependency up to its ``yield``, the endpoint, the validation of its
response. Between two pieces the request has no thread and queues anew. A request
that took a database connection in one piece needs a thread for the next before
it can give it back, and the threads are full of requests that wait for a
connection: in their dependency, when that takes it, or in their endpoint, when a
session takes it at its first query. Nothing moves until the connection pool's
timeout turns it into errors.

**The cure.** A request keeps its thread token from one sync piece to the next. Who
has begun never queues behind those who have not, so whoever holds a connection
comes to its end, whatever the pieces are and wherever it took it. Nobody is
admitted beyond the limit for it. When a request awaits anything else in between,
it gives its token back, so that slow asynchronous endpoints, streams and
websockets occupy none; when it returns it takes a free token, else one of
`release_limit` in reserve for those who return, else it queues. When for 0.1 s no
call of the pool has ended although such a request waits, threads wait for what it
may hold: it runs beyond the limits (`ThreadPoolStats.beyond`), and so may others
like it until nothing of the kind has been seen for ten seconds.

Two attributes are replaced: ``anyio.to_thread.run_sync``, which all of Starlette
and FastAPI call, together with loopguard's own measurement in any order, and
``starlette.applications.Starlette.__call__``, where a request begins and ends.
Arguments, results, exceptions, context variables and cancellation are as before.
A call that brings a limiter of its own passes untouched, FastAPI's for leaving a
dependency among them. asyncio, uvloop and trio; every loop has its own numbers.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import math
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from loopguard import patches, threads

if sys.version_info >= (3, 10):
    from typing import ParamSpec

    _Arguments = ParamSpec("_Arguments")
elif TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _Arguments = ParamSpec("_Arguments")

__all__ = (
    "ThreadPoolStats",
    "iterate_in_threadpool",
    "patch",
    "run_in_release_threadpool",
    "run_in_threadpool",
    "set_thread_limit",
    "stats",
    "unpatch",
)

_LIMIT = 40  # anyio's own
_RELEASE_LIMIT = 5
_PATIENCE_S = 0.1
_FORGET_S = 10.0
_STARLETTE = "starlette.applications"
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")
_log = logging.getLogger("loopguard")


@dataclass(frozen=True)
class ThreadPoolStats:
    """The threads of one event loop at a moment.

    Attributes:
        limit: threads for everybody; `math.inf` when somebody has set that.
        busy: how many of them are taken, by a running call or, for a moment, by
            a request between two calls.
        waiting: calls that wait for one of them.
        release_limit: threads in reserve, for requests that return and for
            `run_in_release_threadpool`.
        release_busy: how many of them are taken.
        release_waiting: calls of `run_in_release_threadpool` that wait.
        beyond: calls running beyond both limits.
        stalls: how often one had to be let in there because nothing moved.
        finished: calls that have ended since the loop's pool was first used.
        patched: whether `patch` is in force.
        missing: what `patch` did not find in the installed versions: a reason each.
    """

    limit: float
    busy: int
    waiting: int
    release_limit: float
    release_busy: int
    release_waiting: int
    beyond: int
    stalls: int
    finished: int
    patched: bool
    missing: tuple[str, ...]


# ---- patching ---------------------------------------------------------------


class _Patching:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.on = False
        self.made: list[patches.Patch] = []
        self.missing: tuple[str, ...] = ()


_patching = _Patching()


def patch() -> None:
    """Cures FastAPI's and Starlette's thread pool in this process.

    Any thread, before or after applications are made and while they run; calls
    that run already are not touched. Safe to call twice. What the installed
    versions lack is logged once and stands in `ThreadPoolStats.missing`.
    """
    with _patching.lock:
        if _patching.on:
            return
        _patching.on = True
        threads.decide(_run, anyio.to_thread)
        _patching.missing = _mark_requests()
    for reason in _patching.missing:
        _log.warning("threadpool.patch(): %s", reason)


def unpatch() -> list[str]:
    """Puts all back. Safe to call twice.

    Returns:
        Names of attributes that others have patched since, such as
        "starlette.applications.Starlette.__call__"; those stay wrapped, do
        nothing any more, and are logged.
    """
    with _patching.lock:
        if not _patching.on:
            return []
        _patching.on = False
        left = patches.put_back(_patching.made)
        left += threads.decide(None, anyio.to_thread)
    for name in left:
        _log.warning("%s was patched by others after loopguard; it stays wrapped", name)
    return left


def _mark_requests() -> tuple[str, ...]:
    try:
        module = importlib.import_module(_STARLETTE)
    except ImportError:
        return ("Starlette is not installed: calls of one request are not known as such",)
    cls = getattr(module, "Starlette", None)
    call = vars(cls).get("__call__") if cls is not None else None
    if call is None:
        return (f"{_STARLETTE}.Starlette.__call__ is not there: requests are not known",)
    patches.replace(cls, "__call__", _marking(call), _patching.made)
    return ()


def _marking(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807
        outer = _request.get()
        if not _patching.on or scope["type"] == "lifespan" or (outer is not None and outer.open):
            await original(self, scope, receive, send)
            return
        request = _Request()
        _request.set(request)
        try:
            await original(self, scope, receive, send)
        finally:
            request.open = False

    return __call__


# ---- who may run ------------------------------------------------------------


class _Request:
    """One HTTP request or websocket. On its loop's thread."""

    __slots__ = ("begun", "kept", "open")

    def __init__(self) -> None:
        self.open = True
        self.begun = False  # had a thread: may hold something
        self.kept: _Token | None = None  # of the call that has just ended


# Tasks made by a request inherit it; a task that outlives it is nobody's.
_request: ContextVar[_Request | None] = ContextVar("loopguard_threadpool_request", default=None)


class _Token:
    """The right to run in a thread; what a limiter of anyio's knows as borrower."""

    __slots__ = ("limiter",)

    def __init__(self) -> None:
        self.limiter: Any = None  # that lent it

    def borrow_now(self, limiter: Any) -> bool:
        try:
            limiter.acquire_on_behalf_of_nowait(self)
        except Exception as error:
            if type(error).__name__ != "WouldBlock":  # older anyio lets trio's own out
                raise
            return False
        self.limiter = limiter
        return True

    async def borrow(self, limiter: Any) -> None:
        await limiter.acquire_on_behalf_of(self)
        self.limiter = limiter

    def give_back(self) -> None:
        self.limiter.release_on_behalf_of(self)


class _Beyond:
    """A limiter that nobody waits for; its limit grows when nothing moves."""

    def __init__(self) -> None:
        self.limit = 0
        self.busy = 0

    def acquire_on_behalf_of_nowait(self, _: _Token) -> None:
        if self.busy >= self.limit:
            raise anyio.WouldBlock
        self.busy += 1

    def release_on_behalf_of(self, _: _Token) -> None:
        self.busy -= 1


class _Admitted:
    """The limiter of those who have their token: lets everybody in at once.

    What anyio's asyncio and trio's own run_sync ask of a limiter. anyio's with an
    infinite number of tokens costs a turn of the loop for each call.
    """

    total_tokens = available_tokens = math.inf
    borrowed_tokens = 0

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass

    async def acquire(self) -> None:
        pass

    async def acquire_on_behalf_of(self, _: object) -> None:
        pass

    def release(self) -> None:
        pass

    def release_on_behalf_of(self, _: object) -> None:
        pass


_ADMITTED = _Admitted()


class _Pool:
    """The threads of one event loop. On its thread."""

    def __init__(self) -> None:
        self.everybody = anyio.to_thread.current_default_thread_limiter()
        self.release = anyio.CapacityLimiter(_RELEASE_LIMIT)
        self.beyond = _Beyond()
        self.finished = 0
        self.stalls = 0
        self._timers = _timers_here()
        self._waiting = 0
        self._returned: list[anyio.CancelScope] = []  # waits of those who have begun
        self._is_watched = False
        self._last_end_s = time.monotonic()
        self._last_stall_s = 0.0
        self._made_since_end = 0

    async def admit(self, request: _Request | None) -> _Token:
        """Waits until the call may run."""
        if request is not None and request.kept is not None:
            token, request.kept = request.kept, None
            return token
        token = _Token()
        if not token.borrow_now(self.everybody):
            if request is None or not request.begun:
                await self._queue(token)
            else:
                await self._borrow_again(token)
        if request is not None:
            request.begun = True
        return token

    def end(self, token: _Token, request: _Request | None) -> None:
        """The call is over. Its request keeps the token until it awaits something else."""
        self.finished += 1
        self._last_end_s = time.monotonic()
        self._made_since_end = 0
        if self.stalls and self._last_end_s > self._last_stall_s + _FORGET_S:
            self.beyond.limit = 0
        # With nobody waiting it is free when the request comes for it: between
        # now and then nothing else runs.
        if request is None or request.kept is not None or not request.open or not self._waiting:
            token.give_back()
            return
        request.kept = token
        try:
            self._timers.after_this_step(_settle, request, token)
        except RuntimeError:  # the loop is closed
            _settle(request, token)

    async def _queue(self, token: _Token) -> None:
        self._waiting += 1
        try:
            await token.borrow(self.everybody)
        finally:
            self._waiting -= 1

    async def _borrow_again(self, token: _Token) -> None:
        """For one who has begun: he may hold what the threads wait for."""
        while not (token.borrow_now(self.release) or token.borrow_now(self.beyond)):
            with anyio.CancelScope() as scope:
                self._returned.append(scope)
                self._watch()
                try:
                    await self._queue(token)
                finally:
                    if scope in self._returned:
                        self._returned.remove(scope)
            if token.limiter is not None:
                return

    def _watch(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            self._timers.later(_PATIENCE_S, self._look)

    def _look(self) -> None:
        self._is_watched = False
        if not self._returned:
            return
        self._watch()
        now = time.monotonic()
        looks = int((now - self._last_end_s) / _PATIENCE_S)
        # One after the first 0.1 s, two more after the second, and so on: who goes
        # beyond may wait there for what another one holds. The last who came back
        # has most lately got something.
        while self._returned and self._made_since_end < looks * (looks + 1) // 2:
            self._made_since_end += 1
            self._last_stall_s = now
            self.stalls += 1
            self.beyond.limit += 1
            self._returned.pop().cancel()
            if self.stalls == 1:
                _log.warning(
                    "no thread call has ended for %g s although a request that has begun waits "
                    "for one: it runs beyond the limits; see set_thread_limit(release_limit=)",
                    _PATIENCE_S,
                )


def _settle(request: _Request, token: _Token) -> None:
    """The request did not come for its token at once."""
    if request.kept is token:
        request.kept = None
        token.give_back()


class _AsyncioTimers:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.after_this_step: Callable[..., object] = loop.call_soon
        self.later: Callable[[float, Callable[[], None]], object] = loop.call_later


class _TrioTimers:
    def __init__(self, trio: Any) -> None:
        self._sleep = trio.sleep
        self._spawn = trio.lowlevel.spawn_system_task

    def after_this_step(self, function: Callable[..., None], *args: Any) -> None:
        async def call() -> None:
            function(*args)

        self._spawn(call)

    def later(self, delay_s: float, function: Callable[[], None]) -> None:
        async def call() -> None:
            await self._sleep(delay_s)
            function()

        self._spawn(call)


def _timers_here() -> _AsyncioTimers | _TrioTimers:
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return _TrioTimers(trio)
    return _AsyncioTimers(asyncio.get_running_loop())


_pools: anyio.lowlevel.RunVar[_Pool] = anyio.lowlevel.RunVar("loopguard_threadpool")
# asyncio loop (weak) and its pool: anyio's own look-up takes microseconds. One
# tuple, so that threads see both or none.
_last: tuple[Callable[[], Any], _Pool | None] = (lambda: None, None)


def _pool_here() -> _Pool:
    global _last
    # trio may run as a guest of an asyncio loop
    loop = None if "trio" in sys.modules else asyncio._get_running_loop()  # noqa: SLF001 - public
    known, pool = _last
    if loop is not None and pool is not None and known() is loop:
        return pool
    pool = _pools.get(None)
    if pool is None:
        pool = _Pool()
        _pools.set(pool)
    if loop is not None:
        _last = (weakref.ref(loop), pool)
    return pool


async def _run(
    original: Callable[..., Awaitable[Any]],
    func: Any,
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    request = _request.get()
    if request is not None and not request.open:
        request = None
    pool = _pool_here()
    token = await pool.admit(request)
    try:
        return await original(func, *args, limiter=_ADMITTED, **options)
    finally:
        pool.end(token, request)


# ---- for applications -------------------------------------------------------


async def run_in_threadpool(
    func: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Runs `func(*args, **kwargs)` in a thread of the pool, as Starlette's function does.

    Returns:
        Its result; its exceptions are passed on.
    """
    return await anyio.to_thread.run_sync(functools.partial(func, *args, **kwargs))


async def iterate_in_threadpool(iterator: Iterable[_Item]) -> AsyncIterator[_Item]:
    """The items of `iterator`, each taken from it in a thread of the pool.

    An asynchronous iterator: ``async for item in iterate_in_threadpool(rows): ...``
    """
    items = iter(iterator)
    end = object()
    while True:
        item: Any = await anyio.to_thread.run_sync(next, items, end)
        if item is end:
            return
        yield item


async def run_in_release_threadpool(
    func: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Runs `func(*args, **kwargs)` in one of the `release_limit` threads in reserve.

    For what gives a resource back and waits for none: it does not queue behind
    those who wait for the resource. Needs no `patch`.

    Returns:
        Its result; its exceptions are passed on.
    """
    call = functools.partial(func, *args, **kwargs)
    return await anyio.to_thread.run_sync(call, limiter=_pool_here().release)


def set_thread_limit(
    limit: int | None = None,
    anti_deadlock_reserve: int | None = None,
    *,
    default_limit: int | None = None,
    release_limit: int | None = None,
    reserve_limit: int | None = None,
) -> None:
    """Sets the numbers of threads of the running loop, such as in a lifespan function.

    One of two ways, as in the two generations of fastapi-overflow:

    Args:
        limit: all threads together, from 2; 40 when not given.
        anti_deadlock_reserve: how many of `limit` are in reserve; 1 when not given.
        default_limit: threads for everybody, from 1; 40 when not given.
        release_limit: threads in reserve besides, from 1; 5 when not given.
        reserve_limit: another name of `release_limit`, which fastapi-overflow's own
            documentation uses.
    Raises:
        TypeError: not an integer, or arguments of both ways.
        ValueError: out of range.
        RuntimeError: no event loop runs here.
    """
    if reserve_limit is not None:
        if release_limit is not None:
            raise TypeError("release_limit and reserve_limit are the same: give one of them")
        release_limit = reserve_limit
    is_newer = default_limit is not None or release_limit is not None
    if is_newer and (limit is not None or anti_deadlock_reserve is not None):
        raise TypeError(
            "set_thread_limit() takes limit and anti_deadlock_reserve, "
            "or default_limit and release_limit"
        )
    if is_newer:
        everybody = _checked("default_limit", default_limit, _LIMIT, 1)
        reserve = _checked("release_limit", release_limit, _RELEASE_LIMIT, 1)
    else:
        total = _checked("limit", limit, _LIMIT, 2)
        reserve = _checked("anti_deadlock_reserve", anti_deadlock_reserve, 1, 1)
        if reserve >= total:
            raise ValueError(f"anti_deadlock_reserve must be below limit ({total}), not {reserve}")
        everybody = total - reserve
    pool = _pool_in_loop("set_thread_limit()")
    pool.everybody.total_tokens = everybody
    pool.release.total_tokens = reserve


def stats() -> ThreadPoolStats:
    """The threads of the running loop now. Needs no `patch`.

    Raises:
        RuntimeError: no event loop runs here.
    """
    pool = _pool_in_loop("stats()")
    everybody = pool.everybody.statistics()
    release = pool.release.statistics()
    return ThreadPoolStats(
        limit=everybody.total_tokens,
        busy=everybody.borrowed_tokens,
        waiting=everybody.tasks_waiting,
        release_limit=release.total_tokens,
        release_busy=release.borrowed_tokens,
        release_waiting=release.tasks_waiting,
        beyond=pool.beyond.busy,
        stalls=pool.stalls,
        finished=pool.finished,
        patched=_patching.on,
        missing=_patching.missing if _patching.on else (),
    )


def _checked(name: str, value: int | None, default: int, least: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def _pool_in_loop(who: str) -> _Pool:
    try:
        return _pool_here()
    except Exception as error:  # anyio's own kinds differ between its versions
        raise RuntimeError(
            f"{who} speaks of the running event loop, and none runs here: "
            "call it in a coroutine, such as the application's lifespan function"
        ) from error
