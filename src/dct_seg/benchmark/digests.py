"""Digests of the files and weights of a method: new weights under an old name count as another method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dct_seg.methods.exported import ExportedNetwork

LENGTH = 12


def content_digests(method: object, options: Mapping[str, Any]) -> dict[str, str]:
    """Compute a digest for each option that is a file, and one for the network, under ``checkpoint``.

    The checkpoint of a network may be a shipped name, a folder or a name on the Hub, so the loaded weights
    are digested.

    Args:
        method: Method, with its network as ``net``, if any.
        options: Options of the method.

    Examples:
        >>> content_digests(object(), {"seed_radius": 5.0, "checkpoint": "dct-lite0"})
        {}
    """
    files = {
        name: Path(value)
        for name, value in options.items()
        if isinstance(value, str | Path) and Path(value).is_file()
    }
    digests = {name: _of_files([path]) for name, path in files.items()}
    net = getattr(method, "net", None)
    if isinstance(net, ExportedNetwork):
        digests["checkpoint"] = _of_files(sorted(path for path in net.folder.iterdir() if path.is_file()))
    elif isinstance(net, nn.Module) and "checkpoint" not in digests:
        digests["checkpoint"] = _of_weights(net)
    return digests


def _of_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:LENGTH]


def _of_weights(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:LENGTH]
