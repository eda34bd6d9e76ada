"""Exported graphs give the network's results, also at other sizes and click counts than the trace's."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import Exported
from networks import tiny_net
from timm.models.tiny_vit import TinyVitBlock

from dct_seg import Click, ClickBatch, DCTNet, Predictor
from dct_seg.export.graphs import _WindowBlock
from dct_seg.export.writing import Kind, export, random_call
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.exported import ExportedNetwork, load_network, read_card
from dct_seg.models.decoder import PyramidPooling, _averaging

pytest.importorskip("onnxscript")
onnxruntime: Any = pytest.importorskip("onnxruntime")

IMAGE = np.random.default_rng(0).integers(0, 256, (75, 110, 3), dtype=np.uint8)
EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "onnx_alone.py"


@pytest.fixture(scope="module", params=["early", "late"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(request.param, tmp_path_factory)


@pytest.mark.slow
def test_late_network_is_a_pair_and_early_one_is_one(exported: Exported) -> None:
    main = ["decoder.onnx", "encoder.onnx"] if exported.net.is_late else ["encoder.onnx", "network.onnx"]
    files = sorted(file.name for file in exported.folder.iterdir())
    assert files == sorted(["dct_seg.json", *main, "radii.onnx"])
    card = read_card(exported.folder)
    assert (card.kind, card.source, card.is_late, card.multiple) == ("onnx", "tiny", exported.net.is_late, 32)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (61, 47), (200, 130)])
@pytest.mark.parametrize("num_clicks", [1, 5, 20])
def test_graphs_give_the_results_of_the_network(
    exported: Exported, size: tuple[int, int], num_clicks: int
) -> None:
    run = ExportedNetwork(exported.folder)
    image, clicks, previous = random_call(size, num_clicks, seed=3)
    with torch.no_grad():
        wanted = exported.net(image, clicks, previous).sigmoid()
    assert torch.allclose(run(image, clicks, previous).sigmoid(), wanted, atol=1e-3)


@pytest.mark.slow
def test_graphs_accept_padding_and_no_click(exported: Exported) -> None:
    run = ExportedNetwork(exported.folder)
    image, clicks, previous = random_call((40, 50), 3)
    padded = clicks.append(torch.tensor([[9.0, 9.0]]), torch.tensor([-1]), torch.tensor([torch.nan]))
    assert torch.allclose(run(image, padded, previous), run(image, clicks, previous), atol=1e-5)
    with torch.no_grad():
        wanted = exported.net(image, ClickBatch.empty(1), previous)
    assert torch.allclose(run(image, ClickBatch.empty(1), previous), wanted, atol=1e-3)


@pytest.mark.slow
def test_drag_head_is_exported(exported: Exported) -> None:
    run = ExportedNetwork(exported.folder)
    image, clicks, previous = random_call((61, 47), 4)
    lacking = clicks.with_radii(torch.tensor([[torch.nan, 5.0, torch.nan, torch.nan]]))
    with torch.no_grad():
        wanted = exported.net.fill_radii(image, lacking, previous).radii
    assert torch.allclose(run.fill_radii(image, lacking, previous).radii, wanted, rtol=1e-3)


@pytest.mark.slow
def test_click_without_a_radius_makes_the_plain_graph_return_nan(exported: Exported) -> None:
    name = "decoder" if exported.net.is_late else "network"
    session = onnxruntime.InferenceSession(exported.folder / f"{name}.onnx")
    run = ExportedNetwork(exported.folder)
    image, clicks, previous = random_call((64, 64), 2)
    feeds = run._prompt(image, clicks.with_radii(torch.full((1, 2), torch.nan)), previous)
    seen = {f"features_{i}": f.numpy() for i, f in enumerate(run.encode_image(image))}
    feeds |= seen if exported.net.is_late else {"image": image.numpy()}
    assert np.isnan(session.run(None, feeds)[0]).all()


@pytest.mark.slow
def test_predictor_runs_the_export(exported: Exported) -> None:
    options: dict[str, Any] = {"first_size": 64, "zoom_size": 48}
    ours = Predictor.from_pretrained(exported.folder, backend="onnx", **options)
    theirs = Predictor(DCTNetMethod(net=exported.net, precision="float32", **options))
    ours.set_image(IMAGE)
    theirs.set_image(IMAGE)
    clicks = [Click(30, 40, radius=12.0), Click(60, 90, positive=False), Click(20, 20)]
    for num in (1, 2, 3):
        assert np.allclose(ours.predict(clicks[:num]).probs, theirs.predict(clicks[:num]).probs, atol=1e-3)


@pytest.mark.slow
def test_an_export_folder_is_distinguished_from_weights_by_its_card(exported: Exported) -> None:
    assert isinstance(load_network(exported.folder), ExportedNetwork)
    with pytest.raises(
        ValueError, match=r"float32 on the CPU without refinement, got device='cpu', precision='bfloat16'"
    ):
        DCTNetMethod(exported.folder, precision="bfloat16")


@pytest.mark.slow
def test_example_needs_only_onnxruntime(exported: Exported, tmp_path: Path) -> None:
    code = EXAMPLE.read_text()
    assert code.count("\n") <= 40
    tree = list(ast.walk(ast.parse(code)))
    names = {a.name for n in tree if isinstance(n, ast.Import) for a in n.names}
    names |= {str(n.module) for n in tree if isinstance(n, ast.ImportFrom)}
    assert names == {"json", "sys", "pathlib", "numpy", "onnxruntime"}
    np.save(tmp_path / "image.npy", IMAGE)
    arguments = [exported.folder, tmp_path / "image.npy", "30", "40", "12", tmp_path / "mask.npy"]
    command = [sys.executable, EXAMPLE, *arguments]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = Predictor(DCTNetMethod(net=exported.net, precision="float32", zoom_in=False, after="none"))
    theirs.set_image(IMAGE[:64, :96])
    wanted = theirs.predict([Click(30, 40, radius=12.0)]).mask
    assert (np.load(tmp_path / "mask.npy") != wanted).mean() < 0.001


@pytest.mark.slow
def test_torch_export_archive_contains_the_same_graphs(tmp_path: Path) -> None:
    net = tiny_net(backbone="test_resnet", prompt_fusion="late", auto_drag=False)
    files = export(net, tmp_path, kind="pt2")
    assert [file.name for file in files] == ["dct_seg.json", "decoder.pt2", "encoder.pt2"]
    image, clicks, previous = random_call((96, 64), 6)
    encoder, decoder = (torch.export.load(tmp_path / f"{n}.pt2").module() for n in ("encoder", "decoder"))
    with torch.no_grad():
        prompt = (clicks.coords, clicks.labels, clicks.radii, previous, torch.tensor([96, 64]))
        found = decoder(encoder(image), *prompt)
        assert torch.allclose(found, net(image, clicks, previous), atol=1e-3)
    with pytest.raises(ValueError, match="must be an ONNX export, got pt2"):
        ExportedNetwork(tmp_path)


def test_export_with_different_results_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dct_seg.export.writing._graphs", lambda net: {})
    monkeypatch.setattr("dct_seg.export.writing._difference", lambda net, run: float("inf"))
    with pytest.raises(ValueError, match="are off by inf in probability"):
        export(tiny_net(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def fake_export(folder: Path, graphs: list[str], kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dct_seg.export.writing._graphs", lambda net: dict.fromkeys(graphs))
    monkeypatch.setattr("dct_seg.export.writing._traced", lambda name, graph, net: name)
    monkeypatch.setattr(
        "dct_seg.export.writing._write", lambda program, path, kind, name, net: path.write_text(str(graphs))
    )
    monkeypatch.setattr("dct_seg.export.writing._runner", lambda *given: None)
    monkeypatch.setattr("dct_seg.export.writing._difference", lambda net, run: 0.0)
    export(tiny_net(), folder, kind=kind)


def test_export_replaces_all_graphs_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").touch()
    fake_export(tmp_path, ["encoder", "decoder"], "onnx", monkeypatch)
    fake_export(tmp_path, ["network"], "pt2", monkeypatch)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dct_seg.json", "network.pt2", "notes.txt"]


def test_interrupted_replacement_leaves_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_export(tmp_path, ["encoder", "network"], "onnx", monkeypatch)

    def move_one(source: Path, target: Path) -> None:
        if target.name != "encoder.onnx":
            raise OSError("no space left on device")
        source.replace(target)

    monkeypatch.setattr("dct_seg.export.writing.shutil.move", move_one)
    with pytest.raises(OSError, match="no space left"):
        fake_export(tmp_path, ["encoder", "network"], "onnx", monkeypatch)
    with pytest.raises(FileNotFoundError, match="dct-seg export"):
        load_network(tmp_path, "onnx")


def test_network_that_cannot_be_traced_is_reported_in_one_line(tmp_path: Path) -> None:
    class Branching(DCTNet):
        def encode_image(self, image: torch.Tensor) -> list[torch.Tensor]:
            if image.mean() > 0.5:
                image = 1 - image
            return super().encode_image(image)

    net = tiny_net(backbone="test_resnet", prompt_fusion="late")
    net.__class__ = Branching
    with pytest.raises(ValueError, match="the graph 'encoder' of network 'dct_net'") as caught:
        export(net, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "{", "{}", '{"version": 99}'])
def test_folder_without_a_good_card_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "dct_seg.json").write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=r"dct-seg export|newer dct-seg|is broken"):
        load_network(tmp_path, "onnx")


def test_window_attention_of_any_size_is_traced() -> None:
    block = TinyVitBlock(dim=8, num_heads=2, window_size=7).eval()
    cells = torch.export.Dim("cells", min=1, max=64)
    with torch.no_grad():
        given = (torch.rand(1, 16, 18, 8),)
        program = torch.export.export(
            _WindowBlock(block), given, dynamic_shapes=({1: 2 * cells},), strict=False
        ).module()
        for rows in (12, 14, 30):
            x = torch.rand(1, rows, 18, 8)
            assert torch.allclose(program(x), block(x), atol=1e-5)


def test_averages_in_a_graph_are_those_of_adaptive_pooling() -> None:
    x = torch.rand(1, 2, 7, 11)
    for cells in (1, 2, 3, 6):
        wanted = torch.nn.functional.adaptive_avg_pool2d(x, cells)
        assert torch.allclose(_averaging(7, cells) @ x @ _averaging(11, cells).t(), wanted, atol=1e-6)
    assert PyramidPooling(8, 8).cells == [1, 2, 3, 6]


def test_click_batch_is_a_pytree() -> None:
    from torch.utils import _pytree as pytree

    clicks = ClickBatch.from_clicks([[Click(1, 2, radius=3.0)]])
    doubled = pytree.tree_map(lambda t: t * 2, clicks)
    assert doubled.to_clicks() == [[Click(2, 4, radius=6.0)]] or doubled.labels.tolist() == [[2]]
    leaves, spec = pytree.tree_flatten(clicks)
    assert len(leaves) == 3
    assert pytree.tree_unflatten(leaves, spec).to_clicks() == clicks.to_clicks()
