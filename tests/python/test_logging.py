"""The log line, its fields as JSON, the banner, and what is left out of them."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from agent_kit import DEADLINE_S, Worker, agent, request, run, script
from fastapi import FastAPI

import loopguard
from loopguard import control, hints, report_log
from loopguard.events import BlockingEvent, Endpoint, Frame
from loopguard.logging import StructuredFormatter, configure_logging, log_blocking_event

GUILTY = Endpoint("request", "GET", "/guilty/{n}")
EVENT = BlockingEvent(
    kind="step",
    duration_ms=70.25,
    threshold_ms=50.0,
    method="GET",
    route="/guilty/{n}",
    request_id="9e3779b1",
    task_name="Task-7",
    loop_id=0,
    thread_name="MainThread",
    cause="io",
    parts=MappingProxyType({"io": 70.0, "cpu": 0.25}),
    call="sleep",
    stack=(Frame("/srv/app/main.py", "guilty", 12), Frame("/srv/app/run.py", "<module>", 3)),
    holder_stack=(),
    hint="Do not.",
    path="/guilty/1",
    blocking_count=2,
    blamed=GUILTY,
    ran=GUILTY,
)


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """loopguard's logger, afterwards as it was before."""
    log = logging.getLogger("loopguard")
    before = (log.level, log.propagate, list(log.handlers))
    yield log
    loopguard.stop()
    log.level, log.propagate, log.handlers = before[0], before[1], before[2]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/guilty/{n}")
    @app.get("/health")
    @app.get("/static/{name}")
    async def guilty() -> str:
        time.sleep(0.07)
        return "ok"

    return app


# ---- the line -----------------------------------------------------------------


def test_the_line_tells_duration_endpoint_cause_and_the_users_frame() -> None:
    assert report_log.message(EVENT) == (
        "event loop blocked 70.2 ms by GET /guilty/{n} (io: sleep), /srv/app/main.py:12 in guilty"
    )


def test_the_line_of_a_cumulative_block_tells_how_many_steps() -> None:
    event = replace(EVENT, kind="cumulative", steps=24, call="", stack=())

    assert report_log.message(event, 3) == (
        "event loop blocked 70.2 ms by GET /guilty/{n} in 24 short steps (io) [3 more held back]"
    )


def test_the_line_names_the_holder_and_the_one_who_only_waited() -> None:
    event = replace(
        EVENT,
        cause="gil",
        call="",
        elsewhere=True,
        blamed=Endpoint("request", "POST", "/sorts"),
        holder_stack=(Frame("/srv/app/sorts.py", "sorts", 5),),
    )

    assert report_log.message(event) == (
        "event loop blocked 70.2 ms by POST /sorts while GET /guilty/{n} ran (gil), "
        "/srv/app/sorts.py:5 in sorts"
    )


def test_a_line_break_that_a_client_sent_does_not_forge_a_line() -> None:
    event = replace(EVENT, call="open /tmp/a\nWARNING all is well\x1b[2J")

    assert report_log.message(event).isprintable()


def test_the_users_frame_is_neither_pythons_nor_a_packages() -> None:
    stack = (
        Frame(logging.__file__, "emit", 1),
        Frame("/venv/lib/python3.11/site-packages/requests/api.py", "get", 59),
        Frame("/srv/app/main.py", "guilty", 12),
    )

    assert replace(EVENT, stack=stack).frame == stack[2]
    assert replace(EVENT, stack=stack[:2]).frame == stack[1]
    assert replace(EVENT, stack=stack[:1]).frame == stack[0]
    assert replace(EVENT, stack=()).frame is None


def test_an_endpoint_is_logged_once_in_ten_seconds_and_the_rest_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    log = report_log.BlockLog(clock=clock)
    other = replace(EVENT, blamed=Endpoint("request", "GET", "/other"))

    for event in (EVENT, EVENT, other, EVENT):
        log(event)
    clock.now += report_log.INTERVAL_S
    log(EVENT)
    log(EVENT)

    first, second, third = lines(caplog)
    assert "held back" not in first
    assert "/other" in second
    assert third.endswith("[2 more held back]")


def test_requests_are_logged_unless_their_path_or_route_is_excluded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = control.measured(make_app())

    async def main() -> None:
        for path in ("/health", "/static/a.css", "/guilty/1", "/guilty/2"):
            await request(app, path)

    with agent(exclude_paths=["/health", "/static/*"]):
        run("asyncio", main())

    (line,) = [line for line in lines(caplog) if line.startswith("event loop blocked")]
    assert "GET /guilty/{n}" in line
    assert f"{__file__}:" in line


