"""Where a raster lies, also where a file says it by ground control points instead of a transform."""

from __future__ import annotations

import logging
import math

import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import from_gcps

logger = logging.getLogger(__name__)

_MOST_MISFIT = 0.5  # pixels between a ground control point and its place by the fitted transform


def read_place(dataset: rasterio.DatasetReader) -> tuple[CRS | None, Affine, str | None]:
    """CRS and transform of a raster; ground control points become a transform where one fits them to half a pixel.

    Parameters
    ----------
    dataset : rasterio.DatasetReader
        An open raster.

    Returns
    -------
    crs : CRS or None
    transform : Affine
        The identity where there is none.
    unplaced : str or None
        In what other way the file says where it lies, and what to do; None where nothing is lost.

    Examples
    --------
    >>> from rasterio.control import GroundControlPoint as Point
    >>> from rasterio.io import MemoryFile
    >>> def place(points):
    ...     with MemoryFile() as file:
    ...         with file.open(driver="GTiff", height=4, width=6, count=1, dtype="uint8") as dataset:
    ...             dataset.gcps = [Point(row, column, x, y) for row, column, x, y in points], CRS.from_epsg(32631)
    ...         with file.open() as dataset:
    ...             return read_place(dataset)
    >>> corners = [(0, 0, 100, 50), (0, 6, 112, 50), (4, 0, 100, 42), (4, 6, 112, 42)]
    >>> crs, transform, unplaced = place(corners)
    >>> crs.to_epsg(), [round(number, 9) for number in transform[:6]], unplaced
    (32631, [2.0, 0.0, 100.0, 0.0, -2.0, 50.0], None)
    >>> place([*corners[:3], (4, 6, 130, 42)])[2]
    'its place is given by 4 ground control points, which no transform fits (up to 1.29 pixels off): warp it ...'
    """
    points, points_crs = dataset.gcps
    if not dataset.transform.is_identity:
        return dataset.crs, dataset.transform, None
    if points:
        transform, misfit = _fit(points)
        if misfit <= _MOST_MISFIT:
            logger.info("%s: placed by %d ground control points, %.2g pixels off", dataset.name, len(points), misfit)
            return points_crs, transform, None
        why = f"which no transform fits (up to {misfit:.3g} pixels off)" if math.isfinite(misfit) else "too few to fit"
        return None, dataset.transform, _unplaced(f"{len(points)} ground control points, {why}", "-tps")
    if dataset.rpcs is not None:
        return dataset.crs, dataset.transform, _unplaced("rational polynomial coefficients (RPC)", "-rpc")
    if dataset.tags(ns="GEOLOCATION"):
        return dataset.crs, dataset.transform, _unplaced("geolocation arrays", "-geoloc")
    return dataset.crs, dataset.transform, None


def _unplaced(how: str, option: str) -> str:
    """Say how a file gives its place, and how to turn that into a transform.

    Examples
    --------
    >>> _unplaced("geolocation arrays", "-geoloc")
    'its place is given by geolocation arrays: warp it to a transform first (gdalwarp -geoloc IN.tif OUT.tif)'
    """
    return f"its place is given by {how}: warp it to a transform first (gdalwarp {option} IN.tif OUT.tif)"


def _fit(points: list) -> tuple[Affine, float]:
    """The transform that fits ground control points best, and the largest distance from one of them in pixels.

    Examples
    --------
    >>> from rasterio.control import GroundControlPoint as Point
    >>> _fit([Point(0, 0, 1, 1)])[1]
    inf
    """
    try:
        transform = from_gcps(points)
    except (RasterioError, CPLE_BaseError, ValueError):
        return Affine.identity(), math.inf
    if transform.is_degenerate or not all(map(math.isfinite, transform[:6])):  # too few points, or all on one line
        return Affine.identity(), math.inf
    back = ~transform
    apart = [math.dist(back @ (point.x, point.y), (point.col, point.row)) for point in points]
    return transform, max(apart) if all(map(math.isfinite, apart)) else math.inf
