import pytest
import torch
from ddp import run_on_ranks
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback
from tiny import assert_same_weights, loader_of, tiny_data, tiny_task, tiny_trainer, val_names, weights

pytestmark = pytest.mark.slow

OPTIONS = {"seed": 1, "train_clicks": (1, 3), "val_prompts": ["drag", "click"]}
DATA = {"crop_size": 64, "val_batch_size": 2, "options": {"num_images": 8, "size": (72, 80)}}


class Record(Callback):
    """Record the first batch, the gradients of the first optimizer step, and each batch's steps."""

    def __init__(self):
        self.steps = [0]
        self.batch = None
        self.gradients = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = self.batch or batch

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients = self.gradients or {
            name: p.grad.clone() for name, p in pl_module.net.named_parameters()
        }

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(trainer.global_step)


def train(rank, world_size, folder):
    """Train on one rank; Lightning finds the ranks in the environment."""
    seed_everything(rank)  # differences between ranks must not reach the weights
    record = Record()
    trainer = tiny_trainer(folder, max_epochs=2, strategy="ddp", devices=world_size, callbacks=[record])
    task = tiny_task(**OPTIONS)
    trainer.fit(task, tiny_data(**DATA))
    val = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return {
        "weights": weights(task),
        "val": val,
        "steps": record.steps,
        "batch": record.batch,
        "gradients": record.gradients,
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_on_ranks(train, str(tmp_path_factory.mktemp("ddp")), init_group=False, timeout=500)


def test_every_rank_makes_equally_many_clicks_though_masks_differ(ranks):
    one, other = ranks
    assert one["steps"] == other["steps"]
    counts = [after - before for before, after in zip(one["steps"], one["steps"][1:], strict=False)]
    assert len(counts) == 2 * 2  # eight images, two ranks, batches of two; two epochs
    assert set(counts) <= {1, 2, 3}
    assert len(set(counts)) > 1
    assert not torch.equal(one["batch"]["mask"], other["batch"]["mask"])


def test_weights_are_equal_on_both_ranks_after_training(ranks):
    assert_same_weights(ranks[0]["weights"], ranks[1]["weights"])


def test_the_gradient_is_the_mean_of_both_ranks(ranks, tmp_path):
    alone = []
    for rank in ranks:
        record = Record()
        trainer = tiny_trainer(tmp_path, callbacks=[record])
        trainer.fit(tiny_task(**{**OPTIONS, "train_clicks": (1, 1)}), loader_of(rank["batch"]))
        alone.append(record.gradients)
    means = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    for name, gradient in means.items():
        assert torch.allclose(gradient, ranks[0]["gradients"][name], atol=1e-6), name
        assert torch.equal(ranks[0]["gradients"][name], ranks[1]["gradients"][name]), name


def test_validation_on_two_ranks_equals_one_process(ranks, tmp_path):
    task = tiny_task(**OPTIONS)
    task.load_state_dict(ranks[0]["weights"])
    data = tiny_data(**DATA)
    (row,) = tiny_trainer(tmp_path).validate(task, data, verbose=False)
    assert len(val_names(data)) % 2 == 1  # so that one sample is distributed twice
    assert row["val/drag/num_seen"] == len(val_names(data))
    assert ranks[0]["val"] == ranks[1]["val"] == pytest.approx(row, abs=1e-6)
