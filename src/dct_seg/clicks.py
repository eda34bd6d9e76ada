"""Clicks: a single click, and the ordered, padded batch used throughout the library."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

PADDING = -1
"""Label for padding."""
SHORTENED = 1 - 5e-7
"""Factor on a squared radius: one stored as float32 may be slightly too large."""
MARKED_SHARE = 0.75
"""Fraction of a drag's radius within which pixels always get the label of the drag."""
MARKED_CONFIDENCE = 0.75
"""Probability of the other label from which a pixel near the edge of a drag keeps its prediction."""
CERTAIN = 20.0
"""Absolute logit of a pixel marked by a click."""


@dataclass(frozen=True)
class Click:
    """Click with an optional drag.

    Args:
        row: Row in pixels of the image; an integer is a pixel's center.
        col: Column in pixels.
        positive: Whether the click is on the object; False means background.
        radius: Length of the drag in pixels (the paper's r, section 2.1); None for a click without a drag.
        predicted_radius: Whether a method chose the radius, because the user did not drag.

    NumPy's numbers and zero-dimensional arrays and tensors become Python's; ``positive`` may also be 0 or 1.

    Raises:
        TypeError: When a row, column or radius is not a number.
        ValueError: When a number is not finite, the radius is negative, or ``positive`` is not a boolean.

    Examples:
        >>> Click(row=12, col=30, radius=4.5)
        Click(row=12, col=30, positive=True, radius=4.5)
        >>> Click(12, 30, positive=0).positive
        False
    """

    row: float
    col: float
    positive: bool = True
    radius: float | None = None
    predicted_radius: bool = field(default=False, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", _number("row", self.row))
        object.__setattr__(self, "col", _number("col", self.col))
        object.__setattr__(self, "positive", _yes_or_no(self.positive))
        if self.radius is not None:
            object.__setattr__(self, "radius", _number("radius", self.radius))
        if not (math.isfinite(self.row) and math.isfinite(self.col)):
            raise ValueError(f"a click needs a finite row and column, got ({self.row}, {self.col})")
        if self.radius is not None and not (math.isfinite(self.radius) and self.radius >= 0):
            raise ValueError(f"a radius must be a length in pixels (0 or more) or None, got {self.radius}")

    @property
    def is_drag(self) -> bool:
        """Whether the user gave the radius."""
        return self.radius is not None and not self.predicted_radius


def _number(name: str, value: Any) -> float:
    """Convert a number of any type to Python's."""
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]
    if getattr(value, "ndim", 0) == 0 and not isinstance(value, str | bytes):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    raise TypeError(f"a click's {name} must be one number of pixels, got {_shown(value)}")


def _yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if getattr(value, "ndim", 0) == 0 and not isinstance(value, str | bytes):
        with contextlib.suppress(TypeError, ValueError):
            if float(value) in (0, 1):
                return bool(value)
    raise ValueError(
        f"a click's positive must be True (object) or False (background), or 1 or 0, got {_shown(value)}; "
        "omit padding (-1)"
    )


def _shown(value: Any) -> str:
    """Describe a value for an error; an array by its shape."""
    shape = getattr(value, "shape", ())
    return f"{type(value).__name__} of shape {tuple(shape)}" if shape else repr(value)[:60]


