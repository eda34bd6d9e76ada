"""Strokes, lassos and clean-ups against loops over all pixels, and as steps of the annotator's log."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, HEIGHT, WIDTH, Discs, Page, make_folder

from dct_seg.app.painting import Paint, painted
from dct_seg.app.replay import read_click_log, replay
from dct_seg.app.working_image import WorkingImage
from dct_seg.rle import decode, decode_part, encode


def drawn(*rows: str) -> NDArray[np.bool_]:
    """A mask of text: '#' is object."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def distance_to_segment(row: int, col: int, start: tuple[float, ...], end: tuple[float, ...]) -> float:
    along = np.array(end[:2]) - start[:2]
    share = np.clip(np.dot(np.array([row, col]) - start[:2], along) / max(np.dot(along, along), 1e-12), 0, 1)
    return float(np.hypot(*(np.array([row, col]) - start[:2] - share * along)))


def test_brush_paints_each_pixel_whose_center_is_within_its_radius_of_the_stroke() -> None:
    points = ((5.3, 4.0, 3.5), (5.3, 20.7, 3.5), (18.0, 25.2, 3.5))
    found = painted(np.zeros((24, 30), bool), Paint("brush", points=points))
    for row, col in np.ndindex(24, 30):
        nearest = min(distance_to_segment(row, col, *pair) for pair in itertools.pairwise(points))
        if abs(nearest - 3.5) > 0.05:
            assert found[row, col] == (nearest < 3.5), (row, col)


def test_brush_is_wider_where_the_pen_was_pressed() -> None:
    found = painted(np.zeros((21, 40), bool), Paint("brush", points=((10, 5, 1.0), (10, 35, 6.0))))
    heights = found.sum(axis=0)
    assert (heights[5], heights[35]) == (3, 13)
    assert (np.diff(heights[5:35]) >= 0).all()


def test_eraser_removes_only_the_pixels_under_it() -> None:
    found = painted(np.ones((5, 5), bool), Paint("brush", positive=False, points=((2, 2, 1.0),)))
    assert np.array_equal(~found, drawn(".....", "..#..", ".###.", "..#..", "....."))


def test_stroke_that_leaves_the_image_is_clipped_at_its_edge() -> None:
    found = painted(np.zeros((4, 4), bool), Paint("brush", points=((-3, 1, 1.0), (1, 1, 1.0), (1, 30, 1.0))))
    assert np.array_equal(found, drawn("####", "####", ".###", "...."))


def test_stroke_too_long_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="draw it as several strokes"):
        painted(np.zeros((4, 4), bool), Paint("brush", points=((0, 0, 1.0), (1e6, 1e6, 1.0)) * 50))


def test_lasso_holds_the_pixels_whose_center_is_inside_by_the_even_odd_rule() -> None:
    corners = ((1.2, 1.0), (3.0, 17.5), (15.5, 14.0), (2.0, 8.0), (14.0, 2.5))
    found = painted(np.zeros((18, 20), bool), Paint("lasso", points=corners))
    for row, col in np.ndindex(18, 20):
        crossings = 0
        for (r0, c0), (r1, c1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            if (r0 <= row) != (r1 <= row):
                crossings += c0 + (row - r0) * (c1 - c0) / (r1 - r0) <= col
        assert found[row, col] == (crossings % 2 == 1), (row, col)


def test_holes_are_filled_and_bays_are_not() -> None:
    mask = drawn("######.", "#..#...", "#..#.#.", "####..#", "......#")
    filled = drawn("######.", "####...", "####.#.", "####..#", "......#")
    assert np.array_equal(painted(mask, Paint("fill_holes")), filled)


def test_specks_are_dropped_and_the_largest_part_is_kept() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:20, :20] = mask[30:33, 30:33] = True
    mask[38, 1] = True
    without_speck = mask.copy()
    without_speck[38, 1] = False
    assert np.array_equal(painted(mask, Paint("drop_specks")), without_speck)
    alone = np.zeros_like(mask)
    alone[:20, :20] = True
    assert np.array_equal(painted(mask, Paint("keep_largest")), alone)
    assert not painted(np.zeros((3, 3), bool), Paint("keep_largest")).any()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(make_folder(tmp_path / "pictures"))


def masks(page: Page, name: str = "a.png") -> dict[int, NDArray[np.bool_]]:
    """Masks of an image's finished objects in the COCO export, in order."""
    coco = page.client.get(f"{API}/export?format=coco").json()
    number = next(one["id"] for one in coco["images"] if one["file_name"] == name)
    found = [one["segmentation"] for one in coco["annotations"] if one["image_id"] == number]
    return {place: decode(rle) for place, rle in enumerate(found)}


def stroke(page: Page, *points: tuple[float, float, float], positive: bool = True) -> dict[str, Any]:
    return page.do("/paint", paint={"kind": "brush", "positive": positive, "points": points})


