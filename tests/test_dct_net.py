"""DCT-Net: a pure function of image, clicks and previous mask, at any size; trained and frozen weights."""

from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from networks import TINY, fewer_clicks, some_clicks, tiny_net
from torch import Tensor, nn

from dct_seg import Click, ClickBatch, DCTNet, DCTNetConfig
from dct_seg.models.config import PromptFusion
from dct_seg.models.feature_pyramid import FeaturePyramid

CONFIGURATIONS: dict[str, dict[str, Any]] = {  # the rows of Table 1, and everything on
    "baseline": {"click_encoder": "Euclidean", "feature_dct": False, "auto_drag": False},
    "spatial_dct": {"feature_dct": False, "auto_drag": False},
    "full": {},
    "everything": {
        "previous_mask": True,
        "normalize_features": True,
        "rejection": "printed",
        "join_norm": False,
        "feature_dct_norm": "none",
    },
    "late": {"prompt_fusion": "late", "previous_mask": True},
    "late_baseline": {
        "prompt_fusion": "late",
        "click_encoder": "Euclidean",
        "feature_dct": False,
        "auto_drag": False,
    },
}
BACKBONES = ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224"]


def image(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_each_part_can_be_switched_off_with_one_key(options: dict[str, Any]) -> None:
    net = tiny_net(**options)
    assert (net.feature_dct is not None) == options.get("feature_dct", True)
    assert (net.auto_drag is not None) == options.get("auto_drag", True)
    logits = net(image(), some_clicks())
    assert logits.shape == (2, 1, 32, 32)
    assert logits.dtype == torch.float32


def test_auto_drag_serves_only_encoders_that_read_the_radius() -> None:
    assert tiny_net(click_encoder="Gaussian").auto_drag is None


@pytest.mark.parametrize("fusion", get_args(PromptFusion))
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 32)])
def test_any_input_size_works(fusion: str, name: str, size: tuple[int, int]) -> None:
    net = tiny_net(backbone=name, prompt_fusion=fusion, previous_mask=True)
    with torch.inference_mode():
        logits = net(
            image(1, *size),
            ClickBatch.from_clicks([[Click(0, 0), Click(size[0] - 1, size[1] - 1, positive=False)]]),
        )
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("fusion", get_args(PromptFusion))
def test_padding_below_and_right_does_not_affect_the_logits(fusion: str) -> None:
    net = tiny_net(prompt_fusion=fusion, previous_mask=True)
    small, clicks, previous = image(2, 33, 47), some_clicks(), torch.rand(2, 1, 33, 47)
    padded, padded_previous = (
        nn.functional.pad(t, (0, 17, 0, 31), mode="replicate") for t in (small, previous)
    )
    maps = net.click_encoder(clicks, (33, 47))
    inside = net(small, clicks, previous)
    assert inside.shape == (2, 1, 33, 47)
    net.click_encoder = _Maps(nn.functional.pad(maps, (0, 17, 0, 31), mode="replicate"))  # type: ignore[assignment]
    torch.testing.assert_close(inside, net(padded, clicks, padded_previous)[..., :33, :47])


