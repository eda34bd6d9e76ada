"""Read files of CVAT, Label Studio and Datumaro, bare or zipped, as COCO JSON; untrusted input."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from dct_seg.data.images import MAX_PIXELS
from dct_seg.rle import encode

MAX_UNPACKED = 512 * 2**20  # bytes of a file inside a zip
NAMES = ("annotations.xml", "annotations/default.json", "label_studio.json", "coco.json")


def coco_of(content: bytes) -> Any:
    """Convert a file to COCO JSON; JSON of an unknown kind is returned unchanged.

    Args:
        content: COCO JSON, CVAT's XML, Label Studio's or Datumaro's JSON, or a zip with one of them.

    Raises:
        ValueError: When it is none of them.
    """
    if content.startswith(b"PK"):
        content = _from_zip(content)
    if content.lstrip()[:1] == b"<":
        return _read("CVAT's XML", lambda: _cvat(content))
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file is no JSON, XML or zip that can be read ({error})") from error
    if isinstance(found, list):
        return _read("Label Studio's JSON", lambda: _label_studio(found))
    if isinstance(found, dict) and "items" in found:
        return _read("Datumaro's JSON", lambda: _datumaro(found))
    return found


def _read(what: str, reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except (ElementTree.ParseError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{what} cannot be read: {reason}") from error


def _from_zip(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = next((name for name in NAMES if name in archive.namelist()), None)
            if found is None:
                raise ValueError(f"the zip holds none of {', '.join(NAMES)}")
            if archive.getinfo(found).file_size > MAX_UNPACKED:
                raise ValueError(f"{found} in the zip is larger than {MAX_UNPACKED // 2**20} MiB")
            return archive.read(found)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"the zip cannot be read ({error})") from error


def _cvat(content: bytes) -> dict[str, Any]:
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("it declares entities; export it anew")
    root = ElementTree.fromstring(content)
    coco = _Coco([label.text or "" for label in root.findall("meta//labels/label/name")])
    for image in root.findall("image"):
        size = (int(image.attrib["height"]), int(image.attrib["width"]))
        coco.image(image.attrib["name"], size)
        for shape in image:
            if shape.tag == "mask":
                coco.annotation(shape.attrib["label"], encode(_mask_of_box(shape.attrib, size)))
            elif shape.tag == "polygon":
                points = [
                    float(value) for pair in shape.attrib["points"].split(";") for value in pair.split(",")
                ]
                coco.annotation(shape.attrib["label"], [points])
    return coco.content


def _mask_of_box(given: dict[str, str], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a CVAT mask: runs along the rows of its box, background first."""
    _check_size(size)
    top, left, height, width = (int(given[key]) for key in ("top", "left", "height", "width"))
    runs = np.array([int(value) for value in given["rle"].split(",")])
    if min(top, left, height, width) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError("a mask lies outside of its image")
    if (runs < 0).any() or sum(runs.tolist()) != height * width:
        raise ValueError("a mask's runs do not fill its box")
    mask = np.zeros(size, bool)
    box = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask[top : top + height, left : left + width] = box
    return mask


def _datumaro(found: dict[str, Any]) -> dict[str, Any]:
    labels = [str(one["name"]) for one in found["categories"]["label"]["labels"]]
    coco = _Coco(labels)
    for item in found["items"]:
        height, width = item["image"]["size"]
        coco.image(str(item["image"]["path"]), (int(height), int(width)))
        for one in item["annotations"]:
            if one["type"] == "mask":
                coco.annotation(labels[one["label_id"]], one["rle"])
            elif one["type"] == "polygon":
                coco.annotation(labels[one["label_id"]], [one["points"]])
    return coco.content


def _label_studio(tasks: list[Any]) -> dict[str, Any]:
    coco = _Coco([])
    for task in tasks:
        results = [one for made in task["annotations"] for one in made["result"]]
        for place, one in enumerate(results):
            size = (int(one["original_height"]), int(one["original_width"]))
            if place == 0:
                coco.image(str(task["data"]["image"]), size)
            value = one["value"]
            if value.get("format") == "rle":
                coco.annotation(value["brushlabels"][0], encode(brush_mask(value["rle"], size)))
            elif "polygonlabels" in value:
                scale = (size[1] / 100, size[0] / 100)
                points = [
                    float(part) * by
                    for point in value["points"]
                    for part, by in zip(point, scale, strict=True)
                ]
                coco.annotation(value["polygonlabels"][0], [points])
    return coco.content


def brush_mask(packed: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A brush mask of Label Studio, (H, W): see :func:`dct_seg.app.formats.brush_runs`.

    Raises:
        ValueError: When it is truncated or has another size.
    """
    _check_size(size)
    bits = "".join(f"{byte:08b}" for byte in bytes(packed))
    at = 0

    def read(number: int) -> int:
        nonlocal at
        at += number
        if at > len(bits):
            raise ValueError("a brush mask is cut short")
        return int(bits[at - number : at], 2)

    total, word = read(32), read(5) + 1
    if total != 4 * size[0] * size[1]:
        raise ValueError("a brush mask is of another size than its image")
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    lengths: list[int] = []
    filled = 0
    while filled < total:
        same = read(1)
        length = min(read(sizes[read(2)]) + 1, total - filled)
        filled += length
        found = [read(word)] if same else [read(word) for _ in range(length)]
        values += found
        lengths += [length] if same else [1] * length
    opaque = np.repeat(np.array(values) > 0, lengths).reshape(*size, 4)
    return np.ascontiguousarray(opaque[..., 3])


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"an image of {size[1]}x{size[0]} is not taken")


class _Coco:
    """Builder of a COCO JSON.

    Args:
        names: Category names known from the start; new ones are appended.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        self._numbers: dict[str, int] = {}
        for name in names:
            self._number(name)

    def image(self, name: str, size: tuple[int, int]) -> None:
        """Add an image of (height, width); the next annotations belong to it."""
        images = self.content["images"]
        images.append({"id": len(images) + 1, "file_name": name, "height": size[0], "width": size[1]})

    def annotation(self, name: str, segmentation: Any) -> None:
        """Add an object to the last image."""
        record = {"image_id": len(self.content["images"]), "category_id": self._number(name)}
        self.content["annotations"].append({**record, "segmentation": segmentation})

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers) + 1
            self.content["categories"].append({"id": self._numbers[name], "name": name})
        return self._numbers[name]
