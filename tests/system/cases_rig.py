"""A real worker, its clients, and what loopguard-top says of it.

Everything waits for a condition with a deadline. Processes are ended by the
one who started them.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEADLINE_S = 30.0

View = dict[str, Any]  # one worker of `loopguard-top --once --json --events`


class TooLateError(AssertionError):
    """A condition did not come true before its deadline."""


def wait_for(
    what: str,
    get: Callable[[], Any],
    condition: Callable[[Any], Any] = bool,
    deadline_s: float = DEADLINE_S,
) -> Any:
    """The first value of `get` for which `condition` holds."""
    end = time.monotonic() + deadline_s
    while True:
        value = get()
        if condition(value):
            return value
        if time.monotonic() > end:
            raise TooLateError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """A program of this Python's environment, else of PATH."""
    here = Path(sysconfig.get_path("scripts")) / name
    found = str(here) if here.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed beside {sys.executable}")
    return found


def top_json(*options: str) -> View:
    """The document that loopguard-top prints, also when it found nothing."""
    command = [program("loopguard-top"), "--once", "--json", "--window", "total", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if not done.stdout.startswith("{"):
        raise AssertionError(f"{' '.join(command)}: {done.returncode} {done.stderr.strip()}")
    document: View = json.loads(done.stdout)
    return document


Command = Callable[[int, str], Sequence[str]]  # of port and kind of loop


def uvicorn(port: int, loop: str, *options: str) -> list[str]:
    """The command of most situations."""
    plain = ["uvicorn", "cases_app:app", "--port", str(port), "--loop", loop]
    return [*plain, "--log-level", "warning", *options]


class Worker:
    """One uvicorn with loopguard in it; a context manager.

    `command`: makes another one that runs cases_app:app, of port and loop.
    `before`: words that exec what comes after them.
    """

    def __init__(
        self,
        loop: str,
        *,
        env: dict[str, str] | None = None,
        command: Command = uvicorn,
        before: Sequence[str] = (),
    ) -> None:
        self.loop = loop
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="loopguard-cases-", dir="/var/tmp")
        self.log = open(os.path.join(self.folder, "log"), "w+b")  # noqa: SIM115 - stop closes it
        launcher = [sys.executable, "-m", "loopguard", "run", "--"]
        environment = {**os.environ, "CASES_FOLDER": self.folder, **(env or {})}
        # the folder of this file is where the server looks for the application
        self.process = subprocess.Popen(
            [*before, *launcher, *command(self.port, loop)],
            cwd=HERE,
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )
        self.pid = self.process.pid

    def __enter__(self) -> Worker:
        try:
            wait_for("the worker listens", self._listens, deadline_s=DEADLINE_S)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the worker has ended: {self.read_log()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def read_log(self) -> str:
        """What it has written, its last 4,000 characters."""
        self.log.flush()
        return Path(self.log.name).read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Ends it, hard if it is stuck."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(DEADLINE_S)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what it is asked

    def get(self, path: str, method: str = "GET", port: int = 0) -> tuple[int, str]:
        """Status and body; status 0 when the worker died over it."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (ConnectionError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def get_all(self, paths: Sequence[str], at_once: int) -> list[int]:
        """Statuses of all `paths`, so many at once."""
        left = list(enumerate(paths))
        statuses = [0] * len(paths)

        def ask() -> None:
            while True:
                try:
                    number, path = left.pop()
                except IndexError:
                    return
                statuses[number] = self.get(path)[0]

        threads = [threading.Thread(target=ask) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return statuses

    @contextlib.contextmanager
    def asking(self, path: str, method: str = "GET", count: int = 1) -> Iterator[None]:
        """Sends requests that are under way within the block."""
        threads = [threading.Thread(target=self.get, args=(path, method)) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join()

    def chat(self, path: str) -> None:
        """One WebSocket: a text there, one back, and closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as s:
            key = base64.b64encode(os.urandom(16)).decode()
            s.sendall(
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            if b" 101 " not in s.recv(4096):
                raise AssertionError("no WebSocket")
            # one masked text frame, the mask all zeros
            s.sendall(b"\x81\x82" + bytes(4) + b"hi")
            while s.recv(4096):
                pass

    def truth(self) -> dict[str, list[float]]:
        """Milliseconds by name, since the last time it was asked."""
        told: dict[str, list[float]] = json.loads(self.get("/truth")[1])
        return told

    # ---- what the viewer says

    def view(self) -> View:
        """The worker as loopguard-top shows it at this moment."""
        document = top_json("--events", "--pid", str(self.pid))
        if not document["workers"]:
            raise AssertionError(f"no worker shown: {document['errors']}")
        view: View = document["workers"][0]
        return view

    def until(
        self, what: str, condition: Callable[[View], Any], deadline_s: float = DEADLINE_S
    ) -> View:
        """The first view for which `condition` holds."""
        view: View = wait_for(what, self.view, condition, deadline_s)
        return view


class Traffic:
    """Twenty innocent requests a second, one after the other."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            if self._worker.get("/ok")[0] == 200:
                self.answered += 1


class SlowServer:
    """Answers HTTP after a while, byte for byte from one thread."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more answers."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # closed
            with peer:
                peer.recv(4096)
                time.sleep(self._delay_s)
                peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
