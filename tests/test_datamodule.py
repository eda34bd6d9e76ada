"""Batches: their shapes, the split, the order, and samples that depend only on their seed."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from tiny import val_names
from torch import Tensor, nn

from dct_seg.data.base import ImageCache
from dct_seg.data.datamodule import ClickSimulatorDataModule
from dct_seg.data.samples import collate, to_tensors
from dct_seg.data.sampling import EvaluationSampler, TrainingLoader, TrainingSampler, image_key, is_held_out


def make_folder(root: Path, num: int = 10, size: tuple[int, int] = (60, 80), suffix: str = "png") -> Path:
    """Different images of noise with two objects each."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(num)
    for number in range(num):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(
            root / "images" / f"{number}.{suffix}"
        )
        mask = np.zeros(size, dtype=np.uint8)
        mask[5:25, 5:30] = 1
        mask[30:50, 40:70] = 2
        mask[52:54] = 255
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


def module(root: Path | dict[str, float] | list[str] | None, **options: Any) -> ClickSimulatorDataModule:
    settings = {"crop_size": 32, "batch_size": 2, "val_batch_size": 3, "num_workers": 0, "cache_mb": 4}
    return ClickSimulatorDataModule(
        "Folder", str(root) if isinstance(root, Path) else root, **{**settings, **options}
    )


def fingerprint(batch: dict[str, Any]) -> str:
    parts = [batch[key].numpy().tobytes() for key in ("image", "mask", "ignore", "sample_id")]
    return hashlib.sha256(b"".join(parts) + "".join(batch["name"]).encode()).hexdigest()


def test_a_batch_has_the_documented_shapes_and_types(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path))
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    for batch, num, size in ((train, 2, (32, 32)), (val, 3, (60, 80))):
        assert batch["image"].shape == (num, 3, *size)
        assert batch["image"].dtype == torch.float32
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1
        assert batch["mask"].shape == batch["ignore"].shape == (num, *size)
        assert batch["mask"].dtype == batch["ignore"].dtype == torch.bool
        assert batch["mask"].flatten(1).any(1).all()
        assert not (batch["mask"] & batch["ignore"]).any()
        assert batch["sample_id"].dtype == torch.int64
        assert len(batch["name"]) == num
        assert set(batch) - {"first_click"} == {"image", "mask", "ignore", "sample_id", "name"}


def test_training_and_held_out_images_are_disjoint_and_complete(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path, 40), holdout=0.25, batch_size=1)
    trained = {name.split("#")[0] for batch in data.train_dataloader() for name in batch["name"]}
    held = {name.split("#")[0] for name in val_names(data)}
    assert not trained & held
    assert len(trained | held) == 40
    assert 4 <= len(held) <= 16
    assert held == {
        f"images/{number}.png" for number in range(40) if is_held_out(f"images/{number}.png", 0.25)
    }
    assert len(val_names(data)) == 2 * len(held)


def test_the_split_never_changes() -> None:
    names = [
        "images/a.jpg",
        "images/b.jpg",
        "x/airplane00_000000281693.jpg",
        "y/000000281693.png",
        "0001.jpg",
    ]
    assert [is_held_out(name, 0.5) for name in names] == [False, True, True, True, False]
    assert image_key("images/2008_000003.jpg") == "000003"


def test_photos_of_one_day_are_different_images(tmp_path: Path) -> None:
    names = ["IMG_20240101_120000", "IMG_20240101_120001", "20240101_01", "IMG-20240101-WA0001"]
    assert [image_key(f"images/{name}.jpg") for name in names] == names
    root = make_folder(tmp_path, 10)
    for path in [*root.glob("*/*.png")]:
        path.rename(path.with_stem(f"IMG_20240101_12000{path.stem}"))
    data = module(root)
    data.setup()
    assert data.train_set is not None
    assert len(data.train_set) + len(val_names(data)) // 2 == 10


def test_images_with_one_number_cannot_be_split(tmp_path: Path) -> None:
    root = make_folder(tmp_path, 3)
    for path in [*root.glob("*/*.png")]:
        path.rename(path.with_stem(f"123456_{path.stem}"))
    with pytest.raises(ValueError, match="3 images with '123456' in their names count as one"):
        module(root).setup()


