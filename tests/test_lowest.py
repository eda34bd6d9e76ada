"""The lowest versions that CI installs are those of the project file."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_lowest_versions_are_the_declared_lower_bounds() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert section
    declared = dict(re.findall(r'^  "([\w-]+)(?:\[\w+\])?>=([\d.]+)', section[1], re.MULTILINE))
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(lowest) == set(declared)
    too_high = {
        name: version
        for name, version in lowest.items()
        if not f"{version}.".startswith(f"{declared[name]}.")
    }
    assert not too_high, f"not the bound of pyproject.toml: {too_high}"
    assert len(declared) == section[1].count('",')
