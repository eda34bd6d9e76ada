"""Predictor session with one object, stored as JSON: one line of the annotator's click log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg import rle
from dct_seg.clicks import Click
from dct_seg.files import broken_reason, write_whole
from dct_seg.ranges import check_number


@dataclass(frozen=True)
class Session:
    """State of a predictor.

    Args:
        image_name: Name of the image.
        image_hash: Result of `image_hash`.
        given: Clicks as the user made them; equal to ``used`` when read from a file.
        used: Same clicks with their effective radii.
        threshold: Probability above which a pixel counts as object.
        start: (H, W) bool, the mask that the first click corrects, or None.
    """

    image_name: str
    image_hash: str
    given: tuple[Click, ...]
    used: tuple[Click, ...]
    threshold: float
    start: NDArray[np.bool_] | None = None


def image_hash(image: NDArray[np.uint8]) -> str:
    """Hash an image's height, width and pixels with SHA-256.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    return hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}".encode() + image.tobytes()).hexdigest()


def write_session(path: str | Path, session: Session) -> Path:
    """Write a session as one line of JSON.

    Raises:
        ValueError: When the session has neither a click nor a start mask.
    """
    if not session.used and session.start is None:
        raise ValueError("there is no click and no start mask to save; make a click first")
    line = {
        "image": session.image_name,
        "image_sha256": session.image_hash,
        "object": 1,
        "class": "object",
        "threshold": session.threshold,
        "clicks": [
            {
                "row": click.row,
                "col": click.col,
                "positive": click.positive,
                "radius": click.radius,
                "given": given.is_drag,
            }
            for given, click in zip(session.given, session.used, strict=True)
        ],
        "start": None if session.start is None else rle.encode(session.start),
    }
    return write_whole(path, json.dumps(line, allow_nan=False) + "\n")


def read_session(path: str | Path) -> Session:
    """Read a session.

    Raises:
        FileNotFoundError: When the file does not exist.
        ValueError: When the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no session '{path}'; Predictor.save_session writes one")
    try:
        line = json.loads(path.read_text(encoding="utf-8"))
        used = tuple(click_of_record({"given": True, **one}) for one in line["clicks"])
        start = None if line.get("start") is None else rle.decode(line["start"])
        threshold = float(line["threshold"])
        check_number("threshold", threshold, above=0, below=1, unit="a probability")
        return Session(str(line["image"]), str(line["image_sha256"]), used, used, threshold, start)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = broken_reason(error)
        raise ValueError(f"'{path}' is not a session of a predictor: {what}") from error


def check_session(path: str | Path, session: Session, image: NDArray[np.uint8]) -> None:
    """Check that a session belongs to an image and fits it.

    Args:
        path: File of the session, for the error.
        session: Session to check.
        image: (H, W, 3) uint8 RGB.

    Raises:
        ValueError: When the session belongs to another image, or its start mask does not fit.
    """
    if session.image_hash != image_hash(image):
        raise ValueError(
            f"'{path}' is a session on another image ('{session.image_name}'); set that image first"
        )
    size = (image.shape[0], image.shape[1])
    if session.start is not None and session.start.shape != size:
        raise ValueError(f"'{path}' is damaged: its start mask is {session.start.shape}, its image {size}")


def click_of_record(record: Mapping[str, Any]) -> Click:
    """Read a click of a session or a click log.

    Args:
        record: ``row``, ``col``, ``positive``, ``radius``, and ``given``: False if the radius was predicted.
    """
    radius = None if record["radius"] is None else float(record["radius"])
    is_given = bool(record["given"])
    return Click(
        float(record["row"]),
        float(record["col"]),
        bool(record["positive"]),
        radius,
        predicted_radius=radius is not None and not is_given,
    )
