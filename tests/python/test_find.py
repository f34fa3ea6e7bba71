"""From a pid, a name or a file to a segment: each case has its words and its exit status."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import segwriter as sw
from segwriter import S, Segment
from viewing import environment, program, top, top_json, worker

SHM = Path("/dev/shm")
LIST_HINT = "Try 'loopguard-top --list' to see what can be watched."
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user, which wants root")


def said(*args: object, **more: object) -> tuple[int, list[str]]:
    """Exit status and the lines on stderr, the program's name checked and cut off."""
    done = top("--once", *args, **more)
    lines = done.stderr.splitlines()
    assert lines
    assert lines[0].startswith("loopguard-top: ")
    return done.returncode, [lines[0].removeprefix("loopguard-top: "), *lines[1:]]


@contextlib.contextmanager
def process(*argv: str, **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        argv or (sys.executable, "-c", "input()"), stdin=subprocess.PIPE, **popen
    )  # type: ignore[call-overload]
    # Between fork and exec it is still this test's Python.
    deadline = time.monotonic() + 10
    wanted = os.path.realpath(argv[0] if argv else sys.executable)
    while os.path.realpath(f"/proc/{child.pid}/exe") != wanted:
        assert time.monotonic() < deadline
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def segment_of(pid: int, **fields: object) -> Segment:
    return sw.shop(pid=pid, start_ticks=sw.start_ticks_of(pid), **fields)


def free_pid() -> int:
    with process("/bin/sleep", "60") as child:
        return child.pid


# -- by pid: nothing there


def test_no_such_process() -> None:
    pid = free_pid()
    assert said(pid) == (3, [f"{pid}: no such process", LIST_HINT])


def test_not_a_python_process() -> None:
    with process("/bin/sleep", "60") as child:
        assert said(child.pid) == (3, [f"{child.pid}: not a Python process (sleep)"])


def test_python_without_the_agent() -> None:
    with process() as child:
        status, lines = said(child.pid)
    assert (status, lines) == (
        3,
        [
            f"{child.pid}: the loopguard agent is not loaded in this process",
            (
                "Start the worker with the agent (see 'Loading the agent' in loopguard-top(1)), then try "
                "again."
            ),
        ],
    )


def test_pid_that_is_another_process_now() -> None:
    with process("/bin/sleep", "60") as child:
        seg = sw.shop(pid=child.pid, start_ticks=1)
        path = seg.write(SHM / seg.name())
        try:
            status, lines = said(child.pid)
        finally:
            path.unlink()
    when = time.strftime("%H:%M:%S", time.gmtime((seg.now + seg.real_offset) // S))
    assert status == 3
    assert lines[0] == (
        f"{child.pid}: this is now another process (sleep); its loopguard file "
        f"belongs to a worker that ended {when}"
    )
    assert re.fullmatch(rf"To read it: loopguard-top --file=\S*{path.name}", lines[1])


def test_parent_of_workers() -> None:
    script = (
        "import subprocess as s, sys; c = [s.Popen([sys.executable, '-c', 'input()'],"
        " stdin=s.PIPE) for _ in 'ab']; print(*[p.pid for p in c], flush=True); input()"
    )
    with process(sys.executable, "-c", script, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        with contextlib.ExitStack() as stack:
            for pid in pids:
                stack.enter_context(segment_of(pid).live())
            status, lines = said(parent.pid)
            told = top_json(parent.pid)["errors"]
    low, high = sorted(pids)
    assert status == 3
    assert lines == [
        f"{parent.pid}: no agent in this process, but 2 of its children have one: {low} {high}",
        f"Watch them with: loopguard-top -p {low},{high}",
    ]
    assert (told[0]["code"], told[0]["pid"]) == ("parent_of_workers", parent.pid)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            "No space left on device",
            "the agent could not create its segment: No space left on device",
        ),
        ("switched off", "the agent is loaded but switched off"),
        ("", "the agent is loaded but switched off"),
        (
            "LOOPGUARD_DISABLE is set",
            "the agent is loaded but switched off: LOOPGUARD_DISABLE is set",
        ),
        (
            "the segment's directory is not a tmpfs",
            "the agent could not create its segment: the segment's directory is not a tmpfs",
        ),
        ("bad\x1b[0m", "the agent is loaded but switched off: bad?[0m"),
    ],
)
def test_agent_without_a_segment_leaves_its_reason(reason: str, text: str) -> None:
    seg = Segment(off_reason=reason)
    seg.header["state"] = sw.OFF
    for kind in range(3, 20):
        del seg.sections[kind]
    seg.data = seg.data[: sw.PAGE]
    fd = os.memfd_create("loopguard.off")
    os.fchmod(fd, 0o600)
    os.write(fd, seg.bytes())
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert said(os.getpid()) == (3, [f"{os.getpid()}: {text}"])
    finally:
        os.close(fd)


