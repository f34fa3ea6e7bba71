"""What one test did to its event loops: what was heard, which part of it counts.

The engine tells of each stretch of a loop that was longer than the threshold,
with its exact begin and length. Here the stretches are laid over the windows of
the test (its body, `pause`, `only`, imports and the construction of routes), so a
stretch counts with the time that lies within what is measured and no other.

An instrument of the pytest plugin, which is the only one to arm it; knows
nothing of pytest. All times are nanoseconds of the engine's own clock
(``CLOCK_MONOTONIC`` read in C): a clock frozen or moved by a test is not asked.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from loopguard import _agent, control, events, every_loop, hints, patches
from loopguard.config import LoopGuardConfig

if TYPE_CHECKING:
    from loopguard.events import BlockingEvent

_NS_PER_MS = 1_000_000
_ENDPOINTS = 1024  # each test's coroutine has a row of its own
_KINDS = ("step", "iteration")
# The machine's doing, and that of all the tests before: no test is red for it.
_NOT_THE_TESTS = {"scheduler": "waiting for a CPU", "gc": "collecting garbage"}
_WORTH_SAYING_MS = 1.0
# Done once when a service starts; in a test run, by whichever test comes first.
_CONSTRUCTION: dict[str, tuple[tuple[str, str], ...]] = {
    "_frozen_importlib_external": (
        ("_LoaderBasics", "exec_module"),
        ("ExtensionFileLoader", "create_module"),
        ("ExtensionFileLoader", "exec_module"),
    ),
    "fastapi.routing": (("APIRoute", "__init__"), ("APIWebSocketRoute", "__init__")),
    "fastapi.applications": (("FastAPI", "build_middleware_stack"),),
    "starlette.applications": (("Starlette", "build_middleware_stack"),),
}

_Span = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """One stretch that kept a loop busy, as it is judged.

    Args:
        event: what the engine told.
        ms: its length within what is measured, in milliseconds, without the
            time that the machine or the garbage collector took.
        counts: whether that is over the threshold.
        why: what was taken off, or "".
    """

    event: BlockingEvent
    ms: float
    counts: bool
    why: str

    @property
    def cause(self) -> str:
        """The event's, but never what was taken off."""
        if self.event.cause not in _NOT_THE_TESTS:
            return self.event.cause
        rest = {part: ms for part, ms in self.event.parts.items() if part not in _NOT_THE_TESTS}
        largest = max(rest, key=lambda part: rest[part], default="other")
        return "unknown" if largest == "other" else largest

    @property
    def hint(self) -> str:
        """What to do instead, for that cause."""
        if self.cause == self.event.cause:
            return self.event.hint
        return hints.hint_for(self.cause, self.event.call, self.event.stack)


class Check:
    """One test. Made by `Session.begin`, ended by `Session.end`.

    `pause` and `only` may be used in any thread; they hold for all the loops of
    the test.
    """

    def __init__(self, threshold_ms: float) -> None:
        self.seen = False  # its coroutine ran on a loop that is measured
        self.reason = ""  # why it is not measured, or not all of it
        self._threshold_ms = threshold_ms
        self._heard: list[tuple[BlockingEvent, int]] = []  # with its thread
        self._began_ns = _agent.clock_ns()
        self._ended_ns = 0
        self._pauses = _Windows()
        self._only = _Windows()
        self._construction: dict[int, _Windows] = {}  # by thread

    @property
    def threshold_ms(self) -> float:
        """Longer stretches are blocks. Setting it moves it at once."""
        return self._threshold_ms

    @threshold_ms.setter
    def threshold_ms(self, value: float) -> None:
        self._threshold_ms = value
        _agent.set_threshold(_threshold_ns(value))

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """Within it nothing is measured. Nests."""
        return self._pauses.open()

    def only(self) -> contextlib.AbstractContextManager[None]:
        """Within it, and from then on nowhere else, it is measured. Nests."""
        return self._only.open()

    def construction(self) -> contextlib.AbstractContextManager[None]:
        """As `pause`, for this thread alone: modules and routes are being made."""
        return self._construction.setdefault(threading.get_ident(), _Windows()).open()

    def heard(self, event: BlockingEvent) -> None:
        """The engine's word, on the thread of the loop."""
        self._heard.append((event, threading.get_ident()))

    def end(self) -> None:
        """What comes from now on is another's."""
        self._ended_ns = _agent.clock_ns()

    def blocks(self) -> tuple[Block, ...]:
        """All that was heard and lies at least partly within what is measured."""
        judged = [self._judge(*one) for one in list(self._heard)]
        return tuple(block for block in judged if block is not None)

    def _judge(self, event: BlockingEvent, thread: int) -> Block | None:
        length = round(event.duration_ms * _NS_PER_MS)
        start = event.started_ns
        end = start + length
        spans = _within([(start, end)], [(self._began_ns, self._ended_ns or end)])
        if self._only.ever:
            spans = _within(spans, self._only.spans(end))
        spans = _without(spans, self._pauses.spans(end))
        built = self._construction.get(thread)
        counted = spans if built is None else _without(spans, built.spans(end))
        if not counted:
            return None
        ms = _ms(_sum(counted))
        taken = {
            "outside of what is measured": _ms(length - _sum(spans)),
            "importing modules or building the application": _ms(_sum(spans) - _sum(counted)),
        }
        for part, words in _NOT_THE_TESTS.items():
            taken[words] = min(event.parts.get(part, 0.0), ms)
            ms -= taken[words]
        why = [
            f"{lost:.1f} ms {words}" for words, lost in taken.items() if lost >= _WORTH_SAYING_MS
        ]
        return Block(event, ms, ms > self._threshold_ms, ", ".join(why))