class _Maps(nn.Module):
    needs_radius = True
    needs_image = False

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        return self.maps


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_each_image_of_a_batch_has_the_same_logits_as_alone(options: dict[str, Any]) -> None:
    net, previous = tiny_net(**options), torch.rand(2, 1, 32, 32)
    together = net(image(), some_clicks(), previous)
    for index, clicks in enumerate(some_clicks().to_clicks()):
        alone = net(image()[index : index + 1], ClickBatch.from_clicks([clicks]), previous[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=1e-4)


def test_nothing_is_remembered_between_clicks() -> None:
    net = tiny_net()
    first = net(image(), some_clicks())
    net(image() * 0.5, fewer_clicks())
    assert torch.equal(net(image(), some_clicks()), first)


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_no_clicks_are_not_an_error(options: dict[str, Any]) -> None:
    net = tiny_net(**options)
    assert net(image(), ClickBatch.empty(2)).isfinite().all()


def test_finished_image_with_only_padding_gives_finite_logits_and_gradients() -> None:
    net = tiny_net().train()
    clicks = ClickBatch.from_clicks([[], [Click(3, 4, radius=2.0)]])
    net(image(), clicks).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_clicks_matter_through_the_maps_and_through_feature_dct() -> None:
    for options in ({"feature_dct": False}, {}):
        net = tiny_net(**options)
        assert not torch.equal(net(image(), some_clicks()), net(image(), fewer_clicks()))
    net = tiny_net()
    nn.init.zeros_(next(iter(net.backbone.stem_map_parameters())))  # the maps are cut off
    assert not torch.equal(net(image(), some_clicks()), net(image(), fewer_clicks()))


def test_previous_mask_matters_only_if_enabled() -> None:
    previous = torch.rand(2, 1, 32, 32)
    with_mask, without = tiny_net(previous_mask=True), tiny_net()
    assert not torch.equal(with_mask(image(), some_clicks(), previous), with_mask(image(), some_clicks()))
    assert torch.equal(
        with_mask(image(), some_clicks(), torch.zeros_like(previous)), with_mask(image(), some_clicks())
    )
    assert torch.equal(without(image(), some_clicks(), previous), without(image(), some_clicks()))


@pytest.mark.parametrize("fusion", get_args(PromptFusion))
@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_has_a_finite_gradient_at_each_click(fusion: str, name: str) -> None:
    """Under DDP, a parameter outside the loss causes a hang or an error."""
    net = DCTNet(
        DCTNetConfig(**{**TINY, "backbone": name, "prompt_fusion": fusion})
    )  # fresh: weights that start at zero are zero
    clicks = some_clicks(radius=None)
    features = net.encode_image(image())
    log_radii = net.log_radii(features, clicks, None, (32, 32))
    loss = (
        net(image(), clicks.with_radii(log_radii.detach().exp())).square().mean() + log_radii.square().mean()
    )
    loss.backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []
    assert [key for key, p in net.named_parameters() if not p.grad.isfinite().all()] == []  # type: ignore[union-attr]


def test_batch_of_one_image_trains() -> None:
    net = tiny_net(frozen_batch_norm=True).train()
    before = net.decoder.predict.weight.detach().clone()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    net(image(1), some_clicks()[1:]).square().mean().backward()
    optimizer.step()
    assert not torch.equal(net.decoder.predict.weight, before)


def statistics(net: DCTNet) -> list[Tensor]:
    return [b.clone() for key, b in net.backbone.named_buffers() if "running" in key or "num_batches" in key]


def test_batch_norm_of_a_fresh_network_is_frozen(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "backbone.pth")
    weights = str(tmp_path / "backbone.pth")
    net = DCTNet(DCTNetConfig(**{**TINY, "backbone_weights": weights}))  # nobody called train()
    before = statistics(net)
    net(image(), some_clicks())
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(net), strict=True))


def test_batch_norm_of_random_weights_is_not_frozen() -> None:
    net = DCTNet(DCTNetConfig(**TINY))
    assert not net.config.frozen_batch_norm
    before = statistics(net)
    net(image(), some_clicks())
    assert not torch.equal(before[0], statistics(net)[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda x: (x * 255).byte(),
            r"an image batch must be float in 0\.\.1, got torch\.uint8; use image\.float\(\) / 255",
        ),
        (
            lambda x: x * 255,
            r"an image batch must be float in 0\.\.1, got values from .* to 25\d; divide it by 255",
        ),
        (lambda x: (x - 0.45) / 0.22, "do not normalize it, the network does that itself"),
        (lambda x: x * float("nan"), "got values from nan to nan"),
    ],
)
def test_images_of_another_range_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        tiny_net()(wrong(image(1)), some_clicks()[1:])


@pytest.mark.parametrize("click", [Click(-3, 5, radius=4.0), Click(5, 64, radius=4.0)])
def test_clicks_outside_the_image_are_refused(click: Click) -> None:
    with pytest.raises(
        ValueError, match=r"click 1 of image 0 is at \(.*\), outside its 32 rows and 32 columns"
    ):
        tiny_net()(image(1), ClickBatch.from_clicks([[Click(5, 5, radius=4.0), click]]))


def test_batch_norm_stays_frozen_after_train_of_the_network_and_its_parent() -> None:
    net = tiny_net()
    holder = nn.ModuleDict({"net": net})
    for mode in (net.train, holder.train, lambda: holder.eval().train()):
        mode()
        assert net.training
        assert net.decoder.training
        assert not any(m.training for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    before = statistics(net)
    net(image(), some_clicks())
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(net), strict=True))


def test_frozen_batch_norm_still_learns_its_scale() -> None:
    net = tiny_net().train()
    net(image(), some_clicks()).square().sum().backward()
    norms = [m for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.weight.grad is not None for m in norms)


def test_batch_norm_is_updated_if_not_frozen() -> None:
    net = tiny_net(frozen_batch_norm=False).train()
    before = statistics(net)
    net(image(), some_clicks())
    assert not torch.equal(before[0], statistics(net)[0])


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_parameter_groups_hold_each_parameter_once(options: dict[str, Any]) -> None:
    net = tiny_net(**options)
    new, old, *normless = net.parameter_groups(1e-3, backbone_lr_factor=0.1)
    grouped = [id(p) for group in (new, old, *normless) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())
    assert (new["lr"], old["lr"]) == (1e-3, pytest.approx(1e-4))
    assert {id(p) for p in net.backbone.stem_map_parameters()} <= {id(p) for p in new["params"]}
    assert id(next(net.backbone.parameters())) in {id(p) for p in old["params"]}


