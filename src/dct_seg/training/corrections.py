"""Training on enlarged corrections: windows around one click, cut from a finer image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dct_seg.clicks import PADDING, ClickBatch
from dct_seg.simulation import NextClicks

SMALLEST_WINDOW = 0.25
"""Minimum side of a window as a fraction of the image's side; a window is enlarged at most four times."""


@dataclass(frozen=True)
class EnlargedCorrections:
    """One window per image of a batch, resized to the size of the image.

    Args:
        image: (B, 3, H, W) in 0..1.
        mask: (B, H, W) bool, the object.
        ignore: (B, H, W) bool, True for ignored pixels.
        previous: (B, 1, H, W) probabilities before the click.
        clicks: All clicks in pixels of the window; clicks outside it are padding.
        asked: Click to train on, in pixels of the window.
    """

    image: Tensor
    mask: Tensor
    ignore: Tensor
    previous: Tensor
    clicks: ClickBatch
    asked: NextClicks


def shrink_batch(batch: dict[str, Any], factor: int) -> dict[str, Any]:
    """Downsample a batch to ``1 / factor`` of its height and width: average images, subsample masks.

    Raises:
        ValueError: If the sides of the images are not multiples of ``factor``.
    """
    if factor == 1:
        return batch
    height, width = batch["image"].shape[2:]
    if height % factor or width % factor:
        raise ValueError(
            f"training crops must be a multiple of fine_factor {factor}, got {height}x{width}; set "
            f"data.crop_size to a multiple of {factor}"
        )
    middle = factor // 2
    small = {name: batch[name][:, middle::factor, middle::factor] for name in ("mask", "ignore")}
    return {**batch, **small, "image": F.avg_pool2d(batch["image"], factor)}


def enlarge_corrections(
    fine: dict[str, Any],
    asked: NextClicks,
    clicks: ClickBatch,
    previous: Tensor,
    *,
    reach: float,
    generator: torch.Generator | None = None,
) -> EnlargedCorrections:
    """Cut a window around the last click of each image and enlarge it.

    Args:
        fine: Batch whose ``image`` (B, 3, F H, F W), ``mask`` and ``ignore`` (B, F H, F W) are F times as
            fine as ``previous``.
        asked: Last click of each image, in pixels of ``previous``.
        clicks: All clicks, including the last one, in pixels of ``previous``.
        previous: (B, 1, H, W) probabilities before the click; H equals W.
        reach: Half of a window's side, in drag radii.
        generator: Random generator for the windows' size and position.
    """
    size = (previous.shape[2], previous.shape[3])
    chance = torch.rand(len(previous), 3, generator=generator).to(previous.device)
    windows = correction_windows(asked.coords, asked.true_radii, size, reach=reach, chance=chance)
    side = size[0]
    image = cut_windows(fine["image"], windows, side, of=size)
    mask, ignore = (
        cut_windows(fine[name][:, None].float(), windows, side, of=size, mode="nearest")[:, 0] > 0.5
        for name in ("mask", "ignore")
    )
    enlarged = clicks_in_windows(clicks, windows, side)
    return EnlargedCorrections(
        image.contiguous(memory_format=torch.channels_last),
        mask,
        ignore,
        cut_windows(previous, windows, side, of=size),
        enlarged,
        replace(
            asked,
            coords=enlarged.coords[:, -1],
            radii=enlarged.radii[:, -1],
            true_radii=asked.true_radii * side / windows[:, 2],
        ),
    )


def correction_windows(
    coords: Tensor, radii: Tensor, size: tuple[int, int], *, reach: float, chance: Tensor
) -> Tensor:
    """Choose a square window around one click per image, inside the image.

    Args:
        coords: Clicks in pixels, (B, 2).
        radii: Drag radii in pixels, (B,).
        size: (H, W) of the image.
        reach: Half of a window's side, in radii.
        chance: (B, 3) uniform numbers in 0..1: they scale the side by 0.7 to 1.4 and shift the center by up
            to a sixth of the side.

    Returns:
        (B, 3) float32: top, left and side in pixels.

    Examples:
        >>> middle = torch.full((1, 3), 0.5)
        >>> click, radius = torch.tensor([[49.5, 59.5]]), torch.tensor([5.0])
        >>> correction_windows(click, radius, (100, 100), reach=4, chance=middle).round(decimals=1)
        tensor([[30.2000, 40.2000, 39.6000]])
    """
    smallest, largest = SMALLEST_WINDOW * min(size), float(min(size))
    side = (2 * reach * radii * 0.7 * 2.0 ** chance[:, 0]).clamp(smallest, largest)
    center = coords + 0.5 + side[:, None] * (chance[:, 1:] - 0.5) / 3
    limit = torch.stack([size[0] - side, size[1] - side], 1)
    corner = torch.minimum((center - side[:, None] / 2).clamp(min=0), limit)
    return torch.cat([corner, side[:, None]], 1)


def cut_windows(
    x: Tensor, windows: Tensor, size: int, *, of: tuple[int, int], mode: str = "bilinear"
) -> Tensor:
    """Resize each image's window to a square.

    Args:
        x: Images, (B, C, h, w) float, which may be finer or coarser than the pixels of ``windows``.
        windows: (B, 3) top, left and side, in pixels of an image of size ``of``.
        size: Side of the result in pixels.
        of: (H, W) of the image to which ``windows`` refers.
        mode: ``bilinear`` or ``nearest``.

    Returns:
        (B, C, size, size).
    """
    steps = (torch.arange(size, device=x.device, dtype=torch.float32) + 0.5) / size
    rows = (windows[:, :1] + steps * windows[:, 2:]) / of[0] * 2 - 1  # (B, size), -1..1 from edge to edge
    cols = (windows[:, 1:2] + steps * windows[:, 2:]) / of[1] * 2 - 1
    grid = torch.stack([cols[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], -1)
    return F.grid_sample(x.float(), grid, mode=mode, padding_mode="border", align_corners=False)


def clicks_in_windows(clicks: ClickBatch, windows: Tensor, size: int) -> ClickBatch:
    """Convert clicks to pixels of the resized windows; a click outside its window becomes padding.

    Args:
        clicks: (B, N) clicks.
        windows: (B, 3) top, left and side in the clicks' pixels.
        size: Side of a resized window in pixels.
    """
    scale = size / windows[:, 2:]  # (B, 1)
    coords = (clicks.coords + 0.5 - windows[:, None, :2]) * scale[..., None] - 0.5
    inside = ((coords > -0.5) & (coords < size - 0.5)).all(-1)
    return ClickBatch(coords, torch.where(inside, clicks.labels, PADDING), clicks.radii * scale)
