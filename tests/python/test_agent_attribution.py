"""Who is charged: each piece of the loop's time under its own name.

Blocks sleep 70 ms where the threshold is 50, so that what is told can be
compared with what was done; a sleep is no CPU, so a busy machine changes little.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from agent_kit import (
    LOOPS,
    agent,
    body_of,
    request,
    run,
    scope,
    segment,
    settled,
    spin,
    stalls,
    status_of,
    until,
    websocket,
)
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from segment_reader import CANCELLED, EXCEPTION, NO_RESPONSE, Segment, Stall
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

import loopguard
from loopguard import _agent, control

BLOCK_MS = 70.0


def block() -> None:
    time.sleep(BLOCK_MS / 1e3)


@pytest.fixture(autouse=True)
def stopped_afterwards() -> Iterator[None]:
    yield
    loopguard.stop()


@pytest.fixture(params=LOOPS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def told(kind: str, main: Any, **options: Any) -> Segment:
    """What was told of `main` on such a loop."""

    async def watched() -> None:
        _agent.watch_loop()
        await main

    with agent(**options):
        run(kind, watched())
        seen = settled()
        until(lambda: not any(s.ongoing for s in segment().stalls), "the end of a window")
        seen = settled()
        for stall in seen.stalls:
            assert sum(stall.parts.values()) == pytest.approx(stall.duration_ms, abs=0.001), stall
        return seen


def blocks(seen: Segment) -> list[tuple[str, str]]:
    """Endpoint and innermost function of this file, of each block.

    Not what a busy machine made of the test's own preparations: those take CPU,
    while what is done on purpose sleeps.
    """
    return [(s.endpoint, where(s)) for s in seen.stalls if s.kind == "step" and not is_noise(s)]


def is_noise(stall: Stall) -> bool:
    return stall.cause != "io"


def where(stall: Stall) -> str:
    for function, file, _ in stall.stack:
        if file == __file__:
            return function.rpartition(".")[2]
    return ""


def is_noisy(seen: Segment, label: str) -> bool:
    return label in {s.endpoint for s in seen.stalls if is_noise(s)}


def only_block(seen: Segment, endpoint: str, *, function: str = "block") -> Stall:
    """The one block there was: right in name, duration, cause, call and stack."""
    assert blocks(seen) == [(endpoint, function)], seen.stalls
    stall = next(s for s in seen.stalls if s.kind == "step" and not is_noise(s))
    assert BLOCK_MS - 0.5 < stall.duration_ms < BLOCK_MS + 100  # a busy machine wakes us late
    assert stall.cause == "io"
    assert stall.call == "sleep"
    assert BLOCK_MS - 0.5 < stall.parts["io"] <= stall.duration_ms
    row = seen.endpoint(endpoint)
    assert (row.blocks, row.blocked_ms) == (1, pytest.approx(stall.duration_ms, abs=0.01))
    assert row.step_max_ms == pytest.approx(stall.duration_ms, abs=0.01)
    rows = [r.label for r in seen.endpoints if r.blocks and not is_noisy(seen, r.label)]
    assert rows == [endpoint]
    return stall


def fastapi() -> FastAPI:
    app = FastAPI()
    loopguard.install(app)
    return app


# ---- within a request ---------------------------------------------------------


def test_block_in_the_handler(kind: str) -> None:
    async def main() -> None:
        app = fastapi()

        @app.get("/items/{item}")
        async def handler(item: int) -> int:
            block()
            return item

        sent = await request(app, "/items/7")
        assert body_of(sent) == b"7"

    seen = told(kind, main())
    stall = only_block(seen, "GET /items/{item}")
    assert stall.request_id == seen.requests[0].request_id
    assert seen.requests[0].on_loop_ms > BLOCK_MS
    assert stall.task.startswith("Task-")
    names = [function.rpartition(".")[2] for function, _, _ in stall.stack]
    assert names[:2] == ["block", "handler"]


def test_block_in_a_child_task(kind: str) -> None:
    async def main() -> None:
        app = fastapi()

        async def work() -> None:
            await asyncio.sleep(0)
            block()

        async def grandchild() -> None:
            await asyncio.create_task(work())

        @app.get("/child")
        async def handler() -> None:
            await asyncio.gather(asyncio.create_task(grandchild()))

        await request(app, "/child")

    only_block(told(kind, main()), "GET /child")


def test_block_in_a_task_that_outlives_its_request(kind: str) -> None:
    async def main() -> None:
        app = fastapi()

        async def work() -> None:
            await asyncio.sleep(0.005)
            block()

        @app.get("/forgets")
        async def handler() -> None:
            tasks.append(asyncio.create_task(work()))

        await request(app, "/forgets")
        await tasks[0]

    tasks: list[Any] = []
    seen = told(kind, main())
    assert len(blocks(seen)) == 1
    assert blocks(seen)[0][0] in ("GET /forgets", "background GET /forgets")


def test_block_in_an_anyio_group(kind: str) -> None:
    async def main() -> None:
        app = fastapi()

        async def work() -> None:
            await anyio.sleep(0)
            block()

        @app.get("/group")
        async def handler() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(work)

        await request(app, "/group")

    only_block(told(kind, main()), "GET /group")


def test_block_in_a_dependency(kind: str) -> None:
    async def main() -> None:
        app = fastapi()

        async def dependency() -> Any:
            block()
            yield 1

        @app.get("/depends")
        async def handler(_: int = Depends(dependency)) -> None: ...

        await request(app, "/depends")

    only_block(told(kind, main()), "GET /depends")


class Passes(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Response:
        return await call_next(request)  # type: ignore[no-any-return]


class Blocks(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Response:
        block()
        return await call_next(request)  # type: ignore[no-any-return]


def test_block_under_base_http_middleware(kind: str) -> None:
    async def main() -> None:
        app = fastapi()
        app.add_middleware(Passes)
        app.add_middleware(GZipMiddleware, minimum_size=1)
        app.add_middleware(Passes)

        @app.get("/under/{what}")
        async def handler(what: str) -> str:
            block()
            return what

        sent = await request(app, "/under/x", headers=[(b"accept-encoding", b"gzip")])
        assert status_of(sent) == 200

    only_block(told(kind, main()), "GET /under/{what}")


def test_block_in_middleware_before_the_route_is_known(kind: str) -> None:
    async def main() -> None:
        app = fastapi()
        app.add_middleware(Blocks)

        @app.get("/later/{what}")
        async def handler(what: str) -> str:
            return what

        await request(app, "/later/x")

    only_block(told(kind, main()), "GET /later/{what}")


def test_block_in_a_background_task(kind: str) -> None:
    async def main() -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            block()

        async def handler(_: Any) -> Response:
            return PlainTextResponse("ok", background=BackgroundTask(work))

        app = loopguard.install(Starlette(routes=[Route("/report", handler)]))
        await request(app, "/report")

    seen = told(kind, main())
    only_block(seen, "background GET /report")
    assert seen.endpoint("GET /report").requests == 1
    assert seen.requests[0].duration_ms < 50  # the answer had left


def test_block_in_a_background_task_of_the_same_step(kind: str) -> None:
    async def main() -> None:
        async def work() -> None:
            block()

        async def handler(_: Any) -> Response:
            return PlainTextResponse("ok", background=BackgroundTask(work))

        app = loopguard.install(Starlette(routes=[Route("/report", handler)]))
        await request(app, "/report")

    only_block(told(kind, main()), "background GET /report")


def test_block_in_a_streamed_body(kind: str) -> None:
    async def main() -> None:
        async def rows() -> Any:
            yield b"first"
            await asyncio.sleep(0)
            block()
            yield b"second"

        async def handler(_: Any) -> Response:
            return StreamingResponse(rows())

        app = loopguard.install(Starlette(routes=[Route("/rows", handler)]))
        assert body_of(await request(app, "/rows")) == b"firstsecond"

    only_block(told(kind, main()), "GET /rows")


def test_block_in_a_websocket(kind: str) -> None:
    async def main() -> None:
        app = fastapi()

        @app.websocket("/chat/{room}")
        async def handler(ws: WebSocket, room: str) -> None:
            await ws.accept()
            async for text in ws.iter_text():
                if text == "block":
                    block()
                await ws.send_text(text)

        sent = await websocket(app, "/chat/a", ["one", "block", "two"])
        assert [m.get("text") for m in sent[1:]] == ["one", "block", "two"]

    seen = told(kind, main())
    only_block(seen, "WS /chat/{room}")
    assert seen.endpoint("WS /chat/{room}").requests == 1
    assert seen.endpoint("WS /chat/{room}").in_flight == 0


def test_block_in_the_lifespan(kind: str) -> None:
    async def main() -> None:
        async def lifespan(scope: Any, receive: Any, send: Any) -> None:
            block()
            await send({"type": "lifespan.startup.complete"})

        async def send(message: Any) -> None: ...

        await control.measured(lifespan)({"type": "lifespan"}, None, send)

    only_block(told(kind, main()), "(lifespan)")


def test_block_in_a_nested_application_is_told_once(kind: str) -> None:
    async def main() -> None:
        async def handler(_: Any) -> Response:
            block()
            return PlainTextResponse("ok")

        inner = loopguard.install(Starlette(routes=[Route("/deep", handler)]))
        outer = loopguard.install(Starlette(routes=[Mount("/sub/{region}", inner)]))
        await request(outer, "/sub/eu/deep")

    seen = told(kind, main())
    only_block(seen, "GET /sub/{region}/deep")
    assert seen.endpoint("GET /sub/{region}/deep").requests == 1
    assert len(seen.requests) == 1


def test_request_made_within_a_request_is_one_of_its_own(kind: str) -> None:
    """As httpx.ASGITransport does: another scope, another record; its time is not the outer's."""

    async def main() -> None:
        async def inner(_: Any) -> Response:
            block()
            return PlainTextResponse("in")

        async def outer(_: Any) -> Response:
            return PlainTextResponse(body_of(await request(other, "/in")))

        other = loopguard.install(Starlette(routes=[Route("/in", inner)]))
        app = loopguard.install(Starlette(routes=[Route("/out", outer)]))
        assert body_of(await request(app, "/out")) == b"in"

    seen = told(kind, main())
    only_block(seen, "GET /in")
    assert seen.endpoint("GET /out").on_loop_ms < 30
    assert seen.endpoint("GET /out").requests == 1


