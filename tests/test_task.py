import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from tiny import assert_same_weights, loader_of, tiny_data, tiny_task, tiny_trainer, val_names, weights
from torch import nn

from dct_seg import ClickBatch, DCTNet, InteractiveSegmentationTask, NumberOfClicks, SimulatedUser

SIDE = 64  # below, the coarsest features are one pixel, which instance norm turns into zeros
NO_HEAD = {"auto_drag": False}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def batch_of(masks, seed=0):
    image = torch.rand(len(masks), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    ignore = torch.zeros_like(masks)
    return {
        "image": image,
        "mask": masks,
        "ignore": ignore,
        "sample_id": torch.arange(len(masks)),
        "name": [str(n) for n in range(len(masks))],
    }


def squares():
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 4:40, 6:36] = True
    masks[1, 24:60, 20:62] = True
    return batch_of(masks)


class Watch(Callback):
    """Callback that stores the gradients after each optimizer step."""

    def __init__(self):
        self.gradients = []

    def on_train_start(self, trainer, pl_module):
        names = {id(p): name for name, p in pl_module.net.named_parameters()}

        def keep(optimizer, args, kwargs):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            self.gradients.append({names[id(p)]: None if p.grad is None else p.grad.clone() for p in params})

        trainer.optimizers[0].register_step_post_hook(keep)


def train_on(task, batch, folder, **options):
    watch = Watch()
    trainer = tiny_trainer(folder, callbacks=[watch], **options)
    trainer.fit(task, loader_of(batch))
    return trainer, watch.gradients


# --- when the optimizer steps -------------------------------------------------------------------------------


def clicks_by_hand(net, batch, num_clicks):
    """Yield the loss after each click, as in the paper's section 2.3."""
    user = SimulatedUser(batch["mask"], batch["ignore"], rule="largest_region")
    clicks, logits = ClickBatch.empty(2), None
    for _ in range(num_clicks):
        asked = user(logits, clicks)
        clicks = clicks.append(asked.coords, asked.labels, asked.radii)
        logits = net(batch["image"], clicks)
        yield F.binary_cross_entropy_with_logits(logits[:, 0], batch["mask"].float())


