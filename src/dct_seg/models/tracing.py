"""Exportable operations: no branch on a value, no loop over a length."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Whether ``torch.export`` is tracing at the moment."""
    ask = getattr(torch.compiler, "is_exporting", None)  # torch 2.6 has it
    return ask is not None and bool(ask())
