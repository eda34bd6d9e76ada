"""Readers of COCO, Datumaro, Label Studio, labelme (JSON) and CVAT (XML), as untrusted input.

Each function adds the annotations in the file to ``found``, and one message for each bad record. ``where`` is
the prefix of each position in a message: the file's name in a zip or a folder, or nothing.
"""

from __future__ import annotations

import base64
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dct_seg.app import schemas
from dct_seg.app.import_result import FoundAnnotations, Size
from dct_seg.app.polygons import filled
from dct_seg.app.read_masks import decode_mask
from dct_seg.data.segmentation import from_segmentation
from dct_seg.rle import encode_part

M = TypeVar("M", bound=schemas.CocoPart)


def read_coco(content: Any, found: FoundAnnotations, where: str = "") -> None:
    """Read COCO JSON.

    Raises:
        ValueError: When the lists of images, annotations and categories are missing.
    """
    try:
        coco = schemas.CocoFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"the file must be COCO JSON ({field}: {first['msg']}); export it again") from error
    categories = dict(_valid(schemas.CocoCategory, coco.categories, f"{where}category", found))
    names = {one.id: one.name for one in categories.values()}
    for category_id, name in names.items():
        found.categories.setdefault(name, category_id)
    images = {}
    listed = list(_valid(schemas.CocoImage, coco.images, f"{where}image", found))
    shared = _shared((image.id, image.file_name) for _, image in listed)
    mixed = _shared((one.id, one.name) for one in categories.values())
    for number, image in listed:
        with found.reporting(f"{where}image {number}"):
            size = None if image.height is None or image.width is None else (image.height, image.width)
            images[image.id] = found.add_image(image.file_name, size)
    for number, one in _valid(schemas.CocoAnnotation, coco.annotations, f"{where}annotation", found):
        if one.image_id in shared or one.category_id in mixed:
            twice = f"image {one.image_id}" if one.image_id in shared else f"category {one.category_id}"
            found.skipped.append(f"{where}annotation {number}: {twice} is listed with several names")
        elif one.image_id in images and one.category_id in names:
            mask = partial(from_segmentation, one.segmentation)
            images[one.image_id].add_object(f"annotation {number}", names[one.category_id], mask)
        else:
            found.skipped.append(
                f"{where}annotation {number}: unknown image {one.image_id} or category {one.category_id}"
            )


def _unsupported(shape: Any) -> ValueError:
    """Make the error for a shape that cannot be imported."""
    return ValueError(f"it must be a mask or a polygon, got {str(shape)[:100]}; convert it or delete it")


def _shared(pairs: Iterable[tuple[int, str]]) -> set[int]:
    """Find the ids that are listed with several names."""
    names = defaultdict(set)
    for number, name in pairs:
        names[number].add(name)
    return {number for number, found in names.items() if len(found) > 1}


def _valid(kind: type[M], given: list[Any], what: str, found: FoundAnnotations) -> Iterator[tuple[int, M]]:
    """Yield the valid records with their position in the list; report the others."""
    for place, one in enumerate(given):
        try:
            record = kind.model_validate(one)
        except ValidationError as error:  # noqa: PERF203  # a bad record must not stop the others
            first = error.errors()[0]
            field = ".".join(map(str, (*first["loc"], "")))
            found.skipped.append(f"{what} {place}: {field} {first['msg']}")
        else:
            yield place, record


def read_datumaro(content: Mapping[str, Any], found: FoundAnnotations, where: str = "") -> None:
    """Read Datumaro's JSON.

    Raises:
        LookupError, TypeError: When the list of labels is missing.
    """
    labels = [str(one["name"]) for one in content["categories"]["label"]["labels"]]
    found.categories |= {name: found.categories.get(name) for name in labels}
    for number, item in enumerate(content["items"]):
        with found.reporting(f"{where}item {number}"):
            given = item["image"].get("size")
            size = None if given is None else (int(given[0]), int(given[1]))
            image = found.add_image(str(item["image"]["path"]), size)
            for place, one in enumerate(item["annotations"]):
                with found.reporting(f"{where}item {number} ({image.name}), annotation {place}"):
                    if one["type"] not in ("mask", "polygon"):
                        raise _unsupported(one["type"])
                    given = one["rle"] if one["type"] == "mask" else [one["points"]]
                    label = labels[_index(one["label_id"], labels)]
                    image.add_object(f"annotation {place}", label, partial(from_segmentation, given))


