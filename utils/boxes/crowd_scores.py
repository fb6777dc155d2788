"""Scores of one class in crowds, as CrowdHuman's own evaluation takes them: AP, MR^-2 and JI.

No number of detections is cut off. An ignore region counts neither way: not as missed, and not for the detections of
which it covers more than half.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from utils.boxes.detections import FALSE, IGNORED, FoundBoxes, TrueBoxes, by_picture
from utils.boxes.geometry import covered_shares, ious, pairwise

FALSE_PER_PICTURE = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)  # 10^-2 to 10^0, as they round it
SCORES = np.arange(10) / 10  # thresholds of JI
IOU = 0.5


class Ranking(NamedTuple):
    """Detections of a class from the surest to the least sure; those in ignore regions are left out.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Falling.
    right : ndarray of bool, shape (N,)
        Whether a detection found an object.
    objects : int
        Objects of the class.
    pictures : int
        Pictures of the set, those without an object too.

    Examples
    --------
    >>> ranking = Ranking(np.array([0.75, 0.5, 0.25]), np.array([True, False, True]), objects=4, pictures=2)
    >>> ranking.precision().round(2).tolist(), ranking.recall().tolist()
    ([1.0, 0.5, 0.67], [0.25, 0.25, 0.5])
    """

    scores: np.ndarray
    right: np.ndarray
    objects: int
    pictures: int

    def precision(self) -> np.ndarray:
        """Share of right ones among the first 1, 2, ... N detections, shape (N,).

        Examples
        --------
        >>> Ranking(np.array([0.5, 0.25]), np.array([False, True]), 1, 1).precision().tolist()
        [0.0, 0.5]
        """
        return self.right.cumsum() / np.arange(1, len(self.right) + 1)

    def recall(self) -> np.ndarray:
        """Share of the objects that the first 1, 2, ... N detections found, shape (N,); NaN without objects.

        Examples
        --------
        >>> Ranking(np.array([0.5, 0.25]), np.array([False, True]), 2, 1).recall().tolist()
        [0.0, 0.5]
        """
        return self.right.cumsum() / (self.objects or math.nan)


def rank_detections(true: TrueBoxes, found: FoundBoxes, matches: np.ndarray, label: int, pictures: int) -> Ranking:
    """Put the detections of a class in the order of their scores.

    Parameters
    ----------
    true, found : TrueBoxes, FoundBoxes
        Objects and detections.
    matches : ndarray of int, shape (detections,)
        What `match_all` gave.
    label : int
        The class.
    pictures : int
        Pictures of the set.

    Examples
    --------
    >>> found = FoundBoxes(np.zeros(3, int), np.zeros((3, 4)), np.array([1, 1, 0]), np.array([0.25, 0.75, 0.5]))
    >>> rank_detections(TrueBoxes.empty(), found, np.array([-1, 0, -1]), 1, 5)
    Ranking(scores=array([0.75, 0.25]), right=array([ True, False]), objects=0, pictures=5)
    """
    rows = np.flatnonzero((found.labels == label) & (matches != IGNORED))
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    objects = int(((true.labels == label) & ~true.is_crowd).sum())
    return Ranking(found.scores[rows], matches[rows] != FALSE, objects, pictures)


def crowd_average_precision(ranking: Ranking) -> float:
    """Area below precision over recall, by trapezia between the detections, from the first one on.

    Parameters
    ----------
    ranking : Ranking
        Of a class.

    Returns
    -------
    float
        0 to 1; NaN without objects.

    References
    ----------
    Shao et al., 2018 (arXiv:1805.00123). The stretch before the first detection is not counted, in theirs as here.

    Examples
    --------
    >>> crowd_average_precision(Ranking(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1], bool), 4, 2))
    0.4270833333333333
    """
    if not ranking.objects:
        return math.nan
    return float(np.trapezoid(ranking.precision(), ranking.recall())) if len(ranking.right) else 0.0


def log_average_miss_rate(ranking: Ranking) -> float:
    """MR^-2: the geometric mean of the shares of objects missed at 0.01 to 1 false detections per picture.

    Parameters
    ----------
    ranking : Ranking
        Of a class.

    Returns
    -------
    float
        0 to 1, less is better; NaN without objects. Where so many false detections are not reached, the last
        detection counts; 0 where nothing is missed at one of the nine points.

    References
    ----------
    Dollár et al., 2012 (doi:10.1109/TPAMI.2011.155), section 3.2, at the points that CrowdHuman's evaluation takes.

    Examples
    --------
    >>> ranking = Ranking(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0], bool), objects=4, pictures=2)
    >>> round(log_average_miss_rate(ranking), 6)  # 3/4 at seven points, 1/2 at two
    0.685378
    """
    if not ranking.objects:
        return math.nan
    if not len(ranking.right):
        return 1.0
    missed, false = 1 - ranking.recall(), (~ranking.right).cumsum() / ranking.pictures
    places = np.minimum(np.searchsorted(false, FALSE_PER_PICTURE, side="left"), len(false) - 1)
    with np.errstate(divide="ignore"):
        return float(np.exp(np.log(missed[places]).mean()))


# --- JI --------------------------------------------------------------------------------------------------------------


def match_most(edges: list[list[int]], objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Match detections with objects so that as many as can be have a partner, after each detection that is added.

    Parameters
    ----------
    edges : list of lists of int
        For each detection, the surest first, the objects that it may have.
    objects : int
        Number of objects.

    Returns
    -------
    matched : ndarray of bool, shape (detections,)
        Whether one more object had a partner once the detection was there. It then keeps one for good.
    since : ndarray of int, shape (objects,)
        The detection with which the object first had a partner; the number of detections where it never had.

    References
    ----------
    Augmenting paths, Berge 1957: a matching along which none exists is largest.

    Examples
    --------
    >>> matched, since = match_most([[0, 1], [0], [0, 1], []], 3)
    >>> matched.tolist(), since.tolist()  # the second takes the object of the first, which takes the other one
    ([True, True, False, False], [0, 1, 4])
    """
    owner, partner = [-1] * objects, [-1] * len(edges)
    since = np.full(objects, len(edges))
    for first, reachable in enumerate(edges):
        came_from: dict[int, int] = {}
        waiting = deque([first] if reachable else [])
        while waiting:
            detection = waiting.popleft()
            for place in edges[detection]:
                if place not in came_from:
                    came_from[place] = detection
                    if owner[place] == -1:
                        since[place] = first
                        waiting.clear()
                        while detection != first:  # everybody on the path moves on by one
                            owner[place], partner[detection], place = detection, place, partner[detection]
                            detection = came_from[place]
                        owner[place], partner[first] = first, place
                        break
                    waiting.append(owner[place])
    return np.array(partner, np.int64) >= 0, since


