"""COCO's ``segmentation`` of an annotation, validated before pycocotools decodes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dct_seg.rle import area, packed


def mask_tools() -> Any:
    """Import ``pycocotools.mask``.

    Raises:
        ModuleNotFoundError: When pycocotools is not installed; the message says how to install it.
    """
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "COCO JSON needs pycocotools; install it with: pip install 'dct-seg[coco]'"
        ) from error
    return mask


def from_segmentation(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Decode an annotation's ``segmentation`` to packed run lengths, which must not be empty.

    Args:
        segmentation: Polygons, each x, y, x, y, ..., or run lengths, packed or as a list. Polygons may extend
            beyond the image and are clipped.
        size: (height, width) of the image.

    Raises:
        ValueError: When it is invalid; the message follows "annotation 7: ".
    """
    if isinstance(segmentation, Mapping):
        given = segmentation.get("size")
        if given != list(size):
            raise ValueError(
                f"its run lengths have size {given}, but the image has {list(size)} (height, width)"
            )
        found = {"size": list(size), "counts": segmentation.get("counts")}
        pixels = area(found)
        if isinstance(found["counts"], list):
            found = packed(found["counts"], size)
    elif isinstance(segmentation, list) and segmentation:
        found = _from_polygons(segmentation, size)
        pixels = int(mask_tools().area(found))
    else:
        raise ValueError("it has no segmentation; give polygons or run lengths")
    if not pixels:
        raise ValueError("its mask is empty")
    return found


def _from_polygons(polygons: list[Any], size: tuple[int, int]) -> dict[str, Any]:
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise ValueError("its polygon is not nested; COCO writes [[x, y, x, y, ...]], a list of polygons")
    if any(isinstance(value, list) for polygon in polygons for value in polygon):
        raise ValueError("its polygon is a list of [x, y] pairs; COCO writes [[x, y, x, y, ...]]")
    whole = []
    for polygon in polygons:
        try:
            points = np.array(polygon, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("its polygon has a corner that is not a number") from error
        if len(points) % 2 or not np.isfinite(points).all():
            raise ValueError("its polygon is not x, y, x, y, ...: an odd count, or a number not finite")
        if len(points) >= 6:
            whole.append(_near(points.reshape(-1, 2), size).ravel().tolist())
    if not whole:
        raise ValueError("none of its polygons has three corners")
    tools = mask_tools()
    near = [polygon for polygon in whole if len(polygon) >= 6]
    if not near:
        raise ValueError("its mask is empty: it lies outside the image")
    return _text(tools.merge(tools.frPyObjects(near, *size)))


def _near(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Clip a polygon, (n, 2) of x, y, to the image with a margin of the image's size.

    pycocotools traces every edge, so an edge of a billion pixels would take a billion steps.
    """
    for axis, side in ((0, size[1]), (1, size[0])):
        for sign, limit in ((1.0, -side), (-1.0, -2 * side)):
            inside = sign * points[:, axis] >= limit
            if inside.all():
                continue
            kept: list[NDArray[np.float64]] = []
            for here, there in zip(range(-1, len(points) - 1), range(len(points)), strict=True):
                if inside[here] != inside[there]:
                    share = (sign * limit - points[here, axis]) / (points[there, axis] - points[here, axis])
                    kept.append(points[here] + share * (points[there] - points[here]))
                if inside[there]:
                    kept.append(points[there])
            points = np.array(kept).reshape(-1, 2)
    return points


def _text(rle: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}
