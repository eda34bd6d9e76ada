"""Networks as graphs of tensors: image to features, then features and clicks to logits."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.models.tiny_vit import TinyVitBlock
from torch import Tensor, nn

from dct_seg.clicks import PADDING, ClickBatch
from dct_seg.models.network import InteractiveNetwork


class ImageEncoder(nn.Module):
    """Encoder from the image alone to features, fine to coarse.

    Args:
        net: Network in evaluation mode.
    """

    def __init__(self, net: InteractiveNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> list[Tensor]:
        """Encode images, (B, 3, H, W) to (B, C_i, h_i, w_i); sides are multiples of the backbone's."""
        return self.net.encode_image(image)


class ClickDecoder(nn.Module):
    """Decoder from clicks to logits, given features (``late`` network) or the image (``early``).

    Args:
        net: Network in evaluation mode.
    """

    def __init__(self, net: InteractiveNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        seen: list[Tensor],
        coords: Tensor,
        labels: Tensor,
        radii: Tensor,
        previous: Tensor,
        size: Tensor,
    ) -> Tensor:
        """Compute the logits, (B, 1, H, W); NaN where the network needs a radius and a click has none.

        Args:
            seen: Output of `ImageEncoder`, or only the image (B, 3, H, W).
            coords: Positions (row, col) in pixels, (B, N, 2) float32.
            labels: Signs, (B, N) int64: 1 positive, 0 negative, -1 padding.
            radii: Radii in pixels, (B, N) float32.
            previous: Probabilities before the last click, (B, 1, H, W); zeros before the first.
            size: Height and width of the image without padding, (2,) int64.
        """
        clicks = ClickBatch(coords, labels, radii)

        def repeat_border(name: str, maps: Tensor) -> Tensor:
            rows = torch.minimum(torch.arange(maps.shape[2]), size[0] - 1)
            cols = torch.minimum(torch.arange(maps.shape[3]), size[1] - 1)
            return maps.index_select(2, rows).index_select(3, cols)

        if self.net.is_late:  # reads only the image's size
            image, features = previous.expand(-1, 3, -1, -1), seen
        else:
            image, features = seen[0], None
        encoded = self.net.encode(image, clicks, previous, features, adjust=repeat_border)
        logits = self.net.decode(encoded).logits
        if not self.net.click_encoder.needs_radius:
            return logits
        lacks = ((labels != PADDING) & radii.isnan()).any(1)
        return torch.where(lacks[:, None, None, None], torch.nan, logits)


class DragHead(nn.Module):
    """Auto-Drag-Head: radii of clicks without a drag.

    Args:
        net: Network in evaluation mode, with an Auto-Drag-Head.
    """

    def __init__(self, net: InteractiveNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, features: list[Tensor], coords: Tensor, labels: Tensor, previous: Tensor, size: Tensor
    ) -> Tensor:
        """Predict the radii in pixels, (B, N).

        Args:
            features: Output of `ImageEncoder`, without the coarsest.
            coords: Positions, see `ClickDecoder`.
            labels: Signs, see `ClickDecoder`.
            previous: Previous mask, see `ClickDecoder`, padded by its border.
            size: Image size, see `ClickDecoder`.
        """
        assert self.net.auto_drag is not None
        clicks = ClickBatch(coords, labels, torch.zeros_like(coords[..., 0]))
        padded = (previous.shape[2], previous.shape[3])
        radii: Tensor = self.net.auto_drag(features, clicks, previous, padded, size.float()).exp()
        return radii


class _EvenSameConv(nn.Module):
    """Convolution with TensorFlow's padding, which is constant for lengths divisible by the stride."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        pads: list[int] = []
        for kernel, stride, dilation in zip(
            reversed(conv.kernel_size), reversed(conv.stride), reversed(conv.dilation), strict=True
        ):
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            pads += [total // 2, total - total // 2]
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        c: Any = self.conv
        return F.conv2d(F.pad(x, self.pads), c.weight, c.bias, c.stride, 0, c.dilation, c.groups)


class _WindowBlock(nn.Module):
    """TinyViT block that pads to whole windows unconditionally."""

    def __init__(self, block: TinyVitBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self.block
        side = block.window_size
        batch, height, width, channels = x.shape
        rows, cols = (height + side - 1) // side, (width + side - 1) // side
        padded = F.pad(x, (0, 0, 0, cols * side - width, 0, rows * side - height))
        windows = padded.view(batch, rows, side, cols, side, channels).transpose(2, 3)
        seen = block.attn(windows.reshape(batch * rows * cols, side * side, channels))
        seen = seen.view(batch, rows, cols, side, side, channels).transpose(2, 3)
        x = x + seen.reshape(batch, rows * side, cols * side, channels)[:, :height, :width]
        x = block.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        result: Tensor = x + block.mlp(x)
        return result


def exportable(net: InteractiveNetwork) -> InteractiveNetwork:
    """Copy a network to the CPU with padding that does not depend on the image's size."""
    net = copy.deepcopy(net).cpu().float().eval().to(memory_format=torch.contiguous_format)
    net.requires_grad_(False)  # otherwise a loop in a graph is traced for its gradient
    for name, module in list(net.named_modules()):
        if type(module) is Conv2dSame:
            net.set_submodule(name, _EvenSameConv(module))
        elif isinstance(module, TinyVitBlock):
            net.set_submodule(name, _WindowBlock(module))
    return net
