"""The simulated user and the metric against independent reference results; see data/README.md."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dct_seg import SimulatedUser, next_click
from dct_seg.clicks import ClickBatch
from dct_seg.metrics import at_least_max, failures, iou, num_clicks_to
from dct_seg.simulation import NextClicks

VECTORS = np.load(Path(__file__).parent / "data" / "ritm_protocol.npz", allow_pickle=False)
ALL_CLICKED_OR_PERFECT = 4
STEPS = range(int(VECTORS["step_n"]))
RUNS = range(int(VECTORS["seq_n"]))
REGIONS = range(int(VECTORS["region_n"]))
GROUPS = range(int(VECTORS["metric_n"]))


def maps(gt):
    return torch.from_numpy(gt == 1)[None], torch.from_numpy(gt == -1)[None]


def batch_of(rows):
    """Clicks (row, col, positive) as a batch of one image."""
    table = torch.from_numpy(np.asarray(rows)).long().reshape(1, -1, 3)
    return ClickBatch(table[..., :2].float(), table[..., 2], torch.ones(table.shape[:2]))


def as_row(click: NextClicks):
    return [*click.coords[0].int().tolist(), int(click.labels[0])]


@pytest.mark.parametrize("case", STEPS)
def test_one_click_equals_the_reference_click(case):
    mask, ignore = maps(VECTORS[f"step_{case:03d}_gt"])
    pred = torch.from_numpy(VECTORS[f"step_{case:03d}_pred"])[None]
    click = next_click(pred, mask, ignore, batch_of(VECTORS[f"step_{case:03d}_earlier"]))
    if VECTORS["step_tie"][case] & ALL_CLICKED_OR_PERFECT:
        assert click.done.all()
        assert as_row(click) == [0, 0, -1]
        assert click.radii.item() == 0
    else:
        assert as_row(click) == VECTORS["step_click"][case].tolist()
        assert click.radii.item() == pytest.approx(VECTORS["step_radius"][case], rel=1e-6)


@pytest.mark.parametrize("case", RUNS)
def test_a_whole_run_equals_the_reference_run(case):
    gt, preds = VECTORS[f"seq_{case:03d}_gt"], torch.from_numpy(VECTORS[f"seq_{case:03d}_preds"])
    ties, expected = VECTORS[f"seq_{case:03d}_tie"], VECTORS[f"seq_{case:03d}_clicks"]
    mask, ignore = maps(gt)
    user, clicks, logits, ious = SimulatedUser(mask, ignore), ClickBatch.empty(1), None, []
    for k in range(int(VECTORS["seq_max_clicks"][case])):
        click = user(logits, clicks)
        if click.done.all():
            # The reference continues with stray clicks at (0, 0), which may even damage the mask; our run
            # ends here.
            assert ties[k] & ALL_CLICKED_OR_PERFECT
            break
        assert as_row(click) == expected[k].tolist()
        clicks = clicks.append(click.coords, click.labels, click.radii)
        pred = preds[min(k, len(preds) - 1)][None]
        logits = torch.where(pred, 5.0, -5.0)
        ious.append(iou(pred, mask, ignore).item())
        if ious[-1] >= VECTORS["seq_target"][case]:
            break
    if not click.done.all():
        assert len(ious) == VECTORS["seq_n_clicks"][case]
    assert np.array_equal(np.float32(ious), VECTORS[f"seq_{case:03d}_ious"][: len(ious)])


@pytest.mark.parametrize("case", REGIONS)
def test_the_click_into_the_largest_region_equals_the_reference_click(case):
    mask, ignore = maps(VECTORS[f"region_{case:03d}_gt"])
    click = next_click(
        torch.from_numpy(VECTORS[f"region_{case:03d}_pred"])[None], mask, ignore, rule="largest_region"
    )
    expected = VECTORS["region_click"][case].tolist()
    if expected == [-1, -1, -1]:
        assert click.done.all()
    else:
        assert as_row(click) == expected
        assert click.radii.item() == pytest.approx(VECTORS["region_radius"][case], rel=1e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_number_of_clicks_equals_the_reference_number(group):
    ious = torch.from_numpy(VECTORS[f"metric_{group}_ious"])
    max_clicks = int(VECTORS[f"metric_{group}_max_clicks"])
    for t, threshold in enumerate(VECTORS[f"metric_{group}_thresholds"].tolist()):
        clicks = num_clicks_to(ious, threshold, max_clicks, target=1.0)
        assert clicks.tolist() == VECTORS[f"metric_{group}_noc_each"][:, t].tolist()
        assert clicks.double().mean().item() == pytest.approx(VECTORS[f"metric_{group}_noc"][t])
        assert (
            at_least_max(ious, threshold, max_clicks, target=1.0).item()
            == VECTORS[f"metric_{group}_ge_max"][t]
        )
        assert (
            failures(ious, threshold, max_clicks, target=1.0).item() == VECTORS[f"metric_{group}_failed"][t]
        )
