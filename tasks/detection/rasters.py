"""Rasters of any size: items that are read window by window, and pieces of the boxes that are found in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np

from tasks.detection.items import DetectionItem
from tasks.item import Piece
from utils.boxes.windows import WindowMerger
from utils.errors import DataError
from utils.raster.grids import PixelGrid
from utils.raster.pictures import open_picture, refuse_faint, show_values
from utils.raster.scaling_estimate import sample_scene
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")  # of files that may have a place on Earth or any size
LARGEST = 50_000_000  # pixels of a raster without a place that is taken for a photo, and seen as a whole


@dataclass(frozen=True)
class RasterItem(DetectionItem):
    """A raster that is read window by window.

    Parameters
    ----------
    grid : PixelGrid
        Its size, CRS and transform.
    tile, stride : int
        Pixels of a window's side, and about from one window to the next.
    first_row : int
        The row of windows to begin with; those before are predicted.

    Examples
    --------
    >>> from affine import Affine
    >>> from utils.formats.types import AnnotatedPicture
    >>> grid = PixelGrid(100, 250, None, Affine.identity())
    >>> item = RasterItem("a", (), AnnotatedPicture("a", Path("a.tif"), (100, 250), ()), "inference",
    ...     grid=grid, tile=100, stride=80)
    >>> [(window.y, window.x) for window in item.windows()], item.is_placed
    ([(0, 0), (0, 75), (0, 150)], False)
    """

    grid: PixelGrid = field(compare=False, kw_only=True)
    tile: int = field(kw_only=True)
    stride: int = field(kw_only=True)
    first_row: int = field(default=0, kw_only=True)

    @property
    def is_placed(self) -> bool:
        """Whether the raster has a place on Earth.

        Examples
        --------
        >>> from affine import Affine
        >>> from utils.formats.types import AnnotatedPicture
        >>> grid = PixelGrid(10, 20, None, Affine.scale(2, -2))
        >>> picture = AnnotatedPicture("a", Path("a.tif"), None, ())
        >>> RasterItem("a", (), picture, "inference", grid=grid, tile=5, stride=4).is_placed
        True
        """
        return self.grid.crs is not None or not self.grid.transform.is_identity

    def stamp(self) -> list:
        """Values that change with the raster or its windows.

        Examples
        --------
        >>> from affine import Affine
        >>> from utils.formats.types import AnnotatedPicture
        >>> grid, picture = PixelGrid(10, 20, None, Affine.scale(2, -2)), AnnotatedPicture("a", Path("a.tif"), None, ())
        >>> RasterItem("a", (), picture, "inference", grid=grid, tile=5, stride=4).stamp()[-2:]
        [5, 4]
        """
        return [*super().stamp(), self.tile, self.stride]

    def windows(self) -> list[Window]:
        """All windows, row by row; none sticks out, and their distances along an axis are even.

        Examples
        --------
        >>> from affine import Affine
        >>> from utils.formats.types import AnnotatedPicture
        >>> grid, picture = PixelGrid(12, 3, None, Affine.identity()), AnnotatedPicture("a", Path("a.tif"), None, ())
        >>> RasterItem("a", (), picture, "inference", grid=grid, tile=5, stride=4).windows()[-1]
        Window(y=7, x=0, height=5, width=3)
        """
        height, width = min(self.tile, self.grid.height), min(self.tile, self.grid.width)
        return [
            Window(y, x, height, width)
            for y in even_starts(self.grid.height, self.tile, self.stride)
            for x in even_starts(self.grid.width, self.tile, self.stride)
        ]

    def remaining(self) -> list[Window]:
        """The windows that are not predicted yet.

        Examples
        --------
        >>> from affine import Affine
        >>> from utils.formats.types import AnnotatedPicture
        >>> grid, picture = PixelGrid(12, 3, None, Affine.identity()), AnnotatedPicture("a", Path("a.tif"), None, ())
        >>> item = RasterItem("a", (), picture, "inference", grid=grid, tile=5, stride=4, first_row=2)
        >>> [window.y for window in item.remaining()]
        [7]
        """
        tops = set(even_starts(self.grid.height, self.tile, self.stride)[self.first_row :])
        return [window for window in self.windows() if window.y in tops]

    def read(self) -> Iterator[tuple[Window, np.ndarray]]:
        """Windows that are not predicted yet and hold data, each with its colours (h, w, 3), uint8.

        Raises
        ------
        DataError
            If the raster cannot be read, or has values or bands that are no colours.

        Examples
        --------
        >>> from utils.formats.types import AnnotatedPicture
        >>> from utils.raster.example import raster_file
        >>> values = np.zeros((4, 8, 3), np.uint8)
        >>> values[:, 6] = 9
        >>> path = Path(raster_file("a.tif", values, nodata=0, crs="EPSG:32631"))
        >>> item = RasterItem("a", (path,), AnnotatedPicture("a", path, None, ()), "inference",
        ...     grid=grid_if_raster(path), tile=4, stride=4)
        >>> [(window.x, image.shape, int(image.max())) for window, image in item.read()]
        [(4, (4, 4, 3), 9)]
        """
        scene, bits = open_colours(self.picture.path)
        for window in self.remaining():
            values, valid = scene.read_values(window)
            if valid.any():
                yield window, show_values(values, self.picture.path, bits)


def even_starts(size: int, tile: int, stride: int) -> list[int]:
    """First pixels of windows along an axis: the fewest that are no more than a stride apart and stay inside.

    Examples
    --------
    >>> even_starts(250, 100, 80), even_starts(100, 100, 80), even_starts(30, 100, 80)
    ([0, 75, 150], [0], [0])
    """
    if size <= tile:
        return [0]
    count = ceil((size - tile) / stride) + 1
    return np.rint(np.linspace(0, size - tile, count)).astype(int).tolist()


def grid_if_raster(path: Path) -> PixelGrid | None:
    """Where the pixels of a raster lie that is to be read window by window; None for a photo, which is seen as a whole.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> values = np.zeros((4, 8, 3), np.uint8)
    >>> grid_if_raster(Path(raster_file("a.tif", values))) is None
    True
    >>> grid_if_raster(Path(raster_file("a.tif", values, crs="EPSG:32631"))).width
    8
    """
    if path.suffix.lower() not in SUFFIXES:
        return None
    try:
        grid = RasterScene(path).file_grid
    except DataError:  # told where it is read, so that other inputs are predicted
        return None
    is_placed = grid.crs is not None or not grid.transform.is_identity
    return grid if is_placed or grid.height * grid.width > LARGEST else None


def open_colours(path: Path) -> tuple[RasterScene, int]:
    """A raster with its three colours, and how many bits a value has.

    Raises
    ------
    DataError
        If it has two or more than four bands, values that are not of 8 or 16 bits, or 12 bits in 16 that it does not
        declare.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> open_colours(Path(raster_file("a.tif", np.zeros((4, 8, 4), np.uint8))))[0].bands
    (1, 2, 3)
    >>> open_colours(Path(raster_file("a.tif", np.zeros((4, 8), np.float32))))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../a.tif: values are float32, and a detector needs colours of 8 bits; convert it ...
    """
    scene, bits = open_picture(path)
    if scene.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path}: values are {scene.dtype}, and a detector needs colours of 8 bits; convert it (gdal_translate -ot "
            "Byte -scale)"
        )
    if bits is None:  # one window may be dark where the raster is not
        refuse_faint(sample_scene(scene), path)
    return scene, bits or 8 * scene.dtype.itemsize


class RasterPieces:
    """Joins the boxes of a raster's windows; gives a piece for each row of windows.

    Parameters
    ----------
    item : RasterItem
        The raster.
    match : float
        Overlap from which boxes of two windows are one object.
    edge : float
        Pixels of the raster from an inner edge of a window up to which a box may have been cut off there.

    Examples
    --------
    >>> from affine import Affine
    >>> from utils.formats.types import AnnotatedPicture
    >>> grid, picture = PixelGrid(16, 10, None, Affine.identity()), AnnotatedPicture("a", Path("a.tif"), None, ())
    >>> pieces = RasterPieces(RasterItem("a", (), picture, "inference", grid=grid, tile=10, stride=6), 0.5, 1.0)
    >>> one = np.array([0.5], np.float32), np.array([0])
    >>> list(pieces.add(Window(0, 0, 10, 10), np.array([[1.0, 1, 4, 5]]), *one))
    []
    >>> [first] = pieces.add(Window(6, 0, 10, 10), np.array([[1.0, 11, 4, 15]]), *one)
    >>> first.arrays["row"], first.arrays["boxes_xyxy"].tolist(), len(list(pieces.finish()))
    (0, [[1.0, 1.0, 4.0, 5.0]], 1)
    """

    def __init__(self, item: RasterItem, match: float, edge: float):
        self.item = item
        size = item.grid.height, item.grid.width
        self.merger = WindowMerger(item.windows(), size, match, item.first_row, edge)

    def add(self, window: Window, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Iterator[Piece]:
        """Take the boxes of a window, of which each object is there once; give the pieces of the rows before it.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.ones((400, 192, 3), np.uint8), crs="EPSG:32631")
        >>> pieces = RasterPieces(fox_task().source.input_items([path])[0], 0.5, 2.0)
        >>> one = np.array([[1.0, 2, 30, 40]]), np.array([0.5]), np.array([0])
        >>> list(pieces.add(pieces.item.windows()[0], *one))
        []
        >>> [piece.arrays["boxes_xyxy"].tolist() for piece in pieces.add(pieces.item.windows()[1], *one)]
        [[[1.0, 2.0, 30.0, 40.0]]]
        """
        yield from self._until(self.merger.tops.index(window.y))
        self.merger.add(window, boxes, scores, labels)

    def finish(self) -> Iterator[Piece]:
        """Give the pieces of the rows that are left.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.ones((400, 192, 3), np.uint8), crs="EPSG:32631")
        >>> pieces = RasterPieces(fox_task().source.input_items([path])[0], 0.5, 2.0)
        >>> [(piece.arrays["row"], piece.arrays["restart"]) for piece in pieces.finish()]
        [(0, 1), (1, 2), (2, 3)]
        """
        yield from self._until(len(self.merger.tops))

    def _until(self, row: int) -> Iterator[Piece]:
        """Pieces of the rows of windows before one.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.ones((400, 192, 3), np.uint8), crs="EPSG:32631")
        >>> pieces = RasterPieces(fox_task().source.input_items([path])[0], 0.5, 2.0)
        >>> [piece.arrays["size"] for piece in pieces._until(1)]
        [(400, 192)]
        """
        while self.merger.row < row:
            number, found = self.merger.row, self.merger.end_row()
            arrays = {"boxes_xyxy": found.boxes_xyxy, "scores": found.scores, "labels": found.labels}
            where = {"frame": 0, "row": number, "restart": self.merger.restart(), "size": self.merger.size}
            yield Piece(self.item, {**where, **arrays})


def moved_to(window: Window, matrices: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Matrices (3, 3) from pixels of a raster, by those from pixels of a window of it.

    Examples
    --------
    >>> next(moved_to(Window(4, 10, 8, 8), [np.diag([2.0, 2, 1])])).tolist()
    [[2.0, 0.0, -20.0], [0.0, 2.0, -8.0], [0.0, 0.0, 1.0]]
    """
    shift = np.eye(3)
    shift[:2, 2] = -window.x, -window.y
    return (matrix @ shift for matrix in matrices)
