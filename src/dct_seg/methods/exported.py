"""Networks written by ``dct-seg export``, run by onnxruntime instead of PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dct_seg.clicks import PADDING, ClickBatch
from dct_seg.methods.extras import import_extra
from dct_seg.models.network import InteractiveNetwork
from dct_seg.models.pretrained import check_revision
from dct_seg.registry import check_choice

CARD = "dct_seg.json"
FORMAT_VERSION = 1

Backend = Literal["auto", "torch", "onnx"]


@dataclass(frozen=True)
class ExportCard:
    """Content of ``dct_seg.json`` in an export folder.

    Args:
        kind: ``onnx`` or ``pt2``.
        source: Name or path of the weights.
        is_late: Whether there are two graphs, ``encoder`` and ``decoder``, instead of one, ``network``.
        multiple: Divisor of the height and width of the graphs' inputs.
        has_drag_head: Whether there is a ``radii`` graph for clicks without a drag.
        needs_radius: Whether a click without a radius gives NaN.
        version: Version of the format.
    """

    kind: str
    source: str
    is_late: bool
    multiple: int
    has_drag_head: bool
    needs_radius: bool
    version: int = FORMAT_VERSION


def read_card(folder: str | Path) -> ExportCard:
    """Read the card of an export folder.

    Raises:
        FileNotFoundError: When the folder is not an export.
        ValueError: When the card is damaged, or written by a newer dct-seg.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"'{folder}' is not an export folder; run: dct-seg export WEIGHTS --out {folder}"
        )
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(values["version"])
        if version <= FORMAT_VERSION:
            return ExportCard(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"'{path}' is broken ({error}); export the weights again") from error
    raise ValueError(f"'{path}' was written by a newer dct-seg (format {version}); update dct-seg")


def load_network(
    checkpoint: str | Path, backend: Backend = "auto", *, revision: str | None = None
) -> InteractiveNetwork | ExportedNetwork:
    """Load a network from a shipped name, a file of weights or an export folder.

    Args:
        checkpoint: Weights, see ``InteractiveNetwork.from_pretrained``, or an export folder.
        backend: ``onnx`` needs an export folder, ``torch`` needs weights, ``auto`` accepts either.
        revision: Revision on the Hub, see ``InteractiveNetwork.from_pretrained``.

    Raises:
        FileNotFoundError, ValueError: When it does not exist, cannot be used, or is a file with a revision.
        ImportError: When onnxruntime is not installed.
    """
    check_choice("backend", backend, get_args(Backend))
    if backend == "onnx" or (backend == "auto" and (Path(checkpoint) / CARD).is_file()):
        check_revision(str(checkpoint), revision)
        return ExportedNetwork(checkpoint)
    return InteractiveNetwork.from_pretrained(checkpoint, revision=revision)


