"""Losses between logits and masks, per image and without ignored pixels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dct_seg.click_encoders import Euclidean
from dct_seg.clicks import ClickBatch
from dct_seg.ranges import check_number
from dct_seg.registry import Registry, check_options

LOSSES: Registry[Callable[..., Tensor]] = Registry("loss", group="dct_seg.losses")
"""Loss functions of logits, mask and valid pixels, each (B, H, W), that return one loss per image (B,).

A keyword argument with a default is an option in YAML; one named ``clicks`` receives the clicks (B, N)."""

Losses = dict[str, float | dict[str, float]]
"""Mapping from the name of a registered loss to its weight, or to ``weight`` and the loss's options."""


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
    """Normalized focal loss: weights sum to the number of valid pixels.

    The loss therefore does not vanish as pixels become easy.

    Args and returns as `binary_cross_entropy`.

    Source: Sofiiuk et al., "AdaptIS" (2019), normalized focal loss.
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

    Args and returns as `binary_cross_entropy`.
    """
    probs = torch.sigmoid(logits) * valid
    target = mask.to(logits) * valid
    overlap = (probs * target).sum((1, 2))
    return 1 - (2 * overlap + 1) / (probs.sum((1, 2)) + target.sum((1, 2)) + 1)


def click_weights(
    clicks: ClickBatch, mask: Tensor, *, tau: float = 100.0, low: float = 0.8, high: float = 2.0
) -> Tensor:
    """Pixel weights that fall from ``high`` at a click of the pixel's class to ``low`` at ``tau`` pixels.

    low + (high - low) (1 - min(d, tau) / tau), where d is the distance of an object pixel to the nearest
    positive click, or of a background pixel to the nearest negative one.

    Args:
        clicks: (B, N) clicks in pixels.
        mask: (B, H, W) bool.
        tau: Distance in pixels beyond which the weight is ``low``.
        low: Smallest weight.
        high: Largest weight.

    Returns:
        (B, H, W) float32.

    Source: FCA-Net's click loss (Lin et al. 2020), with the values of its code.
    """
    near = Euclidean(tau)(clicks, (mask.shape[1], mask.shape[2]))  # (B, 2, H, W) min(d, tau) / tau
    return low + (high - low) * (1 - torch.where(mask, near[:, 0], near[:, 1]))


@LOSSES.register("click_bce")
def click_cross_entropy(
    logits: Tensor, mask: Tensor, valid: Tensor, *, clicks: ClickBatch, tau: float = 100.0
) -> Tensor:
    """Mean binary cross-entropy with the weights of `click_weights`.

    Args and returns as `binary_cross_entropy`, and clicks (B, N).
    """
    each = F.binary_cross_entropy_with_logits(logits, mask.to(logits), reduction="none")
    weighted = each * click_weights(clicks, mask, tau=tau) * valid
    return weighted.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


class LossSum:
    """Weighted sum of registered losses, one number per image.

    Args:
        losses: Mapping from loss name to its weight, or to ``weight`` and the loss's options.

    Raises:
        ValueError: When there is no loss, a loss or an option is unknown, or a number is out of range.

    Examples:
        >>> loss = LossSum({"bce": 1.0, "normalized_focal": {"weight": 0.5, "gamma": 1.0}})
        >>> maps = torch.zeros(2, 4, 5, dtype=torch.bool)
        >>> loss(torch.zeros(2, 1, 4, 5), maps, ~maps, ClickBatch.empty(2)).shape
        torch.Size([2])
    """

    def __init__(self, losses: Mapping[str, float | Mapping[str, float]]) -> None:
        if not isinstance(losses, Mapping) or not losses:
            raise ValueError(
                f"losses must be a mapping of losses to weights, as in {{bce: 1.0}}, got {losses!r}; known: "
                f"{', '.join(LOSSES)}"
            )
        self.terms = [_Term(name, given) for name, given in losses.items()]

    def __call__(self, logits: Tensor, mask: Tensor, valid: Tensor, clicks: ClickBatch) -> Tensor:
        """Compute the loss of each image, (B,) float32.

        Args:
            logits: (B, 1, H, W).
            mask: (B, H, W) bool.
            valid: (B, H, W) bool, False for ignored pixels.
            clicks: (B, N) clicks in pixels.
        """
        return torch.stack([term(logits[:, 0].float(), mask, valid, clicks) for term in self.terms]).sum(0)


class _Term:
    """Loss with its weight and options."""

    def __init__(self, name: str, given: float | Mapping[str, float]) -> None:
        self.loss = LOSSES.get(name)
        options: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"weight": given}
        weight = options.pop("weight", 1.0)
        check_number(f"losses.{name}", weight, least=0)
        self.weight = float(weight)
        self.options = options
        parameters = inspect.signature(self.loss).parameters
        self.reads_clicks = "clicks" in parameters
        known = [n for n, p in parameters.items() if p.default is not p.empty and n != "clicks"]
        check_options("loss", name, options, ["weight", *known])
        for option, value in options.items():
            if isinstance(value, float):
                check_number(f"losses.{name}.{option}", value)

    def __call__(self, logits: Tensor, mask: Tensor, valid: Tensor, clicks: ClickBatch) -> Tensor:
        extra = {"clicks": clicks} if self.reads_clicks else {}
        return self.weight * self.loss(logits, mask, valid, **extra, **self.options)


def mean_of_unfinished(each: Tensor, finished: Tensor) -> Tensor:
    """Average the losses of a batch over unfinished images.

    Finished ones have weight 0 but stay in the graph: under DDP every parameter must be part of every
    loss.

    Args:
        each: Loss of each image, (B,).
        finished: Whether each image is finished, (B,) bool.

    Returns:
        A scalar, float32; 0 when all are finished.
    """
    weight = (~finished).float()
    return (each * weight).sum() / weight.sum().clamp(min=1)


def kept_right(logits: Tensor, before: Tensor, mask: Tensor, ignore: Tensor, finished: Tensor) -> Tensor:
    """Normalized focal loss over the pixels that were right before a click and must stay so.

    Args:
        logits: (B, 1, H, W) after the click.
        before: (B, 1, H, W) logits before the click.
        mask: (B, H, W) bool.
        ignore: (B, H, W) bool, True for ignored pixels.
        finished: Images with weight 0, (B,) bool.

    Returns:
        A scalar, float32; 0 when all are finished.
    """
    right = ((before[:, 0] > 0) == mask) & ~ignore
    return mean_of_unfinished(normalized_focal(logits[:, 0].float(), mask, right), finished)
