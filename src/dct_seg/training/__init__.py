"""Training: the task, its losses and callbacks, and the commands ``fit``, ``validate`` and ``test``."""
