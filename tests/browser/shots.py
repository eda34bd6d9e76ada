"""Make the screenshots of the annotator in the docs.

`python tests/browser/shots.py [desktop] [phone] [gestures] [--out DIR]`.

On images of scikit-image's wheel: astronaut (NASA, public domain), chelsea, coffee and rocket (CC0).
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

from driving import Server, chromium, drag, place, sample_images, settle
from PIL import Image, ImageDraw
from playwright.sync_api import Page

SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
CLASSES = {
    "desktop": ["cat", "eye", "nose", "person"],
    "phone": ["person", "rocket"],
    "gestures": ["person", "helmet", "eye", "nose"],
}
TIMEOUT = 120_000  # milliseconds
SMALL = (320, 230)  # css pixels of the screenshot of a gesture
NUM_FRAMES = 12


def main() -> None:
    """Make the named screenshots, or all."""
    makers = {"desktop": desktop, "phone": phone, "gestures": gestures}
    parser = argparse.ArgumentParser(description="Make the screenshots of the annotator in the docs.")
    parser.add_argument("which", nargs="*", metavar="NAME", help="desktop, phone or gestures; all by default")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), metavar="DIR", help="output folder (default: docs)"
    )
    given = parser.parse_args()
    for name in given.which or makers:
        with tempfile.TemporaryDirectory() as folder:
            server = Server(
                sample_images(Path(folder) / "images", SAMPLES),
                options=["--classes", ",".join(CLASSES[name])],
            )
            try:
                makers[name](server, given.out)
            finally:
                server.stop()


def desktop(server: Server, out: Path) -> None:
    """A cat's finished eyes and nose, and a drag on the cat in progress."""
    with chromium() as page:
        start(page, server)
        open_image(page, "astronaut")
        finish(page, "person", (110, 222, 78), (250, 225, 30))
        open_image(page, "chelsea")
        finish(page, "eye", (117, 174, 22))
        finish(page, "eye", (132, 314, 15))
        finish(page, "nose", (241, 256, 16))
        choose(page, "cat")
        hold(page, (150, 220), (150, 360))
        save(page, out / "annotator_desktop.png")


def phone(server: Server, out: Path) -> None:
    """A drag in progress on a wrongly included part, with Background chosen."""
    with chromium(**PHONE) as page:
        start(page, server)
        open_image(page, "astronaut")
        drag(page, 110, 222, 78, steps=2, pause=0)
        page.locator("#negative").click()
        hold(page, (250, 225), (250, 255))
        save(page, out / "annotator_phone.png")


def gestures(server: Server, out: Path) -> None:
    """Make one small screenshot for each gesture."""
    folder = out / "annotator"
    folder.mkdir(exist_ok=True)
    add_frames(server.folder)
    with chromium(viewport={"width": 1180, "height": 720}) as page:
        start(page, server)
        open_image(page, "astronaut")
        by_drag(page, folder)
        by_hand(page, folder)
        on_finished_objects(page, folder)
        through_the_images(page, folder)


def add_frames(folder: Path) -> None:
    """Frames of a camera that moves over the astronaut to the right."""
    sample = Image.open(folder / "astronaut.jpg")
    for number in range(NUM_FRAMES):
        sample.crop((6 * number, 0, 420 + 6 * number, 420)).save(folder / f"frame{number + 1:02d}.png")


def by_drag(page: Page, folder: Path) -> None:
    """Drags, a click, a box, the crosshair of the keyboard."""
    hold(page, (110, 222), (110, 300))
    crop(page, folder / "drag.webp", (150, 222), pointer=(110, 300))
    release(page)
    hold(page, (250, 225), (250, 255), button="right")
    crop(page, folder / "background.webp", (190, 222), pointer=(250, 255))
    release(page, button="right")
    undo(page, 2)
    page.mouse.click(*place(page, 110, 222))
    settle(page)
    crop(page, folder / "click.webp", (150, 222), pointer=(110, 222))
    undo(page, 1)
    page.keyboard.down("Shift")
    hold(page, (310, 372), (500, 505))
    crop(page, folder / "box.webp", (390, 400), pointer=(500, 505))
    page.keyboard.press("Escape")
    page.mouse.up()
    page.keyboard.up("Shift")
    settle(page)
    for key in ["ArrowUp"] * 9 + ["ArrowLeft"] * 3 + ["]"] * 2:
        page.keyboard.press(key)
    crop(page, folder / "crosshair.webp", (150, 222))
    page.keyboard.press("Escape")


