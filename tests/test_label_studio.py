"""The Label Studio backend: requests as Label Studio sends them, masks that its converter reads back."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
from annotator import Discs
from fastapi.testclient import TestClient
from PIL import Image

from dct_seg import Predictor
from dct_seg.adapters import brush_rle
from dct_seg.adapters.label_studio import create_app
from dct_seg.adapters.predictors import Predictors
from dct_seg.adapters.task_images import TaskImages
from dct_seg.cli import main
from dct_seg.web.request_checks import LOOPBACK

HEIGHT, WIDTH = 40, 60
CONFIG = """
<View>
  <Image name="image" value="$image_url" zoom="true"/>
  <BrushLabels name="mask" toName="image"><Label value="cat"/><Label value="dog"/></BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="cat"/><Label value="dog"/>
  </KeyPointLabels>
  <EllipseLabels name="drag" toName="image" smart="true">
    <Label value="cat"/><Label value="dog"/>
  </EllipseLabels>
</View>
"""


def png() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGE = "data:image/png;base64," + base64.b64encode(png()).decode()


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


def region(kind: str, label: str = "cat", **value: Any) -> dict[str, Any]:
    """A region as a smart tool of Label Studio serializes it; places in percent."""
    positive = {"is_positive": value.pop("positive", True)} if kind == "keypointlabels" else {}
    return {
        "id": "fBWv1t0S2L",
        "type": kind,
        "from_name": "click" if kind == "keypointlabels" else "drag",
        "to_name": "image",
        "origin": "manual",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        **positive,
        "value": {"rotation": 0, "labels": [label], kind: [label], **value},
    }


def keypoint(row: float, col: float, label: str = "cat", *, positive: bool = True) -> dict[str, Any]:
    return region(
        "keypointlabels", label, x=100 * col / WIDTH, y=100 * row / HEIGHT, width=0.32, positive=positive
    )


def ellipse(row: float, col: float, high: float, wide: float, label: str = "cat") -> dict[str, Any]:
    place = {"x": 100 * col / WIDTH, "y": 100 * row / HEIGHT}
    return region("ellipselabels", label, **place, radiusX=100 * wide / WIDTH, radiusY=100 * high / HEIGHT)


def request_of(*regions: dict[str, Any], image: Any = IMAGE, **fields: Any) -> dict[str, Any]:
    """The body of ``/predict`` as Label Studio's server posts it."""
    return {
        "tasks": [{"id": 7, "data": {"image_url": image}, "annotations": [], "predictions": []}],
        "model_version": "discs",
        "project": "3.1764000000",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": {"result": list(regions)}},
        **fields,
    }


def client_of(images: TaskImages | None = None, **options: Any) -> TestClient:
    app = create_app(
        Predictors(lambda: Predictor(Discs())),
        images or TaskImages(),
        weights="discs",
        **{"hosts": LOOPBACK, **options},
    )
    return TestClient(app, base_url="http://127.0.0.1:9090", raise_server_exceptions=False)


