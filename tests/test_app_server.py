"""The annotator's HTTP interface, used as by its page."""

import base64
import io
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotator import API, HEIGHT, WIDTH, Page, make_folder
from networks import tiny_net
from numpy.typing import NDArray
from PIL import Image

from dct_seg.app.folder import Entry
from dct_seg.app.image_lock import ImageLock
from dct_seg.app.project import ImageSummary, Project, ProjectError
from dct_seg.app.tabs import OtherTabError, Tabs
from dct_seg.app.working_image import WorkingImage
from dct_seg.clicks import Click
from dct_seg.methods.dctnet import DCTNetMethod


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(make_folder(tmp_path / "pictures"))


def disc(row: float, col: float, radius: float) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((rows - row) ** 2 + (cols - col) ** 2 <= radius**2)


def sent_mask(mask: dict[str, Any], threshold: float = 0.5) -> NDArray[np.bool_]:
    """Mask drawn by the page, at the image's size."""
    values = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png"]))))
    assert values.shape == (mask["height"], mask["width"]), "small images are sent pixel by pixel"
    whole = np.zeros((HEIGHT, WIDTH))
    whole[mask["row"] : mask["row"] + mask["height"], mask["col"] : mask["col"] + mask["width"]] = (
        values / 255
    )
    return whole > threshold


def test_project_lists_images_classes_and_model(page: Page) -> None:
    project = page.ok(page.client.get(f"{API}/project"))
    assert [one["name"] for one in project["pictures"]] == ["a.png", "sub/b.png"]
    assert [(one["id"], one["name"]) for one in project["classes"]] == [(1, "cat"), (2, "dog")]
    assert project["model"] == {"name": "discs", "prompts": "drag"}


def test_click_gives_a_mask_and_survives_a_restart(page: Page) -> None:
    answer = page.click(20, 30, radius=6.0)
    assert answer["revision"] == 1
    assert answer["draft"]["clicks"] == [
        {"row": 20.0, "col": 30.0, "positive": True, "radius": 6.0, "given": True}
    ]
    assert np.array_equal(sent_mask(answer["mask"]), disc(20, 30, 6))
    assert page.restarted().get() == answer


def test_click_without_a_drag_keeps_the_chosen_radius(page: Page) -> None:
    page.click(20, 30)
    made = page.click(10, 10, radius=None)["draft"]["clicks"][-1]
    assert not made["given"]
    assert made["radius"] > 5


def test_preview_equals_the_later_click_and_changes_nothing(page: Page) -> None:
    page.click(20, 30)
    before = page.get()
    body = {"revision": 1, "seq": 7, "click": {"row": 12.0, "col": 9.0, "positive": True, "radius": None}}
    preview = page.ok(page.client.post(page.url("/preview"), json=body))
    assert preview["seq"] == 7
    assert page.get() == before
    answer = page.click(12, 9, radius=None)
    assert answer["mask"] == preview["mask"]
    assert answer["draft"]["clicks"][-1]["radius"] == preview["radius"]


def test_finished_object_has_area_box_and_outline(page: Page) -> None:
    page.click(20, 30, radius=6)
    answer = page.finish(class_id=2)
    assert answer["draft"] is None
    (found,) = answer["objects"]
    assert (found["id"], found["class_id"], found["num_clicks"], found["locked"]) == (1, 2, 1, True)
    assert found["area"] == disc(20, 30, 6).sum()
    assert found["bbox"] == [14, 24, 13, 13]
    (outline,) = found["polygons"]
    assert max(abs(np.hypot(row - 20, col - 30) - 6) for col, row in outline) < 1


def test_pixels_of_a_locked_object_are_background_for_the_next(page: Page) -> None:
    page.click(20, 20, radius=6)
    page.finish()
    answer = page.click(20, 28, radius=6)
    assert np.array_equal(sent_mask(answer["mask"]), disc(20, 28, 6) & ~disc(20, 20, 6))
    assert page.finish()["objects"][1]["area"] == (disc(20, 28, 6) & ~disc(20, 20, 6)).sum()


def test_pixels_of_an_object_that_is_not_locked_are_free(page: Page) -> None:
    page.click(20, 20, radius=6)
    page.finish()
    page.do("/objects/1", method="PATCH", locked=False)
    answer = page.click(20, 28, radius=6)
    assert np.array_equal(sent_mask(answer["mask"]), disc(20, 28, 6))


