"""Many images and several people, in a real browser."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from driving import BROWSER_MARKS, Server, chromium, photographs, place, settle, state
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = BROWSER_MARKS

SLOW = 120_000  # milliseconds; the machine may be busy
expect.set_options(timeout=SLOW)


def start(page: Page, url: str) -> None:
    page.set_default_timeout(SLOW)
    page.goto(url)
    settle(page)


def paint(page: Page, row: float, col: float) -> None:
    """An object made by a stroke of the brush, which needs no model."""
    page.keyboard.press("b")
    page.mouse.move(*place(page, row, col))
    page.mouse.down()
    page.mouse.move(*place(page, row, col + 60), steps=3)
    page.mouse.up()
    settle(page)
    page.keyboard.press("Enter")
    settle(page)


def test_two_people_work_in_one_folder_and_objects_are_carried_on(tmp_path: Path) -> None:
    root = photographs(tmp_path / "images", ("astronaut",))
    photograph = Image.open(root / "astronaut.jpg")
    for number in (1, 2, 3):  # a camera that moves to the right
        photograph.crop((8 * number, 0, 400 + 8 * number, 400)).save(root / f"frame{number}.png")
    server = Server(root)
    try:
        with chromium() as page:
            start(page, server.url)
            expect(page.locator("#title")).to_contain_text("astronaut.jpg")
            assert page.context.browser is not None
            other = page.context.browser.new_context().new_page()
            start(other, server.url)
            expect(other.locator("#title")).to_contain_text("frame1.png")  # the first that is free
            expect(page.locator("#picture-list li", has_text="frame1.png")).to_contain_text("In use")
            paint(page, 100, 100)
            paint(other, 150, 200)
            assert len(state(page, "astronaut.jpg")["objects"]) == 1
            other.keyboard.press("g")
            expect(other.locator("#title")).to_contain_text("frame2.png")
            settle(other)
            before, after = (state(other, f"frame{number}.png")["objects"][0] for number in (1, 2))
            assert abs(after["bbox"][1] - (before["bbox"][1] - 8)) <= 3
            expect(other.locator("#chosen")).to_contain_text("1 object")
            other.context.close()
            expect(page.locator("#picture-list li", has_text="frame2.png")).to_contain_text(
                "1 object", timeout=20_000
            )

            page.keyboard.press("u")
            expect(page.locator("#title")).to_contain_text("frame3.png")
            settle(page)
            page.keyboard.press("Shift+Enter")
            settle(page)
            expect(page.locator("#done")).to_contain_text("4 of 4")
            assert state(page, "frame3.png")["nothing"]
            page.goto("about:blank")
            start(page, server.url)
            expect(page.locator("#title")).to_contain_text("frame3.png")  # where one stopped
    finally:
        server.stop()


def test_list_of_20_000_images_scrolls_and_filters_with_few_rows_made(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(file, "JPEG")
    for number in range(20_000):
        (tmp_path / f"frame_{number:05d}.jpg").write_bytes(file.getvalue())
    server = Server(tmp_path)
    try:
        with chromium() as page:
            start(page, server.url)
            assert page.locator("#picture-list li").count() < 60
            page.evaluate("document.getElementById('picture-list').scrollTop = 60 * 15000")
            expect(page.locator("#picture-list")).to_contain_text("frame_15003.jpg")
            page.fill("#filter", "19999")
            expect(page.locator("#picture-list li")).to_have_count(1)
    finally:
        server.stop()
