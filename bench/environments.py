"""A virtual environment for each tool, under build/bench-venvs/.

The tools are installed from PyPI when they are first needed, with the same
FastAPI, uvicorn and uvloop as ours. One that cannot be had is left out, and the
reason is printed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from variants import Variant

ROOT = Path(__file__).resolve().parents[1]
VENVS = ROOT / "build" / "bench-venvs"
SHARED = ("fastapi", "starlette", "pydantic", "anyio", "uvicorn", "uvloop", "httptools")
OURS = VENVS / "loopguard"
RING_BENCH = ROOT / "build" / "loopguard" / "bench" / "ring_bench"


def make_ours() -> str:
    """Our own, built as users get it: optimised, without asserts.

    Returns:
        Its interpreter.
    """
    venv = str(OURS.relative_to(ROOT))
    _run(["tools/venv.sh", venv, sys.executable, "demo"])
    _run(["tools/install.sh", venv, "-Dagent_asserts=false", "-Dbench=true"])
    _run(["ninja", "-C", "build/loopguard", "--quiet", "bench/ring_bench"])
    return str(OURS / "bin" / "python")


def make(variant: Variant) -> tuple[str, str]:
    """The environment of another tool.

    Returns:
        Its interpreter and "", or "" and why there is none.
    """
    if sys.version_info[:2] < variant.python:
        return "", "needs Python {}.{}".format(*variant.python)
    if not variant.package:
        return str(OURS / "bin" / "python"), ""
    venv = VENVS / variant.package
    python = venv / "bin" / "python"
    wanted = [f"{variant.package}=={variant.version}", *_pins()]
    stamp = venv / ".wanted"
    text = f"{sys.executable} {sys.version} {wanted}"
    if stamp.exists() and stamp.read_text() == text:
        return str(python), ""
    try:
        _run([sys.executable, "-m", "venv", "--clear", str(venv)])
        _run([str(python), "-m", "pip", "install", "-qq", *wanted])
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines() or ["pip failed"]
        return "", lines[-1]
    stamp.write_text(text)
    return str(python), ""


def program(variant: Variant, name: str) -> str:
    """A program that the package of `variant` brings."""
    return str(VENVS / variant.package / "bin" / name)


def _pins() -> list[str]:
    """What ours has, exactly: the frameworks are not what is compared."""
    done = _run([str(OURS / "bin" / "python"), "-m", "pip", "freeze"])
    return [p for p in done.splitlines() if p.partition("==")[0].lower() in SHARED]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout
