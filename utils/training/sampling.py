"""Which samples an epoch draws, and in which order."""

from __future__ import annotations

import numpy as np


def draw_shares(weights: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw as many samples as there are, each as often as its weight says, up to one.

    Parameters
    ----------
    weights : ndarray, shape (N,)
        How often each sample comes, relative to others; not negative, and some above 0.
    generator : Generator
        Chooses which samples come once more than others of their weight, and the order.

    Returns
    -------
    ndarray of int64, shape (N,)
        Indices. Sample i occurs `N * weights[i] / sum(weights)` times, rounded up or down: one that is drawn
        independently each time would be missing in every third epoch.

    References
    ----------
    Systematic sampling: Madow and Madow, 1944 (doi:10.1214/aoms/1177731312).

    Examples
    --------
    >>> order = draw_shares(np.array([1.0, 1.0, 0.25, 0.25, 1.0, 0.5]), np.random.default_rng(0))
    >>> np.bincount(order, minlength=6).tolist()  # 1.5, 1.5, 0.375, 0.375, 1.5 and 0.75 times
    [1, 2, 0, 0, 2, 1]
    """
    number = len(weights)
    mixed = generator.permutation(number)
    ends = weights[mixed].cumsum()
    places = (np.arange(number) + generator.random()) / number * ends[-1]
    drawn = np.searchsorted(ends, places, side="right")
    return generator.permutation(mixed[np.minimum(drawn, number - 1)])
