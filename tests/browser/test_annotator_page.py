"""The annotator in a real browser, with the shipped model, on natural images.

User actions and their visible results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from driving import (
    BROWSER_MARKS,
    Server,
    chromium,
    drag,
    masked,
    place,
    sample_images,
    settle,
    state,
    wait_until,
)
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

pytestmark = BROWSER_MARKS

SIZES = {"astronaut.jpg": (512, 512), "coffee.jpg": (400, 600)}
HEAD = (110, 220, 70)  # row, col, radius on astronaut.jpg
COLLAR = (250, 225, 30)  # must not be in the mask of the head
CUP = (195, 295, 120)  # on coffee.jpg
SLOW = 120_000  # milliseconds; the machine may be busy

expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(sample_images(tmp_path_factory.mktemp("pictures"), ("astronaut", "coffee")))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def browser_page(server: Server) -> Iterator[Page]:
    with chromium() as page:
        page.set_default_timeout(SLOW)
        yield page


@pytest.fixture
def page(server: Server, browser_page: Page) -> Iterator[Page]:
    """The page on astronaut.jpg without objects; an error in the page fails the test."""
    wrong: list[str] = []

    def report(message: Any) -> None:
        if message.type == "error" and "ERR_CONNECTION" not in message.text:  # from a killed server
            wrong.append(message.text)

    listeners: dict[Any, Any] = {"console": report, "pageerror": lambda error: wrong.append(str(error))}
    for event, listener in listeners.items():
        browser_page.on(event, listener)
    browser_page.goto(server.url)
    settle(browser_page)
    take_over(browser_page)
    for name in reversed(SIZES):
        open_image(browser_page, name)
        clear(browser_page, name)
    yield browser_page
    for event, listener in listeners.items():
        browser_page.remove_listener(event, listener)
    assert wrong == []


def take_over(page: Page) -> None:
    """Take over write access from any other tab."""
    if page.locator("#banner").is_visible():
        page.click("#banner button")
        expect(page.locator("#banner")).to_be_hidden()


def open_image(page: Page, name: str) -> None:
    page.click(f"#image-list button:has-text('{name}')")
    expect(page.locator("#title")).to_contain_text(name)
    settle(page)


def clear(page: Page, name: str) -> None:
    while page.locator("#discard").is_enabled():
        page.click("#discard")
        settle(page)
    while page.locator("#object-list [aria-label^=Delete]").count():
        page.locator("#object-list [aria-label^=Delete]").first.click()
        settle(page)
    found = state(page, name)
    assert (found["draft"], found["objects"]) == (None, [])


def disc(name: str, row: float, col: float, radius: float) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[: SIZES[name][0], : SIZES[name][1]]
    return np.asarray((rows - row) ** 2 + (cols - col) ** 2 <= radius**2)


def assert_around(mask: NDArray[np.bool_], name: str, row: float, col: float, radius: float) -> None:
    """Most of the mask is near the drag, and the middle of the drag is in the mask, except under its mark."""
    middle = disc(name, row, col, radius / 2) & ~disc(name, row, col, 14)
    assert mask[middle].mean() > 0.8
    assert mask[disc(name, row, col, 2.5 * radius)].sum() > 0.7 * mask.sum()
    assert mask.mean() < 0.7


def test_two_objects_are_marked_corrected_undone_and_survive_kill_9(page: Page, server: Server) -> None:
    height, width = SIZES["astronaut.jpg"]
    assert not masked(page, height, width).any()

    drag(page, *HEAD)
    first = masked(page, height, width)
    assert_around(first, "astronaut.jpg", *HEAD)
    draft = state(page, "astronaut.jpg")["draft"]
    assert [(one["positive"], one["given"]) for one in draft["clicks"]] == [(True, True)]
    assert draft["clicks"][0]["radius"] == pytest.approx(HEAD[2], abs=1)
    assert draft["clicks"][0]["row"] == pytest.approx(HEAD[0], abs=1)

    drag(page, *COLLAR, button="right")
    corrected = masked(page, height, width)
    near = disc("astronaut.jpg", *COLLAR)
    assert corrected[near].sum() < 0.5 * first[near].sum()
    assert [one["positive"] for one in state(page, "astronaut.jpg")["draft"]["clicks"]] == [True, False]

    page.keyboard.press("Control+z")
    settle(page)
    assert np.array_equal(masked(page, height, width), first)
    page.keyboard.press("Control+y")
    settle(page)
    assert np.array_equal(masked(page, height, width), corrected)

    page.keyboard.press("Enter")
    settle(page)
    expect(page.locator("#object-list li")).to_have_count(1)
    finished = state(page, "astronaut.jpg")["objects"][0]
    assert (
        abs(finished["area"] - corrected.sum()) < 0.2 * finished["area"]
    )  # outline and circles are drawn over the tint

    page.keyboard.press("n")
    expect(page.locator("#title")).to_contain_text("coffee.jpg")
    settle(page)
    drag(page, *CUP)
    assert_around(masked(page, *SIZES["coffee.jpg"]), "coffee.jpg", *CUP)

    server.kill()
    x, y = place(page, *CUP[:2])
    page.mouse.click(x + 3, y)  # made while the server is down
    expect(page.locator("#banner")).to_contain_text("1 change is waiting")
    server.restart()
    expect(page.locator("#banner")).to_be_hidden()
    settle(page)
    draft = state(page, "coffee.jpg")["draft"]
    assert [one["given"] for one in draft["clicks"]] == [True, False]
    assert state(page, "astronaut.jpg")["objects"] == [finished]

    page.click("#finish")
    settle(page)
    cup = state(page, "coffee.jpg")["objects"][0]
    page.click("#export")
    with page.expect_download() as download:
        page.click("#menu a:has-text('COCO')")
    coco = json.loads(download.value.path().read_text())
    names = {one["id"]: one["file_name"] for one in coco["images"]}
    found = {names[one["image_id"]]: one for one in coco["annotations"]}
    assert sorted(found) == ["astronaut.jpg", "coffee.jpg"]
    assert found["astronaut.jpg"]["area"] == finished["area"]
    assert found["coffee.jpg"]["area"] == cup["area"]
    assert [coco["categories"][0]["id"]] == [finished["class_id"]]


def test_mask_follows_a_drag_and_escape_leaves_no_trace(page: Page) -> None:
    before = state(page, "astronaut.jpg")
    page.evaluate(
        "() => { window.live = 0; document.getElementById('stage').addEventListener('livemask', () => "
        "window.live++); window.live = 0; }"
    )
    x, y = place(page, *HEAD[:2])
    to_x, to_y = place(page, HEAD[0], HEAD[1] + HEAD[2])
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(to_x, to_y, steps=3)
    wait_until(page, lambda: page.evaluate("window.live") >= 2)
    assert_around(masked(page, *SIZES["astronaut.jpg"]), "astronaut.jpg", *HEAD)
    page.keyboard.press("Escape")
    page.mouse.up()
    settle(page)
    assert not masked(page, *SIZES["astronaut.jpg"]).any()
    assert state(page, "astronaut.jpg") == before


def test_click_without_a_drag_lets_the_model_choose_the_circle(page: Page) -> None:
    x, y = place(page, *HEAD[:2])
    page.mouse.click(x, y)
    settle(page)
    (click,) = state(page, "astronaut.jpg")["draft"]["clicks"]
    assert click["given"] is False
    assert click["radius"] > 1


def test_background_is_not_marked_before_there_is_an_object(page: Page) -> None:
    page.keyboard.press("x")
    x, y = place(page, *HEAD[:2])
    page.mouse.click(x, y)
    expect(page.locator("#toasts")).to_contain_text("Mark the object first")
    page.keyboard.press("x")
    assert state(page, "astronaut.jpg")["draft"] is None


def test_object_is_drawn_with_the_keyboard_only(page: Page) -> None:
    page.focus("#stage")
    for key in ["ArrowUp", *["Shift+ArrowUp"] * 4, *["Shift+ArrowLeft"], "]", "c"]:
        page.keyboard.press(key)
    settle(page)
    page.keyboard.press("Enter")
    settle(page)
    (made,) = state(page, "astronaut.jpg")["objects"]
    assert made["num_clicks"] == 1
    top, left, height, width = made["bbox"]
    assert top < 140 < top + height
    assert left < 220 < left + width


def test_threshold_moves_the_outline_without_a_request(page: Page) -> None:
    drag(page, *HEAD)
    height, width = SIZES["astronaut.jpg"]
    revision = state(page, "astronaut.jpg")["revision"]
    areas = []
    for value in ("0.1", "0.5", "0.9"):
        page.locator("#threshold").fill(value)
        settle(page)
        areas.append(int(masked(page, height, width).sum()))
    assert areas[0] > areas[1] > areas[2] > 0
    assert state(page, "astronaut.jpg")["revision"] == revision


def test_wheel_zooms_at_the_pointer_and_space_pans(page: Page) -> None:
    x, y = place(page, 100, 200)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    settle(page)
    assert place(page, 100, 200) == pytest.approx(
        (x, y), abs=1.1
    )  # a wheel event's position is in whole pixels
    x, y = place(page, 100, 200)
    assert place(page, 100, 210)[0] - x > 15
    page.mouse.move(x, y)
    page.keyboard.down("Space")
    page.mouse.down()
    page.mouse.move(x + 40, y + 25)
    page.mouse.up()
    page.keyboard.up("Space")
    settle(page)
    assert place(page, 100, 200) == pytest.approx((x + 40, y + 25), abs=0.5)
    assert state(page, "astronaut.jpg")["draft"] is None


def test_second_tab_is_informed_and_can_take_over(page: Page, server: Server) -> None:
    other = page.context.new_page()
    other.set_default_timeout(SLOW)
    other.goto(page.url)  # the same image
    settle(other)
    expect(other.locator("#banner")).to_contain_text("Another tab")
    other.mouse.click(*place(other, *HEAD[:2]))
    settle(other)
    assert state(other, "astronaut.jpg")["draft"] is None
    other.click("#banner button")
    expect(other.locator("#banner")).to_be_hidden()
    page.bring_to_front()
    expect(page.locator("#banner")).to_contain_text("Another tab")
    other.close()
    take_over(page)


def test_reloaded_page_is_not_a_second_tab(page: Page) -> None:
    page.reload()
    settle(page)
    expect(page.locator("#banner")).to_be_hidden()


def test_fingers_drag_a_circle_and_pinch_the_view_on_a_phone(page: Page, server: Server) -> None:
    page.goto("about:blank")
    phone = {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    }
    browser = page.context.browser
    assert browser is not None
    context = browser.new_context(**phone)
    touched = context.new_page()
    touched.set_default_timeout(SLOW)
    touched.goto(server.url)
    settle(touched)
    take_over(touched)
    devtools = context.new_cdp_session(touched)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": fingers})

    x, y = place(touched, *HEAD[:2])
    to_x, to_y = place(touched, HEAD[0], HEAD[1] + HEAD[2])
    touch("Start", (x, y))
    touch("Move", ((x + to_x) / 2, y))
    touch("Move", (to_x, to_y))
    touch("End")
    settle(touched)
    (click,) = state(touched, "astronaut.jpg")["draft"]["clicks"]
    assert click["radius"] == pytest.approx(HEAD[2], abs=2)

    touch("Start", (x, y))
    touch("Start", (x, y), (x + 60, y))
    touch("Move", (x, y), (x + 120, y))
    touch("End")
    settle(touched)
    assert place(touched, HEAD[0], HEAD[1] + 10)[0] - place(touched, *HEAD[:2])[0] == pytest.approx(
        2 * 10 * (to_x - x) / HEAD[2], rel=0.05
    )
    assert len(state(touched, "astronaut.jpg")["draft"]["clicks"]) == 1
    width = touched.evaluate("() => document.documentElement.scrollWidth")
    assert width == 390
    context.close()
