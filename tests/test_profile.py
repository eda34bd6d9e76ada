import argparse
import json

import pytest
import torch
from tiny import tiny_data, tiny_task

from dct_seg import profile


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_the_parts_of_each_step_add_up_to_the_whole():
    task = tiny_task(train_clicks=(2, 2))
    found = profile.training_step_breakdown(task, tiny_data(), steps=5, warmup=1, precision="32-true", accelerator="cpu")
    assert task.global_step == (1 + 5) * 2
    assert list(found.seconds) == [*profile.PARTS, "total"]
    assert {len(values) for values in found.seconds.values()} == {5}  # more than the four batches of an epoch
    for batch in zip(*found.seconds.values(), strict=True):
        assert all(seconds > 0 for seconds in batch)
        assert sum(batch[:-1]) == pytest.approx(batch[-1])
    assert 0 < found.overhead < 1
    assert found.peak_memory > 2**20


def test_the_table_says_what_is_not_the_network():
    seconds = {name: [0.001, 0.001, 0.003] for name in profile.PARTS}
    found = profile.Breakdown({**seconds, "forward": [0.091] * 3, "total": [0.1, 0.1, 0.116]}, 3 * 2**30, "cpu")
    lines = found.table().splitlines()
    assert lines[0].split() == ["part", "median", "spread", "share"]
    assert "forward           91.0 ms    91.0 ..  91.0 ms   91.0%" in lines
    assert "data               1.0 ms     1.0 ..   2.0 ms    1.0%" in lines
    assert lines[-2] == "not the network (data, simulation, encoding, loss, other): 6.0% of a step"
    assert lines[-1] == "peak memory: 3.00 GiB"


def test_the_command_prints_the_table_and_writes_each_batch(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    profile.add_arguments(parser)
    small = "--backbone resnet18 --crop-size 32 --batch-size 2 --clicks 1 --steps 2 --warmup 0 --workers 0"
    small += " --accelerator cpu --precision 32-true"
    assert profile.main(parser.parse_args([*small.split(), "--json", str(tmp_path / "found.json")])) == 0
    printed = capsys.readouterr().out
    assert "backbone resnet18" in printed
    assert "peak memory" in printed
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["setting"]["crop_size"] == 32
    assert len(written["seconds"]["backward"]) == 2


def test_no_steps_are_an_error():
    with pytest.raises(ValueError, match="steps must be at least 1 and warmup at least 0, got 0 and 3"):
        profile.training_step_breakdown(tiny_task(), tiny_data(), steps=0)
