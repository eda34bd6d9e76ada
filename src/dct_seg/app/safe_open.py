"""Safe opening of files in a folder, without following symlinks out of it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_ALWAYS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | _ALWAYS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_DIRECTORY", 0)
_FILE = _ALWAYS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not block


_CAN_WALK = os.open in os.supports_dir_fd
"""Whether each folder of a path can be opened inside the previous one; not on Windows."""


class OutsideError(OSError):
    """Error for a symlink that leads out of the folder or was swapped in while a file was opened."""


def open_inside(root: Path, path: Path, *, private: str = "") -> int:
    """Open a file for reading if its path, with links resolved, lies inside ``root``.

    Symlinks may point to other places inside. They are resolved once. The resolved path is then opened folder
    by folder and must not contain a symlink: one that was swapped in meanwhile is refused.

    Args:
        root: Folder, as a resolved path.
        path: Path below ``root``.
        private: Name of folders that must not be read.

    Returns:
        Descriptor of a regular file.

    Raises:
        OutsideError: When the file lies outside, or a link was swapped in.
        OSError: When the file cannot be opened.
    """
    target = path.resolve(strict=True)
    if not target.is_relative_to(root) or private in target.relative_to(root).parts:
        raise OutsideError(errno.ELOOP, "a link to a file outside the folder", str(path))
    return open_without_links(root, target.relative_to(root), os.O_RDONLY)


def open_without_links(root: Path, relative: Path, flags: int) -> int:
    """Open a regular file below ``root``; neither the file nor a folder on its path may be a link.

    Args:
        root: Folder that contains the file.
        relative: Path of the file, relative to ``root``.
        flags: Flags of `os.open`; a new file is readable by all.

    Returns:
        Descriptor of a regular file.

    Raises:
        OutsideError: When there is a link on the path.
        OSError: When the file cannot be opened, or is not a regular file.
    """
    handle = _open(root, relative, flags | _FILE)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(root / relative))
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
            raise OutsideError(errno.ELOOP, "there is a link on the path", str(root / relative)) from error
        raise
    finally:
        os.close(folder)


def _open_and_compare(path: Path, flags: int) -> int:
    handle = os.open(path, flags, 0o666)
    if path.resolve() != path.absolute() or not os.path.samestat(os.fstat(handle), os.lstat(path)):
        os.close(handle)
        raise OutsideError(errno.ELOOP, "there is a link on the path", str(path))
    return handle
