"""``dct-seg fit``, ``validate`` and ``test``.

Lightning's command line around the task and the data module.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.utilities import rank_zero_info

from dct_seg.arguments import OneLineErrors, UsageError
from dct_seg.click_encoders import CLICK_ENCODERS
from dct_seg.configurations import resolve_arguments
from dct_seg.data.datamodule import ClickSimulatorDataModule
from dct_seg.data.datasets import DATASETS
from dct_seg.files import write_whole
from dct_seg.models import pretrained
from dct_seg.models.dct_net import DCTNetConfig
from dct_seg.models.network import NETWORKS
from dct_seg.pictures import draw_strips, save_png
from dct_seg.processor import keep_freed_memory, trainer_precision
from dct_seg.registry import unknown_name
from dct_seg.training.callbacks import InteractionLogger, RunConfigCallback, play
from dct_seg.training.hooks import NOT_ARCHITECTURE
from dct_seg.training.optimizers import Choice
from dct_seg.training.stop import StopAtBatchEnd
from dct_seg.training.task import InteractiveSegmentationTask

TABLE_COLUMNS = ("NoC@85", "NoC@90", "NoF@90", "mIoU@1", "mIoU@3", "mIoU@5", "AuC")
NUM_PICTURES, NUM_PICTURE_CLICKS = 3, 5
METRICS_FILE = "metrics.json"
"""File of a finished `fit`: the last validation's metrics for each prompt, and the checkpoint."""
LOG_FOLDER = "runs/log"
LOGGER_EXTRAS = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard"}
"""Loggers whose package is an extra of ours of the same name."""
HARMLESS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Precision bf16-mixed is not supported by the model summary",
    r"Found \d+ module\(s\) in eval mode",  # the frozen batch norm is meant to be
)
"""Warnings of Lightning about itself, or about what we mean to do."""


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """A parser whose error is one line that names the nearest key there is."""

    def in_one_line(self, message: str) -> str:
        """Find the reason in the nested messages of the parser."""
        lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
        line = lines[0]
        for own in lines:  # the reason given deepest down is ours, the lines around it are the parser's
            if re.search(r"unknown .* '.*'[;,]", own):
                line = own
        key = re.search(
            r"does not accept (?:nested key|option) '([\w.]+)'|[Uu]nrecognized arguments: --([\w.]+)|[Kk]ey "
            r"[\"']?([\w.]+)[\"']? is not",
            message,
        )
        if key:
            return str(unknown_key(next(g for g in key.groups() if g), self._known_keys()))
        return line if len(lines) == 1 or len(line) > 60 else " ".join(lines[:3])

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
    """The error for a configuration key that does not exist, with the nearest ones of the same section."""
    section = given.rsplit(".", 1)[0] + "." if "." in given else ""
    near = [k for k in known if k.startswith(section)] or known
    return unknown_name("configuration key", given, near)


def fit(args: Sequence[str]) -> int:
    """Run ``dct-seg fit``."""
    return _run("fit", args)


def validate(args: Sequence[str]) -> int:
    """Run ``dct-seg validate``."""
    return _run("validate", args)


def test(args: Sequence[str]) -> int:
    """Run ``dct-seg test``."""
    return _run("test", args)


def _run(command: str, args: Sequence[str]) -> int:
    """Run a command of the Trainer; ``--weights`` is short for ``--model.start_from``."""
    long = [re.sub(r"^--weights(?==|$)", "--model.start_from", arg) for arg in args]
    TrainingCLI([command, *long])
    return 0


