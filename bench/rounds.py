"""Interleaved rounds: every variant is asked in turn, so that what the machine
does meanwhile falls on all of them; only ratios of the same round are used.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHILD_DEADLINE_S = 120


class Child:
    """A measured process, kept through all rounds."""

    def __init__(self, python: str, variant: str, measure: str) -> None:
        self.variant = variant
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - some peers write a lot there
        self._process = subprocess.Popen(
            [python, str(HERE / "child.py"), variant, measure],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )

    def ns(self, count: int) -> float:
        """Nanoseconds for one operation, over `count` of them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{self.variant}: the measured process has ended: {text}")
        return float(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(CHILD_DEADLINE_S)
        self._errors.close()


@contextmanager
def children(pythons: dict[str, str], measure: str) -> Iterator[list[Child]]:
    """One for each variant; `pythons` has the interpreter of its environment."""
    made: list[Child] = []
    try:
        for variant, python in pythons.items():
            made.append(Child(python, variant, measure))
        yield made
    finally:
        for child in made:
            child.close()


@dataclass
class Series:
    """What the rounds gave, by variant, in order."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, variant: str, value: float) -> None:
        self.values.setdefault(variant, []).append(value)

    def added(self, variant: str, base: str) -> Spread:
        """The difference to `base`, round by round."""
        return Spread.of([a - b for a, b in zip(self.values[variant], self.values[base])])

    def added_at_best(self, variant: str, base: str) -> float:
        """The difference of the tenth of the rounds that were least disturbed."""
        best = [sorted(self.values[name])[: max(1, len(self.values[name]) // 10)]
                for name in (variant, base)]  # fmt: skip
        return statistics.mean(best[0]) - statistics.mean(best[1])

    def ratio(self, variant: str, base: str) -> Spread:
        """The ratio to `base`, round by round."""
        return Spread.of([a / b for a, b in zip(self.values[variant], self.values[base])])

    def median(self, variant: str) -> float:
        return statistics.median(self.values[variant])


@dataclass(frozen=True)
class Spread:
    """Median and extremes of the rounds; the middle half is `low` to `high`."""

    median: float
    low: float
    high: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        return cls(statistics.median(values), low, high, min(values), max(values))


def run_rounds(
    pythons: dict[str, str],
    measure: str,
    count: int,
    rounds: int,
    progress: Callable[[str], None],
) -> Series:
    """Two rounds to warm up, then `rounds` of `count` operations each."""
    series = Series()
    with children(pythons, measure) as measured:
        for number in range(-2, rounds):
            progress(f"{measure}: round {max(number, 0)} of {rounds}")
            # forth and back, so that none always comes after the same other one
            for child in measured if number % 2 else reversed(measured):
                ns = child.ns(count)
                if number >= 0:
                    series.add(child.variant, ns)
    return series


def show_progress(text: str) -> None:
    """One line that overwrites itself, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
