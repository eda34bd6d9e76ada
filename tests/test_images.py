"""Image and mask files of every bit depth: one scaling rule, and one error for every broken file."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dct_seg.data.brightness import to_uint8
from dct_seg.data.images import (
    UnreadableFileError,
    image_size,
    mask_of_png,
    read_image,
    read_on_white,
    read_values,
)
from dct_seg.data.labels import soft_problem

RAMP = np.tile(np.arange(256), (20, 1))


def gray(path: Path, values: NDArray[Any]) -> NDArray[np.uint8]:
    Image.fromarray(values).save(path)
    return read_image(path)[:, :, 0]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("8 bits in 32.tif", RAMP.astype(np.int32)),
        ("8 bits in 16.png", RAMP.astype(np.uint16)),
        ("10 bits in 16.png", (RAMP * 4).astype(np.uint16)),
        ("12 bits in 16.png", (RAMP * 16).astype(np.uint16)),
        ("12 bits in 16.tif", (RAMP * 16).astype(np.uint16)),
        ("16 bits.png", (RAMP * 257).astype(np.uint16)),
        ("an offset of 29000.png", (RAMP * 8 + 29_000).astype(np.uint16)),
        ("below 0.tif", (RAMP * 16 - 1024).astype(np.int32)),
        ("bytes as floats.tif", RAMP.astype(np.float32)),
        ("floats to 1.tif", (RAMP / 255).astype(np.float32)),
        ("floats to 0.01.tif", (RAMP / 25_500).astype(np.float32)),
        ("floats around 0.tif", (RAMP / 127.5 - 1).astype(np.float32)),
    ],
)
def test_every_depth_reads_as_the_8_bit_file_of_the_same_numbers(
    tmp_path: Path, name: str, values: NDArray[Any]
) -> None:
    assert (gray(tmp_path / name, values) == RAMP).all()


def test_partial_8_bit_range_is_unchanged_in_every_type() -> None:
    part = np.arange(50, 181)
    for kind in (np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64):
        assert (to_uint8(part.astype(kind)) == part).all()


@pytest.mark.parametrize("stray", [np.inf, -np.inf, np.nan, 1e38, -3.4e38])
def test_pixel_without_a_brightness_does_not_affect_the_others(tmp_path: Path, stray: float) -> None:
    values = (RAMP / 255).astype(np.float32)
    values[7, 100] = stray
    read = gray(tmp_path / "x.tif", values)
    assert read[7, 100] == (255 if stray == np.inf else 0)
    read[7, 100] = 100
    assert (read == RAMP).all()


def test_dead_pixel_of_a_large_image_does_not_darken_the_rest() -> None:
    values = np.tile((RAMP * 2).astype(np.uint16), (10, 1))
    values[5, 100], values[9, 200] = 65535, 0
    read = to_uint8(values)
    assert read[5, 100] == 255
    assert (read[0] == RAMP[0]).all()


def test_no_data_value_of_a_tiff_is_ignored(tmp_path: Path) -> None:
    values = (RAMP * 3.0 + 500).astype(np.float32)
    values[:, :100] = -9999
    image = Image.fromarray(values)
    image.save(tmp_path / "dem.tif", tiffinfo={42113: "-9999"})
    read = read_image(tmp_path / "dem.tif")[:, :, 0]
    assert not read[:, :100].any()
    assert (read[0, 100], read[0, 255]) == (0, 255)


def test_no_data_value_of_16_bit_colors_is_ignored(tmp_path: Path) -> None:
    colors = np.repeat((RAMP[:, :, None] * 2 + 500).astype(np.uint16), 3, 2)
    colors[:, :100] = 65535
    path = str(tmp_path / "a.tif")
    cv2.imwrite(path, colors, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    add_no_data(tmp_path / "a.tif", "65535")
    read = read_image(path)[:, :, 0]
    assert not read[:, :100].any()
    assert (read[0, 100], read[0, 255]) == (0, 255)


def add_no_data(path: Path, value: str) -> None:
    """Add GDAL's tag to a TIFF of one page: a copy of its list of tags, at the end of the file."""
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    tags = data[start + 2 : start + 2 + 12 * count]
    text = value.encode() + b"\0"
    struct.pack_into("<I", data, 4, len(data) + len(text) + len(text) % 2)
    tags += struct.pack("<HHII", 42113, 2, len(text), len(data))
    data += text + bytes(len(text) % 2)
    path.write_bytes(data + struct.pack("<H", count + 1) + tags + bytes(4))


def test_half_precision_infinity_does_not_affect_the_others() -> None:
    values = np.array([0, 0.5, 1, np.inf, -np.inf], np.float16)
    assert to_uint8(values).tolist() == [0, 128, 255, 255, 0]


@pytest.mark.parametrize("value", [0, 7, 300, 65535, -5.0, 0.25])
def test_image_of_one_value_is_all_dark_or_all_bright(value: float) -> None:
    values = np.full((4, 5), value, np.float32 if isinstance(value, float) else np.uint16)
    wanted = 0 if value <= 0 else value if value in (7,) else 255
    assert (to_uint8(values) == wanted).all()


def test_values_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="an image must contain numbers, got an array of complex128"):
        to_uint8(np.zeros((2, 2), complex))


