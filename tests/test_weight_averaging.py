"""A run that ends between its starting weights and its trained weights."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tiny import assert_same_weights, tiny_data, tiny_task, tiny_trainer, weights

from dct_seg import InteractiveSegmentationTask
from dct_seg.models import pretrained
from dct_seg.training.weight_averaging import StartWeightAveraging


class Seen(Callback):
    """Callback that records the trained weights and those of validation."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.trained = weights(pl_module)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.validated = weights(pl_module)


def train(
    folder: Path, share: float | None, *, max_epochs: int = 2, ckpt_path: str | None = None
) -> tuple[Any, Seen]:
    task, seen = tiny_task(schedule="constant"), Seen()
    averaging = [] if share is None else [StartWeightAveraging(share)]
    checkpoint = ModelCheckpoint(folder, save_last=True, every_n_epochs=1, save_on_train_epoch_end=True)
    trainer = tiny_trainer(
        folder, max_epochs=max_epochs, enable_checkpointing=True, callbacks=[seen, *averaging, checkpoint]
    )
    trainer.fit(task, tiny_data(), ckpt_path=ckpt_path)
    return task, seen


@pytest.mark.slow
def test_the_run_ends_between_its_start_and_its_trained_weights(tmp_path: Path) -> None:
    start = weights(tiny_task())
    task, seen = train(tmp_path, 0.75)
    _, alone = train(tmp_path / "alone", None)
    assert_same_weights(seen.trained, alone.trained)  # averaging does not disturb training
    ended = weights(task)
    for key, value in seen.trained.items():
        if value.is_floating_point():
            torch.testing.assert_close(ended[key], 0.75 * start[key] + 0.25 * value, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(ended[key], value)
    assert any(
        not torch.equal(ended[key], start[key]) and not torch.equal(ended[key], seen.trained[key])
        for key in ended
    )
    assert_same_weights(ended, seen.validated)


@pytest.mark.slow
def test_a_checkpoint_stores_the_average_as_its_weights(tmp_path: Path) -> None:
    task, _ = train(tmp_path, 0.5)
    assert_same_weights(
        weights(InteractiveSegmentationTask.load_from_checkpoint(tmp_path / "last.ckpt")), weights(task)
    )
    stored = pretrained.load(tmp_path / "last.ckpt").state
    assert_same_weights(stored, weights(task.net))


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, seen = train(tmp_path / "whole", 0.5)
    train(tmp_path / "parts", 0.5, max_epochs=1)
    resumed, seen_again = train(tmp_path / "parts", 0.5, ckpt_path=str(tmp_path / "parts" / "last.ckpt"))
    assert_same_weights(seen.trained, seen_again.trained)
    assert_same_weights(weights(whole), weights(resumed))


def test_the_average_may_be_on_another_device_than_the_trained_weights(tmp_path: Path) -> None:
    task, averaging, trainer = tiny_task(), StartWeightAveraging(0.5), tiny_trainer(tmp_path)
    averaging.setup(trainer, task, "fit")
    assert averaging._average_model is not None
    averaging._average_model.to("meta")
    averaging.on_train_batch_end(trainer, task, None, None, 0)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"start_share must be 0 or more and below 1, got {share}"):
        StartWeightAveraging(share)


@pytest.mark.parametrize(
    ("old", "names"),
    [
        ("task", ["InteractiveSegmentationTask"]),
        ("callbacks", ["InteractionLogger", "RunConfigCallback"]),
        ("weight_averaging", ["StartWeightAveraging"]),
    ],
)
def test_former_modules_named_in_configurations_still_work(old: str, names: list[str]) -> None:
    former, present = import_module(f"dct_seg.{old}"), import_module(f"dct_seg.training.{old}")
    assert [getattr(former, name) is getattr(present, name) for name in names] == [True] * len(names)
