"""The command line: its errors, and one tiny run from start to end."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import subprocess
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dct_seg import DCTNet, DCTNetConfig
from dct_seg.cli import COMMANDS, main

CONFIGS = Path(__file__).parent.parent / "configs"
TINY = {
    "model": {
        "network": {"backbone": "test_resnet", "backbone_weights": "none", "decoder_width": 8},
        "train_clicks": [1, 1],
        "val_clicks": 3,
    },
    "data": {
        "dataset": "Shapes",
        "options": {"num_images": 4, "size": [64, 64]},
        "val_options": {"split": "val", "num_images": 2, "size": [64, 64]},
        "crop_size": 64,
        "batch_size": 2,
        "num_workers": 0,
    },
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def make_folder(root: Path, *, count: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(root / "images" / f"{i}.png")
        mask = np.zeros((64, 80), np.uint8)
        mask[10:40, 20:60] = 1
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


def complaint(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Error line of a command that must fail."""
    before = {p for p in Path.cwd().rglob("*") if p.is_file()}
    assert main(args) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dct-seg: error:")]
    assert len(lines) == 1
    left = {p for p in Path.cwd().rglob("*") if p.is_file()} - before
    assert not [p for p in left if p.suffix in (".ckpt", ".safetensors", ".png")], (
        "something was half written"
    )
    return lines[0]


def folder_args(tiny: Path, root: Path) -> list[str]:
    return [
        "fit",
        "--config",
        str(tiny),
        "--data.dataset",
        "Folder",
        "--data.options",
        "null",
        "--data.val_options",
        "null",
        "--data.root",
        str(root),
    ]


def test_unknown_click_encoder_lists_the_known_ones(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["fit", "--config", str(tiny), "--model.network.click_encoder", "Gausian"], capsys)
    assert (
        "unknown click encoder 'Gausian'; did you mean 'Gaussian'? known: Disk, Euclidean, Gaussian, "
        "HalfWidthGaussian, SpatialDCT" in line
    )


def test_unknown_backbone_names_the_nearest(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["fit", "--config", str(tiny), "--model.network.backbone", "resnet81"], capsys)
    assert "unknown backbone 'resnet81'; did you mean 'resnet" in line


