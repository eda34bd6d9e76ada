"""CVAT: the interaction function against cvat-sdk, the serverless interactor against CVAT's requests."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from annotator import Discs
from PIL import Image

from dct_seg import Click, Predictor
from dct_seg.adapters import cvat
from dct_seg.adapters.cvat_nuclio import Interactor, handler
from dct_seg.adapters.gestures import box_drag, ellipse_drag, point_click, replay
from dct_seg.adapters.predictors import Predictors
from dct_seg.cli import main
from dct_seg.data.images import decode_image

HEIGHT, WIDTH = 40, 60


def discs() -> Predictors:
    return Predictors(lambda: Predictor(Discs()))


def image_of(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def as_base64(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


# gestures


@pytest.mark.parametrize(("x", "pixel"), [(7, 7), (7.0, 7), (7.99, 7), (0, 0), (59.5, 59), (60, 59)])
def test_point_selects_the_pixel_that_contains_it(x: float, pixel: int) -> None:
    assert point_click(x, 3.2, (HEIGHT, WIDTH)) == Click(3.0, float(pixel))


@pytest.mark.parametrize(("x", "y"), [(-0.1, 3), (60.1, 3), (3, 40.5), (float("nan"), 3)])
def test_point_outside_is_refused_with_the_size(x: float, y: float) -> None:
    with pytest.raises(ValueError, match=r"lies outside the image of 60x40 pixels"):
        point_click(x, y, (HEIGHT, WIDTH))


def test_box_is_a_drag_to_its_nearest_side_whichever_corners_are_given() -> None:
    assert box_drag([30, 30, 10, 20], (HEIGHT, WIDTH)) == Click(25.0, 20.0, True, 5.0)


def test_box_is_clipped_at_the_border_of_the_image() -> None:
    assert box_drag([-20, 0, 20, 10], (HEIGHT, WIDTH)) == Click(5.0, 10.0, True, 5.0)


def test_ellipse_is_a_drag_along_its_shorter_half_axis_in_either_direction() -> None:
    assert ellipse_drag(30, 20, -12, 8, (HEIGHT, WIDTH), positive=False) == Click(20.0, 30.0, False, 8.0)


def test_replay_orders_box_positive_and_negative_points() -> None:
    clicks = replay([[1, 2], [3, 4]], [[5, 6]], [10, 10, 20, 30], (HEIGHT, WIDTH))
    assert [(c.row, c.col, c.positive, c.radius) for c in clicks] == [
        (20.0, 15.0, True, 5.0),
        (2.0, 1.0, True, None),
        (4.0, 3.0, True, None),
        (6.0, 5.0, False, None),
    ]


def test_replay_without_anything_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a positive point nor a box"):
        replay([], [[5, 6]], None, (HEIGHT, WIDTH))


# predictors


def test_cached_image_is_not_loaded_again_and_the_oldest_is_evicted() -> None:
    loaded: list[str] = []

    def load(name: str) -> Any:
        loaded.append(name)
        return np.array(image_of())

    kept = Predictors(lambda: Predictor(Discs()), keep=2)
    for name in "abacab":
        found = kept.predict(name, lambda name=name: load(name), lambda size: [Click(3, 4, radius=2.0)])
        assert found.mask.shape == (HEIGHT, WIDTH)
        assert found.mask.any()
    assert loaded == ["a", "b", "c", "b"]


def test_predictions_of_all_requests_run_in_one_thread() -> None:
    threads: set[int] = set()

    class Noting(Discs):
        def predict(self, *given: Any) -> Any:
            threads.add(threading.get_ident())
            return super().predict(*given)

    kept = Predictors(lambda: Predictor(Noting()))
    for name in "ab":
        given = name, lambda: np.array(image_of()), lambda size: [Click(3, 4, radius=2.0)]
        caller = threading.Thread(target=kept.predict, args=given)
        caller.start()
        caller.join()
    assert len(threads) == 1


# the interaction function of cvat-sdk


@dataclass(frozen=True)
class Prompts:
    """Prompts as passed by CVAT's agent."""

    pos_points: Any = ()
    neg_points: Any = ()
    bounding_box: Any = None


def decoded(shape: Any) -> np.ndarray:
    masks = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk is not installed")
    return masks.decode_mask(shape.points, image_width=WIDTH, image_height=HEIGHT)


