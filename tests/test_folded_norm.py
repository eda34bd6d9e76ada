"""A frozen batch norm that is folded into its convolution changes neither values nor gradients."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import Tensor, nn

from dct_seg.models.backbone import Backbone
from dct_seg.models.depthwise import use_fast_depthwise
from dct_seg.models.folded_norm import (
    FoldedDepthwiseSeparableConv,
    FoldedInvertedResidual,
    convolve_and_normalize,
    fold_frozen_norms,
)

NAMES = ["tf_efficientnet_lite0", "mobilenetv3_small_050", "efficientnet_es"]
"""Convolutions padded to "same", squeeze-and-excitation, edge blocks that stay as they are."""


def random_statistics(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, BatchNormAct2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return net.double().eval()


def values_and_gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    outputs = net(x)
    loss = sum((out * torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out)).sum() for out in outputs)
    parameters = [p for p in net.parameters() if p.requires_grad]
    return [*outputs, *torch.autograd.grad(loss, [x, *parameters], allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_plain_network(name: str) -> None:
    plain = random_statistics(timm.create_model(name, features_only=True))
    folded = copy.deepcopy(plain)
    use_fast_depthwise(folded)
    fold_frozen_norms(folded)
    assert plain.state_dict().keys() == folded.state_dict().keys()
    kinds = {type(module) for module in folded.modules()}
    assert FoldedInvertedResidual in kinds
    assert not kinds & {InvertedResidual, DepthwiseSeparableConv}
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(values_and_gradients(folded, x), values_and_gradients(plain, x))


def test_norm_that_is_not_frozen_uses_and_updates_the_statistics_of_the_batch() -> None:
    plain = random_statistics(DepthwiseSeparableConv(4, 6, act_layer=nn.ReLU6))
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    assert type(folded) is FoldedDepthwiseSeparableConv
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(folded.train()(x), plain.train()(x))
    torch.testing.assert_close(dict(folded.named_buffers()), dict(plain.named_buffers()))


def test_conversion_of_the_norm_is_respected() -> None:
    """A norm replaced afterwards, such as by a synchronized one, is applied as it is."""
    block = random_statistics(DepthwiseSeparableConv(4, 4))
    fold_frozen_norms(block)
    block.bn1 = nn.Identity()
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    want = block.bn2(block.conv_pw(block.conv_dw(x))) + x
    torch.testing.assert_close(block(x), want)


def test_backbone_folds_its_norms() -> None:
    backbone = Backbone("tf_efficientnet_lite0", weights="none", num_maps=2)
    kinds = [type(module) for module in backbone.modules()]
    assert kinds.count(FoldedInvertedResidual) == 15
    assert kinds.count(FoldedDepthwiseSeparableConv) == 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding=1),  # a bias
        nn.Conv2d(3, 4, 3, padding=1, bias=False, padding_mode="reflect"),
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False)),
    ],
)
def test_other_convolutions_are_followed_by_the_norm_itself(conv: nn.Module) -> None:
    norm = random_statistics(BatchNormAct2d(4))
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    assert torch.equal(convolve_and_normalize(conv.double(), norm, x), norm(conv(x)))