def test_layers_that_absorbed_the_norm_learn_at_a_rate_relative_to_their_magnitude() -> None:
    net = tiny_net(feature_dct_norm="none")
    refined = [block.refine.conv.weight for block in net.decoder.blocks[: net.num_dct]]
    with torch.no_grad():
        refined[0] /= 100
    _, _, *normless = net.parameter_groups(1e-3)
    assert [group["params"] for group in normless] == [[weight] for weight in refined]
    rates = [group["lr"] for group in normless]
    assert rates[0] == pytest.approx(1e-5, rel=0.1)
    assert rates[1:] == pytest.approx([1e-3] * (len(rates) - 1), rel=0.1)


def test_training_from_the_shipped_weights_changes_no_layer_by_more_than_its_magnitude() -> None:
    net = DCTNet.from_pretrained()
    before = {name: p.detach().clone() for name, p in net.decoder.named_parameters() if p.ndim == 4}
    optimizer = torch.optim.AdamW(net.parameter_groups(2e-4, backbone_lr_factor=0.2))
    net.train()
    for _ in range(2):
        net(image(), some_clicks()).square().mean().backward()
        optimizer.step()
    for name, weight in net.decoder.named_parameters():
        if name in before:
            assert (weight - before[name]).norm() < 0.1 * before[name].norm(), name


def test_click_without_a_radius_gets_the_auto_drag_head_s() -> None:
    net = tiny_net()
    bare = some_clicks(radius=None)
    filled = net.fill_radii(image(), bare)
    assert not filled.lacks_radius.any()
    torch.testing.assert_close(net(image(), bare), net(image(), filled))
    wanted = net.log_radii(net.encode_image(image()), bare, None, (32, 32)).exp()
    assert torch.equal(filled.radii[bare.valid], wanted[bare.valid])


def test_radius_of_a_drag_is_kept() -> None:
    net = tiny_net()
    mixed = ClickBatch.from_clicks([[Click(3, 4, radius=5.0), Click(9, 9)], [Click(8, 8)]])
    filled = net.fill_radii(image(), mixed)
    assert filled.radii[0, 0] == 5.0
    assert filled.radii[1, 1].isnan()  # padding
    assert net.fill_radii(image(), filled) is filled


def test_click_without_a_radius_and_without_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match="SpatialDCT needs a radius for each click"):
        tiny_net(auto_drag=False)(image(), some_clicks(radius=None))


def test_image_s_features_can_be_computed_once() -> None:
    net, bare = tiny_net(), some_clicks(radius=None)
    features = net.encode_image(image())
    assert torch.equal(
        net.fill_radii(image(), bare, None, features).radii.nan_to_num(),
        net.fill_radii(image(), bare).radii.nan_to_num(),
    )


def test_early_fusion_is_the_default_and_has_no_parameter_of_late_fusion() -> None:
    net = tiny_net()
    assert not net.is_late
    assert {name for name, _ in net.named_children()} == {
        "click_encoder",
        "backbone",
        "decoder",
        "feature_dct",
        "auto_drag",
    }


def test_late_fusion_runs_the_backbone_once_on_the_image_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, previous = tiny_net(prompt_fusion="late", previous_mask=True), torch.rand(2, 1, 32, 32)
    wanted = [net(image(), some_clicks()), net(image(), some_clicks(radius=None), previous)]
    features = net.encode_image(image())
    monkeypatch.setattr(net.backbone, "forward", None)  # any call now fails
    given = [
        net(image(), some_clicks(), None, features),
        net(image(), some_clicks(radius=None), previous, features),
    ]
    for one, other in zip(given, wanted, strict=True):
        assert torch.equal(one, other)


def test_late_fusion_gets_clicks_and_mask_from_its_branch_and_clicks_from_feature_dct() -> None:
    without_dct = tiny_net(prompt_fusion="late", previous_mask=True, feature_dct=False)
    assert not torch.equal(without_dct(image(), some_clicks()), without_dct(image(), fewer_clicks()))
    assert not torch.equal(
        without_dct(image(), some_clicks(), torch.rand(2, 1, 32, 32)), without_dct(image(), some_clicks())
    )
    deaf = tiny_net(prompt_fusion="late")
    nn.init.zeros_(deaf.prompt_branch.stem.weight)
    assert not torch.equal(deaf(image(), some_clicks()), deaf(image(), fewer_clicks()))
    nn.init.zeros_(deaf.feature_dct.net[-1].weight)  # type: ignore[union-attr, index, arg-type]
    assert torch.equal(deaf(image(), some_clicks()), deaf(image(), fewer_clicks()))


