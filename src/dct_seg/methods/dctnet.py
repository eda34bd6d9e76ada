"""DCT-Net as a method: whole image at the first click, the object's region at a higher resolution from the second."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dct_seg.clicks import Click, ClickBatch
from dct_seg.methods.base import METHODS, Method, checked_image
from dct_seg.models.dct_net import DCTNet
from dct_seg.models.pretrained import DEFAULT
from dct_seg.processor import has_fast_bfloat16

SMALLEST_OBJECT = 16.0  # pixels; the margin around something smaller is the margin of this


@dataclass(frozen=True)
class View:
    """A rectangle of the image and the size at which the network sees it.

    Args:
        top, left, height, width: Pixels of the image.
        size: (h, w) pixels given to the network.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]

    def crop(self, array: NDArray[Any]) -> NDArray[Any]:
        """The rectangle of ``array``, resized to ``size``."""
        part = array[self.top : self.top + self.height, self.left : self.left + self.width]
        if part.shape[:2] == self.size:
            return part
        shrinks = self.size[0] < self.height
        return np.asarray(cv2.resize(part, self.size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))

    def clicks(self, clicks: Sequence[Click]) -> ClickBatch:
        """The clicks in the network's pixels."""
        batch = ClickBatch.from_clicks([clicks]).shifted(-self.top, -self.left)
        return batch.scaled((self.height, self.width), self.size)

    @property
    def scale(self) -> float:
        """Pixels of the network a pixel of the image."""
        return math.sqrt(self.size[0] * self.size[1] / (self.height * self.width))


def whole_view(shape: tuple[int, int], longest: int) -> View:
    """The whole image, shrunk (never enlarged) until its longer side is ``longest`` pixels."""
    return _view(0, 0, *shape, longest, enlarge=False)


def object_view(previous: NDArray[np.float32], clicks: Sequence[Click], longest: int, *, margin: float, threshold: float) -> View | None:
    """The region of the object: the previous mask and the positive clicks' circles, and ``margin`` times its size around.

    Args:
        previous: (H, W) probabilities before the last click.
        clicks: All clicks; a negative one is kept inside too.
        longest: Longer side of what the network sees, in pixels.
        margin: Height and width of the region over those of the object.
        threshold: A pixel is object above this probability.

    Returns:
        None when the region is the whole image, or there is no object yet.
    """
    height, width = previous.shape
    found = previous > threshold
    if not found.any():
        return None
    rows, cols = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    top, bottom, left, right = float(rows[0]), float(rows[-1] + 1), float(cols[0]), float(cols[-1] + 1)
    for click in clicks:
        reach = (click.radius or 0.0) if click.positive else 0.0
        top, bottom = min(top, click.row - reach), max(bottom, click.row + reach + 1)
        left, right = min(left, click.col - reach), max(right, click.col + reach + 1)
    grow_h, grow_w = ((margin - 1) / 2 * max(side, SMALLEST_OBJECT) for side in (bottom - top, right - left))
    first_row, first_col = max(0, math.floor(top - grow_h)), max(0, math.floor(left - grow_w))
    num_rows, num_cols = min(height, math.ceil(bottom + grow_h)) - first_row, min(width, math.ceil(right + grow_w)) - first_col
    if (num_rows, num_cols) == (height, width):
        return None
    return _view(first_row, first_col, num_rows, num_cols, longest, enlarge=True)


def _view(top: int, left: int, height: int, width: int, longest: int, *, enlarge: bool) -> View:
    factor = longest / max(height, width)
    if not enlarge:
        factor = min(factor, 1.0)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return View(top, left, height, width, size)


