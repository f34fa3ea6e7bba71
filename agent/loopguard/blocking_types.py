"""What `loopguard.blocking` hands out, and how it is put into words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from loopguard.blocking_names import THRESHOLD_HIGH, THRESHOLD_MEDIUM, WEIGHT_MODERATE

StackFrame = tuple[str, int, str]
"""File, line, function."""

IoSeverityLevel = Literal["low", "medium", "high"]

_ARGUMENT_LENGTH = 100
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class _RawEvent(TypedDict):
    event_name: str
    raw_args: tuple[Any, ...]
    raw_stack: list[StackFrame]
    timestamp: float
    severity: int | None


class RawBlockingEvent(_RawEvent, total=False):
    """A blocking call as it was recorded: name, arguments, frames (innermost
    first), seconds since 1970, weight; `duration_ms` where it is known.
    """

    duration_ms: float


class _EventInfo(TypedDict):
    event: str
    trace: str
    entry_point: str
    severity: int | None


class BlockingEventInfo(_EventInfo, total=False):
    """A blocking call in words.

    `event` is "name(arguments)", `trace` "path:line:function <- ..." from the
    innermost frame outwards, `entry_point` its first frame, `severity` its
    weight. `duration_ms`: how long it kept the loop; missing where neither the
    agent's hooks stand nor the function is a wrapped one.
    """

    duration_ms: float


class CpuStackSample(TypedDict):
    """A stack that the watchdog saw `count` times during one slice."""

    trace: str
    entry_point: str
    count: int


@dataclass(frozen=True)
class SlowTaskEvent:
    """One run on the loop that blocked: a step of a task, or callbacks.

    Attributes:
        elapsed_ms: how long it kept the loop.
        threshold_ms: of `detect_slow_tasks`.
        exceeded_threshold: `elapsed_ms` >= `threshold_ms`.
        severity_score: sum of the weights of `blocking_events`.
        severity_level: "low", "medium" (10 and more) or "high" (50 and more).
        reason: "io_blocking" where there is a blocking call, whatever it took;
            "cpu_blocking" where there is none and the time was over the threshold.
        blocking_events: at most 50, in their order.
        context: what the context providers said. The key "loopguard" holds
            `method`, `route` (None before routing) and `request_id` when it was
            a request's step.
        cpu_stack_samples: most frequent first.
        blocked_ms: where the time went, by cause ("cpu", "io", "disk", "lock",
            "gil", "gc", "scheduler", ...); sums to `elapsed_ms`.
    """

    elapsed_ms: float
    threshold_ms: float
    exceeded_threshold: bool
    severity_score: int
    severity_level: str
    reason: str
    blocking_events: list[BlockingEventInfo]
    context: dict[str, Any] = field(default_factory=dict)
    cpu_stack_samples: list[CpuStackSample] = field(default_factory=list)
    blocked_ms: Mapping[str, float] = field(default_factory=dict)


SlowTaskCallback = Callable[[SlowTaskEvent], None]
ContextProvider = Callable[[], "dict[str, Any]"]


class HighSeverityBlockingIoException(Exception):  # noqa: N818 (aiocop's name)
    """A blocking call of high severity where `raise_on_violations` forbids it."""

    def __init__(
        self,
        severity_score: int,
        severity_level: str,
        elapsed_ms: float,
        threshold_ms: float,
        events: list[BlockingEventInfo],
    ) -> None:
        self.severity_score = severity_score
        self.severity_level = severity_level
        self.elapsed_ms = elapsed_ms
        self.threshold_ms = threshold_ms
        self.events = events
        about = f"severity {severity_score} ({severity_level}), {elapsed_ms:.2f} ms into the step"
        lines = [f"  {event['event']}\n    at {event['trace']}" for event in events]
        super().__init__("\n".join([f"blocking call on the event loop: {about}", *lines]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.severity_score,
            self.severity_level,
            self.elapsed_ms,
            self.threshold_ms,
            self.events,
        )


def calculate_io_severity_score(blocking_events: Iterable[BlockingEventInfo] | None) -> int:
    """Sum of the weights; 0 for None. An event without one counts as moderate."""
    weights = [event.get("severity") for event in blocking_events or ()]
    return sum(WEIGHT_MODERATE if weight is None else weight for weight in weights)


def get_severity_level_from_score(score: int) -> IoSeverityLevel:
    """The word for a score: "high" from 50, "medium" from 10, else "low"."""
    if score >= THRESHOLD_HIGH:
        return "high"
    return "medium" if score >= THRESHOLD_MEDIUM else "low"


def format_blocking_event(raw_event: RawBlockingEvent) -> BlockingEventInfo:
    """Puts a recorded call into words; see `BlockingEventInfo`.

    Arguments that are longer than 100 characters are cut; those whose str()
    fails are told as "?".
    """
    args = raw_event["raw_args"]
    if len(args) == 2 and isinstance(args[0], tuple) and isinstance(args[1], dict):
        args = args[0]  # of a wrapped function: positional ones, keywords
    trace = _format_stack(raw_event["raw_stack"])
    info: BlockingEventInfo = {
        "event": f"{raw_event['event_name']}({', '.join(map(_format_argument, args))})",
        "trace": trace,
        "entry_point": trace.split(" <- ", 1)[0] or "unknown",
        "severity": raw_event["severity"],
    }
    if "duration_ms" in raw_event:
        info["duration_ms"] = raw_event["duration_ms"]
    return info


def format_cpu_samples(raw_samples: Iterable[Sequence[StackFrame]]) -> list[CpuStackSample]:
    """Counts equal stacks; the most frequent one first."""
    return merge_samples((stack, 1) for stack in raw_samples)


def merge_samples(samples: Iterable[tuple[Sequence[StackFrame], int]]) -> list[CpuStackSample]:
    """The same for stacks that come with how often each was seen."""
    counts: dict[str, int] = {}
    for stack, count in samples:
        trace = _format_stack(stack)
        counts[trace] = counts.get(trace, 0) + count
    return [
        {"trace": trace, "entry_point": trace.split(" <- ", 1)[0] or "unknown", "count": count}
        for trace, count in sorted(counts.items(), key=lambda item: -item[1])
    ]


def _format_argument(value: object) -> str:
    try:
        return str(value)[:_ARGUMENT_LENGTH]
    except Exception:
        return "?"


def _format_stack(stack: Iterable[StackFrame]) -> str:
    return " <- ".join(
        f"{_short(file)}:{line}:{function}"
        for file, line, function in stack
        if not file.startswith(_PACKAGE)
    )


def _short(file: str) -> str:
    """Without what stands before the sources, the packages or the library."""
    for folder in ("/src/", "/site-packages/"):
        _, found, rest = file.partition(folder)
        if found:
            return rest
    return file.rpartition("/")[2] if "/lib/python" in file else file
