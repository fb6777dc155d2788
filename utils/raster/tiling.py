"""Windows over a raster: where they lie and how their predictions are blended without seams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: its first row and column, and its size.

    Parameters
    ----------
    y, x : int
        First row and column; may be negative or beyond the raster where a window sticks out.
    height, width : int
        Size in pixels.

    Examples
    --------
    >>> window = Window(2, 3, 4, 5)
    >>> window.rows, window.columns
    (slice(2, 6, None), slice(3, 8, None))
    """

    y: int
    x: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Rows as a slice, half-open.

        Examples
        --------
        >>> Window(2, 3, 4, 5).rows
        slice(2, 6, None)
        """
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        """Columns as a slice, half-open.

        Examples
        --------
        >>> Window(2, 3, 4, 5).columns
        slice(3, 8, None)
        """
        return slice(self.x, self.x + self.width)

    def intersection(self, other: Window) -> Window | None:
        """The common part of two windows, or None when they have none.

        Examples
        --------
        >>> Window(0, 0, 4, 4).intersection(Window(2, 3, 4, 4))
        Window(y=2, x=3, height=2, width=1)
        >>> Window(0, 0, 4, 4).intersection(Window(4, 0, 1, 1)) is None
        True
        """
        top, left = max(self.y, other.y), max(self.x, other.x)
        height = min(self.rows.stop, other.rows.stop) - top
        width = min(self.columns.stop, other.columns.stop) - left
        return Window(top, left, height, width) if height > 0 and width > 0 else None

    def shifted(self, y: int, x: int) -> Window:
        """The same window in a frame whose origin lies at (-y, -x) of this one.

        Examples
        --------
        >>> Window(0, 1, 4, 5).shifted(10, 20)
        Window(y=10, x=21, height=4, width=5)
        """
        return Window(self.y + y, self.x + x, self.height, self.width)


Pair = int | tuple[int, int]
Block = tuple[Window, np.ndarray]

TAPERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hann": lambda position: np.sin(0.5 * np.pi * position) ** 2,
    "linear": lambda position: position,
    "uniform": np.ones_like,
}
"""How a window's weight rises over an overlap; the position runs from 0 to 1, both excluded."""


