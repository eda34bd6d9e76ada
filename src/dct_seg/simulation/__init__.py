"""Simulated user: clicks and drags."""

from dct_seg.simulation.settings import UserSettings
from dct_seg.simulation.user import (
    PROTOCOL_VERSION,
    NextClicks,
    Place,
    Prompt,
    Rule,
    predicted,
)

__all__ = [
    "PROTOCOL_VERSION",
    "NextClicks",
    "Place",
    "Prompt",
    "Rule",
    "UserSettings",
    "predicted",
]