@dataclass(frozen=True)
class ClickBatch:
    """Ordered clicks of a batch of images, padded to one length; immutable.

    Args:
        coords: (B, N, 2) float32, (row, col) in pixels; an integer is a pixel's center.
        labels: (B, N) int64: 1 positive, 0 negative, -1 padding.
        radii: (B, N) float32, pixels; NaN without a drag.

    Raises:
        ValueError: When the shapes disagree.
        TypeError: When coords or radii are integers, which scaling would round.

    Examples:
        >>> clicks = ClickBatch.from_clicks([[Click(4, 5, radius=3.0)], []])
        >>> clicks.labels.tolist(), clicks.num_clicks.tolist()
        ([[1], [-1]], [1, 0])
        >>> clicks.to_clicks()[0]
        [Click(row=4.0, col=5.0, positive=True, radius=3.0)]
    """

    coords: Tensor
    labels: Tensor
    radii: Tensor

    def __post_init__(self) -> None:
        if (
            self.coords.shape != (*self.labels.shape, 2)
            or self.radii.shape != self.labels.shape
            or self.labels.ndim != 2
        ):
            raise ValueError(
                "ClickBatch needs coords (B, N, 2), labels (B, N) and radii (B, N), got "
                f"{tuple(self.coords.shape)}, {tuple(self.labels.shape)} and {tuple(self.radii.shape)}"
            )
        if not (self.coords.is_floating_point() and self.radii.is_floating_point()):
            raise TypeError(
                f"ClickBatch needs float coords and radii, got {self.coords.dtype} and {self.radii.dtype}; "
                "call .float()"
            )

    @classmethod
    def empty(cls, batch_size: int, device: torch.device | str | None = None) -> ClickBatch:
        """Make a batch of ``batch_size`` images without clicks (N = 0)."""
        return cls(
            torch.zeros(batch_size, 0, 2, dtype=torch.float32, device=device),  # not torch's default dtype
            torch.zeros(batch_size, 0, dtype=torch.long, device=device),
            torch.zeros(batch_size, 0, dtype=torch.float32, device=device),
        )

    @classmethod
    def from_clicks(cls, clicks: Sequence[Sequence[Click]]) -> ClickBatch:
        """Make a batch from one list of clicks per image, padded at the end to the longest list."""
        num = max((len(one) for one in clicks), default=0)
        coords = torch.zeros(len(clicks), num, 2, dtype=torch.float32)
        labels = torch.full((len(clicks), num), PADDING)
        radii = torch.full((len(clicks), num), math.nan, dtype=torch.float32)
        for b, one in enumerate(clicks):
            for n, click in enumerate(one):
                coords[b, n, 0] = click.row
                coords[b, n, 1] = click.col
                labels[b, n] = int(click.positive)
                radii[b, n] = math.nan if click.radius is None else click.radius
        return cls(coords, labels, radii)

    def to_clicks(self) -> list[list[Click]]:
        """Convert to one list of clicks per image, without padding."""
        rows = zip(self.coords.tolist(), self.labels.tolist(), self.radii.tolist(), strict=True)
        return [
            [
                Click(row, col, bool(label), None if math.isnan(radius) else radius)
                for (row, col), label, radius in zip(coords, labels, radii, strict=True)
                if label != PADDING
            ]
            for coords, labels, radii in rows
        ]

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: slice) -> ClickBatch:
        """Select the clicks of a slice of the images."""
        return ClickBatch(self.coords[index], self.labels[index], self.radii[index])

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.coords.device

    @property
    def valid(self) -> Tensor:
        """Mask of the real clicks, (B, N) bool; False at padding."""
        return self.labels != PADDING

    @property
    def num_clicks(self) -> Tensor:
        """Number of clicks per image without padding, (B,) int64."""
        return self.valid.sum(1)

    @property
    def lacks_radius(self) -> Tensor:
        """Mask of the clicks without a drag, (B, N) bool."""
        return self.valid & self.radii.isnan()

    def append(self, coords: Tensor, labels: Tensor, radii: Tensor) -> ClickBatch:
        """Append one click per image.

        Args:
            coords: (B, 2) positions (row, col) in pixels.
            labels: (B,) 1 positive, 0 negative, -1 for an image without a new click.
            radii: (B,) radii in pixels, NaN without a drag.
        """
        return ClickBatch(
            torch.cat([self.coords, coords.to(self.coords)[:, None]], 1),
            torch.cat([self.labels, labels.to(self.labels)[:, None]], 1),
            torch.cat([self.radii, radii.to(self.radii)[:, None]], 1),
        )

    def with_radii(self, radii: Tensor) -> ClickBatch:
        """Replace the radii by others, (B, N) pixels."""
        return ClickBatch(self.coords, self.labels, radii)

    def pixels(self, size: Sequence[int]) -> Tensor:
        """Find the pixel (row, col) under each click, inside an image of ``size`` (H, W): (B, N, 2) int64.

        Examples:
            >>> ClickBatch.from_clicks([[Click(4.5, 9.5)]]).pixels((10, 10))
            tensor([[[5, 9]]])
        """
        rows, cols = (self.coords + 0.5).floor().long().unbind(-1)
        return torch.stack([rows.clamp(0, size[0] - 1), cols.clamp(0, size[1] - 1)], dim=-1)

    def scaled(self, old_size: tuple[int, int], new_size: tuple[int, int]) -> ClickBatch:
        """Scale the clicks with an image from ``old_size`` to ``new_size``, both (H, W).

        Pixels are areas: the center of pixel 0 lies half a pixel inside the image at either size. A radius
        scales by the geometric mean of both factors.
        """
        factor = self.coords.new_tensor([new_size[0] / old_size[0], new_size[1] / old_size[1]])
        return ClickBatch((self.coords + 0.5) * factor - 0.5, self.labels, self.radii * factor.prod().sqrt())

    def shifted(self, rows: float, cols: float) -> ClickBatch:
        """Shift the clicks by (rows, cols) pixels, as after a crop or padding of the image."""
        return ClickBatch(self.coords + self.coords.new_tensor([rows, cols]), self.labels, self.radii)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClickBatch:
        """Copy the clicks to another device."""
        moved = (t.to(device, non_blocking=non_blocking) for t in (self.coords, self.labels, self.radii))
        return ClickBatch(*moved)


