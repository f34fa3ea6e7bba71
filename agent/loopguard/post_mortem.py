"""What a worker's segment holds, for scripts and notebooks: live, dead or copied.

    from loopguard import post_mortem

    with post_mortem.open(41207) as segment:        # or open("worker.lg")
        if segment.died_in is not None:
            print(segment.died_in)
        for endpoint in segment.endpoints:
            print(endpoint.route, endpoint.blocks, endpoint.blocked_ms)

Read-only: no signal is sent, nothing is changed, the worker does not notice. The
figures are those of loopguard-top, for they come from the same code. Units stand
in the names; None means "not known", which is not 0. Everything here is frozen:
`Segment.refresh` makes new objects. Any thread may call; the GIL is given away
while a segment is copied and its figures are computed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, Callable, TypeVar

from loopguard import _segment

__all__ = [
    "Block",
    "Bucket",
    "Config",
    "EndpointFigures",
    "Event",
    "Feature",
    "Found",
    "Frame",
    "History",
    "HistoryCell",
    "Lag",
    "Loop",
    "LoopHistoryCell",
    "Mark",
    "Pool",
    "Quantiles",
    "Record",
    "RequestRecord",
    "Segment",
    "Stack",
    "StuckThread",
    "WaitingEndpoint",
    "WaitingRequests",
    "WeightedStack",
    "Window",
    "open",
    "segments",
]

_T = TypeVar("_T")


@dataclass(frozen=True, repr=False)
class Frame:
    """One frame of a stack, the way the agent saw it."""

    function: str
    filename: str
    lineno: int
    short_filename: str  # without cwd, site-packages, the standard library's folder
    is_user: bool  # neither an installed package nor the standard library
    is_endpoint: bool  # outermost frame of user code

    def __repr__(self) -> str:
        return f"{self.function} ({self.short_filename}:{self.lineno})"


@dataclass(frozen=True)
class Quantiles:
    """Upper bucket edges: they read high by at most 6.25 %.

    `source` says what they are made of: the histogram of a window or of the
    "total", or the "records" of the requests; None when they are not known.
    """

    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    source: str | None


@dataclass(frozen=True)
class Bucket:
    """`count` values with lo_ms <= value < hi_ms; hi_ms None in the last one."""

    lo_ms: float
    hi_ms: float | None
    count: int


@dataclass(frozen=True)
class WaitingEndpoint:
    """Requests of one endpoint that waited behind somebody's block."""

    endpoint_kind: str
    method: str | None
    route: str | None
    requests: int
    wait_ms: float | None  # None while it lasts


@dataclass(frozen=True)
class WaitingRequests:
    """Who waited. Of the endpoints, those that waited most."""

    requests: int | None
    longest_ms: float | None  # None while it lasts
    sum_ms: float | None
    endpoints: tuple[WaitingEndpoint, ...]


@dataclass(frozen=True, repr=False)
class WeightedStack:
    """A blocking stack of an endpoint, innermost frame first."""

    blocked_ms: float
    share: float | None  # of the endpoint's blocked time
    count: int
    max_ms: float
    last_age_ms: float | None
    stack: tuple[Frame, ...]

    def __repr__(self) -> str:
        where = self.stack[0] if self.stack else "no stack"
        return f"<{self.blocked_ms:g} ms in {self.count} blocks: {where}>"


@dataclass(frozen=True, repr=False)
class EndpointFigures:
    """One row of loopguard-top's table, in the window it was asked for."""

    endpoint_kind: str  # "request", "websocket", "task", "callback", ...
    method: str | None  # None where there is none
    route: str | None  # template, task name, function
    window: str
    blocked_ms: float | None  # whole duration of the steps over the threshold
    blocked_share: float | None  # of the window
    blocks: int | None
    ongoing: bool  # a block of it lasts, or lasted at death
    max_ms: float | None
    steps_took: Quantiles  # time on the loop, by step
    responses_took: Quantiles  # with awaits
    requests: int | None
    requests_per_s: float | None
    steps: int | None
    busy_ms: float | None
    busy_share: float | None
    open: int  # requests in progress
    threshold_ms: float | None
    total_blocks: int
    total_requests: int
    cumulative_events: int
    first_seen_age_ms: float | None
    last_seen_age_ms: float | None
    last_block_ms: float | None
    last_block_age_ms: float | None
    status: Mapping[str, int]  # "2xx" .. "5xx", "exceptions", "cancelled"; total
    total_parts_ms: Mapping[str, float] | None  # blocked time by cause
    total_pool_wait_ms: float
    total_pool_run_ms: float
    histogram: tuple[Bucket, ...] | None  # what steps_took is made of
    timeline_blocked_ms: tuple[float | None, ...]  # 60 seconds, the last is now
    waited_requests: int | None
    waited: WaitingRequests
    stacks: tuple[WeightedStack, ...]
    hint: str | None

    @property
    def label(self) -> str:
        """As people say it: "GET /health", "task poll_queue"."""
        return _label(self.endpoint_kind, self.method, self.route)

    def __repr__(self) -> str:
        return (
            f"<{self.label}: {_said(self.blocks)} blocks, {_said(self.blocked_ms)} ms, "
            f"{_said(self.requests)} requests ({self.window})>"
        )


