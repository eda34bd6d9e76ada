"""``dct-seg sweep``: errors in the file, the three searches, the tables, and four trials that are killed and
resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from processes import Command, fork_trials, has_living_trials
from test_callbacks import CONFIG, keep_wandb_in, records_of

from dct_seg.benchmark.published import TABLE_1
from dct_seg.cli import main
from dct_seg.sweep.command import _prepare_folder
from dct_seg.sweep.running import Plan, _Running, last_error, share_of_machine
from dct_seg.sweep.search import OptunaSearch, planned
from dct_seg.sweep.space import fit_arguments, load_sweep
from dct_seg.sweep.tables import numbers, paper_table, report, rows_of, table, write_report
from dct_seg.sweep.trial import Outcome, Trial, trials_in

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
COMMAND = ["${env}", "${program}", "fit", "--config", "base.yaml", "${args}"]
METRIC = {"name": "val/drag/NoC@90", "goal": "minimize"}
FOUR = {"model.lr": {"values": [1e-3, 1e-4]}, "seed_everything": {"values": [0, 1]}}


def content(**changes: Any) -> dict[str, Any]:
    return {
        "program": "dct-seg",
        "method": "grid",
        "metric": METRIC,
        "parameters": FOUR,
        "command": COMMAND,
        **changes,
    }


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(
        yaml.safe_dump(
            {key: value for key, value in content(**changes).items() if value is not None}, sort_keys=False
        )
    )
    return path


# The file


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": None}, "a sweep file must be a mapping with method, command and parameters"),
        ({"metod": "grid"}, "unknown key of a sweep file 'metod'; did you mean 'method'?"),
        ({"method": "gird"}, "unknown sweep method 'gird'; did you mean 'grid'?"),
        ({"parameters": {}}, "parameters must map command-line keys"),
        (
            {"parameters": {"model lr": {"value": 1}}},
            "a parameter's name must be a command-line key such as model.lr, got 'model lr'",
        ),
        (
            {"parameters": {"a": {"values": [1], "vals": [2]}}},
            "unknown option of parameter 'a' 'vals'; did you mean 'values'?",
        ),
        (
            {"parameters": {"a": {"value": 1, "values": [2]}}},
            "parameter 'a' has value and values; give only one",
        ),
        (
            {"parameters": {"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}}},
            "parameter 'a.b' is given 2 times",
        ),
        ({"parameters": {"a": 3}}, r"parameter 'a' must be a mapping such as \{values: \[1, 2\]\}, got 3"),
        (
            {"parameters": {"a": {"min": 1}}},
            "parameter 'a' must have value, values, min and max, or a distribution",
        ),
        ({"parameters": {"a": {"distribution": "unifrom", "min": 0, "max": 1}}}, "did you mean 'uniform'?"),
        (
            {"parameters": {"a": {"distribution": "uniform", "min": 0}}},
            "parameter 'a' has distribution uniform, which needs max",
        ),
        ({"parameters": {"a": {"values": []}}}, "values of parameter 'a' must be a list of at least one"),
        (
            {"parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.4]}}},
            "must be one number per value, with sum 1",
        ),
        ({"parameters": {"a": {"min": "low", "max": 1}}}, "min of parameter 'a' must be a number, got 'low'"),
        (
            {"parameters": {"a": {"min": 2, "max": 1}}},
            "parameter 'a' has min 2 and max 1; min must be below max",
        ),
        (
            {"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
            "min must be positive, got 0",
        ),
        (
            {"parameters": {"a": {"distribution": "int_uniform", "min": 0.5, "max": 1}}},
            "is an integer, so min and max must be, too, got 0.5",
        ),
        (
            {"parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}}},
            "needs q > 0 and sigma >= 0",
        ),
        (
            {"parameters": {"a": {"min": 0.0, "max": 1.0}}},
            "parameter 'a' has distribution uniform, and grid supports",
        ),
        ({"run_cap": 0}, "run_cap must be a number of trials, at least 1, got 0"),
        (
            {"metric": {"name": "NoC@90"}},
            "the metric's name must be val/PROMPT/NAME, a validation metric such as val/drag/NoC@90",
        ),
        (
            {"metric": {"name": "val/drag/AuC", "goal": "maximise"}},
            "unknown goal 'maximise'; did you mean 'maximize'?",
        ),
        ({"method": "bayes", "metric": None}, "method bayes needs a metric"),
        ({"command": None}, r"command must be a list with \$\{args\}, such as"),
        ({"command": ["${program}", "fit"]}, r"command must be a list with \$\{args\}, such as"),
        (
            {"command": ["${program}", "benchmark", "${args}"]},
            "command runs 'dct-seg benchmark', but only dct-seg fit works here",
        ),
        (
            {"command": ["python", "train.py", "${args}"]},
            "command runs 'python train.py', but only dct-seg fit works here",
        ),
        (
            {"command": ["${program}", "fit", "${args_no_hyphens}", "${args}"]},
            "which only W&B's agent replaces",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=said) as error:
        load_sweep(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_repeated_key_is_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + "method: random\n")
    with pytest.raises(ValueError, match=r"sweep.yaml: line .*: 'method' is given twice"):
        load_sweep(path)


def test_a_file_that_is_not_a_sweep_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no sweep file"):
        load_sweep(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="a sweep file must be a mapping"):
        load_sweep(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="is not YAML"):
        load_sweep(tmp_path / "broken.yaml")


def test_nested_parameters_get_dotted_keys_and_an_envvar_is_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCT_SEG_TEST_ROOT", "pictures")
    nested = {
        "model": {"parameters": {"network": {"parameters": {"decoder_width": {"values": [8, 16]}}}}},
        "seed_everything": {"value": 3},
    }
    command = [*COMMAND[:-1], "--data.root=${envvar:DCT_SEG_TEST_ROOT}", "${args}"]
    sweep = load_sweep(
        write(tmp_path, parameters=nested, command=command, early_terminate={"type": "hyperband"})
    )
    assert [parameter.name for parameter in sweep.parameters] == [
        "model.network.decoder_width",
        "seed_everything",
    ]
    assert (sweep.name, sweep.ignored) == ("sweep", ("early_terminate",))
    words = [
        "fit",
        "--config",
        "base.yaml",
        "--data.root=pictures",
        "--model.network.decoder_width=16",
        "--seed_everything=3",
    ]
    assert fit_arguments(sweep, planned(sweep)[1]) == words
    with pytest.raises(ValueError, match=r"no --config that b\.yaml could replace"):
        fit_arguments(
            load_sweep(write(tmp_path, command=["${program}", "fit", "${args}"])), {}, base="b.yaml"
        )


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_trial_of_a_shipped_sweep_is_a_command_that_parses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(path)
    seen = set()
    for values in planned(sweep):
        setting = json.dumps(
            {key: value for key, value in values.items() if key != "seed_everything"}, sort_keys=True
        )
        if setting in seen:
            continue  # the same with another seed
        seen.add(setting)
        with pytest.raises(SystemExit) as left:
            main([*fit_arguments(sweep, values), "--print_config"])
        assert left.value.code == 0
    assert len(seen) >= 3


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_wandb_accepts_a_shipped_sweep(path: Path) -> None:
    sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    assert sweeps.load_sweep_config(str(path)) == yaml.safe_load(path.read_text())


def test_there_is_a_sweep_for_each_question() -> None:
    assert [path.stem for path in SWEEPS] == ["encoders", "feature_dct", "sigma", "table1", "update_rule"]


def test_every_documented_sweep_command_works_as_a_dry_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    commands = re.findall(
        r"^dct-seg (sweep .*)$", (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert commands
    for command in commands:
        own, _, extra = command.partition(" -- ")
        assert main([*own.split(), "--dry-run", "--", *extra.split()]) == 0
        assert "12 trials, " in capsys.readouterr().out


# The searches


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("model.gradient_clip", [None, 1.0]),
        ("data.root", [{"a": 1.0, "b": 0.5}]),
        ("model.val_prompts", [["drag", "click"], ["click"]]),
        ("data.flip", [True, False]),
        ("data.val_size", [None]),
    ],
)
def test_values_of_any_type_reach_the_configuration(
    key: str, values: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load_sweep(write(tmp_path, parameters={key: {"values": values}}))
    for trial, value in zip(planned(sweep), values, strict=True):
        (word,) = [word for word in fit_arguments(sweep, trial) if word.startswith(f"--{key}=")]
        with pytest.raises(SystemExit):
            main(["fit", word, "--print_config"])
        part, name = key.split(".")
        assert yaml.safe_load(capsys.readouterr().out)[part][name] == value


def test_a_grid_is_all_combinations_the_last_parameter_fastest(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path))
    assert [tuple(values.values()) for values in planned(sweep)] == [
        (1e-3, 0),
        (1e-3, 1),
        (1e-4, 0),
        (1e-4, 1),
    ]
    assert len(planned(sweep, trials=3)) == 3
    ranges = {"a": {"min": 1, "max": 3}, "b": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5}}
    grid = planned(load_sweep(write(tmp_path, parameters=ranges)))
    assert [tuple(values.values()) for values in grid] == [(a, b) for a in (1, 2, 3) for b in (0.0, 0.5)]


def test_a_random_search_draws_from_each_distribution_and_its_start_does_not_depend_on_its_length(
    tmp_path: Path,
) -> None:
    parameters = {
        "whole": {"min": 1, "max": 4},
        "even": {"min": 0.0, "max": 2.0},
        "log": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "steps": {"distribution": "q_uniform", "min": 0.0, "max": 10.0, "q": 2.5},
        "normal": {"distribution": "normal", "mu": 3.0, "sigma": 0.5},
        "skewed": {"distribution": "log_normal", "mu": 0.0, "sigma": 1.0},
        "weighted": {"values": ["a", "b", "c"], "probabilities": [0.8, 0.2, 0.0]},
        "fixed": {"value": "x"},
    }
    sweep = load_sweep(write(tmp_path, method="random", parameters=parameters))
    drawn = planned(sweep, trials=400, seed=1)
    assert drawn[:20] == planned(sweep, trials=20, seed=1)
    assert drawn[:20] != planned(sweep, trials=20, seed=2)
    column = {name: [values[name] for values in drawn] for name in parameters}
    assert set(column["whole"]) == {1, 2, 3, 4}
    assert 0 <= min(column["even"]) < 0.1 < 1.9 < max(column["even"]) <= 2
    assert 0.4 < np.mean(np.log10(column["log"]) < -2.5) < 0.6
    assert set(column["steps"]) <= {0.0, 2.5, 5.0, 7.5, 10.0}
    assert abs(np.mean(column["normal"]) - 3) < 0.1
    assert min(column["skewed"]) > 0
    assert 0.7 < np.mean([one == "a" for one in column["weighted"]]) < 0.9
    assert "c" not in column["weighted"]
    assert set(column["fixed"]) == {"x"}
    few = load_sweep(write(tmp_path, method="random", parameters={"a": {"values": [1, 2]}}))
    assert sorted(values["a"] for values in planned(few, trials=10)) == [1, 2]
    with pytest.raises(ValueError, match="method random has no number of trials; give --trials N"):
        planned(few)


def test_a_bayesian_search_learns_counts_earlier_trials_and_resumes_stopped_ones(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    parameters = {
        "x": {"min": -1.0, "max": 1.0},
        "n": {"min": 1, "max": 3},
        "rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0},
        "which": {"values": [{"a": 1}, {"a": 2}]},
        "fixed": {"value": 5},
    }
    sweep = load_sweep(write(tmp_path, method="bayes", parameters=parameters, run_cap=40))

    def loss(values: dict[str, Any]) -> float:
        return (values["x"] - 0.5) ** 2 + (values["which"] != {"a": 2})

    search = OptunaSearch(sweep, seed=0)
    assert search.total == 40
    known = []
    while (values := search.next()) is not None:
        assert values["fixed"] == 5
        assert -1 <= values["x"] <= 1
        known.append((values, loss(values)))
        search.tell(values, loss(values) if len(known) != 3 else None)  # the third failed
    assert len(known) == 40
    assert np.mean([value for _, value in known[20:]]) < np.mean([value for _, value in known[:10]]) / 2

    again = OptunaSearch(sweep, trials=42, known=known, unfinished=[known[0][0]])
    assert (again.num_known, again.total) == (40, 42)
    assert again.next() == known[0][0]
    assert again.next() is not None
    assert again.next() is None
    with pytest.raises(
        ValueError, match="parameter 'x' has distribution normal, which method bayes cannot draw"
    ):
        OptunaSearch(
            load_sweep(write(tmp_path, method="bayes", parameters={"x": {"distribution": "normal"}})),
            trials=1,
        )


def test_a_bayesian_search_keeps_the_metric_of_a_running_trial_that_it_proposes_again(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    parameters = {"model.update": {"values": ["every"]}}
    search = OptunaSearch(load_sweep(write(tmp_path, method="bayes", parameters=parameters)), trials=2)
    running, again = search.next(), search.next()
    assert running == again == {"model.update": "every"}
    search.tell(again, None)
    search.tell(running, 5.0)
    assert [(trial.state.name, trial.value) for trial in search._study.trials] == [
        ("COMPLETE", 5.0),
        ("FAIL", None),
    ]


def test_bayes_without_optuna_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep(write(tmp_path, method="bayes", run_cap=3))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'dct-seg\[optuna\]'"):
        OptunaSearch(sweep)


# The tables


def outcome(values: dict[str, Any], noc: float | None, *, prompt: str = "drag", number: int = 0) -> Outcome:
    if noc is None:
        return Outcome(values, "failed", error="out of memory", number=number)
    return Outcome(
        values,
        "finished",
        {prompt: {"NoC@90": noc, "AuC": 1 - noc / 20}},
        f"{number}.ckpt",
        number=number,
        seconds=10,
    )


def table1_outcomes() -> list[Outcome]:
    prompts = {row.overlay: row.prompt for row in TABLE_1}
    found = {"baseline": (5.0, 6.0), "spatial_dct": (3.0, 3.5), "full": (2.0, 2.5), "click_only": (4.0, 4.5)}
    return [
        outcome(
            {"config": f"configs/ablation/{name}.yaml", "seed_everything": seed}, noc, prompt=prompts[name]
        )
        for name, both in found.items()
        for seed, noc in enumerate(both)
    ]


def test_rows_are_settings_with_mean_and_spread_over_seeds() -> None:
    done = [
        outcome({"model.lr": lr, "trainer.max_epochs": 3, "model.seed": s}, 2 + 1000 * lr + s)
        for lr in (1e-3, 2e-3)
        for s in (0, 1)
    ]
    rows = rows_of(done)
    assert [row.values for row in rows] == [{"model.lr": 1e-3}, {"model.lr": 2e-3}]
    lines = table(rows)
    assert lines[0] == ["lr", "prompt", "seeds", "NoC@90", "AuC"]
    assert lines[1] == ["0.001", "drag", "2", "3.50 ± 0.71", "0.825 ± 0.035"]
    assert [float(line[5]) for line in numbers(done)[1:]] == [3.0, 4.0, 4.0, 5.0]


def test_the_papers_table_1_is_printed_exactly_next_to_ours() -> None:
    lines = paper_table(rows_of(table1_outcomes()))
    assert [line[2] for line in lines[1:]] == ["5.50 ± 0.71", "3.25 ± 0.35", "2.25 ± 0.35", "4.25 ± 0.35"]
    assert [line[4:] for line in lines[1:]] == [
        ["4.40", "0.904", "5.73", "0.901", "9.13", "0.821"],
        ["2.56", "0.967", "3.68", "0.943", "7.58", "0.880"],
        ["1.70", "0.979", "2.97", "0.952", "5.92", "0.907"],
        ["2.68", "0.961", "4.08", "0.940", "7.00", "0.889"],
    ]
    for row in TABLE_1:
        header = (ROOT / "configs" / "ablation" / f"{row.overlay}.yaml").read_text().splitlines()
        said = re.findall(
            r"\d+\.\d+",
            " ".join(line.partition("AuC: ")[2] or line for line in header if line.startswith("#"))[0:400],
        )
        assert [float(number) for number in said[:6]] == [
            number for pair in row.numbers.values() for number in pair
        ]
    assert len(paper_table(rows_of([outcome({"model.lr": 1}, 2.0)]))) == 1


def test_the_report_is_complete_has_an_image_and_names_the_failed_trials(tmp_path: Path) -> None:
    sweep = load_sweep(ROOT / "configs" / "sweeps" / "table1.yaml")
    text = write_report(
        sweep, [*table1_outcomes(), outcome({"config": "x.yaml", "seed_everything": 0}, None)], tmp_path
    )
    assert "8 of 9 trials finished" in text
    assert "- config x, seed 0: out of memory" in text
    assert "Best NoC@90 with prompt drag: config full, 2.25 ± 0.35." in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "paper.tex",
        "sweep.png",
        "table.csv",
        "table.md",
        "table.tex",
        "trials.csv",
    ]
    assert (tmp_path / "table.csv").read_text().splitlines()[1].startswith("baseline,drag,2,")
    assert r"\begin{tabular}" in (tmp_path / "paper.tex").read_text()
    assert np.asarray(Image.open(tmp_path / "sweep.png").convert("L")).std() > 10
    assert "0 of 1 trials finished" in report(sweep, [outcome({"config": "x.yaml"}, None)])


# The trials


def test_trials_share_the_machine() -> None:
    assert share_of_machine(0, 1, {}) == {}
    assert share_of_machine(2, 3, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4"}) == {}
    threads = share_of_machine(0, 2, {"CUDA_VISIBLE_DEVICES": "3"})
    assert threads["CUDA_VISIBLE_DEVICES"] == "3"
    assert int(threads["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)


def test_the_error_of_a_trial_is_its_last_line_without_colors(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("Epoch 0\r\x1b[31mdct-seg: error: no folder x\x1b[0m\nwandb: synced\n")
    assert last_error(log) == "no folder x"
    log.write_text("\n")
    assert last_error(log) == "no output"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration whose training takes seconds."""
    monkeypatch.chdir(tmp_path)
    keep_wandb_in(tmp_path, monkeypatch)
    callbacks = [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"save_last": True, "every_n_epochs": 1},
        }
    ]
    trainer = {key: value for key, value in CONFIG["trainer"].items() if key != "default_root_dir"}
    config = {**CONFIG, "trainer": {**trainer, "callbacks": callbacks}, "report": "after"}
    Path("base.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.slow
def test_four_killed_trials_are_resumed_and_leave_runs_that_wandb_reads(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    fork_trials(monkeypatch.setattr)
    write(here, name="four", command=[*COMMAND[:-1], "--trainer.logger=WandbLogger", "${args}"])
    args = ["sweep", "sweep.yaml", "--jobs", "2", "--out", "killed"]
    sweep = Command(*args, log=here / "first.log", has_forks=True)
    # the third starts when one of the first two has finished
    sweep.wait_until(lambda: len(list(here.glob("killed/trials/*/trial.json"))) >= 3)
    sweep.send(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while has_living_trials() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not has_living_trials()  # no trial outlives the sweep

    before = {
        trial.key: trial.folder / "outcome.json"
        for trial in trials_in(Path("killed"))
        if trial.read_outcome() is not None
    }
    assert 1 <= len(before) < 4
    times = {name: path.stat().st_mtime_ns for name, path in before.items()}
    assert main(args) == 2
    assert "--resume it, or give another --out" in capsys.readouterr().err
    assert main([*args, "--resume", "--", "--model.lr=3"]) == 2
    assert "was started with extra []" in capsys.readouterr().err

    assert main([*args, "--resume"]) == 0
    said = capsys.readouterr()
    assert "4 of 4 trials finished" in said.out
    assert "wandb sync killed/trials/*/log/wandb/offline-run-*" in said.out
    assert {name: path.stat().st_mtime_ns for name, path in before.items()} == times
    found = trials_in(Path("killed"))
    assert [trial.read_start()["attempts"] for trial in found if trial.key in before] == [1] * len(before)
    assert any(
        trial.read_start()["attempts"] == 2 for trial in found
    )  # one was running when the sweep was killed

    last_runs = [sorted(trial.folder.glob("log/wandb/offline-run-*"))[-1] for trial in found]
    for trial, of_run in zip(found, records_of(last_runs), strict=True):
        outcome = trial.read_outcome()
        assert outcome is not None
        assert Path(outcome.checkpoint).is_file()
        (run,) = [record["run"] for record in of_run if record["type"] == "run"][-1:]
        assert run["run_group"] == "four"
        assert run["run_id"].startswith(trial.key)
        assert run["config"]["update"]["model.lr"] == trial.values["model.lr"]
        logged: dict[str, Any] = {}
        for record in of_run:
            if record["type"] == "history":
                logged.update(record["history"]["item"])
        assert logged["val/drag/NoC@90"] == pytest.approx(outcome.metrics["drag"]["NoC@90"])
    assert re.search(
        r"^\| lr +\| prompt +\| seeds \|", (here / "killed" / "table.md").read_text(), re.MULTILINE
    )

    assert main([*args, "--resume", "--dry-run"]) == 0
    assert "4 trials, 4 finished" in capsys.readouterr().out


def test_a_restarted_trial_never_resumes_from_its_failed_attempt(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dct_seg.sweep.running.subprocess.Popen", lambda *args, **options: None)
    plan = Plan(load_sweep(write(here)), here, has_wandb=False)
    trial = Trial.of({"model.lr": 1e-3, "seed_everything": 0}, here)
    checkpoint = trial.folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert f"--ckpt_path={checkpoint}" in plan.arguments(trial)  # a stopped attempt
    trial.write_outcome(outcome(trial.values, None))
    for _ in range(2):  # the second attempt is stopped before its first checkpoint
        assert not [word for word in plan.arguments(trial) if "--ckpt_path" in word]
        _Running(plan, trial, 1, 0)


@pytest.mark.slow
def test_a_failed_trial_is_reported_the_others_continue_and_it_is_restarted(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_trials(monkeypatch.setattr)
    parameters = {"model.network.click_encoder": {"values": ["Dsk", "Disk"]}}
    args = ["sweep", str(write(here, parameters=parameters)), "--out", "out"]
    assert main(args) == 1
    said = capsys.readouterr()
    assert "1 of 2 trials finished" in said.out
    assert "- click_encoder Dsk: unknown click encoder 'Dsk'; did you mean 'Disk'?" in said.out
    assert main([*args, "--resume"]) == 1
    capsys.readouterr()
    wrong = Trial.of({"model.network.click_encoder": "Dsk"}, Path("out"))
    assert wrong.read_start()["attempts"] == 2


def test_missing_files_are_reported_before_any_trial(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(here))
    Path("base.yaml").unlink()
    assert main(["sweep", path]) == 2
    assert "the sweep's trials read base.yaml, which is not in" in capsys.readouterr().err
    assert main(["sweep", path, "--jobs", "0"]) == 2
    assert "--jobs must be at least 1, got 0" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_two_sweeps_do_not_share_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    path = str(write(here))
    Path("out").mkdir()
    with FileLock("out/.lock"):
        assert main(["sweep", path, "--out", "out"]) == 2
    assert "another dct-seg sweep is running in out" in capsys.readouterr().err


def test_a_bayesian_sweep_is_resumed_only_with_the_same_parameters_and_metric(tmp_path: Path) -> None:
    def prepare(*, resume: bool = True, **changes: Any) -> None:
        parameters = changes.pop("parameters", {"model.lr": {"min": 0.1, "max": 0.2}})
        sweep = load_sweep(write(tmp_path, method="bayes", parameters=parameters, **changes))
        _prepare_folder(Plan(sweep, tmp_path / "out"), argparse.Namespace(seed=0, resume=resume))

    prepare(resume=False)
    prepare()
    for changes in (
        {"parameters": {"model.lr": {"min": 0.1, "max": 0.3}}},
        {"parameters": {"model.lr": {"min": 0.1, "max": 0.2}, "seed_everything": {"values": [1, 2]}}},
    ):
        with pytest.raises(ValueError, match="the trials would not be comparable, give another --out"):
            prepare(**changes)
