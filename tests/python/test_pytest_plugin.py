"""The pytest plugin: runs of pytest in processes of their own, with real async tests.

A run is done once for many tests here: its verdicts stand in its report.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agent_kit
import jsonschema
import pytest

from loopguard import pytest_plugin, report

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "loopguard-report.schema.json").read_text())
INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""
SPIN = """\
import asyncio, threading, time, unittest
import pytest

def spin(ms):
    end = time.thread_time() + ms / 1e3
    while time.thread_time() < end:
        pass
"""


@dataclass
class Run:
    """One run of pytest that is over."""

    code: int
    output: str
    report: dict[str, Any] | None

    def test(self, name: str) -> dict[str, Any]:
        """The record of the one test of that name."""
        assert self.report is not None, self.output
        found = [t for t in self.report["tests"] if _name(t["nodeid"]) == name]
        assert len(found) == 1, f"{self.output}\n{len(found)} records of {name}"
        return found[0]

    def verdict(self, name: str) -> str:
        """Its verdict."""
        return str(self.test(name)["verdict"])


def _name(nodeid: str) -> str:
    return re.sub(r"\[.*", "", nodeid).split("::")[-1]


def run_pytest(
    folder: Path,
    source: str,
    *args: str,
    ini: str = INI,
    env: dict[str, str] | None = None,
    report: bool = True,
) -> Run:
    """Runs pytest on that source, in that folder."""
    (folder / "pytest.ini").write_text(ini)
    (folder / "test_it.py").write_text(SPIN + textwrap.dedent(source))
    path = folder / "report.json"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:timeout", *args]
    command += [f"--loopguard-report={path}"] if report else []
    done = subprocess.run(
        command,
        cwd=folder,
        env={k: v for k, v in agent_kit.environment(env).items() if k != "PYTEST_ADDOPTS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    written = json.loads(path.read_text()) if path.exists() else None
    if written is not None:
        jsonschema.validate(written, SCHEMA)
    return Run(done.returncode, done.stdout, written)


MANY = """
from loopguard.pytest_plugin import loopguard_only, loopguard_pause

pytestmark = pytest.mark.no_blocking

async def test_cpu():
    spin(150)
    await asyncio.sleep(0)

async def test_call():
    await asyncio.sleep(0)
    time.sleep(0.1)

async def test_two_blocks():
    time.sleep(0.07)
    await asyncio.sleep(0.001)
    time.sleep(0.09)

async def test_waits():
    await asyncio.sleep(0.1)

@pytest.mark.no_blocking(threshold_ms=5000)
async def test_high_threshold():
    time.sleep(0.1)

@pytest.mark.no_blocking(threshold_ms=10)
async def test_low_threshold():
    time.sleep(0.02)

async def test_callback():
    asyncio.get_running_loop().call_soon(time.sleep, 0.1)
    await asyncio.sleep(0.01)

async def test_child_task():
    async def child():
        time.sleep(0.1)
    await asyncio.gather(child(), asyncio.sleep(0.01))

@pytest.fixture
async def slow():
    time.sleep(0.1)
    yield
    time.sleep(0.1)

async def test_fixture(slow):
    await asyncio.sleep(0)

async def test_pause():
    with loopguard_pause():
        time.sleep(0.1)
        with loopguard_pause():
            await asyncio.sleep(0)
        time.sleep(0.1)

async def test_rest_of_a_paused_step():
    with loopguard_pause():
        time.sleep(0.2)
    time.sleep(0.1)

async def test_only():
    time.sleep(0.1)
    with loopguard_only():
        await asyncio.sleep(0)
    time.sleep(0.1)

async def test_within_only():
    with loopguard_only():
        time.sleep(0.1)
    with loopguard_only():
        await asyncio.sleep(0)

async def test_fixture_object(loopguard):
    assert loopguard.threshold_ms == 50 and loopguard.events == ()
    with loopguard.pause():
        time.sleep(0.1)
        await asyncio.sleep(0.001)
    assert loopguard.events == ()
    loopguard.threshold_ms = 20
    time.sleep(0.03)
    await asyncio.sleep(0.001)
    assert [e.cause for e in loopguard.events] == ["io"]
    loopguard.threshold_ms = 5000

async def test_frozen_clock(monkeypatch):
    for name in ("time", "monotonic", "perf_counter", "monotonic_ns", "perf_counter_ns"):
        monkeypatch.setattr(time, name, lambda: 0)
    await asyncio.sleep(0)
    time.sleep(0.1)

