"""loopguard.prometheus: all workers of an application, told by any of them."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import segwriter as sw
from agent_kit import Worker, script, until
from prometheus_client.parser import text_string_to_metric_families
from segwriter import MS, S, Segment, pair

from loopguard import _segment
from loopguard.prometheus import LoopGuardCollector, create_metrics, get_metrics, reset_metrics

APP = "uvicorn app.main:app"
# The contract with dashboards and alert rules: name, kind, labels.
CONTRACT = """
loopguard_requests_total counter app,worker,method,route,status_class
loopguard_request_duration_seconds histogram app,method,route
loopguard_request_on_loop_seconds histogram app,method,route
loopguard_blocked_seconds_total counter app,worker,method,route,cause
loopguard_blocking_events_total counter app,worker,method,route
loopguard_cumulative_blocking_events_total counter app,worker,method,route
loopguard_loop_lag_seconds histogram app,worker,loop
loopguard_loop_busy_seconds_total counter app,worker,loop
loopguard_loop_blocked_now_seconds gauge app,worker,loop
loopguard_loop_tasks gauge app,worker,loop
loopguard_loop_iterations_total counter app,worker,loop
loopguard_gc_pause_seconds_total counter app,worker,loop
loopguard_gil_wait_seconds_total counter app,worker,loop
loopguard_threadpool_threads gauge app,worker,state
loopguard_threadpool_limit gauge app,worker
loopguard_threadpool_waiting gauge app,worker
loopguard_threadpool_wait_seconds histogram app,worker
loopguard_threadpool_full_total counter app,worker
loopguard_lost_events_total counter app,worker,reason
loopguard_worker_up gauge app,worker
loopguard_worker_deaths_total counter app,state
loopguard_agent_info gauge version,python,features
loopguard_blocking_total counter event_type
loopguard_lag_seconds histogram event_type
loopguard_requests_monitored_total counter route,method
loopguard_threshold_seconds gauge
""".strip().splitlines()


class Scrape:
    """An exposition, taken apart by prometheus_client's own parser."""

    def __init__(self, text: bytes | str) -> None:
        self.text = text.decode() if isinstance(text, bytes) else text
        self.families = {f.name: f for f in text_string_to_metric_families(self.text)}
        self.samples = [s for f in self.families.values() for s in f.samples]

    def __call__(self, name: str, **labels: object) -> float:
        """The sum of the samples of that name that have these labels."""
        wanted = {key: str(value) for key, value in labels.items()}
        found = [s.value for s in self.named(name) if wanted.items() <= s.labels.items()]
        assert found, f"no {name} {labels} in\n{self.text}"
        return sum(found)

    def named(self, name: str) -> list[Any]:
        return [s for s in self.samples if s.name == f"loopguard_{name}"]

    def content(self) -> dict[tuple[Any, ...], float]:
        return {(s.name, *sorted(s.labels.items())): s.value for s in self.samples}


@contextlib.contextmanager
def living(folder: Path, *segments: Segment) -> Iterator[list[Path]]:
    """Live workers: this process under several names, each file locked by its writer."""
    with contextlib.ExitStack() as stack:
        paths = []
        for n, seg in enumerate(segments):
            seg.header["nonce"] = 1000 + seg.get(1, 0, "worker_slot") + (seg.now << 8) % 2**60
            path = seg.write(folder / (seg.name() + (f".{n}" if n else "")))
            file = stack.enter_context(path.open("r+b"))
            fcntl.flock(file, fcntl.LOCK_EX)
            paths.append(path)
        yield paths


def killed(folder: Path, slot: int = 0, requests: int = 100, **fields: Any) -> Path:
    """A worker of this application that is no more; its file stays."""
    seg = worker(slot, requests, pid=2**22 + slot, **fields)
    seg.header["nonce"] = 77 + slot
    return seg.write(folder / seg.name())


