"""Boundary IoU: how well the edges of classes lie, which the IoU of large areas hides."""

from __future__ import annotations

import cv2
import numpy as np

from utils.metrics import IGNORE_INDEX

_BLOCK_PIXELS = 2**22


def boundary_counts(prediction: np.ndarray, truth: np.ndarray, num_classes: int, distance: int) -> np.ndarray:
    """Count the pixels near the edges of each class: those that prediction and truth share, and those of either.

    A pixel of a class is near its edge if another class, or the outside of the picture, begins within `distance`
    pixels of it, diagonal steps counted as one. Where the truth is not known nothing is counted, and no edge begins.

    Parameters
    ----------
    prediction : ndarray of uint8, shape (H, W)
        Class indices; of a large picture a memory map, which is read block by block.
    truth : ndarray of uint8, shape (H, W)
        Class indices; 255 is unknown.
    num_classes : int
        K.
    distance : int
        In pixels, 1 or more.

    Returns
    -------
    ndarray of int64, shape (K, 2)
        Shared pixels and pixels of either, for each class. Counts of several pictures add up.

    References
    ----------
    Cheng et al., 2021 (arXiv:2103.16562), where masks of objects are compared, and `distance` is 2 % of the diagonal.

    Examples
    --------
    >>> truth = np.zeros((8, 8), np.uint8)
    >>> truth[2:7, 2:7] = 1  # its edge has 16 pixels; the prediction's, moved by one, shares 8 of 16 + 16 - 8
    >>> prediction = np.roll(truth, 1, axis=1)
    >>> boundary_counts(prediction, truth, 2, 1)[1].tolist()
    [8, 24]
    """
    height, width = truth.shape
    rows = max(_BLOCK_PIXELS // max(width, 1), 2 * distance)  # thinner blocks would read more halo than rows
    counts = np.zeros((num_classes, 2), np.int64)
    for top in range(0, height, rows):
        first, last = max(top - distance, 0), min(top + rows + distance, height)  # beyond them nothing reaches in
        kept = slice(top - first, min(top + rows, height) - first)
        shown, known = np.asarray(prediction[first:last]), np.asarray(truth[first:last])
        unknown = known == IGNORE_INDEX
        for index in range(num_classes):
            near = [_near_edge(mask == index, unknown, distance)[kept] for mask in (shown, known)]
            counts[index] += [np.count_nonzero(near[0] & near[1]), np.count_nonzero(near[0] | near[1])]
    return counts


def _near_edge(mask: np.ndarray, unknown: np.ndarray, distance: int) -> np.ndarray:
    """Which pixels (H, W) of a mask lie within a distance of what is outside of it.

    Examples
    --------
    >>> _near_edge(np.ones((3, 5), bool), np.zeros((3, 5), bool), 1).astype(int).tolist()
    [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
    """
    mask = mask & ~unknown
    if not mask.any():
        return mask
    inside = np.pad((mask | unknown).astype(np.uint8), 1)  # beyond the picture is outside
    steps = cv2.distanceTransform(inside, cv2.DIST_C, cv2.DIST_MASK_3)[1:-1, 1:-1]
    return mask & (steps <= distance)


def boundary_distance(size: tuple[int, int], share: float) -> int:
    """Pixels that are a share of the diagonal of a picture (height, width), and one at least.

    Examples
    --------
    >>> boundary_distance((480, 640), 0.02), boundary_distance((20, 20), 0.02)
    (16, 1)
    """
    return max(1, round(share * float(np.hypot(*size))))


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Boundary IoU of each class (K,) from its counts (K, 2); NaN for a class that is nowhere.

    Examples
    --------
    >>> boundary_iou(np.array([[8, 24], [0, 0]])).round(3).tolist()
    [0.333, nan]
    """
    shared, either = counts.T
    return np.where(either > 0, shared / np.maximum(either, 1), np.nan)
