"""Encoding of images and masks for the page: JPEGs to look at, gray PNGs of probabilities."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from dct_seg.app import schemas
from dct_seg.app.folder import Folder
from dct_seg.app.segmenter import Preview
from dct_seg.app.state import MadeClick, SegmentedObject, State
from dct_seg.app.working_image import WorkingImage, WorkingImages, bounding_box

MASK_SIDE = 1024  # pixels; the network sees fewer
LIVE_SIDE = 512  # pixels of a short-lived mask
HAND_SIDE = 2048  # pixels of a manual mask, where every pixel counts
FAINTEST = 0.02  # probabilities below are not sent
JPEG_QUALITY = 88


def jpeg(folder: Folder, pictures: WorkingImages, picture_id: str, max_side: int) -> bytes:
    """JPEG of the upright image, alpha on white, its longer side at most ``max_side`` pixels.

    Raises:
        NoSuchPictureError, UnreadableFileError: When :meth:`Folder.read` does.
    """
    working = pictures.get(picture_id)
    on_white = folder.read_on_white(picture_id)
    if on_white is not None:
        image = on_white
    elif working.factor > 1 and max_side > max(working.image.shape[:2]):
        image = folder.read(picture_id)
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


def mask(probs: NDArray[np.float32], picture: WorkingImage, locked: NDArray[np.bool_] | None) -> schemas.Mask:
    """Encode the nonzero region of the probabilities, at no more pixels than the network outputs.

    Args:
        probs: (h, w) probabilities of the working image.
        picture: Image that they belong to.
        locked: (H, W) of the full size; pixels that are background at any probability.
    """
    rows, cols = bounding_box(probs > FAINTEST) or (slice(0, 1), slice(0, 1))
    return _mask(
        probs[rows, cols], (rows.start, rows.stop, cols.start, cols.stop), picture, locked, MASK_SIDE
    )


def hand_mask(found: NDArray[np.bool_], locked: NDArray[np.bool_] | None) -> schemas.Mask:
    """Encode a manual mask, at full resolution unless it is too large.

    Args:
        found: (H, W) mask of the full size.
        locked: Locked pixels, see :func:`mask`.
    """
    rows, cols = bounding_box(found) or (slice(0, 1), slice(0, 1))
    part = found[rows, cols].astype(np.uint8) * 255
    return _encoded(part, (rows, cols), locked, HAND_SIDE)


def live_mask(look: Preview, picture: WorkingImage, locked: NDArray[np.bool_] | None) -> schemas.Mask:
    """Encode a live preview of the whole region, at no more pixels than a drag needs.

    Args:
        look: View that the network saw.
        picture: Image that they belong to.
        locked: Locked pixels, see :func:`mask`.
    """
    view = look.view
    return _mask(
        look.probs,
        (view.top, view.top + view.height, view.left, view.left + view.width),
        picture,
        locked,
        LIVE_SIDE,
    )


def _mask(
    probs: NDArray[np.float32],
    box: tuple[int, int, int, int],
    picture: WorkingImage,
    locked: NDArray[np.bool_] | None,
    max_side: int,
) -> schemas.Mask:
    """Probabilities of a box (first row, end of rows, first column, end of columns) of an image."""
    part = np.rint(probs * 255).astype(np.uint8)
    rows, cols = (
        slice(start * picture.factor, min(side, end * picture.factor))
        for start, end, side in ((*box[:2], picture.size[0]), (*box[2:], picture.size[1]))
    )
    return _encoded(part, (rows, cols), locked, max_side)


def _encoded(
    part: NDArray[np.uint8], box: tuple[slice, slice], locked: NDArray[np.bool_] | None, max_side: int
) -> schemas.Mask:
    """Values of 0 to 255 over a box (rows, columns) of the full-size image."""
    rows, cols = box
    if max(part.shape) > max_side:
        scale = max_side / max(part.shape)
        part = np.asarray(cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
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


def finished(one: SegmentedObject) -> schemas.Object:
    """Finished object for the page."""
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
    """Current draft, or None."""
    if state.draft is None:
        return None
    edits = None if state.draft.edits is None else state.draft.edits.id
    return schemas.Draft(
        clicks=[_click(made) for made in state.draft.clicks],
        class_id=state.draft.class_id,
        edits=edits,
        threshold=state.draft.threshold,
    )


def _click(made: MadeClick) -> schemas.UsedClick:
    click = made.click
    return schemas.UsedClick(
        row=click.row, col=click.col, positive=click.positive, radius=click.radius, given=made.given
    )
