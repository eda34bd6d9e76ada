"""Any timm backbone, with click maps entering its stem through weights that start at zero."""

from __future__ import annotations

import fnmatch
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from dct_seg.models.backbone_weights import load_backbone_weights, plain_key
from dct_seg.models.depthwise import use_fast_depthwise
from dct_seg.registry import did_you_mean

RESIZABLE = frozenset(
    [
        "deit",
        "efficientvit_msra",
        "eva",
        "mvitv2",
        "swiftformer",
        "swin_transformer",
        "swin_transformer_v2",
        "swin_transformer_v2_cr",
        "twins",
        "vision_transformer",
        "vision_transformer_hybrid",
        "vision_transformer_sam",
        "vitamin",
        "xcit",
    ]
)
"""Modules of timm whose models take any input size, though timm records the size they were trained at as
fixed."""

UNSUITABLE = frozenset(
    [
        "bat_resnext26ts",
        "byoanet",
        "csatv2",
        "efficientvim",
        "gemma4_vit",
        "inception_resnet_v2",
        "inception_v3",
        "inception_v4",
        "naflexvit",
        "nasnet",
        "pnasnet",
        "tresnet",
        "xception",
    ]
)
"""Modules, and one model, that do not suit: no first convolution over RGB, attention over fixed blocks,
unpadded or unused layers."""


class PromptedStem(nn.Module):
    """A backbone's first convolution, and beside it one for the maps whose weights start at zero.

    At step 0 the pretrained network is unchanged, whatever the maps hold.

    Args:
        image_conv: The pretrained convolution over RGB.
        num_maps: Number of extra input channels.
    """

    def __init__(self, image_conv: nn.Conv2d, num_maps: int) -> None:
        super().__init__()
        self.image_conv = image_conv
        kind = (
            Conv2dSame if "Same" in type(image_conv).__name__ else nn.Conv2d
        )  # plain: no weight standardisation of zeros
        self.map_conv = kind(
            num_maps,
            image_conv.out_channels,
            image_conv.kernel_size,  # type: ignore[arg-type]
            stride=image_conv.stride,  # type: ignore[arg-type]
            padding=image_conv.padding,  # type: ignore[arg-type]
            dilation=image_conv.dilation,  # type: ignore[arg-type]
            bias=False,
        )
        nn.init.zeros_(self.map_conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is (B, 3, H, W) for the image alone, or (B, 3 + num_maps, H, W)."""
        stem: Tensor = self.image_conv(x[:, :3])
        return stem + self.map_conv(x[:, 3:]) if x.shape[1] > 3 else stem


class Backbone(nn.Module):
    """A timm network that returns its feature pyramid, normalized input included.

    Args:
        name: A timm model that supports ``features_only``.
        weights: ``imagenet``, ``none``, or a path to a state dict (.safetensors, .pth) of the timm model,
            classifier or not.
        num_maps: Extra input channels (click maps, previous mask) that enter the stem; 0 for none.

    Raises:
        ValueError: Unknown name, no feature pyramid, no first convolution over RGB, weights that do not fit.
        FileNotFoundError: No file at ``weights``.
        RuntimeError: The pretrained weights could not be fetched.

    Attributes:
        channels: Channels of each level, fine to coarse.
        strides: Pixels of the image a step of each level, fine to coarse.
        multiple: An input's height and width must be multiples of this.
    """

    def __init__(self, name: str, *, weights: str = "imagenet", num_maps: int = 0) -> None:
        super().__init__()
        self.net = _create(name)
        load_backbone_weights(self.net, name, weights)
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        self.multiple = max(self.strides)
        if not _suits(name):
            _check_forward(self.net, name, self.multiple)
        self.channels_come_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"  # as Swin's do
        self.mean = nn.Buffer(torch.tensor(self.net.pretrained_cfg["mean"])[:, None, None], persistent=False)
        self.std = nn.Buffer(torch.tensor(self.net.pretrained_cfg["std"])[:, None, None], persistent=False)
        if num_maps:
            _add_maps(self.net, num_maps)
        use_fast_depthwise(self.net)

    def forward(self, image: Tensor, maps: Tensor | None = None) -> list[Tensor]:
        """The features of an image, with or without maps.

        Args:
            image: (B, 3, H, W) in 0..1; H and W multiples of ``multiple``.
            maps: (B, num_maps, H, W) or None.

        Returns:
            One (B, C_i, H / s_i, W / s_i) for each level, fine to coarse.
        """
        x = (image.to(self.mean.dtype) - self.mean) / self.std
        features: list[Tensor] = self.net(x if maps is None else torch.cat([x, maps.to(x)], 1))
        return [f.permute(0, 3, 1, 2) for f in features] if self.channels_come_last else features

    def stem_map_parameters(self) -> list[nn.Parameter]:
        """The weights through which maps enter; they are new, so they learn at the rate of the decoder."""
        return [p for m in self.modules() if isinstance(m, PromptedStem) for p in m.map_conv.parameters()]


def suitable_backbones(pattern: str = "*") -> list[str]:
    """Names of timm's models that can be a backbone, matching the shell-like ``pattern``.

    Told from the module of timm a model lives in and what timm records of it, without building it: its first
    layer is a convolution over RGB, and it takes any input size. A model that is not listed may still work by
    its name.

    Examples:
        >>> suitable_backbones("tf_efficientnet_lite*")[:2]
        ['tf_efficientnet_lite0', 'tf_efficientnet_lite1']
        >>> suitable_backbones("mixer*")
        []
    """
    return [name for name in timm.list_models() if fnmatch.fnmatch(name, pattern) and _suits(name)]


def _suits(name: str) -> bool:
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return not {name, family} & UNSUITABLE and (
        family in RESIZABLE or not timm.get_pretrained_cfg(name).fixed_input_size
    )


def _check_forward(net: Any, name: str, multiple: int) -> None:
    """See that a network which timm does not record as flexible takes another size than it was trained at."""
    was_training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, 4 * multiple, 6 * multiple))
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        raise ValueError(
            f"backbone '{name}' takes images of one size alone ({str(error).splitlines()[0]}); "
            "`dct-seg list backbones` shows those that take any"
        ) from error
    finally:
        net.train(was_training)


def _create(name: str) -> Any:
    if not timm.is_model(name):
        raise ValueError(
            f"unknown backbone '{name}';{did_you_mean(name, timm.list_models())} `dct-seg list backbones` "
            "shows those that suit"
        )
    try:
        try:
            return timm.create_model(
                name, features_only=True, dynamic_img_size=True
            )  # a ViT's position embedding follows the input
        except TypeError:  # not a model with a position embedding
            return timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"backbone '{name}' gives no feature pyramid ({error}); `dct-seg list backbones` shows those "
            "that do"
        ) from error


def _add_maps(net: Any, num_maps: int) -> None:
    """Put a :class:`PromptedStem` instead of each convolution that timm says is a first one."""
    first = net.pretrained_cfg.get("first_conv") or ()
    wanted = {plain_key(name) for name in ([first] if isinstance(first, str) else first)}
    convs = {
        name: m
        for name, m in net.named_modules()
        if plain_key(name) in wanted and isinstance(m, nn.Conv2d) and m.in_channels == 3
    }
    if not convs:
        raise ValueError(
            f"backbone '{net.pretrained_cfg['architecture']}' has no first convolution over RGB (timm says "
            f"{first!r}), where click maps "
            "could enter; `dct-seg list backbones` shows those that have"
        )
    for name, conv in convs.items():
        net.set_submodule(name, PromptedStem(conv, num_maps))
