"""Readers of mask PNGs and YOLO polygons, as untrusted input."""

from __future__ import annotations

import io
import json
import posixpath
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dct_seg.app.exports import TEXT
from dct_seg.app.import_files import GivenFiles
from dct_seg.app.import_result import FoundAnnotations, FoundImage, Size
from dct_seg.data.images import IGNORE, MAX_PIXELS, PngMask, mask_of_png
from dct_seg.data.labels import SOFT_CURE, as_labels, soft_problem
from dct_seg.rle import encode_part

MAX_YAML = 2**20
PNG = b"\x89PNG\r\n\x1a\n"


def png_size(png: bytes, what: str) -> Size:
    """Read (height, width) from a PNG's header, before decoding: a small PNG can decode to gigabytes.

    Raises:
        ValueError: When the file is not a PNG.
    """
    if not png.startswith(PNG) or len(png) < 24:
        raise ValueError(f"{what} must be a PNG, but it starts with other bytes; export it again")
    width, height = struct.unpack(">II", png[16:24])
    return height, width


def decode_mask(png: bytes, what: str, size: Size) -> PngMask:
    """Decode the values of a mask PNG.

    Args:
        png: Content of the file.
        what: Name of the mask in messages.
        size: Required (height, width).

    Raises:
        ValueError: When it cannot be decoded, or has another size.
    """
    given = png_size(png, what)
    mask = mask_of_png(png, what) if {*given} == {*size} else None
    if mask is None or mask.size != size:
        height, width = given if mask is None else mask.size
        raise ValueError(f"{what} is {width}x{height}, but the image is {size[1]}x{size[0]}")
    return mask


def add_png(
    image: FoundImage, png: bytes, size: Size, classes: Mapping[str, str] | None = None, where: str = ""
) -> None:
    """Add the objects of a mask PNG: indexed, gray, or color with equal channels, as datasets have them.

    0 and 255 only, or a 1-bit PNG, is one object; otherwise 1..254 are objects and 255 is ignored.

    Args:
        image: Image to add the objects to.
        png: Content of the file.
        size: Required (height, width).
        classes: Class of each value of a PNG that we exported; no value is ignored in it.
        where: Prefix of each position in a message, such as the file's name.

    Raises:
        ValueError: When the file is not such a mask.
    """
    mask = decode_mask(png, "the mask", size)
    labels = mask.values
    if classes is None:
        labels = as_labels(labels, "the mask")
        problem = soft_problem(labels)
        if problem:
            raise ValueError(f"the mask contains {problem}; {SOFT_CURE}")
        labels = np.where(labels == IGNORE, 0, labels)
    for value, (top, left), part in parts_of_labels(labels, mask.corner):
        label = None if classes is None else classes.get(str(value))
        image.add_object(f"{where}value {value}", label, encoded(part, (top, left), size))


def parts_of_labels(
    labels: NDArray[np.integer], corner: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, tuple[int, int], NDArray[np.bool_]]]:
    """Split labels by value; yield each value above 0, the first (row, col) of its box, and its mask there.

    Args:
        labels: (H, W) labels, 0 for background.
        corner: (row, col) of the first label in the image.
    """
    for value, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is not None:
            yield value, (corner[0] + box[0].start, corner[1] + box[1].start), labels[box] == value


def encoded(
    part: NDArray[np.bool_], corner: tuple[int, int], size: Size
) -> Callable[[Size], Mapping[str, Any]]:
    """Encode a mask now and return a function to its run lengths, the form of a `FoundObject`."""
    return partial(_given_rle, encode_part(part, corner, size))


def _given_rle(rle: Mapping[str, Any], size: Size) -> Mapping[str, Any]:
    """Return a mask that is already encoded; the image's size was checked before."""
    return rle


def exported_text(png: bytes) -> Mapping[str, Any] | None:
    """Read the image's name and the classes from a PNG that we exported; None for any other PNG.

    Raises:
        ValueError: When the file is not a PNG.
    """
    height, width = png_size(png, "the mask")
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"a mask must have at most {MAX_PIXELS // 10**6} megapixels, got {width}x{height}; reduce it"
        )
    if TEXT.encode() not in png:
        return None
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            # Our PNGs have the text before the pixels; another program may have moved it behind them.
            text = image.info.get(TEXT) or getattr(image, "text", {}).get(TEXT, "null")
            found = json.loads(text)
    except Exception as error:  # a broken header makes Pillow raise almost anything
        raise ValueError(f"the mask cannot be decoded as a PNG ({error}); export it again") from error
    return found if isinstance(found, dict) and isinstance(found.get("classes"), dict) else None