# ---- of no request -------------------------------------------------------------


def test_task_of_no_request(kind: str) -> None:
    async def ticker() -> None:
        await asyncio.sleep(0)
        block()

    async def main() -> None:
        await asyncio.create_task(ticker())

    name = "test_task_of_no_request.<locals>.ticker"
    only_block(told(kind, main()), f"task {name}")


def test_timer_and_soon_and_threadsafe_callbacks(kind: str) -> None:
    def timer() -> None:
        block()

    def soon() -> None:
        block()

    def threadsafe() -> None:
        block()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for schedule, callback in (
            (lambda f: loop.call_later(0.001, f), timer),
            (loop.call_soon, soon),
            (loop.call_soon_threadsafe, threadsafe),
        ):
            schedule(callback)  # type: ignore[operator]
            await asyncio.sleep(0.005)
            await asyncio.sleep(0.005)

    seen = told(kind, main())
    assert [e for e, _ in blocks(seen)] == [callback_name(f) for f in (timer, soon, threadsafe)]
    for row in seen.endpoints:
        assert row.blocks == (1 if row.kind == "callback" else 0) or is_noisy(seen, row.label)


def callback_name(function: Callable[..., Any]) -> str:
    name = function.__qualname__ if sys.version_info >= (3, 11) else function.__name__
    return f"callback {name}"