async def test_construction():
    from fastapi import FastAPI
    app = FastAPI()
    before = time.perf_counter()
    while time.perf_counter() - before < 0.15:
        @app.get("/{name}")
        async def endpoint(name: str, q: int = 0) -> dict[str, int]:
            return {}

async def test_import(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text(
        "import time, warnings; time.sleep(0.1); warnings.warn('slow', stacklevel=2)"
    )
    (tmp_path / "bad_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning) as caught:
        import slow_module
    assert caught[0].filename == __file__
    with pytest.raises(ZeroDivisionError) as raised:
        import bad_module
    assert [entry.path.name for entry in raised.traceback] == ["test_it.py", "bad_module.py"]

async def test_own_failure():
    time.sleep(0.1)
    assert 1 == 2

async def test_skipped():
    time.sleep(0.1)
    pytest.skip("not now")

@pytest.mark.xfail(strict=True, reason="known to block")
async def test_known():
    time.sleep(0.1)

@pytest.mark.asyncio(loop_scope="module")
async def test_module_loop():
    time.sleep(0.1)

class TestClass:
    @pytest.mark.parametrize("n", [1])
    async def test_method(self, n):
        time.sleep(0.1)

class TestCase(unittest.IsolatedAsyncioTestCase):
    async def test_unittest(self):
        time.sleep(0.1)

def test_sync_run():
    async def main():
        time.sleep(0.1)
    asyncio.run(main())

def test_other_thread():
    async def main():
        time.sleep(0.1)
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()

def test_two_loops():
    for ms in (70, 90):
        loop = asyncio.new_event_loop()
        loop.call_soon(time.sleep, ms / 1e3)
        loop.call_later(0.15, loop.stop)
        loop.run_forever()
        loop.close()

def test_time_between_runs():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    time.sleep(0.1)
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()

def test_client():
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    app = FastAPI()
    @app.get("/slow")
    async def slow():
        time.sleep(0.1)
    with TestClient(app) as client:
        assert client.get("/slow").status_code == 200

def test_no_loop():
    time.sleep(0.1)

@pytest.mark.no_blocking(20)
async def test_positional():
    pass

@pytest.mark.no_blocking(threshold_ms="soon")
async def test_no_number():
    pass
"""
AFTER = """
def pytest_unconfigure():
    import glob, os, loopguard
    status = loopguard.status()
    left = glob.glob(f"/dev/shm/loopguard.{os.getpid()}.*")
    print("AFTER", status["state"], status["patched"], left)
"""
POLICY = """
import asyncio, os, pytest

@pytest.fixture(scope="session")
def event_loop_policy():
    import uvloop
    return uvloop.EventLoopPolicy()

@pytest.fixture(autouse=True)
def loops(monkeypatch):
    import uvloop
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(None)
"""
BLOCKED = {
    "test_cpu", "test_call", "test_two_blocks", "test_low_threshold", "test_callback",
    "test_child_task", "test_rest_of_a_paused_step", "test_within_only", "test_frozen_clock",
    "test_own_failure", "test_known", "test_module_loop", "test_method", "test_unittest",
    "test_sync_run", "test_other_thread", "test_two_loops", "test_client",
}  # fmt: skip
CLEAN = {
    "test_waits", "test_high_threshold", "test_fixture", "test_pause", "test_only",
    "test_fixture_object", "test_construction", "test_import", "test_time_between_runs",
}  # fmt: skip
UNMEASURED = {"test_no_loop", "test_positional", "test_no_number"}


@pytest.fixture(scope="module", params=sorted(agent_kit.LOOPS))
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of all the tests above, on that kind of loop."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "conftest.py").write_text(AFTER + (POLICY if request.param == "uvloop" else ""))
    return run_pytest(folder, MANY, "-W", "ignore::DeprecationWarning")


def test_a_block_anywhere_in_the_body_is_seen_and_nothing_else(many: Run) -> None:
    verdicts: dict[str, set[str]] = {}
    for name in BLOCKED | CLEAN | UNMEASURED:
        verdicts.setdefault(many.verdict(name), set()).add(name)
    expected = {"blocked": BLOCKED, "clean": CLEAN, "unmeasured": UNMEASURED}
    assert verdicts == expected, many.output
    assert len(many.report["tests"]) == len(BLOCKED | CLEAN | UNMEASURED)  # not the skipped one


def test_a_failure_names_function_line_duration_cause_call_and_hint(many: Run) -> None:
    [cpu] = many.test("test_cpu")["events"]
    assert (cpu["function"], cpu["filename"], cpu["cause"]) == ("spin", "test_it.py", "cpu")
    assert cpu["stack"][1]["function"] == "test_cpu"
    assert cpu["lag_ms"] >= 140
    [call] = many.test("test_call")["events"]
    line = (SPIN + MANY).splitlines()[call["lineno"] - 1]
    assert (call["function"], line.strip()) == ("test_call", "time.sleep(0.1)")
    assert call["cause"] == "io"
    assert "sleep" in call["call"]
    assert "asyncio.sleep" in call["hint"]
    assert many.test("test_call")["hints"] == [call["hint"]]
    for word in (f"ms in test_call (test_it.py:{call['lineno']}), cause: io", call["hint"]):
        assert word in many.output


def test_every_block_of_a_test_is_listed(many: Run) -> None:
    first, second = (e["lag_ms"] for e in many.test("test_two_blocks")["events"])
    assert 70 <= first < 90 <= second
    assert "blocked 2 times" in many.output
    assert len(many.test("test_two_loops")["events"]) == 2


def test_of_a_step_that_a_pause_cuts_the_rest_counts(many: Run) -> None:
    [event] = many.test("test_rest_of_a_paused_step")["events"]
    assert 100 <= event["lag_ms"] < event["duration_ms"] - 190
    assert "outside of what is measured" in event["why"]


def test_construction_is_listed_but_does_not_count(many: Run) -> None:
    [event] = many.test("test_construction")["uncounted"]
    assert event["duration_ms"] >= 150
    assert "importing modules or building the application" in event["why"]


def test_its_own_failure_stays_first_and_ours_is_a_section(many: Run) -> None:
    own = many.output.split("_ test_own_failure _")[1].split("_ TestClass")[0]
    assert own.index("assert 1 == 2") < own.index("- loopguard -") < own.index("blocked once")
    assert "1 skipped, 1 xfailed" in many.output
    assert many.code == 1


def test_what_was_not_measured_is_said(many: Run) -> None:
    assert many.test("test_no_loop")["reason"] == "no event loop ran"
    assert "LoopGuardWarning: loopguard did not measure this test: no event loop ran" in many.output
    assert "loopguard: 3 unmeasured: " in many.output
    assert "takes threshold_ms=N and nothing else, got 20" in many.test("test_positional")["reason"]
    assert "threshold_ms must be a number" in many.test("test_no_number")["reason"]


def test_the_engine_is_gone_after_the_run(many: Run) -> None:
    assert many.output.splitlines()[-1] == "AFTER stopped () []"


ANYIO = """
pytestmark = [pytest.mark.anyio, pytest.mark.no_blocking]

@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request):
    if request.param == "uvloop":
        return "asyncio", {"use_uvloop": True}
    return request.param

async def test_blocks(anyio_backend):
    time.sleep(0.1)

async def test_waits(anyio_backend):
    import anyio
    await anyio.sleep(0.01)
"""


def test_anyio_runs_on_its_backends_and_trio_is_said_to_be_unmeasured(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, ANYIO, "-p", "no:asyncio", ini="[pytest]\n")
    tests = run.report["tests"]
    got = {re.sub(r".*::", "", t["nodeid"]): t["verdict"] for t in tests}
    for backend in ("asyncio", "uvloop", "trio"):
        assert got[f"test_blocks[{backend}]"] == "blocked", run.output
        expected = "unmeasured" if backend == "trio" else "clean"
        assert got[f"test_waits[{backend}]"] == expected, run.output
    assert "not an asyncio loop" in run.output


ALL_ASYNC = """
async def test_blocks():
    time.sleep(0.06)

@pytest.mark.allow_blocking
async def test_allowed():
    time.sleep(0.06)

def test_sync():
    asyncio.run(asyncio.sleep(0.001))

async def test_waits():
    await asyncio.sleep(0.001)

@pytest.mark.no_blocking
class TestMarked:
    @pytest.mark.allow_blocking
    def test_nearer(self):
        asyncio.run(self.block())

    async def block(self):
        time.sleep(0.06)
"""


def test_workers_check_all_async_tests_but_those_allowed_and_one_report_is_made(
    tmp_path: Path,
) -> None:
    run = run_pytest(tmp_path, ALL_ASYNC, "--loopguard-all-async", "-n", "2")
    got = {re.sub(r".*::", "", t["nodeid"]): t["verdict"] for t in run.report["tests"]}
    assert got == {"test_blocks": "blocked", "test_allowed": "allowed", "test_waits": "clean"}
    assert run.report["totals"] == {
        "tests": 2, "flagged": 1, "unmeasured": 0, "measured": 2, "allowed": 1,
    }  # fmt: skip
    assert run.report["status"] == "blocked"
    assert run.code == 1


def test_the_ini_file_says_the_same_as_the_options(tmp_path: Path) -> None:
    ini = INI + (
        "loopguard_all_async = true\nloopguard_threshold_ms = 5000\nloopguard_report = out/r.json\n"
    )
    # the report's path is not the test's folder
    source = "async def test_a(tmp_path, monkeypatch):\n    monkeypatch.chdir(tmp_path)\n    time.sleep(0.06)\n"
    run = run_pytest(tmp_path, source, ini=ini, report=False)
    written = json.loads((tmp_path / "out" / "r.json").read_text())
    assert run.code == 0, run.output
    assert [t["verdict"] for t in written["tests"]] == ["clean"]
    assert written["threshold_ms"] == 5000


SILENT = """
import sys

def test_nothing_is_imported():
    assert "loopguard" not in sys.modules

async def test_nobody_asked():
    time.sleep(0.06)

def test_helper_in_a_test_that_is_not_measured():
    from loopguard.pytest_plugin import loopguard_only, loopguard_pause
    with loopguard_pause(), loopguard_only():
        assert "loopguard.blockcheck" not in sys.modules
"""


def test_a_suite_that_does_not_use_it_pays_and_sees_nothing(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, SILENT, "-v", report=False)
    assert run.code == 0, run.output
    assert not re.search(r"(?i)loopguard(?!_top|-top)", run.output.replace(str(tmp_path), ""))


def test_pytest_does_not_mind_that_the_package_was_imported_before_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_a():\n    pass\n")
    source = "import sys, loopguard, pytest; sys.exit(pytest.main(['-p', 'no:cacheprovider']))"
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=agent_kit.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "rewritten" not in done.stdout + done.stderr


TOGETHER = """
import httpx, loopguard
from fastapi import FastAPI

@pytest.fixture
def app():
    app = FastAPI()
    @app.get("/slow/{ms}")
    async def slow(ms: int):
        time.sleep(ms / 1e3)
    return app

async def get(app, path):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)

