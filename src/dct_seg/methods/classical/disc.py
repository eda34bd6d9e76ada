"""Baseline for drags: only the circles of the clicks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dct_seg.methods.base import METHODS
from dct_seg.methods.classical.seeds import SeededMethod


@METHODS.register("disc")
class Disc(SeededMethod):
    """Paint the circle of each click, without looking at the image.

    A drag with a radius from the ground truth contains much information, so compare methods to this baseline.

    Args:
        seed_radius: Radius in pixels of a click without a drag.

    Examples:
        >>> from dct_seg.clicks import Click
        >>> image = np.zeros((3, 4, 3), np.uint8)
        >>> method = Disc()
        >>> method.reset(image)
        >>> method.predict(image, [Click(1, 1, radius=1.2)], None)
        array([[0., 1., 0., 0.],
               [1., 1., 1., 0.],
               [0., 1., 0., 0.]], dtype=float32)
    """

    name = "disc"
    paper = ""

    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Do nothing: the image is not used."""

    def segment(
        self, image: NDArray[np.uint8], seeds: NDArray[np.int8], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the positive seeds."""
        return np.asarray(seeds == 1, np.float32)
