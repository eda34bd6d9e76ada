"""Simulated user: place and sign of the next click, and length of its drag.

Squared distances between pixel centers are compared as integers, so that ties are exact. Results are reported
with the name of the rule and `PROTOCOL_VERSION`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dct_seg.clicks import PADDING, ClickBatch
from dct_seg.registry import check_choice
from dct_seg.simulation.wrong_pixels import Peak, deepest_pixel, largest_region, spread, wrong_pixels

Rule = Literal["max_distance", "largest_region"]
Prompt = Literal["click", "drag"]
Place = Literal["center", "core"]

PROTOCOL_VERSION = 1
"""Version of both rules, increased when a rule chooses a different click than before."""

_THREADED = 2**18
"""Number of pixels from which threads pay off; below, the GIL dominates."""


@dataclass(frozen=True)
class NextClicks:
    """Next click of each image of a batch.

    Args:
        coords: (B, 2) float32, (row, col) in pixels; 0 where done.
        labels: (B,) int64: 1 positive, 0 negative, -1 where done.
        radii: (B,) float32, radius in pixels given to the model: NaN without a drag, 0 where done.
        done: (B,) bool, True where no wrong pixel is left to click.
        true_radii: (B,) float32, distance at the click in pixels, without noise; 0 where done.
    """

    coords: Tensor
    labels: Tensor
    radii: Tensor
    done: Tensor
    true_radii: Tensor

    def to(self, device: torch.device | str) -> NextClicks:
        """Copy the clicks to another device."""
        return NextClicks(
            *(one.to(device) for one in (self.coords, self.labels, self.radii, self.done, self.true_radii))
        )


def first_click(mask: Tensor, ignore: Tensor | None = None) -> NextClicks:
    """Make the first click on each object: the pixel farthest from its boundary or the image border.

    Args:
        mask: (B, H, W) bool, the object.
        ignore: (B, H, W) bool, True for ignored pixels.

    Examples:
        >>> mask = torch.zeros(1, 9, 9, dtype=torch.bool)
        >>> mask[0, 2:7, 2:7] = True
        >>> click = first_click(mask)
        >>> click.coords.tolist(), click.labels.tolist(), click.radii.tolist()
        ([[4.0, 4.0]], [1], [3.0])
    """
    return _simulate(None, mask, ignore, None, "max_distance", None)


def next_click(
    pred: Tensor,
    mask: Tensor,
    ignore: Tensor | None = None,
    clicks: ClickBatch | None = None,
    *,
    rule: Rule = "max_distance",
) -> NextClicks:
    """Make the next click on each image, given the current prediction and the clicks so far.

    ``max_distance`` chooses the wrong pixel farthest from a right one (BRS, f-BRS, RITM and their
    successors); ``largest_region`` the same inside the largest 8-connected wrong region (the
    paper's section 2.3). A tie between signs gives the negative click, a tie between pixels the first one in
    row-major order. Pixels already clicked are never clicked again.

    Args:
        pred: (B, H, W) bool, the predicted object.
        mask: (B, H, W) bool, the object.
        ignore: (B, H, W) bool, True for ignored pixels; their edge is a boundary.
        clicks: Clicks so far, in pixels of ``pred``.
        rule: ``max_distance`` or ``largest_region``.

    Returns:
        Clicks on ``pred``'s device; the radius is the distance at the click.

    Raises:
        ValueError: When shapes disagree or the rule is unknown.
        TypeError: When a map is not bool.

    Examples:
        >>> mask = torch.zeros(1, 9, 9, dtype=torch.bool)
        >>> pred = mask.clone()
        >>> pred[0, 2:7, 2:7] = True
        >>> click = next_click(pred, mask)
        >>> click.coords.tolist(), click.labels.tolist(), click.radii.tolist()
        ([[4.0, 4.0]], [0], [3.0])
        >>> next_click(mask, mask).done.tolist()
        [True]
    """
    return _simulate(pred, mask, ignore, clicks, rule, None)


class SimulatedUser:
    """Simulated user that compares the prediction with the ground truth and makes the next click.

    Args:
        mask: (B, H, W) bool, the object.
        ignore: (B, H, W) bool, True for ignored pixels.
        rule: Rule for clicks after the first; see `next_click`.
        prompt: ``drag`` gives the radius to the model, ``click`` does not; or a (B,) bool tensor, True for
            ``drag``.
        threshold: Probability above which a pixel counts as object.
        place: ``center`` is the pixel of the rule; ``core`` is a random pixel of the same region that is at
            least half as deep.
        radius_noise: Relative noise F; a given radius is multiplied by a uniform number in 1 - F .. 1 + F.
        click_jitter: Maximum distance in pixels to which a click moves, to a random wrong pixel of its
            region.
        generator: Random generator; None uses torch's default generator.

    Raises:
        ValueError: When an option is out of range, or shapes disagree.

    Examples:
        >>> mask = torch.zeros(1, 9, 9, dtype=torch.bool)
        >>> mask[0, 2:7, 2:7] = True
        >>> user = SimulatedUser(mask, prompt="click")
        >>> click = user(None, ClickBatch.empty(1))
        >>> click.coords.tolist(), click.radii.tolist(), click.true_radii.tolist()
        ([[4.0, 4.0]], [nan], [3.0])
    """

    def __init__(
        self,
        mask: Tensor,
        ignore: Tensor | None = None,
        *,
        rule: Rule = "max_distance",
        prompt: Prompt | Tensor = "drag",
        threshold: float = 0.5,
        place: Place = "center",
        radius_noise: float = 0.0,
        click_jitter: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_maps(mask=mask, ignore=ignore)
        check_choice("rule", rule, get_args(Rule))
        check_choice("place", place, get_args(Place))
        if not 0 <= radius_noise < 1:
            raise ValueError(f"radius_noise must be a fraction, 0 or more and below 1, got {radius_noise}")
        if not click_jitter >= 0:
            raise ValueError(f"click_jitter must be a distance in pixels, 0 or more, got {click_jitter}")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold}")
        if isinstance(prompt, Tensor):
            if prompt.shape != mask.shape[:1] or prompt.dtype != torch.bool:
                raise ValueError(
                    f"prompt as a tensor must be bool of shape ({len(mask)},), got {prompt.dtype} "
                    f"{tuple(prompt.shape)}"
                )
            self.tells_radius = prompt.cpu()
        else:
            check_choice("prompt", prompt, get_args(Prompt))
            self.tells_radius = torch.full((len(mask),), prompt == "drag")
        # Copied to the CPU once, for all later clicks.
        self.mask = mask.cpu()
        self.ignore = None if ignore is None else ignore.cpu()
        self.rule: Rule = rule
        self.threshold = threshold
        self.place: Place = place
        self.radius_noise = radius_noise
        self.click_jitter = click_jitter
        self.generator = generator
        self.first: NextClicks | None = None
        """First clicks from the data loader's workers; None computes them here."""

    def __call__(self, logits: Tensor | None, clicks: ClickBatch) -> NextClicks:
        """Make the next click of each image.

        Args:
            logits: (B, 1, H, W) or (B, H, W), or bool masks of these shapes; None before the first click,
                which is the same under both rules.
            clicks: (B, N) clicks so far.

        Returns:
            Next clicks, on the device of ``clicks``.
        """
        if logits is None and self.first is not None:
            return self._as_given(self.first.to(clicks.device))
        placement = None
        if self.place == "core" or self.click_jitter:
            placement = _Placement(self.place == "core", self.click_jitter, self._uniform(2).tolist())
        pred = None if logits is None else predicted(logits, self.threshold)
        rule: Rule = "max_distance" if pred is None else self.rule
        found = _simulate(pred, self.mask, self.ignore, clicks, rule, placement)
        return self._as_given(found.to(clicks.device))

    def _as_given(self, found: NextClicks) -> NextClicks:
        """Clicks with the radii given to the model."""
        radii = found.true_radii
        if self.radius_noise:
            radii = radii * (1 + self.radius_noise * (2 * self._uniform(1)[:, 0] - 1)).to(radii)
        radii = torch.where(self.tells_radius.to(radii.device) | found.done, radii, math.nan)
        return replace(found, radii=radii)

    def _uniform(self, columns: int) -> Tensor:
        device = "cpu" if self.generator is None else self.generator.device
        return torch.rand(
            len(self.mask), columns, dtype=torch.float64, generator=self.generator, device=device
        ).cpu()


def simulate_first(
    mask: Tensor, ignore: Tensor | None, *, place: Place, click_jitter: float, uniform: Sequence[float]
) -> NextClicks:
    """First click of one object, from given random numbers.

    Args:
        mask: (1, H, W) bool, the object.
        ignore: (1, H, W) bool, True for ignored pixels.
        place: Position of the click, see `SimulatedUser`.
        click_jitter: Noise of the click's position, see `SimulatedUser`.
        uniform: Two numbers in 0..1.
    """
    placement = None
    if place == "core" or click_jitter:
        placement = _Placement(place == "core", click_jitter, [list(uniform)])
    return _simulate(None, mask, ignore, None, "max_distance", placement)


def predicted(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """Threshold a prediction: (B, H, W) bool, probability above ``threshold``.

    The input is logits (B, 1, H, W) or (B, H, W); a bool mask is returned unchanged.

    Examples:
        >>> predicted(torch.tensor([[[-1.0, 0.0, 1.0]]])).tolist()
        [[[False, False, True]]]
    """
    maps = logits.detach().squeeze(1) if logits.ndim == 4 else logits.detach()
    return maps if maps.dtype == torch.bool else torch.sigmoid(maps.float()) > threshold


class _Placement(NamedTuple):
    """Displace training clicks at random; ``uniform`` contains two numbers in 0..1 per image."""

    core: bool
    jitter: float
    uniform: list[list[float]]


def _simulate(
    pred: Tensor | None,
    mask: Tensor,
    ignore: Tensor | None,
    clicks: ClickBatch | None,
    rule: Rule,
    placement: _Placement | None,
) -> NextClicks:
    check_choice("rule", rule, get_args(Rule))
    _check_maps(mask=mask, ignore=ignore, pred=pred)
    batch = len(mask)
    if clicks is not None and len(clicks) != batch:
        raise ValueError(
            f"clicks have {len(clicks)} images, but mask has {batch}; give one row of clicks per image"
        )
    device = mask.device if pred is None else pred.device
    preds = None if pred is None else pred.cpu().numpy()
    masks = mask.cpu().numpy()
    ignores = None if ignore is None else ignore.cpu().numpy()
    clicked = [[] for _ in range(batch)] if clicks is None else _clicked_pixels(clicks, masks.shape[1:])

    def of_sample(b: int) -> Peak | None:
        wrong = wrong_pixels(
            None if preds is None else preds[b], masks[b], None if ignores is None else ignores[b]
        )
        if wrong is None:
            return None
        taken = wrong.inside(clicked[b])
        peak = deepest_pixel(wrong, taken) if rule == "max_distance" else largest_region(wrong, taken)
        if peak is None:
            return None
        if placement is not None:
            peak = spread(
                peak, wrong, taken, core=placement.core, jitter=placement.jitter, uniform=placement.uniform[b]
            )
        return peak._replace(row=peak.row + wrong.top, col=peak.col + wrong.left)

    if batch > 1 and masks[0].size >= _THREADED:
        peaks = list(_pool(os.getpid()).map(of_sample, range(batch)))
    else:
        peaks = [of_sample(b) for b in range(batch)]
    rows = [
        (0.0, 0.0, float(PADDING), 0.0)
        if p is None
        else (p.row, p.col, float(p.positive), math.sqrt(p.squared))
        for p in peaks
    ]
    table = torch.tensor(rows, dtype=torch.float32).reshape(batch, 4).to(device)
    labels, radii = table[:, 2].long(), table[:, 3]
    return NextClicks(table[:, :2], labels, radii, labels == PADDING, radii)


def _clicked_pixels(clicks: ClickBatch, size: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Find the pixels under each image's clicks, in images of ``size`` (H, W)."""
    pixels, valid = clicks.pixels(size).tolist(), clicks.valid.tolist()
    return [
        [(row, col) for (row, col), is_click in zip(*one, strict=True) if is_click]
        for one in zip(pixels, valid, strict=True)
    ]


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Thread pool of this process; a forked child creates its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"simulated-user-{process}")


def _check_maps(*, mask: Tensor, ignore: Tensor | None, pred: Tensor | None = None) -> None:
    for name, one in (("mask", mask), ("ignore", ignore), ("pred", pred)):
        if one is None:
            continue
        if one.dtype != torch.bool:
            raise TypeError(
                f"{name} must be a bool tensor, got {one.dtype}; compare it with a threshold first"
            )
        if one.ndim != 3 or one.shape != mask.shape:
            raise ValueError(
                f"{name} must be (B, H, W) like mask, got {tuple(one.shape)} with mask {tuple(mask.shape)}"
            )
