"""loopguard-dump: all that a segment holds, live, dead, copied or damaged."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import segwriter as sw
from segwriter import MS, S, Segment, pair
from viewing import dump, run, top

NOW = 5_000_000 * MS + 12 * 3600 * S


def dead(tmp_path: Path, seg: Segment | None = None) -> Path:
    return (seg or sw.blocked(now=NOW, pid=40977)).write(tmp_path / "worker.lg")


def as_json(*args: object, **more: Any) -> dict[str, Any]:
    return json.loads(dump("--format=json", *args, ok=True, **more).stdout)


# -- what is written


def test_text_has_everything_that_a_post_mortem_is_asked_for(tmp_path: Path) -> None:
    text = dump(dead(tmp_path), ok=True).stdout
    assert "POST-MORTEM" in text.splitlines()[0]
    assert "while in POST /reports/{id}, 1.27 s into the step" in text
    for heading in (
        "What ran at the end",
        "Endpoints",
        "Blocking stacks",
        "Events, newest first",
        "Loops",
        "The agent itself",
    ):
        assert f"\n== {heading}\n" in text, heading
    assert text.count("render_pdf               app/reports.py:88") == 2
    assert " Window 1m " in text
    assert " Window total " in text
    assert "audit            off   refused by the application" in text


def test_text_of_a_live_worker_says_what_blocks_it() -> None:
    seg = sw.blocked()
    with seg.live():
        text = dump("--pid", os.getpid(), ok=True, now=seg.now).stdout
    assert "\n== Blocked now\n" in text
    assert "LIVE" in text.splitlines()[0]


def test_json_holds_the_tables_and_the_records(tmp_path: Path) -> None:
    answer = as_json(dead(tmp_path))
    assert answer["schema"] == "loopguard-dump/1"
    assert [w["window"] for w in answer["workers"]] == ["total", "1m"]
    assert answer["workers"][0]["died_in"]["route"] == "/reports/{id}"
    assert answer["process"]["pid"] == 40977
    assert answer["config"]["threshold_us"] == 50_000
    assert answer["config"]["keep_segment"] == "crash"
    assert answer["tables"]["endpoints"] == {"used": 6, "room": 256}
    requests, events = answer["rings"][0], answer["rings"][1]
    assert (requests["class"], requests["written"], len(requests["records"])) == ("bulk", 10, 10)
    assert requests["records"][0]["longest_step_us"] == 41_000
    assert (requests["records"][0]["route"], requests["records"][0]["status"]) == (
        "/reports/{id}",
        200,
    )
    assert events["records"][0]["kind"] == "lifecycle"
    assert {c["requests"] for c in answer["endpoint_history"] if c["endpoint"] == 3} == {96}
    assert sum(b["count"] for b in answer["histograms"]["lag"][0]["lag_us"]) == 992
    assert answer["stacks"][0]["frames"][0] == {
        "func": "render_pdf",
        "file": "/srv/shop/app/reports.py",
        "line": 88,
        "short_file": "app/reports.py",
        "user": True,
        "endpoint": False,
    }
    assert answer["damage"] == {
        "places": 0,
        "faults": [],
        "cut_sections": [],
        "skipped_sections": 0,
    }


def test_json_of_a_live_worker_has_every_window() -> None:
    with sw.shop().live():
        answer = as_json("--pid", os.getpid())
    assert [w["window"] for w in answer["workers"]] == ["total", "5m", "1m", "10s"]


def test_a_full_ring_of_the_dead_gives_all_its_records(tmp_path: Path) -> None:
    seg = Segment(now=NOW, pid=7001)
    e = seg.endpoint("GET", "/x")
    for n in range(5000):
        seg.request(e, duration_us=n, step_us=1)
    ring = as_json(dead(tmp_path, seg))["rings"][0]
    assert [r["ticket"] for r in ring["records"]] == list(range(5000 - 4096, 5000))


@pytest.mark.parametrize(
    ("seq_of_next", "torn", "kept"), [(1, 1, 4095), (2, 0, 4096), (0, 0, 4096)]
)
def test_the_record_in_flight_at_death_is_told(
    tmp_path: Path, seq_of_next: int, torn: int, kept: int
) -> None:
    seg = Segment(now=NOW, pid=7001)
    e = seg.endpoint("GET", "/x")
    for n in range(5000):
        seg.request(e, duration_us=n, step_us=1)
    if seq_of_next:
        seg.put(17, 5000 % 4096, "seq", 2 * 5000 + seq_of_next)
    done = dump("--format=json", dead(tmp_path, seg), ok=True)
    ring = json.loads(done.stdout)["rings"][0]
    assert (ring["torn_at_death"], len(ring["records"])) == (torn, kept)
    assert ("was being written at the end" in done.stderr) == bool(torn)


# -- what is not whole


@pytest.mark.parametrize("kind", range(3, 20))
def test_a_file_cut_anywhere_gives_what_is_before_the_cut(tmp_path: Path, kind: int) -> None:
    seg = sw.blocked(now=NOW, pid=40977)
    size = seg.offset(kind) + seg.sections[kind]["stride"]
    path = tmp_path / "worker.lg"
    path.write_bytes(seg.bytes()[:size])
    done = dump("--format=json", path, ok=True)
    answer = json.loads(done.stdout)
    assert f"cut short: {size:,} of {len(seg.data):,} bytes" in done.stderr
    assert (len(answer["workers"][0]["endpoints"]) == 5) == (kind > 8)
    assert (answer["agent_counters"] is not None) == (kind >= 4)
    if seg.sections[kind]["count"] > 1:
        name = answer["damage"]["cut_sections"][0]
        assert f"{name} at byte {seg.offset(kind):,}: cut, " in done.stderr
    dump(path, ok=True)


def test_damage_is_told_with_place_and_the_rest_is_written(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    seg.put(8, 2, "key", 60_000)
    seg.put(17, 3, "seq", 999_999)
    seg.put(6, 0, "frames_used", 1 << 40)
    done = dump("--format=json", dead(tmp_path, seg), ok=True)
    answer = json.loads(done.stdout)
    told = {line.split("damaged at byte ")[1] for line in done.stderr.splitlines()}
    assert told == {
        f"{seg.offset(8, 2):,} (endpoint 2: name reaches beyond the table)",
        f"{seg.offset(6, 0, 'frames_used'):,} (frames in use: more than the table holds)",
    }
    assert {f["offset"] for f in answer["damage"]["faults"]} == {
        seg.offset(8, 2),
        seg.offset(6, 0, "frames_used"),
    }
    assert len(answer["workers"][0]["endpoints"]) == 4
    assert len(answer["rings"][0]["records"]) == 9


def test_a_sequence_that_no_writer_makes_damages_its_ring_only(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    seg.put(17, 3, "seq", 2)
    done = dump("--format=json", dead(tmp_path, seg), ok=True)
    answer = json.loads(done.stdout)
    assert (
        f"damaged at byte {seg.offset(17, 3):,} (ring 0: a sequence that no writer" in done.stderr
    )
    assert [r["damaged"] for r in answer["rings"]][:2] == [True, False]
    assert len(answer["rings"][0]["records"]) == 3


def test_a_stall_in_the_wrong_place_is_left_out(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    seg.put(13, 1, "ticket", 77)
    done = dump("--format=json", dead(tmp_path, seg), ok=True)
    assert f"damaged at byte {seg.offset(13, 1):,} (stall 1: not the ticket" in done.stderr
    assert len(json.loads(done.stdout)["workers"][0]["events"]) == 2


def test_sections_of_a_newer_layout_are_skipped_and_counted(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    seg.sections[99] = {**seg.sections[19], "kind": 99, "offset": len(seg.data)}
    seg.data += bytes(seg.sections[99]["length"])
    seg.layouts[99] = seg.layouts[19]
    done = dump("--format=json", dead(tmp_path, seg), ok=True)
    assert "1 section of a newer layout skipped" in done.stderr
    assert json.loads(done.stdout)["damage"]["skipped_sections"] == 1


def test_longer_elements_of_a_newer_minor_are_read(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    section = seg.sections[8]
    old = bytes(seg.data[section["offset"] : section["offset"] + section["length"]])
    section["offset"], section["stride"] = len(seg.data), 320
    section["length"] = 320 * 256
    seg.data += b"".join(old[n * 256 : n * 256 + 256] + b"\xee" * 64 for n in range(256))
    answer = as_json(dead(tmp_path, seg))
    assert {e["route"] for e in answer["workers"][0]["endpoints"]} >= {"/reports/{id}", "/health"}


def test_shorter_elements_than_any_layout_has_are_refused(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    seg.sections[13]["stride"] = 256
    done = dump("--format=json", dead(tmp_path, seg), ok=True)
    assert "(section 13: elements of 256 bytes, 512 expected)" in done.stderr
    assert json.loads(done.stdout)["workers"][0]["events"] == []


def test_a_segment_without_its_table_of_tables_is_still_read(tmp_path: Path) -> None:
    seg = sw.shop(now=NOW, pid=40977)
    del seg.sections[6]
    answer = as_json(dead(tmp_path, seg))
    assert len(answer["workers"][0]["endpoints"]) == 5
    assert len(answer["workers"][0]["events"]) == 3


@pytest.mark.parametrize("content", [b"", b"hello", bytes(5000)])
def test_nothing_readable_ends_with_five_and_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "worker.lg"
    path.write_bytes(content)
    done = dump(path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)


def test_foreign_layouts_and_machines_end_with_five(tmp_path: Path) -> None:
    path = tmp_path / "worker.lg"
    path.write_bytes(sw.other_endian(Segment().bytes()))
    assert dump(path).returncode == 5
    seg = Segment()
    seg.header["abi_major"] = 2
    assert dump(dead(tmp_path, seg)).returncode == 5


# -- options and output


@pytest.mark.parametrize(
    ("args", "status"),
    [
        ([], 2),
        (["--format=xml", "x"], 2),
        (["-p", "1", "x"], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["/nonexistent.lg"], 3),
    ],
)
def test_exit_status_of_the_command_line(args: list[str], status: int) -> None:
    assert dump(*args).returncode == status


def test_help_fits_eighty_columns() -> None:
    assert max(map(len, dump("--help", ok=True).stdout.splitlines())) <= 80


def test_output_is_written_beside_and_renamed(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    out.write_text("old")
    dump("--format=json", "-o", out, dead(tmp_path), ok=True)
    assert json.loads(out.read_text())["schema"] == "loopguard-dump/1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "worker.lg"]
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_an_old_output_survives_when_the_new_one_does_not_fit(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    out.write_text("old")
    done = dump("--format=json", "-o", out, dead(tmp_path), preexec_fn=_small_files)
    assert done.returncode == 1
    assert done.stderr == f"loopguard-dump: {out}: File too large; nothing was replaced\n"
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "worker.lg"]


# -- any bytes


def _corrupt(rng: random.Random, data: bytearray, seg: Segment) -> None:
    """A few bytes, words or stretches of one section, or of the header."""
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        section = seg.sections[
            rng.choice(
                [2, 3, 4, 6, 6, 7, 8, 8, 10, 10, 11, 12, 13, 13, 13, 14, 16, 16, 17, 18, 18, 19, 19]
            )
        ]
        used = min(section["length"], section["stride"] * 8 if section["stride"] > 1 else 600)
        at = section["offset"] + rng.randrange(used)
        if rng.random() < 0.5:
            at = at // 8 * 8
            word = rng.choice(
                [
                    0,
                    1,
                    2**63,
                    2**64 - 1,
                    rng.getrandbits(64),
                    rng.getrandbits(16),
                    rng.getrandbits(33),
                    pair(rng.randrange(300), rng.randrange(300)),
                ]
            )
            data[at : at + 8] = word.to_bytes(8, "little")
        else:
            data[at] = rng.getrandbits(8)


@pytest.mark.parametrize("seed", range(8))
def test_no_corruption_crashes_a_viewer(tmp_path: Path, seed: int) -> None:
    # 8 x 60 files through loopguard-top, every sixth through loopguard-dump;
    # under the sanitizers in the sanitizer build.
    rng = random.Random(seed)
    seg = sw.blocked(now=NOW, pid=40977)
    clean = seg.bytes()
    path = tmp_path / "worker.lg"
    for n in range(60):
        data = bytearray(clean)
        _corrupt(rng, data, seg)
        page = bytes(data[64 : sw.PAGE])
        data[56:60] = sw.crc32c(page).to_bytes(4, "little")
        if rng.random() < 0.1:
            del data[rng.randrange(sw.PAGE, len(data)) :]
        path.write_bytes(data)
        window = rng.choice(["10s", "1m", "5m", "total"])
        done = run("loopguard-top", "--once", "--json", "-e", "-w", window, "--file", path)
        assert done.returncode in (0, 5), (seed, n, done.stderr)
        if done.returncode == 0:
            json.loads(done.stdout)
        if n % 6 == 0:
            assert top("--once", "--file", path).returncode in (0, 5)
            assert dump("--format=json", path).returncode in (0, 5)
            assert dump(path).returncode in (0, 5)


def test_a_corrupt_section_table_never_crashes_a_viewer(tmp_path: Path) -> None:
    rng = random.Random(99)
    seg = sw.blocked(now=NOW, pid=40977)
    clean = seg.bytes()
    path = tmp_path / "worker.lg"
    for n in range(120):
        data = bytearray(clean)
        at = 64 + 40 * rng.randrange(19) + rng.choice([0, 4, 8, 16, 24, 28])
        width = 8 if at % 40 in (72 % 40, 80 % 40) else 4
        value = rng.choice([0, 1, 64, 2**31, 2**32 - 1, rng.getrandbits(12), rng.getrandbits(22)])
        data[at : at + width] = value.to_bytes(width, "little")
        data[56:60] = sw.crc32c(bytes(data[64 : sw.PAGE])).to_bytes(4, "little")
        path.write_bytes(data)
        done = run("loopguard-top", "--once", "--json", "-e", "--file", path)
        assert done.returncode in (0, 5), (n, at, done.stderr)
