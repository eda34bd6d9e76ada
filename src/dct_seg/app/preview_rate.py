"""Resolution of live previews: as large as possible without falling behind the pointer."""

from __future__ import annotations

from collections import deque
from statistics import median

SHARES = (1.0, 0.85, 0.71, 0.57, 0.5)
"""Scales relative to the final height and width; smaller previews no longer resemble the final mask."""

REMEMBERED = 5  # measurements; their median ignores outliers


class PreviewRate:
    """Scale of the next preview, chosen from the times of the last ones, which grow with its square.

    Args:
        seconds: Time budget of a preview, in seconds.

    Examples:
        >>> rate = PreviewRate(0.06)
        >>> rate.record(0.71, 0.02)
        >>> rate.share
        1.0
        >>> for _ in range(3):
        ...     rate.record(1.0, 0.15)
        >>> rate.share
        0.57
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.share = 0.71
        self._whole: deque[float] = deque(maxlen=REMEMBERED)  # seconds, extrapolated to full scale

    def record(self, share: float, seconds: float) -> None:
        """Record the time of a preview and update ``share``."""
        self._whole.append(seconds / share**2)
        whole = median(self._whole)
        for found in SHARES:
            spare = (
                1.0 if found <= self.share else 0.8
            )  # increased only with a margin, so that it does not oscillate
            if whole * found**2 <= self.seconds * spare:
                break
        self.share = found
