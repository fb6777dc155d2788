"""Probabilities on the model's grid, brought block by block to the grid of the picture.

Both grids cover the same ground, whose outer corners they share, so that an axis of one is the other one stretched: the
place on Earth, a rotation or a CRS play no part. Where the picture's pixels are smaller, probabilities are interpolated
bilinearly between the centres of the model's pixels; where they are larger, they are averaged over the ground. Every
value is a function of its place alone, whatever the blocks, as in utils/geometry/resampling.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from utils.geometry.resampling import resample, resampling_weights
from utils.raster.tiling import Window

_CHUNK_PIXELS = 2**19  # of the picture's grid that are made at a time
_ANY = float(np.finfo(np.float32).tiny)  # share of valid ground: the least that there can be


@dataclass(frozen=True)
class AxisMap:
    """From which pixels of one axis those of another one are made.

    Parameters
    ----------
    source, target : int
        Pixels of the two axes, which cover the same ground.

    Examples
    --------
    >>> axis = AxisMap(4, 8)
    >>> axis.needed((2, 5)), axis.done(2)
    ((0, 3), 3)
    """

    source: int
    target: int

    def weights(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Source pixels (N, taps) and their weights (N, taps) for a range of target pixels.

        Examples
        --------
        >>> AxisMap(2, 4).weights(1, 2)[1].tolist(), AxisMap(4, 2).weights(1, 2)[1].tolist()
        ([[0.75, 0.25]], [[0.5, 0.5, 0.0]])
        """
        kind = "area" if self.target < self.source else "bilinear"
        return resampling_weights(start, stop - start, self.source, self.target, kind)

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last source pixel of each target pixel, both (target,) and ascending.

        Examples
        --------
        >>> [ends.tolist() for ends in AxisMap(2, 4).ends]
        [[0, 0, 0, 1], [0, 1, 1, 1]]
        """
        index, weight = self.weights(0, self.target)
        return np.where(weight > 0, index, self.source).min(axis=1), np.where(weight > 0, index, -1).max(axis=1)

    def needed(self, wanted: tuple[int, int]) -> tuple[int, int]:
        """Range of source pixels of which a range of target pixels is made; empty for an empty one.

        Examples
        --------
        >>> AxisMap(9, 3).needed((1, 3)), AxisMap(9, 3).needed((1, 1))
        ((3, 9), (0, 0))
        """
        first, last = self.ends
        return (int(first[wanted[0]]), int(last[wanted[1] - 1]) + 1) if wanted[0] < wanted[1] else (0, 0)

    def done(self, stop: int) -> int:
        """How many target pixels are made of the first `stop` source pixels alone.

        Examples
        --------
        >>> [AxisMap(3, 6).done(stop) for stop in range(4)], [AxisMap(6, 3).done(stop) for stop in (1, 2, 6)]
        ([0, 1, 3, 6], [0, 1, 3])
        """
        return int(np.searchsorted(self.ends[1], stop))

    def open(self, stop: int) -> int:
        """The first source pixel that is still needed once those before `stop` have come.

        Examples
        --------
        >>> [AxisMap(3, 6).open(stop) for stop in (1, 2, 3)]
        [0, 1, 3]
        """
        done = self.done(stop)
        return stop if done == self.target else min(int(self.ends[0][done]), stop)


@dataclass(frozen=True)
class _Part:
    """Probabilities with their valid pixels.

    Examples
    --------
    >>> part = _Part(np.zeros((2, 3, 4), np.float32), np.ones((3, 4), bool))
    >>> part.join(part, axis=-1).valid.shape
    (3, 8)
    """

    values: np.ndarray
    valid: np.ndarray

    def join(self, other: _Part, axis: int) -> _Part:
        """Put another part after this one: below along axis -2, to the right along axis -1.

        Examples
        --------
        >>> part = _Part(np.zeros((2, 3, 4), np.float32), np.ones((3, 4), bool))
        >>> part.join(part, axis=-2).values.shape
        (2, 6, 4)
        """
        pairs = ((self.values, other.values), (self.valid, other.valid))
        return _Part(*(np.concatenate(pair, axis=axis) for pair in pairs))

    def cut(self, rows: slice, columns: slice) -> _Part:
        """A copy of some rows and columns, so that the rest can be freed.

        Examples
        --------
        >>> _Part(np.zeros((2, 3, 4), np.float32), np.ones((3, 4), bool)).cut(slice(1, 3), slice(0, 1)).values.shape
        (2, 2, 1)
        """
        return _Part(self.values[:, rows, columns].copy(), self.valid[rows, columns].copy())


class BlockResampler:
    """Brings blocks of probabilities to another grid as they come, with only their edges kept in memory.

    Blocks come as `StripBlender` gives them: strip by strip from the top, each from left to right, cut at the same
    columns. What comes out tiles the wanted rows exactly once, and is the same, bit by bit, however the blocks are cut
    and wherever the rows begin.

    Parameters
    ----------
    size, target : (int, int)
        Height and width of the grid that is given, and of the one that is wanted.
    rows : (int, int)
        Rows of the wanted grid to make: the first, and the one after the last. Blocks begin at the row that
        `AxisMap.needed` names for them.

    Examples
    --------
    >>> resampler = BlockResampler((1, 4), (1, 8), rows=(0, 1))
    >>> for x, values in ((0, [0.0, 0.0]), (2, [1.0, 1.0])):
    ...     block = np.array([[values]], np.float32)
    ...     for window, made, valid in resampler.add(Window(0, x, 1, 2), block, np.ones((1, 2), bool)):
    ...         print(window.columns, made.ravel().tolist())
    slice(0, 3, None) [0.0, 0.0, 0.0]
    slice(3, 8, None) [0.25, 0.75, 1.0, 1.0, 1.0]
    """

    def __init__(self, size: tuple[int, int], target: tuple[int, int], rows: tuple[int, int]):
        self.down, self.across = (AxisMap(*sizes) for sizes in zip(size, target, strict=True))
        self.rows = rows
        self._above: dict[int, _Part] = {}  # by first column: the last rows of the strip above
        self._left: _Part | None = None  # the last columns of the block before, as high as this one

    def add(
        self, window: Window, values: np.ndarray, valid: np.ndarray | None = None
    ) -> Iterator[tuple[Window, np.ndarray, np.ndarray]]:
        """Take the next block; all that it completes must be taken before the one after it is added.

        Parameters
        ----------
        window : Window
            The block's place.
        values : ndarray of float32, shape (K, height, width)
            Its probabilities.
        valid : bool ndarray, shape (height, width), optional
            Which of its pixels count; None for all.

        Yields
        ------
        window : Window
            On the wanted grid.
        values : ndarray of float32, shape (K, height, width)
            Means over the pixels that count.
        valid : bool ndarray, shape (height, width)
            False where none of the pixels that a pixel is made of counts; its values are 0.

        Examples
        --------
        >>> values, valid = np.float32([[[0.25, 0.75]]]), np.array([[True, False]])
        >>> [(_, made, counts)] = BlockResampler((1, 2), (1, 4), (0, 1)).add(Window(0, 0, 1, 2), values, valid)
        >>> made.tolist(), counts.tolist()
        ([[[0.25, 0.25, 0.25, 0.0]]], [[True, True, True, False]])
        """
        part = _Part(values, np.ones(values.shape[1:], bool) if valid is None else valid)
        above = self._above.get(window.x)
        part = part if above is None else above.join(part, axis=-2)
        top, bottom, right = window.rows.stop - part.valid.shape[0], window.rows.stop, window.columns.stop
        self._above[window.x] = part.cut(slice(self.down.open(bottom) - top, None), slice(None))
        part = self._left.join(part, axis=-1) if window.x and self._left is not None else part
        left = right - part.valid.shape[1]
        self._left = part.cut(slice(None), slice(self.across.open(right) - left, None))
        first, last = (min(max(self.down.done(y), self.rows[0]), self.rows[1]) for y in (window.y, bottom))
        columns = self.across.done(window.x), self.across.done(right)
        step = max(1, _CHUNK_PIXELS // max(last - first, 1))
        for x in range(*columns, step) if first < last else ():
            place = Window(first, x, last - first, min(step, columns[1] - x))
            yield place, *self._make(place, part, top, left)

    def _make(self, place: Window, part: _Part, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Resample one window of the wanted grid from a part of the given one whose first pixel is at (top, left).

        The values have shape (K, H, W), the valid pixels shape (H, W).

        Examples
        --------
        >>> part = _Part(np.float32([[[0.5, 1.0]]]), np.ones((1, 2), bool))
        >>> BlockResampler((1, 9), (1, 18), (0, 1))._make(Window(0, 12, 1, 1), part, 0, 5)[0].tolist()
        [[[0.875]]]
        """
        (rows, row_weight), (columns, column_weight) = (
            self.down.weights(place.y, place.rows.stop),
            self.across.weights(place.x, place.columns.stop),
        )
        height, width = part.valid.shape
        rows, columns = (rows - top).clip(0, height - 1), (columns - left).clip(0, width - 1)  # taps without weight
        begin, end = int(columns.min()), int(columns.max()) + 1
        values, valid = part.values[:, :, begin:end], part.valid[:, begin:end]
        made, share = resample(values, valid, (rows, row_weight), (columns - begin, column_weight), least=_ANY)
        return made, share
