"""Readers of image and mask files of any mode; images are rotated upright by their EXIF tag.

Every reader converts images to 8 bits per channel by one rule, `to_uint8`. A file of several images (a
TIFF of pages, DICOM frames, NIfTI slices) is read image by image: ``stack.tif#3`` is the third one.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dct_seg.data import medical
from dct_seg.data.brightness import Stored, Window
from dct_seg.data.pages import split_page, suffix_of

IGNORE = 255
"""Label of ignored pixels: never clicked, never counted."""

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    *HEIF_SUFFIXES,
    *medical.SUFFIXES,
)
OTHER_SUFFIXES = (
    *(".psd", ".svg", ".eps", ".wmf", ".exr", ".hdr", ".jxl", ".npy", ".npz", ".mha", ".mhd", ".nrrd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
    *(".czi", ".nd2", ".lif", ".svs", ".ndpi"),
)
"""Suffixes of unsupported image formats, which are listed with an error."""
SEVERAL_SUFFIXES = (".tif", ".tiff", *medical.SUFFIXES)
"""Suffixes of files that may contain several images."""
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that Pillow decodes itself; it would pass EPS and WMF to other programs."""

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_500  # limit of JPEG, the format of the annotator's page
TOO_LARGE = f"at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels per side are allowed; split it"

_ORIENTATION = 0x0112
_SIDES_SWAP = (5, 6, 7, 8)  # the EXIF orientations that swap width and height
_SUBFILE = 254  # TIFF tag: bits 1 and 4 mark a page as a smaller copy or a mask of another one
_NO_DATA = 42113  # GDAL's TIFF tag: the value of pixels without data


class UnreadableFileError(ValueError):
    """File that cannot be decoded; training skips it, other commands stop."""


@dataclass(frozen=True)
class _Decoded:
    """Decoded image in the file's own orientation.

    Args:
        image: Loaded image.
        deep: (H, W, 3 or 4) values of a color image with 16 bits per channel; Pillow keeps only 8.
        orientation: EXIF orientation; 1 is upright.
    """

    image: Image.Image
    deep: NDArray[np.uint16] | None
    orientation: int


@dataclass(frozen=True)
class Shown:
    """Image for the display and the network.

    Args:
        image: (H, W, 3) RGB uint8, upright.
        window: Effective window, or None for an image of 8 bits, which has none.
        extent: Lowest and highest value of the file, or None for an image of 8 bits.
    """

    image: NDArray[np.uint8]
    window: Window | None = None
    extent: Window | None = None


@cache
def image_formats() -> tuple[str, ...]:
    """Names of `FORMATS` that this Pillow supports; HEIF with the extra ``[heic]``."""
    Image.init()
    try:
        import pi_heif
    except ImportError:
        pass
    else:
        pi_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def page_numbers(path: str | Path, *, file: BinaryIO | None = None) -> dict[int, tuple[int, int]]:
    """List the numbers of the images in a file, from 1, each with its (height, width), from the headers.

    Pages of a TIFF that are smaller copies or masks of others are skipped.

    Args:
        path: Image file.
        file: Open image file; ``path`` is then only its name, for messages.

    Raises:
        FileNotFoundError: When the file does not exist.
        UnreadableFileError: (a ValueError) When the file cannot be decoded.
    """
    with _decoding(path, file), _opened(path, file) as stream:
        kind = medical.kind_of(path, stream)
        if kind is not None:
            sizes = medical.slice_sizes(kind, str(path), stream)
            return dict(enumerate(sizes, start=1))
        with Image.open(stream, formats=image_formats()) as image:
            found = {}
            for page in range(getattr(image, "n_frames", 1) if image.format == "TIFF" else 1):
                if page:
                    image.seek(page)
                if page == 0 or not int(getattr(image, "tag_v2", {}).get(_SUBFILE, 0)) & 5:
                    found[page + 1] = (image.size[1], image.size[0])
            return found


