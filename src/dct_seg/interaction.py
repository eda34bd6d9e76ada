"""The one step behind training, validation, the benchmark and the annotator, and the loop over it.

:func:`take_step` is the step: radii for the clicks, then the mask. :func:`interact` repeats it over a batch
of tensors. :class:`dct_seg.Predictor`, which benchmark and annotator drive, repeats it over one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from dct_seg.clicks import ClickBatch
from dct_seg.simulation import NextClicks

Clicks = TypeVar("Clicks")
"""Clicks of a batch or of one image."""
Previous = TypeVar("Previous")
Answer = TypeVar("Answer")


def take_step(
    fill_radii: Callable[[Clicks, Previous | None], Clicks],
    predict: Callable[[Clicks, Previous | None], Answer],
    clicks: Clicks,
    previous: Previous | None,
) -> tuple[Clicks, Answer]:
    """Answer the last click.

    Args:
        fill_radii: Gives a radius to each click that came without a drag.
        predict: Predicts from all clicks.
        clicks: All clicks, the new one included.
        previous: Probabilities before the last click; None before the first.

    Returns:
        The clicks with the radii used, and the prediction.

    Examples:
        >>> take_step(lambda clicks, previous: clicks, lambda clicks, previous: len(clicks), ["a", "b"], None)
        (['a', 'b'], 2)
    """
    filled = fill_radii(clicks, previous)
    return filled, predict(filled, previous)


class InteractiveModel(Protocol):
    """Interface of a model in the loop; :class:`dct_seg.DCTNet` implements it.

    A method ``fill_radii(image, clicks, previous) -> ClickBatch`` is optional: it gives a radius to each
    click that came without a drag. Without it such clicks keep NaN.
    """

    def __call__(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), clicks, (B, 1, H, W) probabilities before the last click -> logits (B, 1, H, W)."""


class ClickSource(Protocol):
    """Source of the next click: a simulated user or a person. The loop never knows which."""

    def __call__(self, logits: Tensor | None, clicks: ClickBatch) -> NextClicks:
        """The next click of each image, given the last logits (None before the first click) and the clicks so
        far.
        """


@dataclass(frozen=True)
class Interaction:
    """Result of one turn of the loop.

    Args:
        index: Number of clicks before this one.
        clicks: (B, index + 1) all clicks so far, with the radii used.
        logits: (B, 1, H, W) after the last click.
        asked: The last click as its source made it; ``asked.done`` marks images that needed none.
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
) -> Iterator[Interaction]:
    """Click, predict, and again, until no image of the batch needs a click or ``max_clicks`` are made.

    The generator stops between clicks, so a consumer may change the model's weights before the next one, as
    training does (the paper's section 2.3), or leave the loop when a target is reached. No gradient flows
    from one click to the next.

    Args:
        model: Model, called once per click; its ``fill_radii`` is optional.
        image: (B, 3, H, W) in 0..1.
        source: Gives the next click of each image.
        max_clicks: Maximum clicks per image.
        stop_when_done: False makes exactly ``max_clicks`` turns, whatever is done: under DDP every rank must
            take as many.

    Yields:
        One :class:`Interaction` per click. An image that is done keeps its place in the batch; its clicks are
        padding from there on.
    """
    clicks = ClickBatch.empty(len(image), image.device)
    logits: Tensor | None = None
    fill_radii = getattr(model, "fill_radii", _as_given)
    for index in range(max_clicks):
        asked = source(logits, clicks)
        if stop_when_done and index > 0 and bool(asked.done.all()):
            return
        previous = None if logits is None else torch.sigmoid(logits.detach())
        given = clicks.append(asked.coords, asked.labels, asked.radii)
        answer: Tensor
        clicks, answer = take_step(partial(fill_radii, image), partial(model, image), given, previous)
        yield Interaction(index, clicks, answer, asked)
        logits = answer.detach()


def _as_given(image: Tensor, clicks: ClickBatch, previous: Tensor | None) -> ClickBatch:
    return clicks


def answer_each(
    model: InteractiveModel, image: Tensor, draw: Callable[[], ClickBatch], num_turns: int
) -> Iterator[Interaction]:
    """Yield one answer for each of several independent sets of clicks.

    Args:
        model: Called once per set, without a previous mask.
        image: (B, 3, H, W) in 0..1.
        draw: Gives a set of clicks for each image, with the radii it has; an image without clicks is done.
        num_turns: Number of sets.

    Yields:
        One :class:`Interaction` per set.
    """
    for index in range(num_turns):
        clicks = draw()
        nothing = clicks.coords.new_zeros(len(clicks))
        done = clicks.num_clicks == 0
        asked = NextClicks(nothing[:, None].repeat(1, 2), done.long() * -1, nothing + math.nan, done, nothing)
        yield Interaction(index, clicks, model(image, clicks), asked)
