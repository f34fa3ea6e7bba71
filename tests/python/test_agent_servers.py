"""Under real servers: uvicorn in its own process, hypercorn on trio."""

from __future__ import annotations

import asyncio
import http.client
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_kit import DEADLINE_S, LOOPS, Worker, environment, segments_of, until
from segment_reader import CANCELLED, Segment

STARLETTE = """
import asyncio, time
import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
import loopguard

class Passes(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)

async def ok(request):
    return PlainTextResponse("ok " + request.path_params.get("x", ""))

async def block(request):
    time.sleep(0.08)
    return PlainTextResponse("blocked")

async def stream(request):
    async def rows():
        for i in range(100):
            yield b"x" * 1000
            await asyncio.sleep(0)
    return StreamingResponse(rows())

async def endless(request):
    async def rows():
        while True:
            yield b"data: tick\\n\\n"
            await asyncio.sleep(0.01)
    return StreamingResponse(rows(), media_type="text/event-stream")

async def raises(request):
    raise ValueError("in the handler")

async def later(request):
    async def work():
        await anyio.sleep(0)
        time.sleep(0.08)
    return PlainTextResponse("sent", background=BackgroundTask(work))

async def echo(ws):
    await ws.accept()
    async for text in ws.iter_text():
        if text == "block":
            time.sleep(0.08)
        await ws.send_text(text)

def sync(request):
    time.sleep(0.08)            # in a thread: the loop goes on
    return PlainTextResponse("sync")

routes = [
    Route("/ok", ok), Route("/ok/{x}", ok), Route("/block", block), Route("/stream", stream),
    Route("/endless", endless), Route("/raises", raises), Route("/later", later),
    Route("/sync", sync), WebSocketRoute("/ws/{room}", echo),
]
app = Starlette(
    routes=[*routes, Mount("/sub/{region}", routes=routes)],
    middleware=[Middleware(Passes), Middleware(GZipMiddleware, minimum_size=10_000_000)],
)
loopguard.install(app)
"""

PLAIN = """
import time
import loopguard

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/block":
        time.sleep(0.08)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"plain"})

app = loopguard.install(application)
"""

OLD = """
import loopguard

class Application:
    def __init__(self, scope):
        self.scope = scope
    async def __call__(self, receive, send):
        if self.scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"asgi2"})

app = loopguard.install(Application)
"""

BROKEN_START = """
import loopguard

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")
    raise AssertionError("never reached")

app = loopguard.install(application)
"""


@pytest.fixture(params=LOOPS, scope="module")
def worker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("worker")
    with Worker(folder, STARLETTE, loop=request.param) as made:
        yield made


def test_answers_are_those_of_the_application(worker: Worker) -> None:
    assert worker.get("/ok") == (200, b"ok ")
    assert worker.get("/ok/7") == (200, b"ok 7")
    assert worker.get("/stream") == (200, b"x" * 100_000)
    assert worker.get("/raises")[0] == 500
    assert worker.get("/sync") == (200, b"sync")
    assert worker.get("/none")[0] == 404
    assert worker.get("/sub/eu/ok/7") == (200, b"ok 7")
    seen = worker.settled()
    rows = {r.label: r for r in seen.endpoints}
    for label in ("GET /ok", "GET /ok/{x}", "GET /stream", "GET /raises", "GET /sync"):
        assert rows[label].requests == 1, label
    # the first requests of a process import and collect; none of these waits
    assert [s.endpoint for s in seen.stalls if s.cause == "io"] == []
    assert rows["GET /raises"].exceptions == 1
    assert rows["GET /raises"].status[5] == 1
    assert rows["GET /sub/{region}/ok/{x}"].requests == 1
    assert rows["GET (unmatched)"].status[4] == 1
    assert rows["GET /sync"].pool_run_ms > 70


def blocks_of(worker: Worker, label: str) -> int:
    return sum(s.endpoint == label for s in worker.settled().stalls if not s.ongoing)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/block", "GET /block"),
        ("/later", "background GET /later"),
        ("/sub/eu/block", "GET /sub/{region}/block"),
    ],
)
def test_blocks_are_told_under_their_route(worker: Worker, path: str, label: str) -> None:
    assert worker.get(path)[0] == 200
    until(lambda: blocks_of(worker, label) == 1, label)
    stall = next(s for s in worker.settled().stalls if s.endpoint == label)
    assert stall.call == "sleep"
    assert stall.cause == "io"
    assert 79 < stall.duration_ms < 200
    assert Path(stall.stack[0][1]).name == "application.py"


def test_client_that_leaves_ends_its_stream(worker: Worker) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=DEADLINE_S)
    connection.request("GET", "/endless")
    assert connection.getresponse().read(10) == b"data: tick"
    assert worker.settled().endpoint("GET /endless").in_flight == 1
    connection.close()
    until(lambda: worker.settled().endpoint("GET /endless").in_flight == 0, "its end")
    row = worker.settled().endpoint("GET /endless")
    assert (row.requests, row.exceptions, row.blocks) == (1, 0, 0)
    found = next(r for r in worker.settled().requests if r.label == "GET /endless")
    assert found.status == 200
    assert found.flags in (0, CANCELLED)


