"""Prediction in Python: set an image once, then a mask after each click. Lightning is not imported."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dct_seg.clicks import Click
from dct_seg.interaction import take_step
from dct_seg.methods.base import Answer, Method, Question, check_click, checked_image, has_object
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.views import View, covered_view
from dct_seg.models.network import InteractiveNetwork
from dct_seg.models.pretrained import DEFAULT
from dct_seg.prediction import Prediction, Timings
from dct_seg.prompts import clicks_of, probabilities_of
from dct_seg.session import Session, check_session, image_hash, read_session, write_session

HISTORY_BYTES = 2**28
"""Memory for the probabilities of earlier clicks; enough for twenty clicks on an image of 3 megapixels."""


@dataclass(frozen=True)
class _Step:
    """Step: the given click, all clicks up to it with their radii, and the probabilities after it."""

    given: Click
    used: tuple[Click, ...]
    corner: tuple[int, int]
    part: NDArray[np.float32] | None
    """Probabilities after this step, or None after their eviction."""
    view: View | None

    @classmethod
    def of(cls, given: Click, used: tuple[Click, ...], answer: Answer) -> _Step:
        probs = answer.probs
        left, top, width, height = cv2.boundingRect((probs > 0).view(np.uint8))
        if (height, width) == probs.shape:  # not a copy, since a method may recognize its own results
            return cls(given, used, (0, 0), probs, answer.view)
        part = probs[top : top + height, left : left + width].copy()
        return cls(given, used, (top, left), part, answer.view)

    def answer(self, size: tuple[int, int]) -> Answer:
        """Result of the method, with (H, W) probabilities."""
        assert self.part is not None
        (top, left), (height, width) = self.corner, self.part.shape
        if (height, width) == size:
            return Answer(self.part, self.view)
        whole = np.zeros(size, np.float32)
        whole[top : top + height, left : left + width] = self.part
        return Answer(whole, self.view)


class Predictor:
    """Predictor of masks from clicks on one image at a time.

    ``predict`` is a pure function of the image and the ordered clicks. Results for a shared prefix of clicks
    are reused; the remaining clicks are replayed in order. A very large image keeps only the last results
    (``HISTORY_BYTES``), and an undo beyond them replays the clicks. Without a positive click or a start mask,
    the mask is empty.

    Threads may share a predictor: their calls are serialized. All of them work on the image that was set
    last. Threads with different images need one predictor each; the predictors may share a network.

    Attributes:
        timings: Duration of the last ``set_image`` or ``predict``.

    Args:
        method: A network, which is put in evaluation mode, or any interactive segmentation method.
        threshold: Probability above which a pixel counts as object.

    Raises:
        ValueError: When the threshold is not a probability.

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
        is_number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
        if not (is_number and 0 <= threshold <= 1):
            raise ValueError(f"threshold must be a probability, 0 to 1, got {threshold!r}")
        self.threshold = float(threshold)
        self.timings = Timings()
        self._image: NDArray[np.uint8] | None = None
        self._start: Answer | None = None
        self._turns: list[_Step] = []
        """Cache of the results for the clicks on this image; this class owns it."""
        self._clicks: tuple[Click, ...] = ()
        self._has_mask_input = False
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
        """Make a predictor with trained weights.

        Args:
            name_or_path: Name or path, see `DCTNet.from_pretrained`.
            threshold: Probability above which a pixel counts as object.
            options: Arguments of `dct_seg.methods.dctnet.DCTNetMethod`, such as ``zoom_in=False``,
                ``device="cuda"``, ``revision="v1"``, or ``backend="onnx"`` for an export folder.

        Raises:
            FileNotFoundError: When the file does not exist.
            ValueError: When the name is unknown, or the file is not one of dct-seg.
        """
        return cls(DCTNetMethod(name_or_path, **options), threshold=threshold)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the network's weights to the Hugging Face Hub; returns the URL of the commit.

        Args:
            repo_id: ``org/name``; created if missing.
            options: Arguments of `InteractiveNetwork.push_to_hub`, such as ``private=True``.

        Raises:
            ValueError: When the method has no network with weights, such as an export.
        """
        net = getattr(self.method, "net", None)
        if not isinstance(net, InteractiveNetwork):
            given = type(self.method if net is None else net).__name__
            raise ValueError(
                f"push_to_hub uploads the weights of a network, but this predictor runs {given}; "
                "load the weights with Predictor.from_pretrained(WEIGHTS)"
            )
        return net.push_to_hub(repo_id, **options)

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
            start: Mask that the first click corrects, (H, W) bool; without clicks it is the result.

        Raises:
            ValueError: When the image or the start is of another shape or type.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
        rgb = checked_image(_rgb(image) if isinstance(image, np.ndarray) else image)
        rgb = (rgb[..., ::-1] if image_format == "BGR" else rgb).copy()  # the caller may modify its array
        before_first = None if start is None else _start_answer(_checked_start(start, rgb.shape[:2]))
        with self._lock:
            self._image = None
            self._turns, self._clicks, self._has_mask_input = [], (), False
            before = self._now()
            self._prepare_method(rgb)
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
        """Predict the mask after all clicks, in order.

        Pass a list of `Click`, ``predict(clicks)``, or the arguments of ``SamPredictor``, in (x, y).
        The result unpacks into SAM's ``masks, scores, logits`` of one mask.

        Args:
            point_coords: Clicks in pixels of the image, whose missing radii the method predicts;
                or (N, 2) of (x, y), where an integer is a pixel's center.
            point_labels: (N,) 1 object, 0 background, -1 padding; only with (N, 2).
            box: (4,) left, top, right, bottom: a drag from its center to its nearest side, before the points.
            mask_input: (1, H, W) logits of an earlier prediction, the mask that the last click corrects. All
                clicks are then applied at once, as in SAM, instead of one after the other. A later `click`
                or `undo` ignores this mask, and a session cannot store it; ``set_image(start=)`` does both.
            multimask_output: Ignored, for compatibility with SAM; there is always one mask.
            point_radii: (N,) drags in pixels, NaN for a click without a drag; only with (N, 2).

        Raises:
            RuntimeError: When no image is set.
            ValueError: When a click lies outside the image, or the arguments do not fit each other.
        """
        clicks = clicks_of(point_coords, point_labels, point_radii, box)
        with self._lock:
            before = self._now()
            image = self._prepare(clicks)
            self._has_mask_input = mask_input is not None and bool(clicks)
            if mask_input is None or not clicks:
                used, answer = self._replay(image, clicks)
            else:
                probs = probabilities_of(mask_input, (image.shape[0], image.shape[1]))
                used, answer = self._step(image, clicks, Answer(probs, covered_view(probs)))
            self._clicks = tuple(clicks)
            mask = answer.probs > self.threshold
            self.timings = timings = self._since(before)
        return Prediction(mask, answer.probs, used, timings, answer.view)

    def _prepare_method(self, image: NDArray[np.uint8]) -> None:
        """Prepare the method for the image again if another predictor has set its own in the meantime."""
        self.method.holder = None
        self.method.reset(image)
        self.method.holder = self

    def predict_batch(self, objects: Sequence[Sequence[Click]]) -> list[Prediction]:
        """Predict the masks of several objects of the image, each equal to that of `predict`.

        The first clicks of all objects are predicted together, then the second ones, and so on. The
        predictor's own clicks do not change.

        Args:
            objects: Clicks of each object, in order.

        Returns:
            One prediction per object; its timings are those of the whole call.

        Raises:
            RuntimeError: When no image is set.
            ValueError: When a click lies outside the image.
        """
        return predict_together([(self, clicks) for clicks in objects])

    def _prepare(self, clicks: Sequence[Click]) -> NDArray[np.uint8]:
        """Make the image current in the method and check the clicks on it."""
        image = self._image_or_error()
        for click in clicks:
            check_click(click, (image.shape[0], image.shape[1]))
        if self.method.holder is not self:
            self._prepare_method(image)
        return image

    def save_session(self, path: str | Path, *, image_name: str = "image") -> Path:
        """Write the clicks, the start mask and a hash of the image to a JSON file.

        The file is one line of the annotator's click log, which ``dct-seg predict --clicks`` reads.

        Args:
            path: Path of the file.
            image_name: Name of the image in the log.

        Raises:
            RuntimeError: When no image is set.
            ValueError: When there is nothing to save, or the last prediction used ``mask_input``.
        """
        with self._lock:
            image = self._image_or_error()
            if self._has_mask_input:
                raise ValueError(
                    "the last prediction used mask_input, which a session does not store; give the mask as "
                    "set_image(image, start=mask), which it stores"
                )
            used = self.predict(self._clicks).clicks
            start = None if self._start is None else self._start.probs > 0.5
            session = Session(image_name, image_hash(image), self._clicks, used, self.threshold, start)
        return write_session(path, session)

    def load_session(self, path: str | Path) -> Prediction:
        """Resume a session of `save_session` on the current image.

        The file's start mask and threshold replace the predictor's. Predicted radii are kept, so
        that the mask is the same.

        Args:
            path: File written by ``save_session``.

        Raises:
            RuntimeError: When no image is set.
            FileNotFoundError: When the file does not exist.
            ValueError: When the file is damaged, or belongs to another image.
        """
        session = read_session(path)
        with self._lock:
            image = self._image_or_error()
            check_session(path, session, image)
            for click in session.used:
                check_click(click, (image.shape[0], image.shape[1]))
            start = None if session.start is None else _start_answer(session.start)
            self._turns, self._start, self.threshold = [], start, session.threshold
            return self.predict(session.used)

    def _replay(self, image: NDArray[np.uint8], clicks: Sequence[Click]) -> tuple[tuple[Click, ...], Answer]:
        """Return the clicks with their radii, and the last result, as copies for the caller."""
        size = (image.shape[0], image.shape[1])
        self._keep(_num_common([turn.given for turn in self._turns], clicks))
        for click in clicks[len(self._turns) :]:
            previous = self._turns[-1].answer(size) if self._turns else self._start
            used, answer = self._step(image, [*self._used, click], previous)
            self._turns.append(_Step.of(click, used, answer))
            self._forget_oldest()
        if not self._turns:
            return (), _empty_answer(image) if self._start is None else _copied(self._start)
        answer = self._turns[-1].answer(size)
        return self._used, _copied(answer) if answer.probs is self._turns[-1].part else answer

    def _step(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: Answer | None
    ) -> tuple[tuple[Click, ...], Answer]:
        """Predict after the last click, by `take_step`."""
        used, answer = take_step(self._filled, partial(self._answer, image), tuple(clicks), previous)
        return used, _checked_answer(answer, image)

    def _filled(self, clicks: Sequence[Click], previous: Answer | None) -> tuple[Click, ...]:
        """Fill in the method's radii."""
        return tuple(self.method.fill_radii(clicks, None if previous is None else previous.probs))

    def _answer(self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: Answer | None) -> Answer:
        if not _has_object(clicks, previous):
            return _empty_answer(image)
        return self.method.answer(image, clicks, previous)

    def click(
        self, row: float, col: float, *, positive: bool = True, radius: float | None = None
    ) -> Prediction:
        """Add a click and predict the mask."""
        with self._lock:
            return self.predict([*self._clicks, Click(row, col, positive, radius)])

    def undo(self) -> Prediction:
        """Undo the last click and return the mask before it; without clicks, the start or the empty mask."""
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
        """Keep the first ``count`` steps; drop all of them if the last one was evicted."""
        del self._turns[count:]
        if self._turns and self._turns[-1].part is None:
            self._turns.clear()

    def _forget_oldest(self) -> None:
        """Drop the oldest probabilities until those before the last click fit ``HISTORY_BYTES``."""
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


