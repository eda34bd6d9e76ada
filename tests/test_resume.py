import os
import signal

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from processes import FORKS
from tiny import assert_same_weights, tiny_data, tiny_task, tiny_trainer, weights

CHECKPOINTS = {
    "each batch": {"every_n_train_steps": 1},
    "end of the epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "validation": {},  # before the epoch's end, where the schedule is stepped
}


class Kill(Callback):
    """kill -9 in the middle of a batch in the middle of the second epoch."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.current_epoch == 1 and trainer.fit_loop.epoch_loop.batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)


class LastWeights(Callback):
    """Callback that records the trained weights; after training, the task has their averages."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found = weights(pl_module)


def train(folder, when, *, is_killed=False, ckpt_path=None, num_workers=0):
    """Two epochs of four batches with everything random switched on.

    The weights as trained, and as averaged.
    """
    # New random weights of the second process must be replaced by the checkpoint's.
    task = tiny_task(
        weights_seed=0 if ckpt_path is None else 1,
        train_clicks=(1, 3),
        drag_share=0.5,
        place="core",
        radius_noise=0.2,
        click_jitter=3.0,
        schedule="step",
        step_epochs=1,
    )
    last = LastWeights()
    checkpoint = ModelCheckpoint(folder / when, save_last=True, **CHECKPOINTS[when])
    trainer = tiny_trainer(
        folder,
        max_epochs=2,
        enable_checkpointing=True,
        callbacks=[last, EMAWeightAveraging(decay=0.8), checkpoint, *([Kill()] if is_killed else [])],
    )
    data = tiny_data(options={"num_images": 8, "size": (72, 80)}, crop_size=64, num_workers=num_workers)
    trainer.fit(task, data, ckpt_path=ckpt_path)
    return last.found, weights(task), [group["lr"] for group in trainer.optimizers[0].param_groups]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"), "end of the epoch")


def kill(folder, when):
    process = FORKS.Process(target=train, args=(folder, when), kwargs={"is_killed": True})
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("when", CHECKPOINTS)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(when, uninterrupted, tmp_path):
    kill(tmp_path, when)
    left = torch.load(tmp_path / when / "last.ckpt", weights_only=True)
    batches = left["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
    assert (left["epoch"], batches) == ((1, 2) if when == "each batch" else (0, 4))
    trained, averaged, rates = train(tmp_path, when, ckpt_path="last", num_workers=1)
    assert rates == uninterrupted[2]
    assert_same_weights(uninterrupted[0], trained)
    assert_same_weights(uninterrupted[1], averaged)