def read_image(
    path: str | Path, *, file: BinaryIO | None = None, page: int | None = None, window: Window | None = None
) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) RGB uint8, upright, from any mode.

    Gray is repeated and alpha is dropped. 16 and 32 bits and floats are scaled by `to_uint8`.

    Args:
        path: Image file; ``stack.tif#3`` is the third image in it.
        file: Open image file, or None; ``path`` is then only its name, for messages.
        page: Number of the image in the file, from 1, or None for the one in ``path``.
        window: Values shown as 0 and 255 above 8 bits per channel, or None for the default rule.

    Raises:
        FileNotFoundError: When the file does not exist.
        UnreadableFileError: (a ValueError) When the file cannot be decoded.
    """
    return _read(path, file, page, window, measured=False).image


def read_shown(
    path: str | Path, *, file: BinaryIO | None = None, page: int | None = None, window: Window | None = None
) -> Shown:
    """Read an image file and its effective window, see `read_image`."""
    return _read(path, file, page, window, measured=True)


def _read(
    path: str | Path, file: BinaryIO | None, page: int | None, window: Window | None, *, measured: bool
) -> Shown:
    whole, number = split_page(path)
    number = page or number
    with _decoding(path, file), _opened(whole, file) as stream:
        kind = medical.kind_of(whole, stream)
        found = None if kind is not None else _decode(stream.read(), page=number)
        stored = _deep_values(found) if kind is None else medical.read_slice(kind, str(whole), stream, number)
        if stored is None:
            assert found is not None
            return Shown(_upright(_rgb_or_rgba(found)[:, :, :3], found))
        image = stored.to_uint8(window)
        image = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image[:, :, :3]
        image = image if found is None else _upright(image, found)
        if not (measured and stored.has_levels):
            return Shown(image)
        return Shown(image, stored.levels(window) or Window(0.0, 255.0), stored.extent())


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an untrusted image from the network.

    Args:
        data: Bytes of an image file.

    Returns:
        (H, W, 3) RGB, upright; gray, alpha, 16 bits and floats as in `read_image`.

    Raises:
        UnreadableFileError: When the data is not an image, has an unsafe format, or is too large.
    """
    try:
        with _quiet():
            with Image.open(io.BytesIO(data), formats=image_formats()) as header:
                width, height = header.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE:
                found = _decode(data)
                return _upright(_rgb_or_rgba(found)[:, :, :3], found)
    except Image.DecompressionBombError as error:
        raise UnreadableFileError(f"the image is far too large; {TOO_LARGE}") from error
    except Exception as error:
        raise UnreadableFileError(
            f"the image cannot be decoded ({_reason(error)}); send a whole JPEG, PNG, WebP or TIFF file"
        ) from error
    raise UnreadableFileError(f"the image is {width}x{height}; {TOO_LARGE}")


