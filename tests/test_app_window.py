"""Images with more than 8 bits or several pages in the annotator: windows, pages, unreadable files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [app]")

from annotator import API, HEIGHT, WIDTH, Discs, Page, make_folder
from networks import tiny_net

from dct_seg.app import predict_command
from dct_seg.cli import main
from dct_seg.clicks import Click
from dct_seg.data.brightness import Window, to_uint8
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.rle import decode

DEEP = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16)


class Bright(Discs):
    """Method that selects the disc's pixels brighter than half, so its masks depend on the window."""

    def predict(
        self, image: NDArray[np.uint8], clicks: list[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        found = super().predict(image, clicks, previous)
        return np.where(image[:, :, 0] >= 128, found, 0).astype(np.float32)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    root = make_folder(tmp_path / "images")
    Image.fromarray(DEEP).save(root / "deep.png")
    first, *others = (Image.fromarray(DEEP // (2 + place)) for place in range(3))
    first.save(root / "stack.tif", save_all=True, append_images=others)
    return Page(root, Bright)


def disc_above(low: float, high: float, values: NDArray[np.uint16] = DEEP) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    disc = (rows - 20) ** 2 + (cols - 30) ** 2 <= 100
    return np.asarray(disc & (to_uint8(values, window=Window(low, high)) >= 128))


def mask_of(page: Page, name: str, number: int = 0) -> NDArray[np.bool_]:
    entry = page.project.folder.entry(page.ids[name])
    return decode(page.project.history(entry).state.objects[number].rle)


def shown(page: Page, name: str) -> NDArray[np.uint8]:
    answer = page.client.get(page.url("/image", name))
    assert answer.status_code == 200
    return np.asarray(Image.open(io.BytesIO(answer.content)))[:, :, 0]


def choose(page: Page, low: float, high: float, name: str = "deep.png") -> dict[str, Any]:
    return page.do("/window", name, window={"low": low, "high": high})


def test_pages_of_a_tiff_are_images_with_separate_objects(page: Page) -> None:
    project = page.ok(page.client.get(f"{API}/project"))
    names = [one["name"] for one in project["pictures"]]
    assert names == ["a.png", "deep.png", "stack.tif#1", "stack.tif#2", "stack.tif#3", "sub/b.png"]
    page.click(20, 30, 10, name="stack.tif#3")
    page.finish("stack.tif#3")
    values = DEEP // 4
    assert np.array_equal(mask_of(page, "stack.tif#3"), disc_above(values.min(), values.max(), values))
    assert page.get("stack.tif#2")["objects"] == []
    coco = page.ok(page.client.get(f"{API}/export?format=coco"))
    assert [one["file_name"] for one in coco["images"]] == ["stack.tif#3"]


def test_file_of_pages_that_is_renamed_keeps_the_objects_of_each(page: Page) -> None:
    for number, row in ((1, 10), (3, 30)):
        page.click(row, 30, 9, name=f"stack.tif#{number}")
        page.finish(f"stack.tif#{number}")
    before = [page.get(f"stack.tif#{number}")["objects"] for number in (1, 2, 3)]
    root = page.project.folder.root
    (root / "stack.tif").rename(root / "sub" / "other.tif")
    page = page.restarted()
    assert [page.get(f"sub/other.tif#{number}")["objects"] for number in (1, 2, 3)] == before


def test_window_changes_the_display_and_the_network_input_equally(page: Page) -> None:
    assert page.get("a.png")["window"] is None
    by_rule = page.get("deep.png")["window"]
    assert by_rule == {"low": 0, "high": 4094, "lowest": 0, "highest": 4094, "chosen_by": None}
    tag = page.client.get(page.url("/image", "deep.png")).headers["etag"]
    answer = choose(page, 2000, 2400)
    assert answer["window"] == {**by_rule, "low": 2000, "high": 2400, "chosen_by": "image"}
    stale = page.client.get(page.url("/image", "deep.png"), headers={"If-None-Match": tag})
    assert stale.status_code == 200
    wanted = to_uint8(DEEP, window=Window(2000, 2400))
    assert np.abs(shown(page, "deep.png").astype(float) - wanted).mean() < 8, "except for JPEG"
    page.click(20, 30, 10, name="deep.png")
    page.finish("deep.png")
    assert np.array_equal(mask_of(page, "deep.png"), disc_above(2000, 2400))
    assert page.get("stack.tif#1")["window"]["chosen_by"] is None


def test_window_of_the_folder_applies_to_images_without_one(page: Page) -> None:
    choose(page, 2000, 2400)
    body = {"window": {"low": 100, "high": 300}}
    assert page.ok(page.client.put(f"{API}/window", json=body))["window"] == body["window"]
    assert page.get("stack.tif#2")["window"]["chosen_by"] == "folder"
    assert page.get("deep.png")["window"]["low"] == 2000
    page = page.restarted()
    assert page.get("stack.tif#2")["window"]["high"] == 300
    page.do("/window", "deep.png", window=None)
    assert page.get("deep.png")["window"]["low"] == 100
    page.ok(page.client.put(f"{API}/window", json={"window": None}))
    assert page.get("deep.png")["window"]["low"] == 0


def test_choice_of_a_window_is_undone(page: Page) -> None:
    choose(page, 2000, 2400)
    assert page.do("/undo", "deep.png")["window"]["chosen_by"] is None
    assert page.do("/redo", "deep.png")["window"]["low"] == 2000


def test_object_keeps_its_initial_window(page: Page) -> None:
    choose(page, 3000, 3100)
    page.click(20, 30, 10, name="deep.png")
    page.ok(page.client.put(f"{API}/window", json={"window": {"low": 0, "high": 10}}))
    refused = page.client.post(
        page.url("/window", "deep.png"), json={"revision": 2, "window": {"low": 0, "high": 1}}
    )
    assert (refused.status_code, "keeps its window" in refused.json()["error"]) == (400, True)
    page.finish("deep.png")
    choose(page, 0, 100)
    page.do("/objects/1/edit", "deep.png")
    assert page.get("deep.png")["window"] | {"low": 3000, "high": 3100} == page.get("deep.png")["window"]
    page.finish("deep.png")
    assert page.get("deep.png")["window"]["low"] == 0
    assert np.array_equal(mask_of(page, "deep.png"), disc_above(3000, 3100))


@pytest.mark.parametrize(
    ("name", "window", "reason"),
    [
        ("deep.png", {"low": 5, "high": 5}, "two finite values, the lower one first"),
        ("a.png", {"low": 0, "high": 5}, "needs more than 8 bits per channel"),
    ],
)
def test_impossible_window_is_refused(page: Page, name: str, window: dict[str, float], reason: str) -> None:
    answer = page.client.post(page.url("/window", name), json={"revision": 0, "window": window})
    assert (answer.status_code, reason in answer.json()["error"]) == (400, True), answer.text


def predict_with(monkeypatch: pytest.MonkeyPatch, make_method: Any) -> None:
    """Let ``dct-seg predict`` use a method instead of weights."""
    monkeypatch.setattr(
        predict_command,
        "_predict_all_images",
        lambda jobs, given: zip(jobs, predict_command._predict(make_method, jobs, given.batch), strict=True),
    )


def test_click_log_replays_each_object_bit_identically_with_its_window(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = page.project.folder.root
    net = tiny_net(previous_mask=True)
    assert net.decoder.predict.bias is not None
    net.decoder.predict.bias.data.fill_(0.3)

    def method(*_: object) -> DCTNetMethod:
        return DCTNetMethod(net=net, first_size=48, zoom_size=40, precision="float32")

    page.project.close()
    page = Page(root, method)
    for place, (low, high) in enumerate([(0, 1000), (2500, 2600)]):
        choose(page, low, high)
        page.click(20, 20 + 9 * place, 6, name="deep.png")
        page.click(25, 30, None, name="deep.png", positive=False)
        page.do("/paint", "deep.png", paint={"kind": "brush", "points": [[8, 12 + place, 4]]})
        page.click(12, 30, None, name="deep.png")
        page.finish("deep.png")
    page.click(20, 20, None, name="stack.tif#2")
    page.finish("stack.tif#2")
    log = tmp_path / "clicks.jsonl"
    log.write_text(page.client.get(f"{API}/export?format=clicks").text)
    assert [json.loads(line).get("window") for line in log.read_text().splitlines()] == [
        [0, 1000],
        [2500, 2600],
        None,
    ]
    predict_with(monkeypatch, method)
    again = ["predict", str(root), "--clicks", str(log), "--out", str(tmp_path / "out"), "--batch", "4"]
    assert main(again) == 0
    for number in (1, 2):
        again = np.asarray(Image.open(tmp_path / "out" / "masks" / "deep" / f"{number}.png")) > 0
        assert np.array_equal(again, mask_of(page, "deep.png", number - 1))
    again = np.asarray(Image.open(tmp_path / "out" / "masks" / "stack#2" / "1.png")) > 0
    assert np.array_equal(again, mask_of(page, "stack.tif#2"))


def test_predict_takes_a_page_and_a_window(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_with(monkeypatch, Bright)
    root = page.project.folder.root
    given = [str(root / "stack.tif#2"), str(root / "deep.png")]
    options = ["--click", "20,30,10", "--window=700,900", "--out", str(tmp_path / "out"), "--no-overlay"]
    assert main(["predict", *given, *options]) == 0
    for name, values in (("stack#2", DEEP // 3), ("deep", DEEP)):
        found = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png")) > 0
        assert np.array_equal(found, disc_above(700, 900, values))
    assert main(["predict", str(root / "stack.tif"), *options]) == 0
    assert (tmp_path / "out" / "masks" / "stack#3.png").is_file()
    assert main(["predict", *given, *options, "--window", "9"]) != 0
    assert "a window must be LOW,HIGH such as -160,240, got '9'" in capsys.readouterr().err


def test_file_of_an_unsupported_format_is_listed_with_the_reason(page: Page) -> None:
    root = page.project.folder.root
    (root / "raw.cr2").write_bytes(b"raw")
    (root / "README").write_text("no image")
    (root / "notes.txt").write_text("no image")
    (root / "broken.dcm").write_bytes(b"broken")
    found = {one["name"]: one["error"] for one in page.ok(page.client.get(f"{API}/project"))["pictures"]}
    assert {name for name, error in found.items() if error} == {"raw.cr2", "broken.dcm"}
    assert found["raw.cr2"] == "raw.cr2 cannot be read: .cr2 is not supported; convert it to PNG or TIFF"
    assert "broken.dcm cannot be decoded" in found["broken.dcm"]


def test_frames_of_a_dicom_without_a_suffix_are_images(page: Page) -> None:
    pytest.importorskip("pydicom", reason="needs the extra [medical]")
    from test_stacks import write_dicom

    frames = np.stack([DEEP, DEEP // 2])
    write_dicom(page.project.folder.root / "IM0001", frames, WindowCenter=1000, WindowWidth=400)
    page = page.restarted()
    page.click(20, 30, 10, name="IM0001#2")
    page.finish("IM0001#2")
    low = 1000 - 0.5 - 399 / 2
    assert np.array_equal(mask_of(page, "IM0001#2"), disc_above(low, low + 399, DEEP // 2))


def test_object_on_a_nifti_slice_maps_to_its_voxels_whatever_the_affine(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the extra [medical]")
    volume = np.random.default_rng(0).integers(0, 256, (30, 20, 4)).astype(np.uint8)
    turned = np.array([[0, -3, 0, 9], [0, 0, 2, 0], [1.5, 0, 0, -4], [0, 0, 0, 1]], float)  # sagittal, oblong
    exports = []
    for place, affine in enumerate((np.eye(4), turned)):
        root = tmp_path / str(place)
        root.mkdir()
        nibabel.Nifti1Image(volume, affine).to_filename(root / "scan.nii")
        page = Page(root)
        assert list(page.ids) == [f"scan.nii#{number}" for number in (1, 2, 3, 4)]
        name = "scan.nii#3"
        assert np.array_equal(page.project.images.get(page.ids[name]).image[:, :, 0], volume[:, ::-1, 2].T)
        page.click(4, 11, radius=3, name=name)
        page.finish(name)
        answer = page.client.get(f"{API}/export?format=coco").json()
        exports.append((answer["images"], answer["annotations"]))
    assert exports[0] == exports[1]
    ((image,), (annotation,)) = exports[0]
    assert (image["file_name"], image["height"], image["width"]) == ("scan.nii#3", 20, 30)
    voxels = np.zeros(volume.shape, bool)
    voxels[:, :, 2] = decode(annotation["segmentation"])[::-1].T
    first, second = np.ogrid[:30, :20]
    assert np.array_equal(voxels[:, :, 2], (first - 11) ** 2 + (19 - second - 4) ** 2 <= 9)
    assert not voxels[:, :, [0, 1, 3]].any()
