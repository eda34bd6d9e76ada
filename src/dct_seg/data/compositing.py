"""Composite samples: the union of several objects, and an object pasted onto another image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

Mask = NDArray[np.bool_]

_LARGEST_UNION = 0.8  # fraction of the image; a larger group leaves too little background to learn from


def union_of(labels: NDArray[np.uint8], usable: list[int], start: int, rng: np.random.Generator) -> list[int]:
    """Draw a random group of at least two objects that contains ``start``.

    Half of the groups are all objects of the image (the parts of a person form the person); the others
    are ``start`` and those whose bounding boxes are nearest to it.

    Args:
        labels: (H, W) uint8.
        usable: Labels of the objects.
        start: First label of the group.
        rng: Random generator for the group's size.

    Returns:
        Group, or ``[start]`` if no other object is usable or the group would cover more than 0.8 of the
        image.
    """
    if len(usable) < 2:
        return [start]
    size = len(usable) if rng.random() < 0.5 else int(rng.integers(2, len(usable) + 1))
    boxes = {
        label: box
        for label, box in enumerate(find_objects(labels), start=1)
        if box is not None and label in usable
    }
    if start not in boxes:  # hidden under others, in a dataset whose objects overlap
        return [start]
    group = sorted(boxes, key=lambda label: (_gap(boxes[start], boxes[label]), label != start, label))[:size]
    covered = np.isin(labels, group).mean()
    return group if covered <= _LARGEST_UNION else [start]


def _gap(one: tuple[slice, ...], other: tuple[slice, ...]) -> float:
    """Compute the gap between two boxes in pixels (0 if they touch or overlap)."""
    rows, cols = (max(0, b.start - a.stop, a.start - b.stop) for a, b in zip(one, other, strict=True))
    return float(np.hypot(rows, cols))


def paste(
    image: NDArray[np.uint8], source: NDArray[np.uint8], mask: Mask, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Mask]:
    """Paste an object onto another image, with a soft edge of about two pixels.

    Args:
        image: (H, W, 3) target image; not changed.
        source: (h, w, 3) image that contains the object.
        mask: (h, w) bool mask of the object; not empty.
        rng: Random generator for position and size. The pasted object's size is a fifth to four fifths of the
            shorter side; the object is enlarged at most 1.5 times.

    Returns:
        New image, and the pasted object's mask, (H, W) bool.
    """
    height, width = image.shape[:2]
    left, top, cols, rows = cv2.boundingRect(mask.view(np.uint8))
    zoom = min(
        min(height, width) * np.exp(rng.uniform(np.log(0.2), np.log(0.8))) / np.sqrt(rows * cols),
        1.5,
        height / rows,
        width / cols,
    )
    size = max(1, int(cols * zoom)), max(1, int(rows * zoom))
    shrink = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    colors = cv2.resize(source[top : top + rows, left : left + cols], size, interpolation=shrink)
    shape = mask[top : top + rows, left : left + cols].astype(np.float32)
    alpha = cv2.GaussianBlur(
        cv2.resize(shape, size, interpolation=shrink), (3, 3), 0, borderType=cv2.BORDER_CONSTANT
    )
    row, col = int(rng.integers(height - size[1] + 1)), int(rng.integers(width - size[0] + 1))
    result, pasted = image.copy(), np.zeros((height, width), dtype=bool)
    place = slice(row, row + size[1]), slice(col, col + size[0])
    under = result[place].astype(np.float32)
    result[place] = np.rint(under + alpha[:, :, None] * (colors - under)).astype(np.uint8)
    pasted[place] = alpha > 0.5
    return result, pasted
