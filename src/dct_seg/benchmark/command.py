"""``dct-seg benchmark``: run and compare benchmarks from the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, get_args

from dct_seg.arguments import CommandParser
from dct_seg.benchmark.compare import compare_runs
from dct_seg.benchmark.curves import draw_curves
from dct_seg.benchmark.parallel import is_first_rank
from dct_seg.benchmark.results import Results
from dct_seg.benchmark.runner import MethodSpec, run_benchmark
from dct_seg.benchmark.table_2 import covered, join_runs, table_2_markdown, write_table_2
from dct_seg.benchmark.tables import (
    as_csv,
    as_latex,
    comparison_table,
    detail_table,
    markdown,
    robustness_table,
)
from dct_seg.files import LAST_CHECKPOINTS, newest_file, write_whole
from dct_seg.methods import METHODS
from dct_seg.signals import advising
from dct_seg.simulation import Prompt, Rule

DONE, SAMPLES_FAILED = 0, 1
"""Exit codes: success, and failed samples."""


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg benchmark``, ``compare`` included.

    Returns:
        Exit code: 0, or 1 when a sample failed.

    Raises:
        ValueError: When an argument is wrong.
        FileNotFoundError: When a folder or file is missing.
    """
    if args[:1] == ["compare"]:
        parser = CommandParser(
            prog="dct-seg benchmark compare", description="Compare run B with run A, sample by sample."
        )
        add_compare_arguments(parser)
        given = parser.parse_args(args[1:])
        sys.stdout.write(compare_runs(given.a, given.b, out=given.out, first=given.first))
        return DONE
    if args[:1] == ["table2"]:
        parser = CommandParser(
            prog="dct-seg benchmark table2", description="Write Table 2 from several runs."
        )
        parser.add_argument("folders", nargs="+", metavar="DIR", help="output folders of benchmark runs")
        parser.add_argument("--out", required=True, metavar="DIR", help="folder for table2.md, .csv and .tex")
        given = parser.parse_args(args[1:])
        sys.stdout.write(join_runs(given.folders, given.out))
        return DONE
    parser = CommandParser(
        prog="dct-seg benchmark",
        description="Run interactive segmentation methods on datasets under the standard protocol.",
        epilog=(
            "`dct-seg benchmark compare A B` compares two runs sample by sample; "
            "`dct-seg benchmark table2 A B --out C` prints them next to the paper's Table 2."
        ),
    )
    add_arguments(parser)
    given = parser.parse_args(args)
    if given.full and given.target is not None:
        raise ValueError(
            f"--full makes all clicks, but --target {given.target:g} stops earlier; give only one of them"
        )
    given.out = given.out or _new_folder()
    with advising(f"to resume, run the same command with --out {given.out}"):
        return _benchmark(given)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dct-seg benchmark``."""
    parser.add_argument(
        "--method",
        default="dctnet",
        metavar="NAME[,NAME]",
        help="registered methods; LABEL=NAME runs one under another label",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME_OR_PATH",
        help="weights of dctnet: a shipped model, a file or a checkpoint (dct-lite0)",
    )
    parser.add_argument("--checkpoint", dest="weights", help=argparse.SUPPRESS)  # former name
    parser.add_argument(
        "--checkpoints",
        metavar="DIR",
        help="load the newest last*.ckpt of each learned method from DIR/LABEL/checkpoints, or DIR/ROW/...",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="METHOD.KEY=VALUE",
        help="option of a method; may be repeated",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=PATH",
        help="datasets and their folders; may be repeated",
    )
    parser.add_argument(
        "--prompt",
        required=True,
        choices=get_args(Prompt),
        help="prompt of the simulated user; with drag, the method gets the radius of each click",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=(
            "folder for results, tables and images; a run in it is resumed (a new folder runs/benchmark/TIME)"
        ),
    )
    parser.add_argument(
        "--max-clicks", type=int, default=20, metavar="N", help="maximum clicks per sample (20)"
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="IOU",
        help="stop a sample at this IoU: faster, but without mIoU@k, AuC and curves (default: all clicks)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="make all clicks, which is the default; not with --target",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability above which a pixel counts as object (0.5)",
    )
    parser.add_argument(
        "--rule",
        default="max_distance",
        choices=get_args(Rule),
        help="rule of the simulated user (max_distance)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine (1); torchrun starts ranks",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help=(
            "threads per process (the cores divided by the workers); float32 results are bit-identical only "
            "with the same N"
        ),
    )
    parser.add_argument(
        "--click-jitter",
        type=float,
        default=0.0,
        metavar="PX",
        help="robustness: move clicks by up to PX pixels",
    )
    parser.add_argument(
        "--radius-noise",
        type=float,
        default=0.0,
        metavar="F",
        help="robustness: change the length of drags by up to the fraction F",
    )
    parser.add_argument(
        "--seed", type=int, action="append", metavar="N", help="seed of a robustness run; may be repeated (0)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples of each dataset")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="F",
        help="only the images that data.holdout F excludes from training",
    )
    parser.add_argument(
        "--strips",
        type=int,
        default=20,
        metavar="N",
        help="draw strips of the first N samples of each dataset and method (20)",
    )


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dct-seg benchmark compare``."""
    parser.add_argument(
        "a",
        metavar="A",
        help="reference run: a folder or results.json; FOLDER:METHOD if it has several methods",
    )
    parser.add_argument("b", metavar="B", help="run to compare: a folder or results.json, or FOLDER:METHOD")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="write compare.md, and images of the samples that changed most, where both runs have strips",
    )
    parser.add_argument(
        "--first",
        type=int,
        default=10,
        metavar="N",
        help="number of samples to list and draw, both for gains and for losses (10)",
    )


