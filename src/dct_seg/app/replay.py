"""Replay of objects from their clicks, bit-identical to the annotator."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.app.painting import Paint, kept_outside, painted
from dct_seg.app.working_image import WorkingImage
from dct_seg.clicks import Click
from dct_seg.data.brightness import Window
from dct_seg.files import BROKEN, broken_reason
from dct_seg.methods.base import Method
from dct_seg.predictor import Predictor, predict_together
from dct_seg.rle import decode
from dct_seg.session import click_of_record


@dataclass(frozen=True)
class ObjectClicks:
    """Object recorded in a click log.

    Args:
        image: Name of its image, inside the folder that was annotated.
        number: Number of the object, unique in its image.
        label: Name of the class.
        clicks: Clicks in order, in pixels of the image.
        threshold: Probability above which a pixel counts as object.
        size: (height, width) of the image, or None if the log does not have it.
        start: Mask that the first click corrects, as a COCO run-length encoding; without clicks, the mask
            itself.
        removed: Pixels that belong to other objects, as a run-length encoding.
        earlier: Clicks and manual steps, in order, that produced ``start``; they are replayed.
        origin: Start mask of the first step in ``earlier``, as a run-length encoding.
        window: Window of the image at the time of the clicks, or None for the default rule.
    """

    image: str
    number: int
    label: str
    clicks: tuple[Click, ...]
    threshold: float = 0.5
    size: tuple[int, int] | None = None
    start: Mapping[str, Any] | None = None
    removed: Mapping[str, Any] | None = None
    earlier: tuple[Click | Paint, ...] = ()
    origin: Mapping[str, Any] | None = None
    window: Window | None = None


def read_click_log(path: str | Path) -> list[ObjectClicks]:
    """Read the objects of a click log, JSON Lines as exported by the annotator.

    A line is an object: ``{"image": NAME, "clicks": [{"row", "col", "positive", "radius"}, …]}`` and, where
    known, ``object``, ``class``, ``threshold``, ``height``, ``width``, ``start``, ``removed``, ``earlier``,
    ``origin`` and ``window``.

    Raises:
        FileNotFoundError: When the file does not exist.
        ValueError: When a line is not an object; raised before any prediction.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no click log {path}; the annotator exports one as clicks.jsonl")
    found: list[ObjectClicks] = []
    numbers: dict[str, int] = {}
    known: set[tuple[str, int]] = set()
    for place, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            one = object_of_line(json.loads(line), numbers)
        except BROKEN as error:
            what = broken_reason(error)
            raise ValueError(f"line {place} of {path} is not an object of a click log: {what}") from error
        if (one.image, one.number) in known:
            raise ValueError(
                f"line {place} of {path} repeats object {one.number} of {one.image}; remove one of the lines"
            )
        known.add((one.image, one.number))
        found.append(one)
    if not found:
        raise ValueError(f"{path} contains no object; export the click log again")
    return found


def object_of_line(line: Any, numbers: dict[str, int]) -> ObjectClicks:
    """Parse the object in a line of a click log.

    Args:
        line: Decoded JSON of the line.
        numbers: Number of the last object of each image; updated by this function.

    Raises:
        LookupError, TypeError, ValueError: When the line is not an object.
    """
    image = str(line["image"])
    number = numbers[image] = int(line.get("object", numbers.get(image, 0) + 1))
    clicks = tuple(_click(one) for one in line["clicks"])
    if not clicks and line.get("start") is None:
        raise ValueError("it must have clicks or a start mask")
    threshold = float(line.get("threshold", 0.5))
    if not 0 < threshold < 1:
        raise ValueError(f"a threshold must be between 0 and 1, got {threshold}")
    size = (int(line["height"]), int(line["width"])) if "height" in line else None
    for mask in (line.get("start"), line.get("removed")):
        if mask is not None and not (len(mask["size"]) == 2 and isinstance(mask["counts"], (str, list))):
            raise ValueError("a mask must be a run-length encoding {size: [height, width], counts}")
    return ObjectClicks(
        image,
        number,
        str(line.get("class", "object")),
        clicks,
        threshold,
        size,
        line.get("start"),
        line.get("removed"),
        tuple(Paint.read(step) if "kind" in step else _click(step) for step in line.get("earlier", ())),
        line.get("origin"),
        Window.stored(line.get("window")),
    )


def _click(one: Mapping[str, Any]) -> Click:
    positive = one.get("positive", True)
    if not isinstance(positive, bool):
        raise TypeError(f"a click's positive must be true or false, got {positive!r}")
    return click_of_record({"radius": None, "given": True, **one, "positive": positive})


