"""W&B sweep file: parameters, their distributions, and the command."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

import numpy as np
import yaml

from dct_seg.configurations import read_yaml
from dct_seg.registry import check_choice, unknown_name

SearchMethod = Literal["grid", "random", "bayes"]
Goal = Literal["minimize", "maximize"]
Values = dict[str, Any]
"""One value for each parameter, by its key on the command line."""

RUN_HERE = (
    "name",
    "description",
    "program",
    "project",
    "method",
    "metric",
    "parameters",
    "command",
    "run_cap",
)
WITHOUT_EFFECT_HERE = ("apiVersion", "kind", "controller", "entity", "early_terminate")
"""Keys of a sweep file that concern W&B's server; here every trial runs to its end."""

DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "uniform": ("min", "max"),
    "int_uniform": ("min", "max"),
    "q_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max"),
    "normal": (),
    "q_normal": (),
    "log_normal": (),
    "q_log_normal": (),
}
"""Supported W&B distributions, with the options that each requires."""

OPTIONS = ("value", "values", "probabilities", "min", "max", "q", "mu", "sigma")
"""Options of a parameter besides its distribution."""

NO_GRID = "grid supports parameters with a value, values, whole numbers between min and max, or q_uniform"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Args:
        name: Key on the command line, such as ``model.lr``.
        distribution: One of ``DISTRIBUTIONS``.
        options: The file's options for this parameter, under W&B's names.
    """

    name: str
    distribution: str
    options: Mapping[str, Any]

    @property
    def choices(self) -> list[Any] | None:
        """All values, or None if there are infinitely many."""
        options = self.options
        if self.distribution == "constant":
            return [options["value"]]
        if self.distribution.startswith("categorical"):
            return list(options["values"])
        if self.distribution == "int_uniform":
            return list(range(options["min"], options["max"] + 1))
        if self.distribution == "q_uniform":  # like W&B's grid, without the upper end
            return [float(v) for v in np.arange(options["min"], options["max"], options.get("q", 1.0))]
        return None

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw a random value."""
        kind, options = self.distribution.removeprefix("q_"), self.options
        if kind == "constant":
            return options["value"]
        if kind.startswith("categorical"):
            return options["values"][int(rng.choice(len(options["values"]), p=options.get("probabilities")))]
        if kind == "int_uniform":
            return int(rng.integers(options["min"], options["max"] + 1))
        if kind == "uniform":
            value = rng.uniform(options["min"], options["max"])
        elif kind == "log_uniform_values":
            value = math.exp(rng.uniform(math.log(options["min"]), math.log(options["max"])))
        else:
            value = rng.normal(options.get("mu", 0.0), options.get("sigma", 1.0))
            value = math.exp(value) if kind == "log_normal" else value
        step = options.get("q", 1.0)
        return float(round(value / step) * step if self.distribution.startswith("q_") else value)


@dataclass(frozen=True)
class Metric:
    """Goal of a sweep: a metric such as ``val/drag/NoC@90``, to minimize or maximize."""

    name: str
    goal: Goal

    def of(self, metrics: Mapping[str, Mapping[str, float]]) -> float | None:
        """Select the value from the metrics of a finished ``fit``, a mapping per prompt; None if missing."""
        _, prompt, name = self.name.split("/", 2)
        return metrics.get(prompt, {}).get(name)


