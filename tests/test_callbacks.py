"""Logged interactions of a run.

W&B's offline run is read with W&B's own reader, TensorBoard's with its own, files by their content.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from tiny import TINY, assert_same_weights, tiny_data, tiny_task, tiny_trainer, val_names, weights
from torch.utils.data import DataLoader

from dct_seg import Click, DCTNet
from dct_seg.cli import main
from dct_seg.data.samples import collate
from dct_seg.training.callbacks import InteractionLogger, click_boxes, draw_iou_curves, play
from dct_seg.training.weight_averaging import StartWeightAveraging

CONFIG = {
    "model": {"network": {**TINY}, "train_clicks": [1, 1], "val_clicks": 3, "val_prompts": ["drag", "click"]},
    "data": {
        "dataset": "Shapes",
        "options": {"num_images": 4, "size": [32, 40], "min_object_size": 20},
        "val_options": {"num_images": 3, "split": "val", "size": [32, 40], "min_object_size": 20},
        "crop_size": 32,
        "min_object_size": 20,
        "batch_size": 2,
        "num_workers": 0,
    },
    "interactions": {"num_samples": 2, "num_worst": 2, "num_clicks": 2},
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "precision": "32-true",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": "out",
    },
}


def keep_wandb_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep W&B's other files in ``folder``, outside the home directory."""
    for name, inside in (
        ("WANDB_DATA_DIR", "wandb-data"),
        ("WANDB_CACHE_DIR", "wandb-cache"),
        ("WANDB_CONFIG_DIR", "wandb-config"),
    ):
        monkeypatch.setenv(name, str(folder / inside))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    keep_wandb_in(tmp_path, monkeypatch)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return str(path)


READ = """
import sys
from wandb.cli.cli import cli
for file in sys.argv[1:]:
    try:
        cli(["leet", "inspect", "--json", file])
    except SystemExit as left:
        if left.code:
            raise
    print(flush=True)
"""


def records(run: Path) -> list[dict[str, Any]]:
    """Every record of an offline run, as ``wandb leet inspect`` reads it."""
    (found,) = records_of([run])
    return found


def records_of(runs: Sequence[Path]) -> list[list[dict[str, Any]]]:
    """The records of several runs, read by one process because W&B's import takes seconds."""
    reader = [sys.executable, "-c", READ, *(str(next(run.glob("*.wandb"))) for run in runs)]
    done = subprocess.run(reader, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *texts, rest = done.stdout.split("\n\n")
    assert (len(texts), rest) == (len(runs), "")
    return [[json.loads(line) for line in text.splitlines()] for text in texts]


def table_of(found: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """The last table logged under a key; W&B keeps it, with its images, in an artifact."""
    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    entries = [
        entry
        for artifact in artifacts
        for entry in artifact["manifest"]["contents"]
        if entry["path"] == f"{key}.table.json"
    ]
    table: dict[str, Any] = json.loads(Path(entries[-1]["local_path"]).read_text())
    return table


def fit_with_wandb(config: str, *more: str) -> Path:
    """Train with W&B, offline; return the run's folder."""
    import wandb

    assert (
        main(
            [
                "fit",
                "--config",
                config,
                "--trainer.logger=WandbLogger",
                "--trainer.logger.project=test",
                *more,
            ]
        )
        == 0
    )
    assert wandb.run is not None
    folder = Path(wandb.run.dir).absolute().parent
    wandb.finish()
    wandb.teardown()  # its service keeps the folder it was started in
    return folder


@pytest.mark.slow
def test_an_offline_wandb_run_holds_masks_boxes_curves_the_worst_samples_and_the_model(
    config: str, tmp_path: Path
) -> None:
    run = fit_with_wandb(config)
    assert run.is_relative_to(tmp_path / "out" / "log" / "wandb")
    found = records(run)
    history: dict[str, Any] = {}
    for record in found:
        if record["type"] == "history":
            history.update(record["history"]["item"])

    for prompt in ("drag", "click"):
        assert 0 <= history[f"val/{prompt}/AuC"] <= 1
        images = f"val/{prompt}/interactions"
        assert history[f"{images}.count"] == 2
        for masks, boxes in zip(history[f"{images}.all_masks"], history[f"{images}.all_boxes"], strict=True):
            for kind in ("prediction", "truth"):
                mask = np.asarray(Image.open(run / "files" / masks[kind]["path"]))
                assert mask.shape == (32, 40)
                assert set(np.unique(mask)) <= {0, 1, 2}
            drawn = json.loads((run / "files" / boxes["clicks"]["path"]).read_text())
            assert 1 <= len(drawn["box_data"]) <= 2
            first = drawn["box_data"][0]
            assert first["class_id"] == 1
            assert first["domain"] == "pixel"
            assert first["box_caption"].startswith("1: r ")
            assert drawn["class_labels"] == {"0": "negative click", "1": "positive click"}
        assert history[f"val/{prompt}/strips.count"] == 2
        worst = table_of(found, f"val/{prompt}/worst")
        assert worst["columns"] == [
            "sample",
            "prompt",
            "NoC@90",
            "first IoU",
            "last IoU",
            "mean IoU",
            "interaction",
            "strip",
        ]
        assert [row[1] for row in worst["data"]] == [prompt] * 2
        assert worst["data"][0][5] <= worst["data"][1][5]
        assert worst["data"][0][6]["masks"].keys() == {"prediction", "truth"}
        assert worst["data"][0][6]["boxes"].keys() == {"clicks"}

    curve = json.loads((run / "files" / history["val/IoU over clicks_table.path"]).read_text())
    assert {row[curve["columns"].index("lineKey")] for row in curve["data"]} == {"drag", "click"}
    assert len(curve["data"]) == 2 * 3

    artifact = next(
        r["artifact"] for r in found if r["type"] == "artifact" and r["artifact"]["type"] == "model"
    )
    (entry,) = artifact["manifest"]["contents"]
    assert (tmp_path / entry["local_path"]).is_relative_to(run)
    net = DCTNet.from_pretrained(tmp_path / entry["local_path"])
    trained = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"net.{key}"]) for key, value in net.state_dict().items())

    configured = {k: v for r in found if r["type"] == "config" for k, v in r["config"]["update"].items()}
    assert configured["data"]["crop_size"] == 32
    assert configured["trainer"]["max_epochs"] == 1


