"""pytest plugin: a test that blocks its event loop fails, and is told where.

Loaded by pytest itself (entry point ``loopguard_top``); does nothing until a
test asks for it::

    @pytest.mark.no_blocking                  # or (threshold_ms=20)
    async def test_report(client):
        with loopguard_pause():               # not what is tested
            prepare()
        await client.get("/reports/7")

``loopguard_all_async = true``, or ``--loopguard-all-async``, asks for every
async test; ``@pytest.mark.allow_blocking`` takes one out. Works with any plugin
that runs async tests, and with sync tests that run a loop, in this thread or in
another (``asyncio.run``, ``TestClient``). Only the body of a test counts: not
its fixtures, nor imports and the building of routes, which a service does once.

A block counts for the test that runs meanwhile, whichever loop of the process
it is on; a server that a fixture started in a thread is held to the same rule.
Waiting for the GIL that another thread holds counts too. Time that the machine
(no CPU was free) or the garbage collector took is taken off first, and a block
that is then within the threshold is listed and fails nothing.

Source:
    Markers, options and the two windows as in fastapi-loopguard 0.9.0. When its
    plugin is there, this one stands aside: both would own the same options.
    Unlike there, sync tests are checked too, several loops and threads are, and
    ``allow_blocking`` on a test wins over ``no_blocking`` on its module.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loopguard import report as report_file
from loopguard.frames import Frame, user_frame
from loopguard_pytest import (
    ALLOW_MARKER_NAME,
    MARKER_NAME,
    is_all_async,
    loopguard,
    pytest_addoption,
    report_path,
)

if TYPE_CHECKING:
    from loopguard.blockcheck import Block, Check, Session
    from loopguard.events import BlockingEvent

__all__ = [
    "ALLOW_MARKER_NAME",
    "MARKER_NAME",
    "REPORT_SCHEMA_VERSION",
    "LoopGuard",
    "LoopGuardWarning",
    "loopguard",
    "loopguard_only",
    "loopguard_pause",
    "pytest_addoption",
]

REPORT_SCHEMA_VERSION = report_file.SCHEMA_VERSION

_DEFAULT_MS = 50.0
_STACK_LINES = 8
_BELOW = (os.path.dirname(__file__) + "/", os.path.dirname(os.__file__) + "/asyncio/")


class LoopGuardWarning(pytest.PytestWarning):
    """A test that asked to be checked and could not be."""


class LoopGuard:
    """What the fixture ``loopguard`` gives: the blocks of this test so far.

    A test that has it is measured. It fails by itself only with a marker or in
    a run that checks all async tests; without, look at `events`.
    """

    def __init__(self, threshold_ms: float) -> None:
        self._threshold_ms = threshold_ms

    @property
    def threshold_ms(self) -> float:
        """Milliseconds; a longer stretch is a block. Setting it holds from now on."""
        check = _check()
        return self._threshold_ms if check is None else check.threshold_ms

    @threshold_ms.setter
    def threshold_ms(self, value: float) -> None:
        self._threshold_ms = _valid_ms(value)
        check = _check()
        if check is not None:
            check.threshold_ms = self._threshold_ms

    @property
    def events(self) -> tuple[BlockingEvent, ...]:
        """The blocks that count, oldest first. A block is there once its step is
        over: not before the next ``await`` that waits.
        """
        return tuple(block.event for block in self.blocks if block.counts)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All that was over the threshold, with what counts of it and why."""
        check = _check()
        return () if check is None else check.blocks()

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """As `loopguard_pause`."""
        return loopguard_pause()

    def only(self) -> contextlib.AbstractContextManager[None]:
        """As `loopguard_only`."""
        return loopguard_only()


def loopguard_pause() -> contextlib.AbstractContextManager[None]:
    """A ``with`` block in which nothing is measured.

    For work in the body of a test that is not what it tests. Exact: of a step
    that it cuts, the rest counts. Holds for all loops of the test, in whichever
    thread it is used; nests. Does nothing in a test that is not measured.
    """
    check = _check()
    return contextlib.nullcontext() if check is None else check.pause()


def loopguard_only() -> contextlib.AbstractContextManager[None]:
    """A ``with`` block that is measured, and nothing outside of it.

    Neither what was before nor what comes after counts; a further window adds
    to the first. Otherwise as `loopguard_pause`.
    """
    check = _check()
    return contextlib.nullcontext() if check is None else check.only()


# ---- one run -------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What is wanted of one test."""

    judged: bool  # a block fails it
    threshold_ms: float
    problem: str = ""  # with its marker


