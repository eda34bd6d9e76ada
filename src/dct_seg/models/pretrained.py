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
"""Types in which trained weights are stored."""
DEFAULT = "dct-lite0"


@dataclass(frozen=True)
class Stored:
    """Contents of a weights file: configuration, tensors, metadata and source."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    source: str
    card: dict[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """Names of the shipped models."""
    folder = files("dct_seg") / "weights"
    shipped = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".safetensors") for name in shipped if name.endswith(".safetensors"))


def save(net: InteractiveNetwork, path: str | Path, *, half: bool, card: Mapping[str, str]) -> Path:
    """Write ``net`` to a file, atomically.

    Raises:
        ValueError: When the suffix is of another format, or float16 cannot hold a weight.
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
    )  # safetensors' own writer makes a file that only its owner can read


def _stored(key: str, value: Tensor, half: bool) -> Tensor:
    stored = value.half() if half and value.is_floating_point() else value
    if half and not stored.isfinite().all():
        raise ValueError(
            f"'{key}' has values up to {float(value.abs().max()):.3g}, more than float16 can; save without "
            "half"
        )
    return stored.detach().cpu().contiguous().clone()


def load(name_or_path: str | Path, *, revision: str | None = None) -> Stored:
    """Read weights by shipped name, file, folder or ``org/name`` on the Hugging Face Hub.

    An existing path is never looked up on the Hub.

    Raises:
        FileNotFoundError: When the file does not exist.
        ValueError: When the name is unknown, the file is damaged or was written by another program, or a
            file has a revision.
    """
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if is_hub_name(name) and not path.exists():
        return _load_safetensors(fetch(name, revision=revision), name)
    check_revision(name, revision)
    file = path / "model.safetensors" if path.is_dir() else path
    if file.is_file():
        return _load_checkpoint(file) if file.suffix == ".ckpt" else _load_safetensors(file, name)
    if name in names():
        with as_file(files("dct_seg") / "weights" / f"{name}.safetensors") as shipped:
            return _load_safetensors(shipped, name)
    if path.is_dir():
        raise FileNotFoundError(
            f"folder '{name}' contains no model.safetensors; give a folder written by save_pretrained"
        )
    if path.name != name or path.suffix in (".safetensors", ".ckpt", ".pth"):
        raise FileNotFoundError(
            f"no weights at '{name}'; give a file written by dct-seg, or one of the shipped names: "
            f"{', '.join(names()) or 'none yet'}"
        )
    raise unknown_name("pretrained model", name, names())


def check_revision(name: str, revision: str | None) -> None:
    """Refuse a revision of weights that are not on the Hugging Face Hub.

    Raises:
        ValueError: When a revision was given.
    """
    if revision is not None:
        raise ValueError(
            f"revision '{revision}' belongs to weights on the Hugging Face Hub, and '{name}' is not one of "
            "them; omit revision"
        )


def _load_safetensors(path: Path, source: str) -> Stored:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"'{source}' is not a whole safetensors file ({error}); is it truncated? fetch or save it again"
        ) from error
    if "config" not in metadata:
        raise ValueError(
            f"'{source}' contains no dct-seg configuration; write weights with DCTNet.save_pretrained"
        )
    try:
        version, config = int(metadata.get("format_version", "0")), json.loads(metadata["config"])
        if not isinstance(config, dict):
            raise TypeError("it is not a mapping")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"'{source}' contains a configuration that cannot be read ({error}); save it again"
        ) from error
    if version > FORMAT_VERSION:
        raise ValueError(f"'{source}' was written by a newer dct-seg (format {version}); update dct-seg")
    # safetensors returns the metadata in a different order from one process to the next
    card = {k: v for k, v in sorted(metadata.items()) if k not in ("config", "format_version")}
    return Stored(config, state, source, card)


def _load_checkpoint(path: Path) -> Stored:
    """Read the network of a training checkpoint, with the averaged weights if there are any."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"'{path}' is not a complete training checkpoint ({type(error).__name__}); is it truncated?"
        ) from error
    try:
        config, state = dict(checkpoint["hyper_parameters"]["network"]), checkpoint["state_dict"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' is a checkpoint, but not one of `dct-seg fit`: it contains no network configuration"
        ) from error
    prefix = "net."
    return Stored(
        config, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, str(path)
    )


def load_strictly(net: nn.Module, stored: Stored) -> None:
    """Load the stored tensors into ``net``; none may be missing or misfit.

    Raises:
        ValueError: When they are of another architecture; the message names the first difference.
    """
    own = net.state_dict()
    _check_shapes(own, stored)
    check_tensors(f"'{stored.source}'", stored.state, own)
    net.load_state_dict({k: v.to(own[k].dtype) for k, v in stored.state.items()}, strict=True)


def check_architecture(build: Callable[[], nn.Module], stored: Stored) -> None:
    """Compare the stored tensors with those of their configuration's network, without allocating it.

    A file of 200 bytes can describe a network of 10 GB; here, its tensors take no memory.

    Args:
        build: Function that builds the network.
        stored: Tensors and configuration of a file.

    Raises:
        ValueError: When they are of another architecture, or the configuration cannot be built.
    """
    if not stored.state:
        raise ValueError(f"'{stored.source}' contains no tensors; save the weights with save_pretrained")
    try:
        with _WithoutMemory():
            own = build().state_dict()
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"'{stored.source}' has a configuration that no network fits: {error}") from error
    except (RuntimeError, NotImplementedError) as error:
        if any(word in str(error) for word in ("overflow", "too large", "negative dimension")):
            raise ValueError(f"'{stored.source}' describes a network of impossible size: {error}") from error
        return  # for a backbone that computes with its weights during construction
    _check_shapes(own, stored)


class _WithoutMemory(TorchFunctionMode):
    """Create new tensors on the meta device, except those computed from numbers."""

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
    """Check that the tensors of a file are valid weights.

    Args:
        source: Name of the file, for the error.
        given: Tensors by name.
        own: Tensors of the network, under the same names.

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
                f"{source} contains '{key}' as {value.dtype}, expected {wanted}; save the weights again"
            )
        if is_weight and not bool(value.to(target.dtype).isfinite().all()):
            raise ValueError(
                f"{source} contains values in '{key}' that are not finite; did training diverge? use another"
            )
