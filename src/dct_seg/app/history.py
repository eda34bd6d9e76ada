"""Event log of an image: one JSON line per change, appended and synced before the response.

Replaying the log restores the state. Undo and redo are events too, so they work across restarts, and
the file only grows. An incomplete last line was never acknowledged (the process died) and is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from dct_seg.app.safe_open import OutsideError, open_without_links
from dct_seg.app.state import State, apply
from dct_seg.files import BROKEN

FORMAT, VERSION = "dct-seg picture log", 3
"""Version 2 added manual steps and events of several objects, version 3 windows."""


class HistoryError(ValueError):
    """Error of a log that cannot be read, or of an event that does not fit the state."""


class LogChangedError(OSError):
    """Error for a log that another program has changed; nothing is written to it."""


class Timeline:
    """States of one image after each event; undo and redo move among them.

    Args:
        states: States up to the last event that can be redone.
        at: Index of the current state.
    """

    def __init__(self, states: Sequence[State] = (State(),), at: int = 0) -> None:
        self._states = states
        self._at = at

    @property
    def state(self) -> State:
        """Current state."""
        return self._states[self._at]

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to redo."""
        return self._at + 1 < len(self._states)

    def after(self, event: Mapping[str, Any]) -> Timeline:
        """Return the timeline after an event.

        Raises:
            HistoryError: (a ValueError) When there is nothing to undo or redo.
            LookupError, TypeError, ValueError: When the event does not fit.
        """
        kind = event["event"]
        if kind in ("undo", "redo"):
            if not (self.can_undo if kind == "undo" else self.can_redo):
                raise HistoryError(f"there is nothing to {kind}")
            return Timeline(self._states, self._at + (-1 if kind == "undo" else 1))
        return Timeline([*self._states[: self._at + 1], apply(self.state, event)], self._at + 1)


class LogMark(NamedTuple):
    """Identity and size of a log file."""

    device: int
    inode: int
    size: int


