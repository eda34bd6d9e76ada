"""Propagation of masks from one image of a sequence to the next along the optical flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.rle import decode_part, encode

FLOW_SIDE = 640  # longer side of the images from which the flow is computed, in pixels
SMALLEST_SIDE = 16  # pixels; OpenCV computes no flow between smaller images


def carried(
    masks: Sequence[Mapping[str, Any]], before: NDArray[np.uint8], after: NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """Warp masks from one image to the next, as run-length encodings; some may be empty.

    Args:
        masks: Masks on ``before``, as full-size run-length encodings.
        before: Image of the masks, (h, w, 3) RGB, at full size or smaller.
        after: Next image, (h, w, 3) RGB of the same shape.
    """
    flow = backward_flow(before, after)
    return [_carried(one, flow) for one in masks]


def backward_flow(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Offsets from each pixel of ``after`` to its position in ``before``, (h, w, 2) of (columns, rows).

    The offsets are fractions of the width and the height. The method is dense inverse search (Kroeger et al.
    2016), as implemented in OpenCV.
    """
    factor = min(1.0, FLOW_SIDE / max(before.shape[:2]))
    height, width = (max(SMALLEST_SIDE, round(side * factor)) for side in before.shape[:2])
    now, then = (
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (width, height), interpolation=cv2.INTER_AREA)
        for image in (after, before)
    )
    found = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(now, then, None)
    return np.asarray(found / [found.shape[1], found.shape[0]], np.float32)


def _carried(rle: Mapping[str, Any], flow: NDArray[np.float32]) -> dict[str, Any]:
    height, width = rle["size"]
    whole = np.zeros((height, width), bool)
    found = decode_part(rle)
    if found is None:
        return encode(whole)
    (rows, cols), part = found
    farthest = np.abs(flow).max(axis=(0, 1))
    reach_rows, reach_cols = int(np.ceil(farthest[1] * height)), int(np.ceil(farthest[0] * width))
    box = (
        slice(max(0, rows.start - reach_rows), min(height, rows.stop + reach_rows)),
        slice(max(0, cols.start - reach_cols), min(width, cols.stop + reach_cols)),
    )
    row, col = np.mgrid[box].astype(np.float32)
    at = ((col + 0.5) * (flow.shape[1] / width) - 0.5, (row + 0.5) * (flow.shape[0] / height) - 0.5)
    moved_col, moved_row = (
        cv2.remap(flow[..., axis], *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * side
        for axis, side in ((0, width), (1, height))
    )
    source = np.pad(part.astype(np.float32), 1)
    places = (col + moved_col - cols.start + 1, row + moved_row - rows.start + 1)
    whole[box] = cv2.remap(source, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT) > 0.5
    return encode(whole)
