"""Blocks as Python objects: ``subscribe(callback)`` is called after each one.

The agent calls on the loop's own thread, right after the stretch that blocked
was accounted: at the end of the step, in its task's context, or as the loop
goes to sleep. The first subscription arms the agent's listener and the last one
that closes disarms it; without any, a block costs nothing more than before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

from loopguard import _agent, hints
from loopguard.config import check_callable, check_ms
from loopguard.frames import Frame, user_frame

__all__ = ["BlockingEvent", "Endpoint", "Frame", "Subscription", "set_threshold", "subscribe"]

_NS_PER_MS = 1e6
_log = logging.getLogger("loopguard")
_Provider = Callable[[], Mapping[str, object]]


class Endpoint(NamedTuple):
    """Who used the loop's time."""

    kind: str  # request, websocket, lifespan, background, task, callback, loop
    method: str  # "" for all but requests and websockets ("WS")
    name: str  # a route's template, a function's name, "(loop)", "(unmatched)"

    def __str__(self) -> str:
        text = f"{self.method} {self.name}".lstrip()
        return text if self.kind in ("request", "websocket", "loop") else f"{text} ({self.kind})"


NOBODY = Endpoint("loop", "", "(loop)")


@dataclass(frozen=True)
class BlockingEvent:
    """One block of an event loop that has ended. Times are milliseconds.

    `method` and `route` name who is to blame, which is not always who ran: a
    request that waited for the GIL is innocent, the thread that held it is not.

    Args:
        kind: "step" (one step of a task, or one run of callbacks), "iteration"
            (many short ones together) or "cumulative" (many short ones within
            a window, told once when the window's limit is passed).
        duration_ms: the whole block; of a cumulative one the sum so far.
        threshold_ms: the limit that it went over.
        method: of the blamed endpoint; "" where there is none.
        route: its template, or the function's name of a task or callback;
            "(loop)" when the time was nobody's doing.
        request_id: the blamed request's, 8 hex digits as in its header; None
            when no request's step blocked, or the blame lies elsewhere.
        task_name: of the task that ran, where known.
        loop_id: number of the loop in this process, as the viewer shows it.
        thread_name: of the loop's thread.
        cause: the largest part: "cpu", "io", "lock", "gil", "gc", "scheduler",
            "disk" or "page_fault"; "unknown" when most of it is "other".
        parts: milliseconds by cause, "other" included; they sum to the duration.
        call: the longest blocking call, "recv fd 11 <- 127.0.0.1:5432", or "".
        stack: Python frames of the loop's thread, innermost first; empty when
            the block was over before anybody looked.
        holder_stack: of the thread that held the GIL, where it was seen.
        hint: what to do instead, one sentence.
        context: what the context providers said, `add_context_provider`.
        path: of the request whose step ran, as it was asked for; None for others.
        excluded: that path is among `exclude_paths`: the log leaves it out.
        blocking_count: blocks of that request so far, this one included.
        blamed: the endpoint that `method` and `route` belong to.
        ran: the endpoint that ran; None when it is not known.
        elsewhere: True when `ran` is not to blame.
        holder: endpoint whose thread held the GIL, where known.
        call_ms: how long that call took.
        started_ns: when it began, by `time.monotonic_ns`.
        waiting: other requests that were open on the loop.
        steps: how many steps an iteration or cumulative block is made of.
        major_faults: pages that had to be read from disk.
    """

    kind: str
    duration_ms: float
    threshold_ms: float
    method: str
    route: str
    request_id: str | None
    task_name: str | None
    loop_id: int
    thread_name: str
    cause: str
    parts: Mapping[str, float]
    call: str
    stack: tuple[Frame, ...]
    holder_stack: tuple[Frame, ...]
    hint: str
    context: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    path: str | None = None
    excluded: bool = False
    blocking_count: int = 0
    blamed: Endpoint = NOBODY
    ran: Endpoint | None = None
    elsewhere: bool = False
    holder: Endpoint | None = None
    call_ms: float = 0.0
    started_ns: int = 0
    waiting: int = 0
    steps: int = 0
    major_faults: int = 0

    @property
    def frame(self) -> Frame | None:
        """The innermost frame that is neither Python's nor a package's."""
        return user_frame(self.holder_stack if self.elsewhere else self.stack)


class _Complaining:
    """Something of the user's that we call; complaints about it are logged once."""

    callback: Callable[..., object]

    def __init__(self) -> None:
        self._complained: set[str] = set()

    def complain(self, about: str, text: str, *, trace: bool = False) -> None:
        """Logs one line, the first time that there is something of that sort."""
        if about not in self._complained:
            self._complained.add(about)
            name = getattr(self.callback, "__qualname__", type(self.callback).__qualname__)
            _log.warning("callback %s: %s", name, text, exc_info=trace)


