"""Every example of docs/migrating.md and docs/python-api.md runs and does what is said.

An example is a fenced block "```python NAME"; what it must do is the function
that bears its name here. The public names of the other systems are checked too.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loopguard

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("migrating.md", "python-api.md")
BLOCK = re.compile(r"^```(\w+)? ?(\S+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEADLINE_S = 60.0

EXAMPLES = {
    name or text: text
    for page in PAGES
    for language, name, text in BLOCK.findall((DOCS / page).read_text())
    if language == "python"
}
CHECKS: dict[str, Callable[[Example], None]] = {}


class Example:
    """The text of an example, and a folder to run it in."""

    def __init__(self, name: str, folder: Path) -> None:
        self.text = EXAMPLES[name]
        self.folder = folder
        self.errors = ""

    def output(self, *more: str) -> str:
        """What it prints, run as a program with `more` at its end."""
        (self.folder / "example.py").write_text(self.text + "\n" + "\n".join(more))
        return self.run("example.py")

    def answers(self, *requests: str) -> list[dict[str, Any]]:
        """Answers of its `app` to those paths, "PATH NAME=VALUE ..." with headers."""
        asked = [
            (path, dict(pair.split("=", 1) for pair in pairs))
            for path, *pairs in map(str.split, requests)
        ]
        told = self.output(CLIENT.replace("REQUESTS", repr(asked)))
        answers: list[dict[str, Any]] = json.loads(told.splitlines()[-1])
        return answers

    def run(self, *words: str, expect: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        self.errors = done.stderr
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout


CLIENT = """
import json, warnings
warnings.simplefilter("ignore")
from fastapi.testclient import TestClient
with TestClient(app) as client:
    told = []
    for path, headers in REQUESTS:
        answer = client.get(path, headers=headers)
        told.append({"status": answer.status_code, "text": answer.text, **answer.headers})
