"""Blocking calls on event loops: what aiocop finds, by the agent in C.

``import loopguard.blocking as aiocop`` is meant to run a program written for
aiocop 1.2 unchanged::

    blocking.patch_audit_functions()
    blocking.start_blocking_io_detection()
    blocking.detect_slow_tasks(threshold_ms=30, on_slow_task=print)
    blocking.activate()

A *slice* is one uninterrupted run on a loop: a step of a task, or the callbacks
between two steps (reader callbacks, timers, protocols, tasks that were started
before the loop was known). Whenever one made a blocking call, or took longer
than the threshold, the callbacks get a `SlowTaskEvent` after it: on the loop's
own thread, in the context of the task.

Which loops: every one of asyncio's and uvloop's, in any thread, that runs when
`activate` is called or is made later, and at the latest any other one at its
first blocking call. Tasks that were started before are seen as callbacks. The
agent is started for it if it is not there; `loopguard.stop` ends it, and this
too.

Different from aiocop, which is wrong there: callbacks of readers and protocols
are seen; loops outside of the main thread, and several loops, are told apart; a
C call that blocks without an audit event is "io_blocking" with its name; an
exception for `raise_on_violations` comes before the blocking call is made; what
was patched can be unpatched; `blocked_ms` and `duration_ms` tell time.
"""

from __future__ import annotations

import functools
import importlib
import logging
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from loopguard import _agent, control, every_loop, patches
from loopguard.blocking_names import (
    BLOCKING_EVENTS_DICT,
    FUNCTIONS_TO_PATCH_DICT,
    THRESHOLD_HIGH,
    THRESHOLD_LOW,
    THRESHOLD_MEDIUM,
    WEIGHT_HEAVY,
    WEIGHT_LIGHT,
    WEIGHT_MODERATE,
    WEIGHT_TRIVIAL,
)
from loopguard.blocking_types import (
    BlockingEventInfo,
    ContextProvider,
    CpuStackSample,
    HighSeverityBlockingIoException,
    IoSeverityLevel,
    RawBlockingEvent,
    SlowTaskCallback,
    SlowTaskEvent,
    StackFrame,
    calculate_io_severity_score,
    format_blocking_event,
    format_cpu_samples,
    get_severity_level_from_score,
    merge_samples,
)
from loopguard.config import LoopGuardConfig

__all__ = [
    "BLOCKING_EVENTS_DICT",
    "FUNCTIONS_TO_PATCH_DICT",
    "THRESHOLD_HIGH",
    "THRESHOLD_LOW",
    "THRESHOLD_MEDIUM",
    "WEIGHT_HEAVY",
    "WEIGHT_LIGHT",
    "WEIGHT_MODERATE",
    "WEIGHT_TRIVIAL",
    "BlockingEventInfo",
    "ContextProvider",
    "CpuStackSample",
    "HighSeverityBlockingIoException",
    "IoSeverityLevel",
    "RawBlockingEvent",
    "SlowTaskCallback",
    "SlowTaskEvent",
    "activate",
    "calculate_io_severity_score",
    "callback_troubles",
    "clear_context_providers",
    "clear_slow_task_callbacks",
    "deactivate",
    "detect_slow_tasks",
    "disable_raise_on_violations",
    "enable_raise_on_violations",
    "format_blocking_event",
    "format_cpu_samples",
    "get_blocking_events_dict",
    "get_patched_functions",
    "get_severity_level_from_score",
    "get_slow_task_threshold_ms",
    "is_cpu_sampling_started",
    "is_monitoring_active",
    "is_raise_on_violations_enabled",
    "patch_audit_functions",
    "raise_on_violations",
    "register_context_provider",
    "register_slow_task_callback",
    "reset",
    "reset_blocking_events",
    "start_blocking_io_detection",
    "start_cpu_sampling",
    "unpatch_audit_functions",
    "unregister_context_provider",
    "unregister_slow_task_callback",
]

_log = logging.getLogger("loopguard")

_NS_PER_MS = 1_000_000
_DEPTH_MAX = 64  # of LG_PYSTACK_DEPTH
_SLOW_CALLBACK_S = 0.010

