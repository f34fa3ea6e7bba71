"""Reads a segment for the tests: a file by its section table, into plain objects.

Field by field as in common/lg_layout.h, without the seqlocks: good enough for a
worker that is quiet, which the tests wait for. The real readers are in viewer/.
What others refer to (strings, endpoints, stacks, frames) only grows, so it is
read once more after all the rest. The names of the layout are those of segwriter.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import segwriter
from segwriter import CAUSES, KINDS, METHODS, STALL_KINDS

STATES = ("initialising", "running", "exiting", "exited", "off")
LOOP_KINDS = ("asyncio", "uvloop", "other")
LOOP_STATES = ("free", "idle", "step", "closed")
RECORDS = {
    1: "request",
    2: "lag",
    3: "block_begin",
    4: "block_end",
    5: "gc_pause",
    6: "lifecycle",
    7: "clock_step",
    8: "overflow",
    9: "pool_wait",
    10: "mark",
    11: "cumulative",
}
LIFE = {1: "start", 2: "loop added", 3: "loop closed", 4: "fork child", 5: "clean exit"}
SELF = [name for name in segwriter.SELF.at if name != "reserved"]
ONGOING = 1
EXCEPTION, CANCELLED, NO_RESPONSE = 1, 2, 4
_PROC, _SELF, _FEATURES, _TABLES, _STRINGS, _ENDPOINTS, _LOOPS = 1, 4, 5, 6, 7, 8, 10
_STALLS, _RINGS, _SLOTS, _STACKS, _FRAMES = 13, 16, 17, 18, 19
_TASK_NUMBER = 0x8000_0000
_NONE = 2**64 - 1


def _lo(word: int) -> int:
    return word & 0xFFFF_FFFF


def _hi(word: int) -> int:
    return word >> 32


@dataclass(frozen=True)
class Endpoint:
    """One row of ENDPOINTS; times in ms."""

    index: int
    kind: str
    method: str
    name: str
    in_flight: int
    threshold_ms: float
    requests: int
    status: dict[int, int]
    exceptions: int
    cancelled: int
    steps: int
    on_loop_ms: float
    step_max_ms: float
    cpu_ms: float
    blocked_ms: float
    blocks: int
    cumulative: int
    waited: int
    waited_ms: float
    pool_run_ms: float

    @property
    def label(self) -> str:
        """As people say it: "GET /x", "task work", "callback tick"."""
        if self.kind in ("request", "websocket"):
            return f"{self.method} {self.name}".strip()
        if self.kind == "background":
            return f"background {self.method} {self.name}"
        return self.name if self.name.startswith("(") else f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Stall:
    """One entry of STALLS; times in ms."""

    ticket: int
    kind: str
    cause: str
    ongoing: bool
    loop: int
    start_ns: int
    duration_ms: float
    threshold_ms: float
    endpoint: str
    holder: str
    request_id: int
    task: str
    parts: dict[str, float]
    call: str
    stack: tuple[tuple[str, str, int], ...]  # (function, file, line), innermost first
    waiting: int
    waited: int
    waited_longest_ms: float
    waited_sum_ms: float
    waited_by: dict[str, tuple[int, float]]
    steps: int


@dataclass(frozen=True)
class Loop:
    """One entry of LOOPS; times in ms."""

    index: int
    state: str
    after_response: bool
    kind: str
    thread: str
    endpoint: str
    request_id: int
    iterations: int
    steps: int
    awake_since_ns: int
    max_lag_ms: float
    busy_ms: float
    heartbeat_ns: int
    stall_ticket: int
    open_requests: int
    threshold_ms: float
    blocked_ms: float
    blocks: int
    requests: int
    cumulative_events: int
    parts: dict[str, float]
    closed: bool


@dataclass(frozen=True)
class Request:
    """A REQUEST record; times in ms."""

    label: str
    duration_ms: float
    on_loop_ms: float
    longest_step_ms: float
    request_id: int
    status: int
    flags: int


class Segment:
    """A private copy of a segment's bytes, read at construction."""

    def __init__(self, path: str | Path) -> None:
        self.data = Path(path).read_bytes()
        self._later = Path(path).read_bytes()
        magic, _, major, _, _, count = struct.unpack_from("<8sIHHII", self.data)
        assert magic == b"LGUARD\x1a\n", f"{path} is no segment"
        assert major == 1
        self.state = STATES[struct.unpack_from("<I", self.data, 60)[0]]
        self._sections: dict[int, tuple[int, int, int]] = {}
        for i in range(count):
            kind, _, _, offset, _, stride, n, _ = struct.unpack_from(
                "<IHHQQIIQ", self.data, 64 + 40 * i
            )
            self._sections[kind] = (offset, stride, n)
        self.pid = struct.unpack_from("<I", self.data, self._at(_PROC, 0))[0]
        _, _, _, _, self._stalls_head, loops, *_ = self._words(_TABLES, 0, 8)
        endpoints = struct.unpack_from("<8Q", self._later, self._at(_TABLES, 0))[1]
        self.endpoints = [self._endpoint(i) for i in range(endpoints)]
        self.loops = [self._loop(i) for i in range(loops)]
        self.counters = dict(zip(SELF, self._words(_SELF, 0, len(SELF))))

    # ---- what the tests ask

    def endpoint(self, label: str) -> Endpoint:
        """The row of that label; KeyError names those that are there."""
        for row in self.endpoints:
            if row.label == label:
                return row
        raise KeyError(f"{label!r} is not among {self.labels()}")

    def labels(self) -> list[str]:
        """All rows that exist."""
        return [row.label for row in self.endpoints]

    @property
    def stalls(self) -> list[Stall]:
        """Oldest first; as many as the table still holds."""
        count = self._sections[_STALLS][2]
        first = max(0, self._stalls_head - count)
        return [self._stall(t % count) for t in range(first, self._stalls_head)]

    @property
    def features(self) -> dict[str, tuple[bool, str]]:
        """Name to (on, reason)."""
        found = {}
        offset, stride, n = self._sections[_FEATURES]
        for i in range(n):
            name, state, _, reason = struct.unpack_from("<16sII40s", self.data, offset + i * stride)
            if state:
                found[_text(name)] = (state == 1, _text(reason))
        return found

    @property
    def requests(self) -> list[Request]:
        """The records of finished requests, oldest first."""
        found = []
        for kind, endpoint, p in self.records():
            if kind == "request":
                label = self.endpoints[endpoint].label
                times = [ns / 1e6 for ns in p[:3]]
                found.append(
                    Request(label, *times, _lo(p[3]), _hi(p[3]) & 0xFFFF, _hi(p[3]) >> 24 & 0xFF)
                )
        return found

    @property
    def life(self) -> list[str]:
        """What happened to the process, oldest first."""
        return [LIFE.get(p[0], str(p[0])) for kind, _, p in self.records() if kind == "lifecycle"]

    def records(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """(kind, endpoint, payload) of each ring in turn, oldest first in each."""
        found = []
        for ring in range(self._sections[_RINGS][2]):
            head, first, capacity, first_slot = self._words(_RINGS, ring, 4)
            if capacity == 0:
                continue
            for ticket in range(max(first, head - capacity), head):
                words = self._words(_SLOTS, first_slot + ticket % capacity, 8)
                kind = RECORDS.get(words[2] & 0xFFFF, "?")
                found.append((kind, words[2] >> 48, words[3:]))
        return found

    # ---- how

    def _at(self, section: int, index: int) -> int:
        offset, stride, count = self._sections[section]
        assert 0 <= index < count, f"entry {index} of {count} in section {section}"
        return offset + stride * index

    def _words(self, section: int, index: int, n: int) -> tuple[int, ...]:
        data = self._later if section in (_ENDPOINTS, _STACKS) else self.data
        return struct.unpack_from(f"<{n}Q", data, self._at(section, index))

    def string(self, ref: int) -> str:
        """Text of a string id."""
        assert ref < self._sections[_STRINGS][2] // 8, f"string {ref} lies beyond the table"
        at = self._sections[_STRINGS][0] + ref * 8
        size = struct.unpack_from("<H", self._later, at)[0]
        return self._later[at + 2 : at + 2 + size].decode()

    def _endpoint(self, i: int) -> Endpoint:
        w = self._words(_ENDPOINTS, i, 32)
        return Endpoint(
            index=i,
            kind=KINDS[w[0] >> 32 & 0xFF],
            method=METHODS[w[0] >> 40 & 0xFF],
            name=self.string(_lo(w[0])),
            in_flight=_lo(w[1]),
            threshold_ms=_hi(w[1]) / 1e3,
            requests=w[2],
            status={2: w[3], 3: w[4], 4: w[5], 5: w[6]},
            exceptions=w[7],
            cancelled=w[8],
            steps=w[9],
            on_loop_ms=w[12] / 1e6,
            step_max_ms=w[13] / 1e6,
            cpu_ms=w[14] / 1e6,
            blocked_ms=w[15] / 1e6,
            blocks=w[16],
            cumulative=_lo(w[26]),
            waited=_hi(w[26]),
            waited_ms=w[29] / 1e6,
            pool_run_ms=w[28] / 1e6,
        )

    def _loop(self, i: int) -> Loop:
        w = self._words(_LOOPS, i, 64)
        return Loop(
            index=i,
            state=LOOP_STATES[w[1] & 0xFF],
            after_response=bool(w[1] & 0x100),
            kind=LOOP_KINDS[_lo(w[44])],
            thread=self.string(_hi(w[44])),
            endpoint=self.endpoints[_lo(w[4])].label,
            request_id=_lo(w[5]),
            iterations=w[8],
            steps=w[9],
            awake_since_ns=w[10],
            max_lag_ms=w[13] / 1e6,
            busy_ms=w[15] / 1e6,
            heartbeat_ns=w[16],
            stall_ticket=w[17],
            open_requests=w[25],
            threshold_ms=w[26] / 1e6,
            blocked_ms=w[28] / 1e6,
            blocks=w[29],
            requests=w[30],
            cumulative_events=w[31],
            parts=_parts(w[32:41]),
            closed=w[43] != 0,
        )

    def _stall(self, slot: int) -> Stall:
        w = self._words(_STALLS, slot, 36)
        cause = w[2] >> 8 & 0xFF
        return Stall(
            ticket=w[1] - 1,
            kind=STALL_KINDS[w[2] & 0xFF],
            cause=CAUSES[cause] if cause < len(CAUSES) else "unknown",
            ongoing=bool(w[2] >> 16 & ONGOING),
            loop=_hi(w[2]),
            start_ns=w[4],
            duration_ms=w[5] / 1e6,
            threshold_ms=w[6] / 1e6,
            endpoint=self.endpoints[_lo(w[7])].label,
            holder=self.endpoints[_hi(w[7])].label if _hi(w[7]) else "",
            request_id=_lo(w[8]),
            task=self._task(_hi(w[8])),
            parts=_parts(w[9:18]),
            call=self.string(_lo(w[18])),
            stack=self._stack(_lo(w[19])),
            waiting=_lo(w[21]),
            waited=w[22],
            waited_longest_ms=w[23] / 1e6,
            waited_sum_ms=w[24] / 1e6,
            waited_by={
                self.endpoints[_lo(w[25 + 2 * i])].label: (_hi(w[25 + 2 * i]), w[26 + 2 * i] / 1e6)
                for i in range(4)
                if _hi(w[25 + 2 * i])
            },
            steps=w[35],
        )

    def _task(self, ref: int) -> str:
        return f"Task-{ref - _TASK_NUMBER}" if ref & _TASK_NUMBER else self.string(ref)

    def _stack(self, ref: int) -> tuple[tuple[str, str, int], ...]:
        frames = []
        at = _lo(self._words(_STACKS, ref, 8)[6]) if ref else 0
        while at:
            file, function, line, following = struct.unpack_from(
                "<4I", self._later, self._at(_FRAMES, at)
            )
            frames.append((self.string(function), self.string(file), line))
            assert following < at, "frames are linked in a circle"
            at = following
        return tuple(frames)


def _parts(words: tuple[int, ...]) -> dict[str, float]:
    return {cause: ns / 1e6 for cause, ns in zip(CAUSES, words)}


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode()
