"""Imports: good records are imported, bad ones are reported, and nothing is imported twice."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, HEIGHT, WIDTH, Discs, Page, make_folder

from dct_seg import Predictor
from dct_seg.app.formats import brush_runs, voc_colors
from dct_seg.app.importing import Importer
from dct_seg.app.read_masks import PNG
from dct_seg.app.segmenter import Segmenter
from dct_seg.rle import encode, encode_part

SQUARE = np.zeros((HEIGHT, WIDTH), bool)
SQUARE[10:20, 12:30] = True


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(make_folder(tmp_path / "images"))


def exported(page: Page, kind: str) -> bytes:
    answer = page.client.get(f"{API}/export?format={kind}")
    assert answer.status_code == 200, answer.text
    return answer.content


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


# One bad record does not affect the others


def cvat(*shapes: str) -> bytes:
    images = f'<image name="a.png" height="{HEIGHT}" width="{WIDTH}">{"".join(shapes)}</image>'
    return f'<annotations><image name="b"/>{images}</annotations>'.encode()


def cvat_mask(rle: str) -> str:
    return f'<mask label="cat" top="10" left="12" height="10" width="18" rle="{rle}"/>'


def label_studio(*values: Any) -> bytes:
    results = [{"original_height": HEIGHT, "original_width": WIDTH, "value": value} for value in values]
    task = {"data": {"image": "/data/local-files/?d=a.png"}, "annotations": [{"result": results}]}
    return json.dumps([7, task, {"data": {}}]).encode()


def datumaro(*annotations: Any) -> bytes:
    item = {"image": {"path": "a.png", "size": [HEIGHT, WIDTH]}, "annotations": annotations}
    labels = {"label": {"labels": [{"name": "cat"}]}}
    return json.dumps({"categories": labels, "items": ["x", item]}).encode()


def labelme(*shapes: Any) -> bytes:
    return json.dumps({"imagePath": "a.png", "shapes": shapes}).encode()


RLE = encode(SQUARE)
BRUSH = {"format": "rle", "rle": brush_runs(SQUARE), "brushlabels": ["cat"]}
CORNERS = [[12, 10], [29, 10], [29, 19], [12, 19]]
POLYGON = {"shape_type": "polygon", "label": "cat", "points": CORNERS}


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (
            cvat(
                cvat_mask("0,180"),
                cvat_mask("0,999"),
                cvat_mask("x"),
                '<box label="cat" xtl="1" ytl="1" xbr="2" ybr="2"/>',
                '<polygon label="cat" points="1,1;2"/>',
                '<mask label="cat"/>',
            ),
            [
                "image 0: 'height' is missing",
                "image 1 (a.png), box 3: it must be a mask or a polygon",
                "a.png: mask 1: the runs of its mask must fill its box",
                "a.png: mask 2: invalid literal",
                "a.png: polygon 4: its polygon is not x, y, x, y",
                "a.png: mask 5: 'top' is missing",
            ],
        ),
        (
            label_studio(
                BRUSH,
                {**BRUSH, "rle": BRUSH["rle"][:9]},
                {"format": "rle", "rle": BRUSH["rle"]},
                {**BRUSH, "rle": [999]},
                {"rectanglelabels": ["cat"], "x": 1},
                {"polygonlabels": ["cat"], "points": [[1, 2], [3]]},
                None,
            ),
            [
                "task 0: it does not match the format",
                "task 1 (a.png), result 2: 'brushlabels' is missing",
                "task 1 (a.png), result 4: it must be a mask or a polygon",
                "task 1 (a.png), result 5: setting an array element",
                "task 1 (a.png), result 6: it does not match the format",
                "task 2: 'image' is missing",
                "a.png: result 1: its brush mask is truncated",
                "a.png: result 3: bytes must be in range",
            ],
        ),
        (
            datumaro(
                {"type": "mask", "label_id": 0, "rle": RLE},
                {"type": "mask", "label_id": 1, "rle": RLE},
                {"type": "mask", "label_id": 0, "rle": {"size": [2, 2], "counts": "4"}},
                {"type": "mask", "label_id": 0},
                {"type": "bbox", "label_id": 0},
                5,
            ),
            [
                "item 0: it does not match the format",
                "item 1 (a.png), annotation 1: label_id must be at least 0 and below 1, got 1",
                "item 1 (a.png), annotation 3: 'rle' is missing",
                "item 1 (a.png), annotation 4: it must be a mask or a polygon, got ",
                "item 1 (a.png), annotation 5: it does not match the format",
                "a.png: annotation 2: its run lengths have size [2, 2]",
            ],
        ),
        (
            labelme(
                POLYGON,
                {**POLYGON, "points": CORNERS[:2]},
                {**POLYGON, "points": [[1e9, 2], [3, 4], [5, 6]]},
                {**POLYGON, "label": "two\nlines"},
                {"shape_type": "circle", "label": "cat", "points": CORNERS[:2]},
                {"shape_type": "mask", "label": "cat", "points": CORNERS[::2], "mask": "cake"},
                {"label": "cat"},
            ),
            [
                "shape 4: it must be a mask or a polygon, got circle; convert it",
                "shape 6: 'shape_type' is missing",
                "a.png: shape 1: its polygon must have at least 3 points, got 2",
                "a.png: shape 2: its points lie far outside the image of 60x40",
                "a.png: shape 3: a class name must be 1 to 100 printable characters, got 'two\\nlines'",
                "a.png: shape 5: its mask must be a PNG",
            ],
        ),
    ],
    ids=["cvat", "label_studio", "datumaro", "labelme"],
)
def test_one_bad_record_leaves_the_others_of_its_file(page: Page, content: bytes, reasons: list[str]) -> None:
    answer = page.put(content)
    assert (answer["pictures"], answer["objects"]) == (1, 1)
    assert len(answer["skipped"]) == len(reasons), answer["skipped"]
    for line, reason in zip(answer["skipped"], reasons, strict=True):
        assert line.startswith(reason)
    ((name, mask),) = page.masks()
    assert (name, np.array_equal(mask, SQUARE)) == ("cat", True)


def test_one_bad_file_leaves_the_others_of_its_zip(page: Page) -> None:
    answer = page.put(zipped({"a.json": labelme(POLYGON), "b.json": b"cake", "c.xml": b"<cake/>"}))
    assert answer["objects"] == 1
    first, second = answer["skipped"]
    assert first.startswith("b.json: the file cannot be read as JSON, XML or zip")
    assert second.startswith("c.xml: the XML contains <cake>")


def test_file_with_more_than_a_thousand_categories_is_imported(page: Page) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "category_id": 1203, "segmentation": RLE}],
        "categories": [{"id": number, "name": f"kind {number}"} for number in range(1, 1204)],
    }
    assert page.put(json.dumps(content).encode())["objects"] == 1
    assert [one.name for one in page.project.classes] == ["cat", "dog", "kind 1203"]


def test_runs_of_a_part_are_those_of_the_whole_mask() -> None:
    rng = np.random.default_rng(0)
    for corner in ((0, 0), (3, 5), (-2, -1), (7, 8), (20, 20), (-9, 0)):
        part = rng.random((4, 3)) < 0.5
        whole = np.zeros((60, 60), bool)
        whole[20 + corner[0] : 24 + corner[0], 20 + corner[1] : 23 + corner[1]] = part
        assert encode_part(part, corner, (10, 11)) == encode(whole[20:30, 20:31])


# Round trips: every export is imported exactly and only once


@pytest.fixture
def worked(page: Page) -> Page:
    """A ring with a second part, an object next to it, one on the other image, and a draft."""
    page.click(20, 20, radius=9)
    page.click(20, 20, radius=3, positive=False)
    page.do("/paint", paint={"kind": "brush", "points": [[5, 50, 4]]})
    page.finish(class_id=2)
    page.click(30, 45, radius=None)
    page.click(30, 40, radius=6)
    page.finish(threshold=0.6)
    page.click(10, 10, radius=4, name="sub/b.png")
    page.finish("sub/b.png", class_id=2)
    page.click(3, 3, radius=2)
    return page


def unzipped(content: bytes) -> dict[str, bytes]:
    if not content.startswith(b"PK"):
        return {"": content}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def twice(page: Page, content: bytes) -> list[tuple[int, int, int, list[str]]]:
    answers = [page.put(content) for _ in "12"]
    return [(one["pictures"], one["objects"], one["known"], one["skipped"]) for one in answers]


def same(page: Page, other: Page) -> bool:
    return all(
        [name for name, _ in page.masks(file)] == [name for name, _ in other.masks(file)]
        and all(
            np.array_equal(mask, found)
            for (_, mask), (_, found) in zip(page.masks(file), other.masks(file), strict=True)
        )
        for file in ("a.png", "sub/b.png")
    )


EXACT = (
    *("coco", "cvat", "label_studio", "datumaro", "labelme", "voc"),
    *("indexed_png", "object_png", "clicks"),
)


@pytest.mark.parametrize("kind", EXACT)
def test_export_is_imported_exactly_and_only_once(worked: Page, tmp_path: Path, kind: str) -> None:
    other = Page(make_folder(tmp_path / "other"))
    assert twice(other, exported(worked, kind)) == [(2, 3, 0, []), (0, 0, 3, [])]
    assert same(worked, other)
    assert unzipped(exported(other, kind)) == unzipped(exported(worked, kind))


def test_yolo_is_imported_except_for_the_lines_that_join_parts_and_holes(
    worked: Page, tmp_path: Path
) -> None:
    other = Page(make_folder(tmp_path / "other"))
    assert twice(other, exported(worked, "yolo")) == [(2, 3, 0, []), (0, 0, 3, [])]
    lost = [
        (name == found_name, int((mask & ~found).sum()), int((found & ~mask).sum()))
        for file in ("a.png", "sub/b.png")
        for (name, mask), (found_name, found) in zip(worked.masks(file), other.masks(file), strict=True)
    ]
    assert [one[:2] for one in lost] == [(True, 0)] * 3
    assert lost[0][2] < 30  # two lines of one pixel
    assert [one[2] for one in lost[1:]] == [0, 0]


def test_pngs_of_one_image_are_decoded_once_and_undone_together(
    worked: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Page(make_folder(tmp_path / "other"))
    content = unzipped(exported(worked, "object_png"))
    other.get()  # the image itself is decoded before
    decoded = []
    prepare = ImageFile.ImageFile.load_prepare

    def counted(image: ImageFile.ImageFile) -> None:
        decoded.append(image)
        prepare(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", counted)
    files = {name: png for name, png in content.items() if name.startswith("a/")}
    assert other.put(zipped(files))["objects"] == len(files) == 2
    assert len(decoded) == 2
    assert other.get()["revision"] == 1
    assert other.do("/undo")["objects"] == []


def test_text_of_our_png_is_found_after_its_pixels(worked: Page, tmp_path: Path) -> None:
    png = unzipped(exported(worked, "indexed_png"))["a.png"]
    at = png.index(b"iTXt") - 4
    end = at + 12 + int.from_bytes(png[at : at + 4], "big")
    moved = png[:at] + png[end:-12] + png[at:end] + png[-12:]
    other = Page(make_folder(tmp_path / "other"))
    assert other.put(moved)["objects"] == 2
    pairs = zip(worked.masks(), other.masks(), strict=True)
    assert all(one[0] == found[0] and np.array_equal(one[1], found[1]) for one, found in pairs)


def test_broken_png_of_an_object_is_named_and_the_others_are_imported(page: Page) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("dct-seg", json.dumps({"image": "a.png", "classes": {"255": "two\nlines"}}))
    file = io.BytesIO()
    Image.fromarray(SQUARE.astype(np.uint8) * 255).save(file, format="PNG", pnginfo=text)
    answer = page.put(zipped({"a/1.png": file.getvalue(), "a/2.png": png(SQUARE)[:60], "a.png": png(SQUARE)}))
    assert answer["objects"] == 1
    assert [line.split(": ")[0] for line in answer["skipped"]] == ["a/2.png", "a.png"]
    assert answer["skipped"][1].startswith(
        "a.png: a/1.png: value 255: a class name must be 1 to 100 printable"
    )


def test_image_with_300_objects_is_imported_from_its_16_bit_png(page: Page, tmp_path: Path) -> None:
    runs = [
        {"size": [HEIGHT, WIDTH], "counts": [place, 1, HEIGHT * WIDTH - place - 1]} for place in range(300)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 1, "category_id": place % 2, "segmentation": one} for place, one in enumerate(runs)
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    assert page.put(json.dumps(content).encode())["objects"] == 300
    other = Page(make_folder(tmp_path / "other"))
    assert other.put(exported(page, "indexed_png"))["objects"] == 300
    assert same(page, other)


def test_objects_of_a_click_log_can_be_reopened_with_their_clicks(worked: Page, tmp_path: Path) -> None:
    other = Page(make_folder(tmp_path / "other"))
    other.put(exported(worked, "clicks"))
    assert [one["num_clicks"] for one in other.get()["objects"]] == [2, 2]
    draft = other.do("/objects/2/edit")["draft"]
    assert [(one["row"], one["given"]) for one in draft["clicks"]] == [(30, False), (30, True)]
    other.do("/undo")
    other.do("/undo")
    assert other.get()["objects"] == []


def test_bad_lines_of_a_click_log_do_not_affect_the_others(worked: Page, tmp_path: Path) -> None:
    lines = exported(worked, "clicks").decode().splitlines()
    second = json.loads(lines[1])
    outside = {**second, "clicks": [{"row": 400, "col": 3, "radius": 2}]}
    broken = {**second, "removed": {"size": [HEIGHT, WIDTH], "counts": [5]}}
    larger = {**json.loads(lines[2]), "height": 99}
    content = "\n".join(["cake", *map(json.dumps, (outside, broken)), lines[0], json.dumps(larger), "{}"])
    other = Page(make_folder(tmp_path / "other"))
    answer = other.put(content.encode())
    assert answer["objects"] == 1
    assert [line.split(" ", 4)[:4] for line in answer["skipped"]] == [
        ["line", "1:", "Expecting", "value:"],
        ["line", "6:", "'image'", "is"],
        ["a.png:", "line", "2:", "click"],
        ["a.png:", "line", "3:", "a"],
        ["sub/b.png:", "the", "image", "is"],
    ]
    assert other.masks()[0][1].sum() == worked.masks()[0][1].sum()


def test_session_of_a_predictor_becomes_an_object_with_its_clicks(page: Page, tmp_path: Path) -> None:
    image = np.asarray(Image.open(page.project.folder.root / "a.png").convert("RGB"))
    predictor = Predictor(Discs(), threshold=0.4)
    predictor.set_image(image)
    predictor.click(20, 20)
    mask = predictor.click(24, 30, radius=4.5).mask
    content = predictor.save_session(tmp_path / "one.json", image_name="a.png").read_bytes()
    assert twice(page, content) == [(1, 1, 0, []), (0, 0, 1, [])]
    ((name, found),) = page.masks()
    assert (name, np.array_equal(found, mask)) == ("object", True)
    (one,) = page.get()["objects"]
    assert one["num_clicks"] == 2
    other = content.replace(b'"a.png"', b'"sub/b.png"')
    (line,) = page.put(other)["skipped"]
    assert line.startswith("sub/b.png: the session was saved for an image with different pixels")


def work_zip(page: Page) -> bytes:
    work = page.project.work
    files = {path.relative_to(work.parent).as_posix(): path for path in sorted(work.rglob("*"))}
    return zipped({name: path.read_bytes() for name, path in files.items() if path.is_file()})


def test_all_work_is_imported_from_a_zip_of_its_folder(worked: Page, tmp_path: Path) -> None:
    other = Page(make_folder(tmp_path / "other"))
    assert twice(other, work_zip(worked)) == [(2, 3, 0, []), (0, 0, 3, [])]
    assert same(worked, other)
    assert exported(other, "clicks") == exported(worked, "clicks")


def test_event_log_alone_is_imported_with_its_class_numbers(worked: Page, tmp_path: Path) -> None:
    log = (worked.project.work / "pictures" / f"{worked.ids['a.png']}.jsonl").read_bytes()
    other = Page(make_folder(tmp_path / "other"))
    assert twice(other, log) == [(1, 2, 0, []), (0, 0, 2, [])]
    third = Page(make_folder(tmp_path / "third"))
    lines = log.splitlines(keepends=True)
    place = max(number for number, line in enumerate(lines) if b'"finish"' in line)
    lines[place] = lines[place].replace(b'"rle"', b'"cake"')
    answer = third.put(b"".join(lines))
    assert answer["objects"] == 1
    (line,) = answer["skipped"]
    assert line == f"line {place + 1}: 'rle' is missing; imported the objects as they were before this line"
    unknown = log.replace(b'"class_id":2', b'"class_id":7')
    fourth = Page(make_folder(tmp_path / "fourth"))
    (line,) = fourth.put(unknown)["skipped"]
    assert line.startswith("a.png: object 1: this folder has no class 7; import a zip of the whole .dct-seg")


# Other tools' files


def test_yolo_files_in_other_layouts_are_imported_and_bad_lines_are_reported(page: Page) -> None:
    corners = " ".join(f"{(x + 0.5) / WIDTH:.6f} {(y + 0.5) / HEIGHT:.6f}" for x, y in CORNERS)
    lines = [
        f"1 {corners}",
        "",
        "1 0.5 0.5 0.1 0.1",
        "1 0.1 0.2 0.3",
        f"7 {corners}",
        "1 12 10 20 10 20 20",
        "x",
    ]
    files = {
        "set/data.yaml": b"names: [bird, cat]\nnc: 2\n",
        "set/train/labels/b.txt": "\n".join(lines).encode(),
        "set/train/images/b.png": b"",
        "set/valid/labels/c.txt": f"0 {corners}".encode(),
    }
    answer = page.put(zipped(files))
    assert (answer["pictures"], answer["objects"]) == (1, 1)
    assert [line.split(": ", 1)[1][:12] for line in answer["skipped"]] == [
        "it is a box;",
        "the class mu",
        "unknown clas",
        "its points m",
        "the class mu",
        "no image in ",
    ]
    ((name, mask),) = page.masks("sub/b.png")
    assert (name, np.array_equal(mask, SQUARE)) == ("cat", True)


def png(values: NDArray[Any], palette: list[int] | None = None) -> bytes:
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def test_voc_without_a_label_map_has_its_twenty_classes_and_void(page: Page) -> None:
    by_class = np.where(SQUARE, 8, 0).astype(np.uint8)
    by_class[30:35, 5:50] = 255
    palette = voc_colors().ravel().tolist()
    for number, content in enumerate((png(by_class, palette), png(by_class), png(voc_colors()[by_class]))):
        answer = page.put(zipped({"VOC2012/SegmentationClass/a.png": content}))
        assert (answer["objects"], answer["known"], answer["skipped"]) == (
            int(number == 0),
            int(number > 0),
            [],
        )
    ((name, mask),) = page.masks()
    assert (name, np.array_equal(mask, SQUARE)) == ("cat", True)


def test_bad_voc_pngs_do_not_affect_the_others(page: Page) -> None:
    by_object = np.where(SQUARE, 1, 0).astype(np.uint8)
    by_object[30:32, 3:9] = 2  # no class there
    files = {
        "labelmap.txt": b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nowl:9,8,7::\n",
        "SegmentationClass/a.png": png(SQUARE[..., None] * np.array([9, 8, 7], np.uint8)),
        "SegmentationObject/a.png": png(by_object, voc_colors().ravel().tolist()),
        "SegmentationClass/sub/b.png": png(SQUARE[..., None] * np.array([1, 2, 3], np.uint8)),
        "SegmentationClass/c.png": b"cake",
    }
    answer = page.put(zipped(files))
    assert answer["objects"] == 1
    assert [line[:65] for line in answer["skipped"]] == [
        "a: object 2 has no class in SegmentationClass",
        "SegmentationClass/sub/b.png: the color 1,2,3 is not in labelmap.txt"[:65],
        "SegmentationClass/c.png: it must be a PNG, but it starts with other bytes"[:65],
    ]
    assert [name for name, _ in page.masks()] == ["owl"]


def test_mask_pngs_of_other_tools_belong_to_the_images_with_their_names(page: Page) -> None:
    files = {
        "masks/sub/b.png": png(SQUARE.astype(np.uint8) * 255),
        "masks/x.png": png(SQUARE),
        "y.png": PNG,
    }
    answer = page.put(zipped(files))
    assert (answer["pictures"], answer["objects"]) == (1, 1)
    assert [line.split(":")[0] for line in answer["skipped"]] == ["y.png", "masks/x"]
    assert [name for name, _ in page.masks("sub/b.png")] == ["cat"]
    (line,) = page.put(files["masks/x.png"])["skipped"]
    assert "open that image and import the PNG there" in line


def test_labelme_shapes_of_a_group_are_one_object(page: Page) -> None:
    hole = SQUARE.copy()
    hole[12:14, 14:16] = False
    mask = {
        "shape_type": "mask",
        "label": "cat",
        "points": [[12.0, 10.0], [29.0, 19.0]],
        "mask": base64.b64encode(png(hole[10:20, 12:30])).decode(),
    }
    far = {**POLYGON, "points": [[40, 30], [50, 30], [50, 35]], "group_id": 3}
    content = labelme({**mask, "group_id": 3}, far, mask, POLYGON)
    assert page.put(content)["objects"] == 3
    found = [one for _, one in page.masks()]
    assert np.array_equal(found[0][:25], hole[:25])
    assert found[0][30, 45]
    assert np.array_equal(found[1], hole)
    assert np.array_equal(found[2], SQUARE)


def test_category_ids_of_a_coco_file_survive_the_round_trip(page: Page) -> None:
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 0, "name": "kite"}]
    content = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 7, "category_id": one["id"], "segmentation": encode(np.roll(SQUARE, place))}
            for place, one in enumerate(categories)
        ],
        "categories": categories,
    }

    def ids() -> tuple[dict[str, int], list[int]]:
        coco = json.loads(exported(page, "coco"))
        names = {one["name"]: one["id"] for one in coco["categories"]}
        return names, [one["category_id"] for one in coco["annotations"]]

    wanted = {"cat": 19, "dog": 18, "person": 1, "kite": 0}
    assert page.put(json.dumps(content).encode())["objects"] == 3
    assert ids() == (wanted, [1, 18, 0])
    classes = [{"id": one.id, "name": one.name, "color": "#aabbcc"} for one in page.project.classes]
    page.ok(page.client.put(f"{API}/classes", json={"classes": classes}))
    assert ids()[0] == wanted
    page = page.restarted()
    assert ids()[0] == wanted
    other = {
        **content,
        "categories": [{"id": 5, "name": "dog"}, {"id": 18, "name": "cat"}],
        "annotations": [],
    }
    page.put(json.dumps(other).encode())  # the first file's ids stay
    assert ids()[0] == wanted


def test_folder_of_annotations_is_imported_from_the_command_line(worked: Page, tmp_path: Path) -> None:
    labels = tmp_path / "dataset" / "labels"
    labels.mkdir(parents=True)
    (labels.parent / "data.yaml").write_text("names: {0: cat}")
    (labels / "a.txt").write_text("0 0.2 0.2 0.8 0.2 0.8 0.8\n0 0.1 0.2\n")
    importer = Importer(worked.project, Segmenter(Discs))
    assert importer.import_path(labels.parent).splitlines() == [
        "1 object on 1 image imported, 0 already existed",
        "  skipped: labels/a.txt, line 2: the class must be followed by 3 or more pairs x y, got 2 numbers",
    ]
    with pytest.raises(FileNotFoundError, match=r"no file or folder .* to import"):
        importer.import_path(tmp_path / "nothing")


LOG = {"format": "dct-seg picture log", "version": 1, "picture": "a.png", "height": HEIGHT, "width": WIDTH}
CLICK = {"row": 5, "col": 5, "positive": True, "radius": 2}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({**LOG, "version": "x"}),
        json.dumps({**LOG, "height": None}),
        json.dumps({"image": "a.png", "clicks": [{**CLICK, "radius": float("inf")}]}),
        json.dumps({"image": "a.png", "clicks": [{**CLICK, "row": float("nan")}]}),
        json.dumps({"image": "a.png", "clicks": [CLICK], "start": {"size": [HEIGHT, WIDTH], "counts": "0"}}),
        json.dumps({"image": "\ud800", "clicks": [CLICK]}),
        label_studio({**BRUSH, "brushlabels": [["x"]]}),
        label_studio({**BRUSH, "brushlabels": [5]}),
        zipped({"data.yaml": b"a: &a [x]\nnames: [*a]", "labels/a.txt": b"0 0 0 1 0 1 1"}),
        zipped({"data.yaml": b"{", "labels/a.txt": b"0 0 0 1 0 1 1"}),
        zipped({"data.yaml": b"names: " + b"x" * 2**20}),
        zipped(
            {
                "classes.json": b'{"classes": [{"id": 1, "name": "x", "category_id": []}]}',
                "pictures/a.jsonl": b"",
            }
        ),
        zipped({"classes.json": b'{"classes": 5}', "pictures/a.jsonl": b"{}"}),
        zipped({"labelmap.txt": b"x", "SegmentationClass/a.png": PNG}),
    ],
)
def test_hostile_file_is_answered_and_changes_nothing(page: Page, content: bytes | str) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    answer = page.client.put(f"{API}/import/file", content=content, headers=headers)
    assert answer.status_code == 400 or (answer.status_code == 200 and answer.json()["skipped"]), answer.text
    assert page.get()["objects"] == []
