"""Feature-DCT: eq. 3 in both readings against a plain loop, and where its features are taken."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dct_seg import Click, ClickBatch, FeatureDCT
from dct_seg.models.feature_dct import Rejection, fold_clicks, sample_at

READINGS: list[Rejection] = ["true", "printed"]


def folded(q: list[list[float]], labels: list[int], rejection: Rejection) -> list[float]:
    """Eq. 3 as printed, click by click.

    F starts as the Q of the first positive click, padding is skipped.
    """
    f = [0.0] * len(q[0])
    started = False
    for q_c, label in zip(q, labels, strict=True):
        if label == 1:
            f = [(a + b) / 2 for a, b in zip(f, q_c, strict=True)] if started else list(q_c)
            started = True
        elif label == 0:
            length = math.sqrt(sum(b * b for b in q_c))
            if length > 0:
                dot = sum(a * b for a, b in zip(f, q_c, strict=True))
                f = [
                    a - dot * b / (length if rejection == "printed" else length**2)
                    for a, b in zip(f, q_c, strict=True)
                ]
    return f


@pytest.mark.parametrize("rejection", READINGS)
def test_fold_equals_the_paper_s_recurrence(rejection: Rejection) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(20, 7, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 2, (20, 7), generator=generator)
    wanted = [folded(one, its, rejection) for one, its in zip(q.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(
        fold_clicks(q, labels, rejection=rejection), torch.tensor(wanted, dtype=torch.float64)
    )


def test_negative_click_leaves_no_component_along_q() -> None:
    f, q = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])  # f.Q = 11, |Q| = 5
    rejected = fold_clicks(torch.stack([f, q])[None], torch.tensor([[1, 0]]))[0]
    assert rejected @ q == pytest.approx(0, abs=1e-5)


def test_printed_formula_overshoots_by_the_length_of_q() -> None:
    f, q = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    printed = fold_clicks(torch.stack([f, q])[None], torch.tensor([[1, 0]]), rejection="printed")[0]
    assert printed @ q == pytest.approx(11 * (1 - 5))  # -44, where a rejection leaves 0


def test_both_readings_agree_where_q_has_length_1() -> None:
    q = torch.tensor([[[1.0, 2.0], [0.6, 0.8]]])
    labels = torch.tensor([[1, 0]])
    torch.testing.assert_close(fold_clicks(q, labels), fold_clicks(q, labels, rejection="printed"))


def test_fold_starts_as_the_first_positive_click_and_not_as_half_of_it() -> None:
    q = torch.tensor([[[2.0, 4.0]]])
    assert fold_clicks(q, torch.tensor([[1]])).tolist() == [[2.0, 4.0]]


def test_negative_clicks_before_the_first_positive_one_change_nothing() -> None:
    q = torch.tensor([[[5.0, 1.0], [2.0, 4.0]]])
    assert fold_clicks(q, torch.tensor([[0, 1]])).tolist() == [[2.0, 4.0]]
    assert fold_clicks(q, torch.tensor([[0, 0]])).tolist() == [[0.0, 0.0]]


def test_padding_is_skipped_wherever_it_stands() -> None:
    q = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.full((1, 1, 4), 1e6)
    padded = torch.cat([noise, q[:, :1], noise, q[:, 1:], noise], 1)
    assert torch.equal(
        fold_clicks(padded, torch.tensor([[-1, 1, -1, 1, 0, -1]])), fold_clicks(q, torch.tensor([[1, 1, 0]]))
    )


def test_order_of_clicks_matters() -> None:
    q = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [2.0, 2.0]]])
    assert not torch.equal(
        fold_clicks(q, torch.tensor([[1, 1, 0]])), fold_clicks(q.flip(1), torch.tensor([[0, 1, 1]]))
    )


@pytest.mark.parametrize("rejection", READINGS)
def test_negative_click_on_a_feature_of_zeros_removes_nothing_and_its_gradient_is_finite(
    rejection: Rejection,
) -> None:
    q = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]], requires_grad=True)
    f = fold_clicks(q, torch.tensor([[1, 0]]), rejection=rejection)
    assert f.tolist() == [[1.0, 2.0]]
    f.sum().backward()
    assert q.grad is not None
    assert q.grad[0, 0].tolist() == [1.0, 1.0]
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("rejection", READINGS)
def test_fold_is_differentiable_in_all_features(rejection: Rejection) -> None:
    q = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    labels = torch.tensor([[1, 0, 1, 0], [0, 1, -1, 1]])
    assert torch.autograd.gradcheck(lambda x: fold_clicks(x, labels, rejection=rejection), q)


def bilinear(feature: Tensor, row: float, col: float) -> Tensor:
    """Value of (C, h, w) at a position in its own pixels; outside, the border value."""
    height, width = feature.shape[1:]
    row, col = min(max(row, 0), height - 1), min(max(col, 0), width - 1)
    top, left = math.floor(row), math.floor(col)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = row - top, col - left
    upper = (1 - x) * feature[:, top, left] + x * feature[:, top, right]
    return (1 - y) * upper + y * ((1 - x) * feature[:, bottom, left] + x * feature[:, bottom, right])


def test_features_are_taken_bilinearly_where_the_click_lies() -> None:
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(1, 3, 4, 6, generator=generator)  # of an image of 32 x 48: a stride of 8
    coords = torch.rand(1, 40, 2, generator=generator) * torch.tensor([36.0, 52.0]) - 2  # some outside
    wanted = [
        bilinear(feature[0], (row + 0.5) / 8 - 0.5, (col + 0.5) / 8 - 0.5) for row, col in coords[0].tolist()
    ]
    torch.testing.assert_close(sample_at(feature, coords, (32, 48))[0], torch.stack(wanted))


def test_feature_at_stride_1_is_the_pixel_under_the_click() -> None:
    feature = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert sample_at(
        feature, torch.tensor([[[2.0, 1.0], [0.0, 3.0]]]), (3, 4)
    ).flatten().tolist() == pytest.approx([9.0, 3.0])


def test_padding_the_image_below_and_right_does_not_move_where_a_click_reads() -> None:
    place = torch.zeros(1, 2, 7, 9)
    place[0, 0], place[0, 1] = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    padded = F.pad(place, (0, 7, 0, 1), mode="replicate")  # 8 x 16
    feature = F.avg_pool2d(padded, 2)  # stride 2: each value is the place of its middle
    clicks = torch.tensor([[[2.0, 5.0], [3.5, 2.5]]])
    torch.testing.assert_close(sample_at(feature, clicks, (8, 16)), clicks)


@pytest.fixture
def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(3, c, s, s, generator=generator) for c, s in [(4, 8), (6, 4), (8, 2)]]


@pytest.fixture
def clicks() -> ClickBatch:
    return ClickBatch.from_clicks(
        [
            [Click(3, 5), Click(20, 30, positive=False)],
            [Click(9, 9)],
            [Click(1, 1), Click(2, 30), Click(30, 4, positive=False)],
        ]
    )


def awake(**options: object) -> FeatureDCT:
    torch.manual_seed(5)
    module = FeatureDCT([4, 6, 8], [5, 7, 3], hidden=16, **options)  # type: ignore[arg-type]
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_statistics_start_as_plain_instance_norm(features: list[Tensor], clicks: ClickBatch) -> None:
    for (mean, std), channels in zip(
        FeatureDCT([4, 6, 8], [5, 7, 3])(features, clicks, (32, 32)), [5, 7, 3], strict=True
    ):
        assert torch.equal(mean, torch.zeros(3, channels))
        assert torch.equal(std, torch.ones(3, channels))


def test_statistics_come_from_the_concatenated_features_of_three_layers(
    features: list[Tensor], clicks: ClickBatch
) -> None:
    module = awake()
    for index, one in enumerate(clicks.to_clicks()):
        q = [
            torch.cat(
                [
                    bilinear(
                        f[index], (c.row + 0.5) * f.shape[2] / 32 - 0.5, (c.col + 0.5) * f.shape[3] / 32 - 0.5
                    )
                    for f in features
                ]
            )
            for c in one
        ]
        f = torch.tensor(folded([x.tolist() for x in q], [int(c.positive) for c in one], "true"))
        numbers = module.net(f)
        means, stds = numbers[:15].split([5, 7, 3]), (1 + numbers[15:]).split([5, 7, 3])
        for (mean, std), wanted_mean, wanted_std in zip(
            module(features, clicks, (32, 32)), means, stds, strict=True
        ):
            torch.testing.assert_close(mean[index], wanted_mean, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(std[index], wanted_std, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_each_image_has_the_same_statistics_as_alone(
    normalize: bool, features: list[Tensor], clicks: ClickBatch
) -> None:
    module = awake(normalize=normalize)
    together = module(features, clicks, (32, 32))
    for index, one in enumerate(clicks.to_clicks()):
        alone = module([f[index : index + 1] for f in features], ClickBatch.from_clicks([one]), (32, 32))
        for (mean, std), (its_mean, its_std) in zip(together, alone, strict=True):
            torch.testing.assert_close(mean[index], its_mean[0])
            torch.testing.assert_close(std[index], its_std[0])


def test_statistics_are_predicted_without_clicks(features: list[Tensor]) -> None:
    for mean, std in awake()(features, ClickBatch.empty(3), (32, 32)):
        assert mean.isfinite().all()
        assert std.isfinite().all()


def test_normalized_features_do_not_depend_on_a_layer_s_magnitude(
    features: list[Tensor], clicks: ClickBatch
) -> None:
    louder = [features[0] * 100, *features[1:]]
    normalized, plain = awake(normalize=True), awake()
    mean, loud_mean = (normalized(f, clicks, (32, 32))[0][0] for f in (features, louder))
    torch.testing.assert_close(mean, loud_mean, atol=1e-2, rtol=1e-2)
    assert not torch.allclose(
        plain(features, clicks, (32, 32))[0][0], plain(louder, clicks, (32, 32))[0][0], atol=1e-2, rtol=1e-2
    )


def test_unknown_reading_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"unknown rejection 'printd'; did you mean 'printed'\? known: true, printed"
    ):
        FeatureDCT([4], [4], rejection="printd")  # type: ignore[arg-type]
