"""Result of reading annotations: images, their objects, and one message for each unusable record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dct_seg.app.state import SegmentedObject
from dct_seg.data.images import MAX_PIXELS
from dct_seg.files import BROKEN, broken_reason

Size = tuple[int, int]
"""Size of an image: (height, width) in pixels."""


@dataclass(frozen=True)
class FoundObject:
    """Object read from an annotation file.

    Args:
        place: Position in the file, for messages, such as ``annotation 3``.
        label: Name of the class, its number in this folder, or None for the first class.
        rle: Function from the image's size to the mask as a COCO run-length encoding, which raises a
            ValueError for a bad one; None for a mask that is predicted from the steps.
        steps: Clicks and manual steps that made it, or None.
    """

    place: str
    label: str | int | None
    rle: Callable[[Size], Mapping[str, Any]] | None
    steps: SegmentedObject | None = None


@dataclass
class FoundImage:
    """Image named in an annotation file.

    Args:
        name: Path of the image, as in the file.
        size: Size in the file, or None.
        is_stem: Whether the name has no suffix.
        sha256: Hash of the image by `dct_seg.session.image_hash`, or None.
        objects: Objects in the order of the file.
    """

    name: str
    size: Size | None = None
    is_stem: bool = False
    sha256: str | None = None
    objects: list[FoundObject] = field(default_factory=list)

    def add_object(self, place: str, label: str | None, rle: Callable[[Size], Mapping[str, Any]]) -> None:
        """Add an object with a mask to the image.

        Raises:
            TypeError: When its class is not text, which a JSON file allows.
        """
        if label is not None and not isinstance(label, str):
            raise TypeError(f"its class must be a name, got {str(label)[:100]}")
        self.objects.append(FoundObject(place, label, rle))


@dataclass
class FoundAnnotations:
    """Everything read from the files of an import.

    Args:
        images: Images in the order of the files.
        categories: Declared class names in order, each with the id that an export keeps, or None.
        skipped: One message for each record that cannot be used.
    """

    images: list[FoundImage] = field(default_factory=list)
    categories: dict[str, int | None] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add_image(self, name: str, size: Size | None = None, *, is_stem: bool = False) -> FoundImage:
        """Add an image to the result.

        Raises:
            ValueError: When it has no pixels or too many.
        """
        if size is not None and (min(size) < 1 or size[0] * size[1] > MAX_PIXELS):
            raise ValueError(
                f"its image must have from 1 pixel to {MAX_PIXELS // 10**6} megapixels, got "
                f"{size[1]}x{size[0]}"
            )
        self.images.append(FoundImage(name, size, is_stem))
        return self.images[-1]

    @contextmanager
    def reporting(self, place: str) -> Iterator[None]:
        """Report a broken record instead of raising, so that the others are still read."""
        try:
            yield
        except BROKEN as error:
            self.skipped.append(f"{place}: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """Describe an error of broken content in one line."""
    if isinstance(error, KeyError):
        return broken_reason(error)
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) else f"it does not match the format ({text})"
