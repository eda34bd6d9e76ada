"""dct-seg: click and click-and-drag segmentation with DCT-Net.

Public names are loaded at first use, so that importing the package is fast.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if "torch" not in sys.modules:
    # OpenMP reads this when torch loads it. By default its threads spin while waiting for one another, which
    # delays the thread that they wait for as soon as another program needs a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from dct_seg.click_encoders import ClickEncoder
    from dct_seg.clicks import Click, ClickBatch
    from dct_seg.data.base import InteractiveDataset
    from dct_seg.data.datamodule import ClickSimulatorDataModule
    from dct_seg.interaction import interact
    from dct_seg.methods.base import Method
    from dct_seg.metrics import NumberOfClicks
    from dct_seg.models.auto_drag import AutoDragHead
    from dct_seg.models.config import DCTNetConfig
    from dct_seg.models.dct_net import DCTNet
    from dct_seg.models.feature_dct import FeatureDCT
    from dct_seg.models.network import InteractiveNetwork
    from dct_seg.predictor import Predictor
    from dct_seg.simulation.user import SimulatedUser, first_click, next_click
    from dct_seg.training.task import InteractiveSegmentationTask

__version__ = "0.1.0"

_HOMES = {
    "AutoDragHead": "models.auto_drag",
    "Click": "clicks",
    "ClickBatch": "clicks",
    "ClickEncoder": "click_encoders",
    "ClickSimulatorDataModule": "data.datamodule",
    "DCTNet": "models.dct_net",
    "DCTNetConfig": "models.config",
    "FeatureDCT": "models.feature_dct",
    "InteractiveDataset": "data.base",
    "InteractiveNetwork": "models.network",
    "InteractiveSegmentationTask": "training.task",
    "Method": "methods.base",
    "NumberOfClicks": "metrics",
    "Predictor": "predictor",
    "SimulatedUser": "simulation.user",
    "first_click": "simulation.user",
    "interact": "interaction",
    "next_click": "simulation.user",
}

__all__ = [
    "AutoDragHead",
    "Click",
    "ClickBatch",
    "ClickEncoder",
    "ClickSimulatorDataModule",
    "DCTNet",
    "DCTNetConfig",
    "FeatureDCT",
    "InteractiveDataset",
    "InteractiveNetwork",
    "InteractiveSegmentationTask",
    "Method",
    "NumberOfClicks",
    "Predictor",
    "SimulatedUser",
    "first_click",
    "interact",
    "next_click",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dct_seg' has no attribute '{name}'")
    return getattr(import_module(f"dct_seg.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
