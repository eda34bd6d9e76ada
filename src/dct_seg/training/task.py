"""Training task: click, forward pass, loss, optimizer step, next click on the new mask (section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dct_seg.click_radii import RadiusSource
from dct_seg.clicks import ClickBatch
from dct_seg.data.batches import checked_batch
from dct_seg.interaction import Interaction, answer_each, interact
from dct_seg.metrics import iou
from dct_seg.models.config import DCTNetConfig
from dct_seg.models.network import InteractiveNetwork, Output, build_network
from dct_seg.ranges import check_counts, check_number, to_python
from dct_seg.registry import check_choice
from dct_seg.simulation import NextClicks, Place, Prompt, Rule, UserSettings, predicted
from dct_seg.simulation.random_clicks import RandomClicks
from dct_seg.simulation.settings import given_settings
from dct_seg.simulation.user import SimulatedUser
from dct_seg.training.corrections import enlarge_corrections, shrink_batch
from dct_seg.training.evaluation import EvaluationSteps
from dct_seg.training.hooks import TaskHooks
from dct_seg.training.learner import EncodedBatch, Learner
from dct_seg.training.losses import Losses, LossSum, kept_right, mean_of_unfinished
from dct_seg.training.optimizers import OptimizerName, Schedule, log_on_first_rank

Update = Literal["every", "last", "sum"]
ClickSampling = Literal["mistakes", "random"]

EVALUATION_ARGUMENTS = ("val_prompts", "val_clicks", "val_threshold", "channels_last")
"""Arguments not stored in a checkpoint, so that the command line controls the evaluation."""


class InteractiveSegmentationTask(EvaluationSteps, TaskHooks):
    """Lightning module with the training loop and the validation protocol; defaults follow the paper.

    Lightning's ``global_step`` counts optimizer steps, hence clicks: ``max_steps`` is a number of clicks, and
    ``ModelCheckpoint(every_n_train_steps=N)`` saves after a batch only if the number of clicks is a multiple
    of N (``train_time_interval`` does nothing under manual optimization). Save, validate and step the
    learning rate per epoch. Loggers count batches, and ``EMAWeightAveraging`` averages once per batch; leave
    its ``update_every_n_steps`` at 1.

    Lightning's profilers report the parts of a training step (``Trainer(profiler="simple")`` prints
    them): ``simulation``, ``radii``, ``forward``, ``loss``, ``backward`` and Lightning's own
    ``optimizer_step``.

    Args:
        network: Network configuration; by default the paper's, or that of ``start_from``.
        start_from: Trained weights to start from, in any form that ``InteractiveNetwork.from_pretrained``
            accepts, with their network.
        lr: Learning rate of the new layers; the paper uses 1e-4.
        backbone_lr_factor: Factor on ``lr`` for the backbone.
        optimizer: ``adam`` as in the paper, or ``adamw``, which decouples weight decay from the gradient.
        weight_decay: Weight decay.
        schedule: ``step`` multiplies the rate by 0.1 every ``step_epochs`` (the paper), ``cosine`` decays to
            near 0, ``constant`` keeps the rate.
        step_epochs: Epochs between two steps of ``step``.
        warmup_epochs: Warm-up epochs, for any schedule.
        train_clicks: Minimum and maximum clicks per batch; drawn for each batch, the same on all ranks.
        clicks_ahead: Make up to this many clicks without gradients first, in half of the batches. Long
            interactions are then seen at a third of the cost; ``train/first_mIoU`` is measured at the first
            click with gradients. The paper uses 0.
        local_clicks: Minimum and maximum clicks per batch that train on enlarged windows around a correction,
            after the other clicks. They receive the current mask as previous mask. The paper uses (0, 0).
        local_reach: Half of such a window's side, in drag radii.
        fine_factor: Size of the training crops relative to the network's input, so that windows around
            corrections are cut from a finer image. The ``crop_size`` of the data must be a multiple of it.
        keep_loss: Weight of an extra loss over the pixels that were right before the click, which limits
            the damage of a correction.
        mark_clicks: Give clicked pixels and the inside of drags the label of their click before the next
            click, as `dct_seg.methods.dctnet.DCTNetMethod` does by default; in training and validation.
        radius_from: Source of the radius of a click without a drag: ``head`` is the Auto-Drag-Head, ``mask``
            takes that of later clicks from the mask, as ``dctnet`` does by default. Used in validation and in
            training, except in the windows of ``local_clicks``; the head learns from all clicks.
        update: ``every`` steps after each click (the paper), ``last`` only after the last click of a batch,
            ``sum`` adds up the gradients of all clicks and steps once.
        accumulate_batches: Batches whose gradients are averaged before a step; with ``update`` ``sum`` or
            ``last``. (Trainer's ``accumulate_grad_batches`` is refused under manual optimization.)
        losses: Name of each loss and its weight, or ``{weight: W, OPTION: VALUE}``.
        drag_loss: Weight of the Auto-Drag-Head's loss (smooth L1 of the logarithm of the radius).
        click_sampling: ``mistakes`` clicks on the network's errors; ``random`` draws each set of clicks
            from the mask alone, as papers before 2018 did (`RandomClicks`); needs a click encoder that
            reads no radius.
        drag_share: Setting of the simulated user, see `dct_seg.simulation.UserSettings`; None uses
            that of the data module, or the default with another data module.
        rule: Setting of the simulated user, as ``drag_share``.
        place: Setting of the simulated user, as ``drag_share``.
        radius_noise: Setting of the simulated user, as ``drag_share``.
        click_jitter: Setting of the simulated user, as ``drag_share``.
        gradient_clip: Maximum gradient norm; None does not clip. (Trainer's own option is refused under
            manual optimization.)
        seed: Seed of the simulated user.
        val_prompts: Prompts to validate with; each has its own metrics.
        val_clicks: Maximum clicks per sample in validation.
        val_threshold: Probability above which a pixel counts as object.
        channels_last: Keep the weights, and so all features, channels-last in memory: faster on CPUs and
            tensor cores.

    Raises:
        ValueError: When an argument is out of range or an unknown name.

    Examples:
        >>> network = DCTNetConfig(backbone="resnet18", backbone_weights="none")
        >>> task = InteractiveSegmentationTask(network, lr=1e-3, losses={"bce": 1.0, "dice": 0.5})
        >>> task.val_prompts
        ['drag']
    """

    def __init__(
        self,
        network: DCTNetConfig | dict[str, Any] | None = None,
        *,
        start_from: str | None = None,
        lr: float = 1e-4,
        backbone_lr_factor: float = 1.0,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        schedule: Schedule = "step",
        step_epochs: int = 10,
        warmup_epochs: int = 0,
        train_clicks: tuple[int, int] = (3, 3),
        clicks_ahead: int = 0,
        local_clicks: tuple[int, int] = (0, 0),
        local_reach: float = 4.0,
        fine_factor: int = 1,
        keep_loss: float = 0.0,
        mark_clicks: bool = False,
        radius_from: RadiusSource = "head",
        update: Update = "every",
        accumulate_batches: int = 1,
        losses: Losses | None = None,
        drag_loss: float = 1.0,
        drag_share: float | None = None,
        rule: Rule | None = None,
        place: Place | None = None,
        click_sampling: ClickSampling = "mistakes",
        radius_noise: float | None = None,
        click_jitter: float | None = None,
        gradient_clip: float | None = None,
        seed: int = 0,
        val_prompts: tuple[Prompt, ...] | list[Prompt] = ("drag",),
        val_clicks: int = 20,
        val_threshold: float = 0.5,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        start = InteractiveNetwork.from_pretrained(start_from) if start_from is not None else None
        config = _network(DCTNetConfig.from_dict(network) if isinstance(network, dict) else network, start)
        self.losses = LossSum({"bce": 1.0} if losses is None else losses)
        check_choice("optimizer", optimizer, get_args(OptimizerName))
        check_choice("schedule", schedule, get_args(Schedule))
        check_choice("update rule", update, get_args(Update))
        check_choice("radius_from", radius_from, get_args(RadiusSource))
        check_choice("click sampling", click_sampling, get_args(ClickSampling))
        for prompt in val_prompts:
            check_choice("prompt", prompt, get_args(Prompt))
        if not val_prompts or len(set(val_prompts)) < len(val_prompts):
            raise ValueError(
                f"val_prompts must be [drag], [click] or [drag, click], got {list(val_prompts)}; to skip "
                "validation, set trainer.limit_val_batches 0"
            )
        check_counts("train_clicks", train_clicks, least=1)
        check_counts("local_clicks", local_clicks, least=0)
        for name, count, least in (
            ("step_epochs", step_epochs, 1),
            ("warmup_epochs", warmup_epochs, 0),
            ("clicks_ahead", clicks_ahead, 0),
            ("fine_factor", fine_factor, 1),
            ("accumulate_batches", accumulate_batches, 1),
            ("seed", seed, 0),
            ("val_clicks", val_clicks, 1),
        ):
            check_number(name, count, least=least, whole=True)
        for name, value, least in (
            ("backbone_lr_factor", backbone_lr_factor, 0),
            ("weight_decay", weight_decay, 0),
            ("drag_loss", drag_loss, 0),
            ("keep_loss", keep_loss, 0),
            ("local_reach", local_reach, 1),
        ):
            check_number(name, value, least=least)
        check_number("lr", lr, above=0)
        check_number("val_threshold", val_threshold, above=0, below=1, unit="a probability")
        if gradient_clip is not None:
            check_number("gradient_clip", gradient_clip, above=0, unit="a norm")
        if accumulate_batches > 1 and (update == "every" or local_clicks[1]):
            raise ValueError(
                f"accumulate_batches {accumulate_batches} takes one step for several batches, but update "
                "every and "
                "local_clicks take one per click; set update to sum or last, and local_clicks to [0, 0]"
            )
        self.save_hyperparameters(ignore=["network", "start_from", *EVALUATION_ARGUMENTS])
        for name, value in self.hparams.items():
            self.hparams[name] = to_python(value)
        self.automatic_optimization = False
        own = UserSettings(**given_settings(dict(self.hparams)))  # reports a wrong setting early
        self.net = build_network(config) if start is None else start.train()
        self.save_hyperparameters({"network": asdict(self.net.config)})
        self.is_channels_last = channels_last
        if channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)
        self._check_radii(own, val_prompts)
        if click_sampling == "random" and self.net.click_encoder.needs_radius:
            raise ValueError(
                f"click_sampling random draws no drags, but {config.click_encoder} reads their radii; set "
                "click_sampling to mistakes, or choose an encoder without radii such as Euclidean"
            )
        self.val_prompts = list(val_prompts)
        self.val_clicks = int(val_clicks)
        self.val_threshold = val_threshold

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **kwargs: Any) -> InteractiveSegmentationTask:  # type: ignore[override]
        """Load a checkpoint without downloading pretrained backbone weights, which it would replace."""
        if "network" in kwargs:
            return super().load_from_checkpoint(checkpoint_path, **kwargs)
        stored = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        network = stored["hyper_parameters"]["network"]
        without_fetching = {**network, "backbone_weights": "none"}
        task: InteractiveSegmentationTask = super().load_from_checkpoint(
            checkpoint_path, network=without_fetching, **kwargs
        )
        task.net.config = DCTNetConfig.from_dict(network)
        task.hparams["network"] = network
        task.train(task.training)
        return task

    def forward(self, image: Tensor, clicks: ClickBatch, previous: Tensor | None = None) -> Tensor:
        """Compute logits, see `InteractiveNetwork.forward`."""
        logits: Tensor = self.net(image, clicks, previous)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Make the clicks of one batch, each with its loss and, by default, an optimizer step.

        Args:
            batch: Batch, see `dct_seg.data.batches`.
            batch_idx: Number of the batch in its epoch.

        Raises:
            DivergedError: When a loss is not finite.
        """
        fine = checked_batch(batch)
        batch = shrink_batch(fine, self.hparams["fine_factor"])
        image, mask, ignore = batch["image"], batch["mask"], batch["ignore"]
        low, high = self.hparams["train_clicks"]
        # Drawn from a seed shared by all ranks: with different numbers of clicks they would deadlock.
        shared = self._generator(batch_idx)
        num_clicks = int(torch.randint(low, high + 1, (1,), generator=shared))
        most_ahead = self.hparams["clicks_ahead"]
        has_ahead = most_ahead and float(torch.rand(1, generator=shared)) < 0.5
        num_ahead = int(torch.randint(1, most_ahead + 1, (1,), generator=shared)) if has_ahead else 0
        fewest_local, most_local = self.hparams["local_clicks"]
        num_local = int(torch.randint(fewest_local, most_local + 1, (1,), generator=shared))
        generator = self._generator(batch_idx, self.global_rank + 1)
        drag = torch.rand(len(image), dtype=torch.float32, generator=generator) < self.user.drag_share
        user = self.user.user(mask, ignore, drag, generator, first=self._first_clicks(batch))
        profile = self.trainer.profiler.profile  # type: ignore[attr-defined]
        learner = Learner(self.net, image, profile)

        def source(logits: Tensor | None, clicks: ClickBatch) -> NextClicks:
            with profile("simulation"):
                return user(logits, clicks)

        optimizer: Any = self.optimizers()
        update, accumulated = self.hparams["update"], self.hparams["accumulate_batches"]
        steps_now = (batch_idx + 1) % accumulated == 0 or self.trainer.is_last_batch
        rows = []
        shares_encoding = (
            self.net.is_late and update == "sum"
        )  # all clicks share one graph, so that there is only one backward pass
        total = image.new_zeros(())
        if self.hparams["click_sampling"] == "random":
            sets = RandomClicks()
            steps = answer_each(
                learner, image, lambda: sets.draw(mask, ignore, generator), num_ahead + num_clicks
            )
        else:
            steps = interact(
                learner,
                image,
                source,
                num_ahead + num_clicks,
                stop_when_done=False,
                marks_clicks=self.hparams["mark_clicks"],
                radius_from=self.hparams["radius_from"],
            )
        before: Tensor | None = None
        with torch.no_grad():
            for _ in range(num_ahead):
                before = next(steps).logits
        for index in range(num_clicks):
            is_last = index == num_clicks - 1
            learns = is_last or update != "last"
            with torch.set_grad_enabled(learns):
                step = next(steps)
                with profile("loss"):
                    mask_loss = self._mask_loss(
                        learner.output, step.clicks, before, mask, ignore, step.asked.done
                    )
                    before = step.logits.detach()
                    drag_loss = learner.drag_loss(step)
                    ious = iou(predicted(step.logits), mask, ignore)
            rows.append(torch.stack([mask_loss.detach(), drag_loss.detach(), ious.mean().float()]))
            if learns:
                total = total + mask_loss + self.hparams["drag_loss"] * drag_loss
            if is_last or (learns and not shares_encoding):
                with profile("backward"):
                    self.manual_backward(total / accumulated if accumulated > 1 else total)
                total = image.new_zeros(())
            if (is_last and steps_now) or update == "every":
                optimizer.step()
                optimizer.zero_grad()
                learner.weights_changed()
        table = torch.stack(rows)  # (K, 3)
        self.check_finite(table[:, :2].sum(1), batch_idx)
        means = {
            "train/loss": table[:, 0].mean(),
            "train/first_mIoU": table[0, 2],
            "train/last_mIoU": table[-1, 2],
        }
        if self.net.auto_drag is not None:
            means["train/drag_loss"] = table[:, 1].mean()
        if num_local:
            means |= self._learn_corrections(fine, image, step, user, num_local, generator, batch_idx)
        self.log_dict(means, prog_bar=True, batch_size=len(image))

    def _mask_loss(
        self,
        output: Output,
        clicks: ClickBatch,
        before: Tensor | None,
        mask: Tensor,
        ignore: Tensor,
        done: Tensor,
    ) -> Tensor:
        """Compute the losses of one click; ``before`` are the logits that the click corrects."""
        loss = mean_of_unfinished(self.net.loss(output, mask, ignore, clicks, self.losses), done)
        if not self.hparams["keep_loss"] or before is None:
            return loss
        total: Tensor = loss + self.hparams["keep_loss"] * kept_right(
            output.logits, before, mask, ignore, done
        )
        return total

    def _learn_corrections(
        self,
        fine: dict[str, Any],
        image: Tensor,
        last: Interaction,
        user: SimulatedUser,
        num_clicks: int,
        generator: torch.Generator,
        batch_idx: int,
    ) -> dict[str, Tensor]:
        """Train on enlarged windows around each image's next click, with one optimizer step per click.

        In half of the batches, the click was already applied to the whole crop; the window is a second pass.

        Returns:
            Mean IoU inside the windows before and after the first click.
        """
        profile = self.trainer.profiler.profile  # type: ignore[attr-defined]
        with torch.no_grad(), profile("windows"):
            asked = user(last.logits, last.clicks)
            crop = EncodedBatch(self.net, image)
            previous = torch.sigmoid(last.logits)
            clicks = last.clicks.append(asked.coords, asked.labels, asked.radii)
            clicks = crop.fill_radii(image, clicks, previous)
            is_second_look = float(torch.rand(1, generator=generator)) < 0.5
            if is_second_look:
                previous = torch.sigmoid(crop(image, clicks, previous))
            window = enlarge_corrections(
                fine, asked, clicks, previous, reach=self.hparams["local_reach"], generator=generator
            )
        user = self.user.user(window.mask, window.ignore, user.tells_radius, generator)
        learner = Learner(self.net, window.image, profile)
        optimizer: Any = self.optimizers()
        asked, clicks, previous = window.asked, window.clicks, window.previous
        done = asked.done
        ious = [iou(previous[:, 0] > 0.5, window.mask, window.ignore).mean()]
        losses = []
        for index in range(num_clicks):
            before = torch.logit(previous, 1e-6)
            if index:
                with profile("simulation"):
                    asked = user(before, clicks)
                done = done | asked.done
                clicks = clicks.append(asked.coords, asked.labels, asked.radii)
            clicks = learner.fill_radii(window.image, clicks, previous)
            logits = learner(window.image, clicks, previous)
            has_radius = not (is_second_look and index == 0)  # the wrong region may be corrected already
            step = Interaction(
                index, clicks, logits, replace(asked, done=done if has_radius else torch.ones_like(done))
            )
            with profile("loss"):
                loss = self._mask_loss(learner.output, clicks, before, window.mask, window.ignore, done)
                loss = loss + self.hparams["drag_loss"] * learner.drag_loss(step)
            losses.append(loss.detach())
            with profile("backward"):
                self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            learner.weights_changed()
            previous = torch.sigmoid(logits.detach())
            ious.append(iou(previous[:, 0] > 0.5, window.mask, window.ignore).mean())
        self.check_finite(torch.stack(losses), batch_idx)
        return {"train/window_mIoU_before": ious[0], "train/window_mIoU_after": ious[1]}

    @property
    def user(self) -> UserSettings:
        """Settings of the simulated user: those given to the task, else the data module's."""
        module = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return replace(getattr(module, "user", UserSettings()), **given_settings(dict(self.hparams)))

    def on_fit_start(self) -> None:
        """Check the settings of the simulated user, which the data module may own."""
        super().on_fit_start()
        given = given_settings(dict(self.hparams))
        if given and hasattr(self.trainer.datamodule, "user"):  # type: ignore[attr-defined]
            log_on_first_rank(
                f"model.{{{','.join(given)}}} is now data.{{{','.join(given)}}}; the old name still works"
            )
        self._check_radii(self.user, self.val_prompts)

    def _first_clicks(self, batch: dict[str, Any]) -> Tensor | None:
        """First clicks, (B, 3), from the data module's workers; None if their user has other settings."""
        theirs = getattr(self.trainer.datamodule, "user", None)  # type: ignore[attr-defined]
        if theirs is None or self.hparams["fine_factor"] > 1 or not self.user.clicks_first_like(theirs):
            return None
        first: Tensor | None = batch.get("first_click")
        return first

    def _check_radii(self, user: UserSettings, val_prompts: Sequence[Prompt]) -> None:
        if not self.net.click_encoder.needs_radius or self.net.auto_drag is not None:
            return
        if user.drag_share < 1 or "click" in val_prompts:
            raise ValueError(
                f"{self.net.config.click_encoder} needs radii and auto_drag is off, so that a click without "
                "a drag cannot be drawn; switch auto_drag on, choose an encoder without radii such as Disk, "
                "or set drag_share to 1 and val_prompts to [drag]"
            )

    def _generator(self, *key: int) -> torch.Generator:
        """Make a generator from seed, epoch and ``key`` alone, so that a resumed run draws the same."""
        state = np.random.SeedSequence([self.hparams["seed"], self.current_epoch, *key]).generate_state(
            1, np.uint64
        )
        return torch.Generator().manual_seed(int(state[0]))


def _network(given: DCTNetConfig | None, start: InteractiveNetwork | None) -> DCTNetConfig:
    """Get the configuration of the network to train; with starting weights, it must match theirs."""
    if start is None:
        return given or DCTNetConfig()
    theirs = start.config
    ours = theirs
    if given is not None:
        # DCTNetConfig switches frozen_batch_norm off for random weights; here the start's value applies.
        is_random = given.backbone_weights == "none"
        frozen = theirs.frozen_batch_norm if is_random else given.frozen_batch_norm
        ours = replace(given, backbone_weights=theirs.backbone_weights, frozen_batch_norm=frozen)
    differing = [f.name for f in fields(theirs) if getattr(ours, f.name) != getattr(theirs, f.name)]
    if differing:
        raise ValueError(
            f"the weights of start_from belong to a network with another {', '.join(differing)}; "
            "omit model.network"
        )
    return theirs
