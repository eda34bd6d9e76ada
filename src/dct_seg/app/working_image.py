"""Images at working size: full size up to 16 megapixels, reduced by an integer factor above that."""

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
from dct_seg.data.brightness import Window
from dct_seg.data.images import Shown

MAX_WORKING_PIXELS = 16_000_000


@dataclass(frozen=True)
class WorkingImage:
    """Reduced image, each pixel of which covers ``factor`` x ``factor`` full-size pixels.

    Args:
        image: (h, w, 3) uint8 RGB; the last row and column may cover less.
        factor: Reduction factor; 1 for the full size.
        size: (H, W) of the full size.
        window: Current window, or None for an image of 8 bits.
        extent: Lowest and highest value of the file, or None for an image of 8 bits.
    """

    image: NDArray[np.uint8]
    factor: int
    size: tuple[int, int]
    window: Window | None = None
    extent: Window | None = None

    @classmethod
    def of(cls, image: NDArray[np.uint8], max_pixels: int | None = None) -> WorkingImage:
        """Reduce a full-size image, (H, W, 3), to a working image, by default of at most 16 megapixels."""
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
        """Threshold the probabilities of the working image into a full-size mask, (H, W).

        They are upsampled linearly first.
        """
        if self.factor == 1:
            return probs > threshold
        mask = np.zeros(self.size, bool)
        region = bounding_box(
            probs > threshold, margin=2
        )  # linear upsampling reads one more pixel on each side
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
        """Subsample a full-size mask to the size of the working image."""
        return mask[:: self.factor, :: self.factor]


def bounding_box(mask: NDArray[np.bool_], *, margin: int = 0) -> tuple[slice, slice] | None:
    """Find the bounding box of a mask plus ``margin`` pixels as (rows, columns); None if empty."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return (
        slice(max(0, int(rows[0]) - margin), min(mask.shape[0], int(rows[-1]) + 1 + margin)),
        slice(max(0, int(cols[0]) - margin), min(mask.shape[1], int(cols[-1]) + 1 + margin)),
    )


class WorkingImages:
    """Cache of recently used images, decoded one at a time to limit memory.

    Args:
        read: Function from an id and a chosen window to the full-size image.
        stamp: Function from an id to a value that changes with the image's file, or None without a file.
        keep: Number of images kept.
    """

    def __init__(
        self,
        read: Callable[[str, Window | None], Shown],
        stamp: Callable[[str], tuple[int, int] | None],
        *,
        keep: int = 4,
    ) -> None:
        self._read = read
        self._stamp = stamp
        self._keep = keep
        self._images: OrderedDict[tuple[str, Window | None], tuple[tuple[int, int] | None, WorkingImage]] = (
            OrderedDict()
        )
        """Decoded images; this class owns the cache."""
        self._decoding = threading.Lock()

    def get(self, image_id: str, window: Window | None = None, *, keep: bool = True) -> WorkingImage:
        """Get the working image of an id; errors of ``read`` propagate.

        Args:
            image_id: Id of the image.
            window: Chosen window, or None for the default rule.
            keep: Whether to cache it; a list of thumbnails must not displace the open image.
        """
        key = (image_id, window)
        with self._decoding:
            stamp = self._stamp(image_id)
            known = self._images.get(key)
            if known is not None and stamp in (None, known[0]):  # without a file, the image is still shown
                stamp, found = known
            else:
                found = self._loaded(key)
            if not keep:
                return found
            self._images[key] = stamp, found
            self._images.move_to_end(key)
            while len(self._images) > self._keep:
                self._images.popitem(last=False)
            return found

    def _loaded(self, key: tuple[str, Window | None]) -> WorkingImage:
        shown = self._read(*key)
        return replace(WorkingImage.of(shown.image), window=shown.window, extent=shown.extent)
