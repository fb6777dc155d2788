"""What needs no training in keypoints: the mean pose of the other pictures, and the place with a keypoint's colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from typing_extensions import override

from tasks.baselines import ColourBaseline
from tasks.item import Piece
from tasks.keypoints.items import PoseItem
from tasks.sample import Sample
from utils.geometry.crops import box_of_points, points_back
from utils.keypoints.matching import PredictedPose, TruthPose, is_counted

CELL = 8  # pixels of a sample per side of the cells whose mean colours are compared
NOISE = 25.0  # variance that is added to every band, in squared 8-bit steps


class KeypointColours(ColourBaseline):
    """Mean and covariance of the colour at each keypoint, and of all cells; the most telling cell is predicted.

    Parameters
    ----------
    per_instance : bool
        Whether a sample is the crop of one animal.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> source, colours = pose_task().source, KeypointColours(per_instance=False)
    >>> samples = list(source.samples(source.items("val")[0]))
    >>> fitted = colours.fit(samples)
    >>> len(fitted["means"]), len(fitted["background"]["mean"])
    (7, 3)
    >>> [(piece.arrays["keypoints"].shape, len(truth)) for piece, truth in colours.predict(fitted, samples[0])]
    [((1, 7, 3), 2)]
    """

    def __init__(self, per_instance: bool):
        self.per_instance = per_instance

    @override
    def fit(self, samples: Iterable[Sample]) -> dict[str, Any] | None:
        at_points: list[list[np.ndarray]] = []
        everywhere: list[np.ndarray] = []
        for sample in samples:
            cells = _cells(sample)
            everywhere.append(cells.reshape(-1, 3)[::7])
            keypoints = np.asarray(sample.arrays["keypoints"])
            at_points = at_points or [[] for _ in range(keypoints.shape[1])]
            for animal in keypoints:
                for index in np.flatnonzero(animal[:, 2] > 0):
                    row, column = _cell_of(animal[index], cells.shape)
                    at_points[index].append(cells[row, column])
        if not any(at_points):
            return None
        background = _gaussian(np.concatenate(everywhere))
        fitted = [_gaussian(np.array(found)) if found else background for found in at_points]
        parts = {f"{name}s": [gaussian[name] for gaussian in fitted] for name in ("mean", "covariance")}
        return {**parts, "background": background}

    @override
    def predict(self, fitted: Mapping[str, Any], sample: Sample) -> Iterator[tuple[Piece, Any]]:
        assert isinstance(sample.item, PoseItem)
        cells = _cells(sample)
        ordinary = _likelihood(cells, fitted["background"]["mean"], fitted["background"]["covariance"])
        points = []
        for mean, covariance in zip(fitted["means"], fitted["covariances"], strict=True):
            telling = _likelihood(cells, mean, covariance) - ordinary
            row, column = divmod(int(telling.argmax()), cells.shape[1])
            points.append([(column + 0.5) * CELL, (row + 0.5) * CELL, 1.0])
        back = points_back(np.array(points), np.asarray(sample.arrays["matrix"], float))
        frame, index = np.asarray(sample.arrays["place"]).tolist()
        animals = sample.item.picture.instances
        truth = animals[index : index + 1] if self.per_instance else animals
        found = {"frame": frame, "keypoints": back[None], "scores": np.ones(1)}
        yield Piece(replace(sample.item, id=sample.id), found), truth  # an id of its own, as crops share a picture


def _cells(sample: Sample) -> np.ndarray:
    """Mean colours of the cells of a sample's picture, (rows, columns, 3).

    Examples
    --------
    >>> from tasks.item import Item
    >>> _cells(Sample("a", Item("a", ()), {"image": np.zeros((16, 32, 3), np.uint8)})).shape
    (2, 4, 3)
    """
    image = np.asarray(sample.arrays["image"])[..., :3]
    rows, columns = (max(side // CELL, 1) for side in image.shape[:2])
    whole = np.ascontiguousarray(image[: rows * CELL, : columns * CELL])
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float64)


def _cell_of(point: np.ndarray, shape: Sequence[int]) -> tuple[int, int]:
    """Row and column of the cell that holds a point (x, y, visibility).

    Examples
    --------
    >>> _cell_of(np.array([17.0, 3.0, 2.0]), (2, 4, 3)), _cell_of(np.array([99.0, 3.0, 2.0]), (2, 4, 3))
    ((0, 2), (0, 3))
    """
    return min(max(int(point[1] // CELL), 0), shape[0] - 1), min(max(int(point[0] // CELL), 0), shape[1] - 1)


def _gaussian(colours: np.ndarray) -> dict[str, Any]:
    """Mean and covariance of colours (N, 3), as JSON.

    Examples
    --------
    >>> _gaussian(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 3.0]]))["covariance"][0]
    [26.0, 0.0, 0.0]
    """
    covariance = np.cov(colours.T, bias=True) + NOISE * np.eye(colours.shape[1])
    return {"mean": colours.mean(axis=0).tolist(), "covariance": covariance.tolist()}


def _likelihood(cells: np.ndarray, mean: Sequence[float], covariance: Sequence[Sequence[float]]) -> np.ndarray:
    """Logarithm of the likelihood of each cell (rows, columns, 3), up to a constant.

    Examples
    --------
    >>> _likelihood(np.zeros((1, 2, 3)), [0.0, 0.0, 2.0], np.eye(3).tolist()).tolist()
    [[-2.0, -2.0]]
    """
    away = cells - np.asarray(mean)
    distance = np.einsum("rkc,cd,rkd->rk", away, np.linalg.inv(covariance), away)
    return -0.5 * (distance + np.linalg.slogdet(covariance)[1])


def constant_poses(
    pictures: Mapping[str, Sequence[TruthPose]], per_instance: bool
) -> dict[str, list[PredictedPose]] | None:
    """The pose that is the mean of all other pictures: one per picture, or one in the box of each animal.

    Parameters
    ----------
    pictures : mapping of str to sequence of TruthPose
        True animals of each picture.
    per_instance : bool
        Whether boxes of animals are given to the model, so that only the place in the box is to be found.

    Returns
    -------
    dict of str to list of PredictedPose, or None
        NaN for keypoints that no other picture has; None for fewer than two pictures with animals.

    Examples
    --------
    >>> poses = {name: [TruthPose(np.array([[x, 8.0, 2.0]]))] for name, x in (("a", 1.0), ("b", 3.0), ("c", 9.0))}
    >>> constant_poses(poses, per_instance=False)["a"][0].keypoints.tolist()
    [[6.0, 8.0, 1.0]]
    """
    counted = {name: [pose for pose in poses if is_counted(pose)] for name, poses in pictures.items()}
    filled = [name for name, poses in counted.items() if poses]
    if len(filled) < 2:
        return None
    sums = {name: np.sum([_as_sums(pose, per_instance) for pose in counted[name]], axis=0) for name in filled}
    total = np.sum(list(sums.values()), axis=0)
    predicted: dict[str, list[PredictedPose]] = {}
    for name, poses in counted.items():
        others = total - sums.get(name, 0.0)
        with np.errstate(invalid="ignore"):
            mean = others[:, :2] / others[:, 2:]
        places = [_frame(pose) for pose in poses] if per_instance else [np.array([0.0, 0.0, 1.0, 1.0])]
        whole = [np.column_stack([mean * place[2:] + place[:2], np.ones(len(mean))]) for place in places]
        predicted[name] = [PredictedPose(pose, 1.0) for pose in whole]
    return predicted


def _as_sums(pose: TruthPose, per_instance: bool) -> np.ndarray:
    """Place of each labelled point, and 1 to count it, (K, 3); zeros for others.

    Examples
    --------
    >>> pose = TruthPose(np.array([[4.0, 6.0, 2.0], [0.0, 0.0, 0.0]]), np.array([2.0, 2.0, 10.0, 10.0]))
    >>> _as_sums(pose, per_instance=True).tolist()
    [[0.25, 0.5, 1.0], [0.0, 0.0, 0.0]]
    """
    seen = pose.keypoints[:, 2] > 0
    frame = _frame(pose) if per_instance else np.array([0.0, 0.0, 1.0, 1.0])
    sums = np.zeros((len(seen), 3))
    sums[seen, :2] = (pose.keypoints[seen, :2] - frame[:2]) / frame[2:]
    sums[seen, 2] = 1.0
    return sums


def _frame(pose: TruthPose) -> np.ndarray:
    """Left, top, width and height of an animal's box, or of the box around its points.

    Examples
    --------
    >>> _frame(TruthPose(np.array([[4.0, 6.0, 2.0]]), np.array([2.0, 2.0, 10.0, 10.0]))).tolist()
    [2.0, 2.0, 8.0, 8.0]
    """
    box = pose.box_xyxy if pose.box_xyxy is not None else box_of_points(pose.keypoints)
    assert box is not None  # a counted animal has a point
    left, top, right, bottom = np.asarray(box, float)
    return np.array([left, top, max(right - left, 1.0), max(bottom - top, 1.0)])