def test_reader_and_protocol_callbacks(kind: str) -> None:
    def reader() -> None:
        os.read(ends[0], 10)
        block()

    class Receives(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            block()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(ends[0], reader)
        os.write(ends[1], b"x")
        await asyncio.sleep(0.01)
        loop.remove_reader(ends[0])
        near, far = socket.socketpair()
        transport, _ = await loop.create_connection(Receives, sock=near)
        far.send(b"x")
        await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        transport.close()
        far.close()
        await asyncio.sleep(0.001)

    ends = os.pipe()
    try:
        seen = told(kind, main())
    finally:
        os.close(ends[0])
        os.close(ends[1])
    assert [e for e, _ in blocks(seen)] == [
        callback_name(reader),
        callback_name(Receives.data_received),
    ]


def test_many_short_callbacks_of_one_iteration(kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            loop.call_soon(time.sleep, 0.005)
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)

    together = [s for s in told(kind, main()).stalls if not is_noise(s)]
    assert len(together) == 1
    assert together[0].duration_ms == pytest.approx(100, abs=25)


def test_many_short_steps_of_one_iteration(kind: str) -> None:
    async def main() -> None:
        async def short(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.005)
            time.sleep(0.004)

        app = control.measured(short)
        await asyncio.gather(*(request(app) for _ in range(30)))

    seen = told(kind, main(), cumulative_blocking_enabled=False)
    together = [s for s in seen.stalls if s.kind == "iteration"]
    assert len(together) >= 1
    assert together[0].endpoint == "(loop)"
    assert sum(s.duration_ms for s in together) > 60
    assert sum(s.steps for s in together) >= 15


# ---- innocents -----------------------------------------------------------------


def test_fifty_innocents_are_never_blamed_and_the_wait_is_told(kind: str) -> None:
    async def main() -> None:
        async def handler(req: Any) -> Response:
            if req.path_params["what"] == "guilty":
                await start.wait()
                block()
            else:
                await start.wait()
                await asyncio.sleep(0)
            return PlainTextResponse("ok")

        async def innocent(req: Any) -> Response:
            await start.wait()
            await asyncio.sleep(0)
            return PlainTextResponse("ok")

        start = asyncio.Event()
        app = loopguard.install(
            Starlette(routes=[Route("/a/{n}", innocent), Route("/x/{what}", handler)])
        )
        jobs = [asyncio.create_task(request(app, "/x/guilty"))]
        jobs += [asyncio.create_task(request(app, f"/a/{i}")) for i in range(50)]
        await asyncio.sleep(0.01)
        start.set()
        await asyncio.gather(*jobs)
        await asyncio.sleep(0)
        await request(app, "/a/51")  # the counters follow with the next step

    seen = told(kind, main())
    stall = only_block(seen, "GET /x/{what}")
    assert seen.endpoint("GET /a/{n}").blocks == 0
    assert seen.endpoint("GET /a/{n}").requests == 51
    assert stall.waited == 50
    assert stall.waited_by == {
        "GET /a/{n}": (50, pytest.approx(stall.waited_sum_ms, abs=0.01)),
    }
    assert stall.duration_ms <= stall.waited_longest_ms < stall.duration_ms + 60
    row = seen.endpoint("GET /x/{what}")
    assert (row.waited, row.waited_ms) == (50, pytest.approx(stall.waited_sum_ms, abs=0.01))
    assert stall.waiting == 50


def test_requests_that_arrive_during_a_block_wait_under_their_own_name(kind: str) -> None:
    """They begin without a name: the route is found in their first step."""

    async def main() -> None:
        async def handler(req: Any) -> Response:
            if req.path_params["what"] == "guilty":
                tasks.extend(asyncio.create_task(arrives()) for _ in range(4))
                block()
            return PlainTextResponse("ok")

        async def innocent(_: Any) -> Response:
            return PlainTextResponse("ok")

        async def arrives() -> None:
            await request(app, "/in")

        tasks: list[Any] = []
        app = loopguard.install(
            Starlette(routes=[Route("/in", innocent), Route("/x/{what}", handler)])
        )
        first = asyncio.create_task(request(app, "/x/guilty"))
        later = [asyncio.create_task(request(app, "/in")) for _ in range(3)]
        await asyncio.gather(first, *later)
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.001)

    stall = only_block(told(kind, main()), "GET /x/{what}")
    assert stall.waited == 0  # made after it: their scope came when the loop was free again
    assert "(other)" not in stall.waited_by


