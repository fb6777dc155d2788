"""One box for each object: suppression and fusion of candidates, within classes or across them.

Candidates are `boxes_xyxy` (N, 4), `scores` (N,) and, where only boxes of one class compete, `labels` (N,). Those of
the highest score come first; of equal scores the first one. What overlaps by more than `iou` is taken for the same
object. Times are those of 3,000 candidates on one core.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from utils.boxes.geometry import distance_ious, ious, pairwise

Method = Literal["nms", "soft", "vote", "cluster", "none"]

_BLOCK = 256  # candidates that are compared with each other at a time; larger matrices leave the cache
_FADED = 1e-3  # score below which soft suppression drops a candidate


def _checked(boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Candidates as arrays in double precision; one class where there are no labels.

    Takes arrays of shape (N, 4), (N,) and (N,).

    Raises
    ------
    ValueError
        If the rows do not correspond, or a number is not finite.

    Examples
    --------
    >>> [part.shape for part in _checked(np.zeros((0, 4)), np.zeros(0), None)]
    [(0, 4), (0,), (0,)]
    >>> _checked(np.zeros((1, 4)), np.array([np.nan]), None)
    Traceback (most recent call last):
        ...
    ValueError: candidate 0 is not finite: box [0.0, 0.0, 0.0, 0.0], score nan
    """
    boxes, marks = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
    classes = np.zeros(len(boxes), np.int64) if labels is None else np.asarray(labels)
    if not len(boxes) == len(marks) == len(classes):
        raise ValueError(f"expected a score and a label per box, got {len(boxes)}, {len(marks)} and {len(classes)}")
    broken = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & np.isfinite(marks)))
    if broken.size:
        first = int(broken[0])
        raise ValueError(f"candidate {first} is not finite: box {boxes[first].tolist()}, score {marks[first]}")
    return boxes, marks, classes


def nms(
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    iou: float = 0.5,
    distance: bool = False,
    most: int | None = None,
) -> np.ndarray:
    """Keep each candidate that overlaps no kept one of a higher score: 10 to 60 ms.

    Parameters
    ----------
    boxes_xyxy : ndarray, shape (N, 4)
        Candidates.
    scores : ndarray, shape (N,)
        Theirs.
    labels : ndarray of int, shape (N,), optional
        Classes; only boxes of one class compete. Without them all do.
    iou : float
        Overlap above which a candidate is dropped.
    distance : bool
        Take the distance of the centres off the overlap (DIoU): two people of one size side by side stay two.
    most : int, optional
        Stop when so many are kept.

    Returns
    -------
    ndarray of int
        Indices of the kept ones, the highest score first.

    Raises
    ------
    ValueError
        If the arrays do not correspond or are not finite.

    References
    ----------
    Cluster-NMS (Zheng et al., 2021, arXiv:2005.03572) keeps the same boxes, as its authors prove.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 4, 4], [0, 0, 4, 5], [8, 0, 9, 1]])
    >>> nms(boxes, np.array([0.5, 0.75, 0.25])).tolist()
    [1, 2]
    >>> nms(boxes, np.array([0.5, 0.75, 0.25]), np.array([0, 1, 1])).tolist()  # of two classes
    [1, 0, 2]
    """
    boxes, marks, classes = _checked(boxes_xyxy, scores, labels)
    measure = distance_ious if distance else ious
    order = np.argsort(-marks, kind="stable")
    kept: list[np.ndarray] = []
    while order.size and (most is None or sum(map(len, kept)) < most):
        block, order = order[:_BLOCK], order[_BLOCK:]
        survivors = block[_survivors(pairwise(measure, boxes[block], boxes[block]), classes[block], iou)]
        kept.append(survivors)
        if order.size:
            overlaps = pairwise(measure, boxes[order], boxes[survivors]) > iou
            order = order[~(overlaps & (classes[order, None] == classes[survivors])).any(axis=1)]
    return np.concatenate([np.zeros(0, np.int64), *kept])[:most]


def _survivors(overlaps: np.ndarray, classes: np.ndarray, iou: float) -> np.ndarray:
    """Which candidates of a block stay when they come one after the other; overlaps (N, N), classes (N,).

    Examples
    --------
    >>> overlaps = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.6], [0.0, 0.6, 1.0]])
    >>> _survivors(overlaps, np.zeros(3), 0.5).tolist()  # the second falls, and what it would have hidden stays
    [True, False, True]
    """
    hides = (overlaps > iou) & (classes[:, None] == classes)
    alive = np.ones(len(classes), bool)
    for row in np.flatnonzero(np.triu(hides, 1).any(axis=1)):
        if alive[row]:
            alive[row + 1 :] &= ~hides[row, row + 1 :]
    return alive


