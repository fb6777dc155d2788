"""Rows of YOLO labels: numbers to instances."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from utils.formats.types import Instance, Skeleton, keypoints_array
from utils.formats.values import read_number

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"  # fits digits in one way only, as a row repeats it
BOX_VALUES = 5  # of a row: a class, and a box
TOLERANCE = 0.01  # how far beyond the picture, as a share of its side, a value may lie: rounding, not another unit


@dataclass(frozen=True)
class RowReader:
    """What it takes to read one row.

    Parameters
    ----------
    skeletons : dict of str to Skeleton
        By category, in the order of the class numbers.
    num_keypoints, num_values : int
        `kpt_shape`; without keypoints a row is a box or an outline.
    outlines : bool
        Whether a row without keypoints may be an outline.
    numbers : tuple of int
        The class numbers of the skeletons; from 0 on where there are none.

    Examples
    --------
    >>> reader = RowReader({"mouse": Skeleton(("nose",))}, 1, 3)
    >>> reader.read("0 .5 .5 .5 .25 .25 .5 1", (100, 200)).keypoints.tolist()
    [[50.0, 50.0, 1.0]]
    >>> RowReader({"car": Skeleton(())}).read("0 0 0 .5 0 .5 .25", (100, 200)).polygons[0].tolist()
    [[0.0, 0.0], [100.0, 0.0], [100.0, 25.0]]
    """

    skeletons: Mapping[str, Skeleton]
    num_keypoints: int = 0
    num_values: int = 2
    outlines: bool = True
    numbers: tuple[int, ...] = ()

    @cached_property
    def categories(self) -> dict[int, str]:
        """The categories by their class numbers.

        Examples
        --------
        >>> RowReader({"car": Skeleton(()), "bus": Skeleton(())}, numbers=(3, 6)).categories
        {3: 'car', 6: 'bus'}
        """
        return dict(zip(self.numbers or range(len(self.skeletons)), self.skeletons, strict=True))

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
        category, scale = self.categories[int(values[0])], np.array(size[::-1], np.float64)
        if not self.num_keypoints and len(values) > 5:
            _check_shares("an outline", values[1:])
            return Instance(category, polygons=(values[1:].reshape(-1, 2) * scale,))
        points, seen = self._keypoints(values[5:].reshape(self.num_keypoints, self.num_values))
        if min(values[3:5]) <= 0:
            raise ValueError(f"expected a box with a width and a height, got {values[3]:g} x {values[4]:g}")
        _check_shares("the box", values[1:5])
        _check_shares("keypoints", points[seen > 0])
        centre, extent = values[1:3] * scale, values[3:5] * scale
        box = np.concatenate([centre - extent / 2, centre + extent / 2])
        return Instance(category, keypoints_array(points * scale, seen), box)

    def read_plain(self, rows: Sequence[str], size: tuple[int, int]) -> list[Instance | None]:
        """Read at once all rows that `read` would take as a box, or as a box with keypoints.

        Parameters
        ----------
        rows : sequence of str
            Lines of a label file.
        size : (int, int)
            Height and width of the picture.

        Returns
        -------
        list of Instance or None
            None for a row that is an outline or that something is wrong with: `read` says what.

        Examples
        --------
        >>> reader = RowReader({"car": Skeleton(())})
        >>> rows = ["0 .5 .5 .5 .25", "0 0 0 .5 0 .5 .25", "1 .5 .5 .5 .25"]
        >>> plain, outline, wrong = reader.read_plain(rows, (100, 200))
        >>> plain.box_xyxy.tolist(), outline, wrong
        ([50.0, 37.5, 150.0, 62.5], None, None)
        """
        count = 5 + self.num_keypoints * self.num_values
        matches = re.compile(rf"(?:{_NUMBER}\s+){{{count - 1}}}{_NUMBER}", re.ASCII).fullmatch
        places = [place for place, row in enumerate(rows) if matches(row)]
        found: list[Instance | None] = [None] * len(rows)
        values = np.fromstring(" ".join([rows[place] for place in places]), sep=" ").reshape(len(places), count)
        scale = np.array(size[::-1], np.float64)
        right = np.asarray(np.isfinite(values).all(axis=1))  # 1e400 is infinity, not to be computed with
        values = np.where(right[:, None], values, 0)
        points, seen, right_points = self._plain_keypoints(values[:, 5:])
        right &= right_points & (values[:, 3:5] > 0).all(axis=1)
        right &= ((values[:, 1:5] >= -TOLERANCE) & (values[:, 1:5] <= 1 + TOLERANCE)).all(axis=1)
        right &= np.isin(values[:, 0], list(self.categories))
        centres, halves = values[:, 1:3] * scale, values[:, 3:5] * scale / 2
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        poses = np.concatenate([np.where(seen[..., None] > 0, points * scale, np.nan), seen[..., None]], axis=2)
        for index in np.flatnonzero(right).tolist():
            found[places[index]] = Instance(self.categories[int(values[index, 0])], poses[index], boxes[index])
        return found

    def _plain_keypoints(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (N, K, 2) and visibility (N, K) of rows (N, K * V), and of which rows (N,) both are right.

        Examples
        --------
        >>> reader = RowReader({"mouse": Skeleton(("nose",))}, 1, 3)
        >>> reader._plain_keypoints(np.array([[0.5, 0.5, 2], [0.5, 48, 2], [0.5, 0.5, 3]]))[2].tolist()
        [True, False, False]
        """
        values = values.reshape(len(values), self.num_keypoints, self.num_values)
        points = values[..., :2]
        seen: np.ndarray = (
            np.where((points == 0).all(axis=2), 0.0, 2.0) if self.num_values == 2 else np.round(values[..., 2])
        )
        inside = ((points >= -TOLERANCE) & (points <= 1 + TOLERANCE)).all(axis=2)
        right = np.all((seen >= 0) & (seen <= 2) & (inside | (seen <= 0)), axis=1)
        return points, seen, right

    def _parse(self, row: str) -> np.ndarray:
        """The numbers of a row, shape (N,): as many as there should be, with a class that exists.

        Raises
        ------
        ValueError
            If their number, one of them or the class is wrong.

        Examples
        --------
        >>> RowReader({"mouse": Skeleton(("nose",))}, 1, 2)._parse("3 .5 .5 .5 .25 .25 .5")
        Traceback (most recent call last):
            ...
        ValueError: class 3 is unknown; there are classes 0 to 0
        """
        words = row.split()
        expected = 5 + self.num_keypoints * self.num_values
        is_outline = not self.num_keypoints and self.outlines and len(words) >= 7 and len(words) % 2 == 1
        if len(words) != expected and not is_outline:
            rest = f"{self.num_keypoints} keypoints of {self.num_values}" if self.num_keypoints else "or an outline"
            rest = rest if self.num_keypoints or self.outlines else "as most rows of this set"
            outline_and_one = not self.num_keypoints and len(words) > 6 and len(words) % 2 == 0
            with_score = len(words) == expected + 1 or outline_and_one
            hint = ", as a prediction with its confidence or an object with its track has" if with_score else ""
            raise ValueError(f"expected {expected} values (class, box of 4, {rest}), got {len(words)}{hint}")
        try:
            values = np.array([read_number(word) for word in words])
        except ValueError:
            raise ValueError(f"expected numbers, got {row.strip()[:60]!r}") from None
        if not np.isfinite(values).all():
            raise ValueError("expected finite numbers, got NaN or infinity")
        if values[0] != int(values[0]) or int(values[0]) not in self.categories:
            known, last = len(self.categories), max(self.categories, default=-1)
            gaps = f", of which names has {known}" if known <= last else ""
            raise ValueError(
                f"class {words[0]} is unknown; there are classes {min(self.categories, default=0)} to {last}{gaps}"
            )
        return values

    def _keypoints(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (K, 2) and their visibility (K,), rounded; without one a point at (0, 0) is missing.

        Raises
        ------
        ValueError
            If a visibility is not 0, 1 or 2.

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


def _check_shares(name: str, values: np.ndarray) -> None:
    """Refuse values that cannot be shares of a picture.

    Parameters
    ----------
    name : str
        What the values are.
    values : ndarray, any shape
        Shares of the width and the height.

    Raises
    ------
    ValueError
        If one lies outside of 0 to 1 by more than `TOLERANCE`.

    Examples
    --------
    >>> _check_shares("keypoints", np.array([[0.5, 48.0]]))
    Traceback (most recent call last):
        ...
    ValueError: expected keypoints as shares of the picture, 0 to 1, got 48
    """
    wrong = values[(values < -TOLERANCE) | (values > 1 + TOLERANCE)]
    if len(wrong):
        raise ValueError(f"expected {name} as shares of the picture, 0 to 1, got {wrong[0]:g}")
