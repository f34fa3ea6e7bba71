"""The requests that are open, and the one that really runs."""

from __future__ import annotations

from dataclasses import dataclass

from loopguard import _agent


@dataclass(frozen=True)
class RequestInfo:
    """What is known of an open request or WebSocket at the moment of asking.

    Attributes:
        request_id: 8 hex digits; the same in ``x-request-id``, in the log and on
            the viewer's screen.
        method: "GET"; "WS" for a WebSocket.
        path: the path as the server gave it to the outermost wrapper: the
            client's own text.
        route: its template ("/users/{user_id}"); None while nothing has matched,
            "(unmatched)" when nothing did.
        start_time: seconds on the clock of `time.monotonic`, as in
            fastapi-loopguard: how long ago it began is
            ``time.monotonic() - info.start_time``.
        blocking_count: how often it blocked the loop: steps over the threshold,
            and one more for many short ones together ("cumulative"). Only its
            own: what others did to it is not counted.
        total_blocking_ms: how long that was.
    """

    request_id: str
    method: str
    path: str
    route: str | None
    start_time: float
    blocking_count: int
    total_blocking_ms: float


def current_request() -> RequestInfo | None:
    """The request or WebSocket whose code is running in this thread now.

    On a loop's thread that of the running step, child tasks and background tasks
    included; in a thread of the pool the one whose sync endpoint it runs. A step
    that is over the threshold already, and is the request's own doing, is
    counted in as far as it has come.

    Returns:
        None where no request runs: outside of a loop, in a callback, in a task
        that belongs to none, in other threads, or when nothing is measured.
    """
    found = _agent.current_request()
    return None if found is None else RequestInfo(*found)


def get_active_requests() -> tuple[RequestInfo, ...]:
    """All open requests and WebSockets of all loops of this process.

    Returns:
        The oldest first. Any thread may ask; counts are of finished steps, but
        for the request that asks (see `current_request`).
    """
    return tuple(RequestInfo(*found) for found in _agent.open_requests())
