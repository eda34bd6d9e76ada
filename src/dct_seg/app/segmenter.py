"""Predictions for the annotator: one cached predictor per recently used image."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dct_seg.app.preview_rate import PreviewRate
from dct_seg.app.working_image import WorkingImage
from dct_seg.clicks import Click
from dct_seg.methods.base import Answer, Method
from dct_seg.methods.views import View, whole_view
from dct_seg.prediction import Prediction
from dct_seg.predictor import Predictor
from dct_seg.processor import one_core_free

LIVE_SECONDS = 0.06
"""Time budget of the network per live preview in seconds; transfer and browser use the rest of 0.1 s."""


@dataclass(frozen=True)
class Preview:
    """Predicted probabilities of a click before it is made.

    Args:
        probs: (h, w) float32 probabilities of the region.
        view: Region of the working image.
        is_exact: Whether making the click results in exactly these probabilities.
    """

    probs: NDArray[np.float32]
    view: View
    is_exact: bool


@dataclass
class _Slot:
    working: WorkingImage
    start: NDArray[np.bool_] | None
    predictor: Predictor
    before: tuple[tuple[Click, ...], Prediction] | None = None
    """Clicks before a drag, with their prediction; a cache owned by the segmenter.

    All previews of the drag share it; the predictor's own cache would copy the answer for each."""


class Segmenter:
    """Probabilities of clicks on full-size images, computed on working images.

    Computations run one at a time, since parallel ones would only share the cores, and in one thread, since
    each thread that runs a network keeps more memory (45 MiB for dct-lite0).

    Args:
        make_method: Factory of methods, one per image; they may share a network.
        keep: Number of images with cached predictions.
    """

    def __init__(self, make_method: Callable[[], Method], *, keep: int = 2) -> None:
        self._make_method = make_method
        self._keep = keep
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        """Cache of one predictor per recently used image; this class owns it."""
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._rate = PreviewRate(LIVE_SECONDS)

    def predict(
        self, key: str, working: WorkingImage, clicks: Sequence[Click], start: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Predict the probabilities after all clicks, (h, w) of the working image.

        Args:
            key: Key of the image; predictions for a shared prefix of clicks are reused.
            working: Image to segment.
            clicks: Clicks in pixels of the full size.
            start: Mask that the first click corrects, (h, w) of the working image; compared by identity.
        """

        def compute() -> NDArray[np.float32]:
            predictor = self._slot(key, working, start).predictor
            return predictor.predict([working.click(click) for click in clicks]).probs

        return self._thread.submit(compute).result()

    def with_radius(
        self,
        key: str,
        working: WorkingImage,
        clicks: Sequence[Click],
        click: Click,
        start: NDArray[np.bool_] | None = None,
    ) -> Click:
        """Return the next click, with the method's radius in full-size pixels if it has no drag.

        Args:
            key: Key of the image, see `predict`.
            working: Image, see `predict`.
            clicks: Earlier clicks.
            click: Next click.
            start: Start mask, see `predict`.
        """
        if click.radius is not None:
            return click

        def compute() -> float | None:
            predictor = self._slot(key, working, start).predictor
            before = predictor.predict([working.click(one) for one in clicks])
            previous = before.probs if clicks or start is not None else None
            return predictor.method.fill_radii([*before.clicks, working.click(click)], previous)[-1].radius

        radius = self._thread.submit(compute).result()
        if radius is None:
            return click
        return replace(click, radius=max(0.0, float(radius)) * working.factor, predicted_radius=True)

    def live(
        self,
        key: str,
        working: WorkingImage,
        clicks: Sequence[Click],
        click: Click,
        start: NDArray[np.bool_] | None = None,
    ) -> Preview:
        """Preview the next click at low resolution.

        The resolution is reduced if the machine is too slow to follow a drag; one core is then left to the
        browser. Cached results are computed with all threads, because the bits of a float32 network depend on
        the number of threads.

        Args:
            key: Key of the image, see `predict`.
            working: Image, see `predict`.
            clicks: Earlier clicks.
            click: Next click, with a radius.
            start: Start mask, see `predict`.
        """

        def compute() -> Preview:
            slot = self._slot(key, working, start)
            share = self._rate.share
            before = self._before(slot, tuple(clicks))
            began = time.perf_counter()
            found = None
            if share < 1:
                has_answer = bool(clicks) or start is not None
                previous = Answer(before.probs, before.view) if has_answer else None
                with one_core_free():
                    used = [*before.clicks, working.click(click)]
                    found = slot.predictor.method.preview(working.image, used, previous, share=share)
            if found is None:
                share = 1.0
                probs = slot.predictor.predict([working.click(one) for one in (*clicks, click)]).probs
                found = whole_view((probs.shape[0], probs.shape[1]), max(probs.shape)), probs
            self._rate.record(share, time.perf_counter() - began)
            return Preview(found[1], found[0], share == 1)

        return self._thread.submit(compute).result()

    def _before(self, slot: _Slot, clicks: tuple[Click, ...]) -> Prediction:
        if slot.before is None or slot.before[0] != clicks:
            slot.before = clicks, slot.predictor.predict([slot.working.click(click) for click in clicks])
        return slot.before[1]

    def _slot(self, key: str, working: WorkingImage, start: NDArray[np.bool_] | None) -> _Slot:
        slot = self._slots.get(key)
        if slot is None or slot.working is not working or slot.start is not start:
            slot = _Slot(working, start, Predictor(self._make_method()))
            slot.predictor.set_image(working.image, start=start)
            self._slots[key] = slot
        self._slots.move_to_end(key)
        while len(self._slots) > self._keep:
            self._slots.popitem(last=False)
        return slot
