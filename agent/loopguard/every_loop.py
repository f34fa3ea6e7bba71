"""Every event loop of the process becomes known, whoever makes it, wherever it runs.

A web application's loop is met with its first request. A test's is not: it is
made by a plugin, by ``asyncio.run`` or in the thread of a test client, does one
thing, and is closed. So the places where all loops are made and begin to run
are replaced, until `control.stop`: two methods of asyncio's base class, and the
same of uvloop's.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from loopguard import _agent, patches

_LOOP_CLASSES = {"asyncio.base_events": "BaseEventLoop", "uvloop": "Loop"}
_log = logging.getLogger("loopguard")


def apply() -> None:
    """Watches the loops that are there and all that come.

    Call after `control.start` has said True; `control.stop` takes it back.
    """
    for module in _LOOP_CLASSES:
        patches.when_imported(module, _patch)
    for loop in _present():
        _expect(loop)


def is_applied() -> bool:
    """Whether it is in force: `control.stop` ends it."""
    return "asyncio.base_events.BaseEventLoop.__init__" in patches.names()


def is_asyncio() -> bool:
    """Whether an asyncio loop, or uvloop's, runs in this thread."""
    # as public as get_running_loop(), and does not raise
    return asyncio._get_running_loop() is not None  # noqa: SLF001


def _patch(module: ModuleType) -> None:
    cls = getattr(module, _LOOP_CLASSES[module.__name__], None)
    if cls is not None:
        patches.replace(cls, "__init__", _then_expected(cls.__init__))
        for name in ("run_forever", "run_until_complete"):
            patches.replace(cls, name, _watched(getattr(cls, name)))


def _then_expected(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - stands for one
        original(self, *args, **kwargs)
        _expect(self)
        _watch_first(self)

    return __init__


def _watched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not _expect(self):
            _watch_first(self)
        return original(self, *args, **kwargs)

    return run


def _expect(loop: Any) -> bool:
    try:
        return _agent.expect_loop(loop)
    except Exception as error:  # a loop of others' making; theirs goes on
        _log.debug("a loop is not watched: %r", error)
        return True


def _watch_first(loop: Any) -> None:
    """A loop that runs no task has callbacks all the same."""
    try:
        if not (loop.is_closed() or loop.is_running()):
            loop.call_soon(_agent.watch_loop)
    except Exception as error:
        _log.debug("a loop is watched from its first task on: %r", error)


def _present() -> list[Any]:
    """Loops that were made before, such as a server's in a thread of its own."""
    objects = gc.get_objects()
    # by type: an object's __class__ may be anything that a mock makes of it
    kinds = {t for t in set(map(type, objects)) if asyncio.AbstractEventLoop in t.__mro__}
    return [o for o in objects if type(o) in kinds]
