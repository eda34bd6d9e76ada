"""Energies of clicked pixels, minimized by refiners, and their stopping rules."""

from __future__ import annotations

import torch
from torch import Tensor

from dct_seg.clicks import ClickBatch
from dct_seg.models.feature_dct import sample_at


def click_energy(logits: Tensor, clicks: ClickBatch) -> Tensor:
    """Sum over the clicks of (p_u - y_u)^2, where p_u is the bilinear probability at the click.

    Args:
        logits: (1, 1, H, W).
        clicks: (1, N) clicks in pixels.

    Source: Jang and Kim 2019, the corrective energy.

    Examples:
        >>> from dct_seg import Click
        >>> click_energy(torch.zeros(1, 1, 4, 4), ClickBatch.from_clicks([[Click(1, 1)]]))
        tensor(0.2500)
    """
    return ((_probs_at(logits, clicks) - clicks.labels.float()).square() * clicks.valid).sum()


def any_wrong(logits: Tensor, clicks: ClickBatch) -> bool:
    """Whether a positive click has a probability of 0.5 or less, or a negative click more.

    Examples:
        >>> from dct_seg import Click
        >>> any_wrong(torch.full((1, 1, 4, 4), -3.0), ClickBatch.from_clicks([[Click(1, 1)]]))
        True
    """
    return bool((((_probs_at(logits, clicks) > 0.5) != (clicks.labels == 1)) & clicks.valid).any())


def square_errors(logits: Tensor, clicks: ClickBatch, label: int) -> Tensor:
    """Errors |p - y| in 3 x 3 squares around the clicks of one sign, each pixel once, clipped at the border.

    Args:
        logits: (1, 1, H, W).
        clicks: (1, N) clicks in pixels.
        label: 1 or 0.

    Returns:
        (P,) one error per pixel; empty without such clicks.

    Examples:
        >>> from dct_seg import Click
        >>> square_errors(torch.zeros(1, 1, 4, 4), ClickBatch.from_clicks([[Click(0, 0)]]), 1)
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    height, width = logits.shape[2:]
    inside = torch.zeros(height, width, dtype=torch.bool, device=logits.device)
    for row, col in clicks.pixels((height, width))[0][clicks.labels[0] == label].tolist():
        inside[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] = True
    return (torch.sigmoid(logits[0, 0][inside]) - label).abs()


def fbrs_energy(logits: Tensor, clicks: ClickBatch, x: Tensor, weight: float) -> Tensor:
    """Mean squared errors on the positive and the negative squares, plus a penalty on the change.

    Args:
        logits: (1, 1, H, W).
        clicks: (1, N) clicks in pixels.
        x: (2, C) scales minus 1, and biases.
        weight: Weight of the scales' squared norm.

    Examples:
        >>> from dct_seg import Click
        >>> clicks = ClickBatch.from_clicks([[Click(1, 1)]])
        >>> fbrs_energy(torch.zeros(1, 1, 4, 4), clicks, torch.zeros(2, 3), weight=1e-3)
        tensor(0.2500)
    """
    errors = [square_errors(logits, clicks, label) for label in (1, 0)]
    data = sum((e.square().mean() for e in errors if len(e)), logits.new_zeros(()))
    return data + weight * (x[0].square().sum() + 10 * x[1].square().sum())


def fbrs_solved(logits: Tensor, clicks: ClickBatch) -> bool:
    """Whether all errors are below 0.51 on the positive squares and below 0.49 on the negative ones.

    Examples:
        >>> from dct_seg import Click
        >>> fbrs_solved(torch.full((1, 1, 4, 4), 3.0), ClickBatch.from_clicks([[Click(1, 1)]]))
        True
    """
    limits = ((1, 0.51), (0, 0.49))
    return all(bool((square_errors(logits, clicks, label) < limit).all()) for label, limit in limits)


def _probs_at(logits: Tensor, clicks: ClickBatch) -> Tensor:
    """Bilinear probabilities at the clicks, (1, N)."""
    return sample_at(torch.sigmoid(logits), clicks.coords, (logits.shape[2], logits.shape[3]))[..., 0]