@dataclass(frozen=True)
class Sweep:
    """Validated sweep file.

    Args:
        name: Name of the sweep; by default the file's name.
        method: Search method.
        metric: Metric of the sweep, or None.
        command: Command with W&B's macros.
        parameters: Parameters in the file's order; nested ones have a dotted key.
        project: Project on W&B.
        run_cap: Maximum number of trials.
        ignored: Keys of the file that have no effect here.
    """

    name: str
    method: SearchMethod
    metric: Metric | None
    command: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    project: str | None = None
    run_cap: int | None = None
    ignored: tuple[str, ...] = ()


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep file.

    Raises:
        FileNotFoundError: When the file does not exist.
        ValueError: When the file is not a sweep file, or needs W&B's server.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no sweep file {path}; give the path of a YAML file")
    try:
        return _sweep(read_yaml(path), path.stem)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _sweep(content: Any, name: str) -> Sweep:
    if not isinstance(content, dict) or "parameters" not in content:
        raise ValueError(
            "a sweep file must be a mapping with method, command and parameters; configs/sweeps has examples"
        )
    for key in content:
        if key not in (*RUN_HERE, *WITHOUT_EFFECT_HERE):
            raise unknown_name("key of a sweep file", str(key), [*RUN_HERE, *WITHOUT_EFFECT_HERE])
    check_choice("sweep method", content.get("method"), get_args(SearchMethod))
    parameters = tuple(_parameters(content["parameters"], ""))
    for key, times in Counter(one.name for one in parameters).items():
        if times > 1:
            raise ValueError(f"parameter '{key}' is given {times} times; merge them")
    if content["method"] == "grid":
        for parameter in parameters:
            if parameter.choices is None or parameter.distribution == "categorical_w_probabilities":
                raise ValueError(
                    f"parameter '{parameter.name}' has distribution {parameter.distribution}, and {NO_GRID}"
                )
    run_cap = content.get("run_cap")
    if run_cap is not None and (not _is_whole(run_cap) or run_cap < 1):
        raise ValueError(f"run_cap must be a number of trials, at least 1, got {run_cap!r}")
    return Sweep(
        name=_name(content.get("name", name)),
        method=content["method"],
        metric=_metric(content.get("metric"), is_needed=content["method"] == "bayes"),
        command=_command(content.get("command"), content.get("program")),
        parameters=parameters,
        project=content.get("project"),
        run_cap=run_cap,
        ignored=tuple(key for key in content if key in WITHOUT_EFFECT_HERE),
    )


def _name(given: Any) -> str:
    """Name of the sweep, which is also the name of its folder."""
    name = str(given)
    is_one_part = PureWindowsPath(name).name == PurePosixPath(name).name == name
    if not (is_one_part and name != ".." and name.strip() and name.isprintable() and len(name) <= 100):
        raise ValueError(
            f"a sweep's name must be the name of its folder, such as sigma, got name {name[:100]!r}"
        )
    return name


def _parameters(content: Any, prefix: str) -> list[Parameter]:
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"parameters{' of ' + prefix[:-1] if prefix else ''} must map command-line keys to their "
            "possible "
            f"values, got {content!r}"
        )
    found = []
    for key, options in content.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", str(key)):
            raise ValueError(f"a parameter's name must be a command-line key such as model.lr, got {key!r}")
        name = f"{prefix}{key}"
        if not isinstance(options, dict):
            raise ValueError(
                f"parameter '{name}' must be a mapping such as {{values: [1, 2]}}, got {options!r}"
            )
        found += (
            _parameters(options["parameters"], f"{name}.")
            if "parameters" in options
            else [_parameter(name, options)]
        )
    return found


def _parameter(name: str, options: dict[str, Any]) -> Parameter:
    known = {"distribution", *OPTIONS}
    for key in options:
        if key not in known:
            raise unknown_name(f"option of parameter '{name}'", str(key), sorted(known))
    if "value" in options and "values" in options:
        raise ValueError(f"parameter '{name}' has value and values; give only one of them")
    kind = options.get("distribution") or _usual_distribution(options)
    if kind is None:
        raise ValueError(
            f"parameter '{name}' must have value, values, min and max, or a distribution, got {options}"
        )
    if kind not in DISTRIBUTIONS:
        raise unknown_name(f"distribution of parameter '{name}'", str(kind), list(DISTRIBUTIONS))
    missing = [key for key in DISTRIBUTIONS[kind] if key not in options]
    if missing:
        raise ValueError(f"parameter '{name}' has distribution {kind}, which needs {' and '.join(missing)}")
    values, probabilities = options.get("values"), options.get("probabilities")
    if "values" in DISTRIBUTIONS[kind] and not (isinstance(values, list) and values):
        raise ValueError(f"values of parameter '{name}' must be a list of at least one value, got {values!r}")
    if kind == "categorical_w_probabilities" and not _are_probabilities(probabilities, len(values or [])):
        raise ValueError(
            f"probabilities of parameter '{name}' must be one number per value, with sum 1, got "
            f"{probabilities!r}"
        )
    for key in ("min", "max", "q", "mu", "sigma"):
        if key in options and not _is_number(options[key]):
            raise ValueError(f"{key} of parameter '{name}' must be a number, got {options[key]!r}")
    if "min" in options and "max" in options:
        low, high = options["min"], options["max"]
        if low >= high:
            raise ValueError(f"parameter '{name}' has min {low} and max {high}; min must be below max")
        if kind.endswith("log_uniform_values") and low <= 0:
            raise ValueError(
                f"parameter '{name}' is drawn from a logarithmic scale, so min must be positive, got {low}"
            )
        if kind == "int_uniform" and not (_is_whole(low) and _is_whole(high)):
            raise ValueError(
                f"parameter '{name}' is an integer, so min and max must be, too, got {low} and {high}"
            )
    if options.get("q", 1.0) <= 0 or options.get("sigma", 1.0) < 0:
        raise ValueError(f"parameter '{name}' needs q > 0 and sigma >= 0, got {options}")
    return Parameter(name, kind, {key: value for key, value in options.items() if key != "distribution"})


