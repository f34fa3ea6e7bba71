"""``python -m loopguard``: the programs that need no installed script."""

from __future__ import annotations

import sys

from loopguard import autostart, launcher, report

_USAGE = """\
usage: python -m loopguard run [options] -- uvicorn app:app --workers 2
       python -m loopguard autostart on|off|status [--user]
       python -m loopguard report PATH [-q]"""
_PROGRAMS = {"run": launcher.main, "autostart": autostart.main, "report": report.main}


def main(arguments: list[str]) -> int:
    """Runs the program named by the first argument; returns its exit status."""
    program = _PROGRAMS.get(arguments[0]) if arguments else None
    if program is not None:
        return program(arguments[1:])
    wanted = arguments[:1] in (["-h"], ["--help"])
    print(_USAGE, file=sys.stdout if wanted else sys.stderr)
    return 0 if wanted else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
