"""Results of a sweep as tables and a plot: one row per setting, with mean and spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dct_seg.benchmark.published import TABLE_1
from dct_seg.benchmark.tables import NONE, as_csv, as_latex, as_markdown
from dct_seg.files import whole_file, write_whole
from dct_seg.sweep.space import Metric, Sweep, Values
from dct_seg.sweep.trial import SEEDS, Outcome, describe, short_names, show

COLUMNS = ("NoC@85", "NoC@90", "NoF@90", "mIoU@1", "mIoU@5", "AuC")
BOTTOM_IS_BEST = ("NoC", "NoF")


@dataclass(frozen=True)
class Row:
    """Results of one setting with one prompt.

    Args:
        values: Values of the parameters that vary, except the seed.
        prompt: Prompt of the validation.
        metrics: Values by metric and seed.
        checkpoints: Checkpoint of each seed.
    """

    values: Values
    prompt: str
    metrics: dict[str, list[float]]
    checkpoints: list[str]

    @property
    def label(self) -> str:
        """Description of the setting."""
        return describe(self.values) if self.values else "all trials"


def varied(outcomes: Sequence[Outcome]) -> list[str]:
    """Parameters that differ between trials, except seeds."""
    found = []
    for key in dict.fromkeys(key for outcome in outcomes for key in outcome.values):
        values = {json.dumps(outcome.values.get(key), sort_keys=True) for outcome in outcomes}
        if key not in SEEDS and len(values) > 1:
            found.append(key)
    return found


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """Make one row per setting and prompt of the finished trials, in the order of the trials."""
    keys = varied(outcomes)
    found: dict[tuple[str, str], Row] = {}
    for outcome in outcomes:
        values = {key: outcome.values[key] for key in keys}
        for prompt, metrics in outcome.metrics.items():
            row = found.setdefault((json.dumps(values, sort_keys=True), prompt), Row(values, prompt, {}, []))
            row.checkpoints.append(outcome.checkpoint)
            for name, value in metrics.items():
                row.metrics.setdefault(name, []).append(value)
    return list(found.values())


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds (n - 1); None for a single seed.

    Examples:
        >>> spread([1.0, 2.0, 3.0]), spread([1.0])
        (1.0, None)
    """
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Format a heading and one line per row: values, prompt, number of seeds, metrics as mean and spread."""
    keys = list(rows[0].values) if rows else []
    names = short_names(keys)
    columns = [column for column in COLUMNS if any(column in row.metrics for row in rows)]
    lines = [[*(names[key] for key in keys), "prompt", "seeds", *columns]]
    for row in rows:
        cells = [_cell(column, row.metrics[column]) if column in row.metrics else NONE for column in columns]
        lines.append(
            [*(show(row.values[key]) for key in keys), row.prompt, str(len(row.checkpoints)), *cells]
        )
    return lines


def numbers(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """List a heading and one line per trial and prompt, with unrounded numbers."""
    keys = list(dict.fromkeys(key for outcome in outcomes for key in outcome.values))
    columns = list(
        dict.fromkeys(name for o in outcomes for metrics in o.metrics.values() for name in metrics)
    )
    lines = [[*keys, "state", "prompt", *columns, "seconds", "checkpoint", "error"]]
    for outcome in outcomes:
        values = [_plain(outcome.values.get(key)) for key in keys]
        ends = [f"{outcome.seconds:.1f}", outcome.checkpoint, outcome.error]
        for prompt, metrics in (outcome.metrics or {NONE: {}}).items():
            lines.append(
                [
                    *values,
                    outcome.state,
                    prompt,
                    *(repr(metrics[c]) if c in metrics else "" for c in columns),
                    *ends,
                ]
            )
    return lines


def paper_table(rows: Sequence[Row]) -> list[list[str]]:
    """Compare Table 1 of the paper with our results; only the heading if no trial matches one of its rows.

    A trial matches a row if its ``config`` is an overlay of ``configs/ablation``.
    """
    sets = list(TABLE_1[0].numbers)
    lines = [
        [
            "row",
            "interaction",
            "ours: NoC@90",
            "AuC",
            *(cell for data in sets for cell in (f"paper: {data} NoC@90", f"{data} AuC")),
        ]
    ]
    for ablation in TABLE_1:
        row = next(
            (
                r
                for r in rows
                if r.prompt == ablation.prompt and _is_overlay(r.values.get("config"), ablation.overlay)
            ),
            None,
        )
        if row is None:
            continue
        ours = [_cell(name, row.metrics[name]) if name in row.metrics else NONE for name in ("NoC@90", "AuC")]
        theirs = [
            cell
            for data in sets
            for cell in (f"{ablation.numbers[data][0]:.2f}", f"{ablation.numbers[data][1]:.3f}")
        ]
        lines.append([ablation.method, ablation.interaction, *ours, *theirs])
    return lines


def report(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """Format all tables as Markdown."""
    finished = [outcome for outcome in outcomes if outcome.is_finished]
    failed = [outcome for outcome in outcomes if not outcome.is_finished]
    rows = rows_of(finished)
    same = {
        key: value
        for outcome in finished
        for key, value in outcome.values.items()
        if key not in (*varied(finished), *SEEDS)
    }
    setting = f" Everywhere: {describe(same)}." if same else ""
    parts = [
        f"Sweep {sweep.name} ({sweep.method}): {len(finished)} of {len(outcomes)} trials finished.{setting} "
        "Mean ± standard deviation."
    ]
    if rows:
        parts.append(as_markdown(table(rows)))
    best = best_row(rows, sweep.metric)
    if best and sweep.metric and len(rows) > 1:
        name = sweep.metric.name.split("/", 2)[2]
        parts.append(
            f"Best {name} with prompt {best.prompt}: {best.label}, {_cell(name, best.metrics[name])}."
        )
    paper = paper_table(rows)
    if len(paper) > 1:
        parts.append(
            "Comparison with the paper's Table 1 (ResNet-50, SBD); our rows use this sweep's data:\n\n"
            + as_markdown(paper)
        )
    if failed:
        parts.append(
            "Failed:\n\n" + "\n".join(f"- {describe(outcome.values)}: {outcome.error}" for outcome in failed)
        )
    return "\n\n".join(parts) + "\n"


def best_row(rows: Sequence[Row], metric: Metric | None) -> Row | None:
    """Row with the best mean of the sweep's metric."""
    if metric is None:
        return None
    _, prompt, name = metric.name.split("/", 2)
    having = [row for row in rows if row.prompt == prompt and name in row.metrics]
    sign = 1 if metric.goal == "minimize" else -1
    return min(having, key=lambda row: sign * float(np.mean(row.metrics[name])), default=None)


