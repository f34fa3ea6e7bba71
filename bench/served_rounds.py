"""Requests a second under wrk, and the CPU time of one request."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rounds import HERE, Series

TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE_S = 30.0
UVICORN = ("-m", "uvicorn", "served:app", "--log-level", "critical", "--no-access-log")


class Server:
    """uvicorn with one variant. Stopped (SIGSTOP) while another is measured, so
    that no timer of it runs in between.
    """

    def __init__(self, python: str, variant: str, loop: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.variant = variant
        self.process = subprocess.Popen(
            [python, *UVICORN, "--loop", loop, "--port", str(self.port)],
            cwd=HERE,
            env={**os.environ, "BENCH_VARIANT": variant, "PYTHONPATH": str(HERE)},
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + DEADLINE_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise RuntimeError(f"{variant}: uvicorn does not listen")
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def cpu_s(self) -> float:
        """CPU time of all its threads."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(DEADLINE_S)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def watched_by_py_spy(py_spy: str, server: Server) -> Iterator[None]:
    """py-spy at 100 Hz beside it."""
    command = [py_spy, "record", "--rate", "100", "--pid", str(server.process.pid)]
    command += ["--format", "raw", "--output", "/dev/null", "--nonblocking"]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)  # it reads symbols before it samples
        if spy.poll() is not None:
            raise RuntimeError("py-spy may not watch the server")
        yield
    finally:
        if spy.poll() is None:
            spy.send_signal(signal.SIGINT)
            spy.wait(DEADLINE_S)


def wrk(port: int, seconds: float) -> tuple[float, int]:
    """Requests a second, and how many in all."""
    command = ["wrk", "-t1", "-c16", f"-d{math.ceil(seconds)}s", f"http://127.0.0.1:{port}/"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    per_s = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    total = re.search(r"(\d+) requests in", done.stdout)
    if per_s is None or total is None or "Non-2xx" in done.stdout:
        raise RuntimeError(f"wrk: {done.stdout}")
    return float(per_s[1]), int(total[1])


def run(
    pythons: dict[str, str],
    loop: str,
    rounds: int,
    seconds: float,
    py_spy: tuple[str, str],
    progress: Callable[[str], None],
) -> tuple[Series, Series]:
    """Interleaved rounds over all servers.

    Args:
        py_spy: name of that variant and its program; "" where there is none.
    Returns:
        Requests a second, and microseconds of CPU a request, of each round.
    """
    per_s, cpu_us = Series(), Series()
    spy_name, spy_program = py_spy
    with contextlib.ExitStack() as stack:
        servers = []
        for variant, python in pythons.items():
            servers.append(Server(python, variant, loop))
            stack.callback(servers[-1].close)
            wrk(servers[-1].port, 1.0)
            servers[-1].process.send_signal(signal.SIGSTOP)
        plain = servers[0]
        for number in range(rounds):
            progress(f"wrk on {loop}: round {number} of {rounds}")
            for server in servers if number % 2 else reversed(servers):
                with server.awake():
                    before = server.cpu_s()
                    speed, count = wrk(server.port, seconds)
                    per_s.add(server.variant, speed)
                    cpu_us.add(server.variant, (server.cpu_s() - before) / count * 1e6)
            if spy_program:
                with plain.awake(), watched_by_py_spy(spy_program, plain):
                    before = plain.cpu_s()
                    speed, count = wrk(plain.port, seconds)
                    per_s.add(spy_name, speed)
                    cpu_us.add(spy_name, (plain.cpu_s() - before) / count * 1e6)
    return per_s, cpu_us