def test_stroke_corrects_a_draft_is_undone_and_survives_a_restart(page: Page) -> None:
    clicked = page.click(20, 20, radius=6)
    after = stroke(page, (20, 30, 4), (20, 40, 4))
    assert (after["draft"]["clicks"], after["mask"]["width"]) == ([], 44 - 14 + 1)
    assert page.do("/undo")["mask"] == clicked["mask"]
    assert page.do("/redo")["mask"] == after["mask"]
    page = page.restarted()
    assert page.get() == {**after, "revision": 4}
    page.finish()
    assert masks(page)[0][20, [14, 30, 44, 45]].tolist() == [True, True, True, False]


def test_next_click_starts_from_the_painted_mask(page: Page) -> None:
    page.click(20, 20, radius=6)
    stroke(page, (5, 50, 3))
    page.click(30, 10, radius=2)
    made = page.finish()["objects"][0]
    assert made["num_clicks"] == 2
    assert masks(page)[0][[20, 5, 30, 0], [20, 50, 10, 0]].tolist() == [True, True, True, False]


def test_stroke_begins_an_object_and_an_eraser_does_not(page: Page) -> None:
    refused = page.client.post(
        page.url("/paint"),
        json={"revision": 0, "paint": {"kind": "brush", "positive": False, "points": [[1, 1, 2]]}},
    )
    assert (refused.status_code, "no object to change" in refused.json()["error"]) == (400, True)
    stroke(page, (10, 10, 3))
    assert page.finish(class_id=2)["objects"][0]["area"] == 29  # a disc of radius 3


def test_clean_up_without_an_effect_is_not_a_step(page: Page) -> None:
    page.click(20, 20, radius=6)
    body = {"revision": 1, "paint": {"kind": "fill_holes"}}
    answer = page.client.post(page.url("/paint"), json=body)
    assert answer.json()["error"] == "this object has no holes"
    stroke(page, (20, 20, 2), positive=False)
    page.do("/paint", paint={"kind": "fill_holes"})
    assert masks_area(page) == masks_area_of_disc(6)


def masks_area(page: Page) -> int:
    return int(page.finish()["objects"][-1]["area"])


def masks_area_of_disc(radius: float) -> int:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    return int(((rows - 20) ** 2 + (cols - 20) ** 2 <= radius**2).sum())


@pytest.mark.parametrize(
    "paint",
    [
        {"kind": "brush", "points": [[1, 2]]},
        {"kind": "brush", "points": []},
        {"kind": "brush", "points": [[1, 2, 0]]},
        {"kind": "lasso", "points": [[1, 2, 3]]},
        {"kind": "fill_holes", "points": [[1, 2]]},
        {"kind": "spray", "points": [[1, 2]]},
        {"kind": "brush", "points": [[0, 0, 9], [1e6, 1e6, 9]] * 9},
    ],
)
def test_invalid_stroke_is_refused_and_changes_nothing(page: Page, paint: dict[str, Any]) -> None:
    answer = page.client.post(page.url("/paint"), json={"revision": 0, "paint": paint})
    assert answer.status_code in (400, 422), answer.text
    assert page.revision() == 0


def test_object_finished_at_a_high_threshold_keeps_it_when_reopened(page: Page) -> None:
    page.click(20, 20, radius=6)
    before = page.finish(threshold=0.8)["objects"]
    reopened = page.do("/objects/1/edit")
    assert reopened["draft"]["threshold"] == 0.8
    assert page.finish(threshold=reopened["draft"]["threshold"])["objects"] == before


