"""Strips: one row of images per sample, with its first clicks from left to right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.benchmark.results import SampleRecord
from dct_seg.files import write_whole

NUM_TURNS = 5
"""Maximum number of clicks in a strip, as in the paper's Fig. 4."""

_QUALITY = 92
"""JPEG quality; a JPEG is written seven times as fast as a PNG, to keep the benchmark's overhead small.
"""
_NAME_LENGTH = 48
"""Maximum number of characters of the sample's name in a file name; the index keeps file names unique."""


def strip_path(folder: Path, record: SampleRecord) -> Path:
    """Make the path of a sample's strip, relative to the strips folder.

    Examples:
        >>> from dct_seg.benchmark.results import Condition
        >>> strip_path(Path("strips"), SampleRecord("VOC", "esc", Condition(), 7, "img/a b.jpg#3")).as_posix()
        'strips/VOC/esc/00007_img_a_b.jpg#3.jpg'
    """
    # file systems limit a name to 255 bytes
    name = "".join(c if c.isalnum() or c in "-_.#" else "_" for c in record.name)[-_NAME_LENGTH:]
    return folder / folder_name(record.data) / folder_name(record.method) / f"{record.index:05d}_{name}.jpg"


def folder_name(label: str) -> str:
    """Convert a label to a safe folder name.

    Examples:
        >>> [folder_name(label) for label in ("VOC", "esc (2)", "../../x", "..")]
        ['VOC', 'esc (2)', '.._.._x', '_']
    """
    name = "".join("_" if c in "/\\:\0" else c for c in label)
    return name if name.strip(". ") else "_"


def save_strip(strip: NDArray[np.uint8], path: Path) -> Path:
    """Write an image, (H, W, 3) RGB uint8, atomically; creates its folder."""
    written, content = cv2.imencode(".jpg", strip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert written
    return write_whole(path, content.tobytes())


def stack_strips(above: Path, below: Path, path: Path) -> Path | None:
    """Write one strip above another; None if either is missing."""
    if not (above.is_file() and below.is_file()):
        return None
    rows = [
        np.asarray(cv2.imread(str(source), cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
        for source in (above, below)
    ]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return save_strip(np.concatenate(padded), path)
