"""Random clicks: margins, steps and bands hold, and the surrounding clicks equal those of a full scan."""

import math

import numpy as np
import pytest
import torch

from dct_seg.simulation.random_clicks import RandomClicks, around, depths, surround

RULES = RandomClicks(margin=3.0, step=5.0, band=8.0)


def drawn_mask(rng: np.random.Generator) -> np.ndarray:
    rows, cols = np.mgrid[:32, :40]
    center, radii = rng.uniform(8, 24, 2), rng.uniform(2, 12, 2)
    return ((rows - center[0]) / radii[0]) ** 2 + ((cols - center[1]) / radii[1]) ** 2 <= 1


def test_margins_steps_and_the_band_hold_on_two_hundred_masks() -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(200):
        mask = drawn_mask(rng)
        clicks = RULES.of_mask(mask, np.zeros_like(mask), rng)
        deep = depths(mask).max() >= 3
        positive = [(int(c.row), int(c.col)) for c in clicks if c.positive]
        negative = [(int(c.row), int(c.col)) for c in clicks if not c.positive]
        assert 1 <= len(positive) <= 5
        assert 1 <= len(negative) <= 10
        kinds.add(len(negative))
        for pixel in positive:
            assert mask[pixel]
            assert depths(mask)[pixel] >= 3 or not deep
        for pixel in negative:
            assert not mask[pixel]
            assert around(mask, 8.0)[pixel]
        for i, one in enumerate(positive):
            assert all(math.dist(one, other) >= 5 for other in positive[:i])
    assert len(kinds) > 3


def test_surrounding_clicks_are_farthest_from_the_chosen_ones_and_the_rim() -> None:
    mask = np.zeros((12, 14), bool)
    mask[5:8, 5:9] = True
    band = around(mask, 4.0)
    found = surround(band, 4, np.random.default_rng(1))
    outside = [
        (r, c)
        for r in range(-1, 13)
        for c in range(-1, 15)
        if not (0 <= r < 12 and 0 <= c < 14 and band[r, c])
    ]
    for number in range(1, 4):
        chosen = found[:number]
        scores = {
            (r, c): min(math.dist((r, c), other) for other in [*outside, *chosen])
            for r in range(12)
            for c in range(14)
            if band[r, c]
        }
        assert scores[found[number]] == pytest.approx(max(scores.values()), abs=1e-4)


def test_thin_object_gives_its_deepest_pixel_and_an_empty_one_none() -> None:
    mask = np.zeros((20, 20), bool)
    mask[9:11, 2:18] = True
    clicks = RULES.of_mask(mask, np.zeros_like(mask), np.random.default_rng(0))
    assert [mask[int(c.row), int(c.col)] for c in clicks if c.positive] == [True]
    assert RULES.of_mask(np.zeros_like(mask), np.zeros_like(mask), np.random.default_rng(0)) == []


def test_ignored_pixels_are_never_clicked_and_a_seed_draws_the_same_again() -> None:
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[:, 8:24, 8:24] = True
    ignore = torch.zeros_like(mask)
    ignore[:, :, 16:] = True
    first, second = (RULES.draw(mask, ignore, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.coords, second.coords)
    for b, n in first.valid.nonzero().tolist():
        row, col = (int(x) for x in first.coords[b, n])
        assert not ignore[b, row, col]
        assert bool(mask[b, row, col]) == bool(first.labels[b, n])


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(
        ValueError, match="positives, negatives and surrounding must be at least 1, got 0, 10"
    ):
        RandomClicks(positives=0)
    with pytest.raises(ValueError, match=r"band above 0, got 5\.0, 10\.0, 0"):
        RandomClicks(band=0)
