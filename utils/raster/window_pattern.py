"""Whether a class map repeats with its windows: a pattern of the model's, not of the ground."""

from __future__ import annotations

import numpy as np

HARMONICS = 4
OTHER_PERIODS = (0.61, 0.71, 0.83, 0.87, 1.15, 1.19, 1.27, 1.43)  # none has a harmonic near one of the windows'
FEWEST_PERIODS = 8  # along an axis; fewer cannot be told from chance
FEWEST_CHANGES = 1000
LEAST_STRENGTH, TIMES_OTHERS = 0.1, 2.5


class ClassChanges:
    """Counts along each axis of a map where neighbouring pixels have different classes, row by row.

    Memory is one number per row and column.

    Parameters
    ----------
    height, width : int
        Size of the map in pixels.
    nodata : int
        Value of pixels without a class; they have no neighbours.

    Examples
    --------
    >>> changes = ClassChanges(2, 3, nodata=255)
    >>> changes.add(0, np.array([0, 1, 1], np.uint8))
    >>> changes.add(1, np.array([0, 0, 255], np.uint8))
    >>> changes.rows.tolist(), changes.columns.tolist()
    ([1], [1, 0])
    """

    def __init__(self, height: int, width: int, nodata: int):
        self.nodata = nodata
        self.rows, self.columns = np.zeros(max(height - 1, 0), np.int64), np.zeros(max(width - 1, 0), np.int64)
        self._above: np.ndarray | None = None

    def add(self, y: int, row: np.ndarray) -> None:
        """Count the changes of the next row (W,) and between it and the one before.

        Examples
        --------
        >>> changes = ClassChanges(1, 4, nodata=255)
        >>> changes.add(0, np.array([3, 255, 3, 4], np.uint8))
        >>> changes.columns.tolist()
        [0, 0, 1]
        """
        there = row != self.nodata
        self.columns += (row[1:] != row[:-1]) & there[1:] & there[:-1]
        if self._above is not None:
            self.rows[y - 1] = ((row != self._above) & there & (self._above != self.nodata)).sum()
        self._above = row.copy()  # readers of strips give each one in the memory of the last


def strength_at(counts: np.ndarray, period: float) -> float:
    """How far counts repeat with a period: 0 for evenly spread ones, 1 or more where all lie in step.

    Parameters
    ----------
    counts : ndarray, shape (N,)
        Changes between pixels along an axis; some above 0.
    period : float
        In pixels.

    Returns
    -------
    float
        Root of the summed powers of the first harmonics, over the mean; the ends are faded out.

    Examples
    --------
    >>> in_step = np.tile([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 20)
    >>> [round(strength_at(counts, 10), 1) for counts in (in_step, np.ones(200))], round(strength_at(in_step, 8.3), 1)
    ([2.0, 0.0], 0.0)
    """
    faded = counts * np.hanning(len(counts) + 2)[1:-1]
    turns = np.outer(np.arange(1, HARMONICS + 1) / period, np.arange(len(counts)))
    return float(np.linalg.norm(np.exp(2j * np.pi * turns) @ faded) / faded.sum())


def repeats_with(counts: np.ndarray, period: float) -> float:
    """How far the changes of a map repeat with its windows; 0 where they do so no more than with other periods.

    Parameters
    ----------
    counts : ndarray, shape (N,)
        Changes between pixels along an axis.
    period : float
        From one window to the next, in pixels of the map.

    Returns
    -------
    float
        The strength; 0 as well where fewer than eight windows or a thousand changes say too little.

    Examples
    --------
    >>> spots = np.tile([50, 9, 9, 9, 9, 9, 9, 9, 9, 9], 20)
    >>> [round(repeats_with(spots, period), 2) for period in (10, 9, 40)]
    [0.63, 0.0, 0.0]
    """
    if len(counts) < FEWEST_PERIODS * period or counts.sum() < FEWEST_CHANGES:
        return 0.0
    strength = strength_at(counts, period)
    others = max(strength_at(counts, factor * period) for factor in OTHER_PERIODS)
    return strength if strength >= max(LEAST_STRENGTH, TIMES_OTHERS * others) else 0.0


def describe_pattern(changes: ClassChanges, period_y: float, period_x: float) -> str:
    """What to tell of a map that repeats with its windows; empty where it does not.

    Parameters
    ----------
    changes : ClassChanges
        Of the whole map.
    period_y, period_x : float
        From one window to the next, in pixels of the map.

    Examples
    --------
    >>> changes = ClassChanges(200, 200, nodata=255)
    >>> for y in range(200):
    ...     changes.add(y, np.where(np.arange(200) % 10 < 5, 1, 0).astype(np.uint8))
    >>> describe_pattern(changes, 10, 10)[:78]
    'class boundaries repeat with the windows, every 10 pixels (strength 1.41, with'
    >>> describe_pattern(changes, 9, 9)
    ''
    """
    axes = [(repeats_with(changes.columns, period_x), period_x), (repeats_with(changes.rows, period_y), period_y)]
    strength, period = max(axes)
    if not strength:
        return ""
    return (
        f"class boundaries repeat with the windows, every {period:.4g} pixels (strength {strength:.2f}, with other "
        f"periods below {strength / TIMES_OTHERS:.2f}): the map shows how it was cut, not only the ground; look at it, "
        "and train with larger windows (prepare.tile_size), a better backbone, or more labels where it is wrong"
    )
