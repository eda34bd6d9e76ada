"""Geodesic segmentation (Bai and Sapiro 2007)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.methods.base import METHODS
from dct_seg.methods.classical.color_model import ColorModel
from dct_seg.methods.classical.seeds import SeededMethod, frame_of
from dct_seg.methods.classical.star_convexity import gradient_length
from dct_seg.methods.extras import import_extra


@METHODS.register("geodesic")
class Geodesic(SeededMethod):
    """Assign each pixel to the nearer seeds, along paths with the least change of the object's likelihood.

    P is the probability that a pixel's color is the object's, and the length of a path is the sum of |grad P|
    along it. D_F and D_B are the distances to the seeds of both sides. The result is w_F / (w_F + w_B) with
    w_F = D_F^-power P and w_B = D_B^-power (1 - P). Before the first negative click, the image's outermost
    pixels are background seeds. The paper smooths the densities; we smooth P in the image, because a click
    marks too few pixels for smooth densities.

    Source:
        X. Bai and G. Sapiro, "A geodesic framework for fast interactive image and video segmentation and
        matting", ICCV 2007, sections 2 and 3.

    Args:
        power: Exponent of the distance in the weights.
        step: Path length per pixel where P is constant.
        smoothing: Standard deviation in pixels of the blur of P; 0 for none.
        seed_radius: Radius in pixels of the seed of a click without a drag.
    """

    name = "geodesic"
    paper = "Bai & Sapiro 2007"

    def __init__(
        self, *, power: float = 2.0, step: float = 0.01, smoothing: float = 1.5, seed_radius: float = 5.0
    ) -> None:
        super().__init__(seed_radius=seed_radius)
        if not step > 0:
            raise ValueError(f"step must be a length above 0, got {step}")
        self.power = power
        self.step = step
        self.smoothing = smoothing
        self._graph_search = import_extra(
            "skimage.graph", package="scikit-image", method=self.name, extra="classical"
        )

    @property
    def options(self) -> dict[str, Any]:
        """Options of this instance."""
        return {**super().options, "power": self.power, "step": self.step, "smoothing": self.smoothing}

    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Build the color bins."""
        self._colors = ColorModel(image)

    def segment(
        self, image: NDArray[np.uint8], seeds: NDArray[np.int8], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the object's normalized weight."""
        likely = self._colors.object_probability(seeds)
        if self.smoothing:
            likely = cv2.GaussianBlur(
                likely, (0, 0), self.smoothing, borderType=cv2.BORDER_REPLICATE
            ).reshape(seeds.shape)
        step = self.step + gradient_length(likely)
        marked = seeds == 0
        background = marked if marked.any() else frame_of(step.shape) & (seeds != 1)
        inside = self._closeness(step, seeds == 1) * likely
        outside = self._closeness(step, background) * (1 - likely)
        return (inside / (inside + outside)).astype(np.float32)

    def _closeness(self, step: NDArray[np.float64], start: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Distance to the nearest pixel of ``start``, to the power -``power``, (H, W); 0 if there is none."""
        if not start.any():
            return np.zeros(start.shape)
        distance, _ = self._graph_search.MCP_Geometric(step).find_costs(np.argwhere(start))
        return np.asarray(np.maximum(distance, 1e-9) ** -self.power)
