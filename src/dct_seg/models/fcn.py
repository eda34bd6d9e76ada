"""Fully convolutional network with scores at three levels, as in DOS."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.models.config import DCTNetConfig
from dct_seg.models.decoder import Adjust, keep
from dct_seg.models.network import NETWORKS, Encoded, InteractiveNetwork, Output

NUM_SCORES = 3


@NETWORKS.register("fcn")
class FCN(InteractiveNetwork):
    """FCN with scores at the three coarsest levels, added from coarse to fine: s = up(up(c_32) + c_16) + c_8.

    Args:
        config: Configuration of the network. ``decoder_stride`` is the finest level with a score.

    Source: based on FCN-8s (Long et al. 2015), as used by DOS (Xu et al. 2016). VGG-16's two convolutions
    with 4096 channels have no counterpart in a timm backbone: here, one 3 x 3 convolution with 4 x
    ``decoder_width`` channels precedes the score of the coarsest level.

    Examples:
        >>> import torch
        >>> from dct_seg import Click, ClickBatch
        >>> config = DCTNetConfig(backbone="resnet18", backbone_weights="none", click_encoder="Euclidean")
        >>> net = FCN(config).eval()
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30), Click(5, 9, positive=False)]])
        >>> net(torch.rand(1, 3, 64, 64), clicks).shape
        torch.Size([1, 1, 64, 64])
    """

    points = ("maps", "top", "last")

    def __init__(self, config: DCTNetConfig) -> None:
        super().__init__(config)
        *_, top = self.channels
        hidden = 4 * config.decoder_width
        self.hidden = nn.Conv2d(top, hidden, 3, padding=1)
        finer = self.channels[:-1][-(NUM_SCORES - 1) :]
        self.scores = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in [*finer, hidden])
        self.train()

    def decode(self, encoded: Encoded, adjust: Adjust = keep) -> Output:
        """Compute the sum of the scores at the image's size."""
        *finer, top = encoded.features[-len(self.scores) :]
        top = adjust("last", F.relu(self.hidden(adjust("top", top))))
        scores = [score(level) for score, level in zip(self.scores, [*finer, top], strict=True)]
        return Output(self.at_image_size(added_scores(scores), encoded))


def added_scores(scores: Sequence[Tensor]) -> Tensor:
    """Add scores (B, 1, h_i, w_i), fine to coarse, upsampled bilinearly to the finest level.

    Examples:
        >>> import torch
        >>> added_scores([torch.zeros(1, 1, 2, 2), torch.full((1, 1, 1, 1), 3.0)]).flatten().tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    *finer, total = scores
    for score in reversed(finer):
        total = score + F.interpolate(total, score.shape[-2:], mode="bilinear", align_corners=False)
    return total
