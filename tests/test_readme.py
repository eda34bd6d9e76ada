"""Code, fit commands and paths of the README and "Get started"; .ci/check_commands.py runs the commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dct_seg.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GET_STARTED = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs" / "get_started").glob("*.md"))
}
COMMANDS = [
    line
    for page in (README, *GET_STARTED.values())
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dct-seg ")
]


@pytest.mark.parametrize("page", [README, GET_STARTED["predict"]], ids=["README", "predict"])
def test_the_python_snippet_runs_unchanged(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(snippet, names)
    result = names["result"]
    assert result.mask.shape == result.probs.shape == (240, 320)  # type: ignore[attr-defined]
    assert [c.radius is not None for c in result.clicks] == [True, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [c for c in COMMANDS if " fit " in c])
def test_every_fit_command_names_a_configuration_that_parses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(ROOT / a) if a.startswith("configs/") else a for a in shlex.split(command)[1:]]
    assert all(Path(a).is_file() for a in args if a.endswith(".yaml"))
    with pytest.raises(SystemExit) as left:
        main([*args, "--print_config"])
    assert left.value.code == 0


def test_the_table_of_extras_is_that_of_the_project_file() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\[", text, re.DOTALL)
    assert section
    declared = set(re.findall(r"^(\w+) = \[", section[1], re.MULTILINE))
    assert declared == set(re.findall(r"`\[(\w+)\]`", GET_STARTED["install"]))


def test_every_path_in_the_readme_exists() -> None:
    for path in re.findall(r"(?:configs|docs|notebooks)/[\w./-]+\w", README):
        assert (ROOT / path).exists(), path
