"""All datasets by name, and the one way to open one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dct_seg.data.base import DATASETS, InteractiveDataset, Photo, PhotoCache, Sample
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
    "InteractiveDataset",
    "Photo",
    "PhotoCache",
    "Sample",
    "Shapes",
    "open_dataset",
]


def open_dataset(kind: str, root: str | Path | None = None, **options: Any) -> InteractiveDataset:
    """The dataset called ``kind`` under ``root``.

    A name that nobody registered is a label of the caller's own, as in ``--data cats=pictures/cats``, when
    ``root`` holds ``images/`` and ``masks/``: it is read as ``Folder``.

    Args:
        kind: A name in ``DATASETS``.
        root: Its folder; None for a set without files.
        options: Arguments of the dataset's class, e.g. ``split="val"``.

    Raises:
        ValueError: When the name is unknown, an option is unknown, or nothing usable is found.
        FileNotFoundError: When the folder or its layout is missing.
    """
    if (
        kind not in DATASETS
        and root is not None
        and (Path(root) / "images").is_dir()
        and (Path(root) / "masks").is_dir()
    ):
        kind = "Folder"
    dataset = DATASETS.get(kind)
    if root is None and not getattr(dataset, "needs_no_root", False):
        raise ValueError(f"the dataset {kind} needs a folder: {dataset.layout}")
    try:
        return dataset(root, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(
            f"the dataset {kind} was given {', '.join(sorted(options))}: "
            f"{str(error).partition('() ')[2] or error}"
        ) from error
