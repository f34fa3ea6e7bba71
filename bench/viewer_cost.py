"""What the viewer costs: time to its first frame, CPU share, private memory;
and what an idle worker pays for the agent.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import pty
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from served_rounds import TICKS, Server

LAST_OF_FRAME = b"Qui"  # "Quit" in the last line, whose last cell is drawn apart


@contextlib.contextmanager
def viewer(program: str, pid: int, columns: int, rows: int) -> Iterator[tuple[int, int, float]]:
    """loopguard-top on a terminal: its pid, the terminal's end, when it was started."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [program, "--pid", str(pid)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield process.pid, master, start
    finally:
        process.terminate()
        drain(master, 0.2)
        process.wait(10)
        os.close(master)


@contextlib.contextmanager
def asked(port: int) -> Iterator[None]:
    """A hundred requests a second."""
    stop = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not stop.wait(0.01):
            connection.request("GET", "/")
            connection.getresponse().read()
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def drain(master: int, seconds: float, until: bytes = b"") -> bytes:
    """Takes what the viewer writes, for so long or until it has written that."""
    text = b""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not (until and until in text):
        if select.select([master], [], [], max(0.0, min(0.05, end - time.perf_counter())))[0]:
            try:
                text += os.read(master, 65536)
            except OSError:  # the other side is closed
                break
    return text


def first_frame_ms(program: str, server: Server) -> float:
    """From the start of the process to the last line of its first frame."""
    with viewer(program, server.process.pid, 80, 24) as (_, master, start):
        text = drain(master, 10.0, LAST_OF_FRAME)
        took = time.perf_counter() - start
    if LAST_OF_FRAME not in text:
        raise RuntimeError(f"no frame: {text[-300:]!r}")
    return took * 1e3


def share_and_memory(
    program: str, server: Server, columns: int, rows: int, seconds: float
) -> tuple[float, float]:
    """Per cent of one core at 1 Hz, and private MiB, while the worker is asked
    a hundred times a second.
    """
    with asked(server.port), viewer(program, server.process.pid, columns, rows) as watching:
        pid, master, _ = watching
        drain(master, 2.0)
        before = cpu_ticks(pid)
        start = time.perf_counter()
        drain(master, seconds)
        used_s = (cpu_ticks(pid) - before) / 1e9
        share = used_s / (time.perf_counter() - start)
        memory = private_mib(pid)
    return share * 100, memory


def idle_share(server: Server, seconds: float) -> float:
    """Per cent of one core that all threads of an idle worker use."""
    with server.awake():
        time.sleep(1.5)  # a second after the last request the watchdog slows down
        before = cpu_ticks(server.process.pid)
        time.sleep(seconds)
        used_s = (cpu_ticks(server.process.pid) - before) / 1e9
    return used_s / seconds * 100


def cpu_ticks(pid: int) -> float:
    """CPU nanoseconds of all threads: schedstat, where a tick of 10 ms is too coarse."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    if total == 0:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS * 1e9
    return total


def private_mib(pid: int) -> float:
    """Pages that would be free without this process."""
    kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            kib += int(line.split()[1])
    return kib / 1024
