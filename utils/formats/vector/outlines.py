"""Outlines of features in map coordinates, and the boxes of their parts in the pixels of a raster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from rasterio.crs import CRS

from utils.raster.grids import Bounds, PixelGrid, turns_between
from utils.raster.shapes import MARGIN, bounds_around, carry_shapes, move_along_x, refuse_crossing, single_parts
from utils.raster.tiling import Window
from utils.raster.vector_files import Features

_POLYGON = 2
_APART = 0.01  # pixels between parts of a feature that are one object: a line at which it was divided


@dataclass(frozen=True)
class Outlines:
    """The polygons of features, each with the feature that it is a part of.

    Parameters
    ----------
    path : Path
        The vector file, for messages.
    crs : CRS or None
        Of the coordinates.
    bounds : (left, bottom, right, top)
        Of all of them.
    numbers : int array, shape (N,)
        The file's numbers of the features.
    parts : array of shapely geometries, shape (M,)
        Single polygons.
    owners : int array, shape (M,)
        The feature, counted from 0, that each belongs to.

    Examples
    --------
    >>> boxes = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(5, 0, 6, 1)])
    >>> features = Features(np.array([4]), np.array([boxes]), np.array([None]))
    >>> Outlines.of(Path("a.gpkg"), features, None, (0, 0, 6, 1)).owners.tolist()
    [0, 0]
    """

    path: Path
    crs: CRS | None
    bounds: Bounds
    numbers: np.ndarray
    parts: np.ndarray
    owners: np.ndarray

    @classmethod
    def of(cls, path: Path, features: Features, crs: CRS | None, bounds: Bounds) -> Outlines:
        """Divide features into single polygons; lines and points in them are left out.

        Examples
        --------
        >>> mixed = shapely.GeometryCollection([shapely.Point(1, 2), shapely.box(0, 0, 1, 1)])
        >>> features = Features(np.array([4, 5]), np.array([None, mixed]), np.array([None, None]))
        >>> Outlines.of(Path("a.gpkg"), features, None, (0, 0, 1, 1)).owners.tolist()
        [1]
        """
        parts, owners = single_parts(features.geometries, np.full(len(features.geometries), _POLYGON))
        return cls(path, crs, bounds, features.numbers, parts, owners)

    def boxes_on(self, grid: PixelGrid, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of the parts that lie on a raster; parts of a feature that touch there are one.

        What reaches less than a pixel into the raster is left out.

        Parameters
        ----------
        grid : PixelGrid
            Of the raster.
        chosen : bool array, shape (N,)
            The features that count.

        Returns
        -------
        owners : int array, shape (K,)
            The feature of each box, ascending.
        boxes : float64 array, shape (K, 4)
            x1, y1, x2, y2 in pixels of the raster, beyond which they may reach.

        Raises
        ------
        DataError
            If a feature may cross the antimeridian and is not divided there.

        Examples
        --------
        >>> from affine import Affine
        >>> sides = ((1, 0, 2, 3), (5, 0, 6, 1), (9, 0, 12, 1), (4, 7.5, 6, 12))
        >>> boxes = shapely.MultiPolygon([shapely.box(*box) for box in sides])
        >>> features = Features(np.array([4]), np.array([boxes]), np.array([None]))
        >>> outlines = Outlines.of(Path("a.gpkg"), features, None, (1, 0, 12, 12))
        >>> owners, boxes = outlines.boxes_on(PixelGrid(8, 10, None, Affine.identity()), np.array([True]))
        >>> owners.tolist(), boxes.tolist()
        ([0, 0, 0], [[1.0, 0.0, 2.0, 3.0], [5.0, 0.0, 6.0, 1.0], [9.0, 0.0, 12.0, 1.0]])
        """
        around = bounds_around(grid, self.crs, Window(0, 0, grid.height, grid.width), MARGIN)
        turns = [0] if around is None else turns_between(around, self.bounds, self.crs)
        placed, index = [np.zeros(0, object)], [np.zeros(0, int)]
        for turn in turns:
            near = chosen[self.owners]
            if around is not None:
                left, bottom, right, top = around[0] + turn, around[1], around[2] + turn, around[3]
                near = near & (self._extents[:, :2] <= (right, top)).all(axis=1)
                near &= (self._extents[:, 2:] >= (left, bottom)).all(axis=1)
            found = np.flatnonzero(near)
            refuse_crossing(self.path, self.numbers[self.owners[found]], self.parts[found], self.crs)
            carried = carry_shapes(move_along_x(self.parts[found], -turn), self.crs, grid, around)
            on_raster = _meet(carried, grid)
            placed.append(carried[on_raster])
            index.append(self.owners[found[on_raster]])
        owners, boxes = _join_touching(np.concatenate(placed), np.concatenate(index))
        shown = np.clip(boxes, 0, np.tile((grid.width, grid.height), 2))
        kept = (_sides(shown) >= np.minimum(_sides(boxes), 1)).all(axis=1)
        return owners[kept], boxes[kept]

    @cached_property
    def _extents(self) -> np.ndarray:
        """Bounds of the parts, (M, 4).

        Examples
        --------
        >>> features = Features(np.array([4]), np.array([shapely.box(0, 1, 2, 3)]), np.array([None]))
        >>> Outlines.of(Path("a.gpkg"), features, None, (0, 1, 2, 3))._extents.tolist()
        [[0.0, 1.0, 2.0, 3.0]]
        """
        return shapely.bounds(self.parts)


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Widths and heights of boxes (N, 4), shape (N, 2).

    Examples
    --------
    >>> _sides(np.array([[1, 2, 4, 9]])).tolist()
    [[3, 7]]
    """
    return boxes[:, 2:] - boxes[:, :2]


def _meet(shapes: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """Which polygons (M,) in pixels of a raster cover a part of it, bool (M,).

    Examples
    --------
    >>> from affine import Affine
    >>> shapes = np.array([shapely.box(1, 1, 2, 2), shapely.box(6, 0, 9, 4), shapely.box(5, 3, 9, 9)])
    >>> _meet(shapes, PixelGrid(4, 6, None, Affine.identity())).tolist()
    [True, False, True]
    """
    boxes, size = shapely.bounds(shapes), (grid.width, grid.height)
    inside = (boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:] <= size).all(axis=1) & (shapely.area(shapes) > 0)
    apart = (boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= size).any(axis=1) | ~np.isfinite(boxes).all(axis=1)
    doubtful = np.flatnonzero(~inside & ~apart)  # beyond the edge, or invalid
    shown = shapely.intersection(shapely.make_valid(shapes[doubtful]), shapely.box(0, 0, *size))
    inside[doubtful] = shapely.area(shown) > 0
    return inside


def _join_touching(shapes: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around polygons (M,), one for those of an owner (M,) that touch: as the halves that a line divides.

    Returns
    -------
    owners : int array, shape (K,)
        Ascending.
    boxes : float64 array, shape (K, 4)

    Examples
    --------
    >>> shapes = np.array([shapely.box(*box) for box in ((5, 0, 6, 2), (0, 0, 1, 1), (1, 0, 2, 3), (1, 0, 9, 1))])
    >>> owners, boxes = _join_touching(shapes, np.array([7, 7, 7, 4]))
    >>> owners.tolist(), boxes.tolist()
    ([4, 7, 7], [[1.0, 0.0, 9.0, 1.0], [0.0, 0.0, 2.0, 3.0], [5.0, 0.0, 6.0, 2.0]])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    boxes = shapely.bounds(shapes).reshape(-1, 4)
    counts = np.bincount(owners, minlength=1)
    several = np.flatnonzero(counts[owners] > 1)
    pairs = shapely.STRtree(shapes[several]).query(shapes[several], predicate="dwithin", distance=_APART)
    first, second = several[pairs]
    first, second = (side[owners[first] == owners[second]] for side in (first, second))
    links = coo_array((np.ones(len(first)), (first, second)), shape=(len(shapes),) * 2)
    groups = connected_components(links, directed=False)[1] if len(shapes) else np.zeros(0, int)
    count = int(groups.max(initial=-1)) + 1
    joined = np.tile([np.inf, np.inf, -np.inf, -np.inf], (count, 1))
    np.minimum.at(joined[:, :2], groups, boxes[:, :2])
    np.maximum.at(joined[:, 2:], groups, boxes[:, 2:])
    of_group = np.zeros(count, int)
    of_group[groups] = owners
    order = np.lexsort((joined[:, 1], joined[:, 0], of_group))
    return of_group[order], joined[order]
