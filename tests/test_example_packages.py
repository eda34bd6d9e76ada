"""The four example packages that CONTRIBUTING points at.

Installed by pip, and used by their short names from the command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from processes import Command

TESTS = Path(__file__).parent
EXAMPLES = ("example_encoder", "example_method", "example_dataset", "example_network")
CONFIG = {
    "model": {
        "network": {
            "network": "coarse",
            "network_options": {"bias": False},
            "backbone": "test_resnet",
            "backbone_weights": "none",
            "auto_drag": False,
            "click_encoder": "Ring",
            "click_encoder_options": {"width": 5.0},
            "decoder_stride": 8,
            "decoder_width": 16,
        },
        "losses": {"bce": 1.0, "area": {"weight": 0.5, "power": 2.0}},
        "train_clicks": [2, 2],
        "val_clicks": 2,
    },
    "data": {
        "dataset": "SideBySide",
        "batch_size": 2,
        "crop_size": 32,
        "num_workers": 0,
        "min_object_size": 20,
    },
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four packages, installed by pip."""
    pytest.importorskip("hatchling")  # the build backend; without it pip would fetch one
    folder = tmp_path_factory.mktemp("installed")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        str(folder),
    ]
    done = subprocess.run(
        [*pip, *(str(TESTS / name) for name in EXAMPLES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten files for the dataset: a bright disk on the left, its mask on the right."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(10):
        mask = np.zeros((48, 64), np.uint8)
        cv2.circle(mask, (20 + 2 * number, 24), 14, 255, -1)
        image = np.where(mask[..., None] > 0, (220, 180, 40), (40, 60, 90)) + rng.integers(0, 6, (48, 64, 3))
        Image.fromarray(np.hstack([image, np.repeat(mask[..., None], 3, 2)]).astype(np.uint8)).save(
            folder / f"{number}.png"
        )
    return folder


@pytest.fixture
def dct_seg(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Output of a command in a process that finds the installed packages."""
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)

    def run(*words: object, code: int = 0) -> str:
        command = Command(*words, log=tmp_path / "command.log")
        assert command.wait() == code, command.said()
        return command.said()

    return run


@pytest.mark.slow
def test_all_four_are_listed_by_their_short_names(dct_seg: Callable[..., str]) -> None:
    listed = dict(line.split(": ", 1) for line in dct_seg("list").splitlines() if ": " in line)
    assert "Ring" in listed["encoders"].split(", ")
    assert "same_color" in listed["methods"].split(", ")
    assert "SideBySide" in listed["datasets"].split(", ")
    assert "coarse" in listed["networks"].split(", ")
    assert "area" in listed["losses"].split(", ")


@pytest.mark.slow
def test_misspelled_short_name_suggests_the_installed_one(
    dct_seg: Callable[..., str], tmp_path: Path
) -> None:
    line = dct_seg(
        "benchmark",
        "--method",
        "samecolor",
        "--data",
        "Shapes",
        "--prompt",
        "drag",
        "--out",
        str(tmp_path),
        code=2,
    )
    assert "unknown method 'samecolor'; did you mean 'same_color'?" in line


@pytest.mark.slow
def test_the_network_trains_with_loss_and_encoder_on_the_dataset_and_is_measured_next_to_the_method(
    dct_seg: Callable[..., str], images: Path, tmp_path: Path
) -> None:
    config = tmp_path / "ring.yaml"
    trainer = {**CONFIG["trainer"], "default_root_dir": str(tmp_path / "run")}
    config.write_text(
        yaml.safe_dump({**CONFIG, "data": {**CONFIG["data"], "root": str(images)}, "trainer": trainer})
    )
    assert "mIoU@1" in dct_seg("fit", "--config", str(config), "--trainer.logger", "false")
    (checkpoint,) = (tmp_path / "run").rglob("*.ckpt")
    args = [
        "--weights",
        str(checkpoint),
        "--data",
        f"SideBySide={images}",
        "--prompt",
        "drag",
        "--max-clicks",
        "3",
    ]
    table = dct_seg(
        "benchmark",
        "--method",
        "dctnet,same_color",
        *args,
        "--option",
        "same_color.tolerance=30",
        "--out",
        str(tmp_path / "b"),
    )
    assert "| SideBySide | dctnet     | 10 |" in table
    assert "| SideBySide | same_color | 10 | 1.00 [1.00, 1.00]" in table, (
        table
    )  # one color per disk: one click
    assert "same_color: tolerance 30" in table
