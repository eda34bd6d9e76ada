"""An annotator over a small folder, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from dct_seg.app.project import Project
from dct_seg.app.schemas import ModelCard
from dct_seg.app.server import create_app
from dct_seg.clicks import Click
from dct_seg.methods.base import Method
from dct_seg.rle import decode
from dct_seg.web.request_checks import LOOPBACK

API = "/api/v1"
HEIGHT, WIDTH = 40, 60


class Discs(Method):
    """Positive clicks paint their circle, negative ones clear it.

    A click without a drag gets a radius with many digits.
    """

    name = "discs"
    paper = ""

    def reset(self, image: NDArray[np.uint8]) -> None:
        self.shape = image.shape[:2]

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        guess = 5 + (0.0 if previous is None else float(previous.mean())) / 3
        return [c if c.radius is not None else Click(c.row, c.col, c.positive, guess) for c in clicks]

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        probs = np.zeros(self.shape, np.float32) if previous is None else previous.copy()
        last = clicks[-1]
        rows, cols = np.ogrid[: self.shape[0], : self.shape[1]]
        assert last.radius is not None
        probs[(rows - last.row) ** 2 + (cols - last.col) ** 2 <= last.radius**2] = (
            0.9 if last.positive else 0.0
        )
        return probs


def make_folder(root: Path) -> Path:
    """Two images, a.png and sub/b.png, both 40 rows by 60 columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    (root / "sub").mkdir(parents=True)
    Image.fromarray(pixels).save(root / "a.png")
    Image.fromarray(pixels[:, ::-1]).save(root / "sub" / "b.png")
    return root


class Page:
    """Client with the requests of the page.

    Args:
        root: The folder.
        make_method: A method for each image.
        work: Folder for all output, or None.
        options: Options of ``create_app``.
    """

    def __init__(
        self, root: Path, make_method: Any = Discs, *, work: Path | None = None, **options: Any
    ) -> None:
        self.make_method = make_method
        self.project = Project(root, ["cat", "dog"], work=work)
        self.app = create_app(
            self.project,
            make_method,
            model=ModelCard(name="discs", prompts="drag"),
            **{"hosts": LOOPBACK, **options},
        )
        self.client = TestClient(self.app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
        self.ids = {entry.name: entry.id for entry in self.project.folder.entries()}

    def url(self, rest: str = "", name: str = "a.png") -> str:
        return f"{API}/pictures/{self.ids[name]}{rest}"

    def get(self, name: str = "a.png") -> dict[str, Any]:
        return self.ok(self.client.get(self.url(name=name)))

    def revision(self, name: str = "a.png") -> int:
        return int(self.get(name)["revision"])

    def do(self, rest: str, name: str = "a.png", method: str = "POST", **body: Any) -> dict[str, Any]:
        """Make a change at the image's current revision; it must succeed."""
        return self.ok(
            self.client.request(method, self.url(rest, name), json={"revision": self.revision(name), **body})
        )

    def click(
        self,
        row: float,
        col: float,
        radius: float | None = 6.0,
        name: str = "a.png",
        *,
        positive: bool = True,
    ) -> dict[str, Any]:
        return self.do(
            "/clicks", name, click={"row": row, "col": col, "positive": positive, "radius": radius}
        )

    def finish(self, name: str = "a.png", class_id: int = 1, threshold: float = 0.5) -> dict[str, Any]:
        return self.do("/finish", name, class_id=class_id, threshold=threshold)

    def put(self, content: bytes) -> dict[str, Any]:
        """Import a file."""
        headers = {"Content-Type": "application/octet-stream"}
        return self.ok(self.client.put(f"{API}/import/file", content=content, headers=headers))

    def masks(self, name: str = "a.png") -> list[tuple[str, NDArray[np.bool_]]]:
        """(class, mask) of the objects of an image."""
        names = {one.id: one.name for one in self.project.classes}
        history = self.project.history(self.project.folder.entry(self.ids[name]))
        return [(names[one.class_id], decode(one.rle)) for one in history.state.objects]

    @staticmethod
    def ok(answer: Any) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def restarted(self) -> Page:
        """Another server on the same folder, as after kill -9.

        It shares no memory with this one.
        """
        self.project.close()
        return Page(self.project.folder.root, self.make_method)
