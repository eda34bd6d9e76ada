"""Exact geometry of the simulated user: the deepest wrong pixel of one image.

All maps are uint8, 0 or 1, with a border of zeros: the image border is a boundary. Squared distances between
pixel centers are integers and are compared as integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Pixel = tuple[int, int]

_MAX_WINDOWS = 16
_TILE = 1024
_SMALL = 2**10
"""Number of pixels up to which a window is not split."""
_EXACT_BELOW = 2**20
"""Limit of window side x distance up to which OpenCV's float32 distance rounds to the true square."""


class Peak(NamedTuple):
    """Wrong pixel, with its squared distance to the boundary of its wrong region, and its sign."""

    squared: int
    row: int
    col: int
    positive: bool


class Wrong(NamedTuple):
    """Box around an image's wrong pixels: maps of missed and false ones, and the position of the box."""

    missed: Map
    false: Map
    top: int
    left: int

    def of_sign(self, positive: bool) -> Map:
        """Map of the missed pixels, or of the false ones."""
        return self.missed if positive else self.false

    def inside(self, pixels: Sequence[Pixel]) -> list[Pixel]:
        """Select the pixels inside the box, in the box's own rows and columns."""
        return _inside(pixels, self.top, self.left, self.missed.shape)


def wrong_pixels(pred: Bools | None, mask: Bools, ignore: Bools | None) -> Wrong | None:
    """Find the wrong pixels of an image; None if there are none.

    All maps are (H, W) bool; ``pred`` None is an empty prediction.
    """
    wrong = mask if pred is None else mask ^ pred
    if ignore is not None:
        wrong = wrong > ignore  # wrong and not ignored
    left, top, cols, rows = cv2.boundingRect(wrong.view(np.uint8))
    if rows == 0:
        return None
    box = np.s_[top : top + rows, left : left + cols]
    missed = np.zeros((rows + 2, cols + 2), np.uint8)
    false = np.zeros_like(missed)
    np.logical_and(wrong[box], mask[box], out=missed[1:-1, 1:-1].view(np.bool_))
    if pred is not None:
        np.logical_and(wrong[box], pred[box], out=false[1:-1, 1:-1].view(np.bool_))
    return Wrong(missed, false, top - 1, left - 1)


def deepest_pixel(wrong: Wrong, clicked: Sequence[Pixel]) -> Peak | None:
    """Find the wrong pixel farthest from a right one; the first in row-major order.

    False pixels win a tie with missed ones.

    Args:
        wrong: Wrong pixels.
        clicked: Pixels of the box that must not be chosen; they count as wrong in distances.

    Returns:
        Pixel in the box's rows and columns, or None if all were clicked.
    """
    signs = []
    for positive in (False, True):
        city = _city_block(wrong.of_sign(positive), clicked)
        signs.append((int(city.max()), positive, city))
    signs.sort(key=lambda one: -one[0])  # the deeper sign first, since it often excludes the other
    floor = 1
    best = None
    for _, positive, city in signs:
        found = _exact_peak(wrong.of_sign(positive), city, floor)
        if found is not None:
            best = Peak(*found, positive)
            # The false pixels win a tie, in either order.
            floor = best.squared if positive else best.squared + 1
    return best


def largest_region(wrong: Wrong, clicked: Sequence[Pixel]) -> Peak | None:
    """Find the deepest pixel of the largest 8-connected region that has an unclicked pixel.

    False regions win a tie of sizes, then the region whose first pixel comes first in row-major order.
    Arguments and result are those of `deepest_pixel`.
    """
    regions = []
    for positive in (False, True):
        bits = wrong.of_sign(positive)
        # Each 2 x 2 pixels hold at most one region, so that 16 bits suffice; this takes half the time of 32.
        labels = cv2.connectedComponents(
            bits, connectivity=8, ltype=cv2.CV_16U if bits.size < 2**17 else cv2.CV_32S
        )[1]
        in_order = labels[bits.view(np.bool_)]
        regions.append((positive, labels, in_order, np.bincount(in_order, minlength=1)))
    while largest := max(int(sizes.max()) for *_, sizes in regions):
        for positive, labels, in_order, sizes in regions:
            tied = np.flatnonzero(sizes == largest)
            for index in _by_first_pixel(tied, in_order):
                region = labels == index
                left, top, cols, rows = cv2.boundingRect(region.view(np.uint8))
                # The border of zeros around the whole map leaves room for one around the region.
                alone = region[top - 1 : top + rows + 1, left - 1 : left + cols + 1].view(np.uint8)
                city = _city_block(alone, _inside(clicked, top - 1, left - 1, alone.shape))
                found = _exact_peak(alone, city)
                if found is not None:
                    return Peak(found[0], found[1] + top - 1, found[2] + left - 1, positive)
            sizes[tied] = 0
    return None


