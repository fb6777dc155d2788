"""Vector files: their layers, the features in them, and writing small ones."""

from __future__ import annotations

import functools
import json
import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rasterio.crs import CRS

from utils.errors import DataError
from utils.raster.drivers import VECTOR_DRIVERS, plain_path, refuse_linked_crs, relayed_warnings, vector_library
from utils.raster.gdal import FileKey, file_key
from utils.raster.grids import Bounds
from utils.runtime.files import atomic_path
from utils.runtime.reading import check_regular, file_errors, read_bounded_text
from utils.runtime.recent import Recent

STYLES = "layer_styles"  # the table of a GeoPackage in which QGIS keeps the looks of layers
# With bounds these give features in the order of their spatial index; the number of a feature is its place in the file.
_INDEXED = frozenset({"GPKG", "FlatGeobuf", "ESRI Shapefile", "SQLite", "MapInfo File", "OpenFileGDB"})
_COUNTED_AT_ONCE = 200_000  # features whose geometries are held while those without a place are counted
_FROM_SERVERS = frozenset({"GeoJSON", "ESRIJSON"})  # as ArcGIS servers answer
_TRUNCATED = re.compile(rb'"exceededTransferLimit"\s*:\s*true', re.IGNORECASE)


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
    driver : str
        GDAL's driver.
    layer : str
        Its name.
    resorted : bool
        Whether the format sorted the features by their place as it was written, so that their order is lost.
    texts : tuple of str
        Attributes whose values are text.
    truncated : bool
        Whether the server that gave the features says that there are more of them.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.box(1, 2, 3, 4)], crs="EPSG:4326", kind=["road"], code=[7])
    >>> info = read_layer_info(path, None)
    >>> info.fields, info.texts, info.bounds
    (('kind', 'code'), ('kind',), (1.0, 2.0, 3.0, 4.0))
    """

    crs: CRS | None
    fields: tuple[str, ...]
    features: int
    bounds: Bounds
    driver: str
    layer: str
    resorted: bool = False
    texts: tuple[str, ...] = ()
    truncated: bool = False

    def list_attributes(self) -> str:
        """The attributes, with whether each holds text or numbers, for a message.

        Examples
        --------
        >>> LayerInfo(None, ("kind", "area"), 1, (0, 0, 1, 1), "GPKG", "a", texts=("kind",)).list_attributes()
        'kind (text), area'
        """
        return ", ".join(f"{name} (text)" if name in self.texts else name for name in self.fields) or "none"


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
def _read_layer_info(key: FileKey, layer: str | None) -> LayerInfo:
    """What a layer of one version of a file says about itself.

    Raises
    ------
    DataError
        When the file is missing or damaged, its CRS is not understood, or the layer has no features or infinite ones.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.Point(1, 2)], crs="EPSG:4326")
    >>> _read_layer_info(file_key(path), None).features
    1
    """
    pyogrio, path = vector_library(), key[0]
    if key[1] < 0:
        raise DataError(f"{path}: no such file")
    if not os.path.isdir(path):  # as a geodatabase is
        check_regular(path)
    lacking = [part for part in missing_parts(path) if part.lower().endswith(".shx")]
    if lacking:
        raise DataError(f"{path}: {lacking[0]} is missing, without which no feature is found; put it beside the file")
    with file_errors(path, "cannot be opened as a vector file"), plain_path(path) as plain:
        if not os.path.isdir(path):
            refuse_linked_crs(path)
        layers = _list_layers(plain)
        chosen = _choose_layer(path, layers, layer)
        info = pyogrio.read_info(plain, layer=chosen, force_feature_count=True, force_total_bounds=True)
        if info["driver"] not in VECTOR_DRIVERS:
            raise DataError(f"{path}: {info['driver']} is not a format that is read; convert it to GeoPackage")
    with file_errors(path, "its CRS is not understood", "set it (ogr2ogr -a_srs)"):
        crs = CRS.from_user_input(info["crs"]) if info["crs"] else None
    extent = info["total_bounds"] if info["features"] else None  # None also where no feature has a geometry
    bounds = tuple(float(value) for value in (extent if extent is not None else (math.nan,) * 4))
    if layers[chosen] is None or np.isnan(bounds).any():
        raise DataError(
            f"{path}: layer {chosen!r} holds no features with finite coordinates ({info['features']} features)"
        )
    resorted = info["driver"] == "FlatGeobuf" and bool(info["capabilities"]["fast_spatial_filter"])
    fields = tuple(map(str, info["fields"]))
    texts = tuple(name for name, dtype in zip(fields, info["dtypes"], strict=True) if dtype == "object")
    truncated = info["driver"] in _FROM_SERVERS and _says_truncated(path)
    features, driver = int(info["features"]), info["driver"]
    found = LayerInfo(crs, fields, features, bounds, driver, chosen, resorted, texts, truncated)  # type: ignore[arg-type]
    if not np.isfinite(bounds).all():  # an infinite corner, or no corner at all
        _list_empty(path, found)
        raise DataError(f"{path}: layer {chosen!r} holds no features with finite coordinates ({features} features)")
    return found


def missing_parts(path: str | Path) -> list[str]:
    """Files that a shapefile consists of and that do not lie beside it; nothing of other formats.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.shp"
    >>> path.touch(), path.with_suffix(".SHX").touch()
    (None, None)
    >>> missing_parts(path), missing_parts("a.gpkg")
    (['a.dbf'], [])
    """
    path = Path(path)
    if path.suffix.lower() != ".shp" or not path.is_file():
        return []
    beside = {name.lower() for name in os.listdir(path.parent)}
    parts = [path.stem + (end if path.suffix.islower() else end.upper()) for end in (".shx", ".dbf")]
    return [name for name in parts if name.lower() not in beside]


def _says_truncated(path: str) -> bool:
    """Whether a file of JSON says that its server had more features than it gave at once.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.geojson"
    >>> _ = path.write_text('{"properties": {"exceededTransferLimit" : true}, "features": []}')
    >>> _says_truncated(str(path))
    True
    """
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _TRUNCATED.search(content) is not None


def describe_truncated(info: LayerInfo) -> tuple[str, str]:
    """What to say of a layer that is truncated, and what to do.

    Examples
    --------
    >>> describe_truncated(LayerInfo(None, (), 2000, (0, 0, 1, 1), "GeoJSON", "a", truncated=True))[0]
    "holds 2000 features, and says by 'exceededTransferLimit' that its server has more: the labels are incomplete"
    """
    what = (
        f"holds {info.features} features, and says by 'exceededTransferLimit' that its server has more: the labels are "
        "incomplete"
    )
    return what, "fetch the rest as well (resultOffset), and join the parts without that key"


def _list_layers(path: str | Path) -> dict[str, str | None]:
    """Layers of a file with their geometry types, None for tables without places; not the styles that QGIS keeps.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/roads.gpkg"
    >>> write_features(path, [shapely.Point(1, 2)], crs="EPSG:4326")
    >>> _list_layers(path)
    {'roads': 'Point'}
    """
    return {str(name): kind for name, kind in vector_library().list_layers(path) if name != STYLES}


def layers_with_places(path: str | Path) -> dict[str, str]:
    """Layers of a vector file that have places, with their geometry types.

    Raises
    ------
    DataError
        If the file cannot be opened or has no such layer.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/roads.gpkg"
    >>> write_features(path, [shapely.Point(1, 2)], crs="EPSG:4326")
    >>> layers_with_places(path)
    {'roads': 'Point'}
    """
    check_regular(path)
    with file_errors(path, "cannot be opened as a vector file"), plain_path(path) as plain:
        refuse_linked_crs(path)
        layers = {name: kind for name, kind in _list_layers(plain).items() if kind is not None}
    if not layers:
        raise DataError(
            f"{path}: holds tables only, and no layer with places; name a file with polygons, lines or points"
        )
    return layers


def read_attributes(path: str | Path, layer: str | None) -> tuple[str, dict[str, list]]:
    """Geometry type of a layer, and the values of each attribute.

    Raises
    ------
    DataError
        If the file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/l.geojson"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Point(8, 9)], crs="EPSG:4326", kind=["a", "b"])
    >>> read_attributes(path, None)
    ('Point', {'kind': ['a', 'b']})
    """
    info = read_layer_info(path, layer)
    with _in_file_order(path, info) as (source, place):
        meta, _, _, columns = vector_library().raw.read(source, place, read_geometry=False)
    fields = zip(meta["fields"].tolist(), columns, strict=True)
    return str(meta["geometry_type"]), {str(name): values.tolist() for name, values in fields}


def read_areas(path: str | Path, layer: str | None) -> np.ndarray | None:
    """Area of each feature of a layer, in the order of `read_attributes`.

    Returns
    -------
    float64 array, shape (N,), or None
        In the squared unit of the CRS; of degrees, those of the equator, so that they can be compared. 0 where a
        geometry is missing; None where some are no polygons.

    Raises
    ------
    DataError
        If the file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/l.geojson"
    >>> write_features(path, [shapely.box(0, 0, 1, 2), shapely.box(0, 0, 2, 3)], crs="EPSG:32631")
    >>> read_areas(path, None).tolist()
    [2.0, 6.0]
    """
    info = read_layer_info(path, layer)
    degrees = info.crs is not None and info.crs.is_geographic
    areas = [_areas(shapes, degrees) for shapes, _ in _geometries(path, info)]
    known = [part for part in areas if part is not None]
    return np.concatenate(known) if known and len(known) == len(areas) else None


def _areas(shapes: np.ndarray, degrees: bool) -> np.ndarray | None:
    """Areas (N,) of polygons, 0 where a geometry is missing; None where some are lines, points or unknown curves.

    Examples
    --------
    >>> north = shapely.box(0, 59, 2, 61)  # half as wide as at the equator
    >>> _areas(np.array([north, None]), degrees=True).round(2).tolist(), _areas(np.array([shapely.Point()]), True)
    ([2.0, 0.0], None)
    """
    if not np.isin(shapely.get_dimensions(shapes), (-1, 2)).all():
        return None
    areas = np.nan_to_num(shapely.area(shapes))
    if degrees:
        areas *= np.cos(np.radians(np.nan_to_num(shapely.get_y(shapely.centroid(shapes)))))
    return areas


def _choose_layer(path: str, layers: Mapping[str, str | None], layer: str | None) -> str:
    """The layer to read: the chosen one, or the only one that has places.

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
    places = [name for name, kind in layers.items() if kind is not None] or list(layers)
    if layer is None and len(places) == 1:
        return places[0]
    if layer in layers:
        return str(layer)
    missing = f"has no layer {layer!r}; it " if layer else ""
    raise DataError(
        f"{path}: {missing}holds the layers {', '.join(places) or 'none'}; choose one in dataset.label_layer"
    )


