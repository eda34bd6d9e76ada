"""Trained weights: saving, loading, and every way in which a file can be wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tiny_net
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dct_seg import Click, ClickBatch, DCTNet
from dct_seg.models import pretrained

CLICKS = ClickBatch.from_clicks([[Click(9, 9), Click(20, 4, positive=False, radius=3.0)]])


def logits(net: DCTNet) -> Tensor:
    with torch.inference_mode():
        return net(torch.rand(1, 3, 40, 32, generator=torch.Generator().manual_seed(0)), CLICKS)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tiny_net(normalize_features=True).save_pretrained(
        tmp_path / "net.safetensors", training_data="drawn shapes"
    )


def rewritten(
    file: Path, *, drop: str = "", change: dict[str, Tensor] | None = None, **metadata: str
) -> Path:
    """Copy of the file with a tensor removed, others added, or other metadata (empty: omitted)."""
    with safe_open(file, framework="pt") as handle:
        lines = {k: v for k, v in {**handle.metadata(), **metadata}.items() if v}
    state = {key: value for key, value in load_file(file).items() if key != drop}
    target = file.with_name("rewritten.safetensors")
    save_file({**state, **(change or {})}, target, metadata=lines)
    return target


def test_network_is_restored_with_weights_and_configuration_in_evaluation_mode(saved: Path) -> None:
    net = DCTNet.from_pretrained(saved)
    assert not any(m.training for m in net.modules())
    assert net.config.normalize_features
    assert torch.equal(logits(net), logits(tiny_net(normalize_features=True)))


def test_loading_downloads_no_pretrained_backbone(tmp_path: Path) -> None:
    net = tiny_net()
    object.__setattr__(
        net.config, "backbone_weights", "imagenet"
    )  # like a network that was trained from them
    file = net.save_pretrained(tmp_path)
    assert torch.equal(logits(DCTNet.from_pretrained(file)), logits(net))


def test_half_precision_is_half_the_size_and_close(saved: Path) -> None:
    half = tiny_net(normalize_features=True).save_pretrained(saved.with_name("half.safetensors"), half=True)
    assert half.stat().st_size < 0.55 * saved.stat().st_size
    net = DCTNet.from_pretrained(half)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    torch.testing.assert_close(logits(net), logits(DCTNet.from_pretrained(saved)), atol=0.05, rtol=0.05)


def test_weight_that_float16_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    net = tiny_net()
    torch.nn.init.constant_(net.decoder.predict.bias, 1e5)
    with pytest.raises(
        ValueError,
        match=r"'decoder\.predict\.bias' has values up to 1e\+05, more than float16 can; save without half",
    ):
        net.save_pretrained(tmp_path / "new" / "net.safetensors", half=True)
    assert list(tmp_path.iterdir()) == []


def test_folder_gets_one_weights_file_and_can_be_loaded(tmp_path: Path) -> None:
    file = tiny_net().save_pretrained(tmp_path / "deep" / "folder")
    assert file == tmp_path / "deep" / "folder" / "model.safetensors"
    assert [f.name for f in file.parent.iterdir()] == ["model.safetensors"]
    assert torch.equal(logits(DCTNet.from_pretrained(file.parent)), logits(tiny_net()))
    assert torch.equal(logits(DCTNet.from_pretrained(str(file))), logits(tiny_net()))


def test_card_is_stored_with_the_weights_and_cannot_replace_the_configuration(tmp_path: Path) -> None:
    file = tiny_net().save_pretrained(tmp_path, license="Apache-2.0", config="none")
    stored = pretrained.load(file)
    assert stored.card == {"license": "Apache-2.0"}
    assert stored.config["backbone"] == "test_resnet"


def test_card_of_loaded_weights_is_saved_again(tmp_path: Path) -> None:
    file = tiny_net().save_pretrained(tmp_path, license="mit", training_data="drawn")
    again = DCTNet.from_pretrained(file).save_pretrained(tmp_path / "again", training_data="cells")
    assert pretrained.load(again).card == {"license": "mit", "training_data": "cells"}


def test_write_that_fails_leaves_the_old_file_and_no_other(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        tiny_net(seed=1).save_pretrained(saved)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_weights_have_the_permissions_of_other_new_files(saved: Path) -> None:
    other = saved.with_name("other")
    other.write_bytes(b"")
    assert saved.stat().st_mode == other.stat().st_mode


def test_suffix_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"weights are written as safetensors, got '.*net\.pth'; give a \.safetensors file or a folder",
    ):
        tiny_net().save_pretrained(tmp_path / "net.pth")


def test_unknown_name_gets_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "names", lambda: ["dct-lite0", "dct-resnet50"])
    with pytest.raises(
        ValueError,
        match=(
            r"unknown pretrained model 'dct-lite'; did you mean 'dct-lite0'\? known: dct-lite0, "
            r"dct-resnet50"
        ),
    ):
        DCTNet.from_pretrained("dct-lite")


@pytest.mark.parametrize("path", ["runs/net.safetensors", "net.ckpt", "runs/deep/folder"])
def test_missing_file_is_named(path: str) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=rf"no weights at '{path}'; give a file written by dct-seg, or one of the shipped names: ",
    ):
        DCTNet.from_pretrained(path)


def test_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(
        ValueError, match=r"is not a whole safetensors file \(.*\); is it truncated\? fetch or save it again"
    ):
        DCTNet.from_pretrained(saved)


def test_safetensors_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"contains no dct-seg configuration; write weights with DCTNet\.save_pretrained"
    ):
        DCTNet.from_pretrained(tmp_path / "other.safetensors")


def test_file_of_a_newer_format_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"was written by a newer dct-seg \(format 99\); update dct-seg"):
        DCTNet.from_pretrained(rewritten(saved, format_version="99"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((1,), float("nan")), "contains values in 'decoder.predict.bias' that are not finite"),
        (torch.full((1,), float("inf")), "contains values in 'decoder.predict.bias' that are not finite"),
        (
            torch.full((1,), 1e300, dtype=torch.float64),
            "contains values in 'decoder.predict.bias' that are not",
        ),
        (
            torch.zeros(1, dtype=torch.int8),
            r"contains 'decoder.predict.bias' as torch\.int8, expected float16",
        ),
        (torch.zeros(1, dtype=torch.complex64), r"as torch\.complex64, expected float16, bfloat16, float32"),
    ],
)
def test_weights_that_are_not_finite_or_of_another_type_are_refused(
    saved: Path, value: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DCTNet.from_pretrained(rewritten(saved, change={"decoder.predict.bias": value}))


def test_missing_tensor_is_refused(saved: Path) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"is of another architecture: 1 tensors missing, 0 unknown, 0 of another shape, first "
            r"'decoder\.predict"
        ),
    ):
        DCTNet.from_pretrained(rewritten(saved, drop="decoder.predict.weight"))


def test_extra_tensor_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="0 tensors missing, 1 unknown, 0 of another shape, first 'extra'"):
        DCTNet.from_pretrained(rewritten(saved, change={"extra": torch.zeros(1)}))


def test_configuration_of_another_network_is_refused(saved: Path) -> None:
    with safe_open(saved, framework="pt") as handle:
        config = json.loads(handle.metadata()["config"])
    wider = rewritten(saved, config=json.dumps({**config, "decoder_width": 32}))
    with pytest.raises(
        ValueError,
        match=r"is of another architecture: 0 tensors missing, 0 unknown, \d+ of another shape, first",
    ):
        DCTNet.from_pretrained(wider)


def checkpoint(folder: Path, **parts: object) -> Path:
    net = tiny_net()
    state = {f"net.{key}": value for key, value in net.state_dict().items()} | {
        "other.weight": torch.zeros(1)
    }
    config = {**net.config.__dict__}
    torch.save(
        {"state_dict": state, "hyper_parameters": {"network": config, "lr": 1.0}, **parts},
        folder / "last.ckpt",
    )
    return folder / "last.ckpt"


def test_training_checkpoint_gives_its_network(tmp_path: Path) -> None:
    net = DCTNet.from_pretrained(checkpoint(tmp_path))
    assert not net.training
    assert torch.equal(logits(net), logits(tiny_net()))


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(
        ValueError,
        match=r"last\.ckpt' is not a complete training checkpoint \(RuntimeError\); is it truncated\?",
    ):
        DCTNet.from_pretrained(file)


def test_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="is a checkpoint, but not one of `dct-seg fit`: it contains no network configuration",
    ):
        DCTNet.from_pretrained(checkpoint(tmp_path, hyper_parameters={}))


def test_checkpoint_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a complete training checkpoint \(UnpicklingError\)"):
        DCTNet.from_pretrained(checkpoint(tmp_path, callback=torch.nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"backbone": "resnet18", "decoder_width": 40_000}, "is of another architecture"),
        ({"backbone": "resnet18", "decoder_width": 10**9}, "describes a network of impossible size"),
        ({"backbone": "resnet18", "decoder_width": "wide"}, "has a configuration that no network fits"),
        ({"backbone": "resnet18", "decoder_width": 64}, "is of another architecture"),
        (["resnet18"], "contains a configuration that cannot be read"),
    ],
)
def test_small_file_that_describes_a_huge_network_takes_no_memory(
    tmp_path: Path, config: Any, message: str
) -> None:
    resource = pytest.importorskip("resource", reason="memory is measured by Unix")
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"config": json.dumps(config), "format_version": "1"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"x\.safetensors' {message}") as error:
        DCTNet.from_pretrained(path)
    assert "\n" not in str(error.value)
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    )  # KiB; the file describes 8 GB of weights


def test_file_without_tensors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({}, path, metadata={"config": "{}", "format_version": "1"})
    with pytest.raises(ValueError, match=r"x\.safetensors' contains no tensors"):
        DCTNet.from_pretrained(path)
