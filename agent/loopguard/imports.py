"""Calls a function right after a module has been imported.

Stands alone: ``startup.py`` loads this file by its path, before
anything else of the package. A failing function is logged on the logger
``loopguard`` and never reaches the ``import`` statement that triggered it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]


class ImportHooks:
    """A finder in front of ``sys.meta_path`` while something is waited for.

    It finds nothing by itself: it asks the other finders and puts a function
    around the loader's ``exec_module``, so that loader, spec and resources stay
    what they are.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Hook]] = {}

    def when_imported(self, name: str, hook: Hook) -> None:
        """Calls `hook(module)` once: now if module `name` is there, else when
        its code has run.
        """
        module = sys.modules.get(name)
        if module is not None and not _is_being_imported(module):
            _call(hook, module)
            return
        if not self._waiting:
            sys.meta_path.insert(0, self)
        self._waiting.setdefault(name, []).append(hook)

    def clear(self) -> None:
        """Waits for nothing any more."""
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders say; the finder's protocol of ``importlib``."""
        if name not in self._waiting:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: ModuleSpec) -> None:
        loader: Any = spec.loader
        run = getattr(loader, "exec_module", None)
        if run is None:  # a zip file, before Python 3.10
            _report(f"cannot wait for the import of {spec.name}", loader)
            return

        def exec_module(module: ModuleType) -> None:
            run(module)
            # a zip file's loader serves several modules
            if module.__name__ == spec.name:
                if vars(loader).get("exec_module") is exec_module:
                    del loader.exec_module
                self._imported(module)

        try:
            loader.exec_module = exec_module
        except AttributeError as error:  # a loader written in C
            _report(f"cannot wait for the import of {spec.name}", error)

    def _imported(self, module: ModuleType) -> None:
        hooks = self._waiting.pop(module.__name__, [])
        if not self._waiting:
            self.clear()
        for hook in hooks:
            _call(hook, module)


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _call(hook: Hook, module: ModuleType) -> None:
    try:
        hook(module)
    except Exception as error:
        _report(f"not active in {module.__name__}", error)


def _report(what: str, about: object) -> None:
    import logging  # noqa: PLC0415 - every process of the application loads this file

    logging.getLogger("loopguard").warning("loopguard: %s: %r", what, about)
