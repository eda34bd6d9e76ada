"""Slices of DICOM and NIfTI files as images; needs the extra ``[medical]``."""

from __future__ import annotations

import gzip
import math
import os
import threading
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from dct_seg.data.brightness import Stored, Window, value_range

Kind = Literal["DICOM", "NIfTI"]
DICOM_SUFFIXES = (".dcm", ".dicom")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
SUFFIXES = (*DICOM_SUFFIXES, *NIFTI_SUFFIXES)
MAX_VOLUME = 2**30
"""Maximum bytes of a NIfTI volume, which is read completely to find its range."""
_HEAD = 132
_SCALE = ("RescaleSlope", "RescaleIntercept")


def kind_of(name: str | PurePath, file: BinaryIO | None = None) -> Kind | None:
    """Detect the type of a file by its name, or by the letters DICM in a DICOM file; None for others.

    Args:
        name: Name of the file.
        file: Open file; its position is restored.
    """
    lower = str(name).lower()
    if lower.endswith(NIFTI_SUFFIXES):
        return "NIfTI"
    if lower.endswith(DICOM_SUFFIXES):
        return "DICOM"
    if file is None:
        return None
    place = file.tell()
    head = file.read(_HEAD)
    file.seek(place)
    return "DICOM" if head[128:] == b"DICM" else None


def slice_sizes(kind: Kind, name: str, file: BinaryIO) -> list[tuple[int, int]]:
    """Read (height, width) of each slice from the header.

    Raises:
        ModuleNotFoundError: When the extra is missing.
        Exception: Any error of the package for a broken file.
    """
    if kind == "NIfTI":
        head = _Head.read(name, file)
        return [(head.shape[1], head.shape[0])] * math.prod(head.shape[2:])
    dataset = _pydicom().dcmread(file, stop_before_pixels=True)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ValueError(f"it contains no image ({dataset.get('Modality', 'unknown modality')})")
    return [(int(dataset.Rows), int(dataset.Columns))] * int(dataset.get("NumberOfFrames", 1) or 1)


def read_slice(kind: Kind, name: str, file: BinaryIO, page: int) -> Stored:
    """Read the values of a slice.

    DICOM: after the modality's rescale, with the file's first window; MONOCHROME1 is inverted, palettes and
    YBR become RGB. NIfTI: after slope and intercept, with ``cal_min`` and ``cal_max`` as window, or the range
    of the whole volume. A slice is ``volume[:, ::-1, k].T``: rows run down the second axis from its end.

    Args:
        kind: Kind of the file.
        name: Name of the file.
        file: The open file.
        page: Number of the slice, from 1.

    Raises:
        ModuleNotFoundError: When the extra is missing.
        Exception: Any error of the package for a broken file.
    """
    return _dicom_slice(file, page) if kind == "DICOM" else _nifti_slice(name, file, page)


def _dicom_slice(file: BinaryIO, page: int) -> Stored:
    pydicom = _pydicom()
    dataset = pydicom.dcmread(file)
    array: NDArray[Any] = pydicom.pixels.pixel_array(dataset, index=page - 1)
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation == "PALETTE COLOR":
        colors = pydicom.pixels.apply_color_lut(array, dataset)
        return Stored((colors >> 8).astype(np.uint8) if colors.dtype == np.uint16 else colors)
    if array.ndim == 3:
        return Stored(array)
    slope, intercept = (_tag(dataset, page, name) for name in _SCALE)
    padding = dataset.get("PixelPaddingValue")
    if "ModalityLUTSequence" in dataset:
        array, padding = pydicom.pixels.apply_modality_lut(array, dataset), None
    elif slope is not None and (float(slope), float(intercept or 0)) != (1.0, 0.0):
        scale, offset = np.float32(slope), np.float32(intercept or 0)
        array = array * scale + offset
        padding = None if padding is None else float(np.float32(padding) * scale + offset)
    is_inverted = interpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return Stored(array, _dicom_window(dataset, page), padding, is_inverted)


