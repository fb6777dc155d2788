"""Boxes found in overlapping windows of a raster, joined so that each object is there once and whole.

A window sees only a part of an object at its inner edge. So of two boxes of one object the one that keeps further away
from the inner edges of its own window counts, and one that is cut gives way; of an object that no window sees whole,
the parts are joined. Rows of windows come one after another, and a box is finished when no later window can see it:
what is kept in memory is bounded by the rows of windows that overlap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from utils.boxes.geometry import ious
from utils.raster.tiling import Window

EDGE = 2.0  # pixels from an inner edge of a window up to which a box may have been cut off there
MATCH = 0.5  # least IoU, in what both windows see, of two boxes of one object


@dataclass(frozen=True)
class Found:
    """Boxes with their scores and classes.

    Parameters
    ----------
    boxes_xyxy : ndarray of float32, shape (N, 4)
        In pixels of the raster.
    scores : ndarray of float32, shape (N,)
        0 to 1.
    labels : ndarray of int64, shape (N,)
        Class of each.

    Examples
    --------
    >>> Found.nothing().boxes_xyxy.shape
    (0, 4)
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @classmethod
    def nothing(cls) -> Found:
        """No boxes.

        Examples
        --------
        >>> len(Found.nothing().labels)
        0
        """
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(eq=False)
class _Entry:
    """A box of one window, and the entry that leads to the others of its object.

    Examples
    --------
    >>> first, second = (_Entry(np.zeros(4), 0.5, 0, row, 3.0) for row in (0, 1))
    >>> second.leader = first
    >>> second.top() is first
    True
    """

    box: np.ndarray
    score: float
    label: int
    row: int
    clearance: float  # pixels from the box to the nearest inner edge of its window
    windows: set[Window] = field(default_factory=set)  # of all boxes of the object, where this one stands for it
    leader: _Entry | None = None

    def top(self) -> _Entry:
        """The entry that stands for the whole object.

        Examples
        --------
        >>> entry = _Entry(np.zeros(4), 0.5, 0, 0, 3.0)
        >>> entry.top() is entry
        True
        """
        entry = self
        while entry.leader is not None:
            entry = entry.leader
        return entry