def test_missing_pretrained_weights_give_advice(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    line = complaint(["fit", "--config", str(tiny), "--model.network.backbone_weights", "imagenet"], capsys)
    assert "could not fetch the ImageNet weights of 'test_resnet'" in line
    assert "'none'" in line


def test_missing_folder_is_reported_with_the_expected_layout(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = complaint(folder_args(tiny, tmp_path / "nowhere"), capsys)
    assert "nowhere" in line
    assert "images" in line


def test_size_mismatch_names_both_files(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = make_folder(tmp_path / "set")
    Image.fromarray(np.ones((80, 64), np.uint8)).save(root / "masks" / "1.png")
    line = complaint(folder_args(tiny, root), capsys)
    assert "1.png is 80x64" in line
    assert "64x80" in line
    assert "data check" in line


def test_empty_masks_are_reported(tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set")
    for path in (root / "masks").iterdir():
        Image.fromarray(np.zeros((64, 80), np.uint8)).save(path)
    line = complaint(folder_args(tiny, root), capsys)
    assert "no object" in line or "empty" in line


def test_a_corrupt_image_among_good_ones_is_skipped_and_counted(
    tiny: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = make_folder(tmp_path / "set", count=8)
    whole = (root / "images" / "3.png").read_bytes()
    (root / "images" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"3\.png"):
        assert (
            main(
                [
                    *folder_args(tiny, root),
                    "--data.samples_per_epoch",
                    "32",
                    "--data.holdout",
                    "0",
                    "--report",
                    "none",
                    "--trainer.limit_val_batches",
                    "0",
                ]
            )
            == 0
        )


def test_checkpoint_of_another_architecture_is_refused(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["fit", "--config", str(tiny), "--report", "none"]) == 0
    checkpoint = str(next(tmp_path.rglob("*.ckpt")))
    line = complaint(
        ["fit", "--config", str(tiny), "--model.network.decoder_width", "16", "--ckpt_path", checkpoint],
        capsys,
    )
    assert "decoder_width 8 (the configuration says 16)" in line
    line = complaint(["fit", "--config", str(tiny), "--ckpt_path", str(truncated(Path(checkpoint)))], capsys)
    assert "truncated" in line


def truncated(path: Path) -> Path:
    short = path.with_name("short.ckpt")
    short.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return short


def test_truncated_and_foreign_weights_are_refused_by_the_benchmark(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    net = DCTNet(DCTNetConfig(backbone="test_resnet", backbone_weights="none", decoder_width=8))
    whole = net.save_pretrained(tmp_path / "whole.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes(whole.read_bytes()[:10000])
    foreign = tmp_path / "foreign.pth"
    torch.save({"weight": torch.zeros(1)}, foreign)
    shapes = ["--data", "Shapes", "--prompt", "drag"]
    assert "truncated" in complaint(["benchmark", "--checkpoint", str(short), *shapes], capsys)
    assert "foreign.pth" in complaint(["benchmark", "--checkpoint", str(foreign), *shapes], capsys)


@pytest.mark.parametrize("where", ["command line", "file"])
def test_misspelled_key_suggests_the_nearest(
    tiny: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["fit", "--config", str(tiny)]
    if where == "command line":
        args += ["--model.gradient_clp", "1"]
    else:
        tiny.write_text(yaml.safe_dump({**TINY, "model": {**TINY["model"], "gradient_clp": 1}}))
    line = complaint(args, capsys)
    assert "gradient_clp" in line
    assert "did you mean 'model.gradient_clip'?" in line


def test_a_wrong_value_names_its_key(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["fit", "--config", str(tiny), "--model.update", "sometimes"], capsys)
    assert "update" in line
    assert "every" in line


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmrk"]) == 2
    assert "unknown command 'benchmrk'; did you mean 'benchmark'?" in capsys.readouterr().err


def test_a_tiny_run_prints_its_table_and_writes_its_files(
    tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["fit", "--config", str(tiny), "--report", "before_and_after"]) == 0
    out = capsys.readouterr().out
    assert "drag, before" in out
    assert "drag, after" in out
    checkpoint, image = (
        Path(re.findall(rf"^{name} +(.+)$", out, re.MULTILINE)[0]) for name in ("checkpoint", "image")
    )
    assert checkpoint.is_file()
    assert np.asarray(Image.open(image)).std() > 10
    assert main(["validate", "--config", str(tiny), "--ckpt_path", str(next(tmp_path.rglob("*.ckpt")))]) == 0
    assert "NoC@85" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["baseline", "spatial_dct", "full", "click_only"])
def test_ablation_overlays_hold_differences_only(name: str) -> None:
    base = yaml.safe_load((CONFIGS / "dct_net.yaml").read_text())["model"]
    overlay = yaml.safe_load((CONFIGS / "ablation" / f"{name}.yaml").read_text())["model"]
    network = overlay.pop("network", {})
    assert all(base["network"].get(key) != value for key, value in network.items())
    assert all(base.get(key) != value for key, value in overlay.items())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_parses(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overlays = (
        [arg for o in sorted((CONFIGS / "ablation").glob("*.yaml")) for arg in ("--config", str(o))]
        if path.stem == "dct_net"
        else []
    )
    with pytest.raises(SystemExit) as left:
        main(["fit", "--config", str(path), *overlays, "--data.root", "anywhere", "--print_config"])
    assert left.value.code == 0
    resolved = capsys.readouterr().out
    assert "backbone:" in resolved or "start_from: dct-lite0" in resolved


def test_help_answers_at_once_without_torch() -> None:
    code = (
        "import sys; from dct_seg.cli import main; main(['--help']); assert 'torch' not in sys.modules and "
        "'numpy' not in sys.modules"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
    assert (
        time.perf_counter() - start < 30
    )  # a limit against hangs; the check of the modules above covers the speed


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["list", "configs"], ["list", "--help"]])
def test_closed_pipe_is_no_error(args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "dct_seg", *args]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=buffered, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_data_check_reports_problems_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "set", count=2)
    assert main(["data", "check", str(root)]) == 0
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(root / "masks" / "0.png")
    assert main(["data", "check", str(root), "--json"]) == 1
    assert '"empty"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "args",
    [["benchmark", "--data", "Shapes"], ["data", "check"], ["list", "colors"], ["predict", "--colour"]],
)
def test_invalid_arguments_are_reported_in_one_line(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"`dct-seg {args[0]}" in complaint(args, capsys)


def test_list_prints_the_registered_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("SpatialDCT", "GrabCut", "graph_cut"):
        assert name in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["backbones", "zzz*"], "no suitable backbone matches 'zzz*'; `dct-seg list backbones` shows all"),
        (["encoders", "Disk"], "only backbones and configs accept a NAME, got encoders Disk; omit Disk"),
    ],
)
def test_list_without_a_match_is_an_error(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(["list", *args], capsys)


def test_file_instead_of_a_folder_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    line = complaint(["cvat-function", str(tmp_path / "file")], capsys)
    assert f"'{tmp_path / 'file'}' cannot be a folder: a file is in its place; give another path" in line


def test_help_lists_every_command_of_the_table_and_each_command_can_be_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for command in COMMANDS:
        assert [
            line for line in lines if line.split()[:1] == [command.name] and line.endswith(command.summary)
        ]
        module, function = command.run.split(":")
        assert list(inspect.signature(getattr(import_module(f"dct_seg.{module}"), function)).parameters) == [
            "args"
        ]
    assert max(map(len, lines)) <= 100


def test_weights_are_named_the_same_everywhere(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = (
        ["fit", "--config", str(tiny), "--weights", "none.ckpt"],
        ["benchmark", "--weights", "none.ckpt", "--data", "Shapes", "--prompt", "drag"],
        ["benchmark", "--checkpoint", "none.ckpt", "--data", "Shapes", "--prompt", "drag"],
        ["predict", "image.png", "--click", "1,1", "--weights", "none.ckpt", "--out", "out"],
    )
    Image.new("RGB", (8, 8)).save("image.png")
    for args in commands:
        assert "none.ckpt" in complaint(args, capsys)


def test_the_package_runs_as_a_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dct-seg", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("dct_seg", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == version("dct-seg")
