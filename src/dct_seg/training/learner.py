"""Networks applied to one batch of images, encoded once; for validation and for training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dct_seg.clicks import ClickBatch
from dct_seg.interaction import Interaction
from dct_seg.models.network import InteractiveNetwork, Output


class EncodedBatch:
    """Network applied to one batch of images, which are encoded once, at first use.

    With early fusion, only the Auto-Drag-Head uses the encoding; with late fusion, everything after the
    backbone does.

    Attributes:
        output: Output of the network for the last click, for its loss.
    """

    output: Output

    def __init__(self, net: InteractiveNetwork, image: Tensor) -> None:
        self.net, self.image = net, image

    @cached_property
    def features(self) -> list[Tensor]:
        with torch.set_grad_enabled(self.learns):
            return self.net.encode_image(self.image)

    @cached_property
    def prepared(self) -> Any:
        """Per-image input of the click encoder, computed once."""
        return self.net.prepare(self.image)

    @property
    def learns(self) -> bool:
        """Whether a gradient flows into the encoding."""
        return False

    def __call__(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        features = self.features if self.net.is_late else None
        extras: dict[str, Tensor] = {}
        logits: Tensor = self.net(image, clicks, previous, features, self.prepared, extras)
        self.output = Output(logits, extras)
        return logits

    def fill_radii(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> ClickBatch:
        if self.net.auto_drag is None or not clicks.lacks_radius.any():
            return clicks
        return self.net.fill_radii(image, clicks, previous, self.features)


class Learner(EncodedBatch):
    """Training version of `EncodedBatch`: the Auto-Drag-Head predicts every radius and learns from it.

    With early fusion, the head reads features encoded with the weights at the start of the batch: no gradient
    flows into them, and encoding again after each click would cost a quarter of the step. With late fusion,
    the images are encoded again whenever the weights have changed.
    """

    def __init__(
        self, net: InteractiveNetwork, image: Tensor, profile: Callable[[str], AbstractContextManager[Any]]
    ) -> None:
        super().__init__(net, image)
        self.profile = profile
        self.log_radii: Tensor | None = None

    @property
    def learns(self) -> bool:
        return self.net.is_late

    def __call__(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        with self.profile("forward"):
            return super().__call__(image, clicks, previous)

    def weights_changed(self) -> None:
        if self.net.is_late:
            self.__dict__.pop("features", None)

    def fill_radii(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> ClickBatch:
        if self.net.auto_drag is None:
            return clicks
        last = ClickBatch(clicks.coords[:, -1:], clicks.labels[:, -1:], clicks.radii[:, -1:])
        with self.profile("radii"):
            self.log_radii = self.net.log_radii(
                self.features, last, previous, (image.shape[2], image.shape[3])
            )
        guessed = torch.where(last.lacks_radius, self.log_radii.detach().exp(), last.radii)
        return clicks.with_radii(torch.cat([clicks.radii[:, :-1], guessed.to(clicks.radii)], 1))

    def drag_loss(self, step: Interaction) -> Tensor:
        """Smooth L1 loss of the logarithm of the radius, over unfinished images."""
        if self.log_radii is None:
            return step.logits.new_zeros(())
        target = step.asked.true_radii.clamp(min=1).log().to(self.log_radii)
        each = F.smooth_l1_loss(self.log_radii[:, 0], target, reduction="none", beta=0.5)
        weight = (~step.asked.done).to(each)
        return (each * weight).sum() / weight.sum().clamp(min=1)
