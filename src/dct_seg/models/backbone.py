"""Timm backbones with additional stem inputs for click maps, whose weights start at zero."""

from __future__ import annotations

import fnmatch
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from dct_seg.models.backbone_weights import load_backbone_weights, plain_key
from dct_seg.models.depthwise import use_fast_depthwise
from dct_seg.models.folded_norm import fold_frozen_norms
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
"""Timm modules whose models take any input size, although timm records their size as fixed."""

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
"""Unsuitable timm modules and models: no first RGB convolution, fixed attention blocks, unused layers."""


class PromptedStem(nn.Module):
    """First convolution of a backbone, plus a convolution of the maps whose weights start at zero.

    Before training, the output is that of the pretrained network for any maps.

    Args:
        image_conv: Pretrained convolution over RGB.
        num_maps: Number of extra input channels.
    """

    def __init__(self, image_conv: nn.Conv2d, num_maps: int) -> None:
        super().__init__()
        self.image_conv = image_conv
        kind = (
            Conv2dSame if "Same" in type(image_conv).__name__ else nn.Conv2d
        )  # a plain convolution: weight standardization of zeros is undefined
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
        """Convolve (B, 3, H, W), the image only, or (B, 3 + num_maps, H, W)."""
        stem: Tensor = self.image_conv(x[:, :3])
        return stem + self.map_conv(x[:, 3:]) if x.shape[1] > 3 else stem


class Backbone(nn.Module):
    """Timm network that normalizes its input and returns its feature pyramid.

    Args:
        name: Timm model that supports ``features_only``.
        weights: ``imagenet``, ``none``, or the path of a state dict (.safetensors, .pth) of the timm model,
            with or without its classifier.
        num_maps: Extra input channels (click maps, previous mask) that enter the stem; 0 for none.

    Raises:
        ValueError: When the name is unknown, the model has no feature pyramid or no first convolution over
            RGB, or the weights do not fit.
        FileNotFoundError: When the file ``weights`` does not exist.
        RuntimeError: When the pretrained weights could not be downloaded.

    Attributes:
        channels: Channels of each level, fine to coarse.
        strides: Stride of each level in image pixels, fine to coarse.
        multiple: Divisor of an input's height and width.
    """

    def __init__(self, name: str, *, weights: str = "imagenet", num_maps: int = 0) -> None:
        super().__init__()
        self.net = _create(name)
        load_backbone_weights(self.net, name, weights)
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        self.multiple = max(self.strides)
        if not _is_suitable(name):
            _check_forward(self.net, name, self.multiple)
        self.channels_come_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"  # such as Swin
        self.mean = nn.Buffer(torch.tensor(self.net.pretrained_cfg["mean"])[:, None, None], persistent=False)
        self.std = nn.Buffer(torch.tensor(self.net.pretrained_cfg["std"])[:, None, None], persistent=False)
        if num_maps:
            _add_maps(self.net, num_maps)
        use_fast_depthwise(self.net)
        fold_frozen_norms(self.net)

    def forward(self, image: Tensor, maps: Tensor | None = None) -> list[Tensor]:
        """Compute the features of an image, with or without maps.

        Args:
            image: (B, 3, H, W) in 0..1; H and W multiples of ``multiple``.
            maps: (B, num_maps, H, W) or None.

        Returns:
            Features (B, C_i, H / s_i, W / s_i) of each level, fine to coarse.
        """
        x = (image.to(self.mean.dtype) - self.mean) / self.std
        features: list[Tensor] = self.net(x if maps is None else torch.cat([x, maps.to(x)], 1))
        return [f.permute(0, 3, 1, 2) for f in features] if self.channels_come_last else features

    def stem_map_parameters(self) -> list[nn.Parameter]:
        """Weights of the maps in the stem; they are new, so they learn at the decoder's rate."""
        return [p for m in self.modules() if isinstance(m, PromptedStem) for p in m.map_conv.parameters()]


def suitable_backbones(pattern: str = "*") -> list[str]:
    """List the timm models that can be a backbone and match the shell-like ``pattern``.

    A listed model starts with a convolution over RGB and accepts any input size, according to its timm module
    and timm's records; no model is built. A model that is not listed may still work.

    Examples:
        >>> suitable_backbones("tf_efficientnet_lite*")[:2]
        ['tf_efficientnet_lite0', 'tf_efficientnet_lite1']
        >>> suitable_backbones("mixer*")
        []
    """
    return [name for name in timm.list_models() if fnmatch.fnmatch(name, pattern) and _is_suitable(name)]


def _is_suitable(name: str) -> bool:
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return not {name, family} & UNSUITABLE and (
        family in RESIZABLE or not timm.get_pretrained_cfg(name).fixed_input_size
    )


def _check_forward(net: Any, name: str, multiple: int) -> None:
    """Check that a network with a fixed size in timm's records accepts other sizes."""
    was_training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, 4 * multiple, 6 * multiple))
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        raise ValueError(
            f"backbone '{name}' accepts images of a single size ({str(error).splitlines()[0]}); "
            "`dct-seg list backbones` shows those that accept any"
        ) from error
    finally:
        net.train(was_training)


def _create(name: str) -> Any:
    if not timm.is_model(name):
        raise ValueError(
            f"unknown backbone '{name}';{did_you_mean(name, timm.list_models())} `dct-seg list backbones` "
            "shows the suitable ones"
        )
    try:
        try:
            return timm.create_model(
                name, features_only=True, dynamic_img_size=True
            )  # a ViT's position embedding follows the input
        except TypeError:  # a model without a position embedding
            return timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"backbone '{name}' has no feature pyramid ({error}); `dct-seg list backbones` shows those "
            "that do"
        ) from error


def _add_maps(net: Any, num_maps: int) -> None:
    """Replace each first convolution, as listed by timm, by a `PromptedStem`."""
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
            "could enter; `dct-seg list backbones` shows those with one"
        )
    for name, conv in convs.items():
        net.set_submodule(name, PromptedStem(conv, num_maps))
