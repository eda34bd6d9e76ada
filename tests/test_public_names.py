"""The public names: complete, documented, and loaded only when used."""

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dct_seg

WANTED = {
    "AutoDragHead",
    "Click",
    "ClickBatch",
    "ClickEncoder",
    "ClickSimulatorDataModule",
    "DCTNet",
    "DCTNetConfig",
    "FeatureDCT",
    "InteractiveDataset",
    "InteractiveNetwork",
    "InteractiveSegmentationTask",
    "Method",
    "NumberOfClicks",
    "Predictor",
    "SimulatedUser",
    "first_click",
    "interact",
    "next_click",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names_are_the_documented_ones() -> None:
    assert set(dct_seg.__all__) == WANTED
    assert dct_seg.__all__ == sorted(dct_seg.__all__)
    assert set(dir(dct_seg)) == {*WANTED, "__version__"}


@pytest.mark.parametrize("name", sorted(WANTED))
def test_public_name_is_imported_from_its_module_and_documented(name: str) -> None:
    thing = getattr(dct_seg, name)
    assert getattr(import_module(thing.__module__), name) is thing
    assert thing.__name__ == name
    assert inspect.getdoc(thing), f"{name} has no docstring"
    assert thing.__doc__.strip().splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", sorted(WANTED))
def test_public_methods_are_documented(name: str) -> None:
    thing = getattr(dct_seg, name)
    if inspect.isclass(thing):
        mine = {
            k: v
            for k, v in vars(thing).items()
            if not k.startswith("_") and (inspect.isroutine(v) or isinstance(v, property))
        }
        assert [k for k in mine if not inspect.getdoc(getattr(thing, k))] == []


DOCUMENTED = sorted(
    {
        name
        for page in (Path(__file__).parents[1] / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
)
"""Modules, classes and functions in the API pages of the documentation."""


def documented_things(dotted: str) -> dict[str, object]:
    """Classes and functions of a documented name: itself, or the public ones that a module defines."""
    thing = pkgutil.resolve_name(dotted)
    if inspect.ismodule(thing):
        return {
            f"{dotted}.{name}": one
            for name, one in vars(thing).items()
            if not name.startswith("_") and getattr(one, "__module__", "") == dotted and callable(one)
        }
    return {dotted: thing} if inspect.isclass(thing) or inspect.isfunction(thing) else {}


@pytest.mark.parametrize("dotted", [*(f"dct_seg.{name}" for name in sorted(WANTED)), *DOCUMENTED])
def test_public_name_has_an_example_that_doctest_runs(dotted: str) -> None:
    lacking = [
        name
        for name, thing in documented_things(dotted).items()
        if not re.search(r"^\s*Examples:\n\s*>>> ", thing.__doc__ or "", flags=re.MULTILINE)
    ]
    assert lacking == []


FORMER_PLACES = {"callbacks.py", "task.py", "weight_averaging.py"}
"""Modules of old import paths, which configurations and checkpoints may name."""


def reexported(source: str) -> set[str]:
    """Names of ``__all__`` that the module imports from elsewhere."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    listed = [
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    ]
    return imported & set(listed)


def test_each_name_is_reexported_in_one_place() -> None:
    root = Path(dct_seg.__file__).parent
    places: dict[str, list[str]] = {name: ["__init__.py"] for name in WANTED}
    for path in sorted(root.rglob("*.py")):
        where = str(path.relative_to(root))
        if where not in {"__init__.py", *FORMER_PLACES}:
            for name in reexported(path.read_text(encoding="utf-8")):
                places.setdefault(name, []).append(where)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_name_that_is_imported_and_listed_is_reexported() -> None:
    source = "from a import B, C\n__all__ = ['B', 'D']\ndef D(): ..."
    assert reexported(source) == {"B"}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dct_seg' has no attribute 'Predicter'"):
        dct_seg.Predicter  # noqa: B018
    assert not hasattr(dct_seg, "Predicter")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, dct_seg; print([m for m in ('torch', 'numpy', 'timm', 'lightning', 'cv2') if m in "
        "sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize(("before", "policy"), [("", "PASSIVE"), ("os.environ[name] = 'ACTIVE'", "ACTIVE")])
def test_waiting_threads_sleep_unless_set_otherwise(before: str, policy: str) -> None:
    code = f"import os; name = 'OMP_WAIT_POLICY'; os.environ.pop(name, None); {before or 'pass'}"
    assert run(f"{code}\nimport dct_seg; print(os.environ[name])") == policy


@pytest.mark.slow
def test_star_import_gives_all_names() -> None:
    assert run("from dct_seg import *; print(interact.__name__, Predictor.__name__)") == "interact Predictor"


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert dct_seg.__version__ == version("dct-seg")