_session: Session | None = None  # of the run that last met a test to measure

_PLAN: pytest.StashKey[_Plan | None] = pytest.StashKey()
_RECORD: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
_SECTION: pytest.StashKey[str] = pytest.StashKey()


def _check() -> Check | None:
    return None if _session is None else _session.check


class Run:
    """The hooks of one run, and its records. Brought in by the door."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._all_async = is_all_async(config)
        path = report_path(config)
        # a test may change the working directory
        self._path = config.invocation_params.dir / path if path else None
        self._is_worker = hasattr(config, "workerinput")  # of pytest-xdist
        self._records: dict[str, dict[str, Any]] = {}

    # -- which tests

    def fixture(self, item: pytest.Item) -> LoopGuard:
        """Of a test that asked for it, perhaps only just."""
        plan = self._plan(item)
        if plan is None:
            plan = item.stash[_PLAN] = _Plan(judged=False, threshold_ms=self._default_ms())
            _the_session().arm()
        return LoopGuard(plan.threshold_ms)

    def _plan(self, item: pytest.Item) -> _Plan | None:
        """None: leave it alone."""
        if _PLAN not in item.stash:
            item.stash[_PLAN] = self._new_plan(item)
        return item.stash[_PLAN]

    def _new_plan(self, item: pytest.Item) -> _Plan | None:
        if not isinstance(item, pytest.Function):
            return None
        marker, allowed = _markers(item)
        by_default = self._all_async and _is_async(item)
        judged = marker is not None or (by_default and not allowed)
        if allowed and by_default and not judged:
            item.stash[_RECORD] = {"nodeid": item.nodeid, "verdict": "allowed", "events": []}
        if not judged and "loopguard" not in item.fixturenames:
            return None
        try:
            return _Plan(judged, self._threshold_of(marker))
        except ValueError as error:
            return _Plan(judged, _DEFAULT_MS, str(error))

    def _threshold_of(self, marker: pytest.Mark | None) -> float:
        if marker is not None:
            unknown = set(marker.kwargs) - {"threshold_ms"}
            if marker.args or unknown:
                raise ValueError(
                    f"@pytest.mark.{MARKER_NAME} takes threshold_ms=N and nothing else, "
                    f"got {', '.join([*map(repr, marker.args), *sorted(unknown)])}"
                )
            if "threshold_ms" in marker.kwargs:
                return _valid_ms(marker.kwargs["threshold_ms"])
        text = self._config.getini("loopguard_threshold_ms")
        return _valid_ms(text, "loopguard_threshold_ms") if text else _DEFAULT_MS

    # -- one test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Loops that its fixtures make are known from their birth."""
        plan = self._plan(item)
        if plan is not None:
            _the_session().arm()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measures the body, and fails a test that would have passed."""
        plan = self._plan(item)
        if plan is None or not isinstance(item, pytest.Function):
            return (yield)
        if plan.problem:
            item.stash[_RECORD] = _record(item, plan, (), plan.problem)
            pytest.fail(plan.problem, pytrace=False)
        session = _the_session()
        check = session.begin(plan.threshold_ms)
        is_async = _is_async(item)
        restore = _measure_coroutine(item, session) if is_async else None
        try:
            result = yield
        except BaseException as error:
            self._close(item, plan, session, is_async)
            if isinstance(error, pytest.skip.Exception) and _RECORD in item.stash:
                del item.stash[_RECORD]  # it did not run
            raise
        else:
            text = self._close(item, plan, session, is_async)
        finally:
            if restore is not None:
                restore()
        if plan.judged and text:
            pytest.fail(text, pytrace=False)
        if plan.judged and check.reason:
            item.warn(LoopGuardWarning(f"loopguard did not measure this test: {check.reason}"))
        return result

    def _close(self, item: pytest.Function, plan: _Plan, session: Session, is_async: bool) -> str:
        """Ends its check; what is to be said of its blocks, or ""."""
        check = session.end(is_async=is_async)
        blocks = check.blocks()
        blocked = any(block.counts for block in blocks)
        root = self._config.rootpath
        text = _text(blocks, check.threshold_ms, root) if blocked else ""
        if plan.judged:
            item.stash[_RECORD] = _record(item, plan, blocks, check.reason, check.threshold_ms)
            item.stash[_SECTION] = text
        return text

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """The record travels with the report, through pytest-xdist too."""
        report = yield
        if call.when == "call":
            record = item.stash.get(_RECORD, None)
            if record is not None:
                report.loopguard = record  # type: ignore[attr-defined]
            text = item.stash.get(_SECTION, "")
            if text and report.failed and not _is_said(report, text):
                report.sections.append(("loopguard", text))
        return report

    def keep(self, report: pytest.TestReport) -> None:
        """Of this process's tests, or of a worker's; a test that ran again counts once."""
        record = getattr(report, "loopguard", None)
        if record is not None:
            self._records[record["nodeid"]] = record

    # -- the end

    def pytest_sessionstart(self) -> None:
        """An old report must not pass for this run's."""
        if self._writes():
            with contextlib.suppress(OSError):
                self._report_path().unlink()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Takes the engine out of the process; writes the report."""
        global _session
        if _session is not None:
            _session.disarm()
            _session = None
        if self._writes():
            report = report_file.make(list(self._records.values()), self._default_ms())
            try:
                report_file.write(self._report_path(), report)
            except OSError as error:
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
                self._say(f"loopguard: {self._path} could not be written: {error}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line when something that was asked for was not measured."""
        unmeasured = [r for r in self._records.values() if r["verdict"] == "unmeasured"]
        if unmeasured:
            reasons = sorted({str(record["reason"]) for record in unmeasured})
            terminalreporter.write_line(
                f"loopguard: {len(unmeasured)} unmeasured: {'; '.join(reasons)}"
            )

    def _writes(self) -> bool:
        collect_only = self._config.getoption("collectonly", default=False)
        return self._path is not None and not self._is_worker and not collect_only

    def _report_path(self) -> Path:
        assert self._path is not None
        return self._path

    def _default_ms(self) -> float:
        try:
            return self._threshold_of(None)
        except ValueError:  # told by every test that needed it
            return _DEFAULT_MS

    def _say(self, line: str) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(line, red=True)


