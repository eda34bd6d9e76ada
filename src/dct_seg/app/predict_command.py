"""``dct-seg predict``: masks of images from given clicks or from a click log."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dct_seg.app.folder import OUTPUTS, PREDICTED, Folder
from dct_seg.app.replay import ObjectClicks, read_click_log, replay
from dct_seg.app.working_image import WorkingImage
from dct_seg.arguments import CommandParser
from dct_seg.clicks import Click
from dct_seg.data.images import read_image, read_nonzero
from dct_seg.files import hold_folder, naming, write_whole
from dct_seg.methods.base import Method
from dct_seg.models.pretrained import DEFAULT
from dct_seg.pictures import Turn, draw_turn, save_png
from dct_seg.stopping import advising

OVERLAY_HEIGHT = 720  # pixels
DONE = PREDICTED
"""Journal with a line per finished image: its inputs and its objects."""


@dataclass(frozen=True)
class Picture:
    """Image to predict on.

    Args:
        name: Name of the outputs, with ``/`` for subfolders.
        path: Path of the image.
        problem: Reason that it cannot be opened, or None.
    """

    name: str
    path: Path
    problem: str | None = None


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg predict``.

    Returns:
        0, or 1 when an image failed; the others are done.

    Raises:
        ValueError, FileNotFoundError, ImportError: When an argument cannot be used.
    """
    given = _parser().parse_args(args)
    if bool(given.click) == bool(given.clicks):
        raise ValueError("give either --click ROW,COL or --clicks FILE, the click log of the annotator")
    if not 0 < given.threshold < 1:
        raise ValueError(f"--threshold lies between 0 and 1, got {given.threshold:g}")
    pictures = list(_pictures(given.images, Path(given.out)))
    jobs = (
        _of_log(read_click_log(given.clicks), pictures)
        if given.clicks
        else _of_clicks(_clicks(given.click), pictures, given.threshold)
    )
    if given.coco:
        _check_coco()
    with hold_folder(Path(given.out), "dct-seg predict"), advising("the same command goes on from here"):
        return _predict_all(jobs, given)


def _predict_all(jobs: Jobs, given: argparse.Namespace) -> int:
    out = Path(given.out)
    done = _read_done(out)
    failed = 0
    method: Method | None = None
    records = []
    for picture, objects in tqdm(jobs, unit="picture", disable=None):
        request = _request(picture, objects, given.weights)
        record = done.get(picture.name)
        is_done = record is not None and record["request"] == request
        if record is not None and is_done and all((out / one["mask"]).is_file() for one in record["objects"]):
            if (
                given.overlay
                and not _overlay(out, picture).is_file()
                and not _draw(picture, objects, record, out)
            ):
                failed += 1
                continue
        else:
            method = method or _method(given.weights)
            record = _predict(
                method, picture, objects, out, in_log=given.clicks is not None, overlay=given.overlay
            )
            if record is None:
                failed += 1
                continue
            record["request"] = request
            with (out / DONE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        records.append(record)
    if given.coco:
        write_whole(out / "coco.json", json.dumps(_coco(records, out)))
    num_objects = sum(len(record["objects"]) for record in records)
    sys.stdout.write(
        f"{num_objects} masks of {len(records)} images in {out / 'masks'}"
        + (f", {failed} failed\n" if failed else "\n")
    )
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="dct-seg predict",
        description=(
            "Masks of images, without a page: of the clicks given here, or of a click log of the annotator."
        ),
        epilog="Example: dct-seg predict photo.jpg --click 120,200,45 --click 80,260,- --out predicted",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, and folders of images")
    parser.add_argument(
        "--click",
        action="append",
        metavar="ROW,COL[,RADIUS][,-]",
        help=(
            "in pixels; RADIUS is the drag, predicted where it is left out; '-' is background; may be "
            "repeated, in order"
        ),
    )
    parser.add_argument(
        "--clicks", metavar="FILE", help="click log; reproduces the annotator's masks bit for bit"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="output folder with masks/ and overlays/; finished images are skipped",
    )
    parser.add_weights(DEFAULT)
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="minimum probability of an object pixel (0.5); a log has its own",
    )
    parser.add_argument("--coco", action="store_true", help="also write coco.json; needs [coco]")
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="images with mask and clicks (yes)",
    )
    return parser


