"""The registry: an unknown name is reported with the known ones; other packages add their own."""

import re
from pathlib import Path

import pytest
from networks import write_plugin

from dct_seg.click_encoders import CLICK_ENCODERS
from dct_seg.registry import Registry

GROUP = "dct_seg.test_shapes"


@pytest.fixture
def shapes() -> Registry[type]:
    registry: Registry[type] = Registry("shape", group=GROUP)
    registry.register("Disk")(int)
    registry.register("Ring")(float)
    return registry


def test_unknown_encoder_is_reported_with_the_nearest_and_all_known() -> None:
    known = ", ".join(CLICK_ENCODERS.names())
    wanted = f"unknown click encoder 'Gausian'; did you mean 'Gaussian'? known: {known}"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        CLICK_ENCODERS.get("Gausian")


def test_name_in_the_wrong_case_is_recognized(shapes: Registry[type]) -> None:
    with pytest.raises(ValueError, match=r"unknown shape 'RING'; did you mean 'Ring'\? known: Disk, Ring"):
        shapes.get("RING")


def test_name_like_no_other_gets_no_suggestion(shapes: Registry[type]) -> None:
    with pytest.raises(ValueError, match=r"^unknown shape 'xyzzy'; known: Disk, Ring$"):
        shapes.get("xyzzy")


def test_empty_registry_reports_that_nothing_is_known() -> None:
    with pytest.raises(ValueError, match=r"^unknown model 'a'; known: none$"):
        Registry("model").get("a")


def test_names_are_sorted_and_can_be_looked_up(shapes: Registry[type]) -> None:
    assert shapes.names() == list(shapes) == ["Disk", "Ring"]
    assert "Disk" in shapes
    assert "Disc" not in shapes


def test_class_is_registered_under_its_own_name() -> None:
    registry: Registry[type] = Registry("shape")

    @registry.register()
    class Square: ...

    assert registry.get("Square") is Square


def test_taken_name_is_refused_unless_it_is_the_same_thing(shapes: Registry[type]) -> None:
    shapes.register("Disk")(int)
    with pytest.raises(ValueError, match="shape 'Disk' is already registered; give the new one another name"):
        shapes.register("Disk")(str)


def test_another_package_adds_a_name_by_an_entry_point(
    shapes: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, group=GROUP, name="Star", code="class Star: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert shapes.names() == ["Disk", "Ring", "Star"]
    assert shapes.get("Star").__module__ == "star_plugin"


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("Comet", "import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("Disk", "Disk = str\n", "already registered"),
    ],
)
def test_broken_plugin_is_skipped_with_a_warning_and_the_rest_works(
    name: str, code: str, reason: str, shapes: Registry[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, group=GROUP, name=name, code=code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=rf"shape '{name}' of {name.lower()}_plugin is skipped: .*{reason}"):
        assert shapes.get("Disk") is int
    assert shapes.names() == ["Disk", "Ring"]
