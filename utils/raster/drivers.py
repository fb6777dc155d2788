"""Which formats GDAL may open here, and that a file can never make it use the network.

A file's content, not its name, decides what GDAL takes it for: a picture may hold the address of a map server, and a
label a list of other data sources. So only drivers that read the file itself are kept, and requests over the network
are switched off. This module is imported before any use of GDAL in the process, as GDAL reads these settings once.
"""

from __future__ import annotations

import functools
import glob
import json
import logging
import mmap
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from utils.errors import DataError

logger = logging.getLogger(__name__)

_RASTERS = (
    "GTiff COG PNG JPEG JPEGXL WEBP AVIF HEIF BMP GIF BIGGIF JP2OpenJPEG JP2KAK JP2ECW JP2MrSID JP2Lura ECW MrSID HFA "
    "ENVI EHdr AAIGrid GRASSASCIIGrid PNM TGA SGI NITF RMF RST SAGA SRTMHGT USGSDEM DTED BT Terragen netCDF "
    "GRIB GPKG SNAP_TIFF LAN GSAG GSBG GS7BG RRASTER"
)
RASTER_DRIVERS = _RASTERS.split()
VECTOR_DRIVERS = (
    *("GPKG", "GeoJSON", "GeoJSONSeq", "TopoJSON", "ESRIJSON", "ESRI Shapefile", "FlatGeobuf", "OpenFileGDB", "SQLite"),
    *("KML", "LIBKML", "GML", "GPX", "CSV", "MapInfo File", "DXF", "DGN", "OGR_GMT", "Parquet", "Arrow"),
)

# The rest of GDAL's drivers: services, indirections that name other files, containers of documents, products that are
# spread over several files whose main file names the others. VRT stays, as `utils.raster.vrt` looks into it first.
_SKIPPED = (
    "ACE2 ADBC ADRG AIG AirSAR AIVector AmigoCloud AVCBin AVCE00 BAG BLX BSB BYN CAD CALS Carto CEOS COASP COSAR "
    "CPG CSW CTable2 CTG DAAS DERIVED DIMAP DIPEx DODS DOQ1 DOQ2 ECRGTOC EDIGEO EEDA EEDAI EIR ELAS Elasticsearch "
    "ERS ESAT ESRIC FAST FIT FITS GDALG GenBin GeoRSS GFF GMLAS GNMDatabase GNMFile GPSBabel GSC GTFS GTI GTX GXF "
    "HANA HDF4 HDF4Image HDF5 HDF5Image HF2 HTTP IDB Idrisi ILWIS INGRES Interlis IRIS ISCE ISG ISIS2 ISIS3 "
    "JAXAPALSAR JDEM JML JSONFG KEA KMLSUPEROVERLAY KRO L1B LCP Leveller LIBERTIFF LOSLAS LVBAG MAP MapML MBTiles "
    "MFF MFF2 MiraMonRaster MiraMonVector MongoDB MongoDBv3 MRF MSGN MSSQLSpatial MVT MySQL NAS NDF NGSGEOID NGW "
    "NOAA_B NSIDCbin NTv2 NWT_GRC NWT_GRD OAPIF OCI ODBC ODS OGCAPI OGR_OGDI OGR_PDS OGR_SDTS OGR_VRT OSM OZI PAux "
    "PCIDSK PCRaster PDF PDS PDS4 PGDUMP PGeo PLMOSAIC PLSCENES PMTiles PostGISRaster PostgreSQL PRF R Rasterlite "
    "RIK ROI_PAC RPFTOC RS2 S102 S104 S111 S57 SAFE SAR_CEOS SDTS Selafin SENTINEL2 SIGDEM SNODAS SOSI SRP "
    "STACIT STACTA SXF TIL TileDB TSX VDV VFK VICAR WAsP WCS WFS WMS WMTS XLS XLSX XODR XPM XYZ Zarr ZMap "
)

# Also line ends and tabs, which it drops, and bytes that are no UTF-8.
_PARSED = re.compile("[!;\\x00-\\x1f\\x7f\\ud800-\\udfff]")
_CRS = re.compile(rb'"(?:c|\\u0063)(?:r|\\u0072)(?:s|\\u0073)"\s*:\s*(?=[{/])', re.IGNORECASE)  # also as escapes
_OBJECT = json.JSONDecoder(strict=False)
_TOKEN = re.compile(  # a text, a key, a brace; GDAL also reads comments
    rb'"((?:[^"\\]++|\\.)*+)"(\s*+:)?|([{}])|/\*.*?\*/|//[^\n]*+', re.DOTALL
)
_DEEPEST = 1000  # objects within each other; GDAL refuses 32

