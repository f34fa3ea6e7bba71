"""What applications of Starlette and FastAPI do, written down message by message.

    python tests/system/frameworks.py WAY [asyncio|uvloop]

    WAY: plain, install, middleware, warn or everything

Drives one application of each through every kind of answer there is and prints
a JSON object {situation: [what happened, in order]}. With `plain` loopguard is
not there; a test compares the others with that. Runs on FastAPI 0.100 as on the
newest, and needs nothing else: no server, no client, no test tool.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

App = Callable[..., Awaitable[Any]]
Message = dict[str, Any]

DEADLINE_S = 20.0
LOG: list[Any] = []  # what the application did, among the messages it sent
VISITOR: contextvars.ContextVar[str] = contextvars.ContextVar("visitor", default="nobody")
ADDED = {b"x-request-id", b"x-blocking-count", b"x-blocking-total-ms", b"x-blocking-detected"}


# ---- the applications ------------------------------------------------------


class WrongError(Exception):
    """Answered by a handler of the application's own."""


class Item(BaseModel):
    name: str
    price: float = 1.0


class Tagged(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        VISITOR.set(request.headers.get("visitor", "nobody"))
        response = await call_next(request)
        response.headers["tagged"] = "yes"
        return response


class Bare:
    """A middleware that is plain ASGI, with a wrapped receive and send."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def heard() -> Any:
            return await receive()

        async def said(message: Any) -> None:
            await send(message)

        await self.app(scope, heard, said)


@contextlib.asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, int]]:
    LOG.append("starting")
    yield {"answer": 42}
    LOG.append("stopping")


def opened() -> Iterator[str]:
    LOG.append(["dependency opens", threading.current_thread() is threading.main_thread()])
    yield "resource"
    LOG.append("dependency closes")


async def opened_async() -> AsyncIterator[str]:
    LOG.append("async dependency opens")
    try:
        yield "resource"
    except Exception as error:
        LOG.append(["async dependency sees", type(error).__name__])
        raise
    finally:
        LOG.append("async dependency closes")


api = FastAPI(lifespan=lifespan)
api.add_middleware(GZipMiddleware, minimum_size=500)
api.add_middleware(Bare)
api.add_middleware(Tagged)
api.add_middleware(CORSMiddleware, allow_origins=["http://here"])


@api.exception_handler(WrongError)
async def wrong(request: Request, error: WrongError) -> JSONResponse:
    return JSONResponse({"wrong": str(error)}, status_code=418)


@api.get("/async/{number}")
async def plain_async(request: Request, number: int, text: str = "none") -> dict[str, Any]:
    scope = {k for k in request.scope if k != "state"}
    return {
        "number": number,
        "text": text,
        "visitor": VISITOR.get(),
        "route": request.scope["route"].path,
        "scope": sorted(scope),
        "state": request.state.answer,
    }


@api.get("/sync/{number}")
def plain_sync(number: int) -> dict[str, Any]:
    in_main = threading.current_thread() is threading.main_thread()
    return {"number": number, "visitor": VISITOR.get(), "main": in_main}


@api.post("/items", status_code=201)
async def make_item(item: Item) -> Item:
    return item


@api.get("/depends")
async def depends(
    one: Annotated[str, Depends(opened)],
    two: Annotated[str, Depends(opened_async)],
    background: BackgroundTasks,
) -> dict[str, str]:
    background.add_task(in_background, "async")
    background.add_task(in_background_sync, "sync")
    LOG.append("endpoint")
    return {"one": one, "two": two}


async def in_background(what: str) -> None:
    await asyncio.sleep(0)
    LOG.append(["background", what, VISITOR.get()])


def in_background_sync(what: str) -> None:
    LOG.append(["background", what, VISITOR.get()])


async def in_background_wrong() -> None:
    raise RuntimeError("in background")


@api.get("/background/wrong")
async def background_wrong(background: BackgroundTasks) -> dict[str, str]:
    background.add_task(in_background_wrong)
    background.add_task(in_background, "never")
    return {}


@api.get("/raises/{what}")
async def raises(what: str, two: Annotated[str, Depends(opened_async)]) -> None:
    if what == "http":
        raise HTTPException(402, detail={"pay": 1}, headers={"price": "1"})
    if what == "handled":
        raise WrongError("handled")
    raise ValueError(what)


@api.get("/raises-sync")
def raises_sync() -> None:
    raise KeyError("sync")


@api.get("/stream/{kind}")
async def stream(kind: str) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        try:
            for n in range(3):
                yield f"{n}\n"
                await asyncio.sleep(0)
            if kind == "wrong":
                raise ValueError("in stream")
        finally:
            LOG.append("stream ends")

    def sync_parts() -> Iterator[str]:
        yield from ("a", "b")
        LOG.append("sync stream ends")

    background = BackgroundTask(in_background, "after stream")
    body: Any = sync_parts() if kind == "sync" else parts()
    return StreamingResponse(body, media_type="text/plain", background=background)


@api.get("/stream-forever")
async def stream_forever() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"."
                await asyncio.sleep(0.001)
        finally:
            LOG.append("endless stream ends")

    return StreamingResponse(parts())


@api.get("/waits")
async def waits() -> None:
    try:
        await asyncio.sleep(DEADLINE_S)
    except asyncio.CancelledError:
        LOG.append("endpoint cancelled")
        raise


@api.get("/file")
async def file() -> FileResponse:
    return FileResponse(FILE, media_type="text/x-test", headers={"date": "never"})


@api.get("/long")
async def long() -> PlainTextResponse:
    return PlainTextResponse("long " * 200)


@api.post("/body")
async def body(request: Request) -> dict[str, Any]:
    parts = [len(part) async for part in request.stream()]
    return {"parts": parts, "disconnected": await request.is_disconnected()}


@api.websocket("/talk/{name}")
async def talk(websocket: WebSocket, name: str) -> None:
    await websocket.accept(subprotocol="words", headers=[(b"talk", b"yes")])
    try:
        while True:
            text = await websocket.receive_text()
            if text == "json":
                await websocket.send_json({"name": name})
            elif text == "bytes":
                await websocket.send_bytes(b"\x00\x01")
            elif text == "close":
                await websocket.close(4001, "enough")
                return
            elif text == "wrong":
                raise ValueError("in websocket")
            else:
                await websocket.send_text(text.upper())
    except WebSocketDisconnect as gone:
        LOG.append(["disconnect", gone.code])


@api.websocket("/refuse")
async def refuse(websocket: WebSocket) -> None:
    await websocket.close(4003)


deep = APIRouter(prefix="/deep", tags=["deep"])


@deep.get("/{leaf}")
async def leaf(request: Request, leaf: str) -> dict[str, Any]:
    return {"leaf": leaf, "path": request.url.path, "params": request.path_params}


outer = APIRouter(prefix="/{tenant}")
outer.include_router(deep)
api.include_router(outer, prefix="/api/v1")


async def told(request: Request) -> PlainTextResponse:
    what = sorted(request.path_params.items())
    return PlainTextResponse(f"{what} {request.scope['root_path']}")


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("class", background=BackgroundTask(in_background, "of class"))


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_text(f"echo {data}")

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        LOG.append(["echo ends", close_code])


async def asgi_endpoint(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("asgi")(scope, receive, send)


sub = Starlette(routes=[Route("/here/{n:int}", told), Mount("/two", routes=[Route("/x", told)])])
site = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/told/{n}", told),
        Route("/class", Endpoint),
        WebSocketRoute("/echo", Echo),
        Mount("/sub/{region}", sub),
        Mount("/asgi", asgi_endpoint),
        Host("{tenant}.example.org", Router([Route("/told", told)])),
        Mount("/api", api),
    ],
)


@contextlib.asynccontextmanager
async def broken_lifespan(app: Any) -> AsyncIterator[None]:
    raise OSError("no database")
    yield


broken = FastAPI(lifespan=broken_lifespan)
FILE = ""


# ---- driving them ----------------------------------------------------------


async def call(
    app: App,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    body: tuple[bytes, ...] = (b"",),
    stop_after: int = 0,
    cancel: bool = False,
) -> list[Any]:
    """One HTTP request. `stop_after`: the client leaves after so many messages;
    `cancel`: the server cancels it once the application waits.
    """
    left = list(body)
    gone = asyncio.Event()
    heard: list[Any] = []

    async def receive() -> Message:
        if left:
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if not (stop_after and len(heard) >= stop_after):
            heard.append(message_of(message))
        if stop_after and len(heard) >= stop_after:
            gone.set()

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": header_list({"host": "tenant.test", **(headers or {})}),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {"answer": 42},
    }
    return [*(await finish(app, scope, receive, send, cancel)), *heard]


async def chat(app: App, path: str, *words: str | int) -> list[Any]:
    """One WebSocket: texts to say, or a close code."""
    left: list[Message] = [{"type": "websocket.connect"}]
    for word in words:
        if isinstance(word, int):
            left.append({"type": "websocket.disconnect", "code": word})
        else:
            left.append({"type": "websocket.receive", "text": word})
    heard: list[Any] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return left.pop(0)

    async def send(message: Message) -> None:
        heard.append(message_of(message))

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": header_list({"host": "tenant.test"}),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "subprotocols": ["words"],
        "state": {"answer": 42},
    }
    return [*(await finish(app, scope, receive, send, False)), *heard]


async def live(app: App) -> list[Any]:
    """One lifespan, from start to end."""
    left = ["lifespan.startup", "lifespan.shutdown"]
    heard: list[Any] = []
    state: dict[str, Any] = {}

    async def receive() -> Message:
        return {"type": left.pop(0)}

    async def send(message: Message) -> None:
        message = dict(message)
        message["message"] = message.get("message", "").strip().split("\n")[-1]
        heard.append(message)

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    return [*(await finish(app, scope, receive, send, False)), *heard, {"state": state}]


async def finish(app: App, scope: Any, receive: Any, send: Any, cancel: bool) -> list[Any]:
    """What came out of the application, beside messages: result or exception."""
    LOG.clear()
    task = asyncio.ensure_future(app(scope, receive, send))
    if cancel:
        await asyncio.sleep(0.05)
        task.cancel()
    try:
        result = await asyncio.wait_for(task, DEADLINE_S)
    except (Exception, asyncio.CancelledError) as error:
        out = ["raised", *chain_of(error)]
    else:
        out = ["returned", repr(result)]
    # a generator that was left ends when it is collected, in a task of its own
    gc.collect()
    await asyncio.sleep(0.005)
    return [out, list(LOG)]


def chain_of(error: BaseException | None) -> list[str]:
    """The exception and those behind it."""
    found = []
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = re.sub(r"0x[0-9a-f]+|scope [0-9a-f]+", "(number)", str(error))
        found.append(f"{type(error).__qualname__}: {text}")
        found += [f"in it {inner!r}" for inner in getattr(error, "exceptions", ())]
        error = error.__cause__ or error.__context__
    return found


def header_list(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(k.encode(), v.encode()) for k, v in headers.items()]


def message_of(message: Message) -> Message:
    """A message as JSON has it, without what loopguard documents to add."""
    shown = dict(message)
    if "headers" in shown:
        shown["headers"] = [
            f"{k.decode()}: {v.decode()}" for k, v in shown["headers"] if k not in ADDED
        ]
    if isinstance(shown.get("body"), (bytes, bytearray, memoryview)):
        body = bytes(shown["body"])
        # a gzip header has the time in it
        shown["body"] = "zipped" if body.startswith(b"\x1f\x8b") else body.decode("latin-1")
    if isinstance(shown.get("bytes"), bytes):
        shown["bytes"] = shown["bytes"].decode("latin-1")
    return shown


async def everything(api: App, site: App, broken: App) -> dict[str, list[Any]]:
    """Every situation, one after the other."""
    told: dict[str, list[Any]] = {}
    named = {"visitor": "ada"}

    async def ask(*words: str, app: App = api, **options: Any) -> None:
        told[f"{'site ' if app is site else ''}{' '.join(words)}"] = await call(
            app, words[0], words[1], **options
        )

    async def talk(path: str, *words: str | int, app: App = api) -> None:
        told[f"{'site ' if app is site else ''}{path} {words}"] = await chat(app, path, *words)

    told["lifespan"] = await live(api)
    told["site lifespan"] = await live(site)
    told["broken lifespan"] = await live(broken)
    await ask("GET", "/async/7?text=hello", headers=named)
    await ask("GET", "/async/seven")
    await ask("GET", "/sync/7", headers=named)
    await ask("GET", "/sync/7/")
    await ask("HEAD", "/sync/7")
    await ask("OPTIONS", "/sync/7")
    preflight = {"origin": "http://here", "access-control-request-method": "GET"}
    await ask("OPTIONS", "/sync/7", "preflight", headers=preflight)
    await ask("GET", "/nowhere")
    item = json.dumps({"name": "one"}).encode()
    kind = {"content-type": "application/json"}
    await ask("POST", "/items", body=(item[:5], item[5:]), headers=kind)
    await ask("POST", "/items", "bad", body=(b"{",), headers=kind)
    await ask("GET", "/depends", headers=named)
    await ask("GET", "/background/wrong")
    for what in ("http", "handled", "other"):
        await ask("GET", f"/raises/{what}")
    await ask("GET", "/raises-sync")
    for what in ("async", "sync", "wrong"):
        await ask("GET", f"/stream/{what}", headers=named)
    await ask("GET", "/stream-forever", stop_after=3)
    await ask("GET", "/waits", cancel=True)
    await ask("GET", "/file")
    await ask("GET", "/long", headers={"accept-encoding": "gzip"})
    await ask("POST", "/body", body=(b"one", b"", b"three"))
    await ask("GET", "/api/v1/t1/deep/leaf1")
    await ask("GET", "/openapi.json")
    await talk("/talk/ada", "hello", "json", "bytes", "close")
    await talk("/talk/ada", "hello", 1001)
    await talk("/talk/ada", "wrong")
    await talk("/refuse")
    await talk("/nowhere")
    await ask("GET", "/told/1", app=site)
    await ask("GET", "/class", app=site)
    await ask("POST", "/class", app=site)
    await ask("GET", "/sub/r1/here/1", app=site)
    await ask("GET", "/sub/r1/here/one", app=site)
    await ask("GET", "/sub/r1/two/x", app=site)
    await ask("GET", "/asgi/x", app=site)
    await ask("GET", "/told", app=site, headers={"host": "t1.example.org"})
    await ask("GET", "/api/api/v1/t1/deep/leaf1", app=site)
    await talk("/echo", "hello", 1000, app=site)
    await talk("/api/talk/ada", "hello", "close", app=site)
    many = [call(api, "GET", f"/async/{n}", headers={"visitor": f"v{n}"}) for n in range(20)]
    for n, one in enumerate(await asyncio.gather(*many)):
        told[f"at once {n}"] = [one[0], *one[2:]]
    return told


def measured(how: str, app: Any) -> Any:
    """`app` with loopguard in the way that `how` says."""
    if how == "plain":
        return app
    import loopguard  # noqa: PLC0415 - the plain run must not have it

    if how == "everything":
        switch_on_everything()
    if how in ("install", "everything"):
        return loopguard.install(app)
    mode: Any = "log" if how == "middleware" else how
    app.add_middleware(
        loopguard.LoopGuardMiddleware, config=loopguard.LoopGuardConfig(enforcement_mode=mode)
    )
    return app


def switch_on_everything() -> None:
    """All that changes how functions, threads or tasks run."""
    from loopguard import blocking, calls, threadpool  # noqa: PLC0415

    threadpool.patch()
    blocking.patch_audit_functions()
    blocking.start_blocking_io_detection()
    blocking.detect_slow_tasks(threshold_ms=1, on_slow_task=lambda event: None)
    blocking.activate()
    calls.EventLoopMonitor(threshold_ms=1, on_blocking_call=lambda info: None).activate()


def endpoints() -> list[str]:
    """The names loopguard-top gives to what ran in this process."""
    command = [os.environ["VIEWER"], "--once", "--json", "--window", "total", "--pid"]
    done = subprocess.run(
        [*command, str(os.getpid())],
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    workers = json.loads(done.stdout)["workers"]
    return sorted(
        f"{e['endpoint_kind']} {e['method'] or ''} {e['route']}"
        for w in workers
        for e in w["endpoints"]
        if e["endpoint_kind"] in ("request", "websocket")
    )


async def main(how: str) -> dict[str, Any]:
    """The transcript, and under "endpoints" what loopguard called them."""
    told: dict[str, Any] = dict(
        await everything(measured(how, api), measured(how, site), measured(how, broken))
    )
    told["measuring"] = "loopguard" in sys.modules  # also by the launcher
    told["endpoints"] = endpoints() if told["measuring"] else []
    return told


if __name__ == "__main__":
    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        new_loop = uvloop.new_event_loop
    else:
        new_loop = asyncio.new_event_loop
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as temporary:
        temporary.write("file\n")
        temporary.flush()
        os.utime(temporary.name, (1e9, 1e9))
        FILE = temporary.name
        loop = new_loop()
        print(json.dumps(loop.run_until_complete(main(sys.argv[1])), indent=1, default=str))
