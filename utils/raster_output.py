"""Class maps and polygons on disk: made strip by strip, complete or absent, continued after a stop."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import shapes
from rasterio.windows import Window as RasterioWindow

from utils.errors import DataError, SettingsError
from utils.files import digest_json, sync, write_bytes, write_json
from utils.tiling import Window

NODATA = 255
COMPRESSIONS = ("deflate", "zstd", "lzw", "none")
CONFIDENCE_STEPS = 254  # confidence 1.0 is stored as 254; 255 stays free for nodata

_BLOCK = 512  # side of a tile in the files, in pixels
_CACHE_BYTES = 64 << 20  # GDAL would take 5 % of the machine's memory
_STRIP_VERSION = 1


def bounded_gdal() -> rasterio.Env:
    """GDAL with a small block cache and without `.aux.xml` files beside the results.

    Examples
    --------
    >>> with bounded_gdal():
    ...     rasterio.env.get_gdal_config("GDAL_CACHEMAX")
    67108864
    """
    return rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, GDAL_PAM_ENABLED="NO")


@contextmanager
def _told_when_full(output: Path, work: Path) -> Iterator[None]:
    """Turn a failed write into a message that says what to do.

    Examples
    --------
    >>> with _told_when_full(Path("/tmp/a.tif"), Path("/tmp/.a.tif.partial")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /tmp/a.tif: could not be written (No space left on device; ... GB are free in /tmp): ...
    """
    try:
        yield
    except (OSError, RasterioError, rasterio._err.CPLE_BaseError) as error:
        reason = getattr(error, "strerror", None) or str(error.__cause__ or error)  # rasterio's own text says little
        raise DataError(_full_disk_message(output, work, reason)) from error


def _full_disk_message(output: Path, work: Path, reason: str) -> str:
    """Say that an output could not be written, how much room there is, and what to do.

    Examples
    --------
    >>> _full_disk_message(Path("/tmp/a.tif"), Path("/tmp/w"), "full").split(" (")[0]
    '/tmp/a.tif: could not be written'
    """
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free / 1e9
    return (
        f"{output}: could not be written ({reason}; {free:.1f} GB are free in {folder}): free some space or "
        f"choose another folder and run again; what is finished is kept in {work}"
    )


class StripStore:
    """Finished strips of rows in a work folder, each in one small compressed file that is whole or absent.

    The key stands in the file names. So several processes may write strips into one folder, and strips of other
    settings are neither read nor, while they are being written, disturbed.

    Parameters
    ----------
    folder : str or Path
        The work folder; made with the first strip.
    key : str
        Digest of everything the pixels depend on.
    planes : int
        uint8 planes per strip.
    height, width : int
        Size of the whole raster in pixels.

    Examples
    --------
    >>> import tempfile
    >>> store = StripStore(Path(tempfile.mkdtemp()) / "work", "k", planes=1, height=5, width=3)
    >>> store.save(1, np.ones((1, 2, 3), np.uint8))
    >>> store.missing_rows(0, 5)
    [(0, 1), (3, 5)]
    """

    def __init__(self, folder: str | Path, key: str, *, planes: int, height: int, width: int):
        self.folder = Path(folder)
        self.key = key
        self.planes = planes
        self.height = height
        self.width = width

    def save(self, y: int, strip: np.ndarray) -> None:
        """Write a strip so that it survives a kill or a power cut.

        Parameters
        ----------
        y : int
            Its first row.
        strip : ndarray of uint8, shape (planes, rows, width)
            Its pixels.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3)
        >>> store.save(2, np.ones((1, 2, 3), np.uint8))
        >>> os.listdir(store.folder)
        ['k_0000000002_2.strip']
        """
        packed = [zlib.compress(np.ascontiguousarray(plane).data, 1) for plane in strip]
        sizes = struct.pack(f"<{len(packed)}Q", *map(len, packed))
        write_bytes(self.folder / f"{self.key}_{y:010d}_{strip.shape[1]}.strip", sizes + b"".join(packed))

    def strips(self) -> list[tuple[int, int, Path]]:
        """First row, row after the last, and file of every strip of this key, from the top down.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3)
        >>> store.save(3, np.ones((1, 2, 3), np.uint8)), store.save(0, np.ones((1, 3, 3), np.uint8))
        (None, None)
        >>> [strip[:2] for strip in store.strips()]
        [(0, 3), (3, 5)]
        """
        found = []
        for path in self.folder.glob(f"{self.key}_*.strip"):
            _, y, height = path.stem.rsplit("_", 2)
            found.append((int(y), int(y) + int(height), path))
        return sorted(found)

    def missing_rows(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of rows within start..stop that no strip holds.

        Examples
        --------
        >>> import tempfile
        >>> StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3).missing_rows(1, 4)
        [(1, 4)]
        """
        missing, row = [], start
        for first, last, _ in self.strips():
            if first >= stop:
                break
            if first > row:
                missing.append((row, first))
            row = max(row, last)
        return missing if row >= stop else [*missing, (row, stop)]

    def read_bands(self, plane: int, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Read one plane from the top down in bands of equal height, with one band and one strip in memory.

        Parameters
        ----------
        plane : int
            Which plane.
        rows : int
            Rows of a band; the last may have fewer.

        Yields
        ------
        y : int
            First row of the band.
        band : ndarray of uint8, shape (<= rows, width)
            Its pixels; overwritten by the next one.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=1)
        >>> store.save(0, np.array([[[0], [1], [2]]], np.uint8)), store.save(2, np.array([[[2], [3], [4]]], np.uint8))
        (None, None)
        >>> [(y, band.ravel().tolist()) for y, band in store.read_bands(0, rows=2)]
        [(0, [0, 1]), (2, [2, 3]), (4, [4])]
        """
        band = np.empty((rows, self.width), np.uint8)
        row = 0
        for first, last, path in self.strips():
            strip = self._read(path, plane, last - first) if last > row else None
            while strip is not None and row < last:
                count = min(last - row, rows - row % rows)
                band[row % rows : row % rows + count] = strip[row - first : row - first + count]
                row += count
                if row % rows == 0 or row == self.height:
                    top = (row - 1) // rows * rows
                    yield top, band[: row - top]

    def _read(self, path: Path, plane: int, rows: int) -> np.ndarray:
        """Unpack one plane of a strip; a damaged strip is removed, so that the next run makes it anew.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "k", planes=1, height=5, width=3)
        >>> _ = (store.folder / "k_0_1.strip").write_bytes(bytes(9))
        >>> store._read(store.folder / "k_0_1.strip", 0, 1)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: .../k_0_1.strip: damaged strip, removed; run again to make these rows anew
        """
        data = path.read_bytes()
        try:
            sizes = struct.unpack_from(f"<{self.planes}Q", data)
            start = 8 * self.planes + sum(sizes[:plane])
            pixels = zlib.decompress(memoryview(data)[start : start + sizes[plane]])
            return np.frombuffer(pixels, np.uint8).reshape(rows, self.width)
        except (struct.error, zlib.error, ValueError) as error:
            path.unlink()
            raise DataError(f"{path}: damaged strip, removed; run again to make these rows anew") from error

    def drop_others(self) -> None:
        """Remove the strips of other keys, which nothing can use any more.

        Examples
        --------
        >>> import tempfile
        >>> store = StripStore(tempfile.mkdtemp(), "new", planes=1, height=5, width=3)
        >>> _ = (store.folder / "old_0_1.strip").write_bytes(b"")
        >>> store.drop_others(), os.listdir(store.folder)
        (None, [])
        """
        for path in self.folder.glob("*.strip"):
            # names with a dot are being written, perhaps by another rank
            if not path.name.startswith((f"{self.key}_", ".")):
                path.unlink(missing_ok=True)


@dataclass
class _OpenStrip:
    """A strip of rows that is being filled with blocks.

    Parameters
    ----------
    y : int
        Its first row.
    planes : ndarray of uint8, shape (planes, rows, width)
        Its pixels.

    Examples
    --------
    >>> strip = _OpenStrip(4, np.zeros((1, 2, 3), np.uint8))
    >>> strip.complete
    False
    """

    y: int
    planes: np.ndarray
    filled: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.filled = np.zeros(self.planes.shape[2], bool)

    @property
    def complete(self) -> bool:
        """Whether all its columns have come.

        Examples
        --------
        >>> _OpenStrip(0, np.zeros((1, 2, 0), np.uint8)).complete
        True
        """
        return bool(self.filled.all())

    def put(self, window: Window, planes: Sequence[np.ndarray]) -> None:
        """Copy one block in.

        Examples
        --------
        >>> strip = _OpenStrip(4, np.zeros((1, 1, 3), np.uint8))
        >>> strip.put(Window(4, 1, 1, 2), [np.array([[5, 6]])])
        >>> strip.planes.tolist(), strip.filled.tolist()
        ([[[0, 5, 6]]], [False, True, True])
        """
        if (window.y, window.height) != (self.y, self.planes.shape[1]):
            rows = slice(self.y, self.y + self.planes.shape[1])
            raise ValueError(f"{window}: a block of another strip came before the strip of {rows} was full")
        if self.filled[window.columns].any():
            raise ValueError(f"{window}: these columns have come before")
        for target, block in zip(self.planes, planes, strict=True):
            target[:, window.columns] = block
        self.filled[window.columns] = True


@dataclass(frozen=True)
class _Target:
    """One file that is to be made, and how GDAL is told so.

    Parameters
    ----------
    path : Path
        Its final name.
    kind : {"cog", "gtiff", "png"}
        Its format.
    compress : str
        Compression of a TIFF.
    overviews : Resampling
        How overviews are made.

    Examples
    --------
    >>> _Target(Path("a.tif"), "cog", "zstd", Resampling.mode).copy_options["OVERVIEW_RESAMPLING"]
    'MODE'
    """

    path: Path
    kind: str
    compress: str
    overviews: Resampling

    @property
    def copy_options(self) -> dict[str, Any]:
        """Creation options of the drivers that only copy.

        Examples
        --------
        >>> _Target(Path("a.png"), "png", "none", Resampling.mode).copy_options
        {'driver': 'PNG', 'WRITE_METADATA_AS_TEXT': 'YES'}
        """
        if self.kind == "png":
            return {"driver": "PNG", "WRITE_METADATA_AS_TEXT": "YES"}
        options = {"driver": "COG", "COMPRESS": self.compress.upper(), "BLOCKSIZE": _BLOCK, "BIGTIFF": "IF_SAFER"}
        return options | {"OVERVIEW_RESAMPLING": self.overviews.name.upper()}


class ClassRasterWriter:
    """Write a class map of any size, in strips that survive a stop, to one file that appears when complete.

    Blocks come as `StripBlender` yields them. Every finished strip of rows is saved in the work folder
    `.<name>.partial` beside the destination; `close` puts them together, reads the result back, and only then gives it
    its name. Several processes may write different bands of rows; one of them closes.

    Parameters
    ----------
    destination : str or Path
        `.tif` or `.tiff` for a raster, `.png` for a picture with a palette.
    height, width : int
        Size in pixels.
    crs, transform : optional
        Georeference as rasterio takes it; None for a picture without.
    class_names : sequence of str
        K names, at most 255.
    palette : array-like, shape (K, 3)
        Colour of each class, red, green, blue in 0..255.
    nodata : int, default 255
        Value of pixels without data; no class has it.
    confidence : bool, default False
        Also write `<stem>_confidence`: confidence times 254, rounded, as uint8 (a file of its own, because a colour
        table holds for a file with one band only).
    format : {"cog", "gtiff"}
        Kind of a TIFF.
    compress : {"deflate", "zstd", "lzw", "none"}
        Compression of a TIFF; every reader knows deflate, zstd is faster.
    fingerprint : dict, optional
        Everything else that the pixels depend on: raster, checkpoint, settings. Strips of another fingerprint are
        dropped.

    Raises
    ------
    SettingsError
        If the suffix, format, compression, classes or nodata cannot be used.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "map.tif"
    >>> options = {"class_names": ["field", "road"], "palette": [[0, 255, 0], [9, 9, 9]], "confidence": True}
    >>> writer = ClassRasterWriter(path, height=2, width=3, **options)
    >>> writer.append(Window(0, 0, 1, 3), np.array([[0, 1, 255]], np.uint8), np.array([[0.5, 1.0, 0.0]]))
    >>> writer.resume_row()
    1
    >>> writer.append(Window(1, 0, 1, 3), np.array([[1, 1, 0]], np.uint8), np.array([[1.0, 1.0, 1.0]]))
    >>> [output.name for output in writer.close()]
    ['map.tif', 'map_confidence.tif']
    >>> with rasterio.open(path) as raster:
    ...     raster.read(1).tolist(), raster.nodata
    ([[0, 1, 255], [1, 1, 0]], 255.0)
    """

    def __init__(
        self,
        destination: str | Path,
        *,
        height: int,
        width: int,
        crs: Any = None,
        transform: Any = None,
        class_names: Sequence[str],
        palette: Any,
        nodata: int = NODATA,
        confidence: bool = False,
        format: str = "cog",
        compress: str = "deflate",
        fingerprint: dict | None = None,
    ):
        self.destination = Path(destination)
        self.height, self.width = height, width
        self.crs, self.transform = crs, transform
        self.class_names = list(class_names)
        self.palette = np.asarray(palette)
        self.nodata = nodata
        self.targets = self._plan_targets(confidence, format, compress)
        self._check_classes()
        pixels = {"version": _STRIP_VERSION, "size": [height, width], "planes": len(self.targets), "nodata": nodata}
        self._fingerprint = {**pixels, "classes": len(self.class_names), **(fingerprint or {})}
        looks = [self.class_names, self.palette.tolist(), [target.kind for target in self.targets], compress]
        self._output_key = digest_json([self._fingerprint, looks])
        self.work = self.destination.parent / f".{self.destination.name}.partial"
        key = digest_json(self._fingerprint)[:16]
        self.store = StripStore(self.work, key, planes=len(self.targets), height=height, width=width)
        self._strip: _OpenStrip | None = None
        self._begun = False

    def _plan_targets(self, confidence: bool, format: str, compress: str) -> list[_Target]:
        """List the files to make: the classes, and the confidence when it is wanted.

        Examples
        --------
        >>> ClassRasterWriter("a.jpg", height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: a.jpg: class maps are written as .tif, .tiff or .png, got '.jpg'
        """
        suffix = self.destination.suffix.lower()
        if suffix not in (".tif", ".tiff", ".png"):
            raise SettingsError(f"{self.destination}: class maps are written as .tif, .tiff or .png, got {suffix!r}")
        if format not in ("cog", "gtiff"):
            raise SettingsError(f"unknown raster format {format!r}; known: cog, gtiff")
        if compress not in COMPRESSIONS:
            raise SettingsError(f"unknown compression {compress!r}; known: {', '.join(COMPRESSIONS)}")
        kind = "png" if suffix == ".png" else format
        targets = [_Target(self.destination, kind, compress, Resampling.mode)]
        if confidence:
            path = self.destination.with_stem(f"{self.destination.stem}_confidence")
            targets.append(_Target(path, kind, compress, Resampling.average))
        return targets

    def _check_classes(self) -> None:
        """Make sure that every class has a value, a name and a colour, and nodata none of them.

        Examples
        --------
        >>> ClassRasterWriter("a.tif", height=1, width=1, class_names=["a"], palette=[[0, 0, 0]], nodata=0)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: nodata 0 is a class; choose a value from 1 to 255
        """
        count = len(self.class_names)
        if not 1 <= count <= 255:
            raise SettingsError(f"a class map holds 1 to 255 classes (one value is kept for nodata), got {count}")
        if not count <= self.nodata <= 255:
            raise SettingsError(f"nodata {self.nodata} is a class; choose a value from {count} to 255")
        if self.palette.shape != (count, 3) or self.palette.min() < 0 or self.palette.max() > 255:
            raise SettingsError(
                f"the palette must hold red, green, blue in 0..255 for each of {count} classes, "
                f"got shape {self.palette.shape}"
            )

    @property
    def outputs(self) -> list[Path]:
        """The files that `close` makes.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]], "confidence": True}
        >>> [path.name for path in ClassRasterWriter("a.png", height=1, width=1, **options).outputs]
        ['a.png', 'a_confidence.png']
        """
        return [target.path for target in self.targets]

    def is_finished(self) -> bool:
        """Whether the outputs stand there already, made with the same fingerprint and looks.

        A work folder that a kill after the naming left behind is then removed.

        Examples
        --------
        >>> ClassRasterWriter("/no.tif", height=1, width=1, class_names=["a"], palette=[[0, 0, 0]]).is_finished()
        False
        """
        if not all(path.exists() for path in self.outputs):
            return False
        try:
            with bounded_gdal(), _open(self.destination) as raster:
                finished = raster.tags().get("DINOLITH_OUTPUT") == self._output_key
        except RasterioError:
            return False  # something else stands under the name
        if finished:
            shutil.rmtree(self.work, ignore_errors=True)
        return finished

    def missing_rows(self, rows: tuple[int, int] | None = None) -> list[tuple[int, int]]:
        """Ranges of rows that are still to be made.

        Parameters
        ----------
        rows : (int, int), optional
            Look only at these (first, one after the last).

        Returns
        -------
        list of (int, int)
            From the top down; empty when nothing is missing.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]]}
        >>> ClassRasterWriter("/tmp/none.tif", height=9, width=1, **options).missing_rows((2, 5))
        [(2, 5)]
        """
        return self.store.missing_rows(*(rows or (0, self.height)))

    def resume_row(self, rows: tuple[int, int] | None = None) -> int:
        """First row that is still to be made; the end of the range when there is none.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]]}
        >>> ClassRasterWriter("/tmp/none.tif", height=9, width=1, **options).resume_row((2, 5))
        2
        """
        missing = self.missing_rows(rows)
        return missing[0][0] if missing else (rows or (0, self.height))[1]

    def append(self, window: Window, classes: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Take one block; when it fills its strip of rows, the strip is saved.

        Parameters
        ----------
        window : Window
            The block's place. All blocks of a strip have the same rows, and come in any order; strips follow each
            other without a mixture.
        classes : ndarray of uint8, shape (height, width) of the window
            Class index of each pixel, or nodata.
        confidence : ndarray of float, same shape, optional
            In 0..1; needed when the writer was told to write it.

        Raises
        ------
        ValueError
            If shape, type, values or the order do not fit.
        DataError
            If the disk is full; finished strips are kept.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]]}
        >>> writer = ClassRasterWriter("/tmp/none.tif", height=1, width=1, **options)
        >>> writer.append(Window(0, 0, 1, 1), np.array([[7]], np.uint8))
        Traceback (most recent call last):
            ...
        ValueError: Window(y=0, x=0, height=1, width=1): class 7 is neither below 1 nor nodata 255
        """
        planes = self._check_block(window, classes, confidence)
        if self._strip is None:
            pixels = np.empty((len(self.targets), window.height, self.width), np.uint8)
            self._strip = _OpenStrip(window.y, pixels)
        self._strip.put(window, planes)
        if self._strip.complete:
            self._save(self._strip)
            self._strip = None

    def _check_block(self, window: Window, classes: np.ndarray, confidence: np.ndarray | None) -> list[np.ndarray]:
        """Make sure that a block can be stored, and bring it into the stored types.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]], "confidence": True}
        >>> writer = ClassRasterWriter("a.tif", height=1, width=2, **options)
        >>> block = np.array([[0, 255]], np.uint8), np.array([[0.5, 0.5]])
        >>> [plane.tolist() for plane in writer._check_block(Window(0, 0, 1, 2), *block)]
        [[[0, 255]], [[127, 255]]]
        """
        whole = Window(0, 0, self.height, self.width)
        if window.intersection(whole) != window:
            raise ValueError(f"{window} does not lie within {whole}")
        given = [classes] if confidence is None else [classes, confidence]
        if len(given) != len(self.targets) or classes.dtype != np.uint8:
            wanted = ", ".join(["uint8 classes", "confidence"][: len(self.targets)])
            raise ValueError(f"{window}: expected {wanted}, got {', '.join(str(plane.dtype) for plane in given)}")
        if any(plane.shape != (window.height, window.width) for plane in given):
            raise ValueError(f"{window}: got planes of shape {[plane.shape for plane in given]}")
        empty = classes == self.nodata
        wrong = classes[(classes >= len(self.class_names)) & ~empty]
        if wrong.size:
            raise ValueError(
                f"{window}: class {wrong[0]} is neither below {len(self.class_names)} nor {self._nodata_name}"
            )
        return [classes] if confidence is None else [classes, encode_confidence(confidence, empty)]

    @property
    def _nodata_name(self) -> str:
        """Nodata as messages name it.

        Examples
        --------
        >>> ClassRasterWriter("a.tif", height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])._nodata_name
        'nodata 255'
        """
        return f"nodata {self.nodata}"

    def _save(self, strip: _OpenStrip) -> None:
        """Save a full strip; before the first, drop those of other fingerprints.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> writer = ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer._save(_OpenStrip(0, np.zeros((1, 1, 1), np.uint8)))
        >>> sorted(path.suffix for path in writer.work.iterdir())
        ['.json', '.strip']
        """
        with _told_when_full(self.destination, self.work):
            if not self._begun:
                self.store.drop_others()
                write_json(self.work / "fingerprint.json", self._fingerprint)  # for people; strips carry its digest
                self._begun = True
            self.store.save(strip.y, strip.planes)

    def close(self) -> list[Path]:
        """Put the strips together, check the result, give it its name, and remove the work folder.

        Memory is one band of rows and a bounded block cache, whatever the height.

        Returns
        -------
        list of Path
            The files, classes first.

        Raises
        ------
        ValueError
            If rows are missing.
        DataError
            If the disk is full or a strip is damaged; finished strips are kept.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]]}
        >>> ClassRasterWriter("/tmp/none.tif", height=9, width=1, **options).close()
        Traceback (most recent call last):
            ...
        ValueError: /tmp/none.tif: rows 0..9 have not been written
        """
        missing = self.missing_rows()
        if missing:
            ranges = ", ".join(f"{first}..{last}" for first, last in missing)
            raise ValueError(f"{self.destination}: rows {ranges} have not been written")
        try:
            with bounded_gdal(), _told_when_full(self.destination, self.work):
                made = [self._assemble(plane) for plane in range(len(self.targets))]
                self._write_style()
                self._publish(made)
        except DataError:
            self._drop_unfinished()
            raise
        shutil.rmtree(self.work)
        return self.outputs

    def _publish(self, made: Sequence[Path]) -> None:
        """Give finished files their names; the classes last, because they stand for the whole result.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> _ = path.with_name("made.tif").write_text("x")
        >>> writer = ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer._publish([path.with_name("made.tif")])
        >>> os.listdir(path.parent)
        ['a.tif']
        """
        for temporary, path in reversed(list(zip(made, self.outputs, strict=True))):
            sync(temporary)
            os.replace(temporary, path)
        sync(self.destination.parent)

    def _drop_unfinished(self) -> None:
        """Remove what a failed `close` has begun, and keep the strips: a full disk needs the room.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> writer = ClassRasterWriter(path, height=2, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer.append(Window(0, 0, 1, 1), np.zeros((1, 1), np.uint8))
        >>> _ = (writer.work / "a.tif").write_bytes(b"begun")
        >>> writer._drop_unfinished()
        >>> writer.resume_row(), (writer.work / "a.tif").exists()
        (1, False)
        """
        for path in self.work.iterdir():
            if path.suffix not in (".strip", ".json"):
                path.unlink()

    def _assemble(self, plane: int) -> Path:
        """Make one output in the work folder and read it back.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> writer = ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer.append(Window(0, 0, 1, 1), np.zeros((1, 1), np.uint8))
        >>> writer._assemble(0).name
        'a.cog.tif'
        """
        target = self.targets[plane]
        made = self.work / f"{target.path.stem}.tif"
        self._write_tiff(made, plane)
        if target.kind == "gtiff":
            with _open(made, "r+") as raster:
                raster.build_overviews(_overview_factors(self.height, self.width), target.overviews)
        else:
            copy = self.work / f"{target.path.stem}.{target.kind}{target.path.suffix}"
            rasterio.shutil.copy(made, copy, **target.copy_options)
            made.unlink()
            made = copy
        self._verify(made, plane)
        return made

    def _write_tiff(self, path: Path, plane: int) -> None:
        """Write the strips of one plane to a tiled TIFF, one row of tiles at a time.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> writer = ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer.append(Window(0, 0, 1, 1), np.zeros((1, 1), np.uint8))
        >>> writer._write_tiff(path, 0)
        >>> with rasterio.open(path) as raster:
        ...     raster.tags(1)["CLASS_0"], raster.descriptions
        ('a', ('class',))
        """
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": self.height, "width": self.width}
        tiles = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "bigtiff": "IF_SAFER"}
        place = {"crs": self.crs, "transform": self.transform} if self.transform is not None else {}
        compress = {"compress": self.targets[plane].compress}
        with _open(path, "w", **profile, **tiles, **place, **compress, nodata=self._nodata_of(plane)) as raster:
            self._describe(raster, plane)
            for y, band in self.store.read_bands(plane, _BLOCK):
                raster.write(band, 1, window=RasterioWindow(0, y, self.width, len(band)))

    def _nodata_of(self, plane: int) -> int:
        """Nodata value of a plane.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]], "confidence": True, "nodata": 9}
        >>> writer = ClassRasterWriter("a.tif", height=1, width=1, **options)
        >>> writer._nodata_of(0), writer._nodata_of(1)
        (9, 255)
        """
        return self.nodata if plane == 0 else NODATA

    def _describe(self, raster: Any, plane: int) -> None:
        """Write names, colours and tags into an open file.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[1, 2, 3]], "confidence": True}
        >>> writer = ClassRasterWriter("a.tif", height=1, width=1, **options)
        >>> with rasterio.MemoryFile() as memory:
        ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=1, width=1) as raster:
        ...         writer._describe(raster, 1)
        ...         raster.scales[0] * 254
        1.0
        """
        raster.update_tags(DINOLITH_OUTPUT=self._output_key)
        if plane == 1:
            raster.set_band_description(1, "confidence")
            raster.scales = (1 / CONFIDENCE_STEPS,)
            return
        colors = {index: (*map(int, color), 255) for index, color in enumerate(self.palette)}
        raster.write_colormap(1, colors | {self.nodata: (0, 0, 0, 0)})
        raster.set_band_description(1, "class")
        raster.update_tags(CLASS_NAMES=json.dumps(self.class_names, ensure_ascii=False))
        raster.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(self.class_names)})

    def _write_style(self) -> None:
        """Write a QGIS style beside a TIFF, so that the legend shows the classes by name.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])._write_style()
        >>> os.listdir(path.parent)
        ['a.qml']
        """
        if self.targets[0].kind != "png":
            text = qgis_style(self.class_names, self.palette)
            write_bytes(self.destination.with_suffix(".qml"), text.encode())

    def _verify(self, path: Path, plane: int) -> None:
        """Compare a file with the strips it was made of: not every failed write in GDAL raises.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> writer = ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer.append(Window(0, 0, 1, 1), np.zeros((1, 1), np.uint8))
        >>> with _open(path, "w", driver="GTiff", dtype="uint8", count=1, height=1, width=1) as raster:
        ...     raster.write(np.ones((1, 1, 1), np.uint8))
        >>> writer._verify(path, 0)
        Traceback (most recent call last):
            ...
        OSError: [Errno 28] row 0 reads back differently
        """
        with _open(path) as raster:
            for y, band in self.store.read_bands(plane, _BLOCK):
                if not np.array_equal(raster.read(1, window=RasterioWindow(0, y, self.width, len(band))), band):
                    raise OSError(errno.ENOSPC, f"row {y} reads back differently")
            if raster.driver == "GTiff":
                _check_overviews(raster, path.stat().st_size)