def _clicks(texts: Sequence[str]) -> tuple[Click, ...]:
    return tuple(_click(text) for text in texts)


def _click(text: str) -> Click:
    parts = [part.strip() for part in text.split(",")]
    positive = parts[-1] != "-"
    try:
        row, col, *radius = (float(part) for part in (parts if positive else parts[:-1]))
        if len(radius) > 1:
            raise ValueError("too many numbers")
        return Click(row, col, positive, radius[0] if radius else None)
    except ValueError as error:
        raise ValueError(
            f"--click is ROW,COL[,RADIUS][,-] such as 120,200,45 or 80,260,-, got '{text}' ({error})"
        ) from error


def _pictures(paths: Sequence[str], out: Path) -> Iterator[Picture]:
    """List the given images, without this command's own outputs."""
    made_here = [(out / name).resolve() for name in OUTPUTS]

    def is_output(path: Path) -> bool:
        return any(path.resolve().is_relative_to(folder) for folder in made_here)

    for text in paths:
        path = Path(text)
        if path.is_dir():
            entries = [entry for entry in Folder(path).entries() if not is_output(entry.path)]
            if not entries:
                raise ValueError(f"{path} holds no image")
            yield from (Picture(entry.name, entry.path, entry.error) for entry in entries)
        elif path.exists() and is_output(path):
            raise ValueError(f"{path} lies where --out {out} is written to; give another --out")
        elif path.exists():
            yield Picture(path.name, path)
        else:
            raise FileNotFoundError(f"no image or folder {path}")


Jobs = list[tuple[Picture, list[ObjectClicks]]]


def _of_clicks(clicks: tuple[Click, ...], pictures: Sequence[Picture], threshold: float) -> Jobs:
    _check_names([picture.name for picture in pictures])
    return [(picture, [ObjectClicks(picture.name, 1, "object", clicks, threshold)]) for picture in pictures]


def _of_log(objects: Sequence[ObjectClicks], pictures: Sequence[Picture]) -> Jobs:
    by_name = {picture.name: picture for picture in pictures}
    jobs: dict[str, tuple[Picture, list[ObjectClicks]]] = {}
    for one in objects:
        if one.image not in by_name:
            raise ValueError(
                f"the log's image {one.image} is not among the {len(pictures)} given; give the folder that "
                "was annotated"
            )
        jobs.setdefault(one.image, (by_name[one.image], []))[1].append(one)
    _check_names(list(jobs))
    return list(jobs.values())


