"""Frozen batch norm of EfficientNet blocks, applied as part of the convolution before it.

A batch norm with frozen statistics scales and shifts each channel. The convolution before it can do both,
with scaled weights and a bias. This saves one pass over the features, and a slow gradient (docs/speed.md).
The weights of the norm still learn, and the state dict keeps its keys.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import Tensor, nn

from dct_seg.models.depthwise import DepthwiseConv2d
from dct_seg.models.tracing import is_exporting


class FoldedInvertedResidual(InvertedResidual):  # type: ignore[misc]
    """Inverted residual block whose frozen norms are folded into its convolutions on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block, (B, C, H, W) -> (B, C', H', W')."""
        y = convolve_and_normalize(self.conv_pw, self.bn1, x)
        y = convolve_and_normalize(self.conv_dw, self.bn2, y)
        y = self.se(self.aa(y))
        y = convolve_and_normalize(self.conv_pwl, self.bn3, y)
        return self.drop_path(y) + x if self.has_skip else y


class FoldedDepthwiseSeparableConv(DepthwiseSeparableConv):  # type: ignore[misc]
    """Depthwise separable block whose frozen norms are folded into its convolutions on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block, (B, C, H, W) -> (B, C', H', W')."""
        y = convolve_and_normalize(self.conv_dw, self.bn1, x)
        y = self.se(self.aa(y))
        y = convolve_and_normalize(self.conv_pw, self.bn2, y)
        return self.drop_path(y) + x if self.has_skip else y


FOLDED: dict[type[nn.Module], type[nn.Module]] = {
    InvertedResidual: FoldedInvertedResidual,
    DepthwiseSeparableConv: FoldedDepthwiseSeparableConv,
}


def fold_frozen_norms(net: nn.Module) -> None:
    """Make each EfficientNet block of ``net`` fold its batch norms while they are frozen, in place."""
    for block in net.modules():
        folded = FOLDED.get(type(block))
        if folded is not None and getattr(block, "conv_s2d", None) is None:
            block.__class__ = folded  # same parameters, keys and attributes; only forward differs


def convolve_and_normalize(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """Compute ``norm(conv(x))``; on a CPU with frozen statistics, without a separate pass for the norm.

    Args:
        conv: Convolution without bias.
        norm: Batch norm with activation.
        x: (B, C, H, W).
    """
    if not _can_fold(conv, norm, x):
        return norm(conv(x))  # type: ignore[no-any-return]
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale[:, None, None, None]
    bias = norm.bias - norm.running_mean * scale
    if isinstance(conv, DepthwiseConv2d):
        y = conv.convolve(x, weight, bias)
    else:
        y = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return norm.act(norm.drop(y))  # type: ignore[no-any-return]


def _can_fold(conv: Any, norm: Any, x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and type(norm) is BatchNormAct2d
        and not norm.training
        and norm.affine
        and norm.track_running_stats
        and not is_exporting()
        and (
            type(conv) is DepthwiseConv2d
            or (type(conv) is nn.Conv2d and conv.bias is None and conv.padding_mode == "zeros")
        )
    )
