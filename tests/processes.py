"""Processes that are forked from one that has the imports of all commands, which take seconds."""

from __future__ import annotations

import atexit
import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "dct_seg.app.server", "dct_seg.benchmark.command", "dct_seg.training.command"]
)
FORK = multiprocessing.get_context("fork")
"""For processes that were forked from the server: they cannot reach it."""
TRIALS = Path("trials.lock")
"""File in the current folder that each forked trial locks while it lives."""


def _run(words: list[str], log: str, environment: dict[str, str], fresh: bool, has_forks: bool) -> None:
    from dct_seg import cli

    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if fresh:
        os.execve(sys.executable, [sys.executable, "-m", "dct_seg.cli", *words], environment)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if has_forks:
        fork_workers()
        fork_trials()
    sys.exit(cli.main(words))


def fork_workers() -> None:
    """Make this forked process fork the workers of a benchmark, which it would spawn."""
    multiprocessing.get_context = lambda method=None: FORK  # type: ignore[assignment]


def fork_trials(patch: Callable[[object, str, object], None] = setattr) -> None:
    """Make this process fork the trials of a sweep, for which it would start Python."""
    from dct_seg.sweep import running

    patch(running, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": ForkedTrial}))


def _run_trial(
    words: list[str], stdin: Connection, other_end: Connection | None, log: str, environment: dict[str, str]
) -> None:
    from dct_seg.sweep import child_process

    os.setsid()
    atexit._clear()  # exit functions of the process it was forked from
    if other_end is not None:  # inherited, so that it would stay open after the sweep's end
        other_end.close()
    lock = TRIALS.open("a")
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.dup2(stdin.fileno(), child_process.STDIN)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    try:
        child_process.main()
    finally:
        atexit._run_exitfuncs()  # as Python does, but not multiprocessing: W&B writes the end of its run


class ForkedTrial:
    """A forked trial with the part of ``subprocess.Popen`` that a sweep uses."""

    def __init__(self, words: list[str], *, stdout: IO[bytes], env: Mapping[str, str], **_: Any) -> None:
        assert words[:3] == [sys.executable, "-m", "dct_seg.sweep.child_process"]
        context = FORKS if multiprocessing.parent_process() is None else FORK
        stdin, self.stdin = context.Pipe(duplex=False)
        inherited = self.stdin if context is FORK else None
        arguments = (words[2:], stdin, inherited, os.path.abspath(stdout.name), dict(env))
        self._process = context.Process(target=_run_trial, args=arguments)
        self._process.start()
        stdin.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.poll = lambda: self._process.exitcode
        self.terminate, self.kill = self._process.terminate, self._process.kill

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("trial", timeout or 0)
        return self._process.exitcode


def has_living_trials() -> bool:
    """Whether a forked trial of this folder runs."""
    with TRIALS.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Command:
    """``dct-seg`` in a process that leads its process group.

    Args:
        words: Arguments after ``dct-seg``.
        log: File for its output.
        fresh: Start a new Python instead of a fork, to measure what a user sees.
        has_forks: Fork its workers and trials too.
    """

    def __init__(self, *words: object, log: Path, fresh: bool = False, has_forks: bool = False) -> None:
        self.log = log
        log.unlink(missing_ok=True)
        arguments = (list(map(str, words)), str(log), dict(os.environ), fresh, has_forks)
        self.process = FORKS.Process(target=_run, args=arguments)
        self.process.start()
        atexit.register(self.process.kill)  # else a failed test would leave it running

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def said(self) -> str:
        """Read the output so far."""
        return self.log.read_text() if self.log.is_file() else ""

    def wait_until(self, happened: Callable[[], object], limit: float = 400) -> None:
        deadline = time.monotonic() + limit
        while not happened():
            assert self.process.is_alive(), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def send(self, number: int) -> int:
        """Send a signal and wait for the exit code."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self, limit: float = 120) -> int:
        """Wait for the exit code."""
        self.process.join(limit)
        assert self.process.exitcode is not None, self.said()
        return self.process.exitcode
