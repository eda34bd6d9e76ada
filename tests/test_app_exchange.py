"""Import and export: the same masks."""

import base64
import io
import json
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from annotator import API, HEIGHT, WIDTH, Page, make_folder
from networks import tiny_net
from numpy.typing import NDArray
from PIL import Image, ImageDraw
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
    return [decode(one.rle) for one in page.project.history(entry).state.objects]


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


def test_exported_coco_can_be_read_by_other_tools(page: Page) -> None:
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


def test_coco_export_is_imported_unchanged(page: Page, tmp_path: Path) -> None:
    other = Page(make_folder(tmp_path / "other"))
    answer = other.ok(other.client.post(f"{API}/import", json=exported(page, "coco").json()))
    assert answer == {"pictures": 2, "objects": 3, "known": 0, "skipped": []}
    again = other.ok(other.client.post(f"{API}/import", json=exported(page, "coco").json()))
    assert again == {"pictures": 0, "objects": 0, "known": 3, "skipped": []}
    for name in ("a.png", "sub/b.png"):
        assert all(np.array_equal(*pair) for pair in zip(masks(page, name), masks(other, name), strict=True))
    assert [one["class_id"] for one in other.get()["objects"]] == [2, 1]


def test_bad_coco_records_are_reported_and_the_rest_is_imported(tmp_path: Path) -> None:
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


def test_indexed_png_survives_export_and_import(page: Page, tmp_path: Path) -> None:
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
    other.click(20, 26, radius=2, positive=False)  # a second round continues from the first
    other.finish(class_id=2)
    assert np.array_equal(masks(other)[0], wanted & ~((rows - 20) ** 2 + (cols - 26) ** 2 <= 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Image.new("P", (WIDTH, HEIGHT + 1)), "the mask is 60x41, but the image is 60x40"),
        (lambda: Image.new("RGB", (WIDTH, HEIGHT), "red"), "the mask is a color image (RGB); save"),
        (lambda: Image.linear_gradient("L").resize((WIDTH, HEIGHT)), "most of them thin bands: a soft mask"),
        (lambda: Image.new("L", (WIDTH, HEIGHT)), "the PNG has no object"),
    ],
)
def test_mask_that_does_not_fit_is_refused(page: Page, make: Any, message: str) -> None:
    file = io.BytesIO()
    make().save(file, format="PNG")
    answer = page.client.put(
        page.url("/masks"), content=file.getvalue(), headers={"content-type": "image/png"}
    )
    assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text


def test_mask_that_is_not_a_png_is_refused(page: Page) -> None:
    file = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT)).save(file, format="GIF")
    for content in (b"", b"nonsense", file.getvalue(), b"\x89PNG\r\n\x1a\n"):
        answer = page.client.put(page.url("/masks"), content=content, headers={"content-type": "image/png"})
        assert answer.status_code == 400, answer.text
        assert "the mask must be a PNG" in answer.json()["error"]


def test_export_of_one_png_per_object(page: Page) -> None:
    archive = zipfile.ZipFile(io.BytesIO(exported(page, "object_png").content))
    assert archive.namelist() == ["a/1.png", "a/2.png", "sub/b/1.png"]
    assert np.array_equal(np.asarray(Image.open(archive.open("a/2.png"))) > 0, masks(page)[1])


def test_labelme_export_has_label_and_outline(page: Page) -> None:
    archive = zipfile.ZipFile(io.BytesIO(exported(page, "labelme").content))
    content = json.loads(archive.read("sub/b.json"))
    assert (content["imagePath"], content["imageHeight"], content["imageWidth"]) == ("b.png", HEIGHT, WIDTH)
    (shape,) = content["shapes"]
    assert (shape["label"], shape["shape_type"]) == ("cat", "polygon")
    assert max(abs(np.hypot(x - 10, y - 10) - 4) for x, y in shape["points"]) < 1


def test_images_with_the_same_stem_get_separate_files(tmp_path: Path) -> None:
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


def test_clicks_replayed_by_a_predictor_give_bit_identical_masks(tmp_path: Path) -> None:
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
            [
                Click(
                    one["row"],
                    one["col"],
                    one["positive"],
                    one["radius"],
                    predicted_radius=not one["given"],
                )
                for one in line["clicks"]
            ]
        ).mask
        if line["removed"] is not None:
            replayed &= ~decode(line["removed"])
        assert np.array_equal(replayed, mask)