print(json.dumps(told))
"""


def example(check: Callable[[Example], None]) -> Callable[[Example], None]:
    CHECKS[check.__name__.replace("_", "-")] = check
    return check


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_does_what_is_said(name: str, tmp_path: Path) -> None:
    CHECKS[name](Example(name, tmp_path))


def test_every_example_is_checked_and_every_check_has_one() -> None:
    assert set(CHECKS) == set(EXAMPLES)


# ---- migrating.md: fastapi-loopguard


@example
def loopguard_warn(it: Example) -> None:
    slow, quick = it.answers("/reports/7", "/quick")
    assert (slow["status"], slow["text"]) == (200, '{"report":7}')
    assert (slow["x-blocking-count"], slow["x-blocking-detected"]) == ("1", "true")
    assert float(slow["x-blocking-total-ms"]) >= 200.0
    assert slow["x-loopguard-warning"] == "blocking-detected"
    assert (quick["x-blocking-count"], quick["x-blocking-total-ms"]) == ("0", "0.00")
    assert quick["x-blocking-detected"] == "false"
    assert "x-loopguard-warning" not in quick
    assert re.fullmatch("[0-9a-f]{8}", quick["x-request-id"])


@example
def loopguard_strict(it: Example) -> None:
    machine, person = it.answers("/slow", "/slow accept=text/html")
    assert (machine["status"], person["status"]) == (503, 503)
    assert machine["x-loopguard-enforcement"] == "strict"
    assert json.loads(machine["text"])["blocking"]["count"] == 1
    assert person["content-type"].startswith("text/html")


@example
def loopguard_log(it: Example) -> None:
    (slow,) = it.answers("/slow")
    assert (slow["status"], slow["x-blocking-detected"]) == (200, "true")
    assert "x-loopguard-warning" not in slow
    lines = [json.loads(line) for line in it.errors.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("path") == "/slow"]
    assert len(told) == 1
    assert told[0]["logger"] == "loopguard"
    assert {"timestamp", "level", "message", "method", "lag_ms", "request_id"} <= set(told[0])


@example
def loopguard_pytest(it: Example) -> None:
    (it.folder / "test_it.py").write_text(it.text)
    (it.folder / "pytest.ini").write_text("[pytest]\nloopguard_report = loopguard.json\n")
    plain = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "asyncio", "test_it.py"]
    out = it.run(*plain, expect=1)
    assert re.search(r"test_that_blocks.*test_it.py:\d+", out, re.DOTALL)
    report = json.loads((it.folder / "loopguard.json").read_text())
    verdicts = {t["nodeid"].split("::")[1].split("[")[0]: t["verdict"] for t in report["tests"]}
    assert verdicts == {"test_that_is_clean": "clean", "test_that_blocks": "blocked"}
    it.run("-m", "loopguard", "report", "-q", "loopguard.json", expect=1)


# ---- loopmon


@example
def lag_quick(it: Example) -> None:
    told = it.output().splitlines()
    lags = [float(line.split()[0]) for line in told]
    assert len(lags) >= 3
    assert 0.295 <= max(lags) < 1.0
    assert min(lags) < 0.1
    assert all(line.split()[3] == "1" for line in told)


@example
def lag_thread(it: Example) -> None:
    assert it.output() == "told other True\nFalse\n"


@example
def lag_prometheus(it: Example) -> None:
    assert re.search(r"^my_loop_lag_seconds \d", it.output(), re.MULTILINE)


# ---- asyncio-event-loop-monitor


@example
def calls_context(it: Example) -> None:
    (line,) = it.output().splitlines()
    assert re.fullmatch(r"time\.sleep took 1\d\d ms, C: True", line)


@example
def calls_monitor(it: Example) -> None:
    assert it.output() == "1 False\n"


@example
def calls_sampled(it: Example) -> None:
    without, sampled = it.answers("/", "/ x-enable-profiling=true")
    assert (without["text"], sampled["text"]) == ("0", "1")


# ---- fastapi-overflow


@example
def threadpool_patch(it: Example) -> None:
    (answer,) = it.answers("/")
    assert (answer["status"], answer["text"]) == (200, '"ok"')


@example
def threadpool_older(it: Example) -> None:
    assert it.output() == "42\n['a', 'b', 'c']\n"


# ---- aiocop


@example
def blocking_quick(it: Example) -> None:
    lines = it.output().splitlines()
    assert lines[0] == "io_blocking medium"
    assert re.fullmatch(r"  open\(/dev/null, w.*\) at .*example\.py:\d+:write", lines[1])
    assert len([line for line in lines if line.startswith("  open")]) == 2


@example
def blocking_app(it: Example) -> None:
    it.text += "\n@app.get('/slow')\nasync def told():\n    return slow\n"
    _, told = it.answers("/", "/slow")
    ((reason, level, elapsed_ms),) = json.loads(told["text"])
    assert (reason, level) == ("io_blocking", "high")
    assert 100 <= elapsed_ms < 1000


@example
def blocking_context(it: Example) -> None:
    assert it.output() == "7 True True\n"


@example
def blocking_raise(it: Example) -> None:
    assert it.output() == "high 50\n"


# ---- python-api.md


@example
def api_install(it: Example) -> None:
    (answer,) = it.answers("/status")
    told = json.loads(answer["text"])
    assert told["state"] == "running"
    assert told["segment"].startswith("/dev/shm/loopguard.")


@example
def api_watch(it: Example) -> None:
    assert it.output() == "running\nstopped\n"


@example
def api_config(it: Example) -> None:
    first, second = it.output().splitlines()
    assert first == "20.0 warn"
    assert re.search("stack_depth.*1 .*64.*1000", second)


@example
def api_answers(it: Example) -> None:
    slow, static, unmeasured = it.answers("/slow", "/static/x", "/slow x-unmeasured=off")
    assert re.fullmatch(r"loop;dur=1\d\d\.\d+, total;dur=\d+\.\d+", slow["server-timing"])
    assert slow["x-blocking-detected"] == "true"
    assert "x-request-id" not in static
    assert "x-request-id" not in unmeasured


@example
def api_requests(it: Example) -> None:
    (answer,) = it.answers("/users/ada")
    told = json.loads(answer["text"])
    assert re.fullmatch("[0-9a-f]{8}", told["id"])
    assert (told["route"], told["open"]) == ("/users/{user}", ["/users/ada"])


@example
def api_events(it: Example) -> None:
    who, where = it.output().splitlines()
    assert re.fullmatch(r"step load \(task\) io 1\d\d of 50", who)
    assert re.fullmatch(r"\S*sleep load \d+ {'tenant': 't1'}", where)


@example
def api_lag(it: Example) -> None:
    assert it.output() == "True False\n"


@example
def api_calls(it: Example) -> None:
    assert it.output() == "{('__main__.fibonacci', False)}\n"


@example
def api_threadpool(it: Example) -> None:
    thread, stats = it.answers("/thread", "/stats")
    assert thread["text"] == "false"
    assert json.loads(stats["text"]) == {"limit": 40, "busy": 0, "waiting": 0, "patched": True}


@example
def api_blocking(it: Example) -> None:
    assert it.output() == "io_blocking medium ['open']\nTrue\n"


@example
def api_prometheus(it: Example) -> None:
    _, metrics = it.answers("/orders/7", "/metrics")
    assert re.search(
        r'^loopguard_requests_total{.*route="/orders/{number}".*} 1', metrics["text"], re.MULTILINE
    )
    assert metrics["content-type"].startswith("text/plain; version=0.0.4")


@example
def api_logging(it: Example) -> None:
    assert it.output() == "WARNING GET /orders 120.5\n"


@example
def api_pytest(it: Example) -> None:
    (it.folder / "test_it.py").write_text(it.text)
    assert "2 passed" in it.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")


@example
def api_post_mortem(it: Example) -> None:
    assert it.output() == "True 1 task True\n"


def test_table_of_the_configuration_has_every_field_with_its_default() -> None:
    page = (DOCS / "python-api.md").read_text()
    table = page.split("## Configuration")[1].split("```")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", table, re.MULTILINE))
    config = loopguard.LoopGuardConfig()
    fields = [n for n in config.__dataclass_fields__ if not n.startswith("_")]
    assert sorted(told) == sorted(fields)
    assert set(told.pop("exclude_paths").split()) == set(config.exclude_paths)
    for name, text in told.items():
        assert eval(text) == getattr(config, name), name


# ---- every public name of the originals is here, or said not to be

# fastapi-loopguard 0.9.0, loopmon 1.0.1, asyncio-event-loop-monitor 0.1.0,
# fastapi-overflow 0.1.7 and 0.1.0, aiocop 1.2.1: theirs -> our module
ORIGINALS = """
fastapi_loopguard -> loopguard
    LoopGuardConfig LoopGuardMiddleware SentinelMonitor EnforcementMode RequestContext
    RequestRegistry get_registry register_request unregister_request get_active_requests
    get_current_request __version__
