"""Label Studio's run-length encoding of brush masks.

The encoding is a bit stream, most significant bit first. Its header has the number of values (32 bits), the
width of a value minus 1 (5 bits), and the four possible widths of a length, each minus 1 (4 bits each). A
chunk has one bit, 1 for a run or 0 for single values; two bits that select the width of the length; the
length minus 1; and the value or values. The values are those of an RGBA image, row by row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = (4, 8, 12, 16)


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as the bytes of Label Studio's ``value.rle``.

    Args:
        mask: (H, W) bool; object pixels become 255 in all channels, the others 0.

    Examples:
        >>> encode(np.array([[True]]))
        [0, 0, 0, 4, 57, 189, 252, 63, 240]
    """
    flat = mask.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], ends))
    lengths = np.diff(np.concatenate((starts, [flat.size]))) * CHANNELS
    bits = [f"{flat.size * CHANNELS:032b}", f"{VALUE_BITS - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in LENGTH_BITS]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        bits += _run(length, 255 if flat[start] else 0)
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[place : place + 8], 2) for place in range(0, len(stream), 8)]


def _run(length: int, value: int) -> list[str]:
    """Encode one run as bits, split into chunks if it is long."""
    chunks = []
    while length > 0:
        part = min(length, 1 << LENGTH_BITS[-1])
        choice = next(place for place, size in enumerate(LENGTH_BITS) if part <= 1 << size)
        chunks.append(f"1{choice:02b}{part - 1:0{LENGTH_BITS[choice]}b}{value:0{VALUE_BITS}b}")
        length -= part
    return chunks
