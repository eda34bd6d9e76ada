"""Post-processing of a whole image: a graph cut (DOS), or the clicked parts alone (FCA-Net)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.methods.classical.graph_cut import GridGraph
from dct_seg.methods.classical.seeds import UNMARKED, keep_seeded, mark_seeds
from dct_seg.methods.extras import import_extra
from dct_seg.registry import unknown_name

FLOOR = np.float32(1e-6)
"""Probability of a pixel that was removed from the object; above 0, so that the view can be recovered."""

_CLIP = 1e-4


class After(Protocol):
    """Post-processing of the probabilities of a whole image."""

    def __call__(
        self,
        image: NDArray[np.uint8],
        probs: NDArray[np.float32],
        clicks: Sequence[Click],
        inside: tuple[slice, slice],
    ) -> NDArray[np.float32]:
        """New probabilities, (H, W).

        Args:
            image: (H, W, 3) RGB.
            probs: (H, W) in 0..1.
            clicks: All clicks.
            inside: Rows and columns that the network saw; nothing outside them is object.
        """


@dataclass
class CutAfter:
    """The cheapest cut with data terms -log Q and -log(1 - Q); clicked pixels and what lies outside are hard.

    Args:
        smoothness: Weight of the boundary term against the data terms in nats.

    Source: DOS, after (Xu, Price, Cohen, Yang and Huang 2016), which does not give the weight. The boundary
    term is that of the method ``graph_cut``.

    Raises:
        ImportError: When the extra ``classical`` is not installed.
    """

    smoothness: float = 5.0
    _graph: GridGraph | None = field(default=None, init=False, repr=False)
    _image: NDArray[np.uint8] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        import_extra(
            "ortools.graph.python.max_flow", package="OR-tools", method="graph_cut", extra="classical"
        )

    def __call__(
        self,
        image: NDArray[np.uint8],
        probs: NDArray[np.float32],
        clicks: Sequence[Click],
        inside: tuple[slice, slice],
    ) -> NDArray[np.float32]:
        """0 and 1; see :class:`After`."""
        if self._graph is None or self._image is not image:
            self._graph, self._image = GridGraph(image, smoothness=self.smoothness), image
        clicked = _clicked_pixels(probs, clicks)
        seeds = np.zeros_like(clicked)
        seeds[inside] = UNMARKED
        seeds[clicked != UNMARKED] = clicked[clicked != UNMARKED]
        q = np.clip(probs.astype(np.float64), _CLIP, 1 - _CLIP)
        mask = self._graph.cut(-np.log(q), -np.log(1 - q), seeds)
        return np.where(mask, np.float32(1), np.minimum(probs, FLOOR)).astype(np.float32)


@dataclass
class ConnectedAfter:
    """Keep only the 8-connected parts of the mask with a positive click.

    Without a positive click in the mask, all of it is kept.

    Source: FCA-Net's structural integrity (Lin et al. 2020). Its code fills from the clicks 4-connected, the
    paper says 8.
    """

    def __call__(
        self,
        image: NDArray[np.uint8],
        probs: NDArray[np.float32],
        clicks: Sequence[Click],
        inside: tuple[slice, slice],
    ) -> NDArray[np.float32]:
        """The probabilities of the kept parts; see :class:`After`."""
        mask = probs > 0.5
        seeds = _clicked_pixels(probs, clicks)
        if not ((seeds == 1) & mask).any():
            return probs
        dropped = mask & ~keep_seeded(mask, seeds)
        return np.where(dropped, FLOOR, probs)


def _clicked_pixels(probs: NDArray[np.float32], clicks: Sequence[Click]) -> NDArray[np.int8]:
    """Seeds of the clicked pixels alone, whatever the drags."""
    shape = (probs.shape[0], probs.shape[1])
    return mark_seeds(shape, [replace(c, radius=0.0) for c in clicks], seed_radius=0.0)


AFTER: Mapping[str, Callable[..., After]] = {"graph_cut": CutAfter, "connected": ConnectedAfter}
"""Beside ``none``."""


def make_after(name: str, options: Mapping[str, float]) -> After | None:
    """The post-processing under a name, or None for ``none``.

    Raises:
        ValueError: When the name or an option is unknown.
        ImportError: When a package is missing that it needs.
    """
    if name == "none":
        return None
    if name not in AFTER:
        raise unknown_name("post-processing", name, ["none", *AFTER])
    kind = AFTER[name]
    known = [f.name for f in fields(kind) if f.init]  # type: ignore[arg-type]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"post-processing '{name}' has no option {', '.join(unknown)}; it has "
            f"{', '.join(known) or 'none'}"
        )
    return kind(**options)
