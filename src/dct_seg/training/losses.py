"""Losses of logits against masks, each image on its own, without its ignored pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dct_seg.registry import Registry

LOSSES: Registry[Callable[[Tensor, Tensor, Tensor], Tensor]] = Registry("loss")


@LOSSES.register("bce")
def binary_cross_entropy(logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy of each image over its valid pixels.

    Args:
        logits: (B, H, W).
        mask: (B, H, W) bool.
        valid: (B, H, W) bool, False where ignored.

    Returns:
        (B,)

    Source: section 3.2, the paper's loss.
    """
    each = F.binary_cross_entropy_with_logits(logits, mask.to(logits), reduction="none")
    return (each * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


@LOSSES.register("normalized_focal")
def normalized_focal(logits: Tensor, mask: Tensor, valid: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss whose weights are scaled to sum to the number of valid pixels, so that it does not fade as
    pixels turn easy.

    Args and returns as :func:`binary_cross_entropy`.

    Source: Sofiiuk et al., "AdaptIS" (2019), normalised focal loss.
    """
    target = mask.to(logits)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weight = (torch.sigmoid(logits) - target).abs().pow(gamma) * valid
    with torch.no_grad():
        scale = valid.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)
    return (each * weight).sum((1, 2)) * scale / valid.sum((1, 2)).clamp(min=1)


@LOSSES.register("dice")
def dice(logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """One minus the soft Dice coefficient of each image, over its valid pixels.

    Args and returns as :func:`binary_cross_entropy`.
    """
    probs = torch.sigmoid(logits) * valid
    target = mask.to(logits) * valid
    overlap = (probs * target).sum((1, 2))
    return 1 - (2 * overlap + 1) / (probs.sum((1, 2)) + target.sum((1, 2)) + 1)


def weighted_sum(
    losses: dict[str, float], logits: Tensor, mask: Tensor, ignore: Tensor, finished: Tensor
) -> Tensor:
    """The losses of a batch as one number, the mean over unfinished images.

    Finished ones weigh nothing but keep their part of the graph: under DDP every parameter must be in every
    loss.

    Args:
        losses: Name of a registered loss to its weight.
        logits: (B, 1, H, W).
        mask: (B, H, W) bool.
        ignore: (B, H, W) bool, True where nobody looks.
        finished: (B,) bool.

    Returns:
        A scalar, float32; 0 when all are finished.

    Raises:
        ValueError: When a loss is unknown.
    """
    each = torch.stack(
        [weight * LOSSES.get(name)(logits[:, 0].float(), mask, ~ignore) for name, weight in losses.items()]
    ).sum(0)
    weight = (~finished).float()
    return (each * weight).sum() / weight.sum().clamp(min=1)


def kept_right(logits: Tensor, before: Tensor, mask: Tensor, ignore: Tensor, finished: Tensor) -> Tensor:
    """Normalized focal loss over the pixels that were right before a click: a correction must not break them.

    Args:
        logits: (B, 1, H, W) after the click.
        before: (B, 1, H, W) logits before the click.
        mask: (B, H, W) bool.
        ignore: (B, H, W) bool, True where nobody looks.
        finished: (B,) bool, images that weigh nothing.

    Returns:
        A scalar, float32; 0 when all are finished.
    """
    right = ((before[:, 0] > 0) == mask) & ~ignore
    each = normalized_focal(logits[:, 0].float(), mask, right)
    weight = (~finished).float()
    return (each * weight).sum() / weight.sum().clamp(min=1)
