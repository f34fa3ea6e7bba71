"""``python -m loopguard autostart on|off|status [--user]``: no change to the command.

For environments whose command line belongs to somebody else: a platform's
image, a process manager, a notebook server. ``on`` writes one file of one line,
``loopguard-autostart.pth``, into the environment's site-packages, which every
Python of the environment reads when it starts. That changes nothing by itself:
the line does what ``python -m loopguard run`` does, and only in processes that
have ``LOOPGUARD_AUTOSTART=1`` in their environment. The others pay one look at
the environment.

``off`` removes the file, and so does ``pip uninstall``: where the installer
keeps a list of the files of this distribution beside it, the file is entered.
"""

from __future__ import annotations

import argparse
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

FILE = "loopguard-autostart.pth"
VARIABLE = "LOOPGUARD_AUTOSTART"

# Found by name each time: the file works in a moved environment, and does
# nothing in one that loopguard has left.
_FIND_AND_ARM = """\
import os
from importlib import util
package = util.find_spec("loopguard")
path = package and package.origin and os.path.join(os.path.dirname(package.origin), "startup.py")
if path and os.path.isfile(path):
    spec = util.spec_from_file_location("_loopguard_startup", path)
    startup = util.module_from_spec(spec)
    spec.loader.exec_module(startup)
    startup.arm()
"""
# site.py executes lines that begin with "import"; what one raises is shown on
# stderr with the file's name, and Python goes on.
LINE = (
    f'import os; os.environ.get("{VARIABLE}", "").strip().lower() in ("1", "true", "yes", "on") '
    f"and exec({_FIND_AND_ARM!r}, {{}})\n"
)


class RefusedError(Exception):
    """There is no folder for the file; says why."""


def main(arguments: Sequence[str]) -> int:
    """Switches the start file on or off, or tells which it is.

    Returns:
        0 when done, for ``status`` when the file is there; 1 when not; 2 for a
        bad command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m loopguard autostart",
        description=f"Measures ASGI servers started by any command with {VARIABLE}=1, "
        "by a start file in this environment's site-packages.",
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=("on", "off", "status"))
    parser.add_argument("--user", action="store_true", help="the user's own site-packages")
    options = parser.parse_args(arguments)
    action: Callable[[Path], int] = {"on": _on, "off": _off, "status": _status}[options.action]
    try:
        file = folder(user=options.user) / FILE
    except RefusedError as error:
        print(f"loopguard: {error}", file=sys.stderr)
        return 1
    try:
        return action(file)
    except OSError as error:
        print(f"loopguard: cannot change {file}: {error.strerror}", file=sys.stderr)
        return 1


def folder(*, user: bool) -> Path:
    """The site-packages for the file; need not exist.

    Args:
        user: the user's own, outside of the environment.
    Raises:
        RefusedError: this Python does not read that folder.
    """
    if sys.flags.no_site:
        raise RefusedError("not active in a Python started with -S: it reads no start files")
    if not user:
        # the folder that loopguard is in, unless it is not one that Python
        # looks through for .pth files (a source tree)
        here = str(Path(__file__).resolve().parents[1])
        known = [os.path.realpath(path) for path in site.getsitepackages()]
        return Path(here if here in known else sysconfig.get_path("purelib"))
    path = site.getusersitepackages()
    if not site.check_enableusersite() or (_is_venv() and not _sees_system_packages()):
        raise RefusedError(f"{sys.prefix} does not read {path}; leave out --user")
    return Path(path)


def _on(file: Path) -> int:
    if _text_of(file) == LINE:
        print(f"already on: {file}")
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, LINE)
        print(f"on: {file}")
    _enter_in_record(file, present=True)
    print(f"measured are processes with {VARIABLE}=1 in their environment")
    return 0


def _off(file: Path) -> int:
    if _text_of(file) is None:
        print(f"already off: there is no {file}")
        return 0
    _enter_in_record(file, present=False)
    file.unlink()
    print(f"off: removed {file}")
    return 0


def _status(file: Path) -> int:
    if _text_of(file) is None:
        print(f"off: there is no {file}")
        return 1
    other = "" if _text_of(file) == LINE else ", by another version: run `autostart on` again"
    given = os.environ.get(VARIABLE)
    here = f"{VARIABLE}={given}" if given else f"{VARIABLE} is not set"
    print(f"on: {file}{other}\nhere: {here}")
    return 0


def _is_venv() -> bool:
    return sys.prefix != sys.base_prefix


def _sees_system_packages() -> bool:
    text = _text_of(Path(sys.prefix, "pyvenv.cfg")) or ""
    settings = [line.replace(" ", "").lower() for line in text.splitlines()]
    return "include-system-site-packages=true" in settings


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _write(file: Path, text: str) -> None:
    """Whole or not at all: a Python that starts meanwhile may read it."""
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        new.write_text(text)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _enter_in_record(file: Path, *, present: bool) -> None:
    """Lets the installer know the file, if it installed us into that folder."""
    record = _record_beside(file)
    if record is None:
        return
    row = f"{FILE},,"
    rows = record.read_text().splitlines()
    wanted = [r for r in rows if r != row] + [row] * present
    if wanted != rows:
        _write(record, "\n".join(wanted) + "\n")


def _record_beside(file: Path) -> Path | None:
    for distribution in metadata.distributions(name="loopguard-top", path=[str(file.parent)]):
        for entry in distribution.files or ():
            if entry.name == "RECORD":
                return Path(str(distribution.locate_file(entry)))
    return None