def predict_together(objects: Sequence[tuple[Predictor, Sequence[Click]]]) -> list[Prediction]:
    """Predict the masks of objects of several images, each equal to that of `Predictor.predict`.

    The first clicks of all objects are predicted together, then the second ones, and so on. Views of one size
    share a forward pass if the predictors share a network. The predictors' own clicks do not change.

    Args:
        objects: Pairs of the predictor of the object's image, and the object's clicks in order.

    Returns:
        One prediction per object; its timings are those of the whole call.

    Raises:
        RuntimeError: When a predictor has no image.
        ValueError: When a click lies outside its image, or two predictors share a method.
    """
    predictors = {id(predictor): predictor for predictor, _ in objects}
    if len({id(predictor.method) for predictor in predictors.values()}) < len(predictors):
        raise ValueError(
            "predictors of several images need one method each; make them with "
            "Predictor(DCTNetMethod(net=net)), which share the network"
        )
    with ExitStack() as held:
        for _, predictor in sorted(predictors.items()):
            held.enter_context(predictor._lock)
        before = [predictor._now() for predictor in predictors.values()]
        images = [predictor._prepare(clicks) for predictor, clicks in objects]
        used, answers = _play_together(objects, images)
        spent = [one._since(at) for one, at in zip(predictors.values(), before, strict=True)]
        encode, total = sum(one.encode for one in spent), max((one.total for one in spent), default=0.0)
        timings = Timings(encode, total - encode)
        for predictor in predictors.values():
            predictor.timings = timings
    return [
        Prediction(one.probs > predictor.threshold, one.probs, clicks, timings, one.view)
        for (predictor, _), one, clicks in zip(objects, answers, used, strict=True)
    ]


