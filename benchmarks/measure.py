"""Alternating measurement of two implementations.

A row of the table shows the ratio of their times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any, TypedDict

import numpy as np

PAUSE = 0.05
"""Pause in seconds between the two compared calls."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample.

    Examples:
        >>> Spread.of([1.0, 2.0, 3.0, 4.0, 100.0])
        Spread(low=2.0, median=3.0, high=4.0)
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute the quartiles of a list of numbers."""
        low, median, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(low, median, high)

    def __str__(self) -> str:
        return (
            f"{self.median:.3g}"
            if self.low == self.high
            else f"{self.median:.3g} ({self.low:.3g}..{self.high:.3g})"
        )


@dataclass(frozen=True)
class Row:
    """One row of the table: an operation, its time, and that of a reference.

    Args:
        name: Name for ``--only``.
        what: Measured operation.
        against: Reference implementation; "" if there is only a limit.
        unit: Unit of ``ours`` and ``theirs``.
        ours: Values of the library; None if an input is missing.
        theirs: Values of the reference; None if it is not measured, or if there is only a limit.
        ratio: Ratio of theirs to ours in each repeat; other load on the machine affects both.
        at_least: Minimum of ``ratio`` to meet the target.
        at_most: Maximum of ``ours`` to meet the target.
        note: Resolution, precision and other conditions.
    """

    name: str
    what: str
    against: str
    unit: str
    ours: Spread | None = None
    theirs: Spread | None = None
    ratio: Spread | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None if it was not measured."""
        if self.at_most is not None:
            return None if self.ours is None else self.ours.median <= self.at_most
        return None if self.ratio is None or self.at_least is None else self.ratio.median >= self.at_least

    @property
    def target(self) -> str:
        """Target of the row, as printed in the table."""
        return f"<= {self.at_most:g} {self.unit}" if self.at_most is not None else f">= {self.at_least:g} x"


def in_turn(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[list[float], list[float]]:
    """Time ``repeats`` calls of both in turn, each after a pause and an untimed call.

    After a call, a runtime's threads spin for some milliseconds and would occupy a core during the next one.
    """
    pairs = [(_warm_seconds_of(ours), _warm_seconds_of(theirs)) for _ in range(repeats)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _warm_seconds_of(job: Callable[[], Any]) -> float:
    sleep(PAUSE)
    job()
    return seconds_of(job)


def seconds_of(job: Callable[[], Any]) -> float:
    """Measure the seconds of one call."""
    began = perf_counter()
    job()
    return perf_counter() - began


class Compared(TypedDict):
    """Fields of a row that `compared` fills."""

    ours: Spread
    theirs: Spread
    ratio: Spread


def compared(ours: Sequence[float], theirs: Sequence[float], *, factor: float = 1e3) -> Compared:
    """Make the fields ``ours``, ``theirs`` and ``ratio`` of a row, from seconds measured in turn.

    ``factor`` converts seconds to the unit of the row, by default milliseconds.
    """
    return {
        "ours": Spread.of([factor * s for s in ours]),
        "theirs": Spread.of([factor * s for s in theirs]),
        "ratio": Spread.of([other / one for one, other in zip(ours, theirs, strict=True)]),
    }


def markdown(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table: medians, with the interquartile range in brackets."""
    lines = [
        "| row | what | against | ours | theirs | ratio | target | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, theirs = (
            f"{value} {row.unit}" if value is not None else "-" for value in (row.ours, row.theirs)
        )
        met = {True: "yes", False: "no", None: "not measured"}[row.met]
        ratio = "-" if row.ratio is None else str(row.ratio)
        lines.append(
            f"| {row.name} | {row.what} | {row.against or '-'} | {ours} | {theirs} | {ratio} | {row.target} "
            f"| {met} |"
        )
    notes = [f"- {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"
