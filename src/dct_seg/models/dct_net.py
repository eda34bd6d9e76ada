"""DCT-Net: image, clicks and, if wanted, the previous mask in; logits out (the paper's Fig. 1)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.click_encoders import CLICK_ENCODERS, ClickEncoder
from dct_seg.clicks import ClickBatch
from dct_seg.models import pretrained
from dct_seg.models.auto_drag import AutoDragHead
from dct_seg.models.backbone import Backbone
from dct_seg.models.decoder import UNetDecoder
from dct_seg.models.detail import DetailBranch
from dct_seg.models.feature_dct import FeatureDCT, Rejection
from dct_seg.models.feature_pyramid import FeaturePyramid
from dct_seg.models.prompt_branch import PromptBranch
from dct_seg.registry import check_choice

PromptFusion = Literal["early", "late"]

NUM_DCT_LAYERS = 3  # section 2.2: features of three layers in, statistics for three layers out


@dataclass(frozen=True)
class DCTNetConfig:
    """Everything that says which network it is.

    Plain values, so that it travels in YAML and in the weights' metadata.

    The defaults are the paper's full model (Table 1, third row).

    Args:
        backbone: Any timm model that supports ``features_only``; ``dct-seg list backbones`` shows them.
        backbone_weights: ``imagenet``, ``none``, or a path to a state dict of the timm model.
        click_encoder: Short name of a registered click encoder.
        click_encoder_options: Arguments of the click encoder, such as ``sigma_scale``.
        feature_dct: Predict the statistics of three decoder layers from the clicked features.
        rejection: How a negative click acts in eq. 3: ``true`` vector rejection, or the formula as
            ``printed``.
        normalize_features: Normalise the clicked features of each layer before eq. 3; the paper does not say.
        auto_drag: Predict the radius of a click that came without a drag.
        previous_mask: Feed the mask before the click to the network; the paper does not.
        prompt_fusion: Where clicks and the previous mask enter. ``early``, the paper's: at the backbone's
            stem, so that the whole network runs at each click. ``late``: after a backbone that has seen the
            image alone, once, so that a click costs a light branch and the decoder.
        decoder_stride: Pixels of the image a pixel of the finest decoder layer.
        decoder_width: Channels of the finest decoder layer.
        join_norm: Instance norm in all of the decoder's layers. Off, only the layers that Feature-DCT sets
            have it, as in the paper's Fig. 3: elsewhere it takes away how strongly a feature answers in this
            image.
        detail: Refine the logits with the backbone level that is one finer than the decoder's finest. Needs
            ``early`` fusion.
        frozen_batch_norm: Keep the statistics of the backbone's batch norm as pretrained; small batches of
            near-identical forwards skew them, and frozen is faster.
    """

    backbone: str = "resnet50"
    backbone_weights: str = "imagenet"
    click_encoder: str = "SpatialDCT"
    click_encoder_options: dict[str, float | str | bool] = field(default_factory=dict)
    feature_dct: bool = True
    rejection: Rejection = "true"
    normalize_features: bool = False
    auto_drag: bool = True
    previous_mask: bool = False
    prompt_fusion: PromptFusion = "early"
    decoder_stride: Literal[2, 4, 8] = 4
    decoder_width: int = 64
    join_norm: bool = True
    detail: bool = False
    frozen_batch_norm: bool = True

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DCTNetConfig:
        """The configuration of a mapping, such as one read from a file.

        Raises:
            ValueError: When a key is unknown.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(
                f"the model's configuration has unknown keys {unknown}; was it saved by a newer dct-seg?"
            )
        return cls(**values)


