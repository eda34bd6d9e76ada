"""The depthwise convolution with a fast gradient equals the convolution that it replaces."""

from itertools import product

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn

from dct_seg.models.depthwise import DepthwiseConv2d, use_fast_depthwise

KINDS = list(product([nn.Conv2d, Conv2dSame], [3, 5], [1, 2]))
SIZES = [(8, 8), (7, 10), (5, 5), (1, 1), (2, 9)]


def depthwise(
    kind: type[nn.Conv2d], kernel: int, stride: int, *, channels: int = 3, dtype: torch.dtype = torch.float64
) -> nn.Conv2d:
    torch.manual_seed(0)
    padding = 0 if kind is Conv2dSame else kernel // 2
    return kind(channels, channels, kernel, stride=stride, padding=padding, groups=channels, bias=False).to(
        dtype
    )


class ByHand(nn.Module):
    """The bfloat16 code path in the precision of its input, for an exact comparison."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = DepthwiseConv2d(conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv.with_fast_gradient(x, self.conv.weight)


def forward_and_gradients(module: nn.Module, weight: Tensor, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = module(x)
    cotangent = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out)
    return [out, *torch.autograd.grad((out * cotangent).sum(), [x, weight])]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "kernel", "stride"), KINDS)
def test_value_and_gradients_are_those_of_the_plain_convolution(
    kind: type[nn.Conv2d], kernel: int, stride: int, size: tuple[int, int]
) -> None:
    conv = depthwise(kind, kernel, stride)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for ours in (ByHand(conv), DepthwiseConv2d(conv)):
        got, wanted = forward_and_gradients(ours, conv.weight, x), forward_and_gradients(conv, conv.weight, x)
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(("kind", "kernel", "stride"), KINDS)
def test_gradients_equal_finite_differences(kind: type[nn.Conv2d], kernel: int, stride: int) -> None:
    fast = ByHand(depthwise(kind, kernel, stride, channels=2))
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, _: fast(a), (x, fast.conv.weight))


@pytest.mark.parametrize("kernel", [3, 5])
def test_bfloat16_under_autocast_is_close_to_the_plain_convolution(kernel: int) -> None:
    conv = depthwise(nn.Conv2d, kernel, 2, channels=8, dtype=torch.float32)
    fast = DepthwiseConv2d(conv)
    x = torch.randn(2, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (
            forward_and_gradients(fast, fast.weight, x),
            forward_and_gradients(conv, conv.weight, x),
        )
    assert ours[0].dtype == torch.bfloat16
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=0.05, rtol=0.05)


def test_without_gradient_the_value_is_the_same() -> None:
    for kind, kernel, stride in KINDS:
        conv = depthwise(kind, kernel, stride)
        x = torch.randn(1, 3, 9, 6, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(DepthwiseConv2d(conv)(x), conv(x))


def test_replacement_keeps_the_weights_and_their_names() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        depthwise(nn.Conv2d, 3, 1, channels=4),
        nn.ReLU(),
        depthwise(Conv2dSame, 5, 2, channels=4),
    )
    before = dict(net.named_parameters())
    use_fast_depthwise(net)
    assert [type(m).__name__ for m in net] == ["Conv2d", "DepthwiseConv2d", "ReLU", "DepthwiseConv2d"]
    assert all(after is before[name] for name, after in net.named_parameters())
    assert before.keys() == dict(net.named_parameters()).keys()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),  # a bias
        nn.Conv2d(4, 4, 7, padding=3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=0, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, padding_mode="reflect"),
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        StdConv2d(4, 4, 3, padding=1, groups=4, bias=False),  # standardizes its weights
    ],
)
def test_other_convolutions_are_unchanged(conv: nn.Conv2d) -> None:
    net = nn.Sequential(conv)
    use_fast_depthwise(net)
    assert net[0] is conv