@dataclass(frozen=True)
class Features:
    """Features as the file holds them, in its order.

    Parameters
    ----------
    numbers : int array, shape (N,)
        The file's numbers.
    geometries : array of shapely geometries, shape (N,)
        In the file's CRS; None where a feature has none.
    values : array, shape (N,)
        Of the attribute; None without one.

    Examples
    --------
    >>> boxes = np.array([shapely.box(0, 0, 1, 1), None, shapely.box(5, 5, 6, 6)])
    >>> features = Features(np.array([4, 5, 6]), boxes, np.array(["a", "b", "c"]))
    >>> features.within((4, 4, 9, 9)).values.tolist()
    ['c']
    """

    numbers: np.ndarray
    geometries: np.ndarray
    values: np.ndarray

    def within(self, bounds: Bounds) -> Features:
        """The features whose extent meets some bounds.

        Examples
        --------
        >>> features = Features(np.array([1]), np.array([shapely.Point(2, 3)]), np.array([None]))
        >>> len(features.within((2, 3, 4, 5)).numbers), len(features.within((3, 3, 4, 5)).numbers)
        (1, 0)
        """
        extents = shapely.bounds(self.geometries)  # not a number where there is none: compares as outside
        met = (extents[:, :2] <= bounds[2:]).all(axis=1) & (extents[:, 2:] >= bounds[:2]).all(axis=1)
        return Features(self.numbers[met], self.geometries[met], self.values[met])


