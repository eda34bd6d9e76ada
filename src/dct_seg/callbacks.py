"""Former place of ``dct_seg.training.callbacks``, which configurations and checkpoints may name."""

from dct_seg.training.callbacks import InteractionLogger, RunConfigCallback

__all__ = ["InteractionLogger", "RunConfigCallback"]
