"""Augmentation keeps the object, the alignment and the ignore label, and depends only on the seed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations
import albumentations.pytorch
import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from torchvision.transforms import v2

import dct_seg
from dct_seg.data.augment import augment
from dct_seg.data.compositing import paste, union_of
from dct_seg.data.transforms import PADDING_COLOR, ObjectCrop, cut, training_transform


def scene(
    height: int = 90, width: int = 120, box: tuple[int, int, int, int] = (20, 30, 50, 70)
) -> tuple[np.ndarray, np.ndarray]:
    """A gray image with a white object, ignore to the right of it."""
    image = np.full((height, width, 3), 60, dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    top, left, bottom, right = box
    image[top:bottom, left:right] = 255
    mask[top:bottom, left:right] = 1
    mask[top:bottom, right : right + 4] = 255
    return image, mask


def test_the_object_is_always_in_the_crop_and_lies_where_it_is_drawn() -> None:
    image, mask = scene()
    transform = training_transform(
        64, object_scale=(0.2, 0.8), object_scale_prob=0.5, aspect=1.3, color_jitter=False
    )
    for seed in range(60):
        transform.set_random_seed(seed)
        drawn = transform(image=image, mask=mask)
        assert drawn["image"].shape == (64, 64, 3)
        assert drawn["mask"].shape == (64, 64)
        assert set(np.unique(drawn["mask"])) <= {0, 1, 255}
        assert (drawn["mask"] == 1).sum() >= 80
        white = drawn["image"][:, :, 0] > 200
        assert (white != (drawn["mask"] == 1)).mean() < 0.06  # half a pixel along the outline, no more


def test_the_same_seed_gives_the_same_sample_and_another_does_not() -> None:
    image, mask = scene()
    transform = training_transform(48)
    results = []
    for seed in (7, 8, 7):
        transform.set_random_seed(seed)
        results.append(transform(image=image, mask=mask)["image"])
    assert (results[0] == results[2]).all()
    assert (results[0] != results[1]).any()


def test_beyond_the_edge_is_ignored_and_filled() -> None:
    image, mask = scene(20, 30, (5, 5, 15, 15))
    crop = ObjectCrop(64, scale=(1.0, 1.0))
    crop.set_random_seed(0)
    drawn = crop(image=image, mask=mask)
    outside = (drawn["image"] == PADDING_COLOR).all(axis=2)
    assert outside.sum() == 64 * 64 - 20 * 30
    assert (drawn["mask"][outside] == 255).all()
    assert (drawn["mask"] == 1).sum() == 100


def test_cut_equals_a_plain_loop() -> None:
    mask = np.random.default_rng(0).integers(0, 3, (9, 7)).astype(np.uint8)
    top, left, height, width, size = (
        -2,
        1,
        8,
        8,
        16,
    )  # every pixel twice, two rows and two columns beyond the edge
    wanted = np.full((size, size), 255, dtype=np.uint8)
    for row in range(size):
        for col in range(size):
            r, c = top + row * height // size, left + col * width // size
            if 0 <= r < 9 and 0 <= c < 7:
                wanted[row, col] = mask[r, c]
    assert (cut(mask, (top, left, height, width), size, fill=(255,)) == wanted).all()


def test_scale_is_drawn_pixels_per_image_pixel() -> None:
    mask = scene(300, 300)[1]
    sides = [
        ObjectCrop(60, scale=(0.75, 1.25)).draw_window(mask, np.random.default_rng(seed))[2]
        for seed in range(200)
    ]
    assert min(sides) >= 48
    assert max(sides) <= 80
    assert max(sides) - min(sides) > 25


@pytest.mark.parametrize("box", [(140, 140, 160, 160), (20, 30, 220, 260), (0, 0, 12, 12)])
def test_object_scale_sets_the_objects_share_and_keeps_it_visible(box: tuple[int, int, int, int]) -> None:
    mask = scene(300, 300, box)[1]
    side = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
    crop = ObjectCrop(128, object_scale=(0.3, 0.6))
    for seed in range(40):
        top, left, height, width = crop.draw_window(mask, np.random.default_rng(seed))
        share = side / height
        assert 0.29 <= share <= 0.61 or height in (
            32,
            300,
        )  # but never zoomed more than 4 times, nor out beyond the image
        seen = (mask[max(0, top) : top + height, max(0, left) : left + width] == 1).sum()
        assert seen >= 0.7 * (mask == 1).sum()


def test_a_tiny_object_far_from_everything_is_still_found() -> None:
    image, mask = np.zeros((400, 600, 3), dtype=np.uint8), np.zeros((400, 600), dtype=np.uint8)
    mask[397:400, 597:600] = 1
    crop = ObjectCrop(32, scale=(1.0, 1.0))
    for seed in range(20):
        crop.set_random_seed(seed)
        assert (crop(image=image, mask=mask)["mask"] == 1).any()


def test_a_mask_without_an_object_is_accepted() -> None:
    image, mask = np.zeros((40, 60, 3), dtype=np.uint8), np.zeros((40, 60), dtype=np.uint8)
    assert ObjectCrop(32)(image=image, mask=mask)["mask"].shape == (32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (1.0, 0.5)}, r"scale must be \(low, high\) with 0 < low <= high, got \(1.0, 0.5\)"),
        ({"object_scale": (0.0, 0.5)}, r"object_scale must be \(low, high\)"),
        ({"aspect": 0.5}, "aspect must be a factor, at least 1, got 0.5"),
    ],
)
def test_ranges_that_make_no_sense_are_reported(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_transform(64, **options)  # type: ignore[arg-type]


def test_only_transforms_imports_albumentations() -> None:
    importers = set()
    for path in Path(dct_seg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "albumentations" for name in names):
                importers.add(path.name)
    assert importers == {"transforms.py"}


def test_the_transform_is_an_albumentations_compose() -> None:
    assert isinstance(training_transform(32), albumentations.Compose)
    assert len(training_transform(32, flip=False, color_jitter=False)) == 1


def test_pasted_object_matches_its_mask() -> None:
    background = np.full((60, 80, 3), 50, dtype=np.uint8)
    source, codes = scene()
    for seed in range(20):
        image, pasted = paste(background, source, codes == 1, np.random.default_rng(seed))
        assert (background == 50).all()
        assert image.shape == (60, 80, 3)
        assert pasted.any()
        assert ((image[:, :, 0] > 160) != pasted).mean() < 0.05
        rows, cols = np.nonzero(image[:, :, 0] != 50)
        assert (np.ptp(rows) + 1) * (np.ptp(cols) + 1) <= 60 * 80


def test_a_union_contains_its_start_and_the_nearest_objects() -> None:
    labels = np.zeros((20, 60), dtype=np.uint8)
    for label, left in ((1, 0), (2, 6), (3, 40), (4, 52)):
        labels[5:10, left : left + 5] = label
    groups = [union_of(labels, [1, 2, 3, 4], 3, np.random.default_rng(seed)) for seed in range(60)]
    assert {tuple(group) for group in groups} == {(3, 4), (3, 4, 2), (3, 4, 2, 1)}
    assert union_of(labels, [3], 3, np.random.default_rng(0)) == [3]


def test_a_union_of_everything_is_not_made() -> None:
    labels = np.repeat(np.array([[1, 2]], dtype=np.uint8), 5, axis=1).repeat(4, axis=0)
    assert union_of(labels, [1, 2], 2, np.random.default_rng(0)) == [2]


# --- custom transforms -----------------------------------------------------------------------------------

IMAGE = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
MASK = np.zeros((20, 24), np.uint8)
MASK[4:12, 5:15] = 1
MASK[0] = 255


def test_tensors_from_albumentations_are_unchanged() -> None:
    image, mask = augment(albumentations.Compose([albumentations.pytorch.ToTensorV2()]), IMAGE, MASK, 0)
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(mask, MASK)


def test_torchvision_moves_image_and_mask_together_and_by_the_seed_alone() -> None:
    steps = [v2.RandomHorizontalFlip(), v2.RandomCrop(16), v2.ToDtype(torch.float32, scale=True)]
    runs = [augment(v2.Compose(steps), IMAGE, MASK, seed) for seed in (3, 3, 4)]
    (image, mask), again, other = runs
    assert image.shape == (16, 16, 3)
    assert mask.shape == (16, 16)
    assert np.array_equal(image, again[0])
    assert not np.array_equal(image, other[0])
    flip = augment(v2.Compose([v2.RandomHorizontalFlip(p=1.0)]), IMAGE, MASK, 0)
    assert np.array_equal(flip[0], IMAGE[:, ::-1])
    assert np.array_equal(flip[1], MASK[:, ::-1])


def test_a_transform_that_works_in_place_leaves_its_input_unchanged() -> None:
    def darken(*, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        image //= 2
        return {"image": image, "mask": mask}

    for writeable in (True, False):  # an array of Pillow is read-only
        given = IMAGE.copy()
        given.flags.writeable = writeable
        assert np.array_equal(augment(darken, given, MASK, 0)[0], IMAGE // 2)
        assert np.array_equal(given, IMAGE)


def returns(image: Any, mask: Any) -> Callable[..., dict[str, Any]]:
    return lambda **given: {"image": image, "mask": mask}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (albumentations.Compose([albumentations.Normalize()]), "do not normalize it, the network does that"),
        (v1.Compose([v1.ToTensor()]), "changes only the image; use torchvision"),
        (returns(IMAGE.astype(np.float32), MASK), "got values from 0 to 254; divide it by 255"),
        (returns(IMAGE.astype(np.int32), MASK), "an image of int32; expected uint8, or float in 0..1"),
        (returns(IMAGE, MASK * 0.5), r"a mask with \[0\.5, 127\.5\]; expected only 0, 1 and 255"),
        (returns(IMAGE[:10], MASK), r"image \(10, 24, 3\) and mask \(20, 24\)"),
        (lambda **given: (IMAGE, MASK), "must return a dict with image and mask, got tuple"),
        (lambda img, mask: (img, mask), r"cannot be called as transform\(image=, mask=\): missing"),
        (torch.nn.Sequential(v2.RandomHorizontalFlip()), "torchvision.transforms.v2.Compose"),
    ],
)
def test_an_unsuitable_transform_is_reported_in_one_line(transform: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        augment(transform, IMAGE, MASK, 0)
