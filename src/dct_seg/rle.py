"""COCO run-length encoding of masks, in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BrokenMaskError(ValueError):
    """Invalid run-length encoding."""


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask as packed run lengths, ``{"size": [H, W], "counts": str}``.

    Args:
        mask: (H, W) bool.

    Examples:
        >>> encode(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': '13'}
    """
    return packed(runs(mask), (mask.shape[0], mask.shape[1]))


def encode_part(part: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Encode a mask that is empty outside a box; the cost depends on the width of the box, not of the image.

    Args:
        part: (h, w) bool, the mask inside the box; pixels beyond the image are cut off.
        corner: (row, col) of its first pixel; may be negative.
        size: (height, width) of the image.

    Examples:
        >>> encode_part(np.ones((1, 1), bool), (1, 1), (2, 3)) == packed([3, 1, 2], (2, 3))
        True
    """
    (top, left), (height, width) = corner, size
    part = part[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    top, left = max(0, top), max(0, left)
    if not part.size:
        return packed([height * width], size)
    strip = np.zeros((height, part.shape[1]), bool)
    strip[top : top + part.shape[0]] = part
    lengths = runs(strip)
    lengths[0] += left * height
    after = (width - left - part.shape[1]) * height
    if len(lengths) % 2:  # the last run is background
        lengths[-1] += after
    elif after:
        lengths.append(after)
    return packed(lengths, size)


def packed(lengths: Iterable[int], size: tuple[int, int]) -> dict[str, Any]:
    """Pack runs, background first, that fill (height, width).

    Examples:
        >>> packed([1, 3], (2, 2))
        {'size': [2, 2], 'counts': '13'}
    """
    return {"size": [int(side) for side in size], "counts": _packed(lengths)}


def runs(mask: NDArray[np.bool_]) -> list[int]:
    """Compute the run lengths of a mask, down its columns; the first run is background and may be 0.

    Args:
        mask: (H, W) bool.

    Examples:
        >>> runs(np.array([[False, True], [True, True]]))
        [1, 3]
    """
    mask = np.asarray(mask, np.bool_)
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return [mask.size]
    left, right = int(columns[0]), int(columns[-1]) + 1  # columns without object pixels are skipped
    flat = np.concatenate([[False], mask[:, left:right].T.ravel(), [False]])
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + left * mask.shape[0]
    lengths: list[int] = np.diff(ends, prepend=0, append=mask.size).tolist()
    return lengths[:-1] if lengths[-1] == 0 else lengths


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Decode a COCO run-length encoding, packed or as a list of runs, to a mask, (H, W) bool.

    Raises:
        ValueError: When the runs do not fill the mask exactly.
    """
    lengths, size = _checked(rle)
    mask = np.zeros(size, np.bool_)
    found = _part(lengths, size)
    if found is not None:
        mask[found[0]] = found[1]
    return mask


def decode_part(rle: Mapping[str, Any]) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """Decode only the box around a mask: (rows, columns) and the mask inside; None for an empty mask.

    The cost depends on the size of the box, not of the image.

    Raises:
        ValueError: When `decode` does.

    Examples:
        >>> decode_part({"size": [2, 3], "counts": [3, 1, 2]})
        ((slice(1, 2, None), slice(1, 2, None)), array([[ True]]))
    """
    return _part(*_checked(rle))


def area(rle: Mapping[str, Any]) -> int:
    """Count the pixels of a mask.

    Raises:
        ValueError: When `decode` does.
    """
    return int(_checked(rle)[0][1::2].sum())


def _part(
    lengths: NDArray[np.int64], size: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    ends = np.cumsum(lengths)
    filled = 2 * np.flatnonzero(lengths[1::2]) + 1  # positions of the object's runs
    if not len(filled):
        return None
    height = size[0]
    first, last = ends[filled[0] - 1], ends[filled[-1]]
    left, right = int(first // height), int((last - 1) // height) + 1
    inside = lengths[filled[0] - 1 : filled[-1] + 1].copy()
    inside[0] = first - left * height
    flat = np.zeros((right - left) * height, np.bool_)
    flat[: last - left * height] = np.repeat(np.arange(len(inside)) % 2 == 1, inside)
    columns = flat.reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return (slice(top, bottom), slice(left, right)), np.ascontiguousarray(columns[:, top:bottom].T)


def _checked(rle: Mapping[str, Any]) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Read the lengths of the runs and (height, width)."""
    size, counts = rle["size"], rle["counts"]
    if not (
        isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise BrokenMaskError("a run-length encoding has a size of two whole numbers, [height, width]")
    try:
        lengths = np.array(_unpacked(counts) if isinstance(counts, str) else counts)
    except (TypeError, ValueError, OverflowError) as error:
        raise BrokenMaskError(f"the runs of a run-length encoding cannot be read: {error}") from error
    if (
        lengths.ndim != 1
        or lengths.dtype.kind not in "iu"
        or (lengths < 0).any()
        or sum(lengths.tolist()) != size[0] * size[1]
    ):
        raise BrokenMaskError(
            f"a run-length encoding of {size[0]} x {size[1]} pixels has runs that do not add up to it"
        )
    return lengths.astype(np.int64), (size[0], size[1])


def _packed(lengths: Iterable[int]) -> str:
    """Encode runs as COCO's string, five bits each; from the fourth on, relative to the run two before."""
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
    """Read the runs in COCO's string."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BrokenMaskError("the packed runs of a run-length encoding are broken")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise BrokenMaskError("the packed runs of a run-length encoding are truncated")
    return lengths