def test_websocket_under_a_server(worker: Worker) -> None:
    websockets = pytest.importorskip("websockets.sync.client")
    with websockets.connect(f"ws://127.0.0.1:{worker.port}/ws/a", open_timeout=20) as ws:
        for text in ("one", "block", "two"):
            ws.send(text)
            assert ws.recv(timeout=20) == text
        assert worker.settled().endpoint("WS /ws/{room}").in_flight == 1
    until(lambda: worker.settled().endpoint("WS /ws/{room}").requests == 1, "its end")
    assert blocks_of(worker, "WS /ws/{room}") == 1


def test_fifty_at_once_while_one_blocks(worker: Worker) -> None:
    async def main() -> list[bytes]:
        async def one(path: str) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer

        return await asyncio.gather(one("/sub/us/block"), *(one(f"/ok/{i}") for i in range(50)))

    before = worker.settled()
    answers = asyncio.run(main())
    assert all(a.startswith(b"HTTP/1.1 200") for a in answers)
    seen = worker.settled()
    assert seen.endpoint("GET /ok/{x}").blocks == 0
    assert (
        seen.endpoint("GET /sub/{region}/block").blocks
        >= before.endpoint("GET /sub/{region}/block").blocks + 1
    )
    assert {s.endpoint for s in seen.stalls if s.cause == "io"} <= {
        "GET /block",
        "background GET /later",
        "GET /sub/{region}/block",
        "WS /ws/{room}",
    }


@pytest.mark.parametrize("kind", LOOPS)
def test_plain_application_is_taken_for_asgi3(kind: str, tmp_path: Path) -> None:
    """uvicorn asks whether the object is a coroutine function: a C callable is none."""
    with Worker(tmp_path, PLAIN, loop=kind) as worker:
        assert worker.get("/") == (200, b"plain")
        assert worker.get("/block") == (200, b"plain")
        seen = worker.settled()
        assert seen.endpoint("GET (unknown)").requests == 2
        assert [s.endpoint for s in seen.stalls if s.cause == "io"] == ["GET (unknown)"]
        said = worker.end()[1].splitlines()
        assert [line for line in said if not line.startswith("event loop blocked ")] == []
        assert any("GET (unknown) (io: sleep)" in line for line in said)


def test_application_of_two_calls_is_left_alone(tmp_path: Path) -> None:
    with Worker(tmp_path, OLD) as worker:
        answer = worker.get("/")
    folder = tmp_path / "without"
    folder.mkdir()
    with Worker(folder, OLD, env={"LOOPGUARD_DISABLE": "1"}) as worker:
        assert worker.get("/") == answer


def test_startup_that_fails_fails_as_without_us(tmp_path: Path) -> None:
    ends = []
    for name, env in (("with", {}), ("without", {"LOOPGUARD_DISABLE": "1"})):
        folder = tmp_path / name
        folder.mkdir()
        with Worker(folder, BROKEN_START, env=env) as worker:
            worker.process.wait(20)
            code, errors = worker.end()
            last = [line for line in errors.splitlines() if "no database" in line]
            ends.append((code, last))
    assert ends[0] == ends[1]
    assert ends[0][0] != 0


def has_segment(pid: int) -> bool:
    """A whole one: its magic is written last."""
    return any(Path(path).read_bytes()[:6] == b"LGUARD" for path in segments_of(pid))


def test_reload_and_workers_have_one_segment_each(tmp_path: Path) -> None:
    """The supervisor runs no loop and has none."""
    (tmp_path / "application.py").write_text(PLAIN)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "application:app", "--port", "0", "--workers", "2"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def children() -> list[int]:
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [pid for pid in map(int, text.split()) if has_segment(pid)]

    try:
        until(lambda: len(children()) == 2, "two workers with a segment")
        assert segments_of(process.pid) == []
        seen = [Segment(segments_of(pid)[0]) for pid in children()]
        assert sorted(s.pid for s in seen) == sorted(children())
    finally:
        pids = children()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in pids:
        for path in segments_of(pid):
            Path(path).unlink()


def test_hypercorn_on_trio_serves_and_tells(tmp_path: Path) -> None:
    pytest.importorskip("hypercorn")
    pytest.importorskip("trio")
    (tmp_path / "application.py").write_text(PLAIN)
    (tmp_path / "main.py").write_text(
        "import signal, sys, trio\n"
        "from hypercorn.config import Config\n"
        "from hypercorn.trio import serve\n"
        "from application import app\n"
        "config = Config()\n"
        "config.bind = [f'fd://{sys.argv[1]}']\n"
        "trio.run(serve, app, config)\n"
    )
    with Worker(tmp_path, PLAIN, command=[sys.executable, "main.py", "{fd}"]) as worker:
        assert worker.get("/") == (200, b"plain")
        assert worker.get("/block") == (200, b"plain")
        seen = worker.settled()
        assert seen.loops[0].kind == "other"
        assert seen.features["task_factory"] == (False, "needs an asyncio loop")
        assert seen.endpoint("GET (unknown)").requests == 2
        assert [s.call for s in seen.stalls if s.cause == "io"] == ["sleep"]
