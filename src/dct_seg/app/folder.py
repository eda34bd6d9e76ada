"""The pictures of a folder, known to the outside by opaque ids.

Nothing else of the disk can be reached through it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_seg.data.images import (
    MAX_PIXELS,
    MAX_SIDE,
    TOO_LARGE,
    UnreadableFileError,
    image_formats,
    read_image,
    read_on_white,
)

T = TypeVar("T")

OWN_FOLDER = ".dct-seg"


class NoSuchPictureError(LookupError):
    """An id that none of the folder's pictures has."""


@dataclass(frozen=True)
class Entry:
    """A picture's file.

    Args:
        id: Opaque, the same at each start.
        name: Path inside the folder as text, with ``/``.
        path: Where it lies; not resolved yet.
        error: Why it cannot be opened, or None.
    """

    id: str
    name: str
    path: Path
    error: str | None


class Folder:
    """Finds pictures below ``root`` and opens them safely.

    Args:
        root: The folder; links inside it are followed only to what lies inside it too.

    Raises:
        FileNotFoundError: When there is no such folder.
        ValueError: When it is a file.
    """

    def __init__(self, root: str | Path) -> None:
        path = Path(root)
        if not path.exists():
            raise FileNotFoundError(f"no folder {path}")
        if not path.is_dir():
            raise ValueError(f"{path} is a file; give the folder of the pictures")
        self.root = path.resolve()
        known = Image.registered_extensions()  # which makes Pillow load all its formats
        self._suffixes = {suffix for suffix, kind in known.items() if kind in (*image_formats(), "MPO")}
        self._entries: dict[str, Entry] = {}
        self._checked: dict[
            str, tuple[tuple[int, int], str | None]
        ] = {}  # id -> (time and size of the file, error)
        self._lock = threading.Lock()
        self.scan()

    def scan(self) -> list[Entry]:
        """All pictures by name; only headers are read, and only of files that are new or changed."""
        found = {}
        for folder, subfolders, files in os.walk(self.root):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for file in files:
                if not file.startswith(".") and Path(file).suffix.lower() in self._suffixes:
                    entry = self._entry(Path(folder) / file)
                    found[entry.id] = entry
        entries = sorted(found.values(), key=lambda entry: entry.name)
        with self._lock:
            self._entries = {entry.id: entry for entry in entries}
        return entries

    def entry(self, picture_id: str) -> Entry:
        """The picture of an id.

        Raises:
            NoSuchPictureError: When there is none.
        """
        found = self._entries.get(picture_id)
        if found is None:
            raise NoSuchPictureError(f"no picture '{picture_id}'; GET /api/v1/project lists them")
        return found

    def entries(self) -> list[Entry]:
        """All pictures by name, as of the last scan."""
        return list(self._entries.values())

    def file(self, picture_id: str) -> Path:
        """The file to read, checked anew: inside the folder, of a known format, of a size that is taken.

        Raises:
            NoSuchPictureError: When the folder has no such picture.
            UnreadableFileError: (a ValueError) when it must not or cannot be opened.
        """
        entry = self.entry(picture_id)
        error = self._problem(entry.path, entry.name)
        if error:
            raise UnreadableFileError(error)
        return entry.path.resolve()

    def read(self, picture_id: str) -> NDArray[np.uint8]:
        """The picture as (H, W, 3) RGB, upright, whatever its file holds.

        A failure is remembered as the picture's error.

        Raises:
            NoSuchPictureError: When the folder has no such picture.
            UnreadableFileError: (a ValueError) when it must not or cannot be opened.
        """
        return self._read(picture_id, read_image)

    def read_on_white(self, picture_id: str) -> NDArray[np.uint8] | None:
        """A picture with transparency laid on white, (H, W, 3) RGB, upright; None for one without.

        Raises:
            NoSuchPictureError: When the folder has no such picture.
            UnreadableFileError: (a ValueError) when it must not or cannot be opened.
        """
        return self._read(picture_id, read_on_white)

    def _read(self, picture_id: str, reader: Callable[[Path], T]) -> T:
        path = self.file(picture_id)
        try:
            return reader(path)
        except (UnreadableFileError, FileNotFoundError) as error:
            entry = self.entry(picture_id)
            line = str(error).replace(str(path), entry.name)
            with self._lock:
                self._checked[picture_id] = (_stamp(path), line)
                self._entries[picture_id] = replace(entry, error=line)
            raise UnreadableFileError(line) from error

    def _entry(self, path: Path) -> Entry:
        relative = path.relative_to(self.root).as_posix()
        picture_id = hashlib.sha256(os.fsencode(relative)).hexdigest()[:20]
        name = os.fsencode(relative).decode("utf-8", "replace")  # a file name may be no text at all
        stamp = _stamp(path)
        known = self._checked.get(picture_id)
        if known is None or known[0] != stamp:
            known = (stamp, self._problem(path, name))
            with self._lock:
                self._checked[picture_id] = known
        return Entry(picture_id, name, path, known[1])

    def _problem(self, path: Path, name: str) -> str | None:
        """Why a file is not opened, or None; reads no more than its header."""
        try:
            target = path.resolve(strict=True)
            if not target.is_relative_to(self.root) or OWN_FOLDER in target.relative_to(self.root).parts:
                return f"{name} is a link that leaves the folder; put the picture itself there"
            if not target.is_file():
                return f"{name} is no file"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(target, formats=image_formats()) as picture:
                    width, height = picture.size
        except Image.DecompressionBombError:
            return f"{name} is far too large; {TOO_LARGE}"
        except Exception as error:  # a broken header makes Pillow raise almost anything
            reason = str(error).replace(str(path), name).replace(str(self.root), "")
            return (
                f"{name} cannot be decoded ({reason or type(error).__name__}); replace it or take it out of "
                "the folder"
            )
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            return f"{name} is {width}x{height}; {TOO_LARGE}"
        return None


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does; zeros for a link to nowhere."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
