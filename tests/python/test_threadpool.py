"""The thread pool without its deadlock: on asyncio, uvloop and trio."""
# ruff: noqa: B008 - Depends() is a default value in FastAPI's own way of writing

from __future__ import annotations

import contextvars
import dataclasses
import logging
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import fastapi
import pytest
import sqlalchemy
from agent_kit import DEADLINE_S, LOOPS, agent
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from sqlalchemy.pool import QueuePool
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from test_threads import wait_for_pool

from loopguard import threadpool

PLAIN = (anyio.to_thread.run_sync, Starlette.__call__)
CONNECTIONS = 2
THREADS = 4
REQUESTS = 14
SHORT_S = 0.4  # timeout of the connection pool where it has to come
LONG_S = 30.0  # and where it must not
FORMS = ("dependency", "lazily")
FORMS_TOO = ("nested", "gap", "asynchronous", "background")
# From 0.106 to 0.117 a dependency ended before the response was sent: a stream
# that uses its session takes a connection that nobody gives back.
if not (0, 106) <= tuple(map(int, fastapi.__version__.split(".")[:2])) < (0, 118):
    FORMS_TOO += ("stream",)
Run = Callable[..., Any]


@pytest.fixture(params=[*sorted(LOOPS), "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function on that kind of loop."""

    def run_there(main: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        options = {"use_uvloop": True} if request.param == "uvloop" else {}
        backend = "trio" if request.param == "trio" else "asyncio"
        return anyio.run(main, *args, backend=backend, backend_options=options)

    return run_there


@pytest.fixture
def patched() -> Iterator[None]:
    threadpool.patch()
    yield
    threadpool.unpatch()
    assert (anyio.to_thread.run_sync, Starlette.__call__) == PLAIN


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[[float], FastAPI]]:
    engines: list[Any] = []

    def make(timeout_s: float) -> FastAPI:
        engines.append(database(tmp_path, timeout_s))
        return application(engines[-1])

    yield make
    for engine in engines:
        engine.dispose()


def database(folder: Path, timeout_s: float) -> Any:
    return sqlalchemy.create_engine(
        f"sqlite:///{folder}/test.db",
        poolclass=QueuePool,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=timeout_s,
        connect_args={"check_same_thread": False},
    )


def select_one(connection: Any) -> int:
    time.sleep(0.002)  # long enough for others to come
    return int(connection.execute(sqlalchemy.text("select 1")).scalar())


class Session:
    """Takes its connection at its first query, and keeps it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.taken: Any = None

    def one(self) -> int:
        if self.taken is None:
            self.taken = self.engine.connect()
        return select_one(self.taken)

    def close(self) -> None:
        if self.taken is not None:
            self.taken.close()


def application(engine: Any) -> FastAPI:
    app = FastAPI()

    def connection() -> Iterator[Any]:
        with engine.connect() as taken:
            yield taken

    def session() -> Iterator[Session]:
        made = Session(engine)
        try:
            yield made
        finally:
            made.close()

    def user(lazy: Session = Depends(session)) -> int:
        return lazy.one()

    async def after_a_while(lazy: Session = Depends(session)) -> Session:
        await anyio.sleep(0.003)
        return lazy

    @app.get("/dependency")
    def dependency(taken: Any = Depends(connection)) -> int:
        return select_one(taken)

    @app.get("/lazily", response_model=int)
    def lazily(lazy: Session = Depends(session)) -> Any:
        return lazy.one()

    @app.get("/nested", response_model=int)
    def nested(one: int = Depends(user)) -> Any:
        return one

    @app.get("/gap", response_model=int)
    def gap(lazy: Session = Depends(after_a_while)) -> Any:
        return lazy.one()

    @app.get("/asynchronous")
    async def asynchronous(taken: Any = Depends(connection)) -> int:
        await anyio.sleep(0.003)
        return await threadpool.run_in_threadpool(select_one, taken)

    @app.get("/stream", response_class=StreamingResponse)
    def stream(lazy: Session = Depends(session)) -> Any:
        return StreamingResponse(str(lazy.one()) for _ in range(3))

    @app.get("/background")
    def background(tasks: BackgroundTasks, lazy: Session = Depends(session)) -> int:
        tasks.add_task(time.sleep, 0)
        return lazy.one()

    return app


async def get(app: Any, path: str) -> tuple[int, bytes]:
    """One request: its status and its body. Errors of the application come out."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    sent: list[dict[str, Any]] = []
    inbox = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not inbox:
            await anyio.sleep_forever()
        return inbox.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def ask_at_once(app: FastAPI, *paths: str) -> Counter[Any]:
    """More requests than threads, than connections; how often each came to what."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    results: Counter[Any] = Counter()

    async def ask(path: str) -> None:
        try:
            results[(await get(app, path))[0]] += 1
        except sqlalchemy.exc.TimeoutError as error:
            results[type(error).__name__] += 1

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            for number in range(REQUESTS):
                group.start_soon(ask, paths[number % len(paths)])
    return results


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not condition():
            await anyio.sleep(0.002)


# ---- the deadlock ----------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_unpatched_requests_hang_until_the_pool_gives_up(
    run: Run, make_app: Callable[[float], FastAPI], form: str
) -> None:
    results = run(ask_at_once, make_app(SHORT_S), f"/{form}")
    assert results["TimeoutError"] > 0
    assert results[200] < REQUESTS


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("form", FORMS + FORMS_TOO)
def test_patched_all_requests_complete(
    run: Run, make_app: Callable[[float], FastAPI], form: str
) -> None:
    assert run(ask_at_once, make_app(LONG_S), f"/{form}") == {200: REQUESTS}


@pytest.mark.usefixtures("patched")
def test_patched_all_forms_complete_side_by_side(
    run: Run, make_app: Callable[[float], FastAPI]
) -> None:
    paths = [f"/{form}" for form in FORMS + FORMS_TOO]
    assert run(ask_at_once, make_app(LONG_S), *paths) == {200: REQUESTS}


@pytest.mark.usefixtures("patched")
def test_nobody_is_admitted_beyond_the_limit_on_the_way_from_piece_to_piece(run: Run) -> None:
    running, most, lock = 0, 0, threading.Lock()
    app = FastAPI()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    def dependency() -> Iterator[None]:
        work()
        yield

    @app.get("/")
    def endpoint(_: None = Depends(dependency)) -> None:
        work()

    assert run(ask_at_once, app, "/") == {200: REQUESTS}
    assert most == THREADS


@pytest.mark.usefixtures("patched")
def test_request_that_awaits_occupies_no_thread(run: Run) -> None:
    app = FastAPI()
    arrived: list[int] = []

    def dependency() -> Iterator[None]:
        yield

    async def main() -> int:
        release = anyio.Event()

        @app.get("/long")
        async def long(_: None = Depends(dependency)) -> None:
            arrived.append(1)
            await release.wait()

        @app.get("/short")
        def short(_: None = Depends(dependency)) -> None:
            pass

        threadpool.set_thread_limit(default_limit=2, release_limit=1)
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(get, app, "/long")
            await until(lambda: len(arrived) == 6 and threadpool.stats().busy == 0)
            with anyio.fail_after(DEADLINE_S):
                status, _ = await get(app, "/short")
            release.set()
        return status

    assert run(main) == 200


@pytest.mark.usefixtures("patched")
def test_when_nothing_moves_one_who_has_begun_runs_beyond_the_limits(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    given_back, waiting = threading.Event(), []
    app = FastAPI()

    def begin() -> None:
        pass

    def wait() -> None:
        waiting.append(1)
        assert given_back.wait(DEADLINE_S)

    async def main() -> threadpool.ThreadPoolStats:
        waiters_go, holder_goes = anyio.Event(), anyio.Event()

        @app.get("/waiter")
        async def waiter(_: None = Depends(begin)) -> None:
            await waiters_go.wait()
            await threadpool.run_in_threadpool(wait)

        @app.get("/holder")
        async def holder(_: None = Depends(begin)) -> None:
            await holder_goes.wait()
            await threadpool.run_in_threadpool(given_back.set)

        threadpool.set_thread_limit(default_limit=1, release_limit=1)
        async with anyio.create_task_group() as group:
            for path in ("/holder", "/waiter", "/waiter"):
                group.start_soon(get, app, path)
            await until(lambda: threadpool.stats().finished == 3)
            waiters_go.set()
            await until(lambda: len(waiting) == 2)
            full = threadpool.stats()
            assert (full.busy, full.release_busy, full.beyond) == (1, 1, 0)
            holder_goes.set()
        return threadpool.stats()

    with caplog.at_level(logging.WARNING, "loopguard"):
        after = run(main)
    assert (after.busy, after.release_busy, after.beyond, after.stalls) == (0, 0, 0, 1)
    assert [r.getMessage()[:18] for r in caplog.records] == ["no thread call has"]


# ---- what must stay as it was ----------------------------------------------


@pytest.mark.usefixtures("patched")
def test_exceptions_and_results_are_the_applications_own(run: Run) -> None:
    app = FastAPI()
    error = KeyError("mine")

    def refuse() -> None:
        raise HTTPException(418, "no")

    def fail() -> Iterator[None]:
        raise error
        yield

    @app.get("/refused", dependencies=[Depends(refuse)])
    def refused() -> None:
        pass

    @app.get("/failed", dependencies=[Depends(fail)])
    def failed() -> None:
        pass

    @app.get("/fine")
    def fine() -> str:
        return "fine"

    async def main() -> None:
        assert (await get(app, "/refused"))[0] == 418
        assert await get(app, "/fine") == (200, b'"fine"')
        with pytest.raises(KeyError) as caught:
            await get(app, "/failed")
        assert caught.value is error
        assert threadpool.stats().busy == 0

    run(main)


@pytest.mark.usefixtures("patched")
def test_function_sees_a_copy_of_the_callers_context(run: Run) -> None:
    word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="unset")

    def look() -> str:
        before = word.get()
        word.set("of the thread")
        return before

    async def main() -> tuple[str, str]:
        word.set("of the task")
        return await anyio.to_thread.run_sync(look), word.get()

    assert run(main) == ("of the task", "of the task")


@pytest.mark.usefixtures("patched")
def test_cancelled_calls_leave_no_token_behind(run: Run) -> None:
    release = threading.Event()
    app = FastAPI()

    def begin() -> None:
        pass

    async def main() -> threadpool.ThreadPoolStats:
        @app.get("/")
        async def endpoint(_: None = Depends(begin)) -> None:
            await anyio.sleep(0.001)
            await anyio.to_thread.run_sync(release.wait, DEADLINE_S)

        threadpool.set_thread_limit(default_limit=1, release_limit=1)
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(get, app, "/")
            await until(lambda: threadpool.stats().release_busy == 1)
            await until(lambda: threadpool.stats().waiting)
            group.cancel_scope.cancel()
            release.set()
        await until(lambda: threadpool.stats().busy == 0)
        assert await anyio.to_thread.run_sync(int) == 0
        return threadpool.stats()

    after = run(main)
    assert (after.busy, after.waiting, after.release_busy, after.beyond) == (0, 0, 0, 0)


@pytest.mark.usefixtures("patched")
def test_limiter_of_ones_own_is_used_untouched(run: Run) -> None:
    async def main() -> tuple[int, int]:
        own = anyio.CapacityLimiter(1)

        def look() -> tuple[int, int]:
            return own.borrowed_tokens, int(anyio.from_thread.run_sync(busy))

        def busy() -> int:
            return threadpool.stats().busy

        return await anyio.to_thread.run_sync(look, limiter=own)

    assert run(main) == (1, 0)


@pytest.mark.usefixtures("patched")
def test_task_that_outlives_its_request_queues_like_anybody(run: Run) -> None:
    app = FastAPI()

    def begin() -> None:
        pass

    async def main() -> bool:
        go, ran = anyio.Event(), []
        release = threading.Event()

        async def later() -> None:
            await go.wait()
            await anyio.to_thread.run_sync(ran.append, 1)

        async with anyio.create_task_group() as group:

            @app.get("/")
            async def endpoint(_: None = Depends(begin)) -> None:
                group.start_soon(later)

            threadpool.set_thread_limit(default_limit=1, release_limit=1)
            await get(app, "/")
            group.start_soon(anyio.to_thread.run_sync, release.wait, DEADLINE_S)
            await until(lambda: threadpool.stats().busy == 1)
            go.set()
            await until(lambda: threadpool.stats().waiting == 1)
            waited = not ran
            release.set()
        return waited

    assert run(main) is True


# ---- together with the agent -----------------------------------------------


@pytest.mark.parametrize("first", ["agent", "patch"])
def test_agent_counts_the_same_calls_whoever_came_first(first: str) -> None:
    release = threading.Event()

    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        with agent():
            if first == "agent":
                await anyio.to_thread.run_sync(int)
                threadpool.patch()
            threadpool.set_thread_limit(default_limit=2, release_limit=1)
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(anyio.to_thread.run_sync, release.wait, DEADLINE_S)
                group.start_soon(threadpool.run_in_release_threadpool, release.wait, DEADLINE_S)
                await until(lambda: threadpool.stats().release_busy == 1)
                await until(lambda: threadpool.stats().waiting == 3)
                full = await pool_when(lambda pool: pool["busy"] == 2)
                release.set()
            return full, await pool_when(lambda pool: pool["busy"] == pool["waiting"] == 0)

    if first == "patch":
        threadpool.patch()
    with_agent = anyio.to_thread.run_sync
    try:
        full, after = anyio.run(watched, main)
        assert (full["limit"], full["busy"], full["waiting"]) == (2, 2, 3)
        assert after["high_water"] == 2
        if first == "patch":
            assert anyio.to_thread.run_sync is with_agent  # shared: nothing was put around it
    finally:
        assert threadpool.unpatch() == []
    assert (anyio.to_thread.run_sync, Starlette.__call__) == PLAIN


async def watched(main: Callable[[], Awaitable[Any]]) -> Any:
    import loopguard  # noqa: PLC0415

    with loopguard.watch():
        return await main()


async def pool_when(condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the viewer says once `condition` holds. A token is taken before its thread starts."""
    limiter = anyio.CapacityLimiter(1)
    return await anyio.to_thread.run_sync(wait_for_pool, condition, limiter=limiter)


# ---- patching --------------------------------------------------------------


def test_patch_and_unpatch_may_be_repeated() -> None:
    threadpool.patch()
    once = (anyio.to_thread.run_sync, Starlette.__call__)
    threadpool.patch()
    assert (anyio.to_thread.run_sync, Starlette.__call__) == once
    assert once != PLAIN
    assert threadpool.unpatch() == []
    assert threadpool.unpatch() == []
    assert (anyio.to_thread.run_sync, Starlette.__call__) == PLAIN


def test_unpatch_names_what_others_have_patched_since(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    threadpool.patch()
    ours = anyio.to_thread.run_sync

    async def run_sync(*args: Any, **options: Any) -> Any:
        return await ours(*args, **options)

    anyio.to_thread.run_sync = run_sync
    try:
        with caplog.at_level(logging.WARNING, "loopguard"):
            left = threadpool.unpatch()
        assert run(anyio.to_thread.run_sync, int) == 0  # passed on
    finally:
        anyio.to_thread.run_sync = PLAIN[0]
    assert left == ["anyio.to_thread.run_sync"]
    assert "stays wrapped" in caplog.text
    assert Starlette.__call__ is PLAIN[1]


def test_missing_starlette_is_said_and_calls_still_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "starlette.applications", None)

    async def main() -> threadpool.ThreadPoolStats:
        assert await anyio.to_thread.run_sync(int) == 0
        return threadpool.stats()

    with caplog.at_level(logging.WARNING, "loopguard"):
        threadpool.patch()
        told = anyio.run(main)
        threadpool.unpatch()
    assert told.patched
    assert len(told.missing) == 1
    assert told.missing[0] in caplog.text


def test_importing_it_patches_nothing() -> None:
    code = """
import anyio.to_thread, starlette.applications
before = anyio.to_thread.run_sync, starlette.applications.Starlette.__call__
import loopguard.threadpool
print((anyio.to_thread.run_sync, starlette.applications.Starlette.__call__) == before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True\n"


# ---- the functions ---------------------------------------------------------


def test_functions_run_in_threads_with_all_arguments(run: Run) -> None:
    def function(a: int, *, b: int) -> tuple[int, int, bool]:
        return a, b, threading.current_thread() is threading.main_thread()

    async def main() -> None:
        assert await threadpool.run_in_threadpool(function, 1, b=2) == (1, 2, False)
        assert await threadpool.run_in_release_threadpool(function, 3, b=4) == (3, 4, False)

    run(main)


def test_iterate_is_an_asynchronous_iterator_and_next_runs_in_threads(run: Run) -> None:
    threads: set[bool] = set()

    def items() -> Iterator[int]:
        for number in range(3):
            threads.add(threading.current_thread() is threading.main_thread())
            yield number

    async def main() -> list[int]:
        return [item async for item in threadpool.iterate_in_threadpool(items())]

    assert run(main) == [0, 1, 2]
    assert threads == {False}


def test_release_threads_are_free_when_all_others_are_taken(run: Run) -> None:
    release = threading.Event()

    async def main() -> None:
        threadpool.set_thread_limit(default_limit=1, release_limit=1)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, release.wait, DEADLINE_S)
            group.start_soon(anyio.to_thread.run_sync, release.wait, DEADLINE_S)
            await until(lambda: threadpool.stats().waiting == 1)
            with anyio.fail_after(DEADLINE_S):
                await threadpool.run_in_release_threadpool(release.set)

    run(main)


@pytest.mark.parametrize(
    ("args", "options", "limits"),
    [
        ((), {}, (39, 1)),
        ((20, 4), {}, (16, 4)),
        ((), {"limit": 2}, (1, 1)),
        ((), {"limit": 80, "anti_deadlock_reserve": 2}, (78, 2)),
        ((), {"default_limit": 80, "release_limit": 10}, (80, 10)),
        ((), {"default_limit": 80, "reserve_limit": 10}, (80, 10)),
        ((), {"release_limit": 3}, (40, 3)),
    ],
)
def test_limits_are_set_in_both_ways(
    run: Run, args: tuple[int, ...], options: dict[str, int], limits: tuple[int, int]
) -> None:
    async def main() -> tuple[float, float, float]:
        threadpool.set_thread_limit(*args, **options)
        told = threadpool.stats()
        limiter = anyio.to_thread.current_default_thread_limiter()
        return told.limit, told.release_limit, limiter.total_tokens

    assert run(main) == (*limits, limits[0])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"limit": 1}, ValueError),
        ({"limit": 4, "anti_deadlock_reserve": 4}, ValueError),
        ({"limit": 4, "anti_deadlock_reserve": 0}, ValueError),
        ({"default_limit": 0}, ValueError),
        ({"release_limit": 0}, ValueError),
        ({"limit": 4.0}, TypeError),
        ({"default_limit": "4"}, TypeError),
        ({"release_limit": True}, TypeError),
        ({"limit": 4, "release_limit": 1}, TypeError),
        ({"release_limit": 4, "reserve_limit": 1}, TypeError),
    ],
)
def test_bad_limits_raise_and_change_nothing(
    options: dict[str, Any], error: type[Exception]
) -> None:
    async def main() -> threadpool.ThreadPoolStats:
        with pytest.raises(error, match=r"limit|reserve"):
            threadpool.set_thread_limit(**options)
        return threadpool.stats()

    told = anyio.run(main)
    assert (told.limit, told.release_limit) == (40, 5)


def test_outside_of_a_loop_it_says_where_to_call_it() -> None:
    for function in (threadpool.set_thread_limit, threadpool.stats):
        with pytest.raises(RuntimeError, match="in a coroutine"):
            function()


def test_every_loop_has_its_own_threads_and_stats_are_frozen(run: Run) -> None:
    async def first() -> None:
        threadpool.set_thread_limit(default_limit=7)
        with pytest.raises(dataclasses.FrozenInstanceError):
            threadpool.stats().limit = 1  # type: ignore[misc]

    async def second() -> threadpool.ThreadPoolStats:
        anyio.to_thread.current_default_thread_limiter().total_tokens = math.inf
        return threadpool.stats()

    run(first)
    told = run(second)
    assert told == threadpool.ThreadPoolStats(
        limit=math.inf,
        busy=0,
        waiting=0,
        release_limit=5,
        release_busy=0,
        release_waiting=0,
        beyond=0,
        stalls=0,
        finished=0,
        patched=False,
        missing=(),
    )