def by_hand(page: Page, folder: Path) -> None:
    """Brush, eraser, lasso, local drag, on the head."""
    drag(page, 110, 222, 78, steps=2, pause=0)
    page.keyboard.press("k")
    hold(page, (250, 225), (250, 240), button="right")
    crop(page, folder / "local.webp", (215, 222), pointer=(250, 240), bar=True)
    page.keyboard.press("Escape")
    page.mouse.up(button="right")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    trace(page, [(70, 140), (110, 146), (150, 160)])
    crop(page, folder / "brush.webp", (150, 200), pointer=(150, 160), bar=True)
    release(page)
    trace(page, [(70, 140), (110, 146), (135, 155)], button="right")
    crop(page, folder / "eraser.webp", (130, 200), pointer=(135, 155))
    release(page, button="right")
    page.keyboard.press("l")
    trace(page, [(225, 120), (215, 330), (280, 320), (285, 140)], button="right")
    crop(page, folder / "lasso.webp", (215, 222), pointer=(285, 140))
    release(page, button="right")
    page.keyboard.press("Enter")
    settle(page)


def on_finished_objects(page: Page, folder: Path) -> None:
    """Selection, colors, time, nothing here."""
    open_image(page, "chelsea")
    finish(page, "eye", (117, 174, 22))
    finish(page, "eye", (132, 314, 15))
    finish(page, "nose", (241, 256, 16))
    page.keyboard.press("i")
    settle(page)
    crop(page, folder / "colors.webp", (180, 250), size=(420, 260))
    page.keyboard.press("i")
    page.mouse.click(*place(page, 117, 174))
    page.keyboard.down("Shift")
    page.mouse.click(*place(page, 132, 314))
    page.keyboard.up("Shift")
    settle(page)
    crop(page, folder / "select.webp", (180, 250), pointer=(132, 314), size=(460, 300), bar=True)
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    part(page, folder / "pace.webp", "#pace", 8)
    page.keyboard.press("t")
    open_image(page, "coffee")
    part(page, folder / "nothing.webp", "#no-objects", 12)


def through_the_images(page: Page, folder: Path) -> None:
    """Copy an object to the next frame; the list of images that are not done."""
    open_image(page, "frame01")
    finish(page, "person", (110, 222, 78), (250, 225, 30))
    page.keyboard.press("g")
    page.locator("#title", has_text="frame02").wait_for()
    page.locator("#chosen").wait_for()
    settle(page)
    crop(page, folder / "copy.webp", (180, 222), size=(420, 300), bar=True)
    page.keyboard.press("Escape")
    page.click("#undone")
    page.wait_for_timeout(500)
    box = page.locator("#images").bounding_box()
    assert box is not None
    shoot(page, folder / "list.webp", (box["x"], box["y"], box["width"], 260))


def trace(page: Page, corners: list[tuple[float, float]], *, button: Any = "left") -> None:
    """Press on the first pixel and move over the others; the button stays down."""
    page.mouse.move(*place(page, *corners[0]))
    page.mouse.down(button=button)
    for corner in corners[1:]:
        page.mouse.move(*place(page, *corner), steps=6)
    settle(page)


def release(page: Page, *, button: Any = "left") -> None:
    """Let the button go, and wait until the step is on disk."""
    page.mouse.up(button=button)
    settle(page)


def undo(page: Page, steps: int) -> None:
    """Undo some steps."""
    for _ in range(steps):
        page.keyboard.press("Control+z")
        settle(page)


def crop(
    page: Page,
    path: Path,
    center: tuple[float, float],
    *,
    pointer: tuple[float, float] | None = None,
    size: tuple[int, int] = SMALL,
    bar: bool = False,
) -> None:
    """Save the stage around a pixel of the image; ``bar``: with the tools below it."""
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    x, y = place(page, *center)
    width, height = size
    left = min(max(x - width / 2, stage["x"]), stage["x"] + stage["width"] - width)
    top = min(max(y - height / 2, stage["y"]), stage["y"] + stage["height"] - height)
    if bar:
        left, width = stage["x"] + 20, int(stage["width"] - 40)
        top = min(top, y - height / 2)
        height = int(stage["y"] + stage["height"] - 76 - top)
    shoot(page, path, (left, top, width, height), None if pointer is None else place(page, *pointer))


