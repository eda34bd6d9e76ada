"""``dct-seg fit``, ``validate`` and ``test``: Lightning's command line for the task and the data module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
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

from dct_seg.arguments import UsageError
from dct_seg.click_encoders import CLICK_ENCODERS
from dct_seg.configurations import check_file, configuration_files, resolve_arguments
from dct_seg.data.datamodule import ClickSimulatorDataModule
from dct_seg.data.datasets import DATASETS
from dct_seg.data.samples import collate
from dct_seg.drawing import draw_strips, save_png
from dct_seg.files import write_whole
from dct_seg.models import pretrained
from dct_seg.models.config import DCTNetConfig
from dct_seg.models.network import NETWORKS
from dct_seg.processor import keep_freed_memory, trainer_precision
from dct_seg.ranges import check_number
from dct_seg.training.callbacks import InteractionLogger, RunConfigCallback, play
from dct_seg.training.hooks import check_same_network
from dct_seg.training.optimizers import Choice, changed_values
from dct_seg.training.parser import TrainingParser, check_network, first_reason
from dct_seg.training.stop import StopAtBatchEnd
from dct_seg.training.task import InteractiveSegmentationTask

TABLE_COLUMNS = ("NoC@85", "NoC@90", "NoF@90", "mIoU@1", "mIoU@3", "mIoU@5", "AuC")
NUM_DRAWN_SAMPLES, NUM_DRAWN_CLICKS = 3, 5
METRICS_FILE = "metrics.json"
"""File of a finished `fit`: the last validation's metrics for each prompt, and the checkpoint."""
LOG_FOLDER = "runs/log"
SECTIONS = ("model", "data", "trainer", "interactions")
"""Sections of a configuration that hold mappings."""
MOST_SEED = 2**32 - 1
LOGGER_EXTRAS = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard"}
"""Loggers that need an extra of this package, mapped to the extra's name."""
HARMLESS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Precision bf16-mixed is not supported by the model summary",
    r"Found \d+ module\(s\) in eval mode",  # the frozen batch norm is intended
)
"""Lightning's warnings about its own code or about intended settings; they are silenced."""


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
    """Command line of this package, based on Lightning's.

    It accepts all arguments of the task, the data module and the Trainer, or YAML files with them.

    Args:
        args: Command line, beginning with ``fit``, ``validate`` or ``test``.
    """

    def __init__(self, args: list[str]) -> None:
        keep_freed_memory()
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        # short names registered by other packages must be known before the configuration is read
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
                # the samplers shard by rank themselves, and a metric must see each sample once
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "callbacks": [StopAtBatchEnd()],
                "precision": trainer_precision(),
                # A logger given by class name alone inherits these two options, so all loggers must
                # accept them.
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": LOG_FOLDER, "name": None},
                },
            },
            parser_class=TrainingParser,
            auto_configure_optimizers=False,  # the task's optimizer keeps the backbone's rate
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args`` only; ``sys.argv`` is ignored."""
        given = resolve_arguments(args)
        for path in configuration_files(given):
            check_file(path, SECTIONS)
        self.config = parser.parse_args(given)
        check_network(self.config[str(self.config["subcommand"])]["model"]["network"])
        seed = self.config[str(self.config["subcommand"])]["seed_everything"]
        if not isinstance(seed, bool):
            check_number("seed_everything", seed, least=0, most=MOST_SEED, whole=True)
        trainer = self.config[str(self.config["subcommand"])]["trainer"]
        if isinstance(trainer.callbacks, Namespace):  # a single callback becomes a list
            trainer.callbacks = [trainer.callbacks]
        for callback in trainer.callbacks or []:
            _make_plain(callback)

    def _parse_ckpt_path(self) -> None:
        """Read a checkpoint's hyperparameters.

        ``fit`` refuses a checkpoint of another network; ``validate`` and ``test`` use the checkpoint's
        network, and the given ``mark_clicks`` and ``radius_from`` if they are not the defaults.
        """
        command = str(self.config["subcommand"])
        path = self.config[command].get("ckpt_path")
        if path in (None, "last", "best", "hpc", "registry"):
            return
        model = self.config[command]["model"]
        if command == "fit":
            network = model["network"]  # empty: the default network, or that of the starting weights
            wanted = {f.name: network[f.name] for f in fields(DCTNetConfig)} if network else {}
            try:
                check_same_network(pretrained.load(path).config, wanted, name=f"checkpoint '{path}'")
            except ValueError as error:
                raise UsageError(str(error)) from error
            return  # the given values take precedence, and the task reports differences from the checkpoint
        defaults = inspect.signature(InteractiveSegmentationTask).parameters
        given = {k: model[k] for k in ("mark_clicks", "radius_from") if model[k] != defaults[k].default}
        pretrained.load(path)  # refuses a file that is not a checkpoint
        super()._parse_ckpt_path()
        model = self.config[command]["model"]
        changes = changed_values(model, given)
        if changes:
            rank_zero_info(f"{command} with {', '.join(changes)}")
        for key, value in given.items():
            model[key] = value
        model["network"]["backbone_weights"] = "none"  # the checkpoint has the weights

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Trainer methods that are available as commands."""
        hidden = {"model", "dataloaders", "datamodule"}
        return {"fit": hidden | {"train_dataloaders", "val_dataloaders"}, "validate": hidden, "test": hidden}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of the command itself."""
        parser.add_argument(
            "--report",
            type=Literal["none", "after", "before_and_after"],
            default="after",
            help=(
                "print a table of the validation metrics after training, optionally also before it, and draw "
                "an image"
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
            UsageError: When a class cannot be created with its arguments.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UsageError(first_reason(str(error))) from error
        optimizer, scheduler = (self._choice(name) for name in ("optimizer", "lr_scheduler"))
        self.model.optimizer_choice, self.model.scheduler_choice = optimizer, scheduler
        if self.subcommand != "fit":
            return
        if optimizer is not None:
            rank_zero_info(f"optimizer {optimizer.name} replaces model.optimizer, lr and weight_decay")
        if scheduler is not None:
            rank_zero_info(f"lr_scheduler {scheduler.name} replaces model.schedule and warmup_epochs")

    def _choice(self, name: str) -> Choice | None:
        given = self._get(self.config_init, name)
        if not given:
            return None
        module, _, kind = str(given["class_path"]).rpartition(".")
        options = given.get("init_args") or {}
        plain = options.as_dict() if isinstance(options, Namespace) else dict(options)
        return Choice(getattr(importlib.import_module(module), kind), plain)

    def before_instantiate_classes(self) -> None:
        """Write all files of the run to ``trainer.default_root_dir`` unless another folder is given.

        ``$NAME`` in the path is expanded.

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
        _drop_disabled_callbacks(trainer)
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
        """Measure the untrained network if a table of both is requested."""
        if self._get(self.config, "report") == "before_and_after" and not self._get(self.config, "ckpt_path"):
            self._validate("before")

    def after_fit(self) -> None:
        """Print the table, and the paths of the checkpoint and the image."""
        if self._get(self.config, "report") == "none":
            return
        self._validate("after")
        if not self.trainer.is_global_zero:
            return
        if not self.rows:
            print("no table: nothing was validated")
            return
        drawing = save_png(drawing_of(self.model, self.datamodule), Path(self._folder()) / "interactions.png")
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
        print(f"checkpoint  {best or 'none was written'}\nimage       {drawing}")

    def _validate(self, when: str) -> None:
        measured = self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        if not measured:  # limit_val_batches is 0, or there is no validation set
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
    """Format metrics as an aligned text table.

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


def drawing_of(
    task: InteractiveSegmentationTask, data: ClickSimulatorDataModule
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw the first clicks on a few validation samples, one strip each, with the first prompt."""
    task.eval()
    samples = data.val_set
    assert samples is not None
    played = [
        play(task, collate([samples[n]]), task.val_prompts[0], NUM_DRAWN_CLICKS)
        for n in range(min(NUM_DRAWN_SAMPLES, len(samples)))
    ]
    return draw_strips([(one.image, one.turns) for one in played], num_turns=NUM_DRAWN_CLICKS)


def _make_plain(callback: Namespace) -> None:
    """Replace a callback's enumerations by their values, which YAML can represent."""
    for key, value in (callback.get("init_args") or {}).items():
        if isinstance(value, Enum):
            callback["init_args"][key] = value.value


def _drop_disabled_callbacks(trainer: Namespace) -> None:
    """Remove callbacks that conflict with an option of the Trainer."""
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
    """Get the seed of clicks and data; 0 if ``seed_everything`` is true or false."""
    return 0 if isinstance(seed, bool) else seed
