"""Clicks: a single one, and the padded batch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dct_seg import Click, ClickBatch

RAGGED = [
    [Click(1, 2, radius=3.0), Click(4.5, 6, positive=False)],
    [],
    [Click(7, 8)],
]


@pytest.fixture
def batch() -> ClickBatch:
    return ClickBatch.from_clicks(RAGGED)


def test_lists_of_clicks_come_back_as_they_went_in(batch: ClickBatch) -> None:
    assert batch.to_clicks() == RAGGED


def test_shorter_lists_are_padded_at_the_end(batch: ClickBatch) -> None:
    assert batch.labels.tolist() == [[1, 0], [-1, -1], [1, -1]]
    assert batch.num_clicks.tolist() == [2, 0, 1]
    assert batch.valid.tolist() == [[True, True], [False, False], [True, False]]
    assert (batch.coords.dtype, batch.labels.dtype, batch.radii.dtype) == (
        torch.float32,
        torch.int64,
        torch.float32,
    )


def test_click_without_a_drag_lacks_a_radius_and_padding_does_not(batch: ClickBatch) -> None:
    assert batch.lacks_radius.tolist() == [[False, True], [False, False], [True, False]]
    assert not batch.with_radii(torch.ones(3, 2)).lacks_radius.any()


def test_empty_batch_has_no_column() -> None:
    empty = ClickBatch.empty(3)
    assert len(empty) == 3
    assert empty.labels.shape == (3, 0)
    assert empty.to_clicks() == [[], [], []]
    assert ClickBatch.from_clicks([]).labels.shape == (0, 0)


def test_appending_adds_one_click_to_each_image_that_gets_one(batch: ClickBatch) -> None:
    longer = batch.append(
        torch.tensor([[9, 9], [5, 5], [0, 0]]), torch.tensor([0, 1, -1]), torch.tensor([2.0, math.nan, 0.0])
    )
    assert longer.to_clicks() == [
        [*RAGGED[0], Click(9, 9, positive=False, radius=2.0)],
        [Click(5, 5)],
        RAGGED[2],
    ]
    assert batch.to_clicks() == RAGGED


def test_scaling_keeps_a_click_on_the_same_spot_of_the_image() -> None:
    rows, cols = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
    image = torch.stack([rows, cols])[None]  # (1, 2, 8, 12): each pixel holds its position
    halved = F.interpolate(image, (4, 4), mode="area")[0]
    for row, col in [(0, 0), (1, 2), (3, 3)]:
        place = halved[:, row, col].tolist()  # where the small image's pixel lies in the large one
        small = ClickBatch.from_clicks([[Click(*place)]]).scaled((8, 12), (4, 4))
        assert small.coords[0, 0].tolist() == pytest.approx([row, col])


def test_scaled_radius_follows_the_geometric_mean_of_both_factors() -> None:
    scaled = ClickBatch.from_clicks([[Click(0, 0, radius=6.0), Click(0, 0)]]).scaled((10, 10), (40, 90))
    assert scaled.radii[0, 0] == pytest.approx(6 * math.sqrt(4 * 9))
    assert scaled.radii[0, 1].isnan()


def test_scaling_there_and_back_changes_nothing(batch: ClickBatch) -> None:
    back = batch.scaled((31, 57), (12, 90)).scaled((12, 90), (31, 57))
    assert torch.allclose(back.coords, batch.coords, atol=1e-5)
    assert torch.allclose(back.radii, batch.radii, equal_nan=True)


def test_shifting_by_minus_the_corner_is_what_a_crop_does(batch: ClickBatch) -> None:
    moved = batch.shifted(-1, -2)
    assert moved.coords[0].tolist() == [[0.0, 0.0], [3.5, 4.0]]
    assert torch.equal(moved.radii.nan_to_num(), batch.radii.nan_to_num())


def test_slice_holds_the_clicks_of_those_images(batch: ClickBatch) -> None:
    assert batch[1:].to_clicks() == RAGGED[1:]


def test_moving_to_a_device_keeps_the_clicks(batch: ClickBatch) -> None:
    assert batch.to("cpu").to_clicks() == RAGGED
    assert batch.to(torch.device("meta")).device.type == "meta"


@pytest.mark.parametrize(("row", "col"), [(math.nan, 0), (0, math.inf)])
def test_click_without_a_finite_position_is_refused(row: float, col: float) -> None:
    with pytest.raises(ValueError, match="a click needs a finite row and column"):
        Click(row, col)


@pytest.mark.parametrize("radius", [-1.0, math.nan, math.inf])
def test_radius_that_is_not_a_length_is_refused(radius: float) -> None:
    with pytest.raises(
        ValueError, match=rf"a radius must be a length in pixels \(0 or more\) or None, got {radius}"
    ):
        Click(0, 0, radius=radius)


def test_inconsistent_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs coords \(B, N, 2\).*got \(2, 3\), \(2, 3\) and \(2, 3\)"):
        ClickBatch(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))


def test_whole_number_coords_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"needs float coords and radii, got torch.int64 and torch.float32; call \.float\(\)"
    ):
        ClickBatch(
            torch.zeros(1, 1, 2, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1)
        )


@pytest.mark.parametrize(
    "number",
    [
        np.float16(30),
        np.float32(30),
        np.float64(30),
        np.int64(30),
        np.array(30.0),
        torch.tensor(30.0),
        torch.tensor(30),
    ],
)
def test_numbers_of_every_type_become_python_numbers(number: object) -> None:
    click = Click(number, number, radius=number)  # type: ignore[arg-type]
    assert click == Click(30.0, 30.0, radius=30.0)
    assert {type(value) for value in (click.row, click.col, click.radius)} == {float}
    assert hash(click) == hash(Click(30, 30, radius=30))
    assert ClickBatch.from_clicks([[click]]).coords.tolist() == [[[30.0, 30.0]]]


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("30", "'30'"),
        (None, "None"),
        (np.zeros(2), r"ndarray of shape \(2,\)"),
        (torch.zeros(1), r"Tensor of shape \(1,\)"),
    ],
)
def test_row_that_is_not_a_number_is_refused(number: object, shown: str) -> None:
    with pytest.raises(TypeError, match=f"a click's row must be one number of pixels, got {shown}"):
        Click(number, 3)  # type: ignore[arg-type]


def test_positive_accepts_booleans_and_0_or_1() -> None:
    for yes in (True, 1, 1.0, np.True_, np.int8(1), np.float32(1), torch.tensor(True), torch.tensor(1)):
        assert Click(1, 2, yes).positive is True  # type: ignore[arg-type]
    for no in (False, 0, 0.0, np.False_, np.int64(0), torch.tensor(0)):
        assert Click(1, 2, no).positive is False  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [-1, 2, 0.5, np.int64(-1), torch.tensor(-1), "yes", "1", None, math.nan, [True]]
)
def test_positive_that_is_not_a_boolean_is_refused(value: object) -> None:
    with pytest.raises(
        ValueError, match=r"positive must be True \(object\) or False \(background\), or 1 or 0, got"
    ):
        Click(1, 2, value)  # type: ignore[arg-type]
