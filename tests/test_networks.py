"""Networks: all against one contract, and how they are built, stored and refused."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import TINY, some_clicks, tiny_net, write_plugin
from torch import Tensor

from dct_seg import Click, ClickBatch, DCTNet, DCTNetConfig
from dct_seg.models.network import NETWORKS, InteractiveNetwork, build_network
from dct_seg.training.losses import LossSum

PLAIN: dict[str, Any] = {"click_encoder": "Euclidean", "feature_dct": False, "auto_drag": False}
OPTIONS: dict[str, dict[str, Any]] = {"dct_net": {}}
"""Options of a network for the contract, in addition to ``PLAIN``."""

BACKBONES = ["resnet18", "mobilenetv3_small_050"]


def image(batch: int = 2, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=NETWORKS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network(name: str, **options: Any) -> Any:
    return tiny_net(network=name, **{**OPTIONS.get(name, PLAIN), **options})


def loss_of(net: Any, clicks: ClickBatch) -> Tensor:
    output = net.decode(net.encode(image(), clicks))
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[:, 5:20, 5:20] = True
    loss: Tensor = net.loss(output, mask, torch.zeros_like(mask), clicks, LossSum({"bce": 1.0, "dice": 1.0}))
    return loss


class TestContract:
    """Contract of every registered network."""

    @pytest.mark.parametrize("backbone", BACKBONES)
    @pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 32)])
    def test_any_size_and_backbone_work(self, name: str, backbone: str, size: tuple[int, int]) -> None:
        net = network(name, backbone=backbone, previous_mask=True)
        clicks = [[Click(0, 0, radius=3.0), Click(size[0] - 1, size[1] - 1, False, 2.0)]]
        with torch.inference_mode():
            logits = net(image(1, *size), ClickBatch.from_clicks(clicks))
        assert logits.shape == (1, 1, *size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    def test_padding_leaves_no_trace(self, name: str) -> None:
        net = network(name)
        clicks = some_clicks()
        nothing = torch.full((2, 2), -1)
        padded = ClickBatch(
            torch.cat([clicks.coords, torch.full((2, 2, 2), 9.0)], 1),
            torch.cat([clicks.labels, nothing], 1),
            torch.cat([clicks.radii, torch.full((2, 2), torch.nan)], 1),
        )
        torch.testing.assert_close(net(image(), padded), net(image(), clicks), atol=1e-5, rtol=1e-5)

    def test_each_image_of_a_batch_has_the_same_logits_as_alone(self, name: str) -> None:
        net = network(name)
        together = net(image(), some_clicks())
        for i, clicks in enumerate(some_clicks().to_clicks()):
            alone = net(image()[i : i + 1], ClickBatch.from_clicks([clicks]))
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_every_parameter_has_a_finite_gradient_with_and_without_clicks(
        self, name: str, backbone: str
    ) -> None:
        """Under DDP a parameter outside the loss hangs or raises."""
        net = build_network(
            DCTNetConfig(**{**TINY, **OPTIONS.get(name, PLAIN), "network": name, "backbone": backbone})
        )
        for clicks in (some_clicks(), ClickBatch.empty(2)):
            loss = loss_of(net, clicks)
            assert loss.shape == (2,)
            net.zero_grad()
            loss.sum().backward()
            own = [(key, p) for key, p in net.named_parameters() if not key.startswith("auto_drag.")]
            assert [key for key, p in own if p.grad is None] == []
            assert [key for key, p in own if not p.grad.isfinite().all()] == []  # type: ignore[union-attr]

    def test_each_image_has_the_same_loss_as_alone(self, name: str) -> None:
        net = network(name)
        together = loss_of(net, some_clicks())
        swapped = loss_of(net, ClickBatch.from_clicks(some_clicks().to_clicks()[:1] * 2))
        torch.testing.assert_close(together[:1], swapped[:1], atol=1e-4, rtol=1e-4)

    def test_saved_and_loaded_network_is_bit_identical(self, name: str, tmp_path: Path) -> None:
        net = network(name)
        path = net.save_pretrained(tmp_path / "net.safetensors")
        again = InteractiveNetwork.from_pretrained(path)
        assert type(again) is NETWORKS.get(name)
        assert not again.training
        assert torch.equal(again(image(), some_clicks()), net(image(), some_clicks()))

    def test_no_clicks_and_bfloat16_work(self, name: str) -> None:
        net = network(name)
        with torch.autocast("cpu", torch.bfloat16):
            for clicks in (ClickBatch.empty(2), some_clicks()):
                logits = net(image(), clicks)
                assert logits.dtype == torch.float32
                assert logits.isfinite().all()

    def test_adjust_is_called_once_per_point_and_the_identity_changes_nothing(self, name: str) -> None:
        net = network(name)
        seen: list[str] = []

        def look(point: str, value: Any) -> Any:
            seen.append(point)
            return value

        output = net.decode(net.encode(image(), some_clicks(), adjust=look), look)
        assert torch.equal(output.logits, net(image(), some_clicks()))
        without = {"statistics"} if getattr(net, "feature_dct", None) is None else set()
        expected = [point for point in net.points if point not in without]
        assert sorted(seen) == sorted(expected)

    def test_fresh_network_keeps_a_pretrained_backbone_s_batch_norm_frozen(
        self, name: str, tmp_path: Path
    ) -> None:
        torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "backbone.pth")
        pretrained = {"backbone": "resnet18", "backbone_weights": str(tmp_path / "backbone.pth")}
        options = {**TINY, **OPTIONS.get(name, PLAIN), "network": name, **pretrained}
        net = build_network(DCTNetConfig(**options))
        norms = [m for m in net.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(m.training for m in norms)
        assert net.training


def test_configuration_without_a_network_is_dct_net() -> None:
    assert type(build_network({**TINY})) is DCTNet
    assert DCTNetConfig.from_dict({}).network == "dct_net"


def test_unknown_network_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'dctnet'; did you mean 'dct_net'\?"):
        build_network(DCTNetConfig(**TINY, network="dctnet"))


def test_option_that_a_network_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="network 'dct_net' has no option width; it has none"):
        build_network(DCTNetConfig(**TINY, network_options={"width": 3.0}))


OTHER = """
from torch import nn
from dct_seg.models.network import InteractiveNetwork, Output

