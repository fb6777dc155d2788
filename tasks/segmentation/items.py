"""Items of segmentation: scenes, blocks of scenes, and their names in split lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.item import Item
from utils.formats.types import AnnotatedPicture
from utils.raster.regrid import AxisMap
from utils.raster.tiling import Window, split_rows, windows_for_rows
from utils.runtime.files import digest_json

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
    labels_digest : str
        Of what is drawn of its labels, where they are in a file of many pictures; else empty.

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
    labels_digest: str = ""

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
        drawn = [["labels", self.labels_digest]] if self.labels_digest else []
        place = [area.y, area.x, area.height, area.width]
        return [*super().stamp(), place, self.tile, self.stride, *padded, *empty, *drawn]

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

    Parameters
    ----------
    paths : tuple of Path
        The picture, or its bands.
    label : Path, optional
        The file or folder of its label.
    picture : AnnotatedPicture, optional
        What is drawn of its label, where that is one of many in `label`.
    split : str
        Split that such a label puts it in; `all` where it says none.

    Examples
    --------
    >>> SceneFiles((Path("a.tif"),), None).sources
    (PosixPath('a.tif'),)
    """

    paths: tuple[Path, ...]
    label: Path | None
    picture: AnnotatedPicture | None = None
    split: str = "all"

    @property
    def sources(self) -> tuple[Path, ...]:
        """All files of this scene alone: a label file of many pictures is none, or each would change with it.

        Examples
        --------
        >>> len(SceneFiles((Path("a.tif"),), Path("a.gpkg")).sources)
        2
        >>> picture = AnnotatedPicture("a", Path("a.jpg"), (4, 6), ())
        >>> SceneFiles((picture.path,), Path("coco.json"), picture).sources
        (PosixPath('a.jpg'),)
        """
        return self.paths + ((self.label,) if self.label and self.picture is None else ())

    @cached_property
    def labels_digest(self) -> str:
        """Digest of what is drawn of its label, where that is in a file of many; else empty.

        Examples
        --------
        >>> from dataclasses import replace
        >>> picture = AnnotatedPicture("a", Path("a.jpg"), (4, 6), ())
        >>> digests = [SceneFiles((), None, replace(picture, size=size)).labels_digest for size in ((4, 6), (6, 4))]
        >>> len(set(digests)), SceneFiles((), Path("a.gpkg")).labels_digest
        (2, '')
        """
        return "" if self.picture is None else digest_json(drawn_parts(self.picture))[:16]


def drawn_parts(picture: AnnotatedPicture) -> list[Any]:
    """All that a drawing of a labelled picture depends on, besides settings.

    Examples
    --------
    >>> import numpy as np
    >>> from utils.formats.types import Instance
    >>> line = Instance("road", lines=(np.array([[1.0, 2], [3, 4]]),), z_order=2)
    >>> drawn_parts(AnnotatedPicture("a", Path("a.jpg"), (4, 6), (line,)))
    [[4, 6], [['road', False, 2, None, None, [], [], [[[1.0, 2.0], [3.0, 4.0]]]]]]
    """
    objects = [
        [
            instance.category,
            instance.is_crowd,
            instance.z_order,
            None if instance.box_xyxy is None else instance.box_xyxy.tolist(),
            instance.mask,
            *([ring.tolist() for ring in rings] for rings in (instance.polygons, instance.holes, instance.lines)),
        ]
        for instance in picture.instances
    ]
    return [None if picture.size is None else list(picture.size), objects]


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
