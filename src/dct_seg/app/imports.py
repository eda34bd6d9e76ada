"""Masks that come in, to be corrected: indexed PNGs and COCO JSON. Nothing in them is trusted."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_seg.app import schemas
from dct_seg.app.folder import Entry
from dct_seg.app.outlines import from_polygons
from dct_seg.app.project import COLORS, ClassLabel, Project
from dct_seg.app.state import SegmentedObject
from dct_seg.rle import decode, encode


@dataclass(frozen=True)
class Plan:
    """What of a COCO JSON belongs where.

    Args:
        pictures: Each with its record and its objects.
        categories: The classes that they have, id to name.
        skipped: What belongs nowhere, a line each.
    """

    pictures: list[tuple[Entry, schemas.CocoImage, list[schemas.CocoAnnotation]]]
    categories: Mapping[int, str]
    skipped: list[str]


def read_labels(png: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The values of an indexed or gray 8-bit PNG, (H, W).

    Args:
        png: The file.
        size: (height, width) that it must have.

    Raises:
        ValueError: When it is another thing.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.size[::-1] != size:
                width, height = picture.size
                raise ValueError(f"the mask is {width}x{height}, but the picture is {size[1]}x{size[0]}")
            if picture.mode not in ("P", "L", "1"):
                raise ValueError(
                    f"the mask has mode {picture.mode}; save it as an indexed or gray PNG of 8 bits"
                )
            return np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the mask is no PNG that can be decoded ({error})") from error


def imported(number: int, class_id: int, mask: NDArray[np.bool_]) -> SegmentedObject:
    """A finished object that nobody clicked."""
    return SegmentedObject(id=number, class_id=class_id, clicks=(), threshold=0.5, rle=encode(mask))


def plan(content: schemas.CocoFile, entries: Iterable[Entry]) -> Plan:
    """Find the picture of each object.

    By its whole name, else by its last part where only one picture has that.
    """
    by_name = {entry.name: entry for entry in entries}
    by_last: dict[str, list[Entry]] = defaultdict(list)
    for entry in by_name.values():
        by_last[entry.name.rpartition("/")[2]].append(entry)
    categories = {one.id: one.name for one in content.categories}
    records = {record.id: record for record in content.images}
    objects: dict[int, list[schemas.CocoAnnotation]] = defaultdict(list)
    skipped = []
    for place, annotation in enumerate(content.annotations):
        if annotation.image_id not in records or annotation.category_id not in categories:
            skipped.append(
                f"annotation {place}: no image {annotation.image_id} or no category {annotation.category_id}"
            )
        else:
            objects[annotation.image_id].append(annotation)
    pictures = []
    for number, found in objects.items():
        record = records[number]
        same = by_last[record.file_name.rpartition("/")[2]]
        fitting = by_name.get(record.file_name) or (same[0] if len(same) == 1 else None)
        if fitting is None:
            skipped.append(f"{record.file_name[:200]}: {len(same) or 'no'} pictures here are called so")
        else:
            pictures.append((fitting, record, found))
    used = {annotation.category_id for _, _, found in pictures for annotation in found}
    return Plan(pictures, {number: name for number, name in categories.items() if number in used}, skipped)


def add_classes(project: Project, categories: Mapping[int, str]) -> dict[int, int]:
    """The project's class for each category, by name; those that it lacks are added."""
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
    """Make sure that a record is of a picture of this (height, width).

    Raises:
        ValueError: When it is not.
    """
    if None not in (record.height, record.width) and (record.height, record.width) != size:
        raise ValueError(f"it is {size[1]}x{size[0]}, but the COCO JSON says {record.width}x{record.height}")


def mask_of(annotation: schemas.CocoAnnotation, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of a record, (H, W) bool.

    Raises:
        ValueError: When it is broken, empty or of another size.
    """
    shape = annotation.segmentation
    if isinstance(shape, schemas.CocoRuns):
        if tuple(shape.size) != size:
            raise ValueError(
                f"a mask is {shape.size[1]}x{shape.size[0]}, but the picture is {size[1]}x{size[0]}"
            )
        mask = decode({"size": shape.size, "counts": shape.counts})
    elif shape:
        mask = from_polygons(shape, size)
    else:
        raise ValueError("an annotation has no segmentation")
    if not mask.any():
        raise ValueError("a mask is empty")
    return mask