pytestmark = pytest.mark.no_blocking

async def test_middleware(app, caplog):
    config = loopguard.LoopGuardConfig(fallback_threshold_ms=30)
    app.add_middleware(loopguard.LoopGuardMiddleware, config=config)
    answer = await get(app, "/slow/80")
    assert answer.headers["x-blocking-detected"] == "true"
    assert not [r for r in caplog.records if r.name == "loopguard"]

async def test_stopped(app):
    await get(app, "/slow/1")
    loopguard.stop()

async def test_goes_on(app):
    await get(loopguard.install(app), "/slow/80")

async def test_restarted(app):
    loopguard.stop()
    await get(loopguard.install(app), "/slow/1")

def test_goes_on_again():
    async def main():
        time.sleep(0.08)
    asyncio.run(main())
"""


def test_it_works_beside_the_middleware_and_survives_a_stop(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, TOGETHER)
    [event] = run.test("test_middleware")["events"]
    assert (event["method"], event["route"]) == ("GET", "/slow/{ms}")
    assert run.test("test_stopped")["reason"] == "loopguard was stopped during the test"
    assert run.verdict("test_goes_on") == "blocked"
    assert run.verdict("test_goes_on_again") == "blocked"
    assert "GET /slow/{ms}" in run.output


def test_switched_off_it_says_unmeasured_and_fails_nothing(tmp_path: Path) -> None:
    source = "@pytest.mark.no_blocking\nasync def test_a():\n    time.sleep(0.06)\n"
    run = run_pytest(tmp_path, source, env={"LOOPGUARD_DISABLE": "1"})
    assert run.code == 0, run.output
    assert run.test("test_a")["reason"] == "LOOPGUARD_DISABLE is set"
    assert run.report["totals"]["measured"] == 0


OTHER = """
import pytest

