"""The JSON report of a test run, and ``python -m loopguard report PATH``.

Written by the pytest plugin with ``--loopguard-report=PATH``, read by scripts
and by the gate of a pipeline; docs/loopguard-report.schema.json describes it.
Needs neither pytest nor the engine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopguard.version import __version__

SCHEMA_VERSION = 3
"""As in fastapi-loopguard 0.9.0, whose keys all are here; more may come."""

VERDICTS = ("clean", "blocked", "allowed", "unmeasured")

_EPILOG = """\
exit status:
  0  no test blocked its event loop
  1  at least one did
  2  there is no such report, it cannot be read, or it says nothing: no test was
     checked (--allow-empty accepts that), or one was not measured although
     --require-measured wants it
"""


class BrokenError(Exception):
    """The file is no report; says why."""


def make(tests: Sequence[Mapping[str, Any]], threshold_ms: float) -> dict[str, Any]:
    """The report of a run.

    Args:
        tests: one record for each test that was checked or allowed to block, as
            in the schema.
        threshold_ms: of tests that do not set one.
    Returns:
        A new dict that `json` can write. ``"tests"`` of the totals are those
        that were checked; allowed ones are counted apart.
    """
    count = {v: sum(t["verdict"] == v for t in tests) for v in VERDICTS}
    checked = len(tests) - count["allowed"]
    return {
        "schema_version": SCHEMA_VERSION,
        "generator": {"name": "loopguard-top", "version": __version__},
        "status": "blocked" if count["blocked"] else "clean",
        "threshold_ms": threshold_ms,
        "totals": {
            "tests": checked,
            "flagged": count["blocked"],
            "unmeasured": count["unmeasured"],
            "measured": checked - count["unmeasured"],
            "allowed": count["allowed"],
        },
        "tests": list(tests),
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Writes it whole or not at all; a reader never meets half of it.

    Raises:
        OSError: as from the file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
            file.write("\n")
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # as open() would have made it
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def main(arguments: Sequence[str]) -> int:
    """Prints a summary of a report; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        report = _load(Path(options.path))
        verdict = _Verdict(report)
    except BrokenError as error:
        print(f"loopguard: {options.path}: {error}", file=sys.stderr)
        return 2
    if not options.quiet:
        _print("\n".join(_summary(report, verdict)))
    if verdict.is_blocked:
        return 1
    if options.require_measured and verdict.unmeasured:
        print(f"loopguard: {verdict.unmeasured} not measured", file=sys.stderr)
        return 2
    if verdict.tests == 0 and not options.allow_empty:
        print("loopguard: no test was checked, so nothing is known", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loopguard report",
        description="Says whether a test run blocked an event loop, by its report.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="PATH", help="file that --loopguard-report of pytest wrote")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print no summary; the exit status says it"
    )
    parser.add_argument(
        "--allow-empty", action="store_true", help="a run that checked no test is clean"
    )
    parser.add_argument(
        "--require-measured", action="store_true", help="a test that was not measured is an error"
    )
    return parser


def _print(text: str) -> None:
    """Whoever reads may stop reading; the exit status is still the verdict."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_bytes())
    except OSError as error:
        raise BrokenError(error.strerror) from None
    except (ValueError, RecursionError) as error:
        raise BrokenError(f"not JSON: {error}") from None
    if not isinstance(report, dict):
        raise BrokenError("not a report: a JSON object is expected")
    return report


class _Verdict:
    """The few words of a report that decide; also of older ones."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        totals = report.get("totals", {})
        if not isinstance(totals, dict):
            raise BrokenError("not a report: its totals are no object")
        self.tests = _count(totals, "tests")
        self.unmeasured = _count(totals, "unmeasured") or 0
        flagged = _count(totals, "flagged")
        status = report.get("status")
        if status is None and flagged is not None:
            status = "blocked" if flagged else "clean"  # schema version 1 had no status
        if status not in ("blocked", "clean"):
            raise BrokenError(f"not a report: its status is {status!r}")
        self.is_blocked = status == "blocked"


def _count(totals: Mapping[str, Any], name: str) -> int | None:
    if name not in totals:
        return None
    number: Any = totals[name]
    if not _is_number(number) or number < 0:
        raise BrokenError(f"not a report: its number of {name} is {number!r}")
    return int(number)


def _is_number(value: Any) -> bool:
    # NaN and Infinity are numbers to Python's reader of JSON
    is_plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_plain and math.isfinite(value)


def _summary(report: Mapping[str, Any], verdict: _Verdict) -> list[str]:
    totals = report.get("totals", {})
    words = [f"{key}={totals[key]}" for key in ("tests", "flagged", "unmeasured") if key in totals]
    if _is_number(report.get("threshold_ms")):
        words.append(f"threshold={report['threshold_ms']}ms")
    lines = ["  ".join([f"loopguard: {'blocked' if verdict.is_blocked else 'clean'}", *words])]
    tests = report.get("tests")
    for test in tests if isinstance(tests, list) else []:
        if isinstance(test, dict) and test.get("verdict") == "blocked":
            lines += _blocked(test)
        elif isinstance(test, dict) and test.get("verdict") == "unmeasured":
            lines.append(f"  unmeasured  {test.get('nodeid')}  {test.get('reason', '')}".rstrip())
    return lines


def _blocked(test: Mapping[str, Any]) -> list[str]:
    events = test.get("events")
    events = [e for e in events if isinstance(e, dict)] if isinstance(events, list) else []
    longest = max((e["lag_ms"] for e in events if _is_number(e.get("lag_ms"))), default=None)
    size = "" if longest is None else f"  longest={longest}ms"
    lines = [f"  blocked  {test.get('nodeid')}{size}"]
    for event in events:
        if event.get("function"):
            place = f"{event['function']} ({event.get('filename')}:{event.get('lineno')})"
            lines.append(f"    {event.get('lag_ms')}ms  {event.get('cause', '')}  {place}")
    return lines