_WARNING = threading.RLock()  # what catches warnings acts on all threads
_NUMBERS = "Several features with id"  # which nothing here goes by

NO_NETWORK = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # of /vsicurl/ and the file systems of clouds
    "GDAL_HTTP_PROXY": "none://files-may-not-open-the-network",  # refused by curl before it looks any name up
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_PYTHON_DRIVER_PATH": os.devnull,  # no drivers in Python beside the data
}


def shut_gdal_in() -> None:
    """Set what GDAL reads at its first use in this process and its children; settings of the user's own are kept.

    Examples
    --------
    >>> shut_gdal_in()
    >>> "WMS" in os.environ["GDAL_SKIP"].split(), "GTiff" in os.environ["GDAL_SKIP"].split()
    (True, False)
    """
    theirs = os.environ.get("GDAL_SKIP", "").replace(",", " ").split()
    os.environ["GDAL_SKIP"] = " ".join(dict.fromkeys([*theirs, *_SKIPPED.split()]))
    os.environ.update(NO_NETWORK)
    os.environ.setdefault("CPL_LOG", os.devnull)  # a line on stderr for each driver that this build of GDAL lacks


def vector_library() -> ModuleType:
    """The library for vector files, with the drivers above only.

    Examples
    --------
    >>> "GPKG" in vector_library().list_drivers(), "WFS" in vector_library().list_drivers()
    (True, False)
    """
    import pyogrio
    import pyogrio.errors
    import pyogrio.raw

    return pyogrio


@contextmanager
def plain_path(path: str | Path) -> Iterator[Path]:
    """Give a path that the library for vector files passes on to GDAL as it is.

    It takes `!` for the border of an archive and drops what stands behind `;`, so that a label is not found and a
    result is aimed at the root of the file system. Such a file and those beside it are linked in a folder of their own.

    Parameters
    ----------
    path : str or Path
        A file that is read or written.

    Yields
    ------
    Path
        The same file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a!b;c.geojson"
    >>> with plain_path(path) as plain:
    ...     _ = plain.write_text("{}")
    >>> plain.name, path.read_text()
    ('a_b_c.geojson', '{}')
    """
    absolute = Path("/" + os.path.abspath(path).lstrip("/"))
    if not _PARSED.search(str(absolute)):
        with relayed_warnings(path):
            yield absolute
        return
    with tempfile.TemporaryDirectory(prefix="dinolith-") as folder, relayed_warnings(path):
        plain = Path(folder, _PARSED.sub("_", absolute.name))
        beside = glob.glob(glob.escape(str(absolute.with_suffix(""))) + ".*")
        for file in {str(absolute), *beside}:
            os.symlink(file, Path(folder, _PARSED.sub("_", Path(file).name)))
        yield plain


@contextmanager
def relayed_warnings(path: str | Path) -> Iterator[None]:
    """Log what GDAL warns of in a vector file, once and with the file's name; it would go past the log without it.

    Parameters
    ----------
    path : str or Path
        The file.

    Examples
    --------
    >>> from utils.logging import VerbosityLogger, listening
    >>> with listening(VerbosityLogger(), "utils"):
    ...     for _ in range(2):
    ...         with relayed_warnings("relayed.geojson"):
    ...             warnings.warn("Non closed ring detected", RuntimeWarning)
    [WARNING] relayed.geojson: GDAL warns: Non closed ring detected
    """
    with _WARNING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if not issubclass(warning.category, RuntimeWarning):  # of another library, in another thread
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif _NUMBERS not in str(warning.message):
            _tell(str(path), str(warning.message))


@functools.lru_cache(maxsize=1024)
def _tell(path: str, text: str) -> None:
    """Log a warning of GDAL, once.

    Examples
    --------
    >>> _tell("told.geojson", "Non closed ring detected")
    """
    logger.warning("%s: GDAL warns: %s", path, text)


