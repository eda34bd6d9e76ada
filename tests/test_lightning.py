"""Trainer options, optimizers, callbacks and custom data work, or are refused in one line before training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint, Timer
from lightning.pytorch.tuner import Tuner
from tiny import loader_of, tiny_data, tiny_task, tiny_trainer, weights
from torch.nn import SyncBatchNorm
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from dct_seg import InteractiveSegmentationTask, NumberOfClicks
from dct_seg.cli import main
from dct_seg.training.hooks import DivergedError
from dct_seg.training.optimizers import Choice, apply_changes, make_scheduler, settings_of

SIDE = 64
TINY: dict[str, Any] = {
    "model": {
        "network": {
            "backbone": "test_resnet",
            "backbone_weights": "none",
            "decoder_stride": 8,
            "decoder_width": 8,
        },
        "train_clicks": [1, 1],
        "val_clicks": 2,
    },
    "data": {
        "dataset": "Shapes",
        "options": {"num_images": 4, "size": [64, 64]},
        "val_options": {"split": "val", "num_images": 1, "size": [64, 64]},
        "crop_size": 64,
        "batch_size": 2,
        "num_workers": 0,
    },
    "interactions": {"num_samples": 0, "num_worst": 0},
    "trainer": {
        "max_epochs": 1,
        "accelerator": "cpu",
        "precision": "32-true",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": "run",
    },
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return "tiny.yaml"


def fit(*args: str) -> int:
    return main(["fit", "--config", "tiny.yaml", *args])


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Error line of a run that must fail and leave no checkpoint."""
    assert fit(*args) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("dct-seg: error:")]
    assert not list(Path().rglob("*.ckpt"))
    return line


def checkpoint_of(folder: Path = Path()) -> Path:
    (found,) = folder.rglob("last.ckpt")
    return found


SAVE_LAST = "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {save_last: true}}"


# --- optimizers and schedules --------------------------------------------------------------------------


def rates_of(path: Path) -> list[float]:
    state = torch.load(path, weights_only=True)
    return [group["lr"] for group in state["optimizer_states"][0]["param_groups"]]


