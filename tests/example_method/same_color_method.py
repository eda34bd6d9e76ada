"""Interactive segmentation method in a separate package.

It selects the connected region with the color of a click.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg import Click, Method


class SameColor(Method):
    """Each click claims the connected region of its color, for the object or for the background.

    A later click takes precedence.

    Args:
        tolerance: Maximum difference of each color channel, 0..255.

    Examples:
        >>> image = np.zeros((20, 30, 3), np.uint8)
        >>> image[5:15, 10:25] = 200
        >>> method = SameColor(tolerance=120)
        >>> method.reset(image)
        >>> int(method.predict(image, [Click(9, 12)], None).sum())  # 10 x 15 pixels
        150
    """

    name = "same_color"
    paper = ""

    def __init__(self, *, tolerance: int = 25) -> None:
        self.tolerance = tolerance

    @property
    def options(self) -> dict[str, Any]:
        return {"tolerance": self.tolerance}

    def reset(self, image: NDArray[np.uint8]) -> None:
        self._smooth = np.ascontiguousarray(cv2.GaussianBlur(image, (0, 0), 0.8))

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        probs = np.zeros(image.shape[:2], np.float32)
        for click in clicks:
            probs[self._region(click)] = float(click.positive)
        return probs

    def _region(self, click: Click) -> NDArray[np.bool_]:
        height, width = self._smooth.shape[:2]
        seed = (min(round(click.col), width - 1), min(round(click.row), height - 1))  # OpenCV uses (x, y)
        found = np.zeros((height + 2, width + 2), np.uint8)
        reach = (self.tolerance,) * 3
        cv2.floodFill(
            self._smooth,
            found,
            seed,
            (0, 0, 0),
            reach,
            reach,
            4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE,
        )
        return found[1:-1, 1:-1] > 0
