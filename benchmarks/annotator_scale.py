"""Speed and memory of the annotator with a large folder and an image with many objects.

``python -m benchmarks.annotator_scale`` makes the images in a temporary folder and calls the annotator's
HTTP interface in this process. The method is ``disc``, which takes almost no time, so the figures are those
of the annotator alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from benchmarks.large_image import peak_memory
from dct_seg.app.project import Project
from dct_seg.app.schemas import ModelCard
from dct_seg.app.server import API, create_app
from dct_seg.benchmark.environment import describe_environment
from dct_seg.methods.classical.disc import Disc
from dct_seg.rle import encode_part
from dct_seg.web.request_checks import LOOPBACK

MANY, NONE = "many.jpg", "none.jpg"
"""Large images: one with many objects, one without objects."""
SMALL = (240, 320)
NUM_TIMED = 5
NUM_MARKS = 5
PER_OBJECT = 3


@dataclass
class Times:
    """Wall times and processor times of one operation, one entry per occurrence.

    Args:
        wall: Seconds of wall time.
        processor: Seconds of processor time, which excludes waiting for other programs.
    """

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Time the block."""
        began = perf_counter(), process_time()
        yield
        self.wall.append(perf_counter() - began[0])
        self.processor.append(process_time() - began[1])


@dataclass
class Scale:
    """Measurements of one run.

    Args:
        times: Times of each operation, by its name.
        memory: (images opened, clicks made, resident bytes), in order.
        bytes_in: Size in bytes of the imported zip of PNGs.
    """

    times: dict[str, Times] = field(default_factory=dict)
    memory: list[tuple[int, int, int]] = field(default_factory=list)
    bytes_in: int = 0

    def timed(self, name: str) -> Any:
        """Time a block as one more occurrence of an operation."""
        return self.times.setdefault(name, Times()).one()


class Client:
    """Client that sends the page's requests to an annotator in this process.

    Args:
        root: Folder of the images.
        work: Folder for all output.
    """

    def __init__(self, root: Path, work: Path) -> None:
        self._project = Project(root, work=work)
        card = ModelCard(name="disc", prompts="drag")
        app = create_app(self._project, Disc, model=card, hosts=LOOPBACK)
        self._client = TestClient(app, base_url="http://127.0.0.1:8765")
        self.ids: dict[str, str] = {}
        self._revisions: dict[str, int] = {}

    def close(self) -> None:
        """Release the image folder."""
        self._client.close()
        self._project.close()

    def list(self) -> int:
        """Request the list of images; return their number."""
        listed = self._client.get(f"{API}/project").raise_for_status().json()["pictures"]
        self.ids = {one["name"]: one["id"] for one in listed}
        return len(listed)

    def open(self, name: str) -> int:
        """Request an image and its objects as the page does; return the number of objects."""
        self._client.get(f"{API}/pictures/{self.ids[name]}/image").raise_for_status()
        answer = self._client.get(f"{API}/pictures/{self.ids[name]}").raise_for_status().json()
        self._revisions[name] = answer["revision"]
        return len(answer["objects"])

    def change(self, name: str, what: str, **body: Any) -> None:
        """Request a change of an open image."""
        body |= {"revision": self._revisions[name], "brief": True}
        answer = self._client.post(f"{API}/pictures/{self.ids[name]}/{what}", json=body)
        self._revisions[name] = answer.raise_for_status().json()["revision"]

    def click(self, name: str, row: float, col: float, radius: float) -> None:
        """Make a click with a drag."""
        self.change(
            name, "clicks", click={"row": row, "col": col, "positive": True, "radius": radius}, threshold=0.5
        )

    def put(self, content: bytes) -> int:
        """Import a file; return the number of new objects."""
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._client.put(f"{API}/import/file", content=content, headers=headers)
        return int(answer.raise_for_status().json()["objects"])

    def exported(self, kind: str) -> bytes:
        """Export all objects."""
        return bytes(self._client.get(f"{API}/export?format={kind}").raise_for_status().content)


def make_images(root: Path, number: int, size: tuple[int, int]) -> list[str]:
    """Write small images and two large ones of (height, width); return the names of the small ones."""
    root.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (*SMALL, 3), dtype=np.uint8)
    names = [f"small_{index:05d}.jpg" for index in range(number)]
    for index, name in enumerate(names):
        Image.fromarray(np.roll(noise, index, axis=1)[::8, ::8]).resize(SMALL[::-1]).save(root / name)
    large = Image.fromarray(noise).resize(size[::-1])
    for name, quality in (
        (MANY, 80),
        (NONE, 81),
    ):  # different contents, because an image is recognized by its content
        large.save(root / name, quality=quality)
    return names