@dataclass(frozen=True, repr=False)
class Block:
    """What keeps a loop at this moment, or what it was in when the worker died."""

    for_ms: float  # until now, or until the last heartbeat
    threshold_ms: float
    over_threshold: bool  # False: the worker died in a short step
    kind: str  # "step", "iteration", "cumulative", "call"
    step: int
    endpoint_kind: str
    method: str | None
    route: str | None
    request_id: str | None  # 8 hex digits, as in headers and log
    task: str | None
    loop: int
    thread: str | None
    native_id: int | None
    cause: str | None
    parts_ms: Mapping[str, float] | None  # None without a watchdog's look
    call: str | None  # "recv fd 11 <- 127.0.0.1:5432"
    call_ms: float | None
    samples: int
    moving: bool  # the innermost frame changed between looks
    stack: tuple[Frame, ...] | None  # innermost first
    holder_stack: tuple[Frame, ...] | None  # of who held the GIL
    holder_method: str | None
    holder_route: str | None
    waiting: WaitingRequests
    longest_seen_ms: float
    torn: bool  # its entry was being written at death

    @property
    def label(self) -> str:
        """Endpoint as people say it."""
        return _label(self.endpoint_kind, self.method, self.route)

    def __repr__(self) -> str:
        return f"<{self.label}, {self.for_ms:g} ms into the {self.kind}{_where(self.stack)}>"


@dataclass(frozen=True, repr=False)
class Event:
    """One block, over or still lasting."""

    at: datetime | None  # when it began
    kind: str
    duration_ms: float
    threshold_ms: float
    endpoint_kind: str
    method: str | None
    route: str | None
    request_id: str | None
    task: str | None
    loop: int
    thread: str | None
    native_id: int | None
    cause: str | None
    parts_ms: Mapping[str, float] | None  # sums to the duration
    call: str | None
    call_ms: float | None
    samples: int
    steps: int
    major_faults: int
    moving: bool
    throttled: bool  # by the control group, meanwhile
    stack: tuple[Frame, ...] | None
    holder_stack: tuple[Frame, ...] | None
    holder_method: str | None
    holder_route: str | None
    waited: WaitingRequests
    ongoing: bool
    torn: bool

    @property
    def label(self) -> str:
        """Endpoint as people say it."""
        return _label(self.endpoint_kind, self.method, self.route)

    def __repr__(self) -> str:
        return (
            f"<{self.kind} of {self.duration_ms:g} ms in {self.label}, "
            f"{self.cause or 'cause unknown'}{_where(self.stack)}>"
        )


@dataclass(frozen=True)
class Mark:
    """What happened to the worker besides blocks: "worker started" ..."""

    at: datetime | None
    text: str


@dataclass(frozen=True)
class Window:
    """Sums of a worker or of a loop in one window."""

    covered_ms: float
    requests: int
    requests_per_s: float | None
    busy_share: float | None
    blocks: int
    blocked_ms: float
    blocked_share: float | None
    max_lag_ms: float


@dataclass(frozen=True)
class Lag:
    """How late the loop was for whatever was due."""

    now_ms: float | None
    quantiles: Quantiles
    max_ms: float | None  # in the window
    max_ever_ms: float | None
    max_ever_at: datetime | None
    series_ms: tuple[float | None, ...]  # worst of each of 60 seconds, the last is now


@dataclass(frozen=True)
class Loop:
    """One event loop."""

    index: int
    kind: str  # "asyncio", "uvloop", "other"
    closed: bool
    thread: str | None
    native_id: int | None
    lag_now_ms: float | None
    max_lag_ms: float | None
    heartbeat_age_ms: float | None
    threshold_ms: float | None
    tasks: int | None
    open: int | None
    ready: int | None  # None on uvloop
    iterations: int
    steps: int
    gc_pauses: int
    throttled: int
    parts_ms: Mapping[str, float] | None  # of all steps and iterations over 1 ms
    windows: Mapping[str, Window]


@dataclass(frozen=True)
class StuckThread:
    """A thread of the pool that has been at one call for long."""

    native_id: int
    endpoint_kind: str
    method: str | None
    route: str | None
    for_ms: float
    stack: tuple[Frame, ...] | None


@dataclass(frozen=True)
class Pool:
    """The thread pool, since the worker started."""

    limit: int
    busy: int
    waiting: int
    high_water: int
    waiting_high_water: int
    full_count: int
    full_for_ms: float | None  # None: it is not full
    submitted: int
    finished: int
    wait_sum_ms: float
    wait_max_ms: float
    run_sum_ms: float
    run_max_ms: float
    wait: Quantiles
    stuck: tuple[StuckThread, ...]


