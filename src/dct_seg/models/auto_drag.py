"""Auto-Drag-Head: predicts the radius of a click without a drag (end of the paper's section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dct_seg.clicks import ClickBatch
from dct_seg.models.feature_dct import sample_at

NUM_RINGS = 12
NUM_ANGLES = 12
SMALLEST_RING, LARGEST_RING = 2.0, 256.0


class AutoDragHead(nn.Module):
    """Predict the radius of each click in pixels from features and previous mask around it.

    The paper only says that the head is a lightweight network. Ours samples rings of growing radius around
    the click: the similarity of the image's features on a ring to those at the click, and the previous mask
    there. The radius is that of the first ring outside the object or the wrong region, which these profiles
    reveal.

    Args:
        in_channels: Channels of the image feature maps.
        hidden: Width of the network.

    Examples:
        >>> from dct_seg import Click
        >>> head, features = AutoDragHead([8]), [torch.rand(1, 8, 16, 16)]
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30), Click(5, 5)]])
        >>> head(features, clicks, torch.zeros(1, 1, 64, 64), (64, 64)).exp().shape  # radii in pixels
        torch.Size([1, 2])
    """

    def __init__(self, in_channels: list[int], *, hidden: int = 128) -> None:
        super().__init__()
        radii = torch.logspace(math.log2(SMALLEST_RING), math.log2(LARGEST_RING), NUM_RINGS, base=2)
        angles = torch.arange(NUM_ANGLES) * (2 * math.pi / NUM_ANGLES)
        offsets = radii[:, None, None] * torch.stack([angles.sin(), angles.cos()], -1)  # (R, A, 2)
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("log_radii", radii.log(), persistent=False)
        profile = NUM_RINGS * (2 * len(in_channels) + 3)
        self.net = nn.Sequential(
            nn.Linear(profile + sum(in_channels) + 3, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(
        self,
        features: list[Tensor],
        clicks: ClickBatch,
        previous: Tensor,
        size: tuple[int, int],
        bounds: Tensor | None = None,
    ) -> Tensor:
        """Predict the logarithm of each click's radius in pixels.

        Args:
            features: (B, C_i, h_i, w_i) features of the image alone, for each of ``in_channels``; no gradient
                flows into them.
            clicks: (B, N) clicks in pixels of an image of ``size``; the result for padding is meaningless.
            previous: (B, 1, H, W) probabilities before the click, zeros before the first; without padding.
            size: (H, W) covered by the features: the image, including any padding at its bottom and right.
            bounds: (2,) height and width of the image if ``previous`` is padded like the features; else None.

        Returns:
            (B, N) float32, the natural logarithm of pixels.
        """
        before = (previous.shape[2], previous.shape[3])
        height, width = before if bounds is None else bounds.unbind()
        offsets: Tensor = self.get_buffer("offsets")
        points = clicks.coords[:, :, None, None] + offsets  # (B, N, R, A, 2)
        columns = []
        for feature in features:
            feature = feature.detach().float()
            center = nn.functional.normalize(sample_at(feature, clicks.coords, size), dim=-1)  # (B, N, C)
            ring = nn.functional.normalize(sample_at(feature, points, size), dim=-1)  # (B, N, R, A, C)
            likeness = (ring * center[:, :, None, None]).sum(-1)  # (B, N, R, A)
            columns += [likeness.mean(-1), likeness.amin(-1), center * math.sqrt(center.shape[-1])]
        mask = sample_at(previous.detach().float(), points, before)[..., 0]
        columns += [mask.mean(-1), mask.amin(-1), mask.amax(-1)]
        edge = torch.stack([clicks.coords[..., 0] + 1, height - clicks.coords[..., 0]], -1).amin(-1)
        side = torch.stack([clicks.coords[..., 1] + 1, width - clicks.coords[..., 1]], -1).amin(-1)
        own = sample_at(previous.detach().float(), clicks.coords, before)[..., 0]
        border = torch.minimum(edge, side).clamp(min=1).log() - math.log(LARGEST_RING) / 2
        columns.append(torch.stack([(clicks.labels == 1).float(), own, border], -1))
        middle = (
            math.log(SMALLEST_RING * LARGEST_RING) / 2
        )  # predictions start around the geometric middle of the rings
        first: nn.Linear = self.net[0]  # type: ignore[assignment]
        profile = torch.cat([column.float() for column in columns], -1).to(first.weight.dtype)
        log_radii: Tensor = self.net(profile)[..., 0].float()
        return log_radii + middle