class TrainingCLI(LightningCLI):
    """Lightning's command line for this package.

    Any argument of the task, the data module and the Trainer, or a YAML of them.

    Args:
        args: The command line, beginning with ``fit``, ``validate`` or ``test``.
    """

    def __init__(self, args: list[str]) -> None:
        keep_freed_memory()
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        # another package's short names must be known before the configuration is read
        CLICK_ENCODERS.load_plugins()
        DATASETS.load_plugins()
        NETWORKS.load_plugins()
        self.rows: dict[str, dict[str, float]] = {}
        super().__init__(
            InteractiveSegmentationTask,
            ClickSimulatorDataModule,
            args=args,
            seed_everything_default=0,
            save_config_callback=RunConfigCallback,
            trainer_defaults={
                # the samplers know their rank, and a metric must see each sample once
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "callbacks": [StopAtBatchEnd()],
                "precision": trainer_precision(),
                # Another logger given by its class alone inherits these two, so they suit all.
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": LOG_FOLDER, "name": None},
                },
            },
            parser_class=TrainingParser,
            auto_configure_optimizers=False,  # ours keeps the backbone's rate
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args`` alone; what started this process is not looked at."""
        self.config = parser.parse_args(resolve_arguments(args))
        trainer = self.config[str(self.config["subcommand"])]["trainer"]
        if isinstance(trainer.callbacks, Namespace):  # one callback stands for a list of one
            trainer.callbacks = [trainer.callbacks]
        for callback in trainer.callbacks or []:
            _make_plain(callback)

    def _parse_ckpt_path(self) -> None:
        """Read a checkpoint's hyper-parameters.

        Training on refuses one of another network, measuring takes its network.
        """
        command = str(self.config["subcommand"])
        path = self.config[command].get("ckpt_path")
        if path in (None, "last", "best", "hpc", "registry"):
            return
        stored = pretrained.load(path).config
        network = self.config[command]["model"][
            "network"
        ]  # none: the default, or that of the weights to start from
        wanted = {f.name: network[f.name] for f in fields(DCTNetConfig)} if network else {}
        differing = [
            f"{k} {v!r} (the configuration says {wanted[k]!r})"
            for k, v in stored.items()
            if k in wanted and k not in NOT_ARCHITECTURE and wanted[k] != v
        ]
        if command == "fit":
            if differing:
                raise UsageError(
                    f"checkpoint '{path}' is of another architecture: {', '.join(differing)}; give its own "
                    "configuration"
                )
            return  # what is given now acts, and the task says where the checkpoint had another value
        super()._parse_ckpt_path()
        self.config[command]["model"]["network"]["backbone_weights"] = "none"  # the checkpoint holds them

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer's methods that are commands."""
        hidden = {"model", "dataloaders", "datamodule"}
        return {"fit": hidden | {"train_dataloaders", "val_dataloaders"}, "validate": hidden, "test": hidden}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of the command itself, besides the Trainer's."""
        parser.add_argument(
            "--report",
            type=Literal["none", "after", "before_and_after"],
            default="after",
            help=(
                "print a table of the validation metrics after training, or also of the untrained network, "
                "and draw an image"
            ),
        )
        parser.add_lightning_class_args(InteractionLogger, "interactions")
        parser.add_optimizer_args((torch.optim.Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        for seed in ("model.seed", "data.seed"):
            parser.link_arguments("seed_everything", seed, compute_fn=_one_seed)

    def instantiate_classes(self) -> None:
        """Build Trainer, task and data; ``--optimizer`` and ``--lr_scheduler`` go to the task.

        Raises:
            UsageError: When the task's own values would be expected to act and do not.
        """
        super().instantiate_classes()
        optimizer, scheduler = (self._choice(name) for name in ("optimizer", "lr_scheduler"))
        self.model.optimizer_choice, self.model.scheduler_choice = optimizer, scheduler
        if self.subcommand != "fit":
            return
        if optimizer is not None:
            rank_zero_info(
                f"optimizer {optimizer.name} takes the place of model.optimizer, lr and weight_decay"
            )
        if scheduler is not None:
            rank_zero_info(
                f"lr_scheduler {scheduler.name} takes the place of model.schedule and warmup_epochs"
            )

    def _choice(self, name: str) -> Choice | None:
        given = self._get(self.config_init, name)
        if not given:
            return None
        module, _, kind = str(given["class_path"]).rpartition(".")
        options = given.get("init_args") or {}
        plain = options.as_dict() if isinstance(options, Namespace) else dict(options)
        return Choice(getattr(importlib.import_module(module), kind), plain)

    def before_instantiate_classes(self) -> None:
        """Put what the run writes below ``trainer.default_root_dir`` where no other place is given.

        ``$NAME`` in it is expanded.

        Raises:
            UsageError: When the logger's package is not installed, or a variable is not set.
        """
        trainer = self._get(self.config, "trainer")
        logger = trainer.logger
        kind = getattr(logger, "class_path", "").rsplit(".", 1)[-1]
        if kind in LOGGER_EXTRAS and importlib.util.find_spec(LOGGER_EXTRAS[kind]) is None:
            raise UsageError(
                f"{kind} needs a package that is not installed; pip install 'dct-seg[{LOGGER_EXTRAS[kind]}]'"
            )
        _drop_what_is_switched_off(trainer)
        if trainer.default_root_dir is None:
            return
        root = trainer.default_root_dir = os.path.expandvars(trainer.default_root_dir)
        if "$" in root:
            raise UsageError(
                f"trainer.default_root_dir is '{root}', and that variable is not set in the environment; set "
                "it, or give a folder"
            )
        for callback in trainer.callbacks or []:
            if (
                callback.class_path.rsplit(".", 1)[-1] == "ModelCheckpoint"
                and callback.init_args.dirpath is None
            ):
                callback.init_args.dirpath = str(Path(root) / "checkpoints")
        if getattr(logger, "init_args", None) is not None and logger.init_args.save_dir == LOG_FOLDER:
            logger.init_args.save_dir = str(Path(root) / "log")

    def before_fit(self) -> None:
        """Measure the untrained network where a before-and-after table is wanted."""
        if self._get(self.config, "report") == "before_and_after" and not self._get(self.config, "ckpt_path"):
            self._validate("before")

    def after_fit(self) -> None:
        """Print the table, the checkpoint and the image's path."""
        if self._get(self.config, "report") == "none":
            return
        self._validate("after")
        if not self.trainer.is_global_zero:
            return
        if not self.rows:
            print("no table: nothing was validated")
            return
        picture = save_png(picture_of(self.model, self.datamodule), Path(self._folder()) / "interactions.png")
        print(f"\n{table(self.rows)}\n")
        best = next(
            (
                c.last_model_path or c.best_model_path
                for c in self.trainer.checkpoint_callbacks
                if isinstance(c, ModelCheckpoint)
            ),
            "",
        )
        metrics = {
            name.removesuffix(", after"): row for name, row in self.rows.items() if name.endswith(", after")
        }
        write_whole(
            Path(self._folder()) / METRICS_FILE,
            json.dumps({"metrics": metrics, "checkpoint": best}, indent=1),
        )
        print(f"checkpoint  {best or 'none was written'}\npicture     {picture}")

    def _validate(self, when: str) -> None:
        measured = self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        if not measured:  # limit_val_batches is 0, or nothing is held out
            return
        metrics = measured[0]
        for prompt in self.model.val_prompts:
            prefix = f"val/{prompt}/"
            self.rows[f"{prompt}, {when}"] = {
                k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)
            }

    def _folder(self) -> str:
        checkpoints = next(
            (
                c.dirpath
                for c in self.trainer.checkpoint_callbacks
                if isinstance(c, ModelCheckpoint) and c.dirpath
            ),
            None,
        )
        return str(Path(checkpoints).parent if checkpoints else self.trainer.default_root_dir)

    def after_validate(self) -> None:
        """Print the table."""
        self.rows = {}
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
        for prompt in self.model.val_prompts:
            prefix = f"val/{prompt}/"
            self.rows[prompt] = {
                k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)
            }
        if self.trainer.is_global_zero:
            print(f"\n{table(self.rows)}")


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Rows of metrics as text, aligned.

    Examples:
        >>> print(table({"drag, after": {"NoC@85": 3.25, "NoC@90": 5.0, "mIoU@1": 0.8125}}))
        prompt       NoC@85  NoC@90  mIoU@1
        drag, after    3.25    5.00   0.812
    """
    columns = [c for c in TABLE_COLUMNS if any(c in row for row in rows.values())]
    width = max(len("prompt"), *(len(name) for name in rows))
    lines = ["  ".join(["prompt".ljust(width), *(c.rjust(6) for c in columns)])]
    for name, row in rows.items():
        cells = [_cell(column, row[column]) if column in row else "-" for column in columns]
        lines.append("  ".join([name.ljust(width), *(c.rjust(6) for c in cells)]))
    return "\n".join(lines)


def _cell(column: str, value: float) -> str:
    if column.startswith("NoF"):
        return str(int(value))
    return f"{value:.2f}" if column.startswith("NoC") else f"{value:.3f}"


def picture_of(
    task: InteractiveSegmentationTask, data: ClickSimulatorDataModule
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first clicks of a few validation samples, one strip a sample, with the prompt that validation used
    first.
    """
    task.eval()
    samples = data.val_set
    assert samples is not None
    played = [
        play(task, samples[n], task.val_prompts[0], NUM_PICTURE_CLICKS)
        for n in range(min(NUM_PICTURES, len(samples)))
    ]
    return draw_strips([(one.image, one.turns) for one in played], num_turns=NUM_PICTURE_CLICKS)


def _make_plain(callback: Namespace) -> None:
    """Write a callback's enumerations as their values, which a configuration file can hold."""
    for key, value in (callback.get("init_args") or {}).items():
        if isinstance(value, Enum):
            callback["init_args"][key] = value.value


def _drop_what_is_switched_off(trainer: Namespace) -> None:
    """Leave out callbacks of a configuration that a switch of the Trainer forbids."""
    if trainer.get("barebones"):
        trainer.logger = False
    off = bool(trainer.get("barebones"))
    ends = [
        end
        for end, key in (("ProgressBar", "enable_progress_bar"), ("Checkpoint", "enable_checkpointing"))
        if off or trainer.get(key) is False
    ]
    if ends and trainer.callbacks:
        trainer.callbacks = [one for one in trainer.callbacks if not one["class_path"].endswith(tuple(ends))]


def _one_seed(seed: bool | int) -> int:
    """The seed of clicks and data; where ``seed_everything`` is true or false, theirs is 0."""
    return 0 if isinstance(seed, bool) else seed