@dataclass(frozen=True)
class Feature:
    """A part of the agent, on or off, and why it is off."""

    name: str
    on: bool
    reason: str | None


@dataclass(frozen=True)
class Config:
    """Options that were in force when the worker started."""

    threshold_ms: float
    iteration_threshold_ms: float
    cumulative_threshold_ms: float | None  # None: off
    cumulative_window_ms: float
    cumulative_min_step_ms: float
    watchdog_interval_ms: float
    stack_depth: int
    max_endpoints: int
    keep_segment: str | None
    hooks: str
    task_factory: bool
    threshold_kind: str | None  # "fixed", "calibrated", "adaptive"


@dataclass(frozen=True, repr=False)
class Stack:
    """One blocking stack since the worker started, innermost frame first."""

    endpoint_kind: str | None
    method: str | None
    route: str | None
    count: int
    total_ms: float
    max_ms: float
    frames: tuple[Frame, ...]

    def __repr__(self) -> str:
        where = self.frames[0] if self.frames else "no frames"
        return f"<{self.count} times, {self.total_ms:g} ms: {where}>"


@dataclass(frozen=True)
class HistoryCell:
    """One or ten seconds of an endpoint."""

    at: datetime
    seconds: int
    endpoint: int  # index in the segment
    requests: int
    steps: int
    busy_ms: float
    blocked_ms: float  # whole blocks that ended here
    blocks: int
    max_ms: float
    waited: int


@dataclass(frozen=True)
class LoopHistoryCell:
    """One second of a loop."""

    at: datetime
    loop: int
    iterations: int
    busy_ms: float
    max_lag_ms: float
    blocked_ms: float
    blocks: int
    requests: int
    open: int  # at its end
    cpu_ms: float
    gil_ms: float
    io_ms: float  # disk and locks, too
    gc_ms: float


@dataclass(frozen=True, repr=False)
class History:
    """The seconds that the segment still holds, in no order."""

    endpoints: tuple[HistoryCell, ...]
    loops: tuple[LoopHistoryCell, ...]

    def __repr__(self) -> str:
        return f"<{len(self.endpoints)} cells of endpoints, {len(self.loops)} of loops>"


@dataclass(frozen=True)
class RequestRecord:
    """One finished request, of the last few thousand."""

    at: datetime
    endpoint_kind: str | None
    method: str | None
    route: str | None
    request_id: str | None
    status: int | None  # None: no response left
    duration_ms: float
    on_loop_ms: float
    longest_step_ms: float
    pool_wait_ms: float
    exception: bool
    cancelled: bool


@dataclass(frozen=True)
class Record:
    """One entry of a ring that is no request; the payload as lg_layout.h names it."""

    at: datetime
    kind: str | None  # "gc_pause", "lag", "block_end", ...; None: of a newer agent
    payload: tuple[int | None, ...]


@dataclass(frozen=True)
class Found:
    """A segment on this host; `open` it to look inside."""

    pid: int
    alive: bool
    state: str  # "running", "exited", "killed", "off"
    app: str
    server: str
    worker: int  # number within its application
    ppid: int
    uid: int
    python: str
    agent: str
    started_at: datetime | None
    path: str = field(repr=False)

    def open(self) -> Segment:
        """The segment behind it.

        Raises:
            OSError, ValueError: as `loopguard.post_mortem.open`.
        """
        return Segment(_segment.Reader(0, self.path), os.fspath(self.path))


