"""Settings that suit the processor: precision, memory and threads.

The precision that it computes fast, and memory that is not given back in between.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def has_fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether ``device`` computes in bfloat16 itself.

    One that emulates it is some ten times slower than in float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    supported = getattr(
        torch.cpu, "_is_avx512_bf16_supported", None
    )  # no public question exists; without an answer, float32
    return device.type == "cpu" and supported is not None and bool(supported())


def trainer_precision() -> str:
    """The Trainer's precision for the device that ``accelerator="auto"`` takes.

    Bfloat16 where it is fast, else float32.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "bf16-mixed" if has_fast_bfloat16(device) else "32-true"


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for its next tensors.

    To be called once, before anything large is allocated.

    glibc hands each large block back to the system and gets it anew, all pages to be cleared: a third of the
    time of a training step of EfficientNet-Lite0 on two cores (1.9 s against 1.25 s). The process then holds
    its peak memory until it ends, which is why only commands do this, never the library by itself.

    Returns:
        Whether this system's malloc could be told so; elsewhere nothing changes.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


@contextmanager
def one_core_free() -> Iterator[None]:
    """Compute with one thread fewer than otherwise, but at least one.

    For what a browser on the same machine must draw meanwhile.

    Threads that wait for one another stand still as soon as one of their cores is taken. On two cores a mask
    of 224 x 224 takes 0.07 s with one thread beside a browser that draws, and 0.10 s with two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
