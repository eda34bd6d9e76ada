"""Images of the README, made with the shipped model: ``python -m benchmarks.readme_images --out docs``.

``strips.png`` shows clicks and drags on four images that scikit-image ships (public domain or CC0).
``drag.webp`` shows a drag on the first of them with the mask that follows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dct_seg import Click, Predictor
from dct_seg.drawing import Turn, draw_strips, draw_turn, save_png
from dct_seg.files import whole_file

Rgb = NDArray[np.uint8]

INTERACTIONS: dict[str, list[Click]] = {
    "astronaut": [Click(120, 220, True, 60), Click(380, 170, True, 90), Click(300, 400, False, 40)],
    "chelsea": [Click(130, 240, True, 110), Click(230, 330, True, 40), Click(270, 60, True, 30)],
    "coffee": [Click(180, 300, True, 110), Click(60, 80, False, 50), Click(330, 300, True, 20)],
    "rocket": [Click(180, 322, True, 14), Click(300, 322, True, 14), Click(370, 322, True, 10)],
}
FRAME_SECONDS, LAST_SECONDS = 0.08, 1.6


def sample_image(name: str) -> Rgb:
    """Load a sample image of scikit-image, (H, W, 3) uint8 RGB."""
    import skimage.data

    image: Rgb = getattr(skimage.data, name)()[..., :3]
    return image


def strips(predictor: Predictor, *, height: int = 200) -> Rgb:
    """Draw one row per image: the mask after each click of ``INTERACTIONS``."""
    rows = []
    for name, clicks in INTERACTIONS.items():
        image = sample_image(name)
        predictor.set_image(image)
        shown = [clicks[: count + 1] for count in range(len(clicks))]
        turns = [Turn(some, predictor.predict(some).mask, float("nan")) for some in shown]
        rows.append((image, turns))
    return draw_strips(rows, num_turns=3, height=height)


def drag_frames(predictor: Predictor, image: Rgb, row: float, col: float, radius: float) -> Iterator[Rgb]:
    """Draw the frames of a drag that grows from 4 pixels to ``radius``, each with its mask."""
    predictor.set_image(image)
    for reach in np.linspace(4, radius, 24):
        clicks = [Click(row, col, True, float(reach))]
        turn = Turn(clicks, predictor.predict(clicks).mask, float("nan"))
        yield draw_turn(image, turn, height=image.shape[0])


def save_animation(frames: Sequence[Rgb], path: Path) -> None:
    """Write a looping WebP whose last frame is shown longer."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    times = [round(1000 * FRAME_SECONDS)] * len(others) + [round(1000 * LAST_SECONDS)]
    with whole_file(path) as temporary:
        first.save(
            temporary,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=times,
            loop=0,
            quality=70,
            method=6,
        )


def main() -> None:
    """Write the two figures of the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme_images", description=__doc__)
    parser.add_argument(
        "--weights", default="dct-lite0", help="name or path of the weights to show (dct-lite0)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for the images (docs)")
    args = parser.parse_args()
    predictor = Predictor.from_pretrained(args.weights)
    save_png(strips(predictor), args.out / "strips.png")
    save_animation(
        list(drag_frames(predictor, sample_image("astronaut"), 330, 170, 150)), args.out / "drag.webp"
    )


if __name__ == "__main__":
    main()
