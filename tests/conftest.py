"""Setup of all tests: one thread per process (tests run in parallel), and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for the tests of a module."""
    from driving import shared_browser

    with shared_browser() as found:
        yield found
