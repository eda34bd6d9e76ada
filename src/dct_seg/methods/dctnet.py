"""DCT-Net as a method: whole image at the first click, or the surroundings of a small drag; then the object's region alone."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
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
from dct_seg.methods.seeds import check_turn
from dct_seg.models.dct_net import DCTNet
from dct_seg.models.pretrained import DEFAULT
from dct_seg.processor import has_fast_bfloat16

SMALLEST_OBJECT = 16.0  # pixels; the margin around something smaller is the margin of this
KEPT_VIEWS = 3  # the whole image and the last two regions; with `late` some 10 MB each
HELD_COARSENESS = 1.33  # a view is held while its pixels are at most so much coarser than those of the region asked for
HELD_MARGIN = 0.25  # of the margin asked for, that the object must still have in a view that is held
LARGEST_ZOOM = 4.0  # network's pixels an image's pixel; training enlarges no more, and what surrounds a small object is worth more
FIRST_GAIN = 1.2  # the surroundings of the clicks are worth a look of their own when they are seen so many times as finely
FLOOR = np.float32(1e-6)  # probability inside a view that may be held: above 0, so that the next click sees where the view was


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

    def holds(self, other: View) -> bool:
        """Whether all of ``other``'s rectangle lies inside this one."""
        return (
            self.top <= other.top
            and self.left <= other.left
            and other.top + other.height <= self.top + self.height
            and other.left + other.width <= self.left + self.width
        )


def whole_view(shape: tuple[int, int], longest: int) -> View:
    """The whole image, shrunk (never enlarged) until its longer side is ``longest`` pixels."""
    return _view(0, 0, *shape, longest, enlarge=False)


def first_view(shape: tuple[int, int], clicks: Sequence[Click], whole: View, longest: int, *, reach: float) -> View:
    """Where there is no mask yet: as far around the positive clicks as objects of their radii reach, or ``whole``.

    A drag tells the object's size before anything is predicted. Nine of ten objects of photographs end within eight radii of
    the first click, and a small one is a few pixels of the whole image.

    Args:
        shape: (H, W) of the image.
        clicks: All clicks; a negative one is kept inside too.
        whole: The view of the whole image.
        longest: Longer side of what the network sees, in pixels.
        reach: Radii around a positive click; 0 always gives ``whole``.
    """
    if not reach or not any(c.positive and c.radius for c in clicks):
        return whole
    box = _box_around(clicks, (math.inf, -math.inf, math.inf, -math.inf), reach=reach)
    view = _view_around(box, shape, longest, 1.0)
    return whole if view is None or view.scale < FIRST_GAIN * whole.scale else view


def object_view(previous: NDArray[np.float32], clicks: Sequence[Click], longest: int, *, margin: float, threshold: float) -> View | None:
    """The region of the object: the previous mask and the positive clicks' circles, and ``margin`` times its size around.

    Args:
        previous: (H, W) probabilities before the last click.
        clicks: All clicks; a negative one is kept inside too.
        longest: Longer side of what the network sees, in pixels.
        margin: Height and width of the region over those of the object; a region is at least so large that the network sees it
            enlarged ``LARGEST_ZOOM`` times.
        threshold: A pixel is object above this probability.

    Returns:
        None when the region is the whole image, or there is no object yet.
    """
    box = _object_box(previous, clicks, threshold)
    return None if box is None else _view_around(box, previous.shape, longest, margin)


def next_view(previous: NDArray[np.float32], clicks: Sequence[Click], whole: View, longest: int, *, margin: float) -> View:
    """As :func:`object_view`, or ``whole``; but the view of the click before is held while the object still fits it.

    Which view that was is read from ``previous``, which is 0 outside of it alone. So the answer is a function of what is given,
    and the same whether or not anything of the view is at hand.

    Args:
        previous: As for :func:`object_view`.
        clicks: As for :func:`object_view`.
        whole: The view of the whole image.
        longest: As for :func:`object_view`.
        margin: As for :func:`object_view`.
    """
    box = _object_box(previous, clicks, 0.5)
    if box is None:
        return whole
    wanted = _view_around(box, previous.shape, longest, margin) or whole
    needed = _view_around(box, previous.shape, longest, 1 + (margin - 1) * HELD_MARGIN, largest_zoom=math.inf) or whole
    left, top, width, height = cv2.boundingRect((previous > 0).view(np.uint8))
    held = whole if (height, width) == previous.shape else _view(top, left, height, width, longest, enlarge=True)
    return held if held.holds(needed) and held.scale * HELD_COARSENESS >= wanted.scale else wanted


_Box = tuple[float, float, float, float]
"""Top, bottom, left, right."""


def _object_box(previous: NDArray[np.float32], clicks: Sequence[Click], threshold: float) -> _Box | None:
    """The box around the mask, the clicks, and the circles of the positive ones; None without a mask."""
    first_col, first_row, cols, rows = cv2.boundingRect((previous > threshold).view(np.uint8))
    if rows == 0:
        return None
    mask = float(first_row), float(first_row + rows), float(first_col), float(first_col + cols)
    return _box_around(clicks, mask, reach=1)


