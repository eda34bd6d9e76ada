"""Cache of ONNX exports in the user's cache folder, for ``--backend onnx``."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from dct_seg import __version__
from dct_seg.export.writing import export
from dct_seg.methods.exported import CARD, FORMAT_VERSION, Backend, ExportedNetwork, load_network
from dct_seg.models.network import InteractiveNetwork

CACHE = "DCT_SEG_CACHE"
"""Environment variable for the folder of the exports, instead of ``dct-seg`` in the user's cache."""


def load_for(weights: str | Path, backend: Backend) -> InteractiveNetwork | ExportedNetwork:
    """Load the network that ``--weights`` and ``--backend`` name, or its export.

    Args:
        weights: A shipped name, a file of weights, a checkpoint or an export folder.
        backend: ``onnx`` exports weights once; ``torch`` requires weights; ``auto`` accepts either.

    Raises:
        FileNotFoundError, ValueError: When the weights cannot be used.
        ImportError: When onnxruntime or the exporter is not installed.
    """
    if backend == "onnx" and not (Path(weights) / CARD).is_file():
        weights = cached_export(weights)
    return load_network(weights, backend)


def cached_export(weights: str | Path) -> Path:
    """Get the folder of an ONNX export, made on the first call.

    Args:
        weights: A shipped name, a file of weights or a checkpoint.

    Raises:
        FileNotFoundError, ValueError: When the weights cannot be used or exported.
        ImportError: When the exporter is not installed.
    """
    net = InteractiveNetwork.from_pretrained(weights)
    folder = _cache() / f"{Path(weights).stem}-{_fingerprint(net)}"
    if not (folder / CARD).is_file():
        sys.stderr.write(f"exporting '{weights}' to {folder}; this happens once and takes minutes\n")
        export(net, folder, source=str(weights))
    return folder


def _cache() -> Path:
    if given := os.environ.get(CACHE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dct-seg"


def _fingerprint(net: InteractiveNetwork) -> str:
    """Hash the tensors, the configuration and the code that writes the graphs."""
    versions = {"format": FORMAT_VERSION, "dct_seg": __version__, "torch": torch.__version__}
    made_by = {"config": asdict(net.config), **versions}
    found = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode())
    for name, value in sorted(net.state_dict().items()):
        found.update(name.encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
