"""Pixel grids: where pixels lie in a CRS, and in which pixel of another grid they fall."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import rasterio.warp
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from utils.raster.gdal import bounded_gdal
from utils.raster.tiling import Window

Bounds = tuple[float, float, float, float]

_LATTICE = 32  # pixels between points whose place in the label is computed, where the CRS differ
_LATTICE_ERROR = 0.01  # label pixels; a map that bends more is computed point by point
_EDGE = 1e-6  # label pixels; centres on the very edge of a label pixel belong to the next one


@dataclass(frozen=True)
class PixelGrid:
    """Where the pixels of a raster lie.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    crs : CRS or None
        Coordinate reference system of the map coordinates.
    transform : Affine
        From pixel (x, y), whose origin is the outer corner of the top-left pixel, to map coordinates.

    Examples
    --------
    >>> PixelGrid(4, 6, CRS.from_epsg(32631), Affine(2, 0, 100, 0, -2, 50)).bounds
    (100.0, 42.0, 112.0, 50.0)
    """

    height: int
    width: int
    crs: CRS | None
    transform: Affine

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest and largest map coordinates: left, bottom, right, top, also of a rotated raster.

        Examples
        --------
        >>> PixelGrid(4, 6, None, Affine.identity()).bounds
        (0.0, 0.0, 6.0, 4.0)
        """
        corners = [
            self.transform @ corner for corner in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        ]
        xs, ys = zip(*corners, strict=True)
        return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))

    def scaled(self, scale: float) -> PixelGrid:
        """The same extent on another number of pixels; all four outer corners stay where they are.

        Parameters
        ----------
        scale : float
            Pixels per pixel of this grid; the size is rounded to whole pixels and the pixels fill the extent exactly.

        Examples
        --------
        >>> grid = PixelGrid(4, 7, None, Affine(2, 0, 100, 0, -2, 50)).scaled(0.5)
        >>> grid.height, grid.width, grid.transform.a, grid.transform.e, grid.bounds
        (2, 4, 3.5, -4.0, (100.0, 42.0, 114.0, 50.0))
        """
        if scale == 1:
            return self
        return self.resized(*(max(1, math.floor(size * scale + 0.5)) for size in (self.height, self.width)))

    def resized(self, height: int, width: int) -> PixelGrid:
        """The same extent on a height and width in pixels, which may become longer or wider than they were.

        Examples
        --------
        >>> grid = PixelGrid(4, 8, None, Affine.scale(2, -2)).resized(2, 16)
        >>> grid.height, grid.width, grid.transform.a, grid.transform.e, grid.bounds
        (2, 16, 1.0, -4.0, (0.0, -8.0, 16.0, 0.0))
        """
        if (height, width) == (self.height, self.width):
            return self
        stretch = Affine.scale(self.width / width, self.height / height)
        return replace(self, height=height, width=width, transform=self.transform @ stretch)

    def difference(self, other: PixelGrid) -> str | None:
        """Say what keeps two rasters from sharing their pixels; None when they do.

        Corners may differ by a hundredth of a pixel, which is the noise of printed coordinates.

        Examples
        --------
        >>> grid = PixelGrid(4, 6, None, Affine.identity())
        >>> grid.difference(PixelGrid(4, 7, None, Affine.identity()))
        'size 4 x 6 against 4 x 7 (height x width)'
        >>> grid.difference(replace(grid, transform=Affine.translation(0.5, 0)))
        'outer corners up to 0.5 pixels apart'
        """
        if (self.height, self.width) != (other.height, other.width):
            return f"size {self.height} x {self.width} against {other.height} x {other.width} (height x width)"
        if self.crs != other.crs:
            return f"CRS {crs_name(self.crs)} against {crs_name(other.crs)}"
        relative = ~self.transform @ other.transform
        corners = np.array([(0, 0), (self.width, 0), (0, self.height), (self.width, self.height)], dtype=float)
        apart = max(math.dist(relative @ tuple(corner), corner) for corner in corners)
        return f"outer corners up to {apart:.4g} pixels apart" if apart > 0.01 else None


def crs_name(crs: CRS | None) -> str:
    """A CRS in few words: its EPSG code, or the name that it has.

    Examples
    --------
    >>> crs_name(CRS.from_epsg(4326)), crs_name(None)
    ('EPSG:4326', 'none')
    >>> crs_name(CRS.from_proj4("+proj=aea +lat_1=29.5 +lat_2=45.5 +datum=WGS84"))
    'unknown (PROJCS)'
    """
    if crs is None:
        return "none"
    text = crs.to_string()
    return text if len(text) < 40 else f"{text.split(chr(34))[1]} ({text.split('[')[0]})"


