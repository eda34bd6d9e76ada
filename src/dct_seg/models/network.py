"""Base class and registry of click segmentation networks."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dct_seg.click_encoders import CLICK_ENCODERS, ClickEncoder
from dct_seg.clicks import ClickBatch
from dct_seg.models import pretrained
from dct_seg.models.backbone import Backbone
from dct_seg.models.config import DCTNetConfig, PromptFusion
from dct_seg.models.decoder import Adjust, Statistics, keep
from dct_seg.models.tracing import is_exporting
from dct_seg.ranges import check_number, check_unit_range
from dct_seg.registry import Registry, check_choice, check_options

NETWORKS: Registry[type[InteractiveNetwork]] = Registry("network", group="dct_seg.networks")

CLICK_SLACK = 0.01  # pixels; tolerance for rounding

ImageLoss = Callable[[Tensor, Tensor, Tensor, ClickBatch], Tensor]
"""Function of logits (B, 1, H, W), mask and valid pixels (B, H, W) bool, and clicks; returns losses (B,)."""

Self = TypeVar("Self", bound="InteractiveNetwork")


@dataclass(frozen=True)
class Encoded:
    """Input of a decoder: image and clicks after the backbone.

    Args:
        image: (B, 3, H, W) RGB in 0..1, as given.
        clicks: (B, N) clicks in pixels, with the radii used.
        maps: (B, C, H', W') click maps and, if used, the previous mask; padded.
        features: (B, C_i, h_i, w_i) levels with the clicks in them, fine to coarse.
        seen: Levels that Feature-DCT samples at the clicks: ``features``, or with late fusion those of the
            image only.
        levels: All levels of an early-fusion backbone, including those finer than the decoder's finest; empty
            with late fusion.
        statistics: Predicted (mean, std) of each decoder layer with predicted statistics.
    """

    image: Tensor
    clicks: ClickBatch
    maps: Tensor
    features: list[Tensor]
    seen: list[Tensor]
    levels: list[Tensor]
    statistics: list[Statistics] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Size of the image, (H, W)."""
        return self.image.shape[2], self.image.shape[3]

    @property
    def padded_size(self) -> tuple[int, int]:
        """Size of the padded image that the features cover, (H', W')."""
        return self.maps.shape[2], self.maps.shape[3]


@dataclass(frozen=True)
class Output:
    """Output of a network.

    Args:
        logits: (B, 1, H, W) float32 at the image's size; above 0 is object.
        extras: Additional tensors for the network's own loss.
    """

    logits: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)


