"""Click encoder in a separate package, which draws the end of each drag."""

from __future__ import annotations

import torch
from torch import Tensor

from dct_seg import ClickBatch, ClickEncoder


class Ring(ClickEncoder):
    """Ring at the end of each drag.

    1 where a pixel's distance from the click equals the drag's length, falling to 0 on both sides.

    Args:
        width: Pixels from the ring at which the map has fallen to 0.

    Examples:
        >>> from dct_seg import Click
        >>> maps = Ring(width=2.0)(ClickBatch.from_clicks([[Click(0, 0, radius=3.0)]]), (1, 7))
        >>> maps[0, 0, 0].tolist()
        [0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    needs_radius = True  # so the Auto-Drag-Head predicts one for a click without a drag

    def __init__(self, width: float = 8.0) -> None:
        super().__init__()
        self.width = width

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        rows = torch.arange(size[0], device=clicks.device)[:, None]
        cols = torch.arange(size[1], device=clicks.device)
        row, col, radius = (
            one[..., None, None] for one in (clicks.coords[..., 0], clicks.coords[..., 1], clicks.radii)
        )
        rings = (1 - ((rows - row).hypot(cols - col) - radius).abs() / self.width).clamp(
            min=0
        )  # (B, N, H, W)
        maps = clicks.radii.new_zeros(len(clicks), 2, *size)
        if clicks.labels.shape[1] == 0:
            return maps
        for channel, label in enumerate((1, 0)):
            maps[:, channel] = torch.where((clicks.labels == label)[..., None, None], rings, 0.0).amax(1)
        return maps