def test_note_of_another_process_is_not_believed() -> None:
    seg = Segment(pid=1, off_reason="not mine")
    seg.header["state"] = sw.OFF
    for kind in range(3, 20):
        del seg.sections[kind]
    seg.data = seg.data[: sw.PAGE]
    fd = os.memfd_create("loopguard.off")
    os.fchmod(fd, 0o600)
    os.write(fd, seg.bytes())
    try:
        # What it says instead depends on whether this very process has the agent.
        status, lines = said(os.getpid())
        assert status == 3
        assert "not mine" not in lines[0]
    finally:
        os.close(fd)


# -- by pid: found


def test_a_worker_is_found_in_its_own_dev_shm() -> None:
    with sw.shop().live():
        assert worker(os.getpid())["file"] == f"/proc/{os.getpid()}/root/dev/shm/{sw.shop().name()}"


def test_a_name_that_was_taken_gets_a_suffix() -> None:
    seg = sw.shop()
    squatter = SHM / seg.name()
    squatter.write_bytes(b"not yours")
    path = seg.write(SHM / f"{seg.name()}.1")
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert worker(os.getpid())["file"].endswith(".1")
    finally:
        squatter.unlink()
        path.unlink()


def test_a_segment_in_a_folder_of_its_own_is_found_by_the_descriptor(tmp_path: Path) -> None:
    seg = sw.shop()
    with seg.live(tmp_path):
        assert worker(os.getpid())["file"].startswith(f"/proc/{os.getpid()}/fd/")
        assert worker(os.getpid(), "--dir", tmp_path)["file"].endswith(seg.name())


def test_an_unlinked_segment_is_found_by_the_descriptor() -> None:
    seg = sw.shop()
    path = seg.write(SHM / seg.name())
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        path.unlink()
        assert worker(os.getpid())["state"] == "live"


def test_the_newest_file_of_an_ended_worker_is_read_by_its_pid(tmp_path: Path) -> None:
    pid = free_pid()
    for n, app in ((1, "older"), (3, "newest"), (2, "middle")):
        seg = sw.shop(pid=pid, start_ticks=n, app=app, now=n * 1000 * S)
        seg.put(3, 0, "real_ns", n * 1000 * S)
        seg.write(tmp_path / seg.name())
    w = worker(pid, "--dir", tmp_path)
    assert (w["app"], w["state"], w["pid"]) == ("newest", "dead", pid)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(mode: int) -> None:
    with process() as child:
        seg = segment_of(child.pid)
        path = seg.write(SHM / seg.name())
        path.chmod(mode)
        try:
            assert said(child.pid)[1][0].endswith("is not loaded in this process")
        finally:
            path.unlink()


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    with process() as child:
        seg = segment_of(child.pid)
        link = SHM / seg.name()
        link.symlink_to(seg.write(tmp_path / "elsewhere"))
        try:
            assert said(child.pid)[1][0].endswith("is not loaded in this process")
        finally:
            link.unlink()


def test_a_pipe_of_that_name_does_not_hang_the_viewer() -> None:
    pipe = SHM / sw.shop().name()
    os.mkfifo(pipe, 0o600)
    try:
        assert said(os.getpid())[0] == 3
    finally:
        pipe.unlink()


@root_only
def test_a_file_of_another_user_is_not_trusted() -> None:
    with process() as child:
        seg = segment_of(child.pid)
        path = seg.write(SHM / seg.name())
        os.chown(path, 65534, 65534)
        try:
            assert said(child.pid)[1][0].endswith("is not loaded in this process")
        finally:
            path.unlink()


def test_the_header_must_say_what_the_name_says() -> None:
    with process() as child:
        seg = segment_of(child.pid)
        name = seg.name()
        seg.put(1, 0, "pid", 1)
        path = seg.write(SHM / name)
        try:
            assert said(child.pid)[1][0].endswith("is not loaded in this process")
        finally:
            path.unlink()


# -- permission


