"""Several files and whole folders, imported from the page in a browser."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import BROWSER_MARKS, chromium, settle, state
from PIL import Image
from playwright.sync_api import Page, expect
from test_page_controls import HEIGHT, SLOW, WIDTH, serving, write_image

pytestmark = BROWSER_MARKS

DROP = """async (files) => {
  const data = new DataTransfer();
  for (const [name, text] of files) data.items.add(new File([text], name));
  dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""

WATCH = """() => {
  window.sent = [];
  const real = window.fetch;
  window.fetch = (to, how) => {
    if (String(to).includes("import/file")) sent.push(how.body);
    return real(to, how);
  };
}"""
SENT = "() => Promise.all(sent.map(async (one) => [...new Uint8Array(await one.arrayBuffer())]))"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page on a.png and b.png; an error in the page fails the test."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        write_image(folder / name)
    wrong: list[str] = []
    with serving(folder) as url, chromium() as found:
        found.set_default_timeout(SLOW)
        found.on("pageerror", lambda error: wrong.append(str(error)))
        found.goto(url)
        settle(found)
        yield found
    assert wrong == []


def labelme(image: str, *corners: tuple[int, int]) -> str:
    shapes = [
        {
            "label": "dog",
            "shape_type": "polygon",
            "points": [[x, y], [x + 20, y], [x + 20, y + 10], [x, y + 10]],
        }
        for x, y in corners
    ]
    return json.dumps({"imagePath": image, "shapes": shapes})


def mask(top: int) -> bytes:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[top : top + 10, 20:50] = 255
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def payload(name: str, content: str | bytes) -> Any:
    content = content.encode() if isinstance(content, str) else content
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def sent(page: Page) -> list[dict[str, bytes]]:
    """Files in each zip that the page has sent since recording began."""
    found = []
    for content in page.evaluate(SENT):
        with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
            assert archive.testzip() is None
            found.append({name: archive.read(name) for name in archive.namelist()})
    return found


def num_objects(page: Page) -> list[int]:
    return [len(state(page, name)["objects"]) for name in ("a.png", "b.png")]


def test_menu_offers_files_and_a_folder_by_mouse_and_keyboard(page: Page) -> None:
    page.on("filechooser", lambda _: None)  # the first listener may come too late inside expect
    expect(page.locator("#import-menu")).to_be_hidden()
    page.click("#import")
    expect(page.locator("#import-menu [role=menuitem]")).to_have_text(["Files…", "A folder…"])
    expect(page.locator("#import")).to_have_attribute("aria-expanded", "true")
    items = page.locator("#import-menu [role=menuitem]")
    expect(items.first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(items.last).to_be_focused()
    with page.expect_file_chooser() as opened:
        page.keyboard.press("Enter")
    assert opened.value.element.get_attribute("id") == "file-folder"
    expect(page.locator("#import-menu")).to_be_hidden()
    page.click("#import")
    with page.expect_file_chooser() as opened:
        page.click("#import-menu >> text=Files…")
    assert opened.value.is_multiple()


def test_several_files_and_a_list_of_classes_are_imported_in_one_request(page: Page) -> None:
    page.evaluate(WATCH)
    files = {
        "a.json": labelme("a.png", (10, 10), (50, 50)),
        "ü.json": labelme("b.png", (10, 10)),
        "empty.json": "",
    }
    given = [payload(name, content) for name, content in files.items()]
    page.set_input_files("#files", [*given, payload("names.txt", "horse\n"), payload("notes.doc", "?")])
    expect(page.locator("#toasts")).to_contain_text("3 objects on 2 images imported; 1 skipped")
    expect(page.locator("#class-list")).to_contain_text("horse")
    assert num_objects(page) == [2, 1]
    assert sent(page) == [{name: content.encode() for name, content in files.items()}]


def test_yolo_folder_is_imported_without_its_images(page: Page, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    (root / "labels" / "train").mkdir(parents=True)
    (root / "images" / "train").mkdir(parents=True)
    write_image(root / "images" / "train" / "b.png")
    (root / "data.yaml").write_text("names: [cat, dog]")
    (root / "labels" / "train" / "b.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    page.evaluate(WATCH)
    page.set_input_files("#file-folder", root)
    expect(page.locator("#toasts")).to_contain_text("1 object on 1 image imported")
    assert num_objects(page) == [0, 1]
    (files,) = sent(page)
    assert sorted(files) == ["data.yaml", "labels/train/b.txt"]


def test_png_masks_go_to_the_images_with_their_names_or_to_the_open_one(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "b.png").write_bytes(mask(10))
    (folder / "x.png").write_bytes(mask(10))
    page.set_input_files("#file-folder", folder)
    expect(page.locator("#toasts")).to_contain_text("1 object on 1 image imported; 1 skipped: x: no image in")
    assert num_objects(page) == [0, 1]
    page.set_input_files("#files", [payload(f"object{n}.png", mask(n)) for n in (20, 40, 60)])
    page.wait_for_function("() => document.querySelectorAll('#object-list li').length === 3")
    assert num_objects(page) == [3, 1]


def test_unknown_and_too_large_files_are_refused_in_one_line(page: Page) -> None:
    page.set_input_files("#files", [payload("a.doc", "?"), payload("b.doc", "?")])
    expect(page.locator("#toasts")).to_contain_text("got 2 files of other types")
    page.evaluate("""() => {
      const files = ["a.json", "b.json"].map((name) => new File([new Uint8Array(64 * 2 ** 20)], name));
      const data = new DataTransfer();
      files.forEach((one) => data.items.add(one));
      const input = document.getElementById("files");
      input.files = data.files;
      input.dispatchEvent(new Event("change"));
    }""")
    expect(page.locator("#toasts")).to_contain_text("can be imported at once, got 2 files of 128 MiB")


def test_dropped_files_are_imported_together(page: Page) -> None:
    page.evaluate(DROP, [["a.json", labelme("a.png", (10, 10))], ["b.json", labelme("b.png", (10, 10))]])
    expect(page.locator("#toasts")).to_contain_text("2 objects on 2 images imported")
    assert num_objects(page) == [1, 1]
