"""Files that are added, renamed or deleted while the folder is annotated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, Page, make_folder
from PIL import Image

from dct_seg.app import folder_watcher


@pytest.fixture
def page(tmp_path: Path) -> Page:
    page = Page(make_folder(tmp_path / "images"))
    page.click(20, 20)
    page.finish(class_id=2)
    return page


def lines(page: Page) -> dict[str, dict[str, Any]]:
    found = page.ok(page.client.get(f"{API}/project"))["pictures"]
    return {one["name"]: one for one in found}


def test_renamed_image_keeps_its_objects(page: Page) -> None:
    root = page.project.folder.root
    before = page.get()["objects"]
    (root / "a.png").rename(root / "sub" / "renamed.png")
    found = lines(page)
    assert {name: one["num_objects"] for name, one in found.items()} == {"sub/b.png": 0, "sub/renamed.png": 1}
    page = page.restarted()
    assert page.get("sub/renamed.png")["objects"] == before


def test_image_renamed_while_the_server_was_off_keeps_its_objects(page: Page) -> None:
    root = page.project.folder.root
    page.project.close()
    (root / "a.png").rename(root / "c.png")
    assert lines(Page(root))["c.png"]["num_objects"] == 1


def test_deleted_image_is_reported_and_its_objects_are_exported(page: Page) -> None:
    (page.project.folder.root / "a.png").unlink()
    gone = lines(page)["a.png"]
    assert (gone["num_objects"], "a.png was deleted; its objects are kept" in gone["error"]) == (1, True)
    coco = page.client.get(f"{API}/export?format=coco").json()
    assert [one["file_name"] for one in coco["images"]] == ["a.png"]
    assert [one["category_id"] for one in coco["annotations"]] == [2]
    refused = page.client.put(
        f"{API}/classes", json={"classes": [{"id": 1, "name": "cat", "color": "#4c6ef5"}]}
    )
    assert "has objects in a.png" in refused.json()["error"]


def test_heartbeat_reports_new_files_and_changes_by_others(page: Page) -> None:
    root = page.project.folder.root
    before = page.ok(page.client.get(f"{API}/project"))
    (root / "d.png").write_bytes((root / "sub" / "b.png").read_bytes())
    page.project.watcher.scan()
    page.click(20, 20, name="sub/b.png")
    beat = {"tab": "one", "since": before["serial"]}
    found = page.ok(page.client.post(f"{API}/tabs", json=beat))
    assert found["files"] == before["files"] + 1
    assert [(one["name"], one["has_draft"]) for one in found["changed"]] == [("sub/b.png", True)]
    again = page.ok(page.client.post(f"{API}/tabs", json={**beat, "since": found["serial"]}))
    assert again["changed"] == []


def test_incomplete_file_list_loses_only_its_incomplete_line(page: Page) -> None:
    root = page.project.folder.root
    page.project.close()
    memory = root / ".dct-seg" / "files.jsonl"
    assert json.loads(memory.read_text())["name"] == "a.png"
    memory.write_text('{"id": "x"\n[]\n' + memory.read_text() + '{"id": "y", "na')
    (root / "a.png").rename(root / "c.png")
    assert lines(Page(root))["c.png"]["num_objects"] == 1


def hashed_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    hashed: list[Path] = []
    real = folder_watcher._size_and_hash
    monkeypatch.setattr(folder_watcher, "_size_and_hash", lambda path: (hashed.append(path), real(path))[1])
    return hashed


def test_file_is_hashed_once_while_an_image_is_missing(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    root = page.project.folder.root
    content = (root / "a.png").read_bytes()
    (root / "a.png").unlink()
    (root / "sub" / "b.png").unlink()
    hashed = hashed_files(monkeypatch)
    for name in ("c.png", "d.png"):  # other files of the same size
        (root / name).write_bytes(content[:-1] + b"x")
    for _ in range(3):
        page.project.watcher.scan()
    assert sorted(hashed) == [root / "c.png", root / "d.png"]
    (root / "d.png").write_bytes(content)
    page.project.watcher.scan()
    assert hashed[2:] == [root / "d.png"]
    assert lines(page)["d.png"]["num_objects"] == 1


def test_stack_that_is_renamed_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    root.mkdir()
    pages = [Image.new("L", (60, 40), value) for value in range(9)]
    pages[0].save(root / "a.tif", save_all=True, append_images=pages[1:])
    page = Page(root)
    page.click(20, 30, name="a.tif#2")
    hashed = hashed_files(monkeypatch)
    (root / "a.tif").rename(root / "b.tif")
    page.project.watcher.scan()
    assert hashed == [root / "b.tif"]
    assert lines(page)["b.tif#2"]["has_draft"]
