"""A task, a data module and a Trainer so small that a run takes a second."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from dct_seg import ClickSimulatorDataModule, DCTNetConfig, InteractiveSegmentationTask

TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "backbone_weights": "none",
    "decoder_stride": 8,
    "decoder_width": 16,
}


def tiny_task(
    network: dict[str, Any] | None = None, *, weights_seed: int = 0, **options: Any
) -> InteractiveSegmentationTask:
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed)
        task = InteractiveSegmentationTask(
            DCTNetConfig(**{**TINY, **(network or {})}),
            **{"lr": 1e-3, "train_clicks": (2, 2), "val_clicks": 3, **options},
        )
    # as a pretrained backbone's, though its weights are random
    task.net.config = replace(task.net.config, frozen_batch_norm=True)
    task.hparams["network"]["frozen_batch_norm"] = True
    task.train()
    return task


def tiny_data(**options: Any) -> ClickSimulatorDataModule:
    """Eight images to train on, in four batches, and five to validate on."""
    shared = {"size": (32, 40), "min_object_size": 20}
    defaults: dict[str, Any] = {
        "options": {"num_images": 8, **shared},
        "val_options": {"num_images": 3, "split": "val", **shared},
        "batch_size": 2,
        "val_batch_size": 3,
        "crop_size": 32,
        "min_object_size": 20,
        "num_workers": 0,
    }
    return ClickSimulatorDataModule("Shapes", **{**defaults, **options})


def val_names(data: ClickSimulatorDataModule) -> list[str]:
    """Names of the validation samples, in the order of ``sample_id``."""
    loader = data.val_dataloader()
    return [] if isinstance(loader, list) else [loader.dataset.name(i) for i in range(len(loader.dataset))]  # type: ignore[attr-defined, arg-type]


def loader_of(batch: dict[str, Any]) -> DataLoader[Any]:
    """Loader that yields only this batch."""
    return DataLoader(
        range(len(batch["image"])), batch_size=len(batch["image"]), collate_fn=lambda numbers: batch
    )


def tiny_trainer(folder: Path | str, **options: Any) -> Trainer:
    torch.set_num_threads(1)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        **{
            "devices": 1,
            "max_epochs": 1,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            **quiet,
            **options,
        },
    )


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different, f"{len(different)} of {len(one)} differ, first {different[0]}"
