"""Pyramid pooling and the U-Net decoder whose layers Feature-DCT normalizes (the paper's Figs. 1 and 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.models.memory_layout import concatenate
from dct_seg.models.tracing import is_exporting
from dct_seg.registry import check_choice

DecoderNorm = Literal["instance", "batch", "none"]
PredictedNorm = Literal["instance", "none"]

Adjust = Callable[[str, Any], Any]
"""Hook: takes name and value of a tensor inside a network, returns its replacement."""

Statistics = tuple[Tensor, Tensor]
"""Mean and standard deviation of each channel, each (B, C)."""


def keep(name: str, value: Any) -> Any:
    """Return the value unchanged; the default hook."""
    return value


class PyramidPooling(nn.Module):
    """Concatenate the features with their averages over 1, 2, 3 and 6 cells per side.

    There is no norm: instance norm removes the per-channel mean, which is all the global-average branch
    contains.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, cells: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        each = max(out_channels // len(cells), 8)
        self.cells = list(cells)
        self.reduce = nn.ModuleList(nn.Conv2d(in_channels, each, 1) for _ in cells)
        self.merge = nn.Conv2d(in_channels + each * len(cells), out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, in_channels, h, w) -> (B, out_channels, h, w)."""
        pooled = [
            F.interpolate(conv(_cell_means(x, cells)), x.shape[-2:], mode="bilinear", align_corners=False)
            for cells, conv in zip(self.cells, self.reduce, strict=True)
        ]
        return F.relu(self.merge(concatenate([x, *pooled])), inplace=True)


def _cell_means(x: Tensor, cells: int) -> Tensor:
    """Average over ``cells`` x ``cells`` cells, (B, C, cells, cells)."""
    if not is_exporting():
        return F.adaptive_avg_pool2d(x, cells)
    rows, cols = (_averaging(length, cells).to(x) for length in x.shape[-2:])
    return rows @ x @ cols.t()


def _averaging(length: int, cells: int) -> Tensor:
    """Weights (cells, length) of ``adaptive_avg_pool2d`` along one axis, for any length in a graph."""
    cell, place = torch.arange(cells)[:, None], torch.arange(length)
    inside = (place >= cell * length // cells) & (place < ((cell + 1) * length + cells - 1) // cells)
    return inside.float() / inside.sum(1, keepdim=True)


class ConvNorm(nn.Module):
    """Convolution, norm and ReLU.

    Scale and shift of the norm are learned, or predicted by Feature-DCT. Instance norm has no running
    average, so that near-identical forward passes do not skew it, and a batch may have a single image.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        predicted: Whether scale and shift are given in each forward pass.
        norm: ``instance``, ``batch`` (if scale and shift are learned) or ``none``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        predicted: bool = False,
        norm: DecoderNorm = "instance",
    ) -> None:
        super().__init__()
        self.normalizes = norm != "none"
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, padding=kernel // 2, bias=not self.normalizes
        )
        own = norm == "instance" and not predicted
        self.weight = nn.Parameter(torch.ones(out_channels)) if own else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if own else None
        self.norm = nn.BatchNorm2d(out_channels) if norm == "batch" and not predicted else None

    def forward(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Apply the layer: (B, in_channels, h, w) -> (B, out_channels, h, w)."""
        x = self.conv(x)
        if self.norm is not None:
            return F.relu(self.norm(x), inplace=True)
        if not self.normalizes:
            if statistics is not None:
                shift, scale = (value.to(x.dtype)[..., None, None] for value in statistics)
                x = x * scale + shift
            return F.relu(x, inplace=True)
        mean, std = (self.bias, self.weight) if statistics is None else statistics
        assert mean is not None
        assert std is not None
        return F.relu(adaptive_instance_norm(x, mean, std), inplace=True)


def adaptive_instance_norm(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize each channel of each image of ``x`` to a given mean and standard deviation.

    Args:
        x: (B, C, h, w) features.
        mean: (B, C) or (C,) mean of each channel.
        std: (B, C) or (C,) standard deviation of each channel.

    Source: section 2.2; instance normalization [15] with predicted statistics.

    Examples:
        >>> x = torch.tensor([[[[1.0, 3.0]]]])
        >>> normed = adaptive_instance_norm(x, torch.tensor([10.0]), torch.tensor([2.0]))
        >>> [round(v, 2) for v in normed.flatten().tolist()]
        [8.0, 12.0]
    """
    batch, channels = x.shape[:2]
    stds, means = (value.expand(batch, channels) for value in (std, mean))
    if x.dtype == torch.float64:  # batch norm mixes half types with float32 statistics, but not float64
        stds, means = stds.double(), means.double()
    if is_exporting():  # for any number of images in a graph
        return F.instance_norm(x) * stds[..., None, None] + means[..., None, None]
    # Instance norm is batch norm of one image: its kernel is five times as fast as separate mean, variance
    # and product.
    on_cudnn = torch.backends.cudnn.enabled
    images = zip(torch.split(x, 1), stds, means, strict=True)
    return torch.cat(
        [torch.batch_norm(one, s, m, None, None, True, 0.0, 1e-5, on_cudnn) for one, s, m in images]
    )


def _conv_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(in_channels, out_channels, 3, padding=1), relu=nn.ReLU(inplace=True))
    )