def read_features(
    path: str | Path, layer: str | None, attribute: str | None, bounds: Bounds | None = None, *, geometry: bool = True
) -> Features:
    """Read features in the order of the file.

    Their numbers do not tell that order: GDAL takes them from the `id` of a GeoJSON's features, where there is one.
    A FlatGeobuf with a spatial index has lost the order in which it was written (see `LayerInfo.resorted`).

    Parameters
    ----------
    path : str or Path
        A vector file.
    layer, attribute : str or None
        Its layer, and the attribute whose values are read.
    bounds : (left, bottom, right, top), optional
        Only features that meet these.
    geometry : bool
        False leaves the geometries None.

    Raises
    ------
    DataError
        If the attribute is not there, the file is damaged, or a geometry has a corner that is not finite.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/l.geojson"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Point(8, 9)], crs="EPSG:4326", kind=["a", "b"])
    >>> features = read_features(path, None, "kind", (0, 0, 3, 3))
    >>> features.geometries.tolist(), features.values.tolist()
    ([<POINT (1 2)>], ['a'])
    """
    info = read_layer_info(path, layer)
    if attribute is not None and attribute not in info.fields:
        lost = "".join(f"; {part} is missing, which holds them: put it beside" for part in missing_parts(path))
        raise DataError(f"{path}: no attribute {attribute!r}; fields: {', '.join(info.fields) or 'none'}{lost}")
    columns = [] if attribute is None else [attribute]
    options = {"columns": columns, "read_geometry": geometry, "force_2d": True, "bbox": bounds, "return_fids": True}
    with _in_file_order(path, info) as (source, place):
        _, numbers, encoded, attributes = vector_library().raw.read(source, place, **options)
        shapes, broken = _decode(encoded) if geometry else (np.full(len(numbers), None), np.zeros(0, bool))
        if broken.any():
            _list_empty(path, info)
    values = attributes[0] if columns else np.full(len(numbers), None)
    by_index = bounds is not None and info.driver in _INDEXED
    order = np.argsort(numbers, kind="stable") if by_index else np.arange(len(numbers))
    return Features(numbers[order], shapes[order], values[order])


