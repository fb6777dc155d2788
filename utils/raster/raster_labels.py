"""Labels in rasters and pictures of any CRS and resolution: the nearest label pixel, found in the label's CRS."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.media.orientation import describe_ignored
from utils.media.picture_sizes import MAX_PIXELS
from utils.raster.class_table import ClassTable, build_table, class_index, class_key
from utils.raster.files import RasterFile
from utils.raster.grids import (
    PixelGrid,
    locate_affine,
    locate_pixels,
    longitudes_differ,
)
from utils.raster.header import read_header
from utils.raster.labels import LabelSource, UnknownValuesError, check_overlap, check_same_kind
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

_READ_PIXELS = 2**24  # label pixels held at a time
_CHECK_WINDOWS = 64
_CHECK_SIDE = 1024


class RasterLabels(LabelSource):
    """Labels in a raster or picture, of any CRS and resolution.

    A pixel takes the value of the label pixel in which its centre lies (nearest), found in the label's CRS. Nothing
    is loaded whole but pictures whose format asks for it.

    Parameters
    ----------
    path : str or Path
        The label raster, with one band, or with colours.
    num_classes : int
        Classes, besides "ignore".
    mapping : dict, optional
        Value -> class index, class name or "ignore"; "*" stands for every other value. Without it values are class
        indices and 255 is ignored.
    class_names : sequence of str
        Names, where `mapping` or `colours` use them.
    colours : dict, optional
        For masks painted in colours: (red, green, blue) -> class, or class name -> (red, green, blue).
    ignore_values : sequence of float
        Values that mean "not labelled", besides the file's nodata; what `mapping` names goes first.
    max_pixels : int
        Largest picture that is decoded at once.

    Raises
    ------
    SettingsError
        If a class is unknown, or both `mapping` and `colours` are given.

    Examples
    --------
    >>> import tempfile
    >>> from utils.raster.files import write_raster
    >>> folder = tempfile.mkdtemp()
    >>> write_raster(folder + "/a.png", np.zeros((2, 2), np.uint8))
    >>> write_raster(folder + "/m.png", np.uint8([[[0, 0, 255], [0, 0, 0]], [[0, 0, 0], [0, 0, 255]]]))
    >>> labels = RasterLabels(folder + "/m.png", 2, colours={"diver": [0, 0, 255], "water": [0, 0, 0]})
    >>> labels.read(RasterScene(folder + "/a.png"), Window(0, 0, 2, 2)).tolist()
    [[0, 1], [1, 0]]
    """

    def __init__(
        self,
        path: str | Path,
        num_classes: int,
        mapping: Mapping[Any, int | str] | None = None,
        class_names: Sequence[str] = (),
        *,
        colours: Mapping[Any, Any] | None = None,
        ignore_values: Sequence[float] = (),
        max_pixels: int = MAX_PIXELS,
    ):
        super().__init__(path, num_classes, class_names)
        if mapping and colours:
            raise SettingsError(f"{path}: give a mapping of values or one of colours, not both")
        self.ignore_values = tuple(ignore_values)
        self._colours = _read_colours(colours, num_classes, class_names) if colours else None
        self._mapping = build_table(mapping, num_classes, class_names) if mapping else None
        self._file = RasterFile(path, max_pixels)

    def check(self, scene: RasterScene) -> None:
        """Find out early whether the labels fit a scene: bands, place, and all values of up to 64 windows.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.tif", np.zeros((2, 3), np.uint8))
        >>> write_raster(folder + "/l.tif", np.uint8([[0, 1, 7], [7, 1, 0]]))
        >>> RasterLabels(folder + "/l.tif", 2).check(RasterScene(folder + "/a.tif"))
        Traceback (most recent call last):
            ...
        utils.raster.labels.UnknownValuesError: ...l.tif: value 7 (2 times in the window at y 0, x 0) ...
        """
        self._placement(scene)
        unknown, found = None, Counter[str]()
        places = list(whole_windows(scene.height, scene.width))
        for window in places:
            try:
                self.read(scene, window)
            except UnknownValuesError as error:
                unknown = error
                found.update(error.counts)
        if unknown is not None:
            where = f"in {len(places)} windows" if len(places) > 1 else "in the window at y 0, x 0"
            raise UnknownValuesError(self.path, found, where, unknown.classes, unknown.cure)

    @functools.cached_property
    def _table(self) -> ClassTable:
        """Class of each value of the file.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("l.tif", np.zeros((2, 3), np.uint8), nodata=0)
        >>> RasterLabels(path, 2)._table.classes, RasterLabels(path, 2, {0: 1})._table.classes
        ({'0': 255, '1': 1, '255': 255, 'null': 255}, {'0': 1, 'null': 255})
        """
        if self._colours is not None:
            return self._colours
        plain = {str(value): value for value in (*range(self.num_classes), IGNORE)}
        unlabelled = {class_key(value): IGNORE for value in (*self.ignore_values, self._file.header.nodata[0], None)}
        if self._mapping is None:
            return ClassTable({**plain, **unlabelled}, None)
        return ClassTable({**unlabelled, **self._mapping.classes}, self._mapping.other)

    @functools.cached_property
    def _bands(self) -> list[int]:
        """The bands that hold the label: one, or three colours.

        Raises
        ------
        DataError
            If the file has several bands and no colours were given, or the other way round; or its values mean the
            opposite of what viewers show.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("l.tif", np.zeros((2, 3, 3), np.uint8))
        >>> RasterLabels(path, 2)._bands
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.tif: labels need one band, this file has 3; if it is painted in colours, give ...
        """
        header = self._file.header
        bands = list(header.colour_bands)
        if header.white_is_zero and not (self._colours is not None and header.palette):
            raise DataError(
                f"{self.path}: a WhiteIsZero TIFF: viewers show its value 0 as white, so that what was painted is "
                "not known; expected BlackIsZero: write it anew (gdal_translate -co PHOTOMETRIC=MINISBLACK)"
            )
        if self._colours is None and len(bands) != 1:
            raise DataError(
                f"{self.path}: labels need one band, this file has {len(bands)}; if it is painted in colours, "
                "give dataset.label_colours: {class name: [red, green, blue]}"
            )
        if self._colours is not None and len(bands) != 3 and not header.palette:
            raise DataError(
                f"{self.path}: labels in colours need three bands or a palette, this file has {len(bands)} bands"
            )
        return bands

    def _placement(self, scene: RasterScene) -> Affine | None:
        """The affine map from the scene's pixels to the label's; None where their CRS, or their longitudes, differ.

        Raises
        ------
        DataError
            If only one of them has a CRS, they do not overlap, or sizes differ and nothing says where they lie.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((2, 3), np.uint8))
        >>> write_raster(folder + "/l.png", np.zeros((3, 2), np.uint8))
        >>> RasterLabels(folder + "/l.png", 2)._placement(RasterScene(folder + "/a.png"))
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...l.png: 3 x 2 pixels, but ...a.png has 2 x 3 (height x width), and neither ...
        """
        grid = self._file.header.grid
        check_same_kind(self.path, grid.crs, scene, self._file.header.unplaced)
        placed = not grid.transform.is_identity and not scene.transform.is_identity
        if grid.crs is None and not (placed and not scene.file_grid.transform.is_identity):
            return self._match_sizes(grid, scene)
        check_overlap(self.path, grid.bounds, grid.crs, scene)
        affine = grid.crs == scene.crs and not longitudes_differ(scene.grid, grid)
        return ~grid.transform @ scene.transform if affine else None

    def _match_sizes(self, grid: PixelGrid, scene: RasterScene) -> Affine:
        """The map for pictures without a place on Earth, which must be of one size before or after `scale`.

        Raises
        ------
        DataError
            When the sizes differ.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((4, 6), np.uint8))
        >>> labels, scene = RasterLabels(folder + "/a.png", 2), RasterScene(folder + "/a.png", scale=0.5)
        >>> tuple(labels._match_sizes(PixelGrid(4, 6, None, Affine.identity()), scene))[:6]
        (2.0, 0.0, 0.0, 0.0, 2.0, 0.0)
        """
        size, file_size = (grid.height, grid.width), (scene.file_grid.height, scene.file_grid.width)
        if size not in (file_size, (scene.height, scene.width)):
            turn = read_header(scene.paths[0]).orientation
            what = (
                f"{self.path}: {size[0]} x {size[1]} pixels, but {scene.paths[0]} has {file_size[0]} x {file_size[1]} "
                "(height x width)"
            )
            if turn > 4 and size == file_size[::-1]:
                raise DataError(
                    f"{what} as viewers show it, turned by its EXIF orientation {turn}, and the labels fit the picture "
                    "as it is stored; turn the labels in the same way, or give them the same EXIF orientation"
                )
            doubt = describe_ignored(scene.paths[0]) if size == file_size[::-1] else ""
            note = f" (the picture's {doubt})" if doubt else ""
            raise DataError(f"{what}, and neither says where it lies; give labels of the picture's size{note}")
        return Affine.scale(grid.width / scene.width, grid.height / scene.height)

    def _read_inside(self, scene: RasterScene, window: Window) -> np.ndarray:
        """Read the classes of a window that lies inside the scene.

        Examples
        --------
        >>> import tempfile
        >>> from utils.raster.files import write_raster
        >>> folder = tempfile.mkdtemp()
        >>> write_raster(folder + "/a.png", np.zeros((2, 4), np.uint8))
        >>> write_raster(folder + "/l.png", np.uint8([[0, 1, 0, 1], [1, 1, 0, 0]]))
        >>> scene = RasterScene(folder + "/a.png", scale=0.5)
        >>> RasterLabels(folder + "/l.png", 2)._read_inside(scene, Window(0, 0, 1, 2)).tolist()
        [[1, 0]]
        """
        matrix = self._placement(scene)
        grid = self._file.header.grid
        located = locate_pixels(scene.grid, grid, window) if matrix is None else locate_affine(matrix, window)
        rows, columns = located
        inside = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
        if not inside.any():
            return np.full((window.height, window.width), IGNORE, dtype=np.uint8)
        rows, columns = rows.clip(0, grid.height - 1), columns.clip(0, grid.width - 1)
        top, left = int(rows.min()), int(columns.min())
        area = Window(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        if area.height * area.width > _READ_PIXELS and window.height > 1:  # labels much finer than the scene
            half = window.height // 2
            upper = Window(window.y, window.x, half, window.width)
            lower = Window(window.y + half, window.x, window.height - half, window.width)
            return np.concatenate([self._read_inside(scene, upper), self._read_inside(scene, lower)])
        block = self._file.read(area, self._bands)
        values = block.values[:, rows - top, columns - left]
        hidden = ~inside if block.hidden is None else ~inside | block.hidden[rows - top, columns - left]
        return self._to_classes(values, hidden, window)

    def _to_classes(self, values: np.ndarray, hidden: np.ndarray, window: Window) -> np.ndarray:
        """Turn raw values, shape (bands, height, width), into classes, 255 where hidden.

        Raises
        ------
        DataError
            If a value that is not hidden is no class.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("l.tif", np.zeros((2, 3), np.float32))
        >>> values, hidden = np.float32([[[0, 1, np.nan]]]), np.array([[True, False, False]])
        >>> RasterLabels(path, 2)._to_classes(values, hidden, Window(0, 0, 1, 3)).tolist()
        [[255, 1, 255]]
        """
        codes = values[0] if self._colours is None else self._colour_codes(values)
        unique, inverse = _unique_values(codes)
        classes = self._table.look_up(unique.tolist())
        label = classes[inverse]
        label[hidden] = IGNORE
        if (label < 0).any():
            self._raise_foreign(unique, np.bincount(inverse[label < 0], minlength=len(unique)), window)
        return label.astype(np.uint8)

    def _colour_codes(self, values: np.ndarray) -> np.ndarray:
        """Colours as numbers 0xRRGGBB, from three bands or a palette.

        `values` has shape (bands, H, W), the result shape (H, W).

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("l.png", np.uint8([[0, 1]]), palette={0: (0, 0, 0), 1: (1, 2, 3)})
        >>> hex(RasterLabels(path, 1, colours={(1, 2, 3): 0})._colour_codes(np.uint8([[[1]]]))[0, 0])
        '0x10203'
        """
        palette = self._file.header.palette
        if palette:
            values = np.array(palette, dtype=np.uint8)[values[0]].transpose(2, 0, 1)
        red, green, blue = values[:3].astype(np.int64)
        return red << 16 | green << 8 | blue

    def _raise_foreign(self, unique: np.ndarray, counts: np.ndarray, window: Window) -> None:
        """Report values or colours that are no class.

        `unique` and `counts` have shape (N,): values, and how often each occurs.

        Raises
        ------
        DataError
            Always.

        Examples
        --------
        >>> labels = RasterLabels("m.png", 1, colours={"sand": [255, 255, 0]})
        >>> labels._raise_foreign(np.array([0xFF, 0xFFFF00]), np.array([3, 0]), Window(0, 8, 4, 4))
        Traceback (most recent call last):
            ...
        utils.raster.labels.UnknownValuesError: m.png: value [0, 0, 255] (3 times in the window at y 0, ...
        """
        show = class_key if self._colours is None else _show_colour
        found = {show(value): int(count) for value, count in zip(unique.tolist(), counts, strict=True) if count}
        setting = "dataset.label_mapping" if self._colours is None else "dataset.label_colours"
        classes = [show(key) for key in self._table.classes if key != "null"]
        where = f"in the window at y {window.y}, x {window.x}"
        example = (
            ", as in {0: field}" if self._colours is None else "; 'ignore: [red, green, blue]' leaves a colour out"
        )
        cure = f"give it a class or 'ignore' in {setting}{example}"
        raise UnknownValuesError(self.path, found, where, classes, cure)


def whole_windows(height: int, width: int) -> Iterator[Window]:
    """Windows that cover a raster, or 64 of them at even distances where there are more.

    Examples
    --------
    >>> [(window.y, window.x) for window in whole_windows(1025, 2048)]
    [(0, 0), (0, 1024), (1024, 0), (1024, 1024)]
    >>> len(list(whole_windows(100_000, 100_000)))
    64
    """
    across, down = -(-width // _CHECK_SIDE), -(-height // _CHECK_SIDE)
    places = np.unique(np.linspace(0, across * down - 1, min(across * down, _CHECK_WINDOWS)).astype(int))
    for place in places.tolist():
        y, x = place // across * _CHECK_SIDE, place % across * _CHECK_SIDE
        yield Window(y, x, min(_CHECK_SIDE, height - y), min(_CHECK_SIDE, width - x))


def _read_colours(colours: Mapping[Any, Any], num_classes: int, class_names: Sequence[str]) -> ClassTable:
    """Class of each colour, from (red, green, blue) -> class or class name -> (red, green, blue).

    Without `class_names` the order of the names gives the indices.

    Raises
    ------
    SettingsError
        When a colour is not three numbers from 0 to 255, or two classes have the same.

    Examples
    --------
    >>> _read_colours({"water": [0, 0, 0], "diver": [0, 0, 255]}, 2, ())
    ClassTable(classes={'0': 0, '255': 1}, other=None)
    >>> _read_colours({(0, 1, 0): "ignore"}, 2, ())
    ClassTable(classes={'256': 255}, other=None)
    >>> _read_colours({"water": [0, 0, 9], "diver": [0, 0, 9]}, 2, ())
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: dataset.label_colours: diver and water have the same colour [0, 0, 9]; ...
    """
    names = tuple(class_names) or tuple(str(key) for key in colours if isinstance(key, str) and key != "ignore")
    classes: dict[str, int] = {}
    owners: dict[str, object] = {}
    for key, value in colours.items():
        colour, target = (value, key) if isinstance(key, str) else (key, value)
        if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
            raise SettingsError(f"dataset.label_colours.{target}: expected three numbers 0 to 255, got {list(colour)}")
        code = colour[0] << 16 | colour[1] << 8 | colour[2]
        classes[str(code)] = class_index(target, num_classes, names, "dataset.label_colours")
        if owners.setdefault(str(code), target) != target:  # the later one would take the pixels of both
            raise SettingsError(
                f"dataset.label_colours: {target} and {owners[str(code)]} have the same colour {list(colour)}; "
                "give each class its own"
            )
    return ClassTable(classes, None)


def _show_colour(code: int | str) -> str:
    """A colour's number as red, green, blue.

    Examples
    --------
    >>> _show_colour(0x0102FF)
    '[1, 2, 255]'
    """
    return str(list(int(code).to_bytes(3, "big")))


def _unique_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, and for each element which of them it is.

    Values may have any shape; the second array has that shape too.

    Examples
    --------
    >>> unique, inverse = _unique_values(np.uint8([[7, 3], [3, 3]]))
    >>> unique.tolist(), inverse.tolist()
    ([3, 7], [[1, 0], [0, 0]])
    """
    if values.dtype == np.uint8:  # ten times as fast as sorting
        unique = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        position = np.zeros(256, dtype=np.int64)
        position[unique] = np.arange(len(unique))
        return unique, position[values]
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))  # labels come in long runs
    unique, which = np.unique(flat[starts], return_inverse=True)
    inverse = np.repeat(which, np.diff(np.append(starts, flat.size)))
    return unique, inverse.reshape(values.shape)
