"""The viewer on a real terminal: banner, colours, keys, sizes, faults."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable

import pytest

BANNER = 4  # line 5
TITLE = 0


def banner_style(screen: object) -> tuple[str, bool]:
    cell = screen.terminal.buffer[BANNER][0]
    return cell.fg, cell.reverse


# ---- banner ----------------------------------------------------------------


def test_banner_needs_no_tick_of_the_table(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=60")
    screen.wait_for("/items/{item_id}")
    scene.order("block /search")
    begun = time.monotonic()
    screen.wait(lambda: screen.lines[BANNER].startswith("!BLOCKED"), "the banner")
    assert time.monotonic() - begun < 2  # 0.15 s on a quiet machine; the table: a minute
    assert "GET /search" in screen.lines[BANNER]
    scene.order("stack")
    screen.wait(lambda: "render_pdf app/reports.py:88" in screen.lines[BANNER], "the line of code")


def test_banner_is_yellow_then_reverse_red_then_ended(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=60")
    screen.wait_for("/items/{item_id}")
    scene.order("block /search")
    screen.wait(lambda: banner_style(screen) == ("brown", False), "yellow")
    screen.wait(lambda: banner_style(screen) == ("red", True), "reverse red")
    assert re.match(r"!BLOCKED 1\.\d\ds", screen.lines[BANNER])
    scene.order("end")
    screen.wait(lambda: screen.lines[BANNER].startswith(" ended   1."), "the end of it")
    assert "GET /search" in screen.lines[BANNER]
    screen.wait(lambda: screen.lines[BANNER] == "", "an empty line 5", within_s=15)


def test_banner_counts_up_ten_times_a_second(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=60")
    screen.wait_for("/items/{item_id}")
    scene.order("block /search")
    seen: set[str] = set()

    def counted() -> bool:
        seen.update(re.findall(r"!BLOCKED (\S+)", screen.lines[BANNER]))
        return len(seen) >= 8

    screen.wait(counted, "eight different times")


def test_nothing_blinks_and_the_bell_rings_once(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=60", "--bell")
    screen.wait_for("/items/{item_id}")
    scene.order("block /search")
    screen.wait(lambda: b"\x07" in screen.raw, "a bell")
    scene.order("end")
    screen.wait(lambda: screen.lines[BANNER].startswith(" ended"), "the end")
    assert screen.raw.count(b"\x07") == 1
    assert not re.search(rb"\x1b\[(\d+;)*5(;\d+)*m", screen.raw)


def test_a_quiet_worker_costs_no_output(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch("--delay=60")
    screen.wait_for("/items/{item_id}")
    while screen.read(0.3):
        pass
    before = len(screen.raw)
    screen.read(1.0)
    assert len(screen.raw) == before


# ---- colours ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "env"), [([], {"NO_COLOR": "1"}), (["--color=never"], {}), ([], {"TERM": "vt100"})]
)
def test_no_colour_when_it_is_not_wanted(
    play: Callable, watch: Callable, options: list[str], env: dict[str, str]
) -> None:
    play("frozen")
    screen = watch(*options, env={"LOOPGUARD_TEST_NOW": "10000000000000", **env})
    screen.wait_for("?Help")
    colours = {cell.fg for row in screen.terminal.buffer.values() for cell in row.values()}
    assert colours == {"default"}
    assert screen.terminal.buffer[BANNER][0].reverse  # told apart all the same


def test_color_option_wins_over_the_variable(play: Callable, watch: Callable) -> None:
    play("frozen")
    screen = watch("--color=always", env={"LOOPGUARD_TEST_NOW": "10000000000000", "NO_COLOR": "1"})
    screen.wait(lambda: banner_style(screen) == ("red", True), "red")


# ---- keys ------------------------------------------------------------------


def test_keys_lead_through_the_screens_and_back(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch()
    screen.wait_for("sort BLOCKED")
    for keys, sign in (
        ("\r", "Blocking stacks, by time"),
        ("t", "order: count"),
        ("q", "sort BLOCKED"),
        ("e", "newest 12 kept"),
        ("\t", "Nothing blocks the loop"),
        ("\t", "1 worker of uvicorn"),
        ("\t", "Threads that run long"),
        ("\t", "sort BLOCKED"),
        ("?", "any key leaves"),
        ("x", "sort BLOCKED"),
        ("\x1bOP", "any key leaves"),  # F1
        ("\x1b", "sort BLOCKED"),
        ("I", "BLOCKED▲"),
        (">", "sort N>T"),
        ("2", "[2]1m"),
        ("X", "No such key: X (? for help)"),
        ("+", "Every 0.9 s"),
    ):
        screen.press(keys)
        screen.wait_for(sign)
    screen.press("\x1b\x1b")  # Esc never quits
    screen.press("q")
    assert screen.end() == 0
    assert screen.is_given_back()


@pytest.mark.parametrize("keys", ["q", "Q", "\x1b[21~", "?Q", "\rQ"])
def test_ways_to_quit(play: Callable, watch: Callable, keys: str) -> None:
    play("live")
    screen = watch()
    screen.wait_for("?Help")
    for key in (keys,) if keys.startswith("\x1b") else keys:
        screen.press(key)
    assert screen.end() == 0
    assert screen.is_given_back()


def test_filter_and_search(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch()
    screen.wait_for("9 rows")
    screen.press("&items|health\r")
    screen.wait_for("filter items|hea~   3 rows")
    screen.wait(lambda: "/reports" not in "".join(screen.lines[6:22]), "the others go")
    screen.press("\x1b")
    screen.wait_for("filter (none)   9 rows")
    screen.press("/openapi\r")
    screen.wait(lambda: any(re.match(r">.*openapi", line) for line in screen.lines), "the cursor")
    screen.press("/nowhere\r")
    screen.wait_for("Not found: nowhere")


def test_pause_stops_the_picture_and_says_for_how_long(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=0.2")
    screen.wait_for("LIVE 0.2s")
    screen.press(" ")
    screen.wait_for("PAUSED 00:00")
    scene.order("block /search")
    screen.wait_for("PAUSED 00:02")
    assert screen.lines[BANNER] == ""
    screen.press(" ")
    screen.wait_for("!BLOCKED 2.")


def test_snapshot_is_json_of_the_same_worker(play: Callable, watch: Callable, folder) -> None:
    play("live")
    screen = watch()
    screen.wait_for("?Help")
    screen.press("w")
    screen.wait_for("Wrote loopguard-41207-")
    (written,) = folder.glob("loopguard-41207-*.json")
    snapshot = json.loads(written.read_text(encoding="utf-8"))
    assert snapshot["schema"] == "loopguard-top/1"
    assert len(snapshot["workers"][0]["endpoints"]) >= 9


def test_path_of_the_line_is_shown_alone_for_copying(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch()
    screen.wait_for("?Help")
    screen.press("ejjj")
    screen.wait(
        lambda: any(re.match(r">.*dumps __init__", line) for line in screen.lines), "the event"
    )
    screen.press("y")
    screen.wait(
        lambda: screen.lines[-1] == "/srv/app/app/reports.py:97", "the path on the last line"
    )


def test_zero_counts_from_now(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch("--window=total")
    screen.wait_for("[4]total")
    assert "total 12" in screen.text
    screen.press("r")
    screen.wait_for("since ")
    screen.wait_for("total 0")
    screen.press("r")
    screen.wait_for("total 12")


def test_keys_come_from_the_terminal_not_from_stdin(
    play: Callable, watch_shell: Callable, top_program: str
) -> None:
    play("live")
    screen = watch_shell(f"echo noise | {top_program} --file=41207; echo left $?")
    screen.wait_for("?Help")
    screen.press("?")
    screen.wait_for("any key leaves")
    screen.press("QQ")
    screen.wait_for("left 0")


# ---- size ------------------------------------------------------------------


def test_new_sizes_are_drawn_at_once(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch("--delay=60")
    screen.wait_for("sort BLOCKED")
    for columns, rows, sign in (
        (140, 40, "WORST FRAME"),
        (100, 30, "OPEN  ENDPOINT"),
        (18, 3, "20x4 needed, 18x3"),
        (20, 4, "LIVE"),
        (300, 80, "WORST FRAME"),
        (80, 24, "?Help"),
    ):
        screen.resize(columns, rows)
        os.kill(screen.process.pid, signal.SIGWINCH)
        screen.wait_for(sign)
        screen.wait_gone("20x4 needed") if columns > 18 else None
    screen.press("q")
    assert screen.end() == 0


# ---- the terminal is given back --------------------------------------------

FAULTS = [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL]


@pytest.mark.parametrize(
    "signo",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, *FAULTS],
    ids=lambda signo: signo.name,
)
def test_terminal_is_given_back_after(play: Callable, watch: Callable, signo: int) -> None:
    play("live")
    screen = watch()
    screen.wait_for("?Help")
    os.kill(screen.process.pid, signo)
    assert screen.end() == -signo
    assert screen.is_given_back()
    said = "internal error (signal %d," % signo in screen.text
    assert said == (signo in FAULTS)
    if said:
        assert "The worker is not affected." in screen.text


def test_interrupt_key_ends_by_the_signal(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch()
    screen.wait_for("?Help")
    screen.press("\x03")
    assert screen.end() == -signal.SIGINT
    assert screen.is_given_back()


def test_a_closed_terminal_ends_the_viewer(play: Callable, watch: Callable) -> None:
    """With SIGHUP ignored only poll() can tell; a viewer that reads on spins."""
    play("live")
    screen = watch(preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    screen.wait_for("?Help")
    os.close(screen.slave)
    os.close(screen.master)
    begun = os.times()
    assert screen.process.wait(10) in {0, 1}
    ended = os.times()
    spent = ended.children_user + ended.children_system
    spent -= begun.children_user + begun.children_system
    assert spent < 2


def test_stderr_is_kept_and_shown_afterwards(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=0.2")
    screen.wait_for("?Help")
    scene.order("die")
    screen.wait_for("EXITED")
    screen.press("q")
    assert screen.end() == 0
    assert re.search(rb"1049l.*41207 exited at \d\d:\d\d:\d\d", screen.raw, re.DOTALL)


# ---- terminals that will not do --------------------------------------------


def test_unknown_terminal_type_is_said(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch(env={"TERM": "no-such-terminal"})
    assert screen.end() == 1
    assert "loopguard-top: unknown terminal type 'no-such-terminal'" in screen.text
    assert "Set TERM, for example TERM=xterm, or use --once." in screen.text
    assert b"\x1b" not in screen.raw


def test_dumb_terminal_gets_it_printed_once(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch(env={"TERM": "dumb"})
    assert screen.end() == 0
    assert b"printing once" in screen.raw
    assert b"\x1b" not in screen.raw


def test_linux_console(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch(env={"TERM": "linux"})
    screen.wait_for("?Help")
    assert "▁" in screen.text
    screen.press("q")
    assert screen.end() == 0


def test_plain_locale_gets_ascii(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch(env={"LC_ALL": "C"})
    screen.wait_for("?Help")
    assert screen.raw.isascii()


# ---- workers that end, go silent or lose their file ------------------------


def test_death_while_blocked_is_told(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=0.2")
    screen.wait_for("?Help")
    scene.order("block /search")
    scene.order("stack")
    screen.wait_for("!BLOCKED")
    scene.order("die")
    screen.wait_for("!DIED WHILE BLOCKED")
    assert "GET /search" in screen.lines[BANNER]
    screen.wait(lambda: "EXITED" in screen.lines[TITLE], "the state in the title")
    screen.press("b")
    screen.wait_for("IT DIED IN THIS")


def test_clean_end_is_told(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=0.2")
    screen.wait_for("?Help")
    scene.order("exit")
    screen.wait_for("!EXITED")
    assert "q quits, screens stay usable" in screen.lines[BANNER]
    screen.press("e")
    screen.wait_for("newest 12 kept")


def test_silent_agent_is_stale(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=0.2")
    screen.wait_for("?Help")
    scene.order("silent")
    screen.wait_for("?NO HEARTBEAT")
    screen.wait(lambda: "STALE" in screen.lines[TITLE], "the state in the title")


def test_file_that_becomes_shorter_leaves_the_last_picture(play: Callable, watch: Callable) -> None:
    scene = play("live")
    screen = watch("--delay=0.2")
    screen.wait_for("?Help")
    scene.order("cut")
    screen.wait_for("!the segment became shorter; showing the last whole picture")
    screen.wait(lambda: "FILE CUT" in screen.lines[TITLE], "the state in the title")
    assert "/items/{item_id}" in screen.text
    screen.press("\r")
    screen.wait_for("Time on the loop")
    screen.press("Q")
    assert screen.end() == 0


def test_restarted_worker_is_offered(play: Callable, watch: Callable, folder) -> None:
    first = play("live", name="loopguard.%d.1" % os.getpid())
    screen = watch("--all", f"--dir={folder}", "--delay=0.2", file=None)
    screen.wait_for("?Help")
    first.order("exit")
    screen.wait_for("EXITED")
    play("live", name="loopguard.%d.2" % os.getpid())
    screen.wait_for("was replaced by")
    screen.press("]")
    screen.wait(lambda: "LIVE" in screen.lines[TITLE], "the new worker")


# ---- a full terminal, with job control -------------------------------------


def test_suspend_and_resume_under_a_shell(
    play: Callable, tmux: Callable, top_program: str, folder
) -> None:
    play("live")
    env = "TERM=tmux-256color LC_ALL=C.UTF-8"
    tmux("new-session", "-d", "-x", "80", "-y", "24", "-s", "lg", "sh -i")

    def shows(part: str) -> None:
        deadline = time.monotonic() + 20
        while part not in tmux("capture-pane", "-p", "-t", "lg"):
            assert time.monotonic() < deadline, tmux("capture-pane", "-p", "-t", "lg")
            time.sleep(0.05)

    def type_line(line: str) -> None:
        tmux("send-keys", "-t", "lg", line, "Enter")

    type_line("PS1='ready> '; cd %s; clear" % folder)
    shows("ready>")
    type_line(f"{env} {top_program} --file=41207")
    shows("?Help")
    tmux("send-keys", "-t", "lg", "C-z")
    shows("ready>")
    type_line("stty -a | grep -c -- -icanon")
    shows("\n0")
    type_line("fg")
    shows("?Help")
    tmux("resize-window", "-t", "lg", "-x", "140", "-y", "40")
    shows("WORST FRAME")
    tmux("send-keys", "-t", "lg", "q")
    shows("ready>")
    assert "WORST FRAME" not in tmux("capture-pane", "-p", "-t", "lg")


# ---- cost ------------------------------------------------------------------


def test_watching_costs_little(play: Callable, watch: Callable) -> None:
    """Half a percent of a core and 10 MiB is the budget; a loaded machine and
    an unoptimised build get four times that."""
    play("live")
    screen = watch()
    screen.wait_for("?Help")
    pid = screen.process.pid

    def cpu_s() -> float:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[0]) / 1e9

    begun, spent = time.monotonic(), cpu_s()
    while time.monotonic() - begun < 5:
        screen.read(0.5)
    share = (cpu_s() - spent) / (time.monotonic() - begun)
    assert share < 0.02
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        private = sum(int(n) for n in re.findall(r"Private_\w+: +(\d+) kB", file.read()))
    assert private < 10 * 1024


# ---- mouse -----------------------------------------------------------------


def test_mouse_is_off_until_asked_for(play: Callable, watch: Callable) -> None:
    play("live")
    screen = watch("--delay=60")
    screen.wait_for("?Help")
    assert b"\x1b[?1000h" not in screen.raw
    screen.press("M")
    screen.wait(lambda: b"\x1b[?1000h" in screen.raw, "mouse reports switched on")
    screen.press("\x1b[M" + chr(32) + chr(32 + 10) + chr(32 + 11))  # button 1, column 10, line 11
    screen.wait(lambda: screen.lines[10].startswith(">"), "the cursor where the click was")
    screen.press("q")
    assert screen.end() == 0
    assert screen.raw.rfind(b"\x1b[?1000l") > screen.raw.rfind(b"\x1b[?1000h")
