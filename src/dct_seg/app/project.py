"""Project: a folder under annotation, with its images, classes, logs and lock."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dct_seg.app.folder import OWN_FOLDER, Entry, ImageFolder
from dct_seg.app.folder_watcher import Watcher
from dct_seg.app.history import History, HistoryError, LogMark
from dct_seg.app.open_image import OpenImage
from dct_seg.app.safe_open import open_without_links
from dct_seg.app.state import ChosenBy, State, window_event
from dct_seg.app.working_image import WorkingImage, WorkingImages
from dct_seg.data.brightness import Window
from dct_seg.files import BROKEN, write_whole
from dct_seg.rle import BrokenMaskError

COLORS = (
    *("#4c6ef5", "#f76707", "#12b886", "#e64980", "#fab005"),
    *("#7950f2", "#15aabf", "#82c91e", "#fa5252", "#868e96"),
)
"""Default class colors, in the same order as on the page."""


KEPT_MASKS = 4
"""Number of images whose decoded masks are kept, at full size; the others keep their histories."""
OWNER = "images.json"
"""Name of the file in a separate work folder that contains the path of the image folder."""


class ProjectMovedError(OSError):
    """Error for a folder that was moved after this server had locked it; nothing is written."""


class ProjectError(ValueError):
    """Error for a folder that has an unusable file or is locked by another server."""


@dataclass(frozen=True)
class ClassLabel:
    """Object class.

    Args:
        id: Number of the class, 1 or more.
        name: Name for display and export.
        color: Color as ``#rrggbb``.
        category_id: Id in an imported COCO JSON, which an export keeps, or None.
    """

    id: int
    name: str
    color: str
    category_id: int | None = None


class ClassesChangedError(ValueError):
    """Error for an edit of classes that started from another list than the current one.

    Args:
        classes: Current classes.
    """

    def __init__(self, classes: Sequence[ClassLabel]) -> None:
        super().__init__("the classes have changed since; start again from the current ones")
        self.classes = classes


@dataclass(frozen=True)
class ImageSummary:
    """Summary of an image's log for the image list."""

    num_objects: int = 0
    has_draft: bool = False
    class_ids: frozenset[int] = frozenset()
    nothing: bool = False
    error: str | None = None
    window: Window | None = None

    @classmethod
    def of(cls, state: State) -> ImageSummary:
        """Summarize a state."""
        objects = [*state.objects, *([state.draft.edits] if state.draft and state.draft.edits else [])]
        classes = {one.class_id for one in objects} | ({state.draft.class_id} if state.draft else set())
        nothing = state.nothing and not objects and state.draft is None
        window = state.window if state.draft is None else state.draft.window
        return cls(len(state.objects), state.draft is not None, frozenset(classes), nothing, window=window)


