"""Scenes: rasters and pictures of any kind, read window by window as 8-bit images with a mask of valid pixels.

Every value of a scene is a function of its place alone, never of the window that asked for it: resampling weights come
from whole numbers on one global grid, and what lies outside the scene is its reflection. Windows that overlap
therefore agree bit for bit, and a store keyed by pixels finds them again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from utils.errors import DataError, SettingsError
from utils.geometry.resampling import reflect_index, resample, resampling_weights
from utils.media.picture_sizes import MAX_PIXELS
from utils.raster.files import RasterFile, RawBlock
from utils.raster.gdal import open_raster
from utils.raster.grids import PixelGrid
from utils.raster.header import RasterHeader
from utils.raster.scaling import ValueScaling
from utils.raster.tiling import Window

# ImageNet's mean colour: the backbone's normalisation turns it into about 0, as if nothing were there.
NEUTRAL_COLOUR = (124, 116, 104)
NEUTRAL_EXTRA = 128
_CHUNK_PIXELS = 2**22  # source pixels that are resampled at a time
_PALETTE_COLOURS = 3


class RasterScene:
    """One scene: a raster or picture, or several files that are its bands, on one grid of pixels.

    Nothing is opened before it is needed, and no handle is kept on the object: it can be pickled, and threads and
    forked processes open the files anew.

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
    size : (int, int), optional
        Height and width in place of `scale`, whatever the shape of the file.
    max_pixels : int
        Largest picture that is decoded at once (PNG, JPEG and the like); rasters in tiles or strips may be any size.
    scaling : ValueScaling, optional
        Of values to 8 bits. 8-bit data need none.
    nodata : sequence of float
        Values that stand for nothing besides those that the files declare.

    Raises
    ------
    SettingsError
        If `scale` or `bands` make no sense.
    DataError
        On first use: a file that cannot be opened, files that do not share a grid, bands that are not there.

    Notes
    -----
    A pixel is not valid where the file's mask or opacity is 0; in unsigned types where every chosen band that declares
    a nodata value holds it (0 or 255 in one band alone is a colour), or all bands hold one of `nodata`; in all other
    types where any band is nodata or no number.
    Photos without a place on Earth are turned as their EXIF orientation says, as viewers and annotation tools show
    them. Grey values of 1 to 7 bits are scaled to 0..255, and those of a WhiteIsZero TIFF are turned round, likewise.

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
        size: tuple[int, int] | None = None,
        max_pixels: int = MAX_PIXELS,
        scaling: ValueScaling | None = None,
        nodata: Sequence[float] = (),
    ):
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        if not listed:
            raise SettingsError("a scene needs at least one file, got an empty list")
        if not 1 / 256 <= scale <= 16:
            raise SettingsError(f"dataset.scale: expected 1/256 to 16, got {scale}")
        if size is not None and (scale != 1 or min(size) < 1):
            raise SettingsError(f"dataset.image_size: expected a height and a width and no scale, got {size}, {scale}")
        self.paths = tuple(Path(path) for path in listed)
        self.bands = None if bands is None else tuple(bands)
        self.scale = scale
        self.size = size
        self.scaling = scaling
        self.nodata = tuple(nodata)
        self._files = tuple(RasterFile(path, max_pixels) for path in self.paths)

    def with_nodata(self, values: Sequence[float]) -> RasterScene:
        """The same scene, in which further values stand for nothing.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> scene = RasterScene(raster_file("a.tif", np.uint8([[1, 2, 3]])), nodata=[1]).with_nodata([3])
        >>> scene.read(Window(0, 0, 1, 3))[1].tolist()
        [[False, True, False]]
        """
        return self._copy(self.scale, self.size, (*self.nodata, *values))

    @functools.cached_property
    def unscaled(self) -> RasterScene:
        """The same scene on the grid of its files.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> scene = RasterScene(raster_file("a.tif", np.uint8([[1, 2, 3, 4]])), scale=0.5)
        >>> scene.width, scene.unscaled.width
        (2, 4)
        """
        return self._copy(1.0, None, self.nodata)

    def _copy(self, scale: float, size: tuple[int, int] | None, nodata: Sequence[float]) -> RasterScene:
        """The same scene on another scale, or with other values that stand for nothing.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> RasterScene(raster_file("a.tif", np.zeros((2, 4), np.uint8)), bands=[1])._copy(2.0, None, [7]).bands
        (1,)
        """
        limit = self._files[0].max_pixels
        return RasterScene(
            self.paths, bands=self.bands, scale=scale, size=size, max_pixels=limit, scaling=self.scaling, nodata=nodata
        )

    def __repr__(self) -> str:
        size = f"scale={self.scale}" if self.size is None else f"size={self.size}"
        return f"RasterScene({', '.join(map(str, self.paths))!r}, {size})"

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
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8))
        >>> RasterScene(path, scale=2).grid.bounds
        (0.0, 0.0, 6.0, 4.0)
        >>> RasterScene(path, size=(8, 3)).grid.transform @ (3, 8)
        (6.0, 4.0)
        """
        return self.file_grid.scaled(self.scale) if self.size is None else self.file_grid.resized(*self.size)

    @property
    def height(self) -> int:
        """Rows, after `scale`.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8))
        >>> RasterScene(path, scale=2).height
        8
        """
        return self.grid.height

    @property
    def width(self) -> int:
        """Columns, after `scale`.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8))
        >>> RasterScene(path, scale=2).width
        12
        """
        return self.grid.width

    @property
    def crs(self) -> CRS | None:
        """Coordinate reference system, None when the scene has no place on Earth.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8), crs="EPSG:32631", transform=Affine.scale(2, -2))
        >>> RasterScene(path).crs.to_epsg()
        32631
        """
        return self.grid.crs

    @property
    def transform(self) -> Affine:
        """From a pixel (x, y), after `scale`, to map coordinates.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6), np.uint8), transform=Affine(2, 0, 8, 0, -2, 9))
        >>> RasterScene(path, scale=0.5).transform @ (3, 2)
        (20.0, 1.0)
        """
        return self.grid.transform

    @property
    def unplaced(self) -> str | None:
        """How a file says where it lies, where that is no transform, and what to do; None where nothing is lost.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> RasterScene(raster_file("a.tif", np.zeros((4, 6), np.uint8))).unplaced is None
        True
        """
        return next((file.header.unplaced for file in self._files if file.header.unplaced), None)

    def control_points(self, height: int, width: int) -> tuple[list[GroundControlPoint], CRS | None] | None:
        """Ground control points that no transform fits, in the pixels of a raster that covers the scene.

        Parameters
        ----------
        height, width : int
            Of that raster.

        Returns
        -------
        (list of GroundControlPoint, CRS or None) or None
            None where the scene has a transform, or no such points.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> RasterScene(raster_file("a.tif", np.zeros((4, 6), np.uint8))).control_points(4, 6) is None
        True
        """
        if not self.unplaced:
            return None
        points, crs = open_raster(self._files[0].header.path).gcps
        down, right = height / self.file_grid.height, width / self.file_grid.width
        moved = [
            GroundControlPoint(point.row * down, point.col * right, point.x, point.y, point.z or 0.0, point.id)
            for point in points
        ]
        return (moved, crs) if moved else None

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
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6, 4), np.uint8))
        >>> RasterScene(path, bands=[3, 2, 1]).channels
        ((0, 3), (0, 2), (0, 1))
        >>> RasterScene(path, bands=[1, 5]).channels
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...a.tif: dataset.bands asks for [5], but the scene has bands 1 to 4
        """
        headers = [file.header for file in self._files]
        if self.bands is None and len(headers) == 1 and headers[0].palette:
            return ((0, 0),) * _PALETTE_COLOURS
        available = [(place, band) for place, header in enumerate(headers) for band in header.colour_bands]
        if self.bands is not None:
            every = [(place, band) for place, header in enumerate(headers) for band in range(1, len(header.dtypes) + 1)]
            absent = [band for band in self.bands if not 1 <= band <= len(every)]
            if absent or not self.bands:
                raise DataError(
                    f"{self.paths[0]}: dataset.bands asks for {absent}, but the scene has bands 1 to {len(every)}"
                )
            available = [every[band - 1] for band in self.bands]
        if len(available) == 2:
            raise SettingsError(
                f"{self.paths[0]}: two bands make no colour picture; set dataset.bands, for example [1, 2, 2]"
            )
        return tuple(available * 3 if len(available) == 1 else available)

    @property
    def num_bands(self) -> int:
        """Channels of an image that is read.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6, 5), np.uint8))
        >>> RasterScene(path).num_bands, RasterScene(path, bands=[2]).num_bands
        (5, 3)
        """
        return len(self.channels)

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """Type that holds the raw values of all channels.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((4, 6), np.int16))
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
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.png", np.uint8([[0, 1]]), palette={0: (1, 2, 3), 1: (7, 8, 9)})
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
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.uint8([[0, 7, 9]]), nodata=0)
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
        inside = np.logical_and.outer(  # what lies outside is reflected to another index
            rows == np.arange(window.y, window.rows.stop), columns == np.arange(window.x, window.columns.stop)
        )
        pick = np.ix_(rows - inner.y, columns - inner.x)
        return image[pick], valid[pick] & inside

    def _read_inside(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Image and valid pixels of a window that lies inside.

        The image has shape (H, W, bands), uint8, the valid pixels shape (H, W).

        Raises
        ------
        DataError
            When the values are no bytes and there is no scaling.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((1, 1), np.int16))
        >>> RasterScene(path)._read_inside(Window(0, 0, 1, 1))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...a.tif: values are int16, a picture needs 8 bits; give a value scaling ...
        """
        if self.scaling is None and self.dtype != np.uint8:
            raise DataError(
                f"{self.paths[0]}: values are {self.dtype}, a picture needs 8 bits; "
                "give a value scaling (percentiles or a range)"
            )
        values, valid = self._read_planes(window)
        planes = (self.scaling or ValueScaling.identity(self.num_bands)).apply(values, axis=0)
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
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.float32([[1, 3], [np.nan, 8]]))
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
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.uint8([[[1, 2, 3], [4, 5, 6]]]))
        >>> RasterScene(path)._read_planes(Window(0, 0, 1, 2))[0].tolist()
        [[[1, 4]], [[2, 5]], [[3, 6]]]
        """
        if self.grid == self.file_grid:
            return self.read_file_values(window)
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
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.uint8([[0, 8]]))
        >>> RasterScene(path, scale=2)._resample(Window(0, 0, 1, 4))[0][0, 0].tolist()
        [0.0, 2.0, 6.0, 8.0]
        """
        (rows, row_weight), (columns, column_weight) = (
            resampling_weights(start, count, source, target, "area" if target < source else "bilinear")
            for start, count, source, target in (
                (window.y, window.height, self.file_grid.height, self.height),
                (window.x, window.width, self.file_grid.width, self.width),
            )
        )
        top, left = int(rows.min()), int(columns.min())
        values, valid = self.read_file_values(
            Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        )
        return resample(values, valid, (rows - top, row_weight), (columns - left, column_weight))

    def read_file_values(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read raw values of a window before `scale`, in pixels of the files.

        Parameters
        ----------
        window : Window
            Inside, on `file_grid`.

        Returns
        -------
        values : array, shape (num_bands, height, width)
            In the scene's type; 0 where not valid.
        valid : bool array, shape (height, width)

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.uint8([[[0, 0, 0], [0, 1, 0], [3, 3, 3]]]), nodata=0)
        >>> values, valid = RasterScene(path, scale=0.5, nodata=[3]).read_file_values(Window(0, 0, 1, 3))
        >>> values[1].tolist(), valid.tolist()
        ([[0, 1, 0]], [[False, True, False]])
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
        unsigned = self.dtype.kind == "u"
        if missing.any():
            visible &= ~(missing[list(self._declaring)].all(axis=0) if unsigned else missing.any(axis=0))
        for value in self.nodata:
            with np.errstate(over="ignore"):
                same = values == (self.dtype.type(value) if self.dtype.kind == "f" else value)
            visible &= ~(same.all(axis=0) if unsigned else same.any(axis=0))
        if not visible.all():
            values[:, ~visible] = 0
        return values, visible

    @functools.cached_property
    def _declaring(self) -> tuple[int, ...]:
        """The channels whose band declares a nodata value that it can hold; the others have no say where nothing is.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> paths = [raster_file(f"{value}.tif", np.zeros((4, 6), np.uint8), nodata=value) for value in (0, None, 9)]
        >>> RasterScene(paths)._declaring
        (0, 2)
        """
        headers = [(self._files[place].header, max(band - 1, 0)) for place, band in self.channels]
        declared = [(header.dtypes[band], header.nodata[band]) for header, band in headers]
        return tuple(
            index
            for index, (dtype, value) in enumerate(declared)
            if value is not None
            and (not dtype.startswith("u") or (float(value).is_integer() and 0 <= value <= np.iinfo(dtype).max))
        )

    def _read_channels(self, place: int, window: Window, bands: list[int]) -> RawBlock:
        """Some channels of one file; each band is read once, however often it is wanted.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.uint8([[[1, 2, 3]]]))
        >>> RasterScene(path)._read_channels(0, Window(0, 0, 1, 1), [3, 1, 3]).values.ravel().tolist()
        [3, 1, 3]
        """
        file = self._files[place]
        if self._has_palette:
            return _look_up_colours(file.read(window, [1]), file.header.palette or ())
        unique = sorted(set(bands))
        block = file.read(window, unique)
        plain = self.scaling is None or self.scaling.is_identity  # else the user speaks of values in the file
        values = as_shown(block.values, file.header, fill=plain)
        if unique == bands:
            return RawBlock(values, block.missing, block.hidden)
        order = [unique.index(band) for band in bands]
        return RawBlock(values[order], None if block.missing is None else block.missing[order], block.hidden)


