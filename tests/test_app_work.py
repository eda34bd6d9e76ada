"""A read-only image folder: everything is written to ``--work DIR``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, Page, make_folder

from dct_seg.app.project import Project, ProjectError
from dct_seg.cli import main


def files_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_everything_is_written_to_the_given_folder(tmp_path: Path) -> None:
    images, work = make_folder(tmp_path / "images"), tmp_path / "far" / "work"
    before = files_below(images)
    page = Page(images, work=work)
    page.click(20, 20)
    page.finish()
    assert page.client.get(f"{API}/export?format=voc").status_code == 200
    assert page.client.get(f"{API}/export?format=coco").status_code == 200
    assert files_below(images) == before
    assert files_below(work) == {
        *("classes.json", "files.jsonl", "images.json", "lock"),
        f"pictures/{page.ids['a.png']}.jsonl",
    }
    page.project.close()
    again = Page(images, work=work)
    assert len(again.get()["objects"]) == 1
    assert [one.name for one in again.project.classes] == ["cat", "dog"]


def test_export_left_by_a_kill_is_removed_at_the_next_start(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "images")
    (tmp_path / "work" / "exports").mkdir(parents=True)
    (tmp_path / "work" / "exports" / "half.zip").write_bytes(b"half")
    Page(images, work=tmp_path / "work")
    assert not list((tmp_path / "work" / "exports").iterdir())


@pytest.mark.parametrize("place", ["images", "images/sub", "images/new", "."])
def test_work_folder_and_image_folder_are_not_nested(tmp_path: Path, place: str) -> None:
    images = make_folder(tmp_path / "images")
    with pytest.raises(ProjectError, match="must not contain each other; give another folder"):
        Project(images, work=tmp_path / place)
    assert files_below(tmp_path) == {"images/a.png", "images/sub/b.png"}


def test_default_work_folder_may_be_given(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "images")
    assert Project(images, work=images / ".dct-seg").work == images / ".dct-seg"


def test_work_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "images")
    (tmp_path / "work").write_text("")
    with pytest.raises(ProjectError, match=r"--work must be a folder, got the file .*work"):
        Project(images, work=tmp_path / "work")


def test_work_folder_of_other_images_is_refused_unless_those_are_gone(tmp_path: Path) -> None:
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second")
    Project(first, work=tmp_path / "work").close()
    with pytest.raises(ProjectError, match=r"work belongs to .*first; set --work to another folder"):
        Project(second, work=tmp_path / "work")
    shutil.rmtree(second)
    first.rename(second)  # a moved image folder keeps its work folder
    Project(second, work=tmp_path / "work").close()
    make_folder(first)
    with pytest.raises(ProjectError, match=r"belongs to .*second"):
        Project(first, work=tmp_path / "work")


def test_second_server_on_one_work_folder_is_refused(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "images")
    first = Project(images, work=tmp_path / "work")
    with pytest.raises(ProjectError, match=r"another annotator is running on .*work; use that one"):
        Project(images, work=tmp_path / "work")
    first.close()


@pytest.fixture
def without_privileges() -> Iterator[Path]:
    """A folder that anyone may enter, and a process that may write only its own files."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    make_folder(root / "images")
    for path in (root / "images", *(root / "images").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (root / "free").mkdir(mode=0o777)
    (root / "free").chmod(0o777)
    was_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield root
    finally:
        if was_root:
            os.seteuid(0)
        for path in (root / "images", *(root / "images").rglob("*")):
            path.chmod(0o777)
        shutil.rmtree(root)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_read_only_images_are_annotated_with_work_elsewhere(without_privileges: Path) -> None:
    images = without_privileges / "images"
    with pytest.raises(ProjectError, match=r"\.dct-seg cannot be written \(Permission denied\); set --work"):
        Project(images)
    with pytest.raises(ProjectError, match=r"locked/work cannot be written .Permission denied.; set"):
        Project(images, work=without_privileges / "locked" / "work")
    page = Page(images, work=without_privileges / "free" / "work")
    page.click(20, 20)
    assert len(page.finish()["objects"]) == 1
    page.project.close()


def test_command_reports_the_problem_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_folder(tmp_path / "images")
    assert main(["annotate", str(images), "--work", str(images / "work"), "--port", "0"]) != 0
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "must not contain each other" in said
