"""Two runs, sample by sample."""

from pathlib import Path

import pytest
from PIL import Image
from test_benchmark import Boxes, by_hand

from dct_seg.benchmark import command
from dct_seg.benchmark.compare import compare, compare_runs
from dct_seg.benchmark.results import load_results
from dct_seg.benchmark.runner import run_benchmark


def test_differences_are_paired_by_name() -> None:
    a = by_hand(x=[0.1, 0.95], y=[0.91], z=[0.1, 0.2, 0.95], gone=[0.9])
    b = by_hand(z=[0.95], y=[0.1, 0.2, 0.3, 0.4], x=[0.2, 0.92], new=[0.9])
    (found,) = compare(a, b, "mine", "mine")
    assert [(p.a.name, p.difference) for p in found.better] == [("z", -2)]
    assert [(p.a.name, p.difference) for p in found.worse] == [("y", 3)]
    assert found.mean == pytest.approx(1 / 3)
    assert found.interval[0] <= found.mean <= found.interval[1]
    assert found.num_unpaired == 2
    assert found.auc is None
    text = found.describe()
    assert "B - A = +0.33 clicks [-2.00, +3.00]: no significant difference" in text
    assert "Better on 1, worse on 1, equal on 1." in text
    assert "| y      | 1        | 4        | +3    |" in text


def test_a_clear_gain_is_reported_as_such() -> None:
    a, b = by_hand(x=[0.1, 0.95], y=[0.1, 0.91]), by_hand(x=[0.95], y=[0.91])
    assert "[-1.00, -1.00]: B is better" in compare(a, b, "mine", "mine")[0].describe()
    assert "[+1.00, +1.00]: B is worse" in compare(b, a, "mine", "mine")[0].describe()


def test_full_runs_are_compared_by_auc_too() -> None:
    a, b = by_hand(None, x=[0.5, 0.5, 0.5, 0.5]), by_hand(None, x=[0.5, 1.0])
    auc = compare(a, b, "mine", "mine")[0].auc
    assert auc is not None
    assert auc == pytest.approx((0.375, 0.375, 0.375))


def test_runs_under_other_protocols_are_not_compared() -> None:
    a, b = by_hand(x=[0.95]), by_hand(x=[0.95])
    b.settings = type(b.settings)("drag", max_clicks=20)
    with pytest.raises(ValueError, match="the settings of A and B differ"):
        compare(a, b, "mine", "mine")
    with pytest.raises(ValueError, match="no sample has a result in both"):
        compare(a, by_hand(y=[0.95]), "mine", "mine")


@pytest.mark.parametrize(("other", "clicks"), [(None, 2), (0.9, 2), (0.7, 1)])
def test_runs_without_a_common_threshold_are_compared_at_the_lower_target(
    other: float | None, clicks: int
) -> None:
    a, b = by_hand(0.8, x=[0.75, 0.95]), by_hand(other, x=[0.75, 0.95])
    (found,) = compare(a, b, "mine", "mine")
    assert found.min_iou == min(0.8, other or 1.0)
    assert [(p.clicks_a, p.clicks_b) for p in found.pairs] == [(clicks, clicks)]


def test_two_methods_of_one_run_are_compared_with_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_benchmark(
        {"disc": {"seed_radius": 2.0}, "graph_cut": {}},
        {"boxes": Boxes(4)},
        prompt="click",
        out=run,
        max_clicks=6,
        target=0.9,
    )
    assert command.main(["compare", f"{run}:disc", f"{run}:graph_cut", "--out", str(tmp_path / "vs")]) == 0
    text = (tmp_path / "vs" / "compare.md").read_text()
    assert text == capsys.readouterr().out
    assert text.startswith(f"- A: {run}:disc (disc; rule max_distance v1, prompt click")
    images = sorted((tmp_path / "vs" / "boxes").rglob("*.jpg"))
    assert images
    strip = Image.open(run / "strips" / "boxes" / "disc" / images[0].name.partition("_")[2])
    assert Image.open(images[0]).height == 2 * strip.height


def test_samples_without_a_strip_are_counted(tmp_path: Path) -> None:
    for name, method in (("a", "disc"), ("b", "grabcut")):
        run_benchmark({method: {}}, {"boxes": Boxes(3)}, prompt="click", out=tmp_path / name, num_strips=0)
    text = compare_runs(str(tmp_path / "a"), str(tmp_path / "b"), out=tmp_path / "vs")
    changed = compare(load_results(tmp_path / "a"), load_results(tmp_path / "b"), "disc", "grabcut")[0]
    num = len(changed.better) + len(changed.worse)
    assert num
    assert f"\n{num} of these samples have no image, because a run drew no strip of them" in text
    assert text == (tmp_path / "vs" / "compare.md").read_text()


def test_a_run_of_several_methods_needs_a_method_name(tmp_path: Path) -> None:
    run_benchmark({"disc": {}, "grabcut": {}}, {"boxes": Boxes(1)}, prompt="drag", out=tmp_path)
    with pytest.raises(ValueError, match=r"has the methods disc, grabcut; choose one as .*:METHOD"):
        compare_runs(str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="has no method esc; it has disc, grabcut"):
        compare_runs(f"{tmp_path}:esc", f"{tmp_path}:disc")
    with pytest.raises(FileNotFoundError, match="dct-seg benchmark --out"):
        compare_runs(str(tmp_path / "no"), str(tmp_path))
