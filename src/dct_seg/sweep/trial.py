"""Trial of a sweep: its folder, its command and its result."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from dct_seg.files import LAST_CHECKPOINTS, naming, newest_file, write_whole
from dct_seg.registry import check_choice
from dct_seg.sweep.space import Sweep, Values

OUTCOME, STARTED, LOG = "outcome.json", "trial.json", "log.txt"
"""Files of a trial: result, written last; values and command, written first; output."""
METRICS = "metrics.json"
"""File with the metrics of a finished ``fit``, below its folder."""
SEEDS = ("seed_everything", "model.seed", "data.seed")
"""Parameters of seeds, which distinguish repetitions of one setting."""
NAME_LENGTH = 120
State = Literal["finished", "failed"]
_REMEDY = "remove it, and --resume runs the trial again"


@dataclass(frozen=True)
class Outcome:
    """Result of a trial.

    Args:
        values: Parameter values.
        state: State at the end, with or without a result.
        metrics: Metrics of the last validation, per prompt; empty when the trial failed.
        checkpoint: Last checkpoint, or empty.
        error: Last line of the error; empty when the trial finished.
        attempts: Number of starts.
        seconds: Duration of the last attempt in seconds.
        number: Number of the trial in order of start.
    """

    values: Values
    state: State
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    checkpoint: str = ""
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0
    number: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the trial has a result."""
        return self.state == "finished"


@dataclass(frozen=True)
class Trial:
    """Trial: values with a folder.

    Args:
        values: Values of the sweep's parameters.
        folder: Folder, named by the hash of the values.
    """

    values: Values
    folder: Path

    @classmethod
    def of(cls, values: Values, out: Path) -> Trial:
        """Make the trial of these values in a sweep's folder.

        Examples:
            >>> one, other = (Trial.of({"model.lr": lr}, Path("out")) for lr in (0.1, 0.2))
            >>> one.folder.name == other.folder.name
            False
        """
        key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
        return cls(values, out / "trials" / key)

    @property
    def key(self) -> str:
        """Hash of the values, which names the folder."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path | None:
        """Checkpoint from which a stopped attempt can resume."""
        return newest_file(self.folder.rglob(LAST_CHECKPOINTS))

    def read_outcome(self) -> Outcome | None:
        """Read the result of the trial; None while it is unfinished."""
        path = self.folder / OUTCOME
        if not path.is_file():
            return None
        with naming(f"{path} is not the outcome of a trial", _REMEDY):
            outcome = Outcome(**json.loads(path.read_bytes()))
            check_choice("state", outcome.state, get_args(State))
            _check_metrics(outcome.metrics)
            _check_start({"values": outcome.values, "number": outcome.number, "attempts": outcome.attempts})
            return outcome

    def remove_failed_attempt(self) -> None:
        """Remove the outcome, the last checkpoints and the metrics of an attempt that failed, if any."""
        outcome = self.folder / OUTCOME
        if outcome.is_file():
            # first, because a trial without an outcome resumes from these
            for pattern in (LAST_CHECKPOINTS, METRICS):
                for path in self.folder.rglob(pattern):
                    path.unlink()
            outcome.unlink()

    def write_outcome(self, outcome: Outcome) -> None:
        """Write the result atomically."""
        write_whole(self.folder / OUTCOME, json.dumps(asdict(outcome), indent=1))

    def read_start(self) -> dict[str, Any]:
        """Read the record of the last start: number, attempts, values, command.

        The record is empty if the trial was never started.
        """
        path = self.folder / STARTED
        if not path.is_file():
            return {}
        with naming(f"{path} is not the start of a trial", _REMEDY):
            found: dict[str, Any] = json.loads(path.read_bytes())
            _check_start(found)
            return found

    def write_start(self, *, number: int, attempts: int, command: Sequence[str]) -> None:
        """Write the record of a start."""
        start = {"number": number, "attempts": attempts, "values": self.values, "command": list(command)}
        write_whole(self.folder / STARTED, json.dumps(start, indent=1))


def trials_in(out: Path) -> list[Trial]:
    """List all trials in a sweep's folder, in order of start."""
    found = []
    for path in out.glob(f"trials/*/{STARTED}"):
        start = Trial({}, path.parent).read_start()
        found.append((start["number"], Trial(start["values"], path.parent)))
    return [trial for _, trial in sorted(found, key=lambda one: (one[0], one[1].key))]


