"""COCO JSON: objects as polygons or run lengths, decoded by pycocotools."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.data.base import DATASETS, InteractiveDataset, Listing, Photo
from dct_seg.data.images import IGNORE, read_image, size_mismatch

_MOST_LABELS = 254


@DATASETS.register()
class COCO(InteractiveDataset):
    """Pictures with a JSON file of ``images`` and ``annotations``.

    One sample per annotation, crowds (``iscrowd``) are ignored.

    Objects may overlap: each sample has its own whole mask.

    Args:
        root: The folder.
        annotations: The JSON file below the root; it may be left out where there is just one, in the root or
            in ``annotations/``.
        images: The folder of pictures below the root; by default ``images``, the last part of the JSON file's
            name (``instances_val2017.json``: ``val2017``) or the root, whichever holds the first picture.
        min_object_size: Objects with fewer pixels (by the file's ``area``) are no samples.

    Raises:
        ModuleNotFoundError: When pycocotools is not installed.
    """

    layout = (
        "a JSON file with 'images' and 'annotations' in it or in annotations/, and the pictures in images/ "
        "(or e.g. val2017/)"
    )

    def __init__(
        self,
        root: str | Path | None,
        *,
        annotations: str | None = None,
        images: str | None = None,
        min_object_size: int = 0,
    ) -> None:
        self._annotations = annotations
        self._image_folder = images
        self._records: list[dict[str, Any]] = []
        self._objects: list[list[dict[str, Any]]] = []
        self._crowds: list[list[dict[str, Any]]] = []
        super().__init__(root, min_object_size=min_object_size)

    def _list(self) -> Iterator[Listing]:
        _mask_tools()
        path = self._json_path()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            records = sorted(content["images"], key=lambda record: record["id"])
            annotations = content["annotations"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no COCO file ({error!r}); it wants 'images' and 'annotations'"
            ) from error
        by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in annotations:
            if _has_shape(annotation.get("segmentation")):
                by_image[annotation["image_id"]].append(annotation)
        self._folder = self._picture_folder(path, records)
        for record in records:
            found = by_image[record["id"]]
            objects = [one for one in found if not one.get("iscrowd")]
            self._records.append(record)
            self._objects.append(objects)
            self._crowds.append([one for one in found if one.get("iscrowd")])
            areas = tuple(
                int(one["area"]) if "area" in one else int(self._decode(one, record).sum()) for one in objects
            )
            yield Listing(
                f"{self._folder}/{record['file_name']}".removeprefix("./"),
                tuple(range(1, len(objects) + 1)),
                areas,
            )

    def _json_path(self) -> Path:
        self._wanted(*([self._annotations] if self._annotations else []))
        if self._annotations:
            return self.root / self._annotations
        found = sorted([*self.root.glob("*.json"), *(self.root / "annotations").glob("*.json")])
        if not found:
            raise FileNotFoundError(f"{self.root} has no JSON file; COCO wants {self.layout}")
        if len(found) > 1:
            names = ", ".join(path.relative_to(self.root).as_posix() for path in found)
            raise ValueError(
                f"{self.root} has {len(found)} JSON files; choose one by the option annotations: {names}"
            )
        return found[0]

    def _picture_folder(self, path: Path, records: list[dict[str, Any]]) -> str:
        if self._image_folder is not None:
            self._wanted(self._image_folder)
            return self._image_folder
        tried = ["images", path.stem.rpartition("_")[2], "."]
        for folder in tried:
            if records and (self.root / folder / records[0]["file_name"]).exists():
                return folder
        first = records[0]["file_name"] if records else "any picture"
        raise FileNotFoundError(
            f"{self.root} has no {first} in {', '.join(tried)}; name the folder of the pictures by the "
            "option images; "
            f"COCO wants {self.layout}"
        )

    def _decode(self, annotation: dict[str, Any], record: dict[str, Any]) -> NDArray[np.bool_]:
        """(H, W) bool of one annotation: polygons, run lengths as a list, or packed run lengths."""
        tools = _mask_tools()
        shape, height, width = annotation["segmentation"], record["height"], record["width"]
        if isinstance(shape, list):  # polygons, each of x, y, x, y, ...
            packed = tools.merge(
                tools.frPyObjects([polygon for polygon in shape if len(polygon) >= 6], height, width)
            )
        elif isinstance(shape["counts"], list):
            packed = tools.frPyObjects(shape, height, width)
        else:
            packed = shape
        return np.asarray(tools.decode(packed), dtype=bool)

    def read_photo(self, image: int) -> Photo:
        """The picture, and labels with the smaller object on top where several meet (``object_mask`` has each
        whole).
        """
        record, name = self._records[image], self._listings[image].name
        picture = read_image(self.root / name)
        if picture.shape[:2] != (record["height"], record["width"]):
            raise ValueError(
                size_mismatch(
                    name,
                    picture.shape[:2],
                    "its record in the JSON file",
                    (record["height"], record["width"]),
                )
            )
        labels = np.zeros(picture.shape[:2], dtype=np.uint8)
        for crowd in self._crowds[image]:
            labels[self._decode(crowd, record)] = IGNORE
        areas = self._listings[image].areas
        for position in sorted(range(min(len(areas), _MOST_LABELS)), key=lambda one: -areas[one]):
            labels[self._decode(self._objects[image][position], record)] = position + 1
        return Photo(picture, labels)

    def object_mask(self, image: int, photo: Photo, label: int) -> NDArray[np.bool_]:
        return self._decode(self._objects[image][label - 1], self._records[image])

    def name(self, index: int) -> str:
        annotation = self._objects[self.image_index(index)][self.label(index) - 1]
        return f"{self.image_name(index)}#{annotation.get('id', self.label(index))}"


def _has_shape(segmentation: Any) -> bool:
    """Whether there is a polygon of three corners or more, or run lengths."""
    return (
        any(len(polygon) >= 6 for polygon in segmentation)
        if isinstance(segmentation, list)
        else bool(segmentation)
    )


def _mask_tools() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "COCO JSON needs pycocotools; install it with: pip install 'dct-seg[coco]'"
        ) from error
    return mask
