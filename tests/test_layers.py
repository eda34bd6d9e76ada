"""The layers: imports point down only, files stay short, and prediction works without Lightning."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dct_seg

ROOT = Path(dct_seg.__file__).parent
PACKAGE = ROOT.name
MAX_LINES = 500

LAYERS = [  # a module or subpackage may import those above it in this list
    {"arguments", "ranges", "registry", "clicks", "files", "processor", "rle", "signals", "web"},
    {"click_encoders", "click_radii", "simulation", "metrics", "drawing", "prediction", "configurations"},
    {"models"},
    {"interaction", "data", "prompts", "session"},
    {"training", "methods", "predictor"},
    {"benchmark", "export", "adapters", "app", "sweep", "task", "callbacks", "weight_averaging"},
    {"cli"},
    {"__main__"},
]
NEIGHBORS = {
    ("predictor", "methods"),
    ("sweep", "benchmark"),
    ("app", "export"),
    ("adapters", "export"),
}
"""Pairs in one layer of which the first may import the second."""

HOMES = {
    "lightning": {"data", "training"},
    "albumentations": {"data"},
    "timm": {"models", "export"},
}
"""Packages that only some parts may import."""


def module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports at any depth, functions included; what only a type checker sees is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from import_nodes(ast.Module([other], []))
        else:
            yield from import_nodes(child)


def imported(source: str) -> set[str]:
    """Dotted names of the modules that a file imports.

    Of this package the modules, of others the whole name.
    """
    names = set()
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, "imports are absolute"
        assert node.module is not None
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            names.add(inner if inner in MODULES else node.module)
    return names


@cache
def imports_of(name: str) -> frozenset[str]:
    return frozenset(imported(MODULES[name].read_text()))


def part(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def layer(name: str) -> int:
    found = [level for level, parts in enumerate(LAYERS) if part(name) in parts]
    assert found, f"{name} is in no layer; add its top-level part to LAYERS"
    return found[0]


def inside(names: frozenset[str]) -> set[str]:
    return {name for name in names if name in MODULES and name != PACKAGE}


def reachable(start: str) -> set[str]:
    """All modules that come along with one, its packages' __init__ included."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        parents = [".".join(name.split(".")[:depth]) for depth in range(2, name.count(".") + 1)]
        todo += [*inside(imports_of(name)), *parents]
    return seen


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("import torch.nn as nn", {"torch.nn"}),
        ("def f():\n    if x:\n        from dct_seg.clicks import Click", {"dct_seg.clicks"}),
        ("from dct_seg.models import pretrained", {"dct_seg.models.pretrained"}),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lightning\nelse:\n    import "
            "numpy",
            {"typing", "numpy"},
        ),
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}),
    ],
)
def test_imports_are_read_at_any_depth_except_those_for_type_checkers(source: str, wanted: set[str]) -> None:
    assert imported(source) == wanted


@pytest.mark.parametrize("name", [name for name in MODULES if name != PACKAGE])
def test_imports_point_down_only(name: str) -> None:
    for other in inside(imports_of(name)):
        allowed = (
            part(other) == part(name) or layer(other) < layer(name) or (part(name), part(other)) in NEIGHBORS
        )
        assert allowed, f"{name} (layer {layer(name)}) imports {other} (layer {layer(other)})"


def test_package_itself_imports_none_of_its_modules() -> None:
    assert inside(imports_of(PACKAGE)) == set()


def test_command_line_is_imported_by_nothing() -> None:
    assert [
        name for name in MODULES if part(name) != "__main__" and f"{PACKAGE}.cli" in imports_of(name)
    ] == []


def test_modules_have_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in inside(imports_of(name)):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("package", HOMES)
def test_package_is_imported_only_where_allowed(package: str) -> None:
    users = {part(name) for name in MODULES for other in imports_of(name) if other.split(".")[0] == package}
    assert users <= HOMES[package]


@pytest.mark.parametrize(
    "start",
    ["predictor", "methods", "interaction", "models.dct_net", "simulation", "metrics", "training.losses"],
)
def test_prediction_code_never_imports_lightning(start: str) -> None:
    for name in reachable(f"{PACKAGE}.{start}"):
        assert not {other.split(".")[0] for other in imports_of(name)} & {"lightning", "pytorch_lightning"}, (
            name
        )


def test_click_prediction_and_methods_import_only_what_they_need() -> None:
    code = """
import sys
from dct_seg import Click
print([m for m in ("timm", "lightning", "cv2", "torchmetrics") if m in sys.modules])
import numpy as np
from dct_seg import DCTNet, Predictor
from dct_seg.models.config import DCTNetConfig
config = DCTNetConfig(backbone="resnet18", backbone_weights="none", decoder_stride=8, decoder_width=16)
predictor = Predictor(DCTNet(config))
predictor.set_image(np.zeros((32, 40, 3), np.uint8))
assert predictor.predict([Click(row=5, col=6, positive=True, radius=None)]).mask.shape == (32, 40)
heavy = ["lightning", "pytorch_lightning", "albumentations", "matplotlib", "torchmetrics"]
extras = ["ortools", "skimage", "sklearn", "onnxruntime"]
import dct_seg.methods
print([m for m in heavy + extras if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n[]\n", done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_file_has_at_most_500_lines(name: str) -> None:
    lines = MODULES[name].read_text().count("\n")
    assert lines <= MAX_LINES, f"{name} has {lines} lines; split it by noun"


def test_no_module_has_a_catch_all_name() -> None:
    assert not {Path(path).stem for path in MODULES.values()} & {
        "utils",
        "types",
        "constants",
        "engine",
        "helpers",
        "common",
        "misc",
    }


def test_annotator_names_no_method_except_in_its_command() -> None:
    users = {
        name
        for name in MODULES
        if part(name) == "app"
        for other in imports_of(name)
        if other.startswith(f"{PACKAGE}.methods.") and other.split(".")[2] not in ("base", "views")
    }
    assert users <= {f"{PACKAGE}.app.command", f"{PACKAGE}.app.predict_command"}
