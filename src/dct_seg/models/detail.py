"""Detail branch: logits at twice the resolution of the decoder's finest layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.models.memory_layout import concatenate


class DetailBranch(nn.Module):
    """Refine upsampled logits with one finer level of the backbone.

    The correction starts at zero: an untrained branch only upsamples.

    Args:
        fine_channels: Channels of the finer backbone level.
        coarse_channels: Channels of the decoder's finest layer.
        hidden: Channels of the branch.

    Source: not in the paper, which does not specify the decoder's finest level.
    """

    def __init__(self, fine_channels: int, coarse_channels: int, *, hidden: int = 16) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse_channels, hidden, 1)
        self.mix = nn.Conv2d(fine_channels + hidden + 1, hidden, 3, padding=1)
        self.refine = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.predict = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor, logits: Tensor) -> Tensor:
        """Refine the logits.

        Args:
            fine: (B, fine_channels, H, W) backbone level.
            coarse: (B, coarse_channels, h, w) finest decoder layer.
            logits: (B, 1, h, w) logits of that layer.

        Returns:
            (B, 1, H, W) logits.
        """
        size = fine.shape[-2:]
        raised = F.interpolate(self.reduce(coarse), size, mode="bilinear", align_corners=False)
        upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        joined = concatenate([fine, raised, upsampled.clamp(-8, 8) / 4])
        x = F.relu(self.mix(joined), inplace=True)
        x = F.relu(self.refine(x), inplace=True)
        correction: Tensor = self.predict(x)
        return upsampled + correction
