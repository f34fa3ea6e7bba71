"""Wraps the application as a server has loaded it; for the launcher.

Each server decides by itself how it calls an application ("is it asgi2 or
asgi3?"), so the wrapper goes on after that decision, around everything that
the server put there itself: outermost, and with nothing to guess. A supervisor
loads servers too, but runs no application and so starts nothing.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from loopguard import control, patches
from loopguard.asgi_types import ASGIApp
from loopguard.config import LoopGuardConfig
from loopguard.imports import ImportHooks

_log = logging.getLogger("loopguard")


def hook(module: ModuleType, waiting: ImportHooks) -> None:
    """Wraps one of the servers that we know, right after its code has run.

    `loopguard.stop` undoes it, and lets go of what is still waited for.

    Args:
        module: one of those that `loopguard.startup` waits for.
        waiting: what it waits with.
    """
    patches.adopt(waiting)
    _SERVERS[module.__name__](module)


def _measured(app: ASGIApp) -> ASGIApp:
    """Starts the agent, with the environment's configuration, around `app`."""
    try:
        config = LoopGuardConfig.leaving_answers()
        return control.measured(app, config) if control.start(config) else app
    except Exception as error:
        _log.warning("not measuring: %r", error)  # the worker serves without us
        return app


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    patches.replace(owner, name, wrap(getattr(owner, name)))


def _after(attribute: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that leaves the application in `self.<attribute>`."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def load(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = method(self, *args, **kwargs)
            setattr(self, attribute, _measured(getattr(self, attribute)))
            return result

        return load

    return decorate


def _result(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that returns the application."""

    @functools.wraps(method)
    def build(*args: Any, **kwargs: Any) -> Any:
        return _measured(method(*args, **kwargs))

    return build


def _first_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gets the application first."""

    @functools.wraps(function)
    def call(app: ASGIApp, *args: Any, **kwargs: Any) -> Any:
        return function(_measured(app), *args, **kwargs)

    return call


def _uvicorn(module: ModuleType) -> None:
    # also gunicorn's uvicorn workers: they make a Config of their own
    _replace(module.Config, "load", _after("loaded_app"))


def _hypercorn(module: ModuleType) -> None:
    _replace(module.ASGIWrapper, "__init__", _after("app"))


def _gunicorn(module: ModuleType) -> None:
    _replace(module.ASGIWorker, "load_wsgi", _after("asgi"))


def _granian(module: ModuleType) -> None:
    _replace(module, "_callback_wrapper", _first_argument)
    _replace(module.LifespanProtocol, "__init__", _after("callable"))


def _starlette(module: ModuleType) -> None:
    """For every other way to run one: a test client, a server unknown to us."""
    _replace(module.Starlette, "build_middleware_stack", _result)


def _fastapi(module: ModuleType) -> None:
    if "build_middleware_stack" in vars(module.FastAPI):
        _replace(module.FastAPI, "build_middleware_stack", _result)


# the same names as in startup.py, which may not import this file
_SERVERS: dict[str, Callable[[ModuleType], None]] = {
    "uvicorn.config": _uvicorn,
    "hypercorn.app_wrappers": _hypercorn,
    "gunicorn.workers.gasgi": _gunicorn,
    "granian.asgi": _granian,
    "starlette.applications": _starlette,
    "fastapi.applications": _fastapi,
}
