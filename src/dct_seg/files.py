"""Whole files, folders with one writer, and errors that name a broken file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

BROKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""Exceptions that reading raises for broken content."""


@contextmanager
def naming(what: str, remedy: str) -> Iterator[None]:
    """Say which file or line is broken, and what to do, whatever reading it raises.

    Args:
        what: ``line 3 of FILE``, or what else begins the message.
        remedy: Advice that ends the message.

    Raises:
        ValueError: When the block raises one of the exceptions of broken content.

    Examples:
        >>> with naming("a.json is no list", "write it anew"):
        ...     {}["items"]
        Traceback (most recent call last):
        ...
        ValueError: a.json is no list (KeyError 'items'); write it anew
    """
    try:
        yield
    except BROKEN as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{what} ({type(error).__name__} {said}); {remedy}") from error


@contextmanager
def hold_folder(folder: Path, work: str) -> Iterator[None]:
    """Lock a folder for one writer; the lock is released however the process ends.

    Args:
        folder: Folder to lock; created if it does not exist.
        work: Name of the work done there, for the message.

    Raises:
        ValueError: When another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another {work} is at work in {folder}; wait for it, or give another --out"
        ) from error


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to.

    What stands there when the block ends becomes ``path`` in one step.

    A reader sees the old file or the new one. When the block raises, the old one stays and the temporary is
    removed.

    Args:
        path: Path of the file; its folder is created.
        durable: Wait until the disk holds it, so that it outlives a power cut too.

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
    # The start of the name only, since a name may be as long as a file system allows; no suffix, so that no
    # pattern finds it.
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if (
            durable and os.name == "posix"
        ):  # the new name is an entry of the folder; elsewhere a folder cannot be opened
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes, *, durable: bool = False) -> Path:
    """Write a file whole or not at all; text is UTF-8 with its line ends as they are.

    Args:
        path: Path of the file; its folder is created.
        content: Whole content.
        durable: Flush to disk before returning, as in :func:`whole_file`.

    Returns:
        The file written.
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
