"""Conversion of points, boxes and ellipses of annotation tools to clicks and drags.

Tools measure x to the right and y down from the outer corner of the first pixel; a click has (row, col)
from the first pixel's center. Only this module converts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from dct_seg.clicks import Click

Size = tuple[int, int]
"""Size of an image: (height, width) in pixels."""


def point_click(
    x: float, y: float, size: Size, *, positive: bool = True, radius: float | None = None
) -> Click:
    """Make a click on the pixel that contains a point.

    Whole and fractional numbers select the same pixel, since some tools round down before sending.

    Args:
        x: Pixels from the left, up to and including the image's width.
        y: Pixels from the top, up to and including the image's height.
        size: (height, width) of the image.
        positive: Whether the point lies on the object.
        radius: Length of a drag in pixels.

    Raises:
        ValueError: When the point lies outside the image, or is not a number.

    Examples:
        >>> point_click(7.9, 3.0, (10, 20))
        Click(row=3.0, col=7.0, positive=True, radius=None)
        >>> point_click(20, 10, (10, 20)).col
        19.0
    """
    height, width = size
    if not (0 <= x <= width and 0 <= y <= height):  # also False for NaN
        raise ValueError(f"point ({x:g}, {y:g}) lies outside the image of {width}x{height} pixels")
    return Click(
        float(min(math.floor(y), height - 1)), float(min(math.floor(x), width - 1)), positive, radius
    )


def box_drag(corners: Sequence[float], size: Size) -> Click:
    """Make a drag from the center of a box to its nearest side.

    The circle is the largest one inside the box, as a simulated drag is the largest circle inside its object.

    Args:
        corners: x, y of one corner and x, y of the opposite corner.
        size: (height, width) of the image, to which the box is clipped.

    Raises:
        ValueError: When the box does not overlap the image.

    Examples:
        >>> box_drag([2, 4, 12, 10], (20, 20))
        Click(row=7.0, col=7.0, positive=True, radius=3.0)
    """
    height, width = size
    x0, y0, x1, y1 = corners
    left, right = max(0.0, min(x0, x1)), min(float(width), max(x0, x1))
    top, bottom = max(0.0, min(y0, y1)), min(float(height), max(y0, y1))
    if not (left < right and top < bottom):
        raise ValueError(
            f"box ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) has no area in the image of {width}x{height} pixels"
        )
    radius = min(right - left, bottom - top) / 2
    return point_click((left + right) / 2, (top + bottom) / 2, size, radius=radius)


def ellipse_drag(
    x: float, y: float, radius_x: float, radius_y: float, size: Size, *, positive: bool = True
) -> Click:
    """Make a drag from the center of an ellipse to the end of its shorter half-axis, its nearest edge."""
    return point_click(x, y, size, positive=positive, radius=min(abs(radius_x), abs(radius_y)))


def replay(
    positives: Iterable[Sequence[float]],
    negatives: Iterable[Sequence[float]],
    box: Sequence[float] | None,
    size: Size,
) -> list[Click]:
    """Order clicks for tools that send positive and negative points separately.

    The order across the two lists is unknown. The rule: the box first, then all positive points, then
    all negative ones, each list in its own order. The object is then complete before anything is cut from it,
    and the same request always has the same result.

    Args:
        positives: Points (x, y) on the object.
        negatives: Points (x, y) on the background.
        box: x, y, x, y of two corners, or None.
        size: (height, width) of the image.

    Raises:
        ValueError: When there is neither a positive point nor a box, or something lies outside the image.
    """
    clicks = [] if box is None else [box_drag(box, size)]
    clicks += [point_click(x, y, size) for x, y in positives]
    if not clicks:
        raise ValueError("there is neither a positive point nor a box; click on the object first")
    return clicks + [point_click(x, y, size, positive=False) for x, y in negatives]
