import numpy as np
import pytest
import torch
from ddp import run_on_ranks
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DistributedSampler

from dct_seg.metrics import (
    NumberOfClicks,
    at_least_max,
    auc,
    bootstrap_interval,
    failures,
    hold_last,
    iou,
    miou_at,
    num_clicks_to,
)


def bits(text):
    return torch.tensor([[[pixel == "#" for pixel in text]]])


# --- IoU ----------------------------------------------------------------------------------------------------


def test_iou_counts_pixels():
    assert iou(bits("##.."), bits(".##.")).tolist() == [1 / 3]


def test_ignored_pixels_are_never_counted():
    assert iou(bits("###."), bits(".##."), bits("#...")).tolist() == [1]


def test_iou_is_exact_for_any_size():
    pred = torch.ones(1, 5000, 5000, dtype=torch.bool)  # above 2**24 pixels, where float32 stops counting
    mask = pred.clone()
    mask[0, 0, 0] = False
    assert iou(pred, mask).item() == (5000**2 - 1) / 5000**2


def test_iou_is_float32_on_a_device_without_float64():
    with FakeTensorMode():
        pred = torch.zeros(1, 4, 4, dtype=torch.bool, device="mps")
        found = iou(pred, pred)
    assert (found.device.type, found.dtype) == ("mps", torch.float32)


def test_two_empty_masks_have_iou_1_and_the_warning_names_the_sample():
    nothing = bits("....")
    assert iou(nothing, nothing).tolist() == [1]
    with pytest.warns(UserWarning, match=r"b\.png: mask and prediction are both empty"):
        iou(torch.cat([bits("#..."), nothing]), torch.cat([bits("#..."), nothing]), names=["a.png", "b.png"])


def test_probabilities_are_refused():
    with pytest.raises(TypeError, match=r"pred must be bool .* got torch.float32"):
        iou(torch.rand(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))


# --- runs ---------------------------------------------------------------------------------------------------


def test_clicks_are_counted_to_the_first_that_reaches_the_iou():
    runs = torch.tensor([[0.9, 0.1, 0.95], [0.1, 0.2, 0.9], [0.1, 0.2, 0.3]])
    assert num_clicks_to(runs, 0.9, 3).tolist() == [1, 3, 3]
    assert failures(runs, 0.9, 3).item() == 1
    assert at_least_max(runs, 0.9, 3).item() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ious_are_compared_as_float32(dtype):
    below = torch.nextafter(torch.tensor(0.85), torch.tensor(0.0))
    runs = torch.stack([torch.tensor(0.85), below])[:, None].to(dtype)
    assert failures(runs, 0.8500000000000001, 1).item() == 1
    assert num_clicks_to(torch.tensor([[0.8999999999, -1.0]], dtype=dtype), 0.9, 3).tolist() == [1]


def test_a_perfect_run_keeps_its_iou_to_the_end():
    runs = torch.tensor([[0.5, 1.0, -1.0, -1.0], [0.1, 0.2, 0.3, 0.4]])
    assert miou_at(runs, 4, 4).item() == pytest.approx(0.7)
    assert auc(runs, 4).item() == pytest.approx((0.5 + 3 + 1.0) / 8)
    assert num_clicks_to(runs, 0.9, 4).tolist() == [2, 4]


def test_a_run_stopped_at_a_target_is_unknown_above_it():
    runs = torch.tensor([[0.5, 0.86, -1.0]])
    assert num_clicks_to(runs, 0.85, 3, target=0.85).tolist() == [2]
    with pytest.raises(ValueError, match=r"the runs stop at IoU 0\.85, so the result at 0\.9 is unknown"):
        num_clicks_to(runs, 0.9, 3, target=0.85)
    for number in (miou_at(torch.tensor([[1.0, -1.0]]), 2, 2), auc(torch.tensor([[1.0, -1.0]]), 2)):
        assert number.item() == 1
    with pytest.raises(ValueError, match="the result at 1 is unknown"):
        auc(runs, 3, target=0.85)


