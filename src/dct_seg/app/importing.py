"""Import of annotation files into a folder; records that do not fit are reported."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dct_seg.app import import_matching, readers, schemas
from dct_seg.app.folder import Entry
from dct_seg.app.import_files import GivenFiles
from dct_seg.app.import_result import FoundAnnotations, FoundImage
from dct_seg.app.open_image import OpenImage
from dct_seg.app.project import Project
from dct_seg.app.segmenter import Segmenter
from dct_seg.app.state import SegmentedObject, object_event
from dct_seg.clicks import Click
from dct_seg.rle import decode, encode
from dct_seg.session import image_hash


class Importer:
    """Importer of annotations made with this and other tools.

    Args:
        project: Project of the folder.
        segmenter: Segmenter for objects that are stored as clicks only.
    """

    def __init__(self, project: Project, segmenter: Segmenter) -> None:
        self.project = project
        self._segmenter = segmenter

    def import_file(self, content: bytes) -> schemas.Imported:
        """Import a file or a zip.

        Raises:
            ValueError: When the format is unknown; nothing has changed.
        """
        return self.add(readers.read(GivenFiles.from_bytes(content)))

    def import_path(self, path: str | Path) -> str:
        """Import a folder, a zip or a file; return a line with the result and one for each skipped record.

        Raises:
            FileNotFoundError: When the path does not exist.
            ValueError: When the format is unknown; nothing has changed.
        """
        done = self.add(readers.read(GivenFiles.from_path(path)))
        objects, images = (
            f"{number} {noun}{'s' * (number != 1)}"
            for number, noun in ((done.objects, "object"), (done.pictures, "image"))
        )
        first = f"{objects} on {images} imported, {done.known} already existed"
        return "\n  skipped: ".join([first, *done.skipped])

    def add(self, found: FoundAnnotations) -> schemas.Imported:
        """Import the result of reading annotations."""
        images, unknown = import_matching.match_images(found.images, self.project.folder.entries())
        skipped = [*found.skipped, *unknown]
        used = {one.label for _, image in images for one in image.objects}
        numbers = import_matching.class_numbers(self.project, found, used)
        changed: set[str] = set()
        num_objects = num_known = 0
        for entry, image in images:
            try:
                num_new, known, problems = self._import_image(entry, image, numbers)
            except ValueError as error:
                skipped.append(f"{entry.name}: {error}")
                continue
            skipped += [f"{entry.name}: {line}" for line in problems]
            num_objects, num_known = num_objects + num_new, num_known + known
            changed |= {entry.id} if num_new else set()
        return schemas.Imported(
            pictures=len(changed),
            objects=num_objects,
            known=num_known,
            skipped=import_matching.shorten(skipped),
        )

    def _import_image(
        self, entry: Entry, image: FoundImage, numbers: dict[import_matching.Label, int]
    ) -> tuple[int, int, list[str]]:
        """Import an image's objects; return the numbers of new and known ones, and the problems of others."""
        self.project.check_in_place()
        with self.project.open(entry.id) as (opened, working), opened.lock.changing():
            import_matching.check_size(image, working.size)
            saved = image.sha256
            if saved is not None and saved != image_hash(self.project.folder.read(entry.id).image):
                raise ValueError(
                    "the session was saved for an image with different pixels; restore that image"
                )
            first_id = opened.history.state.next_id
            objects, problems = import_matching.objects_of(
                image, working.size, numbers, first_id, partial(self._replayed, opened)
            )
            added = import_matching.new_objects(objects, opened.history.state)
            if added:
                opened.history.append({"event": "import", "objects": [object_event(one) for one in added]})
        return len(added), len(objects) - len(added), problems

    def _replayed(self, opened: OpenImage, one: SegmentedObject) -> SegmentedObject:
        """Predict the mask of an object from its start mask and clicks, and the radii of the clicks."""
        working = self.project.images.get(opened.id, one.window)
        start = None if one.start is None else decode(one.start)
        mask = np.zeros(working.size, bool) if start is None else start
        clicks: list[Click] = []
        if one.clicks:
            reduced = None if start is None else working.reduced(start).copy()
            for click in one.clicks:
                clicks.append(self._segmenter.with_radius(opened.id, working, clicks, click, reduced))
            probs = self._segmenter.predict(opened.id, working, clicks, reduced)
            mask = working.mask(probs, one.threshold)
        if one.removed is not None:
            mask = mask & ~decode(one.removed)
        return replace(one, clicks=tuple(clicks), rle=encode(mask))
