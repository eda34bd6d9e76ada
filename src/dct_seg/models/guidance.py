"""Click maps from the image's superpixels and object proposals (Majumder and Yao 2019)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dct_seg.click_encoders import CLICK_ENCODERS, ClickEncoder
from dct_seg.clicks import ClickBatch

_BINS = 8
SMALLEST_PROPOSAL, LARGEST_PROPOSAL = 0.001, 0.7
"""Minimum and maximum size of an object proposal, as fractions of the image."""


@dataclass(frozen=True)
class Superpixels:
    """Superpixels of one image.

    Args:
        labels: (H, W) int64, 0..K-1.
        centroids: (K, 2) float32, mean row and column in pixels.
        shares: (K, K) float32, fraction of the object proposals with superpixel i that also contain j.
    """

    labels: Tensor
    centroids: Tensor
    shares: Tensor


@CLICK_ENCODERS.register()
class SuperpixelGuidance(ClickEncoder):
    """Maps of the distance between superpixel centroids, and of the object proposals that contain a click.

    The maps are the distances to positive and to negative clicks, each clipped at ``limit`` and divided by
    it. With ``objects``, a third map holds the largest share, over positive clicks, of the click's object
    proposals that contain a pixel.

    Source: based on CMG, "Content-Aware Multi-Level Guidance for Interactive Instance Segmentation" (CVPR
    2019). The paper takes superpixels and proposals from MCG, whose parameters we could not read. Ours are
    SLIC superpixels, and the regions of a tree that merges them by color similarity and size.

    Args:
        num_superpixels: Approximate number of superpixels per image.
        limit: Distance in pixels at which the maps are clipped.
        objects: Add the map of object proposals.
        scale: Clip the distance to a click with a drag at 8 radii instead of ``limit``.

    Raises:
        ImportError: When the extra ``classical`` is not installed.
        ValueError: When a number is not positive.

    Examples:
        >>> from dct_seg import Click
        >>> encoder, image = SuperpixelGuidance(num_superpixels=20), torch.rand(1, 3, 32, 32)
        >>> clicks = ClickBatch.from_clicks([[Click(10, 12)]])
        >>> encoder(clicks, (32, 32), encoder.prepare(image)).shape
        torch.Size([1, 3, 32, 32])
    """

    needs_image = True

    def __init__(
        self,
        num_superpixels: int = 500,
        limit: float = 255.0,
        *,
        objects: bool = True,
        scale: bool = False,
    ) -> None:
        super().__init__()
        if num_superpixels < 1 or not limit > 0:
            raise ValueError(f"num_superpixels and limit must be above 0, got {num_superpixels} and {limit}")
        try:
            self._slic = import_module("skimage.segmentation").slic
        except ImportError as error:
            raise ImportError(
                "click encoder 'SuperpixelGuidance' needs scikit-image; pip install 'dct-seg[classical]'"
            ) from error
        self.num_superpixels = num_superpixels
        self.limit = limit
        self.objects = objects
        self.scale = scale
        self.num_maps = 3 if objects else 2

    def prepare(self, image: Tensor) -> list[Superpixels]:
        """Compute the superpixels of each image of a batch.

        Args:
            image: (B, 3, H, W) RGB in 0..1.
        """
        return [self._superpixels(one) for one in image.detach().float().cpu().permute(0, 2, 3, 1).numpy()]

    def forward(
        self, clicks: ClickBatch, size: tuple[int, int], prepared: Sequence[Superpixels] | None = None
    ) -> Tensor:
        """Draw the maps of all clicks, (B, num_maps, H, W) in 0..1; ``prepared`` comes from ``prepare``."""
        if prepared is None:
            raise ValueError(
                "SuperpixelGuidance needs the image's superpixels; pass the result of prepare(image)"
            )
        maps = torch.zeros(len(clicks), self.num_maps, *size, device=clicks.device)
        for b, (clicked_pixels, labels, radii) in enumerate(
            zip(clicks.pixels(size).cpu(), clicks.labels.cpu(), clicks.radii.cpu(), strict=True)
        ):
            pixels = prepared[b]
            clicked = pixels.labels[clicked_pixels[:, 0], clicked_pixels[:, 1]]  # (N,) superpixels
            drawn = [
                self._distance(pixels, clicked[labels == sign], radii[labels == sign]) for sign in (1, 0)
            ]
            if self.objects:
                shares = pixels.shares[clicked[labels == 1]]
                drawn.append(shares.amax(0) if len(shares) else torch.zeros(len(pixels.centroids)))
            maps[b] = torch.stack(drawn)[:, pixels.labels].to(maps)
        return maps

    def _distance(self, pixels: Superpixels, clicked: Tensor, radii: Tensor) -> Tensor:
        """Compute the clipped distance of each superpixel, (K,) in 0..1; 1 without clicks."""
        if len(clicked) == 0:
            return torch.ones(len(pixels.centroids))
        far = torch.where(radii.isnan() | (not self.scale), self.limit, (8 * radii).clamp(min=1.0))
        apart = torch.cdist(pixels.centroids[clicked], pixels.centroids)  # (N, K)
        return (apart / far[:, None]).clamp(max=1).amin(0)

    def _superpixels(self, image: NDArray[np.float32]) -> Superpixels:
        height, width = image.shape[:2]
        wanted = min(self.num_superpixels, height * width // 4)
        if wanted < 2:
            labels = np.arange(height * width).reshape(height, width)
        else:
            found = self._slic(
                image, n_segments=wanted, compactness=10, max_num_iter=5, start_label=0, channel_axis=-1
            )
            labels = np.unique(found, return_inverse=True)[1].reshape(height, width)
        return superpixels_of(image, labels)


def superpixels_of(image: NDArray[np.float32], labels: NDArray[Any]) -> Superpixels:
    """Describe the superpixels of a label map, with their centroids and proposal shares.

    Args:
        image: (H, W, 3) RGB in 0..1.
        labels: (H, W) integers 0..K-1, each at least once.
    """
    flat = labels.ravel()
    areas = np.bincount(flat)
    rows, cols = (grid.ravel() for grid in np.mgrid[: labels.shape[0], : labels.shape[1]])
    centroids = np.stack([np.bincount(flat, weights=one) / areas for one in (rows, cols)], 1)
    histograms = _histograms(image, flat, len(areas))
    merges = merge_order(areas, histograms, neighbors(labels))
    return Superpixels(
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(centroids.astype(np.float32)),
        torch.from_numpy(proposal_shares(areas, merges)),
    )


def _histograms(image: NDArray[np.float32], flat: NDArray[Any], num: int) -> NDArray[np.float64]:
    """Color histograms, (K, 3 * bins); each sums to 1."""
    levels = np.clip((image.reshape(-1, 3) * _BINS).astype(np.int64), 0, _BINS - 1)
    places = flat[:, None] * (3 * _BINS) + np.arange(3) * _BINS + levels
    counts = np.bincount(places.ravel(), minlength=num * 3 * _BINS).reshape(num, 3 * _BINS)
    return np.asarray(counts / counts.sum(1, keepdims=True))


def neighbors(labels: NDArray[Any]) -> list[tuple[int, int]]:
    """Find the pairs (i, j), i < j, of superpixels that share a pixel edge."""
    pairs = np.concatenate(
        [
            np.stack([labels[:-1].ravel(), labels[1:].ravel()], 1),
            np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], 1),
        ]
    )
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    return [(int(i), int(j)) for i, j in pairs]


def merge_order(
    areas: NDArray[Any], histograms: NDArray[np.float64], pairs: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Merge neighboring regions, most similar first, until no two regions touch.

    The similarity is the intersection of the color histograms, plus one minus the share of the image that
    both regions fill, so that small regions merge first (two of selective search's four terms).

    Args:
        areas: (K,) size of each superpixel in pixels.
        histograms: (K, C) color histograms; each row sums to 1.
        pairs: Neighbors (i, j).

    Returns:
        Pairs of regions; superpixels are 0..K-1, and the n-th merge creates region K + n.
    """
    total = float(areas.sum())
    area, color = [float(a) for a in areas], list(histograms)
    touching: dict[int, set[int]] = {i: set() for i in range(len(area))}
    heap: list[tuple[float, int, int]] = []

    def offer(i: int, j: int) -> None:
        touching[i].add(j)
        touching[j].add(i)
        likeness = float(np.minimum(color[i], color[j]).sum()) + 1 - (area[i] + area[j]) / total
        heapq.heappush(heap, (-likeness, i, j))

    for i, j in pairs:
        offer(i, j)
    merges: list[tuple[int, int]] = []
    while heap:
        _, i, j = heapq.heappop(heap)
        if i not in touching or j not in touching:
            continue  # one of the two is already merged
        merges.append((i, j))
        both = len(area)
        area.append(area[i] + area[j])
        color.append((area[i] * color[i] + area[j] * color[j]) / area[both])
        around = (touching.pop(i) | touching.pop(j)) - {i, j}
        touching[both] = set()
        for other in sorted(around):
            touching[other] -= {i, j}
            offer(other, both)
    return merges


