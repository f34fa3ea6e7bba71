"""Runs the viewers' programs for tests: where they are, and what they said."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "loopguard-top.schema.json"


def program(name: str) -> str:
    """Path of a compiled program: LOOPGUARD_BINDIR, beside this Python, or PATH."""
    chosen = os.environ.get("LOOPGUARD_BINDIR")
    folders = [Path(chosen)] if chosen else [Path(sys.executable).parent]
    for folder in folders:
        if (folder / name).exists():
            return str(folder / name)
    found = None if chosen else shutil.which(name)
    assert found, f"{name} is not built; set LOOPGUARD_BINDIR to where it is"
    return found


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LOOPGUARD_T", "LC_", "LANG"))}
    return {**kept, "TZ": "UTC", "LC_ALL": "C.UTF-8", "TERM": "tmux-256color", **more}


def run(
    name: str,
    *args: object,
    now: int | None = None,
    ok: bool = False,
    timeout: float = 30,
    env: dict[str, str] | None = None,
    **popen: Any,
) -> subprocess.CompletedProcess[str]:
    """The program's answer. `now` freezes its clock; `ok` wants exit status 0."""
    more = dict(env or {})
    if now is not None:
        more["LOOPGUARD_TEST_NOW"] = str(now)
    path = _for_everyone(program(name)) if "user" in popen else program(name)
    done = subprocess.run(
        [path, *map(str, args)],
        capture_output=True,
        timeout=timeout,
        env=environment(**more),
        check=False,
        text=True,
        **popen,
    )
    crashed = done.returncode < 0 or "Sanitizer" in done.stderr or "runtime error" in done.stderr
    assert not crashed, f"{args}: {done.returncode}\n{done.stderr}"
    if ok:
        assert done.returncode == 0, done.stderr
    return done


@functools.cache
def _for_everyone(path: str) -> str:
    """A copy that another user can start: the checkout may lie in a closed folder."""
    folder = Path(tempfile.mkdtemp(prefix="loopguard-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    copy = folder / Path(path).name
    shutil.copy(path, copy)
    copy.chmod(0o755)
    return str(copy)


def top(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return run("loopguard-top", *args, **more)


def dump(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return run("loopguard-dump", *args, **more)


def top_json(*args: object, **more: Any) -> dict[str, Any]:
    """What `--once --json` says, checked against the shipped schema."""
    answer = json.loads(top("--once", "--json", *args, **more).stdout)
    validate(answer)
    return answer


def validate(answer: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    wrong = jsonschema.exceptions.best_match(validator.iter_errors(answer))
    assert wrong is None, f"{wrong.json_path}: {wrong.message[:300]}"


def worker(*args: object, **more: Any) -> dict[str, Any]:
    """The one worker of an answer."""
    answer = top_json(*args, **more)
    assert len(answer["workers"]) == 1, answer["errors"]
    return answer["workers"][0]


def endpoint(of: dict[str, Any], route: str) -> dict[str, Any]:
    (found,) = [e for e in of["endpoints"] if e["route"] == route]
    return found
