"""Exports: one file for the whole folder, written beside the work and sent from there."""

from __future__ import annotations

import io
import json
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageColor

from dct_seg import __version__
from dct_seg.app import formats
from dct_seg.app.history import History
from dct_seg.app.polygons import Polygon, exact_polygons
from dct_seg.app.project import ClassLabel, Project
from dct_seg.app.state import SegmentedObject, click_event, step_event
from dct_seg.rle import BrokenMaskError, decode, decode_part

Own = Literal["coco", "indexed_png", "object_png", "labelme", "clicks"]
OtherTool = Literal["yolo", "voc", "cvat", "label_studio", "datumaro"]
Format = Literal[Own, OtherTool]
MEDIA_TYPES = ("application/json", "application/jsonl", "application/zip")
MOST_LABELS = 254


@dataclass(frozen=True)
class Annotated:
    """An image with finished objects.

    Args:
        name: Name of the image, inside the folder.
        stem: Stem of its files: its name without the suffix, or with it where another image has the
            same.
        size: (height, width).
        history: Edit history of the image, with its log.
    """

    name: str
    stem: str
    size: tuple[int, int]
    history: History

    @property
    def objects(self) -> tuple[SegmentedObject, ...]:
        """Objects ordered by number."""
        return self.history.state.objects

    @contextmanager
    def naming_its_log(self) -> Iterator[None]:
        """Name the log in the error for a broken mask.

        Raises:
            HistoryError: (a ValueError) When a mask is broken; the message names the log.
        """
        try:
            yield
        except BrokenMaskError as error:
            raise self.history.broken_mask(error) from error


@dataclass(frozen=True)
class Written:
    """Temporary file that is sent and then removed."""

    path: Path
    name: str
    media_type: str


def write(project: Project, kind: Format) -> Written:
    """Write all finished objects in a format.

    Raises:
        ValueError: When an image's log is broken, or the format cannot represent the objects.
    """
    pictures = list(annotated(project))
    if kind in ("coco", "clicks"):
        text = (
            json.dumps(_coco(project, pictures))
            if kind == "coco"
            else "".join(_click_lines(project, pictures))
        )
        ending, media_type = (
            (".json", "application/json") if kind == "coco" else (".jsonl", "application/jsonl")
        )
        path = _temporary(ending)
        try:
            path.write_text(text, encoding="utf-8")
        except BaseException:
            path.unlink()
            raise
        return Written(path, f"{kind}{ending}", media_type)
    files: Mapping[str, Callable[[Project, Annotated], Iterator[tuple[str, bytes]]]] = {
        "indexed_png": _indexed,
        "object_png": _object_pngs,
        "labelme": _labelme,
    }
    path = _temporary(".zip")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            if kind in _OTHER_TOOLS:
                for picture in pictures:
                    with picture.naming_its_log():
                        for one in picture.objects:
                            _ = one.outline  # a mask that is broken is found here
                for name, content in _OTHER_TOOLS[kind](project.classes, pictures):
                    archive.writestr(name, content)
            for picture in pictures if kind in files else ():
                with picture.naming_its_log():
                    for name, content in files[kind](project, picture):
                        archive.writestr(name, content)
    except BaseException:
        path.unlink()
        raise
    return Written(path, f"{kind}.zip", "application/zip")


_OTHER_TOOLS: Mapping[str, Callable[[Sequence[ClassLabel], Sequence[Annotated]], formats.Files]] = {
    "yolo": formats.yolo,
    "voc": formats.voc,
    "cvat": formats.cvat,
    "label_studio": formats.label_studio,
    "datumaro": formats.datumaro,
}


def annotated(project: Project) -> Iterator[Annotated]:
    """The images that have finished objects, by name."""
    entries = project.entries()
    stems = file_stems([entry.name for entry in entries])
    for entry, stem in zip(entries, stems, strict=True):
        history = project.history(entry)
        if history.state.objects and history.size is not None:
            for one in history.state.objects:
                project.check_class(one.class_id, of=entry.name)
            yield Annotated(entry.name, stem, history.size, history)


def file_stems(names: Sequence[str]) -> list[str]:
    """Unique names for the files of each image, also on a case-insensitive disk.

    The image name without its suffix; with the suffix, or a number too, if that name is taken.

    Examples:
        >>> file_stems(["a.jpg", "a.png", "a.jpg.png", "b.png", "C/d.png", "c/D.png"])
        ['a.jpg', 'a.png', 'a.jpg.png', 'b', 'C/d.png', 'c/D.png_2']
    """
    plain = [name.replace("\\", "_") for name in names]
    stems = [str(PurePosixPath(name).with_suffix("")) for name in plain]
    times = Counter(map(_folded, stems))
    whole = set(map(_folded, plain))
    taken: set[str] = set()
    found = []
    for name, stem in zip(plain, stems, strict=True):
        own = stem if times[_folded(stem)] == 1 and _folded(stem) not in whole else name
        tried = chain([own], (f"{own}_{number}" for number in count(2)))
        chosen = next(one for one in tried if _folded(one) not in taken)
        taken.add(_folded(chosen))
        found.append(chosen)
    return found


