"""Which function blocks the event loop, each call timed: `event_loop_monitor_ctx`.

The names and arguments are those of asyncio-event-loop-monitor. Every call of a
Python function, and of each C function that could take long, is timed on every
thread where a loop runs (sys.monitoring on Python 3.12 and newer, the profile
function before); a request costs about a fifth more, so this is for finding a
culprit, while `loopguard.install` is for always.

What is told, and where that differs from the original:

- One report for one block: the innermost function whose own time, without what
  was already told within it, is over the threshold. A C call is told by its
  name with the line that made it; many short calls are the time of the
  function that makes them.
- A coroutine's body counts, from resumption to suspension. Waiting in ``await``
  does not, and an idle loop is never a block.
- Paths are paths: of folders, files or modules, whole components. Time in code
  that is left out belongs to the visible function that called it.
- A context within another one uses its own settings, and then the outer's hold
  again. Several monitors at a time each have their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import itertools
import logging
import math
import threading
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Callable

from loopguard import call_engine, call_names, call_paths
from loopguard.config import check_callable, switched_off
from loopguard.frames import Frame

__all__ = ["BlockingCallCallback", "BlockingCallInfo", "EventLoopMonitor", "event_loop_monitor_ctx"]

_log = logging.getLogger("loopguard")
_STACK_DEPTH = 64


@dataclass
class BlockingCallInfo:
    """One call that blocked the event loop.

    Args:
        method_name: module and qualified name, "shop.orders.Cart.total",
            "time.sleep", "_io.FileIO.read".
        duration_ms: the time that is its own; not that of calls within it that
            were told themselves.
        is_c_call: a function, method or type that is written in C.
        filename: of the function; of a C call, of the function that made it.
        lineno: where the function begins; of a C call, the line that made it.
        thread_name: of the loop's thread.
        task_name: of the task that ran; None in a plain callback.
        stack: the Python frames as it ended, innermost first, to the loop's own.
    """

    method_name: str
    duration_ms: float
    is_c_call: bool = False
    filename: str = ""
    lineno: int = 0
    thread_name: str = ""
    task_name: str | None = None
    stack: tuple[Frame, ...] = ()


BlockingCallCallback = Callable[[BlockingCallInfo], object]

# Of the context that runs; tasks begun in it inherit it.
_innermost: contextvars.ContextVar[_Nested | None] = contextvars.ContextVar(
    "loopguard_calls_innermost", default=None
)


class EventLoopMonitor:
    """Tells of each call that blocks an event loop, on any thread, once active.

    Args:
        threshold_ms: milliseconds of its own from which on a call is told.
        include_paths: only code of these folders, files (absolute paths) or
            modules ("shop", "shop.orders"). None or empty: all code.
        exclude_paths: not code of these; wins over `include_paths`. None: Python's
            import system. asyncio, selectors, uvloop and anyio's backends are
            always left out.
        on_blocking_call: called with a `BlockingCallInfo` right after the call, on
            the loop's thread, in its task's context. It runs unwatched, by us
            and by debuggers and coverage tools. None: one line in the log
            ``loopguard``, at WARNING.
    Raises:
        ValueError: `threshold_ms` is negative or not a number.
        TypeError: a value of another kind.
    Source:
        PEP 669, and `sys.setprofile` before Python 3.12.
    """

    def __init__(
        self,
        threshold_ms: float = 50.0,
        include_paths: Iterable[str] | None = None,
        exclude_paths: Iterable[str] | None = None,
        on_blocking_call: BlockingCallCallback | None = None,
    ) -> None:
        if isinstance(threshold_ms, bool) or not isinstance(threshold_ms, (int, float)):
            raise TypeError(f"threshold_ms must be a number, not {threshold_ms!r}")
        if not 0 <= threshold_ms < math.inf:
            raise ValueError(f"threshold_ms must be 0 or more, not {threshold_ms!r}")
        if on_blocking_call is not None:
            check_callable("on_blocking_call", on_blocking_call)
        self._threshold_ms = float(threshold_ms)
        self._paths = call_paths.PathFilter(include_paths, exclude_paths)
        self._callback = on_blocking_call or _write_to_log
        self._watcher = 0
        self._errors = 0

    @property
    def is_active(self) -> bool:
        """Is it watching?"""
        return self._watcher != 0

    @property
    def callback_errors(self) -> int:
        """How often `on_blocking_call` has raised. The first time is in the log."""
        return self._errors

    def activate(self) -> None:
        """Begins to watch. Does nothing when it does already, or with ``LOOPGUARD_DISABLE=1``;
        where that is impossible, the log says why and `is_active` stays false.
        """
        if self._watcher or switched_off():
            return
        running = [frame.f_code for frame in _step_frames()] if _running_loop() else []
        self._watcher = call_engine.add(self._told, self._threshold_ms, self._paths)
        if self._watcher:
            call_engine.enter(running[::-1])

    def deactivate(self) -> None:
        """Ends watching; what runs still and took long is told before it returns."""
        watcher, self._watcher = self._watcher, 0
        if not watcher:
            return
        frames = _step_frames()
        found = call_engine.flush(watcher, tuple(frame.f_code for frame in frames))
        call_engine.remove(watcher)
        for index, ms in found:
            frame = frames[index]
            if self._sees(frame):
                line = frame.f_code.co_firstlineno
                self._tell(frame, frame.f_code, None, frame.f_globals, line, ms)

    def _sees(self, frame: types.FrameType) -> bool:
        return self._paths.sees(frame.f_code.co_filename, _module(frame))

    def _told(
        self,
        frame: types.FrameType | None,
        code: types.CodeType,
        c_function: Any,
        variables: dict[str, Any] | None,
        line: int,
        ms: float,
    ) -> bool:
        """The engine's call, for each that crossed the threshold."""
        frame = frame or _caller()
        return self._tell(frame, code, c_function, variables, line, ms)

    def _tell(
        self,
        frame: types.FrameType | None,
        code: types.CodeType,
        c_function: Any,
        variables: dict[str, Any] | None,
        line: int,
        ms: float,
    ) -> bool:
        loop = _running_loop()
        if loop is None:
            return False
        if self._is_another_ones():
            return True
        try:
            is_c = c_function is not None
            info = BlockingCallInfo(
                call_names.c_name(c_function) if is_c else call_names.python_name(code, variables),
                ms,
                is_c,
                code.co_filename,
                line,
                threading.current_thread().name,
                _task_name(loop),
                tuple(_stack(frame)),
            )
            self._callback(info)
        except KeyboardInterrupt:  # not ours to keep, nor to raise out of a function's end
            _thread_interrupt()
        except BaseException:
            self._errors += 1
            if self._errors == 1:
                _log.exception("on_blocking_call of loopguard.calls raised; told only this once")
        return True

    def _is_another_ones(self) -> bool:
        """Is there a context nearer to what ran, which has it?"""
        return False


