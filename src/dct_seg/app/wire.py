"""Encoding of images and masks for the page: JPEG images, gray PNGs of probabilities."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.app import schemas
from dct_seg.app.folder import ImageFolder
from dct_seg.app.segmenter import Preview
from dct_seg.app.state import ChosenBy, SegmentedObject, State
from dct_seg.app.working_image import WorkingImage, WorkingImages, bounding_box
from dct_seg.clicks import Click
from dct_seg.data.brightness import Window

MASK_SIDE = 1024  # pixels; more than the network sees
LIVE_SIDE = 512  # pixels of a preview mask
HAND_SIDE = 2048  # pixels of a manual mask, in which every pixel counts
FAINTEST = 0.02  # lower probabilities are not sent
JPEG_QUALITY = 88
THUMBNAIL_SIDE = 256  # pixels; images up to this size are thumbnails in the list


def jpeg(
    folder: ImageFolder, images: WorkingImages, image_id: str, max_side: int, chosen: Window | None = None
) -> bytes:
    """Encode the upright image as JPEG, alpha on white, its longer side at most ``max_side`` pixels.

    Its brightness equals that of the network's input; ``chosen`` is the window of both.

    Raises:
        NoSuchImageError, UnreadableFileError: When `ImageFolder.read` does.
    """
    working = images.get(image_id, chosen, keep=max_side > THUMBNAIL_SIDE)
    on_white = folder.read_on_white(image_id, chosen)
    if on_white is not None:
        image = on_white
    elif working.factor > 1 and max_side > max(working.image.shape[:2]):
        image = folder.read(image_id, chosen).image
    else:
        image = working.image
    encoded, data = cv2.imencode(
        ".jpg", _shrunk(image, max_side)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert encoded
    return data.tobytes()


def _shrunk(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def mask(probs: NDArray[np.float32], working: WorkingImage, locked: NDArray[np.bool_] | None) -> schemas.Mask:
    """Encode the nonzero region of the probabilities, at no more pixels than the network outputs.

    Args:
        probs: (h, w) probabilities of the working image.
        working: Image of the probabilities.
        locked: Locked pixels, (H, W) at full size, which are background at any probability.
    """
    rows, cols = bounding_box(probs > FAINTEST) or (slice(0, 1), slice(0, 1))
    return _mask(
        probs[rows, cols], (rows.start, rows.stop, cols.start, cols.stop), working, locked, MASK_SIDE
    )


def manual_mask(found: NDArray[np.bool_], locked: NDArray[np.bool_] | None) -> schemas.Mask:
    """Encode a manual mask, at full resolution unless it is too large.

    Args:
        found: (H, W) mask of the full size.
        locked: Locked pixels, see `mask`.
    """
    rows, cols = bounding_box(found) or (slice(0, 1), slice(0, 1))
    part = found[rows, cols].astype(np.uint8) * 255
    return _encoded(part, (rows, cols), locked, HAND_SIDE)


def live_mask(preview: Preview, working: WorkingImage, locked: NDArray[np.bool_] | None) -> schemas.Mask:
    """Encode a live preview of the whole region, at reduced resolution.

    Args:
        preview: Preview of the network's view.
        working: Image of the probabilities.
        locked: Locked pixels, see `mask`.
    """
    view = preview.view
    return _mask(
        preview.probs,
        (view.top, view.top + view.height, view.left, view.left + view.width),
        working,
        locked,
        LIVE_SIDE,
    )


def _mask(
    probs: NDArray[np.float32],
    box: tuple[int, int, int, int],
    working: WorkingImage,
    locked: NDArray[np.bool_] | None,
    max_side: int,
) -> schemas.Mask:
    """Encode probabilities of a box (first row, end row, first column, end column) of an image."""
    part = np.rint(probs * 255).astype(np.uint8)
    rows, cols = (
        slice(start * working.factor, min(side, end * working.factor))
        for start, end, side in ((*box[:2], working.size[0]), (*box[2:], working.size[1]))
    )
    return _encoded(part, (rows, cols), locked, max_side)


def _encoded(
    part: NDArray[np.uint8], box: tuple[slice, slice], locked: NDArray[np.bool_] | None, max_side: int
) -> schemas.Mask:
    """Encode values of 0 to 255 over a box (rows, columns) of the full-size image."""
    rows, cols = box
    if max(part.shape) > max_side:
        scale = max_side / max(part.shape)
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA))
    if locked is not None:
        near = np.ascontiguousarray(locked[box]).view(np.uint8)
        part[cv2.resize(near, part.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0] = 0
    encoded, data = cv2.imencode(".png", part, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert encoded
    return schemas.Mask(
        row=rows.start,
        col=cols.start,
        height=rows.stop - rows.start,
        width=cols.stop - cols.start,
        png=base64.b64encode(data.tobytes()).decode(),
    )


def window(working: WorkingImage, chosen_by: ChosenBy | None) -> schemas.WindowInForce | None:
    """Describe an image's window for the page; None for an image of 8 bits."""
    if working.window is None or working.extent is None:
        return None
    (low, high), (lowest, highest) = working.window, working.extent
    return schemas.WindowInForce(low=low, high=high, lowest=lowest, highest=highest, chosen_by=chosen_by)


def finished(one: SegmentedObject) -> schemas.Object:
    """Describe a finished object for the page."""
    return schemas.Object(
        id=one.id,
        class_id=one.class_id,
        num_clicks=one.num_clicks,
        area=one.outline.area,
        bbox=list(one.outline.bbox),
        polygons=one.outline.polygons,
        locked=one.locked,
    )


def draft(state: State) -> schemas.Draft | None:
    """Describe the current draft for the page, or None."""
    if state.draft is None:
        return None
    edits = None if state.draft.edits is None else state.draft.edits.id
    return schemas.Draft(
        clicks=[_click(click) for click in state.draft.clicks],
        class_id=state.draft.class_id,
        edits=edits,
        threshold=state.draft.threshold,
    )


def _click(click: Click) -> schemas.UsedClick:
    return schemas.UsedClick(
        row=click.row, col=click.col, positive=click.positive, radius=click.radius, given=click.is_drag
    )
