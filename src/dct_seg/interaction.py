"""Interaction step shared by training, validation, the benchmark and the annotator, and its loop.

`take_step` is the step: radii for the clicks, then the mask. `interact` repeats it for a batch
of tensors. `dct_seg.Predictor`, used by benchmark and annotator, repeats it for one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from dct_seg.click_radii import RadiusSource, radius_in_mask, shorten_predicted
from dct_seg.clicks import ClickBatch, mark_clicks
from dct_seg.simulation import NextClicks

Clicks = TypeVar("Clicks")
"""Clicks of a batch or of one image."""
Previous = TypeVar("Previous")
Result = TypeVar("Result")


def take_step(
    fill_radii: Callable[[Clicks, Previous | None], Clicks],
    predict: Callable[[Clicks, Previous | None], Result],
    clicks: Clicks,
    previous: Previous | None,
) -> tuple[Clicks, Result]:
    """Predict after the last click.

    Args:
        fill_radii: Function that gives a radius to each click without a drag.
        predict: Function that predicts from all clicks.
        clicks: All clicks, including the new one.
        previous: Probabilities before the last click; None before the first.

    Returns:
        Clicks with their effective radii, and the prediction.

    Examples:
        >>> take_step(lambda clicks, previous: clicks, lambda clicks, previous: len(clicks), ["a", "b"], None)
        (['a', 'b'], 2)
    """
    filled = fill_radii(clicks, previous)
    return filled, predict(filled, previous)


class InteractiveModel(Protocol):
    """Interface of a model in the loop; `dct_seg.DCTNet` implements it.

    An optional method ``fill_radii(image, clicks, previous) -> ClickBatch`` gives a radius to each
    click without a drag. Without it, such clicks keep NaN.
    """

    def __call__(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        """Compute logits (B, 1, H, W); ``image`` is (B, 3, H, W), ``previous`` (B, 1, H, W) probabilities."""


class ClickSource(Protocol):
    """Source of the next click: a simulated or a real user; the loop does not distinguish them."""

    def __call__(self, logits: Tensor | None, clicks: ClickBatch) -> NextClicks:
        """Make the next click of each image.

        Args:
            logits: (B, 1, H, W) logits after the last click; None before the first.
            clicks: (B, N) clicks so far.
        """


@dataclass(frozen=True)
class Interaction:
    """Result of one click of the loop.

    Args:
        index: Number of clicks before this one.
        clicks: (B, index + 1) all clicks so far, with their effective radii.
        logits: (B, 1, H, W) after the last click.
        asked: Last click as made by its source; ``asked.done`` marks images that needed no click.

    Examples:
        >>> empty = ClickBatch.empty(1)
        >>> nothing = torch.zeros(1)
        >>> asked = NextClicks(torch.zeros(1, 2), torch.tensor([-1]), nothing, torch.tensor([True]), nothing)
        >>> Interaction(0, empty, torch.zeros(1, 1, 4, 4), asked).asked.done.tolist()
        [True]
    """

    index: int
    clicks: ClickBatch
    logits: Tensor
    asked: NextClicks


def interact(
    model: InteractiveModel,
    image: Tensor,
    source: ClickSource,
    max_clicks: int,
    *,
    stop_when_done: bool = True,
    marks_clicks: bool = False,
    radius_from: RadiusSource = "head",
) -> Iterator[Interaction]:
    """Click and predict until no image of the batch needs a click, or after ``max_clicks`` clicks.

    The generator stops between clicks, so a consumer may change the model's weights before the next one, as
    training does (the paper's section 2.3), or leave the loop when a target is reached. No gradient flows
    from one click to the next.

    Args:
        model: Model, called once per click; its ``fill_radii`` is optional.
        image: (B, 3, H, W) in 0..1.
        source: Source of the next click of each image.
        max_clicks: Maximum clicks per image.
        stop_when_done: False always makes ``max_clicks`` clicks, because under DDP all ranks must make the
            same number.
        marks_clicks: Give clicked pixels and the inside of drags the label of their click before the next
            click, see `dct_seg.clicks.mark_clicks`.
        radius_from: Source of the radius of a click without a drag: ``head`` is the model's ``fill_radii``;
            ``mask`` uses it for the first click, and where the mask gives no radius, see
            `dct_seg.click_radii.radius_in_mask`.

    Yields:
        One `Interaction` per click. A finished image keeps its place in the batch; its clicks are padding.

    Examples:
        >>> from dct_seg import SimulatedUser
        >>> mask = torch.zeros(1, 9, 9, dtype=torch.bool)
        >>> mask[:, 2:7, 2:7] = True
        >>> perfect = lambda image, clicks, previous=None: mask[:, None] * 20.0 - 10
        >>> user = SimulatedUser(mask, torch.zeros_like(mask))
        >>> steps = list(interact(perfect, torch.zeros(1, 3, 9, 9), user, max_clicks=5))
        >>> [step.clicks.coords.tolist() for step in steps]  # nothing is wrong after the first click
        [[[[4.0, 4.0]]]]
    """
    clicks = ClickBatch.empty(len(image), image.device)
    logits: Tensor | None = None
    dragged = clicks.lacks_radius  # (B, 0): no clicks yet
    fill_radii = partial(getattr(model, "fill_radii", _as_given), image)
    for index in range(max_clicks):
        asked = source(logits, clicks)
        if stop_when_done and index > 0 and bool(asked.done.all()):
            return
        previous = None if logits is None else torch.sigmoid(logits.detach())
        given = clicks.append(asked.coords, asked.labels, asked.radii)
        dragged = torch.cat([dragged, ~asked.radii.isnan()[:, None]], 1)
        fill = partial(_filled_from_mask, fill_radii, ~dragged) if radius_from == "mask" else fill_radii
        answer: Tensor
        clicks, answer = take_step(fill, partial(model, image), given, previous)
        if marks_clicks:
            answer = mark_clicks(answer, clicks, dragged)
        yield Interaction(index, clicks, answer, asked)
        logits = answer.detach()


def _as_given(image: Tensor, clicks: ClickBatch, previous: Tensor | None) -> ClickBatch:
    return clicks


def _filled_from_mask(
    fill_radii: Callable[[ClickBatch, Tensor | None], ClickBatch],
    predicted: Tensor,
    clicks: ClickBatch,
    previous: Tensor | None,
) -> ClickBatch:
    """Fill in the radii, those of corrections from the mask; ``predicted`` (B, N) marks those not given."""
    filled = fill_radii(clicks, previous)
    if previous is not None:
        found = radius_in_mask(previous[:, 0] > 0.5, clicks).to(filled.radii)
        last = torch.where(predicted[:, -1] & ~found.isnan(), found, filled.radii[:, -1])
        filled = filled.with_radii(torch.cat([filled.radii[:, :-1], last[:, None]], 1))
    return shorten_predicted(filled, predicted)


def answer_each(
    model: InteractiveModel, image: Tensor, draw: Callable[[], ClickBatch], num_turns: int
) -> Iterator[Interaction]:
    """Yield one prediction for each of several independent sets of clicks.

    Args:
        model: Model, called once per set without a previous mask.
        image: (B, 3, H, W) in 0..1.
        draw: Function that returns a set of clicks for each image; an image without clicks is done.
        num_turns: Number of sets.

    Yields:
        One `Interaction` per set.
    """
    for index in range(num_turns):
        clicks = draw()
        nothing = clicks.coords.new_zeros(len(clicks))
        done = clicks.num_clicks == 0
        asked = NextClicks(nothing[:, None].repeat(1, 2), done.long() * -1, nothing + math.nan, done, nothing)
        yield Interaction(index, clicks, model(image, clicks), asked)
