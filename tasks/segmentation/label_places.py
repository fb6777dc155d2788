"""Where labels lie: how many windows of a size hold some, in all and of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils import IGNORE_INDEX as IGNORE
from utils.raster.labels import LabelSource
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window

CELL = 32  # pixels per side; sides of windows are multiples
_BLOCK = 32 * CELL  # pixels per side that are read at once


@dataclass(frozen=True)
class LabelPlaces:
    """Labelled pixels, counted in cells of `CELL` pixels.

    Parameters
    ----------
    cells : int64 array, shape (N, 4)
        Scene, row and column of the cell, and class; each row once.
    counts : int64 array, shape (N,)
        Labelled pixels.
    pixels : int
        Of all scenes, labelled or not.
    in_fill : int
        Labelled pixels that hold the values of fill.

    Examples
    --------
    >>> cells = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 5, 1, 1]])
    >>> LabelPlaces(cells, np.array([9, 1, 2]), 4096, 0).per_class(2).tolist()
    [9, 3]
    """

    cells: np.ndarray
    counts: np.ndarray
    pixels: int
    in_fill: int

    def per_class(self, num_classes: int) -> np.ndarray:
        """Labelled pixels of each class, (K,).

        Examples
        --------
        >>> LabelPlaces(np.array([[0, 0, 0, 1]]), np.array([7]), 4096, 0).per_class(2).tolist()
        [0, 7]
        """
        return np.bincount(self.cells[:, 3], self.counts, num_classes).astype(np.int64)

    def windows(self, side: int) -> tuple[int, dict[int, int]]:
        """Count the windows of a side in pixels that hold labels, and for each labelled class those that hold it.

        Windows lie edge to edge from the upper left corner of each scene. A cell counts where its corner lies, so that
        numbers are not exact where the side is no multiple of `CELL`; a smaller side has at least as many windows.

        Examples
        --------
        >>> places = LabelPlaces(np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 5, 1, 1]]), np.array([9, 1, 2]), 9999, 0)
        >>> [places.windows(side)[0] for side in (32, 64, 192)], places.windows(64)[1]
        ([3, 2, 1], {0: 1, 1: 2})
        """
        windows = np.unique(self.cells * np.array([1, CELL, CELL, 1]) // np.array([1, side, side, 1]), axis=0)
        held, numbers = np.unique(windows[:, 3], return_counts=True)
        return len(np.unique(windows[:, :3], axis=0)), dict(zip(held.tolist(), numbers.tolist(), strict=True))


def find_places(
    scenes: Mapping[str, RasterScene], labels: Mapping[str, LabelSource], fill: Sequence[float] = ()
) -> LabelPlaces:
    """Count the labelled pixels of scenes in cells.

    Parameters
    ----------
    scenes, labels : mapping of str to RasterScene and LabelSource
        Of the same names.
    fill : sequence of float
        Values of undeclared fill.

    Raises
    ------
    DataError
        If a file cannot be read.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> scenes = scene_task().source.scenes
    >>> files = scenes.labelled()["scene_1"]
    >>> places = find_places({"a": scenes.scene(files.paths)}, {"a": scenes.labels(files.label)})
    >>> places.per_class(2).tolist(), places.pixels, places.windows(32)[0]
    ([3072, 3072], 6144, 6)
    """
    cells, counts, in_fill = [np.empty((0, 4), np.int64)], [np.empty(0, np.int64)], 0
    for number, (name, scene) in enumerate(scenes.items()):
        filled = scene.with_nodata(fill)
        for top, left in np.ndindex(-(-scene.height // _BLOCK), -(-scene.width // _BLOCK)):
            y, x = top * _BLOCK, left * _BLOCK
            block = Window(y, x, min(_BLOCK, scene.height - y), min(_BLOCK, scene.width - x))
            label = labels[name].read(scene, block)
            rows, columns = np.nonzero(label != IGNORE)
            if not len(rows):
                continue
            if fill:
                hidden = scene.read_values(block)[1] & ~filled.read_values(block)[1]
                in_fill += int(hidden[rows, columns].sum())
            codes = (rows // CELL * _BLOCK + columns // CELL) * (IGNORE + 1) + label[rows, columns]
            found, number_of = np.unique(codes, return_counts=True)
            row, column = np.divmod(found // (IGNORE + 1), _BLOCK)
            place = np.full_like(row, number), row + y // CELL, column + x // CELL, found % (IGNORE + 1)
            cells.append(np.stack(place, axis=1))
            counts.append(number_of)
    pixels = sum(scene.height * scene.width for scene in scenes.values())
    return LabelPlaces(np.concatenate(cells), np.concatenate(counts), pixels, in_fill)
