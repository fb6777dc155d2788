"""From which score on detections are worth having, and what is then taken for what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.boxes.crowd_scores import Ranking
from utils.boxes.detections import FALSE, FoundBoxes, TrueBoxes, by_picture, match_picture, sizes_of

STEPS = np.linspace(0.0, 1.0, 101)  # scores at which curves are drawn
SIZE_NAMES = ("all", "small", "medium", "large")


def f1_of(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall, any shape; 0 where both are, and where one is NaN.

    Examples
    --------
    >>> f1_of(np.array([1.0, 0.0, np.nan]), np.array([0.5, 0.0, 0.0])).round(3).tolist()
    [0.667, 0.0, 0.0]
    """
    total = np.nan_to_num(precision + recall)
    return np.divide(2 * precision * recall, total, out=np.zeros(np.shape(total)), where=total > 0)


def best_threshold(ranking: Ranking) -> dict[str, float]:
    """Choose the score from which on a class has its largest F1, at an IoU of one half.

    Parameters
    ----------
    ranking : Ranking
        Of the class.

    Returns
    -------
    dict of str to float
        "score" (detections from it on count), "precision", "recall" and "F1" there. Of equal F1 the highest score.
        NaN where nothing was found; recall and F1 are NaN without objects, too.

    Examples
    --------
    >>> ranking = Ranking(np.array([0.75, 0.5, 0.25]), np.array([True, True, False]), objects=2, pictures=1)
    >>> best_threshold(ranking)
    {'score': 0.5, 'precision': 1.0, 'recall': 1.0, 'F1': 1.0}
    """
    last = np.flatnonzero(np.diff(ranking.scores, append=-math.inf))  # detections of one score come and go together
    if not last.size or not ranking.objects:
        return dict.fromkeys(("score", "precision", "recall", "F1"), math.nan)
    precision, recall = ranking.precision()[last], ranking.recall()[last]
    scores = f1_of(precision, recall)
    best = int(scores.argmax())
    parts = (ranking.scores[last][best], precision[best], recall[best], scores[best])
    return dict(zip(("score", "precision", "recall", "F1"), map(float, parts), strict=True))


def threshold_curves(ranking: Ranking) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of a class over the score from which on detections count.

    Parameters
    ----------
    ranking : Ranking
        Of the class.

    Returns
    -------
    dict of str to ndarray of shape (101,)
        "precision" (NaN where nothing is left), "recall" (NaN without objects) and "F1" at `STEPS`.

    Examples
    --------
    >>> ranking = Ranking(np.array([0.75, 0.5, 0.25]), np.array([True, True, False]), objects=4, pictures=1)
    >>> curves = threshold_curves(ranking)
    >>> curves["recall"][[0, 50, 51, 76]].tolist(), curves["precision"][[50, 76]].tolist()
    ([0.5, 0.5, 0.25, 0.0], [1.0, nan])
    """
    counts = np.searchsorted(-ranking.scores, -STEPS, side="right")  # detections of at least each score
    precision = np.append(math.nan, ranking.precision())[counts]
    recall = np.append(0.0 if ranking.objects else math.nan, ranking.recall())[counts]
    return {"precision": precision, "recall": recall, "F1": f1_of(precision, recall)}


# --- confusion -------------------------------------------------------------------------------------------------------


def count_confusions(
    true: TrueBoxes, found: FoundBoxes, matches: np.ndarray, thresholds: Sequence[float]
) -> np.ndarray:
    """Count what was taken for what, where the detections of each class count from its threshold on.

    Parameters
    ----------
    true, found : TrueBoxes, FoundBoxes
        Objects and detections of the same pictures.
    matches : ndarray of int, shape (detections,)
        What `match_all` gave. Objects and detections that it leaves alone are matched across classes, the surest
        detection first.
    thresholds : sequence of float
        One per class; NaN for a class of which no detection counts.

    Returns
    -------
    ndarray of int, shape (4, K + 1, K + 1)
        True class (rows) and detected class, the last one the background: of all, and of small, medium and large
        objects, or detections where there is no object. The sum of a row of a class is its number of objects.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    >>> true = TrueBoxes(np.zeros(3, int), boxes, np.array([0, 0, 1]), np.zeros(3, bool))
    >>> found = FoundBoxes(np.zeros(3, int), boxes + [[0], [0], [99]], np.array([0, 1, 1]), np.array([0.9, 0.8, 0.7]))
    >>> count_confusions(true, found, np.array([0, -1, -1]), [0.5, 0.5])[0].tolist()
    [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    """
    classes = len(thresholds)
    matrices = np.zeros((4, classes + 1, classes + 1), np.int64)
    counts = found.scores >= np.array(thresholds, np.float64)[found.labels] if classes else np.zeros(0, bool)
    pairs = np.flatnonzero(counts & (matches >= 0))
    alone, missed = counts & (matches == FALSE), ~true.is_crowd
    missed[matches[pairs]] = False
    rows, columns = [true.labels[matches[pairs]]], [found.labels[pairs]]
    sizes = [sizes_of(true.boxes_xyxy[matches[pairs]])]
    across = _match_across(true, found, missed, alone) if classes > 1 else np.zeros((2, 0), np.int64)
    rows += [true.labels[across[0]]]
    columns += [found.labels[across[1]]]
    sizes += [sizes_of(true.boxes_xyxy[across[0]])]
    missed[across[0]], alone[across[1]] = False, False
    rows += [true.labels[missed], np.full(alone.sum(), classes)]
    columns += [np.full(missed.sum(), classes), found.labels[alone]]
    sizes += [sizes_of(true.boxes_xyxy[missed]), sizes_of(found.boxes_xyxy[alone])]
    row, column, size = (np.concatenate(parts) for parts in (rows, columns, sizes))
    np.add.at(matrices, (size + 1, row, column), 1)
    matrices[0] = matrices[1:].sum(axis=0)
    return matrices


def _match_across(true: TrueBoxes, found: FoundBoxes, missed: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Pairs of missed objects (N,) and false detections (D,) that overlap, whatever their classes; shape (2, pairs).

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 9, 9]])
    >>> true = TrueBoxes(np.zeros(1, int), boxes, np.array([0]), np.zeros(1, bool))
    >>> found = FoundBoxes(np.zeros(1, int), boxes, np.array([1]), np.array([0.5]))
    >>> _match_across(true, found, np.array([True]), np.array([True])).tolist()
    [[0], [0]]
    """
    objects, detections = np.flatnonzero(missed), np.flatnonzero(alone)
    left, surplus = true.take(objects), found.take(detections)
    pairs = [np.zeros((2, 0), np.int64)]
    for rows, places in by_picture(left, surplus):
        if rows.size and places.size:
            boxes, labels = surplus.boxes_xyxy[places], surplus.labels[places]
            of_picture = match_picture(boxes, labels, left.take(rows), classes=False)
            matched = of_picture >= 0
            pairs.append(np.stack([objects[rows[of_picture[matched]]], detections[places[matched]]]))
    return np.concatenate(pairs, axis=1)


def plain_confusions(matrices: np.ndarray) -> dict[str, Any]:
    """Confusions (4, K + 1, K + 1) as JSON takes them.

    Examples
    --------
    >>> plain_confusions(np.zeros((4, 2, 2), int))["small"]
    [[0, 0], [0, 0]]
    """
    return dict(zip(SIZE_NAMES, matrices.tolist(), strict=True))
