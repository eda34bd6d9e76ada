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


SECONDS_OF_A_FAST_TEST = 0.2
_traced_slowly: set[tuple[str, str]] = set()
"""File and name of each test function of which a long call was traced."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Trace only the first long call of a parametrized test: a trace costs half as much again as the call.

    Its other calls take mostly the same lines; the required coverage must be reached without them.
    """
    if _function(item) in _traced_slowly and item.config.pluginmanager.has_plugin("_cov"):
        item.add_marker("no_cover")


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.when == "call" and call.duration > SECONDS_OF_A_FAST_TEST:
        _traced_slowly.add(_function(item))


def _function(item: pytest.Item) -> tuple[str, str]:
    return str(item.path), getattr(item, "originalname", item.name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for the tests of a module."""
    from driving import shared_browser

    with shared_browser() as found:
        yield found
