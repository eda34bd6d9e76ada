"""Cache of predictors for recently used images, so that further clicks on them are cheap."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dct_seg.adapters.gestures import Size
from dct_seg.export.cache import load_for
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.exported import Backend
from dct_seg.models.pretrained import DEFAULT
from dct_seg.predictor import Predictor


class Predictors:
    """Cache of one predictor per image; predictions run one at a time, since they would share the cores.

    Args:
        make: Factory of predictors; they may share a network.
        keep: Number of images with cached predictors.
    """

    def __init__(self, make: Callable[[], Predictor], *, keep: int = 4) -> None:
        self._make = make
        self._keep = keep
        self._kept: OrderedDict[Hashable, tuple[Predictor, Size]] = OrderedDict()
        self._lock = threading.Lock()

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

    @contextmanager
    def on(
        self,
        key: Hashable,
        load: Callable[[], NDArray[np.uint8]],
        *,
        start: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[Predictor, Size]]:
        """Get the predictor of an image and the image's (height, width), locked during a ``with`` block.

        Args:
            key: Key of the image and the start mask.
            load: Function that loads the image, (H, W, 3); called only on a cache miss.
            start: Mask that the first click corrects, (H, W) bool, or None.
        """
        with self._lock:
            known = key in self._kept
        image = None if known else load()  # a download must not block the others
        with self._lock:
            if key not in self._kept:
                predictor = self._make()
                image = load() if image is None else image
                predictor.set_image(image, start=start)
                self._kept[key] = predictor, (image.shape[0], image.shape[1])
            self._kept.move_to_end(key)
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
            yield self._kept[key]
