"""Predict in Python: set an image once, then ask for a mask after each click. No Lightning in the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dct_seg.clicks import Click
from dct_seg.interaction import take_step
from dct_seg.methods.base import Method, check_click, checked_image, has_object
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.models.network import InteractiveNetwork
from dct_seg.models.pretrained import DEFAULT
from dct_seg.prediction import Prediction, Timings
from dct_seg.prompts import clicks_of, probabilities_of
from dct_seg.session import Session, image_hash, read_session, write_session

HISTORY_BYTES = 2**28
"""Memory for the probabilities of earlier clicks; enough for twenty clicks on an image of 3 megapixels."""


@dataclass(frozen=True)
class _Turn:
    """A given click, all clicks up to it with their radii, and the nonzero probabilities after it."""

    given: Click
    used: tuple[Click, ...]
    corner: tuple[int, int]
    part: NDArray[np.float32] | None
    """None after eviction."""

    @classmethod
    def of(cls, given: Click, used: tuple[Click, ...], probs: NDArray[np.float32]) -> _Turn:
        left, top, width, height = cv2.boundingRect((probs > 0).view(np.uint8))
        if (height, width) == probs.shape:
            return cls(given, used, (0, 0), probs)  # not a copy: a method may recognize its own answers
        return cls(given, used, (top, left), probs[top : top + height, left : left + width].copy())

    def probs(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """(H, W) probabilities of the method."""
        assert self.part is not None
        (top, left), (height, width) = self.corner, self.part.shape
        if (height, width) == size:
            return self.part
        whole = np.zeros(size, np.float32)
        whole[top : top + height, left : left + width] = self.part
        return whole


class Predictor:
    """Segments one image at a time from clicks.

    ``predict`` is a pure function of the image and the ordered clicks. Results for a shared prefix of clicks
    are reused; the remaining clicks are replayed in order. A very large image keeps only the last results
    (``HISTORY_BYTES``), and an undo beyond them replays the clicks. Without a positive click or a start mask,
    the mask is empty.

    Threads may share a predictor: their calls are serialized. All of them work on the image that was set
    last. Threads with different images need one predictor each; the predictors may share a network.

    Attributes:
        timings: Time that the last ``set_image`` or ``predict`` took.

    Args:
        method: A network, which is put in evaluation mode, or any interactive segmentation method.
        threshold: Probability above which a pixel counts as object.

    Raises:
        ValueError: The threshold is no probability.

    Examples:
        >>> from dct_seg.methods import METHODS
        >>> predictor = Predictor(METHODS.get("disc")())
        >>> predictor.set_image(np.zeros((9, 9, 3), np.uint8))
        >>> int(predictor.click(4, 4, radius=1.2).mask.sum())
        5
        >>> predictor.undo().mask.any()
        np.False_
    """

    def __init__(self, method: InteractiveNetwork | Method, *, threshold: float = 0.5) -> None:
        self.method = DCTNetMethod(net=method) if isinstance(method, InteractiveNetwork) else method
        if not (isinstance(threshold, int | float | np.number) and 0 <= threshold <= 1):
            raise ValueError(f"threshold is a probability, 0 to 1, got {threshold!r}")
        self.threshold = float(threshold)
        self.timings = Timings()
        self._image: NDArray[np.uint8] | None = None
        self._start: NDArray[np.float32] | None = None
        self._turns: list[_Turn] = []
        """Cache of the answers to the clicks on this image; this class owns it."""
        self._clicks: tuple[Click, ...] = ()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = DEFAULT, *, threshold: float = 0.5, **options: Any
    ) -> Predictor:
        """A predictor with trained weights.

        Args:
            name_or_path: Name or path, see :meth:`DCTNet.from_pretrained`.
            threshold: Probability above which a pixel counts as object.
            options: Arguments of :class:`dct_seg.methods.dctnet.DCTNetMethod`, such as ``zoom_in=False``,
                ``device="cuda"``, ``revision="v1"``, or ``backend="onnx"`` for an export folder.

        Raises:
            FileNotFoundError: No file at a path.
            ValueError: Unknown name, or a file that is not one of ours.
        """
        return cls(DCTNetMethod(name_or_path, **options), threshold=threshold)

    def set_image(
        self,
        image: NDArray[Any],
        image_format: Literal["RGB", "BGR"] = "RGB",
        *,
        start: NDArray[np.bool_] | None = None,
    ) -> None:
        """Set an image and discard the earlier clicks.

        Args:
            image: (H, W, 3) uint8; (H, W) gray and (H, W, 4) with alpha are converted.
            image_format: Order of the three channels; OpenCV reads ``BGR``.
            start: (H, W) bool, the mask that the first click corrects; without clicks it is the answer.

        Raises:
            ValueError: When the image or the start is of another shape or type.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is 'RGB' or 'BGR', got {image_format!r}")
        rgb = checked_image(_rgb(image) if isinstance(image, np.ndarray) else image)
        rgb = (rgb[..., ::-1] if image_format == "BGR" else rgb).copy()  # the caller may modify its array
        before_first = None if start is None else _checked_start(start, rgb.shape[:2]).astype(np.float32)
        with self._lock:
            self._image = None
            self._turns = []
            self._clicks = ()
            before = self._now()
            self._tell_method(rgb)
            self.timings = self._since(before)
            self._image, self._start = rgb, before_first

    def predict(
        self,
        point_coords: Sequence[Click] | ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = False,
        *,
        point_radii: ArrayLike | None = None,
    ) -> Prediction:
        """The mask after all clicks, in order.

        They are given as a list of :class:`Click`, ``predict(clicks)``, or as ``SamPredictor`` takes them,
        in (x, y). The answer unpacks into SAM's ``masks, scores, logits``, of one mask.

        Args:
            point_coords: Clicks in pixels of the image, one without a radius gets it from the Auto-Drag-Head;
                or (N, 2) of (x, y), where an integer is a pixel's center.
            point_labels: (N,) 1 object, 0 background, -1 padding; only beside (N, 2).
            box: (4,) left, top, right, bottom: a drag from its center to its nearest side, before the points.
            mask_input: (1, H, W) logits of an earlier answer, the mask that the last click corrects. All
                clicks are then seen at once, as SAM does, instead of one after the other.
            multimask_output: For code written for SAM; there is one mask in any case.
            point_radii: (N,) drags in pixels, NaN for a click without; only beside (N, 2).

        Raises:
            RuntimeError: When no image is set.
            ValueError: When a click lies outside the image, or the arguments do not fit each other.
        """
        clicks = clicks_of(point_coords, point_labels, point_radii, box)
        with self._lock:
            image = self._image_or_error()
            size = (image.shape[0], image.shape[1])
            for click in clicks:
                check_click(click, size)
            before = self._now()
            if self.method.holder is not self:
                self._tell_method(image)
            if mask_input is None or not clicks:
                used, probs = self._replay(image, clicks)
            else:
                previous = probabilities_of(mask_input, size)
                used, probs = self._step(image, clicks, previous)
            self._clicks = tuple(clicks)
            mask = probs > self.threshold
            self.timings = timings = self._since(before)
        return Prediction(mask, probs, used, timings)

    def _tell_method(self, image: NDArray[np.uint8]) -> None:
        """Prepare the method for the image again, if another predictor has set its own since."""
        self.method.holder = None
        self.method.reset(image)
        self.method.holder = self

    def predict_batch(self, objects: Sequence[Sequence[Click]]) -> list[Prediction]:
        """The masks of several objects of the image, each as :meth:`predict` gives it alone.

        The first clicks of all objects are predicted together, then the second ones, and so on. The
        predictor's own clicks do not change.

        Args:
            objects: Clicks of each object, in order.

        Returns:
            One prediction for each object; its timings are those of the whole call.

        Raises:
            RuntimeError: When no image is set.
            ValueError: When a click lies outside the image.
        """
        with self._lock:
            image = self._image_or_error()
            size = (image.shape[0], image.shape[1])
            for click in (click for clicks in objects for click in clicks):
                check_click(click, size)
            began = self._now()
            if self.method.holder is not self:
                self._tell_method(image)
            used, probs = self._play_together(image, objects)
            self.timings = timings = self._since(began)
        return [
            Prediction(one > self.threshold, one, clicks, timings)
            for one, clicks in zip(probs, used, strict=True)
        ]

    def _play_together(
        self, image: NDArray[np.uint8], objects: Sequence[Sequence[Click]]
    ) -> tuple[list[tuple[Click, ...]], list[NDArray[np.float32]]]:
        """The clicks of each object with their radii, and its probabilities, for the caller to keep."""
        used: list[tuple[Click, ...]] = [()] * len(objects)
        probs: list[NDArray[np.float32] | None] = [self._start] * len(objects)
        for place in range(max((len(clicks) for clicks in objects), default=0)):
            active = [i for i, clicks in enumerate(objects) if place < len(clicks)]
            for i in active:
                used[i] = tuple(self.method.fill_radii([*used[i], objects[i][place]], probs[i]))
            answers = self.method.predict_many(image, [used[i] for i in active], [probs[i] for i in active])
            for i, answer in zip(active, answers, strict=True):
                probs[i] = answer
        empty = np.zeros(image.shape[:2], np.float32)
        return used, [empty.copy() if one is None else one.copy() for one in probs]

    def save_session(self, path: str | Path, *, image_name: str = "image") -> Path:
        """Write the clicks, the start mask and a hash of the image to a JSON file.

        The file is one line of the annotator's click log, which ``dct-seg predict --clicks`` reads.

        Args:
            path: Path of the file.
            image_name: Name of the image in the log.

        Raises:
            RuntimeError: When no image is set.
            ValueError: When there is neither a click nor a start mask.
        """
        with self._lock:
            image = self._image_or_error()
            used = self.predict(self._clicks).clicks
            start = None if self._start is None else self._start > 0.5
            session = Session(image_name, image_hash(image), self._clicks, used, self.threshold, start)
        return write_session(path, session)

    def load_session(self, path: str | Path) -> Prediction:
        """Resume a session of :meth:`save_session` on the current image.

        The file's start mask and threshold replace the predictor's. Predicted radii are kept, so
        that the mask is the same.

        Args:
            path: A file that ``save_session`` wrote.

        Raises:
            RuntimeError: When no image is set.
            FileNotFoundError: When there is no such file.
            ValueError: When the file is broken, or of another image.
        """
        session = read_session(path)
        with self._lock:
            if session.image_hash != image_hash(self._image_or_error()):
                raise ValueError(
                    f"'{path}' is a session on another image ('{session.image_name}'); set that image first"
                )
            self._turns = []
            self._start = None if session.start is None else session.start.astype(np.float32)
            self.threshold = session.threshold
            return self.predict(session.used)

    def _replay(
        self, image: NDArray[np.uint8], clicks: Sequence[Click]
    ) -> tuple[tuple[Click, ...], NDArray[np.float32]]:
        """The clicks with their radii, and the probabilities after the last one, for the caller to keep."""
        size = (image.shape[0], image.shape[1])
        self._keep(_num_common([turn.given for turn in self._turns], clicks))
        for click in clicks[len(self._turns) :]:
            previous = self._turns[-1].probs(size) if self._turns else self._start
            used, probs = self._step(image, [*self._used, click], previous)
            self._turns.append(_Turn.of(click, used, probs))
            self._forget_oldest()
        if not self._turns:
            return (), np.zeros(size, np.float32) if self._start is None else self._start.copy()
        probs = self._turns[-1].probs(size)
        return self._used, probs.copy() if probs is self._turns[-1].part else probs

    def _step(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> tuple[tuple[Click, ...], NDArray[np.float32]]:
        """Answer the last click, as :func:`take_step` does."""
        used, probs = take_step(self.method.fill_radii, partial(self._probs, image), clicks, previous)
        if probs.shape != image.shape[:2]:
            raise ValueError(f"the method returned {probs.shape}; wanted probabilities of {image.shape[:2]}")
        return tuple(used), probs

    def _probs(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        if not has_object(clicks, previous):
            return np.zeros(image.shape[:2], np.float32)
        return self.method.predict(image, clicks, previous)

    def click(
        self, row: float, col: float, *, positive: bool = True, radius: float | None = None
    ) -> Prediction:
        """The mask after one more click."""
        with self._lock:
            return self.predict([*self._clicks, Click(row, col, positive, radius)])

    def undo(self) -> Prediction:
        """The mask before the last click; without clicks, the start or the empty mask."""
        with self._lock:
            return self.predict(self._clicks[:-1])

    def reset(self) -> None:
        """Discard the clicks, keep the image."""
        with self._lock:
            self._image_or_error()
            self.predict([])

    @property
    def _used(self) -> tuple[Click, ...]:
        return self._turns[-1].used if self._turns else ()

    def _keep(self, count: int) -> None:
        """The first ``count`` turns.

        None if the last of them was evicted, because the earlier ones then were too.
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
    """A gray image three times over, one with alpha without it; anything else as it is."""
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image[..., :3] if image.ndim == 3 and image.shape[2] == 4 else image


def _checked_start(start: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    if not isinstance(start, np.ndarray) or start.dtype != np.bool_ or start.shape != size:
        given = f"{start.dtype} {start.shape}" if isinstance(start, np.ndarray) else type(start).__name__
        raise ValueError(f"start is a bool array of the image's size {size}, got {given}; pass mask > 0")
    return start


def _num_common(a: Sequence[Click], b: Sequence[Click]) -> int:
    """Number of clicks that both lists share at their start."""
    return next(
        (i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b))
    )
