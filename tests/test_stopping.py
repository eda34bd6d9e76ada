"""SIGINT, SIGTERM and SIGKILL of each long command: one line, its exit code, no incomplete file."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ddp import free_port
from networks import tiny_net
from PIL import Image
from processes import FORKS, Command, fork_trials, has_living_trials
from test_benchmark import Boxes, Shy
from test_callbacks import CONFIG
from test_sweep import COMMAND
from test_sweep import write as write_sweep
from tiny import tiny_data, tiny_task, tiny_trainer

from dct_seg import cli
from dct_seg.benchmark.results import journals, load_results
from dct_seg.benchmark.runner import run_benchmark
from dct_seg.signals import Stopped, advising, raising_stopped
from dct_seg.sweep.trial import trials_in

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def started(*words: object, has_forks: bool = False) -> Command:
    """A command, with its output in a file of its name."""
    return Command(*words, log=Path(f"{words[0]}.log"), has_forks=has_forks)


def stopped(command: Command, number: int) -> tuple[int, str]:
    """Send a signal; return the exit code and the whole output."""
    code = command.send(number)
    assert "Traceback" not in command.said(), command.said()
    return code, command.said()


def line_of(said: str) -> str:
    """The line that reports the stop."""
    (line,) = [line for line in said.splitlines() if line.startswith("dct-seg: stopped")]
    return line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_any_command_with_a_line_and_its_code(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)

    def work(args: list[str]) -> int:
        with advising("to resume, run the same command"):
            signal.raise_signal(number)
        return 0

    monkeypatch.setattr(cli, "print_names", work)
    assert cli.main(["list"]) == code
    name = signal.Signals(number).name
    assert capsys.readouterr().err == f"dct-seg: stopped by {name}; to resume, run the same command\n"
    assert signal.getsignal(number) is before


def test_signal_ends_a_forked_process_silently(capfd: pytest.CaptureFixture[str]) -> None:
    with raising_stopped():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(1)
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_signal_handlers_are_unchanged_outside_the_main_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def enter() -> None:
        with raising_stopped():
            pass

    with ThreadPoolExecutor() as pool:
        pool.submit(enter).result()


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_training_leaves_a_checkpoint_that_resumes_to_the_same_weights(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"save_last": True, "every_n_epochs": 1, "save_on_train_epoch_end": True},
    }
    own = {"max_epochs": 1000, "check_val_every_n_epoch": 5000, "callbacks": [checkpoints]}
    config = {
        **CONFIG,
        "trainer": {**CONFIG["trainer"], **own},
        "report": "none",
        "interactions": {"num_samples": 0, "num_worst": 0},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    fit = started("fit", "--config", "config.yaml")
    fit.wait_until(lambda: list(Path("out").rglob("*.ckpt")))
    code, said = stopped(fit, number)
    assert code == 128 + number
    found = re.search(r"from epoch (\d+), batch \d+, .* --ckpt_path (\S+)", line_of(said))
    assert found, said
    epoch, path = int(found[1]), Path(found[2])
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []
    assert torch.load(path, weights_only=True)["epoch"] == epoch

    end = ["--config", "config.yaml", f"--trainer.max_epochs={epoch + 2}"]
    assert cli.main(["fit", *end, "--ckpt_path", str(path), "--trainer.default_root_dir=resumed"]) == 0
    assert cli.main(["fit", *end, "--trainer.default_root_dir=whole"]) == 0
    one, other = (
        torch.load(next(Path(name).rglob("last.ckpt")), weights_only=True) for name in ("resumed", "whole")
    )
    assert one["global_step"] == other["global_step"]
    for key, value in other["state_dict"].items():
        assert torch.equal(one["state_dict"][key], value), key


def dies(rank: int, port: int, folder: str) -> None:
    """Two ranks train; the second one is killed in the middle."""
    from lightning.pytorch.callbacks import Callback

    class Die(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if rank == 1 and trainer.global_step == 3:
                Path(folder, "dead").write_text("")
                os.kill(os.getpid(), signal.SIGKILL)

    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        NODE_RANK="0",
    )
    trainer = tiny_trainer(folder, max_epochs=1000, strategy="ddp", devices=2, callbacks=[Die()])
    trainer.fit(tiny_task(train_clicks=(1, 1)), tiny_data())


def benchmark_dies(rank: int, port: int, folder: str) -> None:
    """Two ranks measure; the second one is killed at its second sample."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"
    )
    method = partial(Shy, sleep=0.1) if rank == 0 else partial(Mortal, folder=folder)
    run_benchmark({"shy": method}, {"boxes": Boxes(6)}, prompt="drag", max_clicks=3, out=Path(folder) / "out")