class _Nested(EventLoopMonitor):
    """One that belongs to a context: the innermost has what runs in it."""

    outer: _Nested | None = None

    def _is_another_ones(self) -> bool:
        nearest = _innermost.get()
        while nearest is not None and not nearest.is_active:
            nearest = nearest.outer
        return nearest is not None and nearest is not self


class _Context(contextlib.ContextDecorator):
    """What `event_loop_monitor_ctx` gives; can be entered again."""

    def __init__(self, enabled: bool, make: Callable[[], _Nested]) -> None:
        self._enabled = enabled
        self._make = make
        self._entered: list[tuple[_Nested, contextvars.Token[Any] | None]] = []

    def __enter__(self) -> EventLoopMonitor:
        monitor = self._make()
        token = None
        if self._enabled:
            monitor.outer = _innermost.get()
            token = _innermost.set(monitor)
            monitor.activate()
        self._entered.append((monitor, token))
        return monitor

    def __exit__(self, *_: object) -> None:
        monitor, token = self._entered.pop()
        monitor.deactivate()
        if token is not None:
            try:
                _innermost.reset(token)
            except ValueError:  # left in another context than entered: a fixture's
                _innermost.set(monitor.outer)


def event_loop_monitor_ctx(
    enabled: bool = True,
    threshold_ms: float = 50.0,
    include_paths: Iterable[str] | None = None,
    exclude_paths: Iterable[str] | None = None,
    on_blocking_call: BlockingCallCallback | None = None,
) -> _Context:
    """A context in which an `EventLoopMonitor` is active; a decorator too.

    What runs in the context, tasks begun in it included, is told to the
    innermost one only; what runs in none is told to each that is active.

    Args:
        enabled: False: it does nothing.
        threshold_ms: as of `EventLoopMonitor`, and so are the others:
        include_paths: code that is seen.
        exclude_paths: code that is not.
        on_blocking_call: who is told.
    Returns:
        The context manager; ``as`` gives the monitor.
    Raises:
        ValueError, TypeError: as `EventLoopMonitor`.
    """

    def make() -> _Nested:
        return _Nested(threshold_ms, include_paths, exclude_paths, on_blocking_call)

    make()  # raises here, not when it is entered
    return _Context(enabled, make)


def _write_to_log(info: BlockingCallInfo) -> None:
    _log.warning(
        "Event loop blocking detected: %s took %.2fms (%s:%d)",
        info.method_name,
        info.duration_ms,
        info.filename,
        info.lineno,
    )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _caller() -> types.FrameType | None:
    """The innermost frame that is not of this module."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _task_name(loop: asyncio.AbstractEventLoop) -> str | None:
    task = asyncio.current_task(loop)
    return None if task is None else task.get_name()


def _thread_interrupt() -> None:
    import _thread  # noqa: PLC0415

    _thread.interrupt_main()


def _module(frame: types.FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _step_frames() -> list[types.FrameType]:
    """Frames of the running step, innermost first, without ours.

    A loop in C (uvloop) has no frame: there the step ends below its outermost
    coroutine, and a plain callback is one frame.
    """
    frames = _frames(_caller())
    step = list(itertools.takewhile(lambda f: not call_paths.is_machinery(_module(f)), frames))
    if len(step) < len(frames) and _module(frames[len(step)]) in (
        "asyncio.events",
        "asyncio.tasks",
    ):
        return step
    plain = list(itertools.takewhile(lambda f: not _is_coroutine(f), step))
    coroutines = list(itertools.takewhile(_is_coroutine, step[len(plain) :]))
    return plain + coroutines if coroutines else step[:1]


def _frames(frame: types.FrameType | None) -> list[types.FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _is_coroutine(frame: types.FrameType) -> bool:
    return bool(frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR))


def _stack(frame: types.FrameType | None) -> Iterator[Frame]:
    for f in _frames(frame)[:_STACK_DEPTH]:
        if call_paths.is_machinery(_module(f)):
            return
        name = getattr(f.f_code, "co_qualname", f.f_code.co_name)
        yield Frame(f.f_code.co_filename, name, f.f_lineno or 0)
