"""The weights in the package: small, complete, with their training sets, and able to segment."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dct_seg import Click, ClickBatch, DCTNet, DCTNetConfig, Predictor
from dct_seg.models import pretrained

LOGITS = Path(__file__).parent / "data" / "shipped_logits.json"

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
    "people",
    "pennfudan",
    "wild_animals_more",
}


@pytest.fixture(params=pretrained.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_default_is_shipped() -> None:
    assert pretrained.DEFAULT in pretrained.names()


def test_their_configuration_matches_the_shipped_network() -> None:
    """Make weights from which training can also start (``--model.start_from``)."""
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
    for line in ("recipe", "commit", "seed", "hours", "license", "terms", "metrics", "limits"):
        assert card[line], f"the card does not say: {line}"


def test_weights_load_bit_identically_and_give_the_stored_results() -> None:
    """New weights: ``python tests/test_shipped_weights.py`` writes the file again."""
    stored = json.loads(LOGITS.read_text())
    found = describe_shipped()
    assert found["state_sha256"] == stored["state_sha256"]
    for case in ("first", "with_previous"):
        np.testing.assert_allclose(found[case], stored[case], atol=2e-3)


def describe_shipped() -> dict[str, Any]:
    """Digest of the default weights' tensors, and their logits at every tenth pixel."""
    net = DCTNet.from_pretrained()
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode() + value.numpy().tobytes())
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 60, 90, generator=generator)
    previous = torch.rand(1, 1, 60, 90, generator=generator)
    clicks = ClickBatch.from_clicks([[Click(20, 30, radius=9.0), Click(40, 70, positive=False)]])
    with torch.inference_mode():
        first, second = (net(image, clicks, before)[0, 0, ::10, ::10] for before in (None, previous))
    return {
        "state_sha256": digest.hexdigest(),
        "first": first.double().numpy().round(5).tolist(),
        "with_previous": second.double().numpy().round(5).tolist(),
    }


def test_a_bright_disk_is_segmented_by_one_drag(name: str) -> None:
    rows, cols = np.mgrid[:200, :260]
    disk = (rows - 90) ** 2 + (cols - 140) ** 2 < 50**2
    noise = np.random.default_rng(0).integers(0, 30, (200, 260, 3))
    image = (np.where(disk[..., None], (200, 120, 60), (40, 90, 130)) + noise).astype(np.uint8)
    predictor = Predictor(DCTNet.from_pretrained(name))
    predictor.set_image(image)
    for radius in (50.0, None):
        mask = predictor.predict([Click(90, 140, radius=radius)]).mask
        assert (mask & disk).sum() / (mask | disk).sum() > 0.8


if __name__ == "__main__":
    LOGITS.write_text(json.dumps(describe_shipped(), indent=1) + "\n")