_raising: ContextVar[bool] = ContextVar("loopguard_raise_on_violations", default=False)

# (name, args, frames, seconds since 1970, weight, nanoseconds or None)
_Call = tuple[str, "tuple[Any, ...]", "list[StackFrame]", float, int, "int | None"]


class _Sampling:
    def __init__(
        self,
        interval_ms: float,
        arm_after_ms: float | None,
        idle_interval_ms: float | None,
        max_samples: int,
        depth: int,
    ) -> None:
        self.interval_ms = interval_ms
        self.arm_after_ms = arm_after_ms
        self.idle_interval_ms = idle_interval_ms
        self.max_samples = max_samples
        self.depth = depth


class _State:
    """All under the GIL; lists are replaced, never changed while being read."""

    def __init__(self) -> None:
        self.active = False
        self.detecting = False
        self.watching = False  # audit events
        self.threshold_ms: float = 30
        self.event_depth = 20
        self.sampling: _Sampling | None = None
        self.callbacks: tuple[SlowTaskCallback, ...] = ()
        self.providers: tuple[ContextProvider, ...] = ()
        self.patched: dict[str, tuple[Any, str, Any]] = {}
        self.troubles = {"raised": 0, "slow": 0}
        self.told: set[tuple[str, int]] = set()


_state = _State()


# ---- setup ---------------------------------------------------------------------


def patch_audit_functions() -> None:
    """Wraps functions of the standard library that raise no audit event.

    `FUNCTIONS_TO_PATCH_DICT` names them. A wrapped function stays equal to the
    original one, and costs some nanoseconds where no slice runs. Calls on a
    socket that does not block (timeout 0) are passed through. Calling it again
    wraps what is missing; `unpatch_audit_functions` and `loopguard.stop` undo it.
    """
    for path, weight in FUNCTIONS_TO_PATCH_DICT.items():
        BLOCKING_EVENTS_DICT.setdefault(path, weight)
        owner, name = _find(path)
        original = getattr(owner, name, None)
        if original is None:
            _log.debug("%s is not there to be patched", path)
        elif path not in get_patched_functions():
            wrapper = _agent.audit_wrap(original, path, weight)
            functools.update_wrapper(wrapper, original)
            patches.replace(owner, name, wrapper)
            _state.patched[path] = (owner, name, wrapper)


def unpatch_audit_functions() -> None:
    """Puts the functions back. One that others have wrapped since stays, and is
    logged; it goes on to pass through.
    """
    for path, (owner, name, wrapper) in list(_state.patched.items()):
        if vars(owner).get(name) is wrapper and not patches.restore(owner, name):
            _log.warning("%s was patched by others after loopguard; it stays wrapped", path)
    _state.patched.clear()


def get_patched_functions() -> list[str]:
    """Dotted paths of the functions that are wrapped at this moment."""
    return [
        path
        for path, (owner, name, wrapper) in _state.patched.items()
        if vars(owner).get(name) is wrapper
    ]


def start_blocking_io_detection(trace_depth: int = 20) -> None:
    """Looks for blocking calls from now on: `BLOCKING_EVENTS_DICT`.

    Adds the process's audit hook, which Python never lets go of: while nothing
    is active it is one load and a return. A second call is ignored.

    Args:
        trace_depth: frames kept of each call, 1 to 64 (more is cut to 64).
    Raises:
        ValueError: `trace_depth` is not positive.
    """
    depth = _depth(trace_depth)
    if _state.watching:
        if depth != _state.event_depth:
            _log.warning("start_blocking_io_detection() was called before; this call is ignored")
        return
    _agent.audit_watch(dict(BLOCKING_EVENTS_DICT))
    _state.watching = True
    _state.event_depth = depth
    _rearm()


