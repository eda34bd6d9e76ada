"""Result of reading annotations: images, their objects, and one line for each record that cannot be used."""

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
    """An object in a file.

    Args:
        place: Place in the file, for messages, such as ``annotation 3``.
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
    """An image in a file.

    Args:
        name: Path of the image as the file has it.
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

    def add(self, place: str, label: str | None, rle: Callable[[Size], Mapping[str, Any]]) -> None:
        """Add an object with a mask.

        Raises:
            TypeError: When its class is no text, which a file can hold too.
        """
        if label is not None and not isinstance(label, str):
            raise TypeError(f"its class is {str(label)[:100]}, a name was wanted")
        self.objects.append(FoundObject(place, label, rle))


@dataclass
class Found:
    """All that was found.

    Args:
        images: Images in the order of the files.
        categories: Declared class names in order, each with the id that an export keeps, or None.
        skipped: One line for each record that cannot be used.
    """

    images: list[FoundImage] = field(default_factory=list)
    categories: dict[str, int | None] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def image(self, name: str, size: Size | None = None, *, is_stem: bool = False) -> FoundImage:
        """Add an image.

        Raises:
            ValueError: When its size is not taken.
        """
        if size is not None and (min(size) < 1 or size[0] * size[1] > MAX_PIXELS):
            raise ValueError(f"an image of {size[1]}x{size[0]} is not taken")
        self.images.append(FoundImage(name, size, is_stem))
        return self.images[-1]

    @contextmanager
    def trying(self, place: str) -> Iterator[None]:
        """Report the record at a place if it is broken, so that it does not take the others with it."""
        try:
            yield
        except BROKEN as error:
            self.skipped.append(f"{place}: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """One line for an error of broken content."""
    if isinstance(error, KeyError):
        return broken_reason(error)
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) else f"it is not as the format has it ({text})"