def worker(slot: int = 0, requests: int = 10, **fields: Any) -> Segment:
    seg = Segment(worker_slot=slot, **fields)
    seg.loop(sum_lag_ns=3 * S, iterations=500)
    seg.lag_us(0, 100, 300, 70_000)
    seg.endpoint(
        "GET",
        "/items/{id}",
        requests=requests,
        status_2xx=requests - 3,
        status_5xx=2,
        blocks=2,
        blocked_ns=170 * MS,
        blocked_by_cause_ns=[150 * MS, 20 * MS],
        cumulative_waited=pair(4, 9),
        steps_us=[100, 200, 80_000, 90_000],
        response_sum_ns=5 * S,
    )
    return seg


def scrape(folder: Path, **options: Any) -> Scrape:
    return Scrape(LoopGuardCollector(None, directory=folder, **options).exposition())


# -- the contract


def test_names_kinds_and_labels_are_the_contract(tmp_path: Path) -> None:
    seg = worker()
    for name, value in {"limit": 40, "busy": 3, "high_water": 8}.items():
        seg.put(14, 0, name, value)
    told = [" ".join((name, kind, labels)).strip() for name, kind, _, labels in _segment.FAMILIES]
    assert told == CONTRACT
    with living(tmp_path, seg):
        got = scrape(tmp_path, originals=True)
    for row in CONTRACT:
        name, kind, *labels = row.split(" ")
        family = got.families[name[: -len("_total")] if kind == "counter" else name]
        assert family.type == kind
        wanted = set(labels[0].split(",")) if labels else set()
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == wanted, sample


def test_every_figure_is_that_of_the_segment_in_base_units(tmp_path: Path) -> None:
    seg = worker(slot=2)
    seg.put(10, 0, "parts_ns", [0, 0, 0, 7 * MS, 11 * MS])
    seg.put(4, 0, "ring_unavailable", 6)
    pool = {"limit": 40, "busy": 3, "high_water": 8, "waiting": 1, "times_full": 5}
    for name, value in {**pool, "wait_sum_ns": 2 * S}.items():
        seg.put(14, 0, name, value)
    seg.add(9, 2 * 256 + 8, "bucket", 4, sw.bucket_of(1000))
    with living(tmp_path, seg):
        got = scrape(tmp_path)
    of = {"app": APP, "worker": 2}
    at = {**of, "method": "GET", "route": "/items/{id}"}
    assert got("requests_total", **at, status_class="2xx") == 7
    assert got("requests_total", **at, status_class="5xx") == 2
    assert got("requests_total", **at, status_class="none") == 1
    assert got("blocked_seconds_total", **at, cause="cpu") == 0.15
    assert got("blocked_seconds_total", **at, cause="io") == 0.02
    assert got("blocking_events_total", **at) == 2
    assert got("cumulative_blocking_events_total", **at) == 4
    assert got("request_duration_seconds_sum", method="GET") == 5.0
    assert got("request_on_loop_seconds_count", route="/items/{id}") == 4
    assert got("loop_busy_seconds_total", **of, loop=0) == 3.0
    assert got("loop_iterations_total", **of, loop=0) == 500
    assert got("loop_tasks", **of, loop=0) == 3
    assert got("loop_lag_seconds_count", **of) == 3
    assert got("gil_wait_seconds_total", **of) == 0.007
    assert got("gc_pause_seconds_total", **of) == 0.011
    assert got("threadpool_threads", **of, state="busy") == 3
    assert got("threadpool_threads", **of, state="idle") == 5
    assert (got("threadpool_limit"), got("threadpool_waiting")) == (40, 1)
    assert (got("threadpool_wait_seconds_sum"), got("threadpool_wait_seconds_count")) == (2, 4)
    assert got("threadpool_full_total") == 5
    assert got("lost_events_total", reason="no_ring") == 6
    assert got("worker_up", **of) == 1
    assert got("agent_info", version="0.1.0", python="3.12.7") == 1


def test_buckets_have_the_true_edges_of_the_histogram(tmp_path: Path) -> None:
    seg = Segment()
    seg.loop()
    edges = [0, 255, 256, 511, 512, 1023, 1024, 65_535, 65_536, 16_777_215, 16_777_216, 10**9]
    seg.endpoint("GET", "/", steps_us=edges)
    with living(tmp_path, seg):
        got = scrape(tmp_path)
    reached = {float(s.labels["le"]): s.value for s in got.named("request_on_loop_seconds_bucket")}
    assert len(reached) == 18
    for le, n in reached.items():
        assert n == sum(us < le * 1e6 for us in edges), le
    assert reached[float("inf")] == len(edges) == got("request_on_loop_seconds_count")
    assert got("request_on_loop_seconds_sum") == pytest.approx(sum(edges) / 1e6)


