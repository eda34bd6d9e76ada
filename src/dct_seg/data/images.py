"""The one place that opens a picture or a mask file.

Pillow, turned upright by its EXIF tag, every mode handled.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

IGNORE = 255
"""The label of pixels that belong to nobody: never clicked, never counted."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535
_TOO_LARGE = f"at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} a side are taken: cut it in parts"
SAFE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that Pillow decodes by itself; it would hand EPS and WMF to other programs."""

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
_BROKEN = (
    OSError,
    SyntaxError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    struct.error,
    EOFError,
    ValueError,
    IndexError,
)


class UnreadableFileError(ValueError):
    """A file that is there and cannot be decoded; training skips it, everything else stops."""


def _open(path: Path) -> Image.Image:
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(file)
            picture.load()
    except _BROKEN as error:
        raise UnreadableFileError(
            f"{path} cannot be decoded ({error}); replace it or take it out of the folder"
        ) from error
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    if picture.getexif().get(_ORIENTATION, 1) == 1:
        return picture
    return ImageOps.exif_transpose(picture)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) RGB uint8, upright, whatever its file holds.

    Gray is repeated, alpha is dropped, 16-bit gray is scaled (Pillow would clip it) and float is scaled by
    its maximum.

    Raises:
        FileNotFoundError: When there is no such file.
        UnreadableFileError: (a ValueError) when it cannot be decoded.
    """
    return _as_rgb(_upright(_open(Path(path))))


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image that came over a wire, and trust nothing in it.

    Args:
        data: A whole image file.

    Returns:
        (H, W, 3) RGB, upright; gray, alpha, 16 bits and floats as in :func:`read_image`.

    Raises:
        UnreadableFileError: When it is no image, one of an unsafe format, or a huge one.
    """
    Image.init()
    formats = [name for name in SAFE_FORMATS if name in Image.OPEN]  # AVIF depends on how Pillow was built
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened: Image.Image = Image.open(io.BytesIO(data), formats=formats)
            width, height = opened.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE:
                return _as_rgb(_upright(opened))
    except Image.DecompressionBombError as error:
        raise UnreadableFileError(f"the image is far too large; {_TOO_LARGE}") from error
    except Exception as error:  # a broken file makes Pillow raise almost anything
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no image that is known here"
        raise UnreadableFileError(
            f"the image cannot be decoded ({reason}); send a whole JPEG, PNG, WebP or TIFF file"
        ) from error
    raise UnreadableFileError(f"the image is {width}x{height}; {_TOO_LARGE}")


def _as_rgb(opened: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of an upright image of any mode."""
    if opened.mode.startswith(("I", "F")):
        return _scaled_gray(np.asarray(opened))
    if "transparency" in opened.info:
        opened = opened.convert("RGBA")
    return np.array(opened if opened.mode == "RGB" else opened.convert("RGB"))


def _scaled_gray(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W) of 16 or 32 bits or floats as (H, W, 3) uint8: 65535 becomes 255.

    What is larger, or float, goes by its maximum.
    """
    numbers = np.nan_to_num(values.astype(np.float64))
    top = float(numbers.max(initial=0.0))
    full = 65535.0 if values.dtype.kind in "iu" and top <= 65535 else max(top, 1.0)
    gray = np.clip(np.rint(numbers * (255.0 / full)), 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def read_values(path: str | Path) -> NDArray[np.integer]:
    """A mask file's stored numbers, (H, W).

    Palette indices, gray values, or the one value that its channels share.

    Raises:
        FileNotFoundError: When there is no such file.
        UnreadableFileError: When it cannot be decoded.
        ValueError: When it is a coloured picture, or has fractions.
    """
    path = Path(path)
    picture = _upright(_open(path))
    if picture.mode == "1":
        picture = picture.convert("L")
    values: NDArray[np.generic] = np.asarray(picture)
    if values.ndim == 3:
        colours = values[:, :, : 1 if picture.mode == "LA" else 3]
        if (colours != colours[:, :, :1]).any():
            raise ValueError(
                f"{path} is a coloured picture ({picture.mode}); save the mask as an indexed or gray PNG of "
                "labels"
            )
        values = colours[:, :, 0]
    if values.dtype.kind not in "iu":
        raise ValueError(
            f"{path} holds fractions (mode {picture.mode}); save the mask as an indexed or gray PNG of labels"
        )
    return values  # type: ignore[return-value]


def read_nonzero(path: str | Path) -> NDArray[np.bool_]:
    """Where a mask file is above 0, (H, W) bool: by palette index, or in any channel but alpha."""
    picture = _upright(_open(Path(path)))
    if picture.mode in ("LA", "PA", "RGBA"):
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    values = np.greater(np.asarray(picture), 0)
    return values if values.ndim == 2 else np.asarray(values.any(axis=2))


def read_first_channel(path: str | Path) -> NDArray[np.uint8]:
    """The first channel of a mask file as it would be shown, (H, W).

    Gray, or the red of a colour or palette picture.
    """
    picture = _upright(_open(Path(path)))
    if picture.mode in ("P", "PA", "CMYK", "YCbCr"):
        picture = picture.convert("RGB")
    if picture.mode == "1":
        picture = picture.convert("L")
    values = np.asarray(picture)
    return np.ascontiguousarray(values if values.ndim == 2 else values[:, :, 0]).astype(np.uint8)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a picture as ``read_image`` gives it, from the header (of a PNG or TIFF, from the
    whole).

    Raises:
        FileNotFoundError: When there is no such file.
        UnreadableFileError: When the header says nothing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if (
                    picture.format == "TIFF"
                ):  # Pillow turns these itself, and tells so only once they are loaded
                    picture.load()
                width, height = picture.size
                turned = picture.getexif().get(_ORIENTATION, 1) in _TURNED
    except _BROKEN as error:
        raise UnreadableFileError(
            f"{path} cannot be decoded ({error}); replace it or take it out of the folder"
        ) from error
    return (width, height) if turned else (height, width)


def size_mismatch(image: str, image_size: tuple[int, int], mask: str, mask_size: tuple[int, int]) -> str:
    """The line that says that a picture and its mask differ in size; sizes are (height, width)."""
    (height, width), (rows, cols) = image_size, mask_size
    return (
        f"{image} is {width}x{height} but {mask} is {cols}x{rows}; is one of them rotated by EXIF? `dct-seg "
        "data check DIR` lists all"
    )
