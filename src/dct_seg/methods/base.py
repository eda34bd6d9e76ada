"""Interface that every interactive segmentation method implements for the predictor and the benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.methods.views import View
from dct_seg.registry import Registry

METHODS: Registry[type[Method]] = Registry("method", group="dct_seg.methods")


class Method(ABC):
    """Interactive segmentation method: gets an image once, and predicts a mask after each click.

    A subclass takes its options as keyword arguments of ``__init__`` (plain values, with defaults) and is
    added with ``@METHODS.register("name")`` or through the entry-point group ``dct_seg.methods``.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    """Authors and year, or "" if unpublished."""

    holder: object = None
    """Predictor whose image the method has; another predictor must set its own image again."""

    encode_seconds: float = 0.0
    """Total seconds spent on encodings that serve several clicks; 0 for a method without encodings."""

    @property
    def options(self) -> dict[str, Any]:
        """Options as plain values; a benchmark is resumed only with the same options."""
        return {}

    @abstractmethod
    def reset(self, image: NDArray[np.uint8]) -> None:
        """Prepare for an image, (H, W, 3) RGB: what does not depend on clicks is computed here."""

    @abstractmethod
    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """The probability of the object at each pixel, (H, W) in 0..1, given all clicks so far.

        Args:
            image: (H, W, 3) RGB, the one given to ``reset``.
            clicks: Clicks in order, possibly none. Each has a radius, unless the method needs none.
            previous: Result of ``predict`` for the previous click, or None at the first.
        """

    def predict_many(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Sequence[Click]],
        previous: Sequence[NDArray[np.float32] | None],
    ) -> list[NDArray[np.float32]]:
        """Predict several objects of one image.

        Args:
            image: (H, W, 3) image, see ``predict``.
            clicks: Clicks of each object, at least one.
            previous: Answer before the last click of each object, or None.
        """
        return [self.predict(image, *one) for one in zip(clicks, previous, strict=True)]

    def preview(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Click],
        previous: NDArray[np.float32] | None,
        *,
        share: float,
    ) -> tuple[View, NDArray[np.float32]] | None:
        """A faster, coarser answer than ``predict``, for a drag that has not ended; optional.

        Args:
            image: (H, W, 3) image, see ``predict``.
            clicks: Clicks, see ``predict``; at least one.
            previous: Answer before the last click, see ``predict``.
            share: Resolution, as a share (0..1) of the height and width that ``predict`` works at.

        Returns:
            A region of the image and the probabilities there, (h, w) of ``view.size``; None from a method
            that has no faster answer.
        """
        return None

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """Fill in a radius for clicks without a drag, if the method predicts one."""
        return list(clicks)


def checked_image(image: NDArray[Any]) -> NDArray[np.uint8]:
    """``image`` itself, when it is (H, W, 3) uint8 and not empty.

    Raises:
        ValueError: When it is not.
    """
    if (
        not isinstance(image, np.ndarray)
        or image.ndim != 3
        or image.shape[2] != 3
        or image.dtype != np.uint8
        or image.size == 0
    ):
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"an image is a (height, width, 3) uint8 array in RGB, got {given}; Predictor.set_image converts "
            "gray and RGBA ones, "
            "values of another type must be scaled to 0..255 and made uint8 first; "
            "dct_seg.data.images.to_uint8 does that"
        )
    return image


def has_object(clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> bool:
    """True with a positive click, or with a mask that the clicks correct.

    Otherwise the answer is the empty mask: negative clicks alone select nothing.
    """
    return any(click.positive for click in clicks) or (previous is not None and bool((previous > 0.5).any()))


def check_click(click: Click, size: tuple[int, int]) -> None:
    """Refuse a click outside an image.

    Args:
        click: Any click; row and column may be fractions.
        size: Height and width of the image in pixels.

    Raises:
        ValueError: When the click lies outside the image.
    """
    if not (-0.5 <= click.row < size[0] - 0.5 and -0.5 <= click.col < size[1] - 0.5):
        raise ValueError(
            f"click ({click.row:g}, {click.col:g}) lies outside the image of {size[0]} rows and {size[1]} "
            "columns"
        )


def check_turn(
    image: NDArray[np.uint8], clicks: Sequence[Click], size: tuple[int, int] | None
) -> tuple[int, int]:
    """Check the arguments of ``predict`` and return the image size.

    The image must have the size given to ``reset``, and all clicks must lie on it.

    Args:
        image: (H, W, 3) as given to ``predict``.
        clicks: Any number of clicks.
        size: (H, W) in pixels of the image given to ``reset``; None before it.

    Raises:
        ValueError: When the size differs, or a click lies outside.
    """
    if size is None or size != image.shape[:2]:
        raise ValueError(
            f"predict() got an image of {image.shape}, reset() was given {size}; call reset(image) first"
        )
    for click in clicks:
        check_click(click, size)
    return size
