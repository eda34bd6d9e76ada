"""The notebooks: each equals its Python file, has small outputs, and runs from a fresh
kernel.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.py"))
MOST_BYTES = 500_000
SHORTER = {
    "max_epochs: 5": "max_epochs: 1",
    "samples_per_epoch: 160": "samples_per_epoch: 16",
    "max_val_samples: 16": "max_val_samples: 4",
    "--limit 10": "--limit 4",
    "repeats=3": "repeats=1",
}
"""Parts of a notebook -> what the test runs instead."""


def stored(name: str) -> dict[str, Any]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def sources(cells: list[Any]) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def test_there_are_five_notebooks_with_a_python_file_each() -> None:
    assert [name[0] for name in NAMES] == list("12345")
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_notebook_equals_its_python_file(name: str) -> None:
    jupytext = pytest.importorskip("jupytext")
    script = jupytext.read(NOTEBOOKS / f"{name}.py", fmt="py:percent")
    assert sources(stored(name)["cells"]) == sources(script.cells), f"run `python notebooks/run.py {name}`"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_small_and_complete(name: str) -> None:
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < MOST_BYTES
    code = [cell for cell in stored(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), (
        "not run from the first cell to the last"
    )
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook without an image"
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    assert not re.search(
        r"/(home|tmp|Users|root|usr)/|site-packages", json.dumps([o.get("text", "") for o in outputs])
    )


@pytest.mark.parametrize("name", NAMES)
def test_formulas_are_plain_text_because_the_site_renders_no_tex(name: str) -> None:
    text = "\n".join(source for kind, source in sources(stored(name)["cells"]) if kind == "markdown")
    assert "$" not in text


@pytest.mark.parametrize("name", NAMES)
def test_links_between_notebooks_work(name: str) -> None:
    text = "\n".join(source for kind, source in sources(stored(name)["cells"]) if kind == "markdown")
    assert all((NOTEBOOKS / target).is_file() for target in re.findall(r"\]\(([^)]+\.ipynb)\)", text))
    assert all(
        (ROOT / target).exists()
        for target in re.findall(r"configs/[\w/]+\.yaml|`(CONTRIBUTING\.md)`", text)
        if target
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_from_a_fresh_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(NOTEBOOKS)
    import run

    notebook = run.read_script(name)
    for cell in notebook.cells:
        for whole, part in SHORTER.items():
            cell.source = cell.source.replace(whole, part)
    notebook = run.executed(notebook)
    assert run.images(notebook), "it drew nothing"
