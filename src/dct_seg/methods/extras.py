"""Packages that only some methods need, imported when such a method is made."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_extra(module: str, *, package: str, method: str, extra: str) -> Any:
    """The module, which an extra of dct-seg brings along.

    Args:
        module: Dotted name of the module to import.
        package: The name it is installed by.
        method: The method that asks.
        extra: The extra of dct-seg that lists the package.

    Raises:
        ImportError: When the package is not installed; one line that says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"method '{method}' needs {package}; pip install 'dct-seg[{extra}]'") from error
