"""Scenes: rasters and pictures of any kind, read window by window as 8-bit images with a mask of valid pixels.

Every value of a scene is a function of its place alone, never of the window that asked for it: resampling weights come
from whole numbers on one global grid, and what lies outside the scene is its own reflection. Windows that overlap
therefore agree bit for bit, and a store keyed by pixels finds them again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from utils.errors import DataError, SettingsError
from utils.geometry.resampling import reflect_index, resample, resampling_weights, working_dtype
from utils.media.picture_sizes import MAX_PIXELS
from utils.raster.files import RasterFile, RawBlock
from utils.raster.gdal import close_files
from utils.raster.grids import PixelGrid
from utils.raster.tiling import Window

# ImageNet's mean colour: the backbone's normalisation turns it into about 0, as if nothing were there.
NEUTRAL_COLOUR = (124, 116, 104)
NEUTRAL_EXTRA = 128
_CHUNK_PIXELS = 2**22  # source pixels that are resampled at a time
_PALETTE_COLOURS = 3


def value_kind(dtype: np.dtype) -> str:
    """Name the kinds of values that do not share a scaling: 8-bit colours, counts of a sensor, and real numbers.

    Examples
    --------
    >>> [value_kind(np.dtype(name)) for name in ("uint8", "uint16", "int16", "float32")]
    ['8-bit', 'integer', 'integer', 'float']
    """
    if dtype.itemsize == 1:
        return "8-bit"
    return "float" if dtype.kind == "f" else "integer"


@dataclass(frozen=True)
class ValueScaling:
    """One linear map of values to 0..255 for a whole data set, band by band.

    Parameters
    ----------
    low, high : tuple of float
        Values of each band that become 0 and 255; what lies beyond is clipped.
    kind : str, optional
        What the values were found in (see `value_kind`); None where the range was given, or in old checkpoints.

    Examples
    --------
    >>> ValueScaling((0.0,), (1000.0,)).apply(np.array([[-5.0], [500.0], [2000.0]])).tolist()
    [[0], [128], [255]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    kind: str | None = field(default=None, compare=False)

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
        ValueScaling(low=(0.0, 0.0), high=(255.0, 255.0), kind='8-bit')
        """
        return cls((0.0,) * num_bands, (255.0,) * num_bands, value_kind(np.dtype(np.uint8)))

    @property
    def is_identity(self) -> bool:
        """Whether 8-bit values pass unchanged.

        Examples
        --------
        >>> ValueScaling.identity(3).is_identity, ValueScaling((0,), (254,)).is_identity
        (True, False)
        """
        return set(self.low) == {0.0} and set(self.high) == {255.0}

    def to_json(self) -> dict[str, Any]:
        """The scaling as plain lists, for a checkpoint or a store.

        Examples
        --------
        >>> ValueScaling((0,), (9,)).to_json()
        {'low': [0.0], 'high': [9.0], 'kind': None}
        """
        return {"low": list(self.low), "high": list(self.high), "kind": self.kind}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ValueScaling:
        """The scaling that `to_json` gave.

        Examples
        --------
        >>> scaling = ValueScaling((0.5, 1), (9, 7))
        >>> ValueScaling.from_json(scaling.to_json()) == scaling
        True
        """
        read = cls(tuple(value["low"]), tuple(value["high"]), value.get("kind"))
        if "kind" not in value and read.is_identity:  # from before kinds were kept: 0 and 255 came of 8-bit files
            return cls.identity(len(read.low))
        return read

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

    Raises
    ------
    SettingsError
        If `scale` or `bands` make no sense.
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
    >>> from utils.raster.files import write_raster
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    >>> write_raster(path, pixels, crs="EPSG:32631", transform=Affine(2, 0, 8, 0, -2, 9))
    >>> scene = RasterScene(path, scale=0.5)
    >>> (scene.height, scene.width), scene.num_bands
    ((2, 3), 3)
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
        max_pixels: int = MAX_PIXELS,
        scaling: ValueScaling | None = None,
    ):
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        if not listed:
            raise SettingsError("a scene needs at least one file, got an empty list")
        if not 1 / 256 <= scale <= 16:
            raise SettingsError(f"dataset.scale: expected 1/256 to 16, got {scale}")
        self.paths = tuple(Path(path) for path in listed)
        self.bands = None if bands is None else tuple(bands)
        self.scale = scale
        self.scaling = scaling
        self.resampling = "area" if scale < 1 else "bilinear"
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((4, 6), np.uint8), transform=Affine(2, 0, 8, 0, -2, 9))
        >>> RasterScene(path, scale=0.5).transform @ (3, 2)
        (20.0, 1.0)
        """
        return self.grid.transform

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
        >>> from utils.raster.files import write_raster
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

        Raises
        ------
        DataError
            When a band does not exist, or none is wanted.

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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
        >>> path = tempfile.mkdtemp() + "/a.png"
        >>> write_raster(path, np.uint8([[0, 1]]), palette={0: (1, 2, 3), 1: (7, 8, 9)})
        >>> RasterScene(path)._has_palette, RasterScene(path).read(Window(0, 0, 1, 2))[0].tolist()
        (True, [[[1, 2, 3], [7, 8, 9]]])
        """
        return self.channels[0][1] == 0

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
        >>> from utils.raster.files import write_raster
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

        The image has shape (H, W, bands), uint8, the valid pixels shape (H, W).

        Raises
        ------
        DataError
            When the values are no bytes and there is no scaling.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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
            image[~valid] = (*NEUTRAL_COLOUR, *(NEUTRAL_EXTRA,) * (self.num_bands - 3))[: self.num_bands]
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.files import write_raster
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.uint8([[0, 8]]))
        >>> RasterScene(path, scale=2)._resample(Window(0, 0, 1, 4))[0][0, 0].tolist()
        [0.0, 2.0, 6.0, 8.0]
        """
        source = self.file_grid
        rows, row_weight = resampling_weights(window.y, window.height, source.height, self.height, self.resampling)
        columns, column_weight = resampling_weights(window.x, window.width, source.width, self.width, self.resampling)
        top, left = int(rows.min()), int(columns.min())
        values, valid = self._read_raw(Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1))
        return resample(values, valid, (rows - top, row_weight), (columns - left, column_weight))

    def _read_raw(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Values, shape (bands, height, width), and valid pixels of a window of the files.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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
            visible &= ~(missing.all(axis=0) if self.dtype.kind == "u" else missing.any(axis=0))
            values[:, ~visible] = 0
        return values, visible

    def _read_channels(self, place: int, window: Window, bands: list[int]) -> RawBlock:
        """Some channels of one file; each band is read once, however often it is wanted.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
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
        >>> from utils.raster.gdal import HANDLES
        >>> from utils.raster.files import write_raster
        >>> path = tempfile.mkdtemp() + "/a.tif"
        >>> write_raster(path, np.zeros((1, 1), np.uint8))
        >>> scene = RasterScene(path)
        >>> _ = scene.read(Window(0, 0, 1, 1))
        >>> scene.close()
        >>> any(key[0] == path for key in HANDLES.open)
        False
        """
        close_files([file.path for file in self._files])


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


def _is_inside(start: int, count: int, size: int) -> np.ndarray:
    """Which positions of a stretch lie on the axis.

    The result has shape (count,).

    Examples
    --------
    >>> _is_inside(-1, 4, 2).tolist()
    [False, True, True, False]
    """
    position = np.arange(start, start + count)
    return (position >= 0) & (position < size)


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
    >>> from utils.raster.files import write_raster
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.arange(-1, 101, dtype=np.int16).reshape(6, 17), nodata=-1)
    >>> estimate_scaling([RasterScene(path)], (10, 90)).to_json()
    {'low': [10.0, 10.0, 10.0], 'high': [90.0, 90.0, 90.0], 'kind': 'integer'}
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
    kinds = {value_kind(scene.dtype) for scene in scenes}
    kind = kinds.pop() if len(kinds) == 1 else None
    return ValueScaling(tuple(low), tuple(_above(a, b) for a, b in zip(low, high, strict=True)), kind)


def share_outside(scene: RasterScene, scaling: ValueScaling, *, windows: int = 8, size: int = 256) -> float:
    """Share of a scene's values, in a few windows spread over it, that a scaling would clip to black or white.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
    >>> path = tempfile.mkdtemp() + "/a.tif"
    >>> write_raster(path, np.int16([[1, 2, 300, 400]]))
    >>> share_outside(RasterScene(path), ValueScaling((0,) * 3, (350,) * 3))
    0.25
    """
    samples = _sample_scene(scene, np.random.default_rng(0), windows, size)
    if not samples:
        return 0.0
    values = np.concatenate(samples).astype(np.float64)
    return float(np.mean((values < np.array(scaling.low)) | (values > np.array(scaling.high))))


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
    >>> from utils.raster.files import write_raster
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

    Each has shape (N, bands).

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
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
        if valid.any() and len(samples) < share:
            samples.append(values[valid])
        if len(samples) == share:
            break
    return samples
