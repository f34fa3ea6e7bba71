"""The demo: its application, its load, and what loopguard-top shows of it."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEADLINE_S = 90.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_load", EXAMPLES / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The application under uvicorn, with the agent; gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "loopguard", "run", "--", "uvicorn", "app:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=EXAMPLES) as process:
        try:
            wait_for_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not listens(port):
        assert process.poll() is None, "the application has ended"
        assert time.monotonic() < deadline, "the application does not listen"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_endpoint_of_the_load_answers(load: ModuleType, url: str) -> None:
    sender = load.Load(url, rate=1, mix=load.HONEST, seed=1)

    async def ask_all() -> dict[str, str]:
        answers = {}
        for method, path, _ in load.HONEST + load.BLOCKERS:
            answers[path] = await sender._exchange(method, path.replace("{n}", "1"))
        return answers

    answers = asyncio.run(ask_all())
    assert answers.pop("/nowhere/{n}") == "404"
    assert answers.pop("/chat/{n}") == "101"
    assert {path: status for path, status in answers.items() if status != "200"} == {}


def test_load_reports_what_was_answered(url: str) -> None:
    command = [sys.executable, str(EXAMPLES / "load.py"), "--url", url, "--duration", "1"]
    done = subprocess.run(
        [*command, "--mix", "honest"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ x 200\n", done.stdout)


def test_load_refuses_a_rate_that_is_no_demo() -> None:
    command = [sys.executable, str(EXAMPLES / "load.py"), "--rate", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 2
    assert "between 1 and 50" in done.stderr


def test_readme_names_every_endpoint() -> None:
    source = (EXAMPLES / "app.py").read_text()
    readme = (EXAMPLES / "README.md").read_text()
    paths = re.findall(r'@app\.\w+\("([^"]+)"', source)
    assert len(paths) > 15
    assert [path for path in paths if path not in readme] == []


def run_demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "run_demo.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def test_demo_shows_the_report_that_blocks_and_ends_by_itself() -> None:
    done = run_demo()
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^BLOCKED +[\d.]+ s +POST +/reports/\{report_id\}$", done.stdout, re.MULTILINE
    )
    assert "render_pdf" in done.stdout
    assert re.search(r"blocked now: POST /reports/\{report_id\} for \d\.\d\d s", done.stdout)


def test_demo_shows_what_the_killed_worker_died_in() -> None:
    done = run_demo("--post-mortem")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^DIED .* while in POST /reports/\{report_id\}, [\d.]+ s into", done.stdout, re.MULTILINE
    )
