"""COCO JSON: objects as polygons or run lengths, decoded by pycocotools."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dct_seg import rle
from dct_seg.data.base import DATASETS, InteractiveDataset, LabeledImage, Listing, in_threads
from dct_seg.data.images import IGNORE, UnreadableFileError, image_size, read_image, size_mismatch
from dct_seg.data.pages import split_page
from dct_seg.data.segmentation import from_segmentation, mask_tools

_MOST_LABELS = 254


@dataclass(frozen=True)
class _Object:
    """Usable annotation: name after ``#``, packed run lengths, pixel count."""

    name: str
    runs: dict[str, Any]
    area: int


@dataclass(frozen=True)
class _Image:
    """Image with its usable annotations."""

    name: str
    size: tuple[int, int]
    objects: list[_Object]
    crowds: list[_Object]


@DATASETS.register()
class COCO(InteractiveDataset):
    """COCO dataset: images with a JSON file of ``images`` and ``annotations``; one sample per annotation.

    Crowds (``iscrowd``) are ignored. Objects may overlap: each sample has a separate mask. Every annotation
    is decoded at the start, and ``area`` is not used. An unusable annotation is skipped
    with a warning that names it, and so is an image that is missing or differs in size from its record.

    Args:
        root: Folder of the dataset.
        annotations: JSON file below the root; optional if there is exactly one, in the root or in
            ``annotations/``.
        images: Folder of images below the root; by default ``images``, the last part of the JSON file's
            name (``instances_val2017.json``: ``val2017``) or the root, whichever holds the first image.
        min_object_size: Minimum pixels of an object.

    Raises:
        ModuleNotFoundError: pycocotools is not installed.
        ValueError: No annotation can be used; the message gives the first one and the reason.
    """

    layout = (
        "a JSON file with 'images' and 'annotations' in it or in annotations/, and the images in images/ (or "
        "e.g. val2017/)"
    )

    def __init__(
        self,
        root: str | Path | None,
        *,
        annotations: str | None = None,
        images: str | None = None,
        min_object_size: int = 0,
    ) -> None:
        self._annotations, self._image_folder = annotations, images
        self._images_listed: list[_Image] = []
        super().__init__(root, min_object_size=min_object_size)

    def _list(self) -> Iterator[Listing]:
        mask_tools()
        path = self._json_path()
        records, annotations = _content(path)
        self._folder = self._images_below(path, records)
        problems: list[str] = []
        listed = self._usable(records, annotations, problems)
        for image, problem in zip(
            listed, in_threads(self._file_problem, listed, f"listing {self.root.name}"), strict=True
        ):
            if problem is None:
                self._images_listed.append(image)
                areas = tuple(one.area for one in image.objects)
                yield Listing(image.name, tuple(range(1, len(areas) + 1)), areas)
            elif image.objects:
                problems.append(f"annotation {image.objects[0].name} of {image.name}: {problem}")
        if problems and not any(image.objects for image in self._images_listed):
            raise ValueError(f"{path} has no usable annotation; {problems[0]}")
        if problems:
            count = f"{len(problems)} annotations or images are skipped"
            warnings.warn(f"{path}: {count}; first: {problems[0]}", stacklevel=2)

    def _usable(
        self, records: list[dict[str, Any]], annotations: list[Any], problems: list[str]
    ) -> list[_Image]:
        """List the images with their usable annotations; the others are reported in ``problems``."""
        found: dict[Any, _Image] = {}
        bad: dict[Any, str] = {}
        uses = Counter(record["id"] for record in records)
        for record in records:
            problem = _record_problem(record)
            if uses[record["id"]] > 1:
                problem = f"has image_id {record['id']!r}, which {uses[record['id']]} images share"
            if problem:
                bad[record["id"]] = problem
            else:
                size = (int(record["height"]), int(record["width"]))
                found[record["id"]] = _Image(self._name(record["file_name"]), size, [], [])
        numbers = [one.get("id") for one in annotations if isinstance(one, dict)]
        times = Counter(number for number in numbers if _is_key(number))
        tools = mask_tools()
        for place, one in enumerate(tqdm(annotations, desc="decoding annotations", delay=2, leave=False)):
            if not isinstance(one, dict):
                problems.append(f"annotation number {place} is not a JSON object")
                continue
            number = one.get("id")
            label = str(number) if _is_key(number) and times[number] == 1 else f"number {place}"
            key = one.get("image_id")
            image = found.get(key) if _is_key(key) else None
            if image is None:
                reason = bad.get(key) if _is_key(key) else None
                problems.append(f"annotation {label} {reason or f'has no image: none has the id {key!r}'}")
                continue
            try:
                runs = from_segmentation(one.get("segmentation"), image.size)
            except ValueError as error:
                problems.append(f"annotation {label} of {image.name}: {error}")
                continue
            name = label if not label.startswith("number") else f"n{place}"
            group = image.crowds if one.get("iscrowd") else image.objects
            group.append(_Object(name, runs, int(tools.area(runs))))
        return list(found.values())

    def _file_problem(self, image: _Image) -> str | None:
        """Describe the problem of an image file, from its header, or return None."""
        if not image.objects:
            return None
        try:
            size = image_size(self.root / image.name)
        except (FileNotFoundError, UnreadableFileError) as error:
            return str(error)
        return None if size == image.size else size_mismatch(image.name, size, "its record", image.size)

    def _json_path(self) -> Path:
        self._wanted(*([self._annotations] if self._annotations else []))
        if self._annotations:
            return self.root / self._annotations
        found = sorted([*self.root.glob("*.json"), *(self.root / "annotations").glob("*.json")])
        if not found:
            raise FileNotFoundError(f"{self.root} has no JSON file; COCO needs {self.layout}")
        if len(found) > 1:
            names = ", ".join(path.relative_to(self.root).as_posix() for path in found)
            raise ValueError(
                f"{self.root} has {len(found)} JSON files; choose one with the option annotations: {names}"
            )
        return found[0]

    def _images_below(self, path: Path, records: list[dict[str, Any]]) -> str:
        """Find the folder of the images: the given one, or the first that contains any of them."""
        if self._image_folder is not None:
            self._wanted(self._image_folder)
            return self._image_folder
        tried = ["images", path.stem.rpartition("_")[2], "."]
        names = [record["file_name"] for record in records if isinstance(record.get("file_name"), str)]
        for name in names:
            for folder in tried:
                if split_page(self.root / folder / name)[0].exists():
                    return folder
        if not names:
            raise ValueError(f"{path} lists no image with a file_name and a whole number as id")
        first = names[0]
        raise FileNotFoundError(
            f"{self.root} has no {first} in {', '.join(tried)}; give the folder of the images as the option "
            f"images; COCO needs {self.layout}"
        )

    def _name(self, file_name: str) -> str:
        """Make an image's path relative to the root, with forward slashes; paths elsewhere stay absolute."""
        path = self.root / self._folder / file_name
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def read_labeled_image(self, image: int) -> LabeledImage:
        """Read image and labels, with the smaller object on top if objects overlap.

        ``object_mask`` gives the complete mask of an object.
        """
        listed = self._images_listed[image]
        pixels = read_image(self.root / listed.name)
        if pixels.shape[:2] != listed.size:
            raise ValueError(size_mismatch(listed.name, pixels.shape[:2], "its record", listed.size))
        labels = np.zeros(listed.size, dtype=np.uint8)
        for crowd in listed.crowds:
            labels[rle.decode(crowd.runs)] = IGNORE
        objects = listed.objects[:_MOST_LABELS]
        for position in sorted(range(len(objects)), key=lambda one: -objects[one].area):
            labels[rle.decode(objects[position].runs)] = position + 1
        return LabeledImage(pixels, labels)

    def object_mask(self, image: int, decoded: LabeledImage, label: int) -> NDArray[np.bool_]:
        return rle.decode(self._images_listed[image].objects[label - 1].runs)

    def name(self, index: int) -> str:
        one = self._images_listed[self.image_index(index)].objects[self.label(index) - 1]
        return f"{self.image_name(index)}#{one.name}"


def _content(path: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """Read the image records, sorted by id, and the annotation records."""
    try:
        content = json.loads(path.read_bytes())
        records, annotations = content["images"], content["annotations"]
        if not (isinstance(records, list) and isinstance(annotations, list)):
            raise TypeError("images or annotations is not a list")
        records = [one for one in records if isinstance(one, dict) and _is_key(one.get("id"))]
        records.sort(key=lambda one: (isinstance(one["id"], str), one["id"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        line = f"{path} is not a COCO file ({error!r}); it needs 'images' and 'annotations'"
        raise ValueError(line) from error
    return records, annotations


def _is_key(value: Any) -> bool:
    """Whether a value can be an id."""
    return isinstance(value, int | str)


def _record_problem(record: dict[str, Any]) -> str | None:
    """Describe the problem of an image's record, or return None; follows "annotation 7 " in the message."""
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        return f"of image {record['id']}: that record has no file_name"
    sides = record.get("height"), record.get("width")
    if not all(isinstance(side, int | float) and side > 0 and float(side).is_integer() for side in sides):
        return f"of {name}: the record of {name} has height {sides[0]!r} and width {sides[1]!r}; give pixels"
    return None
