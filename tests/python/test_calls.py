"""loopguard.calls: one report for one block, at the innermost visible function."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import logging
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from loopguard.calls import BlockingCallInfo, EventLoopMonitor, event_loop_monitor_ctx

# Blocks last well over the threshold, all else well under it: the machine is shared.
THRESHOLD_MS = 80.0
BLOCK_S = 0.13
HAVE_MONITORING = sys.version_info >= (3, 12)
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    make = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run_in_new_loop(main: Coroutine[Any, Any, Any]) -> Any:
        loop = make()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    return run_in_new_loop


def busy(seconds: float = BLOCK_S) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def told_while(
    run: Run, main: Callable[[], Coroutine[Any, Any, Any]], **options: Any
) -> list[BlockingCallInfo]:
    told: list[BlockingCallInfo] = []

    async def watched() -> None:
        options.setdefault("threshold_ms", THRESHOLD_MS)
        with event_loop_monitor_ctx(on_blocking_call=told.append, **options):
            await asyncio.get_running_loop().create_task(main())

    run(watched())
    return told


def names(told: list[BlockingCallInfo]) -> list[str]:
    return [info.method_name for info in told]


def ours(name: str) -> str:
    return f"{__name__}.{name}"


def script(folder: Path, name: str, text: str) -> types.ModuleType:
    """A module in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- what is a block, and whose ----------------------------------------------


def test_an_idle_loop_is_never_a_block(run: Run) -> None:
    async def main() -> None:
        await asyncio.sleep(0.3)
        await asyncio.sleep(0.3)

    assert told_while(run, main) == []
    assert told_while(run, main, exclude_paths=[]) == []


def test_a_blocking_c_call_is_told_once_by_its_name_and_the_line_that_made_it(run: Run) -> None:
    def inner() -> None:
        time.sleep(BLOCK_S)

    def outer() -> None:
        inner()

    async def main() -> None:
        outer()

    (info,) = told_while(run, main)
    assert info.method_name == "time.sleep"
    assert info.is_c_call
    assert BLOCK_S * 1e3 <= info.duration_ms < BLOCK_S * 1e3 + 100
    assert (info.filename, info.lineno) == (__file__, inner.__code__.co_firstlineno + 1)
    assert [frame.function.rpartition(".")[2] for frame in info.stack[:3]] == [
        "inner",
        "outer",
        "main",
    ]


def test_a_method_of_c_is_told_with_its_type(run: Run) -> None:
    async def main() -> None:
        left, right = socket.socketpair()
        with left, right:
            left.settimeout(BLOCK_S)
            with contextlib.suppress(OSError):
                left.recv(1)

    (info,) = told_while(run, main)
    assert info.method_name.endswith("socket.recv")
    assert info.is_c_call  # although it ended by an exception


def test_a_python_function_is_told_and_not_those_around_it(run: Run) -> None:
    def outer() -> None:
        busy()

    async def main() -> None:
        outer()

    (info,) = told_while(run, main)
    assert info.method_name == ours("busy")
    assert not info.is_c_call
    assert info.lineno == busy.__code__.co_firstlineno


def test_many_short_calls_are_the_time_of_the_function_that_makes_them(run: Run) -> None:
    def impatient() -> None:
        for _ in range(20):
            time.sleep(BLOCK_S / 20)

    async def main() -> None:
        impatient()

    (info,) = told_while(run, main)
    assert info.method_name.endswith("impatient")
    assert not info.is_c_call


def test_a_function_and_a_call_within_it_that_both_take_long_are_told_both(run: Run) -> None:
    def both() -> None:
        time.sleep(BLOCK_S)
        end = time.perf_counter() + BLOCK_S
        while time.perf_counter() < end:
            pass

    async def main() -> None:
        both()

    sleep, function = told_while(run, main)
    assert sleep.method_name == "time.sleep"
    assert function.method_name.endswith("both")
    assert function.duration_ms < 2 * BLOCK_S * 1e3  # without the sleep


def test_the_body_of_a_coroutine_is_seen(run: Run) -> None:
    async def main() -> None:
        await asyncio.sleep(0.01)
        end = time.perf_counter() + BLOCK_S
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(0.01)

    (info,) = told_while(run, main)
    assert info.method_name.endswith("main")


def test_stretches_between_two_awaits_are_not_added_up(run: Run) -> None:
    async def main() -> None:
        for _ in range(6):
            busy(THRESHOLD_MS / 4e3)
            await asyncio.sleep(0)

    assert told_while(run, main) == []


