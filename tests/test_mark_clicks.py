"""Pixels inside drags and under clicks keep the label of their click, whatever the network predicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import tiny_net

from dct_seg import Click, ClickBatch, Predictor, SimulatedUser
from dct_seg.app.replay import read_click_log
from dct_seg.app.state import click_event
from dct_seg.clicks import mark_clicks
from dct_seg.interaction import interact
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.learned import DCTNetStatistics
from dct_seg.methods.postprocessing import REMOVED, MarkClicksStep, make_post_step
from dct_seg.session import click_of_record

NET = tiny_net(previous_mask=True)
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
PROBS = np.random.default_rng(1).random((60, 90), dtype=np.float32)
EVERYWHERE = np.s_[:, :]


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.ogrid[:60, :90]
    return np.asarray((rows - row) ** 2 + (cols - col) ** 2 < radius**2)


def test_drag_gets_its_label_except_where_the_edge_is_confident_of_the_other() -> None:
    clicks = [Click(20, 30, radius=8.0), Click(40, 70, positive=False, radius=6.0)]
    marked = MarkClicksStep()(IMAGE, PROBS, clicks, EVERYWHERE)
    positive = disc(20, 30, 6) | (disc(20, 30, 8) & (PROBS > 0.25))
    negative = disc(40, 70, 4.5) | (disc(40, 70, 6) & (PROBS < 0.75))
    assert (marked[positive] == 1).all()
    assert (marked[negative] <= REMOVED).all()
    assert np.array_equal(marked[~positive & ~negative], PROBS[~positive & ~negative])
    assert (~positive & disc(20, 30, 8)).any()


def test_confidence_of_1_marks_all_pixels_nearer_than_the_radius() -> None:
    click = Click(20, 30, radius=8.0)
    marked = make_post_step("mark_clicks", {"confidence": 1.0})
    assert marked is not None
    assert np.array_equal(marked(IMAGE, PROBS, [click], EVERYWHERE) != PROBS, disc(20, 30, 8))
    with pytest.raises(ValueError, match="share of mark_clicks must be at least 0 and at most 1, got -1"):
        make_post_step("mark_clicks", {"share": -1})


@pytest.mark.parametrize("click", [Click(20, 30), Click(20, 30, radius=9.0, predicted_radius=True)])
def test_click_without_a_drag_marks_the_pixel_under_it(click: Click) -> None:
    marked = MarkClicksStep()(IMAGE, PROBS, [click], EVERYWHERE)
    assert np.argwhere(marked != PROBS).tolist() == [[20, 30]]


@pytest.mark.parametrize("row", [0, 30.25, 59])
def test_result_does_not_depend_on_the_pixels_far_from_the_circles(row: float) -> None:
    """Only a rectangle around the circles is processed; at the image's edge it is cut off."""
    clicks = [Click(row, 1.5, radius=9.0), Click(12, 20, positive=False, radius=12.5)]
    marked = MarkClicksStep(confidence=1)(IMAGE, PROBS, clicks, EVERYWHERE)
    inside = disc(row, 1.5, 9) | disc(12, 20, 12.5)
    assert np.array_equal(marked != PROBS, inside & (marked != PROBS))
    assert np.isin(marked[inside].round(3), (0, 1)).all()


def test_background_outside_the_view_stays_exactly_zero() -> None:
    nothing = np.zeros_like(PROBS)
    marked = MarkClicksStep()(IMAGE, nothing, [Click(20, 30, positive=False, radius=4.0)], EVERYWHERE)
    assert not marked.any()


def test_predictor_marks_drags_and_not_predicted_radii() -> None:
    predictor = Predictor(DCTNetMethod(net=NET, zoom_size=32, first_size=64))
    plain = Predictor(DCTNetMethod(net=NET, zoom_size=32, first_size=64, after="none"))
    for one in (predictor, plain):
        one.set_image(IMAGE)
    found = predictor.predict([Click(20, 30, radius=8.0)])
    assert found.mask[disc(20, 30, 6)].all()
    found, without = (one.predict([Click(20, 30)]) for one in (predictor, plain))
    assert found.clicks[0].predicted_radius
    assert found.clicks[0].radius is not None
    elsewhere = ~disc(20, 30, 0.5)
    assert np.array_equal(found.probs[elsewhere], without.probs[elsewhere])


def test_clicks_passed_back_with_predicted_radii_give_the_same_mask() -> None:
    predictor = Predictor(DCTNetMethod(net=NET, zoom_size=32, first_size=64))
    predictor.set_image(IMAGE)
    found = predictor.predict([Click(20, 30), Click(50, 80, positive=False)])
    assert np.array_equal(predictor.predict(found.clicks).probs, found.probs)


def test_method_records_the_step_and_other_methods_do_not_use_it() -> None:
    assert DCTNetMethod(net=NET).options["after"] == "mark_clicks"
    assert "after" not in DCTNetStatistics(net=tiny_net(previous_mask=True)).options


def test_session_and_annotator_know_which_radii_were_predicted(tmp_path: Path) -> None:
    predictor = Predictor(DCTNetMethod(net=NET, zoom_size=32, first_size=64))
    predictor.set_image(IMAGE)
    found = predictor.predict([Click(20, 30), Click(50, 80, positive=False, radius=4.0)])
    predictor.save_session(tmp_path / "one.json")
    (logged,) = read_click_log(tmp_path / "one.json")
    loaded = predictor.load_session(tmp_path / "one.json")
    for clicks in (logged.clicks, loaded.clicks):
        assert clicks == found.clicks
        assert [click.predicted_radius for click in clicks] == [True, False]
    for click, given in zip(found.clicks, (False, True), strict=True):
        event = click_event(click)
        assert event["given"] is given
        assert click_of_record(event) == click


def test_tensors_are_marked_like_images() -> None:
    clicks = [Click(20, 30, radius=float(np.float32(np.sqrt(2)))), Click(40, 70, positive=False, radius=5.0)]
    before = torch.from_numpy(PROBS).logit()
    logits = mark_clicks(before[None, None], ClickBatch.from_clicks([clicks]), torch.ones(1, 2).bool())
    marked = MarkClicksStep()(IMAGE, PROBS, clicks, EVERYWHERE)
    assert np.array_equal((logits[0, 0] != before).numpy(), marked != PROBS)
    assert np.array_equal((logits[0, 0] > 0).numpy(), marked > 0.5)


def test_loop_marks_drags_before_the_next_click() -> None:
    mask = torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[:, 5:12, 4:16] = True
    user = SimulatedUser(mask, prompt=torch.tensor([True, False]))

    def never(image: torch.Tensor, clicks: ClickBatch, previous: torch.Tensor | None = None) -> torch.Tensor:
        return torch.full((2, 1, 20, 20), -1.0)

    steps = list(interact(never, torch.zeros(2, 3, 20, 20), user, 5, marks_clicks=True))
    found = [(step.logits[:, 0] > 0).flatten(1).sum(1).tolist() for step in steps]
    assert [one[1] for one in found] == [1, 2, 3, 4, 5]  # the pixel under each click
    assert [one[0] for one in found] == sorted(one[0] for one in found)
    assert found[-1][0] > 60  # discs of 84 pixels, all inside the object
    assert not (steps[-1].logits[0, 0] > 0)[~mask[0]].any()
