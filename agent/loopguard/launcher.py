"""``python -m loopguard run [options] -- COMMAND``: no change to the application.

Puts a folder with a ``sitecustomize.py`` first on ``PYTHONPATH``, the options
into ``LOOPGUARD_*``, and becomes the command by exec: the pid that was started
is the pid to look at. All workers inherit the environment, forked or spawned.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from loopguard.config import LoopGuardConfig

_BOOT = str(Path(__file__).resolve().parent / "_boot")
_EPILOG = """\
examples:
  python -m loopguard run -- uvicorn app:app --workers 2
  python -m loopguard run --segment-mode 640 -- gunicorn -k uvicorn_worker.UvicornWorker app:app
  python -m loopguard run -- hypercorn app:app
  python -m loopguard run -- granian --interface asgi app:app
  python -m loopguard run -- python -m uvicorn app:app
  python -m loopguard run -- server.py
Every option is a field of LoopGuardConfig and can also be set as LOOPGUARD_<FIELD>.
"""


class RefusedError(Exception):
    """The command cannot be measured, or not be found; says why."""


def main(arguments: Sequence[str]) -> int:
    """Becomes the command; returns an exit status only when it cannot.

    Returns:
        2 for bad options or a command that would ignore the start-up file, 126
        or 127 when it cannot be run or found, as a shell says it.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command given: put it after --")
    settings = {
        name: text for name, text in vars(options).items() if name != "command" and text is not None
    }
    problem = _problem_of(settings)
    if problem:
        parser.error(problem)
    try:
        program, argv = _resolve(command)
        _refuse_isolated(program, argv)
        os.execve(program, argv, environment(settings, os.environ))
    except RefusedError as error:
        print(f"loopguard: {error}", file=sys.stderr)
        return 127 if "not found" in str(error) else 2
    except OSError as error:
        print(f"loopguard: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return 126


def environment(settings: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the command.

    Args:
        settings: text by field of `LoopGuardConfig`.
        base: the environment to start from.
    Returns:
        A new dict with ``PYTHONPATH`` and ``LOOPGUARD_*`` set.
    """
    env = dict(base)
    old = [p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p and p != _BOOT]
    env["PYTHONPATH"] = os.pathsep.join([_BOOT, *old])
    env.update({f"LOOPGUARD_{name.upper()}": text for name, text in settings.items()})
    return env


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loopguard run",
        usage="%(prog)s [options] -- COMMAND [ARGUMENT ...]",
        description="Runs an ASGI server, or any Python program, with loopguard in its workers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name in LoopGuardConfig.fields_from_text():
        parser.add_argument("--" + name.replace("_", "-"), metavar="VALUE", dest=name)
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _problem_of(settings: Mapping[str, str]) -> str:
    """What is wrong with the options, before anything is started."""
    try:
        LoopGuardConfig.from_text(settings)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def _resolve(command: Sequence[str]) -> tuple[str, list[str]]:
    """The file to execute, and its argv."""
    name = command[0]
    if name == "-m" or (name.endswith(".py") and not os.access(name, os.X_OK)):
        return sys.executable, [sys.executable, *command]
    if os.path.dirname(name):
        return name, list(command)
    # The environment that loopguard is installed in need not be activated, and
    # another one on PATH would not find loopguard.
    beside = os.path.join(os.path.dirname(sys.executable), name)
    program = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if program is None:
        raise RefusedError(f"{name}: not found, neither beside {sys.executable} nor on PATH")
    return program, [program, *command[1:]]  # Python finds its prefix by argv[0]


def _refuse_isolated(program: str, argv: Sequence[str]) -> None:
    """-I and -E ignore PYTHONPATH, -S runs no sitecustomize: nothing would be
    measured, and nothing would say so.
    """
    words = _shebang(program) or (list(argv) if _is_python(program) else [])
    for flag in _interpreter_flags(words[1:]):
        if flag in "IES":
            raise RefusedError(
                f"Python option -{flag} keeps the start-up file from running, so nothing would be "
                f"measured; leave it out, or use loopguard.install(app) in the application"
            )


def _shebang(program: str) -> list[str]:
    """The interpreter line of a script that names a Python, else nothing."""
    with open(program, "rb") as file:
        line = file.readline(512)
    if not line.startswith(b"#!"):
        return []
    words = line[2:].decode(errors="replace").split()
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-S")]
    return words if words and _is_python(words[0]) else []


def _is_python(program: str) -> bool:
    return os.path.basename(program).startswith(("python", "pypy"))


def _interpreter_flags(words: Sequence[str]) -> str:
    """All single letters before the script, -m or -c."""
    letters = ""
    takes_value = False
    for word in words:
        if takes_value:
            takes_value = False
            continue
        if not word.startswith("-") or word in ("-", "--"):
            break
        if word.startswith("--"):
            continue
        for position, letter in enumerate(word[1:], start=1):
            if letter in "cm":
                return letters
            if letter in "WX":
                takes_value = position == len(word) - 1
                break
            letters += letter
    return letters
