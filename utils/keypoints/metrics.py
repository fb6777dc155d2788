"""How near predicted poses come to true ones: pixel errors, PCK, left/right swaps, and OKS as COCO defines it.

Two views of the same predictions. The pixel scores match every true animal with at most one prediction and measure its
points; surplus predictions do not count there. AP and AR go by OKS and confidence, and count false positives.

PCK is the share of labelled points whose error is within a threshold. A labelled point without a predicted one is
missed: wrong for PCK, left out of the mean and median error, and counted. "mean_error_all_px" is the mean over every
labelled point: one that was missed counts as far away as its animal is large. Points with v = 0 never count.

`utils/keypoints/matching.py` gives the size of an animal and the prediction that belongs to it. An animal of unknown
size is taken to be as large as the median animal of the set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np

from utils.keypoints.matching import (
    PredictedPose,
    TruthPose,
    fill_unknown,
    is_counted,
    labelled_points,
    match_poses,
    pose_area,
    stack_poses,
)
from utils.keypoints.oks import DEFAULT_SIGMA, oks_scores, resolve_sigmas
from utils.metrics import nan_to_none

PCK_PX = (2, 4, 8, 16)
PCK_WEIGHTS = (1, 1, 2, 2)  # of "weighted_PCK"
PCK_SIZES = (0.05, 0.1, 0.2)  # shares of the animal's size
HISTOGRAM_EDGES_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0, math.inf)


# --- scores ----------------------------------------------------------------------------------------------------------


def _share(part: float, whole: float) -> float:
    """Divide; NaN when there is nothing to divide by.

    Examples
    --------
    >>> _share(1, 4), _share(0, 0)
    (0.25, nan)
    """
    return float(part) / float(whole) if whole else math.nan


def _summarise(errors: np.ndarray, sizes: np.ndarray, more_px: Sequence[float] = ()) -> dict[str, Any]:
    """Scores of labelled points.

    Parameters
    ----------
    errors : ndarray, shape (N,)
        Pixels; NaN for a point that was missed.
    sizes : ndarray, shape (N,)
        Pixels, of the animals; NaN where unknown.
    more_px : sequence of float
        Thresholds beside those of `PCK_PX`.

    Returns
    -------
    dict
        One row of the table of `PoseScores.compute`.

    Examples
    --------
    >>> row = _summarise(np.array([1.0, 3.0, 8.0, np.nan]), np.array([10.0, 10.0, 200.0, 10.0]))
    >>> [row[name] for name in ("labelled", "missed", "mean_error_px", "median_error_px", "PCK@2px", "PCK@8px")]
    [4, 1, 4.0, 3.0, 0.25, 0.75]
    >>> row["PCK@0.1size"], row["weighted_PCK"]  # (0.25 + 0.5 + 2 * 0.75 + 2 * 0.75) / 6
    (0.5, 0.625)
    >>> row["mean_error_all_px"]  # (1 + 3 + 8 + 10) / 4
    5.5
    """
    found = errors[~np.isnan(errors)]
    shares = [_share((found <= limit).sum(), len(errors)) for limit in PCK_PX]
    sized = ~np.isnan(sizes)
    relative = errors[sized] / sizes[sized]
    row = {
        "labelled": len(errors),
        "missed": len(errors) - len(found),
        "mean_error_px": float(found.mean()) if found.size else math.nan,
        "median_error_px": float(np.median(found)) if found.size else math.nan,
        "mean_error_all_px": _mean_of_all(errors, sizes),
        "weighted_PCK": float(np.dot(PCK_WEIGHTS, shares)) / sum(PCK_WEIGHTS),
    }
    row |= {f"PCK@{limit}px": share for limit, share in zip(PCK_PX, shares, strict=True)}
    row |= {f"PCK@{limit:g}px": _share((found <= limit).sum(), len(errors)) for limit in more_px}
    return row | {f"PCK@{limit:g}size": _share((relative <= limit).sum(), sized.sum()) for limit in PCK_SIZES}


def _mean_of_all(errors: np.ndarray, sizes: np.ndarray) -> float:
    """Mean error of labelled points; a missed one counts with the size of its animal, or at least the largest error.

    Parameters
    ----------
    errors, sizes : ndarray, shape (N,)
        As for `_summarise`.

    Returns
    -------
    float
        In pixels; NaN where there is no point, or nothing by which a missed one could count.

    Examples
    --------
    >>> errors = np.array([2.0, np.nan])
    >>> _mean_of_all(errors, np.array([10.0, 10.0])), _mean_of_all(errors, np.array([np.nan, np.nan]))
    (6.0, 2.0)
    """
    if not errors.size:
        return math.nan
    largest = np.nanmax(errors) if np.isfinite(errors).any() else math.nan
    far = np.fmax(sizes, largest)  # not nearer than a point that was found
    return float(np.where(np.isnan(errors), far, errors).mean())


def error_histogram(errors: np.ndarray) -> list[int]:
    """Count errors in the bins of `HISTOGRAM_EDGES_PX`.

    Parameters
    ----------
    errors : ndarray, any shape
        Pixels; NaN does not count. An error on an edge belongs to the bin below, so that the sum of the bins up to a
        threshold of PCK counts what PCK counts.

    Returns
    -------
    list of int
        One count per bin; the last one has no end.

    Examples
    --------
    >>> error_histogram(np.array([0.0, 0.5, 0.6, 500.0, np.nan]))
    [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    """
    bins = np.searchsorted(HISTOGRAM_EDGES_PX[1:], errors[~np.isnan(errors)], side="left")
    return np.bincount(bins, minlength=len(HISTOGRAM_EDGES_PX) - 1).tolist()


def count_swaps(
    truth: np.ndarray, predicted: np.ndarray, counted: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Count animals whose left and right points lie nearer to each other's truth than to their own.

    Parameters
    ----------
    truth : ndarray, shape (N, K, 2)
        True points of the animals.
    predicted : ndarray, shape (N, K, 2)
        Theirs as predicted; NaN where missing.
    counted : ndarray of bool, shape (N, K)
        Points that are labelled.
    pairs : sequence of (int, int)
        Left and right, from `swap_pairs`.

    Returns
    -------
    ndarray of int, shape (pairs, 2)
        Swapped, and comparable: both points labelled and both predicted.

    Examples
    --------
    >>> truth = np.array([[[0.0, 0], [10, 0]]]).repeat(3, axis=0)
    >>> predicted = truth.copy()
    >>> predicted[0] = truth[0, ::-1]
    >>> predicted[1, 0] = np.nan
    >>> count_swaps(truth, predicted, np.ones((3, 2), bool), [(0, 1)]).tolist()
    [[1, 2]]
    """
    left, right = np.array(pairs, int).reshape(-1, 2).T
    both = np.stack([left, right])
    straight = np.linalg.norm(truth[:, both] - predicted[:, both], axis=-1).sum(axis=1)
    crossed = np.linalg.norm(truth[:, both] - predicted[:, both[::-1]], axis=-1).sum(axis=1)
    comparable = counted[:, left] & counted[:, right] & ~np.isnan(straight)
    return np.stack([(comparable & (crossed < straight)).sum(axis=0), comparable.sum(axis=0)], axis=-1)


# --- state -----------------------------------------------------------------------------------------------------------


def _plain_rows(values: Any) -> list[Any]:
    """Numbers as nested lists for JSON, None for NaN.

    Examples
    --------
    >>> _plain_rows(np.array([[1.5, np.nan, 0.0]], np.float32))
    [[1.5, None, 0.0]]
    """
    return nan_to_none(np.asarray(values, float).tolist())


def _write_truth(pose: TruthPose) -> dict[str, Any]:
    """A truth as JSON takes it.

    Examples
    --------
    >>> _write_truth(TruthPose(np.array([[1.0, 2, 2]]), np.array([0, 0, 4, 4])))
    {'keypoints': [[1.0, 2.0, 2.0]], 'box_xyxy': [0.0, 0.0, 4.0, 4.0], 'area': None, 'is_crowd': False}
    """
    return {
        "keypoints": _plain_rows(pose.keypoints),
        "box_xyxy": None if pose.box_xyxy is None else _plain_rows(pose.box_xyxy),
        "area": None if pose.area is None else float(pose.area),
        "is_crowd": bool(pose.is_crowd),
    }


def _read_truth(item: Mapping[str, Any]) -> TruthPose:
    """A truth from what `_write_truth` made of it.

    Examples
    --------
    >>> _read_truth(_write_truth(TruthPose(np.array([[np.nan, 2, 0]]), area=4.0)))
    TruthPose(keypoints=array([[nan,  2.,  0.]]), box_xyxy=None, area=4.0, is_crowd=False)
    """
    box = None if item["box_xyxy"] is None else np.array(item["box_xyxy"], float)
    return TruthPose(np.array(item["keypoints"], float), box, item["area"], item["is_crowd"])


def _with_areas(truths: Sequence[Sequence[TruthPose]]) -> tuple[list[list[TruthPose]], dict[str, int]]:
    """Give every truth an area; one that cannot be told becomes the median of the set.

    Returns
    -------
    truths : list of lists of TruthPose
        With areas; NaN only where no truth of the set has one.
    sources : dict
        How many areas came from where, crowds and truths without labelled points left out.

    Examples
    --------
    >>> single, sized = TruthPose(np.array([[1.0, 2, 2]])), TruthPose(np.array([[1.0, 2, 2]]), area=9.0)
    >>> truths, sources = _with_areas([[single], [], [sized, sized]])
    >>> truths[0][0].area, sources
    (9.0, {'area': 2, 'box': 0, 'keypoints': 0, 'unknown': 1})
    """
    sizes = [pose_area(pose) for pose in chain(*truths)]
    areas = iter(fill_unknown(np.array([area for area, _ in sizes])).tolist())
    sources = dict.fromkeys(("area", "box", "keypoints", "unknown"), 0)
    for pose, (_, source) in zip(chain(*truths), sizes, strict=True):
        sources[source] += is_counted(pose)
    return [[pose._replace(area=next(areas)) for pose in of_picture] for of_picture in truths], sources


class PoseScores:
    """Compare predicted with true poses, picture by picture.

    Parameters
    ----------
    num_keypoints : int
        K.
    flip_idx : sequence of int, optional
        For each keypoint the one that a mirror turns it into; without it there is no swap rate.
    sigmas : float, sequence of float, or "coco"
        Tolerances of OKS, see `resolve_sigmas`.
    more_px : sequence of float
        Thresholds of PCK in pixels beside 2, 4, 8 and 16.

    Raises
    ------
    SettingsError
        If the sigmas do not fit.
    ValueError
        If `flip_idx` does not fit.

    Examples
    --------
    >>> scores = PoseScores(num_keypoints=2)
    >>> truth = np.array([[10.0, 20, 2], [50, 20, 2]])
    >>> scores.update([(truth, None, 1600.0, False)], [(truth + [[3, 4, 0], [0, 1, 0]], 0.9)], "img0001")
    >>> result = scores.compute()
    >>> result["mean_error_px"], result["PCK@4px"], result["PCK@0.1size"], result["per_keypoint"]["PCK@4px"]
    (3.0, 0.5, 0.5, [0.0, 1.0])
    """

    def __init__(
        self,
        num_keypoints: int,
        flip_idx: Sequence[int] | None = None,
        sigmas: float | Sequence[float] | Literal["coco"] = DEFAULT_SIGMA,
        more_px: Sequence[float] = (),
    ):
        flip = list(range(num_keypoints) if flip_idx is None else flip_idx)
        if len(flip) != num_keypoints:
            raise ValueError(f"flip_idx: expected {num_keypoints} indices, got {len(flip)}")
        if any(not 0 <= other < len(flip) or flip[other] != index for index, other in enumerate(flip)):
            raise ValueError(f"flip_idx: mirroring twice must restore the order, got {flip}")
        self.num_keypoints = num_keypoints
        self.pairs = [(index, other) for index, other in enumerate(flip) if index < other]
        self.sigmas = resolve_sigmas(sigmas, num_keypoints)
        self.more_px = tuple(more_px)
        self._pictures: dict[str, Any] = {}

    def update(self, truth: Sequence[tuple], predictions: Sequence[tuple], picture_id: str) -> None:
        """Add a picture.

        Parameters
        ----------
        truth : sequence of TruthPose, or (keypoints, box_xyxy, area, is_crowd)
            Its labelled animals; there may be none.
        predictions : sequence of PredictedPose, or (keypoints, score)
            Its predicted animals, in pixels of the original picture; there may be none.
        picture_id : str
            Its name; each picture comes once.

        Raises
        ------
        ValueError
            If the picture came before, a pose does not have K rows of three, a labelled point is nowhere, or a score is
            not finite.

        Examples
        --------
        >>> scores = PoseScores(1)
        >>> scores.update([], [([[1.0, 2.0, 0.5]], 0.5)], "img0001")
        >>> scores.update([([[float("nan"), 2.0, 2]], None, None, False)], [], "img0002")
        Traceback (most recent call last):
            ...
        ValueError: picture 'img0002': a labelled point of truth 0 has no place: [[nan, nan, 2.0]]
        """
        self._refuse_twice([picture_id])
        true = [TruthPose(self._checked(pose[0], picture_id), *pose[1:]) for pose in truth]
        predicted = [PredictedPose(self._checked(pose[0], picture_id), float(pose[1])) for pose in predictions]
        for index, pose in enumerate(true):
            if not np.isfinite(labelled_points(pose.keypoints)).all():
                rows = pose.keypoints.tolist()
                raise ValueError(f"picture {picture_id!r}: a labelled point of truth {index} has no place: {rows}")
        for index, (_, score) in enumerate(predicted):
            if not math.isfinite(score):
                raise ValueError(f"picture {picture_id!r}: prediction {index} has the score {score}")
        self._pictures[picture_id] = {
            "truth": [_write_truth(pose) for pose in true],
            "predictions": [{"keypoints": _plain_rows(pose.keypoints), "score": pose.score} for pose in predicted],
            "matches": match_poses(true, predicted),
        }

    def _checked(self, keypoints: Any, picture_id: str) -> np.ndarray:
        """A pose as an array, if it has the right shape; infinite places become NaN.

        Raises
        ------
        ValueError
            If the pose has another shape.

        Examples
        --------
        >>> PoseScores(2)._checked(np.zeros((3, 3)), "a")
        Traceback (most recent call last):
            ...
        ValueError: picture 'a': expected a pose of shape (2, 3), got (3, 3)
        """
        pose = np.array(keypoints, float)
        if pose.shape != (self.num_keypoints, 3):
            raise ValueError(
                f"picture {picture_id!r}: expected a pose of shape ({self.num_keypoints}, 3), got {pose.shape}"
            )
        pose[~np.isfinite(pose[:, :2]).all(axis=1), :2] = np.nan
        return pose

    def _refuse_twice(self, picture_ids: Iterable[str]) -> None:
        """Complain about pictures that would count twice.

        Raises
        ------
        ValueError
            If a picture was scored before.

        Examples
        --------
        >>> scores = PoseScores(1)
        >>> scores.update([], [], "a")
        >>> scores._refuse_twice(["b", "a"])
        Traceback (most recent call last):
            ...
        ValueError: picture 'a' was scored before; it would count twice
        """
        for picture_id in picture_ids:
            if picture_id in self._pictures:
                raise ValueError(f"picture {picture_id!r} was scored before; it would count twice")

    def state(self) -> dict[str, Any]:
        """Give all that has been added, in a form that travels between ranks.

        Returns
        -------
        dict
            Plain numbers, lists and dictionaries with text keys; None where a number is missing.

        Examples
        --------
        >>> scores = PoseScores(1)
        >>> scores.update([([[1.0, 2.0, 2]], None, None, False)], [], "a")
        >>> scores.state()["pictures"]["a"]["matches"]
        [-1]
        """
        return {"num_keypoints": self.num_keypoints, "pictures": dict(self._pictures)}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the pictures of another share of the set.

        Parameters
        ----------
        state : mapping
            What `state` gave, on this rank or another. Results do not depend on the order of merging.

        Raises
        ------
        ValueError
            If a picture is already there, or the poses have another number of keypoints.

        Examples
        --------
        >>> scores, other = PoseScores(1), PoseScores(1)
        >>> other.update([([[1.0, 2.0, 2]], None, None, False)], [([[1.0, 5.0, 0.5]], 0.5)], "a")
        >>> scores.merge(other.state())
        >>> scores.compute()["mean_error_px"]
        3.0
        """
        if state["num_keypoints"] != self.num_keypoints:
            raise ValueError(
                f"PoseScores: expected a state of {self.num_keypoints} keypoints, got {state['num_keypoints']}"
            )
        self._refuse_twice(state["pictures"])
        self._pictures |= state["pictures"]

    def truths(self) -> dict[str, list[TruthPose]]:
        """Give the true animals of all pictures that have been added, by name.

        Examples
        --------
        >>> scores = PoseScores(1)
        >>> scores.update([([[1.0, 2.0, 2]], None, None, False)], [], "a")
        >>> scores.truths()["a"][0].keypoints.tolist()
        [[1.0, 2.0, 2.0]]
        """
        return {name: [_read_truth(item) for item in self._pictures[name]["truth"]] for name in sorted(self._pictures)}

    def compute(self) -> dict[str, Any]:
        """Take the scores of all pictures.

        Returns
        -------
        dict
            "mean_error_px", "median_error_px", "mean_error_all_px";
            "PCK@2px" ... "PCK@16px" and "PCK@0.05size" ... "PCK@0.2size", each over all labelled points;
            "weighted_PCK", their mean at 2, 4, 8 and 16 pixels with weights 1, 1, 2, 2;
            "mPCK@2px" ... "mPCK@16px", means over keypoints, without the NaN; "swap_rate"; "OKS_AP", "OKS_AR" and
            their kin, see `oks_scores`; counts "labelled" and "missed" (points), "instances" and "matched" (true
            animals), "predictions", "pictures".
            Tables: "per_keypoint" (column to list of K), "per_pair" ("pairs", "swapped", "comparable", "swap_rate"),
            "histogram" ("edges_px", "counts" of shape (K, bins)), and "size_sources" (how many areas came from where).
            What has nothing to count is NaN.

        Examples
        --------
        >>> result = PoseScores(2, flip_idx=[1, 0]).compute()
        >>> result["PCK@4px"], result["swap_rate"], result["OKS_AP"], result["per_keypoint"]["labelled"]
        (nan, nan, nan, [0, 0])
        """
        pictures = [self._pictures[name] for name in sorted(self._pictures)]
        truths, sources = _with_areas([[_read_truth(item) for item in picture["truth"]] for picture in pictures])
        predictions = [
            [PredictedPose(np.array(item["keypoints"], float), item["score"]) for item in picture["predictions"]]
            for picture in pictures
        ]
        matches = [picture["matches"] for picture in pictures]
        result = self._point_scores(truths, predictions, matches)
        result |= {f"OKS_{name}": value for name, value in oks_scores(truths, predictions, self.sigmas).items()}
        result |= {"pictures": len(pictures), "predictions": sum(map(len, predictions)), "size_sources": sources}
        return result

    def _point_scores(
        self,
        truths: Sequence[Sequence[TruthPose]],
        predictions: Sequence[Sequence[PredictedPose]],
        matches: Sequence[Sequence[int]],
    ) -> dict[str, Any]:
        """All that follows from animals and the predictions matched with them.

        Examples
        --------
        >>> truth = TruthPose(np.array([[0.0, 0, 2], [10, 0, 1]]), area=100.0)
        >>> result = PoseScores(2)._point_scores([[truth]], [[]], [[-1]])
        >>> result["labelled"], result["missed"], result["instances"], result["matched"]
        (2, 2, 1, 0)
        """
        truth, predicted, sizes = self._pair_up(truths, predictions, matches)
        counted = truth[..., 2] > 0
        errors = np.linalg.norm(truth[..., :2] - predicted, axis=-1)
        columns = [(errors[counted[:, k], k], sizes[counted[:, k]]) for k in range(self.num_keypoints)]
        rows = [_summarise(*column, self.more_px) for column in columns]
        together = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
        result = _summarise(together[0], together[1], self.more_px)
        result |= {f"mPCK@{limit}px": _mean_of_finite([row[f"PCK@{limit}px"] for row in rows]) for limit in PCK_PX}
        result |= self._swap_scores(truth[..., :2], predicted, counted)
        result["instances"] = int(counted.any(axis=1).sum())
        result["matched"] = int((counted & ~np.isnan(errors)).any(axis=1).sum())
        result["per_keypoint"] = {name: [row[name] for row in rows] for name in rows[0]}
        counts = [error_histogram(column) for column, _ in columns]
        return result | {"histogram": {"edges_px": list(HISTOGRAM_EDGES_PX), "counts": counts}}

    def _pair_up(
        self,
        truths: Sequence[Sequence[TruthPose]],
        predictions: Sequence[Sequence[PredictedPose]],
        matches: Sequence[Sequence[int]],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Line up the animals of all pictures with their predictions and sizes.

        Returns
        -------
        truth : ndarray, shape (N, K, 3)
            Animals to be found: no crowds, none without labelled points.
        predicted : ndarray, shape (N, K, 2)
            NaN where there is nothing.
        sizes : ndarray, shape (N,)
            In pixels: the square root of the area.

        Examples
        --------
        >>> pose, crowd = TruthPose(np.array([[3.0, 4, 2]]), area=25.0), TruthPose(np.ones((1, 3)), None, 9.0, True)
        >>> truths, predictions = [[crowd, pose], [pose]], [[PredictedPose(np.array([[3.0, 5, 0.5]]), 0.5)], []]
        >>> [array.tolist() for array in PoseScores(1)._pair_up(truths, predictions, [[-1, 0], [-1]])]
        [[[[3.0, 4.0, 2.0]], [[3.0, 4.0, 2.0]]], [[[3.0, 5.0]], [[nan, nan]]], [5.0, 5.0]]
        """
        nothing = np.full((self.num_keypoints, 3), np.nan)
        poses, found = [], []
        for of_picture, predicted, chosen in zip(truths, predictions, matches, strict=True):
            for pose, index in zip(of_picture, chosen, strict=True):
                if is_counted(pose):
                    poses.append(pose)
                    found.append(nothing if index < 0 else predicted[index].keypoints)
        sizes = fill_unknown(np.sqrt(np.array([pose.area for pose in poses], float)))  # None becomes NaN
        keypoints = [pose.keypoints for pose in poses]
        return stack_poses(keypoints, self.num_keypoints), stack_poses(found, self.num_keypoints)[..., :2], sizes

    def _swap_scores(self, truth: np.ndarray, predicted: np.ndarray, counted: np.ndarray) -> dict[str, Any]:
        """Swap rate of all pairs together and of each.

        `truth` and `predicted` have shape (N, K, 2), `counted` shape (N, K).

        Examples
        --------
        >>> truth = np.array([[[0.0, 0], [10, 0]]])
        >>> PoseScores(2, [1, 0])._swap_scores(truth, truth[:, ::-1], np.ones((1, 2), bool))
        {'swap_rate': 1.0, 'per_pair': {'pairs': [[0, 1]], 'swapped': [1], 'comparable': [1], 'swap_rate': [1.0]}}
        """
        swapped, comparable = count_swaps(truth, predicted, counted, self.pairs).T.tolist()
        rates = [_share(part, whole) for part, whole in zip(swapped, comparable, strict=True)]
        pairs = [list(pair) for pair in self.pairs]
        table = {"pairs": pairs, "swapped": swapped, "comparable": comparable, "swap_rate": rates}
        return {"swap_rate": _share(sum(swapped), sum(comparable)), "per_pair": table}


def _mean_of_finite(values: Sequence[float]) -> float:
    """Mean of what is not NaN; NaN when nothing is left.

    Examples
    --------
    >>> _mean_of_finite([0.5, math.nan, 1.0]), _mean_of_finite([math.nan])
    (0.75, nan)
    """
    finite = [value for value in values if not math.isnan(value)]
    return _share(math.fsum(finite), len(finite))
