"""Poses of a picture: labelled and predicted animals, how large they are, and who is who.

The size of an animal is the square root of its area, for OKS as COCO has it and for PCK relative to size. Where the
data give no area, it is 0.53 times that of the box, the share of its box that a person of COCO fills on average. Where
there is no box either, it is that of the tight box of the labelled points, whose shorter side counts as a quarter of
the longer one at least, lest an animal that lies along an axis have no size. A single point gives no size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from utils.geometry.crops import tight_box

AREA_OF_BOX = 0.53
_THINNEST = 0.25  # shorter side of a box of points, at least, as a share of the longer one


class TruthPose(NamedTuple):
    """A labelled animal in pixels of the picture.

    Parameters
    ----------
    keypoints : ndarray, shape (K, 3)
        x, y and v: 0 not labelled (x and y are not read), 1 occluded, 2 visible.
    box_xyxy : ndarray, shape (4,), or None
        Its box.
    area : float, optional
        Its area in square pixels; what is not above 0 is taken as unknown.
    is_crowd : bool
        Whether it stands for a group: no score of its own, and predictions on it are no false positives.

    Examples
    --------
    >>> TruthPose(np.zeros((2, 3))).is_crowd
    False
    """

    keypoints: np.ndarray
    box_xyxy: np.ndarray | None = None
    area: float | None = None
    is_crowd: bool = False


class PredictedPose(NamedTuple):
    """A predicted animal in pixels of the picture.

    Parameters
    ----------
    keypoints : ndarray, shape (K, 3)
        x, y and score; x and y are NaN where the point was not found or its score was too low.
    score : float
        Confidence of the whole, by which AP ranks.

    Examples
    --------
    >>> PredictedPose(np.zeros((2, 3)), score=0.5).score
    0.5
    """

    keypoints: np.ndarray
    score: float


# --- size ------------------------------------------------------------------------------------------------------------


def labelled_points(keypoints: np.ndarray) -> np.ndarray:
    """Take the points of a truth that are labelled.

    Parameters
    ----------
    keypoints : ndarray, shape (K, 3)
        x, y, v.

    Returns
    -------
    ndarray, shape (labelled points, 2)
        x and y of those with v above 0.

    Examples
    --------
    >>> labelled_points(np.array([[1.0, 2, 1], [np.nan, np.nan, 0], [3, 4, 2]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    return keypoints[keypoints[:, 2] > 0, :2]


def box_sides(box_xyxy: np.ndarray | None) -> tuple[float, float]:
    """Take width and height of a box.

    Parameters
    ----------
    box_xyxy : ndarray, shape (4,), or None
        The box.

    Returns
    -------
    (float, float)
        Width and height in pixels; zeros when there is no box, or it is inside out.

    Examples
    --------
    >>> box_sides(np.array([1.0, 2, 4, 6])), box_sides(np.array([4.0, 2, 1, 6])), box_sides(None)
    ((3.0, 4.0), (0.0, 0.0), (0.0, 0.0))
    """
    if box_xyxy is None:
        return 0.0, 0.0
    width, height = (float(side) for side in np.asarray(box_xyxy)[2:] - np.asarray(box_xyxy)[:2])
    return (width, height) if width >= 0 and height >= 0 else (0.0, 0.0)  # NaN fails too


def pose_area(pose: TruthPose) -> tuple[float, str]:
    """Area of a labelled animal, and what it was taken from; see the head of this module.

    Parameters
    ----------
    pose : TruthPose
        The animal.

    Returns
    -------
    area : float
        In square pixels; NaN when it cannot be told.
    source : str
        "area", "box", "keypoints" or "unknown".

    Examples
    --------
    >>> keypoints = np.array([[0.0, 0, 2], [40, 0, 2], [np.nan, np.nan, 0]])
    >>> pose_area(TruthPose(keypoints))  # flat: 40 x 10
    (400.0, 'keypoints')
    >>> pose_area(TruthPose(keypoints, np.array([0.0, 0, 40, 50]))), pose_area(TruthPose(keypoints[:1]))
    ((1060.0, 'box'), (nan, 'unknown'))
    >>> pose_area(TruthPose(keypoints, np.array([0.0, 0, 40, 50]), area=900))
    (900.0, 'area')
    """
    if pose.area is not None and pose.area > 0:
        return float(pose.area), "area"
    width, height = box_sides(pose.box_xyxy)
    if width * height > 0:
        return AREA_OF_BOX * (width * height), "box"
    shorter, longer = sorted(box_sides(tight_box(labelled_points(pose.keypoints))))
    return (max(shorter, _THINNEST * longer) * longer, "keypoints") if longer > 0 else (math.nan, "unknown")


def pose_diagonal(pose: TruthPose) -> float:
    """Diagonal of an animal's box, or of the tight box of its labelled points; NaN for a single point.

    Parameters
    ----------
    pose : TruthPose
        The animal.

    Returns
    -------
    float
        In pixels.

    Examples
    --------
    >>> pose_diagonal(TruthPose(np.array([[0.0, 0, 2], [3, 4, 1]]))), pose_diagonal(TruthPose(np.zeros((2, 3))))
    (5.0, nan)
    """
    width, height = box_sides(pose.box_xyxy)
    if width * height == 0:
        width, height = box_sides(tight_box(labelled_points(pose.keypoints)))
    return math.hypot(width, height) or math.nan


def fill_unknown(sizes: np.ndarray) -> np.ndarray:
    """Replace sizes that could not be told by the median of the others.

    Parameters
    ----------
    sizes : ndarray, shape (N,)
        NaN where unknown.

    Returns
    -------
    ndarray, shape (N,)
        All NaN where nothing is known.

    Examples
    --------
    >>> fill_unknown(np.array([4.0, np.nan, 8.0])).tolist(), fill_unknown(np.array([np.nan])).tolist()
    ([4.0, 6.0, 8.0], [nan])
    """
    finite = sizes[~np.isnan(sizes)]
    return np.where(np.isnan(sizes), np.median(finite), sizes) if finite.size else sizes


def is_counted(pose: TruthPose) -> bool:
    """Tell whether a truth is an animal to be found: no crowd, and labelled somewhere.

    Parameters
    ----------
    pose : TruthPose
        The truth.

    Returns
    -------
    bool
        Whether it can be found or missed.

    Examples
    --------
    >>> is_counted(TruthPose(np.array([[1.0, 2, 1]]))), is_counted(TruthPose(np.zeros((1, 3))))
    (True, False)
    """
    return not pose.is_crowd and bool((pose.keypoints[:, 2] > 0).any())


# --- matching --------------------------------------------------------------------------------------------------------


def stack_poses(arrays: Sequence[np.ndarray], num_keypoints: int) -> np.ndarray:
    """Stack poses, of which there may be none.

    Parameters
    ----------
    arrays : sequence of ndarray, shape (K, 3)
        Poses.
    num_keypoints : int
        K.

    Returns
    -------
    ndarray, shape (poses, K, 3)
        The poses.

    Examples
    --------
    >>> stack_poses([], 4).shape, stack_poses([np.zeros((4, 3))] * 2, 4).shape
    ((0, 4, 3), (2, 4, 3))
    """
    return np.stack(arrays) if len(arrays) else np.zeros((0, num_keypoints, 3))


def _matching_costs(distances: np.ndarray, labelled: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Cost of each pair of a truth and a prediction: the mean distance over the labelled points, each capped.

    A point farther off than the animal is large, or not predicted at all, costs the animal's size. Else one truth that
    nobody found could pull the right predictions away from all others. Beyond the cap distance decides by a trifle.

    Parameters
    ----------
    distances : ndarray, shape (T, P, K)
        NaN where a point was not predicted.
    labelled : ndarray of bool, shape (T, K)
        Points of the truths that are known.
    caps : ndarray, shape (T,)
        Sizes of the truths.

    Returns
    -------
    ndarray, shape (T, P)
        Infinite for pairs without a point in common.

    Examples
    --------
    >>> distances = np.array([[[1.0, 3.0], [900.0, np.nan], [np.nan, np.nan]]])
    >>> _matching_costs(distances, np.array([[True, True]]), np.array([10.0])).round(2).tolist()
    [[2.0, 10.0, inf]]
    """
    common = labelled[:, None] & ~np.isnan(distances)
    compared = np.where(common, distances, 0.0)
    capped = np.where(common, np.minimum(compared, caps[:, None, None]), labelled[:, None] * caps[:, None, None])
    count = np.maximum(labelled.sum(axis=1), 1)[:, None]
    costs = (capped.sum(axis=-1) + 1e-6 * compared.sum(axis=-1)) / count
    return np.where(common.any(axis=-1), costs, np.inf)


def _assign(costs: np.ndarray) -> list[int]:
    """Column of each row at the least total cost, with as many pairs as can be; -1 for a row that gets none.

    `costs` has shape (rows, columns); infinite where two may not be a pair.

    Examples
    --------
    >>> _assign(np.array([[1.0, 2.0], [1.5, 9.0], [np.inf, np.inf]])), _assign(np.array([[np.inf, 5.0]]))
    ([1, 0, -1], [1])
    """
    possible = np.isfinite(costs)
    dearest = costs[possible].max() if possible.any() else 0.0
    forbidden = (dearest + 1.0) * (min(costs.shape) + 1)  # dearer than any choice without it
    matches = [-1] * len(costs)
    for row, column in zip(*linear_sum_assignment(np.where(possible, costs, forbidden)), strict=True):
        matches[row] = int(column) if possible[row, column] else -1
    return matches


def match_poses(truth: Sequence[TruthPose], predictions: Sequence[PredictedPose]) -> list[int]:
    """Match the animals of a picture one to one, so that the mean distance of their labelled points is least.

    Parameters
    ----------
    truth : sequence of TruthPose
        Labelled animals. Crowds and those without a labelled point stay alone.
    predictions : sequence of PredictedPose
        Predicted ones; their scores play no part.

    Returns
    -------
    list of int
        For each truth the index of its prediction, or -1. There is no limit of distance: a single truth and a single
        prediction with a point in common are always a pair.

    Examples
    --------
    >>> left, right = np.array([[0.0, 0, 2], [10, 0, 2]]), np.array([[100.0, 0, 2], [110, 0, 2]])
    >>> predictions = [PredictedPose(right + 1, 0.9), PredictedPose(left + 1, 0.8)]
    >>> match_poses([TruthPose(left), TruthPose(right), TruthPose(right + 50)], predictions)
    [1, 0, -1]
    """
    if not truth or not predictions:
        return [-1] * len(truth)
    num_keypoints = len(truth[0].keypoints)
    true = stack_poses([pose.keypoints for pose in truth], num_keypoints)
    predicted = stack_poses([pose.keypoints for pose in predictions], num_keypoints)
    labelled = (true[..., 2] > 0) & ~np.array([pose.is_crowd for pose in truth])[:, None]
    distances = np.linalg.norm(true[:, None, :, :2] - predicted[None, :, :, :2], axis=-1)
    caps = fill_unknown(np.array([pose_diagonal(pose) for pose in truth]))
    farthest = np.max(distances, initial=1.0, where=~np.isnan(distances))
    return _assign(_matching_costs(distances, labelled, np.where(np.isnan(caps), farthest, caps)))
