"""IIS-LD: several segmentation hypotheses and a network that selects one (Li et al. 2018)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.clicks import ClickBatch
from dct_seg.models.config import DCTNetConfig
from dct_seg.models.dct_net import DCTNet
from dct_seg.models.decoder import Adjust, keep
from dct_seg.models.network import NETWORKS, Encoded, ImageLoss, Output
from dct_seg.registry import check_choice

Choice = Literal["selection", "first"]

RANK_WEIGHT = 0.0025
SELECTION_SIZE = 64


@NETWORKS.register("iis_ld")
class IISLD(DCTNet):
    """U-Net with ``num_hypotheses`` outputs, and a small network that selects one of them.

    Args:
        config: Configuration of the network.
        num_hypotheses: Number of segmentations per image.
        choose: ``selection`` uses the selection network, ``first`` always takes hypothesis 1, as the authors'
            interface does.

    Source: based on "Interactive Image Segmentation with Latent Diversity" (CVPR 2018), with losses from the
    authors' code (MIT). The code has no selection network: ours has four convolutions over image, click maps
    and hypotheses at 64 x 64 pixels, trained in the same step. This library's U-Net replaces their dilated
    network over VGG-19 features. The selected hypothesis also gets the configured losses, as in all rows of
    Table 2.

    Examples:
        >>> from dct_seg import Click
        >>> config = DCTNetConfig(backbone="resnet18", backbone_weights="none", click_encoder="Euclidean")
        >>> net = IISLD(config).eval()
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30), Click(5, 9, positive=False)]])
        >>> net(torch.rand(1, 3, 64, 64), clicks).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self, config: DCTNetConfig, *, num_hypotheses: int = 6, choose: Choice = "selection"
    ) -> None:
        check_choice("choice of a hypothesis", choose, get_args(Choice))
        if num_hypotheses < 2:
            raise ValueError(f"num_hypotheses must be at least 2, got {num_hypotheses}")
        if config.detail:
            raise ValueError(
                "network 'iis_ld' has several outputs, but detail refines a single one; set detail to false"
            )
        super().__init__(config)
        self.choose: Choice = choose
        self.num_hypotheses = num_hypotheses
        self.decoder.predict = nn.Conv2d(config.decoder_width, num_hypotheses, 1)
        widths = [3 + self.click_encoder.num_maps + num_hypotheses, 16, 32, 64, 64]
        self.selection = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(c, c_next, 3, stride=2, padding=1), nn.ReLU(inplace=True))
                for c, c_next in pairwise(widths)
            )
        )
        self.pick = nn.Linear(widths[-1], num_hypotheses)
        self.train()

    def decode(self, encoded: Encoded, adjust: Adjust = keep) -> Output:
        """Compute the selected hypothesis; extras are ``hypotheses`` (B, M, H, W) and ``scores`` (B, M)."""
        hypotheses = super().decode(encoded, adjust).logits
        scores = self._scores(encoded, hypotheses)
        chosen = scores.argmax(1) if self.choose == "selection" else torch.zeros_like(scores[:, 0]).long()
        logits = hypotheses[torch.arange(len(hypotheses), device=hypotheses.device), chosen][:, None]
        return Output(logits, {"hypotheses": hypotheses, "scores": scores})

    def _scores(self, encoded: Encoded, hypotheses: Tensor) -> Tensor:
        maps = encoded.maps[:, : self.click_encoder.num_maps, : encoded.size[0], : encoded.size[1]]
        seen = torch.cat([encoded.image, maps.to(encoded.image), hypotheses.detach().sigmoid()], 1)
        small = F.adaptive_avg_pool2d(seen.detach(), SELECTION_SIZE)
        scores: Tensor = self.pick(self.selection(small).mean((2, 3))).float()
        return scores

    def loss(
        self, output: Output, mask: Tensor, ignore: Tensor, clicks: ClickBatch, losses: ImageLoss
    ) -> Tensor:
        """Add the ranked loss, the click constraint, the selection loss and ``losses``."""
        probs, valid = output.extras["hypotheses"].sigmoid(), ~ignore
        picked = F.cross_entropy(
            output.extras["scores"], best_hypothesis(probs, mask, valid), reduction="none"
        )
        chosen = losses(output.logits, mask, valid, clicks)
        return chosen + ranked_loss(probs, mask, valid) + click_constraint(probs, mask, clicks) + picked


def jaccard_losses(probs: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Soft Jaccard losses (B, M): 1 - mean(f y) / (mean(max(f, y)) + 1e-6) over valid pixels.

    Args:
        probs: (B, M, H, W) in 0..1.
        mask: (B, H, W) bool.
        valid: (B, H, W) bool.
    """
    target, counted = mask[:, None].to(probs), valid[:, None].to(probs)
    num = counted.sum((2, 3)).clamp(min=1)
    both = (probs * target * counted).sum((2, 3)) / num
    either = (torch.maximum(probs, target) * counted).sum((2, 3)) / num
    return 1 - both / (either + 1e-6)


def ranked_loss(probs: Tensor, mask: Tensor, valid: Tensor, *, weight: float = RANK_WEIGHT) -> Tensor:
    """Ranked loss (B,): min_m l_m + weight (2^(M-1) l_1 + ... + 2 l_{M-1} + l_M).

    Args:
        probs: (B, M, H, W) in 0..1.
        mask: (B, H, W) bool.
        valid: (B, H, W) bool.
        weight: Weight of the last hypothesis; each earlier one has twice the weight of the next.
    """
    each = jaccard_losses(probs, mask, valid)
    num = each.shape[1]
    weights = weight * 2.0 ** torch.arange(num - 1, -1, -1, device=each.device)
    return each.amin(1) + (each * weights).sum(1)


def click_constraint(probs: Tensor, mask: Tensor, clicks: ClickBatch) -> Tensor:
    """Click constraint (B,): mean of |f_m - y| over clicked pixels and hypotheses; 0 without clicks.

    This equals the authors' weighted mean over all pixels, whose weights are 0 except at clicked pixels.

    Args:
        probs: (B, M, H, W) in 0..1.
        mask: (B, H, W) bool.
        clicks: (B, N) clicks in pixels.
    """
    if clicks.labels.shape[1] == 0:
        return probs.sum((1, 2, 3)) * 0
    rows, cols = clicks.pixels(mask.shape[1:]).unbind(-1)
    clicked = torch.zeros_like(mask)
    for b, n in clicks.valid.nonzero().tolist():
        clicked[b, rows[b, n], cols[b, n]] = True
    wrong = (probs - mask[:, None].to(probs)).abs().mean(1) * clicked
    return wrong.sum((1, 2)) / clicked.sum((1, 2)).clamp(min=1)


def best_hypothesis(probs: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Index (B,) of the hypothesis with the largest IoU at probability 0.5; the first of equal ones.

    Args:
        probs: (B, M, H, W) in 0..1.
        mask: (B, H, W) bool.
        valid: (B, H, W) bool.
    """
    pred, target = (probs > 0.5) & valid[:, None], (mask & valid)[:, None]
    both, either = (pred & target).sum((2, 3)), (pred | target).sum((2, 3))
    iou = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return iou.argmax(1)
