"""`dct-seg predict`: masks from given clicks, and the annotator's masks replayed from its click log."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from annotator import Page
from networks import tiny_net
from PIL import Image
from pycocotools import mask as coco_mask

from dct_seg import Click, Predictor
from dct_seg.app import exports, working_image
from dct_seg.app.editing import Editor
from dct_seg.app.folder import ImageFolder
from dct_seg.app.replay import read_click_log
from dct_seg.cli import main
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.models.network import InteractiveNetwork
from dct_seg.rle import decode


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tiny_net(previous_mask=True).save_pretrained(tmp_path / "weights.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def run(*words: object) -> int:
    return main(["predict", *map(str, words)])


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) > 0


def median_threshold(page: Page, name: str) -> float:
    """Threshold that keeps about half of an untrained network's mask."""
    with page.project.open(page.ids[name]) as (opened, working):
        draft = opened.history.state.draft
        assert draft is not None
        probs = Predictor(DCTNetMethod(net=page.net))  # type: ignore[attr-defined]
        probs.set_image(working.image)
        found = probs.predict([working.click(click) for click in draft.clicks]).probs
    return float(np.median(found[found > 0]))


@pytest.mark.parametrize("shrunk", [False, True])
def test_log_of_the_annotator_gives_bit_identical_masks(
    tmp_path: Path, folder: Path, weights: Path, shrunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shrunk:
        monkeypatch.setattr(working_image, "MAX_WORKING_PIXELS", 5000)
    net = DCTNetMethod(weights).net
    page = Page(folder, lambda: DCTNetMethod(net=net))
    page.net = net  # type: ignore[attr-defined]
    for name in ("a.png", "sub/b.png"):
        for row in (30.25, 60.5):
            page.click(row, 40.125, 20.0625, name)
            page.click(row, 90, None, name, positive=False)  # the Auto-Drag-Head's radius, all its digits
            page.finish(name, threshold=median_threshold(page, name))
    objects = page.get("a.png")["objects"]
    page.do(f"/objects/{objects[0]['id']}/edit", "a.png")
    page.click(70, 20, 9.0, "a.png")
    page.finish("a.png", class_id=2, threshold=median_threshold(page, "a.png"))
    log = exports.write(page.project, "clicks").path
    masks = {
        (image.name, one.id): decode(one.rle)
        for image in exports.exported_images(page.project)
        for one in image.objects
    }
    page.project.close()

    out = tmp_path / "out"
    assert run(folder, "--clicks", log, "--weights", weights, "--out", out, "--coco") == 0
    log.unlink()
    assert len(masks) == 4
    for (name, number), mask in masks.items():
        assert 0 < mask.sum() < mask.size
        np.testing.assert_array_equal(
            read(out / "masks" / Path(name).with_suffix("") / f"{number}.png"), mask
        )
    coco = json.loads((out / "coco.json").read_text())
    files = {one["id"]: one["file_name"] for one in coco["images"]}
    assert {one["name"] for one in coco["categories"]} == {"cat", "dog"}
    found = [
        (files[one["image_id"]], coco_mask.decode(one["segmentation"]).sum()) for one in coco["annotations"]
    ]
    assert sorted(found) == sorted((name, mask.sum()) for (name, _), mask in masks.items())
    assert all(
        (one["area"], one["bbox"][2] > 0) == (area, True)
        for one, (_, area) in zip(coco["annotations"], found, strict=True)
    )


def test_imported_and_corrected_masks_are_replayed(tmp_path: Path, folder: Path, weights: Path) -> None:
    net = DCTNetMethod(weights).net
    page = Page(folder, lambda: DCTNetMethod(net=net))
    labels = np.zeros((96, 128), np.uint8)
    labels[10:40, 20:70] = 1
    labels[50:80, 10:40] = 2
    file = io.BytesIO()
    Image.fromarray(labels).save(file, format="PNG")
    Editor(page.project, lambda: DCTNetMethod(net=net)).import_masks(page.ids["a.png"], file.getvalue(), None)
    page.do("/objects/2/edit", "a.png")
    page.click(60, 20, 9.0, "a.png")
    page.finish("a.png", threshold=0.3)
    log = exports.write(page.project, "clicks").path
    masks = {
        one.id: decode(one.rle) for image in exports.exported_images(page.project) for one in image.objects
    }
    page.project.close()
    assert run(folder, "--clicks", log, "--weights", weights, "--out", tmp_path / "out") == 0
    log.unlink()
    assert set(masks) == {1, 2}
    np.testing.assert_array_equal(masks[1], labels == 1)
    for number, mask in masks.items():
        np.testing.assert_array_equal(read(tmp_path / "out" / "masks" / "a" / f"{number}.png"), mask)


def test_given_clicks_give_the_masks_of_the_predictor(tmp_path: Path, folder: Path, weights: Path) -> None:
    out = tmp_path / "out"
    given = ["--click", "40,50,12", "--click", "20,100,-", "--click", "70.5,30.5,8,-"]
    assert run(folder / "a.png", *given, "--threshold", 0.45, "--weights", weights, "--out", out) == 0
    predictor = Predictor.from_pretrained(weights, threshold=0.45)
    predictor.set_image(np.asarray(Image.open(folder / "a.png")))
    expected = predictor.predict(
        [Click(40, 50, radius=12.0), Click(20, 100, positive=False), Click(70.5, 30.5, False, 8.0)]
    )
    np.testing.assert_array_equal(read(out / "masks" / "a.png"), expected.mask)
    overlay = np.asarray(Image.open(out / "overlays" / "a.png")).astype(int)
    assert overlay.shape == (96, 128, 3)
    assert overlay[40, 50].tolist() == [0, 220, 60]  # the first click's mark


def test_second_run_predicts_only_missing_or_changed_masks(
    tmp_path: Path, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    seen: list[int] = []
    whole = DCTNetMethod.answer
    monkeypatch.setattr(DCTNetMethod, "answer", lambda self, *a: (seen.append(1), whole(self, *a))[1])
    words = [folder, "--weights", weights, "--out", out, "--no-overlay", "--click"]
    assert run(*words, "40,50,12") == 0
    assert len(seen) == 2
    assert not (out / "overlays").exists()
    assert run(*words, "40,50,12") == 0
    assert len(seen) == 2
    (out / "masks" / "a.png").unlink()
    with (out / "predicted.jsonl").open("a") as file:
        file.write('{"image": "sub/b.p')  # as left by a kill
    assert run(*words, "40,50,12") == 0
    assert len(seen) == 3
    assert run(*words, "40,51,12") == 0
    assert len(seen) == 5
    assert run(*words, "40,51,12") == 0
    assert len(seen) == 5


def test_image_that_fails_does_not_stop_the_others(
    tmp_path: Path, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"nonsense")
    Image.new("RGB", (20, 20)).save(folder / "small.png")
    assert run(folder, "--click", "40,50,12", "--weights", weights, "--out", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "2 masks of 2 images" in printed.out
    assert "2 failed" in printed.out
    assert "broken.png: broken.png cannot be decoded" in printed.err
    assert "small.png: click (40, 50) lies outside the image of 20 rows and 20 columns" in printed.err
    assert sorted(path.name for path in (tmp_path / "out" / "masks").rglob("*.png")) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--click", "40"], "--click must be ROW,COL[,RADIUS][,-]"),
        (["--click", "40,50,-3"], "a radius must be a length in pixels"),
        (["--click", "40,50,1,2"], "too many numbers"),
        (["--click", "nan,50"], "finite row and column"),
        ([], "give either --click ROW,COL or --clicks FILE"),
        (["--click", "1,2", "--clicks", "x.jsonl"], "give either --click"),
        (["--clicks", "x.jsonl"], "there is no click log x.jsonl"),
        (["--click", "1,2", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["--clicks", "x.jsonl", "--threshold", "0.7"], "a click log contains the threshold of each object"),
        (["--click", "1,2", "--threshold", "2"], "--threshold must be between 0 and 1, got 2"),
    ],
)
def test_wrong_argument_is_reported_in_one_line(
    tmp_path: Path, folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *words, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_with_one_name_and_missing_images_are_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.jpg").write_bytes((folder / "a.png").read_bytes())
    assert run(folder, "--click", "1,2", "--out", tmp_path / "out") == 2
    assert "a.jpg and a.png would have the same output a" in capsys.readouterr().err
    assert run(folder / "c.png", "--click", "1,2", "--out", tmp_path / "out") == 2
    assert "no image or folder" in capsys.readouterr().err
    log = tmp_path / "log.jsonl"
    log.write_text('{"image": "c.png", "clicks": [{"row": 1, "col": 2}]}\n')
    assert run(folder, "--clicks", log, "--out", tmp_path / "out") == 2
    assert "the log's image c.png is not among the 3 given images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 of"),
        ("[1]", "is not an object of a click log"),
        ('{"clicks": []}', "'image' is missing"),
        ('{"image": "a.png", "clicks": []}', "must have clicks or a start mask"),
        ('{"image": "a.png", "clicks": [{"row": 1}]}', "'col' is missing"),
        (
            '{"image": "a.png", "clicks": [{"row": 1, "col": 2, "positive": "no"}]}',
            "positive must be true or false",
        ),
        ('{"image": "a.png", "clicks": [{"row": 1, "col": 2}], "threshold": 7}', "between 0 and 1"),
        ("", "contains no object"),
    ],
)
def test_invalid_log_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "log.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"log\.jsonl") as error:
        read_click_log(tmp_path / "log.jsonl")
    assert message in str(error.value)


