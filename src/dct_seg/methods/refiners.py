"""Refiners: a few steps of L-BFGS around one click, so that the clicked pixels come out right.

A refiner changes one tensor inside a network whose weights stay fixed. It starts from zero at each click, so
that an answer depends only on image and clicks; the authors of BRS and f-BRS start from the previous click.
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

from dct_seg.clicks import ClickBatch
from dct_seg.models.decoder import Adjust
from dct_seg.models.feature_dct import sample_at
from dct_seg.models.network import Encoded, InteractiveNetwork
from dct_seg.registry import unknown_name

Forward = Callable[[Tensor], Tensor]
"""The changed variable in, logits (1, 1, H, W) out."""


class Refiner(Protocol):
    """Replacement of a network's forward, for one image."""

    def __call__(
        self,
        net: InteractiveNetwork,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None,
        features: list[Tensor] | None,
        prepared: Any,
    ) -> Tensor:
        """Logits (1, 1, H, W); arguments as for ``InteractiveNetwork.forward``."""


class Evaluation(NamedTuple):
    """One evaluation of an energy.

    Args:
        energy: Value, a scalar with a graph.
        logits: (1, 1, H, W) that the value was computed from.
        solved: Whether every click is right; these logits are then the answer, unless their energy is above
            the first one's.
        settled: Whether it has converged; the evaluation of least energy is then the answer.
    """

    energy: Tensor
    logits: Tensor
    solved: bool
    settled: bool = False


class _Stop(Exception):  # noqa: N818
    """Ends an optimization from inside its objective."""


