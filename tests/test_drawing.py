"""Drawings: the right colors at the right positions, and complete files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dct_seg.clicks import Click
from dct_seg.drawing import (
    MASK_COLOR,
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    Turn,
    draw_strip,
    draw_strips,
    draw_turn,
    save_png,
)


def test_a_click_is_drawn_where_it_is_and_its_drag_as_a_circle_of_its_radius() -> None:
    image = np.full((100, 150, 3), 128, np.uint8)
    turn = Turn([Click(50, 40, True, 20.0), Click(20, 120, False)], np.zeros((100, 150), bool), 0.5)
    panel = draw_turn(image, turn, height=200)  # twice the size
    assert panel.shape == (200, 300, 3)
    assert tuple(panel[101, 81]) == POSITIVE_COLOR
    assert tuple(panel[101, 81 + 40]) == POSITIVE_COLOR  # on the circle, 20 pixels of the image to the right
    assert tuple(panel[101, 81 + 30]) == (128, 128, 128)  # inside it
    assert tuple(panel[41, 241]) == NEGATIVE_COLOR


def test_the_mask_is_tinted_dark_red_with_a_white_outline() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    panel = draw_turn(np.full((100, 100, 3), 200, np.uint8), Turn([], mask, 1.0), height=100)
    assert panel[50, 50, 0] > panel[50, 50, 1] + 50
    assert np.abs(panel[50, 50] - (0.45 * 200 + 0.55 * np.array(MASK_COLOR))).max() < 2
    assert panel[20, 50].min() > 210  # smoothed
    assert tuple(panel[5, 5]) == (200, 200, 200)


def test_a_strip_has_room_for_clicks_that_were_not_needed() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    turn = Turn([Click(5, 5)], np.zeros((40, 60), bool), float("nan"))
    one, five = (
        draw_strip(image, [turn], num_turns=5, height=80),
        draw_strip(image, [turn] * 5, num_turns=5, height=80),
    )
    assert one.shape == five.shape
    assert (one[:, -60:] == 255).all()


def test_strips_of_different_width_are_stacked() -> None:
    turn = Turn([], np.zeros((40, 60), bool), 0.1)
    drawn = draw_strips(
        [
            (np.zeros((40, 60, 3), np.uint8), [turn]),
            (np.zeros((40, 20, 3), np.uint8), [Turn([], np.zeros((40, 20), bool), 0.1)]),
        ]
    )
    assert drawn.shape[0] > 2 * 160
    assert (drawn[-50:, -20:] == 255).all()


def test_an_image_is_written_completely_and_leaves_no_other_file(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    path = save_png(drawn, tmp_path / "new" / "a.png")
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    assert (np.asarray(Image.open(path)) == drawn).all()
