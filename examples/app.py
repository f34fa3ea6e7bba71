"""A FastAPI application with honest endpoints and the typical blockers.

    python -m loopguard run -- uvicorn app:app

Nothing in it knows of loopguard.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

import reports
from slow_server import SlowServer

slow_server: SlowServer | None = None
lock = threading.Lock()
WORDS = [f"word{n * 7919 % 1000}" for n in range(1000)]
ROWS = [{"id": n, "name": f"customer {n}", "total": n * 1.5} for n in range(120_000)]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global slow_server
    slow_server = SlowServer()
    yield
    slow_server.close()


app = FastAPI(title="loopguard demo", lifespan=lifespan)


# Honest ones: they wait with await, and are never to blame.


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/items/{item_id}")
async def read_item(item_id: int) -> dict[str, int]:
    await asyncio.sleep(0.002)
    return {"item_id": item_id}


@app.post("/items")
async def create_item() -> dict[str, bool]:
    await asyncio.sleep(0.005)
    return {"created": True}


@app.get("/patient")
async def patient() -> dict[str, float]:
    await asyncio.sleep(1.0)
    return {"waited_seconds": 1.0}


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for n in range(5):
            await asyncio.sleep(0.01)
            yield f"line {n}\n"

    return StreamingResponse(lines(), media_type="text/plain")


# On the CPU.


@app.post("/reports/{report_id}")
async def create_report(report_id: int, seconds: float = 0.4) -> dict[str, int]:
    reports.build_report(report_id, min(seconds, 5.0))
    return {"report_id": report_id}


@app.get("/search")
async def search() -> dict[str, str]:
    return {"best": reports.rank(WORDS, 0.08)[0]}


@app.get("/cuts")
async def thousand_cuts() -> dict[str, int]:
    """No step is long; all of them together are half a second in one."""
    for _ in range(60):
        spin(0.008)
        await asyncio.sleep(0.004)
    return {"cuts": 60}


# One C call: holding the GIL, then releasing it.


@app.get("/validate")
async def validate_name() -> dict[str, bool]:
    return {"valid": bool(re.match(r"(\w+\s?)+$", "a" * 22 + "!"))}


@app.get("/export")
async def export() -> dict[str, int]:
    return {"bytes": len(json.dumps(ROWS))}


@app.get("/login")
async def login() -> dict[str, str]:
    return {"key": hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 300_000).hex()[:8]}


# Waiting in the wrong way.


@app.get("/sleep")
async def sleep() -> dict[str, float]:
    time.sleep(0.2)
    return {"slept_seconds": 0.2}


@app.get("/quote")
async def quote() -> dict[str, int]:
    assert slow_server is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{slow_server.port}/", timeout=5) as answer:
        return {"bytes": len(answer.read())}


@app.get("/file")
async def file() -> dict[str, int]:
    with tempfile.TemporaryFile() as target:
        for _ in range(16):
            target.write(os.urandom(1 << 20))
        target.flush()
        os.fsync(target.fileno())
        target.seek(0)
        return {"bytes": len(target.read())}


@app.get("/convert")
async def convert() -> dict[str, int]:
    return {"status": subprocess.run(["sleep", "0.15"], check=False).returncode}


@app.get("/lock")
async def wait_for_lock() -> dict[str, bool]:
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.2)

    threading.Thread(target=hold, name="lock-holder").start()
    held.wait()
    with lock:
        return {"locked": True}


@app.get("/gc")
async def collect_garbage() -> dict[str, int]:
    graph = [[n] for n in range(400_000)]
    gc.collect()
    return {"objects": len(graph)}


# Where the request itself looks innocent.


@app.get("/pool")
def pool_hog() -> dict[str, bool]:
    """A plain `def` runs in a thread, and still takes the GIL from the loop."""
    return {"valid": bool(re.match(r"(\w+\s?)+$", "b" * 22 + "!"))}


@app.get("/child")
async def child_task() -> dict[str, bool]:
    await asyncio.create_task(do_in_child())
    return {"done": True}


@app.get("/later")
async def later() -> dict[str, bool]:
    asyncio.get_running_loop().call_later(0.01, flush_statistics)
    return {"scheduled": True}


@app.post("/orders")
async def create_order(background: BackgroundTasks) -> dict[str, bool]:
    background.add_task(send_receipt)
    return {"accepted": True}


@app.websocket("/chat/{room}")
async def chat(socket: WebSocket, room: str) -> None:
    await socket.accept()
    try:
        while True:
            text = await socket.receive_text()
            time.sleep(0.06)
            await socket.send_text(f"{room}: {text}")
    except WebSocketDisconnect:
        return


async def do_in_child() -> None:
    spin(0.1)


async def send_receipt() -> None:
    time.sleep(0.12)


def flush_statistics() -> None:
    spin(0.07)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
