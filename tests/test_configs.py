"""The shipped configurations: found by name; each header's command runs on data in its true layout."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat
from tiny import val_names

from dct_seg import configurations
from dct_seg.cli import main
from dct_seg.data.datamodule import ClickSimulatorDataModule
from dct_seg.sweep.space import fit_arguments, load_sweep

CONFIGS = configurations.folder()
SIZE = (64, 80)
TINY_RUN = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "model.val_clicks": 2,
    "data.crop_size": 64,
    "data.batch_size": 2,
    "data.num_workers": 0,
    "interactions.num_samples": 0,
    "interactions.num_worst": 0,
}
TINY_NETWORK = {
    "model.network.backbone": "resnet10t",
    "model.network.backbone_weights": "none",
    "model.network.decoder_width": 8,
}


def an_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def two_objects() -> np.ndarray[Any, np.dtype[np.uint8]]:
    labels = np.zeros(SIZE, np.uint8)
    labels[8:30, 10:40] = 1
    labels[36:60, 30:70] = 2
    return labels


def tiny_sbd(root: Path) -> Path:
    """SBD as its archive unpacks: img/, inst/ with a .mat for each image, a text file for each split."""
    splits = {"train": [f"2008_00000{n}" for n in range(4)], "val": ["2009_000001", "2009_000002"]}
    (root / "inst").mkdir(parents=True)
    for split, names in splits.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            an_image(root / "img" / f"{name}.jpg", number)
            content = {
                "Segmentation": two_objects(),
                "Boundaries": np.zeros(2),
                "Categories": np.array([[5], [9]]),
            }
            savemat(root / "inst" / f"{name}.mat", {"GTinst": content})
    return root


def tiny_folder(root: Path) -> Path:
    for number in range(5):
        an_image(root / "images" / f"{number}.jpg", number)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(two_objects()).save(root / "masks" / f"{number}.png")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    return tmp_path


def header_commands(path: Path) -> list[str]:
    """The ``dct-seg`` commands at the top of a configuration, without what is said beside them."""
    header = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))
    assert header
    lines = re.findall(r"^#\s+(dct-seg .*)$", header[0], re.MULTILINE)
    return [re.split(r"\s{3,}", line)[0] for line in lines]


def with_data(command: str) -> list[str]:
    """The words of a command, its placeholders replaced by tiny datasets that are made on the way."""
    command = command.replace("ROW", "fca_net").replace("/path/to/SBD", "SBD")
    if "SBD" in command and not Path("SBD").is_dir():
        tiny_sbd(Path("SBD"))
    named = re.findall(r"DATA/(\w+)", command)
    more = [name for name in union_folders(command) if name not in named] if "…" in command else []
    for name in [f"DATA/{one}" for one in [*named, *more]] + re.findall(r"\bDIR(?:_[AB])?\b", command):
        if not Path(name).is_dir():
            tiny_folder(Path(name))
    return shlex.split(command.replace(", …", "".join(f", DATA/{name}: 0.5" for name in more)))[1:]


def union_folders(command: str) -> list[str]:
    """Folders named by ``data.union`` in the configurations of a command; ``data.root`` must hold them."""
    found: dict[str, Any] = {}
    for name in re.findall(r"--(?:config|base) (\S+)", command):
        content = yaml.safe_load(configurations.find(name).read_text(encoding="utf-8"))
        found |= (content.get("data") or {}).get("union") or {}
    return list(found)


def tiny_run(args: list[str]) -> list[str]:
    """A ``fit`` command line that takes a second."""
    starts_from_weights = any("finetune" in one for one in args)
    options = TINY_RUN if starts_from_weights else TINY_RUN | TINY_NETWORK
    return [*args, *(f"--{key}={value}" for key, value in options.items())]


def commands_of(path: Path) -> Iterator[list[str]]:
    for command in header_commands(path):
        yield with_data(command)


@pytest.mark.parametrize("name", [n for n in configurations.names() if not n.startswith("sweeps/")])
def test_every_header_command_runs_on_data_in_its_true_layout(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = 0
    for args in commands_of(CONFIGS / f"{name}.yaml"):
        if args[0] == "fit":
            args = tiny_run(args)
        elif args[0] == "sweep":
            place = args.index("--") if "--" in args else len(args)
            args = [*args[:place], "--dry-run", *args[place:]]
        elif "--checkpoints" in args:  # weights of a long training
            continue
        elif args[0] == "benchmark":
            args = [*args, "--limit", "1", "--max-clicks", "2"]
        assert main(args) == 0, f"dct-seg {shlex.join(args)}\n{capsys.readouterr().err}"
        ran += 1
    assert ran >= 1, "the header names no command"


@pytest.mark.parametrize("name", [n for n in configurations.names() if n.startswith("sweeps/")])
def test_every_sweep_starts_and_its_first_trial_runs(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CONFIGS / f"{name}.yaml"
    for args in commands_of(path):
        place = args.index("--") if "--" in args else len(args)
        assert main([*args[:place], "--dry-run", *args[place:]]) == 0, capsys.readouterr().err
    sweep = load_sweep(path)
    first = {parameter.name: (parameter.choices or [None])[0] for parameter in sweep.parameters}
    small = {key: value for key, value in (TINY_RUN | TINY_NETWORK).items() if key not in first}
    args = [*fit_arguments(sweep, first), *(f"--{key}={value}" for key, value in small.items())]
    assert main([*args, "--trainer.logger=false"]) == 0, capsys.readouterr().err


def test_the_papers_recipe_trains_validates_resumes_and_is_measured(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sbd(here / "SBD")
    fit = tiny_run(
        ["fit", "--config", "dct_net", "--data.root", "SBD", "--trainer.check_val_every_n_epoch=1"]
    )
    assert main(fit) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "drag, after" in out
    assert "click, after" in out
    assert main([*fit, "--trainer.max_epochs=2", "--ckpt_path", "last"]) == 0, capsys.readouterr().err
    checkpoint = here / "runs" / "dct_net" / "checkpoints" / "last.ckpt"
    assert main(["validate", *fit[1:5], "--ckpt_path", str(checkpoint), "--data.num_workers=0"]) == 0
    measure = ["benchmark", "--checkpoint", str(checkpoint), "--data", "SBD=SBD", "--prompt", "drag"]
    assert main([*measure, "--limit", "1", "--max-clicks", "2"]) == 0, capsys.readouterr().err


def test_validation_on_the_training_dataset_reads_its_folder(tmp_path: Path) -> None:
    root = tiny_sbd(tmp_path / "SBD")
    splits: dict[str, Any] = {"options": {"split": "train"}, "val_options": {"split": "val"}}
    data = ClickSimulatorDataModule("SBD", str(root), val_dataset="SBD", **splits)
    assert val_names(data) == [f"img/2009_00000{n}.jpg#{label}" for n in (1, 2) for label in (1, 2)]


def test_validation_reads_all_training_folders(tmp_path: Path) -> None:
    roots = [str(tiny_folder(tmp_path / name)) for name in ("a", "b")]
    data = ClickSimulatorDataModule("Folder", roots, val_options={"min_object_size": 0})
    assert {name.split("/")[0] for name in val_names(data)} == {"a", "b"}


def test_another_validation_dataset_asks_for_its_folder(tmp_path: Path) -> None:
    data = ClickSimulatorDataModule("Folder", str(tiny_folder(tmp_path / "a")), val_dataset="GrabCut")
    with pytest.raises(ValueError, match="val_dataset GrabCut is not the training set's Folder; give its"):
        data.setup("validate")


# --- by name ---------------------------------------------------------------------------------------------


def test_a_configuration_is_found_by_name_and_by_its_path_from_anywhere(here: Path) -> None:
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml", "configs/quickstart"):
        assert configurations.find(name) == CONFIGS / "quickstart.yaml"
    assert configurations.find("ablation/full") == CONFIGS / "ablation" / "full.yaml"


def test_a_file_of_ones_own_wins_over_a_shipped_one(here: Path) -> None:
    own = here / "configs" / "quickstart.yaml"
    own.parent.mkdir()
    own.write_text("model: {lr: 0.5}\n")
    assert configurations.find("configs/quickstart.yaml").resolve() == own


def test_an_unknown_configuration_names_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "quikstart"]) == 2
    assert "unknown configuration 'quikstart'; did you mean 'quickstart'?" in capsys.readouterr().err
    assert main(["fit", "--config=mine/run.yaml"]) == 2
    assert (
        "no configuration at 'mine/run.yaml'; give a file, or one of the shipped: ablation/"
        in capsys.readouterr().err
    )


def test_configurations_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "configs"]) == 0
    listed = capsys.readouterr().out.split()
    assert {"quickstart", "dct_net", "ablation/full", "sweeps/table1"} <= set(listed)
    assert main(["list", "configs", "dct_net"]) == 0
    assert capsys.readouterr().out == (CONFIGS / "dct_net.yaml").read_text(encoding="utf-8")