def test_a_short_run_without_a_reason_is_an_error():
    runs = torch.tensor([[0.5, 0.6, 0.7], [0.5, 0.86, float("nan")]])
    assert num_clicks_to(runs, 0.85, 3).tolist() == [3, 2]
    with pytest.raises(
        ValueError, match=r"run 1 ends after 2 of 3 clicks at IoU 0\.86, below 0\.9; give `target`"
    ):
        num_clicks_to(runs, 0.9, 3)
    assert num_clicks_to(runs, 0.9, 3, target=1.0).tolist() == [3, 3]


def test_a_gap_in_a_run_is_an_error():
    for runs in ([[0.5, -1.0, 0.7]], [[-1.0, -1.0, -1.0]]):
        with pytest.raises(ValueError, match="row 0 of the IoUs is empty or has a gap"):
            hold_last(torch.tensor(runs), 3)


def test_more_clicks_than_max_clicks_are_an_error():
    with pytest.raises(ValueError, match=r"K from 1 to max_clicks \(3\), got \(1, 4\)"):
        num_clicks_to(torch.rand(1, 4), 0.9, 3)


def test_numbers_equal_a_plain_loop_over_random_runs():
    rng = np.random.default_rng(0)
    runs = [[float(v) for v in np.float32(rng.random(rng.integers(1, 7)))] for _ in range(50)]
    table = torch.tensor([run + [-1.0] * (6 - len(run)) for run in runs])
    clicks = [next((k for k, value in enumerate(run, 1) if value >= 0.8), None) for run in runs]
    held = [run + [run[-1]] * (6 - len(run)) for run in runs]
    assert num_clicks_to(table, 0.8, 6, target=1.0).tolist() == [6 if k is None else k for k in clicks]
    assert failures(table, 0.8, 6, target=1.0).item() == clicks.count(None)
    assert at_least_max(table, 0.8, 6, target=1.0).item() == sum(k is None or k == 6 for k in clicks)
    assert auc(table, 6, target=1.0).item() == pytest.approx(np.mean(held))
    assert miou_at(table, 3, 6, target=1.0).item() == pytest.approx(np.mean([run[2] for run in held]))


# --- the interval -------------------------------------------------------------------------------------------


def test_the_interval_is_close_to_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).integers(1, 21, 6000)
    assert bootstrap_interval(values, num_resamples=1000) == bootstrap_interval(
        values.tolist(), num_resamples=1000
    )
    assert bootstrap_interval(values, num_resamples=1000) != bootstrap_interval(
        values, num_resamples=1000, seed=1
    )


def test_an_interval_of_no_values_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])


# --- the metric ---------------------------------------------------------------------------------------------


def runs_of(num_samples, max_clicks=20):
    return torch.rand(num_samples, max_clicks, generator=torch.Generator().manual_seed(num_samples))


def measured(num_samples, ids, batch_size=4):
    metric, runs = NumberOfClicks(num_samples, thresholds=(0.85, 0.9)), runs_of(num_samples)
    for start in range(0, len(ids), batch_size):
        some = torch.tensor(ids[start : start + batch_size])
        metric.update(runs[some], some)
    return metric.compute()


def measured_on_rank(rank, world_size, num_samples, how):
    if how == "padded":
        ids = list(DistributedSampler(range(num_samples), world_size, rank, shuffle=True, seed=3))
    elif how == "uneven":
        ids = list(range(num_samples))[: num_samples - 1] if rank == 0 else [num_samples - 1]
    else:
        ids = list(range(num_samples)) if rank == 0 else []
    return measured(num_samples, ids)


CASES = [
    (1, "padded"),
    (5, "padded"),
    (50, "padded"),
    (5, "uneven"),
    (50, "uneven"),
    (5, "one rank saw nothing"),
]


def all_cases_on_rank(rank, world_size):
    return [
        {name: value.item() for name, value in measured_on_rank(rank, world_size, *case).items()}
        for case in CASES
    ]


@pytest.fixture(scope="module")
def on_two_ranks():
    return run_on_ranks(all_cases_on_rank)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, on_two_ranks):
    one = {name: value.item() for name, value in measured(case[0], list(range(case[0]))).items()}
    assert [rank[CASES.index(case)] for rank in on_two_ranks] == [one, one]