def read_pngs(files: GivenFiles, found: FoundAnnotations) -> bool:
    """Read mask PNGs; one that we did not export belongs to the image with the same stem."""
    names = [name for name in files.names if name.lower().endswith(".png")]
    if files.is_one:
        names = [name for name in files.names if files.read(name).startswith(PNG)]
    images: dict[Any, FoundImage] = {}  # the objects of an image are imported together, and undone together
    for name in names:
        with found.reporting(name or "the PNG"):
            png = files.read(name)
            text, size = exported_text(png), png_size(png, "the mask")
            if text is None and not name:
                raise ValueError("it does not name its image; open that image and import the PNG there")
            is_stem = text is None
            key = posixpath.splitext(name)[0] if text is None else str(text["image"]), size, is_stem
            images[key] = image = images.get(key) or found.add_image(key[0], size, is_stem=is_stem)
            add_png(image, png, size, None if text is None else text["classes"], f"{name}: " if name else "")
    return bool(names)


def read_yolo(files: GivenFiles, found: FoundAnnotations) -> bool:
    """Read YOLO segmentation: ``data.yaml`` with class names, and text files of polygons below ``labels``."""
    heads = [name for name in files.names if posixpath.basename(name) in ("data.yaml", "data.yml")]
    for head in heads:
        with found.reporting(head):
            classes = _yolo_classes(files.read(head))
            found.categories |= {name: found.categories.get(name) for name in classes.values()}
            root = head[: len(head) - len(posixpath.basename(head))]
            for name in files.names:
                parts = name[len(root) :].split("/")[:-1]
                if name.startswith(root) and name.endswith(".txt") and "labels" in parts:
                    with found.reporting(name):
                        _read_yolo_lines(name, files.read(name), classes, found)
    return bool(heads)


def _yolo_classes(content: bytes) -> dict[int, str]:
    if len(content) > MAX_YAML:
        raise ValueError(f"it must have at most {MAX_YAML} bytes, got {len(content)}")
    try:
        names = yaml.safe_load(content)["names"]
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML ({' '.join(str(error).split())[:100]})") from error
    pairs = enumerate(names) if isinstance(names, list) else names.items()
    classes = {}
    for number, name in pairs:
        if not isinstance(name, (str, int, float)):  # the text of nested YAML aliases would fill the memory
            raise TypeError(f"the name of class {number} must be text, got {type(name).__name__}")
        classes[int(number)] = str(name)
    return classes


def _read_yolo_lines(name: str, content: bytes, classes: Mapping[int, str], found: FoundAnnotations) -> None:
    image = found.add_image(name.removesuffix(".txt").rpartition("labels/")[2], is_stem=True)
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        with found.reporting(f"{name}, line {number}"):
            first, *rest = line.split()
            points = np.array(rest, np.float64)
            if len(points) == 4:
                raise ValueError("it is a box; export polygons of at least 3 points instead")
            if len(points) < 6 or len(points) % 2:
                raise ValueError(
                    f"the class must be followed by 3 or more pairs x y, got {len(points)} numbers"
                )
            if not ((points >= -0.01) & (points <= 1.01)).all():
                raise ValueError(
                    "its points must be normalized to 0..1; divide them by the image's width and height"
                )
            if int(first) not in classes:
                raise ValueError(
                    f"unknown class {first}; data.yaml has {', '.join(map(str, classes)) or 'none'}"
                )
            image.add_object(f"line {number}", classes[int(first)], partial(_yolo_rle, points.reshape(-1, 2)))


def _yolo_rle(points: NDArray[np.float64], size: Size) -> Mapping[str, Any]:
    """Fill a polygon, (N, 2) of (x, y) in 0..1, and its outline, as YOLO does in training."""
    # Some tools write five decimals, so that a point of an image of 10,000 pixels can be 0.05 too low.
    pixels = np.clip(np.floor(points * size[::-1] + 0.05), 0, np.array(size[::-1]) - 1).astype(np.int32)
    left, top = pixels.min(axis=0).tolist()
    width, height = (np.ptp(pixels, axis=0) + 1).tolist()
    part = np.zeros((height, width), np.uint8)
    cv2.fillPoly(part, [pixels - [left, top]], 1)
    return encode_part(part > 0, (top, left), size)
