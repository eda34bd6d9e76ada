"""Tables of a run as Markdown, CSV and LaTeX, next to published results."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dct_seg.benchmark.published import DISC_FLOOR, FIELD_ORDER, PUBLISHED, Published
from dct_seg.benchmark.results import Condition, Results, SampleRecord, iou_table
from dct_seg.metrics import at_least_max, auc, bootstrap_interval, failures, miou_at, num_clicks_to

THRESHOLDS = (0.85, 0.90)
MIOU_AT = (1, 3, 5)
NONE = "-"


@dataclass(frozen=True)
class Summary:
    """Results of one method on one dataset.

    Args:
        data, method: Labels of dataset and method.
        num_samples: Number of samples with a result.
        num_failed: Number of samples without a result.
        noc: Mean NoC for each IoU, with its bootstrap 95 % interval.
        nof: Number of samples that never reach each IoU.
        at_least_max: Failures as the literature counts them, including samples that reach the IoU at the
            last click.
        miou: mIoU@k for each k; empty when the runs stop at a target.
        auc: AuC; None when the runs stop at a target.
        seconds_per_click: Seconds per click, for the method only.
        encode_seconds: Seconds per image to encode it, for the method only.
    """

    data: str
    method: str
    num_samples: int
    num_failed: int
    noc: dict[float, tuple[float, float, float]]
    nof: dict[float, int]
    at_least_max: dict[float, int]
    miou: dict[int, float]
    auc: float | None
    seconds_per_click: float
    encode_seconds: float


def summarize(results: Results, data: str, method: str) -> Summary | None:
    """Summarize one method on one dataset; None without a result."""
    records = results.select(data, method)
    if not records:
        return None
    settings = results.settings
    table, target = iou_table(records, settings.max_clicks), settings.target or 1.0
    shown = noc_ious(results)
    clicks = {t: num_clicks_to(table, t, settings.max_clicks, target=target).double().numpy() for t in shown}
    seconds = np.concatenate([r.seconds for r in records])
    encode = [r.encode_seconds for r in records]
    full = settings.target is None
    return Summary(
        data,
        method,
        len(records),
        sum((r.data, r.method) == (data, method) for r in results.failed),
        {t: (float(values.mean()), *bootstrap_interval(values)) for t, values in clicks.items()},
        {t: int(failures(table, t, settings.max_clicks, target=target)) for t in shown},
        {t: int(at_least_max(table, t, settings.max_clicks, target=target)) for t in shown},
        {
            k: float(miou_at(table, k, settings.max_clicks, target=target))
            for k in MIOU_AT
            if full and k <= settings.max_clicks
        },
        float(auc(table, settings.max_clicks, target=target)) if full else None,
        float(seconds.mean()) if seconds.size else 0.0,
        float(np.mean(encode)),
    )


def overhead_share(results: Results) -> float:
    """Compute the fraction of the time, 0..1, that is spent outside the methods."""
    wall = sum(r.wall_seconds for r in results.samples)
    methods = sum(r.encode_seconds + sum(r.seconds) for r in results.samples if r.error is None)
    return 1 - methods / wall if wall else 0.0


def noc_ious(results: Results) -> tuple[float, ...]:
    """List the IoU thresholds to measure: the usual ones up to the target, and the target."""
    target = results.settings.target
    if target is None:
        return THRESHOLDS
    shown = tuple(t for t in THRESHOLDS if np.float32(t) <= np.float32(target))
    has_target = bool(shown) and np.float32(shown[-1]) == np.float32(target)
    return shown if has_target else (*shown, float(target))


def ordered_data(results: Results) -> list[str]:
    """Sort the datasets as published tables do."""
    rank = {name: i for i, name in enumerate(FIELD_ORDER)}
    return sorted(results.data, key=lambda label: rank.get(label, len(rank)))


def detail_table(results: Results) -> list[list[str]]:
    """Format a heading and one row per dataset and method, with intervals, failures and times."""
    most = results.settings.max_clicks
    shown = noc_ious(results)
    full = results.settings.target is None
    head = ["data", "method", "n", *(f"NoC@{percent(t)} [95 %]" for t in shown)]
    head += [name for t in shown for name in (f"NoF@{percent(t)}", f">={most}@{percent(t)}")]
    head += ([f"mIoU@{k}" for k in MIOU_AT if k <= most] + ["AuC"]) if full else []
    rows = [[*head, "s/click", "s/image", "failed"]]
    for data in ordered_data(results):
        for method in results.methods:
            row = summarize(results, data, method)
            if row is None:
                continue
            cells = [
                data,
                method,
                str(row.num_samples),
                *("{:.2f} [{:.2f}, {:.2f}]".format(*row.noc[t]) for t in shown),
            ]
            cells += [str(count) for t in shown for count in (row.nof[t], row.at_least_max[t])]
            cells += [f"{value:.3f}" for value in row.miou.values()] + (
                [f"{row.auc:.3f}"] if row.auc is not None else []
            )
            rows.append(
                [*cells, f"{row.seconds_per_click:.3f}", f"{row.encode_seconds:.3f}", str(row.num_failed)]
            )
    return rows


def comparison_table(results: Results) -> list[list[str]]:
    """Format a heading and one row per method, published ones first, with the datasets in the usual order.

    On GrabCut and Berkeley, rows with drags are shown with the baseline that draws the drags as discs.
    """
    prompt, sets = results.settings.prompt, ordered_data(results)
    shown = noc_ious(results)
    rows = [
        [
            "method",
            "training",
            "prompt",
            *(f"{data} NoC@{percent(t)}" for data in sets for t in shown),
            "source",
        ]
    ]
    others: list[Published] = [row for row in PUBLISHED if any(data in row.noc90 for data in sets)]
    has_own_floor = any(m["method"] == "disc" for m in results.methods.values())
    if prompt == "drag" and not has_own_floor and any(data in DISC_FLOOR.noc90 for data in sets):
        others.append(DISC_FLOOR)
    for row in others:
        numbers = [
            f"{row.noc90[d]:.2f}" if t == 0.90 and d in row.noc90 else NONE for d in sets for t in shown
        ]
        rows.append([row.method, row.training or NONE, row.prompt, *numbers, row.source])
    for label in results.methods:
        summaries = {data: summarize(results, data, label) for data in sets}
        if not any(summaries.values()):
            continue
        found = [f"{s.noc[t][0]:.2f}" if (s := summaries[d]) else NONE for d in sets for t in shown]
        rows.append([label, NONE, prompt, *found, "this run"])
    return rows


def robustness_table(results: Results) -> list[list[str]]:
    """Format a heading and one row per dataset, method and click error; only the heading without errors."""
    min_iou = noc_ious(results)[-1]
    rows = [
        [
            "data",
            "method",
            "clicks",
            "seeds",
            f"NoC@{percent(min_iou)} exact",
            "off: mean",
            "std over seeds",
            "worse by",
        ]
    ]
    labels = list(dict.fromkeys(r.condition.label for r in results.samples if not r.condition.is_exact))
    for data in ordered_data(results):
        for method in results.methods:
            for label in labels:
                by_seed = _noc_by_seed(results, data, method, label, min_iou)
                exact = _noc(results, results.select(data, method), min_iou)
                if not by_seed or exact is None:
                    continue
                mean, spread = float(np.mean(by_seed)), float(np.std(by_seed))
                numbers = [f"{value:.2f}" for value in (exact, mean, spread)]
                rows.append([data, method, label, str(len(by_seed)), *numbers, f"{mean - exact:+.2f}"])
    return rows


def markdown(results: Results) -> str:
    """Format all tables as Markdown, with the settings above and the environment below."""
    parts = [
        f"Protocol: {results.settings.describe()}.",
        as_markdown(comparison_table(results)),
        as_markdown(detail_table(results)),
    ]
    robustness = robustness_table(results)
    if len(robustness) > 1:
        parts.append("Clicks with errors, inside the same wrong region:\n\n" + as_markdown(robustness))
    parts.append("\n".join(f"- {label}: {_options(m['options'])}" for label, m in results.methods.items()))
    machines = dict.fromkeys(_machine(run) for run in results.runs)
    parts.append(
        " ".join(["Seconds count only the method, after a warm-up; s/image is the encoding.", *machines])
    )
    parts.append(f"Reading, clicks, IoU and writing took {100 * overhead_share(results):.1f} % of the time.")
    parts += [
        f"{len(results.failed)} samples failed; first: {r.data} {r.name} ({r.method}): {r.error}"
        for r in results.failed[:1]
    ]
    return "\n\n".join(parts) + "\n"


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a Markdown table; the first row is the heading.

    Examples:
        >>> print(as_markdown([["a", "b"], ["1", "22"]]))
        | a | b  |
        |---|----|
        | 1 | 22 |
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as comma-separated values; the first row is the heading."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def as_latex(rows: Sequence[Sequence[str]]) -> str:
    r"""Format rows as a tabular for the ``booktabs`` package, with a rule between published rows and ours.

    Examples:
        >>> head = ["method", "GrabCut NoC@90", "source"]
        >>> print(as_latex([head, ["A_b", "1.0", "its README"], ["C", "2.0", "this run"]]))
        \begin{tabular}{lrl}
        \toprule
        method & GrabCut NoC@90 & source \\
        \midrule
        A\_b & 1.0 & its README \\
        \midrule
        C & 2.0 & this run \\
        \bottomrule
        \end{tabular}
    """
    lines = [[_latex_text(cell) for cell in row] for row in rows]
    columns = "".join("r" if "NoC" in cell else "l" for cell in rows[0])
    body: list[str] = []
    for i, row in enumerate(rows):
        if i == 1 or (i > 1 and row[-1] == "this run" != rows[i - 1][-1]):
            body.append(r"\midrule")
        body.append(" & ".join(lines[i]) + r" \\")
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def percent(fraction: float) -> str:
    """Format a fraction as a percentage: 0.9 as 90."""
    return f"{100 * fraction:.4g}"


def _latex_text(text: str) -> str:
    return "".join(
        "\\" + c if c in "&%$#_{}" else {">": "$>$", "<": "$<$", "~": "\\textasciitilde{}"}.get(c, c)
        for c in text
    )


def _noc(results: Results, records: Sequence[SampleRecord], min_iou: float) -> float | None:
    if not records:
        return None
    most, target = results.settings.max_clicks, results.settings.target or 1.0
    return float(num_clicks_to(iou_table(records, most), min_iou, most, target=target).double().mean())


def _noc_by_seed(results: Results, data: str, method: str, label: str, min_iou: float) -> list[float]:
    conditions = {
        r.condition for r in results.samples if r.condition.label == label and not r.condition.is_exact
    }
    found = [_noc(results, results.select(data, method, [c]), min_iou) for c in sorted(conditions, key=_seed)]
    return [value for value in found if value is not None]


def _seed(condition: Condition) -> int:
    return condition.seed


def _options(options: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "no options"


def _machine(run: dict[str, object]) -> str:
    machine, versions = run["machine"], run["versions"]
    assert isinstance(machine, dict)
    assert isinstance(versions, dict)
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine['processor']}, {machine['cores']} cores{gpu}; {run['threads']} threads, "
        f"{run['workers']} workers, {run['ranks']} ranks; Python {run['python']}, {packages}."
    )