def soft_nms(
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    method: Literal["gaussian", "linear"] = "gaussian",
    iou: float = 0.5,
    sigma: float = 0.5,
    min_score: float = _FADED,
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower the score of each candidate by its overlap with those before it: 30 to 150 ms.

    Parameters
    ----------
    boxes_xyxy, scores, labels : ndarray, shape (N, 4), (N,) and (N,)
        As for `nms`.
    method : "gaussian" or "linear"
        A factor of exp(-overlap^2 / sigma) for every overlap, or of 1 - overlap for those above `iou`.
    iou : float
        Of the linear method.
    sigma : float
        Of the gaussian one.
    min_score : float
        Candidates whose score has sunk below it are dropped.
    most : int, optional
        Stop when so many are kept.

    Returns
    -------
    indices : ndarray of int, shape (M,)
        The highest new score first.
    scores : ndarray, shape (M,)
        The new scores.

    Raises
    ------
    ValueError
        If the arrays do not correspond or are not finite.

    References
    ----------
    Bodla et al., 2017 (arXiv:1704.04503).

    Examples
    --------
    >>> boxes, scores = np.array([[0.0, 0, 4, 4], [0, 1, 4, 4], [8, 0, 9, 1]]), np.array([0.5, 0.5, 0.25])
    >>> [part.tolist() for part in soft_nms(boxes, scores, method="linear")]  # they overlap by 3/4
    [[0, 2, 1], [0.5, 0.25, 0.125]]
    """
    boxes, marks, classes = _checked(boxes_xyxy, scores, labels)
    left = np.flatnonzero(marks >= min_score)
    marks = marks.copy()
    kept: list[int] = []
    while left.size and (most is None or len(kept) < most):
        best = left[np.argmax(marks[left])]
        kept.append(int(best))
        left = left[left != best]
        overlaps = np.where(classes[left] == classes[best], ious(boxes[left], boxes[best]), 0.0)
        if method == "gaussian":
            marks[left] *= np.exp(-(overlaps**2) / sigma)
        else:
            marks[left] *= np.where(overlaps > iou, 1 - overlaps, 1.0)
        left = left[marks[left] >= min_score]
    indices = np.array(kept, np.int64)
    return indices, marks[indices]


def vote_boxes(
    kept: np.ndarray, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray | None = None, iou: float = 0.5
) -> np.ndarray:
    """Move each kept box to the mean of the candidates that overlap it, weighted by score and overlap: 5 to 60 ms.

    Parameters
    ----------
    kept : ndarray of int, shape (M,)
        Indices of the kept candidates.
    boxes_xyxy, scores, labels : ndarray, shape (N, 4), (N,) and (N,)
        All candidates, as for `nms`.
    iou : float
        Overlap from which a candidate of the same class votes.

    Returns
    -------
    ndarray, shape (M, 4)
        The moved boxes.

    Raises
    ------
    ValueError
        If the arrays do not correspond or are not finite.

    References
    ----------
    Gidaris and Komodakis, 2015 (arXiv:1505.01749), section 4; weighted by the overlap too, as in Cluster-NMS.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 2, 4, 4], [9, 9, 10, 10]])
    >>> vote_boxes(np.array([0]), boxes, np.array([0.5, 0.25, 0.5, 0.5])).tolist()  # weights 1/2, 1/4, 1/4
    [[0.0, 0.5, 4.0, 4.0]]
    """
    boxes, marks, classes = _checked(boxes_xyxy, scores, labels)
    moved = [np.zeros((0, 4))]
    for start in range(0, len(kept), _BLOCK):
        chosen = kept[start : start + _BLOCK]
        overlaps = pairwise(ious, boxes[chosen], boxes)
        votes = (overlaps >= iou) & (classes[chosen, None] == classes)
        weights = np.where(votes, overlaps * marks, 0.0)
        sums = weights.sum(axis=1, keepdims=True)
        means = weights @ boxes / np.where(sums > 0, sums, 1.0)
        moved.append(np.where(sums > 0, means, boxes[chosen]))  # a box without area or score has no votes
    return np.concatenate(moved)


def fuse_boxes(
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    iou: float = 0.55,
    sources: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted box fusion: candidates of several models or views join into means, surer where more agree: 0.1 to 0.3 s.

    Parameters
    ----------
    boxes_xyxy, scores, labels : ndarray, shape (N, 4), (N,) and (N,)
        Candidates of all sources together, each source without doubles.
    iou : float
        Overlap with the mean of a group above which a candidate joins it.
    sources : int
        Models or views that could have found an object. A group's score is its mean score, lowered by the share of
        sources that found nothing.

    Returns
    -------
    boxes_xyxy : ndarray, shape (M, 4)
        Means, weighted by score; the highest score first.
    scores : ndarray, shape (M,)
        Their scores.
    labels : ndarray of int, shape (M,)
        Their classes; zeros without labels.

    Raises
    ------
    ValueError
        If the arrays do not correspond or are not finite, or there is no source.

    References
    ----------
    Solovyev et al., 2021 (arXiv:1910.13302).

    Examples
    --------
    >>> boxes, scores = np.array([[0.0, 0, 4, 4], [0, 1, 4, 4], [8, 0, 9, 1]]), np.array([0.75, 0.25, 0.5])
    >>> [part.tolist() for part in fuse_boxes(boxes, scores, sources=2)]
    [[[0.0, 0.25, 4.0, 4.0], [8.0, 0.0, 9.0, 1.0]], [0.5, 0.25], [0, 0]]
    """
    if sources < 1:
        raise ValueError(f"sources: expected a number above 0, got {sources}")
    boxes, marks, classes = _checked(boxes_xyxy, scores, labels)
    means, group_classes = np.zeros_like(boxes), np.zeros(len(boxes), classes.dtype)
    sums, weights, sizes = np.zeros_like(boxes), np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    groups = 0
    for index in np.argsort(-marks, kind="stable"):
        overlaps = np.where(group_classes[:groups] == classes[index], ious(means[:groups], boxes[index]), 0.0)
        group = int(overlaps.argmax()) if groups and overlaps.max() > iou else groups
        if group == groups:
            group_classes[group], groups = classes[index], groups + 1
        sums[group] += marks[index] * boxes[index]
        weights[group] += marks[index]
        sizes[group] += 1
        means[group] = sums[group] / weights[group] if weights[group] > 0 else boxes[index]
    fused = weights[:groups] / sizes[:groups] * np.minimum(sizes[:groups], sources) / sources
    order = np.argsort(-fused, kind="stable")
    return means[:groups][order], fused[order], group_classes[:groups][order]