fastapi_loopguard.config -> loopguard.config
    LoopGuardConfig EnforcementMode
fastapi_loopguard.context -> loopguard
    RequestContext RequestRegistry get_registry register_request unregister_request
    get_active_requests get_current_request set_current_request reset_current_request
fastapi_loopguard.hints -> loopguard.hints
    FIX_HINTS hint_lines
fastapi_loopguard.logging -> loopguard.logging
    StructuredFormatter configure_logging log_blocking_event
fastapi_loopguard.metrics -> loopguard.prometheus
    LoopGuardMetrics get_metrics create_metrics reset_metrics init_metrics MAX_LABEL_PAIRS
    OVERFLOW_LABEL
fastapi_loopguard.middleware -> loopguard.middleware
    LoopGuardMiddleware
fastapi_loopguard.monitor -> loopguard
    AdaptiveThreshold SentinelMonitor
fastapi_loopguard.pytest_plugin -> loopguard.pytest_plugin
    loopguard_pause loopguard_only MARKER_NAME ALLOW_MARKER_NAME REPORT_SCHEMA_VERSION
    BlockingDetector
fastapi_loopguard.cli -> loopguard.report
    main EXIT_CLEAN EXIT_BLOCKED EXIT_ERROR ReportError
loopmon -> loopguard.lag
    Callback EventLoopMonitor SleepEventLoopMonitor create
asyncio_event_loop_monitor -> loopguard.calls
    EventLoopMonitor BlockingCallInfo event_loop_monitor_ctx
fastapi_overflow -> loopguard.threadpool
    patch set_thread_limit run_in_release_threadpool run_in_threadpool
    iterate_in_threadpool
aiocop -> loopguard.blocking
    patch_audit_functions start_blocking_io_detection detect_slow_tasks start_cpu_sampling
    is_cpu_sampling_started activate deactivate is_monitoring_active
    enable_raise_on_violations disable_raise_on_violations is_raise_on_violations_enabled
    raise_on_violations register_slow_task_callback unregister_slow_task_callback
    clear_slow_task_callbacks register_context_provider unregister_context_provider
    clear_context_providers ContextProvider reset_blocking_events format_blocking_event
    get_patched_functions get_blocking_events_dict get_slow_task_threshold_ms
    calculate_io_severity_score get_severity_level_from_score BlockingEventInfo
    CpuStackSample RawBlockingEvent SlowTaskEvent SlowTaskCallback IoSeverityLevel
    HighSeverityBlockingIoException WEIGHT_HEAVY WEIGHT_MODERATE WEIGHT_LIGHT
    WEIGHT_TRIVIAL THRESHOLD_HIGH THRESHOLD_MEDIUM THRESHOLD_LOW
aiocop.core.cpu_sampler -> loopguard.blocking
    format_cpu_samples
"""
CONFIG_FIELDS = """
    enabled monitor_interval_ms threshold_multiplier calibration_iterations
    fallback_threshold_ms dev_mode log_blocking_events prometheus_enabled enforcement_mode
    adaptive_threshold adaptive_window_size adaptive_percentile adaptive_min_samples
    adaptive_update_interval_ms cumulative_blocking_enabled cumulative_blocking_threshold_ms
    cumulative_window_ms exclude_paths
"""


NAMES = [
    (theirs, ours, set(names.split()))
    for theirs, ours, names in re.findall(r"^(\S+) -> (\S+)\n((?: .*\n)+)", ORIGINALS, re.MULTILINE)
]


@pytest.mark.parametrize(("theirs", "ours", "names"), NAMES, ids=lambda value: str(value)[:40])
def test_every_name_of_the_original_is_here_or_said_not_to_be(
    theirs: str, ours: str, names: set[str]
) -> None:
    module = importlib.import_module(ours)
    page = (DOCS / "migrating.md").read_text()
    section = page.split("\n## 1. ")[1].split("\n## 2. ")[0]
    refused = set(re.findall(r"`(\w+)`", section.split("Not offered")[1]))
    here = {name for name in names if hasattr(module, name)}
    assert names - here <= (refused if theirs.startswith("fastapi_loopguard") else set())
    assert here & refused == set()


def test_every_field_of_the_original_is_one_here() -> None:
    assert set(CONFIG_FIELDS.split()) <= set(loopguard.LoopGuardConfig.__dataclass_fields__)