@contextmanager
def _open(path: str | Path, mode: str = "r", **options: Any) -> Iterator[Any]:
    """Open a raster; one without georeference is nothing to warn of.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=1, width=2) as raster:
    ...         raster.shape
    (1, 2)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, mode, **options) as raster:
            yield raster


def _check_overviews(raster: Any, file_size: int) -> None:
    """Make sure that every tile of every overview lies within the file; GDAL may lose the last ones on a full disk.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=513, width=2) as raster:
    ...         raster.write(np.zeros((1, 513, 2), np.uint8))
    ...     with _open(memory.name) as raster:
    ...         _check_overviews(raster, 2000)
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] 0 of 1 overviews can be read
    """
    expected = len(_overview_factors(raster.height, raster.width))
    if len(raster.overviews(1)) != expected:
        raise OSError(errno.ENOSPC, f"{len(raster.overviews(1))} of {expected} overviews can be read")
    for level in range(expected):
        with _open(raster.name, overview_level=level) as overview:
            height, width = overview.shape
            block_height, block_width = overview.block_shapes[0]
        for row in range(-(-height // block_height)):
            for column in range(-(-width // block_width)):
                _check_tile(raster, level, f"{column}_{row}", file_size)


def _check_tile(raster: Any, level: int, place: str, file_size: int) -> None:
    """Make sure that one tile of an overview lies within the file.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=8, width=2) as raster:
    ...         raster.write(np.zeros((1, 8, 2), np.uint8))
    ...         raster.build_overviews([2])
    ...     with _open(memory.name) as raster:
    ...         _check_tile(raster, 0, "0_0", 2000)
    ...         _check_tile(raster, 0, "0_0", 100)
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] tile 0_0 of overview 0 is missing
    """
    offset = raster.get_tag_item(f"BLOCK_OFFSET_{place}", "TIFF", bidx=1, ovr=level)
    size = raster.get_tag_item(f"BLOCK_SIZE_{place}", "TIFF", bidx=1, ovr=level)
    if not offset or not size or int(offset) + int(size) > file_size:
        raise OSError(errno.ENOSPC, f"tile {place} of overview {level} is missing")


def encode_confidence(confidence: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Store confidence in a byte.

    Parameters
    ----------
    confidence : ndarray of float, shape (H, W)
        In 0..1; what is not a number counts as 0.
    empty : ndarray of bool, shape (H, W)
        Pixels without data.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        Confidence times 254, rounded; 255 where there is no data.

    Examples
    --------
    >>> encode_confidence(np.array([[0.0, 0.5, 1.0, 0.7]]), np.array([[False, False, False, True]])).tolist()
    [[0, 127, 254, 255]]
    """
    steps = np.rint(np.nan_to_num(confidence) * CONFIDENCE_STEPS).clip(0, CONFIDENCE_STEPS).astype(np.uint8)
    steps[empty] = NODATA
    return steps


