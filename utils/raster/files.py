"""Raster and picture files: finding them, their headers and values as they are, and writing small ones.

GDAL reads them; where it cannot, tifffile does. A picture without random access is decoded once for all its windows,
and only within a bound. Nothing here scales, resamples or colours a value: `utils.raster.scenes` does.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from utils.raster.gdal import file_key, gdal_errors, open_raster, refuse_other_encoding
from utils.raster.grids import MOST_DISTANT, PixelGrid
from utils.raster.tiling import Window
from utils.runtime.files import atomic_path, walk_files
from utils.runtime.recent import Recent

if TYPE_CHECKING:
    import tifffile

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".webp", ".bmp")

PICTURE_CACHE_BYTES = 2**28

_PICTURE_DRIVERS = frozenset({"PNG", "JPEG", "WEBP", "BMP", "GIF"})  # decoded from the top: no random access
_LARGE_BLOCK = 2**22  # pixels; larger blocks push each other out of GDAL's cache and are decoded again and again
_BOMB_RATIO = 1000  # deflate's best: more bytes than this per byte of the file are an empty promise


def find_scenes(sources: str | Path | Sequence[str | Path], exclude: Sequence[str | Path] = ()) -> list[Path]:
    """List the scenes in files, folders (with all folders inside), globs, or a list of these.

    Parameters
    ----------
    sources : str, Path or a sequence of them
        Folders give their files with a known suffix (`RASTER_SUFFIXES`), hidden ones left out. A file that is named
        itself may have any suffix.
    exclude : sequence of str or Path
        Files, folders, or patterns on a file's name or path to leave out, such as "*.mask.tif".

    Returns
    -------
    list of Path
        Each file once: sources in the order given, the files of each sorted.

    Raises
    ------
    DataError
        If a source does not exist, or nothing is found in all of them.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.tif", "a.PNG", "a.mask.tif", "notes.txt"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_scenes(folder, exclude=["*.mask.tif"])]
    ['a.PNG', 'b.tif']
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    found = [path for source in listed for path in _expand_source(source)]
    scenes = [path for path in dict.fromkeys(found) if not is_excluded(path, exclude)]
    if not scenes:
        where = ", ".join(str(source) for source in listed) or "an empty list"
        left_out = f" ({len(found)} left out by {[str(entry) for entry in exclude]})" if found else ""
        raise DataError(f"no scene in {where}{left_out}; looked for files with {', '.join(RASTER_SUFFIXES)}")
    return scenes


def _expand_source(source: str | Path) -> list[Path]:
    """The files of one source: itself, a folder's, or a glob's.

    Raises
    ------
    DataError
        When there is no such file or folder.

    Examples
    --------
    >>> _expand_source("/no/such/scene.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/scene.tif: no such file or folder
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _files_of_folder(path)
    if path.is_file():
        return [path]
    if not glob.has_magic(str(path)):
        raise DataError(f"{path}: no such file or folder")
    hits = [Path(hit) for hit in sorted(glob.glob(str(path), recursive=True))]
    open_ended = path.name.endswith("*")  # "*.img" means it, "tile_*" also meets the sidecar files
    files = [hit for hit in hits if hit.is_file() and (not open_ended or _has_raster_suffix(hit))]
    return files + [inner for hit in hits if hit.is_dir() and path.name != "**" for inner in _files_of_folder(hit)]


def _has_raster_suffix(path: Path) -> bool:
    """Whether a file's name ends as a raster's or picture's does.

    Examples
    --------
    >>> _has_raster_suffix(Path("a.TIF")), _has_raster_suffix(Path("a.tif.aux.xml"))
    (True, False)
    """
    return path.suffix.lower() in RASTER_SUFFIXES


def _files_of_folder(folder: Path) -> list[Path]:
    """Rasters and pictures in a folder and the folders inside, sorted, hidden ones left out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "deep").mkdir()
    >>> for name in ("deep/a.jp2", ".b.partial.tif"):
    ...     (folder / name).touch()
    >>> [str(path.relative_to(folder)) for path in _files_of_folder(folder)]
    ['deep/a.jp2']
    """
    return [path for path in walk_files(folder) if _has_raster_suffix(path) and path.is_file()]


def broken_links(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    """Links to rasters and pictures in folders that lead nowhere, so that `find_scenes` leaves them out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a.tif").symlink_to("gone.tif")
    >>> [path.name for path in broken_links([folder])]
    ['a.tif']
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    folders = [folder for folder in (Path(source).expanduser() for source in listed) if folder.is_dir()]
    inside = (path for folder in folders for path in walk_files(folder))
    return [path for path in inside if _has_raster_suffix(path) and not path.exists()]