def test_any_optimizer_keeps_the_backbones_rate_and_our_schedule(tiny: str) -> None:
    options = ["--optimizer=SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0.9"]
    schedule = ["--model.backbone_lr_factor=0.5", "--model.schedule=step", "--model.step_epochs=1"]
    assert fit(*options, *schedule, SAVE_LAST, "--report=none") == 0
    group = torch.load(checkpoint_of(), weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert group["momentum"] == 0.9
    assert rates_of(checkpoint_of()) == pytest.approx([0.01, 0.005])


def test_any_schedule_works_with_our_optimizer_and_with_a_chosen_one(tiny: str) -> None:
    schedule = ["--lr_scheduler=StepLR", "--lr_scheduler.step_size=1", "--lr_scheduler.gamma=0.5"]
    assert fit(*schedule, "--model.lr=0.01", SAVE_LAST, "--report=none") == 0
    assert rates_of(checkpoint_of()) == pytest.approx([0.005, 0.005])


def test_reduce_on_plateau_follows_its_monitor() -> None:
    task = tiny_task(lr=0.1, backbone_lr_factor=0.5, val_clicks=1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    options = {
        "patience": 0,
        "factor": 0.1,
        "mode": "max",
        "threshold": 2.0,
        "threshold_mode": "abs",
    }  # nothing is ever better by so much
    task.scheduler_choice = Choice(_Monitored, {"monitor": "val/drag/AuC", **options})
    assert issubclass(_Monitored, plateau)
    trainer = tiny_trainer(".", max_epochs=2, limit_train_batches=1)
    trainer.fit(task, tiny_data())
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([0.01, 0.005])


class _Monitored(torch.optim.lr_scheduler.ReduceLROnPlateau):
    def __init__(self, optimizer: Any, monitor: str, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.monitor = monitor


def test_an_unknown_monitor_is_reported_with_the_logged_ones() -> None:
    task = tiny_task()
    task.scheduler_choice = Choice(_Monitored, {"monitor": "val/drag/NoC"})
    with pytest.raises(
        ValueError, match=r"monitor must be a logged metric, got 'val/drag/NoC'; known: .*val/drag/NoC@90"
    ):
        tiny_trainer(".", limit_train_batches=1).fit(task, tiny_data())


def test_an_unsuitable_optimizer_is_reported_before_training(tiny: str, capsys: Any) -> None:
    assert "optimizer LBFGS needs several losses per step" in complaint(capsys, "--optimizer=LBFGS")
    assert "optimizer.lr must be above 0, got -1.0" in complaint(
        capsys, "--optimizer=SGD", "--optimizer.lr=-1"
    )


# --- Trainer's options and callbacks -------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--trainer.callbacks=LearningRateMonitor"],
        ["--trainer.callbacks={class_path: Timer, init_args: {duration: '00:01:00:00'}}"],
        ["--trainer.callbacks+=TQDMProgressBar"],
        ["--trainer.overfit_batches=1"],
        ["--trainer.limit_val_batches=0"],
        ["--trainer.fast_dev_run=1"],
        ["--trainer.barebones=true", "--report=none"],
        ["--trainer.precision=64-true"],
        ["--trainer.precision=bf16-true", "--model.drag_share=0.5", "--model.val_prompts=[click]"],
        ["--trainer.precision=bf16-true", "--model.network.prompt_fusion=late"],
    ],
    ids=" ".join,
)
def test_options_of_the_trainer_work(args: list[str], tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(*args) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trainer.gradient_clip_val=1.0"], "set model.gradient_clip 1.0 instead"),
        (["--trainer.accumulate_grad_batches=2"], "set model.accumulate_batches and model.update sum"),
        (["--trainer.callbacks=LearningRateFinder"], "compare rates with `dct-seg sweep` over model.lr"),
        (["--trainer.callbacks=BackboneFinetuning"], "set model.backbone_lr_factor"),
        (
            [
                "--trainer.callbacks={class_path: GradientAccumulationScheduler, "
                "init_args: {scheduling: {0: 2}}}"
            ],
            "GradientAccumulationScheduler has no effect",
        ),
        (
            ["--trainer.callbacks={class_path: ModelPruning, init_args: {pruning_fn: l1_unstructured}}"],
            "set model.channels_last false",
        ),
        (["--trainer.callbacks=BatchSizeFinder"], "this run is on a CPU; set data.batch_size"),
    ],
)
def test_options_without_an_effect_name_their_replacement(
    args: list[str], message: str, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(capsys, *args)


def test_pruning_works_without_channels_last(tiny: str) -> None:
    pruning = "{class_path: ModelPruning, init_args: {pruning_fn: l1_unstructured, amount: 0.5}}"
    assert fit(f"--trainer.callbacks={pruning}", "--model.channels_last=false", "--report=none") == 0


def test_the_tuner_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BatchSizeFinder needs a GPU"):
        Tuner(tiny_trainer(tmp_path)).scale_batch_size(tiny_task(), tiny_data())
    with pytest.raises(ValueError, match="the learning-rate finder needs automatic optimization"):
        Tuner(tiny_trainer(tmp_path)).lr_find(tiny_task(), tiny_data())
    with pytest.raises(ValueError, match="the learning-rate finder needs"):
        tiny_trainer(tmp_path, callbacks=[LearningRateFinder()]).fit(tiny_task(), tiny_data())


def test_synchronized_norms_that_lost_their_activation_are_refused(tmp_path: Path) -> None:
    task = tiny_task({"backbone": "mobilenetv3_small_050"})
    task.net = SyncBatchNorm.convert_sync_batchnorm(task.net)  # as DDP does with sync_batchnorm
    with pytest.raises(ValueError, match="sync_batchnorm drops the activations inside the batch norms"):
        tiny_trainer(tmp_path).fit(task, tiny_data())


def test_a_timer_ends_a_run(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_epochs=50, callbacks=[Timer({"seconds": 0})])
    trainer.fit(tiny_task(), tiny_data())
    assert trainer.current_epoch < 49


def test_batches_accumulate_before_a_step(tmp_path: Path) -> None:
    task = tiny_task(update="sum", accumulate_batches=3, train_clicks=(1, 1))
    trainer = tiny_trainer(tmp_path, limit_val_batches=0)
    trainer.fit(task, tiny_data())  # four batches
    assert trainer.global_step == 2
    with pytest.raises(ValueError, match=r"accumulate_batches 3 .* set update to sum or last"):
        tiny_task(accumulate_batches=3)


# --- values out of range -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"lr": math.inf}, "lr must be above 0, got inf"),
        ({"backbone_lr_factor": math.nan}, "backbone_lr_factor must be at least 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"drag_loss": -1.0}, "drag_loss must be at least 0, got -1.0"),
        ({"click_jitter": math.inf}, "click_jitter must be at least 0, got inf"),
        ({"gradient_clip": math.nan}, "gradient_clip must be a norm, above 0, got nan"),
        ({"val_threshold": 2.0}, "val_threshold must be a probability, above 0 and below 1, got 2.0"),
        ({"losses": {"bce": -1.0}}, "losses.bce must be at least 0, got -1.0"),
        (
            {"losses": {}},
            r"losses must be a mapping of losses to weights, as in \{bce: 1.0\}, got \{\}; known: bce",
        ),
        ({"losses": "bce"}, "losses must be a mapping of losses to weights"),
        (
            {"losses": {"normalized_focal": {"gamma": math.nan}}},
            "losses.normalized_focal.gamma must be finite",
        ),
        ({"val_prompts": []}, r"val_prompts must be \[drag\], \[click\] or \[drag, click\], got \[\]"),
        ({"val_prompts": ["drag", "drag"]}, r"got \['drag', 'drag'\]"),
        (
            {"train_clicks": 3},
            "train_clicks must be the minimum and maximum number of clicks, at least 1, got 3",
        ),
        ({"train_clicks": (1, 2.5)}, r"at least 1, got \(1, 2.5\)"),
        ({"val_clicks": 2.5}, "val_clicks must be a whole number, at least 1, got 2.5"),
        ({"network": {"backbone": None}}, "the network's backbone must be text, got None"),
        ({"network": {"decoder_width": "8"}}, "the network's decoder_width must be a whole number, got '8'"),
        ({"network": {"click_encoder_options": "a"}}, "click_encoder_options must be a mapping, got 'a'"),
        ({"network": {"decoder_width": 0}}, "decoder_width must be at least 2, got 0"),
        ({"network": {"decoder_stride": 3}}, "decoder_stride must be 2, 4 or 8, got 3"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_task(**options)


def test_numpy_numbers_are_accepted_and_stored_as_plain_ones(tmp_path: Path) -> None:
    options = {"lr": np.float32(0.5), "train_clicks": (np.int64(1), np.int64(2)), "seed": np.int64(3)}
    task = tiny_task({"decoder_width": np.int64(8)}, **options)
    trainer = tiny_trainer(tmp_path, limit_val_batches=0, limit_train_batches=0)
    trainer.fit(task, tiny_data(batch_size=np.int64(2)))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    stored = torch.load(tmp_path / "plain.ckpt", weights_only=True)["hyper_parameters"]
    assert (stored["lr"], stored["train_clicks"], stored["network"]["decoder_width"]) == (0.5, (1, 2), 8)


# --- configurations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            "model:\ntrainer: {max_epochs: 2}",
            "'o.yaml': model must be a mapping, got nothing; give it values",
        ),
        ("data: [1]", r"'o.yaml': data must be a mapping, got [1]"),
        (
            "",
            "'o.yaml' must be a mapping of sections (model, data, trainer, interactions), got nothing",
        ),
        ("model: {lr: 0.1}\nmodel: {val_clicks: 2}", "'o.yaml', line 2: 'model' is given twice"),
        ("model: {lr: fast}", "model.lr must be float, got fast"),
        (
            "model: {losses: {bce: much}}",
            "model.losses must be dict[str, float | dict[str, float]] or null, got {",
        ),
        (
            "model: {network: {rejection: odd}}",
            "model.network.rejection must be one of true, printed; got odd",
        ),
        ("model: {network: {decoder_width: 8.5}}", "decoder_width must be a whole number, got 8.5"),
        ("model: {network: {decoder_wide: 8}}", "did you mean 'model.network.decoder_width'?"),
        (
            "data: {options: {size: 64}}",
            "the dataset Shapes cannot be created with min_object_size 80, size 64",
        ),
        ("data: {max_zoom: -1}", "max_zoom must be a factor, above 0, got -1.0"),
        (
            "data: {transform: torch.nn.ReLU}",
            "the transform ReLU cannot be called as transform(image=, mask=)",
        ),
        ("seed_everything: -3", "seed_everything must be at least 0"),
        (
            "optimizer: {class_path: SGD, init_args: {lr: fast}}",
            "optimizer.lr must be float or Tensor, got fast",
        ),
        ("lr_scheduler: {class_path: StepLR}", "lr_scheduler lacks step_size"),
        (
            "lr_scheduler: {class_path: CosineAnnealingLR, init_args: {T_max: 0}}",
            "lr_scheduler CosineAnnealingLR cannot step: integer modulo by zero",
        ),
        ("trainer: {callbacks: [Nope]}", "trainer.callbacks names no class 'Nope'"),
        (
            "trainer: {callbacks: {class_path: ModelCheckpoint, init_args: {save_last: maybe}}}",
            "trainer.callbacks.save_last must be bool or Literal['link'] or null, got maybe",
        ),
        (
            "trainer: {callbacks: {class_path: Timer, init_args: {duration: soon}}}",
            "error: `Timer(duration='soon')` is not a valid duration",
        ),
    ],
)
def test_a_configuration_with_wrong_types_is_reported_in_one_line(
    overlay: str, message: str, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("o.yaml").write_text(overlay)
    line = complaint(capsys, "--config", "o.yaml")
    assert message in line
    assert "class '" not in line or "names no class" in line


# --- training that diverges ----------------------------------------------------------------------------


def test_diverging_training_names_epoch_and_batch_and_leaves_no_checkpoint(tiny: str, capsys: Any) -> None:
    line = complaint(capsys, "--model.lr=1e30", "--trainer.max_epochs=3", "--model.train_clicks=[2, 2]")
    assert "training diverged: the loss is not finite in epoch 0, batch 0, click 2; lower model.lr" in line


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    task = tiny_task()
    trainer = tiny_trainer(tmp_path, limit_val_batches=0, limit_train_batches=1)
    trainer.fit(task, tiny_data())
    with torch.no_grad():
        task.net.decoder.predict.bias.fill_(math.nan)
    with pytest.raises(
        DivergedError, match=r"'net.decoder.predict.bias' is not finite .* no checkpoint is written"
    ):
        trainer.save_checkpoint(tmp_path / "broken.ckpt")
    assert not (tmp_path / "broken.ckpt").exists()
    with pytest.raises(DivergedError, match="is not finite; its weights diverged"):
        tiny_trainer(tmp_path).validate(task, tiny_data(), verbose=False)


# --- resume ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["file", "last"])
def test_values_given_on_resume_take_effect_and_are_reported(
    by: str, tiny: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit("--model.lr=1e-4", SAVE_LAST, "--report=none") == 0
    path = str(checkpoint_of()) if by == "file" else "last"
    more = ["--model.lr=1e-5", "--model.train_clicks=[2, 2]", "--model.schedule=constant"]
    with caplog.at_level("INFO"):
        assert fit(SAVE_LAST, "--report=none", "--trainer.max_epochs=2", *more, "--ckpt_path", path) == 0
    assert "resuming with lr 1e-05 (was 0.0001)" in caplog.text
    assert "train_clicks [2, 2] (was [1, 1])" in caplog.text
    newest = max(Path().rglob("last*.ckpt"), key=lambda one: one.stat().st_mtime)
    assert rates_of(newest) == [1e-5, 1e-5]
    stored = torch.load(newest, weights_only=True)["hyper_parameters"]
    assert (stored["lr"], list(stored["train_clicks"])) == (1e-5, [2, 2])
    config = max(Path().rglob("config.yaml"), key=lambda one: one.stat().st_mtime)
    assert yaml.safe_load(config.read_text())["model"]["lr"] == 1e-5


def resume(folder: Path, optimizer: Choice | None, scheduler: Choice | None = None) -> Trainer:
    task = tiny_task(train_clicks=(1, 1))
    task.optimizer_choice, task.scheduler_choice = optimizer, scheduler
    saving = ModelCheckpoint(folder, save_last=True)
    epochs = 2 if (folder / "last.ckpt").exists() else 1
    trainer = tiny_trainer(
        folder, max_epochs=epochs, enable_checkpointing=True, callbacks=[saving], limit_train_batches=1
    )
    trainer.fit(task, tiny_data(), ckpt_path="last" if epochs == 2 else None)
    return trainer


@pytest.mark.parametrize("lr", [1e-2, 5e-3])
def test_rates_relative_to_the_magnitude_are_those_of_the_start_on_resume(lr: float, tmp_path: Path) -> None:
    for epochs, rate in ((1, 1e-2), (2, lr)):
        task = tiny_task(
            {"feature_dct_norm": "none"},
            train_clicks=(1, 1),
            lr=rate,
            optimizer="adamw",
            weight_decay=20.0,  # shrinks the weights, and so their magnitude at the resume
            schedule="constant",
        )
        saving = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
        trainer = tiny_trainer(
            tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=[saving], limit_val_batches=0
        )
        trainer.fit(task, tiny_data(), ckpt_path="last" if epochs == 2 else None)
        if epochs == 1:
            before = rates_of(tmp_path / "last.ckpt")
    assert len(before) > 2
    assert rates_of(tmp_path / "last.ckpt") == pytest.approx([one * lr / 1e-2 for one in before])


def test_without_a_drag_loss_the_auto_drag_head_does_not_change(tmp_path: Path) -> None:
    task = tiny_task(train_clicks=(1, 1), drag_loss=0.0, optimizer="adamw", weight_decay=1.0, lr=1e-2)
    assert task.net.auto_drag is not None
    before = [p.detach().clone() for p in task.net.auto_drag.parameters()]
    others = [p.detach().clone() for p in task.net.decoder.parameters()]
    trainer = tiny_trainer(tmp_path, limit_val_batches=0, limit_train_batches=2)
    trainer.fit(task, tiny_data())
    assert all(torch.equal(*pair) for pair in zip(before, task.net.auto_drag.parameters(), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(others, task.net.decoder.parameters(), strict=True))


def test_arguments_of_a_chosen_optimizer_and_schedule_take_effect_on_resume(tmp_path: Path) -> None:
    step = torch.optim.lr_scheduler.StepLR
    resume(
        tmp_path,
        Choice(torch.optim.SGD, {"lr": 0.4, "momentum": 0.5}),
        Choice(step, {"step_size": 1, "gamma": 0.5}),
    )
    trainer = resume(
        tmp_path,
        Choice(torch.optim.SGD, {"lr": 0.8, "momentum": 0.9}),
        Choice(step, {"step_size": 1, "gamma": 0.1}),
    )
    group = trainer.optimizers[0].param_groups[0]
    assert group["momentum"] == 0.9
    assert group["lr"] == pytest.approx(0.8 * 0.5 * 0.1)


def stepped(kind: Any, before: dict[str, Any], now: dict[str, Any], epochs: int) -> tuple[list[float], Any]:
    """Learning rates of a run of ``epochs`` that resumes after its first epoch, and the change's report."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    states: Any = None
    rates: list[float] = []
    for options, count in ((before, 1), (now, epochs - 1)):
        choice, optimizer = Choice(kind, options), torch.optim.SGD([parameter], lr=1.0)
        scheduler = make_scheduler(optimizer, choice, lambda epoch: 1.0)
        settings = settings_of(optimizer, choice)
        if states:
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
            changes = apply_changes(optimizer, [scheduler], states[2], settings)
        for _ in range(count):
            optimizer.step()
            scheduler.step(*([1.0] if kind is ReduceLROnPlateau else []))
            rates.append(optimizer.param_groups[0]["lr"])
        states = (optimizer.state_dict(), scheduler.state_dict(), settings)
    return rates, changes


def test_arguments_of_a_schedule_that_it_stores_under_another_name_take_effect_on_resume() -> None:
    rates, changes = stepped(MultiStepLR, {"milestones": [4, 9]}, {"milestones": [2, 3]}, 4)
    assert rates == pytest.approx([1, 0.1, 0.01, 0.01])
    assert changes == ["lr_scheduler.milestones [2, 3] (was [4, 9])"]
    rates, changes = stepped(
        ReduceLROnPlateau, {"patience": 0, "min_lr": 0.0}, {"patience": 0, "min_lr": 0.5}, 4
    )
    assert rates == [1, 0.5, 0.5, 0.5]
    assert changes == ["lr_scheduler.min_lr 0.5 (was 0.0)"]


def test_counters_of_a_schedule_survive_a_changed_argument() -> None:
    # the first bad epoch, before the resume, counts toward the patience of 2 after it
    rates, changes = stepped(ReduceLROnPlateau, {"patience": 9}, {"patience": 1, "factor": 0.5}, 4)
    assert rates == [1, 1, 0.5, 0.5]
    assert changes == ["lr_scheduler.patience 1 (was 9)", "lr_scheduler.factor 0.5 (was the default)"]


def test_a_resume_with_another_optimizer_is_refused(tmp_path: Path) -> None:
    resume(tmp_path, Choice(torch.optim.SGD, {"lr": 0.1}))
    with pytest.raises(
        ValueError, match="the checkpoint's optimizer is SGD, the configuration's Adam; give --optimizer"
    ):
        resume(tmp_path, None)


def test_last_refuses_another_architecture_in_one_line(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(SAVE_LAST, "--report=none") == 0
    assert fit(SAVE_LAST, "--model.network.decoder_width=16", "--ckpt_path=last") == 2
    assert "of another architecture: decoder_width 8 (the configuration says 16)" in capsys.readouterr().err


def test_validating_a_checkpoint_downloads_no_backbone(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit(SAVE_LAST, "--report=none") == 0
    path = checkpoint_of()
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["network"]["backbone_weights"] = "imagenet"
    torch.save(content, path)
    monkeypatch.setenv("HF_HUB_CACHE", "empty")
    assert main(["validate", "--config", "tiny.yaml", "--ckpt_path", str(path)]) == 0


def test_options_of_the_evaluation_override_those_of_the_checkpoint(
    tiny: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(SAVE_LAST, "--report=none") == 0
    path = str(checkpoint_of())
    used: list[Any] = []
    monkeypatch.setattr(
        InteractiveSegmentationTask,
        "on_validation_start",
        lambda task: used.append((task.hparams["mark_clicks"], task.hparams["radius_from"])),
    )
    shared = ["validate", "--config", "tiny.yaml", "--ckpt_path", path]
    assert main(shared) == 0
    with caplog.at_level("INFO"):
        assert main([*shared, "--model.mark_clicks=true", "--model.radius_from=mask"]) == 0
    assert used == [(False, "head"), (True, "mask")]
    assert "validate with mark_clicks True (was False), radius_from mask (was head)" in caplog.text


# --- several loaders, prediction, plots ----------------------------------------------------------------


def two_batches() -> dict[str, Any]:
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    mask[0, 8:40, 8:40] = True
    mask[1, 20:60, 10:50] = True
    return {"image": torch.rand(2, 3, SIDE, SIDE), "mask": mask}


def test_several_validation_loaders_get_separate_rows(tmp_path: Path) -> None:
    task = tiny_task(val_clicks=1)
    trainer = tiny_trainer(tmp_path, limit_train_batches=1)
    trainer.fit(task, loader_of(two_batches()), [loader_of(two_batches()), loader_of(two_batches())])
    assert {
        "val/drag/AuC/dataloader_idx_0",
        "val/drag/AuC/dataloader_idx_1",
    } <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["val/drag/num_seen/dataloader_idx_1"] == 2


def test_prediction_gives_masks_clicks_and_names(tmp_path: Path) -> None:
    first, *_ = tiny_trainer(tmp_path).predict(tiny_task(val_clicks=2), tiny_data())  # type: ignore[misc]
    assert first["mask"].dtype == torch.bool
    assert first["mask"].shape == first["logits"][:, 0].shape
    assert first["iou"].shape[1] == first["clicks"].labels.shape[1] == 2
    assert first["name"][0].startswith("val/")


def test_a_metric_plots_itself() -> None:
    metric = NumberOfClicks(2, max_clicks=3, miou_at=(1,))
    metric.update(torch.tensor([[0.5, 0.9, 0.95], [0.7, 0.7, 0.7]]), torch.tensor([0, 1]))
    _, axes = metric.plot()
    assert len(axes.lines) + len(axes.collections) > 0
    _, axes = metric.plot([metric.compute(), metric.compute()])
    assert len(axes.lines) > 0


# --- custom data ---------------------------------------------------------------------------------------


def own_loader(image: torch.Tensor, mask: torch.Tensor) -> DataLoader[Any]:
    return DataLoader([(image, mask)] * 4, batch_size=2)


def test_pairs_of_image_and_mask_train_and_validate(tmp_path: Path) -> None:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[0, 10:40, 10:40] = 1
    task = tiny_task(val_clicks=1)
    before = weights(task.net)
    trainer = tiny_trainer(tmp_path, limit_train_batches=1)
    byte = (torch.rand(3, SIDE, SIDE) * 255).byte()
    trainer.fit(task, own_loader(byte, mask), own_loader(torch.rand(3, SIDE, SIDE), mask))
    assert trainer.callback_metrics["val/drag/num_seen"] == 4
    assert not torch.equal(before["decoder.predict.weight"], task.net.decoder.predict.weight)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            [torch.rand(2, 3, 8, 8)],
            "a batch must be a pair .image, mask. or a mapping with image and mask, got list",
        ),
        ({"img": 1, "mask": 2}, "a mapping with image and mask, got img, mask"),
        (
            (torch.rand(2, 8, 8, 3), torch.zeros(2, 8, 8)),
            r"image must be a tensor \(B, 3, H, W\), got \(2, 8, 8, 3\)",
        ),
        ((torch.rand(2, 3, 8, 8) * 255, torch.zeros(2, 8, 8)), "got values from .* divide it by 255"),
        ((torch.randn(2, 3, 8, 8) * 3, torch.zeros(2, 8, 8)), "do not normalize it, the network does that"),
        (
            (torch.zeros(2, 3, 8, 8).int(), torch.zeros(2, 8, 8)),
            "image must be float in 0..1 or uint8, got torch.int32",
        ),
        (
            (torch.rand(2, 3, 8, 8), torch.zeros(2, 4, 8)),
            r"mask must be a tensor \(B, H, W\) .* got \(2, 4, 8\)",
        ),
        ((torch.rand(1, 3, 2, 2), torch.tensor([[[0, 255], [0, 0]]])), "compare it first, as in mask > 127"),
        (
            (torch.rand(1, 3, 2, 2), torch.tensor([[[0.2, 1], [0, 0]]])),
            "mask must be bool or 0 and 1 .* got 0.2",
        ),
    ],
)
def test_an_invalid_batch_is_reported_in_one_line(batch: Any, message: str) -> None:
    task: InteractiveSegmentationTask = tiny_task()
    with pytest.raises((TypeError, ValueError), match=message):
        task.training_step(batch, 0)


def test_255_in_a_mask_is_ignored() -> None:
    from dct_seg.data.batches import checked_batch

    batch = checked_batch((torch.rand(1, 3, 2, 2), torch.tensor([[[0, 255], [1, 0]]])))
    assert batch["mask"].tolist() == [[[False, False], [True, False]]]
    assert batch["ignore"].tolist() == [[[False, True], [False, False]]]
