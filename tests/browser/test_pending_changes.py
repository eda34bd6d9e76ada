"""The page while requests are on their way, and while someone else works in the same folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from driving import BROWSER_MARKS, drag, place, settle, state, wait_until
from PIL import Image
from playwright.sync_api import Page, Route, expect
from test_page_controls import classes, folder, open_page, page, serving, write_image

__all__ = ["folder", "open_page", "page"]  # fixtures
pytestmark = BROWSER_MARKS


@contextmanager
def holding(page: Page, url: str) -> Iterator[list[Route]]:
    """Hold back the requests to a URL; they continue at the end of the block."""
    held: list[Route] = []
    page.route(url, lambda route: held.append(route))
    yield held
    for one in held:
        one.continue_()
    page.unroute(url)


def press(page: Page, row: float, col: float, radius: float, button: str = "left") -> None:
    """Drag without waiting for its response."""
    page.mouse.move(*place(page, row, col))
    page.mouse.down(button=button)  # type: ignore[arg-type]
    page.mouse.move(*place(page, row, col + radius), steps=2)
    page.mouse.up(button=button)  # type: ignore[arg-type]


def test_classes_of_another_page_appear_and_are_not_overwritten(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    def add(page: Page, name: str) -> None:
        page.click("#classes footer .soft")
        page.locator("#classes li input[type=text]").last.fill(name)
        page.click("#classes footer .primary")

    with serving(folder) as url:
        page, other = open_page(url), open_page(url)
        for one in (page, other):
            one.click("#edit-classes")
        add(other, "cow")
        expect(page.locator("#class-list")).to_contain_text("cow")
        add(page, "pig")
        expect(page.locator("#classes .problem")).to_contain_text("the classes have changed since")
        assert classes(page) == ["cat", "dog", "cow"]
        assert page.locator("#classes li").count() == 3
        add(page, "pig")
        expect(page.locator("#class-list")).to_contain_text("pig")
        assert classes(page) == ["cat", "dog", "cow", "pig"]
        for one in (page, other):
            one.close()


def test_drags_and_keys_count_while_the_first_click_is_being_saved(page: Page) -> None:
    drag(page, 60, 170, 15)
    page.keyboard.press("Enter")
    settle(page)
    with holding(page, "**/clicks"):
        press(page, 60, 60, 20)
        press(page, 60, 170, 10)  # on the locked object
        press(page, 60, 60, 8, button="right")
    settle(page)
    assert [one["positive"] for one in state(page, "a.png")["draft"]["clicks"]] == [True, False]
    page.keyboard.press("Delete")
    settle(page)
    with holding(page, "**/clicks"):
        press(page, 60, 60, 20)
        page.keyboard.press("Control+z")
    settle(page)
    assert state(page, "a.png")["draft"] is None
    with holding(page, "**/clicks"):
        press(page, 60, 60, 20)
        page.keyboard.press("Delete")
    settle(page)
    found = state(page, "a.png")
    assert (found["draft"], len(found["objects"])) == (None, 1)


def test_response_that_ends_early_is_requested_again(page: Page) -> None:
    page.evaluate(
        """() => {
            const json = Response.prototype.json, cut = new Set();
            Response.prototype.json = function () {
                const name = this.url.split("/").at(-1);
                if (!["clicks", "preview"].includes(name) || cut.has(name)) return json.call(this);
                cut.add(name);
                return Promise.reject(new TypeError("Failed to fetch"));
            };
        }"""
    )
    revision = state(page, "a.png")["revision"]
    drag(page, 60, 60, 20)
    settle(page)
    found = state(page, "a.png")
    assert (found["revision"], len(found["draft"]["clicks"])) == (revision + 1, 1)
    expect(page.locator("#finish")).to_be_enabled()


def test_reopened_object_keeps_its_class_and_threshold_and_the_page_its_own(page: Page) -> None:
    page.keyboard.press("2")
    drag(page, 60, 80, 30)
    page.locator("#threshold").fill("0.8")
    page.keyboard.press("Enter")
    settle(page)
    page.keyboard.press("1")
    page.locator("#threshold").fill("0.5")

    def reopen() -> None:
        page.locator("#object-list .pick").click()
        page.focus("#stage")
        page.keyboard.press("e")

    with holding(page, "**/edit"):
        reopen()
        page.keyboard.press("Enter")
    settle(page)
    assert state(page, "a.png")["objects"][0]["class_id"] == 2
    reopen()
    settle(page)
    assert state(page, "a.png")["draft"]["threshold"] == 0.8
    page.keyboard.press("n")
    settle(page)
    assert page.input_value("#threshold") == "0.5"
    page.keyboard.press("p")
    settle(page)
    page.keyboard.press("Enter")
    settle(page)
    with holding(page, "**/edit"):
        reopen()
        page.keyboard.press("1")
    settle(page)
    assert state(page, "a.png")["draft"]["class_id"] == 1
    page.keyboard.press("Enter")
    settle(page)
    assert state(page, "a.png")["objects"][0]["class_id"] == 1


def test_no_click_is_made_on_the_first_of_two_images_being_opened(
    folder: Path, open_page: Callable[..., Page]
) -> None:
    write_image(folder / "c.png")
    with serving(folder) as url:
        page = open_page(url)
        last = page.evaluate("async () => (await (await fetch('api/v1/project')).json()).pictures[2].id")
        with holding(page, f"**/pictures/{last}"):
            page.click("#image-list button:has-text('b.png')")
            page.click("#image-list button:has-text('c.png')")
            expect(page.locator("#title")).to_contain_text("b.png")
            expect(page.locator("#loading")).to_be_visible()
            page.wait_for_timeout(500)
            press(page, 60, 80, 20)
            page.focus("#stage")
            page.keyboard.press("g")
            expect(page.locator("#toasts")).not_to_contain_text("Finish the current object")
        expect(page.locator("#title")).to_contain_text("c.png")
        settle(page)
        assert [state(page, name)["revision"] for name in ("a.png", "b.png", "c.png")] == [0, 0, 0]
        page.close()


def test_image_stays_open_if_nothing_here_is_refused(page: Page) -> None:
    page.route("**/nothing", lambda route: route.fulfill(status=507, json={"error": "the disk is full"}))
    page.focus("#stage")
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#toasts")).to_contain_text("The disk is full")
    settle(page)
    expect(page.locator("#title")).to_contain_text("a.png")


def test_letter_typed_in_a_list_of_classes_is_not_a_key_of_the_page(page: Page) -> None:
    drag(page, 60, 80, 30)
    page.keyboard.press("Enter")
    settle(page)
    page.locator("#object-list select").focus()
    page.keyboard.press("g")
    settle(page)
    expect(page.locator("#title")).to_contain_text("a.png")


def test_imported_file_may_change_while_it_waits_and_an_unreadable_one_is_reported(
    page: Page, tmp_path: Path
) -> None:
    labels = np.zeros((120, 200), np.uint8)
    labels[10:40, 20:60] = 1
    given = tmp_path / "given.png"
    Image.fromarray(labels).save(given)
    with holding(page, "**/clicks"):
        press(page, 90, 150, 15)
        page.set_input_files("#files", given)
        wait_until(page, lambda: page.evaluate("document.body.dataset.pending") == "2")
        given.write_bytes(b"changed")
    settle(page)
    assert len(state(page, "a.png")["objects"]) == 1
    page.evaluate(
        "() => { File.prototype.arrayBuffer = () => Promise.reject('gone'); "
        "File.prototype.stream = () => { throw 'gone'; }; }"
    )
    for files in ([given], [given, tmp_path / "other.png"]):
        Image.fromarray(labels).save(files[-1])
        page.set_input_files("#files", files)
        toast = page.locator("#toasts p", has_text="The files cannot be read (gone)")
        expect(toast).to_be_visible()
        toast.click()
    settle(page)


def test_each_finer_level_of_a_large_image_is_requested_once(
    tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    images = tmp_path / "large"
    images.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((40, 9000), np.uint8)).save(images / name)
    with serving(images) as url:
        page = open_page(url)
        sides: list[str] = []
        page.on("request", lambda asked: sides.append(asked.url.partition("max_side=")[2]))

        def zoom() -> None:
            page.focus("#stage")
            for _ in range(4):
                page.keyboard.press("+")
                page.wait_for_timeout(100)

        with holding(page, "**/image?max_side=4096"):
            zoom()
            zoom()
            wait_until(page, lambda: "8192" in sides)
            page.wait_for_timeout(1000)
        settle(page)
        page.wait_for_timeout(500)
        assert [side for side in sides if len(side) == 4] == ["4096", "8192"]
        page.keyboard.press("0")
        page.keyboard.press("n")
        settle(page)
        with holding(page, "**/image?max_side=4096"):
            zoom()
            page.keyboard.press("p")
            expect(page.locator("#title")).to_contain_text("a.png")
        settle(page)
        zoom()
        wait_until(page, lambda: sides[-1] == "4096", 20)
        page.close()