def test_nobody_waited_behind_a_lonely_block(kind: str) -> None:
    async def main() -> None:
        async def alone(scope: Any, receive: Any, send: Any) -> None:
            block()

        await request(control.measured(alone))
        await asyncio.sleep(0.005)

    stall = told(kind, main()).stalls[0]
    assert (stall.waited, stall.waiting) == (0, 0)


# ---- names of routes -----------------------------------------------------------


def test_templates_of_all_kinds_of_routes(kind: str) -> None:
    async def main() -> None:
        app = fastapi()
        router = APIRouter(prefix="/x")
        deeper = APIRouter()

        async def plain(_: Any) -> Response:
            return PlainTextResponse("ok")

        @router.get("/{z}")
        @deeper.get("/deep/{z}")
        async def handler(z: str) -> str:
            return z

        @app.post("/reports/{id}")
        async def report(id: int) -> int:  # noqa: A002
            return id

        router.include_router(deeper, prefix="/more")
        app.include_router(router, prefix="/api/v1/{tenant}")
        app.mount("/static", PlainTextResponse("file"))
        app.mount("/sub/{region}", Starlette(routes=[Route("/r/{name}", plain)]))
        for method, path, code in (
            ("GET", "/api/v1/acme/x/5", 200),
            ("GET", "/api/v1/acme/x/more/deep/5", 200),
            ("POST", "/reports/4", 200),
            ("POST", "/reports/four", 422),
            ("GET", "/reports/4", 405),
            ("GET", "/static/some/file.css", 200),
            ("GET", "/sub/eu/r/n", 200),
            ("GET", "/sub/eu/none", 404),
            ("GET", "/none", 404),
            ("GET", "/openapi.json", 200),
            ("BREW", "/reports/4", 405),
        ):
            assert status_of(await request(app, path, method)) == code, path

    seen = told(kind, main())
    rows = {r.label: r.requests for r in seen.endpoints if r.requests}
    assert rows == {
        "GET /api/v1/{tenant}/x/{z}": 1,
        "GET /api/v1/{tenant}/x/more/deep/{z}": 1,
        "POST /reports/{id}": 2,
        "GET /reports/{id}": 1,
        "GET /static": 1,
        "GET /sub/{region}/r/{name}": 1,
        "GET (unmatched)": 2,
        "GET /openapi.json": 1,
        "OTHER /reports/{id}": 1,
    }
    assert seen.endpoint("POST /reports/{id}").status == {2: 1, 3: 0, 4: 1, 5: 0}


