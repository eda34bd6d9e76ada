"""The benchmark: one sample by hand, files that survive a kill, the same numbers on any number of processes,
tables and images.
"""

import argparse
import csv
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp import run_on_ranks
from networks import tiny_net
from numpy.typing import NDArray
from PIL import Image
from processes import FORKS, fork_workers

from dct_seg import Method, next_click
from dct_seg.benchmark import command
from dct_seg.benchmark.digests import content_digests
from dct_seg.benchmark.results import (
    ClickRecord,
    Condition,
    Results,
    SampleRecord,
    Settings,
    journals,
    load_results,
)
from dct_seg.benchmark.runner import Bench, MethodSpec, run_benchmark
from dct_seg.benchmark.tables import (
    as_csv,
    comparison_table,
    detail_table,
    markdown,
    overhead_share,
    robustness_table,
    summarize,
)
from dct_seg.clicks import Click, ClickBatch
from dct_seg.data.base import Sample
from dct_seg.data.datamodule import ClickSimulatorDataModule
from dct_seg.methods import METHODS
from dct_seg.methods.exported import CARD, ExportCard
from dct_seg.signals import Stopped


class Boxes:
    """Samples with bright boxes of growing size on a gray background; ``broken`` ones cannot be read."""

    def __init__(self, num: int = 6, broken: Sequence[int] = ()) -> None:
        self.num = num
        self.broken = tuple(broken)

    def __len__(self) -> int:
        return self.num

    def name(self, index: int) -> str:
        return f"box{index}"

    def read(self, index: int) -> Sample:
        if index in self.broken:
            raise ValueError(f"box{index} is\ntorn")
        image = np.random.default_rng(index).integers(90, 110, (30, 40, 3), dtype=np.uint8)
        mask = np.zeros((30, 40), bool)
        mask[4 : 12 + 2 * index, 6 : 22 + index] = True
        image[mask] += 90
        return Sample(image, mask, np.zeros_like(mask), self.name(index))


