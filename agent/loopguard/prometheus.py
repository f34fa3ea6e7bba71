"""Metrics of all workers of an application, from whichever worker is asked.

    from fastapi import FastAPI, Response
    from loopguard.prometheus import CONTENT_TYPE, LoopGuardCollector
    from prometheus_client import generate_latest

    loopguard_metrics = LoopGuardCollector(registry=None)

    @app.get("/metrics")
    def metrics() -> Response:
        body = generate_latest() + loopguard_metrics.exposition()
        return Response(body, media_type=CONTENT_TYPE)

or, in one line, `LoopGuardCollector()`: then `generate_latest` has it all.

A scrape reads the segments of all workers, without asking them: one that is
blocked cannot answer, and does not have to. Reading, adding and formatting are
done in C without the GIL; `exposition` holds it for microseconds.
`generate_latest` is Python and slow with many endpoints: give it to a thread (a
plain ``def`` endpoint), or use `exposition`.

Labels: `worker` is the worker's small number within its application, used again
by the one that replaces it; never a pid. `route` is a template, at most
`max_endpoints` of them; what is no request has an empty `method` and its kind
before its name: "(task) poll". Histograms of requests are summed over workers.

Counters go on when a worker is replaced: what the ended had counted is kept in
a small file beside the segments (``loopguard-sums.*``), so that all workers
answer alike. A gauge of an ended worker is gone, but for `loopguard_worker_up`.

Of the exporter's series, all that a segment can tell are here. Processes that
are switched off, and those that cannot be read, are told by the exporter alone.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from loopguard import _agent, _segment, control

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
    from prometheus_client.samples import Sample
except ImportError as _error:
    raise ImportError(
        "loopguard.prometheus needs prometheus_client; install it with: "
        "pip install prometheus-client"
    ) from _error

__all__ = [
    "CONTENT_TYPE",
    "LoopGuardCollector",
    "create_metrics",
    "get_metrics",
    "reset_metrics",
]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class LoopGuardCollector(Collector):
    """A collector for prometheus_client; see the module's text.

    Args:
        registry: where to register; None for nowhere.
        app: the name of another application, when this process is none of its
            workers. None means this process's own: known once a loop has run
            here under loopguard, and empty until then. Own means the same user,
            the same parent process and the same name.
        directory: of the segments; None means where this process's own is, else
            /dev/shm.
        originals: fastapi-loopguard's four series besides; None means what
            `LoopGuardConfig.prometheus_enabled` says.
    Raises:
        ValueError: `registry` has these metrics already.

    Any thread may scrape; scrapes take turns.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = REGISTRY,
        app: str | None = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        originals: bool | None = None,
    ) -> None:
        self._app = app
        self._directory = None if directory is None else os.fspath(directory)
        self._originals = originals
        self._registry = registry
        self._begin()
        if registry is not None:
            registry.register(self)
        if app is None:
            _at_exit(self)

    def describe(self) -> Iterable[Metric]:
        """The families without samples: registering reads no segment."""
        return [_metric(i) for i in range(self._end())]

    def collect(self) -> Iterator[Metric]:
        """Reads all workers and yields every family."""
        with self._turn():
            self._ledger.update()
            families = [(i, self._ledger.samples(i)) for i in range(self._end())]
        for i, samples in families:
            metric = _metric(i)
            _fill(metric, i, samples)
            yield metric

    def exposition(self) -> bytes:
        """All families in Prometheus's text format, made without the GIL.

        Returns:
            What `generate_latest` would say of this collector alone; append it
            to that of others, or send it as it is. `CONTENT_TYPE` goes with it.
        """
        with self._turn():
            self._ledger.update()
            return self._ledger.text(self._shows_originals())

    def close(self) -> None:
        """Takes it out of its registry; safe to call twice."""
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.unregister(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._where: str | None = None
        self._ledger = _segment.Ledger(self._app, self._where)

    def _turn(self) -> threading.Lock:
        """The lock, with a ledger of this process and of its folder behind it."""
        if self._pid != os.getpid():
            self._begin()  # a fork: the lock may be held by a thread that is not here
        where = self._directory or _own_directory()
        with self._lock:
            if where is not None and where != self._where:
                self._ledger = _segment.Ledger(self._app, where)
                self._where = where
        return self._lock

    def retire(self) -> None:
        """This worker ends: the others go on with what it had counted. Called at exit."""
        if self._pid == os.getpid():
            with self._turn():
                self._ledger.retire()

    def _end(self) -> int:
        return len(_segment.FAMILIES) if self._shows_originals() else _segment.FIRST_ORIGINAL

    def _shows_originals(self) -> bool:
        if self._originals is None:
            return control.prometheus_enabled()
        return self._originals


def create_metrics(
    prefix: str = "loopguard", registry: CollectorRegistry | None = None
) -> LoopGuardCollector:
    """A new collector with the original's four series; named as in fastapi-loopguard.

    Args:
        prefix: "loopguard"; the names of the series are fixed.
        registry: None means prometheus_client's own.
    Raises:
        ValueError: another prefix, or the registry has these metrics already.
    """
    _check(prefix)
    chosen = REGISTRY if registry is None else registry
    made = LoopGuardCollector(chosen, originals=True)
    _made[chosen] = made
    return made


def get_metrics(
    prefix: str = "loopguard", registry: CollectorRegistry | None = None
) -> LoopGuardCollector:
    """The collector that `create_metrics` made for this registry, or a new one.

    Raises:
        ValueError: another prefix, or metrics of the same names are there.
    """
    _check(prefix)
    known = _made.get(REGISTRY if registry is None else registry)
    return create_metrics(prefix, registry) if known is None else known


def reset_metrics() -> None:
    """Takes out whatever `create_metrics` and `get_metrics` registered."""
    while _made:
        _made.popitem()[1].close()


_made: weakref.WeakKeyDictionary[CollectorRegistry, LoopGuardCollector]
_made = weakref.WeakKeyDictionary()


def _check(prefix: str) -> None:
    if prefix != "loopguard":
        raise ValueError(
            f"prefix must be 'loopguard', not {prefix!r}: dashboards rely on the names"
        )


def _at_exit(collector: LoopGuardCollector) -> None:
    """Before the agent's own handler, which was registered earlier, unlinks the segment."""
    known = weakref.ref(collector)

    def retire() -> None:
        still = known()
        if still is not None:
            still.retire()

    atexit.register(retire)


def _own_directory() -> str | None:
    path = _agent.status().get("segment")
    return os.path.dirname(path) if isinstance(path, str) else None


def _metric(family: int) -> Metric:
    name, kind, text, _ = _segment.FAMILIES[family]
    # prometheus_client puts "_total" behind a counter's name by itself
    return Metric(name[: -len("_total")] if kind == "counter" else name, text, kind)


def _fill(metric: Metric, family: int, samples: Any) -> None:
    name, kind, _, labels = _segment.FAMILIES[family]
    names = labels.split(",") if labels else []
    if kind != "histogram":
        metric.samples = [Sample(name, dict(zip(names, key)), value) for key, value in samples]
        return
    bounds = [*(str(float(bound)) for bound in _segment.BOUNDS), "+Inf"]
    for key, (counts, total) in samples:
        known = dict(zip(names, key))
        reached = 0
        for bound, count in zip(bounds, counts):
            reached += count
            metric.samples.append(Sample(f"{name}_bucket", {**known, "le": bound}, reached))
        metric.samples.append(Sample(f"{name}_sum", known, total))
        metric.samples.append(Sample(f"{name}_count", known, reached))