def read_on_white(
    path: str | Path, *, file: BinaryIO | None = None, page: int | None = None, window: Window | None = None
) -> NDArray[np.uint8] | None:
    """Read an image with transparency on white, (H, W, 3) RGB uint8, upright; None for an opaque one.

    Args:
        path: Image file.
        file: Open image file, or None; ``path`` is then only its name, for messages.
        page: Number of the image in the file, see `read_image`.
        window: Values that become 0 and 255, see `read_image`.

    Raises:
        FileNotFoundError: When the file does not exist.
        UnreadableFileError: (a ValueError) When the file cannot be decoded.
    """
    with _decoding(path, file):
        whole, number = split_page(path)
        with _opened(whole, file) as stream:
            if medical.kind_of(whole, stream) is not None:
                return None
            with Image.open(stream, formats=image_formats()) as image:
                if not image.has_transparency_data:
                    return None
            stream.seek(0)
            found = _decode(stream.read(), page=page or number)
        colors = _rgb_or_rgba(found, window).astype(np.uint16)
        if colors.shape[2] == 3:  # a transparent value of 16 bits
            return None
        alpha = colors[:, :, 3:]
        on_white = (colors[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
        return _upright(on_white.astype(np.uint8), found)


def read_values(path: str | Path) -> NDArray[np.integer]:
    """Read the numbers stored in a mask file, (H, W): palette indices, or gray values.

    Raises:
        FileNotFoundError: When the file does not exist.
        UnreadableFileError: When the file cannot be decoded.
        ValueError: When the image has color or fractional values.
    """
    with _decoding(path):
        found = _decode(Path(path).read_bytes())
    return _one_channel(found, str(path))


class PngMask(NamedTuple):
    """Values of a mask PNG in the box of its values above 0; the others are 0.

    Args:
        size: (height, width) of the whole mask.
        corner: (row, col) of the first value.
        values: (h, w), with one pixel around the box where the mask has it.
    """

    size: tuple[int, int]
    corner: tuple[int, int]
    values: NDArray[np.integer]


def mask_of_png(data: bytes, name: str) -> PngMask:
    """Read the values of a PNG in memory like `read_values`; ``name`` is for messages.

    Raises:
        UnreadableFileError: When the bytes are not a decodable PNG.
        ValueError: When the image has color.
    """
    try:
        with _quiet():
            found = _decode(data, formats=("PNG",))
    except Exception as error:
        raise UnreadableFileError(f"{name} is not a PNG that can be decoded ({_reason(error)})") from error
    image = found.image
    if image.mode not in ("1", "L", "P", "RGB") or found.deep is not None or found.orientation != 1:
        values = _one_channel(found, name)
        return PngMask((values.shape[0], values.shape[1]), (0, 0), values)
    # Cropped in Pillow: a large image with a small object is not copied three times.
    left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
    left, top = max(0, left - 1), max(0, top - 1)
    cropped = image.crop((left, top, min(image.width, right + 1), min(image.height, bottom + 1)))
    values = _one_channel(replace(found, image=cropped), name)
    return PngMask((image.height, image.width), (top, left), values)


def read_nonzero(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask file as (H, W) bool, True above 0: by palette index, or in any channel except alpha."""
    with _decoding(path):
        found = _decode(Path(path).read_bytes())
    values = np.greater(_stored_values(found), 0)
    return _upright(values if values.ndim == 2 else np.asarray(values.any(axis=2)), found)


def read_first_channel(path: str | Path) -> NDArray[np.uint8]:
    """Read the first channel of a mask file as displayed, (H, W): gray, or red of a color image."""
    return np.ascontiguousarray(read_image(path)[:, :, 0])


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the upright size (height, width) of an image from the header; PNG and TIFF are decoded.

    Raises:
        FileNotFoundError: When the file does not exist.
        UnreadableFileError: When the header does not contain it.
    """
    whole, page = split_page(path)
    with _decoding(path), whole.open("rb") as file:
        is_medical = medical.kind_of(whole, file) is not None
        if page == 1 and not is_medical:
            with Image.open(file, formats=image_formats()) as image:
                if image.format == "TIFF":  # Pillow rotates these itself, and reports it only after loading
                    image.load()
                width, height = image.size
                return (width, height) if _orientation(image) in _SIDES_SWAP else (height, width)
    if not is_medical:  # a TIFF is rotated while it is loaded
        return read_image(path).shape[:2]
    sizes = page_numbers(whole)
    if page not in sizes:
        raise UnreadableFileError(f"{path} cannot be decoded (it contains {len(sizes)} images)")
    return sizes[page]


def size_mismatch(image: str, image_size: tuple[int, int], mask: str, mask_size: tuple[int, int]) -> str:
    """Make the message that an image and its mask differ in size; sizes are (height, width)."""
    (height, width), (rows, cols) = image_size, mask_size
    return (
        f"{image} is {width}x{height} but {mask} is {cols}x{rows}; is one of them rotated by EXIF? "
        "`dct-seg data check DIR` lists all"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Warnings about large images and broken EXIF are not useful here. Threads share these filters and may
        # restore each other's, so only these warnings are silenced.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextmanager
def _decoding(path: str | Path, file: BinaryIO | None = None) -> Iterator[None]:
    """Add the file's name to any error, since Pillow raises many types for broken files."""
    if file is None and not split_page(path)[0].exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with _quiet():
            yield
    except ModuleNotFoundError as error:
        raise UnreadableFileError(f"{path} is not read: {error}") from error
    except Exception as error:
        needed = heif_needed(path)
        if needed:
            raise UnreadableFileError(needed) from error
        raise UnreadableFileError(
            f"{path} cannot be decoded ({_reason(error)}); replace the file, or remove it from the folder"
        ) from error


def heif_needed(path: str | Path) -> str | None:
    """Make the message for a HEIC file without the extra."""
    if suffix_of(path) not in HEIF_SUFFIXES or "HEIF" in image_formats():
        return None
    return f"{path} is not read: HEIC needs pi-heif; pip install 'dct-seg[heic]'"


@contextmanager
def _opened(path: str | Path, file: BinaryIO | None) -> Iterator[BinaryIO]:
    """Use the given file, which stays open, or open the path."""
    if file is not None:
        yield file
        return
    with Path(path).open("rb") as opened:
        yield opened


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not one of {', '.join(image_formats())}"
    return " ".join(str(error).split()) or type(error).__name__


def _decode(data: bytes, formats: tuple[str, ...] | None = None, *, page: int = 1) -> _Decoded:
    image: Image.Image = Image.open(io.BytesIO(data), formats=formats or image_formats())
    if page > 1:
        if image.format != "TIFF" or page > getattr(image, "n_frames", 1):
            raise ValueError(f"it contains {getattr(image, 'n_frames', 1)} images")
        image.seek(page - 1)
    is_deep = image.mode in ("RGB", "RGBA") and image.format in ("PNG", "TIFF") and "16" in _raw_mode(image)
    image.load()
    # Pillow and OpenCV rotate a TIFF themselves.
    orientation = 1 if image.format == "TIFF" else _orientation(image)
    deep = None
    if is_deep:
        deep = _decode_deep(data, page)
        if deep is None or deep.ndim != 3 or deep.dtype != np.uint16:
            raise ValueError("its 16-bit colors cannot be read")
        deep = deep[:, :, [2, 1, 0, 3][: deep.shape[2]]]  # OpenCV's are BGR
    return _Decoded(image, deep, orientation)


def _decode_deep(data: bytes, page: int) -> NDArray[Any] | None:
    """Decode a page with OpenCV, which keeps 16 bits per channel, or return None."""
    raw = np.frombuffer(data, np.uint8)
    if page == 1:
        return cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
    _, pages = cv2.imdecodemulti(raw, cv2.IMREAD_UNCHANGED, None, (page - 1, page))
    return pages[0] if pages else None


def _raw_mode(image: Image.Image) -> str:
    """Get the raw mode of the file's pixels in Pillow, such as ``RGB;16B``."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    stored = tiles[0][3]
    return str(stored[0]) if isinstance(stored, tuple) and stored else str(stored)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF: no rotation, as in other viewers
        return 1
    return found if isinstance(found, int) else 1


def _upright(array: NDArray[Any], found: _Decoded) -> NDArray[Any]:
    """Rotate an array by its EXIF orientation; the result is contiguous."""
    if found.orientation in _SIDES_SWAP:
        array = array.swapaxes(0, 1)
    flip_rows, flip_cols = found.orientation in (3, 4, 7, 8), found.orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(array[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1])


def _deep_values(found: _Decoded | None) -> Stored | None:
    """Get the values of an image with more than 8 bits per channel, or None."""
    if found is None:
        return None
    if found.deep is not None:
        return Stored(found.deep[:, :, :3], missing=_no_data(found.image))
    if found.image.mode.startswith(("I", "F")):
        return Stored(np.asarray(found.image), missing=_no_data(found.image))
    return None


def _rgb_or_rgba(found: _Decoded, window: Window | None = None) -> NDArray[np.uint8]:
    """Convert to (H, W, 3) RGB, or (H, W, 4) with alpha if there is any transparency."""
    stored = _deep_values(found)
    if stored is not None:
        shown = stored.to_uint8(window)
        if found.deep is None:
            return np.repeat(shown[:, :, None], 3, axis=2)
        return np.dstack([shown, (found.deep[:, :, 3:] // 257).astype(np.uint8)])
    image = found.image
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _no_data(image: Image.Image) -> float | None:
    try:
        return float(getattr(image, "tag_v2", {})[_NO_DATA])
    except (KeyError, TypeError, ValueError):
        return None


def _stored_values(found: _Decoded) -> NDArray[np.generic]:
    """Get the stored numbers, (H, W) or (H, W, C), without alpha."""
    image = found.image
    if found.deep is not None:
        return found.deep[:, :, :3]
    values: NDArray[np.generic] = np.asarray(image.convert("L") if image.mode == "1" else image)
    if image.mode in ("LA", "PA"):
        return values[:, :, 0]
    return values[:, :, :3] if image.mode == "RGBA" else values


def _one_channel(found: _Decoded, name: str) -> NDArray[np.integer]:
    values = _stored_values(found)
    wanted = "save the mask as an indexed or gray PNG of labels"
    if values.ndim == 3:
        if (values != values[:, :, :1]).any():
            raise ValueError(f"{name} is a color image ({found.image.mode}); {wanted}")
        values = values[:, :, 0]
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name} contains fractions (mode {found.image.mode}); {wanted}")
    return _upright(values, found)