def _the_session() -> Session:
    """The engine, imported when the first test wants it."""
    global _session
    if _session is None:
        from loopguard.blockcheck import Session  # noqa: PLC0415

        _session = Session()
    return _session


def _markers(item: pytest.Item) -> tuple[pytest.Mark | None, bool]:
    """``no_blocking`` if it holds, and whether ``allow_blocking`` does: the
    nearer one wins, and on the same level the one that checks.
    """
    marker = allow = None
    for node, mark in item.iter_markers_with_node():
        if mark.name == MARKER_NAME and marker is None:
            marker = (node, mark)
        if mark.name == ALLOW_MARKER_NAME and allow is None:
            allow = (node, mark)
    if allow is not None and (allow[1].args or allow[1].kwargs):
        item.warn(LoopGuardWarning(f"@pytest.mark.{ALLOW_MARKER_NAME} takes no arguments"))
    if marker is None or allow is None:
        return (marker[1] if marker else None), allow is not None
    depth = {node: at for at, node in enumerate(item.listchain())}
    if depth[allow[0]] > depth[marker[0]]:
        return None, True
    return marker[1], False


def _is_async(item: pytest.Function) -> bool:
    function = item.obj
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", None)
    return inspect.iscoroutinefunction(inner or function)


def _measure_coroutine(item: pytest.Function, session: Session) -> Any:
    """Puts the measured coroutine function in the test's place; a function that
    takes it out again.
    """
    function = item.obj
    handle = getattr(function, "hypothesis", None)
    if handle is not None and inspect.iscoroutinefunction(handle.inner_test):
        inner = handle.inner_test
        handle.inner_test = session.measured(inner)
        return lambda: setattr(handle, "inner_test", inner)
    item.obj = session.measured(function)
    return lambda: setattr(item, "obj", function)


