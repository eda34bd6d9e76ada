"""Multi-image and medical files: TIFF pages, HEIC, DICOM frames, NIfTI slices, and windows."""

from __future__ import annotations

import base64
import io
import struct
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dct_seg.data.brightness import Window, to_uint8
from dct_seg.data.check import check_folder
from dct_seg.data.formats import Folder
from dct_seg.data.images import (
    UnreadableFileError,
    image_formats,
    image_size,
    page_numbers,
    read_image,
    read_shown,
)

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAK8AAgAAAAACmwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEA"
    "AQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAANttZGF0AAAAqygBrwngITip//It3/8THZe5lyeVp79Y//7tmvs1"
    "7/3sm3R+ja8//4UIgNb2v8r3xMLJ3o//WFOmjwB1PkYGP9oWpTo2Ra4taYCFL6pf3OkyeiPiLI8YBWKTpZanRAeFbO76vei4VGba"
    "zK6obykaBIrqQME0UfABeCt5wqcSrAlEzG4ZweqIx0dSIvGLyLv+wIHiiYPnn9yyteDvnpFT616zyVQYIY0HDm+4gAAAAAZFeGlm"
    "AABNTQAqAAAACAABARIAAwAAAAEABgAAAAAAAA=="
)
"""64 x 48 pixels, stored turned: 64 rows, 48 columns, red above at the right, blue below at the left."""
CT = np.linspace(-1000, 3000, 12 * 20).reshape(12, 20).astype(np.int16)


def write_stack(path: Path, *pages: NDArray[Any]) -> None:
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others)


def write_dicom(path: Path, stored: NDArray[Any], **tags: Any) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra [medical]")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    bits = stored.dtype.itemsize * 8
    given = {"Rows": stored.shape[-2], "Columns": stored.shape[-1], "SamplesPerPixel": 1}
    given |= {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    given |= {"PixelRepresentation": int(stored.dtype.kind == "i")}
    given |= {"PhotometricInterpretation": "MONOCHROME2", "SOPClassUID": meta.MediaStorageSOPClassUID}
    given |= {"SOPInstanceUID": meta.MediaStorageSOPInstanceUID, **tags}
    if stored.ndim == 3 and given["SamplesPerPixel"] == 1:
        given["NumberOfFrames"] = len(stored)
    for name, value in given.items():
        setattr(dataset, name, value)
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_nifti(path: Path, volume: NDArray[Any], slope: float = 1, **header: float) -> None:
    nibabel = pytest.importorskip("nibabel", reason="needs the extra [medical]")
    image = nibabel.Nifti1Image(volume, np.eye(4))
    image.header.set_slope_inter(slope, 0)
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)


# Windows


def test_window_is_linear_between_its_ends_and_flat_beyond() -> None:
    values = np.array([-1000, -160, -60, 40, 240, 3000], np.int16)
    assert to_uint8(values, window=Window(-160, 240)).tolist() == [0, 0, 64, 128, 255, 255]


def test_missing_pixels_are_black_with_any_window() -> None:
    assert to_uint8(np.array([-5, 0, 10], np.int16), missing=-5, window=Window(-10, 10)).tolist() == [
        0,
        128,
        255,
    ]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf"))])
def test_invalid_window_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="a window must be two finite values, the lower one first"):
        Window.checked(low, high)


