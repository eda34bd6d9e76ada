"""The weights in the package: small, whole, honest about where they come from, and of use."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml

from dct_seg import Click, DCTNet, DCTNetConfig, Predictor
from dct_seg.models import pretrained

TRAINING_SETS = {
    "ecssd",
    "ccp",
    "feralcat",
    "coco128",
    "coco_mval_train",
    "coco_minis",
    "bsds_regions",
    "wild_animals",
    "food",
    "fire_trucks",
}


@pytest.fixture(params=pretrained.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_default_is_shipped() -> None:
    assert pretrained.DEFAULT in pretrained.names()


def test_their_configuration_is_of_the_very_network_that_ships() -> None:
    """So that the same file can also go on training from them (``--model.start_from``)."""
    model = yaml.safe_load((Path(__file__).parent.parent / "configs" / "shipped.yaml").read_text())["model"]
    shipped = DCTNetConfig.from_dict(pretrained.load(pretrained.DEFAULT).config)
    assert (
        DCTNetConfig.from_dict({**model["network"], "backbone_weights": shipped.backbone_weights}) == shipped
    )


def test_weights_are_at_most_12_megabytes(name: str) -> None:
    assert (files("dct_seg") / "weights" / f"{name}.safetensors").stat().st_size <= 12e6  # type: ignore[attr-defined]


def test_the_card_names_the_training_sets_and_no_benchmark(name: str) -> None:
    card = pretrained.load(name).card
    assert set(card["training_sets"].split(", ")) <= TRAINING_SETS
    for benchmark in ("grabcut", "berkeley", "davis"):
        assert benchmark not in card["training_sets"].lower()
    for line in ("recipe", "commit", "seed", "hours", "licence", "terms", "metrics", "limits"):
        assert card[line], f"the card does not say: {line}"


def test_a_bright_disk_is_found_by_one_drag(name: str) -> None:
    rows, cols = np.mgrid[:200, :260]
    disk = (rows - 90) ** 2 + (cols - 140) ** 2 < 50**2
    noise = np.random.default_rng(0).integers(0, 30, (200, 260, 3))
    image = (np.where(disk[..., None], (200, 120, 60), (40, 90, 130)) + noise).astype(np.uint8)
    predictor = Predictor(DCTNet.from_pretrained(name))
    predictor.set_image(image)
    for radius in (50.0, None):
        mask = predictor.predict([Click(90, 140, radius=radius)]).mask
        assert (mask & disk).sum() / (mask | disk).sum() > 0.8
