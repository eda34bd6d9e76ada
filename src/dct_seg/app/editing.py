"""What can be done to a picture: each change is in its log before it is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.app import imports, schemas, wire
from dct_seg.app.history import Draft, HistoryError, MadeClick, SegmentedObject, click_event, object_event
from dct_seg.app.project import OpenPicture, Project
from dct_seg.app.segmenter import Segmenter
from dct_seg.app.working_image import WorkingImage
from dct_seg.clicks import Click
from dct_seg.data.images import IGNORE
from dct_seg.methods.base import Method, check_click
from dct_seg.rle import encode

MAX_CLICKS = 200
"""In one draft; who needs more draws by hand."""


class StaleError(ValueError):
    """A change of a revision that is no longer the picture's."""


class Editor:
    """The annotator without its HTTP.

    Args:
        project: The folder.
        make_method: A new method for a picture; networks inside may be shared.
    """

    def __init__(self, project: Project, make_method: Callable[[], Method]) -> None:
        self.project = project
        self._segmenter = Segmenter(make_method)

    def picture(self, picture_id: str) -> schemas.Picture:
        """The picture as it is."""
        with self.project.open(picture_id) as (opened, working), opened.lock.reading():
            return self._page_state(opened, working)

    def preview(self, picture_id: str, request: schemas.NewPreview) -> schemas.Preview | None:
        """The mask as it would be after one more click, or nearly so.

        None when something newer was asked meanwhile.
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
        """One click more in the draft; the first one begins it."""
        with self._change(picture_id, request.revision) as (opened, working):
            state = opened.history.state
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
            class_id = state.draft.class_id if state.draft else state.last_class or self.project.classes[0].id
            opened.history.append(
                {
                    "event": "click",
                    "click": click_event(made),
                    "class_id": class_id,
                    "threshold": request.threshold,
                }
            )
            return self._page_state(opened, working)

    def undo(self, picture_id: str, request: schemas.Change) -> schemas.Picture:
        """The picture before its last change."""
        return self._simple(picture_id, request.revision, {"event": "undo"})

    def redo(self, picture_id: str, request: schemas.Change) -> schemas.Picture:
        """The picture after the change that was taken back last."""
        return self._simple(picture_id, request.revision, {"event": "redo"})

    def discard(self, picture_id: str, request: schemas.Change) -> schemas.Picture:
        """Without its draft; an object that was reopened is as before."""
        return self._simple(picture_id, request.revision, {"event": "discard"})

    def finish(self, picture_id: str, request: schemas.Finish) -> schemas.Picture:
        """The draft becomes an object."""
        with self._change(picture_id, request.revision) as (opened, working):
            self.project.check_class(request.class_id)
            state = opened.history.state
            if state.draft is None:
                raise HistoryError("there is no draft to finish; click on an object first")
            mask = working.mask(self._probabilities(opened, working, state.draft), request.threshold)
            locked = opened.locked()
            taken = None if locked is None else mask & locked
            if taken is not None:
                mask &= ~taken
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
                removed=encode(taken) if taken is not None and taken.any() else None,
            )
            opened.history.append({"event": "finish", "object": object_event(done)})
            return self._page_state(opened, working)

    def edit(self, picture_id: str, number: int, request: schemas.Change) -> schemas.Picture:
        """A finished object is the draft again.

        With its clicks, or with its mask as the start where there are none.
        """
        with self._change(picture_id, request.revision) as (opened, working):
            state = opened.history.state
            if state.draft is not None:
                raise HistoryError("there is a draft already; finish or discard it first")
            opened.history.append(
                {"event": "edit", "id": number, "from_mask": not state.object(number).clicks}
            )
            return self._page_state(opened, working)

    def change_object(self, picture_id: str, number: int, request: schemas.ObjectChange) -> schemas.Picture:
        """A finished object gets another class, or is locked or not."""
        if request.class_id is not None:
            self.project.check_class(request.class_id)
        changes = {
            k: v for k, v in (("class_id", request.class_id), ("locked", request.locked)) if v is not None
        }
        if not changes:
            raise ValueError("nothing to change; give class_id, locked or both")
        return self._simple(picture_id, request.revision, {"event": "set", "id": number, **changes})

    def delete(self, picture_id: str, number: int, request: schemas.Change) -> schemas.Picture:
        """Without one of its finished objects."""
        return self._simple(picture_id, request.revision, {"event": "delete", "id": number})

    def import_masks(self, picture_id: str, png: bytes, revision: int | None) -> schemas.Picture:
        """The objects of an indexed PNG (0 background, 255 nobody's) beside those there are, in the first
        class.
        """
        with self._change(picture_id, revision) as (opened, working):
            labels = imports.read_labels(png, working.size)
            number, class_id = opened.history.state.next_id, self.project.classes[0].id
            values = [int(value) for value in np.unique(labels) if value not in (0, IGNORE)]
            added = [
                imports.imported(number + place, class_id, labels == value)
                for place, value in enumerate(values)
            ]
            if not added:
                raise ValueError("the PNG holds no object; each has a value of its own from 1 to 254")
            opened.history.append({"event": "import", "objects": [object_event(one) for one in added]})
            return self._page_state(opened, working)

    def import_coco(self, content: schemas.CocoFile) -> schemas.Imported:
        """The objects of a COCO JSON beside those there are.

        What does not fit is told, picture by picture.
        """
        plan = imports.plan(content, self.project.folder.entries())
        class_ids = imports.add_classes(self.project, plan.categories)
        num_pictures = num_objects = 0
        skipped = list(plan.skipped)
        for entry, record, objects in plan.pictures:
            try:
                with self._change(entry.id, None) as (opened, working):
                    imports.check_size(record, working.size)
                    number = opened.history.state.next_id
                    masks = [
                        (class_ids[one.category_id], imports.mask_of(one, working.size)) for one in objects
                    ]
                    added = [imports.imported(number + place, *found) for place, found in enumerate(masks)]
                    opened.history.append(
                        {"event": "import", "objects": [object_event(one) for one in added]}
                    )
            except ValueError as error:
                skipped.append(f"{entry.name}: {error}")
                continue
            num_pictures, num_objects = num_pictures + 1, num_objects + len(added)
        return schemas.Imported(pictures=num_pictures, objects=num_objects, skipped=skipped)

    @contextmanager
    def _change(self, picture_id: str, revision: int | None) -> Iterator[tuple[OpenPicture, WorkingImage]]:
        with self.project.open(picture_id) as (opened, working), opened.lock.changing():
            _check_revision(opened, revision)
            yield opened, working

    def _simple(self, picture_id: str, revision: int, event: Mapping[str, Any]) -> schemas.Picture:
        with self._change(picture_id, revision) as (opened, working):
            opened.history.append(event)
            return self._page_state(opened, working)

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

    def _page_state(self, opened: OpenPicture, working: WorkingImage) -> schemas.Picture:
        history = opened.history
        state = history.state
        mask = None
        if state.draft is not None:
            mask = wire.mask(self._probabilities(opened, working, state.draft), working, opened.locked())
        return schemas.Picture(
            id=opened.id,
            name=opened.name,
            width=working.size[1],
            height=working.size[0],
            revision=history.revision,
            can_undo=history.can_undo,
            can_redo=history.can_redo,
            draft=wire.draft(state),
            objects=[wire.finished(one) for one in state.objects],
            mask=mask,
        )


def _check_revision(opened: OpenPicture, revision: int | None) -> None:
    if revision is not None and revision != opened.history.revision:
        raise StaleError(
            f"the picture is at revision {opened.history.revision}, not {revision}; fetch it again"
        )


def _milliseconds(start: float, end: float) -> float:
    return round(1000 * (end - start), 2)