def put_mask(page: Page, image: Image.Image) -> list[int]:
    """The pixels of the objects that a mask PNG adds."""
    before = len(page.get()["objects"])
    file = io.BytesIO()
    image.save(file, format="PNG")
    png = {"content-type": "image/png"}
    answer = page.ok(page.client.put(page.url("/masks"), content=file.getvalue(), headers=png))
    return [one["area"] for one in answer["objects"][before:]]


def test_binary_mask_is_one_object_however_it_was_saved(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 10:40] = 1
    gray = Image.fromarray(mask * 255)
    for image in (Image.fromarray(mask), gray, Image.fromarray(mask.astype(bool)), gray.convert("RGB")):
        assert put_mask(page, image) == [600]
        page.do("/undo")  # a second import adds nothing
    for image in (
        gray.convert("RGBA"),
        gray.convert("LA"),
        gray.convert("P"),
        Image.fromarray(mask.astype("u2")),
    ):
        assert put_mask(page, image) == [600]
        page.do("/undo")
    put_mask(page, gray)
    assert put_mask(page, gray) == []  # nothing new, and no error
    assert [one["area"] for one in page.get()["objects"]] == [600]
    archive = zipfile.ZipFile(io.BytesIO(exported(page, "object_png").content))
    page.do("/undo")
    assert [put_mask(page, Image.open(archive.open(name))) for name in archive.namelist()] == [[600]]


def coco_of(*segmentations: Any, name: str = "a.png") -> dict[str, Any]:
    annotations = [{"image_id": 1, "category_id": 1, "segmentation": one} for one in segmentations]
    images = [{"id": 1, "file_name": name}]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}


GOOD = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "it has no segmentation"),
        (None, "it has no segmentation"),
        ([[1, 1, 2, 2]], "none of its polygons has three corners"),
        ([[500, 500, 510, 500, 510, 510]], "its mask is empty"),
        ([1, 2, 3, 4, 5, 6], "its polygon is not nested"),
        ("text", "it has no segmentation"),
        ([["a"] * 6], "a corner that is not a number"),
        ({"size": [HEIGHT, WIDTH]}, "runs that do not add up to it"),
        ({"size": "?", "counts": [1]}, "its run lengths have size ?"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "its mask is empty"),
    ],
)
def test_one_bad_annotation_leaves_the_others_of_its_image(tmp_path: Path, bad: Any, reason: str) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    answer = page.ok(page.client.post(f"{API}/import", json=coco_of(GOOD, bad, GOOD)))
    assert (answer["pictures"], answer["objects"]) == (1, 2)
    (line,) = answer["skipped"]
    assert line.startswith("a.png: annotation 1: ")
    assert reason in line
    alone = page.ok(page.client.post(f"{API}/import", json=coco_of(bad)))
    assert (alone["pictures"], alone["objects"], len(alone["skipped"])) == (0, 0, 1)


