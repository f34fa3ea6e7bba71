"""The situations of cases.py as tests: those that take little time, or, with
LOOPGUARD_TEST_FULL=1, all of them on both kinds of loop.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases

FULL = os.environ.get("LOOPGUARD_TEST_FULL") == "1"
UVLOOP_ROWS = (1, 5, 9, 11, 12)
ROWS = [
    (loop, row)
    for loop, some in (("asyncio", cases.FAST), ("uvloop", UVLOOP_ROWS))
    for row in (sorted(cases.ROWS) if FULL else some)
]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def workers() -> Iterator[cases.Workers]:
    """One under innocent traffic for each kind of loop, made when first asked for."""
    with cases.Workers() as made:
        yield made


@pytest.mark.parametrize(("loop", "row"), ROWS, ids=lambda value: str(value))
def test_what_is_told_is_what_happened(
    workers: cases.Workers, loop: str, row: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(loop) is None:
        pytest.skip(f"{loop} is not installed")
    findings = list(cases.run_row(row, workers.of(loop)))
    for finding in findings:
        cases.print_finding(row, loop, finding)
    assert findings
    assert [f.what for f in findings if f.verdict() == "WRONG"] == [], capsys.readouterr().out


def test_marks_of_the_situations_are_in_the_application() -> None:
    assert cases.marked_lines("sleep")
    with pytest.raises(AssertionError, match="no-such-mark"):
        cases.marked_lines("no-such-mark")
