"""The middleware: the way in for any ASGI framework that wraps its `app`."""

from __future__ import annotations

from loopguard import control
from loopguard.asgi_types import ASGIApp, Receive, Scope, Send
from loopguard.config import LoopGuardConfig


class LoopGuardMiddleware:
    """Measures every request, WebSocket and lifespan that passes through.

        app.add_middleware(LoopGuardMiddleware)
        app.add_middleware(LoopGuardMiddleware, config=LoopGuardConfig(stack_depth=32))

    What runs outside of it is not charged to the request; add it last, or use
    `loopguard.install(app)`, to have it outermost. Exceptions and cancellation
    pass through as they are, and so do bodies. Every answer bears
    ``x-request-id``, ``x-blocking-count``, ``x-blocking-total-ms`` and
    ``x-blocking-detected``, unless `enforcement_mode` is "log"; that of a
    request which blocked the loop also ``x-loopguard-warning``, and in mode
    "strict" it is a 503. The application finds the id in
    ``request.state.loopguard_request_id``, in mode "log" too.

    Args:
        app: the next ASGI application.
        config: options; None takes the environment and the defaults. The first
            configuration of a process holds.
    """

    def __init__(self, app: ASGIApp, config: LoopGuardConfig | None = None) -> None:
        self.app = app
        self.config: LoopGuardConfig = LoopGuardConfig() if config is None else config
        self._next = (
            control.measured(app, self.config, marks=True) if control.start(self.config) else app
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, WebSocket or lifespan, measured."""
        # returned, because an application may return something to its caller
        return await self._next(scope, receive, send)
