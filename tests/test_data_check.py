"""`dct-seg data check`: each kind of problem is found, counted and named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dct_seg.data.check import KINDS, check_folder


def write(root: Path, name: str, mask: np.ndarray | None = None, *, shade: int = 0, exif: int = 1) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    image = Image.fromarray(np.full((6, 8, 3), 40 + shade, dtype=np.uint8))
    tags = image.getexif()
    tags[0x0112] = exif
    image.save(root / "images" / f"{name}.png", exif=tags)
    if mask is not None:
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")


def one_object(value: int = 1) -> np.ndarray:
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[1:3, 1:4] = value
    return mask


def test_a_good_folder_is_ok(tmp_path: Path) -> None:
    two = one_object()
    two[4:, 5:] = 2
    write(tmp_path, "a", two)
    write(tmp_path, "b", one_object(255), shade=1)
    report = check_folder(tmp_path)
    assert report.ok
    assert (report.num_images, report.num_masks, report.num_objects) == (2, 2, 3)
    assert report.render().splitlines() == [f"{tmp_path}: 2 images, 2 masks, 3 objects", "nothing wrong"]


@pytest.mark.parametrize("name", ["b.png", "b.tif"])
def test_broken_link_is_a_finding(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a", one_object())
    write(tmp_path, "b", one_object(), shade=1)
    (tmp_path / "images" / "b.png").unlink()
    (tmp_path / "images" / name).symlink_to(tmp_path / "gone")
    (finding,) = check_folder(tmp_path).findings
    assert (finding.kind, finding.detail) == (
        "unreadable",
        f"images/{name} is not a file; is it a broken link?",
    )


def test_each_kind_of_problem_is_found(tmp_path: Path) -> None:
    ramp = np.zeros((6, 8), dtype=np.uint8)
    ramp[2] = (0, 3, 40, 128, 200, 255, 255, 255)
    write(tmp_path, "bad_image", one_object(), shade=1)
    (tmp_path / "images" / "bad_image.png").write_bytes(b"\x89PNG nothing")
    write(tmp_path, "bad_mask", one_object(), shade=2)
    (tmp_path / "masks" / "bad_mask.png").write_bytes(b"")
    write(tmp_path, "turned", one_object(), shade=3, exif=6)
    write(tmp_path, "alone", shade=4)
    write(tmp_path, "orphan", one_object(), shade=5)
    (tmp_path / "images" / "orphan.png").unlink()
    write(tmp_path, "smooth", ramp, shade=6)
    write(tmp_path, "colour", np.arange(144, dtype=np.uint8).reshape(6, 8, 3), shade=7)
    write(tmp_path, "empty", np.zeros((6, 8), dtype=np.uint8), shade=8)
    write(tmp_path, "full", np.ones((6, 8), dtype=np.uint8), shade=9)
    write(tmp_path, "first", one_object(), shade=10)
    write(tmp_path, "second", one_object(), shade=10)
    (tmp_path / "images" / "raw.cr2").write_bytes(b"")
    report = check_folder(tmp_path)
    assert not report.ok
    assert [(finding.kind, finding.path) for finding in report.findings] == [
        ("unreadable", "images/bad_image.png"),
        ("unreadable", "masks/bad_mask.png"),
        ("size_mismatch", "masks/turned.png"),
        ("no_mask", "images/alone.png"),
        ("no_image", "masks/orphan.png"),
        ("not_read", "images/raw.cr2"),
        ("odd_values", "masks/colour.png"),
        ("odd_values", "masks/smooth.png"),
        ("empty", "masks/empty.png"),
        ("full", "masks/full.png"),
        ("duplicate", "images/second.png"),
    ]
    assert set(report.counts) == set(KINDS) - {"nothing"}
    text = report.render()
    assert "images/turned.png is 6x8 but masks/turned.png is 8x6; is one of them rotated by EXIF?" in text
    assert "masks/smooth.png contains 0, 3, 40, 128, 200, 255: label gaps next to 255" in text
    assert "2 x cannot be decoded" in text


def test_the_report_is_plain_json_and_shows_the_first_files(tmp_path: Path) -> None:
    for number in range(7):
        write(tmp_path, f"n{number}", shade=number)
    write(tmp_path, "good", one_object(), shade=20)
    report = check_folder(tmp_path)
    assert report.render(first=2).splitlines()[1:] == [
        "7 x image without a mask",
        "    images/n0.png has no masks/n0.png",
        "    images/n1.png has no masks/n1.png",
        "    ... and 5 more (--json lists all)",
    ]
    content = json.loads(json.dumps(report.to_json()))
    assert content["ok"] is False
    assert content["counts"] == {"no_mask": 7}
    assert len(content["findings"]) == 7


def test_a_folder_of_another_layout_is_reported_with_the_expected_one(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*; the check needs images/NAME\.jpg with masks/NAME\.png"
    ):
        check_folder(tmp_path / "nowhere")
    write(tmp_path / "cats", "a", one_object())
    with pytest.raises(FileNotFoundError, match=r"these folders inside have this layout: cats"):
        check_folder(tmp_path)
