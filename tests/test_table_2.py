"""Table 2: the paper's rows next to ours, and the methods of each row."""

import csv
import io
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from networks import tiny_net

from dct_seg.benchmark.command import main, parse_methods
from dct_seg.benchmark.published import TABLE_2
from dct_seg.benchmark.results import ClickRecord, Condition, Results, SampleRecord, Settings
from dct_seg.benchmark.table_2 import covered, table_2, write_table_2
from dct_seg.methods import METHODS
from dct_seg.methods.exported import CARD, ExportCard

PROMPTS: dict[str, Any] = {"click": "click", "drag": "drag"}


def results(prompt: str, **clicks: list[int]) -> Results:
    """A run on GrabCut with the given number of clicks per method on each image."""
    methods = {label: {"method": label.split("_random")[0], "paper": "", "options": {}} for label in clicks}
    run = Results(Settings(PROMPTS[prompt]), methods, {"GrabCut": {}})
    for label, numbers in clicks.items():
        for i, number in enumerate(numbers):
            ious = (*[0.5] * (number - 1), 0.95)
            made = (ClickRecord(1.0, 1.0, True, None, 2.0),) * number
            record = SampleRecord("GrabCut", label, Condition(), i, f"{i}", (9, 9), made, ious)
            run.samples.append(record)
    return run


def test_each_row_of_the_paper_has_a_registered_method() -> None:
    assert len(TABLE_2) == 14
    assert all(row.row in METHODS for row in TABLE_2)


def test_ours_is_next_to_the_published_number_with_its_interval() -> None:
    run = results("click", dos=[2, 4], brs=[3, 3], dos_random=[9, 9])
    rows = {row[0]: row for row in table_2([run])}
    assert rows["DOS"][2:5] == ["6.04", "3.00", "[2.00, 4.00] (2)"]
    assert rows["DOS"][-1] == "dos"
    assert rows["BRS"][2:5] == ["3.60", "3.00", "[3.00, 3.00] (2)"]
    assert rows["CMG"][2:] == ["3.58", "-", "-", "5.60", "-", "-", "-", "-", "-", "-"]
    assert covered([run]) == 2


def test_drag_row_is_next_to_a_run_with_drags_only() -> None:
    click, drag = results("click", dctnet=[3, 3]), results("drag", dctnet=[1, 1])
    rows = {row[0]: row for row in table_2([click, drag])}
    assert rows["DCT-Net"][3] == "3.00"
    assert rows["DCT-Net*"][3] == "1.00"
    assert {row[0]: row for row in table_2([drag])}["DCT-Net"][3] == "-"


def test_table_is_written_as_markdown_csv_and_latex(tmp_path: Path) -> None:
    text = write_table_2([results("click", dos=[2, 4], brs=[3, 3])], tmp_path)
    assert text == (tmp_path / "table2.md").read_text()
    assert "not a reproduction" in text
    assert "equal budget" not in text  # the command does not know how the weights were trained
    settings = "rule max_distance v1, prompt click, threshold 0.5, at most 20 clicks, stopped at IoU 0.9"
    assert f"\n- Protocol: {settings}.\n" in text
    rows = list(csv.reader(io.StringIO((tmp_path / "table2.csv").read_text())))
    assert len(rows) == 15
    assert {row[-1] for row in rows[1:]} == {settings}
    assert (tmp_path / "table2.tex").read_text().startswith(f"% Protocol: {settings}\n")
    assert "DOS & click & 6.04 & 3.00 & [2.00, 4.00]" in (tmp_path / "table2.tex").read_text()


def test_runs_of_both_prompts_are_merged_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for prompt, clicks in (("click", 3), ("drag", 1)):
        (tmp_path / prompt).mkdir()
        results(prompt, dctnet=[clicks]).save(tmp_path / prompt / "results.json")
    assert main(["table2", str(tmp_path / "click"), str(tmp_path / "drag"), "--out", str(tmp_path)]) == 0
    assert "| DCT-Net*" in capsys.readouterr().out
    assert (tmp_path / "table2.tex").is_file()


@pytest.mark.parametrize(
    "other", [{"rule": "largest_region"}, {"threshold": 0.49}, {"max_clicks": 10}, {"protocol_version": 2}]
)
def test_runs_under_other_protocols_are_not_joined(tmp_path: Path, other: dict[str, Any]) -> None:
    click, drag = results("click", dctnet=[3, 3]), results("drag", dctnet=[1, 1])
    drag.settings = replace(drag.settings, **other)
    with pytest.raises(
        ValueError, match="equal settings besides prompt and target, got rule max_distance v1, "
    ):
        write_table_2([click, drag], tmp_path)
    drag.settings = replace(click.settings, prompt="drag", target=None)
    assert "prompt drag" in write_table_2([click, drag], tmp_path)


def test_checkpoints_are_found_by_label_or_by_row(tmp_path: Path) -> None:
    for name in ("dos", "dos_random", "fbrs", "dct_net"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
    found = parse_methods("dos,dos_random=dos,fbrs_a,dctnet,graph_cut", [], None, str(tmp_path))
    folders = {
        label: Path(spec.options["checkpoint"]).parts[-3]
        for label, spec in found.items()
        if "checkpoint" in spec.options
    }
    assert folders == {"dos": "dos", "dos_random": "dos_random", "fbrs_a": "fbrs", "dctnet": "dct_net"}
    newer = tmp_path / "dos" / "checkpoints" / "last-v1.ckpt"  # Lightning's name after a second run
    newer.touch()
    os.utime(newer, (2**31, 2**31))
    assert parse_methods("dos", [], None, str(tmp_path))["dos"].options == {"checkpoint": str(newer)}
    with pytest.raises(FileNotFoundError, match=r"train it with configs/table2/cmg\.yaml"):
        parse_methods("cmg", [], None, str(tmp_path))


def test_method_without_weights_says_how_to_train_them() -> None:
    with pytest.raises(
        ValueError, match=r"method 'dos' has no weights in the package; train them with configs"
    ):
        METHODS.get("dos")()


def test_method_with_another_row_s_network_is_refused() -> None:
    net = tiny_net(click_encoder="Euclidean", feature_dct=False, auto_drag=False)
    with pytest.raises(
        ValueError, match=r"method 'fca_net' needs a network with network 'fca_net', .*configs/table2/fca_net"
    ):
        METHODS.get("fca_net")(net=net)  # type: ignore[call-arg]


def test_row_refuses_an_export_since_it_cannot_check_the_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    card = ExportCard("onnx", "tiny", False, 32, has_drag_head=False, needs_radius=False)
    (tmp_path / CARD).write_text(json.dumps(asdict(card)))
    with pytest.raises(ValueError, match=r"method .dos. needs weights, .*the weights that were exported"):
        METHODS.get("dos")(checkpoint=tmp_path)  # type: ignore[call-arg]
