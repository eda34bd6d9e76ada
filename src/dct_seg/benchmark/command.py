"""``dct-seg benchmark``: command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from dct_seg.arguments import CommandParser
from dct_seg.benchmark.compare import compare_runs
from dct_seg.benchmark.curves import draw_curves
from dct_seg.benchmark.parallel import is_first_rank
from dct_seg.benchmark.results import Results
from dct_seg.benchmark.runner import MethodSpec, run_benchmark
from dct_seg.benchmark.table_2 import CAPTION, covered, join_runs, table_2, write_table_2
from dct_seg.benchmark.tables import (
    as_csv,
    as_latex,
    as_markdown,
    comparison_table,
    detail_table,
    markdown,
    robustness_table,
)
from dct_seg.files import write_whole
from dct_seg.methods import METHODS
from dct_seg.simulation import Prompt, Rule
from dct_seg.stopping import advising

DONE, SAMPLES_FAILED = 0, 1
"""Exit codes."""


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg benchmark``, ``compare`` included.

    Returns:
        0, 1 when samples failed.

    Raises:
        ValueError: When an argument is wrong.
        FileNotFoundError: When a folder or file is missing.
    """
    if args[:1] == ["compare"]:
        parser = CommandParser(prog="dct-seg benchmark compare", description="B against A, sample by sample.")
        add_compare_arguments(parser)
        given = parser.parse_args(args[1:])
        sys.stdout.write(compare_runs(given.a, given.b, out=given.out, first=given.first))
        return DONE
    if args[:1] == ["table2"]:
        parser = CommandParser(prog="dct-seg benchmark table2", description="Table 2 of several runs.")
        parser.add_argument("folders", nargs="+", metavar="DIR", help="folders that a benchmark wrote to")
        parser.add_argument("--out", required=True, metavar="DIR", help="folder for table2.md, .csv and .tex")
        given = parser.parse_args(args[1:])
        sys.stdout.write(join_runs(given.folders, given.out))
        return DONE
    parser = CommandParser(
        prog="dct-seg benchmark",
        description="Run interactive segmentation methods over datasets under the field's protocol.",
        epilog=(
            "`dct-seg benchmark compare A B` compares two runs sample by sample; "
            "`dct-seg benchmark table2 A B --out C` prints the paper's Table 2 beside them."
        ),
    )
    add_arguments(parser)
    given = parser.parse_args(args)
    given.out = given.out or _new_folder()
    with advising(f"the same command with --out {given.out} goes on from here"):
        return _benchmark(given)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dct-seg benchmark``."""
    parser.add_argument(
        "--method",
        default="dctnet",
        metavar="NAME[,NAME]",
        help="registered methods; LABEL=NAME to run one under another label",
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
        help="take the weights of each learned method from DIR/LABEL/checkpoints/last.ckpt, or DIR/ROW/...",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="METHOD.KEY=VALUE",
        help="option of a method; may be repeated",
    )
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="NAME=PATH", help="datasets and their folders"
    )
    parser.add_argument(
        "--prompt", required=True, choices=get_args(Prompt), help="drag tells the method each click's radius"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=(
            "where results, tables and images go; a second run goes on from there (a new runs/benchmark/TIME)"
        ),
    )
    parser.add_argument(
        "--max-clicks", type=int, default=20, metavar="N", help="maximum clicks per sample (20)"
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="IOU",
        help="a sample is done at this IoU: faster, but no mIoU@k, AuC and curves",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="make all clicks, for mIoU@k, AuC and curves; not with --target",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="minimum probability of an object pixel (0.5)",
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
        help="processes on this machine (1); torchrun makes ranks",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help=(
            "threads in each process (the cores, shared among the workers); float32 networks give the same "
            "last digit at the same N only"
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
        help="robustness: relative error of drags, up to F",
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
        help="only the images that data.holdout F keeps out of training",
    )
    parser.add_argument(
        "--strips",
        type=int,
        default=20,
        metavar="N",
        help="images of the first N samples of each dataset and method (20)",
    )


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dct-seg benchmark compare``."""
    parser.add_argument(
        "a",
        metavar="A",
        help="folder or results.json to compare with; FOLDER:METHOD if it has several methods",
    )
    parser.add_argument("b", metavar="B", help="folder or results.json to judge; or FOLDER:METHOD")
    parser.add_argument(
        "--out", metavar="DIR", help="write compare.md, and images of the samples that changed most"
    )
    parser.add_argument(
        "--first", type=int, default=10, metavar="N", help="samples to list and draw, better and worse (10)"
    )


