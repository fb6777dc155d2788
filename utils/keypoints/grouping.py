"""From peaks to animals: every keypoint's peak points to the centre of its animal, and goes to the centre it hits.

The head gives, beside the maps of the keypoints, a map of centres and a field of offsets (`heatmaps.centre_targets`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from utils.keypoints.peaks import Peaks

# Columns of the table of votes.
_POINT, _SCORE, _VOTE, _KEYPOINT = slice(0, 2), 2, slice(3, 5), 5


def _collect_votes(peaks: Sequence[Peaks], offsets: Tensor) -> np.ndarray:
    """Table of all peaks and of the centres they point to.

    Parameters
    ----------
    peaks : sequence of Peaks
        One entry per keypoint.
    offsets : Tensor, shape (2 K, h, w)
        Vectors from the centres of cells to the centre of the animal, in cells.

    Returns
    -------
    ndarray of float64, shape (M, 6)
        x, y, score, x and y of the centre that is pointed to, keypoint.

    Examples
    --------
    >>> peaks = [Peaks(torch.tensor([[1.75, 0.25]]), torch.tensor([0.5]), torch.tensor([1.0]))]
    >>> _collect_votes(peaks, torch.tensor([[[0.0, 2.0]], [[0.0, -1.0]]])).tolist()
    [[1.75, 0.25, 0.5, 3.5, -0.5, 0.0]]
    """
    fields = offsets.detach().float().cpu().numpy()
    last = np.array([fields.shape[2] - 1, fields.shape[1] - 1])
    tables = [np.zeros((0, 6))]
    for keypoint, (points, scores, _) in enumerate(peaks):
        places = points.double().cpu().numpy()
        cells = np.clip(np.floor(places), 0, last).astype(int)
        # From the cell's centre, where the offset was taught, not from the point: half a cell may lie between.
        votes = cells + 0.5 + fields[2 * keypoint : 2 * keypoint + 2, cells[:, 1], cells[:, 0]].T
        rest = [scores.double().cpu().numpy()[:, None], votes, np.full((len(places), 1), keypoint)]
        tables.append(np.concatenate([places, *rest], axis=1))
    return np.concatenate(tables)


def _distances(votes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Distances (M, C) of votes from centres; infinite where a vote is not finite.

    Examples
    --------
    >>> votes = np.array([[0, 0, 1, 3.0, 4.0, 0], [0, 0, 1, np.nan, 0.0, 0]])
    >>> _distances(votes, np.zeros((1, 2))).tolist()
    [[5.0], [inf]]
    """
    distances = np.linalg.norm(votes[:, None, _VOTE] - centres[None], axis=2)
    return np.where(np.isfinite(distances), distances, np.inf)


def _assign(votes: np.ndarray, distances: np.ndarray, trust: np.ndarray, reach: float) -> np.ndarray:
    """Give each centre at most one peak of each keypoint, so that scores of both times nearness are largest in all.

    Without the scores of centres a weak one, such as noise beside a strong one, would take the points nearest to it.

    Parameters
    ----------
    votes : ndarray, shape (M, 6)
        As `_collect_votes` gives them.
    distances : ndarray, shape (M, C)
        Of votes from centres.
    trust : ndarray, shape (C,)
        Scores of the centres.
    reach : float
        Nearness falls from 1 to 0 at this distance.

    Returns
    -------
    ndarray of int64, shape (M,)
        Centre of each peak, or -1.

    Examples
    --------
    >>> votes = np.array([[0, 0, 0.9, 0, 0, 0], [0, 0, 0.8, 0, 0, 0], [0, 0, 0.5, 0, 0, 1.0]])
    >>> _assign(votes, np.array([[1.0, 9.0], [0.0, 4.0], [6.0, 5.0]]), np.ones(2), reach=5.0).tolist()
    [0, 1, -1]
    >>> _assign(votes[2:], np.array([[2.0, 1.0]]), np.array([0.9, 0.1]), reach=5.0).tolist()
    [0]
    """
    gains = np.nan_to_num(votes[:, [_SCORE]]) * trust * np.maximum(1 - distances / reach, 0)
    owners = np.full(len(votes), -1)
    for keypoint in np.unique(votes[:, _KEYPOINT]):
        rows = np.flatnonzero(votes[:, _KEYPOINT] == keypoint)
        chosen, centres = linear_sum_assignment(gains[rows], maximize=True)
        reached = gains[rows[chosen], centres] > 0
        owners[rows[chosen[reached]]] = centres[reached]
    return owners


def _nearest_of_each(votes: np.ndarray, centre: np.ndarray, reach: float) -> np.ndarray:
    """Rows of the votes within reach of a centre, the nearest one of each keypoint.

    `votes` has shape (M, 6), `centre` shape (2,).

    Examples
    --------
    >>> votes = np.array([[0, 0, 1, 2.0, 0, 0], [0, 0, 1, 1.0, 0, 0], [0, 0, 1, 9.0, 0, 1]])
    >>> _nearest_of_each(votes, np.zeros(2), reach=5.0).tolist()
    [1]
    """
    distances = _distances(votes, centre[None])[:, 0]
    rows = np.flatnonzero(distances <= reach)
    rows = rows[np.argsort(distances[rows], kind="stable")]
    return rows[np.unique(votes[rows, _KEYPOINT], return_index=True)[1]]


