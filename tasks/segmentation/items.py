"""Items of segmentation: scenes, blocks of scenes, and their names in split lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.item import Item
from utils.raster.regrid import AxisMap
from utils.raster.tiling import Window, split_rows, windows_for_rows

BLOCK = re.compile(r"^(?P<scene>.+)@y(?P<y0>\d+):(?P<y1>\d+),x(?P<x0>\d+):(?P<x1>\d+)$")
TILE = re.compile(r"^(?P<scene>.+)_y(?P<y>\d+)_x(?P<x>\d+)$")


@dataclass(frozen=True)
class SceneItem(Item):
    """A scene, or a block of one.

    Parameters
    ----------
    scene_id : str
        The scene.
    area : Window
        The pixels of the scene that the item may read.
    tile, stride : int
        Side of a window, and the distance from one to the next.
    rows : tuple of int
        First row of the map to predict, and the row after the last one.
    split : str
        Split that the item belongs to.
    nodata : tuple of float
        Values that stand for nothing besides those that its files declare.
    output : tuple of int, optional
        Height and width of the map, where it covers the area with other pixels than the model sees.

    Examples
    --------
    >>> item = SceneItem("a", (), "a", Window(0, 0, 8, 8), 4, 4, (0, 8))
    >>> [window.y for window in item.windows()]
    [0, 0, 4, 4]
    """

    scene_id: str
    area: Window
    tile: int
    stride: int
    rows: tuple[int, int]
    split: str = "train"
    nodata: tuple[float, ...] = ()
    output: tuple[int, int] | None = None

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map.

        Examples
        --------
        >>> SceneItem("a", (), "a", Window(0, 0, 8, 6), 4, 4, (0, 16), output=(16, 12)).map_size
        (16, 12)
        """
        return self.output or (self.area.height, self.area.width)

    @property
    def area_rows(self) -> tuple[int, int]:
        """Rows of the area of which `rows` of the map are made.

        Examples
        --------
        >>> SceneItem("a", (), "a", Window(0, 0, 8, 6), 4, 4, (6, 9), output=(16, 12)).area_rows
        (2, 5)
        """
        return AxisMap(self.area.height, self.output[0]).needed(self.rows) if self.output else self.rows

    def bands(self, parts: int) -> list[tuple[int, int]]:
        """Divide the rows of the map into bands, one for each rank, that end where strips of windows do.

        Examples
        --------
        >>> item = SceneItem("a", (), "a", Window(0, 0, 8, 6), 4, 4, (0, 16), output=(16, 12))
        >>> item.bands(2), SceneItem("a", (), "a", Window(0, 0, 8, 6), 4, 4, (0, 8)).bands(2)
        ([(0, 7), (7, 16)], [(0, 4), (4, 8)])
        """
        bands = split_rows(self.area.height, self.tile, self.stride, parts)
        if self.output is None:
            return bands
        axis = AxisMap(self.area.height, self.output[0])
        return [(axis.done(first), axis.done(last)) for first, last in bands]

    def stamp(self) -> list:
        """Values that change with the files of the item or its windows.

        Examples
        --------
        >>> SceneItem("a", (), "a", Window(0, 0, 8, 8), 4, 2, (0, 8)).stamp()[2:]
        [[0, 0, 8, 8], 4, 2]
        """
        area = self.area
        padded = ["reflect"] if self.tile > min(area.height, area.width) else []  # not the entries of an older padding
        empty = [["nodata", *self.nodata]] if self.nodata else []
        return [*super().stamp(), [area.y, area.x, area.height, area.width], self.tile, self.stride, *padded, *empty]

    def windows(self) -> list[Window]:
        """Windows that contain rows to predict, in pixels of the area, row by row.

        Examples
        --------
        >>> len(SceneItem("a", (), "a", Window(0, 0, 8, 8), 4, 4, (0, 4)).windows())
        2
        """
        return windows_for_rows(self.area.height, self.area.width, self.tile, self.stride, self.area_rows)


@dataclass(frozen=True)
class SceneFiles:
    """The files of a scene and its label.

    Examples
    --------
    >>> SceneFiles((Path("a.tif"),), None).sources
    (PosixPath('a.tif'),)
    """

    paths: tuple[Path, ...]
    label: Path | None

    @property
    def sources(self) -> tuple[Path, ...]:
        """All files.

        Examples
        --------
        >>> len(SceneFiles((Path("a.tif"),), Path("a.gpkg")).sources)
        2
        """
        return self.paths + ((self.label,) if self.label else ())


def block_id(scene_id: str, area: Window) -> str:
    """Name a block of a scene.

    Examples
    --------
    >>> block_id("kampala", Window(0, 512, 1024, 256))
    'kampala@y0:1024,x512:768'
    """
    return f"{scene_id}@y{area.y}:{area.y + area.height},x{area.x}:{area.x + area.width}"


def parse_id(text: str, scenes: Sequence[str], tile: int) -> tuple[str, Window | None] | None:
    """Read an item id: a scene, a block of one, or a tile `<scene>_y<row>_x<column>`; None for other text.

    Examples
    --------
    >>> parse_id("a@y0:8,x4:8", ["a"], 4)
    ('a', Window(y=0, x=4, height=8, width=4))
    >>> parse_id("a_y4_x0", ["a"], 4), parse_id("a", ["a"], 4), parse_id("b", ["a"], 4)
    (('a', Window(y=4, x=0, height=4, width=4)), ('a', None), None)
    """
    if text in scenes:
        return text, None
    block = BLOCK.match(text)
    if block and block["scene"] in scenes:
        y0, y1, x0, x1 = (int(block[name]) for name in ("y0", "y1", "x0", "x1"))
        return (block["scene"], Window(y0, x0, y1 - y0, x1 - x0)) if y1 > y0 and x1 > x0 else None
    cut = TILE.match(text)
    if cut and cut["scene"] in scenes:
        return cut["scene"], Window(int(cut["y"]), int(cut["x"]), tile, tile)
    return None
