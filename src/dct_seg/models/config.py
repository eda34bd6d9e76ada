"""The configuration of a network: plain values, so that it travels in YAML and in the weights' metadata."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dct_seg.models.decoder import DecoderNorm
from dct_seg.models.feature_dct import Rejection

PromptFusion = Literal["early", "late"]
FeatureInput = Literal["fused", "image"]


@dataclass(frozen=True)
class DCTNetConfig:
    """Configuration of a network.

    Plain values, so that it travels in YAML and in the weights' metadata.

    The defaults are the paper's full model (Table 1, third row).

    Args:
        backbone: Any timm model that supports ``features_only``; ``dct-seg list backbones`` shows them.
        backbone_weights: ``imagenet``, ``none``, or a path to a state dict of the timm model.
        network: Short name of a registered network; ``dct-seg list networks`` shows them. What follows under
            the name of a part (Feature-DCT, decoder) is read by the networks that have this part.
        network_options: Arguments that only this network takes.
        click_encoder: Short name of a registered click encoder.
        click_encoder_options: Arguments of the click encoder, such as ``sigma_scale``.
        feature_dct: Predict the statistics of three decoder layers from the clicked features.
        feature_dct_input: Features that are read at the clicks. ``fused``: those that the decoder gets; with
            early fusion they hold the click maps already. ``image``: of the image alone, the other reading of
            section 2.2; with early fusion the backbone runs a second time for each click.
        rejection: Effect of a negative click in eq. 3: ``true`` vector rejection, or the formula as
            ``printed``.
        normalize_features: Normalize the clicked features of each layer before eq. 3; the paper does not say.
        auto_drag: Predict the radius of a click that came without a drag.
        previous_mask: Feed the mask before the click to the network; the paper does not.
        prompt_fusion: Entry point of clicks and the previous mask. ``early``, the paper's: at the backbone's
            stem, so that the whole network runs at each click. ``late``: after a backbone that has seen the
            image alone, once, so that a click costs a light branch and the decoder.
        decoder_stride: Pixels of the image a pixel of the finest decoder layer.
        decoder_width: Channels of the finest decoder layer.
        join_norm: Instance norm in all of the decoder's layers. Off, only the layers that Feature-DCT sets
            have it, as in the paper's Fig. 3: elsewhere it takes away how strongly a feature answers in this
            image.
        detail: Refine the logits with the backbone level that is one finer than the decoder's finest. Needs
            ``early`` fusion.
        decoder_norm: ``instance`` or ``batch`` norm in the decoder's layers that Feature-DCT does not set.
            Instance norm divides a channel's scale out again, so that f-BRS can only act through ``batch``.
        frozen_batch_norm: Keep the statistics of the backbone's batch norm as pretrained; small batches of
            near-identical forwards skew them, and frozen is faster. With ``backbone_weights: none`` there is
            nothing to keep, and this is off.
    """

    backbone: str = "resnet50"
    backbone_weights: str = "imagenet"
    network: str = "dct_net"
    network_options: dict[str, float | str | bool] = field(default_factory=dict)
    click_encoder: str = "SpatialDCT"
    click_encoder_options: dict[str, float | str | bool] = field(default_factory=dict)
    feature_dct: bool = True
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
