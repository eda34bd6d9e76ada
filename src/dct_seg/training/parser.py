"""Parser of the training commands, whose errors fit one line."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lightning.pytorch.cli import LightningArgumentParser

from dct_seg.arguments import OneLineErrors, UsageError
from dct_seg.models.config import DCTNetConfig
from dct_seg.registry import unknown_name

_REASONS = (
    (r"the following arguments are required: (.+)", "{key} lacks {0}"),
    (r"Option '([\w.]+)' is not accepted", "{key} does not take '{0}'"),
    (r"Expected a dot import path string: (.+)", "{key} names no class '{0}'; is it spelled as in Python?"),
    (r"Unable to load config ['\"](.+?)['\"]", "{key} must be a mapping or a YAML file with one, got {0}"),
)
"""Patterns in the parser's message that are more specific than the expected type, and our wording."""
_INNER = re.compile(r"- ([\w.]+ (?:must be .+, got .+|lacks .+|does not take .+|names no .+))")
"""Line about an argument of a class, already written by this parser."""
_NAMED_KEYS = re.compile(
    r"does not accept (?:nested key|option) '([\w.]+)'|[Uu]nrecognized arguments: --([\w.]+)|[Kk]ey "
    r"[\"']?([\w.]+)[\"']? is not"
)


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """Parser with one-line errors that name the nearest known key."""

    def in_one_line(self, message: str) -> str:
        """Extract the reason from the parser's nested messages."""
        lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
        own = [line for line in lines if re.search(r"unknown .* '.*'[;,]", line)]
        if own:  # the innermost message is ours; the parser added the lines around it
            return own[-1]
        key = _NAMED_KEYS.search(message)
        if key:
            return str(unknown_key(next(g for g in key.groups() if g), self._known_keys()))
        line = lines[0]
        return reason(message) or (line if len(lines) == 1 or len(line) > 60 else " ".join(lines[:3]))

    def _known_keys(self) -> list[str]:
        parsers: list[Any] = [
            self,
            *(p for a in self._actions if isinstance(a.choices, dict) for p in a.choices.values()),
        ]
        return sorted(
            {
                str(a.dest)
                for p in parsers
                for a in p._actions
                if "." in str(a.dest) and "help" not in str(a.dest)
            }
        )


def unknown_key(given: str, known: list[str]) -> ValueError:
    """Make the error for an unknown configuration key, with the nearest keys of the same section."""
    section = given.rsplit(".", 1)[0] + "." if "." in given else ""
    near = [k for k in known if k.startswith(section)] or known
    return unknown_name("configuration key", given, near)


def check_network(network: Any) -> None:
    """Refuse a network that the parser took as a mapping because a value in it is wrong.

    Args:
        network: Value of ``model.network``.

    Raises:
        UsageError: When a key is unknown, or a value has the wrong type.
    """
    if not isinstance(network, dict):
        return
    hints = get_type_hints(DCTNetConfig)
    for name, value in network.items():
        if name not in hints:
            raise UsageError(str(unknown_key(f"model.network.{name}", [f"model.network.{k}" for k in hints])))
        known = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
        if known and value not in known:
            allowed = ", ".join(map(str, known))
            raise UsageError(f"model.network.{name} must be one of {allowed}; got {value}")
    DCTNetConfig.from_dict(network)


def reason(message: str) -> str:
    """Describe a wrong value in one line: key, expected type and value; empty for any other message.

    Examples:
        >>> reason('''Parser key "trainer.max_epochs":
        ...   Does not validate against any of the Union subtypes
        ...   Subtypes: [<class 'int'>, <class 'NoneType'>]
        ...   Given value: abc''')
        'trainer.max_epochs must be int or null, got abc'
        >>> reason('''Parser key "optimizer":
        ...   - the following arguments are required: lr
        ...   Given value: SGD''')
        'optimizer lacks lr'
    """
    first = re.search(r'Parser key "([\w.]+)":', message)
    if first is None:
        return ""
    key = first[1]
    message = re.sub(r"\n.*Expected a path but .*", "", message)
    inner = _INNER.search(message)
    if inner:
        return f"{key}.{inner[1]}"
    wanted = re.search(r"Subtypes: \[(.+)\]|Expected an? (.+?)(?:\. Got value|$)", message, re.MULTILINE)
    for pattern, words in _REASONS:
        found = re.search(pattern, message)
        is_value = wanted and re.search(r"DCTNetConfig|'(?:float|int)'", wanted[0])
        if found and not is_value:
            return words.format(found[1], key=key)
    given = re.findall(r"(?:Given|Got) value: (.+)", message)
    if wanted is None or not given:
        return ""
    return f"{key} must be {_types(wanted[1] or wanted[2])}, got {given[-1]}"


def first_reason(message: str) -> str:
    """Extract the reason for a failed class from the parser's list; the whole message if it has none.

    Examples:
        >>> first_reason("Does not validate Errors: - Timer('soon') is not valid. - Not a valid subclass")
        "Timer('soon') is not valid."
    """
    found = re.search(
        r"(?s)Does not validate.*?Errors:\s*- (?!Expected|Not a valid)(.+?)\s*(?:- |$)", message
    )
    return found[1] if found else message


def _types(text: str) -> str:
    """Write types as YAML and Python name them: ``int or null`` for ``<class 'int'>, <class 'NoneType'>``."""
    plain = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("NoneType", "null")
    plain = re.sub(r"\b(?:[a-z_]+\.)+([A-Za-z]\w*)", r"\1", plain)
    depth, parts = 0, [""]
    for letter in plain:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return " or ".join(part.strip() for part in parts)