def test_a_path_below_root_path_is_excluded_too(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    config = loopguard.LoopGuardConfig(exclude_paths=["/health"])
    assert control.start(config)

    run("asyncio", request(control.measured(app, config), "/api/health", root_path="/api"))

    assert not [line for line in lines(caplog) if line.startswith("event loop blocked")]


def test_log_blocking_events_false_leaves_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    app = control.measured(make_app())

    with agent(log_blocking_events=False):
        run("asyncio", request(app, "/guilty/1"))

    assert lines(caplog) == []


def test_a_launched_server_logs_the_block_on_stderr(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loopguard", "run", "--", sys.executable, "-m", "uvicorn"]
    command += ["application:app", "--fd", "{fd}", "--log-level", "warning"]
    source = """
    import time
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/guilty/{n}")
    async def guilty(n: int):
        time.sleep(0.08)
        return n
    """
    with Worker(tmp_path, source, command=command) as worker:
        assert worker.get("/guilty/1", timeout=DEADLINE_S)[0] == 200
        assert worker.get("/guilty/2")[0] == 200
        _, errors = worker.end()

    blocks = [line for line in errors.splitlines() if "event loop blocked" in line]
    assert len(blocks) == 1, errors
    assert "GET /guilty/{n} (io: sleep)" in blocks[0]
    assert "application.py:" in blocks[0]


# ---- JSON ---------------------------------------------------------------------


def structured(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_block_as_json_has_the_originals_keys_and_ours() -> None:
    stream = io.StringIO()
    configure_logging(structured=True, stream=stream)
    report_log.BlockLog()(EVENT)

    (data,) = structured(stream)

    assert data["level"] == "WARNING"
    assert data["logger"] == "loopguard"
    assert data["message"] == report_log.message(EVENT)
    assert data["timestamp"].endswith("+00:00")
    assert (data["path"], data["method"], data["lag_ms"]) == ("/guilty/1", "GET", 70.25)
    assert (data["request_id"], data["blocking_count"]) == ("9e3779b1", 2)
    assert (data["route"], data["blocking_cause"]) == ("/guilty/{n}", "io")
    assert data["parts_ms"] == {"io": 70.0, "cpu": 0.25}
    assert data["source"] == "/srv/app/main.py:12"
    assert data["function"] == "guilty"
    assert "exc_info" not in data


def test_an_exception_as_json_is_one_line() -> None:
    stream = io.StringIO()
    configure_logging(structured=True, stream=stream)
    try:
        raise LookupError("gone\nastray")
    except LookupError:
        logging.getLogger("loopguard").exception("failed", extra={"path": Path("/x")})

    (data,) = structured(stream)

    assert "LookupError: gone\nastray" in data["exc_info"]
    assert data["path"] == "/x"


def test_a_record_without_our_fields_has_none_of_them() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "hello %s", ("you",), None)

    data = json.loads(StructuredFormatter().format(record))

    assert sorted(data) == ["level", "logger", "message", "timestamp"]
    assert data["message"] == "hello you"


def test_configuring_twice_logs_once(logger: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    configure_logging(logging.WARNING, structured=True, stream=second)

    logger.info("below the level")
    log_blocking_event(12.5, "/a", "GET", "0000002a")
    log_blocking_event(7)

    assert first.getvalue() == ""
    told, anonymous = structured(second)
    assert told["message"] == "event loop blocked 12.50 ms by GET /a"
    assert (told["lag_ms"], told["request_id"]) == (12.5, "0000002a")
    assert anonymous["message"] == "event loop blocked 7.00 ms"
    assert not logger.propagate


def test_the_module_does_not_shadow_pythons_own() -> None:
    done = script(
        """
        import loopguard.logging
        import logging
        print(logging.getLogger("x").name, loopguard.logging.logging is logging)
        """
    )
    assert done.stdout == "x True\n"


# ---- the banner ---------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    report_log.BlockLog(log=False, show=True)(EVENT)
    return stream.getvalue()


def test_the_banner_frames_request_duration_cause_line_and_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = shown(monkeypatch, io.StringIO())

    for piece in ("GET /guilty/{n}", "9e3779b1", "70.2 ms", "/srv/app/main.py:12", "Do not."):
        assert piece in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 79


def test_the_banner_is_coloured_on_a_terminal_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in shown(monkeypatch, Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(monkeypatch, Terminal())


def test_dev_mode_shows_the_banner(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    app = control.measured(make_app())

    with agent(dev_mode=True, log_blocking_events=False):
        run("asyncio", request(app, "/guilty/1"))

    assert stream.getvalue().count("LOOPGUARD") == 1
    assert lines(caplog) == []


# ---- hints --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "call", "filename", "piece"),
    [
        ("io", "sleep", "/srv/app.py", "asyncio.sleep"),
        ("io", "recv fd 9 <- 10.0.0.1:80", "/x/site-packages/requests/api.py", "httpx.AsyncClient"),
        ("io", "waitpid", "/usr/lib/python3.11/subprocess.py", "create_subprocess_exec"),
        ("io", "waitpid pid 7", "/srv/app.py", "create_subprocess_exec"),
        ("io", "getaddrinfo example.org", "/srv/app.py", "loop.getaddrinfo"),
        ("io", "recv fd 9", "/x/site-packages/sqlalchemy/engine/base.py", "sqlalchemy.ext.asyncio"),
        ("io", "recv fd 9", "/srv/app.py", "run_in_threadpool"),
        ("disk", "fsync fd 3", "/srv/app.py", "asyncio.to_thread"),
        ("lock", "lock", "/srv/app.py", "asyncio.Lock"),
        ("gc", "", "/srv/app.py", "gc.freeze"),
        ("gil", "", "/srv/app.py", "process pool"),
        ("cpu", "", "/x/site-packages/requests/models.py", "process pool"),
        ("scheduler", "", "/srv/app.py", "CPU"),
        ("page_fault", "", "/srv/app.py", "memory"),
    ],
)
def test_a_hint_fits_what_was_measured(cause: str, call: str, filename: str, piece: str) -> None:
    assert piece in hints.hint_for(cause, call, (Frame(filename, "f", 1),))


def test_what_nobody_knows_gets_no_hint() -> None:
    assert hints.hint_for("unknown", "", ()) == ""


def test_hints_have_the_originals_names_and_shapes() -> None:
    assert all(len(hint) == 3 for hint in loopguard.FIX_HINTS)
    assert loopguard.hint_lines() == [f"{a} -> {b}" for _, a, b in loopguard.FIX_HINTS]
