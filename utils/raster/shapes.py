"""Geometries on a scene's pixels: made valid, cut, carried from their CRS and drawn."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from utils.errors import DataError
from utils.raster.gdal import bounded_gdal
from utils.raster.grids import Bounds, PixelGrid, carry_bounds, in_degrees, place_exactly
from utils.raster.tiling import Window

MARGIN = 64  # pixels around a piece whose features are kept
_BEND = 0.02  # pixels by which an edge may stray from its true course in the other CRS
_MANY_VERTICES = 2000


@dataclass(frozen=True)
class Shapes:
    """Features on a scene's pixels, ready to be drawn in the order of the file.

    Parameters
    ----------
    geometries : array of shapely geometries, shape (N,)
        Single polygons and points in pixel coordinates; lines are polygons of their width.
    classes : uint8 array, shape (N,)
        Class of each.
    tree : shapely.STRtree
        Of the geometries.

    Examples
    --------
    >>> boxes = np.array([shapely.box(0, 0, 2, 1)])
    >>> shapes = Shapes(boxes, np.uint8([1]), shapely.STRtree(boxes))
    >>> shapes.draw(Window(0, 1, 2, 2), unlabelled=0).tolist()
    [[1, 0], [0, 0]]
    """

    geometries: np.ndarray
    classes: np.ndarray
    tree: shapely.STRtree

    def draw(self, window: Window, unlabelled: int) -> np.ndarray:
        """Draw what meets a window, later features over earlier ones.

        The result has the shape (height, width) of the window, uint8.

        Examples
        --------
        >>> boxes = np.array([shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2)])
        >>> shapes = Shapes(boxes, np.uint8([1, 2]), shapely.STRtree(boxes))
        >>> shapes.draw(Window(0, 0, 1, 4), unlabelled=255).tolist()
        [[1, 2, 2, 255]]
        """
        drawn = np.full((window.height, window.width), unlabelled, dtype=np.uint8)
        self.draw_on(drawn, window)
        return drawn

    def draw_on(self, drawn: np.ndarray, window: Window) -> None:
        """Draw what meets a window over what was drawn of it before, uint8 (height, width).

        Examples
        --------
        >>> boxes = np.array([shapely.box(1, 0, 3, 2)])
        >>> drawn = np.uint8([[7, 7, 7, 7]])
        >>> Shapes(boxes, np.uint8([2]), shapely.STRtree(boxes)).draw_on(drawn, Window(0, 0, 1, 4))
        >>> drawn.tolist()
        [[7, 2, 2, 7]]
        """
        from rasterio.features import rasterize

        frame = shapely.box(window.x - 1, window.y - 1, window.columns.stop + 1, window.rows.stop + 1)
        met = np.sort(self.tree.query(frame)).tolist()
        shapes = [(_trim(self.geometries[index], window), int(self.classes[index])) for index in met]
        kept = [(shape, value) for shape, value in shapes if not shape.is_empty]
        if kept:
            with bounded_gdal():
                rasterize(kept, out=drawn, transform=Affine.translation(window.x, window.y))


def _trim(geometry: Any, window: Window) -> Any:
    """Cut a geometry of very many vertices down to a window and its surroundings.

    Examples
    --------
    >>> disc = shapely.Point(0, 0).buffer(1000, quad_segs=1000)
    >>> _trim(disc, Window(0, 0, 8, 8)).bounds
    (-64.0, -64.0, 72.0, 72.0)
    """
    if shapely.get_num_coordinates(geometry) <= _MANY_VERTICES or not geometry.is_valid:
        return geometry
    frame = (window.x - MARGIN, window.y - MARGIN, window.columns.stop + MARGIN, window.rows.stop + MARGIN)
    parts = single_parts(np.array([shapely.intersection(geometry, shapely.box(*frame))]), np.array([2]))[0]
    return shapely.multipolygons(parts)


def single_parts(geometries: np.ndarray, dimensions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split collections into single geometries and keep those of the wanted dimension.

    Parameters
    ----------
    geometries : array of shapely geometries, shape (N,)
        Of any kind.
    dimensions : int array, shape (N,)
        0 keeps points, 1 lines, 2 polygons of each; making a polygon valid may leave lines, which are not wanted.

    Returns
    -------
    parts : array of shapely geometries, shape (M,)
    index : int array, shape (M,)
        The geometry that each comes from.

    Examples
    --------
    >>> mixed = shapely.GeometryCollection([shapely.box(0, 0, 1, 1), shapely.LineString([(0, 0), (5, 5)])])
    >>> parts, index = single_parts(np.array([mixed, shapely.MultiPoint([(1, 1), (2, 2)])]), np.array([2, 0]))
    >>> [part.geom_type for part in parts], index.tolist()
    (['Polygon', 'Point', 'Point'], [0, 1, 1])
    """
    index = np.arange(len(geometries))
    for _ in range(2):  # a collection may hold multi-geometries
        geometries, origin = shapely.get_parts(geometries, return_index=True)
        index = index[origin]
    wanted = (shapely.get_dimensions(geometries) == dimensions[index]) & ~shapely.is_empty(geometries)
    return geometries[wanted], index[wanted]


