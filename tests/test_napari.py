"""The napari plug-in: gestures in a viewer without a window, the manifest, and the widget in one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from annotator import Discs

from dct_seg import Predictor
from dct_seg.adapters import napari_tool, napari_widget
from dct_seg.adapters.napari_tool import ClickTool

MANIFEST = files("dct_seg.adapters") / "napari.yaml"
HEIGHT, WIDTH = 40, 60


class Mouse:
    """Mouse on a viewer that sends events like napari's canvas."""

    def __init__(self, viewer: Any) -> None:
        from napari.utils import interactions

        self.viewer, self.hand_over = viewer, interactions

    def event(self, kind: str, at: tuple[float, ...], button: int, modifiers: tuple[str, ...]) -> Any:
        return SimpleNamespace(
            type=kind,
            position=at,
            pos=at[-2:],
            button=button,
            modifiers=modifiers,
            is_dragging=True,
            handled=False,
        )

    def drag(
        self,
        *places: tuple[float, ...],
        button: int = 1,
        modifiers: tuple[str, ...] = (),
        seen: Any = lambda: None,
    ) -> list[Any]:
        """Press at the first position, move over the others, release at the last; return each result."""
        from napari.utils._proxies import ReadOnlyWrapper

        found = []

        def wrapped(kind: str, at: tuple[float, ...]) -> Any:
            return ReadOnlyWrapper(self.event(kind, at, button, modifiers), exceptions=("handled",))

        self.hand_over.mouse_press_callbacks(self.viewer, wrapped("mouse_press", places[0]))
        for place in places[1:]:
            self.hand_over.mouse_move_callbacks(self.viewer, wrapped("mouse_move", place))
            found.append(seen())
        self.hand_over.mouse_release_callbacks(self.viewer, wrapped("mouse_release", places[-1]))
        return found


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model of a viewer, with a clock on which nothing takes time."""
    components = pytest.importorskip("napari.components", reason="napari is not installed")
    monkeypatch.setattr(napari_tool.time, "perf_counter", lambda: 0.0)
    return components.ViewerModel()


def make_tool(
    viewer: Any, data: Any = None, *, predictor: Predictor | None = None, **options: Any
) -> tuple[ClickTool, Mouse]:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8) if data is None else data
    image = viewer.add_image(pixels, name="cells", **options)
    napari_tool._camera(viewer).zoom = 2.0
    return ClickTool(viewer, image, predictor or Predictor(Discs())), Mouse(viewer)


def test_label_follows_the_drag_and_stays_after_release(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    sizes = mouse.drag((20, 30), (20, 33), (20, 36), seen=lambda: int((tool.labels.data == 1).sum()))
    assert sizes == [int(disc(20, 30, 3).sum()), int(disc(20, 30, 6).sum())]
    np.testing.assert_array_equal(tool.labels.data == 1, disc(20, 30, 6))
    assert tool.labels.name == "objects of cells"


def test_slow_network_skips_moves_but_never_the_last(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, mouse = make_tool(viewer)
    monkeypatch.setattr(
        napari_tool.time, "perf_counter", iter(range(1000)).__next__
    )  # one second per prediction
    sizes = mouse.drag((20, 30), (20, 33), (20, 36), seen=lambda: int((tool.labels.data == 1).sum()))
    assert sizes == [int(disc(20, 30, 3).sum())] * 2
    np.testing.assert_array_equal(tool.labels.data == 1, disc(20, 30, 6))


def test_click_without_a_drag_gets_its_radius_from_the_method(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    mouse.drag((20, 30), (20, 31))  # two pixels of the screen
    np.testing.assert_array_equal(tool.labels.data == 1, disc(20, 30, 5))


def test_right_button_marks_background(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    mouse.drag((20, 30), (20, 40))
    mouse.drag((20, 36), (20, 40), button=2)
    np.testing.assert_array_equal(tool.labels.data == 1, disc(20, 30, 10) & ~disc(20, 36, 4))


def test_each_object_is_a_label_and_none_is_painted_over(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    mouse.drag((20, 20), (20, 28))
    tool.next_object()
    mouse.drag((20, 30), (20, 38))
    np.testing.assert_array_equal(tool.labels.data == 1, disc(20, 20, 8))
    np.testing.assert_array_equal(tool.labels.data == 2, disc(20, 30, 8) & ~disc(20, 20, 8))
    assert tool.status.startswith("1 objects finished; 1 clicks on the current one")


def test_undo_removes_a_click_and_then_returns_to_the_previous_object(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    mouse.drag((20, 20), (20, 28))
    tool.next_object()
    mouse.drag((20, 50), (20, 55))
    tool.undo()
    np.testing.assert_array_equal(tool.labels.data, disc(20, 20, 8).astype(np.int32))
    tool.undo()  # opens the first object again
    mouse.drag((10, 20), (10, 24))
    np.testing.assert_array_equal(tool.labels.data == 1, disc(20, 20, 8) | disc(10, 20, 4))
    tool.undo()
    tool.undo()
    assert not tool.labels.data.any()
    tool.undo()  # nothing is left, and nothing happens
    assert not tool.labels.data.any()


def test_manual_painting_between_clicks_is_kept(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    mouse.drag((20, 20), (20, 28))
    tool.labels.data[0, :] = 7
    mouse.drag((3, 20), (3, 24))
    assert (tool.labels.data[0] == 7).all()


@pytest.mark.parametrize("modifier", ["Shift", "Control", "Alt"])
def test_drag_with_a_modifier_belongs_to_napari(viewer: Any, modifier: str) -> None:
    tool, mouse = make_tool(viewer)
    mouse.drag((20, 30), (20, 40), modifiers=(modifier,))
    assert not tool.labels.data.any()


def test_view_does_not_move_during_a_drag(viewer: Any) -> None:
    _, mouse = make_tool(viewer)
    camera = napari_tool._camera(viewer)
    assert mouse.drag((20, 30), (20, 40), seen=lambda: camera.mouse_pan) == [False]
    assert camera.mouse_pan is True


def test_paintbrush_of_the_labels_layer_still_works(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    viewer.layers.selection.active = tool.labels
    tool.labels.mode = "paint"
    mouse.drag((20, 30), (20, 40))
    assert not tool.labels.data.any()


def test_press_outside_the_image_has_no_effect(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    mouse.drag((20, 60.6), (20, 40))
    assert not tool.labels.data.any()


def test_closed_tool_no_longer_reacts(viewer: Any) -> None:
    tool, mouse = make_tool(viewer)
    tool.close()
    mouse.drag((20, 30), (20, 40))
    assert not tool.labels.data.any()


def test_scale_and_position_of_the_layer_are_respected(viewer: Any) -> None:
    tool, mouse = make_tool(viewer, scale=(0.5, 0.5), translate=(100, 200))
    mouse.drag((100 + 10, 200 + 15), (100 + 10, 200 + 18))
    np.testing.assert_array_equal(tool.labels.data == 1, disc(20, 30, 6))
    assert tuple(tool.labels.scale) == (0.5, 0.5)


def test_stack_is_segmented_slice_by_slice(viewer: Any) -> None:
    tool, mouse = make_tool(viewer, np.zeros((3, HEIGHT, WIDTH), np.uint16))
    mouse.drag((0, 20, 30), (0, 20, 36))
    mouse.drag((2, 20, 30), (2, 20, 34))
    np.testing.assert_array_equal(tool.labels.data[0], disc(20, 30, 6).astype(np.int32))
    assert not tool.labels.data[1].any()
    np.testing.assert_array_equal(tool.labels.data[2], 2 * disc(20, 30, 4).astype(np.int32))


def test_network_sees_gray_between_the_contrast_limits(viewer: Any) -> None:
    seen = []

    class Looking(Discs):
        def reset(self, image: Any) -> None:
            seen.append(image)
            super().reset(image)

    ramp = np.tile(np.linspace(100, 300, WIDTH), (HEIGHT, 1))
    image = viewer.add_image(ramp, contrast_limits=(100, 200))
    ClickTool(viewer, image, Predictor(Looking()))
    Mouse(viewer).drag((20, 30), (20, 36))
    assert seen[0].shape == (HEIGHT, WIDTH, 3)
    assert (seen[0][0, 0, 0], seen[0][0, -1, 0]) == (0, 255)
    Mouse(viewer).drag((20, 30), (20, 36))
    assert len(seen) == 1
    image.contrast_limits = (100, 300)
    Mouse(viewer).drag((20, 30), (20, 36))
    assert len(seen) == 2
    assert float(seen[1][0, WIDTH // 2, 0]) == pytest.approx(128, abs=3)


def test_layer_that_is_not_an_image_is_refused(viewer: Any) -> None:
    points = viewer.add_points(np.zeros((1, 2)), name="dots")
    with pytest.raises(ValueError, match="layer 'dots' is not an image of two or more dimensions"):
        ClickTool(viewer, points, Predictor(Discs()))


def test_manifest_names_an_existing_function() -> None:
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    assert manifest["name"] == "dct-seg"
    (command,) = manifest["contributions"]["commands"]
    module, name = command["python_name"].split(":")
    assert (module, getattr(napari_widget, name)) == (
        napari_widget.__name__,
        napari_widget.click_segmentation,
    )
    assert [one["command"] for one in manifest["contributions"]["widgets"]] == [command["id"]]


def test_manifest_is_valid_for_npe2() -> None:
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed")
    manifest = npe2.PluginManifest.from_file(str(MANIFEST))
    manifest.validate_imports()
    assert [widget.display_name for widget in manifest.contributions.widgets] == ["Click segmentation"]


def test_without_napari_the_pip_line_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magicgui.widgets", None)
    with pytest.raises(
        ImportError, match=r"^the napari plug-in needs napari; pip install 'dct-seg\[napari\]'$"
    ):
        napari_widget.click_segmentation(None)


WINDOW = """
import numpy as np
from unittest.mock import patch
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
from annotator import Discs
from dct_seg import Predictor
from dct_seg.adapters.napari_tool import _camera
from dct_seg.adapters.napari_widget import click_segmentation
from test_napari import Mouse, disc

