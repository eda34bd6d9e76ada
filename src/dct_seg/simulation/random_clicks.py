"""Random clicks, drawn from the mask only, as in training before 2018."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dct_seg.clicks import Click, ClickBatch

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RandomClicks:
    """Clicks drawn without a prediction: positive ones in the object, negative ones around it.

    There are 1 to ``positives`` positive clicks, each at least ``margin`` pixels inside the object and
    ``step`` pixels from the others. Negative clicks follow one of two equally likely strategies: 1 to
    ``negatives`` random clicks in the band around the object, ``step`` apart; or ``surrounding`` clicks in
    the band, the first random, each next one farthest from the others and from the band's boundary.

    Args:
        positives: Maximum positive clicks.
        negatives: Maximum negative clicks of the first strategy.
        surrounding: Negative clicks of the other strategy.
        margin: Minimum distance in pixels of a positive click from the object's edge.
        step: Minimum distance in pixels of two clicks of one sign.
        band: Width in pixels of the band for negative clicks.

    Raises:
        ValueError: When a number is out of its range.

    Source: based on Xu et al., "Deep Interactive Object Selection" (CVPR 2016); RIS-Net, IIS-LD and CMG draw
    the same clicks. ``margin`` and ``step`` are not in the paper: 5 and 10 are from the code of IIS-LD. The
    third strategy, negative clicks on other objects, needs the masks of the other objects. It is left out,
    as in the code of IIS-LD for images with one object.
    """

    positives: int = 5
    negatives: int = 10
    surrounding: int = 10
    margin: float = 5.0
    step: float = 10.0
    band: float = 40.0

    def __post_init__(self) -> None:
        if min(self.positives, self.negatives, self.surrounding) < 1:
            raise ValueError(
                "positives, negatives and surrounding must be at least 1, got "
                f"{self.positives}, {self.negatives} and {self.surrounding}"
            )
        if min(self.margin, self.step) < 0 or not self.band > 0:
            raise ValueError(
                "margin and step must be 0 or more and band above 0, "
                f"got {self.margin}, {self.step}, {self.band}"
            )

    def draw(self, mask: Tensor, ignore: Tensor, generator: torch.Generator) -> ClickBatch:
        """Draw a set of clicks for each image.

        Args:
            mask: (B, H, W) bool, the object.
            ignore: (B, H, W) bool, True for pixels that must not be clicked.
            generator: Random generator.

        Returns:
            (B, N) clicks, positive ones first; no click for an empty mask.
        """
        seed = int(torch.randint(2**62, (1,), generator=generator))
        rng = np.random.default_rng(seed)
        masks, ignores = mask.cpu().numpy(), ignore.cpu().numpy()
        each = [self.of_mask(m, i, rng) for m, i in zip(masks, ignores, strict=True)]
        return ClickBatch.from_clicks(each).to(mask.device)

    def of_mask(self, mask: Bools, ignore: Bools, rng: np.random.Generator) -> list[Click]:
        """Draw the clicks of one image; ``mask`` and ``ignore`` are (H, W) bool."""
        positive = self._positive(mask & ~ignore, rng)
        if not positive:
            return []
        band = around(mask, self.band) & ~ignore
        if rng.random() < 0.5:
            number = int(rng.integers(1, self.negatives + 1))
            negative = _apart(band, number, self.step, rng)
        else:
            negative = surround(band, self.surrounding, rng)
        return [Click(float(r), float(c), True) for r, c in positive] + [
            Click(float(r), float(c), False) for r, c in negative
        ]

    def _positive(self, mask: Bools, rng: np.random.Generator) -> list[tuple[int, int]]:
        depth = depths(mask)
        if not mask.any():
            return []
        room = depth >= self.margin
        if not room.any():  # a thin object gets its deepest pixel
            row, col = np.unravel_index(int(depth.argmax()), depth.shape)
            return [(int(row), int(col))]
        return _apart(room, int(rng.integers(1, self.positives + 1)), self.step, rng)


def depths(mask: Bools) -> NDArray[np.float32]:
    """Compute each mask pixel's distance to the nearest one outside, (H, W); the image border is outside."""
    padded = np.pad(mask.astype(np.uint8), 1)
    far = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(far[1:-1, 1:-1], np.float32)


def around(mask: Bools, band: float) -> Bools:
    """Background pixels closer than ``band`` to the object, (H, W) bool."""
    if not mask.any():
        return np.zeros_like(mask)
    far = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(~mask & (far < band))


def surround(band: Bools, number: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose pixels of a band: first a random one, then those farthest from the others and the boundary."""
    places = np.argwhere(band)
    if len(places) == 0:
        return []
    chosen = [tuple(int(x) for x in places[rng.integers(len(places))])]
    free = band.copy()
    while len(chosen) < number:
        free[chosen[-1]] = False
        if not free.any():
            break
        far = depths(free)
        row, col = np.unravel_index(int(far.argmax()), far.shape)
        chosen.append((int(row), int(col)))
    return chosen  # type: ignore[return-value]


def _apart(where: NDArray[Any], number: int, step: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw up to ``number`` random pixels of a map, each at least ``step`` from the others."""
    places = np.argwhere(where)
    chosen: list[tuple[int, int]] = []
    while len(places) and len(chosen) < number:
        row, col = (int(x) for x in places[rng.integers(len(places))])
        chosen.append((row, col))
        squared = ((places - (row, col)) ** 2).sum(1)
        places = places[squared >= max(step * step, math.ulp(1.0))]
    return chosen