def _index(number: Any, names: Sequence[str]) -> int:
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise ValueError(f"label_id must be at least 0 and below {len(names)}, got {number}")
    return number


def read_cvat(content: bytes, found: FoundAnnotations, where: str = "") -> None:
    """Read the XML of CVAT for images 1.1.

    Raises:
        ValueError: When the content is not such XML.
    """
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("the XML must not declare a DOCTYPE or entities; export it again")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"the XML cannot be read ({error}); export it again") from error
    if root.tag != "annotations" or root.find("track") is not None:
        what = "tracks of a video" if root.tag == "annotations" else f"<{root.tag}>"
        raise ValueError(f"the XML contains {what}; export it as 'CVAT for images 1.1'")
    names = [label.text or "" for label in root.findall("meta//labels/label/name")]
    found.categories |= {name: found.categories.get(name) for name in names}
    for number, one in enumerate(root.findall("image")):
        with found.reporting(f"{where}image {number}"):
            size = (int(one.attrib["height"]), int(one.attrib["width"]))
            image = found.add_image(one.attrib["name"], size)
            for place, shape in enumerate(one):
                with found.reporting(f"{where}image {number} ({image.name}), {shape.tag} {place}"):
                    image.add_object(f"{shape.tag} {place}", shape.attrib["label"], _cvat_shape(shape))


def _cvat_shape(shape: ElementTree.Element) -> Any:
    """Make the function from the image's size to the run lengths of a shape."""
    given = shape.attrib
    if shape.tag == "mask":
        return partial(_cvat_mask, given)
    if shape.tag != "polygon":
        raise _unsupported(shape.tag)
    points = [float(value) for pair in given["points"].split(";") for value in pair.split(",")]
    return partial(from_segmentation, [points])


def _cvat_mask(given: Mapping[str, str], size: Size) -> dict[str, Any]:
    """Decode a CVAT mask: runs along the rows of its box, background first."""
    top, left, height, width = (int(given[key]) for key in ("top", "left", "height", "width"))
    lengths = np.array([int(value) for value in given["rle"].split(",")])
    if min(top, left, height, width) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError("its mask lies outside the image")
    if (lengths < 0).any() or sum(lengths.tolist()) != height * width:
        raise ValueError("the runs of its mask must fill its box")
    part = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    return encode_part(part, (top, left), size)


def read_label_studio(tasks: Sequence[Any], found: FoundAnnotations, where: str = "") -> None:
    """Read Label Studio's JSON."""
    for number, task in enumerate(tasks):
        with found.reporting(f"{where}task {number}"):
            image = None
            name = _name_of_task(str(task["data"]["image"]))
            for place, one in enumerate(one for made in task["annotations"] for one in made["result"]):
                with found.reporting(f"{where}task {number} ({name}), result {place}"):
                    label, mask = _label_studio_result(one)
                    size = (int(one["original_height"]), int(one["original_width"]))
                    image = image or found.add_image(name, size)
                    image.add_object(f"result {place}", label, mask)


def _name_of_task(given: str) -> str:
    """Get the image's name: without the URL of a local file, or the prefix of an uploaded one.

    Examples:
        >>> _name_of_task("/data/local-files/?d=cats/a.png"), _name_of_task("/data/upload/3/0a1b2c3d-a.png")
        ('cats/a.png', '/data/upload/3/a.png')
    """
    given = given.rpartition("/local-files/?d=")[2]
    return re.sub(r"(/upload/\d+/)[0-9a-f]{8}-", r"\1", given)


def _label_studio_result(one: Mapping[str, Any]) -> tuple[str, Any]:
    """Get the class of a result, and the function from the image's size to its run lengths."""
    value = one["value"]
    if value.get("format") == "rle":
        return value["brushlabels"][0], partial(_brush_rle, value["rle"])
    if "polygonlabels" in value:
        points = np.array(value["points"], np.float64).reshape(-1, 2)
        return value["polygonlabels"][0], partial(_percent_rle, points)
    raise _unsupported(one.get("type", "another shape"))


def _percent_rle(points: NDArray[np.float64], size: Size) -> dict[str, Any]:
    return from_segmentation([(points * [size[1] / 100, size[0] / 100]).ravel().tolist()], size)