class History:
    """Annotation states of one image, replayed from its log.

    Args:
        path: Log file, which may not exist yet.
        image_name: Name of the image, recorded in the file.
        size: (height, width) of the image; None uses the size in the log.

    Raises:
        HistoryError: When the log is damaged, a link, of a newer format, or of an image of another size.
        OSError: When it cannot be opened.
    """

    def __init__(self, path: Path, *, image_name: str, size: tuple[int, int] | None = None) -> None:
        self._path = path
        self._image_name = image_name
        self.size = size
        self._timeline = Timeline()
        self.revision = 0
        self._length = 0
        self._mark: LogMark | None = None
        self._replay()

    @property
    def mark(self) -> LogMark | None:
        """Mark of the log when it was last read or written here; None without a log."""
        return self._mark

    @property
    def state(self) -> State:
        """Current state."""
        return self._timeline.state

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return self._timeline.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to redo."""
        return self._timeline.can_redo

    def after(self, event: Mapping[str, Any]) -> State:
        """Return the state after an event, without applying it.

        Raises:
            HistoryError: (a ValueError) When the event does not fit the state.
        """
        return self._timeline.after(event).state

    def append(self, event: Mapping[str, Any]) -> State:
        """Apply an event: on return it is on disk; after an error nothing is written.

        Raises:
            HistoryError: When it does not fit the state; nothing is written.
            ValueError: When a mask has another size than the image; nothing is written.
            LogChangedError: (an OSError) when another program has changed the log; nothing is written.
            OSError: When it cannot be written; nothing has changed.
        """
        after = self._timeline.after(event)
        check_masks(event, self.size)
        lines = [] if self._length else [self._header()]
        lines.append({**event, "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds")})
        self._write(
            "".join(
                json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in lines
            ).encode()
        )
        self._timeline = after
        self.revision += 1
        return self.state

    def _header(self) -> dict[str, Any]:
        if self.size is None:
            raise HistoryError(
                f"the size of {self._image_name} is unknown, so nothing can be written to its log; "
                "restore the image"
            )
        return {
            "format": FORMAT,
            "version": VERSION,
            "picture": self._image_name,
            "height": self.size[0],
            "width": self.size[1],
        }

    def _open(self, flags: int) -> int:
        """Open the log without following symlinks below the project's folder."""
        folder = self._path.parent
        return open_without_links(folder.parent, Path(folder.name, self._path.name), flags)

    def _write(self, content: bytes) -> None:
        try:
            self._path.parent.mkdir(exist_ok=True)  # not the parent: a moved project must not be recreated
            handle = self._open(os.O_RDWR | (os.O_CREAT | os.O_EXCL if self._mark is None else 0))
        except (FileNotFoundError, FileExistsError, OutsideError) as error:
            raise self.changed() from error
        try:
            found = _mark(handle)
            if self._mark not in (None, found) or found.size < self._length:
                raise self.changed()
            try:
                os.ftruncate(handle, self._length)  # incomplete last line of a killed process
                os.lseek(handle, self._length, os.SEEK_SET)
                written = 0
                while written < len(content):
                    written += os.write(handle, content[written:])
                os.fsync(handle)
                self._check_place(handle)
            except OSError:
                os.ftruncate(handle, self._length)
                raise
            finally:
                self._mark = _mark(handle)
        finally:
            os.close(handle)
        if self._length == 0 and os.name == "posix":
            _sync_folder(self._path.parent)
        self._length += len(content)

    def _check_place(self, handle: int) -> None:
        """Check that the log's path still refers to the file written here."""
        try:
            same = os.path.samestat(os.fstat(handle), os.lstat(self._path))
        except OSError:
            same = False
        if not same:
            raise self.changed()

    def changed(self) -> LogChangedError:
        """Make the error for a log that changed since it was last read or written here."""
        return LogChangedError(
            f"{self._name}, the log of {self._image_name}, was moved, removed or changed by another program; "
            "nothing was written; restore it, or restart the annotator to use the file as it is"
        )

    def _replay(self) -> None:
        try:
            handle = self._open(os.O_RDONLY)
        except FileNotFoundError:
            return
        except OutsideError as error:
            raise HistoryError(f"{self._name} is a link; replace it with the log itself") from error
        with os.fdopen(handle, "rb") as file:
            self._mark = _mark(handle)
            whole, _, _ = file.read(self._mark.size).rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            self._replay_line(number, line)
        self._length = len(whole) + 1 if whole else 0

    def _replay_line(self, number: int, line: bytes) -> None:
        try:
            event = json.loads(line)
            if number == 1:
                self._check_header(event)
            else:
                self._timeline = self._timeline.after(event)
                check_masks(event, self.size)
                self.revision += 1
        except HistoryError:
            raise
        except BROKEN as error:
            raise HistoryError(
                f"line {number} of {self._name} cannot be read ({error}); repair that file or move it away"
            ) from error

    def broken_mask(self, error: Exception) -> HistoryError:
        """Make the error for a mask in the log with unreadable runs."""
        return HistoryError(
            f"{self._name} contains a mask that cannot be read ({error}); repair that file or move it away"
        )

    def _check_header(self, header: Mapping[str, Any]) -> None:
        if header["format"] != FORMAT:
            raise ValueError(f"the format must be '{FORMAT}', got {str(header['format'])[:100]!r}")
        if header["version"] > VERSION:
            raise HistoryError(
                f"{self._name} was written by a newer dct-seg (version {header['version']}); update dct-seg"
            )
        given, self.size = self.size, (int(header["height"]), int(header["width"]))
        self.check_size(given or self.size)

    def check_size(self, size: tuple[int, int]) -> None:
        """Check that the image, of a size (height, width), is that of the log.

        Raises:
            HistoryError: When its size is different.
        """
        if self.size is not None and self.size != size:
            height, width = self.size
            raise HistoryError(
                f"{self._image_name} is {size[1]}x{size[0]}, but it was {width}x{height} when it was "
                f"annotated; restore that image, or move {self._name} away"
            )

    @property
    def _name(self) -> str:
        return "/".join(self._path.parts[-3:])  # relative to the image folder


def check_masks(event: Mapping[str, Any], size: tuple[int, int] | None) -> None:
    """Check that the masks of an event have the image's size; their runs are checked at first use.

    Raises:
        LookupError, TypeError, ValueError: When a mask has another size.
    """
    objects = [event["object"]] if "object" in event else event.get("objects", ())
    masks = [one["rle"] for one in objects]
    masks += [one[name] for one in objects for name in ("start", "removed") if one[name] is not None]
    masks += [event["mask"]] if event.get("mask") is not None else []
    for rle in masks:
        if rle["size"] != list(size or ()) or not isinstance(rle["counts"], (str, list)):
            raise ValueError("a mask must be a run-length encoding of the image's size")


def _mark(handle: int) -> LogMark:
    status = os.fstat(handle)
    return LogMark(status.st_dev, status.st_ino, status.st_size)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
