"""What loopguard costs, beside no agent and beside its peers.

    python bench/run.py [--quick] [--only NAME ...]

Everything is interleaved and printed as ratios; see README.md for reading them.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence

import environments
import served_rounds
import variants
import viewer_cost
from rounds import Series, Spread, run_rounds, show_progress

NONE, OURS, NO_TASKS = variants.NONE.name, variants.OURS.name, variants.NO_TASKS.name
SECTIONS = ("ring", "request", "micro", "wrk", "viewer")


def heading(text: str) -> None:
    show_progress("")
    print(f"\n{text}")


def spread(s: Spread, form: str, unit: str) -> str:
    """Median, the middle half, the extremes."""
    return (
        f"{s.median:{form}}{unit}   middle half {s.low:{form}} to {s.high:{form}}"
        f"   all {s.least:{form}} to {s.most:{form}}"
    )


def print_added(series: Series, names: Sequence[str], scale: float, unit: str) -> None:
    """Cost in absolute terms, and as a ratio to no agent."""
    form = "+.2f" if scale > 1 else "+.0f"
    for name in names:
        added = series.added(name, NONE)
        ratio = series.ratio(name, NONE)
        scaled = Spread(*(v / scale for v in vars(added).values()))
        best = series.added_at_best(name, NONE) / scale
        print(
            f"  {name:<28} x {ratio.median:.3f}   added {best:{form}}{unit} at best,"
            f" median {spread(scaled, form, unit)}"
        )


def ring(quick: bool) -> None:
    del quick
    heading("One record into the ring (goal 10 ns)")
    done = subprocess.run(
        [str(environments.RING_BENCH)], check=True, capture_output=True, text=True
    )
    print("  " + done.stdout.strip())


def request(pythons: dict[str, str], quick: bool) -> None:
    heading(
        "One trivial FastAPI request in process, a task each, no network"
        " (goal +0.60 us; without tasks +0.40 us)"
    )
    rounds, count = (15, 1000) if quick else (60, 1000)
    series = run_rounds(pythons, "request", count, rounds, show_progress)
    show_progress("")
    print(f"  {NONE:<28} {series.median(NONE) / 1e3:.1f} us a request")
    print_added(series, [n for n in pythons if n != NONE], 1e3, " us")


def micro(pythons: dict[str, str], quick: bool) -> None:
    heading("The parts: added to one ...")
    ours = {n: p for n, p in pythons.items() if n in (NONE, OURS, NO_TASKS)}
    rounds = 15 if quick else 60
    for measure, count, text in (
        ("step", 50_000, "step (goal 60 ns)"),
        ("iteration", 20_000, "iteration of the loop, one callback (goal 60 ns)"),
        ("task", 10_000, "child task: created, run, awaited"),
        ("call", 100_000, "hooked system call (pread of /dev/null)"),
        ("pool", 500, "call in the thread pool, the loop's thread of it"),
    ):
        series = run_rounds(ours, measure, count, rounds, show_progress)
        show_progress("")
        print(f"  {text}, {series.median(NONE):.0f} ns without agent")
        print_added(series, [n for n in ours if n != NONE], 1.0, " ns")


def wrk(pythons: dict[str, str], quick: bool) -> None:
    rounds, seconds = (3, 1.0) if quick else (9, 3.0)
    python, why = environments.make(variants.PY_SPY)
    program = environments.program(variants.PY_SPY, "py-spy") if python else ""
    if why:
        print(f"  {variants.PY_SPY.name}: left out, {why}")
    for loop in ("asyncio", "uvloop"):
        heading(f"uvicorn on {loop} under wrk, 16 connections (goal 0.99 of no agent)")
        chosen = {n: p for n, p in pythons.items() if n != NO_TASKS}
        per_s, cpu_us = served_rounds.run(
            chosen, loop, rounds, seconds, (variants.PY_SPY.name, program), show_progress
        )
        show_progress("")
        print(
            f"  {NONE:<28} {per_s.median(NONE):.0f} requests/s,"
            f" {cpu_us.median(NONE):.0f} us of CPU a request"
        )
        for name in per_s.values:
            if name != NONE:
                speed, cpu = per_s.ratio(name, NONE), cpu_us.ratio(name, NONE)
                print(
                    f"  {name:<28} requests/s x {spread(speed, '.3f', '')}   CPU x {cpu.median:.3f}"
                )


def viewer(pythons: dict[str, str], quick: bool) -> None:
    heading("The viewer, and an idle worker")
    program = str(environments.OURS / "bin" / "loopguard-top")
    seconds = 5.0 if quick else 20.0
    ours = served_rounds.Server(pythons[OURS], OURS, "asyncio")
    plain = served_rounds.Server(pythons[NONE], NONE, "asyncio")
    try:
        served_rounds.wrk(ours.port, 1.0)
        frames = [viewer_cost.first_frame_ms(program, ours) for _ in range(5 if quick else 15)]
        print(f"  first frame after {statistics.median(frames):.1f} ms"
              f" ({min(frames):.1f} to {max(frames):.1f}; goal 20 ms)")  # fmt: skip
        for columns, rows, goal in ((80, 24, 0.5), (140, 40, 1.0)):
            share, mib = viewer_cost.share_and_memory(program, ours, columns, rows, seconds)
            print(f"  {columns}x{rows} at 1 Hz: {share:.2f} % of a core (goal {goal}),"
                  f" {mib:.1f} MiB private (goal 10)")  # fmt: skip
        with_agent = viewer_cost.idle_share(ours, seconds)
        without = viewer_cost.idle_share(plain, seconds)
        print(f"  idle worker: {with_agent:.3f} % of a core, without agent {without:.3f}"
              f" (goal +0.2)")  # fmt: skip
    finally:
        ours.close()
        plain.close()


def interpreters() -> dict[str, str]:
    """The environments that can be had, by variant; says which cannot."""
    show_progress("installing what is compared")
    python = environments.make_ours()
    found = {NONE: python, variants.AGAIN.name: python, OURS: python, NO_TASKS: python}
    left_out = {}
    for variant in variants.PEERS:
        python, why = environments.make(variant)
        if python:
            found[variant.name] = python
        else:
            left_out[variant.name] = why
    show_progress("")
    for name, why in left_out.items():
        print(f"{name}: left out, {why}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="what loopguard costs, as ratios")
    parser.add_argument("--quick", action="store_true", help="few rounds: two minutes")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="only this part")
    options = parser.parse_args()
    wanted = options.only or SECTIONS
    python = re.sub(r"\s.*", "", sys.version)
    print(f"Python {python}, {len(os.sched_getaffinity(0))} cores,"
          f" load {os.getloadavg()[0]:.1f} before the start")  # fmt: skip
    pythons = interpreters()
    if "ring" in wanted:
        ring(options.quick)
    for name, part in (("request", request), ("micro", micro), ("wrk", wrk), ("viewer", viewer)):
        if name in wanted:
            part(pythons, options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