def _box_around(clicks: Sequence[Click], box: _Box, *, reach: float) -> _Box:
    """``box`` grown to hold the clicks, and around the positive ones the circles of ``reach`` times their radii."""
    top, bottom, left, right = box
    for click in clicks:
        far = reach * (click.radius or 0.0) if click.positive else 0.0
        top, bottom = min(top, click.row - far), max(bottom, click.row + far + 1)
        left, right = min(left, click.col - far), max(right, click.col + far + 1)
    return top, bottom, left, right


def _view_around(box: _Box, shape: tuple[int, ...], longest: int, margin: float, *, largest_zoom: float = LARGEST_ZOOM) -> View | None:
    """The view of the box with its margin, and more where it would be enlarged too much; None where that is the whole image."""
    top, bottom, left, right = box
    grow_h, grow_w = ((margin - 1) / 2 * max(side, SMALLEST_OBJECT) for side in (bottom - top, right - left))
    least = longest / largest_zoom
    if max(bottom - top + 2 * grow_h, right - left + 2 * grow_w) < least:
        grow_h, grow_w = (least - (bottom - top)) / 2, (least - (right - left)) / 2
    first_row, first_col = max(0, math.floor(top - grow_h)), max(0, math.floor(left - grow_w))
    num_rows, num_cols = min(shape[0], math.ceil(bottom + grow_h)) - first_row, min(shape[1], math.ceil(right + grow_w)) - first_col
    if (num_rows, num_cols) == tuple(shape):
        return None
    return _view(first_row, first_col, num_rows, num_cols, longest, enlarge=True)


def _view(top: int, left: int, height: int, width: int, longest: int, *, enlarge: bool) -> View:
    factor = longest / max(height, width)
    if not enlarge:
        factor = min(factor, 1.0)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return View(top, left, height, width, size)


@dataclass
class _Seen:
    """What the network sees of a view, (1, 3, h, w), and its features, once they were asked for; of the mirrored view too."""

    image: torch.Tensor
    features: list[torch.Tensor] | None = None
    mirrored: list[torch.Tensor] | None = None