def spread(
    peak: Peak, wrong: Wrong, clicked: Sequence[Pixel], *, core: bool, jitter: float, uniform: Sequence[float]
) -> Peak:
    """Choose a random unclicked pixel near ``peak``, in the same 8-connected region.

    Args:
        peak: Pixel chosen by the rule.
        wrong: Wrong pixels.
        clicked: Pixels of the box that must not be chosen.
        core: First choose among the region's pixels that are at least half as deep as the peak.
        jitter: Maximum distance in pixels of the second choice from the first one.
        uniform: Two numbers in 0..1, one for each choice.
    """
    filled = wrong.of_sign(peak.positive).copy()
    left, top, cols, rows = cv2.floodFill(filled, None, (peak.col, peak.row), 2, flags=8)[3]
    box = np.s_[top - 1 : top + rows + 1, left - 1 : left + cols + 1]
    region = (filled[box] == 2).view(np.uint8)
    # No tie is decided here, so that rounding to the nearest square is good enough at any size.
    squared = np.rint(
        np.square(cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64))
    ).astype(np.int64)
    free = region.astype(bool)
    for pixel in _inside(clicked, top - 1, left - 1, region.shape):
        free[pixel] = False
    at = (peak.row - top + 1, peak.col - left + 1)
    if core:
        at = _choose(free & (4 * squared >= peak.squared), uniform[0])
    if jitter:
        row_gap, col_gap = np.arange(rows + 2)[:, None] - at[0], np.arange(cols + 2) - at[1]
        at = _choose(free & (row_gap**2 + col_gap**2 <= jitter**2), uniform[1])
    return Peak(int(squared[at]), at[0] + top - 1, at[1] + left - 1, peak.positive)


