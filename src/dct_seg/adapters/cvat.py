"""DCT-Net as an interaction function of CVAT's auto-annotation layer (``cvat-sdk`` 2.75 or newer).

CVAT's agent loads this module by its name and calls `create`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_seg.adapters.gestures import replay
from dct_seg.adapters.predictors import Predictors
from dct_seg.data.brightness import to_uint8
from dct_seg.methods.exported import Backend
from dct_seg.models.pretrained import DEFAULT

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Frame:
    """Image returned by `InteractionFunction.preprocess_image`.

    Args:
        number: Unique number of the image.
        pixels: (H, W, 3) uint8 RGB.
    """

    number: int
    pixels: NDArray[np.uint8]


class InteractionFunction:
    """Interaction function for CVAT's agent: the three members of its protocol.

    Args:
        predictors: Cached predictors of the last frames.
    """

    def __init__(self, predictors: Predictors) -> None:
        self._sdk, self._encode = _cvat_sdk()
        self._predictors = predictors

    @property
    def spec(self) -> Any:
        """Supported prompts: any number of positive and negative points, and an optional box."""
        return self._sdk.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def preprocess_image(self, context: object, image: Image.Image) -> Frame:
        """Convert an image to pixels; 16 bits and floats are scaled as in `read_image`."""
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = Image.fromarray(to_uint8(np.asarray(image)))
        return Frame(next(_NUMBERS), np.array(image.convert("RGB")))

    def detect(self, context: object, pp_image: Frame, prompts: Any) -> list[Any]:
        """Segment the clicked object: one mask, or none if it is empty.

        Args:
            context: Unused; empty in current versions of CVAT.
            pp_image: Result of ``preprocess_image``.
            prompts: ``pos_points``, ``neg_points`` and ``bounding_box``, all in (x, y).

        Raises:
            ValueError: When no prompt is positive, or one lies outside the image.
        """
        height, width = pp_image.pixels.shape[:2]
        box = prompts.bounding_box
        clicks = replay(
            prompts.pos_points,
            prompts.neg_points,
            None if box is None else [*box[0], *box[1]],
            (height, width),
        )
        mask = self._predictors.predict(pp_image.number, lambda: pp_image.pixels, lambda size: clicks).mask
        if not mask.any():
            return []
        return [self._sdk.InteractionResultShape(type="mask", points=self._encode(mask))]


def create(weights: str | Path = DEFAULT, backend: Backend = "auto") -> InteractionFunction:
    """Make the function; called by ``cvat-cli function run-agent --function-module dct_seg.adapters.cvat``.

    Args:
        weights: A shipped name, weights, a checkpoint or an export folder (``-p weights=str:PATH``).
        backend: ``onnx`` runs weights in onnxruntime, exported once (``-p backend=str:onnx``).

    Raises:
        ImportError: Without ``cvat-sdk``.
        FileNotFoundError, ValueError: When the weights cannot be used.
    """
    _cvat_sdk()
    return InteractionFunction(Predictors.from_pretrained(weights, backend=backend))


def _cvat_sdk() -> tuple[Any, Callable[[NDArray[np.bool_]], list[float]]]:
    """Import ``cvat_sdk.auto_annotation`` and its mask encoder."""
    try:
        import cvat_sdk.auto_annotation as sdk
        from cvat_sdk.masks import encode_mask
    except ImportError as error:
        raise ImportError("the CVAT function needs cvat-sdk; pip install 'dct-seg[cvat]'") from error
    if not hasattr(sdk, "InteractionFunctionSpec"):
        raise ImportError("this cvat-sdk has no interaction functions; pip install 'cvat-sdk>=2.75'")
    return sdk, encode_mask