def test_both_ways_of_asking_say_the_same(tmp_path: Path) -> None:
    registry = prometheus_client.CollectorRegistry()
    collector = LoopGuardCollector(registry, directory=tmp_path, originals=True)
    with living(tmp_path, worker(0), worker(1), worker(2)):
        one = Scrape(prometheus_client.generate_latest(registry))
        two = Scrape(collector.exposition())
    assert one.content() == two.content()
    assert len(one.content()) > 150
    assert {f.documentation for f in one.families.values()} == {
        f.documentation for f in two.families.values()
    }


def test_promtool_finds_nothing_to_say(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    with living(tmp_path, worker(0), worker(1)):
        text = LoopGuardCollector(None, directory=tmp_path, originals=True).exposition()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_originals_four_are_there_on_demand(tmp_path: Path) -> None:
    with living(tmp_path, worker(0), worker(1)):
        assert not scrape(tmp_path).named("blocking_total")
        got = scrape(tmp_path, originals=True)
    assert got("blocking_total", event_type="single") == 4
    assert got("blocking_total", event_type="cumulative") == 8
    assert got("requests_monitored_total", route="/items/{id}", method="GET") == 20
    assert got("threshold_seconds") == 0.05
    # the two of 80 and 90 ms of each worker, and none of the short ones
    assert got("lag_seconds_count", event_type="single") == 4
    assert got("lag_seconds_bucket", event_type="single", le="0.032768") == 0
    assert got("lag_seconds_bucket", event_type="single", le="0.131072") == 4
    assert got("lag_seconds_sum", event_type="single") == 0.34


def test_names_of_all_kinds_are_told_apart_and_escaped(tmp_path: Path) -> None:
    seg = Segment(app='an "app"\\n')
    seg.loop()
    seg.endpoint("", "poll", kind="task", blocks=1, blocked_by_cause_ns=[MS])
    seg.endpoint("WS", "/live", kind="websocket", requests=1)
    seg.endpoint("GET", 'a"b\\c', requests=1, status_2xx=1)
    with living(tmp_path, seg):
        got = scrape(tmp_path)
    assert got("blocking_events_total", method="", route="(task) poll") == 1
    assert got("requests_total", method="WS", route="/live", status_class="none") == 1
    assert got("requests_total", method="GET", route='a"b\\c', app='an "app"\\n') == 1


# -- whose workers


def test_other_applications_are_not_counted(tmp_path: Path) -> None:
    mine, other, foreign = worker(0), worker(1, app="other:app"), worker(2, ppid=1)
    with living(tmp_path, mine, other, foreign):
        assert scrape(tmp_path)("requests_total") == 10
        assert scrape(tmp_path, app="other:app")("requests_total", worker=1) == 10
        assert scrape(tmp_path, app=APP)("requests_total") == 20
        assert not scrape(tmp_path, app="nobody").samples


def test_a_process_without_a_segment_says_nothing(tmp_path: Path) -> None:
    killed(tmp_path)
    got = scrape(tmp_path)
    assert not got.samples
    assert "# TYPE loopguard_requests_total counter" in got.text


def test_a_block_in_progress_is_seen_from_outside(tmp_path: Path) -> None:
    seg = sw.blocked(for_ns=4 * S)
    with living(tmp_path, seg, worker(1)):
        got = scrape(tmp_path)
    assert 4 < got("loop_blocked_now_seconds", worker=0) < 60
    assert got("loop_blocked_now_seconds", worker=1) == 0


# -- the dead


def test_what_a_killed_worker_counted_stays_when_its_number_is_used_again(tmp_path: Path) -> None:
    path = killed(tmp_path, slot=1, requests=100)
    with living(tmp_path, worker(0), worker(1)):
        collector = LoopGuardCollector(None, directory=tmp_path)
        first = Scrape(collector.exposition())
        path.unlink()  # pruned
        second = Scrape(collector.exposition())
        young = scrape(tmp_path)  # of a worker that started after all this
    for got in (first, second, young):
        assert got("requests_total", worker=0) == 10
        assert got("requests_total", worker=1) == 110
        assert got("request_on_loop_seconds_count") == 12
        assert got("worker_up", worker=1) == 1
        assert got("worker_deaths_total", state="killed") == 1
        assert got("worker_deaths_total", state="clean") == 0


def test_a_worker_that_ends_cleanly_is_read_once_more_though_unlinked(tmp_path: Path) -> None:
    leaving = worker(1, requests=20, pid=None)
    collector = LoopGuardCollector(None, directory=tmp_path)
    with living(tmp_path, worker(0)):
        with living(tmp_path / "..", leaving) as (path,):
            moved = path.rename(tmp_path / (path.name + ".5"))
            before = Scrape(collector.exposition())
            with moved.open("r+b") as file:  # its last request, then its end
                file.seek(leaving.offset(8, 1, "requests"))
                file.write((21).to_bytes(8, "little"))
                file.seek(60)
                file.write(sw.EXITED.to_bytes(4, "little"))
            moved.unlink()
        after = Scrape(collector.exposition())
        young = scrape(tmp_path)
    assert before("requests_total", worker=1) == 20
    for got in (after, young):
        assert got("requests_total", worker=1) == 21
        assert got("worker_up", worker=1) == 0
        assert got("worker_deaths_total", state="clean") == 1


def test_death_in_a_block_is_a_kind_of_its_own(tmp_path: Path) -> None:
    seg = sw.blocked(pid=2**22)
    seg.write(tmp_path / seg.name())
    with living(tmp_path, worker(1)):
        assert scrape(tmp_path)("worker_deaths_total", state="blocked") == 1


def test_a_thousand_scrapes_count_a_dead_worker_once(tmp_path: Path) -> None:
    killed(tmp_path, slot=1)
    with living(tmp_path, worker(0)):
        collectors = [LoopGuardCollector(None, directory=tmp_path) for _ in range(10)]
        for _ in range(100):
            answers = {c.exposition().split(b"loop_blocked_now")[0] for c in collectors}
        assert len(answers) == 1
        assert Scrape(collectors[0].exposition())("worker_deaths_total") == 1


def test_ten_threads_may_scrape_at_once(tmp_path: Path) -> None:
    killed(tmp_path, slot=1)
    registry = prometheus_client.CollectorRegistry()
    collector = LoopGuardCollector(registry, directory=tmp_path)
    answers: list[float] = []

    def ask(n: int) -> None:
        for _ in range(10):
            text = collector.exposition() if n % 2 else prometheus_client.generate_latest(registry)
            answers.append(Scrape(text)("requests_total"))

    with living(tmp_path, worker(0)):
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [110.0] * 100


@pytest.mark.parametrize("damage", ["cut", "bytes", "foreign", "open to all", "folder"])
def test_a_file_of_sums_that_is_damaged_or_not_ours_is_not_believed(
    damage: str, tmp_path: Path
) -> None:
    killed(tmp_path, slot=1)
    with living(tmp_path, worker(0)):
        scrape(tmp_path)
        (sums,) = tmp_path.glob("loopguard-sums.*")
        whole = sums.read_bytes()
        assert sums.stat().st_mode & 0o777 == 0o600
        if damage == "cut":
            sums.write_bytes(whole[:-9])
        elif damage == "bytes":
            sums.write_bytes(whole[:200] + b"\xff" * 40 + whole[240:])
        elif damage == "foreign":
            sums.write_bytes(b"something else")
        elif damage == "open to all":
            sums.chmod(0o666)
        else:
            sums.unlink()
            sums.mkdir()
        got = scrape(tmp_path)  # the dead worker's own file is still there
    assert got("requests_total") == 110
    assert got("worker_deaths_total") == 1


def test_sums_are_removed_when_their_server_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / f"loopguard-sums.{sw.namespace('pid')}.{2**22 - 1}.12345.0badcafe"
    kept = tmp_path / f"loopguard-sums.{sw.namespace('pid')}.1.{sw.start_ticks_of(1)}.0badcafe"
    for file in (gone, kept):
        file.write_bytes(b"")
    with living(tmp_path, worker(0)):
        scrape(tmp_path)
    assert kept.exists()
    assert not gone.exists()


def test_a_fork_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    collector = LoopGuardCollector(None, directory=tmp_path, app=APP)
    with living(tmp_path, worker(0)):
        collector.exposition()
        assert collector._lock.acquire()  # a thread is inside at the fork
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write, b"%d" % Scrape(collector.exposition())("requests_total"))
            os._exit(0)
        collector._lock.release()
        os.close(write)
        with open(read, "rb") as told:
            assert told.read() == b"10"
        assert os.waitpid(pid, 0)[1] == 0


