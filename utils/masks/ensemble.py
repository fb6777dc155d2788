"""Two models' opinions of a picture made one: class probabilities of pixels, and objects with scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class ScoredMask(NamedTuple):
    """An object that another model has found.

    Examples
    --------
    >>> ScoredMask(1, 0.75, slice(0, 2), slice(0, 1), np.ones((2, 1), bool)).label
    1
    """

    label: int  # index of its class
    score: float
    rows: slice  # its place in the picture
    columns: slice
    covered: np.ndarray  # bool (h, w) of its place


def score_maps(objects: Sequence[ScoredMask], num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """The highest score of each class's objects at each pixel, 0 where there is none.

    Returns
    -------
    ndarray of float32, shape (K, H, W)

    Examples
    --------
    >>> place = slice(0, 1), slice(0, 2), np.array([[True, True]])
    >>> score_maps([ScoredMask(1, 0.5, *place), ScoredMask(1, 0.25, *place)], 2, (1, 3)).tolist()
    [[[0.0, 0.0, 0.0]], [[0.5, 0.5, 0.0]]]
    """
    maps = np.zeros((num_classes, *size), np.float32)
    for found in objects:
        part = maps[found.label, found.rows, found.columns]
        np.maximum(part, np.where(found.covered, np.float32(found.score), 0), out=part)
    return maps


def with_background(scores: np.ndarray, background: int | None) -> np.ndarray:
    """Give the background what the objects of a pixel leave: 1 less the highest score; (K, H, W), a copy.

    Without a background the other model says nothing of pixels without objects.

    Examples
    --------
    >>> with_background(np.float32([[[0.0, 0.0]], [[0.75, 0.0]]]), 0).tolist()
    [[[0.25, 1.0]], [[0.75, 0.0]]]
    """
    scores = scores.copy()
    if background is not None:
        scores[background] = 0
        scores[background] = 1 - scores.max(axis=0)
    return scores


def blend(probabilities: np.ndarray, scores: np.ndarray, weight: float, other_weight: float) -> np.ndarray:
    """Weighted mean of probabilities and of another model's scores, which are divided by their sum first.

    Where the scores sum to less than 1, as without a background, the other model counts by that much less.

    Parameters
    ----------
    probabilities, scores : ndarray of float32, shape (K, H, W)
        Where all scores are 0 the probabilities stay.
    weight, other_weight : float
        Of the two; only their ratio counts.

    Returns
    -------
    ndarray of float32, shape (K, H, W)

    Examples
    --------
    >>> ours, theirs = np.float32([[[0.75, 0.75]], [[0.25, 0.25]]]), np.float32([[[0.0, 0.0]], [[0.5, 0.0]]])
    >>> blend(ours, theirs, 3, 1)[:, 0].tolist()
    [[0.65625, 0.75], [0.34375, 0.25]]
    """
    total = scores.sum(axis=0)
    share = np.float32(other_weight / (weight + other_weight)) * np.minimum(total, 1)
    return (1 - share) * probabilities + share * scores / np.where(total > 0, total, 1)


def vote(probabilities: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Let the surer model choose the class of each pixel; where both choose the same, the surer value stays, too.

    Returns
    -------
    ndarray of float32, shape (K, H, W)
        Probabilities; where the other model wins, its score for its class and 0 for the others.

    Examples
    --------
    >>> ours, theirs = np.float32([[[0.75, 0.75]], [[0.25, 0.25]]]), np.float32([[[0.0, 0.0]], [[0.5, 0.875]]])
    >>> vote(ours, theirs)[:, 0].tolist()
    [[0.75, 0.0], [0.25, 0.875]]
    """
    wins = scores.max(axis=0) > probabilities.max(axis=0)
    chosen = np.arange(len(scores))[:, None, None] == scores.argmax(axis=0)
    return np.where(wins, np.where(chosen, scores, 0), probabilities).astype(np.float32)