def minimise(
    start: Tensor,
    evaluate: Callable[[Tensor], Evaluation],
    *,
    max_evals: int = 20,
    bound: float | None = None,
) -> Tensor:
    """The logits of the evaluation of least energy that L-BFGS finds.

    It ends at the first evaluation that is solved at no more than the first one's energy.

    Args:
        start: The variable's first value, any shape.
        evaluate: The energy of a value of the variable, with a graph.
        max_evals: Maximum evaluations.
        bound: Largest absolute value of each number of the variable.
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
        return energy, gradient.double().flatten().cpu().numpy()

    values = start.detach().double().flatten().cpu().numpy()
    bounds = None if bound is None else [(-bound, bound)] * len(values)
    with suppress(_Stop):
        minimize(objective, values, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxcor": 20})
    assert best is not None
    return best.logits


def click_energy(logits: Tensor, clicks: ClickBatch) -> Tensor:
    """Sum over the clicks of (p_u - y_u)^2, p_u the bilinear probability at the click.

    Args:
        logits: (1, 1, H, W).
        clicks: (1, N) clicks in pixels.

    Source: Jang and Kim 2019, the corrective energy.
    """
    return ((_probs_at(logits, clicks) - clicks.labels.float()).square() * clicks.valid).sum()


def any_wrong(logits: Tensor, clicks: ClickBatch) -> bool:
    """True when a positive click lies on a probability of 0.5 or less, or a negative one above 0.5."""
    return bool((((_probs_at(logits, clicks) > 0.5) != (clicks.labels == 1)) & clicks.valid).any())


def square_errors(logits: Tensor, clicks: ClickBatch, label: int) -> Tensor:
    """The errors |p - y| on 3 x 3 squares around the clicks of one sign, each pixel once, cut at the border.

    Args:
        logits: (1, 1, H, W).
        clicks: (1, N) clicks in pixels.
        label: 1 or 0.

    Returns:
        (P,) one number per pixel; none without such clicks.
    """
    height, width = logits.shape[2:]
    inside = torch.zeros(height, width, dtype=torch.bool, device=logits.device)
    for row, col in (clicks.coords[0][clicks.labels[0] == label] + 0.5).floor().long().tolist():
        row, col = min(max(row, 0), height - 1), min(max(col, 0), width - 1)
        inside[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] = True
    return (torch.sigmoid(logits[0, 0][inside]) - label).abs()


@dataclass(frozen=True)
class BRS:
    """Change the click maps until every click comes out right.

    Args:
        weight: Weight of the change's squared norm.
        max_evals: Maximum forward and backward passes.

    Source: Jang and Kim, "Interactive Image Segmentation via Backpropagating Refinement Scheme" (CVPR 2019).
    They change the image's tiles and go up to 100 iterations; here views replace tiles.
    """

    weight: float = 1e-3
    max_evals: int = 20

    def __call__(
        self,
        net: InteractiveNetwork,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None,
        features: list[Tensor] | None,
        prepared: Any,
    ) -> Tensor:
        """Logits (1, 1, H, W); arguments as for ``InteractiveNetwork.forward``."""
        shape: list[torch.Size] = []

        def remember(point: str, value: Any) -> Any:
            if point == "maps":
                shape.append(value.shape)
            return value

        with torch.no_grad():
            encoded = net.encode(image, clicks, previous, features, prepared=prepared, adjust=remember)
            logits = net.decode(encoded).logits
        if not any_wrong(logits, clicks):
            return logits
        filled = encoded.clicks  # the radii do not depend on the maps

        def forward(change: Tensor) -> Tensor:
            shifted = net.encode(
                image, filled, previous, features, prepared=prepared, adjust=_added("maps", change)
            )
            return net.decode(shifted).logits

        return _corrected(forward, image.new_zeros(shape[0]), filled, self.weight, self.max_evals)


@dataclass(frozen=True)
class FBRS:
    """Change a scale and a bias per channel of one layer; only what follows it is computed again.

    Args:
        point: The layer, by its name in ``points`` of the network.
        weight: Weight of the scales' squared norm; that of the biases weighs ten times as much.
        max_evals: Maximum evaluations of the decoder.
        min_change: Ends when the mask changes by less than this share of its IoU between two evaluations.
        clicks_limit: Maximum number of clicks, the earliest ones, that enter the network; all enter the
            energy. 0 is no limit.

    Source: Sofiiuk, Petrov, Barinova and Konushin, "f-BRS: Rethinking Backpropagating Refinement for
    Interactive Segmentation" (CVPR
    2020); energy, weights and ends after their code, whose limit is 8 clicks.
    """

    point: str
    weight: float = 1e-3
    max_evals: int = 20
    min_change: float = 0.01
    clicks_limit: int = 0

    def __call__(
        self,
        net: InteractiveNetwork,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None,
        features: list[Tensor] | None,
        prepared: Any,
    ) -> Tensor:
        """Logits (1, 1, H, W); arguments as for ``InteractiveNetwork.forward``."""
        shown = clicks if not self.clicks_limit else _earliest(clicks, self.clicks_limit)
        with torch.no_grad():
            encoded = net.encode(image, shown, previous, features, prepared=prepared)
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


def fbrs_energy(logits: Tensor, clicks: ClickBatch, x: Tensor, weight: float) -> Tensor:
    """Mean squared error on the positive squares, plus that on the negative ones, plus the change's weight.

    Args:
        logits: (1, 1, H, W).
        clicks: (1, N) clicks in pixels.
        x: (2, C) scales less 1, and biases.
        weight: Weight of the scales' squared norm.
    """
    errors = [square_errors(logits, clicks, label) for label in (1, 0)]
    data = sum((e.square().mean() for e in errors if len(e)), logits.new_zeros(()))
    return data + weight * (x[0].square().sum() + 10 * x[1].square().sum())


def fbrs_solved(logits: Tensor, clicks: ClickBatch) -> bool:
    """True when all errors are below 0.51 on the positive squares and below 0.49 on the negative ones."""
    limits = ((1, 0.51), (0, 0.49))
    return all(bool((square_errors(logits, clicks, label) < limit).all()) for label, limit in limits)


@dataclass(frozen=True)
class Statistics:
    """Change the statistics that Feature-DCT predicts, where a click is wrong. Not in a paper.

    Args:
        weight: Weight of the change's squared norm.
        max_evals: Maximum evaluations of the decoder.
    """

    weight: float = 1e-2
    max_evals: int = 20

    def __call__(
        self,
        net: InteractiveNetwork,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None,
        features: list[Tensor] | None,
        prepared: Any,
    ) -> Tensor:
        """Logits (1, 1, H, W); arguments as for ``InteractiveNetwork.forward``."""
        with torch.no_grad():
            encoded = net.encode(image, clicks, previous, features, prepared=prepared)
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
    """Change the length of each drag, where a click is wrong: r exp(d) with |d| at most ln 2. Not in a paper.

    Args:
        weight: Weight of the change's squared norm.
        max_evals: Maximum forward and backward passes.
        bound: Largest |d|.
    """

    weight: float = 1e-2
    max_evals: int = 20
    bound: float = math.log(2)

    def __call__(
        self,
        net: InteractiveNetwork,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None,
        features: list[Tensor] | None,
        prepared: Any,
    ) -> Tensor:
        """Logits (1, 1, H, W); arguments as for ``InteractiveNetwork.forward``."""
        if not net.click_encoder.needs_radius:
            raise ValueError(
                f"refine 'radii' changes drags, and click encoder {type(net.click_encoder).__name__} reads "
                "none; take weights with an encoder that does, such as SpatialDCT"
            )
        with torch.no_grad():
            encoded = net.encode(image, clicks, previous, features, prepared=prepared)
            logits = net.decode(encoded).logits
        if not any_wrong(logits, clicks):
            return logits
        filled = encoded.clicks

        def forward(change: Tensor) -> Tensor:
            longer = filled.with_radii(filled.radii * change.exp())
            return net.decode(net.encode(image, longer, previous, features, prepared=prepared)).logits

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
"""Beside ``none``."""


def make_refiner(name: str, options: Mapping[str, float]) -> Refiner | None:
    """The refiner under a name, or None for ``none``.

    Raises:
        ValueError: When the name or an option is unknown.
    """
    if name == "none":
        return None
    if name not in REFINERS:
        raise unknown_name("refiner", name, ["none", *REFINERS])
    built = REFINERS[name]()
    known = [f.name for f in fields(built) if f.name != "point"]  # type: ignore[arg-type]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"refiner '{name}' has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return REFINERS[name](**options)


def refined(
    refiner: Refiner,
    net: InteractiveNetwork,
    image: Tensor,
    clicks: ClickBatch,
    previous: Tensor | None = None,
    features: list[Tensor] | None = None,
    prepared: Any = None,
) -> Tensor:
    """Logits (1, 1, H, W), without a graph and with the weights as they were.

    Args:
        refiner: Result of ``make_refiner``.
        net: Network in evaluation mode.
        image: (1, 3, H, W) RGB in 0..1.
        clicks: (1, N) clicks in pixels.
        previous: (1, 1, H, W) probabilities before the last click, or None.
        features: Result of ``encode_image``, not made under ``inference_mode``, or None.
        prepared: Result of ``prepare``, or None.
    """
    with _fixed_weights(net), torch.inference_mode(False), torch.enable_grad():
        return refiner(net, image, clicks, previous, features, prepared).detach()


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
    """The logits of least ``click_energy`` plus ``weight`` times the change's squared norm."""

    def evaluate(change: Tensor) -> Evaluation:
        logits = forward(change)
        energy = click_energy(logits, clicks) + weight * change.square().sum()
        return Evaluation(energy, logits, not any_wrong(logits.detach(), clicks))

    return minimise(start, evaluate, max_evals=max_evals, bound=bound)


