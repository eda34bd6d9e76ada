"""Names of images, also in multi-image files: ``stack.tif#3`` is the third image in ``stack.tif``."""

from __future__ import annotations

import re
from pathlib import Path

_NUMBER = r"#([1-9][0-9]{0,6})"
_PAGE = re.compile(rf"(.+\.(?:tiff?|dcm|dicom|nii|nii\.gz)){_NUMBER}", re.IGNORECASE | re.DOTALL)
_PAGE_WITHOUT_SUFFIX = re.compile(rf"((?:.*[/\\])?[^./\\]+){_NUMBER}", re.DOTALL)


def split_page(path: str | Path) -> tuple[Path, int]:
    """Split a name into the file and the number of the image in it, from 1.

    A name without a suffix, as of some DICOM files, is split only if that file exists.

    Examples:
        >>> split_page("ct/stack.tif#3")[1], split_page("ct/stack.tif")[1]
        (3, 1)
    """
    found = _PAGE.fullmatch(str(path))
    if found is None:
        found = _PAGE_WITHOUT_SUFFIX.fullmatch(str(path))
        if found is None or Path(path).exists() or not Path(found[1]).is_file():
            return Path(path), 1
    return Path(found[1]), int(found[2])


def plain_stem(name: str | Path) -> str:
    """Remove the suffix of an image's path, but keep the number of the image in its file.

    Examples:
        >>> plain_stem("ct/stack.tif#3"), plain_stem("a.b.jpg"), plain_stem("brain.nii.gz#12")
        ('ct/stack#3', 'a.b', 'brain#12')
    """
    path, number, page = str(name), "", _PAGE.fullmatch(str(name))
    if page is not None:
        path, number = page[1], f"#{page[2]}"
    suffix = suffix_of(path)
    return f"{path[: len(path) - len(suffix)]}{number}" if suffix else f"{path}{number}"


def suffix_of(path: str | Path) -> str:
    """Get the suffix in lower case; ``.nii.gz`` counts as one."""
    lower = str(path).lower()
    return ".nii.gz" if lower.endswith(".nii.gz") else Path(lower).suffix
