"""Parallel runs: several processes on one machine, and several ranks on one or more machines."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from typing import Any, TypeVar

import cv2
import torch
import torch.distributed as dist
from tqdm import tqdm

from dct_seg.signals import Stopped

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Ranks:
    """Rank of this process among those that share a run.

    Args:
        rank: Number of this process, from 0.
        size: Number of ranks.
        group: Process group to exchange records; None for one rank.
        started_here: True if this run joined the process group and must leave it.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    started_here: bool = False

    @classmethod
    def find(cls) -> Ranks:
        """Join the existing process group (Lightning's) or that of ``torchrun``; otherwise use one rank."""
        if not dist.is_available():
            return cls()
        start = not dist.is_initialized()
        if start:
            if not _is_under_torchrun():
                return cls()
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("gloo")
        if dist.get_world_size() == 1:
            return cls()
        # records are objects on the CPU, and the slowest rank may take long
        return cls(
            dist.get_rank(),
            dist.get_world_size(),
            dist.new_group(backend="gloo", timeout=timedelta(days=7)),
            start,
        )

    def gather(self, mine: list[T]) -> list[list[T]]:
        """Gather one value from each rank, on every rank, in rank order."""
        if self.size == 1:
            return [mine]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, mine, group=self.group)
        return gathered

    def leave(self) -> None:
        """Wait for every rank, and leave the process group if this run started it."""
        if self.size > 1:
            dist.barrier(group=self.group)
        if self.started_here:
            dist.destroy_process_group()


def is_first_rank() -> bool:
    """Whether this is the process that prints and writes for all."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return not _is_under_torchrun() or os.environ.get("RANK", "0") == "0"


def _is_under_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


def run_all(
    worker: Callable[[T], R],
    runs: Sequence[T],
    *,
    workers: int,
    threads: int | None = None,
    show: bool = True,
) -> Iterator[R]:
    """Yield the result of each run as it completes, in any order.

    Args:
        worker: Function that makes a run; it must be picklable for several workers.
        runs: Argument of ``worker`` for each run.
        workers: Number of processes; 1 uses this process.
        threads: Threads of torch and OpenCV per process; None leaves them unchanged.
        show: Show a progress bar.

    Raises:
        RuntimeError: When a process dies.
    """
    with tqdm(total=len(runs), unit="sample", disable=None if show else True) as bar:
        if workers == 1 or len(runs) < 2:
            _set_threads(threads)
            for run in runs:
                yield worker(run)
                bar.update()
            return
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(
            min(workers, len(runs)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(worker, threads),
        )
        try:
            for future in as_completed([pool.submit(_work, run) for run in runs]):
                yield future.result()
                bar.update()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, perhaps out of memory; run again with fewer --workers to resume"
            ) from error
        except (Stopped, GeneratorExit):
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # do not wait for running samples
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_worker: Callable[[Any], Any]


def _start(worker: Callable[[Any], Any], threads: int | None) -> None:
    global _worker
    _worker = worker
    _set_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl+C and stops its workers
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _work(run: Any) -> Any:
    return _worker(run)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


def _leave_with_parent() -> None:
    """Stop a worker if its parent was killed; it would otherwise wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
