"""How the application is called on the viewer's screen.

`app_name` if the user gave one; else the server and its application argument,
"uvicorn app.main:app", taken from ``sys.argv``; else the name of the script.
multiprocessing restores ``sys.argv`` in spawned workers, so the workers of one
server agree on the name. Nothing here opens a file.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

_SERVERS = ("uvicorn", "gunicorn", "hypercorn", "granian", "daphne", "fastapi")
# "package.module:attribute", "folder/module:make_app()"; neither an address
# ("0.0.0.0:8000", "unix:/run/x.sock") nor a bare word.
_APPLICATION = re.compile(r"[A-Za-z_.~/][\w./~-]*:[A-Za-z_][\w.]*(\(.*\))?")
_MODULE = re.compile(r"[A-Za-z_][\w./-]*")
# Options whose value can look like an application.
_NOT_AN_APPLICATION = {"--header", "--loop", "--http", "--ws", "-k", "--worker-class"}
_NOT_AN_APPLICATION |= {"--logger-class", "-c", "--config"}


def find_app(app_name: str | None = None, argv: Sequence[str] | None = None) -> tuple[str, str]:
    """Names server and application of this process.

    Args:
        app_name: the user's own name for it; wins.
        argv: instead of ``sys.argv``.
    Returns:
        (server, name), such as ("uvicorn", "uvicorn app.main:app"); server is
        "" when the process was not started as one.
    """
    words = list(getattr(sys, "argv", None) or [""]) if argv is None else list(argv)
    program = _program(words[0])
    if program not in _SERVERS:
        return _embedded_server(), app_name or _script(program)
    application = _application(program, words[1:])
    return program, app_name or f"{program} {application}".strip()


def _program(path: str) -> str:
    """The command's name; that of the package for ``python -m package``."""
    folder, name = os.path.split(path)
    if name == "__main__.py":
        name = os.path.basename(folder)
    return name


def _script(program: str) -> str:
    if program in ("", "-c", "-m"):
        return "python"
    return program


def _embedded_server() -> str:
    """A server that a script runs by itself, if one is loaded."""
    for name in ("uvicorn", "hypercorn", "granian", "gunicorn"):
        if name in sys.modules:
            return name
    return ""


def _application(server: str, words: Sequence[str]) -> str:
    pairs = list(zip(["", *words], words))  # (word before, word)
    for before, word in pairs:
        if _APPLICATION.fullmatch(word) and before not in _NOT_AN_APPLICATION:
            return word
    if server == "fastapi":
        paths = [word for _, word in pairs if word.endswith(".py")]
        return paths[0] if paths else ""
    # gunicorn and granian take a bare module; prefer one that no option owns
    bare = [(before, word) for before, word in pairs if _MODULE.fullmatch(word)]
    free = [word for before, word in bare if not before.startswith("-")]
    owned = [word for before, word in bare if before not in _NOT_AN_APPLICATION]
    return (free or owned or [""])[0]
