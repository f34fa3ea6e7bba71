"""Every screen as text: what a reviewer sees in the diff is what a user sees.

The story is that of scene.c with its clock standing still; keys come from the
test hook. New pictures: LOOPGUARD_NEW_GOLDEN=1 pytest tests/system/test_screen_golden.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "screens"
FROZEN = {"TZ": "UTC", "LOOPGUARD_TEST_NOW": "10000000000000"}

SCREENS = {
    "overview": ("", []),
    "overview-1m": ("2", []),
    "overview-by-p99": ("<Right><Left>s<Down><Down><Down><Enter>", []),
    "overview-filtered": ("&item|search<Enter>j", []),
    "sort-menu": ("s<Down>", []),
    "detail": ("<Enter>2", []),
    "stack": ("<Enter><Enter>f", []),
    "blocked": ("b", []),
    "events": ("e", []),
    "events-second": ("ejj", []),
    "workers-one": ("a", []),
    "pool": ("P", []),
    "help": ("?", []),
    "paused": (" ", []),
    "unknown-key": ("X", []),
    "search-prompt": ("/ite", []),
}
SIZES = [(80, 24), (140, 40)]
SMALL = [(100, 30), (120, 33), (60, 12), (40, 9), (20, 4), (18, 3)]


def compare(picture: str, name: str) -> None:
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("LOOPGUARD_NEW_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(picture, encoding="utf-8")
    assert picture == golden.read_text(encoding="utf-8")


@pytest.fixture
def picture(watch: Callable, folder: Path) -> Callable[..., str]:
    def take(keys: str, columns: int, rows: int, *options: str, file: str | None = "41207") -> str:
        saved = folder / "saved.txt"
        hooks = {**FROZEN, "LOOPGUARD_TEST_KEYS": keys, "LOOPGUARD_TEST_SAVE": str(saved)}
        screen = watch(*options, file=file, columns=columns, rows=rows, env=hooks)
        assert screen.end() == 0, screen.text
        return saved.read_text(encoding="utf-8")

    return take


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "%dx%d" % size)
@pytest.mark.parametrize("name", SCREENS)
def test_screen_is_as_drawn(play: Callable, picture: Callable, name: str, size: tuple) -> None:
    keys, options = SCREENS[name]
    play("frozen")
    compare(picture(keys, *size, *options), f"{name}-%dx%d" % size)


@pytest.mark.parametrize("name", ["overview", "detail", "blocked", "workers-one"])
def test_ascii_screen_has_only_ascii(play: Callable, picture: Callable, name: str) -> None:
    play("frozen")
    text = picture(SCREENS[name][0], 80, 24, "--ascii")
    assert text.isascii()
    compare(text, f"{name}-80x24-ascii")


@pytest.mark.parametrize("size", SMALL, ids=lambda size: "%dx%d" % size)
def test_overview_fits_any_terminal(play: Callable, picture: Callable, size: tuple) -> None:
    play("frozen")
    text = picture("", *size)
    assert max(len(line) for line in text.splitlines()) <= size[0]
    compare(text, "overview-%dx%d" % size)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "%dx%d" % size)
def test_dead_worker_is_shown_post_mortem(play: Callable, picture: Callable, size: tuple) -> None:
    play("frozen").order("die")
    for keys, name in (("", "post-mortem"), ("b", "post-mortem-blocked")):
        text = picture(keys, *size)
        assert "POST-MORTEM" in text
        compare(text, f"{name}-%dx%d" % size)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "%dx%d" % size)
def test_two_workers_are_shown_and_merged(play: Callable, picture: Callable, size: tuple) -> None:
    play("frozen", name="41207")
    play("other", name="41208")
    text = picture("", *size, "--file=41207", "--file=41208", file=None)
    compare(text, "workers-%dx%d" % size)


def test_every_size_draws_every_screen_without_fault(play: Callable, picture: Callable) -> None:
    play("frozen")
    for columns, rows in ((20, 4), (27, 5), (33, 7), (59, 11), (76, 19), (99, 34), (119, 20)):
        for page in "oebaP?" + "\n":
            keys = "<Enter>" if page == "\n" else page
            lines = picture(keys, columns, rows).splitlines()
            assert len(lines) == rows
            assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    ("keys", "name"),
    [("am", "workers-one-by-one"), ("ae", "workers-events"), ("aeo", "workers-merged-overview")],
)
def test_screens_of_all_workers(play: Callable, picture: Callable, keys: str, name: str) -> None:
    play("frozen", name="41207")
    play("other", name="41208")
    text = picture(keys, 140, 40, "--file=41207", "--file=41208", file=None)
    compare(text, f"{name}-140x40")


def test_blocks_without_a_stack_have_a_detail(play: Callable, picture: Callable) -> None:
    """GC pauses end before anybody looks: there is nothing to show but their time."""
    play("frozen")
    text = picture("4/health<Enter><Enter><Enter>", 140, 40)
    assert "no stack was taken" in text
    compare(picture("4/health<Enter><Enter>", 140, 40), "detail-without-stack-140x40")