@contextmanager
def _in_file_order(path: str | Path, info: LayerInfo) -> Iterator[tuple[Path | bytes, str | int]]:
    """Give what the library for vector files reads in the order of the file, and the layer in it.

    Raises
    ------
    DataError
        In place of any error while it is read.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.Point(1, 2)], crs="EPSG:4326")
    >>> with _in_file_order(path, read_layer_info(path, None)) as (source, layer):
    ...     source.name, layer
    ('a.geojson', 'a')
    """
    with file_errors(path, "cannot be read", "the file is damaged: export it again"):
        if info.driver == "ESRIJSON":
            with relayed_warnings(path):
                yield _RENUMBERED.get(file_key(str(path)), functools.partial(_renumber_esri, path)), 0
            return
        with plain_path(path) as plain:
            yield plain, info.layer


_RENUMBERED = Recent(1)  # a file is read once for each area of a scene


def _renumber_esri(path: str | Path) -> bytes:
    """ESRI JSON whose features have no numbers of their own: GDAL gives them in the order of their OBJECTID.

    Raises
    ------
    ValueError
        If it is no JSON.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text('{"fields": [{"name": "OBJECTID", "type": "esriFieldTypeOID"}], "features": []}')
    >>> _renumber_esri(path)
    b'{"fields": [{"name": "OBJECTID", "type": "esriFieldTypeInteger"}], "features": []}'
    """
    document = json.loads(read_bounded_text(path))
    document.pop("exceededTransferLimit", None)  # GDAL would ask a server for the rest
    for field in document.get("fields", []):
        if str(field.get("type")).lower() == "esrifieldtypeoid":
            field["type"] = "esriFieldTypeInteger"
    return json.dumps(document).encode()


