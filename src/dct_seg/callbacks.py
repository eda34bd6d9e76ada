"""Former location of ``dct_seg.training.callbacks``, kept for old configurations and checkpoints."""

from dct_seg.training.callbacks import InteractionLogger, RunConfigCallback

__all__ = ["InteractionLogger", "RunConfigCallback"]