def as_shown(values: np.ndarray, header: RasterHeader, fill: bool = True) -> np.ndarray:
    """Values of a picture as viewers show them: 0 black, and few bits over the whole range of 8.

    Parameters
    ----------
    values : array, any shape
        As the file holds them.
    header : RasterHeader
        Of the file; its `white_is_zero` counts for unsigned types, its `bits` below 8. Indices of a palette stay.
    fill : bool
        Whether few bits fill the range of 8.

    Returns
    -------
    array, the shape and type of `values`

    Examples
    --------
    >>> from dataclasses import replace
    >>> header = RasterHeader("a", "PNG", PixelGrid(1, 3, None, Affine.identity()), ("uint8",), (None,), (1, 3), False)
    >>> as_shown(np.uint8([0, 5, 15]), replace(header, bits=4)).tolist()
    [0, 85, 255]
    >>> as_shown(np.uint8([0, 5, 255]), replace(header, white_is_zero=True)).tolist()
    [255, 250, 0]
    """
    if header.palette:
        return values
    few = header.bits if fill and values.dtype == np.uint8 and header.bits is not None and header.bits < 8 else None
    if header.white_is_zero and values.dtype.kind == "u":
        highest = 2 ** (header.bits or 8 * values.dtype.itemsize) - 1
        values = values.dtype.type(highest) - values
    if few is None:
        return values
    table = np.rint(np.arange(256) * (255 / (2**few - 1))).clip(0, 255).astype(np.uint8)
    return table[values]


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
