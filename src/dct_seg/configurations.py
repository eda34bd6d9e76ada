"""Shipped configurations by name, from a wheel or a source tree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from dct_seg.registry import unknown_name

FOLDER = "configs"
SUFFIX = ".yaml"


def folder() -> Path:
    """Folder of the configurations: in the installed package, or at the top of the source tree."""
    inside = Path(__file__).parent / FOLDER
    return inside if inside.is_dir() else Path(__file__).parents[2] / FOLDER


def names() -> list[str]:
    """Names of the configurations, such as ``quickstart`` and ``ablation/full``."""
    home = folder()
    return sorted(path.relative_to(home).with_suffix("").as_posix() for path in home.rglob(f"*{SUFFIX}"))


def find(name: str) -> Path:
    """Find the file for a name or a path; an existing file takes precedence over a shipped one.

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
            f"no configuration at '{name}'; give a file, or one of the shipped ones: {', '.join(known)}"
        )
    raise unknown_name("configuration", name, known)


def is_known(name: str) -> bool:
    """Whether there is such a file or shipped name."""
    return Path(name).is_file() or _shipped(name) in names()


def resolve_arguments(args: Sequence[str], options: Sequence[str] = ("--config", "-c")) -> list[str]:
    """Replace configuration names on a command line by their files.

    Args:
        args: Command line.
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


def configuration_files(args: Sequence[str], options: Sequence[str] = ("--config", "-c")) -> list[str]:
    """Return the configuration files on a resolved command line.

    Examples:
        >>> configuration_files(["fit", "--config", "a.yaml", "--config=b.yaml"])
        ['a.yaml', 'b.yaml']
    """
    joined = [word.partition("=") for word in args]
    apart = [word for before, word in pairwise(args) if before in options]
    return apart + [value for option, equals, value in joined if equals and option in options]


class _Strict(yaml.SafeLoader):
    """YAML loader that refuses a repeated key, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not key.tag.endswith(":str"):
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: '{key.value}' is given twice; merge the two")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Raises:
        ValueError: When a key is given twice; UnicodeDecodeError is one.
        yaml.YAMLError: When it is not YAML.
    """
    return yaml.load(Path(path).read_text(encoding="utf-8"), _Strict)  # a SafeLoader


def check_file(path: str | Path, sections: Sequence[str]) -> None:
    """Check that each section of a configuration is a mapping, since an empty one would reset it.

    Args:
        path: YAML file; the parser reports one that is not YAML.
        sections: Keys that hold mappings.

    Raises:
        ValueError: When the file or a section is not a mapping, or a key is given twice.
    """
    try:
        content = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    except ValueError as error:
        raise ValueError(f"'{path}', {error}") from error
    if not isinstance(content, dict):
        shown = "nothing" if content is None else repr(content)
        raise ValueError(f"'{path}' must be a mapping of sections ({', '.join(sections)}), got {shown}")
    for name in sections:
        if name in content and not isinstance(content[name], dict):
            shown = "nothing" if content[name] is None else repr(content[name])
            raise ValueError(
                f"'{path}': {name} must be a mapping, got {shown}; give it values, or remove the line"
            )


def _shipped(name: str) -> str:
    return Path(name).as_posix().removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)