def decoded(rle: list[int]) -> np.ndarray:
    """Independent decoder of the bit stream, written from its description, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        is_run, length = read(1), 0
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == number
    return np.array(values).reshape(HEIGHT, WIDTH, 4)


def masks_of(answer: Any) -> dict[str, np.ndarray]:
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["results"]
    found = {}
    for one in prediction["result"]:
        assert (one["type"], one["from_name"], one["to_name"]) == ("brushlabels", "mask", "image")
        assert (one["original_width"], one["original_height"]) == (WIDTH, HEIGHT)
        assert one["value"]["format"] == "rle"
        channels = decoded(one["value"]["rle"])
        assert set(np.unique(channels)) <= {0, 255}
        assert (channels == channels[..., :1]).all()
        found[one["value"]["brushlabels"][0]] = channels[..., 3] > 0
    return found


# the encoding


@pytest.mark.parametrize("kind", ["noise", "empty", "full", "disc"])
def test_brush_mask_is_read_back_by_label_studios_own_converter(kind: str) -> None:
    mask = {
        "noise": np.random.default_rng(1).random((HEIGHT, WIDTH)) > 0.5,
        "empty": np.zeros((HEIGHT, WIDTH), bool),
        "full": np.ones((HEIGHT, WIDTH), bool),
        "disc": disc(20, 30, 11),
    }[kind]
    encoded = brush_rle.encode(mask)
    np.testing.assert_array_equal(decoded(encoded)[..., 0] > 0, mask)
    brush = pytest.importorskip(
        "label_studio_converter.brush", reason="label-studio-converter is not installed"
    )
    np.testing.assert_array_equal(brush.decode_rle(encoded).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0, mask)


def test_run_longer_than_the_maximum_length_is_split_into_chunks() -> None:
    encoded = brush_rle.encode(np.ones((200, 300), bool))
    assert len(encoded) < 30
    assert int.from_bytes(encoded[:4], "big") == 200 * 300 * 4


# predictions


def test_keypoint_is_a_click_and_returns_a_brush_mask() -> None:
    (found,) = masks_of(client_of().post("/predict", json=request_of(keypoint(20, 30)))).values()
    np.testing.assert_array_equal(found, disc(20, 30, 5))


def test_ellipse_is_a_drag_from_its_center_along_its_shorter_half_axis() -> None:
    (found,) = masks_of(client_of().post("/predict", json=request_of(ellipse(20, 30, 8, 12)))).values()
    np.testing.assert_array_equal(found, disc(20, 30, 8))


def test_regions_are_replayed_in_drawing_order() -> None:
    gestures = ellipse(20, 30, 10, 10), keypoint(20, 34, positive=False), keypoint(20, 36)
    (found,) = masks_of(client_of().post("/predict", json=request_of(*gestures))).values()
    assert found[20, 36]
    assert not found[20, 30]
    assert found[20, 22]


def test_rectangle_is_a_drag_to_its_nearest_side() -> None:
    place = {"x": 100 * 10 / WIDTH, "y": 100 * 10 / HEIGHT, "width": 100 * 20 / WIDTH, "height": 40.0}
    (found,) = masks_of(
        client_of().post("/predict", json=request_of(region("rectanglelabels", **place)))
    ).values()
    np.testing.assert_array_equal(found, disc(18, 20, 8))


def test_each_label_is_a_separate_object() -> None:
    gestures = ellipse(20, 15, 6, 6), ellipse(20, 45, 7, 7, "dog"), keypoint(20, 18, positive=False)
    found = masks_of(client_of().post("/predict", json=request_of(*gestures)))
    assert set(found) == {"cat", "dog"}
    np.testing.assert_array_equal(found["dog"], disc(20, 45, 7))
    assert not found["cat"][20, 18]


@pytest.mark.parametrize(
    "params", [{}, {"context": None}, {"context": {}}, {"context": {"result": []}}, {"login": None}]
)
def test_request_without_a_gesture_has_no_predictions(params: dict[str, Any]) -> None:
    answer = client_of().post("/predict", json=request_of(params=params))
    assert (answer.status_code, answer.json()["results"]) == (200, [])


def test_negative_point_alone_finds_nothing() -> None:
    answer = client_of().post("/predict", json=request_of(keypoint(20, 30, positive=False)))
    assert answer.json()["results"] == []


def test_health_setup_and_webhook_respond_as_label_studio_expects() -> None:
    client = client_of()
    for path in ("/", "/health"):
        assert client.get(path).json() == {"status": "UP", "model_class": "DCTNet"}
    setup = {
        "project": "3.1764",
        "schema": CONFIG,
        "hostname": "http://ls",
        "access_token": "x",
        "extra_params": None,
    }
    assert client.post("/setup", json=setup).json()["model_version"].startswith("discs (dct-seg ")
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 3}, "annotation": {}}
    assert client.post("/webhook", json=event).json()["status"] == "ok"


# sources of the images


class Stand(BaseHTTPRequestHandler):
    """Mock of Label Studio that serves one upload to requests with a token."""

    def do_GET(self) -> None:
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "http://evil.example/secret.png")
            self.end_headers()
            return
        allowed = self.headers.get("Authorization") in ("Token legacy", "Bearer short-lived")
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(png() if allowed else b"")

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_right = self.path == "/api/token/refresh" and given == {"refresh": "a.b.c"}
        self.send_response(200 if is_right else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"access": "short-lived"}).encode() if is_right else b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stand() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Stand)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("key", ["legacy", "a.b.c"], ids=["legacy token", "personal access token"])
def test_upload_is_fetched_from_label_studio_with_its_token(stand: str, key: str) -> None:
    client = client_of(TaskImages(stand, key))
    for image in ("/data/upload/3/photo.png", f"{stand}/data/upload/3/photo.png"):
        found = masks_of(client.post("/predict", json=request_of(keypoint(20, 30), image=image)))
        np.testing.assert_array_equal(found["cat"], disc(20, 30, 5))


@pytest.mark.parametrize(
    ("key", "image", "message"),
    [
        ("", "/data/upload/3/photo.png", "returned status 401; set LABEL_STUDIO_API_KEY"),
        ("x.y.z", "/data/upload/3/photo.png", "Label Studio rejected LABEL_STUDIO_API_KEY"),
        (
            "legacy",
            "/elsewhere",
            "images from 'evil.example' are not allowed; to allow them, start with --allow-host evil.example",
        ),
        ("legacy", "http://169.254.169.254/latest", "images from '169.254.169.254' are not allowed"),
        (
            "legacy",
            "s3://bucket/photo.png",
            "s3://bucket/photo.png cannot be read here; turn on pre-signed URLs",
        ),
        ("legacy", "file:///etc/passwd", "file:///etc/passwd cannot be read here"),
        ("legacy", "data:image/png;base64,@@", "the image's data: address must be base64"),
        ("legacy", "data:image/png;base64,bm9uc2Vuc2U=", "the image cannot be decoded"),
    ],
)
def test_image_that_must_not_or_cannot_be_fetched_gets_one_line(
    stand: str, key: str, image: str, message: str
) -> None:
    client = client_of(TaskImages(stand, key))
    answer = client.post("/predict", json=request_of(keypoint(20, 30), image=image))
    assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text


def test_path_of_label_studio_needs_its_address() -> None:
    answer = client_of().post("/predict", json=request_of(keypoint(20, 30), image="/data/upload/1.png"))
    assert "set LABEL_STUDIO_URL to its address" in answer.json()["error"]


def test_invalid_address_is_reported_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "localhost:8080")
    assert main(["label-studio"]) == 2
    assert "LABEL_STUDIO_URL must be http://HOST:PORT, got 'localhost:8080'" in capsys.readouterr().err


# bad requests


def without(tag: str) -> str:
    return "\n".join(line for line in CONFIG.splitlines() if f"<{tag}" not in line)


BAD = [
    ("no JSON", "{", 422, "JSON decode error"),
    ("no tasks", {"label_config": CONFIG}, 422, "tasks: Field required"),
    (
        "two tasks",
        request_of(keypoint(1, 1), tasks=[{"data": {}}, {"data": {}}]),
        400,
        "smart tools work on one task at a time",
    ),
    ("no brush", request_of(keypoint(1, 1), label_config=without("BrushLabels")), 400, "no BrushLabels tag"),
    (
        "no image tag",
        request_of(keypoint(1, 1), label_config=without("Image")),
        400,
        "no Image tag named 'image'",
    ),
    (
        "no XML",
        request_of(keypoint(1, 1), label_config="<View>"),
        400,
        "the labeling configuration must be XML",
    ),
    (
        "entities",
        request_of(keypoint(1, 1), label_config='<!DOCTYPE x [<!ENTITY a "b">]><View/>'),
        400,
        "must not have a DOCTYPE",
    ),
    (
        "no image in the task",
        request_of(keypoint(1, 1), tasks=[{"data": {}}]),
        400,
        "the task's data has no field 'image_url'",
    ),
    (
        "a polygon",
        request_of(region("polygonlabels", x=1, y=1)),
        400,
        "type polygonlabels is not a click; use smart",
    ),
    (
        "no label",
        request_of({**keypoint(1, 1), "value": {"x": 1, "y": 1}}),
        400,
        "has no label; select a label",
    ),
    ("a point outside", request_of(keypoint(1, 70)), 400, "lies outside the image of 60x40 pixels"),
    ("an ellipse outside", request_of(ellipse(50, 10, 5, 5)), 400, "lies outside the image of 60x40 pixels"),
    ("another size", request_of({**keypoint(1, 1), "original_width": 99}), 400, "Label Studio says 99x40"),
    (
        "text for a place",
        request_of(region("keypointlabels", x="up", y=1)),
        422,
        "value.x: Input should be a valid",
    ),
    ("201 regions", request_of(*[keypoint(1, 1)] * 201), 422, "at most 200 items"),
]


@pytest.mark.parametrize(("body", "status", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_request_gets_one_line(body: Any, status: int, message: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    answer = client_of().post("/predict", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert "\n" not in answer.json()["error"]


def test_token_is_the_password_that_label_studio_sends() -> None:
    client = client_of(token="sesame", hosts=None)
    assert client.get("/health").status_code == 403
    assert client.get("/health", auth=("anyone", "sesame")).status_code == 200


def test_without_fastapi_the_pip_line_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "dct_seg.adapters.label_studio")
    assert main(["label-studio"]) == 2
    assert "needs fastapi; pip install 'dct-seg[labelstudio]'" in capsys.readouterr().err
