"""``dct-seg sweep``: run the trials of a sweep file and write tables and a plot."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dct_seg.arguments import CommandParser
from dct_seg.configurations import find, is_known
from dct_seg.files import lock_folder, naming, write_whole
from dct_seg.signals import Stopped
from dct_seg.sweep.running import Plan, run_trials
from dct_seg.sweep.search import Listed, OptunaSearch, Search, planned
from dct_seg.sweep.space import Sweep, fit_arguments, load_sweep
from dct_seg.sweep.trial import OUTCOME, Outcome, Trial, describe, has_wandb, trials_in

DONE, TRIALS_FAILED = 0, 1
"""Exit codes: success, and failed trials."""
SETTING = "sweep.json"
"""File with the settings of a sweep's folder; the sweep is resumed only with the same settings."""


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg sweep``.

    Returns:
        Exit code: 0, or 1 when a trial failed.

    Raises:
        ValueError: When an argument is wrong.
        FileNotFoundError: When a file is missing.
    """
    own, extra = _split(args)
    given = _parser().parse_args(own)
    for name in ("jobs", "trials"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(given, name)}")
    sweep = load_sweep(find(given.file))
    out = Path(given.out or Path("runs/sweeps") / sweep.name)
    plan = Plan(sweep, out, given.base, tuple(extra), given.jobs, has_wandb())
    _check_files(plan)
    if given.dry_run:
        return _show(plan, given)
    with lock_folder(out, "dct-seg sweep"):
        _prepare_folder(plan, given)
        return _run(plan, given)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments at ``--`` into ours and those of each trial."""
    place = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:place]), list(argv[place + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="dct-seg sweep",
        usage="%(prog)s FILE [options] [-- arguments of each trial]",
        description=(
            "Run a W&B sweep file on this machine, without a server: each trial is a process and an offline "
            "W&B run."
        ),
        epilog=("Example: dct-seg sweep sweeps/sigma --base folder --jobs 2 -- --data.root DIR"),
    )
    parser.add_argument(
        "file", metavar="FILE", help="a sweep file, or the name of a shipped one such as sweeps/sigma"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="parallel trials; they share the cores and take GPUs in turn (1)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip finished trials, resume stopped ones, restart failed ones",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the trials, run none")
    parser.add_argument("--out", metavar="DIR", help="folder for trials, tables and plot (runs/sweeps/NAME)")
    parser.add_argument(
        "--base",
        metavar="FILE",
        help="configuration that replaces the sweep's own: a file, or a shipped name such as folder",
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="maximum trials (default: run_cap of the file; random and bayes need either)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of random and bayes (0); training uses seed_everything",
    )
    return parser


def _check_files(plan: Plan) -> None:
    """Check that the files that each trial reads exist."""
    words = fit_arguments(plan.sweep, {}, base=plan.base, extra=plan.extra)
    paths = [after for word, after in zip(words, [*words[1:], ""], strict=True) if word == "--config"]
    paths += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    for parameter in plan.sweep.parameters:
        paths += [str(choice) for choice in parameter.choices or [] if parameter.name == "config"]
    missing = next((path for path in paths if not is_known(path)), None)
    if missing is not None:
        raise FileNotFoundError(
            f"the sweep's trials read {missing}, which is not in {Path.cwd()}; change the folder, or give "
            "--base FILE"
        )


def _search(plan: Plan, args: argparse.Namespace) -> Search:
    if plan.sweep.method != "bayes":
        return Listed(planned(plan.sweep, trials=args.trials, seed=args.seed))
    known, unfinished = [], []
    for trial in trials_in(plan.out):
        outcome = trial.read_outcome()
        if outcome is None or not outcome.is_finished or plan.sweep.metric is None:
            unfinished.append(trial.values)
        else:
            known.append((trial.values, plan.sweep.metric.of(outcome.metrics)))
    return OptunaSearch(plan.sweep, trials=args.trials, seed=args.seed, known=known, unfinished=unfinished)


def _show(plan: Plan, args: argparse.Namespace) -> int:
    if plan.sweep.method == "bayes":
        search = _search(plan, args)
        trial = Trial.of(search.next() or {}, plan.out)
        lines = [
            f"bayes: {search.total} trials, each chosen from the earlier results; the next: "
            f"{describe(trial.values)}"
        ]
        trials = [trial]
    else:
        trials = [
            Trial.of(values, plan.out) for values in planned(plan.sweep, trials=args.trials, seed=args.seed)
        ]
        lines = [
            f"{number:>4}  {trial.key}  {_state(trial):<9} {describe(trial.values)}"
            for number, trial in enumerate(trials, 1)
        ]
        lines.append(
            f"{len(trials)} trials, {sum(_state(trial) == 'finished' for trial in trials)} finished, in "
            f"{plan.out}"
        )
    lines.append(f"the first: dct-seg {shlex.join(plan.arguments(trials[0]))}")
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def _state(trial: Trial) -> str:
    outcome = trial.read_outcome()
    return outcome.state if outcome else "stopped" if trial.folder.is_dir() else "new"


def _prepare_folder(plan: Plan, args: argparse.Namespace) -> None:
    """Write the settings of a new folder, or check those of an existing one."""
    given: dict[str, Any] = {
        "sweep": plan.sweep.name,
        "command": list(plan.sweep.command),
        "base": plan.base,
        "extra": list(plan.extra),
        "seed": args.seed,
    }
    if plan.sweep.method == "bayes":  # the trials of grid and random do not depend on each other
        metric = plan.sweep.metric
        given["metric"] = None if metric is None else {"name": metric.name, "goal": metric.goal}
        given["parameters"] = {
            p.name: {"distribution": p.distribution, **p.options} for p in plan.sweep.parameters
        }
    given = json.loads(json.dumps(given))  # as it is read back
    path = plan.out / SETTING
    if not path.is_file():
        write_whole(path, json.dumps(given, indent=1))
        return
    with naming(
        f"{path} does not contain the settings of a sweep", "move its folder away, or give another --out"
    ):
        before = json.loads(path.read_bytes())
        differing = [
            f"{key} {before.get(key)!r}, now {value!r}"
            for key, value in given.items()
            if before.get(key) != value
        ]
    if differing:
        raise ValueError(
            f"{plan.out} was started with {'; '.join(differing)}; the trials would not be comparable, give "
            "another --out"
        )
    if not args.resume:
        ended = len(list(plan.out.glob(f"trials/*/{OUTCOME}")))
        raise ValueError(
            f"{plan.out} contains a sweep with {ended} ended trials; --resume it, or give another --out"
        )


def _run(plan: Plan, args: argparse.Namespace) -> int:
    sweep, search = plan.sweep, _search(plan, args)
    write = sys.stderr.write
    if sweep.ignored:
        write(
            f"{', '.join(sweep.ignored)} of the sweep file has no effect here: every trial runs to its end\n"
        )
    if not plan.has_wandb:
        write(
            "W&B is not installed, so trials log to CSV files; pip install 'dct-seg[wandb]' makes each an "
            "offline run\n"
        )
    done: list[Outcome] = []
    at_work: dict[str, str] = {}
    with tqdm(total=search.total, initial=search.num_known, unit="trial", disable=None, smoothing=0) as bar:

        def on_start(trial: Trial) -> None:
            at_work[trial.key] = describe(trial.values)
            bar.set_postfix_str("; ".join(at_work.values())[:80])

        def on_end(outcome: Outcome) -> None:
            done.append(outcome)
            was_run = at_work.pop(Trial.of(outcome.values, plan.out).key, None)
            if was_run is not None:
                result = _in_short(sweep, outcome) if outcome.is_finished else f"failed: {outcome.error}"
                bar.write(f"{was_run}: {result} ({outcome.seconds:.0f} s)", file=sys.stderr)
            bar.set_postfix_str("; ".join(at_work.values())[:80])
            bar.update()

        try:
            run_trials(plan, search, on_start, on_end)
        except Stopped as stop:
            bar.close()
            ended_of_all = f"{search.num_known + len(done)} of {search.total} trials ended"
            stop.advice = f"to resume, run the same command with --resume; {ended_of_all}"
            raise
    from dct_seg.sweep.tables import write_report

    # In order of start; a resumed sweep also has trials from earlier runs.
    ended = [trial.read_outcome() for trial in trials_in(plan.out)]
    outcomes = [outcome for outcome in ended if outcome is not None]
    if not isinstance(search, OptunaSearch):
        asked = {
            Trial.of(values, plan.out).key for values in planned(sweep, trials=args.trials, seed=args.seed)
        }
        outcomes = [outcome for outcome in outcomes if Trial.of(outcome.values, plan.out).key in asked]
    sys.stdout.write(f"{write_report(sweep, outcomes, plan.out)}\nwritten to {plan.out}\n")
    if plan.has_wandb and os.environ.get("WANDB_MODE", "offline") == "offline":
        sys.stdout.write(
            f"`wandb sync {plan.out}/trials/*/log/wandb/offline-run-*` uploads the runs as group "
            f"{sweep.name}\n"
        )
    return DONE if all(outcome.is_finished for outcome in outcomes) else TRIALS_FAILED


def _in_short(sweep: Sweep, outcome: Outcome) -> str:
    value = sweep.metric.of(outcome.metrics) if sweep.metric else None
    if sweep.metric and value is not None:
        return f"{sweep.metric.name} {value:.3f}"
    return ", ".join(
        f"{prompt} NoC@90 {metrics['NoC@90']:.2f}"
        for prompt, metrics in outcome.metrics.items()
        if "NoC@90" in metrics
    )