def _valid_ms(value: object, name: str = "threshold_ms") -> float:
    """Milliseconds, at least 0. Raises ValueError that names `name`."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            number = float(value)
            if math.isfinite(number) and number >= 0:
                return number
    raise ValueError(f"{name} must be a number of milliseconds, at least 0; got {value!r}")


# ---- words -----------------------------------------------------------------------


def _is_said(report: pytest.TestReport, text: str) -> bool:
    """Ours is its failure, not one of its own."""
    return str(report.longrepr).startswith(text)


def _text(blocks: tuple[Block, ...], threshold_ms: float, root: Path) -> str:
    counted = [block for block in blocks if block.counts]
    rest = [block for block in blocks if not block.counts]
    times = "once" if len(counted) == 1 else f"{len(counted)} times"
    longest = max(block.ms for block in counted)
    lines = [
        f"Event loop blocked {times}, longest {longest:.1f} ms (threshold {threshold_ms:g} ms)"
    ]
    for number, block in enumerate(counted, start=1):
        lines += ["", *_lines_of(number, block, root)]
    if rest:
        lines += ["", "Not counted:"]
        lines += [f"  {block.ms:.1f} ms in {_place(block, root)}: {block.why}" for block in rest]
    return "\n".join(lines)


def _lines_of(number: int, block: Block, root: Path) -> list[str]:
    event = block.event
    lines = [f"{number}. {block.ms:.1f} ms in {_place(block, root)}, cause: {block.cause}"]
    if block.why:
        lines.append(f"   of {event.duration_ms:.1f} ms, without {block.why}")
    where = [f"thread {event.thread_name}"]
    if event.task_name and event.task_name != "None":  # 3.13.0 to 3.13.2 name tasks so
        where.insert(0, f"task {event.task_name}")
    if event.blamed.kind != "task":  # a task's function is in the stack
        where.insert(0, str(event.blamed))
    lines.append(f"   {', '.join(where)}")
    if event.kind == "iteration":
        lines.append("   many short steps and callbacks that ran without a pause")
    if event.call:
        lines.append(f"   call: {event.call}")
    parts = [f"{name} {ms:.1f}" for name, ms in event.parts.items() if ms >= 0.05]
    if len(parts) > 1 and not block.why:
        lines.append(f"   parts in ms: {', '.join(parts)}")
    if block.hint:
        lines.append(f"   hint: {block.hint}")
    stack = _stack(event)
    lines += [f"     {_path(f, root)}:{f.lineno} {f.function}" for f in stack[:_STACK_LINES]]
    if len(stack) > _STACK_LINES:
        lines.append(f"     ... {len(stack) - _STACK_LINES} more")
    return lines


def _place(block: Block, root: Path) -> str:
    frame = _frame(block.event)
    if frame is None:
        return "a callback in C" if block.event.stack else "code that was not seen"
    return f"{frame.function} ({_path(frame, root)}:{frame.lineno})"


def _frame(event: BlockingEvent) -> Frame | None:
    """The innermost one of the user's own, else the innermost."""
    stack = _stack(event)
    return user_frame(stack) or (stack[0] if stack else None)


def _stack(event: BlockingEvent) -> tuple[Frame, ...]:
    """Innermost first, down to where the loop, or this plugin, begins."""
    stack = event.holder_stack if event.elsewhere else event.stack
    for at, frame in enumerate(stack):
        if frame.filename.startswith(_BELOW):
            return stack[:at]
    return stack


def _path(frame: Frame, root: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(frame.filename).relative_to(root))
    return frame.filename


def _record(
    item: pytest.Function,
    plan: _Plan,
    blocks: tuple[Block, ...],
    reason: str,
    threshold_ms: float | None = None,
) -> dict[str, Any]:
    """A test in the report."""
    threshold_ms = plan.threshold_ms if threshold_ms is None else threshold_ms
    root = item.config.rootpath
    events = [_event(block, threshold_ms, root) for block in blocks if block.counts]
    rest = [_event(block, threshold_ms, root) for block in blocks if not block.counts]
    record: dict[str, Any] = {
        "nodeid": item.nodeid,
        "verdict": "blocked" if events else "unmeasured" if reason else "clean",
        "threshold_ms": threshold_ms,
        "events": events,
        "uncounted": rest,
        "hints": list(dict.fromkeys(block.hint for block in blocks if block.counts)),
    }
    if reason:
        record["reason"] = reason
    return record


def _event(block: Block, threshold_ms: float, root: Path) -> dict[str, Any]:
    event = block.event
    frame = _frame(event)
    stack = [
        {"filename": _path(f, root), "function": f.function, "lineno": f.lineno}
        for f in _stack(event)
    ]
    return {
        "lag_ms": round(block.ms, 2),
        "threshold_ms": threshold_ms,
        "duration_ms": round(event.duration_ms, 2),
        "why": block.why,
        "kind": event.kind,
        "cause": block.cause,
        "parts": {name: round(ms, 2) for name, ms in event.parts.items()},
        "method": event.method,
        "route": event.route,
        "request_id": event.request_id,
        "task": event.task_name,
        "thread": event.thread_name,
        "call": event.call,
        "function": frame.function if frame else None,
        "filename": _path(frame, root) if frame else None,
        "lineno": frame.lineno if frame else None,
        "stack": stack,
        "hint": block.hint,
    }