def write_tables(results: Results, folder: Path) -> None:
    """Write ``table.md``, ``table.csv`` and ``details.csv``, ``table.tex``, ``robustness.csv``, and the
    curves of a full run.
    """
    write_whole(folder / "table.md", markdown(results))
    write_whole(folder / "table.csv", as_csv(comparison_table(results)))
    write_whole(folder / "details.csv", as_csv(detail_table(results)))
    write_whole(folder / "table.tex", as_latex(comparison_table(results)) + "\n")
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
        rows = covered([results]) > 1
        paper = f"{CAPTION}\n\n{as_markdown(table_2([results]))}\n\n" if rows else ""
        sys.stdout.write(f"{markdown(results)}\n{paper}written to {args.out}\n")
    return SAMPLES_FAILED if results.failed else DONE


def _new_folder() -> str:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several ranks write to one folder; name it with --out DIR")
    return f"runs/benchmark/{time.strftime('%Y%m%d-%H%M%S')}"


def parse_methods(
    names: str, options: Sequence[str], weights: str | None = None, checkpoints: str | None = None
) -> dict[str, MethodSpec]:
    """Collect the methods of ``--method``, ``--option``, ``--weights`` and ``--checkpoints``.

    Raises:
        ValueError: When an option belongs to no requested method, or is no METHOD.KEY=VALUE.

    Examples:
        >>> parse_methods("disc", ["disc.seed_radius=3"])
        {'disc': MethodSpec(name='disc', options={'seed_radius': 3})}
    """
    wanted = {
        label: name or label
        for label, _, name in (entry.strip().partition("=") for entry in names.split(","))
        if label
    }
    given: dict[str, dict[str, Any]] = {label: {} for label in wanted}
    if weights is not None:
        labels = [label for label, name in wanted.items() if name == "dctnet"]
        if len(labels) != 1:
            raise ValueError(
                f"--weights is for one dctnet, and --method is {names}; give --option LABEL.checkpoint=FILE"
            )
        given[labels[0]]["checkpoint"] = weights
    for option in options:
        key, equals, value = option.partition("=")
        label, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise ValueError(f"--option wants METHOD.KEY=VALUE, got '{option}'")
        if label not in given:
            raise ValueError(f"--option {option} is for '{label}', but --method is {names}")
        given[label][name] = _value(value)
    for label, name in wanted.items() if checkpoints is not None else ():
        row = getattr(METHODS.get(name), "row", None)
        if row is not None and "checkpoint" not in given[label]:
            given[label]["checkpoint"] = str(_last_checkpoint(Path(checkpoints or "."), label, row))
    return {label: MethodSpec(name, given[label]) for label, name in wanted.items()}


def _last_checkpoint(folder: Path, label: str, row: str) -> Path:
    """Newest checkpoint of the method's own run, or of the row whose weights it uses."""
    places = [folder / name / "checkpoints" / "last.ckpt" for name in dict.fromkeys((label, row))]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"no {' or '.join(map(str, places))} for method '{label}'; configs/table2/{row}.yaml trains it"
    )


def parse_data(entries: Sequence[str]) -> Mapping[str, str | None]:
    """The datasets of ``--data NAME=PATH``; a set without files is a name alone.

    Examples:
        >>> parse_data(["GrabCut=data/GrabCut", "Shapes"])
        {'GrabCut': 'data/GrabCut', 'Shapes': None}
    """
    return {name: path or None for name, _, path in (entry.partition("=") for entry in entries)}


def _value(text: str) -> Any:
    """Parse a JSON number, true, false or null; anything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
