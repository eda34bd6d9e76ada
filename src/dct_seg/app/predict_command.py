"""``dct-seg predict``: masks of images from given clicks or from a click log."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dct_seg.app.folder import OUTPUTS, PREDICTED, ImageFolder
from dct_seg.app.replay import ObjectClicks, read_click_log, replay_together, replay_windows
from dct_seg.app.working_image import WorkingImage
from dct_seg.arguments import CommandParser
from dct_seg.clicks import Click
from dct_seg.data.brightness import Window
from dct_seg.data.images import (
    SEVERAL_SUFFIXES,
    UnreadableFileError,
    page_numbers,
    read_image,
    read_nonzero,
)
from dct_seg.data.pages import plain_stem, split_page, suffix_of
from dct_seg.drawing import Turn, draw_turn, save_png
from dct_seg.files import lock_folder, naming, write_whole
from dct_seg.methods.base import Method
from dct_seg.models.pretrained import DEFAULT
from dct_seg.signals import advising

OVERLAY_HEIGHT = 720  # pixels
DONE = PREDICTED
"""Journal with one line per finished image: its inputs and its objects."""


@dataclass(frozen=True)
class InputImage:
    """Image to predict on.

    Args:
        name: Name of the outputs, with ``/`` for subfolders.
        path: Path of the image.
        problem: Reason why the image cannot be opened, or None.
        page: Number of the image in its file, from 1.
    """

    name: str
    path: Path
    problem: str | None = None
    page: int = 1


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg predict``.

    Returns:
        0, or 1 if an image failed; the other images are still predicted.

    Raises:
        ValueError, FileNotFoundError, ImportError: When an argument cannot be used.
    """
    given = _parser().parse_args(args)
    if bool(given.click) == bool(given.clicks):
        raise ValueError("give either --click ROW,COL or --clicks FILE, the click log of the annotator")
    if given.threshold is not None and given.clicks:
        raise ValueError("a click log contains the threshold of each object; omit --threshold")
    threshold = 0.5 if given.threshold is None else given.threshold
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {threshold:g}")
    if given.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {given.batch}")
    if given.window and given.clicks:
        raise ValueError("a click log contains the window of each object; omit --window")
    window = Window.read(given.window) if given.window else None
    sources = list(_input_images(given.images, Path(given.out)))
    jobs = (
        _jobs_of_log(read_click_log(given.clicks), sources)
        if given.clicks
        else _jobs_of_clicks(_clicks(given.click), sources, threshold, window)
    )
    if given.coco:
        _check_coco()
    with lock_folder(Path(given.out), "dct-seg predict"), advising("to resume, run the same command"):
        return _predict_all(jobs, given)


def _predict_all(jobs: Jobs, given: argparse.Namespace) -> int:
    out = Path(given.out)
    done = _read_done(out)
    finished: dict[str, dict[str, Any]] = {}
    missing: Jobs = []
    for source, objects in jobs:
        record = done.get(source.name)
        if record is None or not _is_complete(record, _request(source, objects, given), out):
            missing.append((source, objects))
        elif not given.overlay or _overlay(out, source).is_file() or _draw(source, objects, record, out):
            finished[source.name] = record
    predicted = _predict_all_images(missing, given)
    began = time.perf_counter()
    for (source, objects), answer in tqdm(predicted, total=len(missing), unit="image", disable=None):
        if answer is None:
            continue
        record = finished[source.name] = _write_outputs(source, objects, answer, given)
        with (out / DONE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    seconds = time.perf_counter() - began
    records = [finished[source.name] for source, _ in jobs if source.name in finished]
    if given.coco:
        write_whole(out / "coco.json", json.dumps(_coco(records, out)))
    sys.stdout.write(_summary(jobs, missing, finished, seconds, out))
    return 1 if len(finished) < len(jobs) else 0


def _is_complete(record: dict[str, Any], request: str, out: Path) -> bool:
    """Whether a record belongs to this request and its masks are on disk."""
    return record["request"] == request and all((out / one["mask"]).is_file() for one in record["objects"])


def _summary(
    jobs: Jobs, missing: Jobs, finished: dict[str, dict[str, Any]], seconds: float, out: Path
) -> str:
    num_objects = sum(len(record["objects"]) for record in finished.values())
    text = f"{num_objects} masks of {len(finished)} images in {out / 'masks'}"
    made = sum(len(objects) for source, objects in missing if source.name in finished)
    if made:
        text += f", {made / seconds:.2g} objects per second"
    failed = len(jobs) - len(finished)
    return text + (f", {failed} failed\n" if failed else "\n")


def _batches(jobs: Jobs, size: int) -> Iterator[Jobs]:
    """Group consecutive images until a group has at least ``size`` objects."""
    batch: Jobs = []
    for job in jobs:
        batch.append(job)
        if sum(len(objects) for _, objects in batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="dct-seg predict",
        description=(
            "Predict masks without the annotator: from clicks on the command line or from its click log."
        ),
        epilog="Example: dct-seg predict image.jpg --click 120,200,45 --click 80,260,- --out predicted",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, and folders of images")
    parser.add_argument(
        "--click",
        action="append",
        metavar="ROW,COL[,RADIUS][,-]",
        help=(
            "click in pixels; RADIUS is the length of the drag, predicted if omitted; '-' marks background; "
            "repeat for more clicks, in order"
        ),
    )
    parser.add_argument(
        "--clicks", metavar="FILE", help="click log; reproduces the annotator's masks bit for bit"
    )
    parser.add_argument(
        "--out",
        default="predicted",
        metavar="DIR",
        help="output folder with masks/ and overlays/; finished images are skipped (predicted)",
    )
    parser.add_weights(DEFAULT)
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="probability above which a pixel counts as object (0.5); a click log has its own",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="number of objects predicted together, across images (1); masks differ only by rounding; "
        "no faster on one CPU thread",
    )
    parser.add_argument(
        "--window",
        metavar="LOW,HIGH",
        help="values shown as black and white in images with more than 8 bits, such as --window=-160,240",
    )
    parser.add_argument("--coco", action="store_true", help="also write coco.json; needs [coco]")
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write images with mask and clicks (yes)",
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
            f"--click must be ROW,COL[,RADIUS][,-] such as 120,200,45 or 80,260,-, got '{text}' ({error})"
        ) from error


