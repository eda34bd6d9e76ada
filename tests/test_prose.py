"""House style of the prose in the package: docstrings and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import dct_seg

PACKAGE = Path(dct_seg.__file__).parent
OPENINGS = re.compile(r"(What|Which|Who|Where|How|Of|As|Those|That|Likewise|With)\b")
WORDS = re.compile(
    r"\b(photographs?|pictures?|colour\w*|centres?|normalis\w*|neighbour\w*|behaviour\w*|grey"
    r"|data\s+sets?|in\s+place\s+of)\b",
    re.IGNORECASE,
)
CODE = re.compile(
    r"``[^`]*``|`[^`]*`|\"[^\"\n]*\"|^\s*(?:>>>|\.\.\.).*$|^\s+[\w*]+(?:, [\w*]+)*:(?=\s)", re.MULTILINE
)
"""Identifiers, quoted titles, lines of examples and names of arguments, which keep their spelling."""
SECTION = re.compile(r"(\w+):$")
ENTRY = re.compile(r"\s+\w[\w.*]*(?:, \w[\w.*]*)*: (.*)")


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, those of attributes and constants too."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            value = getattr(statement, "value", None) if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def _openings(text: str) -> Iterator[tuple[int, str]]:
    """Offset and text of the title and of each entry of Args and Attributes."""
    section = ""
    for offset, line in enumerate(text.splitlines()):
        heading = SECTION.match(line.strip())
        if offset == 0:
            yield offset, line.strip()
        elif heading is not None:
            section = heading[1]
        elif section in ("Args", "Attributes") and (entry := ENTRY.match(line)) is not None:
            yield offset, entry[1]


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def banned_openings(source: str) -> list[tuple[int, str]]:
    return [
        (line + offset, text)
        for line, docstring in _docstrings(ast.parse(source))
        for offset, text in _openings(docstring)
        if OPENINGS.match(text)
    ]


def banned_words(source: str) -> list[tuple[int, str]]:
    found = []
    for line, text in [*_docstrings(ast.parse(source)), *_comments(source)]:
        prose = CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
        found += [(line + prose[: word.start()].count("\n"), word[0]) for word in WORDS.finditer(prose)]
    return found


def test_titles_and_args_lines_can_be_read_alone() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {text}"
        for path in _sources()
        for line, text in banned_openings(path.read_text(encoding="utf-8"))
    ]
    assert not found, "begin with a noun or an imperative:\n" + "\n".join(found)


def test_docstrings_and_comments_use_one_word_for_one_thing() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {word}"
        for path in _sources()
        for line, word in banned_words(path.read_text(encoding="utf-8"))
    ]
    assert not found, "write image, dataset, instead of, and American spelling:\n" + "\n".join(found)


def test_checks_name_the_line_of_what_they_find() -> None:
    source = '''def f(size):
    """What it is.

    Args:
        size: Of the image.
        picture: Image in ``colour``.

    Raises:
        ValueError: When it is grey.
    """
    # a picture
'''
    assert banned_openings(source) == [(2, "What it is."), (5, "Of the image.")]
    assert banned_words(source) == [(9, "grey"), (11, "picture")]
