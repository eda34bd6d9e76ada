"""Read image and mask files of any mode, rotated upright by their EXIF tag.

Every reader converts images to 8 bits per channel by one rule, `to_uint8`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

IGNORE = 255
"""Label of ignored pixels: never clicked, never counted."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that Pillow decodes itself; it would pass EPS and WMF to other programs."""

STRAY_PIXELS = 10_000
"""One pixel in this many is an outlier at either end of the value range."""
LARGEST_VALUE = 1e30
"""Larger floats are fill values of other programs, not brightness."""

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_500  # limit of JPEG, which the annotator sends to its page
TOO_LARGE = f"at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} a side are taken: cut it in parts"

_ORIENTATION = 0x0112
_SIDES_SWAP = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
_NO_DATA = 42113  # GDAL's TIFF tag: the value of pixels that hold nothing


class UnreadableFileError(ValueError):
    """A file that exists and cannot be decoded; training skips it, everything else stops."""


@dataclass(frozen=True)
class _Decoded:
    """Decoded image in the file's own orientation.

    Args:
        image: Loaded image.
        deep: (H, W, 3 or 4) values of a color image with 16 bits per channel, of which Pillow keeps 8.
        orientation: EXIF's number; 1 is upright.
    """

    image: Image.Image
    deep: NDArray[np.uint16] | None
    orientation: int


@cache
def image_formats() -> tuple[str, ...]:
    """The names of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_image(path: str | Path, *, file: BinaryIO | None = None) -> NDArray[np.uint8]:
    """An image file as (H, W, 3) RGB uint8, upright, whatever it holds.

    Gray is repeated and alpha is dropped. 16 and 32 bits and floats are scaled by `to_uint8`.

    Args:
        path: Image file.
        file: Image file where it is open already; ``path`` is then its name in messages.

    Raises:
        FileNotFoundError: No such file.
        UnreadableFileError: (a ValueError) The file cannot be decoded.
    """
    with _decoding(path, file):
        found = _decode(Path(path).read_bytes() if file is None else file.read())
        return _upright(_colors(found)[:, :, :3], found)


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image that came over a wire, and trust nothing in it.

    Args:
        data: A whole image file.

    Returns:
        (H, W, 3) RGB, upright; gray, alpha, 16 bits and floats as in :func:`read_image`.

    Raises:
        UnreadableFileError: When it is no image, one of an unsafe format, or a huge one.
    """
    try:
        with _quiet():
            with Image.open(io.BytesIO(data), formats=image_formats()) as header:
                width, height = header.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE:
                found = _decode(data)
                return _upright(_colors(found)[:, :, :3], found)
    except Image.DecompressionBombError as error:
        raise UnreadableFileError(f"the image is far too large; {TOO_LARGE}") from error
    except Exception as error:
        raise UnreadableFileError(
            f"the image cannot be decoded ({_reason(error)}); send a whole JPEG, PNG, WebP or TIFF file"
        ) from error
    raise UnreadableFileError(f"the image is {width}x{height}; {TOO_LARGE}")