class UpBlock(nn.Module):
    """Block of the U-Net: upsampling, skip connection, two convolutions.

    Feature-DCT predicts the statistics of the second convolution.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        predicted: bool,
        join_norm: bool = True,
        norm: DecoderNorm = "instance",
        predicted_norm: PredictedNorm = "instance",
    ) -> None:
        super().__init__()
        joined = in_channels + skip_channels
        self.join = (
            ConvNorm(joined, out_channels, norm=norm) if join_norm else _conv_relu(joined, out_channels)
        )
        self.refine = ConvNorm(
            out_channels, out_channels, predicted=predicted, norm=predicted_norm if predicted else norm
        )

    def forward(self, x: Tensor, skip: Tensor, statistics: Statistics | None) -> Tensor:
        """Upsample (B, in_channels, h, w), add a skip (B, skip_channels, H, W) -> (B, out_channels, H, W)."""
        if x.shape[-2:] != skip.shape[-2:]:
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
        refined: Tensor = self.refine(self.join(concatenate([x, skip])), statistics)
        return refined


class UNetDecoder(nn.Module):
    """U-Net decoder from the features of all levels to logits.

    Args:
        in_channels: Channels of each level, fine to coarse; logits have the resolution of the finest.
        width: Channels of the finest block; each coarser block has half of this more, up to twice the width.
        predicted: Number of blocks, from the coarsest, whose statistics Feature-DCT predicts.
        join_norm: Use instance norm also where a block joins its two inputs; without it, their magnitude in
            this image is kept.
        norm: ``instance``, ``batch`` or ``none``, in the layers whose statistics are not predicted.
        predicted_norm: ``instance`` or ``none``, before the predicted statistics.

    Attributes:
        block_channels: Channels of each block, coarse to fine.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        width: int = 64,
        predicted: int = 0,
        join_norm: bool = True,
        norm: DecoderNorm = "instance",
        predicted_norm: PredictedNorm = "instance",
    ) -> None:
        super().__init__()
        check_choice("decoder norm", norm, get_args(DecoderNorm))
        check_choice("Feature-DCT norm", predicted_norm, get_args(PredictedNorm))
        *skips, top = in_channels
        self.block_channels = [width * min(2 + i, 4) // 2 for i in range(len(skips))][::-1]
        self.pool = PyramidPooling(top, self.block_channels[0])
        ins = [self.block_channels[0], *self.block_channels[:-1]]
        self.blocks = nn.ModuleList(
            UpBlock(
                c_in,
                skip,
                c_out,
                predicted=i < predicted,
                join_norm=join_norm,
                norm=norm,
                predicted_norm=predicted_norm,
            )
            for i, (c_in, skip, c_out) in enumerate(
                zip(ins, reversed(skips), self.block_channels, strict=True)
            )
        )
        self.predict = nn.Conv2d(self.block_channels[-1], 1, 1)

    def forward(self, features: Sequence[Tensor], statistics: Sequence[Statistics] = ()) -> Tensor:
        """Compute logits (B, 1, h_0, w_0) from features (B, C_i, h_i, w_i), fine to coarse.

        Args:
            features: (B, C_i, h_i, w_i), fine to coarse.
            statistics: (mean, std) of each predicted block.
        """
        logits: Tensor = self.predict(self.finest(features, statistics))
        return logits

    def finest(
        self, features: Sequence[Tensor], statistics: Sequence[Statistics] = (), adjust: Adjust = keep
    ) -> Tensor:
        """Run all blocks and return the finest layer, (B, width, h_0, w_0).

        Args:
            features: (B, C_i, h_i, w_i), fine to coarse.
            statistics: (mean, std) of each predicted block.
            adjust: Called with ``pool`` after pyramid pooling and with ``last`` at the end; its result
                replaces the tensor.
        """
        *skips, top = features
        x: Tensor = adjust("pool", self.pool(top))
        for i, (block, skip) in enumerate(zip(self.blocks, reversed(skips), strict=True)):
            x = block(x, skip, statistics[i] if i < len(statistics) else None)
        last: Tensor = adjust("last", x)
        return last
