"""Live previews: fast enough to follow a drag, close to the final mask, and without effect on it."""

import base64
import io
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from annotator import HEIGHT, WIDTH, Discs, Page, make_folder
from networks import tiny_net
from PIL import Image

from dct_seg.app import segmenter
from dct_seg.app.preview_rate import SHARES, PreviewRate
from dct_seg.app.working_image import WorkingImage
from dct_seg.clicks import Click
from dct_seg.methods.base import Method
from dct_seg.methods.dctnet import DCTNetMethod

CLICK = {"row": 18.0, "col": 25.0, "positive": True, "radius": 9.0}
NET = tiny_net(previous_mask=True)


def network() -> Method:
    """Network that receives images of 40 x 60 at full size."""
    return DCTNetMethod(net=NET, first_size=WIDTH, zoom_in=False, precision="float32")


@pytest.fixture
def slow_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Page on a machine that is never fast enough."""
    monkeypatch.setattr(segmenter, "LIVE_SECONDS", 1e-9)
    return Page(make_folder(tmp_path / "pictures"), network)


def preview(page: Page, revision: int, **body: Any) -> dict[str, Any]:
    return page.ok(
        page.client.post(page.url("/preview"), json={"revision": revision, "click": CLICK, **body})
    )


def values(mask: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png"]))))


def test_preview_of_an_image_that_has_changed_since_is_empty(tmp_path: Path) -> None:
    """A click can overtake the preview of its drag; the browser would report an error status."""
    page = Page(make_folder(tmp_path / "pictures"), network)
    page.click(20, 30, radius=6.0)
    overtaken = page.client.post(page.url("/preview"), json={"revision": 0, "click": CLICK})
    assert (overtaken.status_code, overtaken.content) == (204, b"")
    assert preview(page, 1)["exact"]


def test_share_falls_until_previews_are_fast_enough_and_rises_again() -> None:
    rate = PreviewRate(0.06)
    for _ in range(10):
        rate.record(rate.share, 0.12 * rate.share**2)
    assert rate.share == 0.57  # 0.12 * 0.57**2 = 0.039; the next larger share might be too slow
    for _ in range(10):
        rate.record(rate.share, 0.02 * rate.share**2)
    assert rate.share == 1


def test_share_never_falls_below_a_useful_resolution() -> None:
    rate = PreviewRate(0.06)
    for _ in range(10):
        rate.record(rate.share, 9.0)
    assert rate.share == SHARES[-1]


def test_one_slow_preview_does_not_change_the_share() -> None:
    rate = PreviewRate(0.06)
    for _ in range(5):
        rate.record(rate.share, 0.1 * rate.share**2)
    before = rate.share
    rate.record(before, 5.0)
    assert rate.share == before


@pytest.mark.parametrize("num_before", [0, 1])
def test_live_preview_on_a_slow_machine_is_coarser_and_does_not_change_the_click(
    slow_page: Page, num_before: int
) -> None:
    for _ in range(num_before):
        slow_page.click(20, 30, radius=6.0)
    preview(slow_page, num_before, live=True)
    live = preview(slow_page, num_before, live=True)
    exact = preview(slow_page, num_before)
    assert (live["exact"], exact["exact"]) == (False, True)
    assert max(values(live["mask"]).shape) == WIDTH // 2
    made = slow_page.do("/clicks", click=CLICK)
    assert made["mask"] == exact["mask"]


def test_live_preview_includes_the_region_of_its_mask(slow_page: Page) -> None:
    mask = preview(slow_page, 0, live=True)["mask"]
    assert (mask["row"], mask["col"], mask["height"], mask["width"]) == (0, 0, HEIGHT, WIDTH)


def test_live_preview_on_a_fast_machine_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "LIVE_SECONDS", 1e9)
    page = Page(make_folder(tmp_path / "pictures"), network)
    preview(page, 0, live=True)
    live = preview(page, 0, live=True)
    assert live["exact"]
    row, col, height, width = (preview(page, 0)["mask"][name] for name in ("row", "col", "height", "width"))
    assert np.array_equal(
        values(live["mask"])[row : row + height, col : col + width], values(preview(page, 0)["mask"])
    )


def test_live_preview_omits_the_pixels_of_locked_objects(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(18, 20, radius=6.0)
    page.finish()
    live = values(preview(page, page.revision(), live=True)["mask"]) > 127
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    locked, circle = ((rows - 18) ** 2 + (cols - col) ** 2 <= radius**2 for col, radius in ((20, 6), (25, 9)))
    assert np.array_equal(live, circle & ~locked)


@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_only_a_coarse_preview_uses_fewer_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Saved masks are computed with all threads, so that a click log can be replayed."""
    seen = []

    class Watched(DCTNetMethod):
        def preview(self, *args: Any, share: float) -> Any:
            seen.append((share < 1, torch.get_num_threads()))
            return super().preview(*args, share=share)

        def answer(self, *args: Any) -> Any:
            seen.append((False, torch.get_num_threads()))
            return super().answer(*args)

    monkeypatch.setattr(segmenter, "LIVE_SECONDS", seconds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: threads.__setitem__(0, number))
    threads = [3]
    page = Page(
        make_folder(tmp_path / "pictures"),
        lambda: Watched(net=NET, first_size=WIDTH, zoom_in=False, precision="float32"),
    )
    page.click(20, 30, radius=6.0)
    for _ in range(3):
        preview(page, 1, live=True)
    preview(page, 1)
    page.do("/clicks", click=CLICK)
    assert (True, 2) in seen
    assert {number for coarse, number in seen if coarse} == {2}
    assert {number for coarse, number in seen if not coarse} == {3}


class Noting(Discs):
    """Discs that note the thread of each prediction."""

    threads: ClassVar[set[int]] = set()

    def predict(self, *given: Any) -> Any:
        self.threads.add(threading.get_ident())
        return super().predict(*given)


def test_network_runs_in_one_thread_since_each_one_keeps_memory() -> None:
    image = WorkingImage.of(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    found = segmenter.Segmenter(Noting)
    calls = (found.predict, lambda *given: found.live(*given[:2], (), Click(9, 9, radius=3.0)))
    for number, call in enumerate((*calls, *calls)):
        caller = threading.Thread(target=call, args=(str(number), image, [Click(20, 30, radius=6.0)]))
        caller.start()
        caller.join()
    assert len(Noting.threads) == 1


def test_error_of_a_prediction_reaches_its_caller_and_the_next_prediction_works() -> None:
    image = WorkingImage.of(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    found = segmenter.Segmenter(Discs)
    with pytest.raises(ValueError, match="outside the image"):
        found.predict("a", image, [Click(99, 99, radius=1.0)])
    assert found.predict("a", image, [Click(20, 30, radius=6.0)]).any()
