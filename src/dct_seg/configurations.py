"""The configurations that ship with the package, found by name from a wheel and from a source tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dct_seg.registry import unknown_name

FOLDER = "configs"
SUFFIX = ".yaml"


def folder() -> Path:
    """The folder that holds them: inside an installed package, or at the top of the source tree."""
    inside = Path(__file__).parent / FOLDER
    return inside if inside.is_dir() else Path(__file__).parents[2] / FOLDER


def names() -> list[str]:
    """Their names, such as ``quickstart`` and ``ablation/full``."""
    home = folder()
    return sorted(path.relative_to(home).with_suffix("").as_posix() for path in home.rglob(f"*{SUFFIX}"))


def find(name: str) -> Path:
    """The file behind a name or a path. A file that exists wins over a shipped one.

    Args:
        name: A path, a shipped name (``ablation/full``), or a shipped name as a path from the top of the
            source tree (``configs/ablation/full.yaml``).

    Raises:
        ValueError: When there is neither such a file nor such a name.
    """
    if Path(name).is_file():
        return Path(name)
    known = names()
    if _shipped(name) in known:
        return folder() / f"{_shipped(name)}{SUFFIX}"
    if name.endswith((SUFFIX, ".yml")):
        raise ValueError(
            f"no configuration at '{name}'; give a file, or one of the shipped: {', '.join(known)}"
        )
    raise unknown_name("configuration", name, known)


def is_known(name: str) -> bool:
    """Whether there is such a file or such a name."""
    return Path(name).is_file() or _shipped(name) in names()


def resolve_arguments(args: Sequence[str], options: Sequence[str] = ("--config", "-c")) -> list[str]:
    """A command line whose configurations are files.

    Args:
        args: The command line.
        options: Arguments that name a configuration.

    Raises:
        ValueError: When a configuration is unknown.

    Examples:
        >>> Path(resolve_arguments(["fit", "--config", "quickstart"])[2]).name
        'quickstart.yaml'
    """
    resolved: list[str] = []
    for place, word in enumerate(args):
        option, equals, value = word.partition("=")
        if place and args[place - 1] in options:
            resolved.append(str(find(word)))
        elif equals and option in options:
            resolved.append(f"{option}={find(value)}")
        else:
            resolved.append(word)
    return resolved


def _shipped(name: str) -> str:
    return Path(name).as_posix().removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)
