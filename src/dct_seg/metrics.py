"""Interactive segmentation metrics: IoU, number of clicks (NoC), failures (NoF), mIoU@k and AuC.

Pure functions, and one metric that is exact on any number of processes.

A run is a row of IoUs, one after each click, of one sample; NaN or -1 follows its end. A table (n, K)
holds n runs. IoUs are compared as float32, as in other implementations.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric

UNSEEN = -1.0
"""Value of a missing click in a table."""


def iou(
    pred: Tensor, mask: Tensor, ignore: Tensor | None = None, *, names: Sequence[str] | None = None
) -> Tensor:
    """Intersection over union of each image, (B,) float64, exact; 1 if both are empty.

    On MPS, which has no float64, this and all means are float32.

    Args:
        pred: (B, H, W) bool.
        mask: (B, H, W) bool.
        ignore: (B, H, W) bool, True for ignored pixels.
        names: Image names for the warning about empty masks; None gives no warning.

    Raises:
        TypeError: When a map is not bool.

    Examples:
        >>> iou(torch.tensor([[[True, True, False]]]), torch.tensor([[[False, True, True]]])).tolist()
        [0.3333333333333333]
    """
    for name, one in (("pred", pred), ("mask", mask), ("ignore", ignore)):
        if one is not None and (one.dtype != torch.bool or one.shape != mask.shape):
            raise TypeError(
                f"{name} must be bool {tuple(mask.shape)} like mask, got {one.dtype} {tuple(one.shape)}"
            )
    both, either = pred & mask, pred | mask
    if ignore is not None:
        both, either = both & ~ignore, either & ~ignore
    intersection, union = both.flatten(1).sum(1), either.flatten(1).sum(1)
    if names is not None:
        for b in (union == 0).nonzero()[:, 0].tolist():
            warnings.warn(
                f"{names[b]}: mask and prediction are both empty; the IoU counts as 1",
                stacklevel=2,
            )
    return torch.where(union == 0, 1.0, _as_double(intersection) / union.clamp(min=1))


def num_clicks_to(
    ious: Tensor, threshold: float, max_clicks: int = 20, *, target: float | None = None
) -> Tensor:
    """Count clicks until the IoU is at least ``threshold``, or ``max_clicks`` if it never is: (n,) int64.

    Its mean is NoC@``threshold``.

    Args:
        ious: (n, K) float, K at most ``max_clicks``; NaN or -1 after the end of a run.
        threshold: IoU in 0..1.
        max_clicks: Maximum clicks of a run.
        target: IoU at which the runs were stopped. None: they were not stopped, so a run is short only
            if its mask is perfect. 1.0: they stopped when there was nothing left to click.

    Raises:
        ValueError: When the runs stopped before ``threshold``, so that the number is unknown.

    Examples:
        >>> num_clicks_to(torch.tensor([[0.5, 0.85, 0.9], [0.2, 0.3, 0.4]]), 0.85, max_clicks=3).tolist()
        [2, 3]
    """
    return _first_click_at(ious, threshold, max_clicks, target).clamp(max=max_clicks)


def failures(ious: Tensor, threshold: float, max_clicks: int = 20, *, target: float | None = None) -> Tensor:
    """NoF: number of runs that never reach ``threshold``, () int64; arguments as `num_clicks_to`."""
    return (_first_click_at(ious, threshold, max_clicks, target) > max_clicks).sum()


def at_least_max(
    ious: Tensor, threshold: float, max_clicks: int = 20, *, target: float | None = None
) -> Tensor:
    """Count ">=20" as in the literature: failures, and runs that reach ``threshold`` at the very last click.

    () int64, as `num_clicks_to`.
    """
    return (_first_click_at(ious, threshold, max_clicks, target) >= max_clicks).sum()


def miou_at(ious: Tensor, click: int, max_clicks: int = 20, *, target: float | None = None) -> Tensor:
    """Mean IoU after click number ``click`` (from 1), () float64.

    A run keeps its last value after its end.

    Raises:
        ValueError: When a target below 1 stopped the runs, or ``click`` is not in 1..``max_clicks``.

    Examples:
        >>> miou_at(torch.tensor([[0.25, 0.5], [1.0, -1.0]]), 2, max_clicks=2).item()
        0.75
    """
    if not 1 <= click <= max_clicks:
        raise ValueError(f"click must be from 1 to max_clicks ({max_clicks}), got {click}")
    _check_runs(ious, 1.0, max_clicks, target)
    return _as_double(hold_last(ious, max_clicks)[:, click - 1]).mean()


def auc(ious: Tensor, max_clicks: int = 20, *, target: float | None = None) -> Tensor:
    """Area under the curve of IoU over clicks, () float64: the mean of mIoU@1 to mIoU@``max_clicks``.

    Raises:
        ValueError: When a target below 1 stopped the runs.
    """
    _check_runs(ious, 1.0, max_clicks, target)
    return _as_double(hold_last(ious, max_clicks)).mean()


def hold_last(ious: Tensor, max_clicks: int) -> Tensor:
    """Extend runs to (n, ``max_clicks``) by the last IoU of each.

    Examples:
        >>> hold_last(torch.tensor([[0.5, -1.0], [0.25, 0.75]]), 3).tolist()
        [[0.5, 0.5, 0.5], [0.25, 0.75, 0.75]]
    """
    last = _lengths(ious, max_clicks).clamp(min=1) - 1
    column = torch.arange(max_clicks, device=ious.device).expand(len(ious), -1)
    return ious.gather(1, torch.minimum(column, last[:, None]))


def bootstrap_interval(
    values: ArrayLike, *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``.

    Args:
        values: One number per sample, for example its number of clicks.
        level: Fraction of resamples inside the interval.
        num_resamples: Number of bootstrap resamples.
        seed: Seed of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: When there are no values.

    Examples:
        >>> bootstrap_interval([3.0, 3.0, 3.0])
        (3.0, 3.0)
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    if sample.size == 0:
        raise ValueError("a bootstrap interval needs at least one value, got none")
    rng = np.random.default_rng(seed)
    chunk = max(2**22 // sample.size, 1)
    means = [
        sample[rng.integers(sample.size, size=(min(chunk, num_resamples - done), sample.size))].mean(1)
        for done in range(0, num_resamples, chunk)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class NumberOfClicks(Metric):
    """NoC, failures, mIoU@k and AuC of a dataset, exact under any sampler and on any number of processes.

    The state is a table with one row per sample, written by sample id and merged by maximum: a sample that a
    padded ``DistributedSampler`` repeats counts once. Unseen samples are ignored; ``num_seen`` counts the
    seen ones.

    `compute` returns a dict of float tensors: ``NoC@85``, ``NoF@85`` and ``>=20@85`` for each threshold
    (in percent; 20 is ``max_clicks``), ``mIoU@1`` for each k, ``AuC``, ``num_seen``. A run that stops at a
    target has no mIoU@k and no AuC.

    Args:
        num_samples: Size of the dataset; sample ids are 0 to ``num_samples`` - 1.
        max_clicks: Maximum clicks of a run.
        thresholds: IoU thresholds of NoC and NoF, in 0..1.
        miou_at: Clicks (from 1) for mIoU@k.
        target: IoU at which runs are stopped. None: a run is only shorter than ``max_clicks`` when
            nothing was left to click, and its last IoU holds.

    Raises:
        ValueError: When one of ``thresholds`` is above ``target``, or a k above ``max_clicks``.

    Examples:
        >>> metric = NumberOfClicks(num_samples=2, max_clicks=3, thresholds=(0.8,), miou_at=(1,))
        >>> metric.update(torch.tensor([[0.5, 0.9, 0.95], [0.7, 0.7, 0.7]]), torch.tensor([0, 1]))
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}
        {'NoC@80': 2.5, 'NoF@80': 1.0, '>=3@80': 1.0, 'mIoU@1': 0.6, 'AuC': 0.7417, 'num_seen': 2.0}
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    table: Tensor

    def __init__(
        self,
        num_samples: int,
        *,
        max_clicks: int = 20,
        thresholds: Sequence[float] = (0.85, 0.90),
        miou_at: Sequence[int] = (1, 3, 5),
        target: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for threshold in thresholds:
            _check_target(threshold, target)
        if any(not 1 <= k <= max_clicks for k in miou_at):
            raise ValueError(
                f"miou_at must contain clicks from 1 to max_clicks ({max_clicks}), got {tuple(miou_at)}"
            )
        self.max_clicks = max_clicks
        self.thresholds = tuple(thresholds)
        self.miou_at = tuple(miou_at)
        self.target = target
        self.add_state("table", torch.full((num_samples, max_clicks), UNSEEN), dist_reduce_fx="max")

    def update(self, ious: Tensor, sample_ids: Tensor) -> None:
        """Write the runs of a batch.

        Args:
            ious: (B, K) float, K at most ``max_clicks``; NaN or -1 after the end of a run.
            sample_ids: (B,) int64.

        Raises:
            ValueError: When an id is outside the table, or shapes disagree.
        """
        if ious.ndim != 2 or sample_ids.shape != ious.shape[:1]:
            raise ValueError(
                f"expected ious (B, K) and sample_ids (B,), got {tuple(ious.shape)} and "
                f"{tuple(sample_ids.shape)}"
            )
        if not len(ious):
            return
        low, high = int(sample_ids.min()), int(sample_ids.max())
        if low < 0 or high >= len(self.table):
            raise ValueError(
                f"sample ids must be at least 0 and below num_samples ({len(self.table)}), got {low} to "
                f"{high}"
            )
        lengths = _lengths(ious, self.max_clicks)
        rows = hold_last(ious, self.max_clicks)
        if self.target is not None:
            rows = rows.where(torch.arange(self.max_clicks, device=rows.device) < lengths[:, None], UNSEEN)
        self.table[sample_ids] = rows.to(self.table)

    def compute(self) -> dict[str, Tensor]:
        """Compute all numbers by name; if no sample was seen, means are NaN and counts are 0."""
        seen = self.table[self.table[:, 0] != UNSEEN]
        target = 1.0 if self.target is None else self.target
        numbers = {}
        for threshold in self.thresholds:
            percent = f"{100 * threshold:.4g}"
            counts = num_clicks_to(seen, threshold, self.max_clicks, target=target)
            numbers[f"NoC@{percent}"] = _as_double(counts).mean()
            numbers[f"NoF@{percent}"] = failures(seen, threshold, self.max_clicks, target=target)
            numbers[f">={self.max_clicks}@{percent}"] = at_least_max(
                seen, threshold, self.max_clicks, target=target
            )
        if self.target is None or self.target >= 1:
            for k in self.miou_at:
                numbers[f"mIoU@{k}"] = miou_at(seen, k, self.max_clicks, target=target)
            numbers["AuC"] = auc(seen, self.max_clicks, target=target)
        numbers["num_seen"] = seen.new_tensor(len(seen))
        return {name: value.float() for name, value in numbers.items()}

    def plot(self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Any = None) -> Any:
        """Plot each number as a point, or as a line over several results; return figure and axes.

        Args:
            val: Result of ``compute``, or several in order; by default the current one.
            ax: Matplotlib axes; by default new ones.
        """
        return self._plot(val, ax)


def _as_double(x: Tensor) -> Tensor:
    """Convert to float64, or to float32 on MPS, which lacks it; copying to the CPU would stall training."""
    return x.float() if x.device.type == "mps" else x.double()


def _first_click_at(ious: Tensor, threshold: float, max_clicks: int, target: float | None) -> Tensor:
    """Find the first click (from 1) with IoU >= ``threshold``, otherwise ``max_clicks`` + 1: (n,) int64."""
    _check_runs(ious, threshold, max_clicks, target)
    order = torch.arange(1, ious.shape[1] + 1, device=ious.device)
    return torch.where(_reached(ious, threshold), order, max_clicks + 1).amin(1)


def _reached(ious: Tensor, threshold: float) -> Tensor:
    """Compare as float32: (n, K) bool."""
    return ious.float() >= ious.new_tensor(threshold, dtype=torch.float32)


def _lengths(ious: Tensor, max_clicks: int) -> Tensor:
    """Number of clicks of each run, (n,) int64."""
    if ious.ndim != 2 or not 1 <= ious.shape[1] <= max_clicks:
        raise ValueError(
            f"IoUs must be (n, K) with K from 1 to max_clicks ({max_clicks}), got {tuple(ious.shape)}"
        )
    made = ious >= 0  # False for NaN
    lengths = made.sum(1)
    holes = (made != (torch.arange(ious.shape[1], device=ious.device) < lengths[:, None])).any(1) | (
        lengths == 0
    )
    if holes.any():
        row = int(holes.nonzero()[0])
        raise ValueError(
            f"row {row} of the IoUs is empty or has a gap; NaN or -1 may only follow the end of a run"
        )
    return lengths


def _check_target(threshold: float, target: float | None) -> None:
    if target is not None and np.float32(threshold) > np.float32(target):
        raise ValueError(
            f"the runs stop at IoU {target:g}, so the result at {threshold:g} is unknown; run again with a "
            "higher target"
        )


def _check_runs(ious: Tensor, threshold: float, max_clicks: int, target: float | None) -> None:
    _check_target(threshold, target)
    lengths = _lengths(ious, max_clicks)
    if target is not None:
        return
    last = ious.gather(1, lengths[:, None] - 1)[:, 0]
    unknown = (lengths < max_clicks) & (last < 1) & ~_reached(ious, threshold).any(1)
    if unknown.any():
        row = int(unknown.nonzero()[0])
        raise ValueError(
            f"run {row} ends after {int(lengths[row])} of {max_clicks} clicks at IoU {float(last[row]):.4g}, "
            f"below {threshold:g}; "
            "give `target`, the IoU at which runs stop (1.0 if they stop when nothing is left to click)"
        )
