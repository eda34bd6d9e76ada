"""Images of a folder, addressed by opaque ids.

No other file can be reached through it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dct_seg.app.inside import OutsideError, open_inside
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
PREDICTED = "predicted.jsonl"
"""File that marks an output folder of ``dct-seg predict``."""
OUTPUTS = ("masks", "overlays")
"""Output folders beside it, which hold no input images."""


class NoSuchPictureError(LookupError):
    """An id that no image of the folder has."""


@dataclass(frozen=True)
class Entry:
    """Image file of a folder.

    Args:
        id: Opaque, the same at each start.
        name: Path inside the folder as text, with ``/``.
        path: Path of the image; not resolved yet.
        error: Reason that it cannot be opened, or None.
    """

    id: str
    name: str
    path: Path
    error: str | None


class Folder:
    """Find images below ``root`` and open them safely.

    Args:
        root: The folder; symlinks are followed only to targets inside it.

    Raises:
        FileNotFoundError: When there is no such folder.
        ValueError: When it is a file.
    """

    def __init__(self, root: str | Path) -> None:
        path = Path(root)
        if not path.exists():
            raise FileNotFoundError(f"no folder {path}")
        if not path.is_dir():
            raise ValueError(f"{path} is a file; give the folder of the images")
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
        """Scan the images by name; reads only the headers of new or changed files."""
        found = {}
        for folder, subfolders, files in os.walk(self.root):
            made_here = OUTPUTS if PREDICTED in files else ()
            subfolders[:] = sorted(
                name for name in subfolders if not name.startswith(".") and name not in made_here
            )
            for file in files:
                if not file.startswith(".") and Path(file).suffix.lower() in self._suffixes:
                    entry = self._entry(Path(folder) / file)
                    found[entry.id] = entry
        entries = sorted(found.values(), key=lambda entry: entry.name)
        with self._lock:
            self._entries = {entry.id: entry for entry in entries}
        return entries

    def entry(self, picture_id: str) -> Entry:
        """The image of an id.

        Raises:
            NoSuchPictureError: When there is none.
        """
        found = self._entries.get(picture_id)
        if found is None:
            raise NoSuchPictureError(f"no picture '{picture_id}'; GET /api/v1/project lists them")
        return found

    def entries(self) -> list[Entry]:
        """Images by name, as of the last scan."""
        return list(self._entries.values())

    def open(self, picture_id: str) -> BinaryIO:
        """Open an image file for reading, if it is inside the folder and has a supported format and size.

        The opened file itself is checked, so that a swapped symlink does no harm.

        Raises:
            NoSuchPictureError: When the folder has no such image.
            UnreadableFileError: (a ValueError) when it must not or cannot be opened.
        """
        entry = self.entry(picture_id)
        return self._open(entry.path, entry.name)

    def read(self, picture_id: str) -> NDArray[np.uint8]:
        """Read an image as upright (H, W, 3) RGB, from any supported file.

        A failure is stored as the image's error.

        Raises:
            NoSuchPictureError: When the folder has no such image.
            UnreadableFileError: (a ValueError) when it must not or cannot be opened.
        """
        return self._read(picture_id, read_image)

    def read_on_white(self, picture_id: str) -> NDArray[np.uint8] | None:
        """Read an image with transparency on white, as upright (H, W, 3) RGB; None for an opaque one.

        Raises:
            NoSuchPictureError: When the folder has no such image.
            UnreadableFileError: (a ValueError) when it must not or cannot be opened.
        """
        return self._read(picture_id, read_on_white)

    def _read(self, picture_id: str, reader: Callable[..., T]) -> T:
        with self.open(picture_id) as file:
            entry = self.entry(picture_id)
            try:
                return reader(entry.name, file=file)
            except UnreadableFileError as error:
                with self._lock:
                    self._checked[picture_id] = (_stamp(os.fstat(file.fileno())), str(error))
                    self._entries[picture_id] = replace(entry, error=str(error))
                raise

    def _entry(self, path: Path) -> Entry:
        relative = path.relative_to(self.root).as_posix()
        picture_id = hashlib.sha256(os.fsencode(relative)).hexdigest()[:20]
        name = os.fsencode(relative).decode("utf-8", "replace")  # a file name may not be valid text
        try:
            stamp = _stamp(path.stat())
        except OSError:
            stamp = (0, 0)  # a broken symlink
        known = self._checked.get(picture_id)
        if known is None or known[0] != stamp:
            known = (stamp, self._problem(path, name))
            with self._lock:
                self._checked[picture_id] = known
        return Entry(picture_id, name, path, known[1])

    def _problem(self, path: Path, name: str) -> str | None:
        """Reason that a file is not opened, or None; reads only its header."""
        try:
            self._open(path, name).close()
        except UnreadableFileError as error:
            return str(error)
        return None

    def _open(self, path: Path, name: str) -> BinaryIO:
        try:
            file = os.fdopen(open_inside(self.root, path, private=OWN_FOLDER), "rb")
        except OutsideError as error:
            raise UnreadableFileError(
                f"{name} is a link that leaves the folder; put the image itself there"
            ) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: a symlink loop, before Python 3.13
            reason = (isinstance(error, OSError) and error.strerror) or "its links lead nowhere"
            raise UnreadableFileError(
                f"{name} cannot be decoded ({reason}); replace it or take it out of the folder"
            ) from error
        try:
            self._check_header(file, name)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _check_header(self, file: BinaryIO, name: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                width, height = Image.open(file, formats=image_formats()).size
        except Image.DecompressionBombError as error:
            raise UnreadableFileError(f"{name} is far too large; {TOO_LARGE}") from error
        except Exception as error:  # a broken header makes Pillow raise almost anything
            reason = "no image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
            raise UnreadableFileError(
                f"{name} cannot be decoded ({reason or type(error).__name__}); replace it or take it out of "
                "the folder"
            ) from error
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise UnreadableFileError(f"{name} is {width}x{height}; {TOO_LARGE}")


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """Modification time and size, which change when the file does."""
    return status.st_mtime_ns, status.st_size
