"""Writes segments byte by byte, from the layout in common/lg_layout.h.

The viewers' tests stand on it: every number of a worker, live or dead, cut,
damaged or foreign, without a worker. It knows the layout and nothing of the
agent's or the viewers' code, so both can be wrong against it.

A segment is filled with calls, then written to a file::

    seg = Segment(pid=41207)
    reports = seg.endpoint("POST", "/reports/{id}", requests=32, blocks=7)
    seg.loop(state=STEP, step=9, step_start_ns=seg.now - 2 * S)
    seg.write(path)                     # a dead worker, or a copy
    with seg.live() as path: ...        # a live one: name, lock and our own pid
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

US, MS, S = 1_000, 1_000_000, 1_000_000_000
NONE = 2**64 - 1
PAGE = 4096
MAGIC = b"LGUARD\x1a\n"
ENDIAN_TAG = 0x01020304

INITIALISING, RUNNING, EXITING, EXITED, OFF = range(5)
FREE, IDLE, STEP, CLOSED = range(4)
ONGOING, MOVING, THROTTLED, WATCHED = 1, 2, 4, 8
TASK_NUMBER = 0x80000000
KINDS = ["request", "websocket", "lifespan", "background", "task", "callback", "loop"]
METHODS = ["", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"]
METHODS += ["OTHER", "WS"]
CAUSES = ["cpu", "io", "lock", "gil", "gc", "scheduler", "disk", "page_fault", "other"]
UNKNOWN_CAUSE = 255
STALL_KINDS = ["step", "iteration", "cumulative", "call"]

CELLS_1S, CELLS_10S, LOOP_CELLS, BUCKETS = 64, 32, 320, 432
CELLS = CELLS_1S + CELLS_10S


class Layout:
    """Named fields of one struct: (name, struct letter, how many)."""

    def __init__(self, *fields: tuple[str, str] | tuple[str, str, int]) -> None:
        self.at: dict[str, tuple[int, str, int]] = {}
        size = 0
        for field in fields:
            name, letter, count = (*field, 1)[:3]
            width = struct.calcsize("=" + letter)
            assert size % struct.calcsize("=" + letter[-1]) == 0, name
            self.at[name] = (size, letter, count)
            size += width * count
        self.size = size


def words(*names: str) -> list[tuple[str, str]]:
    return [(name, "Q") for name in names]


HEADER = Layout(
    ("magic", "8s"),
    ("endian_tag", "I"),
    ("abi_major", "H"),
    ("abi_minor", "H"),
    ("header_size", "I"),
    ("section_count", "I"),
    *words("segment_size", "incompatible_flags", "compatible_flags", "nonce"),
    ("crc32c", "I"),
    ("state", "I"),
)
SECTION = Layout(
    ("kind", "I"),
    ("version", "H"),
    ("flags", "H"),
    *words("offset", "length"),
    ("stride", "I"),
    ("count", "I"),
    ("reserved", "Q"),
)
PROC = Layout(
    ("pid", "I"),
    ("ppid", "I"),
    ("uid", "I"),
    ("gid", "I"),
    ("start_ticks", "Q"),
    ("boot_id", "16s"),
    *words("ns_pid", "ns_mnt", "ns_time"),
    ("pointer_size", "H"),
    ("free_threaded", "H"),
    ("python_version_hex", "I"),
    ("worker_slot", "I"),
    ("clock_ticks_per_s", "I"),
    *words("start_mono_ns", "start_real_ns", "start_boot_ns", "start_uncertainty_ns"),
    ("agent_version", "32s"),
    ("app", "128s"),
    ("server", "64s"),
    ("off_reason", "128s"),
    ("exe", "256s"),
    ("argv", "256s"),
    ("cwd", "256s"),
    ("prefix", "256s"),
    ("reserved", "Q", 6),
)
CONFIG = Layout(
    *words(
        "threshold_ns",
        "iteration_threshold_ns",
        "cumulative_threshold_ns",
        "cumulative_window_ns",
        "cumulative_min_step_ns",
        "watchdog_interval_ns",
    ),
    *[
        (name, "I")
        for name in (
            "stack_depth",
            "max_endpoints",
            "keep_segment",
            "segment_mode",
            "hooks",
            "task_factory",
            "adaptive",
            "reserved0",
        )
    ],
    ("reserved", "Q", 6),
)
ANCHOR = Layout(
    *words("seq", "mono_ns", "real_ns", "boot_ns", "uncertainty_ns", "clock_steps"),
    ("reserved", "Q", 2),
)
SELF = Layout(
    *words(
        "requests",
        "lag_samples",
        "stalls",
        "stacks",
        "stacks_rejected",
        "gc_pauses",
        "lifecycle",
        "endpoint_overflow",
        "string_overflow",
        "string_truncated",
        "stack_overflow",
        "frame_overflow",
        "hist_saturated",
        "ring_unavailable",
        "loop_overflow",
        "intern_busy",
        "watchdog_ticks",
        "watchdog_misses",
        "watchdog_cpu_ns",
        "stall_collisions",
        "errors",
    ),
    ("reserved", "Q", 11),
)
FEATURE = Layout(("name", "16s"), ("state", "I"), ("reserved", "I"), ("reason", "40s"))
TABLES = Layout(
    *words(
        "strings_used", "endpoints_used", "stacks_used", "frames_used", "stalls_head", "loops_used"
    ),
    ("reserved", "Q", 2),
)
ENDPOINT = Layout(
    *words(
        "key",
        "in_flight_threshold_us",
        "requests",
        "status_2xx",
        "status_3xx",
        "status_4xx",
        "status_5xx",
        "exceptions",
        "cancelled",
        "steps",
        "response_sum_ns",
        "response_max_ns",
        "on_loop_sum_ns",
        "step_max_ns",
        "cpu_ns",
        "blocked_ns",
        "blocks",
    ),
    ("blocked_by_cause_ns", "Q", 9),
    *words(
        "cumulative_waited",
        "pool_wait_ns",
        "pool_run_ns",
        "waited_ns",
        "first_seen_ns",
        "last_seen_ns",
    ),
)
HIST = Layout(("bucket", "Q", BUCKETS))
LOOP = Layout(
    *words("seq", "state", "step", "step_start_ns", "endpoint_task", "request_tid"),
    ("reserved_a", "Q", 2),
    *words(
        "iterations",
        "steps",
        "awake_since_ns",
        "poll_since_ns",
        "last_lag_ns",
        "max_lag_ns",
        "max_lag_at_ns",
        "sum_lag_ns",
        "heartbeat_ns",
        "stall_ticket",
        "stall_since_ns",
        "stall_step",
        "samples",
        "cpu_now_ns",
    ),
    ("reserved_c", "Q", 2),
    *words(
        "tasks",
        "open_requests",
        "threshold_ns",
        "ready_length",
        "blocked_ns",
        "blocks",
        "requests",
        "cumulative_events",
    ),
    ("parts_ns", "Q", 9),
    *words("gc_pauses", "created_ns", "closed_ns", "kind_thread_name", "throttled"),
    ("reserved", "Q", 18),
)
CELL = Layout(*words("second_requests", "steps_busy_us", "blocked_us_blocks", "max_step_us_waited"))
LOOP_CELL = Layout(
    *words(
        "second_iterations",
        "busy_us_max_lag_us",
        "blocked_us_blocks",
        "requests_open",
        "cpu_us_gil_us",
        "io_us_gc_us",
    ),
    ("reserved", "Q", 2),
)
STALL = Layout(
    *words(
        "seq",
        "ticket",
        "info",
        "step",
        "start_ns",
        "duration_ns",
        "threshold_ns",
        "endpoint_holder",
        "request_task",
    ),
    ("parts_ns", "Q", 9),
    *words(
        "call_thread",
        "stack_holder_stack",
        "samples_tid",
        "waiting_open",
        "waited_requests",
        "waited_longest_ns",
        "waited_sum_ns",
    ),
    ("waited", "Q", 8),
    *words("call_ns", "major_faults", "steps"),
    ("reserved", "Q", 28),
)
POOL = Layout(
    *words(
        "limit",
        "busy",
        "waiting",
        "high_water",
        "times_full",
        "submitted",
        "finished",
        "wait_sum_ns",
        "wait_max_ns",
        "run_sum_ns",
        "run_max_ns",
        "waiting_high_water",
        "full_since_ns",
    ),
    ("reserved", "Q", 3),
    ("stuck", "Q", 32),
    ("reserved2", "Q", 16),
)
WRITER = Layout(*words("role_tid", "rings", "name"), ("reserved", "Q", 5))
RING = Layout(
    *words("head", "first", "capacity", "first_slot", "ring_class", "writer"), ("reserved", "Q", 10)
)
SLOT = Layout(*words("seq", "time_ns", "tag"), ("p", "Q", 5))
STACK = Layout(
    *words(
        "hash",
        "first_ns",
        "last_ns",
        "count",
        "total_ns",
        "max_ns",
        "frame_depth",
        "endpoint_flags",
    )
)
FRAME = Layout(("file", "I"), ("function", "I"), ("line", "I"), ("next", "I"))

RING_SLOTS = [4096, 1024, 256, 256, 256, 256, 256, 256]
REQUESTS, EVENTS, WATCHDOG = 0, 1, 2
BULK, RARE = 1, 2
REC_REQUEST, REC_LAG, REC_LIFECYCLE, REC_CLOCK_STEP = 1, 2, 6, 7

HEADER_SIZE = HEADER.size + 32 * SECTION.size

assert (HEADER.size, SECTION.size, PROC.size, CONFIG.size) == (64, 40, 1536, 128)
assert (ANCHOR.size, SELF.size, FEATURE.size, TABLES.size) == (64, 256, 64, 64)
assert (ENDPOINT.size, HIST.size, LOOP.size, CELL.size) == (256, 3456, 512, 32)
assert (LOOP_CELL.size, STALL.size, POOL.size, WRITER.size) == (64, 512, 512, 64)
assert (RING.size, SLOT.size, STACK.size, FRAME.size) == (128, 64, 64, 16)


def pair(lo: int, hi: int) -> int:
    return (lo & 0xFFFFFFFF) | (hi & 0xFFFFFFFF) << 32


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def bucket_of(us: int) -> int:
    """Index of the log-linear bucket: 16 of 1 us, then 16 an octave."""
    if us < 16:
        return us
    if us >= 1 << 30:
        return BUCKETS - 1
    exponent = us.bit_length() - 1
    return 16 * (exponent - 3) + (us >> (exponent - 4) & 15)


def start_ticks_of(pid: int | str = "self") -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text[text.rindex(")") + 2 :].split()[19])


def boot_id() -> bytes:
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))


def namespace(name: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{name}").st_ino
    except FileNotFoundError:
        return 0


class Segment:
    """One segment in the making. Keyword arguments are fields of PROC and CONFIG."""

    def __init__(
        self, *, endpoints: int = 256, now: int | None = None, up: int = 600 * S, **fields: object
    ) -> None:
        self.now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if now is None else now
        real = time.time_ns()
        self.real_offset = real - self.now
        up = min(up, self.now - 1)  # of a machine that has just started
        self.endpoint_count = endpoints
        self.header = {
            "magic": MAGIC,
            "endian_tag": ENDIAN_TAG,
            "abi_major": 1,
            "abi_minor": 0,
            "header_size": HEADER_SIZE,
            "nonce": 0x5EED,
            "state": RUNNING,
        }
        plan = [
            (1, PROC, 1),
            (2, CONFIG, 1),
            (3, ANCHOR, 1),
            (4, SELF, 1),
            (5, FEATURE, 16),
            (6, TABLES, 1),
            (7, Layout(("byte", "B")), 65536),
            (8, ENDPOINT, endpoints),
            (9, HIST, 2 * endpoints + 9),
            (10, LOOP, 8),
            (11, CELL, endpoints * CELLS),
            (12, LOOP_CELL, 8 * LOOP_CELLS),
            (13, STALL, 512),
            (14, POOL, 1),
            (15, WRITER, 8),
            (16, RING, 8),
            (17, SLOT, sum(RING_SLOTS)),
            (18, STACK, 256),
            (19, FRAME, 4096),
        ]
        self.sections: dict[int, dict[str, int]] = {}
        self.layouts = {kind: layout for kind, layout, _ in plan}
        at = HEADER_SIZE
        for kind, layout, count in plan:
            if kind == 3:
                at = PAGE
            length = layout.size * count
            self.sections[kind] = {
                "kind": kind,
                "version": 1,
                "flags": 0,
                "offset": at,
                "length": length,
                "stride": layout.size,
                "count": count,
                "reserved": 0,
            }
            at += (length + 63) // 64 * 64
        self.data = bytearray(at)
        self._defaults(up, fields)

    def _defaults(self, up: int, fields: dict[str, object]) -> None:
        pid = fields.pop("pid", None)
        proc: dict[str, object] = {
            "pid": os.getpid() if pid is None else pid,
            "ppid": os.getppid(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "start_ticks": start_ticks_of() if pid is None else 4242,
            "boot_id": boot_id(),
            "ns_pid": namespace("pid"),
            "ns_mnt": namespace("mnt"),
            "ns_time": namespace("time"),
            "pointer_size": 8,
            "python_version_hex": 0x030C07F0,
            "clock_ticks_per_s": os.sysconf("SC_CLK_TCK"),
            "start_mono_ns": self.now - up,
            "start_real_ns": self.now - up + self.real_offset,
            "agent_version": "0.1.0",
            "app": "uvicorn app.main:app",
            "server": "uvicorn",
            "exe": "/usr/bin/python3.12",
            "argv": "uvicorn app.main:app",
            "cwd": "/srv/shop",
            "prefix": "/srv/shop/.venv",
        }
        config: dict[str, object] = {
            "threshold_ns": 50 * MS,
            "iteration_threshold_ns": 50 * MS,
            "cumulative_threshold_ns": 200 * MS,
            "cumulative_window_ns": S,
            "cumulative_min_step_ns": MS,
            "watchdog_interval_ns": 10 * MS,
            "stack_depth": 64,
            "max_endpoints": self.endpoint_count,
            "keep_segment": 1,
            "segment_mode": 0o600,
            "hooks": 1,
            "task_factory": 1,
        }
        for name, value in fields.items():
            (proc if name in PROC.at else config)[name] = value
        for name, value in proc.items():
            self.put(1, 0, name, value)
        for name, value in config.items():
            self.put(2, 0, name, value)
        self.put(3, 0, "mono_ns", self.now)
        self.put(3, 0, "real_ns", self.now + self.real_offset)
        self.strings: dict[str, int] = {"": 0}
        self.put(6, 0, "strings_used", 8)
        self.put(6, 0, "stacks_used", 1)
        self.put(6, 0, "frames_used", 1)
        first = 0
        for index, capacity in enumerate(RING_SLOTS):
            self.put(16, index, "capacity", capacity)
            self.put(16, index, "first_slot", first)
            self.put(16, index, "ring_class", BULK if index == 0 else RARE)
            first += capacity
        self.endpoint("", "(other)", kind="request")

    # -- the bytes

    def offset(self, kind: int, index: int = 0, field: str | None = None) -> int:
        section = self.sections[kind]
        at = section["offset"] + index * self.layouts[kind].size
        return at if field is None else at + self.layouts[kind].at[field][0]

    def put(self, kind: int, index: int, field: str, value: object, nth: int = 0) -> None:
        _, letter, count = self.layouts[kind].at[field]
        at = self.offset(kind, index, field)
        if isinstance(value, (list, tuple)):
            for n, one in enumerate(value):
                self.put(kind, index, field, one, n)
            return
        assert nth < count, field
        if isinstance(value, str):
            value = value.encode()
        struct.pack_into("=" + letter, self.data, at + nth * struct.calcsize("=" + letter), value)

    def get(self, kind: int, index: int, field: str, nth: int = 0) -> int:
        _, letter, _ = self.layouts[kind].at[field]
        at = self.offset(kind, index, field) + nth * struct.calcsize("=" + letter)
        return struct.unpack_from("=" + letter, self.data, at)[0]

    def add(self, kind: int, index: int, field: str, n: int, nth: int = 0) -> None:
        self.put(kind, index, field, self.get(kind, index, field, nth) + n, nth)

    # -- the tables

    def string(self, text: str | bytes) -> int:
        """The id of a text, appended when it is new."""
        raw = text.encode() if isinstance(text, str) else text
        known = self.strings.get(text) if isinstance(text, str) else None
        if known is not None:
            return known
        at = self.get(6, 0, "strings_used")
        place = self.offset(7) + at
        struct.pack_into("=H", self.data, place, len(raw))
        self.data[place + 2 : place + 2 + len(raw)] = raw
        self.put(6, 0, "strings_used", at + (2 + len(raw) + 1 + 7) // 8 * 8)
        if isinstance(text, str):
            self.strings[text] = at // 8
        return at // 8

    def endpoint(
        self,
        method: str,
        name: str,
        *,
        kind: str = "request",
        in_flight: int = 0,
        threshold_us: int = 0,
        steps_us: list[int] | None = None,
        responses_us: list[int] | None = None,
        **counters: object,
    ) -> int:
        """A new endpoint; its index. `steps_us` fill the histogram and the counters."""
        index = self.get(6, 0, "endpoints_used")
        self.put(6, 0, "endpoints_used", index + 1)
        key = self.string(name) | KINDS.index(kind) << 32 | METHODS.index(method) << 40
        self.put(8, index, "key", key)
        self.put(8, index, "in_flight_threshold_us", pair(in_flight, threshold_us))
        self.put(8, index, "first_seen_ns", max(self.now - 600 * S, 1))
        self.put(8, index, "last_seen_ns", self.now)
        for us in steps_us or []:
            self.add(9, 2 * index + 1, "bucket", 1, bucket_of(us))
            self.add(8, index, "steps", 1)
            self.add(8, index, "on_loop_sum_ns", us * US)
            if us * US > self.get(8, index, "step_max_ns"):
                self.put(8, index, "step_max_ns", us * US)
        for us in responses_us or []:
            self.add(9, 2 * index, "bucket", 1, bucket_of(us))
            self.add(8, index, "requests", 1)
        for field, value in counters.items():
            self.put(8, index, field, value)
        return index

    def cell(
        self,
        endpoint: int,
        ago_s: int,
        *,
        requests: int = 0,
        steps: int = 0,
        busy_us: int = 0,
        blocked_us: int = 0,
        blocks: int = 0,
        max_us: int = 0,
        waited: int = 0,
    ) -> None:
        """What happened `ago_s` seconds before now: the one-second and the ten-second cell."""
        second = self.now // S - ago_s
        for number, base, size in ((second, 0, CELLS_1S), (second // 10, CELLS_1S, CELLS_10S)):
            index = endpoint * CELLS + base + number % size
            if self.get(11, index, "second_requests") & 0xFFFFFFFF != number:
                for field in CELL.at:
                    self.put(11, index, field, number if field == "second_requests" else 0)
            self.add(11, index, "second_requests", requests << 32)
            self.add(11, index, "steps_busy_us", pair(steps, busy_us))
            self.add(11, index, "blocked_us_blocks", pair(blocked_us, blocks))
            now_max = self.get(11, index, "max_step_us_waited")
            self.put(
                11,
                index,
                "max_step_us_waited",
                pair(max(now_max & 0xFFFFFFFF, max_us), (now_max >> 32) + waited),
            )

    def loop(
        self,
        *,
        kind: int = 0,
        endpoint: int = 0,
        task: str = "",
        task_number: int = 0,
        request: int = 0,
        tid: int = 0,
        thread: str = "MainThread",
        heartbeat_ago: int = 0,
        **fields: object,
    ) -> int:
        """A new event loop; its index."""
        index = self.get(6, 0, "loops_used")
        self.put(6, 0, "loops_used", index + 1)
        task_id = task_number | TASK_NUMBER if task_number else self.string(task)
        values: dict[str, object] = {
            "state": IDLE,
            "step": 1,
            "endpoint_task": pair(endpoint, task_id),
            "request_tid": pair(request, tid),
            "iterations": 100,
            "steps": 80,
            "heartbeat_ns": self.now - heartbeat_ago,
            "tasks": 3,
            "threshold_ns": 50 * MS,
            "ready_length": 0,
            "created_ns": self.get(1, 0, "start_mono_ns"),
            "kind_thread_name": pair(kind, self.string(thread)),
        }
        for field, value in {**values, **fields}.items():
            self.put(10, index, field, value)
        return index

    def lag_us(self, loop: int, *values: int) -> None:
        for us in values:
            self.add(9, 2 * self.endpoint_count + loop, "bucket", 1, bucket_of(us))

    def loop_cell(
        self,
        loop: int,
        ago_s: int,
        *,
        iterations: int = 0,
        busy_us: int = 0,
        max_lag_us: int = 0,
        blocked_us: int = 0,
        blocks: int = 0,
        requests: int = 0,
        in_flight: int = 0,
    ) -> None:
        second = self.now // S - ago_s
        index = loop * LOOP_CELLS + second % LOOP_CELLS
        self.put(12, index, "second_iterations", pair(second, iterations))
        self.put(12, index, "busy_us_max_lag_us", pair(busy_us, max_lag_us))
        self.put(12, index, "blocked_us_blocks", pair(blocked_us, blocks))
        self.put(12, index, "requests_open", pair(requests, in_flight))

    def frame(self, function: str, file: str, line: int, outer: int = 0) -> int:
        index = self.get(6, 0, "frames_used")
        self.put(6, 0, "frames_used", index + 1)
        for field, value in (
            ("file", self.string(file)),
            ("function", self.string(function)),
            ("line", line),
            ("next", outer),
        ):
            self.put(19, index, field, value)
        return index

    def stack(
        self,
        *frames: tuple[str, str, int],
        endpoint: int = 0,
        count: int = 1,
        total_ns: int = 0,
        max_ns: int = 0,
    ) -> int:
        """A stack of (function, file, line), innermost first; its id."""
        inner = 0
        for function, file, line in reversed(frames):
            inner = self.frame(function, file, line, inner)
        index = self.get(6, 0, "stacks_used")
        self.put(6, 0, "stacks_used", index + 1)
        for field, value in (
            ("hash", 1000 + index),
            ("last_ns", self.now),
            ("count", count),
            ("total_ns", total_ns),
            ("max_ns", max_ns),
            ("frame_depth", pair(inner, len(frames))),
            ("endpoint_flags", pair(endpoint, 0)),
        ):
            self.put(18, index, field, value)
        return index

    def stall(
        self,
        *,
        endpoint: int,
        start_ns: int,
        duration_ns: int,
        kind: str = "step",
        cause: str | None = "cpu",
        flags: int = 0,
        loop: int = 0,
        step: int = 1,
        stack: int = 0,
        holder: int = 0,
        holder_stack: int = 0,
        request: int = 0,
        task: str = "",
        call: str = "",
        thread: str = "MainThread",
        samples: int = 0,
        tid: int = 0,
        parts: dict[str, int] | None = None,
        in_flight: int = 0,
        waited: list[tuple[int, int, int]] | None = None,
        **fields: object,
    ) -> int:
        """A block; its ticket. `waited`: (endpoint, requests, ns) each."""
        ticket = self.get(6, 0, "stalls_head")
        self.put(6, 0, "stalls_head", ticket + 1)
        slot = ticket % 512
        cause_number = UNKNOWN_CAUSE if cause is None else CAUSES.index(cause)
        waited = waited or []
        values: dict[str, object] = {
            "ticket": ticket + 1,
            "info": STALL_KINDS.index(kind) | cause_number << 8 | flags << 16 | loop << 32,
            "step": step,
            "start_ns": start_ns,
            "duration_ns": duration_ns,
            "threshold_ns": 50 * MS,
            "endpoint_holder": pair(endpoint, holder),
            "request_task": pair(request, self.string(task)),
            "parts_ns": [(parts or {}).get(name, 0) for name in CAUSES],
            "call_thread": pair(self.string(call), self.string(thread)),
            "stack_holder_stack": pair(stack, holder_stack),
            "samples_tid": pair(samples, tid),
            "waiting_open": pair(in_flight, 0),
            "waited_requests": sum(n for _, n, _ in waited),
            "waited_longest_ns": max((ns for _, _, ns in waited), default=0),
            "waited_sum_ns": sum(ns for _, _, ns in waited),
            "waited": [word for e, n, ns in waited[:4] for word in (pair(e, n), ns)],
        }
        for field, value in {**values, **fields}.items():
            self.put(13, slot, field, value)
        return ticket

    def record(
        self, ring: int, kind: int, *payload: int, time_ns: int | None = None, endpoint: int = 0
    ) -> int:
        """Pushes a record; its ticket."""
        ticket = self.get(16, ring, "head")
        slot = self.get(16, ring, "first_slot") + ticket % RING_SLOTS[ring]
        self.put(17, slot, "time_ns", self.now if time_ns is None else time_ns)
        self.put(17, slot, "tag", kind | endpoint << 48)
        self.put(17, slot, "p", list(payload))
        self.put(17, slot, "seq", 2 * ticket + 2)
        self.put(16, ring, "head", ticket + 1)
        return ticket

    def request(
        self,
        endpoint: int,
        *,
        duration_us: int,
        step_us: int,
        ago_ns: int = 0,
        status: int = 200,
        request_id: int = 1,
    ) -> int:
        return self.record(
            REQUESTS,
            REC_REQUEST,
            duration_us * US,
            step_us * US,
            step_us * US,
            pair(request_id, status | 1 << 16),
            0,
            time_ns=self.now - ago_ns,
            endpoint=endpoint,
        )

    def feature(self, name: str, on: bool, reason: str = "") -> None:
        for index in range(16):
            if self.get(5, index, "state") == 0:
                self.put(5, index, "name", name)
                self.put(5, index, "reason", reason)
                self.put(5, index, "state", 1 if on else 2)
                return
        raise AssertionError("more features than places")

    # -- the file

    def bytes(self) -> bytes:
        """The finished file: header and section table with a right checksum."""
        data = bytearray(self.data)
        at = HEADER.size
        for section in self.sections.values():
            for field, value in section.items():
                place, letter, _ = SECTION.at[field]
                struct.pack_into("=" + letter, data, at + place, value)
            at += SECTION.size
        header = {"segment_size": len(data), "section_count": len(self.sections), **self.header}
        header.setdefault("crc32c", crc32c(bytes(data[64:PAGE])))
        for field, value in header.items():
            place, letter, _ = HEADER.at[field]
            struct.pack_into("=" + letter, data, place, value)
        return bytes(data)

    def name(self) -> str:
        return f"loopguard.{self.get(1, 0, 'pid')}.{self.get(1, 0, 'start_ticks')}"

    def write(self, path: Path | str) -> Path:
        path = Path(path)
        path.write_bytes(self.bytes())
        path.chmod(0o600)
        return path

    @contextlib.contextmanager
    def live(self, directory: Path | str = "/dev/shm") -> Iterator[Path]:
        """The segment as its living writer has it: locked, under its right name."""
        path = self.write(Path(directory) / self.name())
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield path
            finally:
                path.unlink()


def other_endian(data: bytes) -> bytes:
    """The header as a machine of the other byte order would have written it."""
    swapped = bytearray(data)
    for place, letter, _ in HEADER.at.values():
        if letter in "IHQ":
            fmt = "=" + letter
            (value,) = struct.unpack_from(fmt, swapped, place)
            struct.pack_into(
                (">" if struct.pack("=H", 1) == b"\1\0" else "<") + letter, swapped, place, value
            )
    at = HEADER_SIZE + PROC.at["pointer_size"][0]
    swapped[at : at + 2] = swapped[at : at + 2][::-1]
    return bytes(swapped)


def shop(now: int | None = None, **fields: object) -> Segment:
    """A worker with a bit of everything: the one that most tests look at."""
    seg = Segment(now=now, **fields)
    app = "/srv/shop/app/reports.py"
    site = "/srv/shop/.venv/lib/python3.12/site-packages"
    std = "/usr/lib/python3.12"
    reports = seg.endpoint(
        "POST",
        "/reports/{id}",
        in_flight=1,
        steps_us=[900] * 141 + [41_000] * 50 + [812_000, 1_840_000],
        responses_us=[310_000] * 192,
        blocks=7,
        blocked_ns=4_930 * MS,
        status_2xx=192,
        blocked_by_cause_ns=[4_000 * MS, 930 * MS, 0, 0, 0, 0, 0, 0, 0],
        cumulative_waited=pair(1, 61),
    )
    search = seg.endpoint(
        "GET",
        "/search",
        in_flight=3,
        steps_us=[2_100] * 600 + [96_000] * 9,
        responses_us=[9_000] * 600,
        blocks=9,
        blocked_ns=402 * MS,
    )
    health = seg.endpoint(
        "GET", "/health", in_flight=5, steps_us=[420] * 1000, responses_us=[500] * 1000
    )
    poll = seg.endpoint("", "poll_queue", kind="task", steps_us=[38_000], blocks=0)
    seg.endpoint("", "(loop)", kind="loop")
    seg.loop(
        open_requests=9,
        requests=1792,
        sum_lag_ns=300 * S,
        blocked_ns=5_332 * MS,
        blocks=16,
        last_lag_ns=300 * US,
        max_lag_ns=1_840 * MS,
        max_lag_at_ns=seg.now - 12 * S,
        poll_since_ns=seg.now - MS,
    )
    seg.lag_us(0, *[300] * 900, *[2_000] * 90, 812_000, 1_840_000)
    render = ("render_pdf", app, 88)
    framework = [
        ("create_report", "/srv/shop/app/routes/reports.py", 19),
        ("run_endpoint_function", f"{site}/fastapi/routing.py", 212),
        ("app", f"{site}/starlette/routing.py", 73),
        ("run", f"{std}/asyncio/runners.py", 118),
    ]
    deep = seg.stack(
        render,
        ("build_report", app, 52),
        *framework,
        endpoint=reports,
        count=4,
        total_ns=1_710 * MS,
        max_ns=1_840 * MS,
    )
    loads = seg.stack(
        ("raw_decode", f"{std}/json/decoder.py", 337),
        ("search", "/srv/shop/app/routes/search.py", 44),
        *framework[1:],
        endpoint=search,
    )
    seg.cell(
        reports,
        2,
        requests=30,
        steps=60,
        busy_us=1_990_000,
        blocked_us=1_840_000,
        blocks=1,
        max_us=1_840_000,
        waited=9,
    )
    seg.cell(
        reports,
        30,
        requests=10,
        steps=20,
        busy_us=900_000,
        blocked_us=812_000,
        blocks=1,
        max_us=812_000,
    )
    seg.cell(
        search, 4, requests=18, steps=18, busy_us=96_000, blocked_us=96_000, blocks=1, max_us=96_000
    )
    seg.cell(health, 1, requests=96, steps=96, busy_us=40_000, max_us=420)
    seg.cell(poll, 3, steps=1, busy_us=38_000, max_us=38_000)
    seg.loop_cell(0, 1, iterations=500, busy_us=40_000, max_lag_us=500, requests=96)
    seg.loop_cell(
        0,
        2,
        iterations=9,
        busy_us=990_000,
        max_lag_us=1_840_000,
        blocked_us=1_840_000,
        blocks=1,
        requests=30,
    )
    seg.loop_cell(
        0,
        30,
        iterations=90,
        busy_us=900_000,
        max_lag_us=812_000,
        blocked_us=812_000,
        blocks=1,
        requests=10,
    )
    seg.loop_cell(
        0,
        4,
        iterations=400,
        busy_us=96_000,
        max_lag_us=96_000,
        blocked_us=96_000,
        blocks=1,
        requests=18,
    )
    seg.stall(
        endpoint=reports,
        start_ns=seg.now - 31 * S,
        duration_ns=812 * MS,
        stack=deep,
        cause="cpu",
        request=0x8F1201,
        parts={"cpu": 800 * MS, "other": 12 * MS},
    )
    seg.stall(
        endpoint=search,
        start_ns=seg.now - 4 * S,
        duration_ns=96 * MS,
        stack=loads,
        cause="io",
        call="recv fd 11 <- 127.0.0.1:5432",
        call_ns=90 * MS,
        request=0x8F19A7,
        parts={"cpu": 6 * MS, "io": 90 * MS},
        waited=[(health, 2, 91 * MS)],
    )
    seg.stall(
        endpoint=reports,
        start_ns=seg.now - 14 * S,
        duration_ns=1_840 * MS,
        stack=deep,
        cause="cpu",
        request=0x8F1FE0,
        samples=18,
        parts={"cpu": 1_830 * MS, "gc": 10 * MS},
        waited=[(health, 6, 1_700 * MS), (search, 3, 1_200 * MS)],
    )
    for ago in range(10):
        seg.request(reports, duration_us=310_000, step_us=41_000, ago_ns=ago * S)
    seg.record(EVENTS, REC_LIFECYCLE, 1, time_ns=max(seg.now - 600 * S, 1))
    seg.feature("hooks", True)
    seg.feature("audit", False, "refused by the application")
    return seg


def blocked(
    now: int | None = None, for_ns: int = 1_270 * MS, watched: bool = True, **fields: object
) -> Segment:
    """The same worker with its loop stuck in POST /reports/{id} at this moment."""
    seg = shop(now=now, **fields)
    start = seg.now - for_ns
    seg.put(10, 0, "state", STEP)
    seg.put(10, 0, "step", 77)
    seg.put(10, 0, "step_start_ns", start)
    seg.put(10, 0, "awake_since_ns", start)
    seg.put(10, 0, "endpoint_task", pair(1, 8123 | TASK_NUMBER))
    seg.put(10, 0, "request_tid", pair(0x8F21C4, 41207))
    if watched:
        ticket = seg.stall(
            endpoint=1,
            start_ns=start,
            duration_ns=for_ns,
            flags=ONGOING | WATCHED,
            step=77,
            stack=1,
            cause="cpu",
            samples=12,
            tid=41207,
            request=0x8F21C4,
            in_flight=8,
            parts={"cpu": for_ns},
        )
        seg.put(10, 0, "stall_ticket", ticket + 1)
        seg.put(10, 0, "stall_step", 77)
    return seg