def test_object_without_a_free_pixel_is_not_finished(page: Page) -> None:
    page.click(20, 20, radius=6)
    page.finish()
    page.click(20, 20, radius=3)
    answer = page.client.post(page.url("/finish"), json={"revision": 3, "class_id": 1})
    assert answer.status_code == 400
    assert "no pixel outside locked objects is above 0.5" in answer.json()["error"]


def test_everything_is_undone_and_redone_across_a_restart(page: Page) -> None:
    page.click(20, 20)
    page.finish()
    page.do("/objects/1", method="PATCH", class_id=2)
    page.click(5, 5)
    page.do("/discard")
    page.do("/objects/1", method="DELETE")
    states = [page.get()]
    while states[-1]["can_undo"]:
        states.append(page.do("/undo"))
    assert len(states) == 7
    page = page.restarted()
    for wanted in states[-2::-1]:
        found = page.do("/redo")
        assert (found["draft"], found["objects"], found["mask"]) == (
            wanted["draft"],
            wanted["objects"],
            wanted["mask"],
        )
    assert not found["can_redo"]


def test_discarding_an_edit_restores_the_whole_object(page: Page) -> None:
    page.click(20, 20, radius=6)
    before = page.finish(class_id=2)["objects"]
    reopened = page.do("/objects/1/edit")
    assert reopened["objects"] == []
    assert reopened["draft"]["edits"] == 1
    assert np.array_equal(sent_mask(reopened["mask"]), disc(20, 20, 6))
    page.click(20, 26, radius=4)
    assert page.do("/discard")["objects"] == before


def test_edited_object_keeps_its_number(page: Page) -> None:
    for col in (10, 30):
        page.click(20, col, radius=6)
        page.finish()
    page.do("/objects/1/edit")
    page.click(20, 10, radius=3, positive=False)
    assert [(one["id"], one["num_clicks"]) for one in page.finish()["objects"]] == [(1, 2), (2, 1)]


def test_second_draft_does_not_replace_the_first(page: Page) -> None:
    page.click(20, 20)
    page.finish()
    page.click(5, 50)
    answer = page.client.post(page.url("/objects/1/edit"), json={"revision": 3})
    assert answer.status_code == 400
    assert "finish or discard it first" in answer.json()["error"]


def test_image_is_sent_as_a_jpeg_and_cached_by_its_tag(page: Page) -> None:
    answer = page.client.get(page.url("/image?max_side=30"))
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (30, 20)
    again = page.client.get(page.url("/image?max_side=30"), headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def save_turned(path: Path, pixels: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)


def save_deep(path: Path, level: int) -> None:
    """Save a 16-bit image whose last two pixels are black and white."""
    pixels = np.full((10, 20), level * 257, np.uint16)
    pixels[-1, -2:] = 0, 65_535
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("name", "save", "size", "corner"),
    [
        ("turned.jpg", lambda path: save_turned(path, np.full((10, 20, 3), 90, np.uint8)), (20, 10), 90),
        ("gray.png", lambda path: Image.fromarray(np.full((10, 20), 90, np.uint8)).save(path), (10, 20), 90),
        (
            "deep.png",
            lambda path: save_deep(path, 90),
            (10, 20),
            90,
        ),
        (
            "clear.png",
            lambda path: Image.fromarray(np.zeros((10, 20, 4), np.uint8)).save(path),
            (10, 20),
            255,
        ),
        (
            "palette.gif",
            lambda path: Image.fromarray(np.full((10, 20), 90, np.uint8)).save(path),
            (10, 20),
            90,
        ),
        (
            "large.tif",
            lambda path: Image.fromarray(np.full((10, 20, 3), 90, np.uint8)).save(path),
            (10, 20),
            90,
        ),
    ],
)
def test_images_of_all_kinds_are_shown_upright(
    tmp_path: Path, name: str, save: Any, size: tuple[int, int], corner: int
) -> None:
    save(tmp_path / name)
    page = Page(tmp_path)
    found = page.get(name)
    assert (found["height"], found["width"]) == size
    shown = np.asarray(Image.open(io.BytesIO(page.client.get(page.url("/image", name)).content)))
    assert shown.shape[:2] == size
    assert abs(int(shown[0, 0, 0]) - corner) <= 2
    assert page.click(5, 5, radius=2, name=name)["mask"] is not None


