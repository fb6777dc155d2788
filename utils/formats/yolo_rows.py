"""Rows of YOLO pose labels: numbers to instances and back, and what a row cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from utils.formats.poses import Instance, PoseSet, Skeleton, keypoints_array, tight_box

TOLERANCE = 0.01  # how far beyond the picture, as a share of its side, a value may lie: rounding, not another unit


@dataclass(frozen=True)
class RowReader:
    """What it takes to read one row.

    Parameters
    ----------
    skeletons : dict of str to Skeleton
        By category, in the order of the class numbers.
    num_keypoints, num_values : int
        `kpt_shape`.

    Examples
    --------
    >>> reader = RowReader({"mouse": Skeleton(("nose",))}, 1, 3)
    >>> reader.read("0 .5 .5 .5 .25 .25 .5 1", (100, 200)).keypoints.tolist()
    [[50.0, 50.0, 1.0]]
    """

    skeletons: Mapping[str, Skeleton]
    num_keypoints: int
    num_values: int

    def read(self, row: str, size: tuple[int, int]) -> Instance:
        """Read one row.

        Parameters
        ----------
        row : str
            Line of a label file.
        size : (int, int)
            Height and width of the picture.

        Raises
        ------
        ValueError
            What is wrong with the row.

        Examples
        --------
        >>> RowReader({"mouse": Skeleton(("nose",))}, 1, 2).read("0 .5 .5 .5 .25 .25", (100, 200))
        Traceback (most recent call last):
            ...
        ValueError: expected 7 values (class, box of 4, 1 keypoints of 2), got 6
        """
        values = self._parse(row)
        height, width = size
        scale = np.array([width, height], np.float64)
        points, seen = self._keypoints(values[5:].reshape(self.num_keypoints, self.num_values))
        self._check_range(values[1:5], points[seen > 0])
        centre, extent = values[1:3] * scale, values[3:5] * scale
        box = np.concatenate([centre - extent / 2, centre + extent / 2])
        return Instance(list(self.skeletons)[int(values[0])], keypoints_array(points * scale, seen), box)

    def _parse(self, row: str) -> np.ndarray:
        """The numbers of a row, as many as there should be, with a class that exists.

        Examples
        --------
        >>> RowReader({"mouse": Skeleton(("nose",))}, 1, 2)._parse("3 .5 .5 .5 .25 .25 .5")
        Traceback (most recent call last):
            ...
        ValueError: class 3 is unknown; there are classes 0 to 0
        """
        words = row.split()
        expected = 5 + self.num_keypoints * self.num_values
        if len(words) != expected:
            shape = f"class, box of 4, {self.num_keypoints} keypoints of {self.num_values}"
            raise ValueError(f"expected {expected} values ({shape}), got {len(words)}")
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            raise ValueError(f"expected numbers, got {row.strip()[:60]!r}") from None
        if not np.isfinite(values).all():
            raise ValueError("expected finite numbers, got NaN or infinity")
        if values[0] != int(values[0]) or not 0 <= values[0] < len(self.skeletons):
            raise ValueError(f"class {words[0]} is unknown; there are classes 0 to {len(self.skeletons) - 1}")
        return values

    def _keypoints(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and their visibility, rounded; without one a point at (0, 0) is missing.

        Examples
        --------
        >>> reader = RowReader({"mouse": Skeleton(("nose", "tail"))}, 2, 2)
        >>> reader._keypoints(np.array([[0.25, 0.5], [0, 0]]))[1].tolist()
        [2.0, 0.0]
        """
        if self.num_values == 2:
            return values, np.where((values == 0).all(axis=1), 0.0, 2.0)
        seen = np.round(values[:, 2])
        if ((seen < 0) | (seen > 2)).any():
            raise ValueError(f"expected visibility 0, 1 or 2, got {values[:, 2].tolist()}")
        return values[:, :2], seen

    def _check_range(self, box: np.ndarray, points: np.ndarray) -> None:
        """Refuse values that cannot be shares of a picture.

        Examples
        --------
        >>> RowReader({}, 1, 2)._check_range(np.array([0.5, 0.5, 0.2, 0.2]), np.array([[0.5, 48.0]]))
        Traceback (most recent call last):
            ...
        ValueError: expected keypoints as shares of the picture, 0 to 1, got 48
        """
        for name, values in (("the box", box), ("keypoints", points.ravel())):
            wrong = values[(values < -TOLERANCE) | (values > 1 + TOLERANCE)]
            if len(wrong):
                raise ValueError(f"expected {name} as shares of the picture, 0 to 1, got {wrong[0]:g}")
        if (box[2:] <= 0).any():
            raise ValueError(f"expected a box with a width and a height, got {box[2]:g} x {box[3]:g}")


