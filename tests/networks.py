"""Networks so small that a test takes a fraction of a second."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dct_seg import Click, ClickBatch, DCTNetConfig
from dct_seg.models.network import build_network

TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "backbone_weights": "none",
    "decoder_stride": 8,
    "decoder_width": 16,
}


def tiny_net(*, seed: int = 0, **options: Any) -> Any:
    """A small network with weights that depend only on the seed.

    Weights that start at zero are drawn too, so that all have an effect.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_network(DCTNetConfig(**{**TINY, **options}))
        # frozen as a pretrained backbone's, though its weights are random
        net.config = replace(net.config, frozen_batch_norm=options.get("frozen_batch_norm", True))
        with torch.no_grad():
            for parameter in net.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05)
    return net.eval()


def some_clicks(*, radius: float | None = 6.0) -> ClickBatch:
    """Two images of at least 32 x 32: three clicks, and one."""
    return ClickBatch.from_clicks(
        [
            [
                Click(10, 12, radius=radius),
                Click(20, 25, positive=False, radius=radius),
                Click(5, 28, radius=radius),
            ],
            [Click(16, 9, radius=radius)],
        ]
    )


def write_plugin(folder: Path, *, group: str, name: str, code: str) -> None:
    """Write an installed package of one module, as pip would install it.

    The module, and a dist-info folder with one entry point.
    """
    module = f"{name.lower()}_plugin"
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{name}\n")


def fewer_clicks() -> ClickBatch:
    """The same batch without the last click of each image."""
    return ClickBatch.from_clicks([clicks[:-1] for clicks in some_clicks().to_clicks()])
