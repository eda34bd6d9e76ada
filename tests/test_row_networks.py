"""The networks of Table 2's rows: each equation against a plain loop."""

import math

import pytest
import torch
from networks import some_clicks, tiny_net
from torch import Tensor

from dct_seg import Click, ClickBatch
from dct_seg.models.fca_net import first_clicks
from dct_seg.models.fcn import added_scores
from dct_seg.models.iis_ld import best_hypothesis, click_constraint, jaccard_losses, ranked_loss
from dct_seg.models.ris_net import click_boxes, discounted, joined, placed
from dct_seg.training.losses import LossSum

PLAIN = {"click_encoder": "Euclidean", "feature_dct": False, "auto_drag": False}


def image(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def bilinear(values: Tensor, row: int, col: int, size: int) -> float:
    """The value of a raised pixel, as align_corners=False defines it."""
    scale = values.shape[0] / size
    total = 0.0
    r, c = ((x + 0.5) * scale - 0.5 for x in (row, col))
    r, c = (max(x, 0.0) for x in (r, c))
    for dr in (0, 1):
        for dc in (0, 1):
            weight = (1 - abs(r - (int(r) + dr))) * (1 - abs(c - (int(c) + dc)))
            last = values.shape[0] - 1
            total += weight * float(values[min(int(r) + dr, last), min(int(c) + dc, last)])
    return total


def test_fcn_adds_scores_from_coarse_to_fine() -> None:
    fine, mid, coarse = (
        torch.randn(1, 1, n, n, generator=torch.Generator().manual_seed(n)) for n in (4, 2, 1)
    )
    middle = torch.zeros(2, 2)
    for row in range(2):
        for col in range(2):
            middle[row, col] = mid[0, 0, row, col] + bilinear(coarse[0, 0], row, col, 2)
    added = added_scores([fine, mid, coarse])
    for row in range(4):
        for col in range(4):
            wanted = float(fine[0, 0, row, col]) + bilinear(middle, row, col, 4)
            assert float(added[0, 0, row, col]) == pytest.approx(wanted, abs=1e-5)


def test_first_click_is_the_earliest_valid_one_and_only_a_positive_one() -> None:
    clicks = ClickBatch(
        torch.arange(18.0).reshape(3, 3, 2),
        torch.tensor([[-1, 1, 0], [0, 1, 1], [-1, -1, -1]]),
        torch.full((3, 3), math.nan),
    )
    first = first_clicks(clicks)
    assert first.labels.tolist() == [[1], [-1], [-1]]
    assert first.coords[0, 0].tolist() == [2.0, 3.0]


def test_first_click_branch_gets_only_the_first_click() -> None:
    net = tiny_net(network="fca_net", **PLAIN)
    one, two, three = Click(10, 12), Click(20, 25, positive=False), Click(5, 28)

    def branch(*clicks: Click) -> Tensor:
        batch = ClickBatch.from_clicks([clicks])
        encoded = net.encode(image(1), batch)
        fine = torch.zeros_like(encoded.features[0])  # the effect of the maps on the backbone is removed
        return net._branch(fine, encoded)

    assert torch.equal(branch(one, two, three), branch(one, three, two))
    assert not torch.equal(branch(one, two, three), branch(three, two, one))


def test_fca_net_s_loss_covers_both_outputs() -> None:
    net = tiny_net(network="fca_net", **PLAIN)
    output = net.decode(net.encode(image(), some_clicks()))
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[:, 4:20, 4:20] = True
    losses = LossSum({"click_bce": 1.0})
    both = net.loss(output, mask, torch.zeros_like(mask), some_clicks(), losses)
    first = losses(output.extras["first_click"], mask, ~torch.zeros_like(mask), first_clicks(some_clicks()))
    torch.testing.assert_close(
        both, first + losses(output.logits, mask, ~torch.zeros_like(mask), some_clicks())
    )


PROBS = torch.tensor([[[[0.9, 0.2]], [[0.4, 0.6]], [[0.7, 0.7]]]])  # (1, 3, 1, 2)
MASK = torch.tensor([[[True, False]]])


def test_ranked_loss_is_the_best_hypothesis_plus_a_small_weight_on_all() -> None:
    each = []
    for f in PROBS[0, :, 0].tolist():
        overlap = sum(p * y for p, y in zip(f, (1, 0), strict=True)) / 2
        union = sum(max(p, y) for p, y in zip(f, (1, 0), strict=True)) / 2
        each.append(1 - overlap / (union + 1e-6))
    wanted = min(each) + 0.01 * (4 * each[0] + 2 * each[1] + each[2])
    valid = torch.ones_like(MASK)
    assert jaccard_losses(PROBS, MASK, valid)[0].tolist() == pytest.approx(each)
    assert ranked_loss(PROBS, MASK, valid, weight=0.01).tolist() == pytest.approx([wanted])


def test_ranked_loss_without_the_small_weight_reaches_only_the_best() -> None:
    probs = PROBS.clone().requires_grad_()
    ranked_loss(probs, MASK, torch.ones_like(MASK), weight=0.0).sum().backward()
    assert probs.grad is not None
    assert [bool(one.any()) for one in probs.grad[0]] == [True, False, False]


def test_click_constraint_uses_only_clicked_pixels() -> None:
    clicks = ClickBatch.from_clicks([[Click(0, 1, positive=False)]])
    assert click_constraint(PROBS, MASK, clicks).tolist() == pytest.approx([(0.2 + 0.6 + 0.7) / 3])
    right = torch.tensor([[[[0.3, 0.0]], [[0.9, 0.0]]]])
    assert click_constraint(right, MASK, clicks).tolist() == [0.0]
    assert click_constraint(PROBS, MASK, ClickBatch.empty(1)).tolist() == [0.0]


def test_of_equally_good_hypotheses_the_first_is_the_target() -> None:
    probs = torch.tensor([[[[0.1, 0.1]], [[0.9, 0.1]], [[0.6, 0.4]]]])
    assert best_hypothesis(probs, MASK, torch.ones_like(MASK)).tolist() == [1]


def test_first_hypothesis_is_used_if_configured() -> None:
    net = tiny_net(network="iis_ld", network_options={"choose": "first"}, **PLAIN)
    output = net.decode(net.encode(image(), some_clicks()))
    assert torch.equal(output.logits, output.extras["hypotheses"][:, :1])


def test_box_reaches_from_the_positive_click_to_its_nearest_negative_one() -> None:
    positive = [(50.0, 50.0), (10.0, 80.0)]
    negative = [(50.0, 80.0), (90.0, 10.0)]
    boxes = click_boxes(torch.tensor(positive), torch.tensor(negative), (100, 100))
    wanted = []
    for r, c in positive:
        near = min(negative, key=lambda n: math.hypot(n[0] - r, n[1] - c))
        half = min(max(abs(near[0] - r), abs(near[1] - c), 16.0), 50.0)
        wanted.append((r + 0.5, c + 0.5, half))
    wanted.append(tuple((a + b) / 2 for a, b in zip(*wanted, strict=True)))
    clipped = [[max(r - h, 0), max(c - h, 0), min(r + h, 100), min(c + h, 100)] for r, c, h in wanted]
    torch.testing.assert_close(boxes, torch.tensor(clipped))


def test_without_a_negative_or_a_positive_click_there_is_no_box() -> None:
    some, none = torch.tensor([[5.0, 5.0]]), torch.zeros(0, 2)
    assert len(click_boxes(some, none, (20, 20))) == len(click_boxes(none, some, (20, 20))) == 0
    assert len(click_boxes(torch.rand(9, 2) * 60, torch.rand(3, 2) * 60, (64, 64))) == 6


def test_regions_merge_by_the_largest_logit_and_average_with_the_whole() -> None:
    whole = torch.randn(1, 6, 7, generator=torch.Generator().manual_seed(0))
    local = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 6.0, 6.0]])
    regions, inside = placed(local, boxes, (6, 7))
    result = joined(whole, regions, inside)
    for row in range(6):
        for col in range(7):
            here = [
                bilinear(one[0], row - int(top), col - int(left), 4)
                for one, (top, left, bottom, right) in zip(local, boxes.tolist(), strict=True)
                if top <= row < bottom and left <= col < right
            ]
            own = float(whole[0, row, col])
            wanted = (max(here) + own) / 2 if here else own
            assert float(result[0, row, col]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("order", [(1.0, 3.0, 2.0), (3.0, 2.0, 1.0), (2.0, 1.0, 3.0)])
def test_discount_ranks_by_falling_loss_whatever_the_order(order: tuple[float, ...]) -> None:
    assert float(discounted(torch.tensor(order), 0.5)) == pytest.approx((3 + 2 * 0.5 + 1 * 0.25) / 1.75)


def test_ris_net_is_the_plain_network_until_there_is_a_negative_click() -> None:
    net = tiny_net(network="ris_net", **PLAIN)
    positive = ClickBatch.from_clicks([[Click(10, 12)], [Click(16, 9)]])
    encoded = net.encode(image(), positive)
    plain = net.at_image_size(net.decoder.predict(net.decode_last(encoded)), encoded)
    assert torch.equal(net.decode(encoded).logits, plain)
    output = net.decode(net.encode(image(), some_clicks()))
    changed = output.logits != output.extras["whole"]
    assert changed[0].any()
    assert not changed[1].any()
    assert not (changed[:1] & ~output.extras["inside"].any(0)).any()
