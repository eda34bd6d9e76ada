"""Datasets of files on disk, each in its published layout."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from dct_seg.data.base import DATASETS, Pair, PairedDataset
from dct_seg.data.brightness import Window
from dct_seg.data.images import (
    IGNORE,
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    SEVERAL_SUFFIXES,
    UnreadableFileError,
    page_numbers,
    read_first_channel,
    read_nonzero,
    read_values,
)
from dct_seg.data.labels import SOFT_CURE, as_bytes, as_labels, soft_problem
from dct_seg.data.pages import plain_stem, suffix_of


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """List the files in a folder with one of these suffixes, sorted by name, without hidden ones."""
    return sorted(
        path for path in folder.iterdir() if suffix_of(path) in suffixes and not path.name.startswith(".")
    )


def images_in(folder: Path) -> list[Path]:
    """List the images of a folder, sorted by name; ``stack.tif#3`` is the third image in a file."""
    return [image for path in files_in(folder, IMAGE_SUFFIXES) for image in _images_of(path)]


def _images_of(path: Path) -> list[Path]:
    if suffix_of(path) not in SEVERAL_SUFFIXES:
        return [path]
    try:
        numbers = page_numbers(path)
    except (FileNotFoundError, UnreadableFileError):
        return [path]  # the error is reported when it is read, or by `unreadable`
    return [path] if len(numbers) == 1 else [path.with_name(f"{path.name}#{page}") for page in numbers]


def unreadable(path: Path) -> str:
    """Describe why the images in a file cannot be listed, after "; ", or return an empty text."""
    try:
        if suffix_of(path) in SEVERAL_SUFFIXES:
            page_numbers(path)
    except (FileNotFoundError, UnreadableFileError) as error:
        return f"; {error}"
    return ""


def stem(path: Path) -> str:
    """Make the name that matches an image with its mask: no suffix, but the number in a multi-image file."""
    return plain_stem(path.name)


def has_gaps_beside_ignore(labels: NDArray[np.uint8], objects: Sequence[int]) -> bool:
    """Whether labels have gaps and 255 occurs, as in a trimap or a smoothed 0/255 mask."""
    has_gaps = tuple(objects) != tuple(range(1, len(objects) + 1))
    return has_gaps and bool((labels == IGNORE).any())


def deeper_images(root: Path, folders: Sequence[str]) -> list[tuple[str, str]]:
    """Find subfolders with images, which are not read: (path below the root, message)."""
    found = []
    for folder in folders:
        for inside in sorted(path for path in (root / folder).iterdir() if path.is_dir()):
            suffixes = {*IMAGE_SUFFIXES, *MASK_SUFFIXES}
            count = sum(suffix_of(path) in suffixes for path in inside.rglob("*"))
            if count and not inside.name.startswith("."):
                name = f"{folder}/{inside.name}"
                line = f"{name}/ contains {count} images that are not read; move them up into {folder}/"
                found.append((name, line))
    return found


