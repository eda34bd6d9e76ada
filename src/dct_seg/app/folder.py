"""Image files of a folder, addressed by opaque ids; no other file can be read."""

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

from dct_seg.app.safe_open import OutsideError, open_inside
from dct_seg.data import medical
from dct_seg.data.brightness import Window
from dct_seg.data.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    MAX_SIDE,
    OTHER_SUFFIXES,
    SEVERAL_SUFFIXES,
    TOO_LARGE,
    Shown,
    UnreadableFileError,
    heif_needed,
    image_formats,
    page_numbers,
    read_on_white,
    read_shown,
)
from dct_seg.data.pages import suffix_of

T = TypeVar("T")

OWN_FOLDER = ".dct-seg"
PREDICTED = "predicted.jsonl"
"""File that identifies an output folder of ``dct-seg predict``."""
OUTPUTS = ("masks", "overlays")
"""Output folders next to that file, which contain no input images."""


class NoSuchImageError(LookupError):
    """Error for an unknown image id."""


@dataclass(frozen=True)
class Entry:
    """Image file of a folder.

    Args:
        id: Opaque id, the same after a restart.
        name: Path inside the folder, with ``/`` as separator.
        path: Path of the file; not resolved yet.
        error: Reason why the image cannot be opened, or None.
        page: Number of the image in its file, from 1.
    """

    id: str
    name: str
    path: Path
    error: str | None
    page: int = 1

    @property
    def file(self) -> str:
        """Path of the image's file inside the folder."""
        return self.name.removesuffix(f"#{self.page}")


class ImageFolder:
    """Folder of images that are opened safely.

    Args:
        root: Folder of the images; symlinks are followed only to targets inside it.

    Raises:
        FileNotFoundError: When the folder does not exist.
        ValueError: When ``root`` is a file.
    """

    def __init__(self, root: str | Path) -> None:
        path = Path(root)
        if not path.exists():
            raise FileNotFoundError(f"there is no folder {path}; give the folder of the images")
        if not path.is_dir():
            raise ValueError(f"{path} must be a folder, got a file; give the folder of the images")
        self.root = path.resolve()
        formats = (*image_formats(), "MPO")
        known = Image.registered_extensions()  # also loads all formats of Pillow
        self._suffixes = {suffix for suffix, kind in known.items() if kind in formats}
        self._suffixes |= {*IMAGE_SUFFIXES, *OTHER_SUFFIXES, ""}
        self._entries: dict[str, Entry] = {}
        self._checked: dict[Path, tuple[tuple[int, int], dict[int, str | None]]] = {}
        """Cache by file: its time and size, and the error of each image in it, or None."""
        self._lock = threading.Lock()
        self.scan()

    def scan(self) -> list[Entry]:
        """Scan the folder and return its images by name; only headers of new or changed files are read."""
        found: dict[str, Entry] = {}
        for folder, subfolders, files in os.walk(self.root):
            outputs = OUTPUTS if PREDICTED in files else ()
            subfolders[:] = sorted(
                name for name in subfolders if not name.startswith(".") and name not in outputs
            )
            for file in files:
                if not file.startswith(".") and suffix_of(file) in self._suffixes:
                    found |= {entry.id: entry for entry in self._images_in_file(Path(folder) / file)}
        entries = sorted(found.values(), key=lambda entry: (entry.file, entry.page))
        with self._lock:
            self._entries = {entry.id: entry for entry in entries}
        return entries

    def entry(self, image_id: str) -> Entry:
        """Look up an image by its id.

        Raises:
            NoSuchImageError: When no image has this id.
        """
        found = self._entries.get(image_id)
        if found is None:
            raise NoSuchImageError(f"there is no image '{image_id}'; GET /api/v1/project lists all images")
        return found

    def entries(self) -> list[Entry]:
        """Images sorted by name, as of the last scan."""
        return list(self._entries.values())

    def stamp(self, image_id: str) -> tuple[int, int] | None:
        """Get the modification time and size of an image's file; None when there is no file.

        Raises:
            NoSuchImageError: When the folder has no such image.
        """
        try:
            return file_stamp(self.entry(image_id).path.stat())
        except OSError:
            return None

    def open(self, image_id: str) -> BinaryIO:
        """Open an image file for reading, if it is inside the folder and has a supported format and size.

        The check applies to the opened file, so that swapping in a symlink afterwards has no effect.

        Raises:
            NoSuchImageError: When the folder has no such image.
            UnreadableFileError: (a ValueError) When it lies outside the folder or cannot be opened.
        """
        entry = self.entry(image_id)
        return self._open(entry)

    def read(self, image_id: str, window: Window | None = None) -> Shown:
        """Read an image as upright (H, W, 3) RGB, from any supported file.

        A failure is stored as the image's error.

        Args:
            image_id: Id of the image.
            window: Values shown as 0 and 255 above 8 bits per channel, or None for the default rule.

        Raises:
            NoSuchImageError: When the folder has no such image.
            UnreadableFileError: (a ValueError) When it lies outside the folder or cannot be opened.
        """
        return self._read(image_id, read_shown, window)

    def read_on_white(self, image_id: str, window: Window | None = None) -> NDArray[np.uint8] | None:
        """Read an image with transparency on white, as upright (H, W, 3) RGB; None for an opaque one.

        Raises:
            NoSuchImageError: When the folder has no such image.
            UnreadableFileError: (a ValueError) When it lies outside the folder or cannot be opened.
        """
        return self._read(image_id, read_on_white, window)

    def _read(self, image_id: str, reader: Callable[..., T], window: Window | None) -> T:
        with self.open(image_id) as file:
            entry = self.entry(image_id)
            try:
                return reader(entry.name, file=file, page=entry.page, window=window)
            except UnreadableFileError as error:
                with self._lock:
                    stamp, errors = file_stamp(os.fstat(file.fileno())), self._checked[entry.path][1]
                    self._checked[entry.path] = (stamp, {**errors, entry.page: str(error)})
                    self._entries[image_id] = replace(entry, error=str(error))
                raise

    def _images_in_file(self, path: Path) -> list[Entry]:
        """List the images of a file: pages of a TIFF, frames of a DICOM, slices of a NIfTI, otherwise one."""
        relative = path.relative_to(self.root).as_posix()
        name = os.fsencode(relative).decode("utf-8", "replace")  # a file name need not be valid text
        try:
            stamp = file_stamp(path.stat())
        except OSError:
            stamp = (0, 0)  # a broken symlink
        known = self._checked.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, self._errors(Entry("", name, path, None)))
            with self._lock:
                self._checked[path] = known
        several = len(known[1]) > 1
        return [
            Entry(_id(relative, page), f"{name}#{page}" if several else name, path, error, page)
            for page, error in known[1].items()
        ]

    def _errors(self, entry: Entry) -> dict[int, str | None]:
        """Map the number of each image in a file to the reason why it cannot be opened, or None.

        Reads only headers. A file without a suffix is skipped unless it is DICOM.
        """
        suffix = suffix_of(entry.path)
        if suffix in OTHER_SUFFIXES:
            return {1: f"{entry.name} cannot be read: {suffix} is not supported; convert it to PNG or TIFF"}
        try:
            with self._open(entry) as file:
                if suffix == "" and medical.kind_of(entry.name, file) is None:
                    return {}
                if suffix not in ("", *SEVERAL_SUFFIXES):
                    return {1: None}
                sizes = page_numbers(entry.name, file=file)
                return {page: _size_problem(entry.name, size) for page, size in sizes.items()}
        except UnreadableFileError as error:
            return {1: str(error)} if suffix else {}

    def _open(self, entry: Entry) -> BinaryIO:
        path, name = entry.path, entry.name
        try:
            file = os.fdopen(open_inside(self.root, path, private=OWN_FOLDER), "rb")
        except OutsideError as error:
            raise UnreadableFileError(
                f"{name} is a link to a file outside the folder; replace it with the image itself"
            ) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: a symlink loop, before Python 3.13
            reason = (isinstance(error, OSError) and error.strerror) or "it is a broken link"
            raise UnreadableFileError(
                f"{name} cannot be decoded ({reason}); replace the file, or remove it from the folder"
            ) from error
        try:
            _check_header(file, entry)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file