def _play_together(
    objects: Sequence[tuple[Predictor, Sequence[Click]]], images: Sequence[NDArray[np.uint8]]
) -> tuple[list[tuple[Click, ...]], list[Answer]]:
    """Return each object's clicks with their radii, and its result, as copies for the caller."""
    used: list[tuple[Click, ...]] = [()] * len(objects)
    found: list[Answer | None] = [predictor._start for predictor, _ in objects]
    for place in range(max((len(clicks) for _, clicks in objects), default=0)):
        questions: dict[int, Question] = {}
        for i, (predictor, clicks) in enumerate(objects):
            if place >= len(clicks):
                continue
            used[i] = predictor._filled([*used[i], clicks[place]], found[i])
            if _has_object(used[i], found[i]):
                questions[i] = Question(predictor.method, images[i], used[i], found[i])
            else:
                found[i] = _empty_answer(images[i])
        answers = objects[0][0].method.answer_many(list(questions.values())) if questions else []
        for i, answer in zip(questions, answers, strict=True):
            found[i] = _checked_answer(answer, images[i])
    return used, [
        _empty_answer(image) if one is None else _copied(one)
        for one, image in zip(found, images, strict=True)
    ]


def _has_object(clicks: Sequence[Click], previous: Answer | None) -> bool:
    return has_object(clicks, None if previous is None else previous.probs)