def test_a_generator_is_charged_for_each_resumption(run: Run) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        busy()
        yield 2

    async def main() -> None:
        for _ in numbers():
            await asyncio.sleep(0)

    assert names(told_while(run, main)) == [ours("busy")]


def test_recursion_is_told_at_the_level_that_took_long(run: Run) -> None:
    def down(levels: int) -> None:
        if levels == 0:
            end = time.perf_counter() + BLOCK_S
            while time.perf_counter() < end:
                pass
        else:
            down(levels - 1)

    async def main() -> None:
        down(50)

    (info,) = told_while(run, main)
    assert info.method_name.endswith("down")
    assert len(info.stack) >= 51


def test_a_function_that_raises_is_told_and_its_exception_arrives(run: Run) -> None:
    class MineError(Exception):
        pass

    def fails() -> None:
        busy()
        raise MineError

    async def main() -> None:
        with pytest.raises(MineError):
            fails()
        time.sleep(BLOCK_S)

    assert names(told_while(run, main)) == [ours("busy"), "time.sleep"]


def test_plain_callbacks_of_the_loop_are_seen(run: Run) -> None:
    async def main() -> None:
        done = asyncio.get_running_loop().create_future()

        def callback() -> None:
            busy()
            done.set_result(None)

        asyncio.get_running_loop().call_soon(callback)
        await done

    assert names(told_while(run, main)) == [ours("busy")]


def test_a_partial_of_a_c_function_bears_that_ones_name(run: Run) -> None:
    nap = functools.partial(time.sleep, BLOCK_S)

    async def main() -> None:
        nap()

    (info,) = told_while(run, main)
    if HAVE_MONITORING:
        assert info.method_name == "time.sleep"
    else:  # there only built-in functions and methods have events
        assert info.method_name.endswith("main")


class Shop:
    @staticmethod
    def closes() -> None:
        end = time.perf_counter() + BLOCK_S
        while time.perf_counter() < end:
            pass

    @property
    def total(self) -> int:
        end = time.perf_counter() + BLOCK_S
        while time.perf_counter() < end:
            pass
        return 1


def test_names_are_qualified_on_every_python() -> None:
    def inner() -> None:
        end = time.perf_counter() + BLOCK_S
        while time.perf_counter() < end:
            pass

    async def main() -> None:
        Shop.closes()
        assert Shop().total == 1
        inner()

    told = told_while(asyncio.run, main)
    here = "test_names_are_qualified_on_every_python"
    assert names(told) == [ours("Shop.closes"), ours("Shop.total"), ours(f"{here}.<locals>.inner")]


# ---- paths -------------------------------------------------------------------

SLEEPER = """
    import time

    def sleep(seconds):
        time.sleep(seconds)
"""


def test_a_path_that_contains_a_librarys_name_is_seen_all_the_same(tmp_path: Path) -> None:
    module = script(tmp_path / "asyncio_typing" / "threading", "importlib_shop", SLEEPER)

    async def main() -> None:
        module.sleep(BLOCK_S)

    (info,) = told_while(asyncio.run, main)
    assert info.filename == module.__file__


def test_time_in_code_that_is_left_out_belongs_to_the_visible_caller(tmp_path: Path) -> None:
    module = script(tmp_path / "lib", "sleeper", SLEEPER)

    def visible() -> None:
        module.sleep(BLOCK_S)

    async def main() -> None:
        visible()

    for options in (
        {"exclude_paths": [str(tmp_path / "lib")]},
        {"exclude_paths": ["sleeper"]},
        {"include_paths": [__file__]},
        {"include_paths": [__name__]},
    ):
        (info,) = told_while(asyncio.run, main, **options)
        assert info.method_name.endswith("visible"), options
        assert not info.is_c_call


def test_paths_match_whole_components_only(tmp_path: Path) -> None:
    module = script(tmp_path / "library", "sleeper", SLEEPER)

    async def main() -> None:
        module.sleep(BLOCK_S)

    for path in (str(tmp_path / "lib"), "sleep", "eeper", "library"):
        assert names(told_while(asyncio.run, main, exclude_paths=[path])) == ["time.sleep"], path
        assert told_while(asyncio.run, main, include_paths=[path]) == [], path


