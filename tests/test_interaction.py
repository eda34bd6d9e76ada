"""The loop: a click, a mask, the next click; its participants and its end."""

import math

import numpy as np
import pytest
import torch
from networks import tiny_net
from torch import Tensor

from dct_seg import Click, ClickBatch, Predictor, SimulatedUser, interact
from dct_seg.interaction import Interaction
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.simulation import NextClicks

IMAGE = torch.zeros(2, 3, 4, 5)


class Recorder:
    """Model that returns the number of clicks as logits and records its inputs."""

    def __init__(self) -> None:
        self.asked: list[tuple[ClickBatch, Tensor | None]] = []
        self.weight = torch.ones((), requires_grad=True)

    def __call__(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        self.asked.append((clicks, previous))
        return self.weight * clicks.num_clicks.float()[:, None, None, None].expand(-1, 1, *image.shape[2:])

    def fill_radii(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> ClickBatch:
        return clicks.with_radii(torch.where(clicks.lacks_radius, 7.0, clicks.radii))


class Script:
    """A source whose image b is done after ``ends[b]`` clicks."""

    def __init__(self, *ends: int) -> None:
        self.ends = torch.tensor(ends)
        self.seen: list[Tensor | None] = []

    def __call__(self, logits: Tensor | None, clicks: ClickBatch) -> NextClicks:
        self.seen.append(logits)
        done = clicks.num_clicks >= self.ends
        place = torch.full((len(clicks), 2), float(clicks.labels.shape[1]))
        radii = torch.where(done, 0.0, math.nan)
        return NextClicks(place, torch.where(done, -1, 1), radii, done, torch.ones(len(clicks)))


def play(model: Recorder, source: Script, max_clicks: int, **options: bool) -> list[Interaction]:
    return list(interact(model, IMAGE, source, max_clicks, **options))


def test_each_turn_adds_one_click_in_order() -> None:
    steps = play(Recorder(), Script(9, 9), 3)
    assert [s.index for s in steps] == [0, 1, 2]
    assert [s.clicks.num_clicks.tolist() for s in steps] == [[1, 1], [2, 2], [3, 3]]
    assert steps[-1].clicks.coords[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert steps[-1].logits[0, 0, 0, 0] == 3


def test_a_model_needs_no_fill_radii() -> None:
    def model(image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        return torch.zeros(len(image), 1, *image.shape[2:])

    steps = list(interact(model, IMAGE, Script(9, 9), 2))
    assert steps[-1].clicks.radii.isnan().all()


def test_radii_filled_in_by_the_model_are_kept() -> None:
    assert play(Recorder(), Script(9, 9), 2)[-1].clicks.radii.tolist() == [[7.0, 7.0], [7.0, 7.0]]


def test_previous_mask_is_the_probability_before_the_click() -> None:
    model = Recorder()
    play(model, Script(9, 9), 3)
    previous = [p for _, p in model.asked]
    assert previous[0] is None
    assert previous[1] is not None
    assert previous[2] is not None
    assert previous[1][0, 0, 0, 0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert previous[2][0, 0, 0, 0] == pytest.approx(1 / (1 + math.exp(-2)))


def test_source_sees_the_last_logits_and_nothing_before_the_first_click() -> None:
    source = Script(9, 9)
    play(Recorder(), source, 3)
    assert source.seen[0] is None
    assert [s[0, 0, 0, 0].item() for s in source.seen[1:] if s is not None] == [1, 2]


def test_loop_ends_when_no_image_needs_a_click() -> None:
    assert len(play(Recorder(), Script(2, 3), 20)) == 3


def test_image_that_is_done_keeps_its_place_and_gets_padding() -> None:
    last = play(Recorder(), Script(1, 3), 20)[-1]
    assert last.clicks.labels.tolist() == [[1, -1, -1], [1, 1, 1]]
    assert last.asked.done.tolist() == [True, False]


def test_every_rank_can_be_forced_to_make_equally_many_clicks() -> None:
    steps = play(Recorder(), Script(1, 1), 4, stop_when_done=False)
    assert len(steps) == 4
    assert steps[-1].clicks.num_clicks.tolist() == [1, 1]


def test_first_turn_happens_even_without_anything_to_click() -> None:
    steps = play(Recorder(), Script(0, 0), 4)
    assert len(steps) == 1
    assert steps[0].clicks.num_clicks.tolist() == [0, 0]


def test_no_gradient_flows_from_one_click_to_the_next() -> None:
    model, source = Recorder(), Script(9, 9)
    steps = play(model, source, 3)
    assert all(s.logits.requires_grad for s in steps)
    assert not any(p.requires_grad for _, p in model.asked if p is not None)
    assert not any(s.requires_grad for s in source.seen if s is not None)


def test_weights_may_change_between_two_clicks() -> None:
    model, answers = Recorder(), []
    for step in interact(model, IMAGE, Script(9, 9), 3):
        answers.append(step.logits[0, 0, 0, 0].item())
        with torch.no_grad():
            model.weight *= 10
    assert answers == [1, 20, 300]


def test_network_and_simulated_user_work_together() -> None:
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[0, 8:20, 8:20] = mask[1, 3:9, 20:30] = True
    user = SimulatedUser(mask, torch.zeros_like(mask), prompt="click")
    with torch.inference_mode():
        steps = list(interact(tiny_net(previous_mask=True), torch.rand(2, 3, 32, 32), user, 3))
    assert steps[0].clicks.labels.tolist() == [[1], [1]]
    assert not steps[-1].clicks.lacks_radius.any()
    assert steps[-1].logits.shape == (2, 1, 32, 32)


def test_predictor_and_batch_loop_take_the_same_step() -> None:
    """A method on one image and a model on a batch of one give the same result for the same clicks."""
    net = tiny_net(previous_mask=True).eval()
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = torch.zeros(1, 48, 64, dtype=torch.bool)
    mask[:, 10:30, 20:50] = True
    predictor = Predictor(DCTNetMethod(net=net, first_size=64, zoom_in=False, precision="float32"))
    predictor.set_image(image)
    batch = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] / 255
    given: list[Click] = []
    with torch.inference_mode():
        for step in interact(net, batch, SimulatedUser(mask, prompt="drag"), 3, marks_clicks=True):
            given = step.clicks.to_clicks()[0]
            probs = predictor.predict(given).probs
            np.testing.assert_allclose(probs, torch.sigmoid(step.logits)[0, 0].numpy(), atol=2e-5)
    assert len(given) == 3


def test_simulated_user_treats_a_mask_like_confident_logits() -> None:
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[:, 5:15, 5:20] = True
    pred = mask.roll(4, 2)
    user = SimulatedUser(mask, prompt="drag")
    clicks = ClickBatch.from_clicks([[Click(9, 12)]])
    by_mask, by_logits = user(pred, clicks), user(torch.where(pred, 20.0, -20.0), clicks)
    assert by_mask.coords.equal(by_logits.coords)
    assert by_mask.radii.equal(by_logits.radii)
