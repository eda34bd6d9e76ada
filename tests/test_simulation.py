import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

import dct_seg.simulation.user as simulation
import dct_seg.simulation.wrong_pixels as wrong_pixels
from dct_seg import SimulatedUser, first_click, next_click
from dct_seg.clicks import Click, ClickBatch
from dct_seg.simulation import predicted


def drawn(*rows):
    """A (1, H, W) bool mask from rows of '#' and '.'."""
    return torch.tensor([[[pixel == "#" for pixel in row] for row in rows]])


def square(size, top, left, side):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, top : top + side, left : left + side] = True
    return mask


def as_click(found, b=0):
    """(row, col, label, squared radius) of one image; None when done."""
    if found.done[b]:
        return None
    return (*found.coords[b].int().tolist(), int(found.labels[b]), round(found.true_radii[b].item() ** 2))


def clicked(*pixels):
    return ClickBatch.from_clicks([[Click(*pixel) for pixel in pixels]])


# --- the rules, as plain loops over pixels ------------------------------------------------------------------


def naive_squares(wrong):
    """The squared distance of each True pixel to the nearest False pixel, including those around the
    image.
    """
    height, width = wrong.shape
    zeros = [
        (r, c)
        for r, c in product(range(-1, height + 1), range(-1, width + 1))
        if not (0 <= r < height and 0 <= c < width and wrong[r, c])
    ]
    return {
        (r, c): min((r - i) ** 2 + (c - j) ** 2 for i, j in zeros)
        for r, c in product(range(height), range(width))
        if wrong[r, c]
    }


def naive_first_of_deepest(squares, taken):
    free = {pixel: square for pixel, square in squares.items() if pixel not in taken}
    if not free:
        return None
    deepest = max(free.values())
    return min(pixel for pixel, square in free.items() if square == deepest), deepest


def naive_max_distance(pred, mask, ignore, taken):
    missed = naive_first_of_deepest(naive_squares(mask & ~pred & ~ignore), taken)
    false = naive_first_of_deepest(naive_squares(pred & ~mask & ~ignore), taken)
    if missed is None and false is None:
        return None
    positive = false is None or (missed is not None and missed[1] > false[1])
    (row, col), squared = missed if positive else false
    return row, col, int(positive), squared


def naive_regions(wrong):
    """The 8-connected regions, as sets of pixels."""
    left, regions = {(int(r), int(c)) for r, c in np.argwhere(wrong)}, []
    while left:
        frontier, region = [min(left)], set()
        while frontier:
            row, col = frontier.pop()
            if (row, col) in left:
                left.remove((row, col))
                region.add((row, col))
                frontier += [(row + i, col + j) for i, j in product((-1, 0, 1), repeat=2)]
        regions.append(region)
    return regions


def naive_largest_region(pred, mask, ignore, taken):
    regions = [(-len(region), 0, min(region), region) for region in naive_regions(pred & ~mask & ~ignore)]
    regions += [(-len(region), 1, min(region), region) for region in naive_regions(mask & ~pred & ~ignore)]
    for _, positive, _, region in sorted(regions, key=lambda one: one[:3]):
        alone = np.zeros_like(mask)
        alone[tuple(zip(*region, strict=True))] = True
        found = naive_first_of_deepest(naive_squares(alone), taken)
        if found is not None:
            return *found[0], positive, found[1]
    return None


NAIVE = {"max_distance": naive_max_distance, "largest_region": naive_largest_region}