def detect_slow_tasks(
    threshold_ms: float = 30,
    on_slow_task: SlowTaskCallback | None = None,
    cpu_sampling: bool = True,
) -> None:
    """Measures slices from the next `activate` on, or now if that was called.

    Args:
        threshold_ms: from here on a slice is slow, and told without a blocking
            call in it.
        on_slow_task: registered as by `register_slow_task_callback`.
        cpu_sampling: start the sampling of stacks, unless it was started before.
    Raises:
        ValueError: `threshold_ms` is not positive.

    A second call is ignored, with a warning if it says something else.
    """
    if threshold_ms <= 0:
        raise ValueError(f"threshold_ms must be positive, got {threshold_ms!r}")
    if _state.detecting:
        if threshold_ms != _state.threshold_ms or on_slow_task not in (None, *_state.callbacks):
            _log.warning("detect_slow_tasks() was called before; this call is ignored")
        return
    _state.detecting = True
    _state.threshold_ms = threshold_ms
    if on_slow_task is not None:
        register_slow_task_callback(on_slow_task)
    if cpu_sampling and _state.sampling is None:
        start_cpu_sampling()
    if _state.active:
        _arm()


def get_slow_task_threshold_ms() -> float:
    """Of `detect_slow_tasks`."""
    return float(_state.threshold_ms)


def start_cpu_sampling(
    interval_ms: float = 10,
    arm_after_ms: float | None = None,
    idle_interval_ms: float | None = None,
    max_samples_per_slice: int = 32,
    trace_depth: int = 20,
) -> None:
    """Samples the stack of slices that last: `SlowTaskEvent.cpu_stack_samples`.

    `detect_slow_tasks` does it; call this one before to set its options. The
    watchdog takes the stacks without the GIL, so a C call that holds it is
    sampled like any other. A second call is ignored.

    Args:
        interval_ms: between two samples of a slice, 1 at least; the agent's own
            tick (10 ms) if that is shorter.
        arm_after_ms: age of a slice at the first one; None is half the threshold.
        idle_interval_ms: how often an idle loop is looked at; None is derived
            from the two above, 50 at most.
        max_samples_per_slice: at most so many are taken.
        trace_depth: frames of a stack, 1 to 64 (more is cut to 64).
    Raises:
        ValueError: a negative time or number, or `trace_depth` not positive.
    """
    times = (interval_ms, arm_after_ms or 0, idle_interval_ms or 0, max_samples_per_slice)
    if min(times) < 0:
        raise ValueError("times and max_samples_per_slice must not be negative")
    depth = _depth(trace_depth)
    if _state.sampling is not None:
        _log.warning("start_cpu_sampling() was called before; this call is ignored")
        return
    _state.sampling = _Sampling(
        interval_ms, arm_after_ms, idle_interval_ms, max_samples_per_slice, depth
    )
    _rearm()


def is_cpu_sampling_started() -> bool:
    """Whether stacks of slow slices are sampled while monitoring is active."""
    return _state.sampling is not None


# ---- on and off ----------------------------------------------------------------


def activate() -> None:
    """Begins to measure, on every loop. Cheap, and safe to call twice."""
    _state.active = True
    if _state.detecting:
        _arm()


def deactivate() -> None:
    """Pauses all of it; nothing of the setup is lost.

    What the slice that calls it has done so far is told before. Functions stay
    wrapped and pass through.
    """
    _state.active = False
    _agent.slice_disarm()


def is_monitoring_active() -> bool:
    """False after `deactivate` and after `loopguard.stop`."""
    if not _state.detecting:
        return _state.active  # nothing to stop yet
    return _state.active and control.is_running() and _agent.slice_is_armed()


def reset() -> None:
    """Undoes everything: inactive, unpatched, no callbacks, no settings.

    Only the audit hook stays, asleep; and the agent, if others use it too.
    """
    deactivate()
    unpatch_audit_functions()
    _state.detecting = False
    _state.watching = False
    _state.sampling = None
    _state.callbacks = ()
    _state.providers = ()
    _state.troubles = {"raised": 0, "slow": 0}
    _state.told.clear()
    if control.is_provisional():
        control.stop()


# ---- callbacks and context -----------------------------------------------------


def register_slow_task_callback(callback: SlowTaskCallback) -> None:
    """Calls `callback(event)` after each slice that blocked; once, if it is
    registered twice.

    It runs on the loop's thread. One that raises is logged once and counted
    (`callback_troubles`); one that takes more than 10 ms too. What it calls is
    not monitored.
    """
    if callback not in _state.callbacks:
        _state.callbacks = (*_state.callbacks, callback)
        _rearm()