def discs(number: int, size: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """Place discs that do not touch in (height, width): centers (N, 2) of (row, col), and the radius."""
    side = math.sqrt(size[0] * size[1] / number)
    cols = max(1, round(size[1] / side))
    rows = -(-number // cols)
    places = np.indices((rows, cols)).reshape(2, -1).T[:number] + 0.5
    spacing = np.array([size[0] / rows, size[1] / cols])
    return places * spacing, 0.36 * float(spacing.min())


def coco_of(name: str, size: tuple[int, int], number: int) -> bytes:
    """Make the COCO JSON of an image with disc-shaped objects."""
    centers, radius = discs(number, size)
    reach = math.ceil(radius)
    offsets = np.arange(-reach, reach + 1)
    disc = offsets[:, None] ** 2 + offsets**2 <= radius**2
    corners = [(int(row) - reach, int(col) - reach) for row, col in centers]
    content = {
        "images": [{"id": 1, "file_name": name, "height": size[0], "width": size[1]}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": encode_part(disc, corner, size)}
            for corner in corners
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    return json.dumps(content).encode()


def resident_memory() -> int:
    """Read the resident memory of this process in bytes; its peak if the system does not report it."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_memory()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def measure(
    folder: Path, *, images: int, objects: int, size: tuple[int, int], opened: int, clicks: int
) -> Scale:
    """Make the images in an empty folder, and measure the annotator on it.

    Args:
        folder: Empty folder for images and output.
        images: Number of small images.
        objects: Number of objects on the large image.
        size: (height, width) of the large images.
        opened: Number of small images opened while memory is measured.
        clicks: Total number of clicks on these images.

    Raises:
        ValueError: When a number is below 1, or ``opened`` exceeds ``images``.
    """
    if min(images, objects, opened, clicks, *size) < 1 or opened > images:
        raise ValueError(
            f"all numbers must be at least 1, and --opened at most --images, got --images {images} "
            f"--objects {objects} --height {size[0]} --width {size[1]} --opened {opened} --clicks {clicks}"
        )
    scale = Scale()
    names = make_images(folder / "images", images, size)
    with scale.timed("start"):
        client = Client(folder / "images", folder / "work")
    with scale.timed("list of images"):
        listed = client.list()
    assert listed == images + 2
    _import(client, folder, scale, coco_of(MANY, size, objects), objects)
    for name, what in ((MANY, f"{objects} objects"), (NONE, "no objects")):
        with scale.timed(f"first opening, {what}"):
            client.open(name)
        with scale.timed(f"opening again, {what}"):
            client.open(name)
        _clicks_after_a_finish(client, name, size, what, scale)
    _record_memory(client, names[:opened], clicks, scale)
    client.close()
    return scale


def _import(client: Client, folder: Path, scale: Scale, coco: bytes, objects: int) -> None:
    """Import the objects as COCO JSON, and as one PNG per object into a second work folder."""
    with scale.timed("import, COCO JSON"):
        taken = client.put(coco)
    pngs = client.exported("object_png")
    scale.bytes_in = len(pngs)
    other = Client(folder / "images", folder / "work of PNGs")
    other.list()
    with scale.timed("import, one PNG per object"):
        taken_again = other.put(pngs)
    other.close()
    assert taken == taken_again == objects


def _clicks_after_a_finish(client: Client, name: str, size: tuple[int, int], what: str, scale: Scale) -> None:
    """Draw objects with one drag each in a corner, and time the click after each finish."""
    radius = max(1.0, min(size) / 100)
    for turn in range(1 + NUM_TIMED):
        with scale.timed(f"click after a finish, {what}") if turn else scale.timed(f"first click, {what}"):
            client.click(name, radius, radius * (1 + 2 * turn), radius)
        with scale.timed(f"finish, {what}"):
            client.change(name, "finish", class_id=1, threshold=0.5)


def _record_memory(client: Client, names: Sequence[str], clicks: int, scale: Scale) -> None:
    """Open images, click on them, and record the memory at a few points; each object has a few clicks."""
    marks = {round(len(names) * place / NUM_MARKS) for place in range(1, NUM_MARKS + 1)}
    scale.memory.append((0, 0, resident_memory()))
    made = 0
    for index, name in enumerate(names, start=1):
        client.open(name)
        for turn in itertools.count(1):
            if made >= clicks * index // len(names):
                break
            row, col = (turn * step % side for step, side in zip((37, 53), SMALL, strict=True))
            with scale.timed("click on a small image"):
                client.click(name, row, col, 12.0)
            made += 1
            if turn % PER_OBJECT == 0:
                client.change(name, "finish", class_id=1, threshold=0.5)
        if index in marks:
            scale.memory.append((index, made, resident_memory()))


def markdown(scale: Scale) -> str:
    """Format the figures as Markdown tables: medians of seconds, then the memory."""
    lines = ["| | wall seconds | processor seconds |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {median(times.wall):.3f} | {median(times.processor):.3f} |"
        for name, times in scale.times.items()
    ]
    lines += ["", "| images opened | clicks | resident memory, MiB |", "|---:|---:|---:|"]
    lines += [f"| {images} | {clicks} | {size / 2**20:.0f} |" for images, clicks, size in scale.memory]
    return "\n".join(lines) + "\n"


def main(args: Sequence[str]) -> int:
    """Run the measurement and print the tables.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotator_scale", description=__doc__)
    for name, value, what in (
        ("images", 5000, "number of small images"),
        ("objects", 500, "number of objects on one of the two large images"),
        ("height", 3000, "height of the large images in pixels"),
        ("width", 4000, "width of the large images in pixels"),
        ("opened", 300, "number of small images to open while memory is measured"),
        ("clicks", 2000, "total number of clicks on these images"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{what} (%(default)s)")
    given = vars(parser.parse_args(args))
    size = given.pop("height"), given.pop("width")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), size=size, **given)
    machine = describe_environment(threads=None, workers=1, ranks=1)
    where = machine["machine"]
    sys.stdout.write(
        f"{where['processor']}, {where['cores']} cores, {machine['threads']} threads\n\n{markdown(found)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
