"""Requests and responses of the HTTP interface; the OpenAPI schema is generated from them.

Places and lengths are in pixels of the full-size upright image, (row, col); an integer is a pixel's center.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from dct_seg.app.painting import Kind

MAX_CLASSES, MAX_CLASS_ID, MAX_REVISION = 1000, 1_000_000, 2**53
MAX_POINTS, MAX_IDS = 5000, 10_000
FARTHEST = 1e6  # pixels; what lies beyond is a mistake, not a click


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that cannot be printed")
    return text


class Model(BaseModel):
    """Strict about names: a misspelt field is an error, not a default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Pixels = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]
Length = Annotated[float, Field(ge=0, le=FARTHEST)]
Probability = Annotated[float, Field(ge=0, lt=1)]
ClassId = Annotated[int, Field(ge=1, le=MAX_CLASS_ID, strict=True)]
Whole = Annotated[int, Field(ge=0, le=MAX_REVISION, strict=True)]
Color = Annotated[str, StringConstraints(pattern=r"^#[0-9a-f]{6}$")]
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_printable)
]


class Problem(Model):
    """Any answer of 400 and above: one line that says what was given, what was wanted, how to mend it."""

    error: str
    holder: str | None = Field(default=None, description="409 of another tab: the tab that may change things")


class GivenClick(Model):
    """A click as a person makes it; without a radius, the Auto-Drag-Head chooses one."""

    row: Pixels
    col: Pixels
    positive: StrictBool = True
    radius: Length | None = None


class Change(Model):
    """Base of every change: the image revision that it was made on."""

    revision: Whole
    brief: StrictBool = Field(
        default=False, description="answer with the objects that this change made, changed or removed alone"
    )


class NewClick(Change):
    """One more click."""

    click: GivenClick
    threshold: Probability = 0.5


class NewPreview(Change):
    """A click that is not made yet; ``seq`` comes back with the answer."""

    click: GivenClick
    seq: Whole = 0
    live: StrictBool = Field(
        default=False, description="sooner, and coarser where the machine could not follow a drag otherwise"
    )


class Finish(Change):
    """The draft is to become an object."""

    class_id: ClassId
    threshold: Probability = 0.5


class NothingHere(Change):
    """An image without any object is done, or is not."""

    nothing: StrictBool


class GivenPaint(Model):
    """A step made by hand: a brush stroke, a closed lasso, or a clean-up, which has no points."""

    kind: Kind
    positive: StrictBool = Field(default=True, description="false takes away")
    points: Annotated[
        list[Annotated[list[Pixels], Field(min_length=2, max_length=3)]], Field(max_length=MAX_POINTS)
    ] = Field(default=[], description="[row, col, radius] of a brush, [row, col] of a lasso's corners")


class NewPaint(Change):
    """One more step made by hand; ``threshold`` makes a mask of what the network gave before it."""

    paint: GivenPaint
    threshold: Probability = 0.5


class ObjectChange(Change):
    """Changes to a finished object."""

    class_id: ClassId | None = None
    locked: StrictBool | None = None


ObjectIds = Annotated[
    list[Annotated[int, Field(ge=1, le=MAX_REVISION, strict=True)]], Field(min_length=1, max_length=MAX_IDS)
]


class NamedObjects(Change):
    """Several finished objects."""

    ids: ObjectIds


class Carry(NamedObjects):
    """Objects of another image that are to be carried to this one."""

    source: Annotated[str, StringConstraints(max_length=64)]


class ObjectsChange(ObjectChange):
    """Changes to several finished objects."""

    ids: ObjectIds


class Class(Model):
    """A kind of object."""

    id: ClassId
    name: Line
    color: Color


class Classes(Model):
    """The whole list of classes."""

    classes: Annotated[list[Class], Field(min_length=1, max_length=MAX_CLASSES)]


class ModelCard(Model):
    """The network at work."""

    name: str
    prompts: Literal["click", "drag"] = Field(description="drag: it makes use of a radius")