def _dicom_window(dataset: Any, page: int) -> Window | None:
    """Get the first window of a DICOM file, as the values shown as 0 and 255."""
    center, width = (_first(_tag(dataset, page, name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    if _tag(dataset, page, "VOILUTFunction") != "LINEAR_EXACT":  # part 3, C.11.2.1.2.1
        center, width = center - 0.5, width - 1
    return Window(center - width / 2, center + width / 2) if width > 0 else None


def _tag(dataset: Any, page: int, name: str) -> Any:
    """Get the value of a tag, from the file or the functional groups of an enhanced one; None if missing."""
    if dataset.get(name) is not None:
        return dataset.get(name)
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    groups = [
        *(frames[page - 1 : page]),
        *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1],
    ]
    for group in groups:
        for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(sequence) or []:
                if item.get(name) is not None:
                    return item.get(name)
    return None


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) else value[0])


@dataclass(frozen=True)
class _Head:
    """Read the header of a NIfTI file: shape, type, offset of the voxels, scale and window."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    window: Window | None

    @classmethod
    def read(cls, name: str, file: BinaryIO) -> _Head:
        nibabel = _nibabel()
        place = file.tell()
        start = (gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file).read(540)
        file.seek(place)
        kind, length = nibabel.Nifti1Header, 348
        if len(start) >= 540 and 540 in (int.from_bytes(start[:4], order) for order in ("little", "big")):
            kind, length = nibabel.Nifti2Header, 540
        header = kind(binaryblock=start[:length])
        if header["magic"].item().startswith(b"ni"):
            raise ValueError("its voxels are in another file; save it as one .nii")
        shape = tuple(int(side) for side in header.get_data_shape())
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(f"its shape {shape} contains no slice")
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf":
            raise ValueError(f"its voxels are {dtype}, expected one number per voxel")
        if math.prod(shape) * dtype.itemsize > MAX_VOLUME:
            raise ValueError(f"it contains more than {MAX_VOLUME // 2**20} MiB of voxels; split it")
        slope, intercept = header.get_slope_inter()
        low, high = float(header["cal_min"]), float(header["cal_max"])
        window = Window(low, high) if low < high else None
        offset = max(int(header["vox_offset"]), length)
        return cls(shape, dtype, offset, float(slope or 1), float(intercept or 0), window)


@dataclass
class _Volume:
    """Cache of the last NIfTI volume, so that it is not decompressed again for each slice."""

    key: tuple[int, ...] = ()
    voxels: NDArray[Any] | None = None
    window: Window | None = None


_LAST = _Volume()
_READING = threading.Lock()


def _nifti_slice(name: str, file: BinaryIO, page: int) -> Stored:
    global _LAST
    head = _Head.read(name, file)
    if not 1 <= page <= math.prod(head.shape[2:]):
        raise ValueError(f"it has {math.prod(head.shape[2:])} slices")
    status = os.fstat(file.fileno())
    key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
    with _READING:
        if _LAST.key != key:
            _LAST = _read_volume(key, head, name, file)
        volume = _LAST
    assert volume.voxels is not None
    values = volume.voxels[:, ::-1, page - 1].T
    if (head.slope, head.intercept) != (1.0, 0.0):
        values = values * np.float32(head.slope) + np.float32(head.intercept)
    return Stored(np.ascontiguousarray(values), head.window or volume.window)


def _read_volume(key: tuple[int, ...], head: _Head, name: str, file: BinaryIO) -> _Volume:
    count = math.prod(head.shape)
    stream = gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file
    stream.read(head.offset)
    data = stream.read(count * head.dtype.itemsize)  # a limit, against decompression bombs
    if len(data) < count * head.dtype.itemsize:
        raise ValueError("it is truncated")
    flat = np.frombuffer(data, head.dtype)
    native = flat.astype(head.dtype.newbyteorder("="), copy=False)
    is_scaled = (head.slope, head.intercept) != (1.0, 0.0)
    ends = value_range(native) or (Stored(native).extent() if is_scaled else Window(0.0, 255.0))
    low, high = sorted(head.slope * end + head.intercept for end in ends)
    window = Window(low, high if high > low else low + 1)
    return _Volume(key, native.reshape(*head.shape[:2], -1, order="F"), window)


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("DICOM needs pydicom; pip install 'dct-seg[medical]'") from error
    return pydicom


def _nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("NIfTI needs nibabel; pip install 'dct-seg[medical]'") from error
    return nibabel
