"""Validation, test and prediction steps: simulated clicks, and a table of IoUs per prompt and loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from dct_seg.data.batches import checked_batch, names_of
from dct_seg.interaction import Interaction, interact
from dct_seg.metrics import NumberOfClicks, iou
from dct_seg.models.network import InteractiveNetwork
from dct_seg.simulation import Prompt, predicted
from dct_seg.simulation.user import SimulatedUser
from dct_seg.training.hooks import DivergedError
from dct_seg.training.learner import EncodedBatch


def loaders_in(loaders: Any) -> list[Any]:
    """List the loaders of a Trainer: one, a sequence or a mapping."""
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]


class EvaluationSteps(LightningModule):
    """Validation, test and prediction steps of the task.

    Attributes:
        net: Network to measure.
        val_prompts: Prompts to validate with.
        val_clicks: Maximum clicks per sample.
        val_threshold: Probability above which a pixel counts as object.
        val_tables: Metrics by prompt, for each loader.
    """

    net: InteractiveNetwork
    val_prompts: list[Prompt]
    val_clicks: int
    val_threshold: float
    val_tables: list[dict[Prompt, NumberOfClicks]]

    def __init__(self) -> None:
        super().__init__()
        self.val_tables = []
        self._num_seen: list[int] = []

    def on_validation_epoch_start(self) -> None:
        """Start a new table of IoUs for each prompt and loader."""
        self._start_tables(self.trainer.val_dataloaders)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Make all clicks of a batch under the protocol ``max_distance``, once per prompt.

        Args:
            batch: Batch, see `dct_seg.data.batches`.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the loader; 0 for a single one.
        """
        batch = checked_batch(batch)
        ids = self._sample_ids(batch, dataloader_idx)
        model = EncodedBatch(self.net, batch["image"])
        for prompt, metric in self.val_tables[dataloader_idx].items():
            ious, _ = self._play(model, batch, prompt)
            metric.update(ious, ids)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Predict masks with simulated clicks, as in validation, with the first prompt.

        Args:
            batch: Batch, see `dct_seg.data.batches`.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the loader; 0 for a single one.

        Returns:
            ``mask`` (B, H, W) bool, ``logits`` (B, 1, H, W), ``iou`` (B, K) after each click, ``clicks``, and
            the batch's ``name`` and, if present, ``sample_id``.
        """
        batch = checked_batch(batch)
        ious, last = self._play(EncodedBatch(self.net, batch["image"]), batch, self.val_prompts[0])
        answer = {"mask": predicted(last.logits, self.val_threshold), "logits": last.logits, "iou": ious}
        ids = {"sample_id": batch["sample_id"]} if "sample_id" in batch else {}
        return {**answer, "clicks": last.clicks, "name": names_of(batch), **ids}

    def _play(
        self, model: EncodedBatch, batch: Mapping[str, Any], prompt: Prompt
    ) -> tuple[Tensor, Interaction]:
        """Make all clicks: IoU after each click, (B, K), and the last interaction."""
        mask, ignore = batch["mask"], batch["ignore"]
        prompts = torch.full((len(mask),), prompt == "drag")
        user = SimulatedUser(mask, ignore, rule="max_distance", prompt=prompts, threshold=self.val_threshold)
        ious = torch.ones(len(mask), self.val_clicks, dtype=torch.float32, device=self.device)
        finished = torch.zeros(len(mask), dtype=torch.bool, device=self.device)
        steps = interact(
            model,
            batch["image"],
            user,
            self.val_clicks,
            marks_clicks=self.hparams["mark_clicks"],
            radius_from=self.hparams["radius_from"],
        )
        for step in steps:
            if not bool(step.logits.isfinite().all()):
                shown = ", ".join(names_of(batch)[:3])
                raise DivergedError(f"the network's output for {shown} is not finite; its weights diverged")
            # a finished sample keeps its last IoU while others in the batch continue
            finished = finished | step.asked.done
            now = iou(predicted(step.logits, self.val_threshold), mask, ignore).to(ious)
            ious[:, step.index :] = torch.where(finished, ious[:, step.index], now)[:, None]
        return ious, step

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of each prompt, such as ``val/drag/NoC@90``."""
        self._log_tables("val")

    def on_test_epoch_start(self) -> None:
        """Start new tables, as in validation."""
        self._start_tables(self.trainer.test_dataloaders)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Run all clicks of a batch, as `validation_step` does."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of each prompt, such as ``test/drag/NoC@90``."""
        self._log_tables("test")

    @property
    def val_metrics(self) -> dict[Prompt, NumberOfClicks]:
        """Metrics of the first loader, by prompt."""
        return self.val_tables[0] if self.val_tables else {}

    def _start_tables(self, loaders: Any) -> None:
        miou_at = [k for k in (1, 3, 5) if k <= self.val_clicks]
        sizes = [len(one.dataset) for one in loaders_in(loaders)]
        self.val_tables = [
            {
                prompt: NumberOfClicks(size, max_clicks=self.val_clicks, miou_at=miou_at).to(self.device)
                for prompt in self.val_prompts
            }
            for size in sizes
        ]
        self._num_seen = [0] * len(sizes)

    def _sample_ids(self, batch: Mapping[str, Any], loader: int) -> Tensor:
        """Get the sample numbers of a batch; counted on one process if the batch has no ``sample_id``."""
        ids = batch.get("sample_id")
        if ids is not None:
            return torch.as_tensor(ids, device=self.device)
        if self.trainer.world_size > 1:
            raise ValueError(
                "a validation batch on several processes must contain sample_id, got none; add the number of "
                "each sample"
            )
        start = self._num_seen[loader]
        self._num_seen[loader] += len(batch["image"])
        return torch.arange(start, self._num_seen[loader], device=self.device)

    def _log_tables(self, stage: str) -> None:
        for number, tables in enumerate(self.val_tables):
            suffix = f"/dataloader_idx_{number}" if len(self.val_tables) > 1 else ""
            for prompt, metric in tables.items():
                row = {f"{stage}/{prompt}/{name}{suffix}": value for name, value in metric.compute().items()}
                # the metric gathers the samples of all ranks, so each rank logs the same values
                self.log_dict(row, sync_dist=True, add_dataloader_idx=False)
