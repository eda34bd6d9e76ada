"""Trainer hooks of the task: option checks, optimizer, schedule and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import SyncBatchNorm

from dct_seg.models.network import InteractiveNetwork
from dct_seg.models.pretrained import check_tensors
from dct_seg.training.optimizers import (
    SETTINGS_KEY,
    Choice,
    Settings,
    apply_changes,
    changed_values,
    check_same_classes,
    keep_magnitudes,
    log_on_first_rank,
    make_optimizer,
    make_scheduler,
    rate_at,
    settings_of,
    step_scheduler,
    stored_settings,
)

NOT_ARCHITECTURE = ("backbone_weights", "frozen_batch_norm")
"""Keys of the network configuration that do not change tensor shapes."""


class DivergedError(ValueError):
    """Divergence of training: a loss or a weight is infinite or NaN."""


class TaskHooks(LightningModule):
    """Optimizer, schedule, checkpoints, and checks of the Trainer's options for training click by click.

    Attributes:
        is_channels_last: Whether the weights are channels-last in memory.
        optimizer_choice: Torch optimizer that replaces ``optimizer``, ``lr`` and ``weight_decay``.
        scheduler_choice: Torch scheduler that replaces ``schedule``, stepped once per epoch.
    """

    net: InteractiveNetwork
    is_channels_last = False
    optimizer_choice: Choice | None = None
    scheduler_choice: Choice | None = None

    _settings: Settings | None = None
    _restored: Settings | None = None
    _validated = False

    def configure_callbacks(self) -> list[Callback]:
        """Add no callback; refuse Trainer options that do not work with training click by click.

        Raises:
            ValueError: When such an option is set.
        """
        trainer = self.trainer
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if _has(callbacks, BatchSizeFinder) and trainer.strategy.root_device.type == "cpu":
            raise ValueError(
                "BatchSizeFinder needs a GPU, whose memory it fills, but this run is on a CPU; set "
                "data.batch_size instead"
            )
        if trainer.state.fn != TrainerFn.FITTING:
            return []
        if trainer.gradient_clip_val:
            raise ValueError(
                f"trainer.gradient_clip_val {trainer.gradient_clip_val} has no effect when each click is a "
                f"step; set model.gradient_clip {trainer.gradient_clip_val} instead"
            )
        number = trainer.accumulate_grad_batches
        is_scheduled = _has(callbacks, GradientAccumulationScheduler)
        if number != 1 or is_scheduled:
            given = (
                "GradientAccumulationScheduler"
                if is_scheduled
                else f"trainer.accumulate_grad_batches {number}"
            )
            raise ValueError(
                f"{given} has no effect when each click is a step; set model.accumulate_batches and "
                "model.update sum, or a larger batch_size"
            )
        if _has(callbacks, LearningRateFinder):
            raise ValueError(
                "the learning-rate finder needs automatic optimization, but here each click is a step; "
                "compare rates with `dct-seg sweep` over model.lr"
            )
        if _has(callbacks, BackboneFinetuning):
            raise ValueError(
                "BackboneFinetuning adds the backbone to the optimizer, but here it is there from the start; "
                "set model.backbone_lr_factor, the backbone's share of the learning rate"
            )
        if _has(callbacks, ModelPruning) and self.is_channels_last:
            raise ValueError(
                "ModelPruning cannot read weights that are channels-last in memory; set model.channels_last "
                "false"
            )
        return []

    def configure_optimizers(self) -> Any:
        """Make the optimizer, with the network's groups of parameters, and the schedule by epochs.

        Raises:
            ValueError: When the schedule is ``cosine`` and the number of epochs is not set, or a
                choice cannot be used.
        """
        is_cosine = self.scheduler_choice is None and self.hparams["schedule"] == "cosine"
        if is_cosine and self.trainer.max_epochs in (None, -1):
            raise ValueError(
                "schedule cosine ends with the last epoch, but the Trainer has no max_epochs; set it, or "
                "use step or constant"
            )
        # A fused optimizer unscales inside its step, which is too late to clip.
        fused = self.trainer.precision != "16-mixed" or self.hparams["gradient_clip"] is None
        optimizer = make_optimizer(self.net, self.hparams, self.optimizer_choice, fused=fused)
        scheduler = make_scheduler(optimizer, self.scheduler_choice, self._rate_at)
        self._settings = settings_of(optimizer, self.scheduler_choice)
        if self._restored is not None:
            keep_magnitudes(self._settings, self._restored)
        return [optimizer], [scheduler]

    def _rate_at(self, epoch: int) -> float:
        return rate_at(epoch, self.hparams, int(self.trainer.max_epochs or 1))

    def _schedulers(self) -> list[Any]:
        found: Any = self.lr_schedulers()
        return found if isinstance(found, list) else [] if found is None else [found]

    def on_fit_start(self) -> None:
        """Refuse lost activations, and a checkpoint of another optimizer before its state is restored.

        Raises:
            ValueError: When the checkpoint has another optimizer, or ``sync_batchnorm`` has dropped the
                activations that timm keeps in its batch norms.
        """
        if any(isinstance(m, SyncBatchNorm) and hasattr(m, "act") for m in self.net.modules()):
            raise ValueError(
                f"trainer.sync_batchnorm drops the activations inside the batch norms of backbone "
                f"'{self.net.config.backbone}'; leave it off: pretrained norms are frozen by default and "
                "need no synchronization"
            )
        if self._restored is not None and self._settings is not None:
            check_same_classes(self._restored, self._settings)

    def on_train_start(self) -> None:
        """Apply the given values instead of the checkpoint's after a resume."""
        stored, self._restored = self._restored, None
        if stored is None or self._settings is None:
            return
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        changes = apply_changes(optimizer, self._schedulers(), stored, self._settings)
        if self.scheduler_choice is None:  # our schedule is a function of the epoch only
            for scheduler in self._schedulers():
                for group, base in zip(optimizer.param_groups, scheduler.base_lrs, strict=True):
                    group["lr"] = base * self._rate_at(scheduler.last_epoch)
        if changes and (self.optimizer_choice or self.scheduler_choice):
            log_on_first_rank(f"resuming with {', '.join(changes)}")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradient, which is already unscaled under precision 16-mixed.

        With ``drag_loss: 0``, drop the zero gradients of the Auto-Drag-Head, so that weight decay does not
        change it.
        """
        if self.net.auto_drag is not None and self.hparams["drag_loss"] == 0:
            for parameter in self.net.auto_drag.parameters():
                parameter.grad = None
        if self.hparams["gradient_clip"] is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.hparams["gradient_clip"])

    def on_train_epoch_start(self) -> None:
        """Mark this epoch as not yet validated."""
        self._validated = False

    def on_validation_end(self) -> None:
        """Mark this epoch as validated."""
        self._validated = not self.trainer.sanity_checking

    def on_train_epoch_end(self) -> None:
        """Log the learning rate of the epoch, and step the schedule."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        self.log("lr", float(optimizer.param_groups[0]["lr"]))
        for scheduler in self._schedulers():
            step_scheduler(scheduler, self.trainer, validated=self._validated)

    def check_finite(self, losses: Tensor, batch_idx: int) -> None:
        """Raise on every rank if a loss is not finite on any.

        Args:
            losses: (K,) loss after each click of a batch.
            batch_idx: Number of the batch in its epoch.

        Raises:
            DivergedError: When a loss is not finite.
        """
        bad = ~losses.isfinite()
        any_rank = self.trainer.strategy.reduce(bad.any().float(), reduce_op="sum")
        if float(any_rank) == 0:
            return
        click = f", click {int(bad.nonzero()[0]) + 1}" if bad.any() else " on another rank"
        raise DivergedError(
            f"training diverged: the loss is not finite in epoch {self.current_epoch}, batch "
            f"{batch_idx}{click}; lower model.lr, set model.gradient_clip, or check the data with "
            "`dct-seg data check`"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the optimizer's settings; never write weights that are not finite.

        Raises:
            DivergedError: When a weight is not finite.
        """
        broken = _first_not_finite(checkpoint.get("state_dict", {}))
        if broken is not None:
            raise DivergedError(
                f"training diverged: '{broken}' is not finite in epoch {self.current_epoch} after "
                f"{self.trainer.global_step} steps, and no checkpoint is written; lower model.lr, or set "
                "model.gradient_clip"
            )
        if self._settings is not None:
            checkpoint[SETTINGS_KEY] = self._settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare a checkpoint with this task before its tensors are loaded.

        Raises:
            ValueError: When the checkpoint has another architecture or optimizer, or a broken tensor.
        """
        stored = checkpoint.get("hyper_parameters", {})
        check_same_network(stored.get("network", {}), self.hparams["network"])
        check_tensors("the checkpoint", checkpoint.get("state_dict", {}), self.state_dict())
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        given = {key: value for key, value in self.hparams.items() if key != "network"}
        changes = changed_values(stored, given)
        if changes:
            log_on_first_rank(f"resuming with {', '.join(changes)}")
        self._restored = stored_settings(checkpoint)


def _has(callbacks: list[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(one, kind) for one in callbacks)


def check_same_network(
    stored: Mapping[str, Any], given: Mapping[str, Any], *, name: str = "the checkpoint"
) -> None:
    """Check that a checkpoint's network has the same architecture.

    Args:
        stored: Configuration of the checkpoint's network.
        given: Configuration of the run's network.
        name: Name of the checkpoint in the error.

    Raises:
        ValueError: When it differs; the message names the keys.
    """
    differing = [
        f"{key} {value!r} (the configuration says {given[key]!r})"
        for key, value in stored.items()
        if key in given and key not in NOT_ARCHITECTURE and given[key] != value
    ]
    if differing:
        raise ValueError(
            f"{name} is of another architecture: {', '.join(differing)}; give its own configuration"
        )


def _first_not_finite(state: Mapping[str, Any]) -> str | None:
    return next(
        (
            key
            for key, value in state.items()
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
        ),
        None,
    )
