"""Import of masks to correct: indexed PNGs and COCO JSON, as untrusted input."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dct_seg.app import schemas
from dct_seg.app.folder import Entry
from dct_seg.app.project import COLORS, ClassLabel, Project
from dct_seg.app.state import SegmentedObject
from dct_seg.data.images import values_of_png
from dct_seg.data.labels import SOFT_CURE, as_labels, soft_problem
from dct_seg.data.segmentation import from_segmentation

M = TypeVar("M", bound=schemas.CocoPart)

MOST_LINES = 100
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Plan:
    """Assignment of a COCO JSON's annotations to images.

    Args:
        pictures: Images with their record and their annotations, numbered by place in the file.
        categories: Names of their classes by id.
        skipped: Annotations without an image, one line each.
    """

    pictures: list[tuple[Entry, schemas.CocoImage, list[tuple[int, schemas.CocoAnnotation]]]]
    categories: Mapping[int, str]
    skipped: list[str]


def read_labels(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read the labels of a mask PNG, (H, W): indexed, gray, or color with equal channels, as datasets do.

    0 and 255 only, or a 1-bit PNG, is one object; otherwise 1..254 are objects and 255 is ignored.

    Args:
        png: The file.
        size: (height, width) that it must have.

    Raises:
        ValueError: When it is no such mask.
    """
    if not png.startswith(_PNG) or len(png) < 24:
        raise ValueError("the mask is no PNG that can be decoded (its first bytes are not those of a PNG)")
    width, height = struct.unpack(">II", png[16:24])  # before anything is decoded: a PNG can be a bomb
    values = None if {height, width} != {*size} else values_of_png(png, "the mask")
    if values is None or values.shape != size:
        width, height = (width, height) if values is None else values.shape[::-1]
        raise ValueError(f"the mask is {width}x{height}, but the image is {size[1]}x{size[0]}")
    labels = as_labels(values, "the mask")
    problem = soft_problem(labels)
    if problem:
        raise ValueError(f"the mask holds {problem}; {SOFT_CURE}")
    return labels


def imported(number: int, class_id: int, rle: Mapping[str, Any]) -> SegmentedObject:
    """Finished object without clicks."""
    return SegmentedObject(id=number, class_id=class_id, clicks=(), threshold=0.5, rle=rle)


def shortened(lines: list[str]) -> list[str]:
    """First lines, and the number of the others."""
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"... and {more} more"]


def plan(content: schemas.CocoFile, entries: Iterable[Entry]) -> Plan:
    """Find the image of each object by its whole name, or by its last part if that is unique."""
    by_name = {entry.name: entry for entry in entries}
    by_last: dict[str, list[Entry]] = defaultdict(list)
    for entry in by_name.values():
        by_last[entry.name.rpartition("/")[2]].append(entry)
    skipped: list[str] = []
    named = _valid(schemas.CocoCategory, content.categories, "category", skipped)
    categories = {one.id: one.name for one in named.values()}
    records = {one.id: one for one in _valid(schemas.CocoImage, content.images, "image", skipped).values()}
    objects: dict[int, list[tuple[int, schemas.CocoAnnotation]]] = defaultdict(list)
    annotations = _valid(schemas.CocoAnnotation, content.annotations, "annotation", skipped)
    for place, annotation in annotations.items():
        if annotation.image_id not in records or annotation.category_id not in categories:
            skipped.append(
                f"annotation {place}: no image {annotation.image_id} or no category {annotation.category_id}"
            )
        else:
            objects[annotation.image_id].append((place, annotation))
    pictures = []
    for number, found in objects.items():
        record = records[number]
        same = by_last[record.file_name.rpartition("/")[2]]
        fitting = by_name.get(record.file_name) or (same[0] if len(same) == 1 else None)
        if fitting is None:
            skipped.append(f"{record.file_name[:200]}: {len(same) or 'no'} images here are called so")
        else:
            pictures.append((fitting, record, found))
    used = {annotation.category_id for _, _, found in pictures for _, annotation in found}
    return Plan(pictures, {number: name for number, name in categories.items() if number in used}, skipped)


def add_classes(project: Project, categories: Mapping[int, str]) -> dict[int, int]:
    """Match each category with a class of the project by name; missing classes are added."""
    classes = list(project.classes)
    numbers = {one.name: one.id for one in classes}
    for name in categories.values():
        if name not in numbers:
            numbers[name] = max(numbers.values()) + 1
            classes.append(ClassLabel(numbers[name], name, COLORS[(numbers[name] - 1) % len(COLORS)]))
    if len(classes) > len(project.classes):
        project.set_classes(classes)
    return {number: numbers[name] for number, name in categories.items()}


def check_size(record: schemas.CocoImage, size: tuple[int, int]) -> None:
    """Check that a record has this (height, width).

    Raises:
        ValueError: When it has another size.
    """
    if None not in (record.height, record.width) and (record.height, record.width) != size:
        raise ValueError(f"it is {size[1]}x{size[0]}, but the COCO JSON says {record.width}x{record.height}")


def objects_of(
    found: Iterable[tuple[int, schemas.CocoAnnotation]],
    size: tuple[int, int],
    class_ids: Mapping[int, int],
    first_id: int,
) -> tuple[list[SegmentedObject], list[str]]:
    """Objects of an image's annotations, and one line for each unusable annotation.

    Masks stay run lengths: the pixels of many objects on a large image would not fit into memory.

    Args:
        found: Annotations by place in the file.
        size: (height, width) of the image.
        class_ids: Class of each category.
        first_id: Number of the first object.
    """
    objects: list[SegmentedObject] = []
    problems = []
    for place, annotation in found:
        try:
            runs = from_segmentation(annotation.segmentation, size)
        except ValueError as error:  # noqa: PERF203  # one that is bad must not take the others with it
            problems.append(f"annotation {place}: {error}")
        else:
            objects.append(imported(first_id + len(objects), class_ids[annotation.category_id], runs))
    return objects, problems


def _valid(kind: type[M], given: list[Any], what: str, skipped: list[str]) -> dict[int, M]:
    """Readable records by place in the file, and one line for each of the others."""
    found = {}
    for place, one in enumerate(given):
        try:
            found[place] = kind.model_validate(one)
        except ValidationError as error:  # noqa: PERF203  # likewise
            first = error.errors()[0]
            skipped.append(f"{what} {place}: {'.'.join(map(str, (*first['loc'], '')))} {first['msg']}")
    return found