def task_that_sees_clicks(fusion, **options):
    """The weights through which clicks enter early start at zero, and each click would have the same
    gradient.
    """
    task = tiny_task({**NO_HEAD, "prompt_fusion": fusion}, **options)
    for parameter in task.net.backbone.stem_map_parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    return task


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_the_weights_change_after_every_click(fusion, tmp_path):
    task = task_that_sees_clicks(fusion, update="every", train_clicks=(3, 3))
    net = copy.deepcopy(task.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for loss in clicks_by_hand(net, squares(), 3):
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trainer, gradients = train_on(task, squares(), tmp_path)
    assert trainer.global_step == len(gradients) == 3
    # Under Adam, weights whose gradient is only rounding noise move anywhere without changing the output, so
    # the output is compared.
    with torch.no_grad():
        (mine,), (its,) = clicks_by_hand(net, squares(), 1), clicks_by_hand(task.net, squares(), 1)
    assert its.item() == pytest.approx(mine.item(), rel=1e-4)


@pytest.mark.parametrize("fusion", ["early", "late"])
@pytest.mark.parametrize("update", ["last", "sum"])
def test_the_weights_change_once_per_batch_by_the_last_gradient_or_the_sum(update, fusion, tmp_path):
    task = task_that_sees_clicks(fusion, update=update, train_clicks=(3, 3))
    net = copy.deepcopy(task.net)
    *first, last = clicks_by_hand(net, squares(), 3)
    for loss in [*first, last] if update == "sum" else [last]:
        loss.backward()
    trainer, (gradients,) = train_on(task, squares(), tmp_path)
    assert trainer.global_step == 1
    for name, mine in net.named_parameters():
        assert torch.allclose(mine.grad, gradients[name], atol=1e-6), name


def test_half_of_the_batches_have_clicks_ahead_without_gradients(tmp_path):
    seen = []  # (number of clicks, whether a gradient follows) of each forward pass

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            pl_module.net.register_forward_pre_hook(
                lambda module, args: seen.append((args[1].coords.shape[1], torch.is_grad_enabled()))
            )

    task = tiny_task(NO_HEAD, train_clicks=(2, 2), clicks_ahead=3)
    trainer = tiny_trainer(tmp_path, callbacks=[Look()], limit_train_batches=1, max_epochs=20)
    trainer.fit(task, loader_of(squares()))
    assert trainer.global_step == 2 * 20
    starts = [n for n, (clicks, _) in enumerate(seen) if clicks == 1]
    batches = [seen[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    ahead = [len(batch) - 2 for batch in batches]
    assert len(ahead) == 20
    assert set(ahead) == {0, 1, 2, 3}
    assert 5 <= ahead.count(0) <= 15
    for batch in batches:
        assert [clicks for clicks, _ in batch] == list(range(1, len(batch) + 1))
        assert [learns for _, learns in batch] == [False] * (len(batch) - 2) + [True, True]


def test_the_next_click_is_made_on_the_mask_of_the_changed_weights_under_bf16_too(tmp_path):
    # torch.autocast may keep weights it has cast, which would hide the first step from the second click
    seen = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            pl_module.net.decoder.predict.register_forward_hook(
                lambda module, args, out: seen.append(out.detach().clone())
            )

    task = tiny_task(NO_HEAD, lr=0.1)
    task.net.decoder.predict.weight.data.zero_()
    tiny_trainer(tmp_path, precision="bf16-mixed", callbacks=[Look()]).fit(task, loader_of(squares()))
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].std() == 0
    assert seen[1].std() > 0


# --- finished samples ---------------------------------------------------------------------------------------


def test_a_finished_sample_has_weight_0(tmp_path):
    both = squares()
    both["mask"][0] = False  # nothing to click: finished from the start
    alone = {key: value[1:] for key, value in both.items()}
    _, (with_finished,) = train_on(tiny_task(train_clicks=(1, 1)), both, tmp_path)
    _, (without,) = train_on(tiny_task(train_clicks=(1, 1)), alone, tmp_path)
    for name, gradient in without.items():
        assert torch.allclose(gradient, with_finished[name], atol=1e-6), name


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"prompt_fusion": "late"},
        {"previous_mask": True, "feature_dct": False},
        {"click_encoder": "Disk", "backbone": "tf_efficientnet_lite0"},
    ],
    ids=str,
)
def test_all_parameters_get_a_gradient_even_when_all_samples_are_finished(network, tmp_path):
    empty = batch_of(torch.zeros(2, SIDE, SIDE, dtype=torch.bool))
    task = tiny_task(network, drag_share=0.5, train_clicks=(1, 1))
    before = weights(task.net)
    trainer, gradients = train_on(task, empty, tmp_path)
    assert trainer.callback_metrics["train/loss"] == 0
    for step in gradients:
        assert [name for name, gradient in step.items() if gradient is None or gradient.any()] == []
    assert_same_weights(before, weights(task.net))


# --- learning rate, clipping, precision ---------------------------------------------------------------------


def rates(num, max_epochs=20, **options):
    task = tiny_task(**options)
    task.trainer = tiny_trainer(".", max_epochs=max_epochs)
    (optimizer,), (scheduler,) = task.configure_optimizers()
    found = []
    for _ in range(num):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


def test_the_paper_divides_the_rate_by_ten_every_ten_epochs():
    found = rates(21, lr=1e-4, backbone_lr_factor=0.5)
    assert [found[0], found[9]] == [[1e-4, 5e-5]] * 2
    assert found[10] == found[19] == pytest.approx([1e-5, 5e-6])
    assert found[20] == pytest.approx([1e-6, 5e-7])


def test_cosine_falls_from_the_rate_to_nearly_zero_after_a_warmup():
    found = [new for new, _ in rates(12, max_epochs=10, lr=1.0, schedule="cosine", warmup_epochs=2)]
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[6] == pytest.approx(0.5, abs=1e-3)
    assert found[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)), abs=2e-3)
    assert found[10] == found[11] == pytest.approx(1e-3)


