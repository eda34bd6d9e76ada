"""Files broken in every way that a disk, a tool or a person can break them: each error names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from annotator import Page, make_folder
from test_sweep import write as write_sweep

from dct_seg.app.history import History, HistoryError
from dct_seg.app.project import Project
from dct_seg.app.replay import read_click_log
from dct_seg.benchmark.results import (
    ClickRecord,
    Condition,
    Journal,
    Results,
    SampleRecord,
    Settings,
    load_results,
    read_earlier,
)
from dct_seg.cli import main
from dct_seg.sweep.space import load_sweep
from dct_seg.sweep.trial import Outcome, Trial, trials_in

BYTES: dict[str, bytes] = {
    "empty": b"",
    "zeros, as a power cut leaves them": b"\0" * 300,
    "no UTF-8": b"\xff\xfe\x00{",
    "no JSON": b"{cake}",
    "a number": b"5",
    "a list": b"[1]",
    "null": b"null",
    "brackets without end": b"[" * 100_000,
    "a number without end": b'{"format": 1, "version": 1, "number": ' + b"9" * 5000 + b"}",
}
"""Contents that are not a valid file."""


def record(**changes: Any) -> SampleRecord:
    click = ClickRecord(1.0, 2.0, True, None, 3.0)
    values: dict[str, Any] = {"size": (4, 5), "clicks": (click,), "ious": (0.5,), "seconds": (0.1,)}
    return SampleRecord("boxes", "disc", Condition(), 0, "box0", **{**values, **changes})


def results(**changes: Any) -> Results:
    methods = {"disc": {"method": "disc", "paper": "", "options": {}, "files": {}}}
    return Results(
        Settings("drag"), methods, {"boxes": {"kind": "Boxes", "num_samples": 1}}, [{}], [record(**changes)]
    )


def saved(folder: Path) -> dict[str, Any]:
    results().save(folder / "results.json")
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


Change = Callable[[dict[str, Any]], object]
RESULTS: dict[str, Change] = {
    "no samples": lambda c: c.pop("samples"),
    "samples that are none": lambda c: c.update(samples=5),
    "a sample that is none": lambda c: c.update(samples=[5]),
    "a sample without clicks": lambda c: c["samples"][0].pop("clicks"),
    "a sample with a field too many": lambda c: c["samples"][0].update(cake=1),
    "clicks that are none": lambda c: c["samples"][0].update(clicks=3),
    "a click that is none": lambda c: c["samples"][0].update(clicks=[3]),
    "IoUs of text": lambda c: c["samples"][0].update(ious=["high"]),
    "an IoU of 7": lambda c: c["samples"][0].update(ious=[7]),
    "an IoU that is no number": lambda c: c["samples"][0].update(ious=[float("nan")]),
    "no size": lambda c: c["samples"][0].update(size=None),
    "a size of one side": lambda c: c["samples"][0].update(size=[3]),
    "an index of text": lambda c: c["samples"][0].update(index="first"),
    "a condition that is none": lambda c: c["samples"][0].update(condition="exact"),
    "settings that are none": lambda c: c.update(settings=[]),
    "settings without a prompt": lambda c: c["settings"].pop("prompt"),
    "a threshold of text": lambda c: c["settings"].update(threshold="high"),
    "methods that are none": lambda c: c.update(methods=["disc"]),
    "a method that is none": lambda c: c.update(methods={"disc": 5}),
    "data that are none": lambda c: c.update(data=None),
    "runs that are none": lambda c: c.update(runs={"a": 1}),
    "no format": lambda c: c.pop("format"),
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_invalid_results_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"results\.json"):
        load_results(tmp_path)
    with pytest.raises(ValueError, match=r"results\.json"):
        read_earlier(tmp_path, results())


@pytest.mark.parametrize("change", RESULTS.values(), ids=RESULTS)
def test_results_with_broken_content_are_named(tmp_path: Path, change: Change) -> None:
    content = saved(tmp_path)
    change(content)
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json"):
        load_results(tmp_path)


def test_valid_results_are_read(tmp_path: Path) -> None:
    saved(tmp_path)
    assert load_results(tmp_path) == results()


def journal(folder: Path) -> tuple[Path, list[bytes]]:
    """A journal of a header and two records, and its lines."""
    written = Journal(folder, 0, results().header())
    written.add(record())
    written.add(SampleRecord("boxes", "disc", Condition(), 1, "box1", size=(4, 5)))
    written.close()
    path = folder / "journal.0.jsonl"
    return path, path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "content", [c for c in BYTES.values() if c], ids=[name for name, c in BYTES.items() if c]
)
@pytest.mark.parametrize("place", [0, 1])
def test_broken_line_of_a_journal_is_named(tmp_path: Path, content: bytes, place: int) -> None:
    path, lines = journal(tmp_path)
    lines[place] = content + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=rf"line {place + 1} of .*journal\.0\.jsonl"):
        read_earlier(tmp_path, results())


JOURNALS: dict[str, dict[str, Any]] = {
    "neither header nor sample": {"cake": 1},
    "a header that is none": {"header": 5},
    "a header without settings": {"header": {"methods": {}, "data": {}, "runs": []}},
    "a header of methods that are none": {"header": {"settings": {}, "methods": [1], "data": {}, "runs": []}},
    "a sample that is none": {"sample": None},
    "a sample without a condition": {"sample": {"data": "boxes"}},
}


@pytest.mark.parametrize("content", JOURNALS.values(), ids=JOURNALS)
def test_line_of_a_journal_with_another_content_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    path, lines = journal(tmp_path)
    path.write_bytes(b"".join([lines[0], json.dumps(content).encode() + b"\n", lines[1]]))
    with pytest.raises(ValueError, match=r"journal\.0\.jsonl"):
        read_earlier(tmp_path, results())


def test_journal_without_its_header_is_named(tmp_path: Path) -> None:
    path, lines = journal(tmp_path)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(ValueError, match=r"line 1 of .*journal\.0\.jsonl"):
        read_earlier(tmp_path, results())


@pytest.mark.parametrize("torn", [b'{"sample": {"da', b"\0" * 50, b"\xff"])
def test_incomplete_last_line_of_a_journal_is_skipped(tmp_path: Path, torn: bytes) -> None:
    path, lines = journal(tmp_path)
    path.write_bytes(b"".join([*lines, torn]))
    assert len(read_earlier(tmp_path, results())) == 2


# A sweep


def read_all(folder: Path) -> None:
    for trial in trials_in(folder):
        trial.read_outcome()


def trial_in(folder: Path) -> Trial:
    trial = Trial.of({"model.lr": 0.1}, folder)
    trial.write_start(number=1, attempts=1, command=["dct-seg", "fit"])
    trial.write_outcome(Outcome({"model.lr": 0.1}, "finished", {"drag": {"NoC@90": 2.0}}))
    return trial


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("name", ["outcome.json", "trial.json"])
def test_invalid_trial_file_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    trial = trial_in(tmp_path)
    (trial.folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_all(tmp_path)


TRIALS: dict[str, tuple[str, Change]] = {
    "a start without values": ("trial.json", lambda c: c.pop("values")),
    "values that are none": ("trial.json", lambda c: c.update(values=[1])),
    "a number that is none": ("trial.json", lambda c: c.update(number="first")),
    "attempts that are none": ("trial.json", lambda c: c.update(attempts=None)),
    "no state": ("outcome.json", lambda c: c.pop("state")),
    "an unknown state": ("outcome.json", lambda c: c.update(state="lost")),
    "metrics that are none": ("outcome.json", lambda c: c.update(metrics=[1])),
    "metrics of a prompt that are none": ("outcome.json", lambda c: c.update(metrics={"drag": 3})),
    "a metric of text": ("outcome.json", lambda c: c.update(metrics={"drag": {"NoC@90": "few"}})),
    "a field too many": ("outcome.json", lambda c: c.update(cake=1)),
}


@pytest.mark.parametrize(("name", "change"), TRIALS.values(), ids=TRIALS)
def test_trial_file_with_broken_content_is_named(tmp_path: Path, name: str, change: Change) -> None:
    path = trial_in(tmp_path).folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_all(tmp_path)


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_invalid_sweep_settings_are_named(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("")
    sweep = write_sweep(tmp_path)
    Path("out").mkdir()
    Path("out/sweep.json").write_bytes(content)
    assert main(["sweep", str(sweep), "--out", "out", "--resume"]) == 2
    assert "sweep.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [*BYTES.values(), b'{"metrics": 3, "checkpoint": ""}', b'{"cake": 1}'],
    ids=[*BYTES, "3", "cake"],
)
def test_invalid_trial_metrics_are_named(tmp_path: Path, content: bytes) -> None:
    from dct_seg.sweep.trial import read_metrics

    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.json"):
        read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize(
    "name",
    ["../../../x", "/tmp/x", "..", ".", "a/b", "a\\b", "C:x", "x" * 300, "a\nb", "a\0b", " "],
    ids=repr,
)
def test_sweep_name_that_leads_out_of_the_folder_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = tmp_path / "one" / "two" / "three"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    Path("base.yaml").write_text("")
    sweep = write_sweep(inside, name=name)
    before = sorted(tmp_path.rglob("*"))
    for more in ([], ["--dry-run"], ["--out", "out"]):
        assert main(["sweep", str(sweep), *more]) == 2
        said = capsys.readouterr().err
        assert "sweep.yaml" in said
        assert "name" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_valid_sweep_name_is_accepted(tmp_path: Path) -> None:
    for name in ("table 1", "sigma.v2", "..a", "Ablation (drag)"):
        assert load_sweep(write_sweep(tmp_path, name=name)).name == name


# Predictions and clicks


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pictures")


@pytest.mark.parametrize(
    "content", [c for c in BYTES.values() if c], ids=[name for name, c in BYTES.items() if c]
)
def test_broken_line_of_predictions_is_named(
    tmp_path: Path, images: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "predicted.jsonl").write_bytes(content + b"\n")
    assert main(["predict", str(images), "--click", "3,3,3", "--out", str(out)]) == 2
    assert "line 1 of" in (said := capsys.readouterr().err)
    assert "predicted.jsonl" in said


LOG_LINES: dict[str, str] = {
    "a number that is endless": '{"image": "a.png", "object": Infinity, "clicks": [{"row": 1, "col": 1}]}',
    "a size that is endless": '{"image": "a.png", "height": Infinity, "width": 1, "clicks": []}',
    "a row that is endless": '{"image": "a.png", "clicks": [{"row": Infinity, "col": 1}]}',
    "clicks that are none": '{"image": "a.png", "clicks": 5}',
    "a height alone": '{"image": "a.png", "height": 4, "clicks": [{"row": 1, "col": 1}]}',
    "a start that is none": '{"image": "a.png", "clicks": [], "start": 5}',
    "a start without its size": '{"image": "a.png", "clicks": [], "start": {"counts": "0"}}',
    "brackets without end": "[" * 100_000,
    "a number without end": '{"image": "a.png", "object": ' + "9" * 5000 + ', "clicks": []}',
}


@pytest.mark.parametrize("line", LOG_LINES.values(), ids=LOG_LINES)
def test_broken_line_of_a_click_log_is_named(tmp_path: Path, line: str) -> None:
    log = tmp_path / "clicks.jsonl"
    log.write_text('{"image": "b.png", "clicks": [{"row": 1, "col": 1}]}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*clicks\.jsonl"):
        read_click_log(log)


# The annotator's own files

HEADER = b'{"format":"dct-seg picture log","version":1,"picture":"a.png","height":40,"width":60}\n'
OBJECT = {
    "id": 1,
    "class_id": 1,
    "clicks": [],
    "threshold": 0.5,
    "locked": True,
    "start": None,
    "removed": None,
}
CLICK = {"row": 1, "col": 1, "positive": True, "radius": 1, "given": True}


def event(**values: Any) -> bytes:
    return json.dumps(values).encode()


def finished(rle: Any) -> bytes:
    return event(event="finish", object={**OBJECT, "rle": rle})


ENDLESS = float("inf")
EVENTS: dict[str, bytes] = {
    "a radius that is endless": event(event="click", class_id=1, click={**CLICK, "radius": ENDLESS}),
    "a class that is endless": event(event="click", class_id=ENDLESS, click=CLICK),
    "an object that is none": event(event="finish", object=5),
    "an object whose mask is none": finished(5),
    "an object whose mask is of another size": finished({"size": [3, 3], "counts": "9"}),
    "objects that are none": event(event="import", objects=5),
    "no UTF-8": b"\xff\xfe",
    "zeros": b"\0" * 40,
}


@pytest.mark.parametrize("line", EVENTS.values(), ids=EVENTS)
def test_broken_line_of_an_event_log_is_named_by_every_reader(images: Path, line: bytes) -> None:
    page = Page(images)
    log = images / ".dct-seg" / "pictures" / f"{page.ids['a.png']}.jsonl"
    page.project.close()
    log.parent.mkdir()
    log.write_bytes(HEADER + line + b"\n")
    with pytest.raises(HistoryError, match=rf"line 2 of .*{log.name}"):
        History(log, image_name="a.png")
    page = Page(images)
    listed = {one["name"]: one["error"] for one in page.ok(page.client.get("/api/v1/project"))["pictures"]}
    assert log.name in listed["a.png"]
    assert listed["sub/b.png"] is None
    for path in (page.url(), "/api/v1/export?format=coco"):
        answer = page.client.get(path)
        assert (answer.status_code, log.name in answer.json()["error"]) == (400, True)
    assert page.click(20, 30, name="sub/b.png")["revision"] == 1  # the others continue
    assert log.read_bytes() == HEADER + line + b"\n"


def test_undecodable_mask_of_a_log_is_named(images: Path) -> None:
    line = finished({"size": [40, 60], "counts": "zz~"})
    page = Page(images)
    page.project.close()
    log = images / ".dct-seg" / "pictures" / f"{page.ids['a.png']}.jsonl"
    log.parent.mkdir()
    log.write_bytes(HEADER + line + b"\n")
    page = Page(images)
    for path in (page.url(), "/api/v1/export?format=coco", "/api/v1/export?format=indexed_png"):
        answer = page.client.get(path)
        assert (answer.status_code, log.name in answer.json()["error"]) == (400, True), answer.text


def test_log_without_its_image_and_list_of_files_that_are_broken_do_not_stop_the_others(images: Path) -> None:
    logs = images / ".dct-seg" / "pictures"
    logs.mkdir(parents=True)
    for number, content in enumerate(BYTES.values()):
        (logs / f"gone{number}.jsonl").write_bytes(content)
    files = [*BYTES.values(), b'{"id": "a", "name": "a", "sha256": "", "bytes": Infinity}']
    (logs.parent / "files.jsonl").write_bytes(b"\n".join(files))
    page = Page(images)
    listed = page.ok(page.client.get("/api/v1/project"))["pictures"]
    assert {one["name"] for one in listed} >= {"a.png", "sub/b.png"}
    assert page.click(20, 30)["revision"] == 1


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_invalid_list_of_classes_is_named(images: Path, content: bytes) -> None:
    (images / ".dct-seg").mkdir()
    (images / ".dct-seg" / "classes.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"classes\.json"):
        Project(images)


CLASSES = [
    '{"classes": 5}',
    '{"classes": [5]}',
    '{"classes": [{"id": Infinity, "name": "a", "color": "#000000"}]}',
]


@pytest.mark.parametrize("content", CLASSES)
def test_list_of_classes_with_broken_content_is_named(images: Path, content: str) -> None:
    (images / ".dct-seg").mkdir()
    (images / ".dct-seg" / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=r"classes\.json"):
        Project(images)
