"""Optimizer and schedule of a run, our own or torch's, with a separate learning rate for the backbone."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from dct_seg.ranges import check_number

Schedule = Literal["step", "cosine", "constant"]
OptimizerName = Literal["adam", "adamw"]
Settings = dict[str, Any]

SETTINGS_KEY = "optimizer_settings"
"""Checkpoint key with the run's optimizer and schedule: classes and arguments."""
_COSINE_END = 1e-3
_SAME_STATE = {"Adam", "AdamW"}


@dataclass(frozen=True)
class Choice:
    """Optimizer or scheduler class of torch, with its arguments.

    Args:
        kind: Optimizer or scheduler class.
        options: Arguments of the class, without the parameters or the optimizer.
    """

    kind: Any
    options: Settings = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the class."""
        return str(self.kind.__name__)


def make_optimizer(net: Any, hparams: Mapping[str, Any], choice: Choice | None, *, fused: bool) -> Optimizer:
    """Make the optimizer, with groups for new parameters, the pretrained backbone, and layers without a norm.

    Args:
        net: Network to train; its ``parameter_groups`` are used.
        hparams: Hyperparameters of the task.
        choice: Optimizer from torch; None uses ``optimizer``, ``lr`` and ``weight_decay`` of ``hparams``.
        fused: Run the built-in optimizer as one fused kernel.

    Raises:
        ValueError: When the optimizer cannot be used.
    """
    factor = hparams["backbone_lr_factor"]
    if choice is None:
        groups = net.parameter_groups(hparams["lr"], backbone_lr_factor=factor)
        kind = AdamW if hparams["optimizer"] == "adamw" else Adam
        return kind(groups, betas=(0.9, 0.999), weight_decay=hparams["weight_decay"], fused=fused)
    if issubclass(choice.kind, torch.optim.LBFGS):
        raise ValueError(
            "optimizer LBFGS needs several losses per step, but training click by click has one; use another "
            "optimizer"
        )
    known = inspect.signature(choice.kind).parameters
    rate = choice.options.get("lr", known["lr"].default if "lr" in known else hparams["lr"])
    check_number("optimizer.lr", float(rate), above=0)
    options = {name: value for name, value in choice.options.items() if name != "lr"}
    try:
        optimizer: Optimizer = choice.kind(
            net.parameter_groups(float(rate), backbone_lr_factor=factor), lr=float(rate), **options
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"optimizer {choice.name} cannot train this network: {error}") from error
    return optimizer


def make_scheduler(optimizer: Optimizer, choice: Choice | None, rate_at: Callable[[int], float]) -> Any:
    """Make the schedule, stepped once per epoch.

    Args:
        optimizer: Optimizer whose learning rate is set.
        choice: Torch scheduler; None follows ``rate_at``.
        rate_at: Factor on the learning rate for each epoch.

    Raises:
        ValueError: When the scheduler cannot be used.
    """
    if choice is None:
        return LambdaLR(optimizer, rate_at)
    try:
        return choice.kind(optimizer, **choice.options)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"lr_scheduler {choice.name} cannot be created: {error}") from error


def rate_at(epoch: int, hparams: Mapping[str, Any], max_epochs: int) -> float:
    """Learning rate factor of an epoch, from ``schedule``, ``step_epochs`` and ``warmup_epochs``."""
    schedule, warmup = hparams["schedule"], hparams["warmup_epochs"]
    if epoch < warmup:
        return float((epoch + 1) / (warmup + 1))
    if schedule == "step":
        return float(0.1 ** (epoch // hparams["step_epochs"]))
    if schedule == "cosine":
        done = min((epoch - warmup) / max(max_epochs - warmup, 1), 1.0)
        return _COSINE_END + (1 - _COSINE_END) * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def step_scheduler(scheduler: Any, trainer: Trainer, *, validated: bool) -> None:
    """Step a schedule at the end of an epoch.

    Args:
        scheduler: Torch scheduler.
        trainer: Trainer, which holds the metrics that ``ReduceLROnPlateau`` reads.
        validated: Whether this epoch was validated; metrics of an earlier epoch are not counted twice.

    Raises:
        ValueError: When the monitored metric was not logged, or the schedule fails.
    """
    if not isinstance(scheduler, ReduceLROnPlateau):
        try:
            scheduler.step()
        except (ValueError, ArithmeticError) as error:
            raise ValueError(f"lr_scheduler {type(scheduler).__name__} cannot step: {error}") from error
        return
    monitor = str(getattr(scheduler, "monitor", "train/loss"))
    if monitor.startswith("val/") and not validated:
        return
    metrics = trainer.callback_metrics
    if monitor not in metrics:
        known = ", ".join(sorted(metrics))
        raise ValueError(f"lr_scheduler.monitor must be a logged metric, got '{monitor}'; known: {known}")
    scheduler.step(float(metrics[monitor]))


def settings_of(optimizer: Optimizer, choice: Choice | None) -> Settings:
    """Describe classes and arguments as plain values, for comparison with a checkpoint.

    Args:
        optimizer: Optimizer before its first step.
        choice: Torch scheduler; None for the built-in one.
    """
    return {
        "optimizer": type(optimizer).__name__,
        "groups": [_group_settings(group) for group in optimizer.param_groups],
        "scheduler": choice.name if choice else "",
        "scheduler_options": dict(choice.options) if choice else {},
    }


def keep_magnitudes(given: Settings, stored: Settings) -> None:
    """Use the magnitudes at the start of a run, instead of those at its resume, for the learning rates.

    Args:
        given: Settings of this run; changed in place.
        stored: Settings of the checkpoint.
    """
    for now, before in zip(given["groups"], stored["groups"], strict=False):
        if "magnitude" in now and "magnitude" in before:
            now["lr"] *= before["magnitude"] / now["magnitude"]
            now["magnitude"] = before["magnitude"]


def stored_settings(checkpoint: Mapping[str, Any]) -> Settings:
    """Get the settings in a checkpoint; an older one has only those of the parameter groups."""
    found: Settings | None = checkpoint.get(SETTINGS_KEY)
    if found is not None:
        return found
    states = checkpoint.get("optimizer_states") or [{"param_groups": []}]
    return {"groups": [_group_settings(group) for group in states[0]["param_groups"]]}


def check_same_classes(stored: Settings, given: Settings) -> None:
    """Check that a checkpoint's optimizer and schedule have the same classes.

    Raises:
        ValueError: When a class differs.
    """
    for key, option in (("optimizer", "--optimizer"), ("scheduler", "--lr_scheduler")):
        before, now = stored.get(key, given[key]), given[key]
        if before != now and not {before, now} <= _SAME_STATE:
            ours = "that of model.schedule"
            raise ValueError(
                f"the checkpoint's {key} is {before or ours}, the configuration's {now or ours}; give "
                f"{option} as before, or start a new run from its weights with --model.start_from FILE"
            )


def apply_changes(
    optimizer: Optimizer, schedulers: list[Any], stored: Settings, given: Settings
) -> list[str]:
    """Apply this run's settings over those restored from a checkpoint; equal ones stay unchanged.

    Args:
        optimizer: Optimizer, with the state of the checkpoint.
        schedulers: Schedulers, with the state of the checkpoint.
        stored: Settings of the checkpoint.
        given: Settings of this run.

    Returns:
        Descriptions of the changed settings.
    """
    changed: dict[str, str] = {}
    for number, (group, before, now) in enumerate(
        zip(optimizer.param_groups, stored["groups"], given["groups"], strict=False)
    ):
        for key, value in now.items():
            if key in before and _is_same(before[key], value):
                continue
            if key == "lr":
                factor = value / before["lr"] if before.get("lr") else 1.0
                group["lr"] = group["lr"] * factor if before.get("lr") else value
                if "initial_lr" in group:
                    group["initial_lr"] = value
                for scheduler in schedulers:
                    if hasattr(scheduler, "base_lrs"):
                        scheduler.base_lrs[number] = value
            else:
                group[key] = value
            if key in before and key not in changed:
                changed[key] = f"optimizer {key} {value} (was {before[key]})"
    options: Settings = given["scheduler_options"]
    old_options: Settings = stored.get("scheduler_options", options)
    if options != old_options:
        for scheduler in schedulers:
            _set_options(scheduler, optimizer, old_options, options)
    for key, value in options.items():
        was = old_options.get(key, "the default")
        if was != value:
            changed[f"scheduler {key}"] = f"lr_scheduler.{key} {value} (was {was})"
    return list(changed.values())


def _set_options(scheduler: Any, optimizer: Optimizer, before: Settings, now: Settings) -> None:
    """Set the attributes of a scheduler that differ between new ones with these options; counters stay."""
    states = []
    for options in (before, now):
        other = copy.copy(optimizer)  # a new scheduler sets the learning rates of its optimizer
        other.param_groups = [dict(group) for group in optimizer.param_groups]
        states.append(type(scheduler)(other, **options).state_dict())
    for key, value in states[1].items():
        if key != "_last_lr" and (key not in states[0] or states[0][key] != value):
            setattr(scheduler, key, value)


def _is_same(before: Any, now: Any) -> bool:
    """Whether two settings are equal; two rates may differ by rounding."""
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=1e-12)
    return bool(before == now)


def _group_settings(group: Mapping[str, Any]) -> Settings:
    settings = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
    settings["lr"] = group.get("initial_lr", group["lr"])
    return settings


def changed_values(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Describe differing values; a list equals a tuple of the same values."""

    def plain(value: Any) -> str:
        return json.dumps(value, sort_keys=True, default=str)

    return [
        f"{key} {given[key]} (was {stored[key]})"
        for key in given
        if key in stored and plain(stored[key]) != plain(given[key])
    ]


def log_on_first_rank(line: str) -> None:
    """Log one line on the first rank."""
    rank_zero_info(line)
