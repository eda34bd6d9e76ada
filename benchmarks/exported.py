"""Parity and speed of an export beside PyTorch: ``python -m benchmarks.exported DIR --weights NAME``.

Each row is one image size and one number of clicks. All backends run in turn on one thread, so that they
share whatever else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dct_seg.clicks import ClickBatch
from dct_seg.export.writing import random_call
from dct_seg.methods.exported import ExportedNetwork
from dct_seg.models.network import InteractiveNetwork

SIZES = ((256, 256), (300, 448), (448, 333), (512, 640))
CLICKS = (1, 5, 20)
HEAD = (
    "| image | clicks | torch float32 | torch bfloat16 | onnxruntime "
    "| onnxruntime off | flipped | bfloat16 off | flipped |"
)

Answer = Callable[[], Tensor]


def rows(net: InteractiveNetwork, run: ExportedNetwork, image: NDArray[np.uint8], repeats: int) -> list[str]:
    """The table's lines: milliseconds per click, largest difference in probability, share of flipped pixels.

    Args:
        net: In evaluation mode.
        run: Its export.
        image: (H, W, 3) uint8 RGB, resized to each size.
        repeats: Timed calls of each; the median counts.
    """
    lines = [HEAD, "|---|---|---|---|---|---|---|---|---|"]
    for size in SIZES:
        resized = np.asarray(Image.fromarray(image).resize((size[1], size[0])), np.float32)
        pixels = torch.from_numpy(resized).permute(2, 0, 1)[None] / 255
        for num_clicks in CLICKS:
            _, clicks, previous = random_call(size, num_clicks, seed=num_clicks)
            answers = _answers(net, run, pixels, clicks, previous)
            probs = [answer().sigmoid() for answer in answers]
            seconds: list[list[float]] = [[] for _ in answers]
            for _ in range(repeats):
                for answer, took in zip(answers, seconds, strict=True):
                    began = time.perf_counter()
                    answer()
                    took.append(time.perf_counter() - began)
            times = " | ".join(f"{1000 * statistics.median(took):.0f} ms" for took in seconds)
            apart = " | ".join(_apart(probs[0], other) for other in (probs[2], probs[1]))
            lines.append(f"| {size[0]} x {size[1]} | {num_clicks} | {times} | {apart} |")
    return lines


def _answers(
    net: InteractiveNetwork, run: ExportedNetwork, image: Tensor, clicks: ClickBatch, previous: Tensor
) -> list[Answer]:
    """One click after the image was encoded: PyTorch in float32 and bfloat16, onnxruntime."""

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


def _apart(one: Tensor, other: Tensor) -> str:
    flipped = ((one > 0.5) != (other > 0.5)).float().mean()
    return f"{float((one - other).abs().max()):.1e} | {100 * float(flipped):.3f} %"


def main(args: Sequence[str] | None = None) -> int:
    """Print the table of one network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exported", description="Parity of an export.")
    parser.add_argument("folder", type=Path, help="folder that `dct-seg export` wrote")
    parser.add_argument("--weights", default="dct-lite0", help="what was exported (default: %(default)s)")
    parser.add_argument("--image", type=Path, help="an image; random waves without")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each (default: %(default)s)")
    given = parser.parse_args(args)
    torch.set_num_threads(1)
    net = InteractiveNetwork.from_pretrained(given.weights).to(memory_format=torch.channels_last)
    waves = (random_call((480, 640), 1)[0][0].permute(1, 2, 0) * 255).numpy().astype(np.uint8)
    image = waves if given.image is None else np.array(Image.open(given.image).convert("RGB"))
    sys.stdout.write(
        "\n".join(rows(net, ExportedNetwork(given.folder, threads=1), image, given.repeats)) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
