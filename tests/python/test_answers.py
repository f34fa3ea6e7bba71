"""What answers bear: headers, Server-Timing, refusals; and what is never touched."""

from __future__ import annotations

import asyncio
import html.parser
import http.client
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_kit import (
    LOOPS,
    Worker,
    agent,
    body_of,
    request,
    run,
    scope,
    script,
    settled,
    stalls,
    status_of,
    websocket,
)
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route

import loopguard
from loopguard import LoopGuardConfig, LoopGuardMiddleware, answers, control

kinds = pytest.mark.parametrize("kind", LOOPS)

BLOCK_S = 0.07
OURS = [
    b"x-request-id",
    b"x-blocking-count",
    b"x-blocking-total-ms",
    b"x-blocking-detected",
    b"x-loopguard-warning",
    b"x-loopguard-enforcement",
    b"server-timing",
]


@pytest.fixture(autouse=True)
def armed() -> Iterator[None]:
    with agent():
        yield


def wrapped(app: Any, mode: Any = "warn", **options: Any) -> Any:
    return control.measured(app, LoopGuardConfig(enforcement_mode=mode, **options))


def start_of(sent: Any) -> dict[str, Any]:
    (start,) = [m for m in sent if m["type"] == "http.response.start"]
    return start


def ours(sent: Any) -> dict[bytes, bytes]:
    """Our headers of an answer; each at most once."""
    fields = [(k, v) for k, v in start_of(sent)["headers"] if k in OURS]
    assert len(fields) == len(dict(fields)), fields
    return dict(fields)


def is_guilty(sent: Any) -> bool:
    return ours(sent)[b"x-blocking-detected"] == b"true"


async def answer(send: Any, headers: Any = (), status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b"x"})


async def innocent(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, [(b"content-length", b"1")])


async def guilty(scope: Any, receive: Any, send: Any) -> None:
    time.sleep(BLOCK_S)
    await answer(send, [(b"content-length", b"1")])


# ---- mode "warn" -----------------------------------------------------------


@kinds
def test_an_innocent_answer_says_so(kind: str) -> None:
    sent = run(kind, request(wrapped(innocent)))
    headers = start_of(sent)["headers"]
    assert headers[0] == (b"content-length", b"1")
    assert re.fullmatch(rb"[0-9a-f]{8}", dict(headers)[b"x-request-id"])
    assert headers[2:] == [
        (b"x-blocking-count", b"0"),
        (b"x-blocking-total-ms", b"0.00"),
        (b"x-blocking-detected", b"false"),
    ]
    assert body_of(sent) == b"x"


@kinds
def test_a_handler_that_blocks_and_answers_without_awaiting_is_told(kind: str) -> None:
    sent = run(kind, request(wrapped(guilty)))
    told = ours(sent)
    assert told[b"x-blocking-count"] == b"1"
    assert told[b"x-blocking-detected"] == b"true"
    assert told[b"x-loopguard-warning"] == b"blocking-detected"
    assert re.fullmatch(rb"\d+\.\d\d", told[b"x-blocking-total-ms"])
    assert BLOCK_S * 1e3 - 1 <= float(told[b"x-blocking-total-ms"]) < 1000
    assert status_of(sent) == 200
    assert int(told[b"x-request-id"], 16) in [s.request_id for s in stalls()]