# -- prometheus_client


def test_registering_reads_nothing_and_refuses_a_second(tmp_path: Path) -> None:
    registry = prometheus_client.CollectorRegistry()
    collector = LoopGuardCollector(registry, directory=tmp_path / "not there")
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        LoopGuardCollector(registry)
    collector.close()
    collector.close()
    LoopGuardCollector(registry).close()


def test_the_originals_helpers_work_by_their_names() -> None:
    registry = prometheus_client.CollectorRegistry()
    made = create_metrics(registry=registry)
    assert get_metrics("loopguard", registry) is made
    assert b"loopguard_blocking_total" in prometheus_client.generate_latest(registry)
    reset_metrics()
    assert prometheus_client.generate_latest(registry) == b""
    with pytest.raises(ValueError, match="prefix must be 'loopguard'"):
        create_metrics("mine", registry)


def test_without_prometheus_client_the_import_says_what_to_install() -> None:
    script("""
    import sys
    sys.modules["prometheus_client"] = None
    try:
        import loopguard.prometheus
    except ImportError as error:
        assert "pip install prometheus-client" in str(error), error
    else:
        raise SystemExit("imported")
    """)


# -- cost


def big(folder: Path, workers: int, endpoints: int) -> contextlib.AbstractContextManager[Any]:
    segments = []
    for slot in range(workers):
        seg = Segment(worker_slot=slot)
        seg.loop()
        for i in range(endpoints - 1):
            counters = {"requests": 1000 + i, "status_2xx": 990, "status_4xx": 10 + i, "blocks": 1}
            e = seg.endpoint("GET", f"/resource{i}/{{id}}", **counters)
            seg.put(8, e, "blocked_by_cause_ns", [MS, MS])
            seg.put(9, 2 * e, "bucket", 5, 90 + i % 100)
        segments.append(seg)
    return living(folder, *segments)


