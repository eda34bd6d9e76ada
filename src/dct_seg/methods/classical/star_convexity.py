"""Graph cuts whose object is star-shaped around the positive clicks (Gulshan et al. 2010): ESC and GSC."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.methods.base import METHODS
from dct_seg.methods.classical.graph_cut import GraphCut
from dct_seg.methods.extras import import_extra


class StarConvexity(GraphCut):
    """Graph cut with star convexity: if a pixel is object, so is its path to the nearest positive seed."""

    @abstractmethod
    def parents(self, seeds: NDArray[np.int8]) -> NDArray[np.int32]:
        """Find the next pixel on each pixel's path to the nearest positive seed.

        Args:
            seeds: (H, W) int8: 1 object, 0 background, -1 unmarked; at least one pixel is 1.

        Returns:
            (H, W) int32 flat indices; a seed is its own parent.
        """


@METHODS.register("esc")
class EuclideanStarConvexity(StarConvexity):
    """Euclidean star convexity: the path to the nearest positive seed is a straight line.

    Source:
        V. Gulshan, C. Rother, A. Criminisi, A. Blake and A. Zisserman, "Geodesic star convexity for
        interactive image segmentation", CVPR 2010, section 3.

    Args:
        smoothness: Weight of the boundary term.
        seed_radius: Radius in pixels of the seed of a click without a drag.
    """

    name = "esc"
    paper = "Gulshan et al. 2010"

    def parents(self, seeds: NDArray[np.int8]) -> NDArray[np.int32]:
        """Step along a straight line on the 8-neighborhood."""
        from scipy.ndimage import distance_transform_edt

        nearest = distance_transform_edt(seeds != 1, return_distances=False, return_indices=True)  # (2, H, W)
        here = np.indices(seeds.shape)
        way = nearest - here
        longest = np.maximum(np.abs(way).max(0), 1)
        row, col = here + np.rint(way / longest).astype(np.int64)
        return np.asarray(row * seeds.shape[1] + col, np.int32)


@METHODS.register("gsc")
class GeodesicStarConvexity(StarConvexity):
    """Geodesic star convexity: the path to the nearest positive seed avoids the image's edges.

    Source:
        V. Gulshan, C. Rother, A. Criminisi, A. Blake and A. Zisserman, "Geodesic star convexity for
        interactive image segmentation", CVPR 2010, section 4.

    Args:
        edge_weight: Weight of the image gradient (of colors in 0..1) in the length of a step, relative to its
            length in pixels.
        smoothness: Weight of the boundary term.
        seed_radius: Radius in pixels of the seed of a click without a drag.
    """

    name = "gsc"
    paper = "Gulshan et al. 2010"

    def __init__(
        self, *, edge_weight: float = 20.0, smoothness: float = 50.0, seed_radius: float = 5.0
    ) -> None:
        super().__init__(smoothness=smoothness, seed_radius=seed_radius)
        self.edge_weight = edge_weight
        self._graph_search = import_extra(
            "skimage.graph", package="scikit-image", method=self.name, extra="classical"
        )

    @property
    def options(self) -> dict[str, Any]:
        """Options of this instance."""
        return {**super().options, "edge_weight": self.edge_weight}

    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Build the grid, the color bins and the length of a step at each pixel."""
        super().prepare(image)
        self._step = 1 + self.edge_weight * gradient_length(np.asarray(image, np.float32) / 255)

    def parents(self, seeds: NDArray[np.int8]) -> NDArray[np.int32]:
        """Step along the shortest path."""
        search = self._graph_search.MCP_Geometric(self._step)
        _, step = search.find_costs(
            np.argwhere(seeds == 1)
        )  # (H, W) index of the step that led here, negative at a seed
        offsets = np.asarray(search.offsets, np.int64)
        flat = offsets[:, 0] * seeds.shape[1] + offsets[:, 1]
        index = np.arange(seeds.size).reshape(seeds.shape)
        return np.where(step >= 0, index - flat[step], index).astype(np.int32)


def gradient_length(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute the gradient magnitude (H, W) of (H, W) or (H, W, C) values, by central differences."""
    planes = values[..., None] if values.ndim == 2 else values
    squared = np.zeros(planes.shape[:2])
    for c in range(planes.shape[2]):
        plane = np.ascontiguousarray(planes[..., c], np.float32)
        for dx, dy in ((1, 0), (0, 1)):
            squared += (
                cv2.Sobel(plane, cv2.CV_32F, dx, dy, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
            ).astype(np.float64) ** 2
    return np.sqrt(squared)
