"""Fine corrections in a real browser: brush, eraser, lasso, box, local drag, selection, kill -9, replay."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import BROWSER_MARKS, Server, annotating, chromium, drag, place, sample_images, settle, state
from PIL import Image
from playwright.sync_api import Page, expect

from dct_seg.cli import main
from dct_seg.rle import decode

pytestmark = BROWSER_MARKS

SLOW = 120_000  # milliseconds; the machine may be busy
NAME = "astronaut.jpg"
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = sample_images(tmp_path_factory.mktemp("images"), ("astronaut",))
    found = Server(folder, options=["--classes", "head,helmet"])
    yield found
    found.stop()


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Page]:
    """The page; an error in it fails the test."""
    wrong: list[str] = []
    with chromium() as found:
        found.on("pageerror", lambda error: wrong.append(str(error)))
        found.set_default_timeout(SLOW)
        found.goto(server.url)
        settle(found)
        yield found
    assert wrong == []


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


def test_mask_is_painted_erased_and_cut_and_objects_are_selected_merged_and_deleted(page: Page) -> None:
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

    click(page, 150, 220)  # on the head: selected, nothing begun
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


def assert_replayed(server: Server, out: Path) -> None:
    """Check that the exported clicks and strokes replay the exported masks bit-identically."""
    export = f"{server.url}api/v1/export?format="
    log = out / "clicks.jsonl"
    with urllib.request.urlopen(f"{export}clicks") as answer:
        log.write_bytes(answer.read())
    with urllib.request.urlopen(f"{export}coco") as answer:
        wanted = [decode(one["segmentation"]) for one in json.load(answer)["annotations"]]
    command = ["predict", str(server.folder), "--clicks", str(log), "--out", str(out / "predicted")]
    assert main(command) == 0
    found = sorted((out / "predicted" / "masks").rglob("*.png"))
    assert len(found) == len(wanted) > 0
    for mask, path in zip(wanted, found, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)) > 0, mask)


def test_kill_9_during_a_stroke_a_lasso_and_a_drag_loses_nothing_and_replays_bit_identically(
    page: Page, server: Server, tmp_path: Path
) -> None:
    drag(page, 110, 220, 70, steps=2)
    revision = state(page, NAME)["revision"]

    page.keyboard.press("b")
    page.mouse.move(*place(page, 20, 20))
    page.mouse.down()
    page.mouse.move(*place(page, 20, 60), steps=4)
    server.kill_and_restart()  # the pointer is down
    page.mouse.move(*place(page, 60, 60), steps=4)
    page.mouse.up()
    settle(page)
    assert state(page, NAME)["revision"] == revision + 1
    assert state(page, NAME)["mask"]["row"] < 20

    page.keyboard.press("l")
    page.mouse.move(*place(page, 300, 5))
    page.mouse.down()
    for corner in ((300, 40), (340, 40), (340, 5)):
        page.mouse.move(*place(page, *corner), steps=4)
    page.mouse.up()
    server.kill_and_restart()  # the lasso is being sent, or is written and not acknowledged
    settle(page)
    assert state(page, NAME)["revision"] == revision + 2
    assert state(page, NAME)["mask"]["col"] < 10

    page.keyboard.press("k")
    page.mouse.move(*place(page, 250, 225))
    page.mouse.down(button="right")
    page.mouse.move(*place(page, 250, 235), steps=2)
    server.kill_and_restart()  # live masks are being computed
    page.mouse.move(*place(page, 250, 245), steps=2)
    page.mouse.up(button="right")
    settle(page)
    corrected = state(page, NAME)
    assert (corrected["revision"], corrected["draft"]["clicks"]) == (revision + 3, [])
    page.keyboard.press("Enter")
    settle(page)
    assert objects(page)[-1]["num_clicks"] == 2
    assert_replayed(server, tmp_path)


def test_kill_9_during_a_box_an_eraser_a_merge_and_a_copy_loses_nothing(tmp_path: Path) -> None:
    folder = sample_images(tmp_path / "images", ("astronaut",))
    sample = Image.open(folder / NAME)
    for number in (1, 2):  # a sequence: the objects of the first are copied to the second
        sample.crop((8 * number, 0, 400 + 8 * number, 400)).save(folder / f"frame{number}.png")
    (folder / NAME).unlink()
    first, second = "frame1.png", "frame2.png"
    with annotating(folder, timeout=SLOW) as (server, page):
        page.goto(server.url)
        settle(page)
        page.keyboard.down("Shift")
        page.mouse.move(*place(page, 40, 150))
        page.mouse.down()
        page.mouse.move(*place(page, 180, 290), steps=4)
        server.kill_and_restart()  # the box is open
        page.mouse.up()
        page.keyboard.up("Shift")
        settle(page)
        (box,) = state(page, first)["draft"]["clicks"]
        assert (box["row"], box["col"], box["radius"]) == pytest.approx((110, 220, 70), abs=2)

        page.keyboard.press("b")
        page.mouse.move(*place(page, 100, 180))
        page.mouse.down(button="right")
        page.mouse.move(*place(page, 100, 220), steps=4)
        server.kill_and_restart()  # the eraser is down
        page.mouse.up(button="right")
        settle(page)
        assert state(page, first)["revision"] == 2
        page.keyboard.press("Enter")
        settle(page)
        page.keyboard.press("b")
        stroke(page, (350, 20), (350, 80))
        page.keyboard.press("Enter")
        settle(page)
        before = state(page, first)["objects"]
        assert len(before) == 2

        click(page, 150, 220)
        page.keyboard.down("Shift")
        click(page, 350, 50)
        page.keyboard.up("Shift")
        expect(page.locator("#chosen")).to_contain_text("2 objects")
        page.keyboard.press("m")
        server.kill_and_restart()  # the merge is being sent, or is written and not acknowledged
        settle(page)
        (merged,) = state(page, first)["objects"]
        assert merged["area"] == sum(one["area"] for one in before)

        page.keyboard.press("g")
        server.kill_and_restart()  # so is the copy
        expect(page.locator("#title")).to_contain_text(second)
        settle(page)
        assert [one["area"] for one in state(page, first)["objects"]] == [merged["area"]]
        assert len(state(page, second)["objects"]) == 1
        assert_replayed(server, tmp_path)
