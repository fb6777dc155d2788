"""From map coordinates to the pixels of a raster."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.raster.grids import PixelGrid, apply_transform
from utils.raster.scenes import RasterScene


def grid_of(path: Path) -> PixelGrid | None:
    """Size, CRS and transform of a raster; None for a picture without a place on Earth.

    Raises
    ------
    DataError
        If it cannot be opened.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> grid_of(Path(raster_file("a.tif", np.zeros((4, 6, 3), np.uint8)))) is None
    True
    """
    grid = RasterScene(path).file_grid
    return None if grid.crs is None and grid.transform.is_identity else grid


def boxes_on_pixels(boxes: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """Boxes of pixels around boxes of map coordinates; larger than these on a rotated raster.

    Parameters
    ----------
    boxes : ndarray, shape (N, 4)
        Smallest x and y, largest x and y, in the raster's CRS.
    grid : PixelGrid
        Of the raster.

    Returns
    -------
    ndarray of float64, shape (N, 4)
        As x1, y1, x2, y2.

    Examples
    --------
    >>> from affine import Affine
    >>> turned = Affine.translation(100, 50) @ Affine.rotation(-90)
    >>> boxes_on_pixels(np.array([[101.0, 40, 103, 45]]), PixelGrid(20, 20, None, turned)).round(6).tolist()
    [[5.0, 1.0, 10.0, 3.0]]
    """
    x, y = boxes[:, [0, 2, 2, 0]], boxes[:, [1, 1, 3, 3]]
    placed = np.stack(apply_transform(~grid.transform, x, y), axis=-1)
    return np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)
