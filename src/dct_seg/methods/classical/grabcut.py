"""OpenCV's GrabCut (Rother et al. 2004)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.methods.base import METHODS
from dct_seg.methods.classical.seeds import SeededMethod, frame_of, keep_seeded

_GAUSSIANS = 5
"""Number of mixture components in OpenCV; a class with fewer pixels has no color model."""


@METHODS.register("grabcut")
class GrabCut(SeededMethod):
    """Method that alternates graph cuts and Gaussian mixtures, from the last mask, with clicks as hard seeds.

    The paper starts from a rectangle around the object; here, the first click starts from the image without
    its frame. Parts without a positive seed are removed.

    Source:
        C. Rother, V. Kolmogorov and A. Blake, "GrabCut: interactive foreground extraction using iterated
        graph cuts", ACM Transactions on Graphics 23(3), 2004, by OpenCV.

    Args:
        iterations: Iterations per click.
        frame: Width of the frame that is background at the first click, as a fraction of the shorter side.
        seed_radius: Radius in pixels of the seed of a click without a drag.
    """

    name = "grabcut"
    paper = "Rother et al. 2004"

    def __init__(self, *, iterations: int = 2, frame: float = 0.02, seed_radius: float = 5.0) -> None:
        super().__init__(seed_radius=seed_radius)
        if iterations < 1:
            raise ValueError(f"iterations must be 1 or more, got {iterations}")
        self.iterations = iterations
        self.frame = frame

    @property
    def options(self) -> dict[str, Any]:
        """Options of this instance."""
        return {**super().options, "iterations": self.iterations, "frame": self.frame}

    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Convert the image to OpenCV's BGR."""
        self._bgr = np.ascontiguousarray(image[..., ::-1])

    def segment(
        self, image: NDArray[np.uint8], seeds: NDArray[np.int8], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the cut as 0 and 1."""
        found = None if previous is None else previous > 0.5
        if found is None or not found.any():
            height, width = seeds.shape
            border = frame_of((height, width), max(1, round(self.frame * min(height, width))))
            state = np.where(border, cv2.GC_BGD, cv2.GC_PR_FGD).astype(np.uint8)
        else:
            state = np.where(found, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        state[seeds == 1] = cv2.GC_FGD
        state[seeds == 0] = cv2.GC_BGD
        num_inside = int(_is_object(state).sum())
        if min(num_inside, state.size - num_inside) >= _GAUSSIANS:
            cv2.setRNGSeed(0)  # the mixtures start from k-means with random centers
            models = np.zeros((1, 13 * _GAUSSIANS)), np.zeros((1, 13 * _GAUSSIANS))
            cv2.grabCut(self._bgr, state, None, *models, self.iterations, cv2.GC_INIT_WITH_MASK)
        return keep_seeded(_is_object(state), seeds).astype(np.float32)


def _is_object(state: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD))
