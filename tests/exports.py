"""Two small exported networks, shared by all tests and workers because an export takes a minute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from networks import tiny_net

from dct_seg.methods.exported import CARD


class Exported:
    """Network and the folder of its export, which no test may change.

    Args:
        fusion: Prompt fusion, "early" or "late".
        factory: Factory of the session's temporary folders.
    """

    def __init__(self, fusion: str, factory: pytest.TempPathFactory) -> None:
        from dct_seg.export.writing import export

        self.net: Any = tiny_net(
            backbone="test_resnet", previous_mask=True, prompt_fusion=fusion, normalize_features=True
        )
        session = factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            session = session.parent  # the workers' common folder
        self.folder: Path = session / f"export_{fusion}"
        with FileLock(session / f"export_{fusion}.lock"):
            if not (self.folder / CARD).is_file():
                export(self.net, self.folder, source="tiny")
