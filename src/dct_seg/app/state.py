"""State of an image's annotation, and its transition for each event of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from dct_seg.app.outlines import Outline, outline_of
from dct_seg.app.painting import Paint
from dct_seg.clicks import Click
from dct_seg.data.brightness import Window
from dct_seg.session import click_of_record

ChosenBy: TypeAlias = Literal["image", "folder", "object"]
"""Level at which the current window was chosen; a draft keeps its initial window."""


class NoSuchObjectError(LookupError):
    """Error for a finished object that does not exist."""


Step: TypeAlias = Click | Paint


@dataclass(frozen=True)
class SegmentedObject:
    """Finished object.

    Args:
        id: Number of the object, never reused within an image.
        class_id: Class of the object.
        clicks: Clicks since ``start``; none for an imported object.
        threshold: Probability above which a pixel counts as object.
        rle: Mask as a COCO run-length encoding.
        locked: Whether its pixels are background for later objects.
        start: Mask that the first click corrected, as an encoding, or None.
        removed: Pixels of locked objects subtracted at the end, as an encoding, or None.
        earlier: Steps up to the last manual one, which result in ``start``; none without a manual step.
        origin: Start mask of the first earlier step, as an encoding, or None.
        window: Chosen window, or None for the default rule.
    """

    id: int
    class_id: int
    clicks: tuple[Click, ...]
    threshold: float
    rle: Mapping[str, Any]
    locked: bool = True
    start: Mapping[str, Any] | None = None
    removed: Mapping[str, Any] | None = None
    earlier: tuple[Step, ...] = ()
    origin: Mapping[str, Any] | None = None
    window: Window | None = None

    @property
    def num_clicks(self) -> int:
        """Number of clicks in all steps."""
        return len(self.clicks) + sum(isinstance(step, Click) for step in self.earlier)

    @cached_property
    def outline(self) -> Outline:
        """Area, box and polygons of the mask, computed once."""
        return outline_of(self.rle)


@dataclass(frozen=True)
class Draft:
    """Object in progress.

    Args:
        clicks: Clicks in order, since the last manual step.
        class_id: Current class.
        edits: Number of the reopened object, or None.
        start: Mask that the first click corrects, as an encoding, or None.
        threshold: Threshold at the last click, or that of the reopened object.
        earlier: Earlier steps, see `SegmentedObject`.
        origin: Start mask of the first earlier step, see `SegmentedObject`.
        window: Chosen window until the draft is finished, or None for the default rule.
    """

    clicks: tuple[Click, ...]
    class_id: int
    edits: SegmentedObject | None = None
    start: Mapping[str, Any] | None = None
    threshold: float = 0.5
    earlier: tuple[Step, ...] = ()
    origin: Mapping[str, Any] | None = None
    window: Window | None = None


@dataclass(frozen=True)
class State:
    """Annotation of an image at one moment."""

    draft: Draft | None = None
    objects: tuple[SegmentedObject, ...] = ()
    next_id: int = 1
    last_class: int | None = None
    nothing: bool = False
    """Whether the image was marked as having no object."""
    window: Window | None = None
    """Window chosen for this image, or None."""

    def object(self, number: int) -> SegmentedObject:
        """Look up a finished object by its id.

        Raises:
            NoSuchObjectError: When no object has this id.
        """
        for one in self.objects:
            if one.id == number:
                return one
        known = ", ".join(str(one.id) for one in self.objects) or "none"
        raise NoSuchObjectError(f"there is no finished object {number} in this image; known objects: {known}")


def apply(state: State, event: Mapping[str, Any]) -> State:
    """Apply an event to a state; a pure function.

    Args:
        state: State before the event.
        event: ``{"event": NAME, ...}`` from the log.

    Raises:
        LookupError, TypeError, ValueError: When the event is unknown or does not fit the state.
    """
    change = _EVENTS.get(event["event"])
    if change is None:
        raise ValueError(f"unknown event {event['event']!r}")
    return change(state, event)


def _draft(state: State, event: Mapping[str, Any]) -> Draft:
    """Draft that a step changes, with the class of the step; a new one without a draft."""
    if state.draft is None:
        return Draft((), int(event["class_id"]), window=Window.stored(event.get("window")))
    return replace(state.draft, class_id=int(event.get("class_id", state.draft.class_id)))


def _click(state: State, event: Mapping[str, Any]) -> State:
    draft = _draft(state, event)
    clicks = (*draft.clicks, click_of_record(event["click"]))
    return replace(state, draft=replace(draft, clicks=clicks, threshold=float(event.get("threshold", 0.5))))


def _paint(state: State, event: Mapping[str, Any]) -> State:
    draft = _draft(state, event)
    local = () if event.get("click") is None else (click_of_record(event["click"]),)
    painted = replace(
        draft,
        clicks=(),
        start=event["mask"],
        earlier=(*draft.earlier, *draft.clicks, *local, Paint.read(event["paint"])),
        origin=draft.origin if draft.earlier else draft.start,
    )
    return replace(state, draft=painted)


def _finish(state: State, event: Mapping[str, Any]) -> State:
    done = _object(event["object"])
    return replace(
        state,
        draft=None,
        objects=_in_order([*state.objects, done]),
        next_id=max(state.next_id, done.id + 1),
        last_class=done.class_id,
    )


def _discard(state: State, event: Mapping[str, Any]) -> State:
    back = () if state.draft is None or state.draft.edits is None else (state.draft.edits,)
    return replace(state, draft=None, objects=_in_order([*state.objects, *back]))


def _edit(state: State, event: Mapping[str, Any]) -> State:
    one = state.object(int(event["id"]))
    reopened = Draft(
        (),
        one.class_id,
        edits=one,
        start=one.rle,
        threshold=one.threshold,
        window=Window.stored(event.get("window")),
    )
    if not event["from_mask"]:
        reopened = replace(
            reopened,
            clicks=one.clicks,
            start=one.start,
            earlier=one.earlier,
            origin=one.origin,
            window=one.window,
        )
    return replace(state, draft=reopened, objects=_without(state, [one]))


def _set(state: State, event: Mapping[str, Any]) -> State:
    if event.get("draft") and state.draft is not None:
        return replace(state, draft=_draft(state, event))
    named = _named(state, event)
    changed = {
        one.id: replace(
            one,
            class_id=int(event.get("class_id", one.class_id)),
            locked=bool(event.get("locked", one.locked)),
        )
        for one in named
    }
    return replace(state, objects=tuple(changed.get(other.id, other) for other in state.objects))


def _delete(state: State, event: Mapping[str, Any]) -> State:
    return replace(state, objects=_without(state, _named(state, event)))


def _merge(state: State, event: Mapping[str, Any]) -> State:
    merged = _object(event["object"])
    return replace(state, objects=_in_order([*_without(state, _named(state, event)), merged]))


def _import(state: State, event: Mapping[str, Any]) -> State:
    added = tuple(_object(one) for one in event["objects"])
    return replace(
        state,
        objects=(*state.objects, *added),
        next_id=max([state.next_id, *(one.id + 1 for one in added)]),
    )


def _choose_window(state: State, event: Mapping[str, Any]) -> State:
    return replace(state, window=Window.stored(event.get("window")))


def _nothing(state: State, event: Mapping[str, Any]) -> State:
    return replace(state, nothing=bool(event["nothing"]))


_EVENTS: Mapping[str, Callable[[State, Mapping[str, Any]], State]] = {
    "click": _click,
    "paint": _paint,
    "finish": _finish,
    "discard": _discard,
    "edit": _edit,
    "set": _set,
    "delete": _delete,
    "merge": _merge,
    "import": _import,
    "nothing": _nothing,
    "window": _choose_window,
}


def _named(state: State, event: Mapping[str, Any]) -> list[SegmentedObject]:
    """Find the objects named in an event; an event of version 1 names one."""
    numbers = event["ids"] if "ids" in event else [event["id"]]
    return [state.object(int(number)) for number in numbers]


def _without(state: State, gone: Sequence[SegmentedObject]) -> tuple[SegmentedObject, ...]:
    numbers = {one.id for one in gone}
    return tuple(other for other in state.objects if other.id not in numbers)


def _in_order(objects: Iterable[SegmentedObject]) -> tuple[SegmentedObject, ...]:
    return tuple(sorted(objects, key=lambda one: one.id))


def object_event(one: SegmentedObject) -> dict[str, Any]:
    """Convert an object to its log format."""
    by_hand = {
        "earlier": [step_event(step) for step in one.earlier],
        "origin": None if one.origin is None else dict(one.origin),
    }
    return {
        "id": one.id,
        "class_id": one.class_id,
        "clicks": [click_event(made) for made in one.clicks],
        "threshold": one.threshold,
        "rle": dict(one.rle),
        "locked": one.locked,
        "start": None if one.start is None else dict(one.start),
        "removed": None if one.removed is None else dict(one.removed),
        **(by_hand if one.earlier else {}),
        **window_event(one.window),
    }


def window_event(window: Window | None) -> dict[str, Any]:
    """Convert a chosen window to its log format; empty for None."""
    return {} if window is None else {"window": list(window)}


def step_event(step: Step) -> dict[str, Any]:
    """Convert a click or manual step to its log format."""
    return step.event() if isinstance(step, Paint) else click_event(step)


def click_event(click: Click) -> dict[str, Any]:
    """Convert a click to its log format; floats round-trip bit for bit."""
    return {
        "row": click.row,
        "col": click.col,
        "positive": click.positive,
        "radius": click.radius,
        "given": click.is_drag,
    }


def _object(event: Mapping[str, Any]) -> SegmentedObject:
    return SegmentedObject(
        id=int(event["id"]),
        class_id=int(event["class_id"]),
        clicks=tuple(click_of_record(click) for click in event["clicks"]),
        threshold=float(event["threshold"]),
        rle=event["rle"],
        locked=bool(event["locked"]),
        start=event["start"],
        removed=event["removed"],
        earlier=tuple(
            Paint.read(step) if "kind" in step else click_of_record(step) for step in event.get("earlier", ())
        ),
        origin=event.get("origin"),
        window=Window.stored(event.get("window")),
    )
