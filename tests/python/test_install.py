"""install, the middleware and watch: what they change, and that it comes back."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import pytest
import starlette.routing
from fastapi import FastAPI
from starlette.applications import Starlette

import loopguard

ROUTE_CLASSES = [
    getattr(starlette.routing, n) for n in ("Route", "WebSocketRoute", "Mount", "Host")
]


@pytest.fixture(autouse=True)
def stopped_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LOOPGUARD_DISABLE", raising=False)
    yield
    loopguard.stop()


async def plain(scope: Any, receive: Any, send: Any) -> Any:
    return ("returned", scope["type"])


def call(app: Any, kind: str = "http") -> Any:
    scope = {"type": kind, "path": "/", "method": "GET", "headers": [], "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        return None

    async def main() -> Any:
        return await app(scope, receive, send)

    return asyncio.run(main())


@pytest.mark.parametrize("make", [Starlette, FastAPI])
def test_install_returns_the_same_application(make: Any) -> None:
    app = make()
    assert loopguard.install(app) is app
    call(app)
    assert type(app.middleware_stack).__name__ == "Asgi"


def test_install_twice_measures_once() -> None:
    app = Starlette()
    loopguard.install(loopguard.install(app))
    call(app)
    assert type(app.middleware_stack.app).__name__ == "ServerErrorMiddleware"


def test_install_after_the_stack_was_built_measures_it() -> None:
    app = Starlette()
    call(app)
    loopguard.install(app)
    assert type(app.middleware_stack).__name__ == "Asgi"


def test_middleware_added_after_install_lies_inside() -> None:
    app = Starlette()
    loopguard.install(app)

    class Inside:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    app.add_middleware(Inside)
    call(app)
    assert type(app.middleware_stack).__name__ == "Asgi"
    assert type(app.middleware_stack.app.app).__name__ == "Inside"


def test_plain_application_comes_back_measured_and_is_a_coroutine_function() -> None:
    app = loopguard.install(plain)
    assert app is not plain
    assert loopguard.install(app) is app
    with_marker = app if inspect.isfunction(app) else app.__call__
    assert asyncio.iscoroutinefunction(app) or asyncio.iscoroutinefunction(with_marker)
    assert call(app) == ("returned", "http")


def test_middleware_returns_what_the_application_returns() -> None:
    assert call(loopguard.LoopGuardMiddleware(plain)) == ("returned", "http")


def test_middleware_works_in_a_starlette_stack() -> None:
    app = Starlette()
    app.add_middleware(loopguard.LoopGuardMiddleware, config=loopguard.LoopGuardConfig())
    call(app)
    assert "starlette.routing.Route.handle" in loopguard.status()["patched"]


def test_installed_application_can_be_collected() -> None:
    app = Starlette()
    loopguard.install(app)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


def test_stop_puts_everything_back() -> None:
    before = [vars(cls)["handle"] for cls in ROUTE_CLASSES]
    app = Starlette()
    loopguard.install(app)
    assert [vars(cls)["handle"] for cls in ROUTE_CLASSES] != before
    loopguard.stop()
    assert [vars(cls)["handle"] for cls in ROUTE_CLASSES] == before
    assert "build_middleware_stack" not in vars(app)
    assert loopguard.status()["patched"] == ()


def test_application_measured_before_stop_still_answers() -> None:
    app = loopguard.install(plain)
    loopguard.stop()
    assert call(app) == ("returned", "http")


def test_stop_leaves_what_others_patched_after_us_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loopguard.install(Starlette())
    ours = starlette.routing.Route.handle

    async def theirs(*args: Any) -> None:
        await ours(*args)

    original = loopguard.patches._patches[0].original
    starlette.routing.Route.handle = theirs  # type: ignore[method-assign]
    try:
        with caplog.at_level(logging.WARNING, logger="loopguard"):
            loopguard.stop()
        assert starlette.routing.Route.handle is theirs
        assert "starlette.routing.Route.handle was patched by others" in caplog.text
    finally:
        starlette.routing.Route.handle = original


@pytest.mark.parametrize("way", ["environment", "config"])
def test_switched_off_leaves_the_application_alone(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "environment":
        monkeypatch.setenv("LOOPGUARD_DISABLE", "1")
    app = Starlette()
    assert loopguard.install(app, enabled=way == "environment") is app
    assert "build_middleware_stack" not in vars(app)
    assert loopguard.install(plain, enabled=way == "environment") is plain
    assert loopguard.status()["patched"] == ()


def test_second_configuration_is_ignored_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="loopguard"):
        loopguard.install(Starlette(), stack_depth=16)
        loopguard.install(Starlette(), stack_depth=16, enforcement_mode="strict")
        assert caplog.messages == []
        loopguard.install(Starlette(), stack_depth=32)
        loopguard.install(Starlette(), stack_depth=32)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("bad", [5, None, "app:app"])
def test_what_is_no_application_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="ASGI application"):
        loopguard.install(bad)


def test_config_and_options_together_are_refused() -> None:
    with pytest.raises(TypeError, match="not both"):
        loopguard.install(plain, loopguard.LoopGuardConfig(), stack_depth=8)


def test_watch_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="no event loop runs"):
        loopguard.watch()


def test_last_watch_to_end_takes_the_agent_out() -> None:
    async def main() -> None:
        with loopguard.watch() as outer:
            with loopguard.watch():
                pass
            assert loopguard.control.is_running()
            outer.stop()
            outer.stop()
        assert not loopguard.control.is_running()

    asyncio.run(main())


def test_watch_leaves_an_installed_agent_in() -> None:
    async def main() -> None:
        async with loopguard.watch():
            pass

    loopguard.install(plain)
    asyncio.run(main())
    assert loopguard.control.is_running()


def test_watch_of_a_loop_in_another_thread() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with loopguard.watch(loop):
            done = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "slept"), loop)
            assert done.result(timeout=10) == "slept"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_starts_nothing_and_needs_no_framework() -> None:
    code = (
        "import os, sys; finders = list(sys.meta_path); import loopguard;"
        "frameworks = {'starlette', 'fastapi', 'uvicorn', 'anyio'};"
        "print(len(os.listdir('/proc/self/task')), frameworks & set(sys.modules));"
        "print(sys.meta_path == finders)"
    )
    assert run(code) == "1 set()\nTrue"


def test_routes_are_patched_when_starlette_is_imported_later() -> None:
    code = (
        "import loopguard\n"
        "async def app(scope, receive, send): pass\n"
        "loopguard.install(app)\n"
        "print(loopguard.status()['patched'])\n"
        "import starlette.routing\n"
        "print('starlette.routing.Mount.handle' in loopguard.status()['patched'])\n"
        "loopguard.stop()\n"
        "import fastapi.routing\n"
        "print(loopguard.status()['patched'])"
    )
    assert run(code).split("\n") == ["()", "True", "()"]


def test_version_is_that_of_the_distribution() -> None:
    assert loopguard.__version__ == metadata.version("loopguard-top")


def test_watch_that_outlives_the_agent_keeps_no_later_one_alive() -> None:
    async def main() -> None:
        forgotten = loopguard.watch()
        loopguard.stop()
        with loopguard.watch():
            assert loopguard.status()["patched"]
            forgotten.stop()
            assert loopguard.status()["patched"]
        assert not loopguard.status()["patched"]

    asyncio.run(main())
