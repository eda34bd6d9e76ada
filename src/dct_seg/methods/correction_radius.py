"""Radii of one image's clicks without a drag, by the rules of `dct_seg.click_radii`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dct_seg.click_radii import ROOM_SHARE, radius_in_mask, shorten_predicted
from dct_seg.clicks import Click, ClickBatch
from dct_seg.methods.base import pixel_under

FIRST_REACH = 128  # half side in pixels of the first window that is searched for the mask's edge


def correction_radius(click: Click, mask: NDArray[np.bool_]) -> float | None:
    """Estimate the radius of a correction from the mask that it corrects.

    Only the surroundings of the click are searched, as far as needed: an image may have many megapixels.

    Args:
        click: Click inside the image.
        mask: (H, W) bool, the mask before the click.

    Returns:
        Radius in pixels; None if the mask already has the click's label at the click, or has it nowhere.

    Examples:
        >>> mask = np.zeros((9, 30), bool)
        >>> mask[:, 20:] = True
        >>> round(correction_radius(Click(4, 16), mask), 5)  # 4 pixels from the mask
        3.6
    """
    row, col = pixel_under(click, (mask.shape[0], mask.shape[1]))
    if mask[row, col] == click.positive:
        return None
    reach = FIRST_REACH
    while True:
        top, left = max(row - reach, 0), max(col - reach, 0)
        window = mask[top : row + reach + 1, left : col + reach + 1]
        inside = ClickBatch.from_clicks([[Click(row - top, col - left, click.positive)]])
        radius = radius_in_mask(torch.from_numpy(window)[None], inside).item()
        # beyond a window that does not end at the image's border, the edge may be farther away
        if radius <= ROOM_SHARE * reach or window.shape == mask.shape:
            return None if math.isnan(radius) else radius
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


def shorten_predicted_radii(clicks: Sequence[Click]) -> list[Click]:
    """Shorten predicted radii whose circles come too near to a click with the other label.

    Args:
        clicks: Clicks in order; the radii of drags do not change.

    Examples:
        >>> clicks = [Click(0, 0, radius=50.0, predicted_radius=True), Click(0, 40, False, radius=30.0)]
        >>> [click.radius for click in shorten_predicted_radii(clicks)]
        [20.0, 30.0]
    """
    predicted = torch.tensor([[click.predicted_radius for click in clicks]])
    radii = shorten_predicted(ClickBatch.from_clicks([clicks]), predicted).radii[0].tolist()
    return [
        replace(click, radius=radius) if click.predicted_radius and radius < (click.radius or 0.0) else click
        for click, radius in zip(clicks, radii, strict=True)
    ]