def match_stems(
    images: Sequence[Path], masks: Sequence[Path]
) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Match files by stem: pairs, images without a mask, masks without an image."""
    by_stem = {stem(path): path for path in masks}
    pairs = [(path, by_stem[stem(path)]) for path in images if stem(path) in by_stem]
    stems = {stem(path) for path in images}
    return (
        pairs,
        [path for path in images if stem(path) not in by_stem],
        [path for path in masks if stem(path) not in stems],
    )


class _TwoFolders(PairedDataset):
    """Dataset with images in one folder and masks of the same stem in another."""

    folders: tuple[str, str]

    def _pairs(self) -> list[Pair]:
        self._wanted(*self.folders)
        images = images_in(self.root / self.folders[0])
        masks = files_in(self.root / self.folders[1], MASK_SUFFIXES)
        for folder, what, files in zip(self.folders, ("images", "masks"), (images, masks), strict=True):
            twice = [one for one, count in Counter(stem(path) for path in files).items() if count > 1]
            if twice:
                raise ValueError(
                    f"{self.root / folder} has several {what} named '{twice[0]}'; a mask is found by "
                    "its stem: rename one"
                )
        pairs, alone, _ = match_stems(images, masks)
        reason = next(filter(None, map(unreadable, alone)), "")
        if not pairs:
            deeper = deeper_images(self.root, self.folders)
            raise ValueError(
                f"{self.root}: none of {len(images)} images has a mask with the same stem ({len(masks)} "
                f"masks); {type(self).__name__} needs {self.layout}"
                + (f"; {deeper[0][1]}" if deeper else "")
                + reason
            )
        if alone:
            warnings.warn(
                f"{self.root}: {len(alone)} of {len(images)} images have no mask and are skipped; "
                f"first: {alone[0].name}{reason}",
                stacklevel=2,
            )
        return [Pair(f"{self.folders[0]}/{image.name}", image, mask) for image, mask in pairs]


@DATASETS.register()
class Folder(_TwoFolders):
    """Dataset of any folder with ``images/`` and ``masks/``.

    Indexed masks (0 background, 1..254 objects, 255 ignore) or 0/255 ones. The third image of
    ``images/stack.tif`` has the mask ``masks/stack#3.png``.

    Args:
        root: Folder of the dataset.
        window: Lowest and highest value of images with more than 8 bits, or None for `to_uint8`'s rule.
        min_object_size: Minimum pixels of an object.
    """

    folders = ("images", "masks")
    layout = "images/NAME.jpg with masks/NAME.png: 0 background, 1..254 objects, 255 ignore; or 0 and 255"

    def __init__(
        self,
        root: str | Path | None,
        *,
        window: tuple[float, float] | None = None,
        min_object_size: int = 0,
    ) -> None:
        self._doubtful: list[str] = []
        self.window = None if window is None else Window.checked(*window)
        super().__init__(root, min_object_size=min_object_size)
        if self._doubtful:
            first = sorted(self._doubtful)[0]
            warnings.warn(
                f"{self.root}: {len(self._doubtful)} masks contain label gaps next to 255, which is read "
                f"as ignore; first: {first}; is it a trimap, or was a 0/255 mask smoothed? `dct-seg data "
                "check DIR` lists all",
                stacklevel=2,
            )

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        labels = as_labels(read_values(path), path)
        problem = soft_problem(labels)
        if problem:
            raise ValueError(f"{path} contains {problem}; {SOFT_CURE}")
        return labels

    def check_labels(self, name: str, labels: NDArray[np.uint8], objects: Sequence[int]) -> None:
        if has_gaps_beside_ignore(labels, objects):
            self._doubtful.append(name)


@DATASETS.register()
class GrabCut(_TwoFolders):
    """GrabCut: 50 images with one object; a band of 128 along the outline is ignored."""

    folders = ("data_GT", "boundary_GT")
    layout = "data_GT/NAME.jpg (or .bmp) with boundary_GT/NAME.bmp: 255 object, 128 ignore, 0 background"

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        values = read_values(path)
        labels = np.zeros(values.shape, dtype=np.uint8)
        labels[values == 255] = 1
        labels[values == 128] = IGNORE
        return labels


@DATASETS.register()
class DAVIS(_TwoFolders):
    """DAVIS: the usual 345 frames; the object is every label above 0."""

    folders = ("img", "gt")
    layout = "img/NAME.jpg with gt/NAME.png: a palette PNG, object > 0"

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return read_nonzero(path).astype(np.uint8)


@DATASETS.register("COCO_MVal")
class COCOMVal(DAVIS):
    """COCO_MVal: 800 single objects, ten per class; the object is every value above 0."""

    layout = "img/NAME.jpg with gt/NAME.png: object > 0"


@DATASETS.register()
class Berkeley(PairedDataset):
    """Berkeley: 100 objects on 96 images.

    ``NAME#001.png`` and ``NAME#002.png`` are two objects of one image.
    """

    layout = "images/NAME.jpg with masks/NAME.png or masks/NAME#001.png: first channel > 128"

    def _pairs(self) -> list[Pair]:
        self._wanted("images", "masks")
        images = {stem(path): path for path in images_in(self.root / "images")}
        pairs = []
        for mask in files_in(self.root / "masks", MASK_SUFFIXES):
            name, mark, number = mask.stem.partition("#")
            image = images.get(name)
            if image is None:
                raise ValueError(
                    f"{self._below(mask)} has no image images/{name}.jpg; {type(self).__name__} needs "
                    f"{self.layout}"
                )
            pairs.append(Pair(f"images/{image.name}{mark}{number}", image, mask))
        return pairs

    def image_name(self, index: int) -> str:
        return self._below(self._files[self.image_index(index)].image)

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return (read_first_channel(path) > 128).astype(np.uint8)


class _Listed(PairedDataset):
    """Dataset with a text file of names per split."""

    def __init__(self, root: str | Path | None, *, split: str = "train", min_object_size: int = 0) -> None:
        self.split = split
        super().__init__(root, min_object_size=min_object_size)

    def _names(self, path: str) -> list[str]:
        names = (self.root / path).read_text(encoding="utf-8").split()
        if not names:
            raise ValueError(f"{self.root / path} lists no image; it needs one name per line")
        return names


@DATASETS.register()
class SBD(_Listed):
    """Semantic Boundaries: 8,498 train and 2,857 val images; one sample per object (6,671 in val).

    Args:
        root: Folder of the dataset.
        split: Text file with the names, ``train`` or ``val``.
        min_object_size: Minimum pixels of an object.
    """

    layout = "img/NAME.jpg, inst/NAME.mat (GTinst.Segmentation), train.txt and val.txt"

    def _pairs(self) -> list[Pair]:
        self._wanted("img", "inst", f"{self.split}.txt")
        names = self._names(f"{self.split}.txt")
        return [
            Pair(f"img/{name}.jpg", self.root / "img" / f"{name}.jpg", self.root / "inst" / f"{name}.mat")
            for name in names
        ]

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        try:
            labels = loadmat(path)["GTinst"][0]["Segmentation"][0]
        except FileNotFoundError:
            raise
        except Exception as error:  # scipy raises many types for a damaged file
            raise UnreadableFileError(
                f"{path} cannot be read as SBD's .mat ({error}); replace the file, or remove it from the list"
            ) from error
        return as_bytes(np.asarray(labels), path)


@DATASETS.register()
class VOC(_Listed):
    """Pascal VOC 2012 objects (3,417 in val); the 255 outline is ignored.

    Args:
        root: Folder of the dataset, usually ``VOCdevkit/VOC2012``.
        split: Text file in ``ImageSets/Segmentation`` with the names, ``train`` or ``val``.
        min_object_size: Minimum pixels of an object.
    """

    layout = (
        "JPEGImages/NAME.jpg, SegmentationObject/NAME.png (palette) and "
        "ImageSets/Segmentation/{train,val}.txt"
    )

    def _pairs(self) -> list[Pair]:
        split = f"ImageSets/Segmentation/{self.split}.txt"
        self._wanted("JPEGImages", "SegmentationObject", split)
        return [
            Pair(
                f"JPEGImages/{name}.jpg",
                self.root / "JPEGImages" / f"{name}.jpg",
                self.root / "SegmentationObject" / f"{name}.png",
            )
            for name in self._names(split)
        ]

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return as_bytes(read_values(path), path)