@pytest.mark.parametrize("bad", ["src", b"src"])
def test_a_bare_path_instead_of_a_list_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="include_paths"):
        EventLoopMonitor(include_paths=bad)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_bad_threshold_is_refused_before_the_context_is_entered(bad: float) -> None:
    with pytest.raises(ValueError, match="threshold_ms"):
        event_loop_monitor_ctx(threshold_ms=bad)


# ---- several monitors --------------------------------------------------------


def test_each_active_monitor_has_its_own_threshold_and_callback(run: Run) -> None:
    strict: list[BlockingCallInfo] = []
    lax: list[BlockingCallInfo] = []
    monitors = [
        EventLoopMonitor(THRESHOLD_MS, on_blocking_call=strict.append),
        EventLoopMonitor(3 * THRESHOLD_MS, on_blocking_call=lax.append),
    ]

    async def main() -> None:
        for monitor in monitors:
            monitor.activate()
        busy()
        time.sleep(0.5)
        for monitor in monitors:
            monitor.deactivate()
        busy()

    run(main())
    assert names(strict) == [ours("busy"), "time.sleep"]
    assert names(lax) == ["time.sleep"]


def test_a_nested_context_has_its_own_settings_and_then_the_outers_hold_again(run: Run) -> None:
    outer: list[BlockingCallInfo] = []
    inner: list[BlockingCallInfo] = []

    async def main() -> None:
        with event_loop_monitor_ctx(threshold_ms=THRESHOLD_MS, on_blocking_call=outer.append):
            busy()
            with event_loop_monitor_ctx(
                threshold_ms=3 * THRESHOLD_MS, on_blocking_call=inner.append
            ):
                busy()
                time.sleep(0.4)
            time.sleep(BLOCK_S)

    run(main())
    assert names(inner) == ["time.sleep"]
    assert names(outer)[0] == ours("busy")
    assert names(outer)[-1] == "time.sleep"
    assert "main" not in "".join(names(outer))


def test_contexts_of_two_requests_get_what_is_theirs(run: Run) -> None:
    told: dict[str, list[BlockingCallInfo]] = {"a": [], "b": []}

    async def request(who: str, work: Callable[[], None]) -> None:
        with event_loop_monitor_ctx(threshold_ms=THRESHOLD_MS, on_blocking_call=told[who].append):
            await asyncio.sleep(0.05)
            work()
            await asyncio.sleep(0.05)

    async def main() -> None:
        await asyncio.gather(request("a", busy), request("b", lambda: time.sleep(BLOCK_S)))

    run(main())
    assert names(told["a"]) == [ours("busy")]
    assert names(told["b"]) == ["time.sleep"]


def test_a_switched_off_context_does_nothing(run: Run) -> None:
    async def main() -> None:
        with event_loop_monitor_ctx(enabled=False) as monitor:
            assert not monitor.is_active
            assert nothing_is_left()

    run(main())


def test_a_monitor_switched_on_within_a_function_counts_from_then_on(run: Run) -> None:
    told: list[BlockingCallInfo] = []

    async def main() -> None:
        end = time.perf_counter() + BLOCK_S
        while time.perf_counter() < end:
            pass
        with event_loop_monitor_ctx(threshold_ms=THRESHOLD_MS, on_blocking_call=told.append):
            await asyncio.sleep(0)
        assert told == []
        with event_loop_monitor_ctx(threshold_ms=THRESHOLD_MS, on_blocking_call=told.append):
            end = time.perf_counter() + BLOCK_S
            while time.perf_counter() < end:
                pass

    run(main())
    (info,) = told
    assert info.method_name.endswith("main")


# ---- callbacks ---------------------------------------------------------------


def test_a_callback_runs_on_the_loops_thread_in_the_task_right_after_the_call(run: Run) -> None:
    order: list[object] = []

    def callback(info: BlockingCallInfo) -> None:
        order.append((info.method_name, threading.get_ident(), asyncio.current_task()))
        assert info.task_name == asyncio.current_task().get_name()  # type: ignore[union-attr]

    async def main() -> None:
        with event_loop_monitor_ctx(threshold_ms=THRESHOLD_MS, on_blocking_call=callback):
            time.sleep(BLOCK_S)
            order.append("next line")
        order.append(asyncio.current_task())

    run(main())
    assert order == [("time.sleep", threading.get_ident(), order[-1]), "next line", order[-1]]


