"""The part of an item that its comparison picture shows: where most is scored, and of several classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from utils import IGNORE_INDEX as IGNORE
from utils.raster.tiling import Window

DRAWN_SIDE = 1024  # pixels of an item that a comparison picture shows at most
STEP = 256  # pixels between places where the part may begin


def choose_part(height: int, width: int, read_labels: Callable[[Window], np.ndarray]) -> Window:
    """Choose the part of an item that holds many labelled pixels of many classes.

    Of each class the square root of its number counts, so that a second class weighs more than a larger area of the
    first one. Of equal parts the first one is taken.

    Parameters
    ----------
    height, width : int
        Size of the item in pixels.
    read_labels : callable
        Gives the classes (h, w) of a window, uint8, with 255 where nothing is scored; it is called for blocks of 1024
        pixels, and not at all for an item that is shown whole.

    Returns
    -------
    Window
        At most 1024 x 1024 pixels, in the item.

    Examples
    --------
    >>> labels = np.full((3000, 2000), 255, np.uint8)
    >>> labels[2100:2200, 1500:1600] = 1
    >>> part = choose_part(3000, 2000, lambda window: labels[window.rows, window.columns])
    >>> part, bool((labels[part.rows, part.columns] == 1).sum() == 10_000)
    (Window(y=1280, x=768, height=1024, width=1024), True)
    """
    shown = Window(0, 0, min(height, DRAWN_SIDE), min(width, DRAWN_SIDE))
    if (shown.height, shown.width) == (height, width):
        return shown
    counts = np.zeros((-(-height // STEP), -(-width // STEP), IGNORE), np.int64)
    for window in blocks(height, width):
        labels = read_labels(window)
        for y in range(0, window.height, STEP):
            for x in range(0, window.width, STEP):
                cell = labels[y : y + STEP, x : x + STEP]
                found = np.bincount(cell.ravel(), minlength=256)[:IGNORE]
                counts[(window.y + y) // STEP, (window.x + x) // STEP] = found
    reach, best, chosen = DRAWN_SIDE // STEP, -1.0, shown
    for row in range(max(len(counts) - reach, 0) + 1):
        for column in range(max(counts.shape[1] - reach, 0) + 1):
            value = np.sqrt(counts[row : row + reach, column : column + reach].sum(axis=(0, 1))).sum()
            if value > best:
                y, x = min(row * STEP, height - shown.height), min(column * STEP, width - shown.width)
                best, chosen = value, Window(y, x, shown.height, shown.width)
    return chosen


def blocks(height: int, width: int) -> Iterator[Window]:
    """Windows of at most 1024 pixels that cover an item.

    Examples
    --------
    >>> [(window.y, window.height) for window in blocks(1500, 10)]
    [(0, 1024), (1024, 476)]
    """
    for y in range(0, height, DRAWN_SIDE):
        for x in range(0, width, DRAWN_SIDE):
            yield Window(y, x, min(DRAWN_SIDE, height - y), min(DRAWN_SIDE, width - x))
