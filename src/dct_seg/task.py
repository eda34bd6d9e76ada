"""Training click by click: one click, forward, loss, optimizer step; then the next click from the new mask (section 2.3)."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor

from dct_seg.clicks import ClickBatch
from dct_seg.interaction import Interaction, interact
from dct_seg.losses import LOSSES, weighted_sum
from dct_seg.metrics import NumberOfClicks, iou
from dct_seg.models.dct_net import DCTNet, DCTNetConfig
from dct_seg.simulation import Place, Prompt, Rule, SimulatedUser, predicted

EVALUATION_ARGUMENTS = ("val_prompts", "val_clicks", "val_threshold", "channels_last")
"""Kept out of a checkpoint's hyper-parameters, so that what the command line says about evaluation wins over it."""


class InteractiveSegmentationTask(LightningModule):
    """DCT-Net with its training loop and its validation protocol. The defaults are the paper's.

    Args:
        network: Which network.
        lr: Learning rate of what is new; the paper's 1e-4.
        backbone_lr_factor: The backbone learns at ``lr`` times this.
        optimizer: ``adam`` is the paper's, ``adamw`` decays weights apart from the gradient.
        weight_decay: Weight decay.
        schedule: ``step`` multiplies the rate by 0.1 each ``step_epochs`` (the paper), ``cosine`` ends near 0, ``constant`` stays.
        step_epochs: Epochs between two steps of ``step``.
        warmup_epochs: Epochs over which the rate rises to its value, for any schedule.
        train_clicks: Fewest and most clicks of a batch; the number is drawn anew for each batch, alike on all ranks.
        update: ``every`` steps after each click (the paper), ``last`` only after the last click of a batch, ``sum`` adds up the
            gradients of all clicks and steps once.
        losses: Name of each loss and its weight.
        drag_loss: Weight of the Auto-Drag-Head's loss (smooth L1 of the logarithm of the radius).
        drag_share: Share of training images whose clicks come with their radius; the others get the head's.
        rule: The simulated user's rule in training.
        place: Click at the region's ``center``, or anywhere in its ``core``.
        radius_noise: A told radius is multiplied by 1 - F .. 1 + F.
        click_jitter: Clicks move up to this many pixels.
        gradient_clip: Largest norm of the gradient; None leaves it. (Trainer's own option is refused under manual optimisation.)
        seed: Seed of the simulated user.
        val_prompts: Prompts to validate with; each gets its own row, they are never mixed.
        val_clicks: Most clicks in validation.
        val_threshold: A pixel is object above this probability.
        channels_last: Keep weights and images channels-last in memory, faster on CPUs and tensor cores.
    """

    def __init__(
        self,
        network: DCTNetConfig | dict[str, Any] | None = None,
        *,
        lr: float = 1e-4,
        backbone_lr_factor: float = 1.0,
        optimizer: Literal["adam", "adamw"] = "adam",
        weight_decay: float = 0.0,
        schedule: Literal["step", "cosine", "constant"] = "step",
        step_epochs: int = 10,
        warmup_epochs: int = 0,
        train_clicks: tuple[int, int] = (3, 3),
        update: Literal["every", "last", "sum"] = "every",
        losses: dict[str, float] | None = None,
        drag_loss: float = 1.0,
        drag_share: float = 1.0,
        rule: Rule = "largest_region",
        place: Place = "center",
        radius_noise: float = 0.0,
        click_jitter: float = 0.0,
        gradient_clip: float | None = None,
        seed: int = 0,
        val_prompts: tuple[Prompt, ...] | list[Prompt] = ("drag",),
        val_clicks: int = 20,
        val_threshold: float = 0.5,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        config = DCTNetConfig.from_dict(network) if isinstance(network, dict) else network or DCTNetConfig()
        self.losses = losses or {"bce": 1.0}
        for name in self.losses:
            LOSSES.get(name)
        if not 1 <= train_clicks[0] <= train_clicks[1]:
            raise ValueError(f"train_clicks is the fewest and the most clicks of a batch, got {tuple(train_clicks)}")
        self.save_hyperparameters(ignore=["network", *EVALUATION_ARGUMENTS])
        self.save_hyperparameters({"network": asdict(config)})
        self.automatic_optimization = False
        self.net = DCTNet(config).train()  # Trainer.fit calls no train(), which is what freezes the backbone's batch norm
        if channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.val_prompts, self.val_clicks, self.val_threshold = list(val_prompts), val_clicks, val_threshold
        self.val_metrics: dict[str, NumberOfClicks] = {}

    def forward(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        """As :meth:`DCTNet.forward`."""
        logits: Tensor = self.net(image, clicks, previous)
        return logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The clicks of one batch, each with its loss and, by default, its optimizer step."""
        generator = self._generator(batch_idx)
        low, high = self.hparams["train_clicks"]
        num_clicks = int(torch.randint(low, high + 1, (1,), generator=generator))  # drawn before anything that differs by rank
        generator.manual_seed(generator.initial_seed() + 7919 * (self.global_rank + 1))
        drag = torch.rand(len(batch["image"]), generator=generator) < self.hparams["drag_share"]
        user = SimulatedUser(
            batch["mask"],
            batch["ignore"],
            rule=self.hparams["rule"],
            prompt=drag,
            place=self.hparams["place"],
            radius_noise=self.hparams["radius_noise"],
            click_jitter=self.hparams["click_jitter"],
            generator=generator,
        )
        learner = _Learner(self.net, batch["image"])
        optimizer: Any = self.optimizers()
        update = self.hparams["update"]
        rows: list[Tensor] = []
        steps = interact(learner, batch["image"], user, num_clicks, stop_when_done=False)
        for index in range(num_clicks):
            last = index == num_clicks - 1
            with torch.set_grad_enabled(last or update != "last"):
                step = next(steps)
            if update == "last" and not last:
                continue
            loss = weighted_sum(self.losses, step.logits, batch["mask"], batch["ignore"], step.asked.done)
            drag_loss = learner.drag_loss(step)
            self.manual_backward(loss + self.hparams["drag_loss"] * drag_loss)
            if update == "every" or last:
                if self.hparams["gradient_clip"] is not None:
                    torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.hparams["gradient_clip"])
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                rows.append(torch.stack([loss, drag_loss, iou(predicted(step.logits), batch["mask"], batch["ignore"]).mean().to(loss)]))
        row = torch.stack(rows).detach()
        means = {"train/loss": row[:, 0].mean(), "train/drag_loss": row[:, 1].mean(), "train/first_mIoU": row[0, 2], "train/last_mIoU": row[-1, 2]}
        self.log_dict(means, prog_bar=True, batch_size=len(drag))

    def _generator(self, batch_idx: int) -> torch.Generator:
        """Randomness that depends on the seed, the epoch and the batch alone, so that a resumed run draws the same."""
        return torch.Generator().manual_seed((self.hparams["seed"] * 1_000_003 + self.current_epoch) * 1_000_003 + batch_idx)

    def on_train_epoch_end(self) -> None:
        """Step the schedule once an epoch; ``global_step`` counts clicks."""
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        self.log("lr", scheduler.get_last_lr()[0])

    def configure_optimizers(self) -> Any:
        """Adam over two groups, the backbone and what is new, with a rate that changes by epochs."""
        if self.hparams["gradient_clip"] is not None and self.trainer.precision == "16-mixed":
            raise ValueError("gradient_clip does not go with precision 16-mixed, whose gradients are scaled; use bf16-mixed or 32-true")
        groups = self.net.parameter_groups(self.hparams["lr"], backbone_lr_factor=self.hparams["backbone_lr_factor"])
        kind = torch.optim.AdamW if self.hparams["optimizer"] == "adamw" else torch.optim.Adam
        optimizer = kind(groups, betas=(0.9, 0.999), weight_decay=self.hparams["weight_decay"], fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate_at)
        return [optimizer], [scheduler]

    def _rate_at(self, epoch: int) -> float:
        schedule, warmup = self.hparams["schedule"], self.hparams["warmup_epochs"]
        if epoch < warmup:
            return float((epoch + 1) / (warmup + 1))
        if schedule == "step":
            return float(0.1 ** (epoch // self.hparams["step_epochs"]))
        if schedule == "cosine":
            total = max((self.trainer.max_epochs or 1) - warmup, 1)
            return float(0.5 * (1 + math.cos(math.pi * min((epoch - warmup) / total, 1.0))) + 1e-3)
        return 1.0

    def on_validation_epoch_start(self) -> None:
        """A fresh table of IoUs for each prompt."""
        size = self.trainer.datamodule.num_val_samples  # type: ignore[attr-defined]
        self.val_metrics = {p: NumberOfClicks(size, max_clicks=self.val_clicks).to(self.device) for p in self.val_prompts}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """All clicks of a batch under the protocol ``max_distance``, once for each prompt."""
        for prompt, metric in self.val_metrics.items():
            user = SimulatedUser(batch["mask"], batch["ignore"], rule="max_distance", prompt=prompt, threshold=self.val_threshold)  # type: ignore[arg-type]
            ious = torch.ones(len(batch["image"]), self.val_clicks, device=self.device)
            for step in interact(self.net, batch["image"], user, self.val_clicks):
                now = iou(predicted(step.logits, self.val_threshold), batch["mask"], batch["ignore"])
                ious[:, step.index :] = now[:, None].to(ious)  # held, should this be the last click
            metric.update(ious, batch["sample_id"])

    def on_validation_epoch_end(self) -> None:
        """Log each prompt's row."""
        for prompt, metric in self.val_metrics.items():
            row = {f"val/{prompt}/{name}": value.float() for name, value in metric.compute().items()}
            self.log_dict(row, sync_dist=False, rank_zero_only=False)


class _Learner:
    """DCT-Net in training: computes the Auto-Drag-Head's inputs once a batch, and keeps what its loss needs."""

    def __init__(self, net: DCTNet, image: Tensor) -> None:
        self.net = net
        self.log_radii: Tensor | None = None
        with torch.no_grad():
            self.features = net.encode_image(image) if net.auto_drag is not None else []

    def __call__(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        logits: Tensor = self.net(image, clicks, previous)
        return logits

    def fill_radii(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> ClickBatch:
        """Predict the last click's radius for all images, and use it where none is given."""
        if self.net.auto_drag is None:
            return clicks
        last = ClickBatch(clicks.coords[:, -1:], clicks.labels[:, -1:], clicks.radii[:, -1:])
        self.log_radii = self.net.log_radii(self.features, last, previous, (image.shape[2], image.shape[3]))
        guessed = torch.where(last.lacks_radius, self.log_radii.detach().exp(), last.radii)
        return clicks.with_radii(torch.cat([clicks.radii[:, :-1], guessed.to(clicks.radii)], 1))

    def drag_loss(self, step: Interaction) -> Tensor:
        """Smooth L1 between the predicted and the true logarithm of the radius, over images that are not done."""
        if self.log_radii is None:
            return step.logits.new_zeros(())
        target = step.asked.true_radii.clamp(min=1).log().to(self.log_radii)
        each = F.smooth_l1_loss(self.log_radii[:, 0], target, reduction="none", beta=0.5)
        weight = (~step.asked.done).to(each)
        return (each * weight).sum() / weight.sum().clamp(min=1)
