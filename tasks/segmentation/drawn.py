"""The part of an item that its comparison picture shows: where most is scored, and of several classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from utils.raster.tiling import Window

DRAWN_SIDE = 1024  # pixels of an item that a comparison picture shows at most
STEP = 256  # pixels between places where the part may begin
EVERY = 16  # rows from one that is looked at to the next


def choose_part(height: int, width: int, classes: int, read_labels: Callable[[Window], np.ndarray]) -> Window:
    """Choose the part of an item that holds many labelled pixels of many classes.

    Of each class the square root of its number counts, so that a second class weighs more than a larger area of the
    first one. Of equal parts the first one is taken. One row in 16 is looked at, and all of them only where these show
    nothing: a scene may have as many pixels as a training reads in hours.

    Parameters
    ----------
    height, width : int
        Size of the item in pixels.
    classes : int
        How many there are.
    read_labels : callable
        Gives the classes (h, w) of a window, uint8, with 255 where nothing is scored; it is called for rows, and not at
        all for an item that is shown whole.

    Returns
    -------
    Window
        At most 1024 x 1024 pixels, in the item.

    Examples
    --------
    >>> labels = np.full((3000, 2000), 255, np.uint8)
    >>> labels[2100:2200, 1500:1600] = 1
    >>> part = choose_part(3000, 2000, 2, lambda window: labels[window.rows, window.columns])
    >>> part, bool((labels[part.rows, part.columns] == 1).sum() == 10_000)
    (Window(y=1280, x=768, height=1024, width=1024), True)
    """
    shown = Window(0, 0, min(height, DRAWN_SIDE), min(width, DRAWN_SIDE))
    if (shown.height, shown.width) == (height, width):
        return shown
    rows = (Window(y, 0, 1, width) for y in range(min(EVERY // 2, height - 1), height, EVERY))
    counts = count_cells(rows, height, width, classes, read_labels)
    if not counts.any():  # what is labelled may be thinner
        strips = (Window(y, 0, min(STEP, height - y), width) for y in range(0, height, STEP))
        counts = count_cells(strips, height, width, classes, read_labels)
    reach, best, chosen = DRAWN_SIDE // STEP, -1.0, shown
    for row in range(max(len(counts) - reach, 0) + 1):
        for column in range(max(counts.shape[1] - reach, 0) + 1):
            value = np.sqrt(counts[row : row + reach, column : column + reach].sum(axis=(0, 1))).sum()
            if value > best:
                y, x = min(row * STEP, height - shown.height), min(column * STEP, width - shown.width)
                best, chosen = value, Window(y, x, shown.height, shown.width)
    return chosen


def count_cells(
    windows: Iterable[Window], height: int, width: int, classes: int, read_labels: Callable[[Window], np.ndarray]
) -> np.ndarray:
    """Count pixels by class in cells of 256 x 256 pixels: (rows, columns, classes), uint32.

    Parameters
    ----------
    windows : iterable of Window
        What is looked at: whole rows of one row of cells each.
    height, width, classes, read_labels
        As for `choose_part`.

    Examples
    --------
    >>> labels = np.full((2, 300), 255, np.uint8)
    >>> labels[0, 250:258] = 1
    >>> count_cells([Window(0, 0, 2, 300)], 2, 300, 2, lambda window: labels[window.rows, window.columns]).tolist()
    [[[0, 6], [0, 2]]]
    """
    columns = -(-width // STEP)
    counts = np.zeros((-(-height // STEP), columns, classes), np.uint32)
    cells = 256 * (np.arange(width) // STEP)  # of each column; classes are the values below 256
    for window in windows:
        found = np.bincount((cells + read_labels(window)).ravel(), minlength=256 * columns)
        counts[window.y // STEP] += found.reshape(columns, 256)[:, :classes].astype(np.uint32)
    return counts
