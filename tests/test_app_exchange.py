"""What comes in and goes out: the same masks."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotator import API, HEIGHT, WIDTH, Page, make_folder
from networks import tiny_net
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from dct_seg import Click, Predictor
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.rle import decode, encode


@pytest.fixture
def page(tmp_path: Path) -> Page:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 20, radius=6)
    page.click(20, 20, radius=2, positive=False)  # a ring
    page.finish(class_id=2)
    page.click(20, 28, radius=6)
    page.finish()
    page.click(10, 10, radius=4, name="sub/b.png")
    page.finish("sub/b.png")
    page.click(5, 5, radius=3)  # a draft is not exported
    return page


def masks(page: Page, name: str = "a.png") -> list[NDArray[np.bool_]]:
    entry = page.project.folder.entry(page.ids[name])
    return [decode(one.rle) for one in page.project.state(entry)[0].objects]


def exported(page: Page, kind: str) -> Any:
    answer = page.client.get(f"{API}/export?format={kind}")
    assert answer.status_code == 200, answer.text
    assert "attachment" in answer.headers["content-disposition"]
    return answer


def test_run_lengths_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 9), (7, 3), (40, 60)):
        for share in (0.0, 0.02, 0.5, 1.0):
            mask = rng.random((height, width)) < share
            packed = encode(mask)
            assert np.array_equal(decode(packed), mask)
            assert np.array_equal(decode(packed), coco_mask.decode(packed))


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [3, 3], "counts": "999999999"},
        {"size": [3, 3], "counts": [5, 5]},
        {"size": [3, 3], "counts": [-1, 10]},
        {"size": [3, 3], "counts": [9.0]},
        {"size": [3, 3], "counts": "\x00"},
        {"size": [3, 3], "counts": "oooooooooooooooooooooooooooo1"},
        {"size": [3, 3], "counts": ""},
        {"size": [3, 3], "counts": "o"},
        {"size": [0, 3], "counts": []},
        {"size": [3], "counts": [3]},
    ],
)
def test_broken_run_lengths_are_refused(rle: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="run-length encoding"):
        decode(rle)


def test_coco_goes_out_as_other_tools_read_it(page: Page) -> None:
    content = exported(page, "coco").json()
    assert [(one["file_name"], one["height"], one["width"]) for one in content["images"]] == [
        ("a.png", 40, 60),
        ("sub/b.png", 40, 60),
    ]
    first = content["annotations"][0]
    assert np.array_equal(coco_mask.decode(first["segmentation"]), masks(page)[0])
    assert first["bbox"] == coco_mask.toBbox(first["segmentation"]).tolist()
    assert first["area"] == coco_mask.area(first["segmentation"])
    assert [one["category_id"] for one in content["annotations"]] == [2, 1, 1]


def test_coco_comes_back_as_it_went(page: Page, tmp_path: Path) -> None:
    other = Page(make_folder(tmp_path / "other"))
    answer = other.ok(other.client.post(f"{API}/import", json=exported(page, "coco").json()))
    assert answer == {"pictures": 2, "objects": 3, "skipped": []}
    for name in ("a.png", "sub/b.png"):
        assert all(np.array_equal(*pair) for pair in zip(masks(page, name), masks(other, name), strict=True))
    assert [one["class_id"] for one in other.get()["objects"]] == [2, 1]


def test_coco_that_does_not_fit_is_told_and_the_rest_is_taken(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    square = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
    content = {
        "images": [
            {"id": 1, "file_name": "elsewhere/b.png"},
            {"id": 2, "file_name": "a.png", "height": 60, "width": 40},
            {"id": 3, "file_name": "../../etc/passwd"},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 5, "segmentation": square, "attributes": {"kept": False}},
            {"image_id": 2, "category_id": 5, "segmentation": square},
            {"image_id": 3, "category_id": 5, "segmentation": square},
            {"image_id": 9, "category_id": 5, "segmentation": square},
        ],
        "categories": [{"id": 5, "name": "bird", "supercategory": "animal"}],
    }
    answer = page.ok(page.client.post(f"{API}/import", json=content))
    assert (answer["pictures"], answer["objects"]) == (1, 1)
    assert [line.split(":")[0] for line in answer["skipped"]] == ["annotation 3", "../../etc/passwd", "a.png"]
    (mask,) = masks(page, "sub/b.png")
    assert mask[10:20, 10:20].all()
    assert mask.sum() == 100
    assert [one.name for one in page.project.classes] == ["cat", "dog", "bird"]


@pytest.mark.parametrize("counts", ["999999999", [5], [1e99], "\ud800", [2**70]])
def test_hostile_runs_in_coco_are_skipped_or_refused(page: Page, counts: Any) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    before = page.get()
    answer = page.client.post(
        f"{API}/import", content=json.dumps(content), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422 or (answer.status_code == 200 and len(answer.json()["skipped"]) == 1), (
        answer.text
    )
    assert page.get() == before


def test_indexed_png_goes_out_and_comes_back(page: Page, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(io.BytesIO(exported(page, "indexed_png").content))
    assert archive.namelist() == ["a.png", "sub/b.png"]
    labels = np.asarray(Image.open(archive.open("a.png")))
    assert [np.array_equal(labels == place, mask) for place, mask in enumerate(masks(page), start=1)] == [
        True,
        True,
    ]
    other = Page(make_folder(tmp_path / "other"))
    png = {"content-type": "image/png"}
    answer = other.ok(
        other.client.put(other.url("/masks?revision=0"), content=archive.read("a.png"), headers=png)
    )
    assert [one["num_clicks"] for one in answer["objects"]] == [0, 0]
    assert all(np.array_equal(*pair) for pair in zip(masks(page), masks(other), strict=True))


def test_imported_mask_is_the_start_of_its_correction(page: Page, tmp_path: Path) -> None:
    other = Page(make_folder(tmp_path / "other"))
    other.ok(other.client.post(f"{API}/import", json=exported(page, "coco").json()))
    other.do("/objects/1/edit")
    other.click(20, 14, radius=3, positive=False)
    other.finish(class_id=2)
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    wanted = masks(page)[0] & ~((rows - 20) ** 2 + (cols - 14) ** 2 <= 9)
    assert np.array_equal(masks(other)[0], wanted)
    other.do("/objects/1/edit")
    other.click(20, 26, radius=2, positive=False)  # a second round goes on from the first
    other.finish(class_id=2)
    assert np.array_equal(masks(other)[0], wanted & ~((rows - 20) ** 2 + (cols - 26) ** 2 <= 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Image.new("P", (WIDTH, HEIGHT + 1)), "the mask is 60x41, but the picture is 60x40"),
        (lambda: Image.new("RGB", (WIDTH, HEIGHT)), "the mask has mode RGB"),
        (lambda: Image.new("L", (WIDTH, HEIGHT)), "the PNG holds no object"),
    ],
)
def test_mask_that_does_not_fit_is_refused(page: Page, make: Any, message: str) -> None:
    file = io.BytesIO()
    make().save(file, format="PNG")
    answer = page.client.put(
        page.url("/masks"), content=file.getvalue(), headers={"content-type": "image/png"}
    )
    assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text


def test_mask_that_is_no_png_is_refused(page: Page) -> None:
    file = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT)).save(file, format="GIF")
    for content in (b"", b"nonsense", file.getvalue(), b"\x89PNG\r\n\x1a\n"):
        answer = page.client.put(page.url("/masks"), content=content, headers={"content-type": "image/png"})
        assert answer.status_code == 400, answer.text
        assert "no PNG that can be decoded" in answer.json()["error"]


def test_one_png_an_object(page: Page) -> None:
    archive = zipfile.ZipFile(io.BytesIO(exported(page, "object_png").content))
    assert archive.namelist() == ["a/1.png", "a/2.png", "sub/b/1.png"]
    assert np.array_equal(np.asarray(Image.open(archive.open("a/2.png"))) > 0, masks(page)[1])


def test_labelme_tells_label_and_outline(page: Page) -> None:
    archive = zipfile.ZipFile(io.BytesIO(exported(page, "labelme").content))
    content = json.loads(archive.read("sub/b.json"))
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("b.png", HEIGHT, WIDTH)
    (shape,) = content["shapes"]
    assert (shape["label"], shape["shape_type"]) == ("cat", "polygon")
    assert max(abs(np.hypot(x - 10, y - 10) - 4) for x, y in shape["points"]) < 1


def test_pictures_of_one_stem_get_files_of_their_own(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    Image.open(root / "a.png").save(root / "a.bmp")
    page = Page(root)
    for name in ("a.png", "a.bmp"):
        page.click(20, 20, name=name)
        page.finish(name)
    assert zipfile.ZipFile(io.BytesIO(exported(page, "indexed_png").content)).namelist() == [
        "a.bmp.png",
        "a.png.png",
    ]


def test_clicks_replayed_by_a_predictor_give_the_same_masks_to_the_bit(tmp_path: Path) -> None:
    net = tiny_net(previous_mask=True)
    with_object = net.decoder.predict.bias
    assert with_object is not None
    with_object.data.fill_(0.3)

    def method() -> DCTNetMethod:
        return DCTNetMethod(net=net, first_size=48, zoom_size=40, precision="float32")

    page = Page(make_folder(tmp_path / "pictures"), method)
    for row, col in ((20, 20), (11, 44)):
        page.click(row, col, radius=None)
        page.click(row + 5, col - 9, radius=None, positive=False)
        page.click(row - 3, col + 2, radius=4.25)
        page.finish(threshold=0.55)
    lines = [json.loads(line) for line in exported(page, "clicks").text.splitlines()]
    assert len(lines) == 2
    assert lines[1]["removed"] is not None
    for line, mask in zip(lines, masks(page), strict=True):
        predictor = Predictor(method(), threshold=line["threshold"])
        predictor.set_image(np.asarray(Image.open(page.project.folder.root / line["image"])))
        replayed = predictor.predict(
            [Click(one["row"], one["col"], one["positive"], one["radius"]) for one in line["clicks"]]
        ).mask
        if line["removed"] is not None:
            replayed &= ~decode(line["removed"])
        assert np.array_equal(replayed, mask)
