"""The application of cases.py: one endpoint for each situation.

Every line that blocks is marked "BLOCKS <name>": the stack that loopguard shows
must lead to such a line. What really happened is kept in TRUTH, in
milliseconds, by this process's own clock, and asked for at /truth. Nothing in
here knows of loopguard, but for the cure of the thread pool's deadlock.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import math
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

try:
    import sqlalchemy
    from sqlalchemy.pool import QueuePool
except ImportError:  # then its row is skipped
    sqlalchemy = None  # type: ignore[assignment]

FOLDER = os.environ.get("CASES_FOLDER", "/tmp")
BLOCK_S = 0.2
TRUTH: dict[str, list[float]] = defaultdict(list)
# Answers of these would be noise in the truth of the others.
QUIET = {"/ok", "/truth"}

lock = threading.Lock()
ports: dict[str, int] = {}
graph: list[Any] = []


# ---- tools -----------------------------------------------------------------


@contextmanager
def timed(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    TRUTH[name].append((time.perf_counter() - start) * 1e3)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:  # BLOCKS spin
        pass  # BLOCKS spin


def add_up(seconds: float) -> int:
    end = time.perf_counter() + seconds
    total = 0
    while time.perf_counter() < end:  # BLOCKS cpu
        for n in range(1000):  # BLOCKS cpu
            total += n * n % 7  # BLOCKS cpu
    return total


def burn(cpu_seconds: float) -> None:
    """Uses that much CPU time, however long it takes."""
    end = time.thread_time() + cpu_seconds
    while time.thread_time() < end:  # BLOCKS burn
        for _ in range(1000):  # BLOCKS burn
            pass  # BLOCKS burn


def catastrophe(size: int) -> None:
    re.match(r"(\w+\s?)+$", "a" * size + "!")  # BLOCKS regex


def size_for(seconds: float) -> int:
    """Each character doubles the time of catastrophe()."""
    start = time.perf_counter()
    catastrophe(16)
    return 16 + max(0, math.ceil(math.log2(seconds / (time.perf_counter() - start))))


def rounds_for(seconds: float) -> int:
    start = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 20_000)
    return int(20_000 * seconds / (time.perf_counter() - start))


REGEX_SIZE = size_for(0.5)
ROUNDS = rounds_for(BLOCK_S)
NUMBERS = [random.Random(n).random() for n in range(1000)] * 3000


# ---- life ------------------------------------------------------------------


class BlockingProtocol(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        with timed("protocol"):
            time.sleep(BLOCK_S)  # BLOCKS protocol


def block_in_timer() -> None:
    with timed("timer"):
        time.sleep(BLOCK_S)  # BLOCKS timer


def block_in_reader(reader: socket.socket) -> None:
    reader.recv(16)
    with timed("reader"):
        time.sleep(BLOCK_S)  # BLOCKS reader


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    with timed("lifespan"):
        time.sleep(BLOCK_S)  # BLOCKS lifespan
    loop = asyncio.get_running_loop()
    server = await loop.create_server(BlockingProtocol, "127.0.0.1", 0)
    ports["protocol"] = server.sockets[0].getsockname()[1]
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    loop.add_reader(reader, block_in_reader, reader)
    api.state.writer = writer
    if "CASES_SECOND_PORT" in os.environ:
        serve_second(int(os.environ["CASES_SECOND_PORT"]), os.environ["CASES_SECOND_LOOP"])
    yield
    loop.remove_reader(reader)
    reader.close()
    writer.close()
    server.close()


api = FastAPI(lifespan=lifespan)


@api.get("/ok")
async def innocent() -> dict[str, bool]:
    return {"ok": True}


@api.get("/truth")
async def truth() -> dict[str, Any]:
    told = {name: list(values) for name, values in TRUTH.items()}
    TRUTH.clear()
    return told


# ---- 1-4: one block --------------------------------------------------------


@api.get("/sleep")
async def sleep() -> None:
    time.sleep(BLOCK_S)  # BLOCKS sleep


@api.get("/cpu")
async def cpu() -> None:
    add_up(BLOCK_S)


@api.get("/regex")
async def regex() -> None:
    catastrophe(REGEX_SIZE)


@api.get("/sorted")
async def sort() -> None:
    sorted(NUMBERS)  # BLOCKS sorted


@api.get("/pbkdf2")
async def pbkdf2() -> None:
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", ROUNDS)  # BLOCKS pbkdf2


# ---- 5: many short ones ----------------------------------------------------


async def cut(name: str, count: int, block_s: float, gap_s: float) -> None:
    total = 0.0
    for _ in range(count):
        start = time.perf_counter()
        spin(block_s)
        total += time.perf_counter() - start
        await asyncio.sleep(gap_s)
    TRUTH[name].append(total * 1e3)


@api.get("/cuts/20x15")
async def cuts_20x15() -> None:
    await cut("cuts/20x15", 20, 0.015, 0.001)


@api.get("/cuts/60x8")
async def cuts_60x8() -> None:
    await cut("cuts/60x8", 60, 0.008, 0.004)


@api.get("/cuts/40x5")
async def cuts_40x5() -> None:
    await cut("cuts/40x5", 40, 0.005, 0.002)


# ---- 6-8: calls ------------------------------------------------------------


@api.get("/read-file")
async def read_file() -> int:
    with open(os.path.join(FOLDER, "fifty.bin"), "rb") as source:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return len(source.read())  # BLOCKS read-file


@api.get("/write-file")
async def write_file() -> None:
    with open(os.path.join(FOLDER, "written.bin"), "wb") as target:  # BLOCKS write-file
        target.writelines(bytes(1 << 20) for _ in range(48))  # BLOCKS write-file
        target.flush()  # BLOCKS write-file
        os.fsync(target.fileno())  # BLOCKS write-file


@api.get("/urllib")
async def ask(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:  # BLOCKS urllib
        return len(answer.read())


@api.get("/urllib-timeout")
async def ask_with_timeout(port: int) -> int:
    url = f"http://127.0.0.1:{port}/"
    with urllib.request.urlopen(url, timeout=9) as answer:  # BLOCKS urllib-timeout
        return len(answer.read())


@api.get("/subprocess")
async def child_process() -> None:
    subprocess.run(["sleep", str(BLOCK_S)], check=True)  # BLOCKS subprocess


# ---- 9-10: where a request's code runs -------------------------------------


async def block_in_child() -> None:
    with timed("child"):
        time.sleep(BLOCK_S)  # BLOCKS child


@api.get("/child")
async def child() -> None:
    await asyncio.create_task(block_in_child())


under_middleware = FastAPI()


async def pass_through(request: Any, call_next: Any) -> Any:
    return await call_next(request)


under_middleware.add_middleware(BaseHTTPMiddleware, dispatch=pass_through)


@under_middleware.get("/block")
async def block_under_middleware() -> None:
    with timed("mw"):
        time.sleep(BLOCK_S)  # BLOCKS mw


@under_middleware.get("/child")
async def child_under_middleware() -> None:
    await asyncio.create_task(block_in_child())


api.mount("/mw", under_middleware)


async def slow_dependency() -> None:
    time.sleep(BLOCK_S)  # BLOCKS dependency


@api.get("/dependency", dependencies=[Depends(slow_dependency)])
async def with_dependency() -> None:
    return None


async def block_in_background() -> None:
    with timed("background"):
        time.sleep(BLOCK_S)  # BLOCKS background


@api.get("/background")
async def with_background(tasks: BackgroundTasks) -> None:
    tasks.add_task(block_in_background)


@api.get("/stream")
async def stream() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        yield "first\n"
        await asyncio.sleep(0.01)
        with timed("stream"):
            time.sleep(BLOCK_S)  # BLOCKS stream
        yield "last\n"

    return StreamingResponse(lines())


@api.websocket("/ws")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    with timed("ws"):
        time.sleep(BLOCK_S)  # BLOCKS ws
    await websocket.send_text("done")
    await websocket.close()


# ---- 11: callbacks ---------------------------------------------------------


@api.get("/arm/timer")
async def arm_timer() -> None:
    asyncio.get_running_loop().call_later(0.05, block_in_timer)


@api.get("/arm/protocol")
async def arm_protocol() -> int:
    return ports["protocol"]


@api.get("/arm/reader")
async def arm_reader() -> None:
    api.state.writer.send(b"x")


# ---- 12-14: the thread pool ------------------------------------------------

if "CASES_THREADPOOL_PATCH" in os.environ:
    from loopguard import threadpool

    threadpool.patch()


@api.get("/gil/python")
def hog_in_python() -> None:
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:  # BLOCKS gil-python
        pass  # BLOCKS gil-python


@api.get("/gil/regex")
def hog_in_c() -> None:
    catastrophe(REGEX_SIZE)


@api.get("/pool/second")
def one_second() -> None:
    time.sleep(1.0)  # BLOCKS pool


def database() -> Any:
    return sqlalchemy.create_engine(
        "sqlite:///" + os.path.join(FOLDER, "cases.db"),
        poolclass=QueuePool,
        pool_size=3,
        max_overflow=0,
        pool_timeout=float(os.environ.get("CASES_POOL_TIMEOUT", "6")),
        connect_args={"check_same_thread": False},
    )


engine = database() if sqlalchemy is not None else None


def connection() -> Iterator[Any]:
    with engine.connect() as taken:  # BLOCKS database-dependency
        yield taken


class Lazily:
    """A session: takes its connection at its first query, and keeps it."""

    def __init__(self) -> None:
        self.taken: Any = None

    def one(self) -> Any:
        self.taken = engine.connect()  # BLOCKS database-lazily
        time.sleep(0.3)  # the query takes long enough for all to come
        return self.taken.execute(sqlalchemy.text("select 1")).scalar()

    def close(self) -> None:
        if self.taken is not None:
            self.taken.close()


def session() -> Iterator[Lazily]:
    lazily = Lazily()
    try:
        yield lazily
    finally:
        lazily.close()


@api.get("/database/dependency")
def database_dependency(taken: Annotated[Any, Depends(connection)]) -> int:
    return int(taken.execute(sqlalchemy.text("select 1")).scalar())


@api.get("/database/lazily", response_model=int)
def database_lazily(lazily: Annotated[Any, Depends(session)]) -> Any:
    return lazily.one()


# ---- 15-18: other causes ---------------------------------------------------


@api.get("/gc/prepare")
async def grow_graph(size: int) -> None:
    gc.disable()
    graph.extend([[n]] for n in range(size))


@api.get("/gc/collect")
async def collect() -> None:
    gc.collect()  # BLOCKS gc-collect


@api.get("/gc/auto")
async def allocate() -> None:
    gc.set_threshold(100, 1, 1)
    gc.enable()
    kept = []
    for n in range(350):
        kept.append([n])  # BLOCKS gc-auto  # noqa: PERF401 - one container after the other
    gc.disable()


@api.get("/gc/end")
async def drop_graph() -> None:
    graph.clear()
    gc.set_threshold(700, 10, 10)
    gc.enable()


@api.get("/burn")
async def burn_cpu() -> None:
    burn(0.15)


def hold_lock(seconds: float, held: threading.Event) -> None:
    with lock:
        held.set()
        time.sleep(seconds)


@api.get("/lock")
async def wait_for_lock() -> None:
    held = threading.Event()
    threading.Thread(target=hold_lock, args=(BLOCK_S, held)).start()
    while not held.is_set():
        await asyncio.sleep(0)
    with timed("lock"):
        lock.acquire()  # BLOCKS lock
    lock.release()


@api.get("/patient")
async def patient() -> None:
    await asyncio.sleep(1.0)


# ---- 19-20: no end ---------------------------------------------------------


@api.get("/forever")
async def forever() -> None:
    while True:  # BLOCKS forever
        pass  # BLOCKS forever


@api.post("/die/{how}")
async def die(how: str) -> None:
    spin(0.6)
    if how == "exit":
        os._exit(3)
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(8)  # BLOCKS segv


# ---- 21: near the threshold ------------------------------------------------


@api.get("/ms/8")
async def ms_8() -> None:
    spin(0.008)


@api.get("/ms/11")
async def ms_11() -> None:
    spin(0.011)


@api.get("/ms/13")
async def ms_13() -> None:
    spin(0.013)


@api.get("/ms/16")
async def ms_16() -> None:
    spin(0.016)


# ---- 22: a second application on a second loop -----------------------------

second_api = FastAPI()


@second_api.get("/second/sleep")
async def second_sleep() -> None:
    time.sleep(BLOCK_S)  # BLOCKS second


def serve_second(port: int, loop: str) -> None:
    config = uvicorn.Config("cases_app:second", port=port, loop=loop, log_level="warning")
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, name="second", daemon=True).start()


# ---- 24: names -------------------------------------------------------------


@api.get("/items/{item_id}")
async def item(item_id: int) -> int:
    return item_id


deep = APIRouter(prefix="/deep")


@deep.get("/x/{z}")
async def deep_x(z: str) -> str:
    return z


outer = APIRouter(prefix="/{tenant}")
outer.include_router(deep)
api.include_router(outer, prefix="/api/v1")


async def plain_text(_: Any) -> PlainTextResponse:
    return PlainTextResponse("here")


api.mount("/sub/{region}", Starlette(routes=[Route("/here/{n}", plain_text)]))
api.mount("/two", Starlette(routes=[Mount("/levels", routes=[Route("/here", plain_text)])]))


# ---- what the server runs --------------------------------------------------


class Measured:
    """Times each call up to the last byte of its response: the truth for
    requests of one step. What runs after that is a background task's.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self.inner(scope, receive, send)
            return
        start = time.perf_counter()
        start_cpu = time.thread_time()

        async def measured(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                TRUTH[scope["path"]].append((time.perf_counter() - start) * 1e3)
                TRUTH["cpu of " + scope["path"]].append((time.thread_time() - start_cpu) * 1e3)
            await send(message)

        await self.inner(scope, receive, measured)


app = Measured(api)
second = Measured(second_api)