def ticks_during(call: Callable[[], object]) -> int:
    """How often another thread got the GIL meanwhile, when nobody is made to give it away."""
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    other = threading.Thread(target=tick)
    sys.setswitchinterval(100)
    try:
        other.start()
        before = ticks
        call()
        return ticks - before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join()


def test_eight_full_workers_are_read_and_formatted_without_the_gil(tmp_path: Path) -> None:
    collector = LoopGuardCollector(None, directory=tmp_path)
    with big(tmp_path, 8, 256):
        text = collector.exposition()
        ledger = collector._ledger
        until(lambda: ticks_during(ledger.update) > 1, "a tick while segments are read")
        until(lambda: ticks_during(lambda: ledger.text(False)) > 1, "a tick while text is made")
    assert text.count(b"\n") > 20_000
    # What is left is the way there and back, the same for one line: far below 5 ms.
    empty = LoopGuardCollector(None, directory=tmp_path, app="nobody")
    assert min(cpu_s(empty.exposition) for _ in range(20)) < 0.005


def cpu_s(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


# -- untrusted bytes


def test_any_changed_byte_leaves_a_scrape_that_parses(tmp_path: Path) -> None:
    seg = worker(0)
    with living(tmp_path, seg, worker(1)) as paths, paths[1].open("r+b", buffering=0) as file:
        whole = paths[1].read_bytes()
        used = [
            (s["offset"], s["offset"] + min(s["length"], 4 * s["stride"] if kind != 7 else 512))
            for kind, s in seg.sections.items()
        ]
        dice = random.Random(20261121)
        for _ in range(300):
            at = dice.randrange(*dice.choice(used))
            os.pwrite(file.fileno(), bytes([whole[at] ^ dice.randrange(1, 256)]), at)
            got = scrape(tmp_path)
            assert got("requests_total", worker=0) >= 10
            os.pwrite(file.fileno(), whole[at : at + 1], at)
        os.truncate(paths[1], sw.PAGE)
        assert scrape(tmp_path)("requests_total", worker=0) == 10


# -- real workers

SERVED = """
import time
from fastapi import FastAPI, Response
import loopguard
from loopguard.prometheus import CONTENT_TYPE, LoopGuardCollector
from prometheus_client import generate_latest

app = FastAPI()
app.add_middleware(
    loopguard.LoopGuardMiddleware,
    config=loopguard.LoopGuardConfig(prometheus_enabled=True),
)
collector = LoopGuardCollector(registry=None)

@app.get("/metrics")
def metrics():
    return Response(generate_latest() + collector.exposition(), media_type=CONTENT_TYPE)

@app.get("/items/{item}")
async def items(item: int):
    import os
    return {"pid": os.getpid()}

@app.get("/block")
async def block():
    time.sleep(0.12)
"""


class Server:
    """uvicorn with two workers, asked over connections of their own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "uvicorn", "application:app", "--fd", "{fd}"]
        command += ["--workers", "2", "--log-level", "warning"]
        self.kept = Worker(folder, SERVED, command=command)

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.kept.port, timeout=20)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def pids(self) -> set[int]:
        return {json.loads(self.get(f"/items/{i}"))["pid"] for i in range(8)}

    def scrape(self) -> Scrape:
        return Scrape(self.get("/metrics"))


def test_any_of_two_workers_answers_for_both_also_after_one_was_killed(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.kept:
        until(lambda: len(server.pids()) == 2, "two workers")
        pids = server.pids()
        server.get("/block")
        block = {"method": "GET", "route": "/block"}
        until(
            lambda: (
                server.scrape()("worker_up") == 2 and server.scrape().named("blocked_seconds_total")
            ),
            "both in the figures",
        )
        answers = [server.scrape() for _ in range(12)]
        counted = answers[-1]("requests_total", route="/items/{item}")
        for got in answers:
            assert got("requests_total", route="/items/{item}") == counted
            assert got("blocking_events_total", **block) == 1
            assert got("blocked_seconds_total", **block, cause="io") > 0.1
            assert got("blocking_total", event_type="single") >= 1
            assert got("worker_deaths_total", state="killed") == 0
            assert "python_info" in got.text
        victim = pids.pop()
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(server.pids() - {victim}) == 2, "a third worker")
        until(lambda: server.scrape()("worker_deaths_total", state="killed") == 1, "its death")
        for _ in range(8):
            got = server.scrape()
            assert got("requests_total", route="/items/{item}") >= counted
            assert got("blocking_events_total", **block) == 1
            assert got("worker_up") == 2
        server.kept.end()
        for path in Path("/dev/shm").glob(f"loopguard.{victim}.*"):
            path.unlink()
        for path in Path("/dev/shm").glob(f"loopguard-sums.*.{server.kept.pid}.*"):
            path.unlink()


def test_a_worker_on_its_way_out_leaves_its_counters_to_the_others() -> None:
    leaving = """
    import asyncio, sys
    import loopguard
    from loopguard.prometheus import LoopGuardCollector

    collector = LoopGuardCollector(None)

    async def main():
        loopguard.watch(app_name="quitter", segment_dir=sys.argv[1])
        for _ in range(50):
            await asyncio.sleep(0)

    asyncio.run(main())  # nobody scrapes it, ever
    """
    folder = Path(tempfile.mkdtemp(prefix="loopguard-test-", dir="/dev/shm"))
    try:
        script(leaving, str(folder))
        assert not list(folder.glob("loopguard.*")), "its segment is gone"
        with living(folder, worker(1, app="quitter", ppid=os.getpid())):
            got = scrape(folder)
        assert got("worker_deaths_total", app="quitter", state="clean") == 1
        assert got("worker_up", worker=0) == 0
        assert got("loop_iterations_total", worker=0) > 40
    finally:
        shutil.rmtree(folder)
