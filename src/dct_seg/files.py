"""Atomic file writes, folder locks, and errors that name a broken file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

BROKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions raised by reading broken content."""
LAST_CHECKPOINTS = "last*.ckpt"
"""Pattern of a run's last checkpoints; a second one in a folder is last-v1.ckpt."""


def broken_reason(error: Exception) -> str:
    """Describe an error of broken content; a KeyError's text is only the key.

    Examples:
        >>> broken_reason(KeyError("items"))
        "'items' is missing"
    """
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


@contextmanager
def naming(what: str, remedy: str) -> Iterator[None]:
    """Replace any error about broken content by one with the file or line, and the remedy.

    Args:
        what: Start of the message, such as ``line 3 of FILE``.
        remedy: Advice that ends the message.

    Raises:
        ValueError: When the block raises one of the exceptions of broken content.

    Examples:
        >>> with naming("a.json is not a list", "write it again"):
        ...     {}["items"]
        Traceback (most recent call last):
        ...
        ValueError: a.json is not a list (KeyError 'items'); write it again
    """
    try:
        yield
    except BROKEN as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{what} ({type(error).__name__} {said}); {remedy}") from error


def newest_file(paths: Iterable[Path]) -> Path | None:
    """Find the newest of some files; None if there are none."""
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def not_a_folder(path: str | Path) -> str:
    """Make the message that a file has the path of an output folder."""
    return f"'{path}' cannot be a folder: a file is in its place; give another path"


@contextmanager
def lock_folder(folder: Path, work: str) -> Iterator[None]:
    """Lock a folder for one writer; the lock is released however the process ends.

    Args:
        folder: Folder to lock; created if it does not exist.
        work: Name of the command that uses the folder, for the message.

    Raises:
        ValueError: When another process holds the lock, or a file is in the folder's place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(not_a_folder(folder)) from error
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another {work} is running in {folder}; wait for it, or give another --out"
        ) from error


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; the file there replaces ``path`` when the block ends.

    The replacement is atomic: a reader sees the old file or the new one. If the block raises, the old file
    stays and the temporary one is removed.

    Args:
        path: Path of the file; its folder is created.
        durable: Whether to flush to disk, so that the file survives a power failure.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(f"{folder}/notes.txt") as temporary:
        ...         _ = temporary.write_text("all of it")
        ...     [file.name for file in Path(folder).iterdir()]
        ['notes.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Only the start of the name, which may have the maximum length; no suffix, so that no pattern matches it.
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if (
            durable and os.name == "posix"
        ):  # the new name is an entry of the folder; other systems cannot open a folder
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes, *, durable: bool = False) -> Path:
    """Write a file atomically; text is UTF-8 with unchanged line ends.

    Args:
        path: Path of the file; its folder is created.
        content: Content of the file.
        durable: Whether to flush to disk before returning, as in `whole_file`.

    Returns:
        Path of the file.
    """
    with whole_file(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
