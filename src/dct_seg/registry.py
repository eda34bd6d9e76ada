"""Registries of click encoders, datasets, methods, networks and losses by name."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Generic, TypeVar

T = TypeVar("T")


def unknown_name(noun: str, name: str, known: list[str]) -> ValueError:
    """Make the error for an unknown name, with the nearest known name and all known names.

    Examples:
        >>> print(unknown_name("loss", "BCE", ["bce", "dice"]))
        unknown loss 'BCE'; did you mean 'bce'? known: bce, dice
    """
    return ValueError(
        f"unknown {noun} '{name}';{did_you_mean(name, known)} known: {', '.join(known) or 'none'}"
    )


def did_you_mean(name: str, known: list[str]) -> str:
    """Hint `` did you mean 'X'?`` for the nearest known name, ignoring case; empty if none is near."""
    plain = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), plain, n=1, cutoff=0.5)
    return f" did you mean '{plain[near[0]]}'?" if near else ""


def check_choice(noun: str, name: object, known: tuple[str, ...]) -> None:
    """Check that ``name`` is one of a closed set.

    Raises:
        ValueError: When it is not; see `unknown_name`.
    """
    if name not in known:
        raise unknown_name(noun, str(name), list(known))


def check_options(noun: str, name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Check that all option names are known.

    Raises:
        ValueError: When one is not.

    Examples:
        >>> check_options("loss", "dice", ["weight"], ["weight"])
        >>> check_options("loss", "dice", ["gamma"], [])
        Traceback (most recent call last):
        ValueError: loss 'dice' has no option gamma; it has none
    """
    unknown = [option for option in given if option not in known]
    if unknown:
        raise ValueError(
            f"{noun} '{name}' has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )


class Registry(Generic[T]):
    """Collection of named entries; other packages add to it through an entry point.

    Args:
        noun: Noun for an entry, for errors.
        group: Entry-point group. A package adds ``name = "module:attribute"`` under it in its own
            ``pyproject.toml``.

    Examples:
        >>> shapes: Registry[type] = Registry("shape")
        >>> @shapes.register()
        ... class Disk: ...
        >>> shapes.get("Disk").__name__
        'Disk'
        >>> shapes.get("Disc")
        Traceback (most recent call last):
        ...
        ValueError: unknown shape 'Disc'; did you mean 'Disk'? known: Disk
    """

    def __init__(self, noun: str, *, group: str | None = None) -> None:
        self.noun = noun
        self.group = group
        self._entries: dict[str, T] = {}
        self._plugins_loaded = group is None

    def register(self, name: str | None = None) -> Callable[[T], T]:
        """Make a decorator that registers an object under ``name``, by default its ``__name__``.

        Raises:
            ValueError: When the name is already registered.
        """

        def add(entry: T) -> T:
            self._add(name or str(getattr(entry, "__name__", "")), entry)
            return entry

        return add

    def _add(self, key: str, entry: T) -> None:
        if self._entries.get(key, entry) is not entry:
            raise ValueError(f"{self.noun} '{key}' is already registered; give the new one another name")
        self._entries[key] = entry

    def load_plugins(self) -> None:
        """Load the entry points of other packages, once, at the first lookup.

        An entry point that cannot be imported, or whose name is taken, is skipped with a warning.
        """
        if self._plugins_loaded or self.group is None:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self.group):
            try:
                self._add(point.name, point.load())
            except Exception as error:  # noqa: PERF203  # importing a foreign module can raise anything
                home = f" of {point.dist.name}" if point.dist else ""
                warnings.warn(
                    f"{self.noun} '{point.name}'{home} is skipped: {type(error).__name__}: {error}",
                    stacklevel=2,
                )

    def get(self, name: str) -> T:
        """Get the entry under ``name``.

        Raises:
            ValueError: When the name is unknown; the message lists the nearest and all known names.
        """
        self.load_plugins()
        if not isinstance(name, str):
            raise TypeError(
                f"a {self.noun} must be given by its name, got {name!r}; known: {', '.join(self)}"
            )
        if name not in self._entries:
            raise unknown_name(self.noun, name, self.names())
        return self._entries[name]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self.load_plugins()
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