def picture_indices(
    boxes_xyxy: np.ndarray, scores: np.ndarray, truth_xyxy: np.ndarray, regions_xyxy: np.ndarray
) -> np.ndarray:
    """Jaccard index of a picture at each threshold of `SCORES`.

    Parameters
    ----------
    boxes_xyxy : ndarray, shape (D, 4)
        Detections, the surest first.
    scores : ndarray, shape (D,)
        Theirs.
    truth_xyxy : ndarray, shape (T, 4)
        Objects.
    regions_xyxy : ndarray, shape (R, 4)
        Ignore regions.

    Returns
    -------
    ndarray, shape (10,)
        Pairs over objects, detections and pairs together; NaN where there is neither object nor detection.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 4, 4], [9, 9, 12, 12]])
    >>> picture_indices(boxes, np.array([0.95, 0.45]), boxes[:1], np.zeros((0, 4)))[[5, 4]].tolist()
    [1.0, 0.5]
    """
    near = np.nonzero(pairwise(ious, boxes_xyxy, truth_xyxy) >= IOU)
    edges: list[list[int]] = [[] for _ in boxes_xyxy]
    for detection, place in zip(*(part.tolist() for part in near), strict=True):
        edges[detection].append(place)
    matched, since = match_most(edges, len(truth_xyxy))
    aside, truth_aside = _mostly_in(boxes_xyxy, regions_xyxy), _mostly_in(truth_xyxy, regions_xyxy)
    counts = np.searchsorted(-scores, -SCORES, side="left")  # detections above each threshold
    pairs = np.append(0, matched.cumsum())[counts]
    detections = counts - np.append(0, (aside & ~matched).cumsum())[counts]
    objects = len(truth_xyxy) - (truth_aside[:, None] & (since[:, None] >= counts)).sum(axis=0)
    together = objects + detections - pairs
    return np.divide(pairs, together, out=np.full(len(SCORES), np.nan), where=together > 0)


def _mostly_in(boxes_xyxy: np.ndarray, regions_xyxy: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4) an ignore region (R, 4) covers by more than half, shape (N,).

    Examples
    --------
    >>> _mostly_in(np.array([[0.0, 0, 4, 4], [0, 0, 2, 2]]), np.array([[0.0, 0, 3, 2]])).tolist()
    [False, True]
    """
    return np.any(pairwise(covered_shares, boxes_xyxy, regions_xyxy) > IOU, axis=1)


def jaccard_index(true: TrueBoxes, found: FoundBoxes, label: int) -> tuple[float, float]:
    """JI: the mean over pictures of pairs / (pairs + missed + false), at the best of the thresholds 0, 0.1, ... 0.9.

    Parameters
    ----------
    true, found : TrueBoxes, FoundBoxes
        Objects and detections of the same pictures.
    label : int
        The class.

    Returns
    -------
    index : float
        0 to 1; NaN without objects. Pairs are as many as can be at IoUs from 0.5 on, the surest detections first.
    score : float
        The threshold, above which detections count; of several the highest.

    References
    ----------
    Shao et al., 2018 (arXiv:1805.00123). Pictures without object and detection are left out of the mean.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 4, 4], [9, 9, 12, 12]])
    >>> true = TrueBoxes(np.zeros(1, int), boxes[:1], np.zeros(1, int), np.array([False]))
    >>> jaccard_index(true, FoundBoxes(np.zeros(2, int), boxes, np.zeros(2, int), np.array([0.95, 0.45])), 0)
    (1.0, 0.9)
    """
    objects, detections = true.take(true.rows(label)), found.take(found.rows(label))
    if objects.is_crowd.all():
        return math.nan, math.nan
    sums, counted = np.zeros(len(SCORES)), np.zeros(len(SCORES), int)
    for rows, places in by_picture(objects, detections):
        truth, crowd = objects.boxes_xyxy[rows], objects.is_crowd[rows]
        of_picture = picture_indices(
            detections.boxes_xyxy[places], detections.scores[places], truth[~crowd], truth[crowd]
        )
        sums += np.nan_to_num(of_picture)
        counted += np.isfinite(of_picture)
    means = np.divide(sums, counted, out=np.full(len(SCORES), np.nan), where=counted > 0)
    best = int(np.flatnonzero(means == np.nanmax(means))[-1])
    return float(means[best]), float(SCORES[best])