@kinds
def test_blocks_before_an_await_add_up(kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            time.sleep(BLOCK_S)
            await asyncio.sleep(0)
        await guilty(scope, receive, send)

    told = ours(run(kind, request(wrapped(app))))
    assert told[b"x-blocking-count"] == b"3"
    assert float(told[b"x-blocking-total-ms"]) >= 3 * BLOCK_S * 1e3 - 1


def test_a_step_below_its_endpoints_own_threshold_is_innocent() -> None:
    loopguard.stop()
    api = FastAPI()

    @api.get("/slow/{n}")
    async def slow(n: int) -> None:
        time.sleep(BLOCK_S)

    @api.get("/quick")
    async def quick() -> None:
        time.sleep(0.03)

    with agent(endpoint_thresholds={"GET /slow/{n}": 500.0, "GET /quick": 20.0}):
        app = wrapped(api)
        assert not is_guilty(run("asyncio", request(app, "/slow/1")))
        assert is_guilty(run("asyncio", request(app, "/quick")))


@kinds
def test_a_block_in_a_dependency_a_child_task_or_under_a_middleware_is_its_requests(
    kind: str,
) -> None:
    api = FastAPI()

    async def dependency() -> None:
        time.sleep(BLOCK_S)

    async def child() -> None:
        time.sleep(BLOCK_S)

    @api.get("/dependency", dependencies=[Depends(dependency)])
    async def with_dependency() -> None: ...

    @api.get("/child")
    async def with_child() -> None:
        await asyncio.gather(child(), asyncio.sleep(0.001))

    @api.get("/none")
    async def none() -> None: ...

    async def passes(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    api.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    api.add_middleware(LoopGuardMiddleware)

    async def main() -> None:
        assert is_guilty(await request(api, "/dependency"))
        assert is_guilty(await request(api, "/child"))
        assert not is_guilty(await request(api, "/none"))

    run(kind, main())


@kinds
def test_one_guilty_request_among_twenty_innocents_is_the_only_one_told(kind: str) -> None:
    api = FastAPI()

    @api.get("/innocent/{n}")
    async def waits(n: int) -> int:
        for _ in range(6):
            await asyncio.sleep(0.01)
        return n

    @api.get("/sync/{n}")
    def sync(n: int) -> int:
        time.sleep(0.02)
        return n

    @api.get("/guilty")
    async def blocks() -> None:
        await asyncio.sleep(0.015)
        time.sleep(0.15)

    api.add_middleware(LoopGuardMiddleware)

    async def main() -> list[Any]:
        # builds the stack, and the pool's threads: the loop waits until one has started
        await asyncio.gather(*(request(api, f"/sync/{n}") for n in range(5)))
        paths = [f"/innocent/{n}" for n in range(15)] + [f"/sync/{n}" for n in range(5)]
        return await asyncio.gather(*(request(api, p) for p in ["/guilty", *paths]))

    blamed, *others = run(kind, main())
    assert is_guilty(blamed)
    assert float(ours(blamed)[b"x-blocking-total-ms"]) >= 149
    assert [is_guilty(sent) for sent in others] == [False] * 20
    assert len({ours(sent)[b"x-request-id"] for sent in (blamed, *others)}) == 21


def test_the_id_is_in_the_requests_state_for_the_application() -> None:
    seen = []

    async def handler(request: Request) -> Response:
        seen.append(request.state.loopguard_request_id)
        return Response()

    app = wrapped(Starlette(routes=[Mount("/m", routes=[Route("/x", handler)])]))
    bare = {k: v for k, v in scope("/m/x").items() if k != "state"}

    async def main() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await app(bare, None, send)
        return [sent, await request(app, "/m/x")]

    told = [ours(sent)[b"x-request-id"].decode() for sent in run("asyncio", main())]
    assert seen == told
    assert run("asyncio", request(wrapped(innocent), state=5))  # an odd state is left alone


@pytest.mark.parametrize("mode", ["log", "warn", "strict"])
def test_the_middleware_leaves_the_id_in_every_mode_and_on_every_path(mode: Any) -> None:
    api = FastAPI()
    config = LoopGuardConfig(enforcement_mode=mode)
    api.add_middleware(LoopGuardMiddleware, config=config)
    loopguard.install(api)

    @api.get("/x")
    @api.get("/health")
    async def x(request: Request) -> str:
        return str(request.state.loopguard_request_id)

    for path in ("/x", "/health"):
        body = body_of(run("asyncio", request(api, path)))
        assert re.fullmatch(rb'"[0-9a-f]{8}"', body)


# ---- what is the application's stays its own -------------------------------


def test_messages_and_header_lists_of_the_application_are_not_changed() -> None:
    headers = [(b"a", b"1")]
    start = {"type": "http.response.start", "status": 201, "headers": headers, "trailers": True}
    end = {"type": "http.response.body", "body": b"x", "extra": 1}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send(end)

    for mode in ("warn", "strict", "warn"):
        first, second = run("asyncio", request(wrapped(app, mode)))
        assert first is not start
        assert first["headers"] is not headers
        assert first["trailers"] is True
        assert first["status"] == 201
        assert second is end
    assert headers == [(b"a", b"1")]
    assert start == {
        "type": "http.response.start",
        "status": 201,
        "headers": headers,
        "trailers": True,
    }


@pytest.mark.parametrize("mode", ["log", None])
def test_in_mode_log_the_very_same_messages_leave(mode: str | None) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": iter([])}
    end = {"type": "http.response.body"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "loopguard_request_id" not in scope["state"]
        time.sleep(BLOCK_S)
        await send(start)
        await send(end)

    target = control.measured(app) if mode is None else wrapped(app, mode)
    first, second = run("asyncio", request(target))
    assert first is start
    assert second is end
    assert [s.endpoint for s in stalls() if s.request_id] == ["GET (unknown)"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"1"), (b"b", b"2")],
        ((b"a", b"1"), (b"b", b"2")),
        [[b"a", b"1"], [b"b", b"2"]],
        {b"a": b"1", b"b": b"2"}.items(),
    ],
)
def test_headers_may_be_any_collection_of_pairs(headers: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    all_headers = start_of(run("asyncio", request(wrapped(app))))["headers"]
    assert [tuple(pair) for pair in all_headers[:2]] == [(b"a", b"1"), (b"b", b"2")]
    assert len(all_headers) == 6


def test_headers_may_come_from_a_generator_or_not_at_all() -> None:
    async def generated(scope: Any, receive: Any, send: Any) -> None:
        pairs = ((k, b"1") for k in (b"a", b"b"))
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body"})

    async def none(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    assert start_of(run("asyncio", request(wrapped(generated))))["headers"][:2] == [
        (b"a", b"1"),
        (b"b", b"1"),
    ]
    assert len(start_of(run("asyncio", request(wrapped(none))))["headers"]) == 4


def test_headers_that_raise_raise_where_the_application_sends_them() -> None:
    def pairs() -> Iterator[Any]:
        yield b"a", b"1"
        raise LookupError("mine")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(LookupError, match="mine"):
            await send({"type": "http.response.start", "status": 200, "headers": pairs()})
        await answer(send)

    assert status_of(run("asyncio", request(wrapped(app)))) == 200


@pytest.mark.parametrize("name", [b"x-request-id", b"X-Request-ID"])
def test_an_id_of_the_applications_own_stays_and_is_not_doubled(name: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, [(name, b"mine"), (b"x-request-idx", b"no")])

    headers = start_of(run("asyncio", request(wrapped(app))))["headers"]
    assert [v for k, v in headers if k.lower() == b"x-request-id"] == [b"mine"]
    assert len(headers) == 5


def test_an_odd_message_is_left_to_the_server() -> None:
    odd: list[Any] = [{}, {"type": 7}, {"type": "http.response.started"}, 5, None, "x"]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in odd:
            await send(message)

    sent = run("asyncio", request(wrapped(app, "strict", server_timing=True)))
    assert all(a is b for a, b in zip(sent, odd))


@kinds
def test_streams_files_redirects_and_head_keep_status_and_body(kind: str, tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("file")
    loopguard.stop()
    # where a thread is started the loop waits for it, long on a busy machine
    agent_options = {"endpoint_thresholds": dict.fromkeys(("GET /file", "HEAD /file"), 5000.0)}
    api = FastAPI()

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            for n in range(3):
                await asyncio.sleep(0.001)
                time.sleep(BLOCK_S if n == 1 else 0)
                yield b"%d" % n

        return StreamingResponse(parts())

    @api.api_route("/file", methods=["GET", "HEAD"])
    async def file() -> FileResponse:
        return FileResponse(tmp_path / "f.txt")

    @api.get("/old")
    async def old() -> RedirectResponse:
        return RedirectResponse("/file")

    async def main(app: Any) -> list[Any]:
        cases = [("/stream", "GET"), ("/file", "GET"), ("/file", "HEAD"), ("/old", "GET")]
        return [await request(app, path, method) for path, method in cases]

    bare = run(kind, main(api))
    with agent(**agent_options):
        got = [run(kind, main(wrapped(api, mode))) for mode in ("warn", "strict")]
    for without, sent in zip(bare * 2, got[0] + got[1]):
        assert status_of(sent) == status_of(without)
        assert body_of(sent) == body_of(without)
        assert not is_guilty(sent)  # the stream blocks when its headers have left
        assert len(start_of(sent)["headers"]) == len(start_of(without)["headers"]) + 4


def test_websockets_and_lifespan_pass_as_they_are() -> None:
    api = FastAPI()

    @api.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        time.sleep(BLOCK_S)
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    def lifespan(app: Any) -> Any:
        inbox = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[Any] = []

        async def receive() -> Any:
            return inbox.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        async def main() -> Any:
            await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
            return sent

        return run("asyncio", main())

    app = wrapped(api, "strict", server_timing=True)
    assert run("asyncio", websocket(app, "/ws", ["a"])) == run(
        "asyncio", websocket(api, "/ws", ["a"])
    )
    assert lifespan(app) == lifespan(api)


@pytest.mark.parametrize("mode", ["warn", "strict"])
@pytest.mark.parametrize("outermost", [True, False])
def test_an_exception_and_its_500_stay_what_they_are(mode: Any, outermost: bool) -> None:
    class MineError(Exception):
        pass

    async def fails(request: Request) -> Response:
        time.sleep(BLOCK_S)
        raise MineError

    bare = Starlette(routes=[Route("/x", fails)])
    app = Starlette(routes=[Route("/x", fails)])
    config = LoopGuardConfig(enforcement_mode=mode)
    if not outermost:
        app.add_middleware(LoopGuardMiddleware, config=config)
    target = control.measured(app, config) if outermost else app

    async def main(target: Any) -> tuple[list[Any], int]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        depth = 0
        with pytest.raises(MineError) as caught:
            await target(scope("/x"), None, send)
        trace = caught.value.__traceback__
        while trace is not None:
            depth += "loopguard" not in trace.tb_frame.f_code.co_filename
            trace = trace.tb_next
        assert caught.value.__context__ is None
        return sent, depth

    sent, depth = run("asyncio", main(target))
    plain, plain_depth = run("asyncio", main(bare))
    assert status_of(sent) == 500
    assert body_of(sent) == body_of(plain)
    assert depth == plain_depth
    # Starlette makes its 500 outside of all added middleware
    assert (b"x-loopguard-warning" in ours(sent)) is outermost


# ---- dev_mode, Server-Timing, excluded paths -------------------------------


def test_dev_mode_adds_headers_in_mode_log_and_refuses_nobody() -> None:
    sent = run("asyncio", request(wrapped(guilty, "log", dev_mode=True)))
    assert status_of(sent) == 200
    assert is_guilty(sent)
    assert b"x-loopguard-warning" not in ours(sent)
    assert not is_guilty(run("asyncio", request(wrapped(innocent, "log", dev_mode=True))))


def test_dev_mode_does_not_soften_strict() -> None:
    assert status_of(run("asyncio", request(wrapped(guilty, "strict", dev_mode=True)))) == 503


@pytest.mark.parametrize("mode", ["log", "warn", "strict"])
def test_server_timing_tells_time_on_the_loop_and_in_all(mode: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        time.sleep(0.02)
        await asyncio.sleep(0.05)
        time.sleep(0.01)
        await answer(send, [(b"server-timing", b"db;dur=5")])

    headers = start_of(run("asyncio", request(wrapped(app, mode, server_timing=True))))["headers"]
    values = [v.decode() for k, v in headers if k == b"server-timing"]
    assert values[0] == "db;dur=5"
    blamed = ours(run("asyncio", request(wrapped(guilty, mode, server_timing=True))))
    assert float(blamed[b"server-timing"].split(b"=")[-1]) >= BLOCK_S * 1e3 - 1
    (ms,) = re.findall(r"^loop;dur=(\d+\.\d{3}), total;dur=(\d+\.\d{3})$", values[1])
    loop_ms, total_ms = map(float, ms)
    assert loop_ms >= 30
    assert total_ms >= loop_ms + 49
    assert len(values) == 2


@pytest.mark.parametrize(
    ("path", "root_path", "excluded"),
    [
        ("/health", "", True),
        ("/health/", "", False),
        ("/healthy", "", False),
        ("/static", "", False),
        ("/static/", "", True),
        ("/static/a/b.css", "", True),
        ("/v1/health", "/v1", True),
        ("/health", "/v1", True),  # a server that leaves root_path out
        ("/v1/static/x", "/v1", True),
        ("/v1health", "/v1", False),
        ("/v1", "/v1", False),
        ("/ä", "", True),
        ("/ü", "", False),
        ("/日本/x", "", True),
        ("/日", "", False),
        ("/" + "l" * 80, "", True),
        ("/" + "l" * 81, "", False),
        ("", "", False),
    ],
)
def test_excluded_paths_are_left_alone(path: str, root_path: str, excluded: bool) -> None:
    paths = ["/health", "/static/*", "/ä", "/日本/*", "/" + "l" * 80]
    app = wrapped(guilty, "strict", server_timing=True, exclude_paths=paths)
    sent = run("asyncio", request(app, path, root_path=root_path))
    assert status_of(sent) == (200 if excluded else 503)
    assert (ours(sent) == {}) is excluded


def test_excluded_paths_are_measured_all_the_same() -> None:
    api = FastAPI()

    @api.get("/health")
    async def health() -> None:
        time.sleep(BLOCK_S)

    assert ours(run("asyncio", request(wrapped(api, "strict"), "/health"))) == {}
    assert settled().endpoint("GET /health").blocks == 1


def test_a_lone_star_excludes_everything() -> None:
    assert ours(run("asyncio", request(wrapped(innocent, exclude_paths=["*"]), "/any"))) == {}


# ---- mode "strict" ---------------------------------------------------------


@kinds
def test_strict_answers_503_as_json_for_the_guilty_only(kind: str) -> None:
    api = FastAPI()
    done = []

    @api.post("/guilty/{n}", status_code=201)
    async def blocks(n: int, after: BackgroundTasks) -> dict[str, str]:
        after.add_task(done.append, "background")
        time.sleep(BLOCK_S)
        done.append("handler")
        return {"secret": "answer"}

    @api.get("/innocent")
    async def waits() -> str:
        await asyncio.sleep(0.05)
        return "fine"

    async def main() -> list[Any]:
        app = wrapped(api, "strict")
        return await asyncio.gather(
            *(request(app, "/innocent") for _ in range(5)), request(app, "/guilty/3", "POST")
        )

    *others, sent = run(kind, main())
    assert [status_of(s) for s in others] == [200] * 5
    assert [body_of(s) for s in others] == [b'"fine"'] * 5
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    headers = dict(start_of(sent)["headers"])
    body = json.loads(body_of(sent))
    assert status_of(sent) == 503
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == b"%d" % len(body_of(sent))
    assert headers[b"x-loopguard-enforcement"] == b"strict"
    assert headers[b"x-blocking-count"] == b"1"
    assert set(body) == {"error", "message", "request", "blocking", "help"}
    assert body["error"] == "event_loop_blocked"
    assert body["request"] == {
        "id": headers[b"x-request-id"].decode(),
        "method": "POST",
        "path": "/guilty/3",
    }
    assert body["blocking"]["count"] == 1
    assert f"{body['blocking']['total_ms']:.2f}".encode() == headers[b"x-blocking-total-ms"]
    assert body["blocking"]["total_ms"] >= BLOCK_S * 1e3 - 1
    assert body["help"]["common_causes"] == loopguard.hint_lines()
    assert done == ["handler", "background"]  # it was not disturbed
    seen = settled()
    assert seen.endpoint("POST /guilty/{n}").status[5] == 1
    assert seen.endpoint("GET /innocent").status[2] == 5


class Page(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not any(name.startswith("on") for name, _ in attrs)
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_strict_answers_with_a_page_where_the_client_takes_html() -> None:
    attack = "/<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\udcff"
    method = "G<b>"
    accept = [(b"accept", b"application/xhtml+xml,Text/HTML;q=0.9,*/*;q=0.8")]
    sent = run("asyncio", request(wrapped(guilty, "strict"), attack, method, headers=accept))
    headers = dict(start_of(sent)["headers"])
    assert status_of(sent) == 503
    assert headers[b"content-type"] == b"text/html; charset=utf-8"
    assert headers[b"content-length"] == b"%d" % len(body_of(sent))
    page = Page(body_of(sent).decode())
    assert set(page.tags).isdisjoint({"script", "img", "b"})
    assert f"{method} {attack[:-1]}" in page.text
    assert headers[b"x-request-id"].decode() in page.text


def test_an_attack_in_the_path_stays_text_in_json() -> None:
    attack = '/"},<script>\n\x00\udcff'
    sent = run("asyncio", request(wrapped(guilty, "strict"), attack))
    assert json.loads(body_of(sent))["request"]["path"] == attack


@pytest.mark.parametrize("accept", [b"text/html", b"application/json"])
def test_a_refused_head_request_gets_no_body(accept: bytes) -> None:
    app = wrapped(guilty, "strict")
    get, head = (
        run("asyncio", request(app, "/x", method, headers=[(b"accept", accept)]))
        for method in ("GET", "HEAD")
    )
    assert status_of(head) == 503
    assert body_of(head) == b""
    length = int(dict(start_of(head)["headers"])[b"content-length"])
    assert abs(length - len(body_of(get))) < 8  # "HEAD" for "GET", and other digits


def test_all_that_follows_a_refused_start_is_dropped() -> None:
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
    debug = {"type": "http.response.debug", "info": {}}
    other = {"type": "custom.message"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(hint)
        await send(debug)
        time.sleep(BLOCK_S)
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"b"})
        await send({"type": "http.response.pathsend", "path": "/etc/hostname"})
        await send({"type": "http.response.trailers", "headers": []})
        await send(other)

    sent = run("asyncio", request(wrapped(app, "strict")))
    assert sent[0] is hint
    assert sent[1] is debug
    assert status_of(sent) == 503
    assert sent[3]["type"] == "http.response.body"
    assert sent[4:] == [other]


def test_pathsend_and_trailers_of_an_answer_that_goes_out_pass() -> None:
    rest = [
        {"type": "http.response.pathsend", "path": "/etc/hostname"},
        {"type": "http.response.trailers", "headers": [(b"a", b"b")]},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        for message in rest:
            await send(message)

    for mode in ("warn", "strict"):
        sent = run("asyncio", request(wrapped(app, mode)))
        assert all(a is b for a, b in zip(sent[1:], rest))
        assert sent[0]["trailers"] is True


def test_a_page_that_cannot_be_made_lets_the_answer_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(answers, "_json", broken)
    sent = run("asyncio", request(wrapped(guilty, "strict")))
    assert status_of(sent) == 200
    assert ours(sent)[b"x-loopguard-warning"] == b"blocking-detected"
    assert body_of(sent) == b"x"


def test_a_client_that_left_is_the_applications_to_notice_in_strict_too() -> None:
    async def main() -> None:
        async def send(message: Any) -> None:
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            await wrapped(guilty, "strict")(scope(), None, send)

    run("asyncio", main())


# ---- several wrappers ------------------------------------------------------


def test_two_applications_of_one_process_have_modes_of_their_own() -> None:
    one, two, three = FastAPI(), FastAPI(), FastAPI()
    for api in (one, two, three):

        @api.get("/x")
        async def blocks() -> None:
            time.sleep(BLOCK_S)

    one.add_middleware(LoopGuardMiddleware)
    two.add_middleware(LoopGuardMiddleware, config=LoopGuardConfig(enforcement_mode="strict"))
    loopguard.install(three)
    sent = [run("asyncio", request(api, "/x")) for api in (one, two, three)]
    assert [status_of(s) for s in sent] == [200, 503, 200]
    assert is_guilty(sent[0])
    assert ours(sent[2]) == {}


@pytest.mark.parametrize("outer", ["log", "warn", "strict"])
@pytest.mark.parametrize("inner", ["log", "warn", "strict"])
@pytest.mark.parametrize("app", [innocent, guilty])
def test_wrappers_within_each_other_measure_once_and_write_once(
    outer: Any, inner: Any, app: Any
) -> None:
    async def copies(scope: Any, receive: Any, send: Any) -> None:
        await wrapped(app, inner)(dict(scope), receive, send)

    sent = run("asyncio", request(wrapped(copies, outer)))
    refused = "strict" in (outer, inner) and app is guilty
    assert status_of(sent) == (503 if refused else 200)
    assert bool(ours(sent)) is ((outer, inner) != ("log", "log"))
    assert body_of(sent) == b"x" or refused
    seen = settled()
    assert sum(e.requests for e in seen.endpoints) == 1
    assert sum(e.blocks for e in seen.endpoints if e.kind == "request") == (app is guilty)
    assert sum(e.status[5] for e in seen.endpoints) == refused


def test_install_and_middleware_on_one_application_write_once() -> None:
    api = FastAPI()
    api.add_middleware(LoopGuardMiddleware)
    loopguard.install(api, enforcement_mode="warn", server_timing=True)
    api.add_middleware(LoopGuardMiddleware)

    @api.get("/x")
    async def x(request: Request) -> str:
        return str(request.state.loopguard_request_id)

    sent = run("asyncio", request(api, "/x"))
    assert set(ours(sent)) == {*OURS[:4], b"server-timing"}
    assert body_of(sent) == b'"%s"' % ours(sent)[b"x-request-id"]
    assert settled().endpoint("GET /x").requests == 1


@pytest.mark.parametrize("outer", ["log", "warn", "strict"])
def test_a_middleware_that_replaces_the_headers_makes_no_second_request(outer: Any) -> None:
    async def replaces(scope: Any, receive: Any, send: Any) -> None:
        headers = [*scope["headers"], (b"x-seen", b"1")]
        await wrapped(innocent, "warn")({**scope, "headers": headers}, receive, send)

    sent = run("asyncio", request(wrapped(replaces, outer)))
    assert not is_guilty(sent)
    assert sum(e.requests for e in settled().endpoints) == 1


@pytest.mark.parametrize("mode", ["warn", "strict"])
def test_the_environment_may_ask_install_for_another_mode(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = loopguard.install(guilty)
    monkeypatch.setenv("LOOPGUARD_ENFORCEMENT_MODE", mode)
    by_environment = loopguard.install(guilty)
    by_argument = loopguard.install(guilty, enforcement_mode="log")
    codes = [
        (status_of(sent), bool(ours(sent)))
        for sent in (run("asyncio", request(a)) for a in (quiet, by_environment, by_argument))
    ]
    assert codes == [(200, False), (503 if mode == "strict" else 200, True), (200, False)]


def test_wrapping_a_wrapped_application_again_makes_no_second_layer_without_need() -> None:
    app = wrapped(innocent)
    assert control.measured(app) is app
    assert wrapped(app, "log") is app
    assert wrapped(app, "warn") is not app


def test_an_application_stopped_in_mid_answer_goes_on_bare() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        loopguard.stop()
        await guilty(scope, receive, send)

    sent = run("asyncio", request(wrapped(app, "strict")))
    assert status_of(sent) == 200
    assert ours(sent) == {}


# ---- real servers ----------------------------------------------------------

SERVED = """
    import time
    from fastapi import FastAPI
    from loopguard import LoopGuardConfig, LoopGuardMiddleware

    app = FastAPI()
    app.add_middleware(
        LoopGuardMiddleware, config=LoopGuardConfig(enforcement_mode="%s", server_timing=True)
    )

    @app.get("/innocent")
    async def innocent():
        return "x" * 100

    @app.api_route("/guilty", methods=["GET", "HEAD"])
    async def guilty():
        time.sleep(0.07)
        return "x" * 100
"""


@kinds
@pytest.mark.parametrize("mode", ["warn", "strict"])
def test_under_uvicorn_headers_and_refusals_arrive_whole(
    kind: str, mode: str, tmp_path: Path
) -> None:
    with Worker(tmp_path, SERVED % mode, loop=kind) as worker:
        worker.get("/innocent")  # a new process may collect for 40 ms in its first request
        connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=20)
        got = []
        for method, path in [("GET", "/innocent"), ("GET", "/guilty"), ("HEAD", "/guilty")] * 2:
            connection.request(method, path)  # one connection: lengths must be right
            reply = connection.getresponse()
            got.append((reply.status, reply.headers, reply.read()))
        connection.close()
        requests = worker.settled().endpoints
    expected = 503 if mode == "strict" else 200
    assert [status for status, _, _ in got] == [200, expected, expected] * 2
    for (_, headers, body), guilty_one in zip(got, [False, True, True] * 2):
        assert headers.get_all("x-blocking-detected") == [str(guilty_one).lower()]
        assert len(headers.get_all("x-request-id") or ()) == 1
        assert not body or len(body) == int(headers["content-length"])
    assert got[0][2] == b'"' + b"x" * 100 + b'"'
    assert got[2][2] == got[5][2] == b""
    assert "server-timing" in got[0][1]
    assert sum(e.requests for e in requests) == 7


# ---- a long life -----------------------------------------------------------


def test_answers_leave_nothing_behind() -> None:
    script(
        """
import asyncio, gc, sys, time
import loopguard
from agent_kit import run, segment
from loopguard import LoopGuardConfig, control

START = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"1")]}
END = {"type": "http.response.body", "body": b"x"}

async def app(scope, receive, send):
    if scope["path"] == "/guilty":
        time.sleep(0.0015)
    await send(START)
    loopguard.current_request()
    loopguard.get_active_requests()
    await send(END)

async def receive():
    return {"type": "http.request"}

async def send(message):
    return None

def config(mode):
    return LoopGuardConfig(
        enforcement_mode=mode, server_timing=True, exclude_paths=["/no", "/none/*"],
        request_filter=lambda scope: scope["path"] != "/bare", switch_header="x-off",
        fallback_threshold_ms=1.0, monitor_interval_ms=0.5,
    )

def rss_kib():
    gc.collect()
    with open("/proc/self/status") as status:
        return int(dict(line.split(":", 1) for line in status)["VmRSS"].split()[0])

def counts():
    gc.collect()
    objects = [START, END, START["headers"], app, send, *START["headers"][0]]
    return [sys.getrefcount(o) for o in objects], len(gc.get_objects())

async def many(apps, n):
    for target in apps:
        for path in ("/", "/no", "/none/x", "/bare"):
            for _ in range(n):
                await target({"type": "http", "method": "GET", "path": path, "headers": []},
                             receive, send)
        for _ in range(20):
            scope = {"type": "http", "method": "GET", "path": "/guilty", "headers": []}
            await target(scope, receive, send)
        never = target({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
        never.close()

async def main():
    apps = [control.measured(app, config(mode)) for mode in ("warn", "strict")]
    apps.append(control.measured(control.measured(app, config("strict")), config("warn")))
    await many(apps, 4000)
    before, memory = counts(), rss_kib()
    await many(apps, 8000)
    after, grown = counts(), rss_kib() - memory
    assert max(abs(a - b) for a, b in zip(after[0], before[0])) < 5, (before, after)
    assert abs(after[1] - before[1]) < 200, (before, after)
    assert grown < 1024, f"{grown} KiB"
    assert loopguard.get_active_requests() == ()

control.start(config("warn"))
run("asyncio", main())
loopguard.stop()
"""
    )


def test_rules_let_go_of_what_they_hold() -> None:
    script(
        """
import asyncio, gc, weakref
import loopguard
from agent_kit import request
from loopguard import LoopGuardConfig, control

class Application:
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    def wanted(self, scope):
        return True

control.start(LoopGuardConfig())
app = Application()
config = LoopGuardConfig(request_filter=app.wanted)
app.wrapper = control.measured(app, config)         # a cycle through the rules
asyncio.run(request(app.wrapper))
gone = weakref.ref(app)
del app, config
gc.collect()
assert gone() is None
loopguard.stop()
"""
    )