def format_row(instance: Instance, categories: list[str], size: tuple[int, int]) -> str:
    """Write one row; empty for an instance with neither box nor keypoint.

    Examples
    --------
    >>> mouse = Instance("mouse", keypoints_array([[50, 50], [0, 0]], [1, 0]), np.array([50.0, 37.5, 150, 62.5]))
    >>> format_row(mouse, ["mouse"], (100, 200))
    '0 0.5 0.5 0.5 0.25 0.25 0.5 1 0 0 0'
    """
    box = _written_box(instance, size)
    if box is None:
        return ""
    scale = np.array([size[1], size[0]], np.float64)
    shares = np.concatenate([(box[:2] + box[2:]) / 2 / scale, (box[2:] - box[:2]) / scale])
    points = np.where(_is_held(instance, size)[:, None], instance.keypoints[:, :2] / scale, 0)
    seen = np.where(_is_held(instance, size), instance.keypoints[:, 2], 0)
    rows = [f"{x:.15g} {y:.15g} {v:.0f}" for (x, y), v in zip(points, seen, strict=True)]
    return " ".join([str(categories.index(instance.category)), *(f"{share:.15g}" for share in shares), *rows])


def _written_box(instance: Instance, size: tuple[int, int]) -> np.ndarray | None:
    """The box of a row: as stated where it can be written, else within the picture and at least a pixel wide and high.

    Examples
    --------
    >>> _written_box(Instance("mouse", keypoints_array([[50, 20]], [2])), (100, 200)).tolist()
    [49.5, 19.5, 50.5, 20.5]
    """
    if _holds_box(instance, size):
        return instance.box_xyxy
    box = instance.box_xyxy if instance.box_xyxy is not None else tight_box(instance.keypoints)
    if box is None:
        return None
    limits = np.array([size[1], size[0]], np.float64)
    centre, extent = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 1)
    low, high = np.clip(centre - extent / 2, 0, limits - 1), np.clip(centre + extent / 2, 1, limits)
    return np.concatenate([low, high])


def _holds_box(instance: Instance, size: tuple[int, int]) -> bool:
    """Whether an instance has a box that reading would take back.

    Examples
    --------
    >>> flat = Instance("mouse", keypoints_array([[5, 2]], [2]), np.array([5.0, 2, 5, 9]))
    >>> _holds_box(flat, (100, 200))
    False
    """
    box = instance.box_xyxy
    if box is None:
        return False
    scale = np.array([size[1], size[0]], np.float64)
    shares = np.concatenate([(box[:2] + box[2:]) / 2 / scale, (box[2:] - box[:2]) / scale])
    return bool((shares[2:] > 0).all() and ((shares >= -TOLERANCE) & (shares <= 1 + TOLERANCE)).all())


def _is_held(instance: Instance, size: tuple[int, int]) -> np.ndarray:
    """Which keypoints are there and near enough to the picture to be written.

    Examples
    --------
    >>> mouse = Instance("mouse", keypoints_array([[50, 50], [250, 50], [0, 0]], [1, 1, 0]))
    >>> _is_held(mouse, (100, 200)).tolist()
    [True, False, False]
    """
    shares = np.nan_to_num(instance.keypoints[:, :2], nan=-np.inf) / np.array([size[1], size[0]], np.float64)
    return ((shares >= -TOLERANCE) & (shares <= 1 + TOLERANCE)).all(axis=1)


def count_beyond(poses: PoseSet) -> list[str]:
    """List boxes and keypoints that cannot be written as shares of a picture.

    Examples
    --------
    >>> from pathlib import Path
    >>> from utils.formats.poses import PosePicture
    >>> mouse = Instance("mouse", keypoints_array([[9, 2]], [2]), np.array([0.0, 0, 9, 3]))
    >>> count_beyond(PoseSet([PosePicture("a", Path("a.png"), (4, 6), (mouse,))], {}))
    ['boxes beyond the picture or flat (cut to it): 1', 'keypoints beyond the picture (written as missing): 1']
    """
    placed = [(i, p.size) for p in poses.pictures if p.size is not None for i in p.instances]
    without = sum(i.box_xyxy is None and tight_box(i.keypoints) is not None for i, _ in placed)
    boxes = sum(i.box_xyxy is not None and not _holds_box(i, size) for i, size in placed)
    points = sum(int(((i.keypoints[:, 2] > 0) & ~_is_held(i, size)).sum()) for i, size in placed)
    counts = {
        "no box (the tight box of the keypoints is written)": without,
        "boxes beyond the picture or flat (cut to it)": boxes,
        "keypoints beyond the picture (written as missing)": points,
    }
    return [f"{name}: {count}" for name, count in counts.items() if count]
