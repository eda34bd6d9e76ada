"""Post-processing of a whole image: labels of clicks, a graph cut (DOS), or clicked parts (FCA-Net)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import MARKED_CONFIDENCE, MARKED_SHARE, Click
from dct_seg.methods.classical.graph_cut import GridGraph
from dct_seg.methods.classical.seeds import UNMARKED, keep_seeded, mark_seeds
from dct_seg.methods.extras import import_extra
from dct_seg.ranges import check_number
from dct_seg.registry import check_options, unknown_name

REMOVED = np.float32(1e-6)
"""Probability of a pixel that was removed from the object; the network gets it back with the next click."""

_CLIP = 1e-4


class PostStep(Protocol):
    """Post-processing of the probabilities of a whole image.

    Examples:
        >>> def halve(image, probs, clicks, inside):
        ...     return probs / 2
        >>> after: PostStep = halve
        >>> after(np.zeros((1, 2, 3), np.uint8), np.ones((1, 2), np.float32), [], np.s_[:, :])
        array([[0.5, 0.5]], dtype=float32)
    """

    def __call__(
        self,
        image: NDArray[np.uint8],
        probs: NDArray[np.float32],
        clicks: Sequence[Click],
        inside: tuple[slice, slice],
    ) -> NDArray[np.float32]:
        """Return new probabilities, (H, W).

        Args:
            image: (H, W, 3) RGB.
            probs: (H, W) probabilities in 0..1.
            clicks: All clicks.
            inside: Rows and columns of the predicted region; all pixels outside are background.
        """


@dataclass
class GraphCutStep:
    """Minimum cut with data terms -log Q and -log(1 - Q); clicked pixels and the outside are hard.

    Args:
        smoothness: Weight of the boundary term relative to the data terms in nats.

    Source: based on DOS (Xu, Price, Cohen, Yang and Huang 2016), which does not give the weight. The boundary
    term is that of the method ``graph_cut``.

    Raises:
        ImportError: When the extra ``classical`` is not installed.

    Examples:
        >>> image = np.repeat(np.uint8([[[0], [0], [200], [200]]]), 3, axis=2)
        >>> probs = np.float32([[0.9, 0.6, 0.6, 0.1]])
        >>> GraphCutStep()(image, probs, [Click(0, 0)], np.s_[0:1, 0:4]).round()  # cut along the edge
        array([[1., 1., 0., 0.]], dtype=float32)
    """

    smoothness: float = 5.0
    _graph: GridGraph | None = field(default=None, init=False, repr=False)
    """Cache of the last image's graph; this class owns it."""
    _image: NDArray[np.uint8] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        import_extra(
            "ortools.graph.python.max_flow", package="OR-tools", method="graph_cut", extra="classical"
        )

    def reset(self) -> None:
        """Forget the last image; the same array may contain another one."""
        self._graph = self._image = None

    def __call__(
        self,
        image: NDArray[np.uint8],
        probs: NDArray[np.float32],
        clicks: Sequence[Click],
        inside: tuple[slice, slice],
    ) -> NDArray[np.float32]:
        """Return probabilities of 1 in the object; see `PostStep`."""
        if self._graph is None or self._image is not image:
            self._graph, self._image = GridGraph(image, smoothness=self.smoothness), image
        clicked = _clicked_pixels(probs, clicks)
        seeds = np.zeros_like(clicked)
        seeds[inside] = UNMARKED
        seeds[clicked != UNMARKED] = clicked[clicked != UNMARKED]
        q = np.clip(probs.astype(np.float64), _CLIP, 1 - _CLIP)
        mask = self._graph.cut(-np.log(q), -np.log(1 - q), seeds)
        return np.where(mask, np.float32(1), np.minimum(probs, REMOVED)).astype(np.float32)


@dataclass
class ConnectedPartsStep:
    """Keep only the 8-connected parts of the mask with a positive click.

    Without a positive click in the mask, all parts are kept.

    Source: FCA-Net's structural integrity (Lin et al. 2020). Its code uses 4-connectivity, the paper 8.

    Examples:
        >>> probs = np.float32([[0.9, 0.1, 0.8]])
        >>> ConnectedPartsStep()(np.zeros((1, 3, 3), np.uint8), probs, [Click(0, 0)], np.s_[:, :]).round(1)
        array([[0.9, 0.1, 0. ]], dtype=float32)
    """

    def __call__(
        self,
        image: NDArray[np.uint8],
        probs: NDArray[np.float32],
        clicks: Sequence[Click],
        inside: tuple[slice, slice],
    ) -> NDArray[np.float32]:
        """Return the probabilities without the removed parts; see `PostStep`."""
        mask = probs > 0.5
        seeds = _clicked_pixels(probs, clicks)
        if not ((seeds == 1) & mask).any():
            return probs
        dropped = mask & ~keep_seeded(mask, seeds)
        return np.where(dropped, REMOVED, probs)