def read_metrics(path: Path) -> dict[str, Any]:
    """Read metrics and checkpoint of a finished ``fit``.

    Raises:
        ValueError: When the file has another format.
    """
    with naming(f"{path} contains no metrics of dct-seg fit", _REMEDY):
        left = json.loads(path.read_bytes())
        _check_metrics(left["metrics"])
        return {"metrics": left["metrics"], "checkpoint": str(left["checkpoint"])}


def _check_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    for of_prompt in metrics.values():
        for value in of_prompt.values():
            float(value)


def _check_start(start: Mapping[str, Any]) -> None:
    if not (
        isinstance(start["values"], dict)
        and isinstance(start["number"], int)
        and isinstance(start["attempts"], int)
    ):
        raise TypeError("values must be a mapping, number and attempts whole numbers")


def describe(values: Mapping[str, Any], keys: Sequence[str] | None = None) -> str:
    """Describe values in words, with the shortest unique names.

    Args:
        values: Parameter values.
        keys: Parameters to show; by default all.

    Examples:
        >>> describe({"model.network.decoder_width": 32, "seed_everything": 1})
        'decoder_width 32, seed 1'
    """
    keys = list(values) if keys is None else list(keys)
    names = short_names(keys)
    return ", ".join(
        show(values[key]) if isinstance(values[key], Mapping) else f"{names[key]} {show(values[key])}"
        for key in keys
    )


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten each dotted key to its shortest unique ending.

    Examples:
        >>> short_names(["model.lr", "model.seed", "data.seed"])
        {'model.lr': 'lr', 'model.seed': 'model.seed', 'data.seed': 'data.seed'}
    """
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        names[key] = next(
            end
            for end in ends
            if end == key or not any(o != key and f".{o}".endswith(f".{end}") for o in keys)
        )
    return {key: "seed" if name == "seed_everything" else name for key, name in names.items()}


def show(value: Any) -> str:
    """Format a value for display: a configuration by its name, a mapping as a list of its entries."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return Path(text).stem if text.endswith((".yaml", ".yml")) else text


def has_wandb() -> bool:
    """Whether W&B is installed."""
    return importlib.util.find_spec("wandb") is not None


def without_logger(arguments: Sequence[str]) -> list[str]:
    """Remove the logger from a command, so that Lightning logs to CSV files.

    Examples:
        >>> args = ["--trainer.logger", "WandbLogger", "--trainer.logger.project=p", "--model.lr=1"]
        >>> without_logger(["fit", *args])
        ['fit', '--model.lr=1']
    """
    kept: list[str] = []
    skip = False
    for word in arguments:
        if skip:
            skip = False
        elif word.partition("=")[0] == "--trainer.logger" or word.startswith("--trainer.logger."):
            skip = "=" not in word
        else:
            kept.append(word)
    return kept


def wandb_environment(sweep: Sweep, trial: Trial, attempt: int) -> dict[str, str]:
    """Make the environment variables with W&B's run, group and configuration, as its own agent does.

    The run is offline unless ``WANDB_MODE`` says otherwise. An attempt after a kill is a separate run.
    """
    parameters = "wandb_version: 1\n" + "".join(
        f"\n{json.dumps(name)}:\n  value: {json.dumps(value)}\n" for name, value in trial.values.items()
    )
    path = write_whole(trial.folder / "wandb_parameters.yaml", parameters)
    return {
        "WANDB_MODE": os.environ.get("WANDB_MODE", "offline"),
        "WANDB_RUN_GROUP": sweep.name,
        "WANDB_RUN_ID": trial.key if attempt == 1 else f"{trial.key}-{attempt}",
        "WANDB_NAME": describe(trial.values)[:NAME_LENGTH],
        "WANDB_SWEEP_PARAM_PATH": str(path.resolve()),
        **({"WANDB_PROJECT": sweep.project} if sweep.project else {}),
    }