def test_interaction_function_returns_masks_that_cvat_sdk_decodes() -> None:
    sdk = pytest.importorskip("cvat_sdk.auto_annotation", reason="cvat-sdk is not installed")
    function = cvat.InteractionFunction(discs())
    assert isinstance(function.spec, sdk.InteractionFunctionSpec)
    frame = function.preprocess_image(None, image_of())
    (shape,) = function.detect(None, frame, Prompts(bounding_box=((10.0, 10.0), (30.0, 26.0))))
    assert isinstance(shape, sdk.InteractionResultShape)
    assert shape.type == "mask"
    np.testing.assert_array_equal(decoded(shape), disc(18, 20, 8))
    prompts = Prompts([(20.2, 18.9)], [(20.0, 18.0)], ((10.0, 10.0), (30.0, 26.0)))
    (shape,) = function.detect(None, frame, prompts)
    np.testing.assert_array_equal(
        decoded(shape),
        mask_of(Click(18, 20, True, 8.0), Click(18, 20), Click(18, 20, False)),
    )


def mask_of(*clicks: Click) -> np.ndarray:
    predictor = Predictor(Discs())
    predictor.set_image(np.array(image_of()))
    return predictor.predict(clicks).mask


def test_frames_do_not_share_their_clicks() -> None:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
    function = cvat.InteractionFunction(discs())
    frames = [function.preprocess_image(None, image_of(seed)) for seed in (0, 1)]
    shapes = [function.detect(None, frame, Prompts([(30, 20)])) for frame in (*frames, frames[0])]
    assert [decoded(one[0]).sum() for one in shapes] == [decoded(shapes[0][0]).sum()] * 3


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_8_bits_are_scaled_as_everywhere_else(dtype: type) -> None:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 4000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(dtype)).save(
        file, "TIFF"
    )
    pixels = cvat.InteractionFunction(discs()).preprocess_image(None, Image.open(file)).pixels
    np.testing.assert_array_equal(pixels, decode_image(file.getvalue()))
    assert 100 < pixels.mean() < 150


def test_empty_mask_gives_no_shape() -> None:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
    function = cvat.InteractionFunction(Predictors(lambda: Predictor(Discs(), threshold=0.95)))
    assert function.detect(None, function.preprocess_image(None, image_of()), Prompts([(30, 20)])) == []


def test_without_cvat_sdk_the_pip_line_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", None)
    with pytest.raises(
        ImportError, match=r"^the CVAT function needs cvat-sdk; pip install 'dct-seg\[cvat\]'$"
    ):
        cvat.create()


@pytest.mark.slow
def test_agent_of_cvat_loads_the_function_by_its_name() -> None:
    common = pytest.importorskip("cvat_cli._internal.common", reason="cvat-cli is not installed")
    driver = pytest.importorskip("cvat_cli._internal.agent_driver_interaction")
    function = common.FunctionLoader("dct_seg.adapters.cvat", None, {"weights": "dct-lite0"}).load()
    fields = driver.AgentInteractionFunctionDriver.get_remote_function_fields(function.spec)
    assert fields == {"min_pos_points": 0, "min_neg_points": 0, "startswith_box_optional": True}


# the serverless interactor


def ask(body: Any, predictors: Predictors | None = None) -> tuple[int, dict[str, Any]]:
    """Send a request as Nuclio's processor passes it."""
    answers: list[tuple[int, dict[str, Any]]] = []

    def response(*, body: str, headers: Any, content_type: str, status_code: int) -> None:
        assert content_type == "application/json"
        answers.append((status_code, json.loads(body)))

    context = SimpleNamespace(
        user_data=SimpleNamespace(interactor=Interactor(predictors or discs())), Response=response
    )
    handler(context, SimpleNamespace(body=body))
    return answers[0]


def request_of(**fields: Any) -> dict[str, Any]:
    """A request as CVAT's server posts it for an interactor."""
    return {"image": as_base64(image_of()), "pos_points": [], "neg_points": [], "obj_bbox": None, **fields}


def test_positive_points_give_a_mask_of_the_image() -> None:
    status, answer = ask(request_of(pos_points=[[20.4, 18.7]]))
    assert status == 200
    np.testing.assert_array_equal(np.array(answer["mask"]), mask_of(Click(18, 20)))


def test_order_of_the_replay_is_positive_before_negative() -> None:
    """The mask depends on the order: the negative click comes last and removes pixels."""
    at, near = [20.0, 18.0], [24.0, 18.0]
    _, answer = ask(request_of(pos_points=[at, near], neg_points=[near]))
    last_cuts = mask_of(Click(18, 20), Click(18, 24), Click(18, 24, False))
    np.testing.assert_array_equal(np.array(answer["mask"]), last_cuts)
    assert (last_cuts != mask_of(Click(18, 20), Click(18, 24, False), Click(18, 24))).any()


