"""Checks of numbers and images given by users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

SLACK = 0.1
"""Tolerance beyond 0..1, as resampling may cause."""


def check_number(
    name: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    unit: str = "",
    whole: bool = False,
) -> None:
    """Check that ``value`` is a finite number in its range.

    Args:
        name: Name of the argument, for the error.
        value: Number to check.
        least: Smallest allowed value.
        above: Exclusive lower bound.
        most: Largest allowed value.
        below: Exclusive upper bound.
        unit: Meaning of the number in the error, such as ``a share of the images``.
        whole: Whether only a whole number is allowed.

    Raises:
        ValueError: When the value is out of range, NaN, infinite, or not a number.

    Examples:
        >>> check_number("lr", -1.0, above=0)
        Traceback (most recent call last):
        ...
        ValueError: lr must be above 0, got -1.0
        >>> check_number("holdout", float("nan"), least=0, below=1, unit="a share of the images")
        Traceback (most recent call last):
        ...
        ValueError: holdout must be a share of the images, at least 0 and below 1, got nan
    """
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    fits = (
        is_number
        and math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if fits:
        return
    bounds = (("at least", least), ("above", above), ("at most", most), ("below", below))
    wanted = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None) or "finite"
    unit = unit or ("a whole number" if whole and not isinstance(value, Integral) else "")
    raise ValueError(f"{name} {f'must be {unit},' if unit else 'must be'} {wanted}, got {value}")


def check_counts(name: str, counts: Any, *, least: int) -> None:
    """Check that ``counts`` is (minimum, maximum) of whole numbers.

    Raises:
        ValueError: When it is not.

    Examples:
        >>> check_counts("train_clicks", 3, least=1)
        Traceback (most recent call last):
        ...
        ValueError: train_clicks must be the minimum and maximum number of clicks, at least 1, got 3
    """
    is_pair = isinstance(counts, (tuple, list)) and len(counts) == 2
    are_whole = is_pair and all(isinstance(one, Integral) and not isinstance(one, bool) for one in counts)
    if not are_whole or not least <= counts[0] <= counts[1]:
        given = tuple(counts) if is_pair else counts
        raise ValueError(
            f"{name} must be the minimum and maximum number of clicks, at least {least}, got {given}"
        )


def check_booleans(**values: Any) -> None:
    """Check that options are true or false, since any other text would count as true.

    Raises:
        ValueError: When one is not.

    Examples:
        >>> check_booleans(flip="no")
        Traceback (most recent call last):
        ...
        ValueError: flip must be true or false, got 'no'
    """
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be true or false, got {value!r}")


def check_span(name: str, span: Sequence[float] | None) -> None:
    """Check that ``span`` is (low, high) with 0 < low <= high, or None.

    Raises:
        ValueError: When it is not.

    Examples:
        >>> check_span("scale", (0.75, float("inf")))
        Traceback (most recent call last):
        ...
        ValueError: scale must be (low, high) with 0 < low <= high, got (0.75, inf)
    """
    if span is None:
        return
    is_pair = isinstance(span, Sequence) and len(span) == 2 and all(isinstance(one, Real) for one in span)
    if not is_pair or not (0 < span[0] <= span[1] < math.inf):
        given = tuple(span) if is_pair else span
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {given}")


def to_python(value: Any) -> Any:
    """Convert NumPy's numbers, also in lists and tuples, to Python's, which a checkpoint can hold.

    Examples:
        >>> import numpy as np
        >>> to_python((np.int64(1), np.float64(0.5)))
        (1, 0.5)
    """
    if isinstance(value, (list, tuple)):
        return type(value)(to_python(one) for one in value)
    return value.item() if isinstance(value, np.generic) else value


def check_unit_range(name: str, values: Tensor) -> None:
    """Check that an image is in 0..1, with a small tolerance for resampling.

    Raises:
        ValueError: When it is not, or not finite.
    """
    low, high = (float(value) for value in values.detach().aminmax())
    if low >= -SLACK and high <= 1 + SLACK:
        return
    advice = "divide it by 255" if low >= 0 else "do not normalize it, the network does that itself"
    raise ValueError(f"{name} must be float in 0..1, got values from {low:.3g} to {high:.3g}; {advice}")
