"""Open image: its history, its lock, and its decoded masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.app.history import History
from dct_seg.app.image_lock import ImageLock
from dct_seg.app.state import SegmentedObject
from dct_seg.app.working_image import WorkingImage
from dct_seg.rle import decode, decode_part


@dataclass
class OpenImage:
    """Open image; use it only while its lock is held."""

    id: str
    name: str
    history: History
    lock: ImageLock = field(default_factory=ImageLock)
    users: int = 0
    _locked: tuple[tuple[SegmentedObject, ...], NDArray[np.bool_] | None] = ((), None)
    _start: tuple[Mapping[str, Any] | None, NDArray[np.bool_] | None, NDArray[np.bool_] | None] = (
        None,
        None,
        None,
    )

    def locked(self) -> NDArray[np.bool_] | None:
        """Union of the locked objects, (H, W) at full size.

        None without locked objects. Cached per list of objects, and updated when objects are added.
        """
        objects = self.history.state.objects
        before, mask = self._locked
        if before is not objects:
            if len(before) > len(objects) or any(
                one is not known for one, known in zip(objects, before, strict=False)
            ):
                before, mask = (), None
            for one in objects[len(before) :]:
                found = decode_part(one.rle) if one.locked else None
                if found is not None:
                    mask = np.zeros(one.rle["size"], bool) if mask is None else mask
                    mask[found[0]] |= found[1]
            self._locked = (objects, mask)
        return self._locked[1]

    def start(self, working: WorkingImage) -> NDArray[np.bool_] | None:
        """Start mask of the draft, (h, w) of the working image; the same array each time."""
        self.start_mask()
        rle, mask, reduced = self._start
        if mask is not None and reduced is None:
            reduced = mask if working.factor == 1 else working.reduced(mask).copy()
            self._start = (rle, mask, reduced)
        return reduced

    def forget_masks(self) -> None:
        """Drop the cached masks; they are decoded again at the next use."""
        self._locked = ((), None)
        self._start = (None, None, None)

    def start_mask(self) -> NDArray[np.bool_] | None:
        """Start mask of the draft, (H, W) at full size."""
        draft = self.history.state.draft
        rle = None if draft is None else draft.start
        if self._start[0] is not rle:
            self._start = (rle, None if rle is None else decode(rle), None)
        return self._start[1]
