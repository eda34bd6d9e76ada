"""The predictor: a pure function of the image and the ordered clicks, independent of earlier calls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_net
from numpy.typing import NDArray

from dct_seg import Click, Predictor
from dct_seg.methods import METHODS
from dct_seg.methods.base import Method
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.prediction import Prediction
from dct_seg.predictor import predict_together

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


class Counting(Method):
    """Method that adds up its inputs, so that any wrong click or previous mask shows in the result."""

    name = "counting"
    paper = ""

    def __init__(self) -> None:
        self.calls = 0

    def reset(self, image: NDArray[np.uint8]) -> None:
        self.image = image

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        guess = 1.0 if previous is None else 1.0 + float(previous.mean())
        return [c if c.radius is not None else Click(c.row, c.col, c.positive, guess) for c in clicks]

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        self.calls += 1
        assert image is self.image
        probs = np.zeros(image.shape[:2], np.float32) if previous is None else previous / 2
        for place, click in enumerate(clicks, start=1):
            probs[round(click.row), round(click.col)] += (
                (1 + click.positive) * (click.radius or 0.0) / (7 * place)
            )
        return np.clip(probs, 0, 1)


NET = tiny_net(previous_mask=True)
torch.nn.init.constant_(
    NET.decoder.predict.bias, 0.3
)  # about half of the pixels are object, so that it zooms


def network() -> DCTNetMethod:
    return DCTNetMethod(net=NET, first_size=48, zoom_size=40, precision="float32")


LATE = tiny_net(previous_mask=True, prompt_fusion="late")
torch.nn.init.constant_(LATE.decoder.predict.bias, 0.3)


def late_network(*, flip: bool = False) -> DCTNetMethod:
    return DCTNetMethod(net=LATE, first_size=48, zoom_size=40, precision="float32", flip=flip)


def late_and_mirrored() -> DCTNetMethod:
    return late_network(flip=True)


def assert_same(one: Prediction, other: Prediction) -> None:
    assert np.array_equal(one.probs, other.probs)
    assert np.array_equal(one.mask, other.mask)
    assert one.clicks == other.clicks


def some_click(rng: np.random.Generator) -> Click:
    radius = float(rng.uniform(1, 12)) if rng.random() < 0.5 else None
    return Click(float(rng.uniform(0, 39)), float(rng.uniform(0, 55)), bool(rng.random() < 0.6), radius)


@pytest.mark.parametrize("make", [Counting, network, late_network, late_and_mirrored])
@pytest.mark.parametrize("seed", range(3))
def test_replayed_incremental_and_fresh_predictions_are_the_same(
    make: Callable[[], Method], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    incremental, jumping = Predictor(make()), Predictor(make())
    for predictor in (incremental, jumping):
        predictor.set_image(IMAGE)
    clicks: list[Click] = []
    for _ in range(7):
        if clicks and rng.random() < 0.35:
            clicks.pop()
            answer = incremental.undo()
        else:
            clicks.append(some_click(rng))
            last = clicks[-1]
            answer = incremental.click(last.row, last.col, positive=last.positive, radius=last.radius)
        fresh = Predictor(make())
        fresh.set_image(IMAGE)
        assert_same(answer, fresh.predict(clicks))
        jumping.predict([some_click(rng) for _ in range(rng.integers(0, 3))])  # something else in between
        assert_same(answer, jumping.predict(clicks))


def test_known_prefix_of_clicks_is_not_computed_again() -> None:
    method = Counting()
    predictor = Predictor(method)
    predictor.set_image(IMAGE)
    clicks = [Click(1, 1), Click(2, 2), Click(3, 3)]
    predictor.predict(clicks)
    predictor.predict(clicks)
    predictor.undo()
    assert method.calls == 3
    predictor.predict([*clicks[:2], Click(4, 4)])
    assert method.calls == 4
    predictor.predict([Click(9, 9), *clicks])
    assert method.calls == 8


def test_the_radii_used_are_returned() -> None:
    predictor = Predictor(Counting())
    predictor.set_image(IMAGE)
    assert predictor.predict([Click(1, 1), Click(2, 2, radius=4.0)]).clicks == (
        Click(1, 1, radius=1.0),
        Click(2, 2, radius=4.0),
    )


def test_radius_of_an_earlier_click_is_not_predicted_again() -> None:
    predictor = Predictor(network())
    predictor.set_image(IMAGE)
    first = predictor.click(20, 20).clicks[0]
    assert first.radius is not None
    assert predictor.click(5, 5, positive=False).clicks[0] == first


def test_result_has_the_documented_types() -> None:
    predictor = Predictor(tiny_net())
    predictor.set_image(IMAGE)
    result = predictor.predict([Click(row=10, col=12, positive=True, radius=None)])
    assert (result.mask.shape, result.mask.dtype) == ((40, 56), np.bool_)
    assert (result.probs.shape, result.probs.dtype) == ((40, 56), np.float32)
    assert 0 <= result.probs.min() <= result.probs.max() <= 1
    assert np.array_equal(result.mask, result.probs > 0.5)


def test_probability_must_be_above_the_threshold() -> None:
    predictor = Predictor(METHODS.get("disc")(), threshold=1.0)
    predictor.set_image(IMAGE)
    assert not predictor.click(5, 5, radius=3.0).mask.any()  # probabilities of 1 are not above 1


def test_returned_array_can_be_modified() -> None:
    predictor = Predictor(network())
    predictor.set_image(IMAGE)
    first = predictor.click(20, 20, radius=5.0)
    kept = first.probs.copy()
    first.probs[:] = 1
    first.mask[:] = False
    assert np.array_equal(predictor.predict([Click(20, 20, radius=5.0)]).probs, kept)
    fresh = Predictor(network())
    fresh.set_image(IMAGE)
    assert_same(predictor.click(3, 3), fresh.predict([Click(20, 20, radius=5.0), Click(3, 3)]))


def test_given_image_can_be_modified() -> None:
    mine = IMAGE.copy()
    predictor, other = Predictor(network()), Predictor(network())
    predictor.set_image(mine)
    other.set_image(IMAGE)
    mine[:] = 0
    assert_same(predictor.click(20, 20), other.click(20, 20))


def test_undo_of_all_clicks_gives_the_empty_mask_and_another_undo_is_allowed() -> None:
    predictor = Predictor(Counting())
    predictor.set_image(IMAGE)
    predictor.click(1, 1)
    for _ in range(2):
        result = predictor.undo()
        assert not result.mask.any()
        assert result.clicks == ()


def test_reset_discards_the_clicks_and_keeps_the_image() -> None:
    predictor = Predictor(Counting())
    predictor.set_image(IMAGE)
    first = predictor.click(1, 1)
    predictor.click(2, 2)
    predictor.reset()
    assert_same(predictor.click(1, 1), first)


def test_new_image_discards_the_clicks() -> None:
    predictor = Predictor(network())
    predictor.set_image(IMAGE)
    predictor.click(1, 1)
    predictor.set_image(IMAGE[:20, :30] // 2)
    result = predictor.click(9, 9)
    fresh = Predictor(network())
    fresh.set_image(IMAGE[:20, :30] // 2)
    assert_same(result, fresh.click(9, 9))
    assert result.probs.shape == (20, 30)


def test_gray_image_is_the_same_in_three_channels() -> None:
    results = []
    for image in (IMAGE[..., 0], IMAGE[..., :1], np.repeat(IMAGE[..., :1], 3, 2)):
        predictor = Predictor(network())
        predictor.set_image(image)
        results.append(predictor.click(20, 20))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_alpha_is_ignored() -> None:
    results = []
    for image in (IMAGE, np.dstack([IMAGE, np.full(IMAGE.shape[:2], 9, np.uint8)])):
        predictor = Predictor(network())
        predictor.set_image(image)
        results.append(predictor.click(20, 20))
    assert_same(*results)


def test_read_only_image_is_accepted_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = IMAGE.copy()
    image.setflags(write=False)
    predictor = Predictor(network())
    predictor.set_image(image)
    predictor.click(20, 20)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (IMAGE / 255.0, r"float64 \(40, 56, 3\)"),
        (IMAGE[..., :2], r"uint8 \(40, 56, 2\)"),
        (IMAGE[:0], r"uint8 \(0, 56, 3\)"),
        ("a.jpg", "str"),
    ],
)
def test_image_of_another_type_is_refused(image: Any, given: str) -> None:
    with pytest.raises(
        ValueError, match=rf"an image must be a \(height, width, 3\) uint8 array in RGB, got {given}"
    ):
        Predictor(Counting()).set_image(image)


def test_prediction_without_an_image_names_the_method_to_call() -> None:
    with pytest.raises(RuntimeError, match=r"no image is set; call set_image\(rgb\) first"):
        Predictor(Counting()).predict([Click(1, 1)])


@pytest.mark.parametrize(("row", "col"), [(40, 3), (-1, 3), (3, 56), (3, -0.6), (39.5, 3)])
def test_click_outside_the_image_is_refused_and_changes_nothing(row: float, col: float) -> None:
    predictor = Predictor(Counting())
    predictor.set_image(IMAGE)
    before = predictor.click(5, 5)
    with pytest.raises(
        ValueError, match=rf"click \({row}, {col}\) lies outside the image of 40 rows and 56 columns"
    ):
        predictor.click(row, col)
    assert_same(predictor.predict([Click(5, 5)]), before)
    assert predictor.click(6, 6).clicks[0].row == 5


def test_network_is_put_in_evaluation_mode() -> None:
    net = tiny_net().train()
    Predictor(net)
    assert not net.training


def test_predictor_from_a_file_equals_the_network_that_wrote_it(tmp_path: Any) -> None:
    file = tiny_net().save_pretrained(tmp_path)
    predictor, other = (
        Predictor.from_pretrained(file, zoom_in=False),
        Predictor(DCTNetMethod(net=tiny_net(), zoom_in=False)),
    )
    for one in (predictor, other):
        one.set_image(IMAGE)
    assert_same(predictor.click(20, 20), other.click(20, 20))


def test_history_is_bounded_and_an_undo_beyond_it_replays_the_clicks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dct_seg.predictor.HISTORY_BYTES", 2 * IMAGE[..., 0].size * 4)
    method = Counting()
    predictor = Predictor(method)
    predictor.set_image(IMAGE)
    one = Click(0, 0, radius=7.0)
    clicks = [
        one,
        Click(39, 55, radius=7.0),
        *[Click(row, 9, radius=7.0) for row in range(2, 6)],
    ]  # the first two span the image
    answers = [predictor.predict(clicks[:count]) for count in range(1, 7)]
    kept = [turn.part is not None for turn in predictor._turns]
    assert kept == [False, False, False, True, True, True]
    for count in (5, 4, 3, 2):
        assert_same(predictor.undo(), answers[count - 1])
    assert method.calls == 6 + 3  # three clicks were replayed once


def test_step_keeps_only_the_nonzero_region() -> None:
    predictor = Predictor(Counting())
    predictor.set_image(IMAGE)
    predictor.click(5, 5, radius=7.0)
    assert predictor.click(9, 8, radius=7.0).probs.shape == (40, 56)
    assert [turn.part.shape for turn in predictor._turns if turn.part is not None] == [(1, 1), (5, 4)]


def test_timings_separate_the_encoding_from_the_click() -> None:
    predictor = Predictor(DCTNetMethod(net=LATE, zoom_in=False, precision="float32"))
    predictor.set_image(IMAGE)
    assert predictor.timings.encode > 0
    first = predictor.click(20, 20, radius=5.0).timings
    assert first.encode == 0
    assert first.click > 0
    assert predictor.timings is first
    assert first.total == first.click


def clicks_of_objects() -> list[list[Click]]:
    return [
        [Click(10, 12, radius=5.0)],
        [Click(20, 40), Click(30, 50, positive=False, radius=3.0), Click(15, 35, radius=2.0)],
        [],
        [Click(30, 10, radius=9.0), Click(35, 20)],
    ]


@pytest.mark.parametrize("make", [Counting, network, late_network, late_and_mirrored])
def test_batch_of_objects_equals_single_predictions(make: Callable[[], Method]) -> None:
    predictor = Predictor(make())
    predictor.set_image(IMAGE)
    for together, clicks in zip(
        predictor.predict_batch(clicks_of_objects()), clicks_of_objects(), strict=True
    ):
        alone = predictor.predict(clicks)
        assert np.allclose(together.probs, alone.probs, atol=1e-4)
        assert np.array_equal(together.mask, together.probs > 0.5)
        for one, other in zip(together.clicks, alone.clicks, strict=True):
            assert (one.row, one.col, one.positive) == (other.row, other.col, other.positive)
            assert one.radius == pytest.approx(other.radius, rel=1e-4)


def test_batch_predicts_first_clicks_of_all_objects_in_one_forward_pass() -> None:
    method = network()
    predictor = Predictor(method)
    predictor.set_image(IMAGE)
    sizes = []
    handle = NET.register_forward_pre_hook(lambda net, given: sizes.append(len(given[0])))
    predictor.predict_batch([[Click(10, 12, radius=30.0)], [Click(20, 40, radius=30.0)]])
    handle.remove()
    assert sizes[0] == 2


def test_batch_does_not_change_the_clicks_of_the_predictor() -> None:
    predictor = Predictor(Counting())
    predictor.set_image(IMAGE)
    before = predictor.click(5, 5, radius=7.0)
    predictor.predict_batch([[Click(1, 1, radius=1.0)]])
    assert_same(predictor.predict([Click(5, 5, radius=7.0)]), before)


@pytest.mark.parametrize("make", [Counting, network, late_network, late_and_mirrored])
def test_objects_of_several_images_equal_single_predictions(make: Callable[[], Method]) -> None:
    images = [IMAGE, IMAGE[::-1].copy(), IMAGE[:30, :50].copy()]
    predictors = [Predictor(make()) for _ in images]
    for predictor, image in zip(predictors, images, strict=True):
        predictor.set_image(image)
    clicks = [[Click(10, 12, radius=9.0), Click(25, 40, positive=False)], [Click(20, 30, radius=12.0)]]
    objects = [(predictors[i], clicks[k]) for i, k in ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1))]
    for together, (predictor, given) in zip(predict_together(objects), objects, strict=True):
        alone = predictor.predict(given)
        assert together.probs.shape == alone.probs.shape
        assert np.allclose(together.probs, alone.probs, atol=1e-4)


def test_objects_of_several_images_of_one_size_share_a_forward_pass() -> None:
    predictors = [Predictor(network()) for _ in range(3)]
    for i, predictor in enumerate(predictors):
        predictor.set_image(np.roll(IMAGE, i, axis=0))
    sizes = []
    handle = NET.register_forward_pre_hook(lambda net, given: sizes.append(len(given[0])))
    predict_together([(one, [Click(10, 12, radius=30.0)]) for one in predictors])
    handle.remove()
    assert sizes[0] == 3


def test_predictors_of_one_method_cannot_work_together() -> None:
    method = network()
    one, other = Predictor(method), Predictor(method)
    one.set_image(IMAGE)
    other.set_image(IMAGE)
    with pytest.raises(ValueError, match="need one method each"):
        predict_together([(one, [Click(1, 1)]), (other, [Click(1, 1)])])
    assert predict_together([]) == []