def replay(method: Method, working: WorkingImage, objects: Sequence[ObjectClicks]) -> list[NDArray[np.bool_]]:
    """Predict the masks of an image's objects, each (H, W) bool of the full size.

    Args:
        method: Method that was used for the annotation; the same weights, precision and number of threads
            result in the same bits.
        working: Image at the annotator's working size.
        objects: Objects of this image, all with the window of ``working``.

    Raises:
        ValueError: When a click lies outside the image, or an object belongs to an image of another size.
    """
    plain = _image_predictor(method, working, objects)
    return [_mask(plain, working, one) for one in objects]


def replay_windows(
    method: Method, read: Callable[[Window | None], NDArray[np.uint8]], objects: Sequence[ObjectClicks]
) -> list[NDArray[np.bool_]]:
    """Predict the masks of an image's objects, each with its own window.

    Args:
        method: Method, see `replay`.
        read: Function from a window to the image, (H, W, 3) uint8.
        objects: Objects of this image, with any windows.
    """
    found: dict[int, NDArray[np.bool_]] = {}
    for window in dict.fromkeys(one.window for one in objects):
        places = [place for place, one in enumerate(objects) if one.window == window]
        image = WorkingImage.of(read(window))
        found |= dict(zip(places, replay(method, image, [objects[place] for place in places]), strict=True))
    return [found[place] for place in range(len(objects))]


def replay_together(
    shown: Sequence[tuple[Method, WorkingImage, Sequence[ObjectClicks]]], batch: int
) -> list[list[NDArray[np.bool_]]]:
    """Predict the masks of several images' objects; views of equal size share a forward pass.

    Masks are those of `replay` up to rounding. Objects that start from a mask are predicted alone.

    Args:
        shown: (method, image, objects) per image; the methods may share a network.
        batch: Number of objects that are predicted together.

    Raises:
        ValueError: When `replay` raises one for any of the images.
    """
    plain = [(_image_predictor(*one), one[1], one[2]) for one in shown]
    simple = [
        (predictor, working, one)
        for predictor, working, objects in plain
        for one in objects
        if one.start is None and not one.earlier
    ]
    masks: dict[int, NDArray[np.bool_]] = {}
    for some in (simple[at : at + batch] for at in range(0, len(simple), batch)):
        given = [(predictor, [working.click(c) for c in one.clicks]) for predictor, working, one in some]
        for (_, working, one), found in zip(some, predict_together(given), strict=True):
            masks[id(one)] = _without_removed(working.mask(found.probs, one.threshold), working, one)
    return [
        [masks[id(one)] if id(one) in masks else _mask(predictor, working, one) for one in objects]
        for predictor, working, objects in plain
    ]


def _image_predictor(method: Method, working: WorkingImage, objects: Sequence[ObjectClicks]) -> Predictor:
    """Make a predictor of the image without a start mask, after a check that the objects belong to it."""
    for one in objects:
        if one.size is not None and one.size != working.size:
            (height, width), (rows, cols) = one.size, working.size
            raise ValueError(
                f"{one.image} is {cols}x{rows}, but it was {width}x{height} when it was annotated; give the "
                "original image"
            )
    plain = Predictor(method)
    plain.set_image(working.image)
    return plain


def _mask(plain: Predictor, working: WorkingImage, one: ObjectClicks) -> NDArray[np.bool_]:
    start = None if one.start is None else _decoded(one.start, working)
    if one.earlier:
        start = None if one.origin is None else _decoded(one.origin, working)
    clicks: list[Click] = []
    for step in one.earlier:
        if isinstance(step, Click):
            clicks.append(step)
        else:
            after = _predicted(plain, working, clicks, start, step.threshold)
            if step.kind == "keep_outside":
                before = _predicted(plain, working, clicks[:-1], start, step.threshold)
                start = kept_outside(before, after, step.points[0])
            else:
                start = painted(after, step)
            clicks = []
    mask = _predicted(plain, working, [*clicks, *one.clicks], start, one.threshold)
    return _without_removed(mask, working, one)


def _without_removed(mask: NDArray[np.bool_], working: WorkingImage, one: ObjectClicks) -> NDArray[np.bool_]:
    return mask if one.removed is None else mask & ~_decoded(one.removed, working)


def _predicted(
    plain: Predictor,
    working: WorkingImage,
    clicks: Sequence[Click],
    start: NDArray[np.bool_] | None,
    threshold: float,
) -> NDArray[np.bool_]:
    """Predict the mask after clicks that correct ``start``; without clicks, return ``start``."""
    if not clicks:
        return np.zeros(working.size, bool) if start is None else start
    predictor = plain
    if start is not None:
        predictor = Predictor(plain.method)
        predictor.set_image(working.image, start=working.reduced(start))
    return working.mask(predictor.predict([working.click(click) for click in clicks]).probs, threshold)


def _decoded(rle: Mapping[str, Any], working: WorkingImage) -> NDArray[np.bool_]:
    mask = decode(rle)
    if mask.shape != working.size:
        raise ValueError(
            f"a mask is {mask.shape[1]}x{mask.shape[0]}, but the image is "
            f"{working.size[1]}x{working.size[0]}; give the original image"
        )
    return mask
