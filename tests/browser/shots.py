"""The pictures of the annotator in the docs, made again.

`python tests/browser/shots.py [desktop] [phone] [drag] [--out DIR]`.

On photographs of scikit-image's wheel: astronaut (NASA, public domain), chelsea, coffee and rocket (CC0).
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

from driving import Server, chromium, drag, photographs, place, settle
from PIL import Image, ImageDraw
from playwright.sync_api import Page

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
CLASSES = {
    "desktop": ["cat", "eye", "nose", "person"],
    "phone": ["person", "rocket"],
    "drag": ["person", "rocket"],
}
TIMEOUT = 120_000  # milliseconds
WIDTH = 480  # pixels of the moving picture


def main() -> None:
    """Make those that are named, or all."""
    makers = {"desktop": desktop, "phone": phone, "drag": moving}
    parser = argparse.ArgumentParser(description="The pictures of the annotator in the docs, made again.")
    parser.add_argument("which", nargs="*", metavar="NAME", help="of desktop, phone, drag; all unless said")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR", help="where they go (docs)")
    given = parser.parse_args()
    for name in given.which or makers:
        with tempfile.TemporaryDirectory() as folder:
            server = Server(
                photographs(Path(folder) / "photographs", PICTURES),
                options=["--classes", ",".join(CLASSES[name])],
            )
            try:
                makers[name](server, given.out)
            finally:
                server.stop()


def desktop(server: Server, out: Path) -> None:
    """A cat's eyes and nose, finished, and the drag on the cat under way."""
    with chromium() as page:
        start(page, server)
        open_picture(page, "astronaut")
        finish(page, "person", (110, 222, 78), (250, 225, 30))
        open_picture(page, "chelsea")
        finish(page, "eye", (117, 174, 22))
        finish(page, "eye", (132, 314, 15))
        finish(page, "nose", (241, 256, 16))
        choose(page, "cat")
        hold(page, (150, 220), (150, 360))
        save(page, out / "annotator_desktop.png")


def phone(server: Server, out: Path) -> None:
    """A drag on what is too much, with Background chosen, under way."""
    with chromium(**PHONE) as page:
        start(page, server)
        open_picture(page, "astronaut")
        drag(page, 110, 222, 78, steps=2, pause=0)
        page.locator("#negative").click()
        hold(page, (250, 225), (250, 255))
        save(page, out / "annotator_phone.png")


def moving(server: Server, out: Path) -> None:
    """Record a drag, the mask that follows it, and a background drag that corrects it."""
    frames: list[tuple[Image.Image, int]] = []
    with chromium(viewport={"width": 1240, "height": 760}) as page:
        start(page, server)
        open_picture(page, "astronaut")
        choose(page, "person")
        record(page, frames, (110, 222), 78, "left")
        record(page, frames, (250, 225), 30, "right")
        still(page, frames, None, 1400)
    images = [image for image, _ in frames]
    durations = [milliseconds for _, milliseconds in frames]
    images[0].save(
        out / "drag.webp",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        quality=75,
        method=4,
    )


def start(page: Page, server: Server) -> None:
    """The page, ready; it counts the masks that are as the click would give them."""
    page.set_default_timeout(TIMEOUT)
    page.goto(server.url)
    settle(page)
    page.evaluate(
        "() => { window.exact = 0; document.getElementById('stage').addEventListener('livemask', ({ detail "
        "}) => exact += detail.exact); }"
    )


def open_picture(page: Page, name: str) -> None:
    page.locator(f"#picture-list button[title^={name}]").evaluate(
        "(one) => one.click()"
    )  # which a phone hides
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
    """An object of a class: a drag, (row, col, radius), and another on what is too much."""
    choose(page, name)
    drag(page, *marked, steps=2, pause=0)
    if background is not None:
        drag(page, *background, button="right", steps=2, pause=0)
    page.keyboard.press("Enter")
    settle(page)


def move(page: Page, x: float, y: float) -> None:
    """Move the pointer of a drag, and wait for the mask as the click would give it."""
    before = page.evaluate("exact")
    page.mouse.move(x, y)
    page.wait_for_function("before => exact > before", arg=before)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def hold(page: Page, centre: tuple[float, float], edge: tuple[float, float], *, button: Any = "left") -> None:
    """Press on a pixel of the picture, drag to another, and stay there until the mask is there."""
    page.mouse.move(*place(page, *centre))
    page.mouse.down(button=button)
    x, y = place(page, *edge)
    page.mouse.move(x - 8, y)
    move(page, x, y)


def record(
    page: Page, frames: list[tuple[Image.Image, int]], centre: tuple[float, float], radius: float, button: Any
) -> None:
    """A picture before a drag, one for each of its steps, and one after it."""
    x, y = place(page, *centre)
    to, _ = place(page, centre[0], centre[1] + radius)
    page.mouse.move(x, y)
    still(page, frames, (x, y), 500)
    page.mouse.down(button=button)
    for step in range(1, 17):
        at = x + 5 + (to - x - 5) * step / 16
        move(page, at, y)
        still(page, frames, (at, y), 90)
    page.mouse.up(button=button)
    settle(page)
    still(page, frames, (to, y), 900)


def still(
    page: Page, frames: list[tuple[Image.Image, int]], pointer: tuple[float, float] | None, milliseconds: int
) -> None:
    """The stage with the pointer, at the size of the moving picture."""
    left, top, right, bottom = photograph(page)
    clip: Any = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    if pointer is not None:
        arrow = [(0, 0), (0, 21), (5, 16), (9, 25), (13, 23), (9, 15), (16, 15)]
        ImageDraw.Draw(image).polygon(
            [(pointer[0] - left + x, pointer[1] - top + y) for x, y in arrow],
            fill="white",
            outline="black",
            width=2,
        )
    frames.append(
        (image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS), milliseconds)
    )


def photograph(page: Page) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the picture in the window."""
    picture = page.evaluate("async () => (await fetch(`api/v1/pictures/${location.hash.slice(1)}`)).json()")
    height, width = picture["height"], picture["width"]
    (left, top), (right, bottom) = place(page, -0.5, -0.5), place(page, height - 0.5, width - 0.5)
    return left, top, right, bottom


def save(page: Page, path: Path) -> None:
    """The window with 256 colours, a third of the bytes; the photograph alone is dithered."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2)
    flat, dithered = (
        image.quantize(palette=palette, dither=how)
        for how in (Image.Dither.NONE, Image.Dither.FLOYDSTEINBERG)
    )
    ratio = page.evaluate("devicePixelRatio")
    left, top, right, bottom = (round(edge * ratio) for edge in photograph(page))
    flat.paste(dithered.crop((left, top, right, bottom)), (left, top))
    flat.save(path, optimize=True)


if __name__ == "__main__":
    main()
