"""Polygons of a class map: traced band by band, joined across bands, written complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio.errors import RasterioError
from rasterio.features import shapes
from rasterio.windows import Window as RasterioWindow

from utils.errors import DataError, SettingsError
from utils.raster.drivers import plain_path, vector_library
from utils.raster.gdal import bounded_gdal, local_path
from utils.raster.qgis import add_style, qgis_polygon_style
from utils.raster.writer import BLOCK, NODATA, disk_full_as_data_error
from utils.runtime.files import sync

LAYER = "classes"
WORK_NAME = "layer.gpkg"  # in the work folder, whose name is that of the result: SQLite takes paths of 512 bytes
GPKG_VERSION = "1.2"  # GDAL before 3.7, as in QGIS 3.22, warns of 1.4


@dataclass(frozen=True)
class Polygons:
    """Polygons of class maps, with the class of each.

    Parameters
    ----------
    geometries : ndarray of shapely geometries, shape (N,)
        Polygons with their holes.
    classes : ndarray of int, shape (N,)
        Class index of each.
    scores : ndarray of float, shape (N,), optional
        How sure each is; class maps have none.

    Examples
    --------
    >>> Polygons(np.array([shapely.box(0, 0, 1, 1)]), np.array([3], np.uint8)).classes.tolist()
    [3]
    """

    geometries: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None

    def keep(self, chosen: np.ndarray) -> Polygons:
        """Those at the given indices or where a mask is true.

        Examples
        --------
        >>> boxes = Polygons(shapely.box(0, 0, [1, 2], 1), np.array([3, 4], np.uint8))
        >>> boxes.keep(np.array([False, True])).classes.tolist()
        [4]
        """
        scores = None if self.scores is None else self.scores[chosen]
        return Polygons(self.geometries[chosen], self.classes[chosen], scores)


def write_polygons(
    classes_path: str | Path,
    destination: str | Path,
    *,
    class_names: Sequence[str],
    palette: np.ndarray | None = None,
    skip_classes: Iterable[int] = (),
    simplify_tolerance: float = 0.0,
    min_area: float = 0.0,
    band_pixels: int = 1 << 22,
) -> int:
    """Write the areas of a class map as polygons to a GeoPackage.

    Pixels of one class that share a side make one polygon. The map is read in bands of rows; only polygons that cross
    into the next band are kept in memory, the others are written as they are found.

    Parameters
    ----------
    classes_path : str or Path
        A class map with one band.
    destination : str or Path
        The `.gpkg` file; it appears when complete.
    class_names : sequence of str
        Name of each class.
    palette : ndarray, shape (K, 3), optional
        Red, green, blue of each class, for the style with which QGIS shows the layer.
    skip_classes : iterable of int, optional
        Classes to leave out, for instance the background; nodata is always left out.
    simplify_tolerance : float, default 0
        Pixels by which a simplified outline may leave the original; 0 keeps the pixels' sides. Each polygon is
        simplified for itself: neighbours may then overlap or part by as much.
    min_area : float, default 0
        Polygons of fewer pixels are left out.
    band_pixels : int
        Pixels read at a time.

    Returns
    -------
    int
        How many polygons were written. Their fields: `class_index`, `class_name`, `area_px`, and `area_m2` when the map
        has a CRS, both of the pixels, before simplification.

    Raises
    ------
    SettingsError
        If the destination is not a `.gpkg` file.
    DataError
        If the map holds values that are no class, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.writer import ClassRasterWriter
    >>> from utils.raster.tiling import Window
    >>> folder = Path(tempfile.mkdtemp())
    >>> writer = ClassRasterWriter(folder / "a.tif", height=3, width=3, class_names=["a"], palette=[[0, 0, 0]])
    >>> writer.append(Window(0, 0, 3, 3), np.array([[0, 0, 0], [0, 255, 0], [0, 0, 0]], np.uint8))
    >>> write_polygons(writer.close()[0], folder / "a.gpkg", class_names=["a"])
    1
    """
    destination, skip_classes = Path(destination), list(skip_classes)
    if destination.suffix.lower() != ".gpkg":
        raise SettingsError(f"{destination}: polygons are written as .gpkg, got {destination.suffix!r}")
    work = destination.parent / f".{destination.name}.partial"
    shutil.rmtree(work, ignore_errors=True)
    with (
        bounded_gdal(GDAL_PAM_ENABLED="NO"),
        _open_classes(classes_path) as raster,
        disk_full_as_data_error(destination, work),
    ):
        work.mkdir(parents=True)
        sink = PolygonSink(work / WORK_NAME, raster, list(class_names), simplify_tolerance, min_area)
        for polygons in polygonize(raster, skip_classes, band_pixels):
            sink.add(polygons)
        sink.close()
        if palette is not None:
            shown = [index for index in range(len(class_names)) if index not in set(skip_classes)]
            names = [class_names[index] for index in shown]
            add_style(sink.path, LAYER, qgis_polygon_style("class_name", names, np.asarray(palette)[shown]))
        sync(sink.path)
        os.replace(sink.path, destination)
        sync(destination.parent)
        shutil.rmtree(work)
    return sink.count


@contextmanager
def _open_classes(path: str | Path) -> Iterator[Any]:
    """Open a class map, or say why it is none.

    Raises
    ------
    DataError
        When the file cannot be read, or has not one band of uint8.

    Examples
    --------
    >>> with _open_classes("/no/such.tif"):
    ...     pass
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such.tif: cannot be read as a class map (/no/such.tif: No such file or directory)
    """
    try:
        opened = rasterio.open(local_path(path))
    except RasterioError as error:
        raise DataError(f"{path}: cannot be read as a class map ({error})") from error
    with opened as raster:
        if (raster.count, raster.dtypes[0]) != (1, "uint8"):
            raise DataError(f"{path}: a class map has one band of uint8, got {raster.count} of {raster.dtypes[0]}")
        yield raster


def _read_rows(raster: Any, top: int, rows: int) -> np.ndarray:
    """Read a band of rows of a class map.

    The result has shape (rows, W), uint8.

    Raises
    ------
    DataError
        When the rows cannot be read.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=3, width=2) as raster:
    ...         raster.write(np.array([[[0, 1], [2, 3], [4, 5]]], np.uint8))
    ...     with memory.open() as raster:
    ...         _read_rows(raster, 1, 2).tolist()
    [[2, 3], [4, 5]]
    """
    try:
        return raster.read(1, window=RasterioWindow(0, top, raster.width, rows))
    except RasterioError as error:
        raise DataError(
            f"{raster.name}: rows {top}..{top + rows} cannot be read ({error.__cause__ or error})"
        ) from error


def polygonize(raster: Any, skip_classes: Iterable[int] = (), band_pixels: int = 1 << 22) -> Iterator[Polygons]:
    """Trace the classes of an open class map.

    Parameters
    ----------
    raster : rasterio dataset
        A class map with one uint8 band.
    skip_classes : iterable of int, optional
        Values to leave out besides nodata.
    band_pixels : int
        Pixels read at a time.

    Yields
    ------
    Polygons
        In pixels, origin at the outer corner of the top-left pixel; those that are complete after each band.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
    ...         raster.write(np.array([[[0, 1, 1], [0, 1, 0]]], np.uint8))
    ...     with memory.open() as raster:
    ...         for band in polygonize(raster, skip_classes=[1], band_pixels=3):
    ...             print(shapely.bounds(band.geometries).tolist())
    []
    [[0.0, 0.0, 1.0, 2.0], [2.0, 1.0, 3.0, 2.0]]
    """
    wanted = np.ones(256, bool)
    wanted[[*skip_classes, NODATA if raster.nodata is None else int(raster.nodata)]] = False
    stitcher = _Stitcher(raster.height, raster.width)
    rows = max(1, band_pixels // raster.width)
    if rows > BLOCK:
        rows -= rows % BLOCK  # whole tiles are read once
    for top in range(0, raster.height, rows):
        count = min(rows, raster.height - top)
        values = _read_rows(raster, top, count)
        yield stitcher.add(_trace(values, wanted[values], top), top, top + count)


def _trace(values: np.ndarray, wanted: np.ndarray, top: int) -> Polygons:
    """Trace one band of rows that begins at row `top`.

    `values` and `wanted` have shape (H, W).

    Examples
    --------
    >>> values = np.array([[7, 7, 0]], np.uint8)
    >>> traced = _trace(values, values > 0, top=10)
    >>> traced.classes.tolist(), shapely.bounds(traced.geometries).tolist()
    ([7], [[0.0, 10.0, 2.0, 11.0]])
    """
    points: list[tuple[float, float]] = []
    ring_ends, polygon_ends, classes = [0], [0], []
    for geometry, value in shapes(values, mask=wanted, connectivity=4):
        for ring in geometry["coordinates"]:
            points.extend(ring)
            ring_ends.append(len(points))
        polygon_ends.append(len(ring_ends) - 1)
        classes.append(value)
    coordinates = np.array(points, dtype=np.float64).reshape(-1, 2) + np.array([0, top])
    offsets = (np.array(ring_ends), np.array(polygon_ends))
    geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, offsets)
    return Polygons(geometries, np.array(classes, dtype=np.uint8))


class _Stitcher:
    """Join the polygons of neighbouring bands of rows, and keep only those that may still grow.

    Parameters
    ----------
    height, width : int
        Size of the raster in pixels.

    Examples
    --------
    >>> stitcher = _Stitcher(4, 3)
    >>> upper = Polygons(np.array([shapely.box(0, 0, 2, 2)]), np.array([1], np.uint8))
    >>> lower = Polygons(np.array([shapely.box(1, 2, 3, 4)]), np.array([1], np.uint8))
    >>> len(stitcher.add(upper, 0, 2).classes), shapely.area(stitcher.add(lower, 2, 4).geometries).tolist()
    (0, [8.0])
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.parts: list[list[shapely.Geometry]] = []  # of each open polygon, one list
        self.classes = np.zeros(0, np.uint8)
        self.border = np.full(width, -1)  # which open polygon each pixel of the last row belongs to

    def add(self, band: Polygons, top: int, bottom: int) -> Polygons:
        """Take the polygons of the rows top..bottom; give those that are complete.

        Examples
        --------
        >>> band = Polygons(np.array([shapely.box(0, 0, 1, 1)]), np.array([1], np.uint8))
        >>> len(_Stitcher(4, 3).add(band, 0, 2).classes)
        1
        """
        bounds = shapely.bounds(band.geometries).reshape(-1, 4)
        grows = (bounds[:, 3] == bottom) & (bottom < self.height)
        touches = grows | ((bounds[:, 1] == top) & (top > 0))
        pieces = band.keep(touches)
        groups = self._join(pieces, top)
        joined = self._regroup(pieces, groups, grows[touches], bottom)
        complete = band.keep(~touches)
        geometries = np.concatenate([complete.geometries, joined.geometries])
        return Polygons(geometries, np.concatenate([complete.classes, joined.classes]))

    def _join(self, pieces: Polygons, top: int) -> np.ndarray:
        """Number the polygons that open ones and new pieces make together; open ones come first.

        The result has shape (N,): a number for each open polygon and each new piece.

        Examples
        --------
        >>> stitcher = _Stitcher(4, 2)
        >>> stitcher.parts, stitcher.classes, stitcher.border = [[]], np.array([1]), np.array([0, -1])
        >>> stitcher._join(Polygons(shapely.box([0, 1], 2, [1, 2], 3), np.array([1, 1])), 2).tolist()
        [0, 0, 1]
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(self.parts) + len(pieces.classes)
        below = _border_owners(pieces.geometries, top, self.width)
        meet = np.flatnonzero((self.border >= 0) & (below >= 0))
        above, below = self.border[meet], below[meet]
        same = self.classes[above] == pieces.classes[below]
        edges = (above[same], below[same] + len(self.parts))
        return connected_components(coo_array((np.ones(same.sum()), edges), shape=(count, count)), directed=False)[1]

    def _regroup(self, pieces: Polygons, groups: np.ndarray, grows: np.ndarray, bottom: int) -> Polygons:
        """Gather the parts of each group; keep those open that grow, and unite the others.

        `groups` has shape (N,), `grows` one entry for each of the new pieces, shape (P,).

        Examples
        --------
        >>> pieces = Polygons(shapely.box([0, 1], 0, [1, 2], 1), np.array([1, 2], np.uint8))
        >>> stitcher = _Stitcher(4, 2)
        >>> stitcher._regroup(pieces, np.array([0, 1]), np.array([False, True]), 1).classes.tolist()
        [1]
        >>> stitcher.classes.tolist(), stitcher.border.tolist()
        ([2], [-1, 0])
        """
        total = int(groups.max(initial=-1)) + 1
        gathered: list[list[shapely.Geometry]] = [[] for _ in range(total)]
        for group, part in zip(groups, [*self.parts, *([piece] for piece in pieces.geometries)], strict=True):
            gathered[group].extend(part)
        classes = np.zeros(total, np.uint8)
        classes[groups] = np.concatenate([self.classes, pieces.classes])
        new = groups[len(self.parts) :]
        stays = np.zeros(total, bool)
        stays[new[grows]] = True
        owners = _border_owners(pieces.geometries, bottom, self.width)
        place = np.append(np.cumsum(stays) - 1, -1)  # the last entry serves pixels without an owner
        self.border = place[np.where(owners >= 0, new[owners] if len(new) else -1, total)]
        self.parts = [gathered[group] for group in np.flatnonzero(stays)]
        self.classes = classes[stays]
        complete = np.flatnonzero(~stays)
        return Polygons(_unite([gathered[group] for group in complete]), classes[complete])


def _unite(parts: Sequence[list[shapely.Geometry]]) -> np.ndarray:
    """Unite the parts of each polygon and drop the corners that the seams left on straight sides.

    The result has shape (N,), one geometry each.

    Examples
    --------
    >>> united = _unite([[shapely.box(0, 0, 1, 1), shapely.box(0, 1, 1, 2)], [shapely.box(5, 0, 6, 1)]])
    >>> shapely.get_num_coordinates(united).tolist()
    [5, 5]
    """
    united = np.empty(len(parts), dtype=object)
    for index, part in enumerate(parts):
        united[index] = part[0] if len(part) == 1 else shapely.simplify(shapely.union_all(part), 0)
    return united


def _border_owners(geometries: np.ndarray, y: int, width: int) -> np.ndarray:
    """Find which polygon has its side on each pixel of the line at `y`; -1 where none has.

    `geometries` has shape (N,), the result shape (W,).

    Examples
    --------
    >>> _border_owners(shapely.box([0, 2], [0, 1], [1, 4], 2), y=2, width=5).tolist()
    [0, -1, 1, 1, -1]
    """
    points, owner = shapely.get_coordinates(shapely.get_exterior_ring(geometries), return_index=True)
    on_line = points[:, 1] == y
    sides = np.flatnonzero(on_line[:-1] & on_line[1:] & (owner[:-1] == owner[1:]))
    ends = np.stack([points[sides, 0], points[sides + 1, 0]])
    left, lengths = ends.min(axis=0).astype(int), np.ptp(ends, axis=0).astype(int)
    owners = np.full(width, -1)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    owners[np.repeat(left, lengths) + within] = np.repeat(owner[sides], lengths)
    return owners


class PolygonSink:
    """Write polygons in batches to one layer of a GeoPackage.

    Parameters
    ----------
    path : Path
        The file to make.
    raster : rasterio dataset or PixelGrid
        Gives CRS and transform.
    class_names : list of str
        Name of each class.
    simplify_tolerance, min_area : float
        In pixels, as in `write_polygons`.
    has_scores : bool
        Whether the polygons have scores.

    Examples
    --------
    >>> import tempfile
    >>> with rasterio.MemoryFile() as memory:
    ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
    ...         sink = PolygonSink(Path(tempfile.mkdtemp()) / "a.gpkg", raster, ["x"], 0.0, 2.0)
    >>> sink.add(Polygons(shapely.box(0, 0, [1, 2], 1), np.array([0, 0], np.uint8)))
    >>> sink.count
    1
    """

    batch = 50_000

    def __init__(
        self,
        path: Path,
        raster: Any,
        class_names: list[str],
        simplify_tolerance: float,
        min_area: float,
        has_scores: bool = False,
    ):
        self.path, self.has_scores = path, has_scores
        self.crs, self.transform = raster.crs, raster.transform
        self.class_names = np.array(class_names, dtype=object)
        self.simplify_tolerance, self.min_area = simplify_tolerance, min_area
        self.waiting: list[Polygons] = []
        self.count = 0

    def add(self, polygons: Polygons) -> None:
        """Take polygons in pixels; write when enough have come.

        Raises
        ------
        DataError
            When a class has no name.

        Examples
        --------
        >>> with rasterio.MemoryFile() as memory:
        ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         sink = PolygonSink(Path("a.gpkg"), raster, ["x"], 0.0, 0.0)
        >>> sink.add(Polygons(np.array([shapely.box(0, 0, 1, 1)]), np.array([2], np.uint8)))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: the class map holds class 2, but only 1 classes have names
        """
        largest = int(polygons.classes.max(initial=0))
        if largest >= len(self.class_names):
            raise DataError(f"the class map holds class {largest}, but only {len(self.class_names)} classes have names")
        kept = polygons.keep(shapely.area(polygons.geometries) >= self.min_area)
        self.waiting.append(kept)
        self.count += len(kept.classes)
        if sum(len(polygons.classes) for polygons in self.waiting) >= self.batch:
            self._write()

    def close(self) -> None:
        """Write what waits; a map without polygons gives an empty layer.

        Raises
        ------
        OSError
            When the disk is full: the spatial index lacks polygons.

        Examples
        --------
        >>> import pyogrio, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
        >>> with rasterio.MemoryFile() as memory:
        ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         PolygonSink(path, raster, ["x"], 0.0, 0.0).close()
        >>> pyogrio.read_info(path)["features"]
        0
        """
        if self.waiting or not self.path.exists():
            self._write()
        indexed = _count_indexed(self.path)
        if indexed != self.count:  # on a full disk the last step may fail without an error
            raise OSError(errno.ENOSPC, f"{indexed} of {self.count} polygons are in the spatial index")

    def _write(self) -> None:
        """Write the waiting polygons.

        Raises
        ------
        OSError
            When the disk is full.

        Examples
        --------
        >>> import pyogrio, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
        >>> with rasterio.MemoryFile() as memory:
        ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         sink = PolygonSink(path, raster, ["x"], 0.0, 0.0)
        >>> sink.add(Polygons(np.array([shapely.box(0, 0, 2, 2)]), np.array([0], np.uint8)))
        >>> sink._write()
        >>> pyogrio.read_info(path)["fields"].tolist()
        ['class_index', 'class_name', 'area_px']
        """
        library = vector_library()
        geometries = np.concatenate([np.zeros(0, object), *(polygons.geometries for polygons in self.waiting)])
        classes = np.concatenate([np.zeros(0, np.uint8), *(polygons.classes for polygons in self.waiting)])
        fields = {"class_index": classes.astype(np.int32), "class_name": self.class_names[classes]}
        if self.has_scores:
            scores = [polygons.scores for polygons in self.waiting if polygons.scores is not None]
            fields["score"] = np.concatenate([np.zeros(0), *scores])
        self.waiting = []
        fields |= self._measure(geometries)
        if self.simplify_tolerance > 0:
            geometries = shapely.simplify(geometries, self.simplify_tolerance, preserve_topology=True)
        placed = _to_map(geometries, self.transform)
        options = {"driver": "GPKG", "geometry_type": "MultiPolygon", "promote_to_multi": True, "layer": LAYER}
        crs = self.crs.to_wkt() if self.crs else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")  # a picture has none
            try:
                table = (shapely.to_wkb(placed), list(fields.values()), list(fields))
                exists = self.path.exists()
                made = {} if exists else {"dataset_options": {"VERSION": GPKG_VERSION}}
                with plain_path(self.path) as plain:
                    library.raw.write(plain, *table, crs=crs, append=exists, **options, **made)
            except (library.errors.DataSourceError, library.errors.DataLayerError) as error:
                raise OSError(errno.ENOSPC, str(error)) from error

    def _measure(self, geometries: np.ndarray) -> dict[str, np.ndarray]:
        """Areas of polygons in pixels, and in square metres when the CRS tells.

        Geometries and areas have shape (N,).

        Examples
        --------
        >>> with rasterio.MemoryFile() as memory:
        ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         sink = PolygonSink(Path("a.gpkg"), raster, ["x"], 0.0, 0.0)
        >>> sink._measure(np.array([shapely.box(0, 0, 2, 2)]))
        {'area_px': array([4])}
        """
        areas = {"area_px": np.rint(shapely.area(geometries)).astype(np.int64)}
        if self.crs and (self.crs.is_projected or self.crs.is_geographic):
            areas["area_m2"] = measure_area_m2(_to_map(geometries, self.transform), self.crs)
        return areas


def is_polygons(path: str | Path) -> bool:
    """Whether a file is a GeoPackage that `write_polygons` has written: its layer has the fields of no other.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
    >>> with closing(sqlite3.connect(path)) as base:
    ...     _ = base.execute("create table classes (fid, class_index, class_name, area_px)")
    >>> is_polygons(path), is_polygons("/no/such.gpkg")
    (True, False)
    """
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as base:
            fields = {row[0] for row in base.execute("select name from pragma_table_info(?)", [LAYER])}
    except sqlite3.Error:  # not there, or no database
        return False
    return {"class_index", "class_name", "area_px"} <= fields


def _count_indexed(path: Path) -> int:
    """Count the entries of the spatial index; 0 when it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
    >>> _count_indexed(path)
    0
    """
    try:
        with closing(sqlite3.connect(path)) as database:
            return database.execute(f"SELECT count(*) FROM rtree_{LAYER}_geom_rowid").fetchone()[0]
    except sqlite3.Error:
        return 0


def _to_map(geometries: np.ndarray, transform: Any) -> np.ndarray:
    """Bring geometries from pixels into map coordinates.

    Geometries have shape (N,).

    Examples
    --------
    >>> from affine import Affine
    >>> _to_map(np.array([shapely.Point(2, 3)]), Affine(0.5, 0, 100, 0, -0.5, 200)).tolist()
    [<POINT (101 198.5)>]
    """
    a, b, c, d, e, f = transform[:6]
    return shapely.transform(geometries, lambda points: points @ np.array([[a, d], [b, e]]) + (c, f))


def measure_area_m2(geometries: np.ndarray, crs: Any) -> np.ndarray:
    """Areas of polygons in square metres.

    Parameters
    ----------
    geometries : ndarray of shapely geometries, shape (N,)
        In the units of `crs`, x before y.
    crs : rasterio CRS
        Projected: the plane area. Geographic: the area on the WGS 84 ellipsoid, exact for sides along meridians and
        parallels.

    Returns
    -------
    ndarray of float64, shape (N,)
        The areas.

    References
    ----------
    Snyder, 1987, Map Projections: A Working Manual, equation 3-12 (the authalic latitude).

    Examples
    --------
    >>> from rasterio.crs import CRS
    >>> cell = np.array([shapely.box(10, 0, 11, 1)])
    >>> measure_area_m2(cell, CRS.from_epsg(32632)).tolist()
    [1.0]
    >>> round(measure_area_m2(cell, CRS.from_epsg(4326))[0] / 1e6)  # square kilometres
    12308
    """
    if not crs.is_geographic:
        return shapely.area(geometries) * crs.linear_units_factor[1] ** 2
    return shapely.area(shapely.transform(geometries, _to_equal_area))


def _to_equal_area(points: np.ndarray) -> np.ndarray:
    """Project longitude and latitude in degrees to a cylinder on which areas are true, in metres.

    Both have shape (N, 2).

    Examples
    --------
    >>> half_sphere = _to_equal_area(np.array([[360.0, 90.0]])).prod() / 1e12
    >>> round(2 * half_sphere)  # square megametres of the whole Earth
    510
    """
    semi_major, eccentricity = 6378137.0, 0.0818191908426215
    sine = np.sin(np.radians(points[:, 1]))
    scaled = eccentricity * sine
    authalic = (1 - eccentricity**2) * (sine / (1 - scaled**2) + np.arctanh(scaled) / eccentricity)
    return semi_major * np.stack([np.radians(points[:, 0]), authalic / 2], axis=1)
