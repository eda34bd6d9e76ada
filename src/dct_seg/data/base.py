"""Base classes of datasets: labeled images, listed once, read one object at a time."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dct_seg.data.brightness import Window
from dct_seg.data.images import IGNORE, UnreadableFileError, image_size, read_image, size_mismatch
from dct_seg.registry import Registry

S = TypeVar("S")
T = TypeVar("T")

DATASETS: Registry[type[InteractiveDataset]] = Registry("dataset", group="dct_seg.datasets")


@dataclass(frozen=True)
class Sample:
    """Image with an object to segment.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: Mask of the object, (H, W) bool.
        ignore: (H, W) bool, pixels that are neither object nor background; never overlaps ``mask``.
        name: Name of the sample, unique in its dataset, e.g. ``images/a.jpg#3``.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    name: str


@dataclass(frozen=True)
class LabeledImage:
    """Decoded image (H, W, 3) uint8 and labels (H, W) uint8: 0 background, 1..254 objects, 255 ignore."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Memory of the two arrays, in bytes."""
        return self.image.nbytes + self.labels.nbytes


Photo = LabeledImage
"""Earlier name, for datasets of other packages."""


@dataclass(frozen=True)
class Listing:
    """Entry of one image before it is decoded.

    Args:
        name: Path below the root, with forward slashes.
        objects: Labels of the objects.
        areas: Pixel count of each object.
    """

    name: str
    objects: tuple[int, ...]
    areas: tuple[int, ...]


class ImageCache:
    """LRU cache of decoded images, at most ``max_bytes`` in total."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._images: OrderedDict[tuple[int, int], LabeledImage] = OrderedDict()

    def get(self, key: tuple[int, int]) -> LabeledImage | None:
        """Get the image under ``key``, or None."""
        if key not in self._images:
            return None
        self._images.move_to_end(key)
        return self._images[key]

    def put(self, key: tuple[int, int], decoded: LabeledImage) -> None:
        """Store an image, unless it is larger than the cache."""
        if decoded.nbytes > self.max_bytes or key in self._images:
            return
        self._images[key] = decoded
        self.num_bytes += decoded.nbytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._images.popitem(last=False)[1].nbytes

    def __len__(self) -> int:
        return len(self._images)


class InteractiveDataset(ABC):
    """Dataset of images whose objects are the samples.

    A subclass implements ``_list`` and ``read_labeled_image``, and is added with ``@DATASETS.register()`` or
    through the entry-point group ``dct_seg.datasets``. It may take further options.

    Args:
        root: Folder of the dataset, ``~`` being the home folder; None if it needs no files.
        min_object_size: Minimum number of pixels of an object; 0 keeps all nonempty objects.

    Raises:
        FileNotFoundError: When the folder is missing or has another layout.
        ValueError: When no usable object is found.

    Examples:
        >>> class Squares(InteractiveDataset):
        ...     def _list(self):
        ...         yield Listing("square", objects=(1,), areas=(4,))
        ...     def read_labeled_image(self, image):
        ...         labels = np.zeros((4, 4), np.uint8)
        ...         labels[1:3, 1:3] = 1
        ...         return LabeledImage(np.zeros((4, 4, 3), np.uint8), labels)
        >>> data = Squares(None)
        >>> len(data), int(data.read(0).mask.sum())
        (1, 4)
    """

    layout: str = "files"
    """Description of the layout that ``root`` must have, for error messages."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "read_photo" in vars(cls):  # the earlier name, in datasets of other packages
            cls.read_labeled_image = vars(cls)["read_photo"]  # type: ignore[method-assign]

    def __init__(self, root: str | Path | None, *, min_object_size: int = 0) -> None:
        self.root = Path(root).expanduser() if root is not None else Path()
        self.min_object_size = min_object_size
        self._listings: list[Listing] = []
        images: list[int] = []
        labels: list[int] = []
        for listing in self._list():
            kept = [
                label
                for label, area in zip(listing.objects, listing.areas, strict=True)
                if area >= max(1, min_object_size)
            ]
            images += [len(self._listings)] * len(kept)
            labels += kept
            self._listings.append(listing)
        self._images = np.array(images, dtype=np.int32)
        self._labels = np.array(labels, dtype=np.int32)
        self._starts = np.searchsorted(self._images, np.arange(len(self._listings) + 1))
        if not images:
            size = f" of at least {min_object_size} pixels" if min_object_size else ""
            raise ValueError(
                f"{self.root}: none of {len(self._listings)} masks contains an object{size}; "
                "a mask has 0 for background and 1..254 for objects (255 is ignored), or 0 and 255"
            )

    @abstractmethod
    def _list(self) -> Iterator[Listing]:
        """List all images in a fixed order, with the labels of their objects."""

    @abstractmethod
    def read_labeled_image(self, image: int) -> LabeledImage:
        """Decode image number ``image``.

        Raises:
            UnreadableFileError: When a file cannot be decoded.
            ValueError: When image and mask do not match.
        """

    def object_mask(self, image: int, decoded: LabeledImage, label: int) -> NDArray[np.bool_]:
        """Make the mask of one object of an image, (H, W) bool."""
        return np.equal(decoded.labels, label)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def num_images(self) -> int:
        """Number of listed images, with or without a usable object."""
        return len(self._listings)

    def samples_of(self, image: int) -> range:
        """Get the indices of the samples in image number ``image``."""
        return range(int(self._starts[image]), int(self._starts[image + 1]))

    def image_index(self, index: int) -> int:
        """Get the number of the image of sample ``index``."""
        return int(self._images[self._checked(index)])

    def label(self, index: int) -> int:
        """Get the label of sample ``index`` in the mask of its image."""
        return int(self._labels[self._checked(index)])

    def image_name(self, index: int) -> str:
        """Get the path of the image of sample ``index``, below the root."""
        return self._listings[self.image_index(index)].name

    def name(self, index: int) -> str:
        """Make a unique name of sample ``index``: image name, ``#`` and the label if there are several."""
        listing = self._listings[self.image_index(index)]
        return listing.name if len(listing.objects) == 1 else f"{listing.name}#{self.label(index)}"

    def read(self, index: int) -> Sample:
        """Decode sample ``index``.

        Raises:
            IndexError: When there is no such sample.
            ValueError: When a file cannot be decoded, or image and mask do not match.
        """
        image = self.image_index(index)
        decoded = self.read_labeled_image(image)
        mask = self.object_mask(image, decoded, self.label(index))
        if not mask.any():  # an empty object would count as segmented without a click
            raise ValueError(f"{self.root}: the mask of {self.name(index)} is empty; remove it")
        return Sample(decoded.image, mask, (decoded.labels == IGNORE) & ~mask, self.name(index))

    def __getitem__(self, index: int) -> Sample:
        return self.read(index)

    def __iter__(self) -> Iterator[Sample]:
        return (self.read(index) for index in range(len(self)))

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample index {index} is out of range for a dataset with {len(self)} samples")
        return index

    def _wanted(self, *folders: str) -> None:
        """Check that the root and these folders (or files) below it exist."""
        require_layout(self.root, folders, f"{type(self).__name__} needs {self.layout}")


