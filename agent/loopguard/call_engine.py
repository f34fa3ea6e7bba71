"""The one engine of `loopguard.calls` in a process: where its events come from.

On Python 3.12 and newer sys.monitoring with a tool id of its own, before that
each thread's profile function. Armed with the first monitor and gone with the
last: nothing of it stays in the interpreter.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextvars
import logging
import opcode
import os
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from typing import Any, Optional

from loopguard import _agent
from loopguard.call_paths import PathFilter

__all__ = ["Target", "add", "enter", "flush", "remove"]

_log = logging.getLogger("loopguard")

# (frame or None, code, C callable or None, globals, line, own ms) -> did it concern you?
Target = Callable[
    [Optional[types.FrameType], types.CodeType, Any, Optional[dict[str, Any]], int, float], bool
]

_TOOL = "loopguard.calls"
_TOOL_IDS = (4, 3, 2, 5)  # never the debugger's and the coverage tool's
_EVENTS = ("PY_START", "PY_RESUME", "PY_RETURN", "PY_YIELD", "PY_THROW", "PY_UNWIND", "CALL")
_SLOTS = 31

# C functions that never take long by themselves: constant time, or a copy of
# text at gigabytes a second. What Python code they run is seen. `object.__new__`
# must not be here: all types share its definition.
_CHEAP: tuple[Any, ...] = (
    callable, delattr, getattr, hasattr, id, isinstance, issubclass, iter, len, setattr,
    bool, classmethod, enumerate, filter, map, object, property, range, reversed, slice,
    staticmethod, super, type, zip, weakref.ref, types.MethodType, types.MappingProxyType,
    dict.get, dict.items, dict.keys, dict.pop, dict.popitem, dict.setdefault, dict.values,
    list.append, list.reverse, set.add, set.discard, set.remove, set.pop,
    str.startswith, str.endswith, str.encode, str.lower, str.upper, str.strip, str.lstrip,
    str.rstrip, bytes.decode, dict.copy,
    collections.deque.append, collections.deque.appendleft, collections.deque.pop,
    collections.deque.popleft,
    contextvars.ContextVar.get, contextvars.ContextVar.set, contextvars.ContextVar.reset,
    contextvars.copy_context,
    time.monotonic, time.monotonic_ns, time.perf_counter, time.perf_counter_ns, time.time,
    time.time_ns, sys.exc_info, sys.intern, getattr(sys, "exception", sys.exc_info),
    asyncio.get_running_loop, asyncio.Future.done, asyncio.Future.result,
    asyncio.Future.set_result, asyncio.Future.cancelled, asyncio.Future.exception,
    asyncio.Future.add_done_callback, asyncio.Future.get_loop, asyncio.Task.cancel,
    asyncio.Task.done, asyncio.Task.result, asyncio.Task.get_name,
)  # fmt: skip


# Instructions that cost next to nothing, by whatever version; one that is not
# named here may cost anything: operators of large arrays, loops, imports.
_PLAIN = frozenset((
    "CACHE", "EXTENDED_ARG", "NOP", "RESUME", "COPY_FREE_VARS", "MAKE_CELL", "RETURN_GENERATOR",
    "PUSH_NULL", "POP_TOP", "COPY", "SWAP", "LOAD_FAST", "LOAD_FAST_CHECK",
    "LOAD_FAST_AND_CLEAR", "LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW",
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST",
    "LOAD_CONST", "LOAD_SMALL_INT", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_ATTR", "LOAD_SUPER_ATTR",
    "LOAD_CLOSURE", "LOAD_COMMON_CONSTANT", "LOAD_ASSERTION_ERROR", "KW_NAMES", "STORE_FAST",
    "STORE_DEREF", "STORE_ATTR", "DELETE_FAST", "RETURN_VALUE", "RETURN_CONST",
    "POP_JUMP_IF_FALSE", "POP_JUMP_IF_TRUE", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE",
    "JUMP_FORWARD", "IS_OP", "UNARY_NOT", "TO_BOOL", "BUILD_TUPLE", "BUILD_LIST", "BUILD_MAP",
    "BUILD_CONST_KEY_MAP", "RAISE_VARARGS", "PUSH_EXC_INFO", "RERAISE", "POP_EXCEPT",
    "CALL_INTRINSIC_1", "NOT_TAKEN",
))  # fmt: skip


def _opcode_costs() -> bytes:
    """By opcode: 1 plain, 0 anything else. See callwatch.h."""
    costs = bytearray(256)
    for name, number in opcode.opmap.items():
        if number < len(costs):  # the compiler's own ones never run
            costs[number] = int(name in _PLAIN)
    return bytes(costs)


class _Example:
    def __new__(cls) -> _Example:
        return super().__new__(cls)

    def __init__(self) -> None:
        pass

    def __call__(self) -> None:
        pass


class _Slot:
    """A filter's bit in the verdicts on code objects; kept for when it comes back."""

    def __init__(self) -> None:
        self.filter: PathFilter | None = None
        self.users = 0


_lock = threading.RLock()
_watch: Any = None  # _agent.CallWatch, made with the first monitor
_slots = [_Slot() for _ in range(_SLOTS)]
_slot_of: dict[int, _Slot] = {}  # by watcher
_tool_id = -1
_hook_before: Any = None  # what threading.setprofile() was given before us


