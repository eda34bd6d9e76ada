"""Drawings of an interaction, as in the paper's Fig. 4.

They show the image, the mask in dark red, clicks in green and red, and drags as circles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_seg.clicks import Click
from dct_seg.files import whole_file

MASK_COLOR = (139, 0, 0)
POSITIVE_COLOR, NEGATIVE_COLOR = (0, 220, 60), (255, 40, 40)
PANEL_HEIGHT, GAP, CAPTION_HEIGHT = 200, 6, 24
MAX_ENLARGEMENT = 4.0


@dataclass(frozen=True)
class Turn:
    """State of one interaction after one click.

    Args:
        clicks: All clicks so far.
        mask: (H, W) bool, the prediction.
        iou: IoU with the ground truth, or NaN without one.
    """

    clicks: Sequence[Click]
    mask: NDArray[np.bool_]
    iou: float


def draw_turn(image: NDArray[np.uint8], turn: Turn, *, height: int = PANEL_HEIGHT) -> NDArray[np.uint8]:
    """Draw one panel: the image, the mask with its outline, the clicks and their drags.

    Args:
        image: (H, W, 3) uint8 RGB.
        turn: Clicks and mask to draw.
        height: Height of the panel in pixels; the width follows the image.
    """
    factor = min(height / image.shape[0], MAX_ENLARGEMENT)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    panel = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    mask = cv2.resize(turn.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    tinted = panel * 0.45 + np.array(MASK_COLOR) * 0.55
    panel = np.where(mask[..., None] > 0, tinted, panel).astype(np.uint8)
    outline, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, outline, -1, (255, 255, 255), 1, cv2.LINE_AA)
    for click in turn.clicks:
        color = POSITIVE_COLOR if click.positive else NEGATIVE_COLOR
        center = (
            round((click.col + 0.5) * factor),
            round((click.row + 0.5) * factor),
        )  # OpenCV uses (x, y)
        if click.radius:
            cv2.circle(panel, center, max(1, round(click.radius * factor)), color, 2, cv2.LINE_AA)
        cv2.circle(panel, center, 5, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(panel, center, 4, color, -1, cv2.LINE_AA)
    return np.asarray(panel, np.uint8)


def draw_strip(
    image: NDArray[np.uint8], turns: Sequence[Turn], *, num_turns: int = 5, height: int = PANEL_HEIGHT
) -> NDArray[np.uint8]:
    """Draw one row: the panels of the first clicks, with the IoU below each.

    After a run with fewer clicks, the rest of the row is white.

    Args:
        image: (H, W, 3) uint8 RGB.
        turns: Clicks and masks, in order.
        num_turns: Number of panels in the row.
        height: Height of a panel in pixels.
    """
    panels = [draw_turn(image, turn, height=height) for turn in turns[:num_turns]]
    blank = np.full_like(
        draw_turn(image, Turn((), np.zeros(image.shape[:2], bool), np.nan), height=height), 255
    )
    panels += [blank] * (num_turns - len(panels))
    captions = [
        f"click {i + 1}: IoU {t.iou:.3f}" if not np.isnan(t.iou) else f"click {i + 1}"
        for i, t in enumerate(turns[:num_turns])
    ]
    captions += [""] * (num_turns - len(captions))
    return _side_by_side([_captioned(panel, text) for panel, text in zip(panels, captions, strict=True)])


def draw_strips(
    rows: Sequence[tuple[NDArray[np.uint8], Sequence[Turn]]],
    *,
    num_turns: int = 5,
    height: int = PANEL_HEIGHT,
) -> NDArray[np.uint8]:
    """Stack rows of `draw_strip`, with white after shorter ones."""
    strips = [draw_strip(image, turns, num_turns=num_turns, height=height) for image, turns in rows]
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, GAP), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(padded, axis=0)


def save_png(image: NDArray[np.uint8], path: str | Path) -> Path:
    """Write an image atomically.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 gray.
        path: Path of the file; its folder is created.
    """
    with whole_file(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
    return Path(path)


def _captioned(panel: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    with_room = np.pad(panel, ((0, CAPTION_HEIGHT), (0, 0), (0, 0)), constant_values=255)
    scale = min(0.5, 0.5 * panel.shape[1] / 150)  # narrow panels get smaller letters
    cv2.putText(
        with_room,
        text,
        (2, panel.shape[0] + 17),
        cv2.FONT_HERSHEY_SIMPLEX,
        scale,
        (40, 40, 40),
        1,
        cv2.LINE_AA,
    )
    return with_room


def _side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    spaced = [np.pad(p, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for p in panels[:-1]]
    return np.concatenate([*spaced, panels[-1]], axis=1)
