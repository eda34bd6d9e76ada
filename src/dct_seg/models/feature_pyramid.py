"""Image features that are computed once and serve all clicks (``prompt_fusion: late``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Feature pyramid: passes coarse features to fine levels, and reduces the channels.

    The cost of a click depends on the output channels, the one-time cost of the image on the hidden ones.
    Each output level is normalized over its channels at each position: a backbone's raw features can be a
    hundred times as large as a click map and would hide it.

    Args:
        in_channels: Channels of the backbone's levels, fine to coarse.
        out_channels: Channels of each output level.
        hidden: Channels of the hidden layers.

    Source: T.-Y. Lin et al., "Feature pyramid networks for object detection", CVPR 2017. Not in the paper.
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
        """Merge levels, fine to coarse: (B, in_channels[i], h_i, w_i) -> (B, out_channels[i], h_i, w_i)."""
        levels = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for fine in reversed(range(len(levels) - 1)):
            levels[fine] = levels[fine] + F.interpolate(
                levels[fine + 1], levels[fine].shape[-2:], mode="nearest"
            )
        return [out(level) for out, level in zip(self.outs, levels, strict=True)]