def mark_clicks(logits: Tensor, clicks: ClickBatch, dragged: Tensor) -> Tensor:
    """Give the inside of drags, and the pixels under clicks, the label of their click.

    The rule is that of `dct_seg.methods.postprocessing.MarkClicksStep`, except that the last click decides
    where circles overlap.

    Args:
        logits: (B, 1, H, W).
        clicks: (B, N) clicks in pixels of the logits.
        dragged: (B, N) bool, True for drags; other clicks mark only the pixel under them, since their radius
            was predicted.

    Returns:
        (B, 1, H, W) logits; marked pixels are ``CERTAIN`` or ``-CERTAIN``.

    Examples:
        >>> clicks = ClickBatch.from_clicks([[Click(0, 0, radius=2.0), Click(0, 3, positive=False)]])
        >>> mark_clicks(torch.zeros(1, 1, 1, 5), clicks, torch.tensor([[True, False]]))
        tensor([[[[ 20.,  20.,   0., -20.,   0.]]]])
    """
    height, width = logits.shape[-2:]
    rows = torch.arange(height, device=logits.device)[:, None]
    cols = torch.arange(width, device=logits.device)
    limit = math.log(MARKED_CONFIDENCE / (1 - MARKED_CONFIDENCE))
    marked = logits
    for n in range(clicks.labels.shape[1]):
        row, col = clicks.coords[:, n, :, None, None].unbind(1)
        squared = (rows - row) ** 2 + (cols - col) ** 2  # (B, H, W)
        radius = torch.where(dragged[:, n], clicks.radii[:, n], 0.0)[:, None, None] * math.sqrt(SHORTENED)
        under = (rows == (row + 0.5).floor()) & (cols == (col + 0.5).floor())
        sign = torch.where(clicks.labels[:, n] == 1, 1.0, -1.0).to(logits)[:, None, None]
        is_open = logits[:, 0] * sign > -limit
        is_center = (squared < (MARKED_SHARE * radius) ** 2) | under
        inside = (is_center | ((squared < radius**2) & is_open)) & clicks.valid[:, n, None, None]
        marked = torch.where(inside[:, None], (CERTAIN * sign)[:, None], marked)
    return marked


def _flatten(clicks: ClickBatch) -> tuple[list[Tensor], None]:
    return [clicks.coords, clicks.labels, clicks.radii], None


def _flatten_with_keys(clicks: ClickBatch) -> tuple[list[tuple[pytree.KeyEntry, Tensor]], None]:
    names = ("coords", "labels", "radii")
    return [(pytree.GetAttrKey(name), getattr(clicks, name)) for name in names], None


def _unflatten(values: Iterable[Any], context: None) -> ClickBatch:
    clicks = object.__new__(
        ClickBatch
    )  # unchecked: torch.export also passes shapes and None instead of tensors
    for name, value in zip(("coords", "labels", "radii"), values, strict=True):
        object.__setattr__(clicks, name, value)
    return clicks


pytree.register_pytree_node(
    ClickBatch,
    _flatten,
    _unflatten,
    serialized_type_name="dct_seg.ClickBatch",
    flatten_with_keys_fn=_flatten_with_keys,
)
