"""Writers of other tools' formats: YOLO, Pascal VOC, CVAT, Label Studio, Datumaro.

CVAT, Label Studio and Datumaro store each mask exactly. A YOLO polygon is a single loop, so a line one pixel
wide joins the parts and holes of a mask. A VOC pixel belongs to one object: the last one wins.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_seg.rle import decode_part

if TYPE_CHECKING:
    from dct_seg.app.exports import ExportedImage
    from dct_seg.app.project import ClassLabel
    from dct_seg.app.state import SegmentedObject

Files = Iterator[tuple[str, bytes]]
BLOCK = 64  # points of an outline whose distances are computed at once, to limit memory
MAX_VOC = 254  # objects; 255 is ignored


def yolo(classes: Sequence[ClassLabel], images: Sequence[ExportedImage]) -> Files:
    """Write YOLO segmentation: one text file of polygons per image, and data.yaml with the class names."""
    place = {one.id: number for number, one in enumerate(classes)}
    names = "".join(f"  {place[one.id]}: {json.dumps(one.name)}\n" for one in classes)
    yield "data.yaml", f"path: .\ntrain: images\nval: images\nnames:\n{names}".encode()
    for image in images:
        height, width = image.size
        lines = []
        for one in image.objects:
            # A quarter pixel inward: readers that truncate and readers that round get the same pixel.
            outline = (joined_outline(one) + 0.25) / [width, height]
            lines.append(" ".join([str(place[one.class_id]), *(f"{value:.7g}" for value in outline.ravel())]))
        yield f"labels/{image.stem}.txt", "".join(f"{line}\n" for line in lines).encode()


def joined_outline(one: SegmentedObject) -> NDArray[np.float64]:
    """Join the outlines of all parts and holes of an object to one closed line, (N, 2) of (col, row).

    The points are pixel centers. The line connects each outline to the next by the shortest path, and returns
    the same way.
    """
    found = decode_part(one.rle)
    assert found is not None  # an object is never empty
    (rows, cols), part = found
    contours, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    corner = np.array([cols.start, rows.start], np.float64)
    loops = [line[:, 0] + corner for line in contours]
    points, owner = np.concatenate(loops), np.repeat(np.arange(len(loops)), [len(loop) for loop in loops])
    apart, nearest = np.full(len(points), np.inf), np.zeros_like(points)  # distance to the path, its point
    path, added = loops[0], 0
    while True:  # Prim's algorithm: only the loop added last can be nearer than the path before it
        left = owner != added
        points, owner, apart, nearest = points[left], owner[left], apart[left], nearest[left]
        if not len(points):
            break
        for first in range(0, len(loops[added]), BLOCK):
            block = loops[added][first : first + BLOCK]
            distances = np.hypot(*(points[:, None] - block).transpose(2, 0, 1))  # (points, block)
            at = distances.argmin(axis=1)
            closer = distances[np.arange(len(points)), at] < apart
            apart[closer], nearest[closer] = distances[closer, at[closer]], block[at[closer]]
        place = int(apart.argmin())
        added = int(owner[place])
        start = int((path == nearest[place]).all(axis=1).argmax())
        end = int((loops[added] == points[place]).all(axis=1).argmax())
        loop = np.roll(loops[added], -end, axis=0)
        path = np.concatenate([path[: start + 1], loop, loop[:1], path[start:]])
    return np.concatenate([path, path[-1:], path[-1:]])[: max(3, len(path))]


def voc(classes: Sequence[ClassLabel], images: Sequence[ExportedImage]) -> Files:
    """Write Pascal VOC: PNGs of classes and of objects in VOC's palette.

    Raises:
        ValueError: When an image has too many objects, or there are too many classes, for an 8-bit PNG.
    """
    if len(classes) > MAX_VOC:
        raise ValueError(
            f"Pascal VOC allows at most {MAX_VOC} classes, got {len(classes)}; export coco or cvat"
        )
    place = {one.id: number for number, one in enumerate(classes, start=1)}
    colors = voc_colors().reshape(-1, 3)
    names = ["background", *(one.name for one in classes)]
    label_map = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in zip(names, colors, strict=False))
    yield "labelmap.txt", f"# label:color_rgb:parts:actions\n{label_map}".encode()
    yield "ImageSets/Segmentation/default.txt", "".join(f"{one.stem}\n" for one in images).encode()
    for image in images:
        if len(image.objects) > MAX_VOC:
            raise ValueError(
                f"Pascal VOC allows at most {MAX_VOC} objects per image, but {image.name} has "
                f"{len(image.objects)}; export coco or cvat"
            )
        by_class, by_object = np.zeros(image.size, np.uint8), np.zeros(image.size, np.uint8)
        for number, one in enumerate(image.objects, start=1):
            found = decode_part(one.rle)
            if found is not None:
                by_class[found[0]][found[1]] = place[one.class_id]
                by_object[found[0]][found[1]] = number
        yield f"SegmentationClass/{image.stem}.png", _palette_png(by_class)
        yield f"SegmentationObject/{image.stem}.png", _palette_png(by_object)


def voc_colors() -> NDArray[np.uint8]:
    """Make VOC's palette, (256, 3), where the bits of a label are spread over its color.

    Examples:
        >>> voc_colors()[[0, 1, 2, 255]].tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0], [224, 224, 192]]
    """
    labels = np.arange(256)
    channels = [
        sum(((labels >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
    ]
    return np.stack(channels, axis=1).astype(np.uint8)


def cvat(classes: Sequence[ClassLabel], images: Sequence[ExportedImage]) -> Files:
    """Write CVAT for images 1.1: one XML file, with a run-length encoded mask per object."""
    names = {one.id: one.name for one in classes}
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for one in classes:
        label = ElementTree.SubElement(labels, "label")
        for tag, text in (("name", one.name), ("color", one.color), ("type", "mask"), ("attributes", "")):
            ElementTree.SubElement(label, tag).text = text
    for number, image in enumerate(images):
        height, width = (str(side) for side in image.size)
        element = ElementTree.SubElement(
            root, "image", {"id": str(number), "name": image.name, "width": width, "height": height}
        )
        for made in image.objects:
            found = decode_part(made.rle)
            if found is None:
                continue
            (rows, cols), part = found
            box = {"left": cols.start, "top": rows.start, "width": part.shape[1], "height": part.shape[0]}
            ElementTree.SubElement(
                element,
                "mask",
                {
                    "label": names[made.class_id],
                    "source": "manual",
                    "occluded": "0",
                    "rle": ", ".join(map(str, row_runs(part))),
                    **{key: str(value) for key, value in box.items()},
                    "z_order": "0",
                },
            )
    ElementTree.indent(root)
    yield "annotations.xml", ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def row_runs(part: NDArray[np.bool_]) -> list[int]:
    """Compute the run lengths of a mask along its rows; the first run is background and may be 0.

    Examples:
        >>> row_runs(np.array([[False, True], [True, False]]))
        [1, 2, 1]
        >>> row_runs(np.array([[True, False]]))
        [0, 1, 1]
    """
    flat = part.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(ends, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat[0] else lengths


def label_studio(classes: Sequence[ClassLabel], images: Sequence[ExportedImage]) -> Files:
    """Write Label Studio JSON: one task per image, one brush mask per object."""
    names = {one.id: one.name for one in classes}
    tasks: list[dict[str, Any]] = []
    for image in images:
        height, width = image.size
        result = []
        for one in image.objects:
            mask = np.zeros(image.size, bool)
            found = decode_part(one.rle)
            if found is not None:
                mask[found[0]] = found[1]
            value = {"format": "rle", "rle": brush_runs(mask), "brushlabels": [names[one.class_id]]}
            result.append(
                {
                    "id": f"object{one.id}",
                    "type": "brushlabels",
                    "from_name": "tag",
                    "to_name": "image",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": value,
                }
            )
        tasks.append({"data": {"image": image.name}, "annotations": [{"result": result}]})
    yield "label_studio.json", json.dumps(tasks).encode()


def brush_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as Label Studio's run lengths, the bytes of a bit stream.

    The stream contains the number of values (four channels per pixel), the bits per value, the four bit
    widths of a length, and the runs. A run is 1, the number of its width, its length minus 1, and its value,
    0 or 255.
    """
    sizes = (4, 8, 12, 16)
    bits = [f"{4 * mask.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for place, length in enumerate(row_runs(mask)):
        left = 4 * length
        while left:
            taken = min(left, 2 ** sizes[-1])
            kind = next(number for number, size in enumerate(sizes) if taken <= 2**size)
            bits.append(f"1{kind:02b}{taken - 1:0{sizes[kind]}b}{255 * (place % 2):08b}")
            left -= taken
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def datumaro(classes: Sequence[ClassLabel], images: Sequence[ExportedImage]) -> Files:
    """Write Datumaro's JSON, with masks as COCO run lengths."""
    place = {one.id: number for number, one in enumerate(classes)}
    labels = [{"name": one.name, "parent": "", "attributes": []} for one in classes]
    items = []
    for image in images:
        annotations = [
            {
                "id": one.id,
                "type": "mask",
                "attributes": {},
                "group": one.id,
                "label_id": place[one.class_id],
                "rle": {"counts": one.rle["counts"], "size": list(one.rle["size"])},
                "z_order": 0,
            }
            for one in image.objects
        ]
        record = {"path": image.name, "size": list(image.size)}
        items.append({"id": image.stem, "annotations": annotations, "attr": {"frame": 0}, "image": record})
    content = {
        "info": {},
        "categories": {"label": {"labels": labels, "attributes": []}},
        "items": items,
    }
    yield "annotations/default.json", json.dumps(content).encode()


def _palette_png(labels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(labels)
    image.putpalette(voc_colors().ravel().tolist())
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
