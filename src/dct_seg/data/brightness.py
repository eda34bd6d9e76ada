"""Conversion of brightness values of any type to 8 bits, with one rule for the display and the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STRAY_PIXELS = 10_000
"""Number of pixels per allowed outlier at either end of the value range."""
LARGEST_VALUE = 1e30
"""Limit above which floats are fill values of other programs, not brightness."""


class Window(NamedTuple):
    """Window: values that become 0 and 255, linear in between.

    The level of a window is the mean of these two values, the width their difference.
    """

    low: float
    high: float

    @classmethod
    def checked(cls, low: float, high: float) -> Window:
        """Make a window of two finite numbers, the lower one first.

        Raises:
            ValueError: When the numbers are not finite or not in order.
        """
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ValueError(
                f"a window must be two finite values, the lower one first, got {low:g}, {high:g}"
            )
        return cls(float(low), float(high))

    @classmethod
    def stored(cls, ends: Sequence[Any] | None) -> Window | None:
        """Read a window stored as a list of two numbers; None for none.

        Raises:
            TypeError, ValueError: When the value is not such a list.

        Examples:
            >>> Window.stored([-160, 240]), Window.stored(None)
            (Window(low=-160.0, high=240.0), None)
        """
        return None if ends is None else cls.checked(*map(float, ends))

    @classmethod
    def read(cls, text: str) -> Window:
        """Parse a window from ``LOW,HIGH``.

        Raises:
            ValueError: When the text is not a window.

        Examples:
            >>> Window.read("-160,240")
            Window(low=-160.0, high=240.0)
        """
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError as error:
            raise ValueError(f"a window must be LOW,HIGH such as -160,240, got '{text}'") from error
        return cls.checked(low, high)


@dataclass(frozen=True)
class Stored:
    """Stored values of an image, with the file's information about brightness.

    Args:
        values: Numbers, (H, W) or (H, W, 3), after the file's own rescaling.
        window: The file's own window, or None for the range of the values.
        missing: Value of pixels without data, or None.
        is_inverted: Whether the lowest value is white.
    """

    values: NDArray[Any]
    window: Window | None = None
    missing: float | None = None
    is_inverted: bool = False

    @property
    def has_levels(self) -> bool:
        """Whether a window applies; 8-bit values stay as they are."""
        return self.values.dtype not in (np.uint8, np.bool_)

    def levels(self, window: Window | None = None) -> Window | None:
        """Effective window: the chosen one, the file's, or the range; None for 8-bit values."""
        if not self.has_levels:
            return None
        return window or self.window or value_range(self.values, missing=self.missing)

    def extent(self) -> Window:
        """Lowest and highest value."""
        counts = _valid_values(self.values, self.missing)
        numbers = self.values[counts]
        return Window(float(numbers.min()), float(numbers.max())) if numbers.size else Window(0.0, 1.0)

    def to_uint8(self, window: Window | None = None) -> NDArray[np.uint8]:
        """Convert to 0..255, by a chosen window, the file's window, or the range; see `to_uint8`."""
        chosen = (window or self.window) if self.has_levels else None
        found = to_uint8(self.values, missing=self.missing, window=chosen)
        if not self.is_inverted:
            return found
        turned: NDArray[np.uint8] = 255 - found
        if self.missing is not None:
            turned[self.values == self.missing] = 0
        return turned


def to_uint8(
    values: NDArray[Any], *, missing: float | None = None, window: Window | None = None
) -> NDArray[np.uint8]:
    """Convert brightness values of any type to 0..255, by the rule shared by all readers.

    Whole numbers from 0 to 255 are unchanged, whatever their type. All others are stretched: the
    lowest becomes 0 and the highest 255, over all channels together. One pixel in 10,000 at either end may
    lie beyond this range, so a dead pixel does not darken the rest. NaN, ``missing`` and fill values (beyond
    1e30) become 0, infinity 255; none of them counts for the range. A window replaces the range.

    Args:
        values: Brightness values, any shape.
        missing: Value that marks pixels without data, or None.
        window: Values that become 0 and 255, or None for the rule above.

    Raises:
        TypeError: When the array does not contain numbers.

    Examples:
        >>> to_uint8(np.array([0, 16, 4080], np.uint16)), to_uint8(np.array([0, 200], np.int32))
        (array([  0,   1, 255], dtype=uint8), array([  0, 200], dtype=uint8))
        >>> to_uint8(np.array([-1.0, 0.0, 1.0, np.inf, np.nan]))
        array([  0, 128, 255, 255,   0], dtype=uint8)
        >>> to_uint8(np.array([-1000, -160, 40, 240, 3000], np.int16), window=Window(-160, 240))
        array([  0,   0, 128, 255, 255], dtype=uint8)
    """
    if values.dtype == np.uint8 and window is None:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"an image must contain numbers, got an array of {values.dtype}")
    counts = _valid_values(values, missing)
    low, high = window or value_range(values, missing=missing) or (0.0, 255.0)
    is_small = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    numbers = values.astype(np.float32 if is_small else np.float64)
    if (low, high) != (0.0, 255.0):
        numbers = (np.where(counts, numbers, low) - low) * (255 / (high - low))
    result: NDArray[np.uint8] = np.rint(np.clip(np.where(counts, numbers, 0), 0, 255)).astype(np.uint8)
    if values.dtype.kind == "f":
        result[np.isposinf(values)] = 255
    return result


def value_range(values: NDArray[Any], *, missing: float | None = None) -> Window | None:
    """Find the range that `to_uint8` stretches; None for whole numbers from 0 to 255, which are unchanged."""
    counts = _valid_values(values, missing)
    return None if _is_eight_bit(values, counts) else Window(*_range(values[counts]))


def _valid_values(values: NDArray[Any], missing: float | None) -> NDArray[np.bool_]:
    """Select the pixels with valid brightness."""
    counts = np.ones(values.shape, bool) if missing is None else np.asarray(values != missing)
    if values.dtype.kind == "f":
        counts &= np.abs(values) <= min(LARGEST_VALUE, float(np.finfo(values.dtype).max))
    return counts


def _range(numbers: NDArray[Any]) -> tuple[float, float]:
    """Find the lowest and highest number, except outliers; they always differ."""
    if not numbers.size:
        return 0.0, 1.0
    stray = numbers.size // STRAY_PIXELS
    if stray:
        ends = (stray, numbers.size - 1 - stray)
        numbers = np.partition(numbers.ravel(), ends)[list(ends)]
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:  # a single value becomes white, or black if it is 0 or less
        low = min(low, 0.0)
        high = max(high, low + 1) if high <= 0 else high
    return low, high


def _is_eight_bit(values: NDArray[Any], counts: NDArray[np.bool_]) -> bool:
    """Whether the numbers are those of an 8-bit image, stored in a wider type."""
    numbers = values[counts]
    if not numbers.size or numbers.min() < 0 or numbers.max() > 255:
        return False
    return values.dtype.kind in "iu" or (numbers.max() > 1 and bool((numbers == np.rint(numbers)).all()))