class Segment:
    """One worker's segment, copied when it was opened or last refreshed.

    Use it in a ``with`` statement or `close` it; what was looked at before
    stays readable. Not for two threads at the same moment.
    """

    def __init__(self, reader: _segment.Reader, name: str) -> None:
        self._reader = reader
        self._name = name
        self._parsed: dict[str, Any] = {}
        self._taken_at = datetime.now(timezone.utc)
        self._worker("total")

    # ---- life

    def refresh(self) -> Segment:
        """Copies a live segment again and returns self; the dead do not change.

        Raises:
            ValueError: the segment is closed.
        """
        self._reader.refresh()
        self._parsed.clear()
        self._taken_at = datetime.now(timezone.utc)
        return self

    def close(self) -> None:
        """Gives the segment back; safe to call twice."""
        self._reader.close()

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        died = f", died in {self.died_in.label}" if self.died_in else ""
        now = f", blocked by {self.blocked_now.label}" if self.blocked_now else ""
        return f"<Segment of {self.app or '?'} (pid {self.pid}, {self.state}{died}{now})>"

    # ---- who

    @property
    def path(self) -> str:
        """The file as it was opened."""
        return str(self._total["file"])

    @property
    def pid(self) -> int:
        """As seen from here if it runs here, else as the worker saw itself."""
        return int(self._total["pid"] or 0)

    @property
    def ppid(self) -> int:
        """Its parent's number, as the worker saw it."""
        return int(self._total["ppid"])

    @property
    def app(self) -> str | None:
        """Name of the application."""
        return self._word("app")

    @property
    def server(self) -> str | None:
        """Its server, such as "uvicorn"; None when it has none."""
        return self._word("server")

    @property
    def worker(self) -> int:
        """Number of the worker within its application, from 0."""
        return int(self._total["slot"])

    @property
    def python(self) -> str | None:
        """Version of the worker's Python."""
        return self._word("python")

    @property
    def agent(self) -> str | None:
        """Version of the loopguard that wrote the segment."""
        return self._word("agent")

    @property
    def layout(self) -> str:
        """Version of the layout: "1.0"."""
        return str(self._total["layout"])

    @property
    def process(self) -> Mapping[str, Any]:
        """What else the worker told of itself: uid, exe, argv, cwd, namespaces."""
        return MappingProxyType(dict(self._facts["process"]))

    # ---- how it is

    @property
    def alive(self) -> bool:
        """Whether the process was there when the segment was copied."""
        return not self._total["post_mortem"]

    @property
    def state(self) -> str:
        """What became of the worker, in words.

        "running", "running without heartbeat", "exited", "killed in mid-block"
        (its loop was over the threshold), "killed in mid-step" (in a short step),
        "killed" (idle), "cut short" or "switched off".
        """
        state = self._total["state"]
        if state == "dead" and self.died_in is not None:
            return "killed in mid-block" if self.died_in.over_threshold else "killed in mid-step"
        return _STATES[state]

    @property
    def died_in(self) -> Block | None:
        """The step that ran when the worker was killed; None if none did."""
        return _block(self._total["died_in"])

    @property
    def blocked_now(self) -> Block | None:
        """The block in progress when the segment was copied; None if none was."""
        return _block(self._total["blocked_now"])

    @property
    def taken_at(self) -> datetime:
        """When the segment was copied (UTC)."""
        return self._taken_at

    @property
    def started_at(self) -> datetime | None:
        """When the worker started (UTC)."""
        return _when(self._total["started_unix_ms"])

    @property
    def ended_at(self) -> datetime | None:
        """Last sign of life of a dead worker (UTC)."""
        return _when(self._total["ended_unix_ms"])

    @property
    def up_ms(self) -> float | None:
        """From its start until now or until its end."""
        return _number(self._total["up_ms"])

    @property
    def heartbeat_age_ms(self) -> float | None:
        """Since the agent's last heartbeat; None of the dead and before a loop ran."""
        return _number(self._total["heartbeat_age_ms"])

    @property
    def open(self) -> int | None:
        """Requests in progress, None when not known."""
        return _whole(self._total["open"])

    @property
    def tasks(self) -> int | None:
        """Tasks of asyncio, None when not known."""
        return _whole(self._total["tasks"])

    @property
    def threshold_ms(self) -> float | None:
        """In force on its first open loop."""
        return _ms(self._total["threshold_us"])

    @property
    def lost_events(self) -> int:
        """Events that found no place or were overwritten before they were read."""
        return _count(self._total["lost_events"])

    @property
    def message(self) -> str | None:
        """What could not be read cleanly this time, in words."""
        return self._word("message")

    @property
    def damage(self) -> tuple[str, ...]:
        """Places of the file that could not be used: "byte 4160: ..."."""
        faults = self._facts["damage"]["faults"]
        return tuple(f"byte {fault['offset']}: {fault['what']}" for fault in faults)

    # ---- figures

    @property
    def endpoints(self) -> tuple[EndpointFigures, ...]:
        """All endpoints since the worker started, most blocked time first."""
        return self.endpoints_in("total")

    def endpoints_in(self, window: str) -> tuple[EndpointFigures, ...]:
        """The same in the last "10s", "1m", "5m", or in "total".

        Windows of the dead end with them.

        Raises:
            ValueError: another word, or the segment is closed.
        """
        return self._made(f"endpoints {window}", lambda: self._endpoints(window))

    @property
    def windows(self) -> Mapping[str, Window]:
        """Sums over its loops by window: "10s", "1m", "5m", "total"."""
        return _windows(self._total["windows"])

    @property
    def lag(self) -> Lag:
        """Lag since the worker started, worst of its loops."""
        return self.lag_in("total")

    def lag_in(self, window: str) -> Lag:
        """The same in a window.

        Raises:
            ValueError: no such window, or the segment is closed.
        """
        return _lag(self._worker(window)["lag_us"])

    @property
    def events(self) -> tuple[Event, ...]:
        """Blocks that the segment still holds, newest first."""
        return self._made("events", lambda: tuple(map(_event, self._total["events"])))

    @property
    def lifecycle(self) -> tuple[Mark, ...]:
        """Start, loops, exit, jumps of the clock; newest first."""
        marks = self._total["lifecycle"]
        return tuple(Mark(_when(mark["time_unix_ms"]), mark["text"]) for mark in marks)

    @property
    def loops(self) -> tuple[Loop, ...]:
        """Its event loops."""
        return tuple(map(_loop, self._total["loops"]))

    @property
    def pool(self) -> Pool | None:
        """The thread pool; None before it was used."""
        return _pool(self._total["threadpool"])

    @property
    def gc_pauses(self) -> int:
        """Pauses of the garbage collector on its loops; their time is a part of `Loop.parts_ms`."""
        return sum(loop.gc_pauses for loop in self.loops)

    @property
    def features(self) -> Mapping[str, Feature]:
        """Parts of the agent by name."""
        features = (Feature(f["name"], f["on"], f["why"]) for f in self._total["features"])
        return MappingProxyType({feature.name: feature for feature in features})

    @property
    def config(self) -> Config:
        """Options in force when it started."""
        return _config(self._facts["config"])

    @property
    def counters(self) -> Mapping[str, int]:
        """The agent's counters of itself; empty when the file has them no more."""
        return MappingProxyType(dict(self._facts["agent_counters"] or {}))

    @property
    def tables(self) -> Mapping[str, tuple[int, int]]:
        """How full the tables are: name to (used, room)."""
        tables = self._facts["tables"]
        return MappingProxyType({name: (t["used"], t["room"]) for name, t in tables.items()})

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Every blocking stack since the start, most blocked time first."""
        return self._made("stacks of all", self._stacks)

    @property
    def history(self) -> History:
        """By second: the last minutes, up to the end of a dead worker."""
        return self._made("history of all", self._history)

    @property
    def requests(self) -> tuple[RequestRecord, ...]:
        """The last finished requests, oldest first."""
        return self._made("requests", lambda: tuple(map(self._request, self._records(True))))

    @property
    def records(self) -> tuple[Record, ...]:
        """The other records of the rings, oldest first."""
        return self._made("other", lambda: tuple(map(self._record, self._records(False))))

    def histogram(
        self, method: str | None, route: str, what: str = "on_loop"
    ) -> tuple[Bucket, ...]:
        """Durations of an endpoint since the worker started; empty when it has none.

        Args:
            method: "GET", or None for tasks and callbacks.
            route: as `EndpointFigures.route`.
            what: "on_loop" (of steps) or "response" (of requests, with awaits).
        Raises:
            ValueError: another `what`, or the segment is closed.
        """
        if what not in ("on_loop", "response"):
            raise ValueError(f"what must be 'on_loop' or 'response', not {what!r}")
        for endpoint in self._part("histograms")["histograms"]["endpoints"]:
            if (endpoint["method"], endpoint["route"]) == (method, route):
                return _buckets(endpoint[f"{what}_us"]) or ()
        return ()

    # ---- how

    @property
    def _total(self) -> Any:
        return self._worker("total")

    @property
    def _facts(self) -> Any:
        return self._part("facts")

    def _word(self, key: str) -> str | None:
        word: str | None = self._total[key]
        return word

    def _worker(self, window: str) -> Any:
        if window not in self._parsed:
            self._parsed[window] = json.loads(self._reader.worker(window, window == "total"))
        return self._parsed[window]

    def _part(self, name: str) -> Any:
        if name not in self._parsed:
            self._parsed[name] = json.loads(self._reader.part(name))
        return self._parsed[name]

    def _made(self, name: str, make: Callable[[], _T]) -> _T:
        if name not in self._parsed:
            self._parsed[name] = make()
        made: _T = self._parsed[name]
        return made

    def _endpoints(self, window: str) -> tuple[EndpointFigures, ...]:
        return tuple(map(_endpoint, self._worker(window)["endpoints"]))

    def _at(self, mono_ns: float) -> datetime:
        """Wall time of a moment on the worker's monotonic clock."""
        process = self._facts["process"]
        real_ns = _count(process["start_real_ns"]) + mono_ns - _count(process["start_mono_ns"])
        return _when(real_ns / 1e6) or datetime.fromtimestamp(0, timezone.utc)

    def _stacks(self) -> tuple[Stack, ...]:
        made = map(_stack, self._part("stacks")["stacks"])
        return tuple(sorted(made, key=lambda stack: -stack.total_ms))

    def _history(self) -> History:
        part = self._part("history")
        return History(
            tuple(
                HistoryCell(
                    at=self._at(cell["mono_s"] * 1e9),
                    seconds=cell["seconds"],
                    endpoint=cell["endpoint"],
                    requests=cell["requests"],
                    steps=cell["steps"],
                    busy_ms=cell["busy_us"] / 1e3,
                    blocked_ms=cell["blocked_us"] / 1e3,
                    blocks=cell["blocks"],
                    max_ms=cell["max_us"] / 1e3,
                    waited=cell["waited"],
                )
                for cell in part["endpoint_history"]
            ),
            tuple(
                LoopHistoryCell(
                    at=self._at(cell["mono_s"] * 1e9),
                    loop=cell["loop"],
                    iterations=cell["iterations"],
                    busy_ms=cell["busy_us"] / 1e3,
                    max_lag_ms=cell["max_lag_us"] / 1e3,
                    blocked_ms=cell["blocked_us"] / 1e3,
                    blocks=cell["blocks"],
                    requests=cell["requests"],
                    open=cell["open"],
                    cpu_ms=cell["cpu_us"] / 1e3,
                    gil_ms=cell["gil_us"] / 1e3,
                    io_ms=cell["io_us"] / 1e3,
                    gc_ms=cell["gc_us"] / 1e3,
                )
                for cell in part["loop_history"]
            ),
        )

    def _records(self, of_requests: bool) -> list[Any]:
        found = [
            record
            for ring in self._part("records")["rings"]
            for record in ring["records"]
            if (record["kind"] == "request") == of_requests
        ]
        found.sort(key=lambda record: _count(record["mono_ns"]))
        return found

    def _request(self, record: Any) -> RequestRecord:
        return RequestRecord(
            at=self._at(_count(record["mono_ns"])),
            endpoint_kind=record["endpoint_kind"],
            method=record["method"],
            route=record["route"],
            request_id=record["request_id"],
            status=record["status"],
            duration_ms=_ms(record["duration_us"]) or 0.0,
            on_loop_ms=_ms(record["on_loop_us"]) or 0.0,
            longest_step_ms=_ms(record["longest_step_us"]) or 0.0,
            pool_wait_ms=_ms(record["pool_wait_us"]) or 0.0,
            exception=record["exception"],
            cancelled=record["cancelled"],
        )

    def _record(self, record: Any) -> Record:
        return Record(self._at(_count(record["mono_ns"])), record["kind"], tuple(record["payload"]))


