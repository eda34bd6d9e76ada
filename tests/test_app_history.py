"""The event log: acknowledged changes survive the process, and replaying the log gives the state."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from annotator import Page, make_folder
from processes import FORKS

from dct_seg.app.history import History, HistoryError


def click_event(row: float, radius: float | None = 3.0) -> dict[str, Any]:
    return {
        "event": "click",
        "class_id": 1,
        "threshold": 0.5,
        "click": {"row": row, "col": 2.5, "positive": True, "radius": radius, "given": True},
    }


def opened(path: Path) -> History:
    return History(path, image_name="a.png", size=(4, 5))


def rows(history: History) -> list[float]:
    return [click.row for click in history.state.draft.clicks] if history.state.draft else []


def test_reread_log_gives_the_same_state_and_the_same_undo_steps(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.jsonl"
    first = opened(log)
    for event in (click_event(0.1 + 0.2), click_event(1.0), {"event": "undo"}):
        first.append(event)
    again = opened(log)
    assert again.state == first.state
    assert rows(again) == [0.1 + 0.2]
    assert (again.revision, again.can_undo, again.can_redo) == (3, True, True)
    again.append({"event": "redo"})
    assert rows(again) == [0.1 + 0.2, 1.0]


def test_change_after_undo_discards_the_undone_steps(tmp_path: Path) -> None:
    history = opened(tmp_path / "a.jsonl")
    for event in (click_event(1.0), {"event": "undo"}, click_event(2.0)):
        history.append(event)
    assert not history.can_redo
    with pytest.raises(HistoryError, match="there is nothing to redo"):
        history.append({"event": "redo"})
    assert rows(opened(tmp_path / "a.jsonl")) == [2.0]


def test_incomplete_line_is_dropped_and_overwritten(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    opened(log).append(click_event(1.0))
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"event":"cli')
    history = opened(log)
    assert rows(history) == [1.0]
    history.append(click_event(2.0))
    assert rows(opened(log)) == [1.0, 2.0]
    assert log.read_bytes().startswith(whole)


def test_log_with_an_incomplete_first_line_counts_as_empty(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    log.write_bytes(b'{"format":"dct-')
    history = opened(log)
    assert history.revision == 0
    history.append(click_event(1.0))
    assert rows(opened(log)) == [1.0]


def test_invalid_event_is_not_written(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    history = opened(log)
    history.append(click_event(1.0))
    before = log.read_bytes()
    with pytest.raises(LookupError, match="no finished object 7 in this image; known objects: none"):
        history.append({"event": "delete", "id": 7})
    with pytest.raises(ValueError, match="finite"):
        history.append(click_event(float("nan")))
    assert log.read_bytes() == before
    assert history.revision == 1


def test_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "a.jsonl"
    history = opened(log)
    history.append(click_event(1.0))
    before = log.read_bytes()
    write = os.write

    def half(handle: int, content: bytes) -> int:
        if len(content) < 20:
            raise OSError(28, "No space left on device")
        return write(handle, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left"):
            history.append(click_event(2.0))
    assert log.read_bytes() == before
    assert (rows(history), history.revision) == ([1.0], 1)
    history.append(click_event(3.0))
    assert rows(opened(log)) == [1.0, 3.0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"format":"cake","version":1}'], "line 1 of .*a.jsonl cannot be read"),
        (["[1]"], "line 1 of .* cannot be read"),
        (['{"format":"dct-seg picture log","version":4}'], "written by a newer dct-seg"),
        (
            ['{"format":"dct-seg picture log","version":1,"height":40,"width":5}'],
            "a.png is 5x4, but it was 5x40 when it was annotated",
        ),
        (
            ['{"format":"dct-seg picture log","version":1,"height":4,"width":5}', "{"],
            "line 2 of .* cannot be read",
        ),
        (
            ['{"format":"dct-seg picture log","version":1,"height":4,"width":5}', '{"event":"dance"}'],
            "unknown event 'dance'",
        ),
        (
            ['{"format":"dct-seg picture log","version":1,"height":4,"width":5}', '{"event":"undo"}'],
            "there is nothing to undo",
        ),
        (
            ['{"format":"dct-seg picture log","version":1,"height":4,"width":5}', "[" * 100_000],
            "line 2 of .* cannot be read",
        ),
    ],
)
def test_broken_log_is_named_and_left_unchanged(tmp_path: Path, lines: list[str], message: str) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text("\n".join(lines) + "\n")
    before = log.read_bytes()
    with pytest.raises(HistoryError, match=message):
        opened(log)
    assert log.read_bytes() == before


def test_nothing_is_written_through_a_log_that_is_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    (tmp_path / "a.jsonl").symlink_to(outside)
    with pytest.raises(HistoryError, match=r"a\.jsonl is a link"):
        opened(tmp_path / "a.jsonl").append(click_event(1.0))
    assert outside.read_bytes() == b""


def _change_and_die(root: Path, answer: Path) -> None:
    page = Page(root)
    page.click(20, 30)
    page.finish(class_id=2)
    page.click(10, 10, radius=None)
    page.click(12, 10)
    answer.write_text(json.dumps(page.do("/undo")))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_killed_process_loses_no_acknowledged_change(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    process = FORKS.Process(target=_change_and_die, args=(root, tmp_path / "answer.json"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    answered = json.loads((tmp_path / "answer.json").read_text())
    page = Page(root)
    assert page.get() == answered
    assert len(page.do("/redo")["draft"]["clicks"]) == 2


def test_draft_keeps_the_class_of_its_steps_over_a_restart(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    given = {"row": 20, "col": 30, "positive": True, "radius": 6}
    stroke = {"kind": "brush", "positive": True, "points": [[10, 10, 3]]}
    assert page.do("/clicks", click=given)["draft"]["class_id"] == 1
    assert page.do("/clicks", click=given, class_id=2)["draft"]["class_id"] == 2
    page = page.restarted()
    assert page.get()["draft"]["class_id"] == 2
    assert page.do("/paint", paint=stroke, class_id=1)["draft"]["class_id"] == 1
    assert page.do("/clicks", click=given, keep_outside=9, class_id=2)["draft"]["class_id"] == 2
    assert page.do("/undo")["draft"]["class_id"] == 1
    assert page.restarted().get()["draft"]["class_id"] == 1
    answer = page.client.post(page.url("/clicks"), json={"revision": 5, "click": given, "class_id": 9})
    assert (answer.status_code, answer.json()["error"][:19]) == (400, "there is no class 9")


def test_class_of_the_draft_is_changed_and_undone(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    assert page.do("/draft", method="PATCH", class_id=2)["revision"] == 0  # no draft, no change
    page.click(20, 30)
    assert page.do("/draft", method="PATCH", class_id=2)["draft"]["class_id"] == 2
    assert page.do("/draft", method="PATCH", class_id=2)["revision"] == 2
    assert page.restarted().get()["draft"]["class_id"] == 2
    assert page.do("/undo")["draft"]["class_id"] == 1
    answer = page.client.patch(page.url("/draft"), json={"revision": 3, "class_id": 9})
    assert (answer.status_code, answer.json()["error"][:19]) == (400, "there is no class 9")


def test_undo_never_brings_back_a_removed_class(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    cat = {"id": 1, "name": "cat", "color": "#000000"}
    page.click(20, 30)
    page.finish(class_id=2)
    page.do("/objects/1", method="DELETE")
    page.ok(page.client.put("/api/v1/classes", json={"classes": [cat]}))
    refused = page.client.post(page.url("/undo"), json={"revision": 3})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("cannot undo: an object would have class 2, which was removed")
    assert page.click(20, 30)["draft"]["class_id"] == 1  # not the last class, which was removed
    page.finish()
    assert page.client.get("/api/v1/export?format=coco").status_code == 200


def test_redo_never_brings_back_a_removed_class(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 30)
    page.finish(class_id=2)
    page.do("/undo")
    page.ok(
        page.client.put("/api/v1/classes", json={"classes": [{"id": 1, "name": "cat", "color": "#000000"}]})
    )
    refused = page.client.post(page.url("/redo"), json={"revision": 3})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("cannot redo: an object would have class 2")
