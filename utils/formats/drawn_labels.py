"""Labels of pictures drawn on their pixels: outlines with holes, lines, masks and boxes, in one order."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from utils.raster.labels import LabelSource, join_blocks
from utils.raster.scenes import RasterScene
from utils.raster.shapes import Shapes, single_parts
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
        drawn = np.full((block.height, block.width), self.unlabelled, dtype=np.uint8)
        for part in drawing:
            if isinstance(part, Shapes):
                part.draw_on(drawn, block)
            else:
                part.draw_on(drawn, block, size)
        return drawn

    def _prepare(self, picture: AnnotatedPicture, size: tuple[int, int]) -> list[Shapes | MaskShape]:
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
            value = self._classes[instance.category]
            only_box = is_only_box(instance)
            if only_box and value == self.unlabelled:  # what is around the object is of its class, too
                continue
            shapes = self._shapes_of(instance, scale, IGNORE if only_box else value)
            level = 0 if only_box else 1 if instance.is_crowd else 2
            own = (instance.z_order,) if self.overlap == "order" else (-_area(shapes, scale),)
            ordered.append(((level, *own, place), shapes))
        ordered.sort(key=lambda entry: entry[0])
        return _joined([shape for _, shapes in ordered for shape in shapes])

    def _shapes_of(self, instance: Instance, scale: np.ndarray, value: int) -> list[tuple[Any, int] | MaskShape]:
        """The geometries of an object in the scene's pixels with their class, and its mask.

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
        found: list[tuple[Any, int] | MaskShape] = []
        if instance.mask is not None and (mask := decode_mask(instance.mask)) is not None:
            found.append(MaskShape(*mask, tuple(instance.mask["size"]), value))
        polygons, holes = ([ring * scale for ring in rings] for rings in (instance.polygons, instance.holes))
        lines = [shapely.LineString(scale * (line if len(line) > 1 else line.repeat(2, 0))) for line in instance.lines]
        areas = [*outline_parts(polygons, holes), *shapely.buffer(np.array(lines, object), self.line_width / 2)]
        return [*found, *((geometry, value) for geometry in areas)]


def _area(shapes: Sequence[tuple[Any, int] | MaskShape], scale: np.ndarray) -> float:
    """Area of an object's shapes in pixels of the scene; `scale` has shape (2,).

    Examples
    --------
    >>> mask = MaskShape(Window(0, 0, 1, 2), np.array([[True, False]]), (4, 4), 1)
    >>> _area([(shapely.box(0, 0, 2, 3), 1), mask], np.array([0.5, 0.5]))
    6.25
    """
    return sum(
        int(shape.covered.sum()) * float(scale.prod()) if isinstance(shape, MaskShape) else shape[0].area
        for shape in shapes
    )


def _joined(shapes: Sequence[tuple[Any, int] | MaskShape]) -> list[Shapes | MaskShape]:
    """Geometries that follow each other as one set of shapes, masks as they are.

    Examples
    --------
    >>> [len(part.geometries) for part in _joined([(shapely.box(0, 0, 1, 1), 3), (shapely.box(0, 0, 2, 2), 4)])]
    [2]
    """
    found: list[Shapes | MaskShape] = []
    run: list[tuple[Any, int]] = []
    for shape in (*shapes, None):
        if isinstance(shape, tuple):
            run.append(shape)
            continue
        if run:
            geometries = np.array([geometry for geometry, _ in run])
            found.append(
                Shapes(geometries, np.array([value for _, value in run], np.uint8), shapely.STRtree(geometries))
            )
            run = []
        if shape is not None:
            found.append(shape)
    return found


def outline_parts(polygons: Sequence[np.ndarray], holes: Sequence[np.ndarray]) -> list[Any]:
    """The single polygons that an object's rings, each (N, 2), enclose without its holes.

    Rings that cross themselves are made valid: what lies inside them an odd number of times is enclosed.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> [part.area for part in outline_parts([square, square + 8], [square / 2 + 1])]
    [12.0, 16.0]
    >>> bow_tie = np.array([[0.0, 0], [2, 2], [2, 0], [0, 2]])
    >>> [part.area for part in outline_parts([bow_tie], [])]
    [1.0, 1.0]
    """
    if not polygons:
        return []
    areas = _valid_parts(polygons)
    if holes:
        areas = np.array([shapely.difference(shapely.union_all(areas), shapely.union_all(_valid_parts(holes)))])
    return list(single_parts(areas, np.full(len(areas), 2))[0])


def _valid_parts(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Valid single polygons of rings, each (N, 2).

    Examples
    --------
    >>> _valid_parts([np.array([[0.0, 0], [4, 0], [4, 4], [2, 0]])]).tolist()
    [<POLYGON ((4 4, 4 0, 2 0, 4 4))>]
    """
    areas = np.array([shapely.Polygon(ring) for ring in rings])
    invalid = ~shapely.is_valid(areas)
    areas[invalid] = shapely.make_valid(areas[invalid])
    return single_parts(areas, np.full(len(areas), 2))[0]


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
