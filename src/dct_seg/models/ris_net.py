"""RIS-Net: separate segmentation of regions between opposite clicks (Liew et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from dct_seg.clicks import ClickBatch
from dct_seg.models.config import DCTNetConfig
from dct_seg.models.dct_net import DCTNet
from dct_seg.models.decoder import Adjust, keep
from dct_seg.models.network import NETWORKS, Encoded, ImageLoss, Output

CONTEXT_CELLS = (1, 2, 3, 6)
CONTEXT_WIDTH = 16
SMALLEST_HALF = 16.0  # pixels
MAX_PAIRS, MAX_BETWEEN = 4, 2


@NETWORKS.register("ris_net")
class RISNet(DCTNet):
    """U-Net with a second head for regions around positive clicks that have a negative click nearby.

    Args:
        config: Configuration of the network.
        region_size: Height and width to which a region's features are pooled.
        discount: Base of the loss weights: the k-th largest loss of a region has weight ``discount ** k``.

    Source: based on "Regional Interactive Image Segmentation Networks" (ICCV 2017). The paper does not
    specify the box of a pair of clicks, the pooled size, scales and discount, or how local and global masks
    are merged. Our choices: the square around the positive click that reaches to its nearest negative one; up
    to two more, each halfway between the two nearest; pooling to 28 x 28 with the coarsest level's averages
    over 1, 2, 3 and 6 cells; and the mean of the largest local logit and the global one.

    Examples:
        >>> from dct_seg import Click
        >>> config = DCTNetConfig(backbone="resnet18", backbone_weights="none", click_encoder="Euclidean")
        >>> net = RISNet(config).eval()
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30), Click(5, 9, positive=False)]])
        >>> net(torch.rand(1, 3, 64, 64), clicks).shape
        torch.Size([1, 1, 64, 64])
    """

    def __init__(self, config: DCTNetConfig, *, region_size: int = 28, discount: float = 0.9) -> None:
        if region_size < 1 or not 0 < discount <= 1:
            raise ValueError(
                f"region_size must be at least 1 and discount in 0..1, got {region_size} and {discount}"
            )
        if config.detail:
            raise ValueError(
                "network 'ris_net' has several outputs, but detail refines a single one; set detail to false"
            )
        super().__init__(config)
        self.region_size = region_size
        self.discount = discount
        width = config.decoder_width
        self.context = nn.ModuleList(nn.Conv2d(self.channels[-1], CONTEXT_WIDTH, 1) for _ in CONTEXT_CELLS)
        layers: list[nn.Module] = []
        for c_in in (width + CONTEXT_WIDTH * len(CONTEXT_CELLS), width, width):
            layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.ReLU(inplace=True)]
        self.region = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
        self.train()

    def decode(self, encoded: Encoded, adjust: Adjust = keep) -> Output:
        """Compute the merged logits; extras are ``whole``, ``regions``, ``inside`` and ``index``."""
        last = self.decode_last(encoded, adjust)
        whole = self.at_image_size(self.decoder.predict(last), encoded)
        boxes, index = batch_boxes(encoded.clicks, encoded.size)
        if len(boxes) == 0:
            if torch.is_grad_enabled():  # under DDP every parameter must be in every loss
                unused = [*self.context.parameters(), *self.region.parameters()]
                whole = whole + 0 * sum(p.sum() for p in unused)
            nothing = whole.new_zeros(0, 1, *encoded.size)
            extras = {"whole": whole, "regions": nothing, "inside": nothing[:, 0] > 0, "index": index}
            return Output(whole, extras)
        local = self.region(self._region_features(last, encoded, boxes, index)).float()
        regions, inside = placed(local, boxes, encoded.size)
        logits = torch.cat(
            [joined(whole[b], regions[index == b], inside[index == b])[None] for b in range(len(whole))]
        )
        return Output(logits, {"whole": whole, "regions": regions, "inside": inside, "index": index})

    def _region_features(self, last: Tensor, encoded: Encoded, boxes: Tensor, index: Tensor) -> Tensor:
        side = self.region_size
        scale = last.shape[-1] / encoded.padded_size[1]
        rois = torch.cat([index[:, None].float(), boxes[:, [1, 0, 3, 2]]], 1)  # roi_align uses (x, y)
        own = roi_align(last.float(), rois, side, spatial_scale=scale, aligned=True)
        top = encoded.features[-1]
        context = [
            F.interpolate(conv(F.adaptive_avg_pool2d(top, cells)).float(), (side, side), mode="bilinear")
            for conv, cells in zip(self.context, CONTEXT_CELLS, strict=True)
        ]
        return torch.cat([own, torch.cat(context, 1)[index]], 1)

    def loss(
        self, output: Output, mask: Tensor, ignore: Tensor, clicks: ClickBatch, losses: ImageLoss
    ) -> Tensor:
        """Add the global loss and the regions' losses, discounted by rank."""
        index, valid = output.extras["index"], ~ignore
        whole = losses(output.extras["whole"], mask, valid, clicks)
        if len(index) == 0:
            return whole
        of_region = ClickBatch(clicks.coords[index], clicks.labels[index], clicks.radii[index])
        each = losses(
            output.extras["regions"], mask[index], valid[index] & output.extras["inside"], of_region
        )
        return whole + torch.stack([discounted(each[index == b], self.discount) for b in range(len(whole))])


