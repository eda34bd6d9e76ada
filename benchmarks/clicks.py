"""The simulated user and the click maps, compared with plain implementations."""

from __future__ import annotations

import argparse
import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Row, compared, in_turn
from dct_seg import next_click
from dct_seg.click_encoders import SpatialDCT
from dct_seg.clicks import Click, ClickBatch

Bools = NDArray[np.bool_]
Pick = tuple[int, int, bool]
"""Click as (row, column, whether it is positive)."""


def next_click_row(args: argparse.Namespace) -> Row:
    """Measure next clicks on images of 480 x 854, one after another."""
    cases = [drawn_errors(480, 854, seed) for seed in range(8)]
    tensors = [tuple(torch.from_numpy(one)[None] for one in case) for case in cases]
    same = sum(
        two_transforms(pred, mask) == _pick(*pair) for (pred, mask), pair in zip(cases, tensors, strict=True)
    )
    seconds = in_turn(
        lambda: [next_click(pred, mask) for pred, mask in tensors],
        lambda: [two_transforms(pred, mask) for pred, mask in cases],
        args.repeats,
    )
    return Row(
        "next-click",
        f"{len(cases)} next clicks, 480 x 854, errors of IoU 0.75-0.95",
        "two full-frame padded precise distance transforms",
        "ms",
        **compared(*seconds),
        at_least=4,
        note=f"same picks: {same} of {len(cases)}; one image at a time, so both sides use one thread",
    )


def next_click_batch_row(args: argparse.Namespace) -> Row:
    """Measure the next clicks of a batch of eight images of 256 x 256."""
    cases = [drawn_errors(256, 256, seed) for seed in range(8)]
    preds, masks = (torch.from_numpy(np.stack([case[i] for case in cases])) for i in (0, 1))
    found = next_click(preds, masks)
    picks = [
        (int(r), int(c), bool(p))
        for (r, c), p in zip(found.coords.tolist(), found.labels.tolist(), strict=True)
    ]
    same = sum(two_transforms(*case) == pick for case, pick in zip(cases, picks, strict=True))
    seconds = in_turn(
        lambda: next_click(preds, masks), lambda: [two_transforms(*case) for case in cases], args.repeats
    )
    return Row(
        "next-click-batch",
        "next click of a batch of 8, 256 x 256",
        "the same, sample by sample",
        "ms",
        **compared(*seconds),
        at_least=4,
        note=f"same picks: {same} of 8",
    )


def click_maps_row(args: argparse.Namespace) -> Row:
    """Measure the Spatial-DCT maps of twenty clicks."""
    rng = np.random.default_rng(0)
    clicks = [
        Click(float(rng.uniform(0, 479)), float(rng.uniform(0, 853)), i % 2 == 0, float(rng.uniform(5, 60)))
        for i in range(20)
    ]
    batch, encoder = ClickBatch.from_clicks([clicks]), SpatialDCT()

    def ours() -> torch.Tensor:
        with torch.inference_mode():
            maps: torch.Tensor = encoder(batch, (480, 854))
        return maps

    gap = float(np.abs(ours()[0].numpy() - gaussian_loop(clicks, (480, 854))).max())
    seconds = in_turn(ours, lambda: gaussian_loop(clicks, (480, 854)), args.repeats)
    return Row(
        "click-maps",
        "click maps (SpatialDCT) of 20 clicks, 480 x 854",
        "a NumPy loop over clicks",
        "ms",
        **compared(*seconds),
        at_least=10,
        note=f"float32 on both sides; largest difference {gap:.1g}",
    )


def drawn_errors(height: int, width: int, seed: int) -> tuple[Bools, Bools]:
    """Draw a prediction and a mask, (H, W) each.

    The errors are like those after two to ten clicks.
    """
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:height, :width].astype(np.float32)
    row, col = row - height * rng.uniform(0.4, 0.6), col - width * rng.uniform(0.4, 0.6)
    angle, distance = np.arctan2(row, col), np.hypot(row, col * height / width)
    wobble = sum(rng.uniform(0, 0.15) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in range(2, 6))
    error = sum(rng.uniform(0, 0.06) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in range(1, 12))
    radius = height * rng.uniform(0.2, 0.35)
    return distance < radius * (1 + wobble + error), distance < radius * (1 + wobble)


def two_transforms(pred: Bools, mask: Bools) -> Pick:
    """Compute the next click as published evaluation code does.

    It computes the distances of all missed pixels, and of all false ones.
    """
    missed, false = (np.pad(wrong, 1).astype(np.uint8) for wrong in (mask & ~pred, pred & ~mask))
    deep_missed, deep_false = (
        cv2.distanceTransform(wrong, cv2.DIST_L2, 0)[1:-1, 1:-1] for wrong in (missed, false)
    )
    positive = bool(deep_missed.max() > deep_false.max())
    row, col = divmod(int((deep_missed if positive else deep_false).argmax()), mask.shape[1])
    return row, col, positive


def gaussian_loop(clicks: list[Click], size: tuple[int, int]) -> NDArray[np.float32]:
    """Draw the click maps, (2, H, W), by equation 2 as printed: a Gaussian of each click over all pixels."""
    rows, cols = np.mgrid[: size[0], : size[1]].astype(np.float32)
    maps = np.zeros((2, *size), np.float32)
    for click in clicks:
        assert click.radius is not None
        squared = (rows - click.row) ** 2 + (cols - click.col) ** 2
        channel = 0 if click.positive else 1
        maps[channel] = np.maximum(maps[channel], np.exp(-squared / (2 * max(0.5 * click.radius, 1.0) ** 2)))
    return maps


def _pick(pred: torch.Tensor, mask: torch.Tensor) -> Pick:
    found = next_click(pred, mask)
    assert math.isfinite(found.radii.item())
    return int(found.coords[0, 0]), int(found.coords[0, 1]), bool(found.labels[0])
