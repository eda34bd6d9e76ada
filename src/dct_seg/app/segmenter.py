"""The network at work for the annotator: a predictor for each of the pictures used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.app.working import WorkingPicture
from dct_seg.clicks import Click
from dct_seg.methods.base import Method
from dct_seg.predictor import Predictor


class StartingFrom(Method):
    """A method that goes on from a mask that was there before the first click.

    Args:
        method: What predicts.
        start: (H, W) bool.
    """

    name, paper = "starting_from", ""

    def __init__(self, method: Method, start: NDArray[np.bool_]) -> None:
        self.method, self.start = method, start.astype(np.float32)

    @property
    def options(self) -> dict[str, Any]:
        return self.method.options

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Of the method."""
        self.method.reset(image)

    def predict(self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Of the method; the first click sees the start as the mask before it."""
        return self.method.predict(image, clicks, self.start if previous is None else previous)

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        """Of the method; the first click sees the start as the mask before it."""
        return self.method.fill_radii(clicks, self.start if previous is None else previous)


@dataclass(frozen=True)
class _Slot:
    picture: WorkingPicture
    start: NDArray[np.bool_] | None
    predictor: Predictor


class Segmenter:
    """Probabilities of clicks on full-size pictures, computed on working pictures.

    One computation runs at a time: more would only share the same cores.

    Args:
        make_method: A new method for a picture; networks inside may be shared.
        keep: How many pictures' predictions are kept.
    """

    def __init__(self, make_method: Callable[[], Method], *, keep: int = 2) -> None:
        self._make_method, self._keep = make_method, keep
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._computing = threading.Lock()

    def predict(
        self, key: str, picture: WorkingPicture, clicks: Sequence[Click], start: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """The probabilities after all clicks, (h, w) of the working picture.

        Args:
            key: Of the picture; predictions of a beginning of the same clicks are reused.
            picture: To segment.
            clicks: In pixels of the full size.
            start: (h, w) of the working picture: the mask that the first click corrects. The same array means the same start.
        """
        with self._computing:
            predictor = self._predictor(key, picture, start)
            if not clicks and start is not None:
                return start.astype(np.float32)
            return predictor.predict([picture.click(click) for click in clicks]).probs

    def with_radius(
        self, key: str, picture: WorkingPicture, clicks: Sequence[Click], click: Click, start: NDArray[np.bool_] | None = None
    ) -> Click:
        """The next click with the radius that the method gives to one without a drag, in pixels of the full size.

        Args:
            key: As for :meth:`predict`.
            picture: As for :meth:`predict`.
            clicks: Those before.
            click: The next one.
            start: As for :meth:`predict`.
        """
        if click.radius is not None:
            return click
        with self._computing:
            predictor = self._predictor(key, picture, start)
            before = predictor.predict([picture.click(one) for one in clicks])
            previous = before.probs if clicks else None
            radius = predictor.method.fill_radii([*before.clicks, picture.click(click)], previous)[-1].radius
        return click if radius is None else replace(click, radius=max(0.0, float(radius)) * picture.factor)

    def _predictor(self, key: str, picture: WorkingPicture, start: NDArray[np.bool_] | None) -> Predictor:
        slot = self._slots.get(key)
        if slot is None or slot.picture is not picture or slot.start is not start:
            method = self._make_method() if start is None else StartingFrom(self._make_method(), start)
            slot = _Slot(picture, start, Predictor(method))
            slot.predictor.set_image(picture.image)
            self._slots[key] = slot
        self._slots.move_to_end(key)
        while len(self._slots) > self._keep:
            self._slots.popitem(last=False)
        return slot.predictor
