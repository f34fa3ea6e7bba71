"""The open requests, the one that runs, and which requests are measured at all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from agent_kit import (
    LOOPS,
    agent,
    request,
    run,
    scope,
    segment,
    settled,
    stalls,
    status_of,
    until,
    websocket,
)
from fastapi import BackgroundTasks, FastAPI, WebSocket

import loopguard
from loopguard import LoopGuardConfig, RequestInfo, control, current_request, get_active_requests

kinds = pytest.mark.parametrize("kind", LOOPS)

OK = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b""}


def wrapped(app: Any, **options: Any) -> Any:
    """`app` measured, its answers by these options."""
    return control.measured(app, LoopGuardConfig(**options))


@pytest.fixture(autouse=True)
def armed() -> Iterator[None]:
    with agent():
        yield


async def answer(send: Any) -> None:
    await send(OK)
    await send(END)


# ---- the one that runs -----------------------------------------------------


@kinds
def test_a_handler_sees_its_own_request(kind: str) -> None:
    api = FastAPI()
    seen: list[RequestInfo | None] = []

    @api.put("/items/{item}")
    async def put(item: str) -> None:
        seen.append(current_request())
        await asyncio.sleep(0)
        seen.append(current_request())

    before = time.monotonic()
    run(kind, request(wrapped(api), "/items/7", "PUT"))
    first, second = seen
    assert first == second
    assert first is not None
    assert (first.method, first.path, first.route) == ("PUT", "/items/7", "/items/{item}")
    assert len(first.request_id) == 8
    assert int(first.request_id, 16) > 0
    assert before <= first.start_time <= time.monotonic()
    assert (first.blocking_count, first.total_blocking_ms) == (0, 0.0)


def test_what_is_known_of_a_request_cannot_be_changed() -> None:
    info = RequestInfo("0a1b2c3d", "GET", "/", None, 1.0, 0, 0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.path = "/x"  # type: ignore[misc]


@kinds
def test_of_two_requests_that_take_turns_each_sees_itself(kind: str) -> None:
    wrong = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(50):
            info = current_request()
            if info is None or info.path != scope["path"]:
                wrong.append((scope["path"], info))
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(request(wrapped(app), f"/{i}") for i in range(4)))

    run(kind, main())
    assert wrong == []


def test_a_request_has_no_route_until_one_has_matched() -> None:
    api, seen = FastAPI(), []

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_request())
        await api(scope, receive, send)
        seen.append(current_request())

    run("asyncio", request(wrapped(outer), "/none/such"))
    assert [info and info.route for info in seen] == [None, "(unmatched)"]


def test_unusual_methods_and_paths_are_told_as_they_are() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_request())

    run("asyncio", request(wrapped(app), "/ä/\udcff", "PROPFIND"))
    (info,) = seen
    assert info is not None
    assert (info.method, info.path) == ("PROPFIND", "/ä/\udcff")


@kinds
def test_a_sync_endpoint_sees_the_request_that_its_thread_serves(kind: str) -> None:
    api = FastAPI()
    barrier = threading.Barrier(6)  # all at once, each in a thread of its own

    @api.get("/sync/{n}")
    def sync(n: int) -> dict[str, Any]:
        barrier.wait(10)
        info = current_request()
        assert info is not None
        return {"n": n, "path": info.path, "id": info.request_id, "route": info.route}

    async def main() -> list[Any]:
        app = wrapped(api)
        return await asyncio.gather(*(request(app, f"/sync/{n}") for n in range(6)))

    for n, sent in enumerate(run(kind, main())):
        told = dict(sent[0]["headers"])[b"x-request-id"].decode()
        assert f'"path":"/sync/{n}"' in sent[1]["body"].decode()
        assert f'"id":"{told}"' in sent[1]["body"].decode()
        assert '"route":"/sync/{n}"' in sent[1]["body"].decode()


@kinds
def test_child_tasks_and_background_tasks_belong_to_the_request(kind: str) -> None:
    api = FastAPI()
    seen = {}

    def look(where: str) -> None:
        info = current_request()
        seen[where] = info and info.path

    async def child() -> None:
        look("child")
        await asyncio.sleep(0)
        look("child later")

    @api.get("/parent")
    async def parent(after: BackgroundTasks) -> None:
        after.add_task(look, "pool")  # a plain function runs in the pool

        async def later() -> None:
            look("background")

        after.add_task(later)
        await asyncio.gather(child(), asyncio.create_task(child()))

    run(kind, request(wrapped(api), "/parent"))
    assert seen == dict.fromkeys(("child", "child later", "pool", "background"), "/parent")


@kinds
def test_what_belongs_to_no_request_sees_none(kind: str) -> None:
    seen = []

    async def unowned() -> None:
        seen.append(current_request())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        done = asyncio.Event()

        def callback() -> None:
            seen.append(current_request())
            done.set()

        asyncio.get_running_loop().call_soon(callback)
        await done.wait()
        thread = threading.Thread(target=lambda: seen.append(current_request()))
        thread.start()
        thread.join()
        await answer(send)

    async def main() -> None:
        await request(wrapped(app))
        await asyncio.create_task(unowned())
        seen.append(current_request())

    run(kind, main())
    seen.append(current_request())
    assert seen == [None] * 5


def test_a_request_within_a_request_is_the_one_that_runs() -> None:
    seen = []

    def look() -> None:
        info = current_request()
        seen.append(info and info.path)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        look()
        await asyncio.sleep(0)
        look()
        await answer(send)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        look()
        await request(wrapped(inner), "/inner", headers=[])
        look()
        await answer(send)

    run("asyncio", request(wrapped(outer), "/outer"))
    assert seen == ["/outer", "/inner", "/inner", "/outer"]


@kinds
def test_a_step_that_has_blocked_is_counted_while_it_runs(kind: str) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_request())
        time.sleep(0.07)
        seen.append(current_request())
        time.sleep(0.03)
        seen.append(current_request())
        await asyncio.sleep(0)
        seen.append(current_request())
        time.sleep(0.06)
        seen.append(current_request())

    run(kind, request(wrapped(app)))
    counts = [info and info.blocking_count for info in seen]
    times = [info.total_blocking_ms for info in seen if info]
    assert counts == [0, 1, 1, 1, 2]
    assert times[0] == 0
    assert times[1] >= 69
    assert times[2] >= times[1] + 29
    assert times[3] >= times[2]
    assert times[4] >= times[3] + 59
    told = [s.duration_ms for s in stalls() if s.endpoint == "GET (unknown)"]
    assert len(told) == 2  # asking has split no step
    assert max(told) >= 99


def test_many_short_steps_count_once_when_they_are_told() -> None:
    loopguard.stop()
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(12):
            time.sleep(0.025)
            await asyncio.sleep(0)
        seen.append(current_request())

    with agent(fallback_threshold_ms=2000):  # no single step, also where it oversleeps
        run("asyncio", request(wrapped(app)))
    (info,) = seen
    assert info is not None
    assert info.blocking_count == 1
    assert info.total_blocking_ms >= 12 * 25 - 1


# ---- all that are open -----------------------------------------------------


@kinds
def test_open_requests_and_websockets_are_listed_oldest_first(kind: str) -> None:
    api = FastAPI()
    found = []

    @api.get("/waits/{n}")
    async def waits(n: int) -> None:
        await asyncio.sleep(30)

    @api.websocket("/ws/{room}")
    async def ws(socket: WebSocket, room: str) -> None:
        await socket.accept()
        found.extend(get_active_requests())

    async def main() -> None:
        app = wrapped(api)
        tasks = []
        for n in range(3):
            tasks.append(asyncio.ensure_future(request(app, f"/waits/{n}")))
            await asyncio.sleep(0)
        await websocket(app, "/ws/a", [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(kind, main())
    assert [(r.method, r.path) for r in found] == [
        ("GET", "/waits/0"),
        ("GET", "/waits/1"),
        ("GET", "/waits/2"),
        ("WS", "/ws/a"),
    ]
    assert found[3].route == "/ws/{room}"
    assert [r.start_time for r in found] == sorted(r.start_time for r in found)
    assert len({r.request_id for r in found}) == 4
    assert get_active_requests() == ()


def test_requests_of_all_loops_are_seen_from_any_thread() -> None:
    ready, enough = threading.Barrier(3), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ready.wait(10)
        while not enough.is_set():
            await asyncio.sleep(0.001)
        await answer(send)

    def serve(path: str) -> None:
        asyncio.run(request(wrapped(app), path))

    threads = [threading.Thread(target=serve, args=(p,)) for p in ("/a", "/b")]
    for thread in threads:
        thread.start()
    ready.wait(10)
    try:
        until(lambda: sorted(r.path for r in get_active_requests()) == ["/a", "/b"])
        assert current_request() is None
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert get_active_requests() == ()


def test_the_list_is_right_after_each_end_in_any_order() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    def paths() -> list[str]:
        return [r.path for r in get_active_requests()]

    async def main() -> None:
        async def receive() -> Any:
            await asyncio.sleep(30)

        random.seed(7)
        measured = wrapped(app)
        coros = {f"/{n}": measured(scope(f"/{n}"), receive, None) for n in range(60)}
        tasks = {}
        for path, coro in coros.items():
            tasks[path] = asyncio.ensure_future(coro)
            await asyncio.sleep(0)
        assert paths() == list(tasks)
        for path in random.sample(list(tasks), 60):
            task = tasks.pop(path)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert paths() == list(tasks)

    run("asyncio", main())


def test_a_request_that_is_thrown_away_leaves_the_list() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(30)

    async def main() -> None:
        measured = wrapped(app)
        never = measured(scope("/never"), None, None)
        begun = measured(scope("/begun"), None, None)
        begun.send(None)
        assert [r.path for r in get_active_requests()] == ["/never", "/begun"]
        never.close()
        begun.close()
        del never, begun

    run("asyncio", main())
    assert get_active_requests() == ()


def test_nothing_is_open_after_stop_and_old_ones_stay_forgotten() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await answer(send)

    async def main() -> None:
        go = asyncio.Event()

        async def receive() -> Any:
            await go.wait()

        async def send(message: Any) -> None:
            sent.append(message)

        sent: list[Any] = []
        old = asyncio.ensure_future(wrapped(app)(scope("/old"), receive, send))
        await asyncio.sleep(0)
        loopguard.stop()
        assert get_active_requests() == ()
        assert control.start(LoopGuardConfig())
        new = asyncio.ensure_future(wrapped(app)(scope("/new"), receive, send))
        await asyncio.sleep(0)
        assert [r.path for r in get_active_requests()] == ["/new"]
        go.set()
        await asyncio.gather(old, new)
        assert get_active_requests() == ()
        starts = [m for m in sent if m["type"] == "http.response.start"]
        assert starts[0] is OK  # of the old one: nothing is done any more
        assert dict(starts[1]["headers"])[b"x-blocking-detected"] == b"false"

    run("asyncio", main())


def test_asking_from_a_thread_while_requests_come_and_go_is_safe() -> None:
    enough = threading.Event()
    errors = []

    def ask() -> None:
        while not enough.is_set():
            errors.extend(i for i in get_active_requests() if not i.path.startswith("/r"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await answer(send)

    async def main() -> None:
        measured = wrapped(app)
        for _ in range(150):
            await asyncio.gather(*(request(measured, f"/r{n}") for n in range(10)))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        run("asyncio", main())
    finally:
        enough.set()
        thread.join()
    assert errors == []
    assert get_active_requests() == ()


# ---- pause and resume ------------------------------------------------------


async def plain(scope: Any, receive: Any, send: Any) -> None:
    plain.seen.append(current_request())  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    await answer(send)


plain.seen = []  # type: ignore[attr-defined]


@kinds
def test_requests_that_begin_while_paused_pass_bare(kind: str) -> None:
    async def main() -> None:
        app = wrapped(plain)
        plain.seen.clear()  # type: ignore[attr-defined]
        await request(app)
        path = loopguard.status()["segment"]
        loopguard.pause()
        assert (await request(app))[0] is OK
        await websocket(app, "/", [])
        assert get_active_requests() == ()
        loopguard.resume()
        assert (await request(app))[0] is not OK
        assert loopguard.status()["segment"] == path

    run(kind, main())
    assert [info is None for info in plain.seen] == [False, True, True, False]  # type: ignore[attr-defined]
    assert settled().endpoint("GET (unknown)").requests == 2


def test_status_and_viewer_say_that_it_is_paused() -> None:
    async def main() -> None:
        await request(wrapped(plain))
        assert not loopguard.is_paused()
        loopguard.pause()
        loopguard.pause()
        assert loopguard.is_paused()
        assert loopguard.status()["paused"] is True
        assert segment().features["steps"] == (False, "paused")
        loopguard.resume()
        assert loopguard.status()["paused"] is False
        assert segment().features["steps"] == (True, "")

    run("asyncio", main())


def test_a_pause_before_the_first_loop_holds_there_and_ends_with_stop() -> None:
    loopguard.pause()

    async def main() -> None:
        assert (await request(wrapped(plain)))[0] is OK
        assert segment().features["steps"] == (False, "paused")

    run("asyncio", main())
    loopguard.stop()
    assert not loopguard.is_paused()
    assert control.start(LoopGuardConfig())
    run("asyncio", request(wrapped(plain)))
    assert segment().features["steps"] == (True, "")


def test_an_open_request_is_measured_to_its_end_in_a_pause() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        loopguard.pause()
        await asyncio.sleep(0)
        time.sleep(0.07)
        await asyncio.sleep(0)
        info = current_request()
        assert info is not None
        assert info.blocking_count == 1
        await answer(send)

    sent = run("asyncio", request(wrapped(app)))
    assert dict(sent[0]["headers"])[b"x-blocking-count"] == b"1"
    assert [s.endpoint for s in stalls() if s.request_id] == ["GET (unknown)"]
    assert sum(e.in_flight for e in segment().endpoints) == 0


def test_what_blocks_while_paused_is_told_of_nobody() -> None:
    async def blocks(scope: Any, receive: Any, send: Any) -> None:
        time.sleep(0.08)
        await answer(send)

    async def task() -> None:
        time.sleep(0.08)

    async def main() -> None:
        app = wrapped(blocks)
        await request(wrapped(plain))
        loopguard.pause()
        await asyncio.sleep(0.005)
        await request(app)
        await asyncio.create_task(task())
        asyncio.get_running_loop().call_soon(time.sleep, 0.08)
        await asyncio.sleep(0.01)
        loopguard.resume()
        await asyncio.sleep(0.01)
        assert [s for s in settled().stalls if s.cause == "io"] == []
        await request(app)

    run("asyncio", main())
    (stall,) = [s for s in stalls() if s.endpoint == "GET (unknown)"]
    assert stall.duration_ms >= 79


@kinds
def test_counts_are_right_when_pauses_come_and_go_under_load(kind: str) -> None:
    measured = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal measured
        measured += current_request() is not None
        await asyncio.sleep(0)
        await answer(send)

    async def client(target: Any) -> None:
        for _ in range(100):
            assert status_of(await request(target)) == 200

    async def switch(over: asyncio.Event) -> None:
        while not over.is_set():
            loopguard.pause()
            await asyncio.sleep(0.001)
            loopguard.resume()
            await asyncio.sleep(0.001)

    async def main() -> None:
        over = asyncio.Event()
        switching = asyncio.ensure_future(switch(over))
        target = wrapped(app)
        await asyncio.gather(*(client(target) for _ in range(8)))
        over.set()
        await switching
        await request(target)

    run(kind, main())
    seen = settled()
    assert 0 < measured < 801
    assert seen.endpoint("GET (unknown)").requests == measured
    assert seen.endpoint("GET (unknown)").in_flight == 0
    assert seen.loops[0].open_requests == 0


# ---- one request ----------------------------------------------------------


@kinds
def test_a_filter_decides_which_requests_are_measured(kind: str) -> None:
    asked = []

    def wanted(scope: Any) -> bool:
        asked.append((scope["type"], scope["path"]))
        return not scope["path"].startswith("/quiet")

    async def main() -> None:
        app = wrapped(plain, request_filter=wanted)
        plain.seen.clear()  # type: ignore[attr-defined]
        assert (await request(app, "/loud"))[0] is not OK
        assert (await request(app, "/quiet"))[0] is OK
        await websocket(app, "/quiet/ws", [])
        await app({"type": "lifespan", "asgi": {}}, None, lambda message: asyncio.sleep(0))

    run(kind, main())
    assert asked == [("http", "/loud"), ("http", "/quiet"), ("websocket", "/quiet/ws")]
    assert [info is None for info in plain.seen][:3] == [False, True, True]  # type: ignore[attr-defined]


def test_a_filter_that_raises_is_logged_once_and_the_request_is_measured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(scope: Any) -> bool:
        raise LookupError("no such thing")

    async def main() -> None:
        app = wrapped(plain, request_filter=broken)
        for _ in range(3):
            assert (await request(app))[0] is not OK

    with caplog.at_level(logging.WARNING, "loopguard"):
        run("asyncio", main())
    (record,) = [r for r in caplog.records if "request_filter" in r.getMessage()]
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


def test_a_filter_whose_answer_has_no_truth_is_treated_as_one_that_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd:
        def __bool__(self) -> bool:
            raise TypeError("neither")

    app = wrapped(plain, request_filter=lambda scope: Odd())
    assert run("asyncio", request(app))[0] is not OK
    assert "request_filter" in caplog.text


def test_what_ends_the_program_comes_through_a_filter() -> None:
    def ends(scope: Any) -> bool:
        raise SystemExit(3)

    async def main() -> None:
        with pytest.raises(SystemExit):
            wrapped(plain, request_filter=ends)(scope(), None, None)

    run("asyncio", main())


@pytest.mark.parametrize(
    ("headers", "bare"),
    [
        ([(b"x-loopguard", b"off")], True),
        ([(b"host", b"a"), (b"X-LoopGuard", b"OFF")], True),
        (((b"x-loopguard", b"off"),), True),
        ([[b"x-loopguard", b"off"]], True),
        ([(b"x-loopguard", b"on")], False),
        ([(b"x-loopguard-2", b"off")], False),
        ([(b"off", b"x-loopguard")], False),
        ([], False),
        ([(b"x-loopguard", None), (1, 2), b"xy", (b"x-loopguard",)], False),
    ],
)
def test_a_header_switches_measuring_off_for_its_request(headers: Any, bare: bool) -> None:
    app = wrapped(plain, switch_header="X-Loopguard")
    assert (run("asyncio", request(app, headers=headers))[0] is OK) is bare


def test_without_the_option_the_header_means_nothing() -> None:
    sent = run("asyncio", request(wrapped(plain), headers=[(b"x-loopguard", b"off")]))
    assert sent[0] is not OK


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("request_filter", 1, TypeError),
        ("request_filter", plain, TypeError),
        ("switch_header", "", ValueError),
        ("switch_header", "x loopguard", ValueError),
        ("switch_header", "x-löopguard", ValueError),
        ("switch_header", b"x-loopguard", TypeError),
        ("exclude_paths", ["/a*/b"], ValueError),
    ],
)
def test_bad_switches_are_refused_where_they_are_given(
    option: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=option):
        LoopGuardConfig(**{option: value})  # type: ignore[arg-type]


def test_the_switch_header_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPGUARD_SWITCH_HEADER", "X-Quiet")
    assert LoopGuardConfig().switch_header == "x-quiet"
    assert LoopGuardConfig(switch_header=None).switch_header is None