@pytest.mark.slow
def test_two_wandb_runs_keep_their_configurations_apart(config: str, tmp_path: Path) -> None:
    runs = [
        fit_with_wandb(config, f"--model.lr={lr}", "--report=none", "--interactions.log_model=false")
        for lr in (0.002, 0.001)
    ]
    stored = [
        yaml.safe_load((run / "files" / "dct_seg_config.yaml").read_text())["model"]["lr"] for run in runs
    ]
    assert stored == [0.002, 0.001]
    assert not (tmp_path / "config.yaml").exists()
    assert [
        r["artifact"]["type"]
        for r in records(runs[0])
        if r["type"] == "artifact" and r["artifact"]["type"] == "model"
    ] == []


@pytest.mark.slow
def test_tensorboard_gets_the_images_by_one_line(config: str, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(["fit", "--config", config, "--trainer.logger=TensorBoardLogger"]) == 0
    (folder,) = {path.parent for path in (tmp_path / "out" / "log").rglob("events.out.tfevents.*")}
    board = accumulator.EventAccumulator(str(folder)).Reload()
    tags = board.Tags()
    assert {"val/drag_strips", "val/click_worst", "val/iou_over_clicks"} <= set(tags["images"])
    assert "val/worst/text_summary" in tags["tensors"]
    strip = board.Images("val/drag_strips")[0]
    assert strip.width > 5 * 40
    assert (folder / "config.yaml").is_file()


def test_the_csv_logger_leaves_the_same_images_as_files(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", config]) == 0
    log = tmp_path / "out" / "log" / "version_0"
    assert {path.name for path in log.iterdir()} >= {"config.yaml", "metrics.csv", "interactions"}
    assert "model" in yaml.safe_load((log / "config.yaml").read_text())
    last = sorted((log / "interactions").iterdir())[-1]
    names = {
        "drag_strips.png",
        "drag_worst.png",
        "click_strips.png",
        "click_worst.png",
        "iou_over_clicks.png",
        "worst.csv",
    }
    assert {path.name for path in last.iterdir()} == names
    rows = list(csv.DictReader((last / "worst.csv").open()))
    assert [row["prompt"] for row in rows] == ["drag", "drag", "click", "click"]
    assert float(rows[0]["mean IoU"]) <= float(rows[1]["mean IoU"])
    assert (
        tmp_path / "out" / "checkpoints"
    ).is_dir() is False  # no ModelCheckpoint with a path: Lightning's default keeps its own
    stored = json.loads(next(tmp_path.rglob("metrics.json")).read_text())
    assert stored["metrics"].keys() == {"drag", "click"}
    assert Path(stored["checkpoint"]).is_file()


def test_the_worst_samples_are_those_of_the_lowest_mean_iou(tmp_path: Path) -> None:
    shown = InteractionLogger(num_samples=0, num_worst=5, num_clicks=1)
    task, data = tiny_task(val_clicks=2), tiny_data()
    log = CSVLogger(tmp_path, name=None)
    tiny_trainer(tmp_path, logger=log, callbacks=[shown]).validate(task, data, verbose=False)
    rows = list(csv.DictReader(next(tmp_path.rglob("worst.csv")).open()))
    means = task.val_metrics["drag"].table.mean(1)
    names = [val_names(data)[i] for i in means.argsort(stable=True)[:5].tolist()]
    assert [row["sample"] for row in rows] == names
    assert [float(row["mean IoU"]) for row in rows] == pytest.approx(
        means.sort().values[:5].tolist(), abs=1e-4
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"mark_clicks": True}, {"radius_from": "mask", "val_prompts": ["click"]}],
    ids=["defaults", "mark_clicks", "radius_from"],
)
def test_logged_interactions_equal_those_of_validation(options: dict[str, Any], tmp_path: Path) -> None:
    task, data = tiny_task(val_clicks=4, **options), tiny_data(val_batch_size=1)
    tiny_trainer(tmp_path).validate(task, data, verbose=False)
    prompt = task.val_prompts[0]
    for number, name in enumerate(val_names(data)):
        batch = collate([data.val_dataloader().dataset[number]])
        played = play(task.eval(), batch, prompt, 4)
        assert [turn.iou for turn in played.turns] == pytest.approx(
            task.val_metrics[prompt].table[number, : len(played.turns)].tolist(), abs=1e-6
        )
        assert played.name == name
        with torch.inference_mode():
            radii = task.predict_step(batch, 0)["clicks"].radii[0].tolist()
        assert [click.radius for click in played.turns[-1].clicks] == pytest.approx(radii)


