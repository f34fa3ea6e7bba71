"""ASGI servers as users start them, and who of their processes is measured."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

DEADLINE_S = 60.0

APP = """
import asyncio, os, sys, loopguard

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    loop = type(asyncio.get_running_loop()).__module__
    body = repr({"pid": os.getpid(), "loop": loop}).replace("'", '"').encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

class Old:
    "ASGI 2, as old applications have it."
    def __init__(self, scope):
        self.scope = scope
    async def __call__(self, receive, send):
        await app(self.scope, receive, send)
"""

SCRIPT = """
import sys, uvicorn
uvicorn.run("app:app", port=int(sys.argv[1]), log_level="warning")
"""


@contextlib.contextmanager
def serving(
    command: list[str], folder: Path, port: int, env: Mapping[str, str] = os.environ
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers, in a session of its own; gone afterwards."""
    (folder / "app.py").write_text(APP)
    (folder / "serve.py").write_text(SCRIPT)
    with subprocess.Popen(
        command, cwd=folder, env=env, start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(lambda: process.poll() is not None or answers(port), "the server answers")
            assert process.poll() is None, "the server has ended"
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        ask(port)
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def ask(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return dict(json.loads(answer.read()))


def family(pid: int) -> set[int]:
    """`pid` and all that descend from it."""
    members = {pid}
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text().split():
            members |= family(int(child))
    return members


def measured(pid: int) -> set[int]:
    """Those of the family that have one segment; more than one is an error."""
    counts = {member: len(segments(member)) for member in family(pid)}
    assert max(counts.values()) <= 1, counts
    return {member for member, count in counts.items() if count}


def segments(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"loopguard.{pid}.*"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def uvicorn_worker() -> str:
    """The worker class moved out of uvicorn; the old one warns."""
    if is_installed("uvicorn_worker"):
        return "uvicorn_worker.UvicornWorker"
    return "uvicorn.workers.UvicornWorker"