class InteractiveNetwork(nn.Module, ABC):
    """Network from image and clicks to logits, without state between clicks.

    To add a network, subclass this, implement ``decode``, and use ``@NETWORKS.register()`` or an entry
    point:

        [project.entry-points."dct_seg.networks"]
        my_network = "my_package:MyNetwork"

    ``model.network.network: my_network`` then trains it; benchmark, predictor and annotator accept its
    weights.

    Args:
        config: Network configuration.
        encodes_clicks: Feed the click maps to the backbone's stem (early fusion).

    Attributes:
        channels: Channels of each level given to ``decode``, fine to coarse.
        strides: Stride of each level in image pixels.
        card: Metadata of the weights.

    Examples:
        >>> from dct_seg import Click
        >>> net = InteractiveNetwork.from_pretrained("dct-lite0")
        >>> clicks = ClickBatch.from_clicks([[Click(20, 30, radius=9.0)]])
        >>> net(torch.zeros(1, 3, 64, 64), clicks).shape
        torch.Size([1, 1, 64, 64])
    """

    points: ClassVar[tuple[str, ...]] = ("maps",)
    """Names of the tensors that ``adjust`` can change, in the order of their computation."""

    auto_drag: nn.Module | None

    def __init__(self, config: DCTNetConfig, *, encodes_clicks: bool = True) -> None:
        super().__init__()
        check_choice("prompt fusion", config.prompt_fusion, get_args(PromptFusion))
        if encodes_clicks and config.prompt_fusion == "late":
            raise ValueError(f"network '{config.network}' cannot add clicks late; set prompt_fusion to early")
        check_number("decoder_width", config.decoder_width, least=2)
        if config.decoder_stride not in (2, 4, 8):
            raise ValueError(f"decoder_stride must be 2, 4 or 8, got {config.decoder_stride}")
        if config.backbone_weights == "none":  # random weights have no statistics to keep
            config = replace(config, frozen_batch_norm=False)
        self.config = config
        self.click_encoder = make_click_encoder(config)
        self.num_maps = self.click_encoder.num_maps + config.previous_mask
        self.backbone = Backbone(
            config.backbone,
            weights=config.backbone_weights,
            num_maps=self.num_maps if encodes_clicks else 0,
        )
        self.first_level = _first_level(self.backbone.strides, config.decoder_stride)
        self.channels = self.backbone.channels[self.first_level :]
        self.strides = self.backbone.strides[self.first_level :]
        self.auto_drag = None
        self.card: dict[str, str] = {}

    @property
    def is_late(self) -> bool:
        """Whether the image is encoded without the clicks, so that its features can be reused."""
        return False

    def forward(
        self,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None = None,
        features: list[Tensor] | None = None,
        prepared: Any = None,
        extras: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Compute the object's logits.

        Args:
            image: (B, 3, H, W) RGB in 0..1, any size.
            clicks: (B, N) clicks in pixels; the Auto-Drag-Head predicts missing radii.
            previous: (B, 1, H, W) probabilities before the last click; None means zeros.
            features: Result of ``encode_image`` for this image, to avoid recomputing it. With ``early``,
                only the Auto-Drag-Head reads it, and Feature-DCT with ``feature_dct_input: image``.
            prepared: Result of ``prepare`` for this image, to avoid recomputing it.
            extras: Mapping to fill with ``Output.extras``.

        Returns:
            (B, 1, H, W) float32; above 0 is object.

        Raises:
            ValueError: When shapes disagree, a radius is missing and cannot be predicted, the image is not in
                0..1, or a click lies outside of it.
            TypeError: When the image has an integer type.
        """
        output = self.decode(self.encode(image, clicks, previous, features, prepared=prepared))
        if extras is not None:
            extras.update(output.extras)
        return output.logits

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
        """Compute everything before the decoder.

        Args:
            image: (B, 3, H, W) RGB in 0..1, any size.
            clicks: (B, N) clicks in pixels.
            previous: (B, 1, H, W) probabilities before the last click, or None.
            features: Result of ``encode_image`` for this image, or None.
            prepared: Result of ``prepare`` for this image, or None.
            adjust: Called with ``maps``, the click maps (B, num_maps, H, W); its result replaces them.

        Raises:
            ValueError: When shapes disagree, or a radius is missing and cannot be predicted.
        """
        _check_inputs(image, clicks, previous)
        if self.is_late and features is None:
            features = self.encode_image(image)
        clicks = self.fill_radii(image, clicks, previous, features)
        maps = adjust("maps", self._drawn(image, clicks, prepared))
        if self.config.previous_mask:
            maps = torch.cat(
                [maps, torch.zeros_like(maps[:, :1]) if previous is None else previous.to(maps)], 1
            )
        maps = self.padded(maps)
        if self.is_late:
            assert features is not None
            return Encoded(image, clicks, maps, self.fuse(maps, features), features, [])
        levels = self.backbone(self.padded(image), maps)
        fused = levels[self.first_level :]
        return Encoded(image, clicks, maps, fused, fused, levels)

    def fuse(self, maps: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Add the clicks to the image's levels, fine to coarse; for late fusion only.

        Args:
            maps: (B, C, H', W') click maps, padded.
            features: Result of ``encode_image``.
        """
        raise NotImplementedError

    @abstractmethod
    def decode(self, encoded: Encoded, adjust: Adjust = keep) -> Output:
        """Compute the logits at the image's size, and extra tensors for the loss.

        Args:
            encoded: Result of ``encode``.
            adjust: Called with name and value of each of ``points`` except ``maps``; its result replaces the
                value.
        """

    def loss(
        self, output: Output, mask: Tensor, ignore: Tensor, clicks: ClickBatch, losses: ImageLoss
    ) -> Tensor:
        """Compute the loss of each image, (B,): ``losses`` of the logits, plus a network's own terms.

        Args:
            output: Result of ``decode``.
            mask: (B, H, W) bool.
            ignore: (B, H, W) bool, True for ignored pixels.
            clicks: (B, N) clicks in pixels.
            losses: Weighted sum of the configured losses.
        """
        return losses(output.logits, mask, ~ignore, clicks)

    def prepare(self, image: Tensor) -> Any:
        """Compute the click encoder's per-image input, such as superpixels; None if it reads no image.

        Args:
            image: (B, 3, H, W) RGB in 0..1.
        """
        return self.click_encoder.prepare(image) if self.click_encoder.needs_image else None

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """Encode the image without clicks: features, fine to coarse.

        Args:
            image: (B, 3, H, W) RGB in 0..1, any size.
        """
        return self.backbone(self.padded(image))[self.first_level :]  # type: ignore[no-any-return]

    def fill_radii(
        self,
        image: Tensor,
        clicks: ClickBatch,
        previous: Tensor | None = None,
        features: list[Tensor] | None = None,
    ) -> ClickBatch:
        """Predict the missing radii of the clicks.

        Args:
            image: (B, 3, H, W) RGB in 0..1.
            clicks: (B, N) clicks in pixels.
            previous: (B, 1, H, W) probabilities before the clicks, or None.
            features: Result of ``encode_image`` for this image, to avoid recomputing it.
        """
        if self.auto_drag is None or is_exporting() or not clicks.lacks_radius.any():
            return clicks  # an exported graph uses the given radii unchanged
        features = self.encode_image(image) if features is None else features
        predicted = self.log_radii(features, clicks, previous, (image.shape[2], image.shape[3])).exp()
        return clicks.with_radii(torch.where(clicks.lacks_radius, predicted.to(clicks.radii), clicks.radii))

    def log_radii(
        self, features: list[Tensor], clicks: ClickBatch, previous: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        """Predict the logarithms of the radii in pixels with the Auto-Drag-Head, (B, N).

        Args:
            features: Result of ``encode_image``.
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
        )  # the coarsest level is too coarse for edges
        return radii

    def padded(self, x: Tensor) -> Tensor:
        """Pad ``x`` (B, C, H, W) by its last row and column to a size that the backbone accepts."""
        m = self.backbone.multiple
        bottom, right = -x.shape[2] % m, -x.shape[3] % m
        return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x

    def train(self: Self, mode: bool = True) -> Self:
        """Set training mode, but keep the backbone's batch norm frozen if configured."""
        super().train(mode)
        if self.config.frozen_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def parameter_groups(self, lr: float, *, backbone_lr_factor: float = 1.0) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: pretrained at ``lr * backbone_lr_factor``, new at ``lr``."""
        new_in_stem = {id(p) for p in self.backbone.stem_map_parameters()}
        old = [p for p in self.backbone.parameters() if id(p) not in new_in_stem]
        known = {id(p) for p in old}
        new = [p for p in self.parameters() if id(p) not in known]
        return [{"params": new, "lr": lr}, {"params": old, "lr": lr * backbone_lr_factor}]

    def save_pretrained(self, path: str | Path, *, half: bool = False, **card: str) -> Path:
        """Write the weights and the configuration to one ``.safetensors`` file, atomically.

        Args:
            path: Path of the file; in a folder, ``model.safetensors``.
            half: Store float16, half the size.
            card: Metadata in addition to that of the loaded weights, such as ``training_data``.

        Returns:
            Path of the file.

        Raises:
            ValueError: When the suffix is of another format, or float16 cannot hold a weight.
        """
        return pretrained.save(self, path, half=half, card={**self.card, **card})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        half: bool = True,
        private: bool | None = None,
        branch: str | None = None,
        commit_message: str = "Add weights of dct-seg",
        **card: str,
    ) -> str:
        """Upload the weights to the Hugging Face Hub, with a model card; returns the URL of the commit.

        Args:
            repo_id: ``org/name``; created if missing.
            half: Store float16, half the size.
            private: Whether a new repository is private; None uses the organization's default.
            branch: Branch to commit to; None for ``main``.
            commit_message: First line of the commit.
            card: Metadata in addition to that of the weights.
        """
        from dct_seg.models import hub

        lines = {**self.card, **card}
        return hub.push(
            self, repo_id, half=half, card=lines, private=private, branch=branch, message=commit_message
        )

    @classmethod
    def from_pretrained(
        cls: type[Self], name_or_path: str | Path = pretrained.DEFAULT, *, revision: str | None = None
    ) -> Self:
        """Load a trained network, in evaluation mode.

        Args:
            name_or_path: Name shown by ``dct-seg list``, ``.safetensors`` file or folder written by
                ``save_pretrained``, training checkpoint (``.ckpt``), or ``org/name`` on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub; None for ``main``.

        Raises:
            FileNotFoundError: When the file or repository does not exist.
            ValueError: When the name is unknown, or the file is broken or of another architecture.
        """
        stored = pretrained.load(name_or_path, revision=revision)
        kind = NETWORKS.get(str(stored.config.get("network", "dct_net")))
        if not issubclass(kind, cls):
            raise ValueError(
                f"'{stored.source}' contains {kind.__name__}, not {cls.__name__}; load it with "
                "InteractiveNetwork.from_pretrained, which accepts any network"
            )
        config = {**stored.config, "backbone_weights": "none"}
        pretrained.check_architecture(lambda: build_network(config), stored)
        net = build_network(config)
        assert isinstance(net, cls)
        pretrained.load_strictly(net, stored)
        net.config = DCTNetConfig.from_dict(stored.config)
        net.card = dict(stored.card)
        return net.eval()

    def at_image_size(self, logits: Tensor, encoded: Encoded) -> Tensor:
        """Resize logits (B, C, h, w) of the padded image to (B, C, H, W) float32 at the image's size."""
        size = encoded.size
        return F.interpolate(logits.float(), encoded.padded_size, mode="bilinear", align_corners=False)[
            ..., : size[0], : size[1]
        ]

    def _drawn(self, image: Tensor, clicks: ClickBatch, prepared: Any) -> Tensor:
        """Draw the click maps, (B, num_maps, H, W); arguments as for ``encode``."""
        size = (image.shape[2], image.shape[3])
        if not self.click_encoder.needs_image:
            return self.click_encoder(clicks, size)  # type: ignore[no-any-return]
        return self.click_encoder(clicks, size, self.prepare(image) if prepared is None else prepared)  # type: ignore[no-any-return]


def build_network(config: DCTNetConfig | dict[str, Any]) -> InteractiveNetwork:
    """Build the registered network of a configuration, with pretrained weights in the backbone only.

    Args:
        config: Network configuration, or its plain values as stored in a file.

    Raises:
        ValueError: When the network, one of its options or a key is unknown.
    """
    if isinstance(config, dict):
        config = DCTNetConfig.from_dict(config)
    kind = NETWORKS.get(config.network)
    options: dict[str, Any] = dict(config.network_options)
    known = [name for name in inspect.signature(kind).parameters if name not in ("config", "encodes_clicks")]
    check_options("network", config.network, options, known)
    return kind(config, **options)


def make_click_encoder(config: DCTNetConfig) -> ClickEncoder:
    """Build the registered click encoder of a configuration.

    Raises:
        ValueError: When its name or an option is unknown.
    """
    encoder = CLICK_ENCODERS.get(config.click_encoder)
    options: dict[str, Any] = dict(config.click_encoder_options)
    try:
        return encoder(**options)
    except TypeError as error:
        raise ValueError(
            f"click encoder '{config.click_encoder}' does not take {options}: {error}"
        ) from error


def _check_inputs(image: Tensor, clicks: ClickBatch, previous: Tensor | None) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise ValueError(f"an image batch must be (B, 3, H, W), got {tuple(image.shape)}")
    if len(clicks) != len(image):
        raise ValueError(
            f"clicks must have one list per image, got {len(clicks)} for {len(image)} images; for images "
            "without clicks, pass ClickBatch.empty"
        )
    if previous is not None and previous.shape != (len(image), 1, *image.shape[2:]):
        raise ValueError(
            f"the previous mask of images {tuple(image.shape)} must be (B, 1, H, W), "
            f"got {tuple(previous.shape)}"
        )
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
    if not torch.compiler.is_compiling() and not is_traced:  # a graph cannot check values
        _check_values(image, clicks)


def _check_values(image: Tensor, clicks: ClickBatch) -> None:
    if not image.is_floating_point():
        raise TypeError(f"an image batch must be float in 0..1, got {image.dtype}; use image.float() / 255")
    check_unit_range("an image batch", image)
    height, width = image.shape[2:]
    row, col = clicks.coords.unbind(-1)
    low, bottom, right = -0.5 - CLICK_SLACK, height - 0.5 + CLICK_SLACK, width - 0.5 + CLICK_SLACK
    inside = (row >= low) & (row <= bottom) & (col >= low) & (col <= right)
    outside = clicks.valid & ~inside
    if outside.any():
        b, n = outside.nonzero()[0].tolist()
        raise ValueError(
            f"click {n} of image {b} is at ({float(row[b, n]):g}, {float(col[b, n]):g}), outside its "
            f"{height} rows and {width} columns; clicks are (row, column) in pixels"
        )


def _first_level(strides: list[int], decoder_stride: int) -> int:
    """Finest level that the decoder uses; backbones of a single stride, such as ViTs, use all levels."""
    level = next((i for i, s in enumerate(strides) if s >= decoder_stride), 0)
    return min(level, max(len(strides) - 2, 0))
