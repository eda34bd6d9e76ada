"""Graph cut (Boykov and Jolly 2001), and its grid graph, which star convexity also uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.methods.base import METHODS
from dct_seg.methods.classical.color_model import ColorModel
from dct_seg.methods.classical.seeds import SeededMethod, keep_seeded
from dct_seg.methods.extras import import_extra

_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Half of the 8-neighborhood, so that each pair of neighbors occurs once."""

_SCALE = 1000
"""Factor from energies to the integers of the max-flow; it keeps three decimals."""

_HARD = 10**9
"""Infinite capacity: far above the sum of eight neighbors and the data term."""


class GridGraph:
    """Graph of an image's pixels: 8-neighborhood edges that cost less where the color changes.

    Between neighbors p and q the cost is ``smoothness * exp(-|I_p - I_q|^2 / (2 s^2)) / dist(p, q)``, with
    s^2 the mean of
    |I_p - I_q|^2 over the image.

    Args:
        image: (H, W, 3) RGB uint8.
        smoothness: Weight of the edges relative to a data term in nats.
    """

    def __init__(self, image: NDArray[np.uint8], *, smoothness: float) -> None:
        self.size = (image.shape[0], image.shape[1])
        index = np.arange(image.shape[0] * image.shape[1], dtype=np.int32).reshape(self.size)
        color = image.astype(np.float32)
        tails, heads, squared, lengths = [], [], [], []
        for rows, cols in _STEPS:
            here, there = _shifted_views(rows, cols)
            tails.append(index[here].ravel())
            heads.append(index[there].ravel())
            squared.append(((color[here] - color[there]) ** 2).sum(-1).ravel())
            lengths.append(np.full(tails[-1].size, np.hypot(rows, cols)))
        # (E,)
        self.tails = np.concatenate(tails)
        self.heads = np.concatenate(heads)
        difference, length = np.concatenate(squared), np.concatenate(lengths)
        spread = float(difference.mean()) if difference.size else 0.0
        contrast = np.exp(-difference / (2 * spread)) if spread > 0 else np.ones_like(difference)
        self.weights = smoothness * contrast / length

    def cut(
        self,
        object_cost: NDArray[np.float64],
        background_cost: NDArray[np.float64],
        seeds: NDArray[np.int8],
        parents: NDArray[np.int32] | None = None,
    ) -> NDArray[np.bool_]:
        """Compute the labeling of minimum energy, (H, W) bool, True in the object.

        Args:
            object_cost: (H, W) cost of labeling a pixel as object, in nats.
            background_cost: (H, W) cost of labeling a pixel as background, in nats.
            seeds: (H, W) int8: 1 object, 0 background, -1 unmarked; seeds keep their label.
            parents: (H, W) int32, flat index of the pixel that must be object if this pixel is; its own index
                without a constraint.
        """
        max_flow = import_extra(
            "ortools.graph.python.max_flow", package="OR-tools", method="graph_cut", extra="classical"
        )
        num = object_cost.size
        source, sink = num, num + 1
        label = seeds.ravel()
        gain = np.rint((background_cost - object_cost).ravel() * _SCALE).astype(np.int64)
        gain[label == 1] = _HARD
        gain[label == 0] = -_HARD
        pixels = np.arange(num, dtype=np.int32)
        to_object, to_background = pixels[gain > 0], pixels[gain < 0]
        if not (to_object.size and to_background.size):  # one label for all; the solver needs both terminals
            return np.full(self.size, not to_background.size)
        edge = np.rint(self.weights * _SCALE).astype(np.int64)
        arcs = [  # tail, head, capacity
            (np.full(to_object.size, source, np.int32), to_object, gain[gain > 0]),
            (to_background, np.full(to_background.size, sink, np.int32), -gain[gain < 0]),
            (self.tails, self.heads, edge),
            (self.heads, self.tails, edge),
        ]
        if parents is not None:
            # cut if the pixel is object and its parent is not
            child = pixels[(parents.ravel() != pixels)]
            arcs.append((child, parents.ravel()[child], np.full(child.size, _HARD, np.int64)))
        flow = max_flow.SimpleMaxFlow()
        flow.add_arcs_with_capacity(*(np.concatenate(part) for part in zip(*arcs, strict=True)))
        if flow.solve(source, sink) != flow.OPTIMAL:
            raise RuntimeError("the max-flow did not reach an optimum")
        mask = np.zeros(num + 2, bool)
        mask[np.asarray(flow.get_source_side_min_cut(), np.int64)] = True
        return mask[:num].reshape(self.size)


def _shifted_views(rows: int, cols: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Make slices of all pixels with a neighbor at (rows, cols), and of those neighbors; rows is 0 or 1."""
    here = np.s_[: -rows or None, max(-cols, 0) : -max(cols, 0) or None]
    there = np.s_[rows:, max(cols, 0) : -max(-cols, 0) or None]
    return here, there


@METHODS.register("graph_cut")
class GraphCut(SeededMethod):
    """Interactive graph cuts: the minimum cut between object and background seeds.

    The data term is the negative log likelihood of a pixel's color under histograms of the seeds; the
    boundary term is contrast-sensitive on the 8-neighborhood; seeds are hard. Parts without a positive seed
    are removed.

    Source:
        Y. Boykov and M.-P. Jolly, "Interactive graph cuts for optimal boundary and region segmentation of
        objects in N-D images", ICCV 2001.

    Args:
        smoothness: Weight of the boundary term.
        seed_radius: Radius in pixels of the seed of a click without a drag.
    """

    name = "graph_cut"
    paper = "Boykov & Jolly 2001"

    def __init__(self, *, smoothness: float = 50.0, seed_radius: float = 5.0) -> None:
        super().__init__(seed_radius=seed_radius)
        import_extra("ortools.graph.python.max_flow", package="OR-tools", method=self.name, extra="classical")
        self.smoothness = smoothness

    @property
    def options(self) -> dict[str, Any]:
        """Options of this instance."""
        return {**super().options, "smoothness": self.smoothness}

    def prepare(self, image: NDArray[np.uint8]) -> None:
        """Build the grid and the color bins."""
        self._graph = GridGraph(image, smoothness=self.smoothness)
        self._colors = ColorModel(image)

    def segment(
        self, image: NDArray[np.uint8], seeds: NDArray[np.int8], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the cut as 0 and 1."""
        probability = self._colors.object_probability(seeds)
        mask = self._graph.cut(-np.log(probability), -np.log(1 - probability), seeds, self.parents(seeds))
        return keep_seeded(mask, seeds).astype(np.float32)

    def parents(self, seeds: NDArray[np.int8]) -> NDArray[np.int32] | None:
        """Star constraint for ``GridGraph.cut``; None for a plain graph cut."""
        return None