def _overview_factors(height: int, width: int) -> list[int]:
    """Reductions of a raster, until it fits in one tile.

    Examples
    --------
    >>> _overview_factors(512, 512), _overview_factors(100, 1500)
    ([], [2, 4])
    """
    factors: list[int] = []
    while max(height, width) > _BLOCK * 2 ** len(factors):
        factors.append(2 ** (len(factors) + 1))
    return factors


def qgis_style(class_names: Sequence[str], palette: np.ndarray) -> str:
    """Write a layer style for QGIS: the colour and name of each class.

    Parameters
    ----------
    class_names : sequence of str
        K names.
    palette : ndarray, shape (K, 3)
        Red, green, blue in 0..255.

    Returns
    -------
    str
        The text of a `.qml` file; QGIS reads it when it stands beside the raster under the same stem.

    Examples
    --------
    >>> print(qgis_style(["a<b"], np.array([[255, 0, 16]])).splitlines()[5].strip())
    <paletteEntry value="0" color="#ff0010" label="a&lt;b" alpha="255"/>
    """
    entries = [
        f'    <paletteEntry value="{index}" color="#{bytes(color).hex()}" label={quoteattr(name)} alpha="255"/>'
        for index, (name, color) in enumerate(zip(class_names, palette.tolist(), strict=True))
    ]
    head = [
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
        '<qgis version="3.22" styleCategories="Symbology">',
        " <pipe>",
        '  <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">',
        "   <colorPalette>",
    ]
    return "\n".join([*head, *entries, "   </colorPalette>", "  </rasterrenderer>", " </pipe>", "</qgis>", ""])