def test_constant_stays():
    assert rates(3, lr=1e-3, schedule="constant") == [[1e-3, 1e-3]] * 3


def test_cosine_without_an_end_is_an_error():
    with pytest.raises(
        ValueError, match="cosine ends with the last epoch, but the Trainer has no max_epochs"
    ):
        rates(1, max_epochs=-1, schedule="cosine")


def test_cosine_with_zero_epochs_is_allowed():
    assert rates(0, max_epochs=0, schedule="cosine") == []


def test_the_gradient_is_clipped_to_its_norm(tmp_path):
    options = {"train_clicks": (1, 1)}
    _, (free,) = train_on(tiny_task(NO_HEAD, **options), squares(), tmp_path)
    _, (clipped,) = train_on(tiny_task(NO_HEAD, gradient_clip=0.01, **options), squares(), tmp_path)
    norm = torch.cat([g.flatten() for g in free.values()]).norm()
    assert norm > 0.01
    for name, gradient in free.items():
        assert torch.allclose(gradient * 0.01 / norm, clipped[name], atol=1e-8), name


def test_under_16_mixed_the_gradient_is_unscaled_before_it_is_clipped(tmp_path):
    plugin = MixedPrecision("16-mixed", device="cpu")
    _, (gradients,) = train_on(
        tiny_task(NO_HEAD, gradient_clip=0.01, train_clicks=(1, 1)), squares(), tmp_path, plugins=[plugin]
    )
    assert torch.cat([g.flatten() for g in gradients.values()]).norm().item() == pytest.approx(0.01, rel=0.01)


# --- a whole run --------------------------------------------------------------------------------------------


