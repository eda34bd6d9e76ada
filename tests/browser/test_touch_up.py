"""The last pixels, in a real browser: brush, eraser, lasso, box, and finished objects that are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from driving import BROWSER_MARKS, Server, chromium, drag, photographs, place, settle, state
from playwright.sync_api import Page, expect

pytestmark = BROWSER_MARKS

SLOW = 120_000  # milliseconds; the machine may be busy
NAME = "astronaut.jpg"
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = photographs(tmp_path_factory.mktemp("images"), ("astronaut",))
    found = Server(folder, options=["--classes", "head,helmet"])
    yield found
    found.stop()


def stroke(page: Page, *corners: tuple[float, float], button: Any = "left") -> None:
    """Press on the first pixel, move over the others, let go, and wait until it is on disk."""
    page.mouse.move(*place(page, *corners[0]))
    page.mouse.down(button=button)
    for corner in corners[1:]:
        page.mouse.move(*place(page, *corner), steps=4)
    page.mouse.up(button=button)
    settle(page)


def click(page: Page, row: float, col: float) -> None:
    page.mouse.click(*place(page, row, col))
    settle(page)


def objects(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = state(page, NAME)["objects"]
    return found


def test_mask_is_painted_erased_and_cut_and_objects_are_chosen_merged_and_deleted(server: Server) -> None:
    with chromium() as page:
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.set_default_timeout(SLOW)
        page.goto(server.url)
        settle(page)

        drag(page, 110, 220, 70, steps=2)
        clicked = state(page, NAME)
        page.keyboard.press("b")
        stroke(page, (20, 20), (20, 60))
        stroke(page, (100, 200), (100, 240), button="right")
        painted = state(page, NAME)
        assert painted["draft"]["clicks"] == []
        assert (painted["mask"]["row"], painted["mask"]["col"]) < (20, 20)
        page.keyboard.press("l")
        stroke(page, (5, 5), (5, 70), (40, 70), (40, 5), button="right")  # cuts the first stroke off
        assert state(page, NAME)["mask"]["col"] > 70
        for _ in range(3):
            page.keyboard.press("Control+z")
            settle(page)
        assert state(page, NAME)["mask"] == clicked["mask"]
        for _ in range(3):
            page.keyboard.press("Control+y")
            settle(page)
        page.locator("#brush").focus()
        page.keyboard.press("Enter")  # finishes, though a button has the focus
        settle(page)
        (head,) = objects(page)
        assert (head["num_clicks"], page.locator("#painting").is_visible()) == (1, False)

        page.keyboard.down("Shift")
        stroke(page, (300, 370), (500, 500))  # a box around the helmet
        page.keyboard.up("Shift")
        (box,) = state(page, NAME)["draft"]["clicks"]
        assert (box["row"], box["col"], box["radius"]) == pytest.approx((400, 435, 65), abs=2)
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        settle(page)
        assert [one["class_id"] for one in objects(page)] == [1, 2]

        click(page, 150, 220)  # on the head: chosen, nothing begun
        assert state(page, NAME)["draft"] is None
        expect(page.locator("#chosen")).to_contain_text("1 object")
        page.keyboard.press("2")
        settle(page)
        assert [one["class_id"] for one in objects(page)] == [2, 2]
        page.keyboard.down("Shift")
        click(page, 420, 440)
        page.keyboard.up("Shift")
        expect(page.locator("#chosen")).to_contain_text("2 objects")
        before = objects(page)
        page.keyboard.press("m")
        settle(page)
        (merged,) = objects(page)
        assert merged["area"] == sum(one["area"] for one in before)

        page.keyboard.press("e")
        settle(page)
        assert state(page, NAME)["draft"]["edits"] == merged["id"]
        page.keyboard.press("Delete")  # discards the change, not the object
        settle(page)
        click(page, 150, 220)
        page.keyboard.press("Delete")
        settle(page)
        assert objects(page) == []
        assert wrong == []
