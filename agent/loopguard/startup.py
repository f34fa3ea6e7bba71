"""Arms loopguard in a Python that is just starting; for both start-up files.

Those are ``_boot/sitecustomize.py`` (``python -m loopguard run``) and the line
of ``loopguard-autostart.pth`` (`loopguard.autostart`). They run in every Python
that inherits the environment: server, workers, and any tool that the
application starts. So this costs next to nothing and imports the package only
when an ASGI server or Starlette is imported; a process that runs no application
stays as it was.

Stands alone: it is loaded by its path, because importing it from the package
would import the package, which is what shall wait.
"""

import importlib.util
import os
import sys
from types import ModuleType

_TRIGGERS = (
    "uvicorn.config",
    "hypercorn.app_wrappers",
    "gunicorn.workers.gasgi",
    "granian.asgi",
    "starlette.applications",
    "fastapi.applications",
)
_IMPORTS = "_loopguard_imports"  # in sys.modules: this process is armed


def arm() -> None:
    """Waits for the import of a server, unless switched off or waiting already."""
    disabled = os.environ.get("LOOPGUARD_DISABLE", "").strip().lower()
    if disabled not in ("", "0", "false", "no", "off") or _IMPORTS in sys.modules:
        return
    waiting = _load_imports().ImportHooks()

    def server_was_imported(module: ModuleType) -> None:
        from loopguard import servers  # noqa: PLC0415 - the point of waiting

        servers.hook(module, waiting)

    for name in _TRIGGERS:
        waiting.when_imported(name, server_was_imported)


def _load_imports() -> ModuleType:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "imports.py")
    spec = importlib.util.spec_from_file_location(_IMPORTS, path)
    assert spec is not None
    assert spec.loader is not None
    imports = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(imports)
    sys.modules[_IMPORTS] = imports
    return imports
