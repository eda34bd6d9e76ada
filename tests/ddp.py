"""Run a function on several gloo processes and return the result of each."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from processes import FORKS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_on_ranks(
    function: Callable[..., Any],
    *args: Any,
    world_size: int = 2,
    timeout: float = 120,
    init_group: bool = True,
) -> list[Any]:
    """Run ``function(rank, world_size, *args)`` on each rank; return the results in rank order.

    Args:
        function: Top-level function, since it is pickled; ``torch.save`` must accept its result.
        args: Pickled too.
        world_size: Number of processes.
        timeout: Seconds until all are killed, so that a hang is a failure.
        init_group: Whether to join a gloo group first; False leaves it to Lightning, with the environment
            set.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        context = mp.start_processes(
            _rank,
            (world_size, port, folder, init_group, function, args),
            nprocs=world_size,
            join=False,
            start_method=FORKS.get_start_method(),
        )
        deadline = time.monotonic() + timeout
        try:
            # join() raises with the traceback of a rank that failed.
            while not context.join(timeout=1):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{function.__name__} is not done on {world_size} ranks after {timeout} s"
                    )
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(
    rank: int,
    world_size: int,
    port: int,
    folder: str,
    init_group: bool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        NODE_RANK="0",
    )
    torch.set_num_threads(1)
    if init_group:
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        torch.save(function(rank, world_size, *args), Path(folder) / f"{rank}.pt")
    finally:
        if init_group:
            dist.destroy_process_group()
