"""DCT-Net as a method: the network's views of an image, and the position of its results."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from networks import tiny_net
from numpy.typing import NDArray

from dct_seg import Click, ClickBatch, Predictor
from dct_seg.methods.base import Answer
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.view_cache import KEPT_VIEWS
from dct_seg.methods.views import View, first_view, next_view, object_view, whole_view

NET = tiny_net(previous_mask=True)
LATE = tiny_net(previous_mask=True, prompt_fusion="late")
torch.nn.init.constant_(
    LATE.decoder.predict.bias, 0.3
)  # about half of the pixels are object, so that it zooms
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def blob(
    top: int, left: int, bottom: int, right: int, shape: tuple[int, int] = (100, 200)
) -> NDArray[np.float32]:
    probs = np.zeros(shape, np.float32)
    probs[top:bottom, left:right] = 0.9
    return probs


def test_large_image_is_shrunk_to_the_longer_side_and_a_small_one_unchanged() -> None:
    assert whole_view((300, 600), 448) == View(0, 0, 300, 600, (224, 448))
    assert whole_view((30, 60), 448).size == (30, 60)
    assert whole_view((1, 4000), 448).size == (1, 448)


def test_view_s_clicks_point_at_the_same_spot_as_its_pixels() -> None:
    """Each pixel of the image holds its own position.

    The pixel under a click must still have that position after cropping and resizing.
    """
    rows, cols = np.mgrid[:100, :200].astype(np.float32)
    for view in (
        View(10, 40, 60, 120, (30, 60)),
        View(10, 40, 40, 80, (80, 160)),
        whole_view((100, 200), 150),
    ):
        seen = view.crop(np.dstack([rows, cols]))
        assert seen.shape[:2] == view.size
        for click in (Click(31.5, 77.25), Click(44, 100)):
            place = view.clicks([click]).coords
            sampled = torch.nn.functional.grid_sample(
                torch.from_numpy(seen).permute(2, 0, 1)[None],
                ((place + 0.5) * 2 / torch.tensor(view.size) - 1).flip(-1)[None],
                align_corners=False,
            )
            assert sampled.flatten().tolist() == pytest.approx([click.row, click.col], abs=0.1)


def test_view_s_radius_is_scaled_with_its_pixels() -> None:
    view = View(0, 0, 50, 80, (100, 160))
    assert view.scale == pytest.approx(2)
    assert view.clicks([Click(3, 4, radius=7.0)]).radii.item() == pytest.approx(14)


def test_object_s_region_is_its_box_with_a_margin() -> None:
    view = object_view(blob(40, 60, 60, 100), [Click(50, 80)], 120, margin=1.5)
    assert view is not None
    assert (view.top, view.left, view.height, view.width) == (35, 50, 30, 60)
    assert view.size == (60, 120)


def test_small_object_is_enlarged_at_most_four_times() -> None:
    view = object_view(blob(40, 60, 44, 66), [Click(41, 62)], 120, margin=1.5)
    assert view == View(27, 48, 30, 30, (120, 120))


def test_region_contains_every_click_and_the_circles_of_the_positive_ones() -> None:
    clicks = [
        Click(50, 80, radius=5.0),
        Click(20, 30, radius=8.0),
        Click(90, 190, positive=False, radius=50.0),
    ]
    view = object_view(blob(40, 60, 60, 100), clicks, 384, margin=1.0)
    assert view is not None
    assert (view.top, view.left, view.top + view.height, view.left + view.width) == (12, 22, 91, 191)


@pytest.mark.parametrize("seed", range(20))
def test_region_is_inside_the_image_and_clicks_are_inside_the_region(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (top, bottom), (left, right) = (sorted(rng.choice(100, 2, replace=False)) for _ in range(2))
    clicks = [
        Click(float(r), float(c), bool(p), float(d))
        for r, c, p, d in zip(
            rng.uniform(-0.5, 99.4, 4),
            rng.uniform(-0.5, 199.4, 4),
            rng.random(4) < 0.5,
            rng.uniform(0, 80, 4),
            strict=True,
        )
    ]
    view = object_view(blob(top, left, bottom, right), clicks, 64, margin=1.4)
    if view is None:
        return
    assert 0 <= view.top < view.top + view.height <= 100
    assert 0 <= view.left < view.left + view.width <= 200
    assert max(view.size) == 64
    seen = view.clicks(clicks).coords[0]
    assert (seen >= -0.5 * view.scale - 0.5).all()
    assert (seen[:, 0] < view.size[0]).all()
    assert (seen[:, 1] < view.size[1]).all()


def test_small_object_keeps_some_surroundings() -> None:
    view = object_view(blob(50, 50, 51, 51), [Click(50, 50)], 64, margin=2.0)
    assert view is not None
    assert (view.height, view.width) == (17, 17)  # 1 pixel, and half of 16 on each side


@pytest.mark.parametrize(("row", "col"), [(0, 0), (0, 300), (225, 0), (470, 630), (200, 630), (238, 320)])
@pytest.mark.parametrize("side", [1, 10, 60])
def test_small_object_is_not_enlarged_more_than_four_times_at_the_border_of_the_image(
    row: int, col: int, side: int
) -> None:
    previous = blob(row, col, min(row + side, 480), min(col + side, 640), (480, 640))
    clicks = [Click(row, col, radius=1.0)]
    whole = whole_view((480, 640), 448)
    for view in (
        object_view(previous, clicks, 384, margin=1.4),
        first_view((480, 640), clicks, whole, 384, reach=8.0),
    ):
        assert view is not None
        assert view.scale <= 4
        assert 0 <= view.top < view.top + view.height <= 480
        assert 0 <= view.left < view.left + view.width <= 640


def test_no_object_or_one_that_fills_the_image_is_not_zoomed_in_on() -> None:
    assert object_view(blob(0, 0, 0, 0), [Click(1, 1)], 64, margin=1.4) is None
    assert object_view(blob(5, 5, 95, 195), [Click(50, 50)], 64, margin=1.4) is None


def method(**options: object) -> DCTNetMethod:
    built = DCTNetMethod(net=NET, **{"precision": "float32", **options})  # type: ignore[arg-type]
    built.reset(IMAGE)
    return built


def test_small_image_is_given_to_the_network_unchanged() -> None:
    clicks = [Click(10, 20, radius=5.0)]
    tensor = torch.from_numpy(IMAGE).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        wanted = NET(tensor, ClickBatch.from_clicks([clicks])).sigmoid()[0, 0].numpy()
    np.testing.assert_allclose(
        method(first_reach=0, look_again=False, after="none").predict(IMAGE, clicks, None), wanted, atol=1e-5
    )


def test_previous_mask_is_given_to_the_network() -> None:
    clicks = [Click(10, 20, radius=5.0)]
    one = method(zoom_in=False)
    assert not np.array_equal(
        one.predict(IMAGE, clicks, None), one.predict(IMAGE, clicks, np.ones((60, 90), np.float32))
    )


def test_from_the_second_click_on_only_the_object_s_region_is_predicted() -> None:
    previous = blob(20, 30, 35, 50, (60, 90))
    clicks = [Click(25, 40, radius=3.0), Click(30, 45, positive=False, radius=2.0)]
    probs = method(zoom_size=64, after="none").predict(IMAGE, clicks, previous)
    view = object_view(previous, clicks, 64, margin=1.4)
    assert view is not None
    inside = np.zeros((60, 90), bool)
    inside[view.top : view.top + view.height, view.left : view.left + view.width] = True
    assert (probs[inside] > 0).all()
    assert (probs[~inside] == 0).all()
    tensor = torch.from_numpy(view.crop(IMAGE)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        seen = NET(tensor, view.clicks(clicks), torch.from_numpy(view.crop(previous))[None, None]).sigmoid()
    np.testing.assert_allclose(
        probs[inside], cv2.resize(seen[0, 0].numpy(), (view.width, view.height)).ravel(), atol=1e-5
    )


def test_first_click_of_a_large_drag_and_zoom_switched_off_see_the_whole_image() -> None:
    previous = blob(20, 30, 35, 50, (60, 90))
    clicks = [Click(25, 40, radius=3.0), Click(30, 45, radius=2.0)]
    assert (method(zoom_in=False).predict(IMAGE, clicks, previous) > 0).all()
    assert (method(zoom_in=False).predict(IMAGE, clicks[:1], None) > 0).all()
    assert (method(first_reach=0).predict(IMAGE, clicks[:1], None) > 0).all()
    assert (method().predict(IMAGE, [Click(25, 40, radius=12.0)], None) > 0).all()


@pytest.mark.parametrize(
    "previous", [None, np.zeros((60, 90), np.float32), np.full((60, 90), 0.4, np.float32)]
)
def test_surroundings_of_small_drags_are_predicted_until_there_is_a_mask(
    previous: NDArray[np.float32] | None,
) -> None:
    probs = method(zoom_size=80).predict(
        IMAGE, [Click(25, 40, radius=2.0), Click(28, 42, radius=1.0)], previous
    )
    inside = np.zeros((60, 90), bool)
    inside[9:42, 24:57] = (
        True  # 25 - 8 * 2, 25 + 8 * 2 + 1; 40 likewise; the second click's reach ends within
    )
    assert (probs[inside] > 0).all()
    assert (probs[~inside] == 0).all()


@pytest.mark.parametrize(
    ("options", "share", "looks"),
    [({}, 1.0, 2), ({"look_again": False}, 1.0, 1), ({"zoom_in": False}, 1.0, 1), ({}, 0.5, 1)],
)
def test_newly_found_object_is_predicted_again_in_its_own_region(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], share: float, looks: int
) -> None:
    one, seen = method(zoom_size=64, **options), []

    def look(view: View, clicks: list[Click], previous: NDArray[np.float32] | None) -> NDArray[np.float32]:
        seen.append((view, previous))
        return cv2.resize(blob(20, 30, 35, 50, (60, 90)), view.size[::-1], interpolation=cv2.INTER_NEAREST)

    monkeypatch.setattr(one, "_probabilities_in", look)
    clicks = [Click(25, 40, radius=12.0)]
    view, probs = one.predict_view(IMAGE, clicks, None, share=share)
    assert [v for v, _ in seen] == [whole_view((60, 90), 448), View(8, 23, 35, 35, (64, 64))][:looks]
    assert (view, probs.shape) == (seen[-1][0], view.size)
    if looks == 2:
        np.testing.assert_array_equal(seen[1][1], blob(20, 30, 35, 50, (60, 90)))  # found in the first pass
        assert view == object_view(blob(20, 30, 35, 50, (60, 90)), clicks, 64, margin=1.4)
    seen.clear()
    known = Answer(blob(20, 30, 35, 50, (60, 90)))
    one.predict_view(IMAGE, [*clicks, Click(30, 45, radius=2.0)], known, share=share)
    assert len(seen) == 1  # an existing mask is corrected in one pass


def test_first_view_covers_the_reach_of_the_positive_clicks() -> None:
    whole = whole_view((100, 200), 100)
    far = [Click(50, 80, radius=3.0), Click(50, 120, radius=1.0), Click(90, 85, positive=False, radius=9.0)]
    assert first_view((100, 200), far, whole, 90, reach=8) == View(26, 56, 65, 73, (80, 90))
    assert first_view((100, 200), far, whole, 90, reach=0) == whole


@pytest.mark.parametrize(
    "clicks", [[Click(50, 80)], [Click(50, 80, positive=False, radius=2.0)], [Click(50, 80, radius=12.0)]]
)
def test_first_view_is_the_whole_image_without_a_small_radius(clicks: list[Click]) -> None:
    whole = whole_view((100, 200), 200)
    assert first_view((100, 200), clicks, whole, 200, reach=8) == whole


def test_without_clicks_nothing_is_object() -> None:
    assert not method().predict(IMAGE, [], None).any()


def test_radius_of_the_auto_drag_head_is_in_pixels_of_the_image() -> None:
    shrunk = method(first_size=45)  # half of 90
    view = whole_view((60, 90), 45)
    with torch.inference_mode():
        tensor = (torch.from_numpy(view.crop(IMAGE)).permute(2, 0, 1)[None] / 255).contiguous(
            memory_format=torch.channels_last
        )
        seen = shrunk.net.fill_radii(tensor, view.clicks([Click(30, 40)])).radii.item()
    (click,) = shrunk.fill_radii([Click(30, 40)], None)
    assert click.radius == pytest.approx(2 * seen, rel=1e-4)
    assert (click.row, click.col) == (30, 40)


def test_dragged_radius_is_kept_and_the_others_are_filled_in() -> None:
    filled = method().fill_radii([Click(30, 40, radius=4.0), Click(10, 10)], None)
    assert filled[0] == Click(30, 40, radius=4.0)
    assert filled[1].radius is not None


def test_image_s_features_are_computed_once_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    one, calls = method(), []
    encode = one.net.encode_image

    def counted(image: torch.Tensor) -> list[torch.Tensor]:
        calls.append(1)
        return encode(image)

    monkeypatch.setattr(one.net, "encode_image", counted)
    for _ in range(3):
        one.fill_radii([Click(30, 40)], None)
    assert len(calls) == 1
    one.reset(IMAGE[:40])
    one.fill_radii([Click(30, 40)], None)
    assert len(calls) == 2


def test_flip_of_a_mirrored_image_gives_the_mirrored_result() -> None:
    image = IMAGE[:32, :64]  # sizes that are not padded, which happens on the right only
    one = method(flip=True)
    one.reset(image)
    straight = one.predict(image, [Click(10, 20, radius=5.0)], None)
    one.reset(image[:, ::-1])
    mirrored = one.predict(image[:, ::-1], [Click(10, 63 - 20, radius=5.0)], None)
    np.testing.assert_allclose(mirrored[:, ::-1], straight, atol=1e-5)


def test_bfloat16_is_close_to_float32() -> None:
    clicks = [Click(10, 20, radius=5.0)]
    half, full = method(precision="bfloat16"), method()
    assert half.options["precision"] == "bfloat16"
    np.testing.assert_allclose(
        half.predict(IMAGE, clicks, None), full.predict(IMAGE, clicks, None), atol=0.05
    )
    (one,), (other,) = (m.fill_radii([Click(10, 20)], None) for m in (half, full))
    assert one.radius is not None
    assert one.radius == pytest.approx(other.radius, rel=0.1)


def test_automatic_precision_is_one_of_the_two() -> None:
    assert method(precision="auto").options["precision"] in ("float32", "bfloat16")


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (3, 5)])
def test_image_of_a_few_pixels_is_not_an_error(shape: tuple[int, int]) -> None:
    tiny = np.full((*shape, 3), 200, np.uint8)
    one = method()
    one.reset(tiny)
    clicks = one.fill_radii([Click(0, 0)], None)
    first = one.predict(tiny, clicks, None)
    second = one.predict(
        tiny, one.fill_radii([*clicks, Click(0, shape[1] - 1, positive=False)], first), first
    )
    assert first.shape == second.shape == shape
    assert np.isfinite(second).all()


def test_options_are_plain_values_that_distinguish_two_settings() -> None:
    settings = [
        method(**o).options
        for o in (
            {},
            {"zoom_in": False},
            {"first_size": 64},
            {"first_reach": 6},
            {"look_again": False},
            {"flip": True},
            {"zoom_margin": 2.0},
            {"after": "none"},
        )
    ]  # type: ignore[arg-type]
    assert all(one != other for one, other in pairwise(settings))
    assert all(isinstance(v, (bool, int, float, str, dict)) for s in settings for v in s.values())
    assert math.isclose(settings[0]["zoom_margin"], 1.4)


WHOLE = whole_view((100, 200), 448)


def look(probs: NDArray[np.float32], *clicks: Click, held: View | None = None) -> View:
    return next_view(probs, held, clicks or [Click(50, 80)], WHOLE, 120, margin=1.5)


def test_view_is_held_while_the_object_fits_it_with_a_little_margin() -> None:
    first = look(blob(40, 60, 60, 100))
    assert first == object_view(blob(40, 60, 60, 100), [Click(50, 80)], 120, margin=1.5)
    assert look(blob(38, 58, 62, 104), held=first) == first
    assert look(blob(38, 58, 62, 110), held=first) != first  # reaches the view's right edge


def test_view_is_held_for_a_tiny_object_that_moves_a_little() -> None:
    first = look(blob(40, 60, 44, 66), Click(41, 62))
    assert (first.height, first.width) == (30, 30)
    assert look(blob(42, 63, 47, 69), Click(41, 62), held=first) == first


def test_view_is_left_for_an_object_that_is_much_smaller_or_a_click_outside() -> None:
    first = look(blob(40, 60, 60, 100))
    assert look(blob(42, 64, 56, 96), held=first) == first
    assert look(blob(45, 70, 55, 85), held=first) != first
    assert look(blob(40, 60, 60, 100), Click(50, 80), Click(50, 180, positive=False), held=first) != first


def test_whole_image_is_held_for_an_object_that_nearly_fills_it() -> None:
    assert look(blob(10, 20, 90, 190), held=WHOLE) == WHOLE
    assert look(blob(40, 60, 60, 100), held=WHOLE) == look(blob(40, 60, 60, 100))


def late(**options: object) -> DCTNetMethod:
    built = DCTNetMethod(net=LATE, **{"precision": "float32", "zoom_size": 64, **options})  # type: ignore[arg-type]
    built.reset(IMAGE)
    return built


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_result_with_a_cached_encoding_is_bit_identical_to_a_fresh_one(seed: int, flip: bool) -> None:
    rng = np.random.default_rng(seed)
    kept, clicks, previous = late(flip=flip), [], None
    for _ in range(6):
        clicks = [
            *clicks,
            Click(float(rng.uniform(0, 59)), float(rng.uniform(0, 89)), bool(rng.random() < 0.6), 4.0),
        ]
        answer = kept.answer(IMAGE, clicks, previous)
        for again in (late(flip=flip), kept):
            repeated = again.answer(IMAGE, clicks, previous)
            assert np.array_equal(answer.probs, repeated.probs)
            assert answer.view == repeated.view
        previous = answer


def count_encodings(one: DCTNetMethod, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    encode = one.net.encode_image

    def counted(image: torch.Tensor) -> list[torch.Tensor]:
        calls.append(1)
        return encode(image)

    monkeypatch.setattr(one.net, "encode_image", counted)
    return calls


@pytest.mark.parametrize(("flip", "each"), [(False, 1), (True, 2)])
def test_late_network_encodes_a_view_once_for_all_clicks_in_it(
    monkeypatch: pytest.MonkeyPatch, flip: bool, each: int
) -> None:
    one = late(flip=flip)
    calls = count_encodings(one, monkeypatch)
    one.reset(IMAGE)
    assert len(calls) == each
    spent = one.encode_seconds
    assert spent > 0
    clicks = one.fill_radii([Click(25, 40)], None)
    one.predict(IMAGE, clicks, None)
    assert len(calls) == each
    assert one.encode_seconds == spent
    previous = blob(20, 30, 35, 50, (60, 90))
    for row in (24, 26, 28):
        one.predict(IMAGE, [*clicks, Click(row, 40, positive=False, radius=1.0)], previous)
    assert len(calls) == 2 * each
    assert one.encode_seconds > spent


def test_early_network_runs_at_each_click_and_encodes_only_for_missing_radii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = method(zoom_size=64)
    calls = count_encodings(one, monkeypatch)
    previous, clicks = blob(20, 30, 35, 50, (60, 90)), [Click(25, 40, radius=3.0), Click(30, 45, radius=2.0)]
    view, _ = one.predict_view(IMAGE, clicks, Answer(previous, whole_view((60, 90), 448)))
    assert view == object_view(previous, clicks, 64, margin=1.4)
    assert calls == []
    held = method(zoom_size=64, hold_view=True).predict(IMAGE, clicks, previous)
    np.testing.assert_allclose(held, one.predict(IMAGE, clicks, previous), atol=2e-6)


def test_view_is_passed_with_the_answer_and_not_with_its_probabilities() -> None:
    one, probs = late(), blob(20, 30, 35, 50, (60, 90))
    clicks = [Click(25, 40, radius=3.0), Click(30, 45, positive=False, radius=2.0)]
    wanted = object_view(probs, clicks, 64, margin=1.4)
    assert wanted is not None
    wider = View(wanted.top - 2, wanted.left - 2, wanted.height + 4, wanted.width + 4, (1, 1)).resized(64)
    assert one.answer(IMAGE, clicks, Answer(probs, wider)).view == wider
    assert one.answer(IMAGE, clicks, Answer(probs)).view == wanted
    assert np.array_equal(one.predict(IMAGE, clicks, probs), one.answer(IMAGE, clicks, Answer(probs)).probs)
    predictor = Predictor(late())
    predictor.set_image(IMAGE)
    found = predictor.predict(clicks)
    assert found.view is not None
    outside = np.ones((60, 90), bool)
    outside[found.view.top :, found.view.left :][: found.view.height, : found.view.width] = False
    assert (found.probs[outside] == 0).all()
    assert (found.probs[~outside] > 0).all()


def test_only_a_few_views_are_cached() -> None:
    one = late()
    for top in range(0, 40, 5):
        one.predict(IMAGE, [Click(top + 5, 10, radius=2.0)] * 2, blob(top, 5, top + 10, 20, (60, 90)))
        assert len(one._views) <= KEPT_VIEWS


def test_image_of_another_size_than_the_one_set_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"predict\(\) got an image of \(20, 90, 3\), reset\(\) was given \(60, 90\)"
    ):
        method().predict(IMAGE[:20], [Click(3, 3, radius=2.0)], None)