def open(  # noqa: A001 - reads as post_mortem.open
    path_or_pid: int | str | os.PathLike[str], *, directory: str | None = None
) -> Segment:
    """Opens the segment of a running or dead worker, or a file of one.

    Args:
        path_or_pid: a number is a pid; of a process that has ended, its newest
            segment. Anything else is a file, also a copy from another place.
        directory: where the worker's `segment_dir` is; of use with a pid only.
    Raises:
        ProcessLookupError: no such process.
        PermissionError: another user's worker.
        FileNotFoundError: no such file, or no agent in that process.
        ValueError: no segment, of another version or machine, or too damaged.
            All messages name the pid or file and what to do next.
    """
    if isinstance(path_or_pid, int):
        return Segment(_segment.Reader(path_or_pid, None, directory), str(path_or_pid))
    path = os.fspath(path_or_pid)
    return Segment(_segment.Reader(0, path), path)


def segments(app: str | None = None, *, directory: str | None = None) -> tuple[Found, ...]:
    """The segments that can be seen from here, live ones first, then by pid.

    Args:
        app: only those whose application has this in its name.
        directory: instead of /dev/shm and the containers of this host.
    """
    found = json.loads(_segment.find(directory))["segments"]
    return tuple(map(_found, (one for one in found if app is None or app in one["app"])))


