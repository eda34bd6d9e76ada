"""Changes to an image's objects; each is logged before it is acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.app import import_matching, schemas, wire
from dct_seg.app.history import HistoryError
from dct_seg.app.import_result import FoundAnnotations, FoundImage
from dct_seg.app.open_image import OpenImage
from dct_seg.app.painting import Paint, kept_outside, painted
from dct_seg.app.project import ImageSummary, Project
from dct_seg.app.propagation import carried
from dct_seg.app.read_masks import add_png, exported_text
from dct_seg.app.segmenter import Segmenter
from dct_seg.app.state import Draft, SegmentedObject, State, click_event, object_event
from dct_seg.app.working_image import WorkingImage, bounding_box
from dct_seg.clicks import Click
from dct_seg.methods.base import Method, check_click
from dct_seg.rle import decode_part, encode

MAX_CLICKS = 200
"""Maximum number of clicks in a draft after its last manual step."""

MAX_STEPS = 2000
"""Maximum number of steps in a draft."""

UNCHANGED = {
    "fill_holes": "this object has no holes",
    "drop_specks": "this object has no specks",
    "keep_largest": "this object has only one part",
}


class StaleError(ValueError):
    """Error for a change to an outdated revision."""


@dataclass
class _Edit:
    """Image that is locked for one change, with its objects before the change."""

    project: Project
    opened: OpenImage
    before: tuple[SegmentedObject, ...] | None = None

    @property
    def working(self) -> WorkingImage:
        """Image at working size with the current window, which this change may set."""
        return self.project.working(self.opened)

    @property
    def state(self) -> State:
        return self.opened.history.state


class Editor:
    """Editing commands of the annotator, without HTTP.

    Args:
        project: Project of the folder.
        make_method: Factory of methods, one per image; they may share a network.
    """

    def __init__(self, project: Project, make_method: Callable[[], Method]) -> None:
        self.project = project
        self.segmenter = Segmenter(make_method)

    def get(self, image_id: str) -> schemas.AnnotatedImage:
        """Return the current image state."""
        with self.project.open(image_id) as (opened, _), opened.lock.reading():
            return self._describe(_Edit(self.project, opened))

    def preview(self, image_id: str, request: schemas.NewPreview) -> schemas.Preview | None:
        """Preview the mask after one more click.

        None if a newer request, or a change of the image, has replaced this one.
        """
        started = time.perf_counter()
        with self.project.open(image_id) as (opened, _), opened.lock.preview() as ours:
            if not ours or request.revision != opened.history.revision:
                return None
            working = self.project.working(opened)
            before = opened.history.state.draft
            clicks = () if before is None else before.clicks
            computing = time.perf_counter()
            click = self._with_radius(opened, working, clicks, request.click)
            start, locked = opened.start(working), opened.locked()
            if request.live:
                live = self.segmenter.live(image_id, working, clicks, click, start)
                computed = time.perf_counter()
                mask, exact = wire.live_mask(live, working, locked), live.is_exact
            else:
                probs = self.segmenter.predict(image_id, working, (*clicks, click), start)
                computed = time.perf_counter()
                mask, exact = wire.mask(probs, working, locked), True
            times = schemas.Milliseconds(
                model=_milliseconds(computing, computed), total=_milliseconds(started, time.perf_counter())
            )
            return schemas.Preview(
                seq=request.seq, mask=mask, exact=exact, radius=click.radius, milliseconds=times
            )

    def add_click(self, image_id: str, request: schemas.NewClick) -> schemas.AnnotatedImage:
        """Add a click to the draft; the first click starts it."""
        with self._change(image_id, request) as edit:
            opened, working, state = edit.opened, edit.working, edit.state
            clicks = () if state.draft is None else state.draft.clicks
            if len(clicks) >= MAX_CLICKS:
                raise ValueError(
                    f"this object has {MAX_CLICKS} clicks, the maximum; finish it and start another one"
                )
            click = self._with_radius(opened, working, clicks, request.click)
            probs = self.segmenter.predict(
                image_id, working, (*clicks, click), opened.start(working)
            )  # a failed change must not reach the log
            event = {
                "event": "click",
                "click": click_event(click),
                "class_id": self._class_of(state, request),
            }
            event |= self.project.window_event(state)
            if request.keep_outside is None:
                opened.history.append({**event, "threshold": request.threshold})
            else:
                after = working.mask(probs, request.threshold)
                opened.history.append({**event, **self._local_event(edit, click, request, after)})
            return self._describe(edit)

    def _local_event(
        self, edit: _Edit, click: Click, request: schemas.NewClick, after: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Make the log entries of a click that changes the mask only inside a circle."""
        assert request.keep_outside is not None
        before = self._mask_before(edit, request.threshold)
        circle = (click.row, click.col, request.keep_outside)
        paint = Paint("keep_outside", points=(circle,), threshold=request.threshold)
        return {
            "event": "paint",
            "paint": paint.event(),
            "mask": encode(kept_outside(before, after, circle)),
        }

    def paint(self, image_id: str, request: schemas.NewPaint) -> schemas.AnnotatedImage:
        """Add a manual step to the draft; a stroke that adds pixels can start a draft."""
        given = {**request.paint.model_dump(), "threshold": request.threshold}
        paint = Paint.read(given)
        with self._change(image_id, request) as edit:
            draft = edit.state.draft
            if draft is None and not (paint.positive and paint.kind in ("brush", "lasso")):
                raise HistoryError("there is no object to change; drag on one, or paint one first")
            before = self._mask_before(edit, request.threshold)
            after = painted(before, paint)
            if paint.kind in UNCHANGED and np.array_equal(before, after):
                raise ValueError(UNCHANGED[paint.kind])
            event: dict[str, Any] = {"event": "paint", "paint": paint.event(), "mask": encode(after)}
            event["class_id"] = self._class_of(edit.state, request)
            event |= self.project.window_event(edit.state)
            edit.opened.history.append(event)
            return self._describe(edit)

    def change_draft(self, image_id: str, request: schemas.DraftClass) -> schemas.AnnotatedImage:
        """Change the class of the draft; nothing changes without a draft, or if it has this class."""
        self.project.check_class(request.class_id)
        with self._change(image_id, request) as edit:
            draft = edit.state.draft
            if draft is not None and draft.class_id != request.class_id:
                # An earlier version, which does not know this event, reads it as a change of no object.
                event = {"event": "set", "ids": [], "draft": True, "class_id": request.class_id}
                edit.opened.history.append(event)
            return self._describe(edit)

    def undo(self, image_id: str, request: schemas.Change) -> schemas.AnnotatedImage:
        """Undo the last change."""
        return self._travel(image_id, request, "undo")

    def redo(self, image_id: str, request: schemas.Change) -> schemas.AnnotatedImage:
        """Redo the change that was undone last."""
        return self._travel(image_id, request, "redo")

    def discard(self, image_id: str, request: schemas.Change) -> schemas.AnnotatedImage:
        """Discard the draft; a reopened object is restored."""
        with self._change(image_id, request) as edit:
            if edit.state.draft is None:
                raise HistoryError("there is no draft to discard")
            edit.opened.history.append({"event": "discard"})
            return self._describe(edit)

    def nothing_here(self, image_id: str, request: schemas.NothingHere) -> schemas.AnnotatedImage:
        """Mark an image without objects as done or not done."""
        with self._change(image_id, request) as edit:
            if edit.state.objects or edit.state.draft:
                raise HistoryError("this image has objects; delete them before marking it as empty")
            edit.opened.history.append({"event": "nothing", "nothing": request.nothing})
            return self._describe(edit)

    def choose_window(self, image_id: str, request: schemas.NewWindow) -> schemas.AnnotatedImage:
        """Choose the window of an image."""
        window = None if request.window is None else request.window.checked()
        with self._change(image_id, request) as edit:
            if edit.state.draft is not None:
                raise HistoryError("the draft keeps its window; finish or discard it before choosing another")
            if edit.working.window is None:
                raise ValueError(f"a window needs more than 8 bits per channel, but {edit.opened.name} has 8")
            event = {"event": "window", "window": None if window is None else list(window)}
            edit.opened.history.append(event)
            return self._describe(edit)

    def finish(self, image_id: str, request: schemas.Finish) -> schemas.AnnotatedImage:
        """Finish the draft as an object."""
        with self._change(image_id, request) as edit:
            self.project.check_class(request.class_id)
            opened, state = edit.opened, edit.state
            if state.draft is None:
                raise HistoryError("there is no draft to finish; click on an object first")
            mask = self._mask(opened, edit.working, state.draft, request.threshold)
            locked, box = opened.locked(), bounding_box(mask)
            taken = None
            if locked is not None and box is not None and (mask[box] & locked[box]).any():
                taken = np.zeros_like(mask)
                taken[box] = mask[box] & locked[box]
                mask = mask & ~taken
            if not mask.any():
                raise ValueError(
                    f"no pixel outside locked objects is above {request.threshold:g}; click on the object, "
                    "or lower the threshold"
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
                window=state.draft.window,
            )
            opened.history.append({"event": "finish", "object": object_event(done)})
            return self._describe(edit)

    def edit(self, image_id: str, number: int, request: schemas.Change) -> schemas.AnnotatedImage:
        """Reopen a finished object as a draft.

        It keeps its steps; without steps, its mask becomes the start mask.
        """
        with self._change(image_id, request) as edit:
            if edit.state.draft is not None:
                raise HistoryError("there is already a draft; finish or discard it first")
            one = edit.state.object(number)
            from_mask = not one.clicks and not one.earlier
            event = {"event": "edit", "id": number, "from_mask": from_mask}
            edit.opened.history.append({**event, **self.project.window_event(edit.state)})
            return self._describe(edit)

    def change_object(
        self, image_id: str, number: int, request: schemas.ObjectChange
    ) -> schemas.AnnotatedImage:
        """Change the class or the lock of a finished object."""
        return self._set(image_id, [number], request)

    def change_objects(self, image_id: str, request: schemas.ObjectsChange) -> schemas.AnnotatedImage:
        """Change the class or the lock of several finished objects."""
        return self._set(image_id, request.ids, request)

    def delete(self, image_id: str, number: int, request: schemas.Change) -> schemas.AnnotatedImage:
        """Delete a finished object."""
        return self._append(image_id, request, {"event": "delete", "ids": [number]})

    def delete_objects(self, image_id: str, request: schemas.NamedObjects) -> schemas.AnnotatedImage:
        """Delete several finished objects."""
        return self._append(image_id, request, {"event": "delete", "ids": sorted(set(request.ids))})

    def merge(self, image_id: str, request: schemas.NamedObjects) -> schemas.AnnotatedImage:
        """Merge finished objects into one mask without steps; it keeps the first one's number and class."""
        with self._change(image_id, request) as edit:
            merged = [edit.state.object(number) for number in sorted(set(request.ids))]
            if len(merged) < 2:
                raise ValueError(
                    f"ids must name at least two objects to merge, got {len(merged)}; select more"
                )
            mask = np.zeros(edit.working.size, bool)
            for one in merged:
                found = decode_part(one.rle)
                if found is not None:
                    mask[found[0]] |= found[1]
            first = edit.state.object(request.ids[0])
            made = SegmentedObject(
                id=first.id,
                class_id=first.class_id,
                clicks=(),
                threshold=0.5,
                rle=encode(mask),
                locked=any(one.locked for one in merged),
            )
            event = {"event": "merge", "ids": [one.id for one in merged], "object": object_event(made)}
            edit.opened.history.append(event)
            return self._describe(edit)

    def carry(self, image_id: str, request: schemas.Carry) -> schemas.AnnotatedImage:
        """Copy objects from another image; their masks follow the optical flow between the two images."""
        with self.project.open(request.source) as (source, working), source.lock.reading():
            objects = [source.history.state.object(number) for number in sorted(set(request.ids))]
            size, before = working.size, working.image
        with self._change(image_id, request) as edit:
            if edit.working.size != size:
                (height, width), (rows, cols) = edit.working.size, size
                raise ValueError(
                    f"this image is {width}x{height}, but the other one is {cols}x{rows}; objects can "
                    "only be copied between images of the same size"
                )
            locked, number = edit.opened.locked(), edit.state.next_id
            added: list[SegmentedObject] = []
            for one, rle in zip(
                objects, carried([one.rle for one in objects], before, edit.working.image), strict=True
            ):
                found = decode_part(rle)
                mask = np.zeros(size, bool)
                if found is not None:
                    mask[found[0]] = found[1] if locked is None else found[1] & ~locked[found[0]]
                if not mask.any():
                    continue
                made = import_matching.object_without_clicks(number + len(added), one.class_id, encode(mask))
                added.append(replace(made, locked=one.locked))
            if not added:
                raise ValueError(
                    "the objects cannot be copied here: they are out of view or already "
                    "annotated; select others"
                )
            edit.opened.history.append({"event": "import", "objects": [object_event(one) for one in added]})
            return self._describe(edit)

    def import_masks(self, image_id: str, png: bytes, revision: int | None) -> schemas.AnnotatedImage:
        """Import the objects of a mask PNG; they have the first class unless the PNG names another."""
        change = None if revision is None else schemas.Change(revision=revision)
        with self._change(image_id, change) as edit:
            opened, size = edit.opened, edit.working.size
            image = FoundImage(opened.name, size)
            text = exported_text(png)
            add_png(image, png, size, None if text is None else text["classes"])
            if not image.objects:
                raise ValueError("the PNG has no object; give each object its own value from 1 to 254")
            numbers = import_matching.class_numbers(
                self.project, FoundAnnotations(), {one.label for one in image.objects}
            )
            added, _ = import_matching.objects_of(image, size, numbers, edit.state.next_id)
            added = import_matching.new_objects(added, edit.state)
            if added:  # otherwise all of them already exist on this image
                opened.history.append({"event": "import", "objects": [object_event(one) for one in added]})
            return self._describe(edit)

    @contextmanager
    def _change(self, image_id: str, change: schemas.Change | None) -> Iterator[_Edit]:
        self.project.check_in_place()
        with self.project.open(image_id) as (opened, _), opened.lock.changing():
            _check_revision(opened, None if change is None else change.revision)
            brief = change is not None and change.brief
            yield _Edit(self.project, opened, opened.history.state.objects if brief else None)

    def _append(
        self, image_id: str, change: schemas.Change, event: Mapping[str, Any]
    ) -> schemas.AnnotatedImage:
        with self._change(image_id, change) as edit:
            edit.opened.history.append(event)
            return self._describe(edit)

    def _travel(self, image_id: str, change: schemas.Change, kind: str) -> schemas.AnnotatedImage:
        """Undo or redo, unless an object would get back a class that was removed in the meantime."""
        with self._change(image_id, change) as edit:
            history = edit.opened.history
            used = ImageSummary.of(history.after({"event": kind})).class_ids
            removed = used - {one.id for one in self.project.classes}
            if removed:
                raise ValueError(
                    f"cannot {kind}: an object would have class {min(removed)}, which was removed; keep the "
                    "current objects"
                )
            history.append({"event": kind})
            return self._describe(edit)

    def _set(
        self, image_id: str, numbers: Sequence[int], request: schemas.ObjectChange
    ) -> schemas.AnnotatedImage:
        if request.class_id is not None:
            self.project.check_class(request.class_id)
        given = (("class_id", request.class_id), ("locked", request.locked))
        changes = {name: value for name, value in given if value is not None}
        if not changes:
            raise ValueError("nothing to change; give class_id, locked or both")
        return self._append(image_id, request, {"event": "set", "ids": sorted(set(numbers)), **changes})

    def _class_of(self, state: State, request: schemas.NewClick | schemas.NewPaint) -> int:
        """Return the class of the draft, or of a new one."""
        if request.class_id is not None:
            self.project.check_class(request.class_id)
            return request.class_id
        if state.draft is not None:
            return state.draft.class_id
        known = [one.id for one in self.project.classes]
        return state.last_class if state.last_class in known else known[0]

    def _with_radius(
        self, opened: OpenImage, working: WorkingImage, clicks: tuple[Click, ...], given: schemas.GivenClick
    ) -> Click:
        click = Click(given.row, given.col, given.positive, given.radius)
        check_click(click, working.size)
        return self.segmenter.with_radius(opened.id, working, clicks, click, opened.start(working))

    def _probabilities(self, opened: OpenImage, working: WorkingImage, draft: Draft) -> NDArray[np.float32]:
        return self.segmenter.predict(opened.id, working, draft.clicks, opened.start(working))

    def _mask(
        self, opened: OpenImage, working: WorkingImage, draft: Draft, threshold: float
    ) -> NDArray[np.bool_]:
        """Compute the draft's mask, (H, W) at full size; without clicks, return the start mask."""
        start = opened.start_mask()
        if start is not None and not draft.clicks:
            return start
        return working.mask(self._probabilities(opened, working, draft), threshold)

    def _mask_before(self, edit: _Edit, threshold: float) -> NDArray[np.bool_]:
        """Compute the mask that a manual step changes, (H, W) at full size; empty without a draft.

        Raises:
            ValueError: When the draft has too many steps.
        """
        draft = edit.state.draft
        if draft is None:
            return np.zeros(edit.working.size, bool)
        if len(draft.earlier) + len(draft.clicks) >= MAX_STEPS:
            raise ValueError(
                f"this object has {MAX_STEPS} steps, the maximum; finish it and start another one"
            )
        return self._mask(edit.opened, edit.working, draft, threshold)

    def _describe(self, edit: _Edit) -> schemas.AnnotatedImage:
        """Describe the image for the page; a brief request gets only the changed objects."""
        opened, working, history = edit.opened, edit.working, edit.opened.history
        state, before = history.state, {one.id: one for one in edit.before or ()}
        changed = [one for one in state.objects if before.pop(one.id, None) is not one]
        mask = None
        if state.draft is not None:
            start, locked = opened.start_mask(), opened.locked()
            if start is not None and not state.draft.clicks:
                mask = wire.manual_mask(start, locked)
            else:
                mask = wire.mask(self._probabilities(opened, working, state.draft), working, locked)
        return schemas.AnnotatedImage(
            id=opened.id,
            name=opened.name,
            width=working.size[1],
            height=working.size[0],
            revision=history.revision,
            can_undo=history.can_undo,
            can_redo=history.can_redo,
            draft=wire.draft(state),
            objects=[wire.finished(one) for one in changed],
            brief=edit.before is not None,
            gone=sorted(before),
            mask=mask,
            nothing=state.nothing and not state.objects and state.draft is None,
            window=wire.window(working, self.project.chosen_window(state)[1]),
        )


def _check_revision(opened: OpenImage, revision: int | None) -> None:
    if revision is not None and revision != opened.history.revision:
        raise StaleError(
            f"the revision must be {opened.history.revision}, got {revision}; fetch the image again"
        )


def _milliseconds(start: float, end: float) -> float:
    return round(1000 * (end - start), 2)
