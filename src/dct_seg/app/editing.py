"""Changes to an image's objects: each change is in the log before it is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dct_seg.app import imports, readers, schemas, wire
from dct_seg.app.carry import carried
from dct_seg.app.history import HistoryError
from dct_seg.app.painting import Paint, painted
from dct_seg.app.project import OpenPicture, Project
from dct_seg.app.segmenter import Segmenter
from dct_seg.app.state import Draft, MadeClick, SegmentedObject, State, click_event, object_event
from dct_seg.app.working_image import WorkingImage, bounding_box
from dct_seg.clicks import Click
from dct_seg.data.images import IGNORE
from dct_seg.methods.base import Method, check_click
from dct_seg.rle import decode_part, encode

MAX_CLICKS = 200
"""Limit of clicks in a draft since its last manual step."""

MAX_STEPS = 2000
"""Limit of steps in a draft."""

UNCHANGED = {
    "fill_holes": "this object has no hole",
    "drop_specks": "this object has no specks",
    "keep_largest": "this object has one part only",
}


class StaleError(ValueError):
    """A change made on an outdated revision."""


@dataclass
class _Turn:
    """Image locked for one change; ``before``: its objects at the start."""

    opened: OpenPicture
    working: WorkingImage
    before: tuple[SegmentedObject, ...] | None = None

    @property
    def state(self) -> State:
        return self.opened.history.state


class Editor:
    """Editing commands of the annotator, without HTTP.

    Args:
        project: The folder.
        make_method: A new method for an image; networks inside may be shared.
    """

    def __init__(self, project: Project, make_method: Callable[[], Method]) -> None:
        self.project = project
        self._segmenter = Segmenter(make_method)

    def picture(self, picture_id: str) -> schemas.Picture:
        """Return the current image state."""
        with self.project.open(picture_id) as (opened, working), opened.lock.reading():
            return self._answer(_Turn(opened, working))

    def preview(self, picture_id: str, request: schemas.NewPreview) -> schemas.Preview | None:
        """Preview the mask after one more click.

        None when a newer request came meanwhile.
        """
        started = time.perf_counter()
        with self.project.open(picture_id) as (opened, working), opened.lock.preview() as ours:
            if not ours:
                return None
            _check_revision(opened, request.revision)
            before = opened.history.state.draft
            clicks = () if before is None else tuple(made.click for made in before.clicks)
            computing = time.perf_counter()
            click = self._with_radius(opened, working, clicks, request.click)
            start, locked = opened.start(working), opened.locked()
            if request.live:
                look = self._segmenter.live(picture_id, working, clicks, click, start)
                computed = time.perf_counter()
                mask, exact = wire.live_mask(look, working, locked), look.is_exact
            else:
                probs = self._segmenter.predict(picture_id, working, (*clicks, click), start)
                computed = time.perf_counter()
                mask, exact = wire.mask(probs, working, locked), True
            times = schemas.Milliseconds(
                model=_milliseconds(computing, computed), total=_milliseconds(started, time.perf_counter())
            )
            return schemas.Preview(
                seq=request.seq, mask=mask, exact=exact, radius=click.radius, milliseconds=times
            )

    def add_click(self, picture_id: str, request: schemas.NewClick) -> schemas.Picture:
        """Add a click to the draft; the first click starts it."""
        with self._change(picture_id, request) as turn:
            opened, working, state = turn.opened, turn.working, turn.state
            clicks = () if state.draft is None else tuple(made.click for made in state.draft.clicks)
            if len(clicks) >= MAX_CLICKS:
                raise ValueError(
                    f"this object has {MAX_CLICKS} clicks already; finish it, and go on with another one"
                )
            made = MadeClick(
                self._with_radius(opened, working, clicks, request.click), request.click.radius is not None
            )
            self._segmenter.predict(
                picture_id, working, (*clicks, made.click), opened.start(working)
            )  # what fails must not be in the log
            event = {"event": "click", "click": click_event(made), "class_id": self._class_of(state)}
            opened.history.append({**event, "threshold": request.threshold})
            return self._answer(turn)

    def paint(self, picture_id: str, request: schemas.NewPaint) -> schemas.Picture:
        """Add a manual step to the draft; a stroke that adds pixels can start it."""
        given = {**request.paint.model_dump(), "threshold": request.threshold}
        paint = Paint.read(given)
        with self._change(picture_id, request) as turn:
            draft = turn.state.draft
            if draft is None and not (paint.positive and paint.kind in ("brush", "lasso")):
                raise HistoryError("there is no object to change; drag on one, or paint one first")
            if draft is not None and len(draft.earlier) + len(draft.clicks) >= MAX_STEPS:
                raise ValueError(f"this object has {MAX_STEPS} steps already; finish it")
            before = (
                np.zeros(turn.working.size, bool)
                if draft is None
                else self._mask(turn.opened, turn.working, draft, request.threshold)
            )
            after = painted(before, paint)
            if paint.kind in UNCHANGED and np.array_equal(before, after):
                raise ValueError(UNCHANGED[paint.kind])
            event = {"event": "paint", "paint": paint.event(), "mask": encode(after)}
            turn.opened.history.append({**event, "class_id": self._class_of(turn.state)})
            return self._answer(turn)

    def undo(self, picture_id: str, request: schemas.Change) -> schemas.Picture:
        """Undo the last change."""
        return self._simple(picture_id, request, {"event": "undo"})

    def redo(self, picture_id: str, request: schemas.Change) -> schemas.Picture:
        """Redo the change that was undone last."""
        return self._simple(picture_id, request, {"event": "redo"})

    def discard(self, picture_id: str, request: schemas.Change) -> schemas.Picture:
        """Discard the draft; a reopened object is restored."""
        return self._simple(picture_id, request, {"event": "discard"})

    def nothing_here(self, picture_id: str, request: schemas.NothingHere) -> schemas.Picture:
        """Mark an image without objects as done or not done."""
        with self._change(picture_id, request) as turn:
            if turn.state.objects or turn.state.draft:
                raise HistoryError(
                    "there are objects on this image; delete them before saying that it has none"
                )
            turn.opened.history.append({"event": "nothing", "nothing": request.nothing})
            return self._answer(turn)

    def finish(self, picture_id: str, request: schemas.Finish) -> schemas.Picture:
        """Finish the draft as an object."""
        with self._change(picture_id, request) as turn:
            self.project.check_class(request.class_id)
            opened, state = turn.opened, turn.state
            if state.draft is None:
                raise HistoryError("there is no draft to finish; click on an object first")
            mask = self._mask(opened, turn.working, state.draft, request.threshold)
            locked, box = opened.locked(), bounding_box(mask)
            taken = None
            if locked is not None and box is not None and (mask[box] & locked[box]).any():
                taken = np.zeros_like(mask)
                taken[box] = mask[box] & locked[box]
                mask = mask & ~taken
            if not mask.any():
                raise ValueError(
                    f"no pixel is above {request.threshold:g} and free; click on the object, or lower the "
                    "threshold"
                )
            edits = state.draft.edits
            done = SegmentedObject(
                id=state.next_id if edits is None else edits.id,
                class_id=request.class_id,
                clicks=state.draft.clicks,
                threshold=request.threshold,
                rle=encode(mask),
                locked=True if edits is None else edits.locked,
                start=state.draft.start,
                removed=None if taken is None else encode(taken),
                earlier=state.draft.earlier,
                origin=state.draft.origin,
            )
            opened.history.append({"event": "finish", "object": object_event(done)})
            return self._answer(turn)

    def edit(self, picture_id: str, number: int, request: schemas.Change) -> schemas.Picture:
        """Reopen a finished object as the draft.

        It keeps its steps; without steps, its mask becomes the start mask.
        """
        with self._change(picture_id, request) as turn:
            if turn.state.draft is not None:
                raise HistoryError("there is a draft already; finish or discard it first")
            one = turn.state.object(number)
            from_mask = not one.clicks and not one.earlier
            turn.opened.history.append({"event": "edit", "id": number, "from_mask": from_mask})
            return self._answer(turn)

    def change_object(self, picture_id: str, number: int, request: schemas.ObjectChange) -> schemas.Picture:
        """Change the class or the lock of a finished object."""
        return self._set(picture_id, [number], request)

    def change_objects(self, picture_id: str, request: schemas.ObjectsChange) -> schemas.Picture:
        """Change the class or the lock of several finished objects."""
        return self._set(picture_id, request.ids, request)

    def delete(self, picture_id: str, number: int, request: schemas.Change) -> schemas.Picture:
        """Delete a finished object."""
        return self._simple(picture_id, request, {"event": "delete", "ids": [number]})

    def delete_objects(self, picture_id: str, request: schemas.NamedObjects) -> schemas.Picture:
        """Delete several finished objects."""
        return self._simple(picture_id, request, {"event": "delete", "ids": sorted(set(request.ids))})

    def merge(self, picture_id: str, request: schemas.NamedObjects) -> schemas.Picture:
        """Merge finished objects into one mask without steps; it keeps the first one's number and class."""
        with self._change(picture_id, request) as turn:
            merged = [turn.state.object(number) for number in sorted(set(request.ids))]
            if len(merged) < 2:
                raise ValueError("one object is merged with nothing; give two or more")
            mask = np.zeros(turn.working.size, bool)
            for one in merged:
                found = decode_part(one.rle)
                if found is not None:
                    mask[found[0]] |= found[1]
            first = turn.state.object(request.ids[0])
            made = SegmentedObject(
                id=first.id,
                class_id=first.class_id,
                clicks=(),
                threshold=0.5,
                rle=encode(mask),
                locked=any(one.locked for one in merged),
            )
            event = {"event": "merge", "ids": [one.id for one in merged], "object": object_event(made)}
            turn.opened.history.append(event)
            return self._answer(turn)

    def carry(self, picture_id: str, request: schemas.Carry) -> schemas.Picture:
        """Copy objects from another image, moved along the optical flow between the two."""
        with self.project.open(request.source) as (source, working), source.lock.reading():
            objects = [source.history.state.object(number) for number in sorted(set(request.ids))]
            size, before = working.size, working.image
        with self._change(picture_id, request) as turn:
            if turn.working.size != size:
                (height, width), (rows, cols) = turn.working.size, size
                raise ValueError(
                    f"this image is {width}x{height}, the one before {cols}x{rows}; objects are carried "
                    "between images of one size"
                )
            locked, number = turn.opened.locked(), turn.state.next_id
            added: list[SegmentedObject] = []
            for one, rle in zip(
                objects, carried([one.rle for one in objects], before, turn.working.image), strict=True
            ):
                found = decode_part(rle)
                mask = np.zeros(size, bool)
                if found is not None:
                    mask[found[0]] = found[1] if locked is None else found[1] & ~locked[found[0]]
                if not mask.any():
                    continue
                made = imports.imported(number + len(added), one.class_id, encode(mask))
                added.append(replace(made, locked=one.locked))
            if not added:
                raise ValueError(
                    "nothing of these objects is found here: they are out of sight, or marked already"
                )
            turn.opened.history.append({"event": "import", "objects": [object_event(one) for one in added]})
            return self._answer(turn)

    def import_masks(self, picture_id: str, png: bytes, revision: int | None) -> schemas.Picture:
        """Import the objects of a mask PNG (indexed, or 0 and 255) into the first class."""
        change = None if revision is None else schemas.Change(revision=revision)
        with self._change(picture_id, change) as turn:
            opened, working = turn.opened, turn.working
            labels = imports.read_labels(png, working.size)
            number, class_id = opened.history.state.next_id, self.project.classes[0].id
            values = [int(value) for value in np.unique(labels) if value not in (0, IGNORE)]
            added = [
                imports.imported(number + place, class_id, encode(labels == value))
                for place, value in enumerate(values)
            ]
            if not added:
                raise ValueError("the PNG holds no object; each has a value of its own from 1 to 254")
            added = _new(added, turn.state)
            if added:  # else all of them are on this image already, which is what was asked for
                opened.history.append({"event": "import", "objects": [object_event(one) for one in added]})
            return self._answer(turn)

    def import_file(self, content: bytes) -> schemas.Imported:
        """Import the objects of a COCO, CVAT, Label Studio or Datumaro file."""
        found = readers.coco_of(content)
        try:
            coco = schemas.CocoFile.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"the file holds no COCO JSON ({where}: {first['msg']})") from error
        return self.import_coco(coco)

    def import_coco(self, content: schemas.CocoFile) -> schemas.Imported:
        """Import the objects of a COCO JSON.

        Annotations that do not fit are reported one by one; the others are imported.
        """
        plan = imports.plan(content, self.project.folder.entries())
        class_ids = imports.add_classes(self.project, plan.categories)
        num_pictures = num_objects = num_known = 0
        skipped = list(plan.skipped)
        for entry, record, objects in plan.pictures:
            try:
                with self._change(entry.id, None) as turn:
                    opened, working = turn.opened, turn.working
                    imports.check_size(record, working.size)
                    first_id = opened.history.state.next_id
                    added, problems = imports.objects_of(objects, working.size, class_ids, first_id)
                    skipped += [f"{entry.name}: {line}" for line in problems]
                    there = len(added)
                    added = _new(added, turn.state)
                    num_known += there - len(added)
                    if not added:
                        continue
                    event = {"event": "import", "objects": [object_event(one) for one in added]}
                    opened.history.append(event)
            except ValueError as error:
                skipped.append(f"{entry.name}: {error}")
                continue
            num_pictures, num_objects = num_pictures + 1, num_objects + len(added)
        return schemas.Imported(
            pictures=num_pictures, objects=num_objects, known=num_known, skipped=imports.shortened(skipped)
        )

    @contextmanager
    def _change(self, picture_id: str, change: schemas.Change | None) -> Iterator[_Turn]:
        self.project.check_in_place()
        with self.project.open(picture_id) as (opened, working), opened.lock.changing():
            _check_revision(opened, None if change is None else change.revision)
            brief = change is not None and change.brief
            yield _Turn(opened, working, opened.history.state.objects if brief else None)

    def _simple(self, picture_id: str, change: schemas.Change, event: Mapping[str, Any]) -> schemas.Picture:
        with self._change(picture_id, change) as turn:
            turn.opened.history.append(event)
            return self._answer(turn)

    def _set(self, picture_id: str, numbers: Sequence[int], request: schemas.ObjectChange) -> schemas.Picture:
        if request.class_id is not None:
            self.project.check_class(request.class_id)
        given = (("class_id", request.class_id), ("locked", request.locked))
        changes = {name: value for name, value in given if value is not None}
        if not changes:
            raise ValueError("nothing to change; give class_id, locked or both")
        return self._simple(picture_id, request, {"event": "set", "ids": sorted(set(numbers)), **changes})

    def _class_of(self, state: State) -> int:
        """Class of the draft, or of a new one."""
        return state.draft.class_id if state.draft else state.last_class or self.project.classes[0].id

    def _with_radius(
        self, opened: OpenPicture, working: WorkingImage, clicks: tuple[Click, ...], given: schemas.GivenClick
    ) -> Click:
        click = Click(given.row, given.col, given.positive, given.radius)
        check_click(click, working.size)
        return self._segmenter.with_radius(opened.id, working, clicks, click, opened.start(working))

    def _probabilities(self, opened: OpenPicture, working: WorkingImage, draft: Draft) -> NDArray[np.float32]:
        return self._segmenter.predict(
            opened.id, working, [made.click for made in draft.clicks], opened.start(working)
        )

    def _mask(
        self, opened: OpenPicture, working: WorkingImage, draft: Draft, threshold: float
    ) -> NDArray[np.bool_]:
        """Draft mask, (H, W) of the full size; without clicks it is the start mask."""
        start = opened.start_mask()
        if start is not None and not draft.clicks:
            return start
        return working.mask(self._probabilities(opened, working, draft), threshold)

    def _answer(self, turn: _Turn) -> schemas.Picture:
        """Image state for the page; after a brief request, with the changed objects only."""
        opened, working, history = turn.opened, turn.working, turn.opened.history
        state, before = history.state, {one.id: one for one in turn.before or ()}
        changed = [one for one in state.objects if before.pop(one.id, None) is not one]
        mask = None
        if state.draft is not None:
            start, locked = opened.start_mask(), opened.locked()
            if start is not None and not state.draft.clicks:
                mask = wire.hand_mask(start, locked)
            else:
                mask = wire.mask(self._probabilities(opened, working, state.draft), working, locked)
        return schemas.Picture(
            id=opened.id,
            name=opened.name,
            width=working.size[1],
            height=working.size[0],
            revision=history.revision,
            can_undo=history.can_undo,
            can_redo=history.can_redo,
            draft=wire.draft(state),
            objects=[wire.finished(one) for one in changed],
            brief=turn.before is not None,
            gone=sorted(before),
            mask=mask,
            nothing=state.nothing and not state.objects and state.draft is None,
        )


def _new(added: Sequence[SegmentedObject], state: State) -> list[SegmentedObject]:
    """Select the objects that do not exist yet, so that importing twice does not duplicate them."""
    there = {(one.class_id, one.rle["counts"]) for one in state.objects}
    return [one for one in added if (one.class_id, one.rle["counts"]) not in there]


def _check_revision(opened: OpenPicture, revision: int | None) -> None:
    if revision is not None and revision != opened.history.revision:
        raise StaleError(
            f"the image is at revision {opened.history.revision}, not {revision}; fetch it again"
        )


def _milliseconds(start: float, end: float) -> float:
    return round(1000 * (end - start), 2)
