"""Every documented command has a rule with which CI runs it from a wheel (.ci/check_commands.py)."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import check_commands
import pytest
from documented import Documented, commands, split

from dct_seg.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="bash splits the commands")
NAMES = {command.name for command in COMMANDS}
TRAINING = ("fit", "validate", "test")


@pytest.fixture(scope="module")
def documented() -> list[Documented]:
    return commands(ROOT)


def test_every_documented_command_has_a_rule(documented: list[Documented]) -> None:
    for one in documented:
        assert check_commands.rule_of(check_commands.completed(one)), one


def test_every_command_is_documented(documented: list[Documented]) -> None:
    shown = {one.words[1] for one in documented if one.words[0] == "dct-seg" and len(one.words) > 1}
    left_out = NAMES - shown - {"validate", "test"}
    assert not left_out, 'show it in a document, or give its parser an epilog "Example: dct-seg NAME ..."'


def test_all_types_of_documents_are_searched(documented: list[Documented]) -> None:
    places = {one.place.split("/")[0] for one in documented}
    assert places == {"README.md", "CONTRIBUTING.md", "docs", "notebooks", "configs", "src"}


def test_command_without_a_rule_is_refused_with_its_location() -> None:
    new = Documented("docs/new.md", ["dct-seg", "paint", "DIR"])
    with pytest.raises(LookupError, match=r"docs/new.md: no rule for `dct-seg paint DIR` in .ci/check_comm"):
        check_commands.rule_of(new)


def test_unknown_program_is_refused_with_its_location() -> None:
    with pytest.raises(ValueError, match=r"docs/new.md: .*curl: (?:command not found|No such file)"):
        split("curl http://127.0.0.1", "docs/new.md")


def test_loops_quotes_comments_and_continuations_are_read_as_bash_reads_them() -> None:
    script = """\
for row in a b; do
  dct-seg fit --config $row.yaml --data.root '{X: 1, Y: 2}'   # with a remark
done
pip install "dct-seg[lite]" && dct-seg data \\
  check DIR > out.txt
"""
    assert split(script, "here") == [
        ["dct-seg", "fit", "--config", "a.yaml", "--data.root", "{X: 1, Y: 2}"],
        ["dct-seg", "fit", "--config", "b.yaml", "--data.root", "{X: 1, Y: 2}"],
        ["pip", "install", "dct-seg[lite]"],
        ["dct-seg", "data", "check", "DIR"],
    ]


def messages() -> Iterator[tuple[str, str]]:
    """Each command named in a string of the package: errors, help, docstrings. Values become X."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else "X" for one in node.values]
                text = "".join(str(part) for part in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            for found in re.findall(r"(?:`|run:? |Example: )dct-seg ([a-z][a-z-]*(?: [^`;\n]*)?)", text):
                yield path.relative_to(ROOT).as_posix(), found


def test_every_command_named_in_a_message_exists() -> None:
    for place, command in messages():
        name = command.split()[0].rstrip("-")
        assert name in NAMES, f"{place}: dct-seg {command}"


def test_every_option_named_in_a_message_exists() -> None:
    for place, command in messages():
        name, *words = command.split()
        if name in TRAINING:
            continue
        words = words[: words.index("--")] if "--" in words else words
        for option in (word for word in words if word.startswith("--")):
            assert option in options_of(name), f"{place}: dct-seg {command}"


@cache
def options_of(name: str) -> set[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        main([name, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", said.getvalue()))


def python_blocks() -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        (path.relative_to(ROOT).as_posix(), block)
        for path in pages
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    ]


@pytest.mark.parametrize(("place", "block"), python_blocks(), ids=lambda one: one if "/" in one else "")
def test_every_name_that_a_document_imports_exists(place: str, block: str) -> None:
    tree = ast.parse(block, place)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dct_seg"):
            module = import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), (place, ast.unparse(node))
