"""Find every command in README, CONTRIBUTING, docs, notebooks, config headers and the examples of --help.

bash splits the commands, so that quotes, loops, comments and line continuations are read as in a shell.
Instead of running a program, bash prints its words.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROGRAMS = (
    "bash",
    "cd",
    "cvat-cli",
    "dct-seg",
    "git",
    "mkdocs",
    "mypy",
    "napari",
    "node",
    "npm",
    "nuctl",
    "pip",
    "pip-licenses",
    "pre-commit",
    "pytest",
    "python",
    "ruff",
    "source",
    "twine",
    "unzip",
    "wandb",
)
"""Programs that a document may call. To add one, add it here, and a rule in check_commands.py."""

_STARTS = "|".join(re.escape(name) for name in PROGRAMS if name not in ("cd", "source"))
_PRELUDE = "set -eu\n" + "".join(
    f"{name}() {{ printf '%s\\0' {name} \"$@\" >&3; printf '\\n\\0' >&3; }}\n" for name in PROGRAMS
)


class Documented(NamedTuple):
    """Command as a reader would type it.

    Args:
        place: Document that holds it, relative to the repository.
        words: Program and arguments.
        is_inline: Whether it is inside a sentence or a table, where a bare name is only a mention.
    """

    place: str
    words: list[str]
    is_inline: bool = False


def commands(repository: Path) -> list[Documented]:
    """All commands, in the order of the documents."""
    found: list[Documented] = []
    for place, script, is_inline in _scripts(repository):
        found += [Documented(place, words, is_inline) for words in split(script, place)]
    return found


def split(script: str, place: str) -> list[list[str]]:
    """The words of each command of a script, loops unrolled.

    Raises:
        ValueError: When bash finds a syntax error or an unknown program.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "words"
        done = subprocess.run(
            ["bash", "-c", f"exec 3>'{written}'; PATH=\n{_PRELUDE}{script}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(
                f"{place}: {script!r}: {done.stderr.strip()}; is its program in {__name__}.PROGRAMS?"
            )
        text = written.read_text(encoding="utf-8")
    return [group.split("\0")[:-1] for group in text.split("\n\0")[:-1]]


def _scripts(repository: Path) -> Iterator[tuple[str, str, bool]]:
    pages = [
        repository / "README.md",
        repository / "CONTRIBUTING.md",
        *sorted((repository / "docs").rglob("*.md")),
    ]
    for path in pages:
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(repository).as_posix()
        for block in _blocks(text):
            yield place, block, False
        for line in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if re.match(rf"(?:{_STARTS}) ", line):
                yield place, line, True
    for path in sorted((repository / "notebooks").glob("*.py")):
        text = re.sub(r"^# ?", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for block in _blocks(text):
            yield path.relative_to(repository).as_posix(), block, False
    for path in sorted((repository / "configs").rglob("*.yaml")):
        header = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))
        for line in re.findall(rf"^#\s+((?:{_STARTS}) .*)$", header[0] if header else "", re.MULTILINE):
            yield path.relative_to(repository).as_posix(), re.split(r"\s{3,}", line)[0], False
    for path in sorted((repository / "src").rglob("*.py")):
        for line in re.findall(r"Example: (dct-seg [^\"\n]+)", path.read_text(encoding="utf-8")):
            yield path.relative_to(repository).as_posix(), line, False


def _blocks(text: str) -> list[str]:
    """Blocks marked ``console``, and lines indented by four that start with a program."""
    fenced = re.findall(r"^ *```console\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [*fenced, *re.findall(rf"^    ((?:{_STARTS}) .*)$", rest, re.MULTILINE)]