def test_12_bits_in_16_are_shown_through_a_window_and_8_bits_never(tmp_path: Path) -> None:
    deep = np.array([[0, 1000, 2000, 4095]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(np.array([[0, 50, 100, 255]], np.uint8)).save(tmp_path / "flat.png")
    window = Window(1000, 2000)
    shown = read_shown(tmp_path / "deep.png", window=window)
    assert shown.image[0, :, 0].tolist() == [0, 0, 255, 255]
    assert (shown.window, shown.extent) == (window, Window(0, 4095))
    assert read_shown(tmp_path / "deep.png").window == Window(0, 4095)
    flat = read_shown(tmp_path / "flat.png", window=window)
    assert (flat.image[0, :, 0].tolist(), flat.window, flat.extent) == ([0, 50, 100, 255], None, None)


# Pages of a TIFF


def test_each_page_of_a_tiff_is_an_image(tmp_path: Path) -> None:
    pages = [np.full((4 + place, 6), 10 * place, np.uint8) for place in range(3)]
    write_stack(tmp_path / "stack.tif", *pages)
    assert page_numbers(tmp_path / "stack.tif") == {1: (4, 6), 2: (5, 6), 3: (6, 6)}
    for number, page in enumerate(pages, start=1):
        name = tmp_path / f"stack.tif#{number}"
        assert np.array_equal(read_image(name)[:, :, 0], page)
        assert image_size(name) == page.shape
    assert np.array_equal(read_image(tmp_path / "stack.tif")[:, :, 0], pages[0])
    with pytest.raises(UnreadableFileError, match=r"stack.tif#4 cannot be decoded \(it contains 3 images\)"):
        read_image(tmp_path / "stack.tif#4")
    with pytest.raises(FileNotFoundError, match=r"no file .*none.tif#2"):
        read_image(tmp_path / "none.tif#2")


def test_page_of_16_bit_colors_keeps_its_bits(tmp_path: Path) -> None:
    pages = [np.random.default_rng(place).integers(0, 65536, (8, 9, 3), np.uint16) for place in range(3)]
    _, data = cv2.imencodemulti(".tif", [page[..., ::-1] for page in pages])
    (tmp_path / "deep.tif").write_bytes(data.tobytes())
    assert np.array_equal(read_image(tmp_path / "deep.tif#2"), to_uint8(pages[1]))


def test_smaller_copy_of_a_page_is_not_an_image(tmp_path: Path) -> None:
    copy = Image.new("L", (3, 2))
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    Image.new("L", (6, 4)).save(tmp_path / "pyramid.tif", save_all=True, append_images=[copy], tiffinfo={})
    if Image.open(tmp_path / "pyramid.tif").n_frames == 2:  # type: ignore[attr-defined]
        data = bytearray((tmp_path / "pyramid.tif").read_bytes())
        mark_second_page(data)
        (tmp_path / "pyramid.tif").write_bytes(data)
    assert page_numbers(tmp_path / "pyramid.tif") == {1: (4, 6)}


def mark_second_page(data: bytearray) -> None:
    """Turn one tag of the second page (ImageDescription or the first) into NewSubfileType of 1."""
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * count)[0]
    count = struct.unpack_from("<H", data, second)[0]
    entries = [bytes(data[second + 2 + 12 * at : second + 14 + 12 * at]) for at in range(count)]
    spare = next(
        at for at, one in enumerate(entries) if struct.unpack("<H", one[:2])[0] in (296, 282, 284, 274)
    )
    entries[spare] = struct.pack("<HHII", 254, 4, 1, 1)
    entries.sort(key=lambda one: struct.unpack("<H", one[:2])[0])
    data[second + 2 : second + 2 + 12 * count] = b"".join(entries)


def test_folder_finds_the_mask_of_each_page(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    pages = [np.full((4, 6), 4000 + place, np.uint16) for place in range(3)]
    pages[1][0] = 100
    write_stack(tmp_path / "images" / "stack.tif", *pages)
    for number in (2, 3):
        mask = np.zeros((4, 6), np.uint8)
        mask[number] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / f"stack#{number}.png")
    with pytest.warns(UserWarning, match=r"1 of \d images have no mask and are skipped; first: stack\.tif#1"):
        data = Folder(tmp_path, window=(0, 4001))
    assert [one.name for one in data] == ["images/stack.tif#2", "images/stack.tif#3"]
    assert data[0].mask[2].all()
    assert data[0].image[:2, 0, 0].tolist() == [6, 255]
    report = check_folder(tmp_path)
    assert [(one.kind, one.path) for one in report.findings] == [("no_mask", "images/stack.tif#1")]


# HEIC


def test_heic_is_read_upright(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif", reason="needs the extra [heic]")
    (tmp_path / "a.heic").write_bytes(HEIC)
    image = read_image(tmp_path / "a.heic")
    assert image.shape == (64, 48, 3)
    assert image_size(tmp_path / "a.heic") == (64, 48)
    assert np.abs(image[5, 40].astype(int) - (220, 30, 30)).max() < 25
    assert np.abs(image[60, 5].astype(int) - (30, 60, 220)).max() < 25


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("a.heic", "pi_heif", "heic"), ("a.dcm", "pydicom", "medical"), ("a.nii", "nibabel", "medical")],
)
def test_missing_extra_is_named_with_its_pip_line(
    tmp_path: Path, name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(HEIC + bytes(400))
    monkeypatch.setitem(sys.modules, package, None)
    if package == "pi_heif":
        monkeypatch.setattr(Image, "OPEN", {key: one for key, one in Image.OPEN.items() if key != "HEIF"})
    image_formats.cache_clear()
    try:
        for reader in (read_image, image_size, page_numbers):
            with pytest.raises(
                UnreadableFileError, match=rf"{name} is not read: .*pip install 'dct-seg\[{extra}\]'"
            ):
                reader(tmp_path / name)
    finally:
        image_formats.cache_clear()


def test_folder_names_the_missing_extra_of_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "brain.nii.gz").write_bytes(bytes(400))
    (tmp_path / "masks" / "brain#2.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ValueError, match=r"none of 1 images has a mask .*; .*NIfTI needs nibabel; pip"):
        Folder(tmp_path)
    missing = check_folder(tmp_path).findings[0]
    assert missing.kind == "no_mask"
    assert "NIfTI needs nibabel; pip install 'dct-seg[medical]'" in missing.detail
    for folder in ("images", "masks"):
        Image.fromarray(np.ones((2, 3), np.uint8)).save(tmp_path / folder / "a.png")
    with pytest.warns(UserWarning, match=r"first: brain\.nii\.gz; .*NIfTI needs nibabel"):
        assert len(Folder(tmp_path)) == 1


# DICOM


def test_dicom_is_rescaled_and_shown_through_its_window(tmp_path: Path) -> None:
    stored = (CT + 1024).astype(np.uint16)
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    write_dicom(tmp_path / "ct.dcm", stored, **tags, WindowCenter=[40, 600], WindowWidth=[400, 2000])
    shown = read_shown(tmp_path / "ct.dcm")
    assert shown.window == Window(40 - 0.5 - 399 / 2, 40 - 0.5 + 399 / 2)
    pixels = pytest.importorskip("pydicom").pixels
    dataset = pytest.importorskip("pydicom").dcmread(tmp_path / "ct.dcm")
    theirs = pixels.apply_voi_lut(pixels.apply_modality_lut(dataset.pixel_array, dataset), dataset)
    theirs = (theirs - theirs.min()) / np.ptp(theirs) * 255
    assert np.abs(shown.image[:, :, 0] - theirs).max() <= 0.51
    chosen = read_shown(tmp_path / "ct.dcm", window=Window(-1000, 3000))
    assert np.array_equal(chosen.image[:, :, 0], to_uint8(CT, window=Window(-1000, 3000)))
    assert image_size(tmp_path / "ct.dcm") == CT.shape


def test_monochrome1_is_white_at_its_lowest_value(tmp_path: Path) -> None:
    ramp = np.array([[0, 1000, 4000]], np.uint16)
    write_dicom(tmp_path / "x.dcm", ramp, PhotometricInterpretation="MONOCHROME1")
    assert read_image(tmp_path / "x.dcm")[0, :, 0].tolist() == [255, 191, 0]


def test_padding_of_a_dicom_is_black_and_ignored(tmp_path: Path) -> None:
    stored = np.array([[-2000, 0, 1000]], np.int16)
    tags = {"RescaleSlope": 0.5, "RescaleIntercept": 3, "PhotometricInterpretation": "MONOCHROME1"}
    write_dicom(tmp_path / "x.dcm", stored, PixelPaddingValue=-2000, **tags)
    assert read_image(tmp_path / "x.dcm")[0, :, 0].tolist() == [0, 255, 0]


def test_window_of_a_file_never_changes_8_bits(tmp_path: Path) -> None:
    stored = np.array([[0, 50, 100, 255]], np.uint8)
    write_dicom(tmp_path / "us.dcm", stored, WindowCenter=50, WindowWidth=20)
    shown = read_shown(tmp_path / "us.dcm")
    assert (shown.image[0, :, 0].tolist(), shown.window) == ([0, 50, 100, 255], None)


def test_frames_of_a_dicom_are_images_with_their_own_rescale(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra [medical]")

    def group(slope: float, center: float) -> Any:
        scale, voi, whole = (pydicom.Dataset() for _ in range(3))
        scale.RescaleSlope, scale.RescaleIntercept = slope, 0
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = center, 100, "LINEAR_EXACT"
        whole.PixelValueTransformationSequence = pydicom.Sequence([scale])
        whole.FrameVOILUTSequence = pydicom.Sequence([voi])
        return whole

    frames = np.stack([np.full((2, 3), 300, np.uint16), np.full((2, 3), 300, np.uint16)])
    groups = pydicom.Sequence([group(1, 300), group(2, 625)])
    write_dicom(tmp_path / "two", frames, PerFrameFunctionalGroupsSequence=groups)
    assert page_numbers(tmp_path / "two") == {1: (2, 3), 2: (2, 3)}, "a DICOM file needs no suffix"
    assert [int(read_image(tmp_path / "two", page=page)[0, 0, 0]) for page in (1, 2)] == [128, 64]
    assert [int(read_image(tmp_path / f"two#{page}")[0, 0, 0]) for page in (1, 2)] == [128, 64]
    assert [image_size(tmp_path / name) for name in ("two", "two#2")] == [(2, 3), (2, 3)]
    with pytest.raises(UnreadableFileError, match="two#3 cannot be decoded"):
        image_size(tmp_path / "two#3")


def test_palette_of_a_dicom_becomes_colors(tmp_path: Path) -> None:
    table = {"RedPaletteColorLookupTableDescriptor": [2, 0, 16]}
    table |= {name: [2, 0, 16] for name in ("GreenPaletteColorLookupTableDescriptor",)}
    table |= {"BluePaletteColorLookupTableDescriptor": [2, 0, 16]}
    for name, values in (("Red", (0, 65535)), ("Green", (0, 32896)), ("Blue", (0, 0))):
        table[f"{name}PaletteColorLookupTableData"] = np.array(values, np.uint16).tobytes()
    stored = np.array([[0, 1]], np.uint8)
    write_dicom(tmp_path / "p.dcm", stored, PhotometricInterpretation="PALETTE COLOR", **table)
    assert read_image(tmp_path / "p.dcm").tolist() == [[[0, 0, 0], [255, 128, 0]]]


def test_dicom_without_an_image_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="needs the extra [medical]")
    write_dicom(tmp_path / "x.dcm", np.zeros((1, 2), np.uint8))
    dataset = pytest.importorskip("pydicom").dcmread(tmp_path / "x.dcm")
    del dataset.Rows, dataset.PixelData
    dataset.Modality = "SR"
    dataset.save_as(tmp_path / "x.dcm")
    with pytest.raises(UnreadableFileError, match=r"x.dcm cannot be decoded \(it contains no image \(SR\)\)"):
        page_numbers(tmp_path / "x.dcm")


# NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_of_a_nifti_are_images_on_one_scale(tmp_path: Path, suffix: str) -> None:
    volume = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3) * 100
    write_nifti(tmp_path / f"brain{suffix}", volume, slope=2)
    name = f"brain{suffix}"
    assert page_numbers(tmp_path / name) == dict.fromkeys((1, 2, 3), (4, 5))
    for number in (1, 3):
        expected = to_uint8(2 * volume[:, ::-1, number - 1].T, window=Window(0, 2 * 5900))
        assert np.array_equal(read_image(tmp_path / f"{name}#{number}")[:, :, 0], expected)
    assert image_size(tmp_path / f"{name}#2") == (4, 5)
    with pytest.raises(UnreadableFileError, match="it has 3 slices"):
        read_image(tmp_path / f"{name}#4")


