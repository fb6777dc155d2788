"""Class maps on disk: made strip by strip, complete or absent, resumed after a stop."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from utils.errors import DataError, SettingsError
from utils.raster.attribute_table import attribute_table, sidecar_path
from utils.raster.gdal import bounded_gdal, local_path
from utils.raster.qgis import qgis_style
from utils.raster.strips import OpenStrip, StripStore
from utils.raster.tiling import Window
from utils.raster.window_pattern import ClassChanges, describe_pattern
from utils.report.caption import current_caption
from utils.runtime.files import digest_json, sync, write_bytes, write_json

NODATA = 255
OUTPUT_TAG = "DINOLITH_OUTPUT"  # marks a file as a prediction and says what it was made from
BESIDE = ".msk.ovr.tmp"  # the longest ending of a file that GDAL writes beside a raster or layer that it makes
PATTERN_TAG = "WINDOW_PATTERN"  # says that the map repeats with its windows
DOUBT_TAG = "SCORE_DOUBT"  # says that the score of the model cannot be believed, and why
COMPRESS = "DEFLATE"  # every reader has it
CONFIDENCE_STEPS = 254  # confidence 1.0 is stored as 254; 255 stays free for nodata


BLOCK = 512  # side of a tile in the files, in pixels
_STRIP_VERSION = 1


@contextmanager
def disk_full_as_data_error(output: Path, work: Path) -> Iterator[None]:
    """Turn a failed write into a message that says what to do.

    Examples
    --------
    >>> with disk_full_as_data_error(Path("/tmp/a.tif"), Path("/tmp/.a.tif.partial")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /tmp/a.tif: could not be written (No space left on device; ... GB are free in /tmp): ...
    """
    try:
        yield
    except (OSError, RasterioError, rasterio._err.CPLE_BaseError) as error:
        reason = getattr(error, "strerror", None) or str(error.__cause__ or error)  # rasterio's text says little
        folder = next(parent for parent in output.absolute().parents if parent.exists())
        free = shutil.disk_usage(folder).free / 1e9
        raise DataError(
            f"{output}: could not be written ({reason}; {free:.1f} GB are free in {folder}): free some space or "
            f"choose another folder and run again; what is finished is kept in {work}"
        ) from error


@dataclass(frozen=True)
class _Target:
    """One file that is to be made, and its options in GDAL.

    Parameters
    ----------
    path : Path
        Its final name.
    kind : {"cog", "gtiff", "png"}
        Its format.
    overviews : Resampling
        How overviews are made.

    Examples
    --------
    >>> _Target(Path("a.tif"), "cog", Resampling.mode).copy_options["OVERVIEW_RESAMPLING"]
    'MODE'
    """

    path: Path
    kind: str
    overviews: Resampling

    @property
    def copy_options(self) -> dict[str, Any]:
        """Creation options of the drivers that only copy.

        Examples
        --------
        >>> _Target(Path("a.png"), "png", Resampling.mode).copy_options
        {'driver': 'PNG', 'WRITE_METADATA_AS_TEXT': 'YES'}
        """
        if self.kind == "png":
            return {"driver": "PNG", "WRITE_METADATA_AS_TEXT": "YES"}
        options = {"driver": "COG", "COMPRESS": COMPRESS, "BLOCKSIZE": BLOCK, "BIGTIFF": "IF_SAFER"}
        return options | {"OVERVIEW_RESAMPLING": self.overviews.name.upper()}


def is_prediction(path: str | Path) -> bool:
    """Whether a file is a raster that a `ClassRasterWriter` has written.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.tif", np.zeros((2, 2), np.uint8))
    >>> is_prediction(path)
    False
    """
    try:
        with bounded_gdal(GDAL_PAM_ENABLED="NO"), rasterio.open(local_path(path)) as raster:
            return OUTPUT_TAG in raster.tags()
    except RasterioError:
        return False


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
    control_points : (list of GroundControlPoint, CRS), optional
        In place of both, for a TIFF: what its place is known from where no transform fits.
    class_names : sequence of str
        K names, at most 255; value 255 is nodata.
    palette : array-like, shape (K, 3)
        Colour of each class, red, green, blue in 0..255.
    confidence : bool, default False
        Also write `<stem>_confidence`: confidence times 254, rounded, as uint8 (a separate file, because a colour
        table holds for a file with one band only).
    format : {"cog", "gtiff"}
        Kind of a TIFF.
    fingerprint : dict, optional
        Everything else that the pixels depend on: raster, checkpoint, settings. Strips of another fingerprint are
        dropped.
    window_steps : tuple of float, optional
        From one window to the next, in rows and columns of the map: where class boundaries repeat with them, the tag
        `WINDOW_PATTERN` and the attribute `pattern` say so.

    Attributes
    ----------
    pattern : str
        How the map repeats with its windows, once it is written; empty where it does not.

    Raises
    ------
    SettingsError
        If the suffix, format or classes cannot be used.

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
        control_points: tuple[list, Any] | None = None,
        class_names: Sequence[str],
        palette: Any,
        confidence: bool = False,
        format: str = "cog",
        fingerprint: dict | None = None,
        window_steps: tuple[float, float] | None = None,
    ):
        self.destination = Path(destination)
        self.height, self.width = height, width
        self.crs, self.transform, self.control_points = crs, transform, control_points
        self.window_steps, self.pattern = window_steps, ""
        self._counts, self.changes = np.zeros(256, np.int64), ClassChanges(height, width, NODATA)
        self.class_names = list(class_names)
        self.palette = np.asarray(palette)
        self.targets = self._plan_targets(confidence, format)
        self._check_classes()
        pixels = {"version": _STRIP_VERSION, "size": [height, width], "planes": len(self.targets), "nodata": NODATA}
        self._fingerprint = {**pixels, "classes": len(self.class_names), **(fingerprint or {})}
        looks = [self.class_names, self.palette.tolist(), [target.kind for target in self.targets]]
        self._output_key = digest_json([self._fingerprint, looks])
        self.work = self.destination.parent / f".{self.destination.name}.partial"
        key = digest_json(self._fingerprint)[:16]
        self.store = StripStore(self.work, key, planes=len(self.targets), height=height, width=width)
        self._strip: OpenStrip | None = None
        self._begun = False
        self._counts = np.zeros(256, np.int64)  # pixels of each class
        self.changes = ClassChanges(height, width, NODATA)

    def _plan_targets(self, confidence: bool, format: str) -> list[_Target]:
        """List the files to make: the classes, and the confidence when it is wanted.

        Raises
        ------
        SettingsError
            When the suffix or the format is unknown.

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
        kind = "png" if suffix == ".png" else format
        targets = [_Target(self.destination, kind, Resampling.mode)]
        if confidence:
            path = self.destination.with_stem(f"{self.destination.stem}_confidence")
            targets.append(_Target(path, kind, Resampling.average))
        return targets

    def _check_classes(self) -> None:
        """Make sure that every class has a value, a name and a colour.

        Raises
        ------
        SettingsError
            When there are no or too many classes, or the palette does not fit.

        Examples
        --------
        >>> ClassRasterWriter("a.tif", height=1, width=1, class_names=[], palette=[])
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: a class map holds 1 to 255 classes (one value is kept for nodata), got 0
        """
        count = len(self.class_names)
        if not 1 <= count <= 255:
            raise SettingsError(f"a class map holds 1 to 255 classes (one value is kept for nodata), got {count}")
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

    @property
    def is_empty(self) -> bool:
        """Whether the map, once it is written, holds nodata only.

        Examples
        --------
        >>> import tempfile
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]]}
        >>> writer = ClassRasterWriter(tempfile.mkdtemp() + "/a.tif", height=1, width=2, **options)
        >>> writer.append(Window(0, 0, 1, 2), np.array([[255, 255]], np.uint8))
        >>> writer.is_empty, len(writer.close()), writer.is_empty
        (False, 1, True)
        """
        return bool(self._counts.sum()) and not self._counts[:NODATA].any()

    def resume_row(self, rows: tuple[int, int] | None = None) -> int:
        """First row that is still to be made; the end of the range when there is none.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[0, 0, 0]]}
        >>> ClassRasterWriter("/tmp/none.tif", height=9, width=1, **options).resume_row((2, 5))
        2
        """
        first, last = rows or (0, self.height)
        missing = self.store.missing_rows(first, last)
        return missing[0][0] if missing else last

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
            In 0..1; needed when the writer writes it.

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
            self._strip = OpenStrip(window.y, pixels)
        self._strip.put(window, planes)
        if self._strip.complete:
            self._save(self._strip)
            self._strip = None

    def _check_block(self, window: Window, classes: np.ndarray, confidence: np.ndarray | None) -> list[np.ndarray]:
        """Make sure that a block can be stored, and bring it into the stored types.

        Raises
        ------
        ValueError
            If the window lies outside, a plane has another shape or type, or a class is unknown.

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
        planes = [classes] if confidence is None else [classes, confidence]
        if len(planes) != len(self.targets) or classes.dtype != np.uint8:
            wanted = ", ".join(["uint8 classes", "confidence"][: len(self.targets)])
            raise ValueError(f"{window}: expected {wanted}, got {', '.join(str(plane.dtype) for plane in planes)}")
        if any(plane.shape != (window.height, window.width) for plane in planes):
            raise ValueError(f"{window}: got planes of shape {[plane.shape for plane in planes]}")
        empty = classes == NODATA
        wrong = classes[(classes >= len(self.class_names)) & ~empty]
        if wrong.size:
            raise ValueError(f"{window}: class {wrong[0]} is neither below {len(self.class_names)} nor nodata {NODATA}")
        if confidence is None:
            return [classes]
        steps = np.rint(np.nan_to_num(confidence) * CONFIDENCE_STEPS).clip(0, CONFIDENCE_STEPS).astype(np.uint8)
        steps[empty] = NODATA
        return [classes, steps]

    def _save(self, strip: OpenStrip) -> None:
        """Save a full strip; before the first, drop those of other fingerprints.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> writer = ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer._save(OpenStrip(0, np.zeros((1, 1, 1), np.uint8)))
        >>> sorted(path.suffix for path in writer.work.iterdir())
        ['.json', '.strip']
        """
        with disk_full_as_data_error(self.destination, self.work):
            if not self._begun:
                self.store.drop_others()
                write_json(self.work / "fingerprint.json", self._fingerprint)  # readable; strips carry its digest
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
        missing = self.store.missing_rows(0, self.height)
        if missing:
            ranges = ", ".join(f"{first}..{last}" for first, last in missing)
            raise ValueError(f"{self.destination}: rows {ranges} have not been written")
        self._counts, self.changes = np.zeros(256, np.int64), ClassChanges(self.height, self.width, NODATA)
        try:
            with bounded_gdal(GDAL_PAM_ENABLED="NO"), disk_full_as_data_error(self.destination, self.work):
                made = [self._assemble(plane) for plane in range(len(self.targets))]
                if self.targets[0].kind != "png":  # a style beside a TIFF lets QGIS show the classes by name
                    style = qgis_style(self.class_names, self.palette)
                    write_bytes(self.destination.with_suffix(".qml"), style.encode())
                    counts = self._counts[: len(self.class_names)].tolist()
                    table = attribute_table(self.class_names, self.palette, counts)
                    write_bytes(sidecar_path(self.destination), table.encode())
                self._publish(made)
        except DataError:
            for path in self.work.iterdir():  # a full disk needs the room of what was begun; the strips stay
                if path.is_file() and path.suffix not in (".strip", ".json"):
                    path.unlink()
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
            with rasterio.open(local_path(made), "r+") as raster:
                raster.build_overviews(_overview_factors(self.height, self.width), target.overviews)
        else:
            copy = self.work / f"{target.path.stem}.{target.kind}{target.path.suffix}"
            rasterio.shutil.copy(local_path(made), local_path(copy), **target.copy_options)
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
        tiles = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER"}
        no_place = self.transform is None or self.control_points is not None
        place = {} if no_place else {"crs": self.crs, "transform": self.transform}
        options = profile | tiles | place | {"compress": COMPRESS, "nodata": NODATA}
        with rasterio.open(local_path(path), "w", **options) as raster:
            if self.control_points is not None:
                raster.gcps = self.control_points
            self._describe(raster, plane)
            for y, band in self.store.read_bands(plane, BLOCK):
                raster.write(band, 1, window=RasterioWindow(0, y, self.width, len(band)))
                for offset, row in enumerate(band if plane == 0 else ()):
                    self._counts += np.bincount(row, minlength=256)  # makes eight bytes of each pixel: of a row only
                    self.changes.add(y + offset, row)
            if plane == 0 and self.window_steps is not None:
                self.pattern = describe_pattern(self.changes, *self.window_steps)
            if self.pattern:
                raster.update_tags(**{PATTERN_TAG: self.pattern})

    def _describe(self, raster: Any, plane: int) -> None:
        """Write names, colours and tags into an open file.

        Examples
        --------
        >>> options = {"class_names": ["a"], "palette": [[1, 2, 3]], "confidence": True}
        >>> writer = ClassRasterWriter("a.tif", height=1, width=1, **options)
        >>> with rasterio.MemoryFile() as memory:
        ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=1, width=1) as raster:
        ...         writer._describe(raster, 1)
        ...         raster.scales[0] * 254
        1.0
        """
        raster.update_tags(**{OUTPUT_TAG: self._output_key})
        if current_caption():
            raster.update_tags(**{DOUBT_TAG: current_caption()})
        if plane == 1:
            raster.set_band_description(1, "confidence")
            raster.scales = (1 / CONFIDENCE_STEPS,)
            return
        colors = {index: (*map(int, color), 255) for index, color in enumerate(self.palette)}
        raster.write_colormap(1, colors | {NODATA: (0, 0, 0, 0)})
        raster.set_band_description(1, "class")
        raster.update_tags(CLASS_NAMES=json.dumps(self.class_names, ensure_ascii=False))
        raster.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(self.class_names)})

    def _verify(self, path: Path, plane: int) -> None:
        """Compare a file with the strips it was made of: not every failed write in GDAL raises.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.tif"
        >>> writer = ClassRasterWriter(path, height=1, width=1, class_names=["a"], palette=[[0, 0, 0]])
        >>> writer.append(Window(0, 0, 1, 1), np.zeros((1, 1), np.uint8))
        >>> with rasterio.open(path, "w", driver="GTiff", dtype="uint8", count=1, height=1, width=1) as raster:
        ...     raster.write(np.ones((1, 1, 1), np.uint8))
        >>> writer._verify(path, 0)
        Traceback (most recent call last):
            ...
        OSError: [Errno 28] row 0 reads back differently
        """
        with rasterio.open(local_path(path)) as raster:
            for y, band in self.store.read_bands(plane, BLOCK):
                if not np.array_equal(raster.read(1, window=RasterioWindow(0, y, self.width, len(band))), band):
                    raise OSError(errno.ENOSPC, f"row {y} reads back differently")
            if raster.driver == "GTiff":
                _check_overviews(raster, path.stat().st_size)


def _check_overviews(raster: Any, file_size: int) -> None:
    """Make sure that every tile of every overview lies within the file; GDAL may lose the last ones on a full disk.

    Raises
    ------
    OSError
        If one does not.

    Examples
    --------
    >>> with rasterio.MemoryFile() as memory:
    ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=513, width=2) as raster:
    ...         raster.write(np.zeros((1, 513, 2), np.uint8))
    ...     with memory.open() as raster:
    ...         _check_overviews(raster, 2000)
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] 0 of 1 overviews can be read
    >>> with rasterio.MemoryFile() as memory:
    ...     with memory.open(driver="GTiff", dtype="uint8", count=1, height=513, width=2) as raster:
    ...         raster.write(np.ones((1, 513, 2), np.uint8))
    ...         raster.build_overviews([2])
    ...     with memory.open() as raster:
    ...         _check_overviews(raster, 9000)
    ...         _check_overviews(raster, 100)
    Traceback (most recent call last):
        ...
    OSError: [Errno 28] tile 0_0 of overview 0 is missing
    """
    expected = len(_overview_factors(raster.height, raster.width))
    if len(raster.overviews(1)) != expected:
        raise OSError(errno.ENOSPC, f"{len(raster.overviews(1))} of {expected} overviews can be read")
    for level in range(expected):
        with rasterio.open(raster.name, overview_level=level) as overview:
            tiles = [f"{column}_{row}" for (row, column), _ in overview.block_windows(1)]
        for tile in tiles:
            ends = [raster.get_tag_item(f"BLOCK_{end}_{tile}", "TIFF", bidx=1, ovr=level) for end in ("OFFSET", "SIZE")]
            if None in ends or sum(map(int, ends)) > file_size:
                raise OSError(errno.ENOSPC, f"tile {tile} of overview {level} is missing")


def _overview_factors(height: int, width: int) -> list[int]:
    """Reductions of a raster, until it fits in one tile.

    Examples
    --------
    >>> _overview_factors(512, 512), _overview_factors(100, 1500)
    ([], [2, 4])
    """
    return [2 ** (level + 1) for level in range(32) if max(height, width) > BLOCK * 2**level]
