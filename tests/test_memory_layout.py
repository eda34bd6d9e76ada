"""Gradients of concatenated features: those of ``torch.cat``, in the features' own memory layout."""

from __future__ import annotations

import pytest
import torch

from dct_seg.models.memory_layout import concatenate


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_have_the_values_of_cat_and_the_layout_of_the_features(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, c, 6, 5).contiguous(memory_format=layout).requires_grad_() for c in (3, 4)]
    weight = torch.randn(2, 7, 6, 5)
    out = concatenate([part * 1.0 for part in parts])
    assert torch.equal(out, torch.cat(parts, 1))
    grads = torch.autograd.grad((out * weight).sum(), parts)
    for got, want in zip(grads, weight.split([3, 4], 1), strict=True):
        assert torch.equal(got, want)
        assert layout == torch.contiguous_format or got.is_contiguous(memory_format=torch.channels_last)


def test_features_without_gradient_are_concatenated() -> None:
    with torch.no_grad():
        assert concatenate([torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, 2)]).sum() == 4
