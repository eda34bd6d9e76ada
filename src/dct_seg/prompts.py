"""Conversion of Segment Anything's prompts, in (x, y)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dct_seg.clicks import PADDING, Click
from dct_seg.prediction import LARGEST_LOGIT

SAM_SIDE = 256
"""Side of the square of Segment Anything's logits, with the image at the top left."""


def clicks_of(
    coords: Sequence[Click] | ArrayLike | None,
    labels: ArrayLike | None = None,
    radii: ArrayLike | None = None,
    box: ArrayLike | None = None,
) -> list[Click]:
    """Convert a prompt to clicks, the box first.

    Args:
        coords: Clicks, or (N, 2) of (x, y) in pixels.
        labels: (N,) 1 object, 0 background, -1 padding; only with (N, 2).
        radii: (N,) drags in pixels, NaN for a click without a drag; only with (N, 2).
        box: (4,) left, top, right, bottom in pixels.

    Raises:
        ValueError: When the arguments do not fit each other.

    Examples:
        >>> clicks_of([[30, 20]], [0])
        [Click(row=20.0, col=30.0, positive=False, radius=None)]
        >>> clicks_of(None, box=[10, 20, 30, 60])
        [Click(row=40.0, col=20.0, positive=True, radius=10.0)]
    """
    first = [] if box is None else [_drag_of(box)]
    if coords is None:
        if labels is not None or radii is not None:
            raise ValueError("point_labels and point_radii need point_coords, got none; give point_coords")
        return first
    if isinstance(coords, Click):
        raise ValueError(f"predict needs a list of clicks, got one Click; write predict([{coords}])")
    coords = list(coords) if isinstance(coords, Iterator) else coords
    if isinstance(coords, Sequence) and any(isinstance(one, Click) for one in coords):
        for place, one in enumerate(coords):
            if not isinstance(one, Click):
                raise ValueError(f"a list of clicks may contain only Click, got {one!r} as number {place}")
    if isinstance(coords, Sequence) and coords and all(isinstance(one, Click) for one in coords):
        if labels is not None or radii is not None:
            raise ValueError("clicks have labels and radii already; omit point_labels and point_radii")
        return [*first, *(one for one in coords if isinstance(one, Click))]
    points = _array("point_coords", coords)
    points = points.reshape(0, 2) if points.shape == (0,) else points
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"point_coords must be (N, 2) of (x, y), got {points.shape}")
    if labels is None and len(points):
        raise ValueError("point_coords needs point_labels, (N,): 1 object, 0 background, -1 padding")
    signs = _array("point_labels", [] if labels is None else labels)
    drags = np.full(len(points), np.nan) if radii is None else _array("point_radii", radii)
    if signs.shape != (len(points),) or drags.shape != (len(points),):
        raise ValueError(
            f"{len(points)} points need as many labels and radii, got {signs.shape} and {drags.shape}"
        )
    if not np.isin(signs, (1, 0, PADDING)).all():
        unknown = sorted({sign for sign in signs.tolist() if sign not in (1, 0, PADDING)})
        raise ValueError(f"point_labels are 1 object, 0 background, -1 padding, got {unknown}")
    return [
        *first,
        *(
            Click(y, x, sign == 1, None if np.isnan(radius) else radius)
            for (x, y), sign, radius in zip(points.tolist(), signs.tolist(), drags.tolist(), strict=True)
            if sign != PADDING
        ),
    ]


def _drag_of(box: ArrayLike) -> Click:
    """Convert a box to the drag from its center to its nearest side."""
    sides = _array("box", box).reshape(-1)
    if sides.shape != (4,) or not (sides[0] < sides[2] and sides[1] < sides[3]):
        given = sides.tolist()
        raise ValueError(
            f"a box must be (left, top, right, bottom), left < right and top < bottom, got {given}"
        )
    left, top, right, bottom = sides.tolist()
    return Click((top + bottom) / 2, (left + right) / 2, radius=min(right - left, bottom - top) / 2)


def probabilities_of(logits: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """Convert the logits of an earlier result to probabilities, (H, W) float32.

    Args:
        logits: (1, H, W) or (H, W), or SAM's (1, 256, 256) with the image at its top left.
        size: (H, W) of the image.

    Raises:
        ValueError: When the logits have another shape, or are a mask.
    """
    given = np.asarray(logits)
    if given.dtype.kind in "bui":
        raise ValueError("mask_input takes logits of an earlier prediction; pass a mask to set_image(start=)")
    values = _array("mask_input", given)
    if np.isnan(values).any():
        raise ValueError("mask_input contains NaN; give the logits of an earlier prediction")
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.shape != size and values.shape == (SAM_SIDE, SAM_SIDE):
        height, width = (max(1, round(side * SAM_SIDE / max(size))) for side in size)
        values = np.asarray(
            cv2.resize(values[:height, :width], size[::-1], interpolation=cv2.INTER_LINEAR), np.float64
        )
    if values.shape != size:
        raise ValueError(
            f"mask_input must be (1, {size[0]}, {size[1]}), the logits of an earlier prediction for this "
            f"image, got {given.shape}"
        )
    probs = 1 / (1 + np.exp(-np.clip(values, -LARGEST_LOGIT, LARGEST_LOGIT)))
    probs[values <= -LARGEST_LOGIT] = 0
    return np.asarray(probs, np.float32)


def _array(name: str, values: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of numbers, got {type(values).__name__}: {error}"
        ) from error