class Other(InteractiveNetwork):
    def __init__(self, config, *, scale: float = 1.0):
        super().__init__(config)
        self.scale = scale
        self.predict = nn.Conv2d(self.channels[-1], 1, 1)

    def decode(self, encoded, adjust=None):
        return Output(self.at_image_size(self.scale * self.predict(encoded.features[-1]), encoded))
"""


def test_third_party_s_network_is_built_saved_and_identified_by_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, group="dct_seg.networks", name="Other", code=OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(NETWORKS, "_entries", dict(NETWORKS._entries))
    monkeypatch.setattr(NETWORKS, "_plugins_loaded", False)
    net = build_network(DCTNetConfig(**TINY, **PLAIN, network="Other", network_options={"scale": 2.0}))
    assert net.eval()(image(), some_clicks()).shape == (2, 1, 32, 32)
    path = net.save_pretrained(tmp_path / "other.safetensors")
    again = InteractiveNetwork.from_pretrained(path)
    assert torch.equal(again(image(), some_clicks()), net(image(), some_clicks()))
    with pytest.raises(
        ValueError, match=r"contains Other, not DCTNet; load it with InteractiveNetwork\.from_pretrained"
    ):
        DCTNet.from_pretrained(path)


def test_unknown_decoder_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown decoder norm 'layer'; known: instance, batch"):
        tiny_net(decoder_norm="layer")


@pytest.mark.parametrize("name", ["ris_net", "iis_ld"])
def test_detail_is_refused_by_a_network_that_would_ignore_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"network '{name}' has several outputs.* set detail to false"):
        network(name, detail=True)


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ("late", "network 'fcn' cannot add clicks late; set prompt_fusion to early"),
        ("later", "unknown prompt fusion 'later'; did you mean 'late'"),
    ],
)
def test_fusion_that_a_network_would_ignore_is_refused(fusion: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network("fcn", prompt_fusion=fusion)
