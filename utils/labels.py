"""Labels: rasters or vector files in any CRS and resolution, as class indices on a scene's own pixels.

A pixel's class is that of the ground under the pixel's centre, found exactly and without regard to the window that
asks. Nothing is warped on a grid of its own first, and no file is loaded whole unless its format leaves no choice.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import itertools
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.warp
import shapely
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError

from utils.errors import DataError, SettingsError
from utils.files import atomic_path
from utils.rasters import (
    DEFAULT_MAX_PIXELS,
    RASTER_SUFFIXES,
    PixelGrid,
    RasterFile,
    RasterScene,
    Recent,
    apply_transform,
    bounded_gdal,
    crs_name,
    file_key,
    transform_points,
)
from utils.tiling import Window

LOGGER = logging.getLogger(__name__)

IGNORE = 255
EVERY_OTHER = "*"  # in a mapping: all values that are not named
VECTOR_SUFFIXES = (".gpkg", ".geojson", ".geojsonl", ".json", ".shp", ".fgb", ".kml", ".gml", ".sqlite")

Bounds = tuple[float, float, float, float]

_LATTICE = 32  # pixels between points whose place in the label is computed, where the CRS differ
_LATTICE_ERROR = 0.01  # label pixels; a map that bends more is computed point by point
_EDGE = 1e-6  # label pixels; centres on the very edge of a label pixel belong to the next one
_READ_PIXELS = 2**24  # label pixels held at a time
_CHECK_WINDOWS = 64
_CHECK_SIDE = 1024

_BLOCK = 1024  # side of the pieces in which vectors are rasterised, in pixels
_BLOCKS_KEPT = 128  # of 1 MB: a row of windows of a scene 100,000 pixels wide
_FETCH = 4096  # side of the ground whose features are held at a time, when the file has many
_FETCHES_KEPT = 4
_MANY_FEATURES = 50_000
_MARGIN = 64  # pixels of ground around a piece whose features are kept
_BEND = 0.02  # pixels by which an edge may stray from its true course in the other CRS
_MANY_VERTICES = 2000


# ---------------------------------------------------------------------------------------------- values and classes


def class_key(value: object) -> str:
    """A value as text, so that 3, 3.0, numpy's 3 and a mapping's "3" are the same.

    Examples
    --------
    >>> class_key(3), class_key(np.float32(3)), class_key("3"), class_key(2.5), class_key(float("nan")), class_key(None)
    ('3', '3', '3', '2.5', 'null', 'null')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def class_index(target: int | str, num_classes: int, class_names: Sequence[str] = ()) -> int:
    """Index of a class given by index or name; 255 for "ignore".

    Raises
    ------
    SettingsError
        If there is no such class.

    Examples
    --------
    >>> class_index("road", 2, ["field", "road"]), class_index("ignore", 2), class_index(0, 2)
    (1, 255, 0)
    >>> class_index("rode", 2, ["field", "road"])
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: unknown class 'rode'; known: 0, 1, field, road, ignore
    """
    if target in ("ignore", IGNORE):
        return IGNORE
    if isinstance(target, str) and target in class_names:
        return list(class_names).index(target)
    if isinstance(target, int) and 0 <= target < num_classes:
        return int(target)
    known = [*map(str, range(num_classes)), *class_names, "ignore"]
    raise SettingsError(f"unknown class {target!r}; known: {', '.join(known)}")


def _check_num_classes(num_classes: int) -> int:
    """Refuse a number of classes that 8 bits with 255 as "ignore" cannot hold.

    Examples
    --------
    >>> _check_num_classes(256)
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: number of classes: expected 1 to 255 (255 itself means "ignore"), got 256
    """
    if not 1 <= num_classes <= IGNORE:
        raise SettingsError(f'number of classes: expected 1 to 255 (255 itself means "ignore"), got {num_classes}')
    return num_classes


@dataclass(frozen=True)
class ClassTable:
    """Which class each value stands for.

    Parameters
    ----------
    classes : dict of str to int
        Class of each value, which is written as `class_key` does.
    other : int or None
        Class of every value that is not named; None makes such a value an error.

    Examples
    --------
    >>> ClassTable({"7": 0, "9": 255}, other=None).look_up([7.0, 9, 8]).tolist()
    [0, 255, -1]
    """

    classes: dict[str, int]
    other: int | None

    def look_up(self, values: Iterable[object]) -> np.ndarray:
        """Class of each value, -1 where there is none.

        Examples
        --------
        >>> ClassTable({"a": 0}, other=3).look_up(["a", "b"]).tolist()
        [0, 3]
        """
        other = -1 if self.other is None else self.other
        return np.array([self.classes.get(class_key(value), other) for value in values], dtype=np.int16)


def build_table(mapping: Mapping[Any, int | str], num_classes: int, class_names: Sequence[str] = ()) -> ClassTable:
    """Turn a mapping of values to classes into a table.

    Parameters
    ----------
    mapping : dict
        Value -> class index, class name or "ignore"; "*" stands for every value that is not named.
    num_classes : int
        Classes, besides "ignore".
    class_names : sequence of str
        Names, where the mapping uses them.

    Examples
    --------
    >>> build_table({2: "road", "*": "ignore"}, 2, ["field", "road"])
    ClassTable(classes={'2': 1}, other=255)
    """
    classes = {class_key(value): class_index(target, num_classes, class_names) for value, target in mapping.items()}
    return ClassTable(classes, classes.pop(EVERY_OTHER, None))