def write_tables(results: Results, folder: Path) -> None:
    """Write the tables as Markdown, CSV and LaTeX, and the curves of a full run."""
    write_whole(folder / "table.md", markdown(results))
    write_whole(folder / "table.csv", as_csv(comparison_table(results)))
    write_whole(folder / "details.csv", as_csv(detail_table(results)))
    protocol = f"% Protocol: {results.settings.describe()}"
    write_whole(folder / "table.tex", f"{protocol}\n{as_latex(comparison_table(results))}\n")
    robustness = robustness_table(results)
    if len(robustness) > 1:
        write_whole(folder / "robustness.csv", as_csv(robustness))
    if covered([results]) > 1:
        write_table_2([results], folder)
    draw_curves(results, folder)


def _benchmark(args: argparse.Namespace) -> int:
    results = run_benchmark(
        parse_methods(args.method, args.option, args.weights, args.checkpoints),
        parse_data(args.data),
        prompt=args.prompt,
        out=args.out,
        max_clicks=args.max_clicks,
        target=args.target,
        full=args.full,
        threshold=args.threshold,
        rule=args.rule,
        workers=args.workers,
        threads=args.threads,
        seeds=tuple(args.seed or (0,)),
        click_jitter=args.click_jitter,
        radius_noise=args.radius_noise,
        limit=args.limit,
        held_out=args.held_out,
        num_strips=args.strips,
    )
    if is_first_rank():
        write_tables(results, Path(args.out))
        paper = f"{table_2_markdown([results])}\n" if covered([results]) > 1 else ""
        sys.stdout.write(f"{markdown(results)}\n{paper}written to {args.out}\n")
    return SAMPLES_FAILED if results.failed else DONE


def _new_folder() -> str:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several ranks must write to the same folder, got no --out; give --out DIR")
    name = f"runs/benchmark/{time.strftime('%Y%m%d-%H%M%S')}"
    others = (f"{name}-{number}" for number in count(2))
    return next(path for path in chain([name], others) if not Path(path).exists())


def parse_methods(
    names: str, options: Sequence[str], weights: str | None = None, checkpoints: str | None = None
) -> dict[str, MethodSpec]:
    """Collect the methods of ``--method``, ``--option``, ``--weights`` and ``--checkpoints``.

    Raises:
        ValueError: When an option belongs to no requested method, or is not METHOD.KEY=VALUE.

    Examples:
        >>> parse_methods("disc", ["disc.seed_radius=3"])
        {'disc': MethodSpec(name='disc', options={'seed_radius': 3})}
    """
    entries = [entry.strip().partition("=") for entry in names.split(",")]
    wanted = {label: name or label for label, _, name in entries if label}
    _check_labels("--method", [label for label, _, _ in entries if label], "LABEL=METHOD")
    given: dict[str, dict[str, Any]] = {label: {} for label in wanted}
    if weights is not None:
        labels = [label for label, name in wanted.items() if name == "dctnet"]
        if len(labels) != 1:
            raise ValueError(
                f"--weights needs exactly one dctnet in --method, got {names}; use "
                "--option LABEL.checkpoint=FILE"
            )
        given[labels[0]]["checkpoint"] = weights
    for option in options:
        key, equals, value = option.partition("=")
        label, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise ValueError(f"--option must be METHOD.KEY=VALUE, got '{option}'")
        if label not in given:
            raise ValueError(
                f"--option {option} is for '{label}', but --method is {names}; name one of its labels"
            )
        given[label][name] = _value(value)
    learned = [name for name in wanted.values() if getattr(METHODS.get(name), "row", None) is not None]
    if checkpoints is not None and not learned:
        raise ValueError(f"--checkpoints needs a learned method, got --method {names}; omit --checkpoints")
    for label, name in wanted.items() if checkpoints is not None else ():
        row = getattr(METHODS.get(name), "row", None)
        if row is not None and "checkpoint" not in given[label]:
            given[label]["checkpoint"] = str(_last_checkpoint(Path(checkpoints or "."), label, row))
    return {label: MethodSpec(name, given[label]) for label, name in wanted.items()}


def _last_checkpoint(folder: Path, label: str, row: str) -> Path:
    """Find the newest checkpoint of the method's own run, or of the row whose weights it uses."""
    places = [folder / name / "checkpoints" / "last.ckpt" for name in dict.fromkeys((label, row))]
    for place in places:
        found = newest_file(place.parent.glob(LAST_CHECKPOINTS))
        if found is not None:
            return found
    raise FileNotFoundError(
        f"method '{label}' has no {' or '.join(map(str, places))}; train it with configs/table2/{row}.yaml"
    )


def parse_data(entries: Sequence[str]) -> Mapping[str, str | None]:
    """Parse ``--data NAME=PATH``; a dataset without files is given by its name only.

    Raises:
        ValueError: When two datasets have one name.

    Examples:
        >>> parse_data(["GrabCut=data/GrabCut", "Shapes"])
        {'GrabCut': 'data/GrabCut', 'Shapes': None}
    """
    parts = [entry.partition("=") for entry in entries]
    _check_labels(
        "--data", [name for name, _, _ in parts], "LABEL=PATH (for a folder with images/ and masks/)"
    )
    return {name: path or None for name, _, path in parts}


def _check_labels(argument: str, labels: Sequence[str], form: str) -> None:
    """Raise ValueError when a label is repeated, since the second would replace the first."""
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{argument} names '{label}' twice; give each a different label, as in {form}")


def _value(text: str) -> Any:
    """Parse a JSON number, true, false or null; anything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
