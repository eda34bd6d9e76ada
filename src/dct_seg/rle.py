"""COCO's run-length encoding of masks, in NumPy alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The packed run-length encoding of a mask, ``{"size": [H, W], "counts": str}``.

    Args:
        mask: (H, W) bool.

    Example:
        >>> encode(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': '13'}
    """
    return {"size": [int(side) for side in mask.shape], "counts": _packed(runs(mask))}


def runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask, down its columns; the first run is background and may be 0.

    Args:
        mask: (H, W) bool.

    Example:
        >>> runs(np.array([[False, True], [True, True]]))
        [1, 3]
    """
    flat = np.asarray(mask, np.bool_).T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(ends, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask, (H, W) bool, of a COCO run-length encoding, packed or as a list of runs.

    Raises:
        ValueError: When the runs do not fill the mask exactly.
    """
    size, counts = rle["size"], rle["counts"]
    if not (
        isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise ValueError("a run-length encoding has a size of two whole numbers, [height, width]")
    lengths = np.array(_unpacked(counts) if isinstance(counts, str) else counts)
    if (
        lengths.ndim != 1
        or lengths.dtype.kind not in "iu"
        or (lengths < 0).any()
        or sum(lengths.tolist()) != size[0] * size[1]
    ):
        raise ValueError(
            f"a run-length encoding of {size[0]} x {size[1]} pixels has runs that add up to just that"
        )
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _packed(lengths: Iterable[int]) -> str:
    """COCO's string: five bits a character, from the fourth run on the difference to the run two before."""
    characters: list[str] = []
    before = [0, 0]
    for place, length in enumerate(lengths):
        value = length - before[0] if place > 2 else length
        before = [before[1], length]
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr(48 + bits + 32 * more))
    return "".join(characters)


def _unpacked(text: str) -> list[int]:
    """The runs of COCO's string."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the packed runs of a run-length encoding are broken")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the packed runs of a run-length encoding are cut short")
    return lengths