def unregister_slow_task_callback(callback: SlowTaskCallback) -> None:
    """No error if it is not registered."""
    _state.callbacks = tuple(each for each in _state.callbacks if each != callback)
    _rearm()


def clear_slow_task_callbacks() -> None:
    """Removes all callbacks."""
    _state.callbacks = ()
    _rearm()


def register_context_provider(provider: ContextProvider) -> None:
    """Adds what `provider()` returns, a dict, to `SlowTaskEvent.context`.

    Called where a step starts, in the context of its task, and again at its
    first blocking call; of a slice without one, at the end. Later values that
    are not None win. It costs every step: keep it short. One that raises or takes
    more than 10 ms is logged once and counted.
    """
    if provider not in _state.providers:
        _state.providers = (*_state.providers, provider)
        _rearm()


def unregister_context_provider(provider: ContextProvider) -> None:
    """No error if it is not registered."""
    _state.providers = tuple(each for each in _state.providers if each != provider)
    _rearm()


def clear_context_providers() -> None:
    """Removes all providers."""
    _state.providers = ()
    _rearm()


def callback_troubles() -> dict[str, int]:
    """How often callbacks and providers "raised", and how often they were "slow"."""
    return dict(_state.troubles)


# ---- raising -------------------------------------------------------------------


def enable_raise_on_violations() -> None:
    """From now on, in this context: a blocking call of high severity raises.

    `HighSeverityBlockingIoException` comes instead of the call that brings the
    score of the slice to 50, once a slice; where only the agent's hooks see the
    call (made by C code, over the threshold), at the end of the step or of the
    ``with raise_on_violations()``.
    """
    _raising.set(True)


def disable_raise_on_violations() -> None:
    """Ends it, in this context."""
    _raising.set(False)


def is_raise_on_violations_enabled() -> bool:
    """In this context."""
    return _raising.get()


class raise_on_violations:  # noqa: N801 (a function, to its users)
    """Enables raising for a ``with``; see `enable_raise_on_violations`."""

    def __init__(self) -> None:
        self._token: Token[bool] | None = None
        self._began_ns = 0

    def __enter__(self) -> raise_on_violations:
        self._token = _raising.set(True)
        self._began_ns = time.monotonic_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            try:
                _raising.reset(self._token)
            except ValueError:  # left in another context, as generators' can be
                _raising.set(False)
            self._token = None
        if error is None:
            _agent.slice_check(self._began_ns)


# ---- small ones ----------------------------------------------------------------


def reset_blocking_events() -> None:
    """Forgets the blocking calls that the slice calling this has made."""
    _agent.slice_reset()


def get_blocking_events_dict() -> dict[str, int]:
    """A new dict: the names that are looked for -> their weights."""
    return dict(BLOCKING_EVENTS_DICT)


# ---- what C calls --------------------------------------------------------------


def _receive(
    elapsed_ns: int,
    threshold_ns: int,
    calls: list[_Call],
    contexts: tuple[dict[str, Any] | None, dict[str, Any] | None],
    samples: list[tuple[list[StackFrame], int]],
    blocked_ns: dict[str, int],
    request: dict[str, Any] | None,
) -> None:
    events = _infos(calls)
    score = calculate_io_severity_score(events)
    at_start, at_call = contexts
    at_end = _capture() if _state.providers and at_call is None else at_call
    context = dict(at_start or {})
    context.update({key: value for key, value in (at_end or {}).items() if value is not None})
    if request is not None:
        context.setdefault("loopguard", request)
    event = SlowTaskEvent(
        elapsed_ms=elapsed_ns / _NS_PER_MS,
        threshold_ms=threshold_ns / _NS_PER_MS,
        exceeded_threshold=elapsed_ns >= threshold_ns,
        severity_score=score,
        severity_level=get_severity_level_from_score(score),
        reason="io_blocking" if events else "cpu_blocking",
        blocking_events=events,
        context=context,
        cpu_stack_samples=merge_samples(samples),
        blocked_ms={cause: ns / _NS_PER_MS for cause, ns in blocked_ns.items()},
    )
    for callback in _state.callbacks:
        _guarded("callback", callback, event)


