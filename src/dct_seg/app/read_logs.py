"""Readers of click logs, predictor sessions and the annotator's event logs, as untrusted input."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from functools import partial
from typing import Any

from dct_seg.app.history import FORMAT, VERSION, Timeline, check_masks
from dct_seg.app.import_files import GivenFiles
from dct_seg.app.import_result import FoundAnnotations, FoundImage, FoundObject, reason_of
from dct_seg.app.replay import ObjectClicks, object_of_line
from dct_seg.app.state import SegmentedObject
from dct_seg.data.segmentation import from_segmentation
from dct_seg.files import BROKEN


def is_log(record: Any) -> bool:
    """Whether a JSON value is a line of a click log, a session, or the first line of an event log."""
    return isinstance(record, dict) and ("clicks" in record or record.get("format") == FORMAT)


def read_work(files: GivenFiles, found: FoundAnnotations) -> bool:
    """Read the annotator's folder ``.dct-seg``: event logs and class names."""
    for name in files.names:
        root, last = posixpath.split(name)
        if last != "classes.json":
            continue
        logs = [one for one in files.names if posixpath.dirname(one) == posixpath.join(root, "pictures")]
        if logs:
            with found.reporting(name):
                listed = json.loads(files.read(name))["classes"]
                classes = {int(one["id"]): str(one["name"]) for one in listed}
                ids = {str(one["name"]): one.get("category_id") for one in listed}
                found.categories |= {one: None if ids[one] is None else int(ids[one]) for one in ids}
                for log in logs:
                    with found.reporting(log):
                        read_log(files.read(log), found, f"{log}: ", classes)
            return True
    return False


def read_log(
    content: bytes, found: FoundAnnotations, where: str = "", classes: Mapping[int, str] | None = None
) -> None:
    """Read a click log, a session or an event log.

    Args:
        content: JSON Lines.
        found: Result to add to.
        where: Prefix of each position in a message, such as the file's name.
        classes: Class names of an event log by number; None uses this folder's classes with these numbers.

    Raises:
        ValueError: When no line is part of such a log.
    """
    first = first_record(content)
    lines = content.split(b"\n")
    if first is None:
        raise ValueError("it contains no object of a click log and no event of the annotator")
    if first.get("format") == FORMAT:
        _read_events(lines, found, where, classes)
    else:
        _read_clicks(lines, found, where)


def first_record(content: bytes) -> Any:
    """Parse the first line that belongs to a log, or return None."""
    return next((line for line in map(_json, content.split(b"\n")) if is_log(line)), None)


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_clicks(lines: list[bytes], found: FoundAnnotations, where: str) -> None:
    images: dict[str, FoundImage] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        with found.reporting(f"{where}line {number}"):
            line = json.loads(text)
            given = object_of_line(line, {})
            image = images.get(given.image) or found.add_image(given.image, given.size)
            images[given.image] = image
            image.sha256 = line.get("image_sha256", image.sha256)
            image.objects.append(_found_object(f"line {number}", given))


def _found_object(place: str, given: ObjectClicks) -> FoundObject:
    """Make the object of a line; its mask is predicted again, unless it has no steps."""
    if not given.clicks and not given.earlier:
        return FoundObject(place, given.label, partial(from_segmentation, given.start))
    steps = SegmentedObject(
        id=0,
        class_id=0,
        clicks=given.clicks,
        threshold=given.threshold,
        rle={},
        start=given.start,
        removed=given.removed,
        earlier=given.earlier,
        origin=given.origin,
        window=given.window,
    )
    return FoundObject(place, given.label, None, steps)


def _read_events(
    lines: list[bytes], found: FoundAnnotations, where: str, classes: Mapping[int, str] | None
) -> None:
    header = json.loads(lines[0])
    if header["version"] > VERSION:
        raise ValueError(f"it was written by a newer dct-seg (version {header['version']}); update dct-seg")
    size = int(header["height"]), int(header["width"])
    image = found.add_image(str(header["picture"]), size)
    timeline = Timeline()
    for number, line in enumerate(lines[1:-1], start=2):  # text after the last line end is incomplete
        try:
            event = json.loads(line)
            after = timeline.after(event)
            check_masks(event, size)
        except BROKEN as error:
            reason = f"{reason_of(error)}; imported the objects as they were before this line"
            found.skipped.append(f"{where}line {number}: {reason}")
            break
        timeline = after
    draft = timeline.state.draft
    reopened = [] if draft is None or draft.edits is None else [draft.edits]
    for one in (*timeline.state.objects, *reopened):
        label = one.class_id if classes is None else classes.get(one.class_id, one.class_id)
        image.objects.append(FoundObject(f"object {one.id}", label, partial(from_segmentation, one.rle), one))
