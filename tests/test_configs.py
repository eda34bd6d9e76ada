"""The shipped configurations: found by name; each header's commands parse, and the paper's recipe runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from check_commands import filled
from documented import Documented, commands
from layouts import TINY_NETWORK, TINY_RUN, tiny_folder, tiny_run, tiny_sbd
from tiny import val_names

from dct_seg import configurations
from dct_seg.cli import main
from dct_seg.data.datamodule import ClickSimulatorDataModule
from dct_seg.sweep.space import fit_arguments, load_sweep

CONFIGS = configurations.folder()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    return tmp_path


@pytest.fixture(scope="module")
def documented() -> list[Documented]:
    return commands(CONFIGS.parent)


@pytest.mark.skipif(sys.platform == "win32", reason="bash splits the commands")
@pytest.mark.parametrize("name", configurations.names())
def test_every_header_command_parses(
    name: str, documented: list[Documented], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CI runs the commands from a wheel on tiny datasets: .ci/check_commands.py."""
    ran = 0
    for one in documented:
        if one.place != f"configs/{name}.yaml" or one.words[0] != "dct-seg":
            continue
        args = filled(one.words)[1:]
        if args[0] == "fit":
            with pytest.raises(SystemExit) as left:
                main([*args, "--print_config"])
            assert left.value.code == 0, f"dct-seg {shlex.join(args)}\n{capsys.readouterr().err}"
        elif args[0] == "sweep":
            place = args.index("--") if "--" in args else len(args)
            assert main([*args[:place], "--dry-run", *args[place:]]) == 0, capsys.readouterr().err
        ran += 1
    assert ran >= 1, "the header names no command"


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in configurations.names() if n.startswith("sweeps/")])
def test_the_first_trial_of_every_sweep_runs(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load_sweep(CONFIGS / f"{name}.yaml")
    first = {parameter.name: (parameter.choices or [None])[0] for parameter in sweep.parameters}
    small = {key: value for key, value in (TINY_RUN | TINY_NETWORK).items() if key not in first}
    args = [*fit_arguments(sweep, first), *(f"--{key}={value}" for key, value in small.items())]
    assert main([*args, "--trainer.logger=false"]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_the_papers_recipe_trains_validates_resumes_and_is_measured(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sbd(here / "SBD")
    named = ["--config", "dct_net", "--data.root", "SBD"]
    fit = ["fit", *named, "--trainer.check_val_every_n_epoch=1", *tiny_run(), "--model.val_clicks=2"]
    assert main(fit) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "drag, after" in out
    assert "click, after" in out
    assert main([*fit, "--trainer.max_epochs=2", "--ckpt_path", "last"]) == 0, capsys.readouterr().err
    checkpoint = here / "runs" / "dct_net" / "checkpoints" / "last.ckpt"
    assert main(["validate", *named, "--ckpt_path", str(checkpoint), "--data.num_workers=0"]) == 0
    measure = ["benchmark", "--weights", str(checkpoint), "--data", "SBD=SBD", "--prompt", "drag"]
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


def test_another_validation_dataset_needs_its_folder(tmp_path: Path) -> None:
    data = ClickSimulatorDataModule("Folder", str(tiny_folder(tmp_path / "a")), val_dataset="GrabCut")
    with pytest.raises(
        ValueError, match="val_dataset GrabCut differs from dataset Folder, so it needs its own"
    ):
        data.setup("validate")


# --- by name ---------------------------------------------------------------------------------------------


def test_a_configuration_is_found_by_name_and_by_its_path_from_anywhere(here: Path) -> None:
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml", "configs/quickstart"):
        assert configurations.find(name) == CONFIGS / "quickstart.yaml"
    assert configurations.find("ablation/full") == CONFIGS / "ablation" / "full.yaml"


def test_a_user_file_takes_precedence_over_a_shipped_one(here: Path) -> None:
    own = here / "configs" / "quickstart.yaml"
    own.parent.mkdir()
    own.write_text("model: {lr: 0.5}\n")
    assert configurations.find("configs/quickstart.yaml").resolve() == own


def test_an_unknown_configuration_names_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "quikstart"]) == 2
    assert "unknown configuration 'quikstart'; did you mean 'quickstart'?" in capsys.readouterr().err
    assert main(["fit", "--config=mine/run.yaml"]) == 2
    assert (
        "no configuration at 'mine/run.yaml'; give a file, or one of the shipped ones: ablation/"
        in capsys.readouterr().err
    )


def test_configurations_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "configs"]) == 0
    listed = capsys.readouterr().out.split()
    assert {"quickstart", "dct_net", "ablation/full", "sweeps/table1"} <= set(listed)
    assert main(["list", "configs", "dct_net"]) == 0
    assert capsys.readouterr().out == (CONFIGS / "dct_net.yaml").read_text(encoding="utf-8")
