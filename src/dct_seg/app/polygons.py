"""Polygons through pixel centers, filled including their outline, as labelme and YOLO do."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Polygon = list[list[int]]
"""List of three or more pixel centers, each [col, row]."""


def exact_polygons(mask: NDArray[np.bool_]) -> list[Polygon] | None:
    """Trace one polygon per part, whose union is exactly the mask; None if the mask has holes.

    Lines and single pixels become polygons of zero width.

    Args:
        mask: (H, W) bool.

    Examples:
        >>> exact_polygons(np.array([[True, True, True], [True, False, False]]))
        [[[0, 0], [0, 1], [1, 0], [2, 0]]]
        >>> exact_polygons(np.eye(2, dtype=bool))
        [[[0, 0], [1, 1], [1, 1]]]
        >>> exact_polygons(np.array([[True, True, True], [True, False, True], [True, True, True]])) is None
        True
    """
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    union = np.zeros_like(mask)
    for line in contours:
        points: Polygon = line[:, 0].tolist()
        points += [points[-1]] * (3 - len(points))
        (top, left), part = filled(np.array(points, np.float64), (mask.shape[0], mask.shape[1]))
        union[top : top + part.shape[0], left : left + part.shape[1]] |= part
        polygons.append(points)
    return polygons if np.array_equal(union, mask) else None


def filled(points: NDArray[np.float64], size: tuple[int, int]) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Fill a polygon: first pixel (row, col) of its box in the image, and the mask inside the box.

    Args:
        points: (N, 2) of (col, row) in pixels.
        size: (height, width) of the image, to which the polygon is clipped.

    Raises:
        ValueError: When the polygon has fewer than three points, or lies outside the image.
    """
    if len(points) < 3:
        raise ValueError(f"its polygon must have at least 3 points, got {len(points)}")
    left, top = (max(0, int(edge)) for edge in np.floor(points.min(axis=0)))
    right, bottom = (
        min(side - 1, int(edge)) for side, edge in zip(size[::-1], np.ceil(points.max(axis=0)), strict=True)
    )
    if right < left or bottom < top:
        raise ValueError("its polygon lies outside the image")
    canvas = Image.new("L", (right - left + 1, bottom - top + 1))
    corners = [(x - left, y - top) for x, y in points.tolist()]
    ImageDraw.Draw(canvas).polygon(corners, outline=1, fill=1)
    return (top, left), np.asarray(canvas) > 0
