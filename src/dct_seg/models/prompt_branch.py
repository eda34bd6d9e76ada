"""Late fusion: clicks added to features computed without them (``prompt_fusion: late``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.models.decoder import ConvNorm


class PromptBranch(nn.Module):
    """Light encoder of the click maps, parallel to the backbone.

    The maps enter at the finest level; each level adds the image's features there.

    Args:
        num_maps: Number of click maps, plus one for the previous mask if used.
        channels: Channels of each level, fine to coarse.
        strides: Stride of each level in image pixels.
    """

    def __init__(self, num_maps: int, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(num_maps, channels[0], strides[0], stride=strides[0])
        pairs = zip(channels, channels[1:], strides, strides[1:], strict=False)
        self.downs = nn.ModuleList(
            nn.Conv2d(c, c_next, 3, stride=max(s_next // s, 1), padding=1) for c, c_next, s, s_next in pairs
        )
        self.mixes = nn.ModuleList(ConvNorm(c, c) for c in channels[1:])

    def forward(self, maps: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Add the maps to the features.

        Args:
            maps: (B, num_maps, H, W) click maps.
            features: (B, C_i, h_i, w_i) features of the image, fine to coarse.
        """
        fused = [features[0] + _fitted(self.stem(maps), features[0])]
        for down, mix, feature in zip(self.downs, self.mixes, features[1:], strict=True):
            x = feature + _fitted(down(fused[-1]), feature)
            fused.append(x + mix(x))
        return fused


def _fitted(x: Tensor, like: Tensor) -> Tensor:
    """Resize ``x`` to the height and width of ``like``; a backbone's levels need not be exact multiples."""
    return (
        x
        if x.shape[-2:] == like.shape[-2:]
        else F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
    )