def batch_boxes(clicks: ClickBatch, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Find the boxes of all images, (R, 4) top, left, bottom, right in pixels, and each one's image, (R,)."""
    each = [
        click_boxes(coords[labels == 1], coords[labels == 0], size)
        for coords, labels in zip(clicks.coords, clicks.labels, strict=True)
    ]
    numbers = torch.tensor([len(boxes) for boxes in each], device=clicks.device)
    index = torch.arange(len(each), device=clicks.device).repeat_interleave(numbers)
    return torch.cat([clicks.coords.new_zeros(0, 4), *each]), index


def click_boxes(positive: Tensor, negative: Tensor, size: tuple[int, int]) -> Tensor:
    """Find the boxes of the regions of one image.

    Args:
        positive: (P, 2) clicks in pixels; only the last few are used.
        negative: (M, 2) clicks in pixels; without any, there is no box.
        size: (H, W) of the image.

    Returns:
        (R, 4) top, left, bottom, right as edges of pixels, clipped at the image's border.

    Examples:
        >>> click_boxes(torch.tensor([[50.0, 50.0]]), torch.tensor([[50.0, 70.0]]), (100, 100)).tolist()
        [[30.5, 30.5, 70.5, 70.5]]
    """
    positive = positive[-MAX_PAIRS:]
    if len(positive) == 0 or len(negative) == 0:
        return positive.new_zeros(0, 4)
    nearest = negative[torch.cdist(positive, negative).argmin(1)]  # (P, 2)
    half = (positive - nearest).abs().amax(1).clamp(min=SMALLEST_HALF).clamp(max=max(size) / 2)
    squares = torch.cat([positive + 0.5, half[:, None]], 1)  # center and half side
    apart = torch.cdist(positive, positive)
    pairs = [(i, j) for i in range(len(positive)) for j in range(i + 1, len(positive))]
    pairs = sorted(pairs, key=lambda pair: float(apart[pair]))[:MAX_BETWEEN]
    squares = torch.cat([squares, *((squares[i] + squares[j])[None] / 2 for i, j in pairs)])
    low, high = squares[:, :2] - squares[:, 2:], squares[:, :2] + squares[:, 2:]
    limit = squares.new_tensor(size)
    return torch.cat([low.clamp(min=0), torch.minimum(high, limit)], 1)


def placed(local: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize region logits to their boxes; 0 outside.

    Args:
        local: (R, 1, s, s) logits of each region.
        boxes: (R, 4) top, left, bottom, right in pixels.
        size: (H, W) of the image.

    Returns:
        (R, 1, H, W) logits and (R, H, W) bool, True in the box.
    """
    maps, inside = [], torch.zeros(len(boxes), *size, dtype=torch.bool, device=local.device)
    corners = boxes.round().long().tolist()
    for i, (one, (top, left, bottom, right)) in enumerate(zip(local, corners, strict=True)):
        top, left = min(top, size[0] - 1), min(left, size[1] - 1)
        bottom, right = max(bottom, top + 1), max(right, left + 1)
        resized = F.interpolate(one[None], (bottom - top, right - left), mode="bilinear")
        maps.append(F.pad(resized, (left, size[1] - right, top, size[0] - bottom)))
        inside[i, top:bottom, left:right] = True
    return torch.cat(maps), inside


def joined(whole: Tensor, regions: Tensor, inside: Tensor) -> Tensor:
    """Merge global and region logits: inside boxes, the mean of global and largest region logit, (1, H, W).

    Args:
        whole: (1, H, W) global logits.
        regions: (R, 1, H, W) region logits.
        inside: (R, H, W) bool, True in the box.
    """
    if len(regions) == 0:
        return whole
    outside = torch.where(inside[:, None], regions, -torch.inf)  # -inf: these are logits
    return torch.where(inside.any(0)[None], (outside.amax(0) + whole) / 2, whole)


def discounted(losses: Tensor, discount: float) -> Tensor:
    """Average losses; the k-th largest has weight ``discount ** k``, k from 0.

    Examples:
        >>> round(float(discounted(torch.tensor([1.0, 3.0, 2.0]), 0.5)), 4)  # (3 + 2 / 2 + 1 / 4) / 1.75
        2.4286
    """
    if len(losses) == 0:
        return losses.sum()
    rank = losses.detach().argsort(descending=True).argsort()
    weights = discount ** rank.to(losses)
    return (losses * weights).sum() / weights.sum()
