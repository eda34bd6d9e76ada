"""Which of the browser's tabs may change things: the first, until it falls silent or another takes over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SILENCE = 15.0  # seconds; a tab that shows itself each 5 s is gone after three misses


class OtherTabError(ValueError):
    """A change from a tab that may not make one.

    Args:
        holder: The tab that may.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(
            "another tab is working on this folder; take over there or here, so that no work is made twice"
        )
        self.holder = holder


class Tabs:
    """The holder of the right to change things.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holder: str | None = None
        self._seen = 0.0
        self._lock = threading.Lock()

    def beat(self, tab: str, *, take: bool = False) -> tuple[bool, str | None]:
        """A tab shows that it is there.

        Returns:
            Whether it may change things, and who may.
        """
        with self._lock:
            if take or self._living() in (None, tab):
                self._holder = tab
                self._seen = self._clock()
            return self._holder == tab, self._holder

    def check(self, tab: str | None) -> None:
        """Make sure that a tab may change things; a program that is no tab (None) may while there is none.

        Raises:
            OtherTabError: When another one may.
        """
        with self._lock:
            living = self._living()
            if living is not None and living != tab:
                raise OtherTabError(living)
            if tab is not None:
                self._holder = tab
                self._seen = self._clock()

    def _living(self) -> str | None:
        return self._holder if self._holder is not None and self._clock() - self._seen < SILENCE else None
