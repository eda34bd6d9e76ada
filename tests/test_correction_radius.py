"""Radii of clicks without a drag, from the mask that they correct."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from networks import tiny_net
from torch import Tensor

from dct_seg import Click, ClickBatch, SimulatedUser
from dct_seg.click_radii import GAP_SHARE, ROOM_SHARE, RadiusSource, radius_in_mask, shorten_predicted
from dct_seg.clicks import PADDING
from dct_seg.interaction import interact
from dct_seg.methods.correction_radius import (
    FIRST_REACH,
    correction_radius,
    shorten_predicted_radii,
    with_correction_radii,
)
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.simulation import Prompt

SIZE = (60, 90)


@pytest.mark.parametrize("positive", [True, False])
def test_radius_is_the_distance_to_the_nearest_right_pixel_or_the_border(positive: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(SIZE) < 0.02
        row, col = (int(rng.integers(size)) for size in SIZE)
        if mask[row, col] == positive:
            continue
        rows, cols = np.nonzero(mask == positive)
        room = min(np.hypot(rows - row, cols - col).min(), row + 1, col + 1, SIZE[0] - row, SIZE[1] - col)
        found = correction_radius(Click(row, col, positive), mask)
        assert found == pytest.approx(ROOM_SHARE * room, rel=1e-5)


@pytest.mark.parametrize("distance", [FIRST_REACH - 1, FIRST_REACH + 1, 3 * FIRST_REACH])
def test_edge_beyond_the_first_window_is_found(distance: int) -> None:
    mask = np.zeros((1000, 1000), bool)
    mask[500, 500 + distance] = True
    assert correction_radius(Click(500, 500), mask) == pytest.approx(ROOM_SHARE * distance)


def test_window_at_the_border_of_the_image_is_enough() -> None:
    mask = np.zeros((1000, 1000), bool)
    mask[900, 900] = True
    assert correction_radius(Click(4, 500), mask) == pytest.approx(ROOM_SHARE * 5)


def test_the_mask_tells_nothing_where_it_is_right_or_empty() -> None:
    mask = np.zeros(SIZE, bool)
    assert correction_radius(Click(5, 5), mask) is None
    mask[10:20, 10:20] = True
    assert correction_radius(Click(15, 15), mask) is None
    assert correction_radius(Click(40, 40, positive=False), mask) is None


def test_only_missing_radii_are_filled_in() -> None:
    mask = np.zeros(SIZE, bool)
    mask[:, :10] = True
    clicks = [Click(30, 5, radius=3.0), Click(30, 19), Click(30, 5)]
    filled = with_correction_radii(clicks, mask)
    assert [click.radius for click in filled] == [3.0, pytest.approx(9.0), None]
    assert [click.predicted_radius for click in filled] == [False, True, False]


def test_predicted_circles_end_halfway_to_a_click_with_the_other_label() -> None:
    clicks = [
        Click(0, 0, radius=50.0, predicted_radius=True),
        Click(0, 10, radius=4.0, predicted_radius=True),
        Click(0, 40, positive=False, radius=39.0),
        Click(0, 44, radius=None),
    ]
    radii = [click.radius for click in shorten_predicted_radii(clicks)]
    assert radii == [GAP_SHARE * 40, 4.0, 39.0, None]


def test_a_batch_gets_the_radii_of_its_last_clicks() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((4, *SIZE)) < 0.02
    clicks = [[Click(5, 5), Click(int(rng.integers(60)), int(rng.integers(90)))] for _ in masks]
    batch = ClickBatch.from_clicks(clicks)
    found = radius_in_mask(torch.from_numpy(masks), batch).tolist()
    wanted = [correction_radius(last, mask) for (_, last), mask in zip(clicks, masks, strict=True)]
    assert found == pytest.approx([math.nan if one is None else one for one in wanted], nan_ok=True)
    padding = ClickBatch(batch.coords, torch.full_like(batch.labels, PADDING), batch.radii)
    assert radius_in_mask(torch.from_numpy(masks), padding).isnan().all()


def test_padding_shortens_nothing() -> None:
    clicks = ClickBatch.from_clicks([[Click(0, 0, radius=9.0), Click(0, 4, positive=False, radius=2.0)]] * 2)
    labels = clicks.labels.clone()
    labels[1, 1] = PADDING
    batch = ClickBatch(clicks.coords, labels, clicks.radii)
    found = shorten_predicted(batch, torch.tensor([[True, False]] * 2)).radii
    assert found[:, 0].tolist() == [2.0, 9.0]
    empty = ClickBatch.empty(2)
    assert shorten_predicted(empty, empty.lacks_radius) is empty


class Square:
    """Model that predicts a fixed square, and 40 pixels for each missing radius."""

    def __init__(self) -> None:
        self.seen: list[ClickBatch] = []

    def fill_radii(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> ClickBatch:
        return clicks.with_radii(torch.where(clicks.lacks_radius, 40.0, clicks.radii))

    def __call__(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        self.seen.append(clicks)
        logits = torch.full((len(image), 1, *SIZE), -9.0)
        logits[:, :, 20:40, 20:40] = 9.0
        return logits


HALFWAY = GAP_SHARE * math.hypot(65 - 29, 25 - 29)
"""Half of the distance between the clicks of the next test."""


@pytest.mark.parametrize(
    ("prompt", "source", "wanted"),
    [
        ("click", "head", [40.0, 40.0]),
        ("click", "mask", [HALFWAY, ROOM_SHARE * 10]),
        ("drag", "mask", [5.0, 10.0]),
    ],
)
def test_loop_takes_later_radii_from_the_mask(
    prompt: Prompt, source: RadiusSource, wanted: list[float]
) -> None:
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[:, 21:30, 61:70] = True  # clicks at (25, 65) in the mask, then at (29, 29) in the predicted square
    model = Square()
    list(interact(model, torch.zeros(1, 3, *SIZE), SimulatedUser(mask, prompt=prompt), 2, radius_from=source))
    first, second = model.seen
    assert first.radii[0, 0].item() == (5.0 if prompt == "drag" else 40.0)
    assert second.radii[0].tolist() == pytest.approx(wanted)


def dctnet(**options: str) -> DCTNetMethod:
    return DCTNetMethod(net=tiny_net(previous_mask=True), precision="float32", **options)  # type: ignore[arg-type]


def test_method_takes_the_first_radius_from_the_head_and_later_ones_from_the_mask() -> None:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    mask = np.zeros(SIZE, np.float32)
    mask[:, 20:] = 0.9
    ours, head = dctnet(), dctnet(radius_from="head")
    ours.reset(image), head.reset(image)
    first = [Click(30, 40)]
    assert ours.fill_radii(first, None) == head.fill_radii(first, None)
    (_, later), (_, published) = (one.fill_radii([*first, Click(30, 10)], mask) for one in (ours, head))
    assert later.radius == pytest.approx(ROOM_SHARE * 10) != published.radius
    assert later.predicted_radius
    assert published.predicted_radius


def test_method_shortens_predicted_radii_at_prediction_and_keeps_the_clicks() -> None:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    ours, head = dctnet(), dctnet(radius_from="head")
    ours.reset(image), head.reset(image)
    clicks = [Click(30, 40, radius=30.0, predicted_radius=True), Click(30, 60, positive=False, radius=5.0)]
    shortened = shorten_predicted_radii(clicks)
    assert shortened != clicks
    found, wanted, other = (
        one.predict(image, some, None) for one, some in ((ours, clicks), (head, shortened), (head, clicks))
    )
    assert np.array_equal(found, wanted)
    assert not np.array_equal(found, other)
    assert ours.fill_radii(clicks, None) == clicks  # a session replays them in the same order


def test_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"radius_from.*user"):
        dctnet(radius_from="user")