def test_a_thousand_paths_that_no_route_has_make_one_row() -> None:
    async def main() -> None:
        app = fastapi()
        for i in range(1000):
            await request(app, f"/probe/{i}.php")

    seen = told("asyncio", main())
    assert seen.endpoint("GET (unmatched)").requests == 1000
    assert len(seen.endpoints) < 8
    assert seen.counters["endpoint_overflow"] == 0


def test_full_table_counts_the_rest_under_other() -> None:
    async def main() -> None:
        async def handler(_: Any) -> Response:
            return PlainTextResponse("ok")

        routes = [Route(f"/r{i}", handler) for i in range(40)]
        app = loopguard.install(Starlette(routes=routes))
        for _ in range(2):
            for i in range(40):
                await request(app, f"/r{i}")

    seen = told("asyncio", main(), max_endpoints=16)
    assert len(seen.endpoints) == 16
    named = [r for r in seen.endpoints if r.name.startswith("/r")]
    assert all(r.requests == 2 for r in named)
    assert seen.endpoint("(other)").requests == 80 - 2 * len(named)
    assert seen.endpoint("(other)").in_flight == 0
    assert seen.counters["endpoint_overflow"] > 0


def test_route_namer_that_fails_is_switched_off_and_not_noticed() -> None:
    async def main() -> None:
        def namer(route: Any, scope: Any, prefix: str) -> str:
            raise ZeroDivisionError

        async def handler(_: Any) -> Response:
            return PlainTextResponse("ok")

        _agent.set_route_namer(namer)
        app = loopguard.install(Starlette(routes=[Route("/x", handler)]))
        assert status_of(await request(app, "/x")) == 200

    seen = told("asyncio", main())
    assert seen.features["routes"] == (False, "the route namer failed")
    assert sum(r.requests for r in seen.endpoints) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_goes_on_out_of_the_route_namer(error: Any) -> None:
    """A signal handler may raise in any Python code, so also in ours."""

    async def main() -> None:
        def namer(route: Any, scope: Any, prefix: str) -> str:
            if not raised:
                raised.append(True)
                raise error("from a signal")
            return "/x"

        async def handler(_: Any) -> Response:
            return PlainTextResponse("ok")

        _agent.set_route_namer(namer)
        app = loopguard.install(Starlette(routes=[Route("/x", handler)]))
        with pytest.raises(error, match="from a signal"):
            await request(app, "/x")

    raised: list[bool] = []
    told("asyncio", main())