@dataclass
class MarkClicksStep:
    """Give the inside of each drag, and the pixel under each click, the label of their click.

    A drag of length r contains the pixels at a distance below r. Near its center they always get the label.
    Near its edge they keep a confident prediction, because people drag a little too far. Where circles
    overlap, the nearest click decides. Of a click whose radius was predicted, only the pixel under it is
    marked.

    Args:
        share: Fraction of r within which pixels always get the label.
        confidence: Probability of the other label from which a pixel near the edge keeps it; 1 marks the
            whole circle.

    Raises:
        ValueError: When a value is not a fraction.

    Examples:
        >>> probs = np.float32([[0.4, 0.1, 0.4, 0.1, 0.4]])
        >>> click = Click(0, 0, radius=4.0)
        >>> MarkClicksStep(share=0.5)(np.zeros((1, 5, 3), np.uint8), probs, [click], np.s_[:, :])
        array([[1. , 1. , 1. , 0.1, 0.4]], dtype=float32)
    """

    share: float = MARKED_SHARE
    confidence: float = MARKED_CONFIDENCE

    def __post_init__(self) -> None:
        check_number("share of mark_clicks", self.share, least=0, most=1)
        check_number("confidence of mark_clicks", self.confidence, least=0, most=1)

    def __call__(
        self,
        image: NDArray[np.uint8],
        probs: NDArray[np.float32],
        clicks: Sequence[Click],
        inside: tuple[slice, slice],
    ) -> NDArray[np.float32]:
        """Return the probabilities with the marked pixels at 1 or near 0; see `PostStep`."""
        marked = probs.copy()
        if clicks:
            circles = [c if c.is_drag else replace(c, radius=0.0) for c in clicks]
            box, circles = _box_of(circles, probs.shape)
            marked[box] = self._mark(probs[box], circles)
        return marked

    def _mark(self, probs: NDArray[np.float32], circles: Sequence[Click]) -> NDArray[np.float32]:
        size = (probs.shape[0], probs.shape[1])
        centers = [replace(c, radius=(c.radius or 0.0) * self.share) for c in circles]
        edge, center = (mark_seeds(size, some, seed_radius=0.0) for some in (circles, centers))
        is_object = ((edge == 1) & (probs > 1 - self.confidence) & (center != 0)) | (center == 1)
        is_background = ((edge == 0) & (probs < self.confidence) & (center != 1)) | (center == 0)
        return np.where(is_background, np.minimum(probs, REMOVED), np.where(is_object, np.float32(1), probs))


def _box_of(circles: Sequence[Click], size: tuple[int, ...]) -> tuple[tuple[slice, slice], list[Click]]:
    """Find the rectangle around circles inside an image of ``size``, and shift the circles to it."""
    places = np.array([[c.row, c.col] for c in circles])
    reach = np.array([[c.radius or 0.0] for c in circles]) + 1
    top, left = np.floor((places - reach).min(0).clip(min=0)).astype(int).tolist()
    bottom, right = np.ceil((places + reach).max(0)).astype(int).tolist()
    box = np.s_[top : min(bottom, size[0] - 1) + 1, left : min(right, size[1] - 1) + 1]
    return box, [replace(c, row=c.row - top, col=c.col - left) for c in circles]


def _clicked_pixels(probs: NDArray[np.float32], clicks: Sequence[Click]) -> NDArray[np.int8]:
    """Seeds of the clicked pixels only, without the drags' circles."""
    shape = (probs.shape[0], probs.shape[1])
    return mark_seeds(shape, [replace(c, radius=0.0) for c in clicks], seed_radius=0.0)


POST_STEPS: Mapping[str, Callable[..., PostStep]] = {
    "mark_clicks": MarkClicksStep,
    "graph_cut": GraphCutStep,
    "connected": ConnectedPartsStep,
}
"""Post-processing by name; ``none`` is another valid name."""


def make_post_step(name: str, options: Mapping[str, float]) -> PostStep | None:
    """Make a post-processing by name; None for ``none``.

    Raises:
        ValueError: When the name or an option is unknown.
        ImportError: When a required package is missing.

    Examples:
        >>> make_post_step("connected", {})
        ConnectedPartsStep()
    """
    if name not in ("none", *POST_STEPS):
        raise unknown_name("post-processing", name, ["none", *POST_STEPS])
    kind = POST_STEPS.get(name)
    known = [f.name for f in fields(kind) if f.init] if kind else []  # type: ignore[arg-type]
    check_options("post-processing", name, options, known)
    return kind(**options) if kind else None
