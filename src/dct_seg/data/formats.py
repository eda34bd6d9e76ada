"""The datasets that are files on disk, each in the layout in which the field packs it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from dct_seg.data.base import DATASETS, Pair, PairedDataset
from dct_seg.data.images import (
    IGNORE,
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    UnreadableFileError,
    read_first_channel,
    read_nonzero,
    read_values,
)
from dct_seg.data.labels import SOFT_CURE, as_bytes, as_labels, soft_problem


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder that end in one of these, sorted by name; hidden ones are left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def has_gaps_beside_ignore(labels: NDArray[np.uint8], objects: Sequence[int]) -> bool:
    """Whether labels skip numbers beside 255: what a trimap looks like, or a smoothed 0/255 mask."""
    has_gaps = tuple(objects) != tuple(range(1, len(objects) + 1))
    return has_gaps and bool((labels == IGNORE).any())


def deeper_images(root: Path, folders: Sequence[str]) -> list[tuple[str, str]]:
    """The folders inside these that hold images, which nothing reads: (path below the root, a line)."""
    found = []
    for folder in folders:
        for inside in sorted(path for path in (root / folder).iterdir() if path.is_dir()):
            suffixes = {*IMAGE_SUFFIXES, *MASK_SUFFIXES}
            count = sum(path.suffix.lower() in suffixes for path in inside.rglob("*"))
            if count and not inside.name.startswith("."):
                name = f"{folder}/{inside.name}"
                line = f"{name}/ holds {count} images that are not read; move them up into {folder}/"
                found.append((name, line))
    return found


def match_stems(
    images: Sequence[Path], masks: Sequence[Path]
) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Pairs with one stem, images without a mask, masks without an image."""
    by_stem = {path.stem: path for path in masks}
    pairs = [(path, by_stem[path.stem]) for path in images if path.stem in by_stem]
    stems = {path.stem for path in images}
    return (
        pairs,
        [path for path in images if path.stem not in by_stem],
        [path for path in masks if path.stem not in stems],
    )


class _TwoFolders(PairedDataset):
    """Images in one folder, masks under the same stem in another."""

    folders: tuple[str, str]

    def _pairs(self) -> list[Pair]:
        self._wanted(*self.folders)
        images = files_in(self.root / self.folders[0], IMAGE_SUFFIXES)
        masks = files_in(self.root / self.folders[1], MASK_SUFFIXES)
        for folder, what, files in zip(self.folders, ("images", "masks"), (images, masks), strict=True):
            twice = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
            if twice:
                raise ValueError(
                    f"{self.root / folder} has several {what} named '{twice[0]}'; a mask is found by "
                    "its stem: rename one"
                )
        pairs, alone, _ = match_stems(images, masks)
        if not pairs:
            deeper = deeper_images(self.root, self.folders)
            raise ValueError(
                f"{self.root}: none of {len(images)} images has a mask under the same stem ({len(masks)} "
                f"masks); {type(self).__name__} wants {self.layout}" + (f"; {deeper[0][1]}" if deeper else "")
            )
        if alone:
            warnings.warn(
                f"{self.root}: {len(alone)} images without a mask are left out; first: {alone[0].name}",
                stacklevel=2,
            )
        return [Pair(f"{self.folders[0]}/{image.name}", image, mask) for image, mask in pairs]


