"""Former place of ``dct_seg.training.weight_averaging``, which configurations and checkpoints may name."""

from dct_seg.training.weight_averaging import StartWeightAveraging

__all__ = ["StartWeightAveraging"]
