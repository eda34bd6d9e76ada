"""What is drawn and told of a mask: its area, its box, its outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from dct_seg.app.working_image import bounding_box

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
    """The mask, (H, W) bool, of a COCO run-length encoding, packed or as a list.

    pycocotools writes wherever the counts say; here they must fill the mask exactly.

    Raises:
        ValueError: When they do not, or are none.
    """
    size, counts = rle["size"], rle["counts"]
    if not (
        isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise ValueError("a run-length encoding has a size of two whole numbers, [height, width]")
    runs = np.array(_unpacked(counts) if isinstance(counts, str) else counts)
    if (
        runs.ndim != 1
        or runs.dtype.kind not in "iu"
        or (runs < 0).any()
        or sum(runs.tolist()) != size[0] * size[1]
    ):
        raise ValueError(
            f"a run-length encoding of {size[0]} x {size[1]} pixels has runs that add up to just that"
        )
    return np.ascontiguousarray(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T)


def _unpacked(text: str) -> list[int]:
    """The runs of COCO's packed string.

    Five bits a character, from the third run on the difference to the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the packed runs of a run-length encoding are broken")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the packed runs of a run-length encoding are cut short")
    return runs


def from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask, (H, W) bool, of COCO polygons, each of x, y, x, y ...; what lies outside is cut off.

    Raises:
        ValueError: When one has no three corners.
    """
    height, width = size
    whole = []
    for polygon in polygons:
        points = np.array(polygon, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon is x, y, x, y ... of three corners or more")
        whole.append(np.clip(points.reshape(-1, 2), 0, (width, height)).ravel().tolist())
    encoded = coco_mask.merge(coco_mask.frPyObjects(whole, height, width))
    return decode({"size": [height, width], "counts": encoded["counts"].decode()})


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
    return Outline(
        int(part.sum()), (rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start), polygons
    )
