"""Project: a folder being annotated, with its images, classes, logs and lock."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from dct_seg.app.folder import OWN_FOLDER, Entry, Folder
from dct_seg.app.history import History, HistoryError, Mark
from dct_seg.app.inside import open_without_links
from dct_seg.app.picture_lock import PictureLock
from dct_seg.app.state import SegmentedObject, State
from dct_seg.app.watching import Watcher
from dct_seg.app.working_image import WorkingImage, WorkingImages
from dct_seg.files import BROKEN, write_whole
from dct_seg.rle import BrokenMaskError, decode, decode_part

COLORS = (
    *("#4c6ef5", "#f76707", "#12b886", "#e64980", "#fab005"),
    *("#7950f2", "#15aabf", "#82c91e", "#fa5252", "#868e96"),
)
"""Default class colors, in the order that the page uses too."""


class ProjectMovedError(OSError):
    """A folder that was moved since this server locked it; nothing is written."""


class ProjectError(ValueError):
    """An unusable project file, or a folder that another server has locked."""


@dataclass(frozen=True)
class ClassLabel:
    """A kind of object.

    Args:
        id: Number of the class, 1 or more.
        name: Name that is shown and exported.
        color: Color as ``#rrggbb``.
    """

    id: int
    name: str
    color: str


@dataclass(frozen=True)
class Summary:
    """Entry of the image list."""

    num_objects: int = 0
    has_draft: bool = False
    class_ids: frozenset[int] = frozenset()
    nothing: bool = False
    error: str | None = None

    @classmethod
    def of(cls, state: State) -> Summary:
        """The summary of a state."""
        objects = [*state.objects, *([state.draft.edits] if state.draft and state.draft.edits else [])]
        classes = {one.class_id for one in objects} | ({state.draft.class_id} if state.draft else set())
        nothing = state.nothing and not objects and state.draft is None
        return cls(len(state.objects), state.draft is not None, frozenset(classes), nothing)


@dataclass
class OpenPicture:
    """Locked image; use it only within its turn."""

    id: str
    name: str
    history: History
    lock: PictureLock = field(default_factory=PictureLock)
    users: int = 0
    _locked: tuple[tuple[SegmentedObject, ...], NDArray[np.bool_] | None] = ((), None)
    _start: tuple[Mapping[str, Any] | None, NDArray[np.bool_] | None, NDArray[np.bool_] | None] = (
        None,
        None,
        None,
    )

    def locked(self) -> NDArray[np.bool_] | None:
        """The pixels of locked objects, (H, W) of the full size.

        None when there are none. Cached per list of objects, and updated when objects are added.
        """
        objects = self.history.state.objects
        before, mask = self._locked
        if before is not objects:
            if len(before) > len(objects) or any(
                one is not known for one, known in zip(objects, before, strict=False)
            ):
                before, mask = (), None
            for one in objects[len(before) :]:
                found = decode_part(one.rle) if one.locked else None
                if found is not None:
                    mask = np.zeros(one.rle["size"], bool) if mask is None else mask
                    mask[found[0]] |= found[1]
            self._locked = (objects, mask)
        return self._locked[1]

    def start(self, working: WorkingImage) -> NDArray[np.bool_] | None:
        """The mask that the draft corrects, (h, w) of the working image; the same array each time."""
        self.start_mask()
        rle, mask, reduced = self._start
        if mask is not None and reduced is None:
            reduced = mask if working.factor == 1 else working.reduced(mask).copy()
            self._start = (rle, mask, reduced)
        return reduced

    def start_mask(self) -> NDArray[np.bool_] | None:
        """The mask that the draft corrects, (H, W) of the full size."""
        draft = self.history.state.draft
        rle = None if draft is None else draft.start
        if self._start[0] is not rle:
            self._start = (rle, None if rle is None else decode(rle), None)
        return self._start[1]


class Project:
    """A folder being annotated; everything is written to its subfolder ``.dct-seg``.

    Args:
        root: The folder.
        class_names: Initial classes; those that the folder lacks are added.
        keep: Number of image histories kept in memory.

    Raises:
        FileNotFoundError: When there is no such folder.
        ProjectError: (a ValueError) When another server has locked it, or its files cannot be read.
    """

    def __init__(self, root: str | Path, class_names: Sequence[str] = (), *, keep: int = 32) -> None:
        self.folder = Folder(root)
        self._own = self.folder.root / OWN_FOLDER
        if self._own.is_symlink():
            raise ProjectError(
                f"{self._own} is a link; make it a folder, so that the work stays with the images"
            )
        self._own.mkdir(exist_ok=True)
        self._file_lock = FileLock(self._own / "lock")
        try:
            self._file_lock.acquire(timeout=0)
        except Timeout as error:
            raise ProjectError(
                f"another annotator is open on {self.folder.root}; use that one, or stop it first"
            ) from error
        # The file is held open, so that no other one can get its number.
        self._lock_status = os.stat(self._own / "lock")
        self.pictures = WorkingImages(self.folder.read)
        self._keep = keep
        self._open: OrderedDict[str, OpenPicture] = OrderedDict()
        self._summaries: dict[str, Summary] = {}
        self._marks: dict[str, Mark | None] = {}
        """Marks of the logs read so far, so that an older copy is noticed."""
        self._last: str | None = None
        self._changes: dict[str, int] = {}  # image -> number of its last change in this run
        self._serial = 0
        self._lock = threading.Lock()
        self.watcher = Watcher(self.folder, self._own / "pictures", self._adopt)
        self.classes = self._read_classes()
        self._add_classes(class_names)

    def close(self) -> None:
        """Release the folder's lock."""
        self._file_lock.release()

    def check_in_place(self) -> None:
        """Check that the folder is still the one that this server has locked.

        Raises:
            ProjectMovedError: (an OSError) when the folder was moved, removed or replaced.
        """
        try:
            same = os.path.samestat(os.lstat(self._own / "lock"), self._lock_status)
        except OSError:
            same = False
        if not same:
            raise ProjectMovedError(
                f"the folder {self.folder.root.name} was moved, or its {OWN_FOLDER} changed by another "
                "program; nothing was written: put it back, or restart the annotator where it is now"
            )

    @contextmanager
    def open(self, picture_id: str) -> Iterator[tuple[OpenPicture, WorkingImage]]:
        """Image with its history, kept in memory at least until the block ends.

        Raises:
            NoSuchPictureError: When the folder has no such image.
            UnreadableFileError, HistoryError: (ValueErrors) when it or its log cannot be read.
            LogChangedError: (an OSError) When another program has changed its log.
        """
        entry = self.folder.entry(picture_id)
        working = self.pictures.get(picture_id)
        with self._lock:
            opened = self._open.get(picture_id)
            if opened is None:
                history = History(self._log(picture_id), picture=entry.name, size=working.size)
                if self._marks.get(picture_id, history.mark) != history.mark:
                    raise history.changed()
                opened = OpenPicture(picture_id, entry.name, history)
                self._open[picture_id] = opened
            opened.users += 1
            revision = opened.history.revision
            self._open.move_to_end(picture_id)
        try:
            yield opened, working
        except BrokenMaskError as error:
            raise opened.history.broken_mask(error) from error
        finally:
            with self._lock:
                opened.users -= 1
                self._marks[picture_id] = opened.history.mark
                changed = opened.history.revision != revision
                if changed:
                    self._last = picture_id
                    self._serial += 1
                    self._changes[picture_id] = self._serial
                self._summaries[picture_id] = Summary.of(opened.history.state)
                for idle in [key for key, one in self._open.items() if one.users == 0][
                    : max(0, len(self._open) - self._keep)
                ]:
                    del self._open[idle]
            if changed:
                self.watcher.remember(entry)

    def entries(self) -> list[Entry]:
        """Images of the folder by name, and deleted images whose objects are kept."""
        gone = self.watcher.gone()
        return (
            sorted([*self.folder.entries(), *gone], key=lambda one: one.name)
            if gone
            else self.folder.entries()
        )

    def changed_since(self, serial: int) -> tuple[int, list[Entry]]:
        """Number of the last change in this run, and the images changed since a given number."""
        with self._lock:
            ids = {one for one, number in self._changes.items() if number > serial}
            serial = self._serial
        return serial, [one for one in self.folder.entries() if one.id in ids] if ids else []

    def _adopt(self, lost: str, entry: Entry) -> bool:
        """Move the log of a deleted image to one with the same content."""
        with self._lock:
            if any(self._open[one].users for one in (lost, entry.id) if one in self._open):
                return False
            try:
                self.check_in_place()
                if self._log(entry.id).exists():
                    return False
                self._log(lost).rename(self._log(entry.id))
            except OSError:
                return False
            for one in (lost, entry.id):
                self._open.pop(one, None)
                self._summaries.pop(one, None)
                self._marks.pop(one, None)
            self._last = entry.id if self._last == lost else self._last
            return True

    def summary(self, entry: Entry) -> Summary:
        """Summarize an image for the list, from its log alone."""
        with self._lock:
            if entry.id not in self._summaries:
                try:
                    self._summaries[entry.id] = Summary.of(self.history(entry).state)
                except HistoryError as error:
                    self._summaries[entry.id] = Summary(error=str(error))
                except OSError as error:
                    self._summaries[entry.id] = Summary(error=f"its log cannot be read ({error.strerror})")
            return self._summaries[entry.id]

    def last(self) -> str | None:
        """Id of the image that was changed last, in this run or an earlier one."""
        logs = self._own / "pictures"
        with self._lock:
            if self._last is None and logs.is_dir():
                found = [(one.stat().st_mtime_ns, one.name) for one in os.scandir(logs)]
                self._last = max(found, default=(0, ""))[1].removesuffix(".jsonl") or None
        return self._last

    def history(self, entry: Entry) -> History:
        """Load an image's history from its log; the size is None without a log.

        Raises:
            HistoryError: When the log is broken.
        """
        return History(self._log(entry.id), picture=entry.name)

    def set_classes(self, classes: Sequence[ClassLabel]) -> None:
        """Replace the list of classes; on disk when this returns.

        Raises:
            ValueError: When ids or names repeat, or a class that objects have is missing.
            ProjectMovedError: (an OSError) when the folder was moved, removed or replaced.
        """
        self.check_in_place()
        for what, values in (("id", [one.id for one in classes]), ("name", [one.name for one in classes])):
            if len(set(values)) < len(values):
                twice = next(value for place, value in enumerate(values) if value in values[:place])
                raise ValueError(f"two classes have the {what} '{twice}'; each needs its own")
        missing = {one.id: one.name for one in self.classes if one.id not in {other.id for other in classes}}
        for entry in self.entries():
            used = self.summary(entry).class_ids & missing.keys()
            if used:
                number = min(used)
                raise ValueError(
                    f"class {number} '{missing[number]}' has objects in {entry.name}; give them another "
                    "class first"
                )
        labels = [{"id": one.id, "name": one.name, "color": one.color} for one in classes]
        write_whole(
            self._own / "classes.json",
            json.dumps({"version": 1, "classes": labels}, indent=1) + "\n",
            durable=True,
        )
        self.classes = list(classes)

    def check_class(self, class_id: int, *, of: str = "") -> None:
        """Check that a class exists.

        Args:
            class_id: Number of the class.
            of: Image that has an object of the class, or "".

        Raises:
            ValueError: When it does not exist.
        """
        if class_id not in {one.id for one in self.classes}:
            known = ", ".join(f"{one.id} {one.name}" for one in self.classes)
            needed = f", which an object in {of} has" if of else ""
            raise ValueError(f"no class {class_id}{needed}; there are: {known}")

    def _add_classes(self, names: Sequence[str]) -> None:
        classes = list(self.classes)
        for name in names:
            if name not in {one.name for one in classes}:
                number = max((one.id for one in classes), default=0) + 1
                classes.append(ClassLabel(number, name, COLORS[(number - 1) % len(COLORS)]))
        if not classes:
            classes.append(ClassLabel(1, "object", COLORS[0]))
        if classes != self.classes:
            self.set_classes(classes)

    def _read_classes(self) -> list[ClassLabel]:
        file = self._own / "classes.json"
        try:
            handle = open_without_links(self._own, Path(file.name), os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            with os.fdopen(handle, "rb") as opened:
                found: Sequence[Mapping[str, Any]] = json.loads(opened.read())["classes"]
            return [ClassLabel(int(one["id"]), str(one["name"]), str(one["color"])) for one in found]
        except (*BROKEN, OSError) as error:
            raise ProjectError(f"{file} cannot be read ({error}); mend it or take it away") from error

    def _log(self, picture_id: str) -> Path:
        return self._own / "pictures" / f"{picture_id}.jsonl"
