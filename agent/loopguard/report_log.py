"""The log line of a block, and in `dev_mode` its banner on stderr.

One warning on the logger ``loopguard`` for the first block of an endpoint; then
at most one in ten seconds, which says how many were held back meanwhile. The
same facts stand in the record's attributes for structured logging.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import TextIO

from loopguard import hints
from loopguard.config import LoopGuardConfig
from loopguard.events import BlockingEvent, Endpoint, Subscription, subscribe

__all__ = ["BlockLog", "arm", "banner", "is_excluded", "message"]

INTERVAL_S = 10.0
_ENDPOINTS_KEPT = 512
_WIDTH = 72
_RED = "\x1b[1;31m"
_CYAN = "\x1b[36m"
_DIM = "\x1b[2m"
_RESET = "\x1b[0m"
_log = logging.getLogger("loopguard")


class BlockLog:
    """A callback for `loopguard.events.subscribe` that logs.

    Args:
        log: log lines are wanted.
        show: the banner is wanted.
        exclude_paths: these paths and routes are left out; see `is_excluded`.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        *,
        log: bool = True,
        show: bool = False,
        exclude_paths: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._show = show
        self._exclude = frozenset(exclude_paths)
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[Endpoint, tuple[float, int]] = {}  # when told; held back since

    def __call__(self, event: BlockingEvent) -> None:
        """Logs `event`, unless its endpoint has just been logged."""
        if self._is_excluded(event):
            return
        held_back = self._held_back(event.blamed)
        if held_back < 0:
            return
        if self._log:
            _log.warning("%s", message(event, held_back), extra=_fields(event, held_back))
        if self._show:
            stream = sys.stderr
            stream.write(banner(event, color=_has_color(stream)))

    def _is_excluded(self, event: BlockingEvent) -> bool:
        if event.elsewhere:  # whoever asked for that path only waited
            return is_excluded(event.route, self._exclude)
        paths = (event.route, event.path or "")
        return event.excluded or any(is_excluded(path, self._exclude) for path in paths)

    def _held_back(self, endpoint: Endpoint) -> int:
        """How many went untold before this one; -1 to hold this one back too."""
        now = self._clock()
        with self._lock:
            last = self._last.get(endpoint)
            if last is not None and now - last[0] < INTERVAL_S:
                self._last[endpoint] = (last[0], last[1] + 1)
                return -1
            if len(self._last) >= _ENDPOINTS_KEPT:
                self._last.clear()
            self._last[endpoint] = (now, 0)
            return 0 if last is None else last[1]


def arm(config: LoopGuardConfig) -> list[Subscription]:
    """Subscribes what a configuration asks for; the caller closes them."""
    wanted: list[Callable[[BlockingEvent], object]] = []
    if config.log_blocking_events or config.dev_mode:
        log = BlockLog(
            log=config.log_blocking_events,
            show=config.dev_mode,
            exclude_paths=config.exclude_paths,
        )
        wanted.append(log)
    if config.on_blocking is not None:
        wanted.append(config.on_blocking)
    return [subscribe(callback) for callback in wanted]


def is_excluded(path: str, exclude_paths: Collection[str]) -> bool:
    """Whether `path` is one of them, or begins as one that ends in ``*``."""
    if path in exclude_paths:
        return True
    return any(p.endswith("*") and path.startswith(p[:-1]) for p in exclude_paths)


def message(event: BlockingEvent, held_back: int = 0) -> str:
    """One line: duration, who, cause, innermost frame of the user."""
    what = f"event loop blocked {event.duration_ms:.1f} ms"
    who = f" by {event.blamed}" if event.blamed.kind != "loop" else ""
    if event.elsewhere and event.ran is not None:
        who += f" while {event.ran} ran"
    if event.kind != "step":
        who += f" in {event.steps or 'many'} short steps"
    cause = event.cause if not event.call else f"{event.cause}: {event.call}"
    where = f", {event.frame}" if event.frame is not None else ""
    more = f" [{held_back} more held back]" if held_back else ""
    return _printable(f"{what}{who} ({cause}){where}{more}")


def _fields(event: BlockingEvent, held_back: int) -> dict[str, object]:
    frame = event.frame
    return {
        "method": event.method,
        "path": event.path or event.route,
        "route": event.route,
        "lag_ms": round(event.duration_ms, 3),
        "request_id": event.request_id,
        "blocking_count": event.blocking_count,
        "blocking_kind": event.kind,
        "blocking_cause": event.cause,
        "threshold_ms": event.threshold_ms,
        "parts_ms": {k: round(ms, 3) for k, ms in event.parts.items()},
        "blocking_call": event.call,
        "source": "" if frame is None else f"{frame.filename}:{frame.lineno}",
        "function": "" if frame is None else frame.function,
        "task": event.task_name,
        "hint": event.hint,
        "held_back": held_back,
    }


def banner(event: BlockingEvent, *, color: bool) -> str:
    """A framed text for the terminal of somebody who is developing."""

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if color else text

    title = "LOOPGUARD: event loop blocked"
    parts = sorted(event.parts.items(), key=lambda part: -part[1])
    lines = [
        "",
        paint(_RED, f"── {title} " + "─" * (_WIDTH - len(title) - 4)),
        f"  who       {event.blamed}" + (f"  {event.request_id}" if event.request_id else ""),
        f"  blocked   {event.duration_ms:.1f} ms (threshold {event.threshold_ms:g} ms)",
        f"  cause     {event.cause}: "
        + ", ".join(f"{k} {ms:.1f} ms" for k, ms in parts if ms >= 0.1),
    ]
    if event.elsewhere and event.ran is not None:
        lines.append(f"  meanwhile {event.ran} ran and is not to blame")
    if event.call:
        lines.append(f"  call      {event.call}")
    if event.frame is not None:
        lines.append(f"  line      {event.frame}")
    if event.waiting > 1:
        lines.append(f"  waiting   {event.waiting} requests were open")
    lines = [*lines[:2], *map(_printable, lines[2:])]
    advice = [event.hint] if event.hint else hints.hint_lines()
    lines += [paint(_CYAN, f"  instead   {text}") for text in advice]
    lines += [paint(_RED, "─" * _WIDTH), ""]
    return "\n".join(lines)


def _has_color(stream: TextIO) -> bool:
    """On a terminal, unless https://no-color.org says no."""
    try:
        return stream.isatty() and not os.environ.get("NO_COLOR")
    except (AttributeError, ValueError):  # replaced by something, or closed
        return False


def _printable(text: str) -> str:
    """Control characters escaped: a path may hold a line break that a client sent."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
