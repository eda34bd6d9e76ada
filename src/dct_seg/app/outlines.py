"""Outlines, area and bounding box of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dct_seg.rle import decode, decode_part, encode

__all__ = ["Outline", "decode", "decode_part", "encode", "outline_of"]

SMOOTHING = 0.5  # tolerance of a drawn outline, in pixels


@dataclass(frozen=True)
class Outline:
    """Area, box and outlines of a mask.

    Args:
        area: Number of pixels.
        bbox: Bounding box (row, col, height, width) in pixels.
        polygons: Outlines to draw, outer and holes, each a list of [col, row] at pixel centers.
    """

    area: int
    bbox: tuple[int, int, int, int]
    polygons: list[list[list[float]]]


def outline_of(rle: Mapping[str, Any]) -> Outline:
    """Measure the area, box and outlines of a mask."""
    found = decode_part(rle)
    if found is None:
        return Outline(0, (0, 0, 0, 0), [])
    (rows, cols), part = found
    contours, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    corner = np.array([cols.start, rows.start], np.float64)
    polygons = [(cv2.approxPolyDP(line, SMOOTHING, closed=True)[:, 0] + corner).tolist() for line in contours]
    return Outline(
        int(part.sum()), (rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start), polygons
    )