def _find_unseen(votes: np.ndarray, num_keypoints: int, reach: float) -> list[np.ndarray]:
    """Find animals whose centre was missed: at least half of the keypoints point to the same place.

    Parameters
    ----------
    votes : ndarray, shape (M, 6)
        Votes with no centre within reach.
    num_keypoints : int
        K; half of them, rounded up and at least 2 (1 if there is but 1), must agree.
    reach : float
        Votes this near to the strongest one agree with it.

    Returns
    -------
    list of ndarray, shape (M_i, 6)
        The votes of each animal, one per keypoint at most.

    Examples
    --------
    >>> votes = np.array([[0, 0, 0.9, 9.0, 9, 0], [1, 0, 0.8, 2.0, 0, 0], [2, 0, 0.7, 2.5, 0, 2]])
    >>> [animal[:, 0].tolist() for animal in _find_unseen(votes, num_keypoints=4, reach=1.0)]
    [[1.0, 2.0]]
    """
    needed, animals = min(num_keypoints, max(2, (num_keypoints + 1) // 2)), []
    votes = votes[np.argsort(-votes[:, _SCORE], kind="stable")]
    while len(votes) >= needed:
        rows = _nearest_of_each(votes, votes[0, _VOTE], reach)
        taken = np.arange(len(votes)) == 0
        if len(rows) >= needed:
            animals.append(votes[rows])
            taken = _distances(votes, votes[rows][:, _VOTE].mean(axis=0)[None])[:, 0] <= reach
            taken[rows] = True
        taken[0] = True
        votes = votes[~taken]
    return animals


def group_peaks(
    peaks: Sequence[Peaks],
    centres: Peaks,
    offsets: Tensor,
    *,
    most_instances: int,
    max_distance_cells: float,
) -> tuple[Tensor, Tensor]:
    """Group the peaks of one image into animals.

    Each keypoint's peaks are assigned to centres one to one, so that the sum of both scores times nearness of (peak +
    offset) to the centre is largest; nearness falls to 0 at `max_distance_cells`. What is left over near a centre is
    dropped. What is left over with no centre within reach makes up an animal of its own only where at least half of all
    keypoints, and two at least, point to the same place: so a missed centre loses no animal, and a stray peak makes
    none.

    Parameters
    ----------
    peaks : sequence of Peaks, leading dimension (M_k,)
        For each of K keypoints, as `all_peaks` gives them.
    centres : Peaks, leading dimension (C,)
        Peaks of the map of centres.
    offsets : Tensor, shape (2 K, h, w)
        The head's vectors to the centre, in cells; channels as in `heatmaps.CentreTargets`.
    most_instances : int
        The animals with the best scores are kept.
    max_distance_cells : float
        Reach of a centre, in cells.

    Returns
    -------
    Tensor of float32, shape (N, K, 3)
        x and y in cells and score of each keypoint, by falling score of the animal; NaN, NaN, 0 for one not found.
    Tensor of float32, shape (N,)
        Scores of the animals: the mean of the keypoints' scores, 0 for those not found, times the score of the centre,
        or for an animal without one times the share of keypoints found.

    Raises
    ------
    ValueError
        If the offsets do not fit the number of keypoints.

    References
    ----------
    Papandreou et al., 2018 (arXiv:1803.08225), section 3.2, for the vectors; the assignment is our own.

    Examples
    --------
    >>> one, two = torch.tensor([1.0]), torch.tensor([1.0, 1.0])
    >>> noses = Peaks(torch.tensor([[0.5, 0.5], [5.5, 0.5]]), torch.tensor([0.5, 1.0]), two)
    >>> tails = Peaks(torch.tensor([[3.5, 0.5]]), one, one)
    >>> centres = Peaks(torch.tensor([[1.0, 0.5], [4.5, 0.5]]), two, two)
    >>> offsets = torch.zeros(4, 1, 6)
    >>> offsets[0, 0, 0], offsets[0, 0, 5], offsets[2, 0, 3] = 0.5, -1.0, 1.0
    >>> group_peaks([noses, tails], centres, offsets, most_instances=5, max_distance_cells=2)
    (tensor([[[5.5000, 0.5000, 1.0000],
             [3.5000, 0.5000, 1.0000]],
    <BLANKLINE>
            [[0.5000, 0.5000, 0.5000],
             [   nan,    nan, 0.0000]]]), tensor([1.0000, 0.2500]))
    """
    num_keypoints = len(peaks)
    if offsets.ndim != 3 or len(offsets) != 2 * num_keypoints:
        raise ValueError(f"offsets must have shape (2 * {num_keypoints}, h, w), got {tuple(offsets.shape)}")
    votes = _collect_votes(peaks, offsets)
    distances = _distances(votes, centres.points.double().cpu().numpy())
    owners = _assign(votes, distances, centres.scores.double().cpu().numpy(), max_distance_cells)
    lonely = (owners < 0) & (distances > max_distance_cells).all(axis=1)
    animals = [votes[owners == centre] for centre in range(distances.shape[1])]
    unseen = _find_unseen(votes[lonely], num_keypoints, max_distance_cells)
    trust = [*centres.scores.double().tolist(), *(len(animal) / num_keypoints for animal in unseen)]
    instances = np.full((len(trust), num_keypoints, 3), (np.nan, np.nan, 0.0))
    for instance, animal in zip(instances, [*animals, *unseen], strict=True):
        instance[animal[:, _KEYPOINT].astype(int)] = animal[:, :3]
    scores = instances[..., 2].mean(axis=1) * np.array(trust)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > 0][:most_instances]  # a centre without any keypoint is no animal
    return torch.from_numpy(instances[order]).float(), torch.from_numpy(scores[order]).float()
