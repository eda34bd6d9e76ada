"""Transforms of a sample: albumentations, torchvision's v2, or any callable."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from dct_seg.data.images import IGNORE
from dct_seg.ranges import check_unit_range

Augmented = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Image (H, W, 3) and mask (H, W) of 0, 1 and 255."""


def augment(transform: Any, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int) -> Augmented:
    """Apply a transform; the result depends only on the sample and the seed.

    Args:
        transform: Callable ``(image=, mask=) -> dict``, or one of ``torchvision.transforms.v2``.
        image: (H, W, 3).
        mask: (H, W) of 0, 1 and 255.
        seed: Seed of the sample.

    Raises:
        ValueError: When the output is not an image and a mask.
        TypeError: When the transform takes no mask.
    """
    image = image.copy()  # it may be cached or read-only, and a transform may work in place
    home = type(transform).__module__
    if home.startswith("torchvision.transforms.v2"):
        return _checked(*_torchvision(transform, image, mask, seed), transform)
    if home.startswith("torchvision."):
        raise TypeError(
            f"{_name(transform)} changes only the image; use torchvision.transforms.v2, which supports masks"
        )
    if hasattr(transform, "set_random_seed"):
        transform.set_random_seed(seed)
    try:
        drawn = transform(image=image, mask=mask)
    except TypeError:  # its signature is read only now, not for each sample
        _check_arguments(transform)
        raise
    if not isinstance(drawn, dict) or not {"image", "mask"} <= drawn.keys():
        raise ValueError(
            f"{_name(transform)} must return a dict with image and mask, got {type(drawn).__name__}"
        )
    return _checked(drawn["image"], drawn["mask"], transform)


def _check_arguments(transform: Any) -> None:
    """Raise TypeError unless the transform takes ``image`` and ``mask`` by name."""
    try:
        parameters = inspect.signature(transform.forward if isinstance(transform, Module) else transform)
        parameters.bind(image=None, mask=None)
    except TypeError as error:
        raise TypeError(
            f"{_name(transform)} cannot be called as transform(image=, mask=): {error}; give a function with "
            "these arguments, an albumentations transform, or a torchvision.transforms.v2.Compose"
        ) from error
    except ValueError:  # a built-in without a signature
        return


def _torchvision(
    transform: Any, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int
) -> tuple[Any, Any]:
    from torchvision import tv_tensors

    sample = {
        "image": tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
        "mask": tv_tensors.Mask(torch.from_numpy(mask)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = transform(sample)
    return drawn["image"], drawn["mask"]


def _checked(image: Any, mask: Any, transform: Any) -> Augmented:
    """Check the output of a transform and convert it to bytes."""
    name = _name(transform)
    if isinstance(image, Tensor):  # channels first, as in torch
        image = (
            image.detach().cpu().as_subclass(Tensor).movedim(0, -1).numpy()
            if image.ndim == 3
            else image.numpy()
        )
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu().as_subclass(Tensor).numpy()
    image, mask = np.asarray(image), np.asarray(mask)
    if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = mask.squeeze(0 if mask.shape[0] == 1 else 2)
    if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
        raise ValueError(
            f"{name} returned image {image.shape} and mask {mask.shape}; expected (H, W, 3) and (H, W) or "
            "tensors (3, H, W) and (H, W)"
        )
    if image.dtype != np.uint8:
        if not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"{name} returned an image of {image.dtype}; expected uint8, or float in 0..1")
        check_unit_range(f"the image from {name}", torch.from_numpy(np.ascontiguousarray(image)))
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if not np.isin(mask, (0, 1, IGNORE)).all():
        odd = np.setdiff1d(mask, (0, 1, IGNORE))[:4].tolist()
        raise ValueError(
            f"{name} returned a mask with {odd}; expected only 0, 1 and 255; resize masks with "
            "nearest-neighbor "
            "interpolation"
        )
    return image, mask.astype(np.uint8)


def _name(transform: Any) -> str:
    return f"the transform {getattr(transform, '__name__', type(transform).__name__)}"
