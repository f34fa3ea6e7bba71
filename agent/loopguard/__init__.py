"""loopguard: which request keeps the event loop busy, for how long, and why.

Importing it starts nothing. `install`, `LoopGuardMiddleware`, `watch` or
``python -m loopguard run -- uvicorn app:app`` do; then look at the worker with
``loopguard-top --pid N``. ``LOOPGUARD_DISABLE=1`` switches all of it off.

PYTEST_DONT_REWRITE: there is no assertion for pytest to rewrite, and it would
warn when the package was imported before pytest was.
"""

import importlib
from typing import TYPE_CHECKING

from loopguard.config import EnforcementMode, LoopGuardConfig
from loopguard.control import is_paused, pause, resume, status, stop
from loopguard.hints import FIX_HINTS, hint_lines
from loopguard.install import install
from loopguard.middleware import LoopGuardMiddleware
from loopguard.requests import RequestInfo, current_request, get_active_requests
from loopguard.version import __version__
from loopguard.watch import watch

if TYPE_CHECKING:
    from loopguard.events import BlockingEvent, Frame

__all__ = [
    "FIX_HINTS",
    "BlockingEvent",
    "EnforcementMode",
    "Frame",
    "LoopGuardConfig",
    "LoopGuardMiddleware",
    "RequestInfo",
    "__version__",
    "current_request",
    "get_active_requests",
    "hint_lines",
    "install",
    "is_paused",
    "pause",
    "resume",
    "status",
    "stop",
    "watch",
]

# Loaded when they are first asked for: importing the package stays cheap.
_LATER = {
    "BlockingEvent": "loopguard.events",
    "Frame": "loopguard.events",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value
