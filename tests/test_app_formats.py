"""Other tools' formats, read back as those tools read them: pixel-exact, or with the documented error."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, HEIGHT, WIDTH, Page, make_folder

from dct_seg.app.formats import joined_outline
from dct_seg.app.state import SegmentedObject
from dct_seg.rle import decode, encode

NAMES = {1: "cat", 2: "dog"}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """Page with an object that has a hole and a separate part, one next to it, and one on the other image."""
    page = Page(make_folder(tmp_path / "images"))
    page.click(20, 20, radius=9)
    page.click(20, 20, radius=3, positive=False)
    page.do("/paint", paint={"kind": "brush", "points": [[5, 50, 4]]})
    page.finish(class_id=2)
    page.click(30, 45, radius=6)
    page.finish()
    page.click(10, 10, radius=4, name="sub/b.png")
    page.finish("sub/b.png", class_id=2)
    return page


def masks(page: Page, name: str = "a.png") -> list[tuple[str, NDArray[np.bool_]]]:
    """(class, mask) of the objects as COCO has them."""
    coco = page.client.get(f"{API}/export?format=coco").json()
    number = next(one["id"] for one in coco["images"] if one["file_name"] == name)
    found = [one for one in coco["annotations"] if one["image_id"] == number]
    return [(NAMES[one["category_id"]], decode(one["segmentation"])) for one in found]


def files(page: Page, kind: str) -> dict[str, bytes]:
    answer = page.client.get(f"{API}/export?format={kind}")
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_yolo_polygons_equal_the_masks_except_for_the_joining_lines(page: Page) -> None:
    found = files(page, "yolo")
    assert sorted(found) == ["data.yaml", "labels/a.txt", "labels/sub/b.txt"]
    assert found["data.yaml"].decode().endswith('names:\n  0: "cat"\n  1: "dog"\n')
    lines = [line.split() for line in found["labels/a.txt"].decode().splitlines()]
    for (name, mask), (number, *values) in zip(masks(page), lines, strict=True):
        assert name == ["cat", "dog"][int(number)]
        points = np.array(values, float).reshape(-1, 2) * [WIDTH, HEIGHT] - 0.5
        drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(drawn, [points.round().astype(np.int32)], 1)
        assert not (mask & (drawn == 0)).any()
        assert ((drawn > 0) & ~mask).sum() < (30 if name == "dog" else 1)


def test_voc_export_has_classes_and_objects_in_its_palette(page: Page) -> None:
    found = files(page, "voc")
    assert found["labelmap.txt"].decode().splitlines()[1:] == [
        "background:0,0,0::",
        "cat:128,0,0::",
        "dog:0,128,0::",
    ]
    assert found["ImageSets/Segmentation/default.txt"] == b"a\nsub/b\n"
    by_class, by_object = (
        Image.open(io.BytesIO(found[f"Segmentation{kind}/a.png"])) for kind in ("Class", "Object")
    )
    for number, (name, mask) in enumerate(masks(page), start=1):
        assert np.array_equal(np.asarray(by_object) == number, mask)
        assert (np.asarray(by_class)[mask] == (1 if name == "cat" else 2)).all()
    palette = by_class.getpalette()
    assert palette is not None
    assert palette[3:9] == [128, 0, 0, 0, 128, 0]


def test_cvat_masks_are_pixel_exact(page: Page) -> None:
    root = ElementTree.fromstring(files(page, "cvat")["annotations.xml"])
    assert [one.text for one in root.findall("meta/task/labels/label/name")] == ["cat", "dog"]
    image = root.find("image[@name='a.png']")
    assert image is not None
    assert (image.get("width"), image.get("height")) == (str(WIDTH), str(HEIGHT))
    for (name, mask), one in zip(masks(page), image.findall("mask"), strict=True):
        top, left, height, width = (int(one.get(key, "")) for key in ("top", "left", "height", "width"))
        runs = [int(value) for value in one.get("rle", "").split(",")]
        box = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        whole = np.zeros((HEIGHT, WIDTH), bool)
        whole[top : top + height, left : left + width] = box
        assert (one.get("label"), np.array_equal(whole, mask)) == (name, True)


def unpacked(packed: list[int]) -> NDArray[np.uint8]:
    """Decode a brush mask like Label Studio (`decode_rle` of label-studio-converter), in independent code."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        same, length = read(1), 0
        length = 1 + read(sizes[read(2)])
        values += [read(word)] * length if same else [read(word) for _ in range(length)]
    return np.array(values, np.uint8).reshape(HEIGHT, WIDTH, 4)


