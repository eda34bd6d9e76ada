"""Fail unless each adapter of the installed package gives the masks of its predictor.

Run by check_commands.sh outside the source tree. Arguments are weights or export folders to try (dct-lite0).
Servers are started as commands and queried over HTTP.
"""

import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from cvat_sdk.masks import decode_mask
from matplotlib.cbook import get_sample_data
from napari.components import ViewerModel
from napari.utils import interactions
from napari.utils._proxies import ReadOnlyWrapper
from npe2 import PluginManager
from PIL import Image

import dct_seg
from dct_seg import Click, Predictor, rle
from dct_seg.adapters import cvat, cvat_nuclio
from dct_seg.adapters.napari_tool import ClickTool, _camera

ROW, COL, RADIUS = 300, 260, 100
CONFIG = """<View>
  <Image name="image" value="$image_url"/>
  <BrushLabels name="mask" toName="image"><Label value="person"/></BrushLabels>
  <EllipseLabels name="drag" toName="image" smart="true"><Label value="person"/></EllipseLabels>
</View>"""

SOURCES = Path(__file__).resolve().parent.parent
assert not Path(dct_seg.__file__).is_relative_to(SOURCES), f"{dct_seg.__file__} is not the installed wheel"
with get_sample_data("grace_hopper.jpg") as file:
    data = file.read()
with get_sample_data("grace_hopper.jpg") as file:
    image = Image.open(file).convert("RGB")
pixels = np.asarray(image)
height, width = pixels.shape[:2]
encoded = base64.b64encode(data).decode()
box = [[COL - RADIUS, ROW - RADIUS], [COL + RADIUS, ROW + RADIUS]]


@contextmanager
def served(command: str, weights: str) -> Iterator[str]:
    """Start a command that serves; yield its address."""
    words = ["dct-seg", command, "--port", "0", "--weights", weights]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield "/".join(url.split("/")[:3])
    finally:
        process.terminate()
        process.wait()


def ask(url: str, body: bytes, kind: str = "application/json") -> Any:
    """Post a request, once the server responds."""
    while not is_up(url):
        time.sleep(0.1)
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind})) as answer:
        return json.load(answer)


def is_up(url: str) -> bool:
    """Whether the server responds, even with an error."""
    try:
        urllib.request.urlopen(url).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def by_serve(weights: str) -> np.ndarray:
    with served("serve", weights) as url:
        image = ask(f"{url}/api/v1/images", data, "image/jpeg")["id"]
        prompt = {"clicks": [{"row": ROW, "col": COL, "radius": RADIUS}]}
        return rle.decode(ask(f"{url}/api/v1/images/{image}/predict", json.dumps(prompt).encode())["mask"])


def by_label_studio(weights: str) -> float:
    across, down = 100 / width, 100 / height
    value = {
        "x": (COL + 0.5) * across,
        "y": (ROW + 0.5) * down,
        "radiusX": RADIUS * across,
        "radiusY": RADIUS * down,
        "ellipselabels": ["person"],
    }
    region = {
        "type": "ellipselabels",
        "original_width": width,
        "original_height": height,
        "value": value,
    }
    task = {"data": {"image_url": f"data:image/jpeg;base64,{encoded}"}}
    asked = {"tasks": [task], "label_config": CONFIG, "params": {"context": {"result": [region]}}}
    with served("label-studio", weights) as url:
        return ask(f"{url}/predict", json.dumps(asked).encode())["results"][0]["score"]


def by_agent(weights: str) -> np.ndarray:
    function = cvat.create(weights)
    frame = function.preprocess_image(None, image)
    prompts = SimpleNamespace(pos_points=[], neg_points=[], bounding_box=box)
    (shape,) = function.detect(None, frame, prompts)
    return decode_mask(shape.points, image_width=width, image_height=height)


def by_nuclio(weights: str) -> np.ndarray:
    interactor = cvat_nuclio.Interactor(cvat_nuclio.Predictors.from_pretrained(weights))
    return np.array(interactor.answer({"image": encoded, "pos_points": [], "obj_bbox": box}), bool)


def by_napari(weights: str) -> np.ndarray:
    viewer = ViewerModel()
    ClickTool(viewer, viewer.add_image(pixels, name="image"), Predictor.from_pretrained(weights))
    _camera(viewer).zoom = 1.0  # a viewer without a window shows a drag as a dot
    for kind, hand_over, col in (
        ("mouse_press", interactions.mouse_press_callbacks, COL),
        ("mouse_move", interactions.mouse_move_callbacks, COL + RADIUS),
        ("mouse_release", interactions.mouse_release_callbacks, COL + RADIUS),
    ):
        place = (float(ROW), float(col))
        event: Any = {"type": kind, "position": place, "pos": place, "button": 1, "modifiers": ()}
        event = SimpleNamespace(**event, is_dragging=True, handled=False)
        hand_over(viewer, ReadOnlyWrapper(event, exceptions=("handled",)))
    return np.asarray(viewer.layers["objects of image"].data > 0)


PluginManager.instance().discover()
assert "dct-seg" in {manifest.name for manifest in PluginManager.instance().iter_manifests()}
for weights in sys.argv[1:] or ["dct-lite0"]:
    predictor = Predictor.from_pretrained(weights)
    predictor.set_image(pixels)
    wanted = predictor.predict([Click(ROW, COL, radius=RADIUS)])
    for adapter in (by_serve, by_agent, by_nuclio, by_napari):
        mask = adapter(weights)
        assert np.array_equal(mask, wanted.mask), (
            f"{adapter.__name__}: {(mask != wanted.mask).mean():.2%} differ"
        )
    score = by_label_studio(weights)
    assert abs(score - wanted.score) < 0.01, (score, wanted.score)
    print(f"{weights}: serve, label-studio, CVAT's agent and function, napari: {wanted.area} pixels each")