def label_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each class, ignored ones left out.

    Parameters
    ----------
    label : uint8 array, any shape
        Class indices, 255 where nothing is known.
    num_classes : int
        Classes.

    Returns
    -------
    int64 array, shape (num_classes,)

    Raises
    ------
    ValueError
        If a value is neither a class nor 255.

    Examples
    --------
    >>> label_counts(np.uint8([[0, 2, 2], [255, 0, 2]]), 3).tolist()
    [2, 0, 3]
    """
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    foreign = np.flatnonzero(counts[num_classes:IGNORE]) + num_classes
    if foreign.size or len(counts) > IGNORE + 1:
        raise ValueError(f"labels hold {foreign.tolist()}; expected classes 0 to {num_classes - 1}, or {IGNORE}")
    return counts[:num_classes].astype(np.int64)


# ---------------------------------------------------------------------------------------------- common ground


class LabelSource(ABC):
    """Gives the class of every pixel of a scene. One source serves all scenes that it covers.

    Parameters
    ----------
    path : str or Path
        The file.
    num_classes : int
        Classes, besides "ignore".
    class_names : sequence of str
        Their names, for mappings that use them and for messages.

    Examples
    --------
    >>> issubclass(RasterLabels, LabelSource), issubclass(VectorLabels, LabelSource)
    (True, True)
    """

    def __init__(self, path: str | Path, num_classes: int, class_names: Sequence[str] = ()):
        self.path = Path(path)
        self.num_classes = _check_num_classes(num_classes)
        self.class_names = tuple(class_names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, num_classes={self.num_classes})"

    def read(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Read the classes of a window of a scene.

        Parameters
        ----------
        scene : RasterScene
            The scene whose pixels count, after its `scale`.
        window : Window
            Any part of it may lie outside.

        Returns
        -------
        uint8 array, shape (height, width)
            Class indices; 255 outside the scene and where nothing is known.

        Raises
        ------
        DataError
            If the labels do not belong to the scene or hold a value that is no class.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.uint8([[9, 9, 9]]))
        >>> write_raster(folder + "/label.tif", np.uint8([[0, 1, 2]]))
        >>> labels = RasterLabels(folder + "/label.tif", num_classes=3)
        >>> labels.read(RasterScene(folder + "/a.tif"), Window(0, 1, 2, 3)).tolist()
        [[1, 2, 255], [255, 255, 255]]
        """
        label = np.full((window.height, window.width), IGNORE, dtype=np.uint8)
        inner = window.intersection(Window(0, 0, scene.height, scene.width))
        if inner is not None:
            local = inner.shifted(-window.y, -window.x)
            label[local.rows, local.columns] = self._read_inside(scene, inner)
        return label

    @abstractmethod
    def check(self, scene: RasterScene) -> None:
        """Find out early whether the labels fit a scene; reads a bounded part of them.

        Raises
        ------
        DataError
            If they lie elsewhere, have no CRS while the scene has one or the other way round, or hold a value that is
            no class.

        Examples
        --------
        >>> "check" in LabelSource.__abstractmethods__
        True
        """

    @abstractmethod
    def _read_inside(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Read the classes of a window that lies inside the scene.

        Examples
        --------
        >>> "_read_inside" in LabelSource.__abstractmethods__
        True
        """

    def _raise_unknown(self, unknown: Mapping[str, int], where: str, known: Iterable[str], cure: str) -> None:
        """Name values that are no class, how often they occur, and what to do.

        Raises
        ------
        DataError
            Always.

        Examples
        --------
        >>> RasterLabels("a.tif", num_classes=2)._raise_unknown({"7": 12}, "at y 0, x 0", ["0", "1"], "map it")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a.tif: value 7 (12 times at y 0, x 0) is no class; known: 0, 1; map it
        """
        shown = ", ".join(f"{value} ({count} times {where})" for value, count in itertools.islice(unknown.items(), 5))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        listed = ", ".join(itertools.islice(known, 20)) or "none"
        raise DataError(f"{self.path}: value {shown}{more} is no class; known: {listed}; {cure}")


def _check_same_kind(path: Path, label_crs: CRS | None, scene: RasterScene) -> None:
    """Refuse labels with a CRS for a scene without one, and the other way round.

    Examples
    --------
    >>> import tempfile
    >>> from utils.rasters import write_raster
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8))
    >>> _check_same_kind(Path("l.tif"), CRS.from_epsg(4326), RasterScene(scene_path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: l.tif: the labels are in EPSG:4326, but ...a.tif has no CRS; give the picture its CRS ...
    """
    if (label_crs is None) == (scene.crs is None):
        return
    if label_crs is None:
        raise DataError(
            f"{path}: the labels have no CRS, but {scene.paths[0]} is in {crs_name(scene.crs)}; "
            "give the labels their CRS and transform (rio edit-info --like), or make them anew from that picture"
        )
    raise DataError(
        f"{path}: the labels are in {crs_name(label_crs)}, but {scene.paths[0]} has no CRS; "
        "give the picture its CRS and transform (rio edit-info), or use labels in its pixels"
    )


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
    if source.is_geographic and not _fits_degrees(bounds):
        return None
    try:
        with bounded_gdal():
            carried = rasterio.warp.transform_bounds(source, target, *bounds, densify_pts=21)
    except (RasterioError, CPLE_BaseError):
        return None
    return carried if np.isfinite(carried).all() else None


def _fits_degrees(bounds: Bounds) -> bool:
    """Whether numbers can be longitudes and latitudes.

    Examples
    --------
    >>> _fits_degrees((-180, -90, 180, 90)), _fits_degrees((-663347, 2118636, -657354, 2129938))
    (True, False)
    """
    left, bottom, right, top = bounds
    return left >= -360.001 and right <= 360.001 and bottom >= -90.001 and top <= 90.001


def _overlap(first: Bounds, second: Bounds) -> bool:
    """Whether two bounds share ground; one that crosses the date line (left > right) counts as everywhere in x.

    Examples
    --------
    >>> _overlap((0, 0, 2, 2), (1, 1, 3, 3)), _overlap((0, 0, 2, 2), (2, 0, 3, 2)), _overlap((0, 0, 2, 2), (9, 1, 7, 3))
    (True, False, True)
    """
    beside = first[2] <= second[0] or second[2] <= first[0]
    wraps = first[0] > first[2] or second[0] > second[2]
    above = first[3] <= second[1] or second[3] <= first[1]
    return not above and (wraps or not beside)


def _show_bounds(bounds: Bounds) -> str:
    """Bounds in a message.

    Examples
    --------
    >>> _show_bounds((0.1234567, 2, 39.25, 4123456.7))
    'x 0.1234567 to 39.25, y 2 to 4123456.7'
    """
    left, bottom, right, top = (f"{value:.10g}" for value in bounds)
    return f"x {left} to {right}, y {bottom} to {top}"


def _check_overlap(path: Path, bounds: Bounds, crs: CRS | None, scene: RasterScene) -> None:
    """Refuse labels that share no ground with the scene.

    Examples
    --------
    >>> import tempfile
    >>> from utils.rasters import write_raster
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> _check_overlap(Path("l.tif"), (100, 0, 110, 9), CRS.from_epsg(32631), RasterScene(scene_path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: l.tif: no common ground: labels x 100 to 110, y 0 to 9 (EPSG:32631), ...a.tif x 8 to 20, ...
    """
    carried = carry_bounds(bounds, crs, scene.crs)
    if carried is not None and _overlap(carried, scene.grid.bounds):
        return
    in_scene = "" if crs == scene.crs or carried is None else f", in the scene's CRS {_show_bounds(carried)}"
    raise DataError(
        f"{path}: no common ground: labels {_show_bounds(bounds)} ({crs_name(crs)}){in_scene}, "
        f"{scene.paths[0]} {_show_bounds(scene.grid.bounds)} ({crs_name(scene.crs)}){_guess_crs(bounds, crs, scene)}"
    )


def _guess_crs(bounds: Bounds, crs: CRS | None, scene: RasterScene) -> str:
    """What the numbers would fit, when the file's CRS is likely to be wrong.

    Examples
    --------
    >>> import tempfile
    >>> from utils.rasters import write_raster
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> _guess_crs((9, 2, 12, 4), CRS.from_epsg(4326), RasterScene(scene_path))
    "; the numbers would fit the scene's own EPSG:32631: if the file claims a wrong CRS, set it (ogr2ogr -a_srs, ...)"
    """
    degrees = CRS.from_epsg(4326)
    tool = "if the file claims a wrong CRS, set it (ogr2ogr -a_srs, gdal_edit -a_srs)"
    if crs != scene.crs and _overlap(bounds, scene.grid.bounds):
        return f"; the numbers would fit the scene's own {crs_name(scene.crs)}: {tool}"
    carried = carry_bounds(bounds, degrees, scene.crs) if crs != degrees and _fits_degrees(bounds) else None
    if carried is not None and _overlap(carried, scene.grid.bounds):
        return f"; the numbers would fit EPSG:4326: {tool}"
    return "; give labels of this ground, or leave the scene out"


# ---------------------------------------------------------------------------------------------- from pixel to pixel


def _place_exactly(source: PixelGrid, target: PixelGrid, x: np.ndarray, y: np.ndarray) -> np.ndarray:
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
    >>> _place_exactly(fine, coarse, np.array([4.5]), np.array([3.0])).tolist()
    [[1.25], [1.5]]
    """
    map_x, map_y = apply_transform(source.transform, x.ravel(), y.ravel())
    if source.crs is not None and target.crs is not None:
        map_x, map_y = transform_points(source.crs, target.crs, map_x, map_y)
    with np.errstate(invalid="ignore"):
        return np.stack(apply_transform(~target.transform, map_x, map_y)).reshape(2, *x.shape)


def _centre_lines(start: int, count: int) -> np.ndarray:
    """Positions on an axis every half lattice step, on the same places whatever the window, and around it.

    Examples
    --------
    >>> _centre_lines(40, 30).tolist()
    [32, 48, 64, 80, 96]
    """
    first = start // _LATTICE * _LATTICE
    cells = -(-(start + count - first) // _LATTICE)
    return first + np.arange(2 * cells + 1) * (_LATTICE // 2)


def _interpolate(nodes: np.ndarray, places: np.ndarray, first: int, axis: int, step: int) -> np.ndarray:
    """Linear interpolation along one axis between evenly spaced nodes.

    Examples
    --------
    >>> _interpolate(np.array([[0.0, 8.0, 10.0]]), np.array([34.0, 64.0]), first=32, axis=1, step=16).tolist()
    [[1.0, 10.0]]
    """
    offset = (places - first) / step
    base = np.minimum(offset.astype(np.int64), nodes.shape[axis] - 2)
    shape = [1] * nodes.ndim
    shape[axis] = len(places)
    share = (offset - base).reshape(shape)
    before = nodes.take(base, axis=axis)
    return before + (nodes.take(base + 1, axis=axis) - before) * share


def locate_pixels(source: PixelGrid, target: PixelGrid, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Find in which pixel of another grid, in another CRS, each pixel's centre lies.

    The places are computed exactly on a lattice and interpolated between; wherever the interpolation's own measured
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
    lattice = _place_exactly(source, target, *np.meshgrid(line_x.astype(float), line_y.astype(float)))
    x = window.x + np.arange(window.width) + 0.5
    y = window.y + np.arange(window.height) + 0.5
    error = _lattice_error(lattice, line_x, line_y)
    if error > _LATTICE_ERROR:
        return _to_pixels(_place_exactly(source, target, *np.meshgrid(x, y)))
    nodes = lattice[:, ::2, ::2]
    across = _interpolate(nodes, x, int(line_x[0]), 2, _LATTICE)
    places = _interpolate(across, y, int(line_y[0]), 1, _LATTICE)
    doubtful = (np.abs(places - np.rint(places)) < 4 * error + 2 * _EDGE).any(axis=0)
    rows, columns = np.nonzero(doubtful)
    places[:, rows, columns] = _place_exactly(source, target, x[columns], y[rows])
    return _to_pixels(places)


def _lattice_error(lattice: np.ndarray, line_x: np.ndarray, line_y: np.ndarray) -> float:
    """How far interpolation between every second lattice point strays from those between; infinite if one has no place.

    The middles of edges are among them: of a map that keeps angles the errors in x and y cancel at cell centres.

    Examples
    --------
    >>> lines = np.array([0, 16, 32])
    >>> lattice = np.zeros((2, 3, 3))
    >>> lattice[0, 1, 1] = 0.25
    >>> _lattice_error(lattice, lines, lines)
    0.25
    """
    if not np.isfinite(lattice).all():
        return math.inf
    across = _interpolate(lattice[:, ::2, ::2], line_x.astype(float), int(line_x[0]), 2, _LATTICE)
    smooth = _interpolate(across, line_y.astype(float), int(line_y[0]), 1, _LATTICE)
    return float(np.abs(smooth - lattice).max())


def _to_pixels(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column that hold a place; -1 where there is none.

    Examples
    --------
    >>> rows, columns = _to_pixels(np.array([[2.9999999999, 0.5], [1.0, np.inf]]))
    >>> rows.tolist(), columns.tolist()
    ([1, -1], [3, -1])
    """
    exists = np.isfinite(places).all(axis=0) & (np.abs(places) < 2**31).all(axis=0)
    columns, rows = np.where(exists, np.floor(np.where(exists, places, 0) + _EDGE), -1).astype(np.int64)
    return rows, columns


def _locate_affine(matrix: Affine, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Find the label pixel under each pixel's centre where one affine map leads from pixels to label pixels.

    Returns
    -------
    rows, columns : int arrays
        Of shapes that broadcast to (height, width): without rotation a column and a row are enough.

    Examples
    --------
    >>> rows, columns = _locate_affine(Affine.scale(2, 0.5), Window(1, 0, 2, 3))
    >>> rows.tolist(), columns.tolist()
    ([[0], [1]], [[1, 3, 5]])
    """
    x = window.x + np.arange(window.width)[None, :] + 0.5
    y = window.y + np.arange(window.height)[:, None] + 0.5
    columns = matrix.a * x + matrix.c if abs(matrix.b) < 1e-12 else matrix.a * x + matrix.b * y + matrix.c
    rows = matrix.e * y + matrix.f if abs(matrix.d) < 1e-12 else matrix.d * x + matrix.e * y + matrix.f
    return np.floor(rows + _EDGE).astype(np.int64), np.floor(columns + _EDGE).astype(np.int64)


# ---------------------------------------------------------------------------------------------- raster labels


class RasterLabels(LabelSource):
    """Labels in a raster or picture, of any CRS and resolution.

    A pixel takes the value of the label pixel in which its centre lies (nearest), found in the label's own CRS. Nothing
    is loaded whole but pictures whose format asks for it.

    Parameters
    ----------
    path : str or Path
        The label raster, with one band, or with colours.
    num_classes : int
        Classes, besides "ignore".
    mapping : dict, optional
        Value -> class index, class name or "ignore"; "*" stands for every other value. Without it values are class
        indices and 255 is ignored.
    class_names : sequence of str
        Names, where `mapping` or `colours` use them.
    nodata : float or "none", optional
        Value that means "not labelled", in place of the file's own; "none" for no such value. A value that `mapping`
        names is what the mapping says, even if the file calls it nodata.
    colours : dict, optional
        For masks painted in colours: (red, green, blue) -> class, or class name -> (red, green, blue).
    ignore_values : sequence of float
        Further values that mean "not labelled".
    max_pixels : int
        Largest picture that is decoded at once.

    Raises
    ------
    SettingsError
        If a class is unknown, or both `mapping` and `colours` are given.

    Examples
    --------
    >>> import tempfile
    >>> from utils.rasters import write_raster
    >>> folder = tempfile.mkdtemp()
    >>> write_raster(folder + "/a.png", np.zeros((2, 2), np.uint8))
    >>> write_raster(folder + "/m.png", np.uint8([[[0, 0, 255], [0, 0, 0]], [[0, 0, 0], [0, 0, 255]]]))
    >>> labels = RasterLabels(folder + "/m.png", 2, colours={"diver": [0, 0, 255], "water": [0, 0, 0]})
    >>> labels.read(RasterScene(folder + "/a.png"), Window(0, 0, 2, 2)).tolist()
    [[0, 1], [1, 0]]
    """

    def __init__(
        self,
        path: str | Path,
        num_classes: int,
        mapping: Mapping[Any, int | str] | None = None,
        class_names: Sequence[str] = (),
        *,
        nodata: float | str | None = None,
        colours: Mapping[Any, Any] | None = None,
        ignore_values: Sequence[float] = (),
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ):
        super().__init__(path, num_classes, class_names)
        if mapping and colours:
            raise SettingsError(f"{path}: give a mapping of values or one of colours, not both")
        self.nodata = nodata
        self.ignore_values = tuple(ignore_values)
        self._colours = _read_colours(colours, num_classes, class_names) if colours else None
        self._mapping = build_table(mapping, num_classes, class_names) if mapping else None
        self._file = RasterFile(path, max_pixels)

    def check(self, scene: RasterScene) -> None:
        """Find out early whether the labels fit a scene: bands, ground, and the values of up to 64 windows.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.zeros((2, 3), np.uint8))
        >>> write_raster(folder + "/l.tif", np.uint8([[0, 1, 7], [7, 1, 0]]))
        >>> RasterLabels(folder + "/l.tif", 2).check(RasterScene(folder + "/a.tif"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.tif: value 7 (2 times in the window at y 0, x 0) is no class; known: 0, 1, 255; ...
        """
        self._placement(scene)
        across, down = -(-scene.width // _CHECK_SIDE), -(-scene.height // _CHECK_SIDE)
        places = np.unique(np.linspace(0, across * down - 1, min(across * down, _CHECK_WINDOWS)).astype(int))
        for place in places.tolist():
            y, x = divmod(place, across)
            self.read(scene, Window(y * _CHECK_SIDE, x * _CHECK_SIDE, _CHECK_SIDE, _CHECK_SIDE))

    @functools.cached_property
    def _table(self) -> ClassTable:
        """Class of each value of the file.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> path = tempfile.mkdtemp() + "/l.tif"
        >>> write_raster(path, np.zeros((2, 3), np.uint8), nodata=0)
        >>> RasterLabels(path, 2)._table.classes, RasterLabels(path, 2, {0: 1})._table.classes
        ({'0': 255, '1': 1, '255': 255, 'null': 255}, {'0': 1, 'null': 255})
        """
        if self._colours is not None:
            return self._colours
        plain = {str(value): value for value in (*range(self.num_classes), IGNORE)}
        own = self._file.header.nodata[0] if self.nodata is None else self.nodata
        nothing = [*self.ignore_values, *([] if own in (None, "none") else [own]), None]
        unlabelled = {class_key(value): IGNORE for value in nothing}
        if self._mapping is None:
            return ClassTable({**plain, **unlabelled}, None)
        return ClassTable({**unlabelled, **self._mapping.classes}, self._mapping.other)

    @functools.cached_property
    def _bands(self) -> list[int]:
        """The bands that hold the label: one, or three colours.

        Raises
        ------
        DataError
            If the file has several bands and no colours were given, or the other way round.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> path = tempfile.mkdtemp() + "/l.tif"
        >>> write_raster(path, np.zeros((2, 3, 3), np.uint8))
        >>> RasterLabels(path, 2)._bands
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.tif: labels need one band, this file has 3; if it is painted in colours, give ...
        """
        header = self._file.header
        bands = list(header.colour_bands)
        if self._colours is None and len(bands) != 1:
            raise DataError(
                f"{self.path}: labels need one band, this file has {len(bands)}; if it is painted in colours, "
                "give dataset.label_colours: {class name: [red, green, blue]}"
            )
        if self._colours is not None and len(bands) != 3 and not header.palette:
            raise DataError(
                f"{self.path}: labels in colours need three bands or a palette, this file has {len(bands)} bands"
            )
        return bands

    def _placement(self, scene: RasterScene) -> Affine | None:
        """The affine map from the scene's pixels to the label's; None where their CRS differ.

        Raises
        ------
        DataError
            If only one of them has a CRS, they share no ground, or sizes differ and nothing says where they lie.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((2, 3), np.uint8))
        >>> write_raster(folder + "/l.png", np.zeros((3, 2), np.uint8))
        >>> RasterLabels(folder + "/l.png", 2)._placement(RasterScene(folder + "/a.png"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.png: 3 x 2 pixels, but ...a.png has 2 x 3 (height x width), and neither ...
        """
        grid = self._file.header.grid
        _check_same_kind(self.path, grid.crs, scene)
        placed = not grid.transform.is_identity and not scene.transform.is_identity
        if grid.crs is None and not (placed and not scene.file_grid.transform.is_identity):
            return self._match_sizes(grid, scene)
        _check_overlap(self.path, grid.bounds, grid.crs, scene)
        return ~grid.transform @ scene.transform if grid.crs == scene.crs else None

    def _match_sizes(self, grid: PixelGrid, scene: RasterScene) -> Affine:
        """The map for pictures without a place on Earth, which must be of one size before or after `scale`.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((4, 6), np.uint8))
        >>> labels, scene = RasterLabels(folder + "/a.png", 2), RasterScene(folder + "/a.png", scale=0.5)
        >>> tuple(labels._match_sizes(PixelGrid(4, 6, None, Affine.identity()), scene))[:6]
        (2.0, 0.0, 0.0, 0.0, 2.0, 0.0)
        """
        size, file_size = (grid.height, grid.width), (scene.file_grid.height, scene.file_grid.width)
        if size not in (file_size, (scene.height, scene.width)):
            raise DataError(
                f"{self.path}: {size[0]} x {size[1]} pixels, but {scene.paths[0]} has {file_size[0]} x {file_size[1]} "
                "(height x width), and neither says where it lies; give labels of the picture's size"
            )
        return Affine.scale(grid.width / scene.width, grid.height / scene.height)

    def _read_inside(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Read the classes of a window that lies inside the scene.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((2, 4), np.uint8))
        >>> write_raster(folder + "/l.png", np.uint8([[0, 1, 0, 1], [1, 1, 0, 0]]))
        >>> scene = RasterScene(folder + "/a.png", scale=0.5)
        >>> RasterLabels(folder + "/l.png", 2)._read_inside(scene, Window(0, 0, 1, 2)).tolist()
        [[1, 0]]
        """
        matrix = self._placement(scene)
        grid = self._file.header.grid
        located = locate_pixels(scene.grid, grid, window) if matrix is None else _locate_affine(matrix, window)
        rows, columns = located
        inside = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
        if not inside.any():
            return np.full((window.height, window.width), IGNORE, dtype=np.uint8)
        rows, columns = rows.clip(0, grid.height - 1), columns.clip(0, grid.width - 1)
        top, left = int(rows.min()), int(columns.min())
        area = Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        if area.height * area.width > _READ_PIXELS and window.height > 1:  # labels much finer than the scene
            half = window.height // 2
            upper = Window(window.y, window.x, half, window.width)
            lower = Window(window.y + half, window.x, window.height - half, window.width)
            return np.concatenate([self._read_inside(scene, upper), self._read_inside(scene, lower)])
        block = self._file.read(area, self._bands)
        values = block.values[:, rows - top, columns - left]
        hidden = ~inside if block.hidden is None else ~inside | block.hidden[rows - top, columns - left]
        return self._to_classes(values, hidden, window)

    def _to_classes(self, values: np.ndarray, hidden: np.ndarray, window: Window) -> np.ndarray:
        """Turn raw values, shape (bands, height, width), into classes, 255 where hidden.

        Raises
        ------
        DataError
            If a value that is not hidden is no class.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> path = tempfile.mkdtemp() + "/l.tif"
        >>> write_raster(path, np.zeros((2, 3), np.float32))
        >>> values, hidden = np.float32([[[0, 1, np.nan]]]), np.array([[True, False, False]])
        >>> RasterLabels(path, 2)._to_classes(values, hidden, Window(0, 0, 1, 3)).tolist()
        [[255, 1, 255]]
        """
        codes = values[0] if self._colours is None else self._colour_codes(values)
        unique, inverse = _unique_values(codes)
        classes = self._table.look_up(unique.tolist())
        label = classes[inverse]
        label[hidden] = IGNORE
        if (label < 0).any():
            self._raise_foreign(unique, np.bincount(inverse[label < 0], minlength=len(unique)), window)
        return label.astype(np.uint8)

    def _colour_codes(self, values: np.ndarray) -> np.ndarray:
        """Colours as numbers 0xRRGGBB, from three bands or a palette.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> path = tempfile.mkdtemp() + "/l.png"
        >>> write_raster(path, np.uint8([[0, 1]]), palette={0: (0, 0, 0), 1: (1, 2, 3)})
        >>> hex(RasterLabels(path, 1, colours={(1, 2, 3): 0})._colour_codes(np.uint8([[[1]]]))[0, 0])
        '0x10203'
        """
        palette = self._file.header.palette
        if palette:
            values = np.array(palette, dtype=np.uint8)[values[0]].transpose(2, 0, 1)
        red, green, blue = values[:3].astype(np.int64)
        return red << 16 | green << 8 | blue

    def _raise_foreign(self, unique: np.ndarray, counts: np.ndarray, window: Window) -> None:
        """Report values or colours that are no class.

        Raises
        ------
        DataError
            Always.

        Examples
        --------
        >>> labels = RasterLabels("m.png", 1, colours={"sand": [255, 255, 0]})
        >>> labels._raise_foreign(np.array([0xFF, 0xFFFF00]), np.array([3, 0]), Window(0, 8, 4, 4))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: m.png: value [0, 0, 255] (3 times in the window at y 0, x 8) is no class; known: ...
        """
        show = class_key if self._colours is None else _show_colour
        found = {show(value): int(count) for value, count in zip(unique.tolist(), counts, strict=True) if count}
        setting = "dataset.label_mapping" if self._colours is None else "dataset.label_colours"
        known = [key for key in self._table.classes if key != "null"]
        listed = known if self._colours is None else [_show_colour(int(key)) for key in known]
        where = f"in the window at y {window.y}, x {window.x}"
        self._raise_unknown(found, where, listed, f"give it a class or 'ignore' in {setting}")


def _read_colours(colours: Mapping[Any, Any], num_classes: int, class_names: Sequence[str]) -> ClassTable:
    """Class of each colour, from (red, green, blue) -> class or class name -> (red, green, blue).

    Without `class_names` the names' own order gives the indices.

    Examples
    --------
    >>> _read_colours({"water": [0, 0, 0], "diver": [0, 0, 255]}, 2, ())
    ClassTable(classes={'0': 0, '255': 1}, other=None)
    >>> _read_colours({(0, 1, 0): "ignore"}, 2, ())
    ClassTable(classes={'256': 255}, other=None)
    """
    names = tuple(class_names) or tuple(str(key) for key in colours if isinstance(key, str) and key != "ignore")
    classes = {}
    for key, value in colours.items():
        colour, target = (value, key) if isinstance(key, str) else (key, value)
        if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
            raise SettingsError(f"colour of {target!r}: expected three numbers 0 to 255, got {list(colour)}")
        code = colour[0] << 16 | colour[1] << 8 | colour[2]
        classes[str(code)] = class_index(target, num_classes, names)
    return ClassTable(classes, None)


def _show_colour(code: int) -> str:
    """A colour's number as people write it.

    Examples
    --------
    >>> _show_colour(0x0102FF)
    '[1, 2, 255]'
    """
    return str([code >> 16, code >> 8 & 255, code & 255])


def _unique_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, and for each element which of them it is.

    Examples
    --------
    >>> unique, inverse = _unique_values(np.uint8([[7, 3], [3, 3]]))
    >>> unique.tolist(), inverse.tolist()
    ([3, 7], [[1, 0], [0, 0]])
    """
    if values.dtype == np.uint8:  # ten times as fast as sorting
        unique = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        position = np.zeros(256, dtype=np.int64)
        position[unique] = np.arange(len(unique))
        return unique, position[values]
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))  # labels come in long runs
    unique, which = np.unique(flat[starts], return_inverse=True)
    inverse = np.repeat(which, np.diff(np.append(starts, flat.size)))
    return unique, inverse.reshape(values.shape)


# ---------------------------------------------------------------------------------------------- vector labels


@dataclass(frozen=True)
class LayerInfo:
    """What a layer of a vector file says about itself.

    Parameters
    ----------
    crs : CRS or None
        Of the coordinates.
    fields : tuple of str
        Attributes.
    features : int
        How many.
    bounds : (left, bottom, right, top)
        Of all coordinates.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.box(1, 2, 3, 4)], crs="EPSG:4326", kind=["road"])
    >>> read_layer_info(path, None).fields, read_layer_info(path, None).bounds
    (('kind',), (1.0, 2.0, 3.0, 4.0))
    """

    crs: CRS | None
    fields: tuple[str, ...]
    features: int
    bounds: Bounds


def is_vector(path: str | Path) -> bool:
    """Whether a file's name is that of a vector file.

    Examples
    --------
    >>> is_vector("a.GPKG"), is_vector("a.tif")
    (True, False)
    """
    return Path(path).suffix.lower() in VECTOR_SUFFIXES


def read_layer_info(path: str | Path, layer: str | None) -> LayerInfo:
    """Read what a layer says about itself.

    Parameters
    ----------
    path : str or Path
        A vector file.
    layer : str or None
        Its layer; may be left out when there is one only.

    Raises
    ------
    DataError
        If the file cannot be opened, has several layers of which none is chosen, or holds no features with a place.

    Examples
    --------
    >>> read_layer_info("/no/such.gpkg", None)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such.gpkg: no such file
    """
    return _read_layer_info(file_key(str(path)), layer)


@functools.lru_cache(maxsize=256)
def _read_layer_info(key: tuple[str, int, int], layer: str | None) -> LayerInfo:
    """What a layer of one version of a file says about itself.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.Point(1, 2)], crs="EPSG:4326")
    >>> _read_layer_info(file_key(path), None).features
    1
    """
    import pyogrio

    path = key[0]
    if key[1] < 0:
        raise DataError(f"{path}: no such file")
    try:
        layers = {str(name): kind for name, kind in pyogrio.list_layers(path)}
        chosen = _choose_layer(path, layers, layer)
        info = pyogrio.read_info(path, layer=chosen, force_feature_count=True, force_total_bounds=True)
        crs = CRS.from_user_input(info["crs"]) if info["crs"] else None
    except _vector_errors() as error:
        raise DataError(
            f"{path}: cannot be opened as a vector file ({error}); it is damaged or of another kind"
        ) from error
    except CRSError as error:
        raise DataError(f"{path}: its CRS is not understood ({error}); set it (ogr2ogr -a_srs)") from error
    bounds = tuple(float(value) for value in (info["total_bounds"] if info["features"] else (math.nan,) * 4))
    if layers[chosen] is None or not np.isfinite(bounds).all():
        raise DataError(
            f"{path}: layer {chosen!r} holds no features with finite coordinates ({info['features']} features)"
        )
    return LayerInfo(crs, tuple(info["fields"]), int(info["features"]), bounds)  # type: ignore[arg-type]


def _vector_errors() -> tuple[type[Exception], ...]:
    """What pyogrio raises for files that it cannot read.

    Examples
    --------
    >>> [error.__name__ for error in _vector_errors()]
    ['DataSourceError', 'DataLayerError', 'FeatureError', 'GeometryError']
    """
    from pyogrio import errors

    return errors.DataSourceError, errors.DataLayerError, errors.FeatureError, errors.GeometryError


def _choose_layer(path: str, layers: Mapping[str, str | None], layer: str | None) -> str:
    """The layer to read: the chosen one, or the only one.

    Examples
    --------
    >>> _choose_layer("a.gpkg", {"roads": "LineString", "houses": "Polygon"}, None)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.gpkg: holds the layers roads, houses; choose one in dataset.label_layer
    """
    if layer is None and len(layers) == 1:
        return next(iter(layers))
    if layer in layers:
        return str(layer)
    missing = f"has no layer {layer!r}; it " if layer else ""
    raise DataError(
        f"{path}: {missing}holds the layers {', '.join(layers) or 'none'}; choose one in dataset.label_layer"
    )


def write_features(
    path: str | Path, geometries: Sequence[Any], *, crs: str | None = None, **attributes: Sequence[Any]
) -> None:
    """Write a small vector file, complete or not at all; the suffix chooses the format.

    Parameters
    ----------
    path : str or Path
        Where to; of a format that is one file, such as GeoPackage, GeoJSON or FlatGeobuf.
    geometries : sequence of shapely geometries
        In map coordinates.
    crs : str, optional
        Of the coordinates.
    attributes
        One sequence of values per attribute.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.gpkg"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Point(3, 4)], crs="EPSG:32631", kind=[7, 8])
    >>> read_layer_info(path, None).crs.to_epsg(), read_layer_info(path, None).features
    (32631, 2)
    """
    import pyogrio

    shapes = np.array([shapely.to_wkb(geometry) for geometry in geometries], dtype=object)
    kinds = {geometry.geom_type for geometry in geometries}
    columns = [np.array(values) for values in attributes.values()]
    texts = [column.astype(object) if column.dtype.kind == "U" else column for column in columns]
    with atomic_path(path) as temporary:
        temporary.unlink()  # GDAL makes the file itself
        pyogrio.raw.write(
            temporary,
            shapes,
            texts,
            list(attributes),
            geometry_type=kinds.pop() if len(kinds) == 1 else "Unknown",
            layer=Path(path).stem,
            crs=crs,
        )


@dataclass(frozen=True)
class _Shapes:
    """Features on a scene's pixels, ready to be drawn in the order of the file.

    Parameters
    ----------
    geometries : array of shapely geometries, shape (N,)
        Single polygons and points in pixel coordinates; lines are polygons of their width.
    classes : uint8 array, shape (N,)
        Class of each.
    touched : bool array, shape (N,)
        Whether a pixel that is only touched counts.
    tree : shapely.STRtree
        Of the geometries.

    Examples
    --------
    >>> shapes = _Shapes.build(np.array([shapely.box(0, 0, 2, 1)]), np.uint8([1]), np.array([False]))
    >>> shapes.draw(Window(0, 1, 2, 2), unlabelled=0).tolist()
    [[1, 0], [0, 0]]
    """

    geometries: np.ndarray
    classes: np.ndarray
    touched: np.ndarray
    tree: shapely.STRtree

    @classmethod
    def build(cls, geometries: np.ndarray, classes: np.ndarray, touched: np.ndarray) -> _Shapes:
        """Index the geometries.

        Examples
        --------
        >>> len(_Shapes.build(np.array([shapely.Point(1, 2)]), np.uint8([1]), np.array([False])).tree)
        1
        """
        return cls(geometries, classes, touched, shapely.STRtree(geometries))

    def draw(self, window: Window, unlabelled: int) -> np.ndarray:
        """Draw what meets a window, later features over earlier ones.

        Examples
        --------
        >>> boxes = np.array([shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2)])
        >>> shapes = _Shapes.build(boxes, np.uint8([1, 2]), np.array([False, False]))
        >>> shapes.draw(Window(0, 0, 1, 4), unlabelled=255).tolist()
        [[1, 2, 2, 255]]
        """
        from rasterio.features import rasterize

        drawn = np.full((window.height, window.width), unlabelled, dtype=np.uint8)
        frame = shapely.box(window.x - 1, window.y - 1, window.columns.stop + 1, window.rows.stop + 1)
        met = np.sort(self.tree.query(frame))
        place = Affine.translation(window.x, window.y)
        for touched, group in itertools.groupby(met.tolist(), key=lambda index: bool(self.touched[index])):
            shapes = [(_trim(self.geometries[index], window), int(self.classes[index])) for index in group]
            kept = [(shape, value) for shape, value in shapes if not shape.is_empty]
            if kept:
                with bounded_gdal():
                    rasterize(kept, out=drawn, transform=place, all_touched=touched)
        return drawn


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
    frame = (window.x - _MARGIN, window.y - _MARGIN, window.columns.stop + _MARGIN, window.rows.stop + _MARGIN)
    parts = _single_parts(np.array([shapely.intersection(geometry, shapely.box(*frame))]), np.array([2]))[0]
    return shapely.multipolygons(parts)


def _single_parts(geometries: np.ndarray, dimensions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split collections into single geometries and keep those of the wanted dimension.

    Parameters
    ----------
    geometries : array of shapely geometries, shape (N,)
        Of any kind.
    dimensions : int array, shape (N,)
        0 keeps points, 1 lines, 2 polygons of each; mending a polygon may leave lines, which are not wanted.

    Returns
    -------
    parts : array of shapely geometries, shape (M,)
    index : int array, shape (M,)
        The geometry that each comes from.

    Examples
    --------
    >>> mixed = shapely.GeometryCollection([shapely.box(0, 0, 1, 1), shapely.LineString([(0, 0), (5, 5)])])
    >>> parts, index = _single_parts(np.array([mixed, shapely.MultiPoint([(1, 1), (2, 2)])]), np.array([2, 0]))
    >>> [part.geom_type for part in parts], index.tolist()
    (['Polygon', 'Point', 'Point'], [0, 1, 1])
    """
    index = np.arange(len(geometries))
    for _ in range(2):  # a collection may hold multi-geometries
        geometries, origin = shapely.get_parts(geometries, return_index=True)
        index = index[origin]
    wanted = (shapely.get_dimensions(geometries) == dimensions[index]) & ~shapely.is_empty(geometries)
    return geometries[wanted], index[wanted]


@dataclass(frozen=True)
class _Features:
    """Features as the file holds them, in its order.

    Parameters
    ----------
    numbers : int array, shape (N,)
        The file's own numbers.
    geometries : array of shapely geometries, shape (N,)
        In the file's CRS; None where a feature has none.
    values : array, shape (N,)
        Of the attribute; None without one.

    Examples
    --------
    >>> boxes = np.array([shapely.box(0, 0, 1, 1), None, shapely.box(5, 5, 6, 6)])
    >>> features = _Features(np.array([4, 5, 6]), boxes, np.array(["a", "b", "c"]))
    >>> features.within((4, 4, 9, 9)).values.tolist()
    ['c']
    """

    numbers: np.ndarray
    geometries: np.ndarray
    values: np.ndarray

    def within(self, bounds: Bounds) -> _Features:
        """The features whose extent meets some bounds.

        Examples
        --------
        >>> features = _Features(np.array([1]), np.array([shapely.Point(2, 3)]), np.array([None]))
        >>> len(features.within((2, 3, 4, 5)).numbers), len(features.within((3, 3, 4, 5)).numbers)
        (1, 0)
        """
        extents = shapely.bounds(self.geometries)  # not a number where there is none: compares as outside
        met = (extents[:, :2] <= bounds[2:]).all(axis=1) & (extents[:, 2:] >= bounds[:2]).all(axis=1)
        return _Features(self.numbers[met], self.geometries[met], self.values[met])


class VectorLabels(LabelSource):
    """Labels as polygons, lines or points of a vector file, in any CRS.

    Every vertex is carried into the scene's CRS, after long edges have been divided so that they follow their true
    course, and the features are drawn in the order of the file, later ones over earlier ones. A pixel belongs to a
    polygon when its centre does.

    Parameters
    ----------
    path : str or Path
        GeoPackage, GeoJSON, Shapefile or another that GDAL reads.
    num_classes : int
        Classes, besides "ignore".
    mapping : dict
        Value of `attribute` -> class index, class name or "ignore"; "*" stands for every other value, and alone for
        every feature.
    class_names : sequence of str
        Names, where `mapping` uses them.
    layer : str, optional
        May be left out when the file has one only.
    attribute : str, optional
        Holds the class; without it `mapping` must have "*".
    unlabelled : int
        Class of the ground outside all features; 255 ignores it.
    line_width : float
        Width at which lines are drawn, in pixels of the scene after its `scale`; at least 1.
    all_touched : bool
        Whether polygons take every pixel that they touch. Points always take the one in which they lie.

    Raises
    ------
    SettingsError
        If a class is unknown or the settings contradict each other.

    Notes
    -----
    The class map is made in blocks at fixed places of the scene, so a pixel has the same class in every window. Files
    of more than 50,000 features are read piece by piece, which is quick for formats with a spatial index (GeoPackage,
    FlatGeobuf) and slow for others.

    Examples
    --------
    >>> import tempfile
    >>> from utils.rasters import write_raster
    >>> folder = tempfile.mkdtemp()
    >>> pixels, transform = np.zeros((3, 4), np.uint8), Affine(2, 0, 8, 0, -2, 9)
    >>> write_raster(folder + "/a.tif", pixels, crs="EPSG:32631", transform=transform)
    >>> write_features(folder + "/l.gpkg", [shapely.box(10, 5, 14, 9)], crs="EPSG:32631", kind=["road"])
    >>> labels = VectorLabels(folder + "/l.gpkg", 2, {"road": 1}, attribute="kind", unlabelled=0)
    >>> labels.read(RasterScene(folder + "/a.tif"), Window(0, 0, 3, 5)).tolist()
    [[0, 1, 1, 0, 255], [0, 1, 1, 0, 255], [0, 0, 0, 0, 255]]
    """

    def __init__(
        self,
        path: str | Path,
        num_classes: int,
        mapping: Mapping[Any, int | str],
        class_names: Sequence[str] = (),
        *,
        layer: str | None = None,
        attribute: str | None = None,
        unlabelled: int | str = IGNORE,
        line_width: float = 3.0,
        all_touched: bool = False,
    ):
        super().__init__(path, num_classes, class_names)
        self.layer = layer
        self.attribute = attribute
        self.unlabelled = class_index(unlabelled, num_classes, class_names)
        self.line_width = line_width
        self.all_touched = all_touched
        self._table = build_table(mapping, num_classes, class_names)
        if attribute is None and (self._table.other is None or self._table.classes):
            raise SettingsError(
                f"{path}: without an attribute every feature is of one class; "
                f"set dataset.label_attribute, or dataset.label_mapping: {{'*': CLASS}} (got {dict(mapping)})"
            )
        if not line_width >= 1:
            raise SettingsError(f"{path}: line_width is in pixels, expected at least 1, got {line_width}")
        self._blocks = Recent(_BLOCKS_KEPT)
        self._fetched = Recent(_FETCHES_KEPT)
        self._layers = Recent(1)
        self._told = False  # that polygons were mended: once is enough for many scenes

    def check(self, scene: RasterScene) -> None:
        """Find out early whether the labels fit a scene: attribute, its values, CRS and ground.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.zeros((3, 4), np.uint8), crs="EPSG:3857", transform=Affine.scale(2, -2))
        >>> write_features(folder + "/l.geojson", [shapely.box(1, -9000, 7000, -1)], crs="EPSG:4326")
        >>> VectorLabels(folder + "/l.geojson", 2, {"*": 1}).check(RasterScene(folder + "/a.tif"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.geojson: claims EPSG:4326, but holds x 1 to 7000, y -9000 to -1, ...
        """
        self._check_placement(scene)
        self._check_values()

    def _check_placement(self, scene: RasterScene) -> LayerInfo:
        """Refuse what cannot be placed on the scene.

        Raises
        ------
        DataError
            If only one side has a CRS, coordinates lie outside of the CRS that the file claims, or elsewhere.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.zeros((3, 4), np.uint8))
        >>> write_features(folder + "/l.geojson", [shapely.box(1, 2, 3, 4)], crs="EPSG:4326")
        >>> VectorLabels(folder + "/l.geojson", 2, {"*": 1})._check_placement(RasterScene(folder + "/a.tif"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.geojson: the labels are in EPSG:4326, but ...a.tif has no CRS; ...
        """
        info = read_layer_info(self.path, self.layer)
        _check_same_kind(self.path, info.crs, scene)
        if info.crs is not None and not self._coordinates_fit(info):
            raise DataError(
                f"{self.path}: claims {crs_name(info.crs)}, but holds {_show_bounds(info.bounds)}, "
                f"which that CRS cannot express{_guess_crs(info.bounds, info.crs, scene)}"
            )
        _check_overlap(self.path, info.bounds, info.crs, scene)
        return info

    @staticmethod
    def _coordinates_fit(info: LayerInfo) -> bool:
        """Whether coordinates can be of the CRS that the file claims.

        Examples
        --------
        >>> VectorLabels._coordinates_fit(LayerInfo(CRS.from_epsg(4326), (), 1, (-663347, 2118636, -657354, 2129938)))
        False
        """
        assert info.crs is not None, "only asked of layers with a CRS"
        if info.crs.is_geographic:
            return _fits_degrees(info.bounds)
        return carry_bounds(info.bounds, info.crs, CRS.from_epsg(4326)) is not None

    def _check_values(self) -> None:
        """Refuse an attribute that is not there and values that are no class.

        Raises
        ------
        DataError
            Naming the fields there are, or the values and how often they occur.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.Point(1, 2)] * 3, crs="EPSG:4326", kind=["road", "rode", "rode"])
        >>> VectorLabels(path, 2, {"road": 1}, attribute="kind")._check_values()
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.geojson: value rode (2 times in attribute 'kind') is no class; known: road; ...
        """
        if self.attribute is None:
            return
        few = read_layer_info(self.path, self.layer).features <= _MANY_FEATURES
        self._look_up((self._features(None) if few else self._read_layer(None, geometry=False)).values)

    def _look_up(self, values: np.ndarray) -> np.ndarray:
        """Class of each feature by its attribute.

        Examples
        --------
        >>> labels = VectorLabels("l.shp", 3, {1: 0, "2": 2}, attribute="code")
        >>> labels._look_up(np.array([2.0, 1.0])).tolist()
        [2, 0]
        """
        classes = self._table.look_up(values.tolist())
        if (classes < 0).any():
            names, counts = np.unique([class_key(value) for value in values[classes < 0].tolist()], return_counts=True)
            found = dict(zip(names.tolist(), counts.tolist(), strict=True))
            cure = "give it a class or 'ignore' in dataset.label_mapping ('*' stands for every other value)"
            self._raise_unknown(found, f"in attribute {self.attribute!r}", self._table.classes, cure)
        return classes.astype(np.uint8)

    def _features(self, bounds: Bounds | None) -> _Features:
        """Features that meet some bounds, or all; a file that has few is read once.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.Point(1, 2), shapely.Point(8, 9)], crs="EPSG:4326", kind=["a", "b"])
        >>> VectorLabels(path, 2, {"*": 1}, attribute="kind")._features((7, 7, 9, 9)).values.tolist()
        ['b']
        """
        if read_layer_info(self.path, self.layer).features > _MANY_FEATURES:
            return self._read_layer(bounds)
        every = self._layers.get(file_key(str(self.path)), functools.partial(self._read_layer, None))
        return every if bounds is None else every.within(bounds)

    def _read_layer(self, bounds: Bounds | None, geometry: bool = True) -> _Features:
        """Read features from the file, sorted by their number: an index may give them in an order of its own.

        Raises
        ------
        DataError
            If the attribute is not there or the file is damaged.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.Point(1, 2), shapely.Point(8, 9)], crs="EPSG:4326", kind=["a", "b"])
        >>> VectorLabels(path, 2, {"*": 1}, attribute="kind")._read_layer((0, 0, 3, 3)).geometries.tolist()
        [<POINT (1 2)>]
        """
        import pyogrio

        fields = read_layer_info(self.path, self.layer).fields
        if self.attribute is not None and self.attribute not in fields:
            raise DataError(f"{self.path}: no attribute {self.attribute!r}; fields: {', '.join(fields) or 'none'}")
        columns = [] if self.attribute is None else [self.attribute]
        options = {"columns": columns, "read_geometry": geometry, "force_2d": True, "bbox": bounds, "return_fids": True}
        try:
            _, numbers, encoded, attributes = pyogrio.raw.read(self.path, self.layer, **options)
            shapes = shapely.from_wkb(encoded) if geometry else np.full(len(numbers), None)
        except (*_vector_errors(), shapely.errors.GEOSException) as error:
            raise DataError(f"{self.path}: cannot be read ({error}); the file is damaged: export it again") from error
        order = np.argsort(numbers, kind="stable")
        values = attributes[0] if columns else np.full(len(numbers), None)
        return _Features(numbers[order], shapes[order], values[order])

    def _read_inside(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Put a window together from blocks of the class map.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> pixels = np.zeros((3, 1030), np.uint8)
        >>> write_raster(folder + "/a.tif", pixels, crs="EPSG:32631", transform=Affine.scale(1, -1))
        >>> write_features(folder + "/l.gpkg", [shapely.LineString([(1020, -1.5), (1027.9, -1.5)])], crs="EPSG:32631")
        >>> labels = VectorLabels(folder + "/l.gpkg", 2, {"*": 1}, unlabelled=0, line_width=1)
        >>> labels._read_inside(RasterScene(folder + "/a.tif"), Window(1, 1022, 1, 8)).tolist()
        [[1, 1, 1, 1, 1, 1, 0, 0]]
        """
        info = self._check_placement(scene)
        label = np.empty((window.height, window.width), dtype=np.uint8)
        for y in range(window.y // _BLOCK * _BLOCK, window.rows.stop, _BLOCK):
            for x in range(window.x // _BLOCK * _BLOCK, window.columns.stop, _BLOCK):
                whole = Window(y, x, min(_BLOCK, scene.height - y), min(_BLOCK, scene.width - x))
                key = (scene.grid, y, x, file_key(str(self.path)))
                block = self._blocks.get(key, functools.partial(self._draw_block, scene, info, whole))
                part = whole.intersection(window)
                assert part is not None, "blocks are taken from the window's own span"
                place, local = part.shifted(-window.y, -window.x), part.shifted(-y, -x)
                label[place.rows, place.columns] = block[local.rows, local.columns]
        return label

    def _draw_block(self, scene: RasterScene, info: LayerInfo, block: Window) -> np.ndarray:
        """Draw one block of the class map.

        Examples
        --------
        >>> import tempfile
        >>> from utils.rasters import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.zeros((2, 3), np.uint8), crs="EPSG:32631", transform=Affine.scale(1, -1))
        >>> write_features(folder + "/l.gpkg", [shapely.Point(1.9, -0.1)], crs="EPSG:32631")
        >>> labels = VectorLabels(folder + "/l.gpkg", 2, {"*": 1}, unlabelled=0)
        >>> info = read_layer_info(labels.path, None)
        >>> labels._draw_block(RasterScene(folder + "/a.tif"), info, Window(0, 0, 2, 3)).tolist()
        [[0, 1, 0], [0, 0, 0]]
        """
        area = Window(0, 0, scene.height, scene.width)
        if info.features > _MANY_FEATURES:
            y, x = block.y // _FETCH * _FETCH, block.x // _FETCH * _FETCH
            area = Window(y, x, min(_FETCH, scene.height - y), min(_FETCH, scene.width - x))
        key = (scene.grid, area, file_key(str(self.path)))
        shapes = self._fetched.get(key, functools.partial(self._fetch, scene.grid, info.crs, area))
        return shapes.draw(block, self.unlabelled)

    def _fetch(self, grid: PixelGrid, crs: CRS | None, area: Window) -> _Shapes:
        """Read the features that meet an area and carry them onto the scene's pixels.

        Raises
        ------
        DataError
            If geometries cannot be read or placed, or a value is no class.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.box(0, 0, 9, 9), shapely.box(80, 80, 85, 85)], crs="EPSG:4326")
        >>> grid = PixelGrid(4, 6, CRS.from_epsg(4326), Affine(1, 0, 0, 0, -1, 4))
        >>> shapes = VectorLabels(path, 2, {"*": 1})._fetch(grid, grid.crs, Window(0, 0, 4, 6))
        >>> [shape.bounds for shape in shapes.geometries]
        [(0.0, -5.0, 9.0, 4.0)]
        """
        bounds = _bounds_around(grid, crs, area, _MARGIN + self.line_width)
        features = self._features(bounds)
        classes = self._look_up(features.values)
        dimensions = shapely.get_dimensions(features.geometries)  # of a missing geometry -1, which no part has
        geometries, mended = _mend(features.geometries)
        if mended and not self._told:
            self._told = True
            LOGGER.warning("%s: invalid polygons were made valid (%d in %s)", self.path, mended, area)
        if bounds is not None:
            geometries = _cut_to(geometries, bounds)
        parts, index = _single_parts(geometries, dimensions)
        parts = _carry_shapes(parts, crs, grid, bounds)
        lost = ~np.isfinite(shapely.bounds(parts)).all(axis=1)
        if lost.any():
            names = ", ".join(str(number) for number in np.unique(features.numbers[index[lost]])[:5])
            raise DataError(
                f"{self.path}: features {names} have no place in {crs_name(grid.crs)}; cut or leave them out"
            )
        lines = dimensions[index] == 1
        parts[lines] = shapely.buffer(parts[lines], self.line_width / 2)
        return _Shapes.build(parts, classes[index], np.full(len(parts), self.all_touched) & (dimensions[index] == 2))


def _bounds_around(grid: PixelGrid, crs: CRS | None, area: Window, margin: float) -> Bounds | None:
    """Bounds of an area of a scene in another CRS, with a margin in pixels; None when there are none that can be used.

    Examples
    --------
    >>> grid = PixelGrid(4, 6, None, Affine.scale(2, -2))
    >>> _bounds_around(grid, None, Window(0, 1, 2, 3), margin=1)
    (0.0, -6.0, 10.0, 2.0)
    """
    shift = Affine.translation(area.x - margin, area.y - margin)
    stretch = Affine.scale(area.width + 2 * margin, area.height + 2 * margin)
    outer = PixelGrid(1, 1, grid.crs, grid.transform @ shift @ stretch).bounds
    bounds = carry_bounds(outer, grid.crs, crs)
    return bounds if bounds is not None and bounds[0] < bounds[2] and bounds[1] < bounds[3] else None


def _mend(geometries: np.ndarray) -> tuple[np.ndarray, int]:
    """Make invalid polygons valid; also how many there were.

    Examples
    --------
    >>> bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    >>> mended, count = _mend(np.array([bow_tie, shapely.Point(1, 1)]))
    >>> mended[0].area, mended[0].is_valid, count
    (2.0, True, 1)
    """
    invalid = (shapely.get_dimensions(geometries) == 2) & ~shapely.is_valid(geometries)
    if not invalid.any():
        return geometries, 0
    mended = geometries.copy()
    mended[invalid] = shapely.make_valid(geometries[invalid])
    return mended, int(invalid.sum())


def _cut_to(geometries: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Cut off what lies beyond some bounds: far away a CRS may have no place for it.

    Examples
    --------
    >>> _cut_to(np.array([shapely.box(0, 0, 9, 9), shapely.Point(1, 1)]), (-1, -1, 4, 5))[0].bounds
    (0.0, 0.0, 4.0, 5.0)
    """
    frame = np.array(bounds)
    extents = shapely.bounds(geometries)
    beyond = (extents[:, :2] < frame[:2]).any(axis=1) | (extents[:, 2:] > frame[2:]).any(axis=1)
    cut = geometries.copy()
    cut[beyond] = shapely.intersection(geometries[beyond], shapely.box(*bounds))
    return cut


def _carry_shapes(shapes: np.ndarray, crs: CRS | None, grid: PixelGrid, bounds: Bounds | None) -> np.ndarray:
    """Carry geometries vertex by vertex onto a scene's pixels, long edges divided where the CRS differ.

    Examples
    --------
    >>> grid = PixelGrid(4, 6, CRS.from_epsg(3857), Affine(111319.49079327358, 0, 0, 0, -111319.49079327358, 0))
    >>> carried = _carry_shapes(np.array([shapely.Point(2, 0)]), CRS.from_epsg(4326), grid, None)
    >>> round(carried[0].x, 6), round(abs(carried[0].y), 6)
    (2.0, 0.0)
    """
    other = crs is not None and grid.crs is not None and crs != grid.crs
    if other and bounds is not None:
        assert crs is not None, "the CRS differ, so there are two"
        step = _longest_edge(crs, grid, bounds)
        shapes = shapely.segmentize(shapes, step) if len(shapes) and math.isfinite(step) else shapes
    source = PixelGrid(1, 1, crs, Affine.identity())
    return shapely.transform(shapes, lambda points: _place_exactly(source, grid, points[:, 0], points[:, 1]).T)


def _longest_edge(crs: CRS, grid: PixelGrid, bounds: Bounds) -> float:
    """How long an edge may be so that its middle strays by no more than a fraction of a pixel in the other CRS.

    The stray of a straight line grows with the square of its length; it is measured on the sides and diagonals of the
    ground at hand.

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
    places = _place_exactly(source, grid, points[:, 0], points[:, 1]).reshape(2, 3, -1)
    stray = np.hypot(*(places[:, 1] - (places[:, 0] + places[:, 2]) / 2))
    stray = np.where(np.isfinite(stray), stray, 1e6)
    length = np.hypot(*(end - begin).T)
    limits = length * np.sqrt(_BEND / np.maximum(stray, 1e-12))
    return math.inf if (limits >= length.max()).all() else float(limits.min())


# ---------------------------------------------------------------------------------------------- pairing


def pair_labels(
    scene_paths: Sequence[str | Path], label_source: str | Path, pattern: str | None = None
) -> tuple[dict[Path, Path], list[Path]]:
    """Find the label file of each scene.

    Parameters
    ----------
    scene_paths : sequence of str or Path
        The scenes.
    label_source : str or Path
        One file for all scenes, or a folder (with all folders inside) with one file for each.
    pattern : str, optional
        Name of a scene's label in the folder, with the scene's stem as {stem}, such as "{stem}_buildings.geojson" or
        "{stem}.mask.tif"; the rest may have wildcards. By default a raster or vector file of the same stem.

    Returns
    -------
    pairs : dict of Path to Path
        Label of each scene that has one.
    unpaired : list of Path
        The other scenes.

    Raises
    ------
    DataError
        If the source does not exist, or several labels fit one scene equally well.
    SettingsError
        If the pattern lacks {stem}.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.tif", "b.tif", "a.mask.tif"):
    ...     (folder / name).touch()
    >>> pairs, unpaired = pair_labels([folder / "a.tif", folder / "b.tif"], folder, "{stem}.mask.tif")
    >>> [label.name for label in pairs.values()], [path.name for path in unpaired]
    (['a.mask.tif'], ['b.tif'])
    """
    scenes = [Path(path) for path in scene_paths]
    source = Path(label_source).expanduser()
    if pattern is not None and "{stem}" not in pattern:
        raise SettingsError(f"dataset.label_pattern: expected {{stem}} for the picture's name, got {pattern!r}")
    if source.is_file():
        return dict.fromkeys(scenes, source), []
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder for labels")
    own = {path.resolve() for path in scenes}
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.resolve() not in own]
    find = _finder(files, pattern)
    found = {scene: _choose_label(scene, find(scene)) for scene in scenes}
    pairs = {scene: label for scene, label in found.items() if label is not None}
    return pairs, [scene for scene in scenes if scene not in pairs]


def _finder(files: Sequence[Path], pattern: str | None) -> Any:
    """A function from a scene to the files whose names fit; quick for many scenes unless the pattern has wildcards.

    Examples
    --------
    >>> files = [Path("l/a.shp"), Path("l/a.dbf"), Path("l/a_roads.shp")]
    >>> [str(path) for path in _finder(files, None)(Path("a.tif"))]
    ['l/a.shp']
    >>> [str(path) for path in _finder(files, "{stem}_*")(Path("a.tif"))]
    ['l/a_roads.shp']
    """
    labels = [path for path in files if is_vector(path) or path.suffix.lower() in RASTER_SUFFIXES]
    plain = pattern is not None and not glob.has_magic(pattern.replace("{stem}", ""))
    key = (lambda path: path.name) if plain else (lambda path: path.stem)
    by_name: dict[str, list[Path]] = {}
    for path in files if plain else labels:
        by_name.setdefault(key(path), []).append(path)
    if pattern is None:
        return lambda scene: by_name.get(scene.stem, [])
    if plain:
        return lambda scene: by_name.get(pattern.replace("{stem}", scene.stem), [])
    return lambda scene: [
        path for path in labels if fnmatch.fnmatchcase(path.name, pattern.replace("{stem}", glob.escape(scene.stem)))
    ]


def _choose_label(scene: Path, candidates: Sequence[Path]) -> Path | None:
    """The candidate whose folders are most like the scene's, so that equal names in several folders find their own.

    Raises
    ------
    DataError
        If several are equally like it.

    Examples
    --------
    >>> _choose_label(Path("images/north/a.tif"), [Path("labels/north/a.tif"), Path("labels/south/a.tif")])
    PosixPath('labels/north/a.tif')
    """
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    likeness = [_common_folders(scene, candidate) for candidate in candidates]
    best = [candidate for candidate, score in zip(candidates, likeness, strict=True) if score == max(likeness)]
    if len(best) > 1:
        names = ", ".join(str(candidate) for candidate in best[:4])
        raise DataError(
            f"{scene}: {len(best)} labels fit: {names}; choose by dataset.label_pattern, such as '{{stem}}.tif'"
        )
    return best[0]


def _common_folders(first: Path, second: Path) -> int:
    """How many folders just above two files have the same names.

    Examples
    --------
    >>> _common_folders(Path("a/north/2020/x.tif"), Path("b/north/2020/y.tif"))
    2
    """
    pairs = zip(reversed(first.parent.parts), reversed(second.parent.parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