class Project:
    """Folder under annotation; all output goes to its subfolder ``.dct-seg`` or to a given folder.

    Args:
        root: Folder of the images.
        class_names: Initial classes, added to those of the folder.
        work: Folder for all output, outside ``root``, which may then be read-only.
        keep: Number of image histories kept in memory.

    Raises:
        FileNotFoundError: When the folder does not exist.
        ProjectError: (a ValueError) When another server has locked it, nothing can be written, ``work``
            belongs to other images, or its files cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        class_names: Sequence[str] = (),
        *,
        work: str | Path | None = None,
        keep: int = 32,
    ) -> None:
        self.folder = ImageFolder(root)
        self.work = work_folder(self.folder.root, work)
        """Folder of all output."""
        try:
            self.work.mkdir(parents=work is not None, exist_ok=True)
            self._file_lock = FileLock(self.work / "lock")
            self._file_lock.acquire(timeout=0)
            (self.work / "lock").touch()  # a folder that became read-only still has its old lock file
        except Timeout as error:
            raise ProjectError(
                f"another annotator is running on {self.work if work else self.folder.root}; use that one, "
                "or stop it first"
            ) from error
        except OSError as error:
            raise ProjectError(
                f"{self.work} cannot be written ({error.strerror or error}); set --work to a writable folder"
            ) from error
        # The file stays open, so that its inode number is not reused.
        self._lock_status = os.stat(self.work / "lock")
        self._check_owner(given=work is not None)
        for left in (self.work / "exports").glob("*"):  # from a killed server
            left.unlink(missing_ok=True)
        self.images = WorkingImages(self.folder.read, self.folder.stamp)
        self.window = self._read_window()
        self._keep = keep
        self._open: OrderedDict[str, OpenImage] = OrderedDict()
        self._summaries: dict[str, ImageSummary] = {}
        self._marks: dict[str, LogMark | None] = {}
        """Marks of the logs read so far, to detect a log restored from an older copy."""
        self._last: str | None = None
        self._changes: dict[str, int] = {}  # image -> serial number of its last change in this run
        self._serial = 0
        self._lock = threading.Lock()
        self._classes_lock = threading.Lock()
        self.watcher = Watcher(self.folder, self.work / "pictures", self._adopt)
        self.classes = self._read_classes()
        self._add_classes(class_names)

    def close(self) -> None:
        """Release the folder's lock."""
        self._file_lock.release()

    def _check_owner(self, *, given: bool) -> None:
        """Check that a given work folder belongs to these images; the first start records it."""
        file = self.work / OWNER
        if not given:
            return
        with self._naming(file):
            owner = json.loads(file.read_text(encoding="utf-8"))["images"] if file.exists() else None
        if owner == str(self.folder.root):
            return
        if owner is not None and Path(owner).is_dir():
            self.close()
            raise ProjectError(
                f"{self.work} belongs to the images in {owner}; set --work to another folder for "
                f"{self.folder.root}"
            )
        write_whole(file, json.dumps({"images": str(self.folder.root)}) + "\n", durable=True)

    def check_in_place(self) -> None:
        """Check that the folder is still the one locked by this server.

        Raises:
            ProjectMovedError: (an OSError) when the folder was moved, removed or replaced.
        """
        try:
            same = os.path.samestat(os.lstat(self.work / "lock"), self._lock_status)
        except OSError:
            same = False
        if not same:
            raise ProjectMovedError(
                f"the folder {self.folder.root.name} was moved, or {self.work.name} was changed by another "
                "program; nothing was written; move it back, or restart the annotator with the new path"
            )

    @contextmanager
    def open(self, image_id: str) -> Iterator[tuple[OpenImage, WorkingImage]]:
        """Open an image with its history and keep it in memory at least until the block ends.

        Raises:
            NoSuchImageError: When the folder has no such image.
            UnreadableFileError, HistoryError: (ValueErrors) when the image or its log cannot be read.
            LogChangedError: (an OSError) When another program has changed its log.
        """
        entry = self.folder.entry(image_id)
        known = self._open.get(image_id)
        window = self.window if known is None else self.chosen_window(known.history.state)[0]
        size = self.images.get(image_id, window).size
        with self._lock:
            opened = self._open.get(image_id)
            if opened is None or (opened.users == 0 and opened.history.size != size):
                history = History(self._log(image_id), image_name=entry.name, size=size)
                if self._marks.get(image_id, history.mark) != history.mark:
                    raise history.changed()
                opened = OpenImage(image_id, entry.name, history)
                self._open[image_id] = opened
            opened.users += 1
            revision = opened.history.revision
            self._open.move_to_end(image_id)
        try:
            yield opened, self.working(opened)
        except BrokenMaskError as error:
            raise opened.history.broken_mask(error) from error
        finally:
            with self._lock:
                opened.users -= 1
                self._marks[image_id] = opened.history.mark
                changed = opened.history.revision != revision
                if changed:
                    self._last = image_id
                    self._serial += 1
                    self._changes[image_id] = self._serial
                self._summaries[image_id] = ImageSummary.of(opened.history.state)
                for other in [one for one in self._open.values() if one.users == 0][:-KEPT_MASKS]:
                    other.forget_masks()
                for idle in [key for key, one in self._open.items() if one.users == 0][
                    : max(0, len(self._open) - self._keep)
                ]:
                    del self._open[idle]
            if changed:
                self.watcher.remember(entry)

    def working(self, opened: OpenImage) -> WorkingImage:
        """Image at working size with the current window, the network's input.

        Raises:
            HistoryError: (a ValueError) When the file was replaced by an image of another size.
        """
        found = self.images.get(opened.id, self.chosen_window(opened.history.state)[0])
        opened.history.check_size(found.size)
        return found

    def chosen_window(self, state: State) -> tuple[Window | None, ChosenBy | None]:
        """Current window and the level at which it was chosen; None for the default rule.

        A draft keeps its initial window; otherwise the image's own applies, then the folder's.
        """
        if state.draft is not None:
            return state.draft.window, "object"
        if state.window is not None:
            return state.window, "image"
        return self.window, None if self.window is None else "folder"

    def window_of(self, image_id: str) -> Window | None:
        """Read the chosen window of an image from its log.

        Raises:
            NoSuchImageError: When the folder has no such image.
        """
        found = self.summary(self.folder.entry(image_id))
        return found.window if found.has_draft or found.window else self.window

    def window_event(self, state: State) -> dict[str, Any]:
        """Window of a new draft, for the log."""
        return {} if state.draft is not None else window_event(self.chosen_window(state)[0])

    def set_window(self, window: Window | None) -> None:
        """Choose the window of all images without their own; on disk when this returns.

        Raises:
            ProjectMovedError: (an OSError) when the folder was moved, removed or replaced.
        """
        self.check_in_place()
        content = {"version": 1, "window": None if window is None else list(window)}
        write_whole(self.work / "window.json", json.dumps(content) + "\n", durable=True)
        self.window = window

    def _read_window(self) -> Window | None:
        file = self.work / "window.json"
        if not file.exists():
            return None
        with self._naming(file):
            return Window.stored(json.loads(file.read_text(encoding="utf-8"))["window"])

    def entries(self) -> list[Entry]:
        """Images of the folder sorted by name, and deleted images whose objects are kept."""
        deleted = self.watcher.deleted()
        return (
            sorted([*self.folder.entries(), *deleted], key=lambda one: (one.file, one.page))
            if deleted
            else self.folder.entries()
        )

    def changed_since(self, serial: int) -> tuple[int, list[Entry]]:
        """Serial number of the last change in this run, and the images changed since a given one."""
        with self._lock:
            ids = {one for one, number in self._changes.items() if number > serial}
            serial = self._serial
        return serial, [one for one in self.folder.entries() if one.id in ids] if ids else []

    def _adopt(self, lost: str, entry: Entry) -> bool:
        """Move the log of a deleted image to an image with the same content."""
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

    def summary(self, entry: Entry) -> ImageSummary:
        """Summarize an image for the list from its log."""
        with self._lock:
            if entry.id not in self._summaries:
                try:
                    self._summaries[entry.id] = ImageSummary.of(self.history(entry).state)
                except HistoryError as error:
                    self._summaries[entry.id] = ImageSummary(error=str(error))
                except OSError as error:
                    self._summaries[entry.id] = ImageSummary(
                        error=f"its log cannot be read ({error.strerror}); check its permissions"
                    )
            return self._summaries[entry.id]

    def last(self) -> str | None:
        """Id of the image changed last, in this run or an earlier one."""
        logs = self.work / "pictures"
        with self._lock:
            if self._last is None and logs.is_dir():
                found = [(one.stat().st_mtime_ns, one.name) for one in os.scandir(logs)]
                self._last = max(found, default=(0, ""))[1].removesuffix(".jsonl") or None
        return self._last

    def history(self, entry: Entry) -> History:
        """Load an image's history from its log; without a log its size is None.

        Raises:
            HistoryError: When the log is damaged.
        """
        return History(self._log(entry.id), image_name=entry.name)

    def set_classes(
        self, classes: Sequence[ClassLabel], *, before: Sequence[ClassLabel] | None = None
    ) -> None:
        """Replace the classes; on disk when this returns.

        Args:
            classes: New classes.
            before: Classes that the edit started from; None to replace any.

        Raises:
            ClassesChangedError: (a ValueError) When the current classes differ from ``before``.
            ValueError: When ids or names repeat, or a class in use is missing.
            ProjectMovedError: (an OSError) when the folder was moved, removed or replaced.
        """
        with self._classes_lock:
            if before is not None and list(before) != self.classes:
                raise ClassesChangedError(self.classes)
            self._set_classes(classes)

    def _set_classes(self, classes: Sequence[ClassLabel]) -> None:
        self.check_in_place()
        for what, values in (("id", [one.id for one in classes]), ("name", [one.name for one in classes])):
            if len(set(values)) < len(values):
                twice = next(value for place, value in enumerate(values) if value in values[:place])
                raise ValueError(f"two classes have the {what} '{twice}'; give each a different one")
        missing = {one.id: one.name for one in self.classes if one.id not in {other.id for other in classes}}
        for entry in self.entries() if missing else ():
            used = self.summary(entry).class_ids & missing.keys()
            if used:
                number = min(used)
                raise ValueError(
                    f"class {number} '{missing[number]}' has objects in {entry.name}; give them another "
                    "class first"
                )
        labels = [
            {name: value for name, value in asdict(one).items() if value is not None} for one in classes
        ]
        write_whole(
            self.work / "classes.json",
            json.dumps({"version": 1, "classes": labels}, indent=1) + "\n",
            durable=True,
        )
        self.classes = list(classes)

    def check_class(self, class_id: int, *, of: str = "") -> None:
        """Check that a class exists.

        Args:
            class_id: Number of the class.
            of: Image with an object of the class, for the message, or "".

        Raises:
            ValueError: When it does not exist.
        """
        if class_id not in {one.id for one in self.classes}:
            known = ", ".join(f"{one.id} {one.name}" for one in self.classes)
            needed = f", which an object in {of} has" if of else ""
            raise ValueError(f"there is no class {class_id}{needed}; known classes: {known}")

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
        file = self.work / "classes.json"
        try:
            handle = open_without_links(self.work, Path(file.name), os.O_RDONLY)
        except FileNotFoundError:
            return []
        with self._naming(file), os.fdopen(handle, "rb") as opened:
            found: Sequence[Mapping[str, Any]] = json.loads(opened.read())["classes"]
            return [
                ClassLabel(int(one["id"]), str(one["name"]), str(one["color"]), one.get("category_id"))
                for one in found
            ]

    @contextmanager
    def _naming(self, file: Path) -> Iterator[None]:
        """Name the file in the error and release the folder's lock if it cannot be read."""
        try:
            yield
        except (*BROKEN, OSError) as error:
            self.close()
            raise ProjectError(f"{file} cannot be read ({error}); repair or remove it") from error

    def _log(self, image_id: str) -> Path:
        return self.work / "pictures" / f"{image_id}.jsonl"


def work_folder(root: Path, work: str | Path | None) -> Path:
    """Folder for all output about the images in ``root``, as a resolved path.

    Raises:
        ProjectError: (a ValueError) When it is a file or a link, or one folder contains the other.
    """
    own = root / OWN_FOLDER
    if work is None or Path(work).resolve() == own:
        if own.is_symlink():
            raise ProjectError(
                f"{own} is a link; replace it with a folder, so that the work stays with the images"
            )
        return own
    found = Path(work).resolve()
    if found.is_relative_to(root) or root.is_relative_to(found):
        raise ProjectError(
            f"--work {work} and the image folder {root} must not contain each other; give another folder, or "
            f"omit --work to write to {own}"
        )
    if found.exists() and not found.is_dir():
        raise ProjectError(f"--work must be a folder, got the file {work}; give another path")
    return found