class Session:
    """The engine of a test run: armed once, for all the tests that ask for it."""

    def __init__(self) -> None:
        self.check: Check | None = None  # of the test that runs
        self._ours = False  # we started it, so we end it
        self._subscription: events.Subscription | None = None
        self._activity = 0
        self._overflow = 0
        self._previous_ns = 0

    def arm(self) -> None:
        """Before the first test, or again after one has stopped loopguard."""
        if every_loop.is_applied():
            return
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        if not control.is_running():
            config = LoopGuardConfig(
                enforcement_mode="log",
                log_blocking_events=False,
                cumulative_blocking_enabled=False,
                keep_segment="never",
                max_endpoints=_ENDPOINTS,
            )
            self._ours = control.start(config, for_tests=True)
        if control.is_running():
            self._subscription = events.subscribe(self._heard)
            every_loop.apply()
            for module, places in _CONSTRUCTION.items():
                patches.when_imported(module, functools.partial(self._leave_out, places))

    def disarm(self) -> None:
        """After the last test."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
        if self._ours:
            control.stop()

    def begin(self, threshold_ms: float) -> Check:
        """A test's body begins."""
        self.arm()
        self._activity = _agent.activity()
        self._overflow = _overflow()
        if control.is_running():
            self._previous_ns = _agent.set_threshold(_threshold_ns(threshold_ms))
        self.check = Check(threshold_ms)
        return self.check

    def end(self, *, is_async: bool) -> Check:
        """It is over, however it went; the same `Check`, with `seen` and `reason`."""
        check = self.check
        assert check is not None
        self.check = None
        check.end()
        if not control.is_running():
            reason = control.status()["reason"]
            check.reason = str(reason or "loopguard was stopped during the test")
            return check
        _agent.set_threshold(self._previous_ns)
        if _overflow() != self._overflow:
            check.reason = "more threads ran event loops than are measured at a time"
        elif not check.seen and _agent.activity() == self._activity:
            what = "the test's coroutine did not run" if is_async else "no event loop ran"
            check.reason = check.reason or what
        return check

    def measured(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Stands for the coroutine function of the test that runs: its steps are
        measured whoever makes its task.
        """

        @functools.wraps(function)
        async def measured(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            check = self.check
            if check is not None:
                check.seen = _agent.watch_loop() or check.seen
                if not every_loop.is_asyncio():
                    check.reason = "not an asyncio loop: only the test's own steps were measured"
            return await _agent.measure(function(*args, **kwargs))

        return measured

    def _heard(self, event: BlockingEvent) -> None:
        check = self.check
        if check is not None and event.kind in _KINDS:
            check.heard(event)

    def _leave_out(self, places: Iterable[tuple[str, str]], module: ModuleType) -> None:
        for class_name, name in places:
            cls = getattr(module, class_name, None)
            if cls is not None and inspect.isfunction(vars(cls).get(name)):
                patches.replace(cls, name, self._left_out(vars(cls)[name]))

    def _left_out(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def construct(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            check = self.check
            if check is None:
                return original(*args, **kwargs)
            with check.construction():
                return original(*args, **kwargs)

        file = original.__code__.co_filename
        if file.startswith("<frozen importlib"):
            # Python leaves these frames out of tracebacks, and does not count
            # them when a module says whom its warning is for.
            construct.__code__ = construct.__code__.replace(co_filename=file)
        return functools.wraps(original)(construct)


class _Windows:
    """Stretches of time that were opened and closed, nested ones as one."""

    def __init__(self) -> None:
        self.ever = False
        self._lock = threading.Lock()
        self._depth = 0
        self._since = 0
        self._closed: list[_Span] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        with self._lock:
            self.ever = True
            if self._depth == 0:
                self._since = _agent.clock_ns()
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._closed.append((self._since, _agent.clock_ns()))

    def spans(self, now_ns: int) -> list[_Span]:
        with self._lock:
            is_open = self._depth > 0 and self._since < now_ns
            return [*self._closed, *([(self._since, now_ns)] if is_open else [])]


def _within(spans: Iterable[_Span], windows: Iterable[_Span]) -> list[_Span]:
    windows = list(windows)
    both = ((max(a, c), min(b, d)) for a, b in spans for c, d in windows)
    return [(a, b) for a, b in both if a < b]


def _without(spans: Iterable[_Span], windows: Iterable[_Span]) -> list[_Span]:
    left = list(spans)
    for c, d in windows:
        pieces = [((a, min(b, c)), (max(a, d), b)) for a, b in left]
        left = [(a, b) for pair in pieces for a, b in pair if a < b]
    return left


def _sum(spans: Iterable[_Span]) -> int:
    return sum(b - a for a, b in spans)


def _ms(ns: int) -> float:
    return ns / _NS_PER_MS


def _threshold_ns(ms: float) -> int:
    return max(round(ms * _NS_PER_MS), 1)


def _overflow() -> Any:
    counters: Any = control.status().get("counters", {})
    return counters.get("loop_overflow", 0)