def test_of_two_changes_of_one_revision_the_second_is_refused(page: Page) -> None:
    body = {"revision": 0, "click": {"row": 20, "col": 30, "positive": True, "radius": 6}}
    answers: list[int] = []

    def change() -> None:
        answers.append(page.client.post(page.url("/clicks"), json=body).status_code)

    threads = [threading.Thread(target=change) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [409] * 5
    assert page.revision() == 1


def test_preview_that_waits_gives_way_to_a_newer_one() -> None:
    lock, begun, go_on = ImageLock(), threading.Event(), threading.Event()
    got: dict[str, bool] = {}

    def first() -> None:
        with lock.preview() as ours:
            got["first"] = ours
            begun.set()
            go_on.wait(10)

    def waits(name: str) -> None:
        with lock.preview() as ours:
            got[name] = ours

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert begun.wait(10)
    second = threading.Thread(target=waits, args=("second",))
    second.start()
    third = threading.Thread(target=waits, args=("third",))
    while lock.waiting < 1:
        pass
    third.start()
    second.join(10)
    assert got == {"first": True, "second": False}
    go_on.set()
    for thread in (threads[0], third):
        thread.join(10)
    assert got == {"first": True, "second": False, "third": True}


def test_second_server_reports_that_the_folder_is_in_use(page: Page) -> None:
    with pytest.raises(ProjectError, match="another annotator is running on"):
        Project(page.project.folder.root)


def test_second_tab_may_look_and_take_over_but_not_write_at_the_same_time() -> None:
    now = [0.0]
    tabs = Tabs(lambda: now[0])
    assert tabs.beat("one", "a") == (True, "one")
    assert tabs.beat("two", "a") == (False, "one")
    with pytest.raises(OtherTabError, match="another tab has write access"):
        tabs.check("two", "a")
    with pytest.raises(OtherTabError, match="another tab has write access"):
        tabs.check(None, "a")
    assert tabs.beat("two", "a", take=True) == (True, "two")
    assert tabs.beat("one", "a") == (False, "two")
    now[0] = 20.0  # two stopped sending heartbeats
    assert tabs.beat("one", "a") == (True, "one")


def test_two_tabs_work_on_two_images_and_one_that_leaves_frees_its_own_at_once() -> None:
    tabs = Tabs(lambda: 0.0)
    assert tabs.beat("one", "a") == (True, "one")
    assert tabs.beat("two", "b") == (True, "two")
    tabs.check("one", "a")
    tabs.check("two", "b")
    assert (tabs.elsewhere("one"), tabs.elsewhere("two")) == (["b"], ["a"])
    tabs.beat("one", None)  # a closed tab shows nothing
    assert tabs.beat("two", "a") == (True, "two")
    assert tabs.elsewhere("one") == ["a"]


def test_image_without_objects_is_marked_as_done_and_an_object_removes_the_mark(page: Page) -> None:
    assert page.do("/nothing", nothing=True)["nothing"]
    found = page.ok(page.client.get(f"{API}/project"))
    assert [one["nothing"] for one in found["pictures"]] == [True, False]
    assert found["last"] == page.ids["a.png"]
    page.click(20, 20)
    refused = page.client.post(page.url("/nothing"), json={"revision": 2, "nothing": True})
    assert (refused.status_code, "this image has objects" in refused.json()["error"]) == (400, True)
    page = page.restarted()
    again = page.ok(page.client.get(f"{API}/project"))
    assert ([one["nothing"] for one in again["pictures"]], again["last"]) == (
        [False, False],
        page.ids["a.png"],
    )


def test_change_from_another_tab_is_refused_with_the_holders_name(page: Page) -> None:
    beat = page.client.post(f"{API}/tabs", json={"tab": "one", "picture": page.ids["a.png"]})
    found = page.ok(beat)
    assert (found["alone"], found["holder"], found["elsewhere"]) == (True, "one", [])
    body = {"revision": 0, "click": {"row": 20, "col": 30, "positive": True, "radius": 6}}
    refused = page.client.post(page.url("/clicks"), json=body, headers={"X-DCT-Seg-Tab": "two"})
    assert refused.status_code == 409
    assert refused.json()["holder"] == "one"
    page.ok(page.client.post(page.url("/clicks"), json=body, headers={"X-DCT-Seg-Tab": "one"}))
    there = page.url("/clicks", "sub/b.png")  # another image is not locked
    page.ok(page.client.post(there, json=body, headers={"X-DCT-Seg-Tab": "two"}))


def test_class_changes_are_permanent_and_a_class_in_use_stays(page: Page) -> None:
    page.click(20, 20)
    page.finish(class_id=2)
    cat, dog = page.ok(page.client.get(f"{API}/project"))["classes"]
    refused = page.client.put(f"{API}/classes", json={"classes": [cat]})
    assert refused.status_code == 400
    assert "class 2 'dog' has objects in a.png" in refused.json()["error"]
    page.ok(page.client.put(f"{API}/classes", json={"classes": [{**dog, "name": "wolf"}]}))
    assert page.restarted().project.classes[0].name == "wolf"


def test_classes_are_not_replaced_if_someone_else_has_changed_them(page: Page) -> None:
    before = page.ok(page.client.get(f"{API}/project"))["classes"]
    cow, pig = ([*before, {"id": 3, "name": name, "color": "#12b886"}] for name in ("cow", "pig"))
    for _ in range(2):  # sent again after a lost response
        page.ok(page.client.put(f"{API}/classes", json={"classes": cow, "before": before}))
    refused = page.client.put(f"{API}/classes", json={"classes": pig, "before": before})
    assert refused.status_code == 409
    assert "the classes have changed since" in refused.json()["error"]
    assert refused.json()["classes"] == cow
    assert page.ok(page.client.post(f"{API}/tabs", json={"tab": "one"}))["classes"] == cow
    page.ok(page.client.put(f"{API}/classes", json={"classes": pig, "before": cow}))


def test_image_changed_while_the_list_is_made_is_sent_by_the_next_heartbeat(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = page.project.summary

    def late(entry: Entry) -> ImageSummary:
        found = summary(entry)
        monkeypatch.undo()
        page.click(20, 20)
        return found

    monkeypatch.setattr(page.project, "summary", late)
    project = page.ok(page.client.get(f"{API}/project"))
    assert not project["pictures"][0]["has_draft"]
    heartbeat = {"tab": "one", "since": project["serial"]}
    (changed,) = page.ok(page.client.post(f"{API}/tabs", json=heartbeat))["changed"]
    assert changed["has_draft"]


def test_discard_without_a_draft_adds_no_step(page: Page) -> None:
    page.click(20, 20)
    revision = page.do("/discard")["revision"]
    refused = page.client.post(page.url("/discard"), json={"revision": revision})
    assert refused.status_code == 400
    assert refused.json()["error"] == "there is no draft to discard"
    assert page.do("/undo")["draft"] is not None


@pytest.mark.parametrize("shape", [(50, 70), (51, 70), (50, 71), (53, 75)])
def test_a_large_image_is_edited_at_reduced_size_and_masks_have_its_full_size(shape: tuple[int, int]) -> None:
    working = WorkingImage.of(np.zeros((*shape, 3), np.uint8), max_pixels=500)
    assert working.factor == 3
    assert working.image.shape[0] * working.image.shape[1] <= 1.2 * 500
    rows, cols = np.mgrid[: working.image.shape[0], : working.image.shape[1]]
    small = working.click(Click(20, 40, radius=12))
    assert small == Click((20.5 / 3) - 0.5, (40.5 / 3) - 0.5, radius=4)
    assert small.radius is not None
    probs = np.clip(small.radius + 0.5 - np.hypot(rows - small.row, cols - small.col), 0, 1).astype(
        np.float32
    )
    mask = working.mask(probs, 0.5)
    full_rows, full_cols = np.mgrid[: shape[0], : shape[1]]
    wanted = np.hypot(full_rows - 20, full_cols - 40) <= 12
    assert mask.shape == shape
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.9


def test_large_image_is_annotated_in_its_own_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dct_seg.app.working_image.MAX_WORKING_PIXELS", 600)
    page = Page(make_folder(tmp_path / "pictures"))
    assert page.project.images.get(page.ids["a.png"]).factor == 2
    page.click(20, 30, radius=8)
    (found,) = page.finish()["objects"]
    assert abs(found["area"] - disc(20, 30, 8).sum()) < 0.15 * found["area"]
    assert page.get()["width"] == WIDTH


def test_draft_of_a_network_is_bit_identical_after_a_restart(tmp_path: Path) -> None:
    net = tiny_net(previous_mask=True)
    root = make_folder(tmp_path / "pictures")

    def method() -> DCTNetMethod:
        return DCTNetMethod(net=net, first_size=48, zoom_size=40, precision="float32")

    page = Page(root, method)
    page.click(20, 30, radius=None)
    answer = page.click(8, 50, radius=None, positive=False)
    page.project.close()
    assert Page(root, method).get() == answer


def test_thumbnails_of_a_list_do_not_displace_the_open_image(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    for number in range(6):
        shutil.copy(root / "a.png", root / f"more{number}.png")
    page = Page(root)
    opened = page.project.images.get(page.ids["a.png"])
    for number in range(6):
        answer = page.client.get(page.url("/image?max_side=128", f"more{number}.png"))
        assert answer.status_code == 200
    assert page.project.images.get(page.ids["a.png"]) is opened