def random_case(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 14, 2)
    scale = int(rng.integers(1, 5))  # blocks of this side, so that regions of some depth appear

    def blocks(share):
        small = rng.random((height // scale + 1, width // scale + 1)) < share
        return small.repeat(scale, 0).repeat(scale, 1)[:height, :width]

    pred, mask, ignore = blocks(0.4), blocks(0.6), rng.random((height, width)) < rng.choice([0, 0.1])
    pixels = np.argwhere((pred ^ mask) | True)
    taken = [tuple(pixel) for pixel in pixels[rng.random(len(pixels)) < rng.choice([0, 0.1, 0.7])]]
    return pred, mask, ignore, taken


@pytest.mark.parametrize("rule", NAIVE)
@pytest.mark.parametrize("small_windows", [False, True])
def test_each_rule_equals_a_plain_loop(rule, small_windows, monkeypatch):
    if (
        small_windows
    ):  # the code paths of large images: tiles, one window for many blobs, distances measured again
        monkeypatch.setattr(wrong_pixels, "_TILE", 3)
        monkeypatch.setattr(wrong_pixels, "_MAX_WINDOWS", 1)
        monkeypatch.setattr(wrong_pixels, "_EXACT_BELOW", 2)
    for seed in range(120):
        pred, mask, ignore, taken = random_case(seed)
        clicks = ClickBatch.from_clicks([[Click(int(r), int(c)) for r, c in taken]])
        found = next_click(*(torch.from_numpy(one)[None] for one in (pred, mask, ignore)), clicks, rule=rule)
        assert as_click(found) == NAIVE[rule](pred, mask, ignore, taken), f"seed {seed}"


# --- known answers ------------------------------------------------------------------------------------------


def test_a_square_is_clicked_in_its_middle():
    assert as_click(first_click(square(9, 2, 2, 5))) == (4, 4, 1, 9)


def test_of_four_tied_pixels_the_first_in_row_major_order_is_clicked():
    assert as_click(first_click(square(8, 2, 2, 4)))[:3] == (3, 3, 1)


def test_a_tie_of_signs_gives_the_negative_click():
    missed, false = square(20, 1, 1, 5), square(20, 12, 12, 5)
    assert as_click(next_click(false, missed)) == (14, 14, 0, 9)


def test_the_image_border_is_a_boundary():
    assert as_click(first_click(square(9, 0, 0, 5))) == (2, 2, 1, 9)


def test_a_click_between_two_pixels_is_on_the_one_below():
    mask = square(10, 2, 2, 5)  # (4, 4) is deepest
    nothing = torch.zeros_like(mask)
    assert as_click(next_click(nothing, mask, clicks=clicked((3.5, 4)))) == (3, 3, 1, 4)
    assert as_click(next_click(nothing, mask, clicks=clicked((4.5, 4)))) == (4, 4, 1, 9)


def test_a_click_at_the_edge_of_the_image_is_on_the_last_pixel():
    mask = square(10, 9, 4, 1)
    assert next_click(torch.zeros_like(mask), mask, clicks=clicked((9.5, 4))).done.all()


def test_a_clicked_pixel_is_not_clicked_again_and_is_not_a_hole():
    mask = square(9, 2, 2, 5)
    assert as_click(next_click(torch.zeros_like(mask), mask, clicks=clicked((4, 4)))) == (3, 3, 1, 4)


def test_a_thin_ignored_line_is_a_boundary():
    mask = square(9, 2, 2, 5)
    ignore = torch.zeros_like(mask)
    ignore[0, 4] = True
    assert as_click(first_click(mask, ignore)) == (2, 2, 1, 1)


@pytest.mark.parametrize("rule", NAIVE)
def test_nothing_wrong_is_done(rule):
    mask = square(9, 2, 2, 5)
    found = next_click(mask, mask, rule=rule)
    assert (found.done.item(), found.labels.item(), found.radii.item(), found.coords.tolist()) == (
        True,
        -1,
        0,
        [[0, 0]],
    )


@pytest.mark.parametrize("rule", NAIVE)
def test_all_wrong_pixels_clicked_is_done(rule):
    mask = drawn("...", ".#.", "...")
    assert next_click(torch.zeros_like(mask), mask, clicks=clicked((1, 1)), rule=rule).done.all()


@pytest.mark.parametrize("rule", NAIVE)
def test_only_ignored_pixels_wrong_is_done(rule):
    mask = square(9, 2, 2, 5)
    assert next_click(torch.zeros_like(mask), mask, ignore=mask.clone(), rule=rule).done.all()


def test_the_largest_region_is_not_the_deepest():
    mask = drawn(
        "##########",
        "##########",
        "..........",
        "###.......",
        "###.......",
        "###.......",
    )
    nothing = torch.zeros_like(mask)
    assert as_click(next_click(nothing, mask, rule="max_distance")) == (4, 1, 1, 4)
    assert as_click(next_click(nothing, mask, rule="largest_region")) == (0, 0, 1, 1)


def test_the_first_click_is_the_same_under_both_rules():
    mask = drawn("##########", "##########", "..........", "###.......", "###.......", "###.......")
    for rule in NAIVE:
        assert as_click(SimulatedUser(mask, rule=rule)(None, ClickBatch.empty(1))) == (4, 1, 1, 4)


def test_regions_of_one_size_and_sign_are_ordered_by_their_first_pixel():
    # The lower region has the smaller column, the upper one the earlier row.
    mask = drawn(".....##", ".....##", "##.....", "##.....")
    assert as_click(next_click(torch.zeros_like(mask), mask, rule="largest_region"))[:2] == (0, 5)


# --- large images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_a_large_object_is_measured_exactly(seed):
    # A radius above 1024: its square no longer survives float32.
    rng = np.random.default_rng(seed)
    mask = np.ones((2300, 2200), dtype=bool)
    mask[rng.integers(0, 2300, 40), rng.choice([0, 40, 2150, 2199], 40)] = False
    exact = np.rint(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] ** 2).astype(np.int64)
    row, col = np.unravel_index(exact.argmax(), exact.shape)
    found = first_click(torch.from_numpy(mask)[None])
    assert found.coords[0].tolist() == [row, col]
    assert found.radii.item() == pytest.approx(math.sqrt(exact.max()), rel=1e-7)


def test_a_long_strip_is_clicked_at_its_first_pixel_of_full_depth():
    mask = torch.zeros(1, 12, 9000, dtype=torch.bool)
    mask[0, 2:9, 5:8990] = True
    mask[0, 5, 8] = False  # a hole near the start
    assert as_click(first_click(mask)) == (5, 12, 1, 16)


# --- batches and devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", NAIVE)
def test_a_batch_on_threads_equals_its_images_one_by_one(rule, monkeypatch):
    rng = np.random.default_rng(0)
    mask, pred = (torch.from_numpy(rng.random((6, 40, 50)) < share) for share in (0.7, 0.5))
    monkeypatch.setattr(simulation, "_THREADED", 1)
    together = next_click(pred, mask, rule=rule)
    alone = [as_click(next_click(pred[b : b + 1], mask[b : b + 1], rule=rule)) for b in range(6)]
    assert [as_click(together, b) for b in range(6)] == alone


def test_a_finished_image_does_not_affect_the_others():
    mask = torch.cat([square(9, 2, 2, 5), square(9, 2, 2, 5)])
    pred = torch.cat([mask[:1], torch.zeros_like(mask[1:])])
    found = next_click(pred, mask)
    assert found.done.tolist() == [True, False]
    assert as_click(found, 1) == (4, 4, 1, 9)


def test_padding_and_clicks_outside_the_image_are_ignored():
    mask = square(9, 2, 2, 5)
    clicks = ClickBatch(
        torch.tensor([[[4.0, 4.0], [-3.0, 4.0], [4.0, 99.0]]]), torch.tensor([[-1, 1, 1]]), torch.zeros(1, 3)
    )
    assert as_click(next_click(torch.zeros_like(mask), mask, clicks=clicks)) == (4, 4, 1, 9)


def test_views_of_other_tensors_are_read_correctly():
    mask = square(9, 1, 3, 5)
    assert as_click(first_click(mask.transpose(1, 2))) == (5, 3, 1, 9)
    assert as_click(first_click(mask.flip(2)[:, ::2].expand(3, -1, -1)), 2) == as_click(
        first_click(mask.flip(2)[:, ::2].contiguous())
    )


def test_an_empty_batch_gives_no_clicks():
    assert next_click(*torch.zeros(2, 0, 4, 4, dtype=torch.bool)).coords.shape == (0, 2)


def test_arguments_are_not_changed():
    mask, pred = square(9, 2, 2, 5), square(9, 4, 4, 4)
    before = mask.clone(), pred.clone()
    for rule in NAIVE:
        next_click(pred, mask, rule=rule)
    assert torch.equal(mask, before[0])
    assert torch.equal(pred, before[1])


# --- the user -----------------------------------------------------------------------------------------------


def test_a_probability_must_be_above_the_threshold():
    logits = torch.tensor([[[0.49, 0.4901]]]).logit()
    assert predicted(logits, 0.49).tolist() == [[[False, True]]]


def test_logits_may_have_a_channel():
    logits = torch.randn(2, 1, 5, 5)
    assert torch.equal(predicted(logits), predicted(logits[:, 0]))


def test_the_prompt_decides_whether_the_radius_is_given():
    mask = square(9, 2, 2, 5)
    with_radius, without_radius = (
        SimulatedUser(mask, prompt=prompt)(None, ClickBatch.empty(1)) for prompt in ("drag", "click")
    )
    assert with_radius.radii.item() == with_radius.true_radii.item() == 3
    assert math.isnan(without_radius.radii.item())
    assert without_radius.true_radii.item() == 3


def test_the_prompt_may_differ_by_sample():
    mask = square(9, 2, 2, 5).repeat(2, 1, 1)
    found = SimulatedUser(mask, prompt=torch.tensor([True, False]))(None, ClickBatch.empty(2))
    assert found.radii.isnan().tolist() == [False, True]


def test_a_user_is_done_under_a_click_prompt_too():
    mask = square(9, 2, 2, 5)
    found = SimulatedUser(mask, prompt="click")(mask * 9.0, ClickBatch.empty(1))
    assert found.done.all()
    assert found.radii.item() == 0


def two_blobs():
    """A missed blob with a small one next to it, and a false blob, each of some depth."""
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 5:35, 4:30] = True
    mask[0, 5:12, 36:43] = True
    pred = torch.zeros_like(mask)
    pred[0, 20:36, 40:56] = True
    return mask, pred


