"""A fully convolutional network with scores at three levels: the network of DOS."""

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
    """Scores at the three coarsest levels, added from coarse to fine: s = up(up(c_32) + c_16) + c_8.

    Args:
        config: Configuration of the network. ``decoder_stride`` is the finest level with a score.

    Source: FCN-8s (Long et al. 2015), as DOS uses it (Xu et al. 2016), after. VGG-16's two convolutions of
    4096 channels
    have no counterpart in a timm backbone: the coarsest level gets one 3 x 3 convolution of 4 x
    ``decoder_width`` before its score.
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
        """The added scores, at the image's size."""
        *finer, top = encoded.features[-len(self.scores) :]
        top = adjust("last", F.relu(self.hidden(adjust("top", top))))
        scores = [score(level) for score, level in zip(self.scores, [*finer, top], strict=True)]
        return Output(self.at_image_size(added_scores(scores), encoded))


def added_scores(scores: Sequence[Tensor]) -> Tensor:
    """Scores (B, 1, h_i, w_i), fine to coarse, added at the finest level, each raised bilinearly.

    Examples:
        >>> import torch
        >>> added_scores([torch.zeros(1, 1, 2, 2), torch.full((1, 1, 1, 1), 3.0)]).flatten().tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    *finer, total = scores
    for score in reversed(finer):
        total = score + F.interpolate(total, score.shape[-2:], mode="bilinear", align_corners=False)
    return total
