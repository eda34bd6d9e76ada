"""Trained weights: one safetensors file with the network's configuration in its metadata."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dct_seg.files import write_whole
from dct_seg.models.hub import fetch, is_hub_name
from dct_seg.registry import unknown_name

if TYPE_CHECKING:
    from dct_seg.models.network import InteractiveNetwork

FORMAT_VERSION = 1
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that trained weights are stored in."""
DEFAULT = "dct-lite0"


@dataclass(frozen=True)
class Stored:
    """Contents of a weights file.

    The configuration, the tensors, the model card's lines, and where it came from.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    source: str
    card: dict[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """The models that ship with the package."""
    folder = files("dct_seg") / "weights"
    shipped = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".safetensors") for name in shipped if name.endswith(".safetensors"))


def save(net: InteractiveNetwork, path: str | Path, *, half: bool, card: Mapping[str, str]) -> Path:
    """Write ``net`` to a temporary name, then rename, so that a file is whole or not there.

    Raises:
        ValueError: A suffix of another format; a weight that float16 cannot hold.
    """
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError(
            f"weights are written as safetensors, got '{path}'; give a .safetensors file or a folder"
        )
    if path.suffix != ".safetensors":
        path = path / "model.safetensors"
    state = {key: _stored(key, value, half) for key, value in net.state_dict().items()}
    metadata = {**card, "format_version": str(FORMAT_VERSION), "config": json.dumps(asdict(net.config))}
    return write_whole(
        path, as_bytes(state, metadata)
    )  # safetensors' own writer leaves a file that nobody else may read


def _stored(key: str, value: Tensor, half: bool) -> Tensor:
    stored = value.half() if half and value.is_floating_point() else value
    if half and not stored.isfinite().all():
        raise ValueError(
            f"'{key}' holds values up to {float(value.abs().max()):.3g}, more than float16 can; save without "
            "half"
        )
    return stored.detach().cpu().contiguous().clone()


def load(name_or_path: str | Path, *, revision: str | None = None) -> Stored:
    """Read the weights behind a shipped name, a file, a folder or ``org/name`` on the Hugging Face Hub.

    A path that exists is never asked of the Hub.

    Raises:
        FileNotFoundError: No file at a path.
        ValueError: Unknown name; a file that is broken or not one of ours.
    """
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "model.safetensors"
    if path.is_file():
        return (
            _load_checkpoint(path) if path.suffix == ".ckpt" else _load_safetensors(path, str(name_or_path))
        )
    name = str(name_or_path)
    if is_hub_name(name):
        return _load_safetensors(fetch(name, revision=revision), name)
    if path.name != name or path.suffix in (".safetensors", ".ckpt", ".pth"):
        shipped = ", ".join(names()) or "none yet"
        raise FileNotFoundError(
            f"no weights at '{name}'; give a file that dct-seg wrote, or one of the shipped names: {shipped}"
        )
    if name not in names():
        raise unknown_name("pretrained model", name, names())
    with as_file(files("dct_seg") / "weights" / f"{name}.safetensors") as file:
        return _load_safetensors(file, name)


def _load_safetensors(path: Path, source: str) -> Stored:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"'{source}' is not a whole safetensors file ({error}); was it cut short? fetch or save it again"
        ) from error
    if "config" not in metadata:
        raise ValueError(
            f"'{source}' holds no dct-seg configuration; write weights with DCTNet.save_pretrained"
        )
    try:
        version, config = int(metadata.get("format_version", "0")), json.loads(metadata["config"])
        if not isinstance(config, dict):
            raise TypeError("it is no mapping")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"'{source}' holds a configuration that cannot be read ({error}); save it again"
        ) from error
    if version > FORMAT_VERSION:
        raise ValueError(f"'{source}' was written by a newer dct-seg (format {version}); update dct-seg")
    card = {k: v for k, v in metadata.items() if k not in ("config", "format_version")}
    return Stored(config, state, source, card)


def _load_checkpoint(path: Path) -> Stored:
    """The network inside a training checkpoint (the averaged weights where training averaged them)."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"'{path}' is not a whole training checkpoint ({type(error).__name__}); was it cut short?"
        ) from error
    try:
        config, state = dict(checkpoint["hyper_parameters"]["network"]), checkpoint["state_dict"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' is a checkpoint, but not one of `dct-seg fit`: it holds no network configuration"
        ) from error
    prefix = "net."
    return Stored(
        config, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, str(path)
    )


def load_strictly(net: nn.Module, stored: Stored) -> None:
    """Put the stored tensors into ``net``; every one must be there, and fit.

    Raises:
        ValueError: When they are of another architecture; the message names the first that differs.
    """
    own = net.state_dict()
    _check_shapes(own, stored)
    check_tensors(f"'{stored.source}'", stored.state, own)
    net.load_state_dict({k: v.to(own[k].dtype) for k, v in stored.state.items()}, strict=True)


def check_architecture(build: Callable[[], nn.Module], stored: Stored) -> None:
    """Compare the stored tensors with those of the network that their configuration asks for, unbuilt.

    A file of 200 bytes can ask for a network of 10 GB; here its tensors take no memory.

    Args:
        build: Makes the network.
        stored: Tensors and configuration of a file.

    Raises:
        ValueError: They are of another architecture, or the configuration cannot be built.
    """
    if not stored.state:
        raise ValueError(f"'{stored.source}' holds no tensors; save the weights with save_pretrained")
    try:
        with _WithoutMemory():
            own = build().state_dict()
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"'{stored.source}' has a configuration that no network fits: {error}") from error
    except (RuntimeError, NotImplementedError) as error:
        if any(word in str(error) for word in ("overflow", "too large", "negative dimension")):
            raise ValueError(f"'{stored.source}' asks for a network of impossible size: {error}") from error
        return  # a backbone that computes with its weights while it is made
    _check_shapes(own, stored)


class _WithoutMemory(TorchFunctionMode):
    """Put new tensors on the meta device; what is computed from numbers alone stays where it is."""

    makers = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in self.makers and given.get("device") is None:
            given = {**given, "device": "meta"}
        return func(*args, **given)


def _check_shapes(own: Mapping[str, Tensor], stored: Stored) -> None:
    given = stored.state
    missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    misfits = sorted(k for k in own.keys() & given.keys() if own[k].shape != given[k].shape)
    if missing or unknown or misfits:
        raise ValueError(
            f"'{stored.source}' is of another architecture: {len(missing)} tensors missing, {len(unknown)} "
            f"unknown, {len(misfits)} of "
            f"another shape, first '{(missing or unknown or misfits)[0]}'; load it with the configuration it "
            "was trained with"
        )


def check_tensors(source: str, given: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Raise unless the tensors of a file can be weights.

    Args:
        source: Name of the file in the error.
        given: Tensors by name.
        own: Tensors of the network, by the same names.

    Raises:
        ValueError: When one has another type, or a value that is not finite; the message names the tensor.
    """
    for key, value in given.items():
        target = own.get(key)
        if target is None or not isinstance(value, Tensor):
            continue
        is_weight = target.is_floating_point()
        if (
            (value.dtype not in WEIGHT_TYPES)
            if is_weight
            else (value.is_floating_point() or value.is_complex())
        ):
            wanted = "float16, bfloat16, float32 or float64" if is_weight else "whole numbers"
            raise ValueError(
                f"{source} holds '{key}' as {value.dtype}, wanted {wanted}; save the weights again"
            )
        if is_weight and not bool(value.to(target.dtype).isfinite().all()):
            raise ValueError(
                f"{source} holds values in '{key}' that are not finite; did training diverge? take another"
            )
