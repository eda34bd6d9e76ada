"""Requests and responses of the HTTP interface; the OpenAPI schema is generated from them.

Positions (row, col) and lengths are in pixels of the full-size upright image; an integer is a pixel's center.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from dct_seg.app.painting import Kind
from dct_seg.app.state import ChosenBy
from dct_seg.data.brightness import LARGEST_VALUE, Window
from dct_seg.web import FARTHEST
from dct_seg.web.schemas import Length, Model, Pixels

MAX_CLASSES, MAX_CLASS_ID, MAX_REVISION = 1000, 1_000_000, 2**53
MAX_POINTS, MAX_IDS = 5000, 10_000


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must contain printable characters only")
    return text


Probability = Annotated[float, Field(ge=0, lt=1)]
ClassId = Annotated[int, Field(ge=1, le=MAX_CLASS_ID, strict=True)]
Whole = Annotated[int, Field(ge=0, le=MAX_REVISION, strict=True)]
Color = Annotated[str, StringConstraints(pattern=r"^#[0-9a-f]{6}$")]
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_printable)
]


class Class(Model):
    """An object class."""

    id: ClassId
    name: Line
    color: Color


class Problem(Model):
    """Response with any status of 400 or above: what was given, what was expected and how to fix it."""

    error: str
    holder: str | None = Field(default=None, description="409 for another tab: the tab with write access")
    classes: list[Class] | None = Field(default=None, description="409 for changed classes: the current ones")


class GivenClick(Model):
    """A user's click; without a radius, the method chooses one."""

    row: Pixels
    col: Pixels
    positive: StrictBool = True
    radius: Length | None = None


class Change(Model):
    """Base of every change: the image revision that it applies to."""

    revision: Whole
    brief: StrictBool = Field(
        default=False, description="respond only with the objects that this change added, changed or removed"
    )


class DraftClass(Change):
    """The class of the draft."""

    class_id: ClassId


class NewClick(Change):
    """A new click; without a class, the draft keeps its own."""

    click: GivenClick
    threshold: Probability = 0.5
    class_id: ClassId | None = None
    keep_outside: Annotated[float, Field(gt=0, le=FARTHEST)] | None = Field(
        default=None, description="radius of a circle around the click; the mask outside of it is kept"
    )


class NewPreview(Change):
    """A click still being dragged; the response repeats ``seq``."""

    click: GivenClick
    seq: Whole = 0
    live: StrictBool = Field(
        default=False, description="faster; coarser on a machine that is too slow to follow a drag"
    )


Value = Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)]


class GivenWindow(Model):
    """Values of the file shown as black and white; level and width are their mean and difference."""

    low: Value
    high: Value

    def checked(self) -> Window:
        """Return the window; ValueError when ``low`` is not below ``high``."""
        return Window.checked(self.low, self.high)


class NewWindow(Change):
    """A window for one image; null uses the folder's."""

    window: GivenWindow | None


class FolderWindow(Model):
    """The window of all images without their own; null uses each file's own, or its range."""

    window: GivenWindow | None


class WindowInForce(Model):
    """The window of both the display and the network's input."""

    low: float
    high: float
    lowest: float = Field(description="value in the file")
    highest: float = Field(description="value in the file")
    chosen_by: ChosenBy | None = Field(description="object: the draft keeps its initial window")


class Finish(Change):
    """Finish the draft as an object."""

    class_id: ClassId
    threshold: Probability = 0.5


class NothingHere(Change):
    """Mark an image without objects as done, or as not done."""

    nothing: StrictBool


class GivenPaint(Model):
    """A manual step: a brush stroke, a closed lasso, or a clean-up without points."""

    kind: Kind
    positive: StrictBool = Field(default=True, description="false removes pixels")
    points: Annotated[
        list[Annotated[list[Pixels], Field(min_length=2, max_length=3)]], Field(max_length=MAX_POINTS)
    ] = Field(default=[], description="[row, col, radius] for a brush, [row, col] of the corners for a lasso")


class NewPaint(Change):
    """A new manual step; ``threshold`` first converts the network's probabilities to a mask."""

    paint: GivenPaint
    threshold: Probability = 0.5
    class_id: ClassId | None = Field(default=None, description="without one, the draft keeps its own")


class ObjectChange(Change):
    """A change to the class or the lock of a finished object."""

    class_id: ClassId | None = None
    locked: StrictBool | None = None


ObjectIds = Annotated[
    list[Annotated[int, Field(ge=1, le=MAX_REVISION, strict=True)]], Field(min_length=1, max_length=MAX_IDS)
]


class NamedObjects(Change):
    """Finished objects to change."""

    ids: ObjectIds


