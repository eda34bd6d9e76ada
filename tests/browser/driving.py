"""The annotator driven as a person drives it.

`dct-seg annotate` in a process of its own, its page in Debian's Chromium.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("DCT_SEG_BROWSER") != "required",
        reason="no Chromium here; apt-get install chromium (DCT_SEG_BROWSER=required makes this an error)",
    ),
]
"""Of each module that drives a browser."""
START_LIMIT = 300.0  # seconds; a hang is an error, slowness is not

PLACE = """([row, col]) => {
  const stage = document.getElementById("stage").getBoundingClientRect();
  const shown = JSON.parse(document.getElementById("picture").dataset.view);
  return [stage.left + shown.x + (col + 0.5) * shown.scale, stage.top + shown.y + (row + 0.5) * shown.scale];
}"""
OVERLAY = """() => document.getElementById("overlay").toDataURL("image/png").split(",")[1]"""


def photographs(folder: Path, names: tuple[str, ...] = ("chelsea", "coffee")) -> Path:
    """A folder with photographs of scikit-image's wheel (CC0 or public domain)."""
    import skimage

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = next((Path(skimage.__file__).parent / "data").glob(f"{name}.*"))
        Image.open(found).convert("RGB").save(folder / f"{name}.jpg", quality=92)
    return folder


class Server:
    """`dct-seg annotate` over a folder.

    Args:
        folder: The pictures.
        port: 0 takes a free one.
        options: Further arguments, such as ``--classes cup,spoon``.
    """

    def __init__(self, folder: Path, port: int = 0, *, options: Sequence[str] = ()) -> None:
        self.began = time.perf_counter()
        self.folder = folder
        command = [
            sys.executable,
            "-m",
            "dct_seg.cli",
            "annotate",
            str(folder),
            "--port",
            str(port),
            "--no-browser",
            *options,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert self.process.stdout is not None
        self.url = next((line.strip() for line in self.process.stdout if line.startswith("http")), "")
        assert self.url, f"{' '.join(command)} ended with {self.process.wait()}"
        self.port = int(self.url.split(":")[2].split("/")[0])
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def _wait(self) -> None:
        while not self._answers():
            if time.perf_counter() - self.began > START_LIMIT:
                raise TimeoutError(f"{self.url} did not answer within {START_LIMIT:g} s")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=60).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """As ``kill -9``."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As Ctrl+C, and as kill -9 where that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def chromium(**context: Any) -> Iterator[Page]:
    """A page of a headless Chromium; ``context`` are options of Playwright's new_context."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--force-color-profile=srgb"]
        )
        try:
            yield browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **context}).new_page()
        finally:
            browser.close()


def place(page: Page, row: float, col: float) -> tuple[float, float]:
    """(x, y) in the window of a pixel of the picture."""
    x, y = page.evaluate(PLACE, [row, col])
    return x, y


def drag(
    page: Page,
    row: float,
    col: float,
    radius: float,
    *,
    button: Any = "left",
    steps: int = 8,
    pause: float = 60,
) -> None:
    """Press on a pixel of the picture, draw a circle of some radius (pixels), let go, and wait until it is on
    disk.
    """
    x, y = place(page, row, col)
    to_x, to_y = place(page, row, col + radius)
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    for step in range(1, steps + 1):
        page.mouse.move(x + (to_x - x) * step / steps, y + (to_y - y) * step / steps)
        page.wait_for_timeout(pause)
    page.mouse.up(button=button)
    settle(page)


def settle(page: Page) -> None:
    """Wait until each change has been answered and what it did has been drawn."""
    page.wait_for_selector("body[data-pending='0']:not([data-loading])")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def overlay(page: Page) -> NDArray[np.uint8]:
    """(h, w, 4) uint8, what is drawn above the picture: masks, outlines, clicks."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(page.evaluate(OVERLAY)))).convert("RGBA"))


def masked(page: Page, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool: pixels of the picture that are tinted as a mask is, read from what is drawn."""
    opacity = float(page.input_value("#opacity"))
    tinted = np.abs(overlay(page)[..., 3] - 255 * opacity) <= 3
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    (left, top), (right, bottom) = place(page, 0, 0), place(page, height - 1, width - 1)
    cols = np.linspace(left - stage["x"], right - stage["x"], width).round().astype(int)
    rows = np.linspace(top - stage["y"], bottom - stage["y"], height).round().astype(int)
    return np.asarray(tinted[np.ix_(rows, cols)])


def state(page: Page, name: str) -> dict[str, Any]:
    """A picture as the server knows it."""
    pictures = page.evaluate("async () => (await (await fetch('api/v1/project')).json()).pictures")
    number = next(one["id"] for one in pictures if one["name"] == name)
    found: dict[str, Any] = page.evaluate(
        "async (id) => (await fetch(`api/v1/pictures/${id}`)).json()", number
    )
    return found
