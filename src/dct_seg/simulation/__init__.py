"""Simulated user: its clicks and drags."""

from dct_seg.simulation.settings import UserSettings
from dct_seg.simulation.user import (
    PROTOCOL_VERSION,
    NextClicks,
    Place,
    Prompt,
    Rule,
    SimulatedUser,
    first_click,
    next_click,
    predicted,
)

__all__ = [
    "PROTOCOL_VERSION",
    "NextClicks",
    "Place",
    "Prompt",
    "Rule",
    "SimulatedUser",
    "UserSettings",
    "first_click",
    "next_click",
    "predicted",
]
