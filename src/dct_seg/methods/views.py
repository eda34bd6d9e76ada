"""Views: the part of an image that a network sees, and its resolution.

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

SMALLEST_OBJECT = 16.0  # pixels; the margin around something smaller is the margin of this
# a view is kept while its pixels are at most this factor coarser than those of the wanted view
HELD_COARSENESS = 1.33
HELD_MARGIN = 0.25  # share of the wanted margin that the object must still have in a kept view
# network pixels per image pixel; training enlarges no further, and a small object's surroundings help more
LARGEST_ZOOM = 4.0
# minimum resolution gain for a separate view of the clicks' surroundings
FIRST_GAIN = 1.5


@dataclass(frozen=True)
class View:
    """A rectangle of the image and the size at which the network sees it.

    Args:
        top, left, height, width: Pixels of the image.
        size: (h, w) pixels given to the network.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]

    def crop(self, array: NDArray[Any]) -> NDArray[Any]:
        """The rectangle of ``array``, resized to ``size``."""
        part = array[self.top : self.top + self.height, self.left : self.left + self.width]
        if part.shape[:2] == self.size:
            return part
        shrinks = self.size[0] < self.height
        return np.asarray(
            cv2.resize(part, self.size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        )

    def clicks(self, clicks: Sequence[Click]) -> ClickBatch:
        """The clicks in the network's pixels."""
        batch = ClickBatch.from_clicks([clicks]).shifted(-self.top, -self.left)
        return batch.scaled((self.height, self.width), self.size)

    @property
    def scale(self) -> float:
        """Network pixels per image pixel."""
        return math.sqrt(self.size[0] * self.size[1] / (self.height * self.width))

    def holds(self, other: View) -> bool:
        """True if ``other``'s rectangle lies inside this one."""
        return (
            self.top <= other.top
            and self.left <= other.left
            and other.top + other.height <= self.top + self.height
            and other.left + other.width <= self.left + self.width
        )


def whole_view(shape: tuple[int, int], longest: int) -> View:
    """The whole image, shrunk (never enlarged) until its longer side is ``longest`` pixels."""
    return _view(0, 0, *shape, longest, enlarge=False)


def first_view(
    shape: tuple[int, int], clicks: Sequence[Click], whole: View, longest: int, *, reach: float
) -> View:
    """View before there is a mask: the surroundings of the positive clicks, or ``whole``.

    A drag gives the object's size before the first prediction. Nine of ten objects of images end within
    eight radii of the first click, and a small one is a few pixels of the whole image.

    Args:
        shape: (H, W) of the image.
        clicks: All clicks; a negative one is kept inside too.
        whole: The view of the whole image.
        longest: Longer side of the view in network pixels.
        reach: Radii around a positive click; 0 always gives ``whole``.
    """
    if not reach or not any(c.positive and c.radius for c in clicks):
        return whole
    box = _box_around(clicks, (math.inf, -math.inf, math.inf, -math.inf), reach=reach)
    view = _view_around(box, shape, longest, 1.0)
    return whole if view is None or view.scale < FIRST_GAIN * whole.scale else view


def object_view(
    previous: NDArray[np.float32], clicks: Sequence[Click], longest: int, *, margin: float
) -> View | None:
    """The region of the object: the previous mask and the positive clicks' circles, and ``margin`` times its
    size around.

    Args:
        previous: (H, W) probabilities before the last click.
        clicks: All clicks; a negative one is kept inside too.
        longest: Longer side of the view in network pixels.
        margin: Height and width of the region over those of the object; a region is at least so large that
            the network sees it enlarged ``LARGEST_ZOOM`` times.

    Returns:
        None when the region is the whole image, or there is no object yet.
    """
    box = _object_box(previous, clicks)
    return None if box is None else _view_around(box, previous.shape, longest, margin)


def next_view(
    previous: NDArray[np.float32], clicks: Sequence[Click], whole: View, longest: int, *, margin: float
) -> View:
    """View of the object as in :func:`object_view`, or ``whole``; keeps the previous view while it fits.

    The previous view is read from ``previous``, which is 0 only outside of it. The answer is therefore a pure
    function of the arguments, whether or not the view is cached.

    Args:
        previous: Probabilities of the previous click, see :func:`object_view`.
        clicks: Clicks, see :func:`object_view`.
        whole: The view of the whole image.
        longest: Longer side of the view in pixels, see :func:`object_view`.
        margin: Size relative to the object, see :func:`object_view`.
    """
    box = _object_box(previous, clicks)
    if box is None:
        return whole
    wanted = _view_around(box, previous.shape, longest, margin) or whole
    needed = (
        _view_around(box, previous.shape, longest, 1 + (margin - 1) * HELD_MARGIN, largest_zoom=math.inf)
        or whole
    )
    left, top, width, height = cv2.boundingRect((previous > 0).view(np.uint8))
    held = (
        whole if (height, width) == previous.shape else _view(top, left, height, width, longest, enlarge=True)
    )
    return held if held.holds(needed) and held.scale * HELD_COARSENESS >= wanted.scale else wanted


_Box = tuple[float, float, float, float]
"""Top, bottom, left, right."""


def _object_box(previous: NDArray[np.float32], clicks: Sequence[Click]) -> _Box | None:
    """The box around the mask, the clicks, and the circles of the positive ones; None without a mask."""
    first_col, first_row, cols, rows = cv2.boundingRect((previous > 0.5).view(np.uint8))
    if rows == 0:
        return None
    mask = float(first_row), float(first_row + rows), float(first_col), float(first_col + cols)
    return _box_around(clicks, mask, reach=1)


def _box_around(clicks: Sequence[Click], box: _Box, *, reach: float) -> _Box:
    """``box`` grown to hold the clicks, and around the positive ones the circles of ``reach`` times their
    radii.
    """
    top, bottom, left, right = box
    for click in clicks:
        far = reach * (click.radius or 0.0) if click.positive else 0.0
        top, bottom = min(top, click.row - far), max(bottom, click.row + far + 1)
        left, right = min(left, click.col - far), max(right, click.col + far + 1)
    return top, bottom, left, right


def _view_around(
    box: _Box, shape: tuple[int, ...], longest: int, margin: float, *, largest_zoom: float = LARGEST_ZOOM
) -> View | None:
    """The view of the box with its margin, and more where it would be enlarged too much.

    None if that is the whole image.
    """
    top, bottom, left, right = box
    grow_h, grow_w = ((margin - 1) / 2 * max(side, SMALLEST_OBJECT) for side in (bottom - top, right - left))
    least = longest / largest_zoom
    if max(bottom - top + 2 * grow_h, right - left + 2 * grow_w) < least:
        grow_h, grow_w = (least - (bottom - top)) / 2, (least - (right - left)) / 2
    first_row, first_col = max(0, math.floor(top - grow_h)), max(0, math.floor(left - grow_w))
    num_rows, num_cols = (
        min(shape[0], math.ceil(bottom + grow_h)) - first_row,
        min(shape[1], math.ceil(right + grow_w)) - first_col,
    )
    if (num_rows, num_cols) == tuple(shape):
        return None
    return _view(first_row, first_col, num_rows, num_cols, longest, enlarge=True)


def _view(top: int, left: int, height: int, width: int, longest: int, *, enlarge: bool) -> View:
    factor = longest / max(height, width)
    if not enlarge:
        factor = min(factor, 1.0)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return View(top, left, height, width, size)