def test_gradient_of_late_fusion_reaches_the_backbone_through_a_shared_encoding() -> None:
    net = tiny_net(prompt_fusion="late").train()
    features = net.encode_image(image())
    (
        net(image(), some_clicks(), None, features).mean()
        + net(image(), fewer_clicks(), None, features).mean()
    ).backward()
    shared = {name: p.grad.clone() for name, p in net.backbone.named_parameters() if p.grad is not None}
    net.zero_grad()
    (net(image(), some_clicks()).mean() + net(image(), fewer_clicks()).mean()).backward()
    assert any(gradient.any() for gradient in shared.values())
    for name, p in net.backbone.named_parameters():
        torch.testing.assert_close(shared[name], p.grad, atol=1e-5, rtol=1e-3)


def test_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown prompt fusion 'later'; did you mean 'late'"):
        tiny_net(prompt_fusion="later")


def test_bfloat16_and_channels_last_are_close_to_float32() -> None:
    net = tiny_net()
    wanted = net(image(), some_clicks())
    fast = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16):
        logits = fast(image().contiguous(memory_format=torch.channels_last), some_clicks())
    assert logits.dtype == torch.float32
    assert (logits - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize(
    ("shape", "clicks", "previous", "message"),
    [
        ((3, 32, 32), 1, None, r"an image batch must be \(B, 3, H, W\), got \(3, 32, 32\)"),
        ((1, 1, 32, 32), 1, None, r"an image batch must be \(B, 3, H, W\), got \(1, 1, 32, 32\)"),
        (
            (2, 3, 32, 32),
            1,
            None,
            "clicks must have one list per image, got 1 for 2 images; for images without clicks, pass "
            "ClickBatch.empty",
        ),
        (
            (1, 3, 32, 32),
            1,
            (1, 1, 16, 32),
            r"the previous mask of images \(1, 3, 32, 32\) must be \(B, 1, H, W\), got \(1, 1, 16, 32\)",
        ),
    ],
)
def test_inconsistent_shapes_are_refused(
    shape: tuple[int, ...], clicks: int, previous: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_net()(
            torch.rand(shape), ClickBatch.empty(clicks), None if previous is None else torch.zeros(previous)
        )


def test_unknown_key_of_a_configuration_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"the model's configuration has unknown keys \['bakbone'\]; was it saved by a newer dct-seg\?",
    ):
        DCTNetConfig.from_dict({"bakbone": "resnet18"})


def test_unknown_click_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown click encoder 'Gausian'; did you mean 'Gaussian'"):
        tiny_net(click_encoder="Gausian")


def test_defaults_are_the_paper_s() -> None:
    config = DCTNetConfig()
    assert (config.backbone, config.backbone_weights, config.click_encoder) == (
        "resnet50",
        "imagenet",
        "SpatialDCT",
    )
    assert config.feature_dct
    assert config.auto_drag
    assert not config.previous_mask
    assert not config.normalize_features


def test_a_click_is_not_drowned_by_a_backbone_with_large_features() -> None:
    pyramid = FeaturePyramid([8, 16], [4, 8], hidden=16)
    features = [torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8)]
    usual, large = (pyramid([scale * feature for feature in features]) for scale in (1, 100))
    for a, b in zip(usual, large, strict=True):
        assert b.std() < 2 * a.std() + 0.1
        assert b.std() < 2


def statistics_of(net: DCTNet, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return torch.cat([mean for mean, _ in net.encode(image(1), clicks, previous).statistics], 1)


def test_feature_dct_reads_the_image_alone_if_configured() -> None:
    clicks, mask = some_clicks()[1:], torch.ones(1, 1, 32, 32)
    fused = tiny_net(previous_mask=True)
    alone = tiny_net(previous_mask=True, feature_dct_input="image")
    assert not torch.equal(statistics_of(fused, clicks), statistics_of(fused, clicks, mask))
    assert torch.equal(statistics_of(alone, clicks), statistics_of(alone, clicks, mask))
    assert not torch.equal(statistics_of(alone, clicks), statistics_of(fused, clicks))
    late = tiny_net(previous_mask=True, prompt_fusion="late")
    assert torch.equal(statistics_of(late, clicks), statistics_of(late, clicks, mask))


def test_unknown_feature_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown feature_dct_input 'picture'.* known: fused, image"):
        tiny_net(feature_dct_input="picture")
