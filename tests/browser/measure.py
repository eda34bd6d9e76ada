"""Speed of the annotator, measured in the browser.

`python tests/browser/measure.py` prints it as Markdown, `--json FILE` keeps it.

Starts `dct-seg annotate` on copies of images and drives its page in Chromium. Nothing else should run at the
same time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from driving import (
    Server,
    annotating,
    chromium,
    drag,
    longest_task,
    place,
    sample_images,
    scroll_far,
    search,
    settle,
    small_images,
)
from PIL import Image, ImageOps
from playwright.sync_api import Page

TIMEOUT = 120_000  # milliseconds
CENTER, RADII = (430, 430), (60, 240)  # on the one-megapixel image: a drag from and to

WATCH = """() => {
  const stage = document.getElementById("stage");
  const seen = (window.seen = { masks: [], lags: [], frames: [], moves: 0 });
  let newest = null;
  stage.addEventListener("livemask", ({ detail }) => seen.masks.push({ at: performance.now(), ...detail }));
  stage.addEventListener("pointermove", (event) => { newest = event.timeStamp; seen.moves++; });
  const frame = () => {
    seen.frames.push(performance.now());
    if (newest !== null) seen.lags.push(performance.now() - newest);
    newest = null;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of the annotator, measured in the browser.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of dragging without a pause (5)")
    parser.add_argument(
        "--pictures",
        type=int,
        default=100,
        help="that are opened and clicked on for the memory; 0 leaves that out (100)",
    )
    parser.add_argument(
        "--list", type=int, default=0, metavar="N", help="measure the list of N images, and nothing else"
    )
    parser.add_argument("--weights", help="as for dct-seg annotate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    options = ["--weights", given.weights] if given.weights else []
    with tempfile.TemporaryDirectory() as folder:
        if given.list:
            sys.stdout.write(many(Path(folder), given.list, options) + "\n")
            return
        found = {"machine": machine(), **follow(Path(folder) / "one", given.seconds, options)}
        if given.pictures:
            found["memory"] = memory(Path(folder) / "many", given.pictures, options)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(markdown(found) + "\n")


def machine() -> dict[str, Any]:
    """Machine of the measurement."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": name, "cores": cores, "others": round(os.getloadavg()[0], 1)}


def follow(folder: Path, seconds: float, options: list[str]) -> dict[str, Any]:
    """The start, and a drag that does not pause, on an image of one megapixel."""
    sample_images(folder, ("astronaut",))
    Image.open(folder / "astronaut.jpg").resize((1000, 1000), Image.Resampling.LANCZOS).save(
        folder / "astronaut.jpg", quality=92
    )
    server = Server(folder, options=options, fresh=True)
    try:
        started = time.perf_counter() - server.began
        with chromium() as page:
            page.set_default_timeout(TIMEOUT)
            opening = time.perf_counter()
            page.goto(server.url)
            settle(page)
            opened = time.perf_counter() - opening
            page.evaluate(WATCH)
            card = page.evaluate("async () => (await (await fetch('api/v1/project')).json()).model.name")
            press = time.perf_counter()
            start(page)
            page.wait_for_function("() => seen.masks.length > 0")
            first = time.perf_counter() - press
            moves(page, 1.0)  # warm-up: the server learns how large a preview it can afford
            began = page.evaluate("performance.now()")
            moves(page, seconds)
            ended = page.evaluate("performance.now()")
            seen = page.evaluate("seen")
            page.keyboard.press("Escape")
            page.mouse.up()
            settle(page)
            clicks = [timed(lambda: drag(page, *CENTER, 150, steps=2, pause=0)) for _ in range(1)]
    finally:
        server.stop()
    masks = [one for one in seen["masks"] if began <= one["at"] <= ended]
    elapsed = (ended - began) / 1000
    half = len(masks) // 2
    return {
        "model": card,
        "start": {"server": started, "page": opened, "first_mask": first, "release_to_mask": clicks[0]},
        "drag": {
            "seconds": elapsed,
            "pointer_moves": seen["moves"],
            "drawn_a_second": sum(began <= at <= ended for at in seen["frames"]) / elapsed,
            "masks_a_second": len(masks) / elapsed,
            "circle_lag_ms": {"median": median(seen["lags"]), "worst": max(seen["lags"])},
            "mask_age_ms": {
                "median": median(one["age"] for one in masks),
                "worst": max(one["age"] for one in masks),
            },
            "mask_age_first_and_second_half_ms": [
                median(one["age"] for one in part) for part in (masks[:half], masks[half:])
            ],
            "network_ms": median(one["model"] for one in masks),
            "server_ms": median(one["total"] for one in masks),
        },
    }


def start(page: Page) -> None:
    """Press, and drag a little."""
    page.mouse.move(*place(page, *CENTER))
    page.mouse.down()
    page.mouse.move(*place(page, CENTER[0], CENTER[1] + RADII[0]))


def moves(page: Page, seconds: float) -> None:
    """Drag outward and inward, a turn in three seconds, without a pause."""
    (near, y), (far, _) = (place(page, CENTER[0], CENTER[1] + radius) for radius in RADII)
    began = time.perf_counter()
    while (now := time.perf_counter() - began) < seconds:
        share = (1 - math.cos(2 * math.pi * now / 3)) / 2
        page.mouse.move(near + (far - near) * share, y)


def timed(run: Any) -> float:
    """Seconds."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def memory(folder: Path, number: int, options: list[str]) -> dict[str, Any]:
    """MiB of the server and of the page's heap after images of 1.2 megapixels that were opened and clicked
    on.
    """
    sample_images(folder, ("chelsea",))
    sample = Image.open(folder / "chelsea.jpg").resize((1280, 960))
    (folder / "chelsea.jpg").unlink()
    for index in range(number):
        turned = ImageOps.mirror(sample) if index % 2 else sample
        turned.rotate(index / 10).save(folder / f"{index:03d}.jpg")
    after = {}
    with annotating(folder, options=options, timeout=TIMEOUT, fresh=True) as (server, page):
        page.goto(server.url)
        settle(page)
        for index in range(number):
            if index:
                page.keyboard.press("n")
                page.wait_for_function(
                    "at => document.getElementById('title').textContent.includes(at)",
                    arg=f"{index + 1} / {number}",
                )
                settle(page)
            page.mouse.click(*place(page, 480, 640))
            settle(page)
            page.keyboard.press("Enter")
            settle(page)
            if index + 1 in (1, 10, number // 2, number):
                heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
                after[str(index + 1)] = {
                    "server": round(resident(server.command.pid)),
                    "page": round(heap, 1),
                }
    return after


def many(folder: Path, number: int, options: list[str]) -> str:
    """The longest tasks of the page over a folder of many images, as a table."""
    small_images(folder, number)
    with annotating(folder, options=options, timeout=TIMEOUT, fresh=True) as (server, page):

        def opened() -> None:
            page.goto(server.url)
            settle(page)

        def stepped() -> None:
            page.focus("#stage")
            for _ in range(3):
                page.keyboard.press("n")
                settle(page)

        rows = {
            "page opened": opened,
            "scrolling and jumping through the list": lambda: scroll_far(page),
            "typing in the search": lambda: search(page, "frame_19"),
            "next image": stepped,
        }
        found = {name: longest_task(page, run) for name, run in rows.items()}
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {ms:.0f} ms |" for name, ms in found.items())


def resident(process: int) -> float:
    """MiB that a process holds in memory."""
    line = next(
        line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def markdown(found: dict[str, Any]) -> str:
    """The figures as tables."""
    begun, drawn, on = found["start"], found["drag"], found["machine"]
    rows = [
        ("server started", f"{begun['server']:.1f} s"),
        ("page opened, image shown", f"{begun['page']:.1f} s"),
        ("first press to the first live mask", f"{begun['first_mask']:.2f} s"),
        ("a quick drag to its mask on disk and drawn", f"{begun['release_to_mask']:.2f} s"),
        ("**live masks a second, 1 megapixel**", f"**{drawn['masks_a_second']:.1f}**"),
        ("frames drawn per second while dragging", f"{drawn['drawn_a_second']:.0f}"),
        (
            "circle behind the pointer, median and worst",
            "{median:.0f} and {worst:.0f} ms".format(**drawn["circle_lag_ms"]),
        ),
        (
            "mask behind its circle, median and worst",
            "{median:.0f} and {worst:.0f} ms".format(**drawn["mask_age_ms"]),
        ),
        (
            "the same median in the first and the second half of the drag",
            "{:.0f} and {:.0f} ms".format(*drawn["mask_age_first_and_second_half_ms"]),
        ),
        ("of which the network", f"{drawn['network_ms']:.0f} ms"),
        *(
            (f"memory after {count} images: server, page", f"{one['server']} MiB, {one['page']:.0f} MiB")
            for count, one in found.get("memory", {}).items()
        ),
    ]
    head = (
        f"`{found['model']}`, {on['cores']} cores of {on['processor']}, load of the machine before "
        f"{on['others']}\n\n| | |\n|---|---|\n"
    )
    return head + "\n".join(f"| {name} | {value} |" for name, value in rows)


if __name__ == "__main__":
    main()
