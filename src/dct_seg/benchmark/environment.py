"""Environment of a benchmark run: versions, machine, threads."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dct_seg.processor import processor_name

_PACKAGES = (
    "dct-seg",
    "torch",
    "numpy",
    "opencv-python-headless",
    "scipy",
    "timm",
    "ortools",
    "scikit-image",
    "onnxruntime",
)


def describe_environment(*, threads: int | None, workers: int, ranks: int) -> dict[str, Any]:
    """Describe the environment in plain values: package versions, machine, processes and threads.

    Args:
        threads: Threads of torch and OpenCV per process; None keeps torch's current number.
        workers: Processes on each machine.
        ranks: Number of processes in the group.
    """
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "threads": threads or torch.get_num_threads(),
        "workers": workers,
        "ranks": ranks,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