def add(target: Target, threshold_ms: float, paths: PathFilter) -> int:
    """A new watcher.

    Returns:
        Its id; 0 when there is no way to watch, which is then in the log.
    """
    global _watch
    with _lock:
        if _watch is None:
            _watch = _agent.CallWatch(_judge)
            _watch.learn(_CHEAP, _Example, _opcode_costs())
            os.register_at_fork(after_in_child=_forked)
            atexit.register(_at_exit)
        slot = _slot_for(paths)
        if slot is None:
            _log.warning(
                "loopguard.calls: %d monitors with different paths are active already; "
                "one more is not watched", _SLOTS,
            )  # fmt: skip
            return 0
        if not _slot_of and not _start():
            return 0
        watcher: int = _watch.add(target, threshold_ms, _slots.index(slot))
        slot.users += 1
        _slot_of[watcher] = slot
        if _watch.wakes():
            _restart()
        return watcher


def enter(codes: list[types.CodeType]) -> None:
    """Functions that run already on this thread, outermost first."""
    _watch.enter(codes)


def flush(watcher: int, codes: tuple[types.CodeType, ...]) -> list[tuple[int, float]]:
    """Functions that run still on this thread: who took long by now.

    Args:
        watcher: whose threshold counts.
        codes: innermost first.
    Returns:
        (index, milliseconds of its own) of each.
    """
    found: list[tuple[int, float]] = _watch.flush(watcher, codes)
    return found


def remove(watcher: int) -> None:
    """Ends a watcher. With the last one all is as it was before the first."""
    with _lock:
        slot = _slot_of.pop(watcher, None)
        if slot is None:
            return
        slot.users -= 1
        if not _slot_of:
            _stop()
        _watch.remove(watcher)


def _slot_for(paths: PathFilter) -> _Slot | None:
    for slot in _slots:
        if slot.filter is not None and slot.filter.key == paths.key:
            return slot
    fresh = [slot for slot in _slots if slot.filter is None]
    unused = fresh or [slot for slot in _slots if slot.users == 0]
    if not unused:
        return None
    changed = 0 if fresh else 1 << _slots.index(unused[0])
    unused[0].filter = paths
    _watch.new_verdicts(changed)
    return unused[0]


def _judge(code: types.CodeType, module: object) -> int:
    """The filters that see this code, as bits. Called by the engine."""
    name = module if isinstance(module, str) else ""
    verdict = 0
    for bit, slot in enumerate(_slots):
        if slot.filter is not None and slot.filter.sees(code.co_filename, name):
            verdict |= 1 << bit
    return verdict


def _at_exit() -> None:
    """Nothing is told while modules are taken apart."""
    for watcher in tuple(_slot_of):
        remove(watcher)


def _forked() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held it
    _watch.forked()


if sys.version_info >= (3, 12):

    def _start() -> bool:
        global _tool_id
        monitoring = sys.monitoring
        for tool_id in _TOOL_IDS:
            try:
                monitoring.use_tool_id(tool_id, _TOOL)
            except ValueError:
                continue
            break
        else:
            holders = ", ".join(f"{i}: {monitoring.get_tool(i)}" for i in range(6))
            _log.warning(
                "loopguard.calls: no tool id of sys.monitoring is free (%s); nothing is watched",
                holders,
            )
            return False
        _tool_id = tool_id
        for event, callback in _watch.callbacks(monitoring.DISABLE).items():
            monitoring.register_callback(tool_id, getattr(monitoring.events, event), callback)
        wanted = 0
        for event in _EVENTS:
            wanted |= getattr(monitoring.events, event)
        monitoring.set_events(tool_id, wanted)
        return True

    def _restart() -> None:
        sys.monitoring.restart_events()  # other tools get theirs once more, too

    def _stop() -> None:
        global _tool_id
        monitoring = sys.monitoring
        if monitoring.get_tool(_tool_id) == _TOOL:
            monitoring.set_events(_tool_id, 0)
            for event in (*_EVENTS, "C_RETURN", "C_RAISE"):
                monitoring.register_callback(_tool_id, getattr(monitoring.events, event), None)
            monitoring.free_tool_id(_tool_id)
        else:
            _log.warning("loopguard.calls: somebody else has freed tool id %d", _tool_id)
        _tool_id = -1

else:

    def _start() -> bool:
        global _hook_before
        _hook_before = _thread_hook()
        threading.setprofile(_watch.profile_here)
        _watch.profile(True)
        return True

    def _restart() -> None:
        pass  # nothing sleeps here

    def _thread_hook() -> Any:
        return vars(threading)["_profile_hook"]  # 3.9 has no threading.getprofile()

    def _stop() -> None:
        global _hook_before
        others = _watch.profile(False)
        if _thread_hook() == _watch.profile_here:
            threading.setprofile(_hook_before)
        else:
            others += 1
        _hook_before = None
        if others:
            _log.warning(
                "loopguard.calls: somebody else has set a profile function meanwhile; "
                "blocks after that were not seen, and it was left in place"
            )