@DATASETS.register()
class Folder(_TwoFolders):
    """Any folder with ``images/`` and ``masks/``.

    Indexed masks (0 background, 1..254 objects, 255 ignore) or 0/255 ones.
    """

    folders = ("images", "masks")
    layout = "images/NAME.jpg with masks/NAME.png: 0 background, 1..254 objects, 255 ignore; or 0 and 255"

    def __init__(self, root: str | Path | None, *, min_object_size: int = 0) -> None:
        self._doubtful: list[str] = []
        super().__init__(root, min_object_size=min_object_size)
        if self._doubtful:
            first = sorted(self._doubtful)[0]
            warnings.warn(
                f"{self.root}: {len(self._doubtful)} masks hold labels with gaps beside 255, which is read "
                f"as ignore; first: {first}; is it a trimap, or was a 0/255 mask smoothed? `dct-seg data "
                "check DIR` lists all",
                stacklevel=2,
            )

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        labels = as_labels(read_values(path), path)
        problem = soft_problem(labels)
        if problem:
            raise ValueError(f"{path} holds {problem}; {SOFT_CURE}")
        return labels

    def check_labels(self, name: str, labels: NDArray[np.uint8], objects: Sequence[int]) -> None:
        if has_gaps_beside_ignore(labels, objects):
            self._doubtful.append(name)


@DATASETS.register()
class GrabCut(_TwoFolders):
    """GrabCut, 50 images with one object; a 128 band along the outline is ignored."""

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
    """DAVIS, 345 frames as the field samples them; the object is every label above 0."""

    folders = ("img", "gt")
    layout = "img/NAME.jpg with gt/NAME.png: a palette PNG, object > 0"

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return read_nonzero(path).astype(np.uint8)


@DATASETS.register("COCO_MVal")
class COCOMVal(DAVIS):
    """COCO_MVal, 800 single objects, ten of each class; the object is every value above 0."""

    layout = "img/NAME.jpg with gt/NAME.png: object > 0"


@DATASETS.register()
class Berkeley(PairedDataset):
    """Berkeley, 100 objects on 96 images.

    ``NAME#001.png`` and ``NAME#002.png`` are two objects of one image.
    """

    layout = "images/NAME.jpg with masks/NAME.png or masks/NAME#001.png: first channel > 128"

    def _pairs(self) -> list[Pair]:
        self._wanted("images", "masks")
        images = {path.stem: path for path in files_in(self.root / "images", IMAGE_SUFFIXES)}
        pairs = []
        for mask in files_in(self.root / "masks", MASK_SUFFIXES):
            stem, mark, number = mask.stem.partition("#")
            image = images.get(stem)
            if image is None:
                raise ValueError(
                    f"{self._below(mask)} has no image images/{stem}.jpg; {type(self).__name__} wants "
                    f"{self.layout}"
                )
            pairs.append(Pair(f"images/{image.name}{mark}{number}", image, mask))
        return pairs

    def image_name(self, index: int) -> str:
        return self._below(self._files[self.image_index(index)].image)

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return (read_first_channel(path) > 128).astype(np.uint8)


class _Listed(PairedDataset):
    """A dataset whose split is a text file of names."""

    def __init__(self, root: str | Path | None, *, split: str = "train", min_object_size: int = 0) -> None:
        self.split = split
        super().__init__(root, min_object_size=min_object_size)

    def _names(self, path: str) -> list[str]:
        names = (self.root / path).read_text(encoding="utf-8").split()
        if not names:
            raise ValueError(f"{self.root / path} lists no image; it wants one name a line")
        return names


@DATASETS.register()
class SBD(_Listed):
    """Semantic Boundaries: 8,498 train and 2,857 val images; one sample per object (6,671 in val).

    Args:
        root: The folder.
        split: The text file to follow, ``train`` or ``val``.
        min_object_size: Objects with fewer pixels are no samples.
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
        except Exception as error:  # scipy raises many kinds for a damaged file
            raise UnreadableFileError(
                f"{path} cannot be read as SBD's .mat ({error}); replace it or take it out of the list"
            ) from error
        return as_bytes(np.asarray(labels), path)


@DATASETS.register()
class VOC(_Listed):
    """Pascal VOC 2012 objects (3,417 in val); the 255 outline is ignored.

    Args:
        root: The folder, usually ``VOCdevkit/VOC2012``.
        split: The text file in ``ImageSets/Segmentation`` to follow, ``train`` or ``val``.
        min_object_size: Objects with fewer pixels are no samples.
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
