"""Files that are whole or not there: written to a temporary name beside their own, then renamed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to.

    What stands there when the block ends becomes ``path`` in one step.

    A reader sees the old file or the new one. When the block raises, the old one stays and the temporary is
    removed.

    Args:
        path: The file; its folder is made.
        durable: Wait until the disk holds it, so that it outlives a power cut too.

    Example:
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
        path: The file; its folder is made.
        content: All of it.
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