def test_a_weighted_folder_without_training_images_is_named(tmp_path: Path) -> None:
    rest, held = make_folder(tmp_path / "rest"), make_folder(tmp_path / "held", 1)
    name = next(f"{number}.png" for number in range(100) if is_held_out(f"{number}.png", 0.2))
    for folder in ("images", "masks"):
        (held / folder / "0.png").rename(held / folder / name)
    roots = {str(rest): 1.0, str(held): 1.0}
    with pytest.raises(
        ValueError, match=f"all images of {re.escape(str(held))} are held out, so its weight has no effect"
    ):
        module(roots).setup()
    assert next(iter(module(roots, holdout=0.0).train_dataloader()))["image"].shape[0] == 2


def test_validation_samples_are_whole_images_with_a_unique_number(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path), holdout=0.5)
    seen = [
        (int(number), name)
        for batch in data.val_dataloader()
        for number, name in zip(batch["sample_id"], batch["name"], strict=True)
    ]
    assert seen == list(enumerate(val_names(data)))
    batch = next(iter(data.val_dataloader()))
    stored = np.asarray(Image.open(tmp_path / batch["name"][0].split("#")[0]))
    assert (batch["image"][0].permute(1, 2, 0).numpy() * 255).round().astype(int).tolist() == stored.tolist()


def test_images_of_several_sizes_are_padded_with_ignore() -> None:
    sizes = [(4, 6), (5, 3)]
    batch = collate(
        [
            to_tensors(np.full((*s, 3), 255, dtype=np.uint8), np.ones(s, bool), np.zeros(s, bool), 0, "")
            for s in sizes
        ]
    )
    assert batch["image"].shape == (2, 3, 5, 6)
    for b, (height, width) in enumerate(sizes):
        inside = torch.zeros(5, 6, dtype=torch.bool)
        inside[:height, :width] = True
        assert (batch["mask"][b] == inside).all()
        assert (batch["ignore"][b] == ~inside).all()
        assert (batch["image"][b, 0] == inside.float()).all()


def test_val_size_shrinks_and_max_val_samples_spreads(tmp_path: Path) -> None:
    roots = [str(make_folder(tmp_path / "a", 30)), str(make_folder(tmp_path / "b", 8))]
    data = module(roots, holdout=0.5, val_size=40, max_val_samples=6)
    assert next(iter(data.val_dataloader()))["image"].shape[2:] == (30, 40)
    assert [name.split("/")[0] for name in val_names(data)] == ["a"] * 3 + ["b"] * 3
    assert len(set(val_names(data))) == 6


def test_a_separate_validation_set_leaves_all_images_for_training(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path / "train"), val_root=str(make_folder(tmp_path / "val", 3)))
    data.setup()
    assert data.train_set is not None
    assert len(data.train_set) == 10
    assert len(val_names(data)) == 6
    shapes = ClickSimulatorDataModule(
        "Shapes",
        options={"num_images": 4},
        val_options={"num_images": 2, "split": "val"},
        num_workers=0,
        crop_size=64,
    )
    assert next(iter(shapes.train_dataloader()))["image"].shape[2:] == (64, 64)
    assert all(name.startswith("val/") for name in val_names(shapes))


def test_validation_alone_lists_no_training_folder(tmp_path: Path) -> None:
    data = module(tmp_path / "nowhere", val_root=str(make_folder(tmp_path / "val", 3)))
    data.setup("validate")
    assert len(val_names(data)) == 6
    with pytest.raises(FileNotFoundError, match="no folder"):
        data.setup("fit")


def test_holding_out_none_gives_no_validation(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path), holdout=0.0)
    assert data.val_dataloader() == []
    data.setup("fit")
    assert data.train_set is not None
    assert len(data.train_set) == 10


def test_two_images_are_one_each_and_one_cannot_be_split(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path / "two", 2))
    data.setup()
    assert data.train_set is not None
    assert (len(data.train_set), len(val_names(data))) == (1, 2)
    with pytest.raises(
        ValueError, match="one image cannot be split; give a val_root, more images, or holdout 0"
    ):
        module(make_folder(tmp_path / "one", 1)).setup()