def _brush_rle(packed: Sequence[int], size: Size) -> dict[str, Any]:
    """Unpack a Label Studio brush mask, packed as in `formats.brush_runs`, to run lengths."""
    bits = "".join(f"{byte:08b}" for byte in bytes(packed))
    at = 0

    def read(number: int) -> int:
        nonlocal at
        at += number
        if at > len(bits):
            raise ValueError("its brush mask is truncated")
        return int(bits[at - number : at], 2)

    total, word = read(32), read(5) + 1
    if total != 4 * size[0] * size[1]:
        raise ValueError("its brush mask must have the size of its image")
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    lengths: list[int] = []
    num_read = 0
    while num_read < total:
        same = read(1)
        length = min(read(sizes[read(2)]) + 1, total - num_read)
        num_read += length
        values += [read(word)] if same else [read(word) for _ in range(length)]
        lengths += [length] if same else [1] * length
    return _rle_of_channels(np.array(values) > 0, np.array(lengths), size)


def _rle_of_channels(filled: NDArray[np.bool_], lengths: NDArray[np.int64], size: Size) -> dict[str, Any]:
    """Convert runs along the rows, four channels per pixel, to run lengths of the last channel.

    Only the rows from the first to the last filled run are unpacked to pixels.
    """
    places = np.flatnonzero(filled)
    if not len(places):
        raise ValueError("its mask is empty")
    row = 4 * size[1]
    ends = np.cumsum(lengths)
    top = int((ends - lengths)[places[0]]) // row
    bottom = (int(ends[places[-1]]) - 1) // row + 1
    clipped = np.clip([0, *ends.tolist()], top * row, bottom * row)
    channels = np.repeat(filled, clipped[1:] - clipped[:-1]).reshape(bottom - top, size[1], 4)
    return encode_part(channels[..., 3], (top, 0), size)


def read_labelme(
    content: Mapping[str, Any], found: FoundAnnotations, where: str = "", file: str = ""
) -> None:
    """Read labelme's JSON: polygons and masks; shapes with the same label and group are one object.

    Args:
        content: Decoded JSON.
        found: Result to add to.
        where: Prefix of each position in a message, such as the file's name.
        file: Path of the JSON; the image's path is relative to it.
    """
    path = posixpath.join(posixpath.dirname(file), str(content["imagePath"]).replace("\\", "/"))
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = None if height is None or width is None else (int(height), int(width))
    image = found.add_image(posixpath.normpath(path), size)
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    places: dict[Any, int] = {}
    for place, shape in enumerate(content["shapes"]):
        with found.reporting(f"{where}shape {place}"):
            if shape["shape_type"] not in ("polygon", "mask"):
                raise _unsupported(shape["shape_type"])
            group = shape.get("group_id")
            key = (str(shape["label"]), place if group is None else f"group {group}")
            groups[key].append(shape)
            places.setdefault(key, place)
    for key, shapes in groups.items():
        image.add_object(f"shape {places[key]}", key[0], partial(_labelme_rle, shapes))


def _labelme_rle(shapes: Sequence[Mapping[str, Any]], size: Size) -> dict[str, Any]:
    """Compute the run lengths of the union of shapes."""
    parts = [_labelme_part(shape, size) for shape in shapes]
    top, left = (min(corner[axis] for corner, _ in parts) for axis in (0, 1))
    bottom, right = (max(corner[axis] + part.shape[axis] for corner, part in parts) for axis in (0, 1))
    union = np.zeros((bottom - top, right - left), bool)
    for (row, col), part in parts:
        union[row - top : row - top + part.shape[0], col - left : col - left + part.shape[1]] |= part
    return encode_part(union, (top, left), size)


def _labelme_part(shape: Mapping[str, Any], size: Size) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Rasterize a shape: first pixel (row, col) of its box, and the mask inside the box."""
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 2 * max(size):
        raise ValueError(f"its points lie far outside the image of {size[1]}x{size[0]}")
    if shape["shape_type"] == "polygon":
        return filled(points, size)
    (left, top), (right, bottom) = points.astype(int).tolist()
    if min(left, top) < 0 or right >= size[1] or bottom >= size[0]:
        raise ValueError("its mask lies outside the image")
    png = base64.b64decode(str(shape["mask"]), validate=True)
    mask = decode_mask(png, "its mask", (bottom - top + 1, right - left + 1))
    return (top + mask.corner[0], left + mask.corner[1]), mask.values > 0
