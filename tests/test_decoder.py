"""The decoder: normalized layers with given statistics, pyramid pooling, any size."""

import pytest
import torch
from torch import Tensor

from dct_seg.models.decoder import ConvNorm, PyramidPooling, UNetDecoder, adaptive_instance_norm


def test_normalized_channels_have_the_requested_mean_and_deviation() -> None:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 7 + 3
    mean, std = (
        torch.tensor([[1.0, 2.0, -3.0], [0.0, 5.0, 1.0]]),
        torch.tensor([[1.0, 0.5, 2.0], [3.0, 1.0, 0.1]]),
    )
    out = adaptive_instance_norm(x, mean, std)
    torch.testing.assert_close(out.mean((2, 3)), mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.std((2, 3), correction=0), std, atol=1e-4, rtol=1e-4)


def test_without_predicted_statistics_it_is_torch_s_instance_norm() -> None:
    x = torch.randn(2, 3, 5, 7)
    weight, bias = torch.randn(3), torch.randn(3)
    wanted = torch.nn.functional.instance_norm(x, weight=weight, bias=bias, eps=1e-5)
    torch.testing.assert_close(adaptive_instance_norm(x, bias, weight), wanted, atol=1e-5, rtol=1e-5)


def test_map_of_one_pixel_becomes_the_mean_and_its_gradient_is_finite() -> None:
    x = torch.randn(2, 3, 1, 1, requires_grad=True)
    mean = torch.randn(2, 3)
    out = adaptive_instance_norm(x, mean, torch.ones(2, 3))
    torch.testing.assert_close(out[..., 0, 0], mean, atol=1e-3, rtol=1e-3)
    out.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_bfloat16_features_stay_bfloat16_and_close() -> None:
    x = torch.randn(2, 3, 8, 8)
    mean, std = torch.randn(2, 3), torch.rand(2, 3) + 0.5
    half = adaptive_instance_norm(x.bfloat16(), mean, std)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), adaptive_instance_norm(x, mean, std), atol=0.05, rtol=0.05)


def test_layer_with_predicted_statistics_has_no_learned_ones() -> None:
    assert [name for name, _ in ConvNorm(3, 4, predicted=True).named_parameters()] == ["conv.weight"]
    assert [name for name, _ in ConvNorm(3, 4).named_parameters()] == ["weight", "bias", "conv.weight"]


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6), (13, 7)])
def test_pyramid_pooling_takes_any_size(size: tuple[int, int]) -> None:
    assert PyramidPooling(8, 16)(torch.randn(1, 8, *size)).shape == (1, 16, *size)


def test_pyramid_pooling_sees_the_whole_image_from_each_pixel() -> None:
    pool = PyramidPooling(4, 8)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    pool.reduce[0](torch.nn.functional.adaptive_avg_pool2d(x, 1)).sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def pyramid(size: int = 32) -> list[Tensor]:
    return [torch.randn(2, c, size // s, size // s) for c, s in [(4, 4), (6, 8), (8, 16), (10, 32)]]


def test_logits_have_the_size_of_the_finest_level() -> None:
    decoder = UNetDecoder([4, 6, 8, 10], width=16)
    assert decoder.block_channels == [32, 24, 16]
    assert decoder(pyramid()).shape == (2, 1, 8, 8)


def test_predicted_statistics_go_to_the_coarsest_blocks_and_change_the_logits() -> None:
    decoder = UNetDecoder([4, 6, 8, 10], width=16, predicted=2)
    assert [block.refine.weight is None for block in decoder.blocks] == [True, True, False]
    features = pyramid()
    plain = [(torch.zeros(2, c), torch.ones(2, c)) for c in (32, 24)]
    logits = decoder(features, plain)
    for layer in range(2):
        for part in range(2):
            moved = [[m.clone(), s.clone()] for m, s in plain]
            moved[layer][part][1] += 1
            changed = decoder(features, [(m, s) for m, s in moved])
            assert torch.equal(changed[0], logits[0])  # only the image whose statistics moved
            assert not torch.allclose(changed[1], logits[1])


def test_without_join_norm_the_magnitude_of_a_feature_matters() -> None:
    features = pyramid(128)
    brighter = [
        features[0] + 1,
        *features[1:],
    ]  # equally strong everywhere: instance norm shows no difference except at the borders
    kept, gone = (
        _changed_inside(UNetDecoder([4, 6, 8, 10], width=16, join_norm=norm), features, brighter)
        for norm in (False, True)
    )
    assert gone < 0.2 * kept
    plain = UNetDecoder([4, 6, 8, 10], width=16, join_norm=False).blocks[-1].join
    assert [name for name, _ in plain.named_parameters()] == ["conv.weight", "conv.bias"]


def test_feature_dct_without_norm_scales_and_shifts_the_convolution() -> None:
    layer = ConvNorm(3, 4, predicted=True, norm="none")
    assert [name for name, _ in layer.named_parameters()] == ["conv.weight", "conv.bias"]
    x, mean, std = torch.randn(2, 3, 8, 8), torch.randn(2, 4), torch.rand(2, 4)
    wanted = torch.relu(layer.conv(x) * std[:, :, None, None] + mean[:, :, None, None])
    torch.testing.assert_close(layer(x, (mean, std)), wanted)
    half = layer.bfloat16()(x.bfloat16(), (mean, std))
    assert half.dtype == torch.bfloat16
    decoder = UNetDecoder([4, 6, 8, 10], width=16, predicted=2, predicted_norm="none", norm="batch")
    assert [block.refine.normalizes for block in decoder.blocks] == [False, False, True]


def test_decoder_without_any_norm_is_convolutions_only() -> None:
    layer = ConvNorm(3, 4, norm="none")
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(layer(x), torch.relu(layer.conv(x)))
    decoder = UNetDecoder([4, 6, 8, 10], width=16, norm="none", join_norm=True)
    assert all(name.endswith(("conv.weight", "conv.bias")) for name, _ in decoder.blocks.named_parameters())


def _changed_inside(decoder: UNetDecoder, before: list[Tensor], after: list[Tensor]) -> float:
    """Change of the finest block's inputs away from the borders, in their own standard deviations."""
    joined: list[Tensor] = []
    decoder.blocks[-1].join.register_forward_hook(lambda module, args, out: joined.append(out.detach()))
    decoder(before), decoder(after)
    first, second = (one[..., 2:-2, 2:-2] for one in joined)
    return float((second - first).abs().mean() / first.std())


def test_skips_of_any_size_are_joined() -> None:
    decoder = UNetDecoder([4, 6, 10], width=16)
    assert decoder([torch.randn(1, 4, 9, 13), torch.randn(1, 6, 5, 7), torch.randn(1, 10, 3, 3)]).shape == (
        1,
        1,
        9,
        13,
    )


def test_batch_norm_keeps_a_feature_s_scale_that_instance_norm_divides_out() -> None:
    x = torch.randn(2, 3, 16, 16)
    instance, batch = (ConvNorm(3, 4, norm=norm).eval() for norm in ("instance", "batch"))
    torch.testing.assert_close(instance(2 * x), instance(x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(batch(2 * x), 2 * batch(x))


def test_predicted_layers_keep_instance_norm_in_a_decoder_with_batch_norm() -> None:
    decoder = UNetDecoder([4, 6, 8, 10], width=16, predicted=2, norm="batch")
    assert [block.refine.norm is None for block in decoder.blocks] == [True, True, False]
    assert all(block.join.norm is not None for block in decoder.blocks)