def read_on_white(path: str | Path, *, file: BinaryIO | None = None) -> NDArray[np.uint8] | None:
    """An image with transparency laid on white, (H, W, 3) RGB uint8, upright; None for one without.

    Args:
        path: Image file.
        file: Image file where it is open already; ``path`` is then its name in messages.

    Raises:
        FileNotFoundError: No such file.
        UnreadableFileError: (a ValueError) The file cannot be decoded.
    """
    with _decoding(path, file):
        with Image.open(file or path, formats=image_formats()) as image:
            if not image.has_transparency_data:
                return None
        if file is not None:
            file.seek(0)
        found = _decode(Path(path).read_bytes() if file is None else file.read())
        colors = _colors(found).astype(np.uint16)
        alpha = colors[:, :, 3:]
        on_white = (colors[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
        return _upright(on_white.astype(np.uint8), found)


def to_uint8(values: NDArray[Any], *, missing: float | None = None) -> NDArray[np.uint8]:
    """Brightness of any type as 0..255, by the one rule that all readers share.

    Whole numbers from 0 to 255 stay as they are, whatever type holds them. All others are stretched: the
    lowest becomes 0 and the highest 255, over all channels together. One pixel in 10,000 at either end may
    lie beyond, so that a dead pixel does not darken the rest. NaN, ``missing`` and fill values (beyond 1e30)
    become 0, infinity 255; none of them counts for the range.

    Args:
        values: Numbers, any shape.
        missing: The value of pixels that hold nothing.

    Raises:
        TypeError: The array holds no numbers.

    Examples:
        >>> to_uint8(np.array([0, 16, 4080], np.uint16)), to_uint8(np.array([0, 200], np.int32))
        (array([  0,   1, 255], dtype=uint8), array([  0, 200], dtype=uint8))
        >>> to_uint8(np.array([-1.0, 0.0, 1.0, np.inf, np.nan]))
        array([  0, 128, 255, 255,   0], dtype=uint8)
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"an image holds numbers, got an array of {values.dtype}")
    counts = np.ones(values.shape, bool) if missing is None else values != missing
    if values.dtype.kind == "f":
        counts &= np.abs(values) <= LARGEST_VALUE
    low, high = _range(values[counts])
    is_small = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    numbers = values.astype(np.float32 if is_small else np.float64)
    if not _holds_bytes(values, counts):
        numbers = (np.where(counts, numbers, low) - low) * (255 / (high - low))
    result: NDArray[np.uint8] = np.rint(np.clip(np.where(counts, numbers, 0), 0, 255)).astype(np.uint8)
    if values.dtype.kind == "f":
        result[np.isposinf(values)] = 255
    return result


def _range(numbers: NDArray[Any]) -> tuple[float, float]:
    """The lowest and the highest of the numbers but for the stray ones; never the same."""
    if not numbers.size:
        return 0.0, 1.0
    stray = numbers.size // STRAY_PIXELS
    if stray:
        ends = (stray, numbers.size - 1 - stray)
        numbers = np.partition(numbers.ravel(), ends)[list(ends)]
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:  # one value alone: white, or black where it is 0 or less
        low = min(low, 0.0)
        high = max(high, low + 1) if high <= 0 else high
    return low, high


def _holds_bytes(values: NDArray[Any], counts: NDArray[np.bool_]) -> bool:
    """Whether the numbers are those of an 8-bit image in a wider type."""
    numbers = values[counts]
    if not numbers.size or numbers.min() < 0 or numbers.max() > 255:
        return False
    return values.dtype.kind in "iu" or (numbers.max() > 1 and bool((numbers == np.rint(numbers)).all()))


def read_values(path: str | Path) -> NDArray[np.integer]:
    """A mask file's stored numbers, (H, W): palette indices, gray values, or the one value of its channels.

    Raises:
        FileNotFoundError: No such file.
        UnreadableFileError: The file cannot be decoded.
        ValueError: A color image, or one with fractions.
    """
    with _decoding(path):
        found = _decode(Path(path).read_bytes())
    return _one_channel(found, str(path))


def values_of_png(data: bytes, name: str) -> NDArray[np.integer]:
    """Read the values of a PNG in memory, as `read_values` does; ``name`` stands for it in messages.

    Raises:
        UnreadableFileError: The bytes are no PNG that can be decoded.
        ValueError: A color image.
    """
    try:
        with _quiet():
            found = _decode(data, formats=("PNG",))
    except Exception as error:
        raise UnreadableFileError(f"{name} is no PNG that can be decoded ({_reason(error)})") from error
    return _one_channel(found, name)


def read_nonzero(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask file as (H, W) bool, True above 0: by palette index, or in any channel but alpha."""
    with _decoding(path):
        found = _decode(Path(path).read_bytes())
    values = np.greater(_stored(found), 0)
    return _upright(values if values.ndim == 2 else np.asarray(values.any(axis=2)), found)


def read_first_channel(path: str | Path) -> NDArray[np.uint8]:
    """The first channel of a mask file as it would be shown, (H, W): gray, or the red of a color image."""
    return np.ascontiguousarray(read_image(path)[:, :, 0])


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image as `read_image` gives it, from the header; of PNG and TIFF, from the whole.

    Raises:
        FileNotFoundError: No such file.
        UnreadableFileError: The header says nothing.
    """
    with _decoding(path), Image.open(path, formats=image_formats()) as image:
        if image.format == "TIFF":  # Pillow turns these itself, and tells so only once they are loaded
            image.load()
        width, height = image.size
        return (width, height) if _orientation(image) in _SIDES_SWAP else (height, width)


def size_mismatch(image: str, image_size: tuple[int, int], mask: str, mask_size: tuple[int, int]) -> str:
    """The line that says that an image and its mask differ in size; sizes are (height, width)."""
    (height, width), (rows, cols) = image_size, mask_size
    return (
        f"{image} is {width}x{height} but {mask} is {cols}x{rows}; is one of them rotated by EXIF? "
        "`dct-seg data check DIR` lists all"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Large images and broken EXIF are no news here. Threads share these filters and may put back each
        # other's, so nothing of anyone else may be silenced.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextmanager
def _decoding(path: str | Path, file: BinaryIO | None = None) -> Iterator[None]:
    """Name the file in whatever goes wrong: a broken one makes Pillow raise almost anything."""
    if file is None and not Path(path).exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with _quiet():
            yield
    except Exception as error:
        raise UnreadableFileError(
            f"{path} cannot be decoded ({_reason(error)}); replace it or take it out of the folder"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not one of {', '.join(image_formats())}"
    return " ".join(str(error).split()) or type(error).__name__


def _decode(data: bytes, formats: tuple[str, ...] | None = None) -> _Decoded:
    image: Image.Image = Image.open(io.BytesIO(data), formats=formats or image_formats())
    is_deep = image.mode in ("RGB", "RGBA") and image.format in ("PNG", "TIFF") and "16" in _raw_mode(image)
    image.load()
    # Pillow and OpenCV turn a TIFF themselves.
    orientation = 1 if image.format == "TIFF" else _orientation(image)
    deep = None
    if is_deep:
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None or deep.ndim != 3 or deep.dtype != np.uint16:
            raise ValueError("its 16-bit colors cannot be read")
        deep = deep[:, :, [2, 1, 0, 3][: deep.shape[2]]]  # OpenCV's are BGR
    return _Decoded(image, deep, orientation)


def _raw_mode(image: Image.Image) -> str:
    """Raw mode of the file's pixels, in Pillow's terms, such as ``RGB;16B``."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    stored = tiles[0][3]
    return str(stored[0]) if isinstance(stored, tuple) and stored else str(stored)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF: the image is not rotated, as in other viewers
        return 1
    return found if isinstance(found, int) else 1


def _upright(array: NDArray[Any], found: _Decoded) -> NDArray[Any]:
    """The array turned as EXIF says, contiguous."""
    if found.orientation in _SIDES_SWAP:
        array = array.swapaxes(0, 1)
    flip_rows, flip_cols = found.orientation in (3, 4, 7, 8), found.orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(array[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1])


def _colors(found: _Decoded) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, or (H, W, 4) with alpha where there is any transparency."""
    image = found.image
    if found.deep is not None:
        colors = to_uint8(found.deep[:, :, :3])
        return np.dstack([colors, (found.deep[:, :, 3:] // 257).astype(np.uint8)])
    if image.mode.startswith(("I", "F")):
        return np.repeat(to_uint8(np.asarray(image), missing=_no_data(image))[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _no_data(image: Image.Image) -> float | None:
    try:
        return float(getattr(image, "tag_v2", {})[_NO_DATA])
    except (KeyError, TypeError, ValueError):
        return None


def _stored(found: _Decoded) -> NDArray[np.generic]:
    """The numbers in the file, (H, W) or (H, W, C), without alpha."""
    image = found.image
    if found.deep is not None:
        return found.deep[:, :, :3]
    values: NDArray[np.generic] = np.asarray(image.convert("L") if image.mode == "1" else image)
    if image.mode in ("LA", "PA"):
        return values[:, :, 0]
    return values[:, :, :3] if image.mode == "RGBA" else values


def _one_channel(found: _Decoded, name: str) -> NDArray[np.integer]:
    values = _stored(found)
    wanted = "save the mask as an indexed or gray PNG of labels"
    if values.ndim == 3:
        if (values != values[:, :, :1]).any():
            raise ValueError(f"{name} is a color image ({found.image.mode}); {wanted}")
        values = values[:, :, 0]
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} holds fractions (mode {found.image.mode}); {wanted}")
    return _upright(values, found)
