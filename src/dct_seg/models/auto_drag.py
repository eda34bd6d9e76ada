"""Auto-Drag-Head: the radius of a click that came without a drag (the end of the paper's section 2.1)."""

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
    """Predicts each click's radius in pixels from what lies around it.

    The paper says only that the head is a lightweight network. Ours looks at rings of growing radius around
    the click: how alike the image's features on a ring are to those under the click, and what the previous
    mask says there. The radius asked for is the first ring that leaves the object, or the wrong region, which
    such a profile shows almost by itself.

    Args:
        in_channels: Channels of the image feature maps that are read.
        hidden: Width of the net.
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
        """The logarithm of each click's radius in pixels.

        Args:
            features: (B, C_i, h_i, w_i) features of the image alone, for each of ``in_channels``; no gradient
                flows into them.
            clicks: (B, N) clicks in pixels of an image of ``size``; padding gets a number without a meaning.
            previous: (B, 1, H, W) probabilities before the click, zeros before the first; its borders are the
                image's.
            size: (H, W) that the features cover: the image's, or with what was padded at its bottom and
                right.
            bounds: (2,) height and width of the image where ``previous`` is padded as the features are;
                None where it is not.

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
            centre = nn.functional.normalize(sample_at(feature, clicks.coords, size), dim=-1)  # (B, N, C)
            ring = nn.functional.normalize(sample_at(feature, points, size), dim=-1)  # (B, N, R, A, C)
            likeness = (ring * centre[:, :, None, None]).sum(-1)  # (B, N, R, A)
            columns += [likeness.mean(-1), likeness.amin(-1), centre * math.sqrt(centre.shape[-1])]
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
