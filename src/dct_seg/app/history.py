"""A picture's event log: one JSON line a change, appended and synced before it is answered.

The state is what replaying gives.

Undo and redo are events too, so they work across restarts, and the file only ever grows. A last line without
its end was never answered (the process died in it) and is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from dct_seg.app.outlines import Outline, outline_of
from dct_seg.clicks import Click

FORMAT, VERSION = "dct-seg picture log", 1


class HistoryError(ValueError):
    """A log that cannot be read, or an event that does not fit the state."""


class NoSuchObjectError(LookupError):
    """A number that no finished object of the picture has."""


@dataclass(frozen=True)
class MadeClick:
    """A click with the radius that was used.

    Args:
        click: In pixels of the full-size picture.
        given: Whether the person dragged; otherwise the Auto-Drag-Head chose the radius.
    """

    click: Click
    given: bool


@dataclass(frozen=True)
class SegmentedObject:
    """A finished object.

    Args:
        id: Never used twice in a picture.
        class_id: Its class.
        clicks: How it was made; none for one that was imported.
        threshold: A pixel is object above this probability.
        rle: Its mask as a COCO run-length encoding.
        locked: Its pixels are background for what is made after it.
        start: The mask that the first click corrected, as an encoding, or None.
        removed: Pixels of locked objects that were taken away when it was finished, as an encoding, or None.
    """

    id: int
    class_id: int
    clicks: tuple[MadeClick, ...]
    threshold: float
    rle: Mapping[str, Any]
    locked: bool = True
    start: Mapping[str, Any] | None = None
    removed: Mapping[str, Any] | None = None

    @cached_property
    def outline(self) -> Outline:
        """Area, box and polygons, computed once."""
        return outline_of(self.rle)


@dataclass(frozen=True)
class Draft:
    """The object being made.

    Args:
        clicks: In order.
        class_id: Its class so far.
        edits: The finished object that was reopened, or None.
        start: The mask that the first click corrects, as an encoding, or None.
    """

    clicks: tuple[MadeClick, ...]
    class_id: int
    edits: SegmentedObject | None = None
    start: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class State:
    """A picture's annotation at one moment."""

    draft: Draft | None = None
    objects: tuple[SegmentedObject, ...] = ()
    next_id: int = 1
    last_class: int | None = None

    def object(self, number: int) -> SegmentedObject:
        """The finished object of an id.

        Raises:
            NoSuchObjectError: When there is none.
        """
        for one in self.objects:
            if one.id == number:
                return one
        known = ", ".join(str(one.id) for one in self.objects) or "none"
        raise NoSuchObjectError(f"no finished object {number} in this picture; there are: {known}")


def apply(state: State, event: Mapping[str, Any]) -> State:
    """The state after an event; a pure function.

    Args:
        state: Before.
        event: ``{"event": NAME, ...}`` as it stands in the log.

    Raises:
        LookupError, TypeError, ValueError: When the event is of no known kind, or does not fit.
    """
    kind, draft = event["event"], state.draft
    if kind == "click":
        draft = draft or Draft((), int(event["class_id"]))
        return replace(state, draft=replace(draft, clicks=(*draft.clicks, _made_click(event["click"]))))
    if kind == "finish":
        done = _object(event["object"])
        objects = sorted([*state.objects, done], key=lambda one: one.id)
        return State(None, tuple(objects), max(state.next_id, done.id + 1), done.class_id)
    if kind == "discard":
        back = () if draft is None or draft.edits is None else (draft.edits,)
        return replace(
            state, draft=None, objects=tuple(sorted([*state.objects, *back], key=lambda one: one.id))
        )
    if kind == "edit":
        one = state.object(int(event["id"]))
        start = one.rle if event["from_mask"] else one.start
        reopened = Draft(() if event["from_mask"] else one.clicks, one.class_id, edits=one, start=start)
        return replace(
            state, draft=reopened, objects=tuple(other for other in state.objects if other is not one)
        )
    if kind == "set":
        one = state.object(int(event["id"]))
        changed = replace(
            one,
            class_id=int(event.get("class_id", one.class_id)),
            locked=bool(event.get("locked", one.locked)),
        )
        return replace(state, objects=tuple(changed if other is one else other for other in state.objects))
    if kind == "delete":
        one = state.object(int(event["id"]))
        return replace(state, objects=tuple(other for other in state.objects if other is not one))
    if kind == "import":
        added = tuple(_object(one) for one in event["objects"])
        return replace(
            state,
            objects=(*state.objects, *added),
            next_id=max([state.next_id, *(one.id + 1 for one in added)]),
        )
    raise ValueError(f"no event is called {kind!r}")


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


def object_event(one: SegmentedObject) -> dict[str, Any]:
    """An object as it stands in the log."""
    return {
        "id": one.id,
        "class_id": one.class_id,
        "clicks": [click_event(made) for made in one.clicks],
        "threshold": one.threshold,
        "rle": dict(one.rle),
        "locked": one.locked,
        "start": None if one.start is None else dict(one.start),
        "removed": None if one.removed is None else dict(one.removed),
    }


def click_event(made: MadeClick) -> dict[str, Any]:
    """A click as it stands in the log; floats are written so that they are read back to the bit."""
    click = made.click
    return {
        "row": click.row,
        "col": click.col,
        "positive": click.positive,
        "radius": click.radius,
        "given": made.given,
    }


def _made_click(event: Mapping[str, Any]) -> MadeClick:
    radius = None if event["radius"] is None else float(event["radius"])
    return MadeClick(
        Click(float(event["row"]), float(event["col"]), bool(event["positive"]), radius), bool(event["given"])
    )


def _object(event: Mapping[str, Any]) -> SegmentedObject:
    return SegmentedObject(
        id=int(event["id"]),
        class_id=int(event["class_id"]),
        clicks=tuple(_made_click(click) for click in event["clicks"]),
        threshold=float(event["threshold"]),
        rle=event["rle"],
        locked=bool(event["locked"]),
        start=event["start"],
        removed=event["removed"],
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
