"""Refiners and post-processing: energies against loops, purity, results and refused options."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_net
from torch import Tensor

from dct_seg import Click, ClickBatch
from dct_seg.methods.classical.graph_cut import GridGraph
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.methods.postprocessing import (
    ConnectedPartsStep,
    GraphCutStep,
    make_post_step,
)
from dct_seg.methods.refiners import (
    Evaluation,
    any_wrong,
    click_energy,
    fbrs_energy,
    make_refiner,
    minimise,
    refined,
)

PLAIN: dict[str, Any] = {"click_encoder": "Euclidean", "feature_dct": False, "auto_drag": False}
ALL = slice(None), slice(None)
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def wrong_clicks(net: Any, **radius: float) -> ClickBatch:
    """Two clicks that the network gets wrong: on the pixels of its highest and lowest logits."""
    first = ClickBatch.from_clicks([[Click(16, 16, **radius)]])
    logits = net(IMAGE, first)[0, 0]
    lowest = divmod(int(logits.argmin()), 32)
    return ClickBatch.from_clicks([[Click(16, 16, **radius), Click(*lowest, True, **radius)]])


def test_corrective_energy_is_the_sum_of_squared_errors_at_the_clicks() -> None:
    logits = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    clicks = ClickBatch.from_clicks([[Click(0, 1), Click(2, 2, positive=False)]])
    p = torch.sigmoid(logits[0, 0])
    wanted = (float(p[0, 1]) - 1) ** 2 + float(p[2, 2]) ** 2
    assert float(click_energy(logits, clicks)) == pytest.approx(wanted, rel=1e-5)


def test_fbrs_energy_averages_over_squares_that_end_at_the_border() -> None:
    logits = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    clicks = [Click(0, 1), Click(1, 2), Click(4, 5, positive=False)]
    x = torch.tensor([[0.1, -0.2], [0.3, 0.0]])
    data = 0.0
    for positive in (True, False):
        pixels = {
            (row, col)
            for click in clicks
            if click.positive is positive
            for row in range(5)
            for col in range(6)
            if abs(row - click.row) <= 1 and abs(col - click.col) <= 1
        }
        errors = [(torch.sigmoid(logits[0, 0, r, c]) - float(positive)) ** 2 for r, c in pixels]
        data += float(sum(errors)) / len(errors)
    wanted = data + 0.01 * ((0.1**2 + 0.2**2) + 10 * 0.3**2)
    assert float(fbrs_energy(logits, ClickBatch.from_clicks([clicks]), x, 0.01)) == pytest.approx(
        wanted, rel=1e-4
    )


def test_minimize_returns_the_evaluation_of_least_energy_within_its_limit() -> None:
    seen: list[float] = []

    def evaluate(x: Tensor) -> Evaluation:
        energy = ((x - torch.tensor([2.0, -1.0])) ** 2).sum() * torch.tensor(3.0)
        seen.append(float(energy.detach()))
        return Evaluation(energy, energy[None], False)

    assert float(minimise(torch.zeros(2), evaluate, max_evals=3)) == pytest.approx(min(seen))
    assert len(seen) <= 3
    assert float(minimise(torch.zeros(2), evaluate, max_evals=30)) < 1e-6
    bounded = float(minimise(torch.zeros(2), evaluate, max_evals=30, bound=0.5))
    assert bounded == pytest.approx(3 * (1.5**2 + 0.5**2), rel=1e-4)


def test_minimize_ends_when_all_clicks_are_solved() -> None:
    count = itertools.count(1)

    def evaluate(x: Tensor) -> Evaluation:
        number = next(count)
        return Evaluation((x**2).sum(), torch.tensor(float(number)), True)

    assert float(minimise(torch.ones(2), evaluate)) == 1.0
    assert next(count) == 2


REFINED = [
    ("brs", PLAIN),
    ("fbrs_a", {**PLAIN, "decoder_norm": "batch"}),
    ("fbrs_b", {**PLAIN, "decoder_norm": "batch"}),
    ("fbrs_c", {**PLAIN, "decoder_norm": "batch"}),
    ("statistics", {"auto_drag": False}),
    ("radii", {"auto_drag": False}),
]


@pytest.mark.parametrize(("name", "options"), REFINED, ids=[name for name, _ in REFINED])
def test_refiner_is_pure_lowers_the_energy_and_keeps_the_weights(name: str, options: dict[str, Any]) -> None:
    net = tiny_net(**options)
    radius = {"radius": 5.0} if "click_encoder" not in options else {}
    clicks = wrong_clicks(net, **radius)
    plain = net(IMAGE, clicks).detach()
    refiner = make_refiner(name, {"weight": 1e-5, "max_evals": 8})
    assert refiner is not None
    first = refined(refiner, net, IMAGE, clicks)
    assert not first.requires_grad
    assert first.shape == plain.shape
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    refined(refiner, net, IMAGE, ClickBatch.from_clicks([clicks.to_clicks()[0][:1]]))
    assert torch.equal(refined(refiner, net, IMAGE, clicks), first)
    if name.startswith("fbrs"):
        none = torch.zeros(2, 1)
        assert fbrs_energy(first, clicks, none, 0.0) <= fbrs_energy(plain, clicks, none, 0.0) + 1e-6
    else:
        assert click_energy(first, clicks) <= click_energy(plain, clicks) + 1e-6
    if name == "brs" and any_wrong(plain, clicks):
        assert not torch.equal(first, plain)


@pytest.mark.parametrize(("name", "options"), REFINED, ids=[name for name, _ in REFINED])
def test_refiner_accepts_inputs_made_in_inference_mode(name: str, options: dict[str, Any]) -> None:
    net = tiny_net(**options)
    clicks = wrong_clicks(net, **({"radius": 5.0} if "click_encoder" not in options else {}))
    refiner = make_refiner(name, {"max_evals": 3})
    assert refiner is not None
    expected = refined(refiner, net, IMAGE, clicks)
    with torch.inference_mode():
        inputs = IMAGE.clone(), ClickBatch.from_clicks(clicks.to_clicks())
        assert torch.equal(refined(refiner, net, *inputs), expected)


@pytest.mark.parametrize("name", ["fbrs_a", "fbrs_b", "fbrs_c", "statistics"])
def test_after_encoding_the_backbone_is_never_called_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tiny_net(auto_drag=False) if name == "statistics" else tiny_net(**PLAIN)
    clicks = wrong_clicks(net, **({"radius": 5.0} if name == "statistics" else {}))
    calls: list[int] = []
    forward = net.backbone.forward

    def counted(*args: Any) -> Any:
        calls.append(1)
        return forward(*args)

    monkeypatch.setattr(net.backbone, "forward", counted)
    refiner = make_refiner(name, {"max_evals": 4})
    assert refiner is not None
    refined(refiner, net, IMAGE, clicks)
    assert len(calls) == 1


def test_correct_prediction_is_returned_bit_identically() -> None:
    net = tiny_net(**PLAIN)
    logits = net(IMAGE, ClickBatch.from_clicks([[Click(16, 16)]]))[0, 0]
    right = ClickBatch.from_clicks([[Click(16, 16, positive=bool(logits[16, 16] > 0))]])
    plain = net(IMAGE, right).detach()
    for name in ("brs", "fbrs_b"):
        refiner = make_refiner(name, {})
        assert refiner is not None
        if name == "fbrs_b" or not any_wrong(plain, right):
            assert torch.equal(refined(refiner, net, IMAGE, right), plain)


def test_gradient_of_brs_equals_finite_differences() -> None:
    net = tiny_net(**PLAIN).double()
    net.click_encoder.double()
    clicks = ClickBatch.from_clicks([[Click(16, 16)]])
    weight = torch.randn(1, 2, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(0))

    def energy(step: Tensor) -> Tensor:
        adjust = lambda point, value: value.double() + step * weight if point == "maps" else value  # noqa: E731
        encoded = net.encode(IMAGE.double(), clicks, adjust=adjust)
        return click_energy(net.decode(encoded).logits, clicks)

    step = torch.zeros((), dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(energy(step), step)
    h = 2e-3
    with torch.no_grad():
        wanted = (energy(torch.tensor(h)) - energy(torch.tensor(-h))) / (2 * h)
    assert float(slope) == pytest.approx(float(wanted), rel=0.05, abs=1e-4)


def test_refiner_on_a_network_without_its_tensor_lists_the_existing_ones() -> None:
    net = tiny_net(network="fcn", **PLAIN)
    refiner = make_refiner("fbrs_b", {})
    assert refiner is not None
    with pytest.raises(
        ValueError, match=r"changes 'pool', but this FCN has no such tensor .it has maps, top, last"
    ):
        refined(refiner, net, IMAGE, ClickBatch.from_clicks([[Click(1, 1), Click(9, 9)]]))
    drags = make_refiner("radii", {})
    assert drags is not None
    with pytest.raises(ValueError, match="changes drags, but click encoder Euclidean reads no radius"):
        refined(drags, net, IMAGE, ClickBatch.from_clicks([[Click(1, 1)]]))


def test_unknown_refiner_or_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown refiner 'brss'; did you mean 'brs'\?"):
        make_refiner("brss", {})
    with pytest.raises(ValueError, match="refiner 'brs' has no option wait; it has weight, max_evals"):
        make_refiner("brs", {"wait": 1})
    with pytest.raises(
        ValueError, match=r"unknown post-processing 'cut'; .*known: none, mark_clicks, graph_cut, connected"
    ):
        make_post_step("cut", {})
    with pytest.raises(ValueError, match="post-processing 'connected' has no option x; it has none"):
        make_post_step("connected", {"x": 1})
    with pytest.raises(ValueError, match="refiner 'none' has no option weight; it has none"):
        make_refiner("none", {"weight": 1})
    with pytest.raises(ValueError, match="post-processing 'none' has no option share; it has none"):
        make_post_step("none", {"share": 0.5})
    assert make_refiner("none", {}) is None
    assert make_post_step("none", {}) is None


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_refined_method_is_bit_identical_after_undo(fusion: str) -> None:
    net = tiny_net(**PLAIN, previous_mask=True, prompt_fusion=fusion)
    method = DCTNetMethod(net=net, refine="brs", refine_options={"max_evals": 4}, zoom_size=32, first_size=32)
    assert method.options["refine"] == "brs"
    assert method.options["precision"] == "float32"
    method.reset(PIXELS)
    clicks = [Click(10, 12), Click(30, 50, positive=False)]
    first = method.predict(PIXELS, clicks[:1], None)
    second = method.predict(PIXELS, clicks, first)
    assert np.array_equal(method.predict(PIXELS, clicks[:1], None), first)
    assert np.array_equal(method.predict(PIXELS, clicks, first), second)
    with pytest.raises(ValueError, match="refine 'brs' needs float32"):
        DCTNetMethod(net=net, refine="brs", precision="bfloat16")


def cut_energy(
    labels: Sequence[int], q: np.ndarray[Any, Any], graph: GridGraph, size: tuple[int, int]
) -> float:
    total = sum(-math.log(p if label else 1 - p) for label, p in zip(labels, q.ravel(), strict=True))
    edges = zip(graph.tails, graph.heads, graph.weights, strict=True)
    return total + sum(float(w) for i, j, w in edges if labels[i] != labels[j])


def test_cut_has_the_lowest_cost_of_all_labelings_that_keep_the_clicks() -> None:
    pytest.importorskip("ortools")
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    probs = rng.uniform(0.1, 0.9, (3, 3)).astype(np.float32)
    clicks = [Click(0, 0), Click(2, 2, positive=False)]
    graph = GridGraph(image, smoothness=1.0)
    allowed = [one for one in itertools.product((0, 1), repeat=9) if one[0] == 1 and one[8] == 0]
    best = min(allowed, key=lambda labels: cut_energy(labels, probs.astype(np.float64), graph, (3, 3)))
    found = GraphCutStep(smoothness=1.0)(image, probs, clicks, ALL)
    assert (found > 0.5).ravel().tolist() == [bool(one) for one in best]


def test_cut_keeps_a_region_where_no_pixel_prefers_the_other_label() -> None:
    pytest.importorskip("ortools")
    image = np.full((6, 7, 3), 90, np.uint8)
    for positive in (True, False):
        probs = np.full((6, 7), 0.9 if positive else 0.1, np.float32)
        found = GraphCutStep()(image, probs, [Click(3, 3, positive)], ALL)
        assert ((found > 0.5) == positive).all()


def test_cut_marks_nothing_outside_the_predicted_region() -> None:
    pytest.importorskip("ortools")
    image = np.full((8, 8, 3), 90, np.uint8)
    probs = np.zeros((8, 8), np.float32)
    probs[:, :4] = 0.9
    found = GraphCutStep(smoothness=5.0)(image, probs, [Click(4, 1)], (slice(0, 8), slice(0, 4)))
    assert (found[:, :4] > 0.5).all()
    assert (found[:, 4:] < 0.5).all()


def test_cut_follows_the_edges_of_the_image_set_last() -> None:
    pytest.importorskip("ortools")
    method = DCTNetMethod(net=tiny_net(**PLAIN), after="graph_cut")
    assert method.after is not None
    image = np.zeros((1, 6, 3), np.uint8)
    image[:, 3:] = 200
    probs = np.array([[0.9, 0.6, 0.6, 0.45, 0.45, 0.1]], np.float32)
    for edge in (3, 5):
        image[:] = 0  # a caller may reuse its array
        image[:, edge:] = 200
        method.reset(image)
        assert int((method.after(image, probs, [Click(0, 0)], ALL) > 0.5).sum()) == edge


def test_connected_keeps_parts_with_a_positive_click_and_corners_connect() -> None:
    probs = np.zeros((8, 12), np.float32)
    probs[0:2, 0:2] = probs[2:4, 2:4] = 0.9  # they touch at a corner
    probs[5:7, 8:11] = 0.8
    image = np.zeros((8, 12, 3), np.uint8)
    kept = ConnectedPartsStep()(image, probs, [Click(0, 0), Click(6, 9, positive=False)], ALL)
    assert (kept > 0.5).sum() == 8
    assert kept[3, 3] == np.float32(0.9)
    assert np.array_equal(ConnectedPartsStep()(image, probs, [Click(7, 0)], ALL), probs)
