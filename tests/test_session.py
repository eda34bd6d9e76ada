"""Sessions of a predictor: saved, loaded, and read as a click log."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_predictor import IMAGE, assert_same, network

from dct_seg import Click, Predictor, rle
from dct_seg.app.replay import read_click_log


def predictor(**options: float) -> Predictor:
    made = Predictor(network(), **options)
    made.set_image(IMAGE)
    return made


def test_session_gives_the_same_mask_again(tmp_path: Path) -> None:
    ours = predictor(threshold=0.4)
    found = ours.predict([Click(20, 30), Click(5, 9, positive=False, radius=3.0)])
    ours.save_session(tmp_path / "one.json")
    again = predictor()
    loaded = again.load_session(tmp_path / "one.json")
    assert_same(loaded, found)
    assert again.threshold == 0.4
    assert_same(again.undo(), ours.undo())


def test_a_loaded_session_is_saved_unchanged(tmp_path: Path) -> None:
    ours = predictor()
    found = ours.predict([Click(20, 30), Click(5, 9, positive=False, radius=3.0)])
    ours.save_session(tmp_path / "one.json")
    again = predictor()
    again.load_session(tmp_path / "one.json")
    again.save_session(tmp_path / "two.json")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two == one
    assert_same(predictor().load_session(tmp_path / "two.json"), found)


def test_start_mask_is_saved_with_the_session(tmp_path: Path) -> None:
    start = np.zeros((40, 56), bool)
    start[10:20, 10:20] = True
    ours = predictor()
    ours.set_image(IMAGE, start=start)
    found = ours.click(15, 15, radius=6.0)
    ours.save_session(tmp_path / "one.json")
    again = predictor()
    assert_same(again.load_session(tmp_path / "one.json"), found)
    assert np.array_equal(again.undo().mask, start)


def test_session_is_a_line_of_a_click_log(tmp_path: Path) -> None:
    ours = predictor()
    used = ours.predict([Click(20, 30), Click(5, 9, positive=False, radius=3.0)]).clicks
    ours.save_session(tmp_path / "one.json", image_name="cells/a.png")
    (one,) = read_click_log(tmp_path / "one.json")
    assert (one.image, one.clicks, one.threshold) == ("cells/a.png", used, 0.5)
    line = json.loads((tmp_path / "one.json").read_text())
    assert [click["given"] for click in line["clicks"]] == [False, True]


def test_session_of_another_image_is_refused(tmp_path: Path) -> None:
    ours = predictor()
    ours.click(20, 30)
    ours.save_session(tmp_path / "one.json", image_name="a.png")
    ours.set_image(255 - IMAGE)
    with pytest.raises(ValueError, match=r"is a session on another image \('a.png'\)"):
        ours.load_session(tmp_path / "one.json")


def test_empty_or_missing_session_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no click and no start mask to save"):
        predictor().save_session(tmp_path / "one.json")
    with pytest.raises(RuntimeError, match="no image is set"):
        Predictor(network()).save_session(tmp_path / "one.json")
    with pytest.raises(FileNotFoundError, match="there is no session"):
        predictor().load_session(tmp_path / "one.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 7.0}, "threshold must be a probability, above 0 and below 1, got 7.0"),
        ({"threshold": float("nan")}, "threshold must be a probability, above 0 and below 1, got nan"),
        ({"start": rle.encode(np.ones((5, 5), bool))}, r"its start mask is \(5, 5\), its image \(40, 56\)"),
        ({"clicks": [{"row": 900, "col": 3, "positive": True, "radius": None}]}, "outside"),
    ],
)
def test_damaged_session_changes_nothing(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    ours = predictor()
    ours.click(20, 30)
    ours.save_session(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    start = np.zeros((40, 56), bool)
    start[3:9, 3:9] = True
    ours.set_image(IMAGE, start=start)
    found = ours.click(20, 30)
    with pytest.raises(ValueError, match=message):
        ours.load_session(path)
    assert ours.threshold == 0.5
    assert_same(ours.predict([Click(20, 30)]), found)
    assert np.array_equal(ours.undo().mask, start)


def test_session_after_a_given_mask_is_refused(tmp_path: Path) -> None:
    ours = predictor()
    logits = ours.click(20, 30).logits
    ours.predict([Click(20, 30)], mask_input=logits)
    with pytest.raises(ValueError, match=r"used mask_input, .* set_image\(image, start=mask\)"):
        ours.save_session(tmp_path / "one.json")
    ours.predict([Click(20, 30)])
    ours.save_session(tmp_path / "one.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"clicks": [{"row": 1}]}', '{"clicks": 3}'])
def test_broken_session_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "one.json").write_text(content)
    with pytest.raises(ValueError, match="is not a session of a predictor"):
        predictor().load_session(tmp_path / "one.json")
