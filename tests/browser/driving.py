"""The annotator, driven through a browser.

`dct-seg annotate` in a separate process, its page in Debian's Chromium.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.append(str(Path(__file__).parents[1]))  # where a script of this folder finds the module

from processes import Command

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_MARKS = [
    pytest.mark.slow,
    pytest.mark.usefixtures("browser"),
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("DCT_SEG_BROWSER") != "required",
        reason="no Chromium here; apt-get install chromium (DCT_SEG_BROWSER=required makes this an error)",
    ),
]
"""Marks of each module that drives a browser."""
TASKS = ("RunTask", "ThreadControllerImpl::RunTask")  # names of a task in the trace
START_LIMIT = 300.0  # seconds; a hang is an error, slowness is not

PLACE = """([row, col]) => {
  const stage = document.getElementById("stage").getBoundingClientRect();
  const shown = JSON.parse(document.getElementById("image").dataset.view);
  return [stage.left + shown.x + (col + 0.5) * shown.scale, stage.top + shown.y + (row + 0.5) * shown.scale];
}"""
OVERLAY = """() => document.getElementById("overlay").toDataURL("image/png").split(",")[1]"""


def sample_images(folder: Path, names: tuple[str, ...] = ("chelsea", "coffee")) -> Path:
    """Make a folder with images of scikit-image's wheel (CC0 or public domain)."""
    import skimage

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = next((Path(skimage.__file__).parent / "data").glob(f"{name}.*"))
        Image.open(found).convert("RGB").save(folder / f"{name}.jpg", quality=92)
    return folder


def small_images(folder: Path, number: int) -> None:
    """Write many small JPEGs, frame_00000.jpg and so on."""
    file = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(file, "JPEG")
    for index in range(number):
        (folder / f"frame_{index:05d}.jpg").write_bytes(file.getvalue())


class Server:
    """`dct-seg annotate` over a folder.

    Args:
        folder: Folder of the images.
        port: Port; 0 chooses a free one.
        options: Further arguments, such as ``--classes cup,spoon``.
        fresh: Whether to start Python anew, see `Command`.
    """

    def __init__(
        self, folder: Path, port: int = 0, *, options: Sequence[str] = (), fresh: bool = False
    ) -> None:
        self.folder = folder
        words = ["annotate", folder, "--port", port, "--no-browser", *options]
        self.command = Command(*words, log=folder.with_name(f"{folder.name}.log"), fresh=fresh)
        self.began = time.perf_counter()
        self.command.wait_until(lambda: "http" in self.command.said(), START_LIMIT)
        self.url = next(line for line in self.command.said().splitlines() if line.startswith("http"))
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
        """Kill the server, like ``kill -9``."""
        self.command.send(signal.SIGKILL)

    def kill_and_restart(self) -> None:
        """Kill the server, and restart it."""
        self.kill()
        self.restart()

    def restart(self) -> None:
        """Start the killed server on the same folder and port without further arguments."""
        self.command = Server(self.folder, self.port).command

    def stop(self) -> None:
        """Stop the server like Ctrl+C, and like kill -9 if that does not help."""
        process = self.command.process
        if process.is_alive():
            os.kill(self.command.pid, signal.SIGINT)
            process.join(10)
        if process.is_alive():
            self.kill()


_running: list[Browser] = []


@contextmanager
def shared_browser() -> Iterator[Browser]:
    """A headless Chromium, started unless one runs, because a start takes a second."""
    if _running:
        yield _running[0]
        return
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--force-color-profile=srgb"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        _running.append(browser)
        try:
            yield browser
        finally:
            _running.clear()
            browser.close()


@contextmanager
def chromium(**context: Any) -> Iterator[Page]:
    """A page of a headless Chromium; ``context`` are options of Playwright's new_context."""
    with shared_browser() as browser:
        opened = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **context})
        try:
            yield opened.new_page()
        finally:
            opened.close()


@contextmanager
def annotating(
    folder: Path, *, options: Sequence[str] = (), timeout: float | None = None, fresh: bool = False
) -> Iterator[tuple[Server, Page]]:
    """`dct-seg annotate` over a folder, and a page of a browser, not opened yet.

    Args:
        folder: Folder of the images.
        options: Further arguments of the command.
        timeout: Timeout of each wait in milliseconds; None uses Playwright's.
        fresh: Whether to start Python anew, see `Command`.
    """
    server = Server(folder, options=options, fresh=fresh)
    try:
        with chromium() as page:
            if timeout is not None:
                page.set_default_timeout(timeout)
            yield server, page
    finally:
        server.stop()


def place(page: Page, row: float, col: float) -> tuple[float, float]:
    """(x, y) in the window of a pixel of the image."""
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
    """Press on a pixel of the image, draw a circle of some radius (pixels), let go, and wait until it is on
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
    """Wait until every change has been acknowledged and drawn."""
    page.wait_for_selector("body[data-pending='0']:not([data-loading])")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def overlay(page: Page) -> NDArray[np.uint8]:
    """(h, w, 4) uint8, the overlay on the image: masks, outlines, clicks."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(page.evaluate(OVERLAY)))).convert("RGBA"))


def masked(page: Page, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool: pixels of the image with the tint of a mask, read from the overlay."""
    opacity = float(page.input_value("#opacity"))
    tinted = np.abs(overlay(page)[..., 3] - 255 * opacity) <= 3
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    (left, top), (right, bottom) = place(page, 0, 0), place(page, height - 1, width - 1)
    cols = np.linspace(left - stage["x"], right - stage["x"], width).round().astype(int)
    rows = np.linspace(top - stage["y"], bottom - stage["y"], height).round().astype(int)
    return np.asarray(tinted[np.ix_(rows, cols)])


def wait_until(page: Page, happened: Callable[[], bool], limit: float = 10) -> None:
    """Wait until a condition holds that only Python can check; at most ``limit`` seconds."""
    end = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < end, f"it did not happen within {limit:g} s"
        page.wait_for_timeout(50)


def state(page: Page, name: str) -> dict[str, Any]:
    """State of an image on the server."""
    images = page.evaluate("async () => (await (await fetch('api/v1/project')).json()).pictures")
    number = next(one["id"] for one in images if one["name"] == name)
    found: dict[str, Any] = page.evaluate(
        "async (id) => (await fetch(`api/v1/pictures/${id}`)).json()", number
    )
    return found


def longest_task(page: Page, run: Callable[[], object]) -> float:
    """Milliseconds of processor time of the page's longest task while ``run`` drives it.

    A frame cannot be drawn during a task. Processor time excludes other programs.
    """
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
    run()
    events = json.loads(browser.stop_tracing())["traceEvents"]
    main = {
        (one["pid"], one["tid"])
        for one in events
        if one.get("name") == "thread_name" and one["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        one["tdur"] / 1000
        for one in events
        if one.get("name") in TASKS and (one["pid"], one["tid"]) in main and "tdur" in one
    ]
    assert tasks, "the trace has no task of the page"
    return float(max(tasks))


def scroll_far(page: Page) -> None:
    """Turn the wheel over the list of images, then jump through it."""
    box = page.locator("#image-list").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 50, box["y"] + 200)
    for _ in range(20):
        page.mouse.wheel(0, 900)
    for _ in range(4):
        page.evaluate("document.getElementById('image-list').scrollTop += 60 * 3500")
        page.wait_for_timeout(100)


def search(page: Page, text: str) -> None:
    """Type a text into the search and clear it again."""
    page.focus("#filter")
    page.keyboard.type(text, delay=20)
    for _ in text:
        page.keyboard.press("Backspace")
    page.wait_for_timeout(100)
