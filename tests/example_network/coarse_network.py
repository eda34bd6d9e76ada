"""Network and loss in a separate package: logits from the coarsest level of any backbone."""

from __future__ import annotations

from torch import Tensor, nn

from dct_seg.models.config import DCTNetConfig
from dct_seg.models.decoder import Adjust, keep
from dct_seg.models.network import Encoded, InteractiveNetwork, Output


class Coarse(InteractiveNetwork):
    """One 1 x 1 convolution over the backbone's coarsest level.

    Args:
        config: Backbone and click encoder.
        bias: Whether the convolution has a bias; an option of this network only.

    Examples:
        >>> import torch
        >>> from dct_seg import Click, ClickBatch
        >>> config = DCTNetConfig(backbone="resnet18", backbone_weights="none", click_encoder="Disk")
        >>> net = Coarse(config).eval()
        >>> net(torch.rand(1, 3, 50, 70), ClickBatch.from_clicks([[Click(20, 30)]])).shape
        torch.Size([1, 1, 50, 70])
    """

    points = ("maps", "top")  # tensors that a refiner may change

    def __init__(self, config: DCTNetConfig, *, bias: bool = True) -> None:
        super().__init__(config)
        self.predict = nn.Conv2d(self.channels[-1], 1, 1, bias=bias)
        self.train()  # freezes the backbone's batch norm if configured

    def decode(self, encoded: Encoded, adjust: Adjust = keep) -> Output:
        """The logits, at the image's size."""
        top = adjust("top", encoded.features[-1])
        return Output(self.at_image_size(self.predict(top), encoded))


def area(logits: Tensor, mask: Tensor, valid: Tensor, *, power: float = 1.0) -> Tensor:
    """Difference of the predicted and the true share of the image, (B,), to a power that YAML can set."""
    predicted, true = ((one.float() * valid).mean((1, 2)) for one in (logits.sigmoid(), mask))
    return (predicted - true).abs() ** power
