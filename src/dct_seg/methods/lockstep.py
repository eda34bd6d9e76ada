"""Predictions in steps that request views, so that several objects can share a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.methods.views import View

M = TypeVar("M")
T = TypeVar("T")


@dataclass(frozen=True)
class ViewRequest(Generic[M]):
    """Request for the probabilities in a view.

    Args:
        method: Method with the image.
        view: Region of the image.
        clicks: Clicks in pixels of the image.
        previous: (H, W) probabilities before the last click, or None.
    """

    method: M
    view: View
    clicks: Sequence[Click]
    previous: NDArray[np.float32] | None


ViewSteps = Generator[ViewRequest[M], NDArray[np.float32], T]
"""Prediction as a generator: it yields requests, receives their probabilities, and returns the answer."""


def run_in_lockstep(
    predictions: Sequence[ViewSteps[M, T]],
    answer: Callable[[list[ViewRequest[M]]], list[NDArray[np.float32]]],
) -> list[T]:
    """Run several predictions in lockstep: their first requests in one batch, then their second ones.

    Args:
        predictions: Predictions, not yet started.
        answer: Function from requests to their probabilities, each (h, w) of its view's size.

    Examples:
        >>> def steps(name):
        ...     found = yield name
        ...     return found + "!"
        >>> run_in_lockstep([steps("a"), steps("b")], lambda names: [name * 2 for name in names])
        ['aa!', 'bb!']
    """
    results: dict[int, T] = {}
    sent: dict[int, NDArray[np.float32] | None] = dict.fromkeys(range(len(predictions)))
    while sent:
        asked: dict[int, ViewRequest[M]] = {}
        for i, probs in sent.items():
            found = _advance(predictions[i], probs)
            if isinstance(found, _Answer):
                results[i] = found.value
            else:
                asked[i] = found
        sent = dict(zip(asked, answer(list(asked.values())), strict=True)) if asked else {}
    return [results[i] for i in range(len(predictions))]


@dataclass(frozen=True)
class _Answer(Generic[T]):
    value: T


def _advance(prediction: ViewSteps[M, T], probs: NDArray[np.float32] | None) -> ViewRequest[M] | _Answer[T]:
    """Advance a prediction to its next request, or its answer."""
    try:
        return next(prediction) if probs is None else prediction.send(probs)
    except StopIteration as done:
        return _Answer(done.value)