def _pair(value: Pair) -> tuple[int, int]:
    """Give one number for both axes, or keep (height, width).

    Examples
    --------
    >>> _pair(3), _pair((4, 5))
    ((3, 3), (4, 5))
    """
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def window_starts(size: int, tile: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last window covers the end and may stick out.

    Parameters
    ----------
    size : int
        Pixels of the raster along the axis.
    tile, stride : int
        Pixels of a window, and from one window to the next; a stride above the tile would leave gaps.

    Returns
    -------
    list of int
        The starts. No window is added whose pixels the windows before it already cover.

    Raises
    ------
    ValueError
        If a size is not positive, or the stride does not fit.

    Examples
    --------
    >>> window_starts(10, 4, 3), window_starts(11, 4, 3), window_starts(3, 4, 3)
    ([0, 3, 6], [0, 3, 6, 9], [0])
    """
    if size < 1 or not 1 <= stride <= tile:
        raise ValueError(
            f"windows need size >= 1 and 1 <= stride <= tile, got size {size}, tile {tile}, stride {stride}"
        )
    return [step * stride for step in range(max(0, -(-(size - tile) // stride)) + 1)]


def windows_for_rows(height: int, width: int, tile: Pair, stride: Pair, rows: tuple[int, int]) -> list[Window]:
    """Windows of the grid that touch a band of rows: what must be computed to know these rows.

    Parameters
    ----------
    height, width : int
        Size of the raster in pixels.
    tile, stride : int or (int, int)
        Size of a window and the way to the next one, in pixels; a pair means (height, width).
    rows : (int, int)
        First row of the band, and the row after its last.

    Returns
    -------
    list of Window
        Of equal size, row by row from the top left; those that begin above the band reach into it, those at the bottom
        and the right may stick out (pad them, do not shift them).

    Examples
    --------
    >>> [window.y for window in windows_for_rows(12, 4, tile=4, stride=3, rows=(6, 7))]
    [3, 6]
    >>> windows_for_rows(2, 3, tile=(8, 9), stride=5, rows=(0, 2))
    [Window(y=0, x=0, height=8, width=9)]
    """
    (tile_height, tile_width), (stride_y, stride_x) = _pair(tile), _pair(stride)
    tops = [
        top for top in window_starts(height, tile_height, stride_y) if top < rows[1] and top + tile_height > rows[0]
    ]
    lefts = window_starts(width, tile_width, stride_x)
    return [Window(top, left, tile_height, tile_width) for top in tops for left in lefts] if rows[0] < rows[1] else []


def split_rows(height: int, tile: int, stride: int, parts: int) -> list[tuple[int, int]]:
    """Divide the rows of a raster into bands of whole strips, one for each rank.

    Parameters
    ----------
    height, tile, stride : int
        Rows of the raster, of a window, and from window to window.
    parts : int
        Number of bands; with fewer strips than parts, some bands are empty.

    Returns
    -------
    list of (int, int)
        First row and the row after the last, from the top down; together all rows, each once.

    Examples
    --------
    >>> split_rows(12, tile=4, stride=3, parts=2), split_rows(5, tile=4, stride=3, parts=3)
    ([(0, 6), (6, 12)], [(0, 0), (0, 3), (3, 5)])
    """
    edges = [*window_starts(height, tile, stride), height]
    strips = len(edges) - 1
    cuts = [edges[part * strips // parts] for part in range(parts + 1)]
    return list(pairwise(cuts))


def axis_weights(size: int, starts: Sequence[int], tile: int, kind: str = "hann") -> np.ndarray:
    """Weights of all windows along one axis; at every pixel those of its windows sum to 1.

    A grid of windows is a product of two axes, and so are its weights. Normalised in advance on each axis, they need
    no buffer of summed weights over the raster.

    Parameters
    ----------
    size : int
        Pixels of the raster along the axis.
    starts : sequence of int
        First pixel of each window, ascending.
    tile : int
        Pixels of a window.
    kind : {"hann", "linear", "uniform"}
        How the weight rises over an overlap.

    Returns
    -------
    ndarray of float32, shape (len(starts), tile)
        Above 0 everywhere, and exactly 1 where no other window lies.

    Raises
    ------
    ValueError
        If `kind` is unknown or the windows leave a gap.

    Examples
    --------
    >>> axis_weights(6, [0, 2], tile=4, kind="linear").tolist()
    [[1.0, 1.0, 0.75, 0.25], [0.25, 0.75, 1.0, 1.0]]
    """
    if kind not in TAPERS:
        raise ValueError(f"unknown blending weights {kind!r}; known: {', '.join(sorted(TAPERS))}")
    overlaps = [before + tile - after for before, after in pairwise(starts)]
    if starts[0] > 0 or starts[-1] + tile < size or min(overlaps, default=0) < 0:
        raise ValueError(f"windows of {tile} pixels at {list(starts)} leave gaps in {size} pixels")
    weights = np.ones((len(starts), tile))
    for index, overlap in enumerate(overlaps):
        rise = TAPERS[kind]((np.arange(overlap) + 0.5) / max(1, overlap))
        weights[index, tile - overlap :] *= rise[::-1]
        weights[index + 1, :overlap] *= rise
    return _normalize_over_windows(weights, starts).astype(np.float32)


def _normalize_over_windows(weights: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Divide the weights of windows along an axis by their sum at each pixel.

    Both have shape (windows, tile).

    Examples
    --------
    >>> _normalize_over_windows(np.ones((2, 3)), [0, 2]).tolist()
    [[1.0, 1.0, 0.5], [0.5, 1.0, 1.0]]
    """
    tile = weights.shape[1]
    total = np.zeros(starts[-1] - starts[0] + tile)
    places = [slice(start - starts[0], start - starts[0] + tile) for start in starts]
    for row, place in zip(weights, places, strict=True):
        total[place] += row
    return np.stack([row / total[place] for row, place in zip(weights, places, strict=True)])


@dataclass(frozen=True)
class _Span:
    """What one window adds along one axis, within the wanted pixels.

    Parameters
    ----------
    start : int
        First pixel of the window.
    first, stop : int
        Wanted pixels of the window, half-open.
    lead : int
        How many of them, from `first` on, earlier windows have begun.
    step : int
        How many of them, from `first` on, no later window touches: they are finished with this window.
    weights : ndarray of float32, shape (stop - first,)
        The window's weights on the wanted pixels.

    Examples
    --------
    >>> span = _Span(start=4, first=5, stop=9, lead=1, step=3, weights=np.ones(4, np.float32))
    >>> span.tail, span.local
    (1, slice(1, 5, None))
    """

    start: int
    first: int
    stop: int
    lead: int
    step: int
    weights: np.ndarray

    @property
    def tail(self) -> int:
        """How many wanted pixels at the end later windows touch too.

        Examples
        --------
        >>> _Span(0, 0, 8, 0, 6, np.ones(8)).tail
        2
        """
        return self.stop - self.first - self.step

    @property
    def local(self) -> slice:
        """The wanted pixels, counted from the window's first.

        Examples
        --------
        >>> _Span(-2, 0, 6, 0, 6, np.ones(6)).local
        slice(2, 8, None)
        """
        return slice(self.first - self.start, self.stop - self.start)

    @property
    def finished(self) -> slice:
        """The finished pixels, counted in the raster.

        Examples
        --------
        >>> _Span(4, 5, 9, 1, 3, np.ones(4)).finished
        slice(5, 8, None)
        """
        return slice(self.first, self.first + self.step)


def _build_spans(size: int, starts: Sequence[int], tile: int, kind: str, wanted: tuple[int, int]) -> list[_Span]:
    """Plan what each window that touches the wanted pixels adds to them.

    Examples
    --------
    >>> [(span.first, span.lead, span.step, span.tail) for span in _build_spans(7, [0, 3], 4, "hann", (0, 7))]
    [(0, 0, 3, 1), (3, 1, 4, 0)]
    >>> [(span.first, span.lead, span.step, span.tail) for span in _build_spans(7, [0, 3], 4, "hann", (3, 7))]
    [(3, 0, 0, 1), (3, 1, 4, 0)]
    """
    low, high = wanted
    weights = axis_weights(size, starts, tile, kind)
    chosen = [index for index, start in enumerate(starts) if start < high and start + tile > low]
    edges = [max(starts[index], low) for index in chosen] + [high]
    spans, begun = [], low
    for place, index in enumerate(chosen):
        first, stop = edges[place], min(starts[index] + tile, high)
        lead, step = max(0, begun - first), edges[place + 1] - first
        span_weights = np.ascontiguousarray(weights[index, first - starts[index] : stop - starts[index]])
        spans.append(_Span(starts[index], first, stop, lead, step, span_weights))
        begun = stop
    return spans


def _fold(values: np.ndarray, span: _Span, carry: np.ndarray, carried: bool, out: np.ndarray) -> None:
    """Add one window along axis 1: finish its first rows, and leave the rest in `carry` for the next window.

    A product and a sum are separate steps on purpose: a fused one rounds differently in the vector and the scalar part
    of a loop, and then the bits would depend on where a band of rows begins.

    Parameters
    ----------
    values : ndarray, shape (K, span.stop - span.first, N)
        The window's values; only read, unless `out` is a part of it.
    span : _Span
        The window's place on the axis.
    carry : ndarray, shape (K, >= span.tail, N)
        What earlier windows left for the rows from `span.first` on; replaced by what is left from the finished on.
    carried : bool
        Whether earlier windows left anything.
    out : ndarray, shape (K, span.step, N)
        The finished rows; may be `values[:, :span.step]` itself.

    Examples
    --------
    >>> span = _Span(2, 2, 6, 1, 3, np.array([0.5, 1, 1, 0.25], np.float32))
    >>> values, carry, out = np.full((1, 4, 1), 8.0), np.full((1, 1, 1), 100.0), np.empty((1, 3, 1))
    >>> _fold(values, span, carry, True, out)
    >>> out.ravel().tolist(), carry.ravel().tolist()
    ([104.0, 8.0, 8.0], [2.0])
    """
    weights = span.weights[:, None]
    head = min(span.lead, span.step)
    np.multiply(values[:, :head], weights[:head], out=out[:, :head])
    if carried:
        out[:, :head] += carry[:, :head]
    if not np.may_share_memory(out, values):
        out[:, head:] = values[:, head : span.step]  # no other window lies here: the weight is 1
    if span.tail:
        begun = carry[:, span.step : span.lead].copy()  # not empty where three windows or more overlap
        np.multiply(values[:, span.step :], weights[span.step :], out=carry[:, : span.tail])
        if carried:
            carry[:, : begun.shape[1]] += begun


def _read_probabilities(probabilities: np.ndarray | Tensor) -> np.ndarray:
    """View a tensor or an array as float32 numpy values, without a copy where that is possible.

    The shape stays, such as (K, H, W).

    Examples
    --------
    >>> _read_probabilities(torch.ones(2, 1, 3, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    if isinstance(probabilities, Tensor):
        probabilities = probabilities.detach().to("cpu", torch.float32).numpy()
    return np.asarray(probabilities, dtype=np.float32)


class StripBlender:
    """Blend overlapping windows into finished blocks, with only the overlaps kept in memory.

    Windows come row by row from the left, as `windows` lists them. Each returns the block that it finishes: the part
    that no later window touches. That block lies within the very window that finished it, so that a mask read with
    the window covers it. All blocks together tile the wanted rows exactly once.

    Memory: (K, rows of overlap, width) + (K, tile, columns of overlap) float32, whatever the height.

    Parameters
    ----------
    height, width : int
        Size of the raster in pixels.
    channels : int
        K, the number of values per pixel.
    tile, stride : int or (int, int)
        Size of a window and the way to the next; a pair means (height, width).
    weights : {"hann", "linear", "uniform"}
        How a window's weight falls off over the overlap.
    rows : (int, int), optional
        Produce only these output rows (first, one after the last). Bands of rows give bit by bit what the whole gives,
        so ranks may share a raster and an interrupted run may begin at its first missing row.

    Examples
    --------
    >>> blender = StripBlender(2, 6, channels=1, tile=4, stride=2, weights="linear")
    >>> for level, window in zip([0.0, 1.0], blender.windows):
    ...     for block, values in blender.add(window, np.full((1, 4, 4), level)):
    ...         print(block.columns, values[0, 1].tolist())
    slice(0, 2, None) [0.0, 0.0]
    slice(2, 6, None) [0.25, 0.75, 1.0, 1.0]
    >>> blender.finish()
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        tile: Pair,
        stride: Pair,
        weights: str = "hann",
        *,
        rows: tuple[int, int] | None = None,
    ):
        rows = (0, height) if rows is None else rows
        if not 0 <= rows[0] <= rows[1] <= height:
            raise ValueError(f"rows must be a range within 0..{height}, got {rows}")
        self.channels = channels
        self.tile = _pair(tile)
        tops, lefts = map(window_starts, (height, width), self.tile, _pair(stride))
        self._rows = _build_spans(height, tops, self.tile[0], weights, rows) if rows[0] < rows[1] else []
        self._columns = _build_spans(width, lefts, self.tile[1], weights, (0, width))
        deepest = max((row.tail for row in self._rows), default=0)
        widest = max(column.tail for column in self._columns)
        self._row_carry = np.zeros((channels, deepest, width), np.float32)  # untouched pages cost no memory
        self._row_carried = [False] * len(self._columns)
        self._column_carry = np.zeros((channels, self.tile[0], widest), np.float32)
        self._column_carried = False
        self._next = 0

    @property
    def windows(self) -> list[Window]:
        """The windows that are expected, in their order.

        Examples
        --------
        >>> StripBlender(3, 5, 1, tile=4, stride=3, rows=(1, 3)).windows
        [Window(y=0, x=0, height=4, width=4), Window(y=0, x=3, height=4, width=4)]
        """
        return [Window(row.start, column.start, *self.tile) for row in self._rows for column in self._columns]

    def add(self, window: Window, probabilities: np.ndarray | Tensor) -> list[Block]:
        """Blend one window in.

        Parameters
        ----------
        window : Window
            The next of `windows`.
        probabilities : Tensor or ndarray, shape (K, h, w)
            Its values; only read. What sticks out at the bottom and the right may be left away.

        Returns
        -------
        list of (Window, ndarray of float32, shape (K, height, width))
            The block that is finished now; it belongs to the caller. Empty where the wanted rows begin below it.

        Raises
        ------
        ValueError
            If the window is not the next one, or the shape does not cover its part of the raster.

        Examples
        --------
        >>> blender = StripBlender(3, 5, channels=2, tile=4, stride=4)
        >>> [(window, block.shape) for window, block in blender.add(Window(0, 0, 4, 4), torch.ones(2, 4, 4))]
        [(Window(y=0, x=0, height=3, width=4), (2, 3, 4))]
        """
        row, column = self._take(window)
        values = _read_probabilities(probabilities)
        needed = (self.channels, row.local.stop, column.local.stop)
        most = (self.channels, *self.tile)
        if values.ndim != 3 or not all(a <= b <= c for a, b, c in zip(needed, values.shape, most, strict=True)):
            raise ValueError(f"{window} needs probabilities of shape {most}, got {values.shape}")
        return self._blend(values[:, row.local, column.local], row, column)

    def skip(self, window: Window) -> list[Block]:
        """Go past one window that holds no data; what its neighbours gave is still finished.

        Its weights count as 0: in its pixels the values sum to less than 1 or are 0. Those hold no data.

        Parameters
        ----------
        window : Window
            The next of `windows`.

        Returns
        -------
        list of (Window, ndarray of float32, shape (K, height, width))
            As from `add`.

        Examples
        --------
        >>> blender = StripBlender(1, 5, channels=1, tile=4, stride=2)
        >>> _ = blender.add(Window(0, 0, 4, 4), np.ones((1, 4, 4)))
        >>> blender.skip(Window(0, 2, 4, 4))[0][1].round(2).tolist()
        [[[0.8500000238418579, 0.15000000596046448, 0.0]]]
        """
        row, column = self._take(window)
        carried = self._column_carried or self._row_carried[self._column_index]
        shape = (self.channels, row.stop - row.first, column.stop - column.first if carried else column.step)
        empty = np.zeros(shape, np.float32)
        return self._blend(empty, row, column) if carried else self._block(empty[:, : row.step], row, column)

    def finish(self) -> None:
        """Make sure that every window has come.

        Raises
        ------
        ValueError
            If some have not.

        Examples
        --------
        >>> StripBlender(3, 5, 1, tile=4, stride=4).finish()
        Traceback (most recent call last):
            ...
        ValueError: 2 of 2 windows have not come; the next is Window(y=0, x=0, height=4, width=4)
        """
        windows = self.windows
        if self._next < len(windows):
            missing = len(windows) - self._next
            raise ValueError(f"{missing} of {len(windows)} windows have not come; the next is {windows[self._next]}")

    @property
    def _column_index(self) -> int:
        """Column of the grid in which the window at hand stands.

        Examples
        --------
        >>> blender = StripBlender(3, 9, 1, tile=4, stride=4)
        >>> _ = blender.skip(Window(0, 0, 4, 4)), blender.skip(Window(0, 4, 4, 4))
        >>> blender._column_index
        1
        """
        return (self._next - 1) % len(self._columns)

    def _take(self, window: Window) -> tuple[_Span, _Span]:
        """Check that a window is the next one and give its places on both axes.

        Raises
        ------
        ValueError
            If another window is expected, or none.

        Examples
        --------
        >>> blender = StripBlender(3, 5, 1, tile=4, stride=4)
        >>> blender._take(Window(0, 4, 4, 4))
        Traceback (most recent call last):
            ...
        ValueError: windows must come row by row: expected Window(y=0, x=0, height=4, width=4), got Window(y=0, x=4, ...
        """
        row_index, column_index = divmod(self._next, len(self._columns))
        if row_index >= len(self._rows):
            raise ValueError(f"all {self._next} windows have come, got another: {window}")
        row, column = self._rows[row_index], self._columns[column_index]
        expected = Window(row.start, column.start, *self.tile)
        if window != expected:
            raise ValueError(f"windows must come row by row: expected {expected}, got {window}")
        self._next += 1
        return row, column

    def _blend(self, values: np.ndarray, row: _Span, column: _Span) -> list[Block]:
        """Fold a window in along its columns, then the columns that this finishes along the rows.

        `values` has shape (C, H, W).

        Examples
        --------
        >>> blender = StripBlender(2, 2, 1, tile=2, stride=2)
        >>> row, column = blender._take(Window(0, 0, 2, 2))
        >>> blender._blend(np.ones((1, 2, 2), np.float32), row, column)[0][1].tolist()
        [[[1.0, 1.0], [1.0, 1.0]]]
        """
        index = self._column_index
        strip = np.empty((*values.shape[:2], column.step), np.float32)
        carry = self._column_carry[:, : values.shape[1]]
        across = (values.transpose(0, 2, 1), column, carry.transpose(0, 2, 1), self._column_carried)
        _fold(*across, strip.transpose(0, 2, 1))
        self._column_carried = column.tail > 0
        block = strip[:, : row.step]
        _fold(strip, row, self._row_carry[:, :, column.finished], self._row_carried[index], block)
        self._row_carried[index] = row.tail > 0
        return self._block(block, row, column)

    def _block(self, values: np.ndarray, row: _Span, column: _Span) -> list[Block]:
        """Name the finished block's place; nothing when it has no rows or columns.

        `values` has shape (C, H, W).

        Examples
        --------
        >>> blender = StripBlender(2, 3, 1, tile=3, stride=3)
        >>> blender._block(np.ones((1, 2, 3)), blender._rows[0], blender._columns[0])[0][0]
        Window(y=0, x=0, height=2, width=3)
        """
        place = Window(row.first, column.first, row.step, column.step)
        return [(place, values)] if row.step and column.step else []


