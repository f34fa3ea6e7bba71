"""ImportHooks: a function after an import, and nothing else changed."""

from __future__ import annotations

import importlib
import importlib.machinery
import logging
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopguard.imports import ImportHooks


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportHooks]:
    """Fresh hooks, and a folder of modules named lgt_* on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lgt_plain.py").write_text("value = 1\n")
    (tmp_path / "lgt_broken.py").write_text("import lgt_missing\n")
    (tmp_path / "lgt_package").mkdir()
    (tmp_path / "lgt_package" / "__init__.py").write_text("from lgt_package import inner\n")
    (tmp_path / "lgt_package" / "inner.py").write_text("value = 2\n")
    fresh = ImportHooks()
    yield fresh
    fresh.clear()
    for name in [name for name in sys.modules if name.startswith("lgt_")]:
        del sys.modules[name]


def test_hook_runs_once_after_the_code_of_the_module(hooks: ImportHooks) -> None:
    seen = []
    hooks.when_imported("lgt_plain", lambda module: seen.append(module.value))
    importlib.import_module("lgt_plain")
    importlib.import_module("lgt_plain")
    assert seen == [1]


def test_hook_runs_at_once_for_a_module_that_is_there(hooks: ImportHooks) -> None:
    seen = []
    importlib.import_module("lgt_plain")
    hooks.when_imported("lgt_plain", lambda module: seen.append(module.value))
    assert seen == [1]


def test_module_in_a_package_is_seen_before_its_package_is_ready(hooks: ImportHooks) -> None:
    seen = []
    for name in ("lgt_package", "lgt_package.inner"):
        hooks.when_imported(name, lambda module: seen.append(module.__name__))
    importlib.import_module("lgt_package")
    assert seen == ["lgt_package.inner", "lgt_package"]


def test_loader_and_finders_are_as_before(hooks: ImportHooks) -> None:
    finders = list(sys.meta_path)
    hooks.when_imported("lgt_plain", lambda module: None)
    assert sys.meta_path[0] is hooks
    module = importlib.import_module("lgt_plain")
    assert type(module.__loader__) is importlib.machinery.SourceFileLoader
    assert "exec_module" not in vars(module.__loader__)
    assert sys.meta_path == finders


def test_failing_hook_is_logged_and_the_import_succeeds(
    hooks: ImportHooks, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise KeyError("inside the hook")

    hooks.when_imported("lgt_plain", fail)
    with caplog.at_level(logging.WARNING, logger="loopguard"):
        assert importlib.import_module("lgt_plain").value == 1
    assert "lgt_plain" in caplog.text
    assert "inside the hook" in caplog.text


def test_failing_import_fails_as_without_us_and_is_waited_for_again(hooks: ImportHooks) -> None:
    seen = []
    hooks.when_imported("lgt_broken", lambda module: seen.append(module.__name__))
    with pytest.raises(ModuleNotFoundError, match="lgt_missing"):
        importlib.import_module("lgt_broken")
    assert seen == []
    sys.modules["lgt_missing"] = importlib.import_module("lgt_plain")
    importlib.import_module("lgt_broken")
    assert seen == ["lgt_broken"]


def test_modules_that_do_not_exist_stay_missing(hooks: ImportHooks) -> None:
    hooks.when_imported("lgt_nowhere", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="lgt_nowhere"):
        importlib.import_module("lgt_nowhere")


@pytest.mark.skipif(sys.version_info < (3, 10), reason="zipimport has no exec_module yet")
def test_module_from_a_zip_file_is_seen_and_its_neighbour_is_not_touched(
    hooks: ImportHooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "modules.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("lgt_zipped.py", "import lgt_zipped_too\nvalue = 3\n")
        file.writestr("lgt_zipped_too.py", "value = 4\n")
    monkeypatch.syspath_prepend(str(archive))
    seen = []
    hooks.when_imported("lgt_zipped", lambda module: seen.append(module.value))
    importlib.import_module("lgt_zipped")
    assert seen == [3]