def _city_block(bits: Map, clicked: Sequence[Pixel]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """City-block distance to the nearest zero; 0 at clicked pixels."""
    # 8 bits saturate at 255, which is the depth of a map of 511 rows with its border.
    kind = cv2.CV_8U if min(bits.shape) < 512 else cv2.CV_32F
    distance = cv2.distanceTransform(bits, cv2.DIST_L1, 3, dstType=kind)
    for pixel in clicked:
        distance[pixel] = 0
    return distance  # type: ignore[no-any-return]


def _exact_peak(
    bits: Map, city: NDArray[np.uint8] | NDArray[np.float32], floor: int = 1
) -> tuple[int, int, int] | None:
    """Find the largest squared distance to a zero of ``bits``, and its first pixel in row-major order.

    OpenCV's precise transform stores squares in float32: it is exact on a window whose side times distance is
    small, and approximate elsewhere, where the few pixels near the maximum are measured again in integers.

    Args:
        bits: (H, W) with a border of zeros.
        city: (H, W) from `_city_block`; pixels with 0 are skipped.
        floor: Minimum squared distance, at least 1.
    """
    _, highest_city, _, (col, row) = cv2.minMaxLoc(city)
    reach = int(highest_city)
    if reach * reach < floor:
        return None
    floor = max(floor, _square_at(bits, row, col, reach))  # few pixels can still win
    candidates = city >= math.isqrt(floor - 1) + 1
    best: tuple[int, int, int] | None = None
    reaches = [
        (int(city[top:bottom, left:right].max()), (top, left, bottom, right))
        for top, left, bottom, right in _windows(candidates)
    ]
    for of_window, (top, left, bottom, right) in sorted(
        reaches, key=lambda one: -one[0]
    ):  # a deep pixel excludes others
        if of_window**2 < floor:
            break
        # A candidate's nearest zero is at most its city-block distance away, in rows and in columns.
        low, low_col = max(top - of_window, 0), max(left - of_window, 0)
        window = bits[low : bottom + of_window, low_col : right + of_window]
        inner = np.s_[top - low : bottom - low, left - low_col : right - low_col]
        distance = cv2.distanceTransform(window, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[inner]
        distance = np.where(candidates[top:bottom, left:right], distance, 0)
        highest = float(distance.max())
        squared = round(highest**2)
        if max(window.shape) * highest < _EXACT_BELOW:
            row, col = divmod(int(np.argmax(distance > math.sqrt(squared - 0.5))), right - left)
        else:
            near = np.argwhere(
                (distance > 0) & (distance.astype(np.float64) ** 2 >= squared * (1 - 1e-5) - 8)
            )
            exact = _squares_to_zeros(window, near + np.array([top - low, left - low_col]))
            squared = int(exact.max())
            row, col = (int(n) for n in near[exact.argmax()])
        found = (squared, row + top, col + left)
        if squared > floor or (squared == floor and (best is None or found[1:] < best[1:])):
            best, floor = found, squared
    return best


def _square_at(bits: Map, row: int, col: int, city: int) -> int:
    """Squared distance of a pixel to the nearest zero, or a lower bound if float32 may be inexact."""
    low, low_col = max(row - city, 0), max(col - city, 0)
    window = bits[low : row + city + 1, low_col : col + city + 1]
    distance = float(
        cv2.distanceTransform(window, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[row - low, col - low_col]
    )
    if max(window.shape) * distance < _EXACT_BELOW:
        return round(distance**2)
    return (city**2 + 1) // 2  # the city-block distance is at most sqrt(2) times the other


def _windows(candidates: Bools) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (top, left, bottom, right) that cover all True pixels, each at most one tile in size."""
    whole = cv2.boundingRect(candidates.view(np.uint8))
    blobs = [whole]
    if whole[2] * whole[3] > _SMALL:
        contours = cv2.findContours(candidates.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        blobs = (
            [cv2.boundingRect(contour) for contour in contours] if len(contours) <= _MAX_WINDOWS else blobs
        )
    for left, top, cols, rows in blobs:
        for row in range(top, top + rows, _TILE):
            for col in range(left, left + cols, _TILE):
                yield row, col, min(row + _TILE, top + rows), min(col + _TILE, left + cols)


def _squares_to_zeros(bits: Map, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Exact squared distances of (K, 2) pixels to the nearest zero of ``bits``."""
    # The nearest zero is next to a nonzero pixel.
    edge = cv2.dilate(bits, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > bits
    zeros = np.argwhere(edge)
    chunk = max(2**22 // len(zeros), 1)
    parts = (pixels[i : i + chunk, None] - zeros for i in range(0, len(pixels), chunk))
    return np.concatenate([np.square(part).sum(-1).min(1) for part in parts])


def _inside(pixels: Sequence[Pixel], top: int, left: int, shape: tuple[int, ...]) -> list[Pixel]:
    """Select the pixels inside a box with this corner and shape, in the box's own rows and columns."""
    moved = ((row - top, col - left) for row, col in pixels)
    return [(row, col) for row, col in moved if 0 <= row < shape[0] and 0 <= col < shape[1]]


def _by_first_pixel(labels: NDArray[np.int64], in_order: NDArray[np.integer]) -> NDArray[np.integer]:
    """Sort ``labels`` by their first position in ``in_order``."""
    if len(labels) < 2:
        return labels
    present = in_order[np.isin(in_order, labels)]
    order: NDArray[np.integer] = present[np.sort(np.unique(present, return_index=True)[1])]
    return order


def _choose(bits: Bools, uniform: float) -> Pixel:
    """Choose one of the True pixels by a number in 0..1."""
    pixels = np.flatnonzero(bits)
    row, col = divmod(int(pixels[min(int(uniform * len(pixels)), len(pixels) - 1)]), bits.shape[1])
    return row, col
