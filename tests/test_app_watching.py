"""Files that are added, renamed or deleted while the folder is annotated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, Page, make_folder


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
