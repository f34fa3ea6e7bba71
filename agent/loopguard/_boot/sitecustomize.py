"""Arms loopguard in a process that was started by ``python -m loopguard run``.

Runs in every Python that inherits the environment: server, workers, and any
tool that the application starts. So it costs next to nothing and imports the
package only when an ASGI server or Starlette is imported; a process that runs
no application stays as it was. The folder leaves ``sys.path`` again and the
``sitecustomize`` that would have run without us runs.
"""

import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType

_HERE = os.path.dirname(os.path.abspath(__file__))
_IMPORTS = os.path.join(os.path.dirname(_HERE), "imports.py")
_TRIGGERS = (
    "uvicorn.config",
    "hypercorn.app_wrappers",
    "gunicorn.workers.gasgi",
    "granian.asgi",
    "starlette.applications",
)


def _arm() -> None:
    # The file is loaded by its path: importing it from the package would
    # import the package, which is what shall wait.
    spec = importlib.util.spec_from_file_location("_loopguard_imports", _IMPORTS)
    assert spec is not None
    assert spec.loader is not None
    imports = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(imports)
    waiting = imports.ImportHooks()

    def server_was_imported(module: ModuleType) -> None:
        waiting.clear()
        from loopguard import servers  # noqa: PLC0415 - the point of waiting

        servers.hook(module)

    for name in _TRIGGERS:
        waiting.when_imported(name, server_was_imported)


def _run_the_next_one() -> None:
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    # `import sitecustomize` in the application finds the real one, as it would
    # without us: the import machinery returns what stands in sys.modules.
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if os.environ.get("LOOPGUARD_DISABLE", "").strip().lower() in ("", "0", "false", "no", "off"):
    _arm()
_run_the_next_one()