def _check_header(file: BinaryIO, entry: Entry) -> None:
    """Check the format and the size of an image.

    Raises:
        UnreadableFileError: (a ValueError) When either is not supported.
    """
    name = entry.name
    is_medical = medical.kind_of(entry.file, file) is not None
    if suffix_of(entry.path) == "" and not is_medical:
        return
    if is_medical:
        size = page_numbers(entry.file, file=file).get(entry.page, (1, 1))
    else:
        size = _size_of(file, entry)
    problem = _size_problem(name, size)
    if problem:
        raise UnreadableFileError(problem)


def _size_of(file: BinaryIO, entry: Entry) -> tuple[int, int]:
    """Read (height, width) from the header of an image that Pillow supports."""
    name = entry.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=image_formats())
            if entry.page > 1:
                image.seek(entry.page - 1)
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise UnreadableFileError(f"{name} is far too large; {TOO_LARGE}") from error
    except Exception as error:  # a broken header makes Pillow raise almost anything
        needed = heif_needed(name)
        if needed:
            raise UnreadableFileError(needed) from error
        reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableFileError(
            f"{name} cannot be decoded ({reason or type(error).__name__}); replace the file, or remove it "
            "from the folder"
        ) from error
    return height, width


def _size_problem(name: str, size: tuple[int, int]) -> str | None:
    height, width = size
    if height * width > MAX_PIXELS or max(size) > MAX_SIDE:
        return f"{name} is {width}x{height}; {TOO_LARGE}"
    return None


def _id(relative: str, page: int) -> str:
    """Make the opaque id of an image; the first page has the id of its file."""
    number = b"#%d" % page if page > 1 else b""
    return hashlib.sha256(os.fsencode(relative) + number).hexdigest()[:20]


def file_stamp(status: os.stat_result) -> tuple[int, int]:
    """Get modification time and size, which change with the file."""
    return status.st_mtime_ns, status.st_size