class Carry(NamedObjects):
    """Objects of another image to copy to this one."""

    source: Annotated[str, StringConstraints(max_length=64)]


class ObjectsChange(ObjectChange):
    """A change to the class or the lock of several finished objects."""

    ids: ObjectIds


class Classes(Model):
    """All classes of the folder."""

    classes: Annotated[list[Class], Field(min_length=1, max_length=MAX_CLASSES)]
    before: list[Class] | None = Field(
        default=None, description="classes that the edit started from; 409 if the current ones differ"
    )


class ModelCard(Model):
    """The method in use."""

    name: str
    prompts: Literal["click", "drag"] = Field(description="drag: the method uses a radius")


class ListedImage(Model):
    """An image in the list."""

    id: str
    name: str
    num_objects: int
    has_draft: bool
    nothing: bool = Field(description="the user marked the image as having no object")
    error: str | None = Field(description="reason why the image cannot be opened")


class Project(Model):
    """The folder with its images and classes; ``last`` is the image changed last."""

    name: str
    model: ModelCard
    threshold: float
    classes: list[Class]
    pictures: list[ListedImage]
    last: str | None
    window: GivenWindow | None = Field(description="window of the folder")
    serial: int = Field(description="number of image changes in this run so far")
    files: int = Field(description="number of changes of the image list so far")


class UsedClick(Model):
    """A click of the draft with its effective radius.

    ``given``: whether the user dragged; otherwise the method chose the radius.
    """

    row: float
    col: float
    positive: bool
    radius: float | None
    given: bool


class Draft(Model):
    """The object in progress."""

    clicks: list[UsedClick]
    class_id: int
    edits: int | None = Field(description="reopened finished object")
    threshold: float = Field(description="threshold at the last click, or that of the reopened object")


class Object(Model):
    """A finished object."""

    id: int
    class_id: int
    num_clicks: int
    area: int
    bbox: Annotated[list[int], Field(min_length=4, max_length=4, description="row, col, height, width")]
    polygons: list[list[list[float]]] = Field(description="outlines, each a list of [col, row]")
    locked: bool


class Mask(Model):
    """Probabilities of a region of the image.

    They are zero elsewhere. The PNG may have fewer pixels than the region.
    """

    row: int
    col: int
    height: int
    width: int
    png: str = Field(description="base64 of an 8-bit gray PNG, probability * 255")


class AnnotatedImage(Model):
    """An image, its objects and its draft."""

    id: str
    name: str
    width: int
    height: int
    revision: int
    can_undo: bool
    can_redo: bool
    draft: Draft | None
    objects: list[Object] = Field(description="all objects; in a brief response those added or changed")
    brief: bool
    gone: list[int] = Field(description="in a brief response: removed objects")
    mask: Mask | None = Field(description="mask of the draft")
    nothing: bool = Field(description="the user marked the image as having no object")
    window: WindowInForce | None = Field(description="null for an image of 8 bits, which has no window")


class Milliseconds(Model):
    """Timings of a request."""

    model: float
    total: float


class Preview(Model):
    """The mask after one more click, without making it."""

    seq: int
    mask: Mask
    exact: bool = Field(description="false for a coarser mask, close to that of the click")
    radius: float | None
    milliseconds: Milliseconds


class Tab(Model):
    """Heartbeat of a page with the image that it shows; ``take`` requests write access to that image."""

    tab: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    picture: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="image shown; any other is released"
    )
    take: StrictBool = False
    since: Whole = Field(default=0, description="last serial received")


class TabState(Model):
    """Whether this tab may change the image that it shows."""

    alone: bool
    holder: str | None
    elsewhere: list[str] = Field(description="images open in other tabs")
    serial: int
    files: int
    classes: list[Class]
    changed: list[ListedImage] = Field(description="images changed after the given serial")


class CocoPart(BaseModel):
    """Base class of COCO records; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class CocoImage(CocoPart):
    """COCO record of an image."""

    id: int
    file_name: str
    height: int | None = None
    width: int | None = None


class CocoAnnotation(CocoPart):
    """COCO record of an object."""

    image_id: int
    category_id: int
    segmentation: Any = None


class CocoCategory(CocoPart):
    """COCO record of a class."""

    id: int
    name: Line


class CocoFile(CocoPart):
    """COCO JSON of masks to correct; unreadable records are skipped."""

    images: list[Any] = Field(description="each with id, file_name and, if known, height and width")
    annotations: list[Any] = Field(description="each with image_id, category_id and segmentation")
    categories: list[Any] = Field(description="each with id and name")


class Imported(Model):
    """Result of an import."""

    pictures: int
    objects: int
    known: int = Field(description="objects that existed already, with the same mask and class")
    skipped: list[str]
