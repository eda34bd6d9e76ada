"""Shapes: a procedural dataset of textured, overlapping objects, without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.data.base import DATASETS, InteractiveDataset, LabeledImage, Listing, count_labels

Array = NDArray[np.float32]


@DATASETS.register()
class Shapes(InteractiveDataset):
    """Textured polygons, ellipses, stars, blobs and rings that overlap, with shading and noise.

    An image is a pure function of (seed, split, its number, size); splits share no image.

    Args:
        root: None; the images are drawn.
        split: Name of the split, such as ``train`` or ``val``; any name works.
        num_images: Number of images.
        size: (height, width) in pixels.
        max_shapes: Maximum number of shapes per image, at least 2; a shape is a sample if enough is visible.
        seed: Seed of all images.
        min_object_size: Minimum visible pixels of a shape.

    Raises:
        ValueError: When a root is given, or a number is out of range.

    Examples:
        >>> shapes = Shapes(num_images=4, size=(64, 80))
        >>> again = Shapes(num_images=4, size=(64, 80))
        >>> shapes.read(0).image.shape, bool((shapes.read(0).image == again.read(0).image).all())
        ((64, 80, 3), True)
    """

    layout = "no files"
    needs_no_root = True

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        split: str = "train",
        num_images: int = 400,
        size: tuple[int, int] = (128, 160),
        max_shapes: int = 5,
        seed: int = 0,
        min_object_size: int = 80,
    ) -> None:
        if root is not None:
            raise ValueError(
                f"Shapes draws its images and reads no folder, got '{root}'; "
                "for your own images, use the dataset Folder"
            )
        if num_images < 1 or min(size) < 16 or max_shapes < 2:
            raise ValueError(
                f"Shapes needs num_images >= 1, sides >= 16 pixels and max_shapes >= 2, got {num_images}, "
                f"{tuple(size)} and {max_shapes}"
            )
        self.split = split
        self.num = num_images
        self.size = (int(size[0]), int(size[1]))
        self.max_shapes = max_shapes
        self._entropy = int.from_bytes(hashlib.sha256(f"{seed}/{split}".encode()).digest()[:8], "little")
        super().__init__(None, min_object_size=min_object_size)

    def _list(self) -> Iterator[Listing]:
        for number in range(self.num):
            yield Listing(f"{self.split}/{number:05d}", *count_labels(self._labels_of(number)))

    def _rng(self, number: int, stage: int) -> np.random.Generator:
        return np.random.default_rng([self._entropy, number, stage])

    def _labels_of(self, number: int) -> NDArray[np.uint8]:
        """Draw the labels (H, W) from separate random numbers, because listing must not render the image."""
        rng = self._rng(number, 0)
        labels = np.zeros(self.size, dtype=np.uint8)
        for label in range(1, int(rng.integers(2, self.max_shapes + 1)) + 1):
            labels[draw_shape(rng, self.size)] = label
        return labels

    def read_labeled_image(self, image: int) -> LabeledImage:
        labels = self._labels_of(image)
        return LabeledImage(paint(self._rng(image, 1), labels), labels)


def draw_shape(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw one random shape, mostly inside the image, (H, W) bool."""
    height, width = size
    reach = min(size) * rng.uniform(0.12, 0.38)
    middle = np.array([rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height])
    angles = (
        np.sort(rng.uniform(0, 2 * np.pi, 64))
        if rng.random() < 0.2
        else np.linspace(0, 2 * np.pi, 64, endpoint=False)
    )
    kind = rng.choice(["polygon", "ellipse", "star", "blob"])
    if kind == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        radius = rng.uniform(0.7, 1.2, len(angles))
    elif kind == "star":
        angles = np.linspace(0, 2 * np.pi, 2 * int(rng.integers(4, 8)), endpoint=False)
        radius = np.where(np.arange(len(angles)) % 2, rng.uniform(0.35, 0.65), 1.2)
    elif kind == "blob":
        phases, sizes = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0, 0.22, 4)
        radius = 1 + sum(
            size * np.sin((k + 2) * angles + phase)
            for k, (phase, size) in enumerate(zip(phases, sizes, strict=True))
        )
    else:
        radius = np.ones(len(angles))
    stretch, turn = np.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0, np.pi)
    points = np.stack([np.cos(angles) * radius * stretch, np.sin(angles) * radius / stretch], axis=1) * reach
    turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + middle
    canvas = np.zeros(size, dtype=np.uint8)
    cv2.fillPoly(canvas, [np.rint(turned).astype(np.int32)], 1)
    if rng.random() < 0.2:
        hole = (int(middle[0]), int(middle[1]))
        cv2.circle(canvas, hole, max(2, int(reach * rng.uniform(0.25, 0.45))), 0, -1)
    return canvas.astype(bool)


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Array:
    """Draw smooth noise (H, W) in about -1..1: random numbers on a coarse grid, enlarged."""
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC))


def texture(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Draw a texture (H, W, 3) in 0..255: two similar colors mixed by noise, stripes or checks."""
    first = rng.uniform(30, 225, 3)
    second = np.clip(first + rng.normal(0, 45, 3), 0, 255)
    rows, cols = np.mgrid[: size[0], : size[1]].astype(np.float32)
    turn, period = rng.uniform(0, np.pi), rng.uniform(4, 16)
    along = (cols * np.cos(turn) + rows * np.sin(turn)) * (2 * np.pi / period)
    kind = rng.choice(["plain", "noise", "stripes", "checks"])
    if kind == "plain":
        mix = np.full(size, 0.5, dtype=np.float32)
    elif kind == "noise":
        mix = 0.5 + 0.5 * smooth_noise(rng, size, int(rng.integers(6, 24)))
    elif kind == "stripes":
        mix = 0.5 + 0.5 * np.sin(along)
    else:
        across = (rows * np.cos(turn) - cols * np.sin(turn)) * (2 * np.pi / period)
        mix = (np.sin(along) * np.sin(across) > 0).astype(np.float32)
    return (first + mix[:, :, None] * (second - first)).astype(np.float32)


def paint(rng: np.random.Generator, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Render (H, W, 3) uint8: a texture per label, including the background, then shading, blur and noise."""
    size = (labels.shape[0], labels.shape[1])
    canvas = texture(rng, size)
    for label in range(1, int(labels.max(initial=0)) + 1):
        where = labels == label
        canvas[where] = texture(rng, size)[where]
    canvas *= (1 + 0.25 * smooth_noise(rng, size, 3))[:, :, None]
    canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 0.9)))
    canvas += rng.normal(0, rng.uniform(2, 9), canvas.shape).astype(np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
