"""Options and rows of ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

from benchmarks.clicks import click_maps_row, next_click_batch_row, next_click_row
from benchmarks.folded_norm import folded_image_row, folded_step_row
from benchmarks.large_image import first_click_row, memory_row
from benchmarks.measure import Row, Spread, markdown
from benchmarks.network import (
    cpu_path_row,
    early_click_row,
    first_mask_row,
    late_click_row,
    late_encode_row,
    later_click_row,
)
from benchmarks.plain_loop import benchmark_row
from dct_seg.arguments import CommandParser
from dct_seg.benchmark.environment import describe_environment
from dct_seg.files import write_whole
from dct_seg.models.config import DCTNetConfig
from dct_seg.processor import trainer_precision


def training_step_row(args: argparse.Namespace) -> Row:
    """Measure the share of a training step outside the network and its optimizer."""
    from benchmarks.training_step import training_step_breakdown
    from dct_seg.data.datamodule import ClickSimulatorDataModule
    from dct_seg.training.task import InteractiveSegmentationTask

    network = DCTNetConfig(backbone=args.backbone, backbone_weights="none")
    task = InteractiveSegmentationTask(
        network, train_clicks=(args.clicks, args.clicks), channels_last=args.channels_last
    )
    size = {
        "batch_size": args.batch_size,
        "crop_size": args.crop_size,
        "num_workers": args.loaders,
        "holdout": 0.0,
    }
    kind, options = (
        ("Shapes", {"num_images": 64, "size": (375, 500)}) if args.root is None else ("Folder", {})
    )  # as large as SBD's
    data = ClickSimulatorDataModule(kind, args.root, options=options, **size)
    found = training_step_breakdown(
        task,
        data,
        steps=args.steps,
        warmup=args.warmup,
        precision=args.precision,
        accelerator=args.accelerator,
    )
    parts = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in found.medians.items())
    return Row(
        "training-step",
        f"training step, {args.backbone}, {args.batch_size} x {args.crop_size}: all except the network's "
        "forward, backward and step",
        "",
        "%",
        Spread.of([100 * share for share in found.overheads]),
        at_most=10,
        note=(
            f"{parts}; {args.clicks} clicks per batch, {args.precision}, peak memory "
            f"{found.peak_memory / 2**30:.2f} GiB"
        ),
    )


ROWS: dict[str, Callable[[argparse.Namespace], Row]] = {
    "next-click": next_click_row,
    "next-click-batch": next_click_batch_row,
    "click-maps": click_maps_row,
    "late-click": late_click_row,
    "late-encode": late_encode_row,
    "early-click": early_click_row,
    "cpu-path": cpu_path_row,
    "folded-step": folded_step_row,
    "folded-image": folded_image_row,
    "first-mask": first_mask_row,
    "later-click": later_click_row,
    "memory": memory_row,
    "first-click": first_click_row,
    "training-step": training_step_row,
    "benchmark": benchmark_row,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; those of the training step default to the paper's recipe."""
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(ROWS),
        default=list(ROWS),
        metavar="ROW",
        help=f"rows to measure: {', '.join(ROWS)} (all)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=15,
        metavar="N",
        help="number of timed calls on each side of a row (15)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads used by torch, OpenCV and onnxruntime (torch's default)",
    )
    parser.add_argument(
        "--sam",
        nargs=2,
        metavar=("ENCODER", "DECODER"),
        help="ONNX files of a SAM-style model to compare with; needs the extra [onnx]",
    )
    parser.add_argument(
        "--grabcut", metavar="DIR", help="folder of the GrabCut dataset, for the row benchmark"
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights for the rows benchmark, first-mask and later-click (dct-lite0)",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes for the row benchmark (number of cores)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use only the first N images in the row benchmark"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write the rows and a description of the machine to FILE, as JSON"
    )
    step = parser.add_argument_group("options of the row training-step")
    for name, value, what in (
        ("batch-size", 8, "images per batch"),
        ("crop-size", 256, "side of a training crop in pixels"),
        ("clicks", 3, "clicks per batch"),
        ("loaders", 1, "worker processes that load data"),
        ("steps", 5, "measured batches"),
        ("warmup", 2, "batches before the measured ones"),
    ):
        step.add_argument(
            f"--{name}", type=int, default=value, metavar="N", help=f"{what} (default: %(default)s)"
        )
    step.add_argument(
        "--backbone", default="resnet50", help="any timm backbone, with random weights (default: %(default)s)"
    )
    step.add_argument(
        "--root", metavar="DIR", help="folder of images and masks to train on (default: synthetic shapes)"
    )
    step.add_argument(
        "--precision", default=trainer_precision(), help="precision of the Trainer (default: %(default)s)"
    )
    step.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="store the weights channels-last in memory",
    )
    step.add_argument(
        "--accelerator", default="auto", help="accelerator of the Trainer (default: %(default)s)"
    )


def main(args: Sequence[str]) -> int:
    """Run ``python -m benchmarks``: measure and print the requested rows.

    Returns:
        0.

    Raises:
        ValueError: When ``--repeats`` is below 1.
    """
    parser = CommandParser(
        prog="python -m benchmarks", description="Measure the figures of docs/speed.md on this machine."
    )
    add_arguments(parser)
    given = parser.parse_args(args)
    if given.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {given.repeats}")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
        cv2.setNumThreads(given.threads)
    rows = []
    for name in (bar := tqdm(given.only, unit="row", disable=None)):
        bar.set_description(name)
        rows.append(ROWS[name](given))
    machine = describe_environment(threads=None, workers=given.workers or os.cpu_count() or 1, ranks=1)
    where = machine["machine"]
    head = (
        f"{where['processor']}, {where['cores']} cores, {machine['threads']} threads, torch "
        f"{torch.__version__}; medians of {given.repeats}"
    )
    sys.stdout.write(f"{head}, interquartile range in brackets\n\n{markdown(rows)}")
    if given.json:
        write_whole(
            Path(given.json),
            json.dumps(
                {"machine": machine, "repeats": given.repeats, "rows": [_row_as_dict(row) for row in rows]},
                indent=1,
            ),
        )
    return 0


def _row_as_dict(row: Row) -> dict[str, Any]:
    return {**asdict(row), "target": row.target, "met": row.met}
