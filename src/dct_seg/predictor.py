"""Predict in Python: set an image once, then ask for a mask after each click. No Lightning in the process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.methods.base import Method, check_click, checked_image
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.models.dct_net import DCTNet
from dct_seg.models.pretrained import DEFAULT

HISTORY_BYTES = 2**28
"""Of the probabilities kept of earlier clicks, beside those of the last one; all twenty of a photograph of 3
megapixels."""


@dataclass(frozen=True)
class Timings:
    """What a call cost.

    Args:
        encode: Seconds spent on encoding the image or a region of it, which serves later clicks too; 0 where
            it was at hand.
        click: Seconds of everything else.
    """

    encode: float = 0.0
    click: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of the call."""
        return self.encode + self.click


@dataclass(frozen=True)
class Prediction:
    """A mask and how it came about.

    Args:
        mask: (H, W) bool, the object.
        probs: (H, W) float32 in 0..1.
        clicks: The clicks with the radii that were used.
        timings: What it cost.
    """

    mask: NDArray[np.bool_]
    probs: NDArray[np.float32]
    clicks: tuple[Click, ...]
    timings: Timings = Timings()


@dataclass(frozen=True)
class _Turn:
    """A click as it was given, all clicks up to it with their radii, and the probabilities after it, where
    they are not 0.
    """

    given: Click
    used: tuple[Click, ...]
    corner: tuple[int, int]
    part: NDArray[np.float32] | None
    """None once they were forgotten."""

    @classmethod
    def of(cls, given: Click, used: tuple[Click, ...], probs: NDArray[np.float32]) -> _Turn:
        left, top, width, height = cv2.boundingRect((probs > 0).view(np.uint8))
        if (height, width) == probs.shape:
            return cls(
                given, used, (0, 0), probs
            )  # itself, not a copy: a method may know its own answers again
        return cls(given, used, (top, left), probs[top : top + height, left : left + width].copy())

    def probs(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """(H, W), as the method gave them."""
        assert self.part is not None
        (top, left), (height, width) = self.corner, self.part.shape
        if (height, width) == size:
            return self.part
        whole = np.zeros(size, np.float32)
        whole[top : top + height, left : left + width] = self.part
        return whole


class Predictor:
    """Segments one image at a time from clicks.

    ``predict`` is a pure function of the image and the ordered clicks: what it has computed for a beginning
    of the same clicks it reuses, the rest it plays again, one click after the other, as a person would have
    made them. Of a huge image it keeps the last clicks only (``HISTORY_BYTES``), and an undo beyond them
    plays the others again.

    Attributes:
        timings: What the last ``set_image`` or ``predict`` cost.

    Args:
        method: A network, which is put in evaluation mode, or any interactive segmentation method.
        threshold: A pixel is object above this probability.

    Example:
        >>> from dct_seg.methods import METHODS
        >>> predictor = Predictor(METHODS.get("disc")())
        >>> predictor.set_image(np.zeros((9, 9, 3), np.uint8))
        >>> int(predictor.click(4, 4, radius=1.2).mask.sum())
        5
        >>> predictor.undo().mask.any()
        np.False_
    """

    def __init__(self, method: DCTNet | Method, *, threshold: float = 0.5) -> None:
        self.method = DCTNetMethod(net=method) if isinstance(method, DCTNet) else method
        self.threshold = threshold
        self.timings = Timings()
        self._image: NDArray[np.uint8] | None = None
        self._turns: list[_Turn] = []
        self._clicks: tuple[Click, ...] = ()

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = DEFAULT, *, threshold: float = 0.5, **options: Any
    ) -> Predictor:
        """A predictor with trained weights.

        Args:
            name_or_path: As :meth:`DCTNet.from_pretrained`.
            threshold: A pixel is object above this probability.
            options: Of :class:`dct_seg.methods.dctnet.DCTNetMethod`, such as ``zoom_in=False`` or
                ``device="cuda"``.

        Raises:
            FileNotFoundError: No file at a path.
            ValueError: Unknown name, or a file that is not one of ours.
        """
        return cls(DCTNetMethod(name_or_path, **options), threshold=threshold)

    def set_image(self, image: NDArray[Any]) -> None:
        """Start on an image; the clicks before are forgotten.

        Args:
            image: (H, W, 3) uint8 RGB; (H, W) grey and (H, W, 4) with alpha are converted.

        Raises:
            ValueError: When it is nothing of the kind.
        """
        rgb = checked_image(
            _rgb(image) if isinstance(image, np.ndarray) else image
        ).copy()  # the caller may paint into its own
        self._image = None
        self._turns = []
        self._clicks = ()
        before = self._now()
        self.method.reset(rgb)
        self.timings = self._since(before)
        self._image = rgb

    def predict(self, clicks: Sequence[Click]) -> Prediction:
        """The mask after all of ``clicks``, in order.

        Args:
            clicks: In pixels of the image; a click without a radius gets one from the Auto-Drag-Head.

        Raises:
            RuntimeError: When no image is set.
            ValueError: When a click lies outside the image.
        """
        image = self._image_or_error()
        height, width = image.shape[:2]
        for click in clicks:
            check_click(click, (height, width))
        before = self._now()
        self._keep(_num_common([turn.given for turn in self._turns], clicks))
        for click in clicks[len(self._turns) :]:
            previous = self._turns[-1].probs((height, width)) if self._turns else None
            used = tuple(self.method.fill_radii([*self._used, click], previous))
            self._turns.append(_Turn.of(click, used, self.method.predict(image, used, previous)))
            self._forget_oldest()
        self._clicks = tuple(clicks)
        probs = (
            self._turns[-1].probs((height, width)) if self._turns else np.zeros((height, width), np.float32)
        )
        if self._turns and probs is self._turns[-1].part:
            probs = probs.copy()  # the caller may paint into it
        mask = probs > self.threshold
        self.timings = self._since(before)
        return Prediction(mask, probs, self._used, self.timings)

    def click(
        self, row: float, col: float, *, positive: bool = True, radius: float | None = None
    ) -> Prediction:
        """The mask after one more click."""
        return self.predict([*self._clicks, Click(row, col, positive, radius)])

    def undo(self) -> Prediction:
        """The mask before the last click; without clicks, the empty mask."""
        return self.predict(self._clicks[:-1])

    def reset(self) -> None:
        """Forget the clicks, keep the image."""
        self._image_or_error()
        self.predict([])

    @property
    def _used(self) -> tuple[Click, ...]:
        return self._turns[-1].used if self._turns else ()

    def _keep(self, count: int) -> None:
        """The first ``count`` turns.

        None where the last of these is forgotten, since those before it then are too.
        """
        del self._turns[count:]
        if self._turns and self._turns[-1].part is None:
            self._turns.clear()

    def _forget_oldest(self) -> None:
        """Drop the probabilities of the oldest turns, so that those before the last one fit
        ``HISTORY_BYTES``.
        """
        left = HISTORY_BYTES
        for place in range(len(self._turns) - 2, -1, -1):
            part = self._turns[place].part
            if part is None:
                return
            left -= part.nbytes
            if left < 0:
                self._turns[place] = replace(self._turns[place], part=None)

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), self.method.encode_seconds

    def _since(self, before: tuple[float, float]) -> Timings:
        now, encoded = self._now()
        encode = encoded - before[1]
        return Timings(encode, now - before[0] - encode)

    def _image_or_error(self) -> NDArray[np.uint8]:
        if self._image is None:
            raise RuntimeError("no image is set; call set_image(rgb) first")
        return self._image


def _rgb(image: NDArray[Any]) -> NDArray[Any]:
    """A grey image three times over, one with alpha without it; anything else as it is."""
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image[..., :3] if image.ndim == 3 and image.shape[2] == 4 else image


def _num_common(a: Sequence[Click], b: Sequence[Click]) -> int:
    """How many clicks both lists begin with."""
    return next(
        (i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b))
    )