class PictureLine(Model):
    """An image in the list."""

    id: str
    name: str
    num_objects: int
    has_draft: bool
    nothing: bool = Field(description="a person said that there is nothing to mark")
    error: str | None = Field(description="why it cannot be opened")


class Project(Model):
    """The folder; ``last`` is the image that was worked on last."""

    name: str
    model: ModelCard
    threshold: float
    classes: list[Class]
    pictures: list[PictureLine]
    last: str | None
    serial: int = Field(description="changes of images in this run so far")
    files: int = Field(description="changes of the list of files so far")


class UsedClick(Model):
    """A click that was made, with the radius that was used.

    ``given``: by a person, not by the Auto-Drag-Head.
    """

    row: float
    col: float
    positive: bool
    radius: float | None
    given: bool


class Draft(Model):
    """The object being made."""

    clicks: list[UsedClick]
    class_id: int
    edits: int | None = Field(description="the finished object that was reopened")
    threshold: float = Field(description="in force at its last click, or that of the object reopened")


class Object(Model):
    """A finished object."""

    id: int
    class_id: int
    num_clicks: int
    area: int
    bbox: Annotated[list[int], Field(min_length=4, max_length=4, description="row, col, height, width")]
    polygons: list[list[list[float]]] = Field(description="outlines to draw, each a list of [col, row]")
    locked: bool


class Mask(Model):
    """Probabilities of a region of the image.

    Outside of it there are none. The PNG may have fewer pixels than the region.
    """

    row: int
    col: int
    height: int
    width: int
    png: str = Field(description="base64 of an 8-bit gray PNG, probability * 255")


class Picture(Model):
    """An image, its objects and its draft."""

    id: str
    name: str
    width: int
    height: int
    revision: int
    can_undo: bool
    can_redo: bool
    draft: Draft | None
    objects: list[Object] = Field(description="all of them; in a brief answer those made or changed")
    brief: bool
    gone: list[int] = Field(description="in a brief answer: objects that are no more")
    mask: Mask | None = Field(description="of the draft")
    nothing: bool = Field(description="a person said that there is nothing to mark")


class Milliseconds(Model):
    """Timings of a request."""

    model: float
    total: float


class Preview(Model):
    """The mask as it would be after one more click."""

    seq: int
    mask: Mask
    exact: bool = Field(description="false for a coarser one: the click would give nearly this")
    radius: float | None
    milliseconds: Milliseconds


class Tab(Model):
    """A page says which image it shows; with ``take`` it becomes the one that may change that image."""

    tab: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    picture: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="the image that it shows; it lets go of any other"
    )
    take: StrictBool = False
    since: Whole = Field(default=0, description="the serial that it knows")


class TabState(Model):
    """Whether this tab may change the image that it shows."""

    alone: bool
    holder: str | None
    elsewhere: list[str] = Field(description="images that other tabs work on")
    serial: int
    files: int
    changed: list[PictureLine] = Field(description="images changed after the serial that was given")


class CocoPart(BaseModel):
    """COCO JSON holds more than is read of it."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class CocoImage(CocoPart):
    """An image's record."""

    id: int
    file_name: str
    height: int | None = None
    width: int | None = None


class CocoAnnotation(CocoPart):
    """An object's record."""

    image_id: int
    category_id: int
    segmentation: Any = None


class CocoCategory(CocoPart):
    """A class's record."""

    id: int
    name: Line


class CocoFile(CocoPart):
    """COCO JSON of masks to correct; a record that cannot be read is skipped, and the others are taken."""

    images: list[Any] = Field(description="each with id, file_name and, if known, height and width")
    annotations: list[Any] = Field(description="each with image_id, category_id and segmentation")
    categories: Annotated[list[Any], Field(max_length=MAX_CLASSES, description="each with id and name")]


class Imported(Model):
    """Result of a COCO import."""

    pictures: int
    objects: int
    known: int = Field(description="objects that were there already, with the same mask and class")
    skipped: list[str]
