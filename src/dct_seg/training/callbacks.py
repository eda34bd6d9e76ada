"""Callbacks that log interactions, IoU curves and the worst samples, and save the configuration.

They write to W&B, to TensorBoard, or to files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from torch import Tensor

from dct_seg.clicks import Click
from dct_seg.data.batches import checked_batch, names_of
from dct_seg.drawing import Turn, draw_strip, draw_strips, save_png
from dct_seg.files import write_whole
from dct_seg.interaction import interact
from dct_seg.metrics import hold_last, iou, num_clicks_to
from dct_seg.simulation import Prompt, predicted
from dct_seg.simulation.user import SimulatedUser
from dct_seg.training.evaluation import loaders_in
from dct_seg.training.task import InteractiveSegmentationTask

RGBImage = NDArray[np.uint8]

WORST_COLUMNS = ("sample", "prompt", "NoC@90", "first IoU", "last IoU", "mean IoU")
LABELS = {0: "background", 1: "object", 2: "ignored"}
SIGNS = {0: "negative click", 1: "positive click"}
POINT = 2.0
"""Half side in pixels of the box around a click without a drag."""


@dataclass(frozen=True)
class RecordedInteraction:
    """Sample with the clicks made on it.

    Args:
        name: Name of the sample.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, the object.
        ignore: (H, W) bool, True for ignored pixels.
        turns: Clicks, mask and IoU after each click.
    """

    name: str
    image: RGBImage
    mask: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    turns: list[Turn]


@dataclass(frozen=True)
class Shown:
    """Interactions shown from one validation, for one prompt.

    Args:
        prompt: ``drag`` if the model received the radii, otherwise ``click``.
        samples: Samples to draw; the same ones after each validation.
        worst: Samples with the lowest mean IoU, worst first.
        rows: One row of ``WORST_COLUMNS`` for each sample in ``worst``.
        curve: Mean IoU after each click.
    """

    prompt: Prompt
    samples: list[RecordedInteraction]
    worst: list[RecordedInteraction]
    rows: list[list[Any]]
    curve: list[float]


class InteractionLogger(Callback):
    """Log sample interactions, the IoU curve and the worst samples after each validation.

    - **W&B**: prediction and ground truth as masks, each click as the box around its drag's circle, drawn
      strips, the curve of IoU over clicks, and a table of the worst samples. After training, the network is
      uploaded as an artifact of type ``model``, which `Predictor` reads. This also works
      offline.
    - **TensorBoard**: strips and curve as images, the worst samples as text.
    - **Other loggers**: PNG and CSV files in ``interactions/`` in the run's folder.

    Under DDP, the first rank logs the samples of all ranks.

    Args:
        num_samples: Number of samples to log, spread over the validation set; 0 logs none.
        num_worst: Number of rows in the table of the worst samples; 0 writes no table.
        num_clicks: Number of clicks drawn per sample.
        log_model: Whether to upload the trained network to W&B, as a safetensors file in the run's folder.

    Raises:
        ValueError: When a number is out of range.

    Examples:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[InteractionLogger(num_samples=8)], logger=False, barebones=False)
    """

    def __init__(
        self, num_samples: int = 3, num_worst: int = 8, num_clicks: int = 5, log_model: bool = True
    ) -> None:
        for name, value, least in (
            ("num_samples", num_samples, 0),
            ("num_worst", num_worst, 0),
            ("num_clicks", num_clicks, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.num_samples = num_samples
        self.num_worst = num_worst
        self.num_clicks = num_clicks
        self.log_model = log_model

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log interactions of the validation, with the weights that it measured."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        # A weight averaging before this callback has already swapped the trained weights back.
        before = [one for one in callbacks[: callbacks.index(self)] if isinstance(one, WeightAveraging)]
        for averaging in before:
            averaging.on_validation_epoch_start(trainer, pl_module)
        try:
            self._show(trainer, pl_module, "val", trainer.val_dataloaders)
        finally:
            for averaging in before:
                averaging.on_validation_epoch_end(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log interactions of the test."""
        self._show(trainer, pl_module, "test", trainer.test_dataloaders)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Upload the trained network to W&B; with ``EMAWeightAveraging``, the average."""
        assert isinstance(pl_module, InteractiveSegmentationTask)
        if self.log_model and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    _log_network(
                        logger, pl_module, {k: float(v) for k, v in trainer.callback_metrics.items()}
                    )

    def _show(self, trainer: Trainer, task: LightningModule, stage: str, loaders: Any) -> None:
        assert isinstance(task, InteractiveSegmentationTask)
        if trainer.sanity_checking or not (self.num_samples or self.num_worst):
            return
        tables: dict[Prompt, Tensor] = {}
        for prompt in task.val_prompts:
            metric = task.val_metrics[prompt]
            with metric.sync_context():  # every rank takes part; the table then has all ranks' samples
                tables[prompt] = metric.table.detach().cpu().clone()
        if not trainer.is_global_zero:
            return
        shown = []
        loader = loaders_in(loaders)[0]
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            for prompt, table in tables.items():
                seen = (table[:, 0] >= 0).nonzero()[:, 0]
                if len(seen):
                    shown.append(
                        self._shown(task, loader, prompt, hold_last(table[seen], task.val_clicks), seen)
                    )
        if shown:
            _log(trainer, stage, shown)

    def _shown(
        self, task: InteractiveSegmentationTask, loader: Any, prompt: Prompt, ious: Tensor, ids: Tensor
    ) -> Shown:
        """Select the interactions to show; ``ious`` (n, K) of the samples ``ids`` (n,) of ``loader``."""
        spread = torch.linspace(0, len(ids) - 1, min(self.num_samples, len(ids))).round().long()
        worst = ious.mean(1).argsort(stable=True)[: self.num_worst]
        chosen = dict.fromkeys(ids[torch.cat([spread, worst])].tolist())
        played = {n: play(task, _batch_of(loader, n), prompt, self.num_clicks) for n in chosen}
        clicks = num_clicks_to(ious, 0.9, task.val_clicks, target=1.0)
        rows = [
            [
                played[n].name,
                prompt,
                int(clicks[i]),
                float(ious[i, 0]),
                float(ious[i, -1]),
                float(ious[i].mean()),
            ]
            for i, n in zip(worst.tolist(), ids[worst].tolist(), strict=True)
        ]
        return Shown(
            prompt,
            [played[n] for n in ids[spread].tolist()],
            [played[n] for n in ids[worst].tolist()],
            rows,
            ious.mean(0).tolist(),
        )


class RunConfigCallback(SaveConfigCallback):
    """Save each run's configuration in the run's own folder.

    Lightning's callback would write ``./config.yaml`` for every W&B run. W&B also gets the values of ``data``
    and ``trainer``, so that runs can be compared by them; the task logs the model's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file; called on the first rank only."""
        text = self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                run = logger.experiment
                path = write_whole(
                    Path(run.dir) / "dct_seg_config.yaml", text
                )  # W&B has its own config.yaml there
                run.save(str(path), base_path=run.dir, policy="now")
                values = self.config.as_dict()
                logger.log_hyperparams({name: values[name] for name in ("data", "trainer") if name in values})
            else:
                write_whole(log_folder(trainer, logger) / self.config_filename, text)
        if not trainer.loggers:
            write_whole(log_folder(trainer) / self.config_filename, text)


