"""Clicks and drags from the points, boxes and ellipses of annotation tools.

The tools count x to the right and y down from the outer corner of the first pixel. A click counts (row, col)
from the first pixel's center. This is the one place that converts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from dct_seg.clicks import Click

Size = tuple[int, int]
"""(height, width) in pixels."""


def point_click(
    x: float, y: float, size: Size, *, positive: bool = True, radius: float | None = None
) -> Click:
    """A click on the pixel that holds a point.

    Whole numbers and fractions name the same pixel: tools differ in whether they round down before they send.

    Args:
        x: Pixels to the right; the image's right edge, its width, is still inside.
        y: Pixels down.
        size: (height, width) of the image.
        positive: Whether the point lies on the object.
        radius: Length of a drag in pixels.

    Raises:
        ValueError: When the point lies outside the image, or is no number.

    Examples:
        >>> point_click(7.9, 3.0, (10, 20))
        Click(row=3.0, col=7.0, positive=True, radius=None)
        >>> point_click(20, 10, (10, 20)).col
        19.0
    """
    height, width = size
    if not (0 <= x <= width and 0 <= y <= height):  # False for NaN too
        raise ValueError(f"point ({x:g}, {y:g}) lies outside the image of {width}x{height} pixels")
    return Click(
        float(min(math.floor(y), height - 1)), float(min(math.floor(x), width - 1)), positive, radius
    )


def box_drag(corners: Sequence[float], size: Size) -> Click:
    """A drag from the center of a box to its nearest side.

    The circle is the largest one inside the box, as a simulated drag is the largest circle inside its object.

    Args:
        corners: x and y of one corner, x and y of the opposite one.
        size: (height, width) of the image; what lies outside is cut off.

    Raises:
        ValueError: When nothing of the box lies inside the image.

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
    """A drag from the center of an ellipse to its nearest edge, the end of its shorter half-axis."""
    return point_click(x, y, size, positive=positive, radius=min(abs(radius_x), abs(radius_y)))


def replay(
    positives: Iterable[Sequence[float]],
    negatives: Iterable[Sequence[float]],
    box: Sequence[float] | None,
    size: Size,
) -> list[Click]:
    """Clicks in a fixed order, for tools that send positive and negative points apart.

    The order across the two lists is lost on the way. The rule: the box first, then all positive points, then
    all negative ones, each list in its own order. So the object is complete before anything is cut from it,
    and the same request always has the same answer.

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