def _empty_answer(image: NDArray[np.uint8]) -> Answer:
    return Answer(np.zeros(image.shape[:2], np.float32))


def _checked_answer(answer: Answer, image: NDArray[np.uint8]) -> Answer:
    if answer.probs.shape != image.shape[:2]:
        raise ValueError(
            f"the method returned {answer.probs.shape}; expected probabilities of {image.shape[:2]}"
        )
    return answer


def _rgb(image: NDArray[Any]) -> NDArray[Any]:
    """Convert gray images to RGB and drop alpha; leave anything else unchanged."""
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image[..., :3] if image.ndim == 3 and image.shape[2] == 4 else image


def _checked_start(start: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    if not isinstance(start, np.ndarray) or start.dtype != np.bool_ or start.shape != size:
        given = f"{start.dtype} {start.shape}" if isinstance(start, np.ndarray) else type(start).__name__
        raise ValueError(f"start must be a bool array of the image's size {size}, got {given}; pass mask > 0")
    return start


def _start_answer(start: NDArray[np.bool_]) -> Answer:
    return Answer(start.astype(np.float32))


def _copied(answer: Answer) -> Answer:
    return Answer(answer.probs.copy(), answer.view)


def _num_common(a: Sequence[Click], b: Sequence[Click]) -> int:
    """Count the clicks of the common prefix."""
    return next(
        (i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b))
    )
