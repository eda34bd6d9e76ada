"""Augmentation of training samples, with albumentations.

A transform is any callable ``transform(image=, mask=) -> {"image": …, "mask": …}`` with image (H, W, 3) uint8
and mask (H, W) uint8 of 0 background, 1 object, 255 ignore. If it has ``set_random_seed``, it gets each
sample's seed, so that samples do not depend on the worker.
"""

from __future__ import annotations

import math
import os
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.data.images import IGNORE
from dct_seg.ranges import check_number, check_span

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise it checks for a newer version at import

import albumentations as A

PADDING_COLOR = (124, 116, 104)
"""Fill value beyond the image's edge: ImageNet's mean, near zero after normalization."""

_ATTEMPTS = 10


class Transform(Protocol):
    """Interface of a training transform; an ``albumentations.Compose`` implements it."""

    def __call__(self, *, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict[str, Any]:
        """Return the augmented ``image`` and ``mask``."""


class ObjectCrop(A.DualTransform):  # type: ignore[misc]
    """Random resize and random square crop that contains the object, as one crop and one resize.

    Beyond the image's edge the image is ``PADDING_COLOR`` and the mask is ignore: no clicks and no loss
    there.

    Args:
        size: Side of the crop in pixels.
        scale: Drawn pixels per image pixel, uniformly from (low, high) (the paper, section 3.2: 0.75 to
            1.25).
        object_scale: Side of the object (square root of its bounding box's area) relative to the crop's
            side, instead of ``scale``, log-uniformly from (low, high); the crop is then placed with
            nearly all of the object inside.
        object_scale_prob: Probability of using ``object_scale`` where it is given.
        aspect: Maximum relative stretch of height and width (1: none).
        min_object_size: Minimum pixels of the object in a crop, or half of a smaller object. The position is
            drawn again up to ten times, then set around a pixel of the object.
        max_zoom: Maximum enlargement by ``object_scale``.
    """

    def __init__(
        self,
        size: int,
        *,
        scale: tuple[float, float] = (0.75, 1.25),
        object_scale: tuple[float, float] | None = None,
        object_scale_prob: float = 1.0,
        aspect: float = 1.0,
        min_object_size: int = 80,
        max_zoom: float = 4.0,
    ) -> None:
        super().__init__(p=1.0)
        self.size = size
        self.scale = scale
        self.object_scale = object_scale
        self.object_scale_prob = object_scale_prob
        self.aspect = aspect
        self.min_object_size = min_object_size
        self.max_zoom = max_zoom

    @property
    def targets_as_params(self) -> list[str]:
        return ["mask"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        return {"window": self.draw_window(data["mask"], self.random_generator)}

    def draw_window(self, mask: NDArray[np.uint8], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Window (top, left, height, width) in pixels of the image, which may extend beyond the edge."""
        target = (mask == 1).view(np.uint8)
        left, top, width, height = cv2.boundingRect(target)
        box = (
            ((top, top + height), (left, left + width)) if width else ((0, mask.shape[0]), (0, mask.shape[1]))
        )
        around = self.object_scale is not None and rng.random() < self.object_scale_prob
        zoom = self._zoom(box, mask.shape, rng) if around else rng.uniform(*self.scale)
        stretch = math.exp(0.5 * rng.uniform(-1, 1) * math.log(self.aspect))
        zooms = (zoom * stretch, zoom / stretch)
        extent = [max(1, round(self.size / one)) for one in zooms]
        enough = min(
            self.min_object_size / (zooms[0] * zooms[1]),
            0.5 * int(target[box[0][0] : box[0][1], box[1][0] : box[1][1]].sum()),
        )
        for _ in range(_ATTEMPTS):
            row, col = (
                _place(side, limit, span if around else None, rng)
                for side, limit, span in zip(extent, mask.shape, box, strict=True)
            )
            if np.count_nonzero(target[max(0, row) : row + extent[0], max(0, col) : col + extent[1]]) >= max(
                1, enough
            ):
                return row, col, extent[0], extent[1]
        rows, cols = np.nonzero(target)
        if not len(rows):
            return row, col, extent[0], extent[1]
        pick = int(rng.integers(len(rows)))
        row, col = (
            int(np.clip(at - side // 2, min(0, limit - side), max(0, limit - side)))
            for at, side, limit in zip((rows[pick], cols[pick]), extent, mask.shape, strict=True)
        )
        return row, col, extent[0], extent[1]

    def _zoom(
        self, box: tuple[tuple[int, int], tuple[int, int]], shape: tuple[int, ...], rng: np.random.Generator
    ) -> float:
        """Compute the scale, in output pixels per image pixel, for the object's relative size.

        It is at least the scale at which the image fills the crop.
        """
        assert self.object_scale is not None
        side = math.sqrt((box[0][1] - box[0][0]) * (box[1][1] - box[1][0]))
        share = math.exp(rng.uniform(math.log(self.object_scale[0]), math.log(self.object_scale[1])))
        # A window larger than the image's mean side is mostly padding; only a large object needs one.
        largest = min(
            max(shape), max(math.sqrt(shape[0] * shape[1]), 1.1 * max(end - start for start, end in box))
        )
        return max(min(share * self.size / side, self.max_zoom), self.size / largest)

    def apply(
        self, img: NDArray[np.uint8], *, window: tuple[int, int, int, int], **params: Any
    ) -> NDArray[np.uint8]:
        return cut(img, window, self.size, fill=PADDING_COLOR)

    def apply_to_mask(
        self, mask: NDArray[np.uint8], *, window: tuple[int, int, int, int], **params: Any
    ) -> NDArray[np.uint8]:
        return cut(mask, window, self.size, fill=(IGNORE,))


def _place(side: int, limit: int, span: tuple[int, int] | None, rng: np.random.Generator) -> int:
    """Draw the start of a window of ``side`` pixels on an axis of ``limit``.

    With ``span``, at most a seventh of the span is cut off.
    """
    low, high = min(0, limit - side), max(0, limit - side)
    if span is not None:
        slack = (span[1] - span[0]) // 7
        ends = sorted((span[1] - side, span[0]))
        low, high = (int(np.clip(end, low, high)) for end in (ends[0] - slack, ends[1] + slack))
    return int(rng.integers(low, high + 1))


def cut(
    array: NDArray[np.uint8], window: tuple[int, int, int, int], size: int, *, fill: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Resize a window (top, left, height, width) to (size, size), with ``fill`` beyond the edge.

    Masks keep their values (nearest); images are averaged when they shrink.
    """
    top, left, height, width = window
    bottom, right = top + height, left + width
    part = array[max(0, top) : bottom, max(0, left) : right]
    borders = max(0, -top), max(0, bottom - array.shape[0]), max(0, -left), max(0, right - array.shape[1])
    if any(borders):
        part = cv2.copyMakeBorder(part, *borders, cv2.BORDER_CONSTANT, value=fill)
    smooth = cv2.INTER_AREA if height > size and width > size else cv2.INTER_LINEAR
    how = cv2.INTER_NEAREST_EXACT if array.ndim == 2 else smooth
    return np.asarray(cv2.resize(part, (size, size), interpolation=how))


def training_transform(
    crop_size: int,
    *,
    scale: tuple[float, float] = (0.75, 1.25),
    object_scale: tuple[float, float] | None = None,
    object_scale_prob: float = 1.0,
    aspect: float = 1.0,
    flip: bool = True,
    color_jitter: bool = True,
    min_object_size: int = 80,
    max_zoom: float = 4.0,
) -> A.Compose:
    """Augmentation of the paper (section 3.2), with the options of newer recipes.

    Args:
        crop_size: Side of the square crop in pixels (the paper: 256).
        scale: See ``ObjectCrop``.
        object_scale: See ``ObjectCrop``; not in the paper.
        object_scale_prob: See ``ObjectCrop``; not in the paper.
        aspect: See ``ObjectCrop``; not in the paper.
        flip: Whether to mirror half of the samples.
        color_jitter: Change brightness, contrast and saturation by up to 30 %, hue by up to 5 %, in four of
            five samples.
        min_object_size: See ``ObjectCrop``.
        max_zoom: See ``ObjectCrop``.

    Raises:
        ValueError: When a range is empty or not positive.
    """
    for name, span in (("scale", scale), ("object_scale", object_scale)):
        check_span(name, span)
    check_number("aspect", aspect, least=1, unit="a factor")
    check_number("max_zoom", max_zoom, above=0, unit="a factor")
    crop = ObjectCrop(
        crop_size,
        scale=scale,
        object_scale=object_scale,
        object_scale_prob=object_scale_prob,
        aspect=aspect,
        min_object_size=min_object_size,
        max_zoom=max_zoom,
    )
    steps: list[A.BasicTransform] = [crop]
    if flip:
        steps.append(A.HorizontalFlip(p=0.5))
    if color_jitter:
        steps.append(
            A.ColorJitter(
                brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(-0.05, 0.05), p=0.8
            )
        )
    return A.Compose(steps)
