"""Atomic writes: the old file or the new one, never a part, and no temporary file left."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dct_seg.files import whole_file, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_only_the_written_file_is_left(tmp_path: Path, durable: bool) -> None:
    path = write_whole(tmp_path / "new" / "a.txt", "Käse\r\n", durable=durable)
    assert path.read_bytes() == "Käse\r\n".encode()
    write_whole(str(path), b"\x00\x01", durable=durable)
    assert path.read_bytes() == b"\x00\x01"
    assert names(path.parent) == ["a.txt"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a.txt", "old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_temporary(tmp_path: Path, failure: BaseException) -> None:
    path = write_whole(tmp_path / "a.txt", "old")

    def half() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("ne")
            raise failure

    with pytest.raises(type(failure)):
        half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert path.read_text() == "old"


def test_the_longest_name_a_file_system_allows_can_be_written(tmp_path: Path) -> None:
    name = "ß" * (os.pathconf(tmp_path, "PC_NAME_MAX") // 2)  # two bytes each
    assert write_whole(tmp_path / name, "x").read_text() == "x"


def test_image_patterns_do_not_match_temporary_files(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"half")
        assert list(tmp_path.glob("*.png")) == []


def test_durable_files_are_on_the_disk_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("rename"), replace(old, new)))
    write_whole(tmp_path / "a", "x")
    write_whole(tmp_path / "b", "x", durable=True)
    assert done == ["rename", "sync", "rename", "sync"]


def test_threads_that_write_one_file_leave_one_of_their_versions(tmp_path: Path) -> None:
    versions = [str(number) * 10000 for number in range(8)]
    threads = [threading.Thread(target=write_whole, args=(tmp_path / "a", text)) for text in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in versions
    assert names(tmp_path) == ["a"]
