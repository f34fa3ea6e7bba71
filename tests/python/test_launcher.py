"""``python -m loopguard run``: real processes, real servers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RUN = [sys.executable, "-m", "loopguard", "run"]
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


def launch(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def run_python(code: str, *options: str, **env: str) -> str:
    done = launch(*options, "--", "python", "-c", code, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_pid_that_was_started_is_the_pid_of_the_command() -> None:
    command = [*RUN, "--", "python", "-c", "import os; print(os.getpid())"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=DEADLINE_S)
    assert int(out) == process.pid


def test_python_is_the_one_that_has_loopguard() -> None:
    assert run_python("import sys; print(sys.prefix)") == sys.prefix


def test_process_without_a_server_imports_nothing_of_us() -> None:
    code = "import sys; print([m for m in sys.modules if m.split('.')[0] == 'loopguard'])"
    assert run_python(code) == "[]"


def test_application_sees_its_own_path() -> None:
    assert "_boot" not in run_python("import sys; print(sys.path)")


def test_options_reach_the_command_as_environment() -> None:
    code = "import os; print(os.environ['LOOPGUARD_STACK_DEPTH'])"
    assert run_python(code, "--stack-depth", "12") == "12"


def test_next_sitecustomize_runs_and_is_the_one_that_is_imported(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("here = 'the next one'\n")
    code = "import sitecustomize; print(sitecustomize.here)"
    assert run_python(code, PYTHONPATH=str(tmp_path)) == "the next one"


def test_child_processes_are_armed_too() -> None:
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', "
        "'import sys; print(any(type(f).__name__ == \"ImportHooks\" for f in sys.meta_path))'])"
    )
    assert run_python(code) == "True"


def test_kill_switch_leaves_the_servers_alone() -> None:
    code = "import uvicorn.config as c; print(hasattr(c.Config.load, '__wrapped__'))"
    assert run_python(code) == "True"
    assert run_python(code, LOOPGUARD_DISABLE="1") == "False"


@pytest.mark.parametrize("flags", [["-I"], ["-E"], ["-S"], ["-bIu"], ["-W", "error", "-E"]])
def test_python_that_would_ignore_us_is_refused_with_the_reason(flags: list[str]) -> None:
    done = launch("--", "python", *flags, "-c", "print('ran')")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "nothing would be measured" in done.stderr


@pytest.mark.parametrize("flags", [["-u"], ["-X", "dev"], ["-WI"]])
def test_other_python_flags_are_not_mistaken_for_those(flags: list[str]) -> None:
    done = launch("--", "python", *flags, "-c", "print('ran')")
    assert done.stdout == "ran\n"


def test_script_whose_first_line_would_ignore_us_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "serve"
    script.write_text(f"#!{sys.executable} -sE\nprint('ran')\n")
    script.chmod(0o755)
    done = launch("--", str(script))
    assert (done.returncode, done.stdout) == (2, "")
    assert "-E" in done.stderr


def test_python_file_runs_without_being_executable(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text("import sys; print(sys.argv[1:])")
    assert launch("--", str(script), "--port", "1").stdout == "['--port', '1']\n"


def test_exit_status_is_that_of_the_command() -> None:
    assert launch("--", "python", "-c", "raise SystemExit(7)").returncode == 7


def test_unknown_command_is_named() -> None:
    done = launch("--", "no-such-server")
    assert done.returncode == 127
    assert "no-such-server: not found" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stack-depth", "1000"], ["stack_depth", "at most 64", "1000"]),
        (["--enabled", "perhaps"], ["enabled", "perhaps"]),
        (["--no-such-option", "1"], ["--no-such-option"]),
        ([], ["no command"]),
    ],
)
def test_bad_option_is_told_before_anything_starts(options: list[str], words: list[str]) -> None:
    command = ["--", "python", "-c", "print('ran')"] if options else []
    done = launch(*options, *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert [word for word in words if word not in done.stderr] == []


def command_of(server: str, port: int) -> list[str]:
    address = f"127.0.0.1:{port}"
    uvicorn = ["uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    gunicorn = ["gunicorn", "-b", address, "--log-level", "error"]
    return {
        "uvicorn": uvicorn,
        "uvicorn asyncio": [*uvicorn, "--loop", "asyncio"],
        "uvicorn asgi2": ["uvicorn", "app:Old", *uvicorn[2:]],
        "uvicorn workers": [*uvicorn, "--workers", "2"],
        "uvicorn reload": [*uvicorn, "--reload"],
        "python -m uvicorn": ["python", "-m", *uvicorn],
        "script": ["serve.py", str(port)],
        "gunicorn uvicorn": [*gunicorn, "-k", uvicorn_worker(), "-w", "2", "app:app"],
        "gunicorn preload": [*gunicorn, "-k", uvicorn_worker(), "--preload", "app:app"],
        "gunicorn asgi": [*gunicorn, "-k", "asgi", "app:app"],
        "hypercorn": ["hypercorn", "-b", address, "app:app"],
        "hypercorn workers": ["hypercorn", "-b", address, "-w", "2", "app:app"],
        "granian": ["granian", "--interface", "asgi", "--port", str(port), "app:app"],
        "granian nolife": ["granian", "--interface", "asginl", "--port", str(port), "app:app"],
    }[server]


# server -> (what must be installed, whether the started process is a supervisor)
SERVERS = {
    "uvicorn": ("uvicorn", False),
    "uvicorn asyncio": ("uvicorn", False),
    "uvicorn asgi2": ("uvicorn", False),
    "uvicorn workers": ("uvicorn", True),
    "uvicorn reload": ("uvicorn", True),
    "python -m uvicorn": ("uvicorn", False),
    "script": ("uvicorn", False),
    "gunicorn uvicorn": ("gunicorn", True),
    "gunicorn preload": ("gunicorn", True),
    "gunicorn asgi": ("gunicorn.workers.gasgi", True),
    "hypercorn": ("hypercorn", True),
    "hypercorn workers": ("hypercorn", True),
    "granian": ("granian", True),
    "granian nolife": ("granian", True),
}


@pytest.mark.parametrize("server", SERVERS)
def test_every_worker_has_a_segment_and_no_supervisor_has_one(server: str, tmp_path: Path) -> None:
    needed, supervised = SERVERS[server]
    if not is_installed(needed):
        pytest.skip(f"{needed} is not installed")
    port = free_port()
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "serve.py").write_text(
        "import sys, uvicorn\nuvicorn.run('app:app', port=int(sys.argv[1]), log_level='warning')\n"
    )
    with serving([*RUN, "--", *command_of(server, port)], tmp_path, port) as process:
        worker = ask(port)["pid"]
        assert len(segments(worker)) == 1
        assert (worker == process.pid) is not supervised
        if supervised:
            assert segments(process.pid) == []


@contextlib.contextmanager
def serving(command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers, in a session of its own; gone afterwards."""
    with subprocess.Popen(
        command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not answers(port):
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    try:
        ask(port)
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def ask(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return dict(json.loads(answer.read()))


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
