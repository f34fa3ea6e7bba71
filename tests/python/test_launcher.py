"""``python -m loopguard run``: real processes, real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import (
    DEADLINE_S,
    answers,
    ask,
    family,
    free_port,
    is_installed,
    measured,
    serving,
    uvicorn_worker,
    wait_for,
)

RUN = [sys.executable, "-m", "loopguard", "run"]


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
    granian = ["granian", "app:app", "--port", str(port), "--interface"]
    return {
        "uvicorn": uvicorn,
        "uvicorn asyncio": [*uvicorn, "--loop", "asyncio"],
        "uvicorn asgi2": ["uvicorn", "app:Old", *uvicorn[2:]],
        "uvicorn workers": [*uvicorn, "--workers", "2"],
        "uvicorn reload": [*uvicorn, "--reload"],
        "python -m uvicorn": ["python", "-m", *uvicorn],
        "script": ["serve.py", str(port)],
        "gunicorn uvicorn": [*gunicorn, "-k", uvicorn_worker(), "-w", "2", "app:app"],
        "gunicorn preload": [*gunicorn, "-k", uvicorn_worker(), "-w", "2", "--preload", "app:app"],
        "gunicorn asgi": [*gunicorn, "-k", "asgi", "-w", "2", "app:app"],
        "hypercorn": ["hypercorn", "-b", address, "app:app"],
        "hypercorn workers": ["hypercorn", "-b", address, "-w", "2", "app:app"],
        "granian": [*granian, "asgi"],
        "granian workers": [*granian, "asgi", "--workers", "2"],
        "granian nolife": [*granian, "asginl"],
    }[server]


# server -> (what must be installed, workers, whether the started process is a supervisor)
SERVERS = {
    "uvicorn": ("uvicorn", 1, False),
    "uvicorn asyncio": ("uvicorn", 1, False),
    "uvicorn asgi2": ("uvicorn", 1, False),
    "uvicorn workers": ("uvicorn", 2, True),
    "uvicorn reload": ("uvicorn", 1, True),
    "python -m uvicorn": ("uvicorn", 1, False),
    "script": ("uvicorn", 1, False),
    "gunicorn uvicorn": ("gunicorn", 2, True),
    "gunicorn preload": ("gunicorn", 2, True),
    "gunicorn asgi": ("gunicorn.workers.gasgi", 2, True),
    "hypercorn": ("hypercorn", 1, True),
    "hypercorn workers": ("hypercorn", 2, True),
    "granian": ("granian", 1, True),
    "granian workers": ("granian", 2, True),
    "granian nolife": ("granian", 1, True),
}


@pytest.mark.parametrize("server", SERVERS)
def test_every_worker_has_a_segment_and_no_supervisor_has_one(server: str, tmp_path: Path) -> None:
    needed, workers, supervised = SERVERS[server]
    if not is_installed(needed):
        pytest.skip(f"{needed} is not installed")
    port = free_port()
    with serving([*RUN, "--", *command_of(server, port)], tmp_path, port) as process:
        wait_for(lambda: len(measured(process.pid)) >= workers, "a segment for each worker")
        found = measured(process.pid)
        assert len(found) == workers
        assert ask(port)["pid"] in found
        assert (process.pid in found) is not supervised


def test_worker_after_a_reload_is_measured(tmp_path: Path) -> None:
    port = free_port()
    with serving([*RUN, "--", *command_of("uvicorn reload", port)], tmp_path, port) as process:
        first = ask(port)["pid"]

        def reloads() -> bool:
            (tmp_path / "app.py").touch()  # again: the reloader may only just begin to look
            return first not in family(process.pid)

        def is_measured() -> bool:
            return answers(port) and measured(process.pid) == {ask(port)["pid"]}

        wait_for(reloads, "the reload")
        wait_for(is_measured, "one segment, the new worker's")
