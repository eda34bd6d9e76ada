"""Parity and speed of an export, and of objects in a batch, compared with single predictions in PyTorch.

``python -m benchmarks.exported --out docs/export_measured.md`` writes the tables of the documentation.
Backends alternate on one thread, and its CPU time is counted, so that a busy machine matters little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dct_seg.clicks import Click, ClickBatch
from dct_seg.export.cache import cached_export
from dct_seg.export.writing import export, random_call
from dct_seg.files import write_whole
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.exported import ExportedNetwork
from dct_seg.models.network import InteractiveNetwork, build_network
from dct_seg.models.pretrained import DEFAULT
from dct_seg.prediction import Prediction
from dct_seg.predictor import Predictor, predict_together
from dct_seg.processor import has_fast_bfloat16

SIZES = ((256, 256), (300, 448), (448, 333), (512, 640))
CLICKS = (1, 5, 20)
PARITY = (
    "| image | clicks | torch float32 | torch bfloat16 | onnxruntime "
    "| onnxruntime off | flipped | bfloat16 off | flipped |",
    "|---|---|---|---|---|---|---|---|---|",
)
PREDICTOR = ("| backend | seconds per click | relative to float32 | flipped |", "|---|---|---|---|")
BATCH = ("| precision | batch | objects per second | off | flipped |", "|---|---|---|---|---|")
DRAWN = (  # fractions of the image's height and width; a drag as a fraction of the height
    ((0.75, 0.5, 0.2), (0.25, 0.5, 0.12), (0.1, 0.1, None)),
    ((0.25, 0.5, 0.12), (0.6, 0.75, None)),
)
BATCHES = (1, 4)

Pixels = NDArray[np.uint8]
Answer = Callable[[], Tensor]


def parity(net: InteractiveNetwork, run: ExportedNetwork, image: Pixels, repeats: int) -> list[str]:
    """Measure one network: milliseconds per click, largest difference in probability, flipped pixels.

    Args:
        net: Network in evaluation mode.
        run: Export of the network.
        image: (H, W, 3) uint8 RGB, resized to each size.
        repeats: Timed calls of each backend; the table shows their median.
    """
    lines = [*PARITY]
    for size in SIZES:
        resized = np.asarray(Image.fromarray(image).resize((size[1], size[0])), np.float32)
        pixels = torch.from_numpy(resized).permute(2, 0, 1)[None] / 255
        for num_clicks in CLICKS:
            _, clicks, previous = random_call(size, num_clicks, seed=num_clicks)
            answers = _answers(net, run, pixels, clicks, previous)
            probs = [answer().sigmoid().numpy() for answer in answers]
            times = " | ".join(f"{1000 * took:.0f} ms" for took in side_by_side(answers, repeats))
            apart = " | ".join(_difference([probs[0]], [other]) for other in (probs[2], probs[1]))
            lines.append(f"| {size[0]} x {size[1]} | {num_clicks} | {times} | {apart} |")
    return lines


def _answers(
    net: InteractiveNetwork, run: ExportedNetwork, image: Tensor, clicks: ClickBatch, previous: Tensor
) -> list[Answer]:
    """Make functions that predict one click on the encoded image: PyTorch float32, bfloat16, onnxruntime."""

    def in_torch(bfloat16: bool) -> Answer:
        shown = image.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            features = net.encode_image(shown) if net.is_late else None

        def answer() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                return net(shown, clicks, previous, features).float()  # type: ignore[no-any-return]

        return answer

    encoded = run.encode_image(image) if run.is_late else None
    return [in_torch(False), in_torch(True), lambda: run(image, clicks, previous, encoded)]


def side_by_side(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Measure the median CPU seconds of each call; the calls take turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, took in zip(calls, seconds, strict=True):
            began = time.process_time()
            call()
            took.append(time.process_time() - began)
    return [statistics.median(took) for took in seconds]


def _difference(ours: Sequence[NDArray[np.float32]], theirs: Sequence[NDArray[np.float32]]) -> str:
    """Format the largest difference in probability and the share of flipped mask pixels."""
    one, other = (np.concatenate([probs.ravel() for probs in some]) for some in (ours, theirs))
    flipped = float(((one > 0.5) != (other > 0.5)).mean())
    return f"{float(np.abs(one - other).max()):.1e} | {100 * flipped:.3f} %"


def predictor(net: InteractiveNetwork, run: ExportedNetwork, image: Pixels, repeats: int) -> list[str]:
    """Measure the predictor's backends, with zoom-in and the Auto-Drag-Head as in the annotator."""
    methods = {
        "torch float32": DCTNetMethod(net=net, precision="float32"),
        "torch bfloat16": DCTNetMethod(net=net, precision="bfloat16"),
        "onnxruntime": DCTNetMethod(net=run),
    }
    objects = objects_of(image)
    plain = {name: Predictor(method) for name, method in methods.items()}

    def play(one: Predictor) -> list[NDArray[np.float32]]:
        one.set_image(image)
        return [one.predict(clicks).probs for clicks in objects]

    probs = {name: play(one) for name, one in plain.items()}
    times = side_by_side([lambda one=one: play(one) for one in plain.values()], repeats)  # type: ignore[misc]
    num_clicks = sum(len(clicks) for clicks in objects)
    rows = [
        f"| {name}{_auto_mark(name)} | {took / num_clicks:.3f} s | {took / times[0]:.2f} | "
        f"{_difference(probs['torch float32'], probs[name]).split(' | ')[1]} |"
        for name, took in zip(plain, times, strict=True)
    ]
    return [*PREDICTOR, *rows]


