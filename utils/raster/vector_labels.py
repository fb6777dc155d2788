"""Labels in vector files: polygons, lines and points in any CRS, drawn on a scene's pixels.

A class map is made in blocks at fixed places of the scene, so that a pixel has one class whatever window asks for it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rasterio.crs import CRS
from typing_extensions import override

from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.raster.class_table import build_table, class_index, class_key
from utils.raster.gdal import file_key
from utils.raster.grids import Bounds, PixelGrid, crs_name, turns_between
from utils.raster.labels import (
    LabelSource,
    UnknownValuesError,
    check_overlap,
    check_same_kind,
    join_blocks,
    refuse_impossible,
)
from utils.raster.scenes import RasterScene
from utils.raster.shapes import MARGIN, Shapes, bounds_around, move_along_x, place_on_pixels, refuse_crossing
from utils.raster.tiling import Window
from utils.raster.vector_files import (
    Features,
    LayerInfo,
    describe_truncated,
    name_rows,
    read_features,
    read_layer_info,
    rows_without_place,
)
from utils.runtime.recent import Recent

LOGGER = logging.getLogger(__name__)

_BLOCKS_KEPT = 128  # of 1 MB: a row of windows of a scene 100,000 pixels wide
_FETCH = 4096  # side, in pixels, of the area whose features are held at a time, when the file has many
_FETCHES_KEPT = 4
_MANY_FEATURES = 50_000
_PAIRS_COMPARED = 100_000
_INTERIORS_MEET = "T********"  # in the nine intersections of Egenhofer's model: touching borders do not count


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
        Class of the pixels outside all features; 255 ignores them.
    line_width : float
        Width at which lines are drawn, in pixels of the scene after its `scale`; at least 1.

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
    >>> from utils.raster.files import write_raster
    >>> from affine import Affine
    >>> from utils.raster.vector_files import write_features
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
    ):
        super().__init__(path, num_classes, class_names)
        self.layer = layer
        self.attribute = attribute
        self.unlabelled = class_index(unlabelled, num_classes, class_names, "dataset.unlabelled")
        self.line_width = line_width
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
        self._warned = False  # of invalid polygons: once is enough for many scenes
        self._checked = False  # for doubts

    def check(self, scene: RasterScene) -> None:
        """Find out early whether the labels fit a scene: attribute, its values, CRS and place.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> from affine import Affine
        >>> from utils.raster.vector_files import write_features
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.zeros((3, 4), np.uint8), crs="EPSG:3857", transform=Affine.scale(2, -2))
        >>> write_features(folder + "/l.geojson", [shapely.box(1, -9000, 7000, -1)], crs="EPSG:4326")
        >>> VectorLabels(folder + "/l.geojson", 2, {"*": 1}).check(RasterScene(folder + "/a.tif"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.geojson: claims EPSG:4326 (as every GeoJSON without a crs does), but holds ...
        """
        self._check_placement(scene)
        self._check_values()
        if not self._checked:
            self._checked = True
            for doubt in self.doubts():
                LOGGER.warning(doubt)

    @override
    def doubts(self) -> list[str]:
        info = read_layer_info(self.path, self.layer)
        told = [f"{self.path}: {'; '.join(describe_truncated(info))}"] if info.truncated else []
        return [*told, *self._doubt_places(info), *(self._doubt_order(info) if info.resorted else [])]

    def _doubt_places(self, info: LayerInfo) -> list[str]:
        """Name the features without a geometry.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.vector_files import write_features
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.Point(1, 2), shapely.Polygon()], crs="EPSG:4326")
        >>> VectorLabels(path, 2, {"*": 1})._doubt_places(read_layer_info(path, None))
        ['...l.geojson: 1 of 2 features have no geometry (row 2), so that they label nothing; draw or remove them']
        """
        rows = rows_without_place(self.path, self.layer)
        if not rows:
            return []
        return [
            f"{self.path}: {len(rows)} of {info.features} features have no geometry ({name_rows(rows)}), so that they "
            "label nothing; draw or remove them"
        ]

    def _doubt_order(self, info: LayerInfo) -> list[str]:
        """Say that the order of features is lost, where two of different classes lie over each other.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.vector_files import write_features
        >>> path = tempfile.mkdtemp() + "/l.fgb"
        >>> boxes = [shapely.box(0, 0, 4, 4), shapely.box(3, 3, 9, 9), shapely.box(4, 0, 6, 3)]
        >>> write_features(path, boxes, crs="EPSG:4326", kind=["a", "b", "b"])
        >>> labels = VectorLabels(path, 2, {"a": 0, "b": 1}, attribute="kind")
        >>> labels._doubt_order(read_layer_info(path, None))
        ['...l.fgb: FlatGeobuf with a spatial index sorts features by place, so that ...other, such as 1 and 2: ...']
        """
        lost = (
            f"{self.path}: FlatGeobuf with a spatial index sorts features by place, so that it is not known which of "
            "two was drawn over the other"
        )
        cure = "write the labels anew from their source (ogr2ogr -lco SPATIAL_INDEX=NO, or as GeoPackage)"
        if info.features > _MANY_FEATURES:
            return [f"{lost}; if features of different classes lie over each other, {cure}"]
        features = self._features(None)
        classes, shapes = self._look_up(features.values), shapely.make_valid(features.geometries)
        first, second = shapely.STRtree(shapes).query(shapes)
        pairs = np.flatnonzero((first < second) & (classes[first] != classes[second]))[:_PAIRS_COMPARED]
        first, second = first[pairs], second[pairs]
        over = np.flatnonzero(shapely.relate_pattern(shapes[first], shapes[second], _INTERIORS_MEET))
        if not len(over):
            return []
        names = f"{features.numbers[first[over[0]]]} and {features.numbers[second[over[0]]]}"
        return [f"{lost}; features of different classes lie over each other, such as {names}: {cure}"]

    def _check_placement(self, scene: RasterScene) -> LayerInfo:
        """Refuse what cannot be placed on the scene.

        Raises
        ------
        DataError
            If only one side has a CRS, coordinates lie outside of the CRS that the file claims, or elsewhere.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> from utils.raster.vector_files import write_features
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.zeros((3, 4), np.uint8))
        >>> write_features(folder + "/l.geojson", [shapely.box(1, 2, 3, 4)], crs="EPSG:4326")
        >>> VectorLabels(folder + "/l.geojson", 2, {"*": 1})._check_placement(RasterScene(folder + "/a.tif"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.geojson: the labels are in EPSG:4326, but ...a.tif has no CRS; ...
        """
        info = read_layer_info(self.path, self.layer)
        check_same_kind(self.path, info.crs, scene)
        refuse_impossible(self.path, info, [scene.grid])
        check_overlap(self.path, info.bounds, info.crs, scene)
        return info

    def _check_values(self) -> None:
        """Refuse an attribute that is not there and values that are no class.

        Raises
        ------
        DataError
            Naming the fields there are, or the values and how often they occur.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.vector_files import write_features
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.Point(1, 2)] * 3, crs="EPSG:4326", kind=["road", "rode", "rode"])
        >>> VectorLabels(path, 2, {"road": 1}, attribute="kind")._check_values()
        Traceback (most recent call last):
            ...
        utils.raster.labels.UnknownValuesError: ...l.geojson: value rode (2 times in attribute 'kind') is no class; ...
        """
        if self.attribute is None:
            return
        few = read_layer_info(self.path, self.layer).features <= _MANY_FEATURES
        features = self._features(None) if few else read_features(self.path, self.layer, self.attribute, geometry=False)
        self._look_up(features.values)

    def _look_up(self, values: np.ndarray) -> np.ndarray:
        """Class of each feature by its attribute.

        Both have shape (N,).

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
            raise UnknownValuesError(self.path, found, f"in attribute {self.attribute!r}", self._table.classes, cure)
        return classes.astype(np.uint8)

    def _features(self, bounds: Bounds | None) -> Features:
        """Features that meet some bounds, or all; a file that has few is read once.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.vector_files import write_features
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.Point(1, 2), shapely.Point(8, 9)], crs="EPSG:4326", kind=["a", "b"])
        >>> VectorLabels(path, 2, {"*": 1}, attribute="kind")._features((7, 7, 9, 9)).values.tolist()
        ['b']
        """
        if read_layer_info(self.path, self.layer).features > _MANY_FEATURES:
            return read_features(self.path, self.layer, self.attribute, bounds)
        read = functools.partial(read_features, self.path, self.layer, self.attribute)
        every = self._layers.get(file_key(str(self.path)), read)
        return every if bounds is None else every.within(bounds)

    def _read_inside(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Put a window together from blocks of the class map.

        The result has the shape (height, width) of the window, uint8.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> from affine import Affine
        >>> from utils.raster.vector_files import write_features
        >>> folder = tempfile.mkdtemp()
        >>> pixels = np.zeros((3, 1030), np.uint8)
        >>> write_raster(folder + "/a.tif", pixels, crs="EPSG:32631", transform=Affine.scale(1, -1))
        >>> write_features(folder + "/l.gpkg", [shapely.LineString([(1020, -1.5), (1027.9, -1.5)])], crs="EPSG:32631")
        >>> labels = VectorLabels(folder + "/l.gpkg", 2, {"*": 1}, unlabelled=0, line_width=1)
        >>> labels._read_inside(RasterScene(folder + "/a.tif"), Window(1, 1022, 1, 8)).tolist()
        [[1, 1, 1, 1, 1, 1, 0, 0]]
        """
        info = self._check_placement(scene)
        path = file_key(str(self.path))

        def draw(block: Window) -> np.ndarray:
            return self._blocks.get(
                (scene.grid, block.y, block.x, path), functools.partial(self._draw_block, scene, info, block)
            )

        return join_blocks((scene.height, scene.width), window, draw)

    def _draw_block(self, scene: RasterScene, info: LayerInfo, block: Window) -> np.ndarray:
        """Draw one block of the class map.

        The result has the shape (height, width) of the block, uint8.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> from affine import Affine
        >>> from utils.raster.vector_files import write_features
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

    def _fetch(self, grid: PixelGrid, crs: CRS | None, area: Window) -> Shapes:
        """Read the features that meet an area and carry them onto the scene's pixels.

        Raises
        ------
        DataError
            If geometries cannot be read or placed, or a value is no class.

        Examples
        --------
        >>> import tempfile
        >>> from affine import Affine
        >>> from utils.raster.vector_files import write_features
        >>> path = tempfile.mkdtemp() + "/l.geojson"
        >>> write_features(path, [shapely.box(0, 0, 9, 9), shapely.box(80, 80, 85, 85)], crs="EPSG:4326")
        >>> grid = PixelGrid(4, 6, CRS.from_epsg(4326), Affine(1, 0, 0, 0, -1, 4))
        >>> shapes = VectorLabels(path, 2, {"*": 1})._fetch(grid, grid.crs, Window(0, 0, 4, 6))
        >>> [shape.bounds for shape in shapes.geometries]
        [(0.0, -5.0, 9.0, 4.0)]
        """
        bounds = bounds_around(grid, crs, area, MARGIN + self.line_width)
        turns = [] if bounds is None else turns_between(bounds, read_layer_info(self.path, self.layer).bounds, crs)
        turns = turns or [0]
        features = self._features(bounds and (bounds[0] + turns[0], bounds[1], bounds[2] + turns[-1], bounds[3]))
        refuse_crossing(self.path, features.numbers, features.geometries, crs)
        classes = self._look_up(features.values)
        placed = [place_on_pixels(move_along_x(features.geometries, -turn), crs, grid, bounds) for turn in turns]
        parts, index = (np.concatenate([found[place] for found in placed]) for place in range(2))
        order, mended = np.argsort(index, kind="stable"), placed[0][2]  # the order of the file, whatever the turn
        parts, index = parts[order], index[order]
        if mended and not self._warned:
            self._warned = True
            LOGGER.warning("%s: invalid polygons were made valid (%d in %s)", self.path, mended, area)
        lost = ~np.isfinite(shapely.bounds(parts)).all(axis=1)
        if lost.any():
            names = ", ".join(str(number) for number in np.unique(features.numbers[index[lost]])[:5])
            raise DataError(
                f"{self.path}: features {names} have no place in {crs_name(grid.crs)}; cut or leave them out"
            )
        lines = shapely.get_dimensions(parts) == 1
        parts[lines] = shapely.buffer(parts[lines], self.line_width / 2)
        return Shapes(parts, classes[index], shapely.STRtree(parts))
