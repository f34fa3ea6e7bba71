"""``python -m loopguard``: the programs that need no installed script."""

from __future__ import annotations

import sys

from loopguard import launcher

_USAGE = "usage: python -m loopguard run [options] -- uvicorn app:app --workers 2"


def main(arguments: list[str]) -> int:
    """Runs the program named by the first argument; returns its exit status."""
    if arguments[:1] == ["run"]:
        return launcher.main(arguments[1:])
    wanted = arguments[:1] in (["-h"], ["--help"])
    print(_USAGE, file=sys.stdout if wanted else sys.stderr)
    return 0 if wanted else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