def _decode(encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Geometries of their WKB.

    Parameters
    ----------
    encoded : array of bytes, shape (N,)
        None where a feature has none.

    Returns
    -------
    geometries : array of shapely geometries, shape (N,)
        None also where the WKB cannot be understood.
    broken : bool array, shape (N,)
        Which have a corner that is not finite, or cannot be understood, such as a ring that is not closed. GEOS would
        make a polygon valid by leaving out most of it.

    Examples
    --------
    >>> shapes = [shapely.box(0, 0, 1, 1), shapely.Point(3, np.nan), shapely.Point()]
    >>> _decode(np.array([*map(shapely.to_wkb, shapes), None]))[1].tolist()
    [False, True, False, False]
    """
    with np.errstate(invalid="ignore"):
        geometries = shapely.from_wkb(encoded, on_invalid="ignore")
    broken = shapely.is_missing(geometries) & np.array([wkb is not None for wkb in encoded], bool)
    corners, owners = shapely.get_coordinates(geometries, return_index=True)
    broken[owners[~np.isfinite(corners).all(axis=1)]] = True
    return geometries, broken


def _geometries(path: str | Path, info: LayerInfo) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `_decode` gives of a layer, in the order of the file, a bounded number of features at a time.

    Raises
    ------
    DataError
        If the file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Point(3, 4)], crs="EPSG:4326")
    >>> [part.tolist() for part, _ in _geometries(path, read_layer_info(path, None))]
    [[<POINT (1 2)>, <POINT (3 4)>]]
    """
    with _in_file_order(path, info) as (source, place):
        for start in range(0, info.features, _COUNTED_AT_ONCE):
            part = {"skip_features": start, "max_features": _COUNTED_AT_ONCE, "columns": []}
            yield _decode(vector_library().raw.read(source, place, **part)[2])


def _list_empty(path: str | Path, info: LayerInfo) -> tuple[int, ...]:
    """Rows, counted from 1, of the features of a layer whose geometry is missing or empty.

    Raises
    ------
    DataError
        If the file is damaged, or a geometry has a corner that is not finite, or cannot be understood.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.gpkg"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Point(3, np.nan)], crs="EPSG:4326")
    >>> _list_empty(path, read_layer_info(path, None))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.gpkg: 1 of 2 features have a geometry that cannot be used (a corner that is ...
    """
    flags = [(shapely.is_empty(shapes) | shapely.is_missing(shapes), bad) for shapes, bad in _geometries(path, info)]
    empty, broken = (np.concatenate(part) for part in zip(*flags, strict=True))
    if broken.any():
        what = "a corner that is no finite number, a ring that is not closed, too few points, or a surface in 3D"
        rows = name_rows((np.flatnonzero(broken) + 1).tolist())
        raise DataError(
            f"{path}: {broken.sum()} of {info.features} features have a geometry that cannot be used ({what}): {rows}; "
            "correct or remove them"
        )
    return tuple((np.flatnonzero(empty) + 1).tolist())


def name_rows(rows: Sequence[int]) -> str:
    """The first rows of a file, for a message.

    Examples
    --------
    >>> name_rows([3]), name_rows(range(1, 8))
    ('row 3', 'rows 1, 2, 3, 4, 5, ...')
    """
    return f"row{'s'[: len(rows) > 1]} {', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''}"


@functools.lru_cache(maxsize=256)
def _rows_without_place(key: FileKey, layer: str | None) -> tuple[int, ...]:
    """Rows, counted from 1, of the features of one version of a file whose geometry is missing or empty.

    Raises
    ------
    DataError
        If the file is damaged, or a geometry has a corner that is not finite.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Polygon()], crs="EPSG:4326")
    >>> _rows_without_place(file_key(path), None)
    (2,)
    """
    return _list_empty(key[0], read_layer_info(key[0], layer))


def rows_without_place(path: str | Path, layer: str | None) -> tuple[int, ...]:
    """Find the features whose geometry is missing or empty, by their rows in the file, counted from 1.

    Parameters
    ----------
    path : str or Path
        A vector file.
    layer : str or None
        Its layer.

    Raises
    ------
    DataError
        If the file is damaged, or a geometry has a corner that is not finite.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.geojson"
    >>> write_features(path, [shapely.Point(1, 2), shapely.Polygon(), shapely.Point(3, 4)], crs="EPSG:4326")
    >>> rows_without_place(path, None)
    (2,)
    """
    return _rows_without_place(file_key(str(path)), layer)


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
    shapes = np.array([shapely.to_wkb(geometry) for geometry in geometries], dtype=object)
    kinds = {geometry.geom_type for geometry in geometries}
    columns = [np.array(values) for values in attributes.values()]
    texts = [column.astype(object) if column.dtype.kind == "U" else column for column in columns]
    with atomic_path(path) as temporary, plain_path(temporary) as plain:
        temporary.unlink()  # GDAL makes the file itself
        vector_library().raw.write(
            plain,
            shapes,
            texts,
            list(attributes),
            geometry_type=kinds.pop() if len(kinds) == 1 else "Unknown",
            layer=Path(path).stem,
            crs=crs,
        )
