"""``python -m loopguard autostart``: a start file, and servers started by their own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from importlib import metadata
from pathlib import Path

import pytest
from serving import (
    DEADLINE_S,
    ask,
    free_port,
    is_installed,
    measured,
    serving,
    uvicorn_worker,
    wait_for,
)

from loopguard import autostart

ON = {"LOOPGUARD_AUTOSTART": "1"}
IS_ARMED = "import sys; print(sum(type(f).__name__ == 'ImportHooks' for f in sys.meta_path))"


class Environment:
    """A virtual environment that has all packages of this one."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.python = str(folder / "bin" / "python")
        self.packages = Path(
            self.run("-c", "import site; print(site.getsitepackages()[0])").stdout[:-1]
        )
        self.file = self.packages / "loopguard-autostart.pth"
        # what an installer writes for a package that lies elsewhere
        (self.packages / "all.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for name, call in {
            "uvicorn": "from uvicorn.main import main; main()",
            "gunicorn": "from gunicorn.app.wsgiapp import run; run()",
        }.items():
            script = folder / "bin" / name
            script.write_text(f"#!{self.python}\nif __name__ == '__main__':\n    {call}\n")
            script.chmod(0o755)

    def command(self, name: str) -> str:
        return str(Path(self.python).with_name(name))

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *words],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def autostart(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "loopguard", "autostart", *words, **env)

    def files(self) -> set[Path]:
        return {p for p in self.packages.iterdir() if p.name != "__pycache__"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def off(made: Environment) -> Environment:
    made.file.unlink(missing_ok=True)
    return made


@pytest.fixture
def on(off: Environment) -> Environment:
    assert off.autostart("on").returncode == 0
    return off


def test_on_writes_one_file_of_one_line_and_off_leaves_nothing(off: Environment) -> None:
    before = off.files()
    done = off.autostart("on")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(off.file) in done.stdout
    assert "LOOPGUARD_AUTOSTART=1" in done.stdout
    assert off.files() - before == {off.file}
    assert off.file.read_text().count("\n") == 1
    assert off.autostart("off").returncode == 0
    assert off.files() == before


def test_doing_it_twice_is_no_error(off: Environment) -> None:
    assert [off.autostart("on").returncode for _ in range(2)] == [0, 0]
    assert "already on" in off.autostart("on").stdout
    assert [off.autostart("off").returncode for _ in range(2)] == [0, 0]
    assert "already off" in off.autostart("off").stdout


def test_status_tells_file_and_variable(off: Environment) -> None:
    done = off.autostart("status")
    assert (done.returncode, done.stdout) == (1, f"off: there is no {off.file}\n")
    off.autostart("on")
    done = off.autostart("status", LOOPGUARD_AUTOSTART="")
    assert done.returncode == 0
    assert done.stdout == f"on: {off.file}\nhere: LOOPGUARD_AUTOSTART is not set\n"
    assert "here: LOOPGUARD_AUTOSTART=1" in off.autostart("status", **ON).stdout


@pytest.mark.parametrize("action", ["on", "off", "status"])
def test_python_without_site_is_told_not_to_be_measured(on: Environment, action: str) -> None:
    path = os.pathsep.join([str(on.packages), sysconfig.get_path("purelib")])
    done = on.run("-S", "-m", "loopguard", "autostart", action, PYTHONPATH=path, **ON)
    assert done.returncode == 1
    assert "not active in a Python started with -S" in done.stderr
    assert on.file.exists()


def test_python_without_site_is_not_measured(on: Environment) -> None:
    assert on.run("-S", "-c", IS_ARMED, **ON).stdout == "0\n"


def test_file_of_another_version_is_told_and_renewed(on: Environment) -> None:
    on.file.write_text("import os\n")
    assert "by another version" in on.autostart("status").stdout
    assert on.autostart("on").returncode == 0
    assert on.file.read_text() == autostart.LINE


def test_nothing_changes_without_the_variable(on: Environment) -> None:
    code = "import sys; print(sorted(sys.modules), len(sys.meta_path))"
    with_file = on.run("-c", code).stdout
    on.file.unlink()
    assert on.run("-c", code).stdout == with_file


def test_line_costs_far_less_than_a_millisecond_without_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOOPGUARD_AUTOSTART", raising=False)
    times = []
    for _ in range(50):
        start = time.perf_counter_ns()
        exec(autostart.LINE, {})  # as site.py does
        times.append(time.perf_counter_ns() - start)
    assert sorted(times)[25] < 300_000


@pytest.mark.parametrize("value", ["1", "true", " on "])
def test_variable_arms_every_python_of_the_environment_once(on: Environment, value: str) -> None:
    assert on.run("-c", IS_ARMED, LOOPGUARD_AUTOSTART=value).stdout == "1\n"


@pytest.mark.parametrize("value", ["", "0", "off", "2"])
def test_other_values_arm_nothing(on: Environment, value: str) -> None:
    assert on.run("-c", IS_ARMED, LOOPGUARD_AUTOSTART=value).stdout == "0\n"


def test_isolated_python_is_measured_too(on: Environment) -> None:
    assert on.run("-I", "-c", IS_ARMED, **ON).stdout == "1\n"


def test_kill_switch_wins(on: Environment) -> None:
    assert on.run("-c", IS_ARMED, **ON, LOOPGUARD_DISABLE="1").stdout == "0\n"


def test_process_without_a_server_imports_nothing_of_us(on: Environment) -> None:
    code = "import sys; print([m for m in sys.modules if m.split('.')[0] == 'loopguard'])"
    assert on.run("-c", code, **ON).stdout == "[]\n"


def test_beside_the_launcher_it_arms_once(on: Environment) -> None:
    run = ["-m", "loopguard", "run", "--", "python", "-c"]
    assert on.run(*run, IS_ARMED, **ON).stdout == "1\n"
    code = "import uvicorn.config as c; print(hasattr(c.Config.load.__wrapped__, '__wrapped__'))"
    assert on.run(*run, code, **ON).stdout == "False\n"


def test_file_that_outlived_the_package_does_nothing(on: Environment) -> None:
    (on.packages / "all.pth").rename(on.packages / "all.away")
    try:
        done = on.run("-c", "print('ran')", **ON)
    finally:
        (on.packages / "all.away").rename(on.packages / "all.pth")
    assert (done.stdout, done.stderr) == ("ran\n", "")


def test_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(autostart, "folder", lambda *, user: tmp_path)
    refused = PermissionError(13, "Permission denied", str(tmp_path / "new"))
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(refused))
    assert autostart.main(["on"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert f"cannot change {tmp_path / autostart.FILE}: Permission denied" in told.err
    assert list(tmp_path.iterdir()) == []


def test_user_folder_of_a_virtual_environment_is_refused(off: Environment) -> None:
    done = off.autostart("on", "--user")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not read" in done.stderr


def test_user_folder_is_used_outside_of_one(tmp_path: Path) -> None:
    packages = sysconfig.get_path("purelib")
    base = Path(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info))
    command = [str(base), "-m", "loopguard", "autostart"]
    env = {**os.environ, "PYTHONUSERBASE": str(tmp_path), "PYTHONPATH": packages}
    for action in ("on", "off"):
        subprocess.run([*command, action, "--user"], env=env, timeout=DEADLINE_S, check=True)
        found = list(tmp_path.rglob("*.pth"))
        assert [f.name for f in found] == (["loopguard-autostart.pth"] if action == "on" else [])


def test_uninstalling_takes_the_file_along(tmp_path: Path) -> None:
    record = next(f for f in metadata.files("loopguard-top") or () if f.name == "RECORD")
    info = Path(str(record.locate())).parent
    shutil.copytree(info, tmp_path / info.name)
    copied = tmp_path / info.name / "RECORD"
    before = copied.read_text()
    file = tmp_path / autostart.FILE
    autostart._on(file)
    autostart._on(file)
    assert copied.read_text() == before + f"{autostart.FILE},,\n"
    autostart._off(file)
    assert copied.read_text() == before


@pytest.mark.parametrize("words", [[], ["perhaps"], ["on", "--global"]])
def test_bad_command_line_is_told(off: Environment, words: list[str]) -> None:
    done = off.autostart(*words)
    assert done.returncode == 2
    assert "usage: python -m loopguard autostart" in done.stderr
    assert not off.file.exists()


@pytest.mark.parametrize(
    ("server", "workers"), [("uvicorn", 1), ("uvicorn workers", 2), ("gunicorn", 2), ("script", 1)]
)
def test_server_started_by_its_own_command_is_measured(
    on: Environment, tmp_path: Path, server: str, workers: int
) -> None:
    if server == "gunicorn" and not is_installed("gunicorn"):
        pytest.skip("gunicorn is not installed")
    port = free_port()
    uvicorn = [on.command("uvicorn"), "app:app", "--port", str(port), "--log-level", "warning"]
    bind = ["-b", f"127.0.0.1:{port}", "-w", "2", "--log-level", "error"]
    command = {
        "uvicorn": uvicorn,
        "uvicorn workers": [*uvicorn, "--workers", "2"],
        "gunicorn": [on.command("gunicorn"), *bind, "-k", uvicorn_worker(), "app:app"],
        "script": [on.python, "serve.py", str(port)],
    }[server]
    with serving(command, tmp_path, port, env={**os.environ, **ON}) as process:
        wait_for(lambda: len(measured(process.pid)) == workers, "a segment for each worker")
        assert ask(port)["pid"] in measured(process.pid)


def test_server_without_the_variable_is_not_measured(on: Environment, tmp_path: Path) -> None:
    port = free_port()
    command = [on.command("uvicorn"), "app:app", "--port", str(port), "--log-level", "warning"]
    with serving(command, tmp_path, port) as process:
        assert ask(port)["pid"] == process.pid
        assert measured(process.pid) == set()
