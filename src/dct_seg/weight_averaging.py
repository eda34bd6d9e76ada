"""Former location of ``dct_seg.training.weight_averaging``, kept for old configurations and checkpoints."""

from dct_seg.training.weight_averaging import StartWeightAveraging

__all__ = ["StartWeightAveraging"]
