"""Samplers that are deterministic in (seed, epoch), rank-aware and resumable within an epoch."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

_IMAGE_NUMBER = re.compile(r"\d{6,}")
_DATE = re.compile(r"(?<!\d)(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)")


def image_key(name: str) -> str:
    """Make a key that identifies an image by its file name.

    The key is the longest number of six digits or more; without one, or with a date such as 20240131, the
    stem.

    COCO's images have one such number under many names, and all copies must be in the same split.

    Examples:
        >>> image_key("images/airplane00_000000281693.jpg"), image_key("images/cat.jpg")
        ('000000281693', 'cat')
        >>> image_key("images/IMG_20240131_120000.jpg")
        'IMG_20240131_120000'
    """
    stem = PurePosixPath(name).stem
    if _DATE.search(stem):  # many images may have the date of one day in their names
        return stem
    return max(_IMAGE_NUMBER.findall(stem), key=len, default=stem)


def hash_fraction(name: str) -> float:
    """Hash the image's ``image_key`` to a number in 0..1.

    It is the same on every machine.
    """
    return int.from_bytes(hashlib.sha256(image_key(name).encode()).digest()[:8], "big") / 2**64


def is_held_out(name: str, fraction: float) -> bool:
    """Whether an image belongs to the fixed ``fraction`` excluded from training."""
    return hash_fraction(name) < fraction


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class TrainingSampler(Sampler[tuple[int, int]]):
    """Sampler of (image, seed).

    Each epoch has a new order; the seed determines all randomness of a sample.

    Every rank yields the same number of samples, a multiple of ``batch_size``.

    Args:
        sizes: Number of images in each folder; they are numbered consecutively.
        weights: Relative share of the samples for each folder; None shows each image once.
        num_samples: Samples per epoch over all ranks; None uses the number of images.
        batch_size: Batch size of one rank.
        seed: Seed of the whole run.
        rank: Rank of this process; None reads it from torch.distributed.
        world_size: Number of processes; None reads it from torch.distributed.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        num_samples: int | None = None,
        batch_size: int = 1,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.sizes = list(sizes)
        self.weights = None if weights is None else np.array(weights, dtype=float) / sum(weights)
        self.num_samples = num_samples or sum(self.sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self._rank = rank
        self._world_size = world_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; called by Lightning at its start."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the samples of one rank in an epoch: whole batches, at least one."""
        world = self._world_size or _rank_and_world()[1]
        return max(1, self.num_samples // (world * self.batch_size)) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = _rank_and_world()
        rank = rank if self._rank is None else self._rank
        world = self._world_size or world
        rng = np.random.default_rng([self.seed, self.epoch])
        count = len(self) * world
        images = self._draw(count, rng)
        seeds = rng.integers(2**62, size=count)
        start, self.start = self.start, 0
        for position in range(rank + start * world, count, world):
            yield int(images[position]), int(seeds[position])

    def _draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw ``count`` images; an image repeats only after all images of its folder."""
        if self.weights is None:
            return _cycle(sum(self.sizes), count, rng)
        folder = rng.choice(len(self.sizes), size=count, p=self.weights)
        images = np.zeros(count, dtype=np.int64)
        for number, size in enumerate(self.sizes):
            where = np.flatnonzero(folder == number)
            images[where] = _cycle(size, len(where), rng) + sum(self.sizes[:number])
        return images


def _cycle(size: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Yield ``count`` numbers below ``size``, one random order after another."""
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(rounds)[:count] if rounds else np.zeros(0, dtype=np.int64)


class EvaluationSampler(Sampler[int]):
    """Sampler of all samples in order, split over the ranks and padded by repeats to equal length.

    A metric must therefore use ``sample_id``, as ``NumberOfClicks`` does.
    """

    def __init__(self, size: int, *, rank: int | None = None, world_size: int | None = None) -> None:
        self.size = size
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return -(-self.size // (self._world_size or _rank_and_world()[1]))

    def __iter__(self) -> Iterator[int]:
        rank, world = _rank_and_world()
        rank = rank if self._rank is None else self._rank
        world = self._world_size or world
        return (position % self.size for position in range(rank, len(self) * world, world))


class TrainingLoader(DataLoader[dict[str, Any]]):
    """DataLoader that resumes within an epoch and reports the files that its workers skipped.

    Lightning saves its ``state_dict`` with each checkpoint.
    """

    _resume_at = 0
    _num_yielded = 0

    @property
    def skipped(self) -> dict[str, int]:
        """Number of times each unreadable image was drawn and replaced by another."""
        found: dict[str, int] = self.__dict__.setdefault("_skipped", {})
        return found

    def state_dict(self) -> dict[str, int]:
        """Number of batches yielded in this epoch, and their size."""
        return {"batches": self._num_yielded % max(1, len(self)), "batch_size": self.batch_size or 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches that were yielded before, in the next iteration.

        Warns:
            UserWarning: When the batch size has changed, because the epoch then repeats or misses samples.
        """
        self._resume_at = state["batches"]
        before = state.get("batch_size", self.batch_size)  # older checkpoints do not have it
        if self._resume_at and before != self.batch_size:
            warnings.warn(
                f"data.batch_size is {self.batch_size}, but the checkpoint was written in the middle of an "
                "epoch "
                f"with {before}: this epoch resumes at batch {self._resume_at} and does not see each sample "
                f"exactly once; set it to {before} until the epoch ends",
                stacklevel=2,
            )

    def __iter__(self) -> Any:
        # A generator, because Lightning creates the iterator before it sets the epoch.
        start, self._resume_at = self._resume_at, 0
        sampler = self.sampler
        if isinstance(sampler, TrainingSampler):
            sampler.start = start * sampler.batch_size
        self._num_yielded = start
        for batch in super().__iter__():
            self._num_yielded += 1
            self._report(batch.pop("skipped", []))
            yield batch

    def _report(self, names: list[str]) -> None:
        skipped = self.skipped
        for name in names:
            if name not in skipped:
                warnings.warn(
                    f"{name} cannot be decoded and is skipped; `dct-seg data check DIR` lists all",
                    stacklevel=3,
                )
            skipped[name] = skipped.get(name, 0) + 1
