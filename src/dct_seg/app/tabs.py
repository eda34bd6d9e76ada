"""Write access to images: the first tab keeps it until it leaves or another tab takes over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SILENCE = 15.0  # seconds; a tab without a heartbeat for this long counts as closed


class OtherTabError(ValueError):
    """Error for a change while another tab has write access.

    Args:
        holder: Tab that has write access.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(
            "another tab has write access to this image; continue in that tab, or take over in this one"
        )
        self.holder = holder


class Tabs:
    """Table of the tabs with write access, each to the image that it shows.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders: dict[str, tuple[str, float]] = {}  # image -> tab, last heartbeat
        self._lock = threading.Lock()

    def beat(self, tab: str, image_id: str | None = None, *, take: bool = False) -> tuple[bool, str | None]:
        """Record the image that a tab shows; the tab releases any other.

        Returns:
            Whether the tab may change that image, and the tab that may.
        """
        with self._lock:
            for other in [one for one, (holder, _) in self._holders.items() if holder == tab]:
                if other != image_id:
                    del self._holders[other]
            if image_id is None:
                return True, None
            if take or self._active_holder(image_id) in (None, tab):
                self._holders[image_id] = (tab, self._clock())
            holder = self._holders[image_id][0]
            return holder == tab, holder

    def check(self, tab: str | None, image_id: str) -> None:
        """Check that a tab may change an image; a program without a tab (None) may if no tab has access.

        Raises:
            OtherTabError: When another tab has write access to the image.
        """
        with self._lock:
            holder = self._active_holder(image_id)
            if holder is not None and holder != tab:
                raise OtherTabError(holder)
            if tab is not None:
                self._holders[image_id] = (tab, self._clock())

    def elsewhere(self, tab: str) -> list[str]:
        """List the images to which other tabs have write access."""
        with self._lock:
            return sorted(one for one in self._holders if self._active_holder(one) not in (None, tab))

    def _active_holder(self, image_id: str) -> str | None:
        holder, seen = self._holders.get(image_id, (None, 0.0))
        return holder if holder is not None and self._clock() - seen < SILENCE else None
