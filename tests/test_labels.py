"""Masks that are not labels: soft masks, trimaps, and the findings of the folder check."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dct_seg.cli import main
from dct_seg.data.check import check_folder
from dct_seg.data.datasets import open_dataset
from dct_seg.data.labels import soft_problem
from dct_seg.data.samples import EvaluationSet


def disk(*, sigma: float) -> NDArray[np.uint8]:
    rows, cols = np.ogrid[:64, :80]
    mask = ((rows - 30) ** 2 + (cols - 40) ** 2 < 400).astype(np.uint8) * 255
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma))


def folder(root: Path, mask: NDArray[np.uint8], name: str = "a") -> Path:
    for kind, image in (("images", np.zeros((*mask.shape, 3), np.uint8)), ("masks", mask)):
        (root / kind).mkdir(exist_ok=True, parents=True)
        Image.fromarray(image).save(root / kind / f"{name}.png")
    return root


def rectangle() -> NDArray[np.uint8]:
    mask = np.zeros((64, 80), np.uint8)
    mask[20:44, 20:60] = 255
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 3))


SOFT = {"anti-aliased": disk(sigma=0.7), "blurred": disk(sigma=4), "straight edges": rectangle()}
SOFT["below 255"] = (disk(sigma=2) * 0.9).astype(np.uint8)


@pytest.mark.parametrize("mask", SOFT.values(), ids=SOFT)
def test_soft_mask_is_refused_instead_of_read_as_dozens_of_objects(
    tmp_path: Path, mask: NDArray[np.uint8]
) -> None:
    folder(tmp_path, mask)
    with pytest.raises(ValueError, match=r"a\.png contains \d+ values .* a soft mask; threshold it at 128"):
        open_dataset("Folder", tmp_path)
    (finding,) = check_folder(tmp_path).findings
    assert (finding.kind, finding.path) == ("odd_values", "masks/a.png")
    assert "was a 0/255 mask smoothed?" in finding.detail


def test_many_true_objects_are_not_mistaken_for_a_soft_mask() -> None:
    cells = np.random.default_rng(0).permutation(254)[:240].reshape(12, 20).astype(np.uint8) + 1
    touching = np.kron(cells, np.ones((4, 4), np.uint8))
    assert soft_problem(touching) is None
    dots = np.zeros((60, 100), np.uint8)
    dots[::5, ::5] = cells
    assert soft_problem(dots) is None  # single pixels, but each alone
    assert soft_problem((disk(sigma=0.7) > 128).astype(np.uint8) * 255) is None


def test_labels_with_gaps_beside_255_are_read_with_a_warning(tmp_path: Path) -> None:
    trimap = np.zeros((20, 20), np.uint8)
    trimap[5:15, 5:15], trimap[7:13, 7:13] = 128, 255
    folder(tmp_path, trimap)
    with pytest.warns(
        UserWarning, match=r"1 masks contain label gaps next to 255.*first: masks/a\.png; is it a trimap"
    ):
        assert len(open_dataset("Folder", tmp_path)) == 1
    good = np.zeros((20, 20), np.uint8)
    good[5:15, 5:15], good[7:13, 7:13] = 255, 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset("Folder", folder(tmp_path / "good", good))


def test_label_above_255_does_not_wrap_around(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("x\n")
    for name in ("JPEGImages", "SegmentationObject"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "JPEGImages" / "x.jpg")
    Image.fromarray(np.full((6, 8), 257, np.uint16)).save(tmp_path / "SegmentationObject" / "x.png")
    with pytest.raises(ValueError, match=r"x\.png contains the value 257"):
        open_dataset("VOC", tmp_path)


def test_two_masks_with_one_stem_are_an_error_and_a_finding(tmp_path: Path) -> None:
    mask = np.pad(np.ones((4, 4), np.uint8), 3)
    folder(tmp_path, mask)
    Image.fromarray(mask).save(tmp_path / "masks" / "a.bmp")
    with pytest.raises(ValueError, match="several masks named 'a'"):
        open_dataset("Folder", tmp_path)
    assert [(one.kind, one.path) for one in check_folder(tmp_path).findings] == [
        ("duplicate", "masks/a.bmp"),
        ("duplicate", "masks/a.png"),
    ]


def test_check_reports_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    assert main(["data", "check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "1 x no image has a mask" in printed
    assert "nothing wrong" not in printed


def test_check_names_unread_subfolders_and_file_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.pad(np.ones((4, 4), np.uint8), 3)
    for kind in ("images", "masks"):
        (tmp_path / kind / "site 1").mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / kind / "site 1" / "a.png")
    assert main(["data", "check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "images/site 1/ contains 1 images that are not read; move them up into images/" in printed
    assert "masks/site 1/ contains 1 images" in printed
    with pytest.raises(ValueError, match="images/site 1/ contains 1 images that are not read; move them up"):
        open_dataset("Folder", tmp_path)
    folder(tmp_path, mask, "b")
    (tmp_path / "masks" / "c.jpg").write_bytes(b"")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    found = [(one.kind, one.path) for one in check_folder(tmp_path).findings]
    assert found == [("not_read", "images/site 1"), ("not_read", "masks/c.jpg"), ("not_read", "masks/site 1")]


def test_object_that_shrinks_below_a_pixel_is_not_lost(tmp_path: Path) -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[203, 101:103] = 1
    dataset = open_dataset("Folder", folder(tmp_path, mask))
    item = EvaluationSet([dataset], [(0, 0)], max_side=20)[0]
    assert item["mask"].nonzero().tolist() == [[10, 5]]
    assert not item["ignore"].any()