def test_label_studio_masks_are_pixel_exact(page: Page) -> None:
    tasks = json.loads(files(page, "label_studio")["label_studio.json"])
    assert [one["data"]["image"] for one in tasks] == ["a.png", "sub/b.png"]
    results: list[dict[str, Any]] = tasks[0]["annotations"][0]["result"]
    for (name, mask), one in zip(masks(page), results, strict=True):
        assert (one["original_width"], one["original_height"]) == (WIDTH, HEIGHT)
        assert one["value"]["brushlabels"] == [name]
        assert np.array_equal(unpacked(one["value"]["rle"])[..., 3] > 0, mask)


def test_datumaro_masks_are_pixel_exact(page: Page) -> None:
    content = json.loads(files(page, "datumaro")["annotations/default.json"])
    labels = [one["name"] for one in content["categories"]["label"]["labels"]]
    (first, second) = content["items"]
    assert (first["image"], second["id"]) == ({"path": "a.png", "size": [HEIGHT, WIDTH]}, "sub/b")
    for (name, mask), one in zip(masks(page), first["annotations"], strict=True):
        assert (labels[one["label_id"]], np.array_equal(coco_mask.decode(one["rle"]), mask)) == (name, True)


def test_image_with_300_objects_becomes_a_16_bit_indexed_png(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "images"))
    runs = [
        {"size": [HEIGHT, WIDTH], "counts": [place, 1, HEIGHT * WIDTH - place - 1]} for place in range(300)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": one} for one in runs],
        "categories": [{"id": 1, "name": "cat"}],
    }
    assert page.ok(page.client.post(f"{API}/import", json=content))["objects"] == 300
    labels = np.asarray(Image.open(io.BytesIO(files(page, "indexed_png")["a.png"])))
    assert labels.max() == 300
    assert np.array_equal(labels.T.ravel()[:300], np.arange(1, 301))
    with pytest.raises(
        AssertionError, match=r"VOC allows at most 254 objects per image.*; export coco or cvat"
    ):
        files(page, "voc")


@pytest.mark.parametrize("kind", ["cvat", "label_studio", "datumaro"])
@pytest.mark.parametrize("zipped", [True, False])
def test_export_is_imported_pixel_exact_and_only_once(
    page: Page, tmp_path: Path, kind: str, zipped: bool
) -> None:
    content = page.client.get(f"{API}/export?format={kind}").content
    if not zipped:
        content = next(iter(files(page, kind).values()))
    other = Page(make_folder(tmp_path / "other"))
    headers = {"Content-Type": "application/octet-stream"}
    answers = [
        other.ok(other.client.put(f"{API}/import/file", content=content, headers=headers)) for _ in "12"
    ]
    assert [(one["objects"], one["known"]) for one in answers] == [(3, 0), (0, 3)]
    for name in ("a.png", "sub/b.png"):
        for (label, mask), (again, found) in zip(masks(page, name), masks(other, name), strict=True):
            assert (again, np.array_equal(found, mask)) == (label, True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cake", "cannot be read as JSON, XML or zip"),
        (b"PK cake", "the zip cannot be read"),
        (b"<annotation><object/></annotation>", "the XML contains <annotation>; export it as 'CVAT for"),
        (b"<annotations><track/></annotations>", "tracks of a video"),
        (b"<annotations>", "the XML cannot be read"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "must not declare a DOCTYPE or entities"),
        (
            b'{"items": [1], "categories": {"label": {}}}',
            "Datumaro's JSON cannot be read: 'labels' is missing",
        ),
        (b'{"shapes": []}', "labelme's JSON cannot be read: 'imagePath' is missing"),
        (b'{"cake": 1}', "must be COCO JSON"),
    ],
)
def test_file_of_an_unknown_format_is_refused(page: Page, content: bytes, reason: str) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    answer = page.client.put(f"{API}/import/file", content=content, headers=headers)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_outline_of_a_mask_with_many_parts_is_computed_in_seconds() -> None:
    mask = np.zeros((400, 400), bool)
    for row, col in np.random.default_rng(0).integers(1, 398, (500, 2)):
        mask[row : row + 2, col : col + 2] = True
    began = time.process_time()
    outline = joined_outline(SegmentedObject(1, 1, (), 0.5, encode(mask)))
    assert time.process_time() - began < 3  # seconds; one that computes all distances for each part takes 15
    drawn = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [outline.astype(np.int32)], 1) > 0
    assert not (mask & ~drawn).any()
