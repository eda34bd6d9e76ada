"""Settings of the simulated user in training, and its first click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dct_seg.ranges import check_number
from dct_seg.simulation.user import NextClicks, Place, Rule, SimulatedUser, simulate_first


@dataclass(frozen=True)
class UserSettings:
    """Behavior of the simulated user in training. The defaults are the paper's.

    Args:
        rule: Rule for each click after the first; see `dct_seg.next_click`.
        place: Click at the region's ``center``, or anywhere in its ``core``.
        radius_noise: Relative noise F of a given radius, uniform in 1 - F .. 1 + F.
        click_jitter: Maximum shift of a click, in pixels.
        drag_share: Fraction of the images whose clicks have a radius.

    Raises:
        ValueError: When a value is out of range or unknown.
    """

    rule: Rule = "largest_region"
    place: Place = "center"
    radius_noise: float = 0.0
    click_jitter: float = 0.0
    drag_share: float = 1.0

    def __post_init__(self) -> None:
        check_number("drag_share", self.drag_share, least=0, most=1, unit="a share of the images")
        check_number("click_jitter", self.click_jitter, least=0)
        nothing = torch.zeros(0, 1, 1, dtype=torch.bool)
        self.user(nothing, nothing, torch.zeros(0, dtype=torch.bool))  # checks the remaining values

    def user(
        self,
        mask: Tensor,
        ignore: Tensor,
        tells_radius: Tensor,
        generator: torch.Generator | None = None,
        *,
        first: Tensor | None = None,
    ) -> SimulatedUser:
        """Make the user of one batch.

        Args:
            mask: (B, H, W) bool, the object.
            ignore: (B, H, W) bool, True for ignored pixels.
            tells_radius: (B,) bool, True for images whose clicks have a radius.
            generator: Random generator; None uses torch's.
            first: Precomputed first clicks, (B, 3), see `first_click`.
        """
        options = {name: value for name, value in asdict(self).items() if name != "drag_share"}
        user = SimulatedUser(mask, ignore, prompt=tells_radius, generator=generator, **options)
        if first is not None:
            user.first = as_next_clicks(first)
        return user

    def first_click(self, mask: Tensor, ignore: Tensor, uniform: Sequence[float]) -> Tensor:
        """Make the first click of one object: (3,) float32 row, column and true radius in pixels.

        Args:
            mask: (H, W) bool, the object.
            ignore: (H, W) bool, True for ignored pixels.
            uniform: Two random numbers in 0..1; only a user that clicks off center uses them.
        """
        found = simulate_first(
            mask[None], ignore[None], place=self.place, click_jitter=self.click_jitter, uniform=uniform
        )
        return torch.cat([found.coords[0], found.true_radii])

    def clicks_first_like(self, other: UserSettings) -> bool:
        """Whether both make the same first clicks."""
        return (self.place, self.click_jitter) == (other.place, other.click_jitter)


USER_ARGUMENTS = tuple(field.name for field in fields(UserSettings))


def as_next_clicks(first: Tensor) -> NextClicks:
    """Convert first clicks (B, 3) of row, column and radius; a radius of 0 marks an image without object."""
    done = first[:, 2] == 0
    labels = torch.where(done, -1, 1)
    return NextClicks(first[:, :2], labels, first[:, 2], done, first[:, 2])


def given_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Select the settings of the user from ``values``, without those that are None."""
    return {name: values[name] for name in USER_ARGUMENTS if values.get(name) is not None}