class Shy(Method):
    """Method that grows the seeds by a pixel per click; it counts its calls in a file, and may sleep."""

    name = "shy"
    paper = ""

    def __init__(self, *, log: str | None = None, sleep: float = 0.0) -> None:
        self.log = log
        self.sleep = sleep
        self.disc = METHODS.get("disc")(seed_radius=2.0)

    def reset(self, image: NDArray[np.uint8]) -> None:
        time.sleep(self.sleep)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write("reset\n")
        self.disc.reset(image)

    def predict(
        self, image: NDArray[np.uint8], clicks: Sequence[Click], previous: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        grown = [
            replace(c, radius=(c.radius or 2.0) + len(clicks) if c.positive else c.radius) for c in clicks
        ]
        return 0.9 * self.disc.predict(image, grown, previous)

    def fill_radii(self, clicks: Sequence[Click], previous: NDArray[np.float32] | None) -> list[Click]:
        return self.disc.fill_radii(clicks, previous)


def without_times(results: Results) -> list[SampleRecord]:
    return [
        replace(r, encode_seconds=0.0, seconds=(0.0,) * len(r.seconds), wall_seconds=0.0)
        for r in results.samples
    ]


def quick(**options: object) -> Results:
    return run_benchmark({"disc": {}}, {"boxes": Boxes()}, **{"prompt": "drag", "max_clicks": 5, **options})


# one sample


def test_disc_needs_one_drag_for_a_square_of_25_pixels() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True

    class Square(Boxes):
        def read(self, index: int) -> Sample:
            return Sample(np.zeros((9, 9, 3), np.uint8), mask, np.zeros_like(mask), "square")

    results = run_benchmark({"disc": {}}, {"square": Square(1)}, prompt="drag", full=True)
    (record,) = results.samples
    assert record.clicks == (ClickRecord(4.0, 4.0, True, 3.0, 3.0),)
    assert record.ious == (1.0,)
    assert record.size == (9, 9)
    assert record.error is None


def test_clicks_and_ious_are_those_of_a_plain_loop() -> None:
    results = quick(target=0.95)
    for record, sample in zip(results.samples, map(Boxes().read, range(6)), strict=True):
        method = METHODS.get("disc")()
        method.reset(sample.image)
        clicks: list[Click] = []
        pred = np.zeros_like(sample.mask)
        ious = []
        for _ in range(5):
            found = next_click(
                torch.from_numpy(pred)[None],
                torch.from_numpy(sample.mask)[None],
                torch.from_numpy(sample.ignore)[None],
                ClickBatch.from_clicks([clicks]),
            )
            clicks.append(Click(*found.coords[0].tolist(), bool(found.labels[0] == 1), found.radii.item()))
            pred = method.predict(sample.image, clicks, None) > 0.5
            ious.append((pred & sample.mask).sum() / (pred | sample.mask).sum())
            if ious[-1] >= 0.95:
                break
        assert [(c.row, c.col, c.positive, c.radius) for c in record.clicks] == [
            (c.row, c.col, c.positive, c.radius) for c in clicks
        ]
        assert record.ious == pytest.approx(ious, abs=0)


def test_click_prompt_hides_the_radius_and_the_effective_one_is_recorded() -> None:
    results = run_benchmark({"disc": {"seed_radius": 2.0}}, {"boxes": Boxes()}, prompt="click", max_clicks=3)
    first = results.samples[0].clicks[0]
    assert first.radius == 2.0
    assert first.true_radius == 4.0


def test_a_full_run_continues_after_the_target() -> None:
    short, full = quick(target=0.5), quick(full=True)
    assert all(record.ious[-1] >= 0.5 and max(record.ious[:-1], default=0) < 0.5 for record in short.samples)
    assert all(
        len(f.ious) == 5 and f.ious[: len(s.ious)] == s.ious
        for s, f in zip(short.samples, full.samples, strict=True)
    )


def test_an_empty_object_counts_as_iou_1_and_warns_with_its_name() -> None:
    class Nothing(Boxes):
        def read(self, index: int) -> Sample:
            return replace(super().read(index), mask=np.zeros((30, 40), bool))

    with pytest.warns(UserWarning, match="box0: nothing to segment"):
        results = run_benchmark({"disc": {}}, {"nothing": Nothing(1)}, prompt="drag")
    assert results.samples[0].ious == (1.0,)
    assert results.samples[0].clicks == ()


def test_runs_of_a_method_class_with_other_options_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Square(Shy):
        def __init__(self, *, side: int = 3) -> None:
            super().__init__()

        options = property(lambda self: {})  # like a class that does not report its options

    monkeypatch.setitem(METHODS._entries, "square", Square)
    run_benchmark({"square": {"side": 5}}, {"boxes": Boxes(1)}, prompt="drag", out=tmp_path)
    recorded = load_results(tmp_path).methods["square"]
    assert (recorded["method"], recorded["options"]) == ("square", {"side": 5})
    with pytest.raises(ValueError, match="side"):
        run_benchmark({"square": {"side": 7}}, {"boxes": Boxes(1)}, prompt="drag", out=tmp_path)


def test_prediction_of_the_wrong_shape_is_a_failure_with_its_reason() -> None:
    class Wrong(Shy):
        def predict(self, image, clicks, previous):  # type: ignore[no-untyped-def]
            return np.zeros((2, 2), np.float32)

    results = run_benchmark({"wrong": Wrong}, {"boxes": Boxes(1)}, prompt="drag")
    assert results.samples[0].error == (
        "ValueError: the method returned (2, 2); expected probabilities of (30, 40)"
    )


# failures


def test_a_failed_sample_is_recorded_and_the_run_continues(tmp_path: Path) -> None:
    data = {"boxes": Boxes(5, broken=[1, 3])}
    results = run_benchmark({"disc": {}}, data, prompt="drag", out=tmp_path)
    assert [(r.index, r.error) for r in results.failed] == [
        (1, "ValueError: box1 is torn"),
        (3, "ValueError: box3 is torn"),
    ]
    assert len(results.select("boxes", "disc")) == 3
    assert "2 samples failed; first: boxes box1 (disc): ValueError: box1 is torn" in markdown(results)
    results.absorb([replace(results.failed[0], error="ValueError: another reason")])
    assert results.failed[0].error == "ValueError: another reason"
    mended = run_benchmark({"disc": {}}, {"boxes": Boxes(5)}, prompt="drag", out=tmp_path)
    assert not mended.failed
    assert len(mended.samples) == 5


def test_a_strip_that_cannot_be_written_does_not_fail_the_sample(tmp_path: Path) -> None:
    class LongNames(Boxes):
        def name(self, index: int) -> str:
            return f"{'ä' * 300}{index}"

    results = run_benchmark({"disc": {}}, {"boxes": LongNames(2)}, prompt="drag", out=tmp_path / "long")
    assert not results.failed
    assert len(list((tmp_path / "long" / "strips" / "boxes" / "disc").iterdir())) == 2
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "strips").touch()  # a file where the folder should be
    with pytest.warns(UserWarning, match="the strip of boxes box0 is not written"):
        results = run_benchmark({"disc": {}}, {"boxes": Boxes(1)}, prompt="drag", out=tmp_path / "run")
    assert not results.failed
    assert results.samples[0].ious


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius_noise": 0.5, "prompt": "click"}, "prompt 'click' has none"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"max_clicks": 0}, "max_clicks must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"seeds": (-1,)}, "seed must be at least 0, got -1"),
        ({"num_strips": -1}, "num_strips must be at least 0, got -1"),
        ({"target": 0.0}, "target must be an IoU, above 0 and at most 1, got 0.0"),
        ({"target": 90.0}, "target must be an IoU, above 0 and at most 1, got 90.0"),
        ({"threshold": 2.0}, "threshold must be a probability, above 0 and below 1, got 2.0"),
        ({"click_jitter": float("nan")}, "click_jitter must be a distance in pixels, at least 0, got nan"),
        (
            {"radius_noise": 1.5},
            "radius_noise must be a share of the radius, at least 0 and below 1, got 1.5",
        ),
        ({"held_out": 1.0}, "held_out must be a share of the images"),
        ({"held_out": 1e-9}, "none of the 6 samples of boxes is in the held-out share"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**options)