# ---- outcomes ------------------------------------------------------------------


async def outcome_of(handler: Callable[..., Awaitable[None]], **more: Any) -> None:
    with contextlib.suppress(asyncio.TimeoutError, ValueError):
        await asyncio.wait_for(request(control.measured(handler), **more), 0.02)


@pytest.mark.parametrize(
    ("name", "flags", "status"),
    [
        ("answers", 0, 204),
        ("raises", EXCEPTION | NO_RESPONSE, 0),
        ("raises late", EXCEPTION, 200),
        ("hangs", CANCELLED | NO_RESPONSE, 0),
        ("silent", NO_RESPONSE, 0),
    ],
)
def test_outcome_of_a_request_is_counted(kind: str, name: str, flags: int, status: int) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        if name in ("raises late", "answers"):
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body"})
        if name.startswith("raises"):
            raise ValueError
        if name == "hangs":
            await asyncio.sleep(30)

    seen = told(kind, outcome_of(handler))
    row = seen.endpoint("GET (unknown)")
    found = seen.requests[0]
    assert (found.flags, found.status) == (flags, status)
    assert row.requests == 1
    assert row.in_flight == 0
    assert row.exceptions == bool(flags & EXCEPTION)
    assert row.cancelled == bool(flags & CANCELLED)
    assert seen.loops[0].open_requests == 0


def test_long_stream_is_open_until_its_client_leaves(kind: str) -> None:
    async def main() -> None:
        async def events() -> Any:
            while True:
                yield b"data: x\n\n"
                await asyncio.sleep(0.001)

        async def handler(_: Any) -> Response:
            return StreamingResponse(events(), media_type="text/event-stream")

        app = loopguard.install(Starlette(routes=[Route("/events", handler)]))
        left = asyncio.Event()
        sent = []

        async def receive() -> Any:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 20:
                row, loop = segment().endpoint("GET /events"), segment().loops[0]
                during.append((row.in_flight, row.requests, loop.open_requests))
                left.set()
            if len(sent) > 25:
                raise OSError("client left")

        # a group of one, or the OSError itself, as the version of Starlette has it
        with contextlib.suppress(Exception):
            await app(scope("/events"), receive, send)

    during: list[Any] = []

    seen = told(kind, main())
    assert during == [(1, 0, 1)]
    row = seen.endpoint("GET /events")
    assert (row.in_flight, row.requests, row.blocks) == (0, 1, 0)


# ---- thresholds and cumulative windows -------------------------------------------


def test_threshold_of_an_endpoint_wins(kind: str) -> None:
    async def main() -> None:
        async def handler(_: Any) -> Response:
            time.sleep(0.03)
            return PlainTextResponse("ok")

        async def slow(_: Any) -> Response:
            block()
            return PlainTextResponse("ok")

        app = loopguard.install(
            Starlette(routes=[Route("/quick/{x}", handler), Route("/slow", slow)])
        )
        await request(app, "/quick/1")
        await request(app, "/slow")

    seen = told(kind, main(), endpoint_thresholds={"GET /quick/{x}": 10, "GET /slow": 500})
    assert [s.endpoint for s in seen.stalls if s.kind == "step"] == ["GET /quick/{x}"]
    assert seen.endpoint("GET /quick/{x}").threshold_ms == 10
    assert seen.endpoint("GET /slow").threshold_ms == 500
    assert seen.stalls[0].threshold_ms == 10


