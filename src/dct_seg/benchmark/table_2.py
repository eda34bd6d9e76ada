"""Table 2 of the paper, next to our runs of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dct_seg.benchmark.published import TABLE_2, Published
from dct_seg.benchmark.results import Results, load_results
from dct_seg.benchmark.tables import NONE, Summary, as_csv, as_latex, as_markdown, summarize
from dct_seg.files import write_whole

DATA = ("GrabCut", "Berkeley", "DAVIS")
CAPTION = (
    "NoC@90, lower is better. Published: Lin et al. 2021, Table 2, each row with its own backbone and "
    "training. Ours: not a reproduction of the published numbers."
)


def table_2(runs: Sequence[Results]) -> list[list[str]]:
    """Format a heading and one line per published row: its value, and ours with its interval.

    The interval is a 95 % interval of NoC@90, with the number of samples in parentheses.

    A published row with drags is compared with a run with drags, all others with runs with clicks. Rows
    without a run show ``-``.

    Args:
        runs: One or more runs, each with a single prompt.

    Raises:
        ValueError: When the runs differ in settings other than prompt and target.
    """
    _check_settings(runs)
    head = ["method", "prompt"]
    for data in DATA:
        head += [f"{data} NoC@90 published", f"{data} NoC@90 ours", f"{data} NoC@90 95 % (n)"]
    rows = [[*head, "our method"]]
    for row in TABLE_2:
        cells = [row.method, row.prompt]
        labels: list[str] = []
        for data in DATA:
            published = f"{row.noc90[data]:.2f}" if data in row.noc90 else NONE
            found = _ours(runs, row, data)
            cells += [published, *_cells(found)]
            labels += [found.method] if found and found.method not in labels else []
        rows.append([*cells, ", ".join(labels) or NONE])
    return rows


def covered(runs: Sequence[Results]) -> int:
    """Count the rows with our results."""
    return sum(any(_ours(runs, row, data) for data in DATA) for row in TABLE_2)


def table_2_markdown(runs: Sequence[Results]) -> str:
    """Format Table 2 as Markdown, below its caption and the settings of each run."""
    return _below_caption(table_2(runs), runs)


def write_table_2(runs: Sequence[Results], folder: Path) -> str:
    """Write ``table2.md``, ``table2.csv`` and ``table2.tex`` with the settings; return the Markdown.

    Raises:
        ValueError: When ``table_2`` does.
    """
    rows = table_2(runs)
    text = _below_caption(rows, runs)
    protocols = "; ".join(_settings(runs))
    columns = ["our settings", *[protocols] * (len(rows) - 1)]
    write_whole(folder / "table2.md", text)
    write_whole(
        folder / "table2.csv", as_csv([[*row, cell] for row, cell in zip(rows, columns, strict=True)])
    )
    write_whole(folder / "table2.tex", f"% Protocol: {protocols}\n{as_latex(rows)}\n")
    return text


def join_runs(folders: Sequence[str], out: str) -> str:
    """Write Table 2 of several benchmark folders, such as one with clicks and one with drags.

    Raises:
        FileNotFoundError: When a folder contains no results.
        ValueError: When the runs differ in settings other than prompt and target.
    """
    return write_table_2([load_results(folder) for folder in folders], Path(out))


def _below_caption(rows: list[list[str]], runs: Sequence[Results]) -> str:
    protocols = "\n".join(f"- Protocol: {described}." for described in _settings(runs))
    return f"{CAPTION}\n\n{protocols}\n\n{as_markdown(rows)}\n"


def _settings(runs: Sequence[Results]) -> list[str]:
    return list(dict.fromkeys(run.settings.describe() for run in runs))


def _check_settings(runs: Sequence[Results]) -> None:
    for run in runs[1:]:
        first = runs[0].settings
        if replace(run.settings, prompt=first.prompt, target=first.target) != first:
            raise ValueError(
                "runs of one table must have equal settings besides prompt and target, got "
                f"{first.describe()}; and {run.settings.describe()}; run one of them again"
            )


def _ours(runs: Sequence[Results], row: Published, data: str) -> Summary | None:
    for results in runs:
        target = results.settings.target
        if results.settings.prompt != row.prompt or data not in results.data or (target or 1) < 0.9:
            continue
        same = [label for label, method in results.methods.items() if method["method"] == row.row]
        for label in sorted(same, key=lambda one: one != row.row):
            found = summarize(results, data, label)
            if found is not None:
                return found
    return None


def _cells(found: Summary | None) -> list[str]:
    if found is None:
        return [NONE, NONE]
    mean, low, high = found.noc[0.90]
    return [f"{mean:.2f}", f"[{low:.2f}, {high:.2f}] ({found.num_samples})"]
