"""Makes a report: the typical work that somebody put into a coroutine.

Each part takes as long as it is told, so that the demo looks the same on a fast
and on a slow machine.
"""

from __future__ import annotations

import time


def build_report(report_id: int, seconds: float) -> bytes:
    rows = load_rows(report_id)
    return render_pdf(rows, seconds)


def load_rows(report_id: int) -> list[str]:
    return [f"report {report_id}, row {n}" for n in range(200)]


def render_pdf(rows: list[str], seconds: float) -> bytes:
    page = bytearray()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for row in rows:
            draw_text(page, row)
        del page[:]
    return bytes(page)


def draw_text(page: bytearray, row: str) -> None:
    for letter in row:
        page.append(ord(letter) & 0x7F)


def rank(words: list[str], seconds: float) -> list[str]:
    """A search that sorts far too often."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        words = sorted(words, key=lambda word: (len(word), word))
    return words
