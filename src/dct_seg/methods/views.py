"""Views: part and resolution of the image that a network processes.

A view is the whole image, the surroundings of small drags, or the region of the object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click, ClickBatch

SMALLEST_OBJECT = 16.0  # pixels; smaller boxes get the margin of a box of this size
# a view is kept while its pixels are at most this factor coarser than those of the ideal view
HELD_COARSENESS = 1.33
HELD_MARGIN = 0.25  # fraction of the ideal margin that the object must still have in a kept view
# network pixels per image pixel; training enlarges no further, and context helps a small object more
LARGEST_ZOOM = 4.0
# minimum resolution gain for a separate view of the clicks' surroundings
FIRST_GAIN = 1.5


@dataclass(frozen=True)
class View:
    """Rectangle of the image and its size at the network's input.

    Args:
        top, left, height, width: Rectangle in pixels of the image.
        size: (h, w) of the network's input in pixels.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]

    def crop(self, array: NDArray[Any]) -> NDArray[Any]:
        """Crop ``array`` to the rectangle and resize it to ``size``."""
        part = array[self.top : self.top + self.height, self.left : self.left + self.width]
        if part.shape[:2] == self.size:
            return part
        shrinks = self.size[0] < self.height
        return np.asarray(
            cv2.resize(part, self.size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        )

    def clicks(self, clicks: Sequence[Click]) -> ClickBatch:
        """Convert clicks to the network's pixels."""
        batch = ClickBatch.from_clicks([clicks]).shifted(-self.top, -self.left)
        return batch.scaled((self.height, self.width), self.size)

    @property
    def scale(self) -> float:
        """Scale of the view: network pixels per image pixel."""
        return math.sqrt(self.size[0] * self.size[1] / (self.height * self.width))

    def resized(self, longest: int) -> View:
        """Change the resolution: the same rectangle with a longer side of ``longest`` network pixels."""
        return _view(self.top, self.left, self.height, self.width, longest, enlarge=True)

    def holds(self, other: View) -> bool:
        """Whether ``other``'s rectangle lies inside this one."""
        return (
            self.top <= other.top
            and self.left <= other.left
            and other.top + other.height <= self.top + self.height
            and other.left + other.width <= self.left + self.width
        )


def whole_view(shape: tuple[int, int], longest: int) -> View:
    """Make the view of the whole image, shrunk (never enlarged) to a longer side of ``longest`` pixels."""
    return _view(0, 0, *shape, longest, enlarge=False)


def first_view(
    shape: tuple[int, int], clicks: Sequence[Click], whole: View, longest: int, *, reach: float
) -> View:
    """Choose the view before there is a mask: the surroundings of the positive clicks, or ``whole``.

    A drag gives the object's size before the first prediction. Nine of ten objects lie within eight radii of
    the first click, and a small object has only a few pixels in the whole image.

    Args:
        shape: (H, W) of the image.
        clicks: All clicks; negative ones are kept inside, too.
        whole: View of the whole image.
        longest: Longer side of the view in network pixels.
        reach: Size of the surroundings in radii of a positive click; 0 always gives ``whole``.
    """
    if not reach or not any(c.positive and c.radius for c in clicks):
        return whole
    box = _box_around(clicks, (math.inf, -math.inf, math.inf, -math.inf), reach=reach)
    view = _view_around(box, shape, longest, 1.0)
    return whole if view is None or view.scale < FIRST_GAIN * whole.scale else view


def object_view(
    previous: NDArray[np.float32], clicks: Sequence[Click], longest: int, *, margin: float
) -> View | None:
    """Choose the region of the object: previous mask and positive clicks' circles, enlarged by ``margin``.

    Args:
        previous: (H, W) probabilities before the last click.
        clicks: All clicks; negative ones are kept inside, too.
        longest: Longer side of the view in network pixels.
        margin: Height and width of the region relative to those of the object; the region is large
            enough that it is not enlarged more than ``LARGEST_ZOOM`` times.

    Returns:
        View of the region; None if it is the whole image, or there is no object yet.
    """
    box = _object_box(previous, clicks)
    return None if box is None else _view_around(box, previous.shape, longest, margin)


def next_view(
    previous: NDArray[np.float32],
    held: View | None,
    clicks: Sequence[Click],
    whole: View,
    longest: int,
    *,
    margin: float,
) -> View:
    """Choose the view as in `object_view`, or ``whole``; keep the previous view while it fits.

    The result is a pure function of the arguments, whether or not the encoding of a view is cached.

    Args:
        previous: Probabilities before the last click, see `object_view`.
        held: View of ``previous``; None if it has none.
        clicks: Clicks, see `object_view`.
        whole: View of the whole image.
        longest: Longer side of the view in pixels, see `object_view`.
        margin: Size relative to the object, see `object_view`.
    """
    box = _object_box(previous, clicks)
    if box is None:
        return whole
    wanted = _view_around(box, previous.shape, longest, margin) or whole
    if held is None:
        return wanted
    needed = (
        _view_around(box, previous.shape, longest, 1 + (margin - 1) * HELD_MARGIN, largest_zoom=math.inf)
        or whole
    )
    held = whole if (held.height, held.width) == previous.shape else held.resized(longest)
    return held if held.holds(needed) and held.scale * HELD_COARSENESS >= wanted.scale else wanted


def covered_view(probs: NDArray[np.float32]) -> View | None:
    """Recover the view of a result given as an array, such as the logits of SAM's interface.

    Args:
        probs: (H, W) probabilities; 0 only outside the view.

    Returns:
        Box around the nonzero pixels, at one network pixel per pixel; None if all are 0.

    Examples:
        >>> covered_view(np.array([[0, 0, 0], [0, 0.1, 0.6]], np.float32))
        View(top=1, left=1, height=1, width=2, size=(1, 2))
    """
    left, top, width, height = cv2.boundingRect((probs > 0).view(np.uint8))
    return View(top, left, height, width, (height, width)) if width else None


def mirrored_clicks(clicks: ClickBatch, width: int) -> ClickBatch:
    """Mirror clicks in an image of ``width`` pixels, left to right."""
    coords = clicks.coords * clicks.coords.new_tensor([1, -1]) + clicks.coords.new_tensor([0, width - 1])
    return ClickBatch(coords, clicks.labels, clicks.radii)


_Box = tuple[float, float, float, float]
"""Box as (top, bottom, left, right)."""


def _object_box(previous: NDArray[np.float32], clicks: Sequence[Click]) -> _Box | None:
    """Find the box around the mask, the clicks, and the circles of the positive ones; None without a mask."""
    first_col, first_row, cols, rows = cv2.boundingRect((previous > 0.5).view(np.uint8))
    if rows == 0:
        return None
    mask = float(first_row), float(first_row + rows), float(first_col), float(first_col + cols)
    return _box_around(clicks, mask, reach=1)


def _box_around(clicks: Sequence[Click], box: _Box, *, reach: float) -> _Box:
    """Grow ``box`` to contain the clicks, and circles of ``reach`` radii around the positive ones."""
    top, bottom, left, right = box
    for click in clicks:
        far = reach * (click.radius or 0.0) if click.positive else 0.0
        top, bottom = min(top, click.row - far), max(bottom, click.row + far + 1)
        left, right = min(left, click.col - far), max(right, click.col + far + 1)
    return top, bottom, left, right


def _view_around(
    box: _Box, shape: tuple[int, ...], longest: int, margin: float, *, largest_zoom: float = LARGEST_ZOOM
) -> View | None:
    """Make the view of the box with its margin, widened if ``largest_zoom`` would be exceeded.

    At the border of the image, a widened view lies inside instead of being cut, which would enlarge it more.
    None if this is the whole image.
    """
    top, bottom, left, right = box
    grow_h, grow_w = ((margin - 1) / 2 * max(side, SMALLEST_OBJECT) for side in (bottom - top, right - left))
    top, bottom = max(0.0, top - grow_h), min(shape[0], bottom + grow_h)
    left, right = max(0.0, left - grow_w), min(shape[1], right + grow_w)
    least = longest / largest_zoom
    if max(bottom - top, right - left) < least:
        top, bottom = _widened(top, bottom, least, shape[0])
        left, right = _widened(left, right, least, shape[1])
    first_row, first_col = math.floor(top), math.floor(left)
    num_rows, num_cols = math.ceil(bottom) - first_row, math.ceil(right) - first_col
    if (num_rows, num_cols) == tuple(shape):
        return None
    return _view(first_row, first_col, num_rows, num_cols, longest, enlarge=True)


def _widened(low: float, high: float, width: float, limit: int) -> tuple[float, float]:
    """Widen an interval to ``width`` around its center, moved and cut to lie inside ``[0, limit]``."""
    low = max(0.0, min((low + high - width) / 2, limit - width))
    return low, min(low + width, limit)


def _view(top: int, left: int, height: int, width: int, longest: int, *, enlarge: bool) -> View:
    factor = longest / max(height, width)
    if not enlarge:
        factor = min(factor, 1.0)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return View(top, left, height, width, size)
