"""Feature-DCT: a feature folded from all clicks predicts the decoder's statistics (section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.clicks import ClickBatch
from dct_seg.models.tracing import is_exporting
from dct_seg.registry import unknown_name

Rejection = Literal["true", "printed"]


def sample_at(features: Tensor, coords: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample features at points of the image, bilinearly.

    Args:
        features: Features of an image of ``size``, (B, C, h, w).
        coords: Positions (row, col) in pixels, (B, ..., 2); outside the image, the border value is used.
        size: (H, W) of the image.

    Returns:
        (B, ..., C) float32.

    Examples:
        >>> columns = torch.tensor([[[[0.0, 1.0]]]])  # (1, 1, 1, 2); each value covers 4 columns of 4 x 8
        >>> sample_at(columns, torch.tensor([[[0.0, 1.5], [0.0, 3.5]]]), (4, 8)).flatten().tolist()
        [0.0, 0.5]
    """
    coords = coords.float()
    rows = (coords[..., 0] + 0.5) * (2 / size[0]) - 1
    cols = (coords[..., 1] + 0.5) * (2 / size[1]) - 1
    grid = torch.stack([cols, rows], -1).reshape(coords.shape[0], 1, -1, 2)  # (x, y) in -1..1
    sampled = F.grid_sample(
        features.float(), grid, align_corners=False, padding_mode="border"
    )  # (B, C, 1, P)
    return sampled[:, :, 0].transpose(1, 2).reshape(*coords.shape[:-1], features.shape[1])


def fold_clicks(q: Tensor, labels: Tensor, *, rejection: Rejection = "true") -> Tensor:
    """Fold the features of all clicks into one, in order.

    Args:
        q: (B, N, D) features at the clicks, in order.
        labels: (B, N) 1, 0 or -1 for padding, which is skipped.
        rejection: ``true`` divides by |Q|^2, ``printed`` by |Q|, as printed in the paper.

    Returns:
        (B, D); zeros before the first positive click.

    Source: eq. 3. f_0 is not defined there: f starts as the Q of the first positive click. As printed, the
    negative branch leaves (1 - |Q|) f.Q of f along Q; a vector rejection, as the text calls it, leaves
    nothing. ``printed`` restores the printed formula.

    Examples:
        >>> q = torch.tensor([[[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]]])
        >>> fold_clicks(q, torch.tensor([[1, 1, 0]])).tolist()
        [[1.5, 0.0]]
    """
    f = q.new_zeros(q.shape[0], q.shape[2])
    started = torch.zeros_like(labels[:, :1])
    if is_exporting():  # a loop in the graph, over any number of clicks
        from torch._higher_order_ops.scan import scan

        def step(state: list[Tensor], click: list[Tensor]) -> tuple[list[Tensor], Tensor]:
            after, begun = _fold_click(state[0], state[1], click[0], click[1], rejection)
            return [after, begun], begun.clone()

        in_order = [q.transpose(0, 1).contiguous(), labels.t()[..., None].contiguous()]
        state, _ = scan(step, [f, started], in_order)
        folded: Tensor = state[0]
        return folded
    for q_i, label in zip(q.unbind(1), labels[..., None].unbind(1), strict=True):
        f, started = _fold_click(f, started, q_i, label, rejection)
    return f


def _fold_click(
    f: Tensor, started: Tensor, q: Tensor, label: Tensor, rejection: Rejection
) -> tuple[Tensor, Tensor]:
    """Fold in one more click: aggregated feature (B, D), and 1 after the first positive click, (B, 1)."""
    positive = torch.where(started > 0, (f + q) / 2, q)
    squared = (q * q).sum(1, keepdim=True)  # (B, 1); |Q| = 0 removes nothing, and its gradient stays finite
    divisor = squared.clamp(min=1e-12) if rejection == "true" else squared.clamp(min=1e-24).sqrt()
    negative = f - (f * q).sum(1, keepdim=True) * q / divisor
    f = torch.where(label == 1, positive, torch.where(label == 0, negative, f))
    return f, torch.maximum(started, (label == 1).to(started.dtype))


class FeatureDCT(nn.Module):
    """Predictor of a mean and a standard deviation per channel of some decoder layers from the clicks.

    Args:
        in_channels: Channels of the layers that are sampled at the clicks; three in the paper.
        out_channels: Channels of the decoder layers that are normalized; three in the paper.
        hidden: Width of the fully connected net.
        rejection: Effect of a negative click, see `fold_clicks`.
        normalize: Normalize each layer's feature to zero mean and unit variance over its channels before the
            fold, so that no layer outweighs the others. The paper does not mention it.

    Raises:
        ValueError: When ``rejection`` is unknown.

    Source: section 2.2, Fig. 3.

    Examples:
        >>> from dct_seg import Click
        >>> predict = FeatureDCT([8, 16], [4, 4])
        >>> features = [torch.rand(1, 8, 16, 16), torch.rand(1, 16, 8, 8)]
        >>> statistics = predict(features, ClickBatch.from_clicks([[Click(20, 30)]]), (64, 64))
        >>> [(mean.shape, std.shape) for mean, std in statistics][0]
        (torch.Size([1, 4]), torch.Size([1, 4]))
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        *,
        hidden: int = 256,
        rejection: Rejection = "true",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if rejection not in get_args(Rejection):
            raise unknown_name("rejection", rejection, list(get_args(Rejection)))
        self.out_channels = list(out_channels)
        self.rejection: Rejection = rejection
        self.normalize = normalize
        self.net = nn.Sequential(
            nn.Linear(sum(in_channels), hidden), nn.ReLU(), nn.Linear(hidden, 2 * sum(out_channels))
        )
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # starts as plain instance norm: mean 0, standard deviation 1
        nn.init.zeros_(last.bias)

    def forward(
        self, features: Sequence[Tensor], clicks: ClickBatch, size: tuple[int, int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Predict the statistics of each decoder layer.

        Args:
            features: Features (B, C_i, h_i, w_i) for each of ``in_channels``.
            clicks: (B, N) clicks in pixels of an image of ``size``.
            size: (H, W) of the image.

        Returns:
            One (mean, std), each (B, C_s) float32, for each of ``out_channels``.
        """
        q = torch.cat(
            [self._normalized(sample_at(f, clicks.coords, size)) for f in features], -1
        )  # (B, N, D)
        f = fold_clicks(q, clicks.labels, rejection=self.rejection)
        first: nn.Linear = self.net[0]  # type: ignore[assignment]
        mean, std_offset = self.net(f.to(first.weight.dtype)).float().chunk(2, 1)
        return list(
            zip(mean.split(self.out_channels, 1), (1 + std_offset).split(self.out_channels, 1), strict=True)
        )

    def _normalized(self, q: Tensor) -> Tensor:
        return F.layer_norm(q, q.shape[-1:]) if self.normalize else q
