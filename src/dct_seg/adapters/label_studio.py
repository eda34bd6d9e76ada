"""Machine learning backend for Label Studio: smart keypoints are clicks, smart ellipses are drags.

Label Studio draws an ellipse from its center outward, the same gesture as a drag.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from xml.etree import ElementTree

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dct_seg import __version__
from dct_seg.adapters import brush_rle
from dct_seg.adapters.gestures import Size, box_drag, ellipse_drag, point_click
from dct_seg.adapters.predictors import Predictors
from dct_seg.adapters.task_images import TaskImages
from dct_seg.clicks import Click
from dct_seg.web.error_responses import http_error, malformed, problem
from dct_seg.web.request_checks import Body, Guard

MAX_REQUEST = 16 * 2**20
MAX_REGIONS = 200
Number = Annotated[float, Field(ge=-1000, le=1000)]


class LenientModel(BaseModel):
    """Base class of Label Studio's records: known fields are validated, others ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Place(LenientModel):
    """Position of a region, in percent of the image's width and height."""

    x: Number
    y: Number
    width: Number | None = None
    height: Number | None = None
    radiusX: Number | None = None  # noqa: N815
    radiusY: Number | None = None  # noqa: N815
    labels: list[str] | None = None
    keypointlabels: list[str] | None = None
    ellipselabels: list[str] | None = None
    rectanglelabels: list[str] | None = None


class Region(LenientModel):
    """A region drawn with a smart tool."""

    type: str
    value: Place
    original_width: Annotated[int, Field(ge=1, le=65_535)]
    original_height: Annotated[int, Field(ge=1, le=65_535)]
    image_rotation: float = 0
    is_positive: bool = True

    def label(self) -> str:
        """Label that was selected when the region was drawn."""
        named = getattr(self.value, self.type, None) or self.value.labels
        if not named:
            raise ValueError(
                f"a region of type {self.type} has no label; select a label before the smart tool"
            )
        return str(named[0])

    def click(self) -> Click:
        """Convert the region to a click or drag.

        Raises:
            ValueError: When the region's type is neither.
        """
        width, height = self.original_width, self.original_height
        size: Size = (height, width)
        x, y = self.value.x * width / 100, self.value.y * height / 100
        if self.type in ("keypointlabels", "keypoint"):
            return point_click(x, y, size, positive=self.is_positive)
        if self.type in ("ellipselabels", "ellipse"):
            radii = (self.value.radiusX or 0) * width / 100, (self.value.radiusY or 0) * height / 100
            return ellipse_drag(x, y, *radii, size, positive=self.is_positive)
        if self.type in ("rectanglelabels", "rectangle"):
            wide, high = (self.value.width or 0) * width / 100, (self.value.height or 0) * height / 100
            return box_drag([x, y, x + wide, y + high], size)
        raise ValueError(
            f"a region of type {self.type[:40]} is not a click; use smart KeyPointLabels or EllipseLabels"
        )


class LabeledTask(LenientModel):
    """A task, with the image's address in its data."""

    data: dict[str, Any]


class Context(LenientModel):
    """Regions that were drawn with smart tools and are not accepted yet, in drawing order."""

    result: Annotated[list[Region], Field(max_length=MAX_REGIONS)] = []


class Parameters(LenientModel):
    """Parameters of a request for predictions."""

    context: Context | None = None


class PredictRequest(LenientModel):
    """A request for predictions."""

    tasks: list[LabeledTask]
    label_config: str = ""
    params: Parameters = Parameters()


class SetupRequest(LenientModel):
    """A request to connect a project."""

    project: str | int | None = None
    schema_: str = Field(default="", alias="schema")


class WebhookRequest(LenientModel):
    """An event from Label Studio."""

    action: str


@dataclass(frozen=True)
class Controls:
    """Relevant tags of a labeling configuration.

    Args:
        image: Name of the ``Image`` tag.
        key: Key of the image in the task's data.
        brush: Name of the ``BrushLabels`` tag.
    """

    image: str
    key: str
    brush: str

    @classmethod
    def of(cls, config: str) -> Controls:
        """Read a labeling configuration.

        Raises:
            ValueError: When the configuration is not XML, or lacks a tag.
        """
        if "<!" in config.replace("<!--", ""):
            raise ValueError("the labeling configuration must not have a DOCTYPE; remove it")
        try:
            tree = ElementTree.fromstring(config)
        except ElementTree.ParseError as error:
            raise ValueError(f"the labeling configuration must be XML ({error}); correct it") from error
        brush = next(tree.iter("BrushLabels"), None)
        if brush is None:
            raise ValueError("the labeling configuration has no BrushLabels tag for the masks; add one")
        image = next((one for one in tree.iter("Image") if one.get("name") == brush.get("toName")), None)
        if image is None or not image.get("value", "").startswith("$"):
            raise ValueError(
                f"the labeling configuration has no Image tag named '{brush.get('toName')}' with a value "
                "such as $image; add one"
            )
        return cls(image.get("name", ""), image.get("value", "")[1:], brush.get("name", ""))


