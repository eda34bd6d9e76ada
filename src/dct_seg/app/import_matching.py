"""Matching of imported objects to the images and the classes of the folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dct_seg.app import schemas
from dct_seg.app.exports import file_stems
from dct_seg.app.folder import Entry
from dct_seg.app.import_result import FoundAnnotations, FoundImage
from dct_seg.app.painting import Paint
from dct_seg.app.project import COLORS, ClassLabel, Project
from dct_seg.app.state import SegmentedObject, State
from dct_seg.clicks import Click
from dct_seg.methods.base import check_click
from dct_seg.rle import area
from dct_seg.web import FARTHEST

MAX_LINES = 100
Label = str | int | None
_LINE: TypeAdapter[str] = TypeAdapter(schemas.Line)


def object_without_clicks(number: int, class_id: int, rle: Mapping[str, Any]) -> SegmentedObject:
    """Finished object without clicks."""
    return SegmentedObject(id=number, class_id=class_id, clicks=(), threshold=0.5, rle=rle)


def shorten(lines: list[str]) -> list[str]:
    """Replace characters that cannot be sent; keep the first lines and count the rest."""
    lines = [line.encode(errors="replace").decode() for line in lines]
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"... and {more} more"]


def match_images(
    images: Iterable[FoundImage], entries: Iterable[Entry]
) -> tuple[list[tuple[Entry, FoundImage]], list[str]]:
    """Match a file's images that have objects to the folder's, with one message for each without a match.

    An image matches by its full path or by its file name. If several have that file name, the one that shares
    the most parent folders matches.
    """
    by_name = {entry.name: entry for entry in entries}
    by_stem = dict(zip(file_stems(list(by_name)), by_name.values(), strict=True))
    indexes = [(names, _by_last_part(names)) for names in (by_name, by_stem)]
    found, skipped = [], []
    for image in images:
        if not image.objects:
            continue
        whole, by_last = indexes[image.is_stem]
        same = by_last[image.name.rpartition("/")[2]]
        shared = [_num_shared(name, image.name) for name in same]
        best = [name for name, number in zip(same, shared, strict=True) if number == max(shared)]
        if image.name in whole:
            found.append((whole[image.name], image))
        elif len(best) == 1:
            found.append((whole[best[0]], image))
        else:
            here = f"{len(best)} images in this folder have" if best else "no image in this folder has"
            skipped.append(f"{image.name[:200]}: {here} this name")
    return found, skipped


def _by_last_part(names: Iterable[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[name.rpartition("/")[2]].append(name)
    return found


def _num_shared(one: str, other: str) -> int:
    """Count the trailing parts that two paths share.

    Examples:
        >>> _num_shared("images/train/a.png", "labels/train/a.png")
        2
    """
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def class_numbers(project: Project, found: FoundAnnotations, used: set[Label]) -> dict[Label, int]:
    """Map each label to the number of its class; missing classes are added, invalid names are skipped.

    Raises:
        ValueError: When the folder would have too many classes.
    """
    before = project.classes
    classes = list(before)
    numbers: dict[Label, int] = {None: classes[0].id}
    numbers |= {one.id: one.id for one in classes} | {one.name: one.id for one in classes}
    for label in dict.fromkeys([*found.categories, *sorted(one for one in used if isinstance(one, str))]):
        if label in used and label not in numbers and _is_name(label):
            number = max(one.id for one in classes) + 1
            numbers[label] = number
            classes.append(ClassLabel(number, label, COLORS[(number - 1) % len(COLORS)]))
    classes = _with_category_ids(classes, found.categories)
    if len(classes) > schemas.MAX_CLASSES:
        raise ValueError(
            f"a folder must have at most {schemas.MAX_CLASSES} classes, got {len(classes)}; import fewer"
        )
    if classes != before:
        project.set_classes(classes, before=before)
    return numbers


def _with_category_ids(
    classes: Sequence[ClassLabel], categories: Mapping[str, int | None]
) -> list[ClassLabel]:
    """Assign the category ids of a file to the classes; an existing id is kept."""
    taken = {one.category_id for one in classes}
    return [
        replace(one, category_id=categories[one.name])
        if one.category_id is None and one.name in categories and categories[one.name] not in taken
        else one
        for one in classes
    ]


def _is_name(label: str) -> bool:
    try:
        return _LINE.validate_python(label) == label
    except ValidationError:
        return False


def check_size(image: FoundImage, size: tuple[int, int]) -> None:
    """Check that an image has this (height, width).

    Raises:
        ValueError: When the size in the file differs.
    """
    if image.size not in (None, size):
        height, width = image.size
        raise ValueError(f"the image is {size[1]}x{size[0]}, but the file says {width}x{height}")


def objects_of(
    image: FoundImage,
    size: tuple[int, int],
    numbers: Mapping[Label, int],
    first_id: int,
    replayed: Callable[[SegmentedObject], SegmentedObject] = lambda one: one,
) -> tuple[list[SegmentedObject], list[str]]:
    """Convert the objects of an image, with one message for each that cannot be used.

    Masks stay run-length encoded: the pixels of many objects on a large image would not fit into memory.

    Args:
        image: Image in the file.
        size: (height, width) of the image in the folder.
        numbers: Class of each label.
        first_id: Number of the first object.
        replayed: Function that predicts the mask of an object from its steps.
    """
    lines = FoundAnnotations()
    objects: list[SegmentedObject] = []
    for one in image.objects:
        with lines.reporting(one.place):
            if one.label not in numbers:
                raise ValueError(
                    f"this folder has no class {one.label}; import a zip of the whole .dct-seg folder "
                    "instead, which contains the class names"
                    if isinstance(one.label, int)
                    else f"a class name must be 1 to 100 printable characters, got {one.label!r}"
                )
            made = one.steps or object_without_clicks(0, 0, {})
            _check_steps(made, size)
            made = replayed(made) if one.rle is None else replace(made, rle=one.rle(size))
            if not area(made.rle):
                raise ValueError("its mask is empty")
            objects.append(replace(made, id=first_id + len(objects), class_id=numbers[one.label]))
    return objects, lines.skipped


def _check_steps(one: SegmentedObject, size: tuple[int, int]) -> None:
    """Check everything that goes into the log besides the mask.

    Raises:
        ValueError: When a click lies outside the image, a mask is broken, or the threshold is not in 0..1.
    """
    for step in (*one.earlier, *one.clicks):
        numbers: list[float] = [step.threshold] if isinstance(step, Paint) else [step.radius or 0]
        if isinstance(step, Click):
            check_click(step, size)
        else:
            numbers += [number for point in step.points for number in point]
        if not all(abs(number) <= FARTHEST for number in numbers):
            raise ValueError(f"the numbers in its steps must be finite and at most {FARTHEST:g}")
    for mask in (one.start, one.removed, one.origin):
        if mask is not None and (area(mask) < 0 or mask["size"] != list(size)):
            raise ValueError(
                f"a mask has size {mask['size']}, but the image has {list(size)} (height, width)"
            )
    if not 0 <= one.threshold < 1:
        raise ValueError(f"its threshold must be at least 0 and below 1, got {one.threshold}")


def new_objects(added: Sequence[SegmentedObject], state: State) -> list[SegmentedObject]:
    """Select the objects that do not exist yet, so that importing twice does not duplicate them.

    An object exists if another of its class has the same mask or the same steps.
    """
    there = {key for one in state.objects for key in _keys(one)}
    return [one for one in added if not any(key in there for key in _keys(one))]


def _keys(one: SegmentedObject) -> Iterator[Hashable]:
    yield one.class_id, one.rle["counts"]
    if one.clicks or one.earlier:
        masks = (one.start, one.removed, one.origin)
        yield one.class_id, one.clicks, one.earlier, one.threshold, *(str(mask) for mask in masks)