def _probs_at(logits: Tensor, clicks: ClickBatch) -> Tensor:
    """(1, N) bilinear probabilities at the clicks."""
    return sample_at(torch.sigmoid(logits), clicks.coords, (logits.shape[2], logits.shape[3]))[..., 0]


def _added(name: str, change: Tensor) -> Adjust:
    """The hook that adds ``change`` at the point ``name``."""
    return lambda point, tensor: tensor + change if point == name else tensor


def _value_at(net: InteractiveNetwork, encoded: Encoded, name: str) -> tuple[Any, Tensor]:
    """The value at a point of the network, and the logits.

    Raises:
        ValueError: When this network has no such point.
    """
    found: list[Any] = []

    def look(point: str, value: Any) -> Any:
        if point == name:
            found.append(value)
        return value

    logits = net.decode(encoded, look).logits
    if not found:
        raise ValueError(
            f"the refiner changes '{name}', and this {type(net).__name__} has no such tensor (it has "
            f"{', '.join(net.points)}); take another refine, or weights of another network"
        )
    return found[0], logits


def _earliest(clicks: ClickBatch, num: int) -> ClickBatch:
    return ClickBatch(clicks.coords[:, :num], clicks.labels[:, :num], clicks.radii[:, :num])


def _iou(one: Tensor, other: Tensor) -> float:
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0