def test_a_sample_does_not_depend_on_the_worker_or_the_cache(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    options = {
        "copy_paste": 0.5,
        "union": 0.5,
        "object_scale": (0.3, 0.9),
        "object_scale_prob": 0.5,
        "aspect": 1.2,
    }
    runs = []
    for num_workers, cache_mb in ((0, 0), (0, 4), (2, 4)):
        loader = module(root, num_workers=num_workers, cache_mb=cache_mb, **options).train_dataloader()
        runs.append([fingerprint(batch) for _ in range(2) for batch in loader])
    assert runs[0] == runs[1] == runs[2]


def test_each_epoch_and_seed_has_its_own_samples(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    prints = []
    for seed in (0, 1):
        loader = module(root, seed=seed).train_dataloader()
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            prints += [fingerprint(batch) for batch in loader]
    assert len(set(prints)) == len(prints)


def test_a_loader_resumes_where_its_state_was_taken(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    whole = [fingerprint(batch) for batch in module(root).train_dataloader()]
    loader = module(root).train_dataloader()
    stream = iter(loader)
    first = [fingerprint(next(stream)) for _ in range(2)]
    resumed = module(root).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert first + [fingerprint(batch) for batch in resumed] == whole
    assert resumed.state_dict()["batches"] == 0
    assert [fingerprint(batch) for batch in resumed] == whole  # the next epoch is whole again
    assert len(resumed) == len(whole)


def test_a_resume_within_an_epoch_warns_of_another_batch_size(tmp_path: Path) -> None:
    loader = module(make_folder(tmp_path)).train_dataloader()
    next(iter(loader))
    other = module(tmp_path, batch_size=loader.batch_size + 1).train_dataloader()
    with pytest.warns(
        UserWarning, match=rf"data.batch_size is .* with {loader.batch_size}: .* at batch 1 and"
    ):
        other.load_state_dict(loader.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.load_state_dict(loader.state_dict())
        other.load_state_dict({"batches": 1})  # of an older version
        other.load_state_dict({"batches": 0, "batch_size": 1})  # between two epochs


class Recorder(LightningModule):
    """Module that learns the mean color and records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.color = nn.Parameter(torch.zeros(3))
        self.seen: list[str] = []

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        self.seen.append(fingerprint(batch))
        return ((batch["image"].mean((0, 2, 3)) - self.color) ** 2).sum()

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(
    data: ClickSimulatorDataModule, folder: Path, *, max_steps: int = -1, ckpt: str | None = None
) -> Recorder:
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=0, save_last=True)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    trainer = Trainer(
        max_epochs=3,
        max_steps=max_steps,
        callbacks=[saver],
        accelerator="cpu",
        num_sanity_val_steps=0,
        **quiet,
    )  # type: ignore[arg-type]
    model = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, data, ckpt_path=ckpt)
    return model


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_lightning_resumes_within_an_epoch_with_the_same_batches(stop_after: int, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    whole = run(module(root), tmp_path / "whole")
    first = run(module(root), tmp_path / "cut", max_steps=stop_after)
    rest = run(module(root), tmp_path / "cut", ckpt=str(tmp_path / "cut" / "last.ckpt"))
    assert first.seen + rest.seen == whole.seen
    assert torch.equal(rest.color, whole.color)


def test_an_unreadable_image_is_skipped_named_once_and_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, 6, suffix="jpg")
    bad = tmp_path / "images" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:2000])  # its header is intact: only decoding fails
    data = module(tmp_path, holdout=0.0, batch_size=3)
    loader = data.train_dataloader()
    with pytest.warns(
        UserWarning, match=r"images/3\.jpg cannot be decoded and is skipped; `dct-seg data check DIR`"
    ) as caught:
        names = [name for _ in range(4) for batch in loader for name in batch["name"]]
    assert len([warning for warning in caught if "3.jpg" in str(warning.message)]) == 1
    assert len(names) == 24
    assert not any("images/3.jpg" in name for name in names)
    assert {name.split("/", 1)[1]: count for name, count in data.skipped.items()} == {"images/3.jpg": 4}
    with pytest.warns(
        UserWarning, match=r"1 images could not be decoded and were skipped 4 times: .*/images/3\.jpg"
    ):
        data.teardown("fit")


def test_an_unreadable_held_out_image_is_skipped_at_the_start(tmp_path: Path) -> None:
    make_folder(tmp_path, 10, suffix="jpg")
    held = val_names(module(tmp_path, holdout=0.5))[0].split("#")[0]
    (tmp_path / held).write_bytes((tmp_path / held).read_bytes()[:2000])
    with pytest.warns(UserWarning, match="cannot be decoded and is skipped in validation"):
        names = val_names(module(tmp_path, holdout=0.5))
    assert names
    assert not any(name.startswith(held) for name in names)


def test_an_unreadable_image_of_val_root_is_skipped_at_the_start(tmp_path: Path) -> None:
    bad = make_folder(tmp_path / "val", 3, suffix="jpg") / "images" / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.warns(UserWarning, match=r"1\.jpg cannot be decoded and is skipped in validation"):
        names = val_names(module(None, val_root=str(tmp_path / "val")))
    assert sorted({name.split("#")[0] for name in names}) == ["images/0.jpg", "images/2.jpg"]


def test_weights_set_the_share_of_each_folder(tmp_path: Path) -> None:
    root = {
        str(make_folder(tmp_path / "a", 20)): 3.0,
        str(make_folder(tmp_path / "b", 5)): 1.0,
        str(tmp_path / "c"): 0.0,
    }
    data = module(root, samples_per_epoch=400, batch_size=4)
    loader = data.train_dataloader()
    assert len(loader) == 100
    assert data.train_set is not None
    folders = [data.train_set.images[number][0] for number, _ in loader.sampler]  # type: ignore[attr-defined]
    assert 0.68 < folders.count(0) / 400 < 0.82


def test_no_image_repeats_before_all_have_been_drawn() -> None:
    drawn = [image for image, _ in TrainingSampler([4, 10], weights=[1, 1], num_samples=100, seed=3)]
    small = [image for image in drawn if image < 4]
    assert all(sorted(small[start : start + 4]) == [0, 1, 2, 3] for start in range(0, len(small) - 3, 4))
    assert sorted(image for image, _ in TrainingSampler([3, 4])) == list(range(7))


@pytest.mark.parametrize(("num_samples", "batch_size"), [(50, 4), (3, 4), (7, 1)])
def test_ranks_share_an_epoch_in_equal_whole_batches(num_samples: int, batch_size: int) -> None:
    options: dict[str, Any] = {"num_samples": num_samples, "batch_size": batch_size, "world_size": 3}
    ranks = [list(TrainingSampler([20], rank=rank, **options)) for rank in range(3)]
    assert {len(one) for one in ranks} == {len(TrainingSampler([20], rank=0, **options))}
    assert len(ranks[0]) % batch_size == 0
    assert len(ranks[0]) > 0
    assert len({seed for one in ranks for _, seed in one}) == 3 * len(ranks[0])


@pytest.mark.parametrize("size", [1, 5, 6])
def test_evaluation_gives_every_sample_and_equal_ranks(size: int) -> None:
    ranks = [list(EvaluationSampler(size, rank=rank, world_size=4)) for rank in range(4)]
    assert len({len(one) for one in ranks}) == 1
    assert {number for one in ranks for number in one} == set(range(size))
    assert list(EvaluationSampler(size)) == list(range(size))


def test_any_callable_may_be_the_transform(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    seen: set[int] = set()

    def keep(*, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        seen.update(np.unique(mask).tolist())
        return {"image": image, "mask": mask}

    assert next(iter(module(root, transform=keep).train_dataloader()))["image"].shape[2:] == (60, 80)
    assert seen == {0, 1, 255}
    own = albumentations.Compose([albumentations.RandomCrop(40, 48), albumentations.VerticalFlip(p=0.5)])
    runs = [
        [fingerprint(batch) for batch in module(root, transform=own).train_dataloader()] for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_a_transform_that_loses_every_object_is_reported(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path), transform=lambda *, image, mask: {"image": image, "mask": mask * 0})
    with pytest.raises(
        ValueError,
        match=r"30 samples in a row had no usable object .* does the transform cut the objects off",
    ):
        next(iter(data.train_dataloader()))


def test_unions_cover_several_objects_where_configured(tmp_path: Path) -> None:
    roots = [str(make_folder(tmp_path / "parts")), str(make_folder(tmp_path / "whole"))]

    def keep(*, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": image, "mask": mask}

    data = module(roots, union={"parts": 1.0}, transform=keep, holdout=0.0, batch_size=20)
    data.setup("fit")
    assert data.train_set is not None
    for number in range(20):
        size = int(data.train_set[number, 5]["mask"].sum())
        assert size == 500 + 600 if number < 10 else size in (500, 600)


def test_pasted_objects_are_targets_and_also_distractors(tmp_path: Path) -> None:
    def keep(*, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": image, "mask": mask}

    data = module(make_folder(tmp_path), copy_paste=1.0, transform=keep, holdout=0.0)
    data.setup("fit")
    assert data.train_set is not None
    sizes = [int(data.train_set[0, seed]["mask"].sum()) for seed in range(60)]
    assert any(size in (500, 600) for size in sizes)  # its own, not covered
    assert any(size not in (500, 600) for size in sizes)
    assert min(sizes) >= 20


def test_each_worker_gets_its_share_of_the_cache(tmp_path: Path) -> None:
    data = module(make_folder(tmp_path), num_workers=2, cache_mb=10)
    data.setup("fit")
    assert data.train_set is not None
    assert isinstance(data.train_set.cache, ImageCache)
    assert data.train_set.cache.max_bytes == 5 * 2**20
    assert isinstance(data.train_dataloader(), TrainingLoader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"crop_size": 8}, "crop_size must be at least 16, got 8"),
        ({"holdout": 1.0}, "holdout must be a share of the images, at least 0 and below 1, got 1.0"),
        ({"val_dataset": "GrabCat"}, "unknown dataset 'GrabCat'; did you mean 'GrabCut'"),
        ({"dataset": object()}, "dataset must be a registered name, got object; pass your own Dataset to"),
        (
            {"scale": None},
            r"scale must be \(low, high\) with 0 < low <= high, got None; \(1, 1\) keeps the size",
        ),
        ({"scale": 0.5}, r"scale must be \(low, high\) with 0 < low <= high, got 0.5"),
        ({"crop_size": 32.5}, "crop_size must be a whole number, at least 16, got 32.5"),
        ({"transform": 3}, "transform must be a function transform"),
        ({"root": {}}, "root must map folders to weights of 0 or more, not all 0"),
        ({"aspect": math.nan}, "aspect must be a factor, at least 1, got nan"),
        ({"scale": (math.nan, 1.0)}, r"scale must be \(low, high\) with 0 < low <= high, got \(nan, 1.0\)"),
        ({"object_scale": (0.1, math.inf)}, r"object_scale must be \(low, high\) with 0 < low <= high"),
        (
            {"object_scale_prob": 3.0},
            "object_scale_prob must be a probability, at least 0 and at most 1, got 3.0",
        ),
        ({"val_size": 0}, "val_size must be at least 16, got 0"),
        ({"max_val_samples": 0}, "max_val_samples must be at least 1, got 0"),
        ({"samples_per_epoch": -5}, "samples_per_epoch must be at least 1, got -5"),
        ({"min_object_size": -1}, "min_object_size must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"root": {"a": math.nan}}, "root must map folders to weights of 0 or more"),
        ({"root": {"a": -1.0}}, "root must map folders to weights of 0 or more"),
        ({"root": []}, "root needs at least one folder, got an empty list"),
        ({"copy_paste": 1.5}, "copy_paste must be a probability, at least 0 and at most 1, got 1.5"),
        ({"union": {"a": -0.5}}, "union must be a probability, at least 0 and at most 1, got -0.5"),
        ({"union": {"nobody": 0.5}}, r"union names 'nobody', which is not a folder of root \(a\)"),
    ],
)
def test_arguments_out_of_range_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClickSimulatorDataModule(**{"dataset": "Folder", "root": "x/a", **options})
