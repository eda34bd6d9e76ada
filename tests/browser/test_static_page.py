"""The page without a server: built, served as plain files, driven in Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from driving import BROWSER_MARKS, chromium
from exports import Exported
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Route
from static_site import HOOK, load_hook, serving

from dct_seg import Click, DCTNet, Predictor
from dct_seg.export.writing import random_call
from dct_seg.methods.dctnet import DCTNetMethod

pytest.importorskip("onnxscript")
pytestmark = [
    *BROWSER_MARKS,
    pytest.mark.skipif(not (HOOK.parent / "node_modules").is_dir(), reason="cd page/static && npm ci first"),
]
SIZE = (96, 128)
LIMIT = 300_000  # milliseconds; a hang is an error, slowness is not


class Site:
    """The built page next to a tiny network.

    Args:
        folder: Folder of the page.
        exported: Export next to the page.
    """

    def __init__(self, folder: Path, exported: Exported) -> None:
        self.folder = folder / "site"
        load_hook().build(self.folder)
        self.net: DCTNet = exported.net
        shutil.copytree(exported.folder, self.folder / "model")
        image, _, _ = random_call(SIZE, 1)
        self.image = (image[0].permute(1, 2, 0) * 255).byte().numpy()
        self.file = folder / "image.png"
        Image.fromarray(self.image).save(self.file)
        self.url = ""

    def mask(self, clicks: list[Click], steps: int) -> NDArray[np.bool_]:
        """Predict the mask after ``steps`` clicks with PyTorch."""
        predictor = Predictor(DCTNetMethod(net=self.net, zoom_in=False, precision="float32"))
        predictor.set_image(self.image)
        return predictor.predict(clicks[:steps]).mask


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("static"), Exported("late", tmp_path_factory))
    with serving(made.folder) as made.url:
        yield made


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    with chromium(viewport={"width": 800, "height": 600}) as page:
        page.set_default_timeout(LIMIT)
        page.on("request", lambda asked: outside.append(asked.url) if site.url not in asked.url else None)
        outside: list[str] = []
        page.goto(site.url)
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#file", site.file)
        page.wait_for_function("document.getElementById('status').textContent.startsWith('Image encoded')")
        yield page
        assert [url for url in outside if not url.startswith(("blob:", "data:"))] == []


def press(page: Page, click: Click, turns: int) -> None:
    gesture(page, click)
    page.wait_for_selector(f"body[data-turns='{turns}']")


def gesture(page: Page, click: Click) -> None:
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    assert (box["height"], box["width"]) == SIZE  # one pixel of the screen a pixel of the image
    x, y = box["x"] + click.col + 0.5, box["y"] + click.row + 0.5
    button = "left" if click.positive else "right"
    page.mouse.move(x, y)
    page.mouse.down(button=button)  # type: ignore[arg-type]
    page.mouse.move(x + (click.radius or 0), y)
    page.mouse.up(button=button)  # type: ignore[arg-type]


def test_two_fingers_make_no_click(site: Site) -> None:
    with chromium(viewport={"width": 800, "height": 600}, has_touch=True) as page:
        page.set_default_timeout(LIMIT)
        page.goto(site.url)
        page.set_input_files("#file", site.file)
        page.wait_for_function("document.getElementById('status').textContent.startsWith('Image encoded')")
        status = page.locator("#status")
        before = status.inner_text()
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        x, y = box["x"] + 40, box["y"] + 40
        devtools = page.context.new_cdp_session(page)
        first, second = ({"x": x + 30 * finger, "y": y, "id": finger} for finger in (0, 1))
        for kind, fingers in (("Start", [first]), ("Start", [first, second]), ("End", [])):
            devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": fingers})
        page.wait_for_timeout(2000)
        assert status.inner_text() == before
        for kind, fingers in (("Start", [first]), ("End", [])):
            devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": fingers})
        page.wait_for_selector("body[data-turns='1']")


def saved_mask(page: Page, folder: Path) -> NDArray[np.bool_]:
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(folder / "mask.png")
    return np.asarray(Image.open(folder / "mask.png").convert("L")) > 127


def test_page_and_pytorch_give_equal_masks(site: Site, page: Page, tmp_path: Path) -> None:
    clicks = [
        Click(40, 50),
        Click(70, 90, positive=False, radius=10.0),
        Click(20, 20, radius=12.0),
        Click(24, 30, positive=False),
        Click(80, 40),
    ]
    for turns, click in enumerate(clicks, start=1):
        press(page, click, turns)
        wanted = site.mask(clicks, turns)
        assert 0.01 < wanted.mean() < 0.99
        assert (saved_mask(page, tmp_path) != wanted).mean() < 0.01
    page.click("#undo")
    page.wait_for_selector("body[data-turns='4']")
    assert (saved_mask(page, tmp_path) != site.mask(clicks, 4)).mean() < 0.01


def test_page_without_a_model_names_the_missing_file(site: Site) -> None:
    with chromium() as page:
        page.route("**/model/dct_seg.json", lambda route: route.fulfill(status=404))
        page.goto(site.url)
        text = page.locator("#status")
        page.wait_for_function("document.getElementById('status').textContent.includes('missing')")
        assert "run dct-seg export" in text.inner_text()


def test_result_for_one_image_is_not_added_to_the_next_image(site: Site, page: Page, tmp_path: Path) -> None:
    held: list[Route] = []
    page.route("**/radii.onnx", lambda route: held.append(route))  # loaded at the first click without a drag
    gesture(page, Click(40, 50))
    while not held:
        page.wait_for_timeout(100)
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#file", [])
    page.set_input_files("#file", site.file)
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Image encoded')")
    held[0].continue_()
    last = Click(20, 20, radius=12.0)
    for _ in range(600):  # a gesture during the prediction has no effect
        gesture(page, last)
        page.wait_for_timeout(500)
        if page.locator("body").get_attribute("data-turns") != "0":
            break
    assert (saved_mask(page, tmp_path) != site.mask([last], 1)).mean() < 0.01
