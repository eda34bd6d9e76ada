"""Each control, key and gesture of the annotator's page in a browser, over a method that paints circles."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from annotator import Discs
from driving import BROWSER_MARKS, chromium, drag, masked, place, settle, state
from PIL import Image
from playwright.sync_api import Page, expect

from dct_seg.app.project import Project
from dct_seg.app.schemas import ModelCard
from dct_seg.app.server import create_app

pytestmark = BROWSER_MARKS

HEIGHT, WIDTH = 120, 200
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
SLOW = 60_000  # milliseconds; the machine may be busy

expect.set_options(timeout=SLOW)


def write_picture(path: Path) -> None:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    ramp = np.stack(np.broadcast_arrays(rows * 2, cols, 90), -1).astype(np.uint8)
    Image.fromarray(ramp).save(path)


@contextmanager
def serving(folder: Path, *, token: str | None = None) -> Iterator[str]:
    """The annotator over a folder in a thread of this process; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(
        Project(folder, ["cat", "dog"]), Discs, model=ModelCard(name="discs", prompts="drag"), token=token
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as page:
        yield page.context.browser


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens pages; what goes wrong inside one fails the test."""
    contexts, wrong = [], []

    def opened(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        contexts.append(context)
        page: Page = context.new_page()
        page.set_default_timeout(SLOW)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        settle(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "pictures"
    found.mkdir()
    for name in ("a.png", "b.png"):
        write_picture(found / name)
    return found


@pytest.fixture
def page(folder: Path, open_page: Callable[..., Page]) -> Iterator[Page]:
    with serving(folder) as url:
        found = open_page(url)
        yield found
        found.close()


def classes(page: Page) -> list[str]:
    names: list[str] = page.evaluate(
        "async () => (await (await fetch('api/v1/project')).json()).classes.map((one) => one.name)"
    )
    return names


def chosen(page: Page) -> str:
    return page.locator("#class-list [aria-checked=true]").inner_text().split()[0]


def test_empty_folder_says_so_and_shows_the_first_picture_that_comes(
    tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    with serving(tmp_path) as url:
        page = open_page(url)
        expect(page.locator("#empty")).to_contain_text(f"No pictures in “{tmp_path.name}”")
        for name in ("undo", "redo", "discard", "finish", "previous", "next"):
            expect(page.locator(f"#{name}")).to_be_disabled()
        write_picture(tmp_path / "late.png")
        page.evaluate(
            "() => document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))"
        )  # instead of waiting
        expect(page.locator("#title")).to_contain_text("late.png")
        expect(page.locator("#empty")).to_be_hidden()
        page.close()


def test_picture_that_cannot_be_read_says_why_and_is_passed_over(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    with serving(folder) as url:
        page = open_page(url)
        expect(page.locator("#title")).to_contain_text("b.png")
        broken = page.locator("#picture-list button").first
        expect(broken).to_be_disabled()
        expect(broken).to_contain_text("cannot be decoded")
        page.close()


def test_page_carries_the_token_to_all_it_asks_for(folder: Path, open_page: Callable[..., Page]) -> None:
    with serving(folder, token="secret") as url:
        page = open_page(url)
        drag(page, 60, 80, 30)
        page.keyboard.press("Enter")
        settle(page)
        loaded = (
            "() => [...document.querySelectorAll('#picture-list img')].every((one) => one.complete && "
            "one.naturalWidth > 0)"
        )
        page.wait_for_function(loaded)
        with page.expect_download() as download:
            page.click("#export")
            page.click("#menu a:has-text('COCO')")
        assert json.loads(download.value.path().read_text())["images"]
        page.close()


def test_right_button_toggle_and_pens_side_button_mark_background(page: Page) -> None:
    drag(page, 60, 100, 40)
    drag(page, 60, 80, 8, button="right")
    page.keyboard.press("x")
    expect(page.locator("#negative")).to_have_attribute("aria-checked", "true")
    drag(page, 60, 100, 8)
    page.keyboard.press("x")
    (x, y), (to, _) = place(page, 60, 120), place(page, 60, 128)
    pen = page.context.new_cdp_session(page)
    for kind, at, buttons in (("mousePressed", x, 2), ("mouseMoved", to, 2), ("mouseReleased", to, 0)):
        event = {
            "type": kind,
            "x": at,
            "y": y,
            "button": "right",
            "buttons": buttons,
            "clickCount": 1,
            "pointerType": "pen",
        }
        pen.send("Input.dispatchMouseEvent", event)
    settle(page)
    clicks = state(page, "a.png")["draft"]["clicks"]
    assert [one["positive"] for one in clicks] == [True, False, False, False]
    assert clicks[-1]["radius"] == pytest.approx(8, abs=1)
    mask = masked(page, HEIGHT, WIDTH)
    assert mask[60, 140 - 5]
    assert not mask[66, 120]


def test_middle_button_pans_and_keys_zoom(page: Page) -> None:
    before = place(page, 0, 0)
    page.mouse.move(700, 400)
    page.mouse.down(button="middle")
    page.mouse.move(730, 390, steps=3)
    page.mouse.up(button="middle")
    settle(page)
    assert place(page, 0, 0) == pytest.approx((before[0] + 30, before[1] - 10), abs=0.5)
    page.keyboard.press("+")
    settle(page)
    scale = (place(page, 0, 100)[0] - place(page, 0, 0)[0]) / 100
    page.keyboard.press("-")
    settle(page)
    assert (place(page, 0, 100)[0] - place(page, 0, 0)[0]) / 100 == pytest.approx(scale / 1.4)
    page.keyboard.press("0")
    settle(page)
    assert place(page, 0, 0) == pytest.approx(before, abs=0.5)
    assert state(page, "a.png")["draft"] is None


def test_n_and_p_go_through_the_pictures_and_stop_at_the_ends(page: Page) -> None:
    for key, name in (("p", "a.png"), ("n", "b.png"), ("n", "b.png"), ("p", "a.png")):
        page.keyboard.press(key)
        settle(page)
        expect(page.locator("#title")).to_contain_text(name)


def test_digits_choose_the_class_of_what_is_finished(page: Page) -> None:
    page.keyboard.press("2")
    assert chosen(page) == "dog"
    drag(page, 60, 60, 20)
    page.keyboard.press("Enter")
    settle(page)
    page.keyboard.press("1")
    drag(page, 60, 140, 20)
    page.keyboard.press("Enter")
    settle(page)
    assert [one["class_id"] for one in state(page, "a.png")["objects"]] == [2, 1]
    page.locator("#object-list select").first.select_option(label="cat")
    settle(page)
    assert [one["class_id"] for one in state(page, "a.png")["objects"]] == [1, 1]


def test_classes_are_named_added_and_removed_in_their_dialog(page: Page) -> None:
    page.click("#edit-classes")
    page.fill("#classes li:nth-child(1) input[type=text]", "lion")
    page.click("#classes li:nth-child(2) button")
    page.click("#classes footer .soft")
    page.fill("#classes li:nth-child(2) input[type=text]", "tree")
    page.keyboard.press("Enter")
    expect(page.locator("#class-list")).to_contain_text("tree")
    settle(page)
    assert classes(page) == ["lion", "tree"]


def test_pixels_of_a_locked_object_stay_its_own_until_it_is_unlocked(page: Page) -> None:
    drag(page, 60, 80, 30)
    page.keyboard.press("Enter")
    settle(page)
    lock = page.locator("#object-list .icon[aria-pressed]")
    expect(lock).to_have_attribute("aria-pressed", "true")
    drag(page, 60, 120, 30)
    page.keyboard.press("Enter")
    settle(page)
    first, second = state(page, "a.png")["objects"]
    assert second["area"] < 0.95 * first["area"]
    page.click("#undo")
    settle(page)
    lock.first.click()
    settle(page)
    expect(lock.first).to_have_attribute("aria-pressed", "false")
    page.click("#finish")
    settle(page)
    first, second = state(page, "a.png")["objects"]
    assert second["area"] == pytest.approx(first["area"], rel=0.05)


def test_finished_object_is_edited_and_deleted_from_the_list(page: Page) -> None:
    drag(page, 60, 80, 30)
    page.keyboard.press("Enter")
    settle(page)
    page.click("#object-list [aria-label='Edit object 1']")
    settle(page)
    drag(page, 60, 80, 10, button="right")
    page.keyboard.press("Enter")
    settle(page)
    (edited,) = state(page, "a.png")["objects"]
    assert (edited["id"], edited["num_clicks"]) == (1, 2)
    page.click("#object-list [aria-label='Delete object 1']")
    expect(page.locator("#no-objects")).to_contain_text("None yet")
    settle(page)
    page.keyboard.press("Control+z")
    settle(page)
    assert state(page, "a.png")["objects"] == [edited]


def test_masks_classes_and_coco_are_imported_from_the_page(page: Page) -> None:
    page.set_input_files(
        "#files", {"name": "names.txt", "mimeType": "text/plain", "buffer": b"horse\n\ncow\n"}
    )
    expect(page.locator("#class-list")).to_contain_text("cow")
    assert classes(page) == ["cat", "dog", "horse", "cow"]

    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:40, 20:60] = 1
    labels[50:90, 100:150] = 2
    png = io.BytesIO()
    Image.fromarray(labels).save(png, "PNG")
    page.set_input_files("#files", {"name": "a.png", "mimeType": "image/png", "buffer": png.getvalue()})
    expect(page.locator("#toasts")).to_contain_text("2 objects imported")
    assert [one["area"] for one in state(page, "a.png")["objects"]] == [30 * 40, 40 * 50]

    square = [[20, 20, 60, 20, 60, 50, 20, 50]]
    coco = {
        "images": [{"id": 7, "file_name": "b.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": square}],
        "categories": [{"id": 3, "name": "dog"}],
    }
    page.set_input_files(
        "#files", {"name": "coco.json", "mimeType": "application/json", "buffer": json.dumps(coco).encode()}
    )
    expect(page.locator("#toasts")).to_contain_text("1 object on 1 picture imported")
    (found,) = state(page, "b.png")["objects"]
    assert found["class_id"] == 2

    page.set_input_files("#files", {"name": "notes.doc", "mimeType": "text/plain", "buffer": b"?"})
    expect(page.locator("#toasts")).to_contain_text("none of COCO")


def test_help_opens_with_its_key_and_gives_the_focus_back(page: Page) -> None:
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("n")
    expect(page.locator("#title")).to_contain_text("a.png")  # keys do not act behind a dialog
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "stage"


def test_export_menu_is_used_with_the_keyboard(page: Page) -> None:
    page.focus("#export")
    page.keyboard.press("Enter")
    expect(page.locator("#menu a").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#menu a").nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#menu")).to_be_hidden()
    expect(page.locator("#export")).to_be_focused()


def test_masks_are_hidden_and_opacity_is_kept_over_a_reload(page: Page) -> None:
    drag(page, 60, 80, 30)
    page.keyboard.press("h")
    settle(page)
    assert not masked(page, HEIGHT, WIDTH).any()
    page.keyboard.press("h")
    page.locator("#opacity").fill("0.8")
    page.reload()
    settle(page)
    assert page.input_value("#opacity") == "0.8"
    assert masked(page, HEIGHT, WIDTH).any()


SMALL_PHONE = {**PHONE, "viewport": {"width": 360, "height": 640}}
LAPTOP = {"viewport": {"width": 1280, "height": 720}}


LOST = """() => [...document.querySelectorAll("button, input, select, a")].filter((one) => {
  const { left, right, top, bottom } = one.getBoundingClientRect();
  const name = one.ariaLabel || one.innerText?.trim() || one.labels?.length;
  const inside = left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
  return one.checkVisibility({ visibilityProperty: true }) && !(name && inside);
}).map((one) => one.outerHTML)"""


@pytest.mark.parametrize(
    "options", [{}, LAPTOP, PHONE, SMALL_PHONE], ids=["desktop", "laptop", "phone", "small phone"]
)
def test_every_control_has_a_name_and_lies_inside_the_window(
    folder: Path, open_page: Callable[..., Page], options: dict[str, Any]
) -> None:
    with serving(folder) as url:
        page = open_page(url, **options)
        drag(page, 60, 80, 30)
        page.keyboard.press("Enter")
        settle(page)
        drag(page, 60, 120, 20)
        for key in ("x", "x"):  # Background has the longer name
            page.keyboard.press(key)
            assert page.evaluate(LOST) == []
        page.close()
