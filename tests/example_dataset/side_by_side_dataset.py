"""Dataset in a separate package: files with the image on the left and its mask on the right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dct_seg.data.base import InteractiveDataset, LabeledImage, Listing, count_labels
from dct_seg.data.images import read_image


class SideBySide(InteractiveDataset):
    """One object per file, white on black in the file's right half.

    Examples:
        >>> SideBySide("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no folder no/such/folder; SideBySide needs NAME.png: the image on the left, its mask on the right
    """  # noqa: E501

    layout = "NAME.png: the image on the left, its mask on the right"

    def _list(self) -> Iterator[Listing]:
        self._wanted()  # the root must be there
        self._files = sorted(self.root.glob("*.png"))
        for path in self._files:
            yield Listing(path.name, *count_labels(self._read_labels(path)))

    def read_labeled_image(self, image: int) -> LabeledImage:
        path = self._files[image]
        both = read_image(path)
        return LabeledImage(np.ascontiguousarray(both[:, : both.shape[1] // 2]), self._read_labels(path))

    def _read_labels(self, path: Path) -> NDArray[np.uint8]:
        both = read_image(path)  # (H, 2 W, 3)
        if both.shape[1] % 2:
            raise ValueError(
                f"{path} is {both.shape[1]} pixels wide; {type(self).__name__} needs an even number, half "
                "for the mask"
            )
        return (both[:, both.shape[1] // 2 :, 0] > 128).astype(np.uint8)
