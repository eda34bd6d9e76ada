"""Cache of predictors for recently used images, so that further clicks on them are cheap."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dct_seg.adapters.gestures import Size
from dct_seg.clicks import Click
from dct_seg.export.cache import load_for
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.exported import Backend
from dct_seg.models.pretrained import DEFAULT
from dct_seg.prediction import Prediction
from dct_seg.predictor import Predictor


class Predictors:
    """Cache of one predictor per image.

    Predictions run one at a time, since they would share the cores, and in one thread, since each thread that
    runs a network keeps more memory.

    Args:
        make: Factory of predictors; they may share a network.
        keep: Number of images with cached predictors.
    """

    def __init__(self, make: Callable[[], Predictor], *, keep: int = 4) -> None:
        self._make = make
        self._keep = keep
        self._kept: OrderedDict[Hashable, tuple[Predictor, Size]] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1)

    @classmethod
    def from_pretrained(
        cls, weights: str | Path = DEFAULT, *, backend: Backend = "auto", keep: int = 4
    ) -> Predictors:
        """Make predictors that share one network.

        Args:
            weights: A shipped name, a file of weights, a checkpoint or an export folder.
            backend: ``onnx`` runs weights in onnxruntime, exported once to the user's cache.
            keep: Number of images with cached predictors.
        """
        net = load_for(weights, backend)
        return cls(lambda: Predictor(DCTNetMethod(net=net)), keep=keep)

    def predict(
        self,
        key: Hashable,
        load: Callable[[], NDArray[np.uint8]],
        clicks: Callable[[Size], Sequence[Click]],
        *,
        start: NDArray[np.bool_] | None = None,
    ) -> Prediction:
        """Predict the mask of all clicks on an image.

        Args:
            key: Key of the image and the start mask.
            load: Function that loads the image, (H, W, 3); called only on a cache miss.
            clicks: Function from the image's (height, width) to the clicks.
            start: Mask that the first click corrects, (H, W) bool, or None.
        """
        image = None if key in self._kept else load()  # a download must not block the others

        def compute() -> Prediction:
            if key not in self._kept:
                predictor = self._make()
                pixels = load() if image is None else image
                predictor.set_image(pixels, start=start)
                self._kept[key] = predictor, (pixels.shape[0], pixels.shape[1])
            self._kept.move_to_end(key)
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
            predictor, size = self._kept[key]
            return predictor.predict(clicks(size))

        return self._thread.submit(compute).result()
