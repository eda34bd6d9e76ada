"""House style of the prose in the package: docstrings and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dct_seg

PACKAGE = Path(dct_seg.__file__).parent
OPENINGS = re.compile(r"(What|Which|Who|Where|How|Of|As|Those|That|Likewise|With)\b")
WORDS = re.compile(
    r"\b(photo(?:graph)?s?|pictures?|colour\w*|centres?|normalis\w*|standardis\w*|neighbour\w*|behaviour\w*"
    r"|labell\w*|grey|data\s+sets?|in\s+place\s+of|takes?\s+the\s+place|for\s+want\s+of"
    r"|round\s+(?:the|a|an|its|each|that)"
    r"|(?:once|twice|times|one|images|pixels|bins|cells|line|row|panel|strip|steps?)\s+an?\s+"
    r"(?:click|image|side|batch|epoch|channel|line|name|method|dataset|step|second)"
    r"|ask(?:s|ed)?\s+for|(?:goes?|went)\s+on|stands?\s+in|tak(?:es?|en|ing)\s+away|so\s+many|in\s+force"
    r"|mends?|(?:is|are|was|were)\s+told|of\s+(?:its|their|your|our)\s+own(?!\s+\w)|kinds?\s+of\s+object)\b",
    re.IGNORECASE,
)
"""Other words for image, dataset, instead of, around, per; British spelling; translated phrases."""
HINT = "write image, dataset, instead of, request, continue, replace, remove, fix; American spelling:\n"
CODE = re.compile(
    r"``[^`]*``|`[^`]*`|\"[^\"\n]*\"|^\s*(?:>>>|\.\.\.).*$|^\s+[\w*]+(?:, [\w*]+)*:(?=\s)", re.MULTILINE
)
"""Identifiers, quoted titles, lines of examples and names of arguments, which keep their spelling."""
SECTION = re.compile(r"(\w+):$")
ENTRY = re.compile(r"\s+\w[\w.*]*(?:, \w[\w.*]*)*: (.*)")


FILE_FORMATS = {"dct-seg picture log"}
"""Names inside saved files, which stay."""
REPOSITORY = Path(__file__).parents[1]
TEXTS = ("docs/**/*.md", "configs/**/*.yaml", "*.md")


def _sources() -> list[Path]:
    """Python files of the package, the tests, the benchmarks, the examples and the notebooks."""
    others = (REPOSITORY / name for name in ("tests", "benchmarks", "examples", "notebooks", ".ci"))
    return sorted(path for folder in (PACKAGE, *others) for path in folder.rglob("*.py"))


def _shown(path: Path) -> str:
    return path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else REPOSITORY).as_posix()


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _docstrings_of(source: str) -> list[tuple[int, str]]:
    return list(_docstrings(ast.parse(source)))


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
    """Comments of a source; none if no text after a # has a banned word."""
    starts = re.finditer(r"(?=(#.*))", source)
    if not any(WORDS.search(CODE.sub("", start[1])) for start in starts):
        return  # a tokenizer takes seconds
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def banned_openings(source: str) -> list[tuple[int, str]]:
    return [
        (line + offset, text)
        for line, docstring in _docstrings_of(source)
        for offset, text in _openings(docstring)
        if OPENINGS.match(text)
    ]


def banned_words(source: str) -> list[tuple[int, str]]:
    found = []
    for line, text in [*_docstrings_of(source), *_comments(source)]:
        prose = CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
        found += [(line + prose[: word.start()].count("\n"), word[0]) for word in WORDS.finditer(prose)]
    return found


def _messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of strings with a space that are no docstrings: errors, help and printed lines."""
    docstrings = {text for _, text in _docstrings(tree)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text and text not in docstrings | FILE_FORMATS:
            yield node.lineno, text


def test_messages_use_the_house_words() -> None:
    found = [
        f"{_shown(path)}:{line}: {word[0]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in _messages(ast.parse(path.read_text(encoding="utf-8")))
        for word in WORDS.finditer(text)
    ]
    assert not found, HINT + "\n".join(found)


def test_titles_and_args_lines_begin_with_a_noun_or_an_imperative() -> None:
    found = [
        f"{_shown(path)}:{line}: {text}" for path in _sources() for line, text in banned_openings(_read(path))
    ]
    assert not found, "begin with a noun or an imperative:\n" + "\n".join(found)


def test_docstrings_and_comments_use_the_house_words() -> None:
    found = [
        f"{_shown(path)}:{line}: {word}" for path in _sources() for line, word in banned_words(_read(path))
    ]
    assert not found, HINT + "\n".join(found)


def test_documents_and_configurations_use_the_house_words() -> None:
    quoted = re.compile(r"```.*?```|`[^`\n]*`|\"[^\"\n]*\"|\]\([^)]*\)|<!--.*?-->", re.DOTALL)
    found = [
        f"{_shown(path)}: {word[0]}"
        for pattern in TEXTS
        for path in sorted(REPOSITORY.glob(pattern))
        for word in WORDS.finditer(quoted.sub("", path.read_text(encoding="utf-8")))
    ]
    assert not found, HINT + "\n".join(found)


def test_checks_report_the_line_of_each_finding() -> None:
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
    assert banned_words("# once a click, round the drag\n") == [(1, "once a click"), (1, "round the")]
    assert banned_words("# each in a file of its own, which goes on\n") == [(1, "of its own"), (1, "goes on")]
    assert banned_words("# the network's region of its own color\n") == []
