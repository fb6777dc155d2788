"""Masks of a part of a picture as masks of the whole, and back: CVAT and FiftyOne keep the part around the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from affine import Affine

from utils.formats.run_lengths import box_of_mask, read_counts
from utils.raster.gdal import bounded_gdal


def place_mask(crop: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of COCO, of a whole picture, out of the mask of a part of it.

    Parameters
    ----------
    crop : ndarray of bool, shape (H, W)
        What is covered in the part.
    left, top : int
        Its first column and row in the picture; what lies beyond the picture is cut.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    dict
        `size` as [height, width], and `counts`, column by column, first of what is not covered.

    Examples
    --------
    >>> place_mask(np.array([[True, True], [False, True]]), 1, 0, (3, 4))
    {'size': [3, 4], 'counts': [3, 1, 2, 2, 4]}
    >>> place_mask(np.ones((2, 2), bool), 3, 2, (3, 4))
    {'size': [3, 4], 'counts': [11, 1]}
    """
    height, width = size
    shown = crop[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    left, top = max(left, 0), max(top, 0)
    edges = np.diff(np.pad(shown.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)  # of each column, from top to bottom
    (column, start), (_, stop) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    starts, stops = ((left + column) * height + top + row for row in (start, stop))
    joined = starts[1:] == stops[:-1]  # down to the last row and on in the next column
    starts, stops = starts[np.append(True, ~joined)[: len(starts)]], stops[np.append(~joined, True)[: len(stops)]]
    turns = np.concatenate([[0], np.column_stack([starts, stops]).ravel(), [height * width]])
    counts = np.diff(turns).tolist()
    return {"size": [height, width], "counts": counts[:-1] if counts[-1] == 0 else counts}


def cut_mask(mask: Mapping[str, Any]) -> tuple[np.ndarray, int, int] | None:
    """The part of a mask that holds all it covers.

    Parameters
    ----------
    mask : dict
        COCO's run lengths.

    Returns
    -------
    tuple of ndarray of bool (H, W), int, int, or None
        The part, its first column and its first row; None where nothing is covered.

    Raises
    ------
    ValueError
        If it is none: see `read_counts`.

    Examples
    --------
    >>> crop, left, top = cut_mask({"size": [3, 4], "counts": [3, 1, 2, 2, 4]})
    >>> crop.tolist(), left, top
    ([[True, True], [False, True]], 1, 0)
    """
    box = box_of_mask(mask)
    if box is None:
        return None
    left, top, right, bottom = (int(edge) for edge in box)
    height = mask["size"][0]
    turns = np.clip(np.cumsum([0, *read_counts(mask)]) - left * height, 0, (right - left) * height)
    covered = np.repeat(np.arange(len(turns) - 1) % 2 == 1, np.diff(turns))
    columns = np.zeros((right - left) * height, bool)
    columns[: len(covered)] = covered
    return columns.reshape(right - left, height).T[top:bottom], left, top


def fill_outline(outline: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of COCO of the pixels whose centres lie in an outline.

    Parameters
    ----------
    outline : shapely geometry
        Polygons with their holes, in pixels.
    size : (int, int)
        Height and width of the picture.

    Examples
    --------
    >>> ring = shapely.box(0, 0, 3, 3) - shapely.box(1, 1, 2, 2)
    >>> fill_outline(ring, (3, 4))
    {'size': [3, 4], 'counts': [0, 4, 1, 4, 3]}
    """
    from rasterio.features import rasterize

    shown = shapely.intersection(shapely.make_valid(outline), shapely.box(0, 0, size[1], size[0]))
    parts = [part for part in shapely.get_parts(shapely.get_parts(shown)) if shapely.area(part) > 0]
    if not parts:
        return {"size": list(size), "counts": [size[0] * size[1]]}
    left, top, right, bottom = shapely.total_bounds(parts)
    left, top = int(np.floor(left)), int(np.floor(top))
    crop = np.zeros((int(np.ceil(bottom)) - top, int(np.ceil(right)) - left), np.uint8)
    with bounded_gdal():
        rasterize([(part, 1) for part in parts], out=crop, transform=Affine.translation(left, top))
    return place_mask(crop > 0, left, top, size)


def outline_of(polygons: tuple[np.ndarray, ...], holes: tuple[np.ndarray, ...]) -> Any:
    """The area that polygons cover together, without the holes, as a shapely geometry.

    Parameters
    ----------
    polygons, holes : tuple of ndarray, shape (N, 2)
        Rings.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> outline_of((square, square + 2), (square / 4,)).area
    27.0
    """
    areas = [
        shapely.union_all(shapely.make_valid([shapely.Polygon(ring) for ring in rings])) for rings in (polygons, holes)
    ]
    return shapely.difference(*areas)


def unite_masks(masks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Run lengths of COCO of what any of some masks of one picture covers.

    Raises
    ------
    ValueError
        If one is none: see `read_counts`.

    Examples
    --------
    >>> unite_masks([{"size": [2, 3], "counts": [0, 1, 5]}, {"size": [2, 3], "counts": [5, 1]}])
    {'size': [2, 3], 'counts': [0, 1, 4, 1]}
    """
    parts = [part for part in map(cut_mask, masks) if part is not None]
    height, width = masks[0]["size"]
    if not parts:
        return {"size": [height, width], "counts": [height * width]}
    left, top = (min(part[side] for part in parts) for side in (1, 2))
    right, bottom = (max(part[side] + part[0].shape[2 - side] for part in parts) for side in (1, 2))
    whole = np.zeros((bottom - top, right - left), bool)
    for crop, x, y in parts:
        whole[y - top : y - top + len(crop), x - left : x - left + crop.shape[1]] |= crop
    return place_mask(whole, left, top, (height, width))