def _auto_mark(name: str) -> str:
    """Make the note for the precision that ``auto`` chooses on this processor."""
    auto = "torch bfloat16" if has_fast_bfloat16() else "torch float32"
    return " (`auto` on this processor)" if name == auto else ""


def objects_of(image: Pixels) -> list[list[Click]]:
    """Make the clicks of each object in ``DRAWN`` for an image."""
    height, width = image.shape[:2]
    return [
        [
            Click(row * height, col * width, radius=None if drag is None else drag * height)
            for row, col, drag in one
        ]
        for one in DRAWN
    ]


def batches(net: InteractiveNetwork, image: Pixels, repeats: int) -> list[str]:
    """Measure batches of objects, one object per image."""
    images = [np.roll(image, 40 * shift, axis=1) for shift in range(max(BATCHES))]
    clicks = objects_of(image)[1]
    rows = []
    for precision in ("float32", "bfloat16"):

        def play(size: int, precision: str = precision) -> list[Prediction]:
            predictors = [Predictor(DCTNetMethod(net=net, precision=precision)) for _ in images]  # type: ignore[arg-type]
            for one, shown in zip(predictors, images, strict=True):
                one.set_image(shown)
            if size == 1:
                return [one.predict(clicks) for one in predictors]
            some = [predictors[at : at + size] for at in range(0, len(predictors), size)]
            return [found for part in some for found in predict_together([(one, clicks) for one in part])]

        probs = {size: [found.probs for found in play(size)] for size in BATCHES}
        times = side_by_side([lambda size=size: play(size) for size in BATCHES], repeats)  # type: ignore[misc]
        rows += [
            f"| {precision} | {size} | {len(images) / took:.2f} | {_difference(probs[1], probs[size])} |"
            for size, took in zip(BATCHES, times, strict=True)
        ]
    return [*BATCH, *rows]


def late_of(net: InteractiveNetwork) -> InteractiveNetwork:
    """Make a network like ``net`` with late fusion and random weights, none of them zero."""
    torch.manual_seed(0)
    config = replace(net.config, prompt_fusion="late", detail=False, backbone_weights="none")
    late = build_network(config)
    with torch.no_grad():
        for parameter in late.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return late.eval()


def report(
    weights: str, late_weights: str | None, image: Pixels, repeats: int, folder: Path
) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the lines of each table.

    Args:
        weights: Weights of an early network.
        late_weights: Weights of a late network; None uses random ones.
        image: (H, W, 3) uint8 RGB.
        repeats: Timed calls of each backend.
        folder: Folder for the export of random weights.
    """
    early = InteractiveNetwork.from_pretrained(weights).to(memory_format=torch.channels_last)
    run = ExportedNetwork(cached_export(weights), threads=1)
    title = f"Early fusion, `{weights}` ({early.config.backbone}), one click"
    yield title, parity(early, run, image, repeats)
    title = f"The predictor as the annotator uses it, `{weights}`, {len(DRAWN)} objects"
    yield title, predictor(early, run, image, repeats)
    title = f"{max(BATCHES)} images with an object of {len(DRAWN[1])} clicks each, `{weights}`"
    yield title, batches(early, image, repeats)
    if late_weights is None:
        late, named = late_of(early), "the same network with random weights, because none is shipped"
        export(late, folder)
        run = ExportedNetwork(folder, threads=1)
    else:
        late, named = InteractiveNetwork.from_pretrained(late_weights), f"`{late_weights}`"
        run = ExportedNetwork(cached_export(late_weights), threads=1)
    late = late.to(memory_format=torch.channels_last)
    title = f"Late fusion, {named}, one click after the image is encoded"
    yield title, parity(late, run, image, repeats)


def main(args: Sequence[str] | None = None) -> int:
    """Print the tables, or write each as soon as it is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exported",
        description="Compare an export with PyTorch: accuracy and speed.",
    )
    parser.add_argument(
        "--weights", default=DEFAULT, help="weights of a network with early fusion (default: %(default)s)"
    )
    parser.add_argument(
        "--late", metavar="WEIGHTS", help="weights of a network with late fusion (default: random weights)"
    )
    parser.add_argument("--image", type=Path, help="image to segment (default: a portrait from matplotlib)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed calls of each backend (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="Markdown file to write (default: print the tables)"
    )
    given = parser.parse_args(args)
    torch.set_num_threads(1)
    portrait = Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    image = np.array(Image.open(given.image or portrait).convert("RGB"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    text = f"CPU time of one thread, {versions}, an image of {image.shape[0]} x {image.shape[1]}.\n"
    with tempfile.TemporaryDirectory() as folder:
        for title, lines in report(given.weights, given.late, image, given.repeats, Path(folder)):
            text += f"\n{title}:\n\n" + "\n".join(lines) + "\n"
            if given.out is not None:
                write_whole(given.out, text)
    if given.out is None:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
