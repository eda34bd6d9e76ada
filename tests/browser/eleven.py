"""Measure how many drags and strokes eleven objects of GrabCut take in the browser, with real mouse moves.

`python tests/browser/eleven.py GRABCUT` prints a Markdown table; GRABCUT holds `data_GT` and `boundary_GT`.

The robot presses on the deepest wrong pixel, drags to the nearest right one and compares the mask with the
ground truth. After a drag that gains less than half a percent it draws the lasso around the largest wrong
region instead, and continues with the lasso.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from driving import annotating, drag, place, settle, state
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from dct_seg import next_click
from dct_seg.data.formats import GrabCut
from dct_seg.data.images import IGNORE, read_image

OBJECTS = {
    "person1": "person",
    "person2": "person",
    "tennis": "tennis player",
    "189080": "portrait",
    "elefant": "elephant",
    "llama": "llama",
    "sheep": "sheep",
    "106024": "penguin",
    "cross": "cross",
    "scissors": "scissors",
    "bush": "bush",
}
"""Image of GrabCut -> its object."""
TARGETS = (0.90, 0.95)
MAX_STEPS = 20
LEAST_GAIN = 0.005  # IoU; after a drag that gains less, the lasso is used
TIMEOUT = 300_000  # milliseconds


@dataclass
class Work:
    """Steps on one object; ``reached``: target -> (drags, strokes, seconds)."""

    drags: int = 0
    strokes: int = 0
    seconds: float = 0.0
    iou: float = 0.0
    reached: dict[float, tuple[int, int, float]] = field(default_factory=dict)

    def note(self, iou: float) -> None:
        """Note the IoU after a step."""
        self.iou = iou
        for target in TARGETS:
            if iou >= target and target not in self.reached:
                self.reached[target] = (self.drags, self.strokes, self.seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Drags and strokes for eleven objects, in the browser.")
    parser.add_argument("grabcut", type=Path, help="folder of GrabCut, with data_GT and boundary_GT")
    parser.add_argument("--weights", help="as for dct-seg annotate")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(given.grabcut, Path(folder), ["--weights", given.weights] if given.weights else [])
    sys.stdout.write(markdown(found) + "\n")


def run(grabcut: Path, folder: Path, options: list[str]) -> dict[str, Work]:
    """Segment all objects in one session."""
    data = GrabCut(grabcut)
    for name in OBJECTS:
        image = read_image(next((grabcut / "data_GT").glob(f"{name}.*")))
        Image.fromarray(image).save(folder / f"{name}.png")
    found = {}
    with annotating(folder, options=options, timeout=TIMEOUT) as (server, page):
        page.goto(server.url)
        settle(page)
        for name in OBJECTS:
            labels = data.read_labels(grabcut / "boundary_GT" / f"{name}.bmp")
            found[name] = segment(page, f"{name}.png", labels == 1, labels == IGNORE)
            sys.stderr.write(f"{name}: {found[name]}\n")
    return found


def segment(page: Page, name: str, truth: NDArray[np.bool_], ignore: NDArray[np.bool_]) -> Work:
    """Mark one object until the last target is reached, and finish it."""
    page.locator(f"#image-list button[title^='{name}']").click()
    page.wait_for_function("name => document.getElementById('title').textContent.includes(name)", arg=name)
    settle(page)
    work = Work()
    pred = np.zeros_like(truth)
    by_lasso = False
    while work.drags + work.strokes < MAX_STEPS and len(work.reached) < len(TARGETS):
        before = work.iou
        began = time.perf_counter()
        if by_lasso:
            stroke(page, pred, truth, ignore)
            work.strokes += 1
        else:
            press(page, pred, truth, ignore)
            work.drags += 1
        work.seconds += time.perf_counter() - began
        pred = current(page, name, truth.shape)
        seen = ~ignore
        work.note(float((pred & truth & seen).sum() / ((pred | truth) & seen).sum()))
        by_lasso = by_lasso or (work.drags > 1 and work.iou - before < LEAST_GAIN)
    if page.locator("#painting").is_visible():
        page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    settle(page)
    return work


def press(page: Page, pred: NDArray[np.bool_], truth: NDArray[np.bool_], ignore: NDArray[np.bool_]) -> None:
    """Drag from the deepest wrong pixel to the nearest right one."""
    maps = (torch.from_numpy(one)[None] for one in (pred, truth, ignore))
    click = next_click(*maps)
    (row, col), radius = click.coords[0].tolist(), float(click.true_radii[0])
    button = "left" if int(click.labels[0]) == 1 else "right"
    drag(page, row, col, radius, button=button, steps=6, pause=15)


def stroke(page: Page, pred: NDArray[np.bool_], truth: NDArray[np.bool_], ignore: NDArray[np.bool_]) -> None:
    """Draw the lasso around the largest wrong region, as a polygon within a pixel and a half."""
    if page.locator("#tool-lasso").get_attribute("aria-checked") != "true":
        page.keyboard.press("l")
    wrong = ((pred != truth) & ~ignore).astype(np.uint8)
    _, labels, areas, _ = cv2.connectedComponentsWithStats(wrong, connectivity=8)
    region = labels == 1 + areas[1:, cv2.CC_STAT_AREA].argmax()
    adds = bool(truth[region].mean() > 0.5)
    region &= truth == adds  # the other sign is another stroke
    outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    corners = cv2.approxPolyDP(outline, 1.5, True)[:, 0].tolist()
    button: Any = "left" if adds else "right"
    page.mouse.move(*place(page, corners[0][1], corners[0][0]))
    page.mouse.down(button=button)
    for col, row in [*corners[1:], corners[0]]:
        page.mouse.move(*place(page, row, col), steps=2)
    page.mouse.up(button=button)
    settle(page)


def current(page: Page, name: str, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask of the object being made, (H, W)."""
    found = state(page, name)["mask"]
    pred = np.zeros(size, bool)
    png = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["png"]))))
    large = cv2.resize(png, (found["width"], found["height"]), interpolation=cv2.INTER_LINEAR)
    rows, cols = (
        slice(found[at], found[at] + found[side]) for at, side in (("row", "height"), ("col", "width"))
    )
    pred[rows, cols] = large > 127.5
    return pred


def markdown(found: dict[str, Work]) -> str:
    """The steps as a table."""
    lines = [
        "| object | drags + strokes to 0.90 | to 0.95 | seconds to 0.90 | to 0.95 | last IoU |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, work in found.items():
        steps, seconds = [], []
        for target in TARGETS:
            drags, strokes, took = work.reached.get(target, (None, None, None))
            steps.append(
                "not reached" if drags is None else f"{drags} + {strokes}" if strokes else f"{drags}"
            )
            seconds.append("" if took is None else f"{took:.1f}")
        lines.append(f"| {OBJECTS[name]} (`{name}`) | {' | '.join([*steps, *seconds])} | {work.iou:.3f} |")
    medians = []
    for target in TARGETS:
        known = [one.reached[target] for one in found.values() if target in one.reached]
        medians.append((median(a + b for a, b, _ in known), median(took for *_, took in known)))
    (first, first_seconds), (second, second_seconds) = medians
    return "\n".join(
        [
            *lines,
            f"| median | {first:g} | {second:g} | {first_seconds:.1f} | {second_seconds:.1f} | |",
        ]
    )


if __name__ == "__main__":
    main()
