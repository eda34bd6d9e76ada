"""Tensors from the images of a dataset: training set, evaluation set and batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dct_seg.data.augment import augment
from dct_seg.data.base import ImageCache, InteractiveDataset, LabeledImage
from dct_seg.data.compositing import paste, union_of
from dct_seg.data.images import IGNORE, UnreadableFileError
from dct_seg.simulation import UserSettings

_ATTEMPTS = 30


class TrainingSet(Dataset[dict[str, Any]]):
    """Augmented samples, each a pure function of (image, seed), independent of the worker.

    Args:
        datasets: Datasets to draw from.
        images: Usable images as (folder, image) numbers; each has a usable object.
        transform: See ``dct_seg.data.transforms``.
        union: Probability per folder that several objects of an image become one.
        copy_paste: Probability that an object is pasted onto another image; it is the target in half of these
            cases, and lies in front of or next to the target in the others.
        min_object_size: Minimum size in pixels; a target with less than a quarter of it after augmentation is
            drawn again.
        user: Simulated user that makes the first click of each sample; None makes none.
        cache_bytes: Memory for decoded images, in each process.
    """

    def __init__(
        self,
        datasets: Sequence[InteractiveDataset],
        images: Sequence[tuple[int, int]],
        transform: Any,
        *,
        union: Sequence[float],
        copy_paste: float = 0.0,
        min_object_size: int = 80,
        user: UserSettings | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.datasets = datasets
        self.images = images
        self.transform = transform
        self.union = union
        self.copy_paste = copy_paste
        self.min_object_size = min_object_size
        self.user = user
        self.cache = ImageCache(cache_bytes)
        self._broken: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        """Sample of (image number, seed); a number alone always gives the same sample, as in overfitting.

        An unreadable image is replaced by another, drawn from the same seed, and is listed under
        ``skipped``.
        """
        number, seed = (key, key) if isinstance(key, int) else key
        skipped: list[str] = []
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([seed, attempt])
            if attempt:
                number = int(rng.integers(len(self.images)))
            item = self._draw(number, rng, skipped)
            if item is not None:
                return {**item, "skipped": skipped}
        raise ValueError(
            f"{_ATTEMPTS} samples in a row had no usable object (the last from {self.image_name(number)}, "
            f"{len(skipped)} unreadable); "
            "does the transform cut the objects off, or is min_object_size too large?"
        )

    def image_name(self, number: int) -> str:
        """Folder and path of an image, for messages."""
        folder, image = self.images[number]
        dataset = self.datasets[folder]
        return f"{dataset.root.name}/{dataset.image_name(dataset.samples_of(image)[0])}"

    def _decoded(self, number: int, skipped: list[str]) -> LabeledImage | None:
        key = self.images[number]
        decoded = self.cache.get(key)
        if decoded is not None:
            return decoded
        if key not in self._broken:
            try:
                decoded = self.datasets[key[0]].read_labeled_image(key[1])
            except UnreadableFileError:
                self._broken.add(key)
        if decoded is None:
            skipped.append(self.image_name(number))
            return None
        self.cache.put(key, decoded)
        return decoded

    def _target(
        self, number: int, decoded: LabeledImage, rng: np.random.Generator
    ) -> tuple[int, NDArray[np.bool_]]:
        """Choose a random object of an image, or a union of several; return its sample and mask."""
        folder, image = self.images[number]
        dataset = self.datasets[folder]
        samples = dataset.samples_of(image)
        index = samples[int(rng.integers(len(samples)))]
        group = [dataset.label(index)]
        if rng.random() < self.union[folder]:
            group = union_of(decoded.labels, [dataset.label(one) for one in samples], group[0], rng)
        mask = dataset.object_mask(image, decoded, group[0])
        for label in group[1:]:
            mask = mask | dataset.object_mask(image, decoded, label)
        return index, mask

    def _draw(self, number: int, rng: np.random.Generator, skipped: list[str]) -> dict[str, Any] | None:
        decoded = self._decoded(number, skipped)
        if decoded is None:
            return None
        index, mask = self._target(number, decoded, rng)
        image, ignore = decoded.image, decoded.labels == IGNORE
        if rng.random() < self.copy_paste:
            image, mask, ignore = self._paste(image, mask, ignore, rng, skipped)
        codes = mask.astype(np.uint8)
        codes[ignore & ~mask] = IGNORE
        image, codes = augment(self.transform, image, codes, int(rng.integers(2**31)))
        if np.count_nonzero(codes == 1) < max(1, self.min_object_size // 4):
            return None
        folder = self.images[number][0]
        name = self.datasets[folder].name(index)
        item = to_tensors(image, codes == 1, codes == IGNORE, index, name)
        if self.user is not None:
            item["first_click"] = self.user.first_click(item["mask"], item["ignore"], rng.random(2).tolist())
        return item

    def _paste(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        ignore: NDArray[np.bool_],
        rng: np.random.Generator,
        skipped: list[str],
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        number = int(rng.integers(len(self.images)))
        decoded = self._decoded(number, skipped)
        if decoded is None:
            return image, mask, ignore
        image, pasted = paste(image, decoded.image, self._target(number, decoded, rng)[1], rng)
        own = mask & ~pasted
        if rng.random() < 0.5 or 2 * np.count_nonzero(own) < np.count_nonzero(mask):
            return image, pasted, ignore & ~pasted
        return image, own, ignore & ~pasted


class EvaluationSet(Dataset[dict[str, Any]]):
    """Samples without augmentation, optionally reduced; the index is the ``sample_id``.

    Args:
        datasets: Datasets to read.
        entries: Samples to yield, as (dataset, sample) numbers.
        max_side: Maximum longer side, to which larger images are reduced; None reduces none.
    """

    def __init__(
        self,
        datasets: Sequence[InteractiveDataset],
        entries: Sequence[tuple[int, int]],
        *,
        max_side: int | None = None,
    ) -> None:
        self.datasets = datasets
        self.entries = entries
        self.max_side = max_side

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, number: int) -> str:
        """Name of a sample, with the name of its folder if there are several."""
        which, index = self.entries[number]
        dataset = self.datasets[which]
        return (
            dataset.name(index) if len(self.datasets) == 1 else f"{dataset.root.name}/{dataset.name(index)}"
        )

    def __getitem__(self, number: int) -> dict[str, Any]:
        which, index = self.entries[number]
        sample = self.datasets[which].read(index)
        image, mask, ignore = sample.image, sample.mask, sample.ignore
        height, width = mask.shape
        if self.max_side is not None and max(height, width) > self.max_side:
            zoom = self.max_side / max(height, width)
            size = max(1, round(width * zoom)), max(1, round(height * zoom))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
            mask, ignore = (
                cv2.resize(one.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
                for one in (mask, ignore)
            )
            if (
                not mask.any()
            ):  # smaller than a pixel: an empty object would count as segmented without a click
                share = cv2.resize(sample.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
                mask = np.asarray(share == share.max())
                ignore &= ~mask
        return to_tensors(image, mask, ignore, number, self.name(number))


def to_tensors(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], ignore: NDArray[np.bool_], sample_id: int, name: str
) -> dict[str, Any]:
    """Convert one sample to tensors: image (3, H, W) uint8, mask and ignore (H, W) bool."""
    return {
        "image": torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1),
        "mask": torch.from_numpy(mask),
        "ignore": torch.from_numpy(ignore),
        "sample_id": sample_id,
        "name": name,
    }


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples into a batch; smaller images are padded below and to the right, and ignored there.

    Returns:
        Mapping of image (B, 3, H, W) float32 in 0..1, mask and ignore (B, H, W) bool, sample_id (B,) int64
        and name; from the training set also skipped, a list of strings, and first_click (B, 3) float32.
    """
    height, width = (max(one["mask"].shape[axis] for one in samples) for axis in (0, 1))
    image = torch.zeros(
        len(samples), 3, height, width, dtype=torch.uint8
    )  # moving bytes is twice as fast as moving floats
    mask = torch.zeros(len(samples), height, width, dtype=torch.bool)
    ignore = torch.ones(len(samples), height, width, dtype=torch.bool)
    for b, one in enumerate(samples):
        rows, cols = one["mask"].shape
        if one["image"].dtype != torch.uint8:
            raise TypeError(
                f"collate needs images of uint8, got {one['image'].dtype}; see dct_seg.data.batches"
            )
        image[b, :, :rows, :cols] = one["image"]
        mask[b, :rows, :cols] = one["mask"]
        ignore[b, :rows, :cols] = one["ignore"]
    batch = {
        "image": image.float().div_(255),
        "mask": mask,
        "ignore": ignore,
        "sample_id": torch.tensor([one["sample_id"] for one in samples], dtype=torch.long),
        "name": [one["name"] for one in samples],
    }
    if all("first_click" in one for one in samples):
        batch["first_click"] = torch.stack([one["first_click"] for one in samples])
    if any("skipped" in one for one in samples):
        batch["skipped"] = [name for one in samples for name in one.get("skipped", [])]
    return batch