@pytest.mark.parametrize("rule", NAIVE)
@pytest.mark.parametrize(
    "options", [{"place": "core"}, {"click_jitter": 3.0}, {"place": "core", "click_jitter": 2.5}]
)
def test_a_random_position_stays_in_the_region_and_has_its_distance(rule, options):
    mask, pred = two_blobs()
    missed = (mask & ~pred)[0].numpy()
    squares = np.rint(distance_transform_edt(np.pad(missed, 1))[1:-1, 1:-1] ** 2)
    center = next_click(pred, mask, rule=rule)
    user = SimulatedUser(mask, rule=rule, generator=torch.Generator().manual_seed(0), **options)
    clicks, pixels = ClickBatch.empty(1), set()
    for _ in range(40):
        found = user(torch.where(pred, 5.0, -5.0), clicks)
        row, col = found.coords[0].int().tolist()
        clicks = clicks.append(found.coords, found.labels, found.radii)
        pixels.add((row, col))
        assert found.labels.item() == 1
        assert 5 <= row < 35
        assert 4 <= col < 30
        assert found.radii.item() == pytest.approx(math.sqrt(squares[row, col]))
        if options == {"place": "core"} and len(pixels) == 1:
            assert 2 * found.radii.item() >= center.radii.item()
        if options == {"click_jitter": 3.0} and len(pixels) == 1:
            assert (found.coords - center.coords).norm().item() <= 3
    assert len(pixels) == 40  # never the same pixel twice


