"""Processor settings: bfloat16 only if it is native, and freed memory is kept."""

import platform
import subprocess
import sys

import pytest
import torch

from dct_seg import processor


@pytest.mark.parametrize(
    ("avx512", "amx", "intel", "fast"),
    [
        (True, True, True, True),
        (True, False, True, False),
        (True, False, False, True),
        (False, False, False, False),
    ],
)
def test_bfloat16_is_used_where_it_is_fast(monkeypatch, avx512, amx, intel, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(processor, "_is_intel", lambda: intel)
    assert processor.has_fast_bfloat16("cpu") is fast


def test_unknown_processor_uses_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert processor.has_fast_bfloat16("cpu") is False


def test_emulated_bfloat16_of_a_gpu_is_not_fast(monkeypatch):
    asked = []

    class Device:
        def __init__(self, device):
            asked.append(device)

        __enter__ = __exit__ = lambda *args: None

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert processor.has_fast_bfloat16("cuda:1") is False
    assert asked == [torch.device("cuda:1")]


def test_processor_vendor_is_read():
    assert isinstance(processor._is_intel(), bool)
    assert processor._cpuinfo("no such field") == ""
    assert "\n" not in processor.processor_name()


def test_the_trainer_uses_the_fast_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for answer, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(processor, "has_fast_bfloat16", lambda device, answer=answer: answer)
        assert processor.trainer_precision() == precision


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc",
    reason="only glibc's malloc can be configured",
)
def test_kept_memory_is_not_cleared_again_by_the_system():
    script = """
import resource
import numpy as np
from dct_seg.processor import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
assert keep_freed_memory()
faults()
print(faults())
"""
    done = subprocess.check_output([sys.executable, "-c", script], text=True)
    plain, kept = map(int, done.split())
    assert kept < plain / 4


@pytest.mark.parametrize(("threads", "meanwhile"), [(1, 1), (2, 1), (4, 3)])
def test_one_core_is_left_free_and_reclaimed(threads, meanwhile):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with processor.one_core_free():
            assert torch.get_num_threads() == meanwhile
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["cuda:99", "mps:7", "xpu:99", "meta", "gpu"])
def test_device_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}'.*; give cpu"):
        processor.checked_device(name)
    assert processor.checked_device("cpu").type == "cpu"
