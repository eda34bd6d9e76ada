"""Configuration of a network, as plain values for YAML and the metadata of weights."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from dct_seg.models.decoder import DecoderNorm, PredictedNorm
from dct_seg.models.feature_dct import Rejection

PromptFusion = Literal["early", "late"]
FeatureInput = Literal["fused", "image"]

_TYPES: dict[str, type] = {"str": str, "bool": bool, "int": int, "dict": dict}
_TYPE_NAMES = {"str": "text", "bool": "true or false", "int": "a whole number", "dict": "a mapping"}


@dataclass(frozen=True)
class DCTNetConfig:
    """Configuration of a network.

    The values are plain, for YAML and the metadata of weights. The defaults are the paper's
    full model (Table 1, third row).

    Args:
        backbone: Any timm model that supports ``features_only``; ``dct-seg list backbones`` shows them.
        backbone_weights: ``imagenet``, ``none``, or a path to a state dict of the timm model.
        network: Short name of a registered network; ``dct-seg list networks`` shows them. Options of a part
            (Feature-DCT, decoder) apply to networks that have this part.
        network_options: Additional arguments of this network.
        click_encoder: Short name of a registered click encoder.
        click_encoder_options: Arguments of the click encoder, such as ``sigma_scale``.
        feature_dct: Predict the statistics of three decoder layers from the features at the clicks.
        feature_dct_norm: Norm before Feature-DCT's scale and shift. ``instance`` (the paper) removes each
            channel's mean and magnitude in this image; ``none`` keeps them.
        feature_dct_input: Features that are sampled at the clicks. ``fused``: the decoder's input; with early
            fusion, it includes the click maps. ``image``: features of the image only, the other reading of
            section 2.2; with early fusion, the backbone then runs twice per click.
        rejection: Effect of a negative click in eq. 3: ``true`` vector rejection, or the formula as
            ``printed``.
        normalize_features: Normalize the features of each layer before eq. 3; not in the paper.
        auto_drag: Predict the radius of a click without a drag.
        previous_mask: Feed the previous mask to the network; not in the paper.
        prompt_fusion: Place where clicks and previous mask enter. ``early`` (the paper): the backbone's stem,
            so that the whole network runs at each click. ``late``: after the backbone, which encodes the
            image once, so that only a light branch and the decoder run per click.
        decoder_stride: Stride of the finest decoder layer in image pixels.
        decoder_width: Channels of the finest decoder layer.
        join_norm: Use instance norm in all of the decoder's layers. If off, only the layers that Feature-DCT
            sets have it, as in the paper's Fig. 3; elsewhere, it removes the magnitude of a feature in this
            image.
        detail: Refine the logits with the next finer backbone level. Needs ``early`` fusion.
        decoder_norm: Norm of the decoder's layers that Feature-DCT does not set: ``instance``, ``batch`` or
            ``none``. f-BRS needs ``batch``, because instance norm cancels its scales.
        frozen_batch_norm: Keep the pretrained statistics of the backbone's batch norm; small batches of
            near-identical forward passes skew them, and frozen statistics are faster. Off with
            ``backbone_weights: none``.

    Raises:
        ValueError: When a value has another type.

    Examples:
        >>> config = DCTNetConfig(backbone="resnet18", auto_drag=False)
        >>> config.click_encoder, config.decoder_stride
        ('SpatialDCT', 4)
    """

    backbone: str = "resnet50"
    backbone_weights: str = "imagenet"
    network: str = "dct_net"
    network_options: dict[str, float | str | bool] = field(default_factory=dict)
    click_encoder: str = "SpatialDCT"
    click_encoder_options: dict[str, float | str | bool] = field(default_factory=dict)
    feature_dct: bool = True
    feature_dct_norm: PredictedNorm = "instance"
    feature_dct_input: FeatureInput = "fused"
    rejection: Rejection = "true"
    normalize_features: bool = False
    auto_drag: bool = True
    previous_mask: bool = False
    prompt_fusion: PromptFusion = "early"
    decoder_stride: Literal[2, 4, 8] = 4
    decoder_width: int = 64
    join_norm: bool = True
    detail: bool = False
    decoder_norm: DecoderNorm = "instance"
    frozen_batch_norm: bool = True

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.generic):  # plain for YAML, JSON and checkpoints
                value = value.item()
                object.__setattr__(self, one.name, value)
            wanted = str(one.type).partition("[")[0]
            if wanted in _TYPES and type(value) is not _TYPES[wanted]:
                raise ValueError(f"the network's {one.name} must be {_TYPE_NAMES[wanted]}, got {value!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DCTNetConfig:
        """Make a configuration from a mapping, such as one read from a file.

        Raises:
            ValueError: When a key is unknown.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(
                f"the model's configuration has unknown keys {unknown}; was it saved by a newer dct-seg?"
            )
        return cls(**values)
