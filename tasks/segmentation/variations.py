"""Random crops of class maps."""

from __future__ import annotations

import numpy as np

from utils.geometry.augment import RandomGeometry
from utils.geometry.fields import Fields, warp

CROP_TRIES = 10  # then the last one that shows a label is taken


def draw_crop(
    fields: Fields, label: np.ndarray, geometry: RandomGeometry, most: float, generator: np.random.Generator
) -> np.ndarray:
    """Draw the matrix (3, 3) of a random crop in which no class has more than a share of the labelled pixels.

    Parameters
    ----------
    fields : dict
        How a `label` is warped.
    label : ndarray of uint8, shape (H, W)
        Of the sample.
    geometry : RandomGeometry
        Draws crops.
    most : float
        The share; at 1 the first crop is taken.
    generator : numpy.random.Generator
        The only source of chance.

    References
    ----------
    `cat_max_ratio` of MMSegmentation's `RandomCrop`.

    Examples
    --------
    >>> from utils.geometry.fields import STANDARD_FIELDS
    >>> label, generator = np.repeat(np.uint8([[0] * 12 + [1] * 12]), 8, axis=0), np.random.default_rng(0)
    >>> matrix = draw_crop(STANDARD_FIELDS, label, RandomGeometry((8, 8)), 0.8, generator)
    >>> largest_share(warp(STANDARD_FIELDS, {"label": label}, matrix, (8, 8))["label"]) <= 0.8
    True
    """
    kept = None
    for _ in range(CROP_TRIES):
        matrix = geometry.sample((label.shape[0], label.shape[1]), generator)
        share = 0.0 if most == 1 else largest_share(warp(fields, {"label": label}, matrix, geometry.size)["label"])
        if most == 1 or 0 < share <= most:
            return matrix
        kept = matrix if kept is None or share > 0 else kept  # one that shows no label teaches nothing
    assert kept is not None
    return kept


def largest_share(label: np.ndarray) -> float:
    """The share of the most frequent class in the labelled pixels of a label (H, W); 0 where none is labelled.

    Examples
    --------
    >>> largest_share(np.array([[1, 1, 0, 255]], np.uint8)), largest_share(np.full((2, 2), 255, np.uint8))
    (0.6666666666666666, 0.0)
    """
    counts = np.bincount(label.ravel(), minlength=256)[:255]
    return float(counts.max() / max(counts.sum(), 1))