def refuse_linked_crs(path: str | Path) -> None:
    """Refuse a GeoJSON whose CRS lies elsewhere: GDAL would ask that address, or take degrees for what is none.

    Parameters
    ----------
    path : str or Path
        A vector file of any format.

    Raises
    ------
    DataError
        When it has a `crs` of type "link" or one that is not JSON, or a key occurs twice in one of its objects.

    Examples
    --------
    >>> file = Path(tempfile.mkdtemp()) / "a.geojson"
    >>> _ = file.write_text('{"crs": {"type": "link", "properties": {"href": "http://example.org/crs"}}}')
    >>> refuse_linked_crs(file)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.geojson: its crs is a link to http://example.org/crs, and files may not open the ...
    """
    with open(path, "rb") as stream:
        start = stream.read(1024).lstrip(b"\xef\xbb\xbf\x1e \t\r\n")
        if not start.startswith((b"{", b"[", b"loadGeoJSON(", b"jsonp(")):  # GDAL takes such a call for its argument
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _refuse_repeated_keys(path, content)
            for found in _CRS.finditer(content):
                crs = _read_object(content, found.end(), (2**10, 2**16, len(content)))
                if crs is None:
                    raise DataError(
                        f"{path}: its crs (at byte {found.start()}) is not JSON; write it anew, or remove it where the "
                        "coordinates are degrees"
                    )
                properties = crs.get("properties") if isinstance(crs, dict) else None
                if isinstance(properties, dict) and str(crs.get("type", "")).lower() == "name":
                    refuse_unknown_crs(path, str(properties.get("name", "")))
                if isinstance(crs, dict) and str(crs.get("type", "")).lower() in ("link", "url"):
                    href = str(properties.get("href", "?") if isinstance(properties, dict) else "?")
                    raise DataError(
                        f"{path}: its crs is a link to {href[:200]}, and files may not open the network; write the CRS "
                        "into the file (ogr2ogr -a_srs EPSG:CODE)"
                    )


def _refuse_repeated_keys(path: str | Path, content: bytes | mmap.mmap) -> None:
    r"""Refuse JSON in which a key occurs twice in one object, of which GDAL would take the last without a word.

    Parameters
    ----------
    path : str or Path
        Named in the error.
    content : bytes or mmap
        Of any size: only the keys of the objects that are open at a place are held.

    Raises
    ------
    DataError
        When one does.

    Examples
    --------
    >>> _refuse_repeated_keys("a.geojson", b'[{"a": {"a": "{"}}, {"a": 1, "b": "a"}]')
    >>> _refuse_repeated_keys("a.geojson", b'{"properties": {"class": "a"}, "propertie\\u0073": {}}')
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.geojson: at byte 31: the key 'properties' is a duplicate in one object; keep one of them
    """
    objects: list[set[str]] = []
    for token in _TOKEN.finditer(content):
        if token.lastindex == 2 and objects:
            key = token[1].decode("utf-8", "replace")
            if "\\" in key:
                key = str(_OBJECT.decode(f'"{key}"'))
            if key in objects[-1]:
                where = f"{path}: at byte {token.start()}"
                raise DataError(f"{where}: the key {key[:60]!r} is a duplicate in one object; keep one of them")
            objects[-1].add(key)
        elif token.lastindex == 3 and token[3] == b"{":
            objects.append(set())
            if len(objects) > _DEEPEST:
                raise DataError(f"{path}: more than {_DEEPEST} objects within each other; the file is damaged")
        elif token.lastindex == 3 and objects:
            objects.pop()


def _read_object(content: mmap.mmap, start: int, sizes: Sequence[int]) -> Any:
    """Read an object of a JSON file from a byte on, of as many bytes as the largest of `sizes`; None where it is none.

    Examples
    --------
    >>> with mmap.mmap(-1, 64) as content:
    ...     _ = content.write(b'"crs": {"type": "name"}, "features": []')
    ...     _read_object(content, 7, [64]), _read_object(content, 7, [9])
    ({'type': 'name'}, None)
    """
    for size in sizes:
        text = content[start : start + size].decode("utf-8", "replace")
        try:
            return _OBJECT.raw_decode(text)[0]
        except (ValueError, RecursionError):
            continue
    return None


def refuse_unknown_crs(path: str | Path, name: str) -> None:
    """Refuse a CRS that PROJ does not know: GDAL would take WGS 84 in its place.

    Raises
    ------
    DataError
        When it is unknown.

    Examples
    --------
    >>> refuse_unknown_crs("a.geojson", "urn:ogc:def:crs:OGC:1.3:CRS84")
    >>> refuse_unknown_crs("a.geojson", "EPSG:99999")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.geojson: its crs is named 'EPSG:99999', which is unknown; correct it, or write the CRS ...
    """
    if name.upper().endswith("CRS84"):  # PROJ knows it by its whole name only
        return
    from rasterio.crs import CRS  # not before `shut_gdal_in`
    from rasterio.errors import CRSError

    try:
        CRS.from_user_input(name)
    except CRSError:
        raise DataError(
            f"{path}: its crs is named {name[:200]!r}, which is unknown; correct it, or write the CRS into the file "
            "(ogr2ogr -a_srs EPSG:CODE)"
        ) from None


shut_gdal_in()
