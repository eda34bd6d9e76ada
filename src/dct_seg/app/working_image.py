"""Images at working size: full size up to 16 megapixels, above that reduced by an integer factor."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click

MAX_WORKING_PIXELS = 16_000_000


@dataclass(frozen=True)
class WorkingImage:
    """Reduced image, whose pixels cover ``factor`` x ``factor`` pixels of the full size.

    Args:
        image: (h, w, 3) uint8 RGB; the last row and column may cover less.
        factor: Reduction factor; 1 for the full size.
        size: (H, W) of the full size.
    """

    image: NDArray[np.uint8]
    factor: int
    size: tuple[int, int]

    @classmethod
    def of(cls, image: NDArray[np.uint8], max_pixels: int | None = None) -> WorkingImage:
        """Make the working image of a full-size one, (H, W, 3), by default of at most 16 megapixels."""
        height, width = image.shape[:2]
        factor = max(1, math.ceil(math.sqrt(height * width / (max_pixels or MAX_WORKING_PIXELS))))
        if factor == 1:
            return cls(image, 1, (height, width))
        rows, cols = math.ceil(height / factor), math.ceil(width / factor)
        padded = cv2.copyMakeBorder(
            image, 0, rows * factor - height, 0, cols * factor - width, cv2.BORDER_REPLICATE
        )
        return cls(
            np.asarray(cv2.resize(padded, (cols, rows), interpolation=cv2.INTER_AREA)),
            factor,
            (height, width),
        )

    def click(self, click: Click) -> Click:
        """Convert a click from full-size pixels to working pixels."""
        if self.factor == 1:
            return click
        radius = None if click.radius is None else click.radius / self.factor
        return replace(
            click,
            row=(click.row + 0.5) / self.factor - 0.5,
            col=(click.col + 0.5) / self.factor - 0.5,
            radius=radius,
        )

    def mask(self, probs: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
        """The mask of full size, (H, W), of probabilities of the working image.

        Enlarged linearly, then thresholded.
        """
        if self.factor == 1:
            return probs > threshold
        mask = np.zeros(self.size, bool)
        region = bounding_box(probs > threshold, margin=2)  # enlarging looks one pixel around
        if region is not None:
            rows, cols = region
            part = probs[rows, cols]
            shape = (part.shape[1] * self.factor, part.shape[0] * self.factor)
            target = mask[
                rows.start * self.factor : rows.stop * self.factor,
                cols.start * self.factor : cols.stop * self.factor,
            ]
            large = cv2.resize(part, shape, interpolation=cv2.INTER_LINEAR)
            target[:] = large[: target.shape[0], : target.shape[1]] > threshold
        return mask

    def reduced(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of full size at the size of the working image."""
        return mask[:: self.factor, :: self.factor]


def bounding_box(mask: NDArray[np.bool_], *, margin: int = 0) -> tuple[slice, slice] | None:
    """The rows and columns of the smallest box around a mask, ``margin`` pixels wider where the image goes
    on; None if empty.
    """
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return (
        slice(max(0, int(rows[0]) - margin), min(mask.shape[0], int(rows[-1]) + 1 + margin)),
        slice(max(0, int(cols[0]) - margin), min(mask.shape[1], int(cols[-1]) + 1 + margin)),
    )


class WorkingImages:
    """Cache of recently used images; they are decoded one at a time to bound memory.

    Args:
        read: Function from an id to the full-size image, (H, W, 3) uint8.
        keep: Number of images kept.
    """

    def __init__(self, read: Callable[[str], NDArray[np.uint8]], *, keep: int = 4) -> None:
        self._read = read
        self._keep = keep
        self._pictures: OrderedDict[str, WorkingImage] = OrderedDict()
        """Cache of decoded images; this class owns it."""
        self._decoding = threading.Lock()

    def get(self, picture_id: str) -> WorkingImage:
        """Working image of an id; errors of ``read`` are passed on."""
        with self._decoding:
            if picture_id not in self._pictures:
                self._pictures[picture_id] = WorkingImage.of(self._read(picture_id))
            self._pictures.move_to_end(picture_id)
            while len(self._pictures) > self._keep:
                self._pictures.popitem(last=False)
            return self._pictures[picture_id]
