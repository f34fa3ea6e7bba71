"""Starts the demo application under load and looks at it with loopguard-top.

In a terminal: the live screen; quitting it ends everything. Elsewhere: asks for
a report that takes long, prints the picture while it blocks the loop, and ends.
With --post-mortem the worker is killed in the middle of that block, and the
picture is that of the dead process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
DEADLINE_S = 60.0
WARM_UP_S = 6.0  # rows of several endpoints make the better picture
REPORT = "POST /reports/4711?seconds=5 HTTP/1.1"
REPORT_ROUTE = "/reports/{report_id}"


class DemoError(Exception):
    """The demo cannot go on; says why."""


def main() -> int:
    options = arguments()
    viewer = find_viewer()
    port = free_port()
    log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the worker; the screen is the viewer's
    worker = start_worker(port, options.loop, log)
    load = None
    try:
        wait_until_it_serves(worker, port, log)
        load = start_load(port)
        if options.post_mortem:
            return show_the_dead(viewer, worker, port)
        if sys.stdout.isatty():
            status = subprocess.call([viewer, "--pid", str(worker.pid)])
            print("The worker's own log of its blocks ends with:", *last_lines(log), sep="\n  ")
            return status
        return show_once(viewer, worker, port)
    finally:
        for process in (load, worker):
            end(process)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The demo application, watched by loopguard-top.")
    parser.add_argument("--post-mortem", action="store_true", help="kill -9 it during a block")
    parser.add_argument("--loop", choices=["auto", "asyncio", "uvloop"], default="auto")
    return parser.parse_args()


def find_viewer() -> str:
    beside = Path(sys.executable).with_name("loopguard-top")
    viewer = str(beside) if os.access(beside, os.X_OK) else shutil.which("loopguard-top")
    if viewer is None:
        raise DemoError(f"loopguard-top is neither beside {sys.executable} nor on PATH")
    return viewer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_worker(port: int, loop: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """By the launcher: its exec keeps the pid, so this is the worker's."""
    command = [sys.executable, "-m", "loopguard", "run", "--", sys.executable, "-m", "uvicorn"]
    command += ["app:app", "--port", str(port), "--loop", loop, "--log-level", "warning"]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=log)


def last_lines(log: IO[bytes]) -> list[str]:
    log.seek(0)
    return log.read().decode(errors="replace").splitlines()[-5:]


def start_load(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "load.py"), "--url", f"http://127.0.0.1:{port}"]
    return subprocess.Popen([*command, "--duration", "3600"], stdout=subprocess.DEVNULL)


def wait_until_it_serves(worker: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    end_time = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_time:
        if worker.poll() is not None:
            said = "\n  ".join(last_lines(log))
            raise DemoError(f"the application ended with status {worker.returncode}:\n  {said}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise DemoError(f"the application did not answer within {DEADLINE_S:g} s")


def show_once(viewer: str, worker: subprocess.Popen[bytes], port: int) -> int:
    time.sleep(WARM_UP_S)
    with ask_for_a_report(port):
        blocked = wait_until_it_blocks(viewer, worker)
        print(look(viewer, worker, "--once"))
    print(f"blocked now: POST {REPORT_ROUTE} for {blocked['for_us'] / 1e6:.2f} s")
    print(f"live, in a terminal: loopguard-top --pid {worker.pid}")
    return 0


def show_the_dead(viewer: str, worker: subprocess.Popen[bytes], port: int) -> int:
    time.sleep(WARM_UP_S)
    with ask_for_a_report(port):
        wait_until_it_blocks(viewer, worker)
        worker.kill()
        worker.wait()
    print(f"worker {worker.pid} was killed with signal 9 while it made a report", flush=True)
    return subprocess.call([viewer, "--pid", str(worker.pid)])


def ask_for_a_report(port: int) -> socket.socket:
    """Sends the request and does not wait for the answer."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    connection.sendall(f"{REPORT}\r\nHost: demo\r\nContent-Length: 0\r\n\r\n".encode())
    return connection


def wait_until_it_blocks(viewer: str, worker: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Until the viewer sees the report blocking the loop; what it says of it."""
    end_time = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_time:
        now = json.loads(look(viewer, worker, "--once", "--json"))["workers"][0]["blocked_now"]
        if now is not None and now["route"] == REPORT_ROUTE and now["for_us"] > 1_000_000:
            return dict(now)
        time.sleep(0.05)
    raise DemoError(f"the loop was not seen blocked within {DEADLINE_S:g} s")


def look(viewer: str, worker: subprocess.Popen[bytes], *options: str) -> str:
    command = [viewer, "--pid", str(worker.pid), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout


def end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        sys.exit(f"run_demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
