"""Former location of ``dct_seg.training.task``, kept for old configurations and checkpoints."""

from dct_seg.training.task import InteractiveSegmentationTask

__all__ = ["InteractiveSegmentationTask"]