@pytest.mark.parametrize("name", ["color.png", "color.tif", "alpha.png"])
def test_16_bit_colors_keep_the_bits_that_pillow_drops(tmp_path: Path, name: str) -> None:
    colors = np.dstack([RAMP, RAMP // 2, 255 - RAMP]).astype(np.uint16) * 16
    alpha = [np.full(RAMP.shape, 65535, np.uint16)] if name == "alpha.png" else []
    cv2.imwrite(str(tmp_path / name), np.dstack([colors[:, :, ::-1], *alpha]))
    read = read_image(tmp_path / name).astype(int)
    assert (read == np.dstack([RAMP, RAMP // 2, 255 - RAMP])).all()
    assert image_size(tmp_path / name) == RAMP.shape


def test_16_bit_color_mask_keeps_its_labels(tmp_path: Path) -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[2:4, 3:6] = 3
    cv2.imwrite(str(tmp_path / "m.png"), np.repeat(labels[:, :, None], 3, 2))
    assert (read_values(tmp_path / "m.png") == labels).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "deep.png", "x.tif"])
def test_every_exif_orientation_is_rotated_upright(tmp_path: Path, orientation: int, name: str) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 15
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(with_exif(pixels, exif))
    path = tmp_path / name
    if name == "deep.png":
        cv2.imwrite(str(path), pixels[:, :, ::-1].astype(np.uint16) * 257)
        add_exif_chunk(path, exif.tobytes())
    else:
        Image.fromarray(pixels).save(path, exif=exif)
    assert (read_image(path) == np.asarray(upright)).all()
    assert image_size(path) == read_image(path).shape[:2]


def with_exif(pixels: NDArray[np.uint8], exif: Image.Exif) -> Image.Image:
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = exif[0x0112]
    return image


def add_exif_chunk(path: Path, exif: bytes) -> None:
    """Put EXIF into a PNG that OpenCV wrote without."""
    import struct
    import zlib

    data, body = path.read_bytes(), exif.removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    path.write_bytes(data[:33] + chunk + data[33:])


def test_broken_exif_leaves_an_image_unrotated(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint8)).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"
    )
    assert read_image(tmp_path / "a.jpg").shape == (20, 256, 3)
    assert image_size(tmp_path / "a.jpg") == (20, 256)


def test_transparency_is_blended_with_white(tmp_path: Path) -> None:
    colors = np.zeros((2, 2, 4), np.uint8)
    colors[:, 1] = (10, 20, 30, 255)
    colors[1, 0, 3] = 51
    Image.fromarray(colors).save(tmp_path / "a.png")
    on_white = read_on_white(tmp_path / "a.png")
    assert on_white is not None
    assert on_white.tolist() == [[[255] * 3, [10, 20, 30]], [[204] * 3, [10, 20, 30]]]
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    assert read_on_white(tmp_path / "b.png") is None
    deep = Image.fromarray(np.array([[0, 4000]], np.uint16))
    deep.info["transparency"] = 0
    deep.save(tmp_path / "c.png", transparency=0)
    assert read_on_white(tmp_path / "c.png") is None


READERS = [read_image, read_values, read_on_white, image_size]


@pytest.mark.parametrize("reader", READERS)
def test_postscript_named_png_does_not_start_a_program(
    tmp_path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    file = tmp_path / "a.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UnreadableFileError, match=r"a\.png cannot be decoded \(not one of .*PNG"):
        reader(file)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "error", [RuntimeError("decoder"), AssertionError(), MemoryError(), TypeError("None")]
)
def test_any_decoder_exception_names_the_file(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    for reader in (read_image, read_values):
        with pytest.raises(
            UnreadableFileError, match=r"a\.png cannot be decoded \(.+\); replace the file"
        ) as caught:
            reader(tmp_path / "a.png")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("suffix", ["avif", "webp", "png", "tif", "jpg", "gif"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    try:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    except (KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with contextlib.suppress(
        UnreadableFileError
    ):  # some formats show the intact part; no other exception is raised
        read_image(path)


def two_objects() -> NDArray[np.uint8]:
    """Labels 3 and 9, at the edge and inside of 12 x 17 pixels."""
    labels = np.zeros((12, 17), np.uint8)
    labels[5:8, 0:4] = 3
    labels[6:9, 6:11] = 9
    return labels


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "empty", "rotated"])
def test_values_of_a_mask_in_memory_are_those_of_the_file_in_every_mode(tmp_path: Path, mode: str) -> None:
    labels = np.zeros_like(two_objects()) if mode == "empty" else two_objects()
    gray_mask = Image.fromarray(labels)
    made = {
        "1": lambda: Image.fromarray(labels > 0),
        "I;16": lambda: Image.fromarray(labels.astype(np.uint16) * 300),
        "P": lambda: Image.frombytes("P", (17, 12), labels.tobytes()),
    }
    image = made.get(mode, lambda: gray_mask.convert(mode) if mode.startswith(("R", "L")) else gray_mask)()
    exif = Image.Exif()
    exif[0x0112] = 6 if mode == "rotated" else 1
    if mode == "P":
        image.putpalette(list(range(0, 768 // 3)) * 3)
    image.save(tmp_path / "mask.png", exif=exif)
    wanted = read_values(tmp_path / "mask.png")
    found = mask_of_png((tmp_path / "mask.png").read_bytes(), "mask.png")
    whole = np.zeros(found.size, found.values.dtype)
    (top, left), (height, width) = found.corner, found.values.shape
    whole[top : top + height, left : left + width] = found.values
    assert np.array_equal(whole, wanted)
    assert found.size == wanted.shape


def test_soft_mask_is_detected_from_the_box_of_its_object_and_from_the_whole() -> None:
    rows, cols = np.ogrid[:90, :120]
    distance = np.hypot(rows - 40, cols - 50)
    for labels in (
        np.clip(250 - 8 * distance, 0, 250).astype(np.uint8),
        np.repeat(np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4), 2, axis=0), 1, axis=1),
        np.pad(np.arange(1, 10, dtype=np.uint8)[None], ((3, 3), (0, 9))),
    ):
        file = io.BytesIO()
        Image.fromarray(labels).save(file, format="PNG")
        assert soft_problem(mask_of_png(file.getvalue(), "mask").values) == soft_problem(labels)
