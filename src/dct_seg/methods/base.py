"""Interface of interactive segmentation methods for the predictor and the benchmark."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.methods.views import View
from dct_seg.registry import Registry

METHODS: Registry[type[Method]] = Registry("method", group="dct_seg.methods")


@dataclass(frozen=True)
class Answer:
    """Result of a method after one click, passed back to the method with the next click.

    Args:
        probs: (H, W) float32 probabilities of the object, 0..1.
        view: Predicted region of the image, with 0 outside; None from a method without views.

    Examples:
        >>> Answer(np.zeros((2, 3), np.float32)).view is None
        True
    """

    probs: NDArray[np.float32]
    view: View | None = None


class Method(ABC):
    """Interactive segmentation method: gets an image once, and predicts a mask after each click.

    A subclass takes its options as keyword arguments of ``__init__`` (plain values, with defaults) and is
    added with ``@METHODS.register("name")`` or through the entry-point group ``dct_seg.methods``.

    Examples:
        >>> class Everything(Method):
        ...     def reset(self, image):
        ...         pass
        ...     def predict(self, image, clicks, previous):
        ...         return np.ones(image.shape[:2], np.float32)
        >>> Everything().answer(np.zeros((2, 3, 3), np.uint8), [Click(0, 0)], None).probs
        array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    """Authors and year, or "" if unpublished."""

    holder: object = None
    """Predictor whose image is set; another predictor must first set its own."""

    encode_seconds: float = 0.0
    """Total seconds spent on encodings that serve several clicks; 0 for a method without encodings."""

    @property
    def options(self) -> dict[str, Any]:
        """Options as plain values; a benchmark is resumed only with the same options."""
        return {}

    @abstractmethod
    def reset(self, image: NDArray[np.uint8]) -> None:
        """Prepare for an image, (H, W, 3) RGB: compute everything that does not depend on clicks."""

    @abstractmethod
    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Predict the probability of the object at each pixel, (H, W) in 0..1, from all clicks so far.

        Args:
            image: Image given to ``reset``, (H, W, 3) RGB.
            clicks: Clicks in order, possibly none. Each has a radius, unless the method needs none.
            previous: Result of ``predict`` for the previous click, or None at the first.
        """

    def answer(self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: Answer | None) -> Answer:
        """Predict like `predict`, and also return the view; optional.

        Args:
            image: (H, W, 3) image, see ``predict``.
            clicks: Clicks, see ``predict``.
            previous: Answer before the last click, or None.
        """
        return Answer(self.predict(image, clicks, None if previous is None else previous.probs))

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Predict several objects, of one image or of several; optional.

        Args:
            questions: Next click of each object; one of the objects is on this method's image.
        """
        return [one.method.answer(one.image, one.clicks, one.previous) for one in questions]

    def preview(
        self,
        image: NDArray[np.uint8],
        clicks: Sequence[Click],
        previous: Answer | None,
        *,
        share: float,
    ) -> tuple[View, NDArray[np.float32]] | None:
        """Predict faster and more coarsely than ``predict``, during a drag; optional.

        Args:
            image: (H, W, 3) image, see ``predict``.
            clicks: Clicks, see ``predict``; at least one.
            previous: Answer before the last click, or None.
            share: Resolution as a fraction (0..1) of the height and width used by ``predict``.

        Returns:
            Region of the image and the probabilities there, (h, w) of ``view.size``; None from a method
            without previews.
        """
        return None

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """Fill in a radius for clicks without a drag, if the method predicts one."""
        return list(clicks)


@dataclass(frozen=True)
class Question:
    """Next click of one object, with the arguments of `Method.answer`.

    Args:
        method: Method with the image.
        image: (H, W, 3) RGB.
        clicks: Clicks in order, at least one.
        previous: Answer before the last click, or None.
    """

    method: Method
    image: NDArray[np.uint8]
    clicks: Sequence[Click]
    previous: Answer | None


def checked_image(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return ``image`` if it is (H, W, 3) uint8 and not empty.

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
            f"an image must be a (height, width, 3) uint8 array in RGB, got {given}; Predictor.set_image "
            "converts gray and RGBA images; scale values of another type to 0..255 with "
            "dct_seg.data.brightness.to_uint8 first"
        )
    return image


def has_object(clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> bool:
    """Whether there is a positive click, or a mask that the clicks correct.

    Otherwise the prediction is the empty mask, since negative clicks alone select nothing.
    """
    return any(click.positive for click in clicks) or (previous is not None and bool((previous > 0.5).any()))


def pixel_under(click: Click, size: tuple[int, int]) -> tuple[int, int]:
    """Find the pixel under a click, (row, column), in an image of ``size`` (H, W).

    Examples:
        >>> pixel_under(Click(-0.5, 7.6), (10, 8))
        (0, 7)
    """
    row, col = (
        min(max(math.floor(at + 0.5), 0), length - 1)
        for at, length in zip((click.row, click.col), size, strict=True)
    )
    return row, col


def check_click(click: Click, size: tuple[int, int]) -> None:
    """Check that a click lies inside an image.

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

    The image must have the size given to ``reset``, and all clicks must lie inside it.

    Args:
        image: (H, W, 3) as given to ``predict``.
        clicks: Clicks to check; any number.
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