@root_only
def test_another_users_worker_is_told_with_both_names() -> None:
    with sw.shop().live():
        status, lines = said(os.getpid(), user=65534)
    assert status == 4
    assert lines == [
        f"{os.getpid()}: permission denied: the worker runs as 'root', you are 'nobody'",
        f"Run as that user: sudo -u root loopguard-top {os.getpid()}",
    ]


@root_only
def test_a_worker_that_changed_its_user_is_found_in_our_own_dev_shm() -> None:
    # Not dumpable since setuid: its root and descriptors are closed to that user.
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
        os.write(ready[1], b".")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        seg = segment_of(child, uid=65534)
        with seg.live() as path:
            os.chown(path, 65534, 65534)
            w = worker(child, user=65534, group=65534)
    finally:
        os.write(done[1], b".")
        os.waitpid(child, 0)
        for fd in (*ready, *done):
            os.close(fd)
    assert (w["state"], w["file"]) == ("live", str(path))


@root_only
def test_one_unreadable_worker_does_not_hide_the_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent == Path("/tmp"):
            break
        parent.chmod(0o755)
    mine = sw.shop(pid=7001)
    theirs = sw.shop(pid=7002)
    os.chown(mine.write(tmp_path / mine.name()), 65534, 65534)
    theirs.write(tmp_path / theirs.name())
    answer = top_json("--all", "--dir", tmp_path, user=65534)
    assert [w["pid"] for w in answer["workers"]] == [7001]
    assert [(e["pid"], e["code"]) for e in answer["errors"]] == [(7002, "permission")]
    assert answer["errors"][0]["text"] == (
        "permission denied: the worker runs as 'root', you are 'nobody'"
    )


# -- files


def test_a_newer_layout_names_both_versions(tmp_path: Path) -> None:
    seg = Segment(agent_version="2.1.0")
    seg.header["abi_major"] = 2
    path = seg.write(tmp_path / "worker.lg")
    assert said("-f", path) == (
        5,
        [
            f"{path}: its agent 2.1.0 writes layout 2; this viewer reads layout 1.0",
            "Install the loopguard-top that came with that agent.",
        ],
    )


def test_a_newer_minor_is_read(tmp_path: Path) -> None:
    seg = sw.shop()
    seg.header["abi_minor"] = 9
    seg.header["compatible_flags"] = 1
    assert worker("-f", seg.write(tmp_path / "worker.lg"))["layout"] == "1.9"


def test_parts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    seg = Segment()
    seg.header["incompatible_flags"] = 4
    status, lines = said("-f", seg.write(tmp_path / "worker.lg"))
    assert status == 5
    assert "its agent 0.1.0 writes layout 1.0 with parts that this viewer cannot read" in lines[0]


def test_another_byte_order_is_told(tmp_path: Path) -> None:
    path = tmp_path / "worker.lg"
    path.write_bytes(sw.other_endian(Segment().bytes()))
    assert said("-f", path) == (
        5,
        [f"{path}: written on another kind of machine (big endian, 64 bit)"],
    )


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"\x7fELF" + bytes(9000), b"LGUARD\x1a\r" * 900],
    ids=["text", "program", "nearly"],
)
def test_a_foreign_file_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert said("-f", path) == (5, [f"{path}: not a loopguard segment"])


def test_a_folder_is_not_a_segment(tmp_path: Path) -> None:
    assert said("-f", tmp_path) == (5, [f"{tmp_path}: not a loopguard segment"])


@pytest.mark.parametrize(
    "content", [b"", bytes(4096), bytes(3_000_000)], ids=["empty", "a page", "much"]
)
def test_a_file_in_the_making_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "worker.lg"
    path.write_bytes(content)
    assert said("-f", path) == (5, [f"{path}: empty; the agent has not finished starting"])


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "none.lg"
    assert said("-f", path) == (3, [f"{path}: No such file or directory"])


def test_a_cut_header_is_told_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "worker.lg"
    path.write_bytes(Segment().bytes()[:1000])
    assert said("-f", path) == (5, [f"{path}: cut short: 1,000 of 4,096 bytes"])


def test_a_cut_file_shows_what_is_whole(tmp_path: Path) -> None:
    seg = sw.shop(pid=40977)
    whole = seg.bytes()
    path = tmp_path / "worker.lg"
    path.write_bytes(whole[: seg.offset(13) + 1024])
    status, lines = said("-f", path)
    assert status == 0
    assert lines[0] == (
        f"{path}: cut short: {seg.offset(13) + 1024:,} of {len(whole):,} bytes; "
        "showing what is whole"
    )
    w = worker("-f", path, "-e")
    assert len(w["endpoints"]) == 5
    assert len(w["events"]) == 2  # two whole stalls, their stacks are gone
    assert [e["stack"] for e in w["events"]] == [None, None]


