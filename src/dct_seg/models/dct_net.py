"""DCT-Net: logits from image, clicks and optionally the previous mask (the paper's Fig. 1)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

from torch import Tensor

from dct_seg.clicks import ClickBatch
from dct_seg.models.auto_drag import AutoDragHead
from dct_seg.models.config import DCTNetConfig, FeatureInput
from dct_seg.models.decoder import Adjust, UNetDecoder, keep
from dct_seg.models.detail import DetailBranch
from dct_seg.models.feature_dct import FeatureDCT
from dct_seg.models.feature_pyramid import FeaturePyramid
from dct_seg.models.network import NETWORKS, Encoded, InteractiveNetwork, Output
from dct_seg.models.prompt_branch import PromptBranch
from dct_seg.registry import check_choice

NUM_DCT_LAYERS = 3  # section 2.2: features of three layers in, statistics for three layers out


@NETWORKS.register("dct_net")
class DCTNet(InteractiveNetwork):
    """Dynamic Click Transform Network, without state between clicks.

    With ``feature_dct: false`` and ``auto_drag: false``, it is a plain U-Net with pyramid pooling.

    Args:
        config: Network configuration; the default is the paper's.

    Examples:
        >>> import torch
        >>> from dct_seg import Click
        >>> net = DCTNet(DCTNetConfig(backbone="resnet18", backbone_weights="none")).eval()
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30, radius=9.0)]])
        >>> net(torch.rand(1, 3, 50, 70), clicks).shape  # any size
        torch.Size([1, 1, 50, 70])
    """

    points = ("maps", "top", "statistics", "pool", "last")

    def __init__(self, config: DCTNetConfig | None = None) -> None:
        config = config or DCTNetConfig()
        check_choice("feature_dct_input", config.feature_dct_input, get_args(FeatureInput))
        super().__init__(config, encodes_clicks=config.prompt_fusion != "late")
        if self.is_late:
            narrow = [config.decoder_width * min(2 + i, 4) // 2 for i in range(len(self.channels))]
            self.pyramid = FeaturePyramid(self.channels, narrow, hidden=4 * config.decoder_width)
            self.prompt_branch = PromptBranch(self.num_maps, narrow, self.strides)
            self.channels = narrow
        channels = self.channels
        self.num_dct = num_dct = min(NUM_DCT_LAYERS, len(channels) - 1) if config.feature_dct else 0
        self.decoder = UNetDecoder(
            self.decoder_channels(channels),
            width=config.decoder_width,
            predicted=num_dct,
            join_norm=config.join_norm,
            norm=config.decoder_norm,
            predicted_norm=config.feature_dct_norm,
        )
        self.detail = self._detail_branch() if config.detail else None
        self.feature_dct = (
            FeatureDCT(
                channels[-NUM_DCT_LAYERS:],
                self.decoder.block_channels[:num_dct],
                rejection=config.rejection,
                normalize=config.normalize_features,
            )
            if config.feature_dct
            else None
        )
        self.auto_drag = (
            AutoDragHead(channels[:-1]) if config.auto_drag and self.click_encoder.needs_radius else None
        )
        # a fresh module is in training mode without a call of train(), which is what freezes batch norm
        self.train()

    def parameter_groups(self, lr: float, *, backbone_lr_factor: float = 1.0) -> list[dict[str, Any]]:
        """Parameter groups as in `InteractiveNetwork`; the layers without a norm follow their magnitude.

        With ``feature_dct_norm: none``, the weights of a trained layer may be a hundred times smaller than
        its initial ones, because they have absorbed the norm. A step of Adam at the full rate would be larger
        than such weights, so their rate is reduced by the same factor, the group's ``magnitude``. A resumed
        run keeps the factors of its start.
        """
        groups = super().parameter_groups(lr, backbone_lr_factor=backbone_lr_factor)
        if self.feature_dct is None or self.config.feature_dct_norm != "none":
            return groups
        blocks = self.decoder.blocks
        weights = [blocks.get_parameter(f"{i}.refine.conv.weight") for i in range(self.num_dct)]
        ids = {id(weight) for weight in weights}
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in ids]
        factors = [relative_magnitude(weight) for weight in weights]
        return groups + [
            {"params": [weight], "lr": lr * factor, "magnitude": factor}
            for weight, factor in zip(weights, factors, strict=True)
        ]

    def decoder_channels(self, channels: list[int]) -> list[int]:
        """Channels of each level of the decoder's input; a subclass may add channels to the backbone's."""
        return channels

    @property
    def is_late(self) -> bool:
        """Whether the image is encoded without the clicks, so that its features can be reused."""
        return self.config.prompt_fusion == "late"

    def encode(
        self,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None = None,
        features: list[Tensor] | None = None,
        *,
        prepared: Any = None,
        adjust: Adjust = keep,
    ) -> Encoded:
        """Compute everything before the decoder, including the statistics of Feature-DCT."""
        encoded = super().encode(image, clicks, previous, features, prepared=prepared, adjust=adjust)
        if self.feature_dct is None:
            return encoded
        seen = encoded.seen
        if self.config.feature_dct_input == "image" and not self.is_late:
            seen = self.encode_image(image) if features is None else features
        statistics = self.feature_dct(seen[-NUM_DCT_LAYERS:], encoded.clicks, encoded.padded_size)
        return replace(encoded, statistics=statistics)

    def fuse(self, maps: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Add the clicks to the image's levels, by the prompt branch."""
        fused: list[Tensor] = self.prompt_branch(maps.to(self.prompt_branch.stem.weight.dtype), features)
        return fused

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """Encode the image without clicks: features, fine to coarse.

        Args:
            image: (B, 3, H, W) RGB in 0..1, any size.
        """
        features = super().encode_image(image)
        return self.pyramid(features) if self.is_late else features

    def decode(self, encoded: Encoded, adjust: Adjust = keep) -> Output:
        """Compute the logits of the U-Net."""
        last = self.decode_last(encoded, adjust)
        logits: Tensor = self.decoder.predict(last)
        if self.detail is not None:
            logits = self.detail(encoded.levels[self.first_level - 1], last, logits)
        return Output(self.at_image_size(logits, encoded))

    def decode_last(self, encoded: Encoded, adjust: Adjust = keep) -> Tensor:
        """Compute the decoder's finest layer, (B, decoder_width, h, w)."""
        *skips, top = encoded.features
        statistics = adjust("statistics", encoded.statistics) if encoded.statistics else []
        return self.decoder.finest([*skips, adjust("top", top)], statistics, adjust)

    def _detail_branch(self) -> DetailBranch:
        if self.is_late:
            raise ValueError(
                "detail needs backbone levels that include the clicks; set prompt_fusion to early, or "
                "detail to false"
            )
        if self.first_level == 0:
            raise ValueError(
                f"backbone '{self.config.backbone}' has no level finer than stride "
                f"{self.backbone.strides[0]}; set decoder_stride to a larger number, or detail to false"
            )
        return DetailBranch(self.backbone.channels[self.first_level - 1], self.decoder.block_channels[-1])


def relative_magnitude(weight: Tensor) -> float:
    """Root mean square of a convolution's weights, relative to that of new ones; at most 1.

    Examples:
        >>> import torch
        >>> conv = torch.nn.Conv2d(64, 64, 3)
        >>> round(relative_magnitude(conv.weight), 1), round(relative_magnitude(conv.weight / 100), 3)
        (1.0, 0.01)
    """
    initial = 1 / math.sqrt(3 * weight[0].numel())  # torch's default
    return min(1.0, weight.detach().square().mean().sqrt().item() / initial)
