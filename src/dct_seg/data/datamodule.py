"""Lightning data module: batches of images and masks of any registered dataset."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from dct_seg.data.base import InteractiveDataset, in_threads
from dct_seg.data.datasets import DATASETS, open_dataset
from dct_seg.data.images import UnreadableFileError
from dct_seg.data.samples import EvaluationSet, TrainingSet, collate
from dct_seg.data.sampling import (
    EvaluationSampler,
    TrainingLoader,
    TrainingSampler,
    hash_fraction,
    image_key,
    is_held_out,
)
from dct_seg.ranges import check_number, check_span
from dct_seg.simulation import Place, Rule, UserSettings

Batch = dict[str, Any]


class ClickSimulatorDataModule(LightningDataModule):
    """Data module of images with one object each: augmented crops for training, whole images for validation.

    A batch is ``image`` (B, 3, H, W) float32 in 0..1, ``mask`` and ``ignore`` (B, H, W) bool, ``sample_id``
    (B,) int64 and ``name``, a list. In training it also has ``first_click`` (B, 3), row, column and radius in
    pixels: the workers make the simulated user's first click, which depends only on the ground truth, and
    the task makes the later ones with the same user. An epoch of training shows every image once, with
    one of its objects (the paper's 8,498 samples of SBD), unless ``root`` has weights or
    ``samples_per_epoch`` is given. The Trainer must run with ``use_distributed_sampler=False``: the samplers
    here know their rank.

    Args:
        dataset: Name of a registered dataset.
        root: Folder of the dataset, several folders (each image once), or folders with their share
            of the samples.
        options: Additional arguments of the dataset, e.g. ``{split: train}``.
        val_dataset: Dataset for validation and test; by default that of training.
        val_root: Folder of the validation set; by default those of ``root`` if the dataset is the same.
            Without ``val_dataset``, ``val_root`` and ``val_options``, a fixed part of the training images
            is held out.
        val_options: Additional arguments of the validation set, e.g. ``{split: val}``.
        holdout: Fraction of the images held out for validation, chosen by a hash of the file name, so
            it is the same on every machine and in every run. 0 holds out none.
        batch_size: Training samples per batch and process.
        val_batch_size: Evaluation samples per batch; images of several sizes are padded, and the padding is
            ignored.
        crop_size: Side of the training crop in pixels.
        scale: Random resize of the image before the crop: (low, high).
        object_scale: Side of the object relative to the crop's, instead of ``scale``: (low, high), drawn
            log-uniformly. Not in the paper.
        object_scale_prob: Probability of using ``object_scale`` if given.
        max_zoom: Maximum enlargement by ``object_scale``.
        aspect: Largest random stretch of height against width (1: none). Not in the paper.
        flip: Whether to mirror half of the samples.
        color_jitter: Whether to change brightness, contrast, saturation and hue.
        copy_paste: Probability that an object is pasted onto another image. Not in the paper.
        union: Probability that several objects of an image become one; a number, or one per folder. Not in
            the paper.
        min_object_size: Minimum pixels of an object in the file, for training and held-out images.
        val_size: Maximum longer side of validation images; larger ones are reduced. None reduces none.
        max_val_samples: Maximum number of validation samples, spread evenly over folders and images.
        samples_per_epoch: Training samples in an epoch over all processes.
        num_workers: Number of processes that decode and augment.
        cache_mb: Memory for decoded training images in MB, of all workers together.
        seed: Seed of all randomness in the data, together with the epoch.
        transform: Training transform instead of everything from ``crop_size`` to ``color_jitter``: any
            callable ``(image=, mask=) -> dict``, such as an ``albumentations.Compose``; mask is 0, 1 or 255
            (ignore).
        rule: Rule by which the simulated user chooses each training click after the first;
            ``largest_region`` is the paper's.
        place: Click at the region's ``center``, or anywhere in its ``core``. Not in the paper.
        radius_noise: Relative noise F of a given radius, uniform in 1 - F .. 1 + F. Not in the paper.
        click_jitter: Maximum shift of a training click, in pixels. Not in the paper.
        drag_share: Fraction of training images whose clicks have a radius; for the others, the
            Auto-Drag-Head predicts it.

    Raises:
        ValueError: When an argument is out of range, or the dataset's name is unknown.

    Examples:
        >>> data = ClickSimulatorDataModule(
        ...     "Shapes", options={"num_images": 4}, crop_size=64, batch_size=2, num_workers=0, holdout=0
        ... )
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["first_click"].shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        dataset: str = "Folder",
        root: str | list[str] | dict[str, float] | None = None,
        *,
        options: dict[str, Any] | None = None,
        val_dataset: str | None = None,
        val_root: str | None = None,
        val_options: dict[str, Any] | None = None,
        holdout: float = 0.2,
        batch_size: int = 8,
        val_batch_size: int = 8,
        crop_size: int = 256,
        scale: tuple[float, float] = (0.75, 1.25),
        object_scale: tuple[float, float] | None = None,
        object_scale_prob: float = 1.0,
        max_zoom: float = 4.0,
        aspect: float = 1.0,
        flip: bool = True,
        color_jitter: bool = True,
        copy_paste: float = 0.0,
        union: float | dict[str, float] = 0.0,
        min_object_size: int = 80,
        val_size: int | None = None,
        max_val_samples: int | None = None,
        samples_per_epoch: int | None = None,
        num_workers: int = 1,
        cache_mb: int = 2048,
        seed: int = 0,
        transform: Callable[..., dict[str, Any]] | None = None,
        rule: Rule = "largest_region",
        place: Place = "center",
        radius_noise: float = 0.0,
        click_jitter: float = 0.0,
        drag_share: float = 1.0,
    ) -> None:
        super().__init__()
        for name in (dataset, val_dataset or dataset):
            if not isinstance(name, str):
                raise ValueError(
                    f"dataset must be a registered name, got {type(name).__name__}; pass your own Dataset to "
                    "trainer.fit in a DataLoader, see dct_seg.data.batches"
                )
            DATASETS.get(name)
        if scale is None:
            raise ValueError(
                "scale must be (low, high) with 0 < low <= high, got None; (1, 1) keeps the size"
            )
        at_least = {
            "batch_size": (batch_size, 1),
            "val_batch_size": (val_batch_size, 1),
            "crop_size": (crop_size, 16),
            "num_workers": (num_workers, 0),
            "cache_mb": (cache_mb, 0),
            "min_object_size": (min_object_size, 0),
            "seed": (seed, 0),
            "val_size": (val_size, 16),
            "max_val_samples": (max_val_samples, 1),
            "samples_per_epoch": (samples_per_epoch, 1),
        }
        for name, (value, low) in at_least.items():
            if value is not None:
                check_number(name, value, least=low, whole=True)
        check_number("holdout", holdout, least=0, below=1, unit="a share of the images")
        check_number("object_scale_prob", object_scale_prob, least=0, most=1, unit="a probability")
        check_number("aspect", aspect, least=1, unit="a factor")
        check_number("max_zoom", max_zoom, above=0, unit="a factor")
        if transform is not None and not callable(transform):
            raise ValueError(
                "transform must be a function transform(image=, mask=) or one of torchvision.transforms.v2, "
                f"got {transform!r}"
            )
        for name, span in (("scale", scale), ("object_scale", object_scale)):
            check_span(name, span)
        self.dataset = dataset
        self.options = options or {}
        self.roots, self.weights = _roots_and_weights(root)
        _check_probabilities(union, copy_paste, self.roots)
        self.val_dataset = val_dataset
        self.val_root = val_root
        self.val_options = val_options or {}
        self.has_own_val = val_dataset is not None or val_root is not None or val_options is not None
        self.holdout = holdout
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.augmentation: dict[str, Any] = {
            "crop_size": crop_size,
            "scale": tuple(scale),
            "object_scale": tuple(object_scale) if object_scale else None,
            "object_scale_prob": object_scale_prob,
            "max_zoom": max_zoom,
            "aspect": aspect,
            "flip": flip,
            "color_jitter": color_jitter,
            "min_object_size": min_object_size,
        }
        self.copy_paste = copy_paste
        self.union = union
        self.min_object_size = min_object_size
        self.val_size = val_size
        self.max_val_samples = max_val_samples
        self.samples_per_epoch = samples_per_epoch
        self.num_workers = num_workers
        self.cache_mb = cache_mb
        self.seed = seed
        self.transform = transform
        self.user = UserSettings(rule, place, radius_noise, click_jitter, drag_share)
        self.train_set: TrainingSet | None = None
        self.val_set: EvaluationSet | None = None
        self._folders: list[InteractiveDataset] = []
        self._loader: TrainingLoader | None = None

    @property
    def skipped(self) -> dict[str, int]:
        """Images that could not be decoded in training, and how often each was drawn."""
        return {} if self._loader is None else self._loader.skipped

    def setup(self, stage: str | None = None) -> None:
        """List the files that ``stage`` needs, once."""
        if stage in (None, "fit") and self.train_set is None:
            self.train_set = self._make_train_set()
        if self.val_set is None:
            self.val_set = self._make_val_set()

    def teardown(self, stage: str | None = None) -> None:
        """Report unreadable images at the end."""
        if stage == "fit" and self.skipped:
            warnings.warn(
                f"{len(self.skipped)} images could not be decoded and were skipped "
                f"{sum(self.skipped.values())} times: " + ", ".join(sorted(self.skipped)[:5]),
                stacklevel=2,
            )

    def _prepared_val(self) -> EvaluationSet:
        if self.val_set is None:
            self.setup("validate")
        assert self.val_set is not None
        return self.val_set

    def _open_folders(self) -> list[InteractiveDataset]:
        if not self._folders:
            options = {"min_object_size": self.min_object_size, **self.options}
            self._folders = [open_dataset(self.dataset, root, **options) for root in self.roots]
        return self._folders

    def _held_out_share(self) -> float:
        """Compute the hash below which an image is held out: ``holdout``, or more if that held out none."""
        if not self.holdout:
            return 0.0
        names = [_image_name(one, image) for one in self._open_folders() for image in _usable(one)]
        hashes = sorted({hash_fraction(name) for name in names})
        if len(hashes) < 2:
            given = "one image"
            if len(names) > 1:
                key = image_key(names[0])
                given = f"{len(names)} images with '{key}' in their names count as one, which"
            raise ValueError(
                f"{', '.join(map(str, self.roots))}: {given} cannot be split; give a val_root, more "
                "images, or holdout 0"
            )
        return float(np.clip(self.holdout, (hashes[0] + hashes[1]) / 2, (hashes[-2] + hashes[-1]) / 2))

    def _make_train_set(self) -> TrainingSet:
        from dct_seg.data.transforms import (
            training_transform,  # albumentations takes a second to import; only training needs it
        )

        folders = self._open_folders()
        held_out = 0.0 if self.has_own_val else self._held_out_share()
        images = [
            (number, image)
            for number, dataset in enumerate(folders)
            for image in _usable(dataset)
            if not is_held_out(_image_name(dataset, image), held_out)
        ]
        empty = set(range(len(folders))) - {number for number, _ in images}
        if empty and self.weights:
            raise ValueError(
                f"all images of {self.roots[min(empty)]} are held out, so its weight has no effect; remove "
                "it from root, or give a val_root, more images, or holdout 0"
            )
        union = [_per_folder(self.union, dataset.root.name) for dataset in folders]
        return TrainingSet(
            folders,
            images,
            self.transform or training_transform(**self.augmentation),
            union=union,
            copy_paste=self.copy_paste,
            min_object_size=self.min_object_size,
            user=self.user,
            cache_bytes=self.cache_mb * 2**20 // max(1, self.num_workers),
        )

    def _make_val_set(self) -> EvaluationSet:
        if self.has_own_val:
            kind = self.val_dataset or self.dataset
            datasets = [open_dataset(kind, root, **self.val_options) for root in self._val_roots(kind)]
            held: list[Sequence[int]] = [range(len(one)) for one in datasets]
        else:
            datasets = self._open_folders()
            held_out = self._held_out_share()
            held = [
                [
                    index
                    for image in _usable(one)
                    if is_held_out(_image_name(one, image), held_out)
                    for index in one.samples_of(image)
                ]
                for one in datasets
            ]
        entries = _readable(datasets, _spread_evenly(held, self.max_val_samples))
        return EvaluationSet(datasets, entries, max_side=self.val_size)

    def _val_roots(self, kind: str) -> list[str | None]:
        """Folders of a separate validation set: ``val_root``, or those of the same dataset in training."""
        if self.val_root is not None:
            return [self.val_root]
        if kind == self.dataset:
            return self.roots
        if not getattr(DATASETS.get(kind), "needs_no_root", False):
            raise ValueError(
                f"val_dataset {kind} differs from dataset {self.dataset}, so it needs its own folder; set "
                "val_root"
            )
        return [None]

    def train_dataloader(self) -> TrainingLoader:
        """Make the loader of augmented crops; order and samples depend only on ``seed`` and the epoch."""
        if self.train_set is None:
            self.setup("fit")
        assert self.train_set is not None
        sizes = [0] * len(self.train_set.datasets)
        for folder, _ in self.train_set.images:
            sizes[folder] += 1
        sampler = TrainingSampler(
            sizes,
            weights=self.weights,
            num_samples=self.samples_per_epoch,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        self._loader = TrainingLoader(
            self.train_set, batch_size=self.batch_size, sampler=sampler, drop_last=True, **self._loading()
        )
        return self._loader

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Make the loader of whole images; an empty list if nothing is held out."""
        val = self._prepared_val()
        if not len(val):
            return []
        return DataLoader(
            val, batch_size=self.val_batch_size, sampler=EvaluationSampler(len(val)), **self._loading()
        )

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Make the loader of the validation samples."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Make the loader of the validation samples."""
        return self.val_dataloader()

    def _loading(self) -> dict[str, Any]:
        return {
            "collate_fn": collate,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _one_thread,
        }


def _one_thread(worker: int) -> None:
    """Limit OpenCV to one thread per worker; it would start one per core."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _roots_and_weights(
    root: str | list[str] | dict[str, float] | None,
) -> tuple[list[str | None], list[float] | None]:
    if isinstance(root, dict):
        if not root or not all(0 <= weight < math.inf for weight in root.values()) or not sum(root.values()):
            raise ValueError(f"root must map folders to weights of 0 or more, not all 0, got {root}")
        used = {folder: float(weight) for folder, weight in root.items() if weight > 0}
        return list(used), list(used.values())
    if isinstance(root, (list, tuple)):
        if not root:
            raise ValueError("root needs at least one folder, got an empty list")
        return list(root), None
    return [root], None


def _check_probabilities(
    union: float | dict[str, float], copy_paste: float, roots: Sequence[str | None]
) -> None:
    shares = union if isinstance(union, dict) else {"": union}
    for name, value in (("copy_paste", copy_paste), *(("union", share) for share in shares.values())):
        check_number(name, value, least=0, most=1, unit="a probability")
    folders = [Path(root).name for root in roots if root is not None]
    for folder in shares if isinstance(union, dict) else ():
        if folder not in folders:
            raise ValueError(f"union names '{folder}', which is not a folder of root ({', '.join(folders)})")


def _usable(dataset: InteractiveDataset) -> list[int]:
    return [image for image in range(dataset.num_images) if len(dataset.samples_of(image))]


def _image_name(dataset: InteractiveDataset, image: int) -> str:
    return dataset.image_name(dataset.samples_of(image)[0])


def _per_folder(value: float | dict[str, float], folder: str) -> float:
    return value.get(folder, 0.0) if isinstance(value, dict) else value


def _spread_evenly(groups: Sequence[Sequence[int]], most: int | None) -> list[tuple[int, int]]:
    """Choose at most ``most`` pairs (group, member).

    Groups get equal shares, and members are evenly spaced within a group.

    Examples:
        >>> _spread_evenly([[0, 1, 2, 3, 4], [7]], 4)
        [(0, 0), (0, 2), (0, 4), (1, 7)]
    """
    left = sum(map(len, groups)) if most is None else most
    quotas = [0] * len(groups)
    for rest, number in enumerate(sorted(range(len(groups)), key=lambda one: len(groups[one]))):
        quotas[number] = min(len(groups[number]), left // (len(groups) - rest))
        left -= quotas[number]
    return [
        (number, group[int(position)])
        for number, (group, quota) in enumerate(zip(groups, quotas, strict=True))
        for position in np.linspace(0, len(group) - 1, quota).round()
    ]


def _readable(
    datasets: Sequence[InteractiveDataset], entries: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Select the entries whose files can be decoded, before the first epoch."""

    def broken(one: tuple[int, int]) -> bool:
        try:
            datasets[one[0]].read_labeled_image(one[1])
        except UnreadableFileError:
            return True
        return False

    images = sorted({(which, datasets[which].image_index(index)) for which, index in entries})
    bad = {
        one
        for one, is_broken in zip(
            images, in_threads(broken, images, "checking validation images"), strict=True
        )
        if is_broken
    }
    for which, image in bad:
        path = datasets[which].root / _image_name(datasets[which], image)
        warnings.warn(f"{path} cannot be decoded and is skipped in validation", stacklevel=3)
    return [
        (which, index) for which, index in entries if (which, datasets[which].image_index(index)) not in bad
    ]
