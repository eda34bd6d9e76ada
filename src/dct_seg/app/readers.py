"""Readers of annotations made with this and other tools, as untrusted input.

A reader is a function ``(files, found) -> bool``. It adds the annotations in the files to ``found``, and one
message for each bad record, and returns whether the files have its format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from dct_seg.app.import_files import GivenFiles
from dct_seg.app.import_result import FoundAnnotations
from dct_seg.app.read_logs import first_record, is_log, read_log, read_work
from dct_seg.app.read_masks import PNG, read_pngs, read_yolo
from dct_seg.app.read_records import read_coco, read_cvat, read_datumaro, read_label_studio, read_labelme
from dct_seg.app.read_voc import read_voc
from dct_seg.files import BROKEN, broken_reason

Reader = Callable[[GivenFiles, FoundAnnotations], bool]
KINDS = "COCO, CVAT, Label Studio, Datumaro, labelme, YOLO, Pascal VOC, mask PNGs or dct-seg logs"
SUFFIXES = (".json", ".jsonl", ".xml")


def read(files: GivenFiles) -> FoundAnnotations:
    """Read files of any known format.

    Raises:
        ValueError: When no file has a known format.
    """
    found = FoundAnnotations()
    if any(reader(files, found) for reader in READERS):
        return found
    names = ", ".join(sorted(files.names)[:3])
    raise ValueError(f"the files must contain {KINDS}, got {names or 'no files'}; choose others")


def read_records(files: GivenFiles, found: FoundAnnotations) -> bool:
    """Read all JSON and XML files."""
    if files.is_one:
        content = files.read(files.names[0])
        if not content.startswith(PNG):
            _read_record(content, found)
        return not content.startswith(PNG)
    names = [name for name in files.names if name.lower().endswith(SUFFIXES)]
    for name in names:
        with found.reporting(name):
            _read_record(files.read(name), found, f"{name}: ", name)
    return bool(names)


def _read_record(content: bytes, found: FoundAnnotations, where: str = "", file: str = "") -> None:
    if content.lstrip()[:1] == b"<":
        read_cvat(content, found, where)
        return
    try:
        given = json.loads(content)
    except (ValueError, RecursionError) as error:
        given = first_record(content)
        if given is None:
            raise ValueError(
                f"the file cannot be read as JSON, XML or zip ({error}); export it again"
            ) from error
    if is_log(given):
        _checked("the log", lambda: read_log(content, found, where))
    elif isinstance(given, list):
        read_label_studio(given, found, where)
    elif isinstance(given, dict) and "items" in given:
        _checked("Datumaro's JSON", lambda: read_datumaro(given, found, where))
    elif isinstance(given, dict) and "shapes" in given:
        _checked("labelme's JSON", lambda: read_labelme(given, found, where, file))
    else:
        read_coco(given, found, where)


def _checked(what: str, reader: Callable[[], None]) -> None:
    """Name the format in the error for a file whose outer structure is broken."""
    try:
        reader()
    except BROKEN as error:
        raise ValueError(f"{what} cannot be read: {broken_reason(error)}") from error


READERS: Sequence[Reader] = (read_work, read_yolo, read_voc, read_records, read_pngs)
