"""Dock widget of the napari plug-in, declared in ``napari.yaml``."""

from __future__ import annotations

from typing import Any

from dct_seg.adapters.napari_tool import ClickTool
from dct_seg.models.pretrained import DEFAULT
from dct_seg.predictor import Predictor

KEYS = {"Return": "next_object", "Backspace": "undo"}
HELP = (
    "Press on an object, drag to its edge. Right button: background. "
    "Return: next object. Backspace: undo. Shift-drag moves the view."
)


def click_segmentation(napari_viewer: Any) -> Any:
    """Make the widget, a magicgui container.

    Args:
        napari_viewer: Viewer; napari requires this argument name.

    Raises:
        ImportError: Without napari.
    """
    try:
        from magicgui.widgets import CheckBox, Container, Label, LineEdit, PushButton, create_widget
    except ImportError as error:
        raise ImportError("the napari plug-in needs napari; pip install 'dct-seg[napari]'") from error

    image = create_widget(annotation="napari.layers.Image", label="image")
    weights = LineEdit(
        value=DEFAULT, label="weights", tooltip="A shipped name, a file of weights, or an export folder"
    )
    enabled = CheckBox(value=False, text="segment by click and drag")
    finish = PushButton(text="Next object")
    undo = PushButton(text="Undo")
    status = Label(value=HELP)
    tools: list[ClickTool] = []
    predictors: dict[str, Predictor] = {}

    def show() -> None:
        status.value = tools[0].status if tools else HELP

    def call(name: str) -> None:
        if tools:
            getattr(tools[0], name)()

    def start() -> None:
        if image.value is None:
            raise ValueError("there is no image layer; open an image first")
        if weights.value not in predictors:
            predictors[weights.value] = Predictor.from_pretrained(weights.value)
        tools.append(ClickTool(napari_viewer, image.value, predictors[weights.value], changed=show))
        for key, name in KEYS.items():
            napari_viewer.bind_key(key, lambda viewer, name=name: call(name), overwrite=True)

    def stop() -> None:
        for tool in tools:
            tool.next_object()
            tool.close()
            for key in KEYS:
                napari_viewer.bind_key(key, None, overwrite=True)
        tools.clear()

    def toggle(on: bool) -> None:
        stop()
        if on:
            try:
                start()
            except (ValueError, OSError, ImportError) as error:
                enabled.value = False
                status.value = str(error)
                return
        show()

    enabled.changed.connect(toggle)
    image.changed.connect(lambda: toggle(False) if not enabled.value else setattr(enabled, "value", False))
    finish.changed.connect(lambda: call("next_object"))
    undo.changed.connect(lambda: call("undo"))
    return Container(widgets=[image, weights, enabled, undo, finish, status], name="click segmentation")
