"""``dct-seg serve``: click segmentation over HTTP, versioned, with an OpenAPI schema."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace
from typing import Annotated

import cv2
import numpy as np
from fastapi import APIRouter, FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dct_seg import __version__, rle
from dct_seg.adapters import http_schemas as schemas
from dct_seg.adapters.predictors import Predictors
from dct_seg.clicks import Click
from dct_seg.data.images import decode_image
from dct_seg.prediction import Prediction
from dct_seg.web.error_responses import http_error, malformed, problem
from dct_seg.web.request_checks import Body, Guard

API = "/api/v1"
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/tiff", "image/bmp")
MAX_IMAGE, MAX_PROMPT = 64 * 2**20, 8 * 2**20
"""Size limits in bytes: an image file, and clicks with a start mask."""
KEPT_BYTES = 2**30
"""Memory for decoded images in bytes; the least recently used is dropped first."""
PROBLEMS = {
    400: "Invalid image, click or start mask.",
    403: "Wrong token, Host or Origin.",
    404: "Unknown image: dropped, or never posted.",
    408: "The request was incomplete.",
    413: "The body is too large.",
    415: "Unsupported content type.",
    422: "The body does not match the schema.",
}

ImageId = Annotated[str, PathParameter(description="id from POST /images", max_length=64)]


class UnknownImageError(LookupError):
    """Error for an image id that is not in the cache."""


class Images:
    """Cache of decoded images by the hash of their file.

    Args:
        max_bytes: Maximum bytes of pixels; the newest image is always kept.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> str:
        """Decode and cache an image file; the same file has the same id.

        Raises:
            UnreadableFileError: (a ValueError) when the file cannot be decoded.
        """
        image_id = hashlib.sha256(data).hexdigest()[:32]
        image = self._kept.get(image_id)
        image = decode_image(data) if image is None else image
        with self._lock:
            self._kept[image_id] = image
            self._kept.move_to_end(image_id)
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)
        return image_id

    def get(self, image_id: str) -> NDArray[np.uint8]:
        """Get the pixels of an image, (H, W, 3).

        Raises:
            UnknownImageError: When the image is not in the cache.
        """
        with self._lock:
            if image_id not in self._kept:
                raise UnknownImageError(
                    f"image '{image_id}' is not in the cache; POST it to {API}/images again"
                )
            self._kept.move_to_end(image_id)
            return self._kept[image_id]

    def remove(self, image_id: str) -> None:
        """Drop an image from the cache.

        Raises:
            UnknownImageError: When the image is not in the cache.
        """
        self.get(image_id)
        with self._lock:
            self._kept.pop(image_id, None)


def create_app(
    predictors: Predictors,
    *,
    weights: str,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    images: Images | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        predictors: Cached predictors.
        weights: Name of the weights, for ``/health``.
        token: Token required in every request; None for none.
        hosts: Allowed names in the Host header; None for any.
        images: Cache of the images.
    """
    app = FastAPI(
        title="dct-seg",
        version=__version__,
        summary="Click segmentation: post an image, then all clicks on an object; the response is its mask.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses={
            status: {"model": schemas.Problem, "description": text} for status, text in PROBLEMS.items()
        },
    )
    where = "send the token that `dct-seg serve` printed, or DCT_SEG_TOKEN"
    app.add_middleware(Guard, token=token, hosts=hosts, body_of=body_of, where=where)
    app.add_exception_handler(UnknownImageError, _refused)
    app.add_exception_handler(ValueError, _refused)
    app.add_exception_handler(RequestValidationError, malformed(f"{API}/openapi.json"))
    app.add_exception_handler(HTTPException, http_error)
    app.include_router(_routes(predictors, images or Images(), weights), prefix=API)
    return app


def body_of(path: str) -> Body:
    """Limits of a request body, by path: image files, and clicks."""
    return Body(MAX_IMAGE, IMAGE_TYPES) if path == f"{API}/images" else Body(MAX_PROMPT)


def _routes(predictors: Predictors, images: Images, weights: str) -> APIRouter:
    router = APIRouter()

    def shown(image_id: str) -> schemas.Image:
        height, width = images.get(image_id).shape[:2]
        return schemas.Image(id=image_id, height=height, width=width)

    def segmented(image_id: str, prompt: schemas.Prompt) -> Prediction:
        image = images.get(image_id)
        start = None if prompt.start is None else _start(prompt.start, image.shape[:2])
        key = image_id, None if start is None else hashlib.sha256(np.packbits(start).tobytes()).digest()
        clicks = [one.to_click() for one in prompt.clicks]
        found = predictors.predict(key, lambda: image, lambda size: clicks, start=start)
        return replace(found, mask=found.probs > prompt.threshold)

    @router.get("/health")
    def get_health() -> schemas.Health:
        return schemas.Health(status="ok", version=__version__, weights=weights)

    @router.post(
        "/images",
        status_code=201,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES},
            }
        },
    )
    async def post_image(request: Request) -> schemas.Image:
        """Cache an image; the same file gets the same id. It is rotated upright according to its EXIF tag."""
        return shown(await run_in_threadpool(images.add, await request.body()))

    @router.get("/images/{image_id}")
    def get_image(image_id: ImageId) -> schemas.Image:
        """Get the size of a cached image."""
        return shown(image_id)

    @router.delete("/images/{image_id}", status_code=204)
    def delete_image(image_id: ImageId) -> None:
        """Drop an image."""
        images.remove(image_id)

    @router.post("/images/{image_id}/predict")
    def post_predict(image_id: ImageId, prompt: schemas.Prompt) -> schemas.Answer:
        """Predict the mask after all clicks. Send all clicks each time; to undo, omit the last one."""
        return _answer(segmented(image_id, prompt))

    @router.post(
        "/images/{image_id}/mask.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}, "description": "(H, W) gray, 255 on the object."}},
    )
    def post_mask(image_id: ImageId, prompt: schemas.Prompt) -> Response:
        """Predict the same mask as a PNG file."""
        mask = segmented(image_id, prompt).mask
        _, data = cv2.imencode(".png", mask.view(np.uint8) * 255)
        return Response(data.tobytes(), media_type="image/png")

    return router


def _start(given: schemas.Rle, size: tuple[int, ...]) -> NDArray[np.bool_]:
    if tuple(given.size) != size:
        raise ValueError(
            f"the start mask is {given.size[1]}x{given.size[0]}, but the image is {size[1]}x{size[0]}"
        )
    return rle.decode(given.model_dump())


def _answer(found: Prediction) -> schemas.Answer:
    bbox = None
    if found.box is not None:
        left, top, right, bottom = found.box
        bbox = [top, left, bottom - top, right - left]
    return schemas.Answer(
        mask=schemas.Rle(**found.rle()),
        area=found.area,
        bbox=bbox,
        score=found.score,
        clicks=[_shown_click(click) for click in found.clicks],
        seconds=found.timings.total,
    )


def _shown_click(click: Click) -> schemas.OneClick:
    return schemas.OneClick(
        row=click.row,
        col=click.col,
        positive=click.positive,
        radius=click.radius,
        predicted_radius=click.predicted_radius,
    )


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return problem(404 if isinstance(error, UnknownImageError) else 400, str(error))
