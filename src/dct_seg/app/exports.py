"""Exports: one file for the whole folder, written to the work folder and sent from there."""

from __future__ import annotations

import base64
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
from PIL.PngImagePlugin import PngInfo

from dct_seg import __version__
from dct_seg.app import formats
from dct_seg.app.history import History
from dct_seg.app.polygons import exact_polygons
from dct_seg.app.project import ClassLabel, Project
from dct_seg.app.state import SegmentedObject, click_event, step_event, window_event
from dct_seg.data.pages import plain_stem
from dct_seg.rle import BrokenMaskError, decode, decode_part

Own = Literal["coco", "indexed_png", "object_png", "labelme", "clicks"]
OtherTool = Literal["yolo", "voc", "cvat", "label_studio", "datumaro"]
Format = Literal[Own, OtherTool]
MEDIA_TYPES = ("application/json", "application/jsonl", "application/zip")
MAX_LABELS = 254
TEXT = "dct-seg"
"""Key of the text in exported mask PNGs that names their image and the class of each value."""


@dataclass(frozen=True)
class ExportedImage:
    """Image with finished objects.

    Args:
        name: Name of the image, inside the folder.
        stem: Stem of its exported files: the image's name without the suffix, or with it if another image has
            the same stem.
        size: (height, width) of the image.
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
class ExportFile:
    """Temporary file of an export, removed once it has been sent."""

    path: Path
    name: str
    media_type: str


def write(project: Project, kind: Format) -> ExportFile:
    """Write all finished objects in a format.

    Raises:
        ValueError: When an image's log is broken, or the format cannot represent the objects.
    """
    images = list(exported_images(project))
    if kind in ("coco", "clicks"):
        text = (
            json.dumps(_coco(project, images)) if kind == "coco" else "".join(_click_lines(project, images))
        )
        ending, media_type = (
            (".json", "application/json") if kind == "coco" else (".jsonl", "application/jsonl")
        )
        path = _temporary(project, ending)
        try:
            path.write_text(text, encoding="utf-8")
        except BaseException:
            path.unlink()
            raise
        return ExportFile(path, f"{kind}{ending}", media_type)
    files: Mapping[str, Callable[[Project, ExportedImage], Iterator[tuple[str, bytes]]]] = {
        "indexed_png": _indexed,
        "object_png": _object_pngs,
        "labelme": _labelme,
    }
    path = _temporary(project, ".zip")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            if kind in _OTHER_TOOLS:
                for image in images:
                    with image.naming_its_log():
                        for one in image.objects:
                            _ = one.outline  # raises for a broken mask before anything is written
                for name, content in _OTHER_TOOLS[kind](project.classes, images):
                    archive.writestr(name, content)
            for image in images if kind in files else ():
                with image.naming_its_log():
                    for name, content in files[kind](project, image):
                        archive.writestr(name, content)
    except BaseException:
        path.unlink()
        raise
    return ExportFile(path, f"{kind}.zip", "application/zip")


_OTHER_TOOLS: Mapping[str, Callable[[Sequence[ClassLabel], Sequence[ExportedImage]], formats.Files]] = {
    "yolo": formats.yolo,
    "voc": formats.voc,
    "cvat": formats.cvat,
    "label_studio": formats.label_studio,
    "datumaro": formats.datumaro,
}


def exported_images(project: Project) -> Iterator[ExportedImage]:
    """Yield the images that have finished objects, sorted by name."""
    entries = project.entries()
    stems = file_stems([entry.name for entry in entries])
    for entry, stem in zip(entries, stems, strict=True):
        history = project.history(entry)
        if history.state.objects and history.size is not None:
            for one in history.state.objects:
                project.check_class(one.class_id, of=entry.name)
            yield ExportedImage(entry.name, stem, history.size, history)


def file_stems(names: Sequence[str]) -> list[str]:
    """Choose a unique stem for the files of each image, even on a case-insensitive disk.

    The stem is the image's name without its suffix; if that is taken, with it; if that is taken too, with a
    number.

    Examples:
        >>> file_stems(["a.jpg", "a.png", "a.jpg.png", "b.png", "C/d.png", "c/D.png"])
        ['a.jpg', 'a.png', 'a.jpg.png', 'b', 'C/d.png', 'c/D.png_2']
        >>> file_stems(["stack.tif#1", "stack.tif#2"])
        ['stack#1', 'stack#2']
    """
    plain = [name.replace("\\", "_") for name in names]
    stems = [plain_stem(name) for name in plain]
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
    """Normalize a name, so that names that a file system may treat as the same are equal."""
    return unicodedata.normalize("NFC", name).casefold()


def _coco(project: Project, images: list[ExportedImage]) -> dict[str, Any]:
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    numbers = category_ids(project.classes)
    for number, image in enumerate(images, start=1):
        listed.append(
            {"id": number, "file_name": image.name, "height": image.size[0], "width": image.size[1]}
        )
        for one in image.objects:
            with image.naming_its_log():
                row, col, height, width = one.outline.bbox
            record = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": numbers[one.class_id],
                "segmentation": dict(one.rle),
            }
            annotations.append(
                {**record, "area": one.outline.area, "bbox": [col, row, width, height], "iscrowd": 0}
            )
    categories = [{"id": numbers[one.id], "name": one.name} for one in project.classes]
    return {
        "info": {"description": f"dct-seg {__version__}"},
        "images": listed,
        "annotations": annotations,
        "categories": categories,
    }


def category_ids(classes: Sequence[ClassLabel]) -> dict[int, int]:
    """Choose the category id of each class: the imported one, the number of the class, or else a free one.

    Examples:
        >>> category_ids([ClassLabel(1, "cat", "#000000", 2), ClassLabel(2, "dog", "#000000")])
        {1: 2, 2: 3}
    """
    taken = {one.category_id for one in classes}
    free = count(max([1, *(one.id for one in classes), *(number or 0 for number in taken)]) + 1)
    found = {}
    for one in classes:
        own = next(free) if one.id in taken else one.id
        found[one.id] = own if one.category_id is None else one.category_id
    return found


def _click_lines(project: Project, images: list[ExportedImage]) -> Iterator[str]:
    """Yield one line per object, with everything that determines its mask."""
    names = {one.id: one.name for one in project.classes}
    for image in images:
        for one in image.objects:
            line = {
                "image": image.name,
                "height": image.size[0],
                "width": image.size[1],
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
            yield json.dumps({**line, **window_event(one.window)}) + "\n"


def _indexed(project: Project, image: ExportedImage) -> Iterator[tuple[str, bytes]]:
    """Write labels from 1: an 8-bit PNG with a palette, or a 16-bit gray one for more than 254 objects."""
    small = len(image.objects) <= MAX_LABELS
    labels = np.zeros(image.size, np.uint8 if small else np.uint16)
    colors = {one.id: ImageColor.getrgb(one.color) for one in project.classes}
    palette = [0] * 768
    for place, one in enumerate(image.objects, start=1):
        found = decode_part(one.rle)
        if found is not None:
            labels[found[0]][found[1]] = place
        palette[3 * place : 3 * place + 3] = colors[one.class_id][:3]
    hidden = set(range(1, len(image.objects) + 1)) - set(np.unique(labels).tolist())
    if hidden:
        number = image.objects[min(hidden) - 1].id
        raise ValueError(
            f"object {number} of {image.name} is hidden under later ones, and a pixel of an indexed PNG can "
            "belong to one object only; export coco or object_png"
        )
    drawn = Image.fromarray(labels)
    if small:
        drawn.putpalette(palette)
    names = {one.id: one.name for one in project.classes}
    classes = {place: names[one.class_id] for place, one in enumerate(image.objects, start=1)}
    yield f"{image.stem}.png", _png(drawn, _text(image, classes))


def _object_pngs(project: Project, image: ExportedImage) -> Iterator[tuple[str, bytes]]:
    names = {one.id: one.name for one in project.classes}
    for one in image.objects:
        drawn = Image.fromarray(decode(one.rle).astype(np.uint8) * 255)
        yield f"{image.stem}/{one.id}.png", _png(drawn, _text(image, {255: names[one.class_id]}))


def _labelme(project: Project, image: ExportedImage) -> Iterator[tuple[str, bytes]]:
    names = {one.id: one.name for one in project.classes}
    shapes = [
        {"label": names[one.class_id], "group_id": one.id, "flags": {}, **shape}
        for one in image.objects
        for shape in _labelme_shapes(one)
    ]
    content: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePosixPath(image.name).name,
        "imageData": None,
        "imageHeight": image.size[0],
        "imageWidth": image.size[1],
    }
    yield f"{image.stem}.json", json.dumps(content).encode()


def _labelme_shapes(one: SegmentedObject) -> list[dict[str, Any]]:
    """Make a polygon for each part of an object, or, if it has holes, labelme's mask of its box."""
    found = decode_part(one.rle)
    if found is None:
        return []
    (rows, cols), part = found
    polygons = exact_polygons(part)
    if polygons is not None:
        moved = [[[x + cols.start, y + rows.start] for x, y in polygon] for polygon in polygons]
        return [{"shape_type": "polygon", "points": points} for points in moved]
    box = [[cols.start, rows.start], [cols.stop - 1, rows.stop - 1]]
    png = base64.b64encode(_png(Image.fromarray(part.view(np.uint8)))).decode()
    return [{"shape_type": "mask", "points": box, "mask": png}]


def _png(image: Image.Image, text: PngInfo | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=text)
    return file.getvalue()


def _text(image: ExportedImage, classes: Mapping[int, str]) -> PngInfo:
    """Make the text in a mask PNG that names its image and the class of each value for an import."""
    text = PngInfo()
    text.add_itxt(TEXT, json.dumps({"image": image.name, "classes": classes}))
    return text


def _temporary(project: Project, suffix: str) -> Path:
    """Create a file in the work folder."""
    project.check_in_place()
    folder = project.work / "exports"
    folder.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=suffix, delete=False) as file:
        return Path(file.name)