@pytest.mark.parametrize("is_first", [True, False])
def test_logged_interactions_show_the_weights_of_validation(
    is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated, played = [], []

    class Seen(Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            validated.append(weights(pl_module))

    def spy(task: Any, *args: Any) -> Any:
        played.append(weights(task))
        return play(task, *args)

    monkeypatch.setattr("dct_seg.training.callbacks.play", spy)
    logged, averaging = InteractionLogger(num_samples=1, num_worst=0), StartWeightAveraging(0.5)
    callbacks = [averaging, logged] if is_first else [logged, averaging]
    task, log = tiny_task(schedule="constant"), CSVLogger(tmp_path, name=None)
    tiny_trainer(tmp_path, logger=log, callbacks=[Seen(), *callbacks]).fit(task, tiny_data())
    assert_same_weights(played[0], validated[0])
    assert_same_weights(weights(task), validated[0])  # the run ends with the average


@pytest.mark.parametrize("loaders", ["one", "list", "mapping"])
def test_interactions_of_any_loader_are_logged(loaders: str, tmp_path: Path) -> None:
    mask = torch.zeros(32, 32)
    mask[5:20, 5:20] = 1
    samples = [(torch.rand(3, 32, 32), mask) for _ in range(4)]
    loader = DataLoader(samples, batch_size=2)
    given: Any = {"one": loader, "list": [loader, loader], "mapping": {"a": loader, "b": loader}}[loaders]
    logged, log = InteractionLogger(num_samples=1, num_worst=4), CSVLogger(tmp_path, name=None)
    tiny_trainer(tmp_path, logger=log, callbacks=[logged]).fit(tiny_task(), loader, given)
    rows = list(csv.DictReader(next(tmp_path.rglob("worst.csv")).open()))
    assert sorted({row["sample"] for row in rows}) == ["0", "1", "2", "3"]


def test_a_network_that_diverges_is_shown_too() -> None:
    task = tiny_task()
    with torch.no_grad():
        for parameter in task.net.auto_drag.parameters():
            parameter.fill_(100.0)
    turns = play(task.eval(), collate([tiny_data().val_dataloader().dataset[0]]), "click", 2).turns
    assert turns[0].clicks[0].radius is None


def test_nothing_is_logged_with_all_counts_at_zero(tmp_path: Path) -> None:
    quiet = InteractionLogger(num_samples=0, num_worst=0)
    tiny_trainer(tmp_path, logger=CSVLogger(tmp_path, name=None), callbacks=[quiet]).validate(
        tiny_task(), tiny_data(), verbose=False
    )
    assert not list(tmp_path.rglob("interactions"))


def test_a_click_without_a_drag_gets_a_small_box_and_boxes_end_at_the_border() -> None:
    boxes = click_boxes([Click(1, 30), Click(10, 39, False, 6.0)], (32, 40))
    assert boxes[0]["position"] == {"minX": 28, "maxX": 32, "minY": 0, "maxY": 3}
    assert boxes[0]["box_caption"] == "1"
    assert boxes[1]["position"] == {"minX": 33, "maxX": 40, "minY": 4, "maxY": 16}
    assert boxes[1]["class_id"] == 0


def test_a_curve_is_drawn_higher_where_the_iou_is_higher() -> None:
    low, high = draw_iou_curves({"a": [0.1, 0.1, 0.9]}), draw_iou_curves({"a": [0.1, 0.9, 0.9]})
    assert low.shape == high.shape
    assert low.dtype == np.uint8
    assert (low != high).any()


@pytest.mark.parametrize("name", ["num_samples", "num_worst"])
def test_counts_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        InteractionLogger(**{name: -1})


def test_a_logger_whose_package_is_missing_names_its_extra(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["fit", "--config", config, "--trainer.logger=TensorBoardLogger"]) == 2
    assert (
        "TensorBoardLogger needs a package that is not installed; pip install 'dct-seg[tensorboard]'"
        in capsys.readouterr().err
    )


def test_a_folder_named_by_an_unset_variable_is_refused(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    assert main(["fit", "--config", config, "--trainer.default_root_dir=runs/$WANDB_RUN_ID"]) == 2
    assert (
        "trainer.default_root_dir is 'runs/$WANDB_RUN_ID', and that variable is not set"
        in capsys.readouterr().err
    )
