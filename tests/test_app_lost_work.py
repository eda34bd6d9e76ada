"""A log, an image or a folder that another program changes while the server runs; no work is lost."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotator import Page, make_folder
from PIL import Image

from dct_seg.rle import encode

CLICK = {"row": 20, "col": 30, "positive": True, "radius": 6}


def log_of(page: Page, name: str = "a.png") -> Path:
    return page.project.folder.root / ".dct-seg" / "pictures" / f"{page.ids[name]}.jsonl"


def deleted(log: Path) -> None:
    log.unlink()


def older_copy_by_renaming(log: Path) -> None:
    copy = log.with_suffix(".copy")
    copy.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    os.replace(copy, log)


def older_copy_in_place(log: Path) -> None:
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))


def copy_of_the_same_bytes(log: Path) -> None:
    copy = log.with_suffix(".copy")
    shutil.copy(log, copy)
    os.replace(copy, log)


def longer(log: Path) -> None:
    with log.open("ab") as file:
        file.write(log.read_bytes().splitlines(keepends=True)[-1])


def emptied(log: Path) -> None:
    log.write_bytes(b"")


def its_folder_moved(log: Path) -> None:
    log.parent.rename(log.parent.with_name("elsewhere"))


def all_our_files_deleted(log: Path) -> None:
    shutil.rmtree(log.parent.parent)


def all_our_files_replaced(log: Path) -> None:
    own = log.parent.parent
    shutil.copytree(own, own.with_name("copy"))
    shutil.rmtree(own)
    own.with_name("copy").rename(own)


CHANGES = [
    deleted,
    older_copy_by_renaming,
    older_copy_in_place,
    copy_of_the_same_bytes,
    longer,
    emptied,
    its_folder_moved,
    all_our_files_deleted,
    all_our_files_replaced,
]


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_change_after_the_log_was_changed_is_refused_and_nothing_is_written(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 30)
    page.click(10, 10)
    change(log_of(page))
    before = files_below(tmp_path)
    for rest, more in (("/clicks", {"click": CLICK}), ("/undo", {}), ("/finish", {"class_id": 1})):
        answer = page.client.post(page.url(rest), json={"revision": 2, **more})
        assert answer.status_code == 507, answer.text
        assert "nothing was written" in answer.json()["error"]
        assert str(tmp_path) not in answer.text
    assert files_below(tmp_path) == before
    assert page.revision() == 2  # the state in memory is unchanged


def test_a_restored_log_is_continued(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 30)
    log = log_of(page)
    log.rename(log.with_suffix(".away"))
    assert page.client.post(page.url("/clicks"), json={"revision": 1, "click": CLICK}).status_code == 507
    log.with_suffix(".away").rename(log)
    assert page.click(10, 10)["revision"] == 2
    assert page.restarted().revision() == 2


def test_moved_folder_is_not_created_again(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    page = Page(root)
    page.get("a.png")  # decoded now, so that the image is not read again
    root.rename(tmp_path / "moved")
    answer = page.client.post(page.url("/clicks"), json={"revision": 0, "click": CLICK})
    assert (answer.status_code, str(tmp_path) in answer.text) == (507, False)
    assert not root.exists()
    answer = page.client.put(
        "/api/v1/classes", json={"classes": [{"id": 1, "name": "cat", "color": "#000000"}]}
    )
    assert (answer.status_code, str(tmp_path) in answer.text) == (507, False)
    assert not root.exists()
    (tmp_path / "moved").rename(root)
    assert page.click(20, 30)["revision"] == 1


def test_log_that_appears_after_the_image_was_opened_is_not_overwritten(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 30, name="sub/b.png")
    page.get("a.png")
    shutil.copy(log_of(page, "sub/b.png"), log_of(page))
    before = log_of(page).read_bytes()
    answer = page.client.post(page.url("/clicks"), json={"revision": 0, "click": CLICK})
    assert answer.status_code == 507, answer.text
    assert log_of(page).read_bytes() == before


def test_older_log_is_noticed_after_its_image_was_evicted(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.project._keep = 1
    page.click(20, 30)
    page.click(10, 10)
    page.get("sub/b.png")
    older_copy_in_place(log_of(page))
    answer = page.client.post(page.url("/clicks"), json={"revision": 2, "click": CLICK})
    assert answer.status_code == 507, answer.text
    assert "changed by another program" in answer.json()["error"]


def test_nothing_is_written_through_a_log_folder_that_becomes_a_link(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 30)
    logs = log_of(page).parent
    logs.rename(tmp_path / "outside")
    logs.symlink_to(tmp_path / "outside")
    before = files_below(tmp_path / "outside")
    for name in ("a.png", "sub/b.png"):
        revision = 1 if name == "a.png" else 0
        answer = page.client.post(page.url("/clicks", name), json={"revision": revision, "click": CLICK})
        assert answer.status_code == (507 if name == "a.png" else 400), answer.text
        assert str(tmp_path) not in answer.text
    assert files_below(tmp_path / "outside") == before


def test_log_with_an_incomplete_last_line_loses_only_that_line_and_is_continued(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 30)
    answered = page.click(10, 10)
    page.project.close()
    whole = log_of(page).read_bytes()
    line = whole.splitlines(keepends=True)[-1]
    for cut in (1, len(line) // 2, len(line) - 1):
        log_of(page).write_bytes(whole + line[:cut])
        again = Page(page.project.folder.root)
        assert again.get() == answered
        assert again.ok(again.client.get("/api/v1/project"))["pictures"][0]["error"] is None
        again.project.close()
        assert log_of(page).read_bytes() == whole + line[:cut]  # reading changes nothing
    again = Page(page.project.folder.root)
    assert again.click(12, 12)["revision"] == 3
    assert log_of(page).read_bytes().startswith(whole)
    assert again.restarted().revision() == 3


def saved(file: Path, width: int, height: int, gray: int = 0) -> None:
    Image.new("RGB", (width, height), (gray, gray, gray)).save(file)


def opened_and_left(root: Path) -> Page:
    """Page over 7 images of 60 x 40 where 0.png was opened first, and is not decoded any more."""
    root.mkdir()
    for number in range(7):
        saved(root / f"{number}.png", 60, 40, number)
    page = Page(root)
    page.get("0.png")
    saved(root / "0.png", 120, 80)
    for number in range(1, 6):
        page.get(f"{number}.png")
    return page


def test_image_replaced_by_one_of_another_size_is_annotated_at_its_new_size(tmp_path: Path) -> None:
    page = opened_and_left(tmp_path / "pictures")
    page.click(60, 100, name="0.png")
    done = page.finish("0.png")
    assert (done["width"], done["height"], len(done["objects"])) == (120, 80, 1)
    assert len(page.restarted().get("0.png")["objects"]) == 1


def test_annotated_image_replaced_by_one_of_another_size_is_refused_until_it_is_restored(
    tmp_path: Path,
) -> None:
    root = make_folder(tmp_path / "pictures")
    page = Page(root)
    page.click(20, 30)
    page.finish()
    saved(root / "a.png", 120, 80)
    before = log_of(page).read_bytes()
    for method, url in (("GET", page.url()), ("POST", page.url("/clicks"))):
        answer = page.client.request(method, url, json={"revision": 2, "click": CLICK})
        assert answer.status_code == 400
        assert "a.png is 120x80, but it was 60x40 when it was annotated; restore" in answer.json()["error"]
    assert log_of(page).read_bytes() == before
    saved(root / "a.png", 60, 40)
    assert len(page.get()["objects"]) == 1
    assert page.click(10, 10)["revision"] == 3


def test_image_replaced_by_one_of_the_same_size_is_shown_and_segmented(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures")
    page = Page(root)
    before = page.client.get(page.url("/image"))
    saved(root / "a.png", 60, 40, 200)
    after = page.client.get(page.url("/image"))
    assert after.headers["etag"] != before.headers["etag"]
    assert np.asarray(Image.open(io.BytesIO(after.content)))[0, 0].tolist() == [200, 200, 200]
    assert page.project.images.get(page.ids["a.png"]).image[0, 0].tolist() == [200, 200, 200]


def test_mask_of_another_size_than_the_image_never_reaches_the_log(tmp_path: Path) -> None:
    page = Page(make_folder(tmp_path / "pictures"))
    page.click(20, 30)
    before = log_of(page).read_bytes()
    with page.project.open(page.ids["a.png"]) as (opened, _):
        mask = encode(np.ones((80, 120), bool))
        paint = {"kind": "fill_holes", "positive": True, "points": [], "threshold": 0.5}
        with pytest.raises(ValueError, match="run-length encoding of the image's size"):
            opened.history.append({"event": "paint", "paint": paint, "mask": mask, "class_id": 1})
    assert log_of(page).read_bytes() == before


def test_masks_of_images_opened_long_ago_are_not_kept_in_memory(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for number in range(6):
        saved(root / f"{number}.png", 60, 40, number)
    page = Page(root)
    for name in page.ids:
        page.click(20, 30, name=name)
        page.finish(name)
        page.click(30, 40, name=name)
    page.get("0.png")
    kept = [
        page.project.folder.entry(one.id).name
        for one in page.project._open.values()
        if one._locked[1] is not None
    ]
    assert kept == ["3.png", "4.png", "5.png", "0.png"]
