"""What is taken away: one file over the whole folder, written beside the work and sent from there."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageColor

from dct_seg import __version__
from dct_seg.app.project import Project
from dct_seg.app.state import SegmentedObject, click_event, step_event
from dct_seg.rle import decode

Format = Literal["coco", "indexed_png", "object_png", "labelme", "clicks"]
MEDIA_TYPES = ("application/json", "application/jsonl", "application/zip")
MOST_LABELS = 254


@dataclass(frozen=True)
class Annotated:
    """A picture with finished objects.

    Args:
        name: Of the picture, inside the folder.
        stem: What its files are called: its name without the suffix, or with it where another picture has the
            same.
        size: (height, width).
        objects: In the order of their numbers.
    """

    name: str
    stem: str
    size: tuple[int, int]
    objects: tuple[SegmentedObject, ...]


@dataclass(frozen=True)
class Written:
    """A file to send and then to remove."""

    path: Path
    name: str
    media_type: str


def write(project: Project, kind: Format) -> Written:
    """Write all finished objects in a format.

    Raises:
        ValueError: When a picture's log is broken, or the format cannot hold what there is.
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
        path.write_text(text)
        return Written(path, f"{kind}{ending}", media_type)
    files: Mapping[str, Callable[[Project, Annotated], Iterator[tuple[str, bytes]]]] = {
        "indexed_png": _indexed,
        "object_png": _object_pngs,
        "labelme": _labelme,
    }
    path = _temporary(".zip")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for picture in pictures:
                for name, content in files[kind](project, picture):
                    archive.writestr(name, content)
    except BaseException:
        path.unlink()
        raise
    return Written(path, f"{kind}.zip", "application/zip")


def annotated(project: Project) -> Iterator[Annotated]:
    """The pictures that have finished objects, by name."""
    entries = project.folder.entries()
    stems = [str(PurePosixPath(entry.name).with_suffix("")) for entry in entries]
    for entry, stem in zip(entries, stems, strict=True):
        state, size = project.state(entry)
        if state.objects and size is not None:
            own = stem if stems.count(stem) == 1 else entry.name
            yield Annotated(entry.name, own.replace("\\", "_"), size, state.objects)


def _coco(project: Project, pictures: list[Annotated]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        images.append(
            {"id": number, "file_name": picture.name, "height": picture.size[0], "width": picture.size[1]}
        )
        for one in picture.objects:
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
    """An object a line, with all that its mask is made of."""
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
    if len(picture.objects) > MOST_LABELS:
        raise ValueError(
            f"{picture.name} has {len(picture.objects)} objects, an indexed PNG holds {MOST_LABELS}; export "
            "coco or object_png"
        )
    labels = np.zeros(picture.size, np.uint8)
    colors = {one.id: ImageColor.getrgb(one.color) for one in project.classes}
    palette = [0] * 768
    for place, one in enumerate(picture.objects, start=1):
        labels[decode(one.rle)] = place
        palette[3 * place : 3 * place + 3] = colors[one.class_id][:3]
    image = Image.fromarray(labels)
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
        for points in one.outline.polygons
        if len(points) >= 3
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


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _temporary(suffix: str) -> Path:
    with tempfile.NamedTemporaryFile(prefix="dct-seg-", suffix=suffix, delete=False) as file:
        return Path(file.name)
