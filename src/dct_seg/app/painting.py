"""Brush strokes, lassos, clean-ups and local corrections as pure functions, bit-identical on every machine.

A pixel belongs to a stroke if its center lies inside. Positions are (row, col); an integer is a pixel's
center.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.app.working_image import bounding_box

Kind = Literal["brush", "lasso", "fill_holes", "drop_specks", "keep_largest"]
StepKind = Literal[Kind, "keep_outside"]
KINDS: tuple[StepKind, ...] = get_args(StepKind)
SPECK = 0.01
"""Area of the largest speck, as a fraction of the largest part."""

MAX_WORK = 50_000_000  # total rows of the discs in one stroke
Box = tuple[slice, slice]


@dataclass(frozen=True)
class Paint:
    """Manual step: a brush stroke, a lasso, a clean-up, or the circle of a local click.

    Args:
        kind: Tool; ``keep_outside`` limits the preceding click to a circle.
        positive: Whether the step adds pixels to the object (brush and lasso).
        points: (row, col, radius) for a brush or the circle, (row, col) for a lasso, none for a clean-up.
        threshold: Probability threshold of the mask that the step changes.
    """

    kind: StepKind
    positive: bool = True
    points: tuple[tuple[float, ...], ...] = ()
    threshold: float = 0.5

    @classmethod
    def read(cls, event: Mapping[str, Any]) -> Paint:
        """Read a step from its log entry.

        Raises:
            LookupError, TypeError, ValueError: When the entry is not a step.
        """
        if event["kind"] not in KINDS:
            raise ValueError(f"unknown tool {event['kind']!r}; known: {', '.join(KINDS)}")
        points = tuple(tuple(float(value) for value in point) for point in event["points"])
        num_values = {"brush": 3, "lasso": 2, "keep_outside": 3}.get(event["kind"], 0)
        if any(len(point) != num_values for point in points) or (num_values and not points):
            given = ", ".join(str(len(point)) for point in points[:3]) or "no point"
            raise ValueError(
                f"each point of a '{event['kind']}' step must have {num_values} numbers, got {given}"
            )
        if num_values == 3 and (lowest := min(point[2] for point in points)) <= 0:
            raise ValueError(f"the radius of a brush must be above 0 at each point, got {lowest:g}")
        return cls(event["kind"], bool(event["positive"]), points, float(event["threshold"]))

    def event(self) -> dict[str, Any]:
        """Convert the step to its log entry."""
        return {
            "kind": self.kind,
            "positive": self.positive,
            "points": [list(point) for point in self.points],
            "threshold": self.threshold,
        }


def painted(mask: NDArray[np.bool_], paint: Paint) -> NDArray[np.bool_]:
    """Apply a step to a mask: a new array, (H, W) bool.

    Raises:
        ValueError: When the stroke is too long to draw at once.
    """
    if paint.kind in CLEANUPS:
        return CLEANUPS[paint.kind](mask)
    draw = brush if paint.kind == "brush" else lasso
    found = draw(paint.points, (mask.shape[0], mask.shape[1]))
    after = mask.copy()
    if found is not None:
        box, part = found
        after[box] = after[box] | part if paint.positive else after[box] & ~part
    return after


def kept_outside(
    before: NDArray[np.bool_], after: NDArray[np.bool_], circle: Sequence[float]
) -> NDArray[np.bool_]:
    """Combine ``after`` inside a circle with ``before`` outside it: a new array, (H, W) bool.

    Args:
        before: Mask before the click, (H, W) bool.
        after: Mask after the click, (H, W) bool.
        circle: (row, col, radius) in pixels.

    Examples:
        >>> kept_outside(np.zeros((3, 4), bool), np.ones((3, 4), bool), (1, 1, 1.0)).astype(int).tolist()
        [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
    """
    mixed = before.copy()
    found = brush([circle], (before.shape[0], before.shape[1]))
    if found is not None:
        box, inside = found
        mixed[box] = np.where(inside, after[box], before[box])
    return mixed


def brush(points: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[Box, NDArray[np.bool_]] | None:
    """Rasterize a round brush stroke; None if it lies outside the image.

    Args:
        points: (row, col, radius) in order; the radius is linear between two points (pen pressure).
        size: (height, width) of the image.

    Raises:
        ValueError: When the stroke is too long to draw at once.

    Examples:
        >>> box, part = brush([(1, 1, 1.0)], (3, 4))
        >>> part.astype(int).tolist()
        [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    given = np.asarray(points, np.float64)
    discs = _discs(given, size)
    low, high = (given[:, :2] - given[:, 2:]).min(axis=0), (given[:, :2] + given[:, 2:]).max(axis=0)
    top, left = (max(0, int(np.ceil(edge))) for edge in low)
    bottom, right = (min(side, int(np.floor(edge)) + 1) for side, edge in zip(size, high, strict=True))
    if bottom <= top or right <= left:
        return None
    # +1 at the first pixel of a disc in a row, -1 after the last: the cumulative sum counts the discs.
    depth = np.zeros((bottom - top) * (right - left + 1), np.int32)
    reach = int(np.ceil(discs[:, 2].max()))
    offsets = np.arange(-reach, reach + 1)
    at_once = max(1, 2**20 // len(offsets))
    for first in range(0, len(discs), at_once):
        row, col, radius = (discs[first : first + at_once, axis, None] for axis in range(3))
        rows = np.rint(row).astype(np.int64) + offsets
        room = radius**2 - (rows - row) ** 2
        half = np.sqrt(np.maximum(room, 0))
        start = np.clip(np.ceil(col - half), left, right).astype(np.int64) - left
        end = np.clip(np.floor(col + half) + 1, left, right).astype(np.int64) - left
        seen = (room >= 0) & (end > start) & (rows >= top) & (rows < bottom)
        line = (rows[seen] - top) * (right - left + 1)
        np.add.at(depth, line + start[seen], 1)
        np.add.at(depth, line + end[seen], -1)
    covered = depth.reshape(bottom - top, -1)
    np.cumsum(covered, axis=1, out=covered)
    return (slice(top, bottom), slice(left, right)), covered[:, :-1] > 0


def _discs(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Place discs so densely that their union equals the stroke to about 0.01 pixel."""
    before, after = points[:-1], points[1:]
    lengths = np.hypot(*(after - before)[:, :2].T)
    steps = np.maximum(0.5, np.minimum(before[:, 2], after[:, 2]) / 16)
    counts = np.maximum(1, np.ceil(lengths / steps)).astype(np.int64)
    work = (counts.sum() + 1) * (2 * min(points[:, 2].max(), max(size)) + 1)
    if work > MAX_WORK or points[:, 2].max() > 2 * max(size):
        raise ValueError("the stroke is too long or too wide to draw at once; draw it as several strokes")
    pieces = [points[:1]]
    for start, end, count in zip(before, after, counts.tolist(), strict=True):
        pieces.append(start + (end - start) * (np.arange(1, count + 1)[:, None] / count))
    return np.concatenate(pieces)


def lasso(points: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[Box, NDArray[np.bool_]] | None:
    """Rasterize a closed polygon by the even-odd rule; None if it contains no pixel.

    Args:
        points: (row, col) of the corners in order.
        size: (height, width) of the image.

    Examples:
        >>> box, part = lasso([(0.5, 0.5), (0.5, 3.5), (2.5, 3.5), (2.5, 0.5)], (4, 5))
        >>> box, part.shape, bool(part.all())
        ((slice(1, 3, None), slice(1, 4, None)), (2, 3), True)
    """
    corners = np.asarray(points, np.float64)
    top, bottom = max(0, int(np.ceil(corners[:, 0].min()))), min(size[0], int(np.ceil(corners[:, 0].max())))
    left, right = max(0, int(np.ceil(corners[:, 1].min()))), min(size[1], int(np.ceil(corners[:, 1].max())))
    if bottom <= top or right <= left:
        return None
    crossed = np.zeros((bottom - top, right - left + 1), np.int32)
    for (row, col), (to_row, to_col) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = sorted((row, to_row))
        rows = np.arange(max(top, int(np.ceil(low))), min(bottom, int(np.ceil(high))))
        if len(rows):
            cols = col + (rows - row) * ((to_col - col) / (to_row - row))
            np.add.at(crossed, (rows - top, np.clip(np.ceil(cols), left, right).astype(np.int64) - left), 1)
    part = np.cumsum(crossed, axis=1)[:, :-1] % 2 == 1
    return (slice(top, bottom), slice(left, right)), part


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the holes of a mask: enclosed background becomes object."""
    after = mask.copy()
    box = bounding_box(mask)
    if box is not None:
        outside = np.pad(~mask[box], 1, constant_values=True).view(np.uint8)
        _, labels = cv2.connectedComponents(outside, connectivity=4)
        after[box] |= ((labels != labels[0, 0]) & (outside > 0))[1:-1, 1:-1]
    return after


def drop_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Remove the parts smaller than a hundredth of the largest part."""
    return _keep_parts(mask, lambda areas: areas >= SPECK * areas.max())


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep only the largest part; pixels that touch at a corner belong to one part."""
    return _keep_parts(mask, lambda areas: np.arange(len(areas)) == areas.argmax())


def _keep_parts(
    mask: NDArray[np.bool_], keep: Callable[[NDArray[np.int32]], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    after = mask.copy()
    box = bounding_box(mask)
    if box is not None:
        part = np.ascontiguousarray(mask[box]).view(np.uint8)
        _, labels, numbers, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        kept = np.concatenate([[False], keep(numbers[1:, cv2.CC_STAT_AREA])])
        after[box] = kept[labels]
    return after


CLEANUPS: Mapping[str, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    "fill_holes": fill_holes,
    "drop_specks": drop_specks,
    "keep_largest": keep_largest,
}
