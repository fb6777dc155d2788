"""What a label file is that is in no format that is read, and the command that converts it."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Iterable
from pathlib import Path

from utils.errors import DataError

READ = "GeoPackage, GeoJSON, Shapefile, FlatGeobuf, KML, GML, or a raster"
_ARCHIVES = {".zip": "/vsizip/", ".tar": "/vsitar/", ".tgz": "/vsitar/", ".gz": "/vsigzip/", ".7z": "", ".rar": ""}
_TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
_VECTORS = {
    ".tab": "a MapInfo table",
    ".mif": "a MapInfo file",
    ".dxf": "a drawing (DXF)",
    ".dwg": "a drawing (DWG)",
    ".dgn": "a drawing (DGN)",
    ".kmz": "a packed KML",
    ".gpx": "tracks of a receiver (GPX)",
    ".osm": "a part of OpenStreetMap",
    ".pbf": "a part of OpenStreetMap",
    ".topojson": "TopoJSON",
    ".gmt": "a GMT file",
    ".gdb": "a file geodatabase",
    ".mdb": "a personal geodatabase",
    ".e00": "an ArcInfo coverage",
    ".parquet": "GeoParquet",
    ".geoparquet": "GeoParquet",
    ".arrow": "GeoArrow",
    ".feather": "GeoArrow",
}
SUFFIXES = (*_ARCHIVES, *_TABLES, *_VECTORS)
_OBJECTS = {  # JSON by two of its keys
    (b'"annotations"', b'"images"'): "COCO annotations",
    (b'"shapes"', b'"imagePath"'): "a LabelMe file",
}
_PEEK = 2**16
_PLACE_COLUMNS = ("wkt", "wkt_geom", "geom", "geometry", "the_geom")
_X_COLUMNS = ("x", "lon", "lng", "long", "longitude", "easting")


def describe_other_labels(path: Path) -> str | None:
    """Say what a label file is that is not read, and how it is converted; None where it may be one that is.

    Parameters
    ----------
    path : Path
        A file, or the folder of a geodatabase.

    Examples
    --------
    >>> describe_other_labels(Path("plots.tab"))
    'a MapInfo table, which is not read; convert it: ogr2ogr -f GPKG plots.gpkg plots.tab'
    >>> describe_other_labels(Path("plots.tif")) is None
    True
    """
    suffix = path.suffix.lower()
    convert = f"convert it: ogr2ogr -f GPKG {shlex.quote(path.stem)}.gpkg"
    if suffix in _VECTORS:
        return f"{_VECTORS[suffix]}, which is not read; {convert} {shlex.quote(str(path))}"
    if suffix in _TABLES:
        return f"a table, which is not read; {convert} {shlex.quote(str(path))} {_table_options(path)}"
    if suffix in _ARCHIVES or (path.is_file() and zipfile.is_zipfile(path)):
        system = _ARCHIVES.get(suffix, "/vsizip/")
        other = f", or {convert} {shlex.quote(system + str(path.absolute()))}" if system else ""
        return f"an archive, which is not read; unpack it and name the file in it{other}"
    return _describe_json(path) if suffix == ".json" and path.is_file() else None


def _table_options(path: Path) -> str:
    r"""Options with which GDAL finds the places in a table.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("kind,lat,lon\nfield,3,4\n")
    >>> _table_options(path)
    '-oo X_POSSIBLE_NAMES=lon -oo Y_POSSIBLE_NAMES=lat -a_srs EPSG:CODE'
    """
    names: list[str] = []
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        with open(path, "rb") as stream:
            line = stream.read(_PEEK).decode("utf-8-sig", errors="replace").partition("\n")[0]
        names = [name.strip(' "\r') for name in line.replace(";", ",").replace("\t", ",").split(",")]
    known = {name.lower(): name for name in names}
    place = next((known[name] for name in _PLACE_COLUMNS if name in known), None)
    x = next((known[name] for name in _X_COLUMNS if name in known), None)
    if place is None and x is not None:
        y = known.get({"x": "y", "easting": "northing"}.get(x.lower(), ""))
        y = y or next((name for name in names if name.lower().startswith("lat")), "Y")
        return f"-oo X_POSSIBLE_NAMES={shlex.quote(x)} -oo Y_POSSIBLE_NAMES={shlex.quote(y)} -a_srs EPSG:CODE"
    return f"-oo GEOM_POSSIBLE_NAMES={shlex.quote(place or 'COLUMN_WITH_WKT')} -a_srs EPSG:CODE"


def _describe_json(path: Path) -> str | None:
    """What a JSON file is that holds labels of objects in pictures.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> _ = path.write_text('{"version": "5.5.0", "shapes": [], "imagePath": "a.png"}')
    >>> _describe_json(path)
    'a LabelMe file, not read as the label of a picture that has its name; name the whole set in paths.label_path, ...'
    """
    with open(path, "rb") as stream:
        start = stream.read(_PEEK)
        stream.seek(max(path.stat().st_size - _PEEK, 0))
        text = start + stream.read()  # the keys may stand before or behind long lists
    for keys, kind in _OBJECTS.items():
        if all(key in text for key in keys) and b'"FeatureCollection"' not in text:
            return (
                f"{kind}, not read as the label of a picture that has its name; name the whole set in "
                "paths.label_path, without dataset.label_pattern"
            )
    return None


def refuse_other_labels(paths: Iterable[Path]) -> None:
    """Refuse label files that are in no format that is read.

    Raises
    ------
    DataError
        For the first of them.

    Examples
    --------
    >>> refuse_other_labels([Path("a.tif"), Path("plots.dxf")])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: plots.dxf: a drawing (DXF), which is not read; convert it: ogr2ogr -f GPKG plots.gpkg \
plots.dxf; labels are GeoPackage, GeoJSON, Shapefile, FlatGeobuf, KML, GML, or a raster
    """
    for path in paths:
        text = describe_other_labels(path)
        if text is not None:
            raise DataError(f"{path}: {text}; labels are {READ}")
