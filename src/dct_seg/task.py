"""Former place of ``dct_seg.training.task``, which configurations and checkpoints may name."""

from dct_seg.training.task import InteractiveSegmentationTask

__all__ = ["InteractiveSegmentationTask"]
