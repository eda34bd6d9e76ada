"""The ``dct-seg`` command. What needs no Trainer is dispatched before Lightning is imported, so that help
answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from dct_seg.arguments import OneLineArgumentParser

HELP = """\
usage: dct-seg COMMAND ...

Click and click-and-drag segmentation with DCT-Net.

training
  fit         train on drawn shapes, a folder of images and masks, SBD, COCO ...
  validate    measure a checkpoint on the validation part of its data
  test        the same on the test part
  sweep       a W&B sweep file on this machine, without a server: trials side by side, a table over seeds
using
  annotate    press on an object, drag to its edge: masks of a folder of pictures, in the browser
  predict     masks of pictures from clicks given here, or from the annotator's click log
  cvat-function  the files that deploy DCT-Net as a serverless interactor of CVAT
measuring
  benchmark   the field's protocol: any method, any data set, clicks or drags
looking
  list        encoders, data sets, methods, pretrained models, backbones
  data check  what in a folder of images and masks would spoil training

`dct-seg COMMAND --help` tells more. Start with: dct-seg fit --config configs/quickstart.yaml
"""


def main(args: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 when a check found something or a sample failed; 2 for a mistake in what was given, told in one
        line on stderr.
    """
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if args else 2
    if args[0] == "--version":
        from dct_seg import __version__

        print(__version__)
        return 0
    try:
        return _run(args[0], args[1:])
    except KeyboardInterrupt:
        print("dct-seg: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if os.environ.get("DCT_SEG_TRACEBACK"):
            raise
        print(f"dct-seg: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _run(command: str, args: list[str]) -> int:
    if command in ("fit", "validate", "test"):
        from dct_seg.training.command import TrainingCLI

        TrainingCLI([command, *args])
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "annotate": _annotate,
        "benchmark": _benchmark,
        "cvat-function": _cvat_function,
        "data": _data,
        "list": _list,
        "predict": _predict,
        "sweep": _sweep,
    }
    if command not in commands:
        from dct_seg.registry import unknown_name

        raise unknown_name("command", command, sorted([*commands, "fit", "validate", "test"]))
    return commands[command](args)


def _annotate(args: list[str]) -> int:
    from dct_seg.app.command import main as run

    return run(args)


def _predict(args: list[str]) -> int:
    from dct_seg.app.predict_command import main as run

    return run(args)


def _benchmark(args: list[str]) -> int:
    from dct_seg.benchmark.command import main as run

    return run(args)


def _cvat_function(args: list[str]) -> int:
    from dct_seg.adapters.cvat_nuclio import main as run

    return run(args)


def _sweep(args: list[str]) -> int:
    from dct_seg.sweep.command import main as run

    return run(args)


def _data(args: list[str]) -> int:
    parser = OneLineArgumentParser(prog="dct-seg data", description="Look after data.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=OneLineArgumentParser)
    check = actions.add_parser("check", help="find what in a folder of images and masks would spoil training")
    check.add_argument("folder", help="a folder with images/ and masks/")
    check.add_argument("--json", action="store_true", help="print everything found as JSON")
    check.add_argument(
        "--first", type=int, default=5, metavar="N", help="offenders shown of each kind (default: 5)"
    )
    given = parser.parse_args(args)
    from dct_seg.data.check import check_folder

    report = check_folder(given.folder)
    print(json.dumps(report.to_json(), indent=1) if given.json else report.render(given.first))
    return 0 if report.ok else 1


def _list(args: list[str]) -> int:
    kinds = ("encoders", "datasets", "methods", "models", "backbones")
    parser = OneLineArgumentParser(prog="dct-seg list", description="The names that can be used.")
    parser.add_argument("kind", nargs="?", choices=kinds, help="one kind only")
    parser.add_argument("pattern", nargs="?", default="*", help="backbones only: which, e.g. 'resnet*'")
    given = parser.parse_args(args)
    for kind in [given.kind] if given.kind else kinds[:-1]:
        names = _names(kind, given.pattern)
        print(f"{kind}: {', '.join(names)}" if not given.kind else "\n".join(names))
    if not given.kind:
        print("backbones: `dct-seg list backbones 'resnet*'` shows timm's that suit")
    return 0


def _names(kind: str, pattern: str) -> list[str]:
    if kind == "encoders":
        from dct_seg.click_encoders import CLICK_ENCODERS

        return CLICK_ENCODERS.names()
    if kind == "datasets":
        from dct_seg.data.datasets import DATASETS

        return DATASETS.names()
    if kind == "methods":
        from dct_seg.methods import METHODS

        return METHODS.names()
    if kind == "models":
        from dct_seg.models.pretrained import names

        return names()
    from dct_seg.models.backbone import suitable_backbones

    return suitable_backbones(pattern)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__) if len(lines) <= 1 else " ".join(lines)[:1000]


if __name__ == "__main__":
    sys.exit(main())
