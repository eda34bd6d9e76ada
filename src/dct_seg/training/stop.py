"""Stop a run at the end of a batch, with a checkpoint to resume from."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from dct_seg.files import newest_file
from dct_seg.signals import Stopped, handle_here

LAST = "last{}.ckpt"


class StopAtBatchEnd(Callback):
    """Callback that stops at the end of the batch after SIGINT or SIGTERM; a second signal stops at once.

    Training saves a last checkpoint first. Under DDP, all ranks stop at the same batch, whichever rank gets
    the signal. Lightning itself would stop inside a batch after SIGINT, and with exit code 0 after SIGTERM.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._saved: Path | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers; Lightning restores the old ones at the end."""
        handle_here(self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a checkpoint and stop if a signal has arrived."""
        if not self._must_stop(trainer):
            return
        self._saved = checkpoint_path(trainer)
        if self._saved is not None:
            trainer.save_checkpoint(self._saved)
        raise self._stopped(f"epoch {trainer.current_epoch}, batch {batch_idx + 1}")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop a validation during training if a signal has arrived."""
        if trainer.state.fn == TrainerFn.FITTING and self._must_stop(trainer):
            self._saved = newest_checkpoint(trainer)
            raise self._stopped("the last epoch" if self._saved else "")

    def _must_stop(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signum is not None, all=False)

    def _stopped(self, place: str) -> Stopped:
        advice = "no checkpoint was written"
        if self._saved is not None:
            advice = f"to resume from {place}, run the same command with --ckpt_path {self._saved}"
        return Stopped(self._signum or signal.SIGTERM, advice)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._signum is not None:
            raise Stopped(signum, "at once, without another checkpoint")
        self._signum = signum
        if (
            os.environ.get("LOCAL_RANK", "0") == "0"
        ):  # one line for all ranks; the signal may have interrupted print
            os.write(2, b"dct-seg: stopping at this batch's end; once more stops at once\n")


def checkpoint_path(trainer: Trainer) -> Path | None:
    """Path for this run's last checkpoint; None if checkpoints are off."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            own = Path(callback.last_model_path) if callback.last_model_path else None
            if own is not None and not own.is_symlink():
                return own
            names = (LAST.format(f"-v{number}" if number else "") for number in range(10_000))
            return next(
                path for path in (Path(callback.dirpath) / name for name in names) if not path.exists()
            )
    return None


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """Newest checkpoint of this run, or None."""
    callbacks = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    paths = [Path(path) for one in callbacks for path in (one.last_model_path, one.best_model_path) if path]
    return newest_file(path for path in paths if path.exists())