def is_excluded(path: Path, exclude: Sequence[str | Path]) -> bool:
    """Whether a file is named by, lies in, or matches one of the entries.

    Examples
    --------
    >>> is_excluded(Path("/data/labels/a.tif"), ["/data/labels"]), is_excluded(Path("/data/a.tif"), ["b*"])
    (True, False)
    """
    for entry in map(str, exclude):
        if fnmatch.fnmatch(path.name, entry) or fnmatch.fnmatch(str(path), entry):
            return True
        if Path(entry).expanduser().absolute() in (path.absolute(), *path.absolute().parents):
            return True
    return False


def scene_ids(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Name each scene by its stem, with as many parent folders as tell repeated stems apart.

    The ids depend on the set of paths, not on their order; parts are joined by two underscores, so that an id is
    also a file name.

    Examples
    --------
    >>> list(scene_ids(["x/north/a.tif", "x/south/a.tif", "x/b.tif"]))
    ['north__a', 'south__a', 'b']
    >>> list(scene_ids(["x/a.tif", "x/a.png"]))
    ['a.tif', 'a.png']
    """
    unique = [Path(path) for path in dict.fromkeys(map(str, paths))]
    names = {path: path.stem for path in unique}
    for depth in range(1, max((len(path.absolute().parts) for path in unique), default=1)):
        for path in _repeated(names):
            names[path] = "__".join([*path.absolute().parts[-1 - depth : -1], path.stem])
    for path in _repeated(names):
        names[path] = path.name
    for path in _repeated(names):
        names[path] = "__".join(path.absolute().parts[1:])
    return {name: path for path, name in names.items()}


def _repeated(names: dict[Path, str]) -> list[Path]:
    """The paths whose name another one has too.

    Examples
    --------
    >>> [str(path) for path in _repeated({Path("a/x"): "x", Path("b/x"): "x", Path("y"): "y"})]
    ['a/x', 'b/x']
    """
    counts: dict[str, int] = {}
    for name in names.values():
        counts[name] = counts.get(name, 0) + 1
    return [path for path, name in names.items() if counts[name] > 1]


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

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.zeros((4, 6, 3), np.uint16), nodata=0)
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

    @property
    def whole(self) -> bool:
        """Whether the file is decoded at once and kept, because its parts cannot be had alone.

        Examples
        --------
        >>> grid = PixelGrid(4, 6, None, Affine.identity())
        >>> RasterHeader("a", "PNG", grid, ("uint8",), (None,), (1, 6), False).whole
        True
        """
        return self.driver in _PICTURE_DRIVERS or self.driver == "tifffile" or math.prod(self.block) > _LARGE_BLOCK

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
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.png"
    >>> write_raster(path, np.zeros((4, 6, 4), np.uint8))
    >>> header = read_header(path)
    >>> header.driver, header.alpha, header.colour_bands, header.whole
    ('PNG', 4, (1, 2, 3), True)
    """
    return _read_header(file_key(str(path)))


@functools.lru_cache(maxsize=4096)
def _read_header(key: tuple[str, int, int]) -> RasterHeader:
    """The header of one version of a file.

    Raises
    ------
    DataError
        When there is no such file, it cannot be read, or its values are complex numbers.

    Examples
    --------
    >>> _read_header(("/no/such.tif", -1, -1))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such.tif: no such file
    """
    path = key[0]
    if key[1] < 0 and not path.startswith("/vsi"):
        raise DataError(f"{path}: no such file")
    refuse_other_encoding(path)  # before tifffile reads what GDAL cannot: the prediction would bear the same name
    try:
        with gdal_errors(path, "opened"):
            header = _header_of_dataset(path, open_raster(path))
    except DataError as error:
        if Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise
        header = _header_of_tiff(path, error)
    if any(dtype.startswith("complex") for dtype in header.dtypes):
        raise DataError(
            f"{path}: values are complex numbers ({header.dtypes[0]}); write their amplitude to a new raster"
        )
    return header


def _header_of_dataset(path: str, dataset: rasterio.DatasetReader) -> RasterHeader:
    """Take the facts out of GDAL's handle.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> with rasterio.open(path) as dataset:
    ...     _header_of_dataset(path, dataset).grid.bounds
    (8.0, 1.0, 20.0, 9.0)
    """
    flags = [flag.name for band in dataset.mask_flag_enums for flag in band]
    colours = [colour.name for colour in dataset.colorinterp]
    orientation = _orientation(dataset)
    size = (dataset.height, dataset.width) if orientation < 5 else (dataset.width, dataset.height)
    return RasterHeader(
        path=path,
        driver=dataset.driver,
        grid=PixelGrid(*size, dataset.crs, dataset.transform),
        dtypes=tuple(dataset.dtypes),
        nodata=dataset.nodatavals,
        block=max(dataset.block_shapes, key=math.prod),
        tiled=all(width < dataset.width for _, width in dataset.block_shapes) or dataset.driver == "VRT",
        alpha=colours.index("alpha") + 1 if "alpha" in colours else None,
        masked="per_dataset" in flags and "alpha" not in flags,
        palette=_palette(dataset) if colours == ["palette"] else None,
        orientation=orientation,
    )


def _orientation(dataset: rasterio.DatasetReader) -> int:
    """EXIF orientation of a photo, 1 where it has none or has a place on Earth.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.jpg"
    >>> write_raster(path, np.zeros((4, 6, 3), np.uint8))
    >>> with rasterio.open(path) as dataset:
    ...     _orientation(dataset)
    1
    """
    if dataset.driver != "JPEG" or dataset.crs is not None:
        return 1
    value = dataset.tags().get("EXIF_Orientation", "1").strip()
    return int(value) if value.isdigit() and 1 <= int(value) <= 8 else 1


def _palette(dataset: rasterio.DatasetReader) -> tuple[tuple[int, int, int, int], ...]:
    """The colours of a paletted raster, opaque black where none is given.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.png"
    >>> write_raster(path, np.zeros((4, 6), np.uint8), palette={1: (9, 8, 7)})
    >>> with rasterio.open(path) as dataset:
    ...     _palette(dataset)[1]
    (9, 8, 7, 255)
    """
    colours = dataset.colormap(1)
    return tuple(tuple(colours.get(value, (0, 0, 0, 255))) for value in range(max(256, max(colours) + 1)))


@contextmanager
def _open_tiff(path: str) -> Iterator[tifffile.TiffFile]:
    """Open a file with tifffile, without messages of its own.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.zeros((4, 6), np.uint8))
    >>> with _open_tiff(path) as stream:
    ...     stream.pages.first.shape
    (4, 6)
    """
    import tifffile

    with tifffile.TiffFile(path) as stream:
        yield stream


def _header_of_tiff(path: str, reason: DataError) -> RasterHeader:
    """Read the header of a TIFF with tifffile, after GDAL gave up for `reason`.

    Raises
    ------
    DataError
        `reason`, when tifffile does not understand the file either; or that it holds something else than a picture.

    Examples
    --------
    >>> _header_of_tiff("/no/such.tif", DataError("GDAL's words"))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: GDAL's words
    """
    import tifffile

    try:
        with _open_tiff(path) as stream:
            page = stream.pages.first
            axes = "".join(axis for axis, size in zip(page.axes, page.shape, strict=True) if axis in "YXSC" or size > 1)
            size = {axis: length for axis, length in zip(page.axes, page.shape, strict=True)}
            grid = PixelGrid(size["Y"], size["X"], *_georeference_of_tiff(path, page))
            nodata = page.tags.valueof("GDAL_NODATA")
            dtype = page.dtype
    except (tifffile.TiffFileError, OSError, KeyError, IndexError, AttributeError) as error:
        raise reason from error
    if axes not in ("YX", "YXS", "SYX") or dtype is None:
        raise DataError(f"{path}: a TIFF with axes {axes} is not a picture; expected rows, columns and bands")
    count = size.get("S", 1)
    missing = None if nodata is None else float(str(nodata).strip("\x00 "))
    return RasterHeader(
        path, "tifffile", grid, (dtype.name,) * count, (missing,) * count, (grid.height, grid.width), False
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


@dataclass(frozen=True)
class RawBlock:
    """Values of a window as the file holds them.

    Parameters
    ----------
    values : array, shape (bands, height, width)
        In the file's own type.
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
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.arange(24, dtype=np.uint8).reshape(4, 6))
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
            If the file cannot be opened or promises more pixels than allowed.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.png"
        >>> write_raster(path, np.zeros((4, 6), np.uint8))
        >>> RasterFile(path, max_pixels=20).header
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...a.png: 4 x 6 pixels (height x width), more than max_pixels 20 for a picture that ...
        """
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
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.float32([[1, np.nan], [-9, 2]]), nodata=-9)
        >>> RasterFile(path).read(Window(0, 0, 2, 2), [1]).missing.tolist()
        [[[False, True], [True, False]]]
        """
        header = self.header
        if header.whole:
            values, hidden = _PICTURES.get(file_key(header.path), functools.partial(_decode_whole, header))
            values = values[[band - 1 for band in bands], window.y : window.y + window.height, window.columns]
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
    >>> grid = PixelGrid(90000, 90000, None, Affine.identity())
    >>> _guard_pixels(RasterHeader("a.tif", "GTiff", grid, ("uint8",), (None,), (256, 256), True), 100)
    >>> _guard_pixels(RasterHeader("a.jpg", "JPEG", grid, ("uint8",), (None,), (1, 90000), False), 100)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.jpg: 90000 x 90000 pixels (height x width), more than max_pixels 100 for a picture ...
    """
    height, width = header.grid.height, header.grid.width
    if height * width <= max_pixels:
        return
    promised = height * width * sum(np.dtype(dtype).itemsize for dtype in header.dtypes)
    if header.whole:
        why = "for a picture that must be decoded at once"
    elif not header.tiled and promised > _BOMB_RATIO * max(file_key(header.path)[1], 1):
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
    >>> grid = PixelGrid(4, 6, None, Affine.scale(math.nan))
    >>> _guard_place(RasterHeader("a.tif", "GTiff", grid, ("uint8",), (None,), (1, 6), False))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: its geotransform (nan, 0, 0, 0, nan, 0) is no place: expected finite numbers ...
    """
    if header.grid.is_place:
        return
    numbers = ", ".join(f"{number:g}" for number in header.grid.transform[:6])
    raise DataError(
        f"{header.path}: its geotransform ({numbers}) is no place: expected finite numbers below {MOST_DISTANT:g}; "
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
            with np.errstate(over="ignore"):  # in the band's own type: float32's -3.4e38 is not the header's double
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
    """Decode a picture at once and turn it upright.

    Values have shape (bands, H, W), hidden pixels shape (H, W).

    Raises
    ------
    DataError
        If it is truncated or damaged, or needs a library that is not there.

    Examples
    --------
    >>> import tempfile
    >>> from dataclasses import replace
    >>> path = tempfile.mkdtemp() + "/a.png"
    >>> write_raster(path, np.uint8([[1, 2, 3], [4, 5, 6]]))
    >>> header = replace(read_header(path), orientation=6, grid=PixelGrid(3, 2, None, Affine.identity()))
    >>> _decode_whole(header)[0].tolist()
    [[[4, 1], [5, 2], [6, 3]]]
    """
    if header.driver == "tifffile":
        return _decode_with_tifffile(header), None
    if header.driver == "PNG":
        _check_png(header.path)
    stored = (header.grid.height, header.grid.width)[:: -1 if header.orientation > 4 else 1]
    values, hidden = _read_with_gdal(header, Window(0, 0, *stored), list(range(1, len(header.dtypes) + 1)))
    return turn_upright(values, header.orientation), hidden


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
            ChunkStream(stream).verify()  # up to the end: some programs append notes of their own behind it
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
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    >>> _decode_with_tifffile(read_header(path))[:, 1, 3].tolist()
    [21, 22, 23]
    """
    try:
        with _open_tiff(header.path) as stream:
            page = stream.pages.first
            values = np.asarray(page.asarray()).squeeze()
            first = page.axes.startswith("S")
    except (ValueError, OSError, RuntimeError, IndexError) as error:  # codecs raise subclasses of RuntimeError
        cure = (
            "pip install imagecodecs"
            if "imagecodecs" in str(error)
            else "the file is truncated or damaged: copy it again"
        )
        raise DataError(f"{header.path}: cannot be read, neither by GDAL nor tifffile ({error}); {cure}") from error
    count = len(header.dtypes)
    bands_last = values.reshape(header.grid.height, header.grid.width, count) if not first else None
    return (
        values.reshape(count, header.grid.height, header.grid.width)
        if bands_last is None
        else bands_last.transpose(2, 0, 1)
    )


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
        last = Window(y, x, 1, 1)
        file.read(last, [len(header.dtypes)])
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
        with _open_tiff(header.path) as stream:
            page = stream.pages.first
            end = max((a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
            size = stream.filehandle.size
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError):
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
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.uint8([[1, 2, 3]]), nodata=9)
    >>> with rasterio.open(path) as dataset:
    ...     dataset.read(1).tolist(), dataset.nodata
    ([[1, 2, 3]], 9.0)
    """
    bands = values[:, :, None] if values.ndim == 2 else values
    height, width, count = bands.shape
    profile = {
        "height": height,
        "width": width,
        "count": count,
        "dtype": bands.dtype,
        "crs": crs,
        "nodata": nodata,
        **options,
    }
    if transform is not None:
        profile["transform"] = transform
    with (
        atomic_path(path) as temporary,
        gdal_errors(str(path), "written", "check the folder and the driver's options"),
        rasterio.open(temporary, "w", **profile) as dataset,
    ):
        if palette:
            dataset.write_colormap(1, palette)
        if alpha or (count > 3 and dataset.driver == "GTiff"):
            kind = rasterio.enums.ColorInterp.alpha if alpha else rasterio.enums.ColorInterp.undefined
            dataset.colorinterp = [*dataset.colorinterp[:-1], kind]
        dataset.write(bands.transpose(2, 0, 1))
