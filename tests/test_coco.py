"""COCO JSON of other tools: fields are checked, and each bad record is named."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from dct_seg import rle
from dct_seg.data.datasets import open_dataset
from dct_seg.data.segmentation import from_segmentation

SQUARE = [10, 10, 40, 10, 40, 30, 10, 30]
SIZE = (60, 80)


def annotation(segmentation: Any, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation, "area": 600, **fields}


def record(name: str = "a.png", number: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1], **fields}


def write(root: Path, annotations: list[Any], images: list[Any] | None = None) -> Path:
    (root / "images").mkdir(exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(root / "images" / "a.png")
    content = {"images": images or [record()], "annotations": annotations, "categories": []}
    (root / "i.json").write_text(json.dumps(content))
    return root


def pixels(root: Path) -> list[tuple[str, int]]:
    return [(sample.name, int(sample.mask.sum())) for sample in open_dataset("COCO", root)]


@pytest.mark.parametrize("area", [0, None, 0.4, -3, "600", 10**9])
def test_area_is_counted_and_never_read(tmp_path: Path, area: Any) -> None:
    write(
        tmp_path, [annotation([SQUARE], area=area), annotation([[1, 1, 2, 1, 2, 2, 1, 2]], id=2, area=area)]
    )
    assert pixels(tmp_path) == [("images/a.png#1", 600), ("images/a.png#2", 1)]


BAD: list[tuple[str, Any, str]] = [
    ("a flat polygon", SQUARE, r"its polygon is not nested; COCO writes \[\[x, y"),
    ("pairs", [[[10, 10], [40, 10], [40, 30]]], r"its polygon is a list of \[x, y\] pairs"),
    ("a line", [[1, 1, 2, 2]], "none of its polygons has three corners"),
    ("an odd count", [[1, 1, 2, 2, 3, 3, 4]], "an odd count, or a number not finite"),
    ("NaN", [[1, 1, 2, 2, 3, float("nan")]], "an odd count, or a number not finite"),
    ("text", [["a", 1, 2, 2, 3, 3]], "a corner that is not a number"),
    ("nothing", [], "it has no segmentation"),
    ("null", None, "it has no segmentation"),
    ("outside", [[500, 500, 510, 500, 510, 510]], "its mask is empty"),
    (
        "runs of another size",
        {"size": [80, 60], "counts": [0, 100, 4700]},
        r"have size \[80, 60\], but the image",
    ),
    ("runs without a size", {"counts": [4800]}, "have size None"),
    ("runs too long", {"size": [60, 80], "counts": [0, 100, 9999]}, "runs that do not add up to it"),
    ("no runs", {"size": [60, 80]}, "runs that do not add up to it"),
    ("empty runs", {"size": [60, 80], "counts": [4800]}, "its mask is empty"),
    ("broken packed runs", {"size": [60, 80], "counts": "~~"}, "run-length encoding"),
]


@pytest.mark.parametrize(("segmentation", "reason"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_annotation_is_named_with_its_file_and_the_others_stay(
    tmp_path: Path, segmentation: Any, reason: str
) -> None:
    bad = annotation(segmentation, id=17)
    write(tmp_path, [annotation([SQUARE]), bad, annotation([SQUARE], id=3)])
    with pytest.warns(
        UserWarning, match=rf"i\.json: 1 annotations.*annotation 17 of images/a\.png: .*{reason}"
    ) as caught:
        assert pixels(tmp_path) == [("images/a.png#1", 600), ("images/a.png#3", 600)]
    assert all("\n" not in str(one.message) for one in caught)
    write(tmp_path, [bad])
    with pytest.raises(
        ValueError, match=rf"i\.json has no usable annotation.*annotation 17 of images/a\.png: .*{reason}"
    ):
        open_dataset("COCO", tmp_path)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            record(number=2, height=None),
            "annotation 2 of a.png: the record of a.png has height None and width 80",
        ),
        (record(number=2, width=-5), "annotation 2 of a.png: the record of a.png has height 60 and width -5"),
        ({"id": 2, "height": 60, "width": 80}, "annotation 2 of image 2: that record has no file_name"),
        (record("zz.png", 2), "annotation 2 of images/zz.png: no file"),
        (record("broken.png", 2), "annotation 2 of images/broken.png: .* cannot be decoded"),
        (
            record("small.png", 2),
            "annotation 2 of images/small.png: images/small.png is 8x6 but its record is 80x60",
        ),
        (record(number=7), "annotation 2 has no image: none has the id 2"),
        ("no record", "annotation 2 has no image"),
    ],
)
def test_bad_image_is_named_at_the_start_and_the_others_stay(tmp_path: Path, image: Any, reason: str) -> None:
    write(tmp_path, [annotation([SQUARE]), annotation([SQUARE], id=2, image_id=2)], [record(), image])
    (tmp_path / "images" / "broken.png").write_bytes(b"nonsense")
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "small.png")
    with pytest.warns(UserWarning, match=rf"i\.json: 1 annotations or images are skipped; first: {reason}"):
        assert pixels(tmp_path) == [("images/a.png#1", 600)]


def test_two_images_of_one_id_are_named(tmp_path: Path) -> None:
    objects = [annotation([SQUARE]), annotation([SQUARE], id=2, image_id=2)]
    write(tmp_path, objects, [record(), record(number=2), record("b.png", 2)])
    with pytest.warns(UserWarning, match="annotation 2 has image_id 2, which 2 images share"):
        assert pixels(tmp_path) == [("images/a.png#1", 600)]


def test_file_of_another_program_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation([SQUARE])]) / "i.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert pixels(tmp_path) == [("images/a.png#1", 600)]


def test_file_whose_images_have_no_usable_id_is_reported(tmp_path: Path) -> None:
    write(tmp_path, [annotation([SQUARE])], [record(number=1.0)])
    with pytest.raises(ValueError, match="lists no image with a file_name and a whole number as id"):
        open_dataset("COCO", tmp_path)


def test_first_image_may_be_the_missing_one(tmp_path: Path) -> None:
    write(tmp_path, [annotation([SQUARE], image_id=2)], [record("zz.png", 1), record(number=2)])
    assert pixels(tmp_path) == [("images/a.png#1", 600)]


def test_absolute_file_name_inside_the_folder_is_found(tmp_path: Path) -> None:
    write(tmp_path, [annotation([SQUARE])], [record(str(tmp_path / "images" / "a.png"))])
    assert pixels(tmp_path) == [("images/a.png#1", 600)]


def test_page_of_a_tiff_is_an_image(tmp_path: Path) -> None:
    write(tmp_path, [annotation([SQUARE])], [record("stack.tif#2")])
    pages = [Image.new("L", SIZE[::-1], shade) for shade in (10, 20)]
    pages[0].save(tmp_path / "images" / "stack.tif", save_all=True, append_images=pages[1:])
    data = open_dataset("COCO", tmp_path)
    assert [one.name for one in data] == ["images/stack.tif#2#1"]
    assert (data[0].image == 20).all()


def test_annotations_with_the_same_id_have_different_names(tmp_path: Path) -> None:
    one = {"image_id": 1, "segmentation": [SQUARE]}
    write(tmp_path, [one, {**one, "id": 5}, {**one, "id": 5}, {**one, "id": "x"}, "no record"])
    with pytest.warns(UserWarning, match="annotation number 4 is not a JSON object"):
        names = [name for name, _ in pixels(tmp_path)]
    assert names == ["images/a.png#n0", "images/a.png#n1", "images/a.png#n2", "images/a.png#x"]


def test_good_file_gives_no_warning(tmp_path: Path) -> None:
    write(tmp_path, [annotation([SQUARE]), annotation([SQUARE], id=2, iscrowd=1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(tmp_path) == [("images/a.png#1", 600)]


@pytest.mark.parametrize(
    "polygon",
    [
        [-30, -10, 60, 20, 30, 90],
        [20.5, 3.25, 70.75, 3.5, 79, 59, 1, 58.5],
        [-70, 30, 40, -50, 150, 30, 40, 110],
    ],
)
def test_polygon_beyond_the_edge_is_clipped_without_distortion(polygon: list[float]) -> None:
    wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], *SIZE))).astype(bool)
    assert (rle.decode(from_segmentation([polygon], SIZE)) == wanted).all()


def test_corner_a_billion_pixels_away_costs_nothing() -> None:
    far = rle.decode(from_segmentation([[20, 10, 1e9, 10, 1e9, 1e9, 20, 1e9]], SIZE))
    assert far[10:, 20:].all()
    assert far.sum() == 50 * 60


def test_box_of_a_mask_is_tight() -> None:
    rng = np.random.default_rng(0)
    for share in (0.002, 0.05, 0.6):
        mask = rng.random((40, 50)) < share
        mask[:, :9] = mask[:3] = False
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found = rle.decode_part(rle.encode(mask))
        assert found is not None
        (box_rows, box_cols), part = found
        assert (box_rows, box_cols) == (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
        assert (part == mask[box_rows, box_cols]).all()
        assert rle.area(rle.encode(mask)) == mask.sum()
    assert rle.decode_part(rle.encode(np.zeros((3, 4), bool))) is None
