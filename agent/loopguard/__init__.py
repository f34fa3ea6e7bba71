"""loopguard: which request keeps the event loop busy, for how long, and why.

Importing it starts nothing. `install`, `LoopGuardMiddleware`, `watch` or
``python -m loopguard run -- uvicorn app:app`` do; then look at the worker with
``loopguard-top --pid N``. ``LOOPGUARD_DISABLE=1`` switches all of it off.
"""

from loopguard.config import EnforcementMode, LoopGuardConfig
from loopguard.control import status, stop
from loopguard.install import install
from loopguard.middleware import LoopGuardMiddleware
from loopguard.version import __version__
from loopguard.watch import watch

__all__ = [
    "EnforcementMode",
    "LoopGuardConfig",
    "LoopGuardMiddleware",
    "__version__",
    "install",
    "status",
    "stop",
    "watch",
]