def test_held_out_measures_only_images_that_training_never_sees(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    labels = np.zeros((40, 50), np.uint8)
    # two objects per image
    labels[5:20, 5:20] = 1
    labels[25:38, 20:45] = 2
    for number in range(12):
        Image.fromarray(np.full((40, 50, 3), 20 * number, np.uint8)).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(labels).save(folder / "masks" / f"{number}.png")
    data = ClickSimulatorDataModule(
        dataset="Folder", root=str(folder), holdout=0.3, batch_size=2, crop_size=32, num_workers=0
    )
    data.setup("fit")
    assert data.train_set is not None
    (dataset,) = data.train_set.datasets
    trained = {
        Path(dataset.image_name(dataset.samples_of(image)[0])).stem for _, image in data.train_set.images
    }
    results = run_benchmark(
        {"disc": {}},
        {"cats": folder},
        prompt="drag",
        max_clicks=2,
        held_out=0.3,
        num_strips=3,
        out=tmp_path / "out",
    )
    strips = sorted(path.name for path in (tmp_path / "out" / "strips" / "cats" / "disc").iterdir())
    assert [int(name[:5]) for name in strips] == sorted(one.index for one in results.samples)[:3]
    measured = {Path(record.name).stem for record in results.samples}
    assert len(trained) + len(measured) == 12
    assert trained.isdisjoint(measured)
    assert len(results.samples) == 2 * len(measured)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["data"]["cats"]["held_out"] == 0.3


def test_an_unknown_method_or_option_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="unknown method 'dics'; did you mean 'disc'"):
        run_benchmark({"dics": {}}, {"boxes": Boxes()}, prompt="drag")
    with pytest.raises(ValueError, match="method 'disc' has no option radius; it has seed_radius"):
        run_benchmark({"disc": {"radius": 3}}, {"boxes": Boxes()}, prompt="drag")
    with pytest.raises(ValueError, match="method 'disc' cannot be created with seed_radius 'wide'"):
        run_benchmark({"disc": {"seed_radius": "wide"}}, {"boxes": Boxes()}, prompt="drag")
    with pytest.raises(ValueError, match="flip must be true or false, got 'no'"):
        run_benchmark({"dctnet": {"flip": "no"}}, {"boxes": Boxes()}, prompt="drag")


