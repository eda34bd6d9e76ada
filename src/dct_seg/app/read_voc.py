"""Reader of Pascal VOC's PNGs of classes and objects, as untrusted input."""

from __future__ import annotations

import io
import posixpath
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_seg.app.formats import voc_colors
from dct_seg.app.import_files import GivenFiles
from dct_seg.app.import_result import FoundAnnotations
from dct_seg.app.read_masks import encoded, parts_of_labels, png_size
from dct_seg.data.images import IGNORE

VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)


def read_voc(files: GivenFiles, found: FoundAnnotations) -> bool:
    """Read Pascal VOC: PNGs of classes, of objects, or of both.

    An object has the class of most of its pixels. Without PNGs of objects, each class is one object.
    """
    pairs: dict[str, dict[str, str]] = defaultdict(dict)
    for name in files.names:
        for kind in ("SegmentationClass", "SegmentationObject"):
            _, folder, rest = f"/{name}".rpartition(f"/{kind}/")
            if folder and rest.lower().endswith(".png"):
                pairs[rest[:-4]][kind] = name
    maps = [name for name in files.names if posixpath.basename(name) == "labelmap.txt"]
    if pairs:
        classes = dict(enumerate(VOC_NAMES))
        colors = _codes(voc_colors())
        with found.reporting(maps[0] if maps else ""):
            if maps:
                classes, colors = _label_map(files.read(maps[0]))
    for stem, pair in pairs.items():
        with found.reporting(" and ".join(sorted(pair.values()))):
            _read_pair(stem, {kind: files.read(name) for kind, name in pair.items()}, classes, colors, found)
    return bool(pairs)


def _label_map(content: bytes) -> tuple[dict[int, str], NDArray[np.int64]]:
    """Parse lines ``name:r,g,b:parts:actions`` to names and colors by number; 0 is the background."""
    classes, colors = {0: "background"}, [(0, 0, 0)]
    for line in content.decode(errors="replace").splitlines():
        if line.strip() and not line.startswith("#"):
            name, color = line.rsplit(":", 3)[:2]
            red, green, blue = (int(value) for value in color.split(","))
            if (red, green, blue) != (0, 0, 0):
                classes[len(colors)] = name
                colors.append((red, green, blue))
    return classes, _codes(np.array(colors))


def _read_pair(
    stem: str,
    pngs: Mapping[str, bytes],
    classes: Mapping[int, str],
    colors: NDArray[np.int64],
    found: FoundAnnotations,
) -> None:
    sizes = {png_size(png, "it") for png in pngs.values()}
    if len(sizes) > 1:
        raise ValueError("its PNGs of classes and of objects must have the same size")
    (size,) = sizes
    image = found.add_image(stem, size, is_stem=True)
    palettes = {"SegmentationClass": colors, "SegmentationObject": _codes(voc_colors())}
    labels = {kind: _labels(png, palettes[kind]) for kind, png in pngs.items()}
    by_class = labels.get("SegmentationClass")
    by_object = labels.get("SegmentationObject", by_class)
    assert by_object is not None
    for value, (top, left), part in parts_of_labels(by_object):
        label: str | None = None
        if by_class is not None:
            inside = by_class[top : top + part.shape[0], left : left + part.shape[1]][part]
            number = int(np.bincount(inside[inside > 0], minlength=1).argmax())
            label = classes.get(number, f"class {number}")
            if number == 0:
                found.skipped.append(f"{stem}: object {value} has no class in SegmentationClass")
                continue
        image.add_object(f"object {value}", label, encoded(part, (top, left), size))


def _labels(png: bytes, colors: NDArray[np.int64]) -> NDArray[np.int32]:
    """Read the labels of a PNG, (H, W), from known colors or else from its values; void is 0."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            image.load()
            values = np.asarray(image if image.mode in ("P", "L") else image.convert("RGB"))
            palette = image.getpalette("RGB") if image.mode == "P" else None
    except Exception as error:
        raise ValueError(f"one of its PNGs cannot be decoded ({error}); export it again") from error
    known = {int(code): number for number, code in enumerate(colors)} | {_code(*voc_colors()[IGNORE]): 0}
    if values.ndim == 2 and palette is None:
        return np.where(values == IGNORE, 0, values).astype(np.int32)
    if palette is not None:
        codes = _codes(np.array(palette).reshape(-1, 3))
        used = np.unique(values)
        if used.max() >= len(codes) or any(int(codes[value]) not in known for value in used):
            return np.where(values == IGNORE, 0, values).astype(np.int32)
        table = np.array([known.get(int(code), 0) for code in codes], np.int32)
        return np.take(table, values)
    used, places = np.unique(_codes(values), return_inverse=True)
    for code in used.tolist():
        if code not in known:
            raise ValueError(
                f"the color {code >> 16},{code >> 8 & 255},{code & 255} is not in labelmap.txt; add it"
            )
    return np.array([known[code] for code in used.tolist()], np.int32)[places].reshape(values.shape[:2])


def _codes(colors: NDArray[Any]) -> NDArray[np.int64]:
    """Encode each color, (..., 3), as one number."""
    return np.asarray(colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]))


def _code(red: int, green: int, blue: int) -> int:
    return (int(red) << 16) + (int(green) << 8) + int(blue)
