"""Arms loopguard in a process that was started by ``python -m loopguard run``.

The folder leaves ``sys.path`` again and the ``sitecustomize`` that would have
run without us runs. `loopguard.startup` says what a process pays for this.
"""

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_STARTUP = os.path.join(os.path.dirname(_HERE), "startup.py")


def _arm() -> None:
    spec = importlib.util.spec_from_file_location("_loopguard_startup", _STARTUP)
    assert spec is not None
    assert spec.loader is not None
    startup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(startup)
    startup.arm()


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


_arm()
_run_the_next_one()