def decode_classes(probabilities: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Choose the strongest class of each pixel.

    A running maximum over whole planes is several times faster than an argmax across them. Of equal classes the first
    is taken, as argmax does.

    Parameters
    ----------
    probabilities : Tensor or ndarray, shape (K, H, W)
        One plane per class, at most 255 of them.

    Returns
    -------
    classes : ndarray of uint8, shape (H, W)
        Index of the strongest class.
    confidence : ndarray of float32, shape (H, W)
        Its value.

    Raises
    ------
    ValueError
        If there are no planes or more than 255.

    Examples
    --------
    >>> classes, confidence = decode_classes(np.array([[[0.25, 0.5]], [[0.75, 0.5]]]))
    >>> classes.tolist(), confidence.tolist()
    ([[1, 0]], [[0.75, 0.5]])
    """
    planes = _read_probabilities(probabilities)
    if planes.ndim != 3 or not 1 <= len(planes) <= 255:
        raise ValueError(f"probabilities must have shape (K, H, W) with K from 1 to 255, got {planes.shape}")
    confidence = planes[0].copy()
    classes = np.zeros(confidence.shape, np.uint8)
    stronger = np.empty(confidence.shape, np.bool_)
    for index in range(1, len(planes)):
        np.greater(planes[index], confidence, out=stronger)
        # indices ascend, so the latest class that was stronger is the largest one
        np.maximum(classes, np.multiply(stronger.view(np.uint8), np.uint8(index)), out=classes)
        np.maximum(confidence, planes[index], out=confidence)
    return classes, confidence