app = QApplication([])
viewer = ViewerModel()  # a window's canvas needs OpenGL, which test machines lack
layer = viewer.add_image(np.zeros((40, 60, 3), np.uint8), name="cells")
widget = click_segmentation(viewer)
image, weights, enabled, undo, finish, status = widget
enabled.value = True
assert not enabled.value and status.value == "there is no image layer; open an image first", status.value
image.choices = [layer]
with patch.object(Predictor, "from_pretrained", lambda name: Predictor(Discs())):
    enabled.value = True
labels = viewer.layers["objects of cells"]
_camera(viewer).zoom = 2
Mouse(viewer).drag((20, 20), (20, 28))
assert (labels.data == 1).sum() == disc(20, 20, 8).sum()
finish.changed.emit(True)
Mouse(viewer).drag((20, 45), (20, 50))
assert labels.data.max() == 2
undo.changed.emit(True)
assert labels.data.max() == 1
assert status.value.startswith("1 objects finished; 0 clicks"), status.value
enabled.value = False
Mouse(viewer).drag((20, 45), (20, 50))
assert labels.data.max() == 1
weights.value = "no-such-model"
enabled.value = True
assert not enabled.value and "no-such-model" in status.value, status.value
print("worked")
"""


@pytest.mark.slow
def test_widget_starts_stops_and_undoes_the_tool() -> None:
    pytest.importorskip("napari", reason="napari is not installed")
    pytest.importorskip("qtpy.QtWidgets", reason="no Qt is installed", exc_type=ImportError)
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WINDOW], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip().endswith("worked"), done.stderr[-3000:]
