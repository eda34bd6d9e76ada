"""Predict in Python: set an image once, then ask for a mask after each click. No Lightning in the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.methods.base import Method, checked_image
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.models.dct_net import DCTNet
from dct_seg.models.pretrained import DEFAULT


@dataclass(frozen=True)
class Prediction:
    """A mask and how it came about.

    Args:
        mask: (H, W) bool, the object.
        probs: (H, W) float32 in 0..1.
        clicks: The clicks with the radii that were used.
    """

    mask: NDArray[np.bool_]
    probs: NDArray[np.float32]
    clicks: tuple[Click, ...]


class Predictor:
    """Segments one image at a time from clicks.

    ``predict`` is a pure function of the image and the ordered clicks: what it has computed for a beginning of the same
    clicks it reuses, the rest it plays again, one click after the other, as a person would have made them.

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
        self._image: NDArray[np.uint8] | None = None
        self._given: list[Click] = []
        self._used: list[tuple[Click, ...]] = []
        self._probs: list[NDArray[np.float32]] = []
        self._clicks: tuple[Click, ...] = ()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = DEFAULT, *, threshold: float = 0.5, **options: Any) -> Predictor:
        """A predictor with trained weights.

        Args:
            name_or_path: As :meth:`DCTNet.from_pretrained`.
            threshold: A pixel is object above this probability.
            options: Of :class:`dct_seg.methods.dctnet.DCTNetMethod`, such as ``zoom_in=False`` or ``device="cuda"``.

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
        rgb = checked_image(_rgb(image) if isinstance(image, np.ndarray) else image).copy()  # the caller may paint into its own
        self._image = None
        self.method.reset(rgb)
        self._image = rgb
        self._keep(0)
        self._clicks = ()

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
            if not (-0.5 <= click.row < height - 0.5 and -0.5 <= click.col < width - 0.5):
                raise ValueError(f"click ({click.row}, {click.col}) lies outside the image of {height} rows and {width} columns")
        self._keep(_num_common(self._given, clicks))
        for click in clicks[len(self._given) :]:
            previous = self._probs[-1] if self._probs else None
            before = self._used[-1] if self._used else ()
            used = tuple(self.method.fill_radii([*before, click], previous))
            probs = self.method.predict(image, used, previous)
            self._given.append(click)
            self._used.append(used)
            self._probs.append(probs)
        self._clicks = tuple(clicks)
        probs = self._probs[-1].copy() if self._probs else np.zeros((height, width), np.float32)
        return Prediction(probs > self.threshold, probs, self._used[-1] if self._used else ())

    def click(self, row: float, col: float, *, positive: bool = True, radius: float | None = None) -> Prediction:
        """The mask after one more click."""
        return self.predict([*self._clicks, Click(row, col, positive, radius)])

    def undo(self) -> Prediction:
        """The mask before the last click; without clicks, the empty mask."""
        return self.predict(self._clicks[:-1])

    def reset(self) -> None:
        """Forget the clicks, keep the image."""
        self._image_or_error()
        self.predict([])

    def _keep(self, count: int) -> None:
        del self._given[count:], self._used[count:], self._probs[count:]

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
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
