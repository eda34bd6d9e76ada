"""The step of the documentation build that builds the page without a server; npm is not needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "browser"))
from static_site import load_hook


@pytest.fixture
def hook() -> ModuleType:
    return load_hook()


def shown(hook: ModuleType, site: Path) -> str:
    hook.on_post_build({"site_dir": str(site)})
    return (site / hook.PLACE / "index.html").read_text()


def test_missing_npm_is_reported_in_one_line_and_on_the_page(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook.shutil, "which", lambda name: None)
    assert "was not built: npm is missing; install Node.js" in shown(hook, tmp_path)
    printed = capsys.readouterr().err
    assert printed == "The page without a server was not built: npm is missing; install Node.js 20 or newer\n"


def answering(returncode: int, stderr: str) -> Any:
    return lambda *command: subprocess.CompletedProcess(command, returncode, "", stderr)


def test_packages_that_cannot_be_fetched_are_reported(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook.shutil, "which", lambda name: name)
    monkeypatch.setattr(hook, "SOURCE", tmp_path / "static")
    monkeypatch.setattr(hook, "_run", answering(1, "npm error offline\n\n"))
    assert "`npm ci` in page/static failed: npm error offline" in shown(hook, tmp_path / "site")


def test_sources_that_cannot_be_built_stop_the_build(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook.shutil, "which", lambda name: name)
    monkeypatch.setattr(hook, "SOURCE", tmp_path)
    (tmp_path / "node_modules").mkdir()
    monkeypatch.setattr(hook, "_run", answering(2, "main.ts(1,1): error TS1005"))
    with pytest.raises(RuntimeError, match="error TS1005"):
        hook.on_post_build({"site_dir": str(tmp_path / "site")})


def test_missing_exporter_is_reported(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(weights: str) -> Path:
        raise ImportError("export to ONNX needs onnx; pip install 'dct-seg[export]'")

    monkeypatch.setattr(hook, "build", lambda folder: None)
    monkeypatch.setattr("dct_seg.export.cache.cached_export", missing)
    assert "export to ONNX needs onnx" in shown(hook, tmp_path)


def test_page_holds_the_export_of_the_shipped_weights(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "network.onnx").write_bytes(b"graph")
    monkeypatch.setattr(hook, "build", lambda folder: folder.mkdir(parents=True))
    monkeypatch.setattr("dct_seg.export.cache.cached_export", lambda weights: tmp_path / "made")
    hook.on_post_build({"site_dir": str(tmp_path / "site")})
    assert (tmp_path / "site" / "browser" / "page" / "model" / "network.onnx").read_bytes() == b"graph"


def test_preview_of_the_documentation_skips_the_page(hook: ModuleType, tmp_path: Path) -> None:
    hook.on_startup(command="serve", dirty=False)
    assert "run `mkdocs build`" in shown(hook, tmp_path)


def test_page_can_be_omitted(hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hook.SWITCH, "0")
    assert "was not built: DCT_SEG_PAGE=0 skips it" in shown(hook, tmp_path)