def test_the_metrics_have_the_usual_names():
    metric = NumberOfClicks(1, max_clicks=10, thresholds=(0.85, 0.905), miou_at=(1, 5))
    metric.update(torch.full((1, 10), 0.9), torch.tensor([0]))
    assert list(metric.compute()) == [
        "NoC@85",
        "NoF@85",
        ">=10@85",
        "NoC@90.5",
        "NoF@90.5",
        ">=10@90.5",
        "mIoU@1",
        "mIoU@5",
        "AuC",
        "num_seen",
    ]


def test_a_sample_seen_twice_counts_once():
    metric = NumberOfClicks(2, max_clicks=2, thresholds=(0.9,), miou_at=())
    metric.update(torch.tensor([[0.95, 0.95], [0.1, 0.1], [0.1, 0.1]]), torch.tensor([0, 1, 1]))
    assert metric.compute()["NoC@90"].item() == 1.5


def test_samples_never_seen_are_skipped():
    metric = NumberOfClicks(10, max_clicks=2, thresholds=(0.9,), miou_at=(1,))
    metric.update(torch.tensor([[0.5, 0.95]]), torch.tensor([7]))
    numbers = metric.compute()
    assert (numbers["num_seen"].item(), numbers["NoC@90"].item(), numbers["mIoU@1"].item()) == (1, 2, 0.5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_samples_give_nan_instead_of_an_error():
    numbers = NumberOfClicks(3).compute()
    assert numbers["num_seen"].item() == 0
    assert numbers["NoC@85"].isnan()
    assert numbers["mIoU@1"].isnan()


def test_a_run_that_ended_early_keeps_its_last_iou():
    metric = NumberOfClicks(2, max_clicks=4, thresholds=(0.9,), miou_at=(4,))
    metric.update(torch.tensor([[0.5, 0.8, float("nan")], [0.2, 0.4, 0.6]]), torch.tensor([0, 1]))
    assert metric.table.tolist() == [pytest.approx([0.5, 0.8, 0.8, 0.8]), pytest.approx([0.2, 0.4, 0.6, 0.6])]
    assert metric.compute()["mIoU@4"].item() == pytest.approx(0.7)


def test_an_iou_above_the_target_is_refused():
    with pytest.raises(ValueError, match=r"the runs stop at IoU 0\.85, so the result at 0\.9 is unknown"):
        NumberOfClicks(3, thresholds=(0.85, 0.9), target=0.85)


def test_a_run_with_a_target_has_no_curve():
    metric = NumberOfClicks(1, max_clicks=3, thresholds=(0.85,), miou_at=(1,), target=0.85)
    metric.update(torch.tensor([[0.5, 0.86]]), torch.tensor([0]))
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "NoC@85": 2,
        "NoF@85": 0,
        ">=3@85": 0,
        "num_seen": 1,
    }


def test_reset_clears_the_table_and_a_saved_one_is_restored():
    metric = NumberOfClicks(3, max_clicks=5, miou_at=(1,))
    metric.persistent(True)
    metric.update(runs_of(3, 5), torch.arange(3))
    saved, numbers = metric.state_dict(), metric.compute()
    metric.reset()
    assert (metric.table == -1).all()
    other = NumberOfClicks(3, max_clicks=5, miou_at=(1,))
    other.persistent(True)
    other.load_state_dict(saved)
    other.update(torch.empty(0, 5), torch.empty(0, dtype=torch.long))
    assert other.compute() == numbers


def test_the_table_moves_with_the_metric():
    assert NumberOfClicks(3).to("meta").table.device.type == "meta"


@pytest.mark.parametrize("ids", [[3], [-1]])
def test_an_id_outside_the_dataset_is_refused(ids):
    with pytest.raises(ValueError, match=r"below num_samples \(3\), got -?\d to -?\d"):
        NumberOfClicks(3).update(torch.rand(1, 20), torch.tensor(ids))


def test_k_above_max_clicks_is_refused():
    with pytest.raises(
        ValueError, match=r"miou_at must contain clicks from 1 to max_clicks \(4\), got \(1, 3, 5\)"
    ):
        NumberOfClicks(3, max_clicks=4)
