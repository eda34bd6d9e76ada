"""A run that starts from trained weights.

The run has their network and their values, and an error if the configuration differs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY, assert_same_weights, tiny_data, tiny_task, tiny_trainer, weights

from dct_seg import DCTNet, DCTNetConfig, InteractiveSegmentationTask


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    return DCTNet(DCTNetConfig(**TINY)).save_pretrained(tmp_path / "trained.safetensors")


def test_training_starts_with_the_weights_and_their_network(trained: Path) -> None:
    task = InteractiveSegmentationTask(start_from=str(trained))
    assert_same_weights(weights(task.net), weights(DCTNet.from_pretrained(trained)))
    assert task.net.config.decoder_width == TINY["decoder_width"]
    assert task.net.training


def test_one_epoch_moves_the_weights_and_its_checkpoint_loads_without_the_file(
    trained: Path, tmp_path: Path
) -> None:
    task = InteractiveSegmentationTask(start_from=str(trained), lr=1e-3, train_clicks=(1, 1), val_clicks=1)
    trainer = tiny_trainer(tmp_path)
    before = weights(task.net)
    trainer.fit(task, tiny_data())
    assert any(not torch.equal(before[key], value) for key, value in weights(task.net).items())
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    trained.unlink()
    assert_same_weights(
        weights(InteractiveSegmentationTask.load_from_checkpoint(tmp_path / "after.ckpt")), weights(task)
    )


def test_another_network_is_refused_with_its_first_difference(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"network with another decoder_width; omit model\.network"):
        tiny_task({"decoder_width": 24}, start_from=str(trained))


def test_the_same_network_may_be_given_with_the_weights(trained: Path) -> None:
    assert tiny_task(start_from=str(trained)).net.config.decoder_width == TINY["decoder_width"]


def test_unknown_weights_are_reported_with_the_shipped_names() -> None:
    with pytest.raises(ValueError, match=r"did you mean .dct-lite0.\?"):
        InteractiveSegmentationTask(start_from="dct-lite9")