def _input_images(paths: Sequence[str], out: Path) -> Iterator[InputImage]:
    """List the given images, except this command's own outputs."""
    outputs = [(out / name).resolve() for name in OUTPUTS]

    def is_output(path: Path) -> bool:
        return any(path.resolve().is_relative_to(folder) for folder in outputs)

    for text in paths:
        path = Path(text)
        if path.is_dir():
            entries = [entry for entry in ImageFolder(path).entries() if not is_output(entry.path)]
            if not entries:
                raise ValueError(f"{path} contains no image; give images or folders of images")
            yield from (InputImage(entry.name, entry.path, entry.error, entry.page) for entry in entries)
        elif path.exists() and is_output(path):
            raise ValueError(f"{path} lies in the output folder {out}; give another --out")
        elif path.exists():
            yield from _images_in_file(path)
        elif split_page(path)[0].is_file():
            file, page = split_page(path)
            yield InputImage(path.name, file, page=page)
        else:
            raise FileNotFoundError(f"there is no image or folder {path}; give images or folders of images")


def _images_in_file(path: Path) -> Iterator[InputImage]:
    """List the images of a file."""
    try:
        numbers = list(page_numbers(path)) if suffix_of(path) in ("", *SEVERAL_SUFFIXES) else [1]
    except UnreadableFileError as error:
        yield InputImage(path.name, path, str(error))
        return
    for page in numbers:
        yield InputImage(path.name if len(numbers) == 1 else f"{path.name}#{page}", path, page=page)


Jobs = list[tuple[InputImage, list[ObjectClicks]]]


def _jobs_of_clicks(
    clicks: tuple[Click, ...], sources: Sequence[InputImage], threshold: float, window: Window | None
) -> Jobs:
    _check_names([source.name for source in sources])
    return [
        (source, [ObjectClicks(source.name, 1, "object", clicks, threshold, window=window)])
        for source in sources
    ]


def _jobs_of_log(objects: Sequence[ObjectClicks], sources: Sequence[InputImage]) -> Jobs:
    by_name = {source.name: source for source in sources}
    jobs: dict[str, tuple[InputImage, list[ObjectClicks]]] = {}
    for one in objects:
        if one.image not in by_name:
            raise ValueError(
                f"the log's image {one.image} is not among the {len(sources)} given images; give the folder "
                "that was annotated"
            )
        jobs.setdefault(one.image, (by_name[one.image], []))[1].append(one)
    _check_names(list(jobs))
    return list(jobs.values())


def _check_names(names: Sequence[str]) -> None:
    stems: dict[str, str] = {}
    for name in names:
        stem = plain_stem(name)
        if stem in stems:
            raise ValueError(
                f"{stems[stem]} and {name} would have the same output {stem}; predict them in two runs "
                "with different --out"
            )
        stems[stem] = name


def _request(source: InputImage, objects: Sequence[ObjectClicks], given: argparse.Namespace) -> str:
    """Hash the inputs: image file, clicks and weights."""
    folder = Path(given.weights)
    used = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    stamps = [
        (path.stat().st_mtime_ns, path.stat().st_size) for path in (source.path, *used) if path.is_file()
    ]
    network = [given.weights, given.backend]
    inputs = json.dumps([stamps, network, [asdict(one) for one in objects]], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


Masks = tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]
"""Image, and the masks of its objects."""