def test_threshold_of_the_configuration_is_in_force(kind: str) -> None:
    async def main() -> None:
        async def handler(scope: Any, receive: Any, send: Any) -> None:
            time.sleep(0.02)

        await request(control.measured(handler))

    assert told(kind, main(), fallback_threshold_ms=200).stalls == []
    seen = told(kind, main(), fallback_threshold_ms=10)
    assert len(seen.stalls) == 1
    assert seen.loops[0].threshold_ms == 10


@pytest.mark.parametrize(("n", "ms", "pause_ms"), [(20, 15, 5), (60, 8, 4), (50, 6, 0)])
def test_thousand_cuts_of_one_request_are_summed(
    kind: str, n: int, ms: float, pause_ms: float
) -> None:
    async def main() -> None:
        async def cuts(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(n):
                before = time.perf_counter()
                time.sleep(ms / 1e3)
                took.append((time.perf_counter() - before) * 1e3)
                await asyncio.sleep(pause_ms / 1e3)

        await request(control.measured(cuts))

    took: list[float] = []
    seen = told(kind, main(), fallback_threshold_ms=100, iteration_threshold_ms=1000)
    events = [s for s in seen.stalls if s.kind == "cumulative"]
    assert events, "nothing was told"
    assert {e.endpoint for e in events} == {"GET (unknown)"}
    assert {e.request_id for e in events} == {seen.requests[0].request_id}
    assert all(e.threshold_ms == 200 for e in events)
    assert all(e.duration_ms > 200 for e in events)
    # one event a window, and no time in two of them
    assert len(events) == seen.endpoint("GET (unknown)").cumulative
    total = sum(e.duration_ms for e in events)
    assert total <= sum(took) + n * 1.0
    assert sum(e.steps for e in events) <= n
    wall = sum(took) + n * pause_ms
    if wall < 1000:
        assert len(events) == 1
        assert total == pytest.approx(sum(took), abs=n * 1.0)
        assert events[0].steps == n
    assert max(events[0].parts, key=lambda c: events[0].parts[c]) == "io"


def test_cuts_below_the_limit_are_no_event(kind: str) -> None:
    async def main() -> None:
        async def cuts(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(10):
                time.sleep(0.005)
                await asyncio.sleep(0)

        await request(control.measured(cuts))

    assert told(kind, main(), iteration_threshold_ms=1000).stalls == []


def test_cuts_of_many_requests_are_told_of_their_endpoint(kind: str) -> None:
    async def main() -> None:
        async def cut(scope: Any, receive: Any, send: Any) -> None:
            time.sleep(0.005)

        app = control.measured(cut)
        for _ in range(60):
            await request(app)
            await asyncio.sleep(0)

    seen = told(kind, main(), iteration_threshold_ms=1000)
    events = [s for s in seen.stalls if s.kind == "cumulative"]
    assert len(events) == 1
    assert events[0].request_id == 0
    assert events[0].endpoint == "GET (unknown)"
    assert events[0].duration_ms > 200


def test_steps_shorter_than_the_minimum_do_not_count(kind: str) -> None:
    async def main() -> None:
        async def cuts(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(80):
                time.sleep(0.004)
                await asyncio.sleep(0)

        await request(control.measured(cuts))

    # generous, because a loaded machine makes a short step long
    assert told(kind, main(), cumulative_min_step_ms=30, iteration_threshold_ms=10_000).stalls == []


# ---- sums ----------------------------------------------------------------------


def test_cpu_is_told_as_cpu(kind: str) -> None:
    async def main() -> None:
        async def handler(scope: Any, receive: Any, send: Any) -> None:
            spin(80)

        await request(control.measured(handler))

    seen = told(kind, main())
    stall = next(s for s in seen.stalls if s.kind == "step")
    assert stall.endpoint == "GET (unknown)"
    assert stall.parts["cpu"] == pytest.approx(80, abs=12)
    assert seen.endpoint("GET (unknown)").cpu_ms == pytest.approx(80, abs=12)


def test_steps_of_nested_tasks_are_counted_once(kind: str) -> None:
    """The time on the loop of all rows together is what was really used."""

    async def main() -> None:
        async def child() -> None:
            time.sleep(0.02)

        async def handler(scope: Any, receive: Any, send: Any) -> None:
            time.sleep(0.02)
            await asyncio.gather(*(asyncio.create_task(child()) for _ in range(3)))

        before = time.perf_counter()
        await request(control.measured(handler))
        wall.append((time.perf_counter() - before) * 1e3)

    wall: list[float] = []
    seen = told(kind, main(), cumulative_blocking_enabled=False)
    row = seen.endpoint("GET (unknown)")
    assert 80 <= row.on_loop_ms <= wall[0]
    assert seen.requests[0].on_loop_ms == pytest.approx(row.on_loop_ms, abs=0.01)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_task_of_another_owner_within_a_step_is_taken_out_of_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            time.sleep(0.06)

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.create_task(request(control.measured(inner), "/in"))
            scope["endpoint"] = outer

        await request(control.measured(outer), "/out", method="POST")

    seen = told("asyncio", main())
    assert seen.endpoint("GET (unknown)").on_loop_ms == pytest.approx(60, abs=15)
    assert seen.endpoint("POST (unmatched)").on_loop_ms < 30
    assert [s.endpoint for s in seen.stalls] == ["GET (unknown)"]


def test_busy_time_of_the_loop_holds_its_steps(kind: str) -> None:
    async def main() -> None:
        async def handler(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(5):
                time.sleep(0.01)
                await asyncio.sleep(0.01)

        before = time.perf_counter()
        await request(control.measured(handler))
        wall.append((time.perf_counter() - before) * 1e3)

    wall: list[float] = []
    seen = told(kind, main())
    loop = seen.loops[0]
    # a busy machine makes all of it longer, but nobody sleeps less
    assert 50 <= loop.busy_ms < wall[0] - 40
    assert loop.iterations >= 5
    assert 10 <= loop.max_lag_ms <= loop.busy_ms - 40


def test_block_is_seen_while_it_lasts(kind: str) -> None:
    """By another thread, as the viewer would: name, call, stack, who waits."""

    async def main() -> None:
        async def other(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.001)

        async def handler(_: Any) -> Response:
            time.sleep(0.4)
            return PlainTextResponse("ok")

        app = loopguard.install(Starlette(routes=[Route("/stuck", handler)]))
        waiting = [asyncio.create_task(request(control.measured(other))) for _ in range(3)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=look)
        thread.start()
        await request(app, "/stuck")
        thread.join()
        await asyncio.gather(*waiting)

    def look() -> None:
        deadline = time.monotonic() + 0.35
        while time.monotonic() < deadline and not live:
            time.sleep(0.01)
            live.extend(s for s in segment().stalls if s.ongoing and s.stack)

    live: list[Stall] = []
    told(kind, main())
    assert live, "nothing was shown while it lasted"
    assert live[0].endpoint == "GET /stuck"
    assert live[0].call == "sleep"
    assert live[0].cause == "io"
    assert where(live[0]) == "handler"
    assert live[0].waiting == 3
    assert 50 < live[0].duration_ms < 400


def test_websocket_routes_of_starlette(kind: str) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.accept()
            await ws.close()

        app = loopguard.install(
            Starlette(
                routes=[Mount("/m/{a}", routes=[WebSocketRoute("/ws/{b}", handler)])],
                middleware=[Middleware(Passes)],
            )
        )
        await websocket(app, "/m/1/ws/2", [])
        await websocket(app, "/nowhere", [])

    seen = told(kind, main())
    assert seen.endpoint("WS /m/{a}/ws/{b}").requests == 1
    assert seen.endpoint("WS (unmatched)").requests == 1


def test_stalls_helper_sees_only_its_kind() -> None:
    async def main() -> None:
        async def handler(scope: Any, receive: Any, send: Any) -> None:
            block()

        await request(control.measured(handler))

    with agent():
        asyncio.run(main())
        assert len(stalls("step")) == 1
        assert stalls("cumulative") == []
