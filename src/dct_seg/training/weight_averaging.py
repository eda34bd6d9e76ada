"""Average fine-tuned weights with their starting point (WiSE-FT) to reduce forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn


class StartWeightAveraging(WeightAveraging):
    """Average the starting weights with the trained ones for validation, checkpoints and the final model.

    Training itself is unchanged, and a run resumed with the same configuration is bit-identical. It cannot be
    combined with another weight averaging callback.

    Args:
        start_share: Fraction of the starting weights, 0 or more and below 1. A larger fraction forgets less
            and learns less.

    Raises:
        ValueError: When the share is out of range.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022. Not in the paper.

    Examples:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[StartWeightAveraging(start_share=0.5)], logger=False)
    """

    def __init__(self, start_share: float = 0.5) -> None:
        if not 0 <= start_share < 1:
            raise ValueError(f"start_share must be 0 or more and below 1, got {start_share}")
        super().__init__()
        self.start_share = start_share
        self._start: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store the starting weights; a checkpoint to resume from is read later."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._start = [value.detach().clone() for value in _values(pl_module)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average."""
        assert self._average_model is not None
        with torch.no_grad():
            for average, start, trained in zip(
                _values(self._average_model.module), self._start, _values(pl_module), strict=True
            ):
                if average.is_floating_point():
                    # Lightning sets callbacks up before it moves the model, so `average` may be elsewhere.
                    average.copy_(torch.lerp(trained, start.to(trained.device), self.start_share))
                else:
                    average.copy_(trained)


def _values(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