def test_masks_of_an_earlier_run_are_never_read_as_images(
    tmp_path: Path, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--click", "40,50,12", "--weights", weights, "--out")
    for out in (folder / "predicted", folder / "predicted", folder / "again", folder, folder):
        assert run(folder, *words, out) == 0
        assert "2 masks of 2 images" in capsys.readouterr().out
    assert run(folder / "predicted" / "masks" / "a.png", *words, folder / "predicted") == 2
    assert "lies in the output folder" in capsys.readouterr().err
    assert [entry.name for entry in ImageFolder(folder).entries()] == [
        "a.png",
        "sub/b.png",
    ]  # the annotator's list


def test_overlays_requested_later_are_drawn_from_existing_masks(
    tmp_path: Path, folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (folder, "--click", "40,50,12", "--weights", weights, "--out")
    assert run(*words, tmp_path / "once") == 0
    assert run(*words, tmp_path / "later", "--no-overlay") == 0
    assert not (tmp_path / "later" / "overlays").exists()
    monkeypatch.setattr(DCTNetMethod, "answer", lambda *args: pytest.fail("the masks are there"))
    assert run(*words, tmp_path / "later") == 0
    for name in ("a.png", "sub/b.png"):
        once, later = (Image.open(tmp_path / run_ / "overlays" / name) for run_ in ("once", "later"))
        assert np.array_equal(np.asarray(once), np.asarray(later))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_batch_of_objects_gives_the_masks_of_single_predictions(
    tmp_path: Path, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    start = {"size": [96, 128], "counts": [4000, 800, 96 * 128 - 4800]}
    objects = [
        {"image": "a.png", "clicks": [{"row": 30, "col": 40, "radius": 60}, {"row": 60, "col": 90}]},
        {"image": "a.png", "clicks": [{"row": 70, "col": 20, "radius": 60}], "removed": start},
        {"image": "sub/b.png", "clicks": [{"row": 30, "col": 40, "radius": 60}]},
        {"image": "sub/b.png", "clicks": [{"row": 30, "col": 40, "radius": 9}], "start": start},
    ]
    log.write_text("".join(json.dumps({**one, "threshold": 0.45}) + "\n" for one in objects))
    for batch in (1, 3, 16):
        out = tmp_path / f"out{batch}"
        words = ["--clicks", log, "--weights", weights, "--out", out, "--no-overlay", "--batch", batch]
        assert run(folder, *words) == 0
        assert "4 masks of 2 images" in (printed := capsys.readouterr().out)
        assert "objects per second" in printed
        for name in ("a/1", "a/2", "sub/b/1", "sub/b/2"):
            alone, mask = (read(tmp_path / out_ / "masks" / f"{name}.png") for out_ in ("out1", out))
            assert 0 < alone.sum() < alone.size
            assert (alone != mask).mean() < 0.001


def test_images_of_a_batch_share_a_forward_pass_and_a_failure_stops_no_other(
    tmp_path: Path,
    folder: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes: list[int] = []
    whole = InteractiveNetwork.forward
    monkeypatch.setattr(
        InteractiveNetwork,
        "forward",
        lambda self, *given: (sizes.append(len(given[0])), whole(self, *given))[1],
    )
    words = ["--click", "40,50,60", "--weights", weights, "--batch", 2, "--out"]
    assert run(folder, *words, tmp_path / "out") == 0
    assert sizes[0] == 2
    Image.new("RGB", (20, 20)).save(folder / "aa.png")
    (folder / "ab.png").write_bytes(b"nonsense")
    assert run(folder, *words, tmp_path / "other") == 1
    printed = capsys.readouterr()
    assert "aa.png: click (40, 50) lies outside" in printed.err
    assert "ab.png: ab.png cannot be decoded" in printed.err
    assert printed.err.count("\n") == 2
    for name in ("a", "sub/b"):
        assert np.array_equal(*(read(tmp_path / out / "masks" / f"{name}.png") for out in ("out", "other")))
    assert [one["image"] for one in lines(tmp_path / "other" / "predicted.jsonl")] == ["a.png", "sub/b.png"]
