"""Enlarged corrections: windows computed by hand, and a training step that learns from them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tiny_net
from test_task import squares, train_on
from tiny import tiny_task

from dct_seg.clicks import ClickBatch
from dct_seg.simulation import NextClicks
from dct_seg.training.corrections import (
    clicks_in_windows,
    correction_windows,
    cut_windows,
    enlarge_corrections,
    shrink_batch,
)
from dct_seg.training.losses import kept_right, normalized_focal

MIDDLE = torch.full((1, 3), 0.5)


def one_click(row: float, col: float, radius: float) -> NextClicks:
    radii = torch.tensor([radius])
    return NextClicks(
        torch.tensor([[row, col]]), torch.ones(1, dtype=torch.long), radii, torch.tensor([False]), radii
    )


def test_window_reaches_a_multiple_of_the_radius_around_the_click() -> None:
    chance = torch.tensor([[math.log2(1 / 0.7), 0.5, 0.5]])  # neither scaled nor shifted
    top, left, side = correction_windows(
        torch.tensor([[49.5, 59.5]]), torch.tensor([5.0]), (100, 100), reach=4, chance=chance
    )[0].tolist()
    assert (top, left, side) == pytest.approx((30, 40, 40))


def test_window_stays_inside_the_image_and_is_enlarged_four_times_at_most() -> None:
    clicks, radii = torch.tensor([[0.0, 99.0], [50.0, 50.0]]), torch.tensor([1.0, 90.0])
    windows = correction_windows(clicks, radii, (100, 100), reach=4, chance=MIDDLE.expand(2, 3))
    assert windows.tolist() == [[0.0, 75.0, 25.0], [0.0, 0.0, 100.0]]


def test_cut_window_holds_the_pixels_of_the_finer_image() -> None:
    fine = torch.arange(64.0).reshape(1, 1, 8, 8)  # twice as fine as an image of 4 x 4
    window = torch.tensor([[1.0, 2.0, 2.0]])  # rows 2..5 and columns 4..7 of the finer one
    assert cut_windows(fine, window, 4, of=(4, 4)).tolist() == [[fine[0, 0, 2:6, 4:8].tolist()]]


def test_click_keeps_its_position_and_radius_in_the_window_and_becomes_padding_outside() -> None:
    clicks = ClickBatch(
        torch.tensor([[[2.0, 3.0], [0.0, 0.0]]]), torch.tensor([[1, 0]]), torch.tensor([[1.5, 2.0]])
    )
    inside = clicks_in_windows(clicks, torch.tensor([[1.0, 2.0, 2.0]]), 4)
    assert inside.coords[0, 0].tolist() == [2.5, 2.5]  # center of pixel (2, 3) at twice the scale
    assert inside.labels.tolist() == [[1, -1]]
    assert inside.radii[0].tolist() == [3.0, 4.0]


def test_shrunk_batch_averages_the_image_and_keeps_masks_binary() -> None:
    image = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]).expand(1, 3, 2, 2)
    mask = torch.tensor([[[False, False], [False, True]]])
    small = shrink_batch({"image": image, "mask": mask, "ignore": ~mask}, 2)
    assert small["image"].flatten().tolist() == [0.5] * 3
    assert small["mask"].tolist() == [[[True]]]
    assert small["ignore"].tolist() == [[[False]]]


def test_crop_that_is_not_a_multiple_of_the_fine_factor_is_refused() -> None:
    batch = {"image": torch.zeros(1, 3, 9, 8), "mask": torch.zeros(1, 9, 8), "ignore": torch.zeros(1, 9, 8)}
    with pytest.raises(ValueError, match=r"multiple of fine_factor 2, got 9x8; set data\.crop_size"):
        shrink_batch(batch, 2)


def test_enlarged_correction_shows_object_and_previous_mask_at_the_same_place() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 16:32, 16:32] = True
    fine = {
        "image": mask[:, None].float().expand(1, 3, 64, 64),
        "mask": mask,
        "ignore": torch.zeros_like(mask),
    }
    previous = mask[:, None, ::2, ::2].float()
    asked = one_click(11.5, 11.5, 2.0)
    clicks = ClickBatch.empty(1).append(asked.coords, asked.labels, asked.radii)
    generator = torch.Generator().manual_seed(0)
    window = enlarge_corrections(fine, asked, clicks, previous, reach=4.0, generator=generator)
    assert window.image.shape == (1, 3, 32, 32)
    assert window.mask.any()
    assert not window.mask.all()
    agree = ((window.previous[:, 0] > 0.5) == window.mask).float().mean()
    assert agree > 0.9
    row, col = window.clicks.coords[0, 0].round().long().tolist()
    assert window.mask[0, row, col]
    enlarged = float(window.clicks.radii[0, 0]) / 2.0
    assert 1 < enlarged <= 4
    assert float(window.asked.true_radii) == pytest.approx(2.0 * enlarged)
    assert torch.equal(window.asked.coords, window.clicks.coords[:, 0])
    assert torch.equal(window.asked.radii, window.clicks.radii[:, 0])


def test_keep_loss_counts_only_pixels_that_were_right_before() -> None:
    mask = torch.tensor([[[True, True, False, False]]])
    before = torch.tensor([[[[2.0, -2.0, -2.0, 2.0]]]])  # right at the first and the third pixel
    logits = torch.tensor([[[[1.0, -3.0, 0.5, 3.0]]]])
    nothing = torch.zeros_like(mask)
    right = torch.tensor([[[True, False, True, False]]])
    expected = normalized_focal(logits[:, 0], mask, right)[0]
    assert kept_right(logits, before, mask, nothing, torch.tensor([False])) == expected
    assert kept_right(logits, before, mask, nothing, torch.tensor([True])) == 0


@pytest.mark.parametrize("options", [{}, {"update": "sum", "network": {"prompt_fusion": "late"}}])
def test_windows_add_optimizer_steps_and_reach_every_parameter(
    options: dict[str, Any], tmp_path: Path
) -> None:
    task = tiny_task(
        train_clicks=(1, 1), local_clicks=(2, 2), fine_factor=2, keep_loss=0.5, drag_share=0.5, **options
    )
    _, gradients = train_on(task, squares(), tmp_path)
    assert len(gradients) == 3
    assert [name for name, grad in gradients[-1].items() if grad is None] == []


def test_detail_branch_starts_as_an_upsampling_of_the_logits() -> None:
    from dct_seg.models.detail import DetailBranch

    branch = DetailBranch(4, 6)
    logits = torch.randn(1, 1, 4, 5)
    refined = branch(torch.randn(1, 4, 8, 10), torch.randn(1, 6, 4, 5), logits)
    upsampled = torch.nn.functional.interpolate(logits, (8, 10), mode="bilinear", align_corners=False)
    assert torch.equal(refined, upsampled)


def test_detail_needs_early_fusion_and_a_finer_level() -> None:
    with pytest.raises(ValueError, match="set prompt_fusion to early"):
        tiny_net(detail=True, prompt_fusion="late")
    with pytest.raises(ValueError, match="no level finer than stride"):
        tiny_net(detail=True, backbone="vit_tiny_patch16_224")
