"""Replay objects from their clicks, bit-identical to the annotator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.app.painting import Paint, painted
from dct_seg.app.working_image import WorkingImage
from dct_seg.clicks import Click
from dct_seg.files import BROKEN
from dct_seg.methods.base import Method
from dct_seg.predictor import Predictor
from dct_seg.rle import decode


@dataclass(frozen=True)
class ObjectClicks:
    """Object of a click log.

    Args:
        image: Name of its image, inside the folder that was annotated.
        number: Number of the object, unique in its image.
        label: Name of the class.
        clicks: Clicks in order, in pixels of the image.
        threshold: Probability above which a pixel counts as object.
        size: (height, width) of the image, or None if the log does not have it.
        start: Mask that the first click corrects, as a COCO run-length encoding; without clicks, the mask
            itself.
        removed: Pixels taken by other objects, as an encoding.
        earlier: Clicks and manual steps, in order, that made ``start``; they are replayed.
        origin: Mask that the first of ``earlier`` changed, as an encoding.
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


def read_click_log(path: str | Path) -> list[ObjectClicks]:
    """Read the objects of a click log, in the JSON Lines that the annotator exports.

    A line is an object: ``{"image": NAME, "clicks": [{"row", "col", "positive", "radius"}, …]}`` and, where
    known, ``object``, ``class``, ``threshold``, ``height``, ``width``, ``start``, ``removed``, ``earlier``
    and ``origin``.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When a line is something else; raised before any prediction.
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
            one = _object(json.loads(line), numbers)
        except BROKEN as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"line {place} of {path} is no object of a click log: {what}") from error
        if (one.image, one.number) in known:
            raise ValueError(f"line {place} of {path} is object {one.number} of {one.image} a second time")
        known.add((one.image, one.number))
        found.append(one)
    if not found:
        raise ValueError(f"{path} holds no object")
    return found


def _object(line: Any, numbers: dict[str, int]) -> ObjectClicks:
    image = str(line["image"])
    number = numbers[image] = int(line.get("object", numbers.get(image, 0) + 1))
    clicks = tuple(_click(one) for one in line["clicks"])
    if not clicks and line.get("start") is None:
        raise ValueError("it has neither clicks nor a mask to start from")
    threshold = float(line.get("threshold", 0.5))
    if not 0 < threshold < 1:
        raise ValueError(f"a threshold lies between 0 and 1, got {threshold}")
    size = (int(line["height"]), int(line["width"])) if "height" in line else None
    for mask in (line.get("start"), line.get("removed")):
        if mask is not None and not (len(mask["size"]) == 2 and isinstance(mask["counts"], (str, list))):
            raise ValueError("a mask is a run-length encoding, {size: [height, width], counts}")
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
    )


def _click(one: Mapping[str, Any]) -> Click:
    radius = one.get("radius")
    positive = one.get("positive", True)
    if not isinstance(positive, bool):
        raise TypeError(f"a click's positive is true or false, got {positive!r}")
    return Click(float(one["row"]), float(one["col"]), positive, None if radius is None else float(radius))


def replay(method: Method, picture: WorkingImage, objects: Sequence[ObjectClicks]) -> list[NDArray[np.bool_]]:
    """Predict the masks of an image's objects, each (H, W) bool of the full size.

    Args:
        method: Method that the clicks were made with; the same weights, precision and number of threads
            give the same bits.
        picture: Image at the annotator's working size.
        objects: Objects of this image.

    Raises:
        ValueError: When a click lies outside of the image, or an object belongs to one of another size.
    """
    for one in objects:
        if one.size is not None and one.size != picture.size:
            (height, width), (rows, cols) = one.size, picture.size
            raise ValueError(
                f"{one.image} is {cols}x{rows}, and was {width}x{height} when it was clicked on; give that "
                "picture"
            )
    plain = Predictor(method)
    plain.set_image(picture.image)
    return [_mask(plain, picture, one) for one in objects]


def _mask(plain: Predictor, picture: WorkingImage, one: ObjectClicks) -> NDArray[np.bool_]:
    start = None if one.start is None else _decoded(one.start, picture)
    if one.earlier:
        start = None if one.origin is None else _decoded(one.origin, picture)
    clicks: list[Click] = []
    for step in one.earlier:
        if isinstance(step, Click):
            clicks.append(step)
        else:
            start = painted(_predicted(plain, picture, clicks, start, step.threshold), step)
            clicks = []
    mask = _predicted(plain, picture, [*clicks, *one.clicks], start, one.threshold)
    return mask if one.removed is None else mask & ~_decoded(one.removed, picture)


def _predicted(
    plain: Predictor,
    picture: WorkingImage,
    clicks: Sequence[Click],
    start: NDArray[np.bool_] | None,
    threshold: float,
) -> NDArray[np.bool_]:
    """Mask after the clicks that correct ``start``; without clicks, the start itself."""
    if not clicks:
        return np.zeros(picture.size, bool) if start is None else start
    predictor = plain
    if start is not None:
        predictor = Predictor(plain.method)
        predictor.set_image(picture.image, start=picture.reduced(start))
    return picture.mask(predictor.predict([picture.click(click) for click in clicks]).probs, threshold)


def _decoded(rle: Mapping[str, Any], picture: WorkingImage) -> NDArray[np.bool_]:
    mask = decode(rle)
    if mask.shape != picture.size:
        raise ValueError(
            f"a mask of {mask.shape[1]}x{mask.shape[0]} belongs to another image than one of "
            f"{picture.size[1]}x{picture.size[0]}"
        )
    return mask
