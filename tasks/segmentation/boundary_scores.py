"""Boundary IoU of class maps, whose pieces come block by block and are put together first."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from tasks.item import Piece
from tasks.segmentation.items import SceneItem
from utils import IGNORE_INDEX
from utils.masks.boundaries import boundary_counts, boundary_distance, boundary_iou

_IN_MEMORY = 2**25  # pixels; larger maps lie in files while they are put together


class BoundaryScores:
    """Boundary IoU of each class over all items.

    Parameters
    ----------
    num_classes : int
        K.
    width : float
        How far from an edge pixels count: below 1 a share of the diagonal of an item's map, else pixels.

    Examples
    --------
    >>> from utils.raster.tiling import Window
    >>> item = SceneItem("a", (), "a", Window(0, 0, 2, 4), 4, 4, (0, 2))
    >>> scores = BoundaryScores(2, 1)
    >>> rows = [np.array([[0, 0, 1, 1]], np.uint8)] * 2
    >>> for y, truth in enumerate(rows):
    ...     scores.update(Piece(item, {"classes": 1 - rows[0]}, Window(y, 0, 1, 4)), truth)
    >>> scores.compute().tolist()
    [0.0, 0.0]
    """

    def __init__(self, num_classes: int, width: float):
        self.num_classes, self.width = num_classes, width
        self.counts = np.zeros((num_classes, 2), np.int64)
        self._maps: dict[str, tuple[np.ndarray, int]] = {}  # predicted and true classes, and how many pixels miss

    def update(self, piece: Piece, truth: np.ndarray) -> None:
        """Take a piece and its truth (H, W), in which 255 is not scored; count the item with its last piece.

        Examples
        --------
        >>> from utils.raster.tiling import Window
        >>> item = SceneItem("a", (), "a", Window(0, 0, 1, 3), 4, 4, (0, 1))
        >>> scores = BoundaryScores(2, 0.02)
        >>> scores.update(Piece(item, {"classes": np.uint8([[0, 1, 1]])}, Window(0, 0, 1, 3)), np.uint8([[0, 0, 255]]))
        >>> scores.counts.tolist()
        [[1, 2], [0, 1]]
        """
        assert isinstance(piece.item, SceneItem)
        size, window = piece.item.map_size, piece.window
        if piece.item.id not in self._maps:
            self._maps[piece.item.id] = _blank(size), size[0] * size[1]
        maps, missing = self._maps.pop(piece.item.id)
        rows, columns = (slice(None),) * 2 if window is None else (window.rows, window.columns)
        maps[0][rows, columns], maps[1][rows, columns] = piece.arrays["classes"], truth
        missing -= truth.size
        if missing:
            self._maps[piece.item.id] = maps, missing
            return
        distance = round(self.width) if self.width >= 1 else boundary_distance(size, self.width)
        self.counts += boundary_counts(maps[0], maps[1], self.num_classes, distance)

    def merge(self, counts: Any) -> None:
        """Add another rank's counts (K, 2).

        Examples
        --------
        >>> scores = BoundaryScores(1, 0.02)
        >>> scores.merge([[1, 4]])
        >>> scores.compute().tolist()
        [0.25]
        """
        self.counts += np.asarray(counts)

    def compute(self) -> np.ndarray:
        """Boundary IoU of each class (K,), NaN for one that is nowhere.

        Raises
        ------
        RuntimeError
            If pieces of an item did not come.

        Examples
        --------
        >>> BoundaryScores(1, 0.02).compute().tolist()
        [nan]
        """
        if self._maps:
            name, (_, missing) = next(iter(self._maps.items()))
            raise RuntimeError(f"{missing} pixels of {name} were not predicted, so its edges cannot be scored")
        return boundary_iou(self.counts)


def _blank(size: tuple[int, int]) -> np.ndarray:
    """Predicted and true classes (2, H, W) of a map, all unknown.

    Examples
    --------
    >>> _blank((1, 2)).tolist()
    [[[255, 255]], [[255, 255]]]
    """
    if size[0] * size[1] <= _IN_MEMORY:
        return np.full((2, *size), IGNORE_INDEX, np.uint8)
    with tempfile.TemporaryFile() as file:  # the map keeps it open
        return np.memmap(file, np.uint8, "w+", shape=(2, *size))