@METHODS.register("dctnet")
class DCTNetMethod(Method):
    """DCT-Net behind the protocol of all methods.

    Args:
        checkpoint: A shipped name, a file of weights or a checkpoint of training.
        net: A network that is already in memory, instead of ``checkpoint``; it is put in evaluation mode.
        first_size: The whole image is shrunk to this many pixels at its longer side.
        zoom_in: From the second click on, predict the object's region alone, at ``zoom_size`` pixels.
        zoom_size: Longer side of what the network sees of the region.
        zoom_margin: Height and width of the region over those of the object.
        flip: Average with the prediction of the mirrored image; twice the time.
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the processor computes in it.
        device: A torch device.
    """

    name = "dctnet"
    paper = "Lin et al. 2021"

    def __init__(
        self,
        checkpoint: str | Path = DEFAULT,
        *,
        net: DCTNet | None = None,
        first_size: int = 448,
        zoom_in: bool = True,
        zoom_size: int = 384,
        zoom_margin: float = 1.4,
        flip: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        device: str = "cpu",
    ) -> None:
        self.source = "in memory" if net is not None else str(checkpoint)
        self.net = (DCTNet.from_pretrained(checkpoint) if net is None else net).eval().to(device).to(memory_format=torch.channels_last)
        self.first_size, self.zoom_in, self.zoom_size, self.zoom_margin, self.flip = first_size, zoom_in, zoom_size, zoom_margin, flip
        self.device = torch.device(device)
        self.bfloat16 = has_fast_bfloat16(self.device) if precision == "auto" else precision == "bfloat16"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "checkpoint": self.source,
            "first_size": self.first_size,
            "zoom_in": self.zoom_in,
            "zoom_size": self.zoom_size,
            "zoom_margin": self.zoom_margin,
            "flip": self.flip,
            "precision": "bfloat16" if self.bfloat16 else "float32",
            "device": str(self.device),
        }

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Forget the image before; (H, W, 3) uint8 RGB.

        Raises:
            ValueError: When the image is of another shape or type.
        """
        self._image = checked_image(image)
        self._features: list[torch.Tensor] | None = None

    def predict(self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The probabilities of the object, (H, W); outside the region of a zoom there is none."""
        result = np.zeros(image.shape[:2], np.float32)
        if clicks:
            view, probs = self.predict_view(image, clicks, previous)
            seen = cv2.resize(probs, (view.width, view.height), interpolation=cv2.INTER_LINEAR)
            result[view.top : view.top + view.height, view.left : view.left + view.width] = seen
        return result

    def predict_view(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None, *, share: float = 1.0
    ) -> tuple[View, NDArray[np.float32]]:
        """The region that the network looks at, and the probabilities there at the network's size, (h, w) of ``view.size``.

        Args:
            image: As for ``predict``.
            clicks: As for ``predict``, but at least one.
            previous: As for ``predict``.
            share: Of the sides that ``first_size`` and ``zoom_size`` give; less is coarser and takes its square of the time.
        """
        view = self._view(image.shape[:2], clicks, previous, share)
        inside = view.clicks(clicks).to(self.device)
        with self._computing():
            x, before = self._seen(image, view), None if previous is None else self._tensor(view.crop(previous)[..., None])
            probs = torch.sigmoid(self.net(x, inside, before))
            if self.flip:
                mirrored = None if before is None else before.flip(-1)
                probs = (probs + torch.sigmoid(self.net(x.flip(-1), _mirrored(inside, view.size[1]), mirrored)).flip(-1)) / 2
        return view, probs[0, 0].cpu().numpy()

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """The clicks, with the Auto-Drag-Head's radius for each that has none; the image is the one given to ``reset``."""
        if self.net.auto_drag is None or all(c.radius is not None for c in clicks):
            return list(clicks)
        view = whole_view(self._image.shape[:2], self.first_size)
        with self._computing():
            x, before = self._seen(self._image, view), None if previous is None else self._tensor(view.crop(previous)[..., None])
            if self._features is None:
                self._features = self.net.encode_image(x)
            radii = self.net.fill_radii(x, view.clicks(clicks).to(self.device), before, self._features).radii[0] / view.scale
        return [c if c.radius is not None else replace(c, radius=float(r)) for c, r in zip(clicks, radii.tolist(), strict=True)]

    def _view(self, shape: tuple[int, ...], clicks: Sequence[Click], previous: NDArray[np.float32] | None, share: float) -> View:
        view = None
        if self.zoom_in and previous is not None and len(clicks) > 1:
            view = object_view(previous, clicks, round(self.zoom_size * share), margin=self.zoom_margin, threshold=0.5)
        return view or whole_view((shape[0], shape[1]), round(self.first_size * share))

    def _seen(self, image: NDArray[np.uint8], view: View) -> torch.Tensor:
        return self._tensor(view.crop(image)).contiguous(memory_format=torch.channels_last).div_(255)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(self.device).permute(2, 0, 1)[None]  # astype copies: a caller's array stays

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            yield


def _mirrored(clicks: ClickBatch, width: int) -> ClickBatch:
    coords = clicks.coords * clicks.coords.new_tensor([1, -1]) + clicks.coords.new_tensor([0, width - 1])
    return ClickBatch(coords, clicks.labels, clicks.radii)
