"""From outlines to masks and from masks to outlines, for formats that hold only one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from scipy.spatial import cKDTree

from utils.formats.run_lengths import decode_runs, refuse_large
from utils.formats.types import Instance
from utils.raster.gdal import bounded_gdal
from utils.raster.shapes import single_parts

_FAR = 2.0**20  # pixels: outlines that reach further are cut before they are drawn, as GDAL counts in whole numbers
_NEAR = 0.01  # share of a picture's side by which outlines may reach beyond it, from rounding
_SAME = 1e-9  # share of an area by which sums of parts differ from the whole where nothing overlaps
_MOST_NEAREST = 64  # rings that others are joined to: looking for the nearest of very many would take long


def mask_of_instance(instance: Instance, size: tuple[int, int]) -> np.ndarray:
    """The pixels, bool (H, W), that an instance's outlines, without its holes, and its mask cover together.

    Parameters
    ----------
    instance : Instance
        Its box, lines and keypoints do not count.
    size : (int, int)
        Height and width of the picture.

    Raises
    ------
    ValueError
        If its mask is none of that size, or the picture is too large.

    Examples
    --------
    >>> square, hole = (np.array([[a, a], [b, a], [b, b], [a, b]], float) for a, b in ((0, 3), (1, 2)))
    >>> mask_of_instance(Instance("ring", polygons=(square,), holes=(hole,)), (3, 4)).astype(int).tolist()
    [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]]
    """
    drawn = draw_outlines(instance.polygons, instance.holes, size)
    return drawn if instance.mask is None else drawn | decode_runs(instance.mask, size)


def draw_outlines(polygons: Sequence[np.ndarray], holes: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The pixels, bool (H, W), whose centres lie in the union of polygons and in no hole.

    A ring that crosses itself covers what it goes around an odd number of times.

    Parameters
    ----------
    polygons, holes : sequence of ndarray, shape (N, 2)
        Rings in pixels from the outer corner of the first pixel.
    size : (int, int)
        Height and width.

    Raises
    ------
    ValueError
        If there are too many pixels.

    Examples
    --------
    >>> draw_outlines([np.array([[0.0, 0], [2, 0], [2, 1], [0, 1]])], [], (2, 3)).astype(int).tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    from rasterio.features import rasterize

    refuse_large(size)
    drawn = np.zeros(size, np.uint8)
    frame = shapely.box(-1, -1, size[1] + 1, size[0] + 1)
    rings = [(ring, 1) for ring in polygons] + [(ring, 0) for ring in holes]
    shapes = [(shapely.Polygon(ring), value) for ring, value in rings if len(ring) > 2]
    far = [max(map(abs, shape.bounds)) > _FAR for shape, _ in shapes]
    kept = [
        (shapely.make_valid(shape).intersection(frame) if is_far else shape, value)
        for (shape, value), is_far in zip(shapes, far, strict=True)
    ]
    kept = [(shape, value) for shape, value in kept if not shape.is_empty]
    if kept:
        with bounded_gdal():
            rasterize(kept, out=drawn)
    return drawn.astype(bool)


def outline_parts(polygons: Sequence[np.ndarray], holes: Sequence[np.ndarray]) -> list[Any]:
    """The single polygons that an object's rings, each (N, 2), enclose without its holes.

    Rings that cross themselves are made valid: what lies inside them an odd number of times is enclosed.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> [part.area for part in outline_parts([square, square + 8], [square / 2 + 1])]
    [12.0, 16.0]
    >>> bow_tie = np.array([[0.0, 0], [2, 2], [2, 0], [0, 2]])
    >>> [part.area for part in outline_parts([bow_tie], [])]
    [1.0, 1.0]
    """
    if not polygons:
        return []
    areas = _valid_parts(polygons)
    if holes:
        areas = np.array([shapely.difference(shapely.union_all(areas), shapely.union_all(_valid_parts(holes)))])
    return list(single_parts(areas, np.full(len(areas), 2))[0])


def _valid_parts(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Valid single polygons of rings, each (N, 2).

    Examples
    --------
    >>> _valid_parts([np.array([[0.0, 0], [4, 0], [4, 4], [2, 0]])]).tolist()
    [<POLYGON ((4 4, 4 0, 2 0, 4 4))>]
    """
    areas = np.array([shapely.Polygon(ring) for ring in rings])
    invalid = ~shapely.is_valid(areas)
    areas[invalid] = shapely.make_valid(areas[invalid])
    return single_parts(areas, np.full(len(areas), 2))[0]


