"""Names of tasks stay what they were although a task factory stands there.

CPython 3.13.0 to 3.13.2 name every task "None" whose loop has a task factory,
unless it was given a name: ``BaseEventLoop.create_task`` then calls
``task.set_name(None)``. With our factory, and only there, such a task keeps the
name that it was made with, as in all other versions.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from loopguard import _agent, patches

MODULE = "asyncio.base_events"


def apply() -> None:
    """Replaces ``BaseEventLoop.create_task`` where it loses names, until `patches.undo`."""
    patches.when_imported(MODULE, _patch)


def _patch(module: ModuleType) -> None:
    original = module.BaseEventLoop.create_task
    if _loses_names(original):
        patches.replace(module.BaseEventLoop, "create_task", _keeping_names(original))


def _keeping_names(original: Any) -> Any:
    ours = _agent.TaskFactory

    @functools.wraps(original)
    def create_task(self: Any, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        factory = self._task_factory
        if name is not None or type(factory) is not ours:
            return original(self, coro, name=name, context=context)
        self._check_closed()
        if context is None:
            return factory(self, coro)
        return factory(self, coro, context=context)

    return create_task


def _loses_names(create_task: Any) -> bool:
    """Asks the function itself, with a loop and a task that only look like it."""
    task = _Task()
    try:
        create_task(_Loop(task), None)
    except Exception:  # another shape of it: nothing that we know to be wrong
        return False
    return task.was_named_none


class _Task:
    was_named_none = False

    def set_name(self, name: object) -> None:
        self.was_named_none = name is None


class _Loop:
    def __init__(self, task: _Task) -> None:
        self._task_factory = lambda *_, **__: task

    def _check_closed(self) -> None:
        pass
