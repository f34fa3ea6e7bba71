"""Log records of loopguard as JSON lines, for those who collect logs.

Everything goes to the logger ``loopguard``; nothing here is needed for that.
Names as in fastapi-loopguard. In this package ``import logging`` is Python's own
module all the same: imports are absolute.
"""

from __future__ import annotations

import datetime
import json
import logging
from typing import TYPE_CHECKING, TextIO

__all__ = ["FIELDS", "StructuredFormatter", "configure_logging", "log_blocking_event"]

LOGGER = "loopguard"

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]  # generic for type checkers only, on 3.9
else:
    _StreamHandler = logging.StreamHandler

FIELDS: tuple[str, ...] = (
    # fastapi-loopguard's
    "path",
    "method",
    "lag_ms",
    "request_id",
    "blocking_count",
    # ours
    "route",
    "blocking_kind",
    "blocking_cause",
    "threshold_ms",
    "parts_ms",
    "blocking_call",
    "source",
    "function",
    "task",
    "hint",
    "held_back",
)
"""Attributes of a record that `StructuredFormatter` writes, where it has them."""


class StructuredFormatter(logging.Formatter):
    """One JSON object a record, without line breaks.

    Keys: timestamp (ISO 8601, UTC, of the record), level, logger, message, those
    of `FIELDS` that the record has, and exc_info where there is an exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; a value that JSON does not know becomes its str()."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        data: dict[str, object] = {
            "timestamp": when.isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        data.update((name, vars(record)[name]) for name in FIELDS if name in vars(record))
        if record.exc_info:
            data["exc_info"] = self.formatException(record.exc_info)
        return json.dumps(data, default=str)


class _Handler(_StreamHandler):
    """Ours, to be told from the application's."""


def configure_logging(
    level: int = logging.INFO, structured: bool = False, stream: TextIO | None = None
) -> None:
    """Gives the logger ``loopguard`` a handler of its own, and ends propagation.

    Called again it replaces that handler. Without it the records go where the
    application's root logger sends them.

    Args:
        level: least level that is written.
        structured: JSON lines instead of text.
        stream: where to; None is stderr.
    Raises:
        ValueError, TypeError: `level` is none of logging's.
    """
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level)
    for handler in [h for h in logger.handlers if isinstance(h, _Handler)]:
        logger.removeHandler(handler)
    handler = _Handler(stream)
    handler.setFormatter(
        StructuredFormatter()
        if structured
        else logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    )
    logger.addHandler(handler)
    logger.propagate = False


def log_blocking_event(
    lag_ms: float,
    path: str | None = None,
    method: str | None = None,
    request_id: str | None = None,
) -> None:
    """Logs a block that somebody else has measured, as a warning.

    Args:
        lag_ms: how long it was.
        path: of the request, where it was one.
        method: of the request.
        request_id: of the request.
    """
    who = " ".join(word for word in (method, path) if word)
    logging.getLogger(LOGGER).warning(
        "event loop blocked %.2f ms%s",
        lag_ms,
        f" by {who}" if who else "",
        extra={"lag_ms": lag_ms, "path": path, "method": method, "request_id": request_id},
    )
