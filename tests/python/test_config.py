"""LoopGuardConfig: defaults, limits, environment, and what the agent gets."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import sys
from typing import Any

import pytest

from loopguard import LoopGuardConfig, appname, config

ORIGINAL_DEFAULTS: dict[str, Any] = {
    "enabled": True,
    "monitor_interval_ms": 10.0,
    "threshold_multiplier": 5.0,
    "calibration_iterations": 100,
    "fallback_threshold_ms": 50.0,
    "dev_mode": False,
    "log_blocking_events": True,
    "prometheus_enabled": False,
    "enforcement_mode": "warn",
    "adaptive_threshold": False,
    "adaptive_window_size": 1000,
    "adaptive_percentile": 0.95,
    "adaptive_min_samples": 100,
    "adaptive_update_interval_ms": 1000.0,
    "cumulative_blocking_enabled": True,
    "cumulative_blocking_threshold_ms": 200.0,
    "cumulative_window_ms": 1000.0,
    "exclude_paths": frozenset({"/health", "/healthz", "/ready", "/metrics"}),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LoopGuardConfig.fields_from_text():
        monkeypatch.delenv(f"LOOPGUARD_{name.upper()}", raising=False)
    monkeypatch.setattr(config, "_warned", set())


@pytest.mark.parametrize(("name", "value"), ORIGINAL_DEFAULTS.items())
def test_default_is_that_of_the_original(name: str, value: object) -> None:
    assert getattr(LoopGuardConfig(), name) == value


def test_fields_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoopGuardConfig().enabled = False  # type: ignore[misc]


def test_fields_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        LoopGuardConfig(True)  # type: ignore[misc]


def test_equal_values_are_equal_and_hash_alike() -> None:
    one, other = LoopGuardConfig(stack_depth=8), LoopGuardConfig(stack_depth=8)
    assert one == other
    assert hash(one) == hash(other)
    assert one != LoopGuardConfig()


def test_config_survives_pickling_to_a_spawned_worker() -> None:
    given = LoopGuardConfig(endpoint_thresholds={"GET /x": 5.0})
    assert pickle.loads(pickle.dumps(given)) == given


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"monitor_interval_ms": 0}, ["monitor_interval_ms", "greater than 0", "0"]),
        ({"threshold_multiplier": 1}, ["threshold_multiplier", "greater than 1"]),
        ({"calibration_iterations": 9}, ["calibration_iterations", "at least 10", "9"]),
        ({"fallback_threshold_ms": -1}, ["fallback_threshold_ms", "-1"]),
        ({"fallback_threshold_ms": 9.0}, ["fallback_threshold_ms", "monitor_interval_ms", "10.0"]),
        ({"fallback_threshold_ms": float("nan")}, ["fallback_threshold_ms", "nan"]),
        ({"adaptive_window_size": 99}, ["adaptive_window_size", "at least 100"]),
        ({"adaptive_percentile": 0.4}, ["adaptive_percentile", "0.5", "0.99", "0.4"]),
        ({"adaptive_percentile": 1.0}, ["adaptive_percentile", "0.99"]),
        ({"adaptive_min_samples": 2000}, ["adaptive_window_size", "adaptive_min_samples"]),
        ({"adaptive_update_interval_ms": 5.0}, ["adaptive_update_interval_ms"]),
        ({"cumulative_blocking_threshold_ms": 0}, ["cumulative_blocking_threshold_ms"]),
        ({"cumulative_window_ms": 5.0}, ["cumulative_window_ms", "monitor_interval_ms"]),
        ({"exclude_paths": "/health"}, ["exclude_paths", "collection"]),
        ({"enforcement_mode": "loud"}, ["enforcement_mode", "'strict'", "'loud'"]),
        ({"stack_depth": 65}, ["stack_depth", "64", "65"]),
        ({"max_endpoints": 2}, ["max_endpoints", "at least 16"]),
        ({"segment_dir": "tmp"}, ["segment_dir", "absolute"]),
        ({"segment_mode": 0o7777}, ["segment_mode", "511"]),
        ({"keep_segment": "maybe"}, ["keep_segment", "'crash'"]),
        ({"hooks": "on"}, ["hooks", "'off'"]),
        ({"endpoint_thresholds": {"/x": 5}}, ["endpoint_thresholds", "POST /reports/{id}", "/x"]),
        ({"endpoint_thresholds": {"GET /x": 0}}, ["endpoint_thresholds", "GET /x"]),
        ({"app_name": ""}, ["app_name"]),
        ({"watchdog_interval_ms": 0.5}, ["watchdog_interval_ms", "at least 1"]),
    ],
)
def test_bad_value_is_named_with_field_value_and_range(
    options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        LoopGuardConfig(**options)
    assert [word for word in words[1:] if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "options",
    [
        {"enabled": 1},
        {"monitor_interval_ms": "10"},
        {"calibration_iterations": 10.0},
        {"stack_depth": True},
        {"endpoint_thresholds": [("GET /x", 5)]},
        {"exclude_paths": [1]},
        {"on_blocking": "print"},
        {"app_name": 5},
        {"segment_dir": 5},
        {"no_such_field": 1},
    ],
)
def test_wrong_type_is_a_type_error(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        LoopGuardConfig(**options)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("enabled", "off", False),
        ("dev_mode", "1", True),
        ("fallback_threshold_ms", "20.5", 20.5),
        ("stack_depth", "16", 16),
        ("segment_mode", "640", 0o640),
        ("enforcement_mode", "strict", "strict"),
        ("exclude_paths", "/a, /b", frozenset({"/a", "/b"})),
        ("endpoint_thresholds", "POST /r/{id}=250, GET /s=20", {"POST /r/{id}": 250, "GET /s": 20}),
        ("segment_dir", "/dev/shm/own", "/dev/shm/own"),
        ("app_name", "shop", "shop"),
    ],
)
def test_environment_sets_the_field(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"LOOPGUARD_{name.upper()}", text)
    assert getattr(LoopGuardConfig(), name) == value


def test_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPGUARD_STACK_DEPTH", "16")
    assert LoopGuardConfig(stack_depth=8).stack_depth == 8


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stack_depth", "many"),
        ("stack_depth", "1000"),
        ("enabled", "perhaps"),
        ("fallback_threshold_ms", "nan"),
        ("fallback_threshold_ms", "5"),
        ("endpoint_thresholds", "GET /x"),
    ],
)
def test_environment_that_does_not_parse_warns_once_and_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, text: str
) -> None:
    variable = f"LOOPGUARD_{name.upper()}"
    monkeypatch.setenv(variable, text)
    with caplog.at_level(logging.WARNING, logger="loopguard"):
        first, second = LoopGuardConfig(), LoopGuardConfig()
    assert first == second
    monkeypatch.delenv(variable)
    assert first == LoopGuardConfig()
    (message,) = caplog.messages
    assert variable in message
    assert name in message


def test_settings_are_nanoseconds_and_numbers() -> None:
    settings = LoopGuardConfig(
        fallback_threshold_ms=20.5, keep_segment="always", endpoint_thresholds={"GET /x": 0.25}
    ).to_settings()
    assert settings["threshold_ns"] == 20_500_000
    assert settings["iteration_threshold_ns"] == 20_500_000
    assert settings["keep_segment"] == 2
    assert settings["hooks"] is True
    assert settings["endpoint_thresholds"] == {"GET /x": 250_000}


def test_cumulative_events_switched_off_have_no_threshold() -> None:
    settings = LoopGuardConfig(cumulative_blocking_enabled=False).to_settings()
    assert settings["cumulative_threshold_ns"] == 0


@pytest.mark.parametrize(
    ("options", "adaptive"),
    [
        ({}, 0),
        ({"fallback_threshold_ms": 30.0}, 0),
        ({"threshold_multiplier": 5.0}, 1),
        ({"calibration_iterations": 100}, 1),
        ({"adaptive_threshold": True}, 2),
    ],
)
def test_threshold_is_fixed_unless_calibration_is_asked_for(
    options: dict[str, Any], adaptive: int
) -> None:
    assert LoopGuardConfig(**options).to_settings()["adaptive"] == adaptive


def test_replacing_a_field_does_not_ask_for_calibration() -> None:
    replaced = dataclasses.replace(LoopGuardConfig(), stack_depth=8)
    assert replaced.stack_depth == 8
    assert replaced.to_settings()["adaptive"] == 0


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ("/venv/bin/uvicorn app.main:app --workers 2", "uvicorn app.main:app"),
        ("/lib/uvicorn/__main__.py --port 8000 app.main:app", "uvicorn app.main:app"),
        ("uvicorn --factory shop:make_app --header X-Server:demo", "uvicorn shop:make_app"),
        ("uvicorn --header X-Server:demo shop:app", "uvicorn shop:app"),
        ("gunicorn -b 0.0.0.0:8000 -k uvicorn_worker.UvicornWorker shop:app", "gunicorn shop:app"),
        ("gunicorn -b unix:/run/x.sock -w 4 shop", "gunicorn shop"),
        ("gunicorn --reload shop", "gunicorn shop"),
        ("gunicorn shop:make_app('production')", "gunicorn shop:make_app('production')"),
        ("hypercorn -b 127.0.0.1:80 src/shop:app", "hypercorn src/shop:app"),
        ("granian --interface asgi shop:app", "granian shop:app"),
        ("fastapi run app/main.py --port 80", "fastapi app/main.py"),
        ("/srv/shop/server.py --debug", "server.py"),
        ("-c", "python"),
    ],
)
def test_application_is_named_by_server_and_argument(argv: str, name: str) -> None:
    assert appname.find_app(None, argv.split())[1] == name


def test_own_name_wins_and_the_server_is_still_known() -> None:
    assert appname.find_app("shop", ["uvicorn", "app:app"]) == ("uvicorn", "shop")


def test_process_without_argv_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "argv")
    assert appname.find_app()[1] == "python"
