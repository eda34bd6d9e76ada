"""Predictions for the annotator: one cached predictor per recently used image."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dct_seg.app.preview_rate import PreviewRate
from dct_seg.app.working_image import WorkingImage
from dct_seg.clicks import Click
from dct_seg.methods.base import Method
from dct_seg.methods.views import View, whole_view
from dct_seg.prediction import Prediction
from dct_seg.predictor import Predictor
from dct_seg.processor import one_core_free

LIVE_SECONDS = 0.06
"""Time budget of the network per live preview; transfer and browser take the rest of a tenth of a second."""


@dataclass(frozen=True)
class Preview:
    """Probabilities that a click would give.

    Args:
        probs: (h, w) float32 probabilities of the region.
        view: Region of the working image.
        is_exact: Whether the click gives exactly these.
    """

    probs: NDArray[np.float32]
    view: View
    is_exact: bool


@dataclass
class _Slot:
    picture: WorkingImage
    start: NDArray[np.bool_] | None
    predictor: Predictor
    before: tuple[tuple[Click, ...], Prediction] | None = None
    """Clicks before a drag and their prediction, shared by all previews of the drag.

    The predictor caches the answer too, but would copy it for each preview."""


class Segmenter:
    """Probabilities of clicks on full-size images, computed on working images.

    Computations run one at a time: parallel ones would only share the cores.

    Args:
        make_method: A new method for an image; networks inside may be shared.
        keep: Number of images whose predictions are kept.
    """

    def __init__(self, make_method: Callable[[], Method], *, keep: int = 2) -> None:
        self._make_method = make_method
        self._keep = keep
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._computing = threading.Lock()
        self._rate = PreviewRate(LIVE_SECONDS)

    def predict(
        self, key: str, picture: WorkingImage, clicks: Sequence[Click], start: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Predict the probabilities after all clicks, (h, w) of the working image.

        Args:
            key: Key of the image; predictions for a shared prefix of clicks are reused.
            picture: Image to segment.
            clicks: Clicks in pixels of the full size.
            start: (h, w) of the working image: the mask that the first click corrects. The same array means
                the same start.
        """
        with self._computing:
            predictor = self._slot(key, picture, start).predictor
            return predictor.predict([picture.click(click) for click in clicks]).probs

    def with_radius(
        self,
        key: str,
        picture: WorkingImage,
        clicks: Sequence[Click],
        click: Click,
        start: NDArray[np.bool_] | None = None,
    ) -> Click:
        """The next click with the radius that the method gives to one without a drag, in pixels of the full
        size.

        Args:
            key: Key of the image, see :meth:`predict`.
            picture: Image, see :meth:`predict`.
            clicks: Earlier clicks.
            click: Next click.
            start: Start mask, see :meth:`predict`.
        """
        if click.radius is not None:
            return click
        with self._computing:
            predictor = self._slot(key, picture, start).predictor
            before = predictor.predict([picture.click(one) for one in clicks])
            previous = before.probs if clicks or start is not None else None
            radius = predictor.method.fill_radii([*before.clicks, picture.click(click)], previous)[-1].radius
        return click if radius is None else replace(click, radius=max(0.0, float(radius)) * picture.factor)

    def live(
        self,
        key: str,
        picture: WorkingImage,
        clicks: Sequence[Click],
        click: Click,
        start: NDArray[np.bool_] | None = None,
    ) -> Preview:
        """Preview the next click at low resolution.

        The resolution is lower if the machine could not follow a drag otherwise; one core is then left to the
        browser. Cached results are computed with all threads, because a float32 network gives identical bits
        only at the same number of threads.

        Args:
            key: Key of the image, see :meth:`predict`.
            picture: Image, see :meth:`predict`.
            clicks: Earlier clicks.
            click: Next click, with a radius.
            start: Start mask, see :meth:`predict`.
        """
        with self._computing:
            slot = self._slot(key, picture, start)
            share = self._rate.share
            before = self._before(slot, tuple(clicks))
            began = time.perf_counter()
            found = None
            if share < 1:
                previous = before.probs if clicks or start is not None else None
                with one_core_free():
                    used = [*before.clicks, picture.click(click)]
                    found = slot.predictor.method.preview(picture.image, used, previous, share=share)
            if found is None:
                share = 1.0
                probs = slot.predictor.predict([picture.click(one) for one in (*clicks, click)]).probs
                found = whole_view((probs.shape[0], probs.shape[1]), max(probs.shape)), probs
            self._rate.took(share, time.perf_counter() - began)
            return Preview(found[1], found[0], share == 1)

    def _before(self, slot: _Slot, clicks: tuple[Click, ...]) -> Prediction:
        if slot.before is None or slot.before[0] != clicks:
            slot.before = clicks, slot.predictor.predict([slot.picture.click(click) for click in clicks])
        return slot.before[1]

    def _slot(self, key: str, picture: WorkingImage, start: NDArray[np.bool_] | None) -> _Slot:
        slot = self._slots.get(key)
        if slot is None or slot.picture is not picture or slot.start is not start:
            slot = _Slot(picture, start, Predictor(self._make_method()))
            slot.predictor.set_image(picture.image, start=start)
            self._slots[key] = slot
        self._slots.move_to_end(key)
        while len(self._slots) > self._keep:
            self._slots.popitem(last=False)
        return slot
