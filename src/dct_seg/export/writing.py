"""Writer of ONNX and ``torch.export`` graphs, which are checked against the network before they are kept."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dct_seg.clicks import ClickBatch
from dct_seg.export.graphs import ClickDecoder, DragHead, ImageEncoder, exportable
from dct_seg.methods.exported import CARD, ExportCard, ExportedNetwork
from dct_seg.models.network import InteractiveNetwork

Kind = Literal["onnx", "pt2"]

GRAPHS = ("encoder", "decoder", "radii", "network")
"""Names of all graphs; a network has some of them."""

LARGEST_DIFFERENCE = 1e-3
"""Maximum error in probability; an export with a larger one is rejected."""
MOST_CELLS = 256  # ratio of an image's side to the network's multiple
MOST_CLICKS = 4096
EXAMPLE_CELLS = 8  # several attention windows; a single one would be traced as a constant

Graph = tuple[nn.Module, tuple[Any, ...], tuple[Any, ...], list[str], str]
"""Module, example inputs, dynamic shapes, input names and output name of a graph."""


def export(
    net: InteractiveNetwork, folder: str | Path, *, kind: Kind = "onnx", source: str = ""
) -> list[Path]:
    """Write the graphs of a network to a folder, and a card; a folder with a card is complete.

    Args:
        net: Any registered network; it is not modified.
        folder: Output folder, created if missing; an export in it is replaced.
        kind: Format: ``onnx``, or ``pt2`` for ``torch.export.load``.
        source: Name or path of the weights, recorded in the card.

    Returns:
        Paths of the written files.

    Raises:
        ValueError: When the network cannot be traced, or the graphs' outputs differ from its own.
        ImportError: When ``onnx``, ``onnxscript`` or ``onnxruntime`` is missing.
    """
    if kind == "onnx":
        _check_installed()
    if net.click_encoder.needs_image:
        raise ValueError(
            f"click encoder '{net.config.click_encoder}' reads the image and cannot be exported; export a "
            "network with another encoder"
        )
    copied = exportable(net)
    card = ExportCard(
        kind,
        source,
        net.is_late,
        net.backbone.multiple,
        net.auto_drag is not None,
        net.click_encoder.needs_radius,
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        programs = {name: _traced(name, graph, net) for name, graph in _graphs(copied).items()}
        for name, program in programs.items():
            _write(program, Path(temporary) / f"{name}.{kind}", kind, name, net)
        (Path(temporary) / CARD).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")
        difference = _difference(copied, _runner(Path(temporary), programs, kind, copied))
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"the exported graphs of '{net.config.backbone}' are off by {difference:.2g} in probability "
                f"(at most {LARGEST_DIFFERENCE:g}); nothing was written"
            )
        written = sorted(Path(temporary).iterdir(), key=lambda file: file.name == CARD)
        # the card is removed first and written last: a folder with a card is complete
        for old in (CARD, *(f"{name}.{suffix}" for name in GRAPHS for suffix in get_args(Kind))):
            (folder / old).unlink(missing_ok=True)
        for file in written:
            shutil.move(file, folder / file.name)
    return sorted(folder / file.name for file in written)


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"export to ONNX needs {error.name}; pip install 'dct-seg[export]'") from error


def _graphs(net: InteractiveNetwork) -> dict[str, Graph]:
    """List the graphs of a network by file name."""
    m = net.backbone.multiple
    cells_h, cells_w = (torch.export.Dim(name, min=1, max=MOST_CELLS) for name in ("cells_h", "cells_w"))
    clicks = torch.export.Dim("clicks", min=1, max=MOST_CLICKS)
    full = {2: m * cells_h, 3: m * cells_w}
    example = _Example.of(net, (EXAMPLE_CELLS * m, (EXAMPLE_CELLS + 1) * m), 3)
    prompt = (example.coords, example.labels, example.radii, example.previous, example.size)
    prompt_shapes: tuple[Any, ...] = ({1: clicks}, {1: clicks}, {1: clicks}, full, None)
    prompt_names = ["coords", "labels", "radii", "previous", "size"]
    graphs: dict[str, Graph] = {}
    if net.is_late or net.auto_drag is not None:
        encoder = ImageEncoder(net).eval()
        with torch.no_grad():
            features = encoder(example.image)
        shapes = [_scaled((cells_h, cells_w), f.shape[2] // EXAMPLE_CELLS) for f in features]
        names = [f"features_{i}" for i in range(len(features))]
        graphs["encoder"] = (encoder, (example.image,), (full,), ["image"], "features")
        if net.is_late:
            seen = (features, *prompt), (shapes, *prompt_shapes)
            graphs["decoder"] = (ClickDecoder(net).eval(), *seen, [*names, *prompt_names], "logits")
        if net.auto_drag is not None:
            given, given_shapes, given_names = (  # all except the radii
                [*part[:2], *part[3:]] for part in (prompt, prompt_shapes, prompt_names)
            )
            graphs["radii"] = (
                DragHead(net).eval(),
                (features[:-1], *given),
                (shapes[:-1], *given_shapes),
                [*names[:-1], *given_names],
                "radii",
            )
    if not net.is_late:
        whole = ([example.image], *prompt), ([full], *prompt_shapes)
        graphs["network"] = (ClickDecoder(net).eval(), *whole, ["image", *prompt_names], "logits")
    return graphs


def _scaled(cells: tuple[Any, Any], factor: int) -> dict[int, Any]:
    """Make the dynamic shape of features ``factor`` times as large as the coarsest."""
    return {axis: factor * cell if factor > 1 else cell for axis, cell in zip((2, 3), cells, strict=True)}


def _traced(name: str, graph: Graph, net: InteractiveNetwork) -> Any:
    module, inputs, shapes, names, output = graph
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                module,
                inputs,
                dynamic_shapes=shapes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:
        raise _refusal(name, net, error) from error
    return program, names, output


def _write(program: Any, path: Path, kind: Kind, name: str, net: InteractiveNetwork) -> None:
    exported, names, output = program
    if kind == "pt2":
        torch.export.save(exported, path)
        return
    try:
        with torch.no_grad(), _quiet():
            made = torch.onnx.export(exported, dynamo=True, verbose=False)
        assert made is not None
        given = [
            spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind.name == "USER_INPUT"
        ]
        renamed = dict(zip(given, names, strict=True))
        for value in made.model.graph.inputs:
            value.name = renamed[str(value.name)]
        outputs = made.model.graph.outputs
        for place, value in enumerate(outputs):
            value.name = output if len(outputs) == 1 else f"{output}_{place}"
        made.save(path, external_data=False)
    except Exception as error:
        raise _refusal(name, net, error) from error


def _refusal(name: str, net: InteractiveNetwork, error: Exception) -> ValueError:
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the exporter's own message is a page long
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ValueError(
        f"the graph '{name}' of network '{net.config.network}' with backbone '{net.config.backbone}' cannot "
        f"be exported with torch {torch.__version__}: {reason[:200]}"
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the exporters' progress output and warnings; the checks here cover them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class _Example:
    """Inputs of the graphs: an image with clicks.

    Args:
        image: (1, 3, H, W), sides multiples of the network's.
        clicks: (1, N).
        previous: (1, 1, H, W).
        size: (2,) int64, the part of the image that is not padding.
    """

    def __init__(self, image: Tensor, clicks: ClickBatch, previous: Tensor, size: Tensor) -> None:
        self.image, self.previous, self.size = image, previous, size
        self.coords, self.labels, self.radii = clicks.coords, clicks.labels, clicks.radii

    @classmethod
    def of(cls, net: InteractiveNetwork, size: tuple[int, int], num_clicks: int) -> _Example:
        """Make an example of a given size in pixels from fixed random numbers."""
        image, clicks, previous = random_call(size, num_clicks)
        return cls(net.padded(image), clicks, net.padded(previous), torch.tensor(size))


def random_call(
    size: tuple[int, int], num_clicks: int, *, seed: int = 0
) -> tuple[Tensor, ClickBatch, Tensor]:
    """Make a random image (1, 3, H, W), clicks (1, N) with radii, and a previous mask."""
    rng = torch.Generator().manual_seed(seed)
    coords = torch.rand(1, num_clicks, 2, generator=rng) * (torch.tensor(size) - 1)
    labels = (torch.rand(1, num_clicks, generator=rng) < 0.6).long()
    labels[:, 0] = 1
    radii = 1 + torch.rand(1, num_clicks, generator=rng) * min(size) / 3
    rows, cols = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])
    waves = torch.stack([rows * cols, rows.expand(*size), 1 - cols.expand(*size)])
    image = (waves + 0.2 * torch.rand(3, *size, generator=rng)).clamp(0, 1)[None]
    return (
        image,
        ClickBatch(coords, labels, radii),
        (rows * cols)[None, None].expand(1, 1, *size).contiguous(),
    )


Runner = Callable[[Tensor, ClickBatch, Tensor], tuple[Tensor, Tensor | None]]
"""Function from image, clicks and previous mask to logits and the radii of clicks without a drag."""


def _runner(folder: Path, programs: dict[str, Any], kind: Kind, net: InteractiveNetwork) -> Runner:
    """Load the written graphs."""
    if kind == "onnx":
        network = ExportedNetwork(folder, threads=1)

        def run_onnx(image: Tensor, clicks: ClickBatch, previous: Tensor) -> tuple[Tensor, Tensor | None]:
            unknown = clicks.with_radii(torch.full_like(clicks.radii, torch.nan))
            radii = network.fill_radii(image, unknown, previous).radii if network.auto_drag else None
            return network(image, clicks, previous), radii

        return run_onnx
    modules = {name: torch.export.load(folder / f"{name}.pt2").module() for name in programs}

    def run_pt2(image: Tensor, clicks: ClickBatch, previous: Tensor) -> tuple[Tensor, Tensor | None]:
        size = torch.tensor(image.shape[2:])
        shown, before = net.padded(image), net.padded(previous)
        features = modules["encoder"](shown) if "encoder" in modules else []
        prompt = (clicks.coords, clicks.labels, clicks.radii, before, size)
        logits = (
            modules["decoder"](features, *prompt) if net.is_late else modules["network"]([shown], *prompt)
        )
        radii = None
        if "radii" in modules:
            radii = modules["radii"](features[:-1], clicks.coords, clicks.labels, before, size)
        return logits[..., : image.shape[2], : image.shape[3]], radii

    return run_pt2


def _difference(net: InteractiveNetwork, run: Runner) -> float:
    """Measure the largest difference from the network in probability and in the logarithm of a radius."""
    m = net.backbone.multiple
    worst = 0.0
    calls: Sequence[tuple[tuple[int, int], int]] = (((2 * m - 3, 3 * m + 5), 1), ((4 * m, 3 * m - 1), 7))
    for size, num_clicks in calls:
        image, clicks, previous = random_call(size, num_clicks, seed=1)
        with torch.no_grad():
            wanted = net(image, clicks, previous).sigmoid()
            logits, radii = run(image, clicks, previous)
            differences = [(logits.sigmoid() - wanted).abs().max()]
            if radii is not None:
                own = net.log_radii(net.encode_image(image), clicks, previous, size)
                differences.append((radii.log() - own).abs().max())
        worst = max(worst, *(float(d.nan_to_num(nan=torch.inf)) for d in differences))
    return worst