def _capture() -> dict[str, Any]:
    context: dict[str, Any] = {}
    for provider in _state.providers:
        said = _guarded("context provider", provider)
        if isinstance(said, dict):
            context.update(said)
    return context


def _violation(
    elapsed_ns: int, threshold_ns: int, calls: list[_Call]
) -> HighSeverityBlockingIoException:
    events = _infos(calls)
    score = calculate_io_severity_score(events)
    return HighSeverityBlockingIoException(
        score,
        get_severity_level_from_score(score),
        elapsed_ns / _NS_PER_MS,
        threshold_ns / _NS_PER_MS,
        events,
    )


def _infos(calls: Iterable[_Call]) -> list[BlockingEventInfo]:
    infos = []
    for name, args, stack, timestamp, weight, duration_ns in calls:
        raw: RawBlockingEvent = {
            "event_name": name,
            "raw_args": args,
            "raw_stack": stack,
            "timestamp": timestamp,
            "severity": weight,
        }
        if duration_ns is not None:
            raw["duration_ms"] = duration_ns / _NS_PER_MS
        infos.append(format_blocking_event(raw))
    return infos


def _guarded(kind: str, function: Callable[..., Any], *args: Any) -> Any:
    """The user's function must not harm the loop more than it can help."""
    result, error = None, None
    began = time.perf_counter()
    try:
        result = function(*args)
    except Exception as raised:
        error = raised
    took = time.perf_counter() - began
    if error is not None:
        _trouble("raised", function, f"blocking: a {kind} failed", error)
    if took > _SLOW_CALLBACK_S:
        _trouble("slow", function, f"blocking: a {kind} holds up the event loop itself")
    return result


def _trouble(
    what: str, function: Callable[..., Any], text: str, error: Exception | None = None
) -> None:
    _state.troubles[what] += 1
    if (what, id(function)) not in _state.told:
        _state.told.add((what, id(function)))
        _log.warning("%s: %r", text, function, exc_info=error)


# ---- arming --------------------------------------------------------------------


def _arm() -> None:
    """Our own work first: it is nobody's slice."""
    config = LoopGuardConfig(enforcement_mode="log", log_blocking_events=False)
    if control.is_running() or control.start(config, provisional=True):
        if not every_loop.is_applied():
            every_loop.apply()
        if every_loop.is_asyncio():
            _agent.watch_loop()
    if not _agent.slice_is_armed():
        _arm_slices()


def _rearm() -> None:
    if _agent.slice_is_armed():
        _arm_slices()


def _arm_slices() -> None:
    sampling = _state.sampling
    interval_ms: float = 10
    arm_after_ms = max(1, _state.threshold_ms / 2)
    idle_ms: float = 50
    if sampling is not None:
        interval_ms = max(1, sampling.interval_ms)
        if sampling.arm_after_ms is not None:
            arm_after_ms = sampling.arm_after_ms
        idle_ms = min(50, max(arm_after_ms, interval_ms))
        if sampling.idle_interval_ms is not None:
            idle_ms = max(1, sampling.idle_interval_ms)
    _agent.slice_arm(
        threshold_ns=int(_state.threshold_ms * _NS_PER_MS),
        sampling=sampling is not None,
        arm_after_ns=int(arm_after_ms * _NS_PER_MS),
        interval_ns=int(interval_ms * _NS_PER_MS),
        idle_ns=int(idle_ms * _NS_PER_MS),
        max_samples=sampling.max_samples if sampling is not None else 0,
        sample_depth=sampling.depth if sampling is not None else 0,
        event_depth=_state.event_depth,
        receive=_receive if _state.callbacks else None,
        capture=_capture if _state.providers else None,
        violation=_violation,
        raising=_raising,
    )


# ---- helpers -------------------------------------------------------------------


def _find(path: str) -> tuple[Any, str]:
    """The object that holds the function, and its name there."""
    module, *rest, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
    except ImportError:
        return None, name
    for part in rest:
        owner = getattr(owner, part, None)
    return owner, name


def _depth(trace_depth: int) -> int:
    if trace_depth < 1:
        raise ValueError(f"trace_depth must be positive, got {trace_depth!r}")
    return min(trace_depth, _DEPTH_MAX)
