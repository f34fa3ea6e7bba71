"""The thread pool: anyio's run_sync measured, and otherwise what it was."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import loopguard
from loopguard import _agent

DEADLINE_S = 30.0
PLAIN = anyio.to_thread.run_sync


@pytest.fixture(autouse=True)
def stopped_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LOOPGUARD_DISABLE", raising=False)
    yield
    loopguard.stop()


def run_watched(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def watched() -> Any:
        with loopguard.watch():
            return await main()

    return asyncio.run(watched())


def viewer() -> str:
    name = "loopguard-top"
    here = Path(sysconfig.get_path("scripts")) / name
    found = str(here) if here.exists() else shutil.which(name)
    assert found is not None, "loopguard-top is not installed"
    return found


def pool_now() -> dict[str, Any]:
    """What the viewer says of this process; None for a pool not used yet."""
    command = [viewer(), "--once", "--json", "--window", "total", "--pid", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    worker = json.loads(done.stdout)["workers"][0]
    pool: dict[str, Any] = worker["threadpool"]
    return pool


def wait_for_pool(condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        pool = pool_now()
        if condition(pool):
            return pool
        assert time.monotonic() < deadline, pool


def test_result_and_arguments_pass_through() -> None:
    result = object()

    async def main() -> Any:
        return await anyio.to_thread.run_sync(lambda a, b: (a, b, result), 1, 2)

    assert run_watched(main) == (1, 2, result)


def test_exception_is_the_functions_own_with_no_frame_of_ours() -> None:
    error = KeyError("mine")

    def fail() -> None:
        raise error

    async def main() -> None:
        await anyio.to_thread.run_sync(fail)

    with pytest.raises(KeyError) as caught:
        run_watched(main)
    assert caught.value is error
    assert caught.value.__context__ is None
    files = [entry.path.name for entry in caught.traceback if hasattr(entry.path, "name")]
    assert "threads.py" not in files


def test_function_sees_a_copy_of_the_callers_context() -> None:
    word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="unset")

    def look() -> str:
        before = word.get()
        word.set("of the thread")
        return before

    async def main() -> tuple[str, str]:
        word.set("of the task")
        return await anyio.to_thread.run_sync(look), word.get()

    assert run_watched(main) == ("of the task", "of the task")


def test_replacement_has_the_originals_signature_and_goes_away() -> None:
    original = anyio.to_thread.run_sync

    async def main() -> None:
        assert anyio.to_thread.run_sync is not original
        assert inspect.signature(anyio.to_thread.run_sync) == inspect.signature(original)
        assert asyncio.iscoroutinefunction(anyio.to_thread.run_sync)

    run_watched(main)
    assert anyio.to_thread.run_sync is original is PLAIN


def test_what_is_no_function_raises_as_without_us() -> None:
    async def main() -> None:
        await anyio.to_thread.run_sync(None)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="not callable"):
        run_watched(main)


def test_outside_of_a_loop_the_original_complains() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, no_loop_here)

    def no_loop_here() -> None:
        coroutine: Any = anyio.to_thread.run_sync(int)
        with pytest.raises(BaseException, match=r"(?i)event loop|async library"):
            coroutine.send(None)

    run_watched(main)


def test_threads_beyond_the_limit_are_counted_as_waiting() -> None:
    release = threading.Event()

    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        calls = [
            asyncio.ensure_future(anyio.to_thread.run_sync(release.wait, DEADLINE_S))
            for _ in range(5)
        ]
        full = await asyncio.get_running_loop().run_in_executor(
            None, wait_for_pool, lambda pool: pool is not None and pool["busy"] == 2
        )
        release.set()
        await asyncio.gather(*calls)
        after = await asyncio.get_running_loop().run_in_executor(
            None, wait_for_pool, lambda pool: pool["finished"] == 5
        )
        return full, after

    full, after = run_watched(main)
    assert (full["limit"], full["busy"], full["waiting"], full["full_count"]) == (2, 2, 3, 1)
    assert full["full_for_us"] is not None
    assert (after["busy"], after["waiting"], after["high_water"]) == (0, 0, 2)
    assert after["waiting_high_water"] == 3
    assert after["submitted"] == 5
    assert not after["full_for_us"]


def test_call_cancelled_before_its_turn_waits_no_more() -> None:
    release = threading.Event()

    async def main() -> dict[str, Any]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1
        first = asyncio.ensure_future(anyio.to_thread.run_sync(release.wait, DEADLINE_S))
        second = asyncio.ensure_future(anyio.to_thread.run_sync(release.wait, DEADLINE_S))
        executor = asyncio.get_running_loop().run_in_executor
        await executor(None, wait_for_pool, lambda pool: pool is not None and pool["busy"] == 1)
        second.cancel()
        await asyncio.wait({second})
        assert second.cancelled()
        del second  # and with it the frames that hold what was submitted
        gc.collect()
        pool = await executor(None, wait_for_pool, lambda pool: pool["waiting"] == 0)
        release.set()
        await first
        return pool

    pool = run_watched(main)
    assert (pool["busy"], pool["submitted"]) == (1, 2)


def test_cancelled_call_waits_no_more_while_its_exception_is_kept() -> None:
    release = threading.Event()
    kept: list[BaseException] = []

    async def keep() -> None:
        try:
            await anyio.to_thread.run_sync(release.wait, DEADLINE_S)
        except asyncio.CancelledError as error:
            kept.append(error)

    async def main() -> dict[str, Any]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1
        first = asyncio.ensure_future(anyio.to_thread.run_sync(release.wait, DEADLINE_S))
        executor = asyncio.get_running_loop().run_in_executor
        await executor(None, wait_for_pool, lambda pool: pool is not None and pool["busy"] == 1)
        second = asyncio.ensure_future(keep())
        await executor(None, wait_for_pool, lambda pool: pool["waiting"] == 1)
        second.cancel()
        await asyncio.wait({second})
        pool = await executor(None, pool_now)
        release.set()
        await first
        return pool

    assert run_watched(main)["waiting"] == 0
    assert len(kept) == 1


def test_limiter_of_ones_own_takes_no_token_of_the_pool() -> None:
    async def main() -> dict[str, Any]:
        await anyio.to_thread.run_sync(int)
        await anyio.to_thread.run_sync(int, limiter=anyio.CapacityLimiter(1))
        executor = asyncio.get_running_loop().run_in_executor
        return await executor(None, wait_for_pool, lambda pool: pool["finished"] == 2)

    pool = run_watched(main)
    assert (pool["limit"], pool["high_water"], pool["submitted"]) == (40, 1, 2)


def test_stuck_thread_is_shown_with_its_stack() -> None:
    release = threading.Event()

    def stuck_in_here() -> None:
        release.wait(DEADLINE_S)

    async def main() -> dict[str, Any]:
        call = asyncio.ensure_future(anyio.to_thread.run_sync(stuck_in_here))
        pool = await asyncio.get_running_loop().run_in_executor(
            None, wait_for_pool, lambda pool: pool is not None and bool(pool["stuck"])
        )
        release.set()
        await call
        return pool

    (thread,) = run_watched(main)["stuck"]
    assert thread["for_us"] >= 1_000_000
    assert any("stuck_in_here" in frame["func"] for frame in thread["stack"])


def test_stop_in_the_middle_of_a_call_leaves_the_call_alone() -> None:
    release = threading.Event()

    async def main() -> Any:
        watch = loopguard.watch()
        call = asyncio.ensure_future(anyio.to_thread.run_sync(lambda: release.wait(DEADLINE_S)))
        await asyncio.get_running_loop().run_in_executor(
            None, wait_for_pool, lambda pool: pool is not None and pool["busy"] == 1
        )
        watch.stop()
        release.set()
        return await call

    assert asyncio.run(main()) is True


def test_callable_for_the_thread_is_freed_with_what_it_holds() -> None:
    class Marker:
        pass

    def alive() -> int:
        gc.collect()
        return sum(type(o) is Marker for o in gc.get_objects())

    async def wait() -> None:
        pass

    async def main() -> None:
        call = _agent.pool_submit(functools.partial(id, Marker()), 40)
        assert call() > 0
        _agent.pool_submit(functools.partial(id, Marker()), 40)
        for begun in (True, False):
            call = _agent.pool_submit(functools.partial(id, Marker()), 40)
            coro = _agent.pool_awaited(call, wait())
            if begun:
                assert call() > 0
            await coro

    run_watched(main)
    assert alive() == 0


def test_replacing_costs_little_memory_over_many_calls() -> None:
    code = """
import asyncio, anyio.to_thread, loopguard, resource
async def main():
    with loopguard.watch():
        for _ in range(300): await anyio.to_thread.run_sync(int)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3000): await anyio.to_thread.run_sync(int)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) < 1024  # KiB