# files


def test_results_are_restored_from_their_file(tmp_path: Path) -> None:
    results = quick(out=tmp_path)
    again = load_results(tmp_path)
    assert again == results
    assert journals(tmp_path) == []
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["settings"] == {
        "prompt": "drag",
        "rule": "max_distance",
        "protocol_version": 1,
        "threshold": 0.5,
        "max_clicks": 5,
        "target": 0.9,
    }
    assert content["methods"]["disc"] == {
        "method": "disc",
        "paper": "",
        "options": {"seed_radius": 5.0},
        "files": {},
    }
    assert {"started", "python", "versions", "machine", "threads", "workers", "ranks"} <= set(
        content["runs"][0]
    )
    assert content["data"] == {"boxes": {"kind": "Boxes", "root": None, "num_samples": 6}}


def test_a_second_run_processes_only_the_missing_samples(tmp_path: Path) -> None:
    log = tmp_path / "log"
    methods = {"shy": partial(Shy, log=str(log))}
    run_benchmark(methods, {"boxes": Boxes()}, prompt="drag", out=tmp_path / "out", limit=2)
    assert log.read_text().count("reset") == 3  # including the warm-up
    results = run_benchmark(methods, {"boxes": Boxes()}, prompt="drag", out=tmp_path / "out")
    assert log.read_text().count("reset") == 3 + 5
    assert [r.index for r in results.samples] == list(range(6))
    again = run_benchmark(methods, {"boxes": Boxes()}, prompt="drag", out=tmp_path / "out")
    assert log.read_text().count("reset") == 3 + 5
    assert len(again.runs) == 2, "the third run produced no record"


def test_runs_of_several_methods_share_one_folder(tmp_path: Path) -> None:
    quick(out=tmp_path)
    results = run_benchmark({"shy": Shy}, {"boxes": Boxes()}, prompt="drag", max_clicks=5, out=tmp_path)
    assert list(results.methods) == ["shy", "disc"]
    assert len(results.runs) == 2
    assert len(results.samples) == 12


def test_a_folder_with_other_settings_is_not_resumed(tmp_path: Path) -> None:
    quick(out=tmp_path)
    with pytest.raises(
        ValueError,
        match=r"contains a run with target 0\.9, but this run has target 0\.95; give another --out",
    ):
        quick(out=tmp_path, target=0.95)
    with pytest.raises(ValueError, match=r"contains a run of method disc with seed_radius 5\.0 \(now 3\.0\)"):
        run_benchmark(
            {"disc": {"seed_radius": 3.0}}, {"boxes": Boxes()}, prompt="drag", max_clicks=5, out=tmp_path
        )


def test_new_weights_under_an_old_name_are_another_method(tmp_path: Path) -> None:
    weights = tmp_path / "weights"

    class Trained(Shy):
        options = {"checkpoint": str(weights)}  # noqa: RUF012

    weights.write_text("first")
    run_benchmark({"net": Trained}, {"boxes": Boxes(1)}, prompt="drag", out=tmp_path / "out")
    run_benchmark({"net": Trained}, {"boxes": Boxes(1)}, prompt="drag", out=tmp_path / "out")
    weights.write_text("second")
    with pytest.raises(
        ValueError, match=r"contains a run of method net with contents of checkpoint \w{12} \(now \w{12}\)"
    ):
        run_benchmark({"net": Trained}, {"boxes": Boxes(1)}, prompt="drag", out=tmp_path / "out")