def _folded(name: str) -> str:
    """Normalize a name; equal for names that some file system treats as the same."""
    return unicodedata.normalize("NFC", name).casefold()


def _coco(project: Project, pictures: list[Annotated]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        images.append(
            {"id": number, "file_name": picture.name, "height": picture.size[0], "width": picture.size[1]}
        )
        for one in picture.objects:
            with picture.naming_its_log():
                row, col, height, width = one.outline.bbox
            record = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": one.class_id,
                "segmentation": dict(one.rle),
            }
            annotations.append(
                {**record, "area": one.outline.area, "bbox": [col, row, width, height], "iscrowd": 0}
            )
    categories = [{"id": one.id, "name": one.name} for one in project.classes]
    return {
        "info": {"description": f"dct-seg {__version__}"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _click_lines(project: Project, pictures: list[Annotated]) -> Iterator[str]:
    """Write one line per object, with everything that makes its mask."""
    names = {one.id: one.name for one in project.classes}
    for picture in pictures:
        for one in picture.objects:
            line = {
                "image": picture.name,
                "height": picture.size[0],
                "width": picture.size[1],
                "object": one.id,
                "class": names[one.class_id],
                "threshold": one.threshold,
                "clicks": [click_event(made) for made in one.clicks],
                "start": one.start if one.clicks or one.earlier else one.rle,
                "removed": one.removed,
            }
            if one.earlier:
                line |= {
                    "origin": one.origin,
                    "earlier": [step_event(step) for step in one.earlier],
                }
            yield json.dumps(line) + "\n"


def _indexed(project: Project, picture: Annotated) -> Iterator[tuple[str, bytes]]:
    """Values from 1 in a palette of 8 bits, or in gray of 16 bits where there are more than 254 objects."""
    small = len(picture.objects) <= MOST_LABELS
    labels = np.zeros(picture.size, np.uint8 if small else np.uint16)
    colors = {one.id: ImageColor.getrgb(one.color) for one in project.classes}
    palette = [0] * 768
    for place, one in enumerate(picture.objects, start=1):
        found = decode_part(one.rle)
        if found is not None:
            labels[found[0]][found[1]] = place
        palette[3 * place : 3 * place + 3] = colors[one.class_id][:3]
    hidden = set(range(1, len(picture.objects) + 1)) - set(np.unique(labels).tolist())
    if hidden:
        number = picture.objects[min(hidden) - 1].id
        raise ValueError(
            f"object {number} of {picture.name} lies under later ones, and a pixel of an indexed PNG holds "
            "one object; export coco or object_png"
        )
    image = Image.fromarray(labels)
    if small:
        image.putpalette(palette)
    yield f"{picture.stem}.png", _png(image)


def _object_pngs(project: Project, picture: Annotated) -> Iterator[tuple[str, bytes]]:
    for one in picture.objects:
        yield f"{picture.stem}/{one.id}.png", _png(Image.fromarray(decode(one.rle).astype(np.uint8) * 255))


def _labelme(project: Project, picture: Annotated) -> Iterator[tuple[str, bytes]]:
    names = {one.id: one.name for one in project.classes}
    shapes = [
        {
            "label": names[one.class_id],
            "points": points,
            "group_id": one.id,
            "shape_type": "polygon",
            "flags": {},
        }
        for one in picture.objects
        for points in _polygons(one)
    ]
    last = PurePosixPath(picture.name).name
    content: dict[str, Any] = {
        "version": "5.0.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": last,
        "imageData": None,
    }
    content |= {"imageHeight": picture.size[0], "imageWidth": picture.size[1]}
    yield f"{picture.stem}.json", json.dumps(content).encode()


def _polygons(one: SegmentedObject) -> list[Polygon]:
    """Polygons that match the object exactly, in pixels of the image."""
    found = decode_part(one.rle)
    if found is None:
        return []
    (rows, cols), part = found
    return [[[x + cols.start, y + rows.start] for x, y in polygon] for polygon in exact_polygons(part)]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _temporary(suffix: str) -> Path:
    with tempfile.NamedTemporaryFile(prefix="dct-seg-", suffix=suffix, delete=False) as file:
        return Path(file.name)
