"""Objects copied from one image of a sequence to the next."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import Page

from dct_seg.app.propagation import carried
from dct_seg.rle import decode, encode


def textured(height: int, width: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).random((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.mark.parametrize("factor", [1, 3])
def test_mask_follows_the_moving_image(factor: int) -> None:
    whole = textured(200, 260)
    before, after = whole[20:180, 20:240], whole[14:174, 28:248]  # six rows down, eight columns to the left
    mask = np.zeros((160 * factor, 220 * factor), bool)
    mask[50 * factor : 90 * factor, 80 * factor : 130 * factor] = True
    moved = np.roll(mask, (6 * factor, -8 * factor), axis=(0, 1))
    (found,) = carried([encode(mask)], before, after)
    got = decode(found)
    assert (got & moved).sum() / (got | moved).sum() > 0.95


def test_mask_that_leaves_the_image_is_cut_or_empty() -> None:
    whole = textured(120, 300)
    before, after = whole[:, :200], whole[:, 12:212]
    mask = np.zeros((120, 200), bool)
    mask[40:80, :10] = True
    (found,) = carried([encode(mask)], before, after)
    assert decode(found).sum() < 60


def test_copied_objects_keep_their_class_and_leave_locked_ones_alone(tmp_path: Path) -> None:
    whole = textured(120, 160)
    for name, start in (("1.png", 0), ("2.png", 5)):
        Image.fromarray(whole[:, start : start + 140]).save(tmp_path / name)
    Image.fromarray(whole).save(tmp_path / "3.png")
    page = Page(tmp_path)
    for col, class_id in ((40, 2), (80, 1)):
        page.click(60, col, radius=15, name="1.png")
        page.finish("1.png", class_id=class_id)
    body = {"source": page.ids["1.png"], "ids": [1, 2]}
    made = page.do("/carry", "2.png", **body)["objects"]
    assert [(one["class_id"], one["num_clicks"]) for one in made] == [(2, 0), (1, 0)]
    assert made[0]["bbox"][1] == pytest.approx(40 - 15 - 5, abs=2)
    refused = page.client.post(page.url("/carry", "2.png"), json={"revision": 1, **body})
    assert "already annotated" in refused.json()["error"] or refused.status_code == 200
    other = page.client.post(page.url("/carry", "3.png"), json={"revision": 0, **body})
    assert (other.status_code, "between images of the same size" in other.json()["error"]) == (400, True)


@pytest.mark.parametrize("size", [(6, 6), (20, 3000), (3000, 3), (8, 640)])
def test_objects_are_copied_between_tiny_and_thin_images(size: tuple[int, int]) -> None:
    image, mask = textured(*size), np.zeros(size, bool)
    mask[size[0] // 2, size[1] // 4 : size[1] // 2 + 1] = True
    (found,) = carried([encode(mask)], image, image)
    assert (decode(found) == mask).all()
