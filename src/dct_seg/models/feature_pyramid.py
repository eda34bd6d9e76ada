"""The image's features, made ready once for all clicks to come (``prompt_fusion: late``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Hands what the coarse levels of a backbone know down to the fine ones, and leaves few channels to work
    on at each click.

    What a click costs depends on the channels that leave here, what the image costs, once, on those in
    between. Each level leaves normalized over its channels at each place: the raw features of a backbone can
    be a hundred times as large as a click map, which would drown in them.

    Args:
        in_channels: Channels of the backbone's levels, fine to coarse.
        out_channels: Channels of each level that leaves.
        hidden: Channels in between.

    Source: T.-Y. Lin et al., "Feature pyramid networks for object detection", CVPR 2017. Not of the paper.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: Sequence[int], *, hidden: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, hidden, 1), LayerNorm2d(hidden)) for channels in in_channels
        )
        self.outs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(hidden, channels, 3, padding=1), LayerNorm2d(channels))
            for channels in out_channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, in_channels[i], h_i, w_i) fine to coarse -> (B, out_channels[i], h_i, w_i)."""
        levels = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for fine in reversed(range(len(levels) - 1)):
            levels[fine] = levels[fine] + F.interpolate(
                levels[fine + 1], levels[fine].shape[-2:], mode="nearest"
            )
        return [out(level) for out, level in zip(self.outs, levels, strict=True)]
