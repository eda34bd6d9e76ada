"""Numbers that users set, checked once at the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

SLACK = 0.1
"""Resampling may leave 0..1 by this much."""


def check_number(
    name: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    unit: str = "",
) -> None:
    """Raise unless ``value`` is a finite number in its range.

    Args:
        name: Argument to name in the error.
        value: Number that was given.
        least: Smallest value allowed.
        above: Bound that the value must exceed.
        most: Largest value allowed.
        below: Bound that the value must stay under.
        unit: Meaning of the number in the error, such as ``a share of the images``.

    Raises:
        ValueError: When the value is out of range, NaN or infinite, or no number.

    Examples:
        >>> check_number("lr", -1.0, above=0)
        Traceback (most recent call last):
        ...
        ValueError: lr must be above 0, got -1.0
        >>> check_number("holdout", float("nan"), least=0, below=1, unit="a share of the images")
        Traceback (most recent call last):
        ...
        ValueError: holdout is a share of the images, at least 0 and below 1, got nan
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    fits = (
        is_number
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if fits:
        return
    bounds = (("at least", least), ("above", above), ("at most", most), ("below", below))
    wanted = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None) or "finite"
    raise ValueError(f"{name} {f'is {unit},' if unit else 'must be'} {wanted}, got {value}")


def check_span(name: str, span: Sequence[float] | None) -> None:
    """Raise unless ``span`` is (low, high) with 0 < low <= high, or None.

    Raises:
        ValueError: When it is not.

    Examples:
        >>> check_span("scale", (0.75, float("inf")))
        Traceback (most recent call last):
        ...
        ValueError: scale is (low, high) with 0 < low <= high, got (0.75, inf)
    """
    if span is None:
        return
    if len(span) != 2 or not (0 < span[0] <= span[1] < math.inf):
        raise ValueError(f"{name} is (low, high) with 0 < low <= high, got {tuple(span)}")


def check_unit_range(name: str, values: Tensor) -> None:
    """Raise unless an image is in 0..1, with a little slack for resampling.

    Raises:
        ValueError: When it is not, or not finite.
    """
    low, high = (float(value) for value in values.detach().aminmax())
    if low >= -SLACK and high <= 1 + SLACK:
        return
    advice = "divide it by 255" if low >= 0 else "do not normalize it, the network does that itself"
    raise ValueError(f"{name} is float in 0..1, got values from {low:.3g} to {high:.3g}; {advice}")
