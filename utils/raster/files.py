"""Raster and picture files: windows of their values as they are, checks for damage, and writing small ones.

GDAL reads them; where it cannot, tifffile does. A picture without random access is decoded once for all its windows,
and only within a bound. Nothing here scales, resamples or colours a value: `utils.raster.scenes` does.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from PIL.PngImagePlugin import ChunkStream
from rasterio.crs import CRS

from utils.errors import DataError
from utils.media.picture_sizes import MAX_PIXELS
from utils.raster.gdal import file_key, gdal_errors, local_path, open_raster
from utils.raster.header import RasterHeader, read_header
from utils.raster.tiling import Window
from utils.runtime.files import atomic_path
from utils.runtime.reading import file_errors
from utils.runtime.recent import Recent

if TYPE_CHECKING:
    pass


PICTURE_CACHE_BYTES = 2**28

_BOMB_RATIO = 1000  # deflate's best: more bytes than this per byte of the file are not possible
_TILE_ENTRY = 6  # bytes in which a file says where a tile lies and how long it is, at least
_MOST_DISTANT = 1e12  # map units from the origin: the orbit of the Moon in millimetres


@dataclass(frozen=True)
class RawBlock:
    """Values of a window as the file holds them.

    Parameters
    ----------
    values : array, shape (bands, height, width)
        In the file's type.
    missing : bool array, shape (bands, height, width), or None
        Where a value is its band's nodata, or not a number; None when there is none.
    hidden : bool array, shape (height, width), or None
        Where the file's mask or opacity is 0.

    Examples
    --------
    >>> RawBlock(np.zeros((1, 2, 3)), None, None).values.shape
    (1, 2, 3)
    """

    values: np.ndarray
    missing: np.ndarray | None
    hidden: np.ndarray | None


class RasterFile:
    """Windows of one file, whichever library reads it. Holds no handle: it can be pickled and crosses forks.

    Parameters
    ----------
    path : str or Path
        A raster or picture.
    max_pixels : int
        Largest picture that is decoded at once; rasters in tiles or strips may have any size.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.arange(24, dtype=np.uint8).reshape(4, 6))
    >>> RasterFile(path).read(Window(1, 2, 2, 3), [1]).values.tolist()
    [[[8, 9, 10], [14, 15, 16]]]
    """

    def __init__(self, path: str | Path, max_pixels: int = MAX_PIXELS):
        self.path = str(path)
        self.max_pixels = max_pixels

    @property
    def header(self) -> RasterHeader:
        """The file's facts, checked against the guard before anything is decoded.

        Raises
        ------
        DataError
            If the file cannot be opened or has more pixels than allowed.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.png", np.zeros((4, 6), np.uint8))
        >>> RasterFile(path, max_pixels=20).header
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...a.png: 4 x 6 pixels (height x width), more than max_pixels 20 for a picture that ...
        """
        with file_errors(self.path, "cannot be read as a raster or picture"):
            header = read_header(self.path)
            _guard_pixels(header, self.max_pixels)
            _guard_place(header)
        return header

    def read(self, window: Window, bands: Sequence[int]) -> RawBlock:
        """Read a window that lies inside.

        Parameters
        ----------
        window : Window
            Inside the raster.
        bands : sequence of int
            Counted from 1.

        Raises
        ------
        DataError
            If the file is truncated or damaged there.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.float32([[1, np.nan], [-9, 2]]), nodata=-9)
        >>> RasterFile(path).read(Window(0, 0, 2, 2), [1]).missing.tolist()
        [[[False, True], [True, False]]]
        """
        header = self.header
        with file_errors(self.path, "cannot be read as a raster or picture"):
            if header.whole:
                values, hidden = _PICTURES.get(file_key(header.path), functools.partial(_decode_whole, header))
                values = values[[band - 1 for band in bands], window.rows, window.columns]
                hidden = None if hidden is None else hidden[window.rows, window.columns]
            else:
                values, hidden = _read_with_gdal(header, window, list(bands))
        nodata = [header.nodata[band - 1] for band in bands]
        if header.alpha in bands:  # who asks for it takes it for a colour: GDAL calls any fourth 8-bit band opacity
            hidden = None
        return RawBlock(values, _find_missing(values, nodata), hidden)


def _guard_pixels(header: RasterHeader, max_pixels: int) -> None:
    """Refuse what would fill the memory: a large picture without random access, or a header that cannot be true.

    Raises
    ------
    DataError
        When the file has more pixels than `max_pixels` and no random access, or more than its bytes can hold.

    Examples
    --------
    >>> from utils.raster.grids import PixelGrid
    >>> grid = PixelGrid(90000, 90000, None, Affine.identity())
    >>> _guard_pixels(RasterHeader("a.tif", "GTiff", grid, ("uint8",), (None,), (256, 256), True), 100)
    >>> _guard_pixels(RasterHeader("a.jpg", "JPEG", grid, ("uint8",), (None,), (1, 90000), False), 100)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.jpg: 90000 x 90000 pixels (height x width), more than max_pixels 100 for a picture ...
    """
    height, width = header.grid.height, header.grid.width
    if min(height, width, *header.block) < 1:
        raise DataError(
            f"{header.path}: {height} x {width} pixels (height x width) in blocks of {header.block[0]} x "
            f"{header.block[1]}; the file is damaged: copy or export it again"
        )
    if height * width <= max_pixels:
        return
    size = max(file_key(header.path)[1], 1)
    tiles = -(-height // header.block[0]) * -(-width // header.block[1])
    if header.tiled and header.driver != "VRT" and os.path.isfile(header.path) and tiles * _TILE_ENTRY > size:
        raise DataError(
            f"{header.path}: {height} x {width} pixels (height x width) in {tiles} tiles, but the file's {size} bytes "
            "do not even hold the places of so many; it is damaged: copy or export it again"
        )
    claimed = height * width * sum(np.dtype(dtype).itemsize for dtype in header.dtypes)
    if header.whole:
        why = "for a picture that must be decoded at once"
    elif not header.tiled and claimed > _BOMB_RATIO * size:
        why = "and far more than the file's bytes can hold"
    else:
        return
    raise DataError(
        f"{header.path}: {height} x {width} pixels (height x width), more than max_pixels {max_pixels} {why}; "
        "convert it to a tiled GeoTIFF (gdal_translate -of COG) or raise dataset.max_pixels"
    )


def _guard_place(header: RasterHeader) -> None:
    """Refuse a georeference that is no place, on which every comparison with labels would be meaningless.

    Raises
    ------
    DataError
        When a number of the transform is not finite or too large.

    Examples
    --------
    >>> from utils.raster.grids import PixelGrid
    >>> grid = PixelGrid(4, 6, None, Affine.scale(math.nan))
    >>> _guard_place(RasterHeader("a.tif", "GTiff", grid, ("uint8",), (None,), (1, 6), False))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: its geotransform (nan, 0, 0, 0, nan, 0) is no place: expected finite numbers ...
    """
    numbers = [*header.grid.transform[:6], *header.grid.bounds]
    if all(math.isfinite(number) and abs(number) < _MOST_DISTANT for number in numbers):
        return
    shown = ", ".join(f"{number:g}" for number in numbers[:6])
    raise DataError(
        f"{header.path}: its geotransform ({shown}) is no place: expected finite numbers below {_MOST_DISTANT:g}; "
        "write it anew (gdal_edit.py -a_ullr) or take it away (gdal_edit.py -unsetgt)"
    )


def _read_with_gdal(header: RasterHeader, window: Window, bands: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Values and hidden pixels of a window, read by GDAL.

    Values have shape (bands, H, W), hidden pixels shape (H, W).

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> pixels = np.uint8([[[5, 255], [6, 0]]])
    >>> write_raster(path, pixels, alpha=True)
    >>> values, hidden = _read_with_gdal(read_header(path), Window(0, 0, 1, 2), [1])
    >>> values.tolist(), hidden.tolist()
    ([[[5, 6]]], [[False, True]])
    """
    area = rasterio.windows.Window(window.x, window.y, window.width, window.height)
    with gdal_errors(header.path, "read"):
        dataset = open_raster(header.path)
        values = dataset.read(bands, window=area)
        if header.alpha:
            return values, dataset.read(header.alpha, window=area) == 0
        return values, dataset.read_masks(1, window=area) == 0 if header.masked else None


