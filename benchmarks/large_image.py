"""Memory and time of the first click on a large image, in a separate process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.measure import Row, Spread

SIZE = (3000, 4000)


def memory_row(args: argparse.Namespace) -> Row:
    """Measure the peak memory of a process that makes five clicks on a large image."""
    found = _measured(torch.get_num_threads())
    return Row(
        "memory",
        "peak memory, late fusion, one image of 12 megapixels, five clicks",
        "",
        "GiB",
        Spread.of([found["peak"] / 2**30]),
        at_most=2,
        note=(
            f"the whole process; libraries and network take {found['before'] / 2**30:.2f} GiB of it, before "
            "the image is set"
        ),
    )


def first_click_row(args: argparse.Namespace) -> Row:
    """Measure the time from the pixels to the first mask, in a new process."""
    found = _measured(torch.get_num_threads())
    note = (
        f"encoding takes {found['encode']:.2f} s of it; the next clicks take "
        f"{', '.join(f'{s:.2f}' for s in found['later'])} s"
    )
    return Row(
        "first-click",
        "set_image and first click, late fusion, 12 megapixels",
        "",
        "s",
        Spread.of([found["first"]]),
        at_most=3,
        note=note,
    )


@cache
def _measured(threads: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(threads)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"the process that measures memory failed: {done.stderr.strip().splitlines()[-1:]}"
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_memory() -> int:
    """Read the peak memory of this process in bytes.

    On Linux, this is the kernel's high-water mark: getrusage would start with that of the parent process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measure(threads: int) -> dict[str, Any]:
    from benchmarks.network import network_method, random_image
    from dct_seg.predictor import Predictor

    torch.set_num_threads(threads)
    predictor, image = Predictor(network_method("late")), random_image(SIZE)
    before = peak_memory()
    began = perf_counter()
    predictor.set_image(image)
    encode = predictor.timings.encode
    predictor.click(1500, 2000, radius=400.0)
    first = perf_counter() - began
    later = [
        predictor.click(1500 + 90 * i, 2000, positive=i % 2 == 0, radius=150.0).timings.total
        for i in range(1, 5)
    ]
    return {"before": before, "peak": peak_memory(), "encode": encode, "first": first, "later": later}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(int(sys.argv[1]))) + "\n")