def _check_names(names: Sequence[str]) -> None:
    stems: dict[str, str] = {}
    for name in names:
        stem = _stem(name)
        if stem in stems:
            raise ValueError(
                f"{stems[stem]} and {name} would have the same output {stem}; give them to two runs"
            )
        stems[stem] = name


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _request(picture: Picture, objects: Sequence[ObjectClicks], weights: str) -> str:
    """Hash of the inputs: the image file, the clicks, the weights."""
    stamps = [
        (path.stat().st_mtime_ns, path.stat().st_size)
        for path in (picture.path, Path(weights))
        if path.is_file()
    ]
    asked = json.dumps([stamps, weights, [asdict(one) for one in objects]], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _method(weights: str) -> Method:
    from dct_seg.methods.dctnet import DCTNetMethod

    return DCTNetMethod(weights)


def _predict(
    method: Method,
    picture: Picture,
    objects: Sequence[ObjectClicks],
    out: Path,
    *,
    in_log: bool,
    overlay: bool,
) -> dict[str, Any] | None:
    """Write the masks of an image and describe them; None after a failure, which is printed."""
    try:
        if picture.problem:
            raise ValueError(picture.problem)
        image = read_image(picture.path)
        masks = replay(method, WorkingImage.of(image), objects)
    except (ValueError, OSError) as error:
        tqdm.write(f"{picture.name}: {error}", file=sys.stderr)
        return None
    stem = _stem(picture.name)
    found = []
    for one, mask in zip(objects, masks, strict=True):
        name = f"masks/{stem}/{one.number}.png" if in_log else f"masks/{stem}.png"
        save_png(mask.astype(np.uint8) * 255, out / name)
        found.append({"object": one.number, "class": one.label, "mask": name, "area": int(mask.sum())})
    if overlay:
        save_png(_drawn(image, objects, masks), _overlay(out, picture))
    return {"image": picture.name, "height": image.shape[0], "width": image.shape[1], "objects": found}


def _overlay(out: Path, picture: Picture) -> Path:
    return out / "overlays" / f"{_stem(picture.name)}.png"


def _draw(picture: Picture, objects: Sequence[ObjectClicks], record: dict[str, Any], out: Path) -> bool:
    """Write the overlay of existing masks; False after a failure, which is printed."""
    try:
        masks = [read_nonzero(out / one["mask"]) for one in record["objects"]]
        save_png(_drawn(read_image(picture.path), objects, masks), _overlay(out, picture))
    except (ValueError, OSError) as error:
        tqdm.write(f"{picture.name}: {error}", file=sys.stderr)
        return False
    return True


def _drawn(
    image: NDArray[np.uint8], objects: Sequence[ObjectClicks], masks: Sequence[NDArray[np.bool_]]
) -> NDArray[np.uint8]:
    clicks = [click for one in objects for click in one.clicks]
    shown = [replace(click, radius=click.radius or None) for click in clicks]
    return draw_turn(
        image,
        Turn(shown, np.logical_or.reduce(masks), float("nan")),
        height=min(OVERLAY_HEIGHT, image.shape[0]),
    )


def _read_done(out: Path) -> dict[str, dict[str, Any]]:
    """Last line of each image; an incomplete line after a kill is ignored.

    Raises:
        ValueError: When a line is something else.
    """
    path = out / DONE
    found: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return found
    whole, end, torn = path.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        with naming(f"line {number} of {path} is no image that was done", "remove it, or give another --out"):
            record = json.loads(line)
            _check_done(record)
            found[record["image"]] = record
    if torn:
        write_whole(path, whole + end)
    return found


def _check_done(record: dict[str, Any]) -> None:
    objects = [(one["object"], one["class"], one["mask"], one["area"]) for one in record["objects"]]
    texts = [record["image"], record["request"], *(mask for _, _, mask, _ in objects)]
    numbers = [record["height"], record["width"], *(area for *_, area in objects)]
    if not (all(isinstance(one, str) for one in texts) and all(isinstance(one, int) for one in numbers)):
        raise TypeError("image, request and masks are text, height, width and areas whole numbers")


def _check_coco() -> None:
    try:
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise ImportError("--coco needs pycocotools; pip install 'dct-seg[coco]'") from error


def _coco(records: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """COCO JSON of the masks on disk."""
    from dct_seg.app.outlines import outline_of
    from dct_seg.rle import encode

    labels = list(dict.fromkeys(one["class"] for record in records for one in record["objects"]))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        images.append(
            {"id": number, "file_name": record["image"], "height": record["height"], "width": record["width"]}
        )
        for one in record["objects"]:
            rle = encode(read_nonzero(out / one["mask"]))
            row, col, height, width = outline_of(rle).bbox
            fields = {
                "category_id": labels.index(one["class"]) + 1,
                "segmentation": rle,
                "area": one["area"],
                "iscrowd": 0,
            }
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, **fields, "bbox": [col, row, width, height]}
            )
    categories = [{"id": place, "name": label} for place, label in enumerate(labels, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