def pytest_addoption(parser):
    parser.addini("loopguard_threshold_ms", "theirs", default="50")
    parser.getgroup("x").addoption("--loopguard-all-async", action="store_true")

def pytest_configure(config):
    config.addinivalue_line("markers", "no_blocking: theirs")
"""


def test_it_stands_aside_for_the_other_plugin_and_says_so(tmp_path: Path) -> None:
    package = tmp_path / "site" / "fastapi_loopguard"
    info = tmp_path / "site" / "fastapi_loopguard-0.9.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "pytest_plugin.py").write_text(OTHER)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fastapi-loopguard\nVersion: 0.9.0\n"
    )
    (info / "entry_points.txt").write_text(
        "[pytest11]\nloopguard = fastapi_loopguard.pytest_plugin\n"
    )
    folders = os.pathsep.join([str(tmp_path / "site"), agent_kit.environment()["PYTHONPATH"]])
    source = "@pytest.mark.no_blocking\nasync def test_a():\n    time.sleep(0.06)\n"
    aside = run_pytest(
        tmp_path, source, "--loopguard-all-async", env={"PYTHONPATH": folders}, report=False
    )
    assert aside.code == 0, aside.output
    assert "loopguard-top: stands aside, fastapi-loopguard's plugin is loaded" in aside.output
    alone = run_pytest(tmp_path, source, "-p", "no:loopguard", env={"PYTHONPATH": folders})
    assert alone.verdict("test_a") == "blocked"
    assert "stands aside" not in alone.output


def test_a_report_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = run_pytest(
        tmp_path, "def test_a():\n    pass\n", "--loopguard-report=file/r.json", report=False
    )
    assert run.code == pytest.ExitCode.INTERNAL_ERROR
    assert "could not be written" in run.output


# ---- python -m loopguard report ---------------------------------------------


def a_report(*verdicts: str) -> dict[str, Any]:
    """A report of tests with those verdicts."""
    event = {"lag_ms": 71.5, "cause": "cpu", "function": "f", "filename": "a.py", "lineno": 3}
    tests: list[dict[str, Any]] = [
        {"nodeid": f"test_a.py::test_{n}", "verdict": v, "events": [event] * (v == "blocked")}
        for n, v in enumerate(verdicts)
    ]
    for test in tests:
        if test["verdict"] == "unmeasured":
            test["reason"] = "no event loop ran"
    return report.make(tests, 50.0)


@pytest.mark.parametrize(
    ("verdicts", "options", "code"),
    [
        (["clean", "allowed"], [], 0),
        (["clean", "blocked"], [], 1),
        (["clean", "unmeasured"], [], 0),
        (["clean", "unmeasured"], ["--require-measured"], 2),
        (["blocked", "unmeasured"], ["--require-measured"], 1),
        ([], [], 2),
        (["allowed"], [], 2),
        ([], ["--allow-empty"], 0),
    ],
)
def test_the_exit_status_is_the_verdict(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verdicts: list[str],
    options: list[str],
    code: int,
) -> None:
    path = tmp_path / "r.json"
    report.write(path, a_report(*verdicts))
    assert report.main([str(path), *options]) == code
    assert capsys.readouterr().out.startswith("loopguard: ")
    assert report.main([str(path), "-q", *options]) == code
    assert capsys.readouterr().out == ""


def test_the_summary_names_each_block_and_what_was_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write(tmp_path / "r.json", a_report("clean", "blocked", "unmeasured"))
    assert report.main([str(tmp_path / "r.json")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "loopguard: blocked  tests=3  flagged=1  unmeasured=1  threshold=50.0ms",
        "  blocked  test_a.py::test_1  longest=71.5ms",
        "    71.5ms  cpu  f (a.py:3)",
        "  unmeasured  test_a.py::test_2  no event loop ran",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "not json", "[" * 100_000, '{"status": "fine", "totals": {"tests": 1}}',
        '{"status": "clean", "totals": []}', '{"status": "clean", "totals": {"tests": -1}}',
        '{"status": "clean", "totals": {"tests": NaN}}', '{"totals": {"tests": 1}}', "\0\xff",
    ],
)  # fmt: skip
def test_what_is_no_report_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="latin-1")
    assert report.main([str(path)]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"loopguard: {path}: not ")


def test_no_file_is_an_error_and_older_reports_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err
    for flagged, code in ((0, 0), (2, 1)):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({"schema_version": 1, "totals": {"flagged": flagged}}))
        assert report.main([str(path)]) == code


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    report.write(path, a_report("clean"))
    before = path.read_text()
    with pytest.raises(TypeError):
        report.write(path, {"tests": [object()]})
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["r.json"]
    jsonschema.validate(json.loads(before), SCHEMA)


def test_the_command_is_part_of_the_package(tmp_path: Path) -> None:
    report.write(tmp_path / "r.json", a_report("blocked"))
    command = [sys.executable, "-m", "loopguard", "report", str(tmp_path / "r.json")]
    done = subprocess.run(
        command,
        env=agent_kit.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "blocked" in done.stdout


def test_the_public_names_are_the_originals() -> None:
    assert pytest_plugin.MARKER_NAME == "no_blocking"
    assert pytest_plugin.ALLOW_MARKER_NAME == "allow_blocking"
    assert SCHEMA["properties"]["schema_version"]["const"] == pytest_plugin.REPORT_SCHEMA_VERSION
