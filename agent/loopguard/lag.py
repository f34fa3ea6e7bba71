"""How late an event loop runs what is due, told at regular intervals.

    from loopguard import lag

    async def show(lag: float, tasks: int, data_at: datetime) -> None: ...

    async def main() -> None:
        lag.create(interval=0.5, callbacks=[show])

The names are loopmon's. What a monitor tells is **the longest time within the
interval, in seconds, that the loop did not come to what was due**, and how it
knows depends on who watches the loop:

- a loop that loopguard watches (`loopguard.watch`, the middleware, the launcher):
  the longest iteration of the loop, from the return of its poll to the next poll.
  Exact, whatever the loop's own clock can tell;
- any other loop: how much later than due a timer ran. The monitor sets one every
  `look` seconds (5 ms), so a block reads low by at most that much, because it
  began while nothing was due yet. uvloop keeps its timers in whole milliseconds:
  there an idle loop reads up to 1 ms.

All times are by `time.perf_counter`. Works with and without the agent, on
asyncio and uvloop, for loops of other threads too. A callback runs on the loop
that is monitored, never on a thread of loopguard's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload, runtime_checkable

from loopguard import _agent

if sys.version_info >= (3, 10):
    from typing import ParamSpec

    _Arguments = ParamSpec("_Arguments")
elif TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _Arguments = ParamSpec("_Arguments")

__all__ = ("Callback", "EventLoopMonitor", "SleepEventLoopMonitor", "create")

_LOOK_S = 0.005
_TIMER_STEP_S = 0.001  # a timer of uvloop's may run that much early
_log = logging.getLogger("loopguard")
_Monitor = TypeVar("_Monitor", bound="EventLoopMonitor")


@runtime_checkable
class Callback(Protocol):
    """Called on the monitored loop after each interval. May be a plain function."""

    async def __call__(self, lag: float, tasks: int, data_at: datetime) -> None:
        """One interval is over.

        Args:
            lag: seconds, as the module says.
            tasks: tasks of the loop that are not done, without the monitor's own.
            data_at: when that was, in UTC.
        """


class EventLoopMonitor(ABC):
    """Installed in one event loop, tells its callbacks how late that loop is.

    Args:
        interval: seconds from one report to the next.
        callbacks: `Callback`s, or plain functions of the same arguments. One that
            has not ended at the next report is left out of it (`skipped`). One
            that raises is logged once and counted (`failed`).
        name: name of the monitor's task.
    Raises:
        TypeError, ValueError: `interval` is not a number above 0.
    """

    def __init__(
        self,
        interval: float = 0.1,
        callbacks: Iterable[Callback | Callable[[float, int, datetime], object]] = (),
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not interval > 0:
            raise ValueError(f"interval must be above 0 seconds, not {interval!r}")
        self._interval = interval
        self._callbacks = tuple(callbacks)
        self._name = name
        self._installation: object | None = None  # one for each `install_to_loop`
        self._lock = threading.Lock()

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether it is measuring now."""

    @property
    def installed(self) -> bool:
        """Whether it belongs to a loop, which may not have run it yet."""
        return self._installation is not None

    @property
    def interval(self) -> float:
        """Seconds from one report to the next."""
        return self._interval

    @property
    def name(self) -> str | None:
        """Name of the monitor's task."""
        return self._name

    @abstractmethod
    async def start(self) -> None:
        """Measures the loop that runs here; returns when the monitor is stopped.

        Raises:
            ValueError: it runs already.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Ends it at once; nothing happens when it does not run.

        May be awaited on any loop and in any thread. Afterwards the monitor may
        be installed again.
        """

    def install_to_loop(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Starts the monitor on `loop` and returns at once.

        Args:
            loop: a loop of any thread, running or about to run; None is the loop
                that runs in this thread.
        Raises:
            ValueError: the loop is closed, or the monitor is installed already.
            RuntimeError: no loop was given and none runs in this thread.
        """
        loop = asyncio.get_running_loop() if loop is None else loop
        with self._lock:
            if loop.is_closed():
                raise ValueError("this event loop is closed: it cannot be monitored")
            if self._installation is not None or self.running:
                raise ValueError("this monitor is installed in a loop already")
            mine = self._installation = object()
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - public, and does not raise
            self._create_task(loop, mine)
            return
        try:
            loop.call_soon_threadsafe(self._create_task, loop, mine)
        except RuntimeError as error:  # closed meanwhile
            self._installation = None
            raise ValueError("this event loop is closed: it cannot be monitored") from error

    def _create_task(self, loop: asyncio.AbstractEventLoop, installation: object) -> None:
        task = loop.create_task(self._until_cancelled(installation), name=self._name)
        # A loop that is closed with this task in it has lost nothing.
        with contextlib.suppress(AttributeError):  # a task factory's own kind
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001

    async def _until_cancelled(self, installation: object) -> None:
        """The task of an installed monitor: a loop that ends cancels it in silence."""
        if self._installation is not installation:
            return  # stopped before the loop came to it
        try:
            await self.start()
        except asyncio.CancelledError:
            await self.stop()


class SleepEventLoopMonitor(EventLoopMonitor):
    """The monitor there is; its name is loopmon's, it does not only sleep.

    Args:
        interval, callbacks, name: as `EventLoopMonitor`.
        look: seconds between two looks at a loop that loopguard does not watch;
            a block reads low by at most this. Two hundred looks a second, the
            default, cost 1 to 2 % of one core; a watched loop needs none. Never
            more than a quarter of `interval`.
    """

    def __init__(
        self,
        interval: float = 0.1,
        callbacks: Iterable[Callback | Callable[[float, int, datetime], object]] = (),
        name: str | None = None,
        *,
        look: float = _LOOK_S,
    ) -> None:
        super().__init__(interval, callbacks, name)
        if not look > 0:
            raise ValueError(f"look must be above 0 seconds, not {look!r}")
        self._look_s = min(look, interval / 4)
        self._calls = _Calls(self._callbacks)
        self._run: _Run | None = None

    @property
    def running(self) -> bool:
        """Whether it is measuring now."""
        return self._run is not None

    @property
    def exact(self) -> bool:
        """Whether loopguard watches the loop, so that `lag` is exact now."""
        run = self._run
        return run is not None and run.iterations is not None

    @property
    def skipped(self) -> int:
        """Calls left out because the same callback had not ended yet."""
        return self._calls.skipped

    @property
    def failed(self) -> int:
        """Calls that raised; the first of each callback is logged."""
        return self._calls.failed

    async def start(self) -> None:
        """Measures the loop that runs here; returns when the monitor is stopped.

        Raises:
            ValueError: it runs already.
        """
        loop = asyncio.get_running_loop()
        own = asyncio.current_task()
        with self._lock:
            if self._run is not None:
                raise ValueError("this monitor runs already")
            run = _Run(loop, self._interval, self._look_s, lambda lag: self._report(lag, own))
            self._run = run
        run.begin()
        try:
            await run.ended
        finally:
            run.end()
            with self._lock:
                if self._run is run:
                    self._run = None
                    self._installation = None

    async def stop(self) -> None:
        """Ends it at once; nothing happens when it does not run.

        May be awaited on any loop and in any thread. Callbacks that have begun
        go on to their end. Afterwards the monitor may be installed again.
        """
        with self._lock:
            run, self._run = self._run, None
            self._installation = None
        if run is None:
            return
        if asyncio.get_running_loop() is run.loop:
            run.end()
            await asyncio.sleep(0)  # lets start() return
        else:
            with contextlib.suppress(RuntimeError):  # closed
                run.loop.call_soon_threadsafe(run.end)

    def _report(self, lag: float, own: asyncio.Task[None] | None) -> None:
        ours = {own, *self._calls.unfinished()}
        # those that are done are not among them
        tasks = sum(task not in ours for task in asyncio.all_tasks())
        self._calls.begin(lag, tasks, datetime.now(timezone.utc))


class _Calls:
    """The callbacks, and those calls of them that have not ended."""

    def __init__(self, callbacks: Sequence[Callable[[float, int, datetime], object]]) -> None:
        self.skipped = 0
        self.failed = 0
        self._callbacks = callbacks
        self._unfinished: dict[int, asyncio.Future[Any]] = {}  # by number of the callback
        self._logged: set[int] = set()

    def unfinished(self) -> Iterable[asyncio.Future[Any]]:
        return self._unfinished.values()

    def begin(self, lag: float, tasks: int, data_at: datetime) -> None:
        """Calls each one that is not still busy with an earlier report."""
        for number, callback in enumerate(self._callbacks):
            call = self._unfinished.get(number)
            if call is not None and not call.done():
                self.skipped += 1
                continue
            try:
                result = callback(lag, tasks, data_at)
                if inspect.isawaitable(result):
                    call = self._unfinished[number] = asyncio.ensure_future(result)
                    call.add_done_callback(functools.partial(self._end, number))
            except Exception as error:
                self._fail(number, error)

    def _end(self, number: int, call: asyncio.Future[Any]) -> None:
        if self._unfinished.get(number) is call:
            del self._unfinished[number]
        error = None if call.cancelled() else call.exception()
        if error is not None:
            self._fail(number, error)

    def _fail(self, number: int, error: BaseException) -> None:
        self.failed += 1
        if number not in self._logged:
            self._logged.add(number)
            _log.error(
                "callback %r of a lag monitor raised; further failures of it are only counted",
                self._callbacks[number],
                exc_info=error,
            )


class _Run:
    """One run of a monitor, from `start` to `stop`. On the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval_s: float,
        look_s: float,
        report: Callable[[float], None],
    ) -> None:
        self.loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self.iterations: _Iterations | None = None  # None: by timers
        self._interval_s = interval_s
        self._look_s = look_s
        self._report = report
        self._timer: asyncio.TimerHandle | None = None
        self._longest_s = 0.0  # that a timer was late in this interval
        self._due_s = 0.0
        self._report_s = 0.0

    def begin(self) -> None:
        """Begins an interval, with the first look at it."""
        self.iterations = _Iterations.of(self.loop, self)
        self._longest_s = 0.0
        now = time.perf_counter()
        self._report_s = now + self._interval_s
        self._set_timer(now)

    def end(self) -> None:
        """No more looks; lets `start` return. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _Iterations.forget(self.loop, self)
        if not self.ended.done() and not self.loop.is_closed():
            self.ended.set_result(None)

    def _set_timer(self, now: float) -> None:
        delay = self._report_s - now
        if self.iterations is None:
            delay = min(delay, self._look_s)
        self._due_s = now + delay
        self._timer = self.loop.call_later(delay, self._look)

    def _look(self) -> None:
        now = time.perf_counter()
        self._longest_s = max(self._longest_s, now - self._due_s)
        if now < self._report_s - _TIMER_STEP_S:
            self._set_timer(now)
            return
        lag = self._longest_s
        if self.iterations is not None:
            lag = max(lag, self.iterations.longest(self))
        self.begin()
        self._report(lag)


class _Iterations:
    """The agent's longest iteration of one loop, for each who asks.

    The agent forgets what it has told once, and several monitors may ask.
    """

    def __init__(self) -> None:
        self._longest_ns: dict[_Run, int] = {}

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop, asker: _Run) -> _Iterations | None:
        """Those of the running `loop` from now on; None when nobody watches it."""
        with _lock:
            iterations = _iterations.setdefault(loop, _Iterations())
        return iterations if iterations.begin(asker) else None

    @staticmethod
    def forget(loop: asyncio.AbstractEventLoop, asker: _Run) -> None:
        """It asks no more."""
        with _lock:
            iterations = _iterations.get(loop)
        if iterations is not None:
            iterations.end(asker)

    def begin(self, asker: _Run) -> bool:
        watched = self._ask()
        self._longest_ns[asker] = 0
        return watched

    def end(self, asker: _Run) -> None:
        self._longest_ns.pop(asker, None)

    def longest(self, asker: _Run) -> float:
        """Seconds, since `begin`; 0.0 when the agent has gone meanwhile."""
        self._ask()
        return self._longest_ns[asker] / 1e9

    def _ask(self) -> bool:
        lag_ns = _agent.read_lag()
        for asker, longest_ns in self._longest_ns.items():
            self._longest_ns[asker] = max(longest_ns, lag_ns or 0)
        return lag_ns is not None


_lock = threading.Lock()
_iterations: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Iterations]
_iterations = weakref.WeakKeyDictionary()


@overload
def create(
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    interval: float = ...,
    callbacks: Iterable[Callback | Callable[[float, int, datetime], object]] = ...,
    name: str | None = ...,
    look: float = ...,
) -> SleepEventLoopMonitor: ...


@overload
def create(
    loop: asyncio.AbstractEventLoop | None,
    monitor_cls: Callable[_Arguments, _Monitor],
    *args: _Arguments.args,
    **kwargs: _Arguments.kwargs,
) -> _Monitor: ...


def create(
    loop: asyncio.AbstractEventLoop | None = None,
    monitor_cls: Callable[..., Any] = SleepEventLoopMonitor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Makes a monitor, installs it in `loop` and returns it at once.

    Args:
        loop: a loop of any thread; None is the loop that runs in this thread.
        monitor_cls: class of the monitor.
        *args: for that class, in its order.
        **kwargs: for that class: `interval`, `callbacks`, `name`, `look`.
    Returns:
        The monitor, installed; it measures from the loop's next turn on.
    Raises:
        ValueError: the loop is closed; a value is out of range.
        RuntimeError: no loop was given and none runs in this thread.
    """
    monitor: EventLoopMonitor = monitor_cls(*args, **kwargs)
    monitor.install_to_loop(loop)
    return monitor
