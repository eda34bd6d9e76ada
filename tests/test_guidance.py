"""Superpixel guidance: maps and merge tree against loops, on label maps drawn by hand."""

import math

import numpy as np
import pytest
import torch

from dct_seg import Click, ClickBatch
from dct_seg.click_encoders import Euclidean
from dct_seg.models.guidance import (
    SuperpixelGuidance,
    merge_order,
    neighbors,
    proposal_shares,
    superpixels_of,
)

pytest.importorskip("skimage")

LABELS = np.array([[0, 0, 1, 1, 1], [0, 2, 2, 1, 1], [3, 3, 2, 4, 4], [3, 3, 5, 5, 4]])
IMAGE = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)


def test_distance_is_between_centroids_of_superpixels() -> None:
    clicks = [Click(0, 4), Click(3, 0), Click(2, 3, positive=False)]
    maps = SuperpixelGuidance(limit=3.0)(
        ClickBatch.from_clicks([clicks]), (4, 5), [superpixels_of(IMAGE, LABELS)]
    )
    centers = {k: tuple(np.argwhere(k == LABELS).mean(0)) for k in range(6)}
    for channel, positive in enumerate((True, False)):
        for row in range(4):
            for col in range(5):
                own = centers[LABELS[row, col]]
                wanted = min(
                    math.dist(own, centers[LABELS[int(c.row), int(c.col)]])
                    for c in clicks
                    if c.positive is positive
                )
                assert float(maps[0, channel, row, col]) == pytest.approx(min(wanted, 3.0) / 3.0, abs=1e-5)


def test_one_superpixel_per_pixel_gives_the_euclidean_maps() -> None:
    pixels = superpixels_of(IMAGE, np.arange(20).reshape(4, 5))
    clicks = ClickBatch.from_clicks([[Click(1, 1), Click(3, 4, positive=False)]])
    maps = SuperpixelGuidance(limit=4.0, objects=False)(clicks, (4, 5), [pixels])
    torch.testing.assert_close(maps, Euclidean(4.0)(clicks, (4, 5)), atol=1e-5, rtol=1e-5)


def test_with_scale_a_drag_clips_the_distance_at_eight_radii() -> None:
    pixels = superpixels_of(IMAGE, np.arange(20).reshape(4, 5))
    clicks = ClickBatch.from_clicks([[Click(0, 0, radius=0.25)]])
    maps = SuperpixelGuidance(scale=True, objects=False)(clicks, (4, 5), [pixels])
    torch.testing.assert_close(maps, Euclidean(2.0)(clicks, (4, 5)), atol=1e-5, rtol=1e-5)


def test_neighbors_share_an_edge() -> None:
    wanted = set()
    for row in range(4):
        for col in range(5):
            for r, c in ((row + 1, col), (row, col + 1)):
                if r < 4 and c < 5 and LABELS[row, col] != LABELS[r, c]:
                    wanted.add(tuple(sorted((int(LABELS[row, col]), int(LABELS[r, c])))))
    assert set(neighbors(LABELS)) == wanted


def test_most_similar_neighbors_merge_first_and_small_ones_before_large_ones() -> None:
    red, blue = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    areas, colors = np.array([10, 10, 40, 40]), np.stack([red, red, red, blue])
    assert merge_order(areas, colors, [(0, 1), (1, 2), (2, 3)]) == [(0, 1), (2, 4), (3, 5)]
    assert merge_order(areas, colors, []) == []


def test_share_counts_the_proposals_that_contain_both_superpixels() -> None:
    areas = np.array([10, 10, 10, 10, 10, 50])
    merges = [(0, 1), (2, 3), (6, 7), (4, 8), (5, 9)]
    regions = [{0}, {1}, {2}, {3}, {4}, {5}]
    for one, other in merges:
        regions.append(regions[one] | regions[other])
    proposals = [r for r in regions if 0.001 <= areas[list(r)].sum() / 100 <= 0.7]
    assert len(proposals) == 10  # all but the whole image
    shares = proposal_shares(areas, merges)
    for i in range(6):
        holding = [r for r in proposals if i in r]
        for j in range(6):
            wanted = sum(j in r for r in holding) / len(holding)
            assert float(shares[i, j]) == pytest.approx(wanted), (i, j)


def test_object_map_is_the_largest_share_over_positive_clicks() -> None:
    pixels = superpixels_of(IMAGE, LABELS)
    clicks = [Click(0, 0), Click(3, 4), Click(1, 1, positive=False)]
    maps = SuperpixelGuidance()(ClickBatch.from_clicks([clicks]), (4, 5), [pixels])
    for row in range(4):
        for col in range(5):
            here = LABELS[row, col]
            wanted = max(float(pixels.shares[0, here]), float(pixels.shares[4, here]))
            assert float(maps[0, 2, row, col]) == pytest.approx(wanted)


def test_same_image_has_the_same_superpixels_and_tiny_ones_work() -> None:
    encoder, image = SuperpixelGuidance(num_superpixels=20), torch.zeros(1, 3, 24, 32)
    image[..., 12:] = 0.8
    (one,), (other,) = encoder.prepare(image), encoder.prepare(image)
    assert torch.equal(one.labels, other.labels)
    assert len(one.centroids) == int(one.labels.max()) + 1 > 4
    (dot,) = encoder.prepare(image[..., :1, :1])
    assert dot.labels.tolist() == [[0]]


def test_missing_superpixels_are_reported() -> None:
    with pytest.raises(ValueError, match=r"pass the result of prepare\(image\)"):
        SuperpixelGuidance()(ClickBatch.empty(1), (4, 5))