def test_a_callback_that_raises_is_logged_once_and_never_reaches_the_application(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(info: BlockingCallInfo) -> None:
        raise RuntimeError("mine")

    async def main() -> int:
        with event_loop_monitor_ctx(
            threshold_ms=THRESHOLD_MS, on_blocking_call=callback
        ) as monitor:
            time.sleep(BLOCK_S)
            busy()
        return monitor.callback_errors

    with caplog.at_level(logging.DEBUG, logger="loopguard"):
        assert run(main()) == 2
    (record,) = caplog.records
    assert record.name == "loopguard"
    assert record.exc_info is not None


def test_time_that_a_callback_takes_is_nobodys(run: Run) -> None:
    def callback(info: BlockingCallInfo) -> None:
        told.append(info)
        time.sleep(BLOCK_S)

    told: list[BlockingCallInfo] = []

    async def main() -> None:
        with event_loop_monitor_ctx(threshold_ms=THRESHOLD_MS, on_blocking_call=callback):
            await asyncio.get_running_loop().create_task(work())

    async def work() -> None:
        time.sleep(BLOCK_S)

    run(main())
    assert names(told) == ["time.sleep"]


def test_without_a_callback_the_log_has_a_line(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with event_loop_monitor_ctx(threshold_ms=THRESHOLD_MS):
            time.sleep(BLOCK_S)

    with caplog.at_level(logging.WARNING, logger="loopguard"):
        run(main())
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("Event loop blocking detected: time.sleep took 1")


# ---- threads and processes ---------------------------------------------------


def test_a_loop_of_another_thread_is_watched_and_a_thread_without_one_is_not(run: Run) -> None:
    async def main() -> None:
        threads = [
            threading.Thread(target=lambda: run(work()), name="with loop"),
            threading.Thread(target=lambda: time.sleep(BLOCK_S), name="without"),
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.01)

    async def work() -> None:
        time.sleep(BLOCK_S)

    told = told_while(run, main)
    # not what main() itself did: on a busy machine a new thread starts late
    assert [i.thread_name for i in told if i.method_name == "time.sleep"] == ["with loop"], told
    assert {i.thread_name for i in told} <= {"with loop", "MainThread"}, told


FORKED = """
    import asyncio, os, sys, time
    from loopguard.calls import EventLoopMonitor

    told = []
    monitor = EventLoopMonitor(100, on_blocking_call=lambda info: told.append(info.method_name))

    async def work():
        time.sleep(0.15)

    monitor.activate()
    asyncio.run(work())
    pid = os.fork()
    if pid == 0:
        told.clear()
        asyncio.run(work())
        monitor.deactivate()
        os._exit(0 if told == ["time.sleep"] else 1)
    status = os.waitpid(pid, 0)[1]
    asyncio.run(work())
    monitor.deactivate()
    print(status, told)
"""


def test_a_forked_child_goes_on_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "forked.py"
    path.write_text(textwrap.dedent(FORKED))
    command = [sys.executable, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.stdout.split("\n")[0] == "0 ['time.sleep', 'time.sleep']", done.stderr


LEFT_ON = """
    import asyncio, time
    from loopguard import calls

    async def work():
        calls.EventLoopMonitor(threshold_ms=0.001, on_blocking_call=print).activate()
        time.sleep(0.01)

    loop = asyncio.new_event_loop()  # not closed: it is when the interpreter ends
    loop.run_until_complete(work())
"""


def test_interpreter_that_ends_meanwhile_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "left_on.py"
    path.write_text(textwrap.dedent(LEFT_ON))
    command = [sys.executable, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, "Exception" in done.stderr, "time.sleep" in done.stdout) == (
        0,
        False,
        True,
    ), done.stderr


def test_the_kill_switch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPGUARD_DISABLE", "1")
    monitor = EventLoopMonitor()
    monitor.activate()
    assert not monitor.is_active
    assert nothing_is_left()


GREENLETS = """
    import asyncio, time
    import greenlet
    from loopguard.calls import event_loop_monitor_ctx

    told = []

    def inside(back):
        def deeper():
            time.sleep(0.15)
            back.switch("middle")
            time.sleep(0.15)
        deeper()
        return "end"

    async def main():
        with event_loop_monitor_ctx(threshold_ms=80, on_blocking_call=told.append):
            await asyncio.create_task(work())

    async def work():
        other = greenlet.greenlet(inside)
        assert other.switch(greenlet.getcurrent()) == "middle"
        await asyncio.sleep(0.2)
        assert other.switch() == "end"

    asyncio.run(main())
    print([info.method_name for info in told])
"""


def test_stacks_that_greenlets_switch_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("greenlet")
    path = tmp_path / "greenlets.py"
    path.write_text(textwrap.dedent(GREENLETS))
    command = [sys.executable, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.stdout == "['time.sleep', 'time.sleep']\n", done.stdout + done.stderr


# ---- what is left ------------------------------------------------------------


def tools() -> list[str | None]:
    return [sys.monitoring.get_tool(i) for i in range(6)] if sys.version_info >= (3, 12) else []


def nothing_is_left() -> bool:
    return "loopguard.calls" not in tools() and sys.getprofile() is None


def test_nothing_is_left_when_the_last_monitor_ends(run: Run) -> None:
    before = tools()

    async def main() -> None:
        with event_loop_monitor_ctx(), event_loop_monitor_ctx():
            assert not nothing_is_left()

    run(main())
    assert nothing_is_left()
    assert tools() == before


@pytest.mark.skipif(HAVE_MONITORING, reason="profile functions are not used there")
def test_the_profile_function_of_before_is_back(run: Run) -> None:
    def before(*_: object) -> None:
        pass

    async def main() -> None:
        sys.setprofile(before)
        with event_loop_monitor_ctx():
            assert sys.getprofile() is not before
        assert sys.getprofile() is before
        sys.setprofile(None)

    run(main())


@pytest.mark.skipif(HAVE_MONITORING, reason="profile functions are not used there")
def test_a_profile_function_set_meanwhile_is_left_alone(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def theirs(*_: object) -> None:
        pass

    async def main() -> None:
        with event_loop_monitor_ctx():
            sys.setprofile(theirs)
        assert sys.getprofile() is theirs
        sys.setprofile(None)

    run(main())
    assert "somebody else has set a profile function" in caplog.text


@pytest.mark.skipif(not HAVE_MONITORING, reason="needs sys.monitoring")
def test_a_monitor_without_a_free_tool_id_says_so_and_stays_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = [i for i in range(6) if tools()[i] is None]
    for i in taken:
        sys.monitoring.use_tool_id(i, "somebody")
    try:
        monitor = EventLoopMonitor()
        monitor.activate()
        assert not monitor.is_active
        assert "no tool id of sys.monitoring is free" in caplog.text
    finally:
        for i in taken:
            sys.monitoring.free_tool_id(i)


@pytest.mark.skipif(not HAVE_MONITORING, reason="needs sys.monitoring")
def test_another_tools_events_go_on(run: Run) -> None:
    lines: list[int] = []
    events = sys.monitoring.events
    sys.monitoring.use_tool_id(sys.monitoring.COVERAGE_ID, "coverage")
    sys.monitoring.register_callback(
        sys.monitoring.COVERAGE_ID, events.LINE, lambda code, line: lines.append(line)
    )

    def seen() -> None:
        time.sleep(BLOCK_S)
        lines.append(-1)

    async def main() -> None:
        seen()

    try:
        sys.monitoring.set_local_events(sys.monitoring.COVERAGE_ID, seen.__code__, events.LINE)
        told = told_while(run, main)
        first = seen.__code__.co_firstlineno
        assert lines == [first + 1, first + 2, -1]
        assert names(told) == ["time.sleep"]
        assert sys.monitoring.get_tool(sys.monitoring.COVERAGE_ID) == "coverage"
    finally:
        sys.monitoring.free_tool_id(sys.monitoring.COVERAGE_ID)


def test_code_that_was_watched_can_be_freed(run: Run) -> None:
    space: dict[str, Any] = {}
    exec("def short_lived(): return len('x') + int('7')", space)
    code = weakref.ref(space["short_lived"].__code__)

    async def main() -> None:
        with event_loop_monitor_ctx():
            assert space["short_lived"]() == 8
            del space["short_lived"]
            gc.collect()
            assert code() is None

    run(main())


def test_switching_on_and_off_does_not_grow(run: Run) -> None:
    async def main() -> None:
        async def once() -> None:
            with event_loop_monitor_ctx(threshold_ms=0, on_blocking_call=lambda info: None):
                busy(0)

        for _ in range(20):
            await once()
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(50):
            await once()
        gc.collect()
        assert sys.getallocatedblocks() - before < 50

    run(main())