def test_a_file_cut_within_the_endpoints_ends_with_five(tmp_path: Path) -> None:
    seg = sw.shop(pid=40977)
    path = tmp_path / "worker.lg"
    path.write_bytes(seg.bytes()[: seg.offset(8, 3) + 100])
    answer = top_json("-f", path)
    assert top("-1", "-f", path).returncode == 5
    routes = {e["route"] for e in answer["workers"][0]["endpoints"]}
    assert routes == {"/reports/{id}", "/search"}
    row = answer["workers"][0]["endpoints"][0]
    assert (row["p99_us"], row["hist_us"]) == (None, [])


def test_unknown_history_is_null_not_zero(tmp_path: Path) -> None:
    seg = sw.shop(pid=40977)
    path = tmp_path / "worker.lg"
    path.write_bytes(seg.bytes()[: seg.offset(11)])
    (w,) = top_json("-f", path, "-w", "1m")["workers"]
    assert {e["blocks"] for e in w["endpoints"]} == {None}
    assert {e["requests_per_s"] for e in w["endpoints"]} == {None}
    assert w["windows"]["1m"]["blocks"] is None
    assert w["windows"]["total"]["blocks"] == 16


def test_a_bad_name_is_told_with_its_place_and_the_rest_is_shown(tmp_path: Path) -> None:
    seg = sw.shop(pid=40977)
    seg.put(8, 3, "key", 60_000 | 1 << 40)
    path = seg.write(tmp_path / "worker.lg")
    status, lines = said("-f", path)
    assert (status, lines[0]) == (
        0,
        (
            f"{path}: damaged at byte {seg.offset(8, 3):,} (endpoint 3: name reaches beyond the "
            "table); 5 of 6 endpoints shown"
        ),
    )
    assert "/health" not in {e["route"] for e in worker("-f", path)["endpoints"]}


def test_a_damaged_header_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "worker.lg"
    data = bytearray(Segment().bytes())
    data[sw.HEADER_SIZE + 40] ^= 1
    path.write_bytes(data)
    assert said("-f", path) == (5, [f"{path}: damaged at byte 56 (checksum of the header page)"])


# -- all, name, list


def test_nothing_at_all(tmp_path: Path) -> None:
    assert said("--dir", tmp_path) == (3, ["no worker with the loopguard agent found"])
    done = top("--list", "--dir", tmp_path)
    assert (done.returncode, done.stdout) == (3, "")


def test_only_ended_workers_are_pointed_at(tmp_path: Path) -> None:
    seg = sw.shop(pid=7001)
    path = seg.write(tmp_path / seg.name())
    assert said("--dir", tmp_path) == (
        3,
        [
            "no worker with the loopguard agent found",
            f"1 ended worker left a file: loopguard-top --file={path}",
        ],
    )


@contextlib.contextmanager
def two_applications(folder: Path) -> Iterator[tuple[int, int]]:
    with (
        process() as child,
        sw.shop(app="one").live(folder),
        segment_of(child.pid, app="two").live(folder),
    ):
        yield os.getpid(), child.pid


def test_several_applications_are_listed_when_nobody_can_be_asked(tmp_path: Path) -> None:
    with two_applications(tmp_path):
        status, lines = said("--dir", tmp_path)
    assert status == 2
    assert lines[0] == "2 applications found; name a PID, or use --all or --name"
    assert lines[1].split() == ["PID", "STATE", "UP", "APP", "AGENT", "FILE"]
    assert [line.split()[3] for line in lines[2:4]] in (["one", "two"], ["two", "one"])


def test_all_and_name_choose_among_applications(tmp_path: Path) -> None:
    with two_applications(tmp_path) as (mine, other):
        assert {w["pid"] for w in top_json("--all", "--dir", tmp_path)["workers"]} == {mine, other}
        assert [w["app"] for w in top_json("-n", "TWO", "--dir", tmp_path)["workers"]] == ["two"]
        assert said("-n", "three", "--dir", tmp_path)[0] == 3


