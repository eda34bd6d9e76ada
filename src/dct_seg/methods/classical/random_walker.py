"""scikit-image's random walker (Grady 2006)."""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.methods.base import METHODS
from dct_seg.methods.classical.seeds import SeededMethod, frame_of
from dct_seg.methods.extras import import_extra

_OBJECT, _BACKGROUND = 1, 2
"""scikit-image's labels; 0 is unmarked."""


@METHODS.register("random_walker")
class RandomWalker(SeededMethod):
    """Probability that a random walker, which avoids edges, reaches a positive seed before a negative one.

    The image's outermost pixels are background seeds, except at positive seeds: with only a few negative
    clicks, most walkers would reach the object first, and the mask would fill the image. The linear system is
    solved on the image reduced to ``max_side``, and its smooth solution is enlarged. The defaults were chosen
    on training images.

    Source:
        L. Grady, "Random walks for image segmentation", TPAMI 28(11), 2006, by scikit-image.

    Args:
        beta: Penalty for crossing edges; scikit-image's default is 130.
        max_side: Longer side in pixels of the reduced image.
        seed_radius: Radius in pixels of the seed of a click without a drag.
    """

    name = "random_walker"
    paper = "Grady 2006"

    def __init__(self, *, beta: float = 1000.0, max_side: int = 320, seed_radius: float = 12.0) -> None:
        super().__init__(seed_radius=seed_radius)
        self.beta = beta
        self.max_side = max_side
        self._segmentation = import_extra(
            "skimage.segmentation", package="scikit-image", method=self.name, extra="classical"
        )

    @property
    def options(self) -> dict[str, Any]:
        """Options of this instance."""
        return {**super().options, "beta": self.beta, "max_side": self.max_side}

    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Shrink the image and convert its colors to CIE Lab."""
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        self._colors = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float64) / 255
        if self._colors.std() == 0:
            # scikit-image divides by the standard deviation; a faint speck keeps it above 0
            self._colors[0, 0, 0] += 1e-6

    def segment(
        self, image: NDArray[np.uint8], seeds: NDArray[np.int8], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the walker's probability."""
        labels = self._labels(seeds)
        if (labels != 0).all() or not (labels == _BACKGROUND).any():
            probs = (labels != _BACKGROUND).astype(np.float32)
        else:
            with warnings.catch_warnings():
                # scikit-image warns about probabilities slightly outside 0..1, which are clipped below
                warnings.simplefilter("ignore", UserWarning)
                solution = self._segmentation.random_walker(
                    self._colors, labels, beta=self.beta, mode="cg_j", channel_axis=-1, return_full_prob=True
                )
            probs = solution[0].astype(np.float32)
        enlarged = cv2.resize(probs, seeds.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(np.clip(enlarged, 0, 1).reshape(seeds.shape), np.float32)

    def _labels(self, seeds: NDArray[np.int8]) -> NDArray[np.int64]:
        """Reduce the seeds to the reduced image; every seed survives, even of a tiny circle."""
        height, width = self._colors.shape[:2]
        labels = np.zeros((height, width), np.int64)
        for value, label in ((0, _BACKGROUND), (1, _OBJECT)):
            rows, cols = np.nonzero(seeds == value)
            labels[rows * height // seeds.shape[0], cols * width // seeds.shape[1]] = label
        labels[frame_of((height, width)) & (labels == 0)] = _BACKGROUND
        return labels