def suppress(
    probabilities: np.ndarray, objects: Sequence[ScoredMask], background: int | None, iou: float
) -> np.ndarray:
    """Keep of objects of one class that cover each other the surer one, whichever model it is from.

    Our objects are the connected areas (of four neighbours) of each class but the background; their score is their mean
    probability. An object is dropped if a surer one of its class is kept whose mask overlaps it by `iou` or more. What
    is kept is drawn over the background, the least sure first. Where nothing is drawn the background has probability
    1; without a background our probabilities stay there.

    Returns
    -------
    ndarray of float32, shape (K, H, W)
        The score of what is drawn at a pixel for its class, and 0 for the others.

    Examples
    --------
    >>> ours = np.float32([[[0.25, 0.25, 0.75, 0.75]], [[0.75, 0.75, 0.25, 0.25]]])
    >>> wider = ScoredMask(1, 0.875, slice(0, 1), slice(0, 3), np.array([[True, True, True]]))
    >>> suppress(ours, [wider], 0, 0.5)[1].tolist()  # two thirds of it are ours: the surer one stays
    [[0.875, 0.875, 0.875, 0.0]]
    """
    size = probabilities.shape[1:]
    found = [(mask, 0) for mask in _areas(probabilities, background)] + [(mask, 1) for mask in objects]
    kept: list[ScoredMask] = []
    rivals: tuple[list[ScoredMask], list[ScoredMask]] = ([], [])  # ours, whose areas never overlap, and the other's
    for mask, whose in sorted(found, key=lambda pair: -pair[0].score):
        against = [*rivals[0], *rivals[1]] if whose else rivals[1]
        if not any(mask.label == other.label and mask_iou(mask, other) >= iou for other in against):
            kept.append(mask)
            rivals[whose].append(mask)
    if background is None:
        drawn = probabilities.copy()
    else:
        drawn = np.zeros((len(probabilities), *size), np.float32)
        drawn[background] = 1
    for mask in reversed(kept):
        part = drawn[:, mask.rows, mask.columns]
        part[:, mask.covered] = 0
        part[mask.label, mask.covered] = mask.score
    return drawn


def mask_iou(one: ScoredMask, other: ScoredMask) -> float:
    """Intersection over union of two masks.

    Examples
    --------
    >>> left = ScoredMask(0, 1.0, slice(0, 1), slice(0, 2), np.ones((1, 2), bool))
    >>> mask_iou(left, left._replace(columns=slice(1, 3)))
    0.3333333333333333
    """
    rows = slice(max(one.rows.start, other.rows.start), min(one.rows.stop, other.rows.stop))
    columns = slice(max(one.columns.start, other.columns.start), min(one.columns.stop, other.columns.stop))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0.0
    parts = [
        mask.covered[
            rows.start - mask.rows.start : rows.stop - mask.rows.start,
            columns.start - mask.columns.start : columns.stop - mask.columns.start,
        ]
        for mask in (one, other)
    ]
    shared = int(np.count_nonzero(parts[0] & parts[1]))
    return shared / (int(one.covered.sum()) + int(other.covered.sum()) - shared) if shared else 0.0


def _areas(probabilities: np.ndarray, background: int | None) -> list[ScoredMask]:
    """The connected areas of each class but the background, with their mean probability.

    Examples
    --------
    >>> [(mask.score, mask.columns) for mask in _areas(np.float32([[[0.25, 0.75]], [[0.75, 0.25]]]), 0)]
    [(0.75, slice(0, 1, None))]
    """
    classes, found = probabilities.argmax(axis=0), []
    for index in range(len(probabilities)):
        if index != background:
            areas, _ = ndimage.label(classes == index)
            for number, (rows, columns) in enumerate(ndimage.find_objects(areas), start=1):
                covered = areas[rows, columns] == number
                score = float(probabilities[index, rows, columns][covered].mean(dtype=np.float64))
                found.append(ScoredMask(index, score, rows, columns, covered))
    return found