class WindowMerger:
    """Joins the boxes of windows, which come row by row.

    Parameters
    ----------
    windows : sequence of Window
        All windows of the raster, row by row.
    size : (int, int)
        Height and width of the raster; an edge of a window that is also one of the raster cuts nothing.
    match : float
        Least IoU of two boxes of one class, in what both windows see, at which they are one object.
    first_row : int
        The row of windows with which the boxes begin, for an interrupted raster that goes on.
    edge : float
        A box that comes nearer to an inner edge of its window, in pixels of the raster, is cut there.

    Examples
    --------
    >>> windows = [Window(0, 0, 10, 10), Window(0, 6, 10, 10)]
    >>> merger = WindowMerger(windows, (10, 16))
    >>> one = np.array([0.5], np.float32), np.array([0])
    >>> merger.add(windows[0], np.array([[5.0, 2, 10, 6]]), *one)  # cut at its right edge
    >>> merger.add(windows[1], np.array([[6.0, 2, 12, 6], [13.0, 1, 16, 3]]), np.array([0.75, 0.25]), np.array([0, 0]))
    >>> merger.end_row().boxes_xyxy.tolist()  # the first object is cut in both windows: its parts are joined
    [[5.0, 2.0, 12.0, 6.0], [13.0, 1.0, 16.0, 3.0]]
    """

    def __init__(
        self,
        windows: Sequence[Window],
        size: tuple[int, int],
        match: float = MATCH,
        first_row: int = 0,
        edge: float = EDGE,
    ):
        self.size, self.match, self.edge = size, match, edge
        rows: dict[int, list[Window]] = {}
        for window in windows:
            rows.setdefault(window.y, []).append(window)
        self.tops = sorted(rows)
        self.rows = [rows[top] for top in self.tops]
        self.row = first_row
        self.live: list[tuple[Window, list[_Entry]]] = []

    def add(self, window: Window, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Take the boxes of a window of the present row.

        Parameters
        ----------
        window : Window
            Its place.
        boxes_xyxy : ndarray, shape (N, 4)
            In pixels of the raster; each object of the window once.
        scores, labels : ndarray, shape (N,)
            Of the boxes.

        Examples
        --------
        >>> merger = WindowMerger([Window(0, 0, 10, 10)], (10, 10))
        >>> merger.add(Window(0, 0, 10, 10), np.array([[1.0, 2, 3, 4]]), np.array([0.5]), np.array([2]))
        >>> merger.end_row().labels.tolist()
        [2]
        """
        boxes = np.clip(np.asarray(boxes_xyxy, np.float64), 0, np.array([self.size[1], self.size[0]] * 2))
        clearances = self._clearances(window, boxes)
        rows = zip(boxes, scores.tolist(), labels.tolist(), clearances.tolist(), strict=True)
        entries = [_Entry(box, score, label, self.row, clearance, {window}) for box, score, label, clearance in rows]
        if not entries:
            return
        left, right, top = window.x, window.x + window.width, window.y
        for other, others in self.live:  # a raster may have thousands of windows in a row: few of them overlap
            if other.x < right and left < other.x + other.width and top < other.y + other.height:
                shared = window.intersection(other)
                if shared is not None:
                    self._match(shared, entries, others)
        self.live.append((window, entries))

    def _clearances(self, window: Window, boxes: np.ndarray) -> np.ndarray:
        """Pixels (N,) from boxes (N, 4) to the nearest inner edge of their window; infinite without inner edges.

        Examples
        --------
        >>> merger = WindowMerger([Window(0, 0, 10, 10)], (10, 16))
        >>> merger._clearances(Window(0, 0, 10, 10), np.array([[0.0, 0, 7, 10], [5.0, 1, 10, 3]])).tolist()
        [3.0, 0.0]
        """
        height, width = self.size
        edges = [
            boxes[:, 0] - window.x if window.x > 0 else None,
            boxes[:, 1] - window.y if window.y > 0 else None,
            window.columns.stop - boxes[:, 2] if window.columns.stop < width else None,
            window.rows.stop - boxes[:, 3] if window.rows.stop < height else None,
        ]
        inner = [edge for edge in edges if edge is not None]
        return np.min(inner, axis=0) if inner else np.full(len(boxes), np.inf)

    def _match(self, shared: Window, entries: Sequence[_Entry], others: Sequence[_Entry]) -> None:
        """Join the boxes of two windows that are one object in what both see; each box with one other, the best first.

        Examples
        --------
        >>> first, second = ([_Entry(np.array(box), 0.5, 0, 0, 3.0)] for box in ([1.0, 1, 5, 5], [1.0, 1, 5, 4]))
        >>> WindowMerger([], (9, 9))._match(Window(0, 0, 9, 9), first, second)
        >>> first[0].top() is second[0].top()
        True
        """
        ours, theirs = (np.stack([entry.box for entry in side]) for side in (entries, others))
        alike = np.array([entry.label for entry in entries])[:, None] == np.array([entry.label for entry in others])
        overlaps = np.where(alike, _ious_within(shared, ours, theirs), 0)
        rows, columns = np.nonzero(overlaps >= self.match)
        taken_rows, taken_columns = set[int](), set[int]()
        for place in np.argsort(-overlaps[rows, columns], kind="stable").tolist():
            row, column = int(rows[place]), int(columns[place])
            if row in taken_rows or column in taken_columns:
                continue
            taken_rows.add(row)
            taken_columns.add(column)
            top, other = entries[row].top(), others[column].top()
            if not top.windows & other.windows:  # else two objects of one window would become one
                other.leader = top
                top.windows |= other.windows

    def end_row(self) -> Found:
        """Finish the present row of windows; give the boxes that no later window can see.

        Examples
        --------
        >>> windows = [Window(0, 0, 10, 10), Window(6, 0, 10, 10)]
        >>> merger = WindowMerger(windows, (16, 10))
        >>> merger.add(windows[0], np.array([[1.0, 1, 3, 6], [1.0, 5, 3, 7]]), np.array([0.5, 0.25]), np.array([0, 0]))
        >>> merger.end_row().scores.tolist(), merger.restart()
        ([0.5], 0)
        >>> merger.end_row().scores.tolist(), merger.restart()
        ([0.25], 2)
        """
        self.row += 1
        later = self.rows[self.row][0].y if self.row < len(self.rows) else None
        objects: dict[int, list[_Entry]] = {}
        for _, entries in self.live:
            for entry in entries:
                objects.setdefault(id(entry.top()), []).append(entry)
        ready = [
            members
            for members in objects.values()
            if later is None or max(float(member.box[3]) for member in members) <= later
        ]
        finished = {id(member) for members in ready for member in members}
        self.live = [
            (window, left)
            for window, entries in self.live
            if (left := [entry for entry in entries if id(entry) not in finished])
        ]
        results = [result for members in ready if (result := self._resolve(members)) is not None]
        if not results:
            return Found.nothing()
        boxes, scores, labels = zip(*results, strict=True)
        found = Found(np.stack(boxes).astype(np.float32), np.array(scores, np.float32), np.array(labels, np.int64))
        order = np.lexsort((found.boxes_xyxy[:, 0], found.boxes_xyxy[:, 1], -found.scores))
        return Found(found.boxes_xyxy[order], found.scores[order], found.labels[order])

    def restart(self) -> int:
        """The row of windows from which everything that is not given yet can be found again.

        Examples
        --------
        >>> WindowMerger([Window(0, 0, 10, 10)], (10, 10)).restart()
        0
        """
        return min((entry.row for _, entries in self.live for entry in entries), default=self.row)

    def _resolve(self, members: Sequence[_Entry]) -> tuple[np.ndarray, float, int] | None:
        """Box (4,), score and class of an object; None for a part of one that another window would have seen better.

        Examples
        --------
        >>> windows = [Window(0, 0, 10, 10), Window(0, 6, 10, 10)]
        >>> whole = _Entry(np.array([7.0, 2, 10, 6]), 0.5, 1, row=0, clearance=3.0)
        >>> part = _Entry(np.array([8.5, 2, 10, 6]), 0.75, 1, row=0, clearance=0)
        >>> merger = WindowMerger(windows, (10, 16))
        >>> merger._resolve([whole, part])[1], merger._resolve([part])
        (0.5, None)
        """
        best = max(members, key=lambda member: (member.clearance, member.score))
        if best.clearance > self.edge:
            return best.box, best.score, best.label
        boxes = np.stack([member.box for member in members])
        box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        if any((self._clearances(window, box[None]) > self.edge).all() for window in self._windows_around(box)):
            return None
        return box, max(member.score for member in members), best.label

    def _windows_around(self, box: np.ndarray) -> list[Window]:
        """The windows that a box (4,) lies in.

        Examples
        --------
        >>> merger = WindowMerger([Window(0, 0, 10, 10), Window(0, 6, 10, 10), Window(6, 0, 10, 10)], (16, 16))
        >>> [(window.y, window.x) for window in merger._windows_around(np.array([1.0, 7, 3, 9]))]
        [(0, 0), (6, 0)]
        """
        left, top, right, bottom = box.tolist()
        last = bisect_right(self.tops, top)
        around = []
        for row in reversed(self.rows[:last]):
            if row[0].y + row[0].height < bottom:
                break
            around += [window for window in row if window.x <= left and right <= window.x + window.width]
        return around[::-1]


def _ious_within(area: Window, boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (N, M) of the parts of boxes (N, 4) and (M, 4) that lie in an area; 0 where one has no part in it.

    Examples
    --------
    >>> boxes, others = np.array([[0.0, 0, 6, 4]]), np.array([[2.0, 0, 6, 4], [2, 0, 4, 4], [0, 0, 2, 2]])
    >>> _ious_within(Window(0, 2, 4, 9), boxes, others).tolist()
    [[1.0, 0.5, 0.0]]
    """
    low, high = np.array([area.x, area.y]), np.array([area.columns.stop, area.rows.stop])
    first, second = (
        np.concatenate([np.clip(part[:, :2], low, high), np.clip(part[:, 2:], low, high)], axis=1)
        for part in (boxes, others)
    )
    return ious(first[:, None], second)
