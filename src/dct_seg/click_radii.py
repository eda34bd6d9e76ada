"""Radii of clicks without a drag, from the last mask and from clicks with the other label."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dct_seg.clicks import PADDING, ClickBatch

RadiusSource = Literal["head", "mask"]
"""Source of the radius of a click without a drag."""
ROOM_SHARE = 0.9  # radius relative to the distance to the mask's edge; removes the bias on held-out objects
GAP_SHARE = 0.5  # largest radius relative to the distance to a click with the other label


def radius_in_mask(mask: Tensor, clicks: ClickBatch) -> Tensor:
    """Estimate the radius of each image's last click from the mask that it corrects.

    A correction lies in a wrong region, and all pixels of that region have the other label in the mask. The
    region therefore ends, at the latest, where the mask has the label of the click, or at the image's border.

    Args:
        mask: (B, H, W) bool, the mask before the click.
        clicks: (B, N) clicks in pixels; at least one per image.

    Returns:
        (B,) float32, radii in pixels; NaN for padding, and where the mask already has the click's label at
        the click, or has it nowhere.

    Examples:
        >>> from dct_seg import Click
        >>> mask = torch.zeros(1, 9, 30, dtype=torch.bool)
        >>> mask[:, :, 20:] = True
        >>> radius_in_mask(mask, ClickBatch.from_clicks([[Click(4, 16)]]))  # 4 pixels from the mask
        tensor([3.6000])
        >>> radius_in_mask(mask, ClickBatch.from_clicks([[Click(4, 25)]]))  # on the object already
        tensor([nan])
    """
    height, width = mask.shape[1:]
    row, col = clicks.pixels((height, width))[:, -1].to(clicks.coords).unbind(1)  # (B,)
    rows = torch.arange(height, device=mask.device)[:, None] - row[:, None, None]
    cols = torch.arange(width, device=mask.device) - col[:, None, None]
    label = clicks.labels[:, -1]
    is_right = mask == (label == 1)[:, None, None]
    squared = torch.where(is_right, rows**2 + cols**2, math.inf).flatten(1).amin(1)
    border = torch.stack([row + 1, col + 1, height - row, width - col]).amin(0)
    is_known = (squared > 0) & squared.isfinite() & (label != PADDING)
    return torch.where(is_known, ROOM_SHARE * torch.minimum(squared.sqrt(), border), math.nan)


def shorten_predicted(clicks: ClickBatch, predicted: Tensor) -> ClickBatch:
    """Shorten predicted radii whose circles come too near to a click with the other label.

    The first radius is often that of a whole object where a part is meant. The next click, with the other
    label, shows it.

    Args:
        clicks: (B, N) clicks in pixels.
        predicted: (B, N) bool, True for a radius that the user did not give; others do not change.

    Examples:
        >>> from dct_seg import Click
        >>> clicks = ClickBatch.from_clicks([[Click(0, 0, radius=50.0), Click(0, 40, False, radius=30.0)]])
        >>> shorten_predicted(clicks, torch.tensor([[True, False]])).radii
        tensor([[20., 30.]])
    """
    if clicks.labels.shape[1] == 0:
        return clicks
    distances = (clicks.coords[:, :, None] - clicks.coords[:, None]).norm(dim=-1)  # (B, N, N)
    valid = clicks.valid
    is_other = (clicks.labels[:, :, None] != clicks.labels[:, None]) & valid[:, :, None] & valid[:, None]
    gaps = torch.where(is_other, distances, math.inf).amin(-1)
    shorter = torch.minimum(clicks.radii, GAP_SHARE * gaps)
    return clicks.with_radii(torch.where(predicted, shorter, clicks.radii))
