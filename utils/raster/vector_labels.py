"""Labels in vector files: polygons, lines and points in any CRS, drawn on a scene's own pixels.

A class map is made in blocks at fixed places of the scene, so that a pixel has one class whatever window asks for it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from utils.errors import DataError, SettingsError
from utils.raster.gdal import bounded_gdal, file_key
from utils.raster.grids import Bounds, PixelGrid, carry_bounds, crs_name, fits_degrees, place_exactly
from utils.raster.labels import (
    IGNORE,
    LabelSource,
    build_table,
    check_overlap,
    check_same_kind,
    class_index,
    class_key,
    guess_crs,
    show_bounds,
)
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.runtime.files import atomic_path
from utils.runtime.recent import Recent

LOGGER = logging.getLogger(__name__)

_BLOCK = 1024  # side of the pieces in which vectors are rasterised, in pixels
_BLOCKS_KEPT = 128  # of 1 MB: a row of windows of a scene 100,000 pixels wide
_FETCH = 4096  # side of the ground whose features are held at a time, when the file has many
_FETCHES_KEPT = 4
_MANY_FEATURES = 50_000
_MARGIN = 64  # pixels of ground around a piece whose features are kept
_BEND = 0.02  # pixels by which an edge may stray from its true course in the other CRS
_MANY_VERTICES = 2000


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

    Raises
    ------
    DataError
        When the file is missing or damaged, its CRS is not understood, or the layer has no features.

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
    known = info["total_bounds"] if info["features"] else None  # None also where no feature has a geometry
    bounds = tuple(float(value) for value in (known if known is not None else (math.nan,) * 4))
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

    Raises
    ------
    DataError
        When the layer does not exist, or there are several and none is named.

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
    tree : shapely.STRtree
        Of the geometries.

    Examples
    --------
    >>> boxes = np.array([shapely.box(0, 0, 2, 1)])
    >>> shapes = _Shapes(boxes, np.uint8([1]), shapely.STRtree(boxes))
    >>> shapes.draw(Window(0, 1, 2, 2), unlabelled=0).tolist()
    [[1, 0], [0, 0]]
    """

    geometries: np.ndarray
    classes: np.ndarray
    tree: shapely.STRtree

    def draw(self, window: Window, unlabelled: int) -> np.ndarray:
        """Draw what meets a window, later features over earlier ones.

        The result has the shape (height, width) of the window, uint8.

        Examples
        --------
        >>> boxes = np.array([shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2)])
        >>> shapes = _Shapes(boxes, np.uint8([1, 2]), shapely.STRtree(boxes))
        >>> shapes.draw(Window(0, 0, 1, 4), unlabelled=255).tolist()
        [[1, 2, 2, 255]]
        """
        from rasterio.features import rasterize

        drawn = np.full((window.height, window.width), unlabelled, dtype=np.uint8)
        frame = shapely.box(window.x - 1, window.y - 1, window.columns.stop + 1, window.rows.stop + 1)
        met = np.sort(self.tree.query(frame)).tolist()
        shapes = [(_trim(self.geometries[index], window), int(self.classes[index])) for index in met]
        kept = [(shape, value) for shape, value in shapes if not shape.is_empty]
        if kept:
            with bounded_gdal():
                rasterize(kept, out=drawn, transform=Affine.translation(window.x, window.y))
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
        self._told = False  # that polygons were mended: once is enough for many scenes

    def check(self, scene: RasterScene) -> None:
        """Find out early whether the labels fit a scene: attribute, its values, CRS and ground.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        if info.crs is not None and not self._coordinates_fit(info):
            raise DataError(
                f"{self.path}: claims {crs_name(info.crs)}, but holds {show_bounds(info.bounds)}, "
                f"which that CRS cannot express{guess_crs(info.bounds, info.crs, scene)}"
            )
        check_overlap(self.path, info.bounds, info.crs, scene)
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
            return fits_degrees(info.bounds)
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

        The result has the shape (height, width) of the window, uint8.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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

        The result has the shape (height, width) of the block, uint8.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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
        return _Shapes(parts, classes[index], shapely.STRtree(parts))


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

    Geometries have shape (N,).

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

    Geometries have shape (N,).

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

    Geometries have shape (N,).

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
    return shapely.transform(shapes, lambda points: place_exactly(source, grid, points[:, 0], points[:, 1]).T)


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
    places = place_exactly(source, grid, points[:, 0], points[:, 1]).reshape(2, 3, -1)
    stray = np.hypot(*(places[:, 1] - (places[:, 0] + places[:, 2]) / 2))
    stray = np.where(np.isfinite(stray), stray, 1e6)
    length = np.hypot(*(end - begin).T)
    limits = length * np.sqrt(_BEND / np.maximum(stray, 1e-12))
    return math.inf if (limits >= length.max()).all() else float(limits.min())
