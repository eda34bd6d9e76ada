"""Losses: computed by hand, without ignored pixels, and averaged over the unfinished images of a batch."""

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import write_plugin
from torch import Tensor

from dct_seg import Click, ClickBatch
from dct_seg.training.losses import (
    LOSSES,
    LossSum,
    binary_cross_entropy,
    click_weights,
    dice,
    mean_of_unfinished,
    normalized_focal,
)


def probs_to_logits(*probs: float) -> Tensor:
    return torch.tensor([[probs]]).logit()  # (1, 1, len)


MASK = torch.tensor([[[True, False, True]]])
ALL = torch.ones_like(MASK)
LOGITS = probs_to_logits(0.9, 0.2, 0.5)
WRONG = (0.1, 0.2, 0.5)  # how far each is from the truth


def test_cross_entropy_is_the_mean_over_valid_pixels() -> None:
    wanted = -sum(math.log(1 - w) for w in WRONG) / 3
    assert binary_cross_entropy(LOGITS, MASK, ALL).tolist() == pytest.approx([wanted])


def test_focal_weights_are_scaled_to_sum_to_the_number_of_pixels() -> None:
    weights = [w**2 for w in WRONG]
    wanted = -sum(a * math.log(1 - w) for a, w in zip(weights, WRONG, strict=True)) / sum(weights)
    assert normalized_focal(LOGITS, MASK, ALL).tolist() == pytest.approx([wanted])


def test_focal_loss_with_gamma_0_is_cross_entropy() -> None:
    torch.testing.assert_close(
        normalized_focal(LOGITS, MASK, ALL, gamma=0.0), binary_cross_entropy(LOGITS, MASK, ALL)
    )


def test_focal_loss_looks_at_the_hard_pixels() -> None:
    logits = probs_to_logits(0.999, 0.001, 0.5)
    assert normalized_focal(logits, MASK, ALL) > 2.5 * binary_cross_entropy(logits, MASK, ALL)


def test_dice_is_one_minus_twice_the_overlap_over_the_sum() -> None:
    wanted = 1 - (2 * (0.9 + 0.5) + 1) / ((0.9 + 0.2 + 0.5) + 2 + 1)
    assert dice(LOGITS, MASK, ALL).tolist() == pytest.approx([wanted])