def test_radius_noise_stays_in_its_range_and_leaves_the_true_radius():
    mask = square(9, 2, 2, 5).repeat(200, 1, 1)
    found = SimulatedUser(mask, radius_noise=0.2, generator=torch.Generator().manual_seed(0))(
        None, ClickBatch.empty(200)
    )
    assert (found.true_radii == 3).all()
    assert 2.4 <= found.radii.min() < 2.5
    assert 3.5 < found.radii.max() <= 3.6


def test_the_same_generator_gives_the_same_clicks(monkeypatch):
    mask, pred = (one.repeat(4, 1, 1) for one in two_blobs())

    def clicks_of(seed):
        user = SimulatedUser(
            mask,
            place="core",
            click_jitter=2,
            radius_noise=0.1,
            generator=torch.Generator().manual_seed(seed),
        )
        found = user(torch.where(pred, 5.0, -5.0), ClickBatch.empty(4))
        return torch.cat([found.coords.flatten(), found.radii])

    one = clicks_of(0)
    monkeypatch.setattr(simulation, "_THREADED", 1)
    assert torch.equal(one, clicks_of(0))
    assert not torch.equal(one, clicks_of(1))


# --- errors -------------------------------------------------------------------------------------------------


def test_maps_of_another_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"pred must be \(B, H, W\) like mask, got \(1, 4, 5\) with mask \(1, 4, 4\)"
    ):
        next_click(torch.zeros(1, 4, 5, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool))


def test_maps_that_are_not_bool_are_refused():
    with pytest.raises(
        TypeError, match=r"mask must be a bool tensor, got torch.float32; compare it with a threshold first"
    ):
        first_click(torch.zeros(1, 4, 4))


def test_an_unknown_rule_lists_the_known_ones():
    mask = square(9, 2, 2, 5)
    with pytest.raises(ValueError, match="unknown rule 'max_distanse'; did you mean 'max_distance'"):
        next_click(mask, mask, rule="max_distanse")


def test_clicks_of_another_batch_are_refused():
    mask = square(9, 2, 2, 5)
    with pytest.raises(ValueError, match="clicks have 2 images, but mask has 1"):
        next_click(mask, mask, clicks=ClickBatch.empty(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius_noise": 1.0}, "radius_noise must be a fraction"),
        ({"click_jitter": -1.0}, "click_jitter must be a distance"),
        ({"threshold": 0.0}, "threshold must be a probability"),
        ({"place": "corner"}, "unknown place 'corner'; did you mean 'core'"),
        ({"prompt": "drags"}, "unknown prompt 'drags'; did you mean 'drag'"),
        ({"prompt": torch.ones(3, dtype=torch.bool)}, r"bool of shape \(1,\), got torch.bool \(3,\)"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatedUser(square(9, 2, 2, 5), **options)
