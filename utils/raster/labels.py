"""Labels: rasters or vector files in any CRS and resolution, as class indices on a scene's own pixels.

A pixel's class is that of the ground under the pixel's centre, found exactly and without regard to the window that
asks. Nothing is warped on a grid of its own first, and no file is loaded whole unless its format leaves no choice.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.media.picture_sizes import MAX_PIXELS
from utils.raster.files import RASTER_SUFFIXES, RasterFile
from utils.raster.grids import (
    Bounds,
    PixelGrid,
    carry_bounds,
    crs_name,
    fits_degrees,
    locate_affine,
    locate_pixels,
    overlap,
)
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.runtime.files import walk_files

EVERY_OTHER = "*"  # in a mapping: all values that are not named
VECTOR_SUFFIXES = (".gpkg", ".geojson", ".geojsonl", ".json", ".shp", ".fgb", ".kml", ".gml", ".sqlite")
_READ_PIXELS = 2**24  # label pixels held at a time
_CHECK_WINDOWS = 64
_CHECK_SIDE = 1024


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


def class_index(
    target: int | str, num_classes: int, class_names: Sequence[str] = (), where: str = "dataset.label_mapping"
) -> int:
    """Index of a class given by index or name; 255 for "ignore". `where` is the setting that names it.

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
    utils.errors.SettingsError: dataset.label_mapping: unknown class 'rode'; known: 0, 1, field, road, ignore
    """
    if target in ("ignore", IGNORE):
        return IGNORE
    if isinstance(target, str) and target in class_names:
        return list(class_names).index(target)
    if isinstance(target, int) and 0 <= target < num_classes:
        return int(target)
    known = [*map(str, range(num_classes)), *class_names, "ignore"]
    raise SettingsError(f"{where}: unknown class {target!r}; known: {', '.join(known)}")


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

        The result has shape (N,), one class per value.

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
    >>> from utils.raster.vector_labels import VectorLabels
    >>> issubclass(RasterLabels, LabelSource), issubclass(VectorLabels, LabelSource)
    (True, True)
    """

    def __init__(self, path: str | Path, num_classes: int, class_names: Sequence[str] = ()):
        self.path = Path(path)
        if not 1 <= num_classes <= IGNORE:
            raise SettingsError(f'number of classes: expected 1 to 255 (255 itself means "ignore"), got {num_classes}')
        self.num_classes = num_classes
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
        >>> from utils.raster.files import write_raster
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


