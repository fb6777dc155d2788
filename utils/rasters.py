"""Scenes: rasters and pictures of any kind, read window by window as 8-bit images with a mask of valid pixels.

Every value of a scene is a function of its place alone, never of the window that asked for it: resampling weights come
from whole numbers on one global grid, and what lies outside the scene is its own reflection. Windows that overlap
therefore agree bit for bit, and a store keyed by pixels finds them again.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.warp
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from utils.errors import DataError, SettingsError
from utils.files import atomic_path
from utils.tiling import Window

if TYPE_CHECKING:
    import tifffile

LOGGER = logging.getLogger(__name__)

RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".jpeg", ".webp", ".bmp")
RESAMPLING = ("auto", "nearest", "area", "bilinear", "cubic")

DEFAULT_MAX_PIXELS = 2**27  # 134 million: 400 MB of 8-bit colours
BLOCK_CACHE_MB = 64  # GDAL takes 5 % of the memory by itself, once per process
PICTURE_CACHE_BYTES = 2**28
OPEN_FILES = 32  # per thread

# ImageNet's mean colour: the backbone's normalisation turns it into about 0, as if nothing were there.
NEUTRAL_COLOUR = (124, 116, 104)
NEUTRAL_EXTRA = 128

_PICTURE_DRIVERS = frozenset({"PNG", "JPEG", "WEBP", "BMP", "GIF"})  # decoded from the top: no random access
_LARGE_BLOCK = 2**22  # pixels; larger blocks push each other out of GDAL's cache and are decoded again and again
_CHUNK_PIXELS = 2**22  # source pixels that are resampled at a time
_BOMB_RATIO = 1000  # deflate's best: more bytes than this per byte of the file are an empty promise
_PALETTE_COLOURS = 3

# GDAL reads this once, at its first use in the process; a value that the user has set stands.
os.environ.setdefault("GDAL_CACHEMAX", str(BLOCK_CACHE_MB))

for _name in ("rasterio._env", "rasterio._err", "tifffile"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # their errors reach the user as one DataError


@contextmanager
def bounded_gdal() -> Iterator[None]:
    """Run GDAL with a bounded block cache and without messages of its own on stderr.

    The cache is bounded by this module's import (`GDAL_CACHEMAX`, 64 MB unless the environment says otherwise): it
    belongs to the process, and setting it from several threads in turn would undo it.

    Examples
    --------
    >>> from rasterio._env import get_gdal_config
    >>> with bounded_gdal():
    ...     get_gdal_config("GDAL_CACHEMAX") <= int(os.environ["GDAL_CACHEMAX"]) * 2**20
    True
    """
    with rasterio.Env(CPL_DEBUG=False):
        yield


def _gdal_reason(error: BaseException) -> str:
    """The last thing that GDAL said about an error, in one line.

    Examples
    --------
    >>> try:
    ...     raise ValueError("Read failed.") from ValueError("tile 3:   cut off")
    ... except ValueError as error:
    ...     _gdal_reason(error)
    'tile 3: cut off'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(getattr(error, "errmsg", error)).split())


@contextmanager
def gdal_errors(
    path: str, action: str, cure: str = "the file is truncated or damaged: copy or export it again"
) -> Iterator[None]:
    """Turn GDAL's errors into one that names the file and what to do.

    Parameters
    ----------
    path : str
        The file at work.
    action : str
        What failed, such as "opened" or "read".
    cure : str
        What to do about it.

    Raises
    ------
    DataError
        In place of any error of GDAL.

    Examples
    --------
    >>> with gdal_errors("a.tif", "opened", cure="give another"):
    ...     _ = rasterio.open("/no/a.tif")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: a.tif: cannot be opened (/no/a.tif: No such file or directory); give another
    """
    try:
        with bounded_gdal():
            yield
    except (RasterioError, CPLE_BaseError) as error:
        _HANDLES.close([path])  # after an error some drivers go on with what they have, as if it were whole
        raise DataError(f"{path}: cannot be {action} ({_gdal_reason(error)}); {cure}") from error


# ---------------------------------------------------------------------------------------------- finding scenes


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
    scenes = [path for path in dict.fromkeys(found) if not _is_excluded(path, exclude)]
    if not scenes:
        where = ", ".join(str(source) for source in listed) or "an empty list"
        left_out = f" ({len(found)} left out by {[str(entry) for entry in exclude]})" if found else ""
        raise DataError(f"no scene in {where}{left_out}; looked for files with {', '.join(RASTER_SUFFIXES)}")
    return scenes


def _expand_source(source: str | Path) -> list[Path]:
    """The files of one source: itself, a folder's, or a glob's.

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
    visible = (p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return sorted(path for path in visible if _has_raster_suffix(path) and path.is_file())


def _is_excluded(path: Path, exclude: Sequence[str | Path]) -> bool:
    """Whether a file is named by, lies in, or matches one of the entries.

    Examples
    --------
    >>> _is_excluded(Path("/data/labels/a.tif"), ["/data/labels"]), _is_excluded(Path("/data/a.tif"), ["b*"])
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


# ---------------------------------------------------------------------------------------------- the grid


