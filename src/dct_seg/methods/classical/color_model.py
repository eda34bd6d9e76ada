"""Color models of object and background, estimated from the seeds."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.methods.classical.seeds import UNMARKED, frame_of


class ColorModel:
    """Smoothed color histograms of an image's object and background in CIE Lab.

    A few hundred seed pixels fill few bins, so the counts are blurred over neighboring colors: a kernel
    density estimate on the grid of bins. Before the first negative click, the image's frame represents the
    background, since an object seldom fills it. It only affects the colors and is never a seed.

    Args:
        image: (H, W, 3) RGB uint8.
        bins: Number of bins per channel.
        blur: Standard deviation of the blur, in bins.
        frame: Width of the image's frame, as a fraction of the shorter side.
        frame_weight: Weight of the frame relative to the background's seeds after the first negative click.
    """

    def __init__(
        self,
        image: NDArray[np.uint8],
        *,
        bins: int = 32,
        blur: float = 1.0,
        frame: float = 0.04,
        frame_weight: float = 0.5,
    ) -> None:
        self.bins = bins
        self.blur = blur
        self.frame_weight = frame_weight
        # uint8 Lab of OpenCV: all three channels over 0..255
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int64) * bins // 256
        self._bin = (lab[..., 0] * bins + lab[..., 1]) * bins + lab[..., 2]  # (H, W)
        height, width = image.shape[:2]
        self._on_frame = frame_of((height, width), max(1, round(frame * min(height, width))))

    def object_probability(self, seeds: NDArray[np.int8]) -> NDArray[np.float64]:
        """Compute the probability (H, W) that a pixel's color is the object's, with equal priors.

        Args:
            seeds: (H, W) int8: 1 object, 0 background, -1 unmarked; at least one pixel is 1.
        """
        inside = self._histogram(seeds == 1)
        frame = self._histogram(self._on_frame & (seeds == UNMARKED))
        marked = seeds == 0
        share = self.frame_weight if marked.any() else 1.0
        outside = (1 - share) * self._histogram(marked) + share * frame
        floor = 0.1 / self.bins**3  # a color with no counts on either side has probability 0.5
        odds = (inside + floor) / (inside + outside + 2 * floor)
        return np.asarray(odds.ravel()[self._bin])

    def _histogram(self, where: NDArray[np.bool_]) -> NDArray[np.float64]:
        counts = (
            np.bincount(self._bin[where], minlength=self.bins**3).reshape((self.bins,) * 3).astype(np.float64)
        )
        total = counts.sum()
        return _blur(counts, self.blur) / total if total else counts


def _blur(counts: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Blur a 3-D array by a Gaussian along each axis."""
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(counts, sigma, mode="nearest", truncate=3.0)) if sigma > 0 else counts