def check_same_kind(path: Path, label_crs: CRS | None, scene: RasterScene) -> None:
    """Refuse labels with a CRS for a scene without one, and the other way round.

    Raises
    ------
    DataError
        When one of them has a CRS and the other has none.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8))
    >>> check_same_kind(Path("l.tif"), CRS.from_epsg(4326), RasterScene(scene_path))
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


def show_bounds(bounds: Bounds) -> str:
    """Bounds in a message.

    Examples
    --------
    >>> show_bounds((0.1234567, 2, 39.25, 4123456.7))
    'x 0.1234567 to 39.25, y 2 to 4123456.7'
    """
    left, bottom, right, top = (f"{value:.10g}" for value in bounds)
    return f"x {left} to {right}, y {bottom} to {top}"


def check_overlap(path: Path, bounds: Bounds, crs: CRS | None, scene: RasterScene) -> None:
    """Refuse labels that share no ground with the scene.

    Raises
    ------
    DataError
        When they share no ground.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> check_overlap(Path("l.tif"), (100, 0, 110, 9), CRS.from_epsg(32631), RasterScene(scene_path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: l.tif: no common ground: labels x 100 to 110, y 0 to 9 (EPSG:32631), ...a.tif x 8 to 20, ...
    """
    carried = carry_bounds(bounds, crs, scene.crs)
    if carried is not None and overlap(carried, scene.grid.bounds):
        return
    in_scene = "" if crs == scene.crs or carried is None else f", in the scene's CRS {show_bounds(carried)}"
    raise DataError(
        f"{path}: no common ground: labels {show_bounds(bounds)} ({crs_name(crs)}){in_scene}, "
        f"{scene.paths[0]} {show_bounds(scene.grid.bounds)} ({crs_name(scene.crs)}){guess_crs(bounds, crs, scene)}"
    )


def guess_crs(bounds: Bounds, crs: CRS | None, scene: RasterScene) -> str:
    """What the numbers would fit, when the file's CRS is likely to be wrong.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
    >>> scene_path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(scene_path, np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> guess_crs((9, 2, 12, 4), CRS.from_epsg(4326), RasterScene(scene_path))
    "; the numbers would fit the scene's own EPSG:32631: if the file claims a wrong CRS, set it (ogr2ogr -a_srs, ...)"
    """
    degrees = CRS.from_epsg(4326)
    tool = "if the file claims a wrong CRS, set it (ogr2ogr -a_srs, gdal_edit -a_srs)"
    if crs != scene.crs and overlap(bounds, scene.grid.bounds):
        return f"; the numbers would fit the scene's own {crs_name(scene.crs)}: {tool}"
    carried = carry_bounds(bounds, degrees, scene.crs) if crs != degrees and fits_degrees(bounds) else None
    if carried is not None and overlap(carried, scene.grid.bounds):
        return f"; the numbers would fit EPSG:4326: {tool}"
    return "; give labels of this ground, or leave the scene out"


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
    >>> from utils.raster.files import write_raster
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
        max_pixels: int = MAX_PIXELS,
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((2, 3), np.uint8))
        >>> write_raster(folder + "/l.png", np.zeros((3, 2), np.uint8))
        >>> RasterLabels(folder + "/l.png", 2)._placement(RasterScene(folder + "/a.png"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.png: 3 x 2 pixels, but ...a.png has 2 x 3 (height x width), and neither ...
        """
        grid = self._file.header.grid
        check_same_kind(self.path, grid.crs, scene)
        placed = not grid.transform.is_identity and not scene.transform.is_identity
        if grid.crs is None and not (placed and not scene.file_grid.transform.is_identity):
            return self._match_sizes(grid, scene)
        check_overlap(self.path, grid.bounds, grid.crs, scene)
        return ~grid.transform @ scene.transform if grid.crs == scene.crs else None

    def _match_sizes(self, grid: PixelGrid, scene: RasterScene) -> Affine:
        """The map for pictures without a place on Earth, which must be of one size before or after `scale`.

        Raises
        ------
        DataError
            When the sizes differ.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((2, 4), np.uint8))
        >>> write_raster(folder + "/l.png", np.uint8([[0, 1, 0, 1], [1, 1, 0, 0]]))
        >>> scene = RasterScene(folder + "/a.png", scale=0.5)
        >>> RasterLabels(folder + "/l.png", 2)._read_inside(scene, Window(0, 0, 1, 2)).tolist()
        [[1, 0]]
        """
        matrix = self._placement(scene)
        grid = self._file.header.grid
        located = locate_pixels(scene.grid, grid, window) if matrix is None else locate_affine(matrix, window)
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
        >>> from utils.raster.files import write_raster
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

        `values` has shape (bands, H, W), the result shape (H, W).

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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

        `unique` and `counts` have shape (N,): values, and how often each occurs.

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

    Raises
    ------
    SettingsError
        When a colour is not three numbers from 0 to 255, or two classes have the same.

    Examples
    --------
    >>> _read_colours({"water": [0, 0, 0], "diver": [0, 0, 255]}, 2, ())
    ClassTable(classes={'0': 0, '255': 1}, other=None)
    >>> _read_colours({(0, 1, 0): "ignore"}, 2, ())
    ClassTable(classes={'256': 255}, other=None)
    >>> _read_colours({"water": [0, 0, 9], "diver": [0, 0, 9]}, 2, ())
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: dataset.label_colours: diver and water have the same colour [0, 0, 9]; ...
    """
    names = tuple(class_names) or tuple(str(key) for key in colours if isinstance(key, str) and key != "ignore")
    classes: dict[str, int] = {}
    owners: dict[str, object] = {}
    for key, value in colours.items():
        colour, target = (value, key) if isinstance(key, str) else (key, value)
        if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
            raise SettingsError(f"dataset.label_colours.{target}: expected three numbers 0 to 255, got {list(colour)}")
        code = colour[0] << 16 | colour[1] << 8 | colour[2]
        classes[str(code)] = class_index(target, num_classes, names, "dataset.label_colours")
        if owners.setdefault(str(code), target) != target:  # the later one would take the pixels of both
            raise SettingsError(
                f"dataset.label_colours: {target} and {owners[str(code)]} have the same colour {list(colour)}; "
                "give each class its own"
            )
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

    Values may have any shape; what is said of each element has that shape too.

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


def is_vector(path: str | Path) -> bool:
    """Whether a file's name is that of a vector file.

    Examples
    --------
    >>> is_vector("a.GPKG"), is_vector("a.tif")
    (True, False)
    """
    return Path(path).suffix.lower() in VECTOR_SUFFIXES


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
    files = [path for path in walk_files(source) if path.is_file() and path.resolve() not in own]
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
