"""Each control, key and gesture of the annotator's page in a browser, with a method that paints circles."""

from __future__ import annotations

import io
import itertools
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
from driving import BROWSER_MARKS, drag, masked, place, settle, state, wait_until
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
FOLDERS: dict[str, Path] = {}
"""Address of each server -> its folder."""

expect.set_options(timeout=SLOW)


def write_image(path: Path) -> None:
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
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    FOLDERS[address] = folder
    try:
        yield address + (f"?token={token}" if token else "")
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Page]]:
    """Open pages; an error in a page fails the test."""
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
        write_image(found / name)
    return found


def page_folder(page: Page) -> Path:
    """The folder that the page's server annotates."""
    return FOLDERS[page.url.split("?")[0].split("#")[0]]


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


def test_empty_folder_is_reported_and_the_first_new_image_is_shown(
    tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    with serving(tmp_path) as url:
        page = open_page(url)
        expect(page.locator("#empty")).to_contain_text(f"No images in “{tmp_path.name}”")
        for name in ("undo", "redo", "discard", "finish", "previous", "next"):
            expect(page.locator(f"#{name}")).to_be_disabled()
        write_image(tmp_path / "late.png")
        page.evaluate(
            "() => document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))"
        )  # instead of waiting
        expect(page.locator("#title")).to_contain_text("late.png")
        expect(page.locator("#empty")).to_be_hidden()
        page.close()


def test_unreadable_image_shows_the_reason_and_is_skipped(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    (folder / "a.png").write_bytes(b"no image")
    with serving(folder) as url:
        page = open_page(url)
        expect(page.locator("#title")).to_contain_text("b.png")
        broken = page.locator("#image-list button").first
        expect(broken).to_be_disabled()
        expect(broken).to_contain_text("cannot be decoded")
        page.close()


def test_page_sends_the_token_with_every_request(folder: Path, open_page: Callable[..., Page]) -> None:
    with serving(folder, token="secret") as url:
        page = open_page(url)
        drag(page, 60, 80, 30)
        page.keyboard.press("Enter")
        settle(page)
        loaded = (
            "() => [...document.querySelectorAll('#image-list img')].every((one) => one.complete && "
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


def test_n_and_p_step_through_the_images_and_stop_at_the_ends(page: Page) -> None:
    for key, name in (("p", "a.png"), ("n", "b.png"), ("n", "b.png"), ("p", "a.png")):
        page.keyboard.press(key)
        settle(page)
        expect(page.locator("#title")).to_contain_text(name)


def test_digits_choose_the_class_of_the_finished_object(page: Page) -> None:
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


def test_draft_keeps_its_class_on_another_image_and_over_a_reload_and_undo_restores_it(page: Page) -> None:
    page.keyboard.press("2")
    drag(page, 60, 60, 20)
    page.keyboard.press("n")
    settle(page)
    page.keyboard.press("1")
    page.keyboard.press("p")
    settle(page)
    assert chosen(page) == "dog"
    page.keyboard.press("1")  # while the draft is open
    settle(page)
    page.reload()
    settle(page)
    assert chosen(page) == "cat"
    page.keyboard.press("Control+z")
    settle(page)
    assert chosen(page) == "dog"
    page.keyboard.press("Enter")
    settle(page)
    assert [one["class_id"] for one in state(page, "a.png")["objects"]] == [2]


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


def test_locked_object_keeps_its_pixels_until_it_is_unlocked(page: Page) -> None:
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
    expect(page.locator("#toasts")).to_contain_text("1 object on 1 image imported")
    (found,) = state(page, "b.png")["objects"]
    assert found["class_id"] == 2

    page.set_input_files("#files", {"name": "notes.doc", "mimeType": "text/plain", "buffer": b"?"})
    expect(page.locator("#toasts")).to_contain_text("must be a file of annotations")


def test_help_opens_with_its_key_and_returns_the_focus(page: Page) -> None:
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("n")
    expect(page.locator("#title")).to_contain_text("a.png")  # keys have no effect behind a dialog
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


def test_class_in_use_is_not_removed_and_the_dialog_reports_it_and_stays_open(page: Page) -> None:
    drag(page, 60, 60, 20)
    page.keyboard.press("Enter")
    settle(page)
    page.click("#edit-classes")
    page.click("#classes li:nth-child(1) button")
    page.click("#classes footer .primary")
    expect(page.locator("#classes .problem")).to_contain_text("class 1 'cat' has objects in a.png")
    expect(page.locator("#classes")).to_be_visible()
    assert classes(page) == ["cat", "dog"]


def test_local_drag_keeps_the_mask_outside_its_circle_and_is_undone_like_a_click(page: Page) -> None:
    drag(page, 60, 100, 40)
    before = state(page, "a.png")["mask"]
    page.keyboard.press("k")
    expect(page.locator("#tool-local")).to_have_attribute("aria-checked", "true")
    for _ in range(3):
        page.keyboard.press("[")
    reach = float(page.input_value("#brush-size")) ** 2
    assert reach == pytest.approx(12 / 1.15**3, abs=0.1)
    x, y = place(page, 60, 138)
    page.mouse.click(x, y)  # the method's own circle is larger
    settle(page)
    local = masked(page, HEIGHT, WIDTH)
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    whole = (rows - 60) ** 2 + (cols - 100) ** 2 <= 40**2
    far = (rows - 60) ** 2 + (cols - 138) ** 2 > (reach + 12) ** 2
    assert state(page, "a.png")["draft"]["clicks"] == []
    assert (local[far] == whole[far]).mean() > 0.97  # all but the outline, which is drawn over the tint
    drag(page, 60, 100, 30, button="right")  # as far as the drag reaches
    assert not masked(page, HEIGHT, WIDTH)[60, 100 - 25]
    for _ in range(2):
        page.keyboard.press("Control+z")
        settle(page)
    assert state(page, "a.png")["mask"] == before
    page.keyboard.press("Escape")
    expect(page.locator("#painting")).to_be_hidden()


def test_live_mask_of_a_local_drag_shows_the_old_mask_outside_the_circle(page: Page) -> None:
    drag(page, 60, 100, 40)
    page.keyboard.press("k")
    x, y = place(page, 60, 100)
    to, _ = place(page, 60, 110)
    page.evaluate(
        "() => { window.live = 0; document.getElementById('stage').addEventListener('livemask', "
        "() => window.live++); }"
    )
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(to, y, steps=4)
    page.wait_for_function("() => window.live > 0")
    # masks of shorter drags come first
    wait_until(page, lambda: not masked(page, HEIGHT, WIDTH)[53:57, 100].any())
    assert masked(page, HEIGHT, WIDTH)[60, 70]
    page.mouse.up(button="right")
    settle(page)


def pen(page: Page, kind: str, row: float, col: float, force: float) -> None:
    """A pen's event; ``force`` is its pressure, 0 to 1."""
    devtools = page.context.new_cdp_session(page)
    x, y = place(page, row, col)
    event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1, "pointerType": "pen"}
    devtools.send(
        "Input.dispatchMouseEvent", {**event, "buttons": int(kind != "mouseReleased"), "force": force}
    )
    devtools.detach()


def test_pens_pressure_sets_the_width_of_a_stroke(page: Page) -> None:
    page.keyboard.press("b")
    page.locator("#brush-size").fill("3.2")
    pen(page, "mousePressed", 60, 40, 0.1)
    for step in range(1, 9):
        pen(page, "mouseMoved", 60, 40 + 15 * step, 0.1 + 0.9 * step / 8)
    pen(page, "mouseReleased", 60, 160, 0.0)
    settle(page)
    page.keyboard.press("Enter")
    settle(page)
    log = next((page_folder(page) / ".dct-seg" / "pictures").glob("*.jsonl")).read_text().splitlines()
    points = next(json.loads(line) for line in log if '"paint"' in line)["paint"]["points"]
    radii = [radius for _, _, radius in points]
    assert radii[0] == pytest.approx(3.2**2 * (0.25 + 0.75 * 0.1), abs=0.05)
    assert radii[-1] == pytest.approx(3.2**2, abs=0.05)
    assert all(a <= b for a, b in itertools.pairwise(radii))


def test_finger_paints_and_two_fingers_only_zoom(folder: Path, open_page: Callable[..., Page]) -> None:
    with serving(folder) as url:
        page = open_page(url, **PHONE)
        devtools = page.context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
            devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": fingers})

        page.locator("#brush").tap()
        places = [place(page, 60, col) for col in (40, 80, 120, 160)]
        touch("Start", places[0])
        for at in places[1:]:
            touch("Move", at)
        touch("End")
        settle(page)
        made = state(page, "a.png")
        assert (made["mask"]["col"], made["mask"]["width"]) == pytest.approx((38, 125), abs=2)
        (x, y), revision = place(page, 60, 80), made["revision"]
        touch("Start", (x, y))
        touch("Start", (x, y), (x + 60, y))
        touch("Move", (x, y), (x + 120, y))
        touch("End")
        settle(page)
        assert state(page, "a.png")["revision"] == revision
        page.close()


def test_enter_finishes_with_any_focus_and_opens_the_first_match_of_a_search(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    for number in range(12):
        write_image(folder / f"more_{number:02d}.png")
    with serving(folder) as url:
        page = open_page(url)
        controls = ("#filter", "#threshold", "#object-list select", "#hide", "#positive", "#undone")
        for number, control in enumerate(["#stage", *controls]):
            drag(page, 60, 15 + 25 * number, 8, steps=2, pause=0)
            page.locator(control).first.focus()
            page.keyboard.press("Enter")
            settle(page)
            found = state(page, "a.png")
            assert (found["draft"], len(found["objects"])) == (None, number + 1), control
        page.fill("#filter", "more_07")
        page.keyboard.press("Enter")
        expect(page.locator("#title")).to_contain_text("more_07.png")
        assert page.evaluate("document.activeElement.id") == "stage"
        page.close()


def test_time_and_objects_per_hour_are_shown_on_request_and_stay_on(page: Page) -> None:
    expect(page.locator("#pace")).to_be_hidden()
    drag(page, 60, 60, 20)
    page.keyboard.press("Enter")
    settle(page)
    page.keyboard.press("t")
    expect(page.locator("#pace")).to_contain_text("· 1 object")
    page.reload()
    settle(page)
    expect(page.locator("#pace")).to_contain_text("· 1 object")
    page.keyboard.press("t")
    expect(page.locator("#pace")).to_be_hidden()


def test_objects_are_colored_by_class_or_each_in_its_own_color(page: Page) -> None:
    for col in (50, 130):
        drag(page, 60, col, 20)
        page.keyboard.press("Enter")
        settle(page)

    def colors() -> set[tuple[int, ...]]:
        """Tints in the middle of the two objects."""
        script = """() => [50, 130].map((col) => {
          const canvas = document.getElementById("finished");
          const shown = JSON.parse(document.getElementById("image").dataset.view);
          const [x, y] = [shown.x + (col + 0.5) * shown.scale, shown.y + 60.5 * shown.scale];
          return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
        })"""
        return {tuple(one) for one in page.evaluate(script)}

    assert len(colors()) == 1
    page.keyboard.press("i")
    settle(page)
    assert len(colors()) == 2
    page.reload()
    settle(page)
    assert len(colors()) == 2


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
HALF = {"viewport": {"width": 960, "height": 900}}


LOST = """() => [...document.querySelectorAll("button, input, select, a")].filter((one) => {
  const { left, right, top, bottom } = one.getBoundingClientRect();
  const name = one.ariaLabel || one.innerText?.trim() || one.labels?.length;
  const inside = left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
  return one.checkVisibility({ visibilityProperty: true }) && !(name && inside);
}).map((one) => one.outerHTML)"""


BESIDE_THE_STAGE = """() => {
  const stage = document.getElementById("stage").getBoundingClientRect();
  return [...document.querySelectorAll("#tools *, .context *")].filter((one) => {
    const { left, right, width } = one.getBoundingClientRect();
    return width > 0 && (left < stage.left || right > stage.right);
  }).map((one) => one.outerHTML);
}"""


@pytest.mark.parametrize(
    "options",
    [{}, LAPTOP, HALF, PHONE, SMALL_PHONE],
    ids=["desktop", "laptop", "half a window", "phone", "small phone"],
)
def test_every_control_has_a_name_and_is_inside_the_window(
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
        for key in ("b", "l", "k"):
            page.keyboard.press(key)
            assert page.evaluate(LOST) == []
            assert page.evaluate(BESIDE_THE_STAGE) == []
        page.close()


def test_tools_do_not_cover_the_image_in_a_medium_wide_window(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    with serving(folder) as url:
        page = open_page(url, viewport={"width": 1000, "height": 500})
        tools = page.locator("#tools").bounding_box()
        assert tools is not None
        assert place(page, HEIGHT, 0)[1] <= tools["y"]
        page.close()
