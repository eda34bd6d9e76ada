"""FCA-Net: network with attention to the first click (Lin et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.click_encoders import HalfWidthGaussian
from dct_seg.clicks import PADDING, ClickBatch
from dct_seg.models.config import DCTNetConfig
from dct_seg.models.dct_net import DCTNet
from dct_seg.models.decoder import Adjust, keep
from dct_seg.models.network import NETWORKS, Encoded, ImageLoss, Output

MODULE_STRIDE = 16


@NETWORKS.register("fca_net")
class FCANet(DCTNet):
    """U-Net with a branch that attends to the first click.

    The branch reads the finest level and a wide Gaussian around the first click. It is added to the coarsest
    level before pyramid pooling, and has a separate output for an auxiliary loss.

    Args:
        config: Configuration of the network.
        first_width: Full width at half maximum of the first click's Gaussian, in pixels.

    Source: "Interactive Image Segmentation with First Click Attention" (CVPR 2020); widths and layers follow
    the authors' code. They use a ResNet-101 or Res2Net-101 with atrous pooling at stride 16; our network
    keeps this library's decoder and instance norm, and has half of the channels.

    Examples:
        >>> from dct_seg import Click
        >>> config = DCTNetConfig(backbone="resnet18", backbone_weights="none", click_encoder="Euclidean")
        >>> net = FCANet(config).eval()
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30), Click(5, 9, positive=False)]])
        >>> net(torch.rand(1, 3, 64, 64), clicks).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(self, config: DCTNetConfig, *, first_width: float = 30.0) -> None:
        if config.prompt_fusion == "late":
            raise ValueError(
                "network 'fca_net' needs the clicks in its finest level; set prompt_fusion to early"
            )
        super().__init__(config)
        self.first_map = HalfWidthGaussian(first_width)
        out = 2 * config.decoder_width
        fine, fine_stride, top_stride = self.channels[0], self.strides[0], self.strides[-1]
        halvings = max(0, (min(MODULE_STRIDE, top_stride) // fine_stride).bit_length() - 1)
        widths = [fine + 1, out // 2, out // 2, out // 2, out, out, out]
        strides = [2 if i in (0, 3) and halvings > i // 3 else 1 for i in range(6)]
        self.first_click = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False),
                nn.GroupNorm(math.gcd(8, c_out), c_out),
                nn.ReLU(inplace=True),
            )
            for (c_in, c_out), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.first_predict = nn.Conv2d(out, 1, 1)
        self.train()

    def decoder_channels(self, channels: list[int]) -> list[int]:
        """Channels of the decoder's input: the coarsest level also has those of the branch."""
        return [*channels[:-1], channels[-1] + 2 * self.config.decoder_width]

    def decode(self, encoded: Encoded, adjust: Adjust = keep) -> Output:
        """Compute the logits; the extra ``first_click`` has those of the branch."""
        *skips, top = encoded.features
        first = self._branch(skips[0], encoded)
        joined = torch.cat([top, _resized(first, top)], 1)
        output = super().decode(replace(encoded, features=[*skips, joined]), adjust)
        alone = self.at_image_size(self.first_predict(first), encoded)
        return replace(output, extras={"first_click": alone})

    def _branch(self, fine: Tensor, encoded: Encoded) -> Tensor:
        drawn = self.first_map(first_clicks(encoded.clicks), encoded.padded_size)[:, :1]  # (B, 1, H', W')
        x = torch.cat([fine, _resized(drawn, fine).to(fine)], 1)
        for layer in self.first_click:
            x = layer(x)
        return x

    def loss(
        self, output: Output, mask: Tensor, ignore: Tensor, clicks: ClickBatch, losses: ImageLoss
    ) -> Tensor:
        """Add the loss of the logits and that of the branch with the first click only."""
        branch = losses(output.extras["first_click"], mask, ~ignore, first_clicks(clicks))
        return losses(output.logits, mask, ~ignore, clicks) + branch


def first_clicks(clicks: ClickBatch) -> ClickBatch:
    """Select the first click of each image, (B, 1); padding if it is negative or missing."""
    if clicks.labels.shape[1] == 0:
        return clicks
    order = clicks.valid.long().argmax(1, keepdim=True)  # (B, 1), the first of equal values
    labels = clicks.labels.gather(1, order)
    coords = clicks.coords.gather(1, order[..., None].expand(-1, -1, 2))
    return ClickBatch(coords, torch.where(labels == 1, labels, PADDING), clicks.radii.gather(1, order))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
