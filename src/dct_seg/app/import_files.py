"""Files to import: a single file, the files in a zip, or the files in a folder."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAX_UNPACKED = 512 * 2**20  # bytes read from a zip


@dataclass(frozen=True)
class GivenFiles:
    """Names of files, with contents that are read on demand.

    Args:
        names: Paths with ``/``.
        read: Function from a name to the file's bytes.
        is_one: Whether this is a single file.
    """

    names: Sequence[str]
    read: Callable[[str], bytes]
    is_one: bool = False

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "") -> GivenFiles:
        """List the files in a zip, or the single file itself.

        Args:
            content: Bytes of the file.
            name: Its name, or "".

        Raises:
            ValueError: When a zip cannot be read.
        """
        if not content.startswith(b"PK"):
            return cls([name], lambda _: content, is_one=True)
        with _reading_zip():
            archive = zipfile.ZipFile(io.BytesIO(content))
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        left = MAX_UNPACKED

        def read(name: str) -> bytes:
            nonlocal left
            with _reading_zip():
                left -= archive.getinfo(name).file_size
                if left < 0:
                    raise ValueError(f"the zip must unpack to at most {MAX_UNPACKED // 2**20} MiB; split it")
                return archive.read(name)

        return cls([name for name in names if _is_user_file(name)], read)

    @classmethod
    def from_path(cls, path: str | Path) -> GivenFiles:
        """List the files in a folder or a zip, or the single file itself.

        Raises:
            FileNotFoundError: When the path does not exist.
            ValueError: When a zip cannot be read.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder '{path}' to import; give an existing path")
        if not path.is_dir():
            return cls.from_bytes(path.read_bytes(), path.name)
        names = [one.relative_to(path).as_posix() for one in sorted(path.rglob("*")) if one.is_file()]
        return cls([name for name in names if _is_user_file(name)], lambda name: (path / name).read_bytes())


@contextmanager
def _reading_zip() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(f"the zip cannot be read ({error}); create it again") from error


def _is_user_file(name: str) -> bool:
    """Whether a file belongs to the user; operating systems add hidden ones to zips and folders."""
    return not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith(".")
