"""The simulated user of training: owned by the data module, whose workers make its first click."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tiny import assert_same_weights, tiny_data, tiny_task, tiny_trainer, weights

from dct_seg import ClickBatch, first_click
from dct_seg.simulation import UserSettings


def test_task_uses_the_user_of_the_data_module(tmp_path: Path) -> None:
    task, data = tiny_task(), tiny_data(rule="max_distance", drag_share=0.5, click_jitter=2.0)
    tiny_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(task, data)
    assert task.user == data.user == UserSettings("max_distance", drag_share=0.5, click_jitter=2.0)


def test_task_has_its_own_user_with_another_data_module() -> None:
    assert tiny_task().user == UserSettings()
    assert tiny_task(place="core").user == UserSettings(place="core")


def test_settings_given_to_the_task_take_precedence_and_are_reported_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task, data = tiny_task(rule="max_distance", drag_share=0.25), tiny_data(drag_share=0.75, radius_noise=0.1)
    with caplog.at_level(logging.INFO):
        tiny_trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(task, data)
    assert task.user == UserSettings("max_distance", drag_share=0.25, radius_noise=0.1)
    notices = [one.message for one in caplog.records if "is now data." in one.message]
    assert notices == ["model.{rule,drag_share} is now data.{rule,drag_share}; the old name still works"]


def test_workers_make_the_first_click_of_each_sample() -> None:
    for batch in tiny_data().train_dataloader():
        found = first_click(batch["mask"], batch["ignore"])
        assert batch["first_click"][:, :2].equal(found.coords)
        assert batch["first_click"][:, 2].equal(found.true_radii)


def test_first_click_off_center_is_inside_the_object_and_the_same_in_each_run() -> None:
    runs = [list(tiny_data(place="core", click_jitter=3.0).train_dataloader()) for _ in range(2)]
    centered = list(tiny_data().train_dataloader())
    for one, other, center in zip(*runs, centered, strict=True):
        assert one["image"].equal(center["image"])
        assert one["first_click"].equal(other["first_click"])
        for mask, (row, col, _) in zip(one["mask"], one["first_click"].tolist(), strict=True):
            assert mask[int(row), int(col)]
    assert any(not a["first_click"].equal(b["first_click"]) for a, b in zip(runs[0], centered, strict=True))


def test_weights_do_not_depend_on_who_makes_the_first_click(tmp_path: Path) -> None:
    trained = []
    for by_workers in (True, False):
        task, data = tiny_task(), tiny_data()
        trainer = tiny_trainer(tmp_path, limit_val_batches=0)
        if by_workers:
            trainer.fit(task, data)
        else:
            trainer.fit(task, train_dataloaders=data.train_dataloader())
        trained.append(weights(task))
    assert_same_weights(*trained)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"drag_share": 1.5}, "drag_share must be a share of the images, at least 0 and at most 1, got 1.5"),
        ({"rule": "nearest"}, "unknown rule 'nearest'"),
        ({"place": "edge"}, "unknown place 'edge'"),
    ],
)
def test_wrong_setting_is_reported_when_the_data_module_is_made(
    wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_data(**wrong)


def test_first_click_hides_the_radius_from_an_image_without_a_drag() -> None:
    mask = torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[:, 5:14, 5:14] = True
    settings = UserSettings()
    made = torch.stack([settings.first_click(one, torch.zeros_like(one), (0.0, 0.0)) for one in mask])
    user = settings.user(mask, torch.zeros_like(mask), torch.tensor([True, False]), first=made)
    asked = user(None, ClickBatch.empty(2))
    assert asked.coords.tolist() == [[9.0, 9.0], [9.0, 9.0]]
    assert asked.radii[0] == asked.true_radii[0] == 5.0
    assert asked.radii[1].isnan()