def apply_transform(transform: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an affine map to many points.

    Parameters
    ----------
    transform : Affine
        Such as pixel to map.
    x, y : array, any shape
        Coordinates.

    Examples
    --------
    >>> x, y = apply_transform(Affine(2, 0, 8, 0, -2, 9), np.array([0, 1]), np.array([0, 3]))
    >>> x.tolist(), y.tolist()
    ([8.0, 10.0], [9.0, 3.0])
    """
    return (
        transform.a * x + transform.b * y + transform.c,
        transform.d * x + transform.e * y + transform.f,
    )


def transform_points(source: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carry points into another CRS, one by one and exactly; infinite where the target has no such place.

    Parameters
    ----------
    source, target : CRS
        Coordinates are (x, y) or (longitude, latitude), whatever order the authority prefers.
    x, y : array, shape (N,)
        Map coordinates.

    Returns
    -------
    two arrays, shape (N,)
        Map coordinates in the target.

    Examples
    --------
    >>> x, y = transform_points(CRS.from_epsg(4326), CRS.from_epsg(3857), np.array([0.0, 9.0]), np.array([0.0, 95.0]))
    >>> x.tolist(), bool(abs(y[0]) < 1e-6), float(y[1])
    ([0.0, inf], True, inf)
    """
    if source == target or not len(x):
        return x, y
    usable = np.isfinite(x) & np.isfinite(y)
    if source.is_geographic:
        usable &= np.abs(y) <= 90
    out = np.full((2, len(x)), np.inf)
    out[:, usable] = _transform_or_split(source, target, x[usable], y[usable])
    return out[0], out[1]


def _transform_or_split(source: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Transform points; when PROJ refuses them all for the sake of one, halve until that one is alone.

    `x` and `y` have shape (N,), the result has shape (2, N).

    Examples
    --------
    >>> utm, degrees = CRS.from_epsg(32631), CRS.from_epsg(4326)
    >>> _transform_or_split(degrees, utm, np.array([3.0]), np.array([0.0])).round(3).tolist()
    [[500000.0], [0.0]]
    """
    try:
        with bounded_gdal():
            return np.array(rasterio.warp.transform(source, target, x, y), dtype=float).reshape(2, -1)
    except (RasterioError, CPLE_BaseError):
        if len(x) <= 1:
            return np.full((2, len(x)), np.inf)
    half = len(x) // 2
    parts = [_transform_or_split(source, target, x[part], y[part]) for part in (slice(half), slice(half, None))]
    return np.concatenate(parts, axis=1)


def carry_bounds(bounds: Bounds, source: CRS | None, target: CRS | None) -> Bounds | None:
    """Bounds in another CRS; None where they have no place there.

    Examples
    --------
    >>> carry_bounds((0, 0, 1, 1), CRS.from_epsg(4326), CRS.from_epsg(3857))[2] // 1
    111319.0
    >>> carry_bounds((5e5, 4e6, 6e5, 5e6), CRS.from_epsg(4326), CRS.from_epsg(32618)) is None
    True
    """
    if source == target or source is None or target is None:
        return bounds
    if source.is_geographic and not fits_degrees(bounds):
        return None
    try:
        with bounded_gdal():
            carried = rasterio.warp.transform_bounds(source, target, *bounds, densify_pts=21)
    except (RasterioError, CPLE_BaseError):
        return None
    return carried if np.isfinite(carried).all() else None


def fits_degrees(bounds: Bounds) -> bool:
    """Whether numbers can be longitudes and latitudes.

    Examples
    --------
    >>> fits_degrees((-180, -90, 180, 90)), fits_degrees((-663347, 2118636, -657354, 2129938))
    (True, False)
    """
    left, bottom, right, top = bounds
    return left >= -360.001 and right <= 360.001 and bottom >= -90.001 and top <= 90.001


def overlap(first: Bounds, second: Bounds) -> bool:
    """Whether two bounds overlap; one that crosses the date line (left > right) counts as everywhere in x.

    Examples
    --------
    >>> overlap((0, 0, 2, 2), (1, 1, 3, 3)), overlap((0, 0, 2, 2), (2, 0, 3, 2)), overlap((0, 0, 2, 2), (9, 1, 7, 3))
    (True, False, True)
    """
    beside = first[2] <= second[0] or second[2] <= first[0]
    wraps = first[0] > first[2] or second[0] > second[2]
    above = first[3] <= second[1] or second[3] <= first[1]
    return not above and (wraps or not beside)


def in_degrees(crs: CRS | None) -> bool:
    """Whether the coordinates of a CRS are longitudes and latitudes in degrees, which repeat every 360.

    Examples
    --------
    >>> in_degrees(CRS.from_epsg(4326)), in_degrees(CRS.from_epsg(32631)), in_degrees(None)
    (True, False, False)
    """
    return crs is not None and crs.is_geographic and abs(crs.units_factor[1] - math.pi / 180) < 1e-9


def shift_bounds(bounds: Bounds, x: float) -> Bounds:
    """Bounds moved along x.

    Examples
    --------
    >>> shift_bounds((179.5, 0, 180.5, 1), -360)
    (-180.5, 0, -179.5, 1)
    """
    return bounds[0] + x, bounds[1], bounds[2] + x, bounds[3]


def turns_between(first: Bounds, second: Bounds, crs: CRS | None) -> list[int]:
    """By how many degrees of longitude to move the first bounds so that they overlap the second, both in one CRS.

    Beyond the antimeridian the same ground has two longitudes: 180.01 is -179.99.

    Returns
    -------
    list of int
        Of -360, 0 and 360; without degrees 0 or nothing.

    Examples
    --------
    >>> degrees = CRS.from_epsg(4326)
    >>> turns_between((179.9, -18, 180.1, -17), (-180, -20, -179, -16), degrees)
    [-360]
    >>> turns_between((179.9, -18, 180.1, -17), (-180, -20, 180, -16), degrees)
    [-360, 0]
    >>> turns_between((0, 0, 2, 2), (1, 1, 3, 3), CRS.from_epsg(32631)), turns_between((0, 0, 2, 2), (5, 1, 9, 3), None)
    ([0], [])
    """
    turns = (-360, 0, 360) if in_degrees(crs) else (0,)
    return [turn for turn in turns if overlap(shift_bounds(first, turn), second)]


def _beyond_antimeridian(grid: PixelGrid) -> bool:
    """Whether a grid in degrees holds longitudes outside -180 to 180.

    Examples
    --------
    >>> degrees = CRS.from_epsg(4326)
    >>> [_beyond_antimeridian(PixelGrid(1, 2, degrees, Affine.translation(x, 0))) for x in (178, 179, -181)]
    [False, True, True]
    """
    left, _, right, _ = grid.bounds
    return in_degrees(grid.crs) and (left < -180 - 1e-6 or right > 180 + 1e-6)


def longitudes_differ(source: PixelGrid, target: PixelGrid) -> bool:
    """Whether the same ground may have another longitude in the target than where the source's points come to lie.

    Examples
    --------
    >>> west, east = (PixelGrid(1, 2, CRS.from_epsg(4326), Affine.translation(x, 0)) for x in (-180, 179))
    >>> longitudes_differ(east, west), longitudes_differ(west, west)
    (True, False)
    """
    return in_degrees(target.crs) and (_beyond_antimeridian(source) or _beyond_antimeridian(target))


def place_exactly(source: PixelGrid, target: PixelGrid, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Carry pixel coordinates of one grid into pixel coordinates of another.

    Parameters
    ----------
    source, target : PixelGrid
        Both with a CRS, or both without one.
    x, y : float array, any common shape
        In pixels of the source.

    Returns
    -------
    float array, shape (2, ...)
        x and y in pixels of the target, not finite where the target's CRS has no such place.

    Examples
    --------
    >>> fine = PixelGrid(8, 8, None, Affine.scale(0.5))
    >>> coarse = PixelGrid(4, 4, None, Affine.translation(1, 0))
    >>> place_exactly(fine, coarse, np.array([4.5]), np.array([3.0])).tolist()
    [[1.25], [1.5]]
    """
    map_x, map_y = apply_transform(source.transform, x.ravel(), y.ravel())
    if source.crs is not None and target.crs is not None:
        map_x, map_y = transform_points(source.crs, target.crs, map_x, map_y)
    if longitudes_differ(source, target):  # the turn of each point that is nearest to the target's middle
        left, _, right, _ = target.bounds
        with np.errstate(invalid="ignore"):
            map_x = map_x - 360 * np.floor((map_x - (left + right) / 2 + 180) / 360)
    with np.errstate(invalid="ignore"):
        return np.stack(apply_transform(~target.transform, map_x, map_y)).reshape(2, *x.shape)


def _centre_lines(start: int, count: int) -> np.ndarray:
    """Positions on an axis every half lattice step, on the same places whatever the window, and around it.

    The positions have shape (N,).

    Examples
    --------
    >>> _centre_lines(40, 30).tolist()
    [32, 48, 64, 80, 96]
    """
    first = start // _LATTICE * _LATTICE
    cells = -(-(start + count - first) // _LATTICE)
    return first + np.arange(2 * cells + 1) * (_LATTICE // 2)


def _interpolate(
    lattice: np.ndarray, line_x: np.ndarray, line_y: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Interpolate bilinearly between every second point of a lattice.

    `lattice` has shape (2, M, N) on the lines `line_y` (M,) and `line_x` (N,), the result one value for each of `y`
    and `x`.

    Examples
    --------
    >>> lattice = np.array([[[0.0, 9.0, 32.0], [9.0, 9.0, 9.0], [8.0, 9.0, 8.0]]])
    >>> lines = np.array([32, 48, 64])
    >>> _interpolate(lattice, lines, lines, np.array([34.0, 64.0]), np.array([32.0, 48.0])).tolist()
    [[[2.0, 32.0], [5.0, 20.0]]]
    """
    values = lattice[:, ::2, ::2]
    for axis, places, first in ((2, x, line_x[0]), (1, y, line_y[0])):
        offset = (places - first) / _LATTICE
        base = np.minimum(offset.astype(np.int64), values.shape[axis] - 2)
        share = (offset - base)[:, None] if axis == 1 else offset - base
        before = values.take(base, axis=axis)
        values = before + (values.take(base + 1, axis=axis) - before) * share
    return values


def locate_pixels(source: PixelGrid, target: PixelGrid, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Find in which pixel of another grid, in another CRS, each pixel's centre lies.

    The places are computed exactly on a lattice and interpolated between; wherever the interpolation's measured
    error could tip a centre over the edge of a pixel, the place is computed exactly. So the answer is that of carrying
    every single centre, at a fraction of the cost.

    Parameters
    ----------
    source, target : PixelGrid
        The grid that asks, and the one that is looked into.
    window : Window
        Of the source.

    Returns
    -------
    rows, columns : int array, shape (height, width)
        Pixels of the target, also beyond its ends; -1 where its CRS has no such place.

    Examples
    --------
    >>> utm = PixelGrid(64, 64, CRS.from_epsg(32631), Affine(10, 0, 500000, 0, -10, 5000000))
    >>> degrees = PixelGrid(900, 900, CRS.from_epsg(4326), Affine(1e-5, 0, 3, 0, -1e-5, 45.1555))
    >>> rows, columns = locate_pixels(utm, degrees, Window(0, 0, 2, 3))
    >>> columns.tolist()
    [[6, 19, 31], [6, 19, 31]]
    """
    line_x, line_y = _centre_lines(window.x, window.width), _centre_lines(window.y, window.height)
    lattice = place_exactly(source, target, *np.meshgrid(line_x.astype(float), line_y.astype(float)))
    x = window.x + np.arange(window.width) + 0.5
    y = window.y + np.arange(window.height) + 0.5
    with np.errstate(invalid="ignore"):  # infinite where the other CRS has no such place
        stray = _interpolate(lattice, line_x, line_y, line_x, line_y) - lattice
    error = float(np.abs(stray).max())  # with the middles of edges: at cell centres x and y may cancel each other
    if not error <= _LATTICE_ERROR:  # also where it is no number
        return _to_pixels(place_exactly(source, target, *np.meshgrid(x, y)))
    places = _interpolate(lattice, line_x, line_y, x, y)
    doubtful = (np.abs(places - np.rint(places)) < 4 * error + 2 * _EDGE).any(axis=0)
    rows, columns = np.nonzero(doubtful)
    places[:, rows, columns] = place_exactly(source, target, x[columns], y[rows])
    return _to_pixels(places)


def _to_pixels(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column that hold a place; -1 where there is none.

    `places` has shape (2, ...): x and y; rows and columns have shape (...).

    Examples
    --------
    >>> rows, columns = _to_pixels(np.array([[2.9999999999, 0.5], [1.0, np.inf]]))
    >>> rows.tolist(), columns.tolist()
    ([1, -1], [3, -1])
    """
    exists = np.isfinite(places).all(axis=0) & (np.abs(places) < 2**31).all(axis=0)
    columns, rows = np.where(exists, np.floor(np.where(exists, places, 0) + _EDGE), -1).astype(np.int64)
    return rows, columns


def locate_affine(matrix: Affine, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Find the label pixel under each pixel's centre where one affine map leads from pixels to label pixels.

    Returns
    -------
    rows, columns : int arrays
        Of shapes that broadcast to (height, width): without rotation a column and a row are enough.

    Examples
    --------
    >>> rows, columns = locate_affine(Affine.scale(2, 0.5), Window(1, 0, 2, 3))
    >>> rows.tolist(), columns.tolist()
    ([[0], [1]], [[1, 3, 5]])
    """
    x = window.x + np.arange(window.width)[None, :] + 0.5
    y = window.y + np.arange(window.height)[:, None] + 0.5
    columns = matrix.a * x + matrix.c if abs(matrix.b) < 1e-12 else matrix.a * x + matrix.b * y + matrix.c
    rows = matrix.e * y + matrix.f if abs(matrix.d) < 1e-12 else matrix.d * x + matrix.e * y + matrix.f
    return np.floor(rows + _EDGE).astype(np.int64), np.floor(columns + _EDGE).astype(np.int64)
