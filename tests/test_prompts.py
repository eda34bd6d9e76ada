"""Prompts in the format of Segment Anything, so that code for its predictor works with ours."""

from typing import Any

import numpy as np
import pytest
from test_predictor import IMAGE, Counting, assert_same, network

from dct_seg import Click, Predictor
from dct_seg.methods.base import Method

NAN = float("nan")


def predictor(method: Method | None = None, **options: Any) -> Predictor:
    made = Predictor(method or network())
    made.set_image(IMAGE, **options)
    return made


def test_points_in_x_y_give_the_masks_of_clicks() -> None:
    clicks = predictor().predict([Click(20, 30, radius=6.0), Click(5, 9, positive=False)])
    points = predictor().predict(
        point_coords=np.array([[30, 20], [9, 5]]), point_labels=np.array([1, 0]), point_radii=[6.0, NAN]
    )
    assert_same(points, clicks)


def test_code_written_for_sam_runs_with_the_class_swapped() -> None:
    ours = predictor()
    masks, scores, logits = ours.predict(
        point_coords=np.array([[30, 20]]), point_labels=np.array([1]), multimask_output=True
    )
    best = logits[np.argmax(scores)][None]
    masks, _, _ = ours.predict(
        point_coords=np.array([[30, 20], [9, 5]]),
        point_labels=np.array([1, 0]),
        mask_input=best,
        multimask_output=False,
    )
    assert masks.shape == (1, 40, 56)
    assert masks.dtype == bool


def test_mask_input_is_the_mask_that_the_last_click_corrects() -> None:
    clicks = [Click(20, 30, radius=6.0), Click(5, 9, positive=False, radius=3.0)]
    one_by_one = predictor(Counting())
    first = one_by_one.predict(clicks[:1])
    method = Counting()
    at_once = predictor(method).predict(clicks, mask_input=first.logits)
    assert method.calls == 1
    assert np.allclose(at_once.probs, one_by_one.predict(clicks).probs, atol=1e-6)


def test_mask_input_in_sams_frame_is_scaled_to_the_image() -> None:
    frame = np.full((1, 256, 256), -32.0, np.float32)
    frame[:, : 256 * 40 // 56, :128] = 32.0  # the left half; below row 182 the frame is empty
    found = predictor(Counting()).predict([Click(0, 0, radius=0.0)], mask_input=frame)
    assert (found.probs[:, :26] == 0.5).all()  # Counting halves the mask before
    assert (found.probs[:, 30:] == 0).all()


def test_box_is_a_drag_from_its_center_to_its_nearest_side() -> None:
    found = predictor().predict(box=np.array([[10, 5, 40, 25]]))
    assert found.clicks == (Click(15.0, 25.0, radius=10.0),)


def test_box_comes_before_the_points() -> None:
    found = predictor().predict([[3, 4]], [0], [10, 5, 40, 25], point_radii=[2.0])
    assert found.clicks == (Click(15.0, 25.0, radius=10.0), Click(4.0, 3.0, False, 2.0))


def test_label_minus_1_is_padding() -> None:
    found = predictor().predict([[30, 20], [0, 0]], [1, -1], point_radii=[5.0, NAN])
    assert found.clicks == (Click(20.0, 30.0, radius=5.0),)


@pytest.mark.parametrize("coords", [[], np.zeros(0), np.zeros((0, 2))])
@pytest.mark.parametrize("others", [{}, {"point_labels": []}, {"point_labels": [], "point_radii": []}])
def test_empty_coordinates_are_no_clicks(coords: Any, others: dict[str, Any]) -> None:
    assert predictor().predict(coords, **others).clicks == ()
    boxed = predictor().predict(coords, box=[10, 5, 40, 25], **others)
    assert boxed.clicks == (Click(15.0, 25.0, radius=10.0),)


def test_clicks_may_come_from_a_generator() -> None:
    found = predictor().predict(click for click in [Click(20, 30, radius=5.0)])  # type: ignore[arg-type]
    assert found.clicks == (Click(20, 30, radius=5.0),)


def test_bgr_image_is_converted_to_rgb() -> None:
    swapped = Predictor(network())
    swapped.set_image(IMAGE[..., ::-1], "BGR")
    assert_same(swapped.click(20, 30, radius=6.0), predictor().click(20, 30, radius=6.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"point_coords": [[1, 2]]}, "point_coords needs point_labels"),
        ({"point_coords": [[1, 2, 3]], "point_labels": [1]}, r"must be \(N, 2\) of \(x, y\), got \(1, 3\)"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, "1 points need as many labels"),
        ({"point_coords": [[1, 2]], "point_labels": [2]}, r"padding, got \[2.0\]"),
        ({"point_coords": [["a", 2]], "point_labels": [1]}, "point_coords must be an array of numbers"),
        ({"point_labels": [1]}, "need point_coords, got none"),
        ({"point_coords": [], "point_labels": [1]}, "0 points need as many labels"),
        ({"point_coords": np.zeros((0, 3)), "point_labels": []}, r"of \(x, y\), got \(0, 3\)"),
        ({"point_coords": [Click(1, 2)], "point_labels": [1]}, "labels and radii already"),
        ({"point_coords": [[99, 2]], "point_labels": [1]}, r"click \(2, 99\) lies outside"),
        ({"box": [5, 5, 5, 9]}, "left < right"),
        ({"box": [1, 2, 3]}, "a box must be"),
        ({"point_coords": [Click(1, 2)], "mask_input": np.zeros((1, 9, 9))}, r"must be \(1, 40, 56\)"),
        ({"point_coords": [Click(1, 2)], "mask_input": np.zeros((40, 56), bool)}, r"set_image\(start=\)"),
        ({"point_coords": [Click(1, 2)], "mask_input": np.zeros((40, 56), np.uint8)}, r"set_image\(start=\)"),
        ({"point_coords": [Click(1, 2)], "mask_input": np.full((40, 56), NAN)}, "mask_input contains NaN"),
        ({"point_coords": Click(1, 2)}, r"needs a list of clicks, got one Click; write predict\(\[Click"),
        ({"point_coords": [Click(1, 2), (3, 4)]}, r"may contain only Click, got \(3, 4\) as number 1"),
    ],
)
def test_bad_prompt_is_reported_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        predictor().predict(**given)
    assert "\n" not in str(caught.value)


def test_start_mask_is_corrected_by_the_first_click_and_returned_without_clicks() -> None:
    start = np.zeros((40, 56), bool)
    start[10:20, 10:20] = True
    ours = predictor(Counting(), start=start)
    assert np.array_equal(ours.predict([]).mask, start)
    assert (ours.click(0, 0, radius=7.0).probs[10:20, 10:20] == 0.5).all()  # Counting halves the mask before
    assert np.array_equal(ours.undo().mask, start)
    start[:] = False
    assert ours.predict([]).area == 100  # its own copy
    ours.set_image(IMAGE)
    assert not ours.predict([]).mask.any()


@pytest.mark.parametrize("start", [np.zeros((9, 9), bool), np.zeros((40, 56), np.uint8), "mask.png"])
def test_start_of_another_size_or_type_is_refused(start: Any) -> None:
    with pytest.raises(ValueError, match=r"start must be a bool array of the image's size \(40, 56\)"):
        predictor(start=start)