def proposal_shares(areas: NDArray[Any], merges: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Compute the fraction (K, K) of the proposals with superpixel i that also contain superpixel j.

    Proposals are the superpixels and merged regions of 0.1 to 70 % of the image. Both i and j lie in the
    regions from their lowest common ancestor up.

    Args:
        areas: (K,) size of each superpixel in pixels.
        merges: Result of ``merge_order``.
    """
    num, total = len(areas), float(areas.sum())
    # lowest common ancestor; past the last region if there is none
    lowest = np.full((num, num), num + len(merges), np.int32)
    np.fill_diagonal(lowest, np.arange(num))
    members = [np.array([i]) for i in range(num)]
    holds = np.zeros((num, num + len(merges) + 1), bool)  # superpixel i lies in proposal r
    for region in range(num + len(merges)):
        if region >= num:
            one, other = (members[part] for part in merges[region - num])
            lowest[np.ix_(one, other)] = region
            lowest[np.ix_(other, one)] = region
            members.append(np.concatenate([one, other]))
        share = areas[members[region]].sum() / total
        if SMALLEST_PROPOSAL <= share <= LARGEST_PROPOSAL:
            holds[members[region], region] = True
    from_here_up = np.cumsum(holds[:, ::-1], axis=1)[:, ::-1]  # proposals of i that are region r or above
    both = np.take_along_axis(from_here_up, lowest, axis=1)
    return np.asarray(both / np.maximum(from_here_up[:, :1], 1), np.float32)
