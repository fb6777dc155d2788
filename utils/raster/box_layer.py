"""Boxes that were found in a raster, as a layer of a GeoPackage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import shapely

from utils.errors import SettingsError
from utils.raster.gdal import bounded_gdal
from utils.raster.grids import PixelGrid
from utils.raster.polygons import LAYER, WORK_NAME, Polygons, PolygonSink
from utils.raster.qgis import add_style, qgis_polygon_style
from utils.raster.writer import disk_full_as_data_error
from utils.runtime.files import sync


def write_boxes(
    destination: str | Path,
    parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    grid: PixelGrid,
    class_names: Sequence[str],
    palette: np.ndarray,
) -> int:
    """Write boxes as rectangles in map coordinates to a GeoPackage; on a rotated raster they are rotated too.

    Parameters
    ----------
    destination : str or Path
        The `.gpkg` file; it appears when complete.
    parts : iterable of (boxes, scores, labels)
        Boxes (N, 4) as x1, y1, x2, y2 in pixels, scores (N,) and classes (N,), part by part.
    grid : PixelGrid
        Of the raster: CRS and transform.
    class_names : sequence of str
        K names.
    palette : ndarray, shape (K, 3)
        Red, green, blue of each class, for the style with which QGIS shows the layer.

    Returns
    -------
    int
        How many were written. Their fields: `class_index`, `class_name`, `score`, `area_px`, and `area_m2` when the
        raster has a CRS.

    Raises
    ------
    SettingsError
        If the destination is not a `.gpkg` file.
    DataError
        If the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from affine import Affine
    >>> from rasterio.crs import CRS
    >>> from utils.raster.vector_files import read_features
    >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
    >>> part = np.array([[2.0, 1, 4, 3]]), np.array([0.5]), np.array([0])
    >>> grid = PixelGrid(4, 6, CRS.from_epsg(32631), Affine(0.5, 0, 100, 0, -0.5, 50))
    >>> write_boxes(path, [part], grid, ["tree"], np.array([[0, 128, 0]]))
    1
    >>> features = read_features(path, None, "score")
    >>> shapely.bounds(features.geometries).tolist(), features.values.tolist()
    ([[101.0, 48.5, 102.0, 49.5]], [0.5])
    """
    destination = Path(destination)
    if destination.suffix.lower() != ".gpkg":
        raise SettingsError(f"{destination}: boxes are written as .gpkg, got {destination.suffix!r}")
    work = destination.parent / f".{destination.name}.partial"
    shutil.rmtree(work, ignore_errors=True)
    with bounded_gdal(GDAL_PAM_ENABLED="NO"), disk_full_as_data_error(destination, work):
        work.mkdir(parents=True)
        sink = PolygonSink(work / WORK_NAME, grid, list(class_names), 0.0, 0.0, has_scores=True)
        for boxes, scores, labels in parts:
            shapes = shapely.box(*np.asarray(boxes, np.float64).reshape(-1, 4).T)
            sink.add(Polygons(shapes, np.asarray(labels, np.int64), np.asarray(scores, np.float64)))
        sink.close()
        add_style(sink.path, LAYER, qgis_polygon_style("class_name", class_names, palette))
        sync(sink.path)
        os.replace(sink.path, destination)
        sync(destination.parent)
        shutil.rmtree(work)
    return sink.count