def _usual_distribution(options: Mapping[str, Any]) -> str | None:
    """Distribution that W&B infers if none is named."""
    if "value" in options:
        return "constant"
    if "values" in options:
        return "categorical_w_probabilities" if "probabilities" in options else "categorical"
    if "min" in options and "max" in options:
        return "int_uniform" if _is_whole(options["min"]) and _is_whole(options["max"]) else "uniform"
    return None


def _metric(content: Any, *, is_needed: bool) -> Metric | None:
    if content is None:
        if is_needed:
            raise ValueError("method bayes needs a metric, such as {name: val/drag/NoC@90, goal: minimize}")
        return None
    name = content.get("name") if isinstance(content, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"val/[^/]+/.+", name):
        raise ValueError(
            "the metric's name must be val/PROMPT/NAME, a validation metric such as val/drag/NoC@90, got "
            f"{content!r}"
        )
    goal = content.get("goal", "minimize")
    check_choice("goal", goal, get_args(Goal))
    return Metric(name, goal)


def _command(content: Any, program: Any) -> tuple[str, ...]:
    if not isinstance(content, list) or "${args}" not in content:
        raise ValueError(
            "command must be a list with ${args}, such as ['${program}', fit, --config, FILE, '${args}']"
        )
    words = [
        str(program) if word == "${program}" else str(word)
        for word in content
        if word not in ("${env}", "${interpreter}")
    ]
    if Path(words[0]).stem != "dct-seg" or words[1:2] != ["fit"]:
        raise ValueError(
            f"command runs '{' '.join(words[:2])}', but only dct-seg fit works here; run others with `wandb "
            "agent`"
        )
    macro = next((word for word in words if re.fullmatch(r"\$\{\w+\}", word) and word != "${args}"), None)
    if macro:
        raise ValueError(f"command has {macro}, which only W&B's agent replaces; ${{args}} works here")
    return tuple(words)


def fit_arguments(
    sweep: Sweep, values: Mapping[str, Any], *, base: str | None = None, extra: Sequence[str] = ()
) -> list[str]:
    """Arguments of ``dct-seg`` for one trial, built as W&B's agent does, with null for None.

    Args:
        sweep: Sweep with the command.
        values: Parameter values.
        base: Configuration that replaces the first ``--config`` of the command.
        extra: Additional arguments, before the parameters, which override them.

    Examples:
        >>> sweep = Sweep("s", "grid", None, ("dct-seg", "fit", "--config", "a.yaml", "${args}"), ())
        >>> fit_arguments(sweep, {"model.lr": 0.1}, base="b.yaml", extra=["--data.root", "DIR"])
        ['fit', '--config', 'b.yaml', '--data.root', 'DIR', '--model.lr=0.1']
    """
    words: list[str] = []
    for word in sweep.command[1:]:
        if word == "${args}":
            words += [*extra, *(f"--{name}={_as_word(value)}" for name, value in values.items())]
        else:
            words.append(
                re.sub(r"\$\{envvar:(\w+)\}", lambda found: os.environ.get(found[1], found[1]), word)
            )
    if base is not None:
        place = next(
            (i for i, word in enumerate(words) if word == "--config" or word.startswith("--config=")), None
        )
        if place is None:
            raise ValueError(f"the sweep's command has no --config that {base} could replace")
        words[place : place + 2 - ("=" in words[place])] = ["--config", base]
    return words


def _as_word(value: Any) -> str:
    """Format a value so that the command line reads it as YAML."""
    return json.dumps(value) if value is None or isinstance(value, (list, dict)) else str(value)


def _are_probabilities(given: Any, count: int) -> bool:
    numbers = isinstance(given, list) and len(given) == count and all(_is_number(p) and p >= 0 for p in given)
    return numbers and math.isclose(sum(given), 1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