@dataclass(frozen=True)
class PixelGrid:
    """Where the pixels of a raster lie.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    crs : CRS or None
        Coordinate reference system of the map coordinates.
    transform : Affine
        From pixel (x, y), whose origin is the outer corner of the top-left pixel, to map coordinates.

    Examples
    --------
    >>> PixelGrid(4, 6, CRS.from_epsg(32631), Affine(2, 0, 100, 0, -2, 50)).bounds
    (100.0, 42.0, 112.0, 50.0)
    """

    height: int
    width: int
    crs: CRS | None
    transform: Affine

    @property
    def georeferenced(self) -> bool:
        """Whether the pixels have a place on Earth.

        Examples
        --------
        >>> PixelGrid(4, 6, None, Affine.identity()).georeferenced
        False
        """
        return self.crs is not None and not self.transform.is_identity

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest and largest map coordinates: left, bottom, right, top, also of a rotated raster.

        Examples
        --------
        >>> PixelGrid(4, 6, None, Affine.identity()).bounds
        (0.0, 0.0, 6.0, 4.0)
        """
        corners = [
            self.transform @ corner for corner in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        ]
        xs, ys = zip(*corners, strict=True)
        return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))

    @property
    def resolution(self) -> tuple[float, float]:
        """Map units per pixel along the rows and down the columns.

        Examples
        --------
        >>> PixelGrid(4, 6, None, Affine(0, 3, 0, -2, 0, 0)).resolution
        (2.0, 3.0)
        """
        matrix = self.transform
        return math.hypot(matrix.a, matrix.d), math.hypot(matrix.b, matrix.e)

    def scaled(self, scale: float) -> PixelGrid:
        """The same ground on another number of pixels; all four outer corners stay where they are.

        Parameters
        ----------
        scale : float
            Pixels per pixel of this grid; the size is rounded to whole pixels and the pixels fill the ground exactly.

        Examples
        --------
        >>> grid = PixelGrid(4, 7, None, Affine(2, 0, 100, 0, -2, 50)).scaled(0.5)
        >>> grid.height, grid.width, grid.resolution, grid.bounds
        (2, 4, (3.5, 4.0), (100.0, 42.0, 114.0, 50.0))
        """
        if scale == 1:
            return self
        height, width = (max(1, math.floor(size * scale + 0.5)) for size in (self.height, self.width))
        stretch = Affine.scale(self.width / width, self.height / height)
        return replace(self, height=height, width=width, transform=self.transform @ stretch)

    def difference(self, other: PixelGrid) -> str | None:
        """Say what keeps two rasters from sharing their pixels; None when they do.

        Corners may differ by a hundredth of a pixel, which is the noise of printed coordinates.

        Examples
        --------
        >>> grid = PixelGrid(4, 6, None, Affine.identity())
        >>> grid.difference(PixelGrid(4, 7, None, Affine.identity()))
        'size 4 x 6 against 4 x 7 (height x width)'
        >>> grid.difference(replace(grid, transform=Affine.translation(0.5, 0)))
        'outer corners up to 0.5 pixels apart'
        """
        if (self.height, self.width) != (other.height, other.width):
            return f"size {self.height} x {self.width} against {other.height} x {other.width} (height x width)"
        if self.crs != other.crs:
            return f"CRS {crs_name(self.crs)} against {crs_name(other.crs)}"
        relative = ~self.transform @ other.transform
        corners = np.array([(0, 0), (self.width, 0), (0, self.height), (self.width, self.height)], dtype=float)
        apart = max(math.dist(relative @ tuple(corner), corner) for corner in corners)
        return f"outer corners up to {apart:.4g} pixels apart" if apart > 0.01 else None


def crs_name(crs: CRS | None) -> str:
    """A CRS in few words: its EPSG code, or the name that it has.

    Examples
    --------
    >>> crs_name(CRS.from_epsg(4326)), crs_name(None)
    ('EPSG:4326', 'none')
    >>> crs_name(CRS.from_proj4("+proj=aea +lat_1=29.5 +lat_2=45.5 +datum=WGS84"))
    'unknown (PROJCS)'
    """
    if crs is None:
        return "none"
    text = crs.to_string()
    return text if len(text) < 40 else f"{text.split(chr(34))[1]} ({text.split('[')[0]})"


def apply_transform(transform: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an affine map to many points.

    Parameters
    ----------
    transform : Affine
        Such as pixel to map.
    x, y : array, any shape
        Coordinates.

    Examples
    --------
    >>> x, y = apply_transform(Affine(2, 0, 8, 0, -2, 9), np.array([0, 1]), np.array([0, 3]))
    >>> x.tolist(), y.tolist()
    ([8.0, 10.0], [9.0, 3.0])
    """
    return (
        transform.a * x + transform.b * y + transform.c,
        transform.d * x + transform.e * y + transform.f,
    )


