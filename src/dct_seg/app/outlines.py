"""What is drawn and told of a mask: its area, its box, its outlines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from dct_seg.app.working import bounding_box

SMOOTHING = 0.5  # pixels that a drawn outline may be off


@dataclass(frozen=True)
class Outline:
    """A mask in a few numbers.

    Args:
        area: Pixels.
        bbox: (row, col, height, width), pixels.
        polygons: Outlines to draw, outer ones and holes, each a list of [col, row] at pixels' centres.
    """

    area: int
    bbox: tuple[int, int, int, int]
    polygons: list[list[list[float]]]


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The COCO run-length encoding of a mask, (H, W) bool."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask, (H, W) bool, of a COCO run-length encoding."""
    return np.asarray(coco_mask.decode({"size": rle["size"], "counts": rle["counts"]}), bool)


def outline_of(rle: Mapping[str, Any]) -> Outline:
    """Area, box and polygons of a mask."""
    mask = decode(rle)
    box = bounding_box(mask)
    if box is None:
        return Outline(0, (0, 0, 0, 0), [])
    rows, cols = box
    part = np.ascontiguousarray(mask[box])
    contours, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    corner = np.array([cols.start, rows.start], np.float64)
    polygons = [(cv2.approxPolyDP(line, SMOOTHING, closed=True)[:, 0] + corner).tolist() for line in contours]
    return Outline(int(part.sum()), (rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start), polygons)
