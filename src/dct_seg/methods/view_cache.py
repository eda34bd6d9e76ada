"""Cache of the network's inputs and features for the last views of one image."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dct_seg.methods.views import View

KEPT_VIEWS = 3  # the whole image and the last two regions; with `late` about 10 MB each


@dataclass
class CachedView:
    """Input of the network for a view, (1, 3, h, w) in 0..1, and its features once computed.

    With ``flip``, the mirrored view is included.

    Args:
        prepared: Per-image input of the click encoder, for the image and, under True, its mirror image.
    """

    image: torch.Tensor
    features: list[torch.Tensor] | None = None
    mirrored: list[torch.Tensor] | None = None
    prepared: dict[bool, Any] = field(default_factory=dict)


class ViewCache:
    """Cache of the last ``KEPT_VIEWS`` views of an image; it never changes a result.

    Args:
        device: Device of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.image: NDArray[np.uint8] | None = None
        self._views: OrderedDict[View, CachedView] = OrderedDict()

    def reset(self, image: NDArray[np.uint8]) -> None:
        """Set the image, (H, W, 3) uint8, and discard the views of the last one."""
        self.image = image
        self.clear()

    def clear(self) -> None:
        """Discard all views, but keep the image."""
        self._views.clear()

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the image; None before ``reset``."""
        return None if self.image is None else (self.image.shape[0], self.image.shape[1])

    def __len__(self) -> int:
        return len(self._views)

    def get(self, view: View) -> CachedView:
        """Get the data of a view; a new one replaces the least recently used."""
        cached = self._views.get(view)
        if cached is None:
            assert self.image is not None, "call reset(image) first"
            image = self.to_tensor(view.crop(self.image)).contiguous(memory_format=torch.channels_last)
            cached = self._views[view] = CachedView(image.div_(255))
            if len(self._views) > KEPT_VIEWS:
                self._views.popitem(last=False)
        self._views.move_to_end(view)
        return cached

    def to_tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """Convert (H, W, C) to a float32 copy, (1, C, H, W)."""
        own = array.astype(np.float32)  # a copy: the caller's array stays unchanged
        return torch.from_numpy(own).to(self.device).permute(2, 0, 1)[None]
