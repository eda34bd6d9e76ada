"""``python -m benchmarks``: both sides of a comparison do the same work, and the reported numbers are
right.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import tiny_net
from PIL import Image
from tiny import tiny_data, tiny_task

from benchmarks import command, exported, refiners
from benchmarks.clicks import drawn_errors, gaussian_loop, two_transforms
from benchmarks.command import ROWS
from benchmarks.folded_norm import unfolded
from benchmarks.large_image import peak_memory
from benchmarks.measure import Row, Spread, compared, in_turn, markdown
from benchmarks.plain_loop import plain_loop
from benchmarks.training_step import PARTS, training_step_breakdown
from dct_seg import Click, ClickBatch, next_click
from dct_seg.benchmark.runner import run_benchmark
from dct_seg.click_encoders import SpatialDCT
from dct_seg.metrics import iou
from dct_seg.models.backbone import Backbone
from dct_seg.models.folded_norm import FOLDED
from dct_seg.models.network import InteractiveNetwork


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_the_parts_of_each_step_add_up_to_the_whole():
    task = tiny_task(train_clicks=(2, 2))
    found = training_step_breakdown(
        task, tiny_data(), steps=5, warmup=1, precision="32-true", accelerator="cpu"
    )
    assert task.global_step == (1 + 5) * 2
    assert list(found.seconds) == [*PARTS, "total"]
    assert {len(values) for values in found.seconds.values()} == {5}  # more than the four batches of an epoch
    for batch in zip(*found.seconds.values(), strict=True):
        assert all(seconds > 0 for seconds in batch)
        assert sum(batch[:-1]) == pytest.approx(batch[-1])
    assert all(0 < share < 1 for share in found.overheads)
    assert found.peak_memory > 2**20


def test_no_steps_are_an_error():
    with pytest.raises(ValueError, match="steps must be at least 1 and warmup at least 0, got 0 and 3"):
        training_step_breakdown(tiny_task(), tiny_data(), steps=0)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_errors_are_those_of_a_few_clicks_and_both_ways_pick_the_same_pixel(seed):
    pred, mask = drawn_errors(120, 213, seed)
    assert 0.7 < iou(torch.from_numpy(pred)[None], torch.from_numpy(mask)[None]).item() < 0.98
    click = next_click(torch.from_numpy(pred)[None], torch.from_numpy(mask)[None])
    assert two_transforms(pred, mask) == (*click.coords[0].int().tolist(), bool(click.labels[0] == 1))


def test_loop_over_clicks_draws_what_the_encoder_draws():
    clicks = [Click(5, 8.5, radius=6.0), Click(20, 30, positive=False, radius=1.0), Click(9, 31, radius=11.0)]
    np.testing.assert_allclose(
        gaussian_loop(clicks, (24, 40)),
        SpatialDCT()(ClickBatch.from_clicks([clicks]), (24, 40))[0],
        atol=1e-6,
    )


def test_both_sides_are_measured_alternately_after_a_pause_and_a_warm_up_call(monkeypatch):
    calls = []
    monkeypatch.setattr("benchmarks.measure.sleep", lambda seconds: calls.append("pause"))
    ours, theirs = in_turn(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert calls == ["pause", "a", "a", "pause", "b", "b"] * 3
    assert len(ours) == len(theirs) == 3


def test_ratio_is_taken_turn_by_turn():
    found = compared([1.0, 10.0, 2.0], [4.0, 40.0, 6.0])
    assert found["ratio"] == Spread(3.5, 4.0, 4.0)
    assert found["ours"].median == 2000


def test_target_is_met_missed_or_unknown():
    one = Spread.of([1.0])
    fast = Row("fast", "a", "b", "ms", one, Spread.of([5.0]), Spread.of([5.0]), at_least=4)
    slow = Row("slow", "a", "b", "ms", one, Spread.of([5.0]), Spread.of([5.0]), at_least=6)
    small, large = (Row("memory", "a", "", "GiB", Spread.of([v]), at_most=2) for v in (2.0, 2.1))
    unknown = Row("unknown", "a", "b", "ms", one, at_least=4, note="give --that")
    assert [row.met for row in (fast, slow, small, large, unknown)] == [True, False, True, False, None]
    table = markdown([slow, large, unknown]).splitlines()
    assert table[2] == "| slow | a | b | 1 ms | 5 ms | 5 | >= 6 x | no |"
    assert table[3] == "| memory | a | - | 2.1 GiB | - | - | <= 2 GiB | no |"
    assert table[4] == "| unknown | a | b | 1 ms | - | - | >= 4 x | not measured |"
    assert table[-1] == "- unknown: give --that"


def test_command_prints_and_writes_the_requested_rows(tmp_path, capsys):
    small = (
        "--backbone resnet18 --crop-size 32 --batch-size 2 --clicks 1 --steps 2 --warmup 0 --loaders 0 "
        "--accelerator cpu"
    )
    only = ["next-click-batch", "click-maps", "training-step", "benchmark"]
    found = tmp_path / "found.json"
    args = [*small.split(), "--precision", "32-true", "--repeats", "1", "--json", str(found), "--only", *only]
    assert command.main(args) == 0
    printed = capsys.readouterr().out
    assert "same picks: 8 of 8" in printed
    assert "give --grabcut DIR" in printed
    written = json.loads(found.read_text())
    assert [row["name"] for row in written["rows"]] == only
    assert [row["met"] is None for row in written["rows"]] == [False, False, False, True]
    assert written["machine"]["threads"] == 1


def test_every_row_of_the_command_has_its_name_and_no_repeats_are_an_error():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.parse_args([]).only == list(ROWS)
    with pytest.raises(ValueError, match="--repeats must be at least 1, got 0"):
        command.main(["--repeats", "0"])


def test_backbones_with_and_without_folded_norms_give_equal_features():
    torch.manual_seed(0)
    net = Backbone("tf_efficientnet_lite0", weights="none").eval()
    image = torch.rand(1, 3, 64, 64)
    other = unfolded(net)
    assert not {type(module) for module in other.modules()} & set(FOLDED.values())
    with torch.no_grad():
        torch.testing.assert_close(other(image), net(image), rtol=1e-4, atol=1e-5)


def test_plain_loop_makes_the_clicks_of_the_benchmark(tmp_path):
    for index, folder in enumerate(["data_GT", "boundary_GT"]):
        (tmp_path / folder).mkdir()
        for seed in range(2):
            mask = drawn_errors(40, 60, seed)[1]
            image = np.dstack([mask * 200] * 3) if index == 0 else mask * 255
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / folder / f"{seed}.bmp")
    weights = str(tiny_net(previous_mask=True).save_pretrained(tmp_path / "net.safetensors"))
    results = run_benchmark(
        {"dctnet": {"checkpoint": weights, "precision": "float32"}},
        {"GrabCut": str(tmp_path)},
        prompt="drag",
        max_clicks=3,
    )
    assert plain_loop(str(tmp_path), {"checkpoint": weights}, limit=None, max_clicks=3) == [
        len(one.ious) for one in results.samples
    ]


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent():
    held = np.ones(2**27)  # 1 GiB
    code = "from benchmarks.large_image import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if Path("/proc/self/status").is_file():
        assert int(done.stdout) < held.nbytes + 2**29 < peak_memory() + 2**29
    assert int(done.stdout) > 2**20


def test_tables_of_exports_compare_each_backend_with_float32(tmp_path, monkeypatch):
    """Use networks instead of their slow exports; tests/test_export.py has real ones."""
    weights = tiny_net(previous_mask=True).save_pretrained(tmp_path / "net.safetensors")
    nets = [InteractiveNetwork.from_pretrained(weights), exported.late_of(tiny_net(previous_mask=True))]
    for net in nets:
        net.requires_grad_(False)
    stand_ins = {
        "SIZES": ((64, 96),),
        "CLICKS": (1, 5),
        "BATCHES": (1, 2),
        "cached_export": lambda weights: nets[0],
        "export": lambda net, folder: None,
        "ExportedNetwork": lambda made, threads: made if made is nets[0] else nets[1],
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(exported, name, value)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    words = ["--weights", str(weights), "--image", str(tmp_path / "image.png"), "--repeats", "1"]
    assert exported.main([*words, "--out", str(tmp_path / "tables.md")]) == 0
    lines = (tmp_path / "tables.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    parity = [row for row in rows if row[0] == "64 x 96"]
    assert [row[1] for row in parity] == ["1", "5"] * 2  # early, late
    assert all(float(row[5]) < 1e-4 for row in parity)
    assert [row[0].split(" (")[0] for row in rows if " s" in row[1]] == [
        "torch float32",
        "torch bfloat16",
        "onnxruntime",
    ]
    batches = [row for row in rows if row[0] == "float32"]
    assert [(row[1], float(row[3]) < 1e-4) for row in batches] == [("1", True), ("2", True)]


def test_refined_and_plain_network_predict_from_the_same_clicks(tmp_path, monkeypatch, capsys):
    labels = np.zeros((48, 64), np.uint8)
    labels[10:40, 12:50] = 1
    for folder, suffix, values in (
        ("images", "jpg", np.dstack([labels * 200] * 3)),
        ("masks", "png", labels),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(values).save(tmp_path / folder / f"8.{suffix}")  # a name in the held-out fifth
    weights = tiny_net().save_pretrained(tmp_path / "net.safetensors")
    words = ["refiners", str(tmp_path), "--weights", str(weights), "--limit", "1", "--clicks", "3"]
    monkeypatch.setattr(sys, "argv", words)
    refiners.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "samples: 1, turns: 3, clicked pixels: 6"
    before, after = (int(word) for word in re.findall(r"(\d+) (?:plain|refined)", said[1]))
    assert before > 0
    assert after <= before
    assert said[3].startswith("mean IoU: 0.")


def test_annotator_is_measured_on_many_images_and_many_objects(tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra [app]")
    from benchmarks import annotator_scale

    size = (90, 120)
    given = {"images": 3, "objects": 7, "size": size, "opened": 2, "clicks": 7}
    found = annotator_scale.measure(tmp_path / "run", **given)
    assert {name: len(times.wall) for name, times in found.times.items() if "opening" not in name} == {
        "start": 1,
        "list of images": 1,
        "import, COCO JSON": 1,
        "import, one PNG per object": 1,
        **{f"first click, {what}": 1 for what in ("7 objects", "no objects")},
        **{f"click after a finish, {what}": 5 for what in ("7 objects", "no objects")},
        **{f"finish, {what}": 6 for what in ("7 objects", "no objects")},
        "click on a small image": 7,
    }
    assert [row[:2] for row in found.memory] == [(0, 0), (1, 3), (2, 7)]
    assert all(row[2] > 2**20 for row in found.memory)
    assert "| 2 | 7 | " in annotator_scale.markdown(found)
    centers, radius = annotator_scale.discs(7, size)
    apart = np.hypot(*(centers[:, None] - centers).transpose(2, 0, 1)) + 2 * radius * np.eye(7)
    assert apart.min() > 2 * radius - 1e-9
    with pytest.raises(ValueError, match=r"--opened at most --images, got --images 3 .* --opened 4"):
        annotator_scale.measure(tmp_path / "no", **{**given, "opened": 4})
