"""The door of loopguard's pytest plugin: options, markers, one fixture.

pytest imports it in every run of every project that has loopguard installed,
so it is all that such a run pays. It stands beside the package and not in it,
because importing the package costs more than the whole of this file. When a
test asks to be checked, ``loopguard.pytest_plugin`` is imported and does it.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loopguard.pytest_plugin import LoopGuard, Run

MARKER_NAME = "no_blocking"
ALLOW_MARKER_NAME = "allow_blocking"

_DOOR = "loopguard_top_door"
_RUN = "loopguard_top_run"
_OTHER = ("loopguard", "fastapi_loopguard.pytest_plugin")  # names of the other plugin


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The options, once, and unless the other plugin has them."""
    if pluginmanager.has_plugin(_DOOR):
        return  # loaded by its name and by its entry point
    aside = _is_other_loaded(pluginmanager)
    pluginmanager.register(_Aside() if aside else _Door(), _DOOR)
    if aside:
        return
    parser.addini(
        "loopguard_threshold_ms",
        "milliseconds; a test with a longer stretch on its event loop fails",
        default="50",
    )
    parser.addini("loopguard_all_async", "check every async test", type="bool", default=False)
    parser.addini("loopguard_report", "write a JSON report of the verdicts here", default="")
    group = parser.getgroup("loopguard", "event loops that are blocked")
    group.addoption(
        "--loopguard-all-async",
        action="store_true",
        default=False,
        help="check every async test as if it were marked no_blocking",
    )
    group.addoption(
        "--loopguard-report",
        metavar="PATH",
        default="",
        help="write a JSON report of the verdicts to PATH",
    )


@pytest.fixture
def loopguard(request: pytest.FixtureRequest) -> LoopGuard:
    """Measures this test; ``events`` are the blocks of its event loops so far."""
    if not isinstance(request.config.pluginmanager.get_plugin(_DOOR), _Door):
        pytest.fail("loopguard-top stands aside for fastapi-loopguard's plugin", pytrace=False)
    return run_of(request.config).fixture(request.node)


class _Door:
    """Opens when somebody comes."""

    def __init__(self) -> None:
        self._config: pytest.Config | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config
        config.addinivalue_line(
            "markers",
            f"{MARKER_NAME}(threshold_ms=None): fail the test if it blocks its event loop for longer",
        )
        config.addinivalue_line(
            "markers",
            f"{ALLOW_MARKER_NAME}: let this test block when all async tests are checked",
        )
        if is_all_async(config) or report_path(config):
            run_of(config)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if any(_asks(item) for item in session.items):
            run_of(session.config)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A worker of pytest-xdist has checked a test; this process did not.
        if hasattr(report, "loopguard") and self._config is not None:
            run_of(self._config).keep(report)


class _Aside:
    """Does nothing, and says so."""

    def pytest_report_header(self) -> str:
        return "loopguard-top: stands aside, fastapi-loopguard's plugin is loaded"


def run_of(config: pytest.Config) -> Run:
    """What checks the tests of this run; the first call brings it in."""
    run: Run | None = config.pluginmanager.get_plugin(_RUN)
    if run is None:
        from loopguard.pytest_plugin import Run  # noqa: PLC0415 - see above

        run = Run(config)
        config.pluginmanager.register(run, _RUN)
    return run


def is_all_async(config: pytest.Config) -> bool:
    """Whether every async test is to be checked."""
    return bool(config.getoption("loopguard_all_async") or config.getini("loopguard_all_async"))


def report_path(config: pytest.Config) -> str:
    """Where the report is to be written, or ""."""
    return str(config.getoption("loopguard_report") or config.getini("loopguard_report"))


def _asks(item: pytest.Item) -> bool:
    has_fixture = "loopguard" in getattr(item, "fixturenames", ())
    return has_fixture or item.get_closest_marker(MARKER_NAME) is not None


def _is_other_loaded(pluginmanager: pytest.PytestPluginManager) -> bool:
    """Whether fastapi-loopguard's plugin is there, or will be in a moment."""
    if any(pluginmanager.has_plugin(name) for name in _OTHER):
        return True
    if pluginmanager.is_blocked(_OTHER[0]) or os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        return False
    return importlib.util.find_spec("fastapi_loopguard") is not None
