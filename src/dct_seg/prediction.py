"""Prediction: a mask with its clicks and timings, and conversions for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg import rle
from dct_seg.clicks import Click

if TYPE_CHECKING:
    from dct_seg.methods.views import View

LARGEST_LOGIT = 32.0
"""Logits of probabilities 0 and 1; `dct_seg.prompts.probabilities_of` gives both back exactly."""


@dataclass(frozen=True)
class Timings:
    """Duration of a call in seconds.

    Args:
        encode: Time to encode the image or a region, reused by later clicks; 0 if cached.
        click: Time for everything else.
    """

    encode: float = 0.0
    click: float = 0.0

    @property
    def total(self) -> float:
        """Total time in seconds."""
        return self.encode + self.click


@dataclass(frozen=True)
class Prediction:
    """Mask with its probabilities, clicks and timings.

    It unpacks like the result of ``SamPredictor.predict``: ``masks, scores, logits``, with one mask.

    Args:
        mask: (H, W) bool, the object.
        probs: (H, W) float32 in 0..1.
        clicks: Clicks with their effective radii.
        timings: Duration of the prediction.
        view: Predicted region of the image, with probability 0 outside; None from a method without
            views.

    Examples:
        >>> probs = np.array([[0.0, 0.9, 0.8], [0.0, 0.7, 0.6]], np.float32)
        >>> one = Prediction(probs > 0.5, probs, ())
        >>> one.box, one.area
        ((1, 0, 3, 2), 4)
        >>> one.polygons()[0].tolist()
        [[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]]
        >>> masks, scores, logits = one
        >>> masks.shape, logits.shape, round(float(scores[0]), 2)
        ((1, 2, 3), (1, 2, 3), 0.75)
    """

    mask: NDArray[np.bool_]
    probs: NDArray[np.float32]
    clicks: tuple[Click, ...]
    timings: Timings = Timings()
    view: View | None = None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.mask[None], np.array([self.score], np.float32), self.logits))

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits, (1, H, W) float32, for ``predict(mask_input=)``."""
        probs = self.probs.astype(np.float64)
        with np.errstate(divide="ignore"):
            logits = np.log(probs) - np.log1p(-probs)
        return np.asarray(np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT), np.float32)[None]

    @property
    def score(self) -> float:
        """Mean probability over the mask, 0 for an empty one; not a predicted IoU, unlike SAM's score."""
        return float(self.probs[self.mask].mean()) if self.mask.any() else 0.0

    @property
    def area(self) -> int:
        """Number of pixels of the mask."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Bounding box (left, top, right, bottom), right and bottom exclusive; None for an empty mask."""
        left, top, width, height = cv2.boundingRect(self.mask.view(np.uint8))
        return (left, top, left + width, top + height) if width else None

    def polygons(self, *, tolerance: float = 0.0) -> list[NDArray[np.float64]]:
        """Trace the outlines of the mask's parts, each (N, 2) of (x, y) along pixel edges.

        Pixel (row, col) covers x from col to col + 1 and y from row to row + 1, as in COCO. Holes are filled;
        `rle` keeps them.

        Args:
            tolerance: Maximum error of a simplified outline in pixels; 0 keeps every corner.
        """
        outlines = [line for line in _outlines(self.mask) if _signed_area(line) > 0]
        if tolerance <= 0:
            return outlines
        whole = [line.astype(np.float32) for line in outlines]
        simple = [cv2.approxPolyDP(line, tolerance, closed=True)[:, 0] for line in whole]
        return [line.astype(np.float64) for line in simple if len(line) >= 3]

    def rle(self) -> dict[str, Any]:
        """Encode the mask as COCO's packed run lengths, ``{"size": [H, W], "counts": str}``."""
        return rle.encode(self.mask)

    def to_coco(self, *, annotation_id: int = 1, image_id: int = 1, category_id: int = 1) -> dict[str, Any]:
        """Make a COCO annotation with a run-length encoding.

        Args:
            annotation_id: Number of the annotation in its file.
            image_id: Number of the image in its file.
            category_id: Number of the class in its file.
        """
        left, top, right, bottom = self.box or (0, 0, 0, 0)
        return {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": self.rle(),
            "bbox": [left, top, right - left, bottom - top],
            "area": self.area,
            "iscrowd": 0,
            "score": self.score,
        }


def _outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed lines along pixel edges, (N, 2) corners of (x, y): clockwise around parts, else around holes."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # neighbor, and the side toward it from its first to its last corner, with the mask on the right
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbor, (x0, y0), (x1, y1) in sides:
        rows, cols = np.nonzero(inside & ~neighbor)
        for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
            after.setdefault((col + x0, row + y0), []).append((col + x1, row + y1))
    lines = []
    while after:
        first = next(iter(after))
        line = [first]
        here, step = first, (0, 0)
        while True:
            ends = after[here]
            there = max(ends, key=lambda end: _right_turn(step, _step(here, end)))
            ends.remove(there)
            if not ends:
                del after[here]
            if _step(here, there) == step:
                line[-1] = there
            else:
                line.append(there)
            here, step = there, _step(here, there)
            if here == first:
                break
        lines.append(np.array(line[:-1], np.float64))
    return lines


def _step(here: tuple[int, int], there: tuple[int, int]) -> tuple[int, int]:
    return there[0] - here[0], there[1] - here[1]


def _right_turn(step: tuple[int, int], new: tuple[int, int]) -> int:
    """1 for a right turn, which separates pixels that touch only at a corner; -1 for a left turn."""
    return step[0] * new[1] - step[1] * new[0]


def _signed_area(line: NDArray[np.float64]) -> float:
    """Area inside a closed line, positive when it runs clockwise (y points down)."""
    x, y = line[:, 0], line[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