@METHODS.register("dctnet")
class DCTNetMethod(Method):
    """DCT-Net behind the protocol of all methods.

    What the network sees of the last views is kept, and with ``prompt_fusion: late`` its encoding: a click in a view that was
    seen before costs the prompt branch and the decoder. What is kept never changes an answer.

    Args:
        checkpoint: A shipped name, a file of weights or a checkpoint of training.
        net: A network that is already in memory, instead of ``checkpoint``; it is put in evaluation mode.
        first_size: The whole image is shrunk to this many pixels at its longer side.
        first_reach: As long as there is no mask, look only so many radii around the clicks, at ``zoom_size`` pixels, where that shows
            them finer than the whole image does; 0 looks at the whole image. Only with ``zoom_in``.
        zoom_in: From the second click on, predict the object's region alone, at ``zoom_size`` pixels.
        zoom_size: Longer side of what the network sees of the region.
        zoom_margin: Height and width of the region over those of the object.
        hold_view: Stay with the view of the click before while the object fits it, see :func:`next_view`. None holds it for a
            ``late`` network, which saves the encoding, and looks afresh at each click for an ``early`` one, which would save nothing.
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
        first_reach: float = 8.0,
        zoom_in: bool = True,
        zoom_size: int = 384,
        zoom_margin: float = 1.4,
        hold_view: bool | None = None,
        flip: bool = False,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        device: str = "cpu",
    ) -> None:
        self.source = "in memory" if net is not None else str(checkpoint)
        self.net = (DCTNet.from_pretrained(checkpoint) if net is None else net).eval().to(device).to(memory_format=torch.channels_last)
        self.first_size, self.first_reach, self.flip = first_size, first_reach, flip
        self.zoom_in, self.zoom_size, self.zoom_margin = zoom_in, zoom_size, zoom_margin
        self.hold_view = self.net.is_late if hold_view is None else hold_view
        self.device = torch.device(device)
        self.bfloat16 = has_fast_bfloat16(self.device) if precision == "auto" else precision == "bfloat16"
        self._image: NDArray[np.uint8] | None = None
        self._views: OrderedDict[View, _Seen] = OrderedDict()

    @property
    def options(self) -> dict[str, Any]:
        return {
            "checkpoint": self.source,
            "first_size": self.first_size,
            "first_reach": self.first_reach,
            "zoom_in": self.zoom_in,
            "zoom_size": self.zoom_size,
            "zoom_margin": self.zoom_margin,
            "hold_view": self.hold_view,
            "flip": self.flip,
            "precision": "bfloat16" if self.bfloat16 else "float32",
            "device": str(self.device),
        }

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Forget the image before; a ``late`` network encodes the whole of this one, (H, W, 3) uint8 RGB.

        Raises:
            ValueError: When the image is of another shape or type.
        """
        self._image = checked_image(image)
        self._views.clear()
        if self.net.is_late:
            self._features(whole_view(image.shape[:2], self.first_size))
            if self.flip:
                self._features(whole_view(image.shape[:2], self.first_size), mirrored=True)

    def predict(self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The probabilities of the object, (H, W); outside the region of a zoom there is none.

        Raises:
            ValueError: When the image is not the size of the one given to ``reset``, or a click lies outside of it.
        """
        result = np.zeros(image.shape[:2], np.float32)
        if clicks:
            view, probs = self.predict_view(image, clicks, previous)
            seen = cv2.resize(probs, (view.width, view.height), interpolation=cv2.INTER_LINEAR)
            if self.hold_view:
                np.maximum(seen, FLOOR, out=seen)
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

        Raises:
            ValueError: As for ``predict``.
        """
        check_turn(image, clicks, None if self._image is None else self._image.shape[:2])
        view = self._view(image.shape[:2], clicks, previous, share)
        inside = view.clicks(clicks).to(self.device)
        before = None if previous is None else self._tensor(view.crop(previous)[..., None])
        probs = self._probs(view, inside, before)
        if self.flip:
            mirrored = None if before is None else before.flip(-1)
            probs = (probs + self._probs(view, _mirrored(inside, view.size[1]), mirrored, mirrored=True).flip(-1)) / 2
        return view, probs[0, 0].cpu().numpy()

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """The clicks, with the Auto-Drag-Head's radius for each that has none; the image is the one given to ``reset``."""
        if self.net.auto_drag is None or all(c.radius is not None for c in clicks):
            return list(clicks)
        assert self._image is not None, "reset() comes first"
        view = whole_view(self._image.shape[:2], self.first_size)
        before = None if previous is None else self._tensor(view.crop(previous)[..., None])
        features = self._features(view)
        with self._computing():
            filled = self.net.fill_radii(self._seen(view).image, view.clicks(clicks).to(self.device), before, features)
        radii = (filled.radii[0] / view.scale).tolist()
        return [c if c.radius is not None else replace(c, radius=float(r)) for c, r in zip(clicks, radii, strict=True)]

    def _view(self, shape: tuple[int, ...], clicks: Sequence[Click], previous: NDArray[np.float32] | None, share: float) -> View:
        whole, zoom_size = whole_view((shape[0], shape[1]), round(self.first_size * share)), round(self.zoom_size * share)
        if not self.zoom_in:
            return whole
        if previous is None or not (previous > 0.5).any():
            return first_view((shape[0], shape[1]), clicks, whole, zoom_size, reach=self.first_reach)
        if len(clicks) < 2:
            return whole
        if self.hold_view:
            return next_view(previous, clicks, whole, zoom_size, margin=self.zoom_margin)
        return object_view(previous, clicks, zoom_size, margin=self.zoom_margin, threshold=0.5) or whole

    def _probs(self, view: View, clicks: ClickBatch, before: torch.Tensor | None, *, mirrored: bool = False) -> torch.Tensor:
        """(1, 1, h, w) probabilities in a view, with all else mirrored already."""
        features = self._features(view, mirrored=mirrored) if self.net.is_late else None
        image = self._seen(view).image
        with self._computing():
            return torch.sigmoid(self.net(image.flip(-1) if mirrored else image, clicks, before, features))

    def _features(self, view: View, *, mirrored: bool = False) -> list[torch.Tensor]:
        """The network's features of the view's image alone."""
        began = time.perf_counter()
        seen = self._seen(view)
        features = seen.mirrored if mirrored else seen.features
        if features is not None:
            return features
        with self._computing():
            features = self.net.encode_image(seen.image.flip(-1) if mirrored else seen.image)
        if mirrored:
            seen.mirrored = features
        else:
            seen.features = features
        self.encode_seconds += time.perf_counter() - began
        return features

    def _seen(self, view: View) -> _Seen:
        """What is kept of a view; the one used longest ago makes room for a new one."""
        seen = self._views.get(view)
        if seen is None:
            assert self._image is not None, "reset() comes first"
            image = self._tensor(view.crop(self._image)).contiguous(memory_format=torch.channels_last).div_(255)
            seen = self._views[view] = _Seen(image)
            if len(self._views) > KEPT_VIEWS:
                self._views.popitem(last=False)
        self._views.move_to_end(view)
        return seen

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(self.device).permute(2, 0, 1)[None]  # astype copies: a caller's array stays

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            yield


def _mirrored(clicks: ClickBatch, width: int) -> ClickBatch:
    coords = clicks.coords * clicks.coords.new_tensor([1, -1]) + clicks.coords.new_tensor([0, width - 1])
    return ClickBatch(coords, clicks.labels, clicks.radii)
