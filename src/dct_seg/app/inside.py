"""Open files of a folder without following a symlink out of it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_ALWAYS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | _ALWAYS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_DIRECTORY", 0)
_FILE = _ALWAYS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not block


_CAN_WALK = os.open in os.supports_dir_fd
"""Not on Windows."""


class OutsideError(OSError):
    """A symlink that leads out of its folder, or that was swapped in while a file was opened."""


def open_inside(root: Path, path: Path, *, private: str = "") -> int:
    """Open the file that a path leads to for reading, if it lies inside ``root``.

    Symlinks may lead to other places inside. They are resolved once. The resolved path is then opened folder
    by folder and must hold no symlink, so that one swapped in meanwhile is refused.

    Args:
        root: Folder, as a resolved path.
        path: Path below ``root``.
        private: Name of folders that are off limits.

    Returns:
        The descriptor of a regular file.

    Raises:
        OutsideError: When it lies outside, or a link was swapped in.
        OSError: When it cannot be opened.
    """
    target = path.resolve(strict=True)
    if not target.is_relative_to(root) or private in target.relative_to(root).parts:
        raise OutsideError(errno.ELOOP, "a link that leaves the folder", str(path))
    return open_without_links(root, target.relative_to(root), os.O_RDONLY)


def open_without_links(root: Path, relative: Path, flags: int) -> int:
    """Open a regular file below ``root``; neither it nor a folder on the way may be a link.

    Args:
        root: Folder that holds the file.
        relative: Path of the file, relative to ``root``.
        flags: Flags of :func:`os.open`; a new file is readable by all.

    Returns:
        The descriptor of a regular file.

    Raises:
        OutsideError: When there is a link.
        OSError: When it cannot be opened, or is no regular file.
    """
    handle = _open(root, relative, flags | _FILE)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file", str(root / relative))
    return handle


def _open(root: Path, relative: Path, flags: int) -> int:
    if not _CAN_WALK:
        return _open_and_compare(root / relative, flags)
    folder = os.open(root, os.O_RDONLY | _ALWAYS)
    try:
        for part in relative.parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(relative.name, flags, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            raise OutsideError(errno.ELOOP, "a link where none may be", str(root / relative)) from error
        raise
    finally:
        os.close(folder)


def _open_and_compare(path: Path, flags: int) -> int:
    handle = os.open(path, flags, 0o666)
    if path.resolve() != path.absolute() or not os.path.samestat(os.fstat(handle), os.lstat(path)):
        os.close(handle)
        raise OutsideError(errno.ELOOP, "a link where none may be", str(path))
    return handle