# ---- from the reader's text to the objects above

_STATES = {
    "live": "running",
    "stale": "running without heartbeat",
    "exited": "exited",
    "dead": "killed",
    "cut": "cut short",
    "off": "switched off",
}


def _label(kind: str | None, method: str | None, route: str | None) -> str:
    name = route or ""
    if kind in (None, "request", "websocket") or name.startswith("("):
        return f"{method or ''} {name}".strip()
    return " ".join(part for part in (kind, method, name) if part)


def _where(stack: tuple[Frame, ...] | None) -> str:
    user = next((frame for frame in stack or () if frame.is_user), None)
    chosen = user or (stack[0] if stack else None)
    return f", {chosen}" if chosen else ""


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1e3


def _said(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _whole(value: int | None) -> int | None:
    return value


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _count(value: int | None) -> int:
    """A number that only damage can make unknown."""
    return value or 0


def _when(unix_ms: float | None) -> datetime | None:
    if unix_ms is None:
        return None
    try:
        return datetime.fromtimestamp(unix_ms / 1e3, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None  # a damaged number


def _parts(parts: dict[str, int] | None) -> Mapping[str, float] | None:
    return None if parts is None else MappingProxyType({k: us / 1e3 for k, us in parts.items()})


def _frame(frame: Any) -> Frame:
    return Frame(
        function=frame["func"],
        filename=frame["file"],
        lineno=frame["line"],
        short_filename=frame["short_file"],
        is_user=frame["user"],
        is_endpoint=frame["endpoint"],
    )


def _frames(stack: Any) -> tuple[Frame, ...] | None:
    return None if stack is None else tuple(map(_frame, stack))


def _quantiles(us: Any, source: str | None) -> Quantiles:
    return Quantiles(_ms(us["p50"]), _ms(us["p90"]), _ms(us["p99"]), _ms(us["p999"]), source)


def _buckets(buckets: Any) -> tuple[Bucket, ...] | None:
    if buckets is None:
        return None
    return tuple(Bucket(b["lo"] / 1e3, _ms(b["hi"]), b["count"]) for b in buckets)


def _waiting(waiting: Any) -> WaitingRequests:
    return WaitingRequests(
        requests=waiting["requests"],
        longest_ms=_ms(waiting["longest_us"]),
        sum_ms=_ms(waiting["sum_us"]),
        endpoints=tuple(
            WaitingEndpoint(
                endpoint_kind=one["endpoint_kind"],
                method=one["method"],
                route=one["route"],
                requests=one["requests"],
                wait_ms=_ms(one["wait_us"]),
            )
            for one in waiting["endpoints"]
        ),
    )


def _endpoint(row: Any) -> EndpointFigures:
    return EndpointFigures(
        endpoint_kind=row["endpoint_kind"],
        method=row["method"],
        route=row["route"],
        window=row["window"],
        blocked_ms=_ms(row["blocked_us"]),
        blocked_share=row["blocked"],
        blocks=row["blocks"],
        ongoing=row["ongoing"],
        max_ms=_ms(row["max_us"]),
        steps_took=Quantiles(
            _ms(row["p50_us"]),
            _ms(row["p90_us"]),
            _ms(row["p99_us"]),
            _ms(row["p999_us"]),
            row["quantile_window"],
        ),
        responses_took=_quantiles(row["response_us"], row["quantile_window"]),
        requests=row["requests"],
        requests_per_s=row["requests_per_s"],
        steps=row["steps"],
        busy_ms=_ms(row["busy_us"]),
        busy_share=row["busy"],
        open=row["open"],
        threshold_ms=_ms(row["threshold_us"]),
        total_blocks=row["total_blocks"],
        total_requests=row["total_requests"],
        cumulative_events=row["cumulative_events"],
        first_seen_age_ms=row["first_seen_age_ms"],
        last_seen_age_ms=row["last_seen_age_ms"],
        last_block_ms=_ms(row["last_block_us"]),
        last_block_age_ms=row["last_block_age_ms"],
        status=MappingProxyType(dict(row["status"])),
        total_parts_ms=_parts(row["total_parts_us"]),
        total_pool_wait_ms=_ms(row["total_pool_wait_us"]) or 0.0,
        total_pool_run_ms=_ms(row["total_pool_run_us"]) or 0.0,
        histogram=_buckets(row["hist_us"]),
        timeline_blocked_ms=tuple(map(_ms, row["timeline_blocked_us"])),
        waited_requests=row["waited_requests"],
        waited=_waiting(row["waited"]),
        stacks=tuple(
            WeightedStack(
                blocked_ms=_ms(stack["blocked_us"]) or 0.0,
                share=stack["share"],
                count=stack["count"],
                max_ms=_ms(stack["max_us"]) or 0.0,
                last_age_ms=stack["last_age_ms"],
                stack=_frames(stack["stack"]) or (),
            )
            for stack in row["stacks"]
        ),
        hint=row["hint"],
    )


def _block(block: Any) -> Block | None:
    if block is None:
        return None
    return Block(
        for_ms=_ms(block["for_us"]) or 0.0,
        threshold_ms=_ms(block["threshold_us"]) or 0.0,
        over_threshold=block.get("over_threshold", True),
        kind=block["kind"],
        step=block["step"],
        endpoint_kind=block["endpoint_kind"],
        method=block["method"],
        route=block["route"],
        request_id=block["request_id"],
        task=block["task"],
        loop=block["loop"],
        thread=block["thread"],
        native_id=block["native_id"],
        cause=block["cause"],
        parts_ms=_parts(block["parts_us"]),
        call=block["call"],
        call_ms=_ms(block["call_us"]),
        samples=block["samples"],
        moving=block["moving"],
        stack=_frames(block["stack"]),
        holder_stack=_frames(block["holder_stack"]),
        holder_method=block["holder_method"],
        holder_route=block["holder_route"],
        waiting=_waiting(block["waiting"]),
        longest_seen_ms=_ms(block["longest_seen_us"]) or 0.0,
        torn=block.get("torn", False),
    )


def _stack(stack: Any) -> Stack:
    return Stack(
        endpoint_kind=stack["endpoint_kind"],
        method=stack["method"],
        route=stack["route"],
        count=_count(stack["count"]),
        total_ms=_ms(stack["total_us"]) or 0.0,
        max_ms=_ms(stack["max_us"]) or 0.0,
        frames=_frames(stack["frames"]) or (),
    )


def _event(event: Any) -> Event:
    return Event(
        at=_when(event["time_unix_ms"]),
        kind=event["kind"],
        duration_ms=_ms(event["duration_us"]) or 0.0,
        threshold_ms=_ms(event["threshold_us"]) or 0.0,
        endpoint_kind=event["endpoint_kind"],
        method=event["method"],
        route=event["route"],
        request_id=event["request_id"],
        task=event["task"],
        loop=event["loop"],
        thread=event["thread"],
        native_id=event["native_id"],
        cause=event["cause"],
        parts_ms=_parts(event["parts_us"]),
        call=event["call"],
        call_ms=_ms(event["call_us"]),
        samples=event["samples"],
        steps=event["steps"],
        major_faults=event["major_faults"],
        moving=event["moving"],
        throttled=event["throttled"],
        stack=_frames(event["stack"]),
        holder_stack=_frames(event["holder_stack"]),
        holder_method=event["holder_method"],
        holder_route=event["holder_route"],
        waited=_waiting(event["waited"]),
        ongoing=event["ongoing"],
        torn=event["torn"],
    )


def _windows(windows: Any) -> Mapping[str, Window]:
    return MappingProxyType(
        {
            name: Window(
                covered_ms=_ms(window["covered_us"]) or 0.0,
                requests=window["requests"],
                requests_per_s=window["requests_per_s"],
                busy_share=window["busy"],
                blocks=window["blocks"],
                blocked_ms=_ms(window["blocked_us"]) or 0.0,
                blocked_share=window["blocked"],
                max_lag_ms=_ms(window["max_lag_us"]) or 0.0,
            )
            for name, window in windows.items()
        }
    )


def _lag(lag: Any) -> Lag:
    return Lag(
        now_ms=_ms(lag["now"]),
        quantiles=_quantiles(lag, lag["quantile_window"]),
        max_ms=_ms(lag["max"]),
        max_ever_ms=_ms(lag["max_ever"]),
        max_ever_at=_when(lag["max_ever_unix_ms"]),
        series_ms=tuple(map(_ms, lag["series_1s"])),
    )


def _loop(loop: Any) -> Loop:
    return Loop(
        index=loop["loop"],
        kind=loop["kind"],
        closed=loop["closed"],
        thread=loop["thread"],
        native_id=loop["native_id"],
        lag_now_ms=_ms(loop["lag_now_us"]),
        max_lag_ms=_ms(loop["max_lag_us"]),
        heartbeat_age_ms=loop["heartbeat_age_ms"],
        threshold_ms=_ms(loop["threshold_us"]),
        tasks=loop["tasks"],
        open=loop["open"],
        ready=loop["ready"],
        iterations=loop["iterations"],
        steps=loop["steps"],
        gc_pauses=loop["gc_pauses"],
        throttled=loop["throttled"],
        parts_ms=_parts(loop["parts_us"]),
        windows=_windows(loop["windows"]),
    )


def _pool(pool: Any) -> Pool | None:
    if pool is None:
        return None
    return Pool(
        limit=pool["limit"],
        busy=pool["busy"],
        waiting=pool["waiting"],
        high_water=pool["high_water"],
        waiting_high_water=pool["waiting_high_water"],
        full_count=pool["full_count"],
        full_for_ms=_ms(pool["full_for_us"]),
        submitted=pool["submitted"],
        finished=pool["finished"],
        wait_sum_ms=_ms(pool["wait_sum_us"]) or 0.0,
        wait_max_ms=_ms(pool["wait_max_us"]) or 0.0,
        run_sum_ms=_ms(pool["run_sum_us"]) or 0.0,
        run_max_ms=_ms(pool["run_max_us"]) or 0.0,
        wait=_quantiles(pool["wait_us"], "total"),
        stuck=tuple(
            StuckThread(
                native_id=thread["native_id"],
                endpoint_kind=thread["endpoint_kind"],
                method=thread["method"],
                route=thread["route"],
                for_ms=_ms(thread["for_us"]) or 0.0,
                stack=_frames(thread["stack"]),
            )
            for thread in pool["stuck"]
        ),
    )


def _config(config: Any) -> Config:
    return Config(
        threshold_ms=_ms(config["threshold_us"]) or 0.0,
        iteration_threshold_ms=_ms(config["iteration_threshold_us"]) or 0.0,
        cumulative_threshold_ms=_ms(config["cumulative_threshold_us"]),
        cumulative_window_ms=_ms(config["cumulative_window_us"]) or 0.0,
        cumulative_min_step_ms=_ms(config["cumulative_min_step_us"]) or 0.0,
        watchdog_interval_ms=_ms(config["watchdog_interval_us"]) or 0.0,
        stack_depth=config["stack_depth"],
        max_endpoints=config["max_endpoints"],
        keep_segment=config["keep_segment"],
        hooks=config["hooks"],
        task_factory=config["task_factory"],
        threshold_kind=config["threshold_kind"],
    )


def _found(one: Any) -> Found:
    return Found(
        pid=one["pid"],
        alive=one["alive"],
        state=one["state"],
        app=one["app"],
        server=one["server"],
        worker=one["worker"],
        ppid=one["ppid"],
        uid=one["uid"],
        python=one["python"],
        agent=one["agent"],
        started_at=_when(one["started_unix_ms"]),
        path=one["file"],
    )
