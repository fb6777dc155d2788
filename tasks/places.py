"""Where items lie on the ground, so that those of the same place are found whatever files they are in."""

from __future__ import annotations

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import xy
from rasterio.warp import transform_bounds

from tasks.belief import Place


def place_on_ground(crs: CRS | None, transform: Affine, box: tuple[int, int, int, int]) -> Place | None:
    """Place of a part of a raster in degrees; None where that is not known, or the part lies over the date line.

    Parameters
    ----------
    crs : CRS or None
        Of the raster.
    transform : Affine
        From its pixels to the CRS.
    box : (int, int, int, int)
        Left, top, right, bottom of the part, in pixels.

    Examples
    --------
    >>> place = place_on_ground(CRS.from_epsg(4326), Affine(0.5, 0, 10, 0, -0.5, 50), (0, 0, 8, 4))
    >>> place.space, place.box, place.reach
    ('ground', (10.0, 48.0, 14.0, 50.0), 0.5)
    >>> place_on_ground(None, Affine.identity(), (0, 0, 8, 4)) is None
    True
    """
    if crs is None:
        return None
    left, top, right, bottom = box
    xs, ys = xy(transform, np.repeat((top, bottom), 2), np.tile((left, right), 2), offset="ul")
    try:
        west, south, east, north = transform_bounds(crs, "EPSG:4326", min(xs), min(ys), max(xs), max(ys))
    except RasterioError:  # a CRS of no known place on the Earth
        return None
    if not (west < east and south < north):
        return None
    return Place("ground", (west, south, east, north), (east - west) / (right - left))
