"""Time of a training step by part (data, simulated user, click maps, network, optimizer) and peak memory."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler

from dct_seg.data.datamodule import ClickSimulatorDataModule
from dct_seg.training.task import InteractiveSegmentationTask

_PARTS = {
    "train_dataloader_next": "data",
    "batch_to_device": "data",
    "simulation": "simulation",
    "encoding": "encoding",
    "loss": "loss",
    "radii": "radii",
    "forward": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer step",
}
"""Row of the table for the last word of each action that Lightning or the task reports."""

PARTS = (*dict.fromkeys(_PARTS.values()), "other")
NETWORK = ("radii", "forward", "backward", "optimizer step")


@dataclass(frozen=True)
class Breakdown:
    """Seconds of each part in each measured batch, summed over the clicks of a batch.

    Args:
        seconds: One number per batch for each of ``PARTS`` and ``total``. ``radii`` is the Auto-Drag-Head
            with its encoding of the images, ``forward`` excludes the click maps, which are ``encoding``;
            ``other`` is the rest of the step.
        peak_memory: Bytes: of tensors on a GPU, of the whole process on a CPU.
        device: Device of the run.
    """

    seconds: dict[str, list[float]]
    peak_memory: int
    device: str

    @property
    def medians(self) -> dict[str, float]:
        """Compute the median seconds of each part and of the total."""
        return {name: median(values) for name, values in self.seconds.items()}

    @property
    def overheads(self) -> list[float]:
        """Compute the share of each step, 0..1, spent outside the network and its optimizer."""
        network = np.sum([self.seconds[name] for name in NETWORK], axis=0)
        return [float(share) for share in 1 - network / np.array(self.seconds["total"])]


def training_step_breakdown(
    task: InteractiveSegmentationTask,
    data: ClickSimulatorDataModule,
    *,
    steps: int = 10,
    warmup: int = 3,
    precision: str = "32-true",
    accelerator: str = "auto",
) -> Breakdown:
    """Measure the time of each part of real training steps, run by the Trainer.

    Args:
        task: Task to train.
        data: Training data.
        steps: Number of measured batches.
        warmup: Number of warm-up batches before the measured ones.
        precision: Precision of the Trainer.
        accelerator: Accelerator of the Trainer. On a GPU, each part starts and ends with a synchronization,
            which costs a little overlap.

    Raises:
        ValueError: When ``steps`` is below 1 or ``warmup`` below 0.
    """
    if steps < 1 or warmup < 0:
        raise ValueError(f"steps must be at least 1 and warmup at least 0, got {steps} and {warmup}")
    stopwatch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            default_root_dir=folder,
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=warmup + steps,
            limit_val_batches=0,
            profiler=stopwatch,
            callbacks=[_EachBatch(stopwatch, warmup + steps)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(task, datamodule=data)
    rows = stopwatch.rows[warmup:]
    seconds = {name: [row[name] for row in rows] for name in PARTS}
    return Breakdown(
        {**seconds, "total": [sum(row.values()) for row in rows]}, *_peak_memory(trainer.strategy.root_device)
    )


class _Stopwatch(Profiler):
    """Profiler that adds up the seconds of each part of a batch.

    All other actions that Lightning reports are ignored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self._row = dict.fromkeys(PARTS, 0.0)
        self._began = dict[str, float]()
        self._row_began = _now()

    def start(self, action_name: str) -> None:
        part = _PARTS.get(action_name.rpartition(".")[2])
        if part is not None:
            self._began[part] = _now()

    def stop(self, action_name: str) -> None:
        part = _PARTS.get(action_name.rpartition(".")[2])
        if part is None:
            return
        seconds = _now() - self._began[part]
        self._row[part] += seconds
        if part == "encoding":
            self._row["forward"] -= seconds  # the enclosing part

    def end_batch(self) -> None:
        """Add the rest of the time since the last batch to ``other``."""
        now = _now()
        self._row["other"] = now - self._row_began - sum(self._row.values())
        self.rows.append(self._row)
        self._row = dict.fromkeys(PARTS, 0.0)
        self._row_began = now


class _EachBatch(Callback):
    """Time batches and click maps with the stopwatch, and end training after enough batches."""

    def __init__(self, stopwatch: _Stopwatch, num_batches: int) -> None:
        self.stopwatch = stopwatch
        self.num_batches = num_batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        encoder = pl_module.get_submodule("net.click_encoder")
        encoder.register_forward_pre_hook(lambda module, args: self.stopwatch.start("encoding"))
        encoder.register_forward_hook(lambda module, args, maps: self.stopwatch.stop("encoding"))

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.stopwatch.end_batch()
        trainer.should_stop = len(self.stopwatch.rows) >= self.num_batches


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()


def _peak_memory(device: torch.device) -> tuple[int, str]:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), torch.cuda.get_device_name(device)
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (
        1 if sys.platform == "darwin" else 1024
    ), f"{device.type} ({torch.get_num_threads()} threads)"
