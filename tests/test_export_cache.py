"""``--backend onnx``: weights are exported once to the user's cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from networks import tiny_net

from dct_seg.cli import main
from dct_seg.export import cache
from dct_seg.methods.exported import CARD, ExportedNetwork


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Folders of the exports; each export is only a card."""
    folders: list[Path] = []

    def export(net: Any, folder: Path, *, source: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).write_text("{}")
        folders.append(folder)

    monkeypatch.setattr(cache, "export", export)
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    return folders


def test_weights_are_exported_once_and_other_weights_separately(
    tmp_path: Path, made: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        tiny_net(seed=seed).save_pretrained(tmp_path / f"{seed}" / "net.safetensors") for seed in (0, 1)
    )
    folder = cache.cached_export(first)
    assert folder.parent == tmp_path / "cache"
    assert "this happens once" in capsys.readouterr().err
    assert cache.cached_export(first) == folder
    assert capsys.readouterr().err == ""
    assert cache.cached_export(second) != folder
    assert len(made) == 2


def test_incomplete_export_is_repeated(tmp_path: Path, made: list[Path]) -> None:
    file = tiny_net().save_pretrained(tmp_path / "net.safetensors")
    (cache.cached_export(file) / CARD).unlink()
    cache.cached_export(file)
    assert len(made) == 2


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_cache_is_in_the_user_s_cache_folder(
    tmp_path: Path, made: list[Path], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (cache.CACHE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    file = tiny_net().save_pretrained(tmp_path / "net.safetensors")
    parent = tmp_path if variable == "XDG_CACHE_HOME" else tmp_path / ".cache"
    assert cache.cached_export(file).parent == parent / "dct-seg"


def test_backend_torch_refuses_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / CARD).write_text("{}")
    assert main(["serve", "--weights", str(tmp_path), "--backend", "torch", "--port", "0"]) == 2
    assert "contains no model.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_command_runs_weights_in_onnxruntime(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    from exports import Exported

    from dct_seg.app.command import _method

    exported = Exported("early", tmp_path_factory)
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "export", lambda net, folder, source: shutil.copytree(exported.folder, folder))
    make_method, card = _method(str(exported.net.save_pretrained(tmp_path / "net.safetensors")), "onnx")
    assert isinstance(make_method().net, ExportedNetwork)  # type: ignore[attr-defined]
    assert card.name == "net"
