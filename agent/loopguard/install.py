"""One line for an application object: ``loopguard.install(app)``."""

from __future__ import annotations

import sys
from typing import Any, TypeVar, cast

from loopguard import control, patches
from loopguard.asgi_types import ASGIApp
from loopguard.config import LoopGuardConfig

_App = TypeVar("_App")


def install(app: _App, config: LoopGuardConfig | None = None, **options: Any) -> _App:
    """Measures `app` from the outside of all its middleware.

    Args:
        app: a Starlette or FastAPI application, or any ASGI 3 callable.
        config: the options, if you have them as an object.
        options: fields of `LoopGuardConfig`; answers are left as they are
            unless `enforcement_mode`, here or in the environment, says
            otherwise.
    Returns:
        A Starlette or FastAPI application itself, also when middleware is added
        to it later; for other callables a measured one to use in its place.
        Calling it twice changes nothing.
    Raises:
        TypeError: `app` is not callable, or both `config` and `options`.
        ValueError, TypeError: as `LoopGuardConfig`.
    """
    _refuse_unless_callable(app)
    if config is not None and options:
        raise TypeError("install() takes either config or single options, not both")
    if config is None:
        config = LoopGuardConfig.leaving_answers(**options)
    if not control.start(config):
        return app
    if _is_starlette(app):
        _measure_stack(app, config)
        return app
    return cast(_App, control.measured(cast(ASGIApp, app), config))


def _refuse_unless_callable(app: Any) -> None:
    if not callable(app):
        raise TypeError(f"install() takes an ASGI application, got {app!r}")


class _BuildMeasured:
    """Stands in for an instance's `build_middleware_stack`."""

    def __init__(self, build: Any, config: LoopGuardConfig) -> None:
        self._build = build
        self._config = config

    def __call__(self) -> ASGIApp:
        return control.measured(self._build(), self._config)


def _is_starlette(app: object) -> bool:
    # its own module is imported if `app` is one; we never import it ourselves
    module = sys.modules.get("starlette.applications")
    return module is not None and isinstance(app, module.Starlette)


def _measure_stack(app: Any, config: LoopGuardConfig) -> None:
    """The stack is built at the first call, after all `add_middleware`."""
    if isinstance(vars(app).get("build_middleware_stack"), _BuildMeasured):
        return
    build = _BuildMeasured(app.build_middleware_stack, config)
    patches.shadow(app, "build_middleware_stack", build)
    if app.middleware_stack is not None:
        app.middleware_stack = control.measured(app.middleware_stack, config)
