"""Command-line parser with one-line errors."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(ValueError):
    """Error on the command line or in a configuration file."""


class OneLineErrors:
    """Parser mix-in that raises `UsageError` instead of printing the usage and exiting."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UsageError` instead of printing the usage and exiting."""
        raise UsageError(self.in_one_line(message)) from ex

    def in_one_line(self, message: str) -> str:
        """Shorten the parser's own message."""
        return message


class CommandParser(OneLineErrors, argparse.ArgumentParser):
    """Parser of a command's arguments.

    Examples:
        >>> CommandParser(prog="dct-seg").parse_args(["--size"])
        Traceback (most recent call last):
        ...
        dct_seg.arguments.UsageError: unrecognized arguments: --size; `dct-seg --help` shows its arguments
    """

    def in_one_line(self, message: str) -> str:
        """Add a reference to the command's help."""
        return f"{message}; `{self.prog} --help` shows its arguments"

    def add_weights(self, default: str) -> None:
        """Add ``--weights`` and ``--backend``, the same for every command that predicts.

        Args:
            default: Name of a shipped model.
        """
        self.add_argument(
            "--weights",
            default=default,
            metavar="NAME_OR_PATH",
            help=f"name of a shipped model, or path of weights, a checkpoint or an export folder ({default})",
        )
        self.add_argument(
            "--backend",
            choices=("auto", "torch", "onnx"),
            default="auto",
            help="onnx exports the weights once to the user's cache and runs them in onnxruntime; auto runs "
            "weights in PyTorch and an export folder in onnxruntime (auto)",
        )
