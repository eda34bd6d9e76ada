"""Command-line arguments whose mistakes are told in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class OneLineArgumentParser(argparse.ArgumentParser):
    """An ``argparse`` parser that raises instead of printing its usage and leaving.

    Example:
        >>> OneLineArgumentParser(prog="dct-seg list").parse_args(["--colour"])
        Traceback (most recent call last):
        ...
        ValueError: unrecognized arguments: --colour; `dct-seg list --help` shows what it takes
    """

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"{message}; `{self.prog} --help` shows what it takes")
