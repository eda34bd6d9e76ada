"""Click encoders: draw the positive and the negative clicks as maps (the paper's section 2.1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dct_seg.clicks import ClickBatch
from dct_seg.registry import Registry, unknown_name

ClickUnion = Literal["max", "min"]
"""Union of the Gaussians of one sign."""

CLICK_ENCODERS: Registry[type[ClickEncoder]] = Registry("click encoder", group="dct_seg.click_encoders")


class ClickEncoder(nn.Module, ABC):
    """Encoder that draws clicks as maps; add one with ``@CLICK_ENCODERS.register()`` or an entry point.

    Another package adds one under its short name with two lines in its ``pyproject.toml``:

        [project.entry-points."dct_seg.click_encoders"]
        Ring = "my_package:Ring"

    Examples:
        >>> from dct_seg import Click
        >>> class Rows(ClickEncoder):
        ...     def forward(self, clicks, size):
        ...         maps = torch.zeros(len(clicks), 2, *size)
        ...         for i, made in enumerate(clicks.to_clicks()):
        ...             for click in made:
        ...                 maps[i, 0 if click.positive else 1, int(click.row)] = 1
        ...         return maps
        >>> Rows()(ClickBatch.from_clicks([[Click(1, 0)]]), (3, 2))[0, 0].tolist()
        [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """

    needs_radius: bool = False
    """Whether ``forward`` reads ``clicks.radii``; only such encoders use the Auto-Drag-Head."""

    needs_image: bool = False
    """Whether ``forward`` takes the result of ``prepare`` as a third argument, ``prepared``."""

    num_maps: int = 2
    """Number of maps: channel 0 for positive clicks, 1 for negative ones, then additional maps."""

    def prepare(self, image: Tensor) -> Any:
        """Compute data that depends only on the image, once per image; only called with ``needs_image``.

        Args:
            image: (B, 3, H, W) RGB in 0..1.
        """
        return None

    @abstractmethod
    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        """Draw the maps of all clicks.

        Args:
            clicks: (B, N) clicks in pixels of an image of ``size``; padding must leave no trace.
            size: (H, W) of the maps, in pixels.

        Returns:
            (B, num_maps, H, W) float32 in 0..1.
        """


def _squared_offsets(clicks: ClickBatch, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute squared distances in pixels along each axis: (B, N, H) by rows and (B, N, W) by columns."""
    rows = torch.arange(size[0], device=clicks.device, dtype=torch.float32)
    cols = torch.arange(size[1], device=clicks.device, dtype=torch.float32)
    return (rows - clicks.coords[..., 0:1]) ** 2, (cols - clicks.coords[..., 1:2]) ** 2


def _nearest_squared(clicks: ClickBatch, size: tuple[int, int], limit: float) -> Tensor:
    """Squared distance to the nearest click of each sign, at most ``limit ** 2``: (B, 2, H, W)."""
    by_row, by_col = _squared_offsets(clicks, size)
    if by_row.shape[1] == 0:
        return by_row.new_full((len(clicks), 2, *size), limit**2)
    nearest = []
    for label in (1, 0):
        far = torch.where(clicks.labels == label, 0.0, limit**2)[..., None]
        nearest.append(
            ((by_row + far)[..., :, None] + by_col[..., None, :]).amin(1)
        )  # min over clicks, (B, H, W)
    return torch.stack(nearest, 1).clamp(max=limit**2)


def _joined_gaussians(clicks: ClickBatch, size: tuple[int, int], sigma: Tensor, union: ClickUnion) -> Tensor:
    """Draw Gaussians of the clicks, ``sigma`` (B, N) pixels wide, combined by ``union``: (B, 2, H, W)."""
    by_row, by_col = _squared_offsets(clicks, size)
    if by_row.shape[1] == 0:
        return by_row.new_zeros(len(clicks), 2, *size)
    scale = -0.5 / sigma[..., None] ** 2
    row_part, col_part = (by_row * scale).exp(), (by_col * scale).exp()  # a Gaussian is a product of its axes
    learns = row_part.requires_grad or col_part.requires_grad
    if union == "max" and clicks.device.type == "cpu" and not learns and not torch.compiler.is_compiling():
        return _painted(row_part, col_part, clicks)
    maps = []
    for label in (1, 0):
        here = (clicks.labels == label)[..., None]  # (B, N, 1)
        if union == "max":
            each = (row_part * here)[..., :, None] * col_part[..., None, :]  # (B, N, H, W)
            maps.append(each.amax(1))
        else:
            each = torch.where(here[..., None], row_part[..., :, None] * col_part[..., None, :], 1.0)
            maps.append(each.amin(1) * here.any(1)[..., None])  # the minimum over no clicks leaves no trace
    return torch.stack(maps, 1)


def _painted(row_part: Tensor, col_part: Tensor, clicks: ClickBatch) -> Tensor:
    """Largest product of both parts over the clicks of each sign, (B, 2, H, W), click by click.

    The result equals the maximum over all products at once, which needs N times the memory; without gradient.
    """
    maps = row_part.new_zeros(len(clicks), 2, row_part.shape[2], col_part.shape[2])
    for b, labels in enumerate(clicks.labels.tolist()):
        for n, label in enumerate(labels):
            rows, cols = (
                _nonzero_span(row_part[b, n]),
                _nonzero_span(col_part[b, n]),
            )  # outside them the product is 0
            if label in (0, 1):
                there = maps[b, 1 - label, rows, cols]
                torch.maximum(there, row_part[b, n, rows, None] * col_part[b, n, cols], out=there)
    return maps


def _nonzero_span(values: Tensor) -> slice:
    places = values.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


@CLICK_ENCODERS.register()
class Euclidean(ClickEncoder):
    """Distance to the nearest click, truncated at ``limit`` pixels and divided by it.

    0 at a click, 1 far away.

    Source: eq. 1 with d the Euclidean distance, the paper's baseline. The paper does not specify how the
    distance is bounded.

    Args:
        limit: Distance in pixels at which the map is clipped.

    Raises:
        ValueError: When ``limit`` is not above 0.

    Examples:
        >>> from dct_seg.clicks import Click
        >>> maps = Euclidean(limit=4.0)(ClickBatch.from_clicks([[Click(0, 0)]]), (1, 6))
        >>> maps[0, 0, 0].tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, limit: float = 255.0) -> None:
        super().__init__()
        self.limit = _positive("limit", limit)

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        return _nearest_squared(clicks, size, self.limit).sqrt() / self.limit


@CLICK_ENCODERS.register()
class Disk(ClickEncoder):
    """Disk of ``radius`` pixels around each click, as in RITM and its successors: 1 inside, 0 elsewhere.

    Args:
        radius: Radius in pixels, the same for each click.

    Raises:
        ValueError: When ``radius`` is not above 0.

    Examples:
        >>> from dct_seg.clicks import Click
        >>> Disk(radius=1.0)(ClickBatch.from_clicks([[Click(0, 1)]]), (1, 4))[0, 0, 0].tolist()
        [1.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, radius: float = 5.0) -> None:
        super().__init__()
        self.radius = _positive("radius", radius)

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        return (_nearest_squared(clicks, size, self.radius + 1) <= self.radius**2).float()


@CLICK_ENCODERS.register()
class Gaussian(ClickEncoder):
    """Gaussian of fixed ``sigma`` pixels at each click, 1 at its center.

    Source: eq. 1 with d a Gaussian map. The paper uses the minimum over clicks, we use the maximum: for
    distant clicks, the minimum of maps that are 1 only at their own click is 0 everywhere. ``union="min"``
    restores the formula.

    Args:
        sigma: Width in pixels.
        union: ``max``, or the paper's ``min``.

    Raises:
        ValueError: When an argument is out of its range.

    Examples:
        >>> from dct_seg.clicks import Click
        >>> maps = Gaussian(sigma=2.0)(ClickBatch.from_clicks([[Click(0, 0)]]), (1, 3))
        >>> [round(v, 3) for v in maps[0, 0, 0].tolist()]
        [1.0, 0.882, 0.607]
    """

    def __init__(self, sigma: float = 10.0, *, union: ClickUnion = "max") -> None:
        super().__init__()
        self.sigma = _positive("sigma", sigma)
        self.union = _known_union(union)

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        return _joined_gaussians(clicks, size, torch.full_like(clicks.radii, self.sigma), self.union)


@CLICK_ENCODERS.register()
class TanhDistance(ClickEncoder):
    """Map tanh(2 d / radius) of the distance d to the nearest click: 0 at a click, near 1 from ``radius`` on.

    Source: the maps of f-BRS (Sofiiuk et al. 2020), whose code has a radius of 260 pixels.

    Args:
        radius: Distance in pixels at which the map is 0.96.

    Raises:
        ValueError: When ``radius`` is not above 0.

    Examples:
        >>> from dct_seg.clicks import Click
        >>> maps = TanhDistance(radius=2.0)(ClickBatch.from_clicks([[Click(0, 0)]]), (1, 3))
        >>> [round(v, 3) for v in maps[0, 0, 0].tolist()]
        [0.0, 0.762, 0.964]
    """

    def __init__(self, radius: float = 260.0) -> None:
        super().__init__()
        self.radius = _positive("radius", radius)

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        far = 5 * self.radius  # beyond, float32 has no value other than 1
        return (2 * _nearest_squared(clicks, size, far).sqrt() / self.radius).tanh()


@CLICK_ENCODERS.register()
class HalfWidthGaussian(ClickEncoder):
    """Gaussian with a full width at half maximum of ``width`` pixels: 1 at a click, 0.5 at half a width.

    exp(-4 ln 2 d^2 / width^2); its standard deviation is 0.42 widths.

    Source: the maps of FCA-Net (Lin et al. 2020), whose code has widths of 10 pixels, and 30 for the first
    click.

    Args:
        width: Full width at half maximum, in pixels.

    Raises:
        ValueError: When ``width`` is not above 0.

    Examples:
        >>> from dct_seg.clicks import Click
        >>> maps = HalfWidthGaussian(width=4.0)(ClickBatch.from_clicks([[Click(0, 0)]]), (1, 3))
        >>> [round(v, 3) for v in maps[0, 0, 0].tolist()]
        [1.0, 0.841, 0.5]
    """

    def __init__(self, width: float = 10.0) -> None:
        super().__init__()
        self.width = _positive("width", width)

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        sigma = self.width / math.sqrt(8 * math.log(2))
        return _joined_gaussians(clicks, size, torch.full_like(clicks.radii, sigma), "max")


@CLICK_ENCODERS.register()
class SpatialDCT(ClickEncoder):
    """Gaussian at each click with a width from the drag: ``sigma = radius * sigma_scale``.

    It is differentiable in the radius.

    Source: eq. 2, f a Gaussian. The paper gives no relation between r and the width, so the scale
    is an option. The paper uses the minimum over clicks, we use the maximum (see `Gaussian`); ``union="min"``
    restores the formula.

    Args:
        sigma_scale: Width of the Gaussian relative to the radius.
        min_sigma: Minimum width in pixels, so that a drag of zero length still draws a dot.
        union: ``max``, or the paper's ``min``.

    Raises:
        ValueError: When an argument is out of its range; in ``forward``, when a click has no radius.

    Examples:
        >>> from dct_seg.clicks import Click
        >>> maps = SpatialDCT(sigma_scale=0.5)(ClickBatch.from_clicks([[Click(0, 0, radius=4.0)]]), (1, 3))
        >>> [round(v, 3) for v in maps[0, 0, 0].tolist()]
        [1.0, 0.882, 0.607]
    """

    needs_radius = True

    def __init__(
        self, sigma_scale: float = 0.5, *, min_sigma: float = 1.0, union: ClickUnion = "max"
    ) -> None:
        super().__init__()
        self.sigma_scale = _positive("sigma_scale", sigma_scale)
        self.min_sigma = _positive("min_sigma", min_sigma)
        self.union = _known_union(union)

    def forward(self, clicks: ClickBatch, size: tuple[int, int]) -> Tensor:
        if not torch.compiler.is_compiling() and clicks.lacks_radius.any():  # a graph cannot check values
            raise ValueError(
                "SpatialDCT needs a radius for each click, got a click without one; give one, or turn on "
                "auto_drag"
            )
        sigma = (clicks.radii.nan_to_num() * self.sigma_scale).clamp(min=self.min_sigma)
        return _joined_gaussians(clicks, size, sigma, self.union)


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"a click encoder's {name} must be a number above 0, got {value}")
    return value


def _known_union(union: ClickUnion) -> ClickUnion:
    if union not in get_args(ClickUnion):
        raise unknown_name("union of Gaussians", union, list(get_args(ClickUnion)))
    return union