class Subscription(_Complaining):
    """A callback that is told of blocks until `close`; made by `subscribe`."""

    def __init__(self, callback: Callable[[BlockingEvent], object]) -> None:
        super().__init__()
        self.callback = callback

    def close(self) -> None:
        """Ends it; also from within the callback. Safe to call twice."""
        _room.remove(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _ProviderEntry(_Complaining):
    def __init__(self, callback: _Provider) -> None:
        super().__init__()
        self.callback: _Provider = callback


def subscribe(callback: Callable[[BlockingEvent], object]) -> Subscription:
    """Calls `callback` with a `BlockingEvent` after each block, until closed.

    It runs on the blocked loop's thread, after the block: the loop waits for it.
    What it raises is logged once and counted, never passed on; taking longer
    than the threshold is logged once too. Its own time is charged to no request
    and makes no event.

    Args:
        callback: a plain function, or any callable that is not a coroutine
            function.
    Returns:
        A `Subscription`: a context manager with a `close()`.
    Raises:
        TypeError: not callable, or a coroutine function.
    """
    check_callable("callback", callback)
    subscription = Subscription(callback)
    _room.add(subscription)
    return subscription


def add_context_provider(provider: Callable[[], Mapping[str, object]]) -> None:
    """`provider()` is asked at each block, in the task's context; what it
    returns becomes part of `BlockingEvent.context`.

    It runs where callbacks run, and its failures are treated as theirs.
    """
    _room.add_provider(provider)


def remove_context_provider(provider: Callable[[], Mapping[str, object]]) -> None:
    """Undoes `add_context_provider`; one that is not there is no error."""
    _room.remove_provider(provider)


def set_threshold(ms: float) -> float:
    """Moves the threshold of all loops of this process, from their next step on.

    An endpoint's own threshold stays; that of iterations moves along unless it
    was set by itself. Until `loopguard.stop`, or until it is moved back.

    Args:
        ms: above 0, at most a day.
    Returns:
        The one before, in milliseconds.
    Raises:
        ValueError, TypeError: `ms` is none.
    """
    ms = check_ms("ms", ms)
    return _agent.set_threshold(round(ms * _NS_PER_MS)) / _NS_PER_MS


def status() -> dict[str, int]:
    """Counts for `loopguard.status`: subscriptions, events, errors, slow calls."""
    return _room.counts()


class _Room:
    """Who is told.

    Tuples are replaced whole: a thread that is telling goes on with the one it has.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._providers: tuple[_ProviderEntry, ...] = ()
        self._events = 0
        self._errors = 0
        self._slow = 0

    def add(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions += (subscription,)
            _agent.set_listener(self.tell)

    def remove(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
            if not self._subscriptions:
                _agent.set_listener(None)

    def add_provider(self, provider: _Provider) -> None:
        check_callable("provider", provider)
        with self._lock:
            self._providers += (_ProviderEntry(provider),)

    def remove_provider(self, provider: _Provider) -> None:
        with self._lock:
            self._providers = tuple(p for p in self._providers if p.callback is not provider)

    def counts(self) -> dict[str, int]:
        return {
            "subscriptions": len(self._subscriptions),
            "events": self._events,
            "errors": self._errors,
            "slow": self._slow,
        }

    def tell(self, info: dict[str, Any]) -> None:
        """The agent's listener. Raises only what ends the program."""
        try:
            event = _event(info, self._context())
        except Exception:
            self._errors += 1
            _log.exception("an event could not be made")
            return
        self._events += 1
        for subscription in self._subscriptions:
            self._call(subscription, event)

    def _call(self, subscription: Subscription, event: BlockingEvent) -> None:
        start = time.perf_counter()
        try:
            subscription.callback(event)
        except (KeyboardInterrupt, SystemExit):
            raise  # a signal's: the application's own affair
        except BaseException as error:
            self._failed(subscription, error)
        took_ms = (time.perf_counter() - start) * 1e3
        if took_ms > event.threshold_ms:
            self._slow += 1
            subscription.complain("slow", f"held the event loop for {took_ms:.1f} ms itself")

    def _context(self) -> Mapping[str, object]:
        context: dict[str, object] = {}
        for provider in self._providers:
            self._ask(provider, context)
        return MappingProxyType(context)

    def _ask(self, provider: _ProviderEntry, context: dict[str, object]) -> None:
        try:
            context.update(provider.callback())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._failed(provider, error)

    def _failed(self, callback: _Complaining, error: BaseException) -> None:
        self._errors += 1
        callback.complain("error", f"failed with {error!r}", trace=True)


def _event(info: dict[str, Any], context: Mapping[str, object]) -> BlockingEvent:
    blamed = Endpoint(*info["blamed"])
    elsewhere: bool = info["elsewhere"]
    request_id: int = info["request_id"]
    stack = tuple(Frame(*frame) for frame in info["stack"])
    holder_stack = tuple(Frame(*frame) for frame in info["holder_stack"])
    return BlockingEvent(
        kind=info["kind"],
        duration_ms=info["duration_ns"] / _NS_PER_MS,
        threshold_ms=info["threshold_ns"] / _NS_PER_MS,
        method=blamed.method,
        route=blamed.name,
        request_id=None if elsewhere or not request_id else f"{request_id:08x}",
        task_name=info["task"],
        loop_id=info["loop"],
        thread_name=threading.current_thread().name,
        cause=info["cause"],
        parts=MappingProxyType({k: ns / _NS_PER_MS for k, ns in info["parts_ns"].items()}),
        call=info["call"],
        stack=stack,
        holder_stack=holder_stack,
        hint=hints.hint_for(info["cause"], info["call"], holder_stack if elsewhere else stack),
        context=context,
        path=info["path"],
        excluded=info["excluded"],
        blocking_count=info["blocks"],
        blamed=blamed,
        ran=Endpoint(*info["ran"]) if info["ran"] else None,
        elsewhere=elsewhere,
        holder=Endpoint(*info["holder"]) if info["holder"] else None,
        call_ms=info["call_ns"] / _NS_PER_MS,
        started_ns=info["start_ns"],
        waiting=info["open_requests"],
        steps=info["steps"],
        major_faults=info["major_faults"],
    )


_room = _Room()
