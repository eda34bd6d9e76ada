"""A picture's event log: one JSON line a change, appended and synced before it is answered.

The state is what replaying gives.

Undo and redo are events too, so they work across restarts, and the file only ever grows. A last line without
its end was never answered (the process died in it) and is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dct_seg.app.state import State, apply

FORMAT, VERSION = "dct-seg picture log", 2
"""Version 2 added steps made by hand, and events of several objects."""


class HistoryError(ValueError):
    """A log that cannot be read, or an event that does not fit the state."""


class History:
    """The states of one picture, and the file that they are replayed from.

    Args:
        path: The log; it need not exist yet.
        picture: The picture's name, for people who read the file.
        size: (height, width) of the picture; without it, what the log says.

    Raises:
        HistoryError: When the log is broken, of a newer format, or of a picture of another size.
    """

    def __init__(self, path: Path, *, picture: str, size: tuple[int, int] | None = None) -> None:
        self._path = path
        self._picture = picture
        self.size = size
        self._states = [State()]
        self._at = 0
        self.revision = 0
        self._length = 0
        if path.exists():
            self._replay()

    @property
    def state(self) -> State:
        """As it is now."""
        return self._states[self._at]

    @property
    def can_undo(self) -> bool:
        """Whether there is something to take back."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether something was taken back."""
        return self._at + 1 < len(self._states)

    def append(self, event: Mapping[str, Any]) -> State:
        """Make an event happen: it is on disk when this returns, and not at all when this raises.

        Raises:
            HistoryError: When it does not fit the state; nothing is written.
            OSError: When the disk does not take it; nothing has changed.
        """
        states, at = self._after(event)
        lines = [] if self._length else [self._header()]
        lines.append({**event, "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds")})
        self._write(
            "".join(
                json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in lines
            ).encode()
        )
        self._states = states
        self._at = at
        self.revision += 1
        return self.state

    def _after(self, event: Mapping[str, Any]) -> tuple[list[State], int]:
        kind = event["event"]
        if kind in ("undo", "redo"):
            if not (self.can_undo if kind == "undo" else self.can_redo):
                raise HistoryError(f"there is nothing to {kind}")
            return self._states, self._at + (-1 if kind == "undo" else 1)
        return [*self._states[: self._at + 1], apply(self.state, event)], self._at + 1

    def _header(self) -> dict[str, Any]:
        if self.size is None:
            raise HistoryError(
                f"the size of {self._picture} is not known, so nothing can be written to its log"
            )
        return {
            "format": FORMAT,
            "version": VERSION,
            "picture": self._picture,
            "height": self.size[0],
            "width": self.size[1],
        }

    def _write(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(self._path, flags, 0o666)
        try:
            os.ftruncate(handle, self._length)  # the torn line of a process that died
            os.lseek(handle, self._length, os.SEEK_SET)
            try:
                written = 0
                while written < len(content):
                    written += os.write(handle, content[written:])
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, self._length)
                raise
        finally:
            os.close(handle)
        if self._length == 0 and os.name == "posix":
            _sync_folder(self._path.parent)
        self._length += len(content)

    def _replay(self) -> None:
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            self._replay_line(number, line)
        self._length = len(whole) + 1 if whole else 0

    def _replay_line(self, number: int, line: bytes) -> None:
        try:
            event = json.loads(line)
            if number == 1:
                self._check_header(event)
            else:
                self._states, self._at = self._after(event)
                self.revision += 1
        except HistoryError:
            raise
        except (LookupError, TypeError, ValueError, RecursionError, AttributeError) as error:
            raise HistoryError(
                f"line {number} of {self._name} cannot be read ({error}); mend that file or move it away"
            ) from error

    def _check_header(self, header: Mapping[str, Any]) -> None:
        if header["format"] != FORMAT:
            raise ValueError(f"no '{FORMAT}'")
        if header["version"] > VERSION:
            raise HistoryError(
                f"{self._name} was written by a newer dct-seg (version {header['version']}); update dct-seg"
            )
        height, width = int(header["height"]), int(header["width"])
        self.size = self.size or (height, width)
        if self.size != (height, width):
            raise HistoryError(
                f"{self._picture} is {self.size[1]}x{self.size[0]}, but it was {width}x{height} when it was "
                "annotated; "
                f"bring that picture back or move {self._name} away"
            )

    @property
    def _name(self) -> str:
        return "/".join(self._path.parts[-3:])  # inside the folder of the pictures


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
