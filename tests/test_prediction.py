"""A prediction in the formats of other tools: SAM's triple, boxes, polygons, COCO, supervision."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from dct_seg.prediction import Prediction
from dct_seg.rle import decode, runs


def drawn(*rows: str) -> Prediction:
    mask = np.array([[c == "#" for c in row] for row in rows])
    return Prediction(mask, np.where(mask, np.float32(0.75), np.float32(0.25)), ())


EMPTY = drawn("...", "...")
RING = drawn("....", "###.", "#.#.", "###.")
TWO = drawn("#.#", "##.", "...")


def filled(polygons: list[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose center lies inside one of the polygons, by crossings to the left."""
    inside = np.zeros(size, bool)
    for row in range(size[0]):
        for col in range(size[1]):
            for line in polygons:
                ends = zip(line, np.roll(line, -1, axis=0), strict=True)
                crossed = [
                    x0 < col + 0.5 for (x0, y0), (_, y1) in ends if (y0 < row + 0.5) != (y1 < row + 0.5)
                ]
                inside[row, col] |= sum(crossed) % 2 == 1
    return inside


def test_box_is_left_top_right_bottom_with_exclusive_ends() -> None:
    assert RING.box == (0, 1, 3, 4)
    assert EMPTY.box is None


def test_polygon_runs_along_the_edges_of_pixels_and_fills_holes() -> None:
    assert [line.tolist() for line in RING.polygons()] == [[[0, 1], [3, 1], [3, 4], [0, 4]]]
    assert EMPTY.polygons() == []


def test_parts_that_touch_at_a_corner_are_two_polygons() -> None:
    assert sorted(len(line) for line in TWO.polygons()) == [4, 6]
    assert np.array_equal(filled(TWO.polygons(), (3, 3)), TWO.mask)


def test_polygons_reproduce_any_mask_without_holes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.tri(*rng.integers(2, 12, 2), dtype=bool)[:, ::-1] & (rng.random() < 0.9)
        mask[rng.integers(len(mask)), 0] = True
        found = filled(Prediction(mask, mask.astype(np.float32), ()).polygons(), mask.shape)
        assert np.array_equal(found, mask)


def test_tolerance_omits_corners() -> None:
    stairs = Prediction(np.tri(30, dtype=bool), np.tri(30, dtype=np.float32), ())
    assert len(stairs.polygons()[0]) == 62
    assert len(stairs.polygons(tolerance=1.0)[0]) < 9


def test_run_lengths_equal_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 9), (7, 3), (40, 60)):
        for share in (0.0, 0.02, 0.5, 1.0):
            mask = rng.random((height, width)) < share
            packed = Prediction(mask, mask.astype(np.float32), ()).rle()
            assert packed["counts"].encode() == coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
            assert np.array_equal(decode(packed), mask)
            assert np.array_equal(decode({"size": [height, width], "counts": runs(mask)}), mask)


def test_coco_annotation_has_box_area_and_mask() -> None:
    found = RING.to_coco(image_id=7, category_id=3)
    assert {k: found[k] for k in ("image_id", "category_id", "bbox", "area", "iscrowd")} == {
        "image_id": 7,
        "category_id": 3,
        "bbox": [0, 1, 3, 3],
        "area": 8,
        "iscrowd": 0,
    }
    assert coco_mask.area(found["segmentation"]) == 8
    assert EMPTY.to_coco()["bbox"] == [0, 0, 0, 0]


def test_prediction_unpacks_like_sam_s_result() -> None:
    masks, scores, logits = RING
    assert (masks.shape, scores.shape, logits.shape) == ((1, 4, 4), (1,), (1, 4, 4))
    assert np.array_equal(masks[np.argmax(scores)], RING.mask)
    assert scores[0] == pytest.approx(0.75)
    assert np.array_equal(logits > 0, masks)
    assert logits.max() == pytest.approx(np.log(3))


def test_score_of_an_empty_mask_is_0() -> None:
    assert EMPTY.score == 0.0


def test_logits_are_finite_where_the_probability_is_0_or_1() -> None:
    probs = np.array([[0.0, 1.0]], np.float32)
    assert Prediction(probs > 0.5, probs, ()).logits.tolist() == [[[-32.0, 32.0]]]


def test_supervision_accepts_box_and_mask() -> None:
    supervision: Any = pytest.importorskip("supervision")
    found = supervision.Detections(
        xyxy=np.array([RING.box], float), mask=RING.mask[None], class_id=np.array([0])
    )
    assert found.area.tolist() == [8]
    assert found.box_area.tolist() == [9]