def test_new_contents_of_a_folder_of_weights_or_an_export_are_another_method(tmp_path: Path) -> None:
    net = tiny_net()

    def run() -> Results:
        net.save_pretrained(tmp_path / "weights")
        options = {"checkpoint": str(tmp_path / "weights"), "first_size": 32, "zoom_size": 32}
        return run_benchmark(
            {"dctnet": options}, {"boxes": Boxes(1)}, prompt="drag", max_clicks=1, out=tmp_path / "out"
        )

    run()
    run()
    next(net.parameters()).data += 1
    with pytest.raises(ValueError, match=r"method dctnet with contents of checkpoint \w{12} \(now \w{12}\)"):
        run()
    pytest.importorskip("onnxruntime")
    export = tmp_path / "export"
    export.mkdir()
    card = ExportCard("onnx", "tiny", False, 32, has_drag_head=False, needs_radius=False)
    (export / CARD).write_text(json.dumps(asdict(card)))
    found = []
    for graph in (b"first", b"second"):
        (export / "network.onnx").write_bytes(graph)
        found.append(content_digests(METHODS.get("dctnet")(checkpoint=export), {}))
    assert found[0]["checkpoint"] != found[1]["checkpoint"]


def test_results_without_a_digest_of_the_weights_are_not_resumed(tmp_path: Path) -> None:
    net = tiny_net()
    methods = {"net": partial(METHODS.get("dctnet"), net=net, first_size=32, zoom_size=32)}
    run_benchmark(methods, {"boxes": Boxes(1)}, prompt="drag", max_clicks=1, out=tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    content["methods"]["net"]["files"] = {}  # as older versions wrote
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"contents of checkpoint not recorded \(now \w{12}\); give another"):
        run_benchmark(methods, {"boxes": Boxes(1)}, prompt="drag", max_clicks=1, out=tmp_path)


