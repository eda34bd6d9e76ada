"""The dataset that ships as code."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dct_seg.data.shapes import Shapes, draw_shape


def tiny(**options: object) -> Shapes:
    return Shapes(**{"num_images": 12, "size": (64, 80), **options})  # type: ignore[arg-type]


def test_an_image_is_a_pure_function_of_its_number() -> None:
    one, other = tiny(), tiny(num_images=5)
    for index in (3, 0, 3):
        assert (one.read(index).image == other.read(index).image).all()
        assert (one.read(index).mask == other.read(index).mask).all()


def test_splits_seeds_and_numbers_share_no_image() -> None:
    sets = [tiny(), tiny(split="val"), tiny(seed=1), tiny(split="val", seed=1)]
    digests = [
        hashlib.sha256(one.read_labeled_image(number).image.tobytes()).digest()
        for one in sets
        for number in range(12)
    ]
    assert len(set(digests)) == len(digests)


def test_objects_are_visible_and_overlap() -> None:
    shapes = tiny()
    samples = list(shapes)
    assert min(int(sample.mask.sum()) for sample in samples) >= 80
    assert len(samples) > shapes.num_images  # several objects an image
    labels = [shapes.read_labeled_image(number).labels.astype(int) for number in range(shapes.num_images)]
    assert any(((one[:, 1:] * one[:, :-1] > 0) & (one[:, 1:] != one[:, :-1])).any() for one in labels)


def test_shapes_differ_in_kind() -> None:
    rng = np.random.default_rng(0)
    fullness = []
    for _ in range(60):
        rows, cols = np.nonzero(draw_shape(rng, (96, 96)))
        fullness.append(len(rows) / (np.ptp(rows) + 1) / (np.ptp(cols) + 1))
    assert min(fullness) < 0.4
    assert max(fullness) > 0.74


def test_images_use_the_range_and_have_noise() -> None:
    image = tiny().read(0).image.astype(int)
    assert image.std() > 15
    assert np.abs(np.diff(image, axis=1)).mean() > 1


@pytest.mark.parametrize("options", [{"num_images": 0}, {"size": (8, 80)}, {"max_shapes": 1}])
def test_options_out_of_range_are_reported(options: dict[str, object]) -> None:
    with pytest.raises(
        ValueError, match=r"Shapes needs num_images >= 1, sides >= 16 pixels and max_shapes >= 2, got"
    ):
        tiny(**options)


def test_folder_is_refused_instead_of_ignored() -> None:
    with pytest.raises(
        ValueError, match="reads no folder, got 'mine'; for your own images, use the dataset Folder"
    ):
        Shapes("mine")