def test_window_and_bytes_of_a_nifti(tmp_path: Path) -> None:
    volume = np.arange(8, dtype=np.int16).reshape(2, 2, 2) * 30
    write_nifti(tmp_path / "bytes.nii", volume)
    assert np.array_equal(read_image(tmp_path / "bytes.nii#2")[:, :, 0], volume[:, ::-1, 1].T)
    write_nifti(tmp_path / "window.nii", volume, cal_min=60, cal_max=90)
    assert read_image(tmp_path / "window.nii#1")[:, :, 0].tolist() == [[0, 255], [0, 255]]


def test_dark_slice_of_float_bytes_is_as_dark_as_in_its_volume(tmp_path: Path) -> None:
    volume = np.zeros((2, 2, 2), np.float32)
    volume[:, :, 0], volume[0, 0, 1] = 1, 200
    write_nifti(tmp_path / "a.nii", volume)
    assert read_image(tmp_path / "a.nii#1").max() == 1


def test_voxel_that_is_nan_does_not_affect_the_others(tmp_path: Path) -> None:
    volume = np.full((2, 2, 1), 100, np.float32)
    volume[0, 0], volume[1, 0] = np.nan, 0
    write_nifti(tmp_path / "a.nii", volume, slope=2)
    assert read_image(tmp_path / "a.nii")[:, :, 0].tolist() == [[255, 255], [0, 0]]


def test_truncated_or_too_large_nifti_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti(tmp_path / "a.nii", np.zeros((5, 4, 3), np.int16))
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-1])
    with pytest.raises(UnreadableFileError, match="it is truncated"):
        read_image(tmp_path / "b.nii#1")
    monkeypatch.setattr("dct_seg.data.medical.MAX_VOLUME", 100)
    with pytest.raises(UnreadableFileError, match="of voxels; split it"):
        page_numbers(tmp_path / "a.nii")


def test_broken_medical_files_name_the_file(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="needs the extra [medical]")
    pytest.importorskip("nibabel", reason="needs the extra [medical]")
    noise = io.BytesIO(np.random.default_rng(0).bytes(2000)).getvalue()
    for name in ("a.dcm", "a.nii", "a.nii.gz"):
        for content in (b"", noise):
            (tmp_path / name).write_bytes(content)
            for reader in (read_image, page_numbers, image_size):
                with pytest.raises(UnreadableFileError, match=f"{name} cannot be decoded"):
                    reader(tmp_path / name)
