"""Detection of new, renamed and deleted images in a folder under annotation."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dct_seg.app.folder import Entry, ImageFolder, file_stamp
from dct_seg.files import BROKEN

PAUSE = 3.0  # seconds between two scans of the folder
SHARE = 20  # pause after a scan, as a multiple of the scan's duration


class Watcher:
    """Watcher that rescans a folder and detects renamed and deleted images.

    The size and the SHA-256 of each annotated image are stored as a line of JSON. A new file with the same
    content inherits the log of a deleted one.

    Args:
        folder: Folder of the images.
        logs: Folder of the images' logs, ``ID.jsonl`` each.
        adopt: Function that moves a log from a deleted image (first id) to a new one; False on failure.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        folder: ImageFolder,
        logs: Path,
        adopt: Callable[[str, Entry], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._logs = logs
        self._adopt = adopt
        self._clock = clock
        self._file = logs.parent / "files.jsonl"
        self._known: dict[str, dict[str, Any]] = {}
        self._hashes: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
        """Cache by file: its time and size, and its content; a file is hashed once."""
        self._scanning = threading.Lock()
        self._next = clock() + PAUSE
        self.serial = 0
        """Number of changes of the image list so far."""
        self._read()
        self._adopt_renamed()

    def scan_if_due(self) -> None:
        """Rescan the folder in the background, unless the last scan was too recent."""
        if self._clock() >= self._next and not self._scanning.locked():
            threading.Thread(target=self.scan, daemon=True).start()

    def scan(self) -> None:
        """Rescan the folder now."""
        with self._scanning:
            began = self._clock()
            before = self._folder.entries()
            after = self._folder.scan()
            adopted = self._adopt_renamed()
            if adopted or after != before:
                self.serial += 1
            self._next = self._clock() + max(PAUSE, SHARE * (self._clock() - began))

    def remember(self, entry: Entry) -> None:
        """Store the hash of an image file, once."""
        if entry.id in self._known or self._file.is_symlink():
            return
        try:
            line = {"id": entry.id, "name": entry.name, "page": entry.page, **self._content(entry.path)}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            return  # tried again at the next change
        self._known[entry.id] = line

    def deleted(self) -> list[Entry]:
        """Images with a log but no file."""
        there = {entry.id for entry in self._folder.entries()}
        return [self._deleted_entry(one) for one in self._log_ids() if one not in there]

    def _log_ids(self) -> list[str]:
        return sorted(path.stem for path in self._logs.glob("*.jsonl")) if self._logs.is_dir() else []

    def _deleted_entry(self, image_id: str) -> Entry:
        name = self._known.get(image_id, {}).get("name") or _name_in(self._logs / f"{image_id}.jsonl")
        name = name or image_id
        error = f"{name} was deleted; its objects are kept and exported; restore the file under any name"
        return Entry(image_id, name, self._folder.root / name, error)

    def _adopt_renamed(self) -> bool:
        """Move the logs of deleted images to new files with the same content."""
        known = {one.id: self._known[one.id] for one in self.deleted() if one.id in self._known}
        if not known:
            return False
        logs, sizes = set(self._log_ids()), {line["bytes"] for line in known.values()}
        adopted = False
        for entry in self._folder.entries():
            try:
                if entry.id in logs or entry.error or entry.path.stat().st_size not in sizes:
                    continue
                content = self._content(entry.path)
            except OSError:
                continue
            same = (content["sha256"], entry.page)
            lost = next((one for one, line in known.items() if (line["sha256"], line["page"]) == same), None)
            if lost is not None and self._adopt(lost, entry):
                del known[lost]
                self.remember(entry)
                adopted = True
                if not known:
                    break
        return adopted

    def _content(self, path: Path) -> dict[str, Any]:
        stamp = file_stamp(path.stat())
        found = self._hashes.get(path)
        if found is None or found[0] != stamp:
            found = self._hashes[path] = (stamp, _size_and_hash(path))
        return found[1]

    def _read(self) -> None:
        try:
            lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                one = json.loads(line)
                kept = {"name": str(one["name"]), "bytes": int(one["bytes"]), "sha256": str(one["sha256"])}
                kept["page"] = int(one.get("page", 1))
                self._known[str(one["id"])] = kept
            except BROKEN:  # noqa: PERF203  # an incomplete line affects one image only
                continue


def _size_and_hash(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _name_in(log: Path) -> str | None:
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            return str(json.loads(file.readline())["picture"])
    except (OSError, *BROKEN):
        return None
