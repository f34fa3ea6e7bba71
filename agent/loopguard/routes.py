"""The template of a route: what an endpoint is called.

Always a template ("/users/{user_id}"), never a raw path: so the number of
names is bounded by the application's code, and no secret of a URL leaves it.
"""

from __future__ import annotations

from typing import Any

from loopguard.asgi_types import Scope

UNKNOWN = "(unknown)"


def template(route: Any, scope: Scope, prefix: str) -> str:
    """Names `route` as the agent meets it for the first time.

    Args:
        route: the object whose `handle` is about to run: a Starlette or FastAPI
            route, a ``Mount`` or a ``Host``.
        scope: the ASGI scope after matching.
        prefix: the template of the mounts around it, "" at the top. Not
            ``root_path``: that holds the values of a mount's parameters.
    Returns:
        The whole template; for a ``Mount`` or ``Host`` the prefix of what lies
        in it.
    Source:
        FastAPI 0.165 keeps the prefix of an included router only in
        ``scope["fastapi"]["effective_route_context"]``; before, and in
        Starlette, ``route.path`` has it.
    """
    host = getattr(route, "host", None)
    if isinstance(host, str):
        return host + prefix  # "{tenant}.example.org"
    path = _included_path(route, scope)
    if path is None:
        path = getattr(route, "path", None)
    if not isinstance(path, str):
        return _frontend(route, prefix)
    if _is_mount(route):
        return prefix + path
    return prefix + path or "/"


def _included_path(route: Any, scope: Scope) -> str | None:
    fastapi = scope.get("fastapi")
    if not isinstance(fastapi, dict):
        return None
    context = fastapi.get("effective_route_context")
    # the context of an outer router stays in the scope below a mount
    if context is None or getattr(context, "original_route", None) is not route:
        return None
    path: str | None = getattr(context, "path", None)
    return path or None


def _is_mount(route: Any) -> bool:
    return hasattr(route, "routes") and hasattr(route, "app")


def _frontend(route: Any, prefix: str) -> str:
    """FastAPI's static frontends are routed as one group without a path."""
    folders = [getattr(r, "path", "") for r in getattr(route, "routes", ())]
    if len(folders) == 1:
        return f"{prefix}{str(folders[0]).rstrip('/')}/{{path}}"
    return f"{prefix}/{{path}}" if folders else UNKNOWN
