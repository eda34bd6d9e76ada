"""Polygons that say exactly which pixels are object, for programs that fill polygons and know no holes."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

Polygon = list[list[int]]
"""[col, row] of pixel centers, three or more."""


def exact_polygons(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Polygons whose union, filled and drawn with their outline, is the mask, pixel for pixel.

    A filled polygon has no holes, so a part with holes is cut in two through one of them until none is left.
    Lines and single pixels become polygons of no width.

    Args:
        mask: (H, W) bool.

    Examples:
        >>> exact_polygons(np.array([[True, True, True, False], [True, False, True, True]]))
        [[[0, 0], [0, 1], [1, 0], [2, 1], [3, 1], [2, 0]]]
        >>> exact_polygons(np.eye(2, dtype=bool))
        [[[0, 0], [1, 1], [1, 1]]]
    """
    found = []
    for part, row, col in _without_holes(np.ascontiguousarray(mask)):
        contours, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        points = [[int(x) + col, int(y) + row] for x, y in contours[0][:, 0]]
        found.append(points + [points[-1]] * (3 - len(points)))
    return found


def _without_holes(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], int, int]]:
    """The connected parts of a mask, cut until no hole is left: (pixels of its box, top, left)."""
    left = [(mask, 0, 0)]
    while left:
        whole, top, start = left.pop()
        _, labels, boxes, _ = cv2.connectedComponentsWithStats(whole.view(np.uint8), connectivity=8)
        for label, (x, y, width, height, _) in enumerate(boxes.tolist()[1:], start=1):
            part = np.ascontiguousarray(labels[y : y + height, x : x + width] == label)
            row, col, cut = top + y, start + x, _column_through_a_hole(part)
            if cut is None:
                yield part, row, col
            else:  # the column of the cut is in both halves, so nothing opens between them
                left.append((np.ascontiguousarray(part[:, : cut + 1]), row, col))
                left.append((np.ascontiguousarray(part[:, cut:]), row, col + cut))


def _column_through_a_hole(part: NDArray[np.bool_]) -> int | None:
    """A column of the hole that is nearest the middle, so that both halves shrink; None without a hole."""
    outside = np.pad(~part, 1, constant_values=True)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(outside.view(np.uint8), connectivity=4)
    around = {0, int(labels[0, 0])}
    holes = [x - 1 + w // 2 for label, (x, _, w, _, _) in enumerate(boxes.tolist()) if label not in around]
    return min(holes, key=lambda column: abs(2 * column - part.shape[1]), default=None)
