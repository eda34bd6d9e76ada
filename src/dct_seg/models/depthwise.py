"""Depthwise convolution whose gradient is fast on a CPU in bfloat16.

PyTorch's CPU kernels compute a depthwise convolution fast but some of its bfloat16 gradients very slowly:
the weight gradient of a 5 x 5 kernel, and the input gradient at stride 2. We measured 20-60 ms where the
forward pass takes 1 ms: half the time of a training step of EfficientNet-Lite0. Fast kernels can compute
both: a 5 x 5 weight gradient is four overlapping 3 x 3 ones, and the input gradient at stride 2 is a
convolution of the dilated gradient. In float32, PyTorch's own gradients are faster (a step of 1.07 s against
1.23 s), so this module is used only in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

Pads = tuple[int, int, int, int]
"""Zeros at the left, right, top and bottom, as in ``F.pad``."""


class _DepthwiseConv(torch.autograd.Function):
    """``conv2d(pad(x), weight, bias, stride=s, groups=C)``, square kernel of size 3 or 5, same padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pads: Pads) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.pads = stride, pads
        return _convolve(x, weight, bias, stride, pads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = _input_gradient(grad, x, weight, ctx.stride, ctx.pads) if ctx.needs_input_grad[0] else None
        grad_w = _weight_gradient(grad, x, weight, ctx.stride, ctx.pads) if ctx.needs_input_grad[1] else None
        grad_b = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_w, grad_b, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pads: Pads) -> Tensor:
    x, padding = _without_equal_pads(x, pads)
    return F.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])


def _without_equal_pads(x: Tensor, pads: Pads) -> tuple[Tensor, tuple[int, int]]:
    """Return the input and the padding of its convolution, which can pad opposite sides only equally."""
    left, right, top, bottom = pads
    if (left, top) == (right, bottom):
        return x, (top, left)
    return F.pad(x, pads), (0, 0)


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, pads: Pads) -> Tensor:
    """Convolve the gradient, dilated by the stride, with the mirrored kernel."""
    batch, channels, height, width = x.shape
    size = weight.shape[-1]
    mirrored = weight.flip(2, 3)
    left, _, top, _ = pads
    if stride == 1:  # all pads are equal
        return F.conv2d(grad, mirrored, None, 1, size - 1 - top, 1, channels)
    # zeros around and between the values of the gradient
    spread = torch.empty(
        (batch, channels, height + size - 1, width + size - 1),
        dtype=grad.dtype,
        device=grad.device,
        memory_format=torch.channels_last,
    ).zero_()
    row, col = size - 1 - top, size - 1 - left
    rows, cols = (grad.shape[2] - 1) * stride + 1, (grad.shape[3] - 1) * stride + 1
    spread[:, :, row : row + rows : stride, col : col + cols : stride] = grad
    return F.conv2d(spread, mirrored, None, 1, 0, 1, channels)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, pads: Pads) -> Tensor:
    """Compute the gradient of a 3 x 3 kernel, or that of a 5 x 5 kernel from four overlapping 3 x 3 ones."""
    if weight.shape[-1] == 3:
        return _weight_gradient_3(grad, *_without_equal_pads(x, pads), weight, stride)
    full = weight.new_empty(weight.shape)
    height, width = x.shape[2:]
    rows, cols = (grad.shape[2] - 1) * stride + 3, (grad.shape[3] - 1) * stride + 3
    for top in (0, 2):
        for left in (0, 2):  # the middle row and column occur twice, with equal values
            before_w, before_h = pads[0] - left, pads[2] - top  # a negative pad removes rows or columns
            window = (before_w, cols - width - before_w, before_h, rows - height - before_h)
            part = F.pad(x, window).contiguous(memory_format=torch.channels_last)
            full[:, :, top : top + 3, left : left + 3] = _weight_gradient_3(
                grad, part, (0, 0), weight[:, :, :3, :3], stride
            )
    return full


def _weight_gradient_3(
    grad: Tensor, x: Tensor, padding: tuple[int, int], weight: Tensor, stride: int
) -> Tensor:
    """Compute PyTorch's own gradient of a 3 x 3 kernel."""
    sizes = ([stride] * 2, padding, [1, 1], False, [0, 0], x.shape[1])
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight.contiguous(), None, *sizes, [False, True, False]
    )
    return found[1]


class DepthwiseConv2d(nn.Module):
    """Depthwise convolution with a faster gradient, the same results, and the same key in the state dict.

    Args:
        conv: A depthwise convolution without bias, kernel 3 or 5, stride 1 or 2, padded by half its kernel
            or, as in TensorFlow, to "same".
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.stride = int(conv.stride[0])
        self.same = isinstance(conv, Conv2dSame)
        self.kernel = int(conv.kernel_size[0])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve with another weight of the same shape, and a bias (C,)."""
        learns = torch.is_grad_enabled() and weight.requires_grad
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type == "cpu" and learns and dtype == torch.bfloat16:
            bias = None if bias is None else bias.to(dtype)
            return self.with_fast_gradient(x.to(dtype), weight.to(dtype), bias)
        return _convolve(x, weight, bias, self.stride, self.pads(x))

    def with_fast_gradient(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve with our own gradient, in any precision."""
        out: Tensor = _DepthwiseConv.apply(x, weight, bias, self.stride, self.pads(x))
        return out

    def pads(self, x: Tensor) -> Pads:
        """Compute the zeros at the sides of (B, C, H, W)."""
        (top, bottom), (left, right) = self._pads_of(x.shape[2]), self._pads_of(x.shape[3])
        return left, right, top, bottom

    def _pads_of(self, length: int) -> tuple[int, int]:
        if not self.same:
            return self.kernel // 2, self.kernel // 2
        total = max((-(-length // self.stride) - 1) * self.stride + self.kernel - length, 0)
        return total // 2, total - total // 2


def use_fast_depthwise(net: nn.Module) -> None:
    """Replace each suitable depthwise convolution of ``net`` by a `DepthwiseConv2d`, in place."""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d) and _fits(module):
            net.set_submodule(name, DepthwiseConv2d(module))


def _fits(conv: nn.Conv2d) -> bool:
    kernel, stride, same = conv.kernel_size, conv.stride, type(conv) is Conv2dSame
    return (
        (same or type(conv) is nn.Conv2d)  # a subclass may change its weights, such as by standardization
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.groups > 1
        and conv.bias is None
        and kernel in ((3, 3), (5, 5))
        and stride in ((1, 1), (2, 2))
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and (same or conv.padding == (kernel[0] // 2, kernel[0] // 2))
    )
