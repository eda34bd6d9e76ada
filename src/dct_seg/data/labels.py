"""Conversion of stored mask values to labels: 0 background, 1..254 objects, 255 ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dct_seg.data.images import IGNORE

SOFT_CURE = "threshold it at 128 and save it as 0 and 255, or save labels 1, 2, ..."
_FEWEST_SOFT_VALUES = 8


def as_labels(values: NDArray[np.integer], path: Path | str) -> NDArray[np.uint8]:
    """Convert stored mask values to labels.

    Masks with only 0 and 255 have one object; otherwise 1..254 are objects and 255 is ignored.

    Raises:
        ValueError: When a value is not in 0..255.

    Examples:
        >>> [as_labels(np.array([row]), "a.png").tolist() for row in ([0, 255], [2, 255])]
        [[[0, 1]], [[2, 255]]]
    """
    labels = as_bytes(values, path)
    if (labels == IGNORE).any() and not ((labels != 0) & (labels != IGNORE)).any():
        return np.not_equal(labels, 0).astype(np.uint8)
    return labels


def as_bytes(values: NDArray[np.integer], path: Path | str) -> NDArray[np.uint8]:
    """Convert stored mask values to uint8, unchanged.

    Raises:
        ValueError: When a value is not in 0..255.
    """
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > IGNORE:
        raise ValueError(
            f"{path} contains the value {high if high > IGNORE else low}; expected 0 for background, "
            "1..254 for objects and 255 for ignored pixels"
        )
    return values.astype(np.uint8)


def soft_problem(labels: NDArray[np.uint8]) -> str | None:
    """Describe labels that look like the edge of a blurred or anti-aliased mask; None if they do not.

    In such a mask, most values are bands one or two pixels wide that touch other values. Objects have an
    interior; an object too thin to have one is usually isolated.

    Args:
        labels: (H, W), including 255 unless it is the object itself.

    Examples:
        >>> ramp = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (20, 1))
        >>> soft_problem(ramp)
        '24 values between 0 and 255, most of them thin bands: a soft mask'
        >>> tiles = np.repeat(np.arange(16, dtype=np.uint8), 5)
        >>> soft_problem(np.tile(tiles, (5, 1))) is None
        True
    """
    inner = (labels > 0) & (labels < IGNORE)
    values = np.unique(labels[inner])
    if len(values) < _FEWEST_SOFT_VALUES:
        return None
    around = np.pad(labels, 1, mode="edge")
    neighbors = [around[1:-1, 2:], around[1:-1, :-2], around[2:, 1:-1], around[:-2, 1:-1]]
    differs = [one != labels for one in neighbors]
    inside = ~np.logical_or.reduce(differs)
    touches = np.logical_or.reduce([one & (other > 0) for one, other in zip(differs, neighbors, strict=True)])
    total, with_inside, touching = (
        np.bincount(labels[inner & where], minlength=256)[values] for where in (inner, inside, touches)
    )
    bands = (with_inside == 0) & (2 * touching >= total)
    if 2 * np.count_nonzero(bands) <= len(values):
        return None
    return f"{len(values)} values between 0 and 255, most of them thin bands: a soft mask"
