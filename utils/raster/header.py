"""Headers of raster and picture files: size, place, types and nodata, before any pixel is decoded.

GDAL reads them; where it cannot, tifffile does.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rasterio
from affine import Affine
from rasterio.crs import CRS

from utils.errors import DataError
from utils.media.orientation import picture_orientation
from utils.media.picture_sizes import refuse_frames
from utils.raster.gdal import FileKey, file_key, gdal_errors, open_raster, refuse_other_encoding
from utils.raster.grids import PixelGrid
from utils.raster.placement import read_place
from utils.raster.vrt import virtual_sources

if TYPE_CHECKING:
    import tifffile

logger = logging.getLogger(__name__)

_PICTURE_DRIVERS = frozenset({"PNG", "JPEG", "WEBP", "BMP", "GIF"})  # decoded from the top: no random access
_MOVING_DRIVERS = frozenset({"PNG", "WEBP", "GIF", "BIGGIF"})
_TURNED_DRIVERS = frozenset({"PNG", "JPEG", "WEBP", "GTiff"})  # whose pictures may be stored turned
_PAGE = re.compile(r"Page \d+ \((?P<width>\d+)P x (?P<height>\d+)L ")  # GDAL's description of a page
_MOST_BANDS = 4096  # hyperspectral scenes have hundreds; GDAL reads for minutes what claims tens of thousands
_BLOCK_DRIVERS = frozenset({"GTiff", "COG", "tifffile", "VRT"})  # whose files say which blocks are there
_SHARING = 100  # blocks that are one and the same bytes: no picture is as uniform
_LARGE_BLOCK = 2**22  # pixels; larger blocks push each other out of GDAL's cache and are decoded again and again


@dataclass(frozen=True)
class RasterHeader:
    """What a file says about itself before any pixel is decoded.

    Parameters
    ----------
    path : str
        The file.
    driver : str
        GDAL's driver, or "tifffile" for a TIFF that GDAL cannot read.
    grid : PixelGrid
        Size, CRS and transform, after a photo's EXIF orientation.
    dtypes : tuple of str
        Type of each band.
    nodata : tuple of float or None
        Value of each band that stands for nothing.
    block : (int, int)
        Height and width of the pieces that are decoded at a time.
    tiled : bool
        Whether a window can be read without the rows beside it.
    alpha : int or None
        The band, counted from 1, that holds opacity.
    masked : bool
        Whether the file has a mask besides.
    palette : tuple of (red, green, blue, alpha) or None
        Colours of the values of a single band.
    orientation : int
        EXIF orientation of a photo, 1 for upright.
    bits : int, optional
        Of each value, where a type of more bits holds them.
    white_is_zero : bool
        Whether viewers show 0 as white (TIFF's WhiteIsZero).
    unplaced : str, optional
        How the file says where it lies, where that is no transform, and what to do.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = raster_file("a.tif", np.zeros((4, 6, 3), np.uint16), nodata=0)
    >>> header = read_header(path)
    >>> header.dtypes, header.nodata, header.tiled, header.whole
    (('uint16', 'uint16', 'uint16'), (0.0, 0.0, 0.0), False, False)
    """

    path: str
    driver: str
    grid: PixelGrid
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    block: tuple[int, int]
    tiled: bool
    alpha: int | None = None
    masked: bool = False
    palette: tuple[tuple[int, int, int, int], ...] | None = None
    orientation: int = 1
    bits: int | None = None
    white_is_zero: bool = False
    unplaced: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the file is decoded at once and kept: its parts cannot be had alone, or it is to be turned.

        Examples
        --------
        >>> grid = PixelGrid(4, 6, None, Affine.identity())
        >>> RasterHeader("a", "PNG", grid, ("uint8",), (None,), (1, 6), False).whole
        True
        """
        at_once = self.driver in _PICTURE_DRIVERS or self.driver == "tifffile" or self.orientation != 1
        return at_once or math.prod(self.block) > _LARGE_BLOCK

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width before the picture is turned upright.

        Examples
        --------
        >>> grid = PixelGrid(4, 6, None, Affine.identity())
        >>> RasterHeader("a", "PNG", grid, ("uint8",), (None,), (1, 6), False, orientation=6).stored_size
        (6, 4)
        """
        size = (self.grid.height, self.grid.width)
        return size[::-1] if self.orientation > 4 else size

    @property
    def colour_bands(self) -> tuple[int, ...]:
        """The bands, counted from 1, that are not opacity.

        Examples
        --------
        >>> grid = PixelGrid(4, 6, None, Affine.identity())
        >>> RasterHeader("a", "PNG", grid, ("uint8",) * 2, (None,) * 2, (1, 6), False, alpha=2).colour_bands
        (1,)
        """
        return tuple(band for band in range(1, len(self.dtypes) + 1) if band != self.alpha)


def read_header(path: str | Path) -> RasterHeader:
    """Read what a file says about itself, with GDAL or, where that fails, tifffile.

    Parameters
    ----------
    path : str or Path
        A raster or picture.

    Raises
    ------
    DataError
        If there is no such file, neither library can open it, or its values are complex numbers.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = raster_file("a.png", np.zeros((4, 6, 4), np.uint8))
    >>> header = read_header(path)
    >>> header.driver, header.alpha, header.colour_bands, header.whole
    ('PNG', 4, (1, 2, 3), True)
    """
    return _read_header(file_key(str(path)))


@functools.lru_cache(maxsize=4096)
def _read_header(key: FileKey) -> RasterHeader:
    """The header of one version of a file.

    Raises
    ------
    DataError
        When there is no such file, it cannot be read, a source of a VRT is missing, it has several pages or frames or
        no block of pixels, claims very many bands, or its values are complex numbers.

    Examples
    --------
    >>> _read_header(("/no/such.tif", -1, -1, 0))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such.tif: no such file
    """
    path = key[0]
    if key[1] < 0 and not path.startswith("/vsimem/"):
        raise DataError(f"{path}: no such file")
    refuse_other_encoding(path)  # before tifffile reads what GDAL cannot: the prediction would have the same name
    try:
        with gdal_errors(path, "opened"):
            header = _header_of_dataset(path, open_raster(path))
    except DataError as error:
        refused = error.__cause__ is None  # GDAL could have read it
        if refused or Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise
        header = _header_of_tiff(path, error)
    if header.driver == "GTiff":
        _refuse_pages(path, _page_sizes(open_raster(path)))
    if header.driver in _MOVING_DRIVERS and os.path.isfile(path):
        with open(path, "rb") as stream:
            refuse_frames(stream, path)
    if header.driver in _BLOCK_DRIVERS and os.path.isfile(path):
        _refuse_empty(header)
        _tell_absent(header)
    if len(header.dtypes) > _MOST_BANDS:
        raise DataError(
            f"{path}: claims {len(header.dtypes)} bands, expected at most {_MOST_BANDS}; it may be damaged: copy it "
            "again, or write the bands you need to a new raster"
        )
    if any(dtype.startswith("complex") for dtype in header.dtypes):
        raise DataError(
            f"{path}: values are complex numbers ({header.dtypes[0]}); write their amplitude to a new raster"
        )
    return header


def _page_sizes(dataset: rasterio.DatasetReader) -> list[tuple[int, int]]:
    """Height and width of each page of a TIFF, without its overviews and masks; empty for one page.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> with rasterio.open(raster_file("a.tif", np.zeros((4, 6), np.uint8))) as dataset:
    ...     _page_sizes(dataset)
    []
    """
    texts = dataset.tags(ns="SUBDATASETS").values()
    return [(int(match["height"]), int(match["width"])) for match in map(_PAGE.match, texts) if match is not None]


def _refuse_pages(path: str, sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse a TIFF of several pages of which another could be meant; smaller ones, such as previews, are told.

    Raises
    ------
    DataError
        If a page after the first one is as large as it is.

    Examples
    --------
    >>> _refuse_pages("a.tif", [(400, 600), (40, 60)])
    >>> _refuse_pages("a.tif", [(4, 6), (4, 6)])
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: a TIFF of 2 pages, of which page 2 is as large as page 1; expected one picture: ...
    """
    large = next((page for page, size in enumerate(sizes[1:], start=2) if math.prod(size) >= math.prod(sizes[0])), None)
    if large is not None:
        raise DataError(
            f"{path}: a TIFF of {len(sizes)} pages, of which page {large} is as large as page 1; expected one picture: "
            f"write each page to its own file (gdal_translate GTIFF_DIR:{large}:{path} PAGE.tif)"
        )
    if len(sizes) > 1:
        logger.warning("%s: a TIFF of %d pages; page 1, the largest, is read", path, len(sizes))


def _places_of_blocks(path: str) -> list[tuple[int, int]]:
    """Offset and length in bytes of each block of a TIFF's first page; empty where tifffile does not understand it.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> [length for _, length in _places_of_blocks(raster_file("a.tif", np.zeros((4, 6), np.uint8), blockysize=2))]
    [12, 12]
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as stream:
            page = stream.pages.first
            return [*zip(page.dataoffsets, page.databytecounts, strict=True)]
    except Exception:  # no TIFF, or one that only GDAL understands: it says what it cannot read when it does
        return []


def _why_empty(places: Sequence[tuple[int, int]]) -> str:
    """Say why a TIFF holds no data, by the offset and length of each block; empty where it may hold some.

    Examples
    --------
    >>> _why_empty([(0, 0), (0, 0)]), _why_empty([(0, 0), (8, 12)]), _why_empty([(8, 12)] * 500)
    ('none of its 2 blocks is there', '', 'its 500 blocks are the same 1 again and again')
    """
    present = [place for place in places if all(place)]
    if places and not present:
        return f"none of its {len(places)} blocks is there"
    different = len(set(present))
    if present and different * _SHARING <= len(present):
        return f"its {len(present)} blocks are the same {different} again and again"
    return ""


def _refuse_empty(header: RasterHeader) -> None:
    """Refuse a raster that claims pixels of which none is there: it would be read and predicted for hours.

    Raises
    ------
    DataError
        If it is a TIFF without blocks, or a VRT without sources or of such TIFFs only.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = Path(raster_file("a.tif", np.zeros((4, 6), np.uint8))).with_suffix(".vrt")
    >>> _ = path.write_text('<VRTDataset rasterXSize="90" rasterYSize="80"><VRTRasterBand band="1"/></VRTDataset>')
    >>> read_header(path)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.vrt: 80 x 90 pixels (height x width), but it names no source of pixels: it holds ...
    """
    virtual = header.driver == "VRT"
    files = virtual_sources(header.path) if virtual else [Path(header.path)]
    why = "it names no source of pixels"
    for file in files:
        why = _why_empty(_places_of_blocks(str(file)))
        if not why:
            return
    where = f" (source {files[0]})" if virtual and files else ""
    raise DataError(
        f"{header.path}: {header.grid.height} x {header.grid.width} pixels (height x width), but {why}{where}: it "
        "holds no data; copy or export it again, or leave it out"
    )


def _tell_absent(header: RasterHeader) -> None:
    """Tell what the absent blocks of a sparse TIFF are read as.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8))
    >>> _tell_absent(read_header(path))
    """
    places = _places_of_blocks(header.path)
    absent = sum(not all(place) for place in places)
    hidden = header.alpha is not None or header.masked or all(value is not None for value in header.nodata)
    if absent and hidden:
        logger.info("%s: %d of %d blocks are absent, and count as nodata", header.path, absent, len(places))
    elif absent:
        logger.warning(
            "%s: %d of %d blocks are absent, and are read as 0, as data: the file declares no nodata; if they hold "
            "nothing, declare it (gdal_edit.py -a_nodata 0)",
            header.path,
            absent,
            len(places),
        )


def _header_of_dataset(path: str, dataset: rasterio.DatasetReader) -> RasterHeader:
    """Take the facts out of GDAL's handle.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> with rasterio.open(path) as dataset:
    ...     _header_of_dataset(path, dataset).grid.bounds
    (8.0, 1.0, 20.0, 9.0)
    """
    flags = [flag.name for band in dataset.mask_flag_enums for flag in band]
    colours = [colour.name for colour in dataset.colorinterp]
    orientation = _orientation(path, dataset)
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "") if dataset.count else ""
    size = (dataset.height, dataset.width) if orientation < 5 else (dataset.width, dataset.height)
    crs, transform, unplaced = read_place(dataset)
    # of a JPEG 2000 file GDAL would walk through the whole code stream for it, through a damaged one for minutes
    structure = dataset.tags(ns="IMAGE_STRUCTURE") if dataset.driver == "GTiff" else {}
    return RasterHeader(
        path=path,
        driver=dataset.driver,
        grid=PixelGrid(*size, crs, transform),
        dtypes=tuple(dataset.dtypes),
        nodata=dataset.nodatavals,
        block=max(dataset.block_shapes, key=math.prod),
        tiled=all(width < dataset.width for _, width in dataset.block_shapes) or dataset.driver == "VRT",
        alpha=colours.index("alpha") + 1 if "alpha" in colours else None,
        masked="per_dataset" in flags and "alpha" not in flags,
        palette=_palette(dataset) if colours == ["palette"] else None,
        orientation=orientation,
        bits=int(bits) if bits.isdigit() else None,
        white_is_zero=structure.get("MINISWHITE") == "YES",
        unplaced=unplaced,
    )


def _orientation(path: str, dataset: rasterio.DatasetReader) -> int:
    """EXIF orientation of a photo, 1 where it has none or has a place on Earth.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = raster_file("a.jpg", np.zeros((4, 6, 3), np.uint8))
    >>> with rasterio.open(path) as dataset:
    ...     _orientation(path, dataset)
    1
    """
    placed = dataset.crs is not None or not dataset.transform.is_identity or bool(dataset.gcps[0])
    if placed or dataset.driver not in _TURNED_DRIVERS or not Path(path).is_file():
        return 1
    return picture_orientation(path)


def _palette(dataset: rasterio.DatasetReader) -> tuple[tuple[int, int, int, int], ...]:
    """The colours of a paletted raster, opaque black where none is given.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = raster_file("a.png", np.zeros((4, 6), np.uint8), palette={1: (9, 8, 7)})
    >>> with rasterio.open(path) as dataset:
    ...     _palette(dataset)[1]
    (9, 8, 7, 255)
    """
    colours = dataset.colormap(1)
    return tuple(tuple(colours.get(value, (0, 0, 0, 255))) for value in range(max(256, max(colours) + 1)))


def _header_of_tiff(path: str, reason: DataError) -> RasterHeader:
    """Read the header of a TIFF with tifffile, after GDAL gave up for `reason`.

    Raises
    ------
    DataError
        `reason`, when tifffile does not understand the file either; or that it holds something else than a picture.

    Examples
    --------
    >>> _header_of_tiff("/no/such.tif", DataError("GDAL's message"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: GDAL's message
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as stream:
            page = stream.pages.first
            axes = "".join(axis for axis, size in zip(page.axes, page.shape, strict=True) if axis in "YXSC" or size > 1)
            size = dict(zip(page.axes, page.shape, strict=True))
            crs, transform = _georeference_of_tiff(path, page)
            orientation = 1 if crs is not None else picture_orientation(path)
            height, width = (size["X"], size["Y"]) if orientation > 4 else (size["Y"], size["X"])
            grid = PixelGrid(height, width, crs, transform)
            white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            others = [other for other in stream.pages if isinstance(other, tifffile.TiffPage)]
            pages = [(o.imagelength, o.imagewidth) for o in others if not o.is_reduced and not o.is_mask]
            nodata = page.tags.valueof("GDAL_NODATA")
            dtype = page.dtype
    except Exception as error:  # whatever it stumbles over
        raise reason from error
    if axes not in ("YX", "YXS", "SYX") or dtype is None:
        raise DataError(f"{path}: a TIFF with axes {axes} is not a picture; expected rows, columns and bands")
    _refuse_pages(path, pages)
    count = size.get("S", 1)
    return RasterHeader(
        path=path,
        driver="tifffile",
        grid=grid,
        dtypes=(dtype.name,) * count,
        nodata=(None if nodata is None else float(str(nodata).strip("\x00 ")),) * count,
        block=(grid.height, grid.width),
        tiled=False,
        orientation=orientation,
        white_is_zero=white_is_zero,
    )


def _georeference_of_tiff(path: str, page: tifffile.TiffPage) -> tuple[CRS | None, Affine]:
    """CRS and transform from a page's GeoTIFF keys.

    Raises
    ------
    DataError
        If the keys give a place in a way that is not understood here: losing it in silence would misplace labels.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> keys = {"ModelPixelScale": [2, 3, 0], "ModelTiepoint": [0, 0, 0, 8, 9, 0], "ProjectedCSTypeGeoKey": 32631}
    >>> crs, transform = _georeference_of_tiff("a.tif", SimpleNamespace(geotiff_tags=keys))
    >>> crs.to_epsg(), tuple(transform)[:6]
    (32631, (2.0, 0.0, 8.0, 0.0, -3.0, 9.0))
    """
    keys = page.geotiff_tags
    if not keys:
        return None, Affine.identity()
    code = int(keys.get("ProjectedCSTypeGeoKey", keys.get("GeographicTypeGeoKey", 32767)))
    if code == 32767 or "ModelPixelScale" not in keys or "ModelTiepoint" not in keys:
        raise DataError(
            f"{path}: GDAL cannot read this TIFF and its georeference has no EPSG code; convert it to GeoTIFF"
        )
    step_x, step_y = (float(step) for step in keys["ModelPixelScale"][:2])
    column, row, _, x, y = (float(value) for value in keys["ModelTiepoint"][:5])
    return CRS.from_epsg(code), Affine(step_x, 0, x - column * step_x, 0, -step_y, y + row * step_y)
