"""Write access to an image: the first tab has it until it leaves or another takes over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SILENCE = 15.0  # seconds; a tab that shows itself each 5 s is gone after three misses


class OtherTabError(ValueError):
    """A change from a tab without write access.

    Args:
        holder: Tab that has write access.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(
            "another tab is working on this image; take over there or here, so that no work is made twice"
        )
        self.holder = holder


class Tabs:
    """Holder of each image: a tab holds the image that it shows.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders: dict[str, tuple[str, float]] = {}  # image -> its tab, and when that was seen
        self._lock = threading.Lock()

    def beat(self, tab: str, picture: str | None = None, *, take: bool = False) -> tuple[bool, str | None]:
        """Record the image that a tab shows; the tab releases any other.

        Returns:
            Whether it may change that image, and who may.
        """
        with self._lock:
            for other in [one for one, (holder, _) in self._holders.items() if holder == tab]:
                if other != picture:
                    del self._holders[other]
            if picture is None:
                return True, None
            if take or self._living(picture) in (None, tab):
                self._holders[picture] = (tab, self._clock())
            holder = self._holders[picture][0]
            return holder == tab, holder

    def check(self, tab: str | None, picture: str) -> None:
        """Make sure that a tab may change an image; a program that is no tab (None) may while there is none.

        Raises:
            OtherTabError: When another one may.
        """
        with self._lock:
            living = self._living(picture)
            if living is not None and living != tab:
                raise OtherTabError(living)
            if tab is not None:
                self._holders[picture] = (tab, self._clock())

    def elsewhere(self, tab: str) -> list[str]:
        """The images that other tabs work on."""
        with self._lock:
            return sorted(one for one in self._holders if self._living(one) not in (None, tab))

    def _living(self, picture: str) -> str | None:
        holder, seen = self._holders.get(picture, (None, 0.0))
        return holder if holder is not None and self._clock() - seen < SILENCE else None
