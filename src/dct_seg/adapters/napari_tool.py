"""Click segmentation in a napari viewer: gestures in, a Labels layer out; without a window or Qt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.clicks import Click
from dct_seg.predictor import Predictor

MIN_DRAG = 4.0
"""Minimum drag in screen pixels; a shorter one is a click, whose radius the method chooses."""
OBJECT, BACKGROUND = 1, 2  # napari's numbers for the left and right mouse buttons

Plane = tuple[int, ...]
"""Index of a two-dimensional slice in its layer; () in a two-dimensional layer."""


@dataclass
class _Object:
    number: int
    plane: Plane
    clicks: list[Click] = field(default_factory=list)


class ClickTool:
    """Tool to segment the objects of an image layer, each as a label of one Labels layer.

    Press on the center of an object, drag to its edge, and release. The right button marks background. The
    label follows while the mouse moves. Existing objects are never painted over. A drag with Shift,
    Control or Alt belongs to napari.

    Args:
        viewer: Viewer, or its model alone.
        image: Image layer of that viewer; with more than two dimensions, the displayed slice is segmented.
        predictor: Predictor for the masks.
        changed: Function called after each change, for example to show `status`.

    Raises:
        ValueError: When the layer is not an image of two or more dimensions.
    """

    def __init__(
        self, viewer: Any, image: Any, predictor: Predictor, *, changed: Callable[[], None] | None = None
    ) -> None:
        if not hasattr(image, "contrast_limits") or image.ndim < 2:
            raise ValueError(
                f"layer '{image.name}' is not an image of two or more dimensions; choose another one"
            )
        self.image = image
        self.labels = viewer.add_labels(
            np.zeros(_pixels(image).shape[: image.ndim], np.int32),
            name=f"objects of {image.name}",
            scale=image.scale,
            translate=image.translate,
        )
        self.seconds = 0.0
        self._viewer = viewer
        self._predictor = predictor
        self._changed = changed or (lambda: None)
        self._seen: tuple[Plane, tuple[float, ...] | None] | None = None
        self._current: _Object | None = None
        self._finished: list[_Object] = []
        viewer.mouse_drag_callbacks.append(self._drag)

    def close(self) -> None:
        """Disconnect from the viewer; the Labels layer stays."""
        if self._drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._drag)

    @property
    def status(self) -> str:
        """Status line about the objects and the last click."""
        clicks = 0 if self._current is None else len(self._current.clicks)
        took = f", last click {self.seconds:.2f} s" if clicks else ""
        return f"{len(self._finished)} objects finished; {clicks} clicks on the current one{took}"

    def undo(self) -> None:
        """Undo the last click; without clicks, reopen the last finished object."""
        if self._current is None or not self._current.clicks:
            if self._finished:
                self._current = self._finished.pop()
                self._show_current()
            self._changed()
            return
        self._current.clicks.pop()
        self._show_current()
        self._changed()

    def next_object(self) -> None:
        """Finish the object; the next click starts a new label."""
        if self._current is not None and self._current.clicks:
            self._finished.append(self._current)
        self._current = None
        self._changed()

    def _drag(self, viewer: Any, event: Any) -> Iterator[None]:
        """Handle one gesture; a callback for napari's ``mouse_drag_callbacks``."""
        active = viewer.layers.selection.active
        is_ours = event.button in (OBJECT, BACKGROUND) and not event.modifiers
        if not is_ours or (active is not None and str(active.mode) != "pan_zoom"):
            return
        pressed = self._place(event.position)
        if pressed is None:
            return
        current = self._object_on(pressed[0])
        positive = event.button == OBJECT
        camera = _camera(viewer)
        before = camera.mouse_pan, camera.mouse_zoom
        camera.mouse_pan = camera.mouse_zoom = False
        try:
            click = Click(*pressed[1], positive)
            free_at = 0.0
            yield
            while event.type == "mouse_move":
                click = self._dragged(click, event.position)
                if click.radius is not None and time.perf_counter() >= free_at:
                    self._show([*current.clicks, click])
                    # a slow network skips mouse moves, so that half of the time is left to napari
                    free_at = time.perf_counter() + self.seconds
                yield
            click = self._dragged(click, event.position)
        finally:
            camera.mouse_pan, camera.mouse_zoom = before
        current.clicks.append(click)
        self._show_current()
        self._changed()

    def _dragged(self, click: Click, position: Any) -> Click:
        """Give the click the radius up to the mouse."""
        row, col = self.image.world_to_data(position)[-2:]
        radius = math.hypot(row - click.row, col - click.col)
        pixels_per_data = _camera(self._viewer).zoom * float(min(self.image.scale[-2:]))
        is_drag = radius * pixels_per_data >= MIN_DRAG
        return Click(click.row, click.col, click.positive, radius if is_drag else None)

    def _place(self, position: Any) -> tuple[Plane, tuple[float, float]] | None:
        """Find the slice and the (row, col) under the mouse; None outside the image."""
        dims = self._viewer.dims
        if dims.ndisplay != 2 or list(dims.displayed) != [dims.ndim - 2, dims.ndim - 1]:
            return None
        *outer, row, col = self.image.world_to_data(position)
        shape = self.labels.data.shape
        plane = tuple(round(float(one)) for one in outer)
        is_inside = all(0 <= one < size for one, size in zip(plane, shape[:-2], strict=True))
        if not (is_inside and -0.5 <= row < shape[-2] - 0.5 and -0.5 <= col < shape[-1] - 0.5):
            return None
        return plane, (float(row), float(col))

    def _object_on(self, plane: Plane) -> _Object:
        """Current object; one on another slice is finished first."""
        if self._current is not None and self._current.plane != plane:
            self.next_object()
        if self._current is None:
            self._current = _Object(int(self.labels.data.max()) + 1, plane)
            self.labels.selected_label = self._current.number
        return self._current

    def _show_current(self) -> None:
        assert self._current is not None
        self._show(self._current.clicks)

    def _show(self, clicks: list[Click]) -> None:
        """Paint the clicks' mask as the current object."""
        assert self._current is not None
        began = time.perf_counter()
        limits = None if self.image.rgb else tuple(self.image.contrast_limits)
        if self._seen != (self._current.plane, limits):
            self._predictor.set_image(_as_rgb(self.image, self._current.plane))
            self._seen = self._current.plane, limits
        mask = self._predictor.predict(clicks).mask
        values = self.labels.data[self._current.plane]
        number = self._current.number
        free = (values == 0) | (values == number)
        self.labels.data[self._current.plane] = np.where(free, np.where(mask, number, 0), values)
        self.labels.refresh()
        self.seconds = time.perf_counter() - began


def _camera(viewer: Any) -> Any:
    """Camera of the viewer; napari 0.9 moved the attribute."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def _pixels(image: Any) -> Any:
    """Array of a layer; the finest level of a multiscale layer."""
    return image.data[0] if image.multiscale else image.data


def _as_rgb(image: Any, plane: Plane) -> NDArray[np.uint8]:
    """Render a slice as the viewer shows it: (H, W, 3), gray scaled by the contrast limits."""
    values = np.asarray(_pixels(image)[plane])
    if image.rgb:
        if values.dtype.kind == "f":
            values = np.rint(np.clip(values, 0, 1) * 255)
        elif values.dtype != np.uint8:
            values = values.astype(np.float64) * (255 / np.iinfo(values.dtype).max)
        return np.ascontiguousarray(values[..., :3]).astype(np.uint8)
    low, high = image.contrast_limits
    shown = (np.nan_to_num(values.astype(np.float64)) - low) / max(high - low, 1e-12)
    gray = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)
