"""Command-line parser that reports an error in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(ValueError):
    """A mistake on the command line or in a configuration file."""


class OneLineErrors:
    """Mix-in for a parser: raise :class:`UsageError` instead of printing the usage and leaving."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise."""
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
        dct_seg.arguments.UsageError: unrecognized arguments: --size; `dct-seg --help` shows what it takes
    """

    def in_one_line(self, message: str) -> str:
        """Add the command whose help lists the arguments."""
        return f"{message}; `{self.prog} --help` shows what it takes"

    def add_weights(self, default: str) -> None:
        """Add ``--weights``, the same for every command that predicts.

        Args:
            default: Name of a shipped model.
        """
        self.add_argument(
            "--weights",
            default=default,
            metavar="NAME_OR_PATH",
            help=f"a shipped model, weights or a checkpoint ({default})",
        )
