"""Lock of an image: one request at a time, and only the newest waiting preview stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class PictureLock:
    """The queue before one picture.

    A change waits for its turn. A preview waits too, but gives way as soon as a newer preview or a change
    comes: nobody looks at its answer any more.
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._busy = False
        self._newest = 0
        self.waiting = 0
        """Previews that have not had their turn."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait for the turn of one who only reads."""
        with self._condition:
            self._condition.wait_for(lambda: not self._busy)
            self._busy = True
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Wait for the turn of a change; previews that wait give way."""
        with self._condition:
            self._newest += 1
            self._condition.notify_all()
        with self.reading():
            yield

    @contextmanager
    def preview(self) -> Iterator[bool]:
        """Wait for the turn of a preview; False when something newer came first."""
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
