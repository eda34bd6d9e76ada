"""Whole benchmark on GrabCut, compared with a plain loop like that of published evaluation code."""

from __future__ import annotations

import argparse
import os
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.clicks import Bools
from benchmarks.measure import Row, compared
from dct_seg.benchmark.runner import run_benchmark
from dct_seg.clicks import Click
from dct_seg.data.datasets import open_dataset
from dct_seg.methods.base import Answer
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.models.dct_net import DCTNet

WHAT, AGAINST = (
    "GrabCut, whole benchmark with dctnet, drags to IoU 0.9",
    "a plain loop: one sample at a time, two full-frame transforms per click",
)


def benchmark_row(args: argparse.Namespace) -> Row:
    """Measure the benchmark and the plain loop once each, including the loading of the network."""
    if args.grabcut is None:
        return Row(
            "benchmark", WHAT, AGAINST, "s", at_least=2, note="to measure this row, give --grabcut DIR"
        )
    workers = args.workers or os.cpu_count() or 1
    options = {"checkpoint": args.weights} if args.weights else {}
    began = perf_counter()
    results = run_benchmark(
        {"dctnet": options}, {"GrabCut": args.grabcut}, prompt="drag", workers=workers, limit=args.limit
    )
    ours = perf_counter() - began
    began = perf_counter()
    counts = plain_loop(args.grabcut, options, limit=args.limit)
    theirs = perf_counter() - began
    num_clicks = sum(len(record.ious) for record in results.samples)
    note = f"{workers} workers; {len(counts)} images, {num_clicks} clicks, {sum(counts)} in the plain loop"
    return Row("benchmark", WHAT, AGAINST, "s", **compared([ours], [theirs], factor=1), at_least=2, note=note)


def plain_loop(
    root: str, options: dict[str, Any], *, limit: int | None, target: float = 0.9, max_clicks: int = 20
) -> list[int]:
    """Count the clicks of each image in a plain loop: no caches, distances over the whole image."""
    dataset = open_dataset("GrabCut", root)
    method = _PlainMethod(
        net=DCTNet.from_pretrained(**{"name_or_path": options["checkpoint"]} if options else {})
    )
    counts = []
    for index in range(min(len(dataset), limit or len(dataset))):
        sample = dataset.read(index)
        method.reset(sample.image)
        clicks: list[Click] = []
        answer: Answer | None = None
        pred = np.zeros_like(sample.mask)
        while len(clicks) < max_clicks:
            row, col, positive, radius = _next(pred, sample.mask, sample.ignore, clicks)
            clicks.append(Click(row, col, positive, radius))
            answer = method.answer(sample.image, clicks, answer)
            pred = answer.probs > 0.5
            seen = ~sample.ignore
            if np.float32(
                (pred & sample.mask & seen).sum() / ((pred | sample.mask) & seen).sum()
            ) >= np.float32(target):
                break
        counts.append(len(clicks))
    return counts


class _PlainMethod(DCTNetMethod):
    """DCT-Net without its cache: everything is computed at each click, with contiguous weights."""

    def __init__(self, *, net: DCTNet) -> None:
        super().__init__(net=net, precision="float32")
        net.to(memory_format=torch.contiguous_format)

    def answer(self, *args: Any) -> Answer:
        self._views.clear()
        return super().answer(*args)


def _next(pred: Bools, mask: Bools, ignore: Bools, clicks: list[Click]) -> tuple[int, int, bool, float]:
    import cv2

    free = np.ones_like(mask)
    for click in clicks:
        free[round(click.row), round(click.col)] = False
    missed, false = (np.pad(wrong & ~ignore, 1).astype(np.uint8) for wrong in (mask & ~pred, pred & ~mask))
    deep_missed, deep_false = (
        cv2.distanceTransform(wrong, cv2.DIST_L2, 0)[1:-1, 1:-1] * free for wrong in (missed, false)
    )
    positive = bool(deep_missed.max() > deep_false.max())
    deep = deep_missed if positive else deep_false
    row, col = divmod(int(deep.argmax()), mask.shape[1])
    return row, col, positive, float(deep[row, col])