def part(page: Page, path: Path, selector: str, margin: float) -> None:
    """Save an element with a margin around it."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
    shoot(page, path, (x - margin, y - margin, width + 2 * margin, height + 2 * margin))


def shoot(
    page: Page,
    path: Path,
    area: tuple[float, float, float, float],
    pointer: tuple[float, float] | None = None,
) -> None:
    """Save an area of the window, (left, top, width, height), as WebP, with the pointer in it."""
    left, top, width, height = area
    clip: Any = {"x": left, "y": top, "width": width, "height": height}
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    if pointer is not None:
        draw_pointer(image, pointer[0] - left, pointer[1] - top)
    image.save(path, quality=78, method=6)


def start(page: Page, server: Server) -> None:
    """The ready page, which counts the exact masks."""
    page.set_default_timeout(TIMEOUT)
    page.goto(server.url)
    settle(page)
    page.evaluate(
        "() => { window.exact = 0; document.getElementById('stage').addEventListener('livemask', ({ detail "
        "}) => exact += detail.exact); }"
    )


def open_image(page: Page, name: str) -> None:
    page.locator(f"#image-list button[title^={name}]").evaluate("(one) => one.click()")  # which a phone hides
    page.wait_for_function("name => document.getElementById('title').textContent.includes(name)", arg=name)
    settle(page)


def choose(page: Page, name: str) -> None:
    """A class, by a press on it."""
    page.locator("#class-list button", has_text=name).evaluate("(one) => one.click()")  # which a phone hides


def finish(
    page: Page,
    name: str,
    marked: tuple[float, float, float],
    background: tuple[float, float, float] | None = None,
) -> None:
    """An object of a class: a drag, (row, col, radius), and another on a wrongly included part."""
    choose(page, name)
    drag(page, *marked, steps=2, pause=0)
    if background is not None:
        drag(page, *background, button="right", steps=2, pause=0)
    page.keyboard.press("Enter")
    settle(page)


def move(page: Page, x: float, y: float) -> None:
    """Move the pointer of a drag, and wait for the exact mask."""
    before = page.evaluate("exact")
    page.mouse.move(x, y)
    page.wait_for_function("before => exact > before", arg=before)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def hold(page: Page, center: tuple[float, float], edge: tuple[float, float], *, button: Any = "left") -> None:
    """Press on a pixel of the image, drag to another, and stay there until the mask is there."""
    page.mouse.move(*place(page, *center))
    page.mouse.down(button=button)
    x, y = place(page, *edge)
    page.mouse.move(x - 8, y)
    move(page, x, y)


def draw_pointer(image: Image.Image, x: float, y: float) -> None:
    """Draw an arrow whose tip is at (x, y)."""
    arrow = [(0, 0), (0, 21), (5, 16), (9, 25), (13, 23), (9, 15), (16, 15)]
    corners = [(x + right, y + down) for right, down in arrow]
    ImageDraw.Draw(image).polygon(corners, fill="white", outline="black", width=2)


def image_box(page: Page) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the image in the window."""
    image = page.evaluate("async () => (await fetch(`api/v1/pictures/${location.hash.slice(1)}`)).json()")
    height, width = image["height"], image["width"]
    (left, top), (right, bottom) = place(page, -0.5, -0.5), place(page, height - 0.5, width - 0.5)
    return left, top, right, bottom


def save(page: Page, path: Path) -> None:
    """The window with 256 colors, a third of the bytes; only the image is dithered."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2)
    flat, dithered = (
        image.quantize(palette=palette, dither=how)
        for how in (Image.Dither.NONE, Image.Dither.FLOYDSTEINBERG)
    )
    ratio = page.evaluate("devicePixelRatio")
    left, top, right, bottom = (round(edge * ratio) for edge in image_box(page))
    flat.paste(dithered.crop((left, top, right, bottom)), (left, top))
    flat.save(path, optimize=True)


if __name__ == "__main__":
    main()
