"""The public names: complete, documented, and free until they are used."""

import inspect
import subprocess
import sys
from importlib import import_module

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


def test_public_names_are_the_promised_ones() -> None:
    assert set(dct_seg.__all__) == WANTED
    assert dct_seg.__all__ == sorted(dct_seg.__all__)
    assert set(dir(dct_seg)) == {*WANTED, "__version__"}


@pytest.mark.parametrize("name", sorted(WANTED))
def test_public_name_is_its_home_s_and_says_what_it_is(name: str) -> None:
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
def test_threads_that_wait_sleep_unless_told_otherwise(before: str, policy: str) -> None:
    code = f"import os; name = 'OMP_WAIT_POLICY'; os.environ.pop(name, None); {before or 'pass'}"
    assert run(f"{code}\nimport dct_seg; print(os.environ[name])") == policy


def test_name_brings_only_what_it_needs() -> None:
    code = (
        "import sys; from dct_seg import Click; print([m for m in ('timm', 'lightning', 'cv2', "
        "'torchmetrics') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_star_import_gives_all_names() -> None:
    assert run("from dct_seg import *; print(interact.__name__, Predictor.__name__)") == "interact Predictor"


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert dct_seg.__version__ == version("dct-seg")
