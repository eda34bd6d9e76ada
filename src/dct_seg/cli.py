"""Command ``dct-seg``.

A command's module is imported when the command runs, so that ``dct-seg --help`` is fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from dct_seg.arguments import CommandParser, UsageError
from dct_seg.files import not_a_folder
from dct_seg.signals import Stopped, raising_stopped


class Command(NamedTuple):
    """Command of ``dct-seg``.

    Args:
        name: Word after ``dct-seg``.
        group: Heading in ``dct-seg --help``, shared by related commands.
        run: ``module:function`` below ``dct_seg``. The function takes the arguments after the name and
            returns the exit code: 0, or 1 when a check found something or a sample failed. It raises an
            exception with a one-line message for an error in the arguments.
        summary: Line in ``dct-seg --help``.
    """

    name: str
    group: str
    run: str
    summary: str


COMMANDS = (
    Command("fit", "training", "training.command:fit", "train on synthetic shapes, a folder, SBD, COCO ..."),
    Command("validate", "training", "training.command:validate", "measure a checkpoint on validation data"),
    Command(
        "test", "training", "training.command:test", "measure as validate does, with metrics named test/"
    ),
    Command(
        "sweep", "training", "sweep.command:main", "run a W&B sweep file on this machine, without a server"
    ),
    Command("annotate", "using", "app.command:main", "annotate a folder of images in the browser"),
    Command("predict", "using", "app.predict_command:main", "predict masks from clicks or a click log"),
    Command("export", "using", "export.command:main", "write a network as ONNX or torch.export graphs"),
    Command("serve", "using", "adapters.serve_command:main", "serve click segmentation over HTTP"),
    Command(
        "label-studio",
        "using",
        "adapters.serve_command:label_studio",
        "serve as an ML backend of Label Studio",
    ),
    Command(
        "cvat-function",
        "using",
        "adapters.cvat_nuclio:main",
        "write the files of a serverless interactor for CVAT",
    ),
    Command(
        "benchmark",
        "measuring",
        "benchmark.command:main",
        "measure any method on any dataset, with clicks or drags",
    ),
    Command(
        "list",
        "looking",
        "cli:print_names",
        "list configs, encoders, datasets, losses, methods, models, networks, backbones",
    ),
    Command("data", "looking", "data.check:main", "`data check DIR` finds problems before training"),
)
"""All commands; add a line to add a command."""


def help_text() -> str:
    """Format the text of ``dct-seg --help``: each command under its group."""
    lines = ["usage: dct-seg COMMAND ...", "", "Click and click-and-drag segmentation with DCT-Net.", ""]
    group = ""
    for command in COMMANDS:
        if command.group != group:
            group = command.group
            lines.append(group)
        lines.append(f"  {command.name:<13}  {command.summary}")
    lines += [
        "",
        "`dct-seg COMMAND --help` describes a command. Start with: dct-seg fit --config quickstart",
    ]
    return "\n".join(lines) + "\n"


def main(args: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit code of the command; 2 for a wrong argument, with one line on stderr; 130 if stopped by SIGINT,
        143 by SIGTERM.
    """
    args = sys.argv[1:] if args is None else args
    try:
        with raising_stopped():
            return _run(args)
    except Stopped as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one line for all ranks
            print(f"dct-seg: {stop}", file=sys.stderr)
        return stop.exit_code
    except BrokenPipeError:  # the rest of the output would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("DCT_SEG_TRACEBACK"):
            raise
        print(f"dct-seg: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _run(args: list[str]) -> int:
    """Run one command and flush its output, because a closed pipe would otherwise fail at exit."""
    try:
        code = _exit_code(args)
    except SystemExit:  # --help of a command
        print(end="", flush=True)
        raise
    print(end="", flush=True)
    return code


def _exit_code(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0 if args else 2
    if args[0] == "--version":
        from dct_seg import __version__

        print(__version__)
        return 0
    name, *rest = args
    commands = {command.name: command for command in COMMANDS}
    if name not in commands:
        from dct_seg.registry import unknown_name

        raise unknown_name("command", name, sorted(commands))
    module, function = commands[name].run.split(":")
    code: int = getattr(import_module(f"dct_seg.{module}"), function)(rest)
    return code


def print_names(args: Sequence[str]) -> int:
    """Run ``dct-seg list``: print the registered names."""
    kinds = ("configs", "encoders", "datasets", "losses", "methods", "models", "networks", "backbones")
    parser = CommandParser(prog="dct-seg list", description="List the available names.")
    parser.add_argument("kind", nargs="?", choices=kinds, help="only this kind")
    parser.add_argument(
        "pattern",
        nargs="?",
        metavar="NAME",
        help="backbones: a pattern such as 'resnet*'; configs: one to print, such as quickstart",
    )
    given = parser.parse_args(args)
    if given.kind == "configs" and given.pattern:
        from dct_seg.configurations import find

        print(find(given.pattern).read_text(encoding="utf-8"), end="")
        return 0
    if given.pattern and given.kind != "backbones":
        raise UsageError(
            f"only backbones and configs accept a NAME, got {given.kind} {given.pattern}; omit "
            f"{given.pattern}"
        )
    for kind in [given.kind] if given.kind else kinds[:-1]:
        names = _names(kind, given.pattern or "*")
        print(f"{kind}: {', '.join(names)}" if not given.kind else "\n".join(names))
    if not given.kind:
        print("backbones: `dct-seg list backbones 'resnet*'` lists the suitable ones of timm")
    return 0


REGISTRIES = {
    "encoders": "models.network:CLICK_ENCODERS",  # registered with the networks: some encoders read the image
    "datasets": "data.datasets:DATASETS",
    "losses": "training.losses:LOSSES",
    "methods": "methods:METHODS",
    "networks": "models.network:NETWORKS",
}


def _names(kind: str, pattern: str) -> list[str]:
    if kind in REGISTRIES:
        module, _, registry = REGISTRIES[kind].partition(":")
        names: list[str] = getattr(import_module(f"dct_seg.{module}"), registry).names()
        return names
    if kind == "configs":
        from dct_seg.configurations import names as configurations

        return configurations()
    if kind == "models":
        from dct_seg.models.pretrained import names as shipped

        return shipped()
    from dct_seg.models.backbone import suitable_backbones

    found = suitable_backbones(pattern)
    if not found:
        raise UsageError(f"no suitable backbone matches '{pattern}'; `dct-seg list backbones` shows all")
    return found


def _one_line(error: Exception) -> str:
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename:
        return not_a_folder(error.filename)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__) if len(lines) <= 1 else " ".join(lines)[:1000]


if __name__ == "__main__":
    sys.exit(main())
