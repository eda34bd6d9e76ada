"""Refiners: a few steps of L-BFGS per click, until the clicked pixels have the right label.

A refiner changes one tensor inside a network with fixed weights. It starts from zero at each click, so that
results depend only on image and clicks; the authors of BRS and f-BRS start from the previous click.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dct_seg.clicks import ClickBatch
from dct_seg.methods.energies import any_wrong, click_energy, fbrs_energy, fbrs_solved
from dct_seg.models.decoder import Adjust, keep
from dct_seg.models.network import Encoded, InteractiveNetwork
from dct_seg.registry import check_options, unknown_name

Forward = Callable[[Tensor], Tensor]
"""Function of the changed variable that returns logits (1, 1, H, W)."""


class Encode(Protocol):
    """``InteractiveNetwork.encode`` for one image, with its previous mask and cached inputs filled in.

    Examples:
        >>> net = InteractiveNetwork.from_pretrained("dct-lite0")
        >>> def encode(clicks, adjust=keep):
        ...     return net.encode(torch.zeros(1, 3, 32, 32), clicks, adjust=adjust)
        >>> encode(ClickBatch.empty(1)).size
        (32, 32)
    """

    def __call__(self, clicks: ClickBatch, adjust: Adjust = keep) -> Encoded:
        """Compute everything before the decoder; arguments as for ``InteractiveNetwork.encode``."""


class Refiner(Protocol):
    """Replacement of a network's forward pass for one image.

    Examples:
        >>> refiner: Refiner = BRS()
    """

    def __call__(self, net: InteractiveNetwork, clicks: ClickBatch, encode: Encode) -> Tensor:
        """Compute the logits, (1, 1, H, W).

        Args:
            net: Network in evaluation mode, with fixed weights.
            clicks: (1, N) clicks in pixels.
            encode: Function that encodes the image.
        """


class Evaluation(NamedTuple):
    """Evaluation of an energy.

    Args:
        energy: Scalar value with a graph.
        logits: Logits of the value, (1, 1, H, W).
        solved: Whether every click has the right label; these logits are then the result, unless their energy
            is above that of the first evaluation.
        settled: Whether the optimization has converged; the result is then the evaluation of least energy.

    Examples:
        >>> Evaluation(torch.tensor(0.5), torch.zeros(1, 1, 2, 2), solved=True).settled
        False
    """

    energy: Tensor
    logits: Tensor
    solved: bool
    settled: bool = False


class _Stop(Exception):  # noqa: N818
    """Signal to stop an optimization from inside its objective."""


def minimise(
    start: Tensor,
    evaluate: Callable[[Tensor], Evaluation],
    *,
    max_evals: int = 20,
    bound: float | None = None,
) -> Tensor:
    """Minimize an energy with L-BFGS; return the logits of least energy.

    The optimization stops at the first solved evaluation whose energy is not above that of the first
    evaluation.

    Args:
        start: Initial value of the variable, any shape.
        evaluate: Function that returns the energy of the variable, with a graph.
        max_evals: Maximum number of evaluations.
        bound: Maximum absolute value of each element of the variable.

    Examples:
        >>> def square(x):
        ...     return Evaluation((x - 3).square().sum(), x.reshape(1, 1, 1, 1), solved=False)
        >>> round(float(minimise(torch.zeros(1), square)), 3)
        3.0
    """
    best: Evaluation | None = None
    first = math.inf
    count = 0

    def objective(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, Any]:
        nonlocal best, first, count
        x = torch.from_numpy(values).to(start).reshape(start.shape).requires_grad_()
        found = evaluate(x)
        energy = float(found.energy.detach())
        if count == 0:
            first = energy
        count += 1
        here = Evaluation(found.energy.detach(), found.logits.detach(), found.solved)
        ends = found.solved and energy <= first
        if best is None or ends or energy < float(best.energy):
            best = here
        if ends or found.settled or count >= max_evals:
            raise _Stop
        (gradient,) = torch.autograd.grad(found.energy, x)
        return energy, gradient.flatten().cpu().double().numpy()

    values = start.detach().flatten().cpu().double().numpy()
    bounds = None if bound is None else [(-bound, bound)] * len(values)
    with suppress(_Stop):
        minimize(objective, values, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxcor": 20})
    assert best is not None
    return best.logits


@dataclass(frozen=True)
class BRS:
    """Change the click maps until every click has the right label.

    Args:
        weight: Weight of the squared norm of the change.
        max_evals: Maximum number of forward and backward passes.

    Source: Jang and Kim, "Interactive Image Segmentation via Backpropagating Refinement Scheme" (CVPR 2019).
    The paper refines tiles of the image for up to 100 iterations; here, views replace tiles.

    Examples:
        >>> BRS(max_evals=5)
        BRS(weight=0.001, max_evals=5)
    """

    weight: float = 1e-3
    max_evals: int = 20

    def __call__(self, net: InteractiveNetwork, clicks: ClickBatch, encode: Encode) -> Tensor:
        """Compute the logits, (1, 1, H, W); arguments as for `Refiner`."""
        shape: list[torch.Size] = []

        def remember(point: str, value: Any) -> Any:
            if point == "maps":
                shape.append(value.shape)
            return value

        with torch.no_grad():
            encoded = encode(clicks, remember)
            logits = net.decode(encoded).logits
        if not any_wrong(logits, clicks):
            return logits
        filled = encoded.clicks  # the radii do not depend on the maps

        def forward(change: Tensor) -> Tensor:
            return net.decode(encode(filled, _added("maps", change))).logits

        return _corrected(forward, logits.new_zeros(shape[0]), filled, self.weight, self.max_evals)


@dataclass(frozen=True)
class FBRS:
    """Change a scale and a bias per channel of one layer; each evaluation recomputes the whole decoder.

    Args:
        point: Name of the layer, one of the network's ``points``.
        weight: Weight of the scales' squared norm; the weight of the biases is ten times this.
        max_evals: Maximum number of decoder evaluations.
        min_change: Minimum change of the mask, as one minus IoU, between two evaluations to continue.
        clicks_limit: Maximum number of (earliest) clicks given to the network; the energy uses all.
            0 means no limit.

    Source: Sofiiuk, Petrov, Barinova and Konushin, "f-BRS: Rethinking Backpropagating Refinement for
    Interactive Segmentation" (CVPR 2020); energy, weights and stopping follow their code, whose limit is 8
    clicks. Their code recomputes only the layers after the changed one, which is faster.

    Examples:
        >>> FBRS("pool").clicks_limit
        0
    """

    point: str
    weight: float = 1e-3
    max_evals: int = 20
    min_change: float = 0.01
    clicks_limit: int = 0

    def __call__(self, net: InteractiveNetwork, clicks: ClickBatch, encode: Encode) -> Tensor:
        """Compute the logits, (1, 1, H, W); arguments as for `Refiner`."""
        shown = clicks if not self.clicks_limit else _earliest(clicks, self.clicks_limit)
        with torch.no_grad():
            encoded = encode(shown)
            value, logits = _value_at(net, encoded, self.point)
        if int(clicks.num_clicks[0]) < 2:
            return logits
        assert isinstance(value, Tensor)
        last: list[Tensor] = []

        def evaluate(x: Tensor) -> Evaluation:
            scale, bias = x[0][None, :, None, None], x[1][None, :, None, None]

            def adjust(point: str, tensor: Any) -> Any:
                return tensor * (1 + scale) + bias if point == self.point else tensor

            found = net.decode(encoded, adjust).logits
            energy = fbrs_energy(found, clicks, x, self.weight)
            pred = found.detach() > 0
            settled = bool(last) and _iou(pred, last[-1]) > 1 - self.min_change
            last.append(pred)
            return Evaluation(energy, found, fbrs_solved(found.detach(), clicks), settled)

        return minimise(value.new_zeros(2, value.shape[1]), evaluate, max_evals=self.max_evals)


@dataclass(frozen=True)
class Statistics:
    """Change the statistics that Feature-DCT predicts if a click has the wrong label. Not from a paper.

    Args:
        weight: Weight of the squared norm of the change.
        max_evals: Maximum number of decoder evaluations.

    Examples:
        >>> Statistics()
        Statistics(weight=0.01, max_evals=20)
    """

    weight: float = 1e-2
    max_evals: int = 20

    def __call__(self, net: InteractiveNetwork, clicks: ClickBatch, encode: Encode) -> Tensor:
        """Compute the logits, (1, 1, H, W); arguments as for `Refiner`."""
        with torch.no_grad():
            encoded = encode(clicks)
            value, logits = _value_at(net, encoded, "statistics")
        if not any_wrong(logits, clicks):
            return logits
        sizes = [part.shape[1] for pair in value for part in pair]

        def forward(change: Tensor) -> Tensor:
            parts = iter(torch.split(change, sizes))

            def adjust(point: str, tensor: Any) -> Any:
                if point != "statistics":
                    return tensor
                return [(mean + next(parts), std + next(parts)) for mean, std in tensor]

            return net.decode(encoded, adjust).logits

        return _corrected(forward, logits.new_zeros(sum(sizes)), clicks, self.weight, self.max_evals)


@dataclass(frozen=True)
class Radii:
    """Change each radius r to r exp(d), |d| at most ln 2, if a click has the wrong label. Not from a paper.

    Args:
        weight: Weight of the squared norm of the change.
        max_evals: Maximum number of forward and backward passes.
        bound: Maximum |d|.

    Examples:
        >>> Radii(bound=0.5).bound
        0.5
    """

    weight: float = 1e-2
    max_evals: int = 20
    bound: float = math.log(2)

    def __call__(self, net: InteractiveNetwork, clicks: ClickBatch, encode: Encode) -> Tensor:
        """Compute the logits, (1, 1, H, W); arguments as for `Refiner`."""
        if not net.click_encoder.needs_radius:
            raise ValueError(
                f"refine 'radii' changes drags, but click encoder {type(net.click_encoder).__name__} reads "
                "no radius; use weights with an encoder that does, such as SpatialDCT"
            )
        with torch.no_grad():
            encoded = encode(clicks)
            logits = net.decode(encoded).logits
        if not any_wrong(logits, clicks):
            return logits
        filled = encoded.clicks

        def forward(change: Tensor) -> Tensor:
            longer = filled.with_radii(filled.radii * change.exp())
            return net.decode(encode(longer)).logits

        start = torch.zeros_like(filled.radii)
        return _corrected(forward, start, filled, self.weight, self.max_evals, bound=self.bound)


REFINERS: Mapping[str, Callable[..., Refiner]] = {
    "brs": BRS,
    "fbrs_a": lambda **options: FBRS("top", **options),
    "fbrs_b": lambda **options: FBRS("pool", **options),
    "fbrs_c": lambda **options: FBRS("last", **options),
    "statistics": Statistics,
    "radii": Radii,
}
"""Refiners by name; ``none`` is another valid name."""


def make_refiner(name: str, options: Mapping[str, float]) -> Refiner | None:
    """Make a refiner by name; None for ``none``.

    Raises:
        ValueError: When the name or an option is unknown.

    Examples:
        >>> make_refiner("brs", {"max_evals": 5})
        BRS(weight=0.001, max_evals=5)
    """
    if name not in ("none", *REFINERS):
        raise unknown_name("refiner", name, ["none", *REFINERS])
    make = REFINERS.get(name)
    known = [f.name for f in fields(make()) if f.name != "point"] if make else []  # type: ignore[arg-type]
    check_options("refiner", name, options, known)
    return make(**options) if make else None


def refined(
    refiner: Refiner,
    net: InteractiveNetwork,
    image: Tensor,
    clicks: ClickBatch,
    previous: Tensor | None = None,
    features: list[Tensor] | None = None,
    prepared: Any = None,
) -> Tensor:
    """Run a refiner: logits (1, 1, H, W) without a graph; the network's weights do not change.

    Args:
        refiner: Result of ``make_refiner``.
        net: Network in evaluation mode.
        image: (1, 3, H, W) RGB in 0..1.
        clicks: (1, N) clicks in pixels.
        previous: (1, 1, H, W) probabilities before the last click, or None.
        features: Result of ``encode_image``, or None.
        prepared: Result of ``prepare``, or None.

    Examples:
        >>> from dct_seg import Click
        >>> net, image = InteractiveNetwork.from_pretrained("dct-lite0"), torch.zeros(1, 3, 64, 64)
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30, radius=9.0)]])
        >>> refined(Radii(max_evals=2), net, image, clicks).shape
        torch.Size([1, 1, 64, 64])
    """
    with _fixed_weights(net), torch.inference_mode(False), torch.enable_grad():
        inputs = (image, clicks, previous, features, prepared)
        image, clicks, previous, features, prepared = pytree.tree_map_only(Tensor, _outside_inference, inputs)

        def encode(clicks: ClickBatch, adjust: Adjust = keep) -> Encoded:
            return net.encode(image, clicks, previous, features, prepared=prepared, adjust=adjust)

        return refiner(net, clicks, encode).detach()


def _outside_inference(tensor: Tensor) -> Tensor:
    """Copy a tensor made under ``inference_mode``, which no graph can save; return any other unchanged."""
    return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def _fixed_weights(net: nn.Module) -> Iterator[None]:
    """Turn off the weights' gradients, which halves the cost of the variable's gradient."""
    learning = [p for p in net.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _corrected(
    forward: Forward,
    start: Tensor,
    clicks: ClickBatch,
    weight: float,
    max_evals: int,
    *,
    bound: float | None = None,
) -> Tensor:
    """Minimize ``click_energy`` plus ``weight`` times the squared norm of the change; return the logits."""

    def evaluate(change: Tensor) -> Evaluation:
        logits = forward(change)
        energy = click_energy(logits, clicks) + weight * change.square().sum()
        return Evaluation(energy, logits, not any_wrong(logits.detach(), clicks))

    return minimise(start, evaluate, max_evals=max_evals, bound=bound)


def _added(name: str, change: Tensor) -> Adjust:
    """Make a hook that adds ``change`` at the point ``name``."""
    return lambda point, tensor: tensor + change if point == name else tensor


def _value_at(net: InteractiveNetwork, encoded: Encoded, name: str) -> tuple[Any, Tensor]:
    """Get the value at a point of the network, and the logits.

    Raises:
        ValueError: When the network has no such point.
    """
    found: list[Any] = []

    def look(point: str, value: Any) -> Any:
        if point == name:
            found.append(value)
        return value

    logits = net.decode(encoded, look).logits
    if not found:
        raise ValueError(
            f"the refiner changes '{name}', but this {type(net).__name__} has no such tensor (it has "
            f"{', '.join(net.points)}); use another refine, or weights of another network"
        )
    return found[0], logits


def _earliest(clicks: ClickBatch, num: int) -> ClickBatch:
    return ClickBatch(clicks.coords[:, :num], clicks.labels[:, :num], clicks.radii[:, :num])


def _iou(one: Tensor, other: Tensor) -> float:
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0