def _find_missing(values: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray | None:
    """Where a value is nodata or no number, per band; None when that cannot be.

    Parameters
    ----------
    values : array, shape (bands, height, width)
        As read.
    nodata : sequence of float or None
        One per band.

    Examples
    --------
    >>> _find_missing(np.uint8([[[0, 7]], [[0, 0]]]), [0, None]).tolist()
    [[[True, False]], [[False, False]]]
    """
    real = values.dtype.kind == "f"
    if not real and all(value is None for value in nodata):
        return None
    missing = ~np.isfinite(values) if real else np.zeros(values.shape, dtype=bool)
    for band, value in enumerate(nodata):
        if value is not None and math.isfinite(value):
            with np.errstate(over="ignore"):  # in the band's type: float32's -3.4e38 is not the header's double
                missing[band] |= values[band] == (values.dtype.type(value) if real else value)
    return missing


def _decoded_bytes(decoded: tuple[np.ndarray, np.ndarray | None]) -> int:
    """Bytes of a decoded picture.

    Examples
    --------
    >>> _decoded_bytes((np.zeros((3, 4, 6), np.uint16), np.zeros((4, 6), bool)))
    168
    """
    return sum(part.nbytes for part in decoded if part is not None)


_PICTURES = Recent(PICTURE_CACHE_BYTES, _decoded_bytes)  # windows of a picture must not decode it again and again


def _decode_whole(header: RasterHeader) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a picture at once and turn it and its mask upright.

    Values have shape (bands, H, W), hidden pixels shape (H, W).

    Raises
    ------
    DataError
        If it is truncated or damaged, or needs a library that is not there.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> from dataclasses import replace
    >>> from utils.raster.grids import PixelGrid
    >>> path = raster_file("a.png", np.uint8([[1, 2, 3], [4, 5, 6]]))
    >>> header = replace(read_header(path), orientation=6, grid=PixelGrid(3, 2, None, Affine.identity()))
    >>> _decode_whole(header)[0].tolist()
    [[[4, 1], [5, 2], [6, 3]]]
    """
    if header.driver == "tifffile":
        return turn_upright(_decode_with_tifffile(header), header.orientation), None
    if header.driver == "PNG":
        _check_png(header.path)
    window = Window(0, 0, *header.stored_size)
    values, hidden = _read_with_gdal(header, window, list(range(1, len(header.dtypes) + 1)))
    turned = None if hidden is None else turn_upright(hidden, header.orientation)
    return turn_upright(values, header.orientation), turned


def _check_png(path: str) -> None:
    """Refuse a truncated or damaged PNG, which GDAL reads without complaint.

    Raises
    ------
    DataError
        If a checksum is wrong or the end is missing.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> write_raster(path, np.zeros((4, 6), np.uint8))
    >>> _check_png(str(path))
    >>> _ = path.write_bytes(path.read_bytes()[:-12])
    >>> _check_png(str(path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.png: cannot be read (truncated PNG file); the file is damaged: ...
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb") as stream:
        stream.seek(8)  # the signature, by which GDAL knew it
        try:
            ChunkStream(stream).verify()  # up to the end: some programs append data behind it
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path}: cannot be read ({error}); the file is damaged: copy or export it again") from None


def _decode_with_tifffile(header: RasterHeader) -> np.ndarray:
    """Decode a TIFF that GDAL cannot read, shape (bands, height, width).

    Raises
    ------
    DataError
        If it needs imagecodecs and that is not installed, or is damaged.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    >>> _decode_with_tifffile(read_header(path))[:, 1, 3].tolist()
    [21, 22, 23]
    """
    import tifffile

    try:
        with tifffile.TiffFile(header.path) as stream:
            page = stream.pages.first
            values = np.asarray(page.asarray()).squeeze()
            bands_first = page.axes.startswith("S")
    except (ValueError, OSError, RuntimeError, IndexError) as error:  # codecs raise subclasses of RuntimeError
        no_codec = "imagecodecs" in str(error)
        cure = "pip install imagecodecs" if no_codec else "the file is truncated or damaged: copy it again"
        raise DataError(f"{header.path}: cannot be read, neither by GDAL nor tifffile ({error}); {cure}") from error
    count, size = len(header.dtypes), header.stored_size
    return values.reshape(count, *size) if bands_first else values.reshape(*size, count).transpose(2, 0, 1)


def turn_upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a photo as its EXIF orientation asks, so that rows run as a viewer shows them.

    Parameters
    ----------
    values : array, shape (..., height, width)
        As stored.
    orientation : int
        1 to 8.

    References
    ----------
    Exif 2.32, tag 0x0112.

    Examples
    --------
    >>> stored = np.array([[1, 2, 3], [4, 5, 6]])
    >>> turn_upright(stored, 6).tolist(), turn_upright(stored, 2).tolist()
    ([[4, 1], [5, 2], [6, 3]], [[3, 2, 1], [6, 5, 4]])
    """
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, -1, -2)
    if orientation in (2, 3, 6, 7):
        values = values[..., ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[..., ::-1, :]
    return values


def check_scene(path: str | Path, max_pixels: int = MAX_PIXELS) -> list[str]:
    """Look at a file without reading it all: its header, where its data end, and its last block.

    Parameters
    ----------
    path : str or Path
        A raster or picture.
    max_pixels : int
        Largest picture that may be decoded at once.

    Returns
    -------
    list of str
        What is wrong, each with the path and what to do; empty when nothing is.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.tif"
    >>> write_raster(path, np.zeros((40, 60), np.uint8))
    >>> check_scene(path)
    []
    >>> _ = path.write_bytes(path.read_bytes()[:-100])
    >>> check_scene(path)
    ['...a.tif: truncated: its data end at byte ..., the file at ...; copy or export it again']
    """
    file = RasterFile(path, max_pixels)
    try:
        header = file.header
        _check_tiff_end(header)
        size = (header.grid.height, header.grid.width)
        y, x = ((length - 1) // step * step for length, step in zip(size, header.block, strict=True))
        file.read(Window(y, x, 1, 1), [len(header.dtypes)])
    except DataError as error:
        return [str(error)]
    return []


def _check_tiff_end(header: RasterHeader) -> None:
    """Refuse a TIFF whose data would lie beyond the end of the file, without decoding any.

    Raises
    ------
    DataError
        When the data end behind the end of the file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.tif"
    >>> write_raster(path, np.zeros((4, 6), np.uint8))
    >>> _ = path.write_bytes(path.read_bytes()[:-20])
    >>> _check_tiff_end(read_header(path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.tif: truncated: its data end at byte ..., the file at ...; copy or export it again
    """
    if header.driver not in ("GTiff", "COG", "tifffile") or not os.path.isfile(header.path):
        return
    import tifffile

    try:
        with tifffile.TiffFile(header.path) as stream:
            page = stream.pages.first
            end = max((a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
            size = stream.filehandle.size
    except Exception:
        return  # GDAL opened it; tifffile does not understand it, and the last block tells
    if end > size:
        raise DataError(
            f"{header.path}: truncated: its data end at byte {end}, the file at {size}; copy or export it again"
        )


def write_raster(
    path: str | Path,
    values: np.ndarray,
    *,
    crs: str | CRS | None = None,
    transform: Affine | None = None,
    nodata: float | None = None,
    palette: dict[int, tuple[int, ...]] | None = None,
    alpha: bool = False,
    **options: Any,
) -> None:
    """Write a small raster or picture at once, complete or not at all; the suffix chooses the format.

    Parameters
    ----------
    path : str or Path
        Where to.
    values : array, shape (height, width) or (height, width, bands)
        The pixels.
    crs, transform, nodata
        Where the pixels lie and which value means nothing.
    palette : dict, optional
        Colours of the values of a single band.
    alpha : bool
        Whether the last band is opacity; four 8-bit bands of a PNG always are colours and opacity.
    options
        Passed to GDAL's driver, such as tiled=True or compress="deflate".

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.uint8([[1, 2, 3]]), nodata=9)
    >>> with rasterio.open(path) as dataset:
    ...     dataset.read(1).tolist(), dataset.nodata
    ([[1, 2, 3]], 9.0)
    """
    bands = values[:, :, None] if values.ndim == 2 else values
    height, width, count = bands.shape
    profile = {"height": height, "width": width, "count": count, "dtype": bands.dtype, "crs": crs, "nodata": nodata}
    place = {} if transform is None else {"transform": transform}
    with (
        atomic_path(path) as temporary,
        gdal_errors(str(path), "written", "check the folder and the driver's options"),
        rasterio.open(local_path(temporary), "w", **profile, **place, **options) as dataset,
    ):
        if palette:
            dataset.write_colormap(1, palette)
        if alpha or (count > 3 and dataset.driver == "GTiff"):
            kind = rasterio.enums.ColorInterp.alpha if alpha else rasterio.enums.ColorInterp.undefined
            dataset.colorinterp = [*dataset.colorinterp[:-1], kind]
        dataset.write(bands.transpose(2, 0, 1))