def merge_candidates(
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    method: Method = "nms",
    iou: float = 0.5,
    most: int | None = None,
    across: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make of the candidates of a picture its detections.

    Parameters
    ----------
    boxes_xyxy : ndarray, shape (N, 4)
        Candidates of all windows and views, in pixels of the picture.
    scores : ndarray, shape (N,)
        Theirs.
    labels : ndarray of int, shape (N,)
        Their classes.
    method : str
        "nms"; "soft": gaussian soft suppression; "vote": NMS, and kept boxes move to the mean of what overlaps them;
        "cluster": the same with suppression by DIoU; "none": only sorted, for heads that give each object once.
    iou : float
        Overlap above which two are one; by "soft" it is taken as its sigma, and "none" has no use for it.
    most : int, optional
        Detections that are kept at most.
    across : bool
        Whether boxes of different classes compete, too.

    Returns
    -------
    boxes_xyxy, scores, labels : ndarray
        The detections, the highest score first, in the types that came.

    Raises
    ------
    ValueError
        If the arrays do not correspond or are not finite, or the method is unknown.

    Examples
    --------
    >>> boxes, scores = np.array([[0.0, 0, 4, 4], [0, 1, 4, 4], [8, 0, 9, 1]]), np.array([0.25, 0.5, 0.75])
    >>> [part.tolist() for part in merge_candidates(boxes, scores, np.array([1, 1, 0]))]
    [[[8.0, 0.0, 9.0, 1.0], [0.0, 1.0, 4.0, 4.0]], [0.75, 0.5], [0, 1]]
    """
    classes = None if across else labels
    if method == "none":
        kept = np.argsort(-_checked(boxes_xyxy, scores, labels)[1], kind="stable")[:most]
    elif method == "soft":
        kept, faded = soft_nms(boxes_xyxy, scores, classes, sigma=iou, most=most)
        return boxes_xyxy[kept], faded.astype(scores.dtype), labels[kept]
    elif method in ("nms", "vote", "cluster"):
        kept = nms(boxes_xyxy, scores, classes, iou, distance=method == "cluster", most=most)
    else:
        raise ValueError(f"unknown method of suppression {method!r}; known: nms, soft, vote, cluster, none")
    if method in ("vote", "cluster"):
        voted = vote_boxes(kept, boxes_xyxy, scores, classes, iou)
        return voted.astype(boxes_xyxy.dtype), scores[kept], labels[kept]
    return boxes_xyxy[kept], scores[kept], labels[kept]