@dataclass(frozen=True)
class Polygons:
    """Polygons of class maps, with the class of each.

    Parameters
    ----------
    geometries : ndarray of shapely geometries, shape (N,)
        Polygons with their holes.
    classes : ndarray of uint8, shape (N,)
        Class index of each.

    Examples
    --------
    >>> Polygons(np.array([shapely.box(0, 0, 1, 1)]), np.array([3], np.uint8)).classes.tolist()
    [3]
    """

    geometries: np.ndarray
    classes: np.ndarray

    def keep(self, chosen: np.ndarray) -> Polygons:
        """Those at the given indices or where a mask is true.

        Examples
        --------
        >>> boxes = Polygons(shapely.box(0, 0, [1, 2], 1), np.array([3, 4], np.uint8))
        >>> boxes.keep(np.array([False, True])).classes.tolist()
        [4]
        """
        return Polygons(self.geometries[chosen], self.classes[chosen])


def write_polygons(
    classes_path: str | Path,
    destination: str | Path,
    *,
    class_names: Sequence[str],
    skip_classes: Iterable[int] = (),
    simplify_tolerance: float = 0.0,
    min_area: float = 0.0,
    layer: str = "classes",
    band_pixels: int = 1 << 22,
) -> int:
    """Write the areas of a class map as polygons to a GeoPackage.

    Pixels of one class that share a side make one polygon. The map is read in bands of rows; only polygons that cross
    into the next band are kept in memory, the others are written as they are found.

    Parameters
    ----------
    classes_path : str or Path
        A class map with one band.
    destination : str or Path
        The `.gpkg` file; it appears when complete.
    class_names : sequence of str
        Name of each class.
    skip_classes : iterable of int, optional
        Classes to leave out, for instance the background; nodata is always left out.
    simplify_tolerance : float, default 0
        Pixels by which a simplified outline may leave the original; 0 keeps the pixels' sides. Each polygon is
        simplified for itself: neighbours may then overlap or part by as much.
    min_area : float, default 0
        Polygons of fewer pixels are left out.
    layer : str
        Name of the layer.
    band_pixels : int
        Pixels read at a time.

    Returns
    -------
    int
        How many polygons were written. Their fields: `class_index`, `class_name`, `area_px`, and `area_m2` when the map
        has a CRS, both of the pixels, before simplification.

    Raises
    ------
    SettingsError
        If the destination is not a `.gpkg` file.
    DataError
        If the map holds values that are no class, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> writer = ClassRasterWriter(folder / "a.tif", height=3, width=3, class_names=["a"], palette=[[0, 0, 0]])
    >>> writer.append(Window(0, 0, 3, 3), np.array([[0, 0, 0], [0, 255, 0], [0, 0, 0]], np.uint8))
    >>> write_polygons(writer.close()[0], folder / "a.gpkg", class_names=["a"])
    1
    """
    destination = Path(destination)
    if destination.suffix.lower() != ".gpkg":
        raise SettingsError(f"{destination}: polygons are written as .gpkg, got {destination.suffix!r}")
    work = destination.parent / f".{destination.name}.partial"
    shutil.rmtree(work, ignore_errors=True)
    with bounded_gdal(), _open_classes(classes_path) as raster, _told_when_full(destination, work):
        work.mkdir(parents=True)
        sink = _PolygonSink(work / destination.name, layer, raster, list(class_names), simplify_tolerance, min_area)
        for polygons in polygonize(raster, skip_classes, band_pixels):
            sink.add(polygons)
        sink.close()
        sync(sink.path)
        os.replace(sink.path, destination)
        sync(destination.parent)
        shutil.rmtree(work)
    return sink.count


