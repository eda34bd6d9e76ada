"""Each format through the package of its own tool: our exports read by it, and its files imported.

Masks are pixel-exact, or the loss is stated here. Datumaro (an older OpenCV; tried by hand) and labelme (GPL)
are not installed: Datumaro's masks are COCO's run lengths, and supervision reads labelme's polygons.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.datasets import VOCSegmentation

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, HEIGHT, WIDTH, Page, make_folder

from dct_seg.rle import encode

NAMES = ("cat", "dog")


def drawn() -> list[NDArray[np.bool_]]:
    """A ring, a disc with a second part, a line, a pixel at the corner, and a staircase."""
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    distance = (rows - 15) ** 2 + (cols - 15) ** 2
    masks = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(5)]
    masks[0] = (distance <= 100) & (distance >= 20)
    masks[1] = (rows - 15) ** 2 + (cols - 45) ** 2 <= 60
    masks[1][30:33, 50:58] = True
    masks[2][35, 3:30] = True
    masks[3][HEIGHT - 1, WIDTH - 1] = True
    masks[4] = (rows >= 20 + cols - 30) & (rows < 28) & (cols >= 28) & (cols < 36)
    return masks


HOLES, PARTS = (0,), (1,)
MASKS = drawn()
LABELS = ["cat", "dog", "cat", "dog", "cat"]


def coco_of(masks: list[NDArray[np.bool_]], labels: list[str]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 1, "category_id": NAMES.index(label) + 1, "segmentation": encode(mask)}
            for mask, label in zip(masks, labels, strict=True)
        ],
        "categories": [{"id": place, "name": name} for place, name in enumerate(NAMES, start=1)],
    }


@pytest.fixture
def page(tmp_path: Path) -> Page:
    page = Page(make_folder(tmp_path / "images"))
    page.put(json.dumps(coco_of(MASKS, LABELS)).encode())
    return page


def unpacked(page: Page, kind: str, folder: Path) -> Path:
    """The folder with the files of an export."""
    answer = page.client.get(f"{API}/export?format={kind}")
    assert answer.status_code == 200, answer.text
    folder.mkdir()
    if kind == "coco":
        (folder / "coco.json").write_bytes(answer.content)
    else:
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(folder)
    return folder


def imported(tmp_path: Path, content: bytes, num_skipped: int = 0) -> list[tuple[str, NDArray[np.bool_]]]:
    """(class, mask) of the objects after an import into an empty folder."""
    other = Page(make_folder(tmp_path / "other"))
    answer = other.put(content)
    assert len(answer["skipped"]) == num_skipped, answer
    return other.masks()


def zip_of(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return file.getvalue()


def detections_of(sv: Any) -> Any:
    """Masks read by supervision."""
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(np.stack(MASKS)),
        mask=np.stack(MASKS),
        class_id=np.array([NAMES.index(label) for label in LABELS]),
    )


def dataset_of(sv: Any, root: Path) -> Any:
    image = str(root / "a.png")
    return sv.DetectionDataset(list(NAMES), [image], {image: detections_of(sv)})


def supervision() -> Any:
    return pytest.importorskip("supervision", reason="supervision is not installed")


def test_coco_is_read_pixel_exact_by_pycocotools(page: Page, tmp_path: Path) -> None:
    read = COCO(str(unpacked(page, "coco", tmp_path / "out") / "coco.json"))
    for one, mask, label in zip(read.loadAnns(read.getAnnIds()), MASKS, LABELS, strict=True):
        assert np.array_equal(read.annToMask(one) > 0, mask)
        assert read.loadCats(one["category_id"])[0]["name"] == label


def test_coco_is_read_pixel_exact_by_supervision(page: Page, tmp_path: Path) -> None:
    out = unpacked(page, "coco", tmp_path / "out")
    dataset = supervision().DetectionDataset.from_coco(
        str(page.project.folder.root), str(out / "coco.json"), force_masks=True
    )
    (found,) = dataset.annotations.values()
    assert np.array_equal(found.mask, np.stack(MASKS))
    assert [dataset.classes[number] for number in found.class_id] == LABELS


def test_coco_of_supervision_is_imported(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    dataset_of(supervision(), page.project.folder.root).as_coco(annotations_path=str(file))
    found = imported(
        tmp_path, file.read_bytes(), num_skipped=2
    )  # supervision writes nothing for the line and the pixel
    assert [name for name, _ in found] == ["cat", "dog", "cat"]
    for number in (
        *HOLES,
        *PARTS,
    ):  # these are written as run lengths, the others as polygons of pixel centers
        assert np.array_equal(found[number][1], MASKS[number])


def test_yolo_is_read_by_supervision_except_for_the_lines_that_join_parts_and_holes(
    page: Page, tmp_path: Path
) -> None:
    out = unpacked(page, "yolo", tmp_path / "out")
    dataset = supervision().DetectionDataset.from_yolo(
        str(page.project.folder.root), str(out / "labels"), str(out / "data.yaml"), force_masks=True
    )
    found = next(one for path, one in dataset.annotations.items() if path.endswith("a.png"))
    assert [dataset.classes[number] for number in found.class_id] == LABELS
    for number, (mask, wanted) in enumerate(zip(found.mask, MASKS, strict=True)):
        assert not (wanted & ~mask).any()
        assert (mask & ~wanted).sum() <= (15 if number in (*HOLES, *PARTS) else 0)


def test_yolo_of_supervision_is_imported(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    dataset_of(supervision(), page.project.folder.root).as_yolo(
        annotations_directory_path=str(folder / "labels"), data_yaml_path=str(folder / "data.yaml")
    )
    assert yaml.safe_load((folder / "data.yaml").read_text())["names"] == list(NAMES)
    found = imported(
        tmp_path, zip_of(folder), num_skipped=2
    )  # supervision turns the line and the pixel into boxes
    staircase = [mask for name, mask in found if (mask & MASKS[4]).sum() > 10]
    assert len(staircase) == 1
    assert np.array_equal(staircase[0], MASKS[4])


def test_labelme_polygons_are_read_pixel_exact_by_supervision(page: Page, tmp_path: Path) -> None:
    sv = supervision()
    if not hasattr(sv.DetectionDataset, "from_labelme"):
        pytest.skip("this supervision reads no labelme")
    out = unpacked(page, "labelme", tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # supervision reports that it skips labelme's masks, here the ring
        dataset = sv.DetectionDataset.from_labelme(str(page.project.folder.root), str(out))
    (found,) = dataset.annotations.values()
    rest = [number for number in range(len(MASKS)) if number not in HOLES]
    assert np.array_equal(found.mask, np.stack([MASKS[number] for number in rest]))
    assert [dataset.classes[number] for number in found.class_id] == [LABELS[number] for number in rest]


def test_voc_is_read_pixel_exact_by_torchvision(page: Page, tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit"
    base.mkdir()
    out = unpacked(page, "voc", base / "VOC2012")
    (out / "JPEGImages").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(out / "JPEGImages" / "a.jpg")
    lists = out / "ImageSets" / "Segmentation"
    (lists / "default.txt").rename(lists / "train.txt")  # torchvision accepts no list of another name
    dataset = VOCSegmentation(str(tmp_path), year="2012", image_set="train")
    labels = np.asarray(dataset[0][1])
    names = ["background", *(one.name for one in page.project.classes)]
    for mask, label in zip(MASKS, LABELS, strict=True):  # none of these overlap
        assert {names[value] for value in np.unique(labels[mask])} == {label}
    assert np.array_equal(labels > 0, np.logical_or.reduce(MASKS))


def test_cvat_is_read_pixel_exact_by_its_sdk(page: Page, tmp_path: Path) -> None:
    masks = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk is not installed")
    root = ElementTree.parse(unpacked(page, "cvat", tmp_path / "out") / "annotations.xml")
    for one, mask, label in zip(root.iter("mask"), MASKS, LABELS, strict=True):
        left, top, width, height = (int(one.attrib[key]) for key in ("left", "top", "width", "height"))
        runs = [int(value) for value in one.attrib["rle"].split(",")]
        points = [*runs, left, top, left + width - 1, top + height - 1]
        assert masks.encode_mask(mask) == points
        assert one.attrib["label"] == label


def test_label_studio_is_read_pixel_exact_by_its_converter(page: Page, tmp_path: Path) -> None:
    brush = pytest.importorskip("label_studio_converter.brush", reason="its converter is not installed")
    tasks = json.loads((unpacked(page, "label_studio", tmp_path / "out") / "label_studio.json").read_text())
    results = tasks[0]["annotations"][0]["result"]
    for one, mask, label in zip(results, MASKS, LABELS, strict=True):
        image = brush.decode_rle(one["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
        assert np.array_equal(image[..., 3] > 0, mask)
        assert one["value"]["brushlabels"] == [label]


def test_label_studio_masks_of_its_converter_are_imported_pixel_exact(tmp_path: Path) -> None:
    brush = pytest.importorskip("label_studio_converter.brush", reason="its converter is not installed")
    results = [
        {
            "original_height": HEIGHT,
            "original_width": WIDTH,
            "value": {
                "format": "rle",
                "rle": brush.mask2rle(mask.astype(np.uint8) * 255),
                "brushlabels": [label],
            },
        }
        for mask, label in zip(MASKS, LABELS, strict=True)
    ]
    task = {"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": results}]}
    for (name, found), mask, label in zip(
        imported(tmp_path, json.dumps([task]).encode()), MASKS, LABELS, strict=True
    ):
        assert (name, np.array_equal(found, mask)) == (label, True)


def test_datumaro_export_has_run_lengths_of_pycocotools(page: Page, tmp_path: Path) -> None:
    file = unpacked(page, "datumaro", tmp_path / "out") / "annotations" / "default.json"
    content = json.loads(file.read_text())
    for one, mask in zip(content["items"][0]["annotations"], MASKS, strict=True):
        assert np.array_equal(coco_mask.decode(one["rle"]), mask)
        one["rle"] = {
            "size": [HEIGHT, WIDTH],
            "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode(),
        }
    for (name, found), mask, label in zip(
        imported(tmp_path, json.dumps(content).encode()), MASKS, LABELS, strict=True
    ):
        assert (name, np.array_equal(found, mask)) == (label, True)
