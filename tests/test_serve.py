"""``dct-seg serve``: its interface, its responses to bad requests, its two example clients."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from annotator import Discs
from fastapi.testclient import TestClient
from fuzzing import try_all, with_known
from PIL import Image
from test_app_hostile import png_header

from dct_seg import Predictor, rle
from dct_seg.adapters import serve_command
from dct_seg.adapters.predictors import Predictors
from dct_seg.adapters.serve import API, Images, UnknownImageError, create_app
from dct_seg.cli import main
from dct_seg.web import server_socket
from dct_seg.web.request_checks import LOOPBACK
from dct_seg.web.server_socket import listen

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
HEIGHT, WIDTH = 40, 60
JSON = {"content-type": "application/json"}


def png(seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


def application(**options: Any) -> Any:
    return create_app(
        Predictors(lambda: Predictor(Discs())), weights="discs", **{"hosts": LOOPBACK, **options}
    )


@pytest.fixture
def client() -> TestClient:
    return TestClient(application(), base_url="http://127.0.0.1:8766", raise_server_exceptions=False)


@pytest.fixture
def image(client: TestClient) -> str:
    answer = client.post(f"{API}/images", content=png(), headers={"content-type": "image/png"})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["height"], answer.json()["width"]) == (HEIGHT, WIDTH)
    return f"{API}/images/{answer.json()['id']}"


def click(row: float, col: float, radius: float | None = 6.0, *, positive: bool = True) -> dict[str, Any]:
    return {"row": row, "col": col, "radius": radius, "positive": positive}


def test_mask_is_returned_as_coco_and_as_png(client: TestClient, image: str) -> None:
    prompt = {"clicks": [click(20, 30), click(20, 36, 4, positive=False)]}
    wanted = disc(20, 30, 6) & ~disc(20, 36, 4)
    answer = client.post(f"{image}/predict", json=prompt).json()
    np.testing.assert_array_equal(rle.decode(answer["mask"]), wanted)
    assert answer["area"] == wanted.sum()
    rows, cols = np.nonzero(wanted)
    assert answer["bbox"] == [rows.min(), cols.min(), np.ptp(rows) + 1, np.ptp(cols) + 1]
    assert [one["radius"] for one in answer["clicks"]] == [6.0, 4.0]
    drawn = client.post(f"{image}/mask.png", json=prompt)
    assert drawn.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(drawn.content))), wanted * 255)


def test_click_without_a_radius_returns_the_effective_one(client: TestClient, image: str) -> None:
    (used,) = client.post(f"{image}/predict", json={"clicks": [click(20, 30, None)]}).json()["clicks"]
    assert used["radius"] == 5.0


def test_start_mask_is_what_the_clicks_correct(client: TestClient, image: str) -> None:
    start = disc(20, 15, 8)
    for mask in (rle.encode(start), {"size": [HEIGHT, WIDTH], "counts": rle.runs(start)}):
        answer = client.post(f"{image}/predict", json={"clicks": [click(20, 45)], "start": mask}).json()
        np.testing.assert_array_equal(rle.decode(answer["mask"]), start | disc(20, 45, 6))
    answer = client.post(f"{image}/predict", json={"clicks": []}).json()
    assert (answer["area"], answer["bbox"]) == (0, None)


def test_each_request_has_its_own_threshold(client: TestClient, image: str) -> None:
    areas = [
        client.post(f"{image}/predict", json={"clicks": [click(20, 30)], "threshold": t}).json()["area"]
        for t in (0.5, 0.95)
    ]
    assert areas == [disc(20, 30, 6).sum(), 0]


def test_same_file_has_the_same_id_until_it_is_deleted(client: TestClient, image: str) -> None:
    again = client.post(f"{API}/images", content=png(), headers={"content-type": "image/png"}).json()
    assert image.endswith(again["id"])
    assert client.delete(image).status_code == 204
    assert client.get(image).status_code == 404


def test_least_recently_used_images_are_dropped_when_memory_is_full() -> None:
    images = Images(max_bytes=2 * HEIGHT * WIDTH * 3)
    first, second, third = (images.add(png(0)), images.add(png(1)), images.add(png(2)))
    with pytest.raises(UnknownImageError, match=f"image '{first}' is not in the cache; POST it to"):
        images.get(first)
    assert images.get(second).shape == images.get(third).shape == (HEIGHT, WIDTH, 3)


def test_health_names_the_weights(client: TestClient) -> None:
    assert client.get(f"{API}/health").json()["weights"] == "discs"


PROMPT = json.dumps({"clicks": [click(20, 30)]})
BAD = [
    ("no JSON", "predict", "{", 422, "JSON decode error"),
    ("nothing", "predict", "", 422, "Field required"),
    ("NaN", "predict", PROMPT.replace("20", "NaN"), 422, "clicks.0.row: Input should be a finite number"),
    (
        "a negative radius",
        "predict",
        PROMPT.replace("6.0", "-1"),
        422,
        "clicks.0.radius: Input should be greater",
    ),
    ("a misspelt field", "predict", PROMPT.replace("radius", "raduis"), 422, "clicks.0.raduis: Extra inputs"),
    (
        "text for yes or no",
        "predict",
        PROMPT.replace("true", '"yes"'),
        422,
        "clicks.0.positive: Input should be",
    ),
    (
        "a click outside",
        "predict",
        PROMPT.replace("20", "40"),
        400,
        "lies outside the image of 40 rows and 60",
    ),
    ("201 clicks", "predict", json.dumps({"clicks": [click(1, 1)] * 201}), 422, "at most 200 items"),
    (
        "a threshold of 1",
        "mask.png",
        PROMPT[:-1] + ', "threshold": 1}',
        422,
        "threshold: Input should be less",
    ),
    (
        "a start of another size",
        "predict",
        PROMPT[:-1] + ', "start": {"size": [2, 2], "counts": [4]}}',
        400,
        "the start mask is 2x2, but the image is 60x40",
    ),
    (
        "a start whose runs do not fill it",
        "mask.png",
        PROMPT[:-1] + ', "start": {"size": [40, 60], "counts": [4]}}',
        400,
        "has runs that do not add up to it",
    ),
    ("9 MiB", "predict", " " * (9 * 2**20), 413, "must be at most 8 MiB"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_prompt_gets_one_line(
    client: TestClient, image: str, path: str, body: str, status: int, message: str
) -> None:
    answer = client.post(f"{image}/{path}", content=body, headers=JSON)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert "\n" not in answer.json()["error"]


FILES = [
    ("nonsense", b"nonsense", "image/png", 400, "the image cannot be decoded (not one of AVIF"),
    ("nothing", b"", "image/png", 400, "the image cannot be decoded"),
    ("cut short", png()[:3000], "image/png", 400, "the image cannot be decoded"),
    (
        "a header of 60,000 x 60,000",
        png_header(60_000, 60_000),
        "image/png",
        400,
        "far too large; at most 100",
    ),
    (
        "a header of 2,000,000 x 2",
        png_header(2_000_000, 2),
        "image/png",
        400,
        "2000000x2; at most 100 megapixels",
    ),
    (
        "PostScript",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "image/png",
        400,
        "cannot be decoded",
    ),
    ("JSON", b"{}", "application/json", 415, "the content type must be image/jpeg or image/png"),
    ("a form", b"a=b", "application/x-www-form-urlencoded", 415, "must be image/jpeg or image/png"),
]


@pytest.mark.parametrize(
    ("data", "kind", "status", "message"), [row[1:] for row in FILES], ids=[row[0] for row in FILES]
)
def test_bad_image_gets_one_line(
    client: TestClient, data: bytes, kind: str, status: int, message: str
) -> None:
    answer = client.post(f"{API}/images", content=data, headers={"content-type": kind})
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


HEADERS = [
    ("a Host that is not ours", {"host": "evil.example"}, "got 'evil.example'; change the address"),
    (
        "another site's Origin",
        {"origin": "https://evil.example"},
        "a page of 'https://evil.example' must not",
    ),
    ("a form of another site", {"sec-fetch-site": "cross-site"}, "another site's page must not"),
]


@pytest.mark.parametrize(
    ("headers", "message"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_guard_of_the_annotator_applies_here_too(
    client: TestClient, image: str, headers: dict[str, str], message: str
) -> None:
    answer = client.post(f"{image}/predict", content=PROMPT, headers={**JSON, **headers})
    assert (answer.status_code, message in answer.json()["error"]) == (403, True), answer.text


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-dct-seg-token": "sesame"},
        {"authorization": "Bearer sesame"},
        {"authorization": basic("sesame")},
    ],
)
def test_token_may_come_in_any_of_three_headers(headers: dict[str, str]) -> None:
    guarded = TestClient(application(token="sesame", hosts=None))
    assert guarded.get(f"{API}/health", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": basic("wrong")},
        {"authorization": "Basic @@@"},
        {"authorization": "Digest sesame"},
    ],
)
def test_wrong_token_is_refused_with_the_command_that_printed_it(headers: dict[str, str]) -> None:
    guarded = TestClient(application(token="sesame", hosts=None))
    answer = guarded.get(f"{API}/health", headers=headers)
    assert answer.status_code == 403
    assert "send the token that `dct-seg serve` printed" in answer.json()["error"]


@pytest.mark.parametrize(("variable", "is_printed"), [(None, True), ("", True), ("sesame", False)])
def test_token_is_printed_unless_the_environment_has_one(
    variable: str | None,
    is_printed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DCT_SEG_TOKEN", raising=False)
    if variable is not None:
        monkeypatch.setenv("DCT_SEG_TOKEN", variable)
    monkeypatch.setattr(Predictors, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(server_socket, "serve", lambda app, listener: listener.close())
    tokens: list[Any] = []
    given = argparse.Namespace(weights="w", backend="auto", host="0.0.0.0", port=0)
    serve_command.run(given, lambda _, __, token, hosts: tokens.append(token), "")
    assert (f"token: {tokens[0]}\n" in capsys.readouterr().out) == is_printed
    assert len(tokens[0]) > 5


def test_port_that_is_taken_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on" in capsys.readouterr().err


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_invalid_port_is_refused_and_not_wrapped(port: int) -> None:
    with pytest.raises(ValueError, match=rf"--port must be between 0 \(a free one\) and 65535, got {port}"):
        listen("127.0.0.1", port)


def test_client_that_connects_before_the_server_runs_waits_instead_of_being_refused() -> None:
    with listen("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=5).close()


def test_without_fastapi_the_pip_line_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "dct_seg.adapters.serve")
    assert main(["serve"]) == 2
    assert "needs fastapi; pip install 'dct-seg[app]'" in capsys.readouterr().err


@pytest.fixture
def address() -> Iterator[str]:
    """A server on a real socket, with a token."""
    server = uvicorn.Server(uvicorn.Config(application(token="sesame"), log_level="warning"))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("command", [[sys.executable, "serve_client.py"], ["node", "serve_client.mjs"]])
def test_example_client_segments_an_object(address: str, tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "photo.png").write_bytes(png())
    program, script = command
    done = subprocess.run(
        [program, str(EXAMPLES / script), address, str(tmp_path / "photo.png"), "20", "30", "6"],
        capture_output=True,
        check=False,
        env={**os.environ, "DCT_SEG_TOKEN": "sesame"},
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(done.stdout))), disc(20, 30, 6) * 255)
    assert f"{disc(20, 30, 6).sum()} of 40x60 pixels, box [14" in done.stderr.decode()


@pytest.mark.slow
def test_every_response_matches_the_schema() -> None:
    images = Images()
    known = images.add(png())
    app = application(hosts=None, images=images)
    assert try_all(with_known(app, f"{API}/openapi.json", {"image_id": [known, "unknown"]})) == 6
