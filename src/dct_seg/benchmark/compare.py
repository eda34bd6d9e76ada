"""Comparison of two runs sample by sample: gains, losses, and the significance of the difference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dct_seg.benchmark.results import Results, SampleRecord, iou_table, load_results
from dct_seg.benchmark.strips import folder_name, stack_strips, strip_path
from dct_seg.benchmark.tables import as_markdown, noc_ious, percent
from dct_seg.files import write_whole
from dct_seg.metrics import bootstrap_interval, hold_last, num_clicks_to
from dct_seg.ranges import check_number


class PairedSample(NamedTuple):
    """Result of one sample in both runs: number of clicks and final IoU."""

    a: SampleRecord
    b: SampleRecord
    clicks_a: int
    clicks_b: int

    @property
    def difference(self) -> int:
        """Clicks of B minus clicks of A; negative when B is better."""
        return self.clicks_b - self.clicks_a


@dataclass(frozen=True)
class Comparison:
    """Comparison of B with A on one dataset.

    Args:
        data: Label of the dataset.
        min_iou: IoU to reach.
        pairs: Samples with a result in both runs, B's gains first.
        mean: Mean difference in clicks; negative when B is better.
        interval: Bootstrap 95 % interval of the mean.
        auc: Mean difference of AuC and its interval; None unless both runs were full.
        num_unpaired: Number of samples in only one run.
    """

    data: str
    min_iou: float
    pairs: list[PairedSample]
    mean: float
    interval: tuple[float, float]
    auc: tuple[float, float, float] | None
    num_unpaired: int

    @property
    def better(self) -> list[PairedSample]:
        """Samples for which B needed fewer clicks, largest saving first."""
        return [pair for pair in self.pairs if pair.difference < 0]

    @property
    def worse(self) -> list[PairedSample]:
        """Samples for which B needed more clicks, largest loss first."""
        return [pair for pair in reversed(self.pairs) if pair.difference > 0]

    def describe(self, first: int = 10) -> str:
        """Format as Markdown: the difference, and the ``first`` samples that changed most either way."""
        low, high = self.interval
        verdict = "B is better" if high < 0 else "B is worse" if low > 0 else "no significant difference"
        lines = [
            f"## {self.data}: {len(self.pairs)} samples",
            f"NoC@{percent(self.min_iou)}: B - A = {self.mean:+.2f} clicks [{low:+.2f}, {high:+.2f}]: "
            f"{verdict}. "
            f"Better on {len(self.better)}, worse on {len(self.worse)}, equal on "
            f"{len(self.pairs) - len(self.better) - len(self.worse)}.",
        ]
        if self.auc is not None:
            lines.append("AuC: B - A = {:+.4f} [{:+.4f}, {:+.4f}].".format(*self.auc))
        if self.num_unpaired:
            lines.append(f"{self.num_unpaired} samples have a result in only one run and are not compared.")
        for title, pairs in (("Better", self.better), ("Worse", self.worse)):
            rows = [[p.a.name, str(p.clicks_a), str(p.clicks_b), f"{p.difference:+d}"] for p in pairs[:first]]
            if rows:
                lines.append(
                    f"{title}:\n\n" + as_markdown([["sample", "clicks A", "clicks B", "B - A"], *rows])
                )
        return "\n\n".join(lines)


def compare(a: Results, b: Results, method_a: str, method_b: str) -> list[Comparison]:
    """Compare B with A on every common dataset.

    Args:
        a: Reference run.
        b: Run to compare.
        method_a: Label of a method in ``a``.
        method_b: Label of a method in ``b``.

    Raises:
        ValueError: When the runs used different protocols, or share no sample.
    """
    if (a.settings.rule, a.settings.protocol_version, a.settings.max_clicks) != (
        b.settings.rule,
        b.settings.protocol_version,
        b.settings.max_clicks,
    ):
        raise ValueError(
            f"the settings of A and B differ: A has {a.settings.describe()}; B has {b.settings.describe()}; "
            "run one of them again with the settings of the other"
        )
    lower_target = min(run.settings.target or 1.0 for run in (a, b))
    min_iou = max(set(noc_ious(a)) & set(noc_ious(b)), default=lower_target)
    found = [_compare_on(data, a, b, method_a, method_b, min_iou) for data in a.data if data in b.data]
    comparisons = [comparison for comparison in found if comparison is not None]
    if not comparisons:
        raise ValueError(
            f"A has {', '.join(a.data)} and B has {', '.join(b.data)}, but no sample has a result in both; "
            "compare runs on the same dataset"
        )
    return comparisons


def compare_runs(a: str, b: str, *, out: str | Path | None = None, first: int = 10) -> str:
    """Compare two runs as Markdown; with ``out``, also write ``compare.md`` and images.

    Args:
        a: Results file or folder of the first run; ``FOLDER:METHOD`` if it has several methods.
        b: Results of the second run.
        out: Folder for ``compare.md`` and images of the samples that changed most; None writes nothing.
        first: Number of samples to list and draw, both for gains and for losses.

    Raises:
        FileNotFoundError: When a run is missing.
        ValueError: When the runs cannot be compared.
    """
    check_number("--first", first, least=0, unit="a number of samples")
    (path_a, results_a, method_a), (path_b, results_b, method_b) = _open_run(a), _open_run(b)
    comparisons = compare(results_a, results_b, method_a, method_b)
    heading = [
        f"A: {a} ({method_a}; {results_a.settings.describe()})",
        f"B: {b} ({method_b}; {results_b.settings.describe()})",
    ]
    text = (
        "\n\n".join(["\n".join(f"- {line}" for line in heading), *(c.describe(first) for c in comparisons)])
        + "\n"
    )
    if out is not None:
        num_missing = 0
        for comparison in comparisons:
            for title, pairs in (("better", comparison.better), ("worse", comparison.worse)):
                for pair in pairs[:first]:
                    strips = strip_path(path_a / "strips", pair.a), strip_path(path_b / "strips", pair.b)
                    folder = Path(out) / folder_name(comparison.data) / title
                    image = stack_strips(*strips, folder / f"{pair.difference:+03d}_{strips[0].name}")
                    num_missing += image is None
        if num_missing:
            text += (
                f"\n{num_missing} of these samples have no image, because a run drew no strip of them; run "
                "both with a larger --strips to get all images.\n"
            )
        write_whole(Path(out) / "compare.md", text)
    return text


def _compare_on(
    data: str, a: Results, b: Results, method_a: str, method_b: str, min_iou: float
) -> Comparison | None:
    records_a, records_b = (
        {r.name: r for r in run.select(data, m)} for run, m in ((a, method_a), (b, method_b))
    )
    shared = [name for name in records_a if name in records_b]
    if not shared:
        return None
    most = a.settings.max_clicks
    chosen = [records_a[name] for name in shared], [records_b[name] for name in shared]
    tables = [iou_table(records, most) for records in chosen]
    clicks = [
        num_clicks_to(table, min_iou, most, target=run.settings.target or 1.0).tolist()
        for table, run in zip(tables, (a, b), strict=True)
    ]
    pairs = sorted(
        (PairedSample(*row) for row in zip(*chosen, *clicks, strict=True)),
        key=lambda pair: (pair.difference, pair.a.name),
    )
    differences = [pair.difference for pair in pairs]
    auc = None
    if a.settings.target is None and b.settings.target is None:
        areas = [hold_last(table, most).mean(1).numpy() for table in tables]
        auc = (float((areas[1] - areas[0]).mean()), *bootstrap_interval(areas[1] - areas[0]))
    unpaired = len(records_a) + len(records_b) - 2 * len(shared)
    return Comparison(
        data, min_iou, pairs, float(np.mean(differences)), bootstrap_interval(differences), auc, unpaired
    )


def _open_run(name: str) -> tuple[Path, Results, str]:
    """Read folder, results and method from an argument ``FOLDER`` or ``FOLDER:METHOD``."""
    path, _, method = name.rpartition(":") if ":" in name and not Path(name).exists() else (name, "", "")
    results = load_results(path)
    if not method:
        if len(results.methods) > 1:
            raise ValueError(
                f"{path} has the methods {', '.join(results.methods)}; choose one as {path}:METHOD"
            )
        method = next(iter(results.methods))
    elif method not in results.methods:
        raise ValueError(f"{path} has no method {method}; it has {', '.join(results.methods)}")
    folder = Path(path)
    return (folder if folder.is_dir() else folder.parent), results, method
