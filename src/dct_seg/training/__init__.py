"""Training: task, losses, callbacks, and the commands ``fit``, ``validate`` and ``test``."""
