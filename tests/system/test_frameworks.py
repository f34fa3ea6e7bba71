"""Applications behave as without loopguard, on the installed frameworks; with
LOOPGUARD_TEST_MATRIX=1 (`make matrix`) on the oldest ones and some between too.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

import loopguard

HERE = Path(__file__).resolve().parent
DEADLINE_S = 90.0
INSTALLED = "installed"
# What pip is asked for. Steps in what the frameworks do: FastAPI 0.106 ends
# dependencies before background tasks, 0.118 after the response again;
# Starlette 0.28 to 0.40 and 1.0 changed routing, streaming and lifespan.
MATRIX = {
    "oldest": ["fastapi==0.100.0", "starlette==0.27.0", "anyio<4"],
    "0.106": ["fastapi==0.106.0"],
    "0.115": ["fastapi==0.115.0"],
    "0.118": ["fastapi==0.118.0"],
    "newest": ["fastapi"],
}
WAYS = ["install", "middleware", "warn", "run", "everything"]
if os.environ.get("LOOPGUARD_TEST_MATRIX") == "1":
    RUNS = [(v, w, k) for v in MATRIX for w in WAYS for k in ("asyncio", "uvloop")]
else:
    RUNS = [(INSTALLED, way, "asyncio") for way in ("install", "warn", "run", "everything")]
    RUNS.append((INSTALLED, "install", "uvloop"))
NAMES = {
    "request GET (unmatched)",
    "request GET /api/api/v1/{tenant}/deep/{leaf}",
    "request GET /api/v1/{tenant}/deep/{leaf}",
    "request GET /async/{number}",
    "request GET /depends",
    "request GET /stream/{kind}",
    "request GET /sub/{region}/here/{n:int}",
    "request GET /sub/{region}/two/x",
    "request GET /sync/{number}",
    "request GET {tenant}.example.org/told",
    "request POST /items",
    "websocket WS /api/talk/{name}",
    "websocket WS /talk/{name}",
}

pytestmark = pytest.mark.timeout(600)


@functools.cache
def python_of(version: str) -> str:
    """A Python that has those frameworks, and loopguard as it is here."""
    if version == INSTALLED:
        return sys.executable
    minor = "{}.{}".format(*sys.version_info)
    folder = HERE.parents[1] / "build" / "matrix" / f"{minor}-{version}"
    python = str(folder / "bin" / "python")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True, symlinks=True)
        uvloop = importlib.metadata.version("uvloop")
        wanted = [*MATRIX[version], f"uvloop=={uvloop}"]
        subprocess.run([python, "-m", "pip", "install", "-qq", *wanted], check=True)
        (folder / "done").touch()
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    shutil.rmtree(packages / "loopguard", ignore_errors=True)
    shutil.copytree(Path(loopguard.__file__).parent, packages / "loopguard")
    return python


@functools.cache
def transcript(version: str, way: str, loop: str) -> dict[str, Any]:
    """What frameworks.py has to say, run in that way."""
    python = python_of(version)
    launcher = [python, "-m", "loopguard", "run", "--"] if way == "run" else []
    done = subprocess.run(
        [*launcher, python, "frameworks.py", "plain" if way == "run" else way, loop],
        cwd=HERE,
        env={**os.environ, "VIEWER": viewer()},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def viewer() -> str:
    beside = Path(sys.executable).with_name("loopguard-top")
    return str(beside) if beside.exists() else "loopguard-top"


@pytest.mark.parametrize(("version", "way", "loop"), RUNS)
def test_application_behaves_as_without_us(version: str, way: str, loop: str) -> None:
    if importlib.util.find_spec(loop) is None:
        pytest.skip(f"{loop} is not installed")
    plain = dict(transcript(version, "plain", loop))
    measured = dict(transcript(version, way, loop))
    assert (plain.pop("measuring"), measured.pop("measuring")) == (False, True)
    assert plain.pop("endpoints") == []
    assert NAMES - set(measured.pop("endpoints")) == set()
    assert list(measured) == list(plain)
    different = {
        what: (plain[what], told) for what, told in measured.items() if told != plain[what]
    }
    assert different == {}
    assert len(plain) > 60