class DCTNet(nn.Module):
    """Dynamic Click Transform Network. A plain module: it remembers nothing between clicks.

    Args:
        config: Which network; the default is the paper's.

    Example:
        >>> from dct_seg import Click
        >>> net = DCTNet(DCTNetConfig(backbone="resnet18", backbone_weights="none")).eval()
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30, radius=9.0)]])
        >>> net(torch.rand(1, 3, 50, 70), clicks).shape  # any size
        torch.Size([1, 1, 50, 70])
    """

    def __init__(self, config: DCTNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DCTNetConfig()
        self.click_encoder = _click_encoder(config)
        check_choice("prompt fusion", config.prompt_fusion, get_args(PromptFusion))
        num_maps = 2 + config.previous_mask
        self.backbone = Backbone(
            config.backbone, weights=config.backbone_weights, num_maps=0 if self.is_late else num_maps
        )
        self.first_level = _first_level(self.backbone.strides, config.decoder_stride)
        channels, strides = (
            values[self.first_level :] for values in (self.backbone.channels, self.backbone.strides)
        )
        if self.is_late:
            narrow = [config.decoder_width * min(2 + i, 4) // 2 for i in range(len(channels))]
            self.pyramid = FeaturePyramid(channels, narrow, hidden=4 * config.decoder_width)
            self.prompt_branch = PromptBranch(num_maps, narrow, strides)
            channels = narrow
        num_dct = min(NUM_DCT_LAYERS, len(channels) - 1) if config.feature_dct else 0
        self.decoder = UNetDecoder(
            channels, width=config.decoder_width, predicted=num_dct, join_norm=config.join_norm
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

    @property
    def is_late(self) -> bool:
        """Whether the image is encoded apart from the clicks, so that its features serve them all."""
        return self.config.prompt_fusion == "late"

    def forward(
        self,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None = None,
        features: list[Tensor] | None = None,
    ) -> Tensor:
        """The logits of the object.

        Args:
            image: (B, 3, H, W) RGB in 0..1, any size.
            clicks: (B, N) clicks in pixels; the Auto-Drag-Head fills in radii that are not given.
            previous: (B, 1, H, W) probabilities before the last click; None stands for zeros.
            features: What ``encode_image`` returned for this image, to save computing it again. With
                ``early`` the Auto-Drag-Head alone reads it.

        Returns:
            (B, 1, H, W) float32; above 0 is object.

        Raises:
            ValueError: When image, clicks and previous mask do not agree in shape, or a radius is missing
                that nothing can predict.
        """
        _check_shapes(image, clicks, previous)
        if self.is_late and features is None:
            features = self.encode_image(image)
        clicks = self.fill_radii(image, clicks, previous, features)
        size = (image.shape[2], image.shape[3])
        maps = self.click_encoder(clicks, size)  # (B, 2, H, W)
        if self.config.previous_mask:
            maps = torch.cat(
                [maps, torch.zeros_like(maps[:, :1]) if previous is None else previous.to(maps)], 1
            )
        maps = self._padded(maps)
        padded_size = (maps.shape[2], maps.shape[3])
        if self.is_late:
            assert features is not None
            fused = self.prompt_branch(maps, features)
        else:
            levels = self.backbone(self._padded(image), maps)
            fused = features = levels[self.first_level :]
        statistics = (
            self.feature_dct(features[-NUM_DCT_LAYERS:], clicks, padded_size) if self.feature_dct else []
        )
        finest = self.decoder.finest(fused, statistics)
        logits: Tensor = self.decoder.predict(finest)
        if self.detail is not None:
            logits = self.detail(levels[self.first_level - 1], finest, logits)
        logits = logits.float()
        return F.interpolate(logits, padded_size, mode="bilinear", align_corners=False)[
            ..., : size[0], : size[1]
        ]

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """The features of the image alone, fine to coarse: with ``late`` all that ``forward`` needs of it.

        Args:
            image: (B, 3, H, W) RGB in 0..1, any size.
        """
        features: list[Tensor] = self.backbone(self._padded(image))[self.first_level :]
        return self.pyramid(features) if self.is_late else features

    def log_radii(
        self, features: list[Tensor], clicks: ClickBatch, previous: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """(B, N) logarithms of the radii that the Auto-Drag-Head predicts, in pixels.

        Args:
            features: What ``encode_image`` returned.
            clicks: (B, N) clicks in pixels.
            previous: (B, 1, H, W) probabilities before the clicks, or None.
            size: (H, W) of the image.
        """
        assert self.auto_drag is not None
        if previous is None:
            previous = torch.zeros(len(clicks), 1, *size, device=clicks.device)
        m = self.backbone.multiple
        padded = (-(-size[0] // m) * m, -(-size[1] // m) * m)
        radii: Tensor = self.auto_drag(
            features[:-1], clicks, previous, padded
        )  # the coarsest says nothing about an edge
        return radii

    def fill_radii(
        self,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None = None,
        features: list[Tensor] | None = None,
    ) -> ClickBatch:
        """The clicks with a radius wherever there was none.

        Args:
            image: (B, 3, H, W) RGB in 0..1.
            clicks: (B, N) clicks in pixels.
            previous: (B, 1, H, W) probabilities before the clicks, or None.
            features: What ``encode_image`` returned for this image, to save computing it again.
        """
        if self.auto_drag is None or not clicks.lacks_radius.any():
            return clicks
        features = self.encode_image(image) if features is None else features
        predicted = self.log_radii(features, clicks, previous, (image.shape[2], image.shape[3])).exp()
        return clicks.with_radii(torch.where(clicks.lacks_radius, predicted.to(clicks.radii), clicks.radii))

    def _detail_branch(self) -> DetailBranch:
        if self.is_late:
            raise ValueError(
                "detail reads backbone levels that have seen the clicks; set prompt_fusion to early, or "
                "detail to false"
            )
        if self.first_level == 0:
            raise ValueError(
                f"backbone '{self.config.backbone}' has no level finer than stride "
                f"{self.backbone.strides[0]}; set decoder_stride to a larger number, or detail to false"
            )
        return DetailBranch(self.backbone.channels[self.first_level - 1], self.decoder.block_channels[-1])

    def _padded(self, x: Tensor) -> Tensor:
        m = self.backbone.multiple
        bottom, right = -x.shape[2] % m, -x.shape[3] % m
        return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x

    def train(self, mode: bool = True) -> DCTNet:
        """As ``nn.Module.train``, but the backbone's batch norm stays in evaluation where the configuration
        says so.
        """
        super().train(mode)
        if self.config.frozen_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def parameter_groups(self, lr: float, *, backbone_lr_factor: float = 1.0) -> list[dict[str, Any]]:
        """Parameters for an optimizer.

        The pretrained ones at ``lr * backbone_lr_factor``, the new ones at ``lr``.
        """
        new_in_stem = {id(p) for p in self.backbone.stem_map_parameters()}
        old = [p for p in self.backbone.parameters() if id(p) not in new_in_stem]
        known = {id(p) for p in old}
        new = [p for p in self.parameters() if id(p) not in known]
        return [{"params": new, "lr": lr}, {"params": old, "lr": lr * backbone_lr_factor}]

    def save_pretrained(self, path: str | Path, *, half: bool = False, **card: str) -> Path:
        """Write the weights and the configuration to one ``.safetensors`` file, whole or not at all.

        Args:
            path: The file; a folder gets ``model.safetensors``.
            half: Store float16, half the size.
            card: Further lines of the file's metadata, such as ``training_data``.

        Returns:
            The file written.

        Raises:
            ValueError: A suffix of another format; with ``half``, a weight that float16 cannot hold.
        """
        return pretrained.save(self, path, half=half, card=card)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = pretrained.DEFAULT) -> DCTNet:
        """A trained network in evaluation mode, with all its weights and no other.

        Args:
            name_or_path: A name that ``dct-seg list`` shows, a ``.safetensors`` file or a folder that
                ``save_pretrained`` wrote, or a checkpoint (``.ckpt``) of training.

        Raises:
            FileNotFoundError: No file at a path.
            ValueError: Unknown name; a file that is broken, or of another architecture.
        """
        stored = pretrained.load(name_or_path)
        net = cls(DCTNetConfig.from_dict({**stored.config, "backbone_weights": "none"}))
        pretrained.load_strictly(net, stored)
        return net.eval()


def _click_encoder(config: DCTNetConfig) -> ClickEncoder:
    encoder = CLICK_ENCODERS.get(config.click_encoder)
    options: dict[str, Any] = dict(config.click_encoder_options)
    try:
        return encoder(**options)
    except TypeError as error:
        raise ValueError(
            f"click encoder '{config.click_encoder}' does not take {options}: {error}"
        ) from error


def _check_shapes(image: Tensor, clicks: ClickBatch, previous: Tensor | None) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise ValueError(f"an image batch is (B, 3, H, W), got {tuple(image.shape)}")
    if len(clicks) != len(image):
        raise ValueError(
            f"{len(image)} images need as many lists of clicks, got {len(clicks)}; ClickBatch.empty fills in "
            "for none"
        )
    if previous is not None and previous.shape != (len(image), 1, *image.shape[2:]):
        raise ValueError(
            f"the previous mask of images {tuple(image.shape)} is (B, 1, H, W), got {tuple(previous.shape)}"
        )


def _first_level(strides: list[int], decoder_stride: int) -> int:
    """The finest level the decoder uses; backbones of one stride only, such as a ViT's, use all they have."""
    level = next((i for i, s in enumerate(strides) if s >= decoder_stride), 0)
    return min(level, max(len(strides) - 2, 0))
