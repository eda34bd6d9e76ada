"""Processor settings: fast precision, memory reuse, and threads."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # constants of glibc's malloc.h


def has_fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """True if bfloat16 is faster than float32 on ``device``.

    Emulated bfloat16 is slower than float32, on a CPU about ten times; NVIDIA's GPUs before Ampere only
    emulate it. Intel's processors need AMX: with AVX-512 BF16 alone, a forward pass of EfficientNet-Lite0
    takes 1.4 times as long as in float32, and a training step takes the same time.
    """
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not _cpu_has("_is_avx512_bf16_supported"):
        return False
    return _cpu_has("_is_amx_tile_supported") or not _is_intel()


def _cpu_has(feature: str) -> bool:
    """Whether a private function of torch.cpu reports a feature; False if this torch lacks the function."""
    return bool(getattr(torch.cpu, feature, bool)())


def _is_intel() -> bool:
    return _cpuinfo("vendor_id") == "GenuineIntel" or "Intel" in platform.processor()


def processor_name() -> str:
    """Name of the processor, such as ``AMD EPYC``; Python does not provide it on Linux."""
    return _cpuinfo("model name") or platform.processor()


def _cpuinfo(field: str) -> str:
    """Read a field of the first core from Linux's list of processors; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == field), "")


def trainer_precision() -> str:
    """Precision of the Trainer for the device of ``accelerator="auto"``: bfloat16 if fast, else float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "bf16-mixed" if has_fast_bfloat16(device) else "32-true"


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, for the next tensors.

    Call this once, before any large allocation.

    glibc returns each large block to the system and requests it again with cleared pages: a third of the
    time of a training step of EfficientNet-Lite0 on two cores (1.9 s against 1.25 s). The process then holds
    its peak memory until it ends; therefore only commands do this, never the library itself.

    Returns:
        True if this system's malloc supports it; otherwise, nothing changes.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


@contextmanager
def one_core_free() -> Iterator[None]:
    """Compute with one thread fewer, but at least one, to leave a core to a browser on the same machine.

    Threads that wait for each other stall as soon as one of their cores is taken. On two cores a mask
    of 224 x 224 takes 0.07 s with one thread while a browser draws, and 0.10 s with two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def checked_device(device: str | torch.device) -> torch.device:
    """Get the torch device with this name.

    Raises:
        ValueError: When the device does not exist.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{device}'; give cpu, cuda, cuda:1 or mps") from error
    if found.type == "meta":
        raise ValueError(f"device '{device}' holds no values; give cpu")
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device '{device}' needs a GPU and a PyTorch built for it, and one is missing; give cpu"
        ) from error
    return found
