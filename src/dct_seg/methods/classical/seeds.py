"""Seeds: pixels marked by clicks, for the classical methods."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import SHORTENED, Click
from dct_seg.methods.base import Method, check_turn, checked_image, pixel_under

UNMARKED = -1


def mark_seeds(size: tuple[int, int], clicks: Sequence[Click], *, seed_radius: float) -> NDArray[np.int8]:
    """Label the pixels inside each click's circle; where circles overlap, the nearest click decides.

    A drag of length r ends at the first pixel outside the region, so its circle contains the pixels at a
    distance below r, and always the pixel under the click. Of two clicks at the same distance, the later one
    decides.

    Args:
        size: (H, W) in pixels.
        clicks: Clicks in order, inside the image.
        seed_radius: Radius in pixels for a click without one.

    Returns:
        (H, W) int8: 1 object, 0 background, -1 unmarked.

    Examples:
        >>> mark_seeds((3, 5), [Click(1, 1, radius=1.5), Click(1, 4, positive=False)], seed_radius=1.0)
        array([[ 1,  1,  1, -1, -1],
               [ 1,  1,  1, -1,  0],
               [ 1,  1,  1, -1, -1]], dtype=int8)
    """
    height, width = size
    seeds = np.full(size, UNMARKED, np.int8)
    nearest = np.full(size, np.inf)
    for click in clicks:
        radius = seed_radius if click.radius is None else click.radius
        row, col = math.floor(click.row + 0.5), math.floor(click.col + 0.5)
        reach = math.ceil(radius) + 1
        window = np.s_[
            max(row - reach, 0) : min(row + reach + 1, height),
            max(col - reach, 0) : min(col + reach + 1, width),
        ]
        rows, cols = np.ogrid[window]
        squared = (rows - click.row) ** 2 + (cols - click.col) ** 2
        inside = squared < radius**2 * SHORTENED
        inside |= (rows == row) & (cols == col)
        inside &= squared <= nearest[window]
        seeds[window][inside] = int(click.positive)
        nearest[window][inside] = squared[inside]
    return seeds


class SeededMethod(Method):
    """Base of methods with seeds: the pixels in a click's circle are marked as object or background.

    Args:
        seed_radius: Radius in pixels of the circle of a click without a drag.
    """

    def __init__(self, *, seed_radius: float = 5.0) -> None:
        if not seed_radius >= 0:
            raise ValueError(f"seed_radius must be a length in pixels, 0 or more, got {seed_radius}")
        self.seed_radius = seed_radius
        self._size: tuple[int, int] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of this instance."""
        return {"seed_radius": self.seed_radius}

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Prepare for an image, (H, W, 3) RGB uint8.

        Raises:
            ValueError: When the image has another shape or type.
        """
        checked_image(image)
        self._size = (image.shape[0], image.shape[1])
        self.prepare(image)

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Predict the object's probability at each pixel, (H, W) in 0..1; all 0 without a positive seed.

        Raises:
            ValueError: When the image is not the size of the one given to ``reset``, or a click lies outside
                of it.
        """
        size = check_turn(image, clicks, self._size)
        seeds = mark_seeds(size, clicks, seed_radius=self.seed_radius)
        if previous is not None and clicks and not any(click.positive for click in clicks):
            return np.where(seeds == 0, np.float32(0), previous)  # negative clicks that correct a start mask
        if not (seeds == 1).any():  # no positive click, or each is covered by a later negative one
            return np.zeros(size, np.float32)
        probs = self.segment(image, seeds, previous)
        probs[seeds == 1] = 1
        probs[seeds == 0] = 0
        return probs

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """Give clicks without a radius the seed radius, or less if the last mask's edge is nearer.

        A correction lies on one side of the last mask's edge: a seed that crossed the edge would mark right
        pixels as wrong.

        Args:
            clicks: Clicks in order.
            previous: (H, W) probabilities before the last click, or None.
        """
        if all(click.radius is not None for click in clicks):
            return list(clicks)
        room = None if previous is None else _distance_to_edge(previous > 0.5)
        return [
            click if click.radius is not None else replace(click, radius=self._radius_at(click, room))
            for click in clicks
        ]

    def _radius_at(self, click: Click, room: NDArray[np.float32] | None) -> float:
        if room is None:
            return float(self.seed_radius)
        return float(min(self.seed_radius, room[pixel_under(click, (room.shape[0], room.shape[1]))]))

    @abstractmethod
    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Precompute data that depends only on the image, (H, W, 3) RGB uint8."""

    @abstractmethod
    def segment(
        self, image: NDArray[np.uint8], seeds: NDArray[np.int8], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Predict the probability of the object at each pixel.

        Args:
            image: (H, W, 3) RGB.
            seeds: (H, W) int8: 1 object, 0 background, -1 unmarked; at least one pixel is 1.
            previous: (H, W) probabilities before the last click, or None.

        Returns:
            (H, W) float32 in 0..1, a new array; the caller sets the seeds in it.
        """


def _distance_to_edge(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Compute the distance in pixels to the nearest pixel on the other side of the mask's edge, (H, W)."""
    inside = mask.astype(np.uint8)
    far = [
        np.asarray(cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
        for side in (inside, 1 - inside)
    ]
    return np.asarray(np.maximum(far[0], far[1]))


def frame_of(size: tuple[int, int], width: int = 1) -> NDArray[np.bool_]:
    """Frame of ``width`` pixels, (H, W) bool; it represents the background before a negative click."""
    frame = np.ones(size, bool)
    frame[width:-width, width:-width] = False
    return frame


def keep_seeded(mask: NDArray[np.bool_], seeds: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Keep only the 8-connected parts of the mask that contain an object seed.

    Args:
        mask: (H, W) bool.
        seeds: (H, W) int8: 1 object, 0 background, -1 unmarked.
    """
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    wanted = np.unique(parts[(seeds == 1) & mask])
    return np.isin(parts, wanted[wanted > 0])
