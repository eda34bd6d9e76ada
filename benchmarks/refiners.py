"""Comparison of refinement at inference with the plain network, on the same clicks.

``python -m benchmarks.refiners --weights runs/table2/brs/checkpoints/last.ckpt DATA/ecssd DATA/ccp``
runs the refined network click by click on the images held out from training. The plain network predicts
from the same clicks. The report compares corrected clicks, IoU and time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dct_seg import Click, ClickBatch, Predictor, SimulatedUser
from dct_seg.benchmark.runner import samples_of
from dct_seg.data.base import Sample
from dct_seg.data.datasets import open_dataset
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.metrics import iou
from dct_seg.models.pretrained import DEFAULT

HOLDOUT = 0.2


@dataclass
class Outcome:
    """Totals over all turns of all samples; index 0 is the plain network, 1 the refined one.

    Args:
        wrong: Clicked pixels with the wrong label, over all turns.
        clicks: Clicked pixels, over all turns.
        turns: Turns whose mask has a wrong click.
        ious: Mean IoU of each sample over its turns.
        seconds: Time of each turn.
    """

    wrong: list[int] = field(default_factory=lambda: [0, 0])
    turns: list[int] = field(default_factory=lambda: [0, 0])
    clicks: int = 0
    ious: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def play(sample: Sample, methods: Sequence[DCTNetMethod], num_clicks: int, outcome: Outcome) -> None:
    """Make the clicks on one sample and add its turns to ``outcome``."""
    mask, ignore = torch.from_numpy(sample.mask)[None], torch.from_numpy(sample.ignore)[None]
    user = SimulatedUser(mask, ignore, prompt="click")
    predictors = [Predictor(method) for method in methods]
    for predictor in predictors:
        predictor.set_image(sample.image)
    given: list[Click] = []
    made: tuple[Click, ...] = ()
    pred: torch.Tensor | None = None
    ious: tuple[list[float], list[float]] = ([], [])
    while len(given) < num_clicks:
        next_click = user(pred, ClickBatch.from_clicks([made]))
        if next_click.done.item():
            break
        row, col = next_click.coords[0].tolist()
        given.append(Click(row, col, bool(next_click.labels.item() == 1)))
        outcome.clicks += len(given)
        for k, predictor in enumerate(predictors):
            prediction = predictor.predict(given)
            wrong = num_wrong(prediction.mask, given)
            outcome.wrong[k] += wrong
            outcome.turns[k] += wrong > 0
            outcome.seconds[k].append(prediction.timings.total)
            pred, made = torch.from_numpy(prediction.mask)[None], prediction.clicks
            ious[k].append(iou(pred, mask, ignore).item())
    for k in (0, 1):
        outcome.ious[k].append(float(np.mean(ious[k])))


def num_wrong(mask: NDArray[np.bool_], clicks: Sequence[Click]) -> int:
    """Count the clicks whose pixel has the wrong label."""
    return sum(bool(mask[int(click.row), int(click.col)]) != click.positive for click in clicks)


def report(outcome: Outcome) -> str:
    """Format the result as text."""
    differences = np.subtract(outcome.ious[1], outcome.ious[0])
    error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
    before, after = outcome.wrong
    share = f"{100 * (1 - after / before):.1f} %" if before else "-"
    turns = len(outcome.seconds[0])
    plain, refined = (float(np.mean(seconds)) for seconds in outcome.seconds)
    return "\n".join(
        (
            f"samples: {len(differences)}, turns: {turns}, clicked pixels: {outcome.clicks}",
            f"wrong clicks: {before} plain, {after} refined ({share} corrected)",
            f"turns with a wrong click: {outcome.turns[0]} plain, {outcome.turns[1]} refined",
            f"mean IoU: {np.mean(outcome.ious[0]):.4f} plain, {np.mean(outcome.ious[1]):.4f} refined, "
            f"difference {differences.mean():+.4f} +- {error:.4f}",
            f"seconds per click: {plain:.3f} plain, {refined:.3f} refined, ratio {refined / plain:.2f}",
        )
    )


def main() -> None:
    """Run the comparison and print the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refiners",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", nargs="+", help="folders with images/ and masks/, as data.root in training")
    parser.add_argument("--refine", default="brs", help="name of the refiner (brs)")
    parser.add_argument("--weights", default=DEFAULT, help=f"name or path of the weights ({DEFAULT})")
    parser.add_argument("--precision", default="float32", help="precision of the plain network (float32)")
    parser.add_argument("--limit", type=int, default=20, help="maximum samples per folder (20)")
    parser.add_argument("--clicks", type=int, default=6, help="clicks per sample (6)")
    args = parser.parse_args()
    methods = [
        DCTNetMethod(
            args.weights,
            precision=args.precision if refine == "none" else "float32",
            refine=refine,
            after="none",  # mark_clicks would hide every wrong click
            radius_from="head",
        )
        for refine in ("none", args.refine)
    ]
    outcome = Outcome()
    for root in args.root:
        dataset = open_dataset("Folder", root)
        for k in tqdm(samples_of(dataset, root, HOLDOUT)[: args.limit], root, file=sys.stderr):
            play(dataset.read(k), methods, args.clicks, outcome)
    sys.stdout.write(report(outcome) + "\n")


if __name__ == "__main__":
    main()
