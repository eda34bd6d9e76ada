"""Every tool that accepts weights also accepts an export folder, with the same results."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exports import Exported
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image
from test_cvat import as_base64
from test_label_studio import CONFIG, decoded

from dct_seg import Click, Predictor, rle
from dct_seg.adapters import serve_command
from dct_seg.adapters.cvat_nuclio import handler, init_context
from dct_seg.cli import main
from dct_seg.methods.dctnet import DCTNetMethod

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
HEIGHT, WIDTH = 40, 60
CLICK = Click(20, 30, radius=8.0)
Mask = NDArray[np.bool_]


class Example:
    """A copy of a network's export, an image, and the mask that the network gives."""

    def __init__(self, exported: Exported, folder: Path) -> None:
        self.folder = folder / "exported"
        shutil.copytree(exported.folder, self.folder)
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.image = Image.fromarray(pixels)
        self.file = folder / "images" / "a.png"
        self.file.parent.mkdir()
        self.image.save(self.file)
        predictor = Predictor(DCTNetMethod(net=exported.net, precision="float32"))
        predictor.set_image(pixels)
        self.mask = predictor.predict([CLICK]).mask
        assert 0.05 < self.mask.mean() < 0.95


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(Exported("early", tmp_path_factory), tmp_path_factory.mktemp("export"))


def client_of(command: Callable[[list[str]], int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the application that a command would serve."""
    apps: list[Any] = []
    monkeypatch.setattr(
        "dct_seg.web.server_socket.serve", lambda app, listener: (apps.append(app), listener.close())
    )
    assert command(["--weights", str(folder), "--port", "0"]) == 0
    return TestClient(apps[0], base_url="http://127.0.0.1:8766")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def by_serve(exported: Example, monkeypatch: pytest.MonkeyPatch, out: Path) -> Mask:
    client = client_of(serve_command.main, exported.folder, monkeypatch)
    content = {"content": png(exported.image), "headers": {"content-type": "image/png"}}
    number = client.post("/api/v1/images", **content).json()["id"]
    click = {"row": CLICK.row, "col": CLICK.col, "radius": CLICK.radius}
    answer = client.post(f"/api/v1/images/{number}/predict", json={"clicks": [click]})
    return rle.decode(answer.json()["mask"])


def by_label_studio(exported: Example, monkeypatch: pytest.MonkeyPatch, out: Path) -> Mask:
    client = client_of(serve_command.label_studio, exported.folder, monkeypatch)
    value = {
        "x": 100 * 30.5 / WIDTH,
        "y": 100 * 20.5 / HEIGHT,
        "radiusX": 100 * 8 / WIDTH,
        "radiusY": 100 * 8 / HEIGHT,
        "ellipselabels": ["Cat"],
    }
    region = {"type": "ellipselabels", "original_width": WIDTH, "original_height": HEIGHT, "value": value}
    task = {"data": {"image_url": f"data:image/png;base64,{as_base64(exported.image)}"}}
    asked = {"tasks": [task], "label_config": CONFIG, "params": {"context": {"result": [region]}}}
    answer = client.post("/predict", json=asked).json()
    return decoded(answer["results"][0]["result"][0]["value"]["rle"])[..., 3] > 0


def by_cvat_agent(exported: Example, monkeypatch: pytest.MonkeyPatch, out: Path) -> Mask:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
    from cvat_sdk.masks import decode_mask

    from dct_seg.adapters.cvat import create

    function = create(str(exported.folder))
    frame = function.preprocess_image(None, exported.image)
    prompts = SimpleNamespace(pos_points=[], neg_points=[], bounding_box=((22, 12), (38, 28)))
    (shape,) = function.detect(None, frame, prompts)
    return decode_mask(shape.points, image_width=WIDTH, image_height=HEIGHT)


def by_nuclio(exported: Example, monkeypatch: pytest.MonkeyPatch, out: Path) -> Mask:
    monkeypatch.setenv("DCT_SEG_WEIGHTS", str(exported.folder))
    context = SimpleNamespace(
        user_data=SimpleNamespace(), Response=lambda **fields: SimpleNamespace(**fields)
    )
    init_context(context)
    body = {"image": as_base64(exported.image), "pos_points": [], "obj_bbox": [[22, 12], [38, 28]]}
    answer = handler(context, SimpleNamespace(body=json.dumps(body)))
    return np.array(json.loads(answer.body)["mask"], bool)


def by_napari(exported: Example, monkeypatch: pytest.MonkeyPatch, out: Path) -> Mask:
    pytest.importorskip("napari", reason="napari is not installed")
    from test_napari import Mouse, make_tool

    from dct_seg.adapters import napari_tool

    viewer = pytest.importorskip("napari.components").ViewerModel()
    _, mouse = make_tool(
        viewer, np.asarray(exported.image), predictor=Predictor.from_pretrained(exported.folder)
    )
    monkeypatch.setattr(napari_tool.time, "perf_counter", lambda: 0.0)
    assert isinstance(mouse, Mouse)
    mouse.drag((20, 30), (20, 38))
    return np.asarray(viewer.layers["objects of cells"].data > 0)


def by_predict(exported: Example, monkeypatch: pytest.MonkeyPatch, out: Path) -> Mask:
    words = ["--click", "20,30,8", "--weights", str(exported.folder), "--out", str(out)]
    assert main(["predict", str(exported.file), *words]) == 0
    return np.asarray(Image.open(out / "masks" / "a.png")) > 0


def by_annotate(exported: Example, monkeypatch: pytest.MonkeyPatch, out: Path) -> Mask:
    from annotator import Page

    from dct_seg.app import exports
    from dct_seg.app.command import _method

    make_method, card = _method(str(exported.folder))
    assert card.name == "exported"
    page = Page(exported.file.parent, make_method)
    page.click(CLICK.row, CLICK.col, CLICK.radius)
    page.finish()
    ((found,),) = ([one.rle for one in image.objects] for image in exports.exported_images(page.project))
    page.project.close()
    return rle.decode(found)


TOOLS = [by_serve, by_label_studio, by_cvat_agent, by_nuclio, by_napari, by_predict, by_annotate]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_tool_gives_equal_results_with_an_export_and_the_network(
    tool: Any, exported: Example, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mask = tool(exported, monkeypatch, tmp_path / "out")
    assert mask.shape == exported.mask.shape
    assert (mask != exported.mask).mean() < 0.001


def test_predictions_are_repeated_after_a_new_export(
    exported: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    whole = DCTNetMethod.answer
    monkeypatch.setattr(DCTNetMethod, "answer", lambda self, *a: (seen.append(1), whole(self, *a))[1])
    for calls in (1, 1, 2):
        if calls == 2:
            os.utime(exported.folder / "network.onnx", (0, 0))
        by_predict(exported, monkeypatch, tmp_path / "out")
        assert len(seen) == calls