def trace_mask(mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outlines of a mask, along the edges of its pixels: drawing them gives the very mask.

    Pixels that touch only at a corner are parts of their own. What lies inside a hole is no part: it is cut out of the
    hole's ring, which goes around it over a bridge without width.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)

    Returns
    -------
    polygons, holes : list of ndarray of float64, shape (N, 2)
        Rings as `Instance` has them, the first corner once.

    Examples
    --------
    >>> ring = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
    >>> polygons, holes = trace_mask(ring)
    >>> polygons[0].tolist()
    [[0.0, 0.0], [0.0, 3.0], [4.0, 3.0], [4.0, 2.0], [3.0, 2.0], [3.0, 0.0]]
    >>> holes[0].tolist()
    [[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [1.0, 2.0]]
    """
    from rasterio.features import shapes

    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return [], []
    corner = np.array([columns[0], rows[0]], np.float64)
    part = np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8))
    with bounded_gdal():
        traced = [geometry["coordinates"] for geometry, _ in shapes(part, mask=part > 0, connectivity=4)]
    rings = [[np.array(ring[:-1], np.float64) + corner for ring in polygon] for polygon in traced]
    polygons, holes = [ring for ring, *_ in rings], [ring for _, *inner in rings for ring in inner]
    return _cut_islands(polygons, holes) if holes and len(polygons) > 1 else (polygons, holes)


def _cut_islands(
    polygons: Sequence[np.ndarray], holes: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The polygons that lie in no hole, and the rings of holes, each without the polygons that lie in it.

    Examples
    --------
    >>> square = [np.array([[a, a], [b, a], [b, b], [a, b]], float) for a, b in ((0, 9), (1, 8), (3, 4))]
    >>> polygons, [ring] = _cut_islands([square[0], square[2]], [square[1]])
    >>> len(polygons), shapely.Polygon(ring).area
    (1, 48.0)
    """
    areas = shapely.area(shapes := np.array([shapely.Polygon(ring) for ring in holes]))
    share = 1 / np.pi  # of an edge, so that the place is at no corner of a pixel, where others may touch it
    places = shapely.points([ring[0] + share * (ring[1] - ring[0]) for ring in polygons])
    inside, around = shapely.STRtree(shapes).query(places, predicate="within")
    smallest: dict[int, int] = {}  # polygon -> the hole that it lies in, itself maybe inside another one
    for polygon, hole in zip(inside.tolist(), around.tolist(), strict=True):
        if polygon not in smallest or areas[hole] < areas[smallest[polygon]]:
            smallest[polygon] = hole
    islands: dict[int, list[np.ndarray]] = {}
    for polygon, hole in smallest.items():
        islands.setdefault(hole, []).append(polygons[polygon])
    cut = [join_rings([ring], islands[hole]) if hole in islands else ring for hole, ring in enumerate(holes)]
    return [ring for polygon, ring in enumerate(polygons) if polygon not in smallest], cut


def rings_apart(
    polygons: Sequence[np.ndarray], holes: Sequence[np.ndarray], size: tuple[int, int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rings that cover what others do in a picture, where these overlap or reach beyond it; else the rings themselves.

    Parameters
    ----------
    polygons, holes : sequence of ndarray, shape (N, 2)
        As `Instance` has them: polygons unite, and holes are cut out of all of them.
    size : (int, int)
        Height and width of the picture.

    Returns
    -------
    polygons, holes : list of ndarray, shape (N, 2)
        The polygons lie apart, and the holes in them.

    Examples
    --------
    >>> wide, tall = np.array([[0, 0], [4, 0], [4, 2], [0, 2.0]]), np.array([[0, 0], [2, 0], [2, 9], [0, 9.0]])
    >>> [ring], _ = rings_apart([wide, tall], [], (6, 8))
    >>> shapely.Polygon(ring).area
    16.0
    """
    frame, reach = shapely.box(0, 0, size[1], size[0]), np.array(size) * _NEAR
    parts, cut = (
        shapely.make_valid(np.array([shapely.Polygon(ring) for ring in rings if len(ring) > 2], object))
        for rings in (polygons, holes)
    )
    drawn = shapely.union_all(parts).difference(shapely.union_all(cut)) if len(parts) else shapely.Polygon()
    apart = abs(drawn.area - sum(shapely.area(parts)) + sum(shapely.area(cut))) <= _SAME * max(drawn.area, 1)
    near = shapely.box(-reach[1], -reach[0], size[1] + reach[1], size[0] + reach[0])
    if apart and near.covers(drawn) and len(parts) == len(polygons):
        return list(polygons), list(holes)
    kept = shapely.get_parts(shapely.get_parts(drawn.intersection(frame)))  # a collection may hold multipolygons
    kept = [part for part in kept if part.geom_type == "Polygon" and part.area > 0]
    outer = [shapely.get_coordinates(part.exterior)[:-1] for part in kept]
    return outer, [shapely.get_coordinates(ring)[:-1] for part in kept for ring in part.interiors]


def join_rings(polygons: Sequence[np.ndarray], holes: Sequence[np.ndarray] = ()) -> np.ndarray:
    """One ring around several, for formats with one outline for an object: bridges without width join them.

    Where the polygons lie apart and the holes inside of them, its area is that of the polygons less that of the holes:
    what counts how often a ring goes around a pixel draws the same pixels.

    Parameters
    ----------
    polygons, holes : sequence of ndarray, shape (N, 2)
        Rings; there is one polygon at least.

    Returns
    -------
    ndarray of float64, shape (M, 2)
        Corners, the first one once. Outlines turn one way, holes the other.

    Examples
    --------
    >>> square, hole = (np.array([[a, a], [b, a], [b, b], [a, b]], float) for a, b in ((0, 9), (1, 8)))
    >>> ring = join_rings([square], [hole])
    >>> len(ring), shapely.Polygon(ring).area
    (10, 32.0)
    """
    if len(polygons) == 1 and not holes:
        return polygons[0]
    turned = [(_area(ring) < 0) != is_hole for is_hole, part in ((False, polygons), (True, holes)) for ring in part]
    rings = [ring[::-1] if turn else ring for ring, turn in zip([*polygons, *holes], turned, strict=True)]
    first = cKDTree(rings[0])
    rings[1:] = sorted(rings[1:], key=lambda ring: float(first.query(ring)[0].min()))
    ends = np.cumsum([len(ring) for ring in rings]).tolist()
    links: dict[
        int, list[tuple[int, int]]
    ] = {}  # corner of all -> the rings, with their corners, that are joined there
    for number in range(1, len(rings)):
        if number <= _MOST_NEAREST:
            tree = cKDTree(np.concatenate(rings[:number]))
        distances, corners = tree.query(rings[number])
        start = int(np.argmin(distances))
        links.setdefault(int(corners[start]), []).append((number, start))
    begins = [end - len(ring) for end, ring in zip(ends, rings, strict=True)]
    return np.array(list(_walk(rings, begins, links, 0, 0)))


def _walk(
    rings: Sequence[np.ndarray],
    begins: Sequence[int],
    links: Mapping[int, Sequence[tuple[int, int]]],
    number: int,
    start: int,
) -> Iterator[np.ndarray]:
    """Corners (2,) of a ring from one on, over the bridges to the rings that are joined to it and back.

    Parameters
    ----------
    rings : sequence of ndarray, shape (N, 2)
        All rings.
    begins : sequence of int
        Where the corners of each begin among those of all.
    links : mapping of int to sequence of (int, int)
        The rings that are joined to a corner of all, each with the number of its own corner there.
    number, start : int
        The ring, and its corner.

    Examples
    --------
    >>> rings = [np.array([[0, 0], [4, 0], [0, 4]]), np.array([[7, 0], [9, 0], [9, 3]])]
    >>> [corner.tolist() for corner in _walk(rings, [0, 3], {1: [(1, 0)]}, 0, 0)]
    [[0, 0], [4, 0], [7, 0], [9, 0], [9, 3], [7, 0], [4, 0], [0, 4]]
    """
    ring = rings[number]
    for place in [*range(start, len(ring)), *range(start)]:
        yield ring[place]
        for other, corner in links.get(begins[number] + place, ()):
            yield from _walk(rings, begins, links, other, corner)
            yield rings[other][corner]
            yield ring[place]


def _area(ring: np.ndarray) -> float:
    """Area of a ring (N, 2), below zero where it turns the other way.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    >>> _area(square), _area(square[::-1])
    (4.0, -4.0)
    """
    x, y = (ring - ring[0]).T  # near zero: large coordinates would cancel
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
