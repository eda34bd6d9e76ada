"""Run trials as child processes, several at a time; none outlives the sweep."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dct_seg.files import newest_file
from dct_seg.sweep.search import Search
from dct_seg.sweep.space import Metric, Sweep, fit_arguments
from dct_seg.sweep.trial import (
    LOG,
    METRICS,
    Outcome,
    Trial,
    read_metrics,
    trials_in,
    wandb_environment,
    without_logger,
)

POLL_SECONDS = 0.2
GRACE_SECONDS = 20.0
"""Time in seconds for a trial to stop by itself when the sweep is stopped."""
TAIL_BYTES = 20_000
OF_AN_AGENT = ("WANDB_SWEEP_ID", "WANDB_RESUME")
"""Environment variables that would make W&B mistake a trial for another run."""


@dataclass(frozen=True)
class Plan:
    """Plan of a sweep's execution: its folder, arguments and number of jobs.

    Args:
        sweep: Sweep to run.
        out: Folder of the sweep.
        base: Configuration that replaces the first one of the command.
        extra: Additional arguments of each trial.
        jobs: Number of parallel trials.
        has_wandb: Whether the command can use its W&B logger.
    """

    sweep: Sweep
    out: Path
    base: str | None = None
    extra: tuple[str, ...] = ()
    jobs: int = 1
    has_wandb: bool = True

    def arguments(self, trial: Trial) -> list[str]:
        """Make the arguments of ``dct-seg`` for a trial, which writes to its folder.

        A stopped trial resumes from its last checkpoint.
        """
        words = fit_arguments(self.sweep, trial.values, base=self.base, extra=self.extra)
        words = words if self.has_wandb else without_logger(words)
        checkpoint = (
            trial.checkpoint if trial.read_outcome() is None else None
        )  # a failed trial starts from the beginning
        goes_on = [f"--ckpt_path={checkpoint}"] if checkpoint else []
        return [*words, f"--trainer.default_root_dir={trial.folder}", *goes_on]


class _Running:
    """Running trial."""

    def __init__(self, plan: Plan, trial: Trial, number: int, slot: int) -> None:
        self.sweep = plan.sweep
        self.trial = trial
        self.number = number
        self.slot = slot
        self.attempts = int(trial.read_start().get("attempts", 0)) + 1
        self.began = time.monotonic()
        arguments = plan.arguments(trial)
        trial.remove_failed_attempt()
        trial.write_start(number=number, attempts=self.attempts, command=["dct-seg", *arguments])
        environment = {name: value for name, value in os.environ.items() if name not in OF_AN_AGENT}
        environment |= share_of_machine(slot, plan.jobs)
        if plan.has_wandb:
            environment |= wandb_environment(plan.sweep, trial, self.attempts)
        with (trial.folder / LOG).open("ab") as log:
            log.write(f"--- attempt {self.attempts}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dct_seg.sweep.child_process", "dct_seg.cli", *arguments],
                stdin=subprocess.PIPE,  # kept open, since the trial ends when it closes
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl+C reaches only the sweep; a trial is killed with its workers
            )

    def outcome(self) -> Outcome | None:
        """Exit status of the trial, or None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        common: dict[str, Any] = {
            "values": self.trial.values,
            "attempts": self.attempts,
            "number": self.number,
        }
        common["seconds"] = round(time.monotonic() - self.began, 1)
        metrics = newest_file(self.trial.folder.rglob(METRICS))
        if code == 0 and metrics is not None:
            try:
                left = read_metrics(metrics)
            except ValueError as broken:
                return Outcome(state="failed", error=str(broken), **common)
            wanted = self.sweep.metric
            if self.sweep.method != "bayes" or wanted is None or wanted.of(left["metrics"]) is not None:
                return Outcome(state="finished", **left, **common)
            there = [f"val/{prompt}/{name}" for prompt, found in left["metrics"].items() for name in found]
            error = f"bayes needs {wanted.name}, which is not among the trial's metrics: {', '.join(there)}"
        elif code == 0:
            error = (
                f"the trial wrote no {METRICS} in its folder; --report none, or a ModelCheckpoint in another "
                "dirpath, causes this"
            )
        elif code < 0:
            error = (
                "ended by "
                f"{signal.Signals(-code).name}"
                f"{', perhaps out of memory' if code == -signal.SIGKILL else ''}"
            )
        else:
            error = last_error(self.trial.folder / LOG)
        return Outcome(state="failed", error=error, **common)

    def stop(self) -> None:
        """Send the trial a signal to end."""
        self.process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the trial until ``deadline`` of the monotonic clock, then kill it and its children."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        assert self.process.stdin is not None
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait()


def run_trials(
    plan: Plan, search: Search, on_start: Callable[[Trial], None], on_end: Callable[[Outcome], None]
) -> None:
    """Run the trials of a search until it has no more; skip finished ones.

    No trial outlives this call; a stopped trial can be resumed.

    Args:
        plan: Execution plan.
        search: Search that chooses values and receives each metric.
        on_start: Called with each started trial.
        on_end: Called with the result of each trial that the search proposes, including one that had finished
            before.
    """
    running: list[_Running] = []
    is_open = True
    num_started = len(trials_in(plan.out))
    try:
        while is_open or running:
            while is_open and len(running) < plan.jobs:
                values = search.next()
                if values is None:
                    is_open = False
                    break
                trial = Trial.of(values, plan.out)
                before = trial.read_outcome()
                if before is not None and before.is_finished:
                    _tell(search, plan.sweep.metric, before, on_end)
                elif any(other.trial.key == trial.key for other in running):
                    search.tell(values, None)  # a Bayesian search may choose the same values twice
                else:
                    slot = min(set(range(plan.jobs)) - {other.slot for other in running})
                    number = int(trial.read_start().get("number", num_started + 1))
                    num_started = max(num_started, number)
                    running.append(_Running(plan, trial, number, slot))
                    on_start(trial)
            time.sleep(POLL_SECONDS if running else 0)
            for one in list(running):
                outcome = one.outcome()
                if outcome is not None:
                    one.end(time.monotonic())
                    running.remove(one)
                    one.trial.write_outcome(outcome)
                    _tell(search, plan.sweep.metric, outcome, on_end)
    finally:
        for one in running:
            one.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        for one in running:
            one.end(deadline)


def _tell(search: Search, metric: Metric | None, outcome: Outcome, on_end: Callable[[Outcome], None]) -> None:
    search.tell(outcome.values, metric.of(outcome.metrics) if metric else None)
    on_end(outcome)


def last_error(log: Path) -> str:
    """Last line of a trial's output that reports an error, without colors and command name."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", file.read().decode(errors="replace"))
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [line for line in lines if line.startswith("dct-seg: error:")] or lines or ["no output"]
    return errors[-1].removeprefix("dct-seg: error:").strip()


def share_of_machine(slot: int, jobs: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables of one trial: one GPU, in turn, and its share of the cores.

    A single trial gets the whole machine.

    Examples:
        >>> share_of_machine(3, 4, {"CUDA_VISIBLE_DEVICES": "5,7", "OMP_NUM_THREADS": "2"})
        {'CUDA_VISIBLE_DEVICES': '7'}
    """
    share: dict[str, str] = {}
    if jobs == 1:
        return share
    gpus = _gpus(environment)
    if gpus:
        share["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    if "OMP_NUM_THREADS" not in environment:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    return share


def _gpus(environment: Mapping[str, str]) -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [gpu for gpu in environment["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run(
        [tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return done.stdout.split() if done.returncode == 0 else []
