"""Curves of the mean IoU after each click."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dct_seg.benchmark.results import Results, iou_table
from dct_seg.benchmark.tables import ordered_data
from dct_seg.files import whole_file
from dct_seg.metrics import hold_last


def draw_curves(results: Results, folder: Path) -> list[Path]:
    """Write ``miou_vs_clicks.png`` and ``.svg``: one panel per dataset, one line per method.

    Args:
        results: Results of a run without a target; a run that stops at a target has no curves.
        folder: Output folder.

    Returns:
        Paths of the files; empty if the run stopped at a target.
    """
    if results.settings.target is not None:
        return []
    most = results.settings.max_clicks
    sets = [
        data
        for data in ordered_data(results)
        if any(results.select(data, method) for method in results.methods)
    ]
    if not sets:
        return []
    figure = Figure(figsize=(1 + 4.2 * len(sets), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, data in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for method in results.methods:
            records = results.select(data, method)
            if records:
                curve = hold_last(iou_table(records, most), most).mean(0)
                axes.plot(
                    range(1, most + 1),
                    curve.numpy(),
                    marker="o",
                    markersize=3,
                    label=f"{method} (AuC {curve.mean():.3f})",
                )
        axes.set(
            title=f"{data}, prompt {results.settings.prompt}",
            xlabel="clicks",
            ylabel="mean IoU",
            xlim=(1, max(most, 2)),
            ylim=(None, 1),
        )
        axes.set_xticks(range(1, most + 1, max(1, most // 10)))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    paths = [folder / f"miou_vs_clicks.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix[1:])
    return paths
