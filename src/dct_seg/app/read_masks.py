"""Read annotations that are PNGs or YOLO's polygons, as untrusted input."""

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
from dct_seg.app.import_result import Found, FoundImage, Size
from dct_seg.data.images import IGNORE, MAX_PIXELS, PngMask, mask_of_png
from dct_seg.data.labels import SOFT_CURE, as_labels, soft_problem
from dct_seg.rle import encode_part

MOST_YAML = 2**20
PNG = b"\x89PNG\r\n\x1a\n"


def size_of(png: bytes, what: str) -> Size:
    """Read (height, width) from a PNG's header, before decoding: a small PNG can decode to gigabytes.

    Raises:
        ValueError: When it is no PNG.
    """
    if not png.startswith(PNG) or len(png) < 24:
        raise ValueError(f"{what} is no PNG that can be decoded (its first bytes are not those of a PNG)")
    width, height = struct.unpack(">II", png[16:24])
    return height, width


def mask_of(png: bytes, what: str, size: Size) -> PngMask:
    """Values of a PNG.

    Args:
        png: The file.
        what: Its name in messages.
        size: (height, width) that it must have.

    Raises:
        ValueError: When it cannot be decoded, or has another size.
    """
    given = size_of(png, what)
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
        image: Image to add them to.
        png: The file.
        size: (height, width) that it must have.
        classes: Class of each value of a PNG of ours, in which no value is ignored.
        where: Begin of places.

    Raises:
        ValueError: When it is no such mask.
    """
    mask = mask_of(png, "the mask", size)
    labels = mask.values
    if classes is None:
        labels = as_labels(labels, "the mask")
        problem = soft_problem(labels)
        if problem:
            raise ValueError(f"the mask holds {problem}; {SOFT_CURE}")
        labels = np.where(labels == IGNORE, 0, labels)
    for value, (top, left), part in parts_of_labels(labels, mask.corner):
        label = None if classes is None else classes.get(str(value))
        image.add(f"{where}value {value}", label, encoded(part, (top, left), size))


def parts_of_labels(
    labels: NDArray[np.integer], corner: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, tuple[int, int], NDArray[np.bool_]]]:
    """Values above 0 of labels, (H, W), each with the first pixel of its box, (row, col), and its mask there.

    Args:
        labels: Labels, 0 for background.
        corner: (row, col) of the first label in the image.
    """
    for value, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is not None:
            yield value, (corner[0] + box[0].start, corner[1] + box[1].start), labels[box] == value


def encoded(
    part: NDArray[np.bool_], corner: tuple[int, int], size: Size
) -> Callable[[Size], Mapping[str, Any]]:
    """Function to the run lengths of a mask, as a found object has it; encoded once, now."""
    return partial(_kept, encode_part(part, corner, size))


def _kept(rle: Mapping[str, Any], size: Size) -> Mapping[str, Any]:
    """A mask that is encoded already; an image has the size in the file when this is called."""
    return rle


def own_text(png: bytes) -> Mapping[str, Any] | None:
    """Image and classes in a PNG of ours, or None.

    Raises:
        ValueError: When it is no PNG.
    """
    height, width = size_of(png, "the mask")
    if height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {width}x{height} is not taken")
    if TEXT.encode() not in png:
        return None
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            # Read before the pixels are decoded, unless another program has moved it behind them.
            text = image.info.get(TEXT) or getattr(image, "text", {}).get(TEXT, "null")
            found = json.loads(text)
    except Exception as error:  # a broken header makes Pillow raise almost anything
        raise ValueError(f"the mask is no PNG that can be decoded ({error})") from error
    return found if isinstance(found, dict) and isinstance(found.get("classes"), dict) else None


def read_pngs(files: GivenFiles, found: Found) -> bool:
    """Read mask PNGs; one that is not ours belongs to the image of its name."""
    names = [name for name in files.names if name.lower().endswith(".png")]
    if files.is_one:
        names = [name for name in files.names if files.read(name).startswith(PNG)]
    images: dict[Any, FoundImage] = {}  # the objects of an image come in together, and are undone together
    for name in names:
        with found.trying(name or "the PNG"):
            png = files.read(name)
            text, size = own_text(png), size_of(png, "the mask")
            if text is None and not name:
                raise ValueError("it does not name its image; open that image, and import the PNG there")
            is_stem = text is None
            key = posixpath.splitext(name)[0] if text is None else str(text["image"]), size, is_stem
            images[key] = image = images.get(key) or found.image(key[0], size, is_stem=is_stem)
            add_png(image, png, size, None if text is None else text["classes"], f"{name}: " if name else "")
    return bool(names)


def read_yolo(files: GivenFiles, found: Found) -> bool:
    """Read YOLO segmentation: data.yaml with class names, and text files of polygons below labels."""
    heads = [name for name in files.names if posixpath.basename(name) in ("data.yaml", "data.yml")]
    for head in heads:
        with found.trying(head):
            classes = _yolo_classes(files.read(head))
            found.categories |= {name: found.categories.get(name) for name in classes.values()}
            root = head[: len(head) - len(posixpath.basename(head))]
            for name in files.names:
                parts = name[len(root) :].split("/")[:-1]
                if name.startswith(root) and name.endswith(".txt") and "labels" in parts:
                    with found.trying(name):
                        _read_yolo_lines(name, files.read(name), classes, found)
    return bool(heads)


def _yolo_classes(content: bytes) -> dict[int, str]:
    if len(content) > MOST_YAML:
        raise ValueError(f"it has {len(content)} bytes; at most {MOST_YAML} are taken")
    try:
        names = yaml.safe_load(content)["names"]
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML ({' '.join(str(error).split())[:100]})") from error
    pairs = enumerate(names) if isinstance(names, list) else names.items()
    classes = {}
    for number, name in pairs:
        if not isinstance(name, (str, int, float)):  # a text of nested aliases would fill the memory
            raise TypeError(f"the name of class {number} is no text")
        classes[int(number)] = str(name)
    return classes


def _read_yolo_lines(name: str, content: bytes, classes: Mapping[int, str], found: Found) -> None:
    image = found.image(name.removesuffix(".txt").rpartition("labels/")[2], is_stem=True)
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        with found.trying(f"{name}, line {number}"):
            first, *rest = line.split()
            points = np.array(rest, np.float64)
            if len(points) == 4:
                raise ValueError("it is a box; a mask is a polygon of three points or more")
            if len(points) < 6 or len(points) % 2:
                raise ValueError(f"it has {len(points)} numbers after the class; wanted x y x y x y ...")
            if not ((points >= -0.01) & (points <= 1.01)).all():
                raise ValueError("its points are not normalized; they lie between 0 and 1")
            if int(first) not in classes:
                raise ValueError(f"no class {first}; data.yaml has {', '.join(map(str, classes)) or 'none'}")
            image.add(f"line {number}", classes[int(first)], partial(_yolo_rle, points.reshape(-1, 2)))


def _yolo_rle(points: NDArray[np.float64], size: Size) -> Mapping[str, Any]:
    """Run lengths of a polygon, (N, 2) of (x, y) in 0..1, filled with its outline as YOLO's training does."""
    # Five decimals, as some tools write, put a pixel up to 0.05 below itself in an image of 10,000.
    pixels = np.clip(np.floor(points * size[::-1] + 0.05), 0, np.array(size[::-1]) - 1).astype(np.int32)
    left, top = pixels.min(axis=0).tolist()
    width, height = (np.ptp(pixels, axis=0) + 1).tolist()
    part = np.zeros((height, width), np.uint8)
    cv2.fillPoly(part, [pixels - [left, top]], 1)
    return encode_part(part > 0, (top, left), size)