class Backend:
    """Prediction backend of Label Studio.

    Args:
        predictors: Cached predictors.
        images: Source of the images.
        version: Name of the model, which Label Studio stores with each prediction.
    """

    def __init__(self, predictors: Predictors, images: TaskImages, version: str) -> None:
        self._predictors = predictors
        self._images = images
        self.version = version

    def predict(self, request: PredictRequest) -> list[dict[str, Any]]:
        """Predict in Label Studio's format: one brush mask per label; none without clicks.

        Raises:
            ValueError: When the request is invalid; a one-line message.
        """
        regions = [] if request.params.context is None else request.params.context.result
        if not regions:
            return []
        if len(request.tasks) != 1:
            raise ValueError(f"smart tools work on one task at a time, got {len(request.tasks)}")
        controls = Controls.of(request.label_config)
        source = request.tasks[0].data.get(controls.key)
        if not isinstance(source, str):
            raise ValueError(
                f"the task's data has no field '{controls.key}', which the Image tag reads; add it"
            )
        masks = [self._brush(source, controls, same) for same in group_by_label(regions).values()]
        found = [one for one in masks if one is not None]
        if not found:
            return []
        score = sum(one["score"] for one in found) / len(found)
        return [{"result": found, "score": score, "model_version": self.version}]

    def _brush(self, source: str, controls: Controls, regions: Sequence[Region]) -> dict[str, Any] | None:
        """Predict the mask of one label's regions; None if it is empty."""
        first = regions[0]
        height, width = first.original_height, first.original_width
        clicks = [one.click() for one in regions]

        def checked(size: Size) -> list[Click]:
            if size != (height, width):
                raise ValueError(
                    f"the image is {size[1]}x{size[0]}, but Label Studio says {width}x{height}; is it a "
                    "different file?"
                )
            return clicks

        prediction = self._predictors.predict(source, lambda: self._images.read(source), checked)
        if not prediction.area:
            return None
        return {
            "id": uuid.uuid4().hex[:10],
            "type": "brushlabels",
            "from_name": controls.brush,
            "to_name": controls.image,
            "original_width": width,
            "original_height": height,
            "image_rotation": first.image_rotation,
            "value": {
                "format": "rle",
                "rle": brush_rle.encode(prediction.mask),
                "brushlabels": [first.label()],
            },
            "score": prediction.score,
            "readonly": False,
        }


def group_by_label(regions: Sequence[Region]) -> Mapping[str, list[Region]]:
    """Group regions by label; the regions of one label belong to one object."""
    groups: dict[str, list[Region]] = {}
    for region in regions:
        groups.setdefault(region.label(), []).append(region)
    return groups


def create_app(
    predictors: Predictors,
    images: TaskImages,
    *,
    weights: str,
    token: str | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Make the backend's application.

    Args:
        predictors: Cached predictors.
        images: Source of the images.
        weights: Name of the weights.
        token: Password for Label Studio's Basic authentication; None for none.
        hosts: Allowed names in the Host header; None for any.
    """
    backend = Backend(predictors, images, f"{weights} (dct-seg {__version__})")
    app = FastAPI(title="dct-seg for Label Studio", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(
        Guard,
        token=token,
        hosts=hosts,
        body_of=lambda path: Body(MAX_REQUEST),
        where="send the token that `dct-seg label-studio` printed, or DCT_SEG_TOKEN, as the password",
    )
    app.add_exception_handler(ValueError, _refused)
    app.add_exception_handler(RequestValidationError, malformed("/openapi.json"))
    app.add_exception_handler(HTTPException, http_error)

    @app.get("/")
    @app.get("/health")
    def get_health() -> dict[str, str]:
        return {"status": "UP", "model_class": "DCTNet"}

    @app.post("/setup")
    def post_setup(request: SetupRequest) -> dict[str, str]:
        if request.schema_:
            Controls.of(request.schema_)  # reject an unusable project when it is connected
        return {"model_version": backend.version}

    @app.post("/predict")
    def post_predict(request: PredictRequest) -> dict[str, Any]:
        return {"results": backend.predict(request), "model_version": backend.version}

    @app.post("/webhook")
    def post_webhook(request: WebhookRequest) -> dict[str, str]:
        return {
            "status": "ok",
            "result": f"{request.action[:40]} ignored: this backend does not train",
        }

    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return problem(400, str(error))