class ExportedNetwork:
    """Exported network: graphs of an export folder with the interface of a network.

    Args:
        folder: Folder written by ``dct-seg export --format onnx``.
        threads: Threads per operator; 0 uses PyTorch's number.

    Attributes:
        folder: Folder of the export.
        is_late: Whether clicks are fused late, as for a network.
        auto_drag: True if the Auto-Drag-Head was exported, otherwise None.

    Raises:
        FileNotFoundError, ValueError: When the folder is not an ONNX export.
        ImportError: When onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        self.card = read_card(folder)
        if self.card.kind != "onnx":
            raise ValueError(
                f"'{folder}' must be an ONNX export, got {self.card.kind}; run dct-seg export --format onnx"
            )
        runtime = import_extra("onnxruntime", package="onnxruntime", method="dctnet", extra="onnx")
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = threads or torch.get_num_threads()
        self.is_late = self.card.is_late
        self.auto_drag = True if self.card.has_drag_head else None
        self.folder = Path(folder)
        self._sessions: dict[str, Any] = {}
        self._runtime, self._settings = runtime, settings

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """Encode the image without clicks: features, fine to coarse.

        Args:
            image: (1, 3, H, W) RGB in 0..1, any size.
        """
        return [torch.from_numpy(f) for f in self._run("encoder", {"image": self._padded(image)})]

    def fill_radii(
        self,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None = None,
        features: list[Tensor] | None = None,
    ) -> ClickBatch:
        """Predict the missing radii of the clicks.

        Args:
            image: (1, 3, H, W) RGB in 0..1.
            clicks: (1, N) clicks in pixels.
            previous: (1, 1, H, W) probabilities before the clicks, or None.
            features: Result of ``encode_image`` for this image, to avoid recomputing it.
        """
        if not self.auto_drag or not clicks.lacks_radius.any():
            return clicks
        features = self.encode_image(image) if features is None else features
        feeds = self._prompt(image, clicks, previous)
        del feeds["radii"]
        radii = self._run("radii", {**_named(features[:-1]), **feeds})[0]
        return clicks.with_radii(torch.where(clicks.lacks_radius, torch.from_numpy(radii), clicks.radii))

    def prepare(self, image: Tensor) -> None:
        """Do nothing: networks whose click encoder reads the image cannot be exported."""

    def __call__(
        self,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None = None,
        features: list[Tensor] | None = None,
        prepared: None = None,
    ) -> Tensor:
        """Compute the logits, (1, 1, H, W) float32.

        Args:
            image: (1, 3, H, W) RGB in 0..1, any size.
            clicks: (1, N) clicks in pixels.
            previous: (1, 1, H, W) probabilities before the last click; None means zeros.
            features: Result of ``encode_image`` for this image.
            prepared: Unused; None.
        """
        clicks = self.fill_radii(image, clicks, previous, features)
        if self.card.needs_radius and clicks.lacks_radius.any():
            raise ValueError(
                "the exported network needs a radius for each click, got a click without one, and it has no "
                "Auto-Drag-Head; give all radii"
            )
        feeds = self._prompt(image, clicks, previous)
        if self.is_late:
            seen = _named(self.encode_image(image) if features is None else features)
            logits = self._run("decoder", {**seen, **feeds})[0]
        else:
            logits = self._run("network", {"image": self._padded(image), **feeds})[0]
        return torch.from_numpy(logits[..., : image.shape[2], : image.shape[3]])

    def _prompt(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None) -> dict[str, NDArray[Any]]:
        size = (image.shape[2], image.shape[3])
        before = torch.zeros(1, 1, *size) if previous is None else previous
        coords, labels, radii = clicks.coords, clicks.labels, clicks.radii
        if labels.shape[1] == 0:  # graphs cannot loop over zero clicks; one padding click is equivalent
            coords, labels, radii = torch.zeros(1, 1, 2), torch.full((1, 1), PADDING), torch.zeros(1, 1)
        return {
            "coords": coords.float().numpy(),
            "labels": labels.numpy(),
            "radii": radii.float().numpy(),
            "previous": self._padded(before),
            "size": np.array(size, np.int64),
        }

    def _padded(self, x: Tensor) -> NDArray[np.float32]:
        m = self.card.multiple
        pads = ((0, 0), (0, 0), (0, -x.shape[2] % m), (0, -x.shape[3] % m))
        return np.pad(np.ascontiguousarray(x.float().numpy()), pads, mode="edge")

    def _run(self, name: str, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        session = self._sessions.get(name)
        if session is None:
            path = self.folder / f"{name}.onnx"
            if not path.is_file():
                raise FileNotFoundError(f"'{path}' is missing; export the weights again")
            session = self._sessions[name] = self._runtime.InferenceSession(
                str(path), self._settings, providers=["CPUExecutionProvider"]
            )
        taken = {one.name for one in session.get_inputs()}
        answers: list[NDArray[np.float32]] = session.run(None, {k: v for k, v in feeds.items() if k in taken})
        return answers


def _named(features: list[Tensor]) -> dict[str, NDArray[Any]]:
    return {f"features_{i}": feature.float().numpy() for i, feature in enumerate(features)}