def test_painted_object_is_reopened_with_its_steps_and_replayed_bit_identically(
    page: Page, tmp_path: Path
) -> None:
    page.click(20, 20, radius=7)
    stroke(page, (20, 25, 2.5), (22, 40, 4))
    page.click(10, 45, radius=5)
    page.do(
        "/paint", paint={"kind": "lasso", "positive": False, "points": [[0, 40], [0, 60], [12, 60], [12, 44]]}
    )
    page.do("/paint", paint={"kind": "keep_largest"})
    page.click(30, 20, radius=4)
    page.do("/clicks", click={"row": 30, "col": 25, "radius": None}, keep_outside=4.5)
    before = page.finish()["objects"]
    page.do("/objects/1/edit")
    assert page.finish()["objects"] == before
    page.click(5, 55, radius=3)
    page.finish()
    page.do("/clicks", click={"row": 35, "col": 50, "radius": 5}, keep_outside=2.5)
    page.finish()

    log = tmp_path / "clicks.jsonl"
    log.write_bytes(page.client.get(f"{API}/export?format=clicks").content)
    assert json.loads(log.read_text().splitlines()[0])["earlier"][1]["kind"] == "brush"
    image = WorkingImage.of(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    again = replay(Discs(), image, read_click_log(log))
    for place, mask in masks(page).items():
        assert np.array_equal(again[place], mask), place


def test_local_click_changes_the_mask_only_inside_its_circle(page: Page) -> None:
    page.click(20, 20, radius=6)
    after = page.do("/clicks", click={"row": 20, "col": 40, "radius": 9}, keep_outside=3.0)
    assert after["draft"]["clicks"] == []
    assert page.do("/undo")["draft"]["clicks"][0]["col"] == 20
    page.do("/redo")
    page.do("/clicks", click={"row": 20, "col": 20, "radius": 9, "positive": False}, keep_outside=2.0)
    made = page.finish()["objects"][0]
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    first, added, cleared = (
        (rows - 20) ** 2 + (cols - col) ** 2 <= radius**2 for col, radius in ((20, 6), (40, 3), (20, 2))
    )
    assert np.array_equal(masks(page)[0], (first | added) & ~cleared)
    assert made["num_clicks"] == 3


def test_local_click_without_a_draft_begins_an_object_inside_its_circle(page: Page) -> None:
    page.do("/clicks", click={"row": 20, "col": 20, "radius": 9}, keep_outside=3.0)
    assert page.finish()["objects"][0]["area"] == 29  # a disc of radius 3


def test_empty_circle_and_a_circle_as_a_stroke_are_refused(page: Page) -> None:
    click = {"row": 1, "col": 1}
    body = {"revision": 0, "click": click, "keep_outside": 0}
    assert page.client.post(page.url("/clicks"), json=body).status_code == 422
    circle = {"kind": "keep_outside", "points": [[1, 1, 2]]}
    answer = page.client.post(page.url("/paint"), json={"revision": 0, "paint": circle})
    assert answer.status_code == 422
    assert page.revision() == 0


def test_several_objects_are_merged_deleted_and_given_a_class_in_one_step(page: Page) -> None:
    for col in (8, 25, 45):
        page.click(20, col, radius=5)
        page.finish()
    before = page.get()
    merged = page.do("/objects/merge", ids=[2, 1])
    assert [(one["id"], one["area"]) for one in merged["objects"]] == [(2, 162), (3, 81)]
    assert page.do("/undo")["objects"] == before["objects"]
    changed = page.do("/objects", method="PATCH", ids=[1, 3], class_id=2)
    assert [one["class_id"] for one in changed["objects"]] == [2, 1, 2]
    assert [one["id"] for one in page.do("/objects", method="DELETE", ids=[3, 1])["objects"]] == [2]
    assert page.restarted().get()["objects"][0]["id"] == 2


def test_brief_response_contains_only_the_changed_objects(page: Page) -> None:
    for col in (8, 25):
        page.click(20, col, radius=5)
        page.finish()
    answer = page.do("/clicks", brief=True, click={"row": 20, "col": 45, "radius": 5})
    assert (answer["brief"], answer["objects"], answer["gone"]) == (True, [], [])
    assert [one["id"] for one in page.do("/finish", brief=True, class_id=1)["objects"]] == [3]
    undone = page.do("/undo", brief=True)
    assert (undone["objects"], undone["gone"]) == ([], [3])


@pytest.mark.parametrize("seed", range(4))
def test_mask_is_encoded_as_in_pycocotools_and_decoded_only_in_its_box(seed: int) -> None:
    from pycocotools import mask as coco_mask

    random = np.random.default_rng(seed)
    mask = np.zeros((17, 23), bool)
    mask[random.integers(0, 9) :, random.integers(0, 9) :] = random.random() < 0.5
    mask ^= random.random(mask.shape) < [0, 0.02, 0.5, 1][seed]
    mask[:, 4:7] |= seed == 1
    rle = encode(mask)
    assert rle["counts"] == coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    assert np.array_equal(decode(rle), mask)
    found = decode_part(rle)
    if not mask.any():
        assert found is None
        return
    assert found is not None
    box, part = found
    assert part.sum() == mask.sum()
    assert np.array_equal(mask[box], part)
    assert part.any(axis=0)[[0, -1]].all()
    assert part.any(axis=1)[[0, -1]].all()


@pytest.mark.parametrize("size", [(20, 5000), (5000, 20)])
def test_mask_one_pixel_thin_and_longer_than_any_picture_of_it_is_shown(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    Image.new("RGB", size[::-1]).save(root / "a.png")
    page = Page(root)
    ends = [[9.6, 100], [9.6, 4900], [10.4, 4900], [10.4, 100]]
    points = ends if size[1] > size[0] else [[col, row] for row, col in ends]
    page.do("/paint", paint={"kind": "lasso", "points": points})
    mask = page.get()["mask"]
    assert {mask["height"], mask["width"]} == {1, 4800}
