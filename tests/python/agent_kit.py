"""What the tests of the agent share: loops, requests without a server, workers.

A request in process is one call of the application on the loop that runs; a
worker is uvicorn in a process of its own on a free port of the loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from segment_reader import Segment, Stall

import loopguard
from loopguard import control

Messages = list[dict[str, Any]]
App = Callable[[Any, Any, Any], Awaitable[Any]]

DEADLINE_S = 20.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:  # no wheel for this Python
    uvloop = None
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


def run(kind: str, main: Coroutine[Any, Any, Any]) -> Any:
    """`main` on a new loop of that kind, which is closed afterwards."""
    loop = LOOPS[kind]()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@contextlib.contextmanager
def agent(**options: Any) -> Iterator[None]:
    """The agent armed in this process, and out of it afterwards."""
    assert control.start(loopguard.LoopGuardConfig(**options))
    try:
        yield
    finally:
        loopguard.stop()


def segment() -> Segment:
    """The segment of this process now."""
    path = loopguard.status()["segment"]
    assert isinstance(path, str), f"no segment: {loopguard.status()}"
    return Segment(path)


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """The first true result of `condition`."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what or condition}"
        time.sleep(0.005)


def settled() -> Segment:
    """The segment once the watchdog has read all that happened so far.

    It reads the notes at the beginning of each round, so two rounds later all of
    them are told.
    """
    rounds = segment().counters["watchdog_ticks"]
    return until(
        lambda: (s := segment()).counters["watchdog_ticks"] >= rounds + 2 and s, "the watchdog"
    )


def stalls(kind: str = "step") -> list[Stall]:
    """The finished stalls of that kind so far."""
    return [s for s in settled().stalls if s.kind == kind]


def scope(path: str = "/", method: str = "GET", kind: str = "http", **more: Any) -> dict[str, Any]:
    """An ASGI scope as a server makes it."""
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": path.encode(errors="surrogateescape"),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test")],
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
        **more,
    }


async def request(
    app: App, path: str = "/", method: str = "GET", *, body: bytes = b"", **more: Any
) -> Messages:
    """One request on the running loop; what the application sent."""
    sent: Messages = []
    inbox: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if inbox:
            return inbox.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    try:
        await app(scope(path, method, **more), receive, send)
    finally:
        gone.set()
    return sent


def status_of(sent: Messages) -> int:
    """The status code among what was sent."""
    return int(next(m["status"] for m in sent if m["type"] == "http.response.start"))


def body_of(sent: Messages) -> bytes:
    """The whole body among what was sent."""
    return b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")


async def websocket(app: App, path: str, texts: list[str]) -> Messages:
    """A client that sends `texts` and leaves; what the application sent."""
    sent: Messages = []
    inbox = [{"type": "websocket.connect"}]
    inbox += [{"type": "websocket.receive", "text": text} for text in texts]
    inbox += [{"type": "websocket.disconnect", "code": 1000}]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return inbox.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope(path, kind="websocket"), receive, send)
    return sent


def spin(ms: float) -> None:
    """Uses that much time of a CPU; on a busy machine it takes longer."""
    until_s = time.thread_time() + ms / 1e3
    while time.thread_time() < until_s:
        pass


# ---- processes of their own -----------------------------------------------


def script(
    source: str,
    *args: str,
    env: dict[str, str] | None = None,
    check: bool = True,
    options: tuple[str, ...] = (),
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Runs Python source in a process of its own, with this folder to import from."""
    process = subprocess.Popen(
        [sys.executable, *options, "-c", textwrap.dedent(source), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
    )
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        kept = segments_of(process.pid)
    if check:
        assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{errors}"
    if process.returncode != 0:  # it did not end by itself, or not as Python ends
        for path in kept:
            Path(path).unlink()
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """This one's, with this folder and that of the tests' package to import from."""
    folders = [str(Path(__file__).parent), str(Path(loopguard.__file__).parents[1])]
    present = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders + ([present] if present else [])),
        **(more or {}),
    }


def segments_of(pid: int) -> list[str]:
    """Paths of the segments of a process; normally one or none."""
    return glob.glob(f"/dev/shm/loopguard.{pid}.*")


class Worker:
    """A server with an application given as source, in a process of its own.

    It is uvicorn, unless `command` says otherwise; "{fd}" in that is the number
    of the listening socket.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        loop: str = "asyncio",
        env: dict[str, str] | None = None,
        command: list[str] | None = None,
    ) -> None:
        (folder / "application.py").write_text(textwrap.dedent(source))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        fd = self.listener.fileno()
        if command is None:
            command = [sys.executable, "-m", "uvicorn", "application:app", "--fd", "{fd}"]
            command += ["--loop", loop, "--log-level", "warning"]
        self.process = subprocess.Popen(
            [word.format(fd=fd) for word in command],
            cwd=folder,
            env=environment(env),
            pass_fds=[fd],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def get(self, path: str, *, timeout: float = DEADLINE_S) -> tuple[int, bytes]:
        """Status and body; connects when the worker listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def segment(self) -> Segment:
        """Its segment now, alive or dead."""
        return Segment(until(lambda: segments_of(self.pid), "the worker's segment")[0])

    def settled(self) -> Segment:
        """Its segment once the watchdog has told all that happened."""
        rounds = self.segment().counters["watchdog_ticks"]
        return until(
            lambda: (s := self.segment()).counters["watchdog_ticks"] >= rounds + 2 and s,
            "the worker's watchdog",
        )

    def tell(self, number: int) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Ends it by a signal, unless it ended itself; exit status and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            _, errors = self.process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, errors = self.process.communicate()
            raise AssertionError(f"it did not end by signal {number}:\n{errors}") from None
        return self.process.returncode, errors

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.listener.close()
        for path in segments_of(self.pid):
            os.unlink(path)