def bounds_around(grid: PixelGrid, crs: CRS | None, area: Window, margin: float) -> Bounds | None:
    """Bounds of an area of a scene in another CRS, with a margin in pixels; None when there are none that can be used.

    Examples
    --------
    >>> grid = PixelGrid(4, 6, None, Affine.scale(2, -2))
    >>> bounds_around(grid, None, Window(0, 1, 2, 3), margin=1)
    (0.0, -6.0, 10.0, 2.0)
    """
    shift = Affine.translation(area.x - margin, area.y - margin)
    stretch = Affine.scale(area.width + 2 * margin, area.height + 2 * margin)
    outer = PixelGrid(1, 1, grid.crs, grid.transform @ shift @ stretch).bounds
    bounds = carry_bounds(outer, grid.crs, crs)
    if bounds is not None and bounds[0] > bounds[2] and in_degrees(crs):  # over the antimeridian
        bounds = (bounds[0], bounds[1], bounds[2] + 360, bounds[3])
    return bounds if bounds is not None and bounds[0] < bounds[2] and bounds[1] < bounds[3] else None


def move_along_x(geometries: np.ndarray, x: float) -> np.ndarray:
    """Move geometries, shape (N,), along x; None stays None.

    Examples
    --------
    >>> move_along_x(np.array([shapely.Point(-179.5, 3), None]), 360).tolist()
    [<POINT (180.5 3)>, None]
    """
    return geometries if x == 0 else shapely.transform(geometries, lambda points: np.add(points, (x, 0)))


def refuse_crossing(path: str | Path, numbers: np.ndarray, geometries: np.ndarray, crs: CRS | None) -> None:
    """Refuse features that may cross the antimeridian without being divided there: see `long_edges`.

    Parameters
    ----------
    path : str or Path
        The file, for the message.
    numbers : int array, shape (N,)
        The file's numbers of the features.
    geometries : array of shapely geometries, shape (N,)
        In `crs`.
    crs : CRS or None
        Only of one in degrees are features refused.

    Raises
    ------
    DataError
        Naming the first of them.

    Examples
    --------
    >>> crossing = np.array([shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)])])
    >>> refuse_crossing("a.gpkg", np.array([7]), crossing, CRS.from_epsg(32631))
    >>> refuse_crossing("a.gpkg", np.array([7]), crossing, CRS.from_epsg(4326))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.gpkg: 1 features have an edge of more than 180 degrees of longitude (numbers 7): if ...
    """
    if not in_degrees(crs):
        return
    crossing = long_edges(geometries)
    if crossing.any():
        names = ", ".join(str(number) for number in numbers[crossing][:5])
        raise DataError(
            f"{path}: {crossing.sum()} features have an edge of more than 180 degrees of longitude (numbers "
            f"{names}): if they cross the antimeridian, split them there (ogr2ogr -wrapdateline), or write "
            "longitudes beyond 180; if they do not, add vertices"
        )


def long_edges(geometries: np.ndarray) -> np.ndarray:
    """Find polygons and lines in degrees with an edge of more than 180 and less than 360 degrees of longitude.

    One that crosses the antimeridian and is not split there has such edges: it would be drawn the long way round.

    Parameters
    ----------
    geometries : array of shapely geometries, shape (N,)
        With x in degrees of longitude; None is none.

    Returns
    -------
    bool array, shape (N,)

    Examples
    --------
    >>> crossing = shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)])
    >>> long_edges(np.array([crossing, shapely.box(-180, 0, 180, 1), shapely.box(179, 0, 181, 1), None])).tolist()
    [True, False, False, False]
    """
    found = np.zeros(len(geometries), bool)
    bounds = shapely.bounds(geometries)
    wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180)  # NaN where there is no geometry
    parts, index = single_parts(geometries[wide], shapely.get_dimensions(geometries[wide]))
    lines, origin = shapely.get_parts(
        np.where(shapely.get_dimensions(parts) == 2, shapely.boundary(parts), parts), return_index=True
    )
    points, line = shapely.get_coordinates(lines, return_index=True)
    span = np.where(np.diff(line) == 0, np.abs(np.diff(points[:, 0])), 0)
    found[wide[index[origin[line[1:][(span > 180) & (span < 360)]]]]] = True
    return found


