"""Check of a folder of images and masks for problems that affect training."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dct_seg.arguments import CommandParser
from dct_seg.data.base import count_labels, in_threads, require_layout
from dct_seg.data.formats import (
    Folder,
    deeper_images,
    files_in,
    has_gaps_beside_ignore,
    images_in,
    match_stems,
    stem,
    unreadable,
)
from dct_seg.data.images import (
    IGNORE,
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    OTHER_SUFFIXES,
    UnreadableFileError,
    read_image,
    read_values,
    size_mismatch,
)
from dct_seg.data.labels import as_labels, soft_problem
from dct_seg.data.pages import split_page
from dct_seg.ranges import check_number

KINDS = {
    "unreadable": "cannot be decoded",
    "size_mismatch": "image and mask differ in size",
    "no_mask": "image without a mask",
    "no_image": "mask without an image",
    "not_read": "not read: in a subfolder, or of another type",
    "odd_values": "mask values that are not labels",
    "empty": "mask without an object",
    "full": "one object fills the whole image",
    "duplicate": "duplicate image",
    "nothing": "no image has a mask",
}
"""Heading of each kind of problem."""


@dataclass(frozen=True)
class Finding:
    """Problem found by the check.

    Args:
        kind: A key of ``KINDS``.
        path: Path of the file, below the folder.
        detail: Description of the problem, in one line.
    """

    kind: str
    path: str
    detail: str


@dataclass(frozen=True)
class Report:
    """Report of ``check_folder``; ``ok`` when nothing was found.

    Args:
        root: Folder that was checked.
        num_images: Number of images.
        num_masks: Number of masks.
        num_objects: Number of objects in all readable masks.
        findings: Problems, sorted by kind and path.
    """

    root: str
    num_images: int
    num_masks: int
    num_objects: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found; the command's exit code is then 0, otherwise 1."""
        return not self.findings

    @property
    def counts(self) -> dict[str, int]:
        """Group findings by kind, in the order of ``KINDS``, without empty kinds."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def to_json(self) -> dict[str, Any]:
        """Convert the report to plain values for ``json.dumps``, with every finding."""
        return {
            "root": self.root,
            "ok": self.ok,
            "images": self.num_images,
            "masks": self.num_masks,
            "objects": self.num_objects,
            "counts": self.counts,
            "findings": [{"kind": one.kind, "path": one.path, "detail": one.detail} for one in self.findings],
        }

    def render(self, first: int = 5) -> str:
        """Format the totals, then each kind with its count and its ``first`` files."""
        lines = [f"{self.root}: {self.num_images} images, {self.num_masks} masks, {self.num_objects} objects"]
        for kind, count in self.counts.items():
            lines.append(f"{count} x {KINDS[kind]}")
            offenders = [finding for finding in self.findings if finding.kind == kind]
            lines += [f"    {finding.detail}" for finding in offenders[:first]]
            if count > first:
                lines.append(f"    ... and {count - first} more (--json lists all)")
        return "\n".join(lines if self.findings else [*lines, "nothing wrong"])


def check_folder(root: str | Path) -> Report:
    """Read every image and mask of a folder with ``images/`` and ``masks/`` and report the problems.

    Raises:
        FileNotFoundError: When the folder is missing or has another layout.
    """
    root = Path(root).expanduser()
    images, masks = _files(root)
    stems = Counter(stem(path) for path in images)
    pairs, alone, orphans = match_stems(images, masks)
    findings = [
        Finding(
            "no_mask",
            f"images/{path.name}",
            f"images/{path.name} has no masks/{stem(path)}.png{unreadable(path)}",
        )
        for path in alone
    ]
    findings += [
        Finding("no_image", f"masks/{path.name}", f"masks/{path.name} has no images/{stem(path)}.jpg")
        for path in orphans
    ]
    findings += [
        Finding(
            "duplicate",
            f"images/{path.name}",
            f"images/{path.name} shares its mask with another image of the same stem",
        )
        for path in images
        if stems[stem(path)] > 1
    ]
    mask_stems = Counter(stem(path) for path in masks)
    findings += [
        Finding(
            "duplicate", f"masks/{path.name}", f"masks/{path.name} is one of several masks of the same stem"
        )
        for path in masks
        if mask_stems[stem(path)] > 1
    ]
    findings += [Finding("not_read", name, line) for name, line in deeper_images(root, Folder.folders)]
    findings += _other_kinds(root)
    if not pairs:
        line = (
            f"{len(images)} images and {len(masks)} masks, with no stem in common; expected: {Folder.layout}"
        )
        findings.append(Finding("nothing", "images", line))
    num_objects = 0
    hashes: dict[bytes, list[str]] = defaultdict(list)
    for (image, _), (digest, objects, found) in zip(
        pairs, in_threads(_check_pair, pairs, f"checking {root.name}"), strict=True
    ):
        num_objects += objects
        findings += found
        hashes[digest].append(f"images/{image.name}")
    for same in hashes.values():
        findings += [Finding("duplicate", path, f"{path} is an exact copy of {same[0]}") for path in same[1:]]
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.path))
    return Report(str(root), len(images), len(masks), num_objects, tuple(findings))


def _files(root: Path) -> tuple[list[Path], list[Path]]:
    require_layout(root, Folder.folders, f"the check needs {Folder.layout}")
    return images_in(root / "images"), files_in(root / "masks", MASK_SUFFIXES)


def _other_kinds(root: Path) -> list[Finding]:
    """Find image files of a type that is not supported in their folder."""
    known = {*Image.registered_extensions(), *OTHER_SUFFIXES}
    findings = []
    for folder, suffixes in zip(Folder.folders, (IMAGE_SUFFIXES, MASK_SUFFIXES), strict=True):
        for path in files_in(root / folder, sorted(known - {*suffixes})):
            name = f"{folder}/{path.name}"
            line = f"{name} is not read; {folder}/ may contain {', '.join(suffixes)}"
            findings.append(Finding("not_read", name, line))
    return findings


def _check_pair(pair: tuple[Path, Path]) -> tuple[bytes, int, list[Finding]]:
    """Check a pair: hash of the image file, number of objects, and problems."""
    image, mask = f"images/{pair[0].name}", f"masks/{pair[1].name}"
    file, page = split_page(pair[0])
    for path, name in ((file, image), (pair[1], mask)):
        if not path.is_file():  # a link to a file that is gone
            return (
                name.encode(),
                0,
                [Finding("unreadable", name, f"{name} is not a file; is it a broken link?")],
            )
    digest = hashlib.blake2b(file.read_bytes() + b"#%d" % page).digest()
    findings = []
    size = None
    try:
        size = read_image(pair[0]).shape[:2]
    except UnreadableFileError as error:
        findings.append(Finding("unreadable", image, str(error)))
    try:
        values = read_values(pair[1])
        labels = as_labels(values, pair[1])
    except UnreadableFileError as error:
        return digest, 0, [*findings, Finding("unreadable", mask, str(error))]
    except ValueError as error:
        return digest, 0, [*findings, Finding("odd_values", mask, str(error))]
    if size is not None and size != labels.shape:
        findings.append(Finding("size_mismatch", mask, size_mismatch(image, size, mask, labels.shape)))
    objects, areas = count_labels(labels)
    if not objects:
        findings.append(
            Finding("empty", mask, f"{mask} contains no object, only {_listed(np.unique(values).tolist())}")
        )
    if len(areas) == 1 and areas[0] == np.count_nonzero(labels != IGNORE):
        findings.append(
            Finding("full", mask, f"{mask}: label {objects[0]} covers every pixel that is not ignored")
        )
    soft = soft_problem(labels)
    if soft or has_gaps_beside_ignore(labels, objects):
        # Anti-aliasing and JPEG turn a 0/255 mask into label gaps next to 255; a trimap has them, too.
        why = soft or "label gaps next to 255, which is read as ignore"
        line = f"{mask} contains {_listed(np.unique(values).tolist())}: {why}; was a 0/255 mask smoothed?"
        findings.append(Finding("odd_values", mask, line))
    return digest, len(objects), findings


def _listed(values: list[int]) -> str:
    """Format at most eight values."""
    return ", ".join(map(str, values[:8])) + (f" ... ({len(values)} values)" if len(values) > 8 else "")


def main(args: Sequence[str]) -> int:
    """Run ``dct-seg data check``.

    Returns:
        Exit code: 0, or 1 when a problem was found.
    """
    parser = CommandParser(prog="dct-seg data", description="Check data before training.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=CommandParser)
    check = actions.add_parser("check", help="find problems in a folder of images and masks")
    check.add_argument("folder", help="a folder with images/ and masks/")
    check.add_argument("--json", action="store_true", help="print all findings as JSON")
    check.add_argument(
        "--first", type=int, default=5, metavar="N", help="number of files to show for each problem (5)"
    )
    given = parser.parse_args(args)
    check_number("--first", given.first, least=0, unit="a number of files")
    report = check_folder(given.folder)
    text = json.dumps(report.to_json(), indent=1) if given.json else report.render(given.first)
    sys.stdout.write(f"{text}\n")
    return 0 if report.ok else 1
