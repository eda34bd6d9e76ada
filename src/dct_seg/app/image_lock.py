"""Lock of an image: one request at a time, and at most one waiting preview, the newest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class ImageLock:
    """Queue of requests for one image.

    A change waits for its turn. A waiting preview is dropped when a newer preview or a change arrives:
    its result would be stale.
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._busy = False
        self._newest = 0
        self.waiting = 0
        """Number of waiting previews."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait for a turn to read."""
        with self._condition:
            self._condition.wait_for(lambda: not self._busy)
            self._busy = True
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wait for a turn to change the image; waiting previews are dropped."""
        with self._condition:
            self._newest += 1
            self._condition.notify_all()
        with self.reading():
            yield

    @contextmanager
    def preview(self) -> Iterator[bool]:
        """Wait for a turn to preview; False if a newer request arrived first."""
        with self._condition:
            self._newest += 1
            mine = self._newest
            self._condition.notify_all()
            self.waiting += 1
            self._condition.wait_for(lambda: not self._busy or self._newest != mine)
            self.waiting -= 1
            ours = self._newest == mine
            self._busy = self._busy or ours
        try:
            yield ours
        finally:
            if ours:
                self._release()

    def _release(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