class Mortal(Shy):
    """Method that dies at its third image; the first one is the warm-up."""

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.folder, self.num = folder, 0

    def reset(self, image: np.ndarray) -> None:
        self.num += 1
        if self.num == 3:
            Path(self.folder, "dead").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        super().reset(image)


@pytest.mark.slow
@pytest.mark.parametrize("work", [dies, benchmark_dies])
def test_rank_ends_soon_after_another_rank_dies(tmp_path: Path, work: Callable[..., None]) -> None:
    port = free_port()
    ranks = [FORKS.Process(target=work, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    try:
        deadline = time.monotonic() + 240
        while not (tmp_path / "dead").exists():
            assert time.monotonic() < deadline
            assert ranks[0].is_alive()
            time.sleep(0.05)
        ranks[0].join(60)
        assert ranks[0].exitcode not in (None, 0)
    finally:
        for rank in ranks:
            rank.kill()


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a prediction on 120 images."""
    monkeypatch.chdir(tmp_path)
    tiny_net().save_pretrained("weights.safetensors")
    rng = np.random.default_rng(0)
    Path("images").mkdir()
    for number in range(120):
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(f"images/{number:03d}.png")
    return ["images", "--click", "60,80,20", "--weights", "weights.safetensors", "--coco"]


@pytest.mark.slow
def test_stopped_or_killed_prediction_leaves_whole_files_and_resumes(many: list[str]) -> None:
    def num_done() -> int:
        path = Path("out/predicted.jsonl")
        return path.read_text().count("\n") if path.is_file() else 0

    before = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        command = started("predict", *many, "--out", "out")
        command.wait_until(lambda: num_done() >= before + 4)  # noqa: B023
        if number == signal.SIGKILL:
            command.process.kill()
            assert command.wait() == -signal.SIGKILL
        else:
            code, said = stopped(command, number)
            assert code == 128 + number
            assert line_of(said).endswith("; to resume, run the same command")
        for path in Path("out").rglob("*.png"):
            if not path.name.startswith("."):
                with Image.open(path) as image:
                    image.load()
        assert num_done() < 120
        before = num_done()
    stamps = {path: path.stat().st_mtime_ns for path in Path("out/masks").glob("*.png")}
    assert cli.main(["predict", *many, "--out", "out"]) == 0
    lines = [json.loads(line) for line in Path("out/predicted.jsonl").read_text().splitlines()]
    assert sorted(line["image"] for line in lines) == [f"{number:03d}.png" for number in range(120)]
    done = {path for path in stamps if path.stat().st_mtime_ns == stamps[path]}
    assert len(done) >= before  # finished masks were not predicted again
    assert cli.main(["predict", *many, "--out", "whole"]) == 0
    for path in Path("whole/masks").glob("*.png"):
        assert path.read_bytes() == (Path("out/masks") / path.name).read_bytes()
    assert Path("whole/coco.json").read_bytes() == Path("out/coco.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_benchmark_resumes(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "benchmark",
        "--method",
        "grabcut",
        "--data",
        "Shapes",
        "--prompt",
        "drag",
        "--full",
        "--strips",
        "0",
    ]
    words += ["--limit", "20", "--max-clicks", "6", "--out", "out"]

    def num_done() -> int:
        return sum(path.read_text().count('{"sample"') for path in journals(Path("out")))

    before = 0
    for number in SIGNALS:
        command = started(*words, "--workers", workers, has_forks=number == signal.SIGTERM)
        command.wait_until(lambda: num_done() >= before + 3)  # noqa: B023
        if number == signal.SIGINT:  # as a terminal does, also to the workers
            os.killpg(command.pid, number)
            code, said = command.wait(), command.said()
            assert "Traceback" not in said, said
        else:
            code, said = stopped(command, number)
        assert code == 128 + number
        assert line_of(said).endswith("; to resume, run the same command with --out out")
        before = num_done()
        assert before < 20
    kept = {
        json.loads(line)["sample"]["index"]
        for line in journals(Path("out"))[0].read_text().splitlines()
        if '{"sample"' in line
    }
    assert cli.main(words) == 0
    found = load_results("out")
    assert sorted(record.index for record in found.samples) == list(range(20))
    assert kept <= {record.index for record in found.samples}
    assert journals(Path("out")) == []


def test_two_benchmarks_do_not_share_a_folder(tmp_path: Path) -> None:
    from filelock import FileLock

    out = tmp_path / "out"
    out.mkdir()
    with (
        FileLock(out / ".lock"),
        pytest.raises(ValueError, match=r"another dct-seg benchmark is running in .*out; wait for it"),
    ):
        run_benchmark({"shy": Shy}, {"boxes": Boxes(2)}, prompt="drag", out=out)
    assert not (out / "results.json").exists()
    assert len(run_benchmark({"shy": Shy}, {"boxes": Boxes(2)}, prompt="drag", out=out).samples) == 2
    assert len(run_benchmark({"shy": Shy}, {"boxes": Boxes(2)}, prompt="drag", out=out).samples) == 2


def test_two_predictions_do_not_share_a_folder(many: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    Path("out").mkdir()
    with FileLock("out/.lock"):
        assert cli.main(["predict", *many, "--out", "out"]) == 2
    assert "another dct-seg predict is running in out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgrep") is None, reason="looks for processes with pgrep")
@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_sweep_leaves_no_process_and_resumes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    often = {"save_last": True, "every_n_epochs": 1, "save_on_train_epoch_end": True}
    callbacks = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": often}]
    trainer = {key: value for key, value in CONFIG["trainer"].items() if key != "default_root_dir"}
    trainer |= {"max_epochs": 40, "check_val_every_n_epoch": 40, "callbacks": callbacks}
    Path("base.yaml").write_text(yaml.safe_dump({**CONFIG, "trainer": trainer, "report": "after"}))
    write_sweep(tmp_path, name="one", command=COMMAND, parameters={"model.lr": {"values": [1e-3]}})
    out = f"stopped_{number}"  # other tests of this machine run sweeps too
    has_forks = number == signal.SIGTERM  # trials are real with SIGINT
    sweep = started("sweep", "sweep.yaml", "--out", out, has_forks=has_forks)
    sweep.wait_until(lambda: list(Path(out).rglob("*.ckpt")))
    code, said = stopped(sweep, number)
    assert code == 128 + number
    assert line_of(said).endswith("; to resume, run the same command with --resume; 0 of 1 trials ended")
    if has_forks:
        assert not has_living_trials()
    else:
        found = subprocess.run(["pgrep", "-f", f"{out}/trials/"], capture_output=True, check=False)
        assert found.stdout == b""
    (trial,) = trials_in(Path(out))
    assert trial.read_outcome() is None
    assert trial.checkpoint is not None
    stopped_at = torch.load(trial.checkpoint, weights_only=True)["epoch"]
    assert stopped_at < 39
    if has_forks:
        fork_trials(monkeypatch.setattr)
        assert cli.main(["sweep", "sweep.yaml", "--out", out, "--resume"]) == 0
        assert "1 of 1 trials finished" in capsys.readouterr().out
        assert torch.load(trial.checkpoint, weights_only=True)["epoch"] == 39


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_annotator_prints_a_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_net().save_pretrained("weights.safetensors")
    Path("images").mkdir()
    server = started("annotate", "images", "--weights", "weights.safetensors", "--port", "0", "--no-browser")
    server.wait_until(lambda: "http://" in server.said())
    time.sleep(0.5)
    code, said = stopped(server, number)
    assert code == 128 + number
    assert line_of(said) == f"dct-seg: stopped by {signal.Signals(number).name}"


def test_stop_is_reported_in_one_line() -> None:
    assert str(Stopped(signal.SIGTERM)) == "stopped by SIGTERM"
    assert Stopped(signal.SIGTERM).exit_code == 143