@pytest.fixture(params=LOSSES.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def get(name: str) -> Any:
    """Loss with this name; one that reads clicks gets none."""
    loss = LOSSES.get(name)
    if "clicks" not in inspect.signature(loss).parameters:
        return loss
    return lambda logits, mask, valid: loss(logits, mask, valid, clicks=ClickBatch.empty(len(mask)))


class TestContract:
    """Contract of every registered loss."""

    def test_ignored_pixels_do_not_count(self, name: str) -> None:
        loss = get(name)
        valid = torch.tensor([[[True, True, False]]])
        kept = loss(LOGITS[..., :2], MASK[..., :2], ALL[..., :2])
        torch.testing.assert_close(loss(LOGITS, MASK, valid), kept)
        torch.testing.assert_close(
            loss(LOGITS, ~MASK | MASK.roll(1), valid), loss(LOGITS, (~MASK | MASK.roll(1)) & valid, valid)
        )

    def test_each_image_has_the_same_loss_as_alone(self, name: str) -> None:
        loss, generator = get(name), torch.Generator().manual_seed(0)
        logits = torch.randn(3, 4, 5, generator=generator)
        mask, valid = (torch.rand(3, 4, 5, generator=generator) < share for share in (0.4, 0.8))
        together = loss(logits, mask, valid)
        assert together.shape == (3,)
        for i in range(3):
            torch.testing.assert_close(
                together[i : i + 1], loss(logits[i : i + 1], mask[i : i + 1], valid[i : i + 1])
            )

    def test_right_prediction_has_a_small_loss_and_a_wrong_one_a_large_one(self, name: str) -> None:
        loss, sure = get(name), torch.where(MASK, 12.0, -12.0)
        assert loss(sure, MASK, ALL) < 1e-3
        assert loss(-sure, MASK, ALL) > 0.5

    @pytest.mark.parametrize("logit", [0.0, 60.0, -60.0])
    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_value_and_gradient_are_finite_at_the_extremes(
        self, name: str, logit: float, share: float
    ) -> None:
        logits = torch.full((2, 3, 3), logit, requires_grad=True)
        valid = torch.tensor([True, False])[:, None, None].expand(
            2, 3, 3
        )  # the second image is fully ignored
        value = get(name)(logits, torch.full((2, 3, 3), share > 0), valid)
        value.sum().backward()
        assert value.isfinite().all()
        assert value[1] == 0
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert (logits.grad[1] == 0).all()

    def test_gradient_points_toward_the_mask(self, name: str) -> None:
        logits = LOGITS.clone().requires_grad_()
        get(name)(logits, MASK, ALL).sum().backward()
        assert logits.grad is not None
        assert ((logits.grad < 0) == MASK).all()


def batch(size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask, ignore = (torch.rand(size, 4, 5, generator=generator) < share for share in (0.5, 0.1))
    return torch.randn(size, 1, 4, 5, generator=generator), mask, ignore


def weighted_sum(
    losses: dict[str, float], logits: Tensor, mask: Tensor, ignore: Tensor, finished: Tensor
) -> Tensor:
    """The loss of a batch as training adds it up."""
    return mean_of_unfinished(LossSum(losses)(logits, mask, ~ignore, ClickBatch.empty(len(mask))), finished)


def test_losses_are_added_by_their_weights() -> None:
    logits, mask, ignore = batch()
    none = torch.zeros(3, dtype=torch.bool)
    wanted = (
        2 * binary_cross_entropy(logits[:, 0], mask, ~ignore).mean()
        + 0.5 * dice(logits[:, 0], mask, ~ignore).mean()
    )
    torch.testing.assert_close(weighted_sum({"bce": 2.0, "dice": 0.5}, logits, mask, ignore, none), wanted)


def test_finished_images_have_weight_0_but_stay_in_the_graph() -> None:
    logits, mask, ignore = batch()
    logits.requires_grad_()
    finished = torch.tensor([False, True, False])
    loss = weighted_sum({"bce": 1.0}, logits, mask, ignore, finished)
    torch.testing.assert_close(loss, binary_cross_entropy(logits[:, 0], mask, ~ignore)[~finished].mean())
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[0] != 0).any()


def test_batch_of_finished_images_costs_0_and_has_a_gradient_of_zeros() -> None:
    logits, mask, ignore = batch()
    logits.requires_grad_()
    loss = weighted_sum({"bce": 1.0, "dice": 1.0}, logits, mask, ignore, torch.ones(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits, mask, ignore = batch()
    assert (
        weighted_sum({"bce": 1.0}, logits.bfloat16(), mask, ignore, torch.zeros(3, dtype=torch.bool)).dtype
        == torch.float32
    )


def test_unknown_loss_is_refused() -> None:
    logits, mask, ignore = batch()
    with pytest.raises(
        ValueError,
        match=r"unknown loss 'BCE'; did you mean 'bce'\? known: bce, click_bce, dice, normalized_focal",
    ):
        weighted_sum({"BCE": 1.0}, logits, mask, ignore, ignore[:, 0, 0])


def test_option_of_a_loss_is_given_next_to_its_weight() -> None:
    logits, mask, ignore = batch()
    wanted = 0.5 * normalized_focal(logits[:, 0], mask, ~ignore, gamma=1.0)
    loss = LossSum({"normalized_focal": {"weight": 0.5, "gamma": 1.0}})
    torch.testing.assert_close(loss(logits, mask, ~ignore, ClickBatch.empty(3)), wanted)


def test_option_that_a_loss_does_not_take_is_refused_with_those_it_takes() -> None:
    with pytest.raises(ValueError, match="loss 'dice' has no option gamma; it has weight"):
        LossSum({"dice": {"gamma": 1.0}})
    with pytest.raises(ValueError, match="loss 'normalized_focal' has no option gama; it has weight, gamma"):
        LossSum({"normalized_focal": {"gama": 1.0}})


POWER = """
def Power(logits, mask, valid, *, power=2.0):
    return (((logits.sigmoid() - mask.float()).abs() ** power) * valid).mean((1, 2))
"""


def test_third_party_s_loss_is_used_by_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, group="dct_seg.losses", name="Power", code=POWER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    monkeypatch.setattr(LOSSES, "_plugins_loaded", False)
    loss = LossSum({"Power": {"weight": 2.0, "power": 1.0}})
    value = loss(LOGITS[:, None], MASK, ALL, ClickBatch.empty(1))
    assert value.tolist() == pytest.approx([2 * sum(WRONG) / 3])


def test_click_weights_fall_with_the_distance_to_the_nearest_click_of_the_pixel_s_own_class() -> None:
    clicks = [Click(1, 1), Click(6, 8, positive=False), Click(7, 2)]
    mask = torch.zeros(1, 9, 12, dtype=torch.bool)
    mask[0, :5, :6] = True
    weights = click_weights(ClickBatch.from_clicks([clicks]), mask, tau=6.0)
    for row in range(9):
        for col in range(12):
            own = [c for c in clicks if c.positive is bool(mask[0, row, col])]
            d = min(math.hypot(row - c.row, col - c.col) for c in own)
            wanted = 0.8 + 1.2 * (1 - min(d, 6.0) / 6.0)
            assert float(weights[0, row, col]) == pytest.approx(wanted, abs=1e-5)
    assert float(weights[0, 1, 1]) == 2.0


def test_click_cross_entropy_without_clicks_weights_all_pixels_equally() -> None:
    logits, mask, ignore = batch()
    loss = LossSum({"click_bce": 1.0})(logits, mask, ~ignore, ClickBatch.empty(3))
    torch.testing.assert_close(loss, 0.8 * binary_cross_entropy(logits[:, 0], mask, ~ignore))
