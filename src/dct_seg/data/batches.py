"""Batch format of training and validation, made from the output of any DataLoader.

A batch is a mapping of a few tensors, or a pair ``(image, mask)``:

- ``image`` (B, 3, H, W): float in 0..1, or uint8 in 0..255. Not normalized; the network does that itself.
- ``mask`` (B, H, W) or (B, 1, H, W): bool, or numbers 0 and 1; 255 is ignored where there is no ``ignore``.
- ``ignore`` (B, H, W) bool, optional: pixels excluded from training and metrics.
- ``sample_id`` (B,) int64, optional on one process: the number of each sample in its validation set.
- ``name``, optional: one string per sample.

Examples:
    >>> import torch
    >>> from torch.utils.data import DataLoader
    >>> samples = [(torch.rand(3, 32, 32), torch.eye(32)) for _ in range(4)]
    >>> batch = checked_batch(next(iter(DataLoader(samples, batch_size=2))))
    >>> batch["image"].shape, batch["mask"].dtype, int(batch["mask"].sum())
    (torch.Size([2, 3, 32, 32]), torch.bool, 64)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dct_seg.data.images import IGNORE
from dct_seg.ranges import check_unit_range


def checked_batch(batch: Any) -> dict[str, Any]:
    """Complete a batch: all keys, image float in 0..1, bool maps.

    Args:
        batch: Batch in one of the formats above.

    Raises:
        TypeError: When it is neither a mapping nor a pair, or has tensors of another type.
        ValueError: When shapes or values are not those of a batch.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        batch = {"image": batch[0], "mask": batch[1]}
    if not isinstance(batch, Mapping) or "image" not in batch or "mask" not in batch:
        keys = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise TypeError(f"a batch must be a pair (image, mask) or a mapping with image and mask, got {keys}")
    image = _image(batch["image"])
    mask, ignore = _maps(batch["mask"], batch.get("ignore"), image)
    return {**batch, "image": image, "mask": mask, "ignore": ignore}


def names_of(batch: Mapping[str, Any]) -> Sequence[str]:
    """Get the names of a batch's samples, or their numbers in the batch."""
    names: Sequence[str] = batch.get("name") or [str(number) for number in range(len(batch["image"]))]
    return names


def _image(image: Any) -> Tensor:
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[1] != 3:
        shape = tuple(getattr(image, "shape", ())) or type(image).__name__
        raise ValueError(
            f"image must be a tensor (B, 3, H, W), got {shape}; are the channels last, or is it gray?"
        )
    if image.dtype == torch.uint8:
        return image.float() / 255
    if not image.is_floating_point():
        raise TypeError(
            f"image must be float in 0..1 or uint8, got {image.dtype}; divide by its largest possible value"
        )
    check_unit_range("image", image)
    return image


def _maps(mask: Any, ignore: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    size = (len(image), *image.shape[2:])
    maps = []
    for name, one in (("mask", mask), ("ignore", ignore)):
        if one is None:
            continue
        if isinstance(one, Tensor) and one.ndim == 4 and one.shape[1] == 1:
            one = one[:, 0]
        if not isinstance(one, Tensor) or one.shape != size:
            shape = tuple(getattr(one, "shape", ())) or type(one).__name__
            raise ValueError(
                f"{name} must be a tensor (B, H, W) like image {tuple(image.shape)}, got {shape}"
            )
        maps.append(one)
    if maps[0].dtype != torch.bool:
        values: Tensor = maps[0].unique()  # type: ignore[no-untyped-call]
        allowed = [0, 1] if ignore is not None else [0, 1, IGNORE]
        others = [value for value in values.tolist() if value not in allowed]
        if others or (IGNORE in values.tolist() and 1 not in values.tolist()):
            shown = ", ".join(f"{value:g}" for value in (others or values.tolist())[:4])
            raise ValueError(
                f"mask must be bool or 0 and 1 (255 is ignored), got {shown}; compare it first, as in "
                "mask > 127, and give one object per sample"
            )
    given = maps[0] == 1
    unseen = maps[1].bool() if ignore is not None else maps[0] == IGNORE
    return given, unseen & ~given
