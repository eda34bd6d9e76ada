"""Radii of clicks without a drag, from the last mask and from clicks with the other label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click

ROOM_SHARE = 0.9  # radius relative to the distance to the mask's edge; removes the bias on held-out objects
GAP_SHARE = 0.5  # largest radius relative to the distance to a click with the other label
FIRST_REACH = 128  # half side in pixels of the first window that is searched for the mask's edge


def correction_radius(click: Click, mask: NDArray[np.bool_]) -> float | None:
    """Estimate the radius of a correction from the mask that it corrects.

    A correction lies in a wrong region, and all pixels of that region have the other label in the mask. The
    region therefore ends, at the latest, where the mask has the label of the click, or at the image's border.

    Args:
        click: Click inside the image.
        mask: (H, W) bool, the mask before the click.

    Returns:
        Radius in pixels; None if the mask already has the click's label under it, or nowhere.

    Examples:
        >>> mask = np.zeros((9, 30), bool)
        >>> mask[:, 20:] = True
        >>> round(correction_radius(Click(4, 16), mask), 6)  # 4 pixels from the mask
        3.6
        >>> correction_radius(Click(4, 25), mask)  # on the object already
    """
    row, col = (
        min(max(math.floor(at + 0.5), 0), size - 1)
        for at, size in zip((click.row, click.col), mask.shape, strict=True)
    )
    if mask[row, col] == click.positive or not (mask == click.positive).any():
        return None
    reach = FIRST_REACH
    while True:
        top, left = max(row - reach, 0), max(col - reach, 0)
        window = mask[top : row + reach + 1, left : col + reach + 1]
        room = _room_at(window != click.positive, row - top, col - left)
        # beyond a window that does not end at the image's border, the edge may be farther away
        if room <= reach or window.shape == mask.shape:
            return ROOM_SHARE * room
        reach *= 2


def with_correction_radii(clicks: Sequence[Click], mask: NDArray[np.bool_]) -> list[Click]:
    """Fill in the missing radii that the mask determines, see `correction_radius`.

    Args:
        clicks: Clicks in order.
        mask: (H, W) bool, the mask before the clicks without a radius.
    """
    return [
        replace(click, radius=radius, predicted_radius=True)
        if click.radius is None and (radius := correction_radius(click, mask)) is not None
        else click
        for click in clicks
    ]


def _room_at(wrong: NDArray[np.bool_], row: int, col: int) -> float:
    """Compute the distance in pixels to the nearest pixel that is not ``wrong`` or lies outside."""
    padded = np.pad(wrong, 1).view(np.uint8)
    return float(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[row + 1, col + 1])


def shorten_predicted_radii(clicks: Sequence[Click]) -> list[Click]:
    """Shorten predicted radii whose circles come too near to a click with the other label.

    The first radius is often that of a whole object where a part is meant. The next click, with the other
    label, shows it.

    Args:
        clicks: Clicks in order; the radii of drags do not change.

    Examples:
        >>> clicks = [Click(0, 0, radius=50.0, predicted_radius=True), Click(0, 40, False, radius=30.0)]
        >>> [click.radius for click in shorten_predicted_radii(clicks)]
        [20.0, 30.0]
    """
    return [
        replace(click, radius=min(click.radius, GAP_SHARE * _gap(click, clicks)))
        if click.radius is not None and click.predicted_radius
        else click
        for click in clicks
    ]


def _gap(click: Click, clicks: Sequence[Click]) -> float:
    """Compute the distance in pixels to the nearest click with the other label; infinite without one."""
    return min(
        (
            math.hypot(click.row - other.row, click.col - other.col)
            for other in clicks
            if other.positive != click.positive
        ),
        default=math.inf,
    )
