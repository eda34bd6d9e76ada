"""Processes that are forked from one that has the imports of all commands, which take seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "dct_seg.app.server", "dct_seg.benchmark.command", "dct_seg.training.command"]
)


def _run(words: list[str], log: str, environment: dict[str, str], fresh: bool) -> None:
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
    sys.exit(cli.main(words))


class Command:
    """``dct-seg`` in a process that leads its process group.

    Args:
        words: Arguments after ``dct-seg``.
        log: File for its output.
        fresh: Start a new Python instead of a fork, to measure what a user sees.
    """

    def __init__(self, *words: object, log: Path, fresh: bool = False) -> None:
        self.log = log
        log.unlink(missing_ok=True)
        arguments = (list(map(str, words)), str(log), dict(os.environ), fresh)
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
