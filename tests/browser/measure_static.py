"""Speed of the page without a server, with the shipped weights in Chromium.

`python tests/browser/measure_static.py` prints it as Markdown, `--shot FILE` keeps a screenshot.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from driving import chromium, sample_images
from measure import machine
from playwright.sync_api import Page
from static_site import load_hook, serving

LIMIT = 600_000  # milliseconds
DRAG = (150, 260, 120)  # row, column and radius on the cat's face, an image of 300 x 451
CLICKS = [(40, 60, "right"), (270, 330, "left"), (120, 60, "right"), (230, 400, "left")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast the page without a server is.")
    parser.add_argument("--shot", type=Path, metavar="FILE", help="write a screenshot there")
    given = parser.parse_args()
    hook = load_hook()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hook.build(folder / "site")
        hook.add_model(folder / "site" / "model")
        files = [file for file in (folder / "site").rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 2**20
        image = sample_images(folder / "images", ("chelsea",)) / "chelsea.jpg"
        with serving(folder / "site") as url, chromium(viewport={"width": 900, "height": 620}) as page:
            times = drive(page, url, image)
            if given.shot:
                page.screenshot(path=given.shot)
    on = machine()
    rows = [f"| {what} | {seconds:.2f} s |" for what, seconds in times.items()]
    lines = [
        f"{on['processor']}, one thread of {on['cores']} cores, load {on['others']}; {size:.0f} MB of files.",
        "",
        "| step | time |",
        "|---|---|",
        *rows,
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def drive(page: Page, url: str, image: Path) -> dict[str, float]:
    """Seconds of each step."""
    page.set_default_timeout(LIMIT)
    began = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    loaded = time.perf_counter() - began
    page.set_input_files("#file", image)
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Image encoded')")
    row, col, radius = DRAG
    times = {
        "load the page and the network": loaded,
        "first mask, of a drag": press(page, row, col, radius, 1),
    }
    later = [
        press(page, row, col, 0, turns, button) for turns, (row, col, button) in enumerate(CLICKS, start=2)
    ]
    times["first click without a drag (loads the Auto-Drag-Head)"] = later[0]
    times["each further click, median"] = median(later[1:])
    return times


def press(page: Page, row: float, col: float, radius: float, turns: int, button: str = "left") -> float:
    """Press on a pixel, drag, let go; seconds until the mask is drawn, as the page counts them."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    scale = box["width"] / page.evaluate("document.getElementById('canvas').width")
    x, y = box["x"] + (col + 0.5) * scale, box["y"] + (row + 0.5) * scale
    page.mouse.move(x, y)
    page.mouse.down(button=button)  # type: ignore[arg-type]
    if radius:
        page.mouse.move(x + radius * scale, y, steps=4)
    page.mouse.up(button=button)  # type: ignore[arg-type]
    page.wait_for_selector(f"body[data-turns='{turns}']")
    return int(page.evaluate("document.body.dataset.milliseconds")) / 1000


if __name__ == "__main__":
    main()
