"""A terminal, a played worker and the viewer between them.

`scene` plays a worker (scene.c): one consistent story, alive for as long as a
test wants. `Screen` runs loopguard-top on a pty of its own and is the terminal:
pyte draws what the program writes. Everything waits for a condition with a
deadline; nothing sleeps and hopes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0


class Screen:
    """loopguard-top on a terminal of `columns` x `rows`."""

    def __init__(
        self,
        command: list[str],
        *,
        cwd: Path | str | None = None,
        columns: int = 80,
        rows: int = 24,
        env: dict[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.raw = b""
        self.status: int | None = None
        self.master, self.slave = pty.openpty()
        self.terminal = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.terminal)
        self.resize(columns, rows)
        self.modes = termios.tcgetattr(self.slave)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"NO_COLOR", "LOOPGUARD_TOP", "LINES", "COLUMNS"}
        }
        environment |= {"TERM": "tmux-256color", "LC_ALL": "C.UTF-8", "TZ": "UTC", **(env or {})}

        def in_child() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            # A test run in the background was started with SIGINT ignored.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if preexec is not None:
                preexec()

        # preexec_fn: the one way to a controlling terminal; we have no threads.
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            preexec_fn=in_child,  # noqa: PLW1509
        )

    def read(self, timeout_s: float) -> bool:
        """Takes what the program has written; False when there was nothing."""
        if not select.select([self.master], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.raw += data
        self.stream.feed(data)
        return bool(data)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.terminal.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait(self, condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"never saw {what}; last:\n{self.text}"
            self.read(0.05)

    def wait_for(self, part: str, within_s: float = DEADLINE_S) -> None:
        self.wait(lambda: part in self.text, repr(part), within_s)

    def wait_gone(self, part: str) -> None:
        self.wait(lambda: part not in self.text, f"{part!r} go away")

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.terminal.resize(rows, columns)

    def end(self, within_s: float = DEADLINE_S) -> int:
        """Waits for the program's end; its status as subprocess tells it."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end; last:\n{self.text}"
            self.read(0.05)
        while self.read(0.0):
            pass
        return self.process.returncode

    def is_given_back(self) -> bool:
        """Modes as before, the old screen and the cursor back."""
        left = self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h") >= 0
        shown = max(self.raw.rfind(b"\x1b[?25h"), self.raw.rfind(b"\x1b[34h"))
        return left and shown >= 0 and termios.tcgetattr(self.slave) == self.modes

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):  # a test may have closed it
                os.close(fd)


class Scene:
    """A played worker: `order("block /search")` and so on, see scene.c."""

    def __init__(self, program: Path, folder: Path, name: str, mode: str) -> None:
        self.path = folder / name
        self.process = subprocess.Popen(
            [program, folder, name, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def order(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        if words == "die":
            self.process.wait(DEADLINE_S)
        else:
            assert self.answer() == "ok"

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it may have died as ordered
            self.process.communicate(timeout=DEADLINE_S)


@pytest.fixture(scope="session")
def top_program() -> str:
    """loopguard-top beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "loopguard-top"
    found = os.environ.get("LOOPGUARD_TOP_PROGRAM") or (
        str(beside) if beside.exists() else shutil.which("loopguard-top")
    )
    assert found, "loopguard-top is not installed: make build"
    return found


@pytest.fixture(scope="session")
def scene_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CC", "cc").split()
    program = tmp_path_factory.mktemp("scene") / "scene"
    sources = [ROOT / "tests/system/scene.c", *sorted((ROOT / "common").glob("*.c"))]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, *flags, "-o", program, *sources], check=True)
    return program


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of our own where segments may be: on a tmpfs."""
    with tempfile.TemporaryDirectory(prefix="lg-screens-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def play(scene_program: Path, folder: Path) -> Iterator[Callable[..., Scene]]:
    """play("live") or play("frozen", name="41207"): a worker until the test ends."""
    scenes: list[Scene] = []

    def start(mode: str, name: str = "41207") -> Scene:
        scenes.append(Scene(scene_program, folder, name, mode))
        return scenes[-1]

    yield start
    for scene in scenes:
        scene.close()


@pytest.fixture
def watch(top_program: str, folder: Path) -> Iterator[Callable[..., Screen]]:
    """watch("--delay=60", file="41207", columns=140): loopguard-top on a terminal."""
    screens: list[Screen] = []

    def start(*options: str, file: str | None = "41207", **how: object) -> Screen:
        command = [top_program, *options]
        if file is not None:
            command.append(f"--file={file}")
        screens.append(Screen(command, cwd=folder, **how))  # type: ignore[arg-type]
        return screens[-1]

    yield start
    for screen in screens:
        screen.close()


@pytest.fixture
def watch_shell(folder: Path) -> Iterator[Callable[..., Screen]]:
    """watch_shell("... | loopguard-top"): a shell's command line on a terminal."""
    screens: list[Screen] = []

    def start(line: str, **how: object) -> Screen:
        screens.append(Screen(["sh", "-c", line], cwd=folder, **how))  # type: ignore[arg-type]
        return screens[-1]

    yield start
    for screen in screens:
        screen.close()


@pytest.fixture
def tmux(folder: Path) -> Iterator[Callable[..., str]]:
    """tmux(..) runs a tmux command on a server of our own; its output."""
    program = shutil.which("tmux")
    if program is None:
        pytest.skip("no tmux")
    base = [program, "-S", str(folder / "tmux"), "-f", "/dev/null"]

    def run(*words: str) -> str:
        return subprocess.run(
            [*base, *words], check=True, capture_output=True, text=True, timeout=DEADLINE_S
        ).stdout

    yield run
    subprocess.run([*base, "kill-server"], check=False, capture_output=True)
