"""Requests and responses of ``dct-seg serve``; the OpenAPI schema is generated from them.

Positions and lengths are in pixels of the upright image, (row, col); an integer is a pixel's center.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from dct_seg.clicks import Click
from dct_seg.web.schemas import Length, Model, Pixels

MAX_CLICKS = 200
MAX_PACKED = 4 * 2**20


Whole = Annotated[int, Field(ge=0, le=2**31, strict=True)]


class Problem(Model):
    """Response with any status of 400 or above: what was given, what was expected and how to fix it."""

    error: str


class Health(Model):
    """State of the server."""

    status: str
    version: str
    weights: str


class Image(Model):
    """An image in the server's cache."""

    id: str
    height: int
    width: int


class OneClick(Model):
    """A click; without a radius, the method chooses one."""

    row: Pixels
    col: Pixels
    positive: StrictBool = True
    radius: Length | None = None
    predicted_radius: Annotated[
        StrictBool, Field(description="whether the model chose the radius, because the user did not drag")
    ] = False

    def to_click(self) -> Click:
        """Convert to a click."""
        return Click(self.row, self.col, self.positive, self.radius, predicted_radius=self.predicted_radius)


class Rle(Model):
    """A mask as a COCO run-length encoding."""

    size: Annotated[list[Whole], Field(min_length=2, max_length=2, description="[height, width]")]
    counts: (
        Annotated[str, Field(max_length=MAX_PACKED, description="compressed, as in pycocotools")]
        | Annotated[
            list[Whole], Field(max_length=MAX_PACKED, description="run lengths, starting with background")
        ]
    )


class Prompt(Model):
    """All clicks on one object, in order."""

    clicks: Annotated[list[OneClick], Field(max_length=MAX_CLICKS)]
    threshold: Annotated[
        float, Field(ge=0, lt=1, description="probability above which a pixel is object")
    ] = 0.5
    start: Rle | None = Field(default=None, description="mask that the first click corrects")


class Answer(Model):
    """The mask after all clicks."""

    mask: Rle
    area: int = Field(description="pixels")
    bbox: list[int] | None = Field(description="[row, col, height, width]; null for an empty mask")
    score: float = Field(description="mean probability over the mask; not a predicted IoU")
    clicks: list[OneClick] = Field(description="clicks with their effective radii")
    seconds: float