def require_layout(root: Path, parts: Sequence[str], wanted: str) -> None:
    """Check that a folder exists and contains these folders or files.

    Raises:
        FileNotFoundError: When one is missing; the message names ``wanted``, and any folders inside ``root``
            that have it.
    """
    missing = [part for part in parts if not (root / part).exists()]
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; {wanted}")
    if missing:
        inside = sorted(path.name for path in root.iterdir() if all((path / part).exists() for part in parts))
        hint = f"; these folders inside have this layout: {', '.join(inside)}" if inside else ""
        raise FileNotFoundError(f"{root} has no {' and no '.join(missing)}; {wanted}{hint}")


@dataclass(frozen=True)
class Pair:
    """Absolute paths of an image and its mask, and the name below the root."""

    name: str
    image: Path
    mask: Path


class PairedDataset(InteractiveDataset):
    """Dataset with one mask file per image; a subclass implements ``_pairs`` and ``read_labels``.

    Examples:
        >>> sorted(PairedDataset.__abstractmethods__)
        ['_pairs', 'read_labels']
    """

    window: Window | None = None
    """Values shown as 0 and 255 in images with more than 8 bits, or None for the default rule."""

    def __init__(self, root: str | Path | None, *, min_object_size: int = 0) -> None:
        self._files: list[Pair] = []
        super().__init__(root, min_object_size=min_object_size)

    @abstractmethod
    def _pairs(self) -> Sequence[Pair]:
        """List the images with their mask files, in a fixed order."""

    @abstractmethod
    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Read a mask file as (H, W) uint8: 0 background, 1..254 objects, 255 ignore."""

    def _list(self) -> Iterator[Listing]:
        pairs = self._pairs()
        broken = []
        for pair, found in zip(
            pairs, in_threads(self._objects_of, pairs, f"listing {self.root.name}"), strict=True
        ):
            if isinstance(found, UnreadableFileError):
                broken.append(str(found))
                continue
            self._files.append(pair)
            yield Listing(pair.name, *found)
        if broken and len(broken) == len(pairs):
            raise ValueError(f"{self.root}: none of {len(pairs)} images can be used; first: {broken[0]}")
        if broken:
            warnings.warn(
                f"{self.root}: {len(broken)} of {len(pairs)} files are skipped; first: {broken[0]}",
                stacklevel=2,
            )

    def _objects_of(self, pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]] | UnreadableFileError:
        # Comparing the sizes here, from the image's header, makes a run fail early and not after hours.
        try:
            labels = self.read_labels(pair.mask)
            size = image_size(pair.image)
        except UnreadableFileError as error:
            return error
        if labels.shape != size:
            raise ValueError(size_mismatch(pair.name, size, self._below(pair.mask), labels.shape))
        objects, areas = count_labels(labels)
        self.check_labels(self._below(pair.mask), labels, objects)
        return objects, areas

    def check_labels(self, name: str, labels: NDArray[np.uint8], objects: Sequence[int]) -> None:
        """Inspect each mask during listing; a subclass may collect warnings."""

    def read_labeled_image(self, image: int) -> LabeledImage:
        pair = self._files[image]
        decoded = LabeledImage(read_image(pair.image, window=self.window), self.read_labels(pair.mask))
        if decoded.image.shape[:2] != decoded.labels.shape:
            raise ValueError(
                size_mismatch(
                    pair.name, decoded.image.shape[:2], self._below(pair.mask), decoded.labels.shape
                )
            )
        return decoded

    def _below(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def count_labels(labels: NDArray[np.uint8]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Count the pixels of each label 1..254 in (H, W) uint8.

    Examples:
        >>> count_labels(np.array([[0, 1], [3, 3], [255, 0]], dtype=np.uint8))
        ((1, 3), (1, 2))
    """
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel().astype(int)
    present = np.flatnonzero(counts[1:IGNORE]) + 1
    return tuple(present.tolist()), tuple(counts[present].tolist())


def in_threads(work: Callable[[S], T], items: Sequence[S], what: str) -> Iterator[T]:
    """Apply ``work`` to each item in threads, in order.

    Pillow releases the GIL while it decodes. A progress bar appears after two seconds.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from tqdm(pool.map(work, items), total=len(items), desc=what, delay=2, leave=False)
