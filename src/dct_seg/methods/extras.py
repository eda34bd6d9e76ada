"""Optional packages, imported when a method that needs them is created."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_extra(module: str, *, package: str, method: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Dotted name of the module to import.
        package: Name of the package.
        method: Name of the method that needs it.
        extra: Extra of dct-seg that contains the package.

    Raises:
        ImportError: When the package is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"method '{method}' needs {package}; pip install 'dct-seg[{extra}]'") from error
