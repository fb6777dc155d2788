"""Labels of pictures drawn on their pixels: outlines with holes, lines, masks and boxes, in one order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from typing_extensions import override

from utils import IGNORE_INDEX as IGNORE
from utils.errors import DataError, SettingsError
from utils.formats.outline_rules import is_only_box
from utils.formats.run_lengths import box_of_mask, read_counts
from utils.formats.types import AnnotatedPicture, Instance
from utils.raster.class_table import class_index
from utils.raster.labels import BLOCK, LabelSource, join_blocks
from utils.raster.scenes import RasterScene
from utils.raster.shapes import Shapes
from utils.raster.tiling import Window
from utils.runtime.recent import Recent

_BLOCKS_KEPT = 64  # of at most 1 MB
_PICTURES_KEPT = 8  # whose outlines are ready to be drawn


@dataclass(frozen=True)
class MaskShape:
    """A mask of an object, to be drawn at the centres of a scene's pixels.

    Parameters
    ----------
    place : Window
        The pixels of the picture that the mask may cover.
    covered : ndarray of bool, shape (height, width) of the place
    size : (int, int)
        Height and width of the picture.
    value : int
        Class.

    Examples
    --------
    >>> shape = MaskShape(Window(0, 1, 1, 2), np.array([[True, True]]), (1, 4), 7)
    >>> drawn = np.zeros((2, 8), np.uint8)
    >>> shape.draw_on(drawn, Window(0, 0, 2, 8), (2, 8))
    >>> drawn.tolist()
    [[0, 0, 7, 7, 7, 7, 0, 0], [0, 0, 7, 7, 7, 7, 0, 0]]
    """

    place: Window
    covered: np.ndarray
    size: tuple[int, int]
    value: int

    def draw_on(self, drawn: np.ndarray, window: Window, scene: tuple[int, int]) -> None:
        """Draw it over what was drawn of a window, uint8 (height, width), of a scene of a height and width.

        The place of a pixel's centre is a ratio of whole numbers, so that it is the same in every window.

        Examples
        --------
        >>> shape = MaskShape(Window(0, 1, 1, 2), np.array([[True, False]]), (1, 4), 7)
        >>> drawn = np.zeros((1, 3), np.uint8)
        >>> shape.draw_on(drawn, Window(0, 1, 1, 3), (1, 4))
        >>> drawn.tolist()
        [[7, 0, 0]]
        """
        rows, row_at = _under(window.y, window.height, scene[0], self.size[0], self.place.rows)
        columns, column_at = _under(window.x, window.width, scene[1], self.size[1], self.place.columns)
        part = drawn[rows, columns]
        part[self.covered[np.ix_(row_at, column_at)]] = self.value


@dataclass(frozen=True)
class CutShape:
    """Outlines of an object without its holes.

    Parameters
    ----------
    rings : Shapes
        The outlines as class 1, then the holes as class 0.
    value : int
        Class.

    Examples
    --------
    >>> shape = CutShape(as_shapes([(shapely.box(0, 0, 4, 1), 1), (shapely.box(1, 0, 2, 1), 0)]), 7)
    >>> drawn = np.full((1, 5), 9, np.uint8)
    >>> shape.draw_on(drawn, Window(0, 0, 1, 5), (1, 5))
    >>> drawn.tolist()
    [[7, 9, 7, 7, 9]]
    """

    rings: Shapes
    value: int

    def draw_on(self, drawn: np.ndarray, window: Window, scene: tuple[int, int]) -> None:
        """Draw it over what was drawn of a window, uint8 (height, width).

        Examples
        --------
        >>> drawn = np.zeros((1, 2), np.uint8)
        >>> CutShape(as_shapes([(shapely.box(1, 0, 4, 1), 1)]), 7).draw_on(drawn, Window(0, 0, 1, 2), (1, 5))
        >>> drawn.tolist()
        [[0, 7]]
        """
        drawn[self.rings.draw(window, unlabelled=0) == 1] = self.value


Drawn = tuple[Any, int] | MaskShape | CutShape  # a geometry in pixels of the scene with its class, or what draws itself


def as_shapes(geometries: Sequence[tuple[Any, int]]) -> Shapes:
    """Geometries with their classes, to be drawn in their order.

    Examples
    --------
    >>> as_shapes([(shapely.box(0, 0, 1, 1), 3)]).classes.tolist()
    [3]
    """
    listed = np.array([geometry for geometry, _ in geometries])
    return Shapes(listed, np.array([value for _, value in geometries], np.uint8), shapely.STRtree(listed))


def _under(start: int, count: int, scene: int, picture: int, span: slice) -> tuple[slice, np.ndarray]:
    """The pixels of a window along one axis whose centres lie in a span of the picture, and where in the span.

    Examples
    --------
    >>> under, at = _under(2, 4, scene=8, picture=4, span=slice(2, 4))
    >>> under, at.tolist()
    (slice(2, 4, None), [0, 0])
    """
    source = (2 * np.arange(start, start + count, dtype=np.int64) + 1) * picture // (2 * scene)
    first, last = np.searchsorted(source, [span.start, span.stop]).tolist()
    return slice(first, last), source[first:last] - span.start


class DrawnLabels(LabelSource):
    """Labels of pictures, drawn in a stated order with a class for every pixel.

    From the bottom to the top: the class of what is not labelled; boxes of objects that have nothing else, as not
    labelled; crowds; all other objects in their order. A pixel is of an outline or line in which its centre lies, and
    of a mask whose pixel holds its centre.

    Parameters
    ----------
    path : str or Path
        The file or folder of the labels, for messages.
    pictures : sequence of AnnotatedPicture
        Whose objects `keep_areas` has gone over.
    classes : dict of str to int
        Class of each category, 255 for one that is not to be learnt.
    num_classes : int
        Classes, besides "ignore".
    class_names : sequence of str
        Their names.
    unlabelled : str
        Class of the pixels of no object, or "ignore".
    line_width : float
        In pixels of the scene, after its `scale`.
    overlap : str
        Which of two objects lies on top: `order`, the one of the higher z_order, of equal ones the later; `area`, the
        smaller one.

    Raises
    ------
    SettingsError
        If a line would be thinner than a pixel, or there is no such class.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> path = raster_file("a.png", np.zeros((2, 4), np.uint8))
    >>> square = np.array([[0.0, 0], [3, 0], [3, 2], [0, 2]])
    >>> car = Instance("car", polygons=(square,), holes=(square[:, :] * [1 / 3, 1 / 2],))
    >>> dog = Instance("dog", mask={"size": [2, 4], "counts": [5, 3]})
    >>> labels = DrawnLabels("l", [AnnotatedPicture("a", Path(path), (2, 4), (car, dog))], {"car": 0, "dog": 1}, 2)
    >>> labels.read(RasterScene(path), Window(0, 0, 2, 4)).tolist()
    [[255, 0, 0, 1], [0, 0, 1, 1]]
    """

    def __init__(
        self,
        path: str | Path,
        pictures: Sequence[AnnotatedPicture],
        classes: Mapping[str, int],
        num_classes: int,
        class_names: Sequence[str] = (),
        *,
        unlabelled: str = "ignore",
        line_width: float = 3.0,
        overlap: str = "order",
    ):
        super().__init__(path, num_classes, class_names)
        if not line_width >= 1:
            raise SettingsError(f"{path}: line_width is in pixels, expected at least 1, got {line_width}")
        if overlap not in ("order", "area"):
            raise SettingsError(f"{path}: overlap: expected order or area, got {overlap!r}")
        self.unlabelled = class_index(unlabelled, num_classes, class_names, "dataset.unlabelled")
        self.line_width, self.overlap = line_width, overlap
        self._classes = dict(classes)
        self._pictures = {picture.path: picture for picture in pictures}
        self._drawings = Recent(_PICTURES_KEPT)
        self._blocks = Recent(_BLOCKS_KEPT)

    @override
    def check(self, scene: RasterScene) -> None:
        picture, grid = self._picture_of(scene), scene.file_grid
        if picture.size is not None and picture.size != (grid.height, grid.width):
            raise DataError(
                f"{picture.path}: {grid.height} x {grid.width} pixels (height x width), but its labels in {self.path} "
                f"are of {picture.size[0]} x {picture.size[1]}; give the picture that was labelled"
            )

    def _picture_of(self, scene: RasterScene) -> AnnotatedPicture:
        """The labelled picture of a scene.

        Raises
        ------
        DataError
            If it is not labelled.

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> scene = RasterScene(raster_file("a.png", np.zeros((2, 4), np.uint8)))
        >>> DrawnLabels("labels", [], {}, 2)._picture_of(scene)
        Traceback (most recent call last):
            ...
        utils.errors.DataError: labels: no labels of ...a.png; label it, or leave it out
        """
        picture = self._pictures.get(scene.paths[0])
        if picture is None:
            raise DataError(f"{self.path}: no labels of {scene.paths[0]}; label it, or leave it out")
        return picture

    @override
    def _read_inside(self, scene: RasterScene, window: Window) -> np.ndarray:
        self.check(scene)
        size, path = (scene.height, scene.width), scene.paths[0]

        def draw(block: Window) -> np.ndarray:
            return self._blocks.get((path, size, block), functools.partial(self._draw_block, scene, block))

        return join_blocks(size, window, draw)

    def _draw_block(self, scene: RasterScene, block: Window) -> np.ndarray:
        """Draw a block of the class map, uint8 (height, width).

        Examples
        --------
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.png", np.zeros((2, 4), np.uint8))
        >>> box = Instance("car", box_xyxy=np.array([1.0, 0, 3, 2]))
        >>> picture = AnnotatedPicture("a", Path(path), (2, 4), (box,))
        >>> labels = DrawnLabels("l", [picture], {"car": 0}, 2, ["car", "road"], unlabelled="road")
        >>> labels._draw_block(RasterScene(path), Window(0, 0, 1, 4)).tolist()
        [[1, 255, 255, 1]]
        """
        picture, size = self._picture_of(scene), (scene.height, scene.width)
        drawing = self._drawings.get((picture.path, size), functools.partial(self._prepare, picture, size))
        return draw_parts(drawing, block, size, self.unlabelled)

    def _prepare(self, picture: AnnotatedPicture, size: tuple[int, int]) -> list[Shapes | MaskShape | CutShape]:
        """What is drawn of a picture on a scene of a height and width, from the bottom to the top.

        Examples
        --------
        >>> square = np.array([[0.0, 0], [3, 0], [3, 2], [0, 2]])
        >>> mask = {"size": [2, 4], "counts": [5, 3]}
        >>> objects = Instance("car", polygons=(square,)), Instance("dog", mask=mask), Instance("dog", lines=(square,))
        >>> picture = AnnotatedPicture("a", Path("a.png"), (2, 4), (*objects, objects[0]))
        >>> parts = DrawnLabels("l", [picture], {"car": 0, "dog": 1}, 2)._prepare(picture, (2, 4))
        >>> [type(part).__name__ for part in parts], parts[2].classes.tolist()
        (['Shapes', 'MaskShape', 'Shapes'], [1, 0])
        """
        original = picture.size or size
        scale = np.array([size[1] / original[1], size[0] / original[0]])
        ordered = []
        for place, instance in enumerate(picture.instances):
            value, only_box = self._classes[instance.category], is_only_box(instance)
            if only_box and value == self.unlabelled:  # what is around the object is of its class, too
                continue
            shapes = self._shapes_of(instance, scale, IGNORE if only_box else value)
            level = 0 if only_box else 1 if instance.is_crowd else 2
            own = instance.z_order if self.overlap == "order" else -count_pixels(shapes, size)
            ordered.append(((level, own, place), shapes))
        ordered.sort(key=lambda entry: entry[0])
        return _joined([shape for _, shapes in ordered for shape in shapes])

    def _shapes_of(self, instance: Instance, scale: np.ndarray, value: int) -> list[Drawn]:
        """What is drawn of an object with its class, in the scene's pixels.

        Rings that cross themselves stay as they are: what they go around an odd number of times is drawn, as where they
        are made valid, which takes hours for a scribble.

        `scale` has shape (2,): pixels of the scene per pixel of the picture along x and y.

        Examples
        --------
        >>> labels = DrawnLabels("l", [], {}, 2, line_width=2)
        >>> line = Instance("road", lines=(np.array([[1.0, 1], [3, 1]]),))
        >>> labels._shapes_of(line, np.array([2.0, 1.0]), 1)[0][0].bounds
        (1.0, 0.0, 7.0, 2.0)
        """
        if is_only_box(instance):
            return [(shapely.box(*(instance.box_xyxy * np.tile(scale, 2))), value)]
        found: list[Drawn] = []
        if instance.mask is not None and (mask := decode_mask(instance.mask)) is not None:
            found.append(MaskShape(*mask, tuple(instance.mask["size"]), value))
        outlines = [(shapely.Polygon(ring * scale), 1) for ring in instance.polygons]
        holes = [(shapely.Polygon(ring * scale), 0) for ring in instance.holes]
        if holes and outlines:
            found.append(CutShape(as_shapes([*outlines, *holes]), value))
            outlines = []
        lines = [shapely.LineString(scale * (line if len(line) > 1 else line.repeat(2, 0))) for line in instance.lines]
        areas = [*(ring for ring, _ in outlines), *shapely.buffer(np.array(lines, object), self.line_width / 2)]
        return [*found, *((geometry, value) for geometry in areas)]


def count_pixels(shapes: Sequence[Drawn], size: tuple[int, int]) -> int:
    """How many pixels of a scene of a height and width the shapes of an object cover together.

    Examples
    --------
    >>> count_pixels([(shapely.box(-5, 0, 2, 3), 7), (shapely.box(1, 0, 3, 1), 7)], (4, 4))
    7
    """
    parts = _joined([(shape[0], 1) if isinstance(shape, tuple) else replace(shape, value=1) for shape in shapes])
    if not parts:
        return 0
    reach = np.array([reach_of(part, size) for part in parts])
    left, top = np.floor(reach[:, :2].min(axis=0)).astype(int).clip(0).tolist()
    right, bottom = np.minimum(np.ceil(reach[:, 2:].max(axis=0)), [size[1], size[0]]).astype(int).tolist()
    if left >= right:
        return 0
    windows = (Window(y, left, min(BLOCK, bottom - y), right - left) for y in range(top, bottom, BLOCK))
    return sum(int(draw_parts(parts, window, size, 0).sum()) for window in windows)


def reach_of(part: Shapes | MaskShape | CutShape, size: tuple[int, int]) -> np.ndarray:
    """The box (4,) around a part, in pixels of a scene of a height and width.

    Examples
    --------
    >>> mask = MaskShape(Window(0, 1, 1, 2), np.array([[True, True]]), (1, 4), 7)
    >>> reach_of(mask, (2, 8)).tolist(), reach_of(as_shapes([(shapely.box(-5, 0, 2, 3), 7)]), (2, 8)).tolist()
    ([2.0, 0.0, 6.0, 2.0], [-5.0, 0.0, 2.0, 3.0])
    """
    if isinstance(part, MaskShape):
        place, scale = part.place, np.array([size[1] / part.size[1], size[0] / part.size[0]] * 2)
        return np.array([place.x, place.y, place.columns.stop, place.rows.stop]) * scale
    return shapely.total_bounds((part if isinstance(part, Shapes) else part.rings).geometries)


def draw_parts(
    parts: Sequence[Shapes | MaskShape | CutShape], window: Window, size: tuple[int, int], unlabelled: int
) -> np.ndarray:
    """Draw parts on a window, uint8 (height, width), of a scene of a height and width, later over earlier ones.

    Examples
    --------
    >>> draw_parts([as_shapes([(shapely.box(0, 0, 1, 1), 3)])], Window(0, 0, 1, 2), (1, 2), 255).tolist()
    [[3, 255]]
    """
    drawn = np.full((window.height, window.width), unlabelled, dtype=np.uint8)
    for part in parts:
        if isinstance(part, Shapes):
            part.draw_on(drawn, window)
        else:
            part.draw_on(drawn, window, size)
    return drawn


def _joined(shapes: Sequence[Drawn]) -> list[Shapes | MaskShape | CutShape]:
    """Geometries that follow each other as one set of shapes, the others as they are.

    Examples
    --------
    >>> [len(part.geometries) for part in _joined([(shapely.box(0, 0, 1, 1), 3), (shapely.box(0, 0, 2, 2), 4)])]
    [2]
    """
    found: list[Shapes | MaskShape | CutShape] = []
    for is_geometry, group in itertools.groupby(shapes, lambda shape: isinstance(shape, tuple)):
        run: list[Any] = list(group)
        found += [as_shapes(run)] if is_geometry else run
    return found


def decode_mask(mask: Mapping[str, Any]) -> tuple[Window, np.ndarray] | None:
    """The box around a mask of run lengths, and the pixels in it that it covers; None where it covers nothing.

    Parameters
    ----------
    mask : dict
        COCO's `size` and `counts`: column by column, first of what is not covered.

    Returns
    -------
    place : Window
    covered : ndarray of bool, shape (height, width) of the place

    Raises
    ------
    ValueError
        If it is none: see `read_counts`.

    Examples
    --------
    >>> place, covered = decode_mask({"size": [2, 4], "counts": [3, 3, 2]})
    >>> place, covered.tolist()
    (Window(y=0, x=1, height=2, width=2), [[False, True], [True, True]])
    """
    box = box_of_mask(mask)
    if box is None:
        return None
    left, top, right, bottom = box.astype(int).tolist()
    height, ends = mask["size"][0], np.cumsum(read_counts(mask))
    ends = ends.clip(left * height, right * height)  # of the columns that it covers
    runs = np.diff(ends, prepend=left * height)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(right - left, height)
    return Window(top, left, bottom - top, right - left), np.ascontiguousarray(columns.T[top:bottom])