class AverageByHand(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        now = weights(pl_module)
        mean = getattr(self, "mean", now)
        self.mean = {
            key: 0.75 * mean[key] + 0.25 * now[key] if mean[key].is_floating_point() else now[key]
            for key in now
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs with validation, averaged weights and a checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    task, by_hand = (
        tiny_task(lr=1e-3, step_epochs=1, val_prompts=["drag", "click"], val_threshold=0.3),
        AverageByHand(),
    )
    before = weights(task.net.backbone)
    trainer = tiny_trainer(
        folder,
        max_epochs=2,
        limit_train_batches=2,
        enable_checkpointing=True,
        callbacks=[
            by_hand,
            EMAWeightAveraging(decay=0.75),
            ModelCheckpoint(
                folder, monitor="val/drag/NoC@90", save_on_train_epoch_end=True, save_top_k=-1, save_last=True
            ),
        ],
        precision="bf16-mixed",
    )
    trainer.fit(task, tiny_data())
    return {
        "task": task,
        "trainer": trainer,
        "before": before,
        "mean": by_hand.mean,
        "file": folder / "last.ckpt",
    }


def test_both_prompts_get_their_own_row(run):
    metrics = run["trainer"].callback_metrics
    for prompt in ("drag", "click"):
        names = {name.removeprefix(f"val/{prompt}/") for name in metrics if name.startswith(f"val/{prompt}/")}
        assert names == {
            "NoC@85",
            "NoF@85",
            ">=3@85",
            "NoC@90",
            "NoF@90",
            ">=3@90",
            "mIoU@1",
            "mIoU@3",
            "AuC",
            "num_seen",
        }
        assert metrics[f"val/{prompt}/num_seen"] == len(val_names(run["trainer"].datamodule))


def test_the_rate_is_stepped_per_epoch_and_logged(run):
    assert run["trainer"].global_step == 2 * 2 * 2
    assert run["trainer"].callback_metrics["lr"] == pytest.approx(1e-4)
    assert run["trainer"].optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-5)


def test_the_backbones_batch_norm_is_frozen_through_training_and_validation(run):
    norms = [m for m in run["task"].net.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert run["task"].net.decoder.training
    after = run["task"].net.backbone.state_dict()
    running = [key for key in after if "running" in key or "num_batches" in key]
    assert_same_weights({key: run["before"][key] for key in running}, {key: after[key] for key in running})


def test_a_checkpoint_has_plain_values_and_no_evaluation_settings(run):
    checkpoint = torch.load(run["file"], weights_only=True)
    hyper = checkpoint["hyper_parameters"]
    assert hyper["train_clicks"] == (2, 2)
    assert hyper["network"]["backbone"] == "test_resnet"
    assert {"val_prompts", "val_clicks", "val_threshold", "channels_last"}.isdisjoint(hyper)


def test_the_checkpoint_of_a_run_with_averaging_gives_averaged_weights(run):
    net = DCTNet.from_pretrained(run["file"])
    assert not net.training
    task = InteractiveSegmentationTask.load_from_checkpoint(run["file"], val_clicks=7)
    assert task.val_clicks == 7
    assert_same_weights(weights(net), weights(task.net))
    for key, value in run["mean"].items():
        assert torch.allclose(value.float(), task.state_dict()[key].float(), atol=1e-6), key
    assert_same_weights(weights(run["task"]), weights(task))  # and so does the task after training


def test_loading_a_checkpoint_downloads_no_pretrained_weights(run, tmp_path):
    checkpoint = torch.load(run["file"], weights_only=True)
    checkpoint["hyper_parameters"]["network"]["backbone_weights"] = "gone.safetensors"
    torch.save(checkpoint, tmp_path / "moved.ckpt")
    assert_same_weights(
        weights(run["task"]),
        weights(InteractiveSegmentationTask.load_from_checkpoint(tmp_path / "moved.ckpt")),
    )


def test_the_same_seed_gives_the_same_weights(tmp_path):
    def trained(seed):
        task = tiny_task(
            seed=seed, train_clicks=(1, 3), drag_share=0.5, place="core", radius_noise=0.2, click_jitter=3.0
        )
        torch.manual_seed(torch.seed())  # nothing may depend on torch's own randomness
        tiny_trainer(tmp_path, limit_train_batches=2, limit_val_batches=0).fit(task, tiny_data())
        return weights(task)

    first = trained(2**63)
    assert_same_weights(first, trained(2**63))
    other = trained(5)
    assert any(not torch.equal(first[key], other[key]) for key in first)


# --- validation ---------------------------------------------------------------------------------------------


class Rehearsed(nn.Module):
    """Network that returns masks from a list, one per call."""

    auto_drag, is_late = None, False

    def __init__(self, answers):
        super().__init__()
        self.answers = list(answers)
        self.modes = []

    def prepare(self, image):
        return None

    def forward(self, image, clicks, previous=None, features=None, prepared=None, extras=None):
        self.modes.append(torch.is_inference_mode_enabled())
        return (self.answers.pop(0).float() * 20 - 10)[:, None]


def test_a_finished_sample_keeps_its_last_iou_while_others_continue():
    batch = squares()
    right, wrong = batch["mask"], torch.zeros_like(batch["mask"])
    first_right = torch.stack([right[0], wrong[1]])
    task = tiny_task(val_clicks=4)
    # The first sample's mask is perfect after two clicks and spoilt at the third; the second's is never
    # right.
    task.net = Rehearsed([wrong, first_right, wrong, wrong])
    task.val_tables = [{"drag": NumberOfClicks(2, max_clicks=4, miou_at=())}]
    task.validation_step(batch, 0)
    assert task.val_metrics["drag"].table.tolist() == [[0, 1, 1, 1], [0, 0, 0, 0]]


def test_a_batch_of_finished_samples_ends_early_and_keeps_the_last_iou(tmp_path):
    batch = squares()
    task = tiny_task(val_clicks=4)
    task.net = Rehearsed(
        [torch.zeros_like(batch["mask"]), batch["mask"]]
    )  # a third call would find the list empty
    trainer = tiny_trainer(tmp_path)
    (row,) = trainer.validate(task, loader_of(batch), verbose=False)
    assert row["val/drag/NoC@90"] == 2
    assert row["val/drag/AuC"] == 0.75
    assert task.net.modes == [True, True]


def test_testing_logs_the_same_metrics_under_test(tmp_path):
    batch = squares()
    task = tiny_task(val_clicks=3)
    task.net = Rehearsed([torch.zeros_like(batch["mask"]), batch["mask"]])
    (row,) = tiny_trainer(tmp_path).test(task, loader_of(batch), verbose=False)
    assert row["test/drag/NoC@90"] == 2


@pytest.mark.parametrize(
    ("fusion", "update", "times"),
    [("early", "every", 1), ("late", "every", 3), ("late", "sum", 1), ("late", "last", 1)],
)
def test_late_fusion_encodes_an_image_again_only_after_the_weights_have_changed(
    fusion, update, times, tmp_path, monkeypatch
):
    task = tiny_task({"prompt_fusion": fusion}, update=update, train_clicks=(3, 3))
    calls = []
    encode = task.net.encode_image
    monkeypatch.setattr(task.net, "encode_image", lambda image: calls.append(1) or encode(image))
    tiny_trainer(tmp_path).fit(task, loader_of(squares()))
    assert len(calls) == times


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_validation_with_clicks_encodes_an_image_once(fusion, tmp_path, monkeypatch):
    task = tiny_task({"prompt_fusion": fusion}, val_prompts=["drag", "click"], val_clicks=3)
    calls = []
    encode = task.net.encode_image
    monkeypatch.setattr(task.net, "encode_image", lambda image: calls.append(1) or encode(image))
    tiny_trainer(tmp_path).validate(task, loader_of(squares()), verbose=False)
    assert len(calls) == 1


# --- refused options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "all"}, "unknown update rule 'all'.* known: every, last, sum"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd'.* known: adam, adamw"),
        ({"losses": {"bse": 1.0}}, "unknown loss 'bse'; did you mean 'bce'"),
        ({"rule": "largest"}, "unknown rule 'largest'; did you mean 'largest_region'"),
        ({"val_prompts": ["drags"]}, "unknown prompt 'drags'; did you mean 'drag'"),
        ({"train_clicks": (3, 2)}, r"the minimum and maximum number of clicks, at least 1, got \(3, 2\)"),
        ({"drag_share": 1.5}, "drag_share must be a share of the images, at least 0 and at most 1, got 1.5"),
        ({"radius_noise": 1.0}, "radius_noise must be a fraction"),
        ({"gradient_clip": 0.0}, "gradient_clip must be a norm, above 0, got 0.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"clicks_ahead": -1}, "clicks_ahead must be at least 0, got -1"),
        ({"val_clicks": 0}, "val_clicks must be at least 1, got 0"),
    ],
    ids=str,
)
def test_a_wrong_option_is_reported_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_task(**options)


@pytest.mark.parametrize("options", [{"drag_share": 0.5}, {"val_prompts": ["drag", "click"]}], ids=str)
def test_clicks_without_a_drag_need_the_auto_drag_head(options):
    with pytest.raises(
        ValueError, match=r"SpatialDCT needs radii and auto_drag is off.*switch auto_drag on.*such as Disk"
    ):
        tiny_task(NO_HEAD, **options)
    tiny_task({**NO_HEAD, "click_encoder": "Disk"}, **options)


def test_random_click_sampling_trains_without_looking_at_predictions(tmp_path: Path) -> None:
    plain = {"click_encoder": "Euclidean", "feature_dct": False, "auto_drag": False}
    task = tiny_task(plain, click_sampling="random", val_prompts=["click"])
    before = weights(task)
    tiny_trainer(tmp_path, limit_train_batches=1).fit(task, tiny_data())
    after = weights(task)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(ValueError, match="click_sampling random draws no drags, but SpatialDCT reads"):
        tiny_task(click_sampling="random")
    with pytest.raises(ValueError, match=r"unknown click sampling 'mistake'; did you mean 'mistakes'\?"):
        tiny_task(click_sampling="mistake")
