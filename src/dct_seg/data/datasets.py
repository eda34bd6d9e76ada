"""Datasets by name, and `open_dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dct_seg.data.base import DATASETS, ImageCache, InteractiveDataset, LabeledImage, Sample
from dct_seg.data.coco import COCO
from dct_seg.data.formats import DAVIS, SBD, VOC, Berkeley, COCOMVal, Folder, GrabCut
from dct_seg.data.shapes import Shapes

__all__ = [
    "COCO",
    "DATASETS",
    "DAVIS",
    "SBD",
    "VOC",
    "Berkeley",
    "COCOMVal",
    "Folder",
    "GrabCut",
    "ImageCache",
    "LabeledImage",
    "Sample",
    "Shapes",
    "open_dataset",
]


def open_dataset(kind: str, root: str | Path | None = None, **options: Any) -> InteractiveDataset:
    """Open the dataset ``kind`` in the folder ``root``.

    An unregistered name is a label, as in ``--data cats=data/cats``, if ``root`` has ``images/`` and
    ``masks/``: it is read as ``Folder``.

    Args:
        kind: Name in ``DATASETS``.
        root: Folder of the dataset; None for a dataset without files.
        options: Arguments of the dataset's class, such as ``split="val"``.

    Raises:
        ValueError: When the name is unknown, an option is unknown, or nothing usable is found.
        FileNotFoundError: When the folder or its layout is missing.

    Examples:
        >>> data = open_dataset("Shapes", num_images=2)
        >>> data.read(0).mask.dtype
        dtype('bool')
    """
    if (
        kind not in DATASETS
        and root is not None
        and (Path(root).expanduser() / "images").is_dir()
        and (Path(root).expanduser() / "masks").is_dir()
    ):
        kind = "Folder"
    dataset = DATASETS.get(kind)
    if root is None and not getattr(dataset, "needs_no_root", False):
        raise ValueError(f"the dataset {kind} needs a folder: {dataset.layout}")
    try:
        return dataset(root, **options)
    except (TypeError, AttributeError) as error:
        if "unexpected keyword" in str(error):
            reason = str(error).partition("() ")[2] or error
            raise ValueError(
                f"the dataset {kind} was given {', '.join(sorted(options))}: {reason}"
            ) from error
        shown = ", ".join(f"{name} {value!r}" for name, value in options.items()) or "no option"
        raise ValueError(f"the dataset {kind} cannot be created with {shown}: {error}") from error
