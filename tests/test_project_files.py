"""Files around the code agree with it.

They are the version, the citation, and the paths and commands in the documents.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

import dct_seg
from dct_seg.cli import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("CONTRIBUTING.md", "docs/release.md", ".github/pull_request_template.md")


def test_the_citation_has_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["version"] == dct_seg.__version__
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert paper["title"] in readme
    assert str(paper["year"]) in readme
    assert [author["family-names"] for author in paper["authors"]] == ["Lin", "Tu", "Liu", "Chien"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_in_a_document_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([\w./-]+)\)", text)) | set(
        re.findall(r"(?:configs|docs|tests|notebooks|\.ci)/[\w./-]*\w", text)
    )
    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_images_and_code_in_lists_are_written_as_the_site_reads_them() -> None:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert "<img" not in text, f"{path.name}: a raw address breaks on the site, where a page is a folder"
        indented = re.search(r"^ {1,3}```", text, re.MULTILINE)
        assert not indented, f"{path.name}: code in a list is indented by four"
        for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert (path.parent / image).is_file(), f"{path.name}: {image}"


@pytest.mark.parametrize("name", ["example_encoder", "example_method", "example_dataset", "example_network"])
def test_the_entry_point_shown_is_that_of_the_example(name: str) -> None:
    project = (ROOT / "tests" / name / "pyproject.toml").read_text(encoding="utf-8")
    group, entry = re.findall(r'^(\[project.entry-points.*\])\n(\w+ = "[\w:]+")', project, re.MULTILINE)[0]
    assert f"```toml\n{group}\n{entry}\n```" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_keys_in_the_contributing_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        (ROOT / "CONTRIBUTING.md")
        .read_text(encoding="utf-8")
        .replace("click_encoder Ring", "click_encoder Disk")
        .replace("width: ", "radius: ")
    )
    commands = [
        line for line in text.replace("SideBySide", "Folder").splitlines() if line.startswith("dct-seg fit ")
    ]
    assert len(commands) == 3
    for command in commands:
        args = [str(ROOT / a) if a.startswith("configs/") else a for a in shlex.split(command)[1:]]
        with pytest.raises(SystemExit) as left:
            main([*args, "--print_config"])
        assert left.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        ".pre-commit-config.yaml",
        ".github/workflows/ci.yml",
        *(f".github/ISSUE_TEMPLATE/{n}.yml" for n in ("bug", "idea")),
    ],
)
def test_configuration_of_other_tools_is_well_formed(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    if "ISSUE_TEMPLATE" in path:
        ids = [part["id"] for part in content["body"]]
        assert len(ids) == len(set(ids))
        assert {"name", "description", "body"} <= set(content)
    for script in re.findall(r"bash (\S+)", text):
        assert (ROOT / script).is_file()


def test_the_readme_on_pypi_has_no_relative_link() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"][
        "hooks"
    ]
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\]\((?!https?:)", shown)
    for rule in hooks["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    assert not re.search(r"\]\((?!https?:)", shown)
    assert "training with Lightning (`docs/lightning.md` in the source archive)" in shown


def test_every_package_that_is_imported_is_declared() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for module, package in {
        "yaml": "pyyaml",
        "huggingface_hub": "huggingface_hub",
        "torchvision": "torchvision",
    }.items():
        users = [
            p
            for p in (ROOT / "src").rglob("*.py")
            if re.search(rf"^\s*(?:import|from) {module}\b", p.read_text(), re.M)
        ]
        assert users, f"{package} is declared and not imported"
        assert re.search(rf'^  "{package}>=', project, re.MULTILINE)


def test_the_required_torch_has_no_known_bypass_of_weights_only() -> None:
    found = re.search(r'"torch>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found
    assert (int(found[1]), int(found[2])) >= (2, 10)  # CVE-2025-32434 below 2.6, CVE-2026-24747 below 2.10


def test_the_parser_is_bounded_below_the_version_that_breaks_lightning() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'"jsonargparse\[signatures\]>=4\.\d+,<5"', project)


@pytest.mark.parametrize("document", ["README.md", "docs/lightning.md", "docs/get_started/quickstart.md"])
def test_documents_warn_that_a_configuration_can_run_code(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "configuration can run code" in " ".join(text.split())


@pytest.mark.parametrize(
    "row",
    [
        r"feature_dct_input: fused \| image",
        "a factor 1 + offset, which may become negative",
        "the three coarsest of the backbone",
        "truncated at 255 pixels",
        "`min_sigma`",
        "weights that start at zero",
        "`frozen_batch_norm`",
        "smooth L1 of the logarithm of the radius, weight 1",
        "brightness, contrast, saturation up to 30 %, hue 5 %",
        "`drag_share`",
        "`first_reach`, `look_again`, `zoom_in`",
    ],
)
def test_differences_from_the_paper_name(row: str) -> None:
    assert row in (ROOT / "docs/differences.md").read_text(encoding="utf-8")


def test_the_example_in_the_lightning_page_runs() -> None:
    (snippet,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/lightning.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict[str, object] = {}
    exec(snippet, names)
    assert "val/drag/AuC" in names["trainer"].callback_metrics  # type: ignore[attr-defined]