def test_a_file_that_is_not_a_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json; `dct-seg benchmark --out"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a results file"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="has format 99"):
        load_results(tmp_path)


def _sleepy_run(out: Path, workers: int) -> None:
    fork_workers()
    methods = {"shy": partial(Shy, sleep=0.3)}
    run_benchmark(methods, {"boxes": Boxes()}, prompt="drag", out=out, max_clicks=5, workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_loses_only_the_unfinished_samples(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    process = FORKS.Process(target=_sleepy_run, args=(out, workers))
    process.start()
    deadline = time.monotonic() + 300
    while not any(path.read_text().count("\n") >= 3 for path in journals(out)):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    (journal,) = journals(out)
    kept = journal.read_text().count('{"sample"')
    assert 2 <= kept < 6
    with journal.open("a") as file:
        file.write('{"sample": {"data": "bo')  # interrupted in the middle of a write

    log = tmp_path / "log"
    resumed = run_benchmark(
        {"shy": partial(Shy, log=str(log))}, {"boxes": Boxes()}, prompt="drag", out=out, max_clicks=5
    )
    assert log.read_text().count("reset") == 1 + 6 - kept
    whole = run_benchmark({"shy": Shy}, {"boxes": Boxes()}, prompt="drag", max_clicks=5)
    assert without_times(resumed) == without_times(whole)
    assert load_results(out) == resumed


# many processes


@pytest.mark.slow
def test_two_workers_give_the_same_numbers_to_the_last_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.get_context", lambda method: FORKS)  # a spawned one imports again
    data = {"boxes": Boxes(5, broken=[2])}
    options = {"prompt": "drag", "max_clicks": 4, "click_jitter": 3.0, "seeds": (0, 1)}
    one = run_benchmark({"shy": Shy, "disc": {}}, data, **options)
    two = run_benchmark({"shy": Shy, "disc": {}}, data, workers=2, out=tmp_path, **options)
    assert without_times(one) == without_times(two)
    assert load_results(tmp_path) == two


def _on_a_rank(rank: int, world_size: int, out: str) -> list[SampleRecord]:
    results = run_benchmark(
        {"shy": Shy}, {"boxes": Boxes(5)}, prompt="drag", max_clicks=4, click_jitter=2.0, out=out
    )
    return without_times(results)


@pytest.mark.slow
@pytest.mark.parametrize("init_group", [True, False])
def test_two_ranks_give_the_same_numbers_to_the_last_digit(tmp_path: Path, init_group: bool) -> None:
    whole = run_benchmark({"shy": Shy}, {"boxes": Boxes(5)}, prompt="drag", max_clicks=4, click_jitter=2.0)
    for found in run_on_ranks(_on_a_rank, str(tmp_path), init_group=init_group):
        assert found == without_times(whole)
    assert without_times(load_results(tmp_path)) == without_times(whole)
    assert journals(tmp_path) == []


def test_a_bench_is_pickled_without_its_methods() -> None:
    import pickle

    bench = Bench({"disc": {}}, {"boxes": Boxes()}, Settings("drag"))
    bench.method("disc")
    assert pickle.loads(pickle.dumps(bench))._methods == {}


# robustness


def test_jittered_clicks_stay_in_the_wrong_region_and_near() -> None:
    exact = quick()
    off = quick(click_jitter=4.0, seeds=(0, 1))
    moved = 0
    for index in range(6):
        mask = Boxes().read(index).mask
        (reference,) = [r for r in exact.samples if r.index == index]
        for seed in (0, 1):
            (record,) = [
                r for r in off.select("boxes", "disc", [Condition(4.0, 0.0, seed)]) if r.index == index
            ]
            first, true = record.clicks[0], reference.clicks[0]
            assert mask[int(first.row), int(first.col)]
            assert np.hypot(first.row - true.row, first.col - true.col) <= 4
            moved += (first.row, first.col) != (true.row, true.col)
    assert moved > 6
    assert without_times(exact) == [r for r in without_times(off) if r.condition.is_exact]


def test_drags_are_off_by_at_most_the_noise() -> None:
    off = quick(radius_noise=0.3, seeds=(5,))
    ratios = [c.radius / c.true_radius for r in off.samples for c in r.clicks if not r.condition.is_exact]
    assert all(0.7 <= ratio <= 1.3 for ratio in ratios)
    assert len(set(ratios)) > 6


def test_the_robustness_table_has_exact_and_noisy_clicks_side_by_side() -> None:
    assert len(robustness_table(quick())) == 1
    head, row = robustness_table(quick(click_jitter=2.0, radius_noise=0.2, seeds=(0, 1, 2)))
    assert row[:4] == ["boxes", "disc", "jitter 2 px, radius noise 0.2", "3"]
    assert float(row[5]) - float(row[4]) == pytest.approx(float(row[7]), abs=0.011)
    assert head[4] == "NoC@90 exact"


# tables


def by_hand(target: float | None = 0.9, prompt: str = "drag", **ious: Sequence[float]) -> Results:
    settings = Settings(prompt, max_clicks=4, target=target)  # type: ignore[arg-type]
    samples = [
        SampleRecord(
            "GrabCut", "mine", Condition(), i, name, (4, 4), (), tuple(values), 0.5, (0.1,) * len(values), 1.0
        )
        for i, (name, values) in enumerate(ious.items())
    ]
    run = {
        "python": "3",
        "versions": {},
        "machine": {"processor": "p", "cores": 2, "gpu": None},
        "threads": 1,
        "workers": 1,
        "ranks": 1,
    }
    methods = {"mine": {"method": "mine", "paper": "", "options": {}}}
    return Results(
        settings,
        methods,
        {"GrabCut": {"kind": "GrabCut", "root": None, "num_samples": len(samples)}},
        [run],
        samples,
    )


def test_the_summary_equals_a_count_by_hand() -> None:
    results = by_hand(a=[0.5, 0.86, 0.92], b=[0.95], c=[0.1, 0.2, 0.3, 0.9], d=[0.1, 0.2, 0.3, 0.89])
    row = summarize(results, "GrabCut", "mine")
    assert row is not None
    assert row.noc[0.85][0] == (2 + 1 + 4 + 4) / 4
    assert row.noc[0.9][0] == (3 + 1 + 4 + 4) / 4
    assert row.noc[0.9][1] <= row.noc[0.9][0] <= row.noc[0.9][2]
    assert row.nof == {0.85: 0, 0.9: 1}
    assert row.at_least_max == {0.85: 2, 0.9: 2}
    assert row.auc is None
    assert row.miou == {}
    assert row.seconds_per_click == pytest.approx(0.1)
    assert row.encode_seconds == 0.5


def test_the_benchmark_s_overhead_is_the_time_outside_the_methods() -> None:
    results = by_hand(a=[0.5, 0.86, 0.92], b=[0.95])  # 0.5 s to encode, 0.1 s per click, 1 s in total
    assert overhead_share(results) == pytest.approx(1 - (1.0 + 0.4) / 2)
    assert "Reading, clicks, IoU and writing took 30.0 % of the time." in markdown(results)


def test_a_full_run_repeats_its_last_value_in_miou_and_auc() -> None:
    row = summarize(by_hand(None, a=[0.5, 1.0], b=[0.1, 0.2, 0.3, 0.4]), "GrabCut", "mine")
    assert row is not None
    assert row.miou == {1: pytest.approx(0.3), 3: pytest.approx(0.65)}
    assert row.auc == pytest.approx((0.3 + 0.6 + 0.65 + 0.7) / 4)


def test_nothing_is_printed_beyond_the_target() -> None:
    table = detail_table(by_hand(0.85, a=[0.86]))
    assert any(cell.startswith("NoC@85") for cell in table[0])
    assert not any("90" in cell for cell in table[0])


@pytest.mark.parametrize(("target", "measured"), [(0.8, [80]), (0.87, [85, 87]), (0.95, [85, 90, 95])])
def test_the_target_is_measured_too(target: float, measured: list[int]) -> None:
    head = detail_table(by_hand(target, a=[0.96]))[0]
    assert [name for name in head if name.startswith("NoC")] == [f"NoC@{t} [95 %]" for t in measured]


def test_each_machine_is_named_once() -> None:
    results = by_hand(a=[0.95])
    other = {**results.runs[0], "machine": {"processor": "q", "cores": 4, "gpu": None}}
    results.runs += [other, {**results.runs[0], "started": "later"}]
    text = markdown(results)
    assert (text.count("p, 2 cores; "), text.count("q, 4 cores; ")) == (1, 1)


def test_published_rows_precede_ours_and_drag_rows_include_the_baseline() -> None:
    drag = comparison_table(by_hand(a=[0.95]))
    assert drag[0] == ["method", "training", "prompt", "GrabCut NoC@85", "GrabCut NoC@90", "source"]
    assert ["DCT-Net*", "SBD", "drag", "-", "1.70", "Lin et al. 2021, Table 2"] in drag
    assert drag[-2][:5] == ["disc (no model)", "-", "drag", "-", "18.70"]
    assert drag[-1] == ["mine", "-", "drag", "1.00", "1.00", "this run"]
    click = comparison_table(by_hand(prompt="click", a=[0.95]))
    assert not any(row[0].startswith("disc") for row in click)


def test_every_table_states_its_protocol() -> None:
    text = markdown(by_hand(a=[0.95]))
    assert text.startswith(
        "Protocol: rule max_distance v1, prompt drag, threshold 0.5, at most 4 clicks, stopped at IoU 0.9."
    )
    rows = list(csv.reader(as_csv(detail_table(by_hand(a=[0.95]))).splitlines()))
    assert rows[1][:3] == ["GrabCut", "mine", "1"]


# images and the command


def test_the_command_writes_results_tables_curves_and_strips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "--method",
        "disc,big=disc",
        "--option",
        "big.seed_radius=7",
        "--data",
        "Shapes",
        "--prompt",
        "drag",
    ]
    code = command.main(
        [*argv, "--out", str(tmp_path), "--limit", "3", "--full", "--max-clicks", "4", "--strips", "2"]
    )
    assert code == 0
    assert "| big " in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        ".lock",
        "results.json",
        "table.md",
        "table.csv",
        "table.tex",
        "details.csv",
        "miou_vs_clicks.png",
        "miou_vs_clicks.svg",
        "strips",
    }
    results = load_results(tmp_path)
    assert results.methods["big"]["options"] == {"seed_radius": 7}
    tex = (tmp_path / "table.tex").read_text().splitlines()
    assert tex[0] == f"% Protocol: {results.settings.describe()}"
    assert tex[1].startswith(r"\begin{tabular}")
    strips = sorted((tmp_path / "strips" / "Shapes" / "disc").iterdir())
    assert len(strips) == 2
    assert Image.open(strips[0]).width > 500


def test_a_run_that_stops_at_a_target_has_no_curves(tmp_path: Path) -> None:
    argv = ["--method", "disc", "--data", "Shapes", "--prompt", "drag", "--limit", "2", "--target", "0.9"]
    assert command.main([*argv, "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "miou_vs_clicks.png").exists()


def test_without_a_folder_each_run_gets_a_new_one_and_several_ranks_must_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.time, "strftime", lambda form: "now")  # two runs in the same second
    for prompt, name in (("drag", "now"), ("click", "now-2")):
        argv = ["--method", "disc", "--data", "Shapes", "--prompt", prompt, "--limit", "1"]
        assert command.main(argv) == 0
        assert f"written to runs/benchmark/{name}\n" in capsys.readouterr().out
        assert (tmp_path / "runs" / "benchmark" / name / "results.json").is_file()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="give --out DIR"):
        command.main(argv)


def test_the_exit_code_reports_failed_samples_and_a_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--method", "disc", "--data", "Shapes", "--prompt", "drag", "--limit", "2"]
    with pytest.raises(ValueError, match="method 'disc' has no option size; it has seed_radius"):
        command.main([*argv, "--option", "disc.size=3"])
    monkeypatch.setattr("dct_seg.benchmark.runner.run_sample", lambda *_: 1 / 0)
    assert command.main(argv) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    monkeypatch.setattr("dct_seg.benchmark.command.run_benchmark", _interrupted)
    with pytest.raises(Stopped, match="to resume, run the same command with --out runs/benchmark/"):
        command.main(argv)


def _interrupted(*_: object, **__: object) -> Results:
    raise Stopped(signal.SIGINT)


@pytest.mark.parametrize(
    ("names", "options", "checkpoint", "message"),
    [
        ("disc", ["seed_radius=3"], None, "must be METHOD.KEY=VALUE, got 'seed_radius=3'"),
        ("disc", ["esc.smoothness=3"], None, "is for 'esc', but --method is disc"),
        ("disc", [], "a.ckpt", "--weights needs exactly one dctnet"),
        ("a=dctnet,b=dctnet", [], "a.ckpt", "LABEL.checkpoint=FILE"),
    ],
)
def test_options_without_an_effect_are_refused(
    names: str, options: list[str], checkpoint: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        command.parse_methods(names, options, checkpoint)


@pytest.mark.parametrize("entries", [["Folder=a", "Folder=b"], ["GrabCut=a", "Shapes", "GrabCut=a"]])
def test_two_datasets_under_one_name_are_refused(entries: list[str]) -> None:
    with pytest.raises(
        ValueError, match=f"--data names '{entries[0][:-2]}' twice; give each a different label"
    ):
        command.parse_data(entries)


def test_mutually_exclusive_arguments_are_refused(tmp_path: Path) -> None:
    shared = ["--method", "disc", "--data", "Shapes", "--prompt", "drag"]
    with pytest.raises(ValueError, match=r"--full makes all clicks, but --target 0.9 stops earlier"):
        command.main([*shared, "--full", "--target", "0.9"])
    with pytest.raises(ValueError, match="--checkpoints needs a learned method, got --method disc"):
        command.main([*shared, "--checkpoints", str(tmp_path)])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file' cannot be a folder: a file is in its place"):
        command.main([*shared, "--limit", "1", "--out", str(tmp_path / "file")])


def test_data_may_be_given_twice() -> None:
    argv = ["--prompt", "drag", "--data", "A=a", "B=b", "--data", "C=c"]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.parse_data(parser.parse_args(argv).data) == {"A": "a", "B": "b", "C": "c"}


@pytest.mark.parametrize("names", ["disc,disc", "disc,disc=grabcut", "a=disc,a=grabcut"])
def test_two_methods_under_one_label_are_refused(names: str) -> None:
    with pytest.raises(ValueError, match=r"--method names '(disc|a)' twice; give each a different label"):
        command.parse_methods(names, [])


def test_options_are_parsed_as_json_or_else_as_text() -> None:
    options = ["dctnet.flip=true", "dctnet.zoom_size=256", "dctnet.precision=float32", "dctnet.device=null"]
    given = {"flip": True, "zoom_size": 256, "precision": "float32", "device": None, "checkpoint": "a.ckpt"}
    assert command.parse_methods("dctnet", options, "a.ckpt") == {"dctnet": MethodSpec("dctnet", given)}