def _predict_all_images(
    jobs: Jobs, given: argparse.Namespace
) -> Iterator[tuple[tuple[InputImage, list[ObjectClicks]], Masks | None]]:
    """Load the network, then predict each image; after a failure, print it and yield None."""
    if not jobs:
        return iter(())
    from dct_seg.export.cache import load_for
    from dct_seg.methods.dctnet import DCTNetMethod

    net = load_for(given.weights, given.backend)
    return (
        pair
        for some in _batches(jobs, given.batch)
        for pair in zip(some, _predict(lambda: DCTNetMethod(net=net), some, given.batch), strict=True)
    )


def _predict(make_method: Callable[[], Method], jobs: Jobs, batch: int) -> list[Masks | None]:
    """Predict the images of a batch.

    If an image fails, all are predicted one by one, so that the others succeed.
    """
    images = [_read(source, objects) for source, objects in jobs]
    opened = [(image, objects) for image, (_, objects) in zip(images, jobs, strict=True) if image is not None]
    has_one_window = all(len({one.window for one in objects}) == 1 for _, objects in jobs)
    if batch > 1 and has_one_window:
        shown = [(make_method(), WorkingImage.of(image), objects) for image, objects in opened]
        with suppress(ValueError):
            masks = iter(replay_together(shown, batch))
            return [None if image is None else (image, next(masks)) for image in images]
    return [
        None if image is None else _predict_alone(make_method(), source, image, objects)
        for image, (source, objects) in zip(images, jobs, strict=True)
    ]


def _read(source: InputImage, objects: Sequence[ObjectClicks]) -> NDArray[np.uint8] | None:
    """Read an image; after a failure, print it and return None."""
    try:
        if source.problem:
            raise ValueError(source.problem)
        return read_image(source.path, page=source.page, window=objects[0].window)
    except (ValueError, OSError) as error:
        tqdm.write(f"{source.name}: {error}", file=sys.stderr)
        return None


def _predict_alone(
    method: Method, source: InputImage, image: NDArray[np.uint8], objects: Sequence[ObjectClicks]
) -> Masks | None:
    """Predict one image; after a failure, print it and return None."""
    try:

        def read(window: Window | None) -> NDArray[np.uint8]:
            if window == objects[0].window:
                return image
            return read_image(source.path, page=source.page, window=window)

        return image, replay_windows(method, read, objects)
    except ValueError as error:
        tqdm.write(f"{source.name}: {error}", file=sys.stderr)
        return None


def _write_outputs(
    source: InputImage, objects: Sequence[ObjectClicks], answer: Masks, given: argparse.Namespace
) -> dict[str, Any]:
    """Write the masks of an image and describe them."""
    out, stem = Path(given.out), plain_stem(source.name)
    image, masks = answer
    found = []
    for one, mask in zip(objects, masks, strict=True):
        name = f"masks/{stem}/{one.number}.png" if given.clicks is not None else f"masks/{stem}.png"
        save_png(mask.astype(np.uint8) * 255, out / name)
        found.append({"object": one.number, "class": one.label, "mask": name, "area": int(mask.sum())})
    if given.overlay:
        save_png(_draw_overlay(image, objects, masks), _overlay(out, source))
    return {
        "image": source.name,
        "height": image.shape[0],
        "width": image.shape[1],
        "objects": found,
        "request": _request(source, objects, given),
    }


def _overlay(out: Path, source: InputImage) -> Path:
    return out / "overlays" / f"{plain_stem(source.name)}.png"


def _draw(source: InputImage, objects: Sequence[ObjectClicks], record: dict[str, Any], out: Path) -> bool:
    """Write the overlay of existing masks; after a failure, print it and return False."""
    try:
        masks = [read_nonzero(out / one["mask"]) for one in record["objects"]]
        image = read_image(source.path, page=source.page, window=objects[0].window)
        save_png(_draw_overlay(image, objects, masks), _overlay(out, source))
    except (ValueError, OSError) as error:
        tqdm.write(f"{source.name}: {error}", file=sys.stderr)
        return False
    return True


def _draw_overlay(
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
    """Read the last record of each image; an incomplete line after a kill is ignored.

    Raises:
        ValueError: When a line is not a record.
    """
    path = out / DONE
    found: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return found
    whole, end, torn = path.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        with naming(
            f"line {number} of {path} is not the record of an image", "remove it, or give another --out"
        ):
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
        raise TypeError(
            "image, request and masks must be text; height, width and areas must be whole numbers"
        )


def _check_coco() -> None:
    try:
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise ImportError("--coco needs pycocotools; pip install 'dct-seg[coco]'") from error


def _coco(records: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """Make the COCO JSON of the masks on disk."""
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