def write_report(sweep: Sweep, outcomes: Sequence[Outcome], out: Path) -> str:
    """Write the tables as Markdown, CSV and LaTeX, ``paper.tex`` of a Table 1, and ``sweep.png``.

    Returns:
        Report as Markdown.
    """
    rows = rows_of([outcome for outcome in outcomes if outcome.is_finished])
    text = report(sweep, outcomes)
    write_whole(out / "table.md", text)
    write_whole(out / "trials.csv", as_csv(numbers(outcomes)))
    if rows:
        write_whole(out / "table.csv", as_csv(table(rows)))
        write_whole(out / "table.tex", as_latex(table(rows)) + "\n")
        paper = paper_table(rows)
        if len(paper) > 1:
            write_whole(out / "paper.tex", as_latex(paper) + "\n")
        draw(rows, sweep, out / "sweep.png")
    return text


def draw(rows: Sequence[Row], sweep: Sweep, path: Path) -> None:
    """Plot the metric and AuC of each setting.

    A marker shows the mean, a line the spread, a dot each seed.
    """
    wanted = [sweep.metric.name.split("/", 2)[2] if sweep.metric else "NoC@90", "AuC"]
    panels = [name for name in dict.fromkeys(wanted) if any(name in row.metrics for row in rows)]
    if not panels:
        return
    labels = list(dict.fromkeys(row.label for row in rows))
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    figure = Figure(figsize=(2.2 + 3.6 * len(panels), 1.5 + 0.42 * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        for i, prompt in enumerate(prompts):
            shift = 0.22 * (i - (len(prompts) - 1) / 2)
            mine = [row for row in rows if row.prompt == prompt and name in row.metrics]
            places = [labels.index(row.label) + shift for row in mine]
            means = [float(np.mean(row.metrics[name])) for row in mine]
            ends = [spread(row.metrics[name]) or 0.0 for row in mine]
            axes.errorbar(
                means, places, xerr=ends, fmt="D", markersize=5, capsize=3, color=f"C{i}", label=prompt
            )
            for row, place in zip(mine, places, strict=True):
                axes.plot(row.metrics[name], [place] * len(row.metrics[name]), ".", color=f"C{i}", alpha=0.5)
        axes.set_xlabel(f"{name} ({'lower' if name.startswith(BOTTOM_IS_BEST) else 'higher'} is better)")
        axes.grid(axis="x", alpha=0.3)
    first = figure.axes[0]
    first.set_yticks(range(len(labels)), labels)
    first.set_ylim(len(labels) - 0.5, -0.5)  # the first row on top
    figure.suptitle(f"sweep {sweep.name}", fontsize="medium")
    if len(prompts) > 1:
        figure.legend(
            *first.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(prompts),
            fontsize="small",
        )
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _cell(column: str, values: Sequence[float]) -> str:
    digits = 2 if column.startswith("NoC") else 1 if column.startswith("NoF") else 3
    mean, over_seeds = float(np.mean(values)), spread(values)
    return f"{mean:.{digits}f}" + (f" ± {over_seeds:.{digits}f}" if over_seeds is not None else "")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_overlay(config: Any, name: str) -> bool:
    return isinstance(config, str) and Path(config).parts[-2:] == ("ablation", f"{name}.yaml")