def test_workers_of_one_application_come_together_with_their_dead(tmp_path: Path) -> None:
    with process() as child:
        dead = sw.shop(pid=7001, ppid=50)
        dead.write(tmp_path / dead.name())
        stranger = sw.shop(pid=7002, ppid=51)
        stranger.write(tmp_path / stranger.name())
        with sw.shop(ppid=50).live(tmp_path), segment_of(child.pid, ppid=50).live(tmp_path):
            workers = top_json("--dir", tmp_path)["workers"]
    assert {w["pid"] for w in workers} == {os.getpid(), child.pid, 7001}
    assert workers[-1]["state"] == "dead"


def test_list_shows_the_living_and_the_dead(tmp_path: Path) -> None:
    dead = sw.shop(pid=7001, app="grün")
    dead.write(tmp_path / dead.name())
    ended = sw.shop(pid=7002)
    ended.header["state"] = sw.EXITED
    ended.write(tmp_path / ended.name())
    (tmp_path / "loopguard.77.88").write_bytes(b"")
    (tmp_path / "loopguard.nonsense").write_bytes(b"x")
    with sw.shop().live(tmp_path):
        lines = top("--list", "--dir", tmp_path, ok=True).stdout.splitlines()
        listed = top("--list", "--json", "--dir", tmp_path, ok=True).stdout
    assert [line.split()[:2] for line in lines[1:]] == [
        [str(os.getpid()), "live"],
        ["7001", "dead"],
        ["7002", "exited"],
    ]
    assert "grün  " in lines[2]
    assert '"schema":"loopguard-top/1"' in listed


def test_one_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    good = sw.shop(pid=7001)
    good.write(tmp_path / good.name())
    (tmp_path / "loopguard.7002.1").write_bytes(b"not a segment")
    answer = top_json("--all", "--dir", tmp_path)
    assert [w["pid"] for w in answer["workers"]] == [7001]
    assert [(e["pid"], e["text"]) for e in answer["errors"]] == [(7002, "not a loopguard segment")]


def test_a_named_pid_that_fails_does_not_stop_the_others() -> None:
    gone = free_pid()
    with sw.shop().live():
        done = top("-1", "-j", f"{os.getpid()},{gone}", ok=True)
    assert f'"pid":{os.getpid()}' in done.stdout
    assert done.stderr.startswith(f"loopguard-top: {gone}: no such process\n")


# -- wait, prune


def test_wait_gives_up_after_its_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    assert said("--wait=0.3", "--dir", tmp_path)[0] == 3
    assert time.monotonic() - began >= 0.3


def test_wait_sees_a_worker_that_appears(tmp_path: Path) -> None:
    viewer = subprocess.Popen(
        [program("loopguard-top"), "-1", "--wait=20", "--dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    with sw.shop().live(tmp_path):
        out, _ = viewer.communicate(timeout=30)
    assert viewer.returncode == 0
    assert "POST  /reports/{id}" in out


def test_wait_does_not_wait_for_what_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"hello")
    assert said("--wait", "-f", path)[0] == 5


def test_prune_removes_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    for pid in (7001, 7002):
        seg = sw.shop(pid=pid)
        seg.write(tmp_path / seg.name())
    (tmp_path / "other.txt").write_bytes(b"stays")
    with sw.shop().live(tmp_path) as path:
        done = top("--prune", "--dir", tmp_path, ok=True)
        left = sorted(p.name for p in tmp_path.iterdir())
    assert done.stdout == "2 files of ended workers removed\n"
    assert left == sorted([path.name, "other.txt"])


def test_prune_of_a_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    assert top("--prune", "--dir", tmp_path / "none").returncode == 1


# -- other namespaces


@root_only
def test_a_pid_of_another_namespace_is_guessed() -> None:
    # unshare(CLONE_NEWPID): the grandchild is number 1 there, so ask for a high number.
    script = (
        "import ctypes, os\n"
        "assert ctypes.CDLL(None).unshare(0x20000000) == 0\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    open('/proc/sys/kernel/ns_last_pid', 'w').write('99998')\n"
        "    inner = os.fork()\n"
        "    if inner == 0:\n"
        "        print(os.getpid(), flush=True); input(); os._exit(0)\n"
        "    os.waitpid(inner, 0); os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    with process(
        sys.executable, "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            pytest.skip("this machine lets nobody make a pid namespace")
        inner = int(line)
        if Path(f"/proc/{inner}").exists():
            pytest.skip("the number is taken on this host, too")
        status, lines = said(inner)
    assert status == 3
    assert lines[0] == (f"{inner}: no such process here; it may be the number inside a container")
    assert re.match(r"On this host it could be: \d+ \(.*python.*\)", lines[1])