def transform_points(source: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carry points into another CRS, one by one and exactly; infinite where the target has no such place.

    Parameters
    ----------
    source, target : CRS
        Coordinates are (x, y) or (longitude, latitude), whatever order the authority prefers.
    x, y : array, shape (N,)
        Map coordinates.

    Returns
    -------
    two arrays, shape (N,)
        Map coordinates in the target.

    Examples
    --------
    >>> x, y = transform_points(CRS.from_epsg(4326), CRS.from_epsg(3857), np.array([0.0, 9.0]), np.array([0.0, 95.0]))
    >>> x.tolist(), bool(abs(y[0]) < 1e-6), float(y[1])
    ([0.0, inf], True, inf)
    """
    if source == target or not len(x):
        return x, y
    usable = np.isfinite(x) & np.isfinite(y)
    if source.is_geographic:
        usable &= np.abs(y) <= 90
    out = np.full((2, len(x)), np.inf)
    out[:, usable] = _transform_or_split(source, target, x[usable], y[usable])
    return out[0], out[1]


def _transform_or_split(source: CRS, target: CRS, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Transform points; when PROJ refuses them all for the sake of one, halve until that one is alone.

    Examples
    --------
    >>> utm, degrees = CRS.from_epsg(32631), CRS.from_epsg(4326)
    >>> _transform_or_split(degrees, utm, np.array([3.0]), np.array([0.0])).round(3).tolist()
    [[500000.0], [0.0]]
    """
    try:
        with bounded_gdal():
            return np.array(rasterio.warp.transform(source, target, x, y), dtype=float).reshape(2, -1)
    except (RasterioError, CPLE_BaseError):
        if len(x) <= 1:
            return np.full((2, len(x)), np.inf)
    half = len(x) // 2
    parts = [_transform_or_split(source, target, x[part], y[part]) for part in (slice(half), slice(half, None))]
    return np.concatenate(parts, axis=1)


# ---------------------------------------------------------------------------------------------- one file


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


def file_key(path: str) -> tuple[str, int, int]:
    """What tells a file from its next version: path, size and modification time.

    Examples
    --------
    >>> file_key("/no/such/file")
    ('/no/such/file', -1, -1)
    """
    try:
        status = os.stat(path)
    except OSError:  # GDAL also knows paths that the system does not, such as /vsimem/
        return path, -1, -1
    return path, status.st_size, status.st_mtime_ns


class _Handles(threading.local):
    """The open files of one thread; a GDAL handle must not be shared by threads, nor survive a fork.

    Examples
    --------
    >>> handles = _Handles()
    >>> handles.get("key", lambda: open(os.devnull)) is handles.get("key", lambda: None)
    True
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.open: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, opener: Callable[[], Any]) -> Any:
        """The handle of a key, opened when this thread of this process has none.

        Examples
        --------
        >>> _Handles().get("key", lambda: "opened")
        'opened'
        """
        if self.pid != os.getpid():  # the file position is shared with the parent process
            self.pid, self.open = os.getpid(), OrderedDict()
        if key not in self.open:
            self.open[key] = opener()
            if len(self.open) > OPEN_FILES:
                self.open.popitem(last=False)[1].close()
        self.open.move_to_end(key)
        return self.open[key]

    def close(self, paths: Sequence[str] | None = None) -> None:
        """Close the handles of some files, or all.

        Examples
        --------
        >>> handles = _Handles()
        >>> stream = handles.get(("a", 0, 0), lambda: open(os.devnull))
        >>> handles.close(["a"])
        >>> stream.closed, len(handles.open)
        (True, 0)
        """
        for key in [key for key in self.open if paths is None or (isinstance(key, tuple) and key[0] in paths)]:
            self.open.pop(key).close()


_HANDLES = _Handles()


def _open_gdal(path: str) -> rasterio.DatasetReader:
    """Open a file with GDAL, or take this thread's handle of it.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.zeros((4, 6), np.uint8))
    >>> _open_gdal(path) is _open_gdal(path)
    True
    """
    return _HANDLES.get(file_key(path), lambda: rasterio.open(path))


def close_files() -> None:
    """Close every raster that this thread holds open.

    Examples
    --------
    >>> close_files()
    >>> len(_HANDLES.open)
    0
    """
    _HANDLES.close()


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
    try:
        with gdal_errors(path, "opened"):
            header = _header_of_dataset(path, _open_gdal(path))
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

    def __init__(self, path: str | Path, max_pixels: int = DEFAULT_MAX_PIXELS):
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
    if header.whole:
        why = "for a picture that must be decoded at once"
    elif not header.tiled and _promised_bytes(header) > _BOMB_RATIO * max(file_key(header.path)[1], 1):
        why = "and far more than the file's bytes can hold"
    else:
        return
    raise DataError(
        f"{header.path}: {height} x {width} pixels (height x width), more than max_pixels {max_pixels} {why}; "
        "convert it to a tiled GeoTIFF (gdal_translate -of COG) or raise dataset.max_pixels"
    )


def _promised_bytes(header: RasterHeader) -> int:
    """Bytes of all pixels by the header's word.

    Examples
    --------
    >>> grid = PixelGrid(4, 6, None, Affine.identity())
    >>> _promised_bytes(RasterHeader("a", "PNG", grid, ("uint8", "uint16"), (None,) * 2, (1, 6), False))
    72
    """
    return header.grid.height * header.grid.width * sum(np.dtype(dtype).itemsize for dtype in header.dtypes)


def _read_with_gdal(header: RasterHeader, window: Window, bands: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Values and hidden pixels of a window, read by GDAL.

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
        dataset = _open_gdal(header.path)
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


class Recent:
    """The values that were used last, within a bound; each is made once, whichever threads ask for it.

    Pickled it is left behind empty, and a forked process has locks of its own: those of its parent may be held by a
    thread that it does not have.

    Parameters
    ----------
    limit : int
        Of the sizes of all values; one that is larger is kept alone.
    size : callable, optional
        Size of a value; by default each counts 1.

    Examples
    --------
    >>> recent = Recent(2)
    >>> [recent.get(key, lambda made=made: made) for made, key in enumerate("abacb")]
    [0, 1, 0, 3, 4]
    """

    def __init__(self, limit: int, size: Callable[[Any], int] | None = None):
        self.limit = limit
        self.size = size
        self.values: OrderedDict[Hashable, Any] = OrderedDict()
        self._renew_locks()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "size": self.size, "values": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew_locks()

    def _renew_locks(self) -> None:
        """Start with locks that nobody holds.

        Examples
        --------
        >>> recent = Recent(1)
        >>> _ = recent.lock.acquire()
        >>> recent._renew_locks()
        >>> recent.lock.locked()
        False
        """
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key, made when it is not there; other keys do not wait for it.

        Examples
        --------
        >>> recent = Recent(2)
        >>> recent.get("a", lambda: 5), recent.get("a", lambda: 6)
        (5, 5)
        """
        if self.pid != os.getpid():
            self._renew_locks()
        with self.lock:
            if key in self.values:
                self.values.move_to_end(key)
                return self.values[key]
            maker = self.making.setdefault(key, threading.Lock())
        with maker:
            with self.lock:
                if key in self.values:  # another thread made it in the meantime
                    return self.values[key]
            value = make()
            self._keep(key, value)
            return value

    def _keep(self, key: Hashable, value: Any) -> None:
        """Store a value and forget the oldest ones beyond the bound; the latest stays in any case.

        Examples
        --------
        >>> recent = Recent(5, size=len)
        >>> recent._keep("a", "xxx")
        >>> recent._keep("b", "xxxxxxxxx")
        >>> list(recent.values)
        ['b']
        """
        with self.lock:
            self.making.pop(key, None)
            self.values[key] = value
            while len(self.values) > 1 and self._total() > self.limit:
                self.values.popitem(last=False)

    def _total(self) -> int:
        """Size of all values.

        Examples
        --------
        >>> recent = Recent(9, size=len)
        >>> recent.get("a", lambda: "xxx"), recent._total()
        ('xxx', 3)
        """
        return len(self.values) if self.size is None else sum(map(self.size, self.values.values()))


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

    Raises
    ------
    DataError
        If it is truncated or damaged, or needs a library that is not there.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.png"
    >>> write_raster(path, np.uint8([[1, 2, 3], [4, 5, 6]]))
    >>> header = replace(read_header(path), orientation=6, grid=PixelGrid(3, 2, None, Affine.identity()))
    >>> _decode_whole(header)[0].tolist()
    [[[4, 1], [5, 2], [6, 3]]]
    """
    if header.driver == "tifffile":
        return _decode_with_tifffile(header), None
    if header.driver == "PNG":
        _check_png_end(header.path)
    stored = (header.grid.height, header.grid.width)[:: -1 if header.orientation > 4 else 1]
    values, hidden = _read_with_gdal(header, Window(0, 0, *stored), list(range(1, len(header.dtypes) + 1)))
    return turn_upright(values, header.orientation), hidden


def _check_png_end(path: str) -> None:
    """Refuse a truncated PNG, which GDAL reads without complaint.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> write_raster(path, np.zeros((4, 6), np.uint8))
    >>> _ = path.write_bytes(path.read_bytes()[:-12])
    >>> _check_png_end(str(path))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: ...a.png: cannot be read (the PNG has no end); the file is truncated: ...
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb") as stream:
        stream.seek(max(0, os.path.getsize(path) - 4096))  # some programs append notes of their own
        if b"IEND" not in stream.read():
            raise DataError(
                f"{path}: cannot be read (the PNG has no end); the file is truncated: copy or export it again"
            )


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


# ---------------------------------------------------------------------------------------------- value scaling


@dataclass(frozen=True)
class ValueScaling:
    """One linear map of values to 0..255 for a whole data set, band by band.

    Parameters
    ----------
    low, high : tuple of float
        Values of each band that become 0 and 255; what lies beyond is clipped.

    Examples
    --------
    >>> ValueScaling((0.0,), (1000.0,)).apply(np.array([[-5.0], [500.0], [2000.0]])).tolist()
    [[0], [128], [255]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(float(value) for value in self.low))
        object.__setattr__(self, "high", tuple(float(value) for value in self.high))
        if len(self.low) != len(self.high) or not self.low:
            raise SettingsError(
                f"value scaling: {len(self.low)} low and {len(self.high)} high values; expected one each per band"
            )
        if not all(
            math.isfinite(low) and math.isfinite(high) and low < high
            for low, high in zip(self.low, self.high, strict=True)
        ):
            raise SettingsError(f"value scaling: every low must lie below its high, got {self.low} and {self.high}")

    @classmethod
    def identity(cls, num_bands: int) -> ValueScaling:
        """The scaling of pictures, which are 0..255 already.

        Examples
        --------
        >>> ValueScaling.identity(2)
        ValueScaling(low=(0.0, 0.0), high=(255.0, 255.0))
        """
        return cls((0.0,) * num_bands, (255.0,) * num_bands)

    @property
    def is_identity(self) -> bool:
        """Whether 8-bit values pass unchanged.

        Examples
        --------
        >>> ValueScaling.identity(3).is_identity, ValueScaling((0,), (254,)).is_identity
        (True, False)
        """
        return set(self.low) == {0.0} and set(self.high) == {255.0}

    def to_json(self) -> dict[str, list[float]]:
        """The scaling as plain lists, for a checkpoint or a store.

        Examples
        --------
        >>> ValueScaling((0,), (9,)).to_json()
        {'low': [0.0], 'high': [9.0]}
        """
        return {"low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_json(cls, value: dict[str, list[float]]) -> ValueScaling:
        """The scaling that `to_json` gave.

        Examples
        --------
        >>> scaling = ValueScaling((0.5, 1), (9, 7))
        >>> ValueScaling.from_json(scaling.to_json()) == scaling
        True
        """
        return cls(tuple(value["low"]), tuple(value["high"]))

    def apply(self, values: np.ndarray, axis: int = -1) -> np.ndarray:
        """Scale values to 8 bits, rounded and clipped; what is no number becomes 0.

        Parameters
        ----------
        values : array, any shape
            Raw values of any type.
        axis : int
            The axis of the bands.

        Returns
        -------
        uint8 array, the shape of `values`

        Raises
        ------
        ValueError
            If the number of bands is another.

        Examples
        --------
        >>> ValueScaling((0, -1), (255, 1)).apply(np.array([[254.6, np.nan], [3, 1]])).tolist()
        [[255, 0], [3, 255]]
        """
        if values.shape[axis] != len(self.low):
            raise ValueError(f"value scaling: expected {len(self.low)} bands on axis {axis}, got shape {values.shape}")
        if values.dtype == np.uint8 and self.is_identity:
            return values
        scaled = values.astype(working_dtype(values.dtype))
        shape = [1] * values.ndim
        shape[axis] = -1
        gain = [255 / (high - low) for low, high in zip(self.low, self.high, strict=True)]
        scaled -= np.array(self.low, dtype=scaled.dtype).reshape(shape)
        scaled *= np.array(gain, dtype=scaled.dtype).reshape(shape)
        np.rint(scaled, out=scaled)
        np.fmax(scaled, 0, out=scaled)  # takes the number beside a NaN
        return np.fmin(scaled, 255, out=scaled).astype(np.uint8)


def working_dtype(dtype: np.dtype) -> np.dtype:
    """The real type in which values of a type can be averaged without loss that matters.

    Examples
    --------
    >>> [working_dtype(np.dtype(name)).name for name in ("uint16", "float32", "int32", "float64")]
    ['float32', 'float32', 'float64', 'float64']
    """
    small = dtype.itemsize <= 2 or dtype == np.float32
    return np.dtype(np.float32 if small else np.float64)


# ---------------------------------------------------------------------------------------------- resampling


def axis_weights(
    start: int, count: int, source_size: int, target_size: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which source pixels make up each target pixel along one axis, and with what weight.

    Positions are ratios of whole numbers on the global axis, so the weights of a pixel are the same in every window.

    Parameters
    ----------
    start, count : int
        First target pixel and how many.
    source_size, target_size : int
        Pixels of the whole axis; both cover the same ground.
    kind : str
        "nearest", "area" (mean of the covered ground), "bilinear" or "cubic".

    Returns
    -------
    index : int array, shape (count, taps)
        Source pixels, kept inside the axis.
    weight : float array, shape (count, taps)
        Each row adds up to 1.

    References
    ----------
    Keys, 1981 (doi:10.1109/TASSP.1981.1163711), for the cubic kernel, a = -0.5.

    Examples
    --------
    >>> index, weight = axis_weights(1, 2, source_size=5, target_size=4, kind="area")
    >>> index.tolist(), weight.round(3).tolist()
    ([[1, 2, 3], [2, 3, 4]], [[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]])
    >>> axis_weights(1, 1, source_size=2, target_size=4, kind="bilinear")[1].tolist()
    [[0.75, 0.25]]
    """
    target = np.arange(start, start + count, dtype=np.int64)[:, None]
    if kind == "nearest":
        index = (2 * target + 1) * source_size // (2 * target_size)
        return index, np.ones(index.shape)
    if kind == "area":
        first = target * source_size // target_size
        index = first + np.arange(-(-source_size // target_size) + 1)
        begin, end = (
            np.maximum(index * target_size, target * source_size),
            np.minimum((index + 1) * target_size, (target + 1) * source_size),
        )
        return index.clip(0, source_size - 1), np.maximum(end - begin, 0) / source_size
    centre = (2 * target + 1) * source_size - target_size
    base, fraction = centre // (2 * target_size), centre % (2 * target_size) / (2 * target_size)
    offsets = np.arange(2) if kind == "bilinear" else np.arange(-1, 3)
    distance = np.abs(offsets - fraction)
    weight = 1 - distance if kind == "bilinear" else _cubic_kernel(distance)
    return (base + offsets).clip(0, source_size - 1), weight


def _cubic_kernel(distance: np.ndarray) -> np.ndarray:
    """Weight of a source pixel by its distance, at most 2 pixels.

    Examples
    --------
    >>> _cubic_kernel(np.array([0, 0.5, 1, 1.5, 2])).tolist()
    [1.0, 0.5625, 0.0, -0.0625, 0.0]
    """
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, far)


def _combine(values: np.ndarray, index: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Weighted sums along an axis, tap by tap, so that no sum depends on the window's size.

    A matrix product would be shorter, but its order of additions changes with the shape.

    Examples
    --------
    >>> index, weight = np.array([[0, 1], [1, 2]]), np.array([[0.5, 0.5], [0.25, 0.75]])
    >>> _combine(np.array([[2.0], [4.0], [8.0]]), index, weight, axis=0).tolist()
    [[3.0], [7.0]]
    """
    shape = [1] * values.ndim
    shape[axis] = -1
    total = None
    for tap in range(index.shape[1]):
        if weight[:, tap].any():
            part = _pick(values, index[:, tap], axis) * weight[:, tap].reshape(shape).astype(values.dtype)
            total = part if total is None else np.add(total, part, out=total)
    assert total is not None, "the weights of a pixel add up to 1"
    return total


def _pick(values: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Take positions along an axis, as a view where they are evenly spaced.

    Examples
    --------
    >>> values = np.arange(12).reshape(2, 6)
    >>> picked = _pick(values, np.array([1, 3, 5]), axis=1)
    >>> picked.tolist(), np.shares_memory(picked, values)
    ([[1, 3, 5], [7, 9, 11]], True)
    """
    steps = np.diff(index)
    if not len(steps) or steps[0] <= 0 or (steps != steps[0]).any():
        return values.take(index, axis=axis)
    picked = [slice(None)] * values.ndim
    picked[axis] = slice(int(index[0]), int(index[-1]) + 1, int(steps[0]))
    return values[tuple(picked)]


def resample(
    values: np.ndarray,
    valid: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Resample values by weights per axis; invalid pixels take no part.

    Parameters
    ----------
    values : array, shape (bands, height, width)
        Numbers everywhere, also where not valid.
    valid : bool array, shape (height, width)
        Which pixels count.
    rows, columns : (index, weight)
        From `axis_weights`, counted from the array's first row and column.

    Returns
    -------
    values : float array, shape (bands, target height, target width)
        0 where not valid.
    valid : bool array, shape (target height, target width)
        Where at least half of the weight was valid.

    Examples
    --------
    >>> axis = axis_weights(0, 1, source_size=2, target_size=1, kind="area")
    >>> values = np.float32([[[1, 3], [99, 5]]])
    >>> mean, valid = resample(values, np.array([[True, True], [False, True]]), axis, axis)
    >>> mean.tolist(), valid.tolist()
    ([[[3.0]]], [[True]])
    """
    values = values.astype(working_dtype(values.dtype), copy=False)
    if valid.all():
        share = np.ones((1, 1), dtype=values.dtype)  # the same sums as below, once for all pixels of a row
        share = _combine(share, np.zeros_like(rows[0]), rows[1], axis=-2)
        share = _combine(share, np.zeros_like(columns[0]), columns[1], axis=-1)
    else:
        share = valid.astype(values.dtype)
        values = values * share
        share = _combine(_combine(share, *rows, axis=-2), *columns, axis=-1)
    sums = _combine(_combine(values, *rows, axis=-2), *columns, axis=-1)
    kept = np.broadcast_to(share >= 0.5, sums.shape[-2:])
    if not (share == 1).all():
        sums = np.divide(sums, share, out=np.zeros_like(sums), where=kept)
    return sums, kept


# ---------------------------------------------------------------------------------------------- scenes


class RasterScene:
    """One scene: a raster or picture, or several files that are its bands, on one grid of pixels.

    Nothing is opened before it is needed, and no handle is kept on the object: it can be pickled, and threads and
    forked processes open files of their own.

    Parameters
    ----------
    paths : str, Path or a sequence of them
        The file, or files with the same size, CRS and transform whose bands follow each other.
    bands : sequence of int, optional
        Bands to read, counted from 1 over all files, in the order wanted; the first three are the colours that a
        backbone takes. By default all but opacity; a paletted raster gives its colours. A single band is repeated to
        make three. GDAL takes the fourth of four 8-bit bands for opacity unless the file says what it is: a near
        infrared band must be asked for here, and then hides nothing.
    scale : float
        Pixels per pixel of the file: 0.5 halves height and width. The outer corners stay exactly where they are.
    max_pixels : int
        Largest picture that is decoded at once (PNG, JPEG and the like); rasters in tiles or strips may be any size.
    scaling : ValueScaling, optional
        Of values to 8 bits. 8-bit data need none.
    resampling : str
        How pixels are made when `scale` is not 1: "auto" takes means of the covered ground when shrinking and bilinear
        interpolation when enlarging; or "nearest", "area", "bilinear", "cubic".

    Raises
    ------
    SettingsError
        If `scale`, `resampling` or `bands` make no sense.
    DataError
        On first use: a file that cannot be opened, files that do not share a grid, bands that are not there.

    Notes
    -----
    A pixel is not valid where the file's mask or opacity is 0; where every chosen band is nodata, in unsigned types
    (0 or 255 in one band alone is a colour); where any is nodata or no number, in all others.
    JPEG photos without CRS are turned as their EXIF orientation says, as viewers and annotation tools show them.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    >>> write_raster(path, pixels, crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> scene = RasterScene(path, scale=0.5)
    >>> (scene.height, scene.width), scene.num_bands, scene.resolution
    ((2, 3), 3, (4.0, 4.0))
    >>> image, valid = scene.read(Window(0, 0, 2, 4))
    >>> image[:, :, 0].tolist(), valid[0].tolist()
    ([[4, 6, 8, 6], [16, 18, 20, 18]], [True, True, True, False])
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        bands: Sequence[int] | None = None,
        scale: float = 1.0,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        scaling: ValueScaling | None = None,
        resampling: str = "auto",
    ):
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        if not listed:
            raise SettingsError("a scene needs at least one file, got an empty list")
        if not 1 / 256 <= scale <= 16:
            raise SettingsError(f"dataset.scale: expected 1/256 to 16, got {scale}")
        if resampling not in RESAMPLING:
            raise SettingsError(f"unknown resampling {resampling!r}; known: {', '.join(RESAMPLING)}")
        self.paths = tuple(Path(path) for path in listed)
        self.bands = None if bands is None else tuple(bands)
        self.scale = scale
        self.scaling = scaling
        self.resampling = ("area" if scale < 1 else "bilinear") if resampling == "auto" else resampling
        self._files = tuple(RasterFile(path, max_pixels) for path in self.paths)

    def __repr__(self) -> str:
        return f"RasterScene({', '.join(map(str, self.paths))!r}, scale={self.scale})"

    @functools.cached_property
    def file_grid(self) -> PixelGrid:
        """The grid of the files, before `scale`.

        Raises
        ------
        DataError
            If the files of the scene do not share it.

        Examples
        --------
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> for name, width in (("a", 6), ("b", 5)):
        ...     write_raster(f"{folder}/{name}.tif", np.zeros((4, width), np.uint8))
        >>> RasterScene([f"{folder}/a.tif", f"{folder}/b.tif"]).file_grid
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...b.tif: not on the grid of ...a.tif: size 4 x 5 against 4 x 6 (height x width); ...
        """
        first, *others = (file.header.grid for file in self._files)
        for path, grid in zip(self.paths[1:], others, strict=True):
            difference = grid.difference(first)
            if difference:
                raise DataError(
                    f"{path}: not on the grid of {self.paths[0]}: {difference}; warp the bands of a scene to one grid"
                )
        return first

    @functools.cached_property
    def grid(self) -> PixelGrid:
        """The grid that windows count on, after `scale`.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.uint8))
        >>> RasterScene(path, scale=2).grid.bounds
        (0.0, 0.0, 6.0, 4.0)
        """
        return self.file_grid.scaled(self.scale)

    @property
    def height(self) -> int:
        """Rows, after `scale`.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.uint8))
        >>> RasterScene(path, scale=2).height
        8
        """
        return self.grid.height

    @property
    def width(self) -> int:
        """Columns, after `scale`.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.uint8))
        >>> RasterScene(path, scale=2).width
        12
        """
        return self.grid.width

    @property
    def crs(self) -> CRS | None:
        """Coordinate reference system, None when the scene has no place on Earth.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine.scale(2, -2))
        >>> RasterScene(path).crs.to_epsg()
        32631
        """
        return self.grid.crs

    @property
    def transform(self) -> Affine:
        """From a pixel (x, y), after `scale`, to map coordinates.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.uint8), transform=Affine(2, 0, 8, 0, -2, 9))
        >>> RasterScene(path, scale=0.5).transform @ (3, 2)
        (20.0, 1.0)
        """
        return self.grid.transform

    @property
    def georeferenced(self) -> bool:
        """Whether the pixels have a place on Earth.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.png"
        >>> write_raster(path, np.zeros((4, 6), np.uint8))
        >>> RasterScene(path).georeferenced
        False
        """
        return self.grid.georeferenced

    @property
    def resolution(self) -> tuple[float, float]:
        """Map units per pixel in x and y, after `scale`.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.uint8), transform=Affine(2, 0, 8, 0, -3, 9))
        >>> RasterScene(path).resolution
        (2.0, 3.0)
        """
        return self.grid.resolution

    @functools.cached_property
    def channels(self) -> tuple[tuple[int, int], ...]:
        """File and band, counted from 1, of every channel; band 0 of a paletted file stands for its colours.

        Raises
        ------
        DataError
            If a band is not there.
        SettingsError
            If two bands are left, which make no colour picture.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6, 4), np.uint8))
        >>> RasterScene(path, bands=[3, 2, 1]).channels
        ((0, 3), (0, 2), (0, 1))
        """
        headers = [file.header for file in self._files]
        if self.bands is None and len(headers) == 1 and headers[0].palette:
            return ((0, 0),) * _PALETTE_COLOURS
        available = [(place, band) for place, header in enumerate(headers) for band in header.colour_bands]
        if self.bands is not None:
            every = [(place, band) for place, header in enumerate(headers) for band in range(1, len(header.dtypes) + 1)]
            available = [every[band - 1] for band in self._checked_bands(len(every))]
        if len(available) == 2:
            raise SettingsError(
                f"{self.paths[0]}: two bands make no colour picture; set dataset.bands, for example [1, 2, 2]"
            )
        return tuple(available * 3 if len(available) == 1 else available)

    def _checked_bands(self, count: int) -> tuple[int, ...]:
        """The wanted bands, when all of them exist.

        Examples
        --------
        >>> RasterScene("a.tif", bands=[1, 4])._checked_bands(3)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a.tif: dataset.bands asks for [4], but the scene has bands 1 to 3
        """
        assert self.bands is not None, "only asked when bands are set"
        absent = [band for band in self.bands if not 1 <= band <= count]
        if absent or not self.bands:
            raise DataError(f"{self.paths[0]}: dataset.bands asks for {absent}, but the scene has bands 1 to {count}")
        return self.bands

    @property
    def num_bands(self) -> int:
        """Channels of an image that is read.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6, 5), np.uint8))
        >>> RasterScene(path).num_bands, RasterScene(path, bands=[2]).num_bands
        (5, 3)
        """
        return len(self.channels)

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """Type that holds the raw values of all channels.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.int16))
        >>> RasterScene(path).dtype
        dtype('int16')
        """
        if self._has_palette:
            return np.dtype(np.uint8)
        return np.result_type(*(self._files[place].header.dtypes[band - 1] for place, band in self.channels))

    @property
    def _has_palette(self) -> bool:
        """Whether the channels are colours looked up in a palette.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.png"
        >>> write_raster(path, np.uint8([[0, 1]]), palette={0: (1, 2, 3), 1: (7, 8, 9)})
        >>> RasterScene(path)._has_palette, RasterScene(path).read(Window(0, 0, 1, 2))[0].tolist()
        (True, [[[1, 2, 3], [7, 8, 9]]])
        """
        return self.channels[0][1] == 0

    @property
    def _unsigned(self) -> bool:
        """Whether nodata is a value that a colour can have too.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.float32))
        >>> RasterScene(path)._unsigned
        False
        """
        return self.dtype.kind == "u"

    def with_scaling(self, scaling: ValueScaling) -> RasterScene:
        """The same scene with another scaling of values.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.full((1, 1), 500, np.uint16))
        >>> scene = RasterScene(path).with_scaling(ValueScaling((0,) * 3, (1000,) * 3))
        >>> scene.read(Window(0, 0, 1, 1))[0].tolist()
        [[[128, 128, 128]]]
        """
        return RasterScene(
            self.paths,
            bands=self.bands,
            scale=self.scale,
            max_pixels=self._files[0].max_pixels,
            scaling=scaling,
            resampling=self.resampling,
        )

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read a window as an 8-bit image, whatever part of it lies outside.

        Parameters
        ----------
        window : Window
            On the grid after `scale`; may stick out on any side.

        Returns
        -------
        image : uint8 array, shape (height, width, num_bands)
            Outside the scene its reflection, so that no hard edge meets the backbone; where the scene holds nothing a
            neutral colour (`NEUTRAL_COLOUR`, which normalisation turns into about 0).
        valid : bool array, shape (height, width)
            False outside and where the scene holds nothing.

        Raises
        ------
        DataError
            If a file is truncated or damaged there, or values need a scaling that was not given.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.uint8([[0, 7, 9]]), nodata=0)
        >>> image, valid = RasterScene(path).read(Window(0, 0, 1, 4))
        >>> image[0].tolist(), valid[0].tolist()
        ([[124, 116, 104], [7, 7, 7], [9, 9, 9], [7, 7, 7]], [False, True, True, False])
        """
        rows = reflect_index(window.y, window.height, self.height)
        columns = reflect_index(window.x, window.width, self.width)
        inner = Window(int(rows.min()), int(columns.min()), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
        image, valid = self._read_inside(inner)
        if inner == window:
            return image, valid
        outside = ~np.logical_and.outer(
            _is_inside(window.y, window.height, self.height), _is_inside(window.x, window.width, self.width)
        )
        pick = np.ix_(rows - inner.y, columns - inner.x)
        return image[pick], valid[pick] & ~outside

    def _read_inside(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Image and valid pixels of a window that lies inside.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((1, 1), np.int16))
        >>> RasterScene(path)._read_inside(Window(0, 0, 1, 1))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...a.tif: values are int16, a picture needs 8 bits; give a value scaling ...
        """
        scaling = self.scaling
        if scaling is None and self.dtype != np.uint8:
            raise DataError(
                f"{self.paths[0]}: values are {self.dtype}, a picture needs 8 bits; "
                "give a value scaling (percentiles or a range)"
            )
        values, valid = self._read_planes(window)
        planes = (scaling or ValueScaling.identity(self.num_bands)).apply(values, axis=0)
        image = np.ascontiguousarray(planes.transpose(1, 2, 0))
        if not valid.all():
            image[~valid] = neutral_colour(self.num_bands)
        return image, valid

    def read_values(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read raw values of a window that lies inside, resampled to the scene's grid.

        Parameters
        ----------
        window : Window
            Inside, on the grid after `scale`.

        Returns
        -------
        values : array, shape (height, width, num_bands)
            In the scene's type, or a real one when resampled; 0 where not valid and not a number.
        valid : bool array, shape (height, width)

        Raises
        ------
        ValueError
            If the window does not lie inside.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.float32([[1, 3], [np.nan, 8]]))
        >>> values, valid = RasterScene(path, scale=0.5).read_values(Window(0, 0, 1, 1))
        >>> values[0, 0].tolist(), valid.tolist()
        ([4.0, 4.0, 4.0], [[True]])
        """
        if window.intersection(Window(0, 0, self.height, self.width)) != window:
            raise ValueError(f"{window} does not lie inside {self.height} x {self.width} pixels (height x width)")
        planes, valid = self._read_planes(window)
        return planes.transpose(1, 2, 0), valid

    def _read_planes(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Values, shape (bands, height, width), and valid pixels of a window that lies inside.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.uint8([[[1, 2, 3], [4, 5, 6]]]))
        >>> RasterScene(path)._read_planes(Window(0, 0, 1, 2))[0].tolist()
        [[[1, 4]], [[2, 5]], [[3, 6]]]
        """
        if self.grid == self.file_grid:
            return self._read_raw(window)
        across = -(-window.width * self.file_grid.width // self.width)
        rows = max(1, int(_CHUNK_PIXELS / across * self.height / self.file_grid.height))
        starts = range(window.y, window.rows.stop, rows)
        parts = [self._resample(Window(y, window.x, min(rows, window.rows.stop - y), window.width)) for y in starts]
        values, valid = zip(*parts, strict=True)
        return np.concatenate(values, axis=1), np.concatenate(valid)

    def _resample(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Values, shape (bands, height, width), of a window on the scaled grid, made from the file's pixels under it.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.uint8([[0, 8]]))
        >>> RasterScene(path, scale=2)._resample(Window(0, 0, 1, 4))[0][0, 0].tolist()
        [0.0, 2.0, 6.0, 8.0]
        """
        source = self.file_grid
        rows, row_weight = axis_weights(window.y, window.height, source.height, self.height, self.resampling)
        columns, column_weight = axis_weights(window.x, window.width, source.width, self.width, self.resampling)
        top, left = int(rows.min()), int(columns.min())
        values, valid = self._read_raw(Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1))
        return resample(values, valid, (rows - top, row_weight), (columns - left, column_weight))

    def _read_raw(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Values, shape (bands, height, width), and valid pixels of a window of the files.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.uint8([[[0, 0, 0], [0, 1, 0]]]), nodata=0)
        >>> RasterScene(path)._read_raw(Window(0, 0, 1, 2))[1].tolist()
        [[False, True]]
        """
        shape = (window.height, window.width)
        values = np.empty((self.num_bands, *shape), dtype=self.dtype)
        missing = np.zeros(values.shape, dtype=bool)
        visible = np.ones(shape, dtype=bool)
        for place in dict.fromkeys(place for place, _ in self.channels):
            targets = [target for target, (other, _) in enumerate(self.channels) if other == place]
            block = self._read_channels(place, window, [self.channels[target][1] for target in targets])
            values[targets] = block.values
            if block.missing is not None:
                missing[targets] = block.missing
            if block.hidden is not None:
                visible &= ~block.hidden
        if missing.any():
            visible &= ~(missing.all(axis=0) if self._unsigned else missing.any(axis=0))
            values[:, ~visible] = 0
        return values, visible

    def _read_channels(self, place: int, window: Window, bands: list[int]) -> RawBlock:
        """Some channels of one file; each band is read once, however often it is wanted.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.uint8([[[1, 2, 3]]]))
        >>> RasterScene(path)._read_channels(0, Window(0, 0, 1, 1), [3, 1, 3]).values.ravel().tolist()
        [3, 1, 3]
        """
        file = self._files[place]
        if self._has_palette:
            return _look_up_colours(file.read(window, [1]), file.header.palette or ())
        unique = sorted(set(bands))
        block = file.read(window, unique)
        if unique == bands:
            return block
        order = [unique.index(band) for band in bands]
        return RawBlock(block.values[order], None if block.missing is None else block.missing[order], block.hidden)

    def close(self) -> None:
        """Close the files that this thread holds open for the scene.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((1, 1), np.uint8))
        >>> scene = RasterScene(path)
        >>> _ = scene.read(Window(0, 0, 1, 1))
        >>> scene.close()
        >>> any(key[0] == path for key in _HANDLES.open)
        False
        """
        _HANDLES.close([file.path for file in self._files])


def _look_up_colours(block: RawBlock, palette: Sequence[tuple[int, int, int, int]]) -> RawBlock:
    """Replace the values of a paletted raster by their colours.

    Examples
    --------
    >>> block = RawBlock(np.uint8([[[0, 1]]]), None, None)
    >>> colours = _look_up_colours(block, [(1, 2, 3, 255), (7, 8, 9, 0)])
    >>> colours.values[:, 0, 1].tolist(), colours.hidden.tolist()
    ([7, 8, 9], [[False, True]])
    """
    table = np.array(palette, dtype=np.uint8)
    colours = table[block.values[0]]
    hidden = colours[:, :, 3] == 0
    hidden = hidden if block.hidden is None else hidden | block.hidden
    missing = None if block.missing is None else np.repeat(block.missing, _PALETTE_COLOURS, axis=0)
    return RawBlock(colours[:, :, :3].transpose(2, 0, 1), missing, hidden)


def neutral_colour(num_bands: int) -> np.ndarray:
    """The colour of nothing: ImageNet's mean for three colours, mid-grey for further bands.

    Examples
    --------
    >>> neutral_colour(4).tolist()
    [124, 116, 104, 128]
    """
    return np.array((*NEUTRAL_COLOUR, *(NEUTRAL_EXTRA,) * (num_bands - 3))[:num_bands], dtype=np.uint8)


def reflect_index(start: int, count: int, size: int) -> np.ndarray:
    """Positions on an axis whose outside is its reflection about the first and last pixel.

    Examples
    --------
    >>> reflect_index(-2, 8, 4).tolist(), reflect_index(-1, 3, 1).tolist()
    ([2, 1, 0, 1, 2, 3, 2, 1], [0, 0, 0])
    """
    period = max(2 * (size - 1), 1)
    position = np.arange(start, start + count) % period
    return np.minimum(position, period - position) if size > 1 else np.zeros(count, dtype=np.int64)


def _is_inside(start: int, count: int, size: int) -> np.ndarray:
    """Which positions of a stretch lie on the axis.

    Examples
    --------
    >>> _is_inside(-1, 4, 2).tolist()
    [False, True, True, False]
    """
    position = np.arange(start, start + count)
    return (position >= 0) & (position < size)


def has_content(valid: np.ndarray) -> bool:
    """Whether a window holds anything; windows that do not are dropped.

    Examples
    --------
    >>> has_content(np.array([[False, True]])), has_content(np.zeros((2, 3), bool))
    (True, False)
    """
    return bool(valid.any())


def pixel_grid(path: str | Path) -> PixelGrid:
    """The grid of a file.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.zeros((4, 6), np.uint8))
    >>> pixel_grid(path).height
    4
    """
    return read_header(path).grid


# ---------------------------------------------------------------------------------------------- global scaling


def estimate_scaling(
    scenes: Sequence[RasterScene],
    percentiles: Sequence[float] = (1.0, 99.0),
    value_range: Sequence[float] | None = None,
    *,
    seed: int = 0,
    max_windows: int = 64,
    window_size: int = 256,
) -> ValueScaling:
    """Find one scaling of values for all scenes, from a bounded number of windows drawn by a seed.

    Parameters
    ----------
    scenes : sequence of RasterScene
        With the same number of channels.
    percentiles : (float, float)
        Shares in percent below which a value becomes 0 and above which 255, per band. Scenes of 8 bits stay as they
        are.
    value_range : (float, float), optional
        Fixed values instead, the same for every band, also for scenes of 8 bits.
    seed : int
        Of the choice of windows.
    max_windows, window_size : int
        How much is read: at most this many windows of at most this many pixels a side.

    Raises
    ------
    DataError
        If the scenes differ in channels, or no window of them holds anything.
    SettingsError
        If the percentiles or the range make no sense.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.arange(-1, 101, dtype=np.int16).reshape(6, 17), nodata=-1)
    >>> estimate_scaling([RasterScene(path)], (10, 90)).to_json()
    {'low': [10.0, 10.0, 10.0], 'high': [90.0, 90.0, 90.0]}
    """
    counts = {scene.num_bands for scene in scenes}
    if len(counts) != 1:
        found = ", ".join(f"{scene.paths[0]}: {scene.num_bands}" for scene in scenes)
        raise DataError(
            "all scenes must have the same number of bands to share a scaling; "
            f"got {found or 'no scene'}; set dataset.bands"
        )
    num_bands = counts.pop()
    if value_range is not None:
        return ValueScaling((value_range[0],) * num_bands, (value_range[1],) * num_bands)
    if all(scene.dtype == np.uint8 for scene in scenes):
        return ValueScaling.identity(num_bands)
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise SettingsError(f"percentiles: expected two shares with 0 <= low < high <= 100, got {tuple(percentiles)}")
    sample = _sample_values(scenes, np.random.default_rng(seed), max_windows, window_size)
    low, high = np.percentile(sample.astype(np.float64), percentiles, axis=0)
    return ValueScaling(tuple(low), tuple(_above(a, b) for a, b in zip(low, high, strict=True)))


def _above(low: float, high: float) -> float:
    """The upper end of a band's values, moved up for a constant band, which then becomes 0.

    Examples
    --------
    >>> _above(2.0, 9.0), _above(2.0, 2.0), _above(2e20, 2e20) > 2e20
    (9.0, 3.0, True)
    """
    return float(high) if high > low else float(low) + max(1.0, abs(float(low)) * 1e-6)


def _sample_values(
    scenes: Sequence[RasterScene], generator: np.random.Generator, max_windows: int, size: int
) -> np.ndarray:
    """Values of valid pixels, shape (N, bands), from windows spread over all scenes.

    Raises
    ------
    DataError
        If no window that was tried holds anything.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.uint8([[0, 7], [8, 0]]), nodata=0)
    >>> sorted(_sample_values([RasterScene(path)], np.random.default_rng(0), 4, 1)[:, 0].tolist())
    [7, 8]
    """
    chosen = generator.permutation(len(scenes))[:max_windows]
    share = max(1, max_windows // len(chosen))
    samples = [values for index in chosen for values in _sample_scene(scenes[index], generator, share, size)]
    if not samples:
        raise DataError(
            f"{scenes[0].paths[0]}: no valid pixel in up to {4 * share} windows "
            f"in each of {len(chosen)} scenes; check nodata"
        )
    return np.concatenate(samples)


def _sample_scene(scene: RasterScene, generator: np.random.Generator, share: int, size: int) -> list[np.ndarray]:
    """Values from up to `share` windows of a scene that hold something; empty ones are replaced up to four times.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.uint8([[1, 2, 3]]))
    >>> [values.tolist() for values in _sample_scene(RasterScene(path), np.random.default_rng(0), 1, 8)]
    [[[1, 1, 1], [2, 2, 2], [3, 3, 3]]]
    """
    across = -(-scene.width // size)
    total = across * -(-scene.height // size)
    samples: list[np.ndarray] = []
    for place in (
        generator.permutation(total)[: 4 * share] if total < 10**6 else generator.integers(0, total, 4 * share)
    ):
        y, x = divmod(int(place), across)
        window = Window(y * size, x * size, size, size).intersection(Window(0, 0, scene.height, scene.width))
        assert window is not None, "the place lies on the grid"
        values, valid = scene.read_values(window)
        if has_content(valid) and len(samples) < share:
            samples.append(values[valid])
        if len(samples) == share:
            break
    return samples


# ---------------------------------------------------------------------------------------------- checks and writing


def check_scene(path: str | Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> list[str]:
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