def place_on_pixels(
    geometries: np.ndarray, crs: CRS | None, grid: PixelGrid, bounds: Bounds | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Make polygons valid, cut all to some bounds, split them into single parts, and carry these onto a scene's pixels.

    Parameters
    ----------
    geometries : array of shapely geometries, shape (N,)
        In `crs`; parts of another dimension than the geometry's are left out.
    crs : CRS or None
        Of the geometries.
    grid : PixelGrid
        The scene's.
    bounds : (left, bottom, right, top) or None
        In `crs`; what lies beyond may have no place in the scene's CRS.

    Returns
    -------
    parts : array of shapely geometries, shape (M,)
        Single polygons, lines and points in pixel coordinates; not finite where they have no place.
    index : int array, shape (M,)
        The geometry that each comes from.
    mended : int
        How many polygons were invalid.

    Examples
    --------
    >>> grid = PixelGrid(4, 6, None, Affine.scale(2, -2))
    >>> bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    >>> shapes = np.array([shapely.box(0, 0, 9, 9), shapely.MultiPoint([(1, 1), (2, 2)]), bow_tie])
    >>> parts, index, mended = place_on_pixels(shapes, None, grid, (-1, -1, 4, 5))
    >>> parts[0].bounds, index.tolist(), mended
    ((0.0, -2.5, 2.0, 0.0), [0, 1, 1, 2, 2], 1)
    """
    dimensions = shapely.get_dimensions(geometries)  # of a missing geometry -1, which no part has
    invalid = (dimensions == 2) & ~shapely.is_valid(geometries)
    geometries = geometries.copy()
    geometries[invalid] = shapely.make_valid(geometries[invalid])
    if bounds is not None:
        extents = shapely.bounds(geometries)
        apart = (extents[:, 2:] < bounds[:2]).any(axis=1) | (extents[:, :2] > bounds[2:]).any(axis=1)
        geometries[apart] = None
        beyond = ~apart & ((extents[:, :2] < bounds[:2]) | (extents[:, 2:] > bounds[2:])).any(axis=1)
        geometries[beyond] = shapely.intersection(geometries[beyond], shapely.box(*bounds))
    parts, index = single_parts(geometries, dimensions)
    return carry_shapes(parts, crs, grid, bounds), index, int(invalid.sum())


def carry_shapes(shapes: np.ndarray, crs: CRS | None, grid: PixelGrid, bounds: Bounds | None) -> np.ndarray:
    """Carry geometries vertex by vertex onto a scene's pixels, long edges divided where the CRS differ.

    Geometries have shape (N,).

    Examples
    --------
    >>> grid = PixelGrid(4, 6, CRS.from_epsg(3857), Affine(111319.49079327358, 0, 0, 0, -111319.49079327358, 0))
    >>> carried = carry_shapes(np.array([shapely.Point(2, 0)]), CRS.from_epsg(4326), grid, None)
    >>> round(carried[0].x, 6), round(abs(carried[0].y), 6)
    (2.0, 0.0)
    """
    other = crs is not None and grid.crs is not None and crs != grid.crs
    if other and bounds is not None:
        assert crs is not None, "the CRS differ, so there are two"
        step = _longest_edge(crs, grid, bounds)
        shapes = shapely.segmentize(shapes, step) if len(shapes) and math.isfinite(step) else shapes
    source = PixelGrid(1, 1, crs, Affine.identity())

    def place(points: np.ndarray) -> np.ndarray:
        placed = place_exactly(source, grid, points[:, 0], points[:, 1]).T
        placed[~np.isfinite(placed).all(axis=1)] = np.inf  # equal to itself, as the ends of a ring have to be
        return placed

    return shapely.transform(shapes, place)


def _longest_edge(crs: CRS, grid: PixelGrid, bounds: Bounds) -> float:
    """How long an edge may be so that its middle strays by no more than a fraction of a pixel in the other CRS.

    The stray of a straight line grows with the square of its length; it is measured on the sides and diagonals of
    the bounds.

    Examples
    --------
    >>> grid = PixelGrid(1000, 1000, CRS.from_epsg(32631), Affine(10, 0, 500000, 0, -10, 5000000))
    >>> degrees = CRS.from_epsg(4326)
    >>> edge = _longest_edge(degrees, grid, (3.0, 45.0, 3.1, 45.1))
    >>> 0.001 < edge < 0.05, _longest_edge(grid.crs, grid, grid.bounds)
    (True, inf)
    """
    left, bottom, right, top = bounds
    corners = np.array([(left, bottom), (right, bottom), (right, top), (left, top)])
    first, second = np.array(list(itertools.combinations(range(4), 2))).T
    begin, end = corners[first], corners[second]
    points = np.concatenate([begin, (begin + end) / 2, end])
    source = PixelGrid(1, 1, crs, Affine.identity())
    places = place_exactly(source, grid, points[:, 0], points[:, 1]).reshape(2, 3, -1)
    stray = np.hypot(*(places[:, 1] - (places[:, 0] + places[:, 2]) / 2))
    stray = np.where(np.isfinite(stray), stray, 1e6)
    length = np.hypot(*(end - begin).T)
    limits = length * np.sqrt(_BEND / np.maximum(stray, 1e-12))
    return math.inf if (limits >= length.max()).all() else float(limits.min())