def log_folder(trainer: Trainer, logger: Logger | None = None) -> Path:
    """Find the folder for files that the run's logger cannot store."""
    return Path(getattr(logger, "log_dir", None) or trainer.default_root_dir)


def play(
    task: InteractiveSegmentationTask, batch: Mapping[str, Any], prompt: Prompt, num_clicks: int
) -> RecordedInteraction:
    """Make the first clicks on one sample under the validation protocol.

    Args:
        task: Task, in evaluation mode.
        batch: Batch of one sample, see `dct_seg.data.batches`.
        prompt: ``drag`` gives the model the radius of each click, ``click`` does not.
        num_clicks: Maximum number of clicks; fewer if the mask is perfect earlier.
    """
    image, mask, ignore = (batch[key].to(task.device) for key in ("image", "mask", "ignore"))
    user = SimulatedUser(mask, ignore, prompt=prompt, threshold=task.val_threshold)
    turns = []
    with torch.inference_mode():
        for turn in interact(
            task.net,
            image,
            user,
            num_clicks,
            marks_clicks=task.hparams["mark_clicks"],
            radius_from=task.hparams["radius_from"],
        ):
            pred = predicted(turn.logits, task.val_threshold)
            radii = turn.clicks.radii  # may be infinite if training diverged; logging must not end the run
            clicks = turn.clicks.with_radii(radii.where(radii.isfinite(), torch.nan)).to_clicks()[0]
            turns.append(Turn(clicks, pred[0].cpu().numpy(), float(iou(pred, mask, ignore))))
    rgb = (batch["image"][0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return RecordedInteraction(
        names_of(batch)[0], rgb, batch["mask"][0].numpy(), batch["ignore"][0].numpy(), turns
    )


def _batch_of(loader: Any, number: int) -> dict[str, Any]:
    """Make a batch of one sample of a loader; without a name, the sample has its number."""
    return {"name": [str(number)], **checked_batch(loader.collate_fn([loader.dataset[number]]))}


def click_boxes(clicks: Sequence[Click], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Make boxes around the circles of the drags, in W&B's format.

    W&B's x and y are column and row in pixels.

    Args:
        clicks: Clicks in order.
        size: (H, W) of the image, to which boxes are clipped.

    Examples:
        >>> box = click_boxes([Click(10, 20, True, 4.0)], (40, 22))[0]
        >>> box["position"], box["box_caption"]
        ({'minX': 16, 'maxX': 22, 'minY': 6, 'maxY': 14}, '1: r 4')
    """
    boxes = []
    for number, click in enumerate(clicks, 1):
        reach = click.radius or POINT
        ends = {
            "minX": click.col - reach,
            "maxX": click.col + reach,
            "minY": click.row - reach,
            "maxY": click.row + reach,
        }
        position = {name: round(min(max(value, 0), size[name.endswith("X")])) for name, value in ends.items()}
        caption = f"{number}: r {click.radius:.0f}" if click.radius else f"{number}"
        boxes.append(
            {"position": position, "domain": "pixel", "class_id": int(click.positive), "box_caption": caption}
        )
    return boxes


def draw_iou_curves(curves: Mapping[str, Sequence[float]]) -> RGBImage:
    """Plot the mean IoU after each click, one line per name: (H, W, 3) uint8 RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained", dpi=120)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(
            range(1, len(curve) + 1),
            curve,
            marker="o",
            markersize=3,
            label=f"{name} (AuC {np.mean(curve):.3f})",
        )
    axes.set(xlabel="clicks", ylabel="mean IoU", ylim=(None, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


def _log(trainer: Trainer, stage: str, shown: Sequence[Shown]) -> None:
    step = (
        trainer.fit_loop.epoch_loop.total_batch_idx + 1
    )  # the step of Lightning's loggers; global_step counts clicks
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            _log_to_wandb(logger, stage, shown, step)
        elif isinstance(logger, TensorBoardLogger):
            _log_to_tensorboard(logger, stage, shown, step)
    if not any(isinstance(logger, (WandbLogger, TensorBoardLogger)) for logger in trainer.loggers):
        folder = log_folder(trainer, trainer.logger) / "interactions"
        _write_files(folder / f"{stage}_{step:06d}", shown)


def _log_to_wandb(logger: WandbLogger, stage: str, shown: Sequence[Shown], step: int) -> None:
    import wandb

    entries: dict[str, Any] = {}
    for one in shown:
        key = f"{stage}/{one.prompt}"
        if one.samples:
            entries[f"{key}/interactions"] = [_wandb_image(played) for played in one.samples]
            entries[f"{key}/strips"] = [
                wandb.Image(draw_strip(p.image, p.turns), caption=p.name) for p in one.samples
            ]
        if one.worst:
            data = [
                [*row, _wandb_image(p), wandb.Image(draw_strip(p.image, p.turns))]
                for row, p in zip(one.rows, one.worst, strict=True)
            ]
            entries[f"{key}/worst"] = wandb.Table(columns=[*WORST_COLUMNS, "interaction", "strip"], data=data)
    clicks = list(range(1, len(shown[0].curve) + 1))
    entries[f"{stage}/IoU over clicks"] = wandb.plot.line_series(
        xs=clicks,
        ys=[one.curve for one in shown],
        keys=[one.prompt for one in shown],
        title="mean IoU over clicks",
        xname="clicks",
    )
    logger.log_metrics(entries, step)


def _wandb_image(played: RecordedInteraction) -> Any:
    import wandb

    last = played.turns[-1]
    truth = np.where(played.ignore, 2, played.mask).astype(np.uint8)
    masks = {
        "prediction": {"mask_data": last.mask.astype(np.uint8), "class_labels": LABELS},
        "truth": {"mask_data": truth, "class_labels": LABELS},
    }
    boxes = {"clicks": {"box_data": click_boxes(last.clicks, last.mask.shape), "class_labels": SIGNS}}
    return wandb.Image(
        played.image,
        caption=f"{played.name}: IoU {last.iou:.3f} after {len(last.clicks)}",
        masks=masks,
        boxes=boxes,
    )


def _log_network(logger: WandbLogger, task: InteractiveSegmentationTask, metrics: dict[str, float]) -> None:
    import wandb

    run = logger.experiment
    # The file stays in the run's folder: an offline run is then one folder that can be moved and synced, and
    # W&B's cache gets no copy.
    path = task.net.save_pretrained(Path(run.dir).parent / "model" / "dct_net.safetensors")
    artifact = wandb.Artifact(
        f"dct-net-{run.id}",
        type="model",
        metadata={"network": dict(task.hparams["network"]), "metrics": metrics},
    )
    artifact.add_file(str(path), policy="immutable")
    run.log_artifact(artifact, aliases=["latest"])


def _log_to_tensorboard(logger: TensorBoardLogger, stage: str, shown: Sequence[Shown], step: int) -> None:
    board = logger.experiment
    for name, drawing in _drawings(shown).items():
        board.add_image(f"{stage}/{name}", drawing, step, dataformats="HWC")
    rows = [row for one in shown for row in one.rows]
    if rows:
        lines = [" | ".join(_texts(row)) for row in rows]
        board.add_text(
            f"{stage}/worst",
            "\n".join([" | ".join(WORST_COLUMNS), " | ".join("---" for _ in WORST_COLUMNS), *lines]),
            step,
        )


def _write_files(folder: Path, shown: Sequence[Shown]) -> None:
    for name, drawing in _drawings(shown).items():
        save_png(drawing, folder / f"{name}.png")
    rows = [row for one in shown for row in one.rows]
    if rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([WORST_COLUMNS, *map(_texts, rows)])
        write_whole(folder / "worst.csv", buffer.getvalue())


def _drawings(shown: Sequence[Shown]) -> dict[str, RGBImage]:
    drawings = {}
    for one in shown:
        for name, samples in (("strips", one.samples), ("worst", one.worst)):
            if samples:
                drawings[f"{one.prompt}_{name}"] = draw_strips([(p.image, p.turns) for p in samples])
    drawings["iou_over_clicks"] = draw_iou_curves({one.prompt: one.curve for one in shown})
    return drawings


def _texts(row: Sequence[Any]) -> list[str]:
    return [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row]