@contextmanager
def _open_classes(path: str | Path) -> Iterator[Any]:
    """Open a class map, or say why it is none.

    Examples
    --------
    >>> with _open_classes("/no/such.tif"):
    ...     pass
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such.tif: cannot be read as a class map (/no/such.tif: No such file or directory)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            opened = rasterio.open(path)
    except RasterioError as error:
        raise DataError(f"{path}: cannot be read as a class map ({error})") from error
    with opened as raster:
        if (raster.count, raster.dtypes[0]) != (1, "uint8"):
            found = f"{raster.count} of {raster.dtypes[0]}"
            raise DataError(f"{path}: a class map has one band of uint8, got {found}")
        yield raster


def _read_rows(raster: Any, top: int, rows: int) -> np.ndarray:
    """Read a band of rows of a class map.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=3, width=2) as raster:
    ...         raster.write(np.array([[[0, 1], [2, 3], [4, 5]]], np.uint8))
    ...     with _open(memory.name) as raster:
    ...         _read_rows(raster, 1, 2).tolist()
    [[2, 3], [4, 5]]
    """
    try:
        return raster.read(1, window=RasterioWindow(0, top, raster.width, rows))
    except RasterioError as error:
        raise DataError(
            f"{raster.name}: rows {top}..{top + rows} cannot be read ({error.__cause__ or error})"
        ) from error


def polygonize(raster: Any, skip_classes: Iterable[int] = (), band_pixels: int = 1 << 22) -> Iterator[Polygons]:
    """Trace the classes of an open class map.

    Parameters
    ----------
    raster : rasterio dataset
        A class map with one uint8 band.
    skip_classes : iterable of int, optional
        Values to leave out besides nodata.
    band_pixels : int
        Pixels read at a time.

    Yields
    ------
    Polygons
        In pixels, origin at the outer corner of the top-left pixel; those that are complete after each band.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
    ...         raster.write(np.array([[[0, 1, 1], [0, 1, 0]]], np.uint8))
    ...     with _open(memory.name) as raster:
    ...         for band in polygonize(raster, skip_classes=[1], band_pixels=3):
    ...             print(shapely.bounds(band.geometries).tolist())
    []
    [[0.0, 0.0, 1.0, 2.0], [2.0, 1.0, 3.0, 2.0]]
    """
    wanted = np.ones(256, bool)
    wanted[[*skip_classes, NODATA if raster.nodata is None else int(raster.nodata)]] = False
    stitcher = _Stitcher(raster.height, raster.width)
    rows = max(1, band_pixels // raster.width)
    if rows > _BLOCK:
        rows -= rows % _BLOCK  # whole tiles are read once
    for top in range(0, raster.height, rows):
        count = min(rows, raster.height - top)
        values = _read_rows(raster, top, count)
        yield stitcher.add(_trace(values, wanted[values], top), top, top + count)


def _trace(values: np.ndarray, wanted: np.ndarray, top: int) -> Polygons:
    """Trace one band of rows that begins at row `top`.

    Examples
    --------
    >>> values = np.array([[7, 7, 0]], np.uint8)
    >>> traced = _trace(values, values > 0, top=10)
    >>> traced.classes.tolist(), shapely.bounds(traced.geometries).tolist()
    ([7], [[0.0, 10.0, 2.0, 11.0]])
    """
    points: list[tuple[float, float]] = []
    ring_ends, polygon_ends, classes = [0], [0], []
    for geometry, value in shapes(values, mask=wanted, connectivity=4):
        for ring in geometry["coordinates"]:
            points.extend(ring)
            ring_ends.append(len(points))
        polygon_ends.append(len(ring_ends) - 1)
        classes.append(value)
    coordinates = np.array(points, dtype=np.float64).reshape(-1, 2) + np.array([0, top])
    offsets = (np.array(ring_ends), np.array(polygon_ends))
    geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, offsets)
    return Polygons(geometries, np.array(classes, dtype=np.uint8))


class _Stitcher:
    """Join the polygons of neighbouring bands of rows, and keep only those that may still grow.

    Parameters
    ----------
    height, width : int
        Size of the raster in pixels.

    Examples
    --------
    >>> stitcher = _Stitcher(4, 3)
    >>> upper = Polygons(np.array([shapely.box(0, 0, 2, 2)]), np.array([1], np.uint8))
    >>> lower = Polygons(np.array([shapely.box(1, 2, 3, 4)]), np.array([1], np.uint8))
    >>> len(stitcher.add(upper, 0, 2).classes), shapely.area(stitcher.add(lower, 2, 4).geometries).tolist()
    (0, [8.0])
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.parts: list[list[shapely.Geometry]] = []  # of each open polygon, one list
        self.classes = np.zeros(0, np.uint8)
        self.border = np.full(width, -1)  # which open polygon each pixel of the last row belongs to

    def add(self, band: Polygons, top: int, bottom: int) -> Polygons:
        """Take the polygons of the rows top..bottom; give those that are complete.

        Examples
        --------
        >>> band = Polygons(np.array([shapely.box(0, 0, 1, 1)]), np.array([1], np.uint8))
        >>> len(_Stitcher(4, 3).add(band, 0, 2).classes)
        1
        """
        bounds = shapely.bounds(band.geometries).reshape(-1, 4)
        grows = (bounds[:, 3] == bottom) & (bottom < self.height)
        touches = grows | ((bounds[:, 1] == top) & (top > 0))
        pieces = band.keep(touches)
        groups = self._join(pieces, top)
        joined = self._regroup(pieces, groups, grows[touches], bottom)
        complete = band.keep(~touches)
        geometries = np.concatenate([complete.geometries, joined.geometries])
        return Polygons(geometries, np.concatenate([complete.classes, joined.classes]))

    def _join(self, pieces: Polygons, top: int) -> np.ndarray:
        """Number the polygons that open ones and new pieces make together; open ones come first.

        Examples
        --------
        >>> stitcher = _Stitcher(4, 2)
        >>> stitcher.parts, stitcher.classes, stitcher.border = [[]], np.array([1]), np.array([0, -1])
        >>> stitcher._join(Polygons(shapely.box([0, 1], 2, [1, 2], 3), np.array([1, 1])), 2).tolist()
        [0, 0, 1]
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(self.parts) + len(pieces.classes)
        below = _border_owners(pieces.geometries, top, self.width)
        meet = np.flatnonzero((self.border >= 0) & (below >= 0))
        above, below = self.border[meet], below[meet]
        same = self.classes[above] == pieces.classes[below]
        edges = (above[same], below[same] + len(self.parts))
        return connected_components(coo_array((np.ones(same.sum()), edges), shape=(count, count)), directed=False)[1]

    def _regroup(self, pieces: Polygons, groups: np.ndarray, grows: np.ndarray, bottom: int) -> Polygons:
        """Gather the parts of each group; keep those open that grow, and unite the others.

        Examples
        --------
        >>> pieces = Polygons(shapely.box([0, 1], 0, [1, 2], 1), np.array([1, 2], np.uint8))
        >>> stitcher = _Stitcher(4, 2)
        >>> stitcher._regroup(pieces, np.array([0, 1]), np.array([False, True]), 1).classes.tolist()
        [1]
        >>> stitcher.classes.tolist(), stitcher.border.tolist()
        ([2], [-1, 0])
        """
        total = int(groups.max(initial=-1)) + 1
        gathered: list[list[shapely.Geometry]] = [[] for _ in range(total)]
        for group, part in zip(groups, [*self.parts, *([piece] for piece in pieces.geometries)], strict=True):
            gathered[group].extend(part)
        classes = np.zeros(total, np.uint8)
        classes[groups] = np.concatenate([self.classes, pieces.classes])
        new = groups[len(self.parts) :]
        stays = np.zeros(total, bool)
        stays[new[grows]] = True
        owners = _border_owners(pieces.geometries, bottom, self.width)
        place = np.append(np.cumsum(stays) - 1, -1)  # the last entry serves pixels without an owner
        self.border = place[np.where(owners >= 0, new[owners] if len(new) else -1, total)]
        self.parts = [gathered[group] for group in np.flatnonzero(stays)]
        self.classes = classes[stays]
        complete = np.flatnonzero(~stays)
        return Polygons(_unite([gathered[group] for group in complete]), classes[complete])


def _unite(parts: Sequence[list[shapely.Geometry]]) -> np.ndarray:
    """Unite the parts of each polygon and drop the corners that the seams left on straight sides.

    Examples
    --------
    >>> united = _unite([[shapely.box(0, 0, 1, 1), shapely.box(0, 1, 1, 2)], [shapely.box(5, 0, 6, 1)]])
    >>> shapely.get_num_coordinates(united).tolist()
    [5, 5]
    """
    united = np.empty(len(parts), dtype=object)
    for index, part in enumerate(parts):
        united[index] = part[0] if len(part) == 1 else shapely.simplify(shapely.union_all(part), 0)
    return united


def _border_owners(geometries: np.ndarray, y: int, width: int) -> np.ndarray:
    """Find which polygon has its side on each pixel of the line at `y`; -1 where none has.

    Examples
    --------
    >>> _border_owners(shapely.box([0, 2], [0, 1], [1, 4], 2), y=2, width=5).tolist()
    [0, -1, 1, 1, -1]
    """
    points, owner = shapely.get_coordinates(shapely.get_exterior_ring(geometries), return_index=True)
    on_line = points[:, 1] == y
    sides = np.flatnonzero(on_line[:-1] & on_line[1:] & (owner[:-1] == owner[1:]))
    ends = np.stack([points[sides, 0], points[sides + 1, 0]])
    left, lengths = ends.min(axis=0).astype(int), np.ptp(ends, axis=0).astype(int)
    owners = np.full(width, -1)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    owners[np.repeat(left, lengths) + within] = np.repeat(owner[sides], lengths)
    return owners


class _PolygonSink:
    """Write polygons in batches to one layer of a GeoPackage.

    Parameters
    ----------
    path : Path
        The file to make.
    layer : str
        Name of the layer.
    raster : rasterio dataset
        Gives CRS and transform.
    class_names : list of str
        Name of each class.
    simplify_tolerance, min_area : float
        In pixels, as in `write_polygons`.

    Examples
    --------
    >>> import tempfile
    >>> with rasterio.MemoryFile() as memory:
    ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
    ...         sink = _PolygonSink(Path(tempfile.mkdtemp()) / "a.gpkg", "a", raster, ["x"], 0.0, 2.0)
    >>> sink.add(Polygons(shapely.box(0, 0, [1, 2], 1), np.array([0, 0], np.uint8)))
    >>> sink.count
    1
    """

    batch = 50_000

    def __init__(
        self, path: Path, layer: str, raster: Any, class_names: list[str], simplify_tolerance: float, min_area: float
    ):
        self.path, self.layer = path, layer
        self.crs, self.transform = raster.crs, raster.transform
        self.class_names = np.array(class_names, dtype=object)
        self.simplify_tolerance, self.min_area = simplify_tolerance, min_area
        self.waiting: list[Polygons] = []
        self.count = 0

    def add(self, polygons: Polygons) -> None:
        """Take polygons in pixels; write when enough have come.

        Examples
        --------
        >>> with rasterio.MemoryFile() as memory:
        ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         sink = _PolygonSink(Path("a.gpkg"), "a", raster, ["x"], 0.0, 0.0)
        >>> sink.add(Polygons(np.array([shapely.box(0, 0, 1, 1)]), np.array([2], np.uint8)))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: the class map holds class 2, but only 1 classes have names
        """
        largest = int(polygons.classes.max(initial=0))
        if largest >= len(self.class_names):
            raise DataError(f"the class map holds class {largest}, but only {len(self.class_names)} classes have names")
        kept = polygons.keep(shapely.area(polygons.geometries) >= self.min_area)
        self.waiting.append(kept)
        self.count += len(kept.classes)
        if sum(len(polygons.classes) for polygons in self.waiting) >= self.batch:
            self._write()

    def close(self) -> None:
        """Write what waits; a map without polygons gives an empty layer.

        Examples
        --------
        >>> import pyogrio, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
        >>> with rasterio.MemoryFile() as memory:
        ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         _PolygonSink(path, "a", raster, ["x"], 0.0, 0.0).close()
        >>> pyogrio.read_info(path)["features"]
        0
        """
        if self.waiting or not self.path.exists():
            self._write()
        indexed = _count_indexed(self.path, self.layer)
        if indexed != self.count:  # on a full disk the last step may fail without an error
            raise OSError(errno.ENOSPC, f"{indexed} of {self.count} polygons are in the spatial index")

    def _write(self) -> None:
        """Write the waiting polygons.

        Examples
        --------
        >>> import pyogrio, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
        >>> with rasterio.MemoryFile() as memory:
        ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         sink = _PolygonSink(path, "a", raster, ["x"], 0.0, 0.0)
        >>> sink.add(Polygons(np.array([shapely.box(0, 0, 2, 2)]), np.array([0], np.uint8)))
        >>> sink._write()
        >>> pyogrio.read_info(path)["fields"].tolist()
        ['class_index', 'class_name', 'area_px']
        """
        from pyogrio.errors import DataLayerError, DataSourceError
        from pyogrio.raw import write

        geometries = np.concatenate([np.zeros(0, object), *(polygons.geometries for polygons in self.waiting)])
        classes = np.concatenate([np.zeros(0, np.uint8), *(polygons.classes for polygons in self.waiting)])
        self.waiting = []
        fields = {"class_index": classes.astype(np.int32), "class_name": self.class_names[classes]}
        fields |= self._measure(geometries)
        placed = self._place(geometries)
        options = {"driver": "GPKG", "geometry_type": "MultiPolygon", "promote_to_multi": True, "layer": self.layer}
        crs = self.crs.to_wkt() if self.crs else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")  # a picture has none
            try:
                table = (shapely.to_wkb(placed), list(fields.values()), list(fields))
                write(self.path, *table, crs=crs, append=self.path.exists(), **options)
            except (DataSourceError, DataLayerError) as error:
                raise OSError(errno.ENOSPC, str(error)) from error

    def _measure(self, geometries: np.ndarray) -> dict[str, np.ndarray]:
        """Areas of polygons in pixels, and in square metres when the CRS tells.

        Examples
        --------
        >>> with rasterio.MemoryFile() as memory:
        ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         sink = _PolygonSink(Path("a.gpkg"), "a", raster, ["x"], 0.0, 0.0)
        >>> sink._measure(np.array([shapely.box(0, 0, 2, 2)]))
        {'area_px': array([4])}
        """
        areas = {"area_px": np.rint(shapely.area(geometries)).astype(np.int64)}
        if self.crs and (self.crs.is_projected or self.crs.is_geographic):
            areas["area_m2"] = measure_area_m2(_to_map(geometries, self.transform), self.crs)
        return areas

    def _place(self, geometries: np.ndarray) -> np.ndarray:
        """Simplify polygons when that is wanted, and bring them from pixels into the map.

        Examples
        --------
        >>> with rasterio.MemoryFile() as memory:
        ...     with _open(memory.name, "w", driver="GTiff", dtype="uint8", count=1, height=2, width=3) as raster:
        ...         sink = _PolygonSink(Path("a.gpkg"), "a", raster, ["x"], 1.5, 0.0)
        >>> stairs = shapely.from_wkt("POLYGON ((0 0, 5 0, 5 5, 4 5, 4 4, 3 4, 3 5, 0 5, 0 0))")
        >>> shapely.get_num_coordinates(sink._place(np.array([stairs]))).tolist()
        [5]
        """
        if self.simplify_tolerance > 0:
            geometries = shapely.simplify(geometries, self.simplify_tolerance, preserve_topology=True)
        return _to_map(geometries, self.transform)


def _count_indexed(path: Path, layer: str) -> int:
    """Count the entries of a layer's spatial index; 0 when it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.gpkg"
    >>> _count_indexed(path, "a")
    0
    """
    name = f"rtree_{layer}_geom_rowid".replace('"', '""')
    try:
        with closing(sqlite3.connect(path)) as database:
            return database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
    except sqlite3.Error:
        return 0


def _to_map(geometries: np.ndarray, transform: Any) -> np.ndarray:
    """Bring geometries from pixels into map coordinates.

    Examples
    --------
    >>> from affine import Affine
    >>> _to_map(np.array([shapely.Point(2, 3)]), Affine(0.5, 0, 100, 0, -0.5, 200)).tolist()
    [<POINT (101 198.5)>]
    """
    a, b, c, d, e, f = transform[:6]
    return shapely.transform(geometries, lambda points: points @ np.array([[a, d], [b, e]]) + (c, f))


def measure_area_m2(geometries: np.ndarray, crs: Any) -> np.ndarray:
    """Areas of polygons in square metres.

    Parameters
    ----------
    geometries : ndarray of shapely geometries, shape (N,)
        In the units of `crs`, x before y.
    crs : rasterio CRS
        Projected: the plane area. Geographic: the area on the WGS 84 ellipsoid, exact for sides along meridians and
        parallels.

    Returns
    -------
    ndarray of float64, shape (N,)
        The areas.

    References
    ----------
    Snyder, 1987, Map Projections: A Working Manual, equation 3-12 (the authalic latitude).

    Examples
    --------
    >>> from rasterio.crs import CRS
    >>> cell = np.array([shapely.box(10, 0, 11, 1)])
    >>> measure_area_m2(cell, CRS.from_epsg(32632)).tolist()
    [1.0]
    >>> round(measure_area_m2(cell, CRS.from_epsg(4326))[0] / 1e6)  # square kilometres
    12308
    """
    if not crs.is_geographic:
        return shapely.area(geometries) * crs.linear_units_factor[1] ** 2
    return shapely.area(shapely.transform(geometries, _to_equal_area))


def _to_equal_area(points: np.ndarray) -> np.ndarray:
    """Project longitude and latitude in degrees to a cylinder on which areas are true, in metres.

    Examples
    --------
    >>> half_sphere = _to_equal_area(np.array([[360.0, 90.0]])).prod() / 1e12
    >>> round(2 * half_sphere)  # square megametres of the whole Earth
    510
    """
    semi_major, eccentricity = 6378137.0, 0.0818191908426215
    sine = np.sin(np.radians(points[:, 1]))
    scaled = eccentricity * sine
    authalic = (1 - eccentricity**2) * (sine / (1 - scaled**2) + np.arctanh(scaled) / eccentricity)
    return semi_major * np.stack([np.radians(points[:, 0]), authalic / 2], axis=1)
