"""Settings for the processor: a fast precision, memory that is kept, and threads."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def has_fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether ``device`` has bfloat16 in hardware.

    Emulated bfloat16 is about ten times slower than float32.
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
    """Keep freed memory in the process, for the next tensors.

    To be called once, before anything large is allocated.

    glibc returns each large block to the system and requests it again with cleared pages: a third of the
    time of a training step of EfficientNet-Lite0 on two cores (1.9 s against 1.25 s). The process then holds
    its peak memory until it ends, which is why only commands do this, never the library by itself.

    Returns:
        Whether this system's malloc supports it; otherwise nothing changes.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


@contextmanager
def one_core_free() -> Iterator[None]:
    """Compute with one thread fewer, but at least one, to leave a core to a browser on the same machine.

    Threads that wait for each other stall as soon as one of their cores is taken. On two cores a mask
    of 224 x 224 takes 0.07 s with one thread beside a browser that draws, and 0.10 s with two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
