"""Many images and several people, in a real browser."""

from __future__ import annotations

import time
from pathlib import Path

from driving import (
    BROWSER_MARKS,
    annotating,
    longest_task,
    place,
    sample_images,
    scroll_far,
    search,
    settle,
    small_images,
    state,
)
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = BROWSER_MARKS

SLOW = 120_000  # milliseconds; the machine may be busy
expect.set_options(timeout=SLOW)


def start(page: Page, url: str) -> None:
    page.set_default_timeout(SLOW)
    page.goto(url)
    settle(page)


def holder(page: Page, name: str) -> str | None:
    """The tab that holds an image, or None, without a heartbeat of the page."""
    found: str | None = page.evaluate(
        """async (name) => {
          const project = await (await fetch("api/v1/project")).json();
          const image = project.pictures.find((one) => one.name === name).id;
          const body = JSON.stringify({ tab: "watcher" });
          const headers = { "Content-Type": "application/json" };
          const answer = await fetch("api/v1/tabs", { method: "POST", headers, body });
          return (await answer.json()).elsewhere.includes(image) ? image : null;
        }""",
        name,
    )
    return found


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


def test_two_people_work_in_one_folder_and_objects_are_copied_to_the_next_image(tmp_path: Path) -> None:
    root = sample_images(tmp_path / "images", ("astronaut",))
    sample = Image.open(root / "astronaut.jpg")
    for number in (1, 2, 3):  # a camera that moves to the right
        sample.crop((8 * number, 0, 400 + 8 * number, 400)).save(root / f"frame{number}.png")
    with annotating(root) as (server, page):
        start(page, server.url)
        expect(page.locator("#title")).to_contain_text("astronaut.jpg")
        assert page.context.browser is not None
        other = page.context.browser.new_context().new_page()
        start(other, server.url)
        expect(other.locator("#title")).to_contain_text("frame1.png")  # the first free image
        expect(page.locator("#image-list li", has_text="frame1.png")).to_contain_text("In use")
        paint(page, 100, 100)
        paint(other, 150, 200)
        assert len(state(page, "astronaut.jpg")["objects"]) == 1
        other.keyboard.press("g")
        expect(other.locator("#title")).to_contain_text("frame2.png")
        settle(other)
        before, after = (state(other, f"frame{number}.png")["objects"][0] for number in (1, 2))
        assert abs(after["bbox"][1] - (before["bbox"][1] - 8)) <= 3
        expect(other.locator("#chosen")).to_contain_text("1 object")
        assert holder(page, "frame2.png") is not None
        began = time.monotonic()
        other.close()
        while holder(page, "frame2.png") is not None and time.monotonic() - began < 20:
            time.sleep(0.05)
        assert time.monotonic() - began < 2
        row = page.locator("#image-list li", has_text="frame2.png")
        expect(row).to_contain_text("1 object", timeout=10_000)

        page.keyboard.press("u")
        expect(page.locator("#title")).to_contain_text("frame3.png")
        settle(page)
        page.keyboard.press("Shift+Enter")
        settle(page)
        expect(page.locator("#done")).to_contain_text("4 of 4")
        assert state(page, "frame3.png")["nothing"]
        page.goto("about:blank")
        start(page, server.url)
        expect(page.locator("#title")).to_contain_text("frame3.png")  # the image of the last change


def test_list_of_20_000_images_scrolls_and_filters_with_no_frame_over_50_ms(tmp_path: Path) -> None:
    small_images(tmp_path, 20_000)
    with annotating(tmp_path) as (server, page):
        start(page, server.url)
        assert page.locator("#image-list li").count() < 60
        assert longest_task(page, lambda: scroll_far(page)) < 50
        assert longest_task(page, lambda: search(page, "frame_19")) < 50
        page.evaluate("document.getElementById('image-list').scrollTop = 60 * 15000")
        expect(page.locator("#image-list")).to_contain_text("frame_15003.jpg")
        page.fill("#filter", "19999")
        expect(page.locator("#image-list li")).to_have_count(1)
