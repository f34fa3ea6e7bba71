"""What a measured application's answers bear; the headers are made in C.

Here are the rules for one wrapper, from a configuration, and what is rare: the
page that mode "strict" sends in the place of a guilty request's answer.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from loopguard import hints
from loopguard.asgi_types import Message, Scope, Send
from loopguard.config import LoopGuardConfig

_log = logging.getLogger("loopguard")

_DOCS = "https://fastapi.tiangolo.com/async/"
_HEADLINE = "This request blocked the event loop"
_PROBLEM = (
    "It kept the event loop busy for longer than allowed, and every other request of "
    "this worker had to wait meanwhile."
)


def rules(config: LoopGuardConfig, *, marks: bool = False) -> dict[str, object]:
    """For ``_agent.wrap``: what happens to the answers of one wrapper.

    Args:
        config: whose mode, headers, paths and switches hold.
        marks: the request's id goes into ``scope["state"]`` also where no answer
            bears it.
    """
    paths = list(config.exclude_paths)
    strict = config.enforcement_mode == "strict"
    headers = config.dev_mode or config.enforcement_mode != "log"
    return {
        "headers": headers,
        "marks": marks or headers,
        "warning": config.enforcement_mode != "log",
        "strict": strict,
        "server_timing": config.server_timing,
        "exact_paths": tuple(p for p in paths if not p.endswith("*")),
        "path_prefixes": tuple(p[:-1] for p in paths if p.endswith("*")),
        "request_filter": config.request_filter,
        "filter_failed": _FilterFailed() if config.request_filter is not None else None,
        "switch_header": None if config.switch_header is None else config.switch_header.encode(),
        "refuse": refuse if strict else None,
        "swallow": _swallow if strict else None,
    }


class _FilterFailed:
    """Logs the first failure of one filter."""

    def __init__(self) -> None:
        self._logged = False

    def __call__(self, error: BaseException) -> None:
        if not self._logged:
            self._logged = True
            _log.warning(
                "request_filter failed; requests are measured when it does", exc_info=error
            )


def refuse(
    send: Send,
    scope: Scope | None,
    request_id: str,
    count: int,
    total_ms: float,
    timing: str | None,
) -> Coroutine[Any, Any, None]:
    """The 503 of mode "strict".

    Args:
        send: the next one outward.
        scope: the request's; None when it is gone.
        request_id: 8 hex digits.
        count: how often it has blocked the loop.
        total_ms: for how long.
        timing: value of a Server-Timing header, or None.
    Returns:
        A coroutine that sends it; made whole before, so that nothing of ours
        can fail in the application's `await`.
    """
    method = str((scope or {}).get("method", ""))
    path = str((scope or {}).get("path", ""))
    if _accepts_html((scope or {}).get("headers") or ()):
        content_type = b"text/html; charset=utf-8"
        text = _page(request_id, method, path, count, total_ms)
    else:
        content_type = b"application/json"
        text = _json(request_id, method, path, count, total_ms)
    body = text.encode("utf-8", "replace")  # a path may hold lone surrogates
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"x-blocking-count", b"%d" % count),
        (b"x-blocking-total-ms", b"%.2f" % total_ms),
        (b"x-blocking-detected", b"true"),
        (b"x-loopguard-enforcement", b"strict"),
    ]
    if timing is not None:
        headers.append((b"server-timing", timing.encode()))
    start = {"type": "http.response.start", "status": 503, "headers": headers}
    return _send_both(
        send, start, {"type": "http.response.body", "body": b"" if method == "HEAD" else body}
    )


async def _send_both(send: Send, start: Message, body: Message) -> None:
    await send(start)
    await send(body)


async def _swallow() -> None:
    """In the place of `send` for what a refused application still says."""


def _accepts_html(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(
        name.lower() == b"accept" and b"text/html" in value.lower() for name, value in headers
    )


def _json(request_id: str, method: str, path: str, count: int, total_ms: float) -> str:
    import json  # noqa: PLC0415 - only a refusal needs it

    return json.dumps(
        {
            "error": "event_loop_blocked",
            "message": _HEADLINE,
            "request": {"id": request_id, "method": method, "path": path},
            "blocking": {"count": count, "total_ms": round(total_ms, 2)},
            "help": {"problem": _PROBLEM, "common_causes": hints.hint_lines(), "docs": _DOCS},
        },
        indent=2,
    )


def _page(request_id: str, method: str, path: str, count: int, total_ms: float) -> str:
    import html  # noqa: PLC0415 - only a refusal needs it

    # method and path are whatever the client sent
    what = html.escape(f"{method} {path}")
    rows = "\n".join(
        f"<tr><td>{html.escape(label)}<td><code>{html.escape(before)}</code>"
        f"<td><code>{html.escape(after)}</code>"
        for label, before, after in hints.FIX_HINTS
    )
    times = "once" if count == 1 else f"{count} times"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>503: {_HEADLINE}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 3rem auto; padding: 0 1rem }}
h1 {{ color: #b00020 }}
td, th {{ text-align: left; padding: .25rem 1rem .25rem 0; vertical-align: top }}
</style>
<h1>{_HEADLINE}</h1>
<p><code>{what}</code>: {times}, {total_ms:.1f} ms in all.</p>
<p>{_PROBLEM}</p>
<table>
<tr><th>What<th>Blocks<th>Does not
{rows}
</table>
<p><a href="{_DOCS}">How async endpoints work in FastAPI</a></p>
<p>Request {html.escape(request_id)}, stopped by loopguard in mode "strict".</p>
</html>
"""
