"""DCT-Net as a serverless interactor of CVAT: the Nuclio function and its deployment files.

CVAT sends ``image`` (base64), ``pos_points``, ``neg_points`` and ``obj_bbox``; the response is ``mask``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dct_seg.adapters.gestures import replay
from dct_seg.adapters.predictors import Predictors
from dct_seg.arguments import CommandParser
from dct_seg.data.images import decode_image
from dct_seg.files import write_whole
from dct_seg.models.pretrained import DEFAULT
from dct_seg.web import FARTHEST

WEIGHTS = "DCT_SEG_WEIGHTS"
"""Environment variable with the weights: a shipped name, or a file or an export inside the container."""
MAX_POINTS = 200
MAIN = """\
\"\"\"The entry point that Nuclio calls.\"\"\"

from dct_seg.adapters.cvat_nuclio import handler, init_context
"""


def init_context(context: Any) -> None:
    """Load the network; Nuclio calls this once for each worker."""
    context.user_data.interactor = Interactor(Predictors.from_pretrained(os.environ.get(WEIGHTS, DEFAULT)))


def handler(context: Any, event: Any) -> Any:
    """Answer a request from CVAT: 200 with a mask, or 400 with a one-line error."""
    try:
        status, body = 200, {"mask": context.user_data.interactor.answer(event.body)}
    except ValueError as error:
        status, body = 400, {"error": str(error)}
    return context.Response(
        body=json.dumps(body), headers={}, content_type="application/json", status_code=status
    )


class Interactor:
    """Request handler; further clicks on the same image reuse its encoding.

    Args:
        predictors: Cached predictors.
    """

    def __init__(self, predictors: Predictors) -> None:
        self._predictors = predictors

    def answer(self, body: object) -> list[list[int]]:
        """Predict the mask: H rows of W numbers, 1 on the object.

        Args:
            body: Request as decoded JSON, or its bytes.

        Raises:
            ValueError: When a field is invalid; the message names it.
        """
        request = _decoded(body)
        data = _image_bytes(request.get("image"))
        positives, negatives = _points(request, "pos_points"), _points(request, "neg_points")
        box = _box(request.get("obj_bbox"))
        found = self._predictors.predict(
            hashlib.sha256(data).digest(),
            lambda: decode_image(data),
            lambda size: replay(positives, negatives, box, size),
        )
        rows: list[list[int]] = found.mask.astype("uint8").tolist()
        return rows


def _decoded(body: object) -> Mapping[str, Any]:
    if isinstance(body, bytes | str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the body must be JSON ({error}); send application/json") from error
    if not isinstance(body, Mapping):
        raise ValueError(f"the body must be an object with image and pos_points, got {type(body).__name__}")
    return body


def _image_bytes(text: object) -> bytes:
    if not isinstance(text, str) or not text:
        raise ValueError("field image is missing; send the image file as base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"field image must be base64 ({error}); send the image file as base64") from error


def _points(request: Mapping[str, Any], name: str) -> list[Sequence[float]]:
    points = request.get(name) or []
    if (
        not isinstance(points, list)
        or len(points) > MAX_POINTS
        or not all(_are_numbers(p, 2) for p in points)
    ):
        raise ValueError(
            f"field {name} must be a list of up to {MAX_POINTS} points [x, y], got {_shown(points)}"
        )
    return points


def _box(box: object) -> Sequence[float] | None:
    """Read a box as x, y, x, y; CVAT sends two points, other clients four numbers."""
    if box is None or box == []:
        return None
    if isinstance(box, list) and len(box) == 2 and all(_are_numbers(corner, 2) for corner in box):
        return [*box[0], *box[1]]
    if _are_numbers(box, 4):
        assert isinstance(box, list)
        return box
    raise ValueError(f"field obj_bbox must be [[x, y], [x, y]] or null, got {_shown(box)}")


def _are_numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= FARTHEST for n in value)
    )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def main(args: Sequence[str]) -> int:
    """Run ``python -m dct_seg.adapters.cvat_nuclio``: write the files of the Nuclio function.

    Returns:
        0.

    Raises:
        OSError: When the folder cannot be written.
    """
    parser = CommandParser(
        prog="dct-seg cvat-function",
        description="Write function.yaml and main.py, which deploy DCT-Net as an interactor of CVAT.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder for the two files")
    folder: Path = parser.parse_args(args).folder
    folder.mkdir(parents=True, exist_ok=True)
    manifest = (files("dct_seg.adapters") / "function.yaml").read_bytes()
    for name, content in (("function.yaml", manifest), ("main.py", MAIN.encode())):
        write_whole(folder / name, content)
    sys.stdout.write(f"deploy with: nuctl deploy --project-name cvat --path {folder} --platform local\n")
    return 0
