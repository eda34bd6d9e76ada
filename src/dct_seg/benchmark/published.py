"""Published NoC@90 results for comparison with ours; lower is better."""

from __future__ import annotations

from dataclasses import dataclass, field

from dct_seg.simulation import Prompt

FIELD_ORDER = ("GrabCut", "Berkeley", "SBD", "DAVIS", "COCOMVal", "VOC")
"""Order of the datasets in published tables; others follow in the given order."""


@dataclass(frozen=True)
class Published:
    """One row of a published table.

    Args:
        method: Name of the method, with the training set if the authors give several.
        training: Training set; empty for a method without training.
        source: Publication of the numbers.
        noc90: NoC@90 for each dataset.
        prompt: ``drag`` if the method received the true radius of each click, otherwise ``click``.
        row: Registered name of our method; empty if there is none.
    """

    method: str
    training: str
    source: str
    noc90: dict[str, float] = field(default_factory=dict)
    prompt: Prompt = "click"
    row: str = ""


def _row(
    method: str, training: str, source: str, *noc90: float | None, prompt: Prompt = "click", row: str = ""
) -> Published:
    pairs = zip(("GrabCut", "Berkeley", "DAVIS"), noc90, strict=False)
    return Published(
        method, training, source, {name: value for name, value in pairs if value is not None}, prompt, row
    )


PAPER = "Lin et al. 2021, Table 2"

PUBLISHED = (
    _row("Graph cut", "", PAPER, 11.10, 14.33, 17.41, row="graph_cut"),
    _row("Random walker", "", PAPER, 12.30, 14.02, 18.31, row="random_walker"),
    _row("Geodesic matting", "", PAPER, 12.44, 15.96, 19.50, row="geodesic"),
    _row("ESC", "", PAPER, 9.20, 12.11, 17.70, row="esc"),
    _row("GSC", "", PAPER, 9.12, 12.57, 17.52, row="gsc"),
    _row("DOS", "", PAPER, 6.04, 8.65, 12.58, row="dos"),
    _row("RIS-Net", "", PAPER, 5.00, 6.03, row="ris_net"),
    _row("IIS-LD", "", PAPER, 4.79, None, 9.57, row="iis_ld"),
    _row("CMG", "", PAPER, 3.58, 5.60, row="cmg"),
    _row("BRS", "", PAPER, 3.60, 5.08, 8.24, row="brs"),
    _row("f-BRS", "", PAPER, 2.98, 4.34, 7.81, row="fbrs"),
    _row("FCA-Net", "", PAPER, 2.14, 4.19, 7.90, row="fca_net"),
    _row("RITM HRNet-18", "SBD", "its README", 2.04, 3.22, 6.71),
    _row("CDNet R34", "SBD", "ClickSEG's README", 2.18, 3.27, 6.89),
    _row("FCFI R101", "SBD", "its README", 1.80, 2.83, 6.46),
    _row("FocalClick SegF-B3-S2", "8 sets", "ClickSEG's README", 1.26, 1.48, 4.52),
    _row("MobileSAM", "SA-1B", "measured by us", 2.38, 5.21, 9.02),
    _row("DCT-Net", "SBD", PAPER, 2.68, 4.08, 7.00, row="dctnet"),
    _row("DCT-Net*", "SBD", PAPER, 1.70, 2.97, 5.92, prompt="drag", row="dctnet"),
)

TABLE_2 = tuple(row for row in PUBLISHED if row.source == PAPER)
"""Rows of the paper's Table 2.

The published BRS and f-BRS start each click from the optimum of the previous click. Our refiners start from
zero, so that a prediction depends only on image and clicks."""

DISC_FLOOR = _row("disc (no model)", "", "measured by us", 18.70, 19.85, prompt="drag")
"""Baseline that draws only the circles of the drags, with radii from the ground truth."""


@dataclass(frozen=True)
class Ablation:
    """One row of the paper's Table 1: ResNet-50, trained on SBD.

    Args:
        overlay: Configuration of the row in ``configs/ablation``.
        method: Name of the method in the table.
        interaction: Name of the interaction in the table.
        prompt: Name of the same interaction in this library.
        numbers: NoC@90 and AuC on each dataset.
    """

    overlay: str
    method: str
    interaction: str
    prompt: Prompt
    numbers: dict[str, tuple[float, float]]


def _ablation(overlay: str, method: str, prompt: Prompt, *numbers: tuple[float, float]) -> Ablation:
    interaction = "click and drag" if prompt == "drag" else "click"
    return Ablation(
        overlay,
        method,
        interaction,
        prompt,
        dict(zip(("GrabCut", "Berkeley", "DAVIS"), numbers, strict=True)),
    )


TABLE_1 = (
    _ablation("baseline", "baseline", "drag", (4.40, 0.904), (5.73, 0.901), (9.13, 0.821)),
    _ablation("spatial_dct", "+ Spatial-DCT", "drag", (2.56, 0.967), (3.68, 0.943), (7.58, 0.880)),
    _ablation("full", "+ Spatial-DCT + Feature-DCT", "drag", (1.70, 0.979), (2.97, 0.952), (5.92, 0.907)),
    _ablation(
        "click_only", "+ Spatial-DCT + Feature-DCT", "click", (2.68, 0.961), (4.08, 0.940), (7.00, 0.889)
    ),
)
"""Lin et al. 2021, Table 1: ablation of each part."""