@pytest.mark.parametrize("box", [[[10, 10], [30, 26]], [10, 10, 30, 26]])
def test_box_is_a_drag_from_its_center(box: Any) -> None:
    _, answer = ask(request_of(obj_bbox=box))
    np.testing.assert_array_equal(np.array(answer["mask"]), disc(18, 20, 8))


def test_body_may_be_bytes_and_the_box_an_empty_list() -> None:
    status, _ = ask(json.dumps(request_of(pos_points=[[3, 4]], obj_bbox=[])).encode())
    assert status == 200


def test_image_rotated_by_exif_gets_an_upright_mask() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image_of().save(file, "JPEG", exif=exif)
    _, answer = ask(request_of(image=base64.b64encode(file.getvalue()).decode(), pos_points=[[39, 59]]))
    assert np.array(answer["mask"]).shape == (WIDTH, HEIGHT)


BAD = [
    ("no JSON", b"{", "the body must be JSON"),
    ("a list", [], "the body must be an object with image and pos_points, got list"),
    ("no image", {"pos_points": [[1, 2]]}, "field image is missing; send the image file as base64"),
    ("an image that is no text", request_of(image=5), "field image is missing"),
    ("an image that is not base64", request_of(image="@@@"), "field image must be base64"),
    (
        "an image of nonsense",
        request_of(image="bm9uc2Vuc2U=", pos_points=[[1, 2]]),
        "the image cannot be decoded",
    ),
    ("no click", request_of(), "there is neither a positive point nor a box; click on the object first"),
    ("only a negative point", request_of(neg_points=[[1, 2]]), "neither a positive point nor a box"),
    (
        "a point outside",
        request_of(pos_points=[[100, 5]]),
        "point (100, 5) lies outside the image of 60x40 pixels",
    ),
    ("a point of one number", request_of(pos_points=[[1]]), "up to 200 points [x, y], got [[1]]"),
    (
        "a point of text",
        request_of(neg_points=["ab"]),
        'field neg_points must be a list of up to 200 points [x, y], got ["ab"]',
    ),
    ("NaN", request_of(pos_points=[[float("nan"), 1]]), "[x, y], got [[NaN, 1]]"),
    ("a number of 400 digits", request_of(pos_points=[[10**400, 1]]), "[x, y], got [[1000"),
    ("201 points", request_of(pos_points=[[1, 1]] * 201), "must be a list of up to 200 points"),
    (
        "a box of three numbers",
        request_of(obj_bbox=[1, 2, 3]),
        "field obj_bbox must be [[x, y], [x, y]] or null, got [1, 2, 3]",
    ),
    (
        "a box without area",
        request_of(obj_bbox=[[5, 5], [5, 9]]),
        "box (5, 5) to (5, 9) has no area in the image",
    ),
]


@pytest.mark.parametrize(("body", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_request_gets_one_line(body: Any, message: str) -> None:
    status, answer = ask(body)
    assert (status, message in answer["error"]) == (400, True), answer
    assert "\n" not in answer["error"]


def test_huge_image_is_refused_before_it_is_decoded() -> None:
    from test_app_hostile import png_header

    status, answer = ask(request_of(image=base64.b64encode(png_header(60_000, 60_000)).decode()))
    assert (status, "the image is far too large; at most 100 megapixels" in answer["error"]) == (400, True), (
        answer
    )


def test_command_writes_the_function_that_nuclio_deploys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cvat-function", str(tmp_path / "dct")]) == 0
    assert "nuctl deploy" in capsys.readouterr().out
    manifest = yaml.safe_load((tmp_path / "dct" / "function.yaml").read_text())
    annotations = manifest["metadata"]["annotations"]
    assert (annotations["type"], int(annotations["version"])) == ("interactor", 2)
    assert [int(annotations[f"min_{kind}_points"]) for kind in ("pos", "neg")] == [0, 0]
    assert json.loads(annotations["spec"] or "[]") == []  # as CVAT's server reads it
    assert manifest["spec"]["description"]
    module, name = manifest["spec"]["handler"].split(":")
    names: dict[str, Any] = {}
    exec((tmp_path / "dct" / f"{module}.py").read_text(), names)
    assert names[name] is handler
    assert "init_context" in names