def test_one_bad_record_leaves_the_others_of_its_file(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    content = coco_of(GOOD)
    content["images"] += [{"id": "x", "file_name": "b.png"}, None]
    content["categories"] += [{"id": 2, "name": "a\nb"}]
    content["annotations"] += [7, {"image_id": 1, "category_id": "?"}, {"image_id": None, "category_id": 1}]
    answer = page.ok(page.client.post(f"{API}/import", json=content))
    assert (answer["pictures"], answer["objects"]) == (1, 1)
    named = [line.split(":")[0] for line in answer["skipped"]]
    assert named == ["category 1", "image 1", "image 2", "annotation 1", "annotation 2", "annotation 3"]


def test_category_id_with_two_names_is_reported_instead_of_guessed(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    content = coco_of(GOOD, GOOD)
    content["images"] += [{"id": 2, "file_name": "b.png"}, {"id": 2, "file_name": "c.png"}]
    content["categories"] += [{"id": 5, "name": "cat"}, {"id": 5, "name": "dog"}]
    content["annotations"][1] |= {"image_id": 2}
    content["annotations"] += [{**content["annotations"][0], "category_id": 5}]
    answer = page.ok(page.client.post(f"{API}/import", json=content))
    assert (answer["pictures"], answer["objects"]) == (1, 1)
    assert answer["skipped"] == [
        "annotation 1: image 2 is listed with several names",
        "annotation 2: category 5 is listed with several names",
    ]


def test_long_list_of_bad_records_is_truncated(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    answer = page.ok(page.client.post(f"{API}/import", json=coco_of(*[None] * 250)))
    assert len(answer["skipped"]) == 101
    assert answer["skipped"][-1] == "... and 150 more"


def drawn(shapes: list[dict[str, Any]], number: int) -> NDArray[np.bool_]:
    """Render an object as labelme does: the union of its filled and outlined polygons, or its mask."""
    canvas = Image.new("L", (WIDTH, HEIGHT))
    for one in shapes:
        if one["group_id"] != number:
            continue
        if one["shape_type"] == "polygon":
            ImageDraw.Draw(canvas).polygon([tuple(point) for point in one["points"]], outline=1, fill=1)
        else:
            (left, top), (right, bottom) = one["points"]
            mask = Image.open(io.BytesIO(base64.b64decode(one["mask"])))
            assert mask.size == (right + 1 - left, bottom + 1 - top)
            canvas.paste(mask, (left, top))
    return np.asarray(canvas) > 0


def test_labelme_keeps_holes_lines_and_single_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blobs = np.asarray(cv2.GaussianBlur(rng.random((HEIGHT, WIDTH)), (0, 0), 1.5))
    wanted = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(4)]
    wanted[0][5:35, 5:35] = True
    wanted[0][13:27, 13:27] = wanted[0][8, 9] = False
    wanted[1][38, 5:60] = True
    wanted[2][2, 50:52] = True
    wanted[3][39, 59] = True
    wanted += [blobs > 0.5, rng.random((HEIGHT, WIDTH)) < 0.6, np.ones((HEIGHT, WIDTH), bool)]
    page = Page(make_folder(tmp_path / "pictures"))
    page.ok(page.client.post(f"{API}/import", json=coco_of(*[encode(mask) for mask in wanted])))
    archive = zipfile.ZipFile(io.BytesIO(exported(page, "labelme").content))
    shapes = json.loads(archive.read("a.json"))["shapes"]
    assert all(len(one["points"]) >= (3 if one["shape_type"] == "polygon" else 2) for one in shapes)
    kinds = {one["group_id"]: one["shape_type"] for one in shapes}
    assert [kinds[number] for number in (1, 2, 3, 4, 7)] == [
        "mask",
        "polygon",
        "polygon",
        "polygon",
        "polygon",
    ]
    for number, mask in enumerate(wanted, start=1):
        assert np.array_equal(drawn(shapes, number), mask)


def test_indexed_png_reports_an_object_that_it_cannot_contain(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.ok(page.client.post(f"{API}/import", json=coco_of(GOOD, [[0, 0, 50, 0, 50, 40, 0, 40]])))
    answer = page.client.get(f"{API}/export?format=indexed_png")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("object 1 of a.png is hidden under later ones")


def test_all_files_of_an_export_have_different_names(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    names = ("a.jpg", "a.png", "a.jpg.png", "A.PNG", "b.png", "caf\u00e9.png", "cafe\u0301.png")
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / name)
    page = Page(root)
    for name in names:
        assert page.ok(page.client.post(f"{API}/import", json=coco_of(GOOD, name=name)))["objects"] == 1
    for kind in ("indexed_png", "labelme", "object_png"):
        found = zipfile.ZipFile(io.BytesIO(exported(page, kind).content)).namelist()
        assert len({unicodedata.normalize("NFC", one).casefold() for one in found}) == len(names)


def test_many_objects_on_a_large_image_fit_in_memory(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("L", (4000, 3000)).save(tmp_path / "pictures" / "a.png")
    page = Page(tmp_path / "pictures")
    corners = [(20 * (k % 100) + 30, 500 * (k // 100) + 40) for k in range(200)]
    squares = [[[x, y, x + 15, y, x + 15, y + 400, x, y + 400]] for x, y in corners]
    page.get()  # the image is decoded before memory is measured
    tracemalloc.start()
    try:
        answer = page.ok(page.client.post(f"{API}/import", json=coco_of(*squares)))
        assert answer["objects"] == 200
        assert [one["area"] for one in page.get()["objects"]] == [6000] * 200
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20  # a mask of 12 megapixels for each would be 2.4 GB
